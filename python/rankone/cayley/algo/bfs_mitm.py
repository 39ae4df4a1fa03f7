"""Shortest paths by searches from both ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rankone._arguments import check_instance
from rankone.cayley.algo._graph_argument import check_graph
from rankone.cayley.algo.bfs_result import BfsResult
from rankone.cayley.algo.interactive_bfs import InteractiveBfs
from rankone.cayley.cayley_graph_def import AnyStateType
from rankone.cayley.cayley_path import CayleyPath
from rankone.cayley.errors import check, check_range
from rankone.cayley.torch_utils import isin_via_searchsorted

if TYPE_CHECKING:
    from rankone.cayley.cayley_graph import CayleyGraph


class MeetInTheMiddle:
    """Searches that meet: paths up to twice as long as the depth of either.

    Example:
        >>> from rankone.cayley import CayleyGraph, PermutationGroups
        >>> from rankone.cayley.algo import MeetInTheMiddle
        >>> graph = CayleyGraph(PermutationGroups.lrx(5), device="cpu")
        >>> partial = graph.bfs(max_diameter=2, return_all_hashes=True)
        >>> len(MeetInTheMiddle.find_path_to(graph, [1, 0, 2, 3, 4], partial))
        1
    """

    @staticmethod
    def find_path_to(
        graph: CayleyGraph, dest_state: AnyStateType, bfs_result: BfsResult
    ) -> list[int] | None:
        """A shortest path from the central state to ``dest_state``.

        A search from ``dest_state`` along inverse generators runs until a layer meets those of
        ``bfs_result``, at most as many levels as those.

        Args:
            graph: the graph.
            dest_state: one decoded state.
            bfs_result: a partial search of the graph with all hashes.

        Returns:
            Generator numbers, or None where the path is longer than twice the depth of
            ``bfs_result`` or there is none.

        Raises:
            CayleyError: for a result of another graph or without hashes.

        Example:
            >>> from rankone.cayley import CayleyGraph, PermutationGroups
            >>> from rankone.cayley.algo import MeetInTheMiddle
            >>> graph = CayleyGraph(PermutationGroups.lrx(8), device="cpu")
            >>> partial = graph.bfs(max_diameter=4, return_all_hashes=True)
            >>> state = graph.apply_path(graph.central_state, [0, 2, 0, 2, 0])[0]
            >>> len(MeetInTheMiddle.find_path_to(graph, state, partial))
            5
        """
        check_graph(graph)
        check_instance("bfs_result", bfs_result, BfsResult)
        check(bfs_result.graph == graph.definition, "bfs_result must be of the same graph")
        bfs_result.check_has_layer_hashes()
        known = [hashes.to(graph.device).sort().values for hashes in bfs_result.layers_hashes]
        deepest = len(known) - 1
        inverted = graph.with_inverted_generators
        search = InteractiveBfs(inverted, dest_state)
        check(len(search.cur_layer) == 1, "dest_state must be one state")
        destination = graph.states_tensor(dest_state)
        for depth in range(deepest + 1):
            if depth:
                search.step()
                if not len(search.cur_layer):
                    return None
            # Before the deepest layer is met, a shallower one was met at a smaller depth; so only
            # the first meeting needs all layers.
            layers = range(deepest + 1) if depth == 0 else [deepest]
            for layer in layers:
                for middle in _meetings(graph, search, known[layer]):
                    path = _join_to(graph, bfs_result, search, middle, layer)
                    if path is not None and torch.equal(
                        graph.apply_path(graph.central_state, path).reshape(1, -1), destination
                    ):
                        return path
        return None

    @staticmethod
    def find_path_from(
        graph: CayleyGraph, start_state: AnyStateType, bfs_result: BfsResult
    ) -> list[int] | None:
        """A shortest path from ``start_state`` to the central state; see :meth:`find_path_to`.

        Raises:
            CayleyError: where the generators are not inverse-closed.
        """
        check(
            graph.definition.generators_inverse_closed,
            "find_path_from needs inverse-closed generators",
        )
        path = MeetInTheMiddle.find_path_to(graph, start_state, bfs_result)
        return None if path is None else graph.definition.revert_path(path)

    @staticmethod
    def find_path_between(
        graph: CayleyGraph,
        start_states: AnyStateType,
        dest_states: AnyStateType,
        max_diameter: int = 10**9,
    ) -> CayleyPath | None:
        """A shortest path from any of ``start_states`` to any of ``dest_states``.

        Args:
            graph: the graph.
            start_states: one decoded state or many.
            dest_states: one decoded state or many.
            max_diameter: depth of either search; longer paths than twice that are not found.

        Returns:
            The path, or None.
        """
        check_range("max_diameter", max_diameter, 0)
        forward = InteractiveBfs(graph, start_states)
        backward = InteractiveBfs(graph.with_inverted_generators, dest_states)
        for step in range(2 * max_diameter + 1):
            if step:
                side = forward if step % 2 else backward
                side.step()
                if not len(side.cur_layer):
                    return None
            for middle in _meetings(graph, forward, backward.hashes[-1].sort().values):
                path = _join_between(graph, forward, backward, middle)
                if path is not None:
                    return path
        return None


def _meetings(graph: CayleyGraph, search: InteractiveBfs, sorted_hashes: Tensor) -> Tensor:
    """Encoded states of the newest layer whose hashes are among the given ones, each (1, words)."""
    met = isin_via_searchsorted(search.hashes[-1], sorted_hashes)
    return search.cur_layer[met][:, None]


def _join_to(
    graph: CayleyGraph,
    bfs_result: BfsResult,
    search: InteractiveBfs,
    middle: Tensor,
    layer: int,
) -> list[int] | None:
    """The path through ``middle``; None where a hash of a layer was another state's."""
    starts = graph.encode_states(bfs_result.layers[0].to(graph.device))
    first = graph._walk_back(bfs_result.layers_hashes[:layer], middle, starts)
    second = _walk_on(graph, search, middle)
    return None if first is None or second is None else first + second


def _join_between(
    graph: CayleyGraph, forward: InteractiveBfs, backward: InteractiveBfs, middle: Tensor
) -> CayleyPath | None:
    first = graph._walk_back(forward.hashes[:-1], middle, forward.start_layer)
    second = _walk_on(graph, backward, middle)
    if first is None or second is None:
        return None
    start = graph.with_inverted_generators.apply_path(graph.decode_states(middle), first[::-1])
    return CayleyPath(start.reshape(-1), first + second, graph.definition)


def _walk_on(graph: CayleyGraph, backward: InteractiveBfs, middle: Tensor) -> list[int] | None:
    """From ``middle`` to where a search along inverse generators began."""
    inverted = graph.with_inverted_generators
    path = inverted._walk_back(backward.hashes[:-1], middle, backward.start_layer)
    return None if path is None else path[::-1]
