"""The reproduction of least squares from repelling points at a tiny scale."""

import pytest
from joblib import parallel_config
from rankone.reproduce import Settings
from rankone.reproduce import dpp_least_squares as module

TINY = {
    "n_functions": 4,
    "designs": 60,
    "search": (1, 2, 4),
    "pool_designs": 30,
    "more_functions": (3,),
    "degree_2d": 1,
    "order": 1,
    "more_ratios": (2,),
    "conditioned": 3,
}


@pytest.fixture(scope="module")
def reproduction():
    return module.run(Settings(overrides=TINY, progress=False))


def only(reproduction, words):
    (claim,) = [claim for claim in reproduction.claims if words in claim.statement]
    return claim


@pytest.mark.parametrize(
    ("words", "tolerance"),
    [
        *((f"{what} of lambda, n = {n}: i.i.d., volume, repeated DPP", "each above the last")
          for what in ("5 % quantile", "median") for n in (8, 16)),
        *((f"n = {n}: repeated DPP over volume", "≥ 1.3") for n in (8, 16)),
        *((f"n = {n}: volume over i.i.d.", "≥ 1.1") for n in (8, 16)),
        ("n = 16: repeated DPP", "≥ 0.6"),
        ("n = 16: volume", "≤ 0.3"),
        ("n = 16: i.i.d.", "≤ 0.3"),
        ("mean of tr(G^-1) / m", "± 5 %"),
        ("repeated DPP, worst of three functions", "≤ 1.65"),
        ("i.i.d., best of three functions", "≥ 2.5"),
        ("at least one half: repeated DPP", "≤ 16"),
        ("at least one half: i.i.d.", "≥ 28"),
        ("diabetes pool, 22 labels", "each above the last"),
    ],
)  # fmt: skip
def test_every_claim_is_there_with_its_tolerance(reproduction, words, tolerance):
    claims = [claim for claim in reproduction.claims if words in claim.statement]
    assert tolerance in [claim.tolerance for claim in claims]


def test_there_are_no_other_claims(reproduction):
    assert len(reproduction.claims) == 17


def test_search_counts_further_than_the_last_when_none_is_enough():
    scale = module.Scale(**{**TINY, "n_functions": 10, "search": (1, 2)})
    needed = module._points_needed(Settings(progress=False), scale, module.LegendreBasis(9))
    assert needed["iid"][0] == 30


def test_results_do_not_depend_on_jobs():
    with parallel_config(backend="threading"):
        one, two = (
            module._pool(Settings(progress=False), module.Scale(pool_designs=5, n_jobs=n_jobs))
            for n_jobs in (1, 2)
        )
    for method in module.METHODS:
        assert one[method].tolist() == two[method].tolist()


def test_tables_and_figure(reproduction):
    stability, pool, more, conditioned = reproduction.tables
    assert [row[:2] for row in stability.rows[:3]] == [
        (4, "i.i.d."), (4, "volume"), (4, "repeated DPP")
    ]  # fmt: skip
    assert len(pool.rows) == 3
    assert len(more.rows) == 9
    assert len(conditioned.rows) == 12
    assert all(row[3] <= 16 for row in conditioned.rows)
    (figure,) = reproduction.figures
    assert len(figure.panels) == 2


def test_modes_have_the_published_scale():
    quick, full = module.QUICK, module.FULL
    assert (quick.n_functions, quick.ratios, quick.designs) == (10, (1, 2, 4), 300)
    assert quick.search[-1] * quick.n_functions == 140
    assert quick.pool_designs == 200
    assert {full.n_functions, *full.more_functions} == {5, 10, 20, 40}
    assert module.LegendreBasis(full.degree_2d, 2).n_functions == 45
    assert (full.designs, full.more_ratios) == (2000, tuple(range(1, 11)))
