"""The reproduction of horizon-free exploration at a tiny scale."""

import pytest
from joblib import parallel_config
from rankone.reproduce import Settings
from rankone.reproduce import horizon_free_exploration as module

TINY = {
    "depth": 2,
    "horizon": 4,
    "episodes": (3, 6),
    "seeds": 2,
    "horizons": (4, 6),
    "horizon_episodes": 4,
    "more_betas": (1.0,),
}


@pytest.fixture(scope="module")
def reproduction():
    return module.run(Settings(overrides=TINY, progress=False))


@pytest.mark.parametrize(
    ("words", "tolerance"),
    [
        ("over K, worst seed", "≥ 0.15"),
        ("uniform exploration, best seed", "≤ 0.06"),
        ("parameter error over", "≤ 0.8"),
        ("sub-optimality over that at K = 3", "≤ 0.5"),
        ("sub-optimality over that of uniform", "≤ 0.5"),
        ("H in {4, 6}: fewest probes", "≥ 0.1"),
        ("H in {4, 6}: mean sub-optimality", "≤ 0.035"),
        ("distance of theta*", "≤ 1"),
        ("hard instance", "± 1e-10 %"),
    ],
)
def test_every_claim_is_there_with_its_tolerance(reproduction, words, tolerance):
    claims = [claim for claim in reproduction.claims if words in claim.statement]
    assert tolerance in [claim.tolerance for claim in claims]


def test_there_are_no_other_claims(reproduction):
    assert len(reproduction.claims) == 9


def test_exact_claims_hold_at_any_scale(reproduction):
    held = [
        c.passed for c in reproduction.claims if "hard" in c.statement or "theta*" in c.statement
    ]
    assert held == [True, True]


def test_results_do_not_depend_on_jobs(reproduction):
    with parallel_config(backend="threading"):
        again = module.run(Settings(overrides=TINY, progress=False, n_jobs=2))
    assert [c.measured for c in again.claims] == [c.measured for c in reproduction.claims]


def test_tables_and_figure(reproduction):
    growth, horizons = reproduction.tables
    assert len(growth.rows) == 4
    assert [row[1] for row in horizons.rows] == [4, 6, 4, 6]
    (figure,) = reproduction.figures
    assert len(figure.panels) == 2


def test_modes_have_the_published_scale():
    quick, full = module.QUICK, module.FULL
    assert (quick.depth, quick.n_actions, quick.horizon) == (4, 3, 16)
    assert quick.episodes == (25, 50, 100, 200)
    assert {8, 32} <= set(quick.horizons)
    assert full.horizons == (8, 16, 32, 64, 128)
    assert (full.episodes[-1], full.seeds) == (2000, 20)
    assert {full.beta, *full.more_betas} == {0.1, 0.3, 1.0}
