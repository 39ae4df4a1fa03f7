"""The definitions: each op as its plain recurrence over time, in float64, on any device.

Everything else is tested against these. They are differentiable by ordinary autograd, to any
order, and use memory proportional to the sequence length times the state.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from rankone._namespace import public_names
from rankone.ops import _delta_rule, _sequence
from rankone.ops import _linear_attention as family
from rankone.ops import _selective_scan_2d_arguments as scan_arguments
from rankone.ops._selective_scan_2d_wavefront import TENSORS
from rankone.ops.checks import check_cu_seqlens_values, check_log_decay_values

__all__ = ["delta_rule_reference", "linear_attention_reference", "selective_scan_2d_reference"]


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
        q, k, v, beta, log_decay, initial_state, cu_seqlens, output_final_state, use_qk_l2norm,
        l2norm_eps, mode, chunk_size, backend,
    )  # fmt: skip
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


def _held(dt: Tensor, a: Tensor) -> Tensor:
    """(exp(dt a) - 1) / a; its series where the difference quotient would lose digits."""
    exponent = dt * a
    near = exponent.abs() < 0.25
    inside = torch.where(near, exponent, 0)
    series = sum(inside**power / math.factorial(power + 1) for power in range(15))
    outside = torch.expm1(torch.where(near, 1, exponent)) / torch.where(near, 1, a)
    return torch.where(near, torch.where(near, dt, 0) * series, outside)


def _companion(coefficients: Tensor) -> Tensor:
    """(D, N, N) companion matrices: ones below the diagonal, the coefficients last."""
    channels, n = coefficients.shape
    matrix = torch.diag(coefficients.new_ones(n - 1), -1).expand(channels, n, n)
    last = torch.zeros(n, dtype=coefficients.dtype, device=coefficients.device)
    last[-1] = 1
    return matrix + coefficients[:, :, None] * last


def selective_scan_2d_reference(
    x: Tensor,
    dt1: Tensor | None,
    dt2: Tensor | None,
    A1: Tensor,
    A2: Tensor | None,
    A3: Tensor | None,
    A4: Tensor,
    B1: Tensor,
    B2: Tensor,
    C1: Tensor,
    C2: Tensor,
    D: Tensor | None = None,
    *,
    z: Tensor | None = None,
    dt1_bias: Tensor | None = None,
    dt2_bias: Tensor | None = None,
    dt_softplus: bool = False,
    discretization: str = "zoh",
    structure: str = "diagonal",
    gamma: Tensor | None = None,
    reverse_rows: bool = False,
    reverse_cols: bool = False,
    initial_col_state: scan_arguments.State | None = None,
    initial_row_state: scan_arguments.State | None = None,
    return_final_state: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, scan_arguments.FinalState]:
    """The 2D selective scan cell by cell in float64, rounded once at the end.

    Takes the arguments and returns the results of :func:`rankone.ops.selective_scan_2d`, which
    describes them; ``backend`` is checked and has no effect. Give float64 inputs to read the
    result unrounded.

    Source: arXiv 2406.04320.

    Example:
        >>> import torch
        >>> from rankone.ops import selective_scan_2d_reference
        >>> one = torch.ones(1, 1)
        >>> selective_scan_2d_reference(
        ...     torch.ones(1, 2, 3, 1), None, None, one, None, None, one, one, one, one, one,
        ...     discretization="none",
        ... ).flatten().tolist()
        [2.0, 3.0, 4.0, 3.0, 4.0, 5.0]
    """
    inputs = scan_arguments.prepare(
        x, dt1, dt2, (A1, A2, A3, A4), (B1, B2, C1, C2), D, z=z, dt1_bias=dt1_bias,
        dt2_bias=dt2_bias, dt_softplus=dt_softplus, discretization=discretization,
        structure=structure, gamma=gamma, reverse_rows=reverse_rows, reverse_cols=reverse_cols,
        col_state=initial_col_state, row_state=initial_row_state,
    )  # fmt: skip
    _sequence.check_backend(backend)
    batch, rows, columns, channels = x.shape
    given: dict[str, Any] = {
        name: None if tensor is None else tensor.double()
        for name, tensor in zip(TENSORS, inputs.tensors(), strict=True)
    }
    for step in ("dt1", "dt2"):
        if given[f"{step}_bias"] is not None:
            given[step] = given[step] + given[f"{step}_bias"]
        if dt_softplus:
            # Linear where the difference is below rounding.
            given[step] = functional.softplus(given[step], threshold=40)
    for name in ("dt1", "dt2", "B1", "B2", "C1", "C2"):
        tensor = given[name]
        if tensor is not None and tensor.ndim > 2:
            given[name] = tensor.repeat_interleave(channels // tensor.shape[3], 3)
    for name, length in (("col", rows), ("row", columns)):
        for kind in ("h1", "h2"):
            state = given[f"{name}_{kind}"]
            if state is None:
                state = x.new_zeros(batch, length, channels, inputs.state_size, dtype=torch.float64)
            given[f"{name}_{kind}"] = list(state.unbind(1))

    def transitions(dt: Any, own: Any, other: Any) -> tuple[Any, Any, Any]:
        """Factors of the own state, of the other state, and of the input."""
        if dt is None:
            return own, 0.0 if other is None else other, 1.0
        dt = dt[..., None]
        hold = dt if discretization == "mamba" else _held(dt, own)
        if other is None:
            return torch.exp(dt * own), 0.0, hold
        coupling = torch.exp(dt * other) if discretization == "exp" else hold * other
        return torch.exp(dt * own), coupling, hold

    outputs: dict[tuple[int, int], Tensor] = {}
    left1, left2, above1, above2 = (
        given[name] for name in ("col_h1", "col_h2", "row_h1", "row_h2")
    )
    row_order = range(rows)[::-1] if reverse_rows else range(rows)
    column_order = range(columns)[::-1] if reverse_cols else range(columns)
    # Border states are in scan order: `i` and `j` count the rows and columns scanned.
    for i, v in enumerate(row_order):
        h1, h2 = left1[i], left2[i]
        row = []
        for j, t in enumerate(column_order):
            entry = given["x"][:, v, t, :, None]
            steps: list[Any] = [
                given[k] if given[k] is None else given[k][:, v, t] for k in ("dt1", "dt2")
            ]
            drive1, drive2, read1, read2 = (
                given[k] if given[k].ndim == 2 else given[k][:, v, t]
                for k in ("B1", "B2", "C1", "C2")
            )
            if structure == "companion":
                g = -torch.expm1(-steps[0])[..., None]
                moved = torch.einsum("dij,bdj->bdi", _companion(given["A1"]), h1)
                coupled = torch.einsum("dij,bdj->bdi", _companion(given["A2"]), h2)
                new1 = h1 + g * (moved - h1 + given["gamma"][:, None] * coupled + drive1 * entry)
            else:
                own, other, hold = transitions(steps[0], given["A1"], given["A2"])
                new1 = own * h1 + other * h2 + hold * drive1 * entry
            own, other, hold = transitions(steps[1], given["A4"], given["A3"])
            new2 = other * above1[j] + own * above2[j] + hold * drive2 * entry
            h1, h2 = new1, new2
            row.append((h1, h2))
            outputs[v, t] = (read1 * h1 + read2 * h2).sum(-1)
        left1[i], left2[i] = h1, h2
        above1, above2 = (list(kind) for kind in zip(*row, strict=True))
    y = torch.stack(
        [torch.stack([outputs[v, t] for t in range(columns)], 1) for v in range(rows)], 1
    )
    if D is not None:
        y = y + given["D"] * given["x"]
    if z is not None:
        y = y * functional.silu(given["z"])
    y = y.to(_sequence.output_dtype(x))
    if not return_final_state:
        return y
    dtype = _sequence.state_dtype(inputs.x.dtype)
    finals = [torch.stack(kind, 1).to(dtype) for kind in (left1, left2, above1, above2)]
    return y, ((finals[0], finals[1]), (finals[2], finals[3]))


def __dir__() -> list[str]:
    return public_names(globals())
