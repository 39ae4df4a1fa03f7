"""The reproduction of causal abstraction at a tiny scale, and with a tiny language model."""

import pytest
from joblib import parallel_config
from rankone.reproduce import Settings, _indirect_objects
from rankone.reproduce import causal_abstraction as module

TINY = {
    "training_samples": 256,
    "training_epochs": 1,
    "interventions": (60, 30, 100),
    "seeds": (0, 1),
    "algorithms": ("both_equality", "first_argument", "and_or"),
    "n_blocks": 1,
    "hidden": 4,
    "untrained_hidden": 5,
    "orthogonal_epochs": 1,
    "revnet_epochs": 1,
    "untrained_epochs": 1,
    "progression": (2, 4),
    "prompts": (30, 10, 20),
}


@pytest.fixture(scope="module")
def reproduction():
    return module.run(Settings(overrides=TINY, progress=False))


@pytest.mark.parametrize(
    ("words", "tolerance"),
    [
        ("trained network: accuracy on its task", "≥ 0.99"),
        ("trained network, layer 3: accuracy under the orthogonal map", "≤ 0.6"),
        ("trained network, layer 3: accuracy under the reversible network", "≥ 0.97"),
        ("accuracy at layer 1 less that at layer 3", "> 0.1"),
        ("untrained network: accuracy on the task", "± 0.1"),
        ("untrained network: accuracy under the orthogonal map", "≤ 0.6"),
        ("untrained network: accuracy under the reversible network", "≥ 0.9"),
        ("untrained network: accuracy under the lookup", "exact"),
    ],
)
def test_every_claim_is_there_with_its_tolerance(reproduction, words, tolerance):
    (claim,) = [claim for claim in reproduction.claims if words in claim.statement]
    assert claim.tolerance == tolerance


def test_there_are_no_other_claims(reproduction):
    assert len(reproduction.claims) == 8


def test_lookup_is_perfect_at_any_scale(reproduction):
    assert reproduction.claims[-1].measured == 1.0
    assert reproduction.claims[-1].passed


def test_results_do_not_depend_on_jobs(reproduction):
    with parallel_config(backend="threading"):
        again = module.run(Settings(overrides=TINY, progress=False, n_jobs=2))
    assert [c.measured for c in again.claims] == [c.measured for c in reproduction.claims]
    assert [t.rows for t in again.tables] == [t.rows for t in reproduction.tables]


def test_tables_and_figure(reproduction):
    grid, untrained, published = reproduction.tables
    assert len(grid.rows) == 3 * 3 + 2
    assert [row[0] for row in untrained.rows] == [0, 1]
    assert published.published
    assert not grid.published
    assert not untrained.published
    (figure,) = reproduction.figures
    assert len(figure.panels) == 2


def test_modes_have_the_published_scale():
    quick, full = module.QUICK, module.FULL
    assert (quick.training_samples, quick.training_epochs) == (2**17, 10)
    assert quick.interventions == (2**15, 3000, 10_000)
    assert (quick.n_blocks, quick.hidden, quick.untrained_hidden) == (5, 32, 64)
    assert (quick.orthogonal_epochs, quick.revnet_epochs, quick.untrained_epochs) == (4, 5, 8)
    assert (quick.lr, quick.batch_size, quick.seeds) == (3e-3, 512, (0,))
    assert full.training_samples == 2**20
    assert full.interventions[0] == 1_280_000
    assert full.n_blocks == 10
    assert len(full.seeds) == 10
    assert full.algorithms == tuple(module.ALGORITHMS)
    assert full.progression == (1, 2, 4, 8, 16, 32, 64, 128)
    assert (full.lr, full.batch_size, full.orthogonal_epochs) == (1e-3, 6400, 50)
    assert (_indirect_objects.N_BLOCKS, _indirect_objects.HIDDEN) == (8, 64)
    assert (_indirect_objects.RATE, _indirect_objects.WARMUP_STEPS) == (1e-3, 500)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """A random two-layer GPT-NeoX whose tokenizer knows the prompts' words."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    words = " ".join((*_indirect_objects.TEMPLATES, *_indirect_objects.NAMES))
    words += " " + " ".join((*_indirect_objects.PLACES, *_indirect_objects.THINGS))
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(["?", *words.split()]))}
    raw = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="?"))
    raw.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    folder = tmp_path_factory.mktemp("tiny")
    transformers.PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="?").save_pretrained(
        folder
    )
    config = transformers.GPTNeoXConfig(
        vocab_size=len(vocabulary),
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
    )
    transformers.GPTNeoXForCausalLM(config).save_pretrained(folder)
    return folder


def test_a_given_language_model_is_aligned_through_hooks(model_folder):
    table = _indirect_objects.indirect_objects(model_folder, (30, 10, 20), batch_size=16)
    assert [row[0] for row in table.rows] == ["pretrained", "random"]
    assert all(0 <= value <= 1 for row in table.rows for value in row[1:])


def test_prompts_name_the_answer_once(model_folder):
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_folder)
    prompts = _indirect_objects._prompts(tokenizer)
    tokens, pair, second = prompts[:, :-3], prompts[:, -3:-1], prompts[:, -1]
    answer, subject = pair.gather(1, second[:, None]), pair.gather(1, 1 - second[:, None])
    assert (tokens == answer).sum(dim=1).eq(1).all()
    assert (tokens == subject).sum(dim=1).eq(2).all()
    assert second.double().mean() == 0.5


def test_tokenizer_without_the_names_is_refused(model_folder):
    tokenizer = lambda text, add_special_tokens: {"input_ids": list(text)}  # noqa: E731
    with pytest.raises(ValueError, match="at least 2 of the names as one token, got 0"):
        _indirect_objects._prompts(tokenizer)
