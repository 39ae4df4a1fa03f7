"""Causal linear attention in chunks of time, in plain torch on any device.

The same algorithm as the kernels: inside a chunk a small lower-triangular matrix of products, and
between chunks one state. It serves ``backend="torch"`` and devices without kernels. Decays enter
as running products of factors in [0, 1] (``torch.cumprod``), never as exponentials of differences,
so nothing overflows and a log-decay of -inf is an exact reset. The backward pass recomputes
everything from the inputs: one forward sweep for dq, one reverse sweep for dk, dv and the decay
gradient; no state is kept per chunk or per token.

Shapes inside: queries (B, T, N, G, K), keys (B, T, N, K), values (B, T, N, V), states (B, N, K, V)
and decays (B, T, N, 1 or K), with N the kv heads and G the query heads of each.
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


@dataclass
class _Sequence:
    """One sequence per batch row, in the compute dtype."""

    query: Tensor
    key: Tensor
    value: Tensor
    decay: Tensor
    state: Tensor
    chunk_size: int

    def chunks(self) -> list[slice]:
        time = self.query.shape[1]
        return [slice(start, min(start + self.chunk_size, time))
                for start in range(0, time, self.chunk_size)]  # fmt: skip


@dataclass
class _ChunkDecay:
    """Products of the decays of one chunk of C tokens, each (B, N, ..., 1 or K).

    ``within`` (.., C, C, .) is prod_{j < u <= i} d_u for j <= i and 0 above; ``from_start``
    (.., C, .) and ``to_end`` are prod_{u <= i} d_u and prod_{u > j} d_u; ``whole`` (.., .).
    """

    within: Tensor
    from_start: Tensor
    to_end: Tensor
    whole: Tensor

    @staticmethod
    def of(decay: Tensor) -> _ChunkDecay:
        decay = decay.movedim(1, 2)
        length = decay.shape[2]
        rows = torch.arange(length, device=decay.device)
        later = (rows[:, None] > rows[None, :])[..., None]
        factors = torch.where(
            later, decay[:, :, :, None, :], torch.ones_like(decay[:, :, :1, None])
        )
        products = factors.cumprod(dim=2)
        within = torch.where((rows[:, None] >= rows[None, :])[..., None], products, 0)
        from_start = decay.cumprod(dim=2)
        return _ChunkDecay(within, from_start, within[:, :, -1], from_start[:, :, -1])


def _scores(left: Tensor, right: Tensor, within: Tensor) -> Tensor:
    """sum_c left_ic right_jc W_ijc as (B, N, G, C, C), for left with a group axis."""
    if within.shape[-1] == 1:
        return torch.einsum("bingc,bjnc->bngij", left, right) * within[:, :, None, :, :, 0]
    weighted = right.movedim(1, 2)[:, :, None] * within
    return torch.einsum("bingc,bnijc->bngij", left, weighted)


def _forward_sweep(sequence: _Sequence, scale: float) -> tuple[Tensor, Tensor]:
    output = sequence.query.new_empty(*sequence.query.shape[:-1], sequence.value.shape[-1])
    state = sequence.state
    for chunk in sequence.chunks():
        query, key, value = (
            sequence.query[:, chunk],
            sequence.key[:, chunk],
            sequence.value[:, chunk],
        )
        decay = _ChunkDecay.of(sequence.decay[:, chunk])
        scores = _scores(query, key, decay.within)
        past_query = query * decay.from_start.movedim(1, 2)[:, :, :, None]
        rows = torch.einsum("bngij,bjnv->bingv", scores, value)
        rows += torch.einsum("bingc,bncv->bingv", past_query, state)
        output[:, chunk] = scale * rows
        state = _next_state(state, key, value, decay)
    return output, state


def _next_state(state: Tensor, key: Tensor, value: Tensor, decay: _ChunkDecay) -> Tensor:
    carried = key * decay.to_end.movedim(1, 2)
    return decay.whole[..., None] * state + torch.einsum("bjnc,bjnv->bncv", carried, value)


def _query_gradient(
    sequence: _Sequence, output_grad: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """dq and the final state."""
    gradient = torch.empty_like(sequence.query)
    state = sequence.state
    for chunk in sequence.chunks():
        key, value = sequence.key[:, chunk], sequence.value[:, chunk]
        decay = _ChunkDecay.of(sequence.decay[:, chunk])
        score_grad = torch.einsum("bingv,bjnv->bngij", output_grad[:, chunk], value)
        if decay.within.shape[-1] == 1:
            score_grad = score_grad * decay.within[:, :, None, :, :, 0]
            rows = torch.einsum("bngij,bjnc->bingc", score_grad, key)
        else:
            weighted = key.movedim(1, 2)[:, :, None] * decay.within
            rows = torch.einsum("bngij,bnijc->bingc", score_grad, weighted)
        past = torch.einsum("bingv,bncv->bingc", output_grad[:, chunk], state)
        rows += past * decay.from_start.movedim(1, 2)[:, :, :, None]
        gradient[:, chunk] = scale * rows
        state = _next_state(state, key, value, decay)
    return gradient, state


def _key_value_gradient(
    sequence: _Sequence, output_grad: Tensor, state_grad: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """dk, dv and the gradient of the initial state."""
    key_grad = torch.empty_like(sequence.key)
    value_grad = torch.empty_like(sequence.value)
    for chunk in reversed(sequence.chunks()):
        query, key, value = (
            sequence.query[:, chunk],
            sequence.key[:, chunk],
            sequence.value[:, chunk],
        )
        grad = output_grad[:, chunk]
        decay = _ChunkDecay.of(sequence.decay[:, chunk])
        to_end = decay.to_end.movedim(1, 2)
        scores = _scores(query, key, decay.within)
        value_rows = scale * torch.einsum("bngij,bingv->bjnv", scores, grad)
        value_rows += torch.einsum("bjnc,bncv->bjnv", key * to_end, state_grad)
        score_grad = torch.einsum("bingv,bjnv->bngij", grad, value)
        if decay.within.shape[-1] == 1:
            score_grad = score_grad * decay.within[:, :, None, :, :, 0]
            key_rows = torch.einsum("bngij,bingc->bjnc", score_grad, query)
        else:
            key_rows = torch.einsum("bngij,bingc,bnijc->bjnc", score_grad, query, decay.within)
        key_rows = scale * key_rows
        key_rows += torch.einsum("bjnv,bncv->bjnc", value, state_grad) * to_end
        key_grad[:, chunk] = key_rows
        value_grad[:, chunk] = value_rows
        past_query = query * decay.from_start.movedim(1, 2)[:, :, :, None]
        state_grad = decay.whole[..., None] * state_grad
        state_grad = state_grad + scale * torch.einsum("bingc,bingv->bncv", past_query, grad)
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
    if log_decay is None:
        decay = key.new_ones(*key.shape[:3], 1)
    else:
        decay = log_decay.to(compute).exp()
        decay = decay[..., None] if log_decay.ndim < 4 else decay
        decay = decay.expand(*key.shape[:3], decay.shape[-1])
    if chunk_size == 0:
        chunk_size = SCALAR_CHUNK
    if decay.shape[-1] > 1:
        chunk_size = min(chunk_size, CHANNEL_CHUNK)
    offsets = [0, q.shape[1]] if cu_seqlens is None else cu_seqlens.tolist()
    sequences = q.shape[0] if cu_seqlens is None else len(offsets) - 1
    if initial_state is None:
        state = key.new_zeros(sequences, kv_heads, key_dim, value.shape[-1])
    else:
        state = initial_state.to(compute)
    for index, (start, end) in enumerate(itertools.pairwise(offsets)):
        time = slice(start, end)
        rows = slice(None) if cu_seqlens is None else slice(index, index + 1)
        yield time, rows, _Sequence(
            query[:, time], key[:, time], value[:, time], decay[:, time], state[rows], chunk_size
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
        result, state = _forward_sweep(sequence, scale)
        output[:, time] = result.flatten(2, 3)
        final_state[rows] = state


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
