"""evaluate_long_horizon: the protocol of the benchmarks, baselines, and nothing of the future."""

import numpy as np
import pandas as pd
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from rankone.forecast import (
    ChimeraForecaster,
    LinearForecaster,
    NaiveForecaster,
    RepeatForecaster,
    SeasonalNaiveForecaster,
    evaluate_long_horizon,
    mase,
)
from rankone.forecast.protocol import split_series


def walk(rows=400, variates=3, seed=0):
    scales = np.array([1.0, 1e3, 1e-2])[:variates]
    return np.random.default_rng(seed).normal(size=(rows, variates)).cumsum(0) * scales + 5.0


def linear(lookback=12, horizon=5, **options):
    return LinearForecaster(lookback, horizon, solver="lstsq", progress=False, **options)


def test_errors_are_those_of_the_written_out_protocol():
    """By hand: split rows, scaler of the training rows, every window of the test block."""
    X = walk()
    result = evaluate_long_horizon(linear(), X, 12, 5)
    train, test = X[:280], X[400 - 80 - 12 :]
    mean, scale = train.mean(0), train.std(0)
    forecaster = linear().fit(train)
    np.testing.assert_allclose(forecaster.scaler_mean_, mean)
    errors = []
    for first in range(80 - 5 + 1):
        window = test[first : first + 12]
        errors.append((forecaster.predict(window) - test[first + 12 : first + 17]) / scale)
    errors = np.array(errors)
    assert result["n_windows"] == len(errors) == 92 - 12 - 5 + 1
    assert result["mse"] == pytest.approx(np.square(errors).mean(), rel=1e-9)
    assert result["mae"] == pytest.approx(np.abs(errors).mean(), rel=1e-9)
    assert result["rmse"] == pytest.approx(np.sqrt(np.square(errors).mean()), rel=1e-9)
    np.testing.assert_allclose(result["mse_per_step"], np.square(errors).mean((0, 2)), rtol=1e-9)
    naive = np.abs(np.diff(train, axis=0)).mean(0) / scale
    assert result["mase"] == pytest.approx((np.abs(errors).mean((0, 1)) / naive).mean(), rel=1e-9)


def test_baselines_stand_beside_every_result():
    X = walk()
    result = evaluate_long_horizon(linear(), X, 12, 5, seasons=(7, 12))
    assert set(result["baselines"]) == {"repeat", "seasonal naive (7)", "seasonal naive (12)"}
    repeat = evaluate_long_horizon(RepeatForecaster(5), X, 12, 5)
    seasonal = evaluate_long_horizon(SeasonalNaiveForecaster(5, 7), X, 12, 5)
    assert result["baselines"]["repeat"]["mse"] == repeat["mse"]
    assert result["baselines"]["seasonal naive (7)"]["mse"] == seasonal["mse"]
    assert repeat["mse"] == repeat["baselines"]["repeat"]["mse"]


def test_repeat_errs_by_the_last_value():
    X = walk()
    train = X[:280]
    windows = sliding_window_view(X[400 - 80 - 12 :], 17, axis=0)
    errors = (windows[..., 12:] - windows[..., 11:12]) / train.std(0)[:, None]
    result = evaluate_long_horizon(RepeatForecaster(5), X, 12, 5)
    assert result["mse"] == pytest.approx(np.square(errors).mean(), rel=1e-9)


def test_raw_scale_has_the_units_of_the_series():
    X = walk(variates=1)
    scaled = evaluate_long_horizon(linear(), X, 12, 5)
    raw = evaluate_long_horizon(linear(), X, 12, 5, raw_scale=True)
    deviation = X[:280].std()
    assert raw["mae"] == pytest.approx(deviation * scaled["mae"], rel=1e-9)
    assert raw["mse"] == pytest.approx(deviation**2 * scaled["mse"], rel=1e-9)
    assert raw["mase"] == pytest.approx(scaled["mase"], rel=1e-9)


def small_chimera():
    return ChimeraForecaster(
        12, 5, d_model=4, n_layers=1, d_state=2, expand=1, max_epochs=1, batches_per_epoch=2,
        random_state=0, progress=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    "make",
    [
        linear,
        lambda: linear(individual=True, variant="linear"),
        lambda: LinearForecaster(12, 5, max_epochs=2, random_state=0, progress=False),
        lambda: SeasonalNaiveForecaster(5, 7),
        small_chimera,
    ],
)
def test_the_test_rows_change_neither_scaler_nor_weights(make):
    X = walk()
    changed = X.copy()
    changed[320:] *= -3.0  # the test rows
    forecasts, scalers = [], []
    for series in (X, changed):
        forecaster = make()
        evaluate_long_horizon(forecaster, series, 12, 5)
        forecasts.append(forecaster.predict(X[:200]))
        scalers.append((forecaster.scaler_mean_, forecaster.scaler_scale_))
    np.testing.assert_array_equal(forecasts[0], forecasts[1])
    np.testing.assert_array_equal(scalers[0], scalers[1])


def test_the_validation_block_starts_a_lookback_early():
    X = walk()
    seen = {}

    class Recorder(RepeatForecaster):
        def fit(self, X, X_val=None):
            seen["train"], seen["validation"] = X, X_val
            return super().fit(X)

    evaluate_long_horizon(Recorder(5), X, 12, 5)
    np.testing.assert_array_equal(seen["train"], X[:280])
    # One row of lookback is all that repeating reads.
    np.testing.assert_array_equal(seen["validation"], X[279:320])
    blocks = split_series(X, 12)
    forecaster = LinearForecaster(12, 5, max_epochs=1, random_state=0, progress=False)
    by_hand = LinearForecaster(12, 5, max_epochs=1, random_state=0, progress=False)
    evaluate_long_horizon(forecaster, X, 12, 5)
    by_hand.fit(blocks.train, blocks.validation)
    assert forecaster.history_.validation_loss == by_hand.history_.validation_loss


class TestPermutation:
    def test_a_forecast_that_reads_the_order_suffers(self):
        t = np.arange(1200.0)
        X = (np.sin(2 * np.pi * t / 24) + 0.1 * np.random.default_rng(0).normal(size=1200))[:, None]
        clean, shuffled, half = (
            evaluate_long_horizon(linear(36, 12, alpha=1.0), X, 36, 12, permute=permute)["mse"]
            for permute in (None, "shuffle", "half")
        )
        assert shuffled > 10 * clean
        assert half > 10 * clean

    def test_one_permutation_for_all_windows_and_baselines_untouched(self):
        X = walk(variates=1)
        forecaster = linear(8, 1, variant="linear", alpha=0.1)
        result = evaluate_long_horizon(forecaster, X, 8, 1, permute="shuffle", random_state=3)
        order = np.random.default_rng(3).permutation(8)
        test = X[400 - 80 - 8 :, 0]
        errors = [
            forecaster.predict(test[i : i + 8][order][:, None])[0, 0] - test[i + 8]
            for i in range(80)
        ]
        expected = np.square(np.array(errors) / X[:280].std()).mean()
        assert result["mse"] == pytest.approx(expected, rel=1e-9)
        clean = evaluate_long_horizon(forecaster, X, 8, 1)
        assert result["baselines"]["repeat"]["mse"] == clean["baselines"]["repeat"]["mse"]

    def test_halves_are_swapped(self):
        X = walk(variates=1)
        result = evaluate_long_horizon(RepeatForecaster(1), X, 8, 1, permute="half")
        test = X[400 - 80 - 8 :, 0]
        # The last of the swapped rows is the last of the first half.
        errors = np.array([test[i + 3] - test[i + 8] for i in range(80)]) / X[:280].std()
        assert result["mse"] == pytest.approx(np.square(errors).mean(), rel=1e-9)


def test_frames_are_taken():
    X = walk()
    frame = pd.DataFrame(X, columns=["a", "b", "c"], index=np.linspace(0.0, 1.0, 400))
    forecaster = linear()
    result = evaluate_long_horizon(forecaster, frame, 12, 5)
    assert list(forecaster.feature_names_in_) == ["a", "b", "c"]
    assert result["mse"] == pytest.approx(evaluate_long_horizon(linear(), X, 12, 5)["mse"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"horizon": 6}, "horizon must be that of the forecaster, 5, got 6"),
        ({"lookback": 11}, "lookback must be at least that of the forecaster, 12, got 11"),
        ({"split": "8:1:1"}, "split must be one of"),
        ({"permute": "reverse"}, "permute must be None, 'shuffle' or 'half'"),
        ({"seasons": 13}, "seasons must be between 1 and the lookback 12, got 13"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        evaluate_long_horizon(linear(), walk(), **{"lookback": 12, "horizon": 5, **options})


def test_other_forecasters_are_refused():
    with pytest.raises(TypeError, match="must be a WindowForecaster, got a NaiveForecaster"):
        evaluate_long_horizon(NaiveForecaster(), walk(), 12, 5)
    with pytest.raises(ValueError, match=r"lookback must be an integer of at least 1, got 12\.0"):
        evaluate_long_horizon(linear(), walk(), 12.0, 5)


class TestMase:
    def test_is_the_error_over_that_of_the_naive_forecast(self):
        assert mase([4.0, 5.0], [3.0, 3.0], [0.0, 1.0, 2.0, 3.0]) == 1.5
        assert mase([4.0, 5.0], [3.0, 3.0], [0.0, 1.0, 2.0, 3.0], season=2) == 0.75

    def test_variates_are_averaged_and_constant_ones_left_out(self):
        train = np.stack([np.arange(5.0), 10 * np.arange(5.0), np.ones(5)], 1)
        truth = np.zeros((4, 3))
        assert mase(truth, truth + np.array([2.0, 10.0, 7.0]), train) == pytest.approx(1.5)
        assert np.isnan(mase([1.0], [2.0], [3.0, 3.0]))

    def test_mistakes_are_named(self):
        with pytest.raises(ValueError, match="season must be at least 1 and below the 3 rows"):
            mase([1.0], [1.0], [1.0, 2.0, 3.0], season=3)
        with pytest.raises(ValueError, match=r"y_pred must have the shape of y_true \(1,\)"):
            mase([1.0], [1.0, 2.0], [1.0, 2.0, 3.0])
