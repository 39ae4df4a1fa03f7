"""SCAD and MCP as l1 plus a smooth concave part, and the solvers for loss plus penalty.

p_alpha(t) = alpha t + h(t): h joins the loss, and what is left to the proximal step is a soft
threshold. A problem sees the design only through products, so that numpy arrays and torch tensors
on any device take one path; the vectors of the iterations are numpy's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from scipy.special import expit

from rankone._arguments import check_number
from rankone.linear_model.proximal_ncg import proximal_ncg, soft_threshold

PENALTIES = ("scad", "mcp", "l1")
SOLVERS = ("ag", "ag-gl", "prox", "pncg")

_DEFAULT_GAMMA = {"scad": 3.7, "mcp": 3.0, "l1": math.inf}
_LEAST_GAMMA = {"scad": 2.0, "mcp": 1.0, "l1": 0.0}

# Lanczos gives the largest eigenvalue from below, to this relative accuracy; the factor covers it.
_EIGENVALUE_TOLERANCE = 1e-6
_SAFETY = 1.0001

# The accelerated step stays this far below 1 / L.
_STEP_SHARE = 0.99

# Steps between two restarts, at least.
_RESTART_AFTER = 3


def check_penalty(penalty: Any, gamma: Any) -> float:
    """gamma, by default 3.7 for SCAD and 3 for MCP.

    Raises:
        ValueError: for an unknown penalty or gamma at or below 2 (SCAD) or 1 (MCP).
    """
    if penalty not in PENALTIES:
        raise ValueError(f"penalty must be one of {', '.join(PENALTIES)}, got {penalty!r}")
    if gamma is None or penalty == "l1":
        return _DEFAULT_GAMMA[penalty]
    check_number("gamma", gamma)
    if not (math.isfinite(gamma) and gamma > _LEAST_GAMMA[penalty]):
        raise ValueError(
            f"gamma must be finite and above {_LEAST_GAMMA[penalty]:g} for {penalty}, got {gamma!r}"
        )
    return float(gamma)


def check_alpha(alpha: Any) -> float:
    check_number("alpha", alpha)
    if not (math.isfinite(alpha) and alpha >= 0):
        raise ValueError(f"alpha must be finite and at least 0, got {alpha!r}")
    return float(alpha)


def concavity(penalty: str, gamma: float) -> float:
    """Lipschitz constant of the gradient of the concave part."""
    return {"scad": 1 / (gamma - 1), "mcp": 1 / gamma, "l1": 0.0}[penalty]


def concave_part(b: np.ndarray, alpha: float, penalty: str, gamma: float) -> np.ndarray:
    """p_alpha(|b|) - alpha |b|, elementwise."""
    t = np.abs(b)
    if penalty == "l1" or alpha == 0:
        return np.zeros_like(t)
    if penalty == "mcp":
        return np.where(t <= gamma * alpha, -(t**2) / (2 * gamma), gamma * alpha**2 / 2 - alpha * t)
    middle = -((t - alpha) ** 2) / (2 * (gamma - 1))
    beyond = alpha**2 * (gamma + 1) / 2 - alpha * t
    return np.where(t <= alpha, 0.0, np.where(t <= gamma * alpha, middle, beyond))


def concave_gradient(b: np.ndarray, alpha: float, penalty: str, gamma: float) -> np.ndarray:
    """Gradient of :func:`concave_part`."""
    if penalty == "l1" or alpha == 0:
        return np.zeros_like(b)
    if penalty == "mcp":
        return -np.sign(b) * np.minimum(np.abs(b) / gamma, alpha)
    return -np.sign(b) * np.clip((np.abs(b) - alpha) / (gamma - 1), 0.0, alpha)


def penalty_value(coef: Any, alpha: float, penalty: str, gamma: float | None = None) -> float:
    """sum_j p_alpha(|coef_j|).

    SCAD: alpha t up to alpha, (2 gamma alpha t - t^2 - alpha^2) / (2 (gamma - 1)) up to
    gamma alpha, alpha^2 (gamma + 1) / 2 beyond. MCP: alpha t - t^2 / (2 gamma) up to gamma alpha,
    gamma alpha^2 / 2 beyond.

    Args:
        coef: array of coefficients.
        alpha: at least 0.
        penalty: "scad", "mcp" or "l1".
        gamma: above 2 for SCAD (default 3.7), above 1 for MCP (default 3).

    Returns:
        The sum.

    Raises:
        ValueError: for parameters out of range.

    Example:
        >>> from rankone.linear_model.nonconvex import penalty_value
        >>> penalty_value([10.0, 0.5], 1.0, "mcp")
        1.9583333333333333
    """
    b = np.asarray(coef, dtype=np.float64)
    gamma = check_penalty(penalty, gamma)
    alpha = check_alpha(alpha)
    return float(np.sum(alpha * np.abs(b) + concave_part(b, alpha, penalty, gamma)))


def threshold(z: Any, alpha: float, penalty: str, gamma: float | None = None) -> np.ndarray:
    """argmin_b (z - b)^2 / 2 + p_alpha(|b|), elementwise: the solution for orthonormal columns.

    Args:
        z: array or number.
        alpha, penalty, gamma: as in :func:`penalty_value`.

    Returns:
        Array of the shape of z.

    Raises:
        ValueError: for parameters out of range.

    Example:
        >>> from rankone.linear_model.nonconvex import threshold
        >>> threshold([0.5, 2.0, 10.0], 1.0, "mcp").round(6).tolist()
        [0.0, 1.5, 10.0]
    """
    z = np.asarray(z, dtype=np.float64)
    gamma = check_penalty(penalty, gamma)
    alpha = check_alpha(alpha)
    soft = soft_threshold(z, alpha)
    if penalty == "l1":
        return soft
    size = np.abs(z)
    if penalty == "mcp":
        return np.where(size <= gamma * alpha, soft / (1 - 1 / gamma), z)
    middle = ((gamma - 1) * z - np.sign(z) * gamma * alpha) / (gamma - 2)
    return np.where(size <= 2 * alpha, soft, np.where(size <= gamma * alpha, middle, z))


class Products:
    """X b, X^T r and column means of a float64 numpy array or torch tensor, in and out as numpy."""

    def __init__(self, X: Any) -> None:
        self.X = X
        self.shape = (int(X.shape[0]), int(X.shape[1]))
        self._torch = isinstance(X, torch.Tensor)

    def _call(self, X: Any, v: np.ndarray) -> np.ndarray:
        if self._torch:
            return (X @ torch.as_tensor(v, dtype=X.dtype, device=X.device)).cpu().numpy()
        return X @ v

    def times(self, b: np.ndarray) -> np.ndarray:
        return self._call(self.X, b)

    def transposed(self, r: np.ndarray) -> np.ndarray:
        return self._call(self.X.T, r)

    def means(self) -> np.ndarray:
        return self.X.mean(0).cpu().numpy() if self._torch else self.X.mean(axis=0)

    def columns(self, chosen: np.ndarray) -> Products:
        if self._torch:
            return Products(self.X[:, torch.as_tensor(chosen, device=self.X.device)])
        return Products(self.X[:, chosen])


class Loss:
    """The loss of one data set as a function of theta = coefficients, and the intercept last.

    Squared error is profiled over its intercept: columns and target are centred, through the
    products and not in memory, and theta has no intercept. Logistic loss carries it.

    Attributes:
        free: number of entries of theta after the coefficients, unpenalised.
    """

    def __init__(self, X: Products, y: np.ndarray, family: str, fit_intercept: bool) -> None:
        self.X, self.family, self.fit_intercept = X, family, fit_intercept
        self.n, self.p = X.shape
        self.free = int(fit_intercept and family == "logistic")
        self.centred = fit_intercept and family == "linear"
        self.means = X.means() if self.centred else np.zeros(self.p)
        self.y_mean = float(y.mean()) if self.centred else 0.0
        self.y = y - self.y_mean

    def columns(self, chosen: np.ndarray) -> Loss:
        """The loss on some columns alone."""
        other = object.__new__(Loss)
        other.__dict__.update(self.__dict__)
        other.X = self.X.columns(chosen)
        other.p = len(chosen)
        other.means = self.means[chosen]
        return other

    def predictor(self, theta: np.ndarray) -> np.ndarray:
        b = theta[: self.p]
        if self.family == "linear":
            return self.X.times(b) - float(self.means @ b) if self.centred else self.X.times(b)
        return self.X.times(b) + (theta[-1] if self.free else 0.0)

    def value_at(self, predictor: np.ndarray) -> float:
        if self.family == "linear":
            rest = self.y - predictor
            return float(rest @ rest) / (2 * self.n)
        return float(np.mean(np.logaddexp(0.0, -self.y * predictor)))

    def residual(self, predictor: np.ndarray) -> np.ndarray:
        """Minus n times the gradient in the predictor."""
        if self.family == "linear":
            return self.y - predictor
        return self.y * expit(-self.y * predictor)

    def gradient_at(self, predictor: np.ndarray) -> np.ndarray:
        r = self.residual(predictor)
        correlation = self.X.transposed(r)
        if self.centred:
            correlation = correlation - self.means * r.sum()
        gradient = -correlation / self.n
        return np.append(gradient, -r.mean()) if self.free else gradient

    def curvature(self) -> float:
        """Largest eigenvalue of the Hessian's bound."""
        n, p = self.n, self.p + self.free

        def times(theta: np.ndarray) -> np.ndarray:
            return self.predictor(np.asarray(theta).ravel())

        def transposed(r: np.ndarray) -> np.ndarray:
            r = np.asarray(r).ravel()
            back = self.X.transposed(r) - self.means * r.sum()
            return np.append(back, r.sum()) if self.free else back

        size = min(n, p)
        first, second = (times, transposed) if p <= n else (transposed, times)
        if size <= 2:
            gram = np.array([second(first(row)) for row in np.eye(size)])
            top = float(np.linalg.eigvalsh((gram + gram.T) / 2)[-1])
        else:
            operator = LinearOperator((size, size), matvec=lambda v: second(first(np.ravel(v))))
            start = np.random.default_rng(0).standard_normal(size)
            top = float(
                eigsh(
                    operator,
                    k=1,
                    which="LA",
                    tol=_EIGENVALUE_TOLERANCE,
                    v0=start,
                    return_eigenvectors=False,
                )[0]
            )
        return max(top, 0.0) * _SAFETY / (n if self.family == "linear" else 4 * n)

    def intercept(self, theta: np.ndarray) -> float:
        if self.centred:
            return self.y_mean - float(self.means @ theta[: self.p])
        return float(theta[-1]) if self.free else 0.0

    def dual_gap(self, theta: np.ndarray, alpha: float) -> float:
        """Duality gap of the l1 problem at theta."""
        predictor = self.predictor(theta)
        primal = self.value_at(predictor) + alpha * float(np.abs(theta[: self.p]).sum())
        r = self.residual(predictor)
        if self.free:
            # A feasible dual point balances the classes: shrink the heavier one.
            plus, minus = r[self.y > 0].sum(), -r[self.y < 0].sum()
            ratio = np.where(self.y > 0, min(1.0, minus / plus), min(1.0, plus / minus))
            r = r * ratio
        correlation = self.X.transposed(r) - self.means * r.sum()
        steepest = float(np.abs(correlation).max(initial=0.0)) / self.n
        r = r * (min(1.0, alpha / steepest) if steepest > 0 else 1.0)
        if self.family == "linear":
            rest = self.y - r
            dual = float(self.y @ self.y - rest @ rest) / (2 * self.n)
        else:
            q = np.clip(np.abs(r), 0.0, 1.0)
            with np.errstate(divide="ignore", invalid="ignore"):
                entropy = np.where((q > 0) & (q < 1), -q * np.log(q) - (1 - q) * np.log1p(-q), 0.0)
            dual = float(entropy.mean())
        return max(primal - dual, 0.0)


@dataclass(frozen=True)
class Solution:
    """What a solver returns: theta, its iterations, and F after each of them."""

    theta: np.ndarray
    n_iter: int
    converged: bool
    objectives: np.ndarray


@dataclass(frozen=True)
class Problem:
    """Loss plus penalty, with the constant L of the smooth part."""

    loss: Loss
    alpha: float
    penalty: str
    gamma: float
    lipschitz: float

    @classmethod
    def make(cls, loss: Loss, alpha: float, penalty: str, gamma: float) -> Problem:
        lipschitz = max(loss.curvature(), concavity(penalty, gamma))
        return cls(loss, alpha, penalty, gamma, max(lipschitz, np.finfo(np.float64).tiny ** 0.5))

    def weights(self) -> np.ndarray:
        weights = np.full(self.loss.p + self.loss.free, self.alpha)
        weights[self.loss.p :] = 0.0
        return weights

    def smooth(self, theta: np.ndarray) -> float:
        b = theta[: self.loss.p]
        concave = concave_part(b, self.alpha, self.penalty, self.gamma)
        return self.loss.value_at(self.loss.predictor(theta)) + float(concave.sum())

    def objective(self, theta: np.ndarray) -> float:
        return self.smooth(theta) + self.alpha * float(np.abs(theta[: self.loss.p]).sum())

    def gradient(self, theta: np.ndarray) -> np.ndarray:
        gradient = self.loss.gradient_at(self.loss.predictor(theta))
        b = theta[: self.loss.p]
        gradient[: self.loss.p] += concave_gradient(b, self.alpha, self.penalty, self.gamma)
        return gradient

    def solve(
        self,
        start: np.ndarray,
        *,
        solver: str,
        restart: bool = False,
        max_iter: int,
        tol: float,
        callback: Callable[[np.ndarray], object] | None = None,
        trace: bool = True,
    ) -> Solution:
        """Run one of ``SOLVERS`` from ``start``; ``trace`` records F after each step."""
        objectives: list[float] = []

        def record(theta: np.ndarray) -> None:
            if trace:
                objectives.append(self.objective(theta))
            if callback is not None:
                callback(theta)

        if solver == "pncg":
            result = proximal_ncg(
                self.smooth,
                self.gradient,
                start,
                self.weights(),
                lipschitz=self.lipschitz,
                max_iter=max_iter,
                tol=tol,
                callback=callback,
            )
            return Solution(result.x, result.nit, result.success, result.history[1:])
        if solver == "prox":
            theta, n_iter, converged = self._proximal_gradient(start, max_iter, tol, record)
        else:
            theta, n_iter, converged = self._accelerated(
                start, max_iter, tol, record, published=solver == "ag", restart=restart
            )
        return Solution(theta, n_iter, converged, np.array(objectives))

    def _proximal_gradient(
        self, start: np.ndarray, max_iter: int, tol: float, record: Callable
    ) -> tuple[np.ndarray, int, bool]:
        theta, weights, L = start.copy(), self.weights(), self.lipschitz
        for k in range(1, max_iter + 1):
            following = soft_threshold(theta - self.gradient(theta) / L, weights / L)
            moved = L * float(np.abs(following - theta).max(initial=0.0))
            theta = following
            record(theta)
            if moved <= tol:
                return theta, k, True
        return theta, max_iter, False

    def _accelerated(
        self,
        start: np.ndarray,
        max_iter: int,
        tol: float,
        record: Callable,
        *,
        published: bool,
        restart: bool,
    ) -> tuple[np.ndarray, int, bool]:
        """The Ghadimi-Lan scheme: two sequences, extrapolated at md.

        ``published`` is the setting of arXiv 2009.10629, beta = .99 / L and lambda = beta / a;
        otherwise the original one, beta = 1 / (2 L), a = 2 / (k + 1), lambda = k beta / 2.
        """
        weights, L = self.weights(), self.lipschitz
        b, ag = start.copy(), start.copy()
        beta = _STEP_SHARE / L if published else 1 / (2 * L)
        a, since = 1.0, 0
        md_before, moved_before = None, 0.0
        for k in range(1, max_iter + 1):
            if published:
                a = 2 / (1 + math.sqrt(1 + 4 / a**2))
                length = beta / a
            else:
                a, length = 2 / (k + 1), k * beta / 2
            md = (1 - a) * ag + a * b
            g = self.gradient(md)
            b = soft_threshold(b - length * g, length * weights)
            ag = soft_threshold(md - beta * g, beta * weights)
            record(ag)
            if float(np.abs(md - ag).max(initial=0.0)) / beta <= tol:
                return ag, k, True
            if restart:
                since += 1
                if md_before is not None:
                    moved = float(np.linalg.norm(md - md_before))
                    if moved < moved_before and since >= _RESTART_AFTER:
                        a, since = 1.0, 0
                    moved_before = moved
                md_before = md
        return ag, max_iter, False
