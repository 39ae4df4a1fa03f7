"""Growth by the hash engine, under the name that scripts know."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rankone.cayley.algo._collect import UNLIMITED_DIAMETER
from rankone.cayley.algo._graph_argument import check_graph
from rankone.cayley.algo.engines import has_compiled_engines

if TYPE_CHECKING:
    from rankone.cayley.cayley_graph import CayleyGraph


def bfs_numpy(graph: CayleyGraph, max_diameter: int = UNLIMITED_DIAMETER) -> list[int]:
    """Sizes of the layers, by engine "hash" (by "torch" without kernels for the graph's device).

    Any generators, directed ones too.

    Args:
        graph: the graph.
        max_diameter: the largest distance to compute.

    Returns:
        Number of elements at distance 0, 1, ...

    Example:
        >>> from rankone.cayley import CayleyGraph, PermutationGroups, bfs_numpy
        >>> bfs_numpy(CayleyGraph(PermutationGroups.lx(4), device="cpu"))
        [1, 2, 3, 5, 5, 5, 3]
    """
    check_graph(graph)
    result = graph.bfs(
        engine="hash" if has_compiled_engines(graph) else "torch",
        max_diameter=max_diameter,
        max_layer_size_to_store=0,
    )
    return result.layer_sizes
