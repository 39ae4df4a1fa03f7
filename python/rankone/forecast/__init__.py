"""Forecasters with scikit-learn's verbs, for series of one or many variates.

``fit`` takes a series, a row a time; ``predict`` gives the rows after it.
"""

from rankone.forecast.chimera import ChimeraForecaster
from rankone.forecast.training import TrainingHistory
from rankone.forecast.window_forecaster import WindowForecaster
from rankone.forecast.windows import SeriesScaler, SeriesWindows

__all__ = [
    "ChimeraForecaster",
    "SeriesScaler",
    "SeriesWindows",
    "TrainingHistory",
    "WindowForecaster",
]
