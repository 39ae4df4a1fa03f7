"""The reproduction of algorithms run by in-context learners, at a tiny scale."""

import numpy as np
import pytest
from joblib import parallel_config
from rankone.icl import _learner_profile
from rankone.reproduce import Settings
from rankone.reproduce import in_context_linear_models as module

TINY = {
    "steps": 3,
    "shallow_steps": 3,
    "batch_size": 4,
    "d_model": 8,
    "test_tasks": 50,
    "probe_tasks": 40,
    "built_tasks": 20,
    "product_scales": (5e-4, 1e-2),
    "grid_layers": (1, 2),
    "grid_widths": (8,),
    "grid_noise": (0.75,),
    "noise_width": 8,
    "grid_d": 2,
    "grid_n": 5,
    "grid_steps": 2,
    "grid_batch": 4,
}


@pytest.fixture(scope="module", autouse=True)
def short_probes():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_learner_profile, "_PROBE_STEPS", 5)
        yield


@pytest.fixture(scope="module")
def reproduction(short_probes):
    return module.run(Settings(overrides=TINY, progress=False))


@pytest.mark.parametrize(
    ("words", "tolerance"),
    [
        ("L = 1, sigma = 0: distance to one optimal step", "< 0.85"),
        ("distance to least squares over that to gradient descent", "< 0.2"),
        ("L = 3, sigma = 0: distance to least squares", "< 0.1"),
        ("best penalty of ridge regression at L = 3 over that at L = 1", "≤ 0.25"),
        ("the penalty of least distance is that of the posterior mean", "exact"),
        ("distance to the ridge regression of the posterior mean", "≤ 0.06"),
        ("position 4: distance to that ridge", "< 0.5"),
        ("position 5: distance to that ridge", "< 0.5"),
        ("mean squared error over that of the posterior mean", "≤ 1.15"),
        ("probes of the weights, L = 3, sigma = 0: R^2 of the MLP less", "≥ 0.1"),
        ("probes of the weights: R^2 of the MLP at the best layer", "≥ 0.15"),
        ("probes of the moment, L = 3, sigma = 0: R^2 of the MLP less", "≥ 0.1"),
        ("probes of the moment: R^2 of the MLP at the best layer", "≥ 0.15"),
        ("weights of other tasks", "≤ 0.03"),
        ("constructed SGD, d = 3, n = 6, step 0.1, decay 0.1", "≤ 1e-08"),
        ("constructed ridge, d = 3, n = 6, alpha = 0.5", "≤ 1e-05"),
        ("constructed ridge, d = 3, n = 6, alpha = 1:", "≤ 1e-05"),
        ("constructed ridge, d = 3, n = 6, alpha = 0.1", "≤ 1e-05"),
        ("blocks of constructed SGD and ridge, then their widths", "exact"),
    ],
)
def test_every_claim_is_there_with_its_tolerance(reproduction, words, tolerance):
    claims = [claim for claim in reproduction.claims if words in claim.statement]
    if words.endswith("sigma = 0: distance to least squares"):
        claims = [claim for claim in claims if claim.statement == words]
    assert [claim.tolerance for claim in claims] == [tolerance]


def test_there_are_no_other_claims(reproduction):
    assert len(reproduction.claims) == 19


def test_untrained_learners_fail_and_constructed_ones_hold_at_any_scale(reproduction):
    by_words = {claim.statement: claim.passed for claim in reproduction.claims}
    assert not by_words["L = 3, sigma = 0: distance to least squares"]
    assert not next(passed for words, passed in by_words.items() if "squared error over" in words)
    assert all(passed for words, passed in by_words.items() if "constructed" in words)


def test_sizes_are_those_of_the_construction(reproduction):
    (claim,) = [claim for claim in reproduction.claims if "blocks of" in claim.statement]
    assert claim.measured == (13, 32, 27, 47)


def test_means_leave_out_the_empty_context():
    learner = module.Learner(
        spd={"gd": np.array([9.0, 1.0, 3.0]), "ridge(0.5)": np.array([9.0, 2.0, 2.0])},
        alphas=(0.5,),
        best_alpha=0.5,
        mse=np.array([9.0, 2.0, 4.0]),
        bayes_mse=np.array([9.0, 1.0, 1.0]),
        probes={},
    )
    assert learner.distance("gd") == 2
    assert learner.ridge_distances() == {0.5: 2}
    assert learner.error == (3, 1)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_results_do_not_depend_on_jobs(reproduction):
    with parallel_config(backend="threading"):
        again = module.run(Settings(overrides=TINY, progress=False, n_jobs=2))
    assert [c.measured for c in again.claims] == [c.measured for c in reproduction.claims]


def test_tables_and_figures(reproduction):
    trained, probes, built = reproduction.tables
    assert [row[0] for row in trained.rows] == [
        "L = 3",
        "L = 3, noise",
        "L = 1",
        "L = 1, width 8",
        "L = 2, width 8",
        "L = 2, width 8, sigma = 0.75",
    ]
    assert [row[2] is None for row in trained.rows] == [False, True, False, False, False, True]
    assert len(probes.rows) == 6
    assert len(probes.columns) == 2 + 4
    assert len(built.rows) == 4
    assert [len(figure.panels) for figure in reproduction.figures] == [2, 1, 1, 2, 2]


def test_modes_have_the_published_scale():
    quick, full = module.QUICK, module.FULL
    assert (module.D, module.N, quick.d_model, quick.n_heads) == (2, 6, 32, 4)
    assert (quick.steps, quick.shallow_steps, quick.batch_size, quick.lr) == (1500, 1000, 96, 4e-3)
    assert (quick.test_tasks, quick.probe_tasks, quick.built_tasks) == (6000, 12_000, 500)
    assert not quick.grid_layers
    assert full.grid_layers == (1, 2, 4, 8, 16)
    assert (min(full.grid_widths), max(full.grid_widths)) == (16, 1024)
    assert (full.grid_d, full.grid_n, full.grid_batch) == (8, 40, 64)
    assert (full.grid_steps, full.grid_lr, full.grid_warmup) == (5001 * 100, 1e-4, 0.2)
