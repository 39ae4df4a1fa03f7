"""The reproduction of TransNormer at a tiny scale: every claim, table and figure."""

import pytest
import torch
from rankone.nn.diag_attention import DiagAttention
from rankone.nn.norm_attention import NormAttention
from rankone.nn.transnormer import TransNormer
from rankone.reproduce import Settings
from rankone.reproduce import transnormer as module

TINY = {
    "num_layers": 2,
    "dim": 8,
    "num_heads": 2,
    "block_size": 4,
    "length": 40,
    "batch_size": 2,
    "steps": 2,
    "warmup_steps": 1,
    "validation_windows": 4,
    "shares": (0.1, 0.5, 1.0),
    "n_jobs": 1,
}
SCALE = module.Scale(**TINY)


@pytest.fixture(scope="module")
def reproduction():
    return module.run(Settings(full=True, overrides={**TINY, "runs": 2}, progress=False))


def only(reproduction, words):
    (claim,) = [claim for claim in reproduction.claims if words in claim.statement]
    return claim


@pytest.mark.parametrize(
    ("words", "tolerance"),
    [
        ("|loss(Norm without LRPE) - loss(1+elu)|", "≤ 0.05"),
        (": loss(1+elu) - loss(Norm)", "≥ 0.05"),
        ("loss(Norm) - loss(T2)", "≥ 0.1"),
        ("loss(T2 reversed) - loss(T2)", "≥ 0.02"),
        ("loss(T2) - loss(softmax)", "≤ 0.05"),
        ("T2 attends locally", "≥ 0.9"),
        ("1+elu spreads", "≤ 0.25"),
        ("unbounded with the denominator", "≤ 1e-06"),
        ("bounded with the norm", "≤ 1"),
    ],
)
def test_every_claim_is_there_with_its_tolerance(reproduction, words, tolerance):
    assert only(reproduction, words).tolerance == tolerance


def test_there_are_no_other_claims(reproduction):
    assert len(reproduction.claims) == 9


@pytest.mark.parametrize("words", ["T2 attends locally", "1+elu spreads", "bounded with the"])
def test_claims_that_need_no_training_hold_at_any_scale(reproduction, words):
    """Blocks of 4 lie within the window of 4; untrained 1 + elu is nearly uniform."""
    claims = [claim for claim in reproduction.claims if words in claim.statement]
    assert claims
    assert all(claim.passed for claim in claims), claims


def test_untrained_models_do_not_pass(reproduction):
    assert not only(reproduction, "loss(Norm) - loss(T2)").passed
    assert not reproduction.passed


def test_quick_mode_trains_neither_softmax_nor_t1():
    result = module.run(Settings(overrides=TINY, progress=False))
    assert [row[0] for row in result.tables[0].rows] == list(module.QUICK.variants)
    assert len(result.claims) == 8
    assert result.tables[0].rows[0][2] is None


def test_no_model_depends_on_those_trained_before_it():
    text = module.python_topics()
    orders = ((module.DENOMINATOR, module.T2), (module.T2, module.DENOMINATOR))
    first, second = (
        module._train_all(
            Settings(progress=False), module.Scale(**{**TINY, "variants": order}), text
        )
        for order in orders
    )
    for name in orders[0]:
        for one, other in zip(first[name], second[name], strict=True):
            assert (one.nll, one.local) == (other.nll, other.local)


def test_tables_and_figure(reproduction):
    models, *anchors = reproduction.tables
    assert [row[0] for row in models.rows] == list(module.FULL.variants)
    assert all(row[2] >= 0 for row in models.rows)
    assert not models.published
    assert all(table.published for table in anchors)
    assert ("TransNormer T2", 29.57, 31.01) in anchors[0].rows
    (figure,) = reproduction.figures
    assert len(figure.panels) == 3
    assert "1+elu" in figure.panels[0]
    assert "T2 reversed" in figure.panels[1]
    assert "bound of Norm" in figure.panels[2]


def test_modes_have_the_stated_scale():
    quick, full = module.QUICK, module.FULL
    for scale in (quick, full):
        assert (scale.num_layers, scale.dim, scale.num_heads, scale.block_size) == (4, 64, 4, 16)
        assert (scale.length, scale.batch_size, scale.validation_windows) == (128, 8, 64)
        assert (scale.learning_rate, scale.warmup_steps, scale.weight_decay) == (3e-3, 30, 0.01)
    assert (quick.runs, quick.steps) == (1, 200)
    assert (full.runs, full.steps) == (3, 1000)
    assert set(full.variants) - set(quick.variants) == {module.SOFTMAX, module.T1}


def kinds(name):
    return [
        getattr(block.mixer, "kind", None) or block.mixer.activation
        for block in module._model(name, SCALE, 10, 0).blocks
    ]


def test_variants_are_what_they_are_called():
    assert kinds(module.T2) == ["softmax", "1+elu"]
    assert kinds(module.REVERSED) == ["1+elu", "softmax"]
    assert kinds(module.T1) == ["relu", "elu"]
    assert kinds(module.NORM) == kinds(module.NORM_PLAIN) == ["1+elu", "1+elu"]
    plain, whole = (module._model(name, SCALE, 10, 0) for name in (module.NORM_PLAIN, module.NORM))
    assert all(block.mixer.lrpe is None for block in plain.blocks)
    assert all(block.mixer.lrpe is not None for block in whole.blocks)
    softmax = module._model(module.SOFTMAX, SCALE, 10, 0)
    assert {block.mixer.block_size for block in softmax.blocks} == {SCALE.length}


@pytest.mark.parametrize("preset", ["T1", "T2"])
def test_presets_have_the_layers_of_the_library(preset):
    library = TransNormer(8, 4, 2, preset=preset, block_size=4)
    scale = module.Scale(**{**TINY, "num_layers": 4})
    ours = module._model(preset, scale, 10, 0)
    for block, other in zip(library.blocks, ours.blocks, strict=True):
        assert repr(block.mixer) == repr(other.mixer)


def test_the_denominator_divides_by_the_sum_of_the_weights():
    torch.manual_seed(0)
    layer = module.DenominatorAttention(8, 2).double()
    x = torch.randn(2, 11, 8, dtype=torch.float64)
    weights = layer.attention_weights(x)
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    raw = NormAttention.attention_weights(layer, x)
    torch.testing.assert_close(weights, raw / raw.sum(-1, keepdim=True))
    v = layer.v_proj(x).unflatten(-1, (2, 4))
    expected = layer.out_proj(torch.einsum("bhts,bshd->bthd", weights, v).flatten(-2))
    torch.testing.assert_close(layer(x), expected)
    with pytest.raises(RuntimeError, match="no decoding step"):
        layer.step(x[:, 0])
    with pytest.raises(RuntimeError, match="reads whole sequences only"):
        layer(x, return_state=True)


def test_gradients_are_those_of_the_theory():
    gradients = module._gradients(Settings(progress=False), module.Scale(scores=5))
    for level, weight in zip(module.QUICK.levels, gradients.weight, strict=True):
        assert weight == pytest.approx(0.2 * 0.8 / level, rel=1e-9)
    softmax = gradients.loss[module.SOFTMAX]
    assert max(softmax) == pytest.approx(min(softmax))
    # Slope -1 with the denominator, flat with the norm once scores are small.
    denominator, norm = gradients.loss[module.DENOMINATOR], gradients.loss[module.NORM]
    for index in range(5):
        assert denominator[index + 1] == pytest.approx(10 * denominator[index])
    assert norm[-1] == pytest.approx(norm[-2], rel=1e-4)
    assert max(norm) <= gradients.bound


def test_characters_are_classes_of_both_texts():
    text = module.python_topics()
    train_tokens, validation_tokens, classes = module._encoded(text)
    letters = sorted(set(text.train + text.validation))
    assert classes == len(letters)
    assert bytes(letters[i] for i in train_tokens[:500].tolist()) == text.train[:500]
    assert bytes(letters[i] for i in validation_tokens[:500].tolist()) == text.validation[:500]


def test_first_layer_of_t2_is_local_by_construction():
    model = module._model(module.T2, SCALE, 10, 0)
    assert isinstance(model.blocks[0].mixer, DiagAttention)
    windows = torch.randint(10, (2, 40))
    nll, local = module._score(model, SCALE, windows)
    assert nll > 0
    assert local[0] == pytest.approx(1)
