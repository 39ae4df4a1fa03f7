"""The reproduction of sparse regression on random supports at a tiny scale."""

import pytest
from rankone.reproduce import Settings
from rankone.reproduce import sparse_random_support as module

TINY = {
    "n_samples": 60,
    "n_features": 90,
    "seeds": 2,
    "grid": (module.Design(2, False, 40, 50, 2), module.Design(8, False, 40, 50, 4)),
    "ratio_draws": 20,
    "ratio_samples": 40,
    "ratio_features": 60,
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
        *((f"error of random pivots, {kind} {decades}", "≤ 0.25")
          for kind in ("range", "homogeneous") for decades in (1, 4, 8)),
        ("largest over smallest", "≤ 2.5"),
        ("Lasso at its best, range 4", "≤ 0.5"),
        ("Lasso at its best, range 8", "≤ 0.5"),
        ("orthogonal matching pursuit at its best, range 4", "≤ 0.3"),
        ("orthogonal matching pursuit at its best, range 8", "≤ 0.3"),
        ("homogeneous 8 over homogeneous 4", "± 0.02"),
        *((f"{m} pivots fail a support of 4, {design}", f"≤ {bound}")
          for m, bound in ((9, "1"), (18, "0.571"), (36, "0.308"))
          for design in ("near dup", "rank 2", "mixed", "shuffled")),
    ],
)  # fmt: skip
def test_every_claim_is_there_with_its_tolerance(reproduction, words, tolerance):
    assert only(reproduction, words).tolerance == tolerance


def test_there_are_no_other_claims(reproduction):
    assert len(reproduction.claims) == 24


def test_the_bound_on_failures_holds_at_any_scale(reproduction):
    claims = [claim for claim in reproduction.claims if "fail a support" in claim.statement]
    assert all(claim.passed for claim in claims), claims


def test_tables_and_figures(reproduction):
    errors, rates, grid = reproduction.tables
    assert [row[0] for row in errors.rows] == [
        "range 1", "range 4", "range 8", "homogeneous 1", "homogeneous 4", "homogeneous 8"
    ]  # fmt: skip
    assert "Lasso at its best is as good" in errors.note
    assert rates.rows[-1][0] == "bound"
    assert len(grid.rows) == 2
    assert len(reproduction.figures) == 2
    assert "puffer" in reproduction.figures[0].panels[0]
    assert "bound, any design" in reproduction.figures[0].panels[1]


def test_least_squares_on_the_truth_beats_everything(reproduction):
    for row in reproduction.tables[0].rows:
        assert row[-1] == min(row[2:])


def test_modes_have_the_published_scale():
    quick, full = module.QUICK, module.FULL
    assert (quick.n_samples, quick.n_features, quick.seeds, quick.ratio_draws) == (400, 800, 4, 400)
    assert full.seeds == 50
    assert {design.n_features for design in full.grid} == {800, 3200}
    assert {design.n_samples for design in full.grid} == {200, 400, 800, 1600}
    assert {design.n_nonzero for design in full.grid} == {2, 4, 8}
    assert {design.log10_range for design in full.grid} == {1, 2, 4, 6, 8, 10}
    assert module.Design(4).n_pivots == 12
