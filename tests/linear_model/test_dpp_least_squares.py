"""Random designs have exactly the laws they are named for, and the fits their exact identities."""

import pickle
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from rankone.linear_model._dpp_designs import grams, sample_designs
from rankone.linear_model.dpp_least_squares import (
    DiscreteBasis,
    DPPLeastSquares,
    LegendreBasis,
    OrthonormalBasis,
    TrigonometricBasis,
    WeightedLeastSquares,
    christoffel_weights,
    sample_design,
    sample_iid,
    sample_projection_dpp,
    sample_repeated_dpp,
    sample_volume,
)
from scipy import stats
from scipy.optimize import linprog
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks

# Monte Carlo means must lie within this many standard errors; p-values above the bound. Seeds are
# fixed, so that a test either always passes or never does.
SIGMAS = 4.0
P_VALUE = 1e-3


class Affine(OrthonormalBasis):
    """1 and the coordinates, on any number of columns: for scikit-learn's checks of conventions."""

    n_functions, n_dims = 2, 1

    def __repr__(self):
        # Names of tests come from it, and must be the same in every process.
        return "Affine()"

    def evaluate(self, X):
        return np.column_stack([np.ones(len(X)), X])

    def sample_reference(self, n, rng):
        return rng.standard_normal((n, 1))

    sample_christoffel = sample_reference


@parametrize_with_checks([WeightedLeastSquares(Affine())])
@pytest.mark.filterwarnings("ignore::numpy.exceptions.RankWarning")
def test_scikit_learn_conventions(estimator, check):
    check(estimator)


def mean_within(values, expected, sigmas=SIGMAS):
    values = np.asarray(values)
    error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    np.testing.assert_array_less(np.abs(values.mean(axis=0) - expected), sigmas * error + 1e-12)


@pytest.fixture(scope="module")
def pool():
    rng = np.random.default_rng(0)
    features = np.column_stack([np.ones(7), rng.standard_normal((7, 2))])
    return DiscreteBasis(features, weights=rng.uniform(0.5, 2, 7))


def draws(basis, n, method, count, mix=0.0, seed=0):
    rng = np.random.default_rng(seed)
    points = sample_designs(basis, n, method, count, mix=mix, rng=rng)
    flat = points.reshape(count * n, -1)
    Phi = basis.evaluate(flat).reshape(count, n, -1)
    return points, Phi, christoffel_weights(basis, flat, mix).reshape(count, n)


class TestBases:
    @pytest.mark.parametrize(
        ("arguments", "size"),
        [((4, 2, "total"), 15), ((3, 2, "tensor"), 16), ((5, 2, "hyperbolic"), 14)],
    )
    def test_sizes_and_order_of_the_index_sets(self, arguments, size):
        basis = LegendreBasis(*arguments)
        assert basis.n_functions == size == len(basis.indices_)
        keys = [(int(index.sum()), tuple(index.tolist())) for index in basis.indices_]
        assert keys == sorted(keys)

    @pytest.mark.parametrize("index_set", ["total", "tensor", "hyperbolic"])
    def test_legendre_is_orthonormal(self, index_set):
        basis = LegendreBasis(5, 2, index_set)
        x, w = np.polynomial.legendre.leggauss(8)
        X = np.array([(a, b) for a in x for b in x])
        Phi = basis.evaluate(X)
        gram = (Phi * np.outer(w / 2, w / 2).ravel()[:, None]).T @ Phi
        np.testing.assert_allclose(gram, np.eye(basis.n_functions), atol=1e-12)

    def test_trigonometric_is_orthonormal_with_constant_k(self):
        basis = TrigonometricBasis(3, 2)
        x = np.arange(16) / 16
        Phi = basis.evaluate(np.array([(a, b) for a in x for b in x]))
        np.testing.assert_allclose(Phi.T @ Phi / 256, np.eye(basis.n_functions), atol=1e-12)
        np.testing.assert_allclose((Phi**2).sum(axis=1), basis.n_functions, atol=1e-10)

    def test_discrete_is_orthonormal_and_spans_the_features(self, pool):
        Phi = pool.evaluate(np.arange(7)[:, None])
        gram = (Phi * pool.probabilities_[:, None]).T @ Phi
        np.testing.assert_allclose(gram, np.eye(3), atol=1e-12)
        np.testing.assert_allclose((Phi @ pool.triangle_)[:, 0], 1, atol=1e-12)

    @pytest.mark.parametrize("degree", [0, 1, 7, 40])
    def test_christoffel_draws_have_their_density(self, degree):
        """Against the distribution function of k / m, integrated by quadrature."""
        basis = LegendreBasis(degree)
        points = basis.sample_christoffel(4000, np.random.default_rng(1))[:, 0]
        x, w = np.polynomial.legendre.leggauss(degree + 2)

        def cdf(values):
            nodes = (x[None, :] + 1) / 2 * (values[:, None] + 1) - 1
            k = (basis.evaluate(nodes.reshape(-1, 1)) ** 2).sum(axis=1).reshape(nodes.shape)
            return (k @ w) * (values + 1) / 4 / basis.n_functions

        assert stats.kstest(points, cdf).pvalue > P_VALUE

    def test_errors(self):
        with pytest.raises(ValueError, match=r"X must lie in \[-1, 1\], got a coordinate 1.5"):
            LegendreBasis(2).evaluate([[1.5]])
        with pytest.raises(ValueError, match="X must have 2 columns, got 1"):
            LegendreBasis(2, 2).evaluate([[0.5]])
        with pytest.raises(ValueError, match="index_set must be one of total"):
            LegendreBasis(2, 2, "full")
        with pytest.raises(ValueError, match="degree must be an integer of at least 0"):
            LegendreBasis(-1)
        with pytest.raises(ValueError, match="order must be an integer of at least 0"):
            TrigonometricBasis(1.5)
        with pytest.raises(ValueError, match="n_dims must be an integer of at least 1"):
            TrigonometricBasis(1, 0)

    @pytest.mark.parametrize(
        ("features", "weights", "message"),
        [
            (np.ones((4, 2)), None, "full column rank 2, got a smallest singular value"),
            (np.eye(4)[:, :2] * [1, 0], None, "full column rank, got a zero column 1"),
            (np.ones((1, 2)), None, r"at least as many rows as columns \(2\), got 1"),
            (np.eye(3), [1, 1, 0], "weights must be 3 finite positive numbers"),
            (np.eye(3), [1, 1], "weights must be 3 finite positive numbers"),
            (np.full((3, 1), np.nan), None, "Input features contains NaN"),
        ],
    )
    def test_discrete_errors(self, features, weights, message):
        with pytest.raises(ValueError, match=message):
            DiscreteBasis(features, weights)

    def test_discrete_points_are_row_indices(self, pool):
        for bad in ([[7]], [[-1]], [[0.5]]):
            with pytest.raises(ValueError, match=r"X must hold row indices in \[0, 6\]"):
                pool.evaluate(bad)

    def test_features_of_very_different_scales_are_not_deficient(self):
        DiscreteBasis(np.random.default_rng(0).standard_normal((20, 3)) * [1e-12, 1, 1e12])


class TestProjectionDPP:
    def test_sets_have_their_determinantal_probabilities(self, pool):
        """All 35 sets by enumeration, chi-square."""
        Q = pool.evaluate(np.arange(7)[:, None]) * np.sqrt(pool.probabilities_)[:, None]
        sets = list(combinations(range(7), 3))
        expected = np.array([np.linalg.det(Q[list(rows)]) ** 2 for rows in sets])
        assert expected.sum() == pytest.approx(1)
        points = np.sort(sample_projection_dpp(pool, 4000, random_state=2)[:, :, 0], axis=1)
        counts = np.array([(points == rows).all(axis=1).sum() for rows in sets])
        assert counts.sum() == 4000
        assert stats.chisquare(counts, 4000 * expected).pvalue > P_VALUE

    def test_a_random_point_follows_k_over_m(self):
        basis = LegendreBasis(4)
        points = sample_projection_dpp(basis, 3000, random_state=0)
        other = basis.sample_christoffel(3000, np.random.default_rng(1))[:, 0]
        for position in (0, 2, 4):  # the order is exchangeable
            assert stats.ks_2samp(points[:, position, 0], other).pvalue > P_VALUE

    def test_points_are_distinct_and_many_functions_do_not_drift(self):
        points = sample_projection_dpp(LegendreBasis(39), 5, random_state=0)
        assert points.shape == (5, 40, 1)
        assert min(len(np.unique(draw)) for draw in points) == 40
        rows = sample_projection_dpp(
            DiscreteBasis(np.random.default_rng(0).standard_normal((60, 40))), 20, random_state=0
        )
        assert min(len(np.unique(draw)) for draw in rows) == 40

    def test_weighted_sums_integrate_without_bias(self):
        basis = LegendreBasis(4)
        points = sample_projection_dpp(basis, 4000, random_state=3)
        weights = christoffel_weights(basis, points.reshape(-1, 1)).reshape(4000, 5)
        sums = (weights * np.exp(points[:, :, 0])).sum(axis=1) / 5
        mean_within(sums, np.sinh(1))

    def test_inclusion_frequencies_agree_with_dppy(self, pool):
        finite = pytest.importorskip("dppy.finite_dpps")
        Q = pool.evaluate(np.arange(7)[:, None]) * np.sqrt(pool.probabilities_)[:, None]
        dpp = finite.FiniteDPP("correlation", projection=True, K=Q @ Q.T)
        rng = np.random.RandomState(0)
        for _ in range(2000):
            dpp.sample_exact(mode="GS", random_state=rng)
        theirs, ours = np.zeros((2000, 7)), np.zeros((2000, 7))
        np.put_along_axis(theirs, np.array(dpp.list_of_samples), 1.0, axis=1)
        rows = sample_projection_dpp(pool, 2000, random_state=0)[:, :, 0]
        np.put_along_axis(ours, rows, 1.0, axis=1)
        pair_error = np.sqrt(2 * 0.25 / 2000)
        np.testing.assert_allclose(
            ours.T @ ours / 2000, theirs.T @ theirs / 2000, atol=SIGMAS * pair_error
        )
        np.testing.assert_allclose(ours.mean(axis=0), np.diag(Q @ Q.T), atol=SIGMAS * pair_error)

    def test_a_dependent_basis_is_an_error_and_not_a_hang(self):
        class Twice(Affine):
            def evaluate(self, X):
                return np.ones((len(X), 2))

        with pytest.raises(RuntimeError, match="2 linearly independent functions"):
            sample_projection_dpp(Twice(), random_state=0)


class TestDesigns:
    @pytest.mark.parametrize("mix", [0.0, 0.5, 1.0])
    @pytest.mark.parametrize("n", [6, 9])
    def test_volume_sampling_is_unbiased_with_the_exact_mean_inverse(self, pool, n, mix):
        """E[u_hat] = P_V u and E[G^-1] = n / (n - m + 1) I, for any function u."""
        points, Phi, weights = draws(pool, n, "volume", 8000, mix)
        u = np.random.default_rng(5).standard_normal(7)
        everything = pool.evaluate(np.arange(7)[:, None])
        truth = everything.T @ (pool.probabilities_ * u)
        root = np.sqrt(weights)[..., None]
        found = np.linalg.pinv(Phi * root) @ (root * u[points[..., 0]][..., None])
        mean_within(found[..., 0], truth)
        inverse = np.linalg.inv(grams(Phi, weights)[0])
        mean_within(inverse.reshape(8000, 9), (n / (n - 2) * np.eye(3)).ravel(), sigmas=5)

    def test_iid_sampling_is_neither(self):
        """Even its median is far above the mean of volume sampling, n / (n - m + 1)."""
        _, Phi, weights = draws(LegendreBasis(4), 8, "iid", 2000)
        inverse = np.linalg.inv(grams(Phi, weights)[0])
        assert np.median(np.trace(inverse, axis1=1, axis2=2)) / 5 > 1.5 * 8 / 4

    def test_volume_sampling_has_the_law_it_is_named_for(self, pool):
        """Density proportional to det(G) w.r.t. nu^n: by weighting i.i.d. designs with det(nG)."""
        n, m, count = 4, 3, 40_000
        volume = draws(pool, n, "volume", count, 0.4)[1]
        _, Phi, weights = draws(pool, n, "iid", count, 0.4, seed=1)
        det = np.linalg.det(n * grams(Phi, weights)[0])
        mean_within(det, 24.0)  # n! / (n - m)!

        def statistic(values):
            return (values**2).sum(axis=(1, 2)) / (n * m)

        mean_within(
            det * statistic(Phi) / 24.0 - np.random.default_rng(0).permutation(statistic(volume)),
            0.0,
        )

    def test_n_equal_m_is_one_dpp_and_interpolates(self):
        basis = LegendreBasis(3)
        volume = draws(basis, 4, "volume", 1500)[0]
        dpp = sample_projection_dpp(basis, 1500, random_state=1)
        for summary in (np.min, np.max, np.ptp):
            pair = (summary(volume[..., 0], axis=1), summary(dpp[..., 0], axis=1))
            assert stats.ks_2samp(*pair).pvalue > P_VALUE
        design = sample_design(basis, 4, "volume", random_state=0)
        y = np.exp(design.points[:, 0])
        model = WeightedLeastSquares(basis).fit(design.points, y, design.weights)
        np.testing.assert_allclose(model.predict(design.points), y, rtol=1e-8)

    @pytest.mark.parametrize(
        ("method", "mix"), [("iid", 0.0), ("iid", 0.6), ("repeated_dpp", 0.0), ("volume", 0.0)]
    )
    def test_mean_gram_is_the_identity(self, method, mix):
        basis = LegendreBasis(2)
        _, Phi, weights = draws(basis, 6, method, 4000, mix)
        mean_within(grams(Phi, weights)[0].reshape(4000, 9), np.eye(3).ravel())

    def test_mean_gram_of_mixed_volume_sampling_is_its_formula(self, pool):
        n, m, mix = 6, 3, 0.5
        _, Phi, weights = draws(pool, n, "volume", 6000, mix)
        rows = np.arange(7)[:, None]
        everything, w = pool.evaluate(rows), christoffel_weights(pool, rows, mix)
        k = (everything**2).sum(axis=1)
        part = (everything * (pool.probabilities_ * w * k / m)[:, None]).T @ everything
        expected = (1 - m / n) * np.eye(3) + m / n * part
        assert np.abs(expected - np.eye(3)).max() > 0.02
        mean_within(grams(Phi, weights)[0].reshape(6000, 9), expected.ravel())

    def test_weights_average_to_one_and_are_bounded(self):
        basis = LegendreBasis(6)
        for mix in (0.0, 0.25, 1.0):
            points = sample_iid(basis, 20_000, mix=mix, random_state=0)
            weights = christoffel_weights(basis, points, mix)
            mean_within(weights, 1.0)
            if mix:
                assert weights.max() <= 1 / mix + 1e-12

    @pytest.mark.parametrize("method", ["iid", "volume"])
    def test_error_bound_holds_on_every_stable_design(self, method):
        basis, delta, mix = LegendreBasis(5), 0.6, 0.3
        x, w = np.polynomial.legendre.leggauss(200)
        u = 1 / (1 + 25 * x**2)
        Phi = basis.evaluate(x[:, None])
        truth = Phi.T @ (w / 2 * u)
        # The minimax problem on a grid, from below: min t with |u - Phi c| <= t.
        grid = np.linspace(-1, 1, 401)
        A, ones = basis.evaluate(grid[:, None]), np.ones((401, 1))
        values = 1 / (1 + 25 * grid**2)
        solution = linprog(
            np.r_[np.zeros(6), 1.0],
            A_ub=np.block([[A, -ones], [-A, -ones]]),
            b_ub=np.r_[values, -values],
            bounds=[(None, None)] * 6 + [(0, None)],
        )
        bound = (1 + ((1 - delta) * mix) ** -0.5) * solution.fun
        rng = np.random.default_rng(0)
        for _ in range(30):
            design = sample_design(basis, 18, method, mix=mix, delta=delta, random_state=rng)
            assert design.lambda_min >= 1 - delta
            y = 1 / (1 + 25 * design.points[:, 0] ** 2)
            model = WeightedLeastSquares(basis).fit(design.points, y, design.weights)
            error = np.sqrt(
                np.sum(w / 2 * (u - Phi @ truth) ** 2) + np.sum((model.coef_ - truth) ** 2)
            )
            assert error <= bound

    def test_functions_of_the_space_are_recovered(self):
        for basis in (LegendreBasis(6), LegendreBasis(3, 2), TrigonometricBasis(3)):
            m = basis.n_functions
            coef = np.random.default_rng(0).standard_normal(m)
            design = sample_design(basis, 2 * m, random_state=0)
            y = basis.evaluate(design.points) @ coef
            model = WeightedLeastSquares(basis).fit(design.points, y, design.weights)
            np.testing.assert_allclose(model.coef_, coef, atol=1e-8)

    def test_repeated_designs_are_more_stable_than_volume_and_iid(self):
        basis = LegendreBasis(7)
        medians = [
            np.median(grams(*draws(basis, 16, method, 200)[1:])[1])
            for method in ("iid", "volume", "repeated_dpp")
        ]
        assert medians == sorted(medians)

    def test_boosting_and_pruning(self):
        basis = LegendreBasis(5)
        best = sample_design(basis, 24, delta=0.5, n_candidates=10, random_state=0)
        assert best.lambda_min >= 0.5
        assert best.n_attempts == 1
        pruned = sample_design(basis, 24, delta=0.5, n_candidates=10, prune=True, random_state=0)
        n = len(pruned.points)
        assert 6 <= n < 24
        assert pruned.lambda_min >= 0.5
        Phi = basis.evaluate(pruned.points) * np.sqrt(pruned.weights)[:, None]
        np.testing.assert_allclose(pruned.gram, Phi.T @ Phi / n, atol=1e-12)
        # No single further point could go.
        for left_out in range(n):
            rest = np.delete(Phi, left_out, axis=0)
            assert np.linalg.eigvalsh(rest.T @ rest / (n - 1))[0] < 0.5

    def test_random_state_repeats_and_a_generator_advances(self):
        basis = LegendreBasis(3)
        same = [sample_volume(basis, 6, random_state=4) for _ in range(2)]
        np.testing.assert_array_equal(*same)
        rng = np.random.default_rng(4)
        first, second = (sample_volume(basis, 6, random_state=rng) for _ in range(2))
        np.testing.assert_array_equal(first, same[0])
        assert not np.array_equal(first, second)

    def test_large_batches_have_the_draws_one_after_another(self):
        points = sample_repeated_dpp(LegendreBasis(2), 9, random_state=0)
        draw = sample_projection_dpp(LegendreBasis(2), 3, random_state=0)
        np.testing.assert_array_equal(points, draw.reshape(9, 1))

    @pytest.mark.parametrize(
        ("n", "options", "message"),
        [
            (3, {"method": "volume"}, "n must be at least the number of functions 4 for volume"),
            (6, {}, "n must be a multiple of the number of functions 4 for repeated_dpp, got 6"),
            (0, {"method": "iid"}, "n must be an integer of at least 1"),
            (8, {"delta": 1.0}, "delta must lie strictly between 0 and 1"),
            (8, {"delta": 0.0}, "delta must lie strictly between 0 and 1"),
            (8, {"method": "volume", "mix": 1.5}, r"mix must lie in \[0, 1\]"),
            (8, {"mix": 0.5}, "mix must be 0 for repeated_dpp"),
            (8, {"method": "greedy"}, "method must be one of iid, volume, repeated_dpp"),
            (8, {"prune": True}, "prune needs delta"),
            (8, {"n_candidates": 0}, "n_candidates must be an integer of at least 1"),
            (8, {"max_attempts": 0}, "max_attempts must be an integer of at least 1"),
        ],
    )
    def test_errors(self, n, options, message):
        with pytest.raises(ValueError, match=message):
            sample_design(LegendreBasis(3), n, **options)

    def test_attempts_run_out_with_the_best_lambda_named(self):
        with pytest.raises(
            RuntimeError, match=r"no design of 4 points.*max_attempts = 3; the best had 0\."
        ):
            sample_design(LegendreBasis(3), 4, delta=0.01, max_attempts=3, random_state=0)

    def test_weights_need_a_point_where_some_function_lives(self):
        class Odd(Affine):
            def evaluate(self, X):
                return np.column_stack([X, X**3])

        with pytest.raises(ValueError, match="every basis function is 0"):
            christoffel_weights(Odd(), np.zeros((1, 1)))
        assert christoffel_weights(Odd(), np.zeros((1, 1)), 0.5).tolist() == [2.0]


class TestWeightedLeastSquares:
    @pytest.fixture
    def sample(self):
        rng = np.random.default_rng(1)
        X = rng.uniform(-1, 1, (40, 1))
        weights = rng.uniform(0.5, 2, 40)
        return X, np.sin(3 * X[:, 0]) + 0.1 * rng.standard_normal(40), weights

    def test_coefficients_and_standard_errors_agree_with_statsmodels(self, sample):
        sm = pytest.importorskip("statsmodels.api")
        X, y, weights = sample
        basis = LegendreBasis(4)
        model = WeightedLeastSquares(basis).fit(X, y, weights)
        peer = sm.WLS(y, basis.evaluate(X), weights).fit(cov_type="HC3", use_t=True)
        frame = model.summary().frame
        np.testing.assert_allclose(model.coef_, peer.params, atol=1e-10)
        np.testing.assert_allclose(frame["std_error"], peer.bse, rtol=1e-8)
        np.testing.assert_allclose(frame[["lower", "upper"]], peer.conf_int(), rtol=1e-6)
        np.testing.assert_allclose(frame["p_value"], peer.pvalues, rtol=1e-6, atol=1e-300)
        assert "HC3" in str(model.summary())

    def test_several_targets_and_frames(self, sample):
        X, y, weights = sample
        frame = pd.DataFrame(X, columns=["temperature"])
        both = WeightedLeastSquares(LegendreBasis(3)).fit(frame, np.column_stack([y, -y]), weights)
        one = WeightedLeastSquares(LegendreBasis(3)).fit(X, y, weights)
        np.testing.assert_allclose(both.coef_, [one.coef_, -one.coef_], atol=1e-12)
        assert both.predict(frame).shape == (40, 2)
        with pytest.raises(ValueError, match="summary needs one target, the fit has 2"):
            both.summary()

    def test_gram_uses_the_weights(self, sample):
        X, y, weights = sample
        model = WeightedLeastSquares(LegendreBasis(2)).fit(X, y, weights)
        Phi = LegendreBasis(2).evaluate(X)
        expected = sum(w * np.outer(p, p) for w, p in zip(weights, Phi, strict=True)) / 40
        np.testing.assert_allclose(model.gram_, expected, atol=1e-12)
        assert model.lambda_min_ == pytest.approx(np.linalg.eigvalsh(expected)[0])

    def test_too_few_points_warn_and_take_the_smallest_norm(self):
        X = np.array([[-0.5], [0.5]])
        with pytest.warns(np.exceptions.RankWarning, match="2 weighted points determine 2 of 3"):
            model = WeightedLeastSquares(LegendreBasis(2)).fit(X, [1.0, 2.0])
        np.testing.assert_allclose(model.predict(X), [1, 2])
        assert np.isnan(model.summary().frame["std_error"]).all()
        assert "No standard errors" in str(model.summary())

    def test_grid_search_pickle_and_clone(self, sample):
        X, y, _ = sample
        search = GridSearchCV(
            WeightedLeastSquares(LegendreBasis(1)),
            {"basis": [LegendreBasis(1), LegendreBasis(5)]},
            cv=3,
        ).fit(X, y)
        assert search.best_params_["basis"].degree == 5
        model = pickle.loads(pickle.dumps(search.best_estimator_))
        np.testing.assert_array_equal(model.predict(X), search.predict(X))
        assert clone(model).get_params()["basis"].degree == 5

    def test_errors(self, sample):
        X, y, weights = sample
        with pytest.raises(ValueError, match="basis must be an OrthonormalBasis, got 'legendre'"):
            WeightedLeastSquares("legendre").fit(X, y)
        with pytest.raises(ValueError, match="X must lie in"):
            WeightedLeastSquares(LegendreBasis(1)).fit(2 * X, y)
        with pytest.raises(ValueError, match="Negative values"):
            WeightedLeastSquares(LegendreBasis(1)).fit(X, y, -weights)
        with pytest.raises(ValueError, match="Input y contains NaN"):
            WeightedLeastSquares(LegendreBasis(1)).fit(X, np.full(40, np.nan))
        with pytest.raises(ValueError, match="level must lie strictly"):
            WeightedLeastSquares(LegendreBasis(1)).fit(X, y).summary(level=1.0)


class TestDPPLeastSquares:
    @pytest.mark.parametrize(("method", "n"), [("repeated_dpp", 14), ("volume", 21), ("iid", 21)])
    def test_automatic_number_of_points_and_one_call(self, method, n):
        calls = []

        def function(points):
            calls.append(points)
            return np.exp(points[:, 0])

        model = DPPLeastSquares(LegendreBasis(6), method=method, random_state=0)
        model.fit_function(function)
        assert len(calls) == 1
        assert calls[0].shape == (n, 1)
        assert model.design_.lambda_min >= 0.5
        grid = np.linspace(-1, 1, 50)[:, None]
        np.testing.assert_allclose(model.predict(grid), np.exp(grid[:, 0]), atol=1e-4)

    def test_pool_coefficients_are_of_the_original_features(self):
        rng = np.random.default_rng(0)
        X = pd.DataFrame(
            np.column_stack([np.ones(300), rng.standard_normal((300, 3)) * [1e-3, 1, 1e3]]),
            columns=["one", "a", "b", "c"],
        )
        coef = np.array([1.0, 2000.0, -1.0, 3e-3])
        labels = X.to_numpy() @ coef
        asked = []

        def oracle(rows):
            asked.append(rows)
            return labels[rows]

        model = DPPLeastSquares(None, 12, random_state=0).fit_pool(X, oracle)
        np.testing.assert_allclose(model.coef_, coef, rtol=1e-8)
        np.testing.assert_array_equal(asked[0], model.queried_)
        assert len(asked) == 1
        assert model.queried_.shape == (12,)
        np.testing.assert_allclose(model.predict(X), labels, rtol=1e-8)
        assert model.summary().frame.index.tolist() == ["one", "a", "b", "c"]

    def test_pool_standard_errors_agree_with_statsmodels(self):
        sm = pytest.importorskip("statsmodels.api")
        rng = np.random.default_rng(0)
        X = np.column_stack([np.ones(300), rng.standard_normal((300, 2))])
        y = X @ [1.0, 2.0, -1.0] + rng.standard_normal(300)
        model = DPPLeastSquares(None, 30, random_state=0).fit_pool(X, lambda rows: y[rows])
        rows = model.queried_
        peer = sm.WLS(y[rows], X[rows], model.design_.weights).fit(cov_type="HC3", use_t=True)
        np.testing.assert_allclose(model.coef_, peer.params, rtol=1e-8)
        np.testing.assert_allclose(model.summary().frame["std_error"], peer.bse, rtol=1e-8)

    def test_plot_pickle_and_clone(self):
        model = DPPLeastSquares(LegendreBasis(4), random_state=0).fit_function(lambda X: X[:, 0])
        ax = model.plot()
        assert [line.get_label() for line in ax.get_lines()] == ["fit", "evaluations"]
        again = pickle.loads(pickle.dumps(model))
        np.testing.assert_array_equal(again.predict([[0.1]]), model.predict([[0.1]]))
        assert clone(model).get_params()["delta"] == 0.5

    def test_errors(self):
        basis = LegendreBasis(2)
        with pytest.raises(NotFittedError, match="call fit_function or fit_pool first"):
            DPPLeastSquares(basis).predict([[0.0]])
        with pytest.raises(ValueError, match="basis must be an OrthonormalBasis, got None"):
            DPPLeastSquares(None).fit_function(np.sin)
        with pytest.raises(ValueError, match="a value for each of 6 points, got shape"):
            DPPLeastSquares(basis, random_state=0).fit_function(lambda X: X[:2, 0])
        with pytest.raises(ValueError, match="Input values contains NaN"):
            DPPLeastSquares(basis).fit_function(lambda X: np.full(len(X), np.nan))
        with pytest.raises(ValueError, match="n_samples must be 'auto' or an integer"):
            DPPLeastSquares(basis, "many").fit_function(np.sin)
        with pytest.raises(ValueError, match="full column rank"):
            DPPLeastSquares().fit_pool(np.ones((5, 2)), lambda rows: rows)
        fitted = DPPLeastSquares(None, 4, delta=None, random_state=0).fit_pool(
            np.random.default_rng(0).standard_normal((9, 2)), lambda rows: rows * 1.0
        )
        with pytest.raises(ValueError, match="X must have 2 columns, got 3"):
            fitted.predict(np.ones((1, 3)))
        with pytest.raises(ValueError, match="plot needs a fitted function of one variable"):
            fitted.plot()
