"""What a breadth-first search found: layers, hashes, edges, and the explicit graph made of them.

Vertices are numbered in order of distance, and lexicographically within a layer. Layers are kept
packed and unpacked when read, so that a stored layer takes a few bytes a state.
"""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rankone._repr import short_repr
from rankone.cayley._extras import need
from rankone.cayley.cayley_graph_def import CayleyGraphDef, GeneratorType, MatrixGenerator
from rankone.cayley.errors import CayleyError, check
from rankone.cayley.string_encoder import StringEncoder

if TYPE_CHECKING:
    import matplotlib.axes
    import networkx
    import scipy.sparse

_FORMAT = "rankone.cayley.BfsResult"
_FORMAT_VERSION = 1

# Below this many vertices all eigenvalues are found by a dense solver.
_DENSE_SPECTRUM = 5000
_SPARSE_EIGENVALUES = 6  # the default of scipy.sparse.linalg.eigsh


class PackedLayers(Mapping[int, Tensor]):
    """Layers of a search by distance, packed; reading one unpacks it.

    Args:
        packed: distance -> (N, words) int64.
        encoder: how states are packed; None where every entry is a word.
        shape: shape of a state.
    """

    def __init__(
        self,
        packed: Mapping[int, Tensor],
        encoder: StringEncoder | None,
        shape: tuple[int, ...],
    ) -> None:
        self.packed = dict(packed)
        self.encoder = encoder
        self.shape = shape

    def __getitem__(self, distance: int) -> Tensor:
        states = self.packed[distance]
        if self.encoder:
            states = self.encoder.decode(states)
        return states.reshape(-1, *self.shape)

    def __iter__(self) -> Iterator[int]:
        return iter(self.packed)

    def __len__(self) -> int:
        return len(self.packed)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mapping):
            return NotImplemented
        return set(self) == set(other) and all(torch.equal(self[i], other[i]) for i in self)

    __hash__ = None  # type: ignore[assignment]  # it holds tensors

    def __repr__(self) -> str:
        sizes = {distance: len(states) for distance, states in self.packed.items()}
        return f"PackedLayers({sizes})"

    def to(self, device: torch.device | str) -> PackedLayers:
        """The layers on another device."""
        moved = {distance: states.to(device) for distance, states in self.packed.items()}
        return PackedLayers(moved, self.encoder, self.shape)


@dataclass(frozen=True, eq=False)
class BfsResult:
    """Result of :meth:`rankone.cayley.CayleyGraph.bfs`.

    Attributes:
        bfs_completed: whether every vertex was found.
        layer_sizes: number of vertices at distance 0, 1, ...
        layers: distance -> (N, *state shape) int64 for the layers that were stored.
        layers_hashes: the hashes of each layer, in the order of its states; empty where they were
            not asked for.
        edges_list_hashes: (E, 2) int64 hashes of the ends of each edge, or None.
        graph: the definition of the graph.
        engine_info: how the search went; not compared by ``==``. "engine", the one that ran;
            "threads" of the CPU; "seconds"; "states_per_second", vertices found; "bytes_peak", the
            most memory that the engine held; "status", why the search ended: "complete",
            "max_diameter", "max_layer_size", "max_states", "time_limit", "stop_condition",
            "interrupted", "memory_limit" or "disk_limit". The distributed engine adds "world_size",
            the number of processes; "bytes_sent" by this one; "exchanges", their number; and
            "exchange_seconds", spent in them and in waits for the others.
    """

    __repr__ = short_repr

    bfs_completed: bool
    layer_sizes: list[int]
    layers: Mapping[int, Tensor] = field(repr=False)
    layers_hashes: list[Tensor] = field(repr=False)
    edges_list_hashes: Tensor | None = field(repr=False)
    graph: CayleyGraphDef = field(repr=False)
    engine_info: dict[str, Any] = field(default_factory=dict)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BfsResult):
            return NotImplemented
        edges, more_edges = self.edges_list_hashes, other.edges_list_hashes
        return (
            self.bfs_completed == other.bfs_completed
            and self.layer_sizes == other.layer_sizes
            and self.graph == other.graph
            and set(self.layers) == set(other.layers)
            and all(torch.equal(self.layers[i], other.layers[i]) for i in self.layers)
            and len(self.layers_hashes) == len(other.layers_hashes)
            and all(map(torch.equal, self.layers_hashes, other.layers_hashes))
            and (edges is None) == (more_edges is None)
            and (edges is None or more_edges is None or torch.equal(edges, more_edges))
        )

    __hash__ = None  # type: ignore[assignment]  # it holds tensors

    # ---- layers ----

    def diameter(self) -> int:
        """The largest distance found: the diameter, where the search was complete.

        After a search that stopped early it is the depth reached, with a warning.
        """
        if not self.bfs_completed:
            warnings.warn(
                "the search stopped early: diameter() is the depth reached, a lower bound",
                stacklevel=2,
            )
        return len(self.layer_sizes) - 1

    def get_layer(self, layer_id: int) -> np.ndarray:
        """States at distance ``layer_id``.

        Raises:
            CayleyError: where there is no such layer or it was too large to be stored.
        """
        check(
            0 <= layer_id < len(self.layer_sizes),
            f"layer_id must be between 0 and {len(self.layer_sizes) - 1}, got {layer_id}",
        )
        check(
            layer_id in self.layers,
            f"layer {layer_id} with {self.layer_sizes[layer_id]} states was not stored; "
            "raise max_layer_size_to_store",
        )
        return torch.as_tensor(self.layers[layer_id]).cpu().numpy()

    def last_layer(self) -> np.ndarray:
        """States at the largest distance found."""
        return self.get_layer(len(self.layer_sizes) - 1)

    @property
    def num_vertices(self) -> int:
        """Number of vertices found."""
        return sum(self.layer_sizes)

    @cached_property
    def all_states(self) -> Tensor:
        """Every vertex, in order of its number.

        Raises:
            CayleyError: where a layer was not stored.
        """
        missing = [i for i in range(len(self.layer_sizes)) if i not in self.layers]
        check(
            not missing,
            f"layers {missing[:5]} were not stored; search with max_layer_size_to_store=None",
        )
        return torch.cat([self.layers[i] for i in range(len(self.layer_sizes))])

    @staticmethod
    def vertex_name(state: np.ndarray | Tensor) -> str:
        """A state as text: its digits, or its entries where one has several digits.

        Example:
            >>> import numpy as np
            >>> BfsResult.vertex_name(np.array([1, 0, 2]))
            '102'
        """
        array = np.asarray(state)
        if array.ndim > 1:
            return str(array)
        if array.size and int(array.max()) > 9:
            return ",".join(map(str, array.tolist()))
        return "".join(map(str, array.tolist()))

    @cached_property
    def vertex_names(self) -> list[str]:
        """The name of every vertex."""
        return [self.vertex_name(state) for state in self.all_states.cpu().numpy()]

    # ---- hashes and edges ----

    def has_edges_list_hashes(self) -> bool:
        """Whether edges were asked for."""
        return self.edges_list_hashes is not None

    def check_has_layer_hashes(self) -> None:
        """Require the hashes of all layers.

        Raises:
            CayleyError: where the search was made without ``return_all_hashes=True``.
        """
        check(
            len(self.layers_hashes) == len(self.layer_sizes),
            "the search must be made with return_all_hashes=True",
        )

    @cached_property
    def _hash_order(self) -> tuple[np.ndarray, np.ndarray]:
        """All hashes, sorted, and the vertex number of each."""
        self.check_has_layer_hashes()
        hashes = torch.cat([layer.cpu() for layer in self.layers_hashes]).numpy()
        order = np.argsort(hashes, kind="stable")
        ordered = hashes[order]
        check(
            not np.any(ordered[1:] == ordered[:-1]),
            "two vertices have one hash; make the graph with another random_seed",
        )
        return ordered, order

    @cached_property
    def hashes_to_indices_dict(self) -> dict[int, int]:
        """Hash of a vertex -> its number."""
        ordered, order = self._hash_order
        return dict(zip(ordered.tolist(), order.tolist(), strict=True))

    @cached_property
    def edges_list(self) -> np.ndarray:
        """(E, 2) int64: numbers of the ends of each edge, in the direction of the generator.

        Raises:
            CayleyError: where the search was made without edges and hashes.
        """
        if self.edges_list_hashes is None:
            raise CayleyError("the search must be made with return_all_edges=True")
        ordered, order = self._hash_order
        ends = self.edges_list_hashes.cpu().numpy()
        return order[np.searchsorted(ordered, ends)].astype(np.int64).reshape(-1, 2)

    def get_edge_name(self, i1: int, i2: int) -> str:
        """Name of a generator that leads from vertex ``i1`` to vertex ``i2``.

        Raises:
            CayleyError: where no generator does.
        """
        source, target = self.all_states[i1].cpu(), self.all_states[i2].cpu()
        for index, generator in enumerate(self.graph.generators):
            if isinstance(generator, MatrixGenerator):
                moved = generator.apply_batch_torch(source[None])[0]
            else:
                moved = source[torch.tensor(generator)]
            if torch.equal(moved, target):
                return self.graph.generator_names[index]
        raise CayleyError(f"no generator leads from vertex {i1} to vertex {i2}")

    def named_undirected_edges(self) -> set[tuple[str, str]]:
        """Edges as pairs of vertex names, each pair in alphabetical order."""
        names = self.vertex_names
        pairs = ((names[i], names[j]) for i, j in self.edges_list.tolist())
        return {(min(pair), max(pair)) for pair in pairs}

    # ---- matrices and graphs ----

    def adjacency_matrix_sparse(self) -> scipy.sparse.coo_array:
        """(V, V) int8: 1 where a generator leads from the row's vertex to the column's."""
        scipy_sparse = need("scipy.sparse", "adjacency_matrix_sparse")
        count = self.num_vertices
        cells = np.unique(self.edges_list[:, 0] * count + self.edges_list[:, 1])
        ones = np.ones(len(cells), dtype=np.int8)
        return scipy_sparse.coo_array((ones, divmod(cells, count)), shape=(count, count))

    def adjacency_matrix(self) -> np.ndarray:
        """As :meth:`adjacency_matrix_sparse`, dense."""
        matrix = np.zeros((self.num_vertices, self.num_vertices), dtype=np.int8)
        matrix[self.edges_list[:, 0], self.edges_list[:, 1]] = 1
        return matrix

    def laplacian_matrix(self) -> np.ndarray:
        """(V, V) int64: diagonal of row sums of the adjacency matrix, less that matrix."""
        adjacency = self.adjacency_matrix().astype(np.int64)
        return np.diag(adjacency.sum(axis=1)) - adjacency

    def spectrum(self, k: int | None = None, which: str = "adjacency") -> np.ndarray:
        """Eigenvalues of a matrix of the undirected graph, ascending.

        Args:
            k: only the k largest; None means all, or the six largest of 5000 vertices and more.
            which: "adjacency" or "laplacian".

        Raises:
            CayleyError: for another ``which``, a k out of range, or a directed graph.
        """
        check(
            which in ("adjacency", "laplacian"),
            f"which must be 'adjacency' or 'laplacian', got {which!r}",
        )
        check(self.graph.generators_inverse_closed, "spectrum needs inverse-closed generators")
        count = self.num_vertices
        if k is not None:
            check(1 <= k <= count, f"k must be between 1 and {count}, got {k}")
        if count < _DENSE_SPECTRUM:
            matrix = (
                self.adjacency_matrix().astype(np.float64)
                if which == "adjacency"
                else self.laplacian_matrix().astype(np.float64)
            )
            values = np.linalg.eigvalsh(matrix)
            return values if k is None else values[-k:]
        scipy_sparse = need("scipy.sparse", "spectrum")
        linalg = need("scipy.sparse.linalg", "spectrum")
        sparse = self.adjacency_matrix_sparse().astype(np.float64).tocsr()
        if which == "laplacian":
            sparse = scipy_sparse.diags_array(np.asarray(sparse.sum(axis=1)).ravel()) - sparse
        start = np.random.default_rng(0).standard_normal(count)
        values = linalg.eigsh(
            sparse, k=k or _SPARSE_EIGENVALUES, which="LA", v0=start, return_eigenvectors=False
        )
        return np.sort(values)

    def to_networkx_graph(
        self, directed: bool = False, with_labels: bool = True
    ) -> networkx.Graph | networkx.DiGraph:
        """The explicit graph, its vertices named by their states.

        Args:
            directed: must be True where the generators are not inverse-closed.
            with_labels: name of the generator as the attribute "label" of each edge.

        Raises:
            CayleyError: for an undirected graph of generators that are not inverse-closed.
        """
        networkx = need("networkx", "to_networkx_graph")
        check(
            directed or self.graph.generators_inverse_closed,
            "directed must be True where the generators are not inverse-closed",
        )
        names = self.vertex_names
        graph = networkx.DiGraph() if directed else networkx.Graph()
        graph.add_nodes_from(names)
        labels = self._edge_labels if with_labels else None
        for i, j in self.edges_list.tolist():
            if labels is None:
                graph.add_edge(names[i], names[j])
            elif not graph.has_edge(names[i], names[j]):
                graph.add_edge(names[i], names[j], label=labels[i, j])
        return graph

    @cached_property
    def _edge_labels(self) -> dict[tuple[int, int], str]:
        """The name of the first generator that leads from one vertex to another."""
        states = self.all_states.cpu()
        number = {row.tobytes(): i for i, row in enumerate(states.numpy())}
        labels: dict[tuple[int, int], str] = {}
        for name, generator in zip(self.graph.generator_names, self.graph.generators, strict=True):
            if isinstance(generator, MatrixGenerator):
                moved = generator.apply_batch_torch(states)
            else:
                moved = states[:, torch.tensor(generator)]
            for i, row in enumerate(moved.numpy()):
                j = number.get(row.tobytes())
                if j is not None:
                    labels.setdefault((i, j), name)
        return labels

    # ---- summaries ----

    def statistics(self) -> dict[str, Any]:
        """Moments of the distance of a vertex drawn at random.

        Returns:
            what :func:`rankone.cayley.analysis.growth_statistics` says of the layer sizes, and
            "bfs_completed": the numbers describe what was found.
        """
        from rankone.cayley.analysis import growth_statistics

        return {**growth_statistics(self.layer_sizes), "bfs_completed": self.bfs_completed}

    def plot(self, ax: matplotlib.axes.Axes | None = None) -> matplotlib.axes.Axes:
        """Bars of the layer sizes.

        Args:
            ax: axes to draw on; default new ones.

        Returns:
            The axes.
        """
        import matplotlib.pyplot as plt

        if ax is None:
            _, ax = plt.subplots(figsize=(7, 4), layout="constrained")
        ax.bar(range(len(self.layer_sizes)), self.layer_sizes, width=0.9, color="#4269d0")
        ax.set_xlabel("distance")
        ax.set_ylabel("vertices")
        name = self.graph.name or f"{self.graph.n_generators} generators"
        words = "diameter" if self.bfs_completed else "stopped at depth"
        ax.set_title(f"{name}: {self.num_vertices:,} vertices, {words} {len(self.layer_sizes) - 1}")
        ax.spines[["top", "right"]].set_visible(False)
        return ax

    # ---- copies and files ----

    def to_device(self, device: str | torch.device) -> BfsResult:
        """The result with its tensors on another device."""
        layers = (
            self.layers.to(device)
            if isinstance(self.layers, PackedLayers)
            else {distance: states.to(device) for distance, states in self.layers.items()}
        )
        edges = self.edges_list_hashes
        return replace(
            self,
            layers=layers,
            layers_hashes=[hashes.to(device) for hashes in self.layers_hashes],
            edges_list_hashes=None if edges is None else edges.to(device),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to an HDF5 file, whole or not at all.

        Args:
            path: the file, in a folder that exists.
        """
        h5py = need("h5py", "saving and loading a BfsResult")
        target = Path(path)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        os.close(descriptor)
        try:
            with h5py.File(temporary, "w") as file:
                self._write(file)
            os.chmod(temporary, 0o644)
            os.replace(temporary, target)
        except BaseException:
            os.unlink(temporary)
            raise

    def _write(self, file: Any) -> None:
        file.attrs["format"] = _FORMAT
        file.attrs["version"] = _FORMAT_VERSION
        file.attrs["definition"] = json.dumps(definition_to_dict(self.graph))
        file.attrs["engine_info"] = json.dumps(self.engine_info, default=str)
        file.attrs["bfs_completed"] = self.bfs_completed
        file["layer_sizes"] = np.array(self.layer_sizes, dtype=np.int64)
        layers = self.layers
        if not isinstance(layers, PackedLayers):
            flat = {i: states.flatten(1) for i, states in layers.items()}
            layers = PackedLayers(flat, None, self.graph.decoded_state_shape)
        group = file.create_group("layers")
        group.attrs["bits"] = layers.encoder.w if layers.encoder else 0
        for distance, states in layers.packed.items():
            group[str(distance)] = states.cpu().numpy()
        group = file.create_group("layers_hashes")
        for distance, hashes in enumerate(self.layers_hashes):
            group[str(distance)] = hashes.cpu().numpy()
        if self.edges_list_hashes is not None:
            file["edges_list_hashes"] = self.edges_list_hashes.cpu().numpy()

    @staticmethod
    def load(path: str | os.PathLike[str]) -> BfsResult:
        """Read what :meth:`save` wrote; tensors are on the CPU.

        Raises:
            CayleyError: for a file of another kind.
        """
        h5py = need("h5py", "saving and loading a BfsResult")
        with h5py.File(path, "r") as file:
            check(
                file.attrs.get("format") == _FORMAT
                and int(file.attrs["version"]) == _FORMAT_VERSION,
                f"path must be a file that BfsResult.save wrote, got {os.fspath(path)!r}",
            )
            definition = definition_from_dict(json.loads(file.attrs["definition"]))
            bits = int(file["layers"].attrs["bits"])
            encoder = StringEncoder(code_width=bits, n=definition.state_size) if bits else None
            packed = {int(i): torch.from_numpy(file["layers"][i][()]) for i in file["layers"]}
            hashes = file["layers_hashes"]
            edges = file.get("edges_list_hashes")
            return BfsResult(
                bfs_completed=bool(file.attrs["bfs_completed"]),
                layer_sizes=file["layer_sizes"][()].tolist(),
                layers=PackedLayers(
                    dict(sorted(packed.items())), encoder, definition.decoded_state_shape
                ),
                layers_hashes=[torch.from_numpy(hashes[str(i)][()]) for i in range(len(hashes))],
                edges_list_hashes=None if edges is None else torch.from_numpy(edges[()]),
                graph=definition,
                engine_info=json.loads(file.attrs["engine_info"]),
            )


def definition_to_dict(definition: CayleyGraphDef) -> dict[str, Any]:
    """A definition as plain values for JSON."""
    return {
        "generators_type": definition.generators_type.name,
        "generators": [
            [generator.matrix.tolist(), generator.modulo]
            if isinstance(generator, MatrixGenerator)
            else generator
            for generator in definition.generators
        ],
        "generator_names": definition.generator_names,
        "central_state": definition.central_state,
        "name": definition.name,
    }


def definition_from_dict(values: Mapping[str, Any]) -> CayleyGraphDef:
    """What :func:`definition_to_dict` describes."""
    names, state, name = values["generator_names"], values["central_state"], values["name"]
    if values["generators_type"] == GeneratorType.PERMUTATION.name:
        return CayleyGraphDef.create(values["generators"], names, state, name)
    return CayleyGraphDef.for_matrix_group(
        generators=[MatrixGenerator.create(*generator) for generator in values["generators"]],
        generator_names=names,
        central_state=state,
        name=name,
    )


__all__ = ["BfsResult", "PackedLayers", "definition_from_dict", "definition_to_dict"]
