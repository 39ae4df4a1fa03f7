"""Peak memory of one call beyond its inputs, its results included.

On a CPU each measurement runs in a fresh process, forked from a server that has imported
everything and computed nothing, and reads the growth of the process's peak resident size. On CUDA
it is what torch's allocator counted.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from bench.peers.registry import Case, load

# A call on this many tokens loads code and starts threads before the measurement.
_WARM_UP_TIME = 128


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def start_peak() -> int:
    """Hand free memory back, start a new peak, and return the resident size now, in bytes.

    Raises:
        OSError: where the kernel does not let a process start a new peak (Linux does).
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status_bytes("VmRSS")


def peak_bytes() -> int:
    """Largest resident size since :func:`start_peak`."""
    return _status_bytes("VmHWM")


def _measure(connection: Connection, name: str, contender: str, case: Case, threads: int) -> None:
    torch.set_num_threads(threads)
    benchmark = load(name)
    prepare = {c.name: c.prepare for c in benchmark.contenders}[contender]
    device = torch.device("cpu")
    small = replace(case, axes={**case.axes, "T": min(_WARM_UP_TIME, int(case.axes["T"]))})
    prepare(small, benchmark.inputs(small, device, 0))()
    call = prepare(case, benchmark.inputs(case, device, 0))
    before = start_peak()
    results = call()
    connection.send(peak_bytes() - before)
    del results


def cpu_extra_bytes(name: str, contender: str, case: Case) -> int:
    """Growth of the peak resident size over one call of a contender on a case with an axis "T"."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "rankone.ops", "bench.peers.memory"])
    receiver, sender = context.Pipe(duplex=False)
    arguments = (sender, name, contender, case, torch.get_num_threads())
    process = context.Process(target=_measure, args=arguments, daemon=True)
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(
            f"measuring the memory of {contender} on {case} ended with status {process.exitcode}"
        ) from None
    finally:
        process.join()


def cuda_extra_bytes(call: Callable[[], object]) -> int:
    """Growth of torch's peak allocation over one call."""
    gc.collect()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    results = call()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated()
    del results
    return peak - before
