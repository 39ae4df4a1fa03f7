"""The level loop over shares: in one process, over several, and from a checkpoint.

It runs the torch engine, the distributed engine and every search that writes checkpoints. Per level
and batch: expand locally, send buckets to their owners, insert; then agree on the new size; stop at
0. A process in which something goes wrong says so in the next exchange, and all stop there.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rankone.cayley.algo._checkpoints import Checkpoint
from rankone.cayley.algo._collect import (
    COMPLETE,
    INTERRUPTED,
    TIME_LIMIT,
    Collector,
    sort_states,
)
from rankone.cayley.algo._shares import Share
from rankone.cayley.algo._world import OneProcess, Trouble, rows_of
from rankone.cayley.algo.bfs_result import BfsResult
from rankone.cayley.errors import CayleyError

if TYPE_CHECKING:
    from rankone.cayley.cayley_graph import CayleyGraph


def search_levels(
    graph: CayleyGraph,
    share: Share,
    collector: Collector,
    *,
    engine: str,
    world: OneProcess | None = None,
    checkpoint: Checkpoint | None = None,
) -> BfsResult:
    """Search until the collector, a limit or the graph's end stops it."""
    search = _Search(graph, share, collector, world or OneProcess(), checkpoint)
    with search.world.deferring_interrupts():
        status = search.run()
        search.keep_last_layer()
    if search.world.interrupted and status != INTERRUPTED:
        raise KeyboardInterrupt  # It came too late to end the search.
    return collector.finish(
        status,
        share.layer,
        engine=engine,
        threads=share.threads,
        bytes_peak=share.peak_bytes,
    )


class _Search:
    """One process's part in a search."""

    def __init__(
        self,
        graph: CayleyGraph,
        share: Share,
        collector: Collector,
        world: OneProcess,
        checkpoint: Checkpoint | None,
    ) -> None:
        self.graph = graph
        self.share = share
        self.collector = collector
        self.world = world
        self.checkpoint = checkpoint
        self.level = 0  # of the share's layer, which is complete
        self.trouble = Trouble(world)

    def run(self) -> str:
        """Search; why it ended, the same in every process."""
        if self.checkpoint is not None and self.checkpoint.layer_sizes:
            sizes = self.checkpoint.layer_sizes
            self._restore(self.checkpoint, sizes)
            with self.trouble.watch():
                self.collector.resume(sizes, self.checkpoint.stored_layers(self.world.rank))
                self.collector.limits_reached(self.level, sizes[-1])
            ended = self._agree_to_end()
        else:
            _, size, _ = self._agree_on_size("the size of level 0", self.share.layer_size)
            ended = self._take_level(size)
        batches = None
        while ended is None:
            what = f"the exchange of level {self.level + 1}"
            self._expand(what, batches)
            reason, size, batches = self._agree_on_size(
                f"the size of level {self.level + 1}", self.share.next_size
            )
            if reason is not None or size == 0:
                return reason or COMPLETE
            with self.trouble.watch():
                self.share.advance()
            self.level += 1
            ended = self._take_level(size)
        return ended

    def keep_last_layer(self) -> None:
        """The last layer belongs to the result, also where it is a large one."""
        last = len(self.collector.layer_sizes) - 1
        missing = self.collector.stored(last) is None
        everyone = self.world.agree("the end of the search", {"_missing": missing})
        if any(facts["_missing"] for facts in everyone):
            self.collector.keep(last, self._whole_layer())

    def _whole_layer(self) -> Tensor:
        if self.world.size == 1:
            return self.share.layer()
        states = self.world.gather(f"the gathering of level {self.level}", self.share.layer)
        return sort_states(self.graph, states)

    def _agree_on_size(self, what: str, size: int) -> tuple[str | None, int, int]:
        """Why to stop, the size in all processes, and the number of batches of the largest part."""
        self.trouble.poll()
        facts = {
            "_reason": self.trouble.reason,
            "_size": size,
            "_batches": -(-size // self.share.batch_size),
        }
        everyone = self.world.agree(what, facts, self.trouble.error)
        reasons = [facts["_reason"] for facts in everyone if facts["_reason"] is not None]
        return (
            reasons[0] if reasons else None,
            sum(facts["_size"] for facts in everyone),
            max(facts["_batches"] for facts in everyone),
        )

    def _take_level(self, size: int) -> str | None:
        """Hand the share's layer to the collector and the checkpoint; why to stop, or None."""
        with self.trouble.watch():
            if self.trouble.error is None:
                self.collector.on_level(self.level, size, self._whole_layer)
        if self.checkpoint is not None:
            whole = self.collector.stored(self.level)
            self.checkpoint.write(
                self.level, size, self.share.layer, whole, self.world, self.trouble
            )
        return self._agree_to_end()

    def _agree_to_end(self) -> str | None:
        """Why the search ends after this level: what rank 0 found, else what another did."""
        self.trouble.poll()
        facts = {"_status": self.collector.status or self.trouble.reason}
        everyone = self.world.agree(f"the end of level {self.level}", facts, self.trouble.error)
        found = [facts["_status"] for facts in everyone if facts["_status"] is not None]
        self.collector.status = found[0] if found else None
        return self.collector.status

    def _expand(self, what: str, batches: int | None, keep: Tensor | None = None) -> None:
        """Expand, exchange and insert the share's layer; what goes wrong is left in ``trouble``.

        With ``keep``, only states among those are inserted. Every process goes through as many
        exchanges as the one with the most batches, unless one says in an exchange that it stopped.
        """
        share, world, trouble = self.share, self.world, self.trouble
        if batches is None:
            _, _, batches = self._agree_on_size(f"the start of {what}", share.layer_size)
        limit = self.collector.limits.time_limit
        for batch in range(batches):
            # A level that is complete when its time is over counts; the collector stops after it.
            if batch and limit is not None and self.collector.seconds >= limit and keep is None:
                trouble.reason = trouble.reason or TIME_LIMIT
            states, counts = None, [0] * world.size
            if not trouble:
                with trouble.watch():
                    states, counts = share.expand(batch * share.batch_size, share.batch_size)
            arrived = world.exchange(what, states, counts, stop=bool(trouble))
            if arrived is None:
                return
            with trouble.watch():
                if keep is not None:
                    arrived = arrived[share.among(arrived, keep)]
                share.insert(arrived)
        with trouble.watch():
            share.settle()

    def _restore(self, checkpoint: Checkpoint, sizes: list[int]) -> None:
        """Bring a fresh share to the last complete level.

        Where only two layers are remembered, states carry how they were reached; so the last layer
        is found once more from the one before it.
        """
        last = len(sizes) - 1
        for level in range(1 if checkpoint.keep_all else max(1, last - 1), last):
            self._read(checkpoint, level, self.share.insert)
            self._advance_to(checkpoint, level, sizes[level])
        if last >= 1 and checkpoint.keep_all:
            self._read(checkpoint, last, self.share.insert)
            self._advance_to(checkpoint, last, sizes[last])
        elif last >= 1:
            parts: list[Tensor] = []
            self._read(checkpoint, last, parts.append)
            with self.trouble.watch():
                keep = torch.cat(parts) if parts else None
            if not self.trouble:
                self._expand(f"the restart at level {last}", None, keep)
            self._advance_to(checkpoint, last, sizes[last])

    def _read(self, checkpoint: Checkpoint, level: int, take: Callable[[Tensor], Any]) -> None:
        """Read this process's slice of a layer, send it to the owners, take what arrives."""
        share, world, trouble = self.share, self.world, self.trouble
        what = f"the restart at level {level}"
        total = checkpoint.count(level)
        bounds = [total * rank // world.size for rank in range(world.size + 1)]
        first, last = bounds[world.rank : world.rank + 2]
        rows = rows_of(world.message_bytes, max(share.words, self.graph.encoded_state_size))
        longest = max(high - low for low, high in pairwise(bounds))
        for begin in range(0, longest, rows):
            states, counts = None, [0] * world.size
            if not trouble:
                with trouble.watch():
                    low = min(first + begin, last)
                    encoded = checkpoint.read(level, low, min(low + rows, last))
                    states, counts = share.by_owner(share.encode(encoded.to(self.graph.device)))
            arrived = world.exchange(what, states, counts, stop=bool(trouble))
            if arrived is None:
                return
            with trouble.watch():
                take(arrived)
        with trouble.watch():
            share.settle()

    def _advance_to(self, checkpoint: Checkpoint, level: int, expected: int) -> None:
        """Make what was restored the share's layer, unless something is wrong with it."""
        reason, size, _ = self._agree_on_size(f"the restart at level {level}", self.share.next_size)
        folder = os.fspath(checkpoint.folder)
        if reason is not None:
            raise CayleyError(f"the search in scratch_dir {folder!r} could not go on: {reason}")
        if size != expected:
            raise CayleyError(
                f"scratch_dir {folder!r} is damaged: {size} states of level {level} were restored, "
                f"expected {expected}"
            )
        with self.trouble.watch():
            self.share.advance()
        self.level = level


def require_no_layers(collector: Collector) -> None:
    """Checkpoints keep layers, not hashes and edges.

    Raises:
        CayleyError: where hashes, edges or a stop condition were asked for.
    """
    if collector.wanted.needs_layers:
        raise CayleyError(
            "scratch_dir and resume cannot be combined with return_all_edges, return_all_hashes "
            "or stop_condition"
        )


__all__ = ["require_no_layers", "search_levels"]
