"""LSTMForecaster: it learns what there is to learn, and never sees the row it forecasts."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from rankone.forecast import LSTMForecaster, walk_forward_evaluate
from sklearn.base import clone
from sklearn.exceptions import NotFittedError


def prices(rows=160, seed=0):
    return 100 * np.exp(0.01 * np.random.default_rng(seed).normal(size=rows).cumsum())


def covariates(rows=160, seed=1):
    return np.random.default_rng(seed).normal(size=(rows, 2)) * np.array([1.0, 50.0])


def small(**options):
    defaults = {"window": 8, "hidden_size": 4, "max_epochs": 2, "batch_size": 32}
    return LSTMForecaster(**{**defaults, "random_state": 0, "progress": False, **options})


def ar1(rows, phi=0.8, seed=0):
    noise = np.random.default_rng(seed).normal(size=rows)
    y = np.zeros(rows)
    for t in range(1, rows):
        y[t] = phi * y[t - 1] + noise[t]
    return y


class TestLearning:
    def test_learns_an_autoregression(self):
        """Unit noise: the best error is 1, the naive one sqrt(2 / 1.8) = 1.054."""
        y = 100 + ar1(2500)
        forecaster = LSTMForecaster(
            window=4, hidden_size=16, dropout=0.0, max_epochs=40, lr=3e-3, batch_size=64,
            random_state=0, progress=False,
        )  # fmt: skip
        report = walk_forward_evaluate(forecaster, y, start=2000)
        noise = np.random.default_rng(0).normal(size=2500)[2000:].std()
        assert report.rmse <= 1.05 * noise
        assert report.skill > 0.02
        assert report.baselines["naive"]["rmse"] == pytest.approx(1.054 * noise, rel=0.06)

    def test_learns_a_sine(self):
        y = np.sin(2 * np.pi * np.arange(620) / 31)
        forecaster = LSTMForecaster(
            window=10, hidden_size=16, dropout=0.0, max_epochs=30, batch_size=16, lr=5e-3,
            random_state=0, progress=False,
        )  # fmt: skip
        report = walk_forward_evaluate(forecaster, y, start=500, positive=False)
        assert report.rmse < 0.03
        assert report.baselines["naive"]["rmse"] == pytest.approx(0.143, abs=0.002)
        # Recursion keeps the phase for a period.
        assert np.abs(forecaster.predict(31) - y[500:531]).max() < 0.25


class TestCausality:
    @pytest.mark.parametrize("target", ["level", "return"])
    def test_a_row_changes_no_forecast_of_it_or_before(self, target):
        y, X = prices(), covariates()
        forecaster = small(target=target).fit(y[:120], X[:120])
        before = forecaster.predict_walk_forward(y, X, start=120)
        assert before.shape == (40,)
        for change in ("y", "X"):
            y_changed, X_changed = y.copy(), X.copy()
            if change == "y":
                y_changed[140] *= 2
            else:
                X_changed[140] += 100
            after = forecaster.predict_walk_forward(y_changed, X_changed, start=120)
            np.testing.assert_array_equal(after[:21], before[:21])  # rows 120 to 140
            assert after[21] != before[21]

    def test_scalers_come_from_the_training_rows(self):
        y, X = prices(), covariates()
        forecaster = small().fit(y[:120], X[:120])
        columns = np.column_stack([y, X])[:120]
        np.testing.assert_array_equal(forecaster.scaler_min_, columns.min(0))
        np.testing.assert_allclose(forecaster.scaler_scale_, np.ptp(columns, axis=0))
        held_out = small(val_fraction=0.25).fit(y[:120], X[:120])
        np.testing.assert_array_equal(held_out.scaler_min_, columns[:90].min(0))
        standard = small(scaler="standard").fit(y[:120], X[:120])
        np.testing.assert_allclose(standard.scaler_min_, columns.mean(0))
        np.testing.assert_allclose(standard.scaler_scale_, columns.std(0))
        np.testing.assert_array_equal(small(scaler=None).fit(y).scaler_scale_, [1.0])

    def test_values_beyond_the_training_range_are_not_clipped(self):
        y = prices()
        forecaster = small().fit(y[:120])
        high, higher = np.full(8, 1.5 * y.max()), np.full(8, 2.0 * y.max())
        first, second = (
            forecaster.predict_walk_forward(np.append(rows, 1.0), start=8)[0]
            for rows in (high, higher)
        )
        assert first != second

    def test_the_test_rows_change_nothing_that_was_fitted(self):
        y = prices()
        changed = y.copy()
        changed[128:] *= 5
        states = []
        for series in (y, changed):
            forecaster = small()
            walk_forward_evaluate(forecaster, series)
            states.append((forecaster.scaler_min_, forecaster.predict(3)))
        np.testing.assert_array_equal(states[0][0], states[1][0])
        np.testing.assert_array_equal(states[0][1], states[1][1])


class TestForecasts:
    def test_walking_forward_is_one_forecast_after_another(self):
        y = prices()
        forecaster = small().fit(y[:120])
        steps = forecaster.predict_walk_forward(y, start=120)
        assert steps[0] == pytest.approx(forecaster.predict()[0], rel=1e-6)
        # float32 weights; windows of other batches may round otherwise.
        alone = forecaster.predict_walk_forward(y[:131], start=130)
        assert steps[10] == pytest.approx(alone[0], rel=1e-6)

    def test_recursion_reads_its_own_forecasts(self):
        y = prices()
        forecaster = small().fit(y)
        first, second = forecaster.predict(2)
        continued = np.append(y, [first, 1.0])
        again = forecaster.predict_walk_forward(continued, start=len(y) + 1)
        assert second == pytest.approx(again[0], rel=1e-6)

    def test_dropout_is_off_in_a_forecast(self):
        forecaster = small(dropout=0.9).fit(prices())
        np.testing.assert_array_equal(forecaster.predict(3), forecaster.predict(3))

    def test_returns_are_added_to_the_last_close(self):
        """With its head at zero the network forecasts the mean change of the training rows."""
        y = prices()
        forecaster = small(target="return").fit(y[:120])
        with torch.no_grad():
            forecaster.model_.head.weight.zero_()
            forecaster.model_.head.bias.zero_()
        drift = np.diff(y[:120]).mean()
        np.testing.assert_allclose(
            forecaster.predict_walk_forward(y, start=120), y[119:-1] + drift, rtol=1e-12
        )

    def test_same_seed_same_numbers(self):
        y = prices()
        first, second, other = (small(random_state=seed).fit(y).predict(3) for seed in (0, 0, 1))
        np.testing.assert_array_equal(first, second)
        assert not np.array_equal(first, other)

    def test_the_global_random_state_is_left_alone_and_not_read(self):
        y = prices()
        torch.manual_seed(1)
        first = small().fit(y).predict()
        drawn = torch.rand(1)
        torch.manual_seed(1)
        assert torch.equal(torch.rand(1), drawn)
        torch.manual_seed(2)
        np.testing.assert_array_equal(small().fit(y).predict(), first)

    def test_every_window_is_trained_on(self):
        """Partial batches too: 152 windows in batches of 32 make five steps an epoch."""
        calls = []

        class Counting(LSTMForecaster):
            def _loss(self, model, lookbacks, targets):
                calls.append(len(lookbacks))
                return super()._loss(model, lookbacks, targets)

        Counting(**small(max_epochs=1).get_params()).fit(prices())
        assert calls == [32, 32, 32, 32, 24]

    def test_early_stopping_keeps_the_best_state(self):
        forecaster = small(val_fraction=0.25, patience=1, lr=0.1, max_epochs=30).fit(prices())
        history = forecaster.history_
        assert history.stopped_by == "patience"
        assert history.best_epoch == 1 + int(np.argmin(history.validation_loss))

    def test_an_interrupted_fit_goes_on_as_though_it_had_not_been(self, tmp_path):
        y = prices()
        whole = small(max_epochs=3).fit(y)
        small(max_epochs=1, checkpoint=tmp_path / "c").fit(y)
        resumed = small(max_epochs=3, checkpoint=tmp_path / "c").fit(y)
        assert resumed.history_.train_loss == whole.history_.train_loss
        np.testing.assert_array_equal(resumed.predict(3), whole.predict(3))


class TestFamily:
    def test_series_and_frames_are_taken(self):
        y, X = prices(), covariates()
        frame = pd.DataFrame(X, columns=["a", "b"])
        forecaster = small().fit(pd.Series(y), frame)
        np.testing.assert_array_equal(forecaster.predict(), small().fit(y, X).predict())
        assert forecaster.n_features_in_ == 3
        assert small().fit(y).n_features_in_ == 1
        with pytest.raises(ValueError, match=r"columns of the fit, \['a', 'b'\], got \['b', 'a'\]"):
            forecaster.predict_walk_forward(y, frame[["b", "a"]], start=120)

    def test_clones_and_pickles(self):
        y = prices()
        forecaster = small(target="return").fit(y)
        assert clone(forecaster).get_params() == forecaster.get_params()
        again = pickle.loads(pickle.dumps(forecaster))
        np.testing.assert_array_equal(again.predict(2), forecaster.predict(2))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"window": 160}, "window must be below the 160 training rows, got 160"),
            ({"window": 130, "val_fraction": 0.2}, "below the 128 rows that are left"),
            ({"hidden_size": 0}, "hidden_size must be an integer of at least 1"),
            ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
            ({"target": "sign"}, "target must be one of level, return, got 'sign'"),
            ({"scaler": "robust"}, "scaler must be 'minmax', 'standard' or None"),
            ({"lr": -1.0}, "lr must be positive"),
        ],
    )
    def test_mistakes_are_named(self, options, message):
        with pytest.raises(ValueError, match=message):
            small(**options).fit(prices())

    def test_bad_series_are_refused(self):
        y, X = prices(), covariates()
        with pytest.raises(ValueError, match="y contains NaN"):
            small().fit(np.where(np.arange(160) == 5, np.nan, y))
        with pytest.raises(ValueError, match="X contains"):
            small().fit(y, np.where(X > 100, np.inf, np.nan))
        with pytest.raises(ValueError, match="X must have the 160 rows of y, got 159"):
            small().fit(y, X[:-1])
        with pytest.raises(NotFittedError):
            small().predict()
        alone, both = small().fit(y), small().fit(y, X)
        with pytest.raises(ValueError, match="horizon must be 1 for a fit with covariates"):
            both.predict(2)
        with pytest.raises(ValueError, match="horizon must be an integer of at least 1, got 0"):
            alone.predict(0)
        with pytest.raises(ValueError, match="X_full must have the 2 covariates of the fit, got N"):
            both.predict_walk_forward(y, start=100)
        with pytest.raises(ValueError, match="X_full must have the 2 covariates of the fit, got 1"):
            both.predict_walk_forward(y, X[:, :1], start=100)
        with pytest.raises(ValueError, match="X_full must have the 0 covariates of the fit, got 2"):
            alone.predict_walk_forward(y, X, start=100)
        for start in (7, 160, None):
            with pytest.raises(ValueError, match="start must be an integer of at least 8"):
                alone.predict_walk_forward(y, start=start)
