"""The multivariate q-Gaussian: most Tsallis entropy for a given mean and escort covariance.

For 1 < q < 1 + 2 / n it is p(y) proportional to [1 + (y - mu)^T V^{-1} (y - mu) / nu]^{-(nu + n)/2}
with q = 1 + 2 / (nu + n): Student's t with nu degrees of freedom and scale V, and V is exactly its
covariance under the escort density p^q / int p^q. It is the law of the mixed effects of
:mod:`rankone.linear_model.tsallis_mixed` (chapter of K. Yang's doctoral thesis "Contributions to
Robust and Efficient Methods for Analysis of High Dimensional Data", 2025, whose text was not at
hand: derived here from maximum Tsallis entropy).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import linalg
from scipy.special import gammaln

from rankone._arguments import check_number
from rankone._namespace import public_names

__all__ = ["MultivariateQGaussian", "nu_from_q", "q_from_nu"]


def _check_dim(dim: Any) -> int:
    if isinstance(dim, bool) or not isinstance(dim, int | np.integer) or dim < 1:
        raise ValueError(f"dim must be an integer of at least 1, got {dim!r}")
    return int(dim)


def q_from_nu(nu: float, dim: int) -> float:
    """Index of degrees of freedom: q = 1 + 2 / (nu + dim).

    Args:
        nu: above 0.
        dim: of the distribution.

    Returns:
        q, strictly between 1 and 1 + 2 / dim.

    Raises:
        ValueError: for nu not above 0 or dim below 1.

    Example:
        >>> from rankone.stats.q_gaussian import q_from_nu
        >>> q_from_nu(5, 3)
        1.25
    """
    dim = _check_dim(dim)
    check_number("nu", nu)
    if not nu > 0:
        raise ValueError(f"nu must be above 0, got {nu!r}")
    return 1 + 2 / (nu + dim)


def nu_from_q(q: float, dim: int) -> float:
    """Degrees of freedom of an index: nu = 2 / (q - 1) - dim.

    Args:
        q: strictly between 1 and 1 + 2 / dim.
        dim: of the distribution.

    Returns:
        nu, above 0.

    Raises:
        ValueError: for q outside (1, 1 + 2 / dim) or dim below 1.

    Example:
        >>> from rankone.stats.q_gaussian import nu_from_q
        >>> nu_from_q(1.25, 3)
        5.0
    """
    dim = _check_dim(dim)
    check_number("q", q)
    if not 1 < q < 1 + 2 / dim:
        raise ValueError(
            f"q must lie strictly between 1 and 1 + 2 / dim = {1 + 2 / dim:g}, got {q!r}"
        )
    return 2 / (q - 1) - dim


class MultivariateQGaussian:
    """A q-Gaussian of dimension n by its location, scale and one of nu and q.

    Parameters:
        loc: (n,) or a number, the mean where there is one (nu > 1).
        scale: (n, n), positive definite, or a number: V, the escort covariance.
        nu: degrees of freedom, above 0.
        q: instead of nu, in (1, 1 + 2 / n).

    Attributes:
        loc, scale, nu, q, dim: as given or implied.

    Raises:
        ValueError: for shapes that do not fit, a scale that is not positive definite, or other than
            one of nu and q.

    Example:
        >>> from rankone.stats.q_gaussian import MultivariateQGaussian
        >>> law = MultivariateQGaussian([0.0, 0.0], [[2.0, 0.0], [0.0, 1.0]], nu=4.0)
        >>> round(float(law.logpdf([0.0, 0.0])), 4), round(law.q, 4)
        (-2.1845, 1.3333)
    """

    def __init__(
        self, loc: Any, scale: Any, *, nu: float | None = None, q: float | None = None
    ) -> None:
        self.loc = np.atleast_1d(np.asarray(loc, dtype=np.float64))
        self.scale = np.atleast_2d(np.asarray(scale, dtype=np.float64))
        if self.loc.ndim != 1 or not np.all(np.isfinite(self.loc)):
            raise ValueError(f"loc must be one finite vector, got shape {self.loc.shape}")
        self.dim = len(self.loc)
        if self.scale.shape != (self.dim, self.dim) or not np.all(np.isfinite(self.scale)):
            raise ValueError(
                f"scale must be finite with shape ({self.dim}, {self.dim}), got {self.scale.shape}"
            )
        if not np.allclose(self.scale, self.scale.T, rtol=1e-10, atol=0):
            raise ValueError("scale must be symmetric")
        try:
            self._root = linalg.cholesky(self.scale, lower=True)
        except linalg.LinAlgError as error:
            raise ValueError("scale must be positive definite") from error
        if (nu is None) == (q is None):
            raise ValueError(f"exactly one of nu and q must be given, got nu={nu!r}, q={q!r}")
        self.nu = float(nu) if nu is not None else nu_from_q(q, self.dim)  # type: ignore[arg-type]
        if not (math.isfinite(self.nu) and self.nu > 0):
            raise ValueError(f"nu must be finite and above 0, got {nu!r}")
        self.q = q_from_nu(self.nu, self.dim)

    def logpdf(self, x: Any) -> np.ndarray:
        """Log-density at points (..., n), or (...) for n = 1 where the last axis is not 1."""
        x = np.asarray(x, dtype=np.float64)
        if self.dim == 1 and (x.ndim == 0 or x.shape[-1] != 1):
            x = x[..., None]
        if x.ndim == 0 or x.shape[-1] != self.dim:
            raise ValueError(f"x must have a last axis of {self.dim}, got shape {x.shape}")
        n, nu = self.dim, self.nu
        flat = (x - self.loc).reshape(-1, n)
        white = linalg.solve_triangular(self._root, flat.T, lower=True)
        distance = np.einsum("ij,ij->j", white, white).reshape(x.shape[:-1])
        constant = gammaln((nu + n) / 2) - gammaln(nu / 2) - n / 2 * math.log(nu * math.pi)
        constant -= float(np.log(np.diag(self._root)).sum())
        return constant - (nu + n) / 2 * np.log1p(distance / nu)

    def rvs(self, size: int = 1, random_state: Any = None) -> np.ndarray:
        """Draws (size, n): a Gaussian over the root of an independent chi-square over nu.

        Args:
            size: at least 1.
            random_state: int, Generator (advanced) or None.
        """
        if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
            raise ValueError(f"size must be an integer of at least 1, got {size!r}")
        rng = np.random.default_rng(random_state)
        normal = rng.standard_normal((size, self.dim)) @ self._root.T
        return self.loc + normal / np.sqrt(rng.chisquare(self.nu, size) / self.nu)[:, None]

    def escort_cov(self) -> np.ndarray:
        """Covariance (n, n) under the escort density p^q / int p^q: the scale V itself."""
        return self.scale.copy()


def __dir__() -> list[str]:
    return public_names(globals())
