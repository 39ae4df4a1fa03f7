"""TokenFormer against its blocks written out, its growth, its cache and its checkpoints."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from rankone.nn import LanguageModel, LanguageModelConfig, TrainingConfig, build_mixer, train
from rankone.nn.pattention import Pattention
from rankone.nn.tokenformer import SIZES, VOCABULARY, TokenFormer, TokenFormerAttention

# Float64; rotary angles are float32 in both of the compared runs.
TOLERANCE = {"rtol": 1e-9, "atol": 1e-9}
VOCAB, WIDTH, LAYERS, HEADS, TIME = 17, 32, 2, 2, 12


def small(**options):
    torch.manual_seed(0)
    sizes = {"hidden_size": WIDTH, "num_layers": LAYERS, "num_heads": HEADS}
    model = TokenFormer(VOCAB, **{**sizes, "attn_tokens": 20, "ffn_tokens": 40, **options})
    with torch.no_grad():
        # The paper's small initial weights leave tests little to see.
        for parameter in model.parameters():
            parameter.mul_(10)
    return model.double()


@pytest.fixture
def ids():
    return torch.randint(VOCAB, (2, TIME), generator=torch.Generator().manual_seed(1))


def patt(layer, x):
    products = x @ layer.key_param_tokens.T
    norm = (products.square().sum(-1, keepdim=True) + 1e-6).sqrt()
    return F.gelu(layer.scale * products / norm) @ layer.value_param_tokens


def rope(x, rotary_dim):
    """Channels i and i + rotary_dim / 2 as one complex number, turned."""
    half = rotary_dim // 2
    angle = torch.arange(x.shape[1], dtype=torch.float32)[:, None] * 10000.0 ** (
        -torch.arange(half, dtype=torch.float32) * 2 / rotary_dim
    )
    pairs = torch.complex(x[..., :half], x[..., half:rotary_dim])
    turned = pairs * torch.complex(angle.cos().double(), angle.sin().double())[:, None]
    return torch.cat([turned.real, turned.imag, x[..., rotary_dim:]], dim=-1)


def by_definition(model, ids, rotary_dim):
    inner = model.model
    x = inner.embedding(ids)
    for block in inner.blocks:
        h = F.layer_norm(x, (WIDTH,), eps=1e-5)
        q, k, v = (
            patt(layer, h).unflatten(-1, (HEADS, -1))
            for layer in (block.mixer.q_proj, block.mixer.k_proj, block.mixer.v_proj)
        )
        scores = torch.einsum("bthd,bshd->bhts", rope(q, rotary_dim), rope(k, rotary_dim))
        scores = scores / math.sqrt(WIDTH / HEADS)
        future = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).triu(1)
        weights = scores.masked_fill(future, -torch.inf).softmax(-1)
        o = torch.einsum("bhts,bshd->bthd", weights, v).flatten(-2)
        x = x + patt(block.mixer.o_proj, o)
        x = x + patt(block.feed_forward, F.layer_norm(x, (WIDTH,), eps=1e-5))
    x = F.layer_norm(x, (WIDTH,), inner.norm.weight, inner.norm.bias, eps=1e-5)
    return x @ inner.embedding.weight.T


class TestModel:
    @pytest.mark.parametrize(("rotary_pct", "rotary_dim"), [(0.25, 4), (0.5, 8), (0.4, 6), (1, 16)])
    def test_is_its_definition(self, ids, rotary_pct, rotary_dim):
        model = small(rotary_pct=rotary_pct)
        expected = by_definition(model, ids, rotary_dim)
        torch.testing.assert_close(model(ids).logits, expected, **TOLERANCE)

    def test_no_channel_turns_where_the_share_is_below_two(self, ids):
        assert small(rotary_pct=0.1).model.blocks[0].mixer.rotary_dim == 0
        same, other = (small(rotary_pct=share)(ids).logits for share in (0.0, 0.25))
        torch.testing.assert_close(small(rotary_pct=0.1)(ids).logits, same, **TOLERANCE)
        assert (same - other).abs().max() > 1e-3

    def test_parameters_are_tokens_embedding_and_the_final_norm(self):
        model = small(attn_tokens=20, ffn_tokens=50)
        expected = VOCAB * WIDTH + LAYERS * (4 * 20 + 50) * 2 * WIDTH + 2 * WIDTH
        assert sum(parameter.numel() for parameter in model.parameters()) == expected
        names = {name.rsplit(".", 1)[-1] for name, _ in model.named_parameters()}
        assert names == {"key_param_tokens", "value_param_tokens", "weight", "bias"}
        biases = [name for name, _ in model.named_parameters() if name.endswith("bias")]
        assert biases == ["model.norm.bias"]

    def test_defaults(self):
        model = TokenFormer(9, hidden_size=24, num_layers=1, num_heads=2, device="meta")
        assert (model.config["attn_tokens"], model.config["ffn_tokens"]) == (24, 96)
        assert model.config["rotary_pct"] == 0.25
        assert model.model.head is None
        untied = TokenFormer(9, hidden_size=24, num_layers=1, num_heads=2, tie_embeddings=False)
        assert untied.model.head.weight.shape == (9, 24)

    def test_initial_weights(self):
        model = TokenFormer(200, hidden_size=64, num_layers=3, num_heads=2)
        for layer in (module for module in model.modules() if isinstance(module, Pattention)):
            keys, values = layer.key_param_tokens.detach(), layer.value_param_tokens.detach()
            assert float(keys.std()) == pytest.approx(0.02, rel=0.06)
            assert float(values.std()) == pytest.approx(2 / (3 * 8), rel=0.06)
            assert layer.scale == math.sqrt(layer.num_tokens)
        embedding = model.model.embedding.weight.detach()
        assert float(embedding.std()) == pytest.approx(0.02, rel=0.06)

    @pytest.mark.parametrize(
        ("name", "millions"),
        [
            ("150M", 151.9),
            ("450M", 454.2),
            ("900M", 903.3),
            ("1.5B", 1587.2),
            ("354M", 353.5),
            ("757M", 756.2),
        ],
    )
    def test_published_sizes(self, name, millions):
        model = TokenFormer(VOCABULARY, **SIZES[name], device="meta")
        number = sum(parameter.numel() for parameter in model.parameters())
        assert number / 1e6 == pytest.approx(millions, abs=0.05)

    def test_loss_is_that_of_the_next_token(self, ids):
        model = small()
        labels = ids.clone()
        labels[:, 5] = -100
        output = model(ids, labels=labels)
        targets = labels[:, 1:].flatten()
        expected = F.cross_entropy(output.logits[:, :-1].flatten(0, 1), targets)
        torch.testing.assert_close(output.loss.double(), expected, rtol=1e-6, atol=0)
        assert model(ids).loss is None

    def test_reading_on_from_a_cache_equals_reading_at_once(self, ids):
        model = small()
        whole = model(ids)
        assert whole.past is None
        past, pieces = None, []
        for piece in ids.split((1, 4, 0, 7), dim=1):
            output = model(piece, past=past, use_cache=True)
            pieces.append(output.logits)
            past = output.past
        torch.testing.assert_close(torch.cat(pieces, 1), whole.logits, **TOLERANCE)
        assert [cache.keys.shape[1] for cache in past] == [TIME] * LAYERS

    def test_padded_and_packed_texts_are_read_as_alone(self, ids):
        model = small()
        mask = torch.ones_like(ids)
        mask[1, :5] = 0
        padded = model(ids, attention_mask=mask).logits
        torch.testing.assert_close(padded[1, 5:], model(ids[1:, 5:]).logits[0], **TOLERANCE)
        packed = model(ids.flatten()[None], cu_seqlens=torch.tensor([0, TIME, 2 * TIME])).logits
        torch.testing.assert_close(packed[0], model(ids).logits.flatten(0, 1), **TOLERANCE)

    def test_greedy_decoding_equals_reading_the_text_anew(self, ids):
        model = small()
        text = ids[:, :3]
        for _ in range(6):
            text = torch.cat([text, model(text).logits[:, -1].argmax(-1, keepdim=True)], 1)
        assert torch.equal(model.generate(ids[:, :3], 6, temperature=0.0), text)
        drawn = model.generate(ids[:, :3], 6, random_state=3)
        assert torch.equal(drawn, model.generate(ids[:, :3], 6, random_state=3))

    @pytest.mark.parametrize("dropout", [0.0, 0.2])
    def test_gradient_checkpointing_changes_no_gradient(self, ids, dropout):
        gradients = []
        for checkpointing in (False, True):
            model = small(gradient_checkpointing=checkpointing, dropout=dropout)
            torch.manual_seed(4)
            model(ids, labels=ids).loss.backward()
            gradients.append([parameter.grad for parameter in model.parameters()])
        torch.testing.assert_close(*gradients, **TOLERANCE)

    def test_dropout_acts_in_training_mode_only(self, ids):
        model = small(dropout=0.3)
        assert not torch.equal(model(ids).logits, model(ids).logits)
        model.eval()
        torch.testing.assert_close(model(ids).logits, by_definition(model, ids, 4), **TOLERANCE)

    def test_autocast_trains(self, ids):
        model = small().float()
        exact = model(ids).logits
        with torch.autocast("cpu", torch.bfloat16):
            output = model(ids, labels=ids)
        output.loss.backward()
        # Some ten roundings to 8 bits a block, each 2^-9.
        assert (output.logits - exact).norm() / exact.norm() < 2**-4
        for parameter in model.parameters():
            assert parameter.grad.dtype == torch.float32
            assert torch.isfinite(parameter.grad).all()

    def test_compiled_equals_eager(self, ids):
        torch._dynamo.reset()
        model = small(num_layers=1)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(ids).logits, model(ids).logits, **TOLERANCE)


class TestGrowth:
    @pytest.mark.parametrize("norm", ["l2_gelu", "gelu_l2"])
    def test_growth_in_stages_keeps_logits_and_loss(self, ids, norm):
        model = small(norm=norm)
        before = model(ids, labels=ids)
        for attn_tokens, ffn_tokens in ((30, None), (None, 64), (33, 90)):
            model.grow(attn_tokens=attn_tokens, ffn_tokens=ffn_tokens)
            after = model(ids, labels=ids)
            torch.testing.assert_close(after.logits, before.logits, rtol=1e-11, atol=1e-11)
        layers = [module for module in model.modules() if isinstance(module, Pattention)]
        assert sorted({layer.num_tokens for layer in layers}) == [33, 90]
        assert {layer.scale for layer in layers} == {math.sqrt(20), math.sqrt(40)}
        assert (model.config["attn_tokens"], model.config["ffn_tokens"]) == (33, 90)

    @pytest.mark.parametrize("options", [{"rescale": True}, {"key_init": "normal"}])
    def test_growth_as_the_paper_s_code_moves_the_logits(self, ids, options):
        model = small()
        before = model(ids).logits
        model.grow(attn_tokens=40, ffn_tokens=80, **options)
        assert (model(ids).logits - before).norm() / before.norm() > 0.02

    def test_new_parameters_are_trained_with_the_moments_of_the_old(self, ids):
        model = small()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, betas=(0.9, 0.95))
        for _ in range(3):
            optimizer.zero_grad()
            model(ids, labels=ids).loss.backward()
            optimizer.step()
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        before = {
            name: copy.deepcopy(optimizer.state[parameter])
            for name, parameter in model.named_parameters()
        }
        replaced = model.grow(attn_tokens=31, ffn_tokens=64, optimizer=optimizer)
        assert len(replaced) == LAYERS * 5 * 2
        held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        assert {id(entry) for entry in held} == {id(entry) for entry in model.parameters()}
        for old, new in replaced.items():
            state, earlier = optimizer.state[new], before[names[id(old)]]
            assert state["step"] == earlier["step"] == 3
            for moment in ("exp_avg", "exp_avg_sq"):
                assert torch.equal(state[moment][: len(old)], earlier[moment])
                assert state[moment][len(old) :].abs().max() == 0
        loss = model(ids, labels=ids).loss
        for _ in range(3):
            optimizer.zero_grad()
            model(ids, labels=ids).loss.backward()
            optimizer.step()
        assert model(ids, labels=ids).loss < loss
        for old, new in replaced.items():
            assert new[len(old) :].abs().max() > 0

    def test_totals_below_the_present_are_refused_and_nothing_changes(self, ids):
        model = small()
        config = dict(model.config)
        with pytest.raises(ValueError, match="ffn_tokens must be at least the present 40, got 39"):
            model.grow(attn_tokens=30, ffn_tokens=39)
        other = torch.optim.SGD(model.model.blocks[0].parameters(), lr=0.1)
        with pytest.raises(ValueError, match="got one without"):
            model.grow(attn_tokens=30, optimizer=other)
        with pytest.raises(ValueError, match="key_init must be one of"):
            model.grow(attn_tokens=30, key_init="ones")
        assert model.config == config
        assert all(
            layer.num_tokens in (20, 40)
            for layer in model.modules()
            if isinstance(layer, Pattention)
        )
        assert model.grow(attn_tokens=20) == model.grow() == {}

    def test_softmax_grows_on_demand_only(self, ids):
        model = small(norm="softmax")
        with pytest.raises(ValueError, match="allow_function_change=True"):
            model.grow(attn_tokens=30)
        model.grow(attn_tokens=30, allow_function_change=True)
        assert torch.isfinite(model(ids).logits).all()


class TestCheckpoint:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
    def test_a_grown_model_comes_back_with_sizes_and_scales(self, ids, tmp_path, dtype):
        model = small(rotary_pct=0.5, tie_embeddings=False)
        model.grow(attn_tokens=24)
        model.grow(attn_tokens=30, ffn_tokens=64, rescale=True)
        model.to(dtype)
        model.save_pretrained(tmp_path / "model")
        again = TokenFormer.from_pretrained(tmp_path / "model")
        assert again.config == model.config
        assert torch.equal(again(ids).logits, model(ids).logits)
        scales = [layer.scale for layer in again.modules() if isinstance(layer, Pattention)]
        assert set(scales) == {math.sqrt(30), math.sqrt(64)}
        assert [path.name for path in (tmp_path / "model").iterdir()] == ["model.safetensors"]

    def test_a_scale_kept_over_growth_is_in_the_state_dict(self, ids, tmp_path):
        model = small()
        model.grow(attn_tokens=30, ffn_tokens=64)
        model.save_pretrained(tmp_path)
        assert torch.equal(TokenFormer.from_pretrained(tmp_path)(ids).logits, model(ids).logits)
        fresh = TokenFormer(**model.config).double()
        fresh.load_state_dict(model.state_dict())
        assert torch.equal(fresh(ids).logits, model(ids).logits)

    def test_a_model_of_uneven_layers_is_not_saved(self, tmp_path):
        model = small()
        model.model.blocks[1].feed_forward.grow(2)
        with pytest.raises(ValueError, match=r"ffn_tokens = 40 .* got one of 42"):
            model.save_pretrained(tmp_path)

    def test_files_that_are_none_of_ours(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no model file at"):
            TokenFormer.from_pretrained(tmp_path)
        config = LanguageModelConfig(vocab_size=8, hidden_size=16, num_layers=1)
        LanguageModel(config).save(tmp_path / "model.safetensors")
        with pytest.raises(ValueError, match="does not hold a rankone TokenFormer"):
            TokenFormer.from_pretrained(tmp_path)


class TestInsideLanguageModels:
    def model(self):
        config = LanguageModelConfig(
            vocab_size=VOCAB,
            hidden_size=WIDTH,
            num_layers=2,
            num_heads=HEADS,
            mixer=("tokenformer_attention", "lightning_attention"),
            mixer_kwargs=({"num_tokens": 12}, {}),
            feed_forward="pattention",
            intermediate_size=28,
        )
        return LanguageModel(config)

    def test_projections_and_feed_forward_are_pattention(self):
        model = self.model()
        layers = {
            name: layer.num_tokens
            for name, layer in model.named_modules()
            if isinstance(layer, Pattention)
        }
        assert layers == {
            "blocks.0.mixer.q_proj": 12,
            "blocks.0.mixer.k_proj": 12,
            "blocks.0.mixer.v_proj": 12,
            "blocks.0.mixer.o_proj": 12,
            "blocks.0.feed_forward": 28,
            "blocks.1.feed_forward": 28,
        }

    def test_saves_loads_and_decodes(self, ids, tmp_path):
        model = self.model()
        model.save(tmp_path / "model.safetensors")
        again = LanguageModel.load(tmp_path / "model.safetensors")
        text = model.generate(ids, 5, temperature=0.0)
        assert torch.equal(again.generate(ids, 5, temperature=0.0), text)

    def test_learns_with_the_training_loop(self, ids):
        model = TokenFormer(VOCAB, hidden_size=WIDTH, num_layers=1, num_heads=HEADS)
        batches = [{"input_ids": ids, "labels": ids}] * 30
        config = TrainingConfig(max_steps=30, learning_rate=3e-3, warmup_steps=2)
        losses = train(model, batches, config, progress=False).losses
        assert losses[-1] < losses[0] - 1

    def test_cache_grows_by_an_entry_a_token_unless_there_is_a_window(self):
        x = torch.randn(1, 30, WIDTH)
        for window_size, entries in ((None, 30), (8, 8)):
            layer = build_mixer("tokenformer_attention", WIDTH, HEADS, window_size=window_size)
            assert isinstance(layer, TokenFormerAttention)
            _, cache = layer(x, return_state=True)
            assert cache.keys.shape[1] == entries

    def test_initial_values_follow_the_depth_of_the_model(self):
        shallow = build_mixer("tokenformer_attention", 64, 2, num_layers=1)
        deep = build_mixer("tokenformer_attention", 64, 2, num_layers=4)
        ratio = shallow.v_proj.value_init_std / deep.v_proj.value_init_std
        assert ratio == pytest.approx(4)
        assert deep.v_proj.value_init_std == pytest.approx(2 / (4 * 8))


class TestErrors:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"attn_tokens": 0}, "attn_tokens must be at least 1, got 0"),
            ({"ffn_tokens": -2}, "ffn_tokens must be at least 1, got -2"),
            ({"num_heads": 5}, "hidden_size must be a multiple of num_heads"),
            ({"norm": "l1"}, r"norm must be one of .* got 'l1'"),
            ({"rotary_pct": 1.5}, r"rotary_pct must be in \[0, 1\], got 1.5"),
            ({"dropout": -0.1}, r"dropout must be in \[0, 1\), got -0.1"),
            ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        ],
    )
    def test_options(self, options, message):
        with pytest.raises(ValueError, match=message):
            TokenFormer(8, **{"hidden_size": 16, "num_layers": 1, "num_heads": 2, **options})

    def test_inputs(self, ids):
        model = small()
        with pytest.raises(TypeError, match=r"input_ids must be int32 .* got torch\.float32"):
            model(ids.float())
        with pytest.raises(ValueError, match="labels must have shape"):
            model(ids, labels=ids[:, 1:])
        with pytest.raises(ValueError, match=r"past must have one entry a layer \(2\), got 0"):
            model(ids, past=())
        with pytest.raises(ValueError, match=r"input_ids must be 2-D \(batch, time\)"):
            model(ids[0])
