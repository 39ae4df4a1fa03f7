"""Majority and minority accuracy of linear classifiers on Gaussian features, in closed form.

Derived for this library. With core features N((2y - 1) m, I) and spurious ones N((2s - 1) m', I),
sign(w.x) is right with probability Phi((c + s) / |w|) where label and attribute agree and
Phi((c - s) / |w|) where they do not, c = m sum(w_core) and s = m' sum(w_spurious). In the probits
(u, v) of the two accuracies every linear classifier lies within the ellipse
((u + v) / 2M_c)^2 + ((u - v) / 2M_s)^2 <= 1, M_c = m sqrt(n_core) and M_s = m' sqrt(n_spurious);
those that are constant on each block lie on it.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.stats import norm
from sklearn.utils import Bunch

from rankone.interpret._subpopulation_data import check_count, check_finite, check_fraction

# Cells in which the slope's sign changes are looked for; it has one root, or three where the
# spurious features are the stronger ones.
_CELLS = 1024


def gaussian_subpopulation_accuracy(
    w: ArrayLike, core_shift: float, spurious_shift: float, n_core: int
) -> tuple[float | NDArray, float | NDArray]:
    """Accuracies of ``sign(w.x)`` on the spurious-correlation setting of ``spurious_mixture``.

    Args:
        w: (..., n_features) weights, the first ``n_core`` of them of the core features; stacked
            classifiers share the last axis.
        core_shift, spurious_shift: means of the two kinds of features.
        n_core: core features, from 0 to n_features.

    Returns:
        (majority, minority): floats for one classifier, (...) arrays for a stack.

    Raises:
        ValueError: for weights that are zero or not finite, or ``n_core`` out of range.

    Source: derived for this library.

    Example:
        >>> from rankone.interpret.subpopulation import gaussian_subpopulation_accuracy
        >>> majority, minority = gaussian_subpopulation_accuracy([1.0, 1.0], 1.0, 1.0, 1)
        >>> round(majority, 4), minority
        (0.9214, 0.5)
    """
    weights = np.asarray(w, dtype=np.float64)
    if weights.ndim == 0 or weights.shape[-1] == 0:
        raise ValueError(f"w must have shape (..., n_features), got {weights.shape}")
    if not np.isfinite(weights).all():
        raise ValueError("w must be finite, got NaN or infinite entries")
    check_finite("core_shift", core_shift)
    check_finite("spurious_shift", spurious_shift)
    check_count("n_core", n_core, 0)
    if n_core > weights.shape[-1]:
        raise ValueError(
            f"n_core must be at most the {weights.shape[-1]} features of w, got {n_core}"
        )
    scale = np.abs(weights).max(axis=-1, keepdims=True)
    if not scale.all():
        raise ValueError("w must not be zero, got a classifier of zero weights")
    weights = weights / scale  # so that the squares of the norm neither overflow nor vanish
    length = np.linalg.norm(weights, axis=-1)
    core = core_shift * weights[..., :n_core].sum(axis=-1)
    spurious = spurious_shift * weights[..., n_core:].sum(axis=-1)
    majority = norm.cdf((core + spurious) / length)
    minority = norm.cdf((core - spurious) / length)
    return (majority, minority) if weights.ndim > 1 else (float(majority), float(minority))


def gaussian_frontier(
    n_core: int,
    n_spurious: int,
    core_shift: float,
    spurious_shift: float,
    n_points: int = 100,
) -> Bunch:
    """The linear classifiers that no other linear one beats on both groups, and those beyond.

    ``w`` is cos(t) / sqrt(n_core) on the core and sin(t) / sqrt(n_spurious) on the spurious
    features, t from 0 (core alone) to pi / 2 (spurious alone). Up to t = atan(M_s / M_c) majority
    accuracy is bought with minority accuracy; from there on both fall.

    Args:
        n_core, n_spurious: numbers of features, at least 1.
        core_shift, spurious_shift: their means, at least 0.
        n_points: angles, at least 2.

    Returns:
        Bunch of angle, majority and minority, each (n_points,).

    Raises:
        ValueError: for sizes or shifts below those.

    Source: derived for this library.

    Example:
        >>> from rankone.interpret.subpopulation import gaussian_frontier
        >>> curve = gaussian_frontier(20, 5, 0.45, 0.9, n_points=3)
        >>> curve.majority.round(4).tolist(), curve.minority.round(4).tolist()
        ([0.9779, 0.9978, 0.9779], [0.9779, 0.5, 0.0221])
    """
    check_count("n_core", n_core, 1)
    check_count("n_spurious", n_spurious, 1)
    check_count("n_points", n_points, 2)
    _check_strength("core_shift", core_shift)
    _check_strength("spurious_shift", spurious_shift)
    angle = np.linspace(0, np.pi / 2, n_points)
    core = core_shift * math.sqrt(n_core) * np.cos(angle)
    spurious = spurious_shift * math.sqrt(n_spurious) * np.sin(angle)
    return Bunch(
        angle=angle, majority=norm.cdf(core + spurious), minority=norm.cdf(core - spurious)
    )


def gaussian_optimal_angle(
    core_strength: float, spurious_strength: float, majority_fraction: float
) -> float:
    """The angle of the frontier with the best overall accuracy at a majority fraction.

    Maximises ``p Phi(M_c cos t + M_s sin t) + (1 - p) Phi(M_c cos t - M_s sin t)``: 0 at p = 1/2
    and atan(M_s / M_c) at p = 1. Below 1/2 the attribute is worth reading the other way round and
    the angle is negative.

    Args:
        core_strength: M_c = core_shift * sqrt(n_core), at least 0.
        spurious_strength: M_s = spurious_shift * sqrt(n_spurious), at least 0.
        majority_fraction: p, in [0, 1].

    Returns:
        Angle in radians, in [-pi / 2, pi / 2].

    Raises:
        ValueError: for a negative strength or a fraction outside [0, 1].

    Source: derived for this library.

    Example:
        >>> from rankone.interpret.subpopulation import gaussian_optimal_angle
        >>> round(gaussian_optimal_angle(2.0125, 2.0125, 0.9), 4)
        0.2218
    """
    _check_strength("core_strength", core_strength)
    _check_strength("spurious_strength", spurious_strength)
    check_fraction("majority_fraction", majority_fraction)
    if majority_fraction < 0.5:
        return -gaussian_optimal_angle(core_strength, spurious_strength, 1 - majority_fraction)
    last = math.atan2(spurious_strength, core_strength)
    if majority_fraction == 0.5 or last == 0:
        return 0.0
    if majority_fraction == 1:
        return last

    def slope(t: ArrayLike) -> NDArray:
        """The derivative over the minority's density, a positive factor that may underflow.

        A root of the derivative is found to rounding, a maximum only to its square root.
        """
        shrink = np.exp(-core_strength * spurious_strength * np.sin(2 * np.asarray(t)))
        toward = majority_fraction * shrink * np.sin(last - np.asarray(t))
        return toward - (1 - majority_fraction) * np.sin(last + np.asarray(t))

    # The slope is positive at 0 and not above 0 from `last` on: the best angle lies between.
    grid = np.linspace(0, last, _CELLS + 1)
    values = slope(grid)
    values[-1] = min(values[-1], 0.0)
    falls = np.flatnonzero((values[:-1] > 0) & (values[1:] <= 0))
    maxima = [
        grid[cell + 1] if values[cell + 1] == 0 else brentq(slope, grid[cell], grid[cell + 1])
        for cell in falls
    ]

    def error(t: float) -> float:
        core, spurious = core_strength * math.cos(t), spurious_strength * math.sin(t)
        return majority_fraction * norm.cdf(-core - spurious) + (1 - majority_fraction) * norm.cdf(
            spurious - core
        )

    return float(min(maxima, key=error))


def _check_strength(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be finite and at least 0, got {value}")
