"""Random pivots: the displayed facts of the proof, optimality, invariances, and scikit-learn."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from rankone.linear_model.random_pivot_lasso import (
    RandomPivotLasso,
    RandomPivotLassoCV,
    RandomPivotPreconditioner,
    make_ill_conditioned_sparse,
    n_pivots_for,
    pivot_failure_bound,
    pivot_ratio,
    prediction_error_bound,
)
from scipy import sparse
from sklearn.base import clone
from sklearn.linear_model import Lasso
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

# float64 sums of a few hundred terms, and a coordinate descent stopped at this duality gap.
EXACT = 1e-10
SOLVED = 1e-14

ROW_COUPLED = {
    "check_methods_subset_invariance": "the residuals belong to the training rows",
    "check_fit_idempotent": "it transforms rows that were not fitted",
}


def expected_failures(estimator):
    return ROW_COUPLED if isinstance(estimator, RandomPivotPreconditioner) else {}


@parametrize_with_checks(
    [
        RandomPivotLasso(n_nonzero=1),
        RandomPivotLassoCV(n_nonzero=1, alphas=5, cv=3),
        RandomPivotPreconditioner(n_nonzero=1),
    ],
    expected_failed_checks=expected_failures,
)
def test_scikit_learn_conventions(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(estimator)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 90)) * 10.0 ** rng.uniform(-3, 1, 90)
    X[:, 5] = X[:, 7] + 1e-5 * rng.standard_normal(60)
    y = X[:, 3] / np.abs(X[:, 3]).max() + X[:, 8] / np.abs(X[:, 8]).max() + rng.standard_normal(60)
    return X, y


class TestTheory:
    def test_failure_bound_and_number_of_pivots(self):
        assert pivot_failure_bound(5, 40) == pytest.approx(5 / 11)
        assert pivot_failure_bound(1, 0) == 0.0
        assert pivot_failure_bound(4, 2) == 1.0
        assert n_pivots_for(5, 0.5) == 40
        assert n_pivots_for(5, 0.1) == 200
        assert n_pivots_for(1, 0.1) == 0

    @pytest.mark.parametrize("design", ["near duplicates", "Vandermonde"])
    def test_failures_stay_below_the_bound(self, design):
        rng = np.random.default_rng(1)
        if design == "Vandermonde":
            X = np.vander(np.linspace(-1, 1, 40), increasing=True)[:, rng.permutation(40)]
        else:
            X = rng.standard_normal((40, 1)) + 1e-4 * rng.standard_normal((40, 60))
        d, draws = X.shape[1], 150
        failed = sum(
            pivot_ratio(X, rng.choice(d, 3, replace=False), rng.choice(d, 12, replace=False)).max()
            > 1
            for _ in range(draws)
        )
        assert failed / draws <= pivot_failure_bound(3, 12)

    def test_weighted_residuals_are_below_k_times_the_signal(self):
        X, _, _, _, _ = make_ill_conditioned_sparse(50, 80, 4, log10_range=5, random_state=2)
        rng = np.random.default_rng(3)
        support, pivots = np.array([1, 5, 9, 20]), np.arange(30, 60)
        assert pivot_ratio(X, support, pivots).max() <= 1
        r = RandomPivotPreconditioner(4, pivots=pivots).fit(X).residual_norms_[support]
        # Directions in which the small parts matter: the inverse of the columns' own sizes.
        factor = np.linalg.qr(X[:, support])[1]
        W = np.linalg.solve(factor, rng.standard_normal((4, 10_000)))
        signal = np.linalg.norm(X[:, support] @ W, axis=0)
        assert np.all(np.abs(W).T @ r <= 4 * signal * (1 + EXACT))

    def test_the_inequality_fails_where_the_ratio_says_so(self):
        X = np.eye(4) + 1e-3
        assert pivot_ratio(X, [0, 1], [2]).max() > 1 - 1e-6
        near = np.column_stack([np.ones(4), np.ones(4) + 1e-4 * np.eye(4)[0], np.eye(4)[3]])
        assert pivot_ratio(near, [0, 1], [2]).min() > 100

    def test_a_support_inside_the_pivots_has_ratio_zero(self):
        assert pivot_ratio(np.eye(3)[:, [0, 0, 1]], [0, 2], [0, 2]).tolist() == [0, 0]
        duplicated = np.eye(3)[:, [0, 0, 1]]
        assert pivot_ratio(duplicated, [0, 1], [1]).tolist() == [0, 0]

    def test_prediction_error_bound_is_its_formula_and_holds(self):
        bound = prediction_error_bound(2, 4, 100, 50, 0.5, 2.0, delta=0.1)
        log = np.log(10)
        alpha = 0.5 * np.sqrt(2 * np.log(1000) / 100)
        expected = 0.25 * (4 + 2 * np.sqrt(4 * log) + 2 * log) / 100 + 4 * alpha * 2 * 2.0
        assert bound == pytest.approx(expected)
        errors = []
        for seed in range(10):
            X, y, _, _, signal = make_ill_conditioned_sparse(100, 200, 3, random_state=seed)
            fit = RandomPivotLasso(3, sigma=1.0, fit_intercept=False, random_state=seed).fit(X, y)
            errors.append(np.mean((fit.fitted_values_ - signal) ** 2))
        assert max(errors) <= prediction_error_bound(3, 12, 100, 200, 1.0, 1.0)


class TestSolution:
    def test_all_columns_as_pivots_are_least_squares(self, data):
        X, y = data[0][:, :10], data[1]
        model = RandomPivotLasso(2, n_pivots=10).fit(X, y)
        A = np.column_stack([np.ones(len(y)), X])
        scale = np.linalg.norm(A, axis=0)
        expected = (A / scale) @ np.linalg.lstsq(A / scale, y, rcond=None)[0]
        np.testing.assert_allclose(model.fitted_values_, expected, atol=1e-8)
        assert not model.residual_coef_.any()

    def test_one_nonzero_is_the_lasso_on_unit_columns(self, data):
        X, y = data
        model = RandomPivotLasso(1, alpha=0.1, fit_intercept=False, tol=SOLVED).fit(X, y)
        assert len(model.pivots_) == 0
        scale = np.sqrt(len(y)) / np.linalg.norm(X, axis=0)
        lasso = Lasso(alpha=0.1, fit_intercept=False, tol=SOLVED, max_iter=100_000)
        lasso.fit(X * scale, y)
        np.testing.assert_allclose(model.residual_coef_, lasso.coef_, atol=1e-6)
        np.testing.assert_allclose(model.coef_, lasso.coef_ * scale, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("fit_intercept", [True, False])
    def test_optimality_conditions(self, data, fit_intercept):
        X, y = data
        n = len(y)
        model = RandomPivotLasso(
            3, alpha=0.08, tol=SOLVED, fit_intercept=fit_intercept, random_state=0
        ).fit(X, y)
        rest = y - model.fitted_values_
        columns = X[:, model.pivots_]
        assert np.abs(columns.T @ rest / np.linalg.norm(columns, axis=0)).max() < EXACT
        assert abs(rest.sum()) < (1e-10 if fit_intercept else np.inf)
        active = model.residual_norms_ > 0
        gradient = X[:, active].T @ rest / n / (model.residual_norms_[active] / np.sqrt(n))
        u = model.residual_coef_[active]
        assert np.any(u)
        assert np.abs(gradient).max() <= model.alpha_ * (1 + 1e-5)
        np.testing.assert_allclose(gradient[u != 0], model.alpha_ * np.sign(u[u != 0]), rtol=1e-4)

    def test_scaling_columns_only_scales_their_coefficients(self, data):
        X, y = data
        scale = 10.0 ** np.random.default_rng(4).uniform(-4, 4, X.shape[1])
        options = {"alpha": 0.05, "pivots": [0, 4, 11], "tol": SOLVED}
        plain = RandomPivotLasso(3, **options).fit(X, y)
        scaled = RandomPivotLasso(3, **options).fit(X * scale, y)
        np.testing.assert_allclose(scaled.fitted_values_, plain.fitted_values_, atol=1e-6)
        used = np.abs(plain.residual_coef_) > 1e-3
        np.testing.assert_allclose((scaled.coef_ * scale)[used], plain.coef_[used], rtol=1e-3)

    def test_adding_pivot_columns_to_others_changes_no_fit(self, data):
        X, y = data
        pivots = np.array([0, 4, 11])
        mix = np.random.default_rng(5).standard_normal((3, X.shape[1]))
        mix[:, pivots] = 0
        options = {"alpha": 0.05, "pivots": pivots, "tol": SOLVED}
        plain = RandomPivotLasso(3, **options).fit(X, y)
        mixed = RandomPivotLasso(3, **options).fit(X + X[:, pivots] @ mix, y)
        np.testing.assert_allclose(mixed.fitted_values_, plain.fitted_values_, atol=1e-5)

    @pytest.mark.parametrize("log10_range", [2, 4, 6])
    def test_predictions_agree_with_fitted_values_up_to_cond_1e8(self, log10_range):
        X, y, *_ = make_ill_conditioned_sparse(100, 60, 4, log10_range=log10_range, random_state=1)
        assert np.linalg.cond(X) <= 1e8
        model = RandomPivotLasso(4, random_state=0).fit(X, y)
        np.testing.assert_allclose(model.predict(X), model.fitted_values_, atol=1e-6)

    def test_residuals_eight_decades_below_their_columns_keep_their_digits(self):
        rng = np.random.default_rng(6)
        basis = np.linalg.qr(rng.standard_normal((50, 6)))[0]
        X = basis[:, :1] + 1e-8 * np.column_stack([np.zeros(50), basis[:, 1:]])
        fitted = RandomPivotPreconditioner(2, pivots=[0]).fit(X)
        np.testing.assert_allclose(fitted.residual_norms_[1:], 1e-8, rtol=1e-6)
        assert np.abs(fitted.basis_.T @ fitted.Z_).max() < 1e-13 * np.sqrt(50)

    def test_conditioning_does_not_change_the_error_where_the_lasso_loses_all(self):
        errors = {}
        for decades in (4, 8):
            X, y, _, _, signal = make_ill_conditioned_sparse(
                200, 300, 4, log10_range=decades, homogeneous=True, random_state=0
            )
            model = RandomPivotLasso(
                4, sigma=1.0, n_pivots=12, fit_intercept=False, random_state=0
            ).fit(X, y)
            errors[decades] = np.mean((model.fitted_values_ - signal) ** 2)
        assert errors[8] == pytest.approx(errors[4], rel=0.02)
        assert errors[8] < 0.5
        unit = X / np.linalg.norm(X, axis=0)
        for alpha in np.logspace(-5, 0, 6):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                fit = Lasso(alpha=alpha / np.sqrt(200), fit_intercept=False).fit(unit, y)
            assert np.mean((unit @ fit.coef_ - signal) ** 2) > 0.9

    def test_sigma_none_is_the_fixed_point(self, data):
        X, y = data
        model = RandomPivotLasso(3, random_state=0).fit(X, y)
        n, d = X.shape
        rank = 1 + len(model.pivots_)
        rest = y - model.fitted_values_
        assert model.sigma_ == pytest.approx(np.linalg.norm(rest) / np.sqrt(n - rank), rel=1e-3)
        assert model.alpha_ == pytest.approx(model.sigma_ * np.sqrt(2 * np.log(d) / n), rel=1e-3)

    def test_refit_is_least_squares_on_the_selected_columns(self, data):
        X, y = data
        kept = RandomPivotLasso(3, alpha=0.1, refit=True, random_state=0).fit(X, y)
        plain = RandomPivotLasso(3, alpha=0.1, random_state=0).fit(X, y)
        chosen = np.flatnonzero(kept.residual_coef_)
        np.testing.assert_array_equal(chosen, np.flatnonzero(plain.residual_coef_))
        A = np.column_stack([np.ones(len(y)), X[:, kept.pivots_], X[:, chosen]])
        A /= np.linalg.norm(A, axis=0)
        expected = A @ np.linalg.lstsq(A, y, rcond=None)[0]
        np.testing.assert_allclose(kept.fitted_values_, expected, atol=1e-8)

    def test_alpha_zero_interpolates_what_it_can(self, data):
        X, y = data
        model = RandomPivotLasso(3, alpha=0.0, random_state=0).fit(X, y)
        np.testing.assert_allclose(model.fitted_values_, y, atol=1e-8)

    def test_a_target_in_the_span_of_the_pivots_selects_nothing(self, data):
        X, _ = data
        model = RandomPivotLasso(3, pivots=[1, 2]).fit(X, 3 + X[:, 1])
        assert not model.residual_coef_.any()
        assert model.sigma_ == 0
        np.testing.assert_allclose(model.fitted_values_, 3 + X[:, 1], atol=1e-8)

    def test_constant_and_duplicate_columns_get_no_coefficient(self, data):
        X, y = data[0].copy(), data[1]
        X[:, 20], X[:, 21], X[:, 22] = 4.0, 0.0, X[:, 0]
        model = RandomPivotLasso(3, pivots=[0, 1]).fit(X, y)
        assert model.coef_[[20, 21, 22]].tolist() == [0, 0, 0]
        assert model.residual_norms_[[20, 21, 22]].tolist() == [0, 0, 0]
        pivots = RandomPivotLasso(3, pivots=[0, 22, 20]).fit(X, y)
        assert np.all(np.isfinite(pivots.coef_))
        np.testing.assert_allclose(pivots.predict(X), pivots.fitted_values_, atol=1e-6)


class TestDraws:
    def test_pivots_are_the_documented_draw_and_ignore_the_target(self, data):
        X, y = data
        expected = np.random.RandomState(7).choice(X.shape[1], 6, replace=False)
        for target in (y, -(y**3)):
            model = RandomPivotLasso(3, n_pivots=6, random_state=7).fit(X, target)
            np.testing.assert_array_equal(model.pivots_, expected)

    def test_automatic_number_of_pivots(self, data):
        X, y = data
        assert len(RandomPivotLasso(2, failure_prob=0.5).fit(X, y).pivots_) == 4
        assert len(RandomPivotLasso(9, failure_prob=0.1).fit(X, y).pivots_) == len(y) // 4

    def test_repeats_do_not_depend_on_jobs_and_lower_the_objective(self, data):
        X, y = data
        one = RandomPivotLasso(3, n_repeats=4, random_state=0).fit(X, y)
        two = RandomPivotLasso(3, n_repeats=4, n_jobs=2, random_state=0).fit(X, y)
        np.testing.assert_array_equal(one.coef_, two.coef_)
        np.testing.assert_array_equal(one.pivots_, two.pivots_)

        def objective(model):
            rest = y - model.fitted_values_
            penalty = model.alpha_ * np.abs(model.residual_coef_).sum()
            cost = model.sigma_**2 * (len(model.pivots_) + 1) / len(y)
            return rest @ rest / (2 * len(y)) + penalty + cost

        rng = np.random.RandomState(0)
        singles = [
            RandomPivotLasso(3, pivots=rng.choice(90, 12, replace=False)).fit(X, y)
            for _ in range(4)
        ]
        assert objective(one) == pytest.approx(min(map(objective, singles)))

    def test_generator_cancels_the_low_rank_part(self):
        X, y, coef, support, signal = make_ill_conditioned_sparse(
            50, 60, 4, log10_range=3, homogeneous=True, noise=0.0, random_state=0
        )
        assert np.flatnonzero(coef).tolist() == support.tolist()
        np.testing.assert_allclose(X @ coef, signal, atol=1e-9)
        np.testing.assert_array_equal(y, signal)
        assert np.mean(signal**2) == pytest.approx(1)
        # Without cancellation the product would be of the size of the coefficients.
        assert np.abs(coef).max() > 10


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
class TestCrossValidation:
    def test_choice_minimises_the_mean_error_and_is_repeatable(self):
        X, y, *_ = make_ill_conditioned_sparse(80, 60, 3, rank=1, random_state=0)
        fits = [
            RandomPivotLassoCV(3, alphas=6, cv=4, n_jobs=jobs, random_state=0).fit(X, y)
            for jobs in (None, 2)
        ]
        np.testing.assert_array_equal(fits[0].mse_path_, fits[1].mse_path_)
        model = fits[0]
        assert model.mse_path_.shape == (3, 6, 4)
        assert model.n_pivots_grid_.tolist() == [0, 6, 12]
        best, at = np.unravel_index(model.mse_path_.mean(axis=2).argmin(), (3, 6))
        assert model.alpha_ == model.alphas_[best, at]
        assert model.n_pivots_ == model.n_pivots_grid_[best] == len(model.pivots_)

    def test_held_out_rows_touch_nothing(self):
        """Held-out X and y can be anything: the fold's errors on clean copies stay."""
        X, y, *_ = make_ill_conditioned_sparse(60, 40, 3, rank=1, random_state=0)
        train, test = np.arange(40), np.arange(40, 60)
        options = {"n_pivots_grid": [4], "cv": [(train, test)], "random_state": 0}
        options["alphas"] = [0.3, 0.1, 0.03]
        path = RandomPivotLassoCV(3, **options).fit(X, y).mse_path_
        Xs = X[train]
        # The fold by hand: its own pivots, and the public estimator on its training rows.
        seeds = np.random.RandomState(0)
        seeds.choice(40, 4, replace=False)
        seed = seeds.randint(np.iinfo(np.int32).max, size=(1, 1))[0, 0]
        pivots = np.random.RandomState(seed).choice(40, 4, replace=False)
        for at, alpha in enumerate((0.3, 0.1, 0.03)):
            model = RandomPivotLasso(3, alpha=alpha, pivots=pivots, tol=1e-10).fit(Xs, y[train])
            error = np.mean((model.predict(X[test]) - y[test]) ** 2)
            assert path[0, at, 0] == pytest.approx(error, rel=1e-2)

    def test_plot_draws_a_line_for_each_number_of_pivots(self):
        X, y, *_ = make_ill_conditioned_sparse(60, 40, 3, rank=1, random_state=0)
        ax = RandomPivotLassoCV(3, alphas=4, cv=3, random_state=0).fit(X, y).plot()
        assert [text.get_text() for text in ax.get_legend().get_texts()] == [
            "0 pivots", "6 pivots", "12 pivots"
        ]  # fmt: skip


class TestPython:
    def test_frames_pipelines_grid_search_clone_and_pickle(self, data):
        X, y = data
        frame = pd.DataFrame(X, columns=[f"band {j}" for j in range(X.shape[1])])
        model = RandomPivotLasso(3, random_state=0).fit(frame, pd.Series(y))
        assert model.feature_names_in_.tolist() == list(frame.columns)
        np.testing.assert_array_equal(
            model.coef_, RandomPivotLasso(3, random_state=0).fit(X, y).coef_
        )
        again = pickle.loads(pickle.dumps(model))
        np.testing.assert_array_equal(again.predict(frame), model.predict(frame))
        assert clone(model).get_params() == model.get_params()
        pipeline = make_pipeline(StandardScaler(), RandomPivotLasso(3, random_state=0))
        search = GridSearchCV(pipeline, {"randompivotlasso__alpha": [0.05, 0.2]}, cv=3)
        assert search.fit(frame, y).best_params_["randompivotlasso__alpha"] in (0.05, 0.2)

    def test_float32_is_computed_in_float64(self, data):
        X, y = (array.astype(np.float32) for array in data)
        model = RandomPivotLasso(3, random_state=0).fit(X, y)
        assert model.coef_.dtype == np.float64

    def test_summary_lists_pivots_and_selected_columns(self, data):
        X, y = data
        frame = pd.DataFrame(X, columns=[f"band {j}" for j in range(X.shape[1])])
        model = RandomPivotLasso(3, alpha=0.1, n_pivots=4, random_state=0).fit(frame, y)
        table = model.summary().frame
        assert (table["role"] == "pivot").sum() == 4
        assert (table["role"] == "selected").sum() == np.count_nonzero(model.residual_coef_)
        first = table.index[0]
        assert table.loc[first, "coefficient"] == model.coef_[int(first.split()[1])]
        assert "no standard errors" in str(model.summary())

    def test_preconditioner_transforms_its_own_rows_only(self, data):
        X, _ = data
        fitted = RandomPivotPreconditioner(3, random_state=0).fit(X)
        np.testing.assert_allclose(fitted.transform(X), fitted.Z_, atol=1e-12)
        norms = np.linalg.norm(fitted.Z_, axis=0)
        np.testing.assert_allclose(norms[fitted.active_], np.sqrt(len(X)))
        assert not norms[~fitted.active_].any()
        assert np.abs(fitted.basis_.T @ fitted.residualize(X)).max() < 1e-12 * np.abs(X).max()
        with pytest.raises(ValueError, match="X must have the 60 rows of the training design"):
            fitted.transform(X[:10])
        with pytest.raises(ValueError, match="A must have the 60 rows"):
            fitted.residualize(X[:10])


class TestErrors:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"n_nonzero": 0}, "n_nonzero must be an integer in"),
            ({"n_nonzero": 91}, "n_nonzero must be an integer in"),
            ({"n_nonzero": 2.0}, "n_nonzero must be an integer in"),
            ({"failure_prob": 0.0}, "failure_prob must lie strictly between 0 and 1"),
            ({"failure_prob": 1.0}, "failure_prob must lie strictly between 0 and 1"),
            ({"n_pivots": 59}, r"n_pivots must be an integer in \[0, 58\], got 59"),
            ({"n_pivots": "many"}, "n_pivots must be 'auto' or an integer"),
            ({"pivots": [1, 1]}, "pivots must not repeat a column"),
            ({"pivots": [90]}, r"pivots must lie in \[0, 89\]"),
            ({"pivots": [-1]}, r"pivots must lie in \[0, 89\]"),
            ({"pivots": [0.5]}, "pivots must be a one-dimensional array of column indices"),
            ({"pivots": list(range(59))}, "pivots must hold at most"),
            ({"alpha": -1.0}, "alpha must be finite and at least 0"),
            ({"alpha": "auto"}, "alpha must be 'universal' or a number"),
            ({"sigma": 0.0}, "sigma must be finite and above 0"),
            ({"sigma": np.nan}, "sigma must be finite and above 0"),
            ({"rank_tol": 1.0}, "rank_tol must lie in"),
            ({"n_repeats": 0}, "n_repeats must be an integer at least 1"),
            ({"tol": 0.0}, "tol must be above 0"),
            ({"max_iter": 0}, "max_iter must be an integer at least 1"),
        ],
    )
    def test_parameters_out_of_range(self, data, options, message):
        with pytest.raises(ValueError, match=message):
            RandomPivotLasso(**options).fit(*data)

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_values_that_are_not_finite(self, data, bad):
        X, y = data[0].copy(), data[1].copy()
        X[0, 0] = bad
        with pytest.raises(ValueError, match="Input X contains"):
            RandomPivotLasso(2).fit(X, y)
        y[0] = bad
        with pytest.raises(ValueError, match="Input y contains"):
            RandomPivotLasso(2).fit(data[0], y)

    def test_lengths_sparse_input_and_too_few_rows(self, data):
        X, y = data
        with pytest.raises(ValueError, match="inconsistent numbers of samples"):
            RandomPivotLasso(2).fit(X, y[:-1])
        with pytest.raises(TypeError, match="Sparse data was passed"):
            RandomPivotLasso(2).fit(sparse.csr_array(X), y)
        with pytest.raises(ValueError, match="minimum of 2 is required"):
            RandomPivotLasso(2).fit(X[:1], y[:1])

    def test_functions(self):
        with pytest.raises(ValueError, match="rank must be below n_nonzero = 2"):
            make_ill_conditioned_sparse(n_nonzero=2, rank=2)
        with pytest.raises(ValueError, match="delta must lie strictly"):
            prediction_error_bound(2, 4, 100, 50, 1.0, 1.0, delta=0.0)
        with pytest.raises(ValueError, match="sigma must be finite"):
            prediction_error_bound(2, 4, 100, 50, -1.0, 1.0)
        with pytest.raises(ValueError, match="support must not repeat"):
            pivot_ratio(np.eye(3), [0, 0], [1])

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"alphas": [0.1, 0.0]}, "alphas must be above 0"),
            ({"alphas": 0}, "alphas must be an integer at least 1"),
            ({"n_pivots_grid": [200]}, "n_pivots_grid must be an integer in"),
            ({"n_pivots_grid": []}, "n_pivots_grid must hold at least one"),
        ],
    )
    def test_cross_validation(self, data, options, message):
        with pytest.raises(ValueError, match=message):
            RandomPivotLassoCV(2, **options).fit(*data)
