"""Nearest point of {x : |x'Qx + c'x - level| <= tol}, Q symmetric and possibly indefinite.

In coordinates where both Q and the metric are diagonal the stationary points are
u_i = (a_i - mu b_i) / (1 + mu e_i), and the global minimiser is the root of the decreasing function
value(u(mu)) - level on the interval where every 1 + mu e_i is positive. Where there is no root the
component along the extreme eigenvalue is free (the hard case). A root beside the end of the
interval is bracketed and solved in the distance t from that end, so that 1 + mu e_i keeps all its
digits.

The paper projects without saying how: this solver, as the bound of the reach, is derived for this
project from the optimality conditions of a quadratic with one quadratic constraint.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import LinAlgError, cholesky, eigh, solve_triangular
from scipy.optimize import brentq

# Asymmetry of a matrix that counts as rounding.
SYMMETRY = 1e-10

# Quantities below this times their scale (and the dimension) are rounding.
_ROUNDING = 64 * float(np.finfo(float).eps)

# Brent stops at this relative width; its absolute width is irrelevant at any scale of mu.
_RELATIVE, _ABSOLUTE, _ITERATIONS = 4 * float(np.finfo(float).eps), 1e-300, 500

# Growth of the bracket, wide enough to be short and narrow enough for Brent.
_GROWTH = 8.0


def array(value: ArrayLike, name: str, ndim: int) -> np.ndarray:
    """``value`` as finite float64 of ``ndim`` dimensions."""
    try:
        out = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be real numbers, got {type(value).__name__}") from error
    if out.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} dimensions, got shape {out.shape}")
    if not np.isfinite(out).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return out


def symmetric(value: ArrayLike, name: str, size: int | None = None) -> np.ndarray:
    """``value`` as an exactly symmetric matrix."""
    out = array(value, name, 2)
    n = out.shape[0] if size is None else size
    if out.shape != (n, n):
        raise ValueError(f"{name} must have shape ({n}, {n}), got {out.shape}")
    worst = float(np.abs(out - out.T).max(initial=0.0))
    if worst > SYMMETRY * max(1.0, float(np.abs(out).max(initial=0.0))):
        raise ValueError(f"{name} must be symmetric, got entries that differ by {worst:.3g}")
    return (out + out.T) / 2


def quadratic(X: np.ndarray, Q: np.ndarray, c: np.ndarray) -> np.ndarray:
    """x'Qx + c'x of every x in the last axis."""
    return np.einsum("...i,...i->...", X @ Q + c, X)


class LevelSets:
    """The level sets of one quadratic in one metric, decomposed once.

    Args:
        Q: (n, n), symmetric.
        c: (n,).
        factor: (n, n), S with M^-1 = S S' for the metric M; None is the identity.
    """

    def __init__(self, Q: np.ndarray, c: np.ndarray, factor: np.ndarray | None = None) -> None:
        self._Q, self._c = Q, c
        S = np.eye(len(c)) if factor is None else factor
        e, U = eigh(S.T @ Q @ S)
        # Eigenvectors are known up to a sign, which the hard case shows: the largest entry is +.
        U = U * np.where(U[np.abs(U).argmax(axis=0), np.arange(len(c))] < 0, -1.0, 1.0)
        e[np.abs(e) <= len(c) * _ROUNDING * np.abs(e).max(initial=0.0)] = 0.0
        b = U.T @ (S.T @ c) / 2
        # Linear parts along flat directions decide whether a level is attained.
        flat = (e == 0) & (np.abs(b) <= len(c) * _ROUNDING * np.abs(b).max(initial=0.0))
        self._e, self._b = e, np.where(flat, 0.0, b)
        self._back = S @ U
        self._forth = U.T if factor is None else U.T @ np.linalg.inv(S)

    def project(self, z: np.ndarray, level: float, tol: float) -> np.ndarray:
        """The nearest point to ``z`` where the value is within ``tol`` of ``level``."""
        value = float(quadratic(z, self._Q, self._c))
        if abs(value - level) <= tol:
            return z.copy()
        # Below the set, the same problem with all signs turned: the value must always fall.
        if value > level:
            u = _descend(self._forth @ z, self._e, self._b, level + tol)
        else:
            u = _descend(self._forth @ z, -self._e, -self._b, tol - level)
        if u is None:
            raise ValueError(
                f"no point attains the measured utility: x'Qx + c'x within {tol:.3g} of "
                f"{level:.6g} has no solution; is the measurement noisier than tol allows?"
            )
        return self._back @ u


def _descend(a: np.ndarray, e: np.ndarray, b: np.ndarray, level: float) -> np.ndarray | None:
    """The nearest u to ``a`` with sum e u^2 + 2 b u = level, which is below the value at ``a``.

    None where the value never falls that far.
    """

    def value(u: np.ndarray) -> float:
        return float(((e * u + 2 * b) * u).sum())

    lowest = float(e.min())
    if lowest >= 0:
        return _descend_convex(a, e, b, level)
    extreme = e <= lowest * (1 - len(e) * _ROUNDING)
    e = np.where(extreme, lowest, e)
    end = -1 / lowest
    numerator = a - end * b
    noise = _ROUNDING * (np.abs(a) + end * np.abs(b)).max()
    numerator = np.where(extreme & (np.abs(numerator) <= noise), 0.0, numerator)
    slack = np.where(extreme, 0.0, 1 + end * e)

    def point(t: float) -> np.ndarray:
        """u at mu = end - t."""
        return (numerator + t * b) / (slack - t * e)

    def excess(t: float) -> float:
        return value(point(t)) - level

    if not numerator[extreme].any():
        centre = np.where(extreme, -b / lowest, numerator / np.where(extreme, 1.0, slack))
        missing = value(centre) - level
        scale = float(((np.abs(e * centre) + 2 * np.abs(b)) * np.abs(centre)).sum()) + abs(level)
        if missing >= -_ROUNDING * scale:
            free = int(np.flatnonzero(extreme)[0])
            centre[free] += np.sqrt(max(missing, 0.0) / -lowest)
            return centre
    upper = lower = end
    while excess(lower) >= 0:
        upper, lower = lower, lower / _GROWTH
    if lower == end:
        # Rounding: the value at a is the level.
        return a
    return point(brentq(excess, lower, upper, xtol=_ABSOLUTE, rtol=_RELATIVE, maxiter=_ITERATIONS))


def _descend_convex(a: np.ndarray, e: np.ndarray, b: np.ndarray, level: float) -> np.ndarray | None:
    """As :func:`_descend` where no e is negative: the value may have a minimum above the level."""

    def point(mu: float) -> np.ndarray:
        return (a - mu * b) / (1 + mu * e)

    def excess(mu: float) -> float:
        u = point(mu)
        return float(((e * u + 2 * b) * u).sum()) - level

    curved = e > 0
    if not b[~curved].any():
        lowest_point = np.where(curved, -b / np.where(curved, e, 1.0), a)
        minimum = float((b * lowest_point)[curved].sum())
        terms = float((np.abs(e * a) + 2 * np.abs(b)) @ np.abs(a))
        noise = _ROUNDING * max(abs(minimum), abs(level), terms)
        if minimum > level + noise:
            return None
        if minimum >= level - noise:
            return lowest_point  # where mu is infinite
    lower, upper = 0.0, 1 / max(float(e.max()), float(np.abs(b).max()))
    while excess(upper) > 0:
        lower, upper = upper, upper * _GROWTH
    if excess(lower) <= 0:
        return a
    return point(brentq(excess, lower, upper, xtol=_ABSOLUTE, rtol=_RELATIVE, maxiter=_ITERATIONS))


def metric_factor(weight: ArrayLike, size: int) -> np.ndarray:
    """S with inv(weight) = S S'."""
    M = symmetric(weight, "weight", size)
    try:
        lower = cholesky(M, lower=True)
    except LinAlgError as error:
        raise ValueError("weight must be positive definite") from error
    return solve_triangular(lower, np.eye(size), lower=True).T


def project_quadratic(
    z: ArrayLike,
    Q: ArrayLike,
    level: float,
    c: ArrayLike | None = None,
    tol: float = 0.0,
    weight: ArrayLike | None = None,
) -> np.ndarray:
    """The nearest point to ``z`` on a quadratic level set; the global one, whatever Q's signs.

    Minimises (x - z)' M (x - z) over |x'Qx + c'x - level| <= tol. Where several points are nearest
    (the centre of a circle) the one of positive component along the extreme eigenvector is taken.

    Args:
        z: (n,).
        Q: (n, n), symmetric, possibly indefinite or 0.
        level: value of the quadratic.
        c: (n,), or None for 0.
        tol: at least 0.
        weight: (n, n), M, symmetric positive definite; None is the identity.

    Returns:
        (n,); a copy of ``z`` if it is feasible.

    Raises:
        ValueError: for arguments of wrong shape or value, and if no point attains the level.
        TypeError: for arguments that are not numbers.

    Source: the projection of "Attack Detection in Dynamic Games with Quadratic Measurements"
    (arXiv 2510.00241); the solver is derived for this project.

    Example:
        >>> import numpy as np
        >>> from rankone.control.attack_detection import project_quadratic
        >>> project_quadratic([3.0, 4.0], np.eye(2), 1.0).round(12).tolist()
        [0.6, 0.8]
    """
    z = array(z, "z", 1)
    if not len(z):
        raise ValueError("z must have at least one entry, got none")
    Q = symmetric(Q, "Q", len(z))
    c = linear_part(c, len(z))
    level, tol = float(array(level, "level", 0)), float(array(tol, "tol", 0))
    if tol < 0:
        raise ValueError(f"tol must be at least 0, got {tol}")
    factor = None if weight is None else metric_factor(weight, len(z))
    return LevelSets(Q, c, factor).project(z, level, tol)


def level_set_reach(Q: ArrayLike, c: ArrayLike | None, points: ArrayLike) -> float:
    """Distance within which the projection is single valued near ``points``: a lower bound.

    min ||2Qx + c|| / (2 ||Q||_2) over the points. Derived for this project; it is exact for a
    sphere, whose reach is its radius.

    Args:
        Q: (n, n), symmetric.
        c: (n,), or None for 0.
        points: (N, n).

    Returns:
        The bound; infinite for Q = 0, whose level sets are planes.

    Raises:
        ValueError: for arguments of wrong shape or value.
        TypeError: for arguments that are not numbers.

    Example:
        >>> import numpy as np
        >>> from rankone.control.attack_detection import level_set_reach
        >>> level_set_reach(np.eye(2), None, [[0.0, 3.0], [3.0, 0.0]])
        3.0
    """
    Q = symmetric(Q, "Q")
    c = linear_part(c, len(Q))
    points = array(points, "points", 2)
    if points.shape[1] != len(Q) or not len(points):
        raise ValueError(f"points must have shape (N, {len(Q)}), N > 0, got {points.shape}")
    curvature = float(np.abs(eigh(Q, eigvals_only=True)).max())
    slope = float(np.linalg.norm(2 * points @ Q + c, axis=1).min())
    return np.inf if curvature == 0 else slope / (2 * curvature)


def linear_part(c: ArrayLike | None, size: int) -> np.ndarray:
    """``c`` as (size,), zero for None."""
    if c is None:
        return np.zeros(size)
    out = array(c, "c", 1)
    if len(out) != size:
        raise ValueError(f"c must have shape ({size},), got {out.shape}")
    return out
