"""Finite-horizon environments with linear structure, under Gymnasium's interface.

Each knows its transition probabilities exactly, so that regret and sub-optimality are measured by
dynamic programming (:mod:`rankone.rl.planning`) and not by sampling.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import InvalidAction, ResetNeeded
from numpy.typing import ArrayLike

from rankone._namespace import public_names
from rankone.rl.planning import check_probabilities

__all__ = ["FiniteHorizonEnv", "LinearMDP", "LinearMixtureMDP"]

# Rounding allowed where a feature's norm meets its bound.
NORM_ROUNDING = 1e-9

# A mixture's probability may be this far below 0.
_NEGATIVE_ROUNDING = 1e-10

# Of the hard instance: the probability of the good state without the margin.
_HARD_BASE = 1 / 6


class FiniteHorizonEnv(gymnasium.Env):
    """H steps through finitely many states; the horizon belongs to the process.

    ``terminated`` is True at the H-th step and ``truncated`` always False; ``info["step"]`` counts
    from 0.

    Args:
        transitions: (S, A, S) or (H, S, A, S), rows of probabilities.
        reward: (H, S, A).
        initial_state: the state after ``reset``.

    Example:
        >>> import numpy as np
        >>> from rankone.rl.envs import FiniteHorizonEnv
        >>> env = FiniteHorizonEnv(np.ones((1, 2, 1)), np.tile([0.0, 1.0], (2, 1, 1)), 0)
        >>> env.reset(seed=0)
        (0, {'step': 0})
        >>> [env.step(1)[1:3] for _ in range(2)]
        [(1.0, False), (1.0, True)]
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own declaration)

    def __init__(self, transitions: np.ndarray, reward: np.ndarray, initial_state: int) -> None:
        for name, values, sizes in (("transitions", transitions, (3, 4)), ("reward", reward, (3,))):
            if not isinstance(values, np.ndarray) or values.ndim not in sizes:
                axes = " or ".join(f"{size}-D" for size in sizes)
                came = getattr(values, "shape", type(values).__name__)
                raise ValueError(f"{name} must be a {axes} array, got {came}")
        self.transitions = transitions
        self.horizon, self.n_states, self.n_actions = (int(size) for size in reward.shape)
        if not 0 <= initial_state < self.n_states:
            raise ValueError(
                f"initial_state must be in 0 .. {self.n_states - 1}, got {initial_state}"
            )
        self.initial_state = int(initial_state)
        self._reward = reward
        by_step = (self.horizon, *transitions.shape[-3:])
        self._cumulative = np.cumsum(np.broadcast_to(transitions, by_step), axis=-1)
        self.observation_space = gymnasium.spaces.Discrete(self.n_states)
        self.action_space = gymnasium.spaces.Discrete(self.n_actions)
        self._state = self.initial_state
        self._step: int | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Begin an episode: the initial state and ``{"step": 0}``."""
        super().reset(seed=seed, options=options)
        self._state, self._step = self.initial_state, 0
        return self._state, {"step": 0}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """Take an action: next state, reward, terminated, truncated (False), info.

        Raises:
            gymnasium.error.ResetNeeded: before ``reset`` and after the last step.
            gymnasium.error.InvalidAction: for an action that is not there.
        """
        if self._step is None or self._step >= self.horizon:
            raise ResetNeeded(f"an episode has {self.horizon} steps; call reset first")
        if not self.action_space.contains(action):
            raise InvalidAction(f"action must be in 0 .. {self.n_actions - 1}, got {action!r}")
        reward = float(self._reward[self._step, self._state, action])
        row = self._cumulative[self._step, self._state, action]
        # A row may end a rounding below 1.
        place = np.searchsorted(row, self.np_random.random() * row[-1], side="right")
        self._state = int(min(place, self.n_states - 1))
        self._step += 1
        return self._state, reward, self._step == self.horizon, False, {"step": self._step}


class LinearMDP(FiniteHorizonEnv):
    """Transitions and losses linear in features of state and action.

    ``P_h(s' | s, a) = <features[h, s, a], measures[h, :, s']>`` and, with loss weights, the loss
    ``<features[h, s, a], loss_weights[h]>``, of which ``step`` returns the negative as reward.

    Args:
        features: (H, S, A, d), of norm at most 1.
        measures: (H, d, S).
        loss_weights: (H, d); None for losses of 0.
        initial_state: the state after ``reset``.

    Attributes:
        features, measures: as given, in float64.
        transitions: (H, S, A, S).
        n_states, n_actions, n_features, horizon: sizes.

    Raises:
        ValueError: for shapes that do not fit, features longer than 1, or rows of transitions that
            are negative or do not sum to 1.

    Example:
        >>> from rankone.rl.envs import LinearMDP
        >>> env = LinearMDP.random(n_states=6, n_actions=4, n_features=5, horizon=4, seed=0)
        >>> env.reset(seed=0), env.transitions.shape
        ((0, {'step': 0}), (4, 6, 4, 6))
    """

    def __init__(
        self,
        features: ArrayLike,
        measures: ArrayLike,
        loss_weights: ArrayLike | None = None,
        initial_state: int = 0,
    ) -> None:
        self.features = _finite("features", features, 4, "(H, S, A, d)")
        self.measures = _finite("measures", measures, 3, "(H, d, S)")
        horizon, n_states, _, self.n_features = self.features.shape
        if self.measures.shape != (horizon, self.n_features, n_states):
            raise ValueError(
                f"measures must have shape {(horizon, self.n_features, n_states)} for features of "
                f"shape {self.features.shape}, got shape {self.measures.shape}"
            )
        norm = np.linalg.norm(self.features, axis=-1).max()
        if norm > 1 + NORM_ROUNDING:
            raise ValueError(f"features must have norms of at most 1, got {norm:.6g}")
        transitions = np.einsum("hsad,hdt->hsat", self.features, self.measures)
        check_probabilities("transitions", transitions)
        weights = np.zeros((horizon, self.n_features)) if loss_weights is None else loss_weights
        self.loss_weights = _finite("loss_weights", weights, 2, "(H, d)")
        super().__init__(transitions, -self.losses(self.loss_weights[None])[0], initial_state)

    @classmethod
    def random(
        cls,
        n_states: int,
        n_actions: int,
        n_features: int,
        horizon: int,
        concentration: float = 0.3,
        seed: int | None = None,
    ) -> LinearMDP:
        """An exact linear process: features on the simplex mix measures that are distributions.

        Args:
            n_states, n_actions, n_features, horizon: sizes.
            concentration: of the Dirichlet features; small ones are near a corner.
            seed: of the draw.

        Raises:
            ValueError: for sizes below 1 or a concentration that is not positive.
        """
        check_sizes(n_states=n_states, n_actions=n_actions, n_features=n_features, horizon=horizon)
        if not concentration > 0:
            raise ValueError(f"concentration must be positive, got {concentration}")
        rng = np.random.default_rng(seed)
        features = rng.dirichlet(np.full(n_features, concentration), (horizon, n_states, n_actions))
        measures = rng.dirichlet(np.full(n_states, 0.5), (horizon, n_features))
        return cls(features, measures)

    def losses(self, weights: ArrayLike) -> np.ndarray:
        """Losses (K, H, S, A) of the weights (K, H, d) of K episodes."""
        weights = _finite("weights", weights, 3, "(K, H, d)")
        if weights.shape[1:] != (len(self.features), self.n_features):
            raise ValueError(
                f"weights must have shape (K, {len(self.features)}, {self.n_features}), "
                f"got shape {weights.shape}"
            )
        return np.einsum("hsad,khd->khsa", self.features, weights)


class LinearMixtureMDP(FiniteHorizonEnv):
    """Transitions that mix known kernels by an unknown parameter.

    ``P(s' | s, a) = <features[s, a, s'], theta>``, the same at every step.

    Args:
        features: (S, A, S, d).
        theta: (d,).
        horizon: H.
        reward: (H, S, A); None for 0.
        initial_state: the state after ``reset``.

    Attributes:
        features, theta: as given, in float64.
        transitions: (S, A, S).
        n_states, n_actions, n_features, horizon: sizes.

    Raises:
        ValueError: for shapes that do not fit, or rows of transitions that are negative or do not
            sum to 1.

    Example:
        >>> from rankone.rl.envs import LinearMixtureMDP
        >>> env = LinearMixtureMDP.combination_lock(depth=4, seed=0)
        >>> env.n_states, env.n_actions, env.n_features, env.horizon
        (9, 3, 4, 16)
    """

    def __init__(
        self,
        features: ArrayLike,
        theta: ArrayLike,
        horizon: int,
        reward: ArrayLike | None = None,
        initial_state: int = 0,
    ) -> None:
        self.features = _finite("features", features, 4, "(S, A, S, d)")
        self.theta = _finite("theta", theta, 1, "(d,)")
        n_states, n_actions, followers, self.n_features = self.features.shape
        if followers != n_states or self.theta.shape != (self.n_features,):
            raise ValueError(
                "features must have shape (S, A, S, d) and theta (d,), got shapes "
                f"{self.features.shape} and {self.theta.shape}"
            )
        check_sizes(horizon=horizon)
        transitions = self.features @ self.theta
        check_probabilities("transitions", transitions, negative=_NEGATIVE_ROUNDING)
        shape = (int(horizon), n_states, n_actions)
        rewards = np.zeros(shape) if reward is None else _finite("reward", reward, 3, "(H, S, A)")
        if rewards.shape != shape:
            raise ValueError(f"reward must have shape {shape}, got shape {rewards.shape}")
        super().__init__(np.maximum(transitions, 0), rewards, initial_state)

    @classmethod
    def random_mixture(
        cls,
        n_states: int,
        n_actions: int,
        n_features: int,
        horizon: int,
        concentration: float = 1.0,
        seed: int | None = None,
    ) -> LinearMixtureMDP:
        """A mixture, with a uniform theta of the simplex, of kernels drawn from a Dirichlet.

        Args:
            n_states, n_actions, n_features, horizon: sizes.
            concentration: of the Dirichlet kernels.
            seed: of the draw.

        Raises:
            ValueError: for sizes below 1 or a concentration that is not positive.
        """
        check_sizes(n_states=n_states, n_actions=n_actions, n_features=n_features, horizon=horizon)
        if not concentration > 0:
            raise ValueError(f"concentration must be positive, got {concentration}")
        rng = np.random.default_rng(seed)
        kernels = rng.dirichlet(np.full(n_states, concentration), (n_features, n_states, n_actions))
        return cls(np.moveaxis(kernels, 0, -1), rng.dirichlet(np.ones(n_features)), horizon)

    @classmethod
    def combination_lock(
        cls,
        depth: int,
        n_actions: int = 3,
        horizon: int = 16,
        slip: float = 0.1,
        seed: int | None = None,
    ) -> LinearMixtureMDP:
        """A chain on which theta_j can be learned at depth j alone.

        States 0 .. d-1 are the chain, d .. 2d-1 outcomes, 2d a sink; outcomes and sink absorb. In
        each chain state one key of the first A - 1 actions leads on, but to 0 with probability
        ``slip``, and the others to 0; the last action probes: under kernel j it leads to outcome
        d + j from state j and to the sink from any other.

        Args:
            depth: d, chain states and features.
            n_actions: A, at least 2.
            horizon: H.
            slip: probability that a key fails.
            seed: of the keys and of theta (Dirichlet with 2 everywhere).

        Raises:
            ValueError: for sizes too small or a slip outside [0, 1].
        """
        check_sizes(depth=depth, horizon=horizon)
        if n_actions < 2:
            raise ValueError(f"n_actions must be at least 2, got {n_actions}")
        if not 0 <= slip <= 1:
            raise ValueError(f"slip must be in [0, 1], got {slip}")
        rng = np.random.default_rng(seed)
        keys = rng.integers(n_actions - 1, size=depth)
        sink = 2 * depth
        kernels = np.zeros((sink + 1, n_actions, sink + 1, depth))
        for state in range(depth, sink + 1):
            kernels[state, :, state] = 1
        for state, key in enumerate(keys):
            kernels[state, :-1, 0] = 1
            kernels[state, key, 0] = slip
            kernels[state, key, min(state + 1, depth - 1)] += 1 - slip
            kernels[state, -1, sink] = 1
            kernels[state, -1, sink, state] = 0
            kernels[state, -1, depth + state, state] = 1
        return cls(kernels, rng.dirichlet(np.full(depth, 2.0)), horizon)

    @classmethod
    def hard_instance(
        cls, n_features: int, n_episodes: int, horizon: int, seed: int | None = None
    ) -> LinearMixtureMDP:
        """The lower bound's instance: one good action among 2^(d-1), by a margin of 1 / sqrt(K).

        From state 0 the action a of {-1, 1}^(d-1), in lexicographic order, leads to state 2 with
        probability 1/6 + <mu, a> and to state 1 otherwise; both absorb. The entries of mu are
        ``sqrt(1 / (6 K)) / (4 sqrt 2)`` with random signs.

        Args:
            n_features: d, at least 2.
            n_episodes: K.
            horizon: H.
            seed: of the signs.

        Raises:
            ValueError: for sizes too small, or probabilities outside [0, 1].

        Source: "Optimal Horizon-Free Reward-Free Exploration for Linear Mixture MDPs" (arXiv
        2303.10165).
        """
        check_sizes(n_episodes=n_episodes, horizon=horizon)
        if n_features < 2:
            raise ValueError(f"n_features must be at least 2, got {n_features}")
        rng = np.random.default_rng(seed)
        signs = n_features - 1
        actions = np.array(list(itertools.product((-1.0, 1.0), repeat=signs)))
        margin = math.sqrt(_HARD_BASE / n_episodes) / (4 * math.sqrt(2))
        mu = margin * rng.choice([-1.0, 1.0], signs)
        wide, narrow = 1 / math.sqrt(2 * signs), 1 / math.sqrt(2)
        features = np.zeros((3, len(actions), 3, n_features))
        features[0, :, 1, :-1] = -wide * actions
        features[0, :, 2, :-1] = wide * actions
        features[0, :, 1, -1] = narrow * (1 - _HARD_BASE)
        features[0, :, 2, -1] = narrow * _HARD_BASE
        features[1, :, 1, -1] = features[2, :, 2, -1] = narrow
        return cls(features, np.append(mu / wide, 1 / narrow), horizon)


def check_sizes(**sizes: int) -> None:
    """Require counts of at least 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")


def _finite(name: str, values: ArrayLike, ndim: int, shape: str) -> np.ndarray:
    values = np.array(values, dtype=np.float64)
    if values.ndim != ndim or 0 in values.shape:
        raise ValueError(f"{name} must have shape {shape}, got shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return values


def __dir__() -> list[str]:
    return public_names(globals())
