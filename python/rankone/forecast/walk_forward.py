"""Walk-forward evaluation of one series' forecaster against the naive forecast.

A forecast from the last training day and a forecast from yesterday are different tasks; a report
says which it was, compares with the naive forecast that has the same information, and tests the
difference. After "Forecasting S&P 500 Using LSTM Models" (arXiv 2501.17366), whose table mixes the
two.
"""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sklearn.base import clone

from rankone._progress import track
from rankone._repr import short_repr
from rankone.forecast import metrics
from rankone.forecast.baselines import NaiveForecaster, SeasonalNaiveForecaster
from rankone.forecast.series_forecaster import SeriesForecaster, check_series
from rankone.forecast.window_forecaster import WindowForecaster, check_count, check_share
from rankone.stats._summary import Summary
from rankone.stats.diebold_mariano import diebold_mariano

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MODES = ("walk_forward", "origin")

# At which the verdict calls a difference one.
_TEST_SIZE = 0.05


@dataclass(frozen=True)
class ForecastReport:
    """What a forecaster is worth on the test rows of a series.

    Attributes:
        mae, rmse: in the units of the series.
        accuracy: 100 minus the mean absolute percentage error; NaN for a series that is not
            positive.
        skill: 1 - mae / mae of the naive forecast with the same information.
        directional_accuracy: share of changes whose sign was forecast.
        dm_statistic, dm_pvalue: Diebold-Mariano test against that naive forecast; positive where
            the forecaster has the larger absolute errors.
        lag_ratio: positive where the forecast is closer to yesterday than to today.
        y_true, y_pred: (n,) of the test rows.
        index: (n,) of the test rows.
        mse, mase: mean squared error; absolute error in units of the naive one in training.
        baselines: by name, the mae, rmse and accuracy of the naive forecasts.
        interval: (lower, upper), both (n,), of forecasts from the origin that have one, or None.
        level: of the interval.
        mode: ``"walk_forward"`` or ``"origin"``.
        forecaster: name of the class.
        n_train: rows before the test rows.
    """

    __repr__ = short_repr

    mae: float
    rmse: float
    accuracy: float
    skill: float
    directional_accuracy: float
    dm_statistic: float
    dm_pvalue: float
    lag_ratio: float
    y_true: np.ndarray
    y_pred: np.ndarray
    index: Any
    mse: float = float("nan")
    mase: float = float("nan")
    baselines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    interval: tuple[np.ndarray, np.ndarray] | None = None
    level: float = 0.95
    mode: str = "walk_forward"
    forecaster: str = "forecast"
    n_train: int = 0

    @property
    def verdict(self) -> str:
        """One sentence: whether the forecaster beats the naive forecast."""
        reference = (
            "yesterday's value" if self.mode == "walk_forward" else "the last training value"
        )
        if np.isnan(self.skill) or np.isnan(self.dm_pvalue):
            return f"{self.forecaster} cannot be compared with {reference}."
        told_apart = self.dm_pvalue < _TEST_SIZE
        if self.skill > 0 and told_apart:
            verb = "beats"
        elif self.skill < 0 and told_apart:
            verb = "loses to"
        else:
            verb = "cannot be told from"
        return (
            f"{self.forecaster} {verb} {reference} (skill {self.skill:.3f}, Diebold-Mariano "
            f"{self.dm_statistic:.1f}, p = {self.dm_pvalue:.2g})."
        )

    @property
    def coverage(self) -> float:
        """Share of the test rows inside the interval; NaN without one."""
        if self.interval is None:
            return float("nan")
        lower, upper = self.interval
        return float(((lower <= self.y_true) & (self.y_true <= upper)).mean())

    def summary(self) -> Summary:
        """The errors beside those of the naive forecasts, as a table that prints."""
        rows: dict[str, Mapping[str, float]] = {
            self.forecaster: {"mae": self.mae, "rmse": self.rmse, "accuracy": self.accuracy}
        }
        frame = pd.DataFrame(rows | dict(self.baselines)).T
        notes = [self.verdict]
        if self.interval is not None:
            notes.append(
                f"{100 * self.coverage:.0f} % of the test rows are inside the "
                f"{100 * self.level:.0f} % interval."
            )
        kind = "one step ahead" if self.mode == "walk_forward" else "all from the last training row"
        return Summary(f"{len(self.y_true)} test rows, {kind}", frame, tuple(notes))

    def plot(self, ax: Axes | None = None) -> Axes:
        """Forecast, truth and interval over the test rows; returns the axes."""
        from rankone.forecast.plotting import plot_forecast

        return plot_forecast(
            self.y_true,
            self.y_pred,
            interval=self.interval,
            index=self.index,
            label=self.forecaster,
            ax=ax,
        )


def walk_forward_evaluate(
    forecaster: SeriesForecaster | WindowForecaster,
    y: Any,
    X: Any = None,
    test_fraction: float = 0.2,
    mode: str = "walk_forward",
    refit_every: int | None = None,
    *,
    start: int | None = None,
    season: int | None = None,
    positive: bool = True,
    level: float = 0.95,
    progress: bool = False,
) -> ForecastReport:
    """Fit on the first rows and forecast the rest.

    Args:
        forecaster: of one series, or of windows (n, 1); it is fitted on the training rows and left
            so.
        y: (n,) array or pandas series, in time order.
        X: (n, k) covariates known up to the same row, for a forecaster that takes them, or None.
        test_fraction: share of test rows; training has the first int((1 - test_fraction) n).
        mode: ``"walk_forward"``, each test value one step ahead from the true values before it; or
            ``"origin"``, all of them from the last training row.
        refit_every: rows after which a copy is fitted anew on all before, when walking forward;
            None keeps the fit.
        start: first test row, in place of ``test_fraction``.
        season: rows of a season, for a seasonal naive forecast beside it and for the MASE; None for
            neither.
        positive: the series is one of positive values, such as prices. False takes any, without
            accuracy and without the forecast of its drift.
        level: of the intervals of forecasts from the origin.
        progress: show a bar over refits on a terminal.

    Returns:
        :class:`ForecastReport`.

    Raises:
        ValueError: for entries that are not finite, or not positive while ``positive``; fewer than
            2 test rows; X of another number of rows, or for a forecaster without covariates; an
            unknown mode; a horizon of a window forecaster that ends before the test rows.

    Example:
        >>> import numpy as np
        >>> from rankone.forecast import NaiveForecaster, walk_forward_evaluate
        >>> y = 100 + np.cumsum(np.random.default_rng(0).normal(size=300))
        >>> report = walk_forward_evaluate(NaiveForecaster(), y)
        >>> report.skill, report.dm_pvalue
        (0.0, 1.0)
    """
    series = check_series(y, rows=4)
    n_train = _training_rows(len(series), test_fraction, start)
    _check_arguments(forecaster, series, X, mode, refit_every, positive)
    index = y.index[n_train:] if hasattr(y, "index") and hasattr(y, "iloc") else None
    _fit(forecaster, series, X, n_train)
    interval = None
    if mode == "origin":
        prediction = _from_origin(forecaster, len(series) - n_train)
        if isinstance(forecaster, SeriesForecaster) and hasattr(forecaster, "predict_interval"):
            interval = forecaster.predict_interval(len(series) - n_train, level=level)
    else:
        prediction = _walk(forecaster, series, X, n_train, refit_every, progress)
    return _report(
        forecaster,
        series,
        prediction,
        n_train,
        mode=mode,
        index=np.arange(n_train, len(series)) if index is None else index,
        season=season,
        positive=positive,
        interval=interval,
        level=level,
    )


def _training_rows(rows: int, test_fraction: float, start: int | None) -> int:
    if start is None:
        check_share("test_fraction", test_fraction)
        start = int((1 - test_fraction) * rows)
    elif not isinstance(start, numbers.Integral):
        raise ValueError(f"start must be an integer or None, got {start!r}")
    if rows - start < 2:
        raise ValueError(f"y must have at least 2 test rows, got {max(rows - start, 0)} of {rows}")
    if start < 2:
        raise ValueError(f"y must have at least 2 training rows, got {start} of {rows}")
    return int(start)


def _check_arguments(
    forecaster: Any,
    series: np.ndarray,
    X: Any,
    mode: str,
    refit_every: int | None,
    positive: bool,
) -> None:
    if not isinstance(forecaster, SeriesForecaster | WindowForecaster):
        raise TypeError(
            "forecaster must be a SeriesForecaster or a WindowForecaster, got a "
            f"{type(forecaster).__name__}"
        )
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    if positive and not (series > 0).all():
        raise ValueError(
            f"y must be positive for accuracy and drift, got {series.min()}; positive=False "
            "evaluates without them"
        )
    if refit_every is not None:
        check_count("refit_every", refit_every)
        if mode == "origin":
            raise ValueError("refit_every must be None in the mode 'origin', which fits once")
    if X is None:
        return
    if not getattr(forecaster, "takes_covariates", False):
        raise ValueError(f"X must be None: {type(forecaster).__name__} takes no covariates")
    if len(X) != len(series):
        raise ValueError(f"X must have the {len(series)} rows of y, got {len(X)}")
    if mode == "origin":
        raise ValueError("X must be None in the mode 'origin': its future is not known")


def _head(X: Any, rows: int) -> Any:
    return X.iloc[:rows] if hasattr(X, "iloc") else np.asarray(X)[:rows]


def _fit(forecaster: Any, series: np.ndarray, X: Any, rows: int) -> Any:
    if isinstance(forecaster, WindowForecaster):
        return forecaster.fit(series[:rows, None])
    if X is None:
        return forecaster.fit(series[:rows])
    return forecaster.fit(series[:rows], _head(X, rows))


def _from_origin(forecaster: Any, rows: int) -> np.ndarray:
    if not isinstance(forecaster, WindowForecaster):
        return forecaster.predict(rows)
    if forecaster.horizon < rows:
        raise ValueError(
            f"horizon of the forecaster must reach the {rows} test rows in the mode 'origin', "
            f"got {forecaster.horizon}"
        )
    return forecaster.predict()[:rows, 0]


def _steps(forecaster: Any, series: np.ndarray, X: Any, start: int) -> np.ndarray:
    """One-step forecasts of the rows from ``start`` on."""
    if isinstance(forecaster, WindowForecaster):
        return forecaster.predict_walk_forward(series[:, None], start=start)[:, 0]
    if X is None:
        return forecaster.predict_walk_forward(series, start=start)
    return forecaster.predict_walk_forward(series, _head(X, len(series)), start=start)


def _walk(
    forecaster: Any,
    series: np.ndarray,
    X: Any,
    n_train: int,
    refit_every: int | None,
    progress: bool,
) -> np.ndarray:
    if refit_every is None:
        return _steps(forecaster, series, X, n_train)
    parts = []
    for first in track(
        range(n_train, len(series), refit_every), "walking forward", enabled=progress
    ):
        fitted = forecaster
        if first > n_train:
            fitted = _fit(clone(forecaster), series, X, first)
        end = min(first + refit_every, len(series))
        parts.append(_steps(fitted, series[:end], X, first))
    return np.concatenate(parts)


def _report(
    forecaster: Any,
    series: np.ndarray,
    prediction: np.ndarray,
    n_train: int,
    *,
    mode: str,
    index: Any,
    season: int | None,
    positive: bool,
    interval: tuple[np.ndarray, np.ndarray] | None,
    level: float,
) -> ForecastReport:
    train, truth, previous = series[:n_train], series[n_train:], series[n_train - 1 : -1]
    references = _baselines(series, n_train, mode, season, positive)
    naive = references["naive"]
    test = diebold_mariano(prediction - truth, naive - truth)
    return ForecastReport(
        **_errors(truth, prediction, positive),
        skill=metrics.skill(truth, prediction, naive),
        directional_accuracy=metrics.directional_accuracy(truth, prediction, previous),
        dm_statistic=test.statistic,
        dm_pvalue=test.pvalue,
        lag_ratio=metrics.lag_ratio(truth, prediction, previous),
        y_true=truth,
        y_pred=prediction,
        index=index,
        mse=metrics.mse(truth, prediction),
        mase=metrics.mase(truth, prediction, train, season or 1),
        baselines={name: _errors(truth, values, positive) for name, values in references.items()},
        interval=interval,
        level=level,
        mode=mode,
        forecaster=type(forecaster).__name__,
        n_train=n_train,
    )


def _errors(truth: np.ndarray, prediction: np.ndarray, positive: bool) -> dict[str, float]:
    return {
        "mae": metrics.mae(truth, prediction),
        "rmse": metrics.rmse(truth, prediction),
        "accuracy": metrics.accuracy(truth, prediction) if positive else float("nan"),
    }


def _baselines(
    series: np.ndarray, n_train: int, mode: str, season: int | None, positive: bool
) -> dict[str, np.ndarray]:
    """The naive forecasts with the information that the mode gives."""
    rows = len(series) - n_train
    contenders: dict[str, Any] = {"naive": NaiveForecaster()}
    if positive:
        contenders["drift"] = NaiveForecaster(drift="log")
    if season is not None:
        contenders[f"seasonal naive ({season})"] = SeasonalNaiveForecaster(rows, season)
    forecasts = {}
    for name, contender in contenders.items():
        _fit(contender, series, None, n_train)
        if mode == "origin":
            forecasts[name] = _from_origin(contender, rows)
        else:
            forecasts[name] = _steps(contender, series, None, n_train)
    return forecasts
