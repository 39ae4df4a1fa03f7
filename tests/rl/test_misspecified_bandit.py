"""Sparse misspecified bandits: nets, designs, elimination, recovery, and the hard instances."""

import itertools
import math

import numpy as np
import pytest
from rankone.rl.misspecified_bandit import (
    DenseDesign,
    MisspecifiedBandit,
    SparseElimination,
    SparseRecovery,
    g_optimal_design,
    near_orthogonal_instance,
    net_size,
    random_instance,
    sparse_net,
    spherical_code,
    spread_instance,
)
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning


def assert_certified(model, bandit):
    assert model.converged_
    assert bandit.suboptimality(model.best_arm_) <= model.guarantee_ + 1e-12


@pytest.mark.parametrize(
    ("arguments", "size"),
    [
        ((8, 1, 0.1), 81),
        ((10, 2, 0.1), 7161),
        ((20, 2, 0.2), 8521),
        ((10, 2, 0.05), 28361),
        ((8, 3, 0.2), 23489),
    ],
)
def test_net_sizes_are_exact(arguments, size):
    assert net_size(*arguments) == size


def test_net_of_one_coordinate_has_its_closed_form():
    for d, radius in ((3, 0.07), (5, 0.3)):
        assert net_size(d, 1, radius) == 1 + 2 * d * math.floor((1 + radius) / (2 * radius))


def test_large_nets_are_counted_with_integers():
    # Beyond int64: sixteen coordinates of fine steps.
    assert net_size(16, 16, 0.03) > 2**63


def test_net_lists_as_many_distinct_points_as_it_counts():
    d, points = 6, []
    for support, values in sparse_net(d, 2, 0.2):
        assert np.all(values != 0)
        for value in values:
            row = np.zeros(d)
            row[list(support)] = value
            points.append(row)
    assert len(points) == net_size(d, 2, 0.2)
    assert len(np.unique(np.round(points, 9), axis=0)) == len(points)
    assert np.linalg.norm(points, axis=1).max() <= 1.2 * (1 + 1e-9)


def test_every_sparse_vector_of_the_ball_is_near_a_net_point():
    rng = np.random.default_rng(0)
    d, s, radius = 5, 2, 0.15
    net = []
    for support, values in sparse_net(d, s, radius):
        rows = np.zeros((len(values), d))
        rows[:, list(support)] = values
        net.append(rows)
    net = np.vstack(net)
    for _ in range(300):
        theta = np.zeros(d)
        support = rng.choice(d, s, replace=False)
        direction = rng.standard_normal(s)
        theta[support] = direction / np.linalg.norm(direction) * rng.random() ** 0.3
        assert np.linalg.norm(net - theta, axis=1).min() <= radius + 1e-12


def test_e8_code_has_120_lines_at_inner_products_of_at_most_one_half():
    code = spherical_code("e8")
    inner = np.abs(code @ code.T)
    assert code.shape == (120, 8)
    assert np.allclose(np.diag(inner), 1, atol=1e-14)
    assert np.isclose((inner - np.eye(120)).max(), 0.5, atol=1e-14, rtol=0)


def test_icosahedron_has_six_equiangular_lines():
    code = spherical_code("icosahedron")
    inner = np.abs(code @ code.T)[~np.eye(6, dtype=bool)]
    assert code.shape == (6, 3)
    assert np.allclose(inner, 1 / math.sqrt(5), atol=1e-14)


def test_design_on_an_orthonormal_basis_is_uniform():
    weights, leverage, rank = g_optimal_design(
        np.linalg.qr(np.random.default_rng(0).normal(size=(7, 7)))[0]
    )
    assert np.allclose(weights, 1 / 7)
    assert (round(leverage, 9), rank) == (7, 7)


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_design_leverage_is_near_the_rank_on_few_arms(rank):
    rng = np.random.default_rng(rank)
    features = rng.normal(size=(200, rank)) @ rng.normal(size=(rank, 6))
    weights, leverage, found = g_optimal_design(features)
    assert found == rank
    assert leverage <= rank * 1.01 + 1e-9
    assert np.isclose(weights.sum(), 1)
    # From a start on few arms, the support stays far from all of them.
    assert np.sum(weights > 1e-3) <= rank * (rank + 1) / 2 + 10
    # Leverages by the pseudo-inverse of the weighted covariance, in the given coordinates.
    covariance = features.T @ (weights[:, None] * features)
    inverse = np.linalg.pinv(covariance, rcond=1e-10)
    assert np.isclose(np.einsum("ni,ij,nj->n", features, inverse, features).max(), leverage)


def test_design_says_when_its_steps_were_not_enough():
    with pytest.warns(ConvergenceWarning, match="max_iter=1"):
        g_optimal_design(np.random.default_rng(0).normal(size=(100, 5)), tol=1e-6, max_iter=1)


@pytest.mark.parametrize("d", [16, 36, 64])
def test_dense_design_loses_epsilon_root_d_where_sparsity_does_not(d):
    bandit = spread_instance(d, 0.1, 1)
    loss = bandit.suboptimality(DenseDesign().fit(bandit).best_arm_) / 0.1
    assert math.isclose(loss, 0.8 * math.sqrt(d) + 1.208, rel_tol=1e-9)
    model = SparseElimination(1, 0.1).fit(bandit)
    assert bandit.suboptimality(model.best_arm_) <= 0.4
    assert model.n_queries_ <= 3


def test_random_features_alone_do_not_show_the_loss():
    bandit = random_instance(300, 10, 2, 0.05, seed=1)
    assert bandit.suboptimality(DenseDesign().fit(bandit).best_arm_) <= 4 * 0.05


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("epsilon", [0.2, 0.1])
def test_elimination_is_certified_with_few_queries(seed, epsilon):
    bandit = random_instance(200, 10, 2, epsilon, seed=seed)
    model = SparseElimination(2, epsilon).fit(bandit)
    assert_certified(model, bandit)
    assert math.isclose(model.guarantee_, 4 * epsilon)
    assert model.n_queries_ <= 30 < model.n_candidates_
    assert model.n_survivors_ >= 1


def test_parameter_near_the_truth_is_never_deleted():
    """Deleting by epsilon alone would delete it; epsilon + radius + xi does not."""
    for seed in range(20):
        bandit = random_instance(60, 4, 2, 0.1, seed=seed)
        model = SparseElimination(2, 0.1).fit(bandit)
        near = min(
            (
                (np.linalg.norm(bandit.theta - _row(4, support, value)), support, tuple(value))
                for support, values in sparse_net(4, 2, 0.1)
                for value in values
            ),
            key=lambda entry: entry[0],
        )
        row = _row(4, near[1], near[2])
        for arm, observed, _, _ in model.history_:
            assert abs(bandit.features[arm] @ row - observed) <= 0.2 + 1e-12


def _row(d, support, value):
    row = np.zeros(d)
    row[list(support)] = value
    return row


def test_candidates_are_eliminated_as_by_enumeration():
    bandit = random_instance(50, 4, 2, 0.15, seed=3)
    model = SparseElimination(2, 0.15).fit(bandit)
    net = [
        _row(4, support, value) for support, values in sparse_net(4, 2, 0.15) for value in values
    ]
    rewards = np.array(net) @ bandit.features.T
    alive = np.ones(len(net), dtype=bool)
    for arm, observed, upper, survivors in model.history_:
        assert math.isclose(rewards[alive].max(), upper, rel_tol=1e-12)
        alive &= np.abs(rewards[:, arm] - observed) <= 0.3
        assert alive.sum() == survivors


def test_exact_model_gives_the_best_arm_up_to_the_radius():
    features = spherical_code("e8")
    bandit = MisspecifiedBandit(features, 0.9 * np.eye(8)[2], np.zeros(120))
    model = SparseElimination(1, 1e-3, net_radius=0.05).fit(bandit)
    assert bandit.suboptimality(model.best_arm_) <= 2 * (1e-3 + 0.05)
    model = SparseElimination(1, 1e-6, method="polytope").fit(bandit)
    assert bandit.suboptimality(model.best_arm_) <= 2e-6


def test_polytope_is_certified_and_deletes_supports():
    for seed in range(3):
        bandit = random_instance(40, 5, 2, 0.1, seed=seed)
        model = SparseElimination(2, 0.1, method="polytope", random_state=seed).fit(bandit)
        assert_certified(model, bandit)
        assert math.isclose(model.guarantee_, 0.2)
        assert model.n_candidates_ == math.comb(5, 2) >= model.n_survivors_ >= 1


def test_polytope_bound_is_the_largest_reward_that_fits():
    """The bound at every query, against brute force over vertices of each support's polytope."""
    bandit = random_instance(12, 3, 2, 0.2, seed=5)
    model = SparseElimination(2, 0.2, method="polytope", random_state=0).fit(bandit)
    seen = []
    for arm, observed, upper, _ in model.history_:
        best = -np.inf
        for support in itertools.combinations(range(3), 2):
            rows = bandit.features[:, support]
            normals = np.vstack([np.eye(2), -np.eye(2), *[[rows[a], -rows[a]] for a, _ in seen]])
            offsets = np.concatenate([np.ones(4), *[[0.2 + y, 0.2 - y] for _, y in seen]])
            for i, j in itertools.combinations(range(len(normals)), 2):
                if abs(np.linalg.det(normals[[i, j]])) > 1e-12:
                    vertex = np.linalg.solve(normals[[i, j]], offsets[[i, j]])
                    if np.all(normals @ vertex <= offsets + 1e-9):
                        best = max(best, (rows @ vertex).max())
        assert math.isclose(best, upper, rel_tol=1e-7)
        seen.append((arm, observed))


def test_best_arm_among_orthogonal_ones_is_always_found_and_hides():
    counts = []
    for best in range(6):
        bandit = near_orthogonal_instance("icosahedron", 0.2, best)
        assert np.isclose(bandit.epsilon, 0.2)
        model = SparseElimination(3, 0.2, method="polytope", random_state=best).fit(bandit)
        assert model.best_arm_ == best
        counts.append(model.n_queries_)
    assert len(set(counts)) > 1


def test_random_code_measures_its_angle():
    bandit = near_orthogonal_instance("random", 0.1, 3, dim=40, n_arms=30, seed=0)
    inner = np.abs(bandit.features @ bandit.features.T) - np.eye(30)
    assert np.isclose(bandit.rewards[3], 0.1 / inner.max())
    assert bandit.epsilon <= 0.1 + 1e-12


def test_wrong_epsilon_is_found_out():
    for seed in range(3):
        bandit = random_instance(400, 20, 2, 0.2, seed=seed)
        with pytest.raises(RuntimeError, match=r"epsilon=0\.02 .*sparsity=2"):
            SparseElimination(2, 0.02).fit(bandit)
    # The two diagonals say that the first coordinate is -0.7, the third arm that it is 0.
    features = np.array([[1, 1], [1, -1], [-np.sqrt(2), 0]]) / np.sqrt(2)
    contradictory = MisspecifiedBandit(features, [0, 0], [-0.5, -0.5, 0])
    with pytest.raises(RuntimeError, match=r"epsilon=0\.01"):
        SparseElimination(2, 0.01, method="polytope").fit(contradictory)
    bandit = random_instance(100, 6, 1, 0.2, seed=0)
    with pytest.raises(RuntimeError, match=r"epsilon=0\.02"):
        SparseRecovery(1, 0.02, n_queries=60, random_state=0).fit(bandit)


def test_noise_keeps_the_guarantee_in_most_seeds():
    kept = 0
    for seed in range(40):
        base = random_instance(100, 8, 2, 0.1, seed=seed)
        bandit = MisspecifiedBandit(
            base.features, base.theta, base.misspecification, noise_std=0.1, random_state=seed
        )
        model = SparseElimination(2, 0.1, noise_std=0.1).fit(bandit)
        assert model.guarantee_ <= 0.6 + 1e-12
        kept += bandit.suboptimality(model.best_arm_) <= model.guarantee_
        assert bandit.n_pulls % model.n_queries_ == 0
        pulls = bandit.n_pulls // model.n_queries_
        assert pulls == math.ceil(2 * math.log(2 * 100 / 0.05))
    assert kept >= 38


def test_recovery_from_random_signs_beats_least_squares():
    losses, least = [], []
    for seed in range(6):
        bandit = random_instance(300, 60, 2, 0.05, features="rademacher", seed=seed)
        model = SparseRecovery(2, 0.05, random_state=seed).fit(bandit)
        assert model.n_queries_ == math.ceil(8 * math.log(60))
        assert np.array_equal(model.predict(bandit.features), bandit.features @ model.theta_)
        losses.append(bandit.suboptimality(model.best_arm_))
        arms = bandit.queried
        theta = np.linalg.lstsq(bandit.features[arms], bandit.rewards[arms], rcond=None)[0]
        least.append(bandit.suboptimality(int(np.argmax(bandit.features @ theta))))
    assert max(losses) <= 4 * 0.05
    assert np.mean(losses) < np.mean(least)


def test_recovery_residuals_stay_within_epsilon_with_the_smallest_norm():
    bandit = random_instance(80, 20, 2, 0.1, features="rademacher", seed=2)
    model = SparseRecovery(2, 0.1, random_state=0).fit(bandit)
    arms = bandit.queried
    residuals = bandit.features[arms] @ model.theta_ - bandit.rewards[arms]
    assert np.abs(residuals).max() <= 0.1 + 1e-9
    assert np.abs(model.theta_).sum() <= np.abs(bandit.theta).sum() + 1e-9


def test_unnormalised_features_widen_the_net():
    base = random_instance(60, 5, 1, 0.1, seed=0)
    bandit = MisspecifiedBandit(3 * base.features, base.theta, base.misspecification)
    with pytest.raises(ValueError, match="norms of at most 1, got 3"):
        SparseElimination(1, 0.1).fit(bandit)
    model = SparseElimination(1, 0.1, normalize=False).fit(bandit)
    assert math.isclose(model.guarantee_, 2 * (0.1 + 0.3))
    assert_certified(model, bandit)


@pytest.mark.parametrize("method", ["net", "polytope"])
def test_too_few_queries_return_the_best_seen_with_a_warning(method):
    bandit = near_orthogonal_instance("icosahedron", 0.2, 5)
    tried = SparseElimination(3, 0.2, method=method, max_queries=1, net_radius=0.3, random_state=1)
    with pytest.warns(ConvergenceWarning, match="max_queries=1"):
        tried.fit(bandit)
    assert not tried.converged_
    assert bandit.queried == [tried.best_arm_]


def test_net_beyond_the_bound_says_its_size():
    bandit = random_instance(20, 20, 2, 0.1, seed=0)
    with pytest.raises(ValueError, match=r"29921 candidates.*max_candidates=1000.*polytope"):
        SparseElimination(2, 0.1, max_candidates=1000).fit(bandit)


def test_bandit_counts_pulls_and_repeats_after_reset():
    bandit = MisspecifiedBandit(np.eye(3), [0.1, 0.2, 0.3], np.zeros(3), 0.5, random_state=7)
    first = [bandit.pull(2, 4), bandit.pull(0)]
    assert (bandit.n_pulls, bandit.queried) == (5, [2, 0])
    bandit.reset()
    assert (bandit.n_pulls, bandit.queried) == (0, [])
    assert [bandit.pull(2, 4), bandit.pull(0)] == first
    mean = np.mean([bandit.pull(1, 100) for _ in range(100)])
    assert abs(mean - 0.2) < 5 * 0.5 / 100


def test_dense_design_standard_errors_match_repeated_fits():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(20, 3))
    fits = []
    for seed in range(400):
        bandit = MisspecifiedBandit(features, [1, 0, 0], np.zeros(20), 0.3, random_state=seed)
        model = DenseDesign(noise_std=0.3, n_pulls=2).fit(bandit)
        fits.append(model.theta_)
    assert np.allclose(np.std(fits, axis=0), model.theta_std_, rtol=0.15)


def test_estimators_are_cloned():
    for model in (SparseElimination(2, 0.1), SparseRecovery(2, 0.1), DenseDesign()):
        assert clone(model).get_params() == model.get_params()


BANDIT = random_instance(30, 4, 1, 0.1, seed=0)
RECOVERY = SparseRecovery(1, 0.1, random_state=0).fit(BANDIT)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: MisspecifiedBandit(np.eye(2), [1], [0, 0]), ValueError, "theta must have shape"),
        (lambda: MisspecifiedBandit(np.eye(2), [1, 2], [0]), ValueError, "misspecification must"),
        (lambda: MisspecifiedBandit(np.ones(2), [1, 2], [0]), ValueError, "features must have"),
        (lambda: MisspecifiedBandit([[np.nan]], [1], [0]), ValueError, "features must be finite"),
        (lambda: MisspecifiedBandit(np.eye(1), [1], [0], noise_std=-1), ValueError, "noise_std"),
        (lambda: BANDIT.pull(30), IndexError, r"arm must be in 0 \.\. 29, got 30"),
        (lambda: BANDIT.pull(-1), IndexError, "arm must"),
        (lambda: BANDIT.suboptimality(99), IndexError, "arm must"),
        (lambda: BANDIT.pull(0, 0), ValueError, "n must be at least 1"),
        (lambda: spread_instance(400, 0.1, 1), ValueError, r"0\.8 epsilon sqrt\(d\)"),
        (lambda: spread_instance(4, 0.1, 5), ValueError, "s must be"),
        (lambda: spherical_code("cube"), ValueError, '"e8" or "icosahedron"'),
        (lambda: near_orthogonal_instance("e8", 0.1, 120), IndexError, "best_arm"),
        (lambda: near_orthogonal_instance("e8", 0.1, 0, dim=3), ValueError, "must be None"),
        (lambda: near_orthogonal_instance("random", 0.1, 0), ValueError, "n_arms of at least 2"),
        (lambda: random_instance(5, 3, 1, 0.1, features="cube"), ValueError, "features must be"),
        (lambda: random_instance(5, 3, 4, 0.1), ValueError, "s <= d"),
        (lambda: random_instance(5, 3, 1, 0.0), ValueError, "epsilon must be positive"),
        (lambda: net_size(4, 0, 0.1), ValueError, "sparsity must be in 1"),
        (lambda: net_size(4, 1, 0.0), ValueError, "radius must be positive"),
        (lambda: g_optimal_design(np.zeros((3, 2))), ValueError, "nonzero row"),
        (lambda: g_optimal_design(np.eye(2), tol=0), ValueError, "tol must"),
        (lambda: SparseElimination(5, 0.1).fit(BANDIT), ValueError, "features = 4, got 5"),
        (lambda: SparseElimination(0, 0.1).fit(BANDIT), ValueError, "sparsity"),
        (lambda: SparseElimination(1, 0.0).fit(BANDIT), ValueError, "epsilon must"),
        (lambda: SparseElimination(1, 0.1, net_radius=0.0).fit(BANDIT), ValueError, "net_radius"),
        (lambda: SparseElimination(1, 0.1, method="arms").fit(BANDIT), ValueError, "polytope"),
        (lambda: SparseElimination(1, 0.1, max_queries=0).fit(BANDIT), ValueError, "max_queries"),
        (lambda: SparseElimination(1, 0.1, delta=1.0).fit(BANDIT), ValueError, "delta must"),
        (lambda: SparseElimination(1, 0.1, noise_std=-1).fit(BANDIT), ValueError, "noise_std must"),
        (lambda: SparseRecovery(5, 0.1).fit(BANDIT), ValueError, "sparsity"),
        (lambda: SparseRecovery(1, 0.1, n_queries=31).fit(BANDIT), ValueError, "n_queries must"),
        (lambda: RECOVERY.predict(np.eye(3)), ValueError, "4 columns"),
        (lambda: DenseDesign(n_pulls=0).fit(BANDIT), ValueError, "n_pulls must"),
    ],
)
def test_bad_input_names_the_argument(call, error, message):
    with pytest.raises(error, match=message):
        call()
