"""Exploration before any reward is known, in linear mixture processes, free of the horizon.

Episodes are played without reward, each towards the value that the data so far leaves most
uncertain; afterwards one model is planned in for every reward whose total stays below 1. The number
of episodes needed does not grow with the horizon, because the uncertainty of a trajectory is capped
inside its recursion, and because samples are weighted by the variances of all moments of the value.

Source: "Optimal Horizon-Free Reward-Free Exploration for Linear Mixture MDPs" (arXiv 2303.10165):
the exploration loop, the moment estimator and the radius. The oracle that chooses policy, model and
reward is this project's own (``rankone.rl._exploration_oracle``), as are the practical radius
``beta=0.3`` and re-planning when the information has doubled.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from rankone._namespace import public_names
from rankone._progress import Progress
from rankone.rl._exploration_oracle import (
    Metric,
    Oracle,
    largest_norms,
    model_transitions,
    norms,
    project_model,
    values,
)
from rankone.rl._moment_regression import (
    MomentRegression,
    confidence_radius,
    home_variance,
    weigh,
)
from rankone.rl.envs import LinearMixtureMDP, check_sizes
from rankone.rl.planning import backward_induction

__all__ = [
    "HoeffdingRewardFree",
    "HorizonFreeExplorer",
    "MomentRegression",
    "confidence_radius",
    "home_variance",
]

EXPLORATIONS = ("uncertainty", "uniform")
REPLANS = ("doubling", "every")
THETA_SETS = ("probability",)

_REWARD_ROUNDING = 1e-9


class _RewardFree(BaseEstimator):
    """What explorers share: the model at the end, and planning in it."""

    def plan(
        self, reward: ArrayLike, *, check_reward: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """An optimal policy of the fitted model for a reward, and its values in the model.

        Args:
            reward: (H, S, A), at least 0, with the largest entries of the steps summing to at most
                1: no trajectory then collects more.
            check_reward: False for rewards outside of that, which the guarantee does not cover.

        Returns:
            Policy (H, S) of actions and values (H + 1, S).

        Raises:
            NotFittedError: before ``fit``.
            ValueError: for another shape or an inadmissible reward.
        """
        check_is_fitted(self, "transitions_")
        reward = np.asarray(reward, dtype=np.float64)
        shape = (self._horizon, *self.transitions_.shape[:2])
        if reward.shape != shape:
            raise ValueError(f"reward must have shape {shape}, got shape {reward.shape}")
        if check_reward:
            if not reward.min() >= 0:
                raise ValueError(f"reward must be at least 0, got {reward.min():.4g}")
            total = reward.max(axis=(1, 2)).sum()
            if total > 1 + _REWARD_ROUNDING:
                raise ValueError(
                    "the largest entries of reward must sum to at most 1 over the steps, got "
                    f"{total:.4g}; divide it, or set check_reward=False"
                )
        return backward_induction(self.transitions_, reward)

    def _set_model(self, theta: np.ndarray) -> None:
        self.theta_ = theta
        self.transitions_ = model_transitions(theta, self.features_)

    def _begin(self, env: LinearMixtureMDP) -> None:
        if not isinstance(env, LinearMixtureMDP):
            raise ValueError(f"env must be a LinearMixtureMDP, got {type(env).__name__}")
        check_sizes(n_episodes=self.n_episodes)
        self.features_ = env.features
        self._horizon = env.horizon
        self._initial = env.initial_state
        self._rng = np.random.default_rng(self.random_state)
        self.visits_ = np.zeros((env.n_states, env.n_actions), dtype=np.int64)
        env.reset(seed=int(self._rng.integers(2**31)))


class HorizonFreeExplorer(_RewardFree):
    """Reward-free exploration by the most uncertain value, with weighted moments.

    Args:
        n_episodes: K.
        beta: radius of the confidence sets: a number (0.3 is practical) or "theory", which is
            vacuous at desk scale. Both are reported, in ``radius_`` and ``theory_radius_``.
        delta: failure probability of the theory's radius.
        alpha, gamma, ridge: floors and ridge of the regressions; None means H^(-1/2), d^(-1/4) and
            d / theta_bound^2.
        theta_bound: B, bound of the norm of theta.
        n_moments: M; None means ``ceil(log2(7 K H))``.
        exploration: "uncertainty", or "uniform" for a random deterministic policy an episode with
            the same regressions, towards a random set of states at the end.
        replan: "doubling" searches anew when the logarithms of the determinants of both series'
            level-0 covariances have grown by ln 2 together; "every" is the literal algorithm.
        n_restarts, max_iter: starts and rounds of the search.
        theta_set: "probability", the valid models.
        random_state: seed of the episodes and the search.

    Attributes:
        theta_: (d,), the model planned in.
        transitions_: (S, A, S), of it.
        theta_tilde_, theta_hat_: (M, d), estimates of the pseudo- and the uncertainty series.
        cov_tilde_, cov_hat_: (M, d, d), their covariances.
        visits_: (S, A), visits in all episodes.
        radius_, theory_radius_: in use, and the theory's.
        n_replans_: searches made.
        history_: arrays of one entry an episode: ``episode``, ``uncertainty`` (value of the first
            state), ``upper_bound`` (greedy value with every pair's largest bonus, at the last
            search) and ``max_variance`` (largest level-0 sigma^2).
        features_: (S, A, S, d).

    Source: "Optimal Horizon-Free Reward-Free Exploration for Linear Mixture MDPs" (arXiv
    2303.10165).

    Example:
        >>> import numpy as np
        >>> from rankone.rl.envs import LinearMixtureMDP
        >>> from rankone.rl.reward_free import HorizonFreeExplorer
        >>> env = LinearMixtureMDP.combination_lock(depth=2, horizon=6, seed=0)
        >>> explorer = HorizonFreeExplorer(n_episodes=20, random_state=0).fit(env)
        >>> reward = np.zeros((6, env.n_states, env.n_actions))
        >>> reward[-1, 3] = 1.0
        >>> policy, value = explorer.plan(reward)
        >>> policy.shape, value.shape
        ((6, 5), (7, 5))
    """

    def __init__(
        self,
        n_episodes: int = 100,
        beta: float | str = 0.3,
        delta: float = 0.05,
        alpha: float | None = None,
        gamma: float | None = None,
        ridge: float | None = None,
        theta_bound: float = 1.0,
        n_moments: int | None = None,
        exploration: str = "uncertainty",
        replan: str = "doubling",
        n_restarts: int = 2,
        max_iter: int = 6,
        theta_set: str = "probability",
        random_state: int | None = None,
    ) -> None:
        self.n_episodes = n_episodes
        self.beta = beta
        self.delta = delta
        self.alpha = alpha
        self.gamma = gamma
        self.ridge = ridge
        self.theta_bound = theta_bound
        self.n_moments = n_moments
        self.exploration = exploration
        self.replan = replan
        self.n_restarts = n_restarts
        self.max_iter = max_iter
        self.theta_set = theta_set
        self.random_state = random_state

    def fit(
        self,
        env: LinearMixtureMDP,
        *,
        callback: Callable[[HorizonFreeExplorer, int], None] | None = None,
        progress: bool = False,
    ) -> HorizonFreeExplorer:
        """Explore; the environment's rewards are never read.

        Args:
            env: what to explore.
            callback: called with the explorer and k after every episode k, when the fitted
                attributes are those of k episodes.
            progress: show a bar on a terminal.

        Raises:
            ValueError: for another environment or parameters out of range.
        """
        self._begin(env)
        self._set_constants(env)
        self._tilde, self._hat = (
            MomentRegression(self._n_moments, env.n_features, self._ridge) for _ in range(2)
        )
        self.n_replans_ = 0
        history: dict[str, list[float]] = {
            name: [] for name in ("episode", "uncertainty", "upper_bound", "max_variance")
        }
        information = -math.inf
        with Progress("exploring", self.n_episodes, enabled=progress) as bar:
            for k in range(1, self.n_episodes + 1):
                radius = self._radius(k)
                metric = self._metric(radius)
                now = sum(np.linalg.slogdet(s.cov[0])[1] for s in (self._tilde, self._hat))
                due = self.replan == "every" or now >= information + math.log(2)
                if self.exploration == "uniform":
                    choice = self._random_choice(env)
                    model = self._project()
                elif due:
                    model = self._project()
                    oracle = Oracle(
                        metric,
                        model_transitions(model, env.features),
                        env.horizon,
                        env.initial_state,
                        self._rng,
                    )
                    found = oracle.search(self.n_restarts, self.max_iter)
                    choice = (found.policy, found.reward, found.upper_bound)
                    information = now
                    self.n_replans_ += 1
                policy, reward, upper_bound = choice
                transitions = model_transitions(model, env.features)
                pseudo, uncertain, _ = values(metric, transitions, policy, reward)
                largest = self._play(env, policy, pseudo, uncertain, radius)
                history["episode"].append(k)
                history["uncertainty"].append(float(uncertain[0, env.initial_state]))
                history["upper_bound"].append(upper_bound)
                history["max_variance"].append(largest)
                if callback is not None or k == self.n_episodes:
                    self._finish(k, history)
                if callback is not None:
                    callback(self, k)
                bar.advance()
        return self

    def pseudo_value(
        self, theta: ArrayLike, policy: ArrayLike, reward: ArrayLike
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Values of a triple with the fitted covariances and the last radius.

        Args:
            theta: (d,), a valid model.
            policy: (H, S) of actions.
            reward: (H, S, A).

        Returns:
            Pseudo-value (H+1, S), uncertainty value (H+1, S) and bonus u (H, S, A).

        Raises:
            NotFittedError: before ``fit``.
            ValueError: for shapes that do not fit.
        """
        check_is_fitted(self, "theta_")
        theta = self._parameter(theta)
        policy, reward = np.asarray(policy), np.asarray(reward, dtype=np.float64)
        n_states, n_actions = self.features_.shape[:2]
        shape = (self._horizon, n_states, n_actions)
        if reward.shape != shape:
            raise ValueError(f"reward must have shape {shape}, got shape {reward.shape}")
        if policy.shape != shape[:2] or not np.issubdtype(policy.dtype, np.integer):
            raise ValueError(
                f"policy must have integers of shape {shape[:2]}, got {policy.dtype} of shape "
                f"{policy.shape}"
            )
        if policy.min() < 0 or policy.max() >= n_actions:
            raise ValueError(f"policy must hold actions in 0 .. {n_actions - 1}")
        return values(self._metric(self.radius_), self.features_ @ theta, policy, reward)

    def contains(self, theta: ArrayLike) -> bool:
        """Whether a parameter lies in the final confidence set, at every level of both series.

        The guarantee that the true parameter does is that of ``beta="theory"``. At a practical
        radius it can lie outside: with 0.3 it did in all 24 runs of 5 to 30 episodes on
        the combination lock that were tried.

        Raises:
            NotFittedError: before ``fit``.
            ValueError: for another shape.
        """
        check_is_fitted(self, "theta_")
        theta = self._parameter(theta)
        farthest = max(series.distances(theta).max() for series in (self._tilde, self._hat))
        return bool(farthest <= self.radius_)

    def _parameter(self, theta: ArrayLike) -> np.ndarray:
        theta = np.asarray(theta, dtype=np.float64)
        if theta.shape != self.features_.shape[-1:]:
            raise ValueError(
                f"theta must have shape {self.features_.shape[-1:]}, got shape {theta.shape}"
            )
        return theta

    def _set_constants(self, env: LinearMixtureMDP) -> None:
        for name, known in (
            ("exploration", EXPLORATIONS),
            ("replan", REPLANS),
            ("theta_set", THETA_SETS),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}")
        if isinstance(self.beta, str):
            if self.beta != "theory":
                raise ValueError(f'beta must be a number or "theory", got {self.beta!r}')
        else:
            _check_beta(self.beta)
        check_sizes(n_restarts=self.n_restarts)
        if self.max_iter < 0:
            raise ValueError(f"max_iter must be at least 0, got {self.max_iter}")
        d = env.n_features
        moments = math.ceil(math.log2(7 * self.n_episodes * env.horizon))
        self._n_moments = moments if self.n_moments is None else self.n_moments
        check_sizes(n_moments=self._n_moments)
        self._alpha = env.horizon**-0.5 if self.alpha is None else self.alpha
        self._gamma = d**-0.25 if self.gamma is None else self.gamma
        self._ridge = d / self.theta_bound**2 if self.ridge is None else self.ridge
        # Checks the constants, whichever radius is used.
        self._theory(1)

    def _theory(self, k: int) -> float:
        return confidence_radius(
            k,
            self._horizon,
            self.features_.shape[-1],
            self._alpha,
            self._gamma,
            self._ridge,
            self.theta_bound,
            self.delta,
        )

    def _radius(self, k: int) -> float:
        return self._theory(k) if isinstance(self.beta, str) else float(self.beta)

    def _metric(self, radius: float) -> Metric:
        tilde, hat = self._tilde.inverse_start[0], self._hat.inverse_start[0]
        return Metric.of(self.features_, tilde, hat, radius)

    def _project(self) -> np.ndarray:
        """The level-0 estimate of both series together, as a valid model."""
        tilde, hat = self._tilde, self._hat
        together = tilde.cov[0] + hat.cov[0]
        combined = together - self._ridge * np.eye(len(together))
        theta = np.linalg.solve(combined, tilde.b[0] + hat.b[0])
        return project_model(theta, together, self.features_)

    def _random_choice(self, env: LinearMixtureMDP) -> tuple[np.ndarray, np.ndarray, float]:
        policy = self._rng.integers(env.n_actions, size=(env.horizon, env.n_states))
        reward = np.zeros((env.horizon, env.n_states, env.n_actions))
        reward[-1] = self._rng.integers(0, 2, env.n_states)[:, None]
        return policy, reward, 1.0

    def _play(
        self,
        env: LinearMixtureMDP,
        policy: np.ndarray,
        pseudo: np.ndarray,
        uncertain: np.ndarray,
        radius: float,
    ) -> float:
        """One episode, regressed as it goes; gives the largest level-0 sigma^2."""
        exponents = 2.0 ** np.arange(self._n_moments)
        # Values of the next state to the powers of the levels, (H, M, S).
        moments = [
            np.clip(value[1:], 0, 1)[:, None, :] ** exponents[:, None]
            for value in (pseudo, uncertain)
        ]
        largest = 0.0
        state, _ = env.reset()
        for h in range(env.horizon):
            action = int(policy[h, state])
            self.visits_[state, action] += 1
            follower, _, _, _, _ = env.step(action)
            for series, powers in zip((self._tilde, self._hat), moments, strict=True):
                features = powers[h] @ env.features[state, action]
                sigma2, _, _ = weigh(
                    features,
                    series.theta,
                    series.inverse,
                    series.inverse_start,
                    radius,
                    self._alpha,
                    self._gamma,
                )
                series.update(features, powers[h][:, follower], sigma2)
                largest = max(largest, float(sigma2[0]))
            state = follower
        self._tilde.end_episode()
        self._hat.end_episode()
        return largest

    def _finish(self, k: int, history: dict[str, list[float]]) -> None:
        self._set_model(self._project())
        self.theta_tilde_, self.theta_hat_ = self._tilde.theta, self._hat.theta
        self.cov_tilde_, self.cov_hat_ = self._tilde.cov, self._hat.cov
        self.radius_, self.theory_radius_ = self._radius(k), self._theory(k)
        self.history_ = {name: np.array(entries) for name, entries in history.items()}


class HoeffdingRewardFree(_RewardFree):
    """The baseline: a bonus at every step as the reward, and unweighted regression.

    Every episode plans for the pseudo-reward ``min(1, 2 beta max_f |phi_f|) / H`` optimistically,
    and regresses the set of states f that is known least at each visited pair. The sum of the bonus
    over a trajectory can reach H, which is what makes its theory depend on the horizon.

    Args:
        n_episodes: K.
        beta: radius.
        ridge: of the regression.
        random_state: seed of the episodes.

    Attributes:
        theta_, transitions_, features_, visits_: as of :class:`HorizonFreeExplorer`.
        cov_: (d, d).

    Source: the reward-free predecessor (UCRL-RFE) that arXiv 2303.10165 improves on, as read here.

    Example:
        >>> from rankone.rl.envs import LinearMixtureMDP
        >>> from rankone.rl.reward_free import HoeffdingRewardFree
        >>> env = LinearMixtureMDP.combination_lock(depth=2, horizon=6, seed=0)
        >>> HoeffdingRewardFree(n_episodes=5, random_state=0).fit(env).theta_.shape
        (2,)
    """

    def __init__(
        self,
        n_episodes: int,
        beta: float = 0.3,
        ridge: float = 1.0,
        random_state: int | None = None,
    ) -> None:
        self.n_episodes = n_episodes
        self.beta = beta
        self.ridge = ridge
        self.random_state = random_state

    def fit(
        self,
        env: LinearMixtureMDP,
        *,
        callback: Callable[[HoeffdingRewardFree, int], None] | None = None,
        progress: bool = False,
    ) -> HoeffdingRewardFree:
        """Explore; as :meth:`HorizonFreeExplorer.fit`.

        Raises:
            ValueError: for another environment or parameters out of range.
        """
        self._begin(env)
        _check_beta(self.beta)
        if not (math.isfinite(self.ridge) and self.ridge > 0):
            raise ValueError(f"ridge must be positive and finite, got {self.ridge}")
        d, n_states, n_actions = env.n_features, env.n_states, env.n_actions
        self.cov_, b = self.ridge * np.eye(d), np.zeros(d)
        flat = env.features.reshape(-1, n_states, d)
        with Progress("exploring", self.n_episodes, enabled=progress) as bar:
            for k in range(1, self.n_episodes + 1):
                inverse = np.linalg.inv(self.cov_)
                weighted = flat @ np.linalg.cholesky((inverse + inverse.T) / 2)
                norm, sets = largest_norms(weighted, self._rng)
                reward = np.minimum(1, 2 * self.beta * norm) / env.horizon
                theta = project_model(inverse @ b, self.cov_, env.features)
                policy = self._optimistic(
                    reward.reshape(n_states, n_actions), weighted, theta, env.horizon
                )
                state, _ = env.reset()
                for h in range(env.horizon):
                    action = int(policy[h, state])
                    self.visits_[state, action] += 1
                    chosen = sets[state * n_actions + action]
                    feature = chosen @ env.features[state, action]
                    state, _, _, _, _ = env.step(action)
                    self.cov_ += np.outer(feature, feature)
                    b += feature * chosen[state]
                if callback is not None or k == self.n_episodes:
                    theta = np.linalg.solve(self.cov_, b)
                    self._set_model(project_model(theta, self.cov_, env.features))
                if callback is not None:
                    callback(self, k)
                bar.advance()
        return self

    def _optimistic(
        self, reward: np.ndarray, weighted: np.ndarray, theta: np.ndarray, horizon: int
    ) -> np.ndarray:
        n_states, n_actions = reward.shape
        model = model_transitions(theta, self.features_).reshape(-1, n_states)
        policy = np.zeros((horizon, n_states), dtype=np.int64)
        value = np.zeros(n_states)
        for h in reversed(range(horizon)):
            ahead = model @ value + self.beta * norms(weighted, value)
            q = np.minimum(1, reward + ahead.reshape(n_states, n_actions))
            policy[h] = np.argmax(q, axis=1)
            value = q.max(axis=1)
        return policy


def _check_beta(beta: float) -> None:
    if not (math.isfinite(beta) and beta > 0):
        raise ValueError(f"beta must be positive and finite, got {beta}")


def __dir__() -> list[str]:
    return public_names(globals())
