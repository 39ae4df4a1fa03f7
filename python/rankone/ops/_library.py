"""The ``rankone`` operator library: how ops are defined, dispatched and tied to the native module.

Every op is registered the same way: its schema, one implementation for each device type that has
native kernels, one composite implementation in torch for every other device, a fake
implementation, autograd and autocast. ``Library.impl`` is used rather than the ``custom_op``
decorator because it costs about a quarter of the time a call.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

try:
    from rankone import _native
except ImportError as error:
    _native = None
    _native_error: str | None = str(error)
else:
    _native_error = None

LIBRARY = torch.library.Library("rankone", "DEF")

BUILD_HINT = (
    "Install rankone from source with a C++20 compiler (`pip install .`) for the CPU kernels, and "
    "with nvcc on PATH (`pip install . -C cmake.define.RANKONE_CUDA=ON`) for the CUDA kernels."
)

# Values of rankone::DataType.
_DATA_TYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}


def native_module() -> ModuleType | None:
    """The compiled module, or None where it was not built."""
    return _native


def native_for(op: str, device: torch.device, dtype: torch.dtype) -> ModuleType | None:
    """The submodule with the kernels of ``op`` for this device and dtype, or None.

    ``op`` is a public name of a family; a family may have kernels for one device only.
    """
    return None if _native is None else _kernels(_native, op, device.type, dtype)


@functools.cache
def _kernels(
    native: ModuleType, op: str, device_type: str, dtype: torch.dtype
) -> ModuleType | None:
    kernels = None
    if device_type == "cpu":
        kernels = native.cpu
    elif device_type == "cuda" and native.has_cuda and dtype != torch.float64:
        kernels = native.cuda
    return kernels if hasattr(kernels, f"{op.removesuffix('_step')}_step") else None


@functools.cache
def warn_composite(op: str, device_type: str) -> None:
    """Say once per op and device type that it runs without kernels."""
    reason = f": {_native_error}" if _native_error else ""
    warnings.warn(
        f"rankone.ops.{op} runs as composite torch code on {device_type!r} tensors, because this "
        f"installation has no kernels for them{reason}. {BUILD_HINT}",
        stacklevel=2,
    )


def require_native(op: str, device: torch.device, dtype: torch.dtype) -> ModuleType:
    """The kernels for ``backend="native"``, or an error that says how to get them."""
    native = native_for(op, device, dtype)
    if native is None:
        raise RuntimeError(
            f"backend='native' of rankone.ops.{op} has no kernels for {dtype} tensors on "
            f"{device.type!r} in this installation. {BUILD_HINT}"
        )
    return native


def data_type(dtype: torch.dtype) -> int:
    """The native module's number for a torch dtype."""
    return _DATA_TYPES[dtype]


def row_contiguous(tensor: Tensor) -> Tensor:
    """The tensor itself where its last axis is contiguous, which is all the kernels ask for."""
    if tensor.is_contiguous() or tensor.stride(-1) == 1 or tensor.shape[-1] <= 1:
        return tensor
    return tensor.contiguous()


def tokens(tensor: Tensor, outer_axes: int) -> tuple[int, int, int, int]:
    """Address and (batch, time, head) strides of a (batch, time, heads, ...) tensor.

    ``outer_axes`` is 2 with the time axis and 1 for one token, where it is left out.
    """
    stride = tensor.stride()
    if outer_axes == 2:
        return tensor.data_ptr(), stride[0], stride[1], stride[2]
    return tensor.data_ptr(), stride[0], 0, stride[1]


def address(tensor: Tensor | None) -> int:
    """Address of a contiguous tensor, 0 for None."""
    return 0 if tensor is None else tensor.data_ptr()


def call(native: ModuleType, function: str, result: Tensor, *arguments: object) -> None:
    """Call a kernel: on CPU with torch's thread count, on CUDA on the current stream.

    A CUDA function ``f`` may come with ``f_workspace``, which says how many bytes it needs.
    """
    if not result.is_cuda:
        getattr(native, function)(*arguments, torch.get_num_threads())
        return
    with torch.cuda.device(result.device):
        stream = torch.cuda.current_stream(result.device).cuda_stream
        size = getattr(native, f"{function}_workspace", None)
        if size is None:
            getattr(native, function)(*arguments, stream)
            return
        workspace = result.new_empty(size(*arguments), dtype=torch.uint8)
        getattr(native, function)(*arguments, workspace.data_ptr(), stream)


def call_op(operator: Callable, *arguments: object) -> Any:
    """An op, past autograd's layer where nothing asks for a gradient.

    That layer is Python, and takes longer than a small kernel.
    """
    if torch.compiler.is_compiling():
        return operator(*arguments)
    if torch.is_grad_enabled():
        for argument in arguments:
            if isinstance(argument, Tensor) and argument.requires_grad:
                return operator(*arguments)
    with torch._C._AutoDispatchBelowAutograd():
        return operator(*arguments)


def define(
    schema: str,
    *,
    implementation: Callable,
    fake: Callable,
    cast_inputs: Sequence[int],
) -> Callable:
    """Define one op and return its callable ``torch.ops.rankone.<name>.default``.

    Args:
        schema: the op's schema, without the namespace.
        implementation: called for every device; it chooses between native and composite code.
        fake: shapes and dtypes alone.
        cast_inputs: positions of the arguments that autocast casts. Decays and states are left
            out: they are kept in float32.
    """
    name = schema[: schema.index("(")]
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    LIBRARY.impl(name, implementation, "CompositeExplicitAutograd")
    torch.library.register_fake(f"rankone::{name}", fake, lib=LIBRARY)
    operator = getattr(torch.ops.rankone, name).default
    for device_type, key in (("cpu", "AutocastCPU"), ("cuda", "AutocastCUDA")):
        LIBRARY.impl(name, _autocast(operator, device_type, key, frozenset(cast_inputs)), key)
    return operator


def _autocast(
    operator: Callable, device_type: str, key: str, positions: frozenset[int]
) -> Callable:
    excluded = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))

    def cast(*arguments):
        dtype = torch.get_autocast_dtype(device_type)
        arguments = tuple(
            argument.to(dtype) if index in positions and _castable(argument) else argument
            for index, argument in enumerate(arguments)
        )
        with torch._C._ExcludeDispatchKeyGuard(excluded):
            return operator(*arguments)

    return cast


def _castable(argument: object) -> bool:
    return (
        isinstance(argument, Tensor)
        and argument.is_floating_point()
        and argument.dtype != torch.float64
    )


def differentiate(name: str, backward: Callable, setup_context: Callable) -> None:
    """Register the gradient formula of an op."""
    torch.library.register_autograd(
        f"rankone::{name}", backward, setup_context=setup_context, lib=LIBRARY
    )


def forbid_double_backward(name: str) -> None:
    """Give a backward op an autograd formula that says that there is none."""

    def raise_error(ctx, *gradients):
        raise RuntimeError(f"rankone::{name} is not twice differentiable")

    torch.library.register_autograd(f"rankone::{name}", raise_error, lib=LIBRARY)
