"""The forecasts that learn nothing, and their intervals."""

import numpy as np
import pandas as pd
import pytest
from rankone.forecast import NaiveForecaster, RepeatForecaster, SeasonalNaiveForecaster
from sklearn.base import clone


def walk(rows, variates=1, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, variates)).cumsum(0)


class TestWindows:
    def test_repeat_repeats(self):
        X = walk(50, 3)
        forecaster = RepeatForecaster(4).fit(X)
        np.testing.assert_array_equal(forecaster.predict(), np.repeat(X[-1:], 4, 0))
        np.testing.assert_allclose(forecaster.predict(X[:9]), np.repeat(X[8:9], 4, 0), rtol=1e-12)

    def test_the_season_is_repeated_beyond_its_end(self):
        X = np.arange(12.0)[:, None]
        forecast = SeasonalNaiveForecaster(7, season=3).fit(X).predict()
        np.testing.assert_allclose(forecast[:, 0], [9, 10, 11, 9, 10, 11, 9])

    def test_a_seasonal_series_is_forecast_exactly(self):
        X = np.tile(np.random.default_rng(0).normal(size=(6, 2)), (8, 1))
        forecaster = SeasonalNaiveForecaster(15, season=6).fit(X[:30])
        np.testing.assert_allclose(forecaster.predict(X[:31]), X[31:46], rtol=1e-12, atol=1e-12)
        assert forecaster.score(X) == pytest.approx(0.0, abs=1e-20)

    def test_repeating_a_random_walk_errs_by_the_steps_ahead(self):
        """Unit steps: mean squared error h at step h, and (H + 1)/2 over the horizon."""
        X = walk(20_000, 40)
        windows = RepeatForecaster(10).fit(X).predict_windows(X)
        targets = np.stack([X[i : i + 10] for i in range(1, len(X) - 9)])
        errors = np.square(windows - targets)
        # 40 independent walks of 2000 disjoint windows each: under 1 % sampling error.
        np.testing.assert_allclose(errors.mean((0, 2)), np.arange(1, 11), rtol=0.03)
        assert errors.mean() == pytest.approx(5.5, rel=0.03)

    def test_intervals_cover_as_often_as_they_say(self):
        X = walk(4000, 30)
        forecaster = RepeatForecaster(9).fit(X[:3000])
        lower, upper = forecaster.predict_interval(level=0.8)
        np.testing.assert_allclose((lower + upper) / 2, forecaster.predict(), rtol=1e-10)
        inside = []
        for start in range(3000, 3990, 9):
            low, high = forecaster.predict_interval(X[:start], level=0.8)
            inside.append((low <= X[start : start + 9]) & (X[start : start + 9] <= high))
        # 110 windows of 30 walks.
        assert np.mean(inside) == pytest.approx(0.8, abs=0.02)

    def test_seasonal_intervals_widen_with_the_seasons(self):
        X = walk(200)
        lower, upper = SeasonalNaiveForecaster(8, season=4).fit(X).predict_interval()
        width = (upper - lower)[:, 0]
        np.testing.assert_allclose(width[4:] / width[:4], np.sqrt(2))

    def test_frames_and_clones(self):
        frame = pd.DataFrame(walk(20, 2), columns=["a", "b"])
        forecaster = SeasonalNaiveForecaster(3, season=5).fit(frame)
        assert list(forecaster.feature_names_in_) == ["a", "b"]
        assert clone(forecaster).get_params() == {"horizon": 3, "season": 5}
        assert clone(RepeatForecaster(3)).get_params() == {"horizon": 3}

    @pytest.mark.parametrize(
        ("forecaster", "message"),
        [
            (RepeatForecaster(0), "horizon must be an integer of at least 1"),
            (SeasonalNaiveForecaster(2, season=20), "more than the 20 rows of a season, got 20"),
            (SeasonalNaiveForecaster(2, season=0), "lookback must be an integer"),
        ],
    )
    def test_mistakes_are_named(self, forecaster, message):
        with pytest.raises(ValueError, match=message):
            forecaster.fit(walk(20))
        with pytest.raises(ValueError, match=r"level must be in \(0, 1\), got 95"):
            RepeatForecaster(2).fit(walk(20)).predict_interval(level=95)


class TestNaive:
    def test_the_last_value_and_its_drift(self):
        y = np.array([100.0, 110.0, 121.0])
        np.testing.assert_array_equal(NaiveForecaster().fit(y).predict(2), [121.0, 121.0])
        for drift in (True, "log"):
            np.testing.assert_allclose(
                NaiveForecaster(drift).fit(y).predict(2), [133.1, 146.41], rtol=1e-12
            )
        np.testing.assert_allclose(NaiveForecaster("arithmetic").fit(y).predict(2), [131.5, 142.0])

    def test_walks_forward_from_the_value_before(self):
        y = np.exp(walk(40)[:, 0])
        np.testing.assert_array_equal(
            NaiveForecaster().fit(y[:30]).predict_walk_forward(y, 30), y[29:-1]
        )
        growth = np.diff(np.log(y[:30])).mean()
        np.testing.assert_allclose(
            NaiveForecaster(True).fit(y[:30]).predict_walk_forward(y, start=30),
            y[29:-1] * np.exp(growth),
            rtol=1e-12,
        )

    @pytest.mark.parametrize("drift", [False, "arithmetic", "log"])
    def test_intervals_cover_as_often_as_they_say(self, drift):
        rng = np.random.default_rng(1)
        inside = []
        for _ in range(400):
            y = 50 + rng.normal(0.2 if drift else 0.0, 1.0, 60).cumsum()
            y = np.exp(y / 50) if drift == "log" else y
            lower, upper = NaiveForecaster(drift).fit(y[:50]).predict_interval(10, level=0.8)
            inside.append((lower <= y[50:]) & (y[50:] <= upper))
        # 400 walks; the ten steps of one hang together.
        assert np.mean(inside) == pytest.approx(0.8, abs=0.05)

    def test_mistakes_are_named(self):
        y = np.array([1.0, -2.0, 3.0])
        with pytest.raises(ValueError, match=r"y must be positive for the drift of log.* -2"):
            NaiveForecaster(drift=True).fit(y)
        with pytest.raises(ValueError, match="drift must be one of"):
            NaiveForecaster(drift="linear").fit(y)
        with pytest.raises(ValueError, match="y must have at least 2 rows, got 1"):
            NaiveForecaster().fit([1.0])
        with pytest.raises(ValueError, match="NaN"):
            NaiveForecaster().fit([1.0, np.nan])
        with pytest.raises(ValueError, match="horizon must be an integer of at least 1, got 0"):
            NaiveForecaster().fit(y).predict(0)
        with pytest.raises(ValueError, match="one-dimensional"):
            NaiveForecaster().fit(y[:, None])
        with pytest.raises(ValueError, match="start must be an integer of at least 1"):
            NaiveForecaster().fit(y).predict_walk_forward(y, 0)
