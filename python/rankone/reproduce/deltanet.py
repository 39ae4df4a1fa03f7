"""DeltaNet (arXiv 2406.06484): the delta rule in chunks, exactly, and what a memory recalls by it.

Exactness is held against the token loop. Capacity is measured on untrained memories, where theory
gives the error of linear attention. Recall is learnt by one-layer models that differ in the mixing
op alone, on a task whose keys are written more than once, and in full mode on MQAR as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rankone import _timing
from rankone.datasets import mqar, recall_with_overwrite
from rankone.ops import delta_rule, delta_rule_reference, linear_attention
from rankone.reproduce import MUTED, Claim, Figure, Reproduction, Settings, Table, panel
from rankone.reproduce._recall import (
    ExchangedOp,
    RecallResult,
    RecallTraining,
    recall_model,
    train_recall,
)

SOFTMAX = "softmax attention"
LINEAR = "linear attention"
DECAYED = "linear attention, learnt decay"
DELTA = "DeltaNet"
GATED = "GatedDeltaNet"

GATES = ("no gate", "scalar gate", "channel gate")
CHUNK_SIZES = (16, 32, 64)

# Size of the matrix whose QR decomposition the delta rule replays.
_QR_SIZE = 12

_TRAINING = RecallTraining()


@dataclass(frozen=True)
class Mqar:
    """One setting of multi-query associative recall."""

    seq_len: int
    num_kv_pairs: int
    vocab_size: int


@dataclass(frozen=True)
class Scale:
    """Sizes of one run.

    Attributes:
        exact_time, head_dim: shape of the exactness checks.
        draws, pairs: random memories a point, and the numbers of stored pairs (the claims are at
            the first, second and last).
        passes: times that the pairs of a quarter of the memories are written once more.
        hidden_size, vocab_size, seq_len, num_keys, rounds: of the overwrite task and its models.
        initializer_range: standard deviation of the models' initial weights.
        training: how they learn.
        test_examples: sequences that they are scored on.
        mqar: settings of MQAR, harder ones last.
        mqar_sizes, mqar_rates, mqar_layers: hidden sizes, peak learning rates and layers tried.
        mqar_training, mqar_test_examples: how those models learn and are scored.
        timed_lengths: lengths of the kernel timings, on a CUDA device.
    """

    exact_time: int = 512
    head_dim: int = 64
    draws: int = 200
    pairs: tuple[int, ...] = (16, 32, 48, 64)
    passes: int = 20
    hidden_size: int = 32
    vocab_size: int = 128
    seq_len: int = 64
    num_keys: int = 8
    rounds: int = 2
    initializer_range: float = 0.15
    training: RecallTraining = _TRAINING
    test_examples: int = 512
    mqar: tuple[Mqar, ...] = ()
    mqar_sizes: tuple[int, ...] = (32,)
    mqar_rates: tuple[float, ...] = (1e-2,)
    mqar_layers: int = 1
    mqar_training: RecallTraining = _TRAINING
    mqar_test_examples: int = 512
    timed_lengths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.pairs) < 3:
            raise ValueError(f"pairs must have at least three entries, got {self.pairs}")


QUICK = Scale()
FULL_CPU = Scale(mqar=(Mqar(128, 32, 256),))
FULL_CUDA = Scale(
    mqar=(Mqar(64, 4, 8192), Mqar(128, 8, 8192), Mqar(256, 16, 8192), Mqar(512, 64, 8192)),
    mqar_sizes=(64, 128, 256, 512),
    mqar_rates=(1e-4, 10**-3.33, 10**-2.67, 1e-2),
    mqar_layers=2,
    # 64 epochs.
    mqar_training=RecallTraining(
        steps=64 * 100_000 // 256, batch_size=256, examples=100_000, score_every=1000
    ),
    mqar_test_examples=3000,
    timed_lengths=(8192, 16384, 32768),
)


def run(settings: Settings) -> Reproduction:
    """Exactness, capacity of untrained memories, and recall after training."""
    full = FULL_CUDA if torch.device(settings.device).type == "cuda" else FULL_CPU
    scale = settings.scale(quick=QUICK, full=full)
    errors = _retrieval_errors(settings, scale)
    results = _overwrite_results(settings, scale)
    claims = [
        *_exactness_claims(settings, scale),
        _qr_claim(settings),
        *_capacity_claims(scale, errors),
        *_overwrite_claims(results),
    ]
    tables = [_overwrite_table(results)]
    if scale.mqar:
        more_claims, table = _mqar(settings, scale)
        claims += more_claims
        tables.append(table)
    if scale.timed_lengths:
        tables.append(_kernel_times(settings, scale))
    tables.append(_kernel_anchors())
    return Reproduction(
        slug="deltanet",
        claims=tuple(claims),
        tables=tuple(tables),
        figures=(_figure(scale, results, errors),),
        settings={
            "task": f"{scale.num_keys} keys written {scale.rounds} times, then asked for once, in "
            f"{scale.seq_len} tokens of {scale.vocab_size}",
            "models": f"one layer, width {scale.hidden_size}, one head, convolution of 4 tokens, "
            "no feed-forward block",
            "training": f"{scale.training.steps} steps of {scale.training.batch_size} sequences, "
            f"peak learning rate {scale.training.learning_rate:g}",
        },
    )


def _exact_inputs(settings: Settings, scale: Scale, gate: str) -> dict[str, Any]:
    """Unit keys, write strengths in (0, 1) and log-decays in float64."""
    generator = torch.Generator().manual_seed(settings.random_state)
    time, dim = scale.exact_time, scale.head_dim
    q, k, v = torch.randn(3, 1, time, 1, dim, generator=generator, dtype=torch.float64)
    beta = torch.rand(1, time, 1, generator=generator, dtype=torch.float64)
    inputs = {"q": q, "k": F.normalize(k, dim=-1), "v": v, "beta": beta}
    shape = {"no gate": None, "scalar gate": beta.shape, "channel gate": k.shape}[gate]
    if shape is not None:
        logits = torch.randn(shape, generator=generator, dtype=torch.float64)
        inputs["log_decay"] = F.logsigmoid(logits) / 16
    return {name: tensor.to(settings.device) for name, tensor in inputs.items()}


def _relative_error(measured: Tensor, exact: Tensor) -> float:
    return float((measured.double() - exact).norm() / exact.norm())


def _exactness_claims(settings: Settings, scale: Scale) -> list[Claim]:
    shape = f"T = {scale.exact_time}, K = V = {scale.head_dim}"
    claims = []
    for gate in GATES:
        inputs = _exact_inputs(settings, scale, gate)
        results = delta_rule(**inputs, output_final_state=True)
        exact = delta_rule_reference(**inputs, output_final_state=True)
        pairs: Any = zip(results, exact, strict=True)
        claims.append(
            Claim.at_most(
                f"chunks = token loop in float64, {gate}, {shape}: relative error of output and "
                "state, the larger",
                max(_relative_error(ours, theirs) for ours, theirs in pairs),
                1e-12,
                expected="0",
                strict=True,
            )
        )
    inputs = _exact_inputs(settings, scale, "no gate")
    loop, _ = delta_rule_reference(**inputs)
    single = {name: tensor.float() for name, tensor in inputs.items()}
    for chunk_size in CHUNK_SIZES:
        o, _ = delta_rule(**single, chunk_size=chunk_size)
        claims.append(
            Claim.at_most(
                f"float32 in chunks of {chunk_size}: relative error to the float64 token loop",
                _relative_error(o, loop),
                1e-6,
                expected="0",
                strict=True,
            )
        )
    return claims


def _qr_claim(settings: Settings) -> Claim:
    """Householder reflections are delta-rule steps that write nothing: k = v_i, beta = tau_i."""
    generator = torch.Generator().manual_seed(settings.random_state)
    matrix = torch.randn(_QR_SIZE, _QR_SIZE, generator=generator, dtype=torch.float64)
    packed, tau = torch.geqrf(matrix)
    keys = packed.tril(-1) + torch.eye(_QR_SIZE, dtype=torch.float64)
    k = keys.T[None, :, None].to(settings.device)
    identity = torch.eye(_QR_SIZE, dtype=torch.float64, device=settings.device)
    _, state = delta_rule(
        torch.zeros_like(k),
        k,
        torch.zeros_like(k),
        tau[None, :, None].to(settings.device),
        initial_state=identity[None, None],
        output_final_state=True,
    )
    assert state is not None
    orthogonal = torch.linalg.householder_product(packed, tau)
    return Claim.at_most(
        f"the reflections of LAPACK's QR decomposition, n = {_QR_SIZE}, written into the identity "
        "leave the transposed Q: relative error",
        _relative_error(state[0, 0].cpu(), orthogonal.T),
        1e-12,
        expected="0",
        strict=True,
    )


def _retrieval_errors(settings: Settings, scale: Scale) -> dict[str, dict[int, float]]:
    """Squared error of reading stored pairs back, over their squared norm, by number of pairs."""
    dim = scale.head_dim
    generator = torch.Generator().manual_seed(settings.random_state)
    errors: dict[str, dict[int, float]] = {LINEAR: {}, "one pass": {}, "many passes": {}}
    for count in settings.track(scale.pairs, "filling memories"):
        k, v = torch.randn(2, scale.draws, count, 1, dim, generator=generator, dtype=torch.float64)
        k, v = F.normalize(k, dim=-1).to(settings.device), v.to(settings.device)
        states = {
            LINEAR: linear_attention(k, k, v, output_final_state=True)[1],
            "one pass": _written(k, v, 1),
            "many passes": _written(k[: -(-scale.draws // 4)], v, scale.passes),
        }
        for name, state in states.items():
            assert isinstance(state, Tensor)
            memories = state.shape[0]
            read = k[:memories, :, 0] @ state[:, 0]
            stored = v[:memories, :, 0]
            errors[name][count] = float((read - stored).square().sum() / stored.square().sum())
    return errors


def _written(k: Tensor, v: Tensor, passes: int) -> Tensor:
    """State after writing the pairs of ``k`` in full strength, over and over."""
    k, v = k.repeat(1, passes, 1, 1), v[: k.shape[0]].repeat(1, passes, 1, 1)
    _, state = delta_rule(k, k, v, k.new_ones(k.shape[:3]), output_final_state=True)
    assert state is not None
    return state


def _capacity_claims(scale: Scale, errors: dict[str, dict[int, float]]) -> list[Claim]:
    claims = []
    shown = (scale.pairs[0], scale.pairs[1], scale.pairs[-1])
    for count in shown:
        claims.append(
            Claim.close(
                f"untrained memory of linear attention, K = {scale.head_dim}, {count} pairs: "
                "relative squared error of reading, (N - 1) / K",
                errors[LINEAR][count],
                (count - 1) / scale.head_dim,
                relative=0.03,
            )
        )
    for count in shown:
        claims.append(
            Claim.at_most(
                f"delta rule, beta = 1, one pass over {count} pairs: its error over that of linear "
                "attention",
                errors["one pass"][count] / errors[LINEAR][count],
                0.65,
                note=f"error {errors['one pass'][count]:.3f}",
            )
        )
    claims.append(
        Claim.at_most(
            f"delta rule, {scale.passes} passes over {shown[0]} pairs: error",
            errors["many passes"][shown[0]],
            1e-8,
            expected="towards 0",
            strict=True,
        )
    )
    return claims


Model = tuple[Callable[..., torch.nn.Module] | str, dict[str, Any]]


def _models(hidden_size: int) -> dict[str, Model]:
    """The compared layers: one layer with its mixing op exchanged."""
    gated = {"head_dim": hidden_size, "expand_v": 1.0, "use_output_gate": False}
    return {
        SOFTMAX: (ExchangedOp, {"op": "softmax_attention"}),
        LINEAR: (ExchangedOp, {"op": "linear_attention"}),
        DECAYED: (ExchangedOp, {"op": "decayed_linear_attention"}),
        DELTA: ("delta_net", {}),
        GATED: ("gated_delta_net", gated),
    }


def _overwrite_results(settings: Settings, scale: Scale) -> dict[str, RecallResult]:
    def draw(count: int, seed: int):
        return recall_with_overwrite(
            count, scale.seq_len, scale.num_keys, scale.vocab_size, seed, scale.rounds
        )

    results = {}
    for name, (mixer, options) in _models(scale.hidden_size).items():
        model = recall_model(
            mixer,
            vocab_size=scale.vocab_size,
            hidden_size=scale.hidden_size,
            initializer_range=scale.initializer_range,
            random_state=settings.random_state,
            device=settings.device,
            **options,
        )
        results[name] = train_recall(
            model,
            draw,
            scale.training,
            test_examples=scale.test_examples,
            random_state=settings.random_state,
            description=f"training {name}",
            progress=settings.progress,
        )
    return results


def _overwrite_claims(results: dict[str, RecallResult]) -> list[Claim]:
    return [
        Claim.close(
            "overwrite recall, linear attention can only add, so it guesses between two values: "
            "accuracy",
            results[LINEAR].accuracy,
            0.5,
            absolute=0.1,
        ),
        Claim.at_least(
            "overwrite recall, DeltaNet: accuracy", results[DELTA].accuracy, 0.97, expected="1"
        ),
        Claim.at_least(
            "overwrite recall, GatedDeltaNet: accuracy", results[GATED].accuracy, 0.97, expected="1"
        ),
    ]


def _overwrite_table(results: dict[str, RecallResult]) -> Table:
    return Table(
        title="Recall of the last value of keys written twice",
        columns=("mixing op", "accuracy", "parameters", "training, s"),
        rows=tuple(
            (name, result.accuracy, result.parameters, result.seconds)
            for name, result in results.items()
        ),
        note="Share of queries answered right. Softmax attention has no positions here, so it can "
        "not tell a first value from a last one; a decay lets linear attention prefer the later.",
    )


def _mqar(settings: Settings, scale: Scale) -> tuple[list[Claim], Table]:
    """The best accuracy over learning rates, for every setting, size and op."""
    rows = []
    best: dict[tuple[str, int, int], float] = {}
    for index, setting in enumerate(scale.mqar):
        for size in scale.mqar_sizes:
            for name in (LINEAR, DELTA):
                best[name, index, size] = max(
                    _mqar_accuracy(settings, scale, setting, size, rate, name)
                    for rate in scale.mqar_rates
                )
            rows.append(
                (
                    setting.seq_len,
                    setting.num_kv_pairs,
                    size,
                    best[LINEAR, index, size],
                    best[DELTA, index, size],
                )
            )
    table = Table(
        title="Multi-query associative recall",
        columns=("tokens", "pairs", "width", f"accuracy: {LINEAR}", f"accuracy: {DELTA}"),
        rows=tuple(rows),
        note=f"{scale.mqar_layers} layer(s), the best of the peak learning rates "
        + ", ".join(f"{rate:.2g}" for rate in scale.mqar_rates),
    )
    last, widest = len(scale.mqar) - 1, scale.mqar_sizes[-1]
    hardest = scale.mqar[-1]
    delta, linear = best[DELTA, last, widest], best[LINEAR, last, widest]
    what = f"MQAR, {hardest.num_kv_pairs} pairs in {hardest.seq_len} tokens, width {widest}"
    claims = [Claim.at_least(f"{what}: accuracy of DeltaNet", delta, 0.95, expected="1")]
    if len(scale.mqar) == 1:
        # Where the memory is just full; both solve the settings of the paper when wide.
        claims.append(
            Claim.at_least(
                f"{what}: accuracy of DeltaNet above that of linear attention",
                delta - linear,
                0.02,
                expected="above 0",
            )
        )
    return claims, table


def _mqar_accuracy(
    settings: Settings, scale: Scale, setting: Mqar, size: int, rate: float, name: str
) -> float:
    def draw(count: int, seed: int):
        return mqar(count, setting.seq_len, setting.num_kv_pairs, setting.vocab_size, seed)

    mixer, options = _models(size)[name]
    model = recall_model(
        mixer,
        vocab_size=setting.vocab_size,
        hidden_size=size,
        num_layers=scale.mqar_layers,
        initializer_range=scale.initializer_range,
        random_state=settings.random_state,
        device=settings.device,
        **options,
    )
    result = train_recall(
        model,
        draw,
        replace(scale.mqar_training, learning_rate=rate),
        test_examples=scale.mqar_test_examples,
        random_state=settings.random_state,
        description=f"MQAR, {setting.num_kv_pairs} pairs, width {size}, {name}",
        progress=settings.progress,
    )
    return result.accuracy


def _kernel_times(settings: Settings, scale: Scale) -> Table:
    """Forward and backward at batch 1, 16 heads, K = V = 128, bfloat16, with a scalar gate."""
    rows = []
    for length in settings.track(scale.timed_lengths, "timing kernels"):
        generator = torch.Generator().manual_seed(settings.random_state)
        shape = (3, 1, length, 16, 128)
        q, k, v = torch.randn(shape, generator=generator).to(settings.device, torch.bfloat16)
        beta = torch.rand(1, length, 16, generator=generator).to(settings.device)
        log_decay = F.logsigmoid(torch.randn(1, length, 16, generator=generator)) / 16
        leaves = [
            tensor.requires_grad_() for tensor in (q, k, v, beta, log_decay.to(settings.device))
        ]

        def forward(leaves: list[Tensor] = leaves) -> Tensor:
            *inputs, decay = leaves
            return delta_rule(*inputs, log_decay=decay, use_qk_l2norm=True)[0]

        output = forward()
        upstream = torch.ones_like(output)

        def backward(
            output: Tensor = output, upstream: Tensor = upstream, leaves: list[Tensor] = leaves
        ) -> object:
            return torch.autograd.grad(output, leaves, upstream, retain_graph=True)

        timings = _timing.interleaved(
            {"forward": forward, "backward": backward},
            repeats=10,
            synchronize=torch.cuda.synchronize,
        )
        rows.append((length, timings["forward"].median * 1e3, timings["backward"].median * 1e3))
    return Table(
        title="Kernel times: gated delta rule, batch 1, 16 heads, K = V = 128, bfloat16",
        columns=("T", "forward, ms", "backward, ms"),
        rows=tuple(rows),
        note="Medians of alternating rounds on this machine.",
    )


def _kernel_anchors() -> Table:
    return Table(
        title="Gated delta rule forward, published times on one H200",
        columns=(
            "value heads",
            "T",
            "FlashQLA, ms",
            "flash-linear-attention, ms",
            "FlashInfer, ms",
        ),
        rows=((8, 32768, 0.320, 0.902, 1.655), (32, 32768, 0.885, 1.885, 1.555)),
        note="Head dim 128, quoted from FlashQLA's benchmark: another machine.",
        published=True,
    )


def _figure(
    scale: Scale, results: dict[str, RecallResult], errors: dict[str, dict[int, float]]
) -> Figure:
    with panel("training step", "test accuracy", title="recall of overwritten values") as (
        left,
        axes,
    ):
        for name in (SOFTMAX, LINEAR, DELTA, GATED):
            axes.plot(results[name].steps, results[name].accuracies, label=name)
        axes.set_ylim(0, 1.02)
        axes.legend(loc="lower right")
    with panel("stored pairs", "relative squared error", title="reading untrained memories") as (
        right,
        axes,
    ):
        line = [(count - 1) / scale.head_dim for count in scale.pairs]
        axes.plot(scale.pairs, line, color=MUTED, linestyle="--", label="(N - 1) / K")
        labels = {
            LINEAR: LINEAR,
            "one pass": "delta rule, 1 pass",
            "many passes": f"delta rule, {scale.passes} passes",
        }
        for name, label in labels.items():
            axes.plot(
                scale.pairs, [errors[name][count] for count in scale.pairs], "o-", label=label
            )
        axes.set_xticks(scale.pairs)
        axes.legend()
    return Figure.render(
        "What a memory of fixed size holds",
        f"Left: share of {scale.num_keys} keys, each written {scale.rounds} times, whose last "
        f"value one layer of width {scale.hidden_size} recalls. Right: error of reading back N "
        f"random pairs from an untrained memory with {scale.head_dim} key channels, mean of "
        f"{scale.draws} draws.",
        left,
        right,
    )
