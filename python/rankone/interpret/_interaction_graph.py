"""The interaction graph: modules of it by Louvain communities, and its picture.

A node is a direction of a node layer and an edge joins directions of adjacent layers. Interaction
strengths span many orders of magnitude, so that on raw strengths one edge decides the score; the
logarithm above a floor is the default. Clustering and score are networkx's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rankone._optional import require
from rankone.interpret._gradients import as_data

if TYPE_CHECKING:
    from rankone.interpret.interaction_basis import InteractionBasis

Node = tuple[int, int]

NORMALIZATIONS = ("log", "sqrt", "max")

# Edges weaker than this, relative to the strongest of their layer, are not drawn.
_DRAWN = 1e-6


@dataclass(frozen=True)
class ModularityResult:
    """Modules of an interaction graph.

    Attributes:
        score: Newman modularity of the communities; m equal separate modules give 1 - 1/m.
        communities: sets of (layer_offset, node), the largest first; a direction without edges is
            a community of its own.
        graph: the weighted networkx graph that was cut.
    """

    score: float
    communities: list[set[Node]]
    graph: Any


def checked_edges(edges: Iterable[Any]) -> list[Tensor]:
    """Edge matrices as finite nonnegative float64 tensors on the CPU whose shapes chain."""
    if not isinstance(edges, Iterable):
        raise TypeError(f"edges must be a sequence of matrices, got {type(edges).__name__}")
    checked: list[Tensor] = []
    for i, matrix in enumerate(edges):
        matrix = as_data(f"edges[{i}]", matrix, device="cpu", dims=(2,))
        if float(matrix.min()) < 0:
            raise ValueError(f"edges[{i}] must be at least 0, got {float(matrix.min()):g}")
        if checked and checked[-1].shape[0] != matrix.shape[1]:
            raise ValueError(
                f"edges[{i}] must have {checked[-1].shape[0]} columns, the rows of edges[{i - 1}] "
                f"(rows are the next layer), got shape {tuple(matrix.shape)}"
            )
        checked.append(matrix)
    if not checked:
        raise ValueError("edges must hold at least one matrix, got none")
    return checked


def edge_weights(matrix: Tensor, normalization: str, eps: float) -> Tensor:
    """Graph weights of one edge matrix; zeros for a matrix of zeros."""
    strongest = matrix.max()
    if strongest == 0:
        return torch.zeros_like(matrix)
    relative = matrix / strongest
    if normalization == "log":
        return (relative / eps).log10().clamp(min=0)
    return relative.sqrt() if normalization == "sqrt" else relative


def interaction_modularity(
    edges: Sequence[Tensor],
    normalization: str = "log",
    eps: float = 1e-6,
    resolution: float = 1.0,
    random_state: int = 0,
) -> ModularityResult:
    """Cut an interaction graph into modules and score the cut.

    "The Local Interaction Basis" (arXiv 2405.10928). Each pair of layers is normalised by its own
    strongest edge.

    Args:
        edges: matrices (k_{l+1}, k_l) of adjacent pairs of layers, as
            :meth:`InteractionBasis.edges` returns them; rows are the next layer.
        normalization: "log": ``max(0, log10((E / max E) / eps))``; "sqrt": ``sqrt(E / max E)``;
            "max": ``E / max E``.
        eps: floor of the logarithm, between 0 and 1.
        resolution: of the modularity; higher values give more and smaller communities.
        random_state: seed of Louvain's order of nodes.

    Returns:
        A :class:`ModularityResult`.

    Raises:
        ValueError: for an unknown normalization, eps outside (0, 1), a resolution that is not
            positive, edges that are negative, not finite, of shapes that do not chain, or all zero.

    Example:
        >>> import torch
        >>> from rankone.interpret.interaction_basis import interaction_modularity
        >>> result = interaction_modularity([torch.eye(4)])
        >>> round(result.score, 3), len(result.communities)
        (0.75, 4)
    """
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"normalization must be one of {NORMALIZATIONS}, got {normalization!r}")
    if not 0 < eps < 1:
        raise ValueError(f"eps must be between 0 and 1, got {eps!r}")
    if not (math.isfinite(resolution) and resolution > 0):
        raise ValueError(f"resolution must be positive and finite, got {resolution!r}")
    matrices = checked_edges(edges)
    networkx = require("networkx", extra="interpret")
    graph = networkx.Graph()
    widths = [matrices[0].shape[1], *(matrix.shape[0] for matrix in matrices)]
    graph.add_nodes_from(
        (layer, node) for layer, width in enumerate(widths) for node in range(width)
    )
    for layer, matrix in enumerate(matrices):
        weights = edge_weights(matrix, normalization, eps)
        for i, j in weights.nonzero().tolist():
            graph.add_edge((layer, j), (layer + 1, i), weight=float(weights[i, j]))
    if graph.number_of_edges() == 0:
        raise ValueError("edges must have at least one positive entry, got zeros alone")
    communities = networkx.community.louvain_communities(
        graph, weight="weight", resolution=resolution, seed=random_state
    )
    communities = sorted(communities, key=lambda nodes: (-len(nodes), min(nodes)))
    score = networkx.community.modularity(
        graph, communities, weight="weight", resolution=resolution
    )
    return ModularityResult(float(score), [set(nodes) for nodes in communities], graph)


def plot_interaction_graph(
    basis: InteractionBasis,
    edges: Sequence[Tensor],
    communities: Sequence[set[Node]] | None = None,
    ax: Any = None,
    *,
    first_layer: int = 0,
) -> Any:
    """Draw directions as dots, a column a layer, and interactions as lines.

    Dots are sized by importance; lines are darker for stronger interactions, on a logarithmic
    scale of six decades a pair of layers. With communities, directions are sorted and coloured by
    them, and an edge between two communities is grey.

    Args:
        basis: the fitted basis that the edges belong to.
        edges: all of its edges, or those of consecutive pairs of layers.
        communities: of :func:`interaction_modularity` for the same edges.
        ax: axes to draw in; None for new ones.
        first_layer: node layer that the first edges leave.

    Returns:
        The axes.

    Raises:
        ValueError: for edges that do not have the widths of the basis at these layers, and for
            communities with a node that is not in the graph.

    Example:
        >>> import torch
        >>> from rankone.interpret.interaction_basis import InteractionBasis, plot_interaction_graph
        >>> X = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
        >>> basis = InteractionBasis().fit([torch.nn.Linear(3, 3), torch.nn.Linear(3, 2)], X)
        >>> axes = plot_interaction_graph(basis, basis.edges(X))
        >>> axes.get_xlabel()
        'node layer'
    """
    from matplotlib.collections import LineCollection
    from matplotlib.colors import to_rgba
    from sklearn.utils.validation import check_is_fitted

    check_is_fitted(basis, "layers_")
    matrices = checked_edges(edges)
    widths = [matrices[0].shape[1], *(matrix.shape[0] for matrix in matrices)]
    layers = basis.layers_[first_layer : first_layer + len(widths)]
    fitted = [layer.n_directions for layer in layers]
    if first_layer < 0 or fitted != widths:
        raise ValueError(
            f"edges must join layers of {fitted} directions from node layer {first_layer} on, got "
            f"{widths}"
        )
    member = _membership(communities, widths)
    if ax is None:
        from matplotlib import pyplot

        ax = pyplot.subplots()[1]
    heights = [_heights(offset, width, member) for offset, width in enumerate(widths)]

    def color(node: Node) -> str:
        return f"C{member[node] % 10}" if member else "C0"

    for offset, matrix in enumerate(matrices):
        strengths = edge_weights(matrix, "log", _DRAWN)
        strengths = strengths / strengths.max().clamp(min=1)
        segments, colors = [], []
        # The strongest last, on top.
        for i, j in sorted(
            strengths.nonzero().tolist(), key=lambda e: float(strengths[e[0], e[1]])
        ):
            start, end = (offset, j), (offset + 1, i)
            segments.append([(offset, heights[offset][j]), (offset + 1, heights[offset + 1][i])])
            same = not member or member[start] == member[end]
            shade = float(strengths[i, j]) ** 2
            colors.append(to_rgba(color(start) if same else "0.5", shade))
        ax.add_collection(LineCollection(segments, colors=colors, linewidths=1, zorder=1))
    for offset, layer in enumerate(layers):
        importance = layer.importance_.cpu()
        sizes = 8 + 60 * (importance / importance.max().clamp(min=torch.finfo().tiny)).sqrt()
        ax.scatter(
            [offset] * widths[offset],
            heights[offset],
            s=sizes.numpy(),
            c=[color((offset, node)) for node in range(widths[offset])],
            zorder=2,
        )
    ax.set_xticks(range(len(widths)), [str(first_layer + o) for o in range(len(widths))])
    ax.set_yticks([])
    ax.set_xlabel("node layer")
    ax.margins(0.08)
    ax.grid(False)
    return ax


def _membership(communities: Sequence[set[Node]] | None, widths: list[int]) -> dict[Node, int]:
    """Number of each node's community; nothing without communities."""
    if communities is None:
        return {}
    member = {node: number for number, nodes in enumerate(communities) for node in nodes}
    nodes = {(offset, node) for offset, width in enumerate(widths) for node in range(width)}
    if set(member) != nodes:
        differing = sorted(set(member) ^ nodes)[0]
        raise ValueError(
            f"communities must hold every node of the edges and no other, got none or more at "
            f"{differing}"
        )
    return member


def _heights(offset: int, width: int, member: dict[Node, int]) -> list[float]:
    """Vertical places in [0, 1], the most important on top, sorted by community first."""
    order = sorted(range(width), key=lambda node: (member.get((offset, node), 0), node))
    heights = [0.0] * width
    for rank, node in enumerate(order):
        heights[node] = 1 - (rank + 0.5) / width
    return heights
