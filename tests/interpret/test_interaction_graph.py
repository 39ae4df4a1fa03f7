"""Modules of interaction graphs, their scores, and the picture."""

import math

import networkx
import pytest
import torch
from rankone.interpret.interaction_basis import (
    InteractionBasis,
    interaction_modularity,
    plot_interaction_graph,
)
from torch import nn


def blocks(m, width):
    return torch.block_diag(*[torch.ones(width, width)] * m)


@pytest.mark.parametrize("m", [2, 3, 5])
def test_equal_separate_communities_score_one_less_their_share(m):
    result = interaction_modularity([blocks(m, 3), blocks(m, 3)])
    assert result.score == pytest.approx(1 - 1 / m, abs=1e-12)
    expected = {
        frozenset((layer, 3 * b + i) for layer in range(3) for i in range(3)) for b in range(m)
    }
    assert set(map(frozenset, result.communities)) == expected


def test_score_is_newmans_formula():
    generator = torch.Generator().manual_seed(0)
    edges = [torch.rand(4, 3, generator=generator) ** 4, torch.rand(5, 4, generator=generator)]
    result = interaction_modularity(edges, resolution=1.3)
    nodes = list(result.graph)
    A = networkx.to_numpy_array(result.graph, nodelist=nodes)
    degrees = A.sum(0)
    of = {node: i for i, community in enumerate(result.communities) for node in community}
    same = [[of[a] == of[b] for b in nodes] for a in nodes]
    total = degrees.sum()
    newman = ((A - 1.3 * degrees[:, None] * degrees / total) * same).sum() / total
    assert result.score == pytest.approx(newman, abs=1e-12)


@pytest.mark.parametrize(
    ("normalization", "weights"),
    [
        ("log", {(0, 0): 3.0, (0, 1): 1.0}),
        ("sqrt", {(0, 0): 1.0, (0, 1): 0.1, (1, 0): 1e-2, (1, 1): 1e-3}),
        ("max", {(0, 0): 1.0, (0, 1): 1e-2, (1, 0): 1e-4, (1, 1): 1e-6}),
    ],
)
def test_weights_of_each_pair_of_layers_are_relative_to_its_strongest(normalization, weights):
    # Rows are the next layer: edge [i, j] joins (0, j) and (1, i).
    edges = 7.0 * torch.tensor([[1.0, 1e-2], [1e-4, 1e-6]], dtype=torch.float64)
    graph = interaction_modularity([edges, 1e-9 * torch.eye(2)], normalization, eps=1e-3).graph
    found = {
        (b[1], a[1]): weight
        for a, b, weight in graph.edges(data="weight")
        if b[0] - a[0] and a[0] == 0
    }
    assert found == pytest.approx(weights, abs=1e-9)
    assert graph.has_edge((1, 0), (2, 0))
    assert not graph.has_edge((1, 0), (2, 1))


def test_log_normalisation_finds_modules_that_one_large_edge_hides():
    """Raw strengths span decades: two modules in which one edge carries nearly all."""
    strengths = blocks(2, 3) * 1e-4
    strengths[0, 0] = 1.0
    assert interaction_modularity([strengths]).score > 0.45
    assert interaction_modularity([strengths], "max").score < 0.1


def test_directions_without_edges_are_communities_of_their_own():
    edges = torch.zeros(3, 2)
    edges[0, 0] = 1
    result = interaction_modularity([edges])
    assert result.communities[0] == {(0, 0), (1, 0)}
    assert sorted(map(len, result.communities)) == [1, 1, 1, 2]
    assert result.score == 0.0


def test_repeatable():
    edges = [torch.rand(8, 8, generator=torch.Generator().manual_seed(1))]
    first, second = (interaction_modularity(edges, random_state=3) for _ in range(2))
    assert first.communities == second.communities


@pytest.mark.parametrize(
    ("edges", "options", "message"),
    [
        ([torch.eye(2)], {"normalization": "rank"}, "normalization must be one of"),
        ([torch.eye(2)], {"eps": 0.0}, "eps must be between 0 and 1"),
        ([torch.eye(2)], {"resolution": -1.0}, "resolution must be positive"),
        ([], {}, "edges must hold at least one matrix"),
        ([torch.ones(2)], {}, r"edges\[0\] must be 2-D, got 1-D"),
        ([-torch.eye(2)], {}, r"edges\[0\] must be at least 0, got -1"),
        ([torch.eye(2) * math.nan], {}, r"edges\[0\] must be finite"),
        ([torch.ones(3, 2), torch.ones(3, 2)], {}, r"edges\[1\] must have 3 columns"),
        ([torch.zeros(2, 2)], {}, "at least one positive entry"),
    ],
)
def test_modularity_refuses(edges, options, message):
    with pytest.raises(ValueError, match=message):
        interaction_modularity(edges, **options)


@pytest.fixture(scope="module")
def drawn():
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(60, 4, generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = [nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)]
    basis = InteractionBasis().fit(network, X)
    return basis, basis.edges(X)


def axes():
    from matplotlib.figure import Figure

    return Figure().add_subplot()


def test_picture_has_a_dot_a_direction_and_a_line_an_edge(drawn):
    basis, edges = drawn
    ax = plot_interaction_graph(basis, edges, ax=axes())
    lines, dots = ax.collections[:3], ax.collections[3:]
    relative = [matrix / matrix.max() for matrix in edges]
    assert [len(c.get_segments()) for c in lines] == [int((r > 1e-6).sum()) for r in relative]
    assert [len(c.get_offsets()) for c in dots] == [x.n_directions for x in basis.layers_]
    sizes = dots[0].get_sizes()
    assert (sizes[:-1] > sizes[1:]).all()


def test_picture_of_some_layers_in_the_colours_of_communities(drawn):
    basis, edges = drawn
    communities = interaction_modularity(edges[1:]).communities
    ax = plot_interaction_graph(basis, edges[1:], communities, axes(), first_layer=1)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "2", "3"]
    colors = {tuple(c) for dots in ax.collections[2:] for c in dots.get_facecolors()}
    assert len(colors) == len(communities)


def test_picture_refuses(drawn):
    basis, edges = drawn
    with pytest.raises(ValueError, match=r"edges must join layers of .* from node layer 2 on"):
        plot_interaction_graph(basis, edges, ax=axes(), first_layer=2)
    with pytest.raises(ValueError, match="communities must hold every node"):
        plot_interaction_graph(basis, edges, [{(0, 0)}], axes())
