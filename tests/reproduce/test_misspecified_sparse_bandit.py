"""The reproduction of sparse misspecified bandits at a tiny scale."""

import pytest
from joblib import parallel_config
from rankone.reproduce import Settings
from rankone.reproduce import misspecified_sparse_bandit as module

TINY = {
    "spread_dims": (4, 9),
    "random_arms": 60,
    "random_dim": 6,
    "random_epsilons": (0.2,),
    "random_seeds": 2,
    "code_runs": 1,
    "recovery_arms": 100,
    "recovery_dim": 30,
    "recovery_seeds": 2,
}


@pytest.fixture(scope="module")
def reproduction():
    return module.run(Settings(overrides=TINY, progress=False))


@pytest.mark.parametrize(
    ("words", "tolerance"),
    [
        ("s = 1, d = 4: loss / epsilon", "± 1e-07 %"),
        ("s = 1, d = 9: loss / epsilon", "± 1e-07 %"),
        ("s = 2: loss / epsilon grows", "each above the last"),
        ("elimination, spread instances", "≤ 4"),
        ("elimination, random instances: largest loss", "≤ 4"),
        ("most queries over the size of the net", "≤ 0.01"),
        ("share of runs that find the best arm", "exact"),
        ("mean queries with a random best arm", "± 104"),
        ("l1 recovery", "≤ 4"),
        ("least squares of smallest norm", "> 0"),
    ],
)
def test_every_claim_is_there_with_its_tolerance(reproduction, words, tolerance):
    claims = [claim for claim in reproduction.claims if words in claim.statement]
    assert tolerance in [claim.tolerance for claim in claims]


def test_there_are_no_other_claims(reproduction):
    assert len(reproduction.claims) == 10


def test_exact_claims_hold_at_any_scale(reproduction):
    held = {claim.statement: claim.passed for claim in reproduction.claims}
    assert all(passed for statement, passed in held.items() if "dense design" in statement)
    assert held["E8 instance: share of runs that find the best arm"]


def test_results_do_not_depend_on_jobs(reproduction):
    with parallel_config(backend="threading"):
        again = module.run(Settings(overrides=TINY, progress=False, n_jobs=2))
    assert [c.measured for c in again.claims] == [c.measured for c in reproduction.claims]


def test_tables_and_figure(reproduction):
    spread, random, recovery = reproduction.tables
    assert [row[:2] for row in spread.rows] == [(1, 4), (1, 9), (2, 4), (2, 9)]
    assert len(random.rows) == len(recovery.rows) == 1
    (figure,) = reproduction.figures
    assert len(figure.panels) == 2


def test_modes_have_the_published_scale():
    assert module.QUICK.spread_dims == (16, 36, 64)
    assert (module.QUICK.code_runs, module.FULL.code_runs) == (12, 100)
    assert module.FULL.spread_dims[-1] == 100
    assert module.FULL.recovery_sparsity[-1] == 8
