"""Hedgehog (arXiv 2402.04347): two real pretrained networks converted to linear attention.

A sentence encoder (all-MiniLM-L6-v2) shows what the learned maps restore, layer by layer and in its
embeddings, against 1 + elu and the ReLU map of T2R; a language model (SmolLM2-135M-Instruct) shows
a whole decoder converted by maps of 1.1 % of its parameters. All layers are converted, and nothing
but the maps is trained; in full mode the converted models are then finetuned, the decoder by LoRA.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import Tensor

from rankone import nn
from rankone._progress import Progress
from rankone.datasets import mqar
from rankone.datasets.pretrained import PretrainedNetwork, load_minilm, load_smollm2
from rankone.datasets.text import python_topics
from rankone.nn.convert import (
    LoRAConfig,
    add_lora,
    attention_fidelity,
    attention_weights,
    distill_attention,
    set_attention_mode,
    to_hedgehog,
)
from rankone.reproduce import MUTED, SERIES, Claim, Figure, Reproduction, Settings, Table, panel
from rankone.reproduce._recall import RecallTraining, recall_model, train_recall

ELU = "1 + elu"
FRESH = "Hedgehog, untrained"
T2R = "T2R, distilled"
HEDGEHOG = "Hedgehog, distilled"
EXP = "exp Hedgehog, distilled"
FINETUNED = "Hedgehog, distilled, then finetuned"

_MAPS: Mapping[str, dict[str, Any]] = {
    ELU: {"feature_map": "elu1"},
    FRESH: {"feature_map": "hedgehog"},
    T2R: {"feature_map": "relu"},
    HEDGEHOG: {"feature_map": "hedgehog"},
    EXP: {"feature_map": "hedgehog", "activation": "exp"},
}
_UNTRAINED = (ELU, FRESH)

# A paragraph worth embedding: longer than a heading, and not a transcript of the interpreter.
_MIN_WORDS = 25

# The test part of the language model's tokens, and the distance of its windows.
_TEST_START = 90_000
_TEST_STRIDE = 1500
_TRAIN_END = 85_000

# Bound on after / before at these numbers of distillation steps: perplexity, KL.
_LANGUAGE_BOUNDS = {20: (0.2, 0.6), 40: (0.15, 0.5)}
_LANGUAGE_EXPECTED = {20: ("0.061", "0.41"), 40: ("0.049", "0.33")}

_LEARNING_RATE = 1e-2


@dataclass(frozen=True)
class Scale:
    """Sizes of one run.

    Attributes:
        maps: compared feature maps of the encoder.
        max_length, batch_size, steps, seeds: of the encoder's distillation.
        held_out: paragraphs that are measured on.
        finetune_steps: steps of finetuning the converted encoder to the teacher's embeddings.
        window, test_windows: tokens a window of the language model, and windows of its test.
        language_steps: numbers of distillation steps after which the language model is measured.
        lora_steps: steps of LoRA finetuning after the last of them.
        recall: training of one-layer models on MQAR from scratch, or None.
    """

    maps: tuple[str, ...] = (ELU, FRESH, T2R, HEDGEHOG)
    max_length: int = 64
    batch_size: int = 8
    steps: int = 80
    seeds: int = 1
    held_out: int = 48
    finetune_steps: int = 0
    window: int = 192
    test_windows: int = 2
    language_steps: tuple[int, ...] = (20,)
    lora_steps: int = 0
    recall: RecallTraining | None = None


QUICK = Scale()
FULL = Scale(
    maps=tuple(_MAPS),
    max_length=128,
    steps=1000,
    seeds=3,
    finetune_steps=500,
    language_steps=(10, 20, 40, 2000),
    lora_steps=500,
    recall=RecallTraining(),
)


@dataclass(frozen=True)
class Fidelity:
    """How a converted encoder compares with its teacher on held-out text.

    Attributes:
        kl, entropy_teacher, entropy_student, monotonicity: (layers,) arrays.
        cosine: mean cosine of its embeddings and the teacher's.
        similarity: Spearman correlation of all cosines between texts with the teacher's.
    """

    kl: np.ndarray
    entropy_teacher: np.ndarray
    entropy_student: np.ndarray
    monotonicity: np.ndarray
    cosine: float
    similarity: float

    @property
    def entropy_gap(self) -> float:
        """Mean over layers of |student - teacher|, nats."""
        return float(np.abs(self.entropy_student - self.entropy_teacher).mean())


def run(settings: Settings) -> Reproduction:
    """The encoder's maps compared, then the language model."""
    scale = settings.scale(quick=QUICK, full=FULL)
    encoder = load_minilm()
    results, figure = _encoder(settings, scale, encoder)
    claims, tables = _encoder_claims(results), [_encoder_table(scale, results)]
    del encoder
    language = load_smollm2()
    more_claims, table = _language_model(settings, scale, language)
    tables.append(table)
    if scale.recall is not None:
        tables.append(_recall_table(settings, scale.recall))
    return Reproduction(
        slug="hedgehog",
        claims=(*claims, *more_claims),
        tables=(*tables, *_published()),
        figures=(figure,),
        settings={
            "encoder": f"all-MiniLM-L6-v2, {scale.max_length} tokens, {scale.steps} steps of "
            f"{scale.batch_size} paragraphs, {scale.seeds} seed(s), {scale.held_out} held out",
            "language model": f"SmolLM2-135M-Instruct, windows of {scale.window}, "
            f"{scale.language_steps[-1]} steps of one window",
            "optimiser": f"AdamW on the maps alone, learning rate {_LEARNING_RATE:g}",
        },
    )


def paragraphs(random_state: int, held_out: int) -> tuple[list[str], list[str]]:
    """Distinct paragraphs of Python's documentation: to learn from, and held out."""
    found: dict[str, None] = {}
    for part in _documentation().split("\n\n"):
        text = " ".join(part.split())
        if len(text.split()) >= _MIN_WORDS and not text.startswith(">>>"):
            found[text] = None
    texts = list(found)
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(random_state))
    shuffled = [texts[index] for index in order]
    return shuffled[held_out:], shuffled[:held_out]


def _documentation() -> str:
    docs = python_topics(ascii_only=False)
    return (docs.train + docs.validation).decode()


def _encoder(
    settings: Settings, scale: Scale, network: PretrainedNetwork
) -> tuple[dict[str, list[Fidelity]], Figure]:
    """Every map's fidelity, a list over seeds, and the figure of the last seed's models."""
    teacher = network.model.to(settings.device)
    train, held_out = paragraphs(settings.random_state, scale.held_out)
    test = _tokenized(network, held_out, scale.max_length)
    with torch.no_grad():
        target = embeddings(teacher, test)
    results: dict[str, list[Fidelity]] = {name: [] for name in scale.maps}
    models: dict[str, torch.nn.Module] = {}
    for name in scale.maps:
        for seed in range(1 if name in _UNTRAINED else scale.seeds):
            model = to_hedgehog(teacher, **_MAPS[name])
            if name not in _UNTRAINED:
                generator = torch.Generator().manual_seed(settings.random_state + 1 + seed)
                with Progress(name, scale.steps, enabled=settings.progress) as bar:
                    distill_attention(
                        model,
                        _paragraph_batches(network, train, scale, generator),
                        lr=_LEARNING_RATE,
                        max_steps=scale.steps,
                        callback=lambda *_, bar=bar: bar.advance(1),
                    )
            results[name].append(_fidelity(model, test, target))
            models[name] = model
            if name == HEDGEHOG and scale.finetune_steps:
                finetuned = copy.deepcopy(model)
                _finetune_encoder(settings, scale, network, teacher, finetuned, train, seed)
                results.setdefault(FINETUNED, []).append(_fidelity(finetuned, test, target))
    return results, _figure(network, models, results, test)


def _tokenized(network: PretrainedNetwork, texts: list[str], max_length: int) -> dict[str, Tensor]:
    encoded = network.tokenizer(
        texts, padding=True, truncation=True, max_length=max_length, return_tensors="pt"
    )
    return {name: encoded[name] for name in ("input_ids", "attention_mask")}


def _paragraph_batches(
    network: PretrainedNetwork, texts: list[str], scale: Scale, generator: torch.Generator
) -> Iterator[dict[str, Tensor]]:
    """Batches without end, drawn with replacement."""
    while True:
        rows = torch.randint(len(texts), (scale.batch_size,), generator=generator)
        yield _tokenized(network, [texts[row] for row in rows], scale.max_length)


def embeddings(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """Unit sentence embeddings (B, width): the mean of the tokens' last hidden states."""
    device = next(model.parameters()).device
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None].to(hidden.dtype)
    return F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)


def _fidelity(model: torch.nn.Module, test: dict[str, Tensor], target: Tensor) -> Fidelity:
    measured = attention_fidelity(model, test)
    set_attention_mode(model, "linear")
    model.eval()
    with torch.no_grad():
        student = embeddings(model, test)
    above = torch.triu_indices(len(student), len(student), 1)
    cosines = [(e @ e.T)[above[0], above[1]].cpu().numpy() for e in (target, student)]
    return Fidelity(
        **measured,
        cosine=(student * target).sum(-1).mean().item(),
        similarity=float(spearmanr(*cosines).statistic),
    )


class _EmbeddingLoss(torch.nn.Module):
    """1 - cosine of a converted encoder's embeddings and the teacher's, as a trainable model."""

    def __init__(self, model: torch.nn.Module, teacher: torch.nn.Module) -> None:
        super().__init__()
        self.model = model
        self._teacher = [teacher]  # in a list: no part of what is trained

    def forward(self, **batch: Tensor) -> Any:
        with torch.no_grad():
            target = embeddings(self._teacher[0], batch)
        return SimpleNamespace(loss=1 - (embeddings(self.model, batch) * target).sum(-1).mean())


def _finetune_encoder(
    settings: Settings,
    scale: Scale,
    network: PretrainedNetwork,
    teacher: torch.nn.Module,
    model: torch.nn.Module,
    train: list[str],
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(settings.random_state + 1001 + seed)
    nn.train(
        _EmbeddingLoss(model, teacher),
        _paragraph_batches(network, train, scale, generator),
        nn.TrainingConfig(max_steps=scale.finetune_steps, learning_rate=1e-4, weight_decay=0.0),
        progress=settings.progress,
    )


def _mean(results: list[Fidelity], name: str) -> float:
    """Mean over layers and seeds."""
    return float(np.mean([np.mean(getattr(result, name)) for result in results]))


def _encoder_claims(results: dict[str, list[Fidelity]]) -> list[Claim]:
    learned, elu, fresh, t2r = (results[name] for name in (HEDGEHOG, ELU, FRESH, T2R))
    kl = _mean(learned, "kl")
    layer_ratio = max(float((result.kl / fresh[0].kl).max()) for result in learned)
    cosine, similarity = _mean(learned, "cosine"), _mean(learned, "similarity")
    encoder = "all-MiniLM-L6-v2, every layer, held-out text"
    return [
        Claim.at_most(
            f"{encoder}: KL(softmax, distilled Hedgehog) / KL(softmax, 1 + elu)",
            kl / _mean(elu, "kl"),
            0.2,
            expected="0.11",
            note=f"{kl:.3f} and {_mean(elu, 'kl'):.3f} nats",
        ),
        Claim.at_most(
            "spiky weights: entropy of the distilled Hedgehog is off softmax's by (nats)",
            _mean(learned, "entropy_gap"),
            0.4,
            expected="0.20",
        ),
        Claim.at_least(
            "and that of 1 + elu by (nats)", _mean(elu, "entropy_gap"), 1.0, expected="1.53"
        ),
        Claim.at_least(
            "monotone weights: Spearman correlation of the distilled Hedgehog with q . k",
            _mean(learned, "monotonicity"),
            0.8,
            expected="0.88",
        ),
        Claim.at_most("and that of 1 + elu", _mean(elu, "monotonicity"), 0.65, expected="0.55"),
        Claim.at_most(
            "against a ReLU map distilled alike (T2R): ratio of the KLs",
            kl / _mean(t2r, "kl"),
            0.8,
            expected="0.56",
            note=f"T2R {_mean(t2r, 'kl'):.3f} nats",
        ),
        Claim.at_least(
            "after conversion, nothing finetuned: cosine of sentence embeddings with the teacher's",
            cosine,
            0.92,
            expected="0.95",
        ),
        Claim.at_least(
            "after conversion, nothing finetuned: Spearman correlation of the similarities of all "
            "pairs of texts",
            similarity,
            0.88,
            expected="0.93",
        ),
        Claim.at_most(
            "distillation helps every layer: largest KL after / before",
            layer_ratio,
            0.4,
            expected="0.25",
        ),
    ]


def _encoder_table(scale: Scale, results: dict[str, list[Fidelity]]) -> Table:
    columns = ("kl", "entropy_student", "monotonicity", "cosine", "similarity")
    teacher = _mean(results[ELU], "entropy_teacher")

    def row(name: str, found: list[Fidelity]) -> tuple[float | str, ...]:
        return (name, *(_mean(found, column) for column in columns))

    return Table(
        title="all-MiniLM-L6-v2 with its six layers converted",
        columns=(
            "feature map",
            "KL to softmax, nats",
            "entropy, nats",
            "monotonicity",
            "cosine to teacher",
            "similarity Spearman",
        ),
        rows=(
            ("softmax (teacher)", 0.0, teacher, 1.0, 1.0, 1.0),
            *(row(name, found) for name, found in results.items()),
        ),
        note=f"Means over layers, heads and tokens of {scale.held_out} held-out paragraphs, up to "
        f"{scale.max_length} tokens each; {scale.seeds} seed(s).",
    )


def _figure(
    network: PretrainedNetwork,
    models: dict[str, torch.nn.Module],
    results: dict[str, list[Fidelity]],
    test: dict[str, Tensor],
) -> Figure:
    """Maps of one sentence, weight against product, and the KL of the layers."""
    length = int(test["attention_mask"][0].sum().clamp_max(32))
    sentence = {name: tensor[:1, :length] for name, tensor in test.items()}
    layer = len(results[ELU][0].kl) // 2
    seen = {name: attention_weights(models[name], sentence, layer) for name in (ELU, HEDGEHOG)}
    teacher, dots = (getattr(seen[ELU], name)[0].cpu().numpy() for name in ("teacher", "dots"))
    weights = {
        "softmax": teacher,
        ELU: seen[ELU].student[0].cpu().numpy(),
        "Hedgehog": seen[HEDGEHOG].student[0].cpu().numpy(),
    }
    heads = range(min(3, len(teacher)))
    gap = np.full((length, 2), np.nan)
    rows = []
    for row in weights.values():
        rows.append(np.hstack([part for head in heads for part in (row[head], gap)][:-1]))
        rows.append(np.full((2, rows[0].shape[1]), np.nan))
    with panel("keys of three heads", "queries", title=f"Weights, layer {layer + 1}") as (
        maps,
        axes,
    ):
        axes.imshow(np.sqrt(np.vstack(rows[:-1])), cmap="Blues", aspect="equal")
        middle = length / 2 + (length + 2) * np.arange(len(weights))
        axes.set_yticks(middle, list(weights), rotation=90, va="center")
        axes.set_xticks([])
        axes.grid(False)
    config: Any = network.model.config
    head_dim = config.hidden_size // config.num_attention_heads
    with panel("q . k / √d", "attention weight", title="One head") as (scatter, axes):
        product = dots[0].ravel() / np.sqrt(head_dim)
        for (name, values), colour in zip(weights.items(), (MUTED, *SERIES), strict=False):
            axes.plot(
                product, values[0].ravel(), ".", ms=2, color=colour, label=name, rasterized=True
            )
        axes.set_yscale("log")
        axes.legend(markerscale=4)
    with panel("layer", "KL to softmax, nats", title="Held-out text") as (layers, axes):
        for name, found in results.items():
            kl = np.mean([result.kl for result in found], axis=0)
            axes.plot(np.arange(1, len(kl) + 1), kl, "o-", label=name)
        axes.set_ylim(bottom=0)
        axes.legend()
    return Figure.render(
        "What learned maps restore",
        "all-MiniLM-L6-v2 on held-out text. Left: square roots of the attention weights of one "
        "sentence. Middle: softmax weights rise with the product of query and key, and so do those "
        "of the distilled maps. Right: KL of every layer, with the teacher's hidden states.",
        maps,
        scatter,
        layers,
    )


def _language_model(
    settings: Settings, scale: Scale, network: PretrainedNetwork
) -> tuple[list[Claim], Table]:
    model = network.model.to(settings.device)
    tokens = network.tokenizer(_documentation(), return_tensors="pt").input_ids[0]
    starts = _TEST_START + _TEST_STRIDE * torch.arange(scale.test_windows)
    test = torch.stack([tokens[start : start + scale.window] for start in starts])
    teacher = perplexity(model, test)
    original = sum(parameter.numel() for parameter in model.parameters())
    to_hedgehog(model, inplace=True)
    added = sum(parameter.numel() for parameter in model.parameters()) - original
    rows: list[tuple[int, float, float]] = [(0, *_language_quality(model, test))]
    snapshots: dict[int, dict[str, Tensor]] = {}
    generator = torch.Generator().manual_seed(settings.random_state)
    steps = scale.language_steps[-1]
    with Progress("distilling SmolLM2", steps, enabled=settings.progress) as bar:

        def after(step: int, loss: float, kl: np.ndarray) -> None:
            bar.advance(1)
            if step in scale.language_steps:
                snapshots[step] = _maps(model)

        distill_attention(
            model,
            _window_batches(tokens[:_TRAIN_END], scale.window, generator),
            lr=_LEARNING_RATE,
            max_steps=steps,
            callback=after,
        )
    for step, maps in snapshots.items():
        model.load_state_dict(maps, strict=False)
        rows.append((step, *_language_quality(model, test)))
    finetuned = None
    if scale.lora_steps:
        finetuned = _lora_perplexity(settings, scale, model, tokens, test)
    claims = _language_claims(scale, rows)
    table = Table(
        title="SmolLM2-135M-Instruct with its 30 layers converted",
        columns=("distillation steps", "test perplexity", "KL to softmax, nats"),
        rows=(
            ("softmax (teacher)", teacher, 0.0),
            *((str(step), value, kl) for step, value, kl in rows),
            *([] if finetuned is None else [(f"{steps}, then LoRA", finetuned, None)]),
        ),
        note=f"{added:,} parameters added ({100 * added / original:.2f} %), one key map a kv head; "
        f"one window of {scale.window} tokens a step. Perplexity on {scale.test_windows} windows, "
        "KL on the first, mean of the layers.",
    )
    return claims, table


def _language_claims(scale: Scale, rows: list[tuple[int, float, float]]) -> list[Claim]:
    (_, perplexity_before, kl_before), *later = rows
    claims = []
    for step, value, kl in later:
        if step not in _LANGUAGE_BOUNDS:
            continue
        bounds, expected = _LANGUAGE_BOUNDS[step], _LANGUAGE_EXPECTED[step]
        claims.append(
            Claim.at_most(
                f"SmolLM2-135M, all layers linear: test perplexity after / before {step} steps on "
                "the maps alone",
                value / perplexity_before,
                bounds[0],
                expected=expected[0],
                note=f"{perplexity_before:.0f} to {value:.1f}",
            )
        )
        claims.append(
            Claim.at_most(
                f"SmolLM2-135M: KL, mean of the layers, after / before {step} steps",
                kl / kl_before,
                bounds[1],
                expected=expected[1],
                note=f"{kl_before:.3f} to {kl:.3f} nats",
            )
        )
    return claims


def _maps(model: torch.nn.Module) -> dict[str, Tensor]:
    return {
        name: parameter.detach().clone()
        for name, parameter in model.named_parameters()
        if ".feature_map_" in name
    }


def _window_batches(
    tokens: Tensor, window: int, generator: torch.Generator
) -> Iterator[dict[str, Tensor]]:
    while True:
        start = int(torch.randint(len(tokens) - window, (1,), generator=generator))
        yield {"input_ids": tokens[None, start : start + window]}


def _language_quality(model: Any, test: Tensor) -> tuple[float, float]:
    """Perplexity in linear mode, and the mean KL of the layers on the first window."""
    kl = attention_fidelity(model, {"input_ids": test[:1]})["kl"].mean()
    set_attention_mode(model, "linear")
    value = perplexity(model, test)
    set_attention_mode(model, "softmax")
    return value, float(kl)


@torch.no_grad()
def perplexity(model: Any, windows: Tensor) -> float:
    """exp of the mean cross-entropy of all predicted tokens of (windows, time)."""
    windows = windows.to(next(model.parameters()).device)
    losses = [model(row[None], labels=row[None], use_cache=False).loss for row in windows]
    return float(torch.stack(losses).double().mean().exp())


def _lora_perplexity(
    settings: Settings, scale: Scale, model: Any, tokens: Tensor, test: Tensor
) -> float:
    """Perplexity after finetuning LoRA of rank 8, alpha 16 on q, k, v, o in linear mode."""
    set_attention_mode(model, "linear")
    add_lora(
        model, LoRAConfig(rank=8, alpha=16.0, targets=("q_proj", "k_proj", "v_proj", "o_proj"))
    )
    generator = torch.Generator().manual_seed(settings.random_state + 1)
    batches = (
        {name: tensor.to(settings.device) for name, tensor in batch.items()}
        | {"labels": batch["input_ids"].to(settings.device)}
        for batch in _window_batches(tokens[:_TRAIN_END], scale.window, generator)
    )
    nn.train(
        model,
        batches,
        nn.TrainingConfig(max_steps=scale.lora_steps, learning_rate=1e-4, weight_decay=0.0),
        progress=settings.progress,
    )
    model.eval()
    return perplexity(model, test)


def _recall_table(settings: Settings, training: RecallTraining) -> Table:
    """One-layer models trained on MQAR from scratch; reported, not claimed."""
    rows = []
    for name, mixer in (
        ("softmax attention", "softmax_attention"),
        ("Hedgehog", "hedgehog_attention"),
        ("Lightning attention", "lightning_attention"),
    ):
        model = recall_model(
            mixer,
            vocab_size=256,
            hidden_size=64,
            num_layers=2,
            random_state=settings.random_state,
            device=settings.device,
        )
        result = train_recall(
            model,
            lambda count, seed: mqar(count, 64, 4, 256, seed),
            training,
            random_state=settings.random_state,
            description=f"training {name}",
            progress=settings.progress,
        )
        rows.append((name, result.accuracy, result.parameters))
    return Table(
        title="Associative recall, trained from scratch",
        columns=("mixer", "accuracy", "parameters"),
        rows=tuple(rows),
        note="MQAR of 64 tokens with 4 pairs, two layers of width 64 without feed-forward blocks. "
        "The paper's own task and models differ; this is reported and not claimed.",
    )


def _published() -> tuple[Table, ...]:
    return (
        Table(
            title="Published: WikiText-103 perplexity of a 125M GPT-2",
            columns=("model", "perplexity"),
            rows=(
                ("zero-shot", 28.0),
                ("finetuned softmax", 15.8),
                ("T2R", 19.4),
                ("Hybrid H3", 18.5),
                ("Hyena", 18.5),
                ("Hedgehog", 16.7),
            ),
            note="From the paper.",
            published=True,
        ),
        Table(
            title="Published: Llama-2 7B on SAMSum",
            columns=("model", "ROUGE-1", "ROUGE-2", "ROUGE-L"),
            rows=(
                ("zero-shot", 19.3, 6.8, 14.9),
                ("softmax, LoRA", 51.1, 27.6, 43.5),
                ("T2R, LoRA", 2.8, 0.0, 2.6),
                ("Hedgehog, LoRA", 47.4, 23.4, 39.1),
            ),
            note="From the paper.",
            published=True,
        ),
        Table(
            title="Published: associative recall from scratch",
            columns=("attention", "accuracy, %"),
            rows=(
                ("softmax", 100.0),
                ("1 + elu, Performer, cosFormer", 17.0),
                ("Taylor", 100.0),
            ),
            note="From the paper.",
            published=True,
        ),
    )
