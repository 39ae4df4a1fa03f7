"""Survival data that ship inside installed packages, each with its origin."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rankone._optional import require
from rankone._repr import short_repr

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class SurvivalDataset:
    """Covariates and times with their origin.

    Attributes:
        name: what the data are.
        frame: covariates, one row a subject.
        target: structured array of event (bool) and time (float64).
        unit: of the times.
        source: where they were read from.
        licence: under which they may be used.
        version: of the source.
    """

    __repr__ = short_repr

    name: str
    frame: pd.DataFrame
    target: NDArray
    unit: str
    source: str
    licence: str
    version: str


def veterans_lung_cancer() -> SurvivalDataset:
    """The Veterans' Administration lung cancer trial: 137 patients, 128 deaths.

    Returns:
        :class:`SurvivalDataset`, times in days.

    Raises:
        ImportError: if ``scikit-survival`` is not installed.

    Example:
        >>> from rankone.datasets import veterans_lung_cancer
        >>> int(veterans_lung_cancer().target["event"].sum())
        128
    """
    datasets = require("sksurv.datasets", extra="data", package="scikit-survival")
    frame, target = datasets.load_veterans_lung_cancer()
    return SurvivalDataset(
        name="Veterans' Administration lung cancer trial",
        frame=frame,
        target=_target(target["Status"], target["Survival_in_days"]),
        unit="days",
        source="scikit-survival",
        licence="GPL-3.0 (the package)",
        version=version("scikit-survival"),
    )


def breast_cancer_gbsg2() -> SurvivalDataset:
    """The German Breast Cancer Study Group 2 trial: 686 patients, 299 recurrences or deaths.

    Returns:
        :class:`SurvivalDataset`, times in days.

    Raises:
        ImportError: if ``lifelines`` is not installed.

    Example:
        >>> from rankone.datasets import breast_cancer_gbsg2
        >>> breast_cancer_gbsg2().frame.shape
        (686, 8)
    """
    datasets = require("lifelines.datasets", extra="data", package="lifelines")
    frame = datasets.load_gbsg2()
    return SurvivalDataset(
        name="German Breast Cancer Study Group 2",
        frame=frame.drop(columns=["time", "cens"]),
        target=_target(frame["cens"], frame["time"]),
        unit="days",
        source="lifelines",
        licence="MIT (the package)",
        version=version("lifelines"),
    )


def _target(event, time) -> NDArray:
    target = np.empty(len(time), dtype=[("event", bool), ("time", np.float64)])
    target["event"], target["time"] = np.asarray(event, dtype=bool), np.asarray(time, dtype=float)
    return target
