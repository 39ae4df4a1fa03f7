"""Every sequence mixer beside softmax attention: time and memory against the length.

Each mixer is the whole layer a language model uses, projections, convolutions and gates included,
of one width and number of heads. They compute different functions: what is compared is what a
layer costs. Softmax attention runs on torch's fused kernel, its decoding on a cache that grows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from rankone.nn import build_mixer
from torch import Tensor, nn

from bench.peers.registry import Benchmark, Call, Case, Contender, Goal, Work
from bench.peers.sequence import TRAIN

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SOFTMAX = "softmax attention"
WIDTH, HEADS = 256, 4

# Heads of a column -> registered name and options.
MIXERS: dict[str, tuple[str, dict[str, Any]]] = {
    SOFTMAX: ("softmax_attention", {}),
    "window of 64": ("sliding_window_attention", {"window_size": 64}),
    "lightning": ("lightning_attention", {}),
    "norm": ("norm_attention", {}),
    "diag": ("diag_attention", {"block_size": 64}),
    "hedgehog": ("hedgehog_attention", {}),
    "liger": ("liger_attention", {"window": 64}),
    "mlstm": ("mlstm", {}),
    "slstm": ("slstm", {}),
    "delta": ("delta_net", {}),
    "gated delta": ("gated_delta_net", {"head_dim": 64}),
    "memories": ("mixture_of_memories", {}),
    "tokenformer": ("tokenformer_attention", {}),
}

# The sLSTM runs a loop over time in Python; longer cases would be all that a run does.
_LOOP_LIMIT = 1024
_LENGTHS = tuple(2**power for power in range(8, 14))
_TRAIN_LENGTHS = _LENGTHS[:-1]
# Rounding of float32 through a layer, against the layer in float64.
_TOLERANCE = 1e-4
# A layer whose time doubles with the length has a power of 1; projections hold softmax below 2.
_LINEAR_POWER = 1.25


@dataclass(frozen=True)
class Inputs:
    """Tokens (1, T, width), or one token (1, width) and the length read before it."""

    x: Tensor
    output_grad: Tensor | None = None
    read: int = 0


def inputs(case: Case, device: torch.device, seed: int) -> Inputs:
    generator = torch.Generator(device).manual_seed(seed)
    time = int(case.axes["T"])
    train = case.mode == TRAIN
    shape = (1, WIDTH) if case.mode == "step" else (1, time, WIDTH)
    x = torch.empty(shape, device=device).normal_(generator=generator).requires_grad_(train)
    grad = torch.empty_like(x, requires_grad=False).normal_(generator=generator) if train else None
    return Inputs(x, grad, time if case.mode == "step" else 0)


def _layer(name: str, device: torch.device) -> nn.Module:
    torch.manual_seed(0)
    registered, options = MIXERS[name]
    return build_mixer(registered, WIDTH, HEADS, **options).to(device)


def _prepare(name: str, case: Case, given: Inputs) -> Call:
    layer = _layer(name, given.x.device)
    if case.mode == "step":
        layer.eval()
        with torch.no_grad():
            _, state = layer(
                torch.randn(1, given.read, WIDTH, device=given.x.device), return_state=True
            )

        def step() -> tuple[Tensor, ...]:
            with torch.no_grad():
                return (layer.step(given.x, state)[0],)

        return step
    if case.mode == TRAIN:
        leaves = [given.x, *layer.parameters()]

        def train() -> tuple[Tensor, ...]:
            y = layer(given.x)
            found = torch.autograd.grad(y, leaves, given.output_grad, allow_unused=True)
            return (y, *(gradient for gradient in found if gradient is not None))

        return train

    def forward() -> tuple[Tensor, ...]:
        with torch.no_grad():
            return (layer(given.x),)

    return forward


def _contender(name: str) -> Contender:
    def unavailable(case: Case, device: torch.device) -> str | None:
        if name == "slstm" and case.mode != "step" and int(case.axes["T"]) > _LOOP_LIMIT:
            return f"a loop over time in Python, timed up to T={_LOOP_LIMIT}"
        return None

    return Contender(
        name,
        lambda case, given: _prepare(name, case, given),
        unavailable,
        same_function=name == SOFTMAX,
    )


def cases(device: torch.device, quick: bool) -> Sequence[Case]:
    def grid(section: str, mode: str, lengths: Sequence[int], memory: bool) -> list[Case]:
        chosen = lengths[::2] if quick else lengths
        return [
            Case(section, mode, {"T": T, "D": WIDTH, "H": HEADS}, memory=memory) for T in chosen
        ]

    return [
        *grid("Forward", "forward", _LENGTHS, True),
        *grid("Training", TRAIN, _TRAIN_LENGTHS, True),
        *grid("One token after T", "step", _LENGTHS, False),
    ]


def work(case: Case) -> Work:
    """Of softmax attention: four projections and the lower triangle of scores and values."""
    time = 1 if case.mode == "step" else int(case.axes["T"])
    keys = int(case.axes["T"]) if case.mode == "step" else time / 2
    flops = time * (8 * WIDTH**2 + 4 * WIDTH * keys)
    times = 3 if case.mode == TRAIN else 1
    return Work(times * flops, times * 4 * (2 * time * WIDTH + 4 * WIDTH**2))


def error(case: Case, given: Inputs, results: tuple[Tensor, ...]) -> float:
    """Of softmax attention in float32, against the same layer in float64."""
    if case.mode == "step":
        # The cache that was read is not kept with the inputs; the layer's own tests hold it.
        return 0.0 if torch.isfinite(results[0]).all() else float("inf")
    layer = _layer(SOFTMAX, given.x.device).double()
    with torch.no_grad():
        exact = layer(given.x.detach().double())
    return float((results[0].detach() - exact).norm() / exact.norm())


def goals(rows: Sequence[Any], device: torch.device) -> list[Goal]:
    """Linear mixers grow with the length as they should, and decode at constant cost."""
    found = []
    linear = [name for name in MIXERS if name not in (SOFTMAX, "tokenformer")]
    for mode in ("forward", TRAIN):
        own = [row for row in rows if row.case.mode == mode]
        for what, measured in (("time", "timings"), ("memory", "extra_bytes")):
            powers = {}
            for name in linear:
                points = [
                    (int(row.case.axes["T"]), _value(getattr(row, measured)[name]))
                    for row in own
                    if name in getattr(row, measured)
                ]
                if len(points) >= 2:
                    powers[name] = _last_power(points)
            if powers:
                worst = max(powers, key=lambda name: powers[name])
                found.append(
                    Goal(
                        f"{mode}: {what} of every linear mixer grows as T^1 over the longest "
                        f"doublings (at most T^{_LINEAR_POWER})",
                        f"worst: {worst}, T^{powers[worst]:.2f}",
                        powers[worst] <= _LINEAR_POWER,
                    )
                )
    return found


def _value(measured: Any) -> float:
    return float(getattr(measured, "median", measured))


def _last_power(points: list[tuple[int, float]]) -> float:
    """Power of T between the last point and the one at a quarter of its length, or the first."""
    points = sorted(points)
    T, value = points[-1]
    before = [point for point in points[:-1] if point[0] <= T / 4] or points[:1]
    return math.log(value / before[-1][1]) / math.log(T / before[-1][0])


def figure(rows: Sequence[Any]) -> Figure:
    """Time a token and memory a token against the length, in both directions, one line a mixer."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(11, 7.5), layout="constrained")
    panels = drawn.subplots(2, 2, sharex=True)
    colors = colormaps["tab20"].colors
    for column, mode in enumerate(("forward", TRAIN)):
        own = [row for row in rows if row.case.mode == mode]
        for line, (axes, label, scale) in enumerate(
            zip(panels[:, column], ("microseconds a token", "kilobytes a token"), (1e6, 1e-3),
                strict=True)
        ):  # fmt: skip
            for color, name in zip(colors, MIXERS, strict=False):
                points = [
                    (int(row.case.axes["T"]), _value(source[name]))
                    for row in own
                    for source in (row.extra_bytes if line else row.timings,)
                    if name in source
                ]
                if points:
                    axes.plot(
                        [t for t, _ in points],
                        [scale * value / t for t, value in points],
                        "o-" if name == SOFTMAX else ".-",
                        color="black" if name == SOFTMAX else color,
                        label=name,
                    )
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_ylabel(label)
            axes.set_title(f"{mode}, width {WIDTH}, {HEADS} heads")
            axes.grid(alpha=0.3)
    for axes in panels[1]:
        axes.set_xlabel("length T")
    panels[0, 1].legend(loc="center left", bbox_to_anchor=(1.0, 0.0))
    return drawn


BENCHMARK = Benchmark(
    name="mixers",
    title="Sequence mixers beside softmax attention",
    contenders=[_contender(name) for name in MIXERS],
    cases=cases,
    inputs=inputs,
    work=work,
    error=error,
    tolerance=lambda case: _TOLERANCE,
    goals=goals,
    figure=figure,
    notes=(
        "A column `x mixer` says how many times as long as softmax attention the mixer takes: "
        "below 1 it is faster.",
        "Whole layers of one width: they compute different functions and differ in parameters.",
    ),
)
