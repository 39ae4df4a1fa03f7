"""Forecasters with scikit-learn's verbs, for series of one or many variates.

Arrays and pandas frames go in, forecasts in their own units come out, and no scaler or weight sees
a row after those of ``fit``. Two kinds share everything but the shape of a question:

- window forecasters (:class:`LinearForecaster`, :class:`ChimeraForecaster`,
  :class:`RepeatForecaster`, :class:`SeasonalNaiveForecaster`) read the last rows of a series (T, V)
  and forecast a fixed horizon, judged by :func:`evaluate_long_horizon`;
- series forecasters (:class:`LSTMForecaster`, :class:`ARIMAForecaster`, :class:`NaiveForecaster`)
  forecast one series any number of steps ahead.

Both walk forward, judged by :func:`walk_forward_evaluate`. Each evaluation sets the naive forecasts
beside what it evaluates.
"""

from rankone._namespace import public_names
from rankone._optional import require_installed

require_installed("pandas", "scipy", "sklearn", extra="forecast")

from rankone.forecast.arima import ARIMAForecaster
from rankone.forecast.baselines import (
    NaiveForecaster,
    RepeatForecaster,
    SeasonalNaiveForecaster,
)
from rankone.forecast.chimera import ChimeraForecaster
from rankone.forecast.evaluation import evaluate_long_horizon
from rankone.forecast.indicators import select_k, technical_indicators
from rankone.forecast.linear import LinearForecaster
from rankone.forecast.lstm import LSTMForecaster
from rankone.forecast.metrics import mase
from rankone.forecast.network_forecaster import NetworkForecaster
from rankone.forecast.plotting import plot_forecast, plot_weights
from rankone.forecast.series_forecaster import SeriesForecaster
from rankone.forecast.training import TrainingHistory
from rankone.forecast.walk_forward import ForecastReport, walk_forward_evaluate
from rankone.forecast.window_forecaster import WindowForecaster
from rankone.forecast.windows import SeriesScaler, SeriesWindows

__all__ = [
    "ARIMAForecaster",
    "ChimeraForecaster",
    "ForecastReport",
    "LSTMForecaster",
    "LinearForecaster",
    "NaiveForecaster",
    "NetworkForecaster",
    "RepeatForecaster",
    "SeasonalNaiveForecaster",
    "SeriesForecaster",
    "SeriesScaler",
    "SeriesWindows",
    "TrainingHistory",
    "WindowForecaster",
    "evaluate_long_horizon",
    "mase",
    "plot_forecast",
    "plot_weights",
    "select_k",
    "technical_indicators",
    "walk_forward_evaluate",
]


def __dir__() -> list[str]:
    return public_names(globals())
