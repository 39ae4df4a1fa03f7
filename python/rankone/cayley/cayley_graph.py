"""A Cayley or Schreier graph: states on a device, and everything that can be asked about them.

States are "decoded" (integers, one a position) where a user sees them and "encoded" (packed into
64-bit words) where they are many. The algorithms live in :mod:`rankone.cayley.algo`; the methods
here hand over to them.
"""

from __future__ import annotations

import copy
import gc
import warnings
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rankone.cayley.cayley_graph_def import AnyStateType, CayleyGraphDef
from rankone.cayley.device_config import DeviceConfig
from rankone.cayley.errors import CayleyError, check, check_range
from rankone.cayley.hasher import StateHasher
from rankone.cayley.string_encoder import NATIVE_WIDTHS, WORD_BITS, StringEncoder, width_for
from rankone.cayley.torch_utils import sort_unique

if TYPE_CHECKING:
    import networkx

    from rankone.cayley.algo.beam_search import BeamSearchResult
    from rankone.cayley.algo.bfs_result import BfsResult
    from rankone.cayley.distance_table import DistanceTable


class CayleyGraph:
    """The graph of a definition, with a device and an encoding of states.

    Args:
        definition: generators and central state.
        device: "auto", "cpu", "cuda", "cuda:1", ...
        random_seed: seed of the hashes of states longer than one word. Results do not depend on it.
        bit_encoding_width: bits of an element in encoded states; "auto" takes the narrowest of
            1, 2, 4, 8, 16, 32, 64, None keeps one word an element.
        verbose: 1 prints a line a level of a search.
        batch_size: states expanded at a time.
        hash_chunk_size: states hashed at a time.
        memory_limit_gb: most memory that a search may use, in units of 2**30 bytes.
        num_gpus: how many GPUs at most.
        specific_devices: exactly these GPUs.
        device_config: instead of the three above.
        threads: CPU threads of the native engines; None means torch's number.
        unused_kwargs: ignored with a warning, so that a script written for another version runs.

    Raises:
        CayleyError: for a wrong argument.

    Source: CayleyPy Growth, arXiv 2509.19162.

    Example:
        >>> from rankone.cayley import CayleyGraph, PermutationGroups
        >>> CayleyGraph(PermutationGroups.lrx(4), device="cpu").bfs().layer_sizes
        [1, 3, 5, 6, 5, 3, 1]
    """

    def __init__(
        self,
        definition: CayleyGraphDef,
        *,
        device: str = "auto",
        random_seed: int | None = None,
        bit_encoding_width: int | str | None = "auto",
        verbose: int = 0,
        batch_size: int = 2**20,
        hash_chunk_size: int = 2**25,
        memory_limit_gb: float = 16,
        num_gpus: int | None = None,
        specific_devices: Sequence[int | str | torch.device] | None = None,
        device_config: DeviceConfig | None = None,
        threads: int | None = None,
        **unused_kwargs: Any,
    ) -> None:
        if not isinstance(definition, CayleyGraphDef):
            raise CayleyError(
                f"definition must be a CayleyGraphDef, got {type(definition).__name__}"
            )
        if unused_kwargs:
            warnings.warn(
                f"CayleyGraph does not know and ignores {', '.join(sorted(unused_kwargs))}",
                stacklevel=2,
            )
        check_range("batch_size", batch_size, 1)
        check_range("hash_chunk_size", hash_chunk_size, 1)
        if random_seed is not None:
            check_range("random_seed", random_seed, 0)
        if threads is not None:
            check_range("threads", threads, 1)
        check(memory_limit_gb > 0, f"memory_limit_gb must be positive, got {memory_limit_gb}")
        self.definition = definition
        self.verbose = verbose
        self.batch_size = batch_size
        self.hash_chunk_size = hash_chunk_size
        self.memory_limit_gb = memory_limit_gb
        self.threads = threads
        self.device_config = device_config or DeviceConfig.create(
            device, num_gpus, specific_devices
        )
        self.string_encoder = self._make_encoder(bit_encoding_width)
        self.encoded_state_size = (
            self.string_encoder.encoded_length if self.string_encoder else definition.state_size
        )
        self.hasher = StateHasher(self, random_seed, chunk_size=hash_chunk_size)
        self._attach(definition)

    def _attach(self, definition: CayleyGraphDef) -> None:
        self.definition = definition
        self.central_state = torch.tensor(
            definition.central_state, dtype=torch.int64, device=self.device
        )
        self._distance_table: DistanceTable | None = None
        self._partial_search: BfsResult | None = None
        self.central_state_hash = self.hasher.make_hashes(self.encode_states(self.central_state))

    def _make_encoder(self, width: int | str | None) -> StringEncoder | None:
        definition = self.definition
        if definition.is_matrix_group():
            modulo = definition.generators_matrices[0].modulo
            largest = modulo - 1 if modulo else -1
        else:
            largest = max(definition.central_state)
        if width is None or largest < 0:
            return None
        narrowest = max(1, largest.bit_length())
        if width == "auto":
            width = width_for(largest)
        elif isinstance(width, str):
            raise CayleyError(
                f"bit_encoding_width must be an integer, None or 'auto', got {width!r}"
            )
        else:
            check_range("bit_encoding_width", width, 1, WORD_BITS - 1)
            check(
                width >= narrowest,
                f"bit_encoding_width must be at least {narrowest} for values up to {largest}, "
                f"got {width}",
            )
        return StringEncoder(code_width=int(width), n=definition.state_size)

    # ---- facts ----

    @property
    def device(self) -> torch.device:
        """The main device."""
        return self.device_config.device

    @property
    def gpu_devices(self) -> list[torch.device]:
        """The GPUs."""
        return self.device_config.gpu_devices

    @property
    def num_gpus(self) -> int:
        """How many GPUs there are."""
        return self.device_config.num_gpus

    @property
    def generators(self) -> list:
        """The generators of the definition."""
        return self.definition.generators

    @property
    def layout_bits(self) -> int | None:
        """Bits of an element where the native operations know the encoding, else None."""
        width = self.string_encoder.w if self.string_encoder else WORD_BITS
        return width if width in NATIVE_WIDTHS else None

    @cached_property
    def with_inverted_generators(self) -> CayleyGraph:
        """The graph of the inverse generators, with the same encoding and hashes."""
        if self.definition.generators_inverse_closed and all(
            inverse == index
            for index, inverse in enumerate(self.definition.generators_inverse_map or ())
        ):
            return self
        return self.modified_copy(self.definition.with_inverted_generators())

    def modified_copy(self, new_def: CayleyGraphDef) -> CayleyGraph:
        """The graph of another definition with this one's encoding, hashes and settings.

        Raises:
            CayleyError: where the states of ``new_def`` have another shape.
        """
        check(
            new_def.decoded_state_shape == self.definition.decoded_state_shape,
            f"new_def must have states of shape {self.definition.decoded_state_shape}, "
            f"got {new_def.decoded_state_shape}",
        )
        graph = copy.copy(self)
        for name in ("with_inverted_generators", "_permuters", "_generator_tensor"):
            graph.__dict__.pop(name, None)
        graph._attach(new_def)
        return graph

    # ---- states ----

    def encode_states(self, states: AnyStateType) -> Tensor:
        """Pack states.

        Args:
            states: one state or many, (N, n) or (N, n, m) integers: list, array or tensor.

        Returns:
            (N, encoded_state_size) int64 on the graph's device.

        Raises:
            CayleyError: for a wrong number of entries or values that do not fit the encoding.
        """
        rows = self.states_tensor(states)
        return self.string_encoder.encode(rows) if self.string_encoder else rows

    def states_tensor(self, states: AnyStateType, name: str = "states") -> Tensor:
        """States in any form as an (N, state_size) int64 tensor on the graph's device."""
        if not isinstance(states, Tensor):
            if isinstance(states, list | tuple) and states and isinstance(states[0], Tensor):
                states = torch.stack([state.reshape(-1) for state in states])
            else:
                try:
                    states = torch.from_numpy(np.ascontiguousarray(np.asarray(states)))
                except (TypeError, ValueError):
                    raise CayleyError(
                        f"{name} must be integers in rows of equal length, got {states!r}"
                    ) from None
        if states.dtype.is_floating_point or states.dtype.is_complex:
            raise CayleyError(f"{name} must hold integers, got {states.dtype}")
        size = self.definition.state_size
        shape = tuple(states.shape)
        if shape[-1:] != (size,) and shape[-2:] != self.definition.decoded_state_shape:
            expected = " or ".join(
                str(one) for one in dict.fromkeys(((size,), self.definition.decoded_state_shape))
            )
            raise CayleyError(f"{name} must have states of shape {expected}, got shape {shape}")
        return states.to(self.device, torch.int64).reshape(-1, size)

    def decode_states(self, states: Tensor) -> Tensor:
        """Unpack states.

        Args:
            states: (N, encoded_state_size) int64.

        Returns:
            (N, n) int64, or (N, n, m) for matrices.
        """
        if self.string_encoder:
            states = self.string_encoder.decode(states)
        return states.reshape(-1, *self.definition.decoded_state_shape)

    def get_unique_states(
        self, states: Tensor, hashes: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encoded states sorted by hash, repeats dropped, and their hashes.

        Args:
            states: (N, encoded_state_size) int64.
            hashes: (N,) int64, where they are known.
        """
        if hashes is None:
            hashes = self.hasher.make_hashes(states)
        return sort_unique(states, hashes)

    # ---- edges ----

    @cached_property
    def _permuters(self) -> list:
        encoder = self.string_encoder
        if encoder is None:
            encoder = StringEncoder(code_width=WORD_BITS, n=self.definition.state_size)
        return [encoder.implement_permutation(p) for p in self.definition.generators_permutations]

    @cached_property
    def _generator_tensor(self) -> Tensor:
        return torch.tensor(self.definition.generators_permutations, device=self.device)

    def apply_generator_batched(self, i: int, src: Tensor, dst: Tensor) -> None:
        """Write generator ``i`` applied to the encoded states ``src`` to ``dst``."""
        if self.definition.is_permutation_group():
            dst.zero_()
            self._permuters[i](src, dst)
            return
        moved = self.definition.generators_matrices[i].apply_batch_torch(self.decode_states(src))
        rows = moved.reshape(-1, self.definition.state_size)
        dst.copy_(self.string_encoder._encode(rows) if self.string_encoder else rows)

    def apply_path(self, states: AnyStateType, generator_ids: Sequence[int]) -> Tensor:
        """States after applying generators in order.

        Args:
            states: one decoded state or many.
            generator_ids: numbers of generators, the first applied first.

        Returns:
            (N, n) or (N, n, m) int64.
        """
        rows = self.states_tensor(states)
        definition = self.definition
        if definition.is_permutation_group():
            order = torch.arange(definition.state_size, device=rows.device)
            for index in self._check_path(generator_ids):
                order = order[self._generator_tensor[index]]
            return rows[:, order]
        matrices = rows.reshape(-1, *definition.decoded_state_shape)
        for index in self._check_path(generator_ids):
            matrices = definition.generators_matrices[index].apply_batch_torch(matrices)
        return matrices

    def _check_path(self, path: Sequence[int]) -> list[int]:
        path = [int(index) for index in path]
        count = self.definition.n_generators
        for index in path:
            check(
                0 <= index < count,
                f"path must hold generator numbers from 0 to {count - 1}, got {index}",
            )
        return path

    def validate_path(self, start_state: AnyStateType, path: Sequence[int]) -> None:
        """Require that ``path`` leads from ``start_state`` to the central state.

        Args:
            start_state: one state.
            path: generator numbers, applied from the first on.

        Returns:
            None; a path that leads elsewhere raises.

        Raises:
            CayleyError: where it leads elsewhere, or for a number of no generator.
        """
        end = self.apply_path(start_state, path).reshape(-1)
        if not torch.equal(end, self.central_state):
            raise CayleyError(
                f"path must lead to the central state {self.definition.central_state}, "
                f"but it leads to {end.tolist()}"
            )

    def get_neighbors(self, states: Tensor) -> Tensor:
        """All neighbours of encoded states.

        Args:
            states: (N, encoded_state_size) int64.

        Returns:
            (n_generators * N, encoded_state_size) int64; row i * N + j is generator i on state j.
        """
        from rankone.ops._permutation_bfs import perm_apply

        if self.definition.is_permutation_group() and self.layout_bits is not None:
            size = self.definition.state_size
            moved = perm_apply(states, self._generator_tensor, size, self.layout_bits)
            return moved.reshape(-1, self.encoded_state_size)
        return self.get_neighbors_torch(states)

    def get_neighbors_torch(self, states: Tensor) -> Tensor:
        """As :meth:`get_neighbors`, in torch alone."""
        count = states.shape[0]
        neighbors = states.new_empty(self.definition.n_generators, count, states.shape[1])
        for index in range(self.definition.n_generators):
            self.apply_generator_batched(index, states, neighbors[index])
        return neighbors.reshape(-1, states.shape[1])

    def get_neighbors_decoded(self, states: AnyStateType) -> Tensor:
        """All neighbours of decoded states, in the order of :meth:`get_neighbors`."""
        return self.decode_states(self.get_neighbors(self.encode_states(states)))

    # ---- searches ----

    def bfs(self, **kwargs: Any) -> BfsResult:
        """Breadth-first search from the central state, or from ``start_states``.

        Args:
            **kwargs: those of :meth:`rankone.cayley.algo.BfsAlgorithm.bfs`, which explains each:
                ``start_states``, ``max_layer_size_to_store``, ``max_layer_size_to_explore``,
                ``max_diameter``, ``return_all_edges``, ``return_all_hashes``, ``stop_condition``,
                ``disable_batching``, ``engine``, ``threads``, ``max_memory_gb``, ``scratch_dir``,
                ``resume``, ``progress``, ``max_states``, ``max_layers`` and ``time_limit``.

        Returns:
            :class:`rankone.cayley.BfsResult`.

        Raises:
            CayleyError: for a wrong argument, or an engine that cannot make this search.
            MemoryError: for a complete search that cannot fit, before anything is allocated.

        Example:
            >>> from rankone.cayley import CayleyGraph, PermutationGroups
            >>> CayleyGraph(PermutationGroups.lrx(4), device="cpu").bfs(max_layers=3).layer_sizes
            [1, 3, 5]
        """
        from rankone.cayley.algo.bfs_algo import BfsAlgorithm

        return BfsAlgorithm.bfs(self, **kwargs)

    def growth(self, **kwargs: Any) -> list[int]:
        """Sizes of the layers of a complete search.

        Raises:
            CayleyError: where the search stopped early.
        """
        kwargs.setdefault("max_layer_size_to_store", 0)
        result = self.bfs(**kwargs)
        check(
            result.bfs_completed,
            f"the search stopped early ({result.engine_info['status']}) at depth "
            f"{len(result.layer_sizes) - 1}, so the growth is not known",
        )
        return result.layer_sizes

    def diameter(self, **kwargs: Any) -> int:
        """The largest distance from the central state.

        Raises:
            CayleyError: where the search stopped early.
        """
        return len(self.growth(**kwargs)) - 1

    def estimate_memory(self, engine: str = "auto") -> dict[str, Any]:
        """What a complete search by ``engine`` needs, before it starts.

        Returns:
            dict with "engine"; "n_states": an upper bound, or more than 10^15 where there are so
            many, None where none is known; "n_states_exact": whether it is proved to be the number
            itself; "bytes_peak" and "bytes_disk", None where they do not apply or have no bound;
            "limit_bytes"; "fits"; and "reason": why not, or "".
        """
        from rankone.cayley.algo.engines import estimate_memory

        return estimate_memory(self, engine)

    def distance_table(self, **kwargs: Any) -> DistanceTable:
        """The exact distance of every element; see :class:`rankone.cayley.DistanceTable`.

        The table is kept, and :func:`find_path` uses it from then on.
        """
        from rankone.cayley.distance_table import DistanceTable

        if self._distance_table is None:
            self._distance_table = DistanceTable.build(self, **kwargs)
        return self._distance_table

    def random_walks(self, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Random walks; see :meth:`rankone.cayley.algo.RandomWalksGenerator.generate`."""
        from rankone.cayley.algo.random_walks import RandomWalksGenerator

        return RandomWalksGenerator(self).generate(**kwargs)

    def beam_search(self, **kwargs: Any) -> BeamSearchResult:
        """Beam search; see :meth:`rankone.cayley.algo.BeamSearchAlgorithm.search`."""
        from rankone.cayley.algo.beam_search import BeamSearchAlgorithm

        return BeamSearchAlgorithm(self).search(**kwargs)

    # ---- paths ----

    def restore_path(self, hashes: list[Tensor], to_state: AnyStateType) -> list[int]:
        """A path through layers, given by hashes, that ends in ``to_state``.

        Args:
            hashes: for each layer the hashes of its states; each state of a layer has a neighbour
                in the next, and the last layer has a state with an edge to ``to_state``.
            to_state: one decoded state.

        Returns:
            One generator number a layer. Where a hash stands for a state that is not in its layer,
            the next candidate is tried.

        Raises:
            CayleyError: where no path leads through the layers.
        """
        path = self._walk_back(hashes, self.encode_states(to_state))
        if path is None:
            raise CayleyError(f"to_state has no path through the {len(hashes)} layers given")
        return path

    def _walk_back(
        self, hashes: list[Tensor], state: Tensor, starts: Tensor | None = None
    ) -> list[int] | None:
        """Depth first from ``state`` towards layer 0; ``starts`` are the states to arrive at."""
        inverted = self.with_inverted_generators
        sorted_hashes = [layer.to(self.device).sort().values for layer in hashes]
        # (layer to be reached next, state, generators so far from the end)
        stack: list[tuple[int, Tensor, list[int]]] = [(len(hashes) - 1, state, [])]
        while stack:
            layer, here, tail = stack.pop()
            if layer < 0:
                if starts is None or bool((starts == here).all(1).any()):
                    return tail[::-1]
                continue
            candidates = inverted.get_neighbors(here)
            values = self.hasher.make_hashes(candidates)
            known = sorted_hashes[layer]
            position = torch.searchsorted(known, values).clamp(max=known.numel() - 1)
            matches = (known[position] == values).nonzero()[:, 0].tolist()
            for index in reversed(matches):
                stack.append((layer - 1, candidates[index : index + 1], [*tail, index]))
        return None

    def find_path_to(self, end_state: AnyStateType, bfs_result: BfsResult) -> list[int] | None:
        """A shortest path from the central state, read from a search with all hashes.

        Args:
            end_state: one decoded state.
            bfs_result: ``bfs(return_all_hashes=True)`` from one start state.

        Returns:
            Generator numbers, or None where the search did not reach the state.
        """
        check(bfs_result.graph == self.definition, "bfs_result must be of the same graph")
        bfs_result.check_has_layer_hashes()
        state = self.encode_states(end_state)
        check(state.shape[0] == 1, f"end_state must be one state, got {state.shape[0]}")
        value = self.hasher.make_hashes(state)
        for depth, layer in enumerate(bfs_result.layers_hashes):
            if bool((layer.to(value.device) == value).any()):
                starts = self.encode_states(bfs_result.layers[0].to(self.device))
                path = self._walk_back(bfs_result.layers_hashes[:depth], state, starts)
                if path is not None:
                    return path
        return None

    def find_path_from(self, start_state: AnyStateType, bfs_result: BfsResult) -> list[int] | None:
        """A shortest path to the central state, read from a search with all hashes.

        Raises:
            CayleyError: where the generators are not inverse-closed.
        """
        check(
            self.definition.generators_inverse_closed,
            "find_path_from needs inverse-closed generators; search the graph "
            "with_inverted_generators and use find_path_to",
        )
        path = self.find_path_to(start_state, bfs_result)
        return None if path is None else self.definition.revert_path(path)

    # ---- the rest ----

    def to_networkx_graph(self) -> networkx.Graph | networkx.DiGraph:
        """The whole graph, undirected where the generators are inverse-closed."""
        result = self.bfs(
            max_layer_size_to_store=None, return_all_edges=True, return_all_hashes=True
        )
        return result.to_networkx_graph(directed=not self.definition.generators_inverse_closed)

    def free_memory(self) -> None:
        """Drop what was kept for path finding and return unused memory."""
        self._distance_table = None
        self._partial_search = None
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def __repr__(self) -> str:
        name = self.definition.name or f"{self.definition.n_generators} generators"
        return f"CayleyGraph({name}, device='{self.device}')"
