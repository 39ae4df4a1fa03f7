"""One process's share of a search: the states it owns, expanded and deduplicated level by level.

A level is: expand the current layer in batches, send each bucket to its owner, insert what arrives,
advance. :class:`TorchShare` does so in torch on any device, :class:`NativeShare` by the compiled
hash engine. A search in one process is the share of a world of one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from rankone.cayley.algo._collect import sort_states
from rankone.cayley.hasher import hash_words, mix
from rankone.cayley.string_encoder import StringEncoder, width_for
from rankone.cayley.torch_utils import SeenStates, contained, sort_unique
from rankone.ops._permutation_bfs import (
    native_graph,
    require_native_kernels,
    tensor_to_words,
    words_to_tensor,
)

if TYPE_CHECKING:
    from rankone.cayley.cayley_graph import CayleyGraph

# Sorting candidates holds them, their hashes, an order and the sorted copies at once.
_SORT_COPIES = 3
# Part of the memory limit that the candidates of one batch may take.
_BATCH_SHARE = 0.25


class ShareMemoryError(MemoryError):
    """The next states would not have fitted the share's memory limit."""


def _batch_of(graph: CayleyGraph, size: int, words: int) -> int:
    """How many states have neighbours of at most ``size`` bytes together."""
    return max(1, size // (8 * words * graph.definition.n_generators))


def _ordered(states: Tensor, owners: Tensor, world_size: int) -> tuple[Tensor, list[int]]:
    order = torch.argsort(owners, stable=True)
    return states[order], torch.bincount(owners, minlength=world_size).tolist()


class Share(Protocol):
    """What :func:`rankone.cayley.algo._levels.search_levels` needs."""

    threads: int
    batch_size: int
    words: int

    @property
    def layer_size(self) -> int: ...
    @property
    def next_size(self) -> int: ...
    @property
    def peak_bytes(self) -> int: ...
    def expand(self, first: int, count: int) -> tuple[Tensor, list[int]]: ...
    def insert(self, states: Tensor) -> None: ...
    def settle(self) -> None: ...
    def advance(self) -> int: ...
    def layer(self) -> Tensor: ...
    def encode(self, states: Tensor) -> Tensor: ...
    def by_owner(self, states: Tensor) -> tuple[Tensor, list[int]]: ...
    def among(self, arrived: Tensor, states: Tensor) -> Tensor: ...


class TorchShare:
    """A share in torch: sorted layers, compared by all words.

    Args:
        graph: the graph.
        start_states: (k, words) encoded.
        rank: of this process.
        world_size: number of processes.
        max_bytes: most memory, or None.
        batch_size: states expanded at a time; default the graph's.
        batch_bytes: most bytes of their neighbours.
    """

    def __init__(
        self,
        graph: CayleyGraph,
        start_states: Tensor,
        *,
        rank: int = 0,
        world_size: int = 1,
        max_bytes: int | None = None,
        batch_size: int | None = None,
        batch_bytes: int | None = None,
    ) -> None:
        self.graph = graph
        self.words = graph.encoded_state_size
        self.rank = rank
        self.world_size = world_size
        self.max_bytes = max_bytes
        self.threads = torch.get_num_threads() if graph.device.type == "cpu" else 1
        edge_bytes = 8 * (graph.encoded_state_size + 1) * _SORT_COPIES
        batch = batch_size or graph.batch_size
        if max_bytes is not None:
            fits = int(_BATCH_SHARE * max_bytes) // (edge_bytes * graph.definition.n_generators)
            batch = max(1, min(batch, fits))
        if batch_bytes is not None:
            batch = min(batch, _batch_of(graph, batch_bytes, self.words))
        self.batch_size = batch
        states, hashes = graph.get_unique_states(start_states)
        mine = self._owners(hashes) == rank
        self._states, self._hashes = states[mine], hashes[mine]
        self._directed = not graph.definition.generators_inverse_closed
        self._seen = SeenStates()
        self._previous = (self._states[:0], self._hashes[:0])
        self._pending = SeenStates()
        self.peak_bytes = 0
        if self._directed:
            self._seen.add(self._states, self._hashes)

    @property
    def layer_size(self) -> int:
        return self._hashes.numel()

    @property
    def next_size(self) -> int:
        """Number of states that :meth:`advance` will make the layer."""
        return sum(hashes.numel() for _, hashes in self._pending.parts)

    def _owners(self, hashes: Tensor) -> Tensor:
        """The rank that owns each state; the top 31 bits of the mixed hash, scaled to the world."""
        if self.world_size == 1:
            return torch.zeros_like(hashes)
        top = (mix(hashes) >> 33) & (2**31 - 1)
        return (top * self.world_size) >> 31

    def _count(self, extra: int) -> None:
        held = sum(part.nbytes for part in (self._states, self._hashes, *self._previous))
        held += self._seen.nbytes + self._pending.nbytes + extra
        self.peak_bytes = max(self.peak_bytes, held)
        if self.max_bytes is not None and held > self.max_bytes:
            raise ShareMemoryError(f"{held} bytes would be more than the limit {self.max_bytes}")

    def expand(self, first: int, count: int) -> tuple[Tensor, list[int]]:
        """Neighbours of states [first, first + count) of the layer, ordered by owner."""
        states = self._states[first : first + count]
        candidates = states.shape[0] * self.graph.definition.n_generators
        self._count(_SORT_COPIES * 8 * candidates * (states.shape[1] + 1))
        found = self.graph.get_neighbors_torch(states)
        if self.world_size == 1:
            return found, [found.shape[0]]
        found, hashes = self.graph.get_unique_states(found)
        return _ordered(found, self._owners(hashes), self.world_size)

    def by_owner(self, states: Tensor) -> tuple[Tensor, list[int]]:
        """States in the share's own words, ordered by owner, and how many each owner gets."""
        return _ordered(
            states, self._owners(self.graph.hasher.make_hashes(states)), self.world_size
        )

    def insert(self, states: Tensor) -> None:
        """Take states that this share owns."""
        states, hashes = self.graph.get_unique_states(states)
        known = self._pending.contains(states, hashes)
        if self._directed:
            known |= self._seen.contains(states, hashes)
        else:
            known |= contained(states, hashes, self._states, self._hashes)
            known |= contained(states, hashes, *self._previous)
        states = states[~known]
        hashes = self.graph.hasher.make_hashes(states)
        self._count(_SORT_COPIES * (states.nbytes + hashes.nbytes))
        if hashes.numel():
            self._pending.add(states, hashes)

    def settle(self) -> None:
        """Finish what :meth:`insert` left for later: nothing."""

    def advance(self) -> int:
        """Make what was inserted the current layer; its size."""
        parts = self._pending.parts
        self._pending = SeenStates()
        self._previous = (self._states, self._hashes)
        if len(parts) == 1:
            self._states, self._hashes = parts[0]
        elif parts:
            self._states, self._hashes = self.graph.get_unique_states(
                torch.cat([states for states, _ in parts])
            )
        else:
            self._states, self._hashes = self._states[:0], self._hashes[:0]
        if self._directed:
            self._seen.add(self._states, self._hashes)
        return self.layer_size

    def layer(self) -> Tensor:
        """The current layer, encoded as the graph does, in lexicographic order."""
        return sort_states(self.graph, self._states)

    def encode(self, states: Tensor) -> Tensor:
        """Encoded states of the graph in the share's own words: the same."""
        return states

    def among(self, arrived: Tensor, states: Tensor) -> Tensor:
        """Which of the states that arrived are among ``states``, in the share's own words."""
        known = self.graph.get_unique_states(states)
        return contained(arrived, self.graph.hasher.make_hashes(arrived), *known)


class NativeCodec:
    """The native layout of a graph's states, and its translation from and to the graph's own."""

    def __init__(self, graph: CayleyGraph, start_rows: Tensor) -> None:
        definition = graph.definition
        self.graph = graph
        if definition.is_matrix_group():
            modulo = definition.generators_matrices[0].modulo
            self.modulus = modulo
            self.bits = width_for(modulo - 1) if modulo else 64
            generators = np.stack(
                [generator.matrix for generator in definition.generators_matrices]
            )
        else:
            self.modulus = 0
            self.bits = width_for(int(start_rows.max()))
            generators = np.array(definition.generators_permutations)
        # Where the graph's own width is a native one, both speak the same words.
        self.same = graph.layout_bits is not None and graph.layout_bits >= self.bits
        if self.same:
            self.bits = int(graph.layout_bits or self.bits)
        self._encoder = StringEncoder(code_width=self.bits, n=definition.state_size)
        self.native = native_graph(generators, start_rows.cpu(), self.bits, self.modulus)

    def to_graph(self, words: Tensor) -> Tensor:
        """Native words (int64) in the graph's encoding and on its device."""
        words = words.to(self.graph.device)
        if self.same:
            return words
        return self.graph.encode_states(self._encoder.decode(words))

    def to_native(self, states: Tensor) -> Tensor:
        """Encoded states of the graph as native words (int64) on the CPU."""
        states = states.cpu()
        if self.same:
            return states
        rows = self.graph.decode_states(states).reshape(-1, self.graph.definition.state_size)
        return self._encoder.encode(rows)


# States that the native share expands at a time where only one process takes part; the exchange of
# several processes wants larger messages.
_NATIVE_BATCH = 2**20
# States that arrive wait until there are so many bytes of them: each insertion builds the tables of
# the next layer anew.
_WAITING_BYTES = 2**27


class NativeShare:
    """A share of the compiled hash engine; arguments as in :class:`TorchShare`."""

    def __init__(
        self,
        graph: CayleyGraph,
        start_rows: Tensor,
        *,
        rank: int = 0,
        world_size: int = 1,
        max_bytes: int | None = None,
        threads: int = 1,
        batch_size: int | None = None,
        batch_bytes: int | None = None,
    ) -> None:
        native = require_native_kernels("a native share of a search")
        self.codec = NativeCodec(graph, start_rows)
        self.world_size = world_size
        self.threads = threads
        self._error = native.MemoryLimitError
        self._share = native.HashShare(
            self.codec.native, rank, world_size, max_bytes=max_bytes or 0, threads=threads
        )
        self.words = self._share.words
        self._waiting: list[Tensor] = []
        self._waiting_bytes = self._waiting_peak = 0
        self._most_waiting = min(_WAITING_BYTES, (max_bytes or 2**62) // 16)
        self.batch_size = batch_size or _NATIVE_BATCH
        if batch_bytes is not None:
            self.batch_size = min(self.batch_size, _batch_of(graph, batch_bytes, self.words))

    @property
    def layer_size(self) -> int:
        return self._share.layer_size

    @property
    def next_size(self) -> int:
        """As :attr:`TorchShare.next_size`."""
        return self._share.next_size

    @property
    def peak_bytes(self) -> int:
        return self._share.peak_bytes + self._waiting_peak

    def expand(self, first: int, count: int) -> tuple[Tensor, list[int]]:
        """As :meth:`TorchShare.expand`, in native words."""
        count = max(0, min(count, self.layer_size - first))
        try:
            words, counts = self._share.expand(min(first, self.layer_size), count, self.world_size)
        except self._error as error:
            raise ShareMemoryError(str(error)) from None
        return words_to_tensor(words), counts.tolist()

    def insert(self, states: Tensor) -> None:
        """As :meth:`TorchShare.insert`, in native words; :meth:`settle` comes after the last."""
        self._waiting.append(states)
        self._waiting_bytes += states.nbytes
        self._waiting_peak = max(self._waiting_peak, self._waiting_bytes)
        if self._waiting_bytes > self._most_waiting:
            self.settle()

    def settle(self) -> None:
        """Finish what :meth:`insert` left for later."""
        if not self._waiting:
            return
        states = self._waiting[0] if len(self._waiting) == 1 else torch.cat(self._waiting)
        self._waiting, self._waiting_bytes = [], 0
        try:
            self._share.insert(tensor_to_words(states))
        except self._error as error:
            raise ShareMemoryError(str(error)) from None

    def advance(self) -> int:
        """As :meth:`TorchShare.advance`."""
        return self._share.advance()

    def layer(self) -> Tensor:
        """The current layer, encoded as the graph does, in lexicographic order."""
        return self.codec.to_graph(words_to_tensor(self._share.layer()))

    def encode(self, states: Tensor) -> Tensor:
        """Encoded states of the graph in the share's own words."""
        return self.codec.to_native(states)

    def by_owner(self, states: Tensor) -> tuple[Tensor, list[int]]:
        """As :meth:`TorchShare.by_owner`."""
        owners = torch.from_numpy(self._share.owners(tensor_to_words(states)))
        return _ordered(states, owners, self.world_size)

    def among(self, arrived: Tensor, states: Tensor) -> Tensor:
        """Which of the states that arrived are among ``states``, in the share's own words.

        The spare bits of the last word, where expanded states carry how they were reached, do not
        count.
        """
        keys = arrived.clone()
        used = self.codec.bits * self.codec.graph.definition.state_size % 64
        if used:
            keys[:, -1] &= (1 << used) - 1
        return contained(keys, hash_words(keys, 0), *sort_unique(states, hash_words(states, 0)))
