"""A search that is driven level by level from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from rankone.cayley.algo._collect import sort_states
from rankone.cayley.algo._graph_argument import check_graph
from rankone.cayley.cayley_graph_def import AnyStateType
from rankone.cayley.torch_utils import SeenStates, isin_via_searchsorted

if TYPE_CHECKING:
    from rankone.cayley.cayley_graph import CayleyGraph


class InteractiveBfs:
    """Breadth-first search, one layer a call.

    Args:
        graph: the graph.
        start_states: layer 0, one decoded state or many.

    Attributes:
        start_layer: (N, words) the start states, encoded.
        cur_layer: (N, words) the newest layer, encoded; empty once the graph is exhausted.
        hashes: hashes of each layer found so far, in the order of its states.

    Example:
        >>> from rankone.cayley import CayleyGraph, PermutationGroups
        >>> from rankone.cayley.algo import InteractiveBfs
        >>> graph = CayleyGraph(PermutationGroups.lrx(4), device="cpu")
        >>> search = InteractiveBfs(graph, [0, 1, 2, 3])
        >>> search.step()
        >>> len(search.cur_layer)
        3
    """

    def __init__(self, graph: CayleyGraph, start_states: AnyStateType) -> None:
        check_graph(graph)
        self.graph = graph
        states, hashes = graph.get_unique_states(graph.encode_states(start_states))
        self._seen = SeenStates()
        self._seen.add(states, hashes)
        self.start_layer = self.cur_layer = sort_states(graph, states)
        self.hashes: list[Tensor] = [graph.hasher.make_hashes(self.cur_layer)]

    def step(self) -> None:
        """Find the next layer."""
        neighbors = self.graph.get_neighbors(self.cur_layer)
        states, hashes = self.graph.get_unique_states(neighbors)
        new = ~self._seen.contains(states, hashes)
        states, hashes = states[new], hashes[new]
        if hashes.numel():
            self._seen.add(states, hashes)
        self.cur_layer = sort_states(self.graph, states)
        self.hashes.append(self.graph.hasher.make_hashes(self.cur_layer))

    def find_on_last_layer(self, hashes: Tensor) -> Tensor | None:
        """A decoded state of the newest layer whose hash is one of ``hashes``, or None."""
        found = isin_via_searchsorted(self.hashes[-1], hashes.sort().values).nonzero()
        if not len(found):
            return None
        return self.graph.decode_states(self.cur_layer[found[0]])[0]
