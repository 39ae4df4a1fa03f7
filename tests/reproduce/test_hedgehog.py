"""The reproduction of Hedgehog on tiny random networks: every claim, table and figure."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rankone.datasets.pretrained import PretrainedNetwork
from rankone.reproduce import Settings
from rankone.reproduce import hedgehog as module
from rankone.reproduce._recall import RecallTraining

transformers = pytest.importorskip("transformers")

VOCABULARY = 60
TINY = {
    "maps": tuple(module._MAPS),
    "max_length": 12,
    "batch_size": 2,
    "steps": 3,
    "seeds": 2,
    "held_out": 5,
    "finetune_steps": 2,
    "window": 16,
    "language_steps": (2, 20),
    "lora_steps": 2,
    "recall": RecallTraining(steps=2, batch_size=2, score_every=2),
}


class Letters:
    """A tokenizer of letters: no vocabulary file, padding with 0."""

    def __call__(self, text, max_length=100_000, return_tensors="pt", **_):
        texts = [text] if isinstance(text, str) else text
        rows = [
            torch.tensor([1 + ord(c) % (VOCABULARY - 1) for c in t[:max_length]]) for t in texts
        ]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = (ids != 0).long()
        return Encoded(input_ids=ids, attention_mask=mask)


class Encoded(dict):
    def __getattr__(self, name):
        return self[name]


SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def network(model):
    return PretrainedNetwork("tiny", model.eval(), Letters(), "here", "none", "0")


def encoder():
    torch.manual_seed(0)
    return network(transformers.BertModel(transformers.BertConfig(**SIZES)))


def decoder():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SIZES, num_key_value_heads=2, pad_token_id=0)
    return network(transformers.LlamaForCausalLM(config))


@pytest.fixture(scope="module")
def reproduction():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_minilm", encoder)
        patch.setattr(module, "load_smollm2", decoder)
        yield module.run(Settings(overrides=TINY, progress=False))


def only(reproduction, words):
    (claim,) = [claim for claim in reproduction.claims if words in claim.statement]
    return claim


@pytest.mark.parametrize(
    ("words", "tolerance", "expected"),
    [
        ("KL(softmax, distilled Hedgehog)", "≤ 0.2", "0.11"),
        ("entropy of the distilled Hedgehog", "≤ 0.4", "0.20"),
        ("that of 1 + elu by (nats)", "≥ 1", "1.53"),
        ("Spearman correlation of the distilled Hedgehog", "≥ 0.8", "0.88"),
        ("and that of 1 + elu", "≤ 0.65", "0.55"),
        ("ReLU map distilled alike (T2R)", "≤ 0.8", "0.56"),
        ("cosine of sentence embeddings", "≥ 0.92", "0.95"),
        ("similarities of all pairs", "≥ 0.88", "0.93"),
        ("distillation helps every layer", "≤ 0.4", "0.25"),
        ("test perplexity after / before 20 steps", "≤ 0.2", "0.061"),
        ("KL, mean of the layers, after / before 20 steps", "≤ 0.6", "0.41"),
    ],
)
def test_every_claim_is_there_with_its_tolerance(reproduction, words, tolerance, expected):
    claims = [claim for claim in reproduction.claims if words in claim.statement]
    claim = claims[-1] if words == "and that of 1 + elu" else only(reproduction, words)
    assert (claim.tolerance, claim.expected) == (tolerance, expected)


def test_there_are_no_other_claims(reproduction):
    assert len(reproduction.claims) == 11


def test_forty_steps_have_claims_of_their_own():
    rows = [(0, 1000.0, 1.2), (20, 100.0, 0.5), (40, 80.0, 0.4)]
    claims = module._language_claims(module.FULL, rows)
    assert [claim.tolerance for claim in claims] == ["≤ 0.2", "≤ 0.6", "≤ 0.15", "≤ 0.5"]
    assert all(claim.passed for claim in claims)


def test_random_networks_do_not_pass(reproduction):
    assert not reproduction.passed


def test_tables_list_every_map_and_step(reproduction):
    encoder_table, language_table, recall, *published = reproduction.tables
    names = [row[0] for row in encoder_table.rows]
    assert names == ["softmax (teacher)", *module._MAPS, module.FINETUNED]
    assert [row[0] for row in language_table.rows] == [
        "softmax (teacher)", "0", "2", "20", "20, then LoRA"
    ]  # fmt: skip
    # 2 layers, 4 query and 2 kv heads of width 4: one matrix and one bias each.
    assert f"{2 * 6 * (16 + 4)} parameters added" in language_table.note
    assert len(recall.rows) == 3
    assert [table.published for table in published] == [True] * 3
    assert not encoder_table.published


def test_figure_has_maps_scatter_and_layers(reproduction):
    (figure,) = reproduction.figures
    assert len(figure.panels) == 3
    assert "Hedgehog, distilled" in figure.panels[2]


def test_paragraphs_are_those_of_the_published_split():
    train, held_out = module.paragraphs(0, 48)
    assert len(held_out) == 48
    assert not set(train) & set(held_out)
    assert len(set(train)) == len(train)
    for text in (*train, *held_out):
        assert len(text.split()) >= 25
        assert not text.startswith(">>>")
        assert "\n" not in text


def test_embeddings_are_means_over_tokens_alone():
    hidden = torch.randn(2, 3, 4)

    class Model(torch.nn.Linear):
        def forward(self, **_):
            return SimpleNamespace(last_hidden_state=hidden)

    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    batch = {"attention_mask": mask}
    expected = torch.stack([hidden[0, :2].mean(0), hidden[1].mean(0)])
    expected = expected / expected.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(module.embeddings(Model(1, 1), batch), expected)


def test_perplexity_is_that_of_a_uniform_guess():
    class Uniform(torch.nn.Linear):
        def forward(self, tokens, labels, use_cache):
            return SimpleNamespace(loss=torch.tensor(np.log(8.0)))

    windows = torch.zeros(2, 5, dtype=torch.int64)
    assert module.perplexity(Uniform(1, 1), windows) == pytest.approx(8.0)


def test_modes_have_the_published_scale():
    quick, full = module.QUICK, module.FULL
    assert (quick.max_length, quick.batch_size, quick.steps, quick.held_out) == (64, 8, 80, 48)
    assert (quick.window, quick.test_windows, quick.language_steps) == (192, 2, (20,))
    assert (full.max_length, full.steps, full.seeds) == (128, 1000, 3)
    assert full.maps == tuple(module._MAPS)
    assert full.language_steps[-1] == 2000
    assert {20, 40} <= set(full.language_steps)
    assert full.finetune_steps
    assert full.lora_steps
