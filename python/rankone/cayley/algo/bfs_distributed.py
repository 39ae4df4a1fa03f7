"""Breadth-first search over the processes of ``torch.distributed``.

Each state belongs to the process that its hash says. Per level and batch every process expands
what it owns, drops local repeats, and sends the rest to the owners: counts first, then packed
words, by ``all_to_all_single`` (gloo on CPUs, NCCL on GPUs). New counts are summed; 0 ends the
search. With W words a state on P processes, at most 8 W (P - 1) / P bytes an edge are sent.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed
from torch import Tensor

from rankone.cayley.algo._collect import Collector, Limits, Wanted
from rankone.cayley.algo._levels import Checkpoint, OneProcess, require_no_layers, search_levels
from rankone.cayley.algo._shares import NativeShare, Share, TorchShare
from rankone.cayley.algo.bfs_result import BfsResult
from rankone.cayley.algo.engines import has_native_engines

if TYPE_CHECKING:
    from rankone.cayley.cayley_graph import CayleyGraph

# States expanded between two exchanges: messages of some megabytes.
_BATCH = 2**18


class World(OneProcess):
    """The default process group, as :func:`search_levels` sees it."""

    def __init__(self, device: torch.device) -> None:
        self.rank = torch.distributed.get_rank()
        self.size = torch.distributed.get_world_size()
        backend = torch.distributed.get_backend()
        self.device = device if backend == "nccl" else torch.device("cpu")

    def exchange(self, states: Tensor, counts: list[int]) -> Tensor:
        """Send rows to their owners, ``counts[r]`` of them to rank r; what arrives."""
        sent = torch.tensor(counts, device=self.device)
        expected = torch.empty_like(sent)
        torch.distributed.all_to_all_single(expected, sent)
        arriving = expected.tolist()
        outgoing = states.to(self.device).contiguous()
        incoming = outgoing.new_empty(sum(arriving), states.shape[1])
        torch.distributed.all_to_all_single(incoming, outgoing, arriving, list(counts))
        return incoming.to(states.device)

    def total(self, value: int) -> int:
        return self._reduce(value, torch.distributed.ReduceOp.SUM)

    def largest(self, value: int) -> int:
        return self._reduce(value, torch.distributed.ReduceOp.MAX)

    def _reduce(self, value: int, operation: Any) -> int:
        tensor = torch.tensor(value, device=self.device)
        torch.distributed.all_reduce(tensor, operation)
        return int(tensor)

    def gather(self, states: Tensor) -> Tensor:
        counts = [0] * self.size
        counts[0] = states.shape[0]
        return self.exchange(states, counts)


def _stop_never(states: Tensor, hashes: Tensor) -> bool:
    return False


def search_distributed(
    graph: CayleyGraph,
    start_states: Tensor,
    limits: Limits,
    wanted: Wanted,
    *,
    max_bytes: int | None,
    threads: int | None = None,
    scratch_dir: str | os.PathLike[str] | None = None,
    resume: bool = False,
) -> BfsResult:
    """Run this process's part; called by every process of the group with equal arguments."""
    grouped = torch.distributed.is_available() and torch.distributed.is_initialized()
    world = World(graph.device) if grouped else OneProcess()
    if world.rank and wanted.stop_condition is not None:
        # Rank 0 alone sees whole layers, and its decision is everyone's.
        wanted = Wanted(
            wanted.max_layer_size_to_store,
            wanted.all_edges,
            wanted.all_hashes,
            _stop_never,
            wanted.progress,
        )
    collector = Collector(graph, limits, wanted)
    checkpoint = None
    if scratch_dir is not None:
        require_no_layers(collector)
        checkpoint = Checkpoint(
            scratch_dir,
            graph,
            start_states,
            resume=resume,
            rank=world.rank,
            world_size=world.size,
        )
    share: Share
    if has_native_engines(graph):
        rows = graph.decode_states(start_states).reshape(-1, graph.definition.state_size)
        share = NativeShare(
            graph,
            rows,
            rank=world.rank,
            world_size=world.size,
            max_bytes=max_bytes,
            threads=threads or graph.threads or torch.get_num_threads(),
            batch_size=_BATCH,
        )
    else:
        share = TorchShare(
            graph,
            start_states,
            rank=world.rank,
            world_size=world.size,
            max_bytes=max_bytes,
            batch_size=min(_BATCH, graph.batch_size),
        )
    result = search_levels(
        graph, share, collector, engine="distributed", world=world, checkpoint=checkpoint
    )
    result.engine_info["world_size"] = world.size
    return result


class BfsDistributed:
    """Breadth-first search over the processes of the default process group."""

    @staticmethod
    def bfs(graph: CayleyGraph, **kwargs: Any) -> BfsResult:
        """As :meth:`BfsAlgorithm.bfs` with engine "distributed".

        Every process of the group calls it with equal arguments; without a group it is a search in
        one process. Rank 0 returns the whole result, the others the same layer sizes and no layers.

        Example:
            >>> from rankone.cayley import CayleyGraph, PermutationGroups
            >>> from rankone.cayley.algo import BfsDistributed
            >>> graph = CayleyGraph(PermutationGroups.lrx(4), device="cpu")
            >>> BfsDistributed.bfs(graph).layer_sizes
            [1, 3, 5, 6, 5, 3, 1]
        """
        from rankone.cayley.algo.bfs_algo import BfsAlgorithm

        kwargs["engine"] = "distributed"
        return BfsAlgorithm.bfs(graph, **kwargs)


__all__ = ["BfsDistributed", "World", "search_distributed"]
