"""The Diebold-Mariano test against the t-test, its own definition, and its size."""

import numpy as np
import pytest
from rankone.stats.diebold_mariano import diebold_mariano
from scipy import stats


def errors(n=200, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=n), 1.2 * rng.normal(size=n)


@pytest.mark.parametrize("loss", ["absolute", "squared"])
def test_one_step_ahead_it_is_the_t_test_of_the_differential(loss):
    e1, e2 = errors()
    power = np.abs if loss == "absolute" else np.square
    d = power(e1) - power(e2)
    corrected = diebold_mariano(e1, e2, loss=loss)
    reference = stats.ttest_1samp(d, 0.0)
    assert corrected.statistic == pytest.approx(reference.statistic, rel=1e-12)
    assert corrected.pvalue == pytest.approx(reference.pvalue, rel=1e-10)
    # Divisor n, times the factor sqrt((n - 1)/n) of Harvey and others for h = 1.
    plain = diebold_mariano(e1, e2, loss=loss, correction=False)
    assert plain.statistic == pytest.approx(d.mean() / np.sqrt(d.var() / 200), rel=1e-12)
    assert corrected.statistic == pytest.approx(plain.statistic * np.sqrt(199 / 200), rel=1e-12)


def test_more_steps_ahead_take_autocovariances():
    e1, e2 = errors()
    d = np.abs(e1) - np.abs(e2)
    n, h = 200, 3
    centred = d - d.mean()
    covariances = [float((centred[lag:] * centred[: n - lag]).sum()) / n for lag in range(h)]
    variance = (covariances[0] + 2 * sum(covariances[1:])) / n
    factor = np.sqrt((n + 1 - 2 * h + h * (h - 1) / n) / n)
    statistic, pvalue = diebold_mariano(e1, e2, h=h)
    assert statistic == pytest.approx(factor * d.mean() / np.sqrt(variance), rel=1e-12)
    assert pvalue == pytest.approx(2 * stats.t.sf(abs(statistic), n - 1), rel=1e-12)


def test_exchanging_the_forecasts_changes_the_sign():
    e1, e2 = errors()
    one, other = diebold_mariano(e1, e2), diebold_mariano(e2, e1)
    assert one.statistic == -other.statistic < 0
    assert one.pvalue == other.pvalue


def test_equal_losses_are_equal():
    e1, _ = errors()
    assert diebold_mariano(e1, e1) == (0.0, 1.0)
    assert diebold_mariano(e1, -e1) == (0.0, 1.0)


def test_a_constant_differential_is_certain():
    assert diebold_mariano(np.full(5, 2.0), np.ones(5)) == (np.inf, 0.0)
    assert diebold_mariano(np.full(5, 0.1), np.full(5, 0.3)) == (-np.inf, 0.0)


def test_a_variance_that_is_negative_gives_no_number():
    d = np.array([1.0, -1.0] * 10) + 5.0
    assert np.isnan(diebold_mariano(d, np.full(20, 4.9), h=2).statistic)


def test_size_is_near_five_percent():
    rng = np.random.default_rng(0)
    rejected = [
        diebold_mariano(*rng.normal(size=(2, 60)), loss=loss).pvalue < 0.05
        for _ in range(1500)
        for loss in ("absolute", "squared")
    ]
    # Two losses of 1500 samples: four standard errors of the fewer.
    assert np.mean(rejected) == pytest.approx(0.05, abs=4 * np.sqrt(0.05 * 0.95 / 1500))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0, 2.0], [1.0]), "at least|minimum|both"),
        (([1.0, 2.0, 3.0], [1.0, 2.0]), r"\(n,\) both"),
        (([1.0, np.nan], [1.0, 2.0]), "e1 contains NaN"),
        (([[1.0], [2.0]], [[1.0], [2.0]]), r"\(n,\) both"),
    ],
)
def test_bad_errors_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        diebold_mariano(*arguments)


def test_bad_options_are_refused():
    e1, e2 = errors(5)
    with pytest.raises(ValueError, match="loss must be one of absolute, squared"):
        diebold_mariano(e1, e2, loss="huber")
    with pytest.raises(ValueError, match="h must be at least 1 and below the 5 rows, got 5"):
        diebold_mariano(e1, e2, h=5)
