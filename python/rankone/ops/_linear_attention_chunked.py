"""Causal linear attention in chunks of time, in plain torch on any device.

The same algorithm as the kernels: inside a chunk a small lower-triangular matrix of products, and
between chunks one state. It serves ``backend="torch"`` and devices without kernels. The backward
pass recomputes everything from the inputs: one forward sweep for dq, one reverse sweep for dk, dv
and the decay gradient; no state is kept per chunk or per token.

Shapes inside: queries (B, T, N, G, K), keys (B, T, N, K), values (B, T, N, V), states (B, N, K, V)
and decays (B, T, N, 1 or K), with N the kv heads and G the query heads of each. A chunk has its
heads first: queries (B, N, G, C, K), keys (B, N, 1, C, K), values (B, N, 1, C, V).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from rankone.ops._chunks import (
    ChunkDecay,
    chunk_length,
    chunks,
    decay_factors,
    left_gradient,
    packed,
    products,
    right_gradient,
)


@dataclass
class _Sequence:
    """One sequence per batch row, in the compute dtype."""

    query: Tensor
    key: Tensor
    value: Tensor
    decay: Tensor
    state: Tensor
    chunk_size: int

    def chunks(self) -> list[_Chunk]:
        return [_Chunk(self, piece) for piece in chunks(self.query.shape[1], self.chunk_size)]


class _Chunk:
    """One chunk with its heads first; the decays have an axis for the query heads of a group."""

    def __init__(self, sequence: _Sequence, time: slice):
        self.time = time
        self.query = sequence.query[:, time].movedim(1, 3)
        self.key = sequence.key[:, time].transpose(1, 2)[:, :, None]
        self.value = sequence.value[:, time].transpose(1, 2)[:, :, None]
        self._factors = sequence.decay[:, time]

    def decay(self) -> ChunkDecay:
        decay = ChunkDecay.of(self._factors, self.query.dtype)
        return ChunkDecay(
            decay.within[:, :, None], decay.from_start[:, :, None], decay.to_end[:, :, None],
            decay.whole,
        )  # fmt: skip

    def next_state(self, state: Tensor, decay: ChunkDecay) -> Tensor:
        carried = (decay.to_end * self.key).mT @ self.value
        return decay.whole[..., None] * state + carried.squeeze(2)


def _forward_sweep(sequence: _Sequence, scale: float, output: Tensor) -> Tensor:
    """Fill ``output`` (B, T, N, G, V); returns the final state."""
    state = sequence.state
    for chunk in sequence.chunks():
        decay = chunk.decay()
        rows = products(chunk.query, chunk.key, decay.within) @ chunk.value
        rows += (decay.from_start * chunk.query) @ state[:, :, None]
        output[:, chunk.time] = (scale * rows).movedim(3, 1)
        state = chunk.next_state(state, decay)
    return state


def _query_gradient(
    sequence: _Sequence, output_grad: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """dq and the final state."""
    gradient = torch.empty_like(sequence.query)
    state = sequence.state
    for chunk in sequence.chunks():
        decay = chunk.decay()
        grad = output_grad[:, chunk.time].movedim(1, 3)
        rows = left_gradient(grad @ chunk.value.mT, chunk.key, decay.within)
        rows += decay.from_start * (grad @ state[:, :, None].mT)
        gradient[:, chunk.time] = (scale * rows).movedim(3, 1)
        state = chunk.next_state(state, decay)
    return gradient, state


def _key_value_gradient(
    sequence: _Sequence, output_grad: Tensor, state_grad: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """dk, dv and the gradient of the initial state."""
    key_grad = torch.empty_like(sequence.key)
    value_grad = torch.empty_like(sequence.value)
    for chunk in reversed(sequence.chunks()):
        decay = chunk.decay()
        grad = scale * output_grad[:, chunk.time].movedim(1, 3)
        scores = products(chunk.query, chunk.key, decay.within)
        carried_key = (decay.to_end * chunk.key).squeeze(2)
        value_rows = (scores.mT @ grad).sum(2) + carried_key @ state_grad
        key_rows = right_gradient(grad @ chunk.value.mT, chunk.query, decay.within).sum(2)
        carried_grad = chunk.value.squeeze(2) @ state_grad.mT
        key_rows += decay.to_end.squeeze(2) * carried_grad
        key_grad[:, chunk.time] = key_rows.transpose(1, 2)
        value_grad[:, chunk.time] = value_rows.transpose(1, 2)
        past_query = decay.from_start * chunk.query
        state_grad = decay.whole[..., None] * state_grad + (past_query.mT @ grad).sum(2)
    return key_grad, value_grad, state_grad


def _sequences(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    ones_column: bool,
    chunk_size: int,
    compute: torch.dtype,
) -> Iterator[tuple[slice, slice, _Sequence]]:
    """(rows of time, rows of the states, sequences): one item, or one for each packed sequence."""
    kv_heads, key_dim = k.shape[2:]
    query = q.to(compute).unflatten(2, (kv_heads, q.shape[2] // kv_heads))
    key, value = k.to(compute), v.to(compute)
    if ones_column:
        value = torch.cat([value, torch.ones_like(value[..., :1])], dim=-1)
    factors = decay_factors(log_decay, key)
    length = chunk_length(chunk_size, factors.shape[-1])
    sequences = q.shape[0] if cu_seqlens is None else cu_seqlens.numel() - 1
    if initial_state is None:
        state = key.new_zeros(sequences, kv_heads, key_dim, value.shape[-1])
    else:
        state = initial_state.to(compute)
    for time, rows in packed(q.shape[1], cu_seqlens):
        yield time, rows, _Sequence(
            query[:, time], key[:, time], value[:, time], factors[:, time], state[rows], length
        )  # fmt: skip


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    scale: float,
    ones_column: bool,
    chunk_size: int,
    output: Tensor,
    final_state: Tensor,
) -> None:
    """Fill ``output`` and ``final_state``, whose dtype is the one computed in."""
    arguments = (q, k, v, log_decay, initial_state, cu_seqlens, ones_column, chunk_size)
    for time, rows, sequence in _sequences(*arguments, final_state.dtype):
        heads = output[:, time].unflatten(2, sequence.query.shape[2:4])
        final_state[rows] = _forward_sweep(sequence, scale, heads)


@dataclass
class Gradients:
    """Tensors that :func:`backward` fills; None where a gradient is not wanted.

    ``log_decay`` is (N_sequences, kv_heads) for a decay per head, else of log_decay's shape.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    log_decay: Tensor | None
    initial_state: Tensor | None


def backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    scale: float,
    ones_column: bool,
    chunk_size: int,
    output_grad: Tensor,
    final_state_grad: Tensor | None,
    compute: torch.dtype,
    gradients: Gradients,
) -> None:
    """Fill ``gradients``; arguments as for :func:`forward`."""
    value_dim = v.shape[-1]
    kv_heads = k.shape[2]
    output_grad = output_grad.to(compute).unflatten(2, (kv_heads, q.shape[2] // kv_heads))
    arguments = (q, k, v, log_decay, initial_state, cu_seqlens, ones_column, chunk_size, compute)
    for time, rows, sequence in _sequences(*arguments):
        grad = output_grad[:, time]
        state_grad = torch.zeros_like(sequence.state)
        if final_state_grad is not None:
            state_grad = final_state_grad[rows].to(compute)
        query_rows, final_state = _query_gradient(sequence, grad, scale)
        key_rows, value_rows, initial_grad = _key_value_gradient(sequence, grad, state_grad, scale)
        gradients.q[:, time] = query_rows.flatten(2, 3)
        gradients.k[:, time] = key_rows
        gradients.v[:, time] = value_rows[..., :value_dim]
        if gradients.initial_state is not None:
            gradients.initial_state[rows] = initial_grad
        if gradients.log_decay is not None and log_decay is not None:
            # dg_t = sum_{s >= t} (q_s dq_s - k_s dk_s) + sum_v S_T dS_T, a channel at a time.
            terms = (sequence.query * query_rows).sum(3) - sequence.key * key_rows
            last = (final_state * state_grad).sum(-1)[:, None]
            if log_decay.ndim < 4:
                terms, last = terms.sum(-1), last.sum(-1)
            decay_rows = terms.flip(1).cumsum(1).flip(1) + last
            if log_decay.ndim == 1:
                reset = log_decay == -torch.inf
                gradients.log_decay[rows] = decay_rows.sum(1).masked_fill(reset, 0)
            else:
                reset = log_decay[:, time] == -torch.inf
                gradients.log_decay[:, time] = decay_rows.masked_fill(reset, 0)
