"""Policy optimisation when losses are chosen by an adversary and Q-functions are linear.

One trajectory an episode is all that is seen. From it the Q-function of the played policy is
estimated by an inverse covariance, an exploration bonus is subtracted, and every state's policy is
the minimiser of the cumulative result plus a regulariser. The log barrier tolerates estimates that
are as negative as they come; the magnitude-reduced estimator makes them less negative instead, so
that plain exponential weights suffice.

Source: "Refined Regret for Adversarial MDPs with Linear Function Approximation" (arXiv 2301.12942):
the two algorithms with a simulator, the refined inequality of the log barrier, the reduced
estimator and the simulator-free setting. The constants (``eta_scale``, ``bonus_scale``, gamma) and
the bookkeeping without a simulator are this project's reading.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from rankone._namespace import public_names
from rankone._progress import Progress
from rankone.rl.envs import LinearMDP, check_sizes
from rankone.rl.planning import backward_induction, occupancy

__all__ = [
    "AdversarialPolicyOptimizer",
    "dilated_bonus",
    "empirical_inverse",
    "exponential_weights",
    "geometric_resampling",
    "log_barrier_ftrl",
    "loss_estimate",
    "loss_sequence",
]

ALGORITHMS = ("log_barrier", "magnitude_reduced", "hedge")
COVARIANCES = ("exact", "empirical", "geometric")

# Scales of eta at which learning shows within thousands of episodes; 1 is the theory's.
_ETA_SCALES = {"log_barrier": 10.0, "magnitude_reduced": 20.0, "hedge": 20.0}

# Without a simulator, where one update is made an epoch.
_FREE_ETA_SCALE = 40.0
_FREE_GAMMA = 0.01
_FREE_BONUS = 0.25
_TRANSITION_BONUS = 0.1
_EPOCH_SHARE = 2.2
_SHORTEST_EPOCH = 4

# Newton's iteration for the log barrier.
_NEWTON_STEPS = 60
_NEWTON_TOLERANCE = 1e-13

_LOSS_ROUNDING = 1e-9

# Of `loss_sequence`: blocks of "switch", periods of "sinusoid", probability of "iid".
_BLOCKS, _PERIODS, _SHARE = 16, 5, 0.3


def loss_sequence(
    n_episodes: int, horizon: int, n_features: int, kind: str = "switch", seed: int | None = None
) -> np.ndarray:
    """Loss weights of an oblivious adversary, between two draws from [0, 1].

    Args:
        n_episodes, horizon, n_features: K, H and d.
        kind: "switch" (16 blocks, every third of the other draw), "sinusoid" (mixed in five
            periods) or "iid" (the other draw with probability 0.3).
        seed: of the draws.

    Returns:
        (K, H, d).

    Raises:
        ValueError: for sizes below 1 or an unknown kind.

    Example:
        >>> from rankone.rl.adversarial_mdp import loss_sequence
        >>> loss_sequence(100, 4, 5, seed=0).shape
        (100, 4, 5)
    """
    check_sizes(n_episodes=n_episodes, horizon=horizon, n_features=n_features)
    rng = np.random.default_rng(seed)
    base, other = rng.random((2, horizon, n_features))
    episodes = np.arange(n_episodes)
    if kind == "switch":
        share = (episodes * _BLOCKS // n_episodes % 3 == 2).astype(np.float64)
    elif kind == "sinusoid":
        share = 0.5 + 0.5 * np.sin(2 * np.pi * _PERIODS * episodes / n_episodes)
    elif kind == "iid":
        share = (rng.random(n_episodes) < _SHARE).astype(np.float64)
    else:
        raise ValueError(f'kind must be "switch", "sinusoid" or "iid", got {kind!r}')
    return base + share[:, None, None] * (other - base)


def log_barrier_ftrl(cum_loss: ArrayLike, eta: float) -> np.ndarray:
    """Minimiser of ``<p, cum_loss> + sum_a ln(1 / p_a) / eta`` over the simplex.

    ``p_a = 1 / (eta (C_a - min C) + nu)`` with nu the root of ``sum p = 1``; Newton's iteration
    from nu = 1, left of the root of a convex decreasing function, climbs to it.

    Args:
        cum_loss: (..., A).
        eta: learning rate.

    Returns:
        (..., A), positive, rows sum to one.

    Raises:
        ValueError: for losses that are not finite or without a last axis, or eta not positive.

    Source: the regulariser of arXiv 2301.12942.

    Example:
        >>> from rankone.rl.adversarial_mdp import log_barrier_ftrl
        >>> log_barrier_ftrl([0, 1, 5], 0.7).round(4).tolist()
        [0.4692, 0.3532, 0.1776]
    """
    return _log_barrier(*_checked_losses(cum_loss, eta))


def exponential_weights(cum_loss: ArrayLike, eta: float) -> np.ndarray:
    """Minimiser of ``<p, cum_loss> + sum_a p_a ln p_a / eta`` over the simplex.

    Args:
        cum_loss: (..., A).
        eta: learning rate.

    Returns:
        (..., A), proportional to ``exp(-eta cum_loss)``.

    Raises:
        ValueError: as :func:`log_barrier_ftrl`.

    Example:
        >>> from rankone.rl.adversarial_mdp import exponential_weights
        >>> exponential_weights([0.0, 0.0], 1.0).tolist()
        [0.5, 0.5]
    """
    return _exponential(*_checked_losses(cum_loss, eta))


def _checked_losses(cum_loss: ArrayLike, eta: float) -> tuple[np.ndarray, float]:
    losses = np.asarray(cum_loss, dtype=np.float64)
    if losses.ndim == 0 or losses.shape[-1] == 0:
        raise ValueError(f"cum_loss must have shape (..., A), got shape {losses.shape}")
    if not np.isfinite(losses).all():
        raise ValueError("cum_loss must be finite, got NaN or infinity")
    _check_positive("eta", eta)
    return losses, float(eta)


def _check_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be positive and finite, got {value}")


def _log_barrier(losses: np.ndarray, eta: float) -> np.ndarray:
    z = eta * (losses - losses.min(axis=-1, keepdims=True))
    nu = np.ones_like(z[..., :1])
    for _ in range(_NEWTON_STEPS):
        p = 1 / (z + nu)
        step = (p.sum(axis=-1, keepdims=True) - 1) / np.square(p).sum(axis=-1, keepdims=True)
        nu += step
        if np.abs(step).max() < _NEWTON_TOLERANCE:
            break
    p = 1 / (z + nu)
    return p / p.sum(axis=-1, keepdims=True)


def _exponential(losses: np.ndarray, eta: float) -> np.ndarray:
    p = np.exp(-eta * (losses - losses.min(axis=-1, keepdims=True)))
    return p / p.sum(axis=-1, keepdims=True)


def empirical_inverse(features: ArrayLike, gamma: float) -> np.ndarray:
    """``inv(gamma I + mean of phi phi^T)`` of samples.

    Args:
        features: (N, d).
        gamma: ridge.

    Returns:
        (d, d), symmetric.

    Raises:
        ValueError: for another shape, numbers that are not finite, or gamma not positive.

    Example:
        >>> import numpy as np
        >>> from rankone.rl.adversarial_mdp import empirical_inverse
        >>> empirical_inverse(np.ones((10, 1)), 1.0).tolist()
        [[0.5]]
    """
    features = _samples(features, 2, "(N, d)")
    _check_positive("gamma", gamma)
    return _inverse(features.T @ features / len(features), gamma)


def geometric_resampling(features: ArrayLike, gamma: float, c: float = 0.5) -> np.ndarray:
    """Inverse covariance by Matrix Geometric Resampling, without solving a system.

    ``c (I + sum_n prod_{j <= n} (I - c (phi_j phi_j^T + gamma I)))``, averaged over the chains and
    made symmetric: in expectation the geometric series of ``inv(gamma I + Sigma)``, short of it by
    at most ``exp(-c gamma N) / gamma``.

    Args:
        features: (R, N, d): R independent chains of N independent samples.
        gamma: ridge.
        c: step; with features of norm at most 1 the series converges for ``c (1 + gamma) < 2``.

    Returns:
        (d, d).

    Raises:
        ValueError: for another shape, numbers that are not finite, gamma or c not positive.

    Example:
        >>> import numpy as np
        >>> from rankone.rl.adversarial_mdp import geometric_resampling
        >>> geometric_resampling(np.ones((1, 100, 1)), 1.0).round(6).tolist()
        [[0.5]]
    """
    features = _samples(features, 3, "(R, N, d)")
    _check_positive("gamma", gamma)
    _check_positive("c", c)
    chains, length, d = features.shape
    product = np.broadcast_to(np.eye(d), (chains, d, d)).copy()
    total = product.copy()
    for n in range(length):
        phi = features[:, n]
        # product (I - c (phi phi^T + gamma I))
        product = (1 - c * gamma) * product - c * (product @ phi[:, :, None]) * phi[:, None, :]
        total += product
    mean = c * total.mean(axis=0)
    return (mean + mean.T) / 2


def _samples(features: ArrayLike, ndim: int, shape: str) -> np.ndarray:
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != ndim or 0 in features.shape:
        raise ValueError(f"features must have shape {shape}, got shape {features.shape}")
    if not np.isfinite(features).all():
        raise ValueError("features must be finite, got NaN or infinity")
    return features


def _inverse(covariance: np.ndarray, gamma: float) -> np.ndarray:
    """Inverses (..., d, d) of covariances with a ridge, symmetric."""
    inverse = np.linalg.inv(covariance + gamma * np.eye(covariance.shape[-1]))
    return (inverse + np.swapaxes(inverse, -1, -2)) / 2


def loss_estimate(
    features: ArrayLike,
    inverse: ArrayLike,
    visited: tuple[int, int],
    loss_to_go: float,
    horizon: int,
    occupancy: ArrayLike | None = None,
    reduce: bool = False,
) -> np.ndarray:
    """Q-function of one step, estimated from the pair visited and the loss from there on.

    The plain estimate is ``ip L`` with ``ip = phi^T inverse phi_visited``. The reduced one,
    ``ip L - H (ip)_- + m`` with m the mean of ``H (ip)_-`` over the policy's visits, has the same
    expectation and is at least ``-H / sqrt(gamma)`` instead of ``-H / gamma``.

    Args:
        features: (S, A, d).
        inverse: (d, d).
        visited: state and action.
        loss_to_go: L, in [0, H].
        horizon: H.
        occupancy: (S, A), probabilities of the policy's visits at this step.
        reduce: give the reduced estimate; needs ``occupancy``.

    Returns:
        (S, A).

    Raises:
        ValueError: for shapes that do not fit, or ``reduce`` without ``occupancy``.

    Source: arXiv 2301.12942.

    Example:
        >>> import numpy as np
        >>> from rankone.rl.adversarial_mdp import loss_estimate
        >>> loss_estimate(np.eye(2).reshape(1, 2, 2), np.eye(2), (0, 1), 3.0, 4).tolist()
        [[0.0, 3.0]]
    """
    features = _samples(features, 3, "(S, A, d)")
    inverse = np.asarray(inverse, dtype=np.float64)
    n_states, n_actions, d = features.shape
    if inverse.shape != (d, d):
        raise ValueError(f"inverse must have shape {(d, d)}, got shape {inverse.shape}")
    if not (0 <= visited[0] < n_states and 0 <= visited[1] < n_actions):
        raise ValueError(f"visited must be a pair below {(n_states, n_actions)}, got {visited}")
    if not reduce:
        return (features @ (inverse @ features[visited])) * loss_to_go
    if occupancy is None:
        raise ValueError("occupancy must be given with reduce=True, got None")
    weights = np.asarray(occupancy, dtype=np.float64)
    if weights.shape != (n_states, n_actions):
        raise ValueError(
            f"occupancy must have shape {(n_states, n_actions)}, got shape {weights.shape}"
        )
    flat = features.reshape(-1, d)
    products = flat @ inverse @ flat.T
    reduced = _reduced(
        products[None],
        np.array([visited[0] * n_actions + visited[1]]),
        np.array([float(loss_to_go)]),
        weights.reshape(1, -1),
        horizon,
    )
    return reduced[0].reshape(n_states, n_actions)


def _reduced(
    products: np.ndarray,
    visited: np.ndarray,
    loss_to_go: np.ndarray,
    occupancy: np.ndarray,
    horizon: int,
) -> np.ndarray:
    """Reduced estimates (steps, pairs) from inner products (steps, pairs, pairs)."""
    ip = products[np.arange(len(visited)), :, visited]
    mean = (np.minimum(products, 0) @ occupancy[:, :, None])[:, :, 0]
    return ip * loss_to_go[:, None] - horizon * np.minimum(ip, 0) + horizon * mean


def dilated_bonus(bonus: ArrayLike, transitions: ArrayLike, policy: ArrayLike) -> np.ndarray:
    """``B(h, s, a) = b(h, s, a) + (1 + 1/H) E B(h + 1, s', a')``, a' from the policy.

    Args:
        bonus: (H, S, A).
        transitions: (H, S, A, S) or (S, A, S).
        policy: (H, S, A).

    Returns:
        (H, S, A).

    Raises:
        ValueError: for shapes that do not fit.

    Source: arXiv 2301.12942.

    Example:
        >>> import numpy as np
        >>> from rankone.rl.adversarial_mdp import dilated_bonus
        >>> ones = np.ones((2, 1, 1))
        >>> dilated_bonus(ones, np.ones((1, 1, 1)), ones).ravel().tolist()
        [2.5, 1.0]
    """
    bonus = np.asarray(bonus, dtype=np.float64)
    transitions = np.asarray(transitions, dtype=np.float64)
    policy = np.asarray(policy, dtype=np.float64)
    if bonus.ndim != 3:
        raise ValueError(f"bonus must have shape (H, S, A), got shape {bonus.shape}")
    fixed = (*bonus.shape[1:], bonus.shape[1])
    if transitions.shape not in (fixed, (len(bonus), *fixed)):
        raise ValueError(
            f"transitions must have shape {fixed} or {(len(bonus), *fixed)}, got shape "
            f"{transitions.shape}"
        )
    if policy.shape != bonus.shape:
        raise ValueError(f"policy must have shape {bonus.shape}, got shape {policy.shape}")
    return _dilate(bonus, np.broadcast_to(transitions, (len(bonus), *fixed)), policy)


def _dilate(
    bonus: np.ndarray,
    transitions: np.ndarray,
    policy: np.ndarray,
    uncertainty: np.ndarray | None = None,
) -> np.ndarray:
    """The dilated bonus; ``uncertainty`` (H, S, A) charges the largest value ahead besides."""
    dilated = bonus.copy()
    growth = 1 + 1 / len(bonus)
    for h in reversed(range(len(bonus) - 1)):
        ahead = np.sum(policy[h + 1] * dilated[h + 1], axis=-1)
        dilated[h] += growth * (transitions[h] @ ahead)
        if uncertainty is not None:
            dilated[h] += uncertainty[h] * ahead.max()
    return dilated


class AdversarialPolicyOptimizer(BaseEstimator):
    """Low regret against the best fixed policy when every episode's losses may differ.

    ``"log_barrier"`` and ``"magnitude_reduced"`` are the paper's two algorithms with a simulator;
    ``"hedge"`` is exponential weights with the plain estimate, the baseline they refine. The scales
    ``eta_scale`` and ``bonus_scale`` are practical: at ``eta_scale=1``, the theory's constant, all
    three stay near the uniform policy below ten thousand episodes.

    Args:
        algorithm: "log_barrier", "magnitude_reduced" or "hedge".
        eta, gamma, beta: learning rate, ridge and bonus; "auto" takes them from the sizes.
        eta_scale: factor of the automatic eta; None means 10, 20 and 20 for the three algorithms,
            40 without a simulator.
        bonus_scale: the automatic beta is this times eta H (a quarter of it without a simulator).
        covariance: "exact" (from known transitions), "empirical" (``n_simulations`` fresh
            trajectories) or "geometric" (``n_repeats`` chains of ``n_simulations``).
        n_simulations, n_repeats: of those; never the trajectory that is learned from.
        simulator: whether fresh trajectories and the transitions may be used. Without one
            ("log_barrier" alone) half of an epoch's episodes give the covariance, the other half
            the estimate, and the bonus runs through estimated transitions.
        epoch_length: episodes an epoch without a simulator; None means sqrt(K) / 2.2, at least 4.
        random_state: seed of the trajectories.

    Attributes:
        regret_: (K,), cumulative exact regret against the best fixed policy of all K episodes.
        value_: (K,), exact expected loss of every episode.
        best_policy_, best_value_: (H, S) and its total expected loss.
        policy_: (H, S, A), after the last episode.
        average_policy_value_: expected loss, under the mean losses, of playing one of the K
            policies drawn uniformly.
        min_estimate_: the most negative estimate seen.
        eta_, gamma_, beta_: as used.

    Source: "Refined Regret for Adversarial MDPs with Linear Function Approximation" (arXiv
    2301.12942).

    Example:
        >>> from rankone.rl.adversarial_mdp import AdversarialPolicyOptimizer, loss_sequence
        >>> from rankone.rl.envs import LinearMDP
        >>> env = LinearMDP.random(6, 4, 5, 4, seed=0)
        >>> weights = loss_sequence(100, 4, 5, seed=7)
        >>> model = AdversarialPolicyOptimizer(random_state=0).fit(env, weights)
        >>> model.regret_.shape, model.policy_.shape
        ((100,), (4, 6, 4))
    """

    def __init__(
        self,
        algorithm: str = "log_barrier",
        eta: float | str = "auto",
        gamma: float | str = "auto",
        beta: float | str = "auto",
        eta_scale: float | None = None,
        bonus_scale: float = 0.02,
        covariance: str = "exact",
        n_simulations: int = 200,
        n_repeats: int = 5,
        simulator: bool = True,
        epoch_length: int | None = None,
        random_state: int | None = None,
    ) -> None:
        self.algorithm = algorithm
        self.eta = eta
        self.gamma = gamma
        self.beta = beta
        self.eta_scale = eta_scale
        self.bonus_scale = bonus_scale
        self.covariance = covariance
        self.n_simulations = n_simulations
        self.n_repeats = n_repeats
        self.simulator = simulator
        self.epoch_length = epoch_length
        self.random_state = random_state

    def fit(
        self, env: LinearMDP, weights: ArrayLike, *, progress: bool = False
    ) -> AdversarialPolicyOptimizer:
        """Play the K episodes whose losses the weights (K, H, d) give, one trajectory each.

        Raises:
            TypeError: for an environment that is not a :class:`rankone.rl.envs.LinearMDP`.
            ValueError: for losses outside [0, 1], shapes that do not fit, or parameters out of
                range.
        """
        if not isinstance(env, LinearMDP):
            raise TypeError(f"env must be a LinearMDP, got {type(env).__name__}")
        losses = env.losses(weights)
        if losses.min() < -_LOSS_ROUNDING or losses.max() > 1 + _LOSS_ROUNDING:
            raise ValueError(
                "weights must give losses in [0, 1], got losses between "
                f"{losses.min():.4g} and {losses.max():.4g}"
            )
        self.start(env, len(losses))
        best, value = backward_induction(env.transitions, -losses.sum(axis=0))
        best_visits = occupancy(env.transitions, best, env.initial_state)
        self.best_policy_, self.best_value_ = best, float(-value[0, env.initial_state])
        self.value_ = np.empty(len(losses))
        visits_total = np.zeros(losses.shape[1:])
        with Progress("episodes", len(losses), enabled=progress) as bar:
            for k, loss in enumerate(losses):
                visits = self._visits()
                visits_total += visits
                self.value_[k] = np.sum(visits * loss)
                states, actions = self._trajectories(1)
                steps = zip(states[0].tolist(), actions[0].tolist(), strict=True)
                self.observe([(s, a, float(loss[h, s, a])) for h, (s, a) in enumerate(steps)])
                bar.advance()
        self.regret_ = np.cumsum(self.value_ - np.sum(losses * best_visits, axis=(1, 2, 3)))
        self.average_policy_value_ = float(np.sum(visits_total / len(losses) * losses.mean(axis=0)))
        return self

    def start(self, env: LinearMDP, n_episodes: int) -> AdversarialPolicyOptimizer:
        """Begin online use: then :meth:`act` at every step and :meth:`observe` after an episode.

        Args:
            env: features, and with a simulator transitions; its losses are not read.
            n_episodes: K, of which eta and the length of an epoch are made.

        Raises:
            ValueError: for parameters out of range.
        """
        self._check(n_episodes)
        horizon, n_states, n_actions, d = env.features.shape
        self._env = env
        self._pairs = env.features.reshape(horizon, n_states * n_actions, d)
        self._rng = np.random.default_rng(self.random_state)
        self._followers = np.cumsum(env.transitions, axis=-1)
        self._cumulative = np.zeros((horizon, n_states, n_actions))
        # One episode, or one action, leaves nothing to tune.
        episodes, actions = max(n_episodes, 2), max(n_actions, 2)
        scale = self.eta_scale
        if scale is None:
            scale = _ETA_SCALES[self.algorithm] if self.simulator else _FREE_ETA_SCALE
        size = 6 * d * horizon**2 * episodes
        if self.algorithm == "log_barrier":
            rate = math.sqrt(actions * math.log(episodes) / size)
        elif self.algorithm == "magnitude_reduced":
            rate = math.sqrt(math.log(actions) / size)
        else:
            rate = (math.log(actions) / (d * horizon**1.5 * episodes)) ** (2 / 3)
        self.eta_ = scale * rate if isinstance(self.eta, str) else float(self.eta)
        # What keeps eta times the most negative estimate above -1, but for the log barrier.
        reach = self.eta_ * horizon
        ridge = {"log_barrier": reach**2 / 16, "magnitude_reduced": reach**2, "hedge": reach}
        automatic = min(1.0, ridge[self.algorithm]) if self.simulator else _FREE_GAMMA
        self.gamma_ = automatic if isinstance(self.gamma, str) else float(self.gamma)
        share = 1.0 if self.simulator else _FREE_BONUS
        bonus = share * self.bonus_scale * reach
        self.beta_ = bonus if isinstance(self.beta, str) else float(self.beta)
        self._length = self.epoch_length or max(
            _SHORTEST_EPOCH, round(math.sqrt(n_episodes) / _EPOCH_SHARE)
        )
        self._epoch: list[tuple[np.ndarray, np.ndarray]] = []
        self._gram = np.broadcast_to(np.eye(d), (horizon, d, d)).copy()
        self._followed = np.zeros((horizon, d, n_states))
        self.min_estimate_ = math.inf
        self._set_policy()
        return self

    def act(self, h: int, s: int) -> int:
        """An action at step ``h`` in state ``s``, drawn from the policy.

        Raises:
            NotFittedError: before :meth:`start` or :meth:`fit`.
            ValueError: for a step or a state that is not there.
        """
        check_is_fitted(self, "policy_")
        horizon, n_states, n_actions = self.policy_.shape
        if not (0 <= h < horizon and 0 <= s < n_states):
            raise ValueError(
                f"h must be in 0 .. {horizon - 1} and s in 0 .. {n_states - 1}, got {h} and {s}"
            )
        return int(self._rng.choice(n_actions, p=self.policy_[h, s]))

    def observe(self, trajectory: Sequence[tuple[int, int, float]]) -> None:
        """Learn from one episode of the current policy.

        Args:
            trajectory: (state, action, loss) of every step.

        Raises:
            NotFittedError: before :meth:`start` or :meth:`fit`.
            ValueError: for another number of steps, states or actions that are not there, or losses
                outside [0, 1].
        """
        check_is_fitted(self, "policy_")
        horizon, n_states, n_actions = self.policy_.shape
        if len(trajectory) != horizon:
            raise ValueError(f"trajectory must have {horizon} steps, got {len(trajectory)}")
        states = np.array([step[0] for step in trajectory], dtype=np.int64)
        actions = np.array([step[1] for step in trajectory], dtype=np.int64)
        losses = np.array([step[2] for step in trajectory], dtype=np.float64)
        for name, values, size in (("states", states, n_states), ("actions", actions, n_actions)):
            if values.min() < 0 or values.max() >= size:
                raise ValueError(f"{name} of trajectory must be in 0 .. {size - 1}")
        if not np.all((losses >= -_LOSS_ROUNDING) & (losses <= 1 + _LOSS_ROUNDING)):
            raise ValueError(
                f"losses of trajectory must be in [0, 1], got {losses.min():.4g} to "
                f"{losses.max():.4g}"
            )
        visited = states * n_actions + actions
        loss_to_go = np.cumsum(losses[::-1])[::-1]
        if self.simulator:
            self._update(visited, loss_to_go)
        else:
            self._follow(visited, states)
            self._epoch.append((visited, loss_to_go))
            if len(self._epoch) == self._length:
                self._update_epoch()

    def _check(self, n_episodes: int) -> None:
        if self.algorithm not in ALGORITHMS:
            raise ValueError(f"algorithm must be one of {ALGORITHMS}, got {self.algorithm!r}")
        if self.covariance not in COVARIANCES:
            raise ValueError(f"covariance must be one of {COVARIANCES}, got {self.covariance!r}")
        if not self.simulator and self.algorithm != "log_barrier":
            raise ValueError(
                f'algorithm must be "log_barrier" with simulator=False, got {self.algorithm!r}'
            )
        for name in ("eta", "gamma", "beta"):
            value = getattr(self, name)
            if isinstance(value, str):
                if value != "auto":
                    raise ValueError(f'{name} must be a number or "auto", got {value!r}')
            elif not (math.isfinite(value) and (value > 0 or (name == "beta" and value == 0))):
                raise ValueError(f"{name} must be positive and finite, got {value}")
        if self.eta_scale is not None:
            _check_positive("eta_scale", self.eta_scale)
        if not (math.isfinite(self.bonus_scale) and self.bonus_scale >= 0):
            raise ValueError(f"bonus_scale must be at least 0, got {self.bonus_scale}")
        check_sizes(
            n_episodes=n_episodes, n_simulations=self.n_simulations, n_repeats=self.n_repeats
        )
        if self.epoch_length is not None and self.epoch_length < 2:
            raise ValueError(f"epoch_length must be at least 2, got {self.epoch_length}")

    def _set_policy(self) -> None:
        choose = _log_barrier if self.algorithm == "log_barrier" else _exponential
        self.policy_ = choose(self._cumulative, self.eta_)
        self._exact_visits: np.ndarray | None = None

    def _visits(self) -> np.ndarray:
        """Exact probabilities (H, S, A) of the current policy's visits."""
        if self._exact_visits is None:
            result = np.empty_like(self.policy_)
            state = np.zeros(self.policy_.shape[1])
            state[self._env.initial_state] = 1
            for h, step in enumerate(self.policy_):
                result[h] = state[:, None] * step
                state = result[h].ravel() @ self._env.transitions[h].reshape(-1, len(state))
            self._exact_visits = result
        return self._exact_visits

    def _trajectories(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """States and actions (count, H) of fresh trajectories of the current policy."""
        horizon = len(self.policy_)
        states = np.empty((count, horizon), dtype=np.int64)
        actions = np.empty((count, horizon), dtype=np.int64)
        state = np.full(count, self._env.initial_state)
        choices = np.cumsum(self.policy_, axis=-1)
        draws = self._rng.random((2, horizon, count))
        for h in range(horizon):
            states[:, h] = state
            action = np.sum(draws[0, h][:, None] >= choices[h, state, :-1], axis=1)
            actions[:, h] = action
            state = np.sum(draws[1, h][:, None] >= self._followers[h, state, action, :-1], axis=1)
        return states, actions

    def _covariance(self) -> tuple[np.ndarray, np.ndarray]:
        """Inverse covariances (H, d, d), and the visits (H, pairs) they are made of."""
        horizon, _, n_actions = self.policy_.shape
        if self.covariance == "exact":
            weights = self._visits().reshape(horizon, -1)
        else:
            repeats = self.n_repeats if self.covariance == "geometric" else 1
            states, actions = self._trajectories(repeats * self.n_simulations)
            visited = states * n_actions + actions
            weights = np.stack(
                [np.bincount(column, minlength=self._pairs.shape[1]) for column in visited.T]
            ) / len(visited)
            if self.covariance == "geometric":
                chains = visited.T.reshape(horizon, repeats, self.n_simulations)
                inverse = np.stack(
                    [
                        geometric_resampling(self._pairs[h][chains[h]], self.gamma_)
                        for h in range(horizon)
                    ]
                )
                return inverse, weights
        weighted = self._pairs * weights[:, :, None]
        return _inverse(np.swapaxes(weighted, 1, 2) @ self._pairs, self.gamma_), weights

    def _bonus(self, inverse: np.ndarray) -> np.ndarray:
        norms = np.sum((self._pairs @ inverse) * self._pairs, axis=-1).reshape(self.policy_.shape)
        # Resampled inverses need not be positive definite.
        norms = np.maximum(norms, 0)
        return self.beta_ * (norms + np.sum(self.policy_ * norms, axis=-1, keepdims=True))

    def _update(self, visited: np.ndarray, loss_to_go: np.ndarray) -> None:
        inverse, weights = self._covariance()
        steps = np.arange(len(visited))
        if self.algorithm == "magnitude_reduced":
            products = self._pairs @ inverse @ np.swapaxes(self._pairs, 1, 2)
            estimate = _reduced(products, visited, loss_to_go, weights, len(visited))
        else:
            towards = inverse @ self._pairs[steps, visited][:, :, None]
            estimate = (self._pairs @ towards)[:, :, 0] * loss_to_go[:, None]
        self._learn(estimate, _dilate(self._bonus(inverse), self._env.transitions, self.policy_))

    def _follow(self, visited: np.ndarray, states: np.ndarray) -> None:
        """Add one episode's transitions to their regression."""
        phi = self._pairs[np.arange(len(visited)), visited]
        self._gram += phi[:, :, None] * phi[:, None, :]
        for h in range(len(visited) - 1):
            self._followed[h, :, states[h + 1]] += phi[h]

    def _update_epoch(self) -> None:
        horizon, n_states, n_actions = self.policy_.shape
        even, odd = self._epoch[::2], self._epoch[1::2]
        self._epoch = []
        steps = np.arange(horizon)
        seen = np.stack([self._pairs[steps, visited] for visited, _ in even], axis=1)
        inverse = _inverse(np.swapaxes(seen, 1, 2) @ seen / len(even), self.gamma_)
        target = np.mean(
            [self._pairs[steps, visited] * loss[:, None] for visited, loss in odd], axis=0
        )
        estimate = (self._pairs @ (inverse @ target[:, :, None]))[:, :, 0]
        gram = np.linalg.inv(self._gram)
        transitions = np.maximum(self._pairs @ (gram @ self._followed), 0)
        total = transitions.sum(axis=-1, keepdims=True)
        transitions = np.where(total > 0, transitions / np.where(total > 0, total, 1), 1 / n_states)
        norms = np.sqrt(np.sum((self._pairs @ gram) * self._pairs, axis=-1))
        self._learn(
            estimate,
            _dilate(
                self._bonus(inverse),
                transitions.reshape(horizon, n_states, n_actions, n_states),
                self.policy_,
                _TRANSITION_BONUS * norms.reshape(self.policy_.shape),
            ),
        )

    def _learn(self, estimate: np.ndarray, bonus: np.ndarray) -> None:
        self.min_estimate_ = min(self.min_estimate_, float(estimate.min()))
        self._cumulative += estimate.reshape(bonus.shape) - bonus
        self._set_policy()


def __dir__() -> list[str]:
    return public_names(globals())
