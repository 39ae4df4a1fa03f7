"""ARIMAForecaster against statsmodels, closed forms, and its own refits."""

import warnings

import numpy as np
import pandas as pd
import pytest
from rankone.forecast import ARIMAForecaster, NaiveForecaster, walk_forward_evaluate
from sklearn.exceptions import ConvergenceWarning

pytest.importorskip("statsmodels")


def ar1(rows, phi=0.8, seed=0):
    noise = np.random.default_rng(seed).normal(size=rows)
    y = np.zeros(rows)
    for t in range(1, rows):
        y[t] = phi * y[t - 1] + noise[t]
    return y


def walk(rows=300, drift=0.3, seed=0):
    return 50 + np.random.default_rng(seed).normal(drift, 1.0, rows).cumsum()


def fixed(order, **options):
    return ARIMAForecaster(order=order, progress=False, **options)


def test_an_autoregression_is_forecast_to_its_noise():
    y = 100 + ar1(2500)
    forecaster = fixed((1, 0, 0), trend="c")
    report = walk_forward_evaluate(forecaster, y, start=2000)
    noise = np.random.default_rng(0).normal(size=2500)[2000:].std()
    assert report.rmse == pytest.approx(noise, rel=0.02)
    # sqrt(2 / (1 + phi)) standard deviations.
    assert report.baselines["naive"]["rmse"] == pytest.approx(noise * np.sqrt(2 / 1.8), rel=0.06)
    assert forecaster.results_.params[1] == pytest.approx(0.8, abs=0.05)


def test_a_random_walk_with_drift_has_the_mean_change():
    y = walk()
    forecaster = fixed((0, 1, 0)).fit(y)
    drift = np.diff(y).mean()
    # The optimiser stops at a relative change of the likelihood of 1e-9 or so.
    np.testing.assert_allclose(forecaster.predict(3), y[-1] + drift * np.arange(1, 4), rtol=1e-5)
    np.testing.assert_allclose(
        forecaster.predict_walk_forward(np.append(y, [1.0, 2.0]), start=300),
        np.array([y[-1], 1.0]) + drift,
        atol=1e-3,
    )


def test_intervals_of_a_random_walk_widen_with_the_root():
    y = walk()
    lower, upper = fixed((0, 1, 0)).fit(y).predict_interval(9, level=0.9)
    width = upper - lower
    np.testing.assert_allclose(width / width[0], np.sqrt(np.arange(1, 10)), rtol=1e-6)
    naive_lower, naive_upper = NaiveForecaster().fit(y).predict_interval(level=0.9)
    assert width[0] == pytest.approx((naive_upper - naive_lower)[0], rel=0.1)


def test_the_order_of_the_least_criterion_is_chosen():
    y = walk(200)
    forecaster = ARIMAForecaster(max_p=1, max_q=1, criterion="bic", progress=False).fit(y)
    assert set(forecaster.orders_) <= {(p, 1, q) for p in (0, 1) for q in (0, 1)}
    assert forecaster.order_ == min(forecaster.orders_, key=forecaster.orders_.get)
    assert forecaster.orders_[forecaster.order_] == pytest.approx(forecaster.results_.bic)
    assert forecaster.aic_ == pytest.approx(forecaster.results_.aic)
    again = fixed(forecaster.order_).fit(y)
    np.testing.assert_allclose(again.predict(4), forecaster.predict(4), rtol=1e-8)


@pytest.mark.parametrize(
    ("series", "d"),
    [
        (ar1(800), 0),
        (walk(800), 1),
        (np.cumsum(walk(800, drift=0.0)), 2),
        (np.full(50, 3.0), 0),
    ],
)
def test_differences_are_those_that_the_unit_root_tests_ask_for(series, d):
    assert ARIMAForecaster._differences(series) == d


@pytest.mark.parametrize(
    ("trend", "d", "fitted"),
    [("t", 1, "t"), ("t", 0, "ct"), ("t", 2, "n"), ("c", 1, "n"), ("ct", 1, "t"), ("n", 0, "n")],
)
def test_the_trend_fits_the_differences(trend, d, fitted):
    forecaster = fixed((0, d, 0), trend=trend).fit(walk(60))
    assert forecaster.trend_ == fitted


def test_walking_forward_filters_without_refitting():
    """Each one-step forecast is that of the fitted parameters applied to the rows before it."""
    y = walk(150)
    forecaster = fixed((1, 1, 0)).fit(y[:120])
    steps = forecaster.predict_walk_forward(y, start=120)
    assert steps.shape == (30,)
    assert steps[0] == pytest.approx(forecaster.predict()[0], rel=1e-9)
    for t in (125, 149):
        assert steps[t - 120] == pytest.approx(
            forecaster.results_.apply(y[:t]).forecast()[0], rel=1e-9
        )
    changed = y.copy()
    changed[135] += 40
    after = forecaster.predict_walk_forward(changed, start=120)
    np.testing.assert_allclose(after[:16], steps[:16], rtol=1e-12)
    assert abs(after[16] - steps[16]) > 1


def test_an_order_that_fails_is_left_out_with_a_warning(monkeypatch):
    from statsmodels.tsa.arima import model

    original = model.ARIMA.fit

    def fit(self, *arguments, **options):
        if self.k_ar:
            raise np.linalg.LinAlgError("singular")
        return original(self, *arguments, **options)

    monkeypatch.setattr(model.ARIMA, "fit", fit)
    forecaster = ARIMAForecaster(max_p=1, max_q=0, d=1, progress=False)
    with pytest.warns(ConvergenceWarning, match=r"ARIMA\(1, 1, 0\): singular; the order is left"):
        forecaster.fit(walk(60))
    assert forecaster.order_ == (0, 1, 0)
    assert set(forecaster.orders_) == {(0, 1, 0)}
    with (
        pytest.warns(ConvergenceWarning),
        pytest.raises(RuntimeError, match="no ARIMA of the orders"),
    ):
        fixed((1, 1, 0)).fit(walk(60))


def test_a_fit_that_does_not_converge_warns(monkeypatch):
    from statsmodels.tsa.arima import model

    original = model.ARIMA.fit

    def fit(self, *arguments, **options):
        results = original(self, *arguments, **options)
        results.mle_retvals["converged"] = False
        return results

    monkeypatch.setattr(model.ARIMA, "fit", fit)
    with pytest.warns(ConvergenceWarning, match="it did not converge"):
        forecaster = fixed((0, 1, 1)).fit(walk(80))
    assert forecaster.order_ == (0, 1, 1)


def test_an_ordinary_fit_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fixed((0, 1, 0)).fit(pd.Series(walk(60)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": "best"}, "order must be 'auto' or"),
        ({"order": 5}, "order must be 'auto' or"),
        ({"order": (1, 1)}, "order must be 'auto' or"),
        ({"order": (1, -1, 0)}, "order must hold integers of at least 0, got -1"),
        ({"max_p": -1}, "max_p must hold integers"),
        ({"d": 0.5}, "d must hold integers"),
        ({"trend": "tt"}, "trend must be one of n, c, t, ct"),
        ({"criterion": "mse"}, "criterion must be one of"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ARIMAForecaster(**options).fit(walk(60))


def test_bad_series_are_refused():
    with pytest.raises(ValueError, match="y contains NaN"):
        fixed((0, 1, 0)).fit(np.append(walk(60), np.nan))
    with pytest.raises(ValueError, match="y must have at least 20 rows, got 19"):
        fixed((0, 1, 0)).fit(walk(19))
    with pytest.raises(ValueError, match="horizon must be an integer of at least 1, got -1"):
        fixed((0, 1, 0)).fit(walk(60)).predict(-1)
