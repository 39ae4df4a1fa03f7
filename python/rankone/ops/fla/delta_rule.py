"""fla's functions of the delta rule and its gated forms, over :func:`rankone.ops.delta_rule`."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from rankone.ops import _delta_rule as family
from rankone.ops import checks
from rankone.ops._sequence import state_dtype

__all__ = [
    "chunk_delta_rule",
    "chunk_gated_delta_rule",
    "chunk_kda",
    "fused_recurrent_delta_rule",
    "fused_recurrent_gated_delta_rule",
    "fused_recurrent_kda",
]


def _run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor | None,
    log_decay: Tensor | None = None,
    *,
    scale: float | None,
    initial_state: Tensor | None,
    output_final_state: bool,
    use_qk_l2norm_in_kernel: bool,
    cu_seqlens: Tensor | None,
    use_beta_sigmoid_in_kernel: bool = False,
    allow_neg_eigval: bool = False,
    state_v_first: bool = False,
    chunk_size: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Call delta_rule in fla's conventions."""
    if allow_neg_eigval and not use_beta_sigmoid_in_kernel:
        raise ValueError("allow_neg_eigval needs use_beta_sigmoid_in_kernel=True")
    if beta is None:
        checks.check_tensor("v", v)
        beta = v.new_ones(v.shape[:-1])
    elif use_beta_sigmoid_in_kernel:
        beta = beta.to(state_dtype(beta.dtype)).sigmoid()
        beta = 2 * beta if allow_neg_eigval else beta
    if initial_state is not None and state_v_first:
        initial_state = initial_state.transpose(-1, -2)
    output, final_state = family.delta_rule(
        q, k, v, beta, log_decay=log_decay, scale=scale, initial_state=initial_state,
        output_final_state=output_final_state, cu_seqlens=cu_seqlens,
        use_qk_l2norm=use_qk_l2norm_in_kernel, chunk_size=chunk_size,
    )  # fmt: skip
    if final_state is not None and state_v_first:
        final_state = final_state.transpose(-1, -2).contiguous()
    return output, final_state


def _check_gates(name: str, g: Tensor, v: Tensor, channels: tuple[int, ...]) -> None:
    checks.check_rank("v", v, ("batch", "time", "value_heads", "value_dim"))
    layout = "batch, time, value_heads" + (", key_dim" if channels else "")
    checks.check_shape(name, g, (*v.shape[:3], *channels), layout)


def _activated_gates(
    g: Tensor,
    channels: tuple[int, ...],
    A_log: Tensor | None,
    dt_bias: Tensor | None,
    lower_bound: float | None = None,
) -> Tensor:
    """Log-decays of raw gates (B, T, HV, *channels): -exp(A_log) softplus(g + dt_bias).

    With a lower bound they are lower_bound sigmoid(exp(A_log) (g + dt_bias)), A_log being optional.
    """
    heads = g.shape[2]
    dtype = state_dtype(g.dtype)
    raw = g.to(dtype)
    if dt_bias is not None:
        checks.check_shape("dt_bias", dt_bias.flatten(), (math.prod(g.shape[2:]),), "one a gate")
        raw = raw + dt_bias.to(dtype).view(g.shape[2:])
    if A_log is None:
        if lower_bound is None:
            raise ValueError("A_log must be given when use_gate_in_kernel=True")
        rate = raw.new_ones(())
    else:
        checks.check_shape("A_log", A_log.flatten(), (heads,), "value_heads")
        rate = A_log.to(dtype).exp().view(heads, *(1 for _ in channels))
    if lower_bound is None:
        return -rate * functional.softplus(raw)
    if not lower_bound < 0:
        raise ValueError(f"lower_bound must be negative, got {lower_bound}")
    return lower_bound * torch.sigmoid(rate * raw)


def _refuse(**given: object) -> None:
    """Arguments that fla has and rankone does not, where they ask for something."""
    for name, value in given.items():
        if value is not None and value is not False:
            raise ValueError(f"{name} is not a form of rankone's op, got {value!r}")


def chunk_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
    *,
    chunk_size: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """The delta rule without decay.

    Args:
        q, k: (B, T, H, K).
        v: (B, T, HV, V), HV a multiple of H.
        beta: (B, T, HV).
        scale: None means K ** -0.5.
        initial_state: (N, HV, K, V).
        output_final_state: also return the final state, shaped as ``initial_state``.
        use_qk_l2norm_in_kernel: normalise q and k first.
        cu_seqlens: (N + 1,) offsets of packed sequences, B = 1.
        cu_seqlens_cpu: accepted for fla's callers; ``cu_seqlens`` alone is read.
        chunk_size: as in :func:`rankone.ops.delta_rule`.

    Returns:
        o (B, T, HV, V) and the final state or None.

    Raises:
        ValueError: naming the argument, as :func:`rankone.ops.delta_rule`.

    Example:
        >>> import torch
        >>> from rankone.ops.fla import chunk_delta_rule
        >>> q, k, v = (torch.randn(1, 8, 2, 4) for _ in range(3))
        >>> o, _ = chunk_delta_rule(q, k, v, torch.rand(1, 8, 2), use_qk_l2norm_in_kernel=True)
        >>> o.shape
        torch.Size([1, 8, 2, 4])
    """
    return _run(
        q, k, v, beta, scale=scale, initial_state=initial_state,
        output_final_state=output_final_state,
        use_qk_l2norm_in_kernel=use_qk_l2norm_in_kernel, cu_seqlens=cu_seqlens,
        chunk_size=chunk_size,
    )  # fmt: skip


def fused_recurrent_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """The delta rule without decay, token by token in fla.

    The other arguments, returns and errors are those of :func:`chunk_delta_rule`.

    Args:
        beta: (B, T, HV); None means ones.

    Example:
        >>> import torch
        >>> from rankone.ops.fla import fused_recurrent_delta_rule
        >>> ones, values = torch.ones(1, 2, 1, 1), torch.tensor([1.0, 5.0]).view(1, 2, 1, 1)
        >>> fused_recurrent_delta_rule(ones, ones, values)[0].flatten().tolist()
        [1.0, 5.0]
    """
    return _run(
        q, k, v, beta, scale=scale, initial_state=initial_state,
        output_final_state=output_final_state,
        use_qk_l2norm_in_kernel=use_qk_l2norm_in_kernel, cu_seqlens=cu_seqlens,
    )  # fmt: skip


def chunk_gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    use_beta_sigmoid_in_kernel: bool = False,
    allow_neg_eigval: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
    chunk_indices: Tensor | None = None,
    cp_context: object = None,
    *,
    use_gate_in_kernel: bool = False,
    A_log: Tensor | None = None,
    dt_bias: Tensor | None = None,
    chunk_size: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """The delta rule with one decay a token and value head.

    Args:
        q, k: (B, T, H, K).
        v: (B, T, HV, V), HV a multiple of H.
        g: (B, T, HV) log-decays, at most 0; raw gates with ``use_gate_in_kernel``.
        beta: (B, T, HV); logits with ``use_beta_sigmoid_in_kernel``.
        scale: None means K ** -0.5.
        initial_state: (N, HV, K, V), or (N, HV, V, K) with ``state_v_first``.
        output_final_state: also return the final state, shaped as ``initial_state``.
        use_qk_l2norm_in_kernel: normalise q and k first.
        use_beta_sigmoid_in_kernel: the write strength is sigmoid(beta).
        allow_neg_eigval: with the sigmoid, twice that.
        state_v_first: states are (N, HV, V, K).
        cu_seqlens: (N + 1,) offsets of packed sequences, B = 1.
        cu_seqlens_cpu, chunk_indices: accepted for fla's callers; ``cu_seqlens`` alone is read.
        cp_context: must be None.
        use_gate_in_kernel: the log-decay is -exp(A_log) softplus(g + dt_bias).
        A_log: (HV,), needed by ``use_gate_in_kernel``.
        dt_bias: (HV,) or None.
        chunk_size: as in :func:`rankone.ops.delta_rule`.

    Returns:
        o (B, T, HV, V) and the final state or None.

    Raises:
        ValueError: naming the argument, as :func:`rankone.ops.delta_rule`.

    Example:
        >>> import torch
        >>> from rankone.ops.fla import chunk_gated_delta_rule
        >>> q, k, v = (torch.randn(1, 8, 2, 4) for _ in range(3))
        >>> g = torch.nn.functional.logsigmoid(torch.randn(1, 8, 2))
        >>> chunk_gated_delta_rule(q, k, v, g, torch.rand(1, 8, 2))[0].shape
        torch.Size([1, 8, 2, 4])
    """
    _refuse(cp_context=cp_context)
    _check_gates("g", g, v, ())
    decay = _activated_gates(g, (), A_log, dt_bias) if use_gate_in_kernel else g
    return _run(
        q, k, v, beta, decay, scale=scale, initial_state=initial_state,
        output_final_state=output_final_state,
        use_qk_l2norm_in_kernel=use_qk_l2norm_in_kernel,
        use_beta_sigmoid_in_kernel=use_beta_sigmoid_in_kernel, allow_neg_eigval=allow_neg_eigval,
        state_v_first=state_v_first, cu_seqlens=cu_seqlens, chunk_size=chunk_size,
    )  # fmt: skip


def fused_recurrent_gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    gk: Tensor | None = None,
    gv: Tensor | None = None,
    beta: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    use_gate_in_kernel: bool = False,
    A_log: Tensor | None = None,
    dt_bias: Tensor | None = None,
    use_beta_sigmoid_in_kernel: bool = False,
    allow_neg_eigval: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """The delta rule with decays of heads, of key channels, both or none.

    The other arguments, returns and errors are those of :func:`chunk_gated_delta_rule`.

    Args:
        g: (B, T, HV) log-decays, at most 0; or None. Raw gates with ``use_gate_in_kernel``.
        gk: (B, T, HV, K) log-decays, at most 0; or None.
        gv: must be None: gates on the value channels are not a form of the op.
        beta: (B, T, HV); None means ones.

    Example:
        >>> import torch
        >>> from rankone.ops.fla import fused_recurrent_gated_delta_rule
        >>> q, k, v = (torch.randn(1, 8, 2, 4) for _ in range(3))
        >>> gk = torch.nn.functional.logsigmoid(torch.randn(1, 8, 2, 4))
        >>> fused_recurrent_gated_delta_rule(q, k, v, gk=gk, beta=torch.rand(1, 8, 2))[0].shape
        torch.Size([1, 8, 2, 4])
    """
    _refuse(gv=gv)
    if g is not None:
        _check_gates("g", g, v, ())
        g = _activated_gates(g, (), A_log, dt_bias) if use_gate_in_kernel else g
    elif use_gate_in_kernel:
        raise ValueError("g must be given when use_gate_in_kernel=True")
    decay = g
    if gk is not None:
        checks.check_rank("k", k, ("batch", "time", "heads", "key_dim"))
        _check_gates("gk", gk, v, k.shape[-1:])
        decay = gk if g is None else g[..., None] + gk
    return _run(
        q, k, v, beta, decay, scale=scale, initial_state=initial_state,
        output_final_state=output_final_state,
        use_qk_l2norm_in_kernel=use_qk_l2norm_in_kernel,
        use_beta_sigmoid_in_kernel=use_beta_sigmoid_in_kernel, allow_neg_eigval=allow_neg_eigval,
        state_v_first=state_v_first, cu_seqlens=cu_seqlens,
    )  # fmt: skip


def chunk_kda(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    use_gate_in_kernel: bool = False,
    use_beta_sigmoid_in_kernel: bool = False,
    allow_neg_eigval: bool = False,
    safe_gate: bool = False,
    lower_bound: float | None = None,
    disable_recompute: bool = False,
    return_intermediate_states: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
    cp_context: object = None,
    *,
    A_log: Tensor | None = None,
    dt_bias: Tensor | None = None,
    chunk_size: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Kimi delta attention: the delta rule with one decay a token and key channel.

    The other arguments, returns and errors are those of :func:`chunk_gated_delta_rule`.

    Args:
        g: (B, T, HV, K) log-decays, at most 0; raw gates with ``use_gate_in_kernel``.
        use_gate_in_kernel: the log-decay is -exp(A_log) softplus(g + dt_bias), or lower_bound
            sigmoid(exp(A_log) (g + dt_bias)) where ``lower_bound`` is given.
        safe_gate, disable_recompute: accepted for fla's callers; they change no result.
        lower_bound: negative; or None.
        return_intermediate_states: must be False.
        A_log: (HV,), needed by ``use_gate_in_kernel`` without ``lower_bound``.
        dt_bias: (HV K,) or None.

    Example:
        >>> import torch
        >>> from rankone.ops.fla import chunk_kda
        >>> q, k, v = (torch.randn(1, 8, 2, 4) for _ in range(3))
        >>> g = torch.nn.functional.logsigmoid(torch.randn(1, 8, 2, 4))
        >>> chunk_kda(q, k, v, g, torch.rand(1, 8, 2), use_qk_l2norm_in_kernel=True)[0].shape
        torch.Size([1, 8, 2, 4])
    """
    _refuse(cp_context=cp_context, return_intermediate_states=return_intermediate_states)
    checks.check_rank("k", k, ("batch", "time", "heads", "key_dim"))
    channels = k.shape[-1:]
    _check_gates("g", g, v, channels)
    if use_gate_in_kernel:
        if safe_gate and lower_bound is None:
            raise ValueError("lower_bound must be given when safe_gate=True")
        g = _activated_gates(g, channels, A_log, dt_bias, lower_bound)
    return _run(
        q, k, v, beta, g, scale=scale, initial_state=initial_state,
        output_final_state=output_final_state,
        use_qk_l2norm_in_kernel=use_qk_l2norm_in_kernel,
        use_beta_sigmoid_in_kernel=use_beta_sigmoid_in_kernel, allow_neg_eigval=allow_neg_eigval,
        state_v_first=state_v_first, cu_seqlens=cu_seqlens, chunk_size=chunk_size,
    )  # fmt: skip


def fused_recurrent_kda(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    A_log: Tensor | None = None,
    dt_bias: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    use_gate_in_kernel: bool = False,
    use_beta_sigmoid_in_kernel: bool = False,
    allow_neg_eigval: bool = False,
    lower_bound: float | None = None,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Kimi delta attention, token by token in fla.

    The arguments, returns and errors are those of :func:`chunk_kda`.

    Example:
        >>> import torch
        >>> from rankone.ops.fla import fused_recurrent_kda
        >>> q, k, v = (torch.randn(1, 8, 2, 4) for _ in range(3))
        >>> g = torch.nn.functional.logsigmoid(torch.randn(1, 8, 2, 4))
        >>> fused_recurrent_kda(q, k, v, g, torch.rand(1, 8, 2))[0].shape
        torch.Size([1, 8, 2, 4])
    """
    return chunk_kda(
        q, k, v, g, beta, scale=scale, initial_state=initial_state,
        output_final_state=output_final_state,
        use_qk_l2norm_in_kernel=use_qk_l2norm_in_kernel, use_gate_in_kernel=use_gate_in_kernel,
        use_beta_sigmoid_in_kernel=use_beta_sigmoid_in_kernel, allow_neg_eigval=allow_neg_eigval,
        lower_bound=lower_bound, state_v_first=state_v_first, cu_seqlens=cu_seqlens, A_log=A_log,
        dt_bias=dt_bias,
    )  # fmt: skip
