"""The small models of Bio-xLSTM's reproduction: their data, their training, and n-grams.

Every run is a function of a seed, so that runs can go to processes of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rankone.nn.bio import mask_tokens
from rankone.nn.training import TrainingConfig, train
from rankone.nn.xlstm import XLSTMLM

if TYPE_CHECKING:
    from rankone.reproduce.bio_xlstm import Scale

PAD, EDGE, FIRST = 0, 1, 2  # of a character model: padding, start and end, first character
IGNORED = -100

XLSTM = "xLSTM"
LSTM = "LSTM"
BIDIRECTIONAL = "bidirectional"
CAUSAL = "causal"

NGRAMS = (3, 4, 5)
MARKOV_ORDERS = (2, 5)

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Training:
    """How one model learns.

    Attributes:
        steps, batch_size: optimiser steps and rows a step.
        learning_rate: peak.
        warmup: steps of linear increase.
    """

    steps: int
    batch_size: int
    learning_rate: float = 3e-3
    warmup: int = 20


@dataclass(frozen=True)
class Families:
    """Synthetic families: members are copies of a random ancestor with sites drawn again.

    Attributes:
        alphabet: letters, drawn uniformly.
        length: sites of a member.
        members: of a family, each behind a separator.
        rate: probability that a site is drawn again.
        test_families: families that are scored.
    """

    alphabet: int = 8
    length: int = 12
    members: int = 8
    rate: float = 0.1
    test_families: int = 512

    @property
    def floor(self) -> float:
        """Nats a site of a member whose ancestor is known."""
        kept = 1 - self.rate + self.rate / self.alphabet
        other = self.rate / self.alphabet
        return -kept * math.log(kept) - (self.alphabet - 1) * other * math.log(other)


class Scored(NamedTuple):
    """Loss of a batch, and nats of every place, 0 where nothing is predicted."""

    loss: Tensor
    nats: Tensor


class Predictor(nn.Module):
    """A model that is scored where labels are, place by place."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, labels: Tensor, attention_mask: Tensor | None = None, **more: Any
    ) -> Scored:
        logits = self.model(input_ids, attention_mask=attention_mask, **more).logits
        nats = F.cross_entropy(
            logits.transpose(1, 2).float(), labels, ignore_index=IGNORED, reduction="none"
        )
        return Scored(nats.sum() / (labels != IGNORED).sum().clamp(min=1), nats)


class _Logits(NamedTuple):
    logits: Tensor


class TwoLayerLSTM(nn.Module):
    """torch's LSTM between an embedding and a linear head."""

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.lstm = nn.LSTM(width, width, num_layers=2, batch_first=True)
        self.head = nn.Linear(width, vocab_size)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> _Logits:
        # Padding stands on the right, where nothing is read from it.
        return _Logits(self.head(self.lstm(self.embedding(input_ids))[0]))


def fit(
    model: nn.Module,
    batches: Iterator[Batch],
    training: Training,
    *,
    weight_decay: float = 0.1,
    device: str = "cpu",
) -> Predictor:
    predictor = Predictor(model).to(device)
    config = TrainingConfig(
        max_steps=training.steps,
        learning_rate=training.learning_rate,
        warmup_steps=training.warmup,
        weight_decay=weight_decay,
        autocast_dtype=None if device == "cpu" else torch.bfloat16,
    )
    train(predictor, batches, config, progress=False)
    return predictor.eval()


@torch.no_grad()
def mean_nats(predictor: Predictor, batches: Sequence[Batch]) -> float:
    """Mean nats a predicted token."""
    device = next(predictor.parameters()).device
    total, count = 0.0, 0
    for batch in batches:
        placed = {name: tensor.to(device) for name, tensor in batch.items()}
        total += float(predictor(**placed).nats.double().sum())
        count += int((batch["labels"] != IGNORED).sum())
    return total / count


def _small_xlstm(vocab_size: int, scale: Scale, **options: Any) -> XLSTMLM:
    return XLSTMLM(vocab_size, scale.width, scale.layers, num_heads=scale.heads, **options)


def epochs(
    rows: Sequence[Any],
    batch_size: int,
    seed: int,
    collate: Callable[[list[Any]], Batch],
) -> Iterator[Batch]:
    """Endless batches of rows, each row once an epoch."""
    rng = np.random.default_rng(seed)
    queue: list[int] = []
    while True:
        while len(queue) < batch_size:
            queue += rng.permutation(len(rows)).tolist()
        chosen, queue = queue[:batch_size], queue[batch_size:]
        yield collate([rows[index] for index in chosen])


def in_groups(rows: Any, size: int) -> list[Any]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def padded(rows: Sequence[Tensor], value: int) -> Tensor:
    return nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value)


def next_character_batch(rows: Sequence[Tensor]) -> Batch:
    """Every token but the first is predicted from those before it."""
    inputs = padded([row[:-1] for row in rows], PAD)
    labels = padded([row[1:] for row in rows], IGNORED)
    return {"input_ids": inputs, "labels": labels, "attention_mask": labels != IGNORED}


# SMILES as characters.


class Characters(NamedTuple):
    """Molecules as rows of ids from EDGE to EDGE."""

    train: list[Tensor]
    validation: list[Tensor]
    characters: int  # how many distinct ones

    @property
    def vocab_size(self) -> int:
        return FIRST + self.characters


def _characters(molecules: Sequence[str]) -> Characters:
    """Shuffled by a fixed seed; a tenth is for validation, the characters are those of all."""
    alphabet = sorted(set("".join(molecules)))
    id_of = {character: FIRST + index for index, character in enumerate(alphabet)}
    order = np.arange(len(molecules))
    np.random.default_rng(0).shuffle(order)
    rows = [
        torch.tensor([EDGE, *(id_of[character] for character in molecules[index]), EDGE])
        for index in order.tolist()
    ]
    held_out = len(rows) // 10
    return Characters(rows[held_out:], rows[:held_out], len(alphabet))


def _smiles_model(
    kind: str, data: Characters, scale: Scale, device: str
) -> Callable[[int], dict[str, float]]:
    def job(seed: int) -> dict[str, float]:
        torch.manual_seed(seed)
        if kind == XLSTM:
            model: nn.Module = _small_xlstm(data.vocab_size, scale)
        else:
            model = TwoLayerLSTM(data.vocab_size, scale.lstm_width)
        training = scale.smiles
        batches = epochs(data.train, training.batch_size, seed, next_character_batch)
        predictor = fit(model, batches, training, device=device)
        chunks = in_groups(data.validation, 64)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        nats = mean_nats(predictor, [next_character_batch(rows) for rows in chunks])
        return {"nats": nats, "parameters": parameters}

    return job


def _masked_batch(rows: Sequence[Tensor], characters: int, generator: torch.Generator) -> Batch:
    """15 % of the characters are to be predicted; 80, 10, 10 % masked, replaced, kept."""
    inputs = padded(rows, PAD)
    mask = torch.zeros_like(inputs, dtype=torch.bool)
    for row, tokens in enumerate(rows):
        mask[row, : len(tokens)] = True
    masked, labels = mask_tokens(inputs, _CharacterMask(characters), 0.15, generator)
    return {"input_ids": masked, "labels": labels, "attention_mask": mask}


class _CharacterMask:
    """What :func:`mask_tokens` asks of a tokenizer, for characters by their sorted order."""

    def __init__(self, characters: int) -> None:
        self.mask_id = FIRST + characters
        self.special_ids: tuple[int, ...] = (PAD, EDGE)
        self.replacements = tuple(range(FIRST, FIRST + characters))


def _masked_model(
    direction: str, data: Characters, scale: Scale, device: str
) -> Callable[[int], dict[str, float]]:
    def job(seed: int) -> dict[str, float]:
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        model = _small_xlstm(data.vocab_size + 1, scale, direction=direction)
        training = scale.masked
        batches = epochs(
            data.train,
            training.batch_size,
            seed,
            lambda rows: _masked_batch(rows, data.characters, generator),
        )
        predictor = fit(model, batches, training, device=device)
        fixed = torch.Generator().manual_seed(0)  # the same hidden characters for every model
        chunks = in_groups(data.validation, 64)
        return {
            "nats": mean_nats(
                predictor, [_masked_batch(rows, data.characters, fixed) for rows in chunks]
            )
        }

    return job


# n-grams with Witten-Bell interpolation.


def ngram_nats(
    train_rows: Sequence[np.ndarray], test_rows: Sequence[np.ndarray], n: int, characters: int
) -> float:
    """Mean nats a token of an interpolated n-gram model.

    p_k(c | h) = (count(h c) + u p_{k-1}(c | h')) / (N + u), with u the number of tokens seen after
    the k tokens h, N how often they were, h' their last k - 1, and p_{-1} uniform over the
    characters and the end.

    Args:
        train_rows, test_rows: tokens to predict, one array a text, its end included.
        n: tokens of an n-gram, so that n - 1 are the context; starts are padded with EDGE.
        characters: number of distinct characters, whose ids follow FIRST.
    """
    base = FIRST + characters

    def contexts(rows: Sequence[np.ndarray], order: int) -> tuple[np.ndarray, np.ndarray]:
        """Codes of the ``order`` tokens before each token, and the tokens."""
        padded = [np.concatenate([np.full(order, EDGE), row]) for row in rows]
        codes = [
            sum(
                (row[place : len(row) - order + place] * base ** (order - 1 - place)
                 for place in range(order)),
                start=np.zeros(len(row) - order, dtype=np.int64),
            )
            for row in padded
        ]  # fmt: skip
        return np.concatenate(codes), np.concatenate([row[order:] for row in padded])

    def looked_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        place = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
        return np.where(keys[place] == wanted, values[place], 0)

    probability = np.full(sum(map(len, test_rows)), 1 / (characters + 1))
    for order in range(n):
        context, token = contexts(train_rows, order)
        grams, gram_counts = np.unique(context * base + token, return_counts=True)
        seen, totals = np.unique(context, return_counts=True)
        distinct = np.unique(grams // base, return_counts=True)[1]
        context, token = contexts(test_rows, order)
        count = looked_up(grams, gram_counts, context * base + token)
        total = looked_up(seen, totals, context)
        kinds = looked_up(seen, distinct, context)
        known = total > 0
        probability[known] = ((count + kinds * probability) / np.maximum(total + kinds, 1))[known]
    return float(-np.log(probability).mean())


def _ngrams(data: Characters) -> Callable[[int], dict[str, float]]:
    def job(seed: int) -> dict[str, float]:
        learnt = [row[1:].numpy() for row in data.train]
        scored = [row[1:].numpy() for row in data.validation]
        return {f"{n}-gram": ngram_nats(learnt, scored, n, data.characters) for n in NGRAMS}

    return job


# Families of related sequences in one context.


def draw_families(count: int, families: Families, rng: np.random.Generator) -> Tensor:
    """(count, members * (length + 1)) int64: each member behind a separator, ``alphabet``."""
    shape = (count, families.members, families.length)
    ancestors = rng.integers(families.alphabet, size=(count, 1, families.length))
    drawn = rng.integers(families.alphabet, size=shape)
    members = np.where(rng.random(shape) < families.rate, drawn, ancestors)
    separators = np.full((*shape[:2], 1), families.alphabet)
    return torch.from_numpy(np.concatenate([separators, members], axis=2).reshape(count, -1))


def _family_batch(tokens: Tensor, families: Families) -> Batch:
    """Residues are predicted, separators are not."""
    labels = tokens[:, 1:]
    return {
        "input_ids": tokens[:, :-1],
        "labels": labels.masked_fill(labels == families.alphabet, IGNORED),
    }


def _family_model(kind: str, scale: Scale, device: str) -> Callable[[int], dict[str, Any]]:
    families = scale.families

    def job(seed: int) -> dict[str, Any]:
        torch.manual_seed(seed)
        if kind == XLSTM:
            model: nn.Module = _small_xlstm(families.alphabet + 1, scale)
            training = scale.families_xlstm
        else:
            model = TwoLayerLSTM(families.alphabet + 1, scale.lstm_width)
            training = scale.families_lstm
        rng = np.random.default_rng(seed)

        def batches() -> Iterator[Batch]:
            while True:
                yield _family_batch(draw_families(training.batch_size, families, rng), families)

        predictor = fit(model, batches(), training, device=device)
        test = draw_families(families.test_families, families, np.random.default_rng(0))
        nats = []
        with torch.no_grad():
            for rows in test.split(64):
                batch = _family_batch(rows, families)
                nats.append(
                    predictor(**{key: value.to(device) for key, value in batch.items()}).nats
                )
        by_place = torch.cat(nats).mean(0).cpu()
        # Members are their residues; the separators between them were not predicted.
        by_place = F.pad(by_place, (1, 0)).unflatten(0, (families.members, -1))[:, 1:]
        return {
            "members": tuple(by_place.mean(1).tolist()),
            "places": tuple(by_place.flatten().tolist()),
        }

    return job


# DNA.


def _dna_model(genome: str, scale: Scale, device: str) -> Callable[[int], dict[str, float]]:
    def job(seed: int) -> dict[str, float]:
        torch.manual_seed(seed)
        id_of = {base: FIRST + index for index, base in enumerate("ACGTN")}
        tokens = np.array([id_of[base] for base in genome])
        cut = len(tokens) * 9 // 10
        learnt, held_out = tokens[:cut], tokens[cut:]
        characters = len(set(genome))
        rng = np.random.default_rng(seed)
        offsets = np.arange(scale.window)

        def batch(windows: np.ndarray) -> Batch:
            labels = torch.from_numpy(windows)
            starts = torch.full((len(windows), 1), EDGE)
            return {"input_ids": torch.cat([starts, labels[:, :-1]], dim=1), "labels": labels}

        def batches() -> Iterator[Batch]:
            while True:
                size = (scale.dna.batch_size, 1)
                starts = rng.integers(len(learnt) - scale.window + 1, size=size)
                yield batch(learnt[starts + offsets])

        model = _small_xlstm(FIRST + len(id_of), scale)
        predictor = fit(model, batches(), scale.dna, device=device)
        whole = len(held_out) // scale.window
        windows = held_out[: whole * scale.window].reshape(whole, scale.window)
        result = {"nats": mean_nats(predictor, [batch(part) for part in in_groups(windows, 64)])}
        shares = np.unique(tokens, return_counts=True)[1] / len(tokens)
        result["entropy"] = float(-(shares * np.log(shares)).sum())
        for order in MARKOV_ORDERS:
            result[f"order {order}"] = ngram_nats([learnt], [held_out], order + 1, characters)
        return result

    return job


def training_runs(
    scale: Scale, molecules: Sequence[str], genome: str, device: str
) -> dict[tuple[str, str], Callable[[int], dict[str, Any]]]:
    """The runs by data and model, the longest first."""
    data = _characters(molecules)
    return {
        ("families", XLSTM): _family_model(XLSTM, scale, device),
        ("smiles", XLSTM): _smiles_model(XLSTM, data, scale, device),
        ("masked", BIDIRECTIONAL): _masked_model(BIDIRECTIONAL, data, scale, device),
        ("families", LSTM): _family_model(LSTM, scale, device),
        ("masked", CAUSAL): _masked_model(CAUSAL, data, scale, device),
        ("dna", XLSTM): _dna_model(genome, scale, device),
        ("smiles", LSTM): _smiles_model(LSTM, data, scale, device),
        ("smiles", "n-gram"): _ngrams(data),
    }
