"""The definitions: each op as its plain recurrence over time, in float64, on any device.

Everything else is tested against these. They are differentiable by ordinary autograd, to any
order, and use memory proportional to the sequence length times the state.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from rankone.ops import _linear_attention as family
from rankone.ops.checks import check_cu_seqlens_values, check_log_decay_values


def linear_attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None = None,
    *,
    scale: float | None = None,
    initial_state: family.State = None,
    output_final_state: bool = False,
    normalize: bool = False,
    eps: float = 1e-10,
    causal: bool = True,
    cu_seqlens: Tensor | None = None,
    chunk_size: int | None = None,
    backend: str = "auto",
) -> tuple[Tensor, family.State]:
    """Linear attention as its step recurrence in float64, rounded once at the end.

    Takes the arguments and returns the results of :func:`rankone.ops.linear_attention`, which
    describes them; ``chunk_size`` and ``backend`` are checked and have no effect. Give float64
    inputs to read the result unrounded.

    Source: arXiv 2401.04658, with the decay forms of the gated-linear-attention literature.

    Example:
        >>> import torch
        >>> from rankone.ops import linear_attention_reference
        >>> ones = torch.ones(1, 4, 1, 1)
        >>> linear_attention_reference(ones, ones, ones, scale=1.0)[0].flatten().tolist()
        [1.0, 2.0, 3.0, 4.0]
    """
    family.check_arguments(
        q, k, v, log_decay, initial_state, output_final_state, normalize, causal, cu_seqlens,
        chunk_size, backend,
    )  # fmt: skip
    if scale is None:
        scale = q.shape[-1] ** -0.5
    batch, time, heads, key_dim = q.shape
    kv_heads = k.shape[2]
    group = heads // kv_heads

    queries = q.double().unflatten(2, (kv_heads, group))
    keys, values = k.double(), v.double()
    if normalize:
        values = torch.cat([values, torch.ones_like(values[..., :1])], dim=-1)
    if log_decay is None:
        decay = keys.new_ones(batch, time, kv_heads, 1)
    else:
        check_log_decay_values(log_decay)
        decay = log_decay.double().exp()
        decay = decay[..., None] if log_decay.ndim < 4 else decay
        decay = decay.expand(batch, time, kv_heads, decay.shape[-1])
    state = family.join_state(initial_state)
    if state is not None:
        state = state.double()

    bounds = [(entry, 0, time) for entry in range(batch)]
    if cu_seqlens is not None:
        check_cu_seqlens_values(cu_seqlens, time)
        offsets = cu_seqlens.tolist()
        bounds = [(0, *ends) for ends in itertools.pairwise(offsets)]

    outputs: list[list[Tensor]] = [[] for _ in range(batch)]
    final_states = []
    for sequence, (entry, start, end) in enumerate(bounds):
        if state is None:
            current = keys.new_zeros(kv_heads, key_dim, values.shape[-1])
        else:
            current = state[sequence]
        if not causal:
            current = torch.einsum("thk,thv->hkv", keys[entry], values[entry])
        for t in range(start, end):
            if causal:
                update = keys[entry, t, :, :, None] * values[entry, t, :, None, :]
                current = decay[entry, t, :, :, None] * current + update
            outputs[entry].append(torch.einsum("hgk,hkv->hgv", queries[entry, t], current))
        final_states.append(current)

    empty = queries.new_zeros(0, kv_heads, group, values.shape[-1])
    rows = [torch.stack(row) if row else empty for row in outputs]
    weighted = torch.stack(rows) if rows else empty[None][:0]
    weighted = weighted.flatten(2, 3)
    output = weighted[..., :-1] / (weighted[..., -1:] + eps) if normalize else scale * weighted
    output = output.to(family.output_dtype(q))
    if not output_final_state:
        return output, None
    if not final_states:
        return output, family.split_state(
            keys.new_zeros(0, kv_heads, key_dim, values.shape[-1]).to(family.state_dtype(q.dtype)),
            normalize,
        )
    final_state = torch.stack(final_states).to(family.state_dtype(q.dtype))
    return output, family.split_state(final_state, normalize)
