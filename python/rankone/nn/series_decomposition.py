"""SeriesDecomposition: a series as its moving average and the rest.

The series is continued by copies of its first and of its last value, so that the average has its
length and a constant series is its own average.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from rankone._arguments import check_integer
from rankone.ops.checks import check_floating, check_rank


class SeriesDecomposition(nn.Module):
    """Moving average of an odd number of steps, and the remainder.

    Args:
        kernel_size: steps of the average, odd.

    Shapes:
        (B, L, C) to (remainder, trend), both (B, L, C).

    Raises:
        ValueError: for a kernel size that is even or below 1; in the call, for one above 2 L - 1.

    Source: arXiv 2205.13504 (DLinear).

    Example:
        >>> import torch
        >>> from rankone.nn import SeriesDecomposition
        >>> remainder, trend = SeriesDecomposition(3)(torch.tensor([[[0.0], [3.0], [6.0]]]))
        >>> trend.flatten().tolist(), remainder.flatten().tolist()
        ([1.0, 3.0, 5.0], [-1.0, 0.0, 1.0])
    """

    def __init__(self, kernel_size: int = 25) -> None:
        super().__init__()
        check_integer("kernel_size", kernel_size)
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and at least 1, got {kernel_size}")
        self.kernel_size = kernel_size

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The remainder and the moving average of (B, L, C)."""
        check_rank("x", x, ("batch", "length", "channels"))
        check_floating("x", x)
        if self.kernel_size > 2 * x.shape[1] - 1:
            raise ValueError(
                f"kernel_size must be at most 2 * length - 1 = {2 * x.shape[1] - 1}, "
                f"got {self.kernel_size}"
            )
        half = (self.kernel_size - 1) // 2
        series = functional.pad(x.transpose(1, 2), (half, half), mode="replicate")
        trend = functional.avg_pool1d(series, self.kernel_size, stride=1).transpose(1, 2)
        return x - trend, trend

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}"
