"""Linear bandits whose model is wrong by a bounded amount, and the hard instances of them.

An arm's mean reward is linear in its features up to an error of at most epsilon, which no amount of
averaging removes. The spread instance makes dense optimal design lose epsilon sqrt(d); the
near-orthogonal ones hide the best arm among arms that tell nothing of it.

Source: "Does Sparsity Help in Learning Misspecified Linear Bandits?" (arXiv 2303.16998) for the
setting. The instances and their constants are this project's own.
"""

from __future__ import annotations

import math
from itertools import combinations, product

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import check_random_state

# Rounding allowed where a norm or an inner product meets its bound.
ROUNDING = 1e-9


class MisspecifiedBandit:
    """A bandit with rewards ``features @ theta + misspecification`` and Gaussian noise.

    Args:
        features: (arms, d).
        theta: (d,), the linear part.
        misspecification: (arms,), what the linear part leaves of every mean reward.
        noise_std: standard deviation of one pull.
        random_state: of the noise; ``reset`` starts it again where it is an integer.

    Attributes:
        features, theta, noise_std: as given, in float64.
        rewards: (arms,), mean rewards.
        epsilon: largest absolute misspecification.
        n_pulls: noisy samples taken.
        queried: distinct arms pulled, in the order of their first pull.

    Raises:
        ValueError: for shapes that do not fit, numbers that are not finite, a negative noise.

    Source: "Does Sparsity Help in Learning Misspecified Linear Bandits?" (arXiv 2303.16998).

    Example:
        >>> import numpy as np
        >>> from rankone.rl.misspecified_bandit import MisspecifiedBandit
        >>> bandit = MisspecifiedBandit(np.eye(2), [0.5, 0.25], [0.0, 0.25])
        >>> bandit.pull(1), bandit.epsilon, bandit.n_pulls, bandit.queried
        (0.5, 0.25, 1, [1])
    """

    def __init__(
        self,
        features: ArrayLike,
        theta: ArrayLike,
        misspecification: ArrayLike,
        noise_std: float = 0.0,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.features = check_features(features)
        arms, d = self.features.shape
        self.theta = _vector("theta", theta, d)
        self.misspecification = _vector("misspecification", misspecification, arms)
        self.noise_std = float(noise_std)
        if not (math.isfinite(self.noise_std) and self.noise_std >= 0):
            raise ValueError(f"noise_std must be finite and at least 0, got {noise_std}")
        self.random_state = random_state
        self.rewards = self.features @ self.theta + self.misspecification
        self.epsilon = float(np.max(np.abs(self.misspecification)))
        self.reset()

    @property
    def n_arms(self) -> int:
        """Number of arms."""
        return len(self.features)

    def reset(self) -> None:
        """Forget all pulls; noise from an integer ``random_state`` starts again."""
        self._rng = check_random_state(self.random_state)
        self.n_pulls = 0
        self.queried: list[int] = []

    def pull(self, arm: int, n: int = 1) -> float:
        """Mean of ``n`` noisy samples of an arm.

        Raises:
            IndexError: for an arm that is not there.
            ValueError: for n below 1.
        """
        arm = self._checked(arm)
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        self.n_pulls += int(n)
        if arm not in self.queried:
            self.queried.append(arm)
        noise = self._rng.standard_normal(int(n)).mean() if self.noise_std > 0 else 0.0
        return float(self.rewards[arm] + self.noise_std * noise)

    def suboptimality(self, arm: int) -> float:
        """Largest mean reward less that of an arm."""
        return float(self.rewards.max() - self.rewards[self._checked(arm)])

    def _checked(self, arm: int) -> int:
        if not 0 <= arm < self.n_arms:
            raise IndexError(f"arm must be in 0 .. {self.n_arms - 1}, got {arm}")
        return int(arm)


def check_features(features: ArrayLike) -> np.ndarray:
    """Features as a finite float64 (arms, d) array."""
    features = np.array(features, dtype=np.float64)
    if features.ndim != 2 or 0 in features.shape:
        raise ValueError(f"features must have shape (arms, d), got shape {features.shape}")
    if not np.isfinite(features).all():
        raise ValueError("features must be finite, got NaN or infinity")
    return features


def _vector(name: str, values: ArrayLike, length: int) -> np.ndarray:
    values = np.array(values, dtype=np.float64)
    if values.shape != (length,):
        raise ValueError(f"{name} must have shape ({length},), got shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return values


def check_epsilon(epsilon: float) -> None:
    """Require a positive finite misspecification level."""
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise ValueError(f"epsilon must be positive and finite, got {epsilon}")


def spread_instance(d: int, epsilon: float, s: int) -> MisspecifiedBandit:
    """The instance on which optimal design with least squares loses epsilon sqrt(d).

    The arms are the d unit vectors, all rewarded epsilon too well, an arm that spreads over all
    coordinates, rewarded epsilon too badly, and one that spreads over the s relevant ones. A design
    on the unit vectors adds the d errors up and takes the spread arm.

    Args:
        d: number of features.
        epsilon: misspecification.
        s: number of relevant features.

    Returns:
        The instance, with d + 2 arms.

    Raises:
        ValueError: for s outside 1 .. d, epsilon not positive, or a theta longer than 1 (its norm
            is 0.8 epsilon sqrt(d)).

    Example:
        >>> from rankone.rl.misspecified_bandit import spread_instance
        >>> spread_instance(16, 0.1, 1).features.shape
        (18, 16)
    """
    check_epsilon(epsilon)
    if not 1 <= s <= d:
        raise ValueError(f"s must be in 1 .. d = {d}, got {s}")
    norm = 0.8 * epsilon * math.sqrt(d)
    if norm > 1:
        raise ValueError(f"0.8 epsilon sqrt(d) must be at most 1, got {norm:.4g}")
    relevant = np.arange(d) < s
    theta = norm / math.sqrt(s) * relevant
    features = np.vstack(
        [np.eye(d), np.full(d, 0.99 / math.sqrt(d)), 0.98 / math.sqrt(s) * relevant]
    )
    misspecification = np.concatenate([np.full(d, epsilon), [-epsilon, 0.0]])
    return MisspecifiedBandit(features, theta, misspecification)


def spherical_code(name: str) -> np.ndarray:
    """Unit vectors of one sign each line with few distinct angles.

    Args:
        name: "e8" (120 lines of the E8 roots in R^8, inner products at most 1/2 in absolute value)
            or "icosahedron" (6 diagonals in R^3, 1 / sqrt(5)).

    Returns:
        (lines, dimensions).

    Raises:
        ValueError: for another name.

    Example:
        >>> from rankone.rl.misspecified_bandit import spherical_code
        >>> spherical_code("e8").shape
        (120, 8)
    """
    if name == "e8":
        pairs = np.zeros((0, 8))
        for i, j in combinations(range(8), 2):
            both = np.zeros((2, 8))
            both[:, i] = 1.0
            both[:, j] = (1.0, -1.0)
            pairs = np.vstack([pairs, both])
        signs = np.array([row for row in product((1, -1), repeat=8) if row[0] == 1])
        halves = signs[np.prod(signs, axis=1) == 1] / 2
        return np.vstack([pairs, halves]) / math.sqrt(2)
    if name == "icosahedron":
        golden = (1 + math.sqrt(5)) / 2
        rows = [np.roll([0.0, 1.0, sign * golden], turn) for turn in range(3) for sign in (1, -1)]
        return np.array(rows) / math.hypot(1, golden)
    raise ValueError(f'name must be "e8" or "icosahedron", got {name!r}')


def near_orthogonal_instance(
    code: str,
    epsilon: float,
    best_arm: int,
    *,
    dim: int | None = None,
    n_arms: int | None = None,
    seed: int | None = None,
) -> MisspecifiedBandit:
    """One rewarded arm among unit vectors with inner products of at most g.

    ``theta = epsilon / g`` times the features of the best arm; the rewards are epsilon / g there
    and 0 elsewhere, a misspecification of at most epsilon. Every other arm shows 0, so an algorithm
    that returns a best arm drawn uniformly queries (arms + 1) / 2 arms in the mean at least.

    Args:
        code: "e8", "icosahedron" (see :func:`spherical_code`) or "random".
        epsilon: misspecification allowed.
        best_arm: its index.
        dim, n_arms, seed: of "random" alone: dimensions, arms, and the seed of their directions;
            g is then the largest inner product found.

    Returns:
        The instance.

    Raises:
        ValueError: for an unknown code, or the options of "random" missing or given elsewhere.
        IndexError: for a best arm that is not there.

    Example:
        >>> from rankone.rl.misspecified_bandit import near_orthogonal_instance
        >>> round(float(near_orthogonal_instance("e8", 0.25, 7).rewards[7]), 12)
        0.5
    """
    check_epsilon(epsilon)
    if code == "random":
        if dim is None or n_arms is None or dim < 1 or n_arms < 2:
            raise ValueError(
                "dim of at least 1 and n_arms of at least 2 must be given with code='random', "
                f"got dim={dim} and n_arms={n_arms}"
            )
        features = _directions(np.random.default_rng(seed), n_arms, dim)
    elif dim is not None or n_arms is not None or seed is not None:
        raise ValueError(f"dim, n_arms and seed must be None with code={code!r}")
    else:
        features = spherical_code(code)
    if not 0 <= best_arm < len(features):
        raise IndexError(f"best_arm must be in 0 .. {len(features) - 1}, got {best_arm}")
    inner = np.abs(features @ features.T)
    np.fill_diagonal(inner, 0.0)
    theta = epsilon / inner.max() * features[best_arm]
    rewards = np.zeros(len(features))
    rewards[best_arm] = epsilon / inner.max()
    return MisspecifiedBandit(features, theta, rewards - features @ theta)


def random_instance(
    n_arms: int,
    d: int,
    s: int,
    epsilon: float,
    features: str = "sphere",
    seed: int | None = None,
) -> MisspecifiedBandit:
    """A sparse instance drawn at random, with errors of epsilon and random signs.

    Args:
        n_arms, d, s: arms, features, and relevant ones.
        epsilon: misspecification.
        features: "sphere" (uniform directions, theta uniform on the unit sphere of its support) or
            "rademacher" (entries of 1 and -1, theta of 1/s and -1/s).
        seed: of the draw.

    Returns:
        The instance.

    Raises:
        ValueError: for sizes below 1, s above d, or an unknown kind of features.

    Example:
        >>> from rankone.rl.misspecified_bandit import random_instance
        >>> bandit = random_instance(50, 10, 2, 0.1, seed=0)
        >>> int((bandit.theta != 0).sum()), round(bandit.epsilon, 12)
        (2, 0.1)
    """
    check_epsilon(epsilon)
    if n_arms < 1 or not 1 <= s <= d:
        raise ValueError(f"n_arms and s must be at least 1 and s <= d, got {n_arms}, {s}, {d}")
    rng = np.random.default_rng(seed)
    theta = np.zeros(d)
    support = rng.choice(d, s, replace=False)
    if features == "sphere":
        rows = _directions(rng, n_arms, d)
        theta[support] = _directions(rng, 1, s)[0]
    elif features == "rademacher":
        rows = rng.choice([-1.0, 1.0], (n_arms, d))
        theta[support] = rng.choice([-1.0, 1.0], s) / s
    else:
        raise ValueError(f'features must be "sphere" or "rademacher", got {features!r}')
    return MisspecifiedBandit(rows, theta, epsilon * rng.choice([-1.0, 1.0], n_arms))


def _directions(rng: np.random.Generator, count: int, dim: int) -> np.ndarray:
    rows = rng.standard_normal((count, dim))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
