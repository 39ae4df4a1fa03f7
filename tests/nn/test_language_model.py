"""LanguageModel: state, packing, padding, loss, initialisation, files."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from rankone.nn import LanguageModel, LanguageModelConfig, LightningAttention, SoftmaxAttention
from torch import nn

VOCAB, TIME = 19, 33

# Float64 models; rotary angles and log-decays are float32 in both of the compared runs.
TOLERANCE = {"rtol": 1e-9, "atol": 1e-9}

MIXERS = {
    "linear": {"mixer": "lightning_attention"},
    "channel decay": {"mixer": "lightning_attention", "mixer_kwargs": {"decay": "channel"}},
    "hybrid": {
        "mixer": ["lightning_attention", "softmax_attention"],
        "mixer_kwargs": [{"decay": "token"}, {"window_size": 8}],
    },
}


def build(**options):
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCAB, "hidden_size": 16, "num_layers": 2, "num_heads": 2}
    return LanguageModel(LanguageModelConfig(**{**sizes, **options})).double().eval()


@pytest.fixture(params=MIXERS.values(), ids=MIXERS.keys())
def model(request):
    return build(**request.param)


def draw(batch=2, time=TIME):
    return torch.randint(VOCAB, (batch, time), generator=torch.Generator().manual_seed(time))


def test_text_read_in_pieces_equals_text_read_at_once(model):
    tokens = draw()
    whole = model(tokens).logits
    state, pieces = model.init_state(2), []
    for piece in tokens.split([1, 20, 7, 5], dim=1):
        output = model(piece, state=state, return_state=True)
        pieces.append(output.logits)
        state = output.state
    torch.testing.assert_close(torch.cat(pieces, 1), whole, **TOLERANCE)


def test_steps_equal_one_forward(model):
    tokens = draw()
    whole = model(tokens).logits
    state = None
    for t in range(TIME):
        logits, state = model.step(tokens[:, t], state)
        torch.testing.assert_close(logits, whole[:, t], **TOLERANCE)


def test_packed_sequences_equal_separate_ones_in_logits_and_loss(model):
    parts = [draw(1, length) for length in (7, 1, 15, 10)]
    packed = torch.cat(parts, 1)
    cu_seqlens = torch.tensor([0, 7, 7, 8, 23, 33, 33])
    output = model(packed, labels=packed, cu_seqlens=cu_seqlens)
    separate = [model(part).logits for part in parts]
    torch.testing.assert_close(output.logits, torch.cat(separate, 1), **TOLERANCE)
    losses = [
        F.cross_entropy(logits[0, :-1], part[0, 1:], reduction="sum")
        for logits, part in zip(separate, parts, strict=True)
    ]
    # The loss is taken in float32.
    expected = sum(losses) / sum(part.shape[1] - 1 for part in parts)
    torch.testing.assert_close(output.loss.double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_text_equals_the_text_alone_in_logits_and_loss(model, side):
    tokens = draw()
    real = slice(12, TIME) if side == "left" else slice(0, TIME - 12)
    mask = torch.zeros_like(tokens)
    mask[:, real] = 1
    padded = model(tokens, labels=tokens, attention_mask=mask)
    alone = model(tokens[:, real], labels=tokens[:, real])
    torch.testing.assert_close(padded.logits[:, real], alone.logits, **TOLERANCE)
    torch.testing.assert_close(padded.loss, alone.loss, rtol=1e-6, atol=0)


def test_loss_is_the_cross_entropy_of_the_next_token_without_ignored_labels(model):
    tokens = draw()
    labels = tokens.clone()
    labels[0, 5:9] = -100
    output = model(tokens, labels=labels)
    log_p = output.logits.log_softmax(-1)[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]
    kept = labels[:, 1:] != -100
    torch.testing.assert_close(output.loss.double(), -log_p[kept].mean(), rtol=1e-6, atol=0)


def test_gradients_reach_every_parameter(model):
    model.train()
    tokens = draw()
    model(tokens, labels=tokens).loss.backward()
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("options", MIXERS.values(), ids=MIXERS.keys())
def test_activation_checkpointing_changes_no_gradient(options):
    tokens = draw()
    gradients = []
    for flag in (False, True):
        model = build(activation_checkpointing=flag, **options).train()
        model(tokens, labels=tokens).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for kept, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(kept, recomputed, **TOLERANCE)


def test_autocast_trains_in_bfloat16_accuracy(model):
    model = model.float().train()
    tokens = draw()
    exact = model(tokens, labels=tokens).loss
    with torch.autocast("cpu", torch.bfloat16):
        output = model(tokens, labels=tokens)
    output.loss.backward()
    assert output.logits.dtype == torch.bfloat16
    assert output.loss.dtype == torch.float32
    # Logits of order 1 carry 8 bits.
    assert (output.loss - exact).abs() < 2**-6
    assert all(parameter.grad.dtype == torch.float32 for parameter in model.parameters())


def test_compiled_model_equals_the_eager_one():
    torch._dynamo.reset()
    model = build(**MIXERS["hybrid"]).train()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    tokens = draw()
    output = compiled(tokens, labels=tokens, return_state=True)
    expected = model(tokens, labels=tokens, return_state=True)
    torch.testing.assert_close(output.logits, expected.logits, **TOLERANCE)
    torch.testing.assert_close(output.loss, expected.loss, rtol=1e-6, atol=0)
    output.loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_tied_head_is_the_embedding():
    tied, free = build(), build(tie_embeddings=False)
    assert tied.head is None
    hidden, _ = tied.hidden_states(draw())
    torch.testing.assert_close(
        tied(draw()).logits, hidden @ tied.embedding.weight.T, rtol=1e-12, atol=1e-12
    )
    assert sum(p.numel() for p in free.parameters()) == (
        sum(p.numel() for p in tied.parameters()) + VOCAB * 16
    )


def test_initial_weights_are_scaled_by_width_and_depth():
    model = LanguageModel(
        LanguageModelConfig(vocab_size=500, hidden_size=128, num_layers=8, tie_embeddings=False)
    )
    deviation = math.sqrt(2 / (5 * 128))
    for name, weight in model.named_parameters():
        if weight.ndim < 2:
            continue
        residual = name.endswith(("o_proj.weight", "down_proj.weight"))
        expected = deviation / math.sqrt(16) if residual else deviation
        # Six standard errors of the deviation of n normal draws.
        assert abs(weight.std() / expected - 1) < 6 / math.sqrt(2 * weight.numel()), name
    fixed = LanguageModel(LanguageModelConfig(vocab_size=500, initializer_range=0.5))
    assert abs(fixed.embedding.weight.std() / 0.5 - 1) < 6 / math.sqrt(2 * 500 * 256)


def test_layers_know_their_depth():
    model = build(num_layers=3)
    slopes = [block.mixer.slopes for block in model.blocks]
    assert slopes[0].abs().sum() > slopes[1].abs().sum() > slopes[2].abs().sum()


def test_blocks_without_feed_forward_are_the_mixer_alone():
    model = build(feed_forward=None, num_layers=1)
    assert not any("feed_forward" in name for name, _ in model.named_parameters())
    tokens = draw()
    block = model.blocks[0]
    x = model.embedding(tokens)
    expected = model.norm(x + block.mixer(block.mixer_norm(x)))
    hidden, _ = model.hidden_states(tokens)
    torch.testing.assert_close(hidden, expected, rtol=1e-12, atol=1e-12)


def test_options_of_a_layer_may_name_its_number_of_heads():
    model = build(
        mixer=["lightning_attention", "softmax_attention"], mixer_kwargs=[{}, {"num_heads": 4}]
    )
    assert [block.mixer.num_heads for block in model.blocks] == [2, 4]
    assert model.layer_types == ["lightning_attention", "softmax_attention"]


@pytest.mark.parametrize("norm", ["rmsnorm", "srmsnorm", "layernorm"])
def test_norm_eps_is_that_of_every_norm(norm):
    model = build(norm=norm, norm_eps=0.5)
    assert model.norm.eps == model.blocks[0].mixer_norm.eps == 0.5
    assert model.blocks[1].feed_forward_norm.eps == 0.5


class TestMixerChoice:
    def test_class_callable_and_name_build_the_same_model(self):
        config = LanguageModelConfig(vocab_size=VOCAB, hidden_size=16, num_layers=2, num_heads=2)
        tokens = draw()
        logits = []
        for mixer in (
            None,
            "lightning_attention",
            LightningAttention,
            ["lightning_attention", LightningAttention],
            lambda layer: LightningAttention(16, 2, layer_idx=layer, num_layers=2),
        ):
            model = LanguageModel(config, mixer=mixer)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.copy_(torch.linspace(-1, 1, parameter.numel()).view_as(parameter))
            logits.append(model(tokens).logits)
        assert all(torch.equal(logits[0], other) for other in logits[1:])

    def test_hybrid_by_callable(self):
        config = LanguageModelConfig(vocab_size=VOCAB, hidden_size=16, num_layers=2, num_heads=2)
        model = LanguageModel(
            config,
            mixer=lambda layer: (LightningAttention, SoftmaxAttention)[layer](16, 2),
        )
        assert isinstance(model.blocks[0].mixer, LightningAttention)
        assert isinstance(model.blocks[1].mixer, SoftmaxAttention)

    def test_choices_that_do_not_fit_are_named(self):
        with pytest.raises(ValueError, match=r"mixer must be one of .* got 'nope'"):
            build(mixer="nope")
        with pytest.raises(ValueError, match=r"mixer must have one entry a layer .*2\), got 3"):
            build(mixer=["lightning_attention"] * 3)
        with pytest.raises(ValueError, match=r"mixer_kwargs must have one entry a layer"):
            build(mixer_kwargs=[{}])
        with pytest.raises(TypeError, match=r"a mixer must be a torch.nn.Module"):
            LanguageModel(LanguageModelConfig(vocab_size=4), mixer=lambda layer: nn.Identity())
        with pytest.raises(ValueError, match="mixer_kwargs must be empty when mixer is a callable"):
            LanguageModel(
                LanguageModelConfig(vocab_size=4, mixer_kwargs={"decay": "none"}),
                mixer=lambda layer: LightningAttention(256, 4),
            )


class TestFiles:
    def test_saved_model_is_loaded_with_the_same_logits_and_configuration(self, model, tmp_path):
        path = tmp_path / "model.safetensors"
        model.save(path)
        loaded = LanguageModel.load(path)
        assert loaded.config == model.config
        assert torch.equal(loaded.double()(draw()).logits, model(draw()).logits)

    def test_dtype_is_kept(self, tmp_path):
        build().bfloat16().save(tmp_path / "model")
        loaded = LanguageModel.load(tmp_path / "model")
        assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}

    def test_unregistered_mixers_are_asked_for(self, tmp_path):
        def mixer(layer):
            return LightningAttention(16, 2, decay="token")

        config = LanguageModelConfig(vocab_size=VOCAB, hidden_size=16, num_layers=1, num_heads=2)
        model = LanguageModel(config, mixer=mixer)
        model.save(tmp_path / "model")
        with pytest.raises(ValueError, match="mixer must be given"):
            LanguageModel.load(tmp_path / "model")
        loaded = LanguageModel.load(tmp_path / "model", mixer=mixer)
        assert torch.equal(loaded(draw()).logits, model(draw()).logits)

    def test_failed_save_leaves_the_old_file_and_nothing_else(self, tmp_path, monkeypatch):
        path = tmp_path / "model"
        model = build()
        model.save(path)
        before = path.read_bytes()

        def full_disk(descriptor):
            raise OSError("no space left on device")

        monkeypatch.setattr("rankone._files.os.fsync", full_disk)
        with pytest.raises(OSError, match="no space left"):
            build(num_layers=3).save(path)
        assert path.read_bytes() == before
        assert [entry.name for entry in tmp_path.iterdir()] == ["model"]

    def test_missing_and_foreign_files_are_named(self, tmp_path):
        from safetensors.torch import save_file

        with pytest.raises(FileNotFoundError, match=r"no model file at .*absent"):
            LanguageModel.load(tmp_path / "absent")
        save_file({"x": torch.zeros(1)}, tmp_path / "foreign")
        with pytest.raises(ValueError, match="does not hold a rankone language model"):
            LanguageModel.load(tmp_path / "foreign")

    def test_configuration_goes_through_json(self):
        config = LanguageModelConfig(
            vocab_size=7,
            num_layers=2,
            mixer=["lightning_attention", "softmax_attention"],
            mixer_kwargs=[{"decay": "token"}, {}],
        )
        assert LanguageModelConfig.from_json(config.to_json()) == config
        with pytest.raises(
            ValueError, match=r"unknown entries in the configuration: \['flavour'\]"
        ):
            LanguageModelConfig.from_json('{"vocab_size": 7, "flavour": 1}')


class TestErrors:
    def test_tokens_of_the_wrong_shape_or_dtype(self, model):
        with pytest.raises(TypeError, match=r"tokens must be int32 or int64, got torch.float32"):
            model(torch.zeros(1, 3))
        with pytest.raises(ValueError, match=r"tokens must have shape \(batch, time\)"):
            model(torch.zeros(3, dtype=torch.int64))
        with pytest.raises(ValueError, match=r"tokens must have shape \(batch\)"):
            model.step(torch.zeros(3, 1, dtype=torch.int64))

    def test_labels_of_the_wrong_shape_dtype_or_length(self, model):
        tokens = draw()
        with pytest.raises(ValueError, match=r"labels must have shape \(2, 33\)"):
            model(tokens, labels=tokens[:, 1:])
        with pytest.raises(TypeError, match="labels must be int32 or int64"):
            model(tokens, labels=tokens.double())
        with pytest.raises(ValueError, match="labels need at least 2 tokens a row"):
            model(tokens[:, :1], labels=tokens[:, :1])

    def test_state_of_another_depth_or_batch(self, model):
        state = model.init_state(2)
        with pytest.raises(ValueError, match=r"state must have one entry a layer \(2\), got 3"):
            model(draw(), state=(*state, state[0]))
        with pytest.raises(ValueError, match=r"state.* must have shape"):
            model(draw(1), state=state)

    def test_sizes_below_one(self):
        for name in ("vocab_size", "hidden_size", "num_layers", "num_heads"):
            with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
                dataclasses.replace(LanguageModelConfig(vocab_size=4), **{name: 0})
