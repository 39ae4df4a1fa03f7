"""Which policy, model and reward leave the most uncertain value: the oracle of the exploration.

The paper assumes it exact. Here the model is the estimate projected onto valid models; policies and
rewards are found by conditional-gradient ascent through the recursion of the values, from starts
that head for one uncertain pair each. All of this file is this project's own completion.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize

# Slope of a cap above 1 in the backward pass; 0 there would hide every way up at the start.
_CAP_SLOPE = 0.05

# Starts that head for one pair each.
_HEADED = 4

_STEPS = (1.0, 0.5, 0.25)
_SIGN_ROUNDS = 20

# Keeps the gradient of a norm finite at 0; far below any norm that matters.
_TINY = 1e-24

_PROJECTION_TOLERANCE = 1e-12


@dataclass(frozen=True)
class Metric:
    """Features with the inverse covariances of one moment: all that the values depend on.

    Attributes:
        features: (S * A, S, d).
        pseudo, uncertain: (S * A, S, d), features times the Cholesky factors of the inverse
            covariances of the two series, whose squares are the norms.
        beta: radius.
    """

    features: np.ndarray
    pseudo: np.ndarray
    uncertain: np.ndarray
    beta: float

    @classmethod
    def of(
        cls, features: np.ndarray, pseudo: np.ndarray, uncertain: np.ndarray, beta: float
    ) -> Metric:
        """From features (S, A, S, d) and inverse covariances (d, d)."""
        flat = features.reshape(-1, *features.shape[2:])
        return cls(flat, flat @ _factor(pseudo), flat @ _factor(uncertain), beta)

    @property
    def shape(self) -> tuple[int, int]:
        """States and actions."""
        n_states = self.features.shape[1]
        return n_states, len(self.features) // n_states


def _factor(inverse: np.ndarray) -> np.ndarray:
    return np.linalg.cholesky((inverse + inverse.T) / 2)


def norms(weighted: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Norms (pairs,) of the features of a value, from features times a factor."""
    return np.linalg.norm(value @ weighted, axis=-1)


def values(
    metric: Metric, transitions: np.ndarray, policy: np.ndarray, reward: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pseudo-value (H+1, S), uncertainty value (H+1, S) and bonus (H, S, A) of a triple.

    ``transitions`` (S, A, S) are those of its theta; ``policy`` (H, S) is deterministic.
    """
    horizon, n_states, n_actions = reward.shape
    rows = np.arange(n_states)
    flat = transitions.reshape(-1, n_states)
    pseudo, uncertain = np.zeros((2, horizon + 1, n_states))
    bonus = np.zeros(reward.shape)
    for h in reversed(range(horizon)):
        bonus[h] = np.minimum(1, metric.beta * norms(metric.pseudo, pseudo[h + 1])).reshape(
            n_states, n_actions
        )
        ahead = 2 * metric.beta * norms(metric.uncertain, uncertain[h + 1])
        ahead += flat @ uncertain[h + 1]
        action = policy[h]
        chosen = rows * n_actions + action
        uncertain[h] = np.minimum(1, bonus[h, rows, action] + ahead[chosen])
        pseudo[h] = reward[h, rows, action] + flat[chosen] @ pseudo[h + 1]
    return pseudo, uncertain, bonus


def largest_norms(weighted: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """For every pair, the set of states whose indicator has the largest feature norm.

    By sign iteration ``f <- 1{Q f > 0}`` from three sets: the state with the largest diagonal entry
    of Q, its complement, and a random set. The set of all states would be a useless fixed point:
    the sum of all features is the direction known best.

    Args:
        weighted: (pairs, S, d), features times a factor of the inverse covariance.
        rng: of the random sets.

    Returns:
        Norms (pairs,), and sets (pairs, S) of 0 and 1.
    """
    Q = weighted @ np.swapaxes(weighted, 1, 2)
    single = np.eye(Q.shape[1])[np.argmax(np.diagonal(Q, axis1=1, axis2=2), axis=1)]
    random = rng.integers(0, 2, single.shape).astype(float)
    best = np.zeros(len(Q))
    chosen = np.zeros_like(single)
    for start in (single, 1 - single, random):
        f = start
        for _ in range(_SIGN_ROUNDS):
            follow = ((Q @ f[:, :, None])[:, :, 0] > 0).astype(float)
            if np.array_equal(follow, f):
                break
            f = follow
        # The iteration climbs; where its last step did not, the start is kept.
        for candidate in (start, f):
            squares = np.einsum("ps,pst,pt->p", candidate, Q, candidate)
            better = squares > best
            best = np.where(better, squares, best)
            chosen[better] = candidate[better]
    return np.sqrt(best), chosen


def project_model(theta: np.ndarray, metric: np.ndarray, features: np.ndarray) -> np.ndarray:
    """The valid model nearest to ``theta``: transitions at least 0, rows that sum to 1.

    Where every basis kernel is a stochastic matrix the simplex is taken for the set of valid
    models, which contains it.

    Args:
        theta: (d,).
        metric: (d, d), of the distance.
        features: (S, A, S, d).
    """
    kernels = features.reshape(-1, features.shape[-1])
    sums = features.sum(axis=2).reshape(-1, features.shape[-1])
    stochastic = features.min() >= 0 and np.allclose(sums, 1, rtol=0, atol=1e-12)
    if stochastic:
        inequality, equality, right = np.eye(len(theta)), np.ones((1, len(theta))), np.ones(1)
        start = np.maximum(theta, 0)
        start = start / start.sum() if start.sum() > 0 else np.full(len(theta), 1 / len(theta))
    else:
        inequality = np.unique(np.round(kernels[np.any(kernels != 0, axis=1)], 14), axis=0)
        equality, right = _independent(sums, np.ones(len(sums)))
        start = theta
    scale = max(float(np.abs(metric).max()), 1.0)
    scaled = metric / scale
    found = minimize(
        lambda x: 0.5 * (x - theta) @ scaled @ (x - theta),
        start,
        jac=lambda x: scaled @ (x - theta),
        method="SLSQP",
        constraints=[
            {"type": "ineq", "fun": lambda x: inequality @ x, "jac": lambda x: inequality},
            {"type": "eq", "fun": lambda x: equality @ x - right, "jac": lambda x: equality},
        ],
        options={"ftol": _PROJECTION_TOLERANCE, "maxiter": 200},
    )
    result = found.x
    valid = (inequality @ result).min() > -1e-6 and np.abs(equality @ result - right).max() < 1e-6
    if not valid:
        raise RuntimeError(f"no valid model was found near the estimate: {found.message}")
    if stochastic:
        result = np.maximum(result, 0)
        result = result / result.sum()
    return result


def _independent(rows: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Independent combinations of equations that hold the same solutions."""
    U, singular, V = np.linalg.svd(rows, full_matrices=False)
    rank = int(np.sum(singular > singular[0] * 1e-10))
    return singular[:rank, None] * V[:rank], U[:, :rank].T @ right


def model_transitions(theta: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Transitions (S, A, S) of a projected model, its rounding errors removed."""
    transitions = np.maximum(features @ theta, 0)
    return transitions / transitions.sum(axis=-1, keepdims=True)


@dataclass(frozen=True)
class Choice:
    """What the oracle chose.

    Attributes:
        policy: (H, S).
        reward: (H, S, A), admissible.
        uncertainty: value of the first state.
        upper_bound: of what any choice could reach with this model.
    """

    policy: np.ndarray
    reward: np.ndarray
    uncertainty: float
    upper_bound: float


class Oracle:
    """Searches for an uncertain policy and reward under one metric and model."""

    def __init__(
        self,
        metric: Metric,
        transitions: np.ndarray,
        horizon: int,
        initial_state: int,
        rng: np.random.Generator,
    ) -> None:
        self.metric = metric
        self.transitions = transitions
        self.horizon = horizon
        self.initial_state = initial_state
        self._rng = rng
        self._flat = transitions.reshape(-1, transitions.shape[-1])
        tensors = (self._flat, metric.pseudo, metric.uncertain)
        self._model, self._pseudo, self._uncertain = (
            torch.from_numpy(np.ascontiguousarray(array)) for array in tensors
        )

    def search(self, n_restarts: int, max_iter: int) -> Choice:
        """The best choice found from the ``n_restarts`` best starts."""
        starts, upper_bound = self._starts()
        scored = [(self._score(policy, reward), policy, reward) for policy, reward in starts]
        scored.sort(key=lambda entry: -entry[0])
        best = scored[0]
        for _, policy, reward in scored[:n_restarts]:
            policy, reward = self._ascend(policy, reward, max_iter)
            score = self._score(policy, reward)
            if score > best[0]:
                best = (score, policy, reward)
        return Choice(best[1], best[2], best[0], upper_bound)

    def _score(self, policy: np.ndarray, reward: np.ndarray) -> float:
        uncertain = values(self.metric, self.transitions, policy, reward)[1]
        return float(uncertain[0, self.initial_state])

    def _starts(self) -> tuple[list[tuple[np.ndarray, np.ndarray]], float]:
        n_states, n_actions = self.metric.shape
        norm, sets = largest_norms(self.metric.pseudo, self._rng)
        bonus = np.minimum(1, self.metric.beta * norm).reshape(n_states, n_actions)
        actions = np.argmax(bonus, axis=1)
        policies, reached = self._hitting(actions)
        score = reached * bonus[np.arange(n_states), actions]
        goals = np.argsort(-score, kind="stable")[:_HEADED]
        rewards = [
            self._last_step(sets.reshape(n_states, n_actions, -1)[goal, actions[goal]])
            for goal in goals
        ]
        greedy, upper_bound = self._greedy(bonus)
        starts = [(policies[goal], reward) for goal, reward in zip(goals, rewards, strict=True)]
        return [*starts, (greedy, rewards[0])], upper_bound

    def _last_step(self, states: np.ndarray) -> np.ndarray:
        """The reward of being in a set of states at the last step."""
        n_states, n_actions = self.metric.shape
        reward = np.zeros((self.horizon, n_states, n_actions))
        reward[-1] = states[:, None]
        return reward

    def _hitting(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For every goal: the policy (H, S) most likely to reach it, and that probability."""
        n_states, n_actions = self.metric.shape
        goals = np.arange(n_states)
        policies = np.zeros((n_states, self.horizon, n_states), dtype=np.int64)
        # reach[g, s]: probability of being in g at one of the steps left.
        reach = np.zeros((n_states, n_states))
        for h in reversed(range(self.horizon)):
            q = (reach @ self._flat.T).reshape(n_states, n_states, n_actions)
            policies[:, h] = np.argmax(q, axis=2)
            reach = q.max(axis=2)
            policies[goals, h, goals] = actions
            reach[goals, goals] = 1
        return policies, reach[:, self.initial_state]

    def _greedy(self, bonus: np.ndarray) -> tuple[np.ndarray, float]:
        """Backward induction with the largest bonus of every pair, and the value it ends at."""
        n_states, n_actions = self.metric.shape
        policy = np.zeros((self.horizon, n_states), dtype=np.int64)
        value = np.zeros(n_states)
        for h in reversed(range(self.horizon)):
            ahead = 2 * self.metric.beta * norms(self.metric.uncertain, value) + self._flat @ value
            q = bonus + ahead.reshape(n_states, n_actions)
            policy[h] = np.argmax(q, axis=1)
            value = np.minimum(1, q.max(axis=1))
        return policy, float(value[self.initial_state])

    def _ascend(
        self, policy: np.ndarray, reward: np.ndarray, max_iter: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Conditional gradient over stochastic policies and admissible rewards, then rounded.

        The vertices are deterministic policies, and rewards of 1 on a set of pairs at one step.
        """
        n_actions = self.metric.shape[1]
        pi = torch.from_numpy(np.eye(n_actions)[policy])
        r = torch.from_numpy(reward.copy())
        for _ in range(max_iter):
            pi.requires_grad_(True)
            r.requires_grad_(True)
            current = self._relaxed(pi, r)
            to_pi, to_r = torch.autograd.grad(current, (pi, r))
            pi, r = pi.detach(), r.detach()
            vertex_pi = torch.nn.functional.one_hot(to_pi.argmax(dim=2), n_actions).double()
            gain = to_r.clamp(min=0).sum(dim=(1, 2))
            vertex_r = torch.zeros_like(r)
            step = int(gain.argmax())
            vertex_r[step] = (to_r[step] > 0).double()
            with torch.no_grad():
                for size in _STEPS:
                    next_pi = pi + size * (vertex_pi - pi)
                    next_r = r + size * (vertex_r - r)
                    if self._relaxed(next_pi, next_r) > current:
                        pi, r = next_pi, next_r
                        break
                else:
                    break
        return pi.argmax(dim=2).numpy(), r.numpy()

    def _relaxed(self, pi: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        """Uncertainty of the first state for a stochastic policy, differentiable."""
        n_states, n_actions = self.metric.shape
        beta = self.metric.beta
        pseudo = torch.zeros(n_states, dtype=torch.float64)
        uncertain = pseudo
        for h in reversed(range(self.horizon)):
            bonus = _cap(beta * _norms(self._pseudo, pseudo))
            ahead = 2 * beta * _norms(self._uncertain, uncertain) + self._model @ uncertain
            total = (bonus + ahead).view(n_states, n_actions)
            uncertain = _cap((pi[h] * total).sum(dim=1))
            after = (self._model @ pseudo).view(n_states, n_actions)
            pseudo = (pi[h] * (r[h] + after)).sum(dim=1)
        return uncertain[self.initial_state]


def _norms(weighted: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    along = torch.matmul(value, weighted)
    return torch.sqrt((along * along).sum(dim=-1) + _TINY)


def _cap(x: torch.Tensor) -> torch.Tensor:
    """``min(1, x)`` whose gradient above 1 is small instead of 0."""
    above = (x - 1).clamp(min=0)
    return x.clamp(max=1) + _CAP_SLOPE * (above - above.detach())
