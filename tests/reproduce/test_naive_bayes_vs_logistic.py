"""The reproduction of generative against discriminative classifiers."""

import numpy as np
import pytest
from rankone.reproduce import Settings
from rankone.reproduce import naive_bayes_vs_logistic as module

TINY = {
    "features": (20, 40),
    "seeds": (0,),
    "repeats": (2, 1),
    "n_test": 500,
    "feature_seeds": (0,),
    "train_sizes": (20, 60),
    "curve_repeats": 1,
    "points": 500,
}


@pytest.fixture(scope="module")
def reproduction():
    return module.run(Settings(progress=False, overrides=TINY))


@pytest.mark.parametrize(
    ("words", "tolerance"),
    [
        ("grow linearly", "± 0.3"),
        ("hardly grow", "≤ 0.3"),
        ("over naive Bayes at n = 40", "≥ 30"),
        ("naive Bayes errs less by, at 20", "≥ 0.02"),
        ("logistic regression errs less by, at 60", "≥ 0.005"),
        ("curves cross between 40 and 400", "± 180"),
        ("T(gap) exceeds", "exact"),
    ],
)
def test_every_claim_is_there_with_its_tolerance(reproduction, words, tolerance):
    (claim,) = [claim for claim in reproduction.claims if words in claim.statement]
    assert claim.tolerance == tolerance


def test_there_are_no_other_claims(reproduction):
    assert len(reproduction.claims) == 7


def test_the_bound_holds_at_any_scale(reproduction):
    assert reproduction.claims[-1].passed


def test_tables_and_figure(reproduction):
    complexity, curves = reproduction.tables
    assert complexity.columns[3:] == ("n = 20", "n = 40")
    assert len(complexity.rows) == 2
    assert len(curves.rows) == 2
    (figure,) = reproduction.figures
    assert len(figure.panels) == 2


def test_an_unreached_target_fails_its_claims():
    needed = {(side, 2, n, 0): None for side in module._SIDES for n in (20, 40)}
    claims = module._complexity_claims(module.Scale(**TINY), needed)
    assert not any(claim.passed for claim in claims)


def test_features_may_come_from_a_file(tmp_path):
    generator = np.random.default_rng(0)
    path = tmp_path / "features.npz"
    np.savez(path, X=generator.standard_normal((90, 3)), y=np.arange(90) % 2)
    X, y = module._features(path, 0)
    assert X.shape == (90, 3)
    assert set(y) == {0, 1}


def test_modes_have_the_published_scale():
    quick, full = module.QUICK, module.FULL
    assert quick.features == (50, 100, 200, 400)
    assert (quick.seeds, quick.feature_seeds) == ((0, 1), (0, 1, 2))
    assert quick.repeats == (20, 3)
    assert quick.train_sizes == (20, 30, 50, 100, 200, 400, 790)
    assert full.classes == (2, 3, 5, 7)
    assert full.features == (100, 200, 400, 1000)
    assert full.thorough
    assert module._sizes(full, module.GENERATIVE, 100, 2) is None
