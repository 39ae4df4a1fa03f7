"""The level loop over shares: in one process, over several, and from a checkpoint.

It runs the torch engine, the distributed engine and every search that writes checkpoints. Per level
and batch: expand locally, send buckets to their owners, insert; then sum the new sizes; stop at 0.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rankone._files import write_whole
from rankone.cayley.algo._collect import (
    COMPLETE,
    INTERRUPTED,
    MEMORY_LIMIT,
    STOP_CONDITION,
    TIME_LIMIT,
    Collector,
    sort_states,
)
from rankone.cayley.algo._shares import Share, ShareMemoryError
from rankone.cayley.algo.bfs_result import BfsResult, definition_to_dict
from rankone.cayley.errors import CayleyError, check

if TYPE_CHECKING:
    from rankone.cayley.cayley_graph import CayleyGraph

MANIFEST = "bfs_manifest.json"


class OneProcess:
    """The world of a search in one process: nothing is sent."""

    rank = 0
    size = 1

    def exchange(self, states: Tensor, counts: list[int]) -> Tensor:
        """What the other processes sent."""
        return states

    def total(self, value: int) -> int:
        """The sum over processes."""
        return value

    def largest(self, value: int) -> int:
        """The largest over processes."""
        return value

    def gather(self, states: Tensor) -> Tensor:
        """The states of all processes on rank 0, none elsewhere."""
        return states


class Checkpoint:
    """Layers in a folder, from which a search that was killed goes on.

    Inverse-closed generators need the last two layers, others all of them. The manifest is replaced
    whole after each level, once the level's file is complete.

    Args:
        folder: made where it is missing.
        graph: the graph.
        start_states: (k, words) encoded.
        resume: go on from what the folder holds; else the folder must hold no search.
        rank: of this process.
        world_size: number of processes.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        graph: CayleyGraph,
        start_states: Tensor,
        *,
        resume: bool,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.rank = rank
        self.keep_all = not graph.definition.generators_inverse_closed
        described = {
            "definition": definition_to_dict(graph.definition),
            "start": start_states.cpu().tolist(),
            "bits": graph.string_encoder.w if graph.string_encoder else 0,
            "world_size": world_size,
        }
        text = json.dumps(described, sort_keys=True)
        self.key = hashlib.sha256(text.encode()).hexdigest()
        self._manifest = self.folder / (MANIFEST if rank == 0 else f"{rank}_{MANIFEST}")
        self._sizes: list[int] = []
        self._stored: list[int] = []
        if not self._manifest.exists():
            return
        check(
            resume,
            f"scratch_dir {os.fspath(folder)!r} already holds a search; "
            "give resume=True to go on with it, or another folder",
        )
        found = json.loads(self._manifest.read_text(encoding="utf-8"))
        check(
            found.get("key") == self.key,
            f"scratch_dir {os.fspath(folder)!r} holds a search of another graph, start, encoding "
            "or number of processes",
        )
        self._sizes, self._stored = found["layer_sizes"], found["stored"]

    @property
    def layer_sizes(self) -> list[int]:
        """Sizes of the layers that are complete."""
        return list(self._sizes)

    def _file(self, level: int) -> Path:
        return self.folder / f"layer_{level}_{self.rank}.npy"

    def _stored_file(self, level: int) -> Path:
        return self.folder / f"stored_{level}.npy"

    def layer(self, level: int) -> Tensor:
        """This share's part of a layer."""
        return torch.from_numpy(np.load(self._file(level)))

    def stored_layers(self) -> dict[int, Tensor]:
        """Whole layers that the result is to hold."""
        return {
            level: torch.from_numpy(np.load(self._stored_file(level))) for level in self._stored
        }

    def write(self, level: int, size: int, part: Tensor, whole: Tensor | None) -> None:
        """Keep a layer: this share's part, and all of it where the result is to hold it."""
        write_whole(self._file(level), lambda file: np.save(file, part.cpu().numpy()))
        if whole is not None and self.rank == 0:
            write_whole(self._stored_file(level), lambda file: np.save(file, whole.cpu().numpy()))
            self._stored.append(level)
        self._sizes.append(size)
        manifest = {"key": self.key, "layer_sizes": self._sizes, "stored": self._stored}
        write_whole(self._manifest, json.dumps(manifest))
        if not self.keep_all and level >= 2:
            self._file(level - 2).unlink(missing_ok=True)

    def restore(self, share: Share, collector: Collector, world: OneProcess) -> None:
        """Bring a fresh share to the last complete level.

        Where only two layers are remembered, states carry how they were reached; so the last layer
        is found once more from the one before it.
        """
        last = len(self._sizes) - 1
        for level in range(1 if self.keep_all else max(1, last - 1), last):
            share.insert(share.encode(self.layer(level)))
            share.advance()
        if last < 1:
            return
        states = share.encode(self.layer(last))
        if self.keep_all:
            share.insert(states)
        else:
            failure = _expand_level(share, collector, world, keep=states)
            check(failure is None, f"the checkpoint could not be restored: {failure}")
        size = share.advance()
        check(
            size == len(states),
            f"scratch_dir {os.fspath(self.folder)!r} holds layers that do not follow each other",
        )


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
    world = world or OneProcess()

    level = 0  # of the last layer that is complete
    share_level = 0  # of the share's current layer, one more when that is empty

    def whole_layer() -> Tensor:
        part = share.layer() if share_level == level else share.previous_layer()
        return part if world.size == 1 else sort_states(graph, world.gather(part))

    status = COMPLETE
    if checkpoint is not None and checkpoint.layer_sizes:
        sizes = checkpoint.layer_sizes
        checkpoint.restore(share, collector, world)
        collector.resume(sizes, checkpoint.stored_layers())
        level = share_level = len(sizes) - 1
        stop = collector.limits_reached(level, sizes[-1])
        stop = bool(world.largest(int(stop)))
    else:
        stop = _take_level(collector, share, world, checkpoint, whole_layer, level)
    try:
        while not stop:
            dropped = _expand_level(share, collector, world)
            if dropped:
                status = dropped
                break
            size = world.total(share.advance())
            share_level += 1
            if size == 0:
                break
            level += 1
            stop = _take_level(collector, share, world, checkpoint, whole_layer, level, size)
    except KeyboardInterrupt:
        if world.size > 1:
            raise
        status = INTERRUPTED
    if stop and collector.status is None:
        collector.status = STOP_CONDITION if engine == "distributed" else status
    return collector.finish(
        status,
        whole_layer,
        engine=engine,
        threads=share.threads,
        bytes_peak=share.peak_bytes,
    )


def _take_level(
    collector: Collector,
    share: Share,
    world: OneProcess,
    checkpoint: Checkpoint | None,
    whole_layer: Callable[[], Tensor],
    level: int,
    size: int | None = None,
) -> bool:
    """Hand a level to the collector and the checkpoint; whether to stop, the same everywhere."""
    if size is None:
        size = world.total(share.layer_size)
    stop = collector.on_level(level, size, whole_layer)
    if checkpoint is not None:
        whole = collector.stored(level)
        checkpoint.write(level, size, share.layer(), whole)
    return bool(world.largest(int(stop)))


def _expand_level(
    share: Share, collector: Collector, world: OneProcess, keep: Tensor | None = None
) -> str | None:
    """Expand, exchange and insert a level; the reason why it was dropped, or None.

    With ``keep``, only states among those are inserted.

    Every process goes through as many exchanges as the one with the most batches, and after its own
    failure still takes part in them, so that none waits for another.
    """
    batches = world.largest(-(-share.layer_size // share.batch_size))
    limit = collector.limits.time_limit
    failed = late = False
    for batch in range(batches):
        if not failed:
            try:
                states, counts = share.expand(batch * share.batch_size, share.batch_size)
            except ShareMemoryError:
                failed = True
        if failed:
            states, counts = share.layer()[:0], [0] * world.size
        arrived = world.exchange(states, counts)
        if not failed:
            if keep is not None:
                arrived = arrived[share.among(arrived, keep)]
            try:
                share.insert(arrived)
            except ShareMemoryError:
                failed = True
        late = limit is not None and collector.seconds >= limit
        if world.size == 1 and (failed or late):
            break
    if world.largest(int(failed)):
        return MEMORY_LIMIT
    # A level that is complete when its time is over counts; the collector stops after it.
    if late and world.size == 1 and batch + 1 < batches:
        return TIME_LIMIT
    return None


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
