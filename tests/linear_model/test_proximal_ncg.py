"""Proximal conjugate gradients: conjugate on quadratics, monotone always, never lost."""

from itertools import pairwise

import numpy as np
import pytest
from rankone.linear_model.proximal_ncg import RULES, proximal_ncg, soft_threshold
from scipy.optimize import minimize
from sklearn.linear_model import Lasso

# A value of F counts as lower within these roundings of it.
ROUNDING = 1e-14


def quadratic(seed=0, p=20):
    """A strictly convex quadratic whose columns have scales 1 to 10, and its minimum."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((3 * p, p)) * np.linspace(1, 10, p)
    H = A.T @ A / (3 * p)
    best = rng.standard_normal(p)
    b = H @ best
    L = np.linalg.eigvalsh(H)[-1]
    return (lambda x: float(0.5 * x @ H @ x - b @ x)), (lambda x: H @ x - b), best, L


@pytest.mark.parametrize("rule", ["PR+", "HS+", "HZ", "FR"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_quadratic_of_dimension_p_takes_about_p_steps(rule, seed):
    fun, grad, best, L = quadratic(seed)
    errors = []
    proximal_ncg(
        fun, grad, np.zeros(20), lipschitz=L, rule=rule, max_iter=30, tol=0.0,
        callback=lambda x: errors.append(np.abs(x - best).max()),
    )  # fmt: skip
    assert min(errors) < 1e-8


def test_without_memory_it_is_only_a_gradient_method():
    fun, grad, best, L = quadratic()
    result = proximal_ncg(fun, grad, np.zeros(20), lipschitz=L, rule="none", max_iter=400)
    assert not result.success
    assert np.abs(result.x - best).max() > 1e-3


@pytest.fixture(scope="module")
def regression():
    rng = np.random.default_rng(3)
    X = rng.standard_normal((60, 100))
    X[:, 1:] += 0.9 * X[:, :-1]
    y = X[:, 10] - 2 * X[:, 60] + 0.1 * rng.standard_normal(60)
    return X, y


@pytest.mark.parametrize("rule", RULES)
def test_monotone_for_every_rule_and_never_above_the_proximal_gradient_point(regression, rule):
    X, y = regression
    n, alpha = len(y), 0.05
    L = np.linalg.norm(X, 2) ** 2 / n
    fun = lambda b: float(np.sum((y - X @ b) ** 2)) / (2 * n)  # noqa: E731
    grad = lambda b: -X.T @ (y - X @ b) / n  # noqa: E731
    points = [np.zeros(100)]
    result = proximal_ncg(
        fun, grad, points[0], alpha, lipschitz=L, rule=rule, max_iter=60, callback=points.append
    )
    F = lambda b: fun(b) + alpha * np.abs(b).sum()  # noqa: E731
    values = np.array([F(point) for point in points])
    np.testing.assert_allclose(result.history, values, rtol=1e-12)
    for before, after in pairwise(points):
        z = soft_threshold(before - grad(before) / L, alpha / L)
        assert F(after) <= F(z) * (1 + ROUNDING)
        assert F(z) <= F(before) - L * np.sum((before - z) ** 2) / 2 + ROUNDING * F(before)
    assert result.fun <= values[-1]
    assert result.ngrad == result.nit + 1


def test_solution_is_the_lasso_with_free_and_weighted_coordinates(regression):
    X, y = regression
    n = len(y)
    L = np.linalg.norm(X, 2) ** 2 / n
    fun = lambda b: float(np.sum((y - X @ b) ** 2)) / (2 * n)  # noqa: E731
    grad = lambda b: -X.T @ (y - X @ b) / n  # noqa: E731
    result = proximal_ncg(fun, grad, np.zeros(100), 0.05, lipschitz=L, max_iter=3000, tol=1e-10)
    lasso = Lasso(alpha=0.05, fit_intercept=False, tol=1e-14, max_iter=200_000).fit(X, y)
    assert result.success
    np.testing.assert_allclose(result.x, lasso.coef_, atol=1e-6)
    weights = np.where(np.arange(100) == 10, 0.0, 0.05)
    free = proximal_ncg(fun, grad, np.zeros(100), weights, lipschitz=L, max_iter=3000, tol=1e-10)
    slope = grad(free.x)
    assert abs(slope[10]) < 1e-8
    assert np.all(np.abs(slope) <= weights + 1e-8)


def test_memory_saves_gradients_on_an_ill_conditioned_l1_problem():
    fun, grad, _, L = quadratic()
    runs = {
        rule: proximal_ncg(
            fun, grad, np.zeros(20), 0.1, lipschitz=L, rule=rule, max_iter=5000, tol=1e-6
        )
        for rule in ("PR+", "none")
    }
    assert runs["PR+"].success
    assert runs["PR+"].ngrad < 0.5 * runs["none"].ngrad


def test_nonconvex_smooth_part_reaches_a_stationary_point():
    """Rosenbrock, with the step of its curvature near the path."""
    from scipy.optimize import rosen, rosen_der

    result = proximal_ncg(rosen, rosen_der, [-1.2, 1.0], step=2e-4, max_iter=20_000, tol=1e-9)
    np.testing.assert_allclose(result.x, [1, 1], atol=1e-5)
    assert np.all(np.diff(result.history) <= ROUNDING)
    assert minimize(rosen, [-1.2, 1.0], jac=rosen_der).fun == pytest.approx(result.fun, abs=1e-8)


def test_starts_at_the_solution_and_at_huge_l1():
    fun, grad, best, L = quadratic()
    assert proximal_ncg(fun, grad, best, lipschitz=L).nit == 0
    assert not proximal_ncg(fun, grad, np.zeros(20), 1e6, lipschitz=L).x.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "lipschitz or step must be given"),
        ({"lipschitz": -1.0}, "step and lipschitz must be finite and above 0"),
        ({"step": np.inf}, "step and lipschitz must be finite and above 0"),
        ({"lipschitz": 1.0, "l1": -1.0}, "l1 must be finite and at least 0"),
        ({"lipschitz": 1.0, "rule": "BFGS"}, r"rule must be one of PR\+, HS\+, HZ, FR, none"),
        ({"lipschitz": 1.0, "tol": -1.0}, "tol must be finite and at least 0"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        proximal_ncg(lambda x: 0.0, lambda x: x, np.zeros(2), **options)


def test_errors_of_the_start():
    with pytest.raises(ValueError, match="x0 must have one dimension"):
        proximal_ncg(lambda x: 0.0, lambda x: x, np.zeros((2, 2)), lipschitz=1.0)
    with pytest.raises(ValueError, match="fun must be finite at x0"):
        proximal_ncg(lambda x: np.nan, lambda x: x, np.zeros(2), lipschitz=1.0)
