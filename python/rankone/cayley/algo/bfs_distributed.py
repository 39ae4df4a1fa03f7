"""Breadth-first search over the processes of ``torch.distributed``.

Each state belongs to the process that its hash says. Per level and batch every process expands
what it owns, drops local repeats, and sends the rest to the owners: counts first, then packed
words, by ``all_to_all_single`` (gloo on CPUs, NCCL on GPUs). New counts are summed; 0 ends the
search.

With W words a state on P processes, at most 8 W (P - 1) / P bytes an edge are sent on average over
the hash. A process sends at most ``MESSAGE_BYTES`` of states in an exchange (or the neighbours of
one state, where those are more), and so can be sent at most P - 1 times that, on average as much
as it sends.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed
from torch import Tensor

from rankone._process_group import DistributedError, count_traffic, process_group
from rankone.cayley.algo._checkpoints import Checkpoint
from rankone.cayley.algo._collect import Collector
from rankone.cayley.algo._levels import require_no_layers, search_levels
from rankone.cayley.algo._shares import NativeShare, Share, TorchShare
from rankone.cayley.algo._world import OneProcess, World
from rankone.cayley.algo.bfs_result import BfsResult, definition_to_dict
from rankone.cayley.algo.engines import has_native_engines

if TYPE_CHECKING:
    from rankone.cayley.algo.bfs_algo import Request
    from rankone.cayley.cayley_graph import CayleyGraph

# Longer values are told to the other processes by their beginning and a digest.
_BRIEF = 120


def _stop_never(states: Tensor, hashes: Tensor) -> bool:
    return False


def _brief(value: object) -> str:
    text = json.dumps(value)
    if len(text) <= _BRIEF:
        return text
    return f"{text[:_BRIEF]}... (sha256 {hashlib.sha256(text.encode()).hexdigest()[:12]})"


def search_distributed(graph: CayleyGraph, checked: Callable[[], Request]) -> BfsResult:
    """Run this process's part; called by every process of the group with equal arguments.

    Args:
        graph: the graph.
        checked: gives the search, or raises for a wrong argument, which the others are told.
    """
    grouped = torch.distributed.is_available() and torch.distributed.is_initialized()
    alone = not grouped or torch.distributed.get_world_size() == 1
    world = OneProcess() if alone else World(process_group(None))
    with count_traffic() as traffic:
        part = _Part(graph, checked, world)
        world.agree("the start of the search", part.facts, part.error)
        assert part.share is not None
        assert part.collector is not None
        try:
            result = search_levels(
                graph,
                part.share,
                part.collector,
                engine="distributed",
                world=world,
                checkpoint=part.checkpoint,
            )
        except DistributedError as error:
            raise DistributedError(f"{error}; {part.advice()}") from error.__cause__
    result.engine_info.update(
        world_size=world.size,
        bytes_sent=traffic.bytes_sent,
        exchanges=world.exchanges,
        exchange_seconds=world.seconds,
    )
    return result


class _Part:
    """What a process brings to a search, or the error that it met on the way.

    Attributes:
        error: what the others have to be told.
        facts: what has to be equal in all processes.
    """

    def __init__(
        self, graph: CayleyGraph, checked: Callable[[], Request], world: OneProcess
    ) -> None:
        self.share: Share | None = None
        self.collector: Collector | None = None
        self.checkpoint: Checkpoint | None = None
        self.facts: dict[str, object] = {}
        self.error: BaseException | None = None
        try:
            self._prepare(graph, checked(), world)
        except BaseException as error:
            self.error = error

    def _prepare(self, graph: CayleyGraph, request: Request, world: OneProcess) -> None:
        plan = request.plan
        wanted = plan.wanted
        if world.rank and wanted.stop_condition is not None:
            # Rank 0 alone sees whole layers, and its decision is everyone's.
            wanted = replace(wanted, stop_condition=_stop_never)
        self.collector = Collector(graph, plan.limits, wanted)
        if plan.scratch_dir is not None:
            require_no_layers(self.collector)
            self.checkpoint = Checkpoint(
                plan.scratch_dir, graph, request.encoded, resume=plan.resume
            )
        native = has_native_engines(graph)
        if native:
            self.share = NativeShare(
                graph,
                request.starts,
                rank=world.rank,
                world_size=world.size,
                max_bytes=plan.limit_bytes,
                threads=request.threads,
                batch_bytes=world.message_bytes,
            )
        else:
            self.share = TorchShare(
                graph,
                request.encoded,
                rank=world.rank,
                world_size=world.size,
                max_bytes=plan.limit_bytes,
                batch_bytes=world.message_bytes,
            )
        limits, definition = plan.limits, definition_to_dict(graph.definition)
        self.facts = {
            "graph": graph.definition.name,
            "generators": _brief(definition["generators"]),
            "central_state": _brief(definition["central_state"]),
            "start_states": _brief(request.starts.tolist()),
            "bits a state element": graph.string_encoder.w if graph.string_encoder else 0,
            "max_diameter": limits.max_diameter,
            "max_layer_size_to_explore": limits.max_layer_size,
            "max_states": limits.max_states,
            "time_limit": limits.time_limit,
            "max_layer_size_to_store": wanted.max_layer_size_to_store,
            "return_all_edges": wanted.all_edges,
            "return_all_hashes": wanted.all_hashes,
            "stop_condition": "given" if wanted.stop_condition is not None else None,
            "hash of the first start state": int(graph.hasher.make_hashes(request.encoded[:1])),
            "native module": "built" if native else "not used",
            "scratch_dir": None if self.checkpoint is None else "given",
            "resume": plan.resume,
            "what scratch_dir holds": None if self.checkpoint is None else self.checkpoint.digest,
        }

    def advice(self) -> str:
        """Where a search that lost a process can go on."""
        if self.checkpoint is None:
            return "nothing was kept; with scratch_dir=... the search could go on"
        return self.checkpoint.advice()


class BfsDistributed:
    """Breadth-first search over the processes of the default process group.

    Example:
        >>> from rankone.cayley import CayleyGraph, PermutationGroups
        >>> from rankone.cayley.algo import BfsDistributed
        >>> graph = CayleyGraph(PermutationGroups.lrx(4), device="cpu")
        >>> BfsDistributed.bfs(graph).layer_sizes  # doctest: +SKIP
        [1, 3, 5, 6, 5, 3, 1]
    """

    @staticmethod
    def bfs(graph: CayleyGraph, **kwargs: Any) -> BfsResult:
        """As :meth:`BfsAlgorithm.bfs` with engine "distributed".

        Every process of the group calls it with equal arguments; without a group it is a search in
        one process. Start the script with ``torchrun --nproc-per-node N script.py``, and call
        ``torch.distributed.init_process_group("gloo")`` in it (``"nccl"`` for graphs on GPUs, one a
        process). Its ``timeout`` is how long a process waits for one that stays away.

        With ``scratch_dir``, a folder that all processes see, the search can go on after any end,
        on any number of processes; a search by the hash or torch engine can go on from it, too.

        Args:
            graph: the graph.
            **kwargs: those of :meth:`BfsAlgorithm.bfs`. ``max_memory_gb``, ``threads`` and
                ``progress`` are each process's own; ``stop_condition`` is called on rank 0 alone.

        Returns:
            Rank 0 returns the whole result, the others the same layer sizes and no layers. A limit,
            Ctrl-C or the memory limit of one process ends the search in all of them with what was
            found so far. Beside the usual, ``engine_info`` holds ``world_size``; ``bytes_sent`` by
            this process; ``exchanges``, their number; ``exchange_seconds``, spent in them and in
            waits for the others.

        Raises:
            CayleyError: for a wrong argument, in the process that has it.
            rankone.distributed.DistributedError: in every process, where they were called with
                different arguments (says which), where another failed (quotes it), or where one
                died or stayed away for longer than the group's timeout; it says what scratch_dir
                holds.

        Source: the exchange by hash is the usual one of distributed breadth-first search; the
        checkpoints that any number of processes go on from were designed for this project.

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
