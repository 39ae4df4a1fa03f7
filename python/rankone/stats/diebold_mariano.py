"""Diebold-Mariano test of equal forecast accuracy.

Diebold & Mariano, "Comparing predictive accuracy" (1995), with the small-sample factor of Harvey,
Leybourne & Newbold, "Testing the equality of prediction mean squared errors" (1997).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.stats import t as student_t
from sklearn.utils.validation import check_array

LOSSES = ("absolute", "squared")


class DieboldMariano(NamedTuple):
    """A statistic, positive where the first forecast has the larger loss, and its p-value."""

    statistic: float
    pvalue: float


def diebold_mariano(
    e1: Any, e2: Any, h: int = 1, loss: str = "absolute", correction: bool = True
) -> DieboldMariano:
    """Test that two forecasts of the same rows have the same expected loss.

    The variance of the mean loss differential takes autocovariances, with divisor n, up to lag
    h - 1. For h = 1 the corrected statistic is that of the one-sample t-test.

    Args:
        e1, e2: (n,) errors, in time order.
        h: steps ahead of the forecasts.
        loss: ``"absolute"`` or ``"squared"``.
        correction: the factor of Harvey, Leybourne & Newbold,
            sqrt((n + 1 - 2h + h(h - 1)/n) / n).

    Returns:
        (statistic, pvalue), two-sided from Student's t with n - 1 degrees of freedom. Equal losses
        throughout give 0 and 1; a differential that is constant and not 0 gives an infinite
        statistic; for h > 1 both are NaN where the estimated variance is not positive.

    Raises:
        ValueError: for errors of different lengths, fewer than 2 rows, entries that are not
            finite, an ``h`` outside [1, n), or an unknown loss.

    Example:
        >>> import numpy as np
        >>> from rankone.stats.diebold_mariano import diebold_mariano
        >>> statistic, pvalue = diebold_mariano(np.array([2.0, 1.5, 2.5, 2.0]), np.ones(4))
        >>> round(statistic, 3), round(pvalue, 3)
        (4.899, 0.016)
    """
    e1, e2 = (
        check_array(e, ensure_2d=False, dtype=np.float64, input_name=name, ensure_min_samples=2)
        for name, e in (("e1", e1), ("e2", e2))
    )
    if e1.ndim != 1 or e1.shape != e2.shape:
        raise ValueError(f"e1 and e2 must be (n,) both, got {e1.shape} and {e2.shape}")
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {loss!r}")
    n = len(e1)
    if not 1 <= h < n:
        raise ValueError(f"h must be at least 1 and below the {n} rows, got {h}")
    power = np.abs if loss == "absolute" else np.square
    d = power(e1) - power(e2)
    mean = float(d.mean())
    centred = d - mean
    variance = float(centred @ centred)
    variance += 2 * sum(float(centred[lag:] @ centred[:-lag]) for lag in range(1, h))
    variance /= n
    if not d.any():
        return DieboldMariano(0.0, 1.0)
    # A constant differential leaves rounding errors alone.
    if float(centred @ centred) <= n * (4 * np.finfo(float).eps * mean) ** 2:
        return DieboldMariano(float(np.copysign(np.inf, mean)), 0.0)
    if variance <= 0:
        return DieboldMariano(float("nan"), float("nan"))
    statistic = mean / np.sqrt(variance / n)
    if correction:
        statistic *= np.sqrt((n + 1 - 2 * h + h * (h - 1) / n) / n)
    return DieboldMariano(float(statistic), float(2 * student_t.sf(abs(statistic), n - 1)))
