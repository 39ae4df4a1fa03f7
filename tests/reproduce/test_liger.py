"""The reproduction of Liger on a tiny random model: every claim, table and figure."""

import math

import pytest
import torch
from rankone.reproduce import Settings
from rankone.reproduce import liger as module

transformers = pytest.importorskip("transformers")

TINY = {
    "test_start": 300,
    "test_stride": 40,
    "test_windows": 2,
    "test_length": 32,
    "train_tokens": 250,
    "train_length": 24,
    "batch_size": 2,
    "steps": 3,
    "trained": (module.DEFAULT, module.NO_GATE, module.WINDOW_ONLY),
    "evaluate_every": 2,
    "cache_lengths": (70, 150),
    "decoded": 80,
    "decode_prompt": 66,
}
LAYERS, KV_HEADS, DIM = 2, 2, 8


def tiny_network(settings):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=256,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    return module.Network("a random model", model, torch.randint(1, 50, (400,)))


@pytest.fixture(scope="module")
def reproduction():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_network", tiny_network)
        return module.run(Settings(overrides=TINY, progress=False))


def only(reproduction, words):
    (claim,) = [claim for claim in reproduction.claims if words in claim.statement]
    return claim


@pytest.mark.parametrize(
    ("words", "tolerance"),
    [
        ("parameters that conversion adds", "exact"),
        ("parameters that LoRA adds", "exact"),
        ("the window makes conversion viable", "≥ 10"),
        ("weights summing to 1 matter", "≥ 10"),
        ("gates matter: untrained", "≥ 1.5"),
        ("gates matter: perplexity after 3 steps", "≥ 1.5"),
        ("share of the gap in log perplexity", "≥ 0.45"),
        ("cache bytes after 150 tokens, those after 70", "exact"),
        ("equals one full pass", "≤ 0.002"),
    ],
)
def test_every_claim_is_there_with_its_tolerance(reproduction, words, tolerance):
    assert only(reproduction, words).tolerance == tolerance


def test_there_are_no_other_claims(reproduction):
    assert len(reproduction.claims) == 10
    (size,) = [c for c in reproduction.claims if c.statement == "cache bytes after 150 tokens"]
    assert size.tolerance == "≤ 5000000"


@pytest.mark.parametrize("words", ["parameters", "cache bytes", "full pass"])
def test_claims_of_size_and_exactness_hold_at_any_scale(reproduction, words):
    claims = [claim for claim in reproduction.claims if words in claim.statement]
    assert claims
    assert all(claim.passed for claim in claims), claims


def test_sizes_are_those_of_the_formulas(reproduction):
    size = only(reproduction, "cache bytes after 150 tokens, those").measured
    assert size == LAYERS * (4 * KV_HEADS * DIM**2 + 2 * 64 * KV_HEADS * DIM * 4)
    (claim,) = [c for c in reproduction.claims if c.note.startswith("softmax attention")]
    assert claim.note.endswith(str(LAYERS * 2 * 150 * KV_HEADS * DIM * 4))
    assert only(reproduction, "LoRA adds").measured == LAYERS * 8 * (64 + 48 + 48)


def test_a_random_model_does_not_pass(reproduction):
    assert not only(reproduction, "the window makes conversion viable").passed
    assert not reproduction.passed


def test_every_variant_is_in_the_table_and_the_untrained_are_left_open(reproduction):
    table, *published = reproduction.tables
    assert [row[0] for row in table.rows] == ["original model", *module.VARIANTS]
    trained = [row[0] for row in table.rows if row[2] is not None]
    assert trained == list(TINY["trained"])
    assert not table.published
    assert all(entry.published for entry in published)
    for row in table.rows:
        if row[0] not in (module.DEFAULT, "original model") and row[1] < table.rows[1][1]:
            assert row[0] in table.note


def test_figure(reproduction):
    (figure,) = reproduction.figures
    assert len(figure.panels) == 2
    assert "original model" in figure.panels[0]
    assert "softmax attention" in figure.panels[1]


def test_perplexity_is_over_every_predicted_token_of_the_windows():
    network = tiny_network(None)
    windows = network.tokens[:60].view(3, 20)
    logits = network.model(windows).logits.detach()
    nats = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), windows[:, 1:].flatten())
    measured = module._perplexity(network.model, windows)
    assert measured == pytest.approx(math.exp(nats), rel=1e-5)


def test_training_never_reads_the_test_windows():
    scale = module.Scale(**TINY)
    tokens = torch.arange(400)
    batches = module._batches(tokens[: scale.train_tokens], scale, 0)
    epochs = torch.stack([next(batches)["input_ids"] for _ in range(10)]).view(2, 10, 24)
    assert (epochs.diff(dim=2) == 1).all()
    starts = epochs[:, :, 0]
    assert torch.equal(starts.sort(1).values, torch.arange(0, 240, 24).expand(2, -1))
    assert not torch.equal(starts[0], starts[1])
    with pytest.raises(ValueError, match="train_tokens must fill a batch of 1 x 192, got 100"):
        module.Scale(train_tokens=100)
    assert torch.equal(module._test_windows(tokens, scale)[:, 0], torch.tensor([300, 340]))
    with pytest.raises(ValueError, match="after the training text and within 350 tokens"):
        module._test_windows(tokens[:350], scale)
    with pytest.raises(ValueError, match="trained must name variants"):
        module.Scale(trained=("gla, tau = 1",))


def test_the_hybrid_keeps_the_eighth_layers():
    class Model:
        config = type("Config", (), {"num_hidden_layers": 30})

    assert module._options(module.HYBRID, Model)["softmax_layers"] == (7, 15, 23)


def test_modes_have_the_published_scale():
    quick, full = module.QUICK, module.FULL
    assert (quick.test_windows, quick.test_length, quick.test_start) == (3, 256, 90_000)
    assert (quick.test_stride, quick.train_tokens, quick.train_length) == (1_500, 85_000, 192)
    assert (quick.steps, quick.batch_size, quick.decoded) == (15, 1, 160)
    assert (quick.cache_lengths[0], quick.cache_lengths[-1]) == (128, 1024)
    assert (full.steps, full.batch_size, full.train_length) == (2000, 8, 512)
    assert full.trained == tuple(module.VARIANTS)
