"""Partial correlations between the parts of a composition (arXiv 1904.09480).

A composition carries ratios alone, so that correlations of raw parts are spurious and those of
centred log-ratios depend on which other parts were measured. The partial correlation of two parts
given all others needs no reference part and no normalisation: with Gamma the covariance of the
centred log-ratios and P its Moore-Penrose inverse, R_ij = -P_ij / sqrt(P_ii P_jj).

P is computed in an orthonormal basis of the complement of (1, ..., 1), the direction in which Gamma
vanishes by construction, never by a cut-off on eigenvalues: with parts of very different variance a
cut-off removes real directions.

The algebra was derived and checked for this library from the paper's definition; the shrinkage of
the basis covariance follows Schafer and Strimmer's estimator of correlations.
"""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.linalg import LinAlgError, cho_factor, cho_solve, helmert
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted, validate_data

from rankone._namespace import public_names

__all__ = [
    "CompositionalPartialCorrelation",
    "alr",
    "alr_inv",
    "closure",
    "clr",
    "clr_inv",
    "ilr",
    "ilr_inv",
    "multiple_correlation",
    "multiplicative_replacement",
    "partial_correlation",
    "proportionality",
    "residual_correlation",
    "symmetric_balance_correlation",
    "variation_matrix",
]

# Singular to working precision: a scaled log-ratio direction with this little variance left.
_COLLINEAR = 1e-13


def closure(X: ArrayLike) -> NDArray:
    """Divide each row by its sum.

    Args:
        X: (n, D) or (D,) positive parts; zeros are allowed.

    Returns:
        Rows that sum to 1.

    Raises:
        ValueError: for negative or non-finite parts, and rows that are all zero.

    Example:
        >>> from rankone.stats.compositional import closure
        >>> closure([[1.0, 3.0]]).tolist()
        [[0.25, 0.75]]
    """
    X = _parts(X, zeros=True)
    total = X.sum(axis=-1, keepdims=True)
    if not (total > 0).all():
        raise ValueError("X must have a positive part in every row, got a row of zeros")
    return X / total


def clr(X: ArrayLike) -> NDArray:
    """Centred log-ratios: the logs less their mean in each row.

    Args:
        X: (n, D) or (D,) strictly positive parts.

    Returns:
        Log-ratios of X's shape; rows sum to 0.

    Raises:
        ValueError: for parts that are not positive and finite.

    Example:
        >>> from rankone.stats.compositional import clr, clr_inv
        >>> clr_inv(clr([0.2, 0.8])).round(12).tolist()
        [0.2, 0.8]
    """
    logs = np.log(_parts(X))
    return logs - logs.mean(axis=-1, keepdims=True)


def clr_inv(C: ArrayLike) -> NDArray:
    """The composition of given centred log-ratios, the inverse of :func:`clr`.

    Args:
        C: (..., d) log-ratios; a constant added to a row changes nothing.

    Returns:
        (..., d), positive, closed to 1.

    Raises:
        ValueError: for values that are not finite.

    Example:
        >>> from rankone.stats.compositional import clr, clr_inv
        >>> clr_inv(clr([[0.2, 0.3, 0.5]])).round(12).tolist()
        [[0.2, 0.3, 0.5]]
    """
    C = _real(C, "C")
    raised = np.exp(C - C.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)


def alr(X: ArrayLike, ref: int = -1) -> NDArray:
    """Log-ratios to a reference part.

    Args:
        X: (n, D) or (D,) strictly positive parts.
        ref: index of the reference, which may be negative.

    Returns:
        (n, D - 1) or (D - 1,): ``log(x_i / x_ref)`` for the other parts in order.

    Raises:
        ValueError: for parts that are not positive and finite, or ``ref`` out of range.

    Example:
        >>> from rankone.stats.compositional import alr
        >>> alr([1.0, 1.0, 1.0]).tolist()
        [0.0, 0.0]
    """
    logs = np.log(_parts(X))
    ref = _index(ref, logs.shape[-1], "ref")
    return np.delete(logs - logs[..., [ref]], ref, axis=-1)


def alr_inv(Y: ArrayLike, ref: int = -1) -> NDArray:
    """The composition of given additive log-ratios, the inverse of :func:`alr`.

    Args:
        Y: (..., d) log-ratios to part ``ref``.
        ref: index of that part among the d + 1.

    Returns:
        (..., d + 1), positive, closed to 1.

    Raises:
        ValueError: for values that are not finite, or an index out of range.

    Example:
        >>> import numpy as np
        >>> from rankone.stats.compositional import alr, alr_inv
        >>> alr_inv(alr([[0.2, 0.3, 0.5]])).round(12).tolist()
        [[0.2, 0.3, 0.5]]
    """
    Y = _real(Y, "Y")
    ref = _index(ref, Y.shape[-1] + 1, "ref")
    return clr_inv(np.insert(Y, ref, 0.0, axis=-1))


def ilr(X: ArrayLike) -> NDArray:
    """Coordinates of the centred log-ratios in the orthonormal Helmert basis.

    Args:
        X: (n, D) or (D,) strictly positive parts.

    Returns:
        (n, D - 1) or (D - 1,).

    Raises:
        ValueError: for parts that are not positive and finite.

    Example:
        >>> from rankone.stats.compositional import ilr
        >>> ilr([1.0, 1.0, 1.0]).tolist()
        [0.0, 0.0]
    """
    C = clr(X)
    return C @ helmert(C.shape[-1]).T


def ilr_inv(Y: ArrayLike) -> NDArray:
    """The composition of given isometric log-ratios, the inverse of :func:`ilr`.

    Args:
        Y: (..., d) coordinates.

    Returns:
        (..., d + 1), positive, closed to 1.

    Raises:
        ValueError: for values that are not finite.

    Example:
        >>> from rankone.stats.compositional import ilr, ilr_inv
        >>> ilr_inv(ilr([[0.2, 0.3, 0.5]])).round(12).tolist()
        [[0.2, 0.3, 0.5]]
    """
    Y = _real(Y, "Y")
    return clr_inv(Y @ helmert(Y.shape[-1] + 1))


def multiplicative_replacement(X: ArrayLike, delta: float) -> NDArray:
    """Replace zeros and keep the ratios of the other parts.

    Args:
        X: (n, D) parts of at least 0.
        delta: share that a zero becomes, in (0, 1/D).

    Returns:
        Rows closed to 1: zeros are ``delta``, the others times ``1 - delta * (zeros in the row)``.

    Raises:
        ValueError: for a ``delta`` out of range, negative parts or rows of zeros.

    Example:
        >>> from rankone.stats.compositional import multiplicative_replacement
        >>> multiplicative_replacement([[0.0, 1.0, 3.0]], 0.1).round(12).tolist()
        [[0.1, 0.225, 0.675]]
    """
    closed = closure(X)
    parts = closed.shape[-1]
    if not 0 < delta < 1 / parts:
        raise ValueError(f"delta must lie in (0, 1/D) = (0, {1 / parts:.4g}), got {delta}")
    zero = closed == 0
    return np.where(zero, delta, closed * (1 - delta * zero.sum(axis=-1, keepdims=True)))


def variation_matrix(X: ArrayLike) -> NDArray:
    """Variances of all pairwise log-ratios, over n - 1.

    Args:
        X: (n, D) strictly positive parts, n at least 2.

    Returns:
        (D, D), symmetric with a zero diagonal.

    Raises:
        ValueError: for fewer than two rows or parts that are not positive and finite.

    Example:
        >>> from rankone.stats.compositional import variation_matrix
        >>> variation_matrix([[1.0, 1.0], [1.0, 1.0]]).tolist()
        [[0.0, 0.0], [0.0, 0.0]]
    """
    gamma = _covariance(clr(_table(X)))
    variance = np.diag(gamma)
    result = variance[:, None] + variance - 2 * gamma
    np.fill_diagonal(result, 0.0)
    return np.maximum(result, 0.0)


class CompositionalPartialCorrelation(BaseEstimator):
    """Partial correlations of all pairs of parts given the remaining parts.

    R_ij is the correlation of the residuals of log(x_i / x_r) and log(x_j / x_r) on the log-ratios
    of the other D - 2 parts, whatever the reference r among them. It does not change with the
    scale of rows or columns, and it is 0 under conditional independence in the log-ratio model,
    not under independence of the unclosed parts: there it is positive, 1 / (D - 1) for equal
    variances, since the parts share a total.

    Args:
        covariance: ``"empirical"`` (needs more rows than parts) or ``"basis_shrinkage"``: the
            correlations of the logs of the closed parts are shrunk towards 0 before they are
            centred, for tables with few rows.
        shrinkage: ``"auto"`` estimates the intensity, or a number in [0, 1]; used by
            ``"basis_shrinkage"`` alone.
        zero_replacement: None refuses zeros; a share in (0, 1/D) replaces them by
            :func:`multiplicative_replacement`.

    Attributes:
        partial_corr_: (D, D) R, with a diagonal of 1.
        partial_var_: (D,) 1 / P_ii, the variance of log(x_i / x_r) that the other parts leave
            unexplained, over n - 1.
        precision_: (D, D) P; rows sum to 0.
        covariance_: (D, D) Gamma, the covariance of the centred log-ratios.
        shrinkage_: the intensity that was used; 0 for ``"empirical"``.
        dof_: n - D + 1, degrees of freedom of the t law.
        n_samples_, n_features_in_: rows and parts.
        feature_names_in_: names of the parts, when fitted on a frame.

    Source: "Partial Correlations in Compositional Data Analysis", arXiv 1904.09480.

    Example:
        >>> import numpy as np
        >>> from rankone.stats.compositional import CompositionalPartialCorrelation
        >>> X = np.exp(np.random.default_rng(0).standard_normal((50, 4)))
        >>> model = CompositionalPartialCorrelation().fit(X)
        >>> model.partial_corr_.shape, model.dof_
        ((4, 4), 47)
    """

    def __init__(
        self,
        *,
        covariance: str = "empirical",
        shrinkage: str | float = "auto",
        zero_replacement: float | None = None,
    ) -> None:
        self.covariance = covariance
        self.shrinkage = shrinkage
        self.zero_replacement = zero_replacement

    def fit(self, X: ArrayLike, y: None = None) -> CompositionalPartialCorrelation:
        """Fit to compositions.

        Args:
            X: (n, D) parts, D at least 3, strictly positive but for ``zero_replacement``.
            y: ignored.

        Returns:
            self.

        Raises:
            ValueError: for tables outside that, too few rows, or parts whose log-ratios are
                constant or collinear.
        """
        if self.covariance not in ("empirical", "basis_shrinkage"):
            raise ValueError(
                "covariance must be 'empirical' or 'basis_shrinkage', got " + repr(self.covariance)
            )
        X = validate_data(self, X, dtype=np.float64, ensure_min_samples=2, ensure_min_features=3)
        X = _without_zeros(X, self.zero_replacement)
        n, parts = X.shape
        labels = getattr(self, "feature_names_in_", range(parts))
        _check_ratios_vary(X, labels)
        if self.covariance == "empirical":
            if n <= parts:
                raise ValueError(
                    f"X must have more rows than parts for covariance='empirical', got {n} rows "
                    f"and {parts} parts; use covariance='basis_shrinkage'"
                )
            gamma, used = _covariance(clr(X)), 0.0
        else:
            gamma, used = _basis_shrinkage(X, self.shrinkage)
        self.covariance_ = gamma
        self.shrinkage_ = used
        self.precision_ = _precision(gamma, labels)
        self.partial_var_ = 1 / np.diag(self.precision_)
        self.partial_corr_ = _correlation_of(self.precision_)
        self.n_samples_ = n
        self.dof_ = n - parts + 1
        return self

    def inference(self, alpha: float = 0.05) -> pd.DataFrame:
        """Tests and intervals for every pair of parts.

        The t-test is of R = 0: no conditional association in the log-ratio model. That is not the
        value under independence of the unclosed parts, which is positive (1 / (D - 1) for equal
        variances); compare with the interval to test another value.

        Args:
            alpha: one less the coverage of the intervals, in (0, 1).

        Returns:
            A frame with a row a pair, i before j: part_i, part_j (names, or indices), r, t,
            p_value (two-sided, n - D + 1 degrees of freedom), p_adjusted (Benjamini-Hochberg over
            all pairs), ci_low, ci_high (Fisher's transform, standard error 1 / sqrt(n - D)).

        Raises:
            ValueError: under shrinkage, which has no t law, or for ``alpha`` outside (0, 1).
        """
        check_is_fitted(self)
        if self.covariance != "empirical":
            raise ValueError(
                "covariance must be 'empirical' for inference: shrunk estimates have no t law"
            )
        if not 0 < alpha < 1:
            raise ValueError(f"alpha must lie in (0, 1), got {alpha}")
        parts = len(self.partial_corr_)
        i, j = np.triu_indices(parts, 1)
        r = self.partial_corr_[i, j]
        with np.errstate(divide="ignore"):
            t = r * np.sqrt(self.dof_ / (1 - r**2))
            center = np.arctanh(r)
        p_value = 2 * stats.t.sf(np.abs(t), self.dof_)
        half = stats.norm.isf(alpha / 2) / math.sqrt(self.n_samples_ - parts)
        labels = np.asarray(getattr(self, "feature_names_in_", np.arange(parts)))
        return pd.DataFrame(
            {
                "part_i": labels[i],
                "part_j": labels[j],
                "r": r,
                "t": t,
                "p_value": p_value,
                "p_adjusted": stats.false_discovery_control(p_value),
                "ci_low": np.tanh(center - half),
                "ci_high": np.tanh(center + half),
            }
        )

    def graph(self, threshold: float | None = None, alpha: float | None = None) -> NDArray:
        """Pairs that are associated given the other parts.

        Args:
            threshold: smallest |R| of an edge, in [0, 1]; or
            alpha: level of the adjusted p-values below which a pair is an edge, in (0, 1).

        Returns:
            (D, D) bool, symmetric with a False diagonal.

        Raises:
            ValueError: unless exactly one of the two is given, in its range; as
                :meth:`inference` for ``alpha``.
        """
        check_is_fitted(self)
        if (threshold is None) == (alpha is None):
            raise ValueError(
                f"either threshold or alpha must be given, got threshold={threshold}, alpha={alpha}"
            )
        if threshold is not None:
            if not 0 <= threshold <= 1:
                raise ValueError(f"threshold must lie in [0, 1], got {threshold}")
            edges = np.abs(self.partial_corr_) >= threshold
            np.fill_diagonal(edges, False)
            return edges
        edges = np.zeros(self.partial_corr_.shape, dtype=bool)
        edges[np.triu_indices(len(edges), 1)] = (
            self.inference(cast(float, alpha))["p_adjusted"] < alpha
        )
        return edges | edges.T

    def plot(self, ax: Any = None) -> Any:
        """Draw R as a heat map.

        Args:
            ax: matplotlib axes; None makes new ones.

        Returns:
            The axes.
        """
        check_is_fitted(self)
        if ax is None:
            import matplotlib.pyplot as plt

            _, ax = plt.subplots(layout="constrained")
        labels = [
            str(name) for name in getattr(self, "feature_names_in_", range(len(self.partial_corr_)))
        ]
        return heat_map(ax, self.partial_corr_, labels)


def heat_map(ax: Any, matrix: NDArray, labels: list[str]) -> Any:
    """Draw a matrix of correlations, -1 to 1, with its labels; returns the axes."""
    image = ax.imshow(matrix, vmin=-1, vmax=1, cmap="RdBu_r")
    ax.set_xticks(range(len(labels)), labels)
    ax.set_yticks(range(len(labels)), labels)
    ax.grid(False)
    ax.figure.colorbar(image, ax=ax, shrink=0.85)
    return ax


def partial_correlation(X: ArrayLike, **options: Any) -> tuple[NDArray, NDArray]:
    """Partial correlations and partial variances in one call.

    Args:
        X: (n, D) parts.
        **options: of :class:`CompositionalPartialCorrelation`.

    Returns:
        R (D, D) and the partial variances (D,).

    Raises:
        ValueError: as :meth:`CompositionalPartialCorrelation.fit`.

    Example:
        >>> import numpy as np
        >>> from rankone.stats.compositional import partial_correlation
        >>> X = np.exp(np.random.default_rng(0).standard_normal((50, 4)))
        >>> partial_correlation(X)[1].shape
        (4,)
    """
    model = CompositionalPartialCorrelation(**options).fit(X)
    return model.partial_corr_, model.partial_var_


def residual_correlation(X: ArrayLike, i: int, j: int, controls: ArrayLike | None = None) -> float:
    """The partial correlation of two parts by regression.

    The log-ratios of both to a control part are regressed on those of the other controls; the
    correlation of the residuals is R_ij of the subcomposition of the two and the controls.

    Args:
        X: (n, D) strictly positive parts.
        i, j: the two parts.
        controls: indices of the parts to condition on, at least one; None takes all others.

    Returns:
        The correlation.

    Raises:
        ValueError: for equal parts, controls that are empty, repeated or hold ``i`` or ``j``, or a
            constant log-ratio.

    Example:
        >>> import numpy as np
        >>> from rankone.stats.compositional import partial_correlation, residual_correlation
        >>> X = np.exp(np.random.default_rng(0).standard_normal((50, 4)))
        >>> bool(np.isclose(residual_correlation(X, 0, 1), partial_correlation(X)[0][0, 1]))
        True
    """
    X = _table(X, least_parts=3)
    parts = X.shape[1]
    i, j = _index(i, parts, "i"), _index(j, parts, "j")
    if i == j:
        raise ValueError(f"i and j must differ, got {i} twice")
    if controls is None:
        chosen = [k for k in range(parts) if k not in (i, j)]
    else:
        chosen = [_index(k, parts, "controls") for k in np.atleast_1d(np.asarray(controls))]
    if not chosen or len(set(chosen)) < len(chosen) or {i, j} & set(chosen):
        raise ValueError(
            "controls must name at least one part, each once, and neither i nor j, got "
            f"{controls!r}"
        )
    reference, *others = chosen
    _check_ratios_vary(X[:, [i, j, *chosen]], [i, j, *chosen])
    ratios = np.log(X) - np.log(X[:, [reference]])
    ratios -= ratios.mean(axis=0)
    residuals = ratios[:, [i, j]]
    if others:
        fitted = np.linalg.lstsq(ratios[:, others], residuals, rcond=None)[0]
        residuals = residuals - ratios[:, others] @ fitted
    a, b = residuals.T
    return float(np.clip(a @ b / math.sqrt((a @ a) * (b @ b)), -1, 1))


def multiple_correlation(X: ArrayLike, ref: int) -> NDArray:
    """Share of the variance of each log-ratio to ``ref`` that the other log-ratios explain.

    Unlike the partial correlations this does depend on the reference.

    Args:
        X: (n, D) strictly positive parts, n above D.
        ref: index of the reference part.

    Returns:
        (D,) R^2 = 1 - pv_i / var(log(x_i / x_ref)); NaN at ``ref``.

    Raises:
        ValueError: as :meth:`CompositionalPartialCorrelation.fit`, or ``ref`` out of range.

    Example:
        >>> import numpy as np
        >>> from rankone.stats.compositional import multiple_correlation
        >>> X = np.exp(np.random.default_rng(0).standard_normal((50, 4)))
        >>> int(np.isnan(multiple_correlation(X, 1)).argmax())
        1
    """
    X = _table(X, least_parts=3)
    ref = _index(ref, X.shape[1], "ref")
    _, partial_variance = partial_correlation(X)
    variance = variation_matrix(X)[ref]
    variance[ref] = np.nan
    return np.clip(1 - partial_variance / variance, 0, 1)


def proportionality(X: ArrayLike, metric: str = "rho_p") -> NDArray:
    """Proportionality of all pairs of parts, for comparison; it cannot tell opposition from none.

    Args:
        X: (n, D) strictly positive parts.
        metric: ``"rho_p"``, 1 - var(c_i - c_j) / (var c_i + var c_j), or ``"phi_s"``,
            var(c_i - c_j) / var(c_i + c_j), of centred log-ratios c.

    Returns:
        (D, D), symmetric.

    Raises:
        ValueError: for an unknown metric or bad tables.

    Example:
        >>> import numpy as np
        >>> from rankone.stats.compositional import proportionality
        >>> X = np.exp(np.random.default_rng(0).standard_normal((50, 4)))
        >>> proportionality(X).diagonal().tolist()
        [1.0, 1.0, 1.0, 1.0]
    """
    if metric not in ("rho_p", "phi_s"):
        raise ValueError(f"metric must be 'rho_p' or 'phi_s', got {metric!r}")
    X = _table(X)
    gamma = _covariance(clr(X))
    variance = np.diag(gamma)
    total = variance[:, None] + variance
    difference = variation_matrix(X)
    below = total if metric == "rho_p" else total + 2 * gamma
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = difference / below
    np.fill_diagonal(ratio, 0.0)
    return 1 - ratio if metric == "rho_p" else ratio


def symmetric_balance_correlation(X: ArrayLike) -> NDArray:
    """Correlations of the two symmetric balances of every pair of parts, for comparison.

    For parts i and j the two centred log-ratios are made orthonormal in the way that treats both
    alike, which gives symmetric pivot coordinates.

    Args:
        X: (n, D) strictly positive parts, D at least 3.

    Returns:
        (D, D), symmetric with a diagonal of 1.

    Raises:
        ValueError: for bad tables.

    Example:
        >>> import numpy as np
        >>> from rankone.stats.compositional import symmetric_balance_correlation
        >>> X = np.exp(np.random.default_rng(0).standard_normal((50, 4)))
        >>> symmetric_balance_correlation(X).shape
        (4, 4)
    """
    X = _table(X, least_parts=3)
    gamma = _covariance(clr(X))
    parts = len(gamma)
    s = math.sqrt(parts / (parts - 2))
    own, other = (s + 1) / 2, (s - 1) / 2
    variance = np.diag(gamma)
    first = own**2 * variance[:, None] + 2 * own * other * gamma + other**2 * variance
    cross = own * other * (variance[:, None] + variance) + (own**2 + other**2) * gamma
    result = cross / np.sqrt(first * first.T)
    np.fill_diagonal(result, 1.0)
    return np.clip(result, -1, 1)


def _real(values: ArrayLike, name: str) -> NDArray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim not in (1, 2) or not values.shape[-1]:
        raise ValueError(f"{name} must have shape (n, D) or (D,), got {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return values


def _parts(X: ArrayLike, *, zeros: bool = False) -> NDArray:
    X = _real(X, "X")
    _check_positive(X, zeros=zeros)
    return X


def _table(X: ArrayLike, least_parts: int = 2) -> NDArray:
    X = _parts(X)
    if X.ndim != 2 or X.shape[0] < 2 or X.shape[1] < least_parts:
        raise ValueError(
            f"X must have shape (n, D) with n at least 2 and D at least {least_parts}, got "
            f"{X.shape}"
        )
    return X


def _check_positive(X: NDArray, *, zeros: bool) -> None:
    if (X < 0).any():
        raise ValueError("X must hold parts of at least 0, got negative values")
    if not zeros and (X == 0).any():
        raise ValueError(
            f"X must be strictly positive, got {int((X == 0).sum())} zero parts: give "
            "zero_replacement, or replace them by multiplicative_replacement"
        )


def _without_zeros(X: NDArray, delta: float | None) -> NDArray:
    _check_positive(X, zeros=delta is not None)
    return X if delta is None else multiplicative_replacement(X, delta)


def _index(index: int, size: int, name: str) -> int:
    index = int(index)
    if not -size <= index < size:
        raise ValueError(f"{name} must be the index of one of {size} parts, got {index}")
    return index % size


def _covariance(C: NDArray) -> NDArray:
    return np.atleast_2d(np.cov(C, rowvar=False))


def _check_ratios_vary(X: NDArray, labels: Any) -> None:
    """Refuse two parts in a constant ratio; their partial correlation has no finite precision."""
    logs = np.log(X)
    logs -= logs.mean(axis=0)
    labels = list(labels)
    scale = np.abs(logs).max()
    for i in range(len(labels) - 1):
        spread = np.abs(logs[:, i + 1 :] - logs[:, [i]]).max(axis=0)
        constant = np.flatnonzero(spread <= 1e-12 * max(scale, 1.0))
        if constant.size:
            raise ValueError(
                f"X must have varying log-ratios, got a constant ratio of parts {labels[i]} and "
                f"{labels[i + 1 + constant[0]]}: leave one of them out"
            )


def _basis_shrinkage(X: NDArray, shrinkage: str | float) -> tuple[NDArray, float]:
    """Gamma from correlations of the logs of the closed parts shrunk to 0, and the intensity."""
    logs = np.log(closure(X))
    n = len(logs)
    deviation = logs.std(axis=0, ddof=1)
    deviation[deviation == 0] = 1.0  # a constant share: its variance of 0 stays
    z = (logs - logs.mean(axis=0)) / deviation
    r = z.T @ z / (n - 1)
    off_diagonal = ~np.eye(len(r), dtype=bool)
    if isinstance(shrinkage, str):
        if shrinkage != "auto":
            raise ValueError(f"shrinkage must be 'auto' or a number in [0, 1], got {shrinkage!r}")
        # sum_s (w_sij - mean)^2 with w_sij = z_si z_sj, without an (n, D, D) array.
        squares = np.square(z).T @ np.square(z) - n * np.square(z.T @ z / n)
        variance = n / (n - 1) ** 3 * squares
        used = float(np.clip(variance[off_diagonal].sum() / np.square(r[off_diagonal]).sum(), 0, 1))
    else:
        used = float(shrinkage)
        if not 0 <= used <= 1:
            raise ValueError(f"shrinkage must be 'auto' or a number in [0, 1], got {shrinkage}")
    r[off_diagonal] *= 1 - used
    basis = deviation[:, None] * r * deviation
    centered = basis - basis.mean(axis=0)
    return centered - centered.mean(axis=1, keepdims=True), used


def _precision(gamma: NDArray, labels: Any) -> NDArray:
    """The Moore-Penrose inverse of Gamma, by Cholesky in the complement of (1, ..., 1)."""
    V = helmert(len(gamma)).T
    A = V.T @ gamma @ V
    # Scaled to a unit diagonal, so that a part of small variance is not mistaken for collinearity.
    scale = np.sqrt(np.diag(A))
    try:
        if not (scale > 0).all():
            raise LinAlgError
        factor = cho_factor(A / scale / scale[:, None], lower=True)
        if np.square(np.diag(factor[0])).min() < _COLLINEAR:
            raise LinAlgError
    except LinAlgError:
        weights = np.abs(V @ np.linalg.eigh(A)[1][:, 0])
        collinear = np.asarray(list(labels))[weights > 1e-6 * weights.max()].tolist()
        raise ValueError(
            f"X must have linearly independent log-ratios, got collinear parts {collinear}: leave "
            "parts out or use covariance='basis_shrinkage'"
        ) from None
    inverse = cho_solve(factor, np.eye(len(A))) / scale / scale[:, None]
    precision = V @ inverse @ V.T
    return (precision + precision.T) / 2


def _correlation_of(precision: NDArray) -> NDArray:
    root = np.sqrt(np.diag(precision))
    result = np.clip(-precision / np.outer(root, root), -1, 1)
    np.fill_diagonal(result, 1.0)
    return result


def __dir__() -> list[str]:
    return public_names(globals())
