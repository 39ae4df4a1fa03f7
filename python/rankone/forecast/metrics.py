"""Errors of forecasts, and what they are worth beside the naive forecast.

A level forecast of a price is close to the price whatever the model; what tells skill is the
comparison with yesterday's price. Sources: Hyndman & Koehler, "Another look at measures of forecast
accuracy" (2006) for MASE; "Forecasting S&P 500 Using LSTM Models" (arXiv 2501.17366) for accuracy,
in this library's reading.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def mse(y_true: Any, y_pred: Any) -> float:
    """Mean squared error over all entries."""
    return float(np.square(_error(y_true, y_pred)).mean())


def rmse(y_true: Any, y_pred: Any) -> float:
    """Root of the mean squared error over all entries."""
    return float(np.sqrt(mse(y_true, y_pred)))


def mae(y_true: Any, y_pred: Any) -> float:
    """Mean absolute error over all entries."""
    return float(np.abs(_error(y_true, y_pred)).mean())


def mase(y_true: Any, y_pred: Any, y_train: Any, season: int = 1) -> float:
    """Mean absolute error, in units of that of the seasonal naive forecast on the training rows.

    Args:
        y_true, y_pred: (..., V), or (n,) for one variate.
        y_train: (T, V) or (T,), the rows before.
        season: lag of the naive forecast.

    Returns:
        The mean over variates; those that the naive forecast gets right throughout are left out.

    Raises:
        ValueError: for a season that is not in [1, T).

    Example:
        >>> from rankone.forecast.metrics import mase
        >>> mase([4.0, 5.0], [3.0, 3.0], [0.0, 1.0, 2.0, 3.0])
        1.5
    """
    train = np.asarray(y_train, dtype=np.float64)
    error = np.abs(_error(y_true, y_pred))
    scale = naive_scale(train, season)
    if train.ndim == 1:
        return float(error.mean() / scale[0]) if np.isfinite(scale[0]) else float("nan")
    return mean_scaled(error.mean(tuple(range(error.ndim - 1))), scale)


def naive_scale(y_train: np.ndarray, season: int = 1) -> np.ndarray:
    """Mean absolute error (V,) of y_{t - season} for y_t; NaN where that is 0."""
    rows = len(y_train)
    if not 1 <= season < rows:
        raise ValueError(f"season must be at least 1 and below the {rows} rows, got {season}")
    train = y_train.reshape(rows, -1)
    scale = np.abs(train[season:] - train[:-season]).mean(0)
    return np.where(scale > 0, scale, np.nan)


def mean_scaled(error: np.ndarray, scale: np.ndarray) -> float:
    """Mean of error / scale over the variates that have a scale; NaN where none has."""
    known = np.isfinite(scale)
    return float((error[known] / scale[known]).mean()) if known.any() else float("nan")


def accuracy(y_true: Any, y_pred: Any) -> float:
    """100 (1 - mean(|y - p| / y)), that is 100 minus the mean absolute percentage error.

    It is high for any forecast of a price's level, yesterday's price above all.

    Raises:
        ValueError: for values of ``y_true`` that are not positive.
    """
    y = np.asarray(y_true, dtype=np.float64)
    if not (y > 0).all():
        raise ValueError(f"y_true must be positive for the accuracy, got {y.min()}")
    return float(100 * (1 - (np.abs(_error(y_true, y_pred)) / y).mean()))


def skill(y_true: Any, y_pred: Any, y_naive: Any) -> float:
    """1 - MAE / MAE of a naive forecast: 0 for no better, negative for worse; NaN if that is 0."""
    reference = mae(y_true, y_naive)
    return 1 - mae(y_true, y_pred) / reference if reference else float("nan")


def directional_accuracy(y_true: Any, y_pred: Any, y_previous: Any) -> float:
    """Share of rows whose change has the sign that was forecast; no change counts as wrong.

    Args:
        y_true, y_pred: (n,).
        y_previous: (n,), the value before each.
    """
    previous = np.asarray(y_previous, dtype=np.float64)
    signs = np.sign(np.asarray(y_true) - previous) * np.sign(np.asarray(y_pred) - previous)
    return float((signs > 0).mean())


def lag_ratio(y_true: Any, y_pred: Any, y_previous: Any) -> float:
    """corr(forecast, value before) - corr(forecast, value): positive where it copies yesterday.

    NaN for a constant forecast.
    """
    forecast = np.asarray(y_pred, dtype=np.float64)
    return _correlation(forecast, y_previous) - _correlation(forecast, y_true)


def _correlation(a: np.ndarray, b: Any) -> float:
    b = np.asarray(b, dtype=np.float64)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def _error(y_true: Any, y_pred: Any) -> np.ndarray:
    y, p = np.asarray(y_true, dtype=np.float64), np.asarray(y_pred, dtype=np.float64)
    if y.shape != p.shape:
        raise ValueError(f"y_pred must have the shape of y_true {y.shape}, got {p.shape}")
    return p - y
