"""A path to the central state by whichever means is at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from rankone.cayley.algo._graph_argument import check_graph
from rankone.cayley.algo.bfs_mitm import MeetInTheMiddle
from rankone.cayley.algo.bfs_result import BfsResult
from rankone.cayley.cayley_graph_def import AnyStateType
from rankone.cayley.errors import check

if TYPE_CHECKING:
    from rankone.cayley.cayley_graph import CayleyGraph

# States of the partial search that is kept for meeting in the middle.
_MAX_CACHED_STATES = 10**6
# Widths of the beams that are tried with a pretrained model, narrow first.
_BEAM_WIDTHS = (1000, 10000)


def find_path(graph: CayleyGraph, start_state: AnyStateType, **kwargs: Any) -> list[int] | None:
    """A path from ``start_state`` to the central state, or None where none was found.

    Tried in this order: the graph's distance table, where it was made; meeting in the middle with a
    partial search of at most 10^6 states, which is kept on the graph (both give shortest paths);
    beam search with a model from the local model directory, where there is one.

    Args:
        graph: the graph; ask the same object again to use what it keeps.
        start_state: one decoded state.
        **kwargs: handed to the beam search, such as ``beam_width``.

    Returns:
        Generator numbers. Every path is replayed before it is returned.

    Example:
        >>> from rankone.cayley import CayleyGraph, PermutationGroups, find_path
        >>> find_path(CayleyGraph(PermutationGroups.lrx(5), device="cpu"), [1, 2, 3, 4, 0])
        [1]
    """
    check_graph(graph)
    state = graph.states_tensor(start_state, "start_state")
    check(len(state) == 1, f"start_state must be one state, got {len(state)}")
    if torch.equal(state[0], graph.central_state):
        return []
    table = graph._distance_table
    if table is not None:
        return _checked(graph, state, table.path(state[0]))
    path = _meet(graph, state)
    if path is None:
        path = _beam(graph, state, kwargs)
    return _checked(graph, state, path)


def _checked(graph: CayleyGraph, state: torch.Tensor, path: list[int] | None) -> list[int] | None:
    if path is not None:
        graph.validate_path(state, path)
    return path


def _meet(graph: CayleyGraph, state: torch.Tensor) -> list[int] | None:
    """A path to the central state is a path from it along inverse generators, reversed."""
    inverted = graph.with_inverted_generators
    if graph._partial_search is None:
        graph._partial_search = _partial_search(inverted)
    path = MeetInTheMiddle.find_path_to(inverted, state, graph._partial_search)
    return None if path is None else path[::-1]


def _partial_search(graph: CayleyGraph) -> BfsResult:
    total = 0

    def enough(states: torch.Tensor, hashes: torch.Tensor) -> bool:
        nonlocal total
        total += len(hashes)
        return total * graph.definition.n_generators > _MAX_CACHED_STATES

    return graph.bfs(return_all_hashes=True, stop_condition=enough, max_layer_size_to_store=0)


def _beam(graph: CayleyGraph, state: torch.Tensor, kwargs: dict[str, Any]) -> list[int] | None:
    from rankone.cayley.predictor import Predictor

    try:
        predictor = Predictor.pretrained(graph)
    except KeyError:
        return None
    widths = (kwargs.pop("beam_width"),) if "beam_width" in kwargs else _BEAM_WIDTHS
    for width in widths:
        result = graph.beam_search(
            start_state=state[0],
            predictor=predictor,
            beam_width=width,
            return_path=True,
            **kwargs,
        )
        if result.path_found:
            return result.path
    return None
