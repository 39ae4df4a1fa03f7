"""The definitions: each op as its plain recurrence over time, in float64, on any device.

Everything else is tested against these. They are differentiable by ordinary autograd, to any
order, and use memory proportional to the sequence length times the state.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from rankone.ops import _delta_rule, _sequence
from rankone.ops import _linear_attention as family
from rankone.ops.checks import check_cu_seqlens_values, check_log_decay_values


def _spans(q: Tensor, cu_seqlens: Tensor | None) -> list[tuple[int, int, int]]:
    """(batch row, start, end) of every sequence."""
    batch, time = q.shape[:2]
    if cu_seqlens is None:
        return [(row, 0, time) for row in range(batch)]
    check_cu_seqlens_values(cu_seqlens, time)
    offsets = cu_seqlens.tolist()
    return [(0, *ends) for ends in itertools.pairwise(offsets)]


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

    outputs: list[list[Tensor]] = [[] for _ in range(batch)]
    final_states = []
    for sequence, (entry, start, end) in enumerate(_spans(q, cu_seqlens)):
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
    output = output.to(_sequence.output_dtype(q))
    if not output_final_state:
        return output, None
    empty = keys.new_zeros(0, kv_heads, key_dim, values.shape[-1])
    states = torch.stack(final_states) if final_states else empty
    return output, family.split_state(states.to(_sequence.state_dtype(q.dtype)), normalize)


def delta_rule_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    *,
    log_decay: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    use_qk_l2norm: bool = False,
    l2norm_eps: float = 1e-6,
    mode: str = "chunk",
    chunk_size: int | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor | None]:
    """The delta rule as its step recurrence in float64, rounded once at the end.

    Takes the arguments and returns the results of :func:`rankone.ops.delta_rule`, which describes
    them; ``mode``, ``chunk_size`` and ``backend`` are checked and have no effect. Give float64
    inputs to read the result unrounded.

    Source: arXiv 2406.06484, with the decays of 2412.06464 and 2510.26692.

    Example:
        >>> import torch
        >>> from rankone.ops import delta_rule_reference
        >>> ones, values = torch.ones(1, 3, 1, 1), torch.tensor([1.0, 5.0, 2.0]).view(1, 3, 1, 1)
        >>> delta_rule_reference(ones, ones, values, torch.ones(1, 3, 1))[0].flatten().tolist()
        [1.0, 5.0, 2.0]
    """
    _delta_rule.check_arguments(
        q, k, v, beta, log_decay, initial_state, cu_seqlens, l2norm_eps, mode, chunk_size, backend
    )
    scale = _sequence.finite_scale(scale, q.shape[-1])
    _delta_rule.check_values(beta, log_decay, cu_seqlens, q.shape[1])
    value_heads, value_dim = v.shape[2:]
    group = value_heads // q.shape[2]
    queries, keys = (x.double().repeat_interleave(group, dim=2) for x in (q, k))
    if use_qk_l2norm:
        queries, keys = (
            x / (x.square().sum(-1, keepdim=True) + l2norm_eps).sqrt() for x in (queries, keys)
        )
    values, strengths = v.double(), beta.double()
    decay = None
    if log_decay is not None:
        decay = log_decay.double().exp()
        decay = decay[..., None] if log_decay.ndim < 4 else decay

    shape = (value_heads, q.shape[-1], value_dim)
    rows: list[list[Tensor]] = [[] for _ in range(q.shape[0])]
    final_states = []
    for sequence, (row, start, end) in enumerate(_spans(q, cu_seqlens)):
        state = keys.new_zeros(shape) if initial_state is None else initial_state[sequence].double()
        for t in range(start, end):
            key = keys[row, t]
            if decay is not None:
                state = decay[row, t, :, :, None] * state
            error = values[row, t] - torch.einsum("hkv,hk->hv", state, key)
            update = strengths[row, t, :, None] * error
            state = state + key[:, :, None] * update[:, None, :]
            rows[row].append(scale * torch.einsum("hkv,hk->hv", state, queries[row, t]))
        final_states.append(state)

    output = values if values.numel() == 0 else torch.stack([torch.stack(row) for row in rows])
    output = output.to(_sequence.output_dtype(v))
    if not output_final_state:
        return output, None
    states = torch.stack(final_states) if final_states else keys.new_zeros(0, *shape)
    return output, states.to(_sequence.state_dtype(q.dtype))
