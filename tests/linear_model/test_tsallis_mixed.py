"""Mixed effects by clusters: the Gaussian limit, monotone ECME, invariances, and outliers."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from rankone.linear_model._nonconvex_solvers import concave_gradient
from rankone.linear_model.tsallis_mixed import TsallisMixedEffects
from rankone.stats.q_gaussian import MultivariateQGaussian
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning


def clusters(seed=0, m=30, p=3):
    """Random intercepts and slopes in clusters of unequal size."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(m), rng.integers(3, 8, m))
    n = len(groups)
    X = rng.standard_normal((n, p))
    Z = np.column_stack([np.ones(n), rng.standard_normal(n)])
    effects = rng.standard_normal((m, 2)) * [1.0, 0.7]
    y = 1 + X @ np.arange(1.0, p + 1) + (Z * effects[groups]).sum(axis=1)
    return X, y + 0.8 * rng.standard_normal(n), groups, Z


@pytest.fixture(scope="module")
def data():
    return clusters()


def test_gaussian_limit_is_mixed_lm(data):
    sm = pytest.importorskip("statsmodels.api")
    X, y, groups, Z = data
    model = TsallisMixedEffects(nu=1e6, max_iter=3000, tol=1e-12).fit(X, y, groups, Z)
    peer = sm.MixedLM(y, sm.add_constant(X), groups, exog_re=Z).fit(reml=False)
    fixed = np.r_[model.intercept_, model.coef_]
    np.testing.assert_allclose(fixed, peer.fe_params, atol=1e-4)
    assert model.loglik_ == pytest.approx(peer.llf, abs=1e-3)
    np.testing.assert_allclose(model.random_cov_, peer.cov_re, atol=2e-3)
    assert model.sigma2_ == pytest.approx(peer.scale, abs=1e-3)
    frame = model.summary().frame
    A = sm.add_constant(X)
    information = np.zeros((4, 4))
    for group in np.unique(groups):
        rows = groups == group
        V = Z[rows] @ model.random_cov_ @ Z[rows].T + model.sigma2_ * np.eye(rows.sum())
        information += A[rows].T @ np.linalg.solve(V, A[rows])
    errors = np.sqrt(np.diag(np.linalg.inv(information)))
    np.testing.assert_allclose(frame["std_error"], errors, rtol=1e-4)
    # statsmodels takes the observed information of all parameters.
    np.testing.assert_allclose(frame["std_error"], peer.bse_fe, rtol=0.05)
    effects = np.array([peer.random_effects[group] for group in model.groups_])
    np.testing.assert_allclose(model.random_effects_, effects, atol=2e-3)
    np.testing.assert_allclose(model.weights_, 1, atol=1e-3)


@pytest.mark.parametrize("options", [{}, {"nu": 3.0}, {"penalty": "mcp", "alpha": 0.1}])
def test_path_never_falls(data, options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = TsallisMixedEffects(max_iter=60, **options).fit(*data)
    assert np.diff(model.loglik_path_).min() >= -1e-8


def test_likelihood_and_weights_by_dense_matrices(data):
    X, y, groups, Z = data
    model = TsallisMixedEffects().fit(X, y, groups, Z)
    total = 0.0
    for at, group in enumerate(model.groups_):
        rows = groups == group
        V = Z[rows] @ model.random_cov_ @ Z[rows].T + model.sigma2_ * np.eye(rows.sum())
        mean = X[rows] @ model.coef_ + model.intercept_
        total += float(MultivariateQGaussian(mean, V, nu=model.nu_).logpdf(y[rows]))
        r = y[rows] - mean
        delta = r @ np.linalg.solve(V, r)
        weight = (model.nu_ + rows.sum()) / (model.nu_ + delta)
        assert model.weights_[at] == pytest.approx(weight)
        assert model.q_[at] == pytest.approx(1 + 2 / (model.nu_ + rows.sum()))
        u = model.random_cov_ @ Z[rows].T @ np.linalg.solve(V, r)
        np.testing.assert_allclose(model.random_effects_[at], u, atol=1e-10)
    assert model.loglik_ == pytest.approx(total, rel=1e-10)
    assert model.loglik_path_[-1] == pytest.approx(total, rel=1e-10)
    free = 3 + 1 + 3 + 1 + 1
    assert model.bic_ == pytest.approx(-2 * total + free * np.log(len(y)))


def test_parameters_maximise_the_likelihood(data):
    """No small change of any parameter raises it."""
    X, y, groups, Z = data
    model = TsallisMixedEffects(nu=4.0, max_iter=5000, tol=1e-13).fit(X, y, groups, Z)

    def loglik(coef, s2, D):
        total = 0.0
        for group in np.unique(groups):
            rows = groups == group
            V = Z[rows] @ D @ Z[rows].T + s2 * np.eye(rows.sum())
            law = MultivariateQGaussian(X[rows] @ coef + model.intercept_, V, nu=4.0)
            total += float(law.logpdf(y[rows]))
        return total

    best = loglik(model.coef_, model.sigma2_, model.random_cov_)
    for j in range(3):
        for sign in (-1, 1):
            step = np.zeros(3)
            step[j] = 0.01 * sign
            assert loglik(model.coef_ + step, model.sigma2_, model.random_cov_) < best
    for factor in (0.98, 1.02):
        assert loglik(model.coef_, factor * model.sigma2_, model.random_cov_) < best
        assert loglik(model.coef_, model.sigma2_, factor * model.random_cov_) < best


def test_labels_and_order_of_rows_do_not_matter(data):
    X, y, groups, Z = data
    plain = TsallisMixedEffects().fit(X, y, groups, Z)
    order = np.random.default_rng(1).permutation(len(y))
    names = np.array([f"site {99 - g}" for g in groups])
    other = TsallisMixedEffects().fit(X[order], y[order], names[order], Z[order])
    np.testing.assert_allclose(other.coef_, plain.coef_, atol=1e-8)
    assert other.loglik_ == pytest.approx(plain.loglik_, rel=1e-10)
    np.testing.assert_allclose(other.weights_[::-1], plain.weights_, atol=1e-6)


def test_a_cluster_at_infinity_loses_its_weight():
    X, y, groups, _ = clusters()
    clean = TsallisMixedEffects().fit(X[groups != 4], y[groups != 4], groups[groups != 4])
    for distance in (1e2, 1e5):
        moved = np.where(groups == 4, y + distance, y)
        model = TsallisMixedEffects(max_iter=2000).fit(X, moved, groups)
        np.testing.assert_allclose(model.coef_, clean.coef_, atol=0.3)
        assert model.weights_[4] < 20 / distance
        assert 4 in model.outlying_groups()
        gaussian = TsallisMixedEffects(nu=1e6, max_iter=2000).fit(X, moved, groups)
        assert abs(gaussian.intercept_ - 1) > distance / 60


def test_heavy_tails_are_found_and_light_ones_left_alone():
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(200), 5)
    X = rng.standard_normal((1000, 1))
    noise = rng.standard_normal(200)[groups] + rng.standard_normal(1000)
    heavy = noise / np.sqrt(rng.chisquare(3, 200) / 3)[groups]
    assert TsallisMixedEffects().fit(X, heavy, groups).nu_ == pytest.approx(3, rel=0.4)
    assert TsallisMixedEffects().fit(X, noise, groups).nu_ > 20
    found = TsallisMixedEffects().fit(X, heavy, groups)
    assert len(found.outlying_groups(0.05)) == pytest.approx(10, abs=9)


def test_standard_errors_cover():
    """95 % intervals of 40 data sets of t clusters: 120 slopes."""
    hits = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        groups = np.repeat(np.arange(40), 4)
        X = rng.standard_normal((160, 3))
        factor = 1 / np.sqrt(rng.chisquare(4, 40) / 4)
        y = X @ [1.0, 0.0, -1.0]
        y += (rng.standard_normal(40)[groups] + rng.standard_normal(160)) * factor[groups]
        frame = TsallisMixedEffects(tol=1e-7).fit(X, y, groups).summary().frame.iloc[1:]
        hits += list((frame["lower"] < [1, 0, -1]) & (frame["upper"] > [1, 0, -1]))
    assert 0.88 <= np.mean(hits) <= 1.0


def test_penalised_solution_is_sparse_and_stationary():
    rng = np.random.default_rng(5)
    groups = np.repeat(np.arange(50), 4)
    X = rng.standard_normal((200, 40))
    y = 2 + 2 * X[:, 3] - 2 * X[:, 20] + rng.standard_normal(50)[groups]
    y += rng.standard_normal(200)
    y[groups == 7] += 60
    model = TsallisMixedEffects(penalty="mcp", alpha=0.2, max_iter=300).fit(X, y, groups)
    assert np.flatnonzero(model.coef_).tolist() == [3, 20]
    gradient = np.zeros(41)
    for at, group in enumerate(model.groups_):
        rows = groups == group
        V = model.random_cov_[0, 0] + model.sigma2_ * np.eye(4)
        r = y[rows] - X[rows] @ model.coef_ - model.intercept_
        A = np.column_stack([np.ones(4), X[rows]])
        gradient += model.weights_[at] * A.T @ np.linalg.solve(V, r) / 200
    b = model.coef_
    assert abs(gradient[0]) < 1e-4
    slope = 0.2 + np.sign(b) * concave_gradient(b, 0.2, "mcp", 3.0)
    np.testing.assert_allclose(gradient[1:][b != 0], (slope * np.sign(b))[b != 0], atol=1e-3)
    assert np.abs(gradient[1:][b == 0]).max() <= 0.2 + 1e-6
    frame = model.summary().frame
    assert frame.index.tolist() == ["intercept", "3", "20"]
    assert "as if the selection had been known" in str(model.summary())


def test_too_small_a_penalty_that_interpolates_says_so():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((24, 40))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        with pytest.warns(RuntimeWarning, match="the model interpolates y"):
            TsallisMixedEffects(penalty="l1", alpha=1e-6, nu=5.0, max_iter=60).fit(
                X, rng.standard_normal(24), np.repeat(np.arange(6), 4)
            )


def test_predictions_of_known_and_new_clusters(data):
    X, y, groups, Z = data
    model = TsallisMixedEffects().fit(X, y, groups, Z)
    fixed = X @ model.coef_ + model.intercept_
    np.testing.assert_allclose(model.predict(X), fixed)
    with_effects = model.predict(X, groups, Z)
    expected = fixed + (Z * model.random_effects_[groups]).sum(axis=1)
    np.testing.assert_allclose(with_effects, expected)
    assert np.mean((y - with_effects) ** 2) < 0.6 * np.mean((y - fixed) ** 2)
    np.testing.assert_allclose(model.predict(X[:4], np.full(4, 1000), Z[:4]), fixed[:4])


def test_frames_pickle_clone_and_plot(data):
    X, y, groups, _ = data
    frame = pd.DataFrame(X, columns=["age", "dose", "time"])
    model = TsallisMixedEffects().fit(frame, pd.Series(y), pd.Series(groups))
    assert model.summary().frame.index.tolist() == ["intercept", "age", "dose", "time"]
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(frame), model.predict(frame))
    assert clone(model).nu == "auto"
    assert model.plot().get_ylabel() == "cluster weight"


class TestErrors:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"nu": 0.0}, "nu must be finite and above 0"),
            ({"nu": "best"}, "nu must be 'auto' or a number"),
            ({"alpha": 0.1}, "alpha must be 0 without a penalty"),
            ({"penalty": "ridge"}, "penalty must be one of"),
            ({"penalty": "mcp", "gamma": 0.5}, "gamma must be finite and above 1"),
            ({"max_iter": 0}, "max_iter must be an integer of at least 1"),
            ({"tol": 0.0}, "tol must be finite and above 0"),
        ],
    )
    def test_parameters(self, data, options, message):
        X, y, groups, _ = data
        with pytest.raises(ValueError, match=message):
            TsallisMixedEffects(**options).fit(X, y, groups)

    def test_input(self, data):
        X, y, groups, Z = data
        model = TsallisMixedEffects()
        with pytest.raises(ValueError, match="groups must be given"):
            model.fit(X, y)
        with pytest.raises(ValueError, match="groups must have shape"):
            model.fit(X, y, groups[1:])
        with pytest.raises(ValueError, match="groups must hold at least two clusters"):
            model.fit(X, y, np.zeros(len(y)))
        with pytest.raises(ValueError, match="groups must not hold missing labels"):
            model.fit(X, y, np.where(groups == 3, np.nan, groups))
        with pytest.raises(ValueError, match=f"Z must have {len(y)} rows"):
            model.fit(X, y, groups, Z[1:])
        with pytest.raises(ValueError, match="Input X contains NaN"):
            model.fit(np.full_like(X, np.nan), y, groups)
        with pytest.raises(ValueError, match="must have full column rank 5, got 4"):
            model.fit(np.column_stack([X, np.ones(len(y))]), y, groups)
        fitted = model.fit(X, y, groups, Z)
        with pytest.raises(ValueError, match="Z must have 2 columns, got 1"):
            fitted.predict(X, groups)
        with pytest.raises(ValueError, match="level must lie strictly"):
            fitted.outlying_groups(0.0)
