"""SlidingWindowAttention: softmax attention with rotary positions over the last few tokens.

A configuration of :class:`rankone.nn.SoftmaxAttention`, the attention layer of hybrids. Reading
costs O(time * window_size); the state is a ring of ``window_size`` keys and values.
"""

from __future__ import annotations

import torch

from rankone.nn.mixer import register_mixer
from rankone.nn.softmax_attention import SoftmaxAttention


class SlidingWindowAttention(SoftmaxAttention):
    """Causal softmax attention over the last ``window_size`` tokens.

    Args:
        hidden_size: width of the input and the output.
        num_heads: heads, each of the even width hidden_size / num_heads.
        window_size: a token sees itself and the ``window_size - 1`` tokens before it; None sees
            the whole past.
        rope_base: base of the rotary angles.

    Raises:
        ValueError: for widths and heads that do not fit, or a window below 1.

    Example:
        >>> import torch
        >>> from rankone.nn import SlidingWindowAttention
        >>> layer = SlidingWindowAttention(32, 4, window_size=8)
        >>> y, state = layer(torch.randn(2, 20, 32), return_state=True)
        >>> y.shape, state.keys.shape
        (torch.Size([2, 20, 32]), torch.Size([2, 8, 4, 8]))
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        *,
        window_size: int | None,
        rope_base: float = 10000.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            hidden_size,
            num_heads,
            window_size=window_size,
            rope_base=rope_base,
            device=device,
            dtype=dtype,
        )


register_mixer("sliding_window_attention", SlidingWindowAttention)
