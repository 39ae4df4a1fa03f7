"""The law of networks trained on the standard basis, and the ensembles it asks for.

Unit inputs of c ones meet the training set in two angles only, so that the weights w_x of the
training labels are alpha0 + slope x, and all kernel products are of rank one plus diagonal: c and
the overlap of two inputs determine everything here. The public functions are those of
:mod:`rankone.icl.permutation_learning`; the closed forms were derived for this library in the
setting of arXiv 2502.16763.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln, logsumexp
from scipy.stats import norm
from sklearn.utils import check_array

KERNELS = ("ntk", "readout")
ROUNDINGS = ("sign", "midpoint")
METHODS = ("gaussian", "bound")

# Cosines this near to +-1 lose half of their digits in the angle, which is then taken from the
# length of the difference.
_NEAR_PARALLEL = 1e-4


class PermutationCoefficients(NamedTuple):
    """The law of one network's outputs at an input of c ones.

    Attributes:
        alpha0: mean where the true bit is 0; nan where c = k, which has no such bit.
        alpha1: mean where the true bit is 1.
        variance: of every output coordinate.
        offdiag: D; the kernel matrix of the training set is s (D I + 1 1^T).
    """

    alpha0: NDArray
    alpha1: NDArray
    variance: NDArray
    offdiag: float


class OutputLaw(NamedTuple):
    """The law at inputs of c ones, in the terms of the weights w_x = alpha0 + slope x.

    Attributes:
        alpha0, slope: of the weights of the training labels; alpha0 is continued to c = k.
        overlap_term: G, with K(X, x) = s (1 + G x).
        variance: of every output coordinate.
        offdiag: D.
    """

    alpha0: NDArray
    slope: NDArray
    overlap_term: NDArray
    variance: NDArray
    offdiag: float


def ntk_coefficients(
    n_ones: ArrayLike, k: int, *, kernel: str = "ntk", sigma_w: float = 1.0
) -> PermutationCoefficients:
    """Mean and variance of a trained network's output bits, by closed form.

    Args:
        n_ones: number of ones c of the input, any shape, 1 to k.
        k: bits, at least 2.
        kernel: ``"ntk"`` trains both layers, ``"readout"`` the second alone.
        sigma_w: standard deviation of the scaled weights; means do not depend on it, the variance
            grows with its fourth power.

    Returns:
        A named tuple of float64 arrays shaped like ``n_ones``, and D.

    Raises:
        ValueError: for ``n_ones`` outside 1 to k, k below 2, an unknown kernel, or ``sigma_w``
            that is not positive.
        TypeError: for ``n_ones`` or k that are not integers.

    Source: closed forms derived for this library in the setting of "Exact Learning of Permutations
    for Nonzero Binary Inputs with Logarithmic Training Size and Quadratic Ensemble Complexity",
    arXiv 2502.16763.

    Example:
        >>> from rankone.icl.permutation_learning import ntk_coefficients
        >>> alpha0, alpha1, variance, _ = ntk_coefficients(2, 10)
        >>> round(float(alpha0), 5), round(float(alpha1), 4), round(float(variance), 6)
        (-0.00985, 0.5654, 0.006519)
    """
    k = checked_size(k)
    c = checked_ones(n_ones, k)
    law = output_law(c, k, kernel, sigma_w)
    return PermutationCoefficients(
        alpha0=np.where(c == k, np.nan, law.alpha0),
        alpha1=np.asarray(law.alpha0 + law.slope),
        variance=law.variance,
        offdiag=law.offdiag,
    )


def two_layer_kernels(
    X1: ArrayLike,
    X2: ArrayLike | None = None,
    *,
    sigma_w: float = 1.0,
    normalize: bool = True,
) -> tuple[NDArray, NDArray]:
    """The tangent kernel and the initial covariance of the two-layer ReLU network.

    For unit vectors at angle t and s = sigma_w^4 / (2 pi k): Theta = s (sin t + 2 (pi - t) cos t),
    K = s (sin t + (pi - t) cos t). Both are homogeneous of degree 1 in either argument.

    Args:
        X1: (n, k) real rows.
        X2: (m, k) real rows; None takes ``X1``.
        sigma_w: standard deviation of the scaled weights.
        normalize: scale rows to length 1; otherwise the kernels of the rows as they are.

    Returns:
        (Theta, K), both (n, m) float64.

    Raises:
        ValueError: for rows of different lengths, a zero row with ``normalize``, values that are
            not finite, or ``sigma_w`` that is not positive.

    Example:
        >>> import numpy as np
        >>> from rankone.icl.permutation_learning import two_layer_kernels
        >>> theta, K = two_layer_kernels(np.eye(3))
        >>> (theta * 6 * np.pi).round(4).tolist()[0], (K * 6 * np.pi).round(4).tolist()[0]
        ([6.2832, 1.0, 1.0], [3.1416, 1.0, 1.0])
    """
    check_weight_scale(sigma_w)
    A = check_array(X1, dtype=np.float64, input_name="X1")
    B = A if X2 is None else check_array(X2, dtype=np.float64, input_name="X2")
    if A.shape[1] != B.shape[1]:
        raise ValueError(f"X2 must have the {A.shape[1]} columns of X1, got {B.shape[1]}")
    lengths = []
    for name, rows in (("X1", A), ("X2", B)):
        length = np.linalg.norm(rows, axis=1)
        if normalize and not length.all():
            raise ValueError(f"{name} must have no zero row, got one at {np.argmin(length)}")
        lengths.append(length)
    A, B = (
        rows / np.where(length, length, 1.0)[:, None]
        for rows, length in zip((A, B), lengths, strict=True)
    )
    cos = np.clip(A @ B.T, -1.0, 1.0)
    angle = np.arccos(cos)
    for sign in (1, -1):
        i, j = np.nonzero(sign * cos > 1 - _NEAR_PARALLEL)
        between = 2 * np.arcsin(np.minimum(np.linalg.norm(A[i] - sign * B[j], axis=1) / 2, 1.0))
        angle[i, j] = between if sign == 1 else np.pi - between
        cos[i, j] = np.cos(angle[i, j])
    scale = kernel_scale(A.shape[1], sigma_w)
    tangent = (np.pi - angle) * cos
    K = scale * (np.sin(angle) + tangent)
    theta = K + scale * tangent
    if not normalize:
        product = lengths[0][:, None] * lengths[1]
        theta, K = theta * product, K * product
    return theta, K


def posterior(
    X: ArrayLike,
    perm: ArrayLike,
    *,
    kernel: str = "ntk",
    sigma_w: float = 1.0,
    return_cov: bool = False,
) -> tuple[NDArray, ...]:
    """The Gaussian law of one infinitely wide trained network at any inputs.

    Output coordinates are independent and share one covariance over inputs.

    Args:
        X: (q, k) binary rows, none of zeros alone; normalised inside.
        perm: (k,) indices; the true output is ``x[perm]``.
        kernel: ``"ntk"`` or ``"readout"``.
        sigma_w: standard deviation of the scaled weights.
        return_cov: also the covariance.

    Returns:
        mean (q, k) and variance (q,), float64; with ``return_cov`` also the covariance (q, q).

    Raises:
        ValueError: for rows that are not binary, a zero row, a wrong width, a ``perm`` that is no
            permutation, or an unknown kernel.

    Source: arXiv 2502.16763 for the limit, closed forms derived for this library.

    Example:
        >>> from rankone.icl.permutation_learning import posterior
        >>> mean, variance = posterior([[0, 1, 0], [1, 1, 0]], [2, 0, 1])
        >>> (mean > 0).astype(int).tolist(), float(variance[0])
        ([[0, 0, 1], [0, 1, 1]], 0.0)
    """
    permutation = checked_permutation(perm)
    rows = binary_rows(check_array(X, dtype=None), "X")
    k = len(permutation)
    if rows.shape[1] != k:
        raise ValueError(f"X must have {k} columns, the length of perm, got {rows.shape[1]}")
    mean = output_mean(rows, permutation, kernel, sigma_w)
    variance = output_law(count_ones(rows), k, kernel, sigma_w).variance
    if not return_cov:
        return mean, variance
    return mean, variance, output_covariance(rows, rows, kernel=kernel, sigma_w=sigma_w)


def ensemble_complexity(
    k: int,
    *,
    delta: float = 0.1,
    n_ones: int | str = 2,
    kernel: str = "ntk",
    rounding: str = "sign",
    method: str = "gaussian",
    sigma_w: float = 1.0,
) -> int:
    """Networks needed for every output bit to be right with probability at least ``1 - delta``.

    Args:
        k: bits, at least 2.
        delta: probability of any wrong bit, inside (0, 1).
        n_ones: one input of so many ones, or ``"all"`` inputs at once.
        kernel: ``"ntk"`` or ``"readout"``.
        rounding: ``"sign"`` or ``"midpoint"``.
        method: ``"gaussian"``, the smallest ensemble whose union bound over exact normal tails is
            at most ``delta``; ``"bound"``, the sub-Gaussian tail with the worst number of ones,
            which has a closed form and is larger.
        sigma_w: standard deviation of the scaled weights; the number grows with its fourth power.

    Returns:
        The number of networks, at least 1.

    Raises:
        ValueError: for ``delta`` outside (0, 1), ``n_ones`` outside 1 to k, or an unknown name.

    Source: the exact number is derived for this library; O(k log k) and O(k^2) are of
    arXiv 2502.16763.

    Example:
        >>> from rankone.icl.permutation_learning import ensemble_complexity
        >>> ensemble_complexity(10), ensemble_complexity(10, n_ones="all")
        (338, 801)
        >>> ensemble_complexity(10, n_ones="all", rounding="midpoint")
        16
    """
    k = checked_size(k)
    check_delta(delta)
    check_name("rounding", rounding, ROUNDINGS)
    check_name("method", method, METHODS)
    c = checked_scope(n_ones, k, "n_ones")
    everything = isinstance(n_ones, str)
    law = output_law(c, k, kernel, sigma_w)
    noisy = law.variance > 0
    if not noisy.any():
        return 1
    threshold = rounding_threshold(c, k=k, kernel=kernel, rounding=rounding)
    # Distance from the threshold of the 0-bits and of the 1-bits; there is no 0-bit at c = k.
    margins = np.stack([threshold - law.alpha0, law.alpha0 + law.slope - threshold])[:, noisy]
    c, variance = c[noisy], law.variance[noisy]
    margins[0, c == k] = np.inf
    if method == "bound":
        logs = math.log(k) - math.log(delta) + (k * math.log(2) if everything else 0.0)
        return max(1, math.ceil(float((2 * variance / margins.min(axis=0) ** 2).max()) * logs))
    with np.errstate(divide="ignore"):
        log_bits = np.log(np.stack([k - c, c]))
    if everything:
        log_bits += gammaln(k + 1) - gammaln(c + 1) - gammaln(k - c + 1)

    def fails(n: int) -> bool:
        tails = norm.logsf(margins * np.sqrt(n / variance))
        return float(logsumexp(log_bits + tails)) > math.log(delta)

    enough = 1
    while fails(enough):
        enough *= 2
    too_few = enough // 2
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        too_few, enough = (middle, enough) if fails(middle) else (too_few, middle)
    return enough


def kernel_scale(k: int, sigma_w: float) -> float:
    return sigma_w**4 / (2 * math.pi * k)


def offdiagonal(kernel: str) -> float:
    check_name("kernel", kernel, KERNELS)
    return (2 * math.pi if kernel == "ntk" else math.pi) - 1


def output_law(c: NDArray, k: int, kernel: str, sigma_w: float) -> OutputLaw:
    D = offdiagonal(kernel)
    check_weight_scale(sigma_w)
    # sin and cos of the angle to the training inputs at the ones of the input.
    cos = 1 / np.sqrt(c)
    sin = np.sqrt((c - 1) / c)
    lean = (np.pi - np.arccos(cos)) * cos
    G = sin + lean - 1
    A = sin + 2 * lean - 1 if kernel == "ntk" else G
    trained = c == 1
    alpha0 = np.where(trained, 0.0, (D - c * A) / (D * (D + k)))
    slope = np.where(trained, 1.0, A / D)
    alpha1 = alpha0 + slope
    q = c * alpha1**2 + (k - c) * alpha0**2
    S = c * alpha1 + (k - c) * alpha0
    v = np.pi + (np.pi - 1) * q + S**2 - 2 * (S + G * c * alpha1)
    variance = np.where(trained, 0.0, kernel_scale(k, sigma_w) * np.maximum(v, 0.0))
    return OutputLaw(alpha0, slope, G, variance, D)


def output_mean(rows: NDArray, permutation: NDArray, kernel: str, sigma_w: float) -> NDArray:
    law = output_law(count_ones(rows), rows.shape[1], kernel, sigma_w)
    return law.alpha0[:, None] + law.slope[:, None] * rows[:, permutation]


def output_covariance(X1: NDArray, X2: NDArray, *, kernel: str, sigma_w: float) -> NDArray:
    """Covariance of one trained network's output over two lists of inputs, (n, m).

    K(x, x') + w^T K(X, X) w' - w^T K(X, x') - w'^T K(X, x), where K(X, X) / s is
    (pi - 1) I + 1 1^T, K(X, x) / s is 1 + G x, and w is alpha0 + slope x.
    """
    k = X1.shape[1]
    c1, c2 = count_ones(X1), count_ones(X2)
    one, two = output_law(c1, k, kernel, sigma_w), output_law(c2, k, kernel, sigma_w)
    overlap = X1.astype(np.float64) @ X2.T.astype(np.float64)
    cos = np.minimum(overlap / np.sqrt(np.multiply.outer(c1, c2)), 1.0)
    prior = np.sqrt(1 - cos**2) + (np.pi - np.arccos(cos)) * cos
    sums = [law.alpha0 * k + law.slope * c for law, c in ((one, c1), (two, c2))]
    products = (
        np.multiply.outer(one.alpha0, two.alpha0 * k + two.slope * c2)
        + np.multiply.outer(one.slope * c1, two.alpha0)
        + np.multiply.outer(one.slope, two.slope) * overlap
    )
    # w^T x' and w'^T x.
    first = np.multiply.outer(one.alpha0, c2) + one.slope[:, None] * overlap
    second = np.multiply.outer(c1, two.alpha0) + overlap * two.slope
    covariance = (
        prior
        + (np.pi - 1) * products
        + np.multiply.outer(sums[0], sums[1])
        - (sums[0][:, None] + first * two.overlap_term)
        - (sums[1] + second * one.overlap_term[:, None])
    )
    covariance[c1 == 1] = 0.0
    covariance[:, c2 == 1] = 0.0
    return covariance * kernel_scale(k, sigma_w)


def rounding_threshold(c: ArrayLike, *, k: int, kernel: str, rounding: str) -> NDArray:
    """Averages above it are rounded to 1, for inputs of c ones."""
    ones = checked_ones(c, k)
    if rounding == "sign":
        return np.where(ones == 1, 0.5, 0.0)
    law = output_law(ones, k, kernel, 1.0)
    # Inputs of ones alone have no 0-bit and hence no midpoint; the sign has the wider margin.
    return np.where(ones == k, 0.0, law.alpha0 + law.slope / 2)


def count_ones(rows: NDArray) -> NDArray:
    return rows.sum(axis=1, dtype=np.int64)


def binary_rows(X: NDArray, name: str) -> NDArray:
    if X.dtype.kind not in "buif":
        raise TypeError(f"{name} must hold the numbers 0 and 1, got dtype {X.dtype}")
    if not np.isin(X, (0, 1)).all():
        odd = X[~np.isin(X, (0, 1))][0]
        raise ValueError(f"{name} must be binary, entries 0 or 1, got {odd}")
    empty = ~X.any(axis=1)
    if empty.any():
        raise ValueError(f"{name} must have no row of zeros alone, got one at {np.argmax(empty)}")
    return X.astype(np.uint8)


def checked_ones(n_ones: ArrayLike, k: int) -> NDArray:
    c = np.asarray(n_ones)
    if c.dtype.kind not in "ui":
        raise TypeError(f"n_ones must be integers, got dtype {c.dtype}")
    if c.size and (c.min() < 1 or c.max() > k):
        raise ValueError(f"n_ones must lie in 1 to k = {k}, got {c.min()} to {c.max()}")
    return c.astype(np.int64)


def checked_scope(scope: int | str, k: int, name: str) -> NDArray:
    if isinstance(scope, str):
        if scope != "all":
            raise ValueError(f"{name} must be 'all' or a number of ones, got {scope!r}")
        return np.arange(2, k + 1)
    check_integer(name, scope, low=1, high=k)
    return np.array([scope])


def checked_size(k: int) -> int:
    check_integer("k", k, low=2)
    return int(k)


def checked_permutation(perm: ArrayLike, name: str = "perm") -> NDArray:
    indices = np.asarray(perm)
    if indices.dtype.kind not in "ui":
        raise TypeError(f"{name} must hold integers, got dtype {indices.dtype}")
    if indices.ndim != 1 or len(indices) < 2:
        raise ValueError(f"{name} must be a list of at least 2 indices, got {indices.shape}")
    if not np.array_equal(np.sort(indices), np.arange(len(indices))):
        raise ValueError(
            f"{name} must be a permutation of 0 to {len(indices) - 1}, got {indices.tolist()}"
        )
    return indices.astype(np.int64)


def check_name(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}")


def check_integer(name: str, value: Any, *, low: int, high: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < low or (high is not None and value > high):
        allowed = f"at least {low}" if high is None else f"{low} to {high}"
        raise ValueError(f"{name} must be {allowed}, got {value}")


def check_positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be positive and finite, got {value}")


def check_weight_scale(sigma_w: Any) -> None:
    check_positive("sigma_w", sigma_w)
    with np.errstate(over="ignore", under="ignore"):
        power = np.float64(sigma_w) ** 4
    if not (np.isfinite(power) and power >= np.finfo(np.float64).tiny):
        raise ValueError(f"sigma_w must have a fourth power in double range, got {sigma_w}")


def check_delta(delta: Any) -> None:
    if isinstance(delta, bool) or not isinstance(delta, float | np.floating) or not 0 < delta < 1:
        raise ValueError(f"delta must lie inside (0, 1), got {delta!r}")
