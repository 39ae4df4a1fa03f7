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

from rankone._repr import short_repr
from rankone.ops.checks import check_rank


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
        check_rank("series", series, ("time", "variates"))
        for name, count in (("lookback", lookback), ("horizon", horizon)):
            if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {count!r}")
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
        self,
        batch_size: int,
        generator: torch.Generator,
        batches: int | None = None,
        *,
        drop_last: bool = True,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches in random order.

        Args:
            batch_size: windows a batch; all of them where there are fewer.
            generator: of the order.
            batches: at most so many.
            drop_last: leave out the last batch where it is a partial one.
        """
        size = min(batch_size, len(self))
        order = torch.randperm(len(self), generator=generator)
        count = len(self) // size if drop_last else -(-len(self) // size)
        for number in range(count if batches is None else min(batches, count)):
            yield self.take(order[number * size : (number + 1) * size])


@dataclass(frozen=True)
class SeriesScaler:
    """An affine map of each variate, fitted on the rows of the past alone.

    Attributes:
        offset: (V,), what is subtracted: the mean, or the least value.
        scale: (V,), what is divided by: the population standard deviation, or the range; 1 for a
            variate that does not change.
    """

    __repr__ = short_repr

    offset: np.ndarray
    scale: np.ndarray

    @classmethod
    def fit(cls, series: np.ndarray, kind: str | None = "standard") -> SeriesScaler:
        """Of the rows of (T, V).

        Args:
            series: (T, V).
            kind: ``"standard"``, ``"minmax"``, or None for a scaler that changes nothing.

        Raises:
            ValueError: for another kind.
        """
        if kind is None:
            variates = series.shape[1]
            return cls(np.zeros(variates), np.ones(variates))
        if kind == "standard":
            offset, scale = series.mean(0), series.std(0)
        elif kind == "minmax":
            offset, scale = series.min(0), np.ptp(series, axis=0)
        else:
            raise ValueError(f"scaler must be 'standard', 'minmax' or None, got {kind!r}")
        # A constant column has a standard deviation of rounding errors.
        constant = scale <= 10 * np.finfo(series.dtype).eps * np.abs(offset)
        return cls(offset, np.where(constant, 1.0, scale))

    def transform(self, series: np.ndarray) -> np.ndarray:
        """A series, the last axis its variates, in the units of the scaler."""
        return (series - self.offset) / self.scale

    def restore(self, series: np.ndarray) -> np.ndarray:
        """The inverse of :meth:`transform`."""
        return series * self.scale + self.offset
