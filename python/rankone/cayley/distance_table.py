"""The exact distance of every permutation to the central state, in two bits or one byte each.

The distance mod 3 decides between neighbours that differ by at most 1, as those of inverse-closed
generators do. Directed graphs, where a successor may be two farther, keep the distance itself. The
table is filled by a bitarray search along inverse generators; this project's own design.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rankone._files import write_whole
from rankone.cayley.algo._collect import COMPLETE
from rankone.cayley.algo.engines import GIB, memory_limit
from rankone.cayley.cayley_graph_def import AnyStateType
from rankone.cayley.errors import CayleyError, check, check_range
from rankone.ops._permutation_bfs import native_graph, require_native_kernels

if TYPE_CHECKING:
    from rankone.cayley.cayley_graph import CayleyGraph

_FORMAT = "rankone.cayley.DistanceTable"
_VERSION = 1


class DistanceTable:
    """Distances and shortest paths of all elements; made by :meth:`CayleyGraph.distance_table`.

    Attributes:
        graph: the graph.
        layer_sizes: number of elements at distance 0, 1, ...

    Example:
        >>> from rankone.cayley import CayleyGraph, PermutationGroups
        >>> table = CayleyGraph(PermutationGroups.lrx(6), device="cpu").distance_table()
        >>> table.distance([[1, 0, 5, 4, 3, 2]]).tolist(), len(table.path([1, 0, 5, 4, 3, 2]))
        ([15], 15)
    """

    def __init__(self, graph: CayleyGraph, native: Any, layer_sizes: list[int]) -> None:
        self.graph = graph
        self.layer_sizes = layer_sizes
        self._native = native

    @staticmethod
    def build(
        graph: CayleyGraph,
        *,
        max_memory_gb: float | None = None,
        threads: int | None = None,
        progress: Any = None,
    ) -> DistanceTable:
        """Search the whole group.

        Args:
            graph: a graph of permutations whose central state is a permutation.
            max_memory_gb: most memory, in units of 2**30 bytes; default the graph's limit.
            threads: CPU threads.
            progress: called with (level, size, seconds) after each layer.

        Raises:
            CayleyError: where the central state is no permutation, or the search was interrupted.
            MemoryError: where the table does not fit.
            RuntimeError: without the native module.
        """
        require_native_kernels("a distance table")
        n = _check_definition(graph)
        if threads is not None:
            check_range("threads", threads, 1)
        native = _native_graph(graph)
        memory = native.memory()
        # While it is made, a table of two bits is a search with three.
        needed = max(int(memory["bitarray_codes"]), int(memory["distance_table"]))
        limit = memory_limit(graph, max_memory_gb)
        if needed == 0 or needed > limit:
            amount = f"{needed / GIB:.3g} GiB" if needed else "more memory than can be addressed"
            raise MemoryError(
                f"a distance table of n = {n} needs {amount}, the limit is {limit / GIB:.3g} GiB; "
                "find paths by MeetInTheMiddle or beam_search instead"
            )

        def on_level(level: int, size: int, seconds: float) -> bool:
            if progress is not None:
                progress(level, size, seconds)
            return False

        module = require_native_kernels("a distance table")
        threads = threads or graph.threads or torch.get_num_threads()
        table = module.DistanceTable.build(
            native, on_level=on_level, threads=threads, max_bytes=limit
        )
        summary = table.summary
        check(
            summary["status"] == COMPLETE,
            f"the distance table is not complete: {summary['status']}",
        )
        return DistanceTable(graph, table, list(summary["layer_sizes"]))

    @property
    def directed(self) -> bool:
        """Whether a byte an element is kept."""
        return bool(self._native.directed)

    @property
    def nbytes(self) -> int:
        """Bytes of the table."""
        return self._native.codes.nbytes

    def distance(self, states: AnyStateType) -> Tensor:
        """Length of a shortest path from each state to the central state.

        Args:
            states: one decoded permutation or many.

        Returns:
            (N,) int64; -1 for what the generators cannot bring to the central state.

        Raises:
            CayleyError: for a state that is no permutation.
        """
        rows = self._permutations(states)
        distances = self._native.distances(
            rows.numpy(), threads=self.graph.threads or torch.get_num_threads()
        )
        return torch.from_numpy(distances)

    def path(self, state: AnyStateType) -> list[int]:
        """A shortest path from a state to the central state.

        Raises:
            CayleyError: for a state that is no permutation, or that has no path.
        """
        rows = self._permutations(state)
        check(len(rows) == 1, f"state must be one state, got {len(rows)}")
        if int(self.distance(rows)[0]) < 0:
            raise CayleyError(f"state has no path to the central state: {rows[0].tolist()}")
        path = [int(index) for index in self._native.path(rows[0].numpy())]
        self.graph.validate_path(rows[0], path)
        return path

    def _permutations(self, states: AnyStateType) -> Tensor:
        rows = self.graph.states_tensor(states).cpu().contiguous()
        n = rows.shape[1]
        wrong = (rows.sort(dim=1).values != torch.arange(n)).any(1).nonzero()
        if len(wrong):
            raise CayleyError(
                f"states must be permutations of 0..{n - 1}, got {rows[wrong[0, 0]].tolist()}"
            )
        return rows

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table to a file, whole or not at all.

        Args:
            path: the file, in a folder that exists.
        """
        header = {
            "format": _FORMAT,
            "version": _VERSION,
            "generators": self.graph.definition.generators_permutations,
            "central_state": self.graph.definition.central_state,
            "layer_sizes": self.layer_sizes,
        }

        def write(file: Any) -> None:
            file.write(json.dumps(header).encode() + b"\n")
            np.save(file, self._native.codes)

        write_whole(path, write)

    @staticmethod
    def load(path: str | os.PathLike[str], graph: CayleyGraph) -> DistanceTable:
        """Read what :meth:`save` wrote.

        Args:
            path: the file.
            graph: the graph that the table was made of.

        Raises:
            CayleyError: for a file of another kind or another graph.
        """
        module = require_native_kernels("a distance table")
        with open(Path(path), "rb") as file:
            try:
                header = json.loads(file.readline())
            except ValueError:
                header = {}
            check(
                isinstance(header, dict)
                and header.get("format") == _FORMAT
                and header.get("version") == _VERSION,
                f"path must be a file that DistanceTable.save wrote, got {os.fspath(path)!r}",
            )
            check(
                header["generators"] == graph.definition.generators_permutations
                and header["central_state"] == graph.definition.central_state,
                f"the table in {os.fspath(path)!r} is of another graph",
            )
            codes = np.load(file)
        native = module.DistanceTable.restore(_native_graph(graph), codes)
        table = DistanceTable(graph, native, header["layer_sizes"])
        graph._distance_table = table
        return table


def _check_definition(graph: CayleyGraph) -> int:
    definition = graph.definition
    check(definition.is_permutation_group(), "a distance table needs permutation generators")
    n = definition.state_size
    check(
        sorted(definition.central_state) == list(range(n)),
        "a distance table needs a central state that is a permutation, "
        f"got {definition.central_state}",
    )
    return n


def _native_graph(graph: CayleyGraph) -> Any:
    return native_graph(
        torch.tensor(graph.definition.generators_permutations),
        graph.central_state[None].cpu(),
        8,
    )
