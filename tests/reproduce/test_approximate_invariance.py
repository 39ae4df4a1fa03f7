"""The reproduction of approximate invariance at a tiny scale."""

import pytest
from joblib import parallel_config
from rankone.reproduce import Settings
from rankone.reproduce import approximate_invariance as module

TINY = {
    "features": (4, 6),
    "repetitions": 2,
    "large": 6,
    "large_repetitions": 1,
    "environments": (1, 2, 3),
    "test": 20,
    "linear_features": (4,),
    "linear_repetitions": 1,
    "linear_environments": (1, 2),
    "all_features": (4,),
    "rows": 60,
    "row_repetitions": 1,
    "epsilons": (0.1,),
    "row_sizes": (40,),
}


WHAT = "unseen interventions violated"


@pytest.fixture(scope="module")
def reproduction():
    return module.run(Settings(overrides=TINY, progress=False))


@pytest.mark.parametrize(
    ("words", "tolerance"),
    [
        *((f"p = {p}, pooled: share of {WHAT}, n = 1", "≥ 0.6") for p in (4, 6)),
        *((f"p = {p}, pooled: share of {WHAT}, n = 2", "≤ 0.05") for p in (4, 6)),
        *((f"p = {p}, pooled: share of {WHAT}, n = 2, eps", "≤ 0.08") for p in (4, 6)),
        ("difference of the rates at p = 4 and p = 6", "< 0.05"),
        ("least squares on all features", "≥ 0.6"),
        ("exceeds the certificate", "≤ 0.05"),
        ("worst over mean risk on unseen interventions, n = 2", "≥ 1.5"),
        ("linear through a mixing, p = 4: share violated, n = 1", "≤ 0.15"),
        ("linear through a mixing, p = 4: share violated, n = 2", "≤ 0.03"),
        ("linear through a mixing, p = 4: risk over", "< 0.85"),
        ("from rows", "exact"),
    ],
)  # fmt: skip
def test_every_claim_is_there_with_its_tolerance(reproduction, words, tolerance):
    claims = [claim for claim in reproduction.claims if words in claim.statement]
    assert tolerance in [claim.tolerance for claim in claims]


def test_there_are_no_other_claims(reproduction):
    assert len(reproduction.claims) == 6 + 1 + 1 + 1 + 2 + 3 + 1


def test_results_do_not_depend_on_jobs(reproduction):
    with parallel_config(backend="threading"):
        again = module.run(Settings(overrides=TINY, progress=False, n_jobs=2))
    assert [c.measured for c in again.claims] == [c.measured for c in reproduction.claims]


def test_tables_and_figure(reproduction):
    rates, linear, epsilons, rows = reproduction.tables
    assert [row[:2] for row in rates.rows[:3]] == [
        (4, "pooled"), (4, "observational"), (4, "certificate")
    ]  # fmt: skip
    assert (len(linear.rows), len(epsilons.rows), len(rows.rows)) == (2, 1, 2)
    (figure,) = reproduction.figures
    assert len(figure.panels) == 2


def test_many_features_are_screened_to_those_of_all_subsets():
    sem = module._model(0, 40)
    moments = module.stack_moments([sem, sem])
    screened, reference, test = module._screen(moments, sem.moments(), moments)
    assert screened[0].shape == test[0].shape == (2, 24, 24)
    assert reference[0].shape == (24, 24)


def test_modes_have_the_published_scale():
    quick, full = module.QUICK, module.FULL
    assert quick.environments == full.environments == (1, 2, 4, 8, 16)
    assert {6, 12} <= set(quick.features)
    assert full.features[-1] == 200
    assert (full.repetitions, quick.rows) == (200, 3000)
    assert (full.row_sizes[0], full.row_sizes[-1]) == (100, 100_000)
