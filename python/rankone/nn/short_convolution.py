"""ShortConvolution: a depthwise causal convolution of a few tokens, the layer over the op.

    y_t = activation(sum_w weight[:, w] * x_{t - W + 1 + w} + bias)

Its state is the last W - 1 inputs of every sequence, oldest first.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rankone._arguments import check_integer
from rankone.distributed import SequenceShard
from rankone.nn.activations import activation_function
from rankone.nn.context_parallel import sharded
from rankone.ops import causal_conv1d, causal_conv1d_step
from rankone.ops.checks import check_shape, check_tensor

# What the op computes itself; the others are applied to its result.
FUSED_ACTIVATIONS = ("silu",)


class ShortConvolution(nn.Module):
    """Depthwise causal convolution over time, followed by an activation.

    Args:
        dim: channels.
        kernel_size: tokens that an output sees, its own included.
        bias: whether a bias is added.
        activation: applied to the result: ``"silu"``, ``"gelu"``, ``"relu"``, ``"elu"``,
            ``"1+elu"``, ``"sigmoid"`` or ``"identity"``.
        device, dtype: of the parameters; torch's defaults where None.

    Shapes:
        (batch, time, dim) to (batch, time, dim); ``weight`` is (dim, kernel_size), its last column
        on the current token; the state is (sequences, dim, kernel_size - 1).

    Raises:
        ValueError: for sizes below 1 or an unknown activation.

    Example:
        >>> import torch
        >>> from rankone.nn import ShortConvolution
        >>> layer = ShortConvolution(8, 4, activation="silu")
        >>> y, state = layer(torch.randn(2, 10, 8), return_state=True)
        >>> y.shape, state.shape
        (torch.Size([2, 10, 8]), torch.Size([2, 8, 3]))
    """

    def __init__(
        self,
        dim: int,
        kernel_size: int = 4,
        *,
        bias: bool = False,
        activation: str = "identity",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("dim", dim), ("kernel_size", kernel_size)):
            check_integer(name, value)
        if dim < 1 or kernel_size < 1:
            raise ValueError(f"dim and kernel_size must be at least 1, got {dim} and {kernel_size}")
        self.dim = dim
        self.kernel_size = kernel_size
        self.activation = activation
        self._activation = activation_function("activation", activation)
        self._fused = activation if activation in FUSED_ACTIVATIONS else None
        self.weight = nn.Parameter(torch.empty(dim, kernel_size, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(dim, device=device, dtype=dtype)) if bias else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Uniform within 1 / sqrt(kernel_size), as ``torch.nn.Conv1d`` with one group a channel."""
        bound = self.kernel_size**-0.5
        self.weight.uniform_(-bound, bound)
        if self.bias is not None:
            self.bias.uniform_(-bound, bound)

    def forward(
        self,
        x: Tensor,
        *,
        state: Tensor | None = None,
        return_state: bool = False,
        cu_seqlens: Tensor | None = None,
        shard: SequenceShard | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Convolve (batch, time, dim); the second result is the state, or None if not asked for.

        Args:
            x: (batch, time, dim), or several streams of ``dim`` channels side by side, which share
                the weights.
            state: (sequences, channels, kernel_size - 1) inputs before the first; default zeros.
            return_state: also give the state after the last token.
            cu_seqlens: (sequences + 1,) starts of packed sequences; batch is 1.
            shard: where time is cut over ranks, how; states are then those of the whole.
        """
        check_tensor("x", x)
        y, state = sharded(causal_conv1d, shard)(
            x,
            *self._weights(x),
            activation=self._fused,
            initial_state=None if state is None else state.to(x.dtype),
            output_final_state=return_state,
            cu_seqlens=cu_seqlens,
        )
        return self._activated(y), state

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One token (batch, channels) after ``state``; gives the output and the next state."""
        check_tensor("x", x)
        check_tensor("state", state)
        weight, bias = self._weights(x)
        y, state = causal_conv1d_step(x, weight, state.to(x.dtype), bias, activation=self._fused)
        return self._activated(y), state

    def init_state(
        self,
        batch_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Zeros: (batch_size, dim, kernel_size - 1)."""
        return self.weight.new_zeros(
            batch_size, self.dim, self.kernel_size - 1, device=device, dtype=dtype
        )

    def check_state(self, name: str, state: Tensor, *sequences: int) -> None:
        """Require the shape (*sequences, dim, kernel_size - 1)."""
        shape = (*sequences, self.dim, self.kernel_size - 1)
        check_shape(name, state, shape, "sequences, channels, kernel_size - 1")

    def _weights(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        weight = self.weight.to(x.dtype)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        streams = x.shape[-1] // self.dim
        if streams > 1:
            weight = weight.repeat(streams, 1)
            bias = None if bias is None else bias.repeat(streams)
        return weight, bias

    def _activated(self, y: Tensor) -> Tensor:
        return y if self._fused else self._activation(y)

    def extra_repr(self) -> str:
        return f"{self.dim}, {self.kernel_size}, activation={self.activation!r}"
