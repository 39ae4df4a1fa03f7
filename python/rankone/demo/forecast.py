"""The 2D scan in the demo: a day of traffic and weather, forecast from the week before.

Chimera reads traffic, temperature and clouds as one grid of variates and hours. It is trained for
half a minute and set beside three forecasters that cost nothing or a linear solve. Then the trained
scan is read hour by hour, which must give what it gives on the whole window.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from rankone import _environment
from rankone.datasets import SeriesDataset, hourly_traffic
from rankone.demo import Options, Say
from rankone.reproduce import MUTED, Claim, Figure, Section, Table, panel
from rankone.reproduce._page import duration

PLAN = (
    "forecast a day of traffic and weather from the week before with Chimera, a model on the "
    "2D selective scan, beside repeating the past and a linear forecaster"
)
TITLE = "A forecast over variates and time"

MODEL, LINEAR = "Chimera", "NLinear, least squares"
LAST_HOUR, LAST_DAY, LAST_WEEK = "the last hour again", "the last day again", "the last week again"

_DAY, _WEEK = 24, 168
_SECONDS = 40.0


@dataclass(frozen=True)
class Scale:
    """Sizes of the demo's model and training.

    Attributes:
        lookback, horizon: hours read and forecast.
        d_model, d_state: width and states of the one block.
        epochs, batches: of training.
        rows: the last rows of the series that are used, or None for all.
    """

    lookback: int = 168
    horizon: int = 24
    d_model: int = 16
    d_state: int = 8
    epochs: int = 4
    batches: int = 50
    rows: int | None = None


def expected_seconds(options: Options) -> float:
    """About how long this section takes."""
    return _SECONDS


def run(options: Options, say: Say) -> Section:
    """Train, score, show one day; the section of the report."""
    scale = replace(Scale(), **options.scale("forecast"))
    start = time.perf_counter()
    try:
        dataset = hourly_traffic()
        from rankone.forecast import ChimeraForecaster
        from rankone.forecast.protocol import split_rows
    except ImportError as error:
        say(f"Forecast: NOT RUN. {error}.")
        return Section("forecast", TITLE, f"This part did not run. {error}.")
    values = dataset.values if scale.rows is None else dataset.values[-scale.rows :]
    train, held_out, _ = split_rows(len(values))
    test = train + held_out
    say(
        f"Forecast: {', '.join(dataset.columns)}, {len(values)} hours from {dataset.source}; "
        f"{scale.lookback} hours are read and {scale.horizon} forecast."
    )
    forecaster = ChimeraForecaster(
        scale.lookback,
        scale.horizon,
        d_model=scale.d_model,
        n_layers=1,
        d_state=scale.d_state,
        expand=1,
        max_epochs=scale.epochs,
        batches_per_epoch=scale.batches,
        lr=5e-3,
        random_state=options.random_state,
        progress=options.progress,
    ).fit(values[:train], values[train - scale.lookback : test])
    history = forecaster.history_
    say(f"  fitted in {duration(history.seconds)}, {len(history.train_loss)} epochs")
    forecasts, targets = _forecasts(scale, forecaster, values, train, test)
    errors = {
        name: np.square((forecast - targets) / forecaster.scaler_scale_).mean((0, 1))
        for name, forecast in forecasts.items()
    }
    for name, each in errors.items():
        say(f"  {name}: mean squared error {each.mean():.3f}")
    return Section(
        anchor="forecast",
        title=TITLE,
        lead="One scan runs along two axes: each hour of each variate sees its own past and that "
        "of the variates beside it. Errors are those of every window of the last fifth of the "
        "series, which no forecaster has seen.",
        claims=_claims(scale, forecaster, errors, values, test),
        tables=(_table(dataset, errors),),
        figures=_figures(scale, dataset, forecasts, targets, values, test),
        settings={
            "data": f"{dataset.name}: {dataset.source}; {dataset.licence}; {dataset.version}",
            "model": f"one block, width {scale.d_model}, {scale.d_state} states",
            "training": f"{history.best_epoch} of {len(history.train_loss)} epochs of "
            f"{scale.batches} batches",
            "random state": options.random_state,
            **_environment.describe(),
        },
        seconds=time.perf_counter() - start,
    )


def _forecasts(
    scale: Scale, forecaster: Any, values: np.ndarray, train: int, test: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Forecasts of every window whose targets lie in the test rows, and the targets."""
    tested = values[test - scale.lookback :]
    starts = np.arange(len(tested) - scale.lookback - scale.horizon + 1) + test
    ahead = np.arange(scale.horizon)
    targets = values[starts[:, None] + ahead]

    def again(period: int) -> np.ndarray:
        """The hours of the last whole period before the forecast, repeated."""
        return values[starts[:, None] - period + ahead % period]

    return {
        MODEL: forecaster.predict_windows(tested),
        LINEAR: _nlinear(scale, values, train, starts),
        LAST_HOUR: again(1),
        LAST_DAY: again(_DAY),
        LAST_WEEK: again(_WEEK),
    }, targets


def _nlinear(scale: Scale, values: np.ndarray, train: int, starts: np.ndarray) -> np.ndarray:
    """Least-squares change from the last value, by the changes before it; one map for all."""
    mean, std = values[:train].mean(0), values[:train].std(0)
    series = (values - mean) / std
    before, ahead = np.arange(-scale.lookback, 0), np.arange(scale.horizon)

    def changes(at: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        last = series[at - 1][:, None]
        parts = (series[at[:, None] + hours] - last for hours in (before, ahead))
        x, y = (part.transpose(0, 2, 1).reshape(-1, part.shape[1]) for part in parts)
        return x, y, last

    x, y, _ = changes(np.arange(scale.lookback, train - scale.horizon + 1))
    weight = np.linalg.lstsq(np.c_[x, np.ones(len(x))], y, rcond=None)[0]
    x, _, last = changes(starts)
    forecast = (np.c_[x, np.ones(len(x))] @ weight).reshape(len(starts), -1, scale.horizon)
    return (forecast.transpose(0, 2, 1) + last) * std + mean


@torch.no_grad()
def _stepwise_difference(scale: Scale, forecaster: Any, values: np.ndarray, test: int) -> float:
    """Largest relative difference of the block's features read hour by hour and all at once."""
    model = forecaster.model_
    window = (values[test - scale.lookback : test] - values[:test].mean(0)) / values[:test].std(0)
    x = torch.from_numpy(window).float().T[None, :, :, None]
    features = model.embedding(x)
    block = model.blocks[0]
    whole = block(features)
    state, columns = None, []
    for hour in range(features.shape[2]):
        column, state = block.step(features[:, :, hour], state)
        columns.append(column)
    return float((torch.stack(columns, 2) - whole).abs().max() / whole.abs().max())


def _claims(
    scale: Scale, forecaster: Any, errors: dict[str, np.ndarray], values: np.ndarray, test: int
) -> tuple[Claim, ...]:
    def ratio(peer: str) -> float:
        return float(errors[MODEL].mean() / errors[peer].mean())

    return (
        Claim.at_most(
            "Chimera's error over that of repeating the last hour", ratio(LAST_HOUR), 0.6
        ),
        Claim.at_most("Chimera's error over that of repeating the last day", ratio(LAST_DAY), 0.9),
        Claim.at_most(
            "read hour by hour, the block gives what it gives at once: largest difference",
            _stepwise_difference(scale, forecaster, values, test),
            1e-4,
            expected="0",
        ),
    )


def _table(dataset: SeriesDataset, errors: dict[str, np.ndarray]) -> Table:
    return Table(
        title="Mean squared error, standardised",
        columns=("forecaster", "mean", *dataset.columns),
        rows=tuple(
            (name, float(error.mean()), *map(float, error)) for name, error in errors.items()
        ),
        note="1 is the variance of a variate over the training rows. The linear forecaster may "
        "well be the better one: no win over it is claimed.",
    )


def _figures(
    scale: Scale,
    dataset: SeriesDataset,
    forecasts: dict[str, np.ndarray],
    targets: np.ndarray,
    values: np.ndarray,
    test: int,
) -> tuple[Figure, ...]:
    """The first Monday of the test rows, as it was and as it was forecast."""
    times = dataset.times[-len(values) :]
    first = _first_monday(times, test)
    index = min(first - test, len(targets) - 1)
    start = test + index
    shown = min(2 * _DAY, scale.lookback)
    past, ahead = np.arange(-shown, 0), np.arange(scale.horizon)
    day = np.datetime_as_string(times[start], unit="D")
    drawings = []
    for variate in range(min(2, values.shape[1])):
        with panel(f"hours from {day}", dataset.columns[variate]) as (drawing, axes):
            axes.plot(past, values[start + past, variate], color=MUTED, label="before")
            axes.plot(ahead, targets[index, :, variate], color=MUTED, linestyle=":", label="after")
            for name in (MODEL, LINEAR, LAST_DAY):
                axes.plot(ahead, forecasts[name][index, :, variate], label=name, linewidth=1.5)
            axes.axvline(0, color=MUTED, linewidth=0.8)
            if variate == 0:
                axes.legend(fontsize=8)
        drawings.append(drawing)
    figure = Figure.render(
        "A day, forecast",
        f"The first Monday of the test rows, {day}: the hours before, what came after, and what "
        "was forecast at midnight.",
        *drawings,
    )
    return (figure,)


def _first_monday(times: np.ndarray, row: int) -> int:
    """The first row from ``row`` on that is midnight on a Monday; ``row`` itself if none is."""
    hours = times[row:].astype("datetime64[h]").astype(np.int64)
    # The hours are counted from a Thursday.
    monday = np.flatnonzero((hours % 24 == 0) & ((hours // 24 + 3) % 7 == 0))
    return row + int(monday[0]) if len(monday) else row
