"""Horizon-free reward-free exploration: moments, radius, values, coverage and environments."""

import itertools
import math

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from rankone.rl import _exploration_oracle as oracle
from rankone.rl.envs import LinearMDP, LinearMixtureMDP
from rankone.rl.planning import backward_induction, policy_value
from rankone.rl.reward_free import (
    HoeffdingRewardFree,
    HorizonFreeExplorer,
    MomentRegression,
    confidence_radius,
    home_variance,
)
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge


@pytest.fixture(scope="module")
def lock():
    return LinearMixtureMDP.combination_lock(depth=3, horizon=8, seed=1)


@pytest.fixture(scope="module")
def explorer(lock):
    return HorizonFreeExplorer(30, random_state=0).fit(lock)


def admissible(env, seed):
    rng = np.random.default_rng(seed)
    reward = rng.random((env.horizon, env.n_states, env.n_actions))
    return reward / reward.max(axis=(1, 2)).sum()


# Regressions.


def test_equal_weights_are_ridge_regression():
    rng = np.random.default_rng(0)
    features, targets, c = rng.normal(size=(40, 3)), rng.normal(size=40), 0.37
    regression = MomentRegression(2, 3, ridge=1.7)
    for f, y in zip(features, targets, strict=True):
        regression.update(np.array([f, 2 * f]), np.array([y, -y]), np.full(2, c))
    regression.end_episode()
    expected = Ridge(alpha=1.7 * c, fit_intercept=False).fit(features, targets).coef_
    assert np.allclose(regression.theta[0], expected, atol=1e-10)


def test_weights_are_inverse_variances():
    rng = np.random.default_rng(1)
    features, targets, sigma2 = (
        rng.normal(size=(30, 3)),
        rng.normal(size=30),
        rng.uniform(0.1, 2, 30),
    )
    regression = MomentRegression(1, 3, ridge=0.8)
    for f, y, s in zip(features, targets, sigma2, strict=True):
        regression.update(f[None], [y], [s])
    regression.end_episode()
    model = Ridge(alpha=0.8, fit_intercept=False).fit(features, targets, sample_weight=1 / sigma2)
    assert np.allclose(regression.theta[0], model.coef_, atol=1e-10)


def test_estimates_and_start_covariance_rest_within_an_episode():
    regression = MomentRegression(2, 2, ridge=1.0)
    rng = np.random.default_rng(2)
    for _ in range(5):
        regression.update(rng.normal(size=(2, 2)), rng.random(2), rng.uniform(0.5, 1, 2))
    assert np.array_equal(regression.theta, np.zeros((2, 2)))
    assert np.array_equal(regression.cov_start, np.broadcast_to(np.eye(2), (2, 2, 2)))
    # The running inverse follows by rank-one updates.
    assert np.allclose(regression.inverse, np.linalg.inv(regression.cov), rtol=1e-12)
    regression.end_episode()
    assert np.array_equal(regression.cov_start, regression.cov)
    assert not np.array_equal(regression.theta, np.zeros((2, 2)))


def random_moments(seed, M=5, d=3):
    rng = np.random.default_rng(seed)
    cov_start = np.stack([np.eye(d) * rng.uniform(1, 3) for _ in range(M)])
    extra = rng.normal(size=(M, d))
    cov = cov_start + extra[:, :, None] * extra[:, None, :]
    return rng.random((M, d)), rng.normal(size=(M, d)), cov, cov_start


def test_variances_follow_their_definition():
    features, theta, cov, cov_start = random_moments(0)
    beta, alpha, gamma = 0.4, 0.2, 0.7
    sigma2, variance, error = home_variance(features, theta, cov, cov_start, beta, alpha, gamma)

    def norm(f, S):
        return math.sqrt(f @ np.linalg.inv(S) @ f)

    def clip(x):
        return min(max(x, 0.0), 1.0)

    for m in range(4):
        var = clip(features[m + 1] @ theta[m + 1]) - clip(features[m] @ theta[m]) ** 2
        away = clip(2 * beta * norm(features[m], cov_start[m]))
        away += clip(beta * norm(features[m + 1], cov_start[m + 1]))
        floor = gamma**2 * norm(features[m], cov[m])
        assert math.isclose(variance[m], var, rel_tol=1e-12, abs_tol=1e-14)
        assert math.isclose(error[m], away, rel_tol=1e-12)
        assert math.isclose(sigma2[m], max(floor, var + away, alpha**2), rel_tol=1e-12)
    assert math.isclose(sigma2[4], max(gamma**2 * norm(features[4], cov[4]), 1.0), rel_tol=1e-12)


def test_every_level_reads_its_own_estimate():
    """Reusing level 0's estimate for the second moment would not see this change."""
    features, theta, cov, cov_start = random_moments(1)
    before = home_variance(features, 0.1 * theta, cov, cov_start, 0.1, 0.1, 0.1)[1]
    changed = 0.1 * theta
    changed[1] += 0.3 * np.sign(features[1])
    after = home_variance(features, changed, cov, cov_start, 0.1, 0.1, 0.1)[1]
    assert after[0] > before[0]
    assert np.array_equal(after[2:], before[2:])


def test_variances_keep_their_floors():
    for seed in range(50):
        features, theta, cov, cov_start = random_moments(seed)
        features *= 10.0 ** np.random.default_rng(seed).integers(-200, 2)
        sigma2, _, error = home_variance(features, theta, cov, cov_start, 0.3, 0.25, 0.7)
        assert np.all(sigma2 >= 0.25**2)
        assert sigma2[-1] >= 1
        assert np.all((error >= 0) & (error <= 2))


def test_radius_has_its_known_value():
    assert math.isclose(
        confidence_radius(200, 16, 4, 16**-0.5, 4**-0.25, 4.0, 1.0, 0.1), 1671.17, abs_tol=5e-3
    )


# The oracle.


def test_known_model_has_the_pseudo_value_of_its_policy(lock, explorer):
    rng = np.random.default_rng(0)
    policy, reward = rng.integers(3, size=(8, 7)), admissible(lock, 3)
    pseudo, uncertain, bonus = explorer.pseudo_value(lock.theta, policy, reward)
    assert np.allclose(pseudo, policy_value(lock.transitions, reward, policy), rtol=1e-12)
    assert uncertain.max() <= 1
    assert bonus.shape == (8, 7, 3)


def test_uncertainty_follows_its_recursion(lock, explorer):
    """Against a plain loop over states, with the caps inside the recursion."""
    rng = np.random.default_rng(5)
    policy, reward = rng.integers(3, size=(8, 7)), admissible(lock, 4)
    theta = rng.dirichlet(np.ones(3))
    pseudo, uncertain, bonus = explorer.pseudo_value(theta, policy, reward)
    P = lock.features @ theta
    tilde, hat = (np.linalg.inv(c[0]) for c in (explorer.cov_tilde_, explorer.cov_hat_))
    V, U = np.zeros(7), np.zeros(7)
    for h in reversed(range(8)):
        next_V, next_U = np.zeros(7), np.zeros(7)
        for s in range(7):
            a = policy[h, s]
            f, g = V @ lock.features[s, a], U @ lock.features[s, a]
            u = min(1, 0.3 * math.sqrt(f @ tilde @ f))
            assert math.isclose(bonus[h, s, a], u, rel_tol=1e-9, abs_tol=1e-12)
            next_U[s] = min(1, u + 0.6 * math.sqrt(g @ hat @ g) + P[s, a] @ U)
            next_V[s] = reward[h, s, a] + P[s, a] @ V
        V, U = next_V, next_U
        assert np.allclose(uncertain[h], U, rtol=1e-9)
        assert np.allclose(pseudo[h], V, rtol=1e-9)


@pytest.mark.parametrize("beta", [1e-12, 1e12])
def test_uncertainty_vanishes_and_saturates_with_the_radius(lock, beta):
    explorer = HorizonFreeExplorer(2, beta=beta, random_state=0).fit(lock)
    reward = np.zeros((8, 7, 3))
    reward[-1] = 1 / 2
    _, uncertain, bonus = explorer.pseudo_value(lock.theta, np.zeros((8, 7), int), reward)
    if beta < 1:
        assert np.abs(uncertain).max() < 1e-9
        assert np.abs(bonus).max() < 1e-9
    else:
        # The pseudo-value is zero only after the last step.
        assert np.all(uncertain[:7] == 1)


def test_largest_norms_are_those_of_all_sets():
    rng = np.random.default_rng(0)
    weighted = rng.normal(size=(30, 6, 3))
    found, sets = oracle.largest_norms(weighted, rng)
    every = np.array(list(itertools.product([0.0, 1.0], repeat=6)))
    exact = np.linalg.norm(np.einsum("fs,psd->pfd", every, weighted), axis=2).max(axis=1)
    assert np.allclose(found, np.linalg.norm(np.einsum("ps,psd->pd", sets, weighted), axis=1))
    assert np.all(found <= exact + 1e-12)
    assert np.mean(found >= exact - 1e-12) >= 0.8


def test_search_is_close_to_the_best_of_all_policies_and_rewards():
    """On a process small enough to try every policy and every reward of one step."""
    env = LinearMixtureMDP.random_mixture(2, 2, 2, horizon=2, seed=3)
    metric = oracle.Metric.of(env.features, np.eye(2) / 9, np.eye(2) / 30, 0.5)
    rng = np.random.default_rng(0)
    found = oracle.Oracle(metric, env.transitions, 2, 0, rng).search(2, 6)
    best = 0.0
    for policy in itertools.product(range(2), repeat=4):
        for h, pairs in itertools.product(range(2), itertools.product((0.0, 1.0), repeat=4)):
            reward = np.zeros((2, 2, 2))
            reward[h] = np.reshape(pairs, (2, 2))
            value = oracle.values(metric, env.transitions, np.reshape(policy, (2, 2)), reward)[1]
            best = max(best, value[0, 0])
    assert found.uncertainty >= 0.9 * best
    assert found.reward.max(axis=(1, 2)).sum() <= 1 + 1e-12
    assert found.reward.min() >= 0


def test_projection_is_the_nearest_valid_model():
    rng = np.random.default_rng(1)
    lock = LinearMixtureMDP.combination_lock(3, seed=0)
    metric = np.diag([1.0, 4.0, 2.0])
    theta = np.array([0.9, 0.5, -0.3])
    found = oracle.project_model(theta, metric, lock.features)
    assert math.isclose(found.sum(), 1, rel_tol=1e-12)
    assert found.min() >= 0
    for other in rng.dirichlet(np.ones(3), 2000):
        assert (found - theta) @ metric @ (found - theta) <= (other - theta) @ metric @ (
            other - theta
        ) + 1e-7
    # Kernels that are no distributions by themselves.
    hard = LinearMixtureMDP.hard_instance(3, 100, 4, seed=0)
    found = oracle.project_model(hard.theta + np.array([0.0, 9.0, 0.3]), np.eye(3), hard.features)
    transitions = hard.features @ found
    assert np.allclose(transitions.sum(axis=-1), 1, atol=1e-9)
    assert transitions.min() >= -1e-9


# Exploration.


def test_uncertainty_stays_below_its_bound_and_falls():
    env = LinearMixtureMDP.combination_lock(4, n_actions=4, horizon=14, slip=0.05, seed=0)
    history = HorizonFreeExplorer(60, random_state=0).fit(env).history_
    assert history["uncertainty"][0] == 1
    assert np.all(history["uncertainty"] <= history["upper_bound"] + 1e-9)
    assert history["uncertainty"][-1] <= 0.25
    # Below one half the search would be stuck.
    assert np.median(history["uncertainty"] / history["upper_bound"]) >= 0.6


def test_every_depth_of_the_lock_is_probed():
    env = LinearMixtureMDP.combination_lock(4, horizon=12, seed=0)
    probes = HorizonFreeExplorer(60, random_state=0).fit(env).visits_[:4, -1]
    random = HorizonFreeExplorer(60, exploration="uniform", random_state=0).fit(env).visits_
    assert probes.min() >= 0.12 * 60
    assert random[:4, -1].min() <= 0.06 * 60


def test_planning_is_near_optimal_for_rewards_unknown_before(lock):
    explorer = HorizonFreeExplorer(80, random_state=0).fit(lock)
    for seed in range(5):
        reward = np.zeros((8, 7, 3))
        reward[-1, 3:6] = np.random.default_rng(seed).random(3)[:, None]
        policy, _ = explorer.plan(reward)
        best = backward_induction(lock.transitions, reward)[1][0, 0]
        assert best - policy_value(lock.transitions, reward, policy)[0, 0] <= 0.1


def test_rewards_of_the_environment_are_never_read(lock):
    paid = LinearMixtureMDP(
        lock.features, lock.theta, 8, np.random.default_rng(0).random((8, 7, 3))
    )
    one, two = (HorizonFreeExplorer(10, random_state=0).fit(env).theta_ for env in (lock, paid))
    assert np.array_equal(one, two)


def test_theory_set_holds_the_truth_at_every_level_and_episode(lock):
    ratios = []

    def watch(explorer, k):
        for theta, cov in (
            (explorer.theta_tilde_, explorer.cov_tilde_),
            (explorer.theta_hat_, explorer.cov_hat_),
        ):
            away = lock.theta - theta
            far = np.sqrt(np.einsum("md,mde,me->m", away, cov, away)).max()
            ratios.append(far / explorer.theory_radius_)

    explorer = HorizonFreeExplorer(20, random_state=0).fit(lock, callback=watch)
    assert len(ratios) == 40
    assert max(ratios) < 0.1
    theory = HorizonFreeExplorer(3, beta="theory", random_state=0).fit(lock)
    assert theory.contains(lock.theta)
    assert theory.radius_ == theory.theory_radius_ > 100
    assert not explorer.contains(lock.theta + 1000)
    # The practical radius has no such guarantee.
    assert explorer.radius_ < theory.radius_ / 100
    assert not explorer.contains(lock.theta)


def test_attributes_have_their_shapes(lock, explorer):
    M = math.ceil(math.log2(7 * 30 * 8))
    assert explorer.theta_tilde_.shape == explorer.theta_hat_.shape == (M, 3)
    assert explorer.cov_tilde_.shape == explorer.cov_hat_.shape == (M, 3, 3)
    assert explorer.visits_.sum() == 30 * 8
    assert np.allclose(explorer.transitions_.sum(axis=-1), 1)
    assert 1 <= explorer.n_replans_ < 30
    assert {len(entries) for entries in explorer.history_.values()} == {30}
    assert np.all(explorer.history_["max_variance"] >= 1 / 8 - 1e-12)


def test_literal_algorithm_replans_every_episode(lock):
    assert HorizonFreeExplorer(6, replan="every", random_state=0).fit(lock).n_replans_ == 6


@pytest.mark.parametrize("kind", [HorizonFreeExplorer, HoeffdingRewardFree])
def test_results_repeat_with_the_random_state(lock, kind):
    one, two = (kind(8, random_state=3).fit(lock).theta_ for _ in range(2))
    assert np.array_equal(one, two)
    model = kind(8, beta=0.2)
    assert clone(model).get_params() == model.get_params()


def test_baseline_learns_the_model(lock):
    model = HoeffdingRewardFree(60, random_state=0).fit(lock)
    assert np.linalg.norm(model.theta_ - lock.theta) <= 0.35
    assert model.visits_.sum() == 60 * 8
    assert model.plan(admissible(lock, 0))[0].shape == (8, 7)


# Environments.


@pytest.mark.parametrize(
    "env",
    [
        LinearMixtureMDP.random_mixture(4, 3, 2, 5, seed=0),
        LinearMixtureMDP.combination_lock(3, seed=0),
        LinearMixtureMDP.hard_instance(4, 50, 6, seed=0),
    ],
    ids=["random", "lock", "hard"],
)
def test_environments_pass_gymnasiums_checks(env):
    check_env(env, skip_render_check=True)
    assert np.allclose(env.transitions, env.features @ env.theta)


def test_lock_has_its_transitions():
    env = LinearMixtureMDP.combination_lock(3, n_actions=4, slip=0.2, seed=5)
    P = env.transitions
    for i in range(3):
        probe = P[i, -1]
        assert math.isclose(probe[3 + i], env.theta[i], rel_tol=1e-12)
        assert math.isclose(probe[6], 1 - env.theta[i], rel_tol=1e-12)
        onward = min(i + 1, 2)
        keys = [a for a in range(3) if P[i, a, onward] > 0.5 and onward]
        assert len(keys) == 1
        assert math.isclose(P[i, keys[0], 0], 0.2, rel_tol=1e-12)
        assert all(P[i, a, 0] == 1 for a in range(3) if a not in keys)
    assert all(P[s, a, s] == 1 for s in range(3, 7) for a in range(4))
    # Only the probe's row depends on theta.
    assert np.all(env.features[:, :-1] == env.features[:, :-1, :, :1])


def test_hard_instance_has_its_value():
    env = LinearMixtureMDP.hard_instance(5, 100, 10, seed=0)
    reward = np.zeros((10, 3, 16))
    reward[:, 2] = 1 / 10
    value = backward_induction(env.transitions, reward)[1][0, 0]
    assert math.isclose(value, 0.1759807621, abs_tol=5e-11)
    margin = math.sqrt(1 / 600) / (4 * math.sqrt(2))
    assert math.isclose(value, 0.9 * (1 / 6 + 4 * margin), rel_tol=1e-12)
    # Features of bounded values are of norm at most 1.
    every = np.array(list(itertools.product((0.0, 1.0), repeat=3)))
    assert (
        np.linalg.norm(np.einsum("fs,aksd->afkd", every, env.features), axis=-1).max() <= 1 + 1e-12
    )


LOCK = LinearMixtureMDP.combination_lock(2, horizon=4, seed=0)
FITTED = HorizonFreeExplorer(2, random_state=0).fit(LOCK)
MOMENTS = random_moments(0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: HorizonFreeExplorer(0).fit(LOCK), ValueError, "n_episodes must"),
        (lambda: HorizonFreeExplorer(beta=0.0).fit(LOCK), ValueError, "beta must be positive"),
        (lambda: HorizonFreeExplorer(beta="small").fit(LOCK), ValueError, "theory"),
        (
            lambda: HorizonFreeExplorer(exploration="random").fit(LOCK),
            ValueError,
            "exploration must",
        ),
        (lambda: HorizonFreeExplorer(replan="never").fit(LOCK), ValueError, "replan must"),
        (lambda: HorizonFreeExplorer(theta_set="ball").fit(LOCK), ValueError, "theta_set must"),
        (lambda: HorizonFreeExplorer(alpha=2.0, gamma=0.1).fit(LOCK), ValueError, "gamma"),
        (lambda: HorizonFreeExplorer(delta=0.0).fit(LOCK), ValueError, "delta must"),
        (lambda: HorizonFreeExplorer(n_restarts=0).fit(LOCK), ValueError, "n_restarts"),
        (
            lambda: HorizonFreeExplorer().fit(LinearMDP.random(2, 2, 2, 2)),
            ValueError,
            "got LinearMDP",
        ),
        (lambda: HoeffdingRewardFree(0).fit(LOCK), ValueError, "n_episodes must"),
        (lambda: HoeffdingRewardFree(2, beta=-1.0).fit(LOCK), ValueError, "beta must"),
        (lambda: HoeffdingRewardFree(2, ridge=0.0).fit(LOCK), ValueError, "ridge must"),
        (lambda: HoeffdingRewardFree(2).fit(None), ValueError, "got NoneType"),
        (lambda: HorizonFreeExplorer().plan(np.zeros((4, 5, 3))), NotFittedError, "not fitted"),
        (lambda: FITTED.plan(np.zeros((4, 5, 2))), ValueError, "reward must have shape"),
        (lambda: FITTED.plan(np.full((4, 5, 3), 0.3)), ValueError, "at most 1 over the steps"),
        (lambda: FITTED.plan(np.full((4, 5, 3), -0.1)), ValueError, "reward must be at least 0"),
        (lambda: FITTED.contains(np.zeros(3)), ValueError, "theta must have shape"),
        (
            lambda: FITTED.pseudo_value([0.5, 0.5], np.full((4, 5), 9), np.zeros((4, 5, 3))),
            ValueError,
            "policy must hold",
        ),
        (
            lambda: FITTED.pseudo_value([0.5, 0.5], np.zeros((4, 5)), np.zeros((4, 5, 3))),
            ValueError,
            "policy must have",
        ),
        (lambda: confidence_radius(0, 4, 2, 0.5, 0.8, 1.0, 1.0, 0.1), ValueError, "k must"),
        (lambda: confidence_radius(1, 4, 2, 0.5, 0.8, -1.0, 1.0, 0.1), ValueError, "ridge must"),
        (
            lambda: home_variance(*MOMENTS[:2], MOMENTS[2][:2], MOMENTS[3], 1, 1, 1),
            ValueError,
            "cov must",
        ),
        (
            lambda: home_variance(MOMENTS[0], MOMENTS[1][:2], *MOMENTS[2:], 1, 1, 1),
            ValueError,
            "features and theta",
        ),
        (lambda: MomentRegression(1, 1, 0.0), ValueError, "ridge must"),
        (
            lambda: MomentRegression(1, 1, 1.0).update([[1.0]], [1.0], [0.0]),
            ValueError,
            "sigma2 must be positive",
        ),
        (
            lambda: MomentRegression(1, 1, 1.0).update([[1.0]], [1.0, 2.0], [1.0]),
            ValueError,
            "targets must",
        ),
        (lambda: LinearMixtureMDP(LOCK.features, LOCK.theta * 0.9, 4), ValueError, "sum to 1"),
        (
            lambda: LinearMixtureMDP(LOCK.features, [1.5, -0.5], 4),
            ValueError,
            "must not be negative",
        ),
        (lambda: LinearMixtureMDP(LOCK.features, [1.0], 4), ValueError, r"theta \(d,\)"),
        (lambda: LinearMixtureMDP(LOCK.features, LOCK.theta, 0), ValueError, "horizon must"),
        (
            lambda: LinearMixtureMDP(LOCK.features, LOCK.theta, 4, np.zeros((3, 5, 3))),
            ValueError,
            "reward must",
        ),
        (lambda: LinearMixtureMDP.combination_lock(2, n_actions=1), ValueError, "n_actions"),
        (lambda: LinearMixtureMDP.combination_lock(2, slip=1.5), ValueError, "slip"),
        (lambda: LinearMixtureMDP.hard_instance(1, 10, 4), ValueError, "n_features"),
        (
            lambda: LinearMixtureMDP.random_mixture(2, 2, 2, 2, concentration=0),
            ValueError,
            "concentration",
        ),
    ],
)
def test_bad_input_names_the_argument(call, error, message):
    with pytest.raises(error, match=message):
        call()
