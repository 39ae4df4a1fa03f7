"""fla's functions of linear attention, over :func:`rankone.ops.linear_attention`."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rankone.ops import _linear_attention as family
from rankone.ops.checks import check_rank
from rankone.ops.decay import decay_slopes

__all__ = [
    "chunk_gla",
    "chunk_lightning_attn",
    "chunk_linear_attn",
    "chunk_simple_gla",
    "fused_recurrent_gla",
    "fused_recurrent_lightning_attn",
    "fused_recurrent_linear_attn",
    "fused_recurrent_simple_gla",
]

_EPS = 1e-10


def _run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None = None,
    *,
    scale: float | None,
    initial_state: family.State,
    output_final_state: bool,
    cu_seqlens: Tensor | None,
    reverse: bool = False,
    state_v_first: bool = False,
    normalize: bool = False,
    chunk_size: int | None = None,
) -> tuple[Tensor, Any]:
    """Call linear_attention in fla's conventions; ``reverse`` runs every sequence from its end."""
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        check_rank(name, tensor, ("batch", "time", "heads", "dim"))
    if reverse:
        q, k, v = q.flip(1), k.flip(1), v.flip(1)
        if log_decay is not None and log_decay.ndim > 1:
            log_decay = log_decay.flip(1)
        if cu_seqlens is not None:
            cu_seqlens = q.shape[1] - cu_seqlens.flip(0)
            initial_state = _each(initial_state, lambda state: state.flip(0))
    if normalize and isinstance(initial_state, tuple):
        values, normalizer = initial_state
        if normalizer.ndim != 4 or normalizer.shape[1] != 1:
            raise ValueError(
                "initial_state[1] must have shape (sequences, 1, heads, key_dim), "
                f"got {tuple(normalizer.shape)}"
            )
        initial_state = (values, normalizer[:, 0])
    elif state_v_first:
        initial_state = _each(initial_state, lambda state: state.transpose(-1, -2))
    if scale is None:
        scale = q.shape[-1] ** -0.5
    # fla divides scale * (q S) by scale * (q z) + eps.
    output, final_state = family.linear_attention(
        q, k, v, log_decay, scale=scale, initial_state=initial_state,
        output_final_state=output_final_state, normalize=normalize,
        eps=_EPS / scale if normalize else _EPS, cu_seqlens=cu_seqlens, chunk_size=chunk_size,
    )  # fmt: skip
    if isinstance(final_state, tuple):
        final_state = (final_state[0], final_state[1][:, None])
    elif state_v_first:
        final_state = _each(final_state, lambda state: state.transpose(-1, -2).contiguous())
    if reverse:
        output = output.flip(1)
        if cu_seqlens is not None:
            final_state = _each(final_state, lambda state: state.flip(0))
    return output, final_state


def _each(state: family.State, change) -> family.State:
    if state is None:
        return None
    return tuple(map(change, state)) if isinstance(state, tuple) else change(state)


def _simple_decay(g: Tensor | None, g_gamma: Tensor | None) -> Tensor | None:
    if g is not None and g_gamma is not None:
        raise ValueError("g and g_gamma cannot both be given")
    if g is not None:
        check_rank("g", g, ("batch", "time", "heads"))
    if g_gamma is not None:
        check_rank("g_gamma", g_gamma, ("heads",))
    return g if g is not None else g_gamma


def _channel_decay(name: str, gate: Tensor | None) -> Tensor | None:
    if gate is not None:
        check_rank(name, gate, ("batch", "time", "heads", "key_dim"))
    return gate


def _lightning_decay(k: Tensor, layer_idx: int, num_layers: int) -> Tensor:
    check_rank("k", k, ("batch", "time", "heads", "dim"))
    return decay_slopes(k.shape[2], layer_idx, num_layers, kind="linear").to(k.device)


def chunk_linear_attn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    initial_state: family.State = None,
    output_final_state: bool = False,
    normalize: bool = True,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, family.State]:
    """Linear attention without decay, normalised by default.

    Args:
        q: (B, T, H, K), H a multiple of Hk.
        k: (B, T, Hk, K).
        v: (B, T, Hk, V).
        scale: None means K ** -0.5.
        initial_state: (N, Hk, K, V), or (S, z) with z (N, 1, Hk, K) under ``normalize``.
        output_final_state: also return the final state, shaped as ``initial_state``.
        normalize: divide by scale * q . z + 1e-10.
        cu_seqlens: (N + 1,) offsets of packed sequences, B = 1.

    Returns:
        o (B, T, H, V) and the final state or None.

    Raises:
        ValueError: naming the argument, as :func:`rankone.ops.linear_attention`.

    Example:
        >>> import torch
        >>> from rankone.ops.fla import chunk_linear_attn
        >>> q, k, v = (torch.rand(1, 8, 2, 4) for _ in range(3))
        >>> o, (state, z) = chunk_linear_attn(q, k, v, output_final_state=True)
        >>> z.shape
        torch.Size([1, 1, 2, 4])
    """
    return _run(
        q, k, v, scale=scale, initial_state=initial_state,
        output_final_state=output_final_state, normalize=normalize, cu_seqlens=cu_seqlens,
    )  # fmt: skip


def fused_recurrent_linear_attn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    initial_state: family.State = None,
    output_final_state: bool = False,
    reverse: bool = False,
    normalize: bool = False,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, family.State]:
    """Linear attention without decay, not normalised by default.

    The other arguments, returns and errors are those of :func:`chunk_linear_attn`.

    Args:
        reverse: run every sequence from its end to its start.

    Example:
        >>> import torch
        >>> from rankone.ops.fla import fused_recurrent_linear_attn
        >>> ones = torch.ones(1, 3, 1, 1)
        >>> o, _ = fused_recurrent_linear_attn(ones, ones, ones, reverse=True)
        >>> o.flatten().tolist()
        [3.0, 2.0, 1.0]
    """
    return _run(
        q, k, v, scale=scale, initial_state=initial_state, output_final_state=output_final_state,
        normalize=normalize, cu_seqlens=cu_seqlens, reverse=reverse,
    )  # fmt: skip


def chunk_simple_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    g_gamma: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
    *,
    chunk_size: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Linear attention with one decay a head: ``g`` per token or ``g_gamma`` constant.

    Args:
        q: (B, T, H, K), H a multiple of Hk.
        k: (B, T, Hk, K).
        v: (B, T, Hk, V).
        g: (B, T, Hk) log-decays, at most 0; or None.
        g_gamma: (Hk,) log-decays, at most 0; or None. Only one of the two may be given.
        scale: None means K ** -0.5.
        initial_state: (N, Hk, K, V), or (N, Hk, V, K) with ``state_v_first``.
        output_final_state: also return the final state, shaped as ``initial_state``.
        state_v_first: states are (N, Hk, V, K).
        cu_seqlens: (N + 1,) offsets of packed sequences, B = 1.
        cu_seqlens_cpu: accepted for fla's callers; ``cu_seqlens`` alone is read.
        chunk_size: as in :func:`rankone.ops.linear_attention`.

    Returns:
        o (B, T, H, V) and the final state or None.

    Raises:
        ValueError: naming the argument, as :func:`rankone.ops.linear_attention`.

    Example:
        >>> import torch
        >>> from rankone.ops.fla import chunk_simple_gla
        >>> ones = torch.ones(1, 3, 1, 1)
        >>> o, _ = chunk_simple_gla(ones, ones, ones, g_gamma=torch.tensor([0.5]).log())
        >>> o.flatten().tolist()
        [1.0, 1.5, 1.75]
    """
    return _run(
        q, k, v, _simple_decay(g, g_gamma), scale=scale, initial_state=initial_state,
        output_final_state=output_final_state, state_v_first=state_v_first,
        cu_seqlens=cu_seqlens, chunk_size=chunk_size,
    )  # fmt: skip


def fused_recurrent_simple_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    g_gamma: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    reverse: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Linear attention with one decay a head, token by token in fla.

    The other arguments, returns and errors are those of :func:`chunk_simple_gla`.

    Args:
        reverse: run every sequence from its end to its start.

    Example:
        >>> import torch
        >>> from rankone.ops.fla import fused_recurrent_simple_gla
        >>> q, k, v = (torch.randn(1, 8, 2, 4) for _ in range(3))
        >>> g = torch.nn.functional.logsigmoid(torch.randn(1, 8, 2))
        >>> fused_recurrent_simple_gla(q, k, v, g)[0].shape
        torch.Size([1, 8, 2, 4])
    """
    return _run(
        q, k, v, _simple_decay(g, g_gamma), scale=scale, initial_state=initial_state,
        output_final_state=output_final_state, reverse=reverse, state_v_first=state_v_first,
        cu_seqlens=cu_seqlens,
    )  # fmt: skip


def chunk_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Gated linear attention: one decay a token and key channel.

    The other arguments, returns and errors are those of :func:`chunk_simple_gla`.

    Args:
        g: (B, T, Hk, K) log-decays, at most 0.

    Example:
        >>> import torch
        >>> from rankone.ops.fla import chunk_gla
        >>> q, k, v = (torch.randn(1, 8, 2, 4) for _ in range(3))
        >>> g = torch.nn.functional.logsigmoid(torch.randn(1, 8, 2, 4))
        >>> chunk_gla(q, k, v, g)[0].shape
        torch.Size([1, 8, 2, 4])
    """
    return _run(
        q, k, v, _channel_decay("g", g), scale=scale, initial_state=initial_state,
        output_final_state=output_final_state, state_v_first=state_v_first,
        cu_seqlens=cu_seqlens,
    )  # fmt: skip


def fused_recurrent_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gk: Tensor | None = None,
    gv: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    reverse: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Gated linear attention, token by token in fla.

    The other arguments, returns and errors are those of :func:`chunk_gla`.

    Args:
        gk: (B, T, Hk, K) log-decays, at most 0; or None.
        gv: must be None: gates on the value channels are not a form of the op.
        reverse: run every sequence from its end to its start.

    Example:
        >>> import torch
        >>> from rankone.ops.fla import fused_recurrent_gla
        >>> q, k, v = (torch.randn(1, 8, 2, 4) for _ in range(3))
        >>> gk = torch.nn.functional.logsigmoid(torch.randn(1, 8, 2, 4))
        >>> fused_recurrent_gla(q, k, v, gk)[0].shape
        torch.Size([1, 8, 2, 4])
    """
    if gv is not None:
        raise ValueError("gv must be None: rankone has decays on key channels only")
    return _run(
        q, k, v, _channel_decay("gk", gk), scale=scale, initial_state=initial_state,
        output_final_state=output_final_state, reverse=reverse, state_v_first=state_v_first,
        cu_seqlens=cu_seqlens,
    )  # fmt: skip


def chunk_lightning_attn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layer_idx: int,
    num_layers: int,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    *,
    chunk_size: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Lightning attention: the fixed decays ``decay_slopes(kind="linear")`` of a layer.

    The other arguments, returns and errors are those of :func:`chunk_simple_gla`.

    Args:
        layer_idx: index of the layer, from 0.
        num_layers: number of layers of the model.

    Example:
        >>> import torch
        >>> from rankone.ops.fla import chunk_lightning_attn
        >>> q, k, v = (torch.randn(1, 8, 2, 4) for _ in range(3))
        >>> chunk_lightning_attn(q, k, v, layer_idx=0, num_layers=12)[0].shape
        torch.Size([1, 8, 2, 4])
    """
    return _run(
        q, k, v, _lightning_decay(k, layer_idx, num_layers), scale=scale,
        initial_state=initial_state, output_final_state=output_final_state,
        cu_seqlens=cu_seqlens, chunk_size=chunk_size,
    )  # fmt: skip


def fused_recurrent_lightning_attn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layer_idx: int,
    num_layers: int,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Lightning attention, token by token in fla.

    The other arguments, returns and errors are those of :func:`chunk_lightning_attn`.

    Args:
        reverse: run every sequence from its end to its start.

    Example:
        >>> import torch
        >>> from rankone.ops.fla import fused_recurrent_lightning_attn
        >>> q, k, v = (torch.randn(1, 8, 2, 4) for _ in range(3))
        >>> fused_recurrent_lightning_attn(q, k, v, layer_idx=0, num_layers=12)[0].shape
        torch.Size([1, 8, 2, 4])
    """
    return _run(
        q, k, v, _lightning_decay(k, layer_idx, num_layers), scale=scale,
        initial_state=initial_state, output_final_state=output_final_state, reverse=reverse,
        cu_seqlens=cu_seqlens,
    )  # fmt: skip
