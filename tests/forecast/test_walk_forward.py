"""walk_forward_evaluate: its numbers by hand, both modes, refits, and the honest verdict."""

import numpy as np
import pandas as pd
import pytest
from rankone.forecast import (
    ARIMAForecaster,
    LinearForecaster,
    LSTMForecaster,
    NaiveForecaster,
    RepeatForecaster,
    SeasonalNaiveForecaster,
    metrics,
    walk_forward_evaluate,
)
from rankone.stats.diebold_mariano import diebold_mariano


def prices(rows=300, seed=0):
    return 100 + np.random.default_rng(seed).normal(size=rows).cumsum()


class Shifted(NaiveForecaster):
    """Yesterday's value and something, to have numbers to compare."""

    def predict_walk_forward(self, y_full, start):
        return super().predict_walk_forward(y_full, start) + 0.5


class TestReport:
    def test_its_numbers_are_those_of_the_definitions(self):
        y = prices()
        report = walk_forward_evaluate(Shifted(), y)
        truth, previous = y[240:], y[239:-1]
        forecast = previous + 0.5
        error = forecast - truth
        assert report.mae == pytest.approx(np.abs(error).mean())
        assert report.rmse == pytest.approx(np.sqrt((error**2).mean()))
        assert report.accuracy == pytest.approx(100 * (1 - (np.abs(error) / truth).mean()))
        assert report.skill == pytest.approx(
            1 - np.abs(error).mean() / np.abs(previous - truth).mean()
        )
        assert report.directional_accuracy == np.mean(truth > previous)
        statistic, pvalue = diebold_mariano(error, previous - truth)
        assert (report.dm_statistic, report.dm_pvalue) == (statistic, pvalue)
        assert report.lag_ratio == pytest.approx(
            np.corrcoef(forecast, previous)[0, 1] - np.corrcoef(forecast, truth)[0, 1]
        )
        assert report.mase == pytest.approx(np.abs(error).mean() / np.abs(np.diff(y[:240])).mean())
        np.testing.assert_array_equal(report.y_true, truth)
        np.testing.assert_allclose(report.y_pred, forecast)
        np.testing.assert_array_equal(report.index, np.arange(240, 300))

    def test_the_naive_forecast_has_no_skill(self):
        report = walk_forward_evaluate(NaiveForecaster(), prices())
        assert (report.skill, report.dm_statistic, report.dm_pvalue) == (0.0, 0.0, 1.0)
        assert report.directional_accuracy == 0.0  # ties count as wrong
        assert report.lag_ratio > 0
        assert "cannot be told from yesterday's value" in report.verdict

    def test_a_random_walk_leaves_no_skill(self):
        """Naive error sqrt(2/pi) sigma; nothing does better on 4000 rows."""
        sigma = 2.0
        y = 1000 + np.random.default_rng(0).normal(0, sigma, 5000).cumsum()
        naive = walk_forward_evaluate(NaiveForecaster(), y, start=1000)
        # 4000 test rows: four standard errors of a mean absolute deviation.
        expected = np.sqrt(2 / np.pi) * sigma
        assert naive.mae == pytest.approx(expected, rel=4 * 0.756 / np.sqrt(4000))
        contenders = [
            NaiveForecaster(drift=True),
            LinearForecaster(8, 1, solver="lstsq"),
            ARIMAForecaster(order=(1, 1, 0), progress=False),
            LSTMForecaster(
                window=8, hidden_size=4, target="return", max_epochs=2, random_state=0,
                progress=False,
            ),
        ]  # fmt: skip
        for forecaster in contenders:
            assert walk_forward_evaluate(forecaster, y, start=1000).skill <= 0.02

    def test_a_worse_forecaster_loses_by_the_verdict_and_a_better_one_wins(self):
        rng = np.random.default_rng(0)
        y = 50 + rng.normal(size=400)  # white noise: the mean beats yesterday

        class Mean(NaiveForecaster):
            def predict_walk_forward(self, y_full, start):
                return np.full(len(y_full) - start, 50.0)

        assert "Mean beats yesterday's value" in walk_forward_evaluate(Mean(), y).verdict
        bad = walk_forward_evaluate(Shifted(), prices() * 0.05 + 50)
        assert "Shifted loses to yesterday's value" in bad.verdict

    def test_the_summary_names_the_baselines(self):
        y = prices()
        report = walk_forward_evaluate(Shifted(), y, season=5)
        frame = report.summary().frame
        assert list(frame.index) == ["Shifted", "naive", "drift", "seasonal naive (5)"]
        assert frame.loc["naive", "mae"] == pytest.approx(np.abs(np.diff(y[239:])).mean())
        assert frame.loc["seasonal naive (5)", "mae"] == pytest.approx(
            np.abs(y[240:] - y[235:-5]).mean()
        )
        assert report.verdict in str(report.summary())

    def test_series_keep_their_index(self):
        index = pd.date_range("2020-01-01", periods=300)
        report = walk_forward_evaluate(NaiveForecaster(), pd.Series(prices(), index=index))
        assert list(report.index) == list(index[240:])

    def test_it_is_drawn(self):
        y = prices()
        axes = walk_forward_evaluate(NaiveForecaster(), y, mode="origin").plot()
        assert axes.get_legend_handles_labels()[1] == ["truth", "NaiveForecaster", "interval"]
        np.testing.assert_allclose(axes.get_lines()[0].get_ydata(), y[240:])


class TestModes:
    def test_from_the_origin_every_row_is_forecast_from_the_last_training_row(self):
        y = prices()
        report = walk_forward_evaluate(NaiveForecaster(), y, mode="origin")
        np.testing.assert_array_equal(report.y_pred, np.full(60, y[239]))
        assert report.skill == 0.0
        drift = walk_forward_evaluate(NaiveForecaster("arithmetic"), y, mode="origin")
        slope = (y[239] - y[0]) / 239
        np.testing.assert_allclose(drift.y_pred, y[239] + slope * np.arange(1, 61))
        assert drift.skill == pytest.approx(1 - drift.mae / report.mae)
        assert "the last training value" in drift.verdict

    def test_intervals_from_the_origin_are_reported_with_their_coverage(self):
        report = walk_forward_evaluate(NaiveForecaster(), prices(), mode="origin", level=0.5)
        lower, upper = report.interval
        inside = (lower <= report.y_true) & (report.y_true <= upper)
        assert report.coverage == inside.mean()
        assert "50 % interval" in str(report.summary())
        assert np.isnan(walk_forward_evaluate(NaiveForecaster(), prices()).coverage)

    def test_refits_see_all_rows_before(self):
        y = prices(100)
        report = walk_forward_evaluate(NaiveForecaster(drift=True), y, refit_every=7)
        expected = []
        for first in range(80, 100, 7):
            growth = np.diff(np.log(y[:first])).mean()
            expected += list(y[first - 1 : min(first + 7, 100) - 1] * np.exp(growth))
        np.testing.assert_allclose(report.y_pred, expected, rtol=1e-12)

    def test_refitting_leaves_the_forecaster_on_the_training_rows(self):
        forecaster = NaiveForecaster()
        walk_forward_evaluate(forecaster, prices(), refit_every=10)
        assert forecaster.n_train_ == 240

    def test_window_forecasters_belong_to_the_family(self):
        y = prices()
        repeat = walk_forward_evaluate(RepeatForecaster(1), y)
        np.testing.assert_allclose(repeat.y_pred, y[239:-1], rtol=1e-12)
        seasonal = walk_forward_evaluate(SeasonalNaiveForecaster(60, 6), y, mode="origin")
        np.testing.assert_allclose(seasonal.y_pred, np.tile(y[234:240], 10), rtol=1e-12)
        linear = walk_forward_evaluate(LinearForecaster(8, 1, solver="lstsq"), y, refit_every=20)
        assert np.isfinite(linear.mae)
        with pytest.raises(ValueError, match="must reach the 60 test rows in the mode 'origin'"):
            walk_forward_evaluate(LinearForecaster(8, 4, solver="lstsq"), y, mode="origin")

    def test_training_has_the_first_rows(self):
        forecaster = NaiveForecaster()
        for rows, fraction, expected in ((2516, 0.2, 2012), (10, 0.2, 8), (7, 0.3, 4)):
            walk_forward_evaluate(forecaster, prices(rows), test_fraction=fraction)
            assert forecaster.n_train_ == expected


class TestMistakes:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"mode": "recursive"}, "mode must be one of walk_forward, origin"),
            ({"test_fraction": 1.0}, r"test_fraction must be in \(0, 1\), got 1.0"),
            ({"test_fraction": 0.004}, "at least 2 test rows, got 2|at least 2 test rows, got 1"),
            ({"test_fraction": "a"}, r"test_fraction must be in \(0, 1\), got 'a'"),
            ({"start": 299}, "y must have at least 2 test rows, got 1 of 300"),
            ({"start": 1}, "y must have at least 2 training rows"),
            ({"start": 0.8}, "start must be an integer or None"),
            ({"refit_every": 0}, "refit_every must be an integer of at least 1"),
            ({"refit_every": 5, "mode": "origin"}, "refit_every must be None"),
            ({"X": np.zeros((300, 2))}, "X must be None: NaiveForecaster takes no covariates"),
            ({"level": 2.0, "mode": "origin"}, r"level must be in \(0, 1\), got 2.0"),
            ({"season": 400}, "more than the 400 rows of a season"),
        ],
    )
    def test_options_are_named(self, options, message):
        rows = {"test_fraction": 0.004}
        y = prices()
        if options == rows:
            y = y[:250]
        with pytest.raises(ValueError, match=message):
            walk_forward_evaluate(NaiveForecaster(), y, **options)

    def test_series_are_checked(self):
        y = prices()
        with pytest.raises(ValueError, match="y contains NaN"):
            walk_forward_evaluate(NaiveForecaster(), np.append(y, np.nan))
        with pytest.raises(ValueError, match="y must be positive for accuracy and drift, got -1"):
            walk_forward_evaluate(NaiveForecaster(), np.append(y, -1.0))
        report = walk_forward_evaluate(NaiveForecaster(), np.append(y, -1.0), positive=False)
        assert np.isnan(report.accuracy)
        assert set(report.baselines) == {"naive"}
        lstm = LSTMForecaster(window=4, progress=False)
        with pytest.raises(ValueError, match="X must have the 300 rows of y, got 299"):
            walk_forward_evaluate(lstm, y, np.zeros((299, 1)))
        with pytest.raises(ValueError, match="its future is not known"):
            walk_forward_evaluate(lstm, y, np.zeros((300, 1)), mode="origin")

    def test_other_objects_are_refused(self):
        with pytest.raises(TypeError, match="a SeriesForecaster or a WindowForecaster, got a dict"):
            walk_forward_evaluate({}, prices())

    def test_accuracy_needs_positive_truth(self):
        with pytest.raises(ValueError, match="y_true must be positive"):
            metrics.accuracy([1.0, 0.0], [1.0, 1.0])

    def test_metrics_without_a_scale_are_nan(self):
        assert np.isnan(metrics.skill([1.0, 1.0], [2.0, 2.0], [1.0, 1.0]))
        assert np.isnan(metrics.lag_ratio([1.0, 2.0], [3.0, 3.0], [0.0, 1.0]))
