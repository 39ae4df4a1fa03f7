"""Policy optimisation against adversarial losses: regularisers, estimators, bonuses, regret."""

import itertools
import math

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from rankone.rl.adversarial_mdp import (
    AdversarialPolicyOptimizer,
    dilated_bonus,
    empirical_inverse,
    exponential_weights,
    geometric_resampling,
    log_barrier_ftrl,
    loss_estimate,
    loss_sequence,
)
from rankone.rl.envs import LinearMDP
from rankone.rl.planning import occupancy, policy_value
from sklearn.base import clone
from sklearn.exceptions import NotFittedError


@pytest.fixture(scope="module")
def env():
    return LinearMDP.random(4, 3, 3, 3, seed=1)


def random_policy(env, seed=0):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(env.n_actions), (env.horizon, env.n_states))


# The log barrier.


def test_log_barrier_has_its_known_values():
    assert np.allclose(
        log_barrier_ftrl([0, 1, 5], 0.7), [0.46921432, 0.35320434, 0.17758134], atol=5e-9
    )
    D = 1.7
    assert np.isclose(log_barrier_ftrl([0.0, D], 1.0)[0], 0.6837885146, atol=5e-11)
    assert np.isclose(log_barrier_ftrl([0.0, D], 1.0)[0], 2 / (2 - D + math.sqrt(4 + D**2)))


def test_log_barrier_meets_its_optimality_conditions():
    losses = np.random.default_rng(0).normal(size=(50, 6)) * 10.0 ** np.arange(-25, 25)[:, None]
    losses = losses[10:40]
    for eta in (0.01, 3.0):
        p = log_barrier_ftrl(losses, eta)
        assert np.allclose(p.sum(axis=-1), 1, atol=1e-14)
        multiplier = 1 / p - eta * (losses - losses.min(axis=-1, keepdims=True))
        reach = np.abs(1 / p).max(axis=-1, keepdims=True)
        assert np.all(np.ptp(multiplier, axis=-1, keepdims=True) <= 1e-11 * reach)


@pytest.mark.parametrize("choose", [log_barrier_ftrl, exponential_weights])
def test_choices_ignore_constants_and_equal_losses_are_uniform(choose):
    losses = np.array([3.0, -1.0, 0.5, 2.0])
    assert np.allclose(choose(losses, 0.3), choose(losses + 1000, 0.3), atol=1e-12)
    assert np.allclose(choose(np.full(5, 7.0), 2.0), 0.2)


def test_exponential_weights_are_the_softmax():
    losses = np.array([0.0, 1.0, 3.0])
    expected = np.exp(-0.5 * losses) / np.exp(-0.5 * losses).sum()
    assert np.allclose(exponential_weights(losses, 0.5), expected, rtol=1e-14)


@pytest.mark.parametrize("kind", ["heavy", "negative"])
def test_refined_inequality_holds_for_any_losses(kind):
    """Regret <= (Psi(y) - Psi(x_1)) / eta + eta sum x c^2, losses of -1000 and heavy tails too."""
    rng = np.random.default_rng(3)
    worst = 0.0
    for _ in range(150):
        A, T, eta = rng.integers(2, 6), 30, 10.0 ** rng.uniform(-3, 0)
        if kind == "heavy":
            losses = rng.standard_cauchy((T, A))
        else:
            losses = -1000 * rng.random((T, A)) * (rng.random((T, A)) < 0.2)
        before = np.vstack([np.zeros(A), np.cumsum(losses, axis=0)[:-1]])
        x = log_barrier_ftrl(before, eta)
        y = rng.dirichlet(np.ones(A)) * 0.99 + 0.01 / A
        left = np.sum((x - y) * losses)
        right = (np.sum(np.log(1 / y)) - A * math.log(A)) / eta + eta * np.sum(x * losses**2)
        worst = max(worst, left / right)
    assert worst <= 1


# Covariances and estimates.


def test_resampling_of_a_constant_feature_is_the_geometric_series():
    phi, gamma, c, N = np.array([0.6, 0.8]), 0.1, 0.5, 7
    found = geometric_resampling(np.broadcast_to(phi, (3, N, 2)), gamma, c)
    M = np.eye(2) - c * (np.outer(phi, phi) + gamma * np.eye(2))
    series = c * sum(np.linalg.matrix_power(M, n) for n in range(N + 1))
    assert np.allclose(found, series, rtol=1e-13)


def test_resampling_tends_to_the_inverse():
    rng = np.random.default_rng(0)
    features = rng.dirichlet(np.ones(3), (400, 300))
    exact = np.linalg.inv(0.1 * np.eye(3) + (np.eye(3) + 1) / 12)
    found = geometric_resampling(features, 0.1)
    assert np.allclose(found, exact, atol=0.15)
    assert np.array_equal(found, found.T)


def test_empirical_inverse_tends_to_the_inverse():
    features = np.random.default_rng(0).dirichlet(np.ones(3), 200_000)
    exact = np.linalg.inv(0.1 * np.eye(3) + (np.eye(3) + 1) / 12)
    assert np.allclose(empirical_inverse(features, 0.1), exact, rtol=0.01, atol=0.02)


@pytest.mark.parametrize("reduce", [False, True])
def test_estimates_are_unbiased_over_the_exact_trajectories(env, reduce):
    """Averaged over every pair and its probability, with the exact inverse: Q of the policy."""
    rng = np.random.default_rng(5)
    losses = env.losses(rng.random((1, 3, 3)))[0]
    policy = random_policy(env)
    visits = occupancy(env.transitions, policy, 0)
    h = 1
    value = policy_value(env.transitions, losses, policy)
    q = losses[h] + env.transitions[h] @ value[h + 1]
    features = env.features[h]
    sigma = np.einsum("sa,sad,sae->de", visits[h], features, features)
    assert np.linalg.matrix_rank(sigma) == 3
    mean = np.zeros((4, 3))
    # The estimate is linear in the loss to go; its mean after a pair is Q of the pair.
    for s, a in itertools.product(range(4), range(3)):
        mean += visits[h, s, a] * loss_estimate(
            features, np.linalg.inv(sigma), (s, a), q[s, a], 3, visits[h], reduce=reduce
        )
    assert np.allclose(mean, q, atol=1e-8)


def test_correction_from_the_realised_pair_alone_would_be_biased(env):
    """With m of one pair instead of the policy's visits the reduced estimate is the plain one."""
    policy = random_policy(env)
    visits = occupancy(env.transitions, policy, 0)[1]
    features = env.features[1]
    inverse = np.linalg.inv(
        0.01 * np.eye(3) + np.einsum("sa,sad,sae->de", visits, features, features)
    )
    single = np.zeros((4, 3))
    single[2, 1] = 1
    plain = loss_estimate(features, inverse, (2, 1), 1.5, 3)
    same = loss_estimate(features, inverse, (2, 1), 1.5, 3, single, reduce=True)
    reduced = loss_estimate(features, inverse, (2, 1), 1.5, 3, visits, reduce=True)
    assert np.allclose(plain, same)
    assert not np.allclose(plain, reduced, atol=1e-3)


def test_reduced_estimates_are_not_below_their_bound(env):
    rng = np.random.default_rng(0)
    for gamma in (0.3, 0.01, 1e-4):
        for seed in range(10):
            visits = occupancy(env.transitions, random_policy(env, seed), 0)
            for h in range(3):
                features = env.features[h]
                sigma = np.einsum("sa,sad,sae->de", visits[h], features, features)
                estimate = loss_estimate(
                    features,
                    np.linalg.inv(gamma * np.eye(3) + sigma),
                    (int(rng.integers(4)), int(rng.integers(3))),
                    float(rng.uniform(0, 3)),
                    3,
                    visits[h],
                    reduce=True,
                )
                assert estimate.min() >= -3 / math.sqrt(gamma)


def test_dilated_bonus_of_ones_compounds():
    for H in (1, 3, 6):
        policy = np.full((H, 2, 2), 0.5)
        B = dilated_bonus(np.ones((H, 2, 2)), np.full((2, 2, 2), 0.5), policy)
        assert np.allclose(B[0], ((1 + 1 / H) ** H - 1) * H)
        assert np.allclose(B[-1], 1)


# The learner.


@pytest.mark.parametrize("algorithm", ["log_barrier", "magnitude_reduced", "hedge"])
def test_regret_is_exact_and_ends_where_it_should(env, algorithm):
    weights = loss_sequence(60, 3, 3, seed=2)
    model = AdversarialPolicyOptimizer(algorithm, random_state=0).fit(env, weights)
    losses = env.losses(weights)
    assert math.isclose(model.regret_[-1], model.value_.sum() - model.best_value_, rel_tol=1e-10)
    best = [policy_value(env.transitions, loss, model.best_policy_)[0, 0] for loss in losses]
    assert np.allclose(model.regret_, np.cumsum(model.value_ - best))
    uniform = policy_value(env.transitions, losses[0], np.full((3, 4, 3), 1 / 3))[0, 0]
    assert math.isclose(model.value_[0], uniform, rel_tol=1e-12)
    assert np.allclose(model.policy_.sum(axis=-1), 1)


def test_comparator_is_the_best_of_all_fixed_policies():
    env = LinearMDP.random(2, 2, 2, 2, seed=1)
    weights = loss_sequence(16, 2, 2, kind="iid", seed=5)
    model = AdversarialPolicyOptimizer(random_state=0).fit(env, weights)
    total = env.losses(weights).sum(axis=0)
    best = min(
        policy_value(env.transitions, total, np.reshape(actions, (2, 2)))[0, 0]
        for actions in itertools.product(range(2), repeat=4)
    )
    assert math.isclose(model.best_value_, best, rel_tol=1e-12)
    # Not the sum of every episode's own optimum, which no fixed policy reaches.
    each = sum(
        min(
            policy_value(env.transitions, loss, np.reshape(actions, (2, 2)))[0, 0]
            for actions in itertools.product(range(2), repeat=4)
        )
        for loss in env.losses(weights)
    )
    assert each < best


class Recording(AdversarialPolicyOptimizer):
    """Keeps the last trajectory that it learned from."""

    def observe(self, trajectory):
        self.seen = trajectory
        super().observe(trajectory)


def test_only_the_losses_of_visited_pairs_are_used(env):
    """Losses that change everywhere but at the visited pairs change nothing that is learned."""
    weights = np.full((1, 3, 3), 0.5)
    one = Recording(random_state=0).fit(env, weights)
    change = np.random.default_rng(0).normal(size=(3, 3))
    for h, (s, a, _) in enumerate(one.seen):
        phi = env.features[h, s, a]
        change[h] -= phi * (change[h] @ phi) / (phi @ phi)
    other = weights + 0.3 * change / np.abs(change).max()
    two = Recording(random_state=0).fit(env, other)
    assert [step[:2] for step in two.seen] == [step[:2] for step in one.seen]
    assert np.abs(env.losses(other) - env.losses(weights)).max() > 0.05
    assert np.allclose(two.policy_, one.policy_, rtol=1e-10)
    assert not np.allclose(one.policy_, 1 / 3)


@pytest.mark.parametrize(
    "options",
    [
        {"algorithm": "log_barrier"},
        {"algorithm": "magnitude_reduced"},
        {"algorithm": "hedge"},
        {"covariance": "empirical", "n_simulations": 50},
        {"simulator": False},
    ],
)
def test_learning_beats_uniform_play(options):
    env = LinearMDP.random(6, 4, 5, 4, seed=0)
    weights = loss_sequence(1000, 4, 5, seed=7)
    total = env.losses(weights).sum(axis=0)
    uniform = policy_value(env.transitions, total, np.full((4, 6, 4), 1 / 4))[0, 0]
    model = AdversarialPolicyOptimizer(random_state=0, **options).fit(env, weights)
    assert model.regret_[-1] <= 0.9 * (uniform - model.best_value_)


@pytest.mark.parametrize("covariance", ["empirical", "geometric"])
@pytest.mark.parametrize("algorithm", ["log_barrier", "magnitude_reduced"])
def test_simulated_covariances_run(env, covariance, algorithm):
    weights = loss_sequence(10, 3, 3, seed=2)
    model = AdversarialPolicyOptimizer(
        algorithm, covariance=covariance, n_simulations=30, n_repeats=2, random_state=0
    ).fit(env, weights)
    assert np.isfinite(model.regret_).all()


def test_simulator_free_mode_updates_once_an_epoch(env):
    model = AdversarialPolicyOptimizer(simulator=False, epoch_length=4, random_state=0)
    model.start(env, 100)
    rng = np.random.default_rng(0)
    policies = []
    for _ in range(9):
        policies.append(model.policy_.copy())
        model.observe([(int(rng.integers(4)), int(rng.integers(3)), 0.5) for _ in range(3)])
    same = [np.array_equal(a, b) for a, b in itertools.pairwise(policies)]
    assert same == [True, True, True, False] * 2
    assert model.gamma_ == 0.01


def test_automatic_constants_are_the_documented_ones(env):
    H, d, A, K = 3, 3, 3, 100
    free = AdversarialPolicyOptimizer(random_state=0).start(env, K)
    assert math.isclose(free.eta_, 10 * math.sqrt(A * math.log(K) / (6 * d * H**2 * K)))
    assert math.isclose(free.gamma_, min(1, (free.eta_ * H) ** 2 / 16))
    assert math.isclose(free.beta_, 0.02 * free.eta_ * H)
    reduced = AdversarialPolicyOptimizer("magnitude_reduced", eta_scale=1).start(env, K)
    assert math.isclose(reduced.eta_, math.sqrt(math.log(A) / (6 * d * H**2 * K)))
    assert math.isclose(reduced.gamma_, (reduced.eta_ * H) ** 2)
    # What the choice of gamma is for.
    assert reduced.eta_ * H / math.sqrt(reduced.gamma_) <= 1 + 1e-12
    hedge = AdversarialPolicyOptimizer("hedge", eta_scale=1).start(env, K)
    assert math.isclose(hedge.eta_, (math.log(A) / (d * H**1.5 * K)) ** (2 / 3))
    assert math.isclose(hedge.eta_ * H / hedge.gamma_, 1)


def test_online_use_equals_fit(env):
    """act and observe, fed the trajectories that fit draws, give the same policies."""
    model = AdversarialPolicyOptimizer(random_state=0).start(env, 5)
    other = AdversarialPolicyOptimizer(random_state=0).start(env, 5)
    for _ in range(5):
        trajectory, s = [], 0
        env.reset(seed=1)
        for h in range(3):
            action = model.act(h, s)
            trajectory.append((s, action, 0.3 * h))
            s, _, terminated, truncated, _ = env.step(action)
        assert terminated
        assert not truncated
        model.observe(trajectory)
        other.observe(trajectory)
        assert np.array_equal(model.policy_, other.policy_)


def test_results_repeat_with_the_random_state(env):
    weights = loss_sequence(30, 3, 3, seed=2)
    one, two, three = (
        AdversarialPolicyOptimizer(random_state=seed).fit(env, weights).regret_
        for seed in (0, 0, 1)
    )
    assert np.array_equal(one, two)
    assert not np.array_equal(one, three)
    model = AdversarialPolicyOptimizer("hedge", eta=0.1)
    assert clone(model).get_params() == model.get_params()


def test_mean_policy_value_is_the_mean_under_the_mean_losses(env):
    weights = np.broadcast_to(loss_sequence(1, 3, 3, seed=0), (40, 3, 3))
    model = AdversarialPolicyOptimizer(random_state=0).fit(env, weights)
    # With the same losses in every episode, that is the mean of the values.
    assert math.isclose(model.average_policy_value_, model.value_.mean(), rel_tol=1e-12)


@pytest.mark.parametrize("kind", ["switch", "sinusoid", "iid"])
def test_loss_sequences_lie_between_two_draws(kind):
    weights = loss_sequence(160, 2, 3, kind=kind, seed=1)
    assert weights.shape == (160, 2, 3)
    assert weights.min() >= 0
    assert weights.max() <= 1
    if kind == "switch":
        blocks = weights.reshape(16, 10, 2, 3)
        assert np.all(blocks == blocks[:, :1])
        assert np.array_equal(blocks[0], blocks[1])
        assert np.array_equal(blocks[2], blocks[5])
        assert not np.array_equal(blocks[0], blocks[2])


# The environment.


def test_environment_passes_gymnasiums_checks_and_its_losses_are_linear():
    base = LinearMDP.random(4, 3, 3, 5, seed=0)
    weights = np.random.default_rng(0).random((5, 3))
    env = LinearMDP(base.features, base.measures, weights, initial_state=2)
    check_env(env, skip_render_check=True)
    state, info = env.reset(seed=0)
    assert (state, info) == (2, {"step": 0})
    for h in range(5):
        before = state
        state, reward, terminated, truncated, info = env.step(1)
        assert math.isclose(reward, -env.features[h, before, 1] @ weights[h])
        assert (terminated, truncated, info["step"]) == (h == 4, False, h + 1)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(0)
    with pytest.raises(gymnasium.error.InvalidAction, match=r"0 \.\. 2, got 3"):
        env.reset() and env.step(3)


def test_environment_follows_its_transitions():
    env = LinearMDP.random(3, 2, 2, 1, seed=4)
    env.reset(seed=0)
    counts = np.zeros(3)
    for _ in range(4000):
        env.reset()
        counts[env.step(1)[0]] += 1
    assert np.allclose(counts / 4000, env.transitions[0, 0, 1], atol=0.04)


ENV = LinearMDP.random(4, 3, 3, 3, seed=1)
W = loss_sequence(4, 3, 3, seed=0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: log_barrier_ftrl([np.nan], 1.0), ValueError, "cum_loss must be finite"),
        (lambda: log_barrier_ftrl([1.0], 0.0), ValueError, "eta must be positive"),
        (lambda: exponential_weights(3.0, 1.0), ValueError, "cum_loss must have shape"),
        (
            lambda: geometric_resampling(np.ones((2, 2)), 0.1),
            ValueError,
            "features must have shape",
        ),
        (lambda: empirical_inverse(np.ones((2, 2)), 0.0), ValueError, "gamma must"),
        (
            lambda: loss_estimate(np.ones((1, 1, 1)), np.eye(1), (0, 0), 1.0, 2, reduce=True),
            ValueError,
            "occupancy must be given",
        ),
        (
            lambda: loss_estimate(np.ones((1, 1, 1)), np.eye(2), (0, 0), 1.0, 2),
            ValueError,
            "inverse must",
        ),
        (
            lambda: loss_estimate(np.ones((1, 1, 1)), np.eye(1), (1, 0), 1.0, 2),
            ValueError,
            "visited must",
        ),
        (
            lambda: dilated_bonus(np.ones((2, 1, 1)), np.ones((1, 1, 1)), np.ones((1, 1, 1))),
            ValueError,
            "policy must",
        ),
        (
            lambda: dilated_bonus(np.ones((2, 1, 1)), np.ones((2, 1)), np.ones((2, 1, 1))),
            ValueError,
            "transitions must",
        ),
        (lambda: loss_sequence(4, 3, 3, kind="saw"), ValueError, "kind must"),
        (lambda: loss_sequence(0, 3, 3), ValueError, "n_episodes must be at least 1"),
        (lambda: AdversarialPolicyOptimizer().fit(ENV, 2 * W), ValueError, r"losses in \[0, 1\]"),
        (
            lambda: AdversarialPolicyOptimizer().fit(ENV, W[:, :2]),
            ValueError,
            r"weights must have shape \(K, 3, 3\)",
        ),
        (
            lambda: AdversarialPolicyOptimizer().fit(None, W),
            TypeError,
            "env must be a LinearMDP, got NoneType",
        ),
        (lambda: AdversarialPolicyOptimizer("ftrl").fit(ENV, W), ValueError, "algorithm must"),
        (
            lambda: AdversarialPolicyOptimizer(covariance="none").fit(ENV, W),
            ValueError,
            "covariance must",
        ),
        (
            lambda: AdversarialPolicyOptimizer("hedge", simulator=False).fit(ENV, W),
            ValueError,
            "log_barrier",
        ),
        (lambda: AdversarialPolicyOptimizer(eta=0.0).fit(ENV, W), ValueError, "eta must"),
        (lambda: AdversarialPolicyOptimizer(gamma=-1.0).fit(ENV, W), ValueError, "gamma must"),
        (lambda: AdversarialPolicyOptimizer(beta="large").fit(ENV, W), ValueError, "beta must"),
        (
            lambda: AdversarialPolicyOptimizer(epoch_length=1).fit(ENV, W),
            ValueError,
            "epoch_length",
        ),
        (lambda: AdversarialPolicyOptimizer().act(0, 0), NotFittedError, "not fitted"),
        (
            lambda: AdversarialPolicyOptimizer().start(ENV, 4).act(3, 0),
            ValueError,
            r"h must be in 0 \.\. 2",
        ),
        (
            lambda: AdversarialPolicyOptimizer().start(ENV, 4).observe([]),
            ValueError,
            "3 steps, got 0",
        ),
        (
            lambda: AdversarialPolicyOptimizer().start(ENV, 4).observe([(0, 0, 2.0)] * 3),
            ValueError,
            "losses of trajectory",
        ),
        (
            lambda: AdversarialPolicyOptimizer().start(ENV, 4).observe([(9, 0, 0.0)] * 3),
            ValueError,
            "states of trajectory",
        ),
        (
            lambda: LinearMDP(ENV.features * 2, ENV.measures / 2),
            ValueError,
            "features must have norms of at most 1",
        ),
        (
            lambda: LinearMDP(ENV.features, ENV.measures * 0.5),
            ValueError,
            "every row of transitions",
        ),
        (lambda: LinearMDP(ENV.features, ENV.measures[:2]), ValueError, "measures must have shape"),
        (
            lambda: LinearMDP(ENV.features, ENV.measures, initial_state=4),
            ValueError,
            "initial_state",
        ),
        (lambda: LinearMDP.random(0, 1, 1, 1), ValueError, "n_states must"),
        (lambda: LinearMDP.random(1, 1, 1, 1, concentration=0), ValueError, "concentration"),
    ],
)
def test_bad_input_names_the_argument(call, error, message):
    with pytest.raises(error, match=message):
        call()
