"""TransNormer (arXiv 2210.10340): linear attention without its denominator, behind local attention.

Character models of Python's own documentation differ in their attention alone: softmax, 1 + elu
with a denominator, a norm in its place, and block-diagonal attention in the early or the late
layers. How steep each way of normalising can become is measured by autograd.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rankone._sweep import sweep
from rankone.datasets import TextDataset, sample_windows
from rankone.datasets.text import python_topics
from rankone.nn import LanguageModel, TrainingConfig, build_mixer, train
from rankone.nn.norm_attention import NormAttention
from rankone.nn.transnormer import (
    TransNormerLM,
    attention_gradient_bound,
    local_attention_mass,
)
from rankone.ops import linear_attention
from rankone.reproduce import MUTED, Claim, Figure, Reproduction, Settings, Table, panel
from rankone.reproduce._figures import SERIES

SOFTMAX = "softmax"
DENOMINATOR = "1+elu"
NORM = "Norm"
NORM_PLAIN = "Norm without LRPE"
T1 = "T1"
T2 = "T2"
REVERSED = "T2 reversed"

# Seed of the validation windows and, added to the run's, of the training windows.
_VALIDATION_SEED = 99
_BATCH_SEED = 1

# The window whose share of the attention is claimed, over the length of the text.
_WINDOW = 0.1

# Inside the root of the norm whose gradient is measured.
_EPS = 1e-2


@dataclass(frozen=True)
class Scale:
    """Sizes of one run.

    Attributes:
        variants: the models that are trained.
        runs: seeds a model.
        num_layers, dim, num_heads, block_size: of the models.
        length, batch_size, steps, learning_rate, warmup_steps, weight_decay: of their training.
        validation_windows: windows that they are scored on.
        shares: windows of the figure of locality, over the length.
        scores: keys of the gradient measurements.
        levels: common values of their scores.
        n_jobs: processes where the settings leave one; no number depends on it.
    """

    variants: tuple[str, ...] = (DENOMINATOR, NORM, NORM_PLAIN, T2, REVERSED)
    runs: int = 1
    num_layers: int = 4
    dim: int = 64
    num_heads: int = 4
    block_size: int = 16
    length: int = 128
    batch_size: int = 8
    steps: int = 200
    learning_rate: float = 3e-3
    warmup_steps: int = 30
    weight_decay: float = 0.01
    validation_windows: int = 64
    shares: tuple[float, ...] = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)
    scores: int = 16
    levels: tuple[float, ...] = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
    n_jobs: int = 2


QUICK = Scale()
FULL = Scale(
    variants=(SOFTMAX, DENOMINATOR, NORM, NORM_PLAIN, T1, T2, REVERSED), runs=3, steps=1000
)


class DenominatorAttention(NormAttention):
    """Linear attention of 1 + elu features divided by the sum of its weights, to compare with."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__(dim, num_heads, norm="none", lrpe=False)

    def _attend(self, q, k, v, memory, return_state, cu_seqlens):
        if memory is not None or return_state or cu_seqlens is not None:
            raise RuntimeError("the attention with a denominator reads whole sequences only")
        return linear_attention(q, k, v, normalize=True)[0], None

    def step(self, x, state=None):
        raise RuntimeError("the attention with a denominator has no decoding step")

    def attention_weights(self, x: Tensor) -> Tensor:
        weights = super().attention_weights(x)
        return weights / weights.sum(-1, keepdim=True)


@dataclass(frozen=True)
class Trained:
    """One trained model.

    Attributes:
        nll: validation loss in nats a character.
        local: share of the first layer's attention in each window of the scale's shares, and
            in the claimed one first.
        gradient_spread: standard deviation of the gradient's norm over its mean, in the second
            half of training.
        seconds: training time.
    """

    nll: float
    local: tuple[float, ...]
    gradient_spread: float
    seconds: float


def run(settings: Settings) -> Reproduction:
    """Train the variants, and differentiate the three ways of normalising."""
    scale = settings.scale(quick=QUICK, full=FULL)
    text = python_topics()
    trained = _train_all(settings, scale, text)
    gradients = _gradients(settings, scale)
    return Reproduction(
        slug="transnormer",
        claims=(
            *_loss_claims(trained),
            *_locality_claims(trained),
            *_gradient_claims(scale, gradients),
        ),
        tables=(_model_table(trained), *_anchors()),
        figures=(_figure(scale, trained, gradients),),
        settings={
            "text": f"{text.source}, Python {text.version}, "
            f"{len(text.train) + len(text.validation)} characters",
            "models": f"{scale.num_layers} layers, width {scale.dim}, {scale.num_heads} heads, "
            f"blocks of {scale.block_size}",
            "training": f"{scale.steps} steps of {scale.batch_size} windows of {scale.length} "
            f"characters, AdamW, learning rate {scale.learning_rate:g}, {scale.runs} seed(s)",
        },
    )


Mixers = list[tuple[str | type[NormAttention], dict[str, Any]]]


def _mixers(name: str, scale: Scale) -> Mixers:
    """The attention of every layer."""
    half, layers = scale.num_layers // 2, scale.num_layers
    norm: Mixers = [("norm_attention", {"activation": "1+elu"})]
    diag: Mixers = [("diag_attention", {"kind": "softmax", "block_size": scale.block_size})]
    elu: Mixers = [("norm_attention", {"activation": "elu"})]
    relu: Mixers = [("diag_attention", {"kind": "relu", "block_size": scale.block_size})]
    mixers: dict[str, Mixers] = {
        # One block that holds everything.
        SOFTMAX: [("diag_attention", {"block_size": scale.length})] * layers,
        DENOMINATOR: [(DenominatorAttention, {})] * layers,
        NORM: norm * layers,
        NORM_PLAIN: [("norm_attention", {"activation": "1+elu", "lrpe": False})] * layers,
        T1: relu * half + elu * (layers - half),
        T2: diag * half + norm * (layers - half),
        REVERSED: norm * (layers - half) + diag * half,
    }
    return mixers[name]


def _model(name: str, scale: Scale, vocab_size: int, seed: int) -> TransNormerLM:
    """A TransNormer language model with its attention exchanged."""
    torch.manual_seed(seed)
    model = TransNormerLM(
        vocab_size, scale.dim, scale.num_layers, scale.num_heads, embedding_norm=False
    )
    for block, (mixer, options) in zip(model.blocks, _mixers(name, scale), strict=True):
        block.mixer = build_mixer(mixer, scale.dim, scale.num_heads, **options)
    return model


def _encoded(text: TextDataset) -> tuple[Tensor, Tensor, int]:
    """Training and validation characters as classes, and the number of classes."""
    train_bytes, validation_bytes = (
        np.frombuffer(part, np.uint8) for part in (text.train, text.validation)
    )
    classes = np.unique(np.concatenate([train_bytes, validation_bytes]))
    encode = np.zeros(256, dtype=np.int64)
    encode[classes] = np.arange(len(classes))
    return (
        torch.from_numpy(encode[train_bytes]),
        torch.from_numpy(encode[validation_bytes]),
        len(classes),
    )


def _train_all(
    settings: Settings, scale: Scale, text: TextDataset
) -> dict[str, tuple[Trained, ...]]:
    train_tokens, validation_tokens, vocab_size = _encoded(text)
    windows = next(
        sample_windows(
            validation_tokens,
            scale.length,
            scale.validation_windows,
            random_state=_VALIDATION_SEED,
        )
    )
    device, first_seed = settings.device, settings.random_state

    def cell(variant: tuple[str, int], rng: np.random.Generator) -> Trained:
        name, index = variant
        seed = first_seed + index
        model = _model(name, scale, vocab_size, seed).to(device)
        return _train(model, scale, train_tokens, windows, seed)

    on_cpu = torch.device(device).type == "cpu"
    jobs = scale.n_jobs if settings.n_jobs == 1 and on_cpu else settings.n_jobs
    cells = [(name, index) for name in scale.variants for index in range(scale.runs)]
    results = sweep(
        cell,
        cells,
        random_state=settings.random_state,
        n_jobs=jobs,
        description="training models",
        progress=settings.progress,
    )
    return {
        name: tuple(
            result for (other, _), result in zip(cells, results, strict=True) if other == name
        )
        for name in scale.variants
    }


def _train(
    model: TransNormerLM, scale: Scale, tokens: Tensor, windows: Tensor, seed: int
) -> Trained:
    # The rate stays at its peak after the warm-up.
    config = TrainingConfig(
        max_steps=scale.steps,
        learning_rate=scale.learning_rate,
        min_learning_rate=1.0,
        warmup_steps=scale.warmup_steps,
        weight_decay=scale.weight_decay,
        betas=(0.9, 0.98),
        gradient_clip=None,
    )
    batches = sample_windows(
        tokens, scale.length, scale.batch_size, random_state=seed + _BATCH_SEED
    )
    norms: list[float] = []

    def record(step: int, loss: float) -> None:
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        norms.append(float(torch.nn.utils.get_total_norm(gradients)))

    start = time.perf_counter()
    train(model, batches, config, progress=False, callback=record)
    seconds = time.perf_counter() - start
    late = norms[len(norms) // 2 :]
    nll, local = _score(model, scale, windows)
    return Trained(nll, local, float(np.std(late) / np.mean(late)), seconds)


@torch.no_grad()
def _score(model: LanguageModel, scale: Scale, windows: Tensor) -> tuple[float, tuple[float, ...]]:
    """Validation loss, and the locality of the first layer."""
    model.eval()
    windows = windows.to(model.embedding.weight.device)
    output = model(windows, labels=windows)
    assert output.cross_entropy is not None
    first: Any = model.blocks[0]
    weights = first.mixer.attention_weights(first.mixer_norm(model.embed(windows)))
    local = tuple(
        float(local_attention_mass(weights, share).mean()) for share in (_WINDOW, *scale.shares)
    )
    return float(output.cross_entropy), local


def _mean(trained: Sequence[Trained], attribute: str) -> float:
    return float(np.mean([getattr(result, attribute) for result in trained]))


def _loss_claims(trained: dict[str, tuple[Trained, ...]]) -> list[Claim]:
    nll = {name: _mean(results, "nll") for name, results in trained.items()}

    def losses(first: str, second: str) -> str:
        return f"{nll[first]:.3f} and {nll[second]:.3f} nats a character"

    claims = [
        Claim.at_most(
            "the denominator is unnecessary: |loss(Norm without LRPE) - loss(1+elu)|",
            abs(nll[NORM_PLAIN] - nll[DENOMINATOR]),
            0.05,
            expected="about 0",
            note=losses(NORM_PLAIN, DENOMINATOR),
        ),
        Claim.at_least(
            "dropping it makes room for LRPE: loss(1+elu) - loss(Norm)",
            nll[DENOMINATOR] - nll[NORM],
            0.05,
            expected="above 0",
            note=losses(DENOMINATOR, NORM),
        ),
        Claim.at_least(
            "local early layers help: loss(Norm) - loss(T2)",
            nll[NORM] - nll[T2],
            0.10,
            expected="above 0",
            note=losses(NORM, T2),
        ),
        Claim.at_least(
            "the order matters: loss(T2 reversed) - loss(T2)",
            nll[REVERSED] - nll[T2],
            0.02,
            expected="above 0",
            note=losses(REVERSED, T2),
        ),
    ]
    if SOFTMAX in nll:
        claims.append(
            Claim.at_most(
                "T2 is at least level with softmax attention: loss(T2) - loss(softmax)",
                nll[T2] - nll[SOFTMAX],
                0.05,
                expected="at most 0",
                note=losses(T2, SOFTMAX),
            )
        )
    return claims


def _local(trained: Sequence[Trained]) -> np.ndarray:
    return np.mean([result.local for result in trained], axis=0)


def _locality_claims(trained: dict[str, tuple[Trained, ...]]) -> list[Claim]:
    window = f"share of layer 1's attention within the last {100 * _WINDOW:.0f} % of the tokens"
    return [
        Claim.at_least(f"T2 attends locally: {window}", _local(trained[T2])[0], 0.9),
        Claim.at_most(
            f"1+elu spreads its attention: {window}",
            _local(trained[DENOMINATOR])[0],
            0.25,
            expected="near that of uniform weights, 0.14",
        ),
    ]


@dataclass(frozen=True)
class Gradients:
    """Largest derivatives where all scores have one value, by that value.

    Attributes:
        weight: of a weight of linear attention with denominator, by a score.
        loss: of a loss by a score, for softmax, 1+elu and Norm.
        bound: of the last.
    """

    weight: tuple[float, ...]
    loss: dict[str, tuple[float, ...]]
    bound: float


def _gradients(settings: Settings, scale: Scale) -> Gradients:
    """Derivatives by autograd in float64, of n queries over n keys of width n."""
    n = scale.scores
    generator = torch.Generator().manual_seed(settings.random_state)
    v, upstream = torch.randn(2, n, n, generator=generator, dtype=torch.float64)

    def by_denominator(scores: Tensor) -> Tensor:
        return scores / scores.sum(-1, keepdim=True)

    outputs = {
        SOFTMAX: lambda scores: scores.softmax(-1) @ v,
        DENOMINATOR: lambda scores: by_denominator(scores) @ v,
        NORM: lambda scores: F.rms_norm(scores @ v, (n,), eps=_EPS),
    }
    loss: dict[str, list[float]] = {name: [] for name in outputs}
    weight = []
    for level in scale.levels:
        row = torch.full((n,), level, dtype=torch.float64)
        jacobian = torch.autograd.functional.jacobian(by_denominator, row)
        assert isinstance(jacobian, Tensor)
        weight.append(float(jacobian.abs().max()))
        for name, output in outputs.items():
            scores = row.expand(n, n).clone().requires_grad_()
            (gradient,) = torch.autograd.grad(output(scores), scores, upstream)
            loss[name].append(float(gradient.abs().max()))
    bound = attention_gradient_bound(v, upstream, _EPS)
    return Gradients(tuple(weight), {name: tuple(g) for name, g in loss.items()}, bound)


def _gradient_claims(scale: Scale, gradients: Gradients) -> list[Claim]:
    n = scale.scores
    errors = [
        abs(measured / ((1 / n) * (1 - 1 / n) / level) - 1)
        for measured, level in zip(gradients.weight, scale.levels, strict=True)
    ]
    levels = f"e = {scale.levels[0]:g} to {scale.levels[-1]:g}"
    return [
        Claim.at_most(
            f"unbounded with the denominator, all {n} scores e: max |dp/ds| against "
            f"(1/{n})(1 - 1/{n})/e, {levels}, largest relative error",
            max(errors),
            1e-6,
            expected="0",
        ),
        Claim.at_most(
            f"bounded with the norm: max |dL/ds| over 3 c1 c2 d / (2 sqrt(eps)), {levels}, eps = "
            f"{_EPS:g}",
            max(gradients.loss[NORM]) / gradients.bound,
            1.0,
            expected="≤ 1",
        ),
    ]


def _model_table(trained: dict[str, tuple[Trained, ...]]) -> Table:
    rows = []
    for name, results in trained.items():
        nlls = [result.nll for result in results]
        rows.append(
            (
                name,
                _mean(results, "nll"),
                float(np.std(nlls, ddof=1)) if len(nlls) > 1 else None,
                float(_local(results)[0]),
                _mean(results, "gradient_spread"),
                _mean(results, "seconds"),
            )
        )
    return Table(
        title="Character models that differ in their attention",
        columns=(
            "attention",
            "validation loss, nats",
            "its deviation over seeds",
            "local share of layer 1",
            "relative deviation of gradients",
            "training, s",
        ),
        rows=tuple(rows),
        note="The deviation of gradients is that of their norm over its mean, in the second half "
        "of training. The paper reports 0.58 for 1+elu, 0.25 for softmax and 0.20 for Norm; models "
        "of this size need not keep that order, and no claim rests on it.",
    )


def _anchors() -> tuple[Table, ...]:
    return (
        Table(
            title="WikiText-103, 156M parameters",
            columns=("model", "validation perplexity", "test perplexity"),
            rows=(
                ("Transformer", 29.63, 31.01),
                ("FLASH", 33.18, 34.63),
                ("1+elu", 32.63, 34.25),
                ("Performer", 75.29, 77.65),
                ("TransNormer T2", 29.57, 31.01),
            ),
            note="Quoted from arXiv 2210.10340.",
            published=True,
        ),
        Table(
            title="Averages over tasks",
            columns=("model", "GLUE", "Long Range Arena"),
            rows=(
                ("Transformer", 78.79, 57.37),
                ("cosFormer", None, 62.11),
                ("TransNormer T1", 79.38, 63.71),
                ("TransNormer T2", 78.78, 64.80),
            ),
            note="Quoted from arXiv 2210.10340.",
            published=True,
        ),
        Table(
            title="Choices inside TransNormer, perplexity of a masked language model",
            columns=("choice", "first", "second", "third"),
            rows=(
                ("block size 32, 64, 128", 3.92, 3.82, 3.72),
                ("Diag layers 0, 6, 12 of 12", 4.23, 3.82, 4.75),
                ("GLU, feed-forward block", 3.82, 3.93, None),
            ),
            note="Quoted from arXiv 2210.10340.",
            published=True,
        ),
    )


def _figure(scale: Scale, trained: dict[str, tuple[Trained, ...]], gradients: Gradients) -> Figure:
    with panel("window / text length", "share of the attention", title="locality, layer 1") as (
        left,
        axes,
    ):
        for index, name in enumerate((SOFTMAX, DENOMINATOR, T2)):
            if name in trained:
                local = _local(trained[name])[1:]
                axes.plot(scale.shares, local, "o-", color=SERIES[index], label=name)
        axes.set_ylim(0, 1.02)
        axes.legend(loc="lower right")
    with panel("nats a character", "", title="validation loss") as (middle, axes):
        names = list(trained)
        losses = [_mean(trained[name], "nll") for name in names]
        bars = axes.barh(names, losses)
        axes.bar_label(bars, fmt="%.3f", padding=3)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.2 * max(losses))
    with panel("common score e", "max |dL/ds|", title="gradient of a score") as (right, axes):
        for name in (SOFTMAX, DENOMINATOR, NORM):
            axes.plot(scale.levels, gradients.loss[name], "o-", label=name)
        axes.axhline(gradients.bound, color=MUTED, linestyle="--", label="bound of Norm")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_ylim(top=1e5 * gradients.bound)  # room for the legend
        axes.legend(loc="upper right")
    return Figure.render(
        "Where linear attention looks, and how steep it is",
        f"Left: share of the first layer's attention that falls within the last tokens, by the "
        f"window's length over {scale.length}. Middle: loss after {scale.steps} steps. Right: "
        f"largest derivative of a random loss by a score where all scores are e; Norm has eps = "
        f"{_EPS:g}, and is flat where e is below about {math.sqrt(_EPS):g}.",
        left,
        middle,
        right,
    )
