"""What every engine hands its layers to: the parts of a result, and the reasons to stop.

An engine calls :meth:`Collector.on_level` once a complete layer, with a function that gives its
packed states in lexicographic order; it stops when that returns True, and then calls
:meth:`Collector.finish`. So the same layers, hashes and edges come out of every engine.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rankone.cayley.algo.bfs_result import BfsResult, PackedLayers
from rankone.cayley.errors import CayleyError, check, check_range
from rankone.cayley.torch_utils import lexicographic_order

if TYPE_CHECKING:
    from rankone.cayley.cayley_graph import CayleyGraph

COMPLETE = "complete"
MAX_DIAMETER = "max_diameter"
MAX_LAYER_SIZE = "max_layer_size"
MAX_STATES = "max_states"
TIME_LIMIT = "time_limit"
STOP_CONDITION = "stop_condition"
INTERRUPTED = "interrupted"
MEMORY_LIMIT = "memory_limit"
DISK_LIMIT = "disk_limit"

UNLIMITED_DIAMETER = 1_000_000
UNLIMITED_LAYER = 10**12

StopCondition = Callable[[Tensor, Tensor], bool]
ProgressCallback = Callable[[int, int, float], Any]


@dataclass(frozen=True)
class Limits:
    """Where a search stops before it is complete.

    Attributes:
        max_diameter: the largest distance to compute.
        max_layer_size: a layer of this size or more is not explored.
        max_states: stop after the layer that reaches so many states.
        time_limit: seconds.
    """

    max_diameter: int = UNLIMITED_DIAMETER
    max_layer_size: int = UNLIMITED_LAYER
    max_states: int | None = None
    time_limit: float | None = None

    def __post_init__(self) -> None:
        check_range("max_diameter", self.max_diameter, 0)
        check_range("max_layer_size_to_explore", self.max_layer_size, 1)
        if self.max_states is not None:
            check_range("max_states", self.max_states, 1)
        if self.time_limit is not None:
            check(self.time_limit > 0, f"time_limit must be positive, got {self.time_limit}")

    @property
    def unlimited(self) -> bool:
        """Whether nothing but the graph's end stops the search."""
        return (
            self.max_diameter >= UNLIMITED_DIAMETER
            and self.max_layer_size >= UNLIMITED_LAYER
            and self.max_states is None
            and self.time_limit is None
        )


@dataclass(frozen=True)
class Wanted:
    """What a result is to hold.

    Attributes:
        max_layer_size_to_store: larger layers are not stored, but for the first and the last; None
            stores all, 0 the first and the last alone.
        all_edges: edges by hashes.
        all_hashes: hashes of every layer.
        stop_condition: called with the states and hashes of each new layer; True stops.
        progress: called with (level, size, seconds) after each layer.
    """

    max_layer_size_to_store: int | None = 1000
    all_edges: bool = False
    all_hashes: bool = False
    stop_condition: StopCondition | None = None
    progress: ProgressCallback | None = None

    def __post_init__(self) -> None:
        if self.max_layer_size_to_store is not None:
            check_range("max_layer_size_to_store", self.max_layer_size_to_store, 0)
        for name in ("stop_condition", "progress"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise CayleyError(f"{name} must be callable or None, got {value!r}")

    @property
    def needs_layers(self) -> bool:
        """Whether the states of every layer have to be looked at."""
        return self.all_edges or self.all_hashes or self.stop_condition is not None


def sort_states(graph: CayleyGraph, states: Tensor) -> Tensor:
    """Encoded states in the lexicographic order of their elements."""
    rows = graph.decode_states(states).reshape(-1, graph.definition.state_size)
    return states[lexicographic_order(rows)]


class Collector:
    """Gathers the parts of a :class:`BfsResult` level by level."""

    def __init__(self, graph: CayleyGraph, limits: Limits, wanted: Wanted) -> None:
        self.graph = graph
        self.limits = limits
        self.wanted = wanted
        self.began = time.perf_counter()
        self.layer_sizes: list[int] = []
        self.status: str | None = None
        self._layers: dict[int, Tensor] = {}
        self._hashes: list[Tensor] = []
        self._edges: list[Tensor] = []
        self._inward_edges: Tensor | None = None
        self._outward_edges: Tensor | None = None

    @property
    def seconds(self) -> float:
        """Since the search began."""
        return time.perf_counter() - self.began

    def on_level(self, level: int, size: int, states: Callable[[], Tensor] | None) -> bool:
        """Take one complete layer; whether the search is to stop.

        Args:
            level: its distance.
            size: its number of states.
            states: gives the states, encoded as the graph does, in lexicographic order; None where
                the engine keeps the layers that are to be stored and gives them at the end.
        """
        check(level == len(self.layer_sizes), f"layer {level} came out of order")
        self.layer_sizes.append(size)
        wanted = self.wanted
        store = wanted.max_layer_size_to_store
        stored = level == 0 or store is None or size <= store
        layer = None
        if states is not None and (stored or wanted.needs_layers):
            layer = states()
        if stored and layer is not None:
            self._layers[level] = layer
        if layer is not None and wanted.needs_layers:
            hashes = self.graph.hasher.make_hashes(layer)
            if wanted.all_hashes:
                self._hashes.append(hashes)
            if wanted.all_edges:
                self._take_edges(layer, hashes)
            stop = wanted.stop_condition
            if level > 0 and stop is not None and bool(stop(layer, hashes)):
                self.status = STOP_CONDITION
        if wanted.progress is not None:
            wanted.progress(level, size, self.seconds)
        if self.graph.verbose:
            print(f"layer {level}: {size:,} states, {self.seconds:.2f} s")
        return self.limits_reached(level, size)

    def limits_reached(self, level: int, size: int) -> bool:
        """Whether the search is to stop after a layer of this size; sets the status."""
        limits = self.limits
        if self.status is None:
            if size >= limits.max_layer_size:
                self.status = MAX_LAYER_SIZE
            elif level >= limits.max_diameter:
                self.status = MAX_DIAMETER
            elif limits.max_states is not None and sum(self.layer_sizes) >= limits.max_states:
                self.status = MAX_STATES
            elif limits.time_limit is not None and self.seconds >= limits.time_limit:
                self.status = TIME_LIMIT
        return self.status is not None

    def resume(self, layer_sizes: list[int], layers: dict[int, Tensor]) -> None:
        """Start from what an earlier search found."""
        self.layer_sizes = list(layer_sizes)
        self._layers = {level: states.to(self.graph.device) for level, states in layers.items()}

    def stored(self, level: int) -> Tensor | None:
        """The layer, where the result is to hold it."""
        return self._layers.get(level)

    def keep(self, level: int, layer: Tensor) -> None:
        """Let the result hold a layer."""
        self._layers[level] = layer

    def _take_edges(self, layer: Tensor, hashes: Tensor) -> None:
        """Edges out of a layer count once it is explored, that is when the next one arrives."""
        if self._outward_edges is not None:
            self._edges.append(self._outward_edges)
            if self.graph.definition.generators_inverse_closed:
                # Kept in case this layer is the last and is not explored: the edges that arrived
                # in it, turned round.
                arrived = torch.isin(self._outward_edges[:, 1], hashes)
                self._inward_edges = self._outward_edges[arrived].flip(1)
        targets = self.graph.hasher.make_hashes(self.graph.get_neighbors(layer))
        sources = hashes.repeat(self.graph.definition.n_generators)
        self._outward_edges = torch.stack([sources, targets], dim=1)

    def finish(
        self,
        status: str,
        last_states: Callable[[], Tensor] | dict[int, Tensor],
        *,
        engine: str,
        threads: int,
        bytes_peak: int,
        seconds: float | None = None,
    ) -> BfsResult:
        """The result.

        Args:
            status: why the search ended; what :meth:`on_level` found wins.
            last_states: gives the states of the last layer, where it was not stored yet; or layers
                that the engine kept.
            engine: which engine ran.
            threads: on how many threads.
            bytes_peak: most bytes that the engine held.
            seconds: default: since the collector was made.
        """
        status = self.status or status
        complete = status == COMPLETE
        last = len(self.layer_sizes) - 1
        if isinstance(last_states, dict):
            self._layers.update(last_states)
        elif last not in self._layers:
            self._layers[last] = last_states()
        edges = None
        if self.wanted.all_edges:
            closing = self._outward_edges if complete else self._inward_edges
            parts = self._edges if closing is None else [*self._edges, closing]
            empty = torch.empty(0, 2, dtype=torch.int64, device=self.graph.device)
            edges = torch.cat(parts) if parts else empty
        if status in (INTERRUPTED, MEMORY_LIMIT, DISK_LIMIT):
            words = {
                INTERRUPTED: "was interrupted",
                MEMORY_LIMIT: f"of engine {engine!r} reached its memory limit",
                DISK_LIMIT: f"of engine {engine!r} reached the limit of its scratch folder",
            }[status]
            warnings.warn(
                f"the search {words} and stopped at depth {last} with "
                f"{sum(self.layer_sizes):,} states; the result is what was found so far",
                stacklevel=4,
            )
        seconds = self.seconds if seconds is None else seconds
        states = sum(self.layer_sizes)
        return BfsResult(
            bfs_completed=complete,
            layer_sizes=self.layer_sizes,
            layers=PackedLayers(
                dict(sorted(self._layers.items())),
                self.graph.string_encoder,
                self.graph.definition.decoded_state_shape,
            ),
            layers_hashes=self._hashes,
            edges_list_hashes=edges,
            graph=self.graph.definition,
            engine_info={
                "engine": engine,
                "threads": threads,
                "seconds": seconds,
                "states_per_second": states / seconds if seconds else 0.0,
                "bytes_peak": bytes_peak,
                "status": status,
            },
        )
