"""The reproduction of attack detection at a tiny scale."""

import pytest
from joblib import parallel_config
from rankone.reproduce import Settings
from rankone.reproduce import attack_detection as module

TINY = {
    "n_steps": 200,
    "attack_start": 100,
    "seeds": 2,
    "further_seeds": 1,
    "biases": (0.5,),
    "kinds": ("ramp", "replay"),
    "process_stds": (0.002,),
    "windows": (60,),
    "blocks": (5.0,),
    "repetitions": 3,
    "length": 60,
    "n_bootstrap": 99,
}


@pytest.fixture(scope="module")
def reproduction():
    return module.run(Settings(overrides=TINY, progress=False))


@pytest.mark.parametrize(
    ("words", "tolerance"),
    [
        ("linear observer corrupted", "≥ 10"),
        ("quadratic observer unaffected", "≤ 0.005"),
        ("that error over the linear observer's", "≤ 0.01"),
        ("projection helps", "≤ 1"),
        ("largest delay of an alarm", "≤ 100"),
        ("false alarms without attack", "≤ 0.05"),
        ("coefficient 0.8, level 0.05: rejections, wild l=20", "≤ 0.25"),
        ("coefficient 0.8, level 0.05: rejections, permutation", "≥ 0.4"),
        ("coefficient 0.8, level 0.05: rejections, wild l=1", "≥ 0.35"),
        ("independent samples", "≤ 0.1"),
        ("limit (process noise 0.05)", "≥ 1"),
    ],
)
def test_every_claim_is_there_with_its_tolerance(reproduction, words, tolerance):
    claims = [claim for claim in reproduction.claims if words in claim.statement]
    assert tolerance in [claim.tolerance for claim in claims]


def test_there_are_no_other_claims(reproduction):
    assert len(reproduction.claims) == 11


def test_claims_of_the_observers_hold_at_any_scale(reproduction):
    for claim in reproduction.claims[:3]:
        assert claim.passed, claim


def test_results_do_not_depend_on_jobs(reproduction):
    with parallel_config(backend="threading"):
        again = module.run(Settings(overrides=TINY, progress=False, n_jobs=2))
    assert [c.measured for c in again.claims] == [c.measured for c in reproduction.claims]


def test_tables_and_figure(reproduction):
    errors, attacks, detector, noise, levels = reproduction.tables
    assert len(errors.rows) == 4
    assert [row[:2] for row in attacks.rows] == [
        ("step", 1.0),
        ("step", 0.5),
        ("ramp", 1.0),
        ("replay", None),
    ]
    assert [row[0] for row in detector.rows] == [
        "window 60",
        "block 5.0",
        "alpha 0.05",
        "observer Kalman",
    ]
    assert [row[0] for row in noise.rows] == [0.002]
    assert len(levels.rows) == 2
    (figure,) = reproduction.figures
    assert len(figure.panels) == 3


def test_modes_have_the_published_scale():
    for scale in (module.QUICK, module.FULL):
        assert (scale.n_steps, scale.attack_start, scale.length) == (400, 200, 200)
    assert (module.QUICK.seeds, module.QUICK.repetitions) == (8, 120)
    full = module.FULL
    assert (full.seeds, full.kinds) == (200, ("ramp", "replay"))
    assert (full.biases[0], full.biases[-1]) == (0.1, 1.0)
    assert (full.process_stds[0], full.process_stds[-1]) == (0.0005, 0.05)
    assert (full.windows[0], full.windows[-1]) == (60, 160)
    assert (full.blocks[0], full.blocks[-1]) == (5.0, 40.0)
