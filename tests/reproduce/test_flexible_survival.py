"""The reproduction of flexible survival regression."""

import numpy as np
import pytest
from rankone.reproduce import Settings
from rankone.reproduce import flexible_survival as module

pytest.importorskip("lifelines")
pytest.importorskip("sksurv")


@pytest.fixture(scope="module")
def reproduction():
    return module.run(Settings(progress=False, overrides={"repeats": 1}))


@pytest.mark.parametrize(
    ("words", "count", "tolerance"),
    [
        ("log-likelihood against lifelines", 2, "≤ 1e-06"),
        ("kappa free", 4, None),
        ("veterans, Karnofsky score, aft: log-likelihood", 1, "± 0.01"),
        ("veterans, cell type, both: log-likelihood", 1, "± 0.01"),
        ("veterans, treatment, both+shape: log-likelihood", 1, "≥ -744"),
        ("AIC of aft less that of aft+shape", 2, "> 0"),
        ("AIC of ph less that of ph+shape", 2, "> 0"),
        ("aft+shape against ph+shape", 3, "< 2.1"),
        ("AIC that a second scale adds", 3, "> 0"),
        ("Karnofsky score, aft+shape: log_", 5, None),
        ("standard error of the log_gamma slope", 1, "± 1e-05"),
        ("breast cancer by grade", 4, "± 0.01"),
        ("breast cancer, ph: cured share", 3, "± 0.002"),
        ("log-likelihood of aft above that of ph", 1, "> 5"),
        ("automatic baseline, a cure form", 1, "< 0"),
        ("largest |bias|", 2, "≤ 0.06"),
        ("least coverage", 2, "≥ 0.85"),
        ("cure, kappa = -0.5", 1, "± 0.02"),
        ("median |correlation|", 1, "> 0.99"),
        ("median likelihood ratio of the second", 1, "< 2"),
        ("mean AIC gain", 1, "± 10"),
        ("least AIC gain", 1, "> 0"),
        ("do not cross", 1, "≤ 2"),
        ("mean kappa", 3, None),
        ("median kappa", 1, "> 10"),
    ],
)
def test_every_claim_is_there_with_its_tolerance(reproduction, words, count, tolerance):
    claims = [claim for claim in reproduction.claims if words in claim.statement]
    assert len(claims) == count
    if tolerance is not None:
        assert {claim.tolerance for claim in claims} == {tolerance}


def test_claims_about_the_trials_hold_at_any_scale(reproduction):
    trials = [
        claim
        for claim in reproduction.claims
        if claim.statement.startswith(("kappa", "veterans", "breast", "log-likelihood"))
    ]
    assert len(trials) > 45
    assert all(claim.passed for claim in trials), [c for c in trials if not c.passed]


def test_a_setting_draws_its_own_law():
    setting = module.Setting(1.0, (0.5, 0.0), (0.0, 0.0), 20_000, None)
    X, y = setting.draw(np.random.default_rng(0))
    assert y["event"].all()
    assert set(X.ravel()) == {0.0, 1.0}
    # kappa = gamma = 1 is exponential of rate phi.
    assert y["time"].mean() == pytest.approx(np.exp(-0.5), rel=4 / np.sqrt(20_000))
    censored = module.Setting(1.0, (0.0, 0.0), (0.0, 0.0), 20_000, module._exponential(1.0)).draw(
        np.random.default_rng(0)
    )[1]
    assert censored["event"].mean() == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(20_000))


def test_tables_and_figure(reproduction):
    veterans, breast, recovery = reproduction.tables
    assert len(veterans.rows) == 3 * 6
    assert [row[0] for row in breast.rows] == [
        "no covariate", "aft", "ph", "aft+shape", "ph+shape", "both"
    ]  # fmt: skip
    assert len(recovery.rows) == 2
    (figure,) = reproduction.figures
    assert len(figure.panels) == 4


def test_modes_have_the_published_scale():
    assert module.QUICK.repeats == 20
    assert module.FULL.repeats == 500
    assert set(module.FULL.recovery_sizes) == {100, 500, 1000}
