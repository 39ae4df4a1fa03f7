"""Layers in a folder, from which a search that ended early goes on, on any number of processes.

A layer lies in one file a process, ``layer_<level>_<rank>of<processes>.npy``, whose rows are
encoded states. The manifest lists the files of the layers that are needed; rank 0 replaces it
whole, once every process has said that its file is complete, and only then removes what the new
manifest does not list. So what the manifest lists is always there, wherever a process stops.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rankone._files import write_whole
from rankone.cayley.algo._world import OneProcess, Trouble
from rankone.cayley.algo.bfs_result import definition_to_dict
from rankone.cayley.errors import CayleyError, check

if TYPE_CHECKING:
    from rankone.cayley.cayley_graph import CayleyGraph

MANIFEST = "bfs_manifest.json"
# Files of layers, and what a process that was killed left of one that it was writing.
_REMOVABLE = re.compile(
    r"\.?(layer_\d+_\d+of\d+|stored_\d+)\.npy(\..*)?|\." + re.escape(MANIFEST) + r"\..*"
)


class Checkpoint:
    """The last complete levels of a search.

    Inverse-closed generators need the last two layers, others all of them.

    Args:
        folder: made where it is missing; the same for all processes.
        graph: the graph.
        start_states: (k, words) encoded.
        resume: go on from what the folder holds; else the folder must hold no search.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        graph: CayleyGraph,
        start_states: Tensor,
        *,
        resume: bool,
    ) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.keep_all = not graph.definition.generators_inverse_closed
        described = {
            "definition": definition_to_dict(graph.definition),
            "start": start_states.cpu().tolist(),
            "bits": graph.string_encoder.w if graph.string_encoder else 0,
        }
        text = json.dumps(described, sort_keys=True)
        self.key = hashlib.sha256(text.encode()).hexdigest()
        self._name = graph.definition.name
        self._words = graph.encoded_state_size
        self._sizes: list[int] = []
        self._stored: list[int] = []
        self._parts: dict[int, list[tuple[str, int]]] = {}
        found = self._read_manifest()
        if found is None:
            return
        check(
            resume,
            f"scratch_dir {os.fspath(folder)!r} already holds a search; "
            "give resume=True to go on with it, or another folder",
        )
        check(
            found.get("key") == self.key,
            f"scratch_dir {os.fspath(folder)!r} holds a search of another graph, start or "
            f"encoding ({found.get('graph')!r})",
        )
        self._sizes, self._stored = found["layer_sizes"], found["stored"]
        self._parts = {
            int(level): [(file, count) for file, count in parts]
            for level, parts in found["parts"].items()
        }

    def _read_manifest(self) -> dict[str, Any] | None:
        try:
            text = (self.folder / MANIFEST).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        try:
            return dict(json.loads(text))
        except ValueError as error:
            raise CayleyError(f"{self.folder / MANIFEST} cannot be read: {error}") from None

    @property
    def layer_sizes(self) -> list[int]:
        """Sizes of the layers that are complete."""
        return list(self._sizes)

    @property
    def digest(self) -> str:
        """Of what the folder held at the start, to compare between processes."""
        if not self._sizes:
            return "no search"
        text = json.dumps([self.key, self._sizes, self._stored, sorted(self._parts.items())])
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        return f"a search of {len(self._sizes)} layers, {digest}"

    def advice(self) -> str:
        """What a search that ended in an error has left, for its message."""
        try:
            found = self._read_manifest()
        except (OSError, CayleyError) as error:
            return str(error)
        folder = os.fspath(self.folder)
        if found is None:
            return f"{folder} holds no complete checkpoint"
        return (
            f"the last complete checkpoint in {folder} holds levels 0.."
            f"{len(found['layer_sizes']) - 1}; go on with resume=True, on any number of processes"
        )

    def count(self, level: int) -> int:
        """Number of states of a layer in the folder."""
        return sum(count for _, count in self._parts[level])

    def read(self, level: int, first: int, last: int) -> Tensor:
        """States [first, last) of a layer, in the order of its files."""
        pieces = [np.empty((0, self._words), dtype=np.int64)]
        begin = 0  # of the file, among all states of the layer
        for name, count in self._parts[level]:
            low, high = max(first - begin, 0), min(last - begin, count)
            begin += count
            if low < high:
                pieces.append(self._load(name, count)[low:high])
        return torch.from_numpy(np.concatenate(pieces))

    def _load(self, name: str, count: int | None) -> np.ndarray:
        path = self.folder / name
        try:
            found = np.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise CayleyError(f"{path} cannot be read: {error}") from None
        shape = (found.shape[0] if count is None else count, self._words)
        check(
            found.shape == shape and found.dtype == np.int64,
            f"{path} should hold int64 of shape {shape}, got {found.dtype} of {found.shape}",
        )
        return found

    def stored_layers(self, rank: int) -> dict[int, Tensor]:
        """Whole layers that the result is to hold: on rank 0, and empty ones elsewhere."""
        layers = {}
        for level in self._stored:
            rows = (
                self._load(_stored_file(level), None) if rank == 0 else np.empty((0, self._words))
            )
            layers[level] = torch.from_numpy(np.array(rows, dtype=np.int64))
        return layers

    def write(
        self,
        level: int,
        size: int,
        part: Callable[[], Tensor],
        whole: Tensor | None,
        world: OneProcess,
        trouble: Trouble,
    ) -> None:
        """Keep a layer; every process calls it.

        Args:
            level: of the layer.
            size: number of its states.
            part: gives those that this process owns.
            whole: all of it on rank 0, where the result is to hold it.
            world: the processes.
            trouble: takes what goes wrong on rank 0 after the last exchange in here.
        """
        name = f"layer_{level}_{world.rank}of{world.size}.npy"
        facts: dict[str, object] = {"_file": name, "_count": None}
        with trouble.watch():
            states = part().cpu().numpy()
            if len(states):
                write_whole(self.folder / name, lambda file: np.save(file, states))
            if whole is not None and world.rank == 0:
                rows = whole.cpu().numpy()
                write_whole(self.folder / _stored_file(level), lambda file: np.save(file, rows))
            facts["_count"] = len(states)
        everyone = world.agree(f"the checkpoint of level {level}", facts, trouble.error)
        if any(facts["_count"] is None for facts in everyone):
            return  # One was interrupted: the last checkpoint stays.
        self._sizes.append(size)
        if whole is not None:
            self._stored.append(level)
        self._parts[level] = [
            (facts["_file"], facts["_count"]) for facts in everyone if facts["_count"]
        ]
        if not self.keep_all:
            self._parts.pop(level - 2, None)
        if world.rank == 0:
            with trouble.watch():
                self._commit(level)

    def _commit(self, level: int) -> None:
        for name, _ in self._parts[level]:
            check(
                (self.folder / name).exists(),
                f"scratch_dir {os.fspath(self.folder)!r} must be one folder that every process "
                f"sees, and rank 0 does not see {name}",
            )
        manifest = {
            "key": self.key,
            "graph": self._name,
            "layer_sizes": self._sizes,
            "stored": self._stored,
            "parts": self._parts,
        }
        write_whole(self.folder / MANIFEST, json.dumps(manifest))
        self._remove_others()

    def _remove_others(self) -> None:
        """Remove layers that the manifest no longer lists, and what killed processes left."""
        listed = {name for parts in self._parts.values() for name, _ in parts}
        listed |= {_stored_file(level) for level in self._stored}
        for path in self.folder.iterdir():
            if path.name not in listed and _REMOVABLE.fullmatch(path.name):
                path.unlink(missing_ok=True)


def _stored_file(level: int) -> str:
    return f"stored_{level}.npy"


__all__ = ["MANIFEST", "Checkpoint"]
