"""WindowForecaster: what every forecaster that maps a lookback to a horizon has in common.

A subclass fits, and forecasts standardised lookbacks; prediction, scoring and the units are here.
Everything is standardised by the rows that were fitted on and nothing after them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from rankone.forecast.windows import SeriesScaler, SeriesWindows

# Windows that are forecast at once: as many as make this many numbers, and no more than these.
_PREDICTION_NUMBERS = 2**24
_PREDICTION_BATCH = 256


class WindowForecaster(BaseEstimator):
    """Base of forecasters of (T, V) series from windows.

    Subclasses have ``lookback`` and ``horizon``, set the attributes below in ``fit``, and define
    :meth:`_forecast`.

    Attributes:
        scaler_mean_, scaler_scale_: (V,) of the rows that were fitted on.
        n_features_in_: V.
    """

    lookback: int
    horizon: int
    scaler_mean_: np.ndarray
    scaler_scale_: np.ndarray
    _last_rows: np.ndarray

    def fit(self, X: Any, X_val: Any = None) -> WindowForecaster:
        """Fit to a series (T, V); ``X_val`` is another to stop by, where there are epochs."""
        raise TypeError(f"{type(self).__name__} must define fit")

    def _forecast(self, lookbacks: np.ndarray) -> np.ndarray:
        """Standardised lookbacks (n, lookback, V) to standardised forecasts (n, horizon, V)."""
        raise TypeError(f"{type(self).__name__} must define _forecast")

    def predict(self, X: Any = None) -> np.ndarray:
        """The ``horizon`` rows after a series, in its own units.

        Args:
            X: (T, V), of which the last ``lookback`` rows are read; None continues the series of
                the fit.

        Returns:
            (horizon, V).

        Raises:
            ValueError: for fewer than ``lookback`` rows or another number of variates.
        """
        return self.predict_lookbacks(self._last_lookback(X)[None])[0]

    def predict_lookbacks(self, lookbacks: Any) -> np.ndarray:
        """The forecast after each of several lookbacks, in their own units.

        Args:
            lookbacks: (n, L, V) with L at least ``lookback``, of which the last rows are read.

        Returns:
            (n, horizon, V).

        Raises:
            ValueError: for other shapes or entries that are not finite.
        """
        check_is_fitted(self, "scaler_mean_")
        lookbacks = check_array(lookbacks, allow_nd=True, dtype=np.float64, input_name="lookbacks")
        variates = len(self.scaler_mean_)
        if (
            lookbacks.ndim != 3
            or lookbacks.shape[1] < self.lookback
            or lookbacks.shape[2] != variates
        ):
            raise ValueError(
                f"lookbacks must be (windows, at least lookback={self.lookback}, {variates}), "
                f"got {lookbacks.shape}"
            )
        scaler = self._scaler()
        return scaler.restore(self._forecast(scaler.transform(lookbacks[:, -self.lookback :])))

    def predict_windows(self, X: Any) -> np.ndarray:
        """The forecast of every window of a series: (T - lookback - horizon + 1, horizon, V)."""
        series = self._checked("X", X, self.lookback + self.horizon)
        return self._scaler().restore(
            np.concatenate([forecasts for forecasts, _ in self._every_window(series)])
        )

    def predict_walk_forward(self, y_full: Any, start: int) -> np.ndarray:
        """One-step forecasts of the rows from ``start`` on, each from the rows before it.

        Args:
            y_full: (T, V).
            start: first row that is forecast, at least ``lookback``.

        Returns:
            (T - start, V); row t - start reads rows before t alone.

        Raises:
            ValueError: for a start outside [lookback, T).
        """
        series = self._checked("y_full", y_full, 0)
        check_start(start, self.lookback, len(series))
        rows = torch.from_numpy(self._scaler().transform(series[start - self.lookback :]))
        windows = SeriesWindows(rows, self.lookback, 1)
        steps = [
            self._forecast(lookbacks.numpy())[:, 0]
            for lookbacks, _ in windows.in_order(self._batch(series.shape[1]))
        ]
        return self._scaler().restore(np.concatenate(steps))

    def score(self, X: Any, y: Any = None) -> float:
        """Minus the mean squared error over every window of a series, on standardised data."""
        series = self._checked("X", X, self.lookback + self.horizon)
        total = windows = 0.0
        for forecasts, targets in self._every_window(series):
            total += np.square(forecasts - targets).mean((1, 2)).sum()
            windows += len(targets)
        return -float(total / windows)

    def _scaler(self) -> SeriesScaler:
        return SeriesScaler(self.scaler_mean_, self.scaler_scale_)

    def _last_lookback(self, X: Any) -> np.ndarray:
        """The last rows (lookback, V) of a series, or those of the fit."""
        check_is_fitted(self, "scaler_mean_")
        if X is None:
            return self._last_rows
        rows = validate_data(self, X, dtype=np.float64, reset=False)
        if len(rows) < self.lookback:
            raise ValueError(f"X must have at least lookback={self.lookback} rows, got {len(rows)}")
        return rows[-self.lookback :]

    def _checked(self, name: str, X: Any, rows: int) -> np.ndarray:
        check_is_fitted(self, "scaler_mean_")
        series = validate_data(self, X, dtype=np.float64, reset=False)
        if len(series) < rows:
            self._too_short(name, series)
        return series

    def _check_length(self, name: str, series: np.ndarray) -> None:
        if len(series) < self.lookback + self.horizon:
            self._too_short(name, series)

    def _too_short(self, name: str, series: np.ndarray) -> None:
        raise ValueError(
            f"{name} must have at least lookback + horizon = {self.lookback} + {self.horizon} "
            f"rows, got {len(series)}"
        )

    def _every_window(self, series: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Standardised forecasts and targets of all windows, in batches."""
        rows = torch.from_numpy(self._scaler().transform(series))
        windows = SeriesWindows(rows, self.lookback, self.horizon)
        for lookbacks, targets in windows.in_order(self._batch(series.shape[1])):
            yield self._forecast(lookbacks.numpy()), targets.numpy()

    def _batch(self, variates: int) -> int:
        numbers_each = (self.lookback + self.horizon) * variates
        return max(1, min(_PREDICTION_BATCH, _PREDICTION_NUMBERS // numbers_each))

    def _check_counts(self, *names: str) -> None:
        for name in names:
            check_count(name, getattr(self, name))


def check_count(name: str, value: Any) -> None:
    """Raise ValueError for anything but an integer of at least 1."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")


def check_start(start: Any, least: int, rows: int) -> None:
    """Raise ValueError for anything but an integer of [least, rows)."""
    if not isinstance(start, int | np.integer) or not least <= start < rows:
        raise ValueError(
            f"start must be an integer of at least {least} and below the {rows} rows, got {start!r}"
        )


def check_share(name: str, value: Any, *, zero: bool = False) -> None:
    """Raise ValueError for anything but a number of (0, 1), or of [0, 1) with ``zero``."""
    if zero and isinstance(value, int | np.integer) and value == 0:
        return
    if (
        not isinstance(value, float | np.floating)
        or not 0 <= value < 1
        or (value == 0 and not zero)
    ):
        interval = "[0, 1)" if zero else "(0, 1)"
        raise ValueError(f"{name} must be in {interval}, got {value!r}")
