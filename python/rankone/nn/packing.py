"""Padded batches as packed sequences and back, for mixers whose kernels take ``cu_seqlens``."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Packed(NamedTuple):
    """The real tokens of a padded batch, one sequence after the other.

    Attributes:
        x: (1, tokens, width).
        cu_seqlens: (batch + 1,) int64, where each row starts.
        places: (tokens,) int64, where each token stands in the flattened (batch * time).
    """

    x: Tensor
    cu_seqlens: Tensor
    places: Tensor


def pack(x: Tensor, mask: Tensor) -> Packed:
    """Take the padding out of a batch.

    Args:
        x: (batch, time, width).
        mask: (batch, time) bool, False on padding, which may stand anywhere.
    """
    places = mask.flatten().nonzero().squeeze(1)
    return Packed(x.flatten(0, 1).index_select(0, places)[None], offsets_of(mask.sum(1)), places)


def unpack(y: Tensor, places: Tensor, batch: int, time: int) -> Tensor:
    """Put packed (1, tokens, width) back to its places in (batch, time, width); padding is 0."""
    padded = y.new_zeros(batch * time, y.shape[-1])
    return padded.index_copy(0, places, y[0]).unflatten(0, (batch, time))


def offsets_of(lengths: Tensor) -> Tensor:
    """(sequences + 1,) int64 starts of packed sequences of these lengths."""
    return torch.cat([lengths.new_zeros(1, dtype=torch.int64), lengths.cumsum(0)])


def sequence_of(cu_seqlens: Tensor, tokens: int) -> Tensor:
    """(tokens,) int64: which packed sequence each token belongs to."""
    lengths = cu_seqlens.to(torch.int64).diff()
    return torch.repeat_interleave(lengths, output_size=tokens)


def padded_rows(x: Tensor, cu_seqlens: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Packed (1, tokens, ...) as a right-padded batch.

    Returns:
        (sequences, longest, ...), its mask (sequences, longest), and row and column of every token.
    """
    offsets = cu_seqlens.to(device=x.device, dtype=torch.int64)
    lengths = offsets.diff()
    sequences = lengths.shape[0]
    row = torch.repeat_interleave(lengths, output_size=x.shape[1])
    column = torch.arange(x.shape[1], device=x.device) - offsets[row]
    longest = int(lengths.max()) if sequences else 0
    padded = x.new_zeros(sequences, longest, *x.shape[2:]).index_put((row, column), x[0])
    mask = torch.arange(longest, device=x.device) < lengths[:, None]
    return padded, mask, row, column


def token_positions(
    x: Tensor, mask: Tensor | None, cu_seqlens: Tensor | None, start: Tensor
) -> tuple[Tensor, Tensor]:
    """Position of every token, and the length of every sequence after it.

    Args:
        x: (batch, time, width).
        mask: (batch, time) bool, False on padding, which takes no position; or None.
        cu_seqlens: (sequences + 1,) starts of packed sequences, or None.
        start: (sequences,) int64 tokens read before.

    Returns:
        (batch, time) and (sequences,), int64.
    """
    time = torch.arange(x.shape[1], device=x.device)
    if cu_seqlens is not None:
        offsets = cu_seqlens.to(torch.int64)
        lengths = offsets.diff()
        row = torch.repeat_interleave(lengths, output_size=x.shape[1])
        return (start[row] + time - offsets[row])[None], start + lengths
    if mask is not None:
        return start[:, None] + mask.cumsum(1) - 1, start + mask.sum(1)
    return start[:, None] + time, start + x.shape[1]
