"""The reproduction of Rep4Ex at a tiny scale."""

import math

import numpy as np
import pytest
from joblib import parallel_config
from rankone.reproduce import Settings
from rankone.reproduce import rep4ex as module

TINY = {
    "rows": 260,
    "epochs": 2,
    "sizes": ((2, 2, 10), (4, 5, 8)),
    "confoundings": (0.0, 1.0),
    "regs": (10.0,),
    "seeds": 1,
    "fresh": 60,
    "permutations": 9,
    "draws": 500,
    "regression_epochs": 2,
    "network_epochs": 3,
}

# Two epochs learn nothing, and the estimators say so.
pytestmark = [
    pytest.mark.filterwarnings("ignore:A hardly moves"),
    pytest.mark.filterwarnings("ignore:Stochastic Optimizer"),
]


def tiny_run(**options):
    return module.run(Settings(overrides=TINY, progress=False, **options))


@pytest.fixture(scope="module")
def reproduction():
    return tiny_run()


@pytest.mark.parametrize(
    ("words", "tolerance"),
    [
        ("reg = 30, smallest of the seeds", "≥ 0.92"),
        ("less that of reg = 0", "≥ 0.1"),
        ("network of Y on A, largest", "< 0.75"),
        ("no control function", "< 0.6"),
        ("autoencoder without penalty", "< 0.5"),
        ("true states, control function", "< 1.6"),
        ("reg = 0: largest p", "≤ 0.02"),
        ("reg = 30: smallest p", "≥ 0.01"),
        ("true states: smallest p", "≥ 0.01"),
    ],
)
def test_every_claim_is_there_with_its_tolerance(reproduction, words, tolerance):
    (claim,) = [claim for claim in reproduction.claims if words in claim.statement]
    assert claim.tolerance == tolerance


def test_there_are_no_other_claims(reproduction):
    assert len(reproduction.claims) == 9


def test_results_do_not_depend_on_jobs(reproduction):
    with parallel_config(backend="threading"):
        again = tiny_run(n_jobs=2)
    assert [c.measured for c in again.claims] == [c.measured for c in reproduction.claims]


def test_tables_and_figures(reproduction):
    main, curved, sizes = reproduction.tables
    assert len(main.rows) == 3 + 2 * 7 + 3
    assert len(curved.columns) == 3
    assert [row[:2] for row in sizes.rows] == [
        ("2, 2, 10", 0.0), ("2, 2, 10", 1.0), ("4, 5, 8", 0.0), ("4, 5, 8", 1.0),
    ]  # fmt: skip
    assert [len(figure.panels) for figure in reproduction.figures] == [2, 2]


def test_world_has_its_moments():
    world = module.World(2, 2, 10, curvature=0.0, confounding=1.0, seed=0)
    data = world.draw(100_000, 0)
    design = np.column_stack([np.ones(100_000), data["A"]])
    fit, *_ = np.linalg.lstsq(design, data["Z"], rcond=None)
    assert np.allclose(fit, [[0, 0], [1.2, -0.4], [0.4, 1.2]], atol=0.02)
    V = data["Z"] - design @ fit
    assert np.allclose(np.cov(V.T), [[0.6, 0.2], [0.2, 0.6]], atol=0.015)
    noise = data["Y"] - world.outcome(data["Z"])
    assert abs(noise.mean()) < 5 * noise.std() / math.sqrt(100_000)
    assert np.corrcoef(noise, V[:, 0])[0, 1] > 0.5


def test_features_are_the_documented_injection_and_can_be_undone():
    world = module.World(2, 2, 10, curvature=0.0, confounding=1.0, seed=1)
    Z = world.draw(50, 0)["Z"]
    rng = np.random.default_rng(1001)
    inner = np.linalg.qr(rng.normal(size=(10, 2))).Q
    outer = np.linalg.qr(rng.normal(size=(10, 10))).Q
    hidden = world.features(Z) @ outer.T
    first, second = (np.where(hidden < 0, hidden / 0.3, hidden) @ inner / math.sqrt(5)).T
    z2 = second - 0.35 * np.sin(1.5 * first)
    assert np.allclose(np.column_stack([first - 0.45 * z2**2, z2]), Z)


def test_truth_is_spread_as_documented():
    world = module.World(2, 2, 10, curvature=0.0, confounding=1.0, seed=0)
    actions = world.test_actions()
    outside = np.abs(actions).max(axis=1) > 1
    assert actions.shape == (60, 2)
    assert outside.sum() == 4 * 6
    assert math.isclose(world.truth(actions, 40_000)[outside].std(), 1.46, abs_tol=0.02)


def test_modes_have_the_published_scale():
    assert (module.QUICK.rows, module.QUICK.epochs, module.QUICK.seeds) == (5000, 60, 2)
    assert (module.FULL.rows, module.FULL.epochs, module.FULL.seeds) == (20_000, 300, 10)
    assert {size[0] for size in module.FULL.sizes} == {2, 4}
    assert {size[1] - size[0] if size[1] != 10 else 10 for size in module.FULL.sizes} == {0, 10}
    assert all(size[2] == 20 for size in module.FULL.sizes)
    assert (module.QUICK.regression_epochs, module.QUICK.draws) == (60, 40_000)
    assert module.FULL.confoundings == (0.0, 0.5, 1.0, 2.0)
