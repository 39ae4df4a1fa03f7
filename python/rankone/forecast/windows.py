"""Sliding windows of a series, as views, and its standardisation.

A window is a lookback of L rows and the horizon of H rows after it. Window i starts at row i; no
window is copied before its batch is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


class SeriesWindows:
    """All windows of a series, with stride 1.

    Args:
        series: (T, V).
        lookback: L.
        horizon: H.

    Raises:
        ValueError: for a series shorter than L + H.

    Example:
        >>> import torch
        >>> from rankone.forecast import SeriesWindows
        >>> windows = SeriesWindows(torch.arange(10.0)[:, None], lookback=4, horizon=2)
        >>> len(windows)
        5
        >>> lookback, target = windows.take(torch.tensor([0]))
        >>> lookback.flatten().tolist(), target.flatten().tolist()
        ([0.0, 1.0, 2.0, 3.0], [4.0, 5.0])
    """

    def __init__(self, series: Tensor, lookback: int, horizon: int) -> None:
        if series.shape[0] < lookback + horizon:
            raise ValueError(
                f"the series must have at least lookback + horizon = {lookback} + {horizon} rows, "
                f"got {series.shape[0]}"
            )
        self.lookback, self.horizon = lookback, horizon
        self._windows = series.unfold(0, lookback + horizon, 1)  # (windows, V, L + H), a view

    def __len__(self) -> int:
        return self._windows.shape[0]

    def take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Lookbacks (n, L, V) and targets (n, H, V) of the windows ``index``."""
        windows = self._windows[index].transpose(1, 2)
        return windows[:, : self.lookback], windows[:, self.lookback :]

    def in_order(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Every window once, in batches, the last of them perhaps smaller."""
        for index in torch.arange(len(self)).split(batch_size):
            yield self.take(index)

    def shuffled(
        self, batch_size: int, generator: torch.Generator, batches: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Whole batches in random order, without the last partial one.

        Args:
            batch_size: windows a batch; all of them where there are fewer.
            generator: of the order.
            batches: at most so many.
        """
        size = min(batch_size, len(self))
        order = torch.randperm(len(self), generator=generator)
        whole = len(self) // size
        for number in range(whole if batches is None else min(batches, whole)):
            yield self.take(order[number * size : (number + 1) * size])


@dataclass(frozen=True)
class SeriesScaler:
    """Mean and population standard deviation of each variate; 1 for a constant one.

    Attributes:
        mean, scale: (V,).
    """

    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def fit(cls, series: np.ndarray, enabled: bool = True) -> SeriesScaler:
        """Of the rows of (T, V), or one that changes nothing."""
        variates = series.shape[1]
        if not enabled:
            return cls(np.zeros(variates), np.ones(variates))
        mean, scale = series.mean(0), series.std(0)
        # A constant column has a standard deviation of rounding errors.
        constant = scale <= 10 * np.finfo(series.dtype).eps * np.abs(mean)
        return cls(mean, np.where(constant, 1.0, scale))

    def standardize(self, series: np.ndarray) -> np.ndarray:
        return (series - self.mean) / self.scale

    def restore(self, series: np.ndarray) -> np.ndarray:
        return series * self.scale + self.mean
