"""The named families: generators, diameters, growth in closed form, and names that lead back."""

import itertools
import math

import numpy as np
import pytest
from rankone.cayley import (
    CayleyError,
    CayleyGraphDef,
    MatrixGroups,
    PermutationGroups,
    prepare_graph,
)
from rankone.cayley.permutation_utils import cycle_type

from .graphs import binomials, diameter, growth, polynomial_product, stirling_growth

P = PermutationGroups


def triangle(n):
    return n * (n - 1) // 2


# family, first n, diameters from there on, further arguments. Values of the larger n stand in the
# reproduction.
DIAMETERS = [
    (P.all_transpositions, 2, [n - 1 for n in range(2, 9)], {}),
    (P.transposons, 2, [1, 2, 3, 3, 4, 4, 5], {}),
    (P.block_interchange, 3, [n // 2 for n in range(3, 8)], {}),
    (P.full_reversals, 2, [n - 1 for n in range(2, 9)], {}),
    (P.signed_reversals, 1, [1, 3, 3, 5, 6, 7], {}),
    (P.lrx, 3, [2, *(triangle(n) for n in range(4, 10))], {}),
    (P.lrx, 7, [23], {"k": 3}),
    (P.lx, 3, [2, 6, 11, 18, 25, 35, 45], {}),
    (P.top_spin, 4, [3, 3, 12, 17, 22, 23], {}),
    (P.coxeter, 2, [triangle(n) for n in range(2, 9)], {}),
    (P.coxeter_b, 2, [n * n for n in range(2, 7)], {}),
    (P.coxeter_d, 2, [n * (n - 1) for n in range(2, 7)], {}),
    (P.cyclic_coxeter, 2, [n * n // 4 for n in range(2, 9)], {}),
    (P.pancake, 2, [1, 3, 4, 5, 7, 8, 9, 10], {}),
    (P.burnt_pancake, 1, [1, 4, 6, 8, 10, 12], {}),
    (P.three_cycles, 3, [1, 2, 2, 3, 3], {}),
    (P.three_cycles_0ij, 3, [1, 2, 3, 3, 4], {}),
    (P.three_cycles_01i, 3, [1, 3, 4, 6, 7], {}),
    (P.three_cycles_01i, 3, [2, 4, 5, 6, 8], {"add_inverses": False}),
    (P.derangements, 4, [2, 2, 2], {}),
    (P.stars, 2, [3 * (n - 1) // 2 for n in range(2, 10)], {}),
    (P.generalized_stars, 3, [3, 4, 5, 7, 8], {"k": 2}),
    (P.rapaport_m1, 2, [1, 3, 4, 6, 8, 9, 11, 13], {}),
    (P.rapaport_m2, 2, [1, 3, 4, 8, 16, 22, 30, 40], {}),
    (P.all_cycles, 4, [2, 2, 2], {}),
    (P.lsl_cycles, 3, [2, 5, 7, 12, 15], {}),
    (P.larx, 2, [1, 3, 7, 10, 17, 22], {}),
    (P.consecutive_k_cycles, 3, [n * n // 4 for n in range(3, 9)], {"k": 3}),
    (P.consecutive_k_cycles, 4, [3, 9, 9, 10, 13], {"k": 4}),
    (P.down_cycles, 2, [n - 1 for n in range(2, 8)], {}),
    (P.prefix_cycles, 2, [n - 1 for n in range(2, 8)], {}),
    (P.square_with_whiskers, 5, [10, 16, 30, 38], {}),
]


@pytest.mark.parametrize(
    ("family", "first", "expected", "options"),
    DIAMETERS,
    ids=[f"{family.__name__}{options or ''}" for family, _, _, options in DIAMETERS],
)
def test_diameters(family, first, expected, options):
    found = [diameter(family(n, **options)) for n in range(first, first + len(expected))]
    assert found == expected


def test_diameters_of_families_with_two_numbers():
    assert [diameter(P.wrapped_k_cycles(9, k)) for k in range(3, 9)] == [12, 10, 8, 10, 11, 17]
    assert [diameter(P.increasing_k_cycles(9, k)) for k in (2, 3)] == [8, 8]
    assert [diameter(P.involutive_derangements(n)) for n in (4, 6, 8)] == [1, 5, 4]
    assert diameter(P.sheveleva2(8, 2)) == 44
    closed = [P.consecutive_k_cycles(n, 4).make_inverse_closed() for n in range(4, 8)]
    # Not n(n-1)/6 - 1 throughout: at n = 6 that would be 4.
    assert [diameter(made) for made in closed] == [2, 7, 6, 8]


def test_cubic_pancakes():
    found = [growth(P.cubic_pancake(7, subset)) for subset in range(1, 8)]
    assert [len(sizes) - 1 for sizes in found] == [18, 16, 15, 15, 20, 8, 17]
    assert sum(found[5]) == 144
    assert all(sum(sizes) == 5040 for i, sizes in enumerate(found) if i != 5)


@pytest.mark.parametrize("n", [5, 6, 7])
def test_whiskers_are_the_largest_of_koltsov3(n):
    members = [P.koltsov3(n, 2, k) for k in range(n - 3)]
    members += [P.koltsov3(n, 1, k, d) for k in range(n) for d in range(1, n - k)]
    assert max(diameter(member) for member in members) == diameter(P.square_with_whiskers(n))


@pytest.mark.parametrize("n", range(2, 9))
def test_coxeter_growth_counts_inversions(n):
    assert growth(P.coxeter(n)) == polynomial_product([[1] * i for i in range(1, n + 1)])


@pytest.mark.parametrize("n", range(2, 6))
def test_growth_of_coxeter_groups_b_and_d(n):
    b = polynomial_product([[1] * (2 * i) for i in range(1, n + 1)])
    d = polynomial_product([*([1] * (2 * i) for i in range(1, n)), [1] * n])
    assert growth(P.coxeter_b(n)) == b
    assert growth(P.coxeter_d(n)) == d


@pytest.mark.parametrize("n", range(2, 9))
def test_growth_by_transpositions_is_stirling(n):
    assert growth(P.all_transpositions(n)) == stirling_growth(n)


@pytest.mark.parametrize("n", range(1, 9))
def test_the_hypercube_grows_by_binomials(n):
    assert growth(P.hypercube(n)) == binomials(n)


@pytest.mark.parametrize(("a", "b"), [(2, 2), (3, 4), (5, 7), (4, 6)])
def test_the_torus_grows_as_a_product_of_circles(a, b):
    circles = [np.bincount(np.minimum(range(m), m - np.arange(m))).tolist() for m in (a, b)]
    assert growth(P.torus(a, b)) == polynomial_product(circles)


def test_named_growths():
    assert growth(P.lrx(6)) == [1, 3, 6, 11, 20, 35, 55, 81, 109, 128, 126, 95, 40, 6, 3, 1]
    lrx8 = "1,3,6,12,23,44,80,142,247,411,662,1019,1481,2059,2745,3465,4126,4633,4913,4777,4163"
    assert growth(P.lrx(8)) == [*map(int, lrx8.split(",")), 3079, 1612, 488, 94, 25, 6, 3, 1]
    lx6 = [1, 2, 3, 5, 8, 13, 20, 30, 42, 56, 73, 87, 98, 101, 85, 59, 29, 7, 1]
    assert growth(P.lx(6)) == lx6
    assert growth(P.stars(7)) == [1, 6, 30, 135, 460, 1110, 1689, 1254, 340, 15]
    assert growth(P.pancake(8)) == [1, 7, 42, 251, 1191, 4281, 10561, 15011, 8520, 455]
    burnt = [1, 5, 20, 80, 280, 680, 1214, 1127, 389, 40, 4]
    assert growth(P.burnt_pancake(5)) == burnt
    assert all(growth(P.full_reversals(n))[-1] == 2 for n in range(3, 9))


def test_distances_of_cosets():
    for n, expected in ((8, 12), (10, 18), (12, 26)):
        half = [0] * (n // 2) + [1] * (n // 2)
        assert diameter(P.lrx(n).with_central_state(half)) == expected
    for n, expected in ((8, 12), (12, 27)):
        assert diameter(P.lrx(n).with_central_state([0, 1] * (n // 2))) == expected


@pytest.mark.parametrize("family", [P.larx, P.lx], ids=["larx", "lx"])
def test_growth_of_a_group_is_that_of_the_inverse_generators(family):
    for n in range(3, 8):
        assert growth(family(n)) == growth(family(n).with_inverted_generators())


def test_growth_of_cosets_is_not_that_of_the_inverse_generators():
    coset = P.larx(7).with_central_state("0001111")
    assert growth(coset) != growth(coset.with_inverted_generators())


@pytest.mark.parametrize("n", range(3, 7))
def test_layers_add_up_to_the_order_of_the_group(n):
    for made in (P.lrx(n), P.top_spin(n, 3), P.three_cycles(n), P.rapaport_m1(n)):
        sizes = growth(made)
        assert sum(sizes) == made.group_order()
        assert sizes[1] <= made.n_generators


def test_trees_give_paths_and_stars():
    path = P.transposition_tree(6, [(i, i + 1) for i in range(5)])
    star = P.transposition_tree(6, [(0, i) for i in range(1, 6)])
    assert path.generators == P.coxeter(6).generators
    assert star.generators == P.stars(6).generators


def test_classes_are_whole_or_drawn():
    whole = P.conjugacy_classes(5, {(3, 2): None})
    assert {cycle_type(p) for p in whole.generators_permutations} == {(3, 2)}
    assert whole.n_generators == math.factorial(5) // 6
    drawn = [P.conjugacy_classes(6, {(2, 2): 5, (3,): 4}, random_state=s) for s in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert [cycle_type(p) for p in drawn[0].generators_permutations] == (
        [(2, 2, 1, 1)] * 5 + [(3, 1, 1, 1)] * 4
    )


def test_random_generators_repeat_with_their_seed():
    a, b, c = (P.rand_generators(9, 3, random_state=s) for s in (0, 0, 1))
    assert a == b != c
    assert a.n_generators == 3


NAMED = [
    *(family(n, **options) for family, first, _, options in DIAMETERS for n in (first, first + 1)),
    P.wrapped_k_cycles(7, 3),
    P.increasing_k_cycles(5, 3),
    P.involutive_derangements(6),
    P.sheveleva2(7, 2),
    P.koltsov3(7, 1, 2, 3),
    P.koltsov3(7, 2, 3),
    P.lsl_cycles(5, add_inverses=False),
    P.cubic_pancake(7, 4),
    P.hypercube(4),
    P.torus(3, 5),
    P.torus(2, 3),
    P.transposition_tree(4, [(0, 1), (1, 2), (1, 3)]),
    P.conjugacy_classes(5, {(2, 2): None, (3,): 4}, random_state=7),
    P.rand_generators(6, 2, random_state=3),
    P.lx(7).make_inverse_closed(),
    MatrixGroups.heisenberg(),
    MatrixGroups.heisenberg(n=4, modulo=5),
    MatrixGroups.heisenberg(modulo=5, add_inverses=False),
    MatrixGroups.heisenberg(modulo=2),
    MatrixGroups.special_linear_fundamental_roots(3, 7),
    MatrixGroups.special_linear_fundamental_roots(2),
    MatrixGroups.special_linear_root_weyl(3, 4),
    MatrixGroups.unitriangular(4, 3),
    MatrixGroups.unitriangular(3, 2, add_inverses=False),
]


@pytest.mark.parametrize("definition", NAMED, ids=lambda definition: definition.name)
def test_a_name_leads_back_to_its_definition(definition):
    assert definition.name
    assert prepare_graph(definition.name) == definition


def test_names_are_different():
    names = [definition.name for definition in {d.name: d for d in NAMED}.values()]
    by_name = {d.name: d for d in NAMED}
    assert all(by_name[d.name] == d for d in NAMED)
    assert len(names) == len(by_name)


def test_every_method_can_be_asked_for_by_name():
    for library, skipped in ((P, {"conjugacy_classes", "transposition_tree"}), (MatrixGroups, ())):
        for name, member in vars(library).items():
            if not isinstance(member, staticmethod) or name in skipped:
                continue
            arguments = {"n": 6, "k": 3, "subset": 2, "a": 3, "b": 4, "modulo": 3}
            taken = member.__func__.__code__
            names = taken.co_varnames[: taken.co_argcount + taken.co_kwonlyargcount]
            asked = {key: value for key, value in arguments.items() if key in names}
            if name in ("sheveleva2", "koltsov3"):
                asked["k"] = 2
            if name == "rand_generators":
                asked["random_state"] = 0
            made = prepare_graph(name, **asked)
            assert made == getattr(library, name)(**asked)


def test_legacy_names():
    assert prepare_graph("lx-7").n_generators == 2
    assert prepare_graph("01i", 6) == P.three_cycles_01i(6)
    rings = prepare_graph("hungarian_rings", n=9)
    assert (rings.name, rings.state_size) == ("hungarian_rings-6-1-5-2", 9)
    sizes = {
        "cube_2/2/2_6gensQTM": (24, 6),
        "cube_2/2/2_9gensHTM": (24, 9),
        "cube_3/3/3_12gensQTM": (54, 12),
        "cube_3/3/3_18gensHTM": (54, 18),
    }
    for name, expected in sizes.items():
        made = prepare_graph(name)
        assert (made.state_size, made.n_generators) == expected


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: P.lrx(2), "n must be at least 3, got 2"),
        (lambda: P.lrx(5, 5), "k must be between 1 and 4, got 5"),
        (lambda: P.lrx(5.0), "n must be an integer, got 5.0"),
        (lambda: P.top_spin(5, 6), "k must be between 2 and 5, got 6"),
        (lambda: P.cubic_pancake(7, 8), "subset must be between 1 and 7, got 8"),
        (lambda: P.involutive_derangements(5), "n must be even, got 5"),
        (lambda: P.koltsov3(5, 2, 2), "k must be between 0 and 1"),
        (lambda: P.koltsov3(5, 3), "perm_type must be between 1 and 2"),
        (lambda: P.sheveleva2(6, 4), "k must be between 1 and 3, got 4"),
        (lambda: P.square_with_whiskers(10), "n must be between 5 and 9, got 10"),
        (lambda: P.transposition_tree(4, [(0, 1), (1, 0), (2, 3)]), "closes a circle"),
        (lambda: P.transposition_tree(4, [(0, 1)]), "tree of 3 edges, got 1"),
        (lambda: P.transposition_tree(3, [(0, 3), (1, 2)]), "two different positions"),
        (lambda: P.conjugacy_classes(4, {}), "classes must not be empty"),
        (lambda: P.conjugacy_classes(4, {(2, 2): 9}), "between 1 and 3, got 9"),
        (lambda: MatrixGroups.heisenberg(n=2), "n must be at least 3, got 2"),
        (lambda: MatrixGroups.unitriangular(3, 1), "modulo must be between 2"),
        (lambda: prepare_graph("lrxx"), "no graph is called 'lrxx'; did you mean 'lrx'"),
        (lambda: prepare_graph("lrx", n=5, m=3), "arguments of 'lrx'"),
        (lambda: prepare_graph("lrx"), "arguments of 'lrx'"),
    ],
)
def test_bad_input_names_the_argument(call, message):
    with pytest.raises(CayleyError, match=message):
        call()


def test_generators_are_what_the_names_say():
    assert P.lrx(5, 2).generators == [[1, 2, 3, 4, 0], [4, 0, 1, 2, 3], [2, 1, 0, 3, 4]]
    blocks = dict(zip(P.transposons(4).generator_names, P.transposons(4).generators, strict=True))
    assert blocks["T[0..1,3]"] == [2, 3, 0, 1]
    swaps = P.block_interchange(5)
    assert swaps.n_generators == math.comb(7, 4)
    named = dict(zip(swaps.generator_names, swaps.generators, strict=True))
    assert named["I[0..1,3..4]"] == [3, 4, 2, 0, 1]
    assert P.signed_reversals(3).n_generators == 6
    turned = dict(
        zip(P.signed_reversals(3).generator_names, P.signed_reversals(3).generators, strict=True)
    )
    assert turned["R[0..1]"] == [4, 3, 2, 1, 0, 5]
    assert P.transposons(6).n_generators == 6 * 35 // 6
    assert len(P.derangements(5).generators) == 44
    assert isinstance(P.larx(4), CayleyGraphDef)
    involution, rest = P.sheveleva2(7, 2).generators
    assert involution == [1, 0, 2, 5, 4, 3, 6]
    assert rest == [0, 2, 3, 4, 1, 6, 5]
    assert (
        sum(1 for _ in itertools.combinations(range(5), 3))
        == P.increasing_k_cycles(5, 3).n_generators
    )
