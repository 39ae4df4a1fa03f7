"""Growth by the bitarray engine, under the name that scripts know."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rankone.cayley.algo._collect import UNLIMITED_DIAMETER
from rankone.cayley.algo._graph_argument import check_graph
from rankone.cayley.algo.engines import has_compiled_engines

if TYPE_CHECKING:
    from rankone.cayley.cayley_graph import CayleyGraph


def bfs_bitmask(graph: CayleyGraph, max_diameter: int = UNLIMITED_DIAMETER) -> list[int]:
    """Sizes of the layers, by engine "bitarray": 2 bits for every element of the symmetric group.

    Any n that fits the memory, any generators. Without kernels for the graph's device by engine
    "torch".

    Args:
        graph: a graph whose central state is a permutation (or what else engine "bitarray" takes).
        max_diameter: the largest distance to compute.

    Returns:
        Number of elements at distance 0, 1, ...

    Raises:
        CayleyError: where the engine does not apply.
        MemoryError: where the bits do not fit.

    Example:
        >>> from rankone.cayley import CayleyGraph, PermutationGroups, bfs_bitmask
        >>> bfs_bitmask(CayleyGraph(PermutationGroups.coxeter(4), device="cpu"))
        [1, 3, 5, 6, 5, 3, 1]
    """
    check_graph(graph)
    result = graph.bfs(
        engine="bitarray" if has_compiled_engines(graph) else "torch",
        max_diameter=max_diameter,
        max_layer_size_to_store=0,
    )
    return result.layer_sizes
