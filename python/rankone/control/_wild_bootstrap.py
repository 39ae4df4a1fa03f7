"""Do two paired trajectories have one distribution? Kernel two-sample test for dependent samples.

The statistic is the squared maximum mean discrepancy, times n. Its null distribution is simulated
by multiplying the rows and columns of the same kernel matrix with a slowly varying Gaussian
process, which keeps the dependence in time that a permutation would destroy.

Source: "A Wild Bootstrap for Degenerate Kernel Tests" (arXiv 1408.5404): the multipliers and their
centring; used on two observers in "Attack Detection in Dynamic Games with Quadratic Measurements"
(arXiv 2510.00241).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.signal import lfilter
from scipy.spatial.distance import pdist, squareform

from rankone._repr import short_repr
from rankone.control._level_sets import array

RandomState = int | np.random.Generator | np.random.RandomState | None

# Fewest pairs of a test.
MIN_SAMPLES = 10


def generator(random_state: RandomState) -> np.random.Generator:
    """A generator of whatever seeds one; a generator is used as it is."""
    if isinstance(random_state, np.random.RandomState):
        return np.random.default_rng(random_state.randint(2**32, dtype=np.uint32))
    try:
        return np.random.default_rng(random_state)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"random_state must be an integer of at least 0, a Generator, a RandomState or None, "
            f"got {random_state!r}"
        ) from error


@dataclass(frozen=True, eq=False)
class MMDResult:
    """A two-sample test.

    Attributes:
        statistic: n times the squared maximum mean discrepancy.
        pvalue: (1 + number of bootstrap statistics at least as large) / (1 + their number).
        critical_value: the test rejects where the statistic is above it; infinite where alpha is
            below what the bootstrap can resolve.
        reject: whether ``pvalue <= alpha``.
        bandwidth: of the kernel exp(-d^2 / (2 bandwidth^2)).
        null_distribution: (n_bootstrap,) bootstrap statistics.
    """

    __repr__ = short_repr

    statistic: float
    pvalue: float
    critical_value: float
    reject: bool
    bandwidth: float
    null_distribution: np.ndarray


def wild_multipliers(
    n: int, n_bootstrap: int, block: float, random_state: RandomState = None
) -> np.ndarray:
    """Stationary Gaussian processes of variance 1 and autocorrelation exp(-j / block).

    Args:
        n: length.
        n_bootstrap: number of processes.
        block: time after which the autocorrelation is 1/e; positive.
        random_state: seed.

    Returns:
        (n, n_bootstrap).

    Raises:
        ValueError: for values out of range.

    Source: "A Wild Bootstrap for Degenerate Kernel Tests" (arXiv 1408.5404).

    Example:
        >>> from rankone.control.attack_detection import wild_multipliers
        >>> wild_multipliers(50, 4, block=20.0, random_state=0).shape
        (50, 4)
    """
    check_bootstrap(n_bootstrap, block)
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    phi = np.exp(-1 / block)
    noise = generator(random_state).standard_normal((n, n_bootstrap))
    # The first value has the stationary law itself.
    noise[1:] *= np.sqrt(-np.expm1(-2 / block))
    return lfilter([1.0], [1.0, -phi], noise, axis=0)


def check_bootstrap(n_bootstrap: int, block: float) -> None:
    if isinstance(n_bootstrap, bool) or not isinstance(n_bootstrap, int | np.integer):
        raise TypeError(f"n_bootstrap must be an integer, got {type(n_bootstrap).__name__}")
    if n_bootstrap < 1:
        raise ValueError(f"n_bootstrap must be at least 1, got {n_bootstrap}")
    if array(block, "block", 0) <= 0:
        raise ValueError(f"block must be positive, got {block}")


def check_alpha(alpha: float) -> None:
    if not 0 < array(alpha, "alpha", 0) < 1:
        raise ValueError(f"alpha must be in (0, 1), got {alpha}")


def check_bandwidth(bandwidth: float | str) -> None:
    if isinstance(bandwidth, str):
        if bandwidth != "median":
            raise ValueError(f'bandwidth must be "median" or a number, got {bandwidth!r}')
    elif array(bandwidth, "bandwidth", 0) <= 0:
        raise ValueError(f"bandwidth must be positive, got {bandwidth}")


def samples(value: ArrayLike, name: str) -> np.ndarray:
    """(n, p), a series of numbers as (n, 1)."""
    out = np.asarray(value)
    return array(value, name, 2) if out.ndim != 1 else array(value, name, 1)[:, None]


def wild_bootstrap_mmd(
    X: ArrayLike,
    Y: ArrayLike,
    n_bootstrap: int = 300,
    block: float = 20.0,
    bandwidth: float | str = "median",
    centered: bool = True,
    alpha: float = 0.05,
    random_state: RandomState = None,
) -> MMDResult:
    """Test whether two paired stationary series have one distribution.

    The level is approximate and needs many blocks: of independent scalar samples 0.21 were
    rejected at level 0.05 with n = 80 and block 20, 0.11 with n = 200 (300 pairs each); without
    ``centered`` 0 and 0.007, at the price of nearly all power.

    Args:
        X, Y: (n, p) or (n,), at least 10 rows in the order of time.
        n_bootstrap: bootstrap statistics; 1/(1 + n_bootstrap) is the smallest p-value.
        block: memory of the multipliers in samples; at least that of the series. Too short a
            block rejects too often, too long a one costs power.
        bandwidth: of the Gaussian kernel exp(-d^2 / (2 bandwidth^2)), or "median" for the root of
            half the median squared distance of the pooled sample.
        centered: subtract the mean of the multipliers of each bootstrap statistic.
        alpha: level.
        random_state: seed of the multipliers.

    Returns:
        :class:`MMDResult`.

    Raises:
        ValueError: for unequal lengths, fewer than 10 rows, values that are not finite, parameters
            out of range or a median distance of 0.
        TypeError: for samples that are not numbers.

    Warns:
        UserWarning: if ``alpha`` is below 1/(1 + n_bootstrap): nothing can be rejected.

    Source: "A Wild Bootstrap for Degenerate Kernel Tests" (arXiv 1408.5404).

    Example:
        >>> import numpy as np
        >>> from rankone.control.attack_detection import wild_bootstrap_mmd
        >>> rng = np.random.default_rng(0)
        >>> wild_bootstrap_mmd(rng.normal(size=100), rng.normal(1, size=100), random_state=0).reject
        True
    """
    check_bootstrap(n_bootstrap, block)
    check_alpha(alpha)
    check_bandwidth(bandwidth)
    X, Y = samples(X, "X"), samples(Y, "Y")
    if X.shape != Y.shape:
        raise ValueError(f"X and Y must have one shape, got {X.shape} and {Y.shape}")
    if len(X) < MIN_SAMPLES:
        raise ValueError(f"X and Y must have at least {MIN_SAMPLES} rows, got {len(X)}")
    h, sigma = _discrepancies(X, Y, bandwidth)
    statistic = float(h.sum()) / len(h)
    W = wild_multipliers(len(h), n_bootstrap, block, random_state)
    if centered:
        W -= W.mean(axis=0)
    null = np.einsum("ib,ib->b", W, h @ W) / len(h)
    exceeding = int(np.count_nonzero(null >= statistic))
    pvalue = (1 + exceeding) / (1 + n_bootstrap)
    # Rejected are statistics that at most `allowed` - 1 of the bootstrap reach.
    allowed = int(np.count_nonzero((1 + np.arange(n_bootstrap)) / (1 + n_bootstrap) <= alpha))
    if not allowed:
        warnings.warn(
            f"alpha={alpha} is below 1/(1 + n_bootstrap)={1 / (1 + n_bootstrap):.4g}: nothing can "
            "be rejected; raise n_bootstrap",
            UserWarning,
            stacklevel=2,
        )
    return MMDResult(
        statistic=statistic,
        pvalue=pvalue,
        critical_value=float(np.sort(null)[-allowed]) if allowed else np.inf,
        reject=bool(pvalue <= alpha),
        bandwidth=sigma,
        null_distribution=null,
    )


def _discrepancies(
    X: np.ndarray, Y: np.ndarray, bandwidth: float | str
) -> tuple[np.ndarray, float]:
    """h_ij = k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(y_i, x_j), and the bandwidth."""
    n = len(X)
    squared = pdist(np.vstack([X, Y]), "sqeuclidean")
    if isinstance(bandwidth, str):
        sigma = float(np.sqrt(np.median(squared) / 2))
        if sigma == 0:
            raise ValueError(
                "X and Y must differ in most of their points: the median distance, and with it "
                "the bandwidth, is 0; give bandwidth as a number"
            )
    else:
        sigma = float(bandwidth)
    kernel = squareform(np.exp(squared / (-2 * sigma**2)))
    np.fill_diagonal(kernel, 1.0)
    across = kernel[:n, n:]
    return kernel[:n, :n] + kernel[n:, n:] - (across + across.T), sigma
