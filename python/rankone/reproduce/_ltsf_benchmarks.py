"""The published benchmarks of the linear forecasters, on the files of the user.

The protocol's own solver and settings, held against the published table. Each result is kept in a
file as it comes, where there is a folder for it, and an interrupted run goes on from there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rankone._files import write_whole
from rankone.datasets import LONG_HORIZON_FILES, long_horizon_series
from rankone.forecast.baselines import RepeatForecaster
from rankone.forecast.evaluation import evaluate_long_horizon
from rankone.forecast.linear import LinearForecaster
from rankone.reproduce import Claim, Settings, Table
from rankone.reproduce._ltsf_published import (
    HORIZONS,
    PUBLISHED,
    PUBLISHED_REPEAT,
    PUBLISHED_TRANSFORMERS,
    VARIANTS,
    Run,
    published_run,
    tolerance,
)

if TYPE_CHECKING:
    from rankone.reproduce.ltsf_linear import Scale

CELLS_FILE = "ltsf-linear-cells.json"


def benchmarks(settings: Settings, scale: Scale) -> tuple[list[Claim], Table]:
    """The protocol on the user's files: claims against the published table, and the results."""
    folder = None if settings.data is None else Path(settings.data)
    found = [
        name
        for name in scale.names
        if folder is not None and (folder / LONG_HORIZON_FILES[name][0]).is_file()
    ]
    cells = [
        (name, variant, horizon)
        for name in found
        for variant in ("repeat", *VARIANTS)
        for horizon in HORIZONS[name][: scale.horizons]
    ]
    kept = _Kept(settings, scale)
    rows, claims = [], []
    series: dict[str, np.ndarray] = {}
    for name, variant, horizon in settings.track(cells, "benchmarks"):
        assert folder is not None
        key = f"{name} {variant} {horizon}"
        if key not in kept.cells:
            if name not in series:
                series = {name: long_horizon_series(folder, name)}
            kept.add(key, _benchmark(settings, scale, series[name], name, variant, horizon))
        mse = kept.cells[key]
        place = HORIZONS[name].index(horizon)
        published = (PUBLISHED_REPEAT if variant == "repeat" else PUBLISHED[variant]).get(name)
        expected = None if published is None else published[place]
        rows.append((name, variant, horizon, mse, expected))
        if expected is not None:
            allowed = 0.002 if variant == "repeat" else tolerance(name, horizon, expected)
            claims.append(
                Claim.close(
                    f"{name}, {horizon} steps ahead: error of {variant}",
                    mse,
                    expected,
                    absolute=allowed,
                )
            )
    missing = [LONG_HORIZON_FILES[name][0] for name in scale.names if name not in found]
    note = "Mean squared error on standardised data; the last column is published. "
    if missing:
        place_words = "no folder was given" if folder is None else f"{folder} lacks them"
        note += (
            f"Not measured, for {place_words}: {', '.join(missing)}. Put the benchmark files, CSV "
            "with the date in the first column, in a folder and name it with --data."
        )
    table = Table(
        title="The published benchmarks, by the published protocol",
        columns=("benchmark", "forecaster", "horizon", "MSE", "published MSE"),
        rows=tuple(rows),
        note=note,
    )
    return claims, table


def _benchmark(
    settings: Settings, scale: Scale, X: np.ndarray, name: str, variant: str, horizon: int
) -> float:
    run: Run = published_run(name, horizon)
    if variant == "repeat":
        forecaster: Any = RepeatForecaster(horizon)
    else:
        forecaster = LinearForecaster(
            run.lookback,
            horizon,
            variant,
            lr=run.lr,
            batch_size=run.batch_size,
            max_epochs=scale.epochs,
            device=settings.device,
            random_state=settings.random_state,
            progress=settings.progress,
        )
    split = LONG_HORIZON_FILES[name][1]
    return evaluate_long_horizon(forecaster, X, run.lookback, horizon, split)["mse"]


class _Kept:
    """Results of cells that are done, in a file of ``settings.out`` where that is given."""

    def __init__(self, settings: Settings, scale: Scale) -> None:
        self.path = None if settings.out is None else Path(settings.out) / CELLS_FILE
        # What the results depend on: those of another run are not gone on from.
        self.run = {
            "data": str(settings.data),
            "epochs": scale.epochs,
            "random_state": settings.random_state,
        }
        self.cells: dict[str, float] = {}
        if self.path is not None and self.path.is_file():
            contents = json.loads(self.path.read_text("utf-8"))
            if contents["run"] == self.run:
                self.cells = contents["cells"]

    def add(self, key: str, value: float) -> None:
        self.cells[key] = value
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, json.dumps({"run": self.run, "cells": self.cells}, indent=1))


def published_table() -> Table:
    """The published errors of the linear forecasters."""
    rows = []
    for name in LONG_HORIZON_FILES:
        for place, horizon in enumerate(HORIZONS[name]):
            repeat = PUBLISHED_REPEAT.get(name)
            rows.append(
                (
                    name,
                    horizon,
                    None if repeat is None else repeat[place],
                    *(PUBLISHED[variant][name][place] for variant in VARIANTS),
                )
            )
    return Table(
        title="Published mean squared errors",
        columns=("benchmark", "horizon", "Repeat", "Linear", "NLinear", "DLinear"),
        rows=tuple(rows),
        note="arXiv 2205.13504; lookback 336, 104 for ILI.",
        published=True,
    )


def transformer_table() -> Table:
    """The published errors of Transformers."""
    return Table(
        title="Published Transformers at the shortest horizon",
        columns=("benchmark", *PUBLISHED_TRANSFORMERS),
        rows=tuple(
            (name, *(errors[name] for errors in PUBLISHED_TRANSFORMERS.values()))
            for name in next(iter(PUBLISHED_TRANSFORMERS.values()))
        ),
        note="Mean squared errors quoted from arXiv 2205.13504, 96 steps ahead and 24 for ILI.",
        published=True,
    )
