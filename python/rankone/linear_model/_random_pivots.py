"""Random pivot columns: what they cost, what they leave of the other columns, and a hard example.

Phase 1 of :mod:`rankone.linear_model.random_pivot_lasso`, which states source and proof. Everything
here is projection off the span of a few columns, twice each time: one pass leaves rounding of the
size of the columns, which swamps residuals eight decades smaller.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import linalg
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from rankone._arguments import check_number

# Columns projected at a time: the scratch beside Z stays at N times this many numbers.
_BLOCK = 4096


def check_count(name: str, value: Any, low: int, high: int | None = None) -> int:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | np.integer)
        or value < low
        or (high is not None and value > high)
    ):
        wanted = f"at least {low}" if high is None else f"in [{low}, {high}]"
        raise ValueError(f"{name} must be an integer {wanted}, got {value!r}")
    return int(value)


def check_open_unit(name: str, value: Any) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, float | int | np.number)
        or not 0 < value < 1
    ):
        raise ValueError(f"{name} must lie strictly between 0 and 1, got {value!r}")
    return float(value)


def pivot_failure_bound(n_nonzero: int, n_pivots: int) -> float:
    """Bound on the chance that random pivots fail some column of a random support.

    With T a uniform k-set, R a uniform m-set of columns and r_i the distance of x_i from
    span X_R, P[some i in T has r_i > dist(x_i, span X_{T minus i})] is at most
    k / (floor(m / (k - 1)) + 1), for every design.

    Args:
        n_nonzero: k, at least 1.
        n_pivots: m, at least 0.

    Returns:
        The bound, at most 1; 0 for k = 1, where the event is empty.

    Raises:
        ValueError: for counts out of range.

    Example:
        >>> from rankone.linear_model.random_pivot_lasso import pivot_failure_bound
        >>> round(pivot_failure_bound(5, 40), 4)
        0.4545
    """
    k = check_count("n_nonzero", n_nonzero, 1)
    m = check_count("n_pivots", n_pivots, 0)
    return 0.0 if k == 1 else min(1.0, k / (m // (k - 1) + 1))


def n_pivots_for(n_nonzero: int, failure_prob: float) -> int:
    """Number of pivots for which :func:`pivot_failure_bound` is below ``failure_prob``.

    Args:
        n_nonzero: k, at least 1.
        failure_prob: in (0, 1).

    Returns:
        (k - 1) * ceil(k / failure_prob).

    Raises:
        ValueError: for arguments out of range.

    Example:
        >>> from rankone.linear_model.random_pivot_lasso import n_pivots_for
        >>> n_pivots_for(5, 0.1)
        200
    """
    k = check_count("n_nonzero", n_nonzero, 1)
    return (k - 1) * math.ceil(k / check_open_unit("failure_prob", failure_prob))


def prediction_error_bound(
    n_nonzero: int,
    n_pivots: int,
    n_samples: int,
    n_features: int,
    sigma: float,
    signal_rms: float,
    delta: float = 0.05,
) -> float:
    """Bound on the in-sample prediction error (1/N) ||X w_hat - X w||^2.

    It holds with probability 1 - ``pivot_failure_bound`` - 2 ``delta`` for the penalty
    alpha = sigma sqrt(2 log(2 d / delta) / N): sigma^2 (q + 2 sqrt(q l) + 2 l) / N for the q free
    directions, l = log(1 / delta), plus 4 alpha k signal_rms for the penalised ones.

    Args:
        n_nonzero: k.
        n_pivots: q, the free directions.
        n_samples: N.
        n_features: d.
        sigma: standard deviation of the noise, at least 0.
        signal_rms: ||X w|| / sqrt(N), at least 0.
        delta: in (0, 1).

    Returns:
        The bound, in the units of y squared.

    Raises:
        ValueError: for arguments out of range.

    Example:
        >>> from rankone.linear_model.random_pivot_lasso import prediction_error_bound
        >>> round(prediction_error_bound(4, 12, 40_000, 800, 1.0, 1.0), 3)
        0.365
    """
    k = check_count("n_nonzero", n_nonzero, 1)
    q = check_count("n_pivots", n_pivots, 0)
    n = check_count("n_samples", n_samples, 1)
    d = check_count("n_features", n_features, 1)
    delta = check_open_unit("delta", delta)
    for name, value in (("sigma", sigma), ("signal_rms", signal_rms)):
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be finite and at least 0, got {value!r}")
    tail = math.log(1 / delta)
    alpha = sigma * math.sqrt(2 * math.log(2 * d / delta) / n)
    free = sigma**2 * (q + 2 * math.sqrt(q * tail) + 2 * tail) / n
    return free + 4 * alpha * k * signal_rms


def _orthonormal(B: np.ndarray, rank_tol: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pivoted QR of B with unit columns, cut where |R_jj| <= rank_tol: Q, R and the columns kept.

    R is for the columns in their own scale: B[:, kept] = Q R.
    """
    norms = np.linalg.norm(B, axis=0)
    scales = np.where(norms > 0, norms, 1.0)
    if B.shape[1] == 0:
        return B, np.zeros((0, 0)), np.zeros(0, dtype=np.intp)
    Q, R, order = linalg.qr(B / scales, mode="economic", pivoting=True)
    rank = int(np.count_nonzero(np.abs(np.diag(R)) > rank_tol))
    kept = order[:rank]
    return np.ascontiguousarray(Q[:, :rank]), R[:rank, :rank] * scales[kept], kept


def project_out(Q: np.ndarray, A: np.ndarray) -> None:
    """A -= Q Q^T A in place, twice: one pass leaves rounding as large as a small residual."""
    for _ in range(2):
        A -= Q @ (Q.T @ A)


def pivot_ratio(X: Any, support: Any, pivots: Any) -> np.ndarray:
    """How far each support column is from the pivots, against the rest of the support.

    Args:
        X: (N, d) design.
        support: (k,) column indices T.
        pivots: (m,) column indices R.

    Returns:
        (k,) ratios dist(x_i, span X_R) / dist(x_i, span X_{T minus i}), with 0 / 0 = 0. Where all
        are at most 1, sum_i |w_i| dist(x_i, span X_R) <= k ||X w|| for every w on T.

    Raises:
        ValueError: for indices that repeat or lie outside the columns.

    Example:
        >>> import numpy as np
        >>> from rankone.linear_model.random_pivot_lasso import pivot_ratio
        >>> pivot_ratio(np.eye(3), [0, 1], [1]).tolist()
        [1.0, 0.0]
    """
    X = check_array(X, dtype=np.float64)
    support = _check_columns("support", support, X.shape[1])
    pivots = _check_columns("pivots", pivots, X.shape[1])
    unit = X / np.where((norms := np.linalg.norm(X, axis=0)) > 0, norms, 1.0)
    rounding = np.finfo(np.float64).eps * max(X.shape[0], 16)

    def basis(columns: np.ndarray) -> np.ndarray:
        return _orthonormal(unit[:, columns], rounding)[0]

    def distance(column: int, Q: np.ndarray) -> float:
        residual = unit[:, column].copy()
        project_out(Q, residual)
        length = float(np.linalg.norm(residual))
        return length if length > rounding else 0.0

    pivot_basis = basis(pivots)
    ratios = np.zeros(len(support))
    for position, column in enumerate(support):
        above = 0.0 if column in pivots else distance(column, pivot_basis)
        below = distance(column, basis(np.delete(support, position)))
        ratios[position] = above / below if below > 0 else (math.inf if above > 0 else 0.0)
    return ratios


def _check_columns(name: str, columns: Any, n_features: int) -> np.ndarray:
    array = np.asarray(columns)
    if array.size == 0:
        return np.zeros(0, dtype=np.intp)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"{name} must be a one-dimensional array of column indices, got shape {array.shape} "
            f"and dtype {array.dtype}"
        )
    if array.min() < 0 or array.max() >= n_features:
        raise ValueError(
            f"{name} must lie in [0, {n_features - 1}], got {int(array.min())} to "
            f"{int(array.max())}"
        )
    if len(np.unique(array)) != len(array):
        raise ValueError(f"{name} must not repeat a column, got {array.tolist()}")
    return array.astype(np.intp)


def make_ill_conditioned_sparse(
    n_samples: int = 400,
    n_features: int = 800,
    n_nonzero: int = 4,
    *,
    rank: int = 2,
    log10_range: float = 4.0,
    homogeneous: bool = False,
    noise: float = 1.0,
    random_state: Any = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A low-rank design with small private parts, and a signal that lives in those alone.

    X = U V + E diag(tau) with Gaussian U (N, r), V (r, d), E (N, d) and
    tau_j = 10^(-log10_range * Unif(0, 1)), or all equal to 10^-log10_range. On a uniform support T
    the coefficients cancel the low-rank part exactly: the hardest direction of a random support.

    Args:
        n_samples, n_features, n_nonzero: N, d, k.
        rank: r, below k.
        log10_range: decades of the private scales, at least 0.
        homogeneous: one private scale for all columns.
        noise: standard deviation of the Gaussian noise; the signal has mean square 1.
        random_state: int, Generator, RandomState or None.

    Returns:
        X (N, d), y (N,), coef (d,), support (k,) sorted, signal (N,) = X coef.

    Raises:
        ValueError: for sizes out of range, or ``rank`` not below ``n_nonzero``.

    Example:
        >>> from rankone.linear_model.random_pivot_lasso import make_ill_conditioned_sparse
        >>> X, y, coef, support, signal = make_ill_conditioned_sparse(50, 80, random_state=0)
        >>> X.shape, len(support), round(float((signal**2).mean()), 6)
        ((50, 80), 4, 1.0)
    """
    n = check_count("n_samples", n_samples, 1)
    d = check_count("n_features", n_features, 1)
    k = check_count("n_nonzero", n_nonzero, 1, d)
    r = check_count("rank", rank, 0)
    if r >= k:
        raise ValueError(f"rank must be below n_nonzero = {k}, got {rank}")
    for name, value in (("log10_range", log10_range), ("noise", noise)):
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be finite and at least 0, got {value!r}")
    # Streams of numpy's current generator, unless an old one is handed in.
    legacy = isinstance(random_state, np.random.RandomState)
    rng = random_state if legacy else np.random.default_rng(random_state)
    U, V, E = rng.standard_normal((n, r)), rng.standard_normal((r, d)), rng.standard_normal((n, d))
    exponents = np.ones(d) if homogeneous else rng.uniform(size=d)
    tau = 10.0 ** (-log10_range * exponents)
    X = U @ V + E * tau
    support = rng.choice(d, k, replace=False)
    # The last rows of V^T in the full SVD span the null space, here of dimension k - r.
    null = linalg.svd(V[:, support] / tau[support], full_matrices=True)[2][r:]
    coef = np.zeros(d)
    coef[support] = rng.standard_normal(k - r) @ null / tau[support]
    support = np.sort(support)
    signal = X[:, support] @ coef[support]
    size = math.sqrt(float(np.mean(signal**2)))
    coef /= size
    signal /= size
    return X, signal + noise * rng.standard_normal(n), coef, support, signal


@dataclass(frozen=True)
class Preconditioned:
    """The design after phase 1: the pivots' basis and the rescaled residuals of the rest."""

    pivots: np.ndarray
    Q: np.ndarray
    R: np.ndarray
    kept: np.ndarray
    Z: np.ndarray
    residual_norms: np.ndarray
    active: np.ndarray
    fit_intercept: bool

    def coefficients(
        self, X: np.ndarray, y: np.ndarray, U: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients (d, a) and intercepts (a,) in the original columns for the columns of U."""
        used = np.flatnonzero(np.any(U != 0, axis=1))
        n, lead = len(y), int(self.fit_intercept)
        coef = np.zeros_like(U)
        coef[used] = math.sqrt(n) * U[used] / self.residual_norms[used, None]
        free = np.zeros((lead + len(self.pivots), U.shape[1]))
        target = (self.Q.T @ y)[:, None] - (self.Q.T @ X[:, used]) @ coef[used]
        free[self.kept] = linalg.solve_triangular(self.R, target)
        coef[self.pivots] = free[lead:]
        return coef, free[0] if lead else np.zeros(U.shape[1])


def precondition(
    X: np.ndarray, pivots: np.ndarray, *, fit_intercept: bool, rank_tol: float
) -> Preconditioned:
    n, d = X.shape
    B = X[:, pivots]
    if fit_intercept:
        B = np.column_stack([np.ones(n), B])
    Q, R, kept = _orthonormal(B, rank_tol)
    Z = np.array(X, dtype=np.float64, order="F", copy=True)
    residual_norms = np.zeros(d)
    for start in range(0, d, _BLOCK):
        block = slice(start, min(start + _BLOCK, d))
        whole = np.linalg.norm(Z[:, block], axis=0)
        project_out(Q, Z[:, block])
        rest = np.linalg.norm(Z[:, block], axis=0)
        residual_norms[block] = np.where(rest > rank_tol * whole, rest, 0.0)
    residual_norms[pivots] = 0.0
    active = residual_norms > 0
    Z *= np.divide(math.sqrt(n), residual_norms, out=np.zeros(d), where=active)
    return Preconditioned(pivots, Q, R, kept, Z, residual_norms, active, fit_intercept)


def auto_pivots(n: int, d: int, k: int, failure_prob: float) -> int:
    return min(d, n // 4, n_pivots_for(k, failure_prob))


class PivotParameters:
    """Checks shared by the transformer and the regressors."""

    def _check_pivot_parameters(self, n: int, d: int) -> tuple[int, np.ndarray | None]:
        """The number of pivots, and the pivots where they are given."""
        k = check_count("n_nonzero", self.n_nonzero, 1, d)  # type: ignore[attr-defined]
        failure_prob = check_open_unit("failure_prob", self.failure_prob)  # type: ignore[attr-defined]
        rank_tol = self.rank_tol  # type: ignore[attr-defined]
        check_number("rank_tol", rank_tol)
        if not 0 <= rank_tol < 1:
            raise ValueError(f"rank_tol must lie in [0, 1), got {rank_tol!r}")
        most = min(n - 2, d)
        given = getattr(self, "pivots", None)
        if given is not None:
            pivots = _check_columns("pivots", given, d)
            if len(pivots) > most:
                raise ValueError(
                    f"pivots must hold at most min(n_samples - 2, n_features) = {most} columns, "
                    f"got {len(pivots)}"
                )
            return len(pivots), pivots
        n_pivots = getattr(self, "n_pivots", "auto")
        if isinstance(n_pivots, str):
            if n_pivots != "auto":
                raise ValueError(f"n_pivots must be 'auto' or an integer, got {n_pivots!r}")
            return auto_pivots(n, d, k, failure_prob), None
        return check_count("n_pivots", n_pivots, 0, most), None


class RandomPivotPreconditioner(
    PivotParameters, OneToOneFeatureMixin, TransformerMixin, BaseEstimator
):
    """Phase 1 alone: replace each column by its rescaled residual off random pivot columns.

    Derived for this project, see the module's head; the setting is that of "Sparse Linear
    Regression is Easy on Random Supports" (arXiv 2511.06211).

    Parameters:
        n_nonzero: k, the number of nonzero coefficients to allow for.
        n_pivots: m, or "auto": min(d, N // 4, (k - 1) ceil(k / failure_prob)).
        failure_prob: in (0, 1), wanted bound on the failure probability of the pivots.
        pivots: column indices to use instead of a draw.
        fit_intercept: put a column of ones among the pivots.
        rank_tol: relative size below which a direction or a residual is taken for zero.
        random_state: int, RandomState or None, of the draw.

    Attributes:
        pivots_: (m,) column indices.
        basis_: (N, q), orthonormal, spans the pivot columns (and the ones).
        residual_norms_: (d,), r_j = ||(I - Q Q^T) x_j||, 0 at pivots and inactive columns.
        active_: (d,) bool, columns with a residual.
        Z_: (N, d), sqrt(N) (I - Q Q^T) x_j / r_j, 0 where inactive.
        n_features_in_: d.

    Example:
        >>> import numpy as np
        >>> from rankone.linear_model.random_pivot_lasso import RandomPivotPreconditioner
        >>> X = np.random.default_rng(0).standard_normal((20, 6))
        >>> fitted = RandomPivotPreconditioner(2, n_pivots=2, random_state=0).fit(X)
        >>> fitted.basis_.shape, int(fitted.active_.sum())
        ((20, 2), 4)
    """

    def __init__(
        self,
        n_nonzero: int = 5,
        *,
        n_pivots: int | str = "auto",
        failure_prob: float = 0.5,
        pivots: Any = None,
        fit_intercept: bool = False,
        rank_tol: float = 1e-10,
        random_state: Any = None,
    ) -> None:
        self.n_nonzero = n_nonzero
        self.n_pivots = n_pivots
        self.failure_prob = failure_prob
        self.pivots = pivots
        self.fit_intercept = fit_intercept
        self.rank_tol = rank_tol
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> RandomPivotPreconditioner:
        """Draw the pivots and compute the residuals. ``y`` is not looked at."""
        X = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        m, pivots = self._check_pivot_parameters(*X.shape)
        if pivots is None:
            pivots = check_random_state(self.random_state).choice(X.shape[1], m, replace=False)
        phase = precondition(
            X, pivots, fit_intercept=bool(self.fit_intercept), rank_tol=self.rank_tol
        )
        self.pivots_ = phase.pivots
        self.basis_ = phase.Q
        self.residual_norms_ = phase.residual_norms
        self.active_ = phase.active
        self.Z_ = phase.Z
        return self

    def residualize(self, A: Any) -> np.ndarray:
        """(I - Q Q^T) A for an array A of shape (N, p)."""
        check_is_fitted(self)
        A = check_array(A, dtype=np.float64, copy=True)
        self._check_rows("A", A)
        project_out(self.basis_, A)
        return A

    def transform(self, X: Any) -> np.ndarray:
        """Z_ for the design of ``fit``; the basis belongs to its rows, so X must have as many.

        Raises:
            ValueError: for another number of rows.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        self._check_rows("X", X)
        Z = np.array(X, order="F", copy=True)
        for start in range(0, Z.shape[1], _BLOCK):
            project_out(self.basis_, Z[:, start : start + _BLOCK])
        return Z * np.divide(
            math.sqrt(len(Z)), self.residual_norms_, out=np.zeros(Z.shape[1]), where=self.active_
        )

    def _check_rows(self, name: str, A: np.ndarray) -> None:
        if len(A) != len(self.basis_):
            raise ValueError(
                f"{name} must have the {len(self.basis_)} rows of the training design, got {len(A)}"
            )
