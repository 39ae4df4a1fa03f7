"""SeriesForecaster: what forecasters of one series, any number of steps ahead, have in common."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_array, check_is_fitted

from rankone.forecast.window_forecaster import check_count


class SeriesForecaster(BaseEstimator):
    """Base of forecasters with ``fit(y)``, ``predict(horizon)`` and ``predict_walk_forward``.

    Subclasses set ``n_train_`` in ``fit``.

    Attributes:
        n_train_: rows that were fitted on.
    """

    n_train_: int
    takes_covariates = False

    def fit(self, y: Any) -> SeriesForecaster:
        """Fit to a series (n,)."""
        raise TypeError(f"{type(self).__name__} must define fit")

    def predict(self, horizon: int = 1) -> np.ndarray:
        """The ``horizon`` values after the series of the fit."""
        raise TypeError(f"{type(self).__name__} must define predict")

    def predict_walk_forward(self, y_full: Any, start: int) -> np.ndarray:
        """One-step forecasts of the rows from ``start`` on, each from the rows before it."""
        raise TypeError(f"{type(self).__name__} must define predict_walk_forward")

    def _check_horizon(self, horizon: int) -> None:
        check_is_fitted(self, "n_train_")
        check_count("horizon", horizon)


def check_series(y: Any, name: str = "y", *, rows: int = 1) -> np.ndarray:
    """A series as float64 (n,).

    Raises:
        ValueError: for other shapes, fewer than ``rows`` rows, and entries that are not finite.
    """
    series = check_array(
        y, ensure_2d=False, dtype=np.float64, input_name=name, ensure_min_samples=0
    )
    if series.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, got {series.shape}")
    if len(series) < rows:
        raise ValueError(f"{name} must have at least {rows} rows, got {len(series)}")
    return series
