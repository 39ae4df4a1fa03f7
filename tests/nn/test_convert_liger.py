"""to_liger on small random models of transformers and on rankone's own decoder."""

import copy

import pytest
import torch
from rankone.nn import LanguageModel, LanguageModelConfig, LoRALinear
from rankone.nn.convert import (
    LoRAConfig,
    RecurrentCache,
    liger_gate,
    lora_parameters,
    merge_lora,
    to_liger,
)
from torch import nn

transformers = pytest.importorskip("transformers")

VOCABULARY, LAYERS, HEADS, KV_HEADS, DIM = 64, 3, 6, 2, 8
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": DIM,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,  # outputs that differ by far more than rounding
    "pad_token_id": 0,
    "eos_token_id": None,
    "bos_token_id": None,
}
FAMILIES = ("Llama", "Mistral", "Qwen2", "Qwen3")
STRUCTURES = ("gla", "hgrn2", "rwkv6", "mlstm", "mamba2", "none")

# Float32 models of three layers with logits of order 1.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


def made(family="Llama", implementation="sdpa", **options):
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(
        **{**SIZES, **options}, attn_implementation=implementation
    )
    return getattr(transformers, f"{family}ForCausalLM")(config).eval()


def tokens_of(batch, time, seed=1):
    # 0 is padding: generate takes it for such where no mask is given.
    return torch.randint(
        1, VOCABULARY, (batch, time), generator=torch.Generator().manual_seed(seed)
    )


@torch.no_grad()
def logits_of(model, tokens, **options):
    return model(tokens, use_cache=False, **options).logits


@torch.no_grad()
def cached_logits(model, tokens, cuts, **options):
    """Read in pieces ending at ``cuts``, through one cache."""
    cache, pieces, start = RecurrentCache(), [], 0
    for end in cuts:
        mask = options.get("attention_mask")
        if mask is not None:
            options["attention_mask"] = mask[:, :end]
        pieces.append(
            model(tokens[:, start:end], past_key_values=cache, use_cache=True, **options).logits
        )
        if mask is not None:
            options["attention_mask"] = mask
        start = end
    return torch.cat(pieces, 1), cache


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


class TestConversion:
    @pytest.mark.parametrize("implementation", ["sdpa", "eager"])
    def test_a_window_over_the_whole_text_alone_is_the_original_model(self, family, implementation):
        model = made(family, implementation)
        tokens = tokens_of(2, 40)
        converted = to_liger(model, alpha=0.0, beta=1.0, window=40)
        torch.testing.assert_close(
            logits_of(converted, tokens), logits_of(model, tokens), **TOLERANCE
        )

    def test_a_window_alone_sees_its_own_tokens_and_no_more(self):
        model = to_liger(made(num_hidden_layers=1), alpha=0.0, beta=1.0, window=5)
        tokens = tokens_of(1, 20)
        before = logits_of(model, tokens)
        for far in range(20):
            changed = tokens.clone()
            changed[0, far] = 1 + tokens[0, far] % (VOCABULARY - 1)
            reached = (logits_of(model, changed) != before).any(-1)[0].nonzero().flatten().tolist()
            assert reached == list(range(far, min(far + 5, 20)))

    def test_conversion_adds_no_parameter_and_keeps_every_name(self, family):
        model = made(family)
        converted = to_liger(model)
        original = model.state_dict()
        assert list(converted.state_dict()) == list(original)
        for name, tensor in converted.state_dict().items():
            assert torch.equal(tensor, original[name])
        assert [p.requires_grad for p in converted.parameters()] == [
            p.requires_grad for p in model.parameters()
        ]
        converted.load_state_dict(original)

    def test_the_attention_stays_at_its_place_and_shows_its_options(self):
        converted = to_liger(
            made(), structure="mlstm", window=9, alpha=0.25, beta=0.75, gate_normalizer=2.0
        )
        for layer in converted.model.layers:
            attention = layer.self_attn
            assert isinstance(attention, type(made().model.layers[0].self_attn))
            assert (attention.structure, attention.window) == ("mlstm", 9)
            assert (attention.alpha, attention.beta) == (0.25, 0.75)
            assert attention.gate_normalizer == 2.0
            assert [name for name, _ in attention.named_children()] == [
                "q_proj",
                "k_proj",
                "v_proj",
                "o_proj",
            ]

    def test_the_original_is_untouched_unless_inplace(self):
        model, tokens = made(), tokens_of(1, 20)
        before = logits_of(model, tokens)
        converted = to_liger(model, window=4)
        assert converted is not model
        with torch.no_grad():
            for parameter in converted.parameters():
                parameter.zero_()
        assert torch.equal(logits_of(model, tokens), before)
        assert to_liger(model, inplace=True, window=4) is model
        assert not torch.equal(logits_of(model, tokens), before)

    def test_converted_models_copy_and_pickle(self, tmp_path):
        model, tokens = to_liger(made(), window=7), tokens_of(1, 20)
        expected = logits_of(model, tokens)
        assert torch.equal(logits_of(copy.deepcopy(model), tokens), expected)
        torch.save(model, tmp_path / "model.pt")
        loaded = torch.load(tmp_path / "model.pt", weights_only=False)
        assert torch.equal(logits_of(loaded, tokens), expected)

    def test_saved_weights_are_those_of_the_original_architecture(self, tmp_path):
        model, tokens = to_liger(made(), window=7), tokens_of(1, 20)
        model.save_pretrained(tmp_path)
        again = to_liger(transformers.LlamaForCausalLM.from_pretrained(tmp_path).eval(), window=7)
        torch.testing.assert_close(logits_of(again, tokens), logits_of(model, tokens), **TOLERANCE)

    @pytest.mark.parametrize("structure", STRUCTURES)
    def test_one_layer_equals_its_definition(self, family, structure):
        """Against dense matrices and this family's own rotary embedding, norms and projections."""
        model = made(family, num_hidden_layers=1)
        converted = to_liger(model, structure=structure, window=6)
        attention = model.model.layers[0].self_attn
        time = 25
        x = torch.randn(1, time, 48, generator=torch.Generator().manual_seed(0))
        places = model.model.rotary_emb(x, torch.arange(time)[None])
        y, _ = converted.model.layers[0].self_attn(
            x, position_embeddings=places, attention_mask=None
        )

        q = attention.q_proj(x).view(1, time, HEADS, DIM)
        k = attention.k_proj(x).view(1, time, KV_HEADS, DIM)
        v = attention.v_proj(x).view(1, time, KV_HEADS, DIM).repeat_interleave(3, 2)
        if family == "Qwen3":
            q, k = attention.q_norm(q), attention.k_norm(k)
        log_decay, features = liger_gate(k, structure)
        total = torch.zeros(1, time, KV_HEADS, 1)
        if log_decay is not None:
            total = (log_decay if log_decay.ndim == 4 else log_decay[..., None]).cumsum(1)
        between = (total[:, :, None] - total[:, None]).repeat_interleave(3, 3).exp()
        future = torch.ones(time, time, dtype=torch.bool).triu(1)
        features = features.repeat_interleave(3, 2)
        weights = torch.einsum(
            "bthd,bshd,btshd->bhts",
            q.softmax(-1),
            features,
            between.expand(1, time, time, HEADS, DIM).masked_fill(
                future[None, :, :, None, None], 0
            ),
        )
        recurred = torch.einsum("bhts,bshd->bthd", weights, v)

        cos, sin = (part[:, :, None] for part in places)
        half = DIM // 2
        turned = [
            part * cos + torch.cat([-part[..., half:], part[..., :half]], -1) * sin
            for part in (q, k.repeat_interleave(3, 2))
        ]
        scores = torch.einsum("bthd,bshd->bhts", *turned) * DIM**-0.5
        weights = scores.masked_fill(future | ~future.logical_not().triu(-5), -torch.inf).softmax(
            -1
        )
        windowed = torch.einsum("bhts,bshd->bthd", weights, v)
        expected = attention.o_proj((0.5 * recurred + 0.5 * windowed).flatten(-2))
        torch.testing.assert_close(y, expected, **TOLERANCE)

    def test_linear_in_alpha_and_beta(self):
        model = made(num_hidden_layers=1)
        x = torch.randn(1, 25, 48)
        places = model.model.rotary_emb(x, torch.arange(25)[None])
        both, first, second = (
            to_liger(model, alpha=alpha, beta=beta, window=5)
            .model.layers[0]
            .self_attn(x, position_embeddings=places, attention_mask=None)[0]
            for alpha, beta in ((0.5, 0.5), (1.0, 0.0), (0.0, 1.0))
        )
        torch.testing.assert_close(both, 0.5 * first + 0.5 * second, rtol=1e-5, atol=1e-5)

    def test_layers_kept_as_softmax(self):
        model, tokens = made(), tokens_of(1, 30)
        hybrid = to_liger(model, window=5, softmax_layers=(1, -1))
        kinds = [hasattr(layer.self_attn, "alpha") for layer in hybrid.model.layers]
        assert kinds == [True, False, False]
        _, cache = cached_logits(hybrid, tokens, (10, 20, 30))
        assert cache.nbytes == 4 * KV_HEADS * DIM**2 + 2 * 5 * KV_HEADS * DIM * 4
        assert cache.softmax_nbytes == 2 * 2 * 30 * KV_HEADS * DIM * 4

    def test_huge_keys_give_finite_logits_and_gradients(self):
        model = made(attention_bias=True)
        with torch.no_grad():
            for layer in model.model.layers:
                layer.self_attn.k_proj.bias.fill_(-1e3)
        for structure in STRUCTURES:
            converted = to_liger(model, structure=structure, window=5)
            tokens = tokens_of(1, 70)
            output = converted(tokens, labels=tokens)
            output.loss.backward()
            assert torch.isfinite(output.logits).all()
            assert all(torch.isfinite(p.grad).all() for p in converted.parameters())

    def test_gradient_checkpointing_and_autocast(self):
        model, tokens = to_liger(made(), window=7), tokens_of(1, 20)
        model(tokens, labels=tokens).loss.backward()
        expected = [parameter.grad.clone() for parameter in model.parameters()]
        model.zero_grad()
        model.activation_checkpointing_enable()
        model.train()(tokens, labels=tokens).loss.backward()
        for parameter, gradient in zip(model.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, **TOLERANCE)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.isfinite(model(tokens, labels=tokens).loss)


class TestGPT2:
    """One joint projection and learned positions instead of rotary ones."""

    @pytest.fixture
    def model(self):
        torch.manual_seed(0)
        config = transformers.GPT2Config(
            vocab_size=VOCABULARY, n_positions=128, n_embd=48, n_layer=2, n_head=4,
            initializer_range=0.2, bos_token_id=None, eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
        return transformers.GPT2LMHeadModel(config).eval()

    def test_a_window_over_the_whole_text_alone_is_the_original_model(self, model):
        tokens = tokens_of(2, 40)
        converted = to_liger(model, alpha=0.0, beta=1.0, window=40)
        torch.testing.assert_close(
            logits_of(converted, tokens), logits_of(model, tokens), **TOLERANCE
        )
        assert list(converted.state_dict()) == list(model.state_dict())

    def test_reading_through_the_cache_equals_reading_at_once(self, model):
        converted = to_liger(model, window=6)
        tokens = tokens_of(2, 30)
        logits, _ = cached_logits(converted, tokens, (11, *range(12, 31)))
        torch.testing.assert_close(logits, logits_of(converted, tokens), **TOLERANCE)


class TestDecoding:
    @pytest.mark.parametrize("cuts", [(40,), (1, 40), (13, 14, 33, 40), tuple(range(1, 41))])
    def test_reading_through_the_cache_equals_reading_at_once(self, family, cuts):
        model = to_liger(made(family), window=6, softmax_layers=(1,))
        tokens = tokens_of(2, 40)
        logits, cache = cached_logits(model, tokens, cuts)
        torch.testing.assert_close(logits, logits_of(model, tokens), **TOLERANCE)
        assert cache.seq_length == 40

    @pytest.mark.parametrize("structure", STRUCTURES)
    def test_every_structure_decodes_as_it_reads(self, structure):
        model = to_liger(made(), structure=structure, window=6)
        tokens = tokens_of(1, 30)
        logits, _ = cached_logits(model, tokens, (12, *range(13, 31)))
        torch.testing.assert_close(logits, logits_of(model, tokens), **TOLERANCE)

    def test_the_cache_has_the_same_size_after_any_number_of_tokens(self):
        model = to_liger(made(), window=6)
        sizes = set()
        for time in (1, 5, 10, 400):
            _, cache = cached_logits(model, tokens_of(1, time), (time,))
            sizes.add((cache.nbytes, cache.softmax_nbytes))
        assert sizes == {(LAYERS * (4 * KV_HEADS * DIM**2 + 2 * 6 * KV_HEADS * DIM * 4), 0)}

    def test_a_bfloat16_model_keeps_a_float32_state_and_its_own_window(self):
        model = to_liger(made().bfloat16(), window=6)
        _, cache = cached_logits(model, tokens_of(2, 9), (8, 9))
        assert cache.state(0).recurrent.dtype == torch.float32
        assert cache.state(0).keys.dtype == torch.bfloat16
        assert cache.nbytes == 2 * LAYERS * (4 * KV_HEADS * DIM**2 + 2 * 6 * KV_HEADS * DIM * 2)

    @pytest.mark.parametrize("implementation", ["sdpa", "eager"])
    @pytest.mark.parametrize("side", ["left", "right"])
    def test_a_padded_batch_equals_each_text_alone(self, family, side, implementation):
        model = to_liger(made(family, implementation), window=6, softmax_layers=(2,))
        tokens = tokens_of(2, 40)
        mask = torch.ones(2, 40, dtype=torch.long)
        real = slice(17, 40) if side == "left" else slice(0, 23)
        mask[0] = 0
        mask[0, real] = 1
        logits = logits_of(model, tokens, attention_mask=mask)
        alone = logits_of(model, tokens[:1, real])
        torch.testing.assert_close(logits[:1, real], alone, **TOLERANCE)
        torch.testing.assert_close(logits[1:], logits_of(model, tokens[1:]), **TOLERANCE)

    def test_left_padded_prompts_decode_as_each_alone(self, family):
        model = to_liger(made(family), window=6)
        tokens = tokens_of(2, 40)
        mask = torch.ones(2, 40, dtype=torch.long)
        mask[0, :9] = 0
        logits, _ = cached_logits(model, tokens, (20, *range(21, 41)), attention_mask=mask)
        torch.testing.assert_close(logits[:1, 9:], logits_of(model, tokens[:1, 9:]), **TOLERANCE)
        torch.testing.assert_close(logits[1:], logits_of(model, tokens[1:]), **TOLERANCE)

    def test_generation_equals_full_recomputation_token_for_token(self, family):
        model = to_liger(made(family), window=6, softmax_layers=(0,))
        prompt = tokens_of(2, 17)
        options = {"max_new_tokens": 25, "do_sample": False}
        cached = model.generate(prompt, past_key_values=RecurrentCache(), **options)
        assert torch.equal(cached, model.generate(prompt, use_cache=False, **options))
        assert torch.equal(cached, model.generate(prompt, **options))

        tokens = prompt
        for _ in range(25):
            tokens = torch.cat([tokens, logits_of(model, tokens)[:, -1:].argmax(-1)], 1)
        assert torch.equal(cached, tokens)

    def test_left_padded_prompts_generate_as_each_alone(self, family):
        model = to_liger(made(family), window=6)
        prompts = [tokens_of(1, 8, seed=2), tokens_of(1, 19, seed=3)]
        batch = torch.zeros(2, 19, dtype=torch.long)
        batch[0, 11:], batch[1] = prompts[0][0], prompts[1][0]
        options = {"max_new_tokens": 20, "do_sample": False}
        together = model.generate(
            batch, attention_mask=batch.ne(0).long(), past_key_values=RecurrentCache(), **options
        )
        for row, prompt in enumerate(prompts):
            alone = model.generate(prompt, past_key_values=RecurrentCache(), **options)
            assert torch.equal(together[row, 19:], alone[0, -20:])

    def test_sampling_and_beams_run_through_the_cache(self):
        model, prompt = to_liger(made(), window=6), tokens_of(2, 9)
        results = []
        for options in ({"past_key_values": RecurrentCache()}, {"use_cache": False}):
            torch.manual_seed(5)
            results.append(model.generate(prompt, max_new_tokens=12, do_sample=True, **options))
        assert torch.equal(*results)
        beams = {"num_beams": 3, "do_sample": False, "max_new_tokens": 12}
        cached = model.generate(prompt, past_key_values=RecurrentCache(), **beams)
        assert torch.equal(cached, model.generate(prompt, use_cache=False, **beams))

    def test_no_call_reads_the_prompt_again(self):
        model = to_liger(made(), window=6)
        seen = []
        model.model.embed_tokens.register_forward_pre_hook(
            lambda module, args: seen.append(args[0].shape[1])
        )
        model.generate(
            tokens_of(1, 30), past_key_values=RecurrentCache(), max_new_tokens=5, do_sample=False
        )
        assert seen == [30, 1, 1, 1, 1]


class TestLoRA:
    def test_only_converted_layers_are_adapted_and_all_else_is_frozen(self):
        model, tokens = made(), tokens_of(1, 20)
        plain = to_liger(model, window=5, softmax_layers=(1,))
        adapted = to_liger(model, window=5, softmax_layers=(1,), lora=LoRAConfig())
        assert torch.equal(logits_of(adapted, tokens), logits_of(plain, tokens))
        kinds = [isinstance(layer.self_attn.q_proj, LoRALinear) for layer in adapted.model.layers]
        assert kinds == [True, False, True]
        count = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
        width, kv = HEADS * DIM, KV_HEADS * DIM
        assert count == 2 * 8 * ((48 + width) + 2 * (48 + kv))
        assert count == sum(p.numel() for p in lora_parameters(adapted))
        assert all(p.requires_grad for p in model.parameters())
        merged = merge_lora(adapted)
        assert list(merged.state_dict()) == list(model.state_dict())

    def test_merged_equals_unmerged(self):
        model, tokens = to_liger(made(), window=5, lora=LoRAConfig(rank=2)), tokens_of(1, 20)
        with torch.no_grad():
            for parameter in lora_parameters(model):
                parameter.normal_(std=0.2)
        before = logits_of(model, tokens)
        torch.testing.assert_close(
            logits_of(merge_lora(model), tokens), before, rtol=1e-5, atol=1e-5
        )

    def test_the_gate_reads_the_adapted_key(self):
        """Recurrence alone, keys adapted: with every read key the same, only the gate can move."""
        model = made(num_hidden_layers=1)
        adapted = to_liger(
            model, structure="mamba2", alpha=1.0, beta=0.0, lora=LoRAConfig(targets=("k_proj",))
        )
        attention = adapted.model.layers[0].self_attn
        with torch.no_grad():
            attention.k_proj.base.weight.zero_()
            # The same value on every channel of a head leaves softmax(k) alone and moves its mean.
            attention.k_proj.B.fill_(0.5)
        x = torch.randn(1, 20, 48, generator=torch.Generator().manual_seed(0))
        places = adapted.model.rotary_emb(x, torch.arange(20)[None])
        call = {"position_embeddings": places, "attention_mask": None}
        y = attention(x, **call)[0]
        with torch.no_grad():
            attention.k_proj.B.zero_()
        assert (attention(x, **call)[0] - y).abs().max() > 1e-3

    def test_a_few_steps_lower_the_loss_and_move_no_original_parameter(self):
        model = to_liger(made(), window=5, lora=LoRAConfig())
        frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
        optimizer = torch.optim.AdamW(lora_parameters(model), lr=1e-2, weight_decay=0.0)
        tokens, losses = tokens_of(4, 30), []
        for _ in range(15):
            loss = model(tokens, labels=tokens).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
        assert losses[-1] < losses[0]
        assert all(torch.equal(p, frozen[n]) for n, p in model.named_parameters() if n in frozen)


class TestOwnDecoder:
    @pytest.fixture
    def model(self):
        torch.manual_seed(0)
        config = LanguageModelConfig(
            vocab_size=40,
            hidden_size=32,
            num_layers=3,
            mixer=("softmax_attention", "delta_net", "softmax_attention"),
            mixer_kwargs=({"num_kv_heads": 2}, {}, {"rope_base": 500.0, "bias": True}),
            initializer_range=0.2,
        )
        return LanguageModel(config).double().eval()

    def test_a_window_over_the_whole_text_alone_is_the_original_model(self, model):
        tokens = torch.randint(40, (2, 30))
        converted = to_liger(model, alpha=0.0, beta=1.0, window=30)
        torch.testing.assert_close(converted(tokens).logits, model(tokens).logits)

    def test_generation_equals_full_recomputation(self, model):
        converted = to_liger(model, window=6)
        prompt = torch.randint(40, (2, 11))
        generated = converted.generate(prompt, 20, temperature=0.0)
        tokens = prompt
        for _ in range(20):
            tokens = torch.cat([tokens, converted(tokens).logits[:, -1:].argmax(-1)], 1)
        assert torch.equal(generated, tokens)

    def test_padded_and_packed_texts_equal_each_alone(self, model):
        converted = to_liger(model, window=6)
        tokens = torch.randint(40, (1, 30))
        whole = converted(tokens).logits
        mask = torch.ones(1, 35, dtype=torch.bool)
        mask[:, :5] = False
        padded = torch.cat([torch.zeros(1, 5, dtype=torch.long), tokens], 1)
        torch.testing.assert_close(converted(padded, attention_mask=mask).logits[:, 5:], whole)
        packed = converted(
            torch.cat([tokens[:, :12], tokens], 1), cu_seqlens=torch.tensor([0, 12, 42])
        ).logits
        torch.testing.assert_close(packed[:, 12:], whole)
        torch.testing.assert_close(packed[:, :12], whole[:, :12])

    def test_a_saved_converted_model_loads_as_one(self, model, tmp_path):
        converted = to_liger(model, structure="mamba2", window=6, alpha=0.3)
        assert list(converted.state_dict()) == list(model.state_dict())
        assert model.config.mixer == ("softmax_attention", "delta_net", "softmax_attention")
        converted.save(tmp_path / "model.safetensors")
        loaded = LanguageModel.load(tmp_path / "model.safetensors").eval()
        tokens = torch.randint(40, (1, 20))
        torch.testing.assert_close(loaded(tokens).logits, converted(tokens).logits)
        assert loaded.layer_types == ["liger_attention", "delta_net", "liger_attention"]
        assert loaded.blocks[0].mixer.alpha == 0.3


class TestErrors:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"structure": "lstm"}, "structure must be one of"),
            ({"structure": "gsa"}, "gated slot attention decays the value side"),
            ({"window": 0}, "window must be at least 1, got 0"),
            ({"gate_normalizer": 0.0}, "gate_normalizer must be positive"),
            ({"gate_normalizer": -1.0}, "gate_normalizer must be positive"),
            ({"lower_bound": 1.0}, r"lower_bound must be in \[0, 1\)"),
            ({"lower_bound": -0.5}, r"lower_bound must be in \[0, 1\)"),
            ({"alpha": 0.0, "beta": 0.0}, "alpha and beta must not both be 0"),
            ({"softmax_layers": (3,)}, r"softmax_layers must be in range\(3\), got 3"),
            ({"softmax_layers": (-4,)}, r"softmax_layers must be in range\(3\), got -4"),
            ({"softmax_layers": (0, 1, 2)}, "must leave at least one layer"),
            ({"lora": LoRAConfig(targets=("c_attn",))}, "targets not found in .*: c_attn"),
        ],
    )
    def test_bad_options_leave_the_model_as_it_was(self, options, message):
        model = made()
        with pytest.raises(ValueError, match=message):
            to_liger(model, inplace=True, **options)
        assert type(model.model.layers[0].self_attn).__name__ == "LlamaAttention"
        assert all(parameter.requires_grad for parameter in model.parameters())

    def test_options_of_the_wrong_type(self):
        for options, message in (
            ({"window": 8.0}, "window must be an integer, got float"),
            ({"softmax_layers": (1.5,)}, "softmax_layers must hold integers, got 1.5"),
            ({"alpha": "half"}, "alpha must be a real number, got str"),
        ):
            with pytest.raises(TypeError, match=message):
                to_liger(made(), **options)

    def test_encoders_are_refused(self):
        config = transformers.BertConfig(
            vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2
        )
        with pytest.raises(ValueError, match=r"bidirectional attention .* use to_hedgehog"):
            to_liger(transformers.BertModel(config))
        with pytest.raises(ValueError, match=r"bidirectional attention .* use to_hedgehog"):
            to_liger(nn.TransformerEncoderLayer(16, 2))

    def test_models_without_attention_are_refused(self):
        with pytest.raises(ValueError, match="no supported attention module in Sequential"):
            to_liger(nn.Sequential(nn.Linear(2, 2)))

    def test_converting_twice_is_refused(self):
        with pytest.raises(ValueError, match="already converted"):
            to_liger(to_liger(made()))

    def test_another_cache_is_refused_by_a_converted_layer(self):
        model = to_liger(made())
        cache = transformers.DynamicCache()
        made()(tokens_of(1, 5), past_key_values=cache, use_cache=True)
        with pytest.raises(ValueError, match="past_key_values must be a RecurrentCache"):
            model(tokens_of(1, 1), past_key_values=cache)
