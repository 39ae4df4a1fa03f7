"""What Liger puts between the projections of an attention layer and its output map.

    o_t = alpha GRM_t + beta SWA_t
    GRM: S_t = G_t S_{t-1} + phi(k_t)^T v_t;  phi(q_t) S_t     (before rotary positions)
    SWA: softmax attention over the last ``window`` tokens      (rotated)

phi is the softmax over a head's channels; the recurrence has no denominator, no norm and no scale,
and its gate G is read off the keys (``liger_gates.py``). Keys, values and gates stay at their own
number of heads: the state is one matrix a key-value head. Reading costs O(time), a token O(1).

Source: "Liger: Linearizing Large Language Models to Gated Recurrent Structures", arXiv 2503.01496.
The grouped state, the handling of padding and the state of the window are this project's own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor

from rankone.nn.liger_gates import check_real, check_structure, liger_gate
from rankone.nn.packing import padded_rows
from rankone.nn.window_attention import (
    banded_attention,
    causal_attention,
    check_window,
    masked_attention,
    real_with_past,
    ring_after,
    ring_positions,
    with_past,
    write_ring,
)
from rankone.ops import linear_attention, linear_attention_step
from rankone.ops.checks import check_shape


@dataclass(frozen=True)
class LigerOptions:
    """What a Liger layer adds to its projections.

    Attributes:
        structure: gate and key feature, as :func:`rankone.nn.convert.liger_gate`.
        window: tokens that the softmax sees, a token's own included.
        alpha: weight of the recurrence.
        beta: weight of the window.
        gate_normalizer, lower_bound: of the gate.

    Raises:
        ValueError: for an unknown structure or ``"gsa"``, a window below 1, alpha = beta = 0, or
            values out of range.
        TypeError: for a window that is no integer, or other options that are no numbers.
    """

    structure: str = "gla"
    window: int = 64
    alpha: float = 0.5
    beta: float = 0.5
    gate_normalizer: float = 16.0
    lower_bound: float = 0.0

    def __post_init__(self) -> None:
        check_structure(self.structure, self.gate_normalizer, self.lower_bound)
        check_window("window", self.window)
        for name in ("alpha", "beta"):
            check_real(name, getattr(self, name))
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} must be finite, got {getattr(self, name)}")
        if self.alpha == 0 and self.beta == 0:
            raise ValueError("alpha and beta must not both be 0")


class HasLigerOptions:
    """Options of a layer, readable one by one."""

    liger: LigerOptions

    @property
    def structure(self) -> str:
        """Gate and key feature."""
        return self.liger.structure

    @property
    def window(self) -> int:
        """Tokens that the softmax sees, a token's own included."""
        return self.liger.window

    @property
    def alpha(self) -> float:
        """Weight of the recurrence."""
        return self.liger.alpha

    @property
    def beta(self) -> float:
        """Weight of the window."""
        return self.liger.beta

    @property
    def gate_normalizer(self) -> float:
        """Divisor of the log-gates; see :func:`rankone.nn.convert.liger_gate`."""
        return self.liger.gate_normalizer

    @property
    def lower_bound(self) -> float:
        """Lower bound of the gate; see :func:`rankone.nn.convert.liger_gate`."""
        return self.liger.lower_bound


class LigerState(NamedTuple):
    """The state of a Liger layer; its size does not depend on how much was read.

    Attributes:
        recurrent: (sequences, num_kv_heads, head_dim, head_dim), float32 (float64 for a float64
            layer).
        keys: (sequences, window, num_kv_heads, head_dim), rotated; position p in slot p mod window.
        values: (sequences, window, num_kv_heads, head_dim).
        length: (sequences,) int64, number of tokens read.
    """

    recurrent: Tensor
    keys: Tensor
    values: Tensor
    length: Tensor

    @staticmethod
    def zeros(
        batch_size: int,
        num_kv_heads: int,
        head_dim: int,
        window: int,
        *,
        device: torch.device | str | None,
        dtype: torch.dtype,
    ) -> LigerState:
        """The state before the first token; ``dtype`` is that of the window."""
        shape = (batch_size, window, num_kv_heads, head_dim)
        entries = torch.zeros(shape, device=device, dtype=dtype)
        shape = (batch_size, num_kv_heads, head_dim, head_dim)
        recurrent = torch.zeros(shape, device=device, dtype=_wide(dtype))
        length = torch.zeros((batch_size,), device=device, dtype=torch.int64)
        return LigerState(recurrent, entries, entries, length)


def check_liger_state(
    state: object, sequences: int, num_kv_heads: int, head_dim: int, window: int
) -> None:
    """Require a :class:`LigerState` of these sizes, or None."""
    if state is None:
        return
    if not isinstance(state, tuple) or len(state) != len(LigerState._fields):
        raise TypeError(
            "state must be a LigerState (recurrent, keys, values, length), "
            f"got {type(state).__name__}"
        )
    recurrent, keys, values, length = state
    shape: tuple[int, ...] = (sequences, num_kv_heads, head_dim, head_dim)
    check_shape("state.recurrent", recurrent, shape, "sequences, kv heads, key dim, value dim")
    shape = (sequences, window, num_kv_heads, head_dim)
    check_shape("state.keys", keys, shape, "sequences, window, kv heads, head dim")
    check_shape("state.values", values, shape, "sequences, window, kv heads, head dim")
    check_shape("state.length", length, (sequences,), "sequences")


class Projected(NamedTuple):
    """Projections of (batch, time) tokens, norms applied, before and after rotary positions.

    Attributes:
        q, rotated_q: (batch, time, num_heads, head_dim).
        k, v, rotated_k: (batch, time, num_kv_heads, head_dim).
    """

    q: Tensor
    k: Tensor
    v: Tensor
    rotated_q: Tensor
    rotated_k: Tensor

    def at(self, order: Tensor) -> Projected:
        """Tokens in another (batch, time) order."""
        index = order[..., None, None]
        return Projected(*(part.take_along_dim(index, dim=1) for part in self))


def liger_heads(
    tokens: Projected,
    options: LigerOptions,
    *,
    scale: float,
    mask: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    state: LigerState | None = None,
    return_state: bool = False,
) -> tuple[Tensor, LigerState | None]:
    """Heads before the output map, and the state after the last token.

    Args:
        tokens: projections of the tokens.
        options: gate, window and weights.
        scale: of the window's scores.
        mask: (batch, time) bool, False on padding, which is left out of recurrence and window.
        cu_seqlens: starts of packed sequences instead; batch is 1.
        state: after the tokens before, one entry of its first axis a sequence.
        return_state: whether the state is wanted.

    Returns:
        (batch, time, num_heads, head_dim) in the dtype of the projections, and the state or None.
    """
    if cu_seqlens is not None:
        rows = [padded_rows(part, cu_seqlens) for part in tokens]
        _, mask, row, column = rows[0]
        tokens = Projected(*(padded for padded, *_ in rows))
        o, state = _compacted(tokens, options, scale, mask, state, return_state)
        return o[row, column][None], state
    if tokens.q.shape[1] == 1 and state is not None:
        return _one_token(tokens, options, scale, mask, state)
    if mask is None:
        return _compacted(tokens, options, scale, None, state, return_state)
    # Tokens to the left in their order, padding to the right: places are consecutive.
    order = torch.argsort((~mask).to(torch.int8), dim=1, stable=True)
    mask = mask.take_along_dim(order, dim=1)
    o, state = _compacted(tokens.at(order), options, scale, mask, state, return_state)
    return o.take_along_dim(order.argsort(dim=1)[..., None, None], dim=1), state


def _compacted(
    tokens: Projected,
    options: LigerOptions,
    scale: float,
    mask: Tensor | None,
    state: LigerState | None,
    return_state: bool,
) -> tuple[Tensor, LigerState | None]:
    """:func:`liger_heads` of tokens whose padding, where ``mask`` is False, stands right."""
    batch, time = tokens.q.shape[:2]
    recurred = recurrent = windowed = None
    if options.alpha or return_state:
        recurred, recurrent = _recur(tokens, options, mask, state, return_state)
    q, keys, values = tokens.rotated_q, tokens.rotated_k, tokens.v
    if state is None and not return_state and options.window >= time:
        windowed = causal_attention(q, keys, values, scale=scale) if options.beta else None
        return _blend(recurred, windowed, options, q.dtype), None
    start = q.new_zeros(batch, dtype=torch.int64) if state is None else state.length
    keys = with_past(None if state is None else state.keys, start, options.window, keys)
    values = with_past(None if state is None else state.values, start, options.window, values)
    if options.beta:
        real = real_with_past(start, options.window, time)
        windowed = banded_attention(q, keys, values, real, options.window, scale=scale)
    o = _blend(recurred, windowed, options, q.dtype)
    if not return_state:
        return o, None
    length = start + (time if mask is None else mask.sum(1))
    return o, LigerState(
        cast(Tensor, recurrent),
        ring_after(keys, start, length, options.window),
        ring_after(values, start, length, options.window),
        length,
    )


def _one_token(
    tokens: Projected,
    options: LigerOptions,
    scale: float,
    mask: Tensor | None,
    state: LigerState,
) -> tuple[Tensor, LigerState]:
    """:func:`liger_heads` of one token a sequence after ``state``."""
    queries, features, written, log_decay = _recurrence_inputs(tokens, options)
    recurred, recurrent = linear_attention_step(
        queries[:, 0],
        features[:, 0],
        written[:, 0],
        state.recurrent,
        None if log_decay is None else log_decay[:, 0],
        scale=1.0,
    )
    dtype = tokens.v.dtype
    keys = write_ring(state.keys.to(dtype), state.length, tokens.rotated_k)
    values = write_ring(state.values.to(dtype), state.length, tokens.v)
    length = state.length + 1
    windowed = None
    if options.beta:
        visible = (ring_positions(length, options.window) >= 0)[:, None, None]
        windowed = masked_attention(tokens.rotated_q, keys, values, visible, scale=scale)
    o = _blend(recurred[:, None], windowed, options, tokens.q.dtype)
    after = LigerState(cast(Tensor, recurrent), keys, values, length)
    if mask is not None:
        token = mask[:, 0]
        after = LigerState(
            *(
                torch.where(token[(...,) + (None,) * (new.ndim - 1)], new, old.to(new.dtype))
                for new, old in zip(after, state, strict=True)
            )
        )
    return o, after


def _recur(
    tokens: Projected,
    options: LigerOptions,
    mask: Tensor | None,
    state: LigerState | None,
    return_state: bool,
) -> tuple[Tensor, Tensor | None]:
    queries, features, written, log_decay = _recurrence_inputs(tokens, options)
    if mask is not None:
        padding = ~mask[..., None, None]
        features = features.masked_fill(padding, 0)
        written = written.masked_fill(padding, 0)
        if log_decay is not None:
            padding = padding if log_decay.ndim == 4 else padding[..., 0]
            log_decay = log_decay.masked_fill(padding, 0)
    o, recurrent = linear_attention(
        queries,
        features,
        written,
        log_decay,
        scale=1.0,
        initial_state=None if state is None else state.recurrent,
        output_final_state=return_state,
    )
    return o, cast("Tensor | None", recurrent)


def _recurrence_inputs(
    tokens: Projected, options: LigerOptions
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """phi(q), features of k, v and the log-decay, in float32 or wider."""
    log_decay, features = liger_gate(
        tokens.k,
        options.structure,
        gate_normalizer=options.gate_normalizer,
        lower_bound=options.lower_bound,
    )
    wide = features.dtype
    return tokens.q.to(wide).softmax(-1), features, tokens.v.to(wide), log_decay


def _blend(
    recurred: Tensor | None, windowed: Tensor | None, options: LigerOptions, dtype: torch.dtype
) -> Tensor:
    """alpha * recurrence + beta * window, summed in float32 or wider and cast once."""
    parts = [
        weight * part.to(_wide(part.dtype))
        for weight, part in ((options.alpha, recurred), (options.beta, windowed))
        if weight and part is not None
    ]
    return sum(parts[1:], start=parts[0]).to(dtype)


def _wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype of gates, sums and states: float32, or float64 if ``dtype`` is that."""
    return torch.promote_types(dtype, torch.float32)
