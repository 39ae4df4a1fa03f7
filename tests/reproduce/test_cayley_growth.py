"""The reproduction of CayleyPy Growth at a tiny scale: every claim, table and figure."""

import math

import pytest
from rankone.catalog import method
from rankone.cayley import CayleyGraph, PermutationGroups
from rankone.reproduce import Settings, run_one
from rankone.reproduce import cayley_growth as module

TINY = {
    "lrx": (4, 5, 6, 7),
    "unique_farthest": (5, 6),
    "lx": tuple(range(3, 10)),
    "bound_n": 5,
    "bound_edges": 2000,
    "whiskers": (5,),
    "unitriangular_3": (11, 13),
    "unitriangular_4": (7,),
    "gaussian": (8, 10),
    "lrx_shape": (7, 8),
    "speed_n": 6,
    "speed_repeats": 1,
    "beam_n": 6,
    "beam_states": 3,
    "beam_width": 20,
    "beam_steps": 30,
    "walk_length": 8,
    "hidden": (8,),
}


@pytest.fixture(scope="module")
def reproduction():
    return run_one(method("cayley-growth"), Settings(overrides=TINY, progress=False))


def only(reproduction, words):
    (claim,) = [claim for claim in reproduction.claims if words in claim.statement]
    return claim


@pytest.mark.parametrize(
    ("words", "tolerance"),
    [
        ("diameter of LRX, n = 4 to 7", "exact"),
        ("farthest element of LRX", "exact"),
        ("diameter of LX, n = 5 to 9", "exact"),
        ("exact fit of the diameters of LX, n = 3 to 9", "exact"),
        ("exact fit of the diameters of LRX, n = 3 to 7", "exact"),
        ("above n^2/2 + 4n", "exact"),
        ("square with whiskers, n = 5", "exact"),
        ("diameter of UT_3(Z/p), p = 11, 13", "exact"),
        ("diameter of UT_4(Z/p), p = 7", "exact"),
        ("Coxeter growth, n = 8: Kolmogorov", "± 0.0005"),
        ("Coxeter growth, n = 10: Kolmogorov", "± 0.0005"),
        ("LRX growth, n = 7: Kolmogorov", "≤ 0.05"),
        ("LRX growth, n = 8: Kolmogorov", "≤ 0.05"),
        ("LRX growth, n = 7: skewness", "± 0.03"),
        ("LRX growth, n = 8: skewness", "± 0.03"),
        ("graphs of 12 on which the engines", "exact"),
        ("the engine bitarray", "≥ 10"),
        ("the engine hash", "≥ 2.5"),
        ("found by the learned distance", "≥ 19"),
        ("mean length over mean exact distance", "≤ 1.05"),
        ("found by the Hamming distance", "≤ 3"),
    ],
)
def test_every_claim_is_there_with_its_tolerance(reproduction, words, tolerance):
    assert only(reproduction, words).tolerance == tolerance


def test_there_are_no_other_claims(reproduction):
    assert len(reproduction.claims) == 21


@pytest.mark.parametrize(
    "words",
    [
        "diameter of LRX",
        "farthest element",
        "diameter of LX",
        "fit of the diameters of LRX",
        "above n^2/2",
        "square with whiskers",
        "UT_3",
        "Coxeter growth",
        "graphs of 12",
    ],
)
def test_exact_claims_hold_at_any_scale(reproduction, words):
    claims = [claim for claim in reproduction.claims if words in claim.statement]
    assert claims
    assert all(claim.passed for claim in claims), claims


def test_a_table_that_is_too_short_for_a_fit_is_no_fit(reproduction):
    """LX needs four values of each parity from n = 5 on."""
    claim = only(reproduction, "fit of the diameters of LX")
    assert not claim.passed


def test_the_fit_holds_on_the_diameters_of_the_quick_mode():
    diameters = (2, 6, 11, 18, 25, 35, 45, 58, 71, 87)
    fit = module.fit_quasi_polynomial(module.QUICK.lx, diameters)
    assert (fit.period, fit.degree, fit.n_min) == (2, 2, 5)
    assert all(fit(n) == module._lx_formula(n) for n in range(5, 40))


def test_too_few_solutions_do_not_pass(reproduction):
    assert not only(reproduction, "found by the learned distance").passed
    assert not reproduction.passed


def test_inversions_are_the_growth_of_the_coxeter_graph():
    graph = CayleyGraph(PermutationGroups.coxeter(6), device="cpu")
    assert module._inversions(6) == graph.growth()


def test_all_graphs_under_the_bound_are_inverse_closed_and_named():
    for n in range(4, 9):
        definitions = module._closed_families(n)
        names = [definition.name for definition in definitions]
        assert len(set(names)) == len(names) > 20
        assert all(definition.generators_inverse_closed for definition in definitions)
        assert all(definition.state_size == n for definition in definitions)


def test_every_engine_takes_part(reproduction):
    graph = CayleyGraph(PermutationGroups.lrx(7), device="cpu")
    assert module._engines_of(graph) == ["hash", "bitarray", "external"]
    assert len(module._agreement_graphs()) == 12


def test_tables_and_figures(reproduction):
    searches, engines, beams = reproduction.tables
    assert searches.rows[0][:3] == ("lx-9", math.factorial(9), 45)
    assert [row[0] for row in engines.rows] == ["bitarray", "hash", "external", "torch"]
    assert [row[0] for row in beams.rows] == ["trained on random walks", "Hamming distance"]
    (figure,) = reproduction.figures
    assert len(figure.panels) == 2
    for words in ("LRX", "square with whiskers", "n²/2 + 4n"):
        assert words in figure.panels[0]
    assert "normal density" in figure.panels[1]


def test_modes_have_the_published_scale():
    quick, full, cuda = module.QUICK, module.FULL_CPU, module.FULL_CUDA
    assert quick.lrx == tuple(range(4, 12))
    assert quick.lx == tuple(range(3, 13))
    assert quick.unitriangular_3 == (11, 13, 17, 19, 23, 29, 31, 37)
    assert (quick.speed_n, quick.bitarray_ratio, quick.hash_ratio) == (10, 10.0, 2.5)
    assert (full.speed_n, full.bitarray_ratio, full.hash_ratio) == (11, 25.0, 3.5)
    assert (quick.beam_n, quick.beam_width, quick.walk_length, quick.hidden) == (
        10, 300, 48, (128, 64)
    )  # fmt: skip
    assert full.lrx[-1] == 13
    assert quick.whiskers == full.whiskers == (5, 6, 7)
    assert full.unitriangular_4 == (11, 13)
    assert cuda.lx[-1] == 14
