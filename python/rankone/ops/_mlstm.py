"""mLSTM, xLSTM's matrix memory with exponential gates, as one call of linear attention.

    C_t = sigmoid(f_t) C_{t-1} + exp(i_t) k_t v_t^T;   n_t = sigmoid(f_t) n_{t-1} + exp(i_t) k_t
    h_t = C_t^T q_t / max(|n_t . q_t|, 1),   q_t scaled by K^-1/2

exp(i) overflows, so the state is kept divided by exp(m_t), with the running maximum
m_t = max(logsigmoid(f_t) + m_{t-1}, i_t). Log-decay and log-weight of a token are then at most 0,
and one of the two is 0. The maximum is a max-plus scan over T * H numbers in float64; what is left
is linear attention with a scalar decay, whose last value column, of ones, gives the normaliser.
h does not depend on m (but for eps), so no gradient flows through it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from rankone.ops import _sequence, checks
from rankone.ops._linear_attention import MAX_HEAD_DIM, linear_attention, linear_attention_step


class MLSTMState(NamedTuple):
    """State of :func:`mlstm`: the memory over exp(m), float32 (float64 for float64 inputs).

    Attributes:
        C: (N, H, K, V) values summed under their keys.
        n: (N, H, K) sum of the keys.
        m: (N, H) log of the factor taken out of both; -inf where nothing was written.
    """

    C: Tensor
    n: Tensor
    m: Tensor


def mlstm(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    input_gate: Tensor,
    forget_gate: Tensor,
    *,
    initial_state: MLSTMState | tuple[Tensor, Tensor, Tensor] | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    eps: float = 1e-6,
    backend: str = "auto",
) -> tuple[Tensor, MLSTMState | None]:
    """mLSTM over whole sequences, in O(T) and with exact gradients.

    Per head, with i and f the gates' pre-activations::

        C_t = sigmoid(f_t) C_{t-1} + exp(i_t) k_t v_t^T
        n_t = sigmoid(f_t) n_{t-1} + exp(i_t) k_t
        h_t = C_t^T q_t / (max(|n_t . q_t|, 1) + eps exp(m_t)),  q_t scaled by K^-1/2

    Args:
        q: (B, T, H, K) queries; float32, float64, float16 or bfloat16; K at most 256.
        k: (B, T, H, K) keys.
        v: (B, T, H, V) values; V at most 256.
        input_gate: (B, T, H) pre-activations i; -inf writes nothing.
        forget_gate: (B, T, H) pre-activations f; +inf keeps everything, -inf forgets everything. A
            token with i = -inf and f = +inf leaves the state as it is.
        initial_state: (C, n, m) of shapes (N, H, K, V), (N, H, K) and (N, H), C and n divided by
            exp(m); None is the start of a sequence. N is B, or the number of packed sequences.
        output_final_state: also return the state after the last token.
        cu_seqlens: (N + 1,) int32 or int64 offsets of sequences packed along time, B = 1.
        eps: added to the denominator in units of exp(m). Published models were trained with 1e-6,
            which moves h by up to 5e-3 where gates are large; 0 is the definition.
        backend: as for :func:`rankone.ops.linear_attention`.

    Returns:
        h: (B, T, H, V) in the dtype of q.
        state: None, or :class:`MLSTMState`.

    Raises:
        ValueError: for wrong shapes, devices or values; the message names the argument. Values are
            read on CPU tensors, elsewhere only with ``RANKONE_CHECK_VALUES=1``.
        TypeError: for wrong dtypes (also a ``ValueError``).

    Source: "xLSTM: Extended Long Short-Term Memory", arXiv 2405.04517. Its reduction to linear
    attention was derived for this project.

    Example:
        >>> import torch
        >>> from rankone.ops import mlstm
        >>> q, k, v = torch.randn(3, 2, 100, 4, 16)
        >>> i, f = torch.randn(2, 2, 100, 4)
        >>> h, state = mlstm(q, k, v, i, f, output_final_state=True)
        >>> h.shape, state.C.shape, state.m.shape
        (torch.Size([2, 100, 4, 16]), torch.Size([2, 4, 16, 16]), torch.Size([2, 4]))
    """
    _check_arguments(q, k, v, input_gate, forget_gate, initial_state, cu_seqlens, eps)
    checks.check_flags({"output_final_state": output_final_state})
    dtype = _sequence.state_dtype(q.dtype)
    sequences = _sequence.sequence_count(q, cu_seqlens)
    before = _memory(initial_state)
    with torch.autocast(q.device.type, enabled=False):
        log_forget = functional.logsigmoid(forget_gate.double())
        log_input = input_gate.double()
        if initial_state is None:
            m_before = log_input.new_full((sequences, q.shape[2]), -math.inf)
        else:
            m_before = initial_state[2].double()
        m, m_previous, m_after = _references(log_forget, log_input, m_before, cu_seqlens, dtype)
        log_decay, weight = _decay_and_weight(log_forget, log_input, m_previous, m)
    narrow = _sequence.output_dtype(q)
    q, k, v = _operands(q, k, v, weight, narrow)

    def attend(values: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        with torch.autocast(q.device.type, enabled=False):
            out, after = linear_attention(
                q,
                k,
                values,
                log_decay=log_decay.to(dtype),
                initial_state=state,
                output_final_state=output_final_state,
                cu_seqlens=cu_seqlens,
                backend=backend,
            )
        assert after is None or isinstance(after, Tensor)
        return out, after

    ones = torch.ones_like(v[..., :1])
    if v.shape[-1] < MAX_HEAD_DIM:
        out, memory = attend(torch.cat([v, ones], dim=-1), before)
        numerator, normalizer = out[..., :-1], out[..., -1:]
    else:
        numerator, memory = attend(v, None if before is None else before[..., :-1])
        normalizer, sums = attend(ones, None if before is None else before[..., -1:])
        memory = None if memory is None or sums is None else torch.cat([memory, sums], dim=-1)
    h = _quotient(numerator, normalizer, m, eps).to(narrow)
    if memory is None:
        return h, None
    return h, MLSTMState(memory[..., :-1], memory[..., -1], m_after)


def mlstm_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    input_gate: Tensor,
    forget_gate: Tensor,
    state: MLSTMState | tuple[Tensor, Tensor, Tensor] | None = None,
    *,
    eps: float = 1e-6,
) -> tuple[Tensor, MLSTMState]:
    """One token of :func:`mlstm` for every sequence of a batch, in O(K V).

    Args:
        q: (B, H, K) queries of the token; dtypes and limits as for :func:`mlstm`.
        k: (B, H, K) keys.
        v: (B, H, V) values.
        input_gate: (B, H) pre-activations.
        forget_gate: (B, H) pre-activations.
        state: (C, n, m) before the token, or None at the start; it is not modified.
        eps: as for :func:`mlstm`.

    Returns:
        h: (B, H, V) in the dtype of q.
        state: the new :class:`MLSTMState`.

    Raises:
        ValueError, TypeError: as :func:`mlstm`.

    Source: arXiv 2405.04517.

    Example:
        >>> import torch
        >>> from rankone.ops import mlstm_step
        >>> state = None
        >>> for _ in range(3):
        ...     q, k, v = torch.randn(3, 2, 4, 16)
        ...     h, state = mlstm_step(q, k, v, torch.zeros(2, 4), torch.zeros(2, 4), state)
        >>> h.shape
        torch.Size([2, 4, 16])
    """
    checks.check_rank("q", q, ("batch", "heads", "key_dim"))
    checks.check_rank("k", k, ("batch", "heads", "key_dim"))
    checks.check_rank("v", v, ("batch", "heads", "value_dim"))
    checks.check_rank("input_gate", input_gate, ("batch", "heads"))
    checks.check_rank("forget_gate", forget_gate, ("batch", "heads"))
    one, two, three, i, f = (part[:, None] for part in (q, k, v, input_gate, forget_gate))
    _check_arguments(one, two, three, i, f, state, None, eps, state_name="state")
    dtype = _sequence.state_dtype(q.dtype)
    with torch.autocast(q.device.type, enabled=False):
        log_forget = functional.logsigmoid(forget_gate.double())
        log_input = input_gate.double()
        if state is None:
            m_previous = torch.full_like(log_input, -math.inf)
        else:
            m_previous = state[2].double()
        m = torch.maximum(log_forget + m_previous, log_input).detach()
        m_after = _rounded_up(m, dtype)
        log_decay, weight = _decay_and_weight(log_forget, log_input, m_previous, m_after.double())
    narrow = _sequence.output_dtype(q)
    q, k, v = _operands(q, k, v, weight, narrow)
    log_decay = log_decay.to(dtype)
    memory = _memory(state)
    ones = torch.ones_like(v[..., :1])

    def attend(values: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        with torch.autocast(q.device.type, enabled=False):
            out, after = linear_attention_step(q, k, values, state, log_decay)
        assert isinstance(after, Tensor)
        return out, after

    if v.shape[-1] < MAX_HEAD_DIM:
        out, new = attend(torch.cat([v, ones], dim=-1), memory)
        numerator, normalizer = out[..., :-1], out[..., -1:]
    else:
        numerator, C = attend(v, None if memory is None else memory[..., :-1])
        normalizer, n = attend(ones, None if memory is None else memory[..., -1:])
        new = torch.cat([C, n], dim=-1)
    h = _quotient(numerator, normalizer, m_after.double(), eps).to(narrow)
    return h, MLSTMState(new[..., :-1], new[..., -1], m_after)


def _memory(state: tuple[Tensor, Tensor, Tensor] | None) -> Tensor | None:
    """C with n as one more value column."""
    if state is None:
        return None
    C, n, _ = state
    wide = torch.promote_types(C.dtype, n.dtype)
    return torch.cat([C.to(wide), n.to(wide)[..., None]], dim=-1)


def _references(
    log_forget: Tensor,
    log_input: Tensor,
    m_before: Tensor,
    cu_seqlens: Tensor | None,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """m of every token, m of the token before it, and m after every sequence in ``dtype``.

    The last is rounded up, and the last token's m is that rounded number, so that a state which is
    handed on in float32 loses nothing however large m is. Only ``m_before`` carries gradients: as
    part of a given state it is a number like the others.
    """
    decays, candidates = log_forget.detach().clone(), log_input.detach().clone()
    start = m_before.detach()
    batch, time = decays.shape[:2]
    if cu_seqlens is None:
        sequences = torch.arange(batch, device=decays.device)
        rows, firsts = sequences, torch.zeros_like(sequences)
        lasts = firsts + time - 1
        present = sequences if time > 0 else sequences[:0]
    else:
        if not torch.compiler.is_compiling():
            checks.check_cu_seqlens_values(cu_seqlens, time)
        offsets = cu_seqlens.to(device=decays.device, dtype=torch.int64)
        present = (offsets.diff() > 0).nonzero().squeeze(1)
        firsts, lasts = offsets[:-1], offsets[1:] - 1
        rows = torch.zeros_like(firsts)
    rows, firsts, lasts = rows[present], firsts[present], lasts[present]
    first, last = (rows, firsts), (rows, lasts)
    candidates[first] = torch.maximum(decays[first] + start[present], candidates[first])
    decays[first] = -math.inf
    m = _running_maximum(decays, candidates)
    ends = _rounded_up(m[last], dtype)
    m[last] = ends.double()
    m_after = start.to(dtype).index_put((present,), ends)
    m_previous = torch.cat([m[:, :1], m[:, :-1]], dim=1)
    m_previous = m_previous.index_put(first, m_before[present])
    return m, m_previous, m_after


def _running_maximum(decays: Tensor, candidates: Tensor) -> Tensor:
    """m_t = max(decays_t + m_{t-1}, candidates_t) from nothing, over axis 1.

    The two are an associative pair; neighbours are combined, the half as long sequence is scanned,
    and the places between are filled in: O(T) work, and sums over a tree.
    """
    time = candidates.shape[1]
    if time < 2:
        return candidates
    whole = time - time % 2
    second = decays[:, 1:whole:2]
    pairs = torch.maximum(candidates[:, 0:whole:2] + second, candidates[:, 1:whole:2])
    at_odd = _running_maximum(decays[:, 0:whole:2] + second, pairs)
    m = candidates.clone()
    m[:, 1::2] = at_odd
    between = candidates[:, 2::2]
    m[:, 2::2] = torch.maximum(at_odd[:, : between.shape[1]] + decays[:, 2::2], between)
    return m


def _rounded_up(m: Tensor, dtype: torch.dtype) -> Tensor:
    rounded = m.to(dtype)
    above = torch.nextafter(rounded, torch.full_like(rounded, math.inf))
    return torch.where(rounded.double() < m, above, rounded)


def _decay_and_weight(
    log_forget: Tensor, log_input: Tensor, m_previous: Tensor, m: Tensor
) -> tuple[Tensor, Tensor]:
    """Log-decay logsigmoid(f) + m_{t-1} - m_t and weight exp(i - m_t), where m may be -inf."""
    empty = m_previous == -math.inf
    nothing = m == -math.inf
    change = torch.where(empty | nothing, 0.0, m_previous - m)
    log_decay = log_forget + change
    # The scan's rounding may leave 1e-16 |m| above 0; taken off as a constant, for the gradient.
    log_decay = log_decay - log_decay.detach().clamp(min=0.0)
    log_decay = torch.where(empty, 0.0, log_decay)
    weight = torch.exp(log_input - torch.where(nothing, 0.0, m))
    return log_decay, weight


def _operands(
    q: Tensor, k: Tensor, v: Tensor, weight: Tensor, narrow: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """q, weighted k and v as the kernel reads them: in the output's dtype.

    The sums n . q and C^T q before their quotient grow with the length, beyond float16, which is
    read as float32.
    """
    dtype = torch.float32 if narrow == torch.float16 else narrow
    with torch.autocast(q.device.type, enabled=False):
        wide = _sequence.state_dtype(dtype)
        return q.to(dtype), (k.to(wide) * weight.to(wide)[..., None]).to(dtype), v.to(dtype)


def _quotient(numerator: Tensor, normalizer: Tensor, m: Tensor, eps: float) -> Tensor:
    dtype = _sequence.state_dtype(numerator.dtype)
    floor = torch.exp(-m).to(dtype)[..., None]
    denominator = torch.maximum(normalizer.to(dtype).abs(), floor) + eps
    return (numerator.to(dtype) / denominator).to(numerator.dtype)


def _check_arguments(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    input_gate: Tensor,
    forget_gate: Tensor,
    state: tuple[Tensor, Tensor, Tensor] | None,
    cu_seqlens: Tensor | None,
    eps: float,
    *,
    state_name: str = "initial_state",
) -> None:
    checks.check_rank("q", q, ("batch", "time", "heads", "key_dim"))
    checks.check_rank("k", k, ("batch", "time", "heads", "key_dim"))
    checks.check_rank("v", v, ("batch", "time", "heads", "value_dim"))
    checks.check_same_dtype({"q": q, "k": k, "v": v})
    batch, time, heads, key_dim = q.shape
    value_dim = v.shape[-1]
    checks.check_head_dim("q", key_dim, MAX_HEAD_DIM)
    checks.check_head_dim("v", value_dim, MAX_HEAD_DIM)
    checks.check_shape("k", k, (batch, time, heads, key_dim), "that of q")
    checks.check_shape(
        "v", v, (batch, time, heads, value_dim), "batch, time and heads as in q, value_dim"
    )
    for name, gate in (("input_gate", input_gate), ("forget_gate", forget_gate)):
        checks.check_shape(name, gate, (batch, time, heads), "batch, time and heads as in q")
        checks.check_floating(name, gate)
    if not (math.isfinite(eps) and eps >= 0):
        raise ValueError(f"eps must be finite and at least 0, got {eps}")
    if cu_seqlens is not None:
        checks.check_cu_seqlens(cu_seqlens, batch)
    tensors = {"q": q, "k": k, "v": v, "input_gate": input_gate, "forget_gate": forget_gate}
    if state is not None:
        sequences = _sequence.sequence_count(q, cu_seqlens)
        parts = check_state_tuple(
            state_name,
            state,
            ("C", "n", "m"),
            (
                (sequences, heads, key_dim, value_dim),
                (sequences, heads, key_dim),
                (sequences, heads),
            ),
            ("sequences, heads, key_dim, value_dim", "sequences, heads, key_dim",
             "sequences, heads"),
        )  # fmt: skip
        tensors.update(parts)
    checks.check_same_device({**tensors, "cu_seqlens": cu_seqlens})
    if not torch.compiler.is_compiling():
        _check_gate_values("input_gate", input_gate, infinite=-math.inf)
        _check_gate_values("forget_gate", forget_gate, infinite=math.inf)


def check_state_tuple(
    name: str,
    state: object,
    fields: tuple[str, ...],
    shapes: tuple[tuple[int, ...], ...],
    layouts: tuple[str, ...],
) -> dict[str, Tensor]:
    """Require a tuple of floating tensors of these shapes; gives them by name."""
    if not isinstance(state, tuple) or len(state) != len(fields):
        got = f"{len(state)} entries" if isinstance(state, tuple) else type(state).__name__
        raise TypeError(f"{name} must be a tuple ({', '.join(fields)}), got {got}")
    for field, part, shape, layout in zip(fields, state, shapes, layouts, strict=True):
        checks.check_shape(f"{name}.{field}", part, shape, layout)
        checks.check_floating(f"{name}.{field}", part)
    return {f"{name}.{field}": part for field, part in zip(fields, state, strict=True)}


def _check_gate_values(name: str, gate: Tensor, *, infinite: float) -> None:
    """Forbid NaN, and +inf of the input gate."""
    if not checks.values_checked(gate) or gate.numel() == 0:
        return
    largest = gate.detach().amax().item()  # amax passes NaN on
    if math.isnan(largest):
        raise ValueError(f"{name} must not be NaN, got nan")
    if largest == math.inf != infinite:
        raise ValueError(f"{name} must be below +inf, got inf")
