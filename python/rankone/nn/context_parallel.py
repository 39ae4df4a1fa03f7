"""Layers on a sequence that is cut along time over ranks: what they share.

A layer whose only traffic along time is one of the ops with a sharded twin runs unchanged on its
shard once it calls the twin. It takes a process group, a device mesh's dimension or a
:class:`rankone.distributed.SequenceShard` as ``context_parallel``; a model agrees on the shard once
and hands it to all its layers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from rankone import distributed, ops
from rankone.distributed import SequenceShard
from rankone.distributed._carry import agreed_shard
from rankone.nn.mixer import check_sequence

# A torch.distributed process group, a one-dimensional DeviceMesh, or a shard agreed before.
ContextParallel: TypeAlias = Any

_TWINS: dict[Callable[..., Any], Callable[..., Any]] = {
    ops.linear_attention: distributed.linear_attention,
    ops.delta_rule: distributed.delta_rule,
    ops.causal_conv1d: distributed.causal_conv1d,
}


def sharded(op: Callable[..., Any], shard: SequenceShard | None) -> Callable[..., Any]:
    """``op``, or on a shard its twin, which takes the packed sequences from the shard."""
    if shard is None:
        return op
    twin = _TWINS[op]

    def call(*arguments: Any, cu_seqlens: Tensor | None = None, **options: Any) -> Any:
        return twin(*arguments, group=shard, **options)

    return call


def agree_on_shard(
    x: Tensor,
    context_parallel: ContextParallel,
    cu_seqlens: Tensor | None,
    attention_mask: Tensor | None,
    check: Callable[[Tensor | None], object],
    facts: Mapping[str, object],
) -> SequenceShard:
    """The shard of a layer or a model, after every rank has found its arguments right.

    Args:
        x: (batch, time, ...) of this rank.
        context_parallel: what the caller was given, not None.
        cu_seqlens: packed sequences of the whole; None with a :class:`SequenceShard`.
        attention_mask: must be None.
        check: raises for wrong arguments; is given the ``cu_seqlens`` of the whole.
        facts: what must be equal on every rank.
    """

    def checked() -> None:
        if attention_mask is not None:
            raise ValueError(
                "attention_mask must be None with context_parallel: pack the texts and give "
                "cu_seqlens instead"
            )
        whole = cu_seqlens
        if isinstance(context_parallel, SequenceShard):
            whole = context_parallel.whole_cu_seqlens
        check(whole)

    return agreed_shard(x, context_parallel, cu_seqlens, checked, lambda: facts)


def layer_facts(layer: torch.nn.Module, x: Tensor, state: object, return_state: bool) -> dict:
    """What must be equal on every rank that runs a layer on its shard."""
    return {
        "layer": f"{type(layer).__name__}({layer.extra_repr()})",
        "x": f"({x.shape[0]}, time, {x.shape[-1]}) {str(x.dtype).removeprefix('torch.')}",
        "state": state is not None,
        "return_state": return_state,
        "gradients": torch.is_grad_enabled(),
    }


def causal_layer_shard(
    layer: Any,
    x: Tensor,
    context_parallel: ContextParallel,
    cu_seqlens: Tensor | None,
    attention_mask: Tensor | None,
    state: Any,
    return_state: bool,
) -> SequenceShard:
    """The shard of a layer with ``causal``, ``dim`` and ``_check_state``, as HedgehogAttention."""

    def check(whole: Tensor | None) -> None:
        if not layer.causal:
            raise ValueError("context_parallel needs a causal layer, got causal=False")
        _, sequences = check_sequence(x, layer.dim, None, whole)
        layer._check_state(state, sequences)

    facts = layer_facts(layer, x, state, return_state)
    return agree_on_shard(x, context_parallel, cu_seqlens, attention_mask, check, facts)


def takes_context_parallel(layer: object) -> bool:
    """Whether a layer's ``forward`` has the argument ``context_parallel``."""
    return "context_parallel" in inspect.signature(layer.forward).parameters  # type: ignore[attr-defined]


def tokens_before(shard: SequenceShard, x: Tensor, read: Tensor | None) -> Tensor:
    """(sequences,) int64 tokens read before the whole: ``read``, or zeros where that is None."""
    if read is not None:
        return read
    sequences = shard.sequence_count if shard.packed else x.shape[0]
    return x.new_zeros(sequences, dtype=torch.int64)


def last_positions(shard: SequenceShard, start: Tensor) -> Tensor:
    """(sequences,) tokens read of every sequence of the whole, of which ``start`` before it."""
    if shard.whole_cu_seqlens is None:
        return start + shard.total
    return start + shard.whole_cu_seqlens.to(start.device, torch.int64).diff()


def shard_positions(shard: SequenceShard, start: Tensor) -> Tensor:
    """(rows, time) positions of this shard's tokens in their sequences.

    Args:
        shard: rows is 1 where it is packed, else the number of entries of ``start``.
        start: (sequences,) int64 tokens read before.
    """
    time = shard.offset + torch.arange(shard.length, device=start.device)
    if shard.whole_cu_seqlens is None:
        return start[:, None] + time
    begins = torch.tensor(shard.begins, device=start.device, dtype=torch.int64)
    sequence = torch.searchsorted(begins, time, right=True) - 1
    return (start - begins)[sequence][None] + time
