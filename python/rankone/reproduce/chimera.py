"""Chimera (arXiv 2406.04320): what a scan with two coupled axes can do that others cannot.

A lattice whose variates drive each other is forecast with and without the variate axis, in both
orientations; a task whose answer depends on the input tells selective from constant parameters;
and the operator is held against facts about its impulse response, its gain and its cost. On real
data the model is set beside a linear forecaster and repetition, with no claim of a win.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rankone import _timing
from rankone.datasets import hourly_traffic
from rankone.nn import ChimeraBlock
from rankone.ops import roesser_kernel, selective_scan_2d
from rankone.reproduce import (
    MUTED,
    Claim,
    Figure,
    Reproduction,
    Settings,
    Table,
    against_length,
    panel,
)
from rankone.reproduce._chimera_full import full_tables

FORWARD_ONLY = "2D scan, driver first"
NO_VARIATES = "no variate axis, driver first"
AGAINST = "2D scan, driver last"
BOTH_WAYS = "2D scan both ways, driver last"

# Of the lattice: how the variates follow each other.
_FOLLOWS, _NOISE = 0.95, 0.3
_BAYES_ERROR = _NOISE**2
_BURN_IN = 8

# Penalty of the least-squares weights on the hourly traffic, for each row.
_LINEAR_PENALTY = 1e-3

# Discrete transitions and vectors of the rank claim.
_TRANSITIONS = (0.6, 0.3, 0.4, 0.5)
_VECTORS = (1.2, 0.7, 0.9, -1.1)


@dataclass(frozen=True)
class Scale:
    """Sizes of one run.

    Attributes:
        variates, length: of the lattice.
        width, state: of the models of both tasks.
        seeds: of weights and data of the lattice models.
        steps, batch_size: of their training, on fresh windows.
        test_windows: that both tasks are scored on.
        hold_steps, hold_length: of the task of holding the last flagged value.
        kernel_shape: of the impulse responses whose rank is taken.
        gain_grid: side of the grid whose far corner shows the gain.
        timed_lengths: of the time claim, and of the figure.
        timed_shape: batch, variates, channels and states of the timings.
        repeats: rounds of the timings.
        lookback, horizon: of the hourly traffic.
        traffic_epochs, traffic_batches, traffic_width, traffic_state: of its Chimera.
        beyond: also measure what only the full mode does.
        data_dir: folder with the benchmark files of the user (ETTh1.csv and so on, ptbxl.npz).
        lookbacks, horizons: tried on those files.
    """

    variates: int = 5
    length: int = 33
    width: int = 16
    state: int = 8
    seeds: tuple[int, ...] = (0, 1)
    steps: int = 250
    batch_size: int = 16
    test_windows: int = 256
    hold_steps: int = 300
    hold_length: int = 32
    kernel_shape: tuple[int, int] = (12, 12)
    gain_grid: int = 120
    timed_lengths: tuple[int, ...] = (48, 96, 192, 384)
    timed_shape: tuple[int, int, int, int] = (8, 7, 64, 16)
    repeats: int = 7
    lookback: int = 96
    horizon: int = 24
    traffic_epochs: int = 4
    traffic_batches: int | None = 60
    traffic_width: int = 16
    traffic_state: int = 8
    beyond: bool = False
    data_dir: str | None = None
    lookbacks: tuple[int, ...] = (96, 336, 720)
    horizons: tuple[int, ...] = (96, 192, 336, 720)

    def __post_init__(self) -> None:
        if not {96, 192} <= set(self.timed_lengths):
            raise ValueError(f"timed_lengths must hold 96 and 192, got {self.timed_lengths}")


QUICK = Scale()
FULL = Scale(
    timed_lengths=(96, 192, 384, 768, 1536),
    traffic_epochs=10,
    traffic_batches=None,
    traffic_width=64,
    traffic_state=16,
    beyond=True,
)


def run(settings: Settings) -> Reproduction:
    """The lattice, the rank, the gain, the cost, the selective task, and real traffic."""
    scale = settings.scale(quick=QUICK, full=FULL)
    errors = _lattice_errors(settings, scale)
    timings = _forward_times(settings, scale)
    hold_claims = _hold_claims(settings, scale)
    return Reproduction(
        slug="chimera",
        claims=(
            *_lattice_claims(errors),
            *_rank_claims(scale),
            _gain_claim(settings, scale),
            _time_claim(timings),
            *hold_claims,
        ),
        tables=(
            _lattice_table(errors),
            _time_table(scale, timings),
            _traffic(settings, scale),
            *(full_tables(settings, scale) if scale.beyond else ()),
        ),
        figures=(_figure(scale, errors, timings),),
        settings={
            "lattice": f"{scale.variates} variates, windows of {scale.length} steps, follows "
            f"{_FOLLOWS:g} of its neighbour, noise {_NOISE:g}",
            "models": f"one block, width {scale.width}, {scale.state} states, one head, no "
            "convolution",
            "training": f"{scale.steps} steps of {scale.batch_size} fresh windows, AdamW, learning "
            "rate 0.005",
        },
    )


# The lattice.


def lattice(
    windows: int, variates: int, length: int, generator: torch.Generator, *, driver_first: bool
) -> Tensor:
    """Windows (B, V, T) of a lattice in which each variate follows the one before it.

    The driver is white noise e of variance 1; every other is x[v,t] = 0.95 x[v-1,t-1] + 0.3 e.

    Args:
        windows, variates, length: B, V and T.
        generator: of the noise.
        driver_first: False mirrors the variates.
    """
    noise = torch.randn(windows, variates, length + _BURN_IN, generator=generator)
    x = torch.zeros_like(noise)
    x[:, 0] = noise[:, 0]
    for v in range(1, variates):
        x[:, v] = _NOISE * noise[:, v]
        x[:, v, 1:] += _FOLLOWS * x[:, v - 1, :-1]
    x = x[:, :, _BURN_IN:]
    return x if driver_first else x.flip(1)


class _CellModel(nn.Module):
    """Linear map into a block and out of it, cell by cell: (B, V, T, features) to (B, V, T)."""

    def __init__(self, scale: Scale, features: int = 1, **options: Any) -> None:
        super().__init__()
        self.embedding = nn.Linear(features, scale.width)
        self.block = ChimeraBlock(
            scale.width, scale.state, ("trend",), expand=1, d_conv=0, **options
        )
        self.head = nn.Linear(scale.width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.embedding(x)))[..., 0]


# Options of the block, and whether the driver is the first variate.
_LATTICE_MODELS: dict[str, tuple[dict[str, Any], bool]] = {
    FORWARD_ONLY: ({"bidirectional": False}, True),
    NO_VARIATES: ({"bidirectional": False, "variates": False}, True),
    AGAINST: ({"bidirectional": False}, False),
    BOTH_WAYS: ({"bidirectional": True}, False),
}


def _lattice_errors(settings: Settings, scale: Scale) -> dict[str, tuple[float, ...]]:
    """One-step-ahead error on the variates that follow, by model, one number a seed."""
    errors = {}
    for name, (options, driver_first) in _LATTICE_MODELS.items():
        errors[name] = tuple(
            _lattice_error(settings, scale, name, seed, driver_first, options)
            for seed in scale.seeds
        )
    return errors


def _lattice_error(
    settings: Settings,
    scale: Scale,
    name: str,
    seed: int,
    driver_first: bool,
    options: dict[str, Any],
) -> float:
    seed += settings.random_state
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _CellModel(scale, **options).to(settings.device)
    generator = torch.Generator().manual_seed(1000 + seed)

    def draw(windows: int) -> Tensor:
        x = lattice(windows, scale.variates, scale.length, generator, driver_first=driver_first)
        return x.to(settings.device)

    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
    for _ in settings.track(range(scale.steps), f"{name}, seed {seed}"):
        x = draw(scale.batch_size)
        loss = (model(x[..., None])[:, :, :-1] - x[:, :, 1:]).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    x = draw(scale.test_windows)
    with torch.no_grad():
        error = (model(x[..., None])[:, :, :-1] - x[:, :, 1:]).square()
    # Targets from step 8 on, of the variates that follow another.
    error = error[:, :, min(7, scale.length - 2) :]
    return float((error[:, 1:] if driver_first else error[:, :-1]).mean())


def _lattice_claims(errors: dict[str, tuple[float, ...]]) -> list[Claim]:
    learnt = f"towards {_BAYES_ERROR:g}"
    below = {FORWARD_ONLY: "sees the driver", BOTH_WAYS: "sees it again"}
    above = {NO_VARIATES: "cannot see it", AGAINST: "looks the wrong way"}
    claims = []
    for name, values in errors.items():
        if name in below:
            claims.append(
                Claim.at_most(
                    f"{name}, {below[name]}: largest error over seeds",
                    max(values),
                    0.20,
                    expected=learnt,
                    strict=True,
                )
            )
        else:
            claims.append(
                Claim.at_least(
                    f"{name}, {above[name]}: smallest error over seeds",
                    min(values),
                    0.90,
                    expected="about 1",
                    strict=True,
                )
            )
    return claims


def _lattice_table(errors: dict[str, tuple[float, ...]]) -> Table:
    seeds = len(next(iter(errors.values())))
    return Table(
        title="One-step-ahead error on the lattice",
        columns=("model", *(f"seed {seed}" for seed in range(seeds))),
        rows=tuple((name, *values) for name, values in errors.items()),
        note=f"Mean squared error of the variates that follow another; {_BAYES_ERROR:g} is the "
        "variance of their own noise, about 1 that of the series.",
    )


# The operator.


def _constant(*values: float) -> list[Tensor]:
    return [torch.tensor([[value]], dtype=torch.float64) for value in values]


def _impulse_response(scale: Scale, a2: float, a3: float) -> Tensor:
    a1, _, _, a4 = _TRANSITIONS
    system: list[Any] = [*_constant(a1, a2, a3, a4, *_VECTORS), scale.kernel_shape]
    return roesser_kernel(*system)[0]


def _rank(kernel: Tensor) -> int:
    values = torch.linalg.svdvals(kernel)
    return int((values > 1e-12 * values[0]).sum())


def _rank_claims(scale: Scale) -> list[Claim]:
    _, a2, a3, _ = _TRANSITIONS
    rows, columns = scale.kernel_shape
    what = f"rank of the impulse response on {rows} x {columns} cells"
    without = tuple(
        _rank(_impulse_response(scale, *pair)) for pair in ((0.0, a3), (a2, 0.0), (0.0, 0.0))
    )
    return [
        Claim.at_least(f"{what}, both ways coupled", _rank(_impulse_response(scale, a2, a3)), 10),
        Claim.exact(f"{what}, without A2, without A3, without both", without, (2, 2, 2)),
    ]


def _gain_claim(settings: Settings, scale: Scale) -> Claim:
    """y far from the borders for a constant input, at three steps along time."""
    a1, a2, a3, a4, b1, b2, c1, c2 = (
        tensor.to(settings.device) for tensor in _constant(-1, 0.5, 0.4, -2, 0.7, 1.1, 1, -0.5)
    )
    side = scale.gain_grid
    x = torch.ones(1, side, side, 1, dtype=torch.float64, device=settings.device)
    gains = []
    for step in (0.1, 0.3, 1.0):
        y = selective_scan_2d(x, step * x, 2 * step * x, a1, a2, a3, a4, b1, b2, c1, c2)
        assert isinstance(y, Tensor)
        gains.append(float(y[0, -1, -1, 0]))
    return Claim.at_most(
        f"gain for a constant input under zoh, steps 0.1, 0.3 and 1, {side} x {side} cells: spread",
        max(gains) - min(gains),
        1e-3,
        expected="0",
        note="gains " + ", ".join(f"{gain:.6f}" for gain in gains) + "; 0.7 by the closed form",
    )


def _forward_times(settings: Settings, scale: Scale) -> dict[int, _timing.Timing]:
    """Forward times of the op by length, float32."""
    batch, variates, channels, n = scale.timed_shape
    generator = torch.Generator().manual_seed(settings.random_state)

    def call(time: int) -> Callable[[], object]:
        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).to(settings.device)

        cells = (batch, variates, time)
        x, dt1, dt2 = (normal(*cells, channels) for _ in range(3))
        vectors = [normal(*cells, n) for _ in range(4)]
        decay = -torch.exp(0.5 * normal(channels, n))
        coupling = 0.5 * decay
        arguments = (decay, coupling, coupling, decay, *vectors)
        return lambda: selective_scan_2d(x, dt1, dt2, *arguments, dt_softplus=True)

    cuda = torch.device(settings.device).type == "cuda"
    with torch.no_grad():
        return _timing.interleaved(
            {time: call(time) for time in scale.timed_lengths},
            repeats=scale.repeats,
            synchronize=torch.cuda.synchronize if cuda else None,
        )


def _time_claim(timings: dict[int, _timing.Timing]) -> Claim:
    ratio = _timing.ratio(timings[192], timings[96])
    holds = Claim.close(
        "time of the forward pass at T = 192 over T = 96", ratio.median, 2.0, absolute=0.4,
        note=f"quartiles over rounds {ratio.low:.2f} and {ratio.high:.2f}",
    )  # fmt: skip
    return holds


def _time_table(scale: Scale, timings: dict[int, _timing.Timing]) -> Table:
    batch, variates, channels, n = scale.timed_shape
    cells = batch * variates * channels * n
    return Table(
        title="Forward pass, float32",
        columns=("T", "time, ms", "10^9 state-cells a second"),
        rows=tuple(
            (time, 1e3 * timing.median, 1e-9 * cells * time / timing.median)
            for time, timing in timings.items()
        ),
        note=f"Batch {batch}, {variates} variates, {channels} channels, {n} states; a state-cell "
        "is one cell, channel and state. Medians of alternating rounds on this machine, "
        f"{torch.get_num_threads()} thread(s).",
    )


# Holding the last flagged value.


def flagged_values(windows: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Cells (B, 2, T, 2) of (value, flag), and each row's value at its last flag, (B, 2, T).

    A cell is flagged with probability 0.15, and the first of a row always.
    """
    value = torch.randn(windows, 2, length, generator=generator)
    flag = torch.rand(windows, 2, length, generator=generator) < 0.15
    flag[:, :, 0] = True
    steps = torch.arange(length).expand_as(flag)
    last = torch.where(flag, steps, 0).cummax(-1).values
    return torch.stack([value, flag.float()], -1), value.gather(-1, last)


def _hold_claims(settings: Settings, scale: Scale) -> list[Claim]:
    claims = []
    for selective, statement in (
        (True, "input-dependent parameters hold the last flagged value: error"),
        (False, "constant parameters cannot: error"),
    ):
        error, variance = _hold_error(settings, scale, selective)
        note = f"variance of the target {variance:.3f}"
        if selective:
            claim = Claim.at_most(statement, error, 0.05, expected="0", strict=True, note=note)
        else:
            claim = Claim.at_least(statement, error, 0.2, expected="far above 0", strict=True)
        claims.append(claim)
    return claims


def _hold_error(settings: Settings, scale: Scale, selective: bool) -> tuple[float, float]:
    """Test error of a model, and the variance of the target."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.random_state)
        model = _CellModel(scale, 2, bidirectional=False, selective=selective)
    model = model.to(settings.device)
    generator = torch.Generator().manual_seed(1000 + settings.random_state)

    def draw(windows: int) -> tuple[Tensor, Tensor]:
        x, target = flagged_values(windows, scale.hold_length, generator)
        return x.to(settings.device), target.to(settings.device)

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    name = "selective" if selective else "constant"
    for _ in settings.track(range(scale.hold_steps), f"last flagged value, {name}"):
        x, target = draw(scale.batch_size)
        loss = (model(x) - target).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    x, target = draw(scale.test_windows)
    with torch.no_grad():
        return float((model(x) - target).square().mean()), float(target.var())


# Real data.


def _traffic(settings: Settings, scale: Scale) -> Table:
    """Test error on the hourly traffic, beside a linear forecaster and repetition."""
    title = f"Hourly traffic, {scale.lookback} hours to {scale.horizon}: mean squared error"
    columns = ("forecaster", "test error", "seconds")
    try:
        dataset = hourly_traffic()
    except ModuleNotFoundError as error:
        return Table(title, columns, (), note=f"Not measured: {error}.")
    from rankone.forecast import ChimeraForecaster, LinearForecaster, evaluate_long_horizon

    forecaster = ChimeraForecaster(
        scale.lookback,
        scale.horizon,
        d_model=scale.traffic_width,
        n_layers=1,
        d_state=scale.traffic_state,
        expand=1,
        max_epochs=scale.traffic_epochs,
        batches_per_epoch=scale.traffic_batches,
        lr=5e-3,
        device=settings.device,
        random_state=settings.random_state,
        progress=settings.progress,
    )
    linear = LinearForecaster(
        scale.lookback,
        scale.horizon,
        "nlinear",
        solver="lstsq",
        alpha=_LINEAR_PENALTY * len(dataset.values),
    )
    windows = (dataset.values, scale.lookback, scale.horizon)
    chimera = evaluate_long_horizon(forecaster, *windows)
    nlinear = evaluate_long_horizon(linear, *windows)
    repeated = chimera["baselines"]["repeat"]
    return Table(
        title=title,
        columns=columns,
        rows=(
            ("Chimera", chimera["mse"], forecaster.history_.seconds),
            ("NLinear, least squares", nlinear["mse"], linear.history_.seconds),
            ("repeat the last hour", repeated["mse"], None),
        ),
        note=f"{', '.join(dataset.columns)} of {dataset.name} ({dataset.version}, "
        f"{dataset.licence}), standardised; mean over windows, hours and variates of the last 20 "
        f"percent of {len(dataset.values)} hours. Chimera: one block, width {scale.traffic_width}, "
        f"{forecaster.history_.best_epoch} epochs. No claim of a win is made.",
    )


def _figure(
    scale: Scale, errors: dict[str, tuple[float, ...]], timings: dict[int, _timing.Timing]
) -> Figure:
    _, a2, a3, _ = _TRANSITIONS
    panels = []
    for coupling, title in (((a2, a3), "coupled"), ((0.0, 0.0), "not coupled")):
        kernel = _impulse_response(scale, *coupling).numpy()
        with panel("time", "variate", title=f"impulse response, {title}") as (drawing, axes):
            limit = float(np.abs(kernel).max())
            axes.imshow(kernel, cmap="PuOr", vmin=-limit, vmax=limit, aspect="auto")
            axes.grid(False)
        panels.append(drawing)
    with panel("one-step-ahead error", "", title="the lattice", size=(6.4, 3.3)) as (
        drawing,
        axes,
    ):
        names = list(errors)[::-1]
        means = [float(np.mean(errors[name])) for name in names]
        axes.barh(names, means)
        axes.axvline(_BAYES_ERROR, color=MUTED, linestyle="--", label="best possible")
        axes.grid(False, axis="y")
        axes.legend(loc="lower right")
    panels.append(drawing)
    with panel("T", "seconds", title="forward pass") as (drawing, axes):
        lengths = list(timings)
        axes.plot(lengths, [timings[length].median for length in lengths], "o-", label="measured")
        first = timings[lengths[0]].median / lengths[0]
        line = [first * length for length in lengths]
        axes.plot(lengths, line, color=MUTED, linestyle="--", label="linear")
        against_length(axes, lengths)
        axes.legend()
    panels.append(drawing)
    return Figure.render(
        "What coupling along two axes buys",
        "Above: the response to one unit in the first cell, with both states coupled and with "
        "none. "
        "Below: mean error of the lattice models over seeds; time of the forward pass against the "
        "length, on logarithmic axes.",
        *panels,
    )
