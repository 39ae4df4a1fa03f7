"""Weighted regressions of the moments of a value, and the variances that weigh them.

Level m regresses ``V(s')^(2^m)`` on its features with weight 1 / sigma_m^2; the variance of level m
is read from level m + 1, so that only the last level needs a trivial bound.

Source: the high-order moment estimator of "Optimal Horizon-Free Reward-Free Exploration for Linear
Mixture MDPs" (arXiv 2303.10165).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from rankone.rl.envs import check_sizes


def confidence_radius(
    k: int,
    horizon: int,
    n_features: int,
    alpha: float,
    gamma: float,
    ridge: float,
    theta_bound: float,
    delta: float,
) -> float:
    """The theory's radius of the confidence set at episode k.

    ``12 sqrt(d eta tau) + 30 tau / gamma^2 + sqrt(ridge) B`` with
    ``eta = ln(1 + k H / (alpha^2 d ridge))`` and
    ``tau = ln(32 (ln(gamma^2 / alpha) + 1) k^2 H^2 / delta)``. At desk scale it is vacuous.

    Args:
        k, horizon, n_features: episode, H and d.
        alpha, gamma, ridge: of the regressions.
        theta_bound: B, bound of the norm of theta.
        delta: failure probability.

    Returns:
        The radius.

    Raises:
        ValueError: for values out of range, or gamma^2 / alpha below 1 / e.

    Source: arXiv 2303.10165.

    Example:
        >>> from rankone.rl.reward_free import confidence_radius
        >>> round(confidence_radius(200, 16, 4, 0.25, 0.5**0.5, 4.0, 1.0, 0.1), 2)
        1671.17
    """
    check_sizes(k=k, horizon=horizon, n_features=n_features)
    positive = {"alpha": alpha, "gamma": gamma, "ridge": ridge, "theta_bound": theta_bound}
    for name, value in positive.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be positive and finite, got {value}")
    if not 0 < delta < 1:
        raise ValueError(f"delta must be in (0, 1), got {delta}")
    spread = math.log(gamma**2 / alpha) + 1
    if spread <= 0:
        raise ValueError(
            f"ln(gamma^2 / alpha) + 1 must be positive, got {spread:.4g} from gamma={gamma:.4g} "
            f"and alpha={alpha:.4g}"
        )
    eta = math.log(1 + k * horizon / (alpha**2 * n_features * ridge))
    tau = math.log(32 * spread * k**2 * horizon**2 / delta)
    return (
        12 * math.sqrt(n_features * eta * tau)
        + 30 * tau / gamma**2
        + math.sqrt(ridge) * theta_bound
    )


def home_variance(
    features: ArrayLike,
    theta: ArrayLike,
    cov: ArrayLike,
    cov_start: ArrayLike,
    beta: float,
    alpha: float,
    gamma: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights of all levels at one visited pair.

    ``var_m = [<f_{m+1}, theta_{m+1}>] - [<f_m, theta_m>]^2`` and
    ``E_m = [2 beta |f_m|] + [beta |f_{m+1}|]`` in the norms of the inverse covariances at the start
    of the episode, with [x] clipped to [0, 1]. Then
    ``sigma_m^2 = max(gamma^2 |f_m|, var_m + E_m, alpha^2)``, this norm that of the running
    covariance, and 1 in the place of ``var_m + E_m`` at the last level.

    Args:
        features: (M, d), f_m.
        theta: (M, d), estimates of the start of the episode.
        cov, cov_start: (M, d, d), running and at the start of the episode.
        beta: radius.
        alpha, gamma: floors.

    Returns:
        ``sigma^2`` (M,), ``var`` (M-1,) and ``E`` (M-1,).

    Raises:
        ValueError: for shapes that do not fit.

    Source: arXiv 2303.10165.

    Example:
        >>> import numpy as np
        >>> from rankone.rl.reward_free import home_variance
        >>> features, theta = np.ones((2, 1)), np.full((2, 1), 0.5)
        >>> weights, _, _ = home_variance(features, theta, np.eye(1)[None].repeat(2, 0),
        ...                               np.eye(1)[None].repeat(2, 0), 0.1, 0.1, 0.1)
        >>> weights.shape
        (2,)
    """
    features, theta = np.asarray(features, dtype=float), np.asarray(theta, dtype=float)
    cov, cov_start = np.asarray(cov, dtype=float), np.asarray(cov_start, dtype=float)
    if features.ndim != 2 or theta.shape != features.shape:
        raise ValueError(
            "features and theta must both have shape (M, d), got shapes "
            f"{features.shape} and {theta.shape}"
        )
    shape = (*features.shape, features.shape[1])
    for name, values in (("cov", cov), ("cov_start", cov_start)):
        if values.shape != shape:
            raise ValueError(f"{name} must have shape {shape}, got shape {values.shape}")
    return weigh(features, theta, np.linalg.inv(cov), np.linalg.inv(cov_start), beta, alpha, gamma)


def weigh(
    features: np.ndarray,
    theta: np.ndarray,
    inverse: np.ndarray,
    inverse_start: np.ndarray,
    beta: float,
    alpha: float,
    gamma: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """:func:`home_variance` from the inverses of the covariances."""
    mean = np.clip(np.sum(features * theta, axis=1), 0, 1)
    variance = mean[1:] - mean[:-1] ** 2
    norm = beta * _norms(features, inverse_start)
    error = np.clip(2 * norm[:-1], 0, 1) + np.clip(norm[1:], 0, 1)
    floor = np.maximum(gamma**2 * _norms(features, inverse), alpha**2)
    return np.maximum(floor, np.append(variance + error, 1.0)), variance, error


def _norms(features: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    """Norms (M,) in the metrics of inverse covariances.

    Features near 1e-160 can give tiny negative squares, and one NaN would spoil every later weight.
    """
    squares = np.sum(features * (inverse @ features[:, :, None])[:, :, 0], axis=1)
    return np.sqrt(np.maximum(squares, 0))


class MomentRegression:
    """Ridge regressions of M moments with one weight a sample and level.

    The covariance runs within an episode; estimates and the covariance of the confidence set stay
    those of its start.

    Args:
        n_moments, n_features: M and d.
        ridge: lambda.

    Attributes:
        theta: (M, d), estimates.
        cov, cov_start: (M, d, d), running and at the start of the episode.
        b: (M, d), weighted sums of features times targets.

    Raises:
        ValueError: for sizes below 1 or a ridge that is not positive.

    Source: arXiv 2303.10165.

    Example:
        >>> import numpy as np
        >>> from rankone.rl.reward_free import MomentRegression
        >>> regression = MomentRegression(1, 1, ridge=1.0)
        >>> regression.update(np.ones((1, 1)), np.ones(1), np.ones(1))
        >>> regression.end_episode()
        >>> regression.theta.tolist()
        [[0.5]]
    """

    def __init__(self, n_moments: int, n_features: int, ridge: float) -> None:
        check_sizes(n_moments=n_moments, n_features=n_features)
        if not (math.isfinite(ridge) and ridge > 0):
            raise ValueError(f"ridge must be positive and finite, got {ridge}")
        self.ridge = float(ridge)
        self.theta: np.ndarray = np.zeros((n_moments, n_features))
        self.b: np.ndarray = np.zeros((n_moments, n_features))
        start = self.ridge * np.eye(n_features)
        self.cov = np.broadcast_to(start, (n_moments, n_features, n_features)).copy()
        self.cov_start = self.cov.copy()
        self.inverse = np.linalg.inv(self.cov)
        self.inverse_start = self.inverse.copy()

    def update(self, features: ArrayLike, targets: ArrayLike, sigma2: ArrayLike) -> None:
        """Add one sample of every level.

        Args:
            features: (M, d).
            targets: (M,).
            sigma2: (M,), inverse weights.

        Raises:
            ValueError: for shapes that do not fit, or sigma2 not positive.
        """
        features = np.asarray(features, dtype=float)
        targets, sigma2 = np.asarray(targets, dtype=float), np.asarray(sigma2, dtype=float)
        if features.shape != self.theta.shape:
            raise ValueError(
                f"features must have shape {self.theta.shape}, got shape {features.shape}"
            )
        for name, values in (("targets", targets), ("sigma2", sigma2)):
            if values.shape != (len(features),):
                raise ValueError(
                    f"{name} must have shape ({len(features)},), got shape {values.shape}"
                )
        if not np.all(sigma2 > 0):
            raise ValueError(f"sigma2 must be positive, got {sigma2.min()}")
        weighted = features / sigma2[:, None]
        self.cov += weighted[:, :, None] * features[:, None, :]
        self.b += weighted * targets[:, None]
        # Sherman-Morrison; made anew from the covariance at the end of the episode.
        along = (self.inverse @ features[:, :, None])[:, :, 0]
        scale = sigma2 + np.sum(features * along, axis=1)
        self.inverse -= along[:, :, None] * along[:, None, :] / scale[:, None, None]

    def end_episode(self) -> None:
        """Solve for the estimates, and fix the covariance of the next episode's start."""
        self.theta = np.linalg.solve(self.cov, self.b[:, :, None])[:, :, 0]
        self.cov_start = self.cov.copy()
        self.inverse = np.linalg.inv(self.cov)
        self.inverse_start = self.inverse.copy()

    def distances(self, theta: np.ndarray) -> np.ndarray:
        """Distances (M,) of a parameter from the estimates in the metrics of ``cov_start``."""
        away = theta - self.theta
        return np.sqrt(np.maximum(np.einsum("md,mde,me->m", away, self.cov_start, away), 0))
