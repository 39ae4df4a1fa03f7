"""Permutations in one-line form."""

import itertools
import math

import pytest
from rankone.cayley import CayleyError
from rankone.cayley import permutation_utils as pu


def test_a_permutation_gathers():
    assert pu.apply_permutation([2, 0, 1], ["a", "b", "c"]) == ["c", "a", "b"]


def test_composition_is_application_to_a_permutation():
    a, b = [1, 2, 0, 3], [3, 0, 2, 1]
    assert pu.compose_permutations(a, b) == [b[i] for i in a]
    x = list("wxyz")
    applied = pu.apply_permutation(b, pu.apply_permutation(a, x))
    assert applied == pu.apply_permutation([a[i] for i in b], x)


def test_a_permutation_and_its_inverse_cancel():
    for p in itertools.permutations(range(4)):
        assert pu.compose_permutations(p, pu.inverse_permutation(p)) == [0, 1, 2, 3]


def test_cycles_send_each_position_to_the_next():
    assert pu.permutation_from_cycles(6, [[0, 1], [2, 3, 4]]) == [1, 0, 3, 4, 2, 5]
    assert pu.permutation_from_cycles(5, [[1, 2, 3]], offset=1) == [1, 2, 0, 3, 4]
    assert pu.transposition(4, 1, 3) == [0, 3, 2, 1]


@pytest.mark.parametrize("n", range(1, 6))
def test_cycles_of_a_permutation_make_it_again(n):
    for p in itertools.permutations(range(n)):
        assert pu.permutation_from_cycles(n, pu.cycles_of(p)) == list(p)


@pytest.mark.parametrize("lengths", [[2, 2], [3, 1], [4], [1, 1, 1, 1], [2, 1, 1]])
def test_a_cycle_type_has_every_permutation_of_it_once(lengths):
    found = pu.permutations_with_cycle_lenghts(4, lengths)
    wanted = tuple(sorted(lengths, reverse=True))
    expected = [p for p in itertools.permutations(range(4)) if pu.cycle_type(p) == wanted]
    assert sorted(map(tuple, found)) == expected


def test_a_class_has_the_size_of_the_formula():
    assert len(pu.permutations_with_cycle_lenghts(7, [3, 2, 2])) == math.factorial(7) // 24


def test_a_partition_gives_a_permutation_of_its_type():
    assert pu.partition_to_permutation([2, 1, 3]) == [1, 0, 2, 4, 5, 3]
    drawn = [pu.partition_to_permutation([2, 3, 2], True, random_state=s) for s in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(pu.cycle_type(p) == (3, 2, 2) for p in drawn)


def test_parity_counts_transpositions():
    assert not pu.is_odd([0, 1, 2])
    assert pu.is_odd([1, 0, 2])
    assert not pu.is_odd([1, 2, 0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pu.permutation_from_cycles(3, [[0, 3]]), "from 0 to 2, got 3"),
        (lambda: pu.permutation_from_cycles(3, [[0, 1]], offset=1), "from 1 to 3, got 0"),
        (lambda: pu.permutation_from_cycles(4, [[0, 1], [1, 2]]), "position 1 twice"),
        (lambda: pu.transposition(4, 2, 2), "position 2 twice"),
        (lambda: pu.permutations_with_cycle_lenghts(4, [3]), r"n = 4, got \[3\] with sum 3"),
        (lambda: pu.permutations_with_cycle_lenghts(4, [4, 0]), r"positive, got \[4, 0\]"),
    ],
)
def test_bad_input_names_the_argument(call, message):
    with pytest.raises(CayleyError, match=message):
        call()
