"""Times and ceilings: what the machine can do, and what each contender does with it.

On a CPU a square float32 matrix product takes part in every round, so that the fraction of its rate
is a ratio within one run. On CUDA the ceilings are measured once, by a large copy and a large
matrix product on random data, and times come from events around calls that rotate among several
input sets, more than the cache holds together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from rankone._timing import Timing, interleaved

SGEMM_SIZE = 768  # 0.9 GFLOP: tens of milliseconds on two cores, and well past the caches' edge
SGEMM = "sgemm"

_COPY_BYTES = 2**30
_MATMUL_SIZE = 8192
# Work between two events: far above their resolution of about a microsecond.
_CUDA_SAMPLE_SECONDS = 4e-3
_MAX_CALLS = 200


@dataclass(frozen=True)
class Ceilings:
    """Rates of a CUDA device, measured in this run: bytes/s read plus written, and flop/s."""

    copy_rate: float
    matmul_rate: Mapping[str, float]

    def floor(self, flops: float, size: float, dtype: torch.dtype) -> float:
        """Seconds that no implementation can be much below."""
        return max(size / self.copy_rate, flops / self.matmul_rate[str(dtype)])

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def sgemm_call() -> Callable[[], object]:
    left, right, out = (torch.rand(SGEMM_SIZE, SGEMM_SIZE) for _ in range(3))
    return lambda: torch.mm(left, right, out=out)


def sgemm_flops() -> float:
    return 2.0 * SGEMM_SIZE**3


def cpu_times(calls: Mapping[str, Callable[[], object]], *, repeats: int) -> dict[str, Timing]:
    """A :class:`Timing` a call and one for the matrix product, from the same rounds."""
    return interleaved({**calls, SGEMM: sgemm_call()}, repeats=repeats)


def _elapsed(function: Callable[[], object], calls: int) -> float:
    """Seconds of the device between the first and the last of ``calls`` calls, a call."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(calls):
        function()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e-3 / calls


def rotating(calls: Sequence[Callable[[], object]]) -> Callable[[], object]:
    """One call that runs the next of ``calls`` each time."""
    state = {"next": 0}

    def call() -> object:
        index = state["next"]
        state["next"] = (index + 1) % len(calls)
        return calls[index]()

    return call


def cuda_times(calls: Mapping[str, Callable[[], object]], *, repeats: int) -> dict[str, Timing]:
    """Timings by events, in alternating rounds, after a warm-up of every call."""
    counts = {}
    for name, call in calls.items():
        for _ in range(3):
            call()
        once = max(_elapsed(call, 2), 1e-7)
        counts[name] = min(_MAX_CALLS, max(2, math.ceil(_CUDA_SAMPLE_SECONDS / once)))
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for round_index in range(repeats):
        names = list(calls)
        for name in names if round_index % 2 == 0 else reversed(names):
            seconds[name].append(_elapsed(calls[name], counts[name]))
    return {name: Timing(name, tuple(values)) for name, values in seconds.items()}


def host_times(calls: Mapping[str, Callable[[], object]], *, repeats: int) -> dict[str, Timing]:
    """Wall-clock seconds a call on CUDA, Python included, of calls issued one after another."""
    return interleaved(calls, repeats=repeats, synchronize=torch.cuda.synchronize)


def graph_of(call: Callable[[], object]) -> Callable[[], None]:
    """Capture one call into a CUDA graph and return its replay.

    Raises:
        RuntimeError: where the call cannot be captured.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def cuda_ceilings(dtypes: Sequence[torch.dtype], *, repeats: int = 5) -> Ceilings:
    """Measure the copy rate and the matrix product rate of each dtype."""
    source = torch.rand(_COPY_BYTES // 4, device="cuda")
    target = torch.empty_like(source)
    copy = cuda_times({"copy": lambda: target.copy_(source)}, repeats=repeats)["copy"]
    rates = {}
    for dtype in dtypes:
        left, right = (
            torch.randn(_MATMUL_SIZE, _MATMUL_SIZE, device="cuda", dtype=dtype) for _ in range(2)
        )
        timing = cuda_times({"product": lambda a=left, b=right: a @ b}, repeats=repeats)["product"]
        rates[str(dtype)] = 2.0 * _MATMUL_SIZE**3 / timing.median
        del left, right
    return Ceilings(2.0 * _COPY_BYTES / copy.median, rates)


def input_sets(size: float) -> int:
    """How many input sets of ``size`` bytes it takes to exceed twice the cache, 2 to 16."""
    cache = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
    return min(16, max(2, math.ceil(2 * cache / size)))
