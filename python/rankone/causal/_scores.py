"""Scores, derivatives of log densities, of one-dimensional samples.

Every score here is equivariant: mapping the sample by x -> a x + c divides its score by a.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
from scipy.fft import dct
from scipy.optimize import brentq
from scipy.signal import fftconvolve
from sklearn.mixture import GaussianMixture
from sklearn.utils import check_random_state

Score = Callable[[np.ndarray], np.ndarray]

BANDWIDTHS = ("scott", "silverman", "isj")

# A binned kernel reaches this many bandwidths; its density is floored at this share of the largest.
_REACH = 6.0
_FLOOR = 1e-10

# Cells a bandwidth has at least, up to the largest grid.
_CELLS = 4
_LARGEST_GRID = 2**20

# Of the diffusion bandwidth: histogram bins, range widened by this share, steps of the recursion,
# and upper ends of the bracket of its root.
_ISJ_BINS = 4096
_ISJ_MARGIN = 0.1
_ISJ_STEPS = 7
_ISJ_BRACKETS = (1e-3, 1e-2, 1e-1, 1.0)

_MIXTURE_STARTS = 2


def kernel_bandwidth(sample: np.ndarray, bandwidth: str | float) -> float:
    """Bandwidth of a Gaussian kernel: "scott", "silverman", "isj", or a number.

    "scott" is ``sd n^(-1/5)``, "silverman" ``sd (3n/4)^(-1/5)`` (sd with ddof 1); "isj" is the
    improved Sheather-Jones rule by diffusion (Botev, Grotowski and Kroese 2010), smaller where
    there are several modes.
    """
    spread, n = float(np.std(sample, ddof=1)), len(sample)
    if bandwidth == "scott":
        return spread * n**-0.2
    if bandwidth == "silverman":
        return spread * (0.75 * n) ** -0.2
    if bandwidth == "isj":
        return _isj_bandwidth(sample)
    return float(bandwidth)


def _isj_bandwidth(sample: np.ndarray) -> float:
    low, high = sample.min(), sample.max()
    margin = _ISJ_MARGIN * (high - low)
    width = high - low + 2 * margin
    counts, _ = np.histogram(sample, bins=_ISJ_BINS, range=(low - margin, high + margin))
    squares = (dct(counts / len(sample))[1:] / 2) ** 2
    powers = np.arange(1, _ISJ_BINS, dtype=np.float64) ** 2

    def norm(s: int, t: float) -> float:
        return (
            2
            * math.pi ** (2 * s)
            * float(np.sum(powers**s * squares * np.exp(-powers * math.pi**2 * t)))
        )

    def fixed_point(t: float) -> float:
        f = norm(_ISJ_STEPS, t)
        for s in range(_ISJ_STEPS - 1, 1, -1):
            odd = math.prod(range(1, 2 * s, 2)) / math.sqrt(2 * math.pi)
            constant = (1 + 0.5 ** (s + 0.5)) / 3
            f = norm(s, (2 * constant * odd / (len(sample) * f)) ** (2 / (3 + 2 * s)))
        return t - (2 * len(sample) * math.sqrt(math.pi) * f) ** -0.4

    for end in _ISJ_BRACKETS:
        try:
            with np.errstate(all="raise", under="ignore"):
                root = brentq(fixed_point, 0.0, end)
        except (ValueError, FloatingPointError, ZeroDivisionError, OverflowError):
            continue
        if root > 0:
            return math.sqrt(root) * width
    warnings.warn(
        "the diffusion bandwidth has no root for this sample; Scott's rule is used",
        UserWarning,
        stacklevel=2,
    )
    return kernel_bandwidth(sample, "scott")


def kernel_score(
    sample: np.ndarray, bandwidth: float, *, preserve_variance: bool, n_grid: int
) -> Score:
    """Score of a Gaussian kernel density, binned: linear in the sample and the grid.

    The counts are convolved with the kernel and with its derivative, so that nothing is
    differenced. With ``preserve_variance`` the centres are pulled to the mean and the bandwidth is
    shrunk so that the density keeps mean and variance of the sample.
    """
    h = bandwidth
    if preserve_variance:
        shrink = (1 + h**2 / float(np.var(sample))) ** -0.5
        mean = float(np.mean(sample))
        sample, h = mean + shrink * (sample - mean), shrink * h
    low, high = sample.min() - _REACH * h, sample.max() + _REACH * h
    n = max(n_grid, min(_LARGEST_GRID, math.ceil(_CELLS * (high - low) / h)))
    grid = np.linspace(low, high, n)
    cell = grid[1] - grid[0]
    # Linear binning: a point is shared by its two neighbours.
    place = (sample - low) / cell
    left = np.minimum(place.astype(np.int64), n - 2)
    share = place - left
    counts = np.bincount(left, 1 - share, n) + np.bincount(left + 1, share, n)
    reach = math.ceil(_REACH * h / cell)
    offsets = cell * np.arange(-reach, reach + 1)
    kernel = np.exp(-0.5 * (offsets / h) ** 2)
    density = fftconvolve(counts, kernel, mode="same")
    slope = fftconvolve(counts, -offsets / h**2 * kernel, mode="same")
    score = slope / np.maximum(density, _FLOOR * density.max())
    return lambda x: np.interp(x, grid, score)


def mixture_score(
    sample: np.ndarray, max_components: int, random_state: int | np.random.RandomState | None
) -> tuple[Score, GaussianMixture]:
    """Score of the Gaussian mixture that BIC prefers, and that mixture, of the standard sample."""
    rng = check_random_state(random_state)
    mean, spread = float(np.mean(sample)), float(np.std(sample))
    standard = ((sample - mean) / spread)[:, None]
    fits = [
        GaussianMixture(k, n_init=_MIXTURE_STARTS, random_state=rng.randint(2**31)).fit(standard)
        for k in range(1, max_components + 1)
    ]
    best = min(fits, key=lambda fit: fit.bic(standard))
    centres, variances = best.means_[:, 0], best.covariances_[:, 0, 0]

    def score(x: np.ndarray) -> np.ndarray:
        z = (np.asarray(x) - mean) / spread
        weights = best.predict_proba(z.reshape(-1, 1))
        slopes = (centres - z.reshape(-1, 1)) / variances
        return (np.sum(weights * slopes, axis=1) / spread).reshape(z.shape)

    return score, best


def gaussian_score(sample: np.ndarray) -> Score:
    """Score of the Gaussian with the sample's mean and variance (ddof 0)."""
    mean, variance = float(np.mean(sample)), float(np.var(sample))
    return lambda x: -(np.asarray(x) - mean) / variance
