"""The reproduction of Mixture-of-Memories at a tiny scale: every claim, table and figure."""

import pytest
import torch
from rankone.catalog import method
from rankone.reproduce import Settings, run_one
from rankone.reproduce import mixture_of_memories as module
from rankone.reproduce._recall import RecallTraining

TINY = {
    "oracle_time": 6,
    "oracle_width": 8,
    "hidden_size": 8,
    "head_dim": 4,
    "vocab_size": 20,
    "seq_len": 16,
    "num_kv_pairs": 4,
    "training": RecallTraining(steps=4, batch_size=4, score_every=2),
    "test_examples": 8,
    "variants": True,
    "balance_steps": 30,
}


@pytest.fixture(scope="module")
def reproduction():
    return run_one(method("mixture-of-memories"), Settings(overrides=TINY, progress=False))


def only(reproduction, words):
    (claim,) = [claim for claim in reproduction.claims if words in claim.statement]
    return claim


@pytest.mark.parametrize(
    ("words", "expected", "tolerance"),
    [
        ("dispatch = every memory", "0", "< 1e-08"),
        ("linear attention, 64 pairs, each in 1 of 4", "0.26", "± 0.06"),
        ("linear attention, 64 pairs, each in 1 of 8", "0.15", "± 0.05"),
        ("linear attention, 64 pairs, each in 2 of 4", "0.465", "± 0.085"),
        ("linear attention, 64 pairs, each in 2 of 8", "0.24", "± 0.06"),
        ("delta rule, 64 pairs, each in 1 of 4", "0.29", "± 0.07"),
        ("delta rule, 64 pairs, each in 1 of 8", "0.16", "± 0.06"),
        ("linear attention, 128 pairs, each in 1 of 4", "0.26", "± 0.06"),
        ("linear attention, 128 pairs, each in 1 of 8", "0.15", "± 0.05"),
        ("linear attention, 128 pairs, each in 2 of 4", "0.465", "± 0.085"),
        ("linear attention, 128 pairs, each in 2 of 8", "0.24", "± 0.06"),
        ("delta rule, 128 pairs, each in 1 of 4", "0.41", "± 0.08"),
        ("delta rule, 128 pairs, each in 1 of 8", "0.22", "± 0.07"),
        ("MQAR after training", "above 0", "> 0.08"),
        ("largest load, the least", "unbalanced", "> 0.65"),
        ("largest load, the most", "0.5", "< 0.58"),
        ("balance loss then", "2", "± 0.05"),
    ],
)
def test_every_claim_is_there_with_its_tolerance(reproduction, words, expected, tolerance):
    claim = only(reproduction, words)
    assert (claim.expected, claim.tolerance) == (expected, tolerance)


def test_there_are_no_other_claims(reproduction):
    assert len(reproduction.claims) == 17


def test_untrained_parts_hold_as_they_are_not_scaled_down(reproduction):
    for words in ("dispatch", "64 pairs", "128 pairs"):
        claims = [claim for claim in reproduction.claims if words in claim.statement]
        assert claims
        assert all(claim.passed for claim in claims), claims


def test_a_single_memory_errs_as_theory_says(reproduction):
    table = reproduction.tables[0]
    singles = [row for row in table.rows if row[0] == "linear attention" and row[2] == 1]
    assert [row[1] for row in singles] == [64, 128]
    for row in singles:
        assert row[4] == pytest.approx(row[6], rel=0.05)


def test_variants_are_listed_and_drawn(reproduction):
    names = [row[0] for row in reproduction.tables[1].rows]
    assert names[:2] == [module.SINGLE, module.ROUTED]
    assert len(names) == 5
    (figure,) = reproduction.figures
    assert all(name in figure.panels[0] for name in names)
    assert "with the balance loss" in figure.panels[1]


def test_token_lists_see_nothing_of_other_lists():
    """The oracle itself: a token changed in one list leaves reads of other lists as they were."""
    from rankone import nn

    torch.manual_seed(0)
    layer = nn.MixtureOfMemories(8, 2, 4, shared_memory=True, dtype=torch.float64)
    x = torch.randn(5, 8, dtype=torch.float64)
    weights = [
        torch.randn(*shape, dtype=torch.float64) for shape in ((8, 8), (8, 8), (2, 8), (2, 8))
    ]
    whole = module._memory(layer, x, *weights)
    changed = x.clone()
    changed[3] += 1
    after = module._memory(layer, changed, *weights)
    assert torch.equal(whole[:3], after[:3])
    assert not torch.equal(whole[3:], after[3:])


def test_modes_have_the_published_scale():
    quick = module.QUICK
    assert (quick.seq_len, quick.num_kv_pairs, quick.vocab_size) == (64, 16, 256)
    assert (quick.hidden_size, quick.head_dim, quick.expand_v) == (32, 8, 4.0)
    assert (quick.training.steps, quick.training.batch_size) == (1200, 64)
    assert (quick.draws, quick.dim, quick.pairs) == (32, 32, (64, 128))
    assert not quick.variants
    assert module.FULL.variants
