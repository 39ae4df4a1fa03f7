"""Nonlinear conjugate gradients for smooth plus weighted l1, never worse than proximal gradient.

The search direction is a conjugate gradient recursion on the proximal gradient mapping
G(x) = (x - soft(x - t g, t l1)) / t; a step counts only if it goes below the proximal gradient
point z. Part of "Contributions to Robust and Efficient Methods for Analysis of High Dimensional
Data" (K. Yang, doctoral thesis, 2025), whose text was not at hand: the scheme here (PR+ on G, the
orthant search, the safeguard) is derived for this project and validated numerically.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import OptimizeResult

from rankone._namespace import public_names

__all__ = ["proximal_ncg", "soft_threshold"]

RULES = ("PR+", "HS+", "HZ", "FR", "none")

# Roundings of F by which two values may differ and still count as equal: near the minimum F is flat
# to rounding long before its gradient is.
_ROUNDINGS = 4 * np.finfo(np.float64).eps

# A trial step this many times shorter or longer than t says nothing about the scale of the problem.
_STEP_RANGE = 1e12

# Cosine below which a direction is no descent direction of the mapping.
_LEAST_COSINE = 1e-10


def soft_threshold(z: np.ndarray, threshold: Any) -> np.ndarray:
    """sign(z) max(|z| - threshold, 0), elementwise.

    Args:
        z: array of any shape.
        threshold: at least 0, a number or an array that broadcasts with ``z``.

    Returns:
        Array of the shape of ``z``.

    Example:
        >>> import numpy as np
        >>> from rankone.linear_model.proximal_ncg import soft_threshold
        >>> soft_threshold(np.array([-3.0, 0.5]), 1.0).tolist()
        [-2.0, 0.0]
    """
    return np.sign(z) * np.maximum(np.abs(z) - threshold, 0.0)


def _momentum(rule: str, G: np.ndarray, before: np.ndarray, d: np.ndarray) -> float:
    """The factor of the previous direction; 0 where its formula has no value."""
    if rule == "none":
        return 0.0
    change = G - before
    if rule == "FR":
        top, bottom = G @ G, before @ before
    elif rule == "PR+":
        top, bottom = G @ change, before @ before
    else:
        bottom = d @ change
        if bottom == 0:
            return 0.0
        if rule == "HS+":
            top = G @ change
        else:
            top = G @ change - 2 * (change @ change) * (d @ G) / bottom
    value = float(top / bottom) if bottom != 0 else 0.0
    if not math.isfinite(value):
        return 0.0
    return max(0.0, value) if rule in ("PR+", "HS+") else value


def proximal_ncg(
    fun: Callable[[np.ndarray], float],
    grad: Callable[[np.ndarray], np.ndarray],
    x0: Any,
    l1: Any = 0.0,
    *,
    lipschitz: float | None = None,
    step: float | None = None,
    rule: str = "PR+",
    max_iter: int = 1000,
    tol: float = 1e-8,
    c1: float = 1e-4,
    max_backtracks: int = 30,
    callback: Callable[[np.ndarray], object] | None = None,
) -> OptimizeResult:
    """Minimise F(x) = fun(x) + sum_j l1_j |x_j|, fun smooth and possibly not convex.

    Every accepted point lies at or below the proximal gradient point, F(x_{k+1}) <= F(z_k) <=
    F(x_k) - ||x_k - z_k||^2 / (2 t): F falls monotonically (to rounding) and the mapping tends to
    zero, for any rule. One gradient an iteration.

    Derived for this project, see the module's head.

    Args:
        fun, grad: the smooth part and its gradient, for (p,) float64 arrays.
        x0: (p,) start.
        l1: weight of |x_j|, a number or (p,), at least 0; 0 leaves a coordinate free.
        lipschitz: of the gradient; the step is its inverse.
        step: t, instead of ``lipschitz``; at most the inverse of the true constant.
        rule: "PR+", "HS+", "HZ", "FR" (conjugate gradient formulas) or "none" (no memory).
        max_iter: gradients at most, beside the first.
        tol: stop at ||G||_inf <= tol max(1, ||G_0||_inf).
        c1: of the Armijo condition.
        max_backtracks: halvings at most in one line search.
        callback: called with every new point.

    Returns:
        OptimizeResult with x, fun (F), nit, ngrad, nfev, n_restarts, history (F at x0 and after
        each iteration), success.

    Raises:
        ValueError: for parameters out of range or an objective that is not finite at x0.

    Example:
        >>> import numpy as np
        >>> from rankone.linear_model.proximal_ncg import proximal_ncg
        >>> target = np.array([3.0, 0.5])
        >>> result = proximal_ncg(
        ...     lambda x: 0.5 * float((x - target) @ (x - target)), lambda x: x - target,
        ...     np.zeros(2), 1.0, lipschitz=1.0)
        >>> result.x.tolist(), result.success
        ([2.0, 0.0], True)
    """
    x = np.array(x0, dtype=np.float64)
    if x.ndim != 1:
        raise ValueError(f"x0 must have one dimension, got shape {x.shape}")
    weights = np.broadcast_to(np.asarray(l1, dtype=np.float64), x.shape)
    if not np.all(np.isfinite(weights)) or np.any(weights < 0):
        raise ValueError("l1 must be finite and at least 0")
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, got {rule!r}")
    if step is None and lipschitz is None:
        raise ValueError("lipschitz or step must be given")
    t = float(step) if step is not None else 1 / float(lipschitz)  # type: ignore[arg-type]
    if not (math.isfinite(t) and t > 0):
        raise ValueError(f"step and lipschitz must be finite and above 0, got a step of {t!r}")
    for name, number in (("tol", tol), ("c1", c1)):
        if not (math.isfinite(number) and number >= 0):
            raise ValueError(f"{name} must be finite and at least 0, got {number!r}")
    penalised = weights > 0
    counts = {"nfev": 0, "ngrad": 0}

    def value(point: np.ndarray) -> tuple[float, float]:
        """fun and F."""
        counts["nfev"] += 1
        smooth = float(fun(point))
        return smooth, smooth + float(weights @ np.abs(point))

    smooth, F = value(x)
    if not math.isfinite(F):
        raise ValueError(f"fun must be finite at x0, got {F!r}")
    history = [F]
    d_before: np.ndarray | None = None
    G_before: np.ndarray | None = None
    a_before = slope_before = 0.0
    n_restarts, nit, success = 0, 0, False
    limit = math.inf
    while True:
        counts["ngrad"] += 1
        g = np.asarray(grad(x), dtype=np.float64)
        z = soft_threshold(x - t * g, t * weights)
        G = (x - z) / t
        size = float(np.abs(G).max(initial=0.0))
        if limit == math.inf:
            limit = tol * max(1.0, size)
        smooth_z, F_z = value(z)
        if size <= limit or nit >= max_iter:
            success = size <= limit
            break
        if d_before is not None and np.any(((z != 0) != (x != 0))[penalised]):
            d_before = None
            n_restarts += 1
        factor = 0.0
        if d_before is not None and G_before is not None:
            factor = _momentum(rule, G, G_before, d_before)
        d = -G if d_before is None or factor == 0 else factor * d_before - G
        d = np.where((x == 0) & (z == 0) & penalised, 0.0, d)
        if G @ d > -_LEAST_COSINE * np.linalg.norm(G) * np.linalg.norm(d):
            d = -G
        signs = np.where(x != 0, np.sign(x), np.sign(d))
        slope = float(g @ d + (weights * signs) @ d)
        accepted = False
        if slope < 0:
            a = a_before * slope_before / slope if d_before is not None else t
            if not t / _STEP_RANGE <= a <= t * _STEP_RANGE:
                a = t
            along = value(x + a * d)[0]
            curvature = 2 * (along - smooth - a * float(g @ d)) / a**2
            if math.isfinite(curvature) and curvature > 0:
                a = -slope / curvature
            for _ in range(max_backtracks):
                trial = x + a * d
                trial[(trial * signs < 0) & penalised] = 0.0
                smooth_trial, F_trial = value(trial)
                slack = _ROUNDINGS * abs(F)
                if F_trial <= F + c1 * a * slope + slack:
                    accepted = bool(F_trial <= F_z + slack)
                    break
                a /= 2
        if accepted:
            x, smooth, F = trial, smooth_trial, F_trial
            d_before, G_before, a_before, slope_before = d, G, a, slope
        else:
            if d_before is not None:
                n_restarts += 1
            x, smooth, F = z, smooth_z, F_z
            d_before = G_before = None
        nit += 1
        history.append(F)
        if callback is not None:
            callback(x)
    if F_z <= F:
        x, F = z, F_z
    return OptimizeResult(
        x=x,
        fun=F,
        nit=nit,
        n_restarts=n_restarts,
        history=np.array(history),
        success=bool(success),
        message="converged" if success else "max_iter reached",
        **counts,
    )


def __dir__() -> list[str]:
    return public_names(globals())
