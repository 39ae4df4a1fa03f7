"""The delta rule as one writes it in eager torch: chunks and batched products.

The peer that rankone's kernels are held against. What depends on a chunk alone is made for all
chunks at once: the products of keys, the inverse of their unit triangle applied to beta V and to
beta K (the U and W of arXiv 2406.06484), and the scores of queries and keys. The loop over chunks
holds the recurrence of the state alone, two matrix products; outputs follow for all chunks at once.
The backward pass is autograd's, which keeps what the forward made. The large products run in the
dtype of the inputs; the triangle, decays and states in float32 (float64 for float64 inputs). The
channel form divides keys by their running decay, which is the fastest way and overflows where a
chunk decays by more than exp(88): it serves the gates of trained models and of these benchmarks,
not any input.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench.peers.eager_chunks import CHUNK, chunked, whole_sequence


def eager_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_decay: Tensor | None = None,
    *,
    scale: float | None = None,
    chunk: int | None = None,
) -> Tensor:
    """The output of ``rankone.ops.delta_rule`` from a zero state; same shapes, T >= 1.

    ``chunk`` is 64, or 32 up to 64 key channels, where that was the faster on a CPU.
    """
    time, heads, key_dim = q.shape[1:]
    group = v.shape[2] // heads
    scale = key_dim**-0.5 if scale is None else scale
    chunk = chunk or (CHUNK // 2 if key_dim <= 64 else CHUNK)
    compute = torch.promote_types(q.dtype, torch.float32)
    if group > 1:
        q, k = (tensor.repeat_interleave(group, dim=2) for tensor in (q, k))
    query, key, value = chunked(q * scale, chunk), chunked(k, chunk), chunked(v, chunk)
    strength = chunked(beta.to(compute), chunk)[..., None]
    causal = torch.ones(chunk, chunk, dtype=torch.bool, device=q.device).tril()

    whole = None
    if log_decay is None:
        past_query, past_key, carried = query, key, key
        key_products, scores = key @ key.mT, query @ key.mT
    else:
        total = chunked(log_decay.to(compute), chunk).cumsum(3)
        if log_decay.ndim == 3:
            within = (total[..., :, None] - total[..., None, :]).masked_fill(~causal, -torch.inf)
            within = within.exp()
            key_products = (key @ key.mT) * within
            scores = (query @ key.mT) * within.to(q.dtype)
            total = total[..., None]
        grown = total.exp()
        past_query, past_key = (query * grown).to(q.dtype), (key * grown).to(q.dtype)
        carried = (key * (total[:, :, :, -1:] - total).exp()).to(q.dtype)
        if log_decay.ndim == 4:
            divided = (key * (-total).exp()).to(q.dtype)
            key_products, scores = past_key @ divided.mT, past_query @ divided.mT
        whole = grown[:, :, :, -1, :, None]

    scores = scores.masked_fill(~causal, 0)
    system = (strength * key_products.to(compute)).tril(-1)
    # U and W in one solve.
    sides = strength * torch.cat([value, past_key], -1).to(compute)
    solved = torch.linalg.solve_triangular(system, sides, upper=False, unitriangular=True)
    updates, through = solved.split([value.shape[-1], key_dim], -1)

    state = updates.new_zeros(*updates.shape[:2], key_dim, value.shape[-1])
    states, corrected = [], []
    decays = [None] * updates.shape[2] if whole is None else whole.unbind(2)
    pieces = (updates, through.to(q.dtype), carried.mT)
    for own, past, key_rows, decay in zip(*(p.unbind(2) for p in pieces), decays, strict=True):
        states.append(state)
        update = own - past @ state.to(q.dtype)
        corrected.append(update)
        kept = state if decay is None else state * decay
        state = kept + key_rows @ update.to(q.dtype)
    output = scores @ torch.stack(corrected, 2).to(q.dtype)
    output = output + past_query @ torch.stack(states, 2).to(q.dtype)
    return whole_sequence(output, time)


def eager_delta_rule_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    state: Tensor,
    log_decay: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One token: q, k (B, H, K), v (B, HV, V), beta (B, HV) to (B, HV, V) and the new state."""
    group = v.shape[1] // q.shape[1]
    if group > 1:
        q, k = (tensor.repeat_interleave(group, dim=1) for tensor in (q, k))
    if log_decay is not None:
        factor = log_decay.exp()
        state = state * (factor[..., None] if log_decay.ndim == 3 else factor[..., None, None])
    key = k[..., None].to(state.dtype)
    predicted = (key.mT @ state)[..., 0, :]
    update = beta[..., None] * (v.to(state.dtype) - predicted)
    state = torch.addcmul(state, key, update[..., None, :])
    query = (q * q.shape[-1] ** -0.5).to(state.dtype)[..., None, :]
    return (query @ state)[..., 0, :].to(v.dtype), state
