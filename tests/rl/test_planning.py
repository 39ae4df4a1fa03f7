"""Exact dynamic programming, against enumeration and simulation."""

import itertools

import numpy as np
import pytest
from rankone.rl.planning import backward_induction, occupancy, policy_value


@pytest.fixture
def process():
    rng = np.random.default_rng(0)
    return rng.dirichlet(np.ones(3), (3, 3, 2)), rng.random((3, 3, 2))


def by_recursion(P, reward, policy, h, s):
    if h == len(reward):
        return 0.0
    action = policy[h][s]
    ahead = sum(P[h, s, action, t] * by_recursion(P, reward, policy, h + 1, t) for t in range(3))
    return reward[h, s, action] + ahead


def test_optimal_value_is_the_best_of_all_policies(process):
    P, reward = process
    policy, value = backward_induction(P, reward)
    best = max(
        policy_value(P, reward, np.reshape(actions, (3, 3)))[0, 0]
        for actions in itertools.product(range(2), repeat=9)
    )
    assert value.shape == (4, 3)
    assert np.isclose(value[0, 0], best, rtol=1e-13)
    assert np.allclose(policy_value(P, reward, policy), value, rtol=1e-13)


def test_policy_value_follows_the_recursion(process):
    P, reward = process
    policy = np.array([[0, 1, 1], [1, 0, 0], [1, 1, 0]])
    value = policy_value(P, reward, policy)
    assert np.isclose(value[0, 2], by_recursion(P, reward, policy, 0, 2), rtol=1e-13)


def test_stochastic_policy_mixes_deterministic_ones_at_one_step(process):
    P, reward = process
    first, second = np.zeros((3, 3), dtype=int), np.zeros((3, 3), dtype=int)
    second[0] = 1
    mixed = 0.3 * np.eye(2)[first] + 0.7 * np.eye(2)[second]
    expected = 0.3 * policy_value(P, reward, first) + 0.7 * policy_value(P, reward, second)
    assert np.allclose(policy_value(P, reward, mixed)[0], expected[0], rtol=1e-13)


def test_occupancy_prices_rewards_as_values_do(process):
    P, reward = process
    policy = np.random.default_rng(1).dirichlet(np.ones(2), (3, 3))
    visits = occupancy(P, policy, [0.2, 0.3, 0.5])
    assert np.allclose(visits.sum(axis=(1, 2)), 1)
    assert np.isclose(np.sum(visits * reward), [0.2, 0.3, 0.5] @ policy_value(P, reward, policy)[0])


def test_transitions_of_every_step_may_be_one_table(process):
    P, reward = process
    each = np.broadcast_to(P[0], P.shape)
    for one, other in zip(
        backward_induction(P[0], reward), backward_induction(each, reward), strict=True
    ):
        assert np.array_equal(one, other)
    policy = np.ones((3, 3), dtype=int)
    assert np.array_equal(occupancy(P[0], policy, 1), occupancy(each, policy, 1))


def test_equal_actions_give_the_lowest():
    policy, _ = backward_induction(np.ones((1, 3, 1)), [[[1.0, 2.0, 2.0]]])
    assert policy.tolist() == [[1]]


P, R = np.full((2, 2, 2), 0.5), np.zeros((3, 2, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: backward_induction(P, np.zeros((2, 2))), r"reward must have shape \(H, S, A\)"),
        (lambda: backward_induction(P, np.full((1, 2, 2), np.nan)), "reward must be finite"),
        (lambda: backward_induction(P[:1], R), "transitions must have shape"),
        (lambda: backward_induction(P * 0.9, R), "every row of transitions must sum to 1"),
        (lambda: backward_induction(P + np.array([-1, 1]), R), "transitions must not be negative"),
        (lambda: policy_value(P, R, np.full((3, 2), 2)), r"actions in 0 \.\. 1"),
        (lambda: policy_value(P, R, np.zeros((3, 2))), "policy must have integers of shape"),
        (lambda: policy_value(P, R, np.full((3, 2, 2), 0.4)), "every row of policy"),
        (lambda: occupancy(P, np.zeros((3, 2), int), 2), r"initial must be in 0 \.\. 1"),
        (lambda: occupancy(P, np.zeros((3, 2), int), [0.5, 0.6]), "every row of initial"),
        (lambda: occupancy(P[0], np.zeros((3, 2), int), 0), "transitions must have shape"),
    ],
)
def test_bad_input_names_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()
