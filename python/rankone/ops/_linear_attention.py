"""Causal linear attention with decay: arguments, the three custom ops, and the public functions.

``rankone::linear_attention_fwd`` and ``_bwd`` work on a state whose value columns may end in a
column of ones (``ones_column``): its outputs are the normaliser q . z, and the quotient is taken,
and differentiated, outside. ``rankone::linear_attention_step`` advances every sequence by one
token.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rankone.ops import _library, _sequence, checks
from rankone.ops import _linear_attention_chunked as composite
from rankone.ops._sequence import output_dtype, state_dtype

MAX_HEAD_DIM = 256
CHUNK_SIZES = (16, 32, 64, 128)

State = Tensor | tuple[Tensor, Tensor] | None


def join_state(state: State) -> Tensor | None:
    """(S, z) as one tensor with z as the last value column; S alone as it is."""
    if isinstance(state, tuple):
        values, normalizer = state
        dtype = torch.promote_types(values.dtype, normalizer.dtype)
        return torch.cat([values.to(dtype), normalizer.to(dtype)[..., None]], dim=-1)
    return state


def split_state(state: Tensor, normalize: bool) -> State:
    """The inverse of :func:`join_state`."""
    return (state[..., :-1], state[..., -1]) if normalize else state


def check_arguments(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    initial_state: State,
    output_final_state: bool,
    normalize: bool,
    causal: bool,
    cu_seqlens: Tensor | None,
    chunk_size: int | None,
    backend: str,
) -> None:
    """Everything about the arguments that does not need their values; raises as documented."""
    checks.check_rank("q", q, ("batch", "time", "heads", "key_dim"))
    checks.check_rank("k", k, ("batch", "time", "kv_heads", "key_dim"))
    checks.check_rank("v", v, ("batch", "time", "kv_heads", "value_dim"))
    checks.check_same_dtype({"q": q, "k": k, "v": v})
    batch, time, heads, key_dim = q.shape
    kv_heads = k.shape[2]
    checks.check_head_dim("q", key_dim, MAX_HEAD_DIM)
    checks.check_head_dim("v", v.shape[-1], MAX_HEAD_DIM)
    checks.check_grouped_heads("q", heads, "k", kv_heads)
    checks.check_shape("k", k, (batch, time, kv_heads, key_dim), "batch, time and key_dim as in q")
    checks.check_shape(
        "v", v, (batch, time, kv_heads, v.shape[-1]), "batch and time as in q, kv_heads as in k"
    )
    _sequence.check_chunk_size(chunk_size, CHUNK_SIZES)
    _sequence.check_backend(backend)
    checks.check_flags(
        {"output_final_state": output_final_state, "normalize": normalize, "causal": causal}
    )
    if not causal:
        for name, given in (
            ("log_decay", log_decay is not None),
            ("initial_state", initial_state is not None),
            ("output_final_state", output_final_state),
            ("cu_seqlens", cu_seqlens is not None),
        ):
            if given:
                raise ValueError(f"{name} cannot be combined with causal=False")
    if log_decay is not None:
        _check_log_decay(log_decay, (batch, time, kv_heads, key_dim))
    if cu_seqlens is not None:
        checks.check_cu_seqlens(cu_seqlens, batch)
    sequences = _sequence.sequence_count(q, cu_seqlens)
    _check_state("initial_state", initial_state, normalize,
                 (sequences, kv_heads, key_dim, v.shape[-1]))  # fmt: skip
    checks.check_same_device(
        {"q": q, "k": k, "v": v, "log_decay": log_decay, "cu_seqlens": cu_seqlens,
         **_parts("initial_state", initial_state)}
    )  # fmt: skip


def _parts(name: str, state: State) -> dict[str, Tensor | None]:
    """The tensors of a state by their names in error messages."""
    if isinstance(state, tuple):
        return {f"{name}[{index}]": part for index, part in enumerate(state)}
    return {name: state}


def _check_log_decay(log_decay: Tensor, sizes: tuple[int, ...]) -> None:
    """``sizes`` are (batch, time, kv_heads, key_dim), or without time for one step."""
    checks.check_tensor("log_decay", log_decay)
    checks.check_floating("log_decay", log_decay)
    kv_heads = sizes[-2]
    allowed = ((kv_heads,), sizes[:-1], sizes)
    if tuple(log_decay.shape) not in allowed:
        names = ("batch", "time", "kv_heads", "key_dim") if len(sizes) == 4 else (
            "batch", "kv_heads", "key_dim")  # fmt: skip
        raise ValueError(
            f"log_decay must have shape (kv_heads,) = {allowed[0]}, "
            f"({', '.join(names[:-1])}) = {allowed[1]} or "
            f"({', '.join(names)}) = {allowed[2]}, got {checks.shape_of(log_decay)}"
        )


def _check_state(name: str, state: State, normalize: bool, sizes: tuple[int, ...]) -> None:
    if state is None:
        return
    layout = "sequences, kv_heads, key_dim, value_dim"
    if not normalize:
        if isinstance(state, tuple):
            raise ValueError(f"{name} must be one tensor when normalize=False, got a tuple")
        checks.check_shape(name, state, sizes, layout)
        checks.check_floating(name, state)
        return
    if not isinstance(state, tuple) or len(state) != 2:
        got = f"{len(state)} items" if isinstance(state, tuple) else type(state).__name__
        raise ValueError(f"{name} must be a pair (S, z) when normalize=True, got {got}")
    checks.check_shape(f"{name}[0]", state[0], sizes, layout)
    checks.check_shape(f"{name}[1]", state[1], sizes[:-1], "sequences, kv_heads, key_dim")
    for index, part in enumerate(state):
        checks.check_floating(f"{name}[{index}]", part)


# The custom ops.


def _empty_outputs(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor | None, ones_column: bool
) -> tuple[Tensor, Tensor]:
    columns = v.shape[-1] + ones_column
    dtype = state_dtype(q.dtype)
    output = q.new_empty((*q.shape[:3], columns), dtype=dtype if ones_column else q.dtype)
    sequences = _sequence.sequence_count(q, cu_seqlens)
    state = q.new_empty((sequences, k.shape[2], q.shape[-1], columns), dtype=dtype)
    return output, state


def _empty_gradients(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    cu_seqlens: Tensor | None,
    ones_column: bool,
    need_log_decay_grad: bool,
    need_initial_state_grad: bool,
) -> composite.Gradients:
    dtype = state_dtype(q.dtype)
    sequences, kv_heads = _sequence.sequence_count(q, cu_seqlens), k.shape[2]
    decay_grad = state_grad = None
    if need_log_decay_grad and log_decay is not None:
        shape = (sequences, kv_heads) if log_decay.ndim == 1 else log_decay.shape
        decay_grad = q.new_empty(shape, dtype=dtype)
    if need_initial_state_grad:
        columns = v.shape[-1] + ones_column
        state_grad = q.new_empty((sequences, kv_heads, q.shape[-1], columns), dtype=dtype)
    q_grad, k_grad, v_grad = (
        torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in (q, k, v)
    )
    return composite.Gradients(q_grad, k_grad, v_grad, decay_grad, state_grad)


def native_inputs(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    scale: float,
    ones_column: bool,
    chunk_size: int,
) -> tuple[tuple, list[Tensor | None]]:
    """What every native function reads, and the tensors that must outlive the call.

    Takes (batch, time, heads, dim) tensors, or those of one token without the time axis. The order
    of the numbers is that of ``cpp/bindings/linear_attention.cpp``.
    """
    dtype = state_dtype(q.dtype)
    *outer, heads, key_dim = q.shape
    batch, time = outer if len(outer) == 2 else (outer[0], 1)
    kv_heads, value_dim = k.shape[-2], v.shape[-1]
    q, k, v = _library.row_contiguous(q), _library.row_contiguous(k), _library.row_contiguous(v)
    form, decay, log_decay = _sequence.native_log_decay(log_decay, dtype, q.ndim)
    initial_state = _sequence.native_state(initial_state, dtype)
    cu_seqlens = _sequence.native_offsets(cu_seqlens)
    sequences = batch if cu_seqlens is None else cu_seqlens.numel() - 1
    axis = q.ndim - 2
    numbers = (
        (batch, time, heads, kv_heads, key_dim, value_dim, sequences),
        (_library.data_type(q.dtype), form, chunk_size, scale, ones_column),
        (_library.tokens(q, axis), _library.tokens(k, axis), _library.tokens(v, axis), decay),
        (_library.address(initial_state), _library.address(cu_seqlens)),
    )
    return numbers, [q, k, v, log_decay, initial_state, cu_seqlens]


def run_forward(native, inputs: tuple, output: Tensor, final_state: Tensor) -> None:
    """Call the native forward; ``inputs`` come from :func:`native_inputs`."""
    _library.call(
        native, "linear_attention_forward", output,
        *inputs, (output.data_ptr(), final_state.data_ptr()),
    )  # fmt: skip


def run_backward(
    native,
    inputs: tuple,
    output_grad: Tensor,
    final_state_grad: Tensor | None,
    gradients: composite.Gradients,
) -> None:
    """Call the native backward; both incoming gradients are contiguous."""
    outgoing = (gradients.q, gradients.k, gradients.v, gradients.log_decay, gradients.initial_state)
    addresses = (output_grad, final_state_grad, *outgoing)
    _library.call(
        native, "linear_attention_backward", output_grad,
        *inputs, tuple(_library.address(tensor) for tensor in addresses),
    )  # fmt: skip


def _forward_impl(
    q, k, v, log_decay, initial_state, cu_seqlens, scale, ones_column, chunk_size, backend
):
    _sequence.check_values(q.shape[1], log_decay, cu_seqlens)
    output, final_state = _empty_outputs(q, k, v, cu_seqlens, ones_column)
    arguments = (q, k, v, log_decay, initial_state, cu_seqlens, scale, ones_column, chunk_size)
    native = _sequence.choose("linear_attention", q, backend)
    if final_state.numel() == 0:
        return output, final_state
    if native is None:
        composite.forward(*arguments, output, final_state)
    else:
        inputs, alive = native_inputs(*arguments)
        run_forward(native, inputs, output, final_state)
        del alive
    return output, final_state


def _forward_fake(
    q, k, v, log_decay, initial_state, cu_seqlens, scale, ones_column, chunk_size, backend
):
    return _empty_outputs(q, k, v, cu_seqlens, ones_column)


def _backward_impl(
    q, k, v, log_decay, initial_state, cu_seqlens, output_grad, final_state_grad, scale,
    ones_column, chunk_size, backend, need_log_decay_grad, need_initial_state_grad,
):  # fmt: skip
    gradients = _empty_gradients(
        q, k, v, log_decay, cu_seqlens, ones_column, need_log_decay_grad, need_initial_state_grad
    )
    arguments = (q, k, v, log_decay, initial_state, cu_seqlens, scale, ones_column, chunk_size)
    native = _sequence.choose("linear_attention", q, backend)
    if k.shape[2] > 0 and _sequence.sequence_count(q, cu_seqlens) > 0:
        dtype = state_dtype(q.dtype)
        if native is None:
            composite.backward(*arguments, output_grad, final_state_grad, dtype, gradients)
        else:
            inputs, alive = native_inputs(*arguments)
            output_grad = output_grad.contiguous()
            if final_state_grad is not None:
                final_state_grad = final_state_grad.to(dtype).contiguous()
            run_backward(native, inputs, output_grad, final_state_grad, gradients)
            del alive
    elif gradients.log_decay is not None:
        gradients.log_decay.zero_()
    return (
        gradients.q, gradients.k, gradients.v,
        _sequence.optional(gradients.log_decay, q), _sequence.optional(gradients.initial_state, q),
    )  # fmt: skip


def _backward_fake(
    q, k, v, log_decay, initial_state, cu_seqlens, output_grad, final_state_grad, scale,
    ones_column, chunk_size, backend, need_log_decay_grad, need_initial_state_grad,
):  # fmt: skip
    gradients = _empty_gradients(
        q, k, v, log_decay, cu_seqlens, ones_column, need_log_decay_grad, need_initial_state_grad
    )
    return (
        gradients.q, gradients.k, gradients.v,
        _sequence.optional(gradients.log_decay, q), _sequence.optional(gradients.initial_state, q),
    )  # fmt: skip


_INPUTS = "Tensor q, Tensor k, Tensor v, Tensor? log_decay, Tensor? initial_state"

forward_op = _library.define(
    f"linear_attention_fwd({_INPUTS}, Tensor? cu_seqlens, float scale, bool ones_column, "
    "int chunk_size, str backend) -> (Tensor, Tensor)",
    implementation=_forward_impl,
    fake=_forward_fake,
    cast_inputs=(0, 1, 2),
)

_backward_op = _library.define(
    f"linear_attention_bwd({_INPUTS}, Tensor? cu_seqlens, Tensor output_grad, "
    "Tensor? final_state_grad, float scale, bool ones_column, int chunk_size, str backend, "
    "bool need_log_decay_grad, bool need_initial_state_grad) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    implementation=_backward_impl,
    fake=_backward_fake,
    cast_inputs=(),
)


def _step_impl(q, k, v, state, log_decay, scale, ones_column, backend):
    if log_decay is not None:
        checks.check_log_decay_values(log_decay)
    dtype = state_dtype(q.dtype)
    columns = v.shape[-1] + ones_column
    output = q.new_empty((*q.shape[:2], columns), dtype=dtype if ones_column else q.dtype)
    new_state = q.new_empty((q.shape[0], k.shape[1], k.shape[2], columns), dtype=dtype)
    if new_state.numel() == 0:
        return output, new_state
    native = _sequence.choose("linear_attention_step", q, backend)
    if native is None:
        arguments = _as_one_token(q, k, v, log_decay)
        composite.forward(
            *arguments, state, None, scale, ones_column, 0, output[:, None], new_state
        )
    else:
        inputs, alive = native_inputs(q, k, v, log_decay, state, None, scale, ones_column, 0)
        _library.call(
            native, "linear_attention_step", output,
            *inputs, (output.data_ptr(), new_state.data_ptr()),
        )  # fmt: skip
        del alive
    return output, new_state


def _step_fake(q, k, v, state, log_decay, scale, ones_column, backend):
    columns = v.shape[-1] + ones_column
    dtype = state_dtype(q.dtype)
    output = q.new_empty((*q.shape[:2], columns), dtype=dtype if ones_column else q.dtype)
    return output, q.new_empty((q.shape[0], k.shape[1], k.shape[2], columns), dtype=dtype)


def _as_one_token(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    if log_decay is not None and log_decay.ndim > 1:
        log_decay = log_decay[:, None]
    return q[:, None], k[:, None], v[:, None], log_decay


_step_op = _library.define(
    "linear_attention_step(Tensor q, Tensor k, Tensor v, Tensor? state, Tensor? log_decay, "
    "float scale, bool ones_column, str backend) -> (Tensor, Tensor)",
    implementation=_step_impl,
    fake=_step_fake,
    cast_inputs=(0, 1, 2),
)


# Autograd.


def _setup_forward(ctx, inputs, output) -> None:
    q, k, v, log_decay, initial_state, cu_seqlens, *options = inputs
    ctx.save_for_backward(q, k, v, log_decay, initial_state, cu_seqlens)
    ctx.options = options
    ctx.set_materialize_grads(False)


def gradients_of(needs, tensors, options, output_grad, final_state_grad):
    """Gradients of q, k, v, log_decay and the initial state, each None where not wanted."""
    q, k, v, log_decay, initial_state, cu_seqlens = tensors
    scale, ones_column, chunk_size, backend = options
    if output_grad is None:
        dtype = state_dtype(q.dtype) if ones_column else q.dtype
        output_grad = q.new_zeros((*q.shape[:3], v.shape[-1] + ones_column), dtype=dtype)
    need_log_decay, need_initial_state = needs
    q_grad, k_grad, v_grad, decay_grad, state_grad = _library.call_op(
        _backward_op,
        q, k, v, log_decay, initial_state, cu_seqlens, output_grad, final_state_grad, scale,
        ones_column, chunk_size, backend, need_log_decay, need_initial_state,
    )  # fmt: skip
    if need_log_decay:
        decay_grad = decay_grad.sum(0) if log_decay.ndim == 1 else decay_grad
        decay_grad = decay_grad.to(log_decay.dtype)
    else:
        decay_grad = None
    state_grad = state_grad.to(initial_state.dtype) if need_initial_state else None
    return q_grad, k_grad, v_grad, decay_grad, state_grad


def _forward_autograd(ctx, output_grad, final_state_grad):
    if output_grad is None and final_state_grad is None:
        return (None,) * 10
    needs = (ctx.needs_input_grad[3], ctx.needs_input_grad[4])
    gradients = gradients_of(needs, ctx.saved_tensors, ctx.options, output_grad, final_state_grad)
    return (*gradients, None, None, None, None, None)


def _setup_step(ctx, inputs, output) -> None:
    q, k, v, state, log_decay, *options = inputs
    ctx.save_for_backward(q, k, v, state, log_decay)
    ctx.options = options
    ctx.set_materialize_grads(False)


def _step_autograd(ctx, output_grad, new_state_grad):
    if output_grad is None and new_state_grad is None:
        return (None,) * 8
    q, k, v, state, log_decay = ctx.saved_tensors
    scale, ones_column, backend = ctx.options
    needs = (ctx.needs_input_grad[4], ctx.needs_input_grad[3])
    tensors = (*_as_one_token(q, k, v, log_decay), state, None)
    output_grad = None if output_grad is None else output_grad[:, None]
    q_grad, k_grad, v_grad, decay_grad, state_grad = gradients_of(
        needs, tensors, (scale, ones_column, 0, backend), output_grad, new_state_grad
    )
    if decay_grad is not None and log_decay.ndim > 1:
        decay_grad = decay_grad[:, 0]
    return q_grad[:, 0], k_grad[:, 0], v_grad[:, 0], state_grad, decay_grad, None, None, None


_library.differentiate("linear_attention_fwd", _forward_autograd, _setup_forward)
_library.differentiate("linear_attention_step", _step_autograd, _setup_step)
_library.forbid_double_backward("linear_attention_bwd")


# The public functions.


def linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None = None,
    *,
    scale: float | None = None,
    initial_state: State = None,
    output_final_state: bool = False,
    normalize: bool = False,
    eps: float = 1e-10,
    causal: bool = True,
    cu_seqlens: Tensor | None = None,
    chunk_size: int | None = None,
    backend: str = "auto",
) -> tuple[Tensor, State]:
    """Causal linear attention with decay, tiled over time, with exact gradients.

    Per sequence and kv head, with d_t = exp(log_decay_t)::

        S_t = d_t S_{t-1} + k_t v_t^T        o_t = scale * q_t S_t

    so the decay of step t acts on the old state and a token sees itself undecayed. Query head h
    reads kv head h // (H / Hk). Time is O(T); the state is O(K V) and accumulates in float32
    (float64 for float64 inputs) whatever the inputs' dtype.

    Args:
        q: (B, T, H, K) queries; float32, float64, float16 or bfloat16; 1 <= K <= 256.
        k: (B, T, Hk, K) keys; H is a multiple of Hk.
        v: (B, T, Hk, V) values; 1 <= V <= 256.
        log_decay: natural logs of the decays, at most 0; -inf resets the state. None (no decay),
            (Hk,) one constant a head, (B, T, Hk) one a token, or (B, T, Hk, K) one a token and key
            channel. Computed in float32 (float64 for float64 inputs).
        scale: factor of the output; None means K ** -0.5. It cancels under ``normalize``.
        initial_state: (N, Hk, K, V), or the pair (S, z) with z (N, Hk, K) under ``normalize``;
            None means zeros. N is B, or the number of packed sequences.
        output_final_state: also return the state after the last token.
        normalize: divide by q_t . z_t + eps, with z_t = d_t z_{t-1} + k_t.
        eps: added to the normaliser.
        causal: False attends to the whole sequence, o_t = scale * q_t sum_s k_s v_s^T (normalised
            by q_t . sum_s k_s); takes no decay, states or ``cu_seqlens``.
        cu_seqlens: (N + 1,) int32 or int64 offsets of sequences packed along time, B = 1, from 0
            to T, never decreasing. The state starts afresh in every sequence.
        chunk_size: 16, 32, 64 or 128 tokens a tile; None leaves it to the kernel. Results agree
            to rounding.
        backend: ``"native"`` (C++ or CUDA kernels), ``"torch"`` (the same algorithm in torch code,
            any device) or ``"auto"`` (native where this installation has kernels).

    Returns:
        o: (B, T, H, V) in the dtype of q.
        final_state: None, or as ``initial_state``, float32 (float64 for float64 inputs).

    Raises:
        ValueError: for wrong shapes, devices or values; the message names the argument. Values
            are read on CPU tensors, elsewhere only with ``RANKONE_CHECK_VALUES=1``.
        TypeError: for wrong dtypes (also a ``ValueError``).
        RuntimeError: for ``backend="native"`` without kernels, and in a double backward.

    Source: Lightning Attention-2, arXiv 2401.04658, for the tiling and the constant decay; the
    gated forms follow the gated-linear-attention literature (arXiv 2312.06635). The running
    products of decays, the decay gradient and the grouped state were derived for this project.

    Example:
        >>> import torch
        >>> from rankone.ops import linear_attention
        >>> q, k, v = (torch.randn(2, 100, 4, 32) for _ in range(3))
        >>> log_decay = torch.nn.functional.logsigmoid(torch.randn(2, 100, 4))
        >>> o, state = linear_attention(q, k, v, log_decay, output_final_state=True)
        >>> o.shape, state.shape
        (torch.Size([2, 100, 4, 32]), torch.Size([2, 4, 32, 32]))
    """
    check_arguments(
        q, k, v, log_decay, initial_state, output_final_state, normalize, causal, cu_seqlens,
        chunk_size, backend,
    )  # fmt: skip
    scale = output_scale(scale, q.shape[-1], normalize)
    if not causal:
        return whole_sequence(q, k, v, scale, normalize, eps), None
    output, final_state = _library.call_op(
        forward_op, q, k, v, log_decay, join_state(initial_state), cu_seqlens, scale, normalize,
        chunk_size or 0, backend,
    )  # fmt: skip
    if normalize:
        output = (output[..., :-1] / (output[..., -1:] + eps)).to(output_dtype(q))
    return output, split_state(final_state, normalize) if output_final_state else None


def linear_attention_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: State = None,
    log_decay: Tensor | None = None,
    *,
    scale: float | None = None,
    normalize: bool = False,
    eps: float = 1e-10,
) -> tuple[Tensor, State]:
    """One token of :func:`linear_attention` for every sequence of a batch, in O(K V).

    Args:
        q: (B, H, K) queries of the token; dtypes and limits as for :func:`linear_attention`.
        k: (B, Hk, K) keys.
        v: (B, Hk, V) values.
        state: (B, Hk, K, V), or the pair (S, z) under ``normalize``; None means zeros. It is not
            modified.
        log_decay: None, (Hk,), (B, Hk) or (B, Hk, K), at most 0.
        scale: factor of the output; None means K ** -0.5.
        normalize: divide by q . z + eps.
        eps: added to the normaliser.

    Returns:
        o: (B, H, V) in the dtype of q.
        state: the new state, float32 (float64 for float64 inputs).

    Raises:
        ValueError, TypeError: as :func:`linear_attention`.

    Source: arXiv 2401.04658, the recurrent form.

    Example:
        >>> import torch
        >>> from rankone.ops import linear_attention_step
        >>> state = None
        >>> for _ in range(3):
        ...     q, k, v = (torch.ones(1, 2, 4) for _ in range(3))
        ...     o, state = linear_attention_step(q, k, v, state)
        >>> o.shape, state.shape
        (torch.Size([1, 2, 4]), torch.Size([1, 2, 4, 4]))
    """
    states = state if isinstance(state, tuple) else (state,)
    _steps_seen.check(
        lambda: _check_step(q, k, v, state, log_decay, normalize),
        (q, k, v, log_decay, *states), normalize, isinstance(state, tuple),
    )  # fmt: skip
    output, new_state = _library.call_op(
        _step_op,
        q,
        k,
        v,
        join_state(state),
        log_decay,
        output_scale(scale, q.shape[-1], normalize),
        normalize,
        "auto",
    )
    if normalize:
        output = (output[..., :-1] / (output[..., -1:] + eps)).to(output_dtype(q))
    return output, split_state(new_state, normalize)


def _check_step(
    q: Tensor, k: Tensor, v: Tensor, state: State, log_decay: Tensor | None, normalize: bool
) -> None:
    checks.check_rank("q", q, ("batch", "heads", "key_dim"))
    checks.check_rank("k", k, ("batch", "kv_heads", "key_dim"))
    checks.check_rank("v", v, ("batch", "kv_heads", "value_dim"))
    checks.check_same_dtype({"q": q, "k": k, "v": v})
    batch, heads, key_dim = q.shape
    kv_heads = k.shape[1]
    checks.check_head_dim("q", key_dim, MAX_HEAD_DIM)
    checks.check_head_dim("v", v.shape[-1], MAX_HEAD_DIM)
    checks.check_grouped_heads("q", heads, "k", kv_heads)
    checks.check_shape("k", k, (batch, kv_heads, key_dim), "batch and key_dim as in q")
    checks.check_shape("v", v, (batch, kv_heads, v.shape[-1]), "batch as in q, kv_heads as in k")
    if log_decay is not None:
        _check_log_decay(log_decay, (batch, kv_heads, key_dim))
    _check_state("state", state, normalize, (batch, kv_heads, key_dim, v.shape[-1]))
    checks.check_same_device(
        {"q": q, "k": k, "v": v, "log_decay": log_decay, **_parts("state", state)}
    )


_steps_seen = checks.SeenBefore()


def output_scale(scale: float | None, key_dim: int, normalize: bool) -> float:
    scale = _sequence.finite_scale(scale, key_dim)
    return 1.0 if normalize else scale


def whole_sequence(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    normalize: bool,
    eps: float,
    complete: Callable[[Tensor], Tensor] = lambda part: part,
) -> Tensor:
    """The non-causal form: two matrix products through one state, accumulated in float32.

    ``complete`` makes what the keys and values at hand sum to that of the whole sequence.
    """
    dtype = output_dtype(q)
    compute = state_dtype(q.dtype)
    with torch.autocast(q.device.type, enabled=False):
        query, key, value = (tensor.to(dtype).to(compute) for tensor in (q, k, v))
        state = complete(torch.einsum("btnk,btnv->bnkv", key, value))
        query = query.unflatten(2, (k.shape[2], -1))
        output = torch.einsum("btngk,bnkv->btngv", query, state).flatten(2, 3)
        if normalize:
            norm = torch.einsum("btngk,bnk->btng", query, complete(key.sum(1))).flatten(2, 3)
            output = output / (norm[..., None] + eps)
        else:
            output = scale * output
    return output.to(dtype)
