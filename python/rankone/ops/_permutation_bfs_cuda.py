"""The CUDA side of the breadth-first search: which kernels there are, and the device's memory.

A search asks for its arrays one by one and gets torch tensors, so that a program has one allocator
of device memory; work is ordered on torch's current stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from rankone.ops import _library

# Part of the free memory that a search may take: the rest is for what other streams allocate.
_SPARE_MEMORY = 0.9


def cuda_kernels(device: torch.device) -> ModuleType | None:
    """The compiled CUDA functions of this family for tensors on ``device``, or None."""
    native = _library.native_module()
    if device.type != "cuda" or native is None or not native.has_cuda:
        return None
    return native.cuda if hasattr(native.cuda, "bfs_hash") else None


def free_device_memory(device: torch.device) -> int:
    """Bytes of a CUDA device that can be allocated now, torch's unused blocks included."""
    free = torch.cuda.mem_get_info(device)[0]
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def device_limit(device: torch.device, max_bytes: int | None) -> int | None:
    """Bytes that a search may take: what was allowed, and never more than what is free."""
    if device.type != "cuda":
        return max_bytes
    spare = int(_SPARE_MEMORY * free_device_memory(device))
    return spare if max_bytes is None else min(max_bytes, spare)


class DeviceArrays:
    """The arrays of one search, by address."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._held: dict[int, Tensor] = {}

    def allocate(self, count: int) -> int:
        """The address of ``count`` new bytes, 0 where the device has no room."""
        try:
            array = torch.empty(count, dtype=torch.uint8, device=self.device)
        except torch.cuda.OutOfMemoryError:
            return 0
        self._held[array.data_ptr()] = array
        return array.data_ptr()

    def release(self, address: int) -> None:
        """Gives an array back to torch, which reuses it on the same stream."""
        del self._held[address]


def cuda_search(
    kernels: ModuleType, engine: str, graph: Any, device: torch.device, **options: Any
) -> Mapping[str, Any]:
    """Run one engine on ``device``; packed layers and the summary as the native module returns
    them."""
    if engine not in ("hash", "bitarray"):
        raise ValueError(f"engine {engine!r} runs on the CPU, got a search on {device}")
    arrays = DeviceArrays(device)
    context: AbstractContextManager[Any] = nullcontext()
    stream = 0
    if device.type == "cuda":
        context = torch.cuda.device(device)
        stream = torch.cuda.current_stream(device).cuda_stream
    with context:
        return getattr(kernels, f"bfs_{engine}")(
            graph, allocate=arrays.allocate, release=arrays.release, stream=stream, **options
        )
