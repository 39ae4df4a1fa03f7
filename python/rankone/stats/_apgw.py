"""The adapted power generalized Weibull distribution (arXiv 1901.03212), numpy only.

With u = (phi t)^gamma the cumulative hazard is
``H = lam (kappa + 1) / kappa ((1 + u / (kappa + 1))^kappa - 1)``, at kappa = 0
``lam log(1 + u)``. Everything is computed from l = log(1 + u / (kappa + 1)), so that neither a
large kappa nor kappa near 0 overflows or cancels.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expm1, xlogy

CONSTANT, INCREASING, DECREASING = "constant", "increasing", "decreasing"
UP_THEN_DOWN, DOWN_THEN_UP = "up-then-down", "down-then-up"


class APGW:
    """Adapted power generalized Weibull distribution of a time t >= 0; parameters broadcast.

    kappa = 1 is the Weibull distribution, kappa = 0 Burr XII (log-logistic with lam = 1), large
    kappa with gamma = 1 Gompertz; for kappa < 0 a share of ``exp(lam (kappa + 1) / kappa)`` is
    cured and has t = inf.

    Args:
        phi: time scale, 1 / unit of t, above 0.
        lam: hazard scale, above 0.
        gamma: power shape, above 0.
        kappa: selects the baseline, above -1.

    Raises:
        ValueError: for parameters outside those, or shapes that do not broadcast.

    Source: "A Flexible Parametric Modelling Framework for Survival Analysis", arXiv 1901.03212.

    Example:
        >>> from rankone.stats.survival import APGW
        >>> weibull = APGW(phi=0.5, gamma=2.0)
        >>> round(float(weibull.sf(2.0)), 6), weibull.hazard_shape()
        (0.367879, 'increasing')
    """

    def __init__(
        self,
        phi: ArrayLike = 1.0,
        lam: ArrayLike = 1.0,
        gamma: ArrayLike = 1.0,
        kappa: ArrayLike = 1.0,
    ) -> None:
        given = {"phi": phi, "lam": lam, "gamma": gamma, "kappa": kappa}
        arrays: dict[str, NDArray] = {}
        for name, value in given.items():
            array = np.asarray(value, dtype=np.float64)
            least = -1 if name == "kappa" else 0
            if not (np.isfinite(array) & (array > least)).all():
                raise ValueError(f"{name} must be finite and above {least}, got {value!r}")
            arrays[name] = array
        try:
            np.broadcast_shapes(*(array.shape for array in arrays.values()))
        except ValueError as error:
            shapes = {name: array.shape for name, array in arrays.items()}
            raise ValueError(f"phi, lam, gamma and kappa must broadcast, got {shapes}") from error
        self.phi, self.lam, self.gamma, self.kappa = arrays.values()

    def __repr__(self) -> str:
        values = (f"{n}={getattr(self, n).tolist()}" for n in ("phi", "lam", "gamma", "kappa"))
        return f"APGW({', '.join(values)})"

    def _logs(self, t: ArrayLike) -> tuple[NDArray, NDArray, NDArray]:
        """t of at least 0, log u, and l = log(1 + u / (kappa + 1))."""
        t = np.maximum(np.asarray(t, dtype=np.float64), 0.0)
        with np.errstate(divide="ignore"):
            log_u = self.gamma * (np.log(self.phi) + np.log(t))
        return t, log_u, np.logaddexp(0.0, log_u - np.log1p(self.kappa))

    def cumulative_hazard(self, t: ArrayLike) -> NDArray:
        """H(t); 0 for t <= 0."""
        _, _, log_factor = self._logs(t)
        return self.lam * (self.kappa + 1) * _box_cox(log_factor, self.kappa)

    def log_hazard(self, t: ArrayLike) -> NDArray:
        """log h(t), t > 0; -inf for t < 0."""
        positive, _, log_factor = self._logs(t)
        log_h = (
            np.log(self.lam)
            + np.log(self.gamma)
            + self.gamma * np.log(self.phi)
            + xlogy(self.gamma - 1, positive)
            + np.where(self.kappa == 1, 0.0, (self.kappa - 1) * log_factor)
        )
        return np.where(np.asarray(t) < 0, -np.inf, log_h)

    def hazard(self, t: ArrayLike) -> NDArray:
        """h(t) = H'(t)."""
        return np.exp(self.log_hazard(t))

    def sf(self, t: ArrayLike) -> NDArray:
        """Survival function P(T > t) = exp(-H(t)); the cured share at t = inf."""
        return np.exp(-self.cumulative_hazard(t))

    def cdf(self, t: ArrayLike) -> NDArray:
        """P(T <= t)."""
        return -expm1(-self.cumulative_hazard(t))

    def logpdf(self, t: ArrayLike) -> NDArray:
        """Log density; it integrates to 1 less the cured share."""
        return self.log_hazard(t) - self.cumulative_hazard(t)

    def pdf(self, t: ArrayLike) -> NDArray:
        """Density."""
        return np.exp(self.logpdf(t))

    def ppf(self, q: ArrayLike) -> NDArray:
        """Quantiles; inf beyond 1 less the cured share.

        Raises:
            ValueError: for ``q`` outside [0, 1].
        """
        q = np.asarray(q, dtype=np.float64)
        if not ((q >= 0) & (q <= 1)).all():
            raise ValueError("q must lie in [0, 1]")
        with np.errstate(divide="ignore"):
            return self._time_of_hazard(-np.log1p(-q))

    def isf(self, q: ArrayLike) -> NDArray:
        """Times survived with probability ``q``; inf below the cured share.

        Raises:
            ValueError: for ``q`` outside [0, 1].
        """
        q = np.asarray(q, dtype=np.float64)
        if not ((q >= 0) & (q <= 1)).all():
            raise ValueError("q must lie in [0, 1]")
        with np.errstate(divide="ignore"):
            return self._time_of_hazard(-np.log(q))

    def _time_of_hazard(self, cumulative: NDArray) -> NDArray:
        """The inverse of :meth:`cumulative_hazard`."""
        y = cumulative / (self.lam * (self.kappa + 1))
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            log_factor = np.where(
                self.kappa == 0,
                y,
                np.log1p(self.kappa * y) / np.where(self.kappa == 0, 1, self.kappa),
            )
            u = (self.kappa + 1) * expm1(log_factor)
            t = u ** (1 / self.gamma) / self.phi
        return np.where(1 + self.kappa * y <= 0, np.inf, t)

    def rvs(
        self, size: Any = None, random_state: int | np.random.Generator | None = None
    ) -> NDArray:
        """Random times; inf for the cured.

        Args:
            size: shape; None takes that of the parameters.
            random_state: seed or generator.
        """
        if size is None:
            size = np.broadcast_shapes(
                *(np.shape(p) for p in (self.phi, self.lam, self.gamma, self.kappa))
            )
        return self.ppf(np.random.default_rng(random_state).random(size))

    def median(self) -> NDArray:
        """The median; inf where half or more are cured."""
        return self.ppf(0.5)

    def cure_probability(self) -> NDArray:
        """P(T = inf): ``exp(lam (kappa + 1) / kappa)`` for kappa < 0, else 0."""
        negative = self.kappa < 0
        kappa = np.where(negative, self.kappa, -1.0)
        return np.where(negative, np.exp(self.lam * (self.kappa + 1) / kappa), 0.0)

    def hazard_shape(self) -> str:
        """``"constant"``, ``"increasing"``, ``"decreasing"``, ``"up-then-down"`` or
        ``"down-then-up"``, from the signs of gamma - 1 and kappa gamma - 1.

        Raises:
            ValueError: unless gamma and kappa are scalars.
        """
        if self.gamma.ndim or self.kappa.ndim:
            raise ValueError("gamma and kappa must be scalars for hazard_shape, got arrays")
        early, late = np.sign(self.gamma - 1), np.sign(self.kappa * self.gamma - 1)
        if early == late == 0:
            return CONSTANT
        if early >= 0 and late >= 0:
            return INCREASING
        if early <= 0 and late <= 0:
            return DECREASING
        return UP_THEN_DOWN if early > 0 else DOWN_THEN_UP

    def turning_point(self) -> NDArray:
        """Time at which the hazard turns; NaN where it is monotone."""
        early, late = self.gamma - 1, self.kappa * self.gamma - 1
        turns = early * late < 0
        with np.errstate(divide="ignore", invalid="ignore"):
            u = np.where(turns, early * (self.kappa + 1) / -late, np.nan)
            return u ** (1 / self.gamma) / self.phi


def _box_cox(log_factor: NDArray, kappa: NDArray) -> NDArray:
    """``(e^(kappa l) - 1) / kappa``, l at kappa = 0."""
    zero = kappa == 0
    with np.errstate(over="ignore", invalid="ignore"):
        curved = expm1(kappa * log_factor) / np.where(zero, 1.0, kappa)
    return np.where(zero, log_factor, curved)


LOG_KAPPA1_LIMITS = (math.log(1e-3), 12.0)
