"""The full mode of Bio-xLSTM's reproduction: models of published size on whole data sets.

Nothing here is a claim: the published losses belong to other data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rankone.datasets.biology import load_proteome, read_fasta
from rankone.nn.bio import (
    DNATokenizer,
    ProteinTokenizer,
    SmilesTokenizer,
    concat_homologues,
    mask_tokens,
    rc_augment,
)
from rankone.nn.xlstm import XLSTMLM
from rankone.reproduce import Settings, Table
from rankone.reproduce._bio_xlstm_models import (
    IGNORED,
    Batch,
    Training,
    epochs,
    fit,
    in_groups,
    mean_nats,
    next_character_batch,
    padded,
)

if TYPE_CHECKING:
    from rankone.reproduce.bio_xlstm import Scale

# Read from the user's folder where they are there.
SMILES_FILE, PROTEIN_FILE = "smiles.txt", "proteins.fasta"


@dataclass(frozen=True)
class Preset:
    """A model of a published size to train in full mode.

    Attributes:
        name: of :meth:`rankone.nn.XLSTMLM.from_preset`.
        length: tokens a row.
        training: how it learns.
        weight_decay: of its matrices.
        options: arguments of the model to set otherwise.
    """

    name: str
    length: int
    training: Training
    weight_decay: float = 0.1
    options: tuple[tuple[str, Any], ...] = ()


def presets_table(settings: Settings, scale: Scale, molecules: Sequence[str], genome: str) -> Table:
    rows = []
    for preset in settings.track(scale.presets, "models of published size"):
        torch.manual_seed(settings.random_state)
        tokens, nats, parameters = _train_preset(settings, preset, molecules, genome)
        options = ", ".join(f"{name}={value}" for name, value in preset.options)
        rows.append((f"{preset.name} {options}".strip(), parameters, tokens, nats))
    return Table(
        title="Models of published size",
        columns=("model", "parameters", "tokens learnt from", "validation nats a predicted token"),
        rows=tuple(rows),
        note="DNA: masked bases of the genome's last tenth, trained with reverse complements; "
        "proteins: with fill-in-the-middle; molecules: characters of the tokenizer.",
    )


def _train_preset(
    settings: Settings, preset: Preset, molecules: Sequence[str], genome: str
) -> tuple[int, float, int]:
    """Tokens read, validation nats, and parameters."""
    training, seed = preset.training, settings.random_state
    rng = np.random.default_rng(seed)
    options = dict(preset.options)
    if preset.name.startswith("dna"):
        learn, validation = _genome_batches(genome, preset, rng)
    elif preset.name.startswith("prot"):
        learn, validation = _protein_batches(_proteins(settings.data), preset, rng)
    else:
        texts = _smiles(settings.data, molecules)
        tokenizer = SmilesTokenizer.train(texts)
        options["vocab_size"] = tokenizer.vocab_size
        ids = [tokenizer.encode(text) for text in texts]
        rng.shuffle(ids)
        held_out = max(1, len(ids) // 10)
        learn = epochs(ids[held_out:], training.batch_size, seed, next_character_batch)
        validation = [next_character_batch(rows) for rows in in_groups(ids[:held_out], 64)]
    model = XLSTMLM.from_preset(preset.name, activation_checkpointing=True, **options)
    counted = 0

    def counting() -> Iterator[Batch]:
        nonlocal counted
        for batch in learn:
            counted += batch["input_ids"].numel()
            yield batch

    predictor = fit(
        model, counting(), training, weight_decay=preset.weight_decay, device=settings.device
    )
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return counted, mean_nats(predictor, validation), parameters


def _genome_batches(
    genome: str, preset: Preset, rng: np.random.Generator
) -> tuple[Iterator[Batch], list[Batch]]:
    tokenizer = DNATokenizer()
    tokens = tokenizer.encode(genome)
    cut = len(tokens) * 9 // 10
    generator = torch.Generator().manual_seed(0)

    def batch(rows: Tensor) -> Batch:
        inputs, labels = mask_tokens(rows, tokenizer, 0.15, generator)
        return {"input_ids": inputs, "labels": labels}

    def batches() -> Iterator[Batch]:
        while True:
            starts = rng.integers(cut - preset.length + 1, size=(preset.training.batch_size, 1))
            rows = tokens[torch.from_numpy(starts + np.arange(preset.length))]
            yield batch(rc_augment(rows, 0.5, generator))

    whole = (len(tokens) - cut) // preset.length
    windows = tokens[cut : cut + whole * preset.length].view(whole, preset.length)
    return batches(), [batch(rows) for rows in windows.split(16)]


def _protein_batches(
    proteins: Sequence[str], preset: Preset, rng: np.random.Generator
) -> tuple[Iterator[Batch], list[Batch]]:
    """Rows of proteins in random order, each with holes to fill and positions of its own."""
    order = rng.permutation(len(proteins))
    held_out = max(1, len(proteins) // 10)
    pad = ProteinTokenizer().pad_id

    def row(pool: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        chosen = rng.choice(pool, size=min(len(pool), preset.length // 50 + 1), replace=False)
        texts = [proteins[index] for index in chosen]
        ids, positions = concat_homologues(texts, rng=rng, fim=True)
        return ids[: preset.length + 1], positions[: preset.length]

    def batch(pool: np.ndarray, size: int, rng: np.random.Generator) -> Batch:
        rows = [row(pool, rng) for _ in range(size)]
        labels = padded([ids[1:] for ids, _ in rows], IGNORED)
        return {
            "input_ids": padded([ids[:-1] for ids, _ in rows], pad),
            "labels": labels,
            "attention_mask": labels != IGNORED,
            "position_ids": padded([places[: len(ids) - 1] for ids, places in rows], 0),
        }

    def batches() -> Iterator[Batch]:
        while True:
            yield batch(order[held_out:], preset.training.batch_size, rng)

    fixed = np.random.default_rng(0)
    return batches(), [batch(order[:held_out], 4, fixed) for _ in range(16)]


def _proteins(data: Path | None) -> Sequence[str]:
    """The user's own, where the folder has them, or the proteome."""
    if data is not None and (data / PROTEIN_FILE).is_file():
        return read_fasta(data / PROTEIN_FILE)[1]
    return load_proteome().sequences


def _smiles(data: Path | None, molecules: Sequence[str]) -> Sequence[str]:
    if data is not None and (data / SMILES_FILE).is_file():
        return (data / SMILES_FILE).read_text(encoding="utf-8").split()
    return molecules
