"""Functions orthonormal in L2 of a probability measure, and exact draws from their Christoffel law.

k(x) = ||phi(x)||^2 integrates to the number m of functions; the Christoffel measure is k / m times
the reference measure. Every sampler of :mod:`rankone.linear_model.dpp_least_squares` needs no more
of a basis than the methods of :class:`OrthonormalBasis`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import product
from typing import Any

import numpy as np
from scipy import linalg
from scipy.special import eval_legendre
from sklearn.utils import check_array

# Bernstein: (2 l + 1) P_l(y)^2 (pi / 2) sqrt(1 - y^2) is below 2 for every l and y, and sharply so.
_BERNSTEIN = 2.0


def check_integer(name: str, value: Any, low: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < low:
        raise ValueError(f"{name} must be an integer of at least {low}, got {value!r}")
    return int(value)


class OrthonormalBasis(ABC):
    """m functions on a domain of dimension D, orthonormal for a reference probability measure.

    A subclass with these five members can be used with every sampler and estimator.

    Example:
        >>> import numpy as np
        >>> from rankone.linear_model.dpp_least_squares import OrthonormalBasis
        >>> class Haar(OrthonormalBasis):
        ...     n_functions, n_dims = 2, 1
        ...     def evaluate(self, X):
        ...         return np.column_stack([np.ones(len(X)), np.where(X[:, 0] < 0.5, 1.0, -1.0)])
        ...     def sample_reference(self, n, rng):
        ...         return rng.random((n, 1))
        ...     def sample_christoffel(self, n, rng):
        ...         return rng.random((n, 1))
        >>> Haar().evaluate(np.array([[0.2], [0.7]])).tolist()
        [[1.0, 1.0], [1.0, -1.0]]
    """

    n_functions: int
    n_dims: int

    @abstractmethod
    def evaluate(self, X: Any) -> np.ndarray:
        """phi at points X (n, D): (n, m)."""

    @abstractmethod
    def sample_reference(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """n points of the reference measure, (n, D)."""

    @abstractmethod
    def sample_christoffel(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """n points of the Christoffel measure k / m, (n, D)."""

    def _check_points(self, X: Any) -> np.ndarray:
        X = check_array(X, dtype=np.float64, ensure_min_samples=0, input_name="X")
        if X.shape[1] != self.n_dims:
            raise ValueError(f"X must have {self.n_dims} columns, got {X.shape[1]}")
        return X


def _multi_indices(orders: range, n_dims: int, keep: Any) -> np.ndarray:
    """Multi-indices that ``keep`` accepts, by total degree and then lexicographically.

    ``keep`` must accept a prefix of every index that it accepts: the tree is cut there.
    """
    partial: list[tuple[int, ...]] = [()]
    for _ in range(n_dims):
        partial = [(*head, a) for head, a in product(partial, orders) if keep((*head, a))]
    return np.array(sorted(partial, key=lambda index: (sum(index), index)), dtype=np.intp)


class LegendreBasis(OrthonormalBasis):
    """Products of normalised Legendre polynomials for the uniform measure on [-1, 1]^D.

    Parameters:
        degree: at least 0.
        n_dims: D, at least 1.
        index_set: "total" (sum of degrees at most ``degree``), "tensor" (every degree at most
            ``degree``) or "hyperbolic" (product of the degrees plus one at most ``degree`` + 1).

    Attributes:
        indices_: (m, D) degrees of the factors, by total degree and then lexicographically.

    Raises:
        ValueError: for parameters out of range, and for points outside [-1, 1]^D.

    Example:
        >>> from rankone.linear_model.dpp_least_squares import LegendreBasis
        >>> LegendreBasis(4, 2).n_functions
        15
    """

    def __init__(self, degree: int, n_dims: int = 1, index_set: str = "total") -> None:
        self.degree = check_integer("degree", degree, 0)
        self.n_dims = check_integer("n_dims", n_dims, 1)
        sets = {
            "total": lambda index: sum(index) <= degree,
            "tensor": lambda index: max(index) <= degree,
            "hyperbolic": lambda index: np.prod(np.add(index, 1)) <= degree + 1,
        }
        if index_set not in sets:
            raise ValueError(f"index_set must be one of {', '.join(sets)}, got {index_set!r}")
        self.index_set = index_set
        self.indices_ = _multi_indices(range(degree + 1), self.n_dims, sets[index_set])
        self.n_functions = len(self.indices_)

    def evaluate(self, X: Any) -> np.ndarray:
        """phi at points X (n, D) of [-1, 1]^D: (n, m)."""
        X = self._check_points(X)
        if X.size and np.abs(X).max() > 1:
            raise ValueError(
                f"X must lie in [-1, 1], got a coordinate {X.flat[np.abs(X).argmax()]}"
            )
        scale = np.sqrt(2 * np.arange(self.degree + 1) + 1)
        values = np.ones((len(X), self.n_functions))
        for coordinate, degrees in zip(X.T, self.indices_.T, strict=True):
            one = np.polynomial.legendre.legvander(coordinate, self.degree) * scale
            values *= one[:, degrees]
        return values

    def sample_reference(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """n uniform points of [-1, 1]^D."""
        return rng.uniform(-1, 1, (n, self.n_dims))

    def sample_christoffel(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """A random function each, then its square as a density: exact, by rejection."""
        degrees = self.indices_[rng.integers(self.n_functions, size=n)].ravel()
        points = np.empty(len(degrees))
        waiting = np.arange(len(degrees))
        while len(waiting):
            l = degrees[waiting]
            y = np.cos(np.pi * rng.random(len(waiting)))
            ratio = (2 * l + 1) * eval_legendre(l, y) ** 2 * (np.pi / 2) * np.sqrt(1 - y**2)
            accepted = rng.random(len(waiting)) * _BERNSTEIN < ratio
            points[waiting[accepted]] = y[accepted]
            waiting = waiting[~accepted]
        return points.reshape(n, self.n_dims)


class TrigonometricBasis(OrthonormalBasis):
    """Products of 1, sqrt2 cos(2 pi k x), sqrt2 sin(2 pi k x) for the uniform measure on [0, 1)^D.

    k(x) is constant, so that the Christoffel measure is the uniform one.

    Parameters:
        order: at least 0, bound on the sum of the frequencies of the factors.
        n_dims: D, at least 1.

    Attributes:
        indices_: (m, D) functions of the factors: 0 is 1, 2k - 1 the cosine of frequency k, 2k its
            sine.

    Raises:
        ValueError: for parameters out of range.

    Example:
        >>> from rankone.linear_model.dpp_least_squares import TrigonometricBasis
        >>> TrigonometricBasis(3).n_functions
        7
    """

    def __init__(self, order: int, n_dims: int = 1) -> None:
        self.order = check_integer("order", order, 0)
        self.n_dims = check_integer("n_dims", n_dims, 1)
        self.indices_ = _multi_indices(
            range(2 * order + 1),
            self.n_dims,
            lambda index: sum((a + 1) // 2 for a in index) <= order,
        )
        self.n_functions = len(self.indices_)

    def evaluate(self, X: Any) -> np.ndarray:
        """phi at points X (n, D): (n, m); every function has period 1."""
        X = self._check_points(X)
        values = np.ones((len(X), self.n_functions))
        angles = 2 * np.pi * np.arange(1, self.order + 1)
        for coordinate, functions in zip(X.T, self.indices_.T, strict=True):
            one = np.ones((len(X), 2 * self.order + 1))
            one[:, 1::2] = np.sqrt(2) * np.cos(coordinate[:, None] * angles)
            one[:, 2::2] = np.sqrt(2) * np.sin(coordinate[:, None] * angles)
            values *= one[:, functions]
        return values

    def sample_reference(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """n uniform points of [0, 1)^D."""
        return rng.random((n, self.n_dims))

    def sample_christoffel(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """n uniform points: k is constant."""
        return self.sample_reference(n, rng)


class DiscreteBasis(OrthonormalBasis):
    """The span of given features on a finite set of rows; a point is a row index.

    Parameters:
        features: (P, m), of full column rank, P >= m.
        weights: (P,) positive masses of the rows, normalised to sum to 1; None is uniform.

    Attributes:
        probabilities_: (P,).
        triangle_: (m, m), with features = phi @ triangle_, so that the coefficients of the features
            are triangle_^{-1} times those of phi.

    Raises:
        ValueError: for fewer rows than features, features of deficient rank, or weights that are
            not positive.

    Example:
        >>> import numpy as np
        >>> from rankone.linear_model.dpp_least_squares import DiscreteBasis
        >>> basis = DiscreteBasis(np.vander(np.arange(5.0), 2))
        >>> Phi = basis.evaluate(np.arange(5)[:, None])
        >>> np.allclose(Phi.T @ Phi / 5, np.eye(2))
        True
    """

    n_dims = 1

    def __init__(self, features: Any, weights: Any = None) -> None:
        features = check_array(features, dtype=np.float64, input_name="features")
        size, m = features.shape
        if size < m:
            raise ValueError(
                f"features must have at least as many rows as columns ({m}), got {size}"
            )
        if weights is None:
            p = np.full(size, 1 / size)
        else:
            p = np.asarray(weights, dtype=np.float64)
            if p.shape != (size,) or not np.all(np.isfinite(p)) or not np.all(p > 0):
                raise ValueError(
                    f"weights must be {size} finite positive numbers, got shape {p.shape} and "
                    f"minimum {p.min() if p.size else 'none'}"
                )
            p = p / p.sum()
        scale = np.linalg.norm(features, axis=0)
        if not np.all(scale > 0):
            raise ValueError(
                f"features must have full column rank, got a zero column {int(np.argmin(scale))}"
            )
        Q, R = linalg.qr(np.sqrt(p)[:, None] * (features / scale), mode="economic")
        singular = linalg.svdvals(R)
        if singular[-1] <= np.finfo(np.float64).eps * size * singular[0]:
            raise ValueError(
                f"features must have full column rank {m}, got a smallest singular value "
                f"{singular[-1] / singular[0]:.3g} of the largest"
            )
        self.n_functions = m
        self.probabilities_ = p
        self.triangle_ = R * scale
        self._phi = Q / np.sqrt(p)[:, None]
        leverage = np.cumsum(np.einsum("ij,ij->i", Q, Q))
        self._christoffel = leverage / leverage[-1]
        mass = np.cumsum(p)
        self._reference = mass / mass[-1]

    def evaluate(self, X: Any) -> np.ndarray:
        """phi at row indices X (n, 1): (n, m)."""
        rows = self._check_points(X)[:, 0]
        index = rows.astype(np.intp)
        if np.any(index != rows) or (rows.size and not 0 <= index.min() <= index.max() < len(self)):
            raise ValueError(f"X must hold row indices in [0, {len(self) - 1}], got {rows[:5]}...")
        return self._phi[index]

    def __len__(self) -> int:
        return len(self._phi)

    def sample_reference(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """n rows drawn by their masses, (n, 1)."""
        return np.searchsorted(self._reference, rng.random(n), side="right")[:, None]

    def sample_christoffel(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """n rows drawn by their leverage scores, (n, 1)."""
        return np.searchsorted(self._christoffel, rng.random(n), side="right")[:, None]
