"""The reproduction of exact permutation learning at a tiny scale."""

import pytest
from joblib import parallel_config
from rankone.icl.permutation_learning import ensemble_complexity, ntk_coefficients
from rankone.reproduce import Settings
from rankone.reproduce import exact_permutation_learning as module
from scipy.optimize import brentq
from scipy.stats import norm

TINY = {
    "direct_sizes": (2, 3, 5),
    "size": 4,
    "width": 64,
    "models": 60,
    "ones": (2, 3, 4),
    "run_sizes": (2, 4),
    "run_width": 64,
    "run_models": 60,
    "draw_sizes": (5,),
    "draw_inputs": 20,
    "draw_seeds": 2,
    "histogram_seeds": 2,
}


@pytest.fixture(scope="module")
def reproduction():
    return module.run(Settings(overrides=TINY, progress=False))


@pytest.mark.parametrize(
    ("words", "tolerance"),
    [
        ("closed forms less the direct solve, k = 2 to 5", "≤ 1e-10"),
        *((f"N = 60, {c} ones: variance", "± 10 %") for c in (2, 3, 4)),
        ("models for one input of two ones, k = 5, 8, 10, 15, 20, 30", "exact"),
        ("models for one input over k ln k, k = 30", "± 0.005"),
        ("models for one input over k ln k, k = 400, 200, 100, 50, 20", "each above the last"),
        ("models for one input: slope", "± 0.02"),
        ("models for all inputs, k = 5, 10, 20, 30", "exact"),
        ("models for all inputs over k^2, k = 400", "each above the last"),
        ("models for all inputs: slope", "± 0.03"),
        ("drawn ensembles of 208, k = 5", "≥ 0.85"),
        ("drawn ensembles of a tenth of 208, k = 5", "≤ 0.35"),
        ("accuracy of 0.9, readout kernel, k = 5, 10, 15, 20, 25, 30", "exact"),
        ("accuracy of 0.9, ntk kernel, k = 5, 10, 15, 20, 25, 30", "exact"),
        ("published models over those of the readout kernel, smallest", "≥ 0.8"),
        ("published models over those of the readout kernel, largest", "≤ 1.6"),
        ("midpoint rounding, one input of two ones: most models, k = 2 to 100", "exact"),
        ("midpoint rounding, models for all inputs, k = 10, 20, 30", "exact"),
    ],
)
def test_every_claim_is_there_with_its_tolerance(reproduction, words, tolerance):
    claims = [claim for claim in reproduction.claims if words in claim.statement]
    assert tolerance in [claim.tolerance for claim in claims]


def test_means_of_networks_are_allowed_their_error_and_the_width(reproduction):
    means = [claim for claim in reproduction.claims if "N = 60" in claim.statement]
    means = [claim for claim in means if "mean of" in claim.statement]
    # Inputs of ones alone have no 0-bits.
    assert len(means) == 5
    assert all(float(claim.tolerance.removeprefix("± ")) > 0.006 for claim in means)
    assert all("4 standard errors" in claim.note for claim in means)


def test_there_are_no_other_claims(reproduction):
    assert len(reproduction.claims) == 24


def test_what_does_not_depend_on_the_scale_holds(reproduction):
    words = ("closed forms", "models for", "published models", "midpoint")
    claims = [claim for claim in reproduction.claims if claim.statement.startswith(words)]
    assert len(claims) == 14
    assert all(claim.passed for claim in claims)


@pytest.mark.parametrize("kernel", module.KERNELS)
@pytest.mark.parametrize("k", [2, 5, 30])
def test_predicted_models_cross_the_accuracy(k, kernel):
    alpha0, alpha1, variance, _ = map(float, ntk_coefficients(2, k, kernel=kernel))

    def excess(n):
        root = (n / variance) ** 0.5
        zeros = norm.cdf(-alpha0 * root) ** (k - 2) if k > 2 else 1.0
        return zeros * norm.cdf(alpha1 * root) ** 2 - module.ACCURACY

    found = module.models_for_accuracy(k, kernel)
    if excess(1) >= 0:
        assert found == 1
    else:
        crossing = brentq(excess, 1, 10_000)
        assert crossing <= found < crossing + 1


def test_quick_finite_width_claims_expect_the_known_law():
    expected = {2: (-0.0133, 0.5619, 0.01098), 4: (-0.0429, 0.3281, 0.01926)}
    for c, values in expected.items():
        found = ntk_coefficients(c, module.QUICK.size)[:3]
        assert found == pytest.approx(values, abs=5.5e-5)
    found = ntk_coefficients(6, module.QUICK.size)
    assert (found.alpha1, found.variance) == pytest.approx((0.2250, 0.02533), abs=5.5e-5)


def test_results_do_not_depend_on_jobs(reproduction):
    with parallel_config(backend="threading"):
        again = module.run(Settings(overrides=TINY, progress=False, n_jobs=2))
    for one, two in zip(again.claims, reproduction.claims, strict=True):
        # Networks are float32, and their products are summed in the order of their chunks.
        exact = not one.statement.startswith("networks")
        assert one.measured == (
            two.measured if exact else pytest.approx(two.measured, rel=0, abs=1e-5)
        )


def test_tables_and_figure(reproduction):
    finite, sizes, draws, published, runs = reproduction.tables
    assert len(finite.rows) == 8
    assert sizes.rows[1][1] == ensemble_complexity(10)
    assert [row[:2] for row in draws.rows] == [(5, 208), (5, 20)]
    assert published.published
    assert [row[1] for row in published.rows] == [43, 69, 103, 117, 157, 175]
    assert [row[:2] for row in runs.rows] == [
        ("ntk", 2),
        ("ntk", 4),
        ("readout", 2),
        ("readout", 4),
    ]
    assert all(row[2] is None or 1 <= row[2] <= 60 for row in runs.rows)
    (figure,) = reproduction.figures
    assert len(figure.panels) == 3


def test_modes_have_the_published_scale():
    assert module.QUICK.direct_sizes == module.FULL.direct_sizes == tuple(range(2, 41))
    for scale in (module.QUICK, module.FULL):
        assert (scale.size, scale.width, scale.models) == (6, 512, 400)
        assert (scale.draw_sizes, scale.draw_inputs, scale.draw_seeds) == ((10, 20), 500, 5)
        assert scale.run_models == 1000
    assert module.FULL.run_sizes == tuple(range(2, 31))
    assert module.FULL.run_width == 50_000
