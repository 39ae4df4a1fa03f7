"""Graphs: states, neighbours, paths through generators, copies, creation."""

import numpy as np
import pytest
import torch
from rankone.cayley import (
    CayleyError,
    CayleyGraph,
    CayleyPath,
    MatrixGenerator,
    MatrixGroups,
    PermutationGroups,
    create_graph,
)

from .graphs import graph, neighbors

LRX = PermutationGroups.lrx(5)
DEFINITIONS = [
    LRX,
    PermutationGroups.lrx(20),
    PermutationGroups.coxeter(7).with_central_state("0011222"),
    MatrixGroups.heisenberg(modulo=5),
    MatrixGroups.special_linear_fundamental_roots(3),
    MatrixGroups.heisenberg(modulo=2**31 - 1).with_central_state([[1, 2]] * 3),
]


def ids(definition):
    return definition.name


@pytest.fixture(params=DEFINITIONS, ids=ids)
def definition(request):
    return request.param


def some_states(made):
    """States of the graph, by random words."""
    draw = np.random.default_rng(0)
    words = [draw.integers(made.definition.n_generators, size=k).tolist() for k in range(6)]
    return torch.cat([made.apply_path(made.central_state, word) for word in words])


@pytest.mark.parametrize("width", ["auto", None, 33])
def test_states_round_trip(definition, width):
    made = graph(definition, bit_encoding_width=width)
    states = some_states(made)
    encoded = made.encode_states(states)
    assert encoded.shape == (6, made.encoded_state_size)
    assert torch.equal(made.decode_states(encoded), states)
    assert states.shape[1:] == definition.decoded_state_shape


@pytest.mark.parametrize("width", ["auto", None, 33])
def test_neighbors_are_generator_major(definition, width):
    made = graph(definition, bit_encoding_width=width)
    states = some_states(made)
    found = made.get_neighbors_decoded(states).reshape(-1, definition.state_size).tolist()
    rows = [neighbors(definition, row) for row in states.reshape(6, -1).tolist()]
    expected = [list(row[g]) for g in range(definition.n_generators) for row in rows]
    assert found == expected
    in_torch = made.get_neighbors_torch(made.encode_states(states))
    assert torch.equal(in_torch, made.get_neighbors(made.encode_states(states)))


def test_one_generator_writes_to_its_target(definition):
    made = graph(definition)
    encoded = made.encode_states(some_states(made))
    target = torch.full_like(encoded, -1)
    made.apply_generator_batched(1, encoded, target)
    assert torch.equal(target, made.get_neighbors(encoded)[6:12])


def test_a_path_applies_generators_in_order(definition):
    made = graph(definition)
    state = tuple(definition.central_state)
    path = [0, 1, 1, 0, definition.n_generators - 1]
    for index in path:
        state = neighbors(definition, state)[index]
    assert made.apply_path(made.central_state, path).reshape(-1).tolist() == list(state)


def test_left_then_exchange_is_the_documented_composition():
    made = graph(LRX)
    a, b = LRX.generators[0], LRX.generators[2]
    assert made.apply_path(range(5), [0, 2])[0].tolist() == [a[b[i]] for i in range(5)]


@pytest.mark.parametrize("form", [list, np.array, torch.tensor], ids=["list", "array", "tensor"])
def test_states_come_in_any_form(form):
    made = graph(LRX)
    assert made.encode_states(form([0, 1, 2, 3, 4])).tolist() == [[0x43210]]
    assert len(made.encode_states(form([[0, 1, 2, 3, 4], [1, 0, 2, 3, 4]]))) == 2


def test_unique_states_are_sorted_by_hash(definition):
    made = graph(definition)
    encoded = made.encode_states(some_states(made)).repeat(3, 1)
    states, hashes = made.get_unique_states(encoded)
    assert bool((hashes[1:] >= hashes[:-1]).all())
    assert torch.equal(made.hasher.make_hashes(states), hashes)
    assert {tuple(row) for row in states.tolist()} == {tuple(row) for row in encoded.tolist()}
    assert len({tuple(row) for row in states.tolist()}) == len(states)


def test_paths_are_validated():
    made = graph(LRX)
    made.validate_path([1, 2, 3, 4, 0], [1])
    with pytest.raises(CayleyError, match="must lead to the central state"):
        made.validate_path([1, 2, 3, 4, 0], [0])
    with pytest.raises(AssertionError):
        made.validate_path([1, 2, 3, 4, 0], [0])


def test_inverted_generators_undo():
    made = graph(PermutationGroups.lx(6))
    encoded = made.encode_states(some_states(made))
    there = made.get_neighbors(encoded)
    for index in range(2):
        back = made.with_inverted_generators.get_neighbors(there[6 * index : 6 * index + 6])
        assert torch.equal(back[6 * index : 6 * index + 6], encoded)
    involutions = graph(PermutationGroups.coxeter(4))
    assert involutions.with_inverted_generators is involutions


def test_a_modified_copy_keeps_encoding_and_settings():
    made = graph(LRX, random_seed=3, batch_size=17)
    other = made.modified_copy(PermutationGroups.lx(5))
    assert other.definition.name == "lx-5"
    assert made.definition is LRX
    assert other.hasher is made.hasher
    assert other.batch_size == 17
    assert len(other.get_neighbors(other.encode_states(range(5)))) == 2
    with pytest.raises(CayleyError, match=r"shape \(5,\), got \(6,\)"):
        made.modified_copy(PermutationGroups.lx(6))


def test_networkx_graphs_of_both_kinds():
    undirected = graph(PermutationGroups.lrx(4)).to_networkx_graph()
    assert (undirected.number_of_nodes(), undirected.number_of_edges()) == (24, 36)
    directed = graph(PermutationGroups.lx(4)).to_networkx_graph()
    assert directed.is_directed()
    assert (directed.number_of_nodes(), directed.number_of_edges()) == (24, 48)


def test_graphs_are_created_from_a_configuration():
    named = create_graph(name="lrx", n=5, device="cpu", batch_size=3)
    assert (named.definition, named.batch_size) == (LRX, 3)
    assert create_graph(name="lrx-5", central_state="00011", device="cpu").definition == (
        LRX.with_central_state("00011")
    )
    closed = create_graph(
        generators_permutations=[[1, 2, 0]], make_inverse_closed=True, name="c", device="cpu"
    )
    assert closed.definition.n_generators == 2
    matrices = create_graph(
        generators_matrices=[[[1, 1], [0, 1]], MatrixGenerator.create([[1, 0], [1, 1]])],
        generator_names=["a", "b"],
        device="cpu",
    )
    assert matrices.definition.generator_names == ["a", "b"]
    with pytest.raises(CayleyError, match="must be given"):
        create_graph(device="cpu")
    with pytest.raises(CayleyError, match="not both"):
        create_graph(generators_permutations=[[0]], generators_matrices=[[[1]]])


def test_unknown_options_are_named():
    with pytest.warns(UserWarning, match="ignores dtype"):
        graph(LRX, dtype="int8")


def test_a_path_object_knows_its_states():
    path = CayleyPath(torch.arange(5), [0, 2], LRX)
    states = [state.tolist() for state in path.all_states]
    assert states == [[0, 1, 2, 3, 4], [1, 2, 3, 4, 0], [2, 1, 3, 4, 0]]
    assert path.end_state.tolist() == states[-1]
    assert (str(path), len(path)) == ("L.X", 2)
    assert path == CayleyPath(torch.arange(5), [0, 2], LRX)
    assert path != CayleyPath(torch.arange(5), [0, 1], LRX)
    matrices = MatrixGroups.heisenberg(modulo=3)
    start = torch.tensor(matrices.central_state)
    assert CayleyPath(start, [0], matrices).end_state.tolist() == [1, 1, 0, 0, 1, 0, 0, 0, 1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: CayleyGraph("lrx"), "definition must be a CayleyGraphDef, got str"),
        (lambda: graph(LRX).encode_states([0, 1]), r"shape \(5,\), got shape \(2,\)"),
        (lambda: graph(LRX).encode_states([[0.5] * 5]), "states must hold integers"),
        (lambda: graph(LRX).encode_states([[0], [1, 2]]), "rows of equal length"),
        (lambda: graph(LRX).encode_states([0, 1, 2, 3, 16]), "from 0 to 15 .* got 16"),
        (lambda: graph(LRX).apply_path(range(5), [3]), "from 0 to 2, got 3"),
        (lambda: graph(LRX, batch_size=0), "batch_size must be at least 1, got 0"),
        (lambda: graph(LRX, threads=0), "threads must be at least 1, got 0"),
        (lambda: graph(LRX, random_seed=-1), "random_seed must be at least 0, got -1"),
        (lambda: graph(LRX, memory_limit_gb=0), "memory_limit_gb must be positive, got 0"),
        (lambda: graph(LRX, bit_encoding_width="wide"), "integer, None or 'auto', got 'wide'"),
        (
            lambda: graph(MatrixGroups.heisenberg(modulo=3)).encode_states([[1, 0], [0, 1]]),
            r"shape \(9,\) or \(3, 3\), got shape \(2, 2\)",
        ),
    ],
)
def test_bad_input_names_the_argument(call, message):
    with pytest.raises(CayleyError, match=message):
        call()
