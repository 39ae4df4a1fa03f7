"""A smooth surface on two scores by kernel regression that is shrunk towards the mean outcome.

With z = (u / h_u, v / h_v) and K_j = exp(-|z - z_j|^2 / 2) the surface is

    m(z) = (sum_j w_j K_j y_j + c ybar) / (sum_j w_j K_j + c),

Nadaraya-Watson with c units of kernel mass at the mean outcome ybar. The kernel is a product, so
that a grid of u and v costs one matrix product; scattered points go in blocks of rows whose kernels
stay in cache.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

TRIMMED = (0.02, 0.98)  # quantiles of the training v between which an optimum is looked for
_DECILES = np.arange(1, 10) / 10
_BLOCK = 1 << 18  # kernel entries held at a time: 2 MiB, which stay in cache
_SLOPE_STEP = 1e-3  # of sd(u), for the average derivative


def gaussian_kernel(rows: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """exp(-|z_i - z_j|^2 / 2): (c, 2), (m, 2) -> (c, m), by differences and not by inner products,
    which cancel where bandwidths are small."""
    squares = (rows[:, None, 0] - reference[:, 0]).square_()
    difference = rows[:, None, 1] - reference[:, 1]
    return squares.addcmul_(difference, difference).mul_(-0.5).exp_()


def blocks(n_rows: int, n_reference: int) -> list[slice]:
    """Slices of rows whose kernels against the reference fit in a block."""
    step = max(1, _BLOCK // max(1, n_reference))
    return [slice(start, min(start + step, n_rows)) for start in range(0, n_rows, step)]


def kernel_sums(
    points: NDArray, reference: NDArray, columns: NDArray, *, leave_one_out: bool = False
) -> NDArray:
    """Kernel-weighted sums of columns.

    Args:
        points: (k, 2) scores over their bandwidths.
        reference: (n, 2) scores of the training rows, likewise.
        columns: (n, q) what is summed.
        leave_one_out: points are the reference, and each leaves itself out.

    Returns:
        (k, q).
    """
    at, about, summed = (
        torch.from_numpy(np.ascontiguousarray(a)) for a in (points, reference, columns)
    )
    sums = torch.empty(len(at), summed.shape[1], dtype=torch.float64)
    for rows in blocks(len(at), len(about)):
        kernel = gaussian_kernel(at[rows], about)
        if leave_one_out:
            kernel[torch.arange(rows.stop - rows.start), torch.arange(rows.start, rows.stop)] = 0
        sums[rows] = kernel @ summed
    return sums.numpy()


def between_quantiles(values: NDArray, quantiles: tuple[float, float], n_grid: int) -> NDArray:
    """(n_grid,) even steps from one quantile of the values to another."""
    low, high = np.quantile(values, quantiles)
    return np.linspace(low, high, n_grid)


def prominence(curve: NDArray) -> float:
    """How far a curve falls on either side of its maximum, the lesser side, over its range.

    0 for a maximum at an end and for a constant curve.
    """
    best = int(curve.argmax())
    spread = float(np.ptp(curve))
    if spread == 0:
        return 0.0
    return float(curve[best] - max(curve[: best + 1].min(), curve[best:].min())) / spread


@dataclass(frozen=True)
class LinkSurface:
    """The fitted surface.

    Attributes:
        scores: (n, 2) u and v of the training rows.
        y: (n,) outcomes.
        weight: (n,) multiplicities.
        bandwidth: (2,) h_u and h_v.
        prior_strength: c.
    """

    scores: NDArray
    y: NDArray
    weight: NDArray
    bandwidth: NDArray
    prior_strength: float

    @property
    def prior_mean(self) -> float:
        """Mean outcome, ybar."""
        return float(np.average(self.y, weights=self.weight))

    def _columns(self) -> NDArray:
        return np.column_stack((self.weight, self.weight * self.y))

    def _mean(self, mass: NDArray, total: NDArray) -> NDArray:
        """The shrunk mean; ybar where there is neither mass nor prior."""
        denominator = mass + self.prior_strength
        prior_mean = self.prior_mean
        return np.divide(
            total + self.prior_strength * prior_mean,
            denominator,
            out=np.full(denominator.shape, prior_mean),
            where=denominator > 0,
        )

    def at(self, scores: NDArray) -> NDArray:
        """m at (k, 2) scores: (k,)."""
        return self._mean(*self._sums(scores).T)

    def mass(self, scores: NDArray) -> NDArray:
        """Kernel mass at (k, 2) scores: (k,)."""
        return self._sums(scores)[:, 0]

    def left_out(self) -> NDArray:
        """m at the training rows, each without itself: (n,)."""
        return self._mean(*self._sums(self.scores, leave_one_out=True).T)

    def _sums(self, scores: NDArray, *, leave_one_out: bool = False) -> NDArray:
        return kernel_sums(
            scores / self.bandwidth,
            self.scores / self.bandwidth,
            self._columns(),
            leave_one_out=leave_one_out,
        )

    def on_product(self, u: NDArray, v: NDArray) -> NDArray:
        """m at every pair of (k,) u and (g,) v: (k, g)."""
        h_u, h_v = self.bandwidth
        along = np.exp(-0.5 * np.square((self.scores[:, 1:] - v) / h_v)) * self.weight[:, None]
        columns = np.hstack((along, along * self.y[:, None]))
        surface = np.empty((len(u), len(v)))
        for rows in blocks(len(u), len(self.y)):
            across = np.exp(-0.5 * np.square((u[rows, None] - self.scores[:, 0]) / h_u))
            sums = across @ columns
            surface[rows] = self._mean(sums[:, : len(v)], sums[:, len(v) :])
        return surface

    def average_curve(self, n_grid: int) -> tuple[NDArray, NDArray]:
        """Values of v within the data, and m averaged over the deciles of u there."""
        u, v = np.repeat(self.scores, self.weight.astype(int), axis=0).T
        grid = between_quantiles(v, TRIMMED, n_grid)
        return grid, self.on_product(np.quantile(u, _DECILES), grid).mean(axis=0)

    def rises_with_u(self) -> bool:
        """Whether the derivative in u is at least 0 on average over the training rows."""
        step = np.array([_SLOPE_STEP * (self.scores[:, 0].std() or 1.0), 0.0])
        rise = self.at(self.scores + step) - self.at(self.scores - step)
        return bool(self.weight @ rise >= 0)
