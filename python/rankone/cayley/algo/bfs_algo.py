"""Breadth-first search on a graph: arguments, engine, result."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rankone.cayley.algo._checkpoints import Checkpoint
from rankone.cayley.algo._collect import (
    COMPLETE,
    MAX_DIAMETER,
    STOP_CONDITION,
    UNLIMITED_DIAMETER,
    UNLIMITED_LAYER,
    Collector,
    Limits,
    ProgressCallback,
    StopCondition,
    Wanted,
)
from rankone.cayley.algo._graph_argument import check_graph
from rankone.cayley.algo._levels import require_no_layers, search_levels
from rankone.cayley.algo._shares import NativeCodec, NativeShare, TorchShare
from rankone.cayley.algo.bfs_result import BfsResult
from rankone.cayley.algo.engines import ENGINES, Plan
from rankone.cayley.cayley_graph_def import AnyStateType
from rankone.cayley.errors import CayleyError, check, check_range
from rankone.ops._permutation_bfs import SearchLimits, native_search, words_to_tensor

if TYPE_CHECKING:
    from rankone.cayley.cayley_graph import CayleyGraph

_EXTERNAL_MANIFEST = "manifest.json"
# A single batch holds every candidate of a layer.
_NO_BATCHING = 2**62


@dataclass(frozen=True)
class Request:
    """A search whose arguments were checked.

    Attributes:
        engine: which one makes it.
        starts: (k, n) start states.
        encoded: (k, words) the same, packed.
        plan: limits, what the result is to hold, memory, scratch folder.
        threads: CPU threads of a native engine.
        batch_size: states that the torch engine expands at a time; default the graph's.
    """

    engine: str
    starts: Tensor
    encoded: Tensor
    plan: Plan
    threads: int
    batch_size: int | None


class BfsAlgorithm:
    """Breadth-first search, as :meth:`rankone.cayley.CayleyGraph.bfs` calls it.

    Example:
        >>> from rankone.cayley import CayleyGraph, PermutationGroups
        >>> from rankone.cayley.algo import BfsAlgorithm
        >>> graph = CayleyGraph(PermutationGroups.lrx(4), device="cpu")
        >>> BfsAlgorithm.bfs(graph).layer_sizes
        [1, 3, 5, 6, 5, 3, 1]
    """

    @staticmethod
    def bfs(
        graph: CayleyGraph,
        *,
        start_states: AnyStateType | None = None,
        max_layer_size_to_store: int | None = 1000,
        max_layer_size_to_explore: int = UNLIMITED_LAYER,
        max_diameter: int = UNLIMITED_DIAMETER,
        return_all_edges: bool = False,
        return_all_hashes: bool = False,
        stop_condition: StopCondition | None = None,
        disable_batching: bool = False,
        engine: str = "auto",
        threads: int | None = None,
        max_memory_gb: float | None = None,
        scratch_dir: str | os.PathLike[str] | None = None,
        resume: bool = False,
        progress: ProgressCallback | None = None,
        max_states: int | None = None,
        max_layers: int | None = None,
        time_limit: float | None = None,
    ) -> BfsResult:
        """Find the vertices layer by layer.

        Args:
            graph: the graph.
            start_states: layer 0, one state or many; default the central state.
            max_layer_size_to_store: layers of at most so many states are kept, and the first and
                the last always; None keeps all, 0 the first and the last alone.
            max_layer_size_to_explore: the search stops at a layer of this size or more.
            max_diameter: the largest distance to compute.
            return_all_edges: also return the edges, by the hashes of their ends.
            return_all_hashes: also return the hashes of all vertices.
            stop_condition: called with the encoded states (N, words) and the hashes (N,) of each
                new layer; True makes it the last.
            disable_batching: expand each layer at once, in the torch engine.
            engine: "auto", "torch", "hash", "bitarray", "external" or "distributed". On a GPU there
                are "torch", "hash" and, where states are permutations, "bitarray".
                "distributed" is called by every process of the default process group; see
                :class:`BfsDistributed`.
            threads: CPU threads of a native engine; default the graph's, then torch's.
            max_memory_gb: most memory, in units of 2**30 bytes; default the graph's
                ``memory_limit_gb``, and never more than what is free.
            scratch_dir: folder of the external engine, and of the checkpoints of the hash, torch
                and distributed engines, each of which goes on from those of another; made where it
                is missing.
            resume: go on from what an earlier search left in ``scratch_dir``.
            progress: called with (level, size, seconds) after each layer.
            max_states: stop after the layer that reaches so many states.
            max_layers: number of layers to compute, the first included.
            time_limit: seconds.

        Returns:
            The result. Where a limit, Ctrl-C or the memory limit stopped the search,
            ``bfs_completed`` is False and it holds what was found so far. Layers, hashes and edges
            do not depend on the engine, the device or the number of threads.

        Raises:
            CayleyError: for a wrong argument, or an engine that cannot make this search.
            MemoryError: for a complete search that cannot fit, before anything is allocated; the
                message names the engine or the limit that would.

        Source: CayleyPy Growth, arXiv 2509.19162; the engines were designed for this project.

        Example:
            >>> from rankone.cayley import CayleyGraph, PermutationGroups
            >>> result = CayleyGraph(PermutationGroups.lx(6), device="cpu").bfs()
            >>> result.diameter(), result.last_layer().tolist()
            (18, [[2, 0, 5, 4, 3, 1]])
        """
        check_graph(graph)
        if engine not in ENGINES:
            raise CayleyError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")

        def checked() -> Request:
            if threads is not None:
                check_range("threads", threads, 1)
            deepest = max_diameter
            if max_layers is not None:
                check_range("max_layers", max_layers, 1)
                deepest = min(max_diameter, max_layers - 1)
            if resume:
                check(scratch_dir is not None, "scratch_dir must be given with resume=True")
            limits = Limits(deepest, max_layer_size_to_explore, max_states, time_limit)
            wanted = Wanted(
                max_layer_size_to_store,
                return_all_edges,
                return_all_hashes,
                stop_condition,
                progress,
            )
            if start_states is None:
                starts = graph.central_state[None]
            else:
                starts = graph.states_tensor(start_states, "start_states")
                check(len(starts) > 0, "start_states must not be empty")
            plan = Plan(
                graph,
                starts,
                limits,
                wanted,
                max_memory_gb=max_memory_gb,
                scratch_dir=scratch_dir,
                resume=resume,
            )
            chosen = engine
            if engine == "auto":
                chosen = plan.choose()
            else:
                plan.require(engine)
            return Request(
                engine=chosen,
                starts=starts,
                encoded=graph.encode_states(starts),
                plan=plan,
                threads=threads or graph.threads or torch.get_num_threads(),
                batch_size=_NO_BATCHING if disable_batching else None,
            )

        if engine == "distributed":
            from rankone.cayley.algo.bfs_distributed import search_distributed

            return search_distributed(graph, checked)
        request = checked()
        engine, plan, threads = request.engine, request.plan, request.threads
        starts, encoded = request.starts, request.encoded
        collector = Collector(graph, plan.limits, plan.wanted)
        if engine == "torch" or (engine == "hash" and scratch_dir is not None):
            checkpoint = None
            if scratch_dir is not None:
                require_no_layers(collector)
                checkpoint = Checkpoint(scratch_dir, graph, encoded, resume=resume)
            share: TorchShare | NativeShare
            if engine == "torch":
                share = TorchShare(
                    graph, encoded, max_bytes=plan.limit_bytes, batch_size=request.batch_size
                )
            else:
                share = NativeShare(graph, starts, max_bytes=plan.limit_bytes, threads=threads)
            return search_levels(graph, share, collector, engine=engine, checkpoint=checkpoint)
        check(not resume or engine == "external", f"engine {engine!r} cannot resume a search")
        if engine == "external" and scratch_dir is not None and not resume:
            check(
                not (Path(scratch_dir) / _EXTERNAL_MANIFEST).exists(),
                f"scratch_dir {os.fspath(scratch_dir)!r} already holds a search; "
                "give resume=True to go on with it, or another folder",
            )
        return _native_bfs(graph, starts, collector, engine, plan, threads)


def _native_bfs(
    graph: CayleyGraph,
    starts: Tensor,
    collector: Collector,
    engine: str,
    plan: Plan,
    threads: int,
) -> BfsResult:
    """A search by one of the native engines."""
    wanted, limits = collector.wanted, collector.limits
    codec = NativeCodec(graph, starts)
    if graph.device.type != "cpu":
        threads = 1  # of the host, which drives the device

    def on_level(level: int, size: int, seconds: float) -> bool:
        return collector.on_level(level, size, None)

    def on_states(level: int, words: np.ndarray) -> bool:
        states = codec.to_graph(words_to_tensor(words))
        return collector.on_level(level, len(states), lambda: states)

    callbacks: dict[str, Any] = (
        {"on_states": on_states} if wanted.needs_layers else {"on_level": on_level}
    )
    scratch = plan.scratch_dir
    temporary = None
    if engine == "external" and scratch is None:
        scratch = temporary = Path(tempfile.mkdtemp(prefix="rankone-bfs-"))
    try:
        found = native_search(
            engine,
            codec.native,
            limits=SearchLimits(
                max_level=limits.max_diameter,
                max_states=limits.max_states,
                max_layer_size=limits.max_layer_size - 1,
                max_seconds=limits.time_limit,
                max_bytes=plan.limit_bytes,
            ),
            max_layer_size_to_store=wanted.max_layer_size_to_store,
            threads=threads,
            scratch_dir=scratch,
            resume=plan.resume,
            keep_layers=scratch is not temporary,
            device=graph.device,
            **callbacks,
        )
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    layers = {
        level: codec.to_graph(words_to_tensor(words)) for level, words in found["layers"].items()
    }
    collector.layer_sizes = list(found["layer_sizes"])
    status = {"complete": COMPLETE, "max_level": MAX_DIAMETER, "stopped": STOP_CONDITION}.get(
        found["status"], found["status"]
    )
    return collector.finish(
        status,
        layers,
        engine=engine,
        threads=threads,
        bytes_peak=found["peak_bytes"],
        seconds=found["seconds"],
    )
