"""Softmax attention over the last ``window`` tokens, in blocks, and the ring that holds its past.

Queries go in blocks of at most ``window``; each block sees its own keys and the ``window`` before
them under one band, so cost and memory are O(time * window) and no (time, time) mask exists. The
past of a window is a ring of entries: position p stands in slot p mod window.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rankone.ops import checks


def sliding_window_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int,
    *,
    scale: float | None = None,
    key_padding_mask: Tensor | None = None,
) -> Tensor:
    """Causal softmax attention of every token over itself and the ``window - 1`` tokens before it.

    Args:
        q: (batch, time, heads, dim) queries; any floating dtype.
        k: (batch, time, kv_heads, dim) keys; ``heads`` is a multiple of ``kv_heads``, and query
            head h reads kv head h // (heads / kv_heads).
        v: (batch, time, kv_heads, value_dim) values.
        window: tokens that a token sees, itself included, at least 1.
        scale: factor of the scores; None means dim ** -0.5.
        key_padding_mask: (batch, time) bool, True on padding, as in
            ``torch.nn.MultiheadAttention``. No token sees padding, and rows of padding are zeros.
            Padding counts as a place of the window.

    Returns:
        (batch, time, heads, value_dim) in the dtype of ``q``; O(time * window) in cost and memory.

    Raises:
        ValueError: for shapes that do not fit, or a window below 1.
        TypeError: for tensors that are not of one floating dtype, a window that is no integer, or a
            mask that is not boolean.

    Example:
        >>> import torch
        >>> from rankone.nn import sliding_window_attention
        >>> q, (k, v) = torch.randn(2, 100, 6, 8), torch.randn(2, 2, 100, 2, 8)
        >>> sliding_window_attention(q, k, v, 16).shape
        torch.Size([2, 100, 6, 8])
    """
    check_window("window", window)
    checks.check_rank("q", q, ("batch", "time", "heads", "dim"))
    checks.check_rank("k", k, ("batch", "time", "kv_heads", "dim"))
    checks.check_rank("v", v, ("batch", "time", "kv_heads", "value_dim"))
    checks.check_same_dtype({"q": q, "k": k, "v": v})
    batch, time, heads, dim = q.shape
    kv_heads = k.shape[2]
    checks.check_grouped_heads("q", heads, "k", kv_heads)
    checks.check_shape("k", k, (batch, time, kv_heads, dim), "batch, time and dim as in q")
    checks.check_shape(
        "v", v, (batch, time, kv_heads, v.shape[-1]), "batch and time as in q, kv_heads as in k"
    )
    if key_padding_mask is None:
        if window >= time:
            return causal_attention(q, k, v, scale=scale)
        real = torch.arange(window + time, device=q.device).ge(window).expand(batch, -1)
    else:
        checks.check_shape("key_padding_mask", key_padding_mask, (batch, time), "batch, time")
        if key_padding_mask.dtype != torch.bool:
            raise TypeError(
                f"key_padding_mask must be boolean, True on padding, got {key_padding_mask.dtype}"
            )
        window = min(window, max(time, 1))
        real = F.pad(~key_padding_mask, (window, 0))
    k, v = (F.pad(entries, (0, 0, 0, 0, window, 0)) for entries in (k, v))
    o = banded_attention(q, k, v, real, window, scale=scale)
    return o if key_padding_mask is None else o.masked_fill(key_padding_mask[..., None, None], 0)


def check_window(name: str, window: int) -> None:
    """Require a whole number of at least 1."""
    if isinstance(window, bool) or not isinstance(window, int):
        raise TypeError(f"{name} must be an integer, got {type(window).__name__}")
    if window < 1:
        raise ValueError(f"{name} must be at least 1, got {window}")


def banded_attention(
    q: Tensor, k: Tensor, v: Tensor, real: Tensor, window: int, *, scale: float | None = None
) -> Tensor:
    """Attention of (batch, time) queries over the window that ends with their own key.

    Args:
        q: (batch, time, heads, dim).
        k, v: (batch, window + time, kv_heads, dim): the window before the first query, then the
            entries of the queries' own tokens.
        real: (batch, window + time) bool: entries that may be seen. A query always sees its own:
            a row of nothing has no softmax.
        window: entries that a query sees, its own included.
        scale: factor of the scores; None means dim ** -0.5.
    """
    batch, time = q.shape[:2]
    block = max(min(window, time), 1)
    blocks = max(-(-time // block), 1)
    padding = blocks * block - time
    q = F.pad(q, (0, 0, 0, 0, 0, padding)).unflatten(1, (blocks, block)).flatten(0, 1)
    k, v = (
        F.pad(entries, (0, 0, 0, 0, 0, padding))
        .unfold(1, window + block, block)
        .movedim(-1, 2)
        .flatten(0, 1)
        for entries in (k, v)
    )
    real = F.pad(real, (0, padding)).unfold(1, window + block, block).flatten(0, 1)
    row = torch.arange(block, device=q.device)[:, None]
    column = torch.arange(window + block, device=q.device)
    band = (column > row) & (column < row + window)
    visible = (band & real[:, None]) | (column == row + window)
    o = masked_attention(q, k, v, visible[:, None], scale=scale)
    return o.unflatten(0, (batch, blocks)).flatten(1, 2)[:, :time]


def causal_attention(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None) -> Tensor:
    """Every token over itself and all before it; (batch, time, heads, dim)."""
    return _attention(q, k, v, None, True, scale)


def masked_attention(
    q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, *, scale: float | None = None
) -> Tensor:
    """Attention over the entries that ``visible``, (batch or 1, 1, time, entries), allows.

    None allows all.
    """
    return _attention(q, k, v, visible, False, scale)


def _attention(
    q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, is_causal: bool, scale: float | None
) -> Tensor:
    o = F.scaled_dot_product_attention(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        attn_mask=visible,
        is_causal=is_causal,
        scale=scale,
        enable_gqa=q.shape[2] != k.shape[2],
    )
    return o.transpose(1, 2)


# The ring.


def with_past(ring: Tensor | None, start: Tensor, window: int, entries: Tensor) -> Tensor:
    """The ring's entries in the order of positions start - window to start - 1, then ``entries``.

    Args:
        ring: (batch, window, ...) or None for a past of nothing.
        start: (batch,) int64 position of the first of ``entries``.
        window: slots of the ring.
        entries: (batch, time, ...).
    """
    if ring is None:
        past = entries.new_zeros(entries.shape[0], window, *entries.shape[2:])
    else:
        slot = (start[:, None] + torch.arange(window, device=start.device)) % window
        past = ring.to(entries.dtype).take_along_dim(_columns(slot, ring), dim=1)
    return torch.cat([past, entries], dim=1)


def real_with_past(start: Tensor, window: int, time: int) -> Tensor:
    """(batch, window + time) bool: which entries of :func:`with_past` are there."""
    column = torch.arange(window + time, device=start.device)
    return column >= (window - start)[:, None]


def ring_positions(length: Tensor, window: int) -> Tensor:
    """(batch, window) int64: the position in each slot after ``length`` tokens, -1 for a gap."""
    slot = torch.arange(window, device=length.device)
    last = length[:, None] - 1
    return (last - (last - slot) % window).clamp(min=-1)


def ring_after(line: Tensor, start: Tensor, length: Tensor, window: int) -> Tensor:
    """The ring after ``length`` tokens.

    Args:
        line: (batch, window + time, ...) from :func:`with_past`.
        start: (batch,) int64 position of the entry after the first ``window``.
        length: (batch,) int64 tokens read, those before ``start`` included.
        window: slots of the ring.
    """
    slot = torch.arange(window, device=length.device)
    last = length[:, None] - 1
    entry = last - (last - slot) % window - start[:, None] + window
    return line.take_along_dim(_columns(entry, line), dim=1)


def write_ring(ring: Tensor, position: Tensor, entry: Tensor) -> Tensor:
    """A ring with (batch, 1, ...) ``entry`` in the slot of (batch,) ``position``."""
    slot = torch.arange(ring.shape[1], device=ring.device)
    here = slot == position[:, None] % ring.shape[1]
    return torch.where(_columns(here, ring), entry, ring.to(entry.dtype))


def _columns(index: Tensor, like: Tensor) -> Tensor:
    """(batch, entries) with axes of 1 behind, as many as ``like`` has."""
    return index[(...,) + (None,) * (like.ndim - 2)]
