"""A net of the sparse vectors in a ball, counted without listing and listed support by support.

For every support of j <= s coordinates the net holds the grid points whose j coordinates are
nonzero multiples of h = 2 radius / sqrt(s) and whose norm is at most bound + radius: half the
diagonal of a cell of s coordinates is the radius, so every s-sparse vector of the ball is that near
a point. Points with a zero coordinate belong to a smaller support and are not listed twice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations

import numpy as np

from rankone.rl._bandit_instances import ROUNDING

# Counts below this are exact in int64.
_INT64 = 2**62


def net_size(n_features: int, sparsity: int, radius: float, theta_bound: float = 1.0) -> int:
    """Number of points of :func:`sparse_net`, without listing them.

    Args:
        n_features: d.
        sparsity: s, the largest support.
        radius: distance within which every sparse vector has a point.
        theta_bound: radius of the ball that is covered.

    Returns:
        The number.

    Raises:
        ValueError: for sparsity outside 1 .. n_features, or a radius or bound not positive.

    Example:
        >>> from rankone.rl.misspecified_bandit import net_size
        >>> net_size(10, 2, 0.1)
        7161
    """
    check_net(n_features, sparsity, radius, theta_bound)
    largest = _largest_square(sparsity, radius, theta_bound)
    steps = math.isqrt(largest)
    exact = np.int64 if (2 * steps + 1) ** sparsity < _INT64 else object
    # ways[q]: positive integer vectors of the size so far whose squares sum to q.
    ways = np.zeros(largest + 1, dtype=exact)
    ways[0] = 1
    total = 1
    for j in range(1, sparsity + 1):
        longer = np.zeros_like(ways)
        for step in range(1, steps + 1):
            longer[step * step :] += ways[: largest + 1 - step * step]
        ways = longer
        total += math.comb(n_features, j) * 2**j * int(ways.sum())
    return total


def sparse_net(
    n_features: int, sparsity: int, radius: float, theta_bound: float = 1.0
) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """The net, one support after another: the empty one first, then by size.

    Args:
        n_features, sparsity, radius, theta_bound: as in :func:`net_size`.

    Yields:
        A support, j coordinates in order, and its points (points, j). Supports of one size share
        their points.

    Raises:
        ValueError: as :func:`net_size`.

    Example:
        >>> from rankone.rl.misspecified_bandit import sparse_net
        >>> [(support, len(points)) for support, points in sparse_net(2, 2, 0.5)]
        [((), 1), ((0,), 4), ((1,), 4), ((0, 1), 4)]
    """
    check_net(n_features, sparsity, radius, theta_bound)
    for j in range(sparsity + 1):
        points = grid_points(j, sparsity, radius, theta_bound)
        for support in combinations(range(n_features), j):
            yield support, points


def grid_points(size: int, sparsity: int, radius: float, theta_bound: float) -> np.ndarray:
    """The points (points, size) that every support of ``size`` coordinates has."""
    largest = _largest_square(sparsity, radius, theta_bound)
    steps = math.isqrt(largest)
    values = np.concatenate([np.arange(-steps, 0), np.arange(1, steps + 1)])
    points = np.zeros((1, 0), dtype=np.int64)
    for _ in range(size):
        points = np.column_stack(
            [np.repeat(points, len(values), axis=0), np.tile(values, len(points))]
        )
        points = points[np.sum(points**2, axis=1) <= largest]
    return points * (2 * radius / math.sqrt(sparsity))


def _largest_square(sparsity: int, radius: float, theta_bound: float) -> int:
    """Squared norm, in grid steps, that a point may have; a point on the sphere belongs."""
    ratio = (theta_bound + radius) / (2 * radius)
    return math.floor(sparsity * ratio**2 * (1 + ROUNDING))


def check_net(n_features: int, sparsity: int, radius: float, theta_bound: float) -> None:
    """Require sizes for which there is a net."""
    if not 1 <= sparsity <= n_features:
        raise ValueError(
            f"sparsity must be in 1 .. number of features = {n_features}, got {sparsity}"
        )
    for name, value in (("radius", radius), ("theta_bound", theta_bound)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be positive and finite, got {value}")
