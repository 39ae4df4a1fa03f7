"""SoftmaxAttention: causal softmax attention as a mixer, the baseline and the layer of hybrids.

Scaled dot-product attention with rotary positions, grouped key-value heads and an optional sliding
window. Its state is a cache of rotated keys, values and their positions: it grows by one entry a
token, or with a window is a ring (``window_attention.py``), and a text is read in O(time * window).
Packed sequences are unpacked into a padded batch and packed again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from rankone._arguments import check_size
from rankone.nn.mixer import check_heads, check_sequence, check_token, register_mixer
from rankone.nn.packing import padded_rows
from rankone.nn.rotary import apply_rotary
from rankone.nn.window_attention import (
    banded_attention,
    causal_attention,
    masked_attention,
    real_with_past,
    ring_after,
    ring_positions,
    with_past,
    write_ring,
)
from rankone.ops.checks import check_cu_seqlens_values, check_shape


class AttentionCache(NamedTuple):
    """The state of :class:`SoftmaxAttention`.

    Without a window entries stand at the right and gaps at the left. With one there are
    ``window_size`` entries, and position p stands in entry p mod ``window_size``.

    Attributes:
        keys: (sequences, entries, num_kv_heads, head_dim), rotated.
        values: (sequences, entries, num_kv_heads, head_dim).
        positions: (sequences, entries) int64, -1 for a gap.
        length: (sequences,) int64, number of tokens read.
    """

    keys: Tensor
    values: Tensor
    positions: Tensor
    length: Tensor


class SoftmaxAttention(nn.Module):
    """Causal softmax attention with rotary positions.

    Args:
        hidden_size: width of the input and the output.
        num_heads: query heads.
        head_dim: width of a head, even; default hidden_size / num_heads.
        num_kv_heads: key and value heads, a divisor of ``num_heads``; default ``num_heads``.
        window_size: a token sees itself and the ``window_size - 1`` tokens before it; None sees
            the whole past.
        rope_base: base of the rotary angles.
        rotary_pct: share of a head's channels that turn, the first ones, rounded down to an even
            number.
        rope_interleaved: whether neighbouring channels turn together; see
            :func:`rankone.nn.apply_rotary`.
        bias: whether the linear maps have biases.
        make_projection: called with the widths of its input and output, makes each of the four maps
            instead of ``torch.nn.Linear``.
        device, dtype: of the parameters; torch's defaults where None.

    Raises:
        ValueError: for widths and heads that do not fit, a window below 1, or a share outside
            [0, 1].

    Source: arXiv 1706.03762; rotary positions arXiv 2104.09864; grouped heads arXiv 2305.13245.

    Example:
        >>> import torch
        >>> from rankone.nn import SoftmaxAttention
        >>> layer = SoftmaxAttention(32, 4, num_kv_heads=2, window_size=8)
        >>> y, cache = layer(torch.randn(2, 20, 32), return_state=True)
        >>> y.shape, cache.keys.shape
        (torch.Size([2, 20, 32]), torch.Size([2, 8, 2, 8]))
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        *,
        head_dim: int | None = None,
        num_kv_heads: int | None = None,
        window_size: int | None = None,
        rope_base: float = 10000.0,
        rotary_pct: float = 1.0,
        rope_interleaved: bool = True,
        bias: bool = False,
        make_projection: Callable[[int, int], nn.Module] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        head_dim, num_kv_heads = check_heads(hidden_size, num_heads, head_dim, num_kv_heads)
        if not 0 <= rotary_pct <= 1:
            raise ValueError(f"rotary_pct must be in [0, 1], got {rotary_pct}")
        if head_dim % 2 and rotary_pct == 1:
            raise ValueError(f"head_dim must be even for rotary positions, got {head_dim}")
        if window_size is not None:
            check_size("window_size", window_size)
        self.hidden_size = hidden_size
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads
        self.head_dim = head_dim
        self.window_size = window_size
        self.rope_base = rope_base
        self.rotary_dim = int(rotary_pct * head_dim) // 2 * 2
        self.rope_interleaved = rope_interleaved

        def linear(inputs: int, outputs: int) -> nn.Module:
            return nn.Linear(inputs, outputs, bias, device=device, dtype=dtype)

        project = linear if make_projection is None else make_projection
        self.q_proj = project(hidden_size, num_heads * head_dim)
        self.k_proj = project(hidden_size, num_kv_heads * head_dim)
        self.v_proj = project(hidden_size, num_kv_heads * head_dim)
        self.o_proj = project(num_heads * head_dim, hidden_size)

    def forward(
        self,
        x: Tensor,
        *,
        attention_mask: Tensor | None = None,
        state: AttentionCache | None = None,
        return_state: bool = False,
        cu_seqlens: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, AttentionCache]:
        """Mix a batch of sequences.

        Args:
            x: (batch, time, hidden_size).
            attention_mask: (batch, time), boolean or integer, 1 on tokens and 0 on padding.
            state: cache of an earlier call, one entry of its first axis a sequence.
            return_state: also return the cache after the last token.
            cu_seqlens: (sequences + 1,) int32 or int64, starts of packed sequences; batch is 1.

        Returns:
            (batch, time, hidden_size), and with ``return_state`` the :class:`AttentionCache`.

        Raises:
            ValueError: for an input, mask or state of the wrong shape.
            TypeError: for a mask that is neither boolean nor integer.
        """
        mask, sequences = check_sequence(x, self.hidden_size, attention_mask, cu_seqlens)
        self._check_state(state, sequences)
        if cu_seqlens is None:
            y, state = self._attend(x, mask, state, return_state)
        else:
            check_cu_seqlens_values(cu_seqlens, x.shape[1])
            padded, mask, row, column = padded_rows(x, cu_seqlens)
            y, state = self._attend(padded, mask, state, return_state)
            y = y[row, column][None]
        return (y, cast(AttentionCache, state)) if return_state else y

    def step(self, x: Tensor, state: AttentionCache | None = None) -> tuple[Tensor, AttentionCache]:
        """Mix one token: (batch, hidden_size) after ``state``; gives the output and new cache."""
        check_token(x, self.hidden_size)
        self._check_state(state, x.shape[0])
        if self.window_size is not None:
            return self._step_window(x, state)
        y, state = self._attend(x[:, None], None, state, True)
        return y[:, 0], cast(AttentionCache, state)

    def init_state(
        self,
        batch_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> AttentionCache:
        """An empty cache for ``batch_size`` sequences, by default on the layer's device."""
        weight = next(self.k_proj.parameters())
        device = weight.device if device is None else device
        dtype = weight.dtype if dtype is None else dtype
        number = self.window_size or 0
        entries = torch.zeros(
            (batch_size, number, self.num_kv_heads, self.head_dim), device=device, dtype=dtype
        )
        positions = torch.full((batch_size, number), -1, device=device, dtype=torch.int64)
        length = torch.zeros((batch_size,), device=device, dtype=torch.int64)
        return AttentionCache(entries, entries, positions, length)

    def _check_state(self, state: AttentionCache | None, sequences: int) -> None:
        if state is None:
            return
        if not isinstance(state, tuple) or len(state) != len(AttentionCache._fields):
            raise TypeError(
                "state must be an AttentionCache (keys, values, positions, length), "
                f"got {type(state).__name__}"
            )
        keys, values, positions, length = state
        entries = self.window_size or positions.shape[-1]
        shape = (sequences, entries, self.num_kv_heads, self.head_dim)
        check_shape("state.keys", keys, shape, "sequences, entries, kv heads, head dim")
        check_shape("state.values", values, shape, "sequences, entries, kv heads, head dim")
        check_shape("state.positions", positions, (sequences, entries), "sequences, entries")
        check_shape("state.length", length, (sequences,), "sequences")

    def _attend(
        self,
        x: Tensor,
        mask: Tensor | None,
        state: AttentionCache | None,
        return_state: bool,
    ) -> tuple[Tensor, AttentionCache | None]:
        if self.window_size is not None:
            return self._attend_window(x, mask, state, return_state)
        start = x.new_zeros(x.shape[0], dtype=torch.int64) if state is None else state.length
        if mask is None:
            positions = start[:, None] + torch.arange(x.shape[1], device=x.device)
            query_positions = positions
        else:
            query_positions = start[:, None] + mask.cumsum(1) - 1
            positions = torch.where(mask, query_positions, -1)
        q, k, v = self._project(x, query_positions)
        length = query_positions[:, -1] + 1 if x.shape[1] else start
        if state is not None:
            k = torch.cat([state.keys.to(k.dtype), k], dim=1)
            v = torch.cat([state.values.to(v.dtype), v], dim=1)
            positions = torch.cat([state.positions, positions], dim=1)

        if state is None and mask is None:
            o = causal_attention(q, k, v)
        else:
            o = masked_attention(q, k, v, _visible(query_positions, positions))
        y = self.o_proj(o.flatten(-2))
        if not return_state:
            return y, None
        if mask is not None:
            order = torch.argsort((positions >= 0).to(torch.int8), dim=1, stable=True)
            k = k.take_along_dim(order[..., None, None], dim=1)
            v = v.take_along_dim(order[..., None, None], dim=1)
            positions = positions.take_along_dim(order, dim=1)
        return y, AttentionCache(k, v, positions, length)

    def _project(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys, rotated, and values."""
        q = self.q_proj(x).unflatten(-1, (self.num_heads, self.head_dim))
        k = self.k_proj(x).unflatten(-1, (self.num_kv_heads, self.head_dim))
        v = self.v_proj(x).unflatten(-1, (self.num_kv_heads, self.head_dim))
        q, k = (
            apply_rotary(
                entries,
                positions,
                base=self.rope_base,
                rotary_dim=self.rotary_dim,
                interleaved=self.rope_interleaved,
            )
            for entries in (q, k)
        )
        return q, k, v

    def _attend_window(
        self,
        x: Tensor,
        mask: Tensor | None,
        state: AttentionCache | None,
        return_state: bool,
    ) -> tuple[Tensor, AttentionCache | None]:
        batch, time, _ = x.shape
        window = cast(int, self.window_size)
        start = x.new_zeros(batch, dtype=torch.int64) if state is None else state.length
        count: Tensor | int = time
        if mask is not None:
            # Tokens to the left in their order, padding to the right: positions are consecutive.
            order = torch.argsort((~mask).to(torch.int8), dim=1, stable=True)
            x = x.take_along_dim(order[..., None], dim=1)
            count = mask.sum(1)
        q, k, v = self._project(x, start[:, None] + torch.arange(time, device=x.device))
        if state is None and not return_state and window >= time:
            o = causal_attention(q, k, v)
        else:
            # The window before the first token in the order of positions, then the tokens.
            k = with_past(state and state.keys, start, window, k)
            v = with_past(state and state.values, start, window, v)
            o = banded_attention(q, k, v, real_with_past(start, window, time), window)
        y = self.o_proj(o.flatten(-2))
        if mask is not None:
            y = y.take_along_dim(order.argsort(dim=1)[..., None], dim=1)
        if not return_state:
            return y, None
        length = start + count
        return y, AttentionCache(
            ring_after(k, start, length, window),
            ring_after(v, start, length, window),
            ring_positions(length, window),
            length,
        )

    def _step_window(
        self, x: Tensor, state: AttentionCache | None
    ) -> tuple[Tensor, AttentionCache]:
        if state is None:
            state = self.init_state(x.shape[0], device=x.device)
        q, k, v = self._project(x[:, None], state.length[:, None])
        keys = write_ring(state.keys, state.length, k)
        values = write_ring(state.values, state.length, v)
        positions = write_ring(state.positions, state.length, state.length[:, None])
        o = masked_attention(q, keys, values, (positions >= 0)[:, None, None])
        cache = AttentionCache(keys, values, positions, state.length + 1)
        return self.o_proj(o.flatten(-2))[:, 0], cache

    def extra_repr(self) -> str:
        return (
            f"{self.hidden_size}, {self.num_heads}, head_dim={self.head_dim}, "
            f"num_kv_heads={self.num_kv_heads}, window_size={self.window_size}"
        )


class SlidingWindowAttention(SoftmaxAttention):
    """Causal softmax attention over the last ``window_size`` tokens, the layer of hybrids.

    A configuration of :class:`SoftmaxAttention`. Reading costs O(time * window_size); the state is
    a ring of ``window_size`` keys and values.

    Args:
        hidden_size: width of the input and the output.
        num_heads: heads, each of the even width hidden_size / num_heads.
        window_size: a token sees itself and the ``window_size - 1`` tokens before it; None sees
            the whole past.
        rope_base: base of the rotary angles.
        device, dtype: of the parameters; torch's defaults where None.

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


def _visible(query_positions: Tensor, positions: Tensor) -> Tensor:
    """(batch, 1, time, entries): which entries a token sees; every token sees its own."""
    key = positions[:, None, :]
    visible = (key >= 0) & (key <= query_positions[:, :, None])
    time, entries = query_positions.shape[1], positions.shape[1]
    own = torch.ones(time, entries, dtype=torch.bool, device=positions.device)
    # Padding sees itself alone: a row of nothing has no softmax.
    own = own.triu(entries - time) & own.tril(entries - time)
    return (visible | own)[:, None]


register_mixer("softmax_attention", SoftmaxAttention)
register_mixer("sliding_window_attention", SlidingWindowAttention)
