"""Exact dynamic programming for finite-horizon Markov decision processes with known transitions.

Steps count from 0 to H - 1. Transitions are ``(S, A, S)``, the same at every step, or
``(H, S, A, S)``; rewards are ``(H, S, A)``; a policy is ``(H, S)`` of actions or ``(H, S, A)`` of
probabilities. Values are returned for H + 1 steps, the last of them zero.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from rankone._namespace import public_names

__all__ = ["backward_induction", "occupancy", "policy_value"]

# Rounding allowed in rows of probabilities.
PROBABILITY_ROUNDING = 1e-8


def backward_induction(transitions: ArrayLike, reward: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """An optimal policy and its values; of equal actions, the lowest.

    Args:
        transitions: (S, A, S) or (H, S, A, S).
        reward: (H, S, A), to be maximised.

    Returns:
        Policy (H, S) of actions, and values (H + 1, S).

    Raises:
        ValueError: for shapes that do not fit, numbers that are not finite, or rows that are no
            probabilities.

    Example:
        >>> import numpy as np
        >>> from rankone.rl.planning import backward_induction
        >>> policy, value = backward_induction(np.ones((1, 2, 1)), [[[0.0, 1.0]], [[2.0, 1.0]]])
        >>> policy.tolist(), value[:, 0].tolist()
        ([[1], [0]], [3.0, 2.0, 0.0])
    """
    reward = _reward(reward)
    P = _transitions(transitions, reward.shape)
    horizon, n_states, _ = reward.shape
    policy = np.zeros((horizon, n_states), dtype=np.int64)
    value = np.zeros((horizon + 1, n_states))
    for h in reversed(range(horizon)):
        q = reward[h] + P[h] @ value[h + 1]
        policy[h] = np.argmax(q, axis=1)
        value[h] = q[np.arange(n_states), policy[h]]
    return policy, value


def policy_value(transitions: ArrayLike, reward: ArrayLike, policy: ArrayLike) -> np.ndarray:
    """Values of a policy.

    Args:
        transitions: (S, A, S) or (H, S, A, S).
        reward: (H, S, A).
        policy: (H, S) of actions or (H, S, A) of probabilities.

    Returns:
        (H + 1, S); the last row is 0.

    Raises:
        ValueError: as :func:`backward_induction`, and for a policy that does not fit.

    Example:
        >>> import numpy as np
        >>> from rankone.rl.planning import policy_value
        >>> policy_value(np.ones((1, 2, 1)), [[[0.0, 1.0]]], [[[0.5, 0.5]]]).tolist()
        [[0.5], [0.0]]
    """
    reward = _reward(reward)
    P = _transitions(transitions, reward.shape)
    chosen = stochastic_policy(policy, reward.shape)
    value = np.zeros((len(reward) + 1, reward.shape[1]))
    for h in reversed(range(len(reward))):
        value[h] = np.sum(chosen[h] * (reward[h] + P[h] @ value[h + 1]), axis=1)
    return value


def occupancy(transitions: ArrayLike, policy: ArrayLike, initial: int | ArrayLike) -> np.ndarray:
    """Probability of every state and action at every step.

    Args:
        transitions: (S, A, S) or (H, S, A, S).
        policy: (H, S) of actions or (H, S, A) of probabilities.
        initial: the first state, or probabilities (S,) of it.

    Returns:
        (H, S, A); each step adds up to 1.

    Raises:
        ValueError: as :func:`policy_value`.

    Example:
        >>> import numpy as np
        >>> from rankone.rl.planning import occupancy
        >>> occupancy(np.ones((1, 2, 1)), [[[0.25, 0.75]]], 0).tolist()
        [[[0.25, 0.75]]]
    """
    transitions = np.asarray(transitions, dtype=np.float64)
    if transitions.ndim not in (3, 4):
        raise ValueError(
            f"transitions must have shape (S, A, S) or (H, S, A, S), got {transitions.shape}"
        )
    n_states, n_actions = transitions.shape[-3:-1]
    shape = (len(np.asarray(policy)), n_states, n_actions)
    P = _transitions(transitions, shape)
    chosen = stochastic_policy(policy, shape)
    state = _initial(initial, n_states)
    result = np.zeros(shape)
    for h in range(shape[0]):
        result[h] = state[:, None] * chosen[h]
        state = np.einsum("sa,sat->t", result[h], P[h])
    return result


def stochastic_policy(policy: ArrayLike, shape: tuple[int, int, int]) -> np.ndarray:
    """A policy as probabilities (H, S, A), after checking it."""
    policy = np.asarray(policy)
    horizon, n_states, n_actions = shape
    if policy.shape == (horizon, n_states) and np.issubdtype(policy.dtype, np.integer):
        if policy.min() < 0 or policy.max() >= n_actions:
            raise ValueError(f"policy must hold actions in 0 .. {n_actions - 1}")
        return np.eye(n_actions)[policy]
    if policy.shape != shape:
        raise ValueError(
            f"policy must have integers of shape {shape[:2]} or probabilities of shape {shape}, "
            f"got {policy.dtype} of shape {policy.shape}"
        )
    policy = policy.astype(np.float64)
    check_probabilities("policy", policy)
    return policy


def check_probabilities(
    name: str, values: np.ndarray, *, negative: float = PROBABILITY_ROUNDING
) -> None:
    """Require finite rows of at least ``-negative`` that sum to one."""
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    if values.min() < -negative:
        raise ValueError(f"{name} must not be negative, got {values.min():.3g}")
    away = np.abs(values.sum(axis=-1) - 1).max()
    if away > PROBABILITY_ROUNDING:
        raise ValueError(f"every row of {name} must sum to 1, got one {away:.3g} away")


def _reward(reward: ArrayLike) -> np.ndarray:
    reward = np.asarray(reward, dtype=np.float64)
    if reward.ndim != 3 or 0 in reward.shape:
        raise ValueError(f"reward must have shape (H, S, A), got shape {reward.shape}")
    if not np.isfinite(reward).all():
        raise ValueError("reward must be finite, got NaN or infinity")
    return reward


def _transitions(transitions: ArrayLike, shape: tuple[int, int, int]) -> np.ndarray:
    """Transitions as (H, S, A, S), without a copy where they do not depend on the step."""
    horizon, n_states, n_actions = shape
    P = np.asarray(transitions, dtype=np.float64)
    fixed = (n_states, n_actions, n_states)
    if P.shape not in (fixed, (horizon, *fixed)):
        raise ValueError(
            f"transitions must have shape {fixed} or {(horizon, *fixed)}, got shape {P.shape}"
        )
    check_probabilities("transitions", P)
    return np.broadcast_to(P, (horizon, *fixed))


def _initial(initial: int | ArrayLike, n_states: int) -> np.ndarray:
    values = np.asarray(initial)
    if values.ndim == 0 and np.issubdtype(values.dtype, np.integer):
        if not 0 <= values < n_states:
            raise ValueError(f"initial must be in 0 .. {n_states - 1}, got {initial!r}")
        return np.eye(n_states)[int(values)]
    if values.shape != (n_states,):
        raise ValueError(f"initial must be a state or have shape ({n_states},), got {values.shape}")
    values = values.astype(np.float64)
    check_probabilities("initial", values)
    return values


def __dir__() -> list[str]:
    return public_names(globals())
