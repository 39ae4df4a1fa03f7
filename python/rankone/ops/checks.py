"""Argument checks shared by every op.

Shapes, dtypes and devices are checked always, in plain Python that ``torch.compile`` can trace.
Checks that read values run inside the ops (see :func:`values_checked`): always on CPU tensors, and
on other devices only with ``RANKONE_CHECK_VALUES=1``, because there they synchronise.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType

import torch
from torch import Tensor

from rankone.ops import _library

FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

# Values that one native pass on one thread reads faster than torch's threaded reductions start.
_NATIVE_PASS_LIMIT = 1 << 15
_NATIVE_PASS_DTYPES = (torch.float32, torch.float64)


class DTypeError(TypeError, ValueError):
    """An argument of the wrong dtype; caught as ``TypeError`` and as ``ValueError``."""


def shape_of(tensor: Tensor) -> str:
    """Shape as it reads in an error message: ``(2, 16, 4, 64)``."""
    return str(tuple(tensor.shape))


def check_tensor(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")


def check_flags(flags: Mapping[str, object]) -> None:
    """Require booleans: text such as "no" would read as True."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, got {value!r}")


def check_rank(name: str, tensor: Tensor, layout: Sequence[str]) -> None:
    """Require one axis per entry of ``layout``, e.g. ``("batch", "time", "heads", "dim")``."""
    check_tensor(name, tensor)
    if tensor.ndim != len(layout):
        raise ValueError(
            f"{name} must be {len(layout)}-D ({', '.join(layout)}), got shape {shape_of(tensor)}"
        )


def check_shape(name: str, tensor: Tensor, expected: Sequence[int], layout: str) -> None:
    """Require exactly the shape ``expected``; ``layout`` says in words what its axes are."""
    check_tensor(name, tensor)
    if tuple(tensor.shape) != tuple(expected):
        raise ValueError(
            f"{name} must have shape {tuple(expected)} ({layout}), got {shape_of(tensor)}"
        )


def check_floating(name: str, tensor: Tensor) -> None:
    if tensor.dtype not in FLOATING:
        raise DTypeError(
            f"{name} must be float32, float64, float16 or bfloat16, got {tensor.dtype}"
        )


def autocast_dtype(tensor: Tensor) -> torch.dtype | None:
    """The dtype autocast asks for on the tensor's device, or None where it is not active."""
    device_type = tensor.device.type
    if not torch.amp.is_autocast_available(device_type):
        return None
    if not torch.is_autocast_enabled(device_type):
        return None
    return torch.get_autocast_dtype(device_type)


def check_same_dtype(tensors: Mapping[str, Tensor]) -> None:
    """Require one floating dtype, except under autocast, which casts them to one itself."""
    dtypes = [tensor.dtype for tensor in tensors.values()]
    if dtypes[0] in FLOATING and all(dtype == dtypes[0] for dtype in dtypes):
        return
    for name, tensor in tensors.items():
        check_floating(name, tensor)
    (first, reference), *others = tensors.items()
    if autocast_dtype(reference) is not None:
        return
    for name, tensor in others:
        if tensor.dtype != reference.dtype:
            raise DTypeError(
                f"{name} must have the dtype of {first}, {reference.dtype}, got {tensor.dtype}"
            )


def check_same_device(tensors: Mapping[str, Tensor | None]) -> None:
    present = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    (first, reference), *others = present.items()
    for name, tensor in others:
        if tensor.device != reference.device:
            raise ValueError(
                f"{name} must be on the device of {first}, {reference.device}, got {tensor.device}"
            )


class SeenBefore:
    """Signatures that have passed a check which depends on them alone.

    For ops called once a token, where the checks take longer than the kernel. A signature is the
    shape, dtype and device of every tensor argument, with what else the check reads.
    """

    _LIMIT = 1024  # signatures of one op in one program are few

    def __init__(self) -> None:
        self._passed: set[tuple] = set()

    def check(self, check: Callable[[], None], tensors: Sequence[object], *others: object) -> None:
        """Run ``check`` unless this signature has passed it.

        Under autocast a signature may pass that does not without it, and where shapes are symbols
        the tracer has its own guards: there the check runs every time.
        """
        if torch.compiler.is_compiling() or torch._C._is_any_autocast_enabled():
            check()
            return
        signature = (*others, *map(_signature, tensors))
        try:
            if signature in self._passed:
                return
        except TypeError:  # sizes that are symbols have no hash
            check()
            return
        check()
        if len(self._passed) >= self._LIMIT:
            self._passed.clear()
        self._passed.add(signature)


def _signature(value: object) -> object:
    """What is not a tensor stands for its type, which the check refuses, or for None."""
    if isinstance(value, Tensor):
        return value.shape, value.dtype, value.device
    return None if value is None else type(value)


def check_grouped_heads(name: str, heads: int, kv_name: str, kv_heads: int) -> None:
    if kv_heads == 0 or heads % kv_heads:
        raise ValueError(
            f"{name} must have a multiple of the heads of {kv_name}, got {heads} and {kv_heads}"
        )


def check_head_dim(name: str, dim: int, limit: int) -> None:
    if not 1 <= dim <= limit:
        raise ValueError(f"the last axis of {name} must be between 1 and {limit}, got {dim}")


def check_cu_seqlens(cu_seqlens: Tensor, batch: int) -> None:
    """Shape and dtype of packed-sequence offsets; their values are checked by the op."""
    check_tensor("cu_seqlens", cu_seqlens)
    if batch != 1:
        raise ValueError(f"batch size must be 1 when cu_seqlens is given, got {batch}")
    if cu_seqlens.dtype not in (torch.int32, torch.int64):
        raise DTypeError(f"cu_seqlens must be int32 or int64, got {cu_seqlens.dtype}")
    if cu_seqlens.ndim != 1 or cu_seqlens.numel() < 1:
        raise ValueError(
            "cu_seqlens must be 1-D (sequences + 1) with at least one entry, "
            f"got shape {shape_of(cu_seqlens)}"
        )


def values_checked(tensor: Tensor) -> bool:
    """Whether checks that read the values of ``tensor`` run."""
    return tensor.is_cpu or os.environ.get("RANKONE_CHECK_VALUES") == "1"


def _native_pass(tensor: Tensor) -> tuple[ModuleType, tuple[int, int, bool]] | None:
    """The module whose passes over values read this tensor, and their arguments, or None."""
    native = _library.native_module()
    count = tensor.numel()
    if native is None or count > _NATIVE_PASS_LIMIT or tensor.dtype not in _NATIVE_PASS_DTYPES:
        return None
    if not (tensor.is_cpu and tensor.is_contiguous()):
        return None
    return native.cpu, (tensor.data_ptr(), count, tensor.dtype == torch.float64)


def check_log_decay_values(log_decay: Tensor) -> None:
    """Require every log-decay to be at most 0 (``-inf`` is a reset), which NaN is not."""
    if not values_checked(log_decay) or log_decay.numel() == 0:
        return
    native = _native_pass(log_decay)
    if native is None:
        largest = log_decay.detach().max().item()
    else:
        module, values = native
        largest = module.largest(*values)
    if not largest <= 0:
        raise ValueError(
            f"log_decay must be at most 0 everywhere (-inf resets the state), got {largest}"
        )


def check_finite_values(name: str, tensor: Tensor) -> None:
    if not values_checked(tensor):
        return
    native = _native_pass(tensor)
    if native is not None:
        module, values = native
        if module.all_finite(*values):
            return
    finite = tensor.detach().isfinite()
    if not bool(finite.all()):
        raise ValueError(f"{name} must be finite, got {tensor.detach()[~finite][0].item()}")


def check_cu_seqlens_values(cu_seqlens: Tensor, time: int) -> None:
    """Require offsets that start at 0, never decrease and end at ``time``."""
    if not values_checked(cu_seqlens):
        return
    offsets = cu_seqlens.tolist()
    if offsets[0] != 0:
        raise ValueError(f"cu_seqlens must start at 0, got {offsets[0]}")
    for index in range(len(offsets) - 1):
        if offsets[index + 1] < offsets[index]:
            raise ValueError(
                f"cu_seqlens must not decrease, got {offsets[index]} followed by "
                f"{offsets[index + 1]} at position {index + 1}"
            )
    if offsets[-1] != time:
        raise ValueError(f"cu_seqlens must end at the time length {time}, got {offsets[-1]}")
