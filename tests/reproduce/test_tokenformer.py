"""The reproduction of TokenFormer at a tiny scale: every claim, table and figure."""

import pytest
import torch
from rankone.nn import TrainingConfig
from rankone.reproduce import Settings
from rankone.reproduce import tokenformer as module

TINY = {
    "hidden_size": 16,
    "num_layers": 1,
    "num_heads": 2,
    "attn_tokens": (6, 12),
    "ffn_tokens": (24, 48),
    "context": 24,
    "training": TrainingConfig(max_steps=12, learning_rate=1e-2, warmup_steps=2),
    "grown_steps": 6,
    "scratch_steps": 4,
    "dead_steps": 5,
    "batch_size": 4,
    "validation_batches": 2,
    "validation_batch_size": 4,
    "evaluate_every": 4,
}


@pytest.fixture(scope="module")
def reproduction():
    return module.run(Settings(overrides=TINY, progress=False))


def only(reproduction, words):
    (claim,) = [claim for claim in reproduction.claims if words in claim.statement]
    return claim


CLAIMS = {
    "largest change of a logit": "< 0.0001",
    "change of the validation loss": "< 1e-05",
    "following sqrt(n): jump": "> 0.05",
    "random new keys: jump": "> 0.02",
    "zero values: sum of the absolute new key entries after 5 steps": "exact",
    "random values: sum of the absolute new key entries after 6 steps": "> 10",
    "below the large model after 4 steps from scratch": "> 0.2",
    "below the small model trained on": "≥ 0",
}


@pytest.mark.parametrize(("words", "tolerance"), CLAIMS.items())
def test_every_claim_is_there_with_its_tolerance(reproduction, words, tolerance):
    assert only(reproduction, words).tolerance == tolerance


def test_there_are_no_other_claims(reproduction):
    assert len(reproduction.claims) == len(CLAIMS)


@pytest.mark.parametrize("words", ["change of a logit", "change of the validation", "zero values"])
def test_claims_of_exactness_hold_at_any_scale(reproduction, words):
    claim = only(reproduction, words)
    assert claim.passed, claim


def test_models_that_do_not_learn_do_not_pass():
    idle = TrainingConfig(max_steps=2, learning_rate=1e-12, warmup_steps=0)
    overrides = TINY | {"training": idle, "grown_steps": 2, "scratch_steps": 2, "dead_steps": 2}
    result = module.run(Settings(overrides=overrides, progress=False))
    assert not result.passed
    assert not only(result, "random values: sum").passed
    assert not only(result, "from scratch").passed
    assert only(result, "largest change of a logit").passed


def test_the_paper_s_code_changes_more_than_rounding(reproduction):
    growth, _ = reproduction.tables
    changes = {row[0]: row[1] for row in growth.rows}
    assert list(changes) == [
        module.GROWN, module.RESCALED, module.RANDOM_KEYS, module.BOTH_ZERO
    ]  # fmt: skip
    assert min(changes[module.RESCALED], changes[module.RANDOM_KEYS]) > 1e-3
    assert max(changes[module.GROWN], changes[module.BOTH_ZERO]) < 1e-4


def test_costs_count_what_came_before(reproduction):
    _, training = reproduction.tables
    rows = {row[0]: row[1:] for row in training.rows}
    small, large = rows[module.SMALL][0], rows[module.SCRATCH][0]
    vocabulary = (small - 2 * 16 - (4 * 6 + 24) * 2 * 16) // 16
    assert small == vocabulary * 16 + (4 * 6 + 24) * 2 * 16 + 2 * 16
    assert large == vocabulary * 16 + (4 * 12 + 48) * 2 * 16 + 2 * 16
    assert rows[module.GROWN][:2] == (large, 18)
    assert rows[module.GROWN][2] == pytest.approx((12 * small + 6 * large) / 1e6)
    assert rows[module.CONTINUED][:2] == (small, 18)
    assert rows[module.SCRATCH][2] == pytest.approx(4 * large / 1e6)


def test_the_figure_shows_all_branches_and_both_jumps(reproduction):
    (figure,) = reproduction.figures
    (drawing,) = figure.panels
    for name in (module.SMALL, module.GROWN, module.CONTINUED, module.SCRATCH):
        assert name in drawing
    for name in (module.RESCALED, module.RANDOM_KEYS):
        assert name in drawing


def test_the_same_settings_give_the_same_numbers(reproduction):
    again = module.run(Settings(overrides=TINY, progress=False))
    assert [claim.measured for claim in again.claims] == [
        claim.measured for claim in reproduction.claims
    ]


class TestText:
    def test_help_topics_as_characters(self):
        text = module._text(Settings())
        total = len(text.train) + len(text.validation)
        assert len(text.train) == int(0.9 * total)
        assert text.vocab_size == len(torch.cat([text.train, text.validation]).unique())
        assert total > 300_000

    def test_own_files_as_bytes(self, tmp_path):
        (tmp_path / "b.txt").write_bytes(b"b" * 60)
        (tmp_path / "a.txt").write_bytes(bytes(range(40)))
        text = module._text(Settings(data=tmp_path))
        assert text.vocab_size == 256
        assert text.train.tolist() == [*range(40), *b"b" * 50]
        assert text.validation.tolist() == list(b"b" * 10)
        alone = module._text(Settings(data=tmp_path / "b.txt"))
        assert len(alone.train) == 54

    def test_own_files_run(self, tmp_path):
        path = tmp_path / "text.bin"
        path.write_bytes(b"to be or not to be, that is the question. " * 40)
        result = module.run(Settings(data=path, overrides=TINY, progress=False))
        assert result.settings["text"] == f"text.bin, {path.stat().st_size} bytes"

    def test_nothing_to_read_is_an_error(self, tmp_path):
        for data in (tmp_path / "nothing.txt", tmp_path):
            with pytest.raises(FileNotFoundError, match="data must name a text file or a folder"):
                module._text(Settings(data=data))
        with pytest.raises(ValueError, match="data must name a large text file"):
            module.run(Settings(full=True, progress=False))


def test_modes_have_the_published_scale():
    quick, full = module.QUICK, module.FULL
    assert (quick.hidden_size, quick.num_layers, quick.num_heads) == (96, 2, 4)
    assert (quick.attn_tokens, quick.ffn_tokens) == ((48, 96), (192, 384))
    assert (quick.training.max_steps, quick.grown_steps, quick.scratch_steps) == (300, 150, 150)
    assert (quick.training.learning_rate, quick.training.warmup_steps) == (3e-3, 20)
    assert quick.training.betas == full.training.betas == (0.9, 0.95)
    assert quick.training.weight_decay == full.training.weight_decay == 0.1
    assert quick.training.gradient_clip == full.training.gradient_clip == 1.0
    assert (quick.batch_size, quick.context, quick.dead_steps) == (8, 128, 30)
    assert (full.hidden_size, full.num_layers, full.num_heads) == (1024, 24, 16)
    assert (full.attn_tokens, full.ffn_tokens) == ((768, 1792), (3072, 7168))
    assert (full.training.max_steps, full.grown_steps) == (600_000, 120_000)
    assert full.training.learning_rate == 6e-4
    assert full.training.warmup_steps == 0.01 * full.training.max_steps
