"""The reproduction of adaptive data analysis."""

import numpy as np
import pytest
from rankone.reproduce import Settings
from rankone.reproduce import adaptive_data_analysis as module

TINY = {
    "holdout_rows": 200,
    "holdout_repeats": 2,
    "columns": (0, 20, 100),
    "vote_rows": 400,
    "vote_queries": (10, 40),
    "vote_repeats": 2,
    "universe_bits": 5,
    "universe_repeats": 1,
    "random_queries": 50,
}


@pytest.fixture(scope="module")
def reproduction():
    return module.run(Settings(progress=False, overrides=TINY))


@pytest.mark.parametrize(
    ("words", "count", "tolerance"),
    [
        ("plain holdout reused for 100 columns: reported", 1, "≥ 0.6"),
        ("plain holdout, 100 columns: fresh", 1, "± 0.02"),
        ("no signal, plain holdout: largest gap", 1, "≥ 0.11"),
        ("no signal, Thresholdout: largest gap", 1, "≤ 0.354"),
        ("mean gap of Thresholdout over", 1, "< 0.6"),
        ("best fresh accuracy", 2, "exact"),
        ("fresh accuracy with 20 columns", 2, "± 0.02"),
        ("slope of the empirical error", 1, "± 0.085"),
        ("slope of the error with Gaussian", 1, "± 0.1"),
        ("slope with noise less", 1, "< 0"),
        ("from 800 queries on", 1, "> 1.4"),
        ("error of splitting", 1, "> 0"),
        ("last, adaptive query", 1, "< 0.1"),
        ("over the plain mean's", 1, "< 0.5"),
        ("cost an update", 1, "< 0.2"),
        ("largest error of any answer", 1, "< 0.14"),
        ("guaranteed accuracy", 9, "± 1 %"),
        ("splitting is better at 500", 1, "exact"),
    ],
)
def test_every_claim_is_there_with_its_tolerance(reproduction, words, count, tolerance):
    claims = [claim for claim in reproduction.claims if words in claim.statement]
    assert [claim.tolerance for claim in claims] == [tolerance] * count


def test_there_are_no_other_claims(reproduction):
    assert len(reproduction.claims) == 28


def test_guarantees_hold_at_any_scale(reproduction):
    assert all(claim.passed for claim in reproduction.claims[-10:])


def test_a_size_without_many_queries_fails_the_claim_about_them(reproduction):
    (claim,) = [claim for claim in reproduction.claims if "from 800" in claim.statement]
    assert not claim.passed


def test_paradox_data_have_the_signal_in_the_first_columns():
    (X, y), *_ = module._paradox_data(900, True, np.random.default_rng(0))
    correlation = y @ X / 900
    # The signal is 6 / sqrt(n) a column and its standard error 1 / sqrt(n).
    assert correlation[:20].mean() * 30 == pytest.approx(6, abs=1)
    assert abs(correlation[20:].mean()) * 30 < 0.2


def test_votes_of_no_column_are_coin_tosses():
    assert module._accuracy(np.zeros(4), np.array([1, 1, -1, -1])) == 0.5
    assert module._accuracy(np.array([2.0, -1.0]), np.array([1, 1])) == 0.5


def test_a_fixed_mean_is_attacked_and_fresh_rows_are_not():
    generator = np.random.default_rng(0)
    x, y = generator.choice((-1, 1), (300, 200)), generator.choice((-1, 1), 300)
    from rankone.stats.adaptive import EmpiricalMechanism

    assert module._vote(EmpiricalMechanism((x, y)).answer, 200) > 0.2

    def fresh(query):
        return query((generator.choice((-1, 1), (300, 200)), generator.choice((-1, 1), 300))).mean()

    assert module._vote(fresh, 200) < 0.15


def test_tables_and_figures(reproduction):
    paradox, votes, guarantees = reproduction.tables
    assert len(paradox.rows) == 2 * 2 * 2
    assert [row[0] for row in votes.rows] == ["empirical", "Gaussian", "splitting"]
    assert len(guarantees.rows) == 9
    assert [len(figure.panels) for figure in reproduction.figures] == [2, 3]


def test_modes_have_the_published_scale():
    quick, full = module.QUICK, module.FULL
    assert (quick.holdout_rows, quick.holdout_repeats) == (2500, 8)
    assert quick.vote_queries == (50, 200, 800, 1600)
    assert (quick.universe_bits, quick.universe_rows) == (10, 1000)
    assert (full.holdout_rows, full.holdout_repeats) == (10_000, 100)
    assert full.universe_bits == 14
    assert module._threshold(full) == pytest.approx(0.04)
    assert module._tolerance(full) == pytest.approx(0.01)
