"""What this installation is and where it runs: versions, processor, threads, kernels, GPU."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def versions() -> dict[str, str]:
    """Versions of rankone and of what its numbers depend on, those that are installed."""
    import rankone

    found = {"rankone": rankone.__version__, "python": platform.python_version()}
    for package in ("torch", "numpy", "matplotlib"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """Name of the processor, as the operating system gives it."""
    try:
        listed = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        listed = ""
    match = re.search(r"^(?:model name|Hardware|Processor)\s*:\s*(.+)$", listed, re.MULTILINE)
    return match[1].strip() if match else platform.processor() or platform.machine()


def cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def native_kernels() -> dict[str, str]:
    """Whether the compiled module is there, with which kernels, and what the processor allows."""
    from rankone.ops._library import native_module

    native = native_module()
    if native is None:
        return {"native module": "not built: ops run as composite torch code"}
    return {
        "native module": "built",
        "instruction set": native.cpu.linear_attention_instruction_set(),
        "CUDA kernels": f"built for {native.cuda_targets}" if native.has_cuda else "not built",
    }


def accelerators() -> dict[str, str]:
    """The GPUs that torch sees."""
    import torch

    if not torch.cuda.is_available():
        return {"GPU": "none"}
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {"GPU": ", ".join(names)}


def describe() -> dict[str, str | int]:
    """All of the above, in the order in which a reader wants it."""
    import torch

    return {
        **versions(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cores": cores(),
        "torch threads": torch.get_num_threads(),
        **native_kernels(),
        **accelerators(),
    }


def check_device(device: str) -> None:
    """Require a device that torch can use here.

    Raises:
        ValueError: where it cannot, with torch's reason.
    """
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {device!r} cannot be used here: {reason}") from error
