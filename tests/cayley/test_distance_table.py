"""The table of all distances agrees with searches, and its paths are shortest."""

import itertools

import pytest
import torch
from rankone.cayley import (
    CayleyError,
    CayleyGraphDef,
    DistanceTable,
    MatrixGroups,
    PermutationGroups,
    find_path,
)
from rankone.ops._permutation_bfs import native_kernels

from .graphs import graph, plain_layers

pytestmark = pytest.mark.skipif(native_kernels() is None, reason="the native module is not built")

DEFINITIONS = {
    "lrx": PermutationGroups.lrx(6),
    "directed": PermutationGroups.lx(6),
    "even permutations": PermutationGroups.top_spin(5),
    "another center": PermutationGroups.lx(5).with_central_state([3, 1, 4, 0, 2]),
    "long reversals": PermutationGroups.pancake(7),
}


@pytest.fixture(params=DEFINITIONS)
def made(request):
    return graph(DEFINITIONS[request.param])


def distances_to_the_center(definition):
    inverted = definition.with_inverted_generators()
    return {state: d for d, layer in enumerate(plain_layers(inverted)) for state in layer}


def test_distances_are_those_of_a_search_from_the_center(made):
    expected = distances_to_the_center(made.definition)
    table = made.distance_table()
    states = list(itertools.permutations(range(made.definition.state_size)))
    found = table.distance(torch.tensor(states)).tolist()
    assert found == [expected.get(state, -1) for state in states]
    assert sum(table.layer_sizes) == len(expected)


def test_paths_are_shortest(made):
    expected = distances_to_the_center(made.definition)
    table = made.distance_table()
    for state in list(expected)[:: max(1, len(expected) // 40)]:
        path = table.path(list(state))
        made.validate_path(list(state), path)
        assert len(path) == expected[state]


def test_two_bits_or_a_byte_an_element():
    closed = graph(PermutationGroups.lrx(9)).distance_table()
    directed = graph(PermutationGroups.lx(9)).distance_table()
    assert not closed.directed
    assert directed.directed
    assert 362880 / 4 <= closed.nbytes <= 362880 / 4 * 1.1
    assert 362880 <= directed.nbytes <= 362880 * 1.1


@pytest.mark.parametrize("name", ["lrx", "directed"])
def test_a_table_is_saved_whole(name, tmp_path):
    made = graph(DEFINITIONS[name])
    table = made.distance_table()
    table.save(tmp_path / "table")
    other = graph(DEFINITIONS[name])
    again = DistanceTable.load(tmp_path / "table", other)
    assert again.layer_sizes == table.layer_sizes
    states = torch.stack([torch.randperm(6) for _ in range(50)])
    assert torch.equal(again.distance(states), table.distance(states))
    assert again.path(states[0]) == table.path(states[0])
    with pytest.raises(CayleyError, match="of another graph"):
        DistanceTable.load(tmp_path / "table", graph(PermutationGroups.coxeter(6)))
    (tmp_path / "other").write_text("text")
    with pytest.raises(CayleyError, match=r"DistanceTable\.save wrote"):
        DistanceTable.load(tmp_path / "other", made)


def test_find_path_uses_the_table():
    made = graph(PermutationGroups.lrx(8))
    table = made.distance_table()
    assert made.distance_table() is table
    farthest = [1, 0, 7, 6, 5, 4, 3, 2]
    path = find_path(made, farthest)
    assert len(path) == 28
    assert made._partial_search is None
    made.free_memory()
    assert made.distance_table() is not table


def test_what_has_no_table_is_named():
    with pytest.raises(CayleyError, match="central state that is a permutation"):
        graph(PermutationGroups.lrx(4).with_central_state("0011")).distance_table()
    with pytest.raises(CayleyError, match="permutation generators"):
        graph(MatrixGroups.heisenberg(modulo=3)).distance_table()
    with pytest.raises(MemoryError, match=r"n = 15 needs .*the limit is"):
        graph(PermutationGroups.lrx(15)).distance_table()
    with pytest.raises(MemoryError, match=r"limit is 0\.0001 GiB"):
        graph(PermutationGroups.lrx(9)).distance_table(max_memory_gb=0.0001)
    table = graph(PermutationGroups.lrx(5)).distance_table()
    with pytest.raises(CayleyError, match=r"permutations of 0..4, got \[0, 0, 1, 2, 3\]"):
        table.distance([0, 0, 1, 2, 3])
    even = graph(PermutationGroups.top_spin(5)).distance_table()
    with pytest.raises(CayleyError, match="no path to the central state"):
        even.path([1, 0, 2, 3, 4])


def test_a_group_of_one_element_has_a_table():
    made = graph(CayleyGraphDef.create([[0, 1, 2]]))
    assert made.distance_table().distance([[0, 1, 2], [1, 0, 2]]).tolist() == [0, -1]
