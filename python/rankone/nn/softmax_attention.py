"""SoftmaxAttention: causal softmax attention as a mixer, the baseline and the layer of hybrids.

Scaled dot-product attention with rotary positions, grouped key-value heads and an optional sliding
window. Its state is a cache of rotated keys, values and their positions: it grows by one entry a
token, or with a window is a ring, where position p stands in slot p mod window_size. With a window
a text is read in blocks, each against its own keys and the window before it, in O(time * window).
Packed sequences are unpacked into a padded batch and packed again.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rankone.nn.mixer import check_heads, check_sequence, check_token, register_mixer
from rankone.nn.rotary import apply_rotary
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
        bias: whether the linear maps have biases.

    Raises:
        ValueError: for widths and heads that do not fit, or a window below 1.

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
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        head_dim, num_kv_heads = check_heads(hidden_size, num_heads, head_dim, num_kv_heads)
        if head_dim % 2:
            raise ValueError(f"head_dim must be even for rotary positions, got {head_dim}")
        if window_size is not None and window_size < 1:
            raise ValueError(f"window_size must be at least 1, got {window_size}")
        self.hidden_size = hidden_size
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads
        self.head_dim = head_dim
        self.window_size = window_size
        self.rope_base = rope_base

        def linear(inputs: int, outputs: int) -> nn.Linear:
            return nn.Linear(inputs, outputs, bias, device=device, dtype=dtype)

        self.q_proj = linear(hidden_size, num_heads * head_dim)
        self.k_proj = linear(hidden_size, num_kv_heads * head_dim)
        self.v_proj = linear(hidden_size, num_kv_heads * head_dim)
        self.o_proj = linear(num_heads * head_dim, hidden_size)

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
            padded, mask, row, column = _unpack(x, cu_seqlens)
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
        weight = self.k_proj.weight
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
            o = _sdpa(q, k, v, None, is_causal=True)
        else:
            o = _sdpa(q, k, v, _visible(query_positions, positions), is_causal=False)
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
        q = apply_rotary(q, positions, base=self.rope_base)
        return q, apply_rotary(k, positions, base=self.rope_base), v

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
            o = _sdpa(q, k, v, None, is_causal=True)
        else:
            # The window before the first token in the order of positions, then the tokens.
            k = torch.cat([_unrolled(state and state.keys, start, window, k), k], dim=1)
            v = torch.cat([_unrolled(state and state.values, start, window, v), v], dim=1)
            o = _banded(q, k, v, start, window)
        y = self.o_proj(o.flatten(-2))
        if mask is not None:
            y = y.take_along_dim(order.argsort(dim=1)[..., None], dim=1)
        if not return_state:
            return y, None
        length = start + count
        slot = torch.arange(window, device=x.device)
        positions = length[:, None] - 1 - (length[:, None] - 1 - slot) % window
        entry = (positions - start[:, None] + window)[..., None, None]
        return y, AttentionCache(
            k.take_along_dim(entry, dim=1),
            v.take_along_dim(entry, dim=1),
            torch.where(positions >= 0, positions, -1),
            length,
        )

    def _step_window(
        self, x: Tensor, state: AttentionCache | None
    ) -> tuple[Tensor, AttentionCache]:
        if state is None:
            state = self.init_state(x.shape[0], device=x.device)
        position = state.length[:, None]
        q, k, v = self._project(x[:, None], position)
        slot = torch.arange(cast(int, self.window_size), device=x.device)
        here = slot == position % slot.shape[0]
        keys = torch.where(here[..., None, None], k, state.keys.to(k.dtype))
        values = torch.where(here[..., None, None], v, state.values.to(v.dtype))
        positions = torch.where(here, position, state.positions)
        o = _sdpa(q, keys, values, (positions >= 0)[:, None, None], is_causal=False)
        cache = AttentionCache(keys, values, positions, state.length + 1)
        return self.o_proj(o.flatten(-2))[:, 0], cache

    def extra_repr(self) -> str:
        return (
            f"{self.hidden_size}, {self.num_heads}, head_dim={self.head_dim}, "
            f"num_kv_heads={self.num_kv_heads}, window_size={self.window_size}"
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


def _unrolled(ring: Tensor | None, start: Tensor, window: int, like: Tensor) -> Tensor:
    """The ring's entries in the order of positions start - window to start - 1."""
    if ring is None:
        return like.new_zeros(like.shape[0], window, *like.shape[2:])
    slot = (start[:, None] + torch.arange(window, device=start.device)) % window
    return ring.to(like.dtype).take_along_dim(slot[..., None, None], dim=1)


def _banded(q: Tensor, k: Tensor, v: Tensor, start: Tensor, window: int) -> Tensor:
    """Attention of (batch, time) queries over the window that ends with their own key.

    ``k`` and ``v`` have ``window`` entries before the first query's own, of which the last
    ``start`` are real. Blocks of queries see their own keys and the window before them.
    """
    batch, time = q.shape[:2]
    block = max(min(window, time), 1)
    blocks = max(-(-time // block), 1)
    padding = (0, 0, 0, 0, 0, blocks * block - time)
    q = F.pad(q, padding).unflatten(1, (blocks, block)).flatten(0, 1)
    k, v = (
        F.pad(entries, padding).unfold(1, window + block, block).movedim(-1, 2).flatten(0, 1)
        for entries in (k, v)
    )
    row = torch.arange(block, device=q.device)[:, None]
    column = torch.arange(window + block, device=q.device)
    band = (column > row) & (column <= row + window)
    first = block * torch.arange(blocks, device=q.device)[:, None]
    real = first + column >= (window - start)[:, None, None]
    visible = (band & real[:, :, None]).flatten(0, 1)[:, None]
    o = _sdpa(q, k, v, visible, is_causal=False)
    return o.unflatten(0, (batch, blocks)).flatten(1, 2)[:, :time]


def _sdpa(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, *, is_causal: bool) -> Tensor:
    o = F.scaled_dot_product_attention(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        attn_mask=visible,
        is_causal=is_causal,
        enable_gqa=q.shape[2] != k.shape[2],
    )
    return o.transpose(1, 2)


def _unpack(x: Tensor, cu_seqlens: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Right-padded (sequences, longest, width), its mask, and row and column of every token."""
    offsets = cu_seqlens.to(device=x.device, dtype=torch.int64)
    lengths = offsets.diff()
    sequences = lengths.shape[0]
    row = torch.repeat_interleave(lengths, output_size=x.shape[1])
    column = torch.arange(x.shape[1], device=x.device) - offsets[row]
    longest = int(lengths.max()) if sequences else 0
    padded = x.new_zeros(sequences, longest, x.shape[2]).index_put((row, column), x[0])
    mask = torch.arange(longest, device=x.device) < lengths[:, None]
    return padded, mask, row, column


register_mixer("softmax_attention", SoftmaxAttention)
