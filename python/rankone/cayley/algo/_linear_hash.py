"""A linear hash of states, from which the hashes of all neighbours follow without making them.

h(s) = sum_i v_i s_i mod 2^64 with fixed random odd v, so that for a permutation generator p
h(p(s)) = sum_k s_k v_{p^-1(k)}: the hashes of all children of a beam are one integer matrix
product. A hash decides which children are looked at; that two states are equal is decided on the
states.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rankone.ops._permutation_bfs import perm_hash_neighbors

if TYPE_CHECKING:
    from rankone.cayley.cayley_graph import CayleyGraph

# Fixed, so that no result depends on a seed.
_SEED = 0x11EA4


class LinearHash:
    """Hashes of the states of one graph and of their children.

    Args:
        graph: the graph.

    Example:
        >>> import torch
        >>> from rankone.cayley import CayleyGraph, PermutationGroups
        >>> graph = CayleyGraph(PermutationGroups.lrx(5), device="cpu")
        >>> linear = LinearHash(graph)
        >>> states = linear.narrow(graph.central_state[None])
        >>> child = linear.child_states(states, torch.tensor([1]))
        >>> bool(linear.of_states(child) == linear.of_children(states)[1])
        True
    """

    def __init__(self, graph: CayleyGraph) -> None:
        self.graph = graph
        definition = graph.definition
        generator = torch.Generator().manual_seed(_SEED)
        weights = torch.randint(-(2**63), 2**63 - 1, (definition.state_size,), generator=generator)
        self.weights = (weights | 1).to(graph.device)
        self._permutations: Tensor | None = None
        self._dtype = torch.int64
        if definition.is_permutation_group():
            self._permutations = torch.tensor(
                definition.generators_permutations, device=graph.device
            )
            largest = max(definition.central_state)
            self._dtype = next(
                dtype
                for dtype in (torch.uint8, torch.int16, torch.int32, torch.int64)
                if largest <= torch.iinfo(dtype).max
            )

    def narrow(self, states: Tensor) -> Tensor:
        """Decoded states as (N, state_size) in the narrowest dtype that the hash takes."""
        return states.reshape(-1, self.graph.definition.state_size).to(self._dtype)

    def of_states(self, states: Tensor) -> Tensor:
        """Hashes of narrow states, (N,) int64."""
        return (states.long() * self.weights).sum(1)

    def of_children(self, states: Tensor) -> Tensor:
        """Hashes of the children of narrow states, (n_generators, N) int64."""
        if self._permutations is not None:
            return perm_hash_neighbors(states, self._permutations, self.weights)
        rows = [self.of_states(self._moved(g, states)) for g in range(self._n_generators)]
        return torch.stack(rows)

    def child_states(self, states: Tensor, indices: Tensor) -> Tensor:
        """The children ``indices`` of narrow states, themselves narrow.

        Args:
            states: (N, state_size).
            indices: (M,) int64, ascending; index g * N + j is generator g on state j.

        Returns:
            (M, state_size).
        """
        count = states.shape[0]
        bounds = torch.arange(self._n_generators + 1, device=indices.device) * count
        cuts = torch.searchsorted(indices, bounds).tolist()
        children = states.new_empty(indices.shape[0], states.shape[1])
        for g, (first, last) in enumerate(pairwise(cuts)):
            if last > first:
                children[first:last] = self._moved(g, states[indices[first:last] - g * count])
        return children

    @property
    def _n_generators(self) -> int:
        return self.graph.definition.n_generators

    def _moved(self, g: int, states: Tensor) -> Tensor:
        if self._permutations is not None:
            return states[:, self._permutations[g]]
        definition = self.graph.definition
        matrices = states.reshape(-1, *definition.decoded_state_shape)
        moved = definition.generators_matrices[g].apply_batch_torch(matrices)
        return moved.reshape(states.shape)
