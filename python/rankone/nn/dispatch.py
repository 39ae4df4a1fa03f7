"""Dispatch: the (token, slot) pairs of a routed layer, sorted so that each memory's are contiguous.

One stable sort keeps the tokens of a memory and sequence in time order. Rows go out and come back
by permutations alone, also in the backward pass, so both are deterministic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rankone.ops import route_tokens


class _Spread(torch.autograd.Function):
    """Rows of tokens as rows of their pairs in sorted order; the gradient sums over slots."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, token: Tensor, inverse: Tensor, top_k: int) -> Tensor:
        ctx.save_for_backward(inverse)
        ctx.top_k = top_k
        return rows.index_select(0, token)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (inverse,) = ctx.saved_tensors
        pairs = gradients[0].index_select(0, inverse)
        return pairs.unflatten(0, (-1, ctx.top_k)).sum(1), None, None, None


class _Permute(torch.autograd.Function):
    """Rows in another order; the gradient takes them back by the inverse order, not by adding."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return rows.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return gradients[0].index_select(0, inverse), None, None


class Dispatch(NamedTuple):
    """Where the (token, slot) pairs of one call go.

    Attributes:
        perm, inverse: sorted position to pair, and back.
        cu_seqlens: (memories * sequences + 1,) starts of the segments, memories first.
        sizes: pairs a memory.
        memory: (pairs,) memory of each sorted position.
        token: (pairs,) token of each sorted position.
        top_k: slots a token.
    """

    perm: Tensor
    inverse: Tensor
    cu_seqlens: Tensor
    sizes: Sequence[int]
    memory: Tensor
    token: Tensor
    top_k: int

    @staticmethod
    def of(indices: Tensor, sequence: Tensor, sequences: int, *, memories: int) -> Dispatch:
        """Sort pairs by memory, then sequence, then time.

        Args:
            indices: (tokens, slots) memories of each token.
            sequence: (tokens,) sequence of each token, in time order within one.
            sequences: number of sequences.
            memories: number of memories.
        """
        top_k = indices.shape[1]
        segment = indices * sequences + sequence[:, None]
        perm, inverse, cu_seqlens = route_tokens(segment[None], memories * sequences)
        sizes = cu_seqlens[::sequences].diff()
        memory = torch.repeat_interleave(sizes, output_size=perm.shape[0])
        token = perm.div(top_k, rounding_mode="floor")
        return Dispatch(perm, inverse, cu_seqlens, sizes.tolist(), memory, token, top_k)

    def spread(self, rows: Tensor) -> Tensor:
        """(tokens, ...) as (pairs, ...) in sorted order."""
        return _Spread.apply(rows, self.token, self.inverse, self.top_k)

    def gather(self, rows: Tensor) -> Tensor:
        """(pairs, ...) in sorted order as (tokens, slots, ...)."""
        pairs = _Permute.apply(rows, self.inverse, self.perm)
        return pairs.unflatten(0, (-1, self.top_k))
