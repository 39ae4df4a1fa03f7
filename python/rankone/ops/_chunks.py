"""What the composite sequence ops share: chunks of time, packed sequences, decays of a chunk.

Decays enter as running products of factors in [0, 1], never as exponentials of differences: nothing
overflows, nothing cancels, and a log-decay of -inf (or any below about -745, whose factor is 0) is
an exact reset. The products are taken in float64 and rounded once.

Tensors of one chunk are (..., C, dim) with C its length; decays have one column or one a channel.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

SCALAR_CHUNK = 64
# The products of a channel decay take chunk**2 * key_dim numbers, so chunks are shorter.
CHANNEL_CHUNK = 16


def chunk_length(chunk_size: int, decay_columns: int) -> int:
    """The chunk length for a wish of ``chunk_size``, where 0 is no wish."""
    length = chunk_size or SCALAR_CHUNK
    return min(length, CHANNEL_CHUNK) if decay_columns > 1 else length


def chunks(time: int, length: int) -> list[slice]:
    return [slice(start, min(start + length, time)) for start in range(0, time, length)]


def packed(time: int, cu_seqlens: Tensor | None) -> Iterator[tuple[slice, slice]]:
    """(rows of time, rows of the states): the whole batch, or one item per packed sequence."""
    if cu_seqlens is None:
        yield slice(0, time), slice(None)
        return
    offsets = cu_seqlens.tolist()
    for index, (start, end) in enumerate(itertools.pairwise(offsets)):
        yield slice(start, end), slice(index, index + 1)


def decay_factors(log_decay: Tensor | None, like: Tensor) -> Tensor:
    """Factors (batch, time, heads, 1 or dim) for ``like`` (batch, time, heads, dim).

    In float64, or in float32 on devices that have no float64.
    """
    dtype = torch.float32 if like.device.type == "mps" else torch.float64
    if log_decay is None:
        return like.new_ones((), dtype=dtype).expand(*like.shape[:3], 1)
    factors = log_decay.to(dtype).exp()
    factors = factors[..., None] if log_decay.ndim < 4 else factors
    return factors.expand(*like.shape[:3], factors.shape[-1])


@dataclass
class ChunkDecay:
    """Products of the decays of one chunk of C tokens, each (B, N, ..., 1 or K).

    ``within`` (.., C, C, .) is prod_{j < u <= i} d_u for j <= i and 0 above; ``from_start``
    (.., C, .) and ``to_end`` are prod_{u <= i} d_u and prod_{u > j} d_u; ``whole`` (.., .).
    """

    within: Tensor
    from_start: Tensor
    to_end: Tensor
    whole: Tensor

    @staticmethod
    def of(decay: Tensor, dtype: torch.dtype) -> ChunkDecay:
        """From the factors (B, C, N, .) of the chunk, rounded to ``dtype`` at the end."""
        decay = decay.movedim(1, 2)
        length = decay.shape[2]
        rows = torch.arange(length, device=decay.device)
        later = (rows[:, None] > rows[None, :])[..., None]
        factors = torch.where(
            later, decay[:, :, :, None, :], torch.ones_like(decay[:, :, :1, None])
        )
        products = factors.cumprod(dim=2)
        within = torch.where((rows[:, None] >= rows[None, :])[..., None], products, 0).to(dtype)
        from_start = decay.cumprod(dim=2).to(dtype)
        return ChunkDecay(within, from_start, within[:, :, -1], from_start[:, :, -1])


def products(left: Tensor, right: Tensor, within: Tensor) -> Tensor:
    """sum_c left_ic right_jc W_ijc, as (..., C, C)."""
    if within.shape[-1] == 1:
        return (left @ right.mT) * within[..., 0]
    return torch.einsum("...ic,...ijc->...ij", left, right[..., None, :, :] * within)


def left_gradient(grad: Tensor, right: Tensor, within: Tensor) -> Tensor:
    """The gradient of :func:`products` for ``left``, given its result's."""
    if within.shape[-1] == 1:
        return (grad * within[..., 0]) @ right
    return torch.einsum("...ij,...ijc->...ic", grad, right[..., None, :, :] * within)


def right_gradient(grad: Tensor, left: Tensor, within: Tensor) -> Tensor:
    """The gradient of :func:`products` for ``right``, given its result's."""
    if within.shape[-1] == 1:
        return (grad * within[..., 0]).mT @ left
    return torch.einsum("...ij,...ijc->...jc", grad, left[..., :, None, :] * within)
