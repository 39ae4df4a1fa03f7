"""What the sequence ops share: dtypes of state and output, common arguments, native tuples.

A sequence op takes (batch, time, heads, dim) tensors, log-decays, a state per sequence and packed
sequences. Each op's own module holds what is its own: shapes, schemas and gradients.
"""

from __future__ import annotations

import math
from types import ModuleType

import torch
from torch import Tensor

from rankone.ops import _library, checks

BACKENDS = ("auto", "native", "torch")

# Values of rankone::DecayForm.
NO_DECAY, PER_HEAD, PER_TOKEN, PER_CHANNEL = 0, 1, 2, 3


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """Dtype of states and decays, and of the accumulation, for inputs of ``dtype``."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def output_dtype(q: Tensor) -> torch.dtype:
    """Dtype of the result: that of q, or autocast's where autocast applies."""
    dtype = checks.autocast_dtype(q)
    return q.dtype if dtype is None or q.dtype == torch.float64 else dtype


def sequence_count(q: Tensor, cu_seqlens: Tensor | None) -> int:
    return q.shape[0] if cu_seqlens is None else cu_seqlens.numel() - 1


def finite_scale(scale: float | None, key_dim: int) -> float:
    """The factor of the output: K ** -0.5 for None, else a finite number."""
    if scale is None:
        return key_dim**-0.5
    if not math.isfinite(scale):
        raise ValueError(f"scale must be finite, got {scale}")
    return float(scale)


def check_backend(backend: str) -> None:
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {BACKENDS}, got {backend!r}")


def check_chunk_size(chunk_size: int | None, allowed: tuple[int, ...]) -> None:
    if chunk_size is not None and chunk_size not in allowed:
        raise ValueError(f"chunk_size must be one of {allowed} or None, got {chunk_size}")


def check_values(time: int, log_decay: Tensor | None, cu_seqlens: Tensor | None) -> None:
    """The checks that read values; called inside the ops."""
    if log_decay is not None:
        checks.check_log_decay_values(log_decay)
    if cu_seqlens is not None:
        checks.check_cu_seqlens_values(cu_seqlens, time)


def choose(op: str, tensor: Tensor, backend: str) -> ModuleType | None:
    """The native kernels to run on, or None for composite torch code."""
    if backend == "torch":
        return None
    if backend == "native":
        return _library.require_native(op, tensor.device, tensor.dtype)
    native = _library.native_for(op, tensor.device, tensor.dtype)
    if native is None:
        _library.warn_composite(op, tensor.device.type)
    return native


def optional(tensor: Tensor | None, like: Tensor) -> Tensor:
    """An op cannot return None: an unwanted gradient is a tensor without elements."""
    return like.new_empty(0) if tensor is None else tensor


def native_log_decay(
    log_decay: Tensor | None, dtype: torch.dtype, ndim: int
) -> tuple[int, tuple[int, int, int, int], Tensor | None]:
    """Form, address with strides, and the tensor that must outlive the call.

    ``ndim`` is the number of axes of the keys: 4, or 3 for one token.
    """
    if log_decay is None:
        return NO_DECAY, (0, 0, 0, 0), None
    if log_decay.dtype != dtype:
        log_decay = log_decay.to(dtype)
    if log_decay.ndim == 1:
        log_decay = log_decay.contiguous()
        return PER_HEAD, (log_decay.data_ptr(), 0, 0, 0), log_decay
    if log_decay.ndim < ndim:
        return PER_TOKEN, _library.tokens(log_decay, ndim - 2), log_decay
    log_decay = _library.row_contiguous(log_decay)
    return PER_CHANNEL, _library.tokens(log_decay, ndim - 2), log_decay


def native_state(state: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    if state is None or (state.dtype == dtype and state.is_contiguous()):
        return state
    return state.to(dtype).contiguous()


def native_offsets(cu_seqlens: Tensor | None) -> Tensor | None:
    return None if cu_seqlens is None else cu_seqlens.to(torch.int64).contiguous()
