"""Shortest paths: restored from layers, meeting in the middle, and by whatever is at hand."""

import numpy as np
import pytest
import torch
from rankone.cayley import CayleyError, MatrixGroups, PermutationGroups, find_path
from rankone.cayley.algo import MeetInTheMiddle

from .graphs import graph, plain_layers

DEFINITIONS = {
    "lrx": PermutationGroups.lrx(6),
    "directed": PermutationGroups.lx(6),
    "coset": PermutationGroups.coxeter(6).with_central_state("001122"),
    "directed coset": PermutationGroups.larx(7).with_central_state("0001122"),
    "matrices": MatrixGroups.heisenberg(modulo=5),
}


@pytest.fixture(params=DEFINITIONS)
def made(request):
    return graph(DEFINITIONS[request.param])


def distances(definition):
    return {state: d for d, layer in enumerate(plain_layers(definition)) for state in sorted(layer)}


def sample(made, count=12):
    known = distances(made.definition)
    states = list(known)
    chosen = np.random.default_rng(0).choice(len(states), count, replace=False)
    shape = made.definition.decoded_state_shape
    return [(torch.tensor(states[i]).reshape(shape), known[states[i]]) for i in (*chosen, 0, -1)]


def arrives(made, path, state):
    return torch.equal(made.apply_path(made.central_state, path).reshape(-1), state.reshape(-1))


def test_paths_are_restored_from_hashes(made):
    result = made.bfs(return_all_hashes=True)
    for state, distance in sample(made):
        path = made.find_path_to(state, result)
        assert len(path) == distance
        assert arrives(made, path, state)
        if distance:
            assert made.restore_path(result.layers_hashes[:distance], state) is not None


def test_a_state_beyond_the_search_has_no_path():
    made = graph(PermutationGroups.lrx(6))
    partial = made.bfs(return_all_hashes=True, max_diameter=3)
    assert made.find_path_to([1, 0, 5, 4, 3, 2], partial) is None
    with pytest.raises(CayleyError, match="no path through the 2 layers"):
        made.restore_path(partial.layers_hashes[:2], [1, 0, 5, 4, 3, 2])


@pytest.mark.parametrize("name", ["lrx", "coset", "matrices"])
def test_paths_revert_to_the_central_state(name):
    made = graph(DEFINITIONS[name])
    result = made.bfs(return_all_hashes=True)
    for state, distance in sample(made):
        path = made.find_path_from(state, result)
        assert len(path) == distance
        made.validate_path(state, path)
        assert arrives(made, made.definition.revert_path(path), state)


def test_paths_back_need_inverses():
    made = graph(DEFINITIONS["directed"])
    result = made.bfs(return_all_hashes=True)
    with pytest.raises(CayleyError, match="inverse-closed"):
        made.find_path_from([1, 0, 2, 3, 4, 5], result)
    with pytest.raises(CayleyError, match="inverse-closed"):
        MeetInTheMiddle.find_path_from(made, [1, 0, 2, 3, 4, 5], result)


@pytest.mark.parametrize("depth", [0, 2, 5, 20])
def test_meeting_in_the_middle_finds_shortest_paths_up_to_twice_its_depth(made, depth):
    partial = made.bfs(return_all_hashes=True, max_diameter=depth)
    reach = 2 * (len(partial.layer_sizes) - 1)
    for state, distance in sample(made):
        path = MeetInTheMiddle.find_path_to(made, state, partial)
        if distance > reach:
            assert path is None
        else:
            assert len(path) == distance
            assert arrives(made, path, state)


def test_searches_from_both_sides_meet(made):
    shape = made.definition.decoded_state_shape
    for state, distance in sample(made):
        path = MeetInTheMiddle.find_path_between(made, made.central_state.reshape(shape), state)
        assert len(path) == distance
        assert torch.equal(path.end_state.reshape(-1), state.reshape(-1))
    if distance > 2:
        near = MeetInTheMiddle.find_path_between(
            made, made.central_state, state, max_diameter=(distance - 1) // 2
        )
        assert near is None


def test_sets_of_states_meet_where_they_are_nearest():
    made = graph(PermutationGroups.lrx(6))
    known = distances(made.definition)
    far = [state for state, d in known.items() if d > 9][:5]
    near = next(state for state, d in known.items() if d == 4)
    path = MeetInTheMiddle.find_path_between(made, [made.central_state.tolist()], [*far, near])
    assert len(path) == 4
    assert path.end_state.tolist() == list(near)
    assert path.start_state.tolist() == [0, 1, 2, 3, 4, 5]


def test_there_is_no_path_to_another_coset():
    made = graph(PermutationGroups.top_spin(5))  # even permutations only
    assert MeetInTheMiddle.find_path_between(made, range(5), [1, 0, 2, 3, 4]) is None


def test_a_path_is_found_from_any_state(made):
    inverse_distance = {
        state: d
        for d, layer in enumerate(plain_layers(made.definition.with_inverted_generators()))
        for state in layer
    }
    for state, _ in sample(made, 6):
        path = find_path(made, state)
        made.validate_path(state, path)
        assert len(path) == inverse_distance[tuple(state.reshape(-1).tolist())]
    assert find_path(made, made.central_state) == []


def test_hash_collisions_are_walked_round(monkeypatch):
    """With few hashes the wrong candidates must be tried and left."""
    made = graph(PermutationGroups.lrx(5), bit_encoding_width=None)
    expected = distances(made.definition)
    monkeypatch.setattr(made.hasher, "make_hashes", lambda states: states[:, 0] * 5 + states[:, 1])
    result = made.bfs(return_all_hashes=True, engine="torch")
    state = next(state for state, d in expected.items() if d == 6)
    path = made.find_path_to(list(state), result)
    assert arrives(made, path, torch.tensor(state))


def test_another_graphs_search_is_refused():
    made, other = graph(PermutationGroups.lrx(5)), graph(PermutationGroups.lx(5))
    result = other.bfs(return_all_hashes=True)
    with pytest.raises(CayleyError, match="same graph"):
        made.find_path_to(range(5), result)
    with pytest.raises(CayleyError, match="same graph"):
        MeetInTheMiddle.find_path_to(made, range(5), result)
    with pytest.raises(CayleyError, match="return_all_hashes=True"):
        other.find_path_to(range(5), other.bfs())
    with pytest.raises(CayleyError, match="must be one state, got 2"):
        find_path(made, [[0, 1, 2, 3, 4], [1, 0, 2, 3, 4]])
