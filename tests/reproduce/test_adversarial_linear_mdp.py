"""The reproduction of adversarial linear MDPs at a tiny scale."""

import pytest
from joblib import parallel_config
from rankone.reproduce import Settings
from rankone.reproduce import adversarial_linear_mdp as module

TINY = {
    "n_states": 3,
    "n_actions": 2,
    "n_features": 2,
    "horizon": 2,
    "episodes": (20, 40),
    "seeds": 2,
    "kinds": ("switch", "sinusoid"),
    "compared": 30,
    "many_actions": (3,),
    "many_seeds": 2,
    "epoch_length": 4,
    "covariances": ("empirical",),
}


@pytest.fixture(scope="module")
def reproduction():
    return module.run(Settings(overrides=TINY, progress=False))


@pytest.mark.parametrize(
    ("words", "tolerance"),
    [
        *((f"{kind} losses, log barrier: slope", "≤ 0.85") for kind in ("switch", "sinusoid")),
        *((f"{kind} losses, magnitude-reduced: slope", "≤ 0.8") for kind in ("switch", "sinusoid")),
        ("switch losses, K = 40: regret of magnitude-reduced", "< 1"),
        ("switch losses: slope of exponential weights less", "≥ 0.05"),
        ("log barrier: regret over that of uniform play", "≤ 0.8"),
        ("magnitude-reduced: regret over that of uniform play", "≤ 0.8"),
        ("exponential weights: regret over that of uniform play", "≤ 0.8"),
        ("without a simulator", "≤ 0.9"),
        ("most negative reduced estimate", "≤ 1"),
        ("A = 3, K = 30", "< 1"),
    ],
)
def test_every_claim_is_there_with_its_tolerance(reproduction, words, tolerance):
    claims = [claim for claim in reproduction.claims if words in claim.statement]
    assert tolerance in [claim.tolerance for claim in claims]


def test_there_are_no_other_claims(reproduction):
    assert len(reproduction.claims) == 14


def test_bound_of_the_estimates_holds_at_any_scale(reproduction):
    (claim,) = [c for c in reproduction.claims if "most negative" in c.statement]
    assert claim.passed


def test_results_do_not_depend_on_jobs(reproduction):
    with parallel_config(backend="threading"):
        again = module.run(Settings(overrides=TINY, progress=False, n_jobs=2))
    assert [c.measured for c in again.claims] == [c.measured for c in reproduction.claims]


def test_tables_and_figure(reproduction):
    switch, sinusoid, compared = reproduction.tables
    assert len(switch.rows) == len(sinusoid.rows) == 3
    assert [row[0] for row in compared.rows][:2] == ["uniform play", "log barrier"]
    assert len(compared.rows) == 8
    (figure,) = reproduction.figures
    assert len(figure.panels) == 2


def test_modes_have_the_published_scale():
    assert module.QUICK.episodes == (500, 1000, 2000, 4000)
    assert (module.QUICK.compared, module.QUICK.epoch_length) == (2000, 20)
    assert module.FULL.episodes[-1] == 64000
    assert module.FULL.kinds == ("switch", "sinusoid")
    assert module.FULL.many_actions == (16, 64)
