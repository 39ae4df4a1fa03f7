"""LinearForecast: one linear map from a lookback to a horizon, the same for all channels or not.

Linear, NLinear and DLinear (arXiv 2205.13504) never mix channels. DLinear describes the same maps
as Linear, W = W_s (I - M) + W_t M with M the moving average, and differs through the optimiser
alone; NLinear describes those whose rows sum to 1, which forecast x + c by the forecast of x plus
c.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from rankone._arguments import check_integer, check_size
from rankone.nn.series_decomposition import SeriesDecomposition
from rankone.ops.checks import check_floating, check_rank

VARIANTS = ("linear", "nlinear", "dlinear")
INITIALISATIONS = ("uniform", "average")


class LinearForecast(nn.Module):
    """A linear map from the last L values of each channel to its next H.

    Args:
        lookback, horizon: L and H.
        n_channels: C.
        variant: ``"linear"``, y = W x + b; ``"nlinear"``, the same of x - x_L, with x_L added
            again; ``"dlinear"``, one map of the remainder and one of the moving average.
        individual: a map of its own for every channel, rather than one for all.
        kernel_size: steps of the moving average of ``"dlinear"``, odd.
        init: of the weights, ``"uniform"`` as in ``torch.nn.Linear``, or ``"average"``, all 1/L.

    Shapes:
        (B, L, C) to (B, H, C).

    Raises:
        ValueError: for sizes below 1, an unknown variant or initialisation, or a kernel size that
            is even or above 2 L - 1; in the call, for another shape.

    Source: "Are Transformers Effective for Time Series Forecasting?", arXiv 2205.13504.

    Example:
        >>> import torch
        >>> from rankone.nn.linear_forecast import LinearForecast
        >>> model = LinearForecast(96, 720, n_channels=7, variant="dlinear")
        >>> model(torch.randn(2, 96, 7)).shape
        torch.Size([2, 720, 7])
        >>> sum(parameter.numel() for parameter in model.parameters())
        139680
    """

    def __init__(
        self,
        lookback: int,
        horizon: int,
        n_channels: int = 1,
        variant: str = "linear",
        individual: bool = False,
        kernel_size: int = 25,
        init: str = "uniform",
    ) -> None:
        super().__init__()
        for name, value in (
            ("lookback", lookback),
            ("horizon", horizon),
            ("n_channels", n_channels),
        ):
            check_size(name, value)
        if variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {variant!r}")
        if init not in INITIALISATIONS:
            raise ValueError(f"init must be one of {', '.join(INITIALISATIONS)}, got {init!r}")
        self.lookback, self.horizon, self.n_channels = lookback, horizon, n_channels
        self.variant, self.individual, self.init = variant, individual, init
        channels = (n_channels,) if individual else ()
        self.weight = nn.Parameter(torch.empty(*channels, horizon, lookback))
        self.bias = nn.Parameter(torch.empty(*channels, horizon))
        if variant == "dlinear":
            check_integer("kernel_size", kernel_size)
            if kernel_size > 2 * lookback - 1:
                raise ValueError(
                    f"kernel_size must be at most 2 * lookback - 1 = {2 * lookback - 1}, "
                    f"got {kernel_size}"
                )
            self.decomposition = SeriesDecomposition(kernel_size)
            self.trend_weight = nn.Parameter(torch.empty_like(self.weight))
            self.trend_bias = nn.Parameter(torch.empty_like(self.bias))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters anew; biases are uniform with either initialisation."""
        bound = 1 / math.sqrt(self.lookback)
        for name, parameter in self.named_parameters():
            if self.init == "average" and name.endswith("weight"):
                nn.init.constant_(parameter, 1 / self.lookback)
            else:
                nn.init.uniform_(parameter, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """The forecast (B, H, C) of lookbacks (B, L, C)."""
        check_rank("x", x, ("batch", "lookback", "channels"))
        check_floating("x", x)
        if x.shape[1:] != (self.lookback, self.n_channels):
            raise ValueError(
                f"x must be (batch, lookback={self.lookback}, channels={self.n_channels}), "
                f"got {tuple(x.shape)}"
            )
        if self.variant == "nlinear":
            last = x[:, -1:].detach()
            return self._map(x - last, self.weight, self.bias) + last
        if self.variant == "dlinear":
            remainder, trend = self.decomposition(x)
            return self._map(remainder, self.weight, self.bias) + self._map(
                trend, self.trend_weight, self.trend_bias
            )
        return self._map(x, self.weight, self.bias)

    def _map(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if self.individual:
            return torch.einsum("blc,chl->bhc", x, weight) + bias.T
        return (x.transpose(1, 2) @ weight.T + bias).transpose(1, 2)

    @torch.no_grad()
    def effective_weight(self) -> Tensor:
        """W of y = W x + b, whatever the variant: (H, L), or (C, H, L) with ``individual``."""
        if self.variant == "nlinear":
            weight = self.weight.clone()
            weight[..., -1] += 1 - self.weight.sum(-1)
            return weight
        if self.variant == "dlinear":
            identity = torch.eye(self.lookback, dtype=self.weight.dtype, device=self.weight.device)
            remainder, trend = (part[0] for part in self.decomposition(identity[None]))
            return self.weight @ remainder + self.trend_weight @ trend
        return self.weight.clone()

    @torch.no_grad()
    def effective_bias(self) -> Tensor:
        """b of y = W x + b: (H,), or (C, H) with ``individual``."""
        if self.variant == "dlinear":
            return self.bias + self.trend_bias
        return self.bias.clone()

    def extra_repr(self) -> str:
        return (
            f"lookback={self.lookback}, horizon={self.horizon}, n_channels={self.n_channels}, "
            f"variant={self.variant}, individual={self.individual}"
        )
