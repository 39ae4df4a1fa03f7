"""The reproduction of one step of gradient descent at a tiny scale."""

import numpy as np
import pytest
from joblib import parallel_config
from rankone.reproduce import Settings
from rankone.reproduce import one_step_gradient_descent as module

TINY = {
    "steps": 6,
    "short_steps": 6,
    "batch_size": 8,
    "aligned_seeds": 2,
    "random_seeds": 2,
    "qkv_seeds": 2,
    "prefix_steps": 6,
    "prefix_batch": 8,
    "test_tasks": 2000,
    "moment_tasks": 4000,
    "grid": ((2, 3),),
    "grid_steps": 3,
    "grid_seeds": 2,
}


@pytest.fixture(scope="module")
def reproduction():
    return module.run(Settings(overrides=TINY, progress=False))


@pytest.mark.parametrize(
    ("words", "tolerance"),
    [
        ("sigma = 0.5: mean diagonal of P, eta*", "± 2 %"),
        ("isotropic, d = 5, n = 20, sigma = 0.5: largest off-diagonal", "≤ 0.0015"),
        ("sigma = 0.5: cosine of P with I", "≥ 0.999"),
        ("sigma = 0.5: test loss of the layer", "± 1.5 %"),
        ("sigma = 0.5: test loss of gradient descent", "± 1.5 %"),
        ("on the same tasks", "≤ 0.01"),
        ("d = 8, n = 20, sigma = 0: mean diagonal", "± 2 %"),
        ("d = 8, n = 20, sigma = 0: test loss of the layer", "± 1.5 %"),
        ("d = 8, n = 20, sigma = 0: test loss of gradient", "± 1.5 %"),
        ("relative error of P to the inverse covariance over 26", "≤ 0.03"),
        ("cosine of P with it", "≥ 0.999"),
        ("inverse covariance, d = 5, n = 20: cosine of P with I", "≤ 0.85"),
        ("tanh networks, d = 5, n = 20: mean diagonal", "± 2 %"),
        ("tanh networks, d = 5, n = 20: cosine", "≥ 0.999"),
        ("relative error of the least squares P", "≤ 0.05"),
        ("simulated loss of the best P", "± 1.5 %"),
        *((f"single index {name}", "± 2 %") for name in ("tanh", "cube", "sin 2z", "sign")),
        ("not Bayes optimal", "≤ 0.4"),
        ("aligned start: distance of P to P*, largest of 2 seeds", "≤ 0.05"),
        ("random start: seeds of 2 that end in a trap", "≥ 1"),
        ("form qkv: distance, largest of 2 seeds", "≤ 0.05"),
        ("all prefixes, d = 2, n = 6, sigma = 0.5: smallest diagonal", "± 5 %"),
        ("all prefixes, d = 2, n = 6, sigma = 0.5: largest diagonal", "± 5 %"),
        ("all prefixes, d = 2, n = 6, sigma = 0.5: largest off-diagonal", "≤ 0.05"),
        ("tested at n = 5", "± 1 %"),
        ("tested at n = 80", "± 5 %"),
    ],
)
def test_every_claim_is_there_with_its_tolerance(reproduction, words, tolerance):
    claims = [claim for claim in reproduction.claims if words in claim.statement]
    assert [claim.tolerance for claim in claims] == [tolerance]


def test_there_are_no_other_claims(reproduction):
    assert len(reproduction.claims) == 29


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("sigma = 0.5: mean diagonal of P, eta*", "0.0381"),
        ("sigma = 0.5: test loss of the layer", "1.44"),
        ("sigma = 0: mean diagonal", "0.0345"),
        ("sigma = 0: test loss of the layer", "2.48"),
        ("single index tanh", "0.0579"),
        ("single index cube", "0.0361"),
        ("single index sin 2z", "0.0231"),
        ("single index sign", "0.0562"),
        ("all prefixes, d = 2, n = 6, sigma = 0.5: smallest", "0.132"),
        ("tested at n = 5", "3.75"),
        ("tested at n = 80", "24.8"),
    ],
)
def test_claims_expect_the_theory(reproduction, words, expected):
    (claim,) = [claim for claim in reproduction.claims if words in claim.statement]
    assert claim.expected == expected


def test_untrained_layers_fail_and_ridge_holds_at_any_scale(reproduction):
    by_words = {claim.statement: claim.passed for claim in reproduction.claims}
    assert not next(passed for words, passed in by_words.items() if "mean diagonal" in words)
    assert not next(passed for words, passed in by_words.items() if "aligned start" in words)
    assert next(passed for words, passed in by_words.items() if "not Bayes" in words)


def test_traps_need_both_a_distance_and_a_loss():
    def trained(distance, loss):
        return module.Trained(
            P=np.eye(2),
            optimum=np.eye(2),
            optimal_loss=1.0,
            steps=np.array([1]),
            distance=np.array([distance]),
            even=np.array([0.0]),
            losses={10: (loss, 1.0, 1.0)},
        )

    assert module._trapped(trained(0.6, 1.6))
    assert not module._trapped(trained(0.6, 1.4))
    assert not module._trapped(trained(0.4, 1.6))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_results_do_not_depend_on_jobs(reproduction):
    with parallel_config(backend="threading"):
        again = module.run(Settings(overrides=TINY, progress=False, n_jobs=2))
    assert [c.measured for c in again.claims] == [c.measured for c in reproduction.claims]


def test_tables_and_figures(reproduction):
    trainings, steps, grid = reproduction.tables
    assert len(trainings.rows) == 4 + 2 + 2 + 2 + 1
    assert [row[0] for row in steps.rows][1:] == ["tanh", "cube", "sin 2z", "sign"]
    assert [row[:2] for row in grid.rows] == [(2, 3)]
    assert [len(figure.panels) for figure in reproduction.figures] == [3, 2]


def test_lengths_of_the_claims_are_required():
    with pytest.raises(ValueError, match="lengths must hold 5, 20 and 80"):
        module.Scale(lengths=(5, 20))


def test_modes_have_the_published_scale():
    assert (module.QUICK.steps, module.QUICK.short_steps, module.QUICK.batch_size) == (
        4000,
        1500,
        512,
    )
    assert (module.QUICK.aligned_seeds, module.QUICK.random_seeds, module.QUICK.qkv_seeds) == (
        5,
        5,
        3,
    )
    assert (module.QUICK.prefix_steps, module.QUICK.prefix_batch) == (1200, 256)
    assert (module.QUICK.test_tasks, module.QUICK.moment_tasks) == (200_000, 400_000)
    assert {5, 20, 80} <= set(module.QUICK.lengths)
    assert module.FULL.steps == module.FULL.grid_steps == 20_000
    assert {d for d, _ in module.FULL.grid} == {5, 10, 20}
    assert max(n for _, n in module.FULL.grid) == 100
    assert module.FULL.grid_seeds == 5
