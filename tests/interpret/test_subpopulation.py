"""Accuracy curves over models: the statistics, the counts, the data and the Gaussian theory."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from joblib import parallel_config
from rankone.interpret.subpopulation import (
    MoonShapeAnalysis,
    default_model_zoo,
    gaussian_frontier,
    gaussian_optimal_angle,
    gaussian_subpopulation_accuracy,
    mixture_accuracy,
    overall_accuracy,
    spurious_digits,
    spurious_mixture,
    subpopulation_accuracies,
)
from scipy.stats import norm
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.exceptions import ConvergenceWarning, FitFailedWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.neural_network import MLPClassifier
from sklearn.tree import DecisionTreeClassifier

# Sums of some tens of float64 terms of order 1, times condition numbers of order 100.
EXACT = 1e-12
M = 0.45 * np.sqrt(20)  # both strengths at the generator's defaults: 0.9 sqrt 5 is the same


def cloud(n=30, seed=0):
    """A noisy bent cloud of accuracies."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.5, 0.95, n)
    return x, 0.3 + 2 * (x - 0.6) ** 2 + 0.03 * rng.standard_normal(n)


class Warns(ClassifierMixin, BaseEstimator):
    """Predicts 1, with a warning of either kind."""

    def __init__(self, category=UserWarning):
        self.category = category

    def fit(self, X, y):
        warnings.warn("odd data", self.category, stacklevel=2)
        return self

    def predict(self, X):
        return np.ones(len(X), dtype=int)


class Fails(Warns):
    """Raises when fitted."""

    def fit(self, X, y):
        raise KeyError("no such column")


# The analysis.


def test_coefficients_equal_polyfit():
    x, y = cloud()
    analysis = MoonShapeAnalysis().fit(x, y)
    np.testing.assert_allclose(analysis.linear_coef_, np.polyfit(x, y, 1)[::-1], rtol=1e-10)
    np.testing.assert_allclose(analysis.quadratic_coef_, np.polyfit(x, y, 2)[::-1], rtol=1e-10)
    np.testing.assert_allclose(analysis.predict(x), np.polyval(np.polyfit(x, y, 2), x), rtol=1e-10)
    assert analysis.curvature_ == analysis.quadratic_coef_[2]


def test_shares_and_test_of_the_curvature_equal_statsmodels():
    api = pytest.importorskip("statsmodels.api")
    x, y = cloud()
    line = api.OLS(y, np.column_stack([np.ones_like(x), x])).fit()
    parabola = api.OLS(y, np.column_stack([np.ones_like(x), x, x**2])).fit()
    analysis = MoonShapeAnalysis().fit(x, y)
    assert analysis.r2_linear_ == pytest.approx(line.rsquared, abs=EXACT)
    assert analysis.r2_quadratic_ == pytest.approx(parabola.rsquared, abs=EXACT)
    assert analysis.curvature_error_ == pytest.approx(parabola.bse[2], rel=1e-9)
    assert analysis.curvature_pvalue_ == pytest.approx(parabola.pvalues[2], rel=1e-9)
    u, v = norm.ppf(x), norm.ppf(y)
    probit = api.OLS(v, np.column_stack([np.ones_like(u), u])).fit()
    assert analysis.r2_probit_ == pytest.approx(probit.rsquared, abs=EXACT)
    np.testing.assert_allclose(analysis.probit_coef_, probit.params, rtol=1e-10)


def test_exact_parabola_is_explained_in_full():
    x = np.linspace(0.5, 0.9, 9)
    analysis = MoonShapeAnalysis().fit(x, 0.2 + 3 * (x - 0.6) ** 2)
    assert analysis.r2_quadratic_ == pytest.approx(1, abs=EXACT)
    assert analysis.curvature_ == pytest.approx(3, abs=1e-11)
    assert analysis.curvature_pvalue_ < 1e-12


def test_exact_line_has_no_nonlinearity():
    x = np.linspace(0.5, 0.9, 9)
    analysis = MoonShapeAnalysis().fit(x, 0.1 + 0.7 * x)
    assert 0 <= analysis.nonlinearity_ <= EXACT
    assert analysis.r2_linear_ == pytest.approx(1, abs=EXACT)
    assert analysis.curvature_pvalue_ == 1


def test_points_on_a_probit_line_are_straight_on_probit_axes_alone():
    u = np.linspace(-1, 2, 20)
    analysis = MoonShapeAnalysis().fit(norm.cdf(u), norm.cdf(0.8 * u - 1))
    assert analysis.r2_probit_ == pytest.approx(1, abs=EXACT)
    np.testing.assert_allclose(analysis.probit_coef_, [-1, 0.8], atol=1e-10)
    assert analysis.nonlinearity_ > 0.01


def test_clipping_keeps_accuracies_of_one_finite():
    x, y = cloud()
    x[0], y[0] = 1.0, 0.0
    analysis = MoonShapeAnalysis(clip=0.01).fit(x, y)
    u, v = norm.ppf(np.clip(x, 0.01, 0.99)), norm.ppf(np.clip(y, 0.01, 0.99))
    assert analysis.r2_probit_ == pytest.approx(np.corrcoef(u, v)[0, 1] ** 2, abs=EXACT)


def test_clipping_to_a_constant_warns():
    x = 1 - np.array([1, 2, 3, 4]) * 1e-4
    with pytest.warns(UserWarning, match="lower clip"):
        analysis = MoonShapeAnalysis().fit(x, [0.1, 0.2, 0.4, 0.3])
    assert np.isnan(analysis.r2_probit_)


@pytest.mark.parametrize(("axis", "factor"), [("x", 0.5), ("x", -0.5), ("y", 0.5), ("y", -0.5)])
def test_nonlinearity_is_invariant_and_curvature_scales_under_affine_changes(axis, factor):
    x, y = cloud()
    before = MoonShapeAnalysis().fit(x, y)
    offset = 0.3 if factor > 0 else 0.9
    if axis == "x":
        after, scale = MoonShapeAnalysis().fit(offset + factor * x, y), 1 / factor**2
    else:
        after, scale = MoonShapeAnalysis().fit(x, offset + factor * y), factor
    assert after.nonlinearity_ == pytest.approx(before.nonlinearity_, abs=EXACT)
    assert after.curvature_ == pytest.approx(scale * before.curvature_, rel=1e-10)
    assert after.curvature_pvalue_ == pytest.approx(before.curvature_pvalue_, rel=1e-8)


def test_a_parabola_never_fits_worse_so_only_the_difference_tells():
    rng = np.random.default_rng(0)
    pvalues = []
    for _ in range(300):
        x = rng.uniform(0.5, 0.9, 12)
        analysis = MoonShapeAnalysis().fit(x, 0.2 + 0.5 * x + 0.02 * rng.standard_normal(12))
        assert analysis.nonlinearity_ >= 0
        assert analysis.r2_quadratic_ >= analysis.r2_linear_
        pvalues.append(analysis.curvature_pvalue_)
    # Straight clouds are called curved at the level of the test: five standard deviations around.
    assert abs(np.mean(np.array(pvalues) < 0.05) - 0.05) < 5 * np.sqrt(0.05 * 0.95 / 300)


def test_accuracies_in_a_narrow_band_keep_their_digits():
    """The uncentred design has a condition number near 1e12 here."""
    z = np.linspace(-1, 1, 11)
    analysis = MoonShapeAnalysis().fit(0.9 + 1e-3 * z, 0.5 + 0.1 * z**2)
    assert analysis.curvature_ == pytest.approx(1e5, rel=1e-9)
    assert analysis.r2_quadratic_ == pytest.approx(1, abs=EXACT)


def test_float32_accuracies_are_fitted_in_float64():
    x, y = (values.astype(np.float32) for values in cloud())
    exact = np.polyfit(x.astype(float), y.astype(float), 2)
    assert MoonShapeAnalysis().fit(x, y).curvature_ == pytest.approx(exact[0], rel=1e-10)


def test_bootstrap_is_percentiles_of_refits():
    x, y = cloud(12)
    analysis = MoonShapeAnalysis(n_bootstrap=300, random_state=3).fit(x, y)
    rng = np.random.RandomState(3)  # the same draws, refitted one by one
    rows = np.concatenate([rng.randint(12, size=(n, 12)) for n in (256, 44)])
    assert min(len(np.unique(row)) for row in rows) >= 4
    refits = [np.polyfit(x[row], y[row], 2)[0] for row in rows]
    expected = np.quantile(refits, [0.025, 0.975])
    np.testing.assert_allclose(analysis.curvature_interval_, expected, rtol=1e-6)
    low, high = analysis.nonlinearity_interval_
    assert 0 <= low <= high <= 1


def test_degenerate_resamples_are_drawn_again():
    x = np.array([0.5, 0.6, 0.7, 0.8])
    analysis = MoonShapeAnalysis(n_bootstrap=20, random_state=0).fit(x, [0.5, 0.4, 0.5, 0.7])
    # Each resample that is kept holds all four points, so that all of them fit alike.
    np.testing.assert_allclose(analysis.curvature_interval_, analysis.curvature_, rtol=1e-9)


def test_without_bootstrap_there_are_no_intervals():
    analysis = MoonShapeAnalysis().fit(*cloud())
    assert analysis.curvature_interval_ is None
    assert analysis.nonlinearity_interval_ is None


def test_constant_minority_accuracy_is_a_straight_line():
    analysis = MoonShapeAnalysis(n_bootstrap=5, random_state=0).fit(
        [0.5, 0.6, 0.7, 0.8], [0.3, 0.3, 0.3, 0.3]
    )
    assert (analysis.r2_linear_, analysis.nonlinearity_, analysis.curvature_) == (1, 0, 0)
    assert (analysis.r2_probit_, analysis.curvature_pvalue_) == (1, 1)


def test_analysis_clones_pickles_and_takes_series():
    x, y = cloud()
    analysis = MoonShapeAnalysis(n_bootstrap=10, random_state=1).fit(pd.Series(x), pd.Series(y))
    again = clone(analysis).fit(x, y)
    np.testing.assert_array_equal(again.curvature_interval_, analysis.curvature_interval_)
    assert pickle.loads(pickle.dumps(analysis)).curvature_ == analysis.curvature_


def test_summary_shows_intervals_and_the_test():
    summary = MoonShapeAnalysis(n_bootstrap=10, random_state=0).fit(*cloud()).summary()
    assert summary.frame.loc["curvature"].notna().all()
    assert "95% percentile intervals of 10" in str(summary)
    assert "percentile" not in str(MoonShapeAnalysis().fit(*cloud()).summary())


def test_plot_draws_models_fits_and_diagonal():
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    assert MoonShapeAnalysis().fit(*cloud()).plot(axes) is axes
    assert len(axes.lines) == 4
    assert axes.get_xlabel() == "majority accuracy"


# Accuracies of groups.


@pytest.fixture(scope="module")
def problem():
    train = spurious_mixture(300, 0.9, random_state=0)
    test = spurious_mixture(601, 0.5, random_state=1)
    return train.X, train.y, test.X, test.y, test.majority


def test_groups_recombine_to_the_overall_accuracy_exactly(problem):
    X, y, X_test, y_test, majority = problem
    models = [("line", LogisticRegression()), ("tree", DecisionTreeClassifier(random_state=0))]
    found = subpopulation_accuracies(models, *problem)
    assert found.name == ["line", "tree"]
    assert found.n_majority + found.n_minority == 601
    for row, (_, model) in enumerate(models):
        predicted = clone(model).fit(X, y).predict(X_test)
        counts = (
            round(found.majority[row] * found.n_majority),
            round(found.minority[row] * found.n_minority),
        )
        assert sum(counts) / 601 == found.overall[row] == accuracy_score(y_test, predicted)
        assert found.minority[row] == accuracy_score(y_test[~majority], predicted[~majority])
        share = found.n_minority / 601
        recombined = overall_accuracy(found.majority[row], found.minority[row], share)
        assert recombined == pytest.approx(found.overall[row], abs=1e-15)


def test_minority_is_disagreement_and_not_the_rarer_label():
    """Labels as rare as 1 in 10 and an attribute that agrees with them in half of either."""
    y = np.array([1] * 10 + [0] * 90)
    majority = np.arange(100) % 2 == 0
    found = subpopulation_accuracies([Warns(ConvergenceWarning)], y[:, None], y, y[:, None], y,
                                     majority)  # fmt: skip
    assert found.name == ["Warns"]
    assert found.majority[0] == found.minority[0] == 0.1


def test_models_are_cloned(problem):
    model = LogisticRegression()
    subpopulation_accuracies([("line", model)], *problem)
    assert not hasattr(model, "coef_")


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_accuracies_do_not_depend_on_jobs(problem, backend):
    models = [
        ("line", LogisticRegression()),
        ("network", MLPClassifier((8,), max_iter=2, random_state=0)),
        ("tree", DecisionTreeClassifier(random_state=0)),
    ]
    one = subpopulation_accuracies(models, *problem)
    with parallel_config(backend=backend), warnings.catch_warnings():
        warnings.simplefilter("error")
        two = subpopulation_accuracies(models, *problem, n_jobs=2)
    np.testing.assert_array_equal(one.majority, two.majority)
    np.testing.assert_array_equal(one.minority, two.minority)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_convergence_warnings_alone_are_silenced_and_their_models_kept(problem, n_jobs):
    models = [
        ("stopped early", MLPClassifier((4,), max_iter=1, random_state=0)),
        ("not converged", Warns(ConvergenceWarning)),
        ("other", Warns(UserWarning)),
    ]
    with warnings.catch_warnings(record=True) as recorded:
        warnings.simplefilter("always")
        found = subpopulation_accuracies(models, *problem, n_jobs=n_jobs)
    assert np.isfinite(found.majority).all()
    assert [entry.category for entry in recorded] == [UserWarning]
    assert "odd data" in str(recorded[0].message)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_model_that_raises_is_named(problem, n_jobs):
    models = [("fine", LogisticRegression()), ("broken", Fails())]
    with pytest.raises(RuntimeError, match="'broken' raised KeyError") as caught:
        subpopulation_accuracies(models, *problem, n_jobs=n_jobs)
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.warns(FitFailedWarning, match="'broken' has NaN accuracies"):
        found = subpopulation_accuracies(models, *problem, n_jobs=n_jobs, on_error="nan")
    assert np.isnan([found.majority[1], found.minority[1], found.overall[1]]).all()
    assert np.isfinite(found.majority[0])
    assert list(found.failures) == ["broken"]


def test_frames_are_passed_on(problem):
    X, y, X_test, y_test, majority = problem
    plain = subpopulation_accuracies([LogisticRegression()], *problem)
    framed = subpopulation_accuracies(
        [LogisticRegression()],
        pd.DataFrame(X).add_prefix("x"),
        pd.Series(y),
        pd.DataFrame(X_test).add_prefix("x"),
        pd.Series(y_test),
        pd.Series(majority),
    )
    assert framed.minority[0] == plain.minority[0]


def test_spurious_training_bends_where_balanced_training_does_not():
    """A small zoo from weak to strong, with the minority share of the test set at one half."""
    zoo = default_model_zoo()
    small = zoo[:6] + zoo[6:30:4] + zoo[54:57] + zoo[69:73]
    shapes = {}
    for fraction in (0.5, 0.9):
        train = spurious_mixture(600, fraction, random_state=0)
        test = spurious_mixture(2000, 0.5, random_state=1000)
        found = subpopulation_accuracies(small, train.X, train.y, test.X, test.y, test.majority)
        shapes[fraction] = found, MoonShapeAnalysis().fit(found.majority, found.minority)
    found, curved = shapes[0.9]
    straighter = shapes[0.5][1]
    assert (found.minority < found.majority).mean() >= 0.9
    assert curved.curvature_ > straighter.curvature_ + 1
    assert curved.nonlinearity_ > straighter.nonlinearity_ + 0.1
    assert curved.curvature_pvalue_ < 0.01
    assert curved.r2_probit_ < straighter.r2_probit_


# The models.


def test_quick_zoo_is_the_listed_grid():
    names = [name for name, _ in default_model_zoo()]
    families = [name.partition(" ")[0] for name in names]
    assert len(set(names)) == len(names) == 81
    assert {family: families.count(family) for family in families} == {
        "LogisticRegression": 6,
        "MLPClassifier": 48,
        "DecisionTreeClassifier": 5,
        "RandomForestClassifier": 10,
        "KNeighborsClassifier": 4,
        "SVC": 4,
        "HistGradientBoostingClassifier": 4,
    }


def test_full_zoo_holds_five_hundred_networks():
    zoo = default_model_zoo("full", random_state=7)
    names = [name for name, _ in zoo]
    assert len(set(names)) == len(names)
    assert sum(name.startswith("MLPClassifier") for name in names) == 500
    assert {name.partition(" ")[0] for name in names} == {
        name.partition(" ")[0] for name, _ in default_model_zoo()
    }
    seeds = [model.get_params().get("random_state", 7) for _, model in zoo]
    assert set(seeds) == {7}


# The data.


@pytest.mark.parametrize(("spurious", "expected"), [(True, 0.9 * 0.6), (False, 0.0)])
def test_mean_of_the_spurious_features(spurious, expected):
    data = spurious_mixture(100_000, 0.8, spurious=spurious, random_state=0)
    sign = 2 * data.y - 1
    # Standard deviation at most sqrt(1 + 0.9^2) of each of 1e5 x 5 entries, attributes shared by 5.
    tolerance = 5 * np.sqrt((1 / 5 + 0.9**2) / 100_000)
    assert (data.X[:, 20:] * sign[:, None]).mean() == pytest.approx(expected, abs=tolerance)
    assert (data.X[:, :20] * sign[:, None]).mean() == pytest.approx(0.45, abs=tolerance)
    assert data.majority.mean() == pytest.approx(0.8, abs=5 * 0.4 / np.sqrt(100_000))
    assert data.y.mean() == pytest.approx(0.5, abs=5 * 0.5 / np.sqrt(100_000))


def test_majority_is_agreement_or_the_attribute():
    linked = spurious_mixture(500, 0.7, random_state=0)
    np.testing.assert_array_equal(linked.majority, linked.attribute == linked.y)
    rare = spurious_mixture(500, 0.7, spurious=False, random_state=0)
    np.testing.assert_array_equal(rare.majority, rare.attribute == 1)
    assert linked.X.dtype == np.float64
    assert set(linked.y) == set(linked.attribute) == {0, 1}


def test_data_repeat_with_their_seed():
    first, again, other = (spurious_mixture(50, 0.7, random_state=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.X, again.X)
    assert not np.array_equal(first.X, other.X)
    np.testing.assert_array_equal(
        spurious_digits(0.9, random_state=0)[0].X, spurious_digits(0.9, random_state=0)[0].X
    )


def test_digits_carry_the_attribute_in_the_first_row_alone():
    plain, _ = spurious_digits(0.9, strength=0.0, noise=0.0, random_state=0)
    marked, test = spurious_digits(0.9, strength=0.3, noise=0.0, random_state=0)
    np.testing.assert_array_equal(plain.y, plain.digit >= 5)
    added = marked.X - plain.X
    sign = np.repeat((2 * marked.attribute - 1)[:, None], 8, axis=1)
    np.testing.assert_allclose(added[:, :8], 0.3 * sign, atol=1e-15)
    assert not added[:, 8:].any()
    assert plain.X.min() >= 0
    assert plain.X.max() == 1
    assert len(marked.y) + len(test.y) == 1797
    assert marked.majority.mean() == pytest.approx(0.9, abs=5 * 0.3 / np.sqrt(1000))
    assert test.majority.mean() == pytest.approx(0.5, abs=5 * 0.5 / np.sqrt(797))
    noisy, _ = spurious_digits(0.9, strength=0.3, noise=0.2, random_state=0)
    assert (noisy.X - marked.X).std() == pytest.approx(0.2, rel=0.02)


def test_rare_digits_have_an_attribute_apart_from_the_label():
    train, _ = spurious_digits(0.9, spurious=False, random_state=0)
    np.testing.assert_array_equal(train.majority, train.attribute == 1)


# The Gaussian theory.


def test_closed_form_agrees_with_simulation():
    data = spurious_mixture(200_000, 0.5, random_state=0)
    rng = np.random.default_rng(0)
    weights = rng.uniform(-0.2, 1, (3, 25))
    right = (data.X @ weights.T > 0) == (data.y == 1)[:, None]
    majority, minority = gaussian_subpopulation_accuracy(weights, 0.45, 0.9, 20)
    # Three standard deviations of a share of 1e5 are 0.005.
    np.testing.assert_allclose(right[data.majority].mean(axis=0), majority, atol=0.006)
    np.testing.assert_allclose(right[~data.majority].mean(axis=0), minority, atol=0.006)


def on_ellipse(w):
    u, v = (norm.ppf(a) for a in gaussian_subpopulation_accuracy(w, 0.45, 0.9, 20))
    return ((u + v) / (2 * M)) ** 2 + ((u - v) / (2 * M)) ** 2


def test_block_constant_classifiers_lie_on_the_ellipse_and_others_within():
    rng = np.random.default_rng(0)
    blocks = rng.standard_normal((50, 2))
    constant = np.repeat(blocks, [20, 5], axis=1)
    np.testing.assert_allclose(on_ellipse(constant), 1, atol=1e-10)
    assert (on_ellipse(constant + 0.1 * rng.standard_normal((50, 25))) < 1).all()


def test_core_alone_serves_both_groups_alike():
    w = np.r_[np.ones(20), np.zeros(5)]
    majority, minority = gaussian_subpopulation_accuracy(w, 0.45, 0.9, 20)
    assert majority == minority == pytest.approx(norm.cdf(M), abs=EXACT)
    assert isinstance(majority, float)


@pytest.mark.parametrize("factor", [1e-200, 3.0, 1e200])
def test_accuracy_does_not_depend_on_the_length_of_w(factor):
    w = np.linspace(-1, 2, 25)
    assert gaussian_subpopulation_accuracy(factor * w, 0.45, 0.9, 20) == pytest.approx(
        gaussian_subpopulation_accuracy(w, 0.45, 0.9, 20), abs=EXACT
    )


def test_frontier_is_the_curve_of_block_constant_classifiers():
    curve = gaussian_frontier(20, 5, 0.45, 0.9, n_points=7)
    np.testing.assert_allclose(curve.angle, np.linspace(0, np.pi / 2, 7))
    w = np.hstack(
        [
            np.repeat(np.cos(curve.angle)[:, None] / np.sqrt(20), 20, axis=1),
            np.repeat(np.sin(curve.angle)[:, None] / np.sqrt(5), 5, axis=1),
        ]
    )
    majority, minority = gaussian_subpopulation_accuracy(w, 0.45, 0.9, 20)
    np.testing.assert_allclose(curve.majority, majority, atol=EXACT)
    np.testing.assert_allclose(curve.minority, minority, atol=EXACT)


@pytest.mark.parametrize(
    ("fraction", "angle"), [(0.5, 0), (0.7, 0.0841), (0.9, 0.2218), (0.95, 0.3020), (1, 0.7854)]
)
def test_optimal_angles(fraction, angle):
    assert gaussian_optimal_angle(M, M, fraction) == pytest.approx(angle, abs=5e-5)
    assert gaussian_optimal_angle(M, M, 1 - fraction) == pytest.approx(-angle, abs=5e-5)


def test_accuracies_at_the_best_angle():
    t = gaussian_optimal_angle(M, M, 0.9)
    assert norm.cdf(M * (np.cos(t) + np.sin(t))) == pytest.approx(0.9919, abs=5e-5)
    assert norm.cdf(M * (np.cos(t) - np.sin(t))) == pytest.approx(0.9358, abs=5e-5)


@pytest.mark.parametrize("core", [0.0, 0.5, 2.0, 8.0])
@pytest.mark.parametrize("spurious", [0.0, 1.0, 6.0])
@pytest.mark.parametrize("fraction", [0.3, 0.51, 0.9, 0.999])
def test_best_angle_beats_every_other(core, spurious, fraction):
    """Against a dense grid over all angles, with two local maxima at strong spurious features."""

    def error(t):
        c, s = core * np.cos(t), spurious * np.sin(t)
        return fraction * norm.cdf(-c - s) + (1 - fraction) * norm.cdf(s - c)

    found = error(gaussian_optimal_angle(core, spurious, fraction))
    best = error(np.linspace(-np.pi / 2, np.pi / 2, 20_001)).min()
    assert found <= best * (1 + 1e-12) + 1e-16


def test_of_two_local_maxima_the_higher_one_is_taken():
    """Strong spurious features: the slope has three roots, and the best angle jumps with p."""
    angles = [gaussian_optimal_angle(1.2, 4.5, p) for p in np.linspace(0.99, 0.999, 100)]
    jumps = np.diff(angles)
    assert np.all(jumps > 0)
    assert np.sort(jumps)[-1] > 0.4
    assert np.sort(jumps)[-2] < 0.06


# Mixtures.


def test_mixtures_lie_on_the_chord():
    weight = np.linspace(0, 1, 5)
    majority, minority = mixture_accuracy((0.6, 0.5), (0.9, 0.7), weight)
    np.testing.assert_allclose(majority, 0.6 + 0.3 * weight, atol=1e-15)
    np.testing.assert_allclose(minority, 0.5 + 0.2 * weight, atol=1e-15)


def test_random_answers_have_the_accuracy_of_the_chord():
    rng = np.random.default_rng(0)
    right = rng.random((2, 100_000)) < np.array([[0.6], [0.9]])
    mixed = np.where(rng.random(100_000) < 0.3, right[1], right[0])
    expected, _ = mixture_accuracy((0.6, 0.5), (0.9, 0.7), 0.3)
    assert mixed.mean() == pytest.approx(expected, abs=5 * 0.5 / np.sqrt(100_000))


def test_mixing_two_points_of_a_convex_curve_lies_above_it():
    x = np.linspace(0.5, 0.9, 9)
    curve = MoonShapeAnalysis().fit(x, 0.2 + 3 * (x - 0.6) ** 2)
    ends = [(point, curve.predict([point])[0]) for point in (0.5, 0.9)]
    majority, minority = mixture_accuracy(*ends, np.linspace(0.1, 0.9, 9))
    assert (minority > curve.predict(majority)).all()


def test_overall_accuracy_weighs_the_groups():
    assert overall_accuracy(0.9, 0.5, 0.0) == 0.9
    assert overall_accuracy(0.9, 0.5, 1.0) == 0.5
    np.testing.assert_allclose(overall_accuracy([0.9, 0.8], 0.5, 0.25), [0.8, 0.725])


# Bad input.

GOOD = ([0.5, 0.6, 0.7, 0.8], [0.4, 0.4, 0.5, 0.7])
ROWS = np.zeros((4, 1))
LABELS = [0, 1, 0, 1]
GROUPS = [True, False, True, False]
LINE = [LogisticRegression()]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: spurious_mixture(10, 1.1), ValueError, r"majority_fraction must be in \[0, 1\]"),
        (lambda: spurious_mixture(10, float("nan")), ValueError, "majority_fraction must be"),
        (lambda: spurious_mixture(0, 0.5), ValueError, "n_samples must be at least 1, got 0"),
        (lambda: spurious_mixture(2.5, 0.5), TypeError, "n_samples must be an integer, got 2.5"),
        (lambda: spurious_mixture(9, 0.5, n_core=0), ValueError, "n_core must be at least 1"),
        (lambda: spurious_mixture(9, 0.5, n_spurious=-1), ValueError, "n_spurious must be"),
        (
            lambda: spurious_mixture(9, 0.5, core_shift=np.inf),
            ValueError,
            "core_shift must be finite, got inf",
        ),
        (lambda: spurious_digits(-0.1), ValueError, "majority_fraction must be in"),
        (lambda: spurious_digits(0.5, noise=-1), ValueError, "noise must be at least 0, got -1"),
        (lambda: spurious_digits(0.5, n_train=1797), ValueError, "n_train must be at most 1796"),
        (lambda: default_model_zoo("big"), ValueError, "size must be 'quick' or 'full', got 'big'"),
        (lambda: gaussian_frontier(0, 5, 1, 1), ValueError, "n_core must be at least 1"),
        (lambda: gaussian_frontier(5, 5, -1, 1), ValueError, "core_shift must be finite and at"),
        (lambda: gaussian_frontier(5, 5, 1, 1, n_points=1), ValueError, "n_points must be at"),
        (lambda: gaussian_optimal_angle(-1, 1, 0.9), ValueError, "core_strength must be"),
        (lambda: gaussian_optimal_angle(1, 1, 1.5), ValueError, "majority_fraction must be in"),
        (
            lambda: gaussian_subpopulation_accuracy(np.zeros(3), 1, 1, 2),
            ValueError,
            "w must not be zero",
        ),
        (
            lambda: gaussian_subpopulation_accuracy([1.0, np.nan], 1, 1, 1),
            ValueError,
            "w must be finite",
        ),
        (
            lambda: gaussian_subpopulation_accuracy([1.0], 1, 1, 2),
            ValueError,
            "n_core must be at most the 1 features of w, got 2",
        ),
        (lambda: gaussian_subpopulation_accuracy(1.0, 1, 1, 1), ValueError, "w must have shape"),
        (lambda: mixture_accuracy((0.5, 0.5), (0.5, 2), 0.5), ValueError, "acc_b must be in"),
        (lambda: mixture_accuracy((0.5,), (0.5, 1), 0.5), ValueError, "acc_a must be a pair"),
        (lambda: mixture_accuracy((0.5, 0.5), (0.5, 1), 1.5), ValueError, "weight must be in"),
        (lambda: overall_accuracy(0.5, np.nan, 0.5), ValueError, "minority must be in"),
        (lambda: overall_accuracy(0.5, 0.5, -1), ValueError, "minority_fraction must be in"),
        (
            lambda: MoonShapeAnalysis().fit([0.5, 0.6, 0.7, 1.1], GOOD[1]),
            ValueError,
            r"majority_accuracy must be in \[0, 1\], got 1.1",
        ),
        (
            lambda: MoonShapeAnalysis().fit(GOOD[0], [0.5, 0.6, 0.7, np.nan]),
            ValueError,
            r"minority_accuracy must be in \[0, 1\], got nan",
        ),
        (
            lambda: MoonShapeAnalysis().fit(GOOD[0], GOOD[1][:3]),
            ValueError,
            "minority_accuracy must have the 4 models of majority_accuracy, got 3",
        ),
        (
            lambda: MoonShapeAnalysis().fit([GOOD[0]], [GOOD[1]]),
            ValueError,
            "majority_accuracy must be one-dimensional",
        ),
        (
            lambda: MoonShapeAnalysis().fit(GOOD[0][:3], GOOD[1][:3]),
            ValueError,
            "majority_accuracy must have at least 4 models, got 3",
        ),
        (
            lambda: MoonShapeAnalysis().fit([0.5] * 4, GOOD[1]),
            ValueError,
            "majority_accuracy must not be constant",
        ),
        (
            lambda: MoonShapeAnalysis().fit([0.5, 0.5, 0.6, 0.6], GOOD[1]),
            ValueError,
            "majority_accuracy must take at least 3 distinct",
        ),
        (
            lambda: MoonShapeAnalysis(n_bootstrap=9).fit([0.5, 0.5, 0.6, 0.7], GOOD[1]),
            ValueError,
            "majority_accuracy must take at least 4 distinct values for n_bootstrap, got 3",
        ),
        (lambda: MoonShapeAnalysis(clip=0.5).fit(*GOOD), ValueError, r"clip must be in \(0, 0.5\)"),
        (
            lambda: MoonShapeAnalysis(n_bootstrap=-1).fit(*GOOD),
            ValueError,
            "n_bootstrap must be at least 0",
        ),
        (
            lambda: MoonShapeAnalysis().fit(list("abcd"), GOOD[1]),
            TypeError,
            "majority_accuracy must hold numbers",
        ),
        (
            lambda: MoonShapeAnalysis().fit(*GOOD).predict([[0.5]]),
            ValueError,
            "majority_accuracy must be one-dimensional",
        ),
        (
            lambda: subpopulation_accuracies([], ROWS, LABELS, ROWS, LABELS, GROUPS),
            ValueError,
            "estimators must hold at least one",
        ),
        (
            lambda: subpopulation_accuracies([("x", 3)], ROWS, LABELS, ROWS, LABELS, GROUPS),
            TypeError,
            "estimators must have fit and predict, got 3 for 'x'",
        ),
        (
            lambda: subpopulation_accuracies(LINE, ROWS, LABELS[:3], ROWS, LABELS, GROUPS),
            ValueError,
            "y_train must have the 4 rows of X_train, got 3",
        ),
        (
            lambda: subpopulation_accuracies(LINE, ROWS, LABELS, ROWS, LABELS[:3], GROUPS),
            ValueError,
            "y_test must have the 4 rows of X_test, got 3",
        ),
        (
            lambda: subpopulation_accuracies(LINE, ROWS, LABELS, ROWS, LABELS, GROUPS[:3]),
            ValueError,
            r"majority must have shape \(4,\), got \(3,\)",
        ),
        (
            lambda: subpopulation_accuracies(LINE, ROWS, LABELS, ROWS, LABELS, [1, 0, 1, 0]),
            TypeError,
            "majority must be boolean, got dtype int64",
        ),
        (
            lambda: subpopulation_accuracies(LINE, ROWS, LABELS, ROWS, LABELS, [True] * 4),
            ValueError,
            "majority must mark samples of both groups, got an empty minority",
        ),
        (
            lambda: subpopulation_accuracies(LINE, ROWS, LABELS, ROWS, LABELS, [False] * 4),
            ValueError,
            "got an empty majority",
        ),
        (
            lambda: subpopulation_accuracies(
                LINE, ROWS, LABELS, ROWS, LABELS, GROUPS, on_error="skip"
            ),
            ValueError,
            "on_error must be 'raise' or 'nan', got 'skip'",
        ),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
