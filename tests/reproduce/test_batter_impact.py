"""The reproduction of batting impact."""

import json

import numpy as np
import pytest
from rankone.reproduce import Settings
from rankone.reproduce import batter_impact as module
from rankone.stats.batting import check_leakage, load_cricsheet, simulate_odi

TINY = {"n_matches": 24, "n_teams": 2, "overs": 12, "trees": 5, "trick_matches": 1}


@pytest.fixture(scope="module")
def reproduction():
    return module.run(Settings(progress=False, overrides=TINY))


CLAIMS = [
    ("accuracy on decided shots", "≥ 0.95"),
    ("without the event rule", "≥ 0.95"),
    ("share of shots decided", "± 0.035"),
    ("accuracy lost without negation", "≥ 0.08"),
    ("accuracy on lines that need", "exact"),
    ("accuracy on those lines without negation", "± 0.1"),
    ("accuracy of the pitch", "≥ 0.98"),
    ("accuracy of the weather", "≥ 0.98"),
    ("mean absolute error", "≤ 0.04"),
    ("Spearman", "≥ 0.75"),
    ("parsed against true: correlation", "≥ 0.995"),
    ("mean absolute difference, runs", "≤ 1"),
    ("explain: R2 of linear", "≥ 0.9"),
    ("explain: R2 of the random forest", "≥ 0.87"),
    ("explain: R2 of runs alone", "≥ 0.93"),
    ("best of five", "≤ 0.25"),
    ("leakage: R2 gained", "≥ 0.15"),
    ("does not flag", "exact"),
    ("form features that the check flags", "exact"),
    ("shuffled training targets: R2 of linear", "≤ 0.12"),
    ("shuffled training targets: R2 of the random forest", "≤ 0.12"),
]


@pytest.mark.parametrize(("words", "tolerance"), CLAIMS)
def test_every_claim_is_there_with_its_tolerance(reproduction, words, tolerance):
    (claim,) = [claim for claim in reproduction.claims if words in claim.statement]
    assert claim.tolerance == tolerance


def test_there_are_no_other_claims(reproduction):
    assert len(reproduction.claims) == 21


def test_rules_and_leak_checks_hold_at_any_scale(reproduction):
    passed = {claim.statement: claim.passed for claim in reproduction.claims}
    exact = ("accuracy on lines that need", "does not flag", "that the check flags")
    for words in (*exact, "of the pitch", "of the weather", "lost without negation"):
        (held,) = [value for statement, value in passed.items() if words in statement]
        assert held, words


def test_it_says_that_it_is_no_replication(reproduction):
    explained = [c for c in reproduction.claims if c.statement.startswith("explain: R2 of")]
    assert sum("no replication" in claim.note for claim in explained) == 2
    assert reproduction.settings["replication"].startswith("no")


def test_tables_and_figure(reproduction):
    scores, published = reproduction.tables
    assert [row[1] for row in scores.rows] == list(module._TASKS.values())
    assert published.published
    assert [row[1] for row in published.rows] == [90.16, 87.12]
    (figure,) = reproduction.figures
    assert len(figure.panels) == 3


def test_windows_with_today_are_flagged():
    odi = simulate_odi(10, 2, overs=6, random_state=0)
    data = load_cricsheet(odi.cricsheet)
    table = module.build_innings_table(
        data.deliveries, data.matches, control=odi.truth["control"].to_numpy()
    )
    table["effective_runs"] = module.effective_runs(table)
    found = check_leakage(table, feature_function=module.windows_with_today, random_state=0)
    assert len(found) == 8
    assert found["leaks"].all()


def test_model_claims_without_a_pass_mark_are_a_table():
    overrides = {**TINY, "judge_models": False}
    result = module.run(Settings(progress=False, overrides=overrides))
    assert len(result.claims) == 12
    (table,) = [table for table in result.tables if "without a pass mark" in table.title]
    assert len(table.rows) == 9


def test_own_files_are_read_and_what_needs_truth_is_skipped(tmp_path):
    odi = simulate_odi(24, 2, overs=12, random_state=0)
    for name, match in odi.cricsheet.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(match))
    settings = Settings(progress=False, data=tmp_path, overrides=TINY)
    bare = module.run(settings)
    (skipped,) = [table for table in bare.tables if table.title.startswith("Skipped")]
    assert skipped.rows[0][1] == "no commentary.csv: control is unknown"
    assert len(bare.claims) == 9
    odi.commentary.to_csv(tmp_path / "commentary.csv", index=False)
    odi.summaries.to_csv(tmp_path / "summaries.csv", index=False)
    full = module.run(settings)
    (skipped,) = [table for table in full.tables if table.title.startswith("Skipped")]
    assert "decided" in skipped.note
    assert full.tables[0].rows != bare.tables[0].rows


def test_nothing_to_compare_is_nan():
    accuracy, coverage = module._accuracy(np.array([-1, -1]), np.array([1, -1]))
    assert np.isnan(accuracy)
    assert coverage == 0


def test_modes_have_the_published_scale():
    quick, full = module.QUICK, module.FULL
    assert (quick.n_matches, quick.n_teams, quick.seeds, quick.trees) == (120, 6, (0,), 150)
    assert (full.n_matches, full.n_teams, full.seeds) == (600, 8, (0, 1, 2, 3, 4))
    assert full.batters == 3  # as in the paper
    assert quick.judge_models
    assert not full.judge_models
    assert quick.min_innings == full.min_innings == 5
