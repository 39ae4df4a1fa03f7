"""Causal linear attention as one writes it in eager torch: chunks of 64 and batched products.

The peer that rankone's kernels are held against. All chunks are handled at once: the products
inside them and their updates of the state are batched matrix products, and only the state's
recurrence over chunks is a loop. The backward pass is autograd's, which keeps what the forward
made. Matrix products run in the dtype of the inputs, decays and states in float32 (float64 for
float64 inputs). The channel form divides keys by their running decay, which is the fastest way and
overflows where a chunk decays by more than exp(88): it serves the gates of trained models and of
these benchmarks, not any input.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench.peers.eager_chunks import CHUNK, chunked, whole_sequence


def _states_before(updates: Tensor, decay: Tensor | None) -> Tensor:
    """State before each chunk, from (B, H, N, K, V) updates and (B, H, N, 1 or K, 1) decays."""
    if decay is None:
        return updates.cumsum(2) - updates
    state = torch.zeros_like(updates[:, :, 0])
    states = []
    for update, factor in zip(updates.unbind(2), decay.unbind(2), strict=True):
        states.append(state)
        state = torch.addcmul(update, state, factor)
    return torch.stack(states, 2)


def eager_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None = None,
    *,
    scale: float | None = None,
    chunk: int = CHUNK,
) -> Tensor:
    """The output of ``rankone.ops.linear_attention`` from a zero state; same shapes, T >= 1."""
    time, heads, key_dim = q.shape[1:]
    kv_heads = k.shape[2]
    group = heads // kv_heads
    scale = key_dim**-0.5 if scale is None else scale
    compute = torch.promote_types(q.dtype, torch.float32)

    # Query heads of one kv head stand below each other as rows of one matrix product.
    def rows(tensor: Tensor) -> Tensor:
        return tensor.unflatten(1, (kv_heads, group)).movedim(2, 3).flatten(3, 4)

    query = rows(chunked(q * scale, chunk))
    key, value = chunked(k, chunk), chunked(v, chunk)
    causal = torch.ones(chunk, chunk, dtype=torch.bool, device=q.device).tril()

    if log_decay is None:
        scores = query @ key.mT
        scores = scores.unflatten(3, (group, chunk)).masked_fill(~causal, 0).flatten(3, 4)
        past_query, carried, whole = query, key, None
    else:
        gates = log_decay.to(compute)
        if gates.ndim == 1:  # the same in every chunk
            lengths = torch.arange(1, chunk + 1, device=q.device, dtype=compute)
            total = (gates[:, None] * lengths)[None, :, None]
        else:
            total = chunked(gates, chunk).cumsum(3)
        if gates.ndim < 4:
            weights = (total[..., :, None] - total[..., None, :]).masked_fill(~causal, -torch.inf)
            weights = weights.exp().to(q.dtype)
            scores = (query @ key.mT).unflatten(3, (group, chunk)) * weights[:, :, :, None]
            scores = scores.flatten(3, 4)
            total = total[..., None]
        grown = total.exp()
        repeated = grown if group == 1 else grown.repeat(1, 1, 1, group, 1)
        past_query = (query * repeated).to(q.dtype)
        if gates.ndim == 4:
            scores = past_query @ (key * (-total).exp()).to(q.dtype).mT
            scores = scores.unflatten(3, (group, chunk)).masked_fill(~causal, 0).flatten(3, 4)
        carried = (key * (total[:, :, :, -1:] - total).exp()).to(q.dtype)
        whole = grown[:, :, :, -1, :, None]

    updates = (carried.mT @ value).to(compute)
    if whole is not None:
        whole = whole.expand(-1, -1, updates.shape[2], -1, -1)
    states = _states_before(updates, whole).to(q.dtype)
    output = scores @ value + past_query @ states
    output = output.unflatten(3, (group, chunk)).movedim(3, 2).flatten(1, 2)
    return whole_sequence(output, time)


def eager_linear_attention_step(
    q: Tensor, k: Tensor, v: Tensor, state: Tensor, log_decay: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """One token: (B, H, K), (B, Hk, K), (B, Hk, V), (B, Hk, K, V) to (B, H, V) and the state."""
    update = k[..., :, None].to(state.dtype) * v[..., None, :].to(state.dtype)
    if log_decay is not None:
        factor = log_decay.exp()
        factor = factor[..., None] if log_decay.ndim == 3 else factor[..., None, None]
        update = torch.addcmul(update, state, factor)
    else:
        update = update + state
    query = (q * q.shape[-1] ** -0.5).to(state.dtype).unflatten(1, (k.shape[1], -1))
    return (query @ update).flatten(1, 2).to(q.dtype), update
