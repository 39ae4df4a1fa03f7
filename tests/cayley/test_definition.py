"""Definitions of graphs: generators, names, central states, inverses; exact matrix inverses."""

import itertools

import numpy as np
import pytest
import torch
from rankone.cayley import (
    CayleyError,
    CayleyGraphDef,
    GeneratorType,
    MatrixGenerator,
    MatrixGroups,
    PermutationGroups,
)

LX = PermutationGroups.lx(4)


def test_an_error_is_a_value_error_and_an_assertion_error():
    with pytest.raises(ValueError, match="empty") as caught:
        CayleyGraphDef.create([])
    assert isinstance(caught.value, AssertionError)


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor], ids=["list", "array", "tensor"])
def test_generators_and_states_come_in_any_form(kind):
    made = CayleyGraphDef.create(kind([[1, 2, 0], [1, 0, 2]]), central_state=kind([0, 0, 1]))
    assert made.generators_permutations == [[1, 2, 0], [1, 0, 2]]
    assert made.generator_names == ["1,2,0", "1,0,2"]
    assert made.central_state == [0, 0, 1]
    assert made == CayleyGraphDef.create([[1, 2, 0], [1, 0, 2]], central_state="001")


def test_facts_of_a_permutation_group():
    assert LX.generators_type == GeneratorType.PERMUTATION
    assert (LX.n_generators, LX.state_size, LX.decoded_state_shape) == (2, 4, (4,))
    assert LX.is_permutation_group()
    assert not LX.is_matrix_group()
    assert LX.generators is LX.generators_permutations


def test_facts_of_a_matrix_group():
    made = MatrixGroups.heisenberg(modulo=3).with_central_state([[1, 0], [0, 1], [1, 4]])
    assert made.generators_type == GeneratorType.MATRIX
    assert (made.state_size, made.decoded_state_shape) == (6, (3, 2))
    assert made.central_state == [1, 0, 0, 1, 1, 1]
    plain = CayleyGraphDef.for_matrix_group(generators=made.generators_matrices)
    assert plain.generator_names == ["g0", "g1", "g2", "g3"]
    assert plain.central_state == np.eye(3, dtype=int).ravel().tolist()


def test_the_inverse_map_names_inverses():
    assert PermutationGroups.lrx(4).generators_inverse_map == [1, 0, 2]
    assert LX.generators_inverse_map is None
    assert not LX.generators_inverse_closed


def test_missing_inverses_are_added_at_the_end():
    closed = LX.make_inverse_closed()
    assert closed.generators_permutations == [[1, 2, 3, 0], [1, 0, 2, 3], [3, 0, 1, 2]]
    assert closed.generator_names == ["L", "X", "L'"]
    assert closed.name == "lx-4-ic"
    assert closed.make_inverse_closed() is closed
    matrices = MatrixGroups.heisenberg(add_inverses=False).make_inverse_closed()
    assert matrices.generator_names == ["x", "y", "x'", "y'"]
    assert matrices.generators_inverse_closed


def test_inverted_generators_keep_their_order():
    inverted = LX.with_inverted_generators()
    assert inverted.generators_permutations == [[3, 0, 1, 2], [1, 0, 2, 3]]
    assert inverted.with_inverted_generators().generators == LX.generators


def test_a_path_reverts():
    made = PermutationGroups.lrx(4)
    assert made.revert_path([0, 1, 2]) == [2, 0, 1]
    assert made.path_to_string([0, 2, 1]) == "L.X.R"
    assert made.path_to_string([0, 2], delimiter=" ") == "L X"
    with pytest.raises(CayleyError, match="inverse-closed"):
        LX.revert_path([0])


def test_repeated_generators_are_dropped():
    made = CayleyGraphDef.create([[1, 0], [1, 0], [0, 1]], ["a", "b", "c"]).dedup_generators()
    assert made.generator_names == ["a", "c"]
    assert made.dedup_generators() is made


def test_names_and_central_states_are_replaced():
    assert LX.with_name("x").name == "x"
    assert LX.with_central_state("0011").central_state == [0, 0, 1, 1]
    assert LX.with_central_state("0011").generator_names == LX.generator_names


@pytest.mark.parametrize(
    ("definition", "order"),
    [
        (PermutationGroups.lrx(12), 479001600),
        (PermutationGroups.top_spin(9), 181440),
        (PermutationGroups.torus(5, 7), 35),
        (PermutationGroups.hypercube(6), 64),
        (PermutationGroups.coxeter_d(4), 192),
        (CayleyGraphDef.create([[0, 1, 2]]), 1),
    ],
)
def test_group_orders(definition, order):
    assert definition.group_order() == order


def test_random_schreier_sims_agrees_with_known_orders():
    from rankone.cayley.group_orders import random_order
    from rankone.cayley.puzzles import Puzzles

    cube = Puzzles.rubik_cube(3, "QTM").generators_permutations
    assert random_order(cube) == 43252003274489856000
    assert random_order(PermutationGroups.top_spin(7).generators_permutations) == 2520
    assert random_order([[0, 1]]) == 1
    assert 100 < random_order(cube, enough=100) <= 43252003274489856000


def test_transitivity():
    assert LX.is_transitive()
    assert not PermutationGroups.torus(3, 4).is_transitive()
    with pytest.raises(CayleyError, match="permutation"):
        MatrixGroups.heisenberg(modulo=3).is_transitive()


@pytest.mark.parametrize("modulo", [2, 5, 6, 12, 2**31, 2**31 - 1])
def test_matrix_inverses_are_exact(modulo):
    draw = np.random.default_rng(0)
    identity = np.eye(4, dtype=np.int64)
    for _ in range(5):
        lower = np.tril(draw.integers(0, modulo, (4, 4)), -1) + identity
        upper = np.triu(draw.integers(0, modulo, (4, 4)), 1) + identity
        product = (lower.astype(object) @ upper.astype(object)) % modulo
        generator = MatrixGenerator.create(product.astype(np.int64), modulo)
        assert generator.is_inverse_to(generator.inv)
        both = generator.matrix.astype(object) @ generator.inv.matrix.astype(object)
        assert np.array_equal(both % modulo, identity)


def test_an_inverse_exists_exactly_for_coprime_determinants():
    for entries in itertools.product(range(6), repeat=4):
        a, b, c, d = entries
        generator = MatrixGenerator.create([[a, b], [c, d]], 6)
        if np.gcd(a * d - b * c, 6) == 1:
            assert generator.is_inverse_to(generator.inv)
        else:
            with pytest.raises(CayleyError, match="determinant"):
                _ = generator.inv


def test_integer_matrices_are_inverted_where_the_determinant_is_a_unit():
    assert MatrixGenerator.create([[2, 1], [1, 1]]).inv.matrix.tolist() == [[1, -1], [-1, 2]]
    assert MatrixGenerator.create([[0, 1], [1, 0]]).inv.matrix.tolist() == [[0, 1], [1, 0]]
    with pytest.raises(CayleyError, match="determinant 2"):
        _ = MatrixGenerator.create([[2, 0], [0, 1]]).inv


def test_large_moduli_do_not_overflow():
    m = 2**31
    generator = MatrixGenerator.create(np.full((3, 3), m - 1), m)
    state = np.full((3, 2), m - 1)
    # (-1)(-1) summed three times.
    assert generator.apply(state).tolist() == [[3, 3]] * 3


def test_matrices_act_from_the_left():
    generator = MatrixGenerator.create([[1, 1], [0, 1]], 5)
    assert generator.apply(np.array([[1, 2], [3, 4]])).tolist() == [[4, 1], [3, 4]]
    batch = torch.tensor([[[1], [1]], [[4], [4]]])
    assert generator.apply_batch_torch(batch).tolist() == [[[2], [1]], [[3], [4]]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: CayleyGraphDef.create([]), "generators must not be empty"),
        (lambda: CayleyGraphDef.create([[0, 0, 1]]), r"permutation of 0..2, got \[0, 0, 1\]"),
        (lambda: CayleyGraphDef.create([[1, 0], [0, 1, 2]]), r"one length, got 2 .* and 3"),
        (lambda: CayleyGraphDef.create([[]]), "one-line form"),
        (lambda: CayleyGraphDef.create([[0.5, 1]]), "integers, got float64"),
        (lambda: CayleyGraphDef.create([["a", "b"]]), "must hold integers"),
        (lambda: CayleyGraphDef.create([[1, 0]], ["a", "b"]), "each of 1 generators, got 2"),
        (lambda: CayleyGraphDef.create([[1, 0]], central_state=[0]), "length 2 .* got 1"),
        (lambda: CayleyGraphDef.create([[1, 0]], central_state=[0, -1]), "negative, got .*-1"),
        (lambda: CayleyGraphDef.create([[1, 0]], central_state="0a"), "string of digits"),
        (lambda: LX.with_central_state("00011"), "length 4 .* got 5"),
        (lambda: CayleyGraphDef.for_matrix_group(generators=[]), "must not be empty"),
        (lambda: MatrixGenerator.create([[1, 2, 3]]), r"square, got shape \(1, 3\)"),
        (lambda: MatrixGenerator.create([[1]], 1), "between 2 and 2147483648, got 1"),
        (lambda: MatrixGenerator.create([[1]], 2**32), "modulo must be between"),
        (lambda: MatrixGenerator.create([[1], [1, 2]]), "rectangular"),
        (
            lambda: CayleyGraphDef.for_matrix_group(
                generators=[MatrixGenerator.create([[1]], 3), MatrixGenerator.create([[1]], 5)]
            ),
            "one size and modulus",
        ),
        (
            lambda: MatrixGroups.heisenberg().with_central_state([1, 2]),
            "multiple of 3 entries, got 2",
        ),
        (lambda: MatrixGenerator.create([[1]]).apply(np.zeros((2, 1), int)), r"\(1, m\), got"),
    ],
)
def test_bad_input_names_the_argument(call, message):
    with pytest.raises(CayleyError, match=message):
        call()
