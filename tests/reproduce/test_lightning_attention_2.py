"""The reproduction of Lightning Attention-2 at a tiny scale: every claim, table and figure."""

import math

import pytest
import torch
from rankone.catalog import method
from rankone.ops import decay_slopes, linear_attention_reference
from rankone.reproduce import Settings, run_one
from rankone.reproduce import lightning_attention_2 as module

TINY = {
    "lengths": (32, 64, 128),
    "backward_lengths": (32, 64),
    "short": 32,
    "long": 128,
    "rising_from": 32,
    "repeats": 2,
    "accuracy_time": 160,
}


@pytest.fixture(scope="module")
def reproduction():
    settings = Settings(overrides=TINY, progress=False)
    return run_one(method("lightning-attention-2"), settings)


def only(reproduction, words):
    (claim,) = [claim for claim in reproduction.claims if words in claim.statement]
    return claim


@pytest.mark.parametrize(
    ("words", "tolerance"),
    [
        ("constant speed", "≥ 0.7"),
        ("softmax slows", "≤ 0.25"),
        ("speed-up of linear over softmax attention at 128", "≥ 4"),
        ("speed-up grows", "each above the last"),
        ("decay none", "≤ 2e-06"),
        ("decay per head", "≤ 2e-06"),
        ("decay per token", "≤ 2e-06"),
        ("decay per channel", "≤ 2e-06"),
        ("naive factorisation", "< 0.5"),
        ("running products do not", "exact"),
        ("final state has the same size", "exact"),
    ],
)
def test_every_claim_is_there_with_its_tolerance(reproduction, words, tolerance):
    assert only(reproduction, words).tolerance == tolerance


def test_there_are_no_other_claims(reproduction):
    assert len(reproduction.claims) == 11


def test_measured_speeds_are_finite(reproduction):
    for words in ("constant speed", "softmax slows", "speed-up of"):
        measured = only(reproduction, words).measured
        assert math.isfinite(measured)
        assert measured > 0


@pytest.mark.parametrize(
    "words",
    ["decay none", "decay per head", "decay per token", "decay per channel", "naive",
     "running products", "final state"],
)  # fmt: skip
def test_claims_of_exactness_hold_at_any_scale(reproduction, words):
    claim = only(reproduction, words)
    assert claim.passed, claim


def test_state_size_is_that_of_a_float32_matrix_a_head(reproduction):
    assert only(reproduction, "final state").measured == (4 * 64 * 64 * 4,)


def test_speeds_are_listed_for_every_length(reproduction):
    forward, both = reproduction.tables[:2]
    assert [row[0] for row in forward.rows] == [32, 64, 128]
    assert [row[0] for row in both.rows] == [32, 64]


def test_quoted_numbers_are_marked_and_ours_are_not_invented(reproduction):
    training, kernels = reproduction.tables[2:]
    assert training.published
    assert kernels.published
    assert training.rows[0][1:] == (38615, 38172, 38596)
    assert kernels.rows[1][2:] == (17.66, 162.9, None, None)
    assert not any(table.published for table in reproduction.tables[:2])


def test_the_figure_has_two_panels(reproduction):
    (figure,) = reproduction.figures
    assert len(figure.panels) == 2
    assert all("linear attention" in panel for panel in figure.panels)


def test_the_naive_factorisation_is_right_where_it_does_not_overflow():
    """The comparison is with a correct formula that overflows, not with a wrong one."""
    q, k, v = torch.randn(3, 1, 64, 2, 8, dtype=torch.float64)
    log_decay = decay_slopes(2).double()[:, None].expand(1, 64, 2, 8)
    naive = module._naive_factorisation(q, k, v, log_decay)
    exact, _ = linear_attention_reference(q, k, v, log_decay, scale=1.0)
    torch.testing.assert_close(naive, exact, rtol=1e-12, atol=1e-12)


def test_full_mode_is_the_scale_of_the_paper():
    assert module.FULL_CPU.lengths[-1] == 131072 == module.FULL_CPU.backward_lengths[-1]
    cuda = module.FULL_CUDA
    assert (cuda.batch, cuda.heads, cuda.head_dim, cuda.dtype) == (4, 32, 128, "bfloat16")
    assert cuda.lengths == (512, 1024, 2048, 4096, 8192, 16384, 32768)
    assert module.QUICK.lengths == (512, 1024, 2048, 4096, 8192, 16384)
    assert module.QUICK.repeats == 5


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"short": 7}, "short must be one of lengths, got 7"),
        ({"rising_from": 128}, "rising_from must leave at least two"),
    ],
)
def test_a_scale_that_cannot_be_judged_is_refused(override, message):
    with pytest.raises(ValueError, match=message):
        module.run(Settings(overrides=TINY | override))


@pytest.mark.cuda
def test_the_same_claims_on_a_cuda_device():
    tiny = TINY | {"batch": 2, "heads": 4, "head_dim": 64, "dtype": "bfloat16"}
    settings = Settings(full=True, device="cuda", overrides=tiny, progress=False)
    result = run_one(method("lightning-attention-2"), settings)
    assert len(result.claims) == 11
    assert all(only(result, words).passed for words in ("decay none", "running", "final state"))
