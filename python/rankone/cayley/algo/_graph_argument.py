"""The check of a graph that is given to an algorithm."""

from __future__ import annotations

from typing import Any

from rankone._arguments import check_instance


def check_graph(graph: Any) -> None:
    """Require a :class:`rankone.cayley.CayleyGraph`.

    Raises:
        TypeError: for anything else, such as the definition of a graph.

    Example:
        >>> from rankone.cayley import CayleyGraph, PermutationGroups
        >>> from rankone.cayley.algo._graph_argument import check_graph
        >>> check_graph(CayleyGraph(PermutationGroups.lrx(4), device="cpu"))
    """
    from rankone.cayley.cayley_graph import CayleyGraph

    check_instance("graph", graph, CayleyGraph)
