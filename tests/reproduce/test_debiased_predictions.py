"""The reproduction of debiased predictions at a tiny scale."""

import pytest
from joblib import parallel_config
from rankone.reproduce import Settings
from rankone.reproduce import debiased_predictions as module

TINY = {
    "calibration": 150,
    "map_units": 600,
    "trial_units": 600,
    "repetitions": 2,
    "train": 150,
    "trials": 5,
    "contrasts": 4,
    "sizes": (120,),
    "coverage_trials": 2,
}


@pytest.fixture(scope="module")
def reproduction():
    return module.run(Settings(overrides=TINY, progress=False))


@pytest.mark.parametrize(
    ("words", "tolerance"),
    [
        ("skew predictions, estimated over true effect: naive", "< 0.45"),
        ("skew predictions, estimated over true effect: LCC", "± 0.1"),
        ("Scott's bandwidth", "≥ 0.72"),
        ("mixture score of the map", "± 0.1"),
        ("lowest Tweedie variant", "≥ 0.95"),
        ("highest Tweedie variant", "≤ 1.05"),
        ("diffusion bandwidth", "± 0.06"),
        ("three modes, estimated over true effect: mixture score", "± 0.06"),
        ("three modes, estimated over true effect: kde with Scott", "< 0.92"),
        *((f"{name}: slope of naive", "< 0.75") for name in ("boosting", "forest", "ridge")),
        *((f"{name}: slope of Tweedie", "± 0.175") for name in ("boosting", "forest", "ridge")),
        *((f"{name}: RMSE of Tweedie over that of LCC", "< 1") for name in ("boosting", "ridge")),
        *((f"{name}: RMSE of Tweedie over naive", "< 0.85") for name in ("boosting", "forest")),
        *((f"{name}: RMSE of Tweedie, without", "≤ 1.5") for name in ("forest", "ridge")),
        ("spreading noise: slope of Tweedie in windowed", "> 1.08"),
        ("two groups: the same", "< 1.05"),
    ],
)
def test_every_claim_is_there_with_its_tolerance(reproduction, words, tolerance):
    claims = [claim for claim in reproduction.claims if words in claim.statement]
    assert tolerance in [claim.tolerance for claim in claims]


def test_there_are_no_other_claims(reproduction):
    assert len(reproduction.claims) == 9 + 15 + 2


def test_results_do_not_depend_on_jobs(reproduction):
    with parallel_config(backend="threading"):
        again = module.run(Settings(overrides=TINY, progress=False, n_jobs=2))
    assert [c.measured for c in again.claims] == [c.measured for c in reproduction.claims]


def test_tables_and_figure(reproduction):
    exact, groups, noise, sizes, coverage = reproduction.tables
    assert len(exact.rows) == 9
    assert len(groups.rows) == len(noise.rows) == 3
    assert (len(sizes.rows), len(coverage.rows)) == (1, 2)
    (figure,) = reproduction.figures
    assert len(figure.panels) == 4


def test_modes_have_the_published_scale():
    quick, full = module.QUICK, module.FULL
    assert (quick.calibration, quick.map_units, quick.trial_units) == (1000, 20_000, 100_000)
    assert (quick.train, quick.trials) == (3000, 300)
    assert (full.map_units, full.repetitions, full.coverage_trials) == (1_000_000, 100, 200)
    assert (full.sizes[0], full.sizes[-1]) == (100, 10_000)
