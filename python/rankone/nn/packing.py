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
