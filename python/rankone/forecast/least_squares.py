"""Exact least squares of a horizon on a lookback, over every window of a series.

The Gram matrix is summed over blocks of windows in float64; the windows are never all copied.
Inputs and targets are centred before they are multiplied, which is what an unpenalised intercept
amounts to, and keeps the sums free of cancellation.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy import linalg

# Numbers in a block of windows, 32 MiB.
_BLOCK_NUMBERS = 2**22
# Numbers in the Gram matrices of the channels that are solved together, 512 MiB.
_GRAM_NUMBERS = 2**26


def window_least_squares(
    series: np.ndarray,
    lookback: int,
    horizon: int,
    *,
    alpha: float = 0.0,
    individual: bool = False,
    relative: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Minimise the sum of squared errors over windows and channels plus alpha ||W||^2.

    Args:
        series: (T, C) float64.
        lookback, horizon: L and H.
        alpha: penalty of the weights; the intercept has none. At 0, directions that no window has
            get no weight.
        individual: a solution a channel.
        relative: of lookbacks and targets minus the last value of the lookback, whose own weight
            is then 0.

    Returns:
        (coef, intercept): (H, L) and (H,), or (C, H, L) and (C, H).

    Example:
        >>> import numpy as np
        >>> from rankone.forecast.least_squares import window_least_squares
        >>> series = 0.5 ** np.arange(8.0)[:, None]
        >>> coef, intercept = window_least_squares(series, 1, 2)
        >>> coef.ravel().round(12).tolist(), bool(abs(intercept).max() < 1e-12)
        ([0.5, 0.25], True)
    """
    channels = series.shape[1]
    if not individual:
        coef, intercept = _solve_group(series, lookback, horizon, alpha, True, relative)
        return coef[0], intercept[0]
    together = max(1, _GRAM_NUMBERS // (lookback * (lookback + horizon)))
    parts = [
        _solve_group(series[:, first : first + together], lookback, horizon, alpha, False, relative)
        for first in range(0, channels, together)
    ]
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))  # type: ignore[return-value]


def _solve_group(
    series: np.ndarray, lookback: int, horizon: int, alpha: float, pooled: bool, relative: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Solutions (G, H, L) and (G, H): one for all channels, or one for each."""
    length = lookback + horizon
    channels = series.shape[1]
    windows = len(series) - length + 1
    # Mean over windows of each of their entries: (C, L + H).
    mean = sliding_window_view(series, windows, axis=0).mean(-1).T
    if relative:
        mean = mean - mean[:, lookback - 1 : lookback]
    if pooled:
        mean = np.broadcast_to(mean.mean(0), mean.shape)
    groups = 1 if pooled else channels
    gram = np.zeros((groups, lookback, lookback))
    cross = np.zeros((groups, lookback, horizon))
    # What rounding may leave of windows that differ in nothing.
    squares = np.zeros(groups)
    for block in _blocks(series, length):
        squares += np.square(block).sum() if pooled else np.square(block).sum((1, 2))
        if relative:
            block = block - block[:, :, lookback - 1 : lookback]
        block = block - mean[:, None]
        if pooled:
            block = block.reshape(1, -1, length)
        inputs = block[:, :, :lookback].transpose(0, 2, 1)
        gram += inputs @ block[:, :, :lookback]
        cross += inputs @ block[:, :, lookback:]
    used = lookback - 1 if relative else lookback
    coef = np.zeros((groups, horizon, lookback))
    diagonal = np.arange(used)
    for group in range(groups):
        matrix = gram[group, :used, :used]
        matrix[diagonal, diagonal] += alpha
        floor = 4 * np.finfo(float).eps ** 2 * squares[group]
        coef[group, :, :used] = _solve(matrix, cross[group, :used], floor).T
    offset = mean[:1] if pooled else mean
    intercept = offset[:, lookback:] - np.einsum("ghl,gl->gh", coef, offset[:, :lookback])
    return coef, intercept


def _blocks(series: np.ndarray, length: int) -> Iterator[np.ndarray]:
    """Copies (C, n, L + H) of the windows, block by block."""
    windows = sliding_window_view(series, length, axis=0)  # (n, C, L + H), a view
    rows = max(1, _BLOCK_NUMBERS // (length * series.shape[1]))
    for first in range(0, len(windows), rows):
        yield np.ascontiguousarray(windows[first : first + rows].transpose(1, 0, 2))


def _solve(gram: np.ndarray, cross: np.ndarray, floor: float) -> np.ndarray:
    """Gram^-1 cross by Cholesky, or the shortest solution where Gram is singular in float64."""
    size = len(gram)
    if size == 0:
        return np.zeros_like(cross)
    precision = size * np.finfo(float).eps
    norm = linalg.norm(gram, 1)
    if norm <= size * floor:
        return np.zeros_like(cross)
    try:
        factor = linalg.cholesky(gram, lower=True)
    except linalg.LinAlgError:
        pass
    else:
        reciprocal_condition, _ = linalg.lapack.dpocon(factor, norm, uplo="L")
        if reciprocal_condition > precision:
            return linalg.cho_solve((factor, True), cross)
    return linalg.lstsq(gram, cross, cond=max(precision, size * floor / norm))[0]
