"""The 2D selective scan: the native kernels, the custom ops, and the public functions.

``rankone::selective_scan_2d`` and ``_bwd`` work on whole grids. One column at a time is the same op
on a grid of one column.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from rankone.ops import _library, _sequence, checks
from rankone.ops import _selective_scan_2d_wavefront as composite
from rankone.ops._selective_scan_2d_arguments import (
    COLUMN,
    DISCRETIZATIONS,
    STRUCTURES,
    FinalState,
    State,
    per_cell,
    prepare,
)
from rankone.ops._selective_scan_2d_wavefront import TENSORS, Inputs
from rankone.ops._sequence import state_dtype

# The order of the native functions.
CELL_TENSORS = ("x", "dt1", "dt2", "z", "B1", "B2", "C1", "C2")

Address = tuple[int, ...]


# The native kernels.


def _cells(tensor: Tensor | None) -> Address:
    """Address and the strides of batch, row, column, channel and state.

    The fourth axis is that of channels, heads or groups; a static vector has no axes before it.
    """
    if tensor is None:
        return (0,) * 6
    stride = tensor.stride()
    if tensor.ndim == 2:
        return (tensor.data_ptr(), 0, 0, 0, *stride)
    return (tensor.data_ptr(), *stride, *(0,) * (5 - tensor.ndim))


def _parameter(tensor: Tensor | None) -> Address:
    if tensor is None:
        return (0, 0, 0)
    channel, state = tensor.stride()
    return tensor.data_ptr(), channel, 0 if tensor.shape[1] == 1 else state


def _heads(tensor: Tensor | None, axis: int) -> int:
    """Heads of a step, or groups of a vector; 0 without one and for a static vector."""
    return 0 if tensor is None or tensor.ndim == 2 else tensor.shape[axis]


def native_inputs(inputs: Inputs) -> tuple[tuple, list[Tensor | None]]:
    """What every native function reads, and the tensors that must outlive the call.

    The order of the numbers is that of ``cpp/bindings/selective_scan_2d.cpp``.
    """

    def contiguous(name: str) -> Tensor | None:
        tensor = getattr(inputs, name)
        return None if tensor is None else tensor.contiguous()

    vectors = [contiguous(name) for name in ("D", "dt1_bias", "dt2_bias", "gamma")]
    states = [contiguous(name) for name in ("col_h1", "col_h2", "row_h1", "row_h2")]
    numbers = (
        (*inputs.x.shape, inputs.state_size,
         _heads(inputs.dt1, 3), _heads(inputs.dt2, 3),
         *(_heads(vector, 3) for vector in (inputs.B1, inputs.B2, inputs.C1, inputs.C2))),
        (_library.data_type(inputs.x.dtype), DISCRETIZATIONS.index(inputs.discretization),
         STRUCTURES.index(inputs.structure), inputs.single_axis, inputs.dt_softplus,
         inputs.reverse_rows, inputs.reverse_cols),
        tuple(_cells(getattr(inputs, name)) for name in CELL_TENSORS),
        tuple(_parameter(a) for a in (inputs.A1, inputs.A2, inputs.A3, inputs.A4)),
        tuple(_library.address(vector) for vector in vectors),
        tuple(_library.address(state) for state in states),
    )  # fmt: skip
    return numbers, [*inputs.tensors(), *vectors, *states]


def run_forward(
    native: ModuleType, inputs: tuple, y: Tensor, final: Sequence[Tensor | None]
) -> None:
    """Call the native forward; ``inputs`` come from :func:`native_inputs`."""
    states = tuple(_library.address(state) for state in final)
    _library.call(native, "selective_scan_2d_forward", y, *inputs, _cells(y), states)


def run_backward(
    native: ModuleType,
    inputs: tuple,
    y_grad: Tensor,
    final_grad: Sequence[Tensor | None],
    gradients: dict[str, Tensor | None],
) -> None:
    """Call the native backward; gradients of A1 to A4 are (D, N), and None is not computed."""
    parameters = ("A1", "A2", "A3", "A4", "D", "dt1_bias", "dt2_bias", "gamma")
    states = ("col_h1", "col_h2", "row_h1", "row_h2")
    _library.call(
        native, "selective_scan_2d_backward", y_grad,
        *inputs,
        _cells(y_grad),
        tuple(_library.address(gradient) for gradient in final_grad),
        tuple(_cells(gradients[name]) for name in CELL_TENSORS),
        tuple(_library.address(gradients[name]) for name in parameters),
        tuple(_library.address(gradients[name]) for name in states),
    )  # fmt: skip


def run_step(
    native: ModuleType, inputs: tuple, y: Tensor, col_h1: Tensor, col_h2: Tensor | None
) -> None:
    """Call the native step on a grid of one column."""
    states = (_library.address(col_h1), _library.address(col_h2))
    _library.call(native, "selective_scan_2d_step", y, *inputs, _cells(y), states)


def _last_axis_contiguous(inputs: Inputs) -> Inputs:
    """Tensors over cells with their channels, or states, side by side.

    The kernels take any strides, but read a transposed tensor several times as slowly as a copy
    of it is made.
    """
    return inputs.with_tensors(
        tuple(
            _library.row_contiguous(tensor)
            if tensor is not None and per_cell(name, tensor)
            else tensor
            for name, tensor in zip(TENSORS, inputs.tensors(), strict=True)
        )
    )


def _writable(tensor: Tensor) -> Tensor:
    """The tensor itself where its last axis is contiguous, else memory to copy into it."""
    if tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
        return tensor.new_empty(tensor.shape)
    return tensor


def _native_forward(
    native: ModuleType, inputs: Inputs, y: Tensor, final: Sequence[Tensor | None]
) -> None:
    inputs = _last_axis_contiguous(inputs)
    numbers, alive = native_inputs(inputs)
    written = _writable(y)
    col_h1, col_h2, row_h1, row_h2 = final
    if col_h1 is None or inputs.x.shape[2] > 1 or inputs.row_h1 is not None:
        run_forward(native, numbers, written, final)
    else:
        run_step(native, numbers, written, col_h1, col_h2)
        # The last row of a grid of one column.
        for row, col in ((row_h1, col_h1), (row_h2, col_h2)):
            if row is not None and col is not None:
                row.copy_(col[:, -1:])
    if written is not y:
        y.copy_(written)
    del alive


def _native_backward(
    native: ModuleType,
    inputs: Inputs,
    y_grad: Tensor | None,
    final_grad: Sequence[Tensor | None],
    gradients: tuple[Tensor | None, ...],
) -> None:
    inputs = _last_axis_contiguous(inputs)
    numbers, alive = native_inputs(inputs)
    dtype = state_dtype(inputs.x.dtype)
    if y_grad is None:
        y_grad = torch.zeros_like(inputs.x)
    y_grad = _library.row_contiguous(y_grad.to(inputs.x.dtype))
    final_grad = [None if grad is None else grad.to(dtype).contiguous() for grad in final_grad]
    written = dict(zip(TENSORS, gradients, strict=True))
    others = []
    for name, gradient in written.items():
        if gradient is None:
            continue
        if name[0] == "A" and gradient.shape[1] < inputs.state_size:
            written[name] = gradient.new_empty(gradient.shape[0], inputs.state_size)
        else:
            written[name] = _writable(gradient)
        if written[name] is not gradient:
            others.append((gradient, name))
    run_backward(native, numbers, y_grad, final_grad, written)
    for gradient, name in others:
        found = written[name]
        assert found is not None
        gradient.copy_(found.sum(1, keepdim=True) if name[0] == "A" else found)
    del alive


# The custom ops.


def _empty_outputs(inputs: Inputs, return_final_state: bool) -> tuple[Tensor, ...]:
    batch, rows, columns, channels = inputs.x.shape
    n, dtype = inputs.state_size, state_dtype(inputs.x.dtype)
    # With the strides of x, so that a transposed x is answered in its own layout.
    y = torch.empty_like(inputs.x)
    lengths = (rows, 0, 0, 0) if inputs.single_axis else (rows, rows, columns, columns)
    if not return_final_state:
        lengths = (0, 0, 0, 0)
    states = (inputs.x.new_empty((batch, k, channels, n) if k else 0, dtype=dtype) for k in lengths)
    return (y, *states)


def _wanted(results: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
    """None for the results that are not asked for, which have no elements."""
    return tuple(result if result.numel() else None for result in results)


def _forward_impl(*arguments):
    *fields, return_final_state, backend = arguments
    inputs = Inputs(*fields)
    results = _empty_outputs(inputs, return_final_state)
    native = _sequence.choose("selective_scan_2d", inputs.x, backend)
    if inputs.x.shape[0] == 0:
        return results
    if native is None:
        composite.forward(inputs, results[0], _wanted(results[1:]))
    else:
        _native_forward(native, inputs, results[0], _wanted(results[1:]))
    return results


def _forward_fake(*arguments):
    *fields, return_final_state, _ = arguments
    return _empty_outputs(Inputs(*fields), return_final_state)


def _like(name: str, tensor: Tensor) -> Tensor:
    """A gradient's memory: with the tensor's own strides over cells, contiguous otherwise."""
    return torch.empty_like(tensor) if per_cell(name, tensor) else tensor.new_empty(tensor.shape)


def _empty_gradients(inputs: Inputs, wanted: list[bool]) -> tuple[Tensor | None, ...]:
    return tuple(
        _like(name, tensor) if want and tensor is not None else None
        for name, tensor, want in zip(TENSORS, inputs.tensors(), wanted, strict=True)
    )


def _returned(gradients: tuple[Tensor | None, ...], inputs: Inputs) -> tuple[Tensor, ...]:
    return tuple(_sequence.optional(gradient, inputs.x) for gradient in gradients)


def _backward_impl(*arguments):
    *fields, backend, y_grad, col1, col2, row1, row2, wanted = arguments
    inputs = Inputs(*fields)
    final_grad = (col1, col2, row1, row2)
    gradients = _empty_gradients(inputs, wanted)
    native = _sequence.choose("selective_scan_2d", inputs.x, backend)
    if inputs.x.shape[0] == 0:
        # Without a batch entry the parameters' gradients are sums of nothing.
        for gradient in gradients:
            if gradient is not None:
                gradient.zero_()
    elif native is None:
        composite.backward(inputs, y_grad, final_grad, gradients)
    else:
        _native_backward(native, inputs, y_grad, final_grad, gradients)
    return _returned(gradients, inputs)


def _backward_fake(*arguments):
    *fields, _, _, _, _, _, _, wanted = arguments
    inputs = Inputs(*fields)
    return _returned(_empty_gradients(inputs, wanted), inputs)


_REQUIRED = ("x", "A1", "B1", "C1")
_ARGUMENTS = ", ".join(
    [f"Tensor{'' if name in _REQUIRED else '?'} {name}" for name in TENSORS]
    + ["bool dt_softplus", "str discretization", "str structure"]
    + ["bool reverse_rows", "bool reverse_cols"]
)

_forward_op = _library.define(
    f"selective_scan_2d({_ARGUMENTS}, bool return_final_state, str backend) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor)",
    implementation=_forward_impl,
    fake=_forward_fake,
    # Autocast is applied in `prepare`, which knows the static vectors from those of the cells.
    cast_inputs=(),
)

_backward_op = _library.define(
    f"selective_scan_2d_bwd({_ARGUMENTS}, str backend, Tensor? y_grad, Tensor? col_h1_grad, "
    "Tensor? col_h2_grad, Tensor? row_h1_grad, Tensor? row_h2_grad, bool[] wanted) -> "
    f"({', '.join(['Tensor'] * len(TENSORS))})",
    implementation=_backward_impl,
    fake=_backward_fake,
    cast_inputs=(),
)

_OPTIONS = 5  # of Inputs, after its tensors


def _setup_forward(ctx, inputs, output) -> None:
    *fields, return_final_state, backend = inputs
    ctx.save_for_backward(*fields[: len(TENSORS)])
    ctx.options = (*fields[len(TENSORS) :], backend)
    ctx.return_final_state = return_final_state
    ctx.set_materialize_grads(False)


def _forward_autograd(ctx, y_grad, *state_grads):
    rest = (None,) * (_OPTIONS + 2)
    state_grads = state_grads if ctx.return_final_state else (None,) * 4
    if y_grad is None and all(grad is None for grad in state_grads):
        return (*(None,) * len(TENSORS), *rest)
    wanted = list(ctx.needs_input_grad[: len(TENSORS)])
    gradients = _backward_op(*ctx.saved_tensors, *ctx.options, y_grad, *state_grads, wanted)
    kept = (grad if want else None for grad, want in zip(gradients, wanted, strict=True))
    return (*kept, *rest)


_library.differentiate("selective_scan_2d", _forward_autograd, _setup_forward)
_library.forbid_double_backward("selective_scan_2d_bwd")


def scan(inputs: Inputs, *, return_final_state: bool, backend: str) -> tuple[Tensor, ...]:
    """The op on prepared inputs: y, and the states of the last column and row or empty tensors."""
    _sequence.check_backend(backend)
    options = (
        inputs.dt_softplus, inputs.discretization, inputs.structure, inputs.reverse_rows,
        inputs.reverse_cols, return_final_state, backend,
    )  # fmt: skip
    return _forward_op(*inputs.tensors(), *options)


# The public functions.


def selective_scan_2d(
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
    initial_col_state: State | None = None,
    initial_row_state: State | None = None,
    return_final_state: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, FinalState]:
    """The 2D selective state-space scan, both ways coupled, with exact gradients.

    Per batch entry and channel, on the cells (v, t) of a grid, with states of N numbers::

        h1[v,t] = Ā1 h1[v,t-1] + Ā2 h2[v,t-1] + B̄1 x[v,t]      along time (columns)
        h2[v,t] = Ā3 h1[v-1,t] + Ā4 h2[v-1,t] + B̄2 x[v,t]      along variates (rows)
        y[v,t]  = (C1·h1[v,t] + C2·h2[v,t] + D x[v,t]) silu(z[v,t])

    The barred quantities use the steps of the cell (v, t) itself. With G(dt, A) = (exp(dt A) - 1)/A
    (dt where A is 0) they are, by ``discretization``:

    - ``"zoh"``: Ā1 = exp(dt1 A1), Ā2 = G(dt1, A1) A2, B̄1 = G(dt1, A1) B1 and likewise Ā4, Ā3, B̄2
      with dt2 and A4: the hold of the coupled differential equation. With A1, A4 < 0 it is stable
      for every positive step where |A2 A3| < A1 A4.
    - ``"mamba"``: the same with G replaced by the step.
    - ``"exp"``: Āi = exp(dt Ai), None meaning no coupling. It is unstable for small steps.
    - ``"none"``: A and B are discrete already; no steps.

    With ``structure="companion"``, A1 and A2 are the last columns of companion matrices and h1
    moves by h1 + g (Comp(A1) h1 - h1 + gamma Comp(A2) h2 + B1 x), g = 1 - exp(-dt1). ``"zoh"`` as
    stated and the step of the companion form are this library's readings of the paper.

    Args:
        x: (B, V, T, D) inputs; float32, float64, float16 or bfloat16.
        dt1, dt2: (B, V, T, H) steps of either state, H dividing D: a head is shared by D / H
            consecutive channels. None with ``discretization="none"`` and only there.
        A1, A2, A3, A4: (D, N), or (D, 1) shared by the N components; float32, or float64. N is at
            most 64. A2 and A3 may be None in ``"exp"`` and ``"none"``.
        B1, B2, C1, C2: (B, V, T, N), (B, V, T, G, N) with G dividing D, or (D, N) the same in
            every cell.
        D: (D,) weights of the skip.
        z: (B, V, T, D) gates.
        dt1_bias, dt2_bias: (H,) added to the steps.
        dt_softplus: the steps are softplus(dt + bias).
        discretization, structure: as above.
        gamma: (D,) in (-1, 1), for the companion structure and only there.
        reverse_rows, reverse_cols: scan that axis from its end, as if it were flipped in every
            per-cell input and flipped back in y. States are those of the flipped grid.
        initial_col_state: (h1, h2), each (B, V, D, N): the states left of the first column that is
            scanned, in the order in which rows are scanned.
        initial_row_state: (h1, h2), each (B, T, D, N): the states above the first row that is
            scanned, in the order in which columns are scanned.
        return_final_state: also return the states of the last column and of the last row scanned.
        backend: ``"native"`` (C++ or CUDA kernels), ``"torch"`` (anti-diagonals in torch code, any
            device) or ``"auto"`` (native where this installation has kernels).

    Returns:
        y, (B, V, T, D) in the dtype of x; with ``return_final_state``, (y, (col_state, row_state))
        of the forms of the initial states, float32 (float64 for float64 inputs).

    Raises:
        ValueError: for wrong shapes, choices, devices; the message names the argument.
        TypeError: for wrong dtypes (also a ``ValueError``).
        RuntimeError: for ``backend="native"`` without kernels, and in a double backward.

    Source: arXiv 2406.04320 (the 2D recurrence of Chimera). The backward pass was derived for this
    project.

    Example:
        >>> import torch
        >>> from rankone.ops import selective_scan_2d
        >>> x, dt = torch.randn(2, 5, 7, 8), torch.rand(2, 5, 7, 8)
        >>> decay, coupling = -torch.ones(8, 4), 0.5 * torch.ones(8, 4)
        >>> b1, b2, c1, c2 = torch.randn(4, 2, 5, 7, 4)
        >>> selective_scan_2d(x, dt, dt, decay, coupling, coupling, decay, b1, b2, c1, c2).shape
        torch.Size([2, 5, 7, 8])
    """
    flags = {"dt_softplus": dt_softplus, "return_final_state": return_final_state}
    checks.check_flags(flags | {"reverse_rows": reverse_rows, "reverse_cols": reverse_cols})
    inputs = prepare(
        x, dt1, dt2, (A1, A2, A3, A4), (B1, B2, C1, C2), D, z=z, dt1_bias=dt1_bias,
        dt2_bias=dt2_bias, dt_softplus=dt_softplus, discretization=discretization,
        structure=structure, gamma=gamma, reverse_rows=reverse_rows, reverse_cols=reverse_cols,
        col_state=initial_col_state, row_state=initial_row_state,
    )  # fmt: skip
    y, *states = scan(inputs, return_final_state=return_final_state, backend=backend)
    y = y.to(_sequence.output_dtype(x))
    if not return_final_state:
        return y
    col1, col2, row1, row2 = states
    return y, ((col1, col2), (row1, row2))


def selective_scan_2d_step(
    x_col: Tensor,
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
    col_state: State | None,
    z: Tensor | None = None,
    dt1_bias: Tensor | None = None,
    dt2_bias: Tensor | None = None,
    dt_softplus: bool = False,
    discretization: str = "zoh",
    structure: str = "diagonal",
    gamma: Tensor | None = None,
    reverse_rows: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, State]:
    """One column of :func:`selective_scan_2d`: all variates at the next time, in O(V D N).

    Args:
        x_col: (B, V, D) inputs of the column.
        dt1, dt2: (B, V, H) steps, or None with ``discretization="none"``.
        A1, A2, A3, A4: (D, N) or (D, 1).
        B1, B2, C1, C2: (B, V, N), (B, V, G, N) or (D, N).
        D: (D,) weights of the skip.
        col_state: (h1, h2) of the column before, each (B, V, D, N); None means zeros.
        z: (B, V, D) gates.
        dt1_bias, dt2_bias, dt_softplus, discretization, structure, gamma, reverse_rows, backend: as
            for the scan.

    Returns:
        y_col: (B, V, D) in the dtype of x_col.
        col_state: of this column, float32 (float64 for float64 inputs).

    Raises:
        ValueError, TypeError: as :func:`selective_scan_2d`.

    Source: arXiv 2406.04320.

    Example:
        >>> import torch
        >>> from rankone.ops import selective_scan_2d_step
        >>> one = torch.ones(1, 1)
        >>> options = {"discretization": "none", "col_state": None}
        >>> y, state = selective_scan_2d_step(
        ...     torch.ones(1, 3, 1), None, None, one, None, one, one, one, one, one, one, **options
        ... )
        >>> y.flatten().tolist()
        [2.0, 4.0, 6.0]
    """
    inputs = prepare(
        x_col, dt1, dt2, (A1, A2, A3, A4), (B1, B2, C1, C2), D, z=z, dt1_bias=dt1_bias,
        dt2_bias=dt2_bias, dt_softplus=dt_softplus, discretization=discretization,
        structure=structure, gamma=gamma, reverse_rows=reverse_rows, col_state=col_state,
        col_name="col_state", layout=COLUMN,
    )  # fmt: skip
    column = inputs.with_tensors(
        tuple(
            tensor.unsqueeze(2) if tensor is not None and per_cell(name, tensor) else tensor
            for name, tensor in zip(TENSORS, inputs.tensors(), strict=True)
        )
    )
    y, col1, col2, _, _ = scan(column, return_final_state=True, backend=backend)
    return y[:, :, 0].to(_sequence.output_dtype(x_col)), (col1, col2)


def roesser_kernel(
    A1: Tensor,
    A2: Tensor | None,
    A3: Tensor | None,
    A4: Tensor,
    B1: Tensor,
    B2: Tensor,
    C1: Tensor,
    C2: Tensor,
    shape: tuple[int, int],
) -> Tensor:
    """Impulse response of a constant discrete Roesser system, by its recurrence.

    The convolution of a grid with it is ``selective_scan_2d(..., discretization="none")`` of that
    grid.

    Args:
        A1, A2, A3, A4: (D, N) or (D, 1) discrete transitions; None for A2 or A3 is no coupling.
        B1, B2, C1, C2: (D, N).
        shape: (V, T), rows and columns.

    Returns:
        (D, V, T): what one unit at the first cell gives at every cell.

    Raises:
        ValueError, TypeError: as :func:`selective_scan_2d`; for a shape that is not two sizes.

    Source: arXiv 2406.04320.

    Example:
        >>> import torch
        >>> from rankone.ops import roesser_kernel
        >>> half, one = torch.full((1, 1), 0.5), torch.ones(1, 1)
        >>> roesser_kernel(half, None, None, half, one, one, one, one, (2, 3))[0].tolist()
        [[2.0, 0.5, 0.25], [0.5, 0.0, 0.0]]
    """
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"shape must be two sizes of at least 1 (rows, columns), got {shape}")
    for name, vector in (("B1", B1), ("B2", B2), ("C1", C1), ("C2", C2)):
        checks.check_rank(name, vector, ("channels", "state"))
    dtype = state_dtype(B1.dtype)
    impulse = torch.zeros(1, *shape, B1.shape[0], dtype=dtype, device=B1.device)
    impulse[:, 0, 0] = 1
    response = selective_scan_2d(
        impulse, None, None, A1, A2, A3, A4, B1, B2, C1, C2, discretization="none"
    )
    assert isinstance(response, Tensor)
    return response[0].permute(2, 0, 1)
