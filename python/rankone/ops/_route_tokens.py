"""Dispatch of tokens to memories: one stable sort that makes each memory's tokens contiguous."""

from __future__ import annotations

import torch
from torch import Tensor

from rankone.ops import checks


def route_tokens(
    indices: Tensor, num_memories: int, *, mask: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Sort (token, slot) pairs by memory, then batch row, then time.

    Pair number (b T + t) k + slot chose memory ``indices[b, t, slot]``. In sorted order the pairs
    of memory m and row b are one segment, number m B + b, in the order of time: a packed batch for
    :func:`rankone.ops.delta_rule`, with one state a segment. Sorting and undoing it are
    permutations, so forward and backward are deterministic.

    Args:
        indices: (B, T, k) int32 or int64, the memories of each token, all different, in
            [0, num_memories).
        num_memories: M, at least 1.
        mask: (B, T) bool, False where a token is padding and takes part nowhere; None means all
            True.

    Returns:
        perm: (n k,) int64, the pair at each sorted position; n is the number of tokens not masked.
        inv: (n k,) int64, ``argsort(perm)``: the sorted position of each pair in order of time.
        cu_seqlens: (M B + 1,) int64, the offsets of the segments, empty ones included.

    Raises:
        ValueError: for wrong shapes or devices, and for memories out of range or chosen twice by a
            token, which are read on CPU tensors, elsewhere only with ``RANKONE_CHECK_VALUES=1``,
            and never in a graph of ``torch.compile``.
        TypeError: for wrong dtypes (also a ``ValueError``).

    Source: Mixture-of-Memories, arXiv 2502.13685; the dispatch was specified for this project.

    Example:
        >>> import torch
        >>> from rankone.ops import route_tokens
        >>> perm, inv, cu_seqlens = route_tokens(torch.tensor([[[1], [0], [1]]]), 3)
        >>> perm.tolist(), inv.tolist(), cu_seqlens.tolist()
        ([1, 0, 2], [1, 0, 2], [0, 1, 3, 3])
    """
    checks.check_rank("indices", indices, ("batch", "time", "slots"))
    if indices.dtype not in (torch.int32, torch.int64):
        raise checks.DTypeError(f"indices must be int32 or int64, got {indices.dtype}")
    if num_memories < 1:
        raise ValueError(f"num_memories must be at least 1, got {num_memories}")
    batch, time, slots = indices.shape
    if not 1 <= slots <= num_memories:
        raise ValueError(
            f"the last axis of indices must be between 1 and num_memories = {num_memories}, "
            f"got {slots}"
        )
    if mask is not None:
        checks.check_shape("mask", mask, (batch, time), "batch and time as in indices")
        if mask.dtype != torch.bool:
            raise checks.DTypeError(f"mask must be bool, got {mask.dtype}")
        checks.check_same_device({"indices": indices, "mask": mask})
    if not torch.compiler.is_compiling():
        _check_choices(indices, num_memories, mask)

    row = torch.arange(batch, device=indices.device)[:, None, None]
    segments = (indices.long() * batch + row).flatten()
    if mask is None:
        sorted_segments, perm = segments.sort(stable=True)
    else:
        pairs = mask[..., None].expand(indices.shape).flatten().nonzero()[:, 0]
        sorted_segments, order = segments[pairs].sort(stable=True)
        perm = pairs[order]
    bounds = torch.arange(num_memories * batch + 1, device=indices.device)
    return perm, perm.argsort(), torch.searchsorted(sorted_segments, bounds)


def _check_choices(indices: Tensor, num_memories: int, mask: Tensor | None) -> None:
    if not checks.values_checked(indices) or indices.numel() == 0:
        return
    chosen = indices if mask is None else indices[mask]
    outside = (chosen < 0) | (chosen >= num_memories)
    if bool(outside.any()):
        raise ValueError(
            f"indices must be between 0 and num_memories - 1 = {num_memories - 1}, "
            f"got {chosen[outside][0].item()}"
        )
    ordered = chosen.sort(dim=-1).values
    twice = ordered[..., 1:] == ordered[..., :-1]
    if bool(twice.any()):
        raise ValueError(
            "indices must be different for the slots of one token, "
            f"got {ordered[..., 1:][twice][0].item()} twice"
        )
