"""The wild bootstrap: its multipliers, the statistic by its definition, level and power."""

import numpy as np
import pytest
from rankone.control.attack_detection import wild_bootstrap_mmd, wild_multipliers
from scipy.spatial.distance import cdist, pdist


def autoregressive(rng, n, coefficient):
    series = rng.normal(size=n)
    for t in range(1, n):
        series[t] = coefficient * series[t - 1] + np.sqrt(1 - coefficient**2) * series[t]
    return series


def test_multipliers_are_stationary_with_exponential_autocorrelation():
    block, paths = 7.0, 20_000
    W = wild_multipliers(40, paths, block, random_state=0)
    # Deviation of a variance over the paths: sqrt(2 / paths) = 0.01.
    assert np.abs(W.var(axis=1) - 1).max() < 0.05
    for lag in (1, 5, 20):
        for start in (0, 15):
            measured = np.mean(W[start] * W[start + lag])
            assert np.isclose(measured, np.exp(-lag / block), atol=0.05)


def test_short_block_gives_independent_multipliers():
    W = wild_multipliers(500, 200, 0.05, random_state=1)
    assert abs(np.mean(W[1:] * W[:-1])) < 5 / np.sqrt(W.size)
    assert np.isclose(W.var(), 1, atol=0.03)


@pytest.mark.parametrize("centered", [True, False])
def test_statistics_are_their_definition(centered):
    rng = np.random.default_rng(2)
    X, Y = rng.normal(size=(2, 30, 3))
    Y += 0.4
    found = wild_bootstrap_mmd(X, Y, 50, 4.0, centered=centered, random_state=7)
    sigma = np.sqrt(np.median(pdist(np.vstack([X, Y])) ** 2) / 2)
    assert np.isclose(found.bandwidth, sigma, rtol=1e-12)

    def kernel(a, b):
        return np.exp(-(cdist(a, b) ** 2) / (2 * sigma**2))

    h = kernel(X, X) + kernel(Y, Y) - kernel(X, Y) - kernel(Y, X)
    assert np.isclose(found.statistic, h.sum() / 30, rtol=1e-10)
    W = wild_multipliers(30, 50, 4.0, random_state=7)
    for b in range(50):
        w = W[:, b] - (W[:, b].mean() if centered else 0)
        assert np.isclose(found.null_distribution[b], w @ h @ w / 30, atol=1e-12)
    exceeding = np.sum(found.null_distribution >= found.statistic)
    assert found.pvalue == (1 + exceeding) / 51


def test_equal_series_give_zero_and_one():
    X = np.random.default_rng(3).normal(size=(50, 2))
    found = wild_bootstrap_mmd(X, X, random_state=0)
    assert (found.statistic, found.pvalue, found.reject) == (0.0, 1.0, False)


def test_rotation_and_shift_change_nothing():
    rng = np.random.default_rng(4)
    X, Y = rng.normal(size=(2, 60, 3))
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    first = wild_bootstrap_mmd(X, Y, random_state=0)
    moved = wild_bootstrap_mmd(X @ turn + 5, Y @ turn + 5, random_state=0)
    assert np.isclose(first.statistic, moved.statistic, rtol=1e-10)
    assert np.allclose(first.null_distribution, moved.null_distribution, rtol=1e-8)


def test_shift_of_one_deviation_is_seen():
    rng = np.random.default_rng(5)
    pvalues = [
        wild_bootstrap_mmd(rng.normal(size=100), rng.normal(1, size=100), random_state=rng).pvalue
        for _ in range(20)
    ]
    assert np.mean(np.array(pvalues) <= 0.01) >= 0.9


def test_multipliers_without_memory_reject_dependent_series_far_too_often():
    rng = np.random.default_rng(6)
    rejected = np.zeros(2)
    for _ in range(40):
        X, Y = (autoregressive(rng, 200, 0.8) for _ in range(2))
        rejected += [
            wild_bootstrap_mmd(X, Y, 100, block, random_state=rng).reject for block in (20.0, 0.05)
        ]
    # At most 0.25 and at least 0.35, less two deviations of 40 repetitions.
    assert rejected[0] <= 40 * 0.25 + 5
    assert rejected[1] >= 40 * 0.35
    assert rejected[1] >= 2 * rejected[0]


def rejection_rate(rng, n, repetitions, **options):
    rejected = [
        wild_bootstrap_mmd(*rng.normal(size=(2, n)), 100, random_state=rng, **options).reject
        for _ in range(repetitions)
    ]
    return np.mean(rejected)


def test_level_holds_for_independent_samples():
    rate = rejection_rate(np.random.default_rng(7), 200, 60)
    assert rate <= 0.1 + 2 * np.sqrt(0.1 * 0.9 / 60)


def test_few_blocks_reject_too_often_when_centred_and_never_otherwise():
    """What the documentation warns of: 80 samples are four blocks of 20."""
    rng = np.random.default_rng(8)
    assert rejection_rate(rng, 80, 60) > 0.1
    assert rejection_rate(rng, 80, 60, centered=False) < 0.05


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
def test_critical_value_agrees_with_the_pvalue(alpha):
    rng = np.random.default_rng(8)
    seen = set()
    for shift in np.linspace(0, 0.8, 12):
        found = wild_bootstrap_mmd(
            rng.normal(size=40), rng.normal(shift, size=40), 199, 5.0, alpha=alpha, random_state=rng
        )
        assert found.reject == (found.pvalue <= alpha) == (found.statistic > found.critical_value)
        seen.add(found.reject)
    assert seen == {True, False}


def test_a_seed_repeats_and_a_bandwidth_is_taken():
    X, Y = np.random.default_rng(9).normal(size=(2, 30))
    first, second = (wild_bootstrap_mmd(X, Y, random_state=3) for _ in range(2))
    assert np.array_equal(first.null_distribution, second.null_distribution)
    legacy = [wild_bootstrap_mmd(X, Y, random_state=np.random.RandomState(3)) for _ in range(2)]
    assert legacy[0].pvalue == legacy[1].pvalue
    assert wild_bootstrap_mmd(X, Y, bandwidth=0.3).bandwidth == 0.3


def test_too_few_bootstraps_warn():
    X, Y = np.random.default_rng(10).normal(size=(2, 30))
    with pytest.warns(UserWarning, match="nothing can be rejected; raise n_bootstrap"):
        found = wild_bootstrap_mmd(X, Y + 5, 19, alpha=0.01)
    assert found.critical_value == np.inf
    assert not found.reject


SERIES = np.arange(20.0)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"Y": np.ones(19)}, ValueError, r"one shape, got \(20, 1\) and \(19, 1\)"),
        ({"X": np.ones((20, 2))}, ValueError, "one shape"),
        ({"X": np.ones(9), "Y": np.ones(9)}, ValueError, "at least 10 rows, got 9"),
        ({"X": np.full(20, np.nan)}, ValueError, "X must be finite"),
        ({"X": np.ones((20, 1, 1))}, ValueError, "X must have 2 dimensions"),
        ({"X": ["a"] * 20}, TypeError, "X must be real numbers"),
        ({"block": 0.0}, ValueError, "block must be positive, got 0.0"),
        ({"block": np.nan}, ValueError, "block must be finite"),
        ({"block": "long"}, TypeError, "block must be real numbers, got str"),
        ({"alpha": "low"}, TypeError, "alpha must be real numbers, got str"),
        ({"n_bootstrap": 0}, ValueError, "n_bootstrap must be at least 1"),
        ({"n_bootstrap": 10.5}, TypeError, "n_bootstrap must be an integer"),
        ({"alpha": 1.0}, ValueError, r"alpha must be in \(0, 1\), got 1.0"),
        ({"bandwidth": "scott"}, ValueError, 'bandwidth must be "median" or a number'),
        ({"bandwidth": -1.0}, ValueError, "bandwidth must be positive"),
        ({"X": np.ones(20), "Y": np.ones(20)}, ValueError, "the median distance"),
        ({"random_state": "seed"}, TypeError, "random_state must be"),
        ({"random_state": -1}, ValueError, "random_state must be"),
    ],
)
def test_bad_input_is_named(change, error, message):
    arguments = {"X": SERIES, "Y": SERIES + 1} | change
    with pytest.raises(error, match=message):
        wild_bootstrap_mmd(**arguments)
