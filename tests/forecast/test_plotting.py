"""Plots of forecasts and weights."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from rankone.forecast import plot_forecast, plot_weights


def test_forecasts_stand_beside_truth_history_and_interval():
    ax = Figure().add_subplot()
    drawn = plot_forecast(
        [1.0, 2.0, 3.0],
        {"a": [1.0, 1.0, 1.0], "b": [2.0, 2.0, 2.0]},
        history=[0.0, 0.5],
        interval=([0.0, 0.0, 0.0], [4.0, 4.0, 4.0]),
        ax=ax,
    )
    assert drawn is ax
    assert drawn.get_legend_handles_labels()[1] == ["history", "truth", "a", "b", "interval"]
    history, truth, first, _ = drawn.get_lines()
    assert history.get_xdata().tolist() == [-2, -1]
    assert truth.get_xdata().tolist() == [0, 1, 2]
    assert truth.get_ydata().tolist() == [1.0, 2.0, 3.0]
    assert first.get_ydata().tolist() == [1.0, 1.0, 1.0]


def test_weights_have_the_last_lag_on_the_right():
    weights = np.zeros((3, 5))
    weights[0, -1] = 1.0  # one step ahead, of the last value
    ax = plot_weights(weights)
    image = ax.get_images()[0]
    left, right, bottom, top = image.get_extent()
    assert (left, right, bottom, top) == (5.5, 0.5, 0.5, 3.5)
    assert image.get_array()[0, -1] == 1.0
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("lag", "steps ahead")


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"truth and its index must be \(3,\), got \(2,\) and 3"):
        plot_forecast([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="history must be None with an index"):
        plot_forecast(None, [1.0], history=[1.0], index=[5])
    with pytest.raises(ValueError, match=r"coef must be \(horizon, lookback\), got \(3,\)"):
        plot_weights(np.zeros(3))
