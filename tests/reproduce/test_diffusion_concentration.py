"""The reproduction of concentration and universality of diffusion models."""

import numpy as np
import pytest
from rankone.reproduce import Settings
from rankone.reproduce import diffusion_concentration as module

TINY = {
    "tail_points": 300,
    "tail_steps": 5,
    "tail_hidden": 8,
    "digit_steps": 5,
    "digit_hidden": 8,
    "per_class": 40,
    "train_per_class": 25,
    "sizes": (5, 20),
    "seeds": 1,
    "jacobians": 2,
    "poincare_draws": 20,
}


@pytest.fixture(scope="module")
def reproduction():
    return module.run(Settings(progress=False, overrides=TINY))


@pytest.mark.parametrize(
    ("words", "count", "tolerance"),
    [
        ("gain on a Gaussian", 4, "± 1e-05"),
        ("second order", 2, "± 5"),
        ("heavy tails lost: 99.9 %", 1, "≤ 0.5"),
        ("heavy tails lost: kurtosis", 1, "≤ 0.2"),
        ("Gaussian control kept", 1, "± 0.125"),
        ("Poincare, digit", 6, "≤ 1.1"),
        ("largest gain of the sampler", 2, "≤ 5"),
        ("norms concentrate", 2, "≤ 1"),
        ("accuracy gap of data and twin", 2, "≤ 0.02"),
        ("gap of test losses", 2, "≤ 0.002"),
        ("largest condition number", 1, "≥ 500"),
        ("error of the best linear classifier", 1, "± 1e-07"),
        ("same classifier on the Gaussian twin", 1, "± 1e-07"),
        ("gap that the comparison finds", 1, "> 0.02"),
    ],
)
def test_every_claim_is_there_with_its_tolerance(reproduction, words, count, tolerance):
    claims = [claim for claim in reproduction.claims if words in claim.statement]
    assert [claim.tolerance for claim in claims] == [tolerance] * count


def test_there_are_no_other_claims(reproduction):
    assert len(reproduction.claims) == 27


def test_claims_without_training_hold_at_any_scale(reproduction):
    for words in ("gain on a Gaussian", "second order", "control:", "control, scale"):
        claims = [claim for claim in reproduction.claims if words in claim.statement]
        assert claims
        assert all(claim.passed for claim in claims)


def test_samples_of_the_user_are_reported(tmp_path):
    generator = np.random.default_rng(0)
    path = tmp_path / "samples.npz"
    np.savez(path, X=generator.standard_normal((60, 2, 2)), y=np.arange(60) % 2)
    gap = module._user_gap(Settings(data=path), module.Scale(**TINY))
    assert gap.n_train.unique().tolist() == [5]


def test_survival_curves_end_at_the_largest_point():
    norms, share = module._survival(np.arange(1.0, 1001.0))
    assert norms.max() == 1000
    assert share[norms.argmax()] == pytest.approx(1 / 1000)
    assert share[norms.argmin()] == pytest.approx(1)


def test_tables_and_figure(reproduction):
    gap, certificates = reproduction.tables
    assert [row[1] for row in gap.rows] == ["data", "twin"] * 2
    assert len(certificates.rows) == 2 * 4
    (figure,) = reproduction.figures
    assert len(figure.panels) == 3


def test_modes_have_the_published_scale():
    quick, full = module.QUICK, module.FULL
    assert (quick.tail_points, quick.tail_steps, quick.tail_hidden) == (20_000, 1500, 96)
    assert (quick.digit_hidden, quick.digit_steps, quick.per_class) == (256, 2500, 1500)
    assert (quick.sizes[-2:], quick.seeds, quick.train_per_class) == ((100, 300), 3, 700)
    assert (full.n_steps, full.s_churn, full.train_per_class) == (256, 40.0, 1024)
