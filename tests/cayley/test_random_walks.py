"""Random walks of three kinds, held against plain Python."""

import pytest
import torch
from rankone.cayley import CayleyError, CayleyGraph, MatrixGroups, PermutationGroups, Puzzles
from rankone.cayley.algo import RandomWalksGenerator

MODES = ("classic", "bfs", "nbt")


def graph_of(definition):
    return CayleyGraph(definition, device="cpu", threads=1)


LRX = graph_of(PermutationGroups.lrx(6))
LX = graph_of(PermutationGroups.lx(6))
HEISENBERG = graph_of(MatrixGroups.heisenberg(modulo=7))
CUBE = graph_of(Puzzles.rubik_cube(2, "fixed_QTM"))
GRAPHS = pytest.mark.parametrize(
    "graph", [LRX, LX, HEISENBERG, CUBE], ids=["lrx", "lx", "matrices", "cube"]
)


def rows(states):
    return [tuple(state.reshape(-1).tolist()) for state in states]


def neighbors(graph, state):
    state = torch.tensor(state).reshape(graph.definition.decoded_state_shape)
    if graph.definition.is_permutation_group():
        return {tuple(state[list(p)].tolist()) for p in graph.definition.generators_permutations}
    return {
        tuple(g.apply(state.numpy()).reshape(-1).tolist())
        for g in graph.definition.generators_matrices
    }


@GRAPHS
@pytest.mark.parametrize("mode", MODES)
def test_states_have_the_decoded_shape_and_steps_are_int32(graph, mode):
    x, y = graph.random_walks(width=4, length=5, mode=mode, random_state=0)
    assert x.dtype == torch.int64
    assert y.dtype == torch.int32
    assert x.shape == (len(y), *graph.definition.decoded_state_shape)


@GRAPHS
def test_row_i_plus_j_width_is_walk_i_after_j_steps(graph):
    x, y = graph.random_walks(width=7, length=9, random_state=1)
    assert x.shape[0] == 7 * 9
    assert y.tolist() == [j for j in range(9) for _ in range(7)]
    states = rows(x)
    assert states[:7] == [tuple(graph.definition.central_state)] * 7
    for i in range(7):
        for j in range(1, 9):
            assert states[i + j * 7] in neighbors(graph, states[i + (j - 1) * 7])


def test_every_generator_is_drawn_equally_often():
    x, _ = LRX.random_walks(width=3000, length=2, random_state=0)
    found = torch.unique(x[3000:], dim=0, return_counts=True)[1]
    # Three binomial counts with standard deviation 26.
    assert found.shape == (3,)
    assert int((found - 1000).abs().max()) < 4 * 26


@GRAPHS
def test_bfs_layers_are_distinct_states_one_edge_apart(graph):
    x, y = graph.random_walks(width=6, length=8, mode="bfs", random_state=2)
    states = rows(x)
    assert len(set(states)) == len(states)
    by_layer = {}
    for state, layer in zip(states, y.tolist(), strict=True):
        by_layer.setdefault(layer, []).append(state)
    assert list(by_layer) == sorted(by_layer)
    assert by_layer[0] == [tuple(graph.definition.central_state)]
    for layer in range(1, max(by_layer) + 1):
        assert 1 <= len(by_layer[layer]) <= 6
        before = set().union(*(neighbors(graph, state) for state in by_layer[layer - 1]))
        assert set(by_layer[layer]) <= before


def test_wide_bfs_layers_are_the_layers_of_a_search():
    x, y = LRX.random_walks(width=10**6, length=100, mode="bfs", random_state=0)
    assert torch.bincount(y).tolist() == LRX.growth()
    assert len(x) == 720


def test_bfs_steps_bound_the_distance_from_above():
    table = LRX.distance_table()
    x, y = LRX.random_walks(width=5, length=30, mode="bfs", random_state=0)
    assert bool((table.distance(x) <= y).all())


@GRAPHS
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_nbt_walks_move_along_edges_and_count_moves(graph, depth):
    width, length = 5, 8
    x, y = graph.random_walks(
        width=width, length=length, mode="nbt", nbt_history_depth=depth, random_state=0
    )
    assert len(x) == width * length
    states, steps = rows(x), y.tolist()
    for j in range(1, length):
        before = states[(j - 1) * width : j * width]
        after = states[j * width : (j + 1) * width]
        assert len(set(steps[j * width : (j + 1) * width])) == 1
        if steps[j * width] > steps[j * width - 1]:
            reachable = set().union(*(neighbors(graph, state) for state in before))
            assert set(after) <= reachable
        else:
            assert after == before


def test_nbt_candidates_of_the_last_steps_are_banned():
    width, length, depth = 8, 14, 3
    x, y = LRX.random_walks(
        width=width, length=length, mode="nbt", nbt_history_depth=depth, random_state=3
    )
    states = rows(x)
    layers = [set(states[j * width : (j + 1) * width]) for j in range(length)]
    candidates = [layers[0]]
    for j in range(1, length):
        candidates.append(set().union(*(neighbors(LRX, state) for state in layers[j - 1])))
        if int(y[j * width]) > int(y[j * width - 1]):
            assert not layers[j] & set().union(*candidates[max(0, j - depth) : j])


def test_nbt_walks_that_are_shut_in_stay():
    """Two states: the second step has nowhere new to go."""
    graph = graph_of(PermutationGroups.coxeter(2))
    x, y = graph.random_walks(width=3, length=4, mode="nbt", nbt_history_depth=5, random_state=0)
    assert y.tolist() == [0] * 3 + [1] * 9
    assert rows(x) == [(0, 1)] * 3 + [(1, 0)] * 9


@pytest.mark.parametrize("mode", MODES)
def test_a_seed_repeats_the_walks(mode):
    def walks(random_state):
        return LRX.random_walks(width=9, length=9, mode=mode, random_state=random_state)

    assert all(map(torch.equal, walks(5), walks(5)))
    assert not torch.equal(walks(5)[0], walks(6)[0])
    assert all(map(torch.equal, walks(5), walks(torch.Generator().manual_seed(5))))


@pytest.mark.parametrize("mode", MODES)
def test_the_global_seed_repeats_the_walks(mode):
    torch.manual_seed(3)
    first = LRX.random_walks(width=9, length=9, mode=mode)
    torch.manual_seed(3)
    assert all(map(torch.equal, first, LRX.random_walks(width=9, length=9, mode=mode)))


@pytest.mark.parametrize("mode", MODES)
def test_start_states_may_be_lists_arrays_or_tensors(mode):
    state = [5, 4, 3, 2, 1, 0]
    found = [
        LRX.random_walks(mode=mode, start_state=start, random_state=0)
        for start in (state, torch.tensor(state).numpy(), torch.tensor(state), [state])
    ]
    assert rows(found[0][0])[0] == tuple(state)
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


def test_methods_by_name_take_positions_and_encoded_starts():
    generator = RandomWalksGenerator(LRX)
    start = LRX.encode_states([1, 0, 2, 3, 4, 5])
    for method in (
        generator.random_walks_classic,
        generator.random_walks_bfs,
        generator.random_walks_nbt,
    ):
        x, _ = method(3, 2, start)
        assert x[0].tolist() == [1, 0, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "levy"}, "mode must be one of classic, bfs, nbt, got 'levy'"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"length": 0}, "length must be at least 1, got 0"),
        ({"width": 2.5}, "width must be an integer, got 2.5"),
        ({"nbt_history_depth": -1}, "nbt_history_depth must be at least 0, got -1"),
        ({"start_state": [0, 1]}, r"start_state must have states of shape \(6,\), got shape \(2,"),
        ({"start_state": [[0] * 6] * 2}, "start_state must be one state, got 2"),
        ({"random_state": -1}, "random_state must be at least 0, got -1"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(CayleyError, match=message):
        LRX.random_walks(**arguments)
