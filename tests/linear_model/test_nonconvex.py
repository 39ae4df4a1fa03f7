"""SCAD and MCP: closed forms on orthonormal columns, stationarity, paths, and other libraries."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from joblib import parallel_config
from rankone.linear_model._nonconvex_solvers import (
    SOLVERS,
    Loss,
    Problem,
    Products,
    concave_gradient,
    concave_part,
    concavity,
)
from rankone.linear_model.nonconvex import (
    NonconvexLogisticRegression,
    NonconvexRegression,
    NonconvexRegressionCV,
    nonconvex_path,
    penalty_value,
    threshold,
)
from scipy.optimize import minimize_scalar
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Lasso, LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

GAMMAS = {"scad": 3.7, "mcp": 3.0, "l1": np.inf}


@parametrize_with_checks(
    [
        NonconvexRegression(),
        NonconvexLogisticRegression(),
        NonconvexRegressionCV(n_alphas=4, eps=0.1, cv=3),
    ]
)
def test_scikit_learn_conventions(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(estimator)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((80, 30)) @ (np.eye(30) + 0.3 * np.eye(30, k=1)) + 2.0
    y = 5 + 2 * X[:, 3] - 1.5 * X[:, 17] + 0.5 * rng.standard_normal(80)
    return X, y


class TestPenalty:
    @pytest.mark.parametrize("penalty", ["scad", "mcp", "l1"])
    def test_threshold_is_the_scalar_minimiser(self, penalty):
        for z in (-6.0, -2.5, -1.2, 0.3, 0.9, 1.7, 3.1, 5.0):
            grid = np.linspace(-8, 8, 16_001)
            p = np.array([penalty_value([b], 1.0, penalty) for b in grid[::16]])
            best = grid[::16][np.argmin((z - grid[::16]) ** 2 / 2 + p)]
            fine = minimize_scalar(
                lambda b, z=z: (z - b) ** 2 / 2 + penalty_value([b], 1.0, penalty),
                bounds=(best - 0.02, best + 0.02), method="bounded", options={"xatol": 1e-10},
            ).x  # fmt: skip
            assert threshold(z, 1.0, penalty) == pytest.approx(fine, abs=1e-5)

    def test_values_by_the_formulas(self):
        assert penalty_value([0.5], 1.0, "scad") == 0.5
        assert penalty_value([2.0], 1.0, "scad") == pytest.approx((2 * 3.7 * 2 - 4 - 1) / 5.4)
        assert penalty_value([-9.0], 1.0, "scad") == pytest.approx(4.7 / 2)
        assert penalty_value([2.0], 1.0, "mcp") == pytest.approx(2 - 4 / 6)
        assert penalty_value([9.0, -9.0], 1.0, "mcp") == pytest.approx(3.0)
        assert penalty_value([2.0, -1.0], 0.5, "l1") == 1.5

    @pytest.mark.parametrize("penalty", ["scad", "mcp"])
    def test_concave_part_has_its_gradient_and_constant(self, penalty):
        gamma = GAMMAS[penalty]
        b = np.linspace(-6, 6, 1001) + 1e-4
        step = 1e-6
        slope = (
            concave_part(b + step, 1.3, penalty, gamma)
            - concave_part(b - step, 1.3, penalty, gamma)
        ) / (2 * step)
        gradient = concave_gradient(b, 1.3, penalty, gamma)
        np.testing.assert_allclose(gradient, slope, atol=1e-5)
        steepest = np.abs(np.diff(gradient) / np.diff(b)).max()
        assert steepest == pytest.approx(concavity(penalty, gamma), rel=1e-6)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((1.0, "scad", 2.0), "gamma must be finite and above 2 for scad"),
            ((1.0, "mcp", 1.0), "gamma must be finite and above 1 for mcp"),
            ((-1.0, "mcp"), "alpha must be finite and at least 0"),
            ((np.nan, "l1"), "alpha must be finite and at least 0"),
            ((1.0, "ridge"), "penalty must be one of scad, mcp, l1"),
        ],
    )
    def test_errors(self, arguments, message):
        for function in (threshold, penalty_value):
            with pytest.raises(ValueError, match=message):
                function([1.0], *arguments)


class TestSolutions:
    @pytest.mark.parametrize("solver", SOLVERS)
    @pytest.mark.parametrize("penalty", ["scad", "mcp", "l1"])
    def test_orthonormal_columns_give_the_threshold(self, solver, penalty):
        rng = np.random.default_rng(1)
        X = np.linalg.qr(rng.standard_normal((40, 8)))[0] * np.sqrt(40)
        y = X @ np.array([3.0, -2.0, 1.0, 0.6, 0.4, 0.0, 0.0, 5.0]) + rng.standard_normal(40)
        model = NonconvexRegression(
            0.5, penalty=penalty, solver=solver, fit_intercept=False, max_iter=50_000, tol=1e-9
        ).fit(X, y)
        np.testing.assert_allclose(model.coef_, threshold(X.T @ y / 40, 0.5, penalty), atol=1e-6)

    @pytest.mark.parametrize("solver", SOLVERS)
    @pytest.mark.parametrize("penalty", ["scad", "mcp", "l1"])
    def test_stationary_with_a_free_intercept(self, data, solver, penalty):
        X, y = data
        model = NonconvexRegression(
            0.2, penalty=penalty, solver=solver, max_iter=100_000, tol=1e-9
        ).fit(X, y)
        r = y - model.predict(X)
        assert abs(r.mean()) < 1e-10
        b, slope = model.coef_, X.T @ r / len(y)
        marginal = 0.2 + np.sign(b) * concave_gradient(b, 0.2, penalty, GAMMAS[penalty])
        assert np.any(b)
        np.testing.assert_allclose(slope[b != 0], (marginal * np.sign(b))[b != 0], atol=1e-6)
        assert np.abs(slope[b == 0]).max() <= 0.2 + 1e-6
        assert model.converged_
        assert len(model.objective_path_) == model.n_iter_
        value = np.mean(r**2) / 2 + penalty_value(b, 0.2, penalty)
        assert model.objective_path_[-1] == pytest.approx(value, rel=1e-10)
        assert hasattr(model, "dual_gap_") == (penalty == "l1")

    def test_l1_is_the_lasso(self, data):
        X, y = data
        model = NonconvexRegression(0.1, penalty="l1", max_iter=50_000, tol=1e-9).fit(X, y)
        lasso = Lasso(alpha=0.1, tol=1e-14, max_iter=100_000).fit(X, y)
        np.testing.assert_allclose(model.coef_, lasso.coef_, atol=1e-6)
        assert model.intercept_ == pytest.approx(lasso.intercept_, abs=1e-5)
        assert 0 <= model.dual_gap_ < 1e-6
        early = NonconvexRegression(0.1, penalty="l1", max_iter=3)
        with pytest.warns(ConvergenceWarning, match="max_iter = 3 steps did not reach tol"):
            early.fit(X, y)
        assert early.dual_gap_ >= early.objective_path_[-1] - model.objective_path_[-1]
        assert not early.converged_

    def test_logistic_l1_is_scikit_learn_s(self, data):
        X, y = data
        labels = np.where(y > np.median(y), "yes", "no")
        X = StandardScaler().fit_transform(X)
        model = NonconvexLogisticRegression(0.05, penalty="l1", max_iter=50_000, tol=1e-9).fit(
            X, labels
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            peer = LogisticRegression(
                penalty="l1", C=1 / (0.05 * 80), solver="saga", max_iter=100_000, tol=1e-10
            ).fit(X, labels)
        np.testing.assert_allclose(model.coef_, peer.coef_, atol=1e-4)
        np.testing.assert_allclose(model.intercept_, peer.intercept_, atol=1e-4)
        np.testing.assert_allclose(model.predict_proba(X), peer.predict_proba(X), atol=1e-4)
        assert 0 <= model.dual_gap_ < 1e-6
        assert model.predict(X).tolist() == peer.predict(X).tolist()

    @pytest.mark.parametrize("penalty", ["scad", "mcp"])
    def test_objective_is_no_worse_than_skglm(self, data, penalty):
        skglm = pytest.importorskip("skglm")
        from skglm.penalties import MCPenalty

        if penalty == "scad":
            SCAD = pytest.importorskip("skglm.penalties").SCAD
            kind = SCAD(0.2, 3.7)
        else:
            kind = MCPenalty(0.2, 3.0)
        X, y = data
        X = (X - X.mean(axis=0)) / X.std(axis=0)
        y = y - y.mean()
        solver = skglm.solvers.AndersonCD(fit_intercept=False, tol=1e-9)
        peer = skglm.GeneralizedLinearEstimator(skglm.datafits.Quadratic(), kind, solver).fit(X, y)
        model = NonconvexRegression(
            0.2, penalty=penalty, fit_intercept=False, max_iter=20_000, tol=1e-9
        ).fit(X, y)
        theirs = np.mean((y - X @ peer.coef_) ** 2) / 2 + penalty_value(peer.coef_, 0.2, penalty)
        assert model.objective_path_[-1] <= theirs + 1e-6

    def test_restart_and_warm_start(self, data):
        X, y = data
        plain = NonconvexRegression(0.05, max_iter=50_000).fit(X, y)
        restarted = NonconvexRegression(0.05, restart=True, max_iter=50_000).fit(X, y)
        np.testing.assert_allclose(restarted.coef_, plain.coef_, atol=1e-5)
        assert restarted.n_iter_ < plain.n_iter_
        warm = NonconvexRegression(0.05, warm_start=True, max_iter=50_000).fit(X, y)
        first = warm.n_iter_
        assert warm.fit(X, y).n_iter_ < first

    def test_constant_includes_the_concavity_of_the_penalty(self):
        X = 0.01 * np.random.default_rng(0).standard_normal((30, 4))
        loss = Loss(Products(X), X[:, 0], "linear", False)
        assert Problem.make(loss, 0.1, "mcp", 1.5).lipschitz == 1 / 1.5
        assert Problem.make(loss, 0.1, "scad", 2.5).lipschitz == 1 / 1.5

    @pytest.mark.parametrize("shape", [(30, 12), (12, 30), (20, 1), (20, 2)])
    @pytest.mark.parametrize("family", ["linear", "logistic"])
    def test_curvature_is_the_largest_eigenvalue(self, shape, family):
        rng = np.random.default_rng(2)
        X = rng.standard_normal(shape) + 3
        n = shape[0]
        y = np.sign(rng.standard_normal(n))
        value = Loss(Products(X), y, family, True).curvature()
        A = X - X.mean(axis=0) if family == "linear" else np.column_stack([X, np.ones(n)])
        exact = np.linalg.norm(A, 2) ** 2 / (n if family == "linear" else 4 * n)
        assert exact <= value <= exact * 1.001

    def test_published_and_original_settings_are_the_two_sequence_scheme(self, data):
        """Each step by hand, ten of them."""
        X, y = data
        loss = Loss(Products(X), y, "linear", True)
        problem = Problem.make(loss, 0.2, "mcp", 3.0)
        soft = lambda z, t: np.sign(z) * np.maximum(np.abs(z) - t, 0)  # noqa: E731
        for solver in ("ag", "ag-gl"):
            b = ag = np.zeros(30)
            a, values = 1.0, []
            L = problem.lipschitz
            beta = 0.99 / L if solver == "ag" else 0.5 / L
            for k in range(1, 11):
                a = 2 / (1 + np.sqrt(1 + 4 / a**2)) if solver == "ag" else 2 / (k + 1)
                length = beta / a if solver == "ag" else k * beta / 2
                md = (1 - a) * ag + a * b
                g = problem.gradient(md)
                b = soft(b - length * g, length * 0.2)
                ag = soft(md - beta * g, beta * 0.2)
                values.append(problem.objective(ag))
            found = problem.solve(np.zeros(30), solver=solver, max_iter=10, tol=1e-12)
            np.testing.assert_allclose(found.objectives, values, rtol=1e-12)

    def test_gradients_by_differences(self, data):
        X, y = data
        for family, target in (("linear", y), ("logistic", np.sign(y - y.mean()))):
            loss = Loss(Products(X), target, family, True)
            problem = Problem.make(loss, 0.2, "scad", 3.7)
            theta = np.random.default_rng(0).standard_normal(loss.p + loss.free) * 0.3
            numeric = [
                (problem.smooth(theta + 1e-6 * e) - problem.smooth(theta - 1e-6 * e)) / 2e-6
                for e in np.eye(len(theta))
            ]
            np.testing.assert_allclose(problem.gradient(theta), numeric, atol=1e-5)


class TestPath:
    @pytest.mark.parametrize("penalty", ["scad", "mcp", "l1"])
    @pytest.mark.parametrize("family", ["linear", "logistic"])
    def test_screening_changes_nothing(self, penalty, family):
        rng = np.random.default_rng(4)
        X = rng.standard_normal((60, 120))
        y = X[:, 0] - X[:, 50] + 0.5 * rng.standard_normal(60)
        y = np.sign(y) if family == "logistic" else y
        options = {
            "penalty": penalty, "family": family, "n_alphas": 8, "eps": 0.4,
            "tol": 1e-8, "max_iter": 5_000, "solver": "pncg",
        }  # fmt: skip
        alphas, screened, info = nonconvex_path(X, y, **options)
        _, full, whole = nonconvex_path(X, y, screening=None, **options)
        np.testing.assert_allclose(screened, full, atol=1e-6)
        np.testing.assert_allclose(info.intercepts, whole.intercepts, atol=1e-6)
        assert info.n_kept.max() < 120
        assert np.all(whole.n_kept == 120)
        assert np.abs(screened[:, 0]).max() < 1e-12
        assert np.abs(screened[:, 1]).max() > 1e-3
        np.testing.assert_allclose(alphas[1:] / alphas[:-1], 0.4 ** (1 / 7))

    def test_dropped_columns_come_back_when_they_violate(self):
        """Few correlated rows make the rule guess wrong, and the check mends it."""
        rng = np.random.default_rng(1)
        X = 0.7 * rng.standard_normal((8, 1)) + rng.standard_normal((8, 6))
        y = rng.standard_normal(8)
        options = {
            "penalty": "l1", "n_alphas": 12, "eps": 0.05, "solver": "pncg",
            "max_iter": 3000, "tol": 1e-9,
        }  # fmt: skip
        alphas, screened, info = nonconvex_path(X, y, **options)
        assert info.n_violations.sum() > 0
        for alpha, b, intercept in zip(alphas, screened.T, info.intercepts, strict=True):
            lasso = Lasso(alpha=alpha, tol=1e-14, max_iter=100_000).fit(X, y)
            np.testing.assert_allclose(b, lasso.coef_, atol=1e-6)
            assert intercept == pytest.approx(lasso.intercept_, abs=1e-6)

    def test_alpha_max_is_the_first_with_no_coefficients(self, data):
        X, y = data
        alphas, coefs, _ = nonconvex_path(X, y, penalty="l1", n_alphas=3, eps=0.9)
        centred = X - X.mean(axis=0)
        assert alphas[0] == pytest.approx(np.abs(centred.T @ (y - y.mean())).max() / 80)
        assert np.abs(coefs[:, 0]).max() < 1e-12
        assert np.abs(coefs[:, 1]).max() > 1e-3

    def test_errors(self, data):
        X, y = data
        with pytest.raises(ValueError, match="screening must be 'strong' or None"):
            nonconvex_path(X, y, screening="weak")
        with pytest.raises(ValueError, match="family must be 'linear' or 'logistic'"):
            nonconvex_path(X, y, family="poisson")
        with pytest.raises(ValueError, match="alphas must be finite and at least 0"):
            nonconvex_path(X, y, alphas=[0.1, -0.1])
        with pytest.raises(ValueError, match="eps must lie strictly between 0 and 1"):
            nonconvex_path(X, y, eps=1.0)
        with pytest.raises(ValueError, match="n_alphas must be an integer of at least 1"):
            nonconvex_path(X, y, n_alphas=0)
        with pytest.raises(ValueError, match="y must vary with some column of X"):
            nonconvex_path(X, np.ones(80))
        with pytest.raises(ValueError, match="y must have two classes, got 1"):
            nonconvex_path(X, np.ones(80), family="logistic")


class TestCrossValidation:
    def test_choice_and_jobs(self, data):
        X, y = data
        options = {"n_alphas": 8, "eps": 0.05, "cv": 4, "penalty": "mcp"}
        model = NonconvexRegressionCV(**options).fit(X, y)
        with parallel_config(backend="threading"):
            two = NonconvexRegressionCV(n_jobs=2, **options).fit(X, y)
        np.testing.assert_array_equal(two.mse_path_, model.mse_path_)
        assert model.alpha_ == model.alphas_[model.mse_path_.mean(axis=1).argmin()]
        assert {3, 17} <= set(np.flatnonzero(model.coef_))
        assert model.mse_path_.shape == (8, 4)
        assert len(model.plot().get_lines()) == np.any(model.coef_path_ != 0, axis=1).sum() + 1
        assert "MCP linear regression" in str(model.summary())


class TestSummary:
    def test_errors_are_those_of_least_squares_where_the_penalty_is_flat(self, data):
        sm = pytest.importorskip("statsmodels.api")
        X, y = data
        model = NonconvexRegression(0.3, penalty="mcp", max_iter=50_000, tol=1e-9).fit(X, y)
        chosen = np.flatnonzero(model.coef_)
        assert chosen.tolist() == [3, 17]
        peer = sm.OLS(y, sm.add_constant(X[:, chosen])).fit()
        frame = model.summary().frame
        np.testing.assert_allclose(frame["estimate"], peer.params[1:], atol=1e-6)
        np.testing.assert_allclose(frame["std_error"], peer.bse[1:], rtol=1e-6)
        np.testing.assert_allclose(frame[["lower", "upper"]], peer.conf_int()[1:], rtol=1e-5)

    def test_logistic_errors_are_those_of_maximum_likelihood(self):
        sm = pytest.importorskip("statsmodels.api")
        rng = np.random.default_rng(0)
        X = rng.standard_normal((800, 10))
        y = X[:, 2] * 1.5 - X[:, 6] + rng.logistic(size=800) > 0
        model = NonconvexLogisticRegression(0.05, penalty="mcp", max_iter=50_000, tol=1e-9).fit(
            X, y
        )
        chosen = np.flatnonzero(model.coef_)
        assert chosen.tolist() == [2, 6]
        peer = sm.Logit(y.astype(float), sm.add_constant(X[:, chosen])).fit(disp=0)
        np.testing.assert_allclose(model.coef_[0, chosen], peer.params[1:], atol=1e-4)
        np.testing.assert_allclose(model.summary().frame["std_error"], peer.bse[1:], rtol=1e-3)

    def test_l1_has_no_errors_and_says_so(self, data):
        summary = NonconvexRegression(0.1, penalty="l1").fit(*data).summary()
        assert summary.frame["std_error"].isna().all()
        assert "no standard errors under l1" in str(summary)


class TestPython:
    def test_tensors_in_tensors_out(self, data):
        X, y = data
        plain = NonconvexRegression(0.2).fit(X, y)
        model = NonconvexRegression(0.2).fit(torch.as_tensor(X), torch.as_tensor(y))
        assert isinstance(model.coef_, torch.Tensor)
        np.testing.assert_allclose(model.coef_.numpy(), plain.coef_, atol=1e-8)
        prediction = model.predict(torch.as_tensor(X, dtype=torch.float32))
        assert prediction.dtype == torch.float32
        np.testing.assert_allclose(prediction.numpy(), plain.predict(X), rtol=1e-5)
        labels = torch.as_tensor(y > y.mean())
        logistic = NonconvexLogisticRegression(0.1).fit(torch.as_tensor(X), labels)
        assert logistic.coef_.shape == (1, 30)
        assert isinstance(logistic.predict_proba(torch.as_tensor(X)), torch.Tensor)
        _, coefs, _ = nonconvex_path(torch.as_tensor(X), torch.as_tensor(y), n_alphas=4, eps=0.3)
        np.testing.assert_allclose(coefs, nonconvex_path(X, y, n_alphas=4, eps=0.3)[1], atol=1e-6)

    @pytest.mark.cuda
    def test_tensors_on_a_device_stay_there(self, data):
        X, y = (torch.as_tensor(array, device="cuda") for array in data)
        model = NonconvexRegression(0.2).fit(X, y)
        assert model.coef_.device.type == "cuda"
        np.testing.assert_allclose(
            model.coef_.cpu().numpy(), NonconvexRegression(0.2).fit(*data).coef_, atol=1e-6
        )

    def test_tensor_errors(self, data):
        X, y = (torch.as_tensor(array) for array in data)
        with pytest.raises(TypeError, match="X must have a floating dtype"):
            NonconvexRegression().fit(X.long(), y)
        with pytest.raises(ValueError, match="X must be finite"):
            NonconvexRegression().fit(X / 0, y)
        with pytest.raises(ValueError, match="X must have two dimensions"):
            NonconvexRegression().fit(X[0], y)
        with pytest.raises(ValueError, match=r"y must have shape \(80,\), got \(79,\)"):
            NonconvexRegression().fit(X, y[1:])
        with pytest.raises(ValueError, match="X must have 30 columns, got 29"):
            NonconvexRegression().fit(X, y).predict(X[:, 1:])

    def test_frames_grid_search_pickle_clone(self, data):
        X, y = data
        frame = pd.DataFrame(X, columns=[f"snp {j}" for j in range(30)])
        model = NonconvexRegression(0.3).fit(frame, y)
        assert model.summary().frame.index.tolist() == ["snp 3", "snp 17"]
        search = GridSearchCV(
            make_pipeline(StandardScaler(), NonconvexRegression()),
            {"nonconvexregression__alpha": [0.1, 1.0]}, cv=3,
        ).fit(frame, y)  # fmt: skip
        again = pickle.loads(pickle.dumps(search.best_estimator_))
        np.testing.assert_array_equal(again.predict(frame), search.predict(frame))
        assert clone(model).alpha == 0.3

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"alpha": -0.1}, "alpha must be finite and at least 0"),
            ({"penalty": "lasso"}, "penalty must be one of"),
            ({"gamma": 1.5}, "gamma must be finite and above 2 for scad"),
            ({"solver": "fista"}, "solver must be one of ag, ag-gl, prox, pncg"),
            ({"max_iter": 0}, "max_iter must be an integer of at least 1"),
            ({"tol": 0.0}, "tol must be finite and above 0"),
        ],
    )
    def test_parameter_errors(self, data, options, message):
        X, y = data
        for model in (NonconvexRegression(**options), NonconvexLogisticRegression(**options)):
            with pytest.raises(ValueError, match=message):
                model.fit(X, y > y.mean())

    def test_classes(self, data):
        X, _ = data
        with pytest.raises(ValueError, match="must have two classes, got 3"):
            NonconvexLogisticRegression().fit(X, np.arange(80) % 3)
        with pytest.raises(ValueError, match="must have two classes, got 1 class"):
            NonconvexLogisticRegression().fit(X, np.ones(80, dtype=int))

    def test_separable_classes_warn(self):
        x = np.linspace(-1, 1, 40)[:, None] * 100
        with pytest.warns(ConvergenceWarning):
            NonconvexLogisticRegression(1e-4, penalty="mcp", max_iter=200).fit(x, x[:, 0] > 0)

    def test_constant_columns_and_targets_get_zeros(self, data):
        X, y = data
        X = np.column_stack([X, np.full(80, 3.0)])
        assert NonconvexRegression(0.2).fit(X, y).coef_[30] == 0
        assert not NonconvexRegression(0.2).fit(X, np.full(80, 7.0)).coef_.any()
