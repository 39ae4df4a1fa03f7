"""Choice of the engine of a search, and what each of them needs, before it starts.

- ``torch``: sorted layers in torch, any device.
- ``hash``: the native partitioned hash set, any generators.
- ``bitarray``: the native perfect-hash search with 2 bits a state: whole symmetric groups, 0/1
  words, unitriangular matrices.
- ``external``: sorted files in a scratch folder, any generators.
- ``distributed``: hash or torch shares over ``torch.distributed``.

A graph on a GPU has ``hash`` and, for whole symmetric groups, ``bitarray`` there, where the CUDA
kernels were built, and ``torch``.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rankone.cayley.algo._collect import Limits, Wanted
from rankone.cayley.algo._shares import NativeCodec
from rankone.cayley.cayley_graph_def import CayleyGraphDef
from rankone.cayley.errors import CayleyError, check
from rankone.cayley.group_orders import giant_order, random_order
from rankone.ops._permutation_bfs import native_kernels
from rankone.ops._permutation_bfs_cuda import cuda_kernels, free_device_memory

if TYPE_CHECKING:
    from rankone.cayley.cayley_graph import CayleyGraph

ENGINES = ("auto", "torch", "hash", "bitarray", "external", "distributed")

GIB = 2**30
# Bytes a state of three adjacent layers in the torch engine: words and hash, held about three times
# while a layer is sorted.
_TORCH_COPIES = 3
# Slots a state in an open-addressing table filled to at most 0.7.
_HASH_SLOTS = 1 / 0.7
# Largest degree for which "auto" considers the bits of the whole symmetric group: the states of 14
# elements take 22 GB, which a GPU may have.
_BITARRAY_N = {"cpu": 13, "cuda": 14}
# "auto" takes the bitarray for a subgroup of at most this index.
_BITARRAY_INDEX = 64
# Below this many states the choice of engine does not matter, and torch has hashes at hand.
_SMALL = 10**5
# Groups are not measured further: 10^15 states are thousands of terabytes.
_ENOUGH_STATES = 10**15
_SPARE_MEMORY = 0.9
_SAMPLE = 2**30


def has_native_engines(graph: CayleyGraph) -> bool:
    """Whether the compiled CPU engines can search this graph: built, and the graph on the CPU."""
    return native_kernels() is not None and graph.device.type == "cpu"


def has_compiled_engines(graph: CayleyGraph) -> bool:
    """Whether there are compiled engines for the graph's device, CPU or GPU."""
    return has_native_engines(graph) or cuda_kernels(graph.device) is not None


def free_memory(device: torch.device) -> int:
    """Bytes that can be allocated now."""
    if device.type == "cuda":
        return free_device_memory(device)
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def memory_limit(graph: CayleyGraph, max_memory_gb: float | None) -> int:
    """Bytes that a search may take: what was allowed, and never more than what is free."""
    if max_memory_gb is None:
        max_memory_gb = graph.memory_limit_gb
    check(max_memory_gb > 0, f"max_memory_gb must be positive, got {max_memory_gb}")
    return int(min(max_memory_gb * GIB, _SPARE_MEMORY * free_memory(graph.device)))


@dataclass(frozen=True)
class Bound:
    """At most how many states a search can reach; None where no bound is known."""

    states: int | None
    exact: bool


def arrangements(state: list[int]) -> int:
    """In how many orders the entries of a state can stand."""
    count = math.factorial(len(state))
    for repeats in Counter(state).values():
        count //= math.factorial(repeats)
    return count


@lru_cache(maxsize=64)
def _order(generators: tuple[tuple[int, ...], ...]) -> tuple[int, bool]:
    exact = giant_order(generators)
    if exact is not None:
        return exact, True
    return random_order(generators, enough=_ENOUGH_STATES), False


def group_order(definition: CayleyGraphDef) -> tuple[int, bool]:
    """Order of a permutation group and whether it is proved, remembered.

    A group that was not recognised is measured by random Schreier-Sims, up to more states than
    any machine holds: then the order is a lower bound, and a search is refused all the same.
    """
    return _order(tuple(tuple(generator) for generator in definition.generators_permutations))


def states_bound(graph: CayleyGraph, starts: Tensor, *, order: bool) -> Bound:
    """Bound of the number of states; with ``order`` the group's order is computed where that is
    cheap enough."""
    definition = graph.definition
    if definition.is_permutation_group():
        kinds = {tuple(sorted(row)) for row in starts.tolist()} if len(starts) < 1000 else None
        total = (
            sum(arrangements(list(kind)) for kind in kinds)
            if kinds is not None
            else len(starts) * math.factorial(definition.state_size)
        )
        distinct = len(set(definition.central_state)) == definition.state_size
        if order:
            size, proved = group_order(definition)
            exact = proved and distinct and len(starts) == 1
            return Bound(min(total, size * len(starts)), exact)
        return Bound(total, False)
    modulo = definition.generators_matrices[0].modulo
    if modulo == 0:
        return Bound(None, False)
    n = definition.generators_matrices[0].n
    unitriangular = all(
        not any(g.matrix[i, j] != (i == j) for i in range(n) for j in range(i + 1))
        for g in definition.generators_matrices
    )
    if unitriangular and definition.decoded_state_shape == (n, n):
        return Bound(len(starts) * modulo ** (n * (n - 1) // 2), False)
    return Bound(modulo**definition.state_size, False)


def window_bound(graph: CayleyGraph, bound: Bound, limits: Limits, starts: int) -> int | None:
    """At most how many states a search has to remember at a time."""
    definition = graph.definition
    degree = definition.n_generators
    closed = definition.generators_inverse_closed
    largest = bound.states
    if limits.max_diameter < 64:
        reach = starts
        layers = [starts]
        for _ in range(limits.max_diameter):
            reach *= max(1, degree - (1 if closed and len(layers) > 1 else 0))
            layers.append(reach)
        window = sum(layers[-3:]) if closed else sum(layers)
        largest = window if largest is None else min(largest, window)
    caps = [cap for cap in (limits.max_layer_size, limits.max_states) if cap is not None]
    if min(caps) < 10**12:
        if closed:
            window = min(caps) * (degree + 2)
            largest = window if largest is None else min(largest, window)
        elif limits.max_states is not None:
            window = limits.max_states * (degree + 1)
            largest = window if largest is None else min(largest, window)
    return largest


def engine_bytes(graph: CayleyGraph, engine: str, window: int | None, limit: int) -> int | None:
    """Bytes of an engine for a number of states to remember; None where there is no bound."""
    words = graph.encoded_state_size
    kernels = cuda_kernels(graph.device)
    if engine in ("bitarray", "external"):
        native = NativeCodec(graph, graph.central_state[None]).native
        if engine == "bitarray" and kernels is not None:
            return int(kernels.bfs_memory(native)["bitarray"]) or None
        return int(native.memory(0)[engine]) or None
    if window is None:
        return None
    if engine == "hash" and kernels is not None:
        native = NativeCodec(graph, graph.central_state[None]).native
        # Asked for a number that cannot overflow, and scaled.
        asked = min(window, _SAMPLE)
        return int(kernels.bfs_memory(native, asked)["hash"]) * window // asked
    if engine == "torch":
        return int(window * 8 * (words + 1) * _TORCH_COPIES)
    return int(window * 8 * words * _HASH_SLOTS)


def bitarray_obstacle(graph: CayleyGraph, starts: Tensor) -> str:
    """Why the bitarray engine does not apply, or ""."""
    if native_kernels() is None:
        return "the native module is not built"
    native = NativeCodec(graph, starts).native
    kernels = cuda_kernels(graph.device)
    return native.bitarray_obstacle() if kernels is None else kernels.bitarray_obstacle(native)


def estimate_memory(graph: CayleyGraph, engine: str = "auto") -> dict[str, Any]:
    """See :meth:`rankone.cayley.CayleyGraph.estimate_memory`."""
    starts = graph.central_state[None]
    plan = Plan(graph, starts, Limits(), Wanted(), max_memory_gb=None, scratch_dir=None)
    if engine == "auto":
        try:
            engine = plan.choose()
        except MemoryError:
            engine = "external"
    _check_engine(engine)
    return plan.estimate(engine)


def _check_engine(engine: str) -> None:
    if engine not in ENGINES:
        raise CayleyError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")


class Plan:
    """What a search would need, and which engine is to make it."""

    def __init__(
        self,
        graph: CayleyGraph,
        starts: Tensor,
        limits: Limits,
        wanted: Wanted,
        *,
        max_memory_gb: float | None,
        scratch_dir: str | os.PathLike[str] | None,
        resume: bool = False,
    ) -> None:
        self.graph = graph
        self.starts = starts
        self.limits = limits
        self.wanted = wanted
        self.scratch_dir = scratch_dir
        self.resume = resume
        self.limit_bytes = memory_limit(graph, max_memory_gb)
        self._bounds: dict[bool, Bound] = {}

    def bound(self, *, order: bool) -> Bound:
        """The number of states, with or without the group's order."""
        if order not in self._bounds:
            self._bounds[order] = states_bound(self.graph, self.starts, order=order)
        return self._bounds[order]

    def needed(self, engine: str, *, order: bool) -> int | None:
        """Bytes of memory; None where there is no bound."""
        window = window_bound(self.graph, self.bound(order=order), self.limits, len(self.starts))
        return engine_bytes(self.graph, engine, window, self.limit_bytes)

    def disk_needed(self, *, order: bool) -> int | None:
        """Bytes of the scratch folder for a complete search; None where there is no bound."""
        states = self.bound(order=order).states
        if states is None:
            return None
        codec = NativeCodec(self.graph, self.starts)
        # Asked for a number that cannot overflow, and scaled: 30! states are no int64.
        asked = min(states, _SAMPLE)
        return int(codec.native.memory(asked)["external_disk"]) * states // asked

    def disk_free(self) -> int:
        """Free bytes where the scratch folder is or would be made."""
        folder = Path(self.scratch_dir or tempfile.gettempdir()).absolute()
        while not folder.exists():
            folder = folder.parent
        return shutil.disk_usage(folder).free

    def obstacle(self, engine: str) -> str:
        """Why an engine cannot make this search at all, or ""."""
        native = native_kernels()
        if engine == "torch":
            return ""
        if native is None and engine in ("hash", "bitarray", "external"):
            return "the native module is not built"
        if engine in ("hash", "bitarray", "external") and self.graph.device.type != "cpu":
            obstacle = self._device_obstacle(engine)
            if obstacle:
                return obstacle
        if engine == "bitarray":
            return bitarray_obstacle(self.graph, self.starts)
        if engine == "external" and self.resume and self.wanted.needs_layers:
            return "a resumed search has no hashes, edges or stop condition"
        return ""

    def _device_obstacle(self, engine: str) -> str:
        """Why a compiled engine cannot make this search off the CPU, or ""."""
        device = self.graph.device
        if engine == "external":
            return f"it runs on the CPU, and the graph is on {device}"
        if cuda_kernels(device) is None:
            return f"the graph is on {device}, for which it has no kernels in this installation"
        if engine == "hash" and self.scratch_dir is not None:
            return (
                f"with scratch_dir it runs on the CPU, and the graph is on {device}; "
                "engine 'torch' writes checkpoints there"
            )
        return ""

    def misfit(self, engine: str) -> str:
        """Why an engine would not fit, or "".

        Bounds come cheap first: the group's order is computed only where the arrangements of the
        central state alone would not fit.
        """
        if engine == "bitarray":
            codes = self.needed(engine, order=False) or 0
            return "" if codes <= self.limit_bytes else self._too_much(engine, codes)
        if engine == "external":
            buffers = self.needed(engine, order=False) or 0
            if buffers > self.limit_bytes:
                return self._too_much(engine, buffers)
            for order in (False, True):
                disk = self.disk_needed(order=order)
                if disk is not None and disk <= self.disk_free():
                    return ""
            amount = "disk without bound" if disk is None else f"{disk / GIB:.3g} GiB of disk"
            return (
                f"engine 'external' would need {amount}, {self.disk_free() / GIB:.3g} GiB are free"
            )
        for order in (False, True):
            needed = self.needed(engine, order=order)
            if needed is not None and needed <= self.limit_bytes:
                return ""
        return self._too_much(engine, needed)

    def _too_much(self, engine: str, needed: int | None) -> str:
        amount = "memory without bound" if needed is None else f"up to {needed / GIB:.3g} GiB"
        return (
            f"engine {engine!r} would need {amount}, the limit is {self.limit_bytes / GIB:.3g} GiB"
        )

    def estimate(self, engine: str) -> dict[str, Any]:
        """The dict of :meth:`rankone.cayley.CayleyGraph.estimate_memory`."""
        obstacle = self.obstacle(engine)
        bound = self.bound(order=True)
        needed = disk = None
        if not obstacle:
            needed = self.needed(engine, order=True)
            if engine == "external":
                disk = self.disk_needed(order=True)
        reason = obstacle or self.misfit(engine)
        return {
            "engine": engine,
            "n_states": bound.states,
            "n_states_exact": bound.exact,
            "bytes_peak": needed,
            "bytes_disk": disk,
            "limit_bytes": self.limit_bytes,
            "fits": not reason,
            "reason": reason,
        }

    def choose(self) -> str:
        """The engine of "auto".

        Raises:
            MemoryError: where none fits.
        """
        checkpointed = self.resume or self.scratch_dir is not None
        on_gpu = self.graph.device.type != "cpu"
        if not has_compiled_engines(self.graph) or (on_gpu and checkpointed):
            return self._fitting(["torch"])
        candidates = ["hash"] if on_gpu else ["hash", "external"]
        if self.wanted.needs_layers:
            small = (self.bound(order=False).states or _SMALL) < _SMALL
            return self._fitting(["torch"] if small else candidates)
        if not checkpointed and self._whole_symmetric_group():
            candidates.insert(0, "bitarray")
        return self._fitting(candidates)

    def _whole_symmetric_group(self) -> bool:
        definition = self.graph.definition
        n = definition.state_size
        if (
            definition.is_matrix_group()
            or n > _BITARRAY_N[self.graph.device.type]
            or sorted(definition.central_state) != list(range(n))
            or self.obstacle("bitarray")
            or self.misfit("bitarray")
        ):
            return False
        if math.factorial(n) < _SMALL:
            return True
        return group_order(definition)[0] * _BITARRAY_INDEX >= math.factorial(n)

    def _fitting(self, candidates: list[str]) -> str:
        """The first candidate that fits; a limited search goes to the first that applies, which
        stops at the memory limit."""
        reasons = []
        for engine in candidates:
            reason = self.obstacle(engine) or self.misfit(engine)
            if not reason:
                return engine
            reasons.append(reason)
        if not self.limits.unlimited or self.wanted.stop_condition is not None:
            return candidates[0]
        raise MemoryError(self._message("; ".join(reasons)))

    def require(self, engine: str) -> None:
        """Raise unless ``engine`` applies and, for a search without limits, fits.

        Raises:
            CayleyError: where it does not apply.
            RuntimeError: where the native module, or in it the kernels for the graph's device,
                are missing.
            MemoryError: where it does not fit; names the engine that would.
        """
        _check_engine(engine)
        obstacle = self.obstacle(engine)
        if obstacle:
            on_gpu = self.graph.device.type != "cpu"
            unbuilt = on_gpu and engine != "external" and cuda_kernels(self.graph.device) is None
            if native_kernels() is None or unbuilt:
                from rankone.ops._library import BUILD_HINT

                raise RuntimeError(f"engine {engine!r}: {obstacle}. {BUILD_HINT}")
            raise CayleyError(f"engine {engine!r} cannot make this search: {obstacle}")
        limited = not self.limits.unlimited or self.wanted.stop_condition is not None
        if engine == "distributed" or (limited and engine != "bitarray"):
            return
        reason = self.misfit(engine)
        if reason:
            raise MemoryError(self._message(reason))

    def _message(self, reason: str) -> str:
        bound = self.bound(order=True)
        if bound.states is None:
            states = "no bound on its states is known"
        elif bound.states > _ENOUGH_STATES and not bound.exact:
            states = f"more than {_ENOUGH_STATES:.0e} states"
        else:
            states = f"up to {bound.states:.4g} states"
        others = []
        for engine in ("bitarray", "hash", "external"):
            if f"engine {engine!r}" in reason or self.obstacle(engine):
                continue
            if not self.misfit(engine):
                others.append(engine)
        if others:
            advice = f"engine {others[0]!r} would fit"
        else:
            advice = (
                "no engine would fit here; bound the search by max_diameter, "
                "max_layer_size_to_explore, max_states or time_limit, or raise max_memory_gb"
            )
        return f"the search does not fit ({states}): {reason}; {advice}"
