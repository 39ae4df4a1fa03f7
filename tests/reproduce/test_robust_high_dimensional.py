"""The reproduction of robust high-dimensional analysis at a tiny scale."""

import pytest
from rankone.reproduce import Settings
from rankone.reproduce import robust_high_dimensional as module

TINY = {
    "rows": 60,
    "columns": 20,
    "true": 4,
    "screening_seeds": 1,
    "descent_cells": (("scad", 0.5, 40), ("mcp", 0.5, 40)),
    "descent_gap": 5,
    "descent_seeds": 1,
    "descent_steps": 20,
    "ncg_rows": 40,
    "ncg_columns": 20,
    "ncg_steps": (40, 30, 30),
    "mixed_seeds": 1,
    "sparse_seeds": 1,
    "curve_seeds": 1,
    "shares": (0.0, 0.1),
}


@pytest.fixture(scope="module")
def reproduction():
    return module.run(Settings(overrides=TINY, progress=False))


def only(reproduction, words):
    (claim,) = [claim for claim in reproduction.claims if words in claim.statement]
    return claim


@pytest.mark.parametrize(
    ("words", "tolerance"),
    [
        ("AUROC of KDE mutual information, quadratic", "≥ 0.8"),
        ("above the best of the others, quadratic", "≥ 0.15"),
        ("AUROC of KDE mutual information, linear", "≥ 0.8"),
        ("AUROC of Pearson correlation", "> 0"),
        *((f"fewest of prox and ag-gl, {name}, tau 0.5, N 40", "< 1") for name in ("SCAD", "MCP")),
        *((f"steps of ag-gl over ag, {name}, tau 0.5, N 40", "≥ 1.4") for name in ("SCAD", "MCP")),
        *((f"pncg over FISTA, {name}, rho {rho:g}", "≤ 0.75")
          for name in ("L1", "MCP", "SCAD") for rho in module.RHOS if rho != 0.9),
        ("10 % of clusters contaminated", "≥ 4"),
        ("t with nu = 3", "≥ 1.5"),
        ("Gaussian data", "± 0.1"),
        ("sparse effects, Gaussian over Tsallis, contaminated", "≥ 2.5"),
    ],
)  # fmt: skip
def test_every_claim_is_there_with_its_tolerance(reproduction, words, tolerance):
    assert only(reproduction, words).tolerance == tolerance


def test_there_are_no_other_claims(reproduction):
    assert len(reproduction.claims) == 4 + 4 + 9 + 4


def test_published_numbers_are_marked(reproduction):
    published = [table.title for table in reproduction.tables if table.published]
    assert published == [
        "Published areas under the ROC curve, imaging data",
        "Published gradient steps to a gap of e^3",
    ]
    assert len(reproduction.figures[0].panels) == 3


def test_generator_of_the_descents_has_fifty_effects_between_zeros():
    import numpy as np

    X, y = module._descent_data(0.5, 30, 500, np.random.default_rng(0))
    assert X.shape == (30, 2050)
    np.testing.assert_allclose(X.std(axis=0), 1)
    assert len(y) == 30


def test_autoregressive_columns_have_their_correlation():
    import numpy as np

    X = module._autoregressive(20_000, 4, 0.9, np.random.default_rng(0))
    np.testing.assert_allclose(np.corrcoef(X.T)[0], [1, 0.9, 0.81, 0.729], atol=0.02)
    np.testing.assert_allclose(X.std(axis=0), 1, atol=0.03)


def test_modes_have_the_published_scale():
    quick, full = module.QUICK, module.FULL
    assert (quick.rows, quick.columns, quick.true) == (800, 400, 40)
    assert (quick.descent_gap, quick.descent_seeds, quick.descent_steps) == (500, 3, 400)
    assert len(quick.descent_cells) == 5
    assert (quick.ncg_rows, quick.ncg_columns) == (300, 600)
    assert quick.ncg_steps == (1500, 800, 600)
    assert (quick.mixed_seeds, quick.sparse_seeds) == (10, 4)
    assert full.screening_seeds == full.descent_seeds == full.mixed_seeds == 100
    assert {n for _, _, n in full.descent_cells} == {200, 500, 1000, 3000}
    assert not full.descent_early
