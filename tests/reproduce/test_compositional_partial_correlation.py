"""The reproduction of partial correlations between parts."""

import numpy as np
import pandas as pd
import pytest
from rankone.reproduce import Settings
from rankone.reproduce import compositional_partial_correlation as module

TINY = {"calibration_draws": 20, "shrinkage_draws": 2}


@pytest.fixture(scope="module")
def reproduction():
    return module.run(Settings(progress=False, overrides=TINY))


@pytest.mark.parametrize(
    ("words", "count", "tolerance"),
    [
        ("Roman pottery: R", 7, "± 0.002"),
        ("nine partial variances", 1, "≤ 0.002"),
        ("Skye", 3, "± 0.002"),
        ("five oxides", 4, "± 0.002"),
        ("regression against precision", 1, "< 1e-08"),
        ("all 9 references", 1, "< 1e-08"),
        ("sign differs", 1, "≥ 1"),
        ("intervals cover", 1, "± 0.015"),
        ("automatic intensity", 2, "≤ 0.5"),
    ],
)
def test_every_claim_is_there_with_its_tolerance(reproduction, words, count, tolerance):
    claims = [claim for claim in reproduction.claims if words in claim.statement]
    assert [claim.tolerance for claim in claims] == [tolerance] * count


def test_there_are_no_other_claims(reproduction):
    assert len(reproduction.claims) == 21


def test_claims_about_tables_hold_at_any_scale(reproduction):
    simulated = ("intervals cover", "automatic intensity")
    fixed = [
        claim
        for claim in reproduction.claims
        if not any(words in claim.statement for words in simulated)
    ]
    assert all(claim.passed for claim in fixed)


def test_the_sign_reversal_is_that_of_aluminium_and_iron(reproduction):
    (claim,) = [claim for claim in reproduction.claims if "sign differs" in claim.statement]
    assert "Al-Fe" in claim.note


def test_the_papers_table_joins_where_the_user_has_it(tmp_path):
    parts = ["Si", "Al", "Fe", "Mg", "Ca", "Na", "K", "Ti", "P", "Mn", "Sb"]
    table = np.exp(np.random.default_rng(0).standard_normal((47, 11)))
    path = tmp_path / "cups.csv"
    pd.DataFrame(table, columns=parts).to_csv(path, index=False)
    claims = module._cups_claims(Settings(data=path))
    assert [claim.expected for claim in claims] == [
        "0.727", "0.722", "-0.663", "0.597", "0.428", "0.413"
    ]  # fmt: skip
    assert not all(claim.passed for claim in claims)  # these are not the cups


def test_sweeps_do_not_depend_on_the_number_of_jobs():
    scale = module.Scale(**TINY)
    one, two = (
        module._shrinkage_errors(Settings(progress=False, n_jobs=jobs), scale) for jobs in (1, 2)
    )
    assert one == two


def test_tables_and_figure(reproduction):
    inference, coverage, shrinkage = reproduction.tables
    assert inference.rows[0][0] == "Al-Ba"
    assert [row[0] for row in coverage.rows] == [40]
    assert [row[0] for row in shrinkage.rows] == ["auto", "0.01", "0.1", "0.5", "1.0"]
    (figure,) = reproduction.figures
    assert len(figure.panels) == 4


def test_modes_have_the_published_scale():
    assert module.QUICK.calibration_draws == 2000
    assert module.QUICK.shrinkage_draws == 20
    assert module.FULL.calibration_draws == 20_000
    assert set(module.FULL.calibration_rows) == {20, 40, 100, 400}
