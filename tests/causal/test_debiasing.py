"""Debiased predictions: both corrections, their scores, effects with intervals, and diagnostics."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from rankone.causal import _scores
from rankone.causal.debiasing import (
    LinearCalibrationDebiaser,
    TweedieDebiaser,
    attenuation_diagnostics,
    compare_debiasers,
    debiased_ate,
    prediction_powered_ate,
)
from scipy.stats import gaussian_kde
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

SKEW = {"shape": 3, "scale": 0.6}


def exact_model(seed, n, sigma=0.8):
    """Skew predictions with a normal residual that does not depend on them."""
    rng = np.random.default_rng(seed)
    p = rng.gamma(SKEW["shape"], SKEW["scale"], n)
    return p, p + sigma * rng.normal(size=n)


def exact_score(p):
    return (SKEW["shape"] - 1) / p - 1 / SKEW["scale"]


# The linear correction.


def test_linear_correction_inverts_predictions_on_targets():
    rng = np.random.default_rng(0)
    y = rng.normal(size=20_000)
    p = 0.15 + 0.62 * y + 0.12 * rng.normal(size=20_000)
    model = LinearCalibrationDebiaser().fit(p, y)
    assert math.isclose(model.slope_, 0.62, abs_tol=5 * 0.12 / math.sqrt(20_000))
    assert math.isclose(model.residual_std_, 0.12, rel_tol=0.03)
    assert np.allclose(model.transform(p), (p - model.intercept_) / model.slope_)
    # The other direction, a regression of the truth on predictions, attenuates again.
    assert np.corrcoef(p, y)[0, 1] ** 2 == pytest.approx(model.r2_)
    assert math.isclose(np.polyfit(y, model.transform(p), 1)[0], 1, rel_tol=1e-10)


# Tweedie's correction.


def test_exact_score_leaves_no_bias_at_any_truth():
    p, y = exact_model(1, 400_000)
    model = TweedieDebiaser(score=exact_score).fit(p, y)
    inner = p > 0.02  # the exact score of a gamma is unbounded at 0
    corrected = np.zeros_like(p)
    corrected[inner] = model.transform(p[inner])
    corrected[~inner] = p[~inner] - model.sigma_**2 * exact_score(p[~inner])
    edges = np.quantile(y, np.linspace(0.02, 0.98, 13))
    shrunk = []
    for low, high in itertools.pairwise(edges):
        rows = (y > low) & (y <= high)
        error = corrected[rows] - y[rows]
        assert abs(error.mean()) <= 5 * error.std() / math.sqrt(rows.sum())
        shrunk.append(abs(np.mean(p[rows] - y[rows])))
    assert shrunk[0] > 0.15
    assert shrunk[-1] > 0.15


@pytest.mark.parametrize("kind", ["gamma", "two modes"])
def test_linear_correction_is_tweedie_with_a_gaussian_score(kind):
    rng = np.random.default_rng(2)
    p = rng.gamma(2.0, 1.0, 500) if kind == "gamma" else rng.normal(3 * rng.integers(0, 2, 500))
    y = 0.3 + 0.7 * p + rng.exponential(1.0, 500)
    linear = LinearCalibrationDebiaser().fit(p, y).transform(p)
    tweedie = TweedieDebiaser(score="gaussian", recalibrate="linear").fit(p, y)
    assert np.allclose(tweedie.transform(p), linear, rtol=0, atol=1e-9)
    # Predictions far outside too: neither is clipped.
    with pytest.warns(UserWarning, match="outside the calibration"):
        far = tweedie.transform([50.0])
    with pytest.warns(UserWarning, match="outside the calibration"):
        assert np.allclose(far, LinearCalibrationDebiaser().fit(p, y).transform([50.0]))


@pytest.mark.parametrize("bandwidth", ["scott", 0.2])
def test_kernel_score_is_the_gradient_of_scipys_density(bandwidth):
    p, y = exact_model(3, 3000)
    model = TweedieDebiaser(bandwidth=bandwidth).fit(p, y)
    density = gaussian_kde(p, "scott" if bandwidth == "scott" else 0.2 / np.std(p, ddof=1))
    x = np.linspace(*np.quantile(p, [0.03, 0.97]), 60)
    step = 1e-5
    slope = (density.logpdf(x + step) - density.logpdf(x - step)) / (2 * step)
    assert np.abs(model.score_function(x) - slope).max() <= 0.02 * np.abs(slope).max()


def test_binning_agrees_with_the_full_kernel_matrix():
    sample = np.random.default_rng(4).gamma(3, 1, 400)
    h = 0.3
    score = _scores.kernel_score(sample, h, preserve_variance=False, n_grid=4096)
    x = np.linspace(0.5, 8, 50)
    away = (x[:, None] - sample) / h
    kernel = np.exp(-0.5 * away**2)
    exact = -(kernel * away).sum(axis=1) / h / kernel.sum(axis=1)
    assert np.abs(score(x) - exact).max() <= 1e-4 * np.abs(exact).max()


def test_preserved_variance_is_that_of_the_sample():
    rng = np.random.default_rng(5)
    sample = rng.normal(2.0, 1.5, 4000)
    for preserve in (True, False):
        score = _scores.kernel_score(sample, 0.6, preserve_variance=preserve, n_grid=4096)
        # A normal density's score has slope -1 / variance.
        slope = np.polyfit(np.linspace(0.5, 3.5, 50), score(np.linspace(0.5, 3.5, 50)), 1)[0]
        variance = np.var(sample) + (0 if preserve else 0.36)
        assert math.isclose(-1 / slope, variance, rel_tol=0.06)


def test_diffusion_bandwidth_is_smaller_where_there_are_several_modes():
    rng = np.random.default_rng(6)
    modes = rng.normal(np.array([-4.0, 0.0, 4.0])[rng.integers(0, 3, 3000)], 0.35)
    normal = rng.normal(size=3000)
    scott, isj = (_scores.kernel_bandwidth(modes, name) for name in ("scott", "isj"))
    assert isj < 0.35 * scott
    # For a normal sample it is near the optimum (4/3)^(1/5) n^(-1/5).
    best = (4 / 3) ** 0.2 * 3000**-0.2
    assert math.isclose(_scores.kernel_bandwidth(normal, "isj"), best, rel_tol=0.2)
    assert math.isclose(
        _scores.kernel_bandwidth(normal, "silverman"),
        np.std(normal, ddof=1) * (4 / (3 * 3000)) ** 0.2,
        rel_tol=1e-12,
    )


def test_diffusion_bandwidth_without_a_root_falls_back_with_a_warning():
    sample = np.array([0.0, 1.0])
    with pytest.warns(UserWarning, match="Scott's rule"):
        found = _scores.kernel_bandwidth(sample, "isj")
    assert found == _scores.kernel_bandwidth(sample, "scott")


def test_mixture_score_is_that_of_its_density():
    rng = np.random.default_rng(7)
    p = np.where(rng.random(2000) < 0.4, rng.normal(-2, 0.5, 2000), rng.normal(1, 0.8, 2000))
    model = TweedieDebiaser(score="gmm", random_state=0, tail=0.0).fit(p, p + rng.normal(size=2000))
    assert model.mixture_.n_components == 2
    x, step = np.linspace(-3, 3, 40), 1e-5
    mean, spread = p.mean(), p.std()

    def log_density(x):
        return model.mixture_.score_samples(((x - mean) / spread)[:, None])

    slope = (log_density(x + step) - log_density(x - step)) / (2 * step)
    assert np.allclose(model.score_function(x), slope, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"score": "kde"},
        {"score": "kde", "bandwidth": "silverman"},
        {"score": "kde", "bandwidth": "isj", "preserve_variance": True},
        {"score": "gmm", "random_state": 0},
        {"score": "gaussian"},
        {"score": "gmm", "recalibrate": "linear", "random_state": 0},
    ],
)
def test_corrections_shift_and_scale_with_the_data(options):
    p, y = exact_model(8, 600)
    a, c = 250.0, -40.0
    one = TweedieDebiaser(**options).fit(p, y).transform(p)
    other = TweedieDebiaser(**options).fit(a * p + c, a * y + c).transform(a * p + c)
    assert np.allclose(other, a * one + c, rtol=1e-6, atol=1e-6 * a)


def test_perfect_predictions_are_left_alone():
    p, _ = exact_model(9, 300)
    for score in ("kde", "gmm", "gaussian"):
        model = TweedieDebiaser(score=score, random_state=0).fit(p, p)
        assert model.sigma_ == 0
        assert np.array_equal(model.transform(p), p)
    assert np.allclose(LinearCalibrationDebiaser().fit(p, p).transform(p), p)


def test_kernel_correction_of_normal_predictions_has_its_known_slope():
    rng = np.random.default_rng(10)
    v, sigma, n = 1.44, 0.9, 100_000
    p = rng.normal(0, math.sqrt(v), n)
    y = p + sigma * rng.normal(size=n)
    assert math.isclose(np.polyfit(y, p, 1)[0], v / (v + sigma**2), rel_tol=0.01)
    model = TweedieDebiaser(bandwidth=0.5).fit(p, y)
    slope = np.polyfit(p, model.transform(p), 1)[0]
    assert math.isclose(slope, 1 + sigma**2 / (v + 0.25), rel_tol=0.01)


def test_score_of_the_map_needs_no_labels_and_helps():
    p, y = exact_model(11, 400)
    everything, _ = exact_model(12, 20_000)
    x = np.linspace(0.4, 4.5, 60)
    errors = [
        np.abs(
            TweedieDebiaser().fit(p, y, score_predictions=sample).score_function(x) - exact_score(x)
        ).mean()
        for sample in (None, everything)
    ]
    assert errors[1] < errors[0]
    # Sigma is that of the pairs in both.
    assert TweedieDebiaser().fit(p, y, score_predictions=everything).sigma_ == np.std(y - p)


def test_scores_are_held_beyond_their_tails():
    p, y = exact_model(13, 500)
    model = TweedieDebiaser(tail=0.01).fit(p, y)
    low, high = np.quantile(p, [0.01, 0.99])
    assert np.array_equal(
        model.score_function([low, low - 5, high, high + 5]),
        model.score_function([low, low, high, high]),
    )


def test_recalibration_makes_shrunk_predictions_conditional_means():
    p, y = exact_model(14, 4000)
    wrong = 0.4 + 0.5 * p
    with pytest.warns(UserWarning, match="recalibrate="):
        TweedieDebiaser().fit(wrong, y)
    model = TweedieDebiaser(recalibrate="linear").fit(wrong, y)
    alpha, beta = model.recalibration_
    assert np.allclose([alpha, beta], np.polyfit(wrong, y, 1)[::-1])
    assert math.isclose(model.sigma_, np.std(y - alpha - beta * wrong), rel_tol=1e-12)
    # As if it had been estimated on the recalibrated predictions themselves.
    direct = TweedieDebiaser().fit(alpha + beta * wrong, y)
    assert np.allclose(model.transform(wrong), direct.transform(alpha + beta * wrong), rtol=1e-8)
    assert math.isclose(model.bandwidth_, direct.bandwidth_, rel_tol=1e-10)


# Effects.


def local_trial(seed, n=40_000):
    """Units below the median truth, treated with odds that rise with the truth."""
    p, y = exact_model(seed, n)
    keep = y < np.median(y)
    p, y = p[keep], y[keep]
    rng = np.random.default_rng(seed + 1)
    z = (y - np.median(y)) / y.std()
    A = (rng.random(len(y)) < 1 / (1 + np.exp(-2 * z))).astype(int)
    return p, y, A


def test_local_trial_is_shrunk_and_corrected():
    pairs = exact_model(20, 2000)
    everything, _ = exact_model(21, 20_000)
    p, y, A = local_trial(22)
    truth = y[A == 1].mean() - y[A == 0].mean()
    tweedie = TweedieDebiaser(score="gmm", random_state=0).fit(*pairs, score_predictions=everything)
    linear = LinearCalibrationDebiaser().fit(*pairs)
    with pytest.warns(UserWarning, match="outside"):
        found = debiased_ate(tweedie, p, A)
    with pytest.warns(UserWarning, match="outside"):
        by_line = debiased_ate(linear, p, A)
    assert found.naive / truth < 0.45
    assert 0.45 < by_line.estimate / truth < 0.75
    assert 0.85 < found.estimate / truth < 1.15
    assert found.n_treated + found.n_control == len(p)
    assert math.isnan(found.se)


def test_weights_give_weighted_means():
    pairs = exact_model(30, 300)
    p, _, A = local_trial(31, 200)
    model = LinearCalibrationDebiaser().fit(*pairs)
    w = np.random.default_rng(0).uniform(0.1, 3, len(p))
    p = np.clip(p, *model.support_)
    corrected = model.transform(p)
    expected = np.average(corrected[A == 1], weights=w[A == 1]) - np.average(
        corrected[A == 0], weights=w[A == 0]
    )
    assert debiased_ate(model, p, A, weights=w).estimate == expected
    plain = debiased_ate(model, p, A).estimate
    assert math.isclose(debiased_ate(model, p, A, weights=np.full(len(p), 7.0)).estimate, plain)


@pytest.mark.parametrize("kind", ["linear", "tweedie", "map"])
def test_interval_with_calibration_error_is_wider(kind):
    pairs = exact_model(32, 150)
    p, _, A = local_trial(33, 3000)
    if kind == "linear":
        model = LinearCalibrationDebiaser().fit(*pairs)
    else:
        everything = exact_model(34, 4000)[0] if kind == "map" else None
        model = TweedieDebiaser().fit(*pairs, score_predictions=everything)
    p = np.clip(p, *model.support_)
    options = {"n_boot": 120, "random_state": 0}
    ignored = debiased_ate(model, p, A, **options)
    counted = debiased_ate(model, p, A, calibration=pairs, **options)
    assert ignored.ci_low < ignored.estimate < ignored.ci_high
    # The score of a map is kept; a recalibration or sigma from few pairs alone adds less.
    assert counted.se > (1.02 if kind == "map" else 1.2) * ignored.se
    again = debiased_ate(model, p, A, calibration=pairs, **options)
    assert (again.se, again.ci_low) == (counted.se, counted.ci_low)
    # The debiaser itself is not refitted.
    assert np.array_equal(model.transform(p), clone_fit(model, pairs, kind).transform(p))


def clone_fit(model, pairs, kind):
    if kind == "map":
        return clone(model).fit(*pairs, score_predictions=exact_model(34, 4000)[0])
    return clone(model).fit(*pairs)


def test_bootstrap_error_matches_repeated_trials():
    model = LinearCalibrationDebiaser().fit(*exact_model(40, 5000))
    estimates, errors = [], []
    for seed in range(40):
        p, _, A = local_trial(100 + seed, 400)
        p = np.clip(p, *model.support_)
        found = debiased_ate(model, p, A, n_boot=40, random_state=seed)
        estimates.append(found.estimate)
        errors.append(found.se)
    assert 0.7 < np.mean(errors) / np.std(estimates, ddof=1) < 1.4


def test_comparator_is_its_formula():
    rng = np.random.default_rng(0)
    p, y, A = rng.normal(size=50), rng.normal(size=50), rng.integers(0, 2, 50)
    known = rng.random(50) < 0.5
    hidden = np.where(known, y, np.nan)
    for lam in (1.0, 0.3):
        means = [
            lam * p[arm == A].mean() + (y - lam * p)[(arm == A) & known].mean() for arm in (1, 0)
        ]
        assert math.isclose(
            prediction_powered_ate(p, A, hidden, known, lam=lam), means[0] - means[1]
        )


# Which correction to trust.


def test_comparison_on_normal_data_has_its_known_slopes():
    rng = np.random.default_rng(50)
    v, sigma = 1.0, 0.8
    p = rng.normal(size=3000)
    frame = compare_debiasers(p, p + sigma * rng.normal(size=3000), n_contrasts=60)
    assert list(frame.index) == ["naive", "lcc", "tweedie"]
    assert list(frame.columns) == ["slope", "rmse", "bias"]
    assert math.isclose(frame.loc["naive", "slope"], v / (v + sigma**2), abs_tol=0.06)
    assert math.isclose(frame.loc["lcc", "slope"], 1, abs_tol=0.1)
    assert math.isclose(frame.loc["tweedie", "slope"], 1, abs_tol=0.12)
    assert frame.loc["lcc", "rmse"] < frame.loc["naive", "rmse"]


def test_comparison_draws_trials_on_the_truth():
    """Cutting on predictions would make the naive slope 1."""
    p, y = exact_model(51, 2000)
    assert compare_debiasers(p, y, n_contrasts=30).loc["naive", "slope"] < 0.75
    local = compare_debiasers(p, y, n_contrasts=30, window=0.3)
    assert local.loc["naive", "slope"] < 0.75
    named = compare_debiasers(p, y, n_contrasts=5, debiasers={"line": LinearCalibrationDebiaser()})
    assert list(named.index) == ["naive", "line"]
    again = compare_debiasers(p, y, n_contrasts=30)
    pd.testing.assert_frame_equal(again, compare_debiasers(p, y, n_contrasts=30))


def test_diagnostics_are_their_definitions():
    p, y = exact_model(52, 5000)
    found = attenuation_diagnostics(p, y)
    assert math.isclose(found["attenuation_slope"], np.polyfit(y, p, 1)[0])
    assert math.isclose(found["calibration_slope"], np.polyfit(p, y, 1)[0])
    assert math.isclose(found["residual_variance"], np.var(y - p))
    assert abs(found["heteroscedasticity"]) < 0.08
    assert math.isclose(found["skewness"], 2 / math.sqrt(3), rel_tol=0.15)
    rng = np.random.default_rng(0)
    spread = attenuation_diagnostics(p, p + p * rng.normal(size=5000))
    assert spread["heteroscedasticity"] > 0.2


def test_pandas_series_are_taken():
    p, y = exact_model(53, 200)
    index = np.arange(200) + 7
    series = pd.Series(p, index=index), pd.Series(y, index=index)
    for model in (LinearCalibrationDebiaser(), TweedieDebiaser()):
        found = clone(model).fit(*series).transform(series[0])
        assert np.array_equal(found, clone(model).fit(p, y).transform(p))


P, Y = exact_model(60, 200)
NAN = np.full(200, np.nan)
LINE = LinearCalibrationDebiaser().fit(P, Y)
A = (np.arange(200) % 2).astype(int)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LinearCalibrationDebiaser().fit(P[:, None], Y), "predictions must have shape"),
        (lambda: LinearCalibrationDebiaser().fit([], []), "predictions must have shape"),
        (lambda: LinearCalibrationDebiaser().fit(P, Y[:9]), "one length, got 200 and 9"),
        (
            lambda: LinearCalibrationDebiaser().fit(P, np.full(200, np.nan)),
            "targets must be finite",
        ),
        (lambda: LinearCalibrationDebiaser().fit(np.ones(200), Y), "predictions must vary"),
        (lambda: LinearCalibrationDebiaser().fit(P, np.ones(200)), "targets must vary"),
        (lambda: LinearCalibrationDebiaser().fit(-P, Y), "must rise with targets"),
        (lambda: TweedieDebiaser(score="mle").fit(P, Y), "score must be one of"),
        (lambda: TweedieDebiaser(bandwidth="cv").fit(P, Y), "bandwidth must be one of"),
        (lambda: TweedieDebiaser(bandwidth=0.0).fit(P, Y), "bandwidth must be positive"),
        (lambda: TweedieDebiaser(recalibrate="isotonic").fit(P, Y), "recalibrate must"),
        (lambda: TweedieDebiaser(recalibrate="linear").fit(-P, Y), "targets must rise"),
        (lambda: TweedieDebiaser(max_components=0).fit(P, Y), "max_components"),
        (lambda: TweedieDebiaser(tail=0.5).fit(P, Y), "tail must"),
        (lambda: TweedieDebiaser().fit(P, Y, score_predictions=[1.0, 1.0]), "score_predictions"),
        (lambda: TweedieDebiaser(score=lambda x: 0.0).fit(P, Y).transform(P), "score must return"),
        (lambda: debiased_ate(LINE, P, A[:5]), "treatment must have length 200"),
        (lambda: debiased_ate(LINE, P, A * 2), "treatment must be 0 or 1"),
        (lambda: debiased_ate(LINE, P, A * 0), "both arms"),
        (lambda: debiased_ate(LINE, P, A, weights=np.ones(3)), "weights must have length"),
        (lambda: debiased_ate(LINE, P, A, weights=-np.ones(200)), "weights must be at least 0"),
        (lambda: debiased_ate(LINE, P, A, weights=A), "weights of arm 0"),
        (lambda: debiased_ate(LINE, P, A, n_boot=1), "n_boot must"),
        (lambda: debiased_ate(LINE, P, A, alpha=1.0), "alpha must"),
        (lambda: prediction_powered_ate(P, A, Y, A), "labelled must mark a unit of arm 0"),
        (lambda: prediction_powered_ate(P, A, Y[:3], A), "targets must have shape"),
        (lambda: prediction_powered_ate(P, A, Y * np.nan, A + 1), "targets must be finite"),
        (lambda: compare_debiasers(P, Y, n_splits=1), "n_splits must"),
        (lambda: compare_debiasers(P, Y, window=0.0), "window must"),
        (lambda: compare_debiasers(P, Y, n_contrasts=0), "n_contrasts must"),
        (lambda: compare_debiasers(P, Y, debiasers={"naive": LINE}), "naive"),
    ],
)
def test_bad_input_names_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_use_before_fit_says_so():
    for model in (LinearCalibrationDebiaser(), TweedieDebiaser()):
        with pytest.raises(NotFittedError):
            model.transform(P)
    with pytest.raises(NotFittedError):
        TweedieDebiaser().score_function(P)


def test_weak_corrections_warn():
    rng = np.random.default_rng(0)
    y = rng.normal(size=500)
    with pytest.warns(UserWarning, match="amplifies errors"):
        LinearCalibrationDebiaser().fit(0.1 * y + 0.1 * rng.normal(size=500), y)
    with pytest.warns(UserWarning, match="50 calibration pairs are few"):
        TweedieDebiaser().fit(P[:50], Y[:50])
