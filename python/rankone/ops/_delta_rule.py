"""The delta rule and its gated forms: arguments, the custom ops, and the public functions.

``rankone::delta_rule_fwd`` and ``_bwd`` work on whole sequences; ``rankone::delta_rule_step`` and
its in-place form ``delta_rule_step_`` advance every sequence by one token. A chunk size of 0 leaves
the choice to the kernel, and one of 1 is the recurrence, token by token.
"""

from __future__ import annotations

import dataclasses
import math
from types import ModuleType

import torch
from torch import Tensor

from rankone.ops import _chunks, _library, _sequence, checks
from rankone.ops import _delta_rule_chunked as composite
from rankone.ops._delta_rule_chunked import RECURRENT, Gradients, Inputs
from rankone.ops._sequence import state_dtype

# Of the CUDA kernels; the CPU kernels and the composite code take any size.
MAX_HEAD_DIM = 256
CHUNK_SIZES = (16, 32, 64)
MODES = ("chunk", "recurrent")


def check_arguments(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_decay: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    output_final_state: bool,
    use_qk_l2norm: bool,
    l2norm_eps: float,
    mode: str,
    chunk_size: int | None,
    backend: str,
) -> None:
    """Everything about the arguments that does not need their values; raises as documented."""
    checks.check_rank("q", q, ("batch", "time", "heads", "key_dim"))
    checks.check_rank("k", k, ("batch", "time", "heads", "key_dim"))
    checks.check_rank("v", v, ("batch", "time", "value_heads", "value_dim"))
    if cu_seqlens is not None:
        checks.check_cu_seqlens(cu_seqlens, q.shape[0])
    _check_tensors(q, k, v, beta, log_decay, backend)
    if mode not in MODES:
        raise ValueError(f"mode must be one of {MODES}, got {mode!r}")
    _sequence.check_chunk_size(chunk_size, CHUNK_SIZES)
    if mode == "recurrent" and chunk_size is not None:
        raise ValueError(f"chunk_size must be None when mode='recurrent', got {chunk_size}")
    _sequence.check_backend(backend)
    checks.check_flags({"output_final_state": output_final_state, "use_qk_l2norm": use_qk_l2norm})
    _check_eps(l2norm_eps)
    sizes = (_sequence.sequence_count(q, cu_seqlens), v.shape[2], q.shape[3], v.shape[3])
    _check_state("initial_state", initial_state, sizes)
    checks.check_same_device(
        {"q": q, "k": k, "v": v, "beta": beta, "log_decay": log_decay,
         "initial_state": initial_state, "cu_seqlens": cu_seqlens}
    )  # fmt: skip


def _check_tensors(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor | None, backend: str
) -> None:
    """Shapes and dtypes of the token tensors; the axes before the heads are those of ``q``."""
    checks.check_same_dtype({"q": q, "k": k, "v": v})
    *outer, heads, key_dim = q.shape
    value_heads, value_dim = v.shape[-2:]
    for name, dim in (("q", key_dim), ("v", value_dim)):
        if q.device.type == "cuda" and backend != "torch" and q.dtype != torch.float64:
            checks.check_head_dim(name, dim, MAX_HEAD_DIM)
        elif dim < 1:
            raise ValueError(f"the last axis of {name} must be at least 1, got {dim}")
    names = "batch" if len(outer) == 1 else "batch and time"
    checks.check_shape("k", k, (*outer, heads, key_dim), "that of q")
    checks.check_shape("v", v, (*outer, value_heads, value_dim), f"{names} as in q")
    checks.check_grouped_heads("v", value_heads, "q", heads)
    checks.check_shape("beta", beta, (*outer, value_heads), f"{names} as in q, value_heads as in v")
    checks.check_floating("beta", beta)
    if log_decay is not None:
        checks.check_tensor("log_decay", log_decay)
        checks.check_floating("log_decay", log_decay)
        allowed = ((*outer, value_heads), (*outer, value_heads, key_dim))
        if tuple(log_decay.shape) not in allowed:
            axes = "batch, value_heads" if len(outer) == 1 else "batch, time, value_heads"
            raise ValueError(
                f"log_decay must have shape ({axes}) = {allowed[0]} or "
                f"({axes}, key_dim) = {allowed[1]}, got {checks.shape_of(log_decay)}"
            )


def _check_state(name: str, state: Tensor | None, sizes: tuple[int, ...]) -> None:
    if state is not None:
        checks.check_shape(name, state, sizes, "sequences, value_heads, key_dim, value_dim")
        checks.check_floating(name, state)


def _check_eps(l2norm_eps: float) -> None:
    if not (math.isfinite(l2norm_eps) and l2norm_eps > 0):
        raise ValueError(f"l2norm_eps must be positive and finite, got {l2norm_eps}")


def check_values(
    beta: Tensor, log_decay: Tensor | None, cu_seqlens: Tensor | None, time: int
) -> None:
    _sequence.check_values(time, log_decay, cu_seqlens)
    checks.check_finite_values("beta", beta)


# The native kernels.


def native_inputs(inputs: Inputs) -> tuple[tuple, list[Tensor | None]]:
    """What every native function reads, and the tensors that must outlive the call.

    Takes (batch, time, heads, dim) tensors, or those of one token without the time axis. The order
    of the numbers is that of ``cpp/bindings/delta_rule.cpp``.
    """
    dtype = state_dtype(inputs.q.dtype)
    q, k = _library.row_contiguous(inputs.q), _library.row_contiguous(inputs.k)
    v = _library.row_contiguous(inputs.v)
    *outer, heads, key_dim = q.shape
    batch, time = outer if len(outer) == 2 else (outer[0], 1)
    beta = inputs.beta if inputs.beta.dtype == dtype else inputs.beta.to(dtype)
    form, decay, log_decay = _sequence.native_log_decay(inputs.log_decay, dtype, q.ndim)
    state = _sequence.native_state(inputs.initial_state, dtype)
    offsets = _sequence.native_offsets(inputs.cu_seqlens)
    sequences = _sequence.sequence_count(q, offsets)
    axes = q.ndim - 2
    numbers = (
        (batch, time, heads, v.shape[-2], key_dim, v.shape[-1], sequences),
        (_library.data_type(q.dtype), form, inputs.chunk_size, inputs.scale,
         inputs.use_qk_l2norm, inputs.l2norm_eps),
        (_library.tokens(q, axes), _library.tokens(k, axes), _library.tokens(v, axes),
         _library.tokens(beta, axes), decay),
        (_library.address(state), _library.address(offsets)),
    )  # fmt: skip
    return numbers, [q, k, v, beta, log_decay, state, offsets]


def run_forward(native: ModuleType, inputs: tuple, output: Tensor, final_state: Tensor) -> None:
    """Call the native forward; ``inputs`` come from :func:`native_inputs`."""
    _library.call(
        native, "delta_rule_forward", output,
        *inputs, (output.data_ptr(), final_state.data_ptr()),
    )  # fmt: skip


def run_backward(
    native: ModuleType,
    inputs: tuple,
    output_grad: Tensor,
    final_state_grad: Tensor | None,
    gradients: Gradients,
) -> None:
    """Call the native backward; both incoming gradients are contiguous."""
    addresses = (output_grad, final_state_grad, *gradients.tensors())
    _library.call(
        native, "delta_rule_backward", output_grad,
        *inputs, tuple(_library.address(tensor) for tensor in addresses),
    )  # fmt: skip


def run_step(native: ModuleType, inputs: tuple, output: Tensor, state: Tensor) -> None:
    """Call the native step, which may write the state that it reads."""
    _library.call(native, "delta_rule_step", output, *inputs, (output.data_ptr(), state.data_ptr()))


def _run_recurrence(native: ModuleType, inputs: Inputs, output: Tensor, state: Tensor) -> None:
    """The native step for each token in turn; ``state`` becomes the final state."""
    if inputs.initial_state is None:
        state.zero_()
    else:
        state.copy_(inputs.initial_state)
    for span, rows in _chunks.packed(inputs.q.shape[1], inputs.cu_seqlens):
        current = state[rows]
        for time in range(span.start, span.stop):
            token = Inputs(
                inputs.q[:, time], inputs.k[:, time], inputs.v[:, time], inputs.beta[:, time],
                None if inputs.log_decay is None else inputs.log_decay[:, time], current, None,
                inputs.scale, inputs.use_qk_l2norm, inputs.l2norm_eps, 0,
            )  # fmt: skip
            numbers, alive = native_inputs(token)
            result = output.new_empty(output[:, time].shape)
            run_step(native, numbers, result, current)
            output[:, time] = result
            del alive


# The custom ops.


def _empty_outputs(inputs: Inputs) -> tuple[Tensor, Tensor]:
    v = inputs.v
    sequences = _sequence.sequence_count(v, inputs.cu_seqlens)
    state_shape = (sequences, v.shape[2], inputs.k.shape[-1], v.shape[-1])
    return v.new_empty(v.shape), v.new_empty(state_shape, dtype=state_dtype(v.dtype))


def _forward_impl(*arguments):
    *tensors_and_options, backend = arguments
    inputs = Inputs(*tensors_and_options)
    check_values(inputs.beta, inputs.log_decay, inputs.cu_seqlens, inputs.q.shape[1])
    output, final_state = _empty_outputs(inputs)
    native = _sequence.choose("delta_rule", inputs.q, backend)
    if final_state.numel() == 0:
        return output, final_state
    if native is None:
        composite.forward(inputs, output, final_state)
    elif inputs.chunk_size == RECURRENT:
        _run_recurrence(native, inputs, output, final_state)
    else:
        numbers, alive = native_inputs(inputs)
        run_forward(native, numbers, output, final_state)
        del alive
    return output, final_state


def _forward_fake(*arguments):
    return _empty_outputs(Inputs(*arguments[:-1]))


def _empty_gradients(
    inputs: Inputs, need_log_decay_grad: bool, need_initial_state_grad: bool
) -> Gradients:
    q, v = inputs.q, inputs.v
    dtype = state_dtype(q.dtype)
    decay_grad = state_grad = None
    if need_log_decay_grad and inputs.log_decay is not None:
        decay_grad = q.new_empty(inputs.log_decay.shape, dtype=dtype)
    if need_initial_state_grad:
        sequences = _sequence.sequence_count(q, inputs.cu_seqlens)
        state_shape = (sequences, v.shape[2], q.shape[-1], v.shape[-1])
        state_grad = q.new_empty(state_shape, dtype=dtype)
    beta_grad = q.new_empty(inputs.beta.shape, dtype=dtype)
    return Gradients(
        q.new_empty(q.shape), q.new_empty(q.shape), q.new_empty(v.shape), beta_grad, decay_grad,
        state_grad,
    )  # fmt: skip


def _returned(gradients: Gradients, inputs: Inputs) -> tuple[Tensor, ...]:
    return tuple(_sequence.optional(tensor, inputs.q) for tensor in gradients.tensors())


def _backward_impl(*arguments):
    *tensors_and_options, backend, output_grad, final_state_grad, need_decay, need_state = arguments
    inputs = Inputs(*tensors_and_options)
    gradients = _empty_gradients(inputs, need_decay, need_state)
    native = _sequence.choose("delta_rule", inputs.q, backend)
    dtype = state_dtype(inputs.q.dtype)
    if _sequence.sequence_count(inputs.q, inputs.cu_seqlens) == 0:
        # No sequence, hence no token: every gradient is empty.
        return _returned(gradients, inputs)
    if native is None:
        composite.backward(inputs, output_grad, final_state_grad, dtype, gradients)
    else:
        if inputs.chunk_size == RECURRENT:
            inputs = dataclasses.replace(inputs, chunk_size=0)
        numbers, alive = native_inputs(inputs)
        output_grad = output_grad.contiguous()
        if final_state_grad is not None:
            final_state_grad = final_state_grad.to(dtype).contiguous()
        run_backward(native, numbers, output_grad, final_state_grad, gradients)
        del alive
    return _returned(gradients, inputs)


def _backward_fake(*arguments):
    *tensors_and_options, _, _, _, need_decay, need_state = arguments
    inputs = Inputs(*tensors_and_options)
    return _returned(_empty_gradients(inputs, need_decay, need_state), inputs)


_TENSORS = (
    "Tensor q, Tensor k, Tensor v, Tensor beta, Tensor? log_decay, Tensor? initial_state, "
    "Tensor? cu_seqlens"
)
_OPTIONS = "float scale, bool use_qk_l2norm, float l2norm_eps"

forward_op = _library.define(
    f"delta_rule_fwd({_TENSORS}, {_OPTIONS}, int chunk_size, str backend) -> (Tensor, Tensor)",
    implementation=_forward_impl,
    fake=_forward_fake,
    cast_inputs=(0, 1, 2),
)

_backward_op = _library.define(
    f"delta_rule_bwd({_TENSORS}, {_OPTIONS}, int chunk_size, str backend, Tensor output_grad, "
    "Tensor? final_state_grad, bool need_log_decay_grad, bool need_initial_state_grad) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    implementation=_backward_impl,
    fake=_backward_fake,
    cast_inputs=(),
)


def _step(
    q, k, v, beta, state, log_decay, scale, use_qk_l2norm, l2norm_eps, backend, new_state
) -> Tensor:  # fmt: skip
    """The output of one token; ``new_state`` is written and may be ``state``."""
    check_values(beta, log_decay, None, 1)
    output = v.new_empty(v.shape)
    native = _sequence.choose("delta_rule_step", q, backend)
    if new_state.numel() == 0:
        return output
    options = (scale, use_qk_l2norm, l2norm_eps)
    if native is None:
        decay = None if log_decay is None else log_decay[:, None]
        inputs = Inputs(
            q[:, None], k[:, None], v[:, None], beta[:, None], decay, state, None, *options,
            RECURRENT,
        )  # fmt: skip
        composite.forward(inputs, output[:, None], new_state)
    else:
        inputs = Inputs(q, k, v, beta, log_decay, state, None, *options, 0)
        numbers, alive = native_inputs(inputs)
        run_step(native, numbers, output, new_state)
        del alive
    return output


def _empty_state(k: Tensor, v: Tensor) -> Tensor:
    shape = (v.shape[0], v.shape[1], k.shape[-1], v.shape[-1])
    return v.new_empty(shape, dtype=state_dtype(v.dtype))


def _step_impl(q, k, v, beta, state, *rest):
    new_state = _empty_state(k, v)
    return _step(q, k, v, beta, state, *rest, new_state), new_state


def _step_fake(q, k, v, beta, state, *rest):
    return v.new_empty(v.shape), _empty_state(k, v)


def _step_inplace_impl(q, k, v, beta, state, *rest):
    return _step(q, k, v, beta, state, *rest, state)


def _step_inplace_fake(q, k, v, beta, state, *rest):
    return v.new_empty(v.shape)


_step_op = _library.define(
    "delta_rule_step(Tensor q, Tensor k, Tensor v, Tensor beta, Tensor? state, Tensor? log_decay, "
    f"{_OPTIONS}, str backend) -> (Tensor, Tensor)",
    implementation=_step_impl,
    fake=_step_fake,
    cast_inputs=(0, 1, 2),
)

_step_inplace_op = _library.define(
    "delta_rule_step_(Tensor q, Tensor k, Tensor v, Tensor beta, Tensor(a!) state, "
    f"Tensor? log_decay, {_OPTIONS}, str backend) -> Tensor",
    implementation=_step_inplace_impl,
    fake=_step_inplace_fake,
    cast_inputs=(0, 1, 2),
)


# Autograd.


def _setup_forward(ctx, inputs, output) -> None:
    *tensors, scale, use_qk_l2norm, l2norm_eps, chunk_size, backend = inputs
    ctx.save_for_backward(*tensors)
    ctx.options = (scale, use_qk_l2norm, l2norm_eps, chunk_size, backend)
    ctx.set_materialize_grads(False)


def gradients_of(tensors, options, needs, output_grad, final_state_grad):
    """Gradients of q, k, v, beta, log_decay and the initial state."""
    _, _, v, beta, log_decay, initial_state, _ = tensors
    if output_grad is None:
        output_grad = v.new_zeros(v.shape)
    need_decay, need_state = needs
    q_grad, k_grad, v_grad, beta_grad, decay_grad, state_grad = _library.call_op(
        _backward_op, *tensors, *options, output_grad, final_state_grad, need_decay, need_state
    )
    decay_grad = decay_grad.to(log_decay.dtype) if need_decay else None
    state_grad = state_grad.to(initial_state.dtype) if need_state else None
    return q_grad, k_grad, v_grad, beta_grad.to(beta.dtype), decay_grad, state_grad


def _forward_autograd(ctx, output_grad, final_state_grad):
    if output_grad is None and final_state_grad is None:
        return (None,) * 12
    needs = (ctx.needs_input_grad[4], ctx.needs_input_grad[5])
    gradients = gradients_of(ctx.saved_tensors, ctx.options, needs, output_grad, final_state_grad)
    return (*gradients, None, None, None, None, None, None)


def _setup_step(ctx, inputs, output) -> None:
    *tensors, scale, use_qk_l2norm, l2norm_eps, backend = inputs
    ctx.save_for_backward(*tensors)
    ctx.options = (scale, use_qk_l2norm, l2norm_eps, 0, backend)
    ctx.set_materialize_grads(False)


def _step_autograd(ctx, output_grad, new_state_grad):
    if output_grad is None and new_state_grad is None:
        return (None,) * 10
    q, k, v, beta, state, log_decay = ctx.saved_tensors
    tokens = (None if tensor is None else tensor[:, None] for tensor in (q, k, v, beta, log_decay))
    needs = (ctx.needs_input_grad[5], ctx.needs_input_grad[4])
    output_grad = None if output_grad is None else output_grad[:, None]
    gradients = gradients_of(
        (*tokens, state, None), ctx.options, needs, output_grad, new_state_grad
    )
    *token_grads, decay_grad, state_grad = gradients
    token_grads = [grad[:, 0] for grad in token_grads]
    decay_grad = None if decay_grad is None else decay_grad[:, 0]
    return (*token_grads, state_grad, decay_grad, None, None, None, None)


_library.differentiate("delta_rule_fwd", _forward_autograd, _setup_forward)
_library.differentiate("delta_rule_step", _step_autograd, _setup_step)
_library.forbid_double_backward("delta_rule_bwd")


def _check_step(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, state: Tensor | None, log_decay: Tensor | None
) -> None:
    checks.check_rank("q", q, ("batch", "heads", "key_dim"))
    checks.check_rank("k", k, ("batch", "heads", "key_dim"))
    checks.check_rank("v", v, ("batch", "value_heads", "value_dim"))
    _check_tensors(q, k, v, beta, log_decay, "auto")
    _check_state("state", state, (v.shape[0], v.shape[1], q.shape[-1], v.shape[-1]))
    checks.check_same_device(
        {"q": q, "k": k, "v": v, "beta": beta, "log_decay": log_decay, "state": state}
    )


_steps_seen = checks.SeenBefore()


# The public functions.


def delta_rule(
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
    """The delta rule: linear attention that overwrites what a key holds, with exact gradients.

    Per sequence and value head, with d_t = exp(log_decay_t)::

        S~_t = d_t S_{t-1}                    u_t = beta_t (v_t - S~_t^T k_t)
        S_t  = S~_t + k_t u_t^T               o_t = scale * S_t^T q_t

    so the error is taken against the decayed state, and the read sees the write of its own token.
    Value head h reads the queries and keys of head h // (HV / H). The state does not grow where
    0 <= beta_t |k_t|^2 <= 2: normalise the keys, here with ``use_qk_l2norm`` or before. Time is
    O(T); the state is O(K V) and accumulates in float32 (float64 for float64 inputs) whatever the
    inputs' dtype.

    Args:
        q: (B, T, H, K) queries; float32, float64, float16 or bfloat16. On CUDA K <= 256.
        k: (B, T, H, K) keys.
        v: (B, T, HV, V) values; HV is a multiple of H. On CUDA V <= 256.
        beta: (B, T, HV) write strengths, finite, usually in [0, 1] or [0, 2].
        log_decay: natural logs of the decays, at most 0; -inf resets the state. None (no decay),
            (B, T, HV) one a token, or (B, T, HV, K) one a token and key channel.
        scale: factor of the output; None means K ** -0.5.
        initial_state: (N, HV, K, V); None means zeros. N is B, or the number of packed sequences.
        output_final_state: also return the state after the last token.
        cu_seqlens: (N + 1,) int32 or int64 offsets of sequences packed along time, B = 1, from 0
            to T, never decreasing. The state starts afresh in every sequence.
        use_qk_l2norm: divide every q and k by sqrt(sum of squares + l2norm_eps) first.
        l2norm_eps: positive.
        mode: ``"chunk"``, or ``"recurrent"`` for token by token; the results agree to rounding.
        chunk_size: 16, 32 or 64 tokens a chunk; None leaves it to the kernel. Results agree to
            rounding.
        backend: ``"native"`` (C++ or CUDA kernels), ``"torch"`` (the same algorithm in torch code,
            any device) or ``"auto"`` (native where this installation has kernels).

    Returns:
        o: (B, T, HV, V) in the dtype of v.
        final_state: None, or as ``initial_state``, float32 (float64 for float64 inputs).

    Raises:
        ValueError: for wrong shapes, devices or values; the message names the argument. Values
            are read on CPU tensors, elsewhere only with ``RANKONE_CHECK_VALUES=1``.
        TypeError: for wrong dtypes (also a ``ValueError``).
        RuntimeError: for ``backend="native"`` without kernels, and in a double backward.

    Source: arXiv 2406.06484 (delta rule in chunks), 2412.06464 (decay per token) and 2510.26692
    (decay per channel). The backward pass was derived for this project.

    Example:
        >>> import torch
        >>> from rankone.ops import delta_rule
        >>> q, k = (torch.randn(2, 100, 4, 32) for _ in range(2))
        >>> v, beta = torch.randn(2, 100, 4, 64), torch.rand(2, 100, 4)
        >>> o, state = delta_rule(q, k, v, beta, use_qk_l2norm=True, output_final_state=True)
        >>> o.shape, state.shape
        (torch.Size([2, 100, 4, 64]), torch.Size([2, 4, 32, 64]))
    """
    check_arguments(
        q, k, v, beta, log_decay, initial_state, cu_seqlens, output_final_state, use_qk_l2norm,
        l2norm_eps, mode, chunk_size, backend,
    )  # fmt: skip
    output, final_state = _library.call_op(
        forward_op, q, k, v, beta, log_decay, initial_state, cu_seqlens,
        _sequence.finite_scale(scale, q.shape[-1]), use_qk_l2norm, float(l2norm_eps),
        RECURRENT if mode == "recurrent" else chunk_size or 0, backend,
    )  # fmt: skip
    return output, final_state if output_final_state else None


def delta_rule_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    state: Tensor | None,
    *,
    log_decay: Tensor | None = None,
    scale: float | None = None,
    use_qk_l2norm: bool = False,
    l2norm_eps: float = 1e-6,
    inplace: bool = False,
) -> tuple[Tensor, Tensor]:
    """One token of :func:`delta_rule` for every sequence of a batch, in O(K V).

    Args:
        q: (B, H, K) queries of the token; dtypes and limits as for :func:`delta_rule`.
        k: (B, H, K) keys.
        v: (B, HV, V) values; HV is a multiple of H.
        beta: (B, HV) write strengths, finite.
        state: (B, HV, K, V); None means zeros.
        log_decay: None, (B, HV) or (B, HV, K), at most 0.
        scale: factor of the output; None means K ** -0.5.
        use_qk_l2norm: divide q and k by sqrt(sum of squares + l2norm_eps) first.
        l2norm_eps: positive.
        inplace: overwrite ``state`` and return it. It must be contiguous, float32 (float64 for
            float64 inputs), and nothing may require a gradient.

    Returns:
        o: (B, HV, V) in the dtype of v.
        state: the new state, float32 (float64 for float64 inputs).

    Raises:
        ValueError, TypeError: as :func:`delta_rule`, and for a state that cannot be overwritten.

    Source: arXiv 2406.06484, the recurrent form.

    Example:
        >>> import torch
        >>> from rankone.ops import delta_rule_step
        >>> key, beta = torch.tensor([[[1.0, 0.0]]]), torch.ones(1, 1)
        >>> _, state = delta_rule_step(key, key, torch.tensor([[[5.0]]]), beta, None)
        >>> o, state = delta_rule_step(key, key, torch.tensor([[[7.0]]]), beta, state, scale=1.0)
        >>> o.item()
        7.0
    """
    tensors = (q, k, v, beta, state, log_decay)
    _steps_seen.check(lambda: _check_step(*tensors), tensors)
    _check_eps(l2norm_eps)
    options = (
        _sequence.finite_scale(scale, q.shape[-1]), use_qk_l2norm, float(l2norm_eps), "auto"
    )  # fmt: skip
    if not inplace:
        return _library.call_op(_step_op, *tensors, *options)
    if state is None:
        raise ValueError("state must be a tensor when inplace=True, got None")
    if state.dtype != state_dtype(q.dtype):
        raise checks.DTypeError(
            f"state must be {state_dtype(q.dtype)} when inplace=True, got {state.dtype}"
        )
    if not state.is_contiguous():
        raise ValueError(
            f"state must be contiguous when inplace=True, got strides {state.stride()}"
        )
    if torch.is_grad_enabled():
        names = ("q", "k", "v", "beta", "state", "log_decay")
        for name, tensor in zip(names, tensors, strict=True):
            if tensor is not None and tensor.requires_grad:
                raise ValueError(f"{name} must not require a gradient when inplace=True")
    return _library.call_op(_step_inplace_op, *tensors, *options), state
