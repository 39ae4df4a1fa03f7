"""Forecasts that learn nothing: the last value, its drift, the last season.

RepeatForecaster and SeasonalNaiveForecaster continue a multivariate series over a fixed horizon;
NaiveForecaster one series over any. Every evaluation sets its forecaster beside them. Intervals are
those of random walks, plain and seasonal (Hyndman & Athanasopoulos, "Forecasting: Principles and
Practice", chapter 5).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import norm
from sklearn.utils.validation import check_is_fitted, validate_data

from rankone.forecast.series_forecaster import SeriesForecaster, check_series
from rankone.forecast.window_forecaster import WindowForecaster, check_share, check_start
from rankone.forecast.windows import SeriesScaler

DRIFTS = (False, True, "log", "arithmetic")


class SeasonalNaiveForecaster(WindowForecaster):
    """Repeats the last season.

    Args:
        horizon: rows that are forecast.
        season: rows of a season.

    Attributes:
        scaler_mean_, scaler_scale_: (V,) of the rows of the fit, for :meth:`score`.
        residual_scale_: (V,), root of the mean squared change over a season.
        n_features_in_: V.

    Example:
        >>> import numpy as np
        >>> from rankone.forecast import SeasonalNaiveForecaster
        >>> X = np.array([[1.0], [2.0], [1.5], [2.5]])
        >>> SeasonalNaiveForecaster(3, season=2).fit(X).predict().ravel().tolist()
        [1.5, 2.5, 1.5]
    """

    def __init__(self, horizon: int = 1, season: int = 1) -> None:
        self.horizon = horizon
        self.season = season

    @property
    def lookback(self) -> int:  # type: ignore[override]
        """Rows that are read: one season."""
        return self.season

    def fit(self, X: Any, X_val: Any = None) -> SeasonalNaiveForecaster:
        """Remember the last season of (T, V) rows, and how well it repeats.

        Args:
            X: (T, V) array or data frame.
            X_val: not used; there is nothing to stop.

        Raises:
            ValueError: for parameters out of range, entries that are not finite, and fewer rows
                than a season and one more.
        """
        self._check_counts("horizon", "lookback")
        series = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        if len(series) <= self.lookback:
            raise ValueError(
                f"X must have more than the {self.lookback} rows of a season, got {len(series)}"
            )
        scaler = SeriesScaler.fit(series)
        self.scaler_mean_, self.scaler_scale_ = scaler.offset, scaler.scale
        change = series[self.lookback :] - series[: -self.lookback]
        self.residual_scale_ = np.sqrt(np.square(change).mean(0))
        self._last_rows = series[-self.lookback :].copy()
        return self

    def predict_interval(
        self, X: Any = None, *, level: float = 0.95
    ) -> tuple[np.ndarray, np.ndarray]:
        """Interval of a seasonal random walk: it widens with the root of the seasons ahead.

        Args:
            X: as for :meth:`predict`.
            level: probability inside.

        Returns:
            (lower, upper), both (horizon, V).

        Raises:
            ValueError: for a level outside (0, 1).
        """
        check_share("level", level)
        forecast = self.predict(X)
        seasons = np.arange(self.horizon) // self.lookback + 1
        half = norm.ppf((1 + level) / 2) * np.sqrt(seasons)[:, None] * self.residual_scale_
        return forecast - half, forecast + half

    def _forecast(self, lookbacks: np.ndarray) -> np.ndarray:
        return lookbacks[:, np.arange(self.horizon) % self.lookback]


class RepeatForecaster(SeasonalNaiveForecaster):
    """Repeats the last row, the seasonal naive forecast with a season of one row.

    Args:
        horizon: rows that are forecast.

    Attributes:
        scaler_mean_, scaler_scale_: (V,) of the rows of the fit, for :meth:`score`.
        residual_scale_: (V,), root of the mean squared change from row to row.
        n_features_in_: V.

    Example:
        >>> import numpy as np
        >>> from rankone.forecast import RepeatForecaster
        >>> RepeatForecaster(2).fit(np.array([[1.0], [2.0], [4.0]])).predict().ravel().tolist()
        [4.0, 4.0]
    """

    def __init__(self, horizon: int = 1) -> None:
        self.horizon = horizon

    @property
    def lookback(self) -> int:  # type: ignore[override]
        """Rows that are read: the last."""
        return 1


class NaiveForecaster(SeriesForecaster):
    """The last value of one series, or the last value and its mean growth.

    Args:
        drift: False; True or ``"log"``, growth by the mean log return of the fit; or
            ``"arithmetic"``, by the mean change.

    Attributes:
        last_: last value of the fit.
        drift_: mean log return, or mean change; 0 without drift.
        residual_scale_: standard deviation of what is left of the log returns, or changes.
        n_train_: rows of the fit.

    Example:
        >>> from rankone.forecast import NaiveForecaster
        >>> NaiveForecaster(drift="arithmetic").fit([1.0, 2.0, 5.0]).predict(2).tolist()
        [7.0, 9.0]
    """

    def __init__(self, drift: bool | str = False) -> None:
        self.drift = drift

    def fit(self, y: Any) -> NaiveForecaster:
        """Remember the last value and the mean growth of (n,) values.

        Raises:
            ValueError: for values that are not finite, fewer than 2, an unknown drift, or values
                that are not positive with a drift of logarithms.
        """
        if self.drift not in DRIFTS:
            raise ValueError(f"drift must be one of {DRIFTS}, got {self.drift!r}")
        series = check_series(y, rows=2)
        changes = np.diff(self._transformed(series, "y"))
        self.drift_ = float(changes.mean()) if self.drift else 0.0
        self.residual_scale_ = float(np.sqrt(np.square(changes - self.drift_).mean()))
        self.last_, self.n_train_ = float(series[-1]), len(series)
        return self

    def predict(self, horizon: int = 1) -> np.ndarray:
        """The ``horizon`` values after the series of the fit.

        Raises:
            ValueError: for a horizon below 1.
        """
        self._check_horizon(horizon)
        return self._grown(np.full(horizon, self.last_), np.arange(1, horizon + 1))

    def predict_interval(
        self, horizon: int = 1, *, level: float = 0.95
    ) -> tuple[np.ndarray, np.ndarray]:
        """Interval of a random walk, of logarithms where the drift is one of logarithms.

        The estimated drift adds h^2/(n - 1) to the h variances of the steps.

        Args:
            horizon: values ahead.
            level: probability inside.

        Returns:
            (lower, upper), both (horizon,).
        """
        check_share("level", level)
        self._check_horizon(horizon)
        steps = np.arange(1, horizon + 1)
        variance = steps + (np.square(steps) / (self.n_train_ - 1) if self.drift else 0)
        half = norm.ppf((1 + level) / 2) * self.residual_scale_ * np.sqrt(variance)
        centre = self._transformed(self.predict(horizon), "y")
        restore = np.exp if self._logarithmic else np.asarray
        return restore(centre - half), restore(centre + half)

    def predict_walk_forward(self, y_full: Any, start: int) -> np.ndarray:
        """The value before each row from ``start`` on, with the drift of the fit.

        Args:
            y_full: (n,).
            start: first row that is forecast, at least 1.

        Returns:
            (n - start,).
        """
        check_is_fitted(self, "n_train_")
        series = check_series(y_full, "y_full")
        check_start(start, 1, len(series))
        return self._grown(series[start - 1 : -1], 1)

    @property
    def _logarithmic(self) -> bool:
        return self.drift in (True, "log")

    def _transformed(self, series: np.ndarray, name: str) -> np.ndarray:
        if not self._logarithmic:
            return series
        if not (series > 0).all():
            raise ValueError(
                f"{name} must be positive for the drift of logarithms, got {series.min()}"
            )
        return np.log(series)

    def _grown(self, values: np.ndarray, steps: Any) -> np.ndarray:
        if self._logarithmic:
            return values * np.exp(self.drift_ * steps)
        return values + self.drift_ * steps
