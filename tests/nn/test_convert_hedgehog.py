"""Conversion of tiny random models of every supported kind to Hedgehog attention."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from rankone.nn import LanguageModel, LanguageModelConfig, SoftmaxAttention
from rankone.nn.convert import (
    AttentionAdapter,
    LoRAConfig,
    RankoneAttentionAdapter,
    RecurrentCache,
    add_lora,
    attention_distillation_loss,
    attention_fidelity,
    attention_metrics,
    attention_weights,
    distill_attention,
    find_attention,
    lora_parameters,
    register_attention_adapter,
    set_attention_mode,
    to_hedgehog,
)
from rankone.nn.feature_maps import EluFeatureMap, HedgehogFeatureMap
from scipy.stats import spearmanr
from torch import nn

transformers = pytest.importorskip("transformers")

# Float32 models of two or three layers; the dense weights and the recurrence round differently.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
VOCABULARY, WIDTH, HEADS, KV_HEADS, HEAD_DIM = 40, 32, 4, 2, 8
TEXT_MODELS = ["llama", "mistral", "qwen2", "qwen3", "gpt2", "rankone"]
ENCODERS = ["bert", "roberta"]
HUGGING_FACE = [*TEXT_MODELS[:-1], *ENCODERS]


def model_of(kind, layers=2, seed=0):
    """A random model; ``sdpa`` and ``eager`` attention of transformers are both in use."""
    torch.manual_seed(seed)
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": 40,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "max_position_embeddings": 2048,
        "pad_token_id": 0,
    }
    decoder = {**sizes, "num_key_value_heads": KV_HEADS, "bos_token_id": None, "eos_token_id": None}
    t = transformers
    if kind == "llama":
        model = t.LlamaForCausalLM(t.LlamaConfig(**decoder, attn_implementation="eager"))
    elif kind == "mistral":
        model = t.MistralForCausalLM(t.MistralConfig(**decoder, sliding_window=None))
    elif kind == "qwen2":
        model = t.Qwen2ForCausalLM(t.Qwen2Config(**decoder))
    elif kind == "qwen3":
        model = t.Qwen3ForCausalLM(t.Qwen3Config(**decoder, head_dim=HEAD_DIM))
    elif kind == "gpt2":
        config = t.GPT2Config(
            vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=layers, n_head=HEADS, n_positions=2048,
            bos_token_id=None, eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
        model = t.GPT2LMHeadModel(config)
    elif kind == "bert":
        model = t.BertModel(t.BertConfig(**sizes, attn_implementation="eager"))
    elif kind == "roberta":
        model = t.RobertaModel(t.RobertaConfig(**sizes))
    elif kind == "torch":
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 40, batch_first=True)
        model = nn.TransformerEncoder(layer, layers)
    else:
        config = LanguageModelConfig(
            vocab_size=VOCABULARY, hidden_size=WIDTH, num_layers=layers, num_heads=HEADS,
            mixer="softmax_attention", mixer_kwargs={"num_kv_heads": KV_HEADS},
        )  # fmt: skip
        model = LanguageModel(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "embed" not in name:
                parameter.mul_(6)  # queries and keys far from 0: weights far from uniform
    return model.eval()


def tokens_of(batch=2, time=17, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, VOCABULARY, (batch, time), generator=generator)


def output(model, batch, **options):
    result = model(batch, **options)
    if isinstance(result, torch.Tensor):
        return result
    return result.logits if hasattr(result, "logits") else result.last_hidden_state


def inputs_of(kind, **sizes):
    tokens = tokens_of(**sizes)
    if kind != "torch":
        return tokens
    table = torch.randn(VOCABULARY, WIDTH, generator=torch.Generator().manual_seed(2))
    return table[tokens]


def trained_maps(model, seed=5):
    """Maps as training could leave them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "feature_map" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def linear_model(kind, layers=2, **options):
    return set_attention_mode(
        trained_maps(to_hedgehog(model_of(kind, layers), **options)), "linear"
    )


ALL = [*TEXT_MODELS, *ENCODERS, "torch"]


@pytest.mark.parametrize("kind", ALL)
def test_conversion_leaves_outputs_and_the_model_as_they_were(kind):
    model, batch = model_of(kind), inputs_of(kind)
    before = copy.deepcopy(model.state_dict())
    types = [type(found.module) for found in find_attention(model)]
    with torch.no_grad():
        expected = output(model, batch)
        converted = to_hedgehog(model)
        torch.testing.assert_close(output(converted, batch), expected, rtol=1e-5, atol=1e-5)
        set_attention_mode(trained_maps(converted), "linear")
        assert not torch.allclose(output(converted, batch), expected, rtol=1e-2, atol=1e-2)
        assert torch.equal(output(model, batch), expected)
    assert [type(found.module) for found in find_attention(model)] == types
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("kind", ALL)
def test_state_dict_keeps_its_keys_and_gains_those_of_the_maps(kind):
    model = model_of(kind)
    converted = to_hedgehog(model)
    paths = [found.path for found in find_attention(model)]
    added = {
        f"{path}.feature_map_{side}.{name}"
        for path in paths
        for side in "qk"
        for name in ("weight", "bias")
    }
    assert set(converted.state_dict()) == set(model.state_dict()) | added
    fresh = to_hedgehog(model_of(kind, seed=9))
    fresh.load_state_dict(converted.state_dict())
    batch = inputs_of(kind)
    with torch.no_grad():
        for mode in ("softmax", "linear"):
            first, second = (set_attention_mode(m, mode) for m in (fresh, converted))
            assert torch.equal(output(first, batch), output(second, batch))


@pytest.mark.parametrize(
    ("kind", "options", "key_heads"),
    [
        ("llama", {}, KV_HEADS),
        ("llama", {"per_query_head_keys": True}, HEADS),
        ("gpt2", {}, HEADS),
        ("bert", {}, HEADS),
    ],
)
def test_added_parameters(kind, options, key_heads):
    model = model_of(kind, layers=3)
    count = [
        sum(parameter.numel() for parameter in m.parameters())
        for m in (model, to_hedgehog(model, **options))
    ]
    per_head = HEAD_DIM * HEAD_DIM + HEAD_DIM
    assert count[1] - count[0] == 3 * (HEADS + key_heads) * per_head


def dense_outputs(kind, monkeypatch, **options):
    """Outputs with every feature attention replaced by its T x T weights."""
    from rankone.nn.convert import hedgehog as module

    converted, batch = linear_model(kind, **options), inputs_of(kind)

    def dense(q, k, v, *, causal, mask, state, return_state, cu_seqlens):
        group = q.shape[2] // k.shape[2]
        k, v = k.repeat_interleave(group, 2), v.repeat_interleave(group, 2)
        weights = torch.einsum("bqhf,bkhf->bhqk", q.double(), k.double())
        weights = weights.tril() if causal else weights
        weights = weights / weights.sum(-1, keepdim=True)
        o = torch.einsum("bhqk,bkhv->bqhv", weights, v.double()).to(q.dtype)
        return o, (torch.zeros(1), torch.zeros(1)) if return_state else None

    with torch.no_grad():
        recurrent = output(converted, batch)
        monkeypatch.setattr(module, "feature_attention", dense)
        return recurrent, output(converted, batch)


@pytest.mark.parametrize("kind", ALL)
def test_linear_mode_equals_dense_normalised_weights(kind, monkeypatch):
    recurrent, dense = dense_outputs(kind, monkeypatch)
    torch.testing.assert_close(recurrent, dense, **CLOSE)


@pytest.mark.parametrize(
    "options",
    [
        {"per_query_head_keys": True},
        {"activation": "exp"},
        {"feature_map": "relu"},
        {"feature_map": "elu1"},
        {"feature_map": "performer", "num_features": 16},
        {"feature_map": "taylor"},
        {"feature_dim": 12, "init": "normal"},
    ],
)
def test_every_map_converts_a_grouped_model(options, monkeypatch):
    recurrent, dense = dense_outputs("llama", monkeypatch, **options)
    torch.testing.assert_close(recurrent, dense, **CLOSE)


def test_llama_layer_follows_its_formula():
    """Norms, projections, rotation, then the maps: the layer written out by hand."""
    model = linear_model("qwen3", layers=1)
    layer = model.model.layers[0].self_attn
    x = torch.randn(2, 11, WIDTH, generator=torch.Generator().manual_seed(0))
    positions = torch.arange(11)[None]
    cos, sin = model.model.rotary_emb(x, positions)

    def heads(linear, norm):
        y = linear(x).view(2, 11, -1, HEAD_DIM)
        return y if norm is None else norm(y)

    def rotated(y):
        first, second = y[..., : HEAD_DIM // 2], y[..., HEAD_DIM // 2 :]
        return y * cos[:, :, None] + torch.cat([-second, first], -1) * sin[:, :, None]

    q = rotated(heads(layer.q_proj, layer.q_norm))
    k = rotated(heads(layer.k_proj, layer.k_norm))
    v = heads(layer.v_proj, None).repeat_interleave(2, dim=2)
    phi_q, phi_k = layer.feature_map_q(q), layer.feature_map_k(k).repeat_interleave(2, dim=2)
    weights = torch.einsum("bqhf,bkhf->bhqk", phi_q, phi_k).tril()
    weights = weights / weights.sum(-1, keepdim=True)
    expected = layer.o_proj(torch.einsum("bhqk,bkhv->bqhv", weights, v).flatten(-2))
    actual, _ = layer(hidden_states=x, position_embeddings=(cos, sin))
    torch.testing.assert_close(actual, expected, **CLOSE)


@pytest.mark.parametrize("kind", TEXT_MODELS)
def test_decoders_do_not_see_the_future(kind):
    model, tokens = linear_model(kind), tokens_of()
    changed = tokens.clone()
    changed[:, 9:] = 3
    with torch.no_grad():
        torch.testing.assert_close(
            output(model, changed)[:, :9], output(model, tokens)[:, :9], **CLOSE
        )


@pytest.mark.parametrize("mode", ["softmax", "linear"])
@pytest.mark.parametrize("kind", ["bert", "roberta", "torch"])
def test_padded_encoder_batches_equal_unpadded_texts(kind, mode):
    model = set_attention_mode(linear_model(kind), mode)
    batch = inputs_of(kind)
    mask = torch.ones(2, 17, dtype=torch.int64)
    mask[1, 11:] = 0
    with torch.no_grad():
        alone = output(model, batch[1:, :11])
        if kind == "torch":
            padded = model(batch, src_key_padding_mask=mask == 0)
        else:
            padded = output(model, batch, attention_mask=mask)
        torch.testing.assert_close(padded[1:, :11], alone, **CLOSE)


def test_fused_encoder_layers_of_torch_do_not_bypass_the_conversion():
    model = linear_model("torch")
    batch = inputs_of("torch")
    with torch.no_grad():
        fused = model(batch)
    with torch.enable_grad():
        torch.testing.assert_close(fused, model(batch).detach(), **CLOSE)


def test_multihead_attention_reads_its_masks_and_layouts():
    torch.manual_seed(0)
    plain = nn.MultiheadAttention(WIDTH, HEADS)  # time first
    layer = set_attention_mode(trained_maps(to_hedgehog(plain)), "linear")
    first = set_attention_mode(to_hedgehog(nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)),
                               "linear")  # fmt: skip
    first.load_state_dict(layer.state_dict())
    x = torch.randn(2, 9, WIDTH)
    mask = nn.Transformer.generate_square_subsequent_mask(9)
    full, weights = first(x, x, x)
    assert weights is None
    time_first = x.transpose(0, 1).contiguous()
    torch.testing.assert_close(layer(time_first, time_first, time_first)[0].transpose(0, 1), full)
    alone = x[0]
    torch.testing.assert_close(first(alone, alone, alone)[0], full[0], **CLOSE)
    causal = first(x, x, x, attn_mask=mask, is_causal=True)[0]
    torch.testing.assert_close(causal[:, :4], first(x[:, :4], x[:, :4], x[:, :4],
                               attn_mask=mask[:4, :4])[0], **CLOSE)  # fmt: skip
    torch.testing.assert_close(causal, first(x, x, x, attn_mask=mask != 0)[0], **CLOSE)
    with pytest.raises(ValueError, match="attn_mask must be None or the causal mask"):
        first(x, x, x, attn_mask=mask.T)
    with pytest.raises(ValueError, match="only self-attention converts"):
        first(x, x + 1, x)


@pytest.mark.parametrize("kind", TEXT_MODELS[:-1])
def test_cached_decoding_equals_the_full_pass(kind):
    model, tokens = linear_model(kind), tokens_of()
    cache, rows = RecurrentCache(), []
    with torch.no_grad():
        full = output(model, tokens)
        rows.append(output(model, tokens[:, :6], past_key_values=cache, use_cache=True))
        for t in range(6, 17):
            rows.append(output(model, tokens[:, t : t + 1], past_key_values=cache, use_cache=True))
    torch.testing.assert_close(torch.cat(rows, 1), full, **CLOSE)
    assert cache.seq_length == 17


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_generation_with_a_cache_equals_recomputation(kind):
    model, tokens = linear_model(kind), tokens_of()
    options = {"max_new_tokens": 9, "do_sample": False}
    recomputed = model.generate(tokens, use_cache=False, **options)
    assert torch.equal(
        model.generate(tokens, past_key_values=RecurrentCache(), **options), recomputed
    )
    assert torch.equal(model.generate(tokens, **options), recomputed)
    beams = {**options, "num_beams": 3}
    assert torch.equal(
        model.generate(tokens, past_key_values=RecurrentCache(), **beams),
        model.generate(tokens, use_cache=False, **beams),
    )
    torch.manual_seed(0)
    sampled = model.generate(tokens, max_new_tokens=9, do_sample=True)
    assert sampled.shape == (2, 26)


@pytest.mark.parametrize("kind", ["llama", "mistral", "gpt2"])
def test_left_padded_prompts_continue_as_alone(kind):
    model, tokens = linear_model(kind), tokens_of()
    mask = torch.ones_like(tokens)
    mask[1, :5] = 0
    padded = tokens * mask
    options = {"max_new_tokens": 7, "do_sample": False}
    both = model.generate(padded, attention_mask=mask, past_key_values=RecurrentCache(), **options)
    alone = model.generate(tokens[1:, 5:], past_key_values=RecurrentCache(), **options)
    assert torch.equal(both[1, 17:], alone[0, 12:])


@pytest.mark.parametrize(("options", "heads"), [({}, KV_HEADS), ({"per_query_head_keys": True}, 4)])
def test_cache_does_not_grow(options, heads):
    model = linear_model("llama", layers=3, **options)
    sizes = []
    for length in (10, 1000):
        cache = RecurrentCache()
        with torch.no_grad():
            model(tokens_of(1, length), past_key_values=cache, use_cache=True)
        sizes.append(cache.nbytes)
        assert cache.seq_length == length
        assert cache.softmax_nbytes == 0
    assert sizes[0] == sizes[1] == 3 * 4 * heads * 2 * HEAD_DIM * (HEAD_DIM + 1)


@pytest.mark.parametrize("layers", [[0, 2], [1], [-1]])
def test_layers_kept_as_softmax_share_the_cache(layers):
    model = set_attention_mode(
        trained_maps(to_hedgehog(model_of("llama", 3), layers=layers)), "linear"
    )
    tokens, cache = tokens_of(1), RecurrentCache()
    options = {"max_new_tokens": 9, "do_sample": False}
    generated = model.generate(tokens, past_key_values=cache, **options)
    assert torch.equal(generated, model.generate(tokens, use_cache=False, **options))
    kept = 3 - len(layers)
    assert cache.softmax_nbytes == kept * 2 * 4 * KV_HEADS * HEAD_DIM * cache.seq_length
    assert cache.nbytes == len(layers) * 4 * KV_HEADS * 2 * HEAD_DIM * (HEAD_DIM + 1)


def test_a_cache_of_another_kind_is_refused_once_it_holds_tokens():
    model, tokens = model_of("llama"), tokens_of()
    with torch.no_grad():
        cache = model(tokens, use_cache=True).past_key_values
        converted = set_attention_mode(to_hedgehog(model), "linear")
        with pytest.raises(ValueError, match="past_key_values must be a RecurrentCache"):
            converted(tokens, past_key_values=cache)


def test_masks_that_hide_more_than_padding_are_refused():
    model, tokens = linear_model("llama"), tokens_of(1)
    packed = torch.cat([torch.arange(8), torch.arange(9)])[None]
    with pytest.raises(ValueError, match="attention_mask must hide only padding"):
        model(tokens, position_ids=packed, use_cache=False)


def test_cache_bookkeeping():
    cache = RecurrentCache()
    assert (len(cache), cache.seq_length, cache.nbytes, cache.batch_size) == (0, 0, 0, -1)
    assert cache.get_mask_sizes(5, 0) == (5, 0)
    state = (torch.arange(6.0).view(3, 2), torch.arange(3))
    cache.set_state(1, state, tokens=4)
    cache.update(torch.ones(3, 1, 4, 2), torch.ones(3, 1, 4, 2), 0)
    assert (len(cache), cache.seq_length, cache.nbytes, cache.batch_size) == (2, 4, 24, 3)
    assert cache.softmax_nbytes == 2 * 3 * 4 * 2 * 4
    cache.reorder_cache(torch.tensor([2, 2, 0]))
    assert cache.state(1)[1].tolist() == [2, 2, 0]
    cache.batch_repeat_interleave(2)
    cache.batch_select_indices(torch.tensor([0, 5]))
    assert cache.state(1)[1].tolist() == [2, 0]
    assert cache.keys_values(0)[0].shape == (2, 1, 4, 2)
    cache.crop(0)
    with pytest.raises(ValueError, match="cannot forget its last tokens"):
        cache.crop(1)
    cache.reset()
    assert (len(cache), cache.seq_length) == (0, 0)


def test_rankone_models_generate_after_conversion():
    model, tokens = linear_model("rankone"), tokens_of()
    assert isinstance(model.blocks[0].mixer, SoftmaxAttention)
    generated = model.generate(tokens, 8, temperature=0.0)
    for _ in range(8):
        with torch.no_grad():
            following = model(tokens).logits[:, -1].argmax(-1)
        tokens = torch.cat([tokens, following[:, None]], 1)
    assert torch.equal(generated, tokens)


def test_converted_mixer_reads_in_pieces_packs_and_pads():
    torch.manual_seed(0)
    plain = SoftmaxAttention(WIDTH, HEADS, num_kv_heads=KV_HEADS).double()
    layer = set_attention_mode(trained_maps(to_hedgehog(plain)), "linear")
    x = torch.randn(2, 20, WIDTH, dtype=torch.float64)
    # Rotary angles are float32.
    near = {"rtol": 1e-6, "atol": 1e-6}
    with torch.no_grad():
        whole = layer(x)
        first, state = layer(x[:, :7], return_state=True)
        second, state = layer(x[:, 7:19], state=state, return_state=True)
        last, state = layer.step(x[:, 19], state)
        torch.testing.assert_close(torch.cat([first, second, last[:, None]], 1), whole, **near)
        step, _ = layer.step(x[:, 0], layer.init_state(2))
        torch.testing.assert_close(step, whole[:, 0], **near)
        assert [s.shape for s in layer.init_state(2)] == [s.shape for s in state]
        mask = torch.arange(20).expand(2, -1) >= torch.tensor([[0], [6]])
        padded = layer(x, attention_mask=mask)
        torch.testing.assert_close(padded[1:, 6:], layer(x[1:, 6:]), **near)
        packed = layer(x.flatten(0, 1)[None], cu_seqlens=torch.tensor([0, 20, 40]))
        torch.testing.assert_close(packed[0].unflatten(0, (2, 20)), whole, **near)


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_copies_and_pickles_work(kind):
    model, tokens = linear_model(kind), tokens_of()
    with torch.no_grad():
        expected = output(model, tokens)
        for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(output(again, tokens), expected)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_bfloat16_models_keep_maps_and_states_in_float32(kind):
    exact = linear_model(kind)
    model = to_hedgehog(model_of(kind).bfloat16())
    layer = model.model.layers[0].self_attn
    assert layer.feature_map_q.weight.dtype == torch.float32
    set_attention_mode(model, "linear")
    cache = RecurrentCache()
    with torch.no_grad():
        logits = model(tokens_of(), past_key_values=cache, use_cache=True).logits
    assert logits.dtype == torch.bfloat16
    assert all(tensor.dtype == torch.float32 for tensor in cache.state(0))
    assert exact(tokens_of()).logits.shape == logits.shape


def test_attentions_are_still_recorded_in_softmax_mode():
    model, tokens = model_of("llama"), tokens_of()
    before = model(tokens, output_attentions=True).attentions
    after = to_hedgehog(model)(tokens, output_attentions=True).attentions
    for first, second in zip(before, after, strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_linear_mode_is_finetuned_end_to_end(checkpointing):
    model, tokens = linear_model("llama"), tokens_of()
    plain = copy.deepcopy(model)
    plain(tokens, labels=tokens).loss.backward()
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    result = model(tokens, labels=tokens)
    assert result.past_key_values is None
    result.loss.backward()
    for (name, one), other in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert one.grad is not None, name
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5)


def test_lora_adapts_a_converted_model():
    model, tokens = linear_model("llama"), tokens_of()
    with torch.no_grad():
        before = output(model, tokens)
    targets = ("q_proj", "k_proj", "v_proj", "o_proj")
    add_lora(model, LoRAConfig(rank=8, alpha=16.0, targets=targets))
    torch.testing.assert_close(output(model, tokens), before, **CLOSE)
    model(tokens, labels=tokens).loss.backward()
    adapted = {id(parameter) for parameter in lora_parameters(model)}
    assert len(adapted) == 2 * 4 * 2
    for parameter in model.parameters():
        assert (parameter.grad is not None) == (id(parameter) in adapted)


def test_autocast_runs_the_maps_in_float32():
    model, tokens = linear_model("llama"), tokens_of()
    cache = RecurrentCache()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(tokens, past_key_values=cache, use_cache=True).logits
    assert logits.isfinite().all()
    assert all(tensor.dtype == torch.float32 for tensor in cache.state(1))


# Distillation.


def padded_inputs(kind):
    tokens = tokens_of()
    mask = torch.ones_like(tokens)
    mask[0, 12:] = 0
    return {"input_ids": tokens, "attention_mask": mask}


@pytest.mark.parametrize("kind", HUGGING_FACE)
def test_distillation_trains_the_maps_and_nothing_else(kind):
    model = to_hedgehog(model_of(kind))
    for number, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(number % 2 == 0)
    flags = [parameter.requires_grad for parameter in model.parameters()]
    before = copy.deepcopy(model.state_dict())
    model.train()
    history = distill_attention(model, [padded_inputs(kind)] * 10)
    assert model.training
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(parameter.grad is None for parameter in model.parameters())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) == ("feature_map" not in name), name
    assert history["kl"].shape == (10, 2)
    assert (history["kl"][-1] < history["kl"][0]).all()
    assert (history["kl"] > 0).all()
    assert len(history["loss"]) == 10


def test_teacher_forcing_gives_every_layer_the_original_hidden_states():
    """What a layer is trained on does not depend on the maps of the layers before it."""
    model, batch = to_hedgehog(model_of("llama", 3)), {"input_ids": tokens_of()}
    before = attention_fidelity(model, batch)
    with torch.no_grad():
        model.model.layers[0].self_attn.feature_map_q.weight.normal_()
    after = attention_fidelity(model, batch)
    assert after["kl"][0] != before["kl"][0]
    assert np.array_equal(after["kl"][1:], before["kl"][1:])


def test_layerwise_backward_equals_one_backward_of_the_mean():
    model, batch = to_hedgehog(model_of("llama", 3)), padded_inputs("llama")
    twin = copy.deepcopy(model)
    set_attention_mode(twin, "distill")
    twin(**batch)
    layers = [layer.self_attn for layer in twin.model.layers]
    loss = torch.stack([layer.distillation_loss for layer in layers]).mean()
    loss.backward()
    seen = {}

    def keep(gradient, name):
        seen[name] = gradient.clone()

    for name, parameter in model.named_parameters():
        if "feature_map" in name:
            parameter.register_hook(lambda gradient, name=name: keep(gradient, name))
    history = distill_attention(model, [batch])
    assert history["loss"][0] == pytest.approx(loss.item(), rel=1e-6)
    for name, parameter in twin.named_parameters():
        if "feature_map" in name:
            torch.testing.assert_close(seen[name], parameter.grad)
        else:
            assert parameter.grad is None, name


def test_loss_equals_kl_plus_teacher_entropy():
    model, batch = to_hedgehog(model_of("bert")), padded_inputs("bert")
    fidelity = attention_fidelity(model, batch)
    history = distill_attention(model, [batch])
    torch.testing.assert_close(
        torch.from_numpy(history["kl"][0]), torch.from_numpy(fidelity["kl"]), rtol=1e-4, atol=1e-5
    )
    total = (fidelity["kl"] + fidelity["entropy_teacher"]).mean()
    assert history["loss"][0] == pytest.approx(total, rel=1e-5)


def test_padding_does_not_count():
    """Ten tokens padded to seventeen are measured as ten tokens."""
    model = to_hedgehog(model_of("bert"))
    tokens = tokens_of(1, 17)
    mask = (torch.arange(17) < 10).long()[None]
    padded = attention_fidelity(model, {"input_ids": tokens, "attention_mask": mask})
    alone = attention_fidelity(model, {"input_ids": tokens[:, :10]})
    for name in padded:
        np.testing.assert_allclose(padded[name], alone[name], rtol=1e-4, atol=1e-5)
    history = distill_attention(model, [{"input_ids": tokens, "attention_mask": mask}])
    np.testing.assert_allclose(history["kl"][0], alone["kl"], rtol=1e-3, atol=1e-5)


def test_stopping_rules_and_callback():
    model = to_hedgehog(model_of("rankone"))
    batches, calls = [tokens_of(), tokens_of(seed=2)], []
    history = distill_attention(
        model, batches, epochs=3, max_steps=5, callback=lambda *call: calls.append(call)
    )
    assert [call[0] for call in calls] == [1, 2, 3, 4, 5]
    assert [call[1] for call in calls] == history["loss"]
    assert np.array_equal(np.stack([call[2] for call in calls]), history["kl"])


def test_loss_of_zero_queries_and_keys_is_the_mean_log_row_length():
    zero = torch.zeros(2, 9, 3, 4)
    maps = HedgehogFeatureMap(4, 3), HedgehogFeatureMap(4, 3)
    causal = attention_distillation_loss(zero, zero, *maps)
    assert causal.item() == pytest.approx(np.log(np.arange(1, 10)).mean(), rel=1e-6)
    full = attention_distillation_loss(zero, zero, *maps, causal=False)
    assert full.item() == pytest.approx(math.log(9), rel=1e-6)
    padding = torch.zeros(2, 9, dtype=torch.bool)
    padding[1, 5:] = True
    padded = attention_distillation_loss(zero, zero, *maps, causal=False, key_padding_mask=padding)
    assert padded.item() == pytest.approx((9 * math.log(9) + 5 * math.log(5)) / 14, rel=1e-6)


class ExponentialMap(nn.Module):
    """One feature a channel pattern whose products are exp(q . k): the student equals the teacher.

    Queries and keys are one-hot, so q . k is 0 or 1 and e^(q . k) = 1 + (e - 1) q . k.
    """

    def forward(self, x):
        ones = torch.ones_like(x[..., :1])
        return torch.cat([ones, math.sqrt(math.e - 1) * x], -1)


def test_loss_is_at_least_the_teacher_entropy_with_equality_at_equal_weights():
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(4, (2, 2, 12, 3), generator=generator)
    q, k = torch.nn.functional.one_hot(codes, 4).double()
    teacher = torch.einsum("bqhd,bkhd->bhqk", q, k)
    teacher = teacher.masked_fill(~torch.ones(12, 12).tril().bool(), -torch.inf).softmax(-1)
    entropy = -torch.special.xlogy(teacher, teacher).sum(-1).mean()
    same = ExponentialMap()
    equal = attention_distillation_loss(q, k, same, same, scale=1.0)
    assert equal.item() == pytest.approx(entropy.item(), rel=1e-12)
    other = attention_distillation_loss(q, k, EluFeatureMap(4), EluFeatureMap(4), scale=1.0)
    assert other > entropy + 0.01


def test_loss_takes_grouped_keys_and_reaches_the_maps_only():
    q = torch.randn(2, 7, 4, 6, requires_grad=True)
    k = torch.randn(2, 7, 2, 6, requires_grad=True)
    map_q, shared, own = (HedgehogFeatureMap(6, heads) for heads in (4, 2, 4))
    loss = attention_distillation_loss(q, k, map_q, shared)
    loss.backward()
    assert q.grad is None
    assert k.grad is None
    assert map_q.weight.grad.any()
    assert shared.weight.grad.any()
    # At initialisation a map a query head is the same as one a kv head.
    assert attention_distillation_loss(q, k, map_q, own).item() == pytest.approx(
        loss.item(), rel=1e-6
    )
    repeated = attention_distillation_loss(q, k.repeat_interleave(2, dim=2), map_q, own)
    assert repeated.item() == pytest.approx(loss.item(), rel=1e-6)


# Metrics.


def random_weights(time=8, causal=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    dots = 2 * torch.randn(2, 3, time, time, dtype=torch.float64, generator=generator)
    scores = dots
    if causal:
        scores = dots.masked_fill(~torch.ones(time, time).tril().bool(), -torch.inf)
    return dots, scores.softmax(-1)


def test_softmax_is_perfectly_monotone_and_equal_to_itself():
    dots, weights = random_weights()
    metrics = attention_metrics(weights, weights, dots=dots)
    assert metrics["kl"] == 0.0
    assert metrics["monotonicity"] == 1.0
    assert metrics["entropy_teacher"] == metrics["entropy_student"]
    assert attention_metrics(weights, weights)["monotonicity"] is None
    assert isinstance(metrics["kl"], float)


def test_uniform_causal_weights_have_the_entropy_of_their_rows():
    uniform = torch.ones(1, 2, 9, 9).tril()
    uniform = uniform / uniform.sum(-1, keepdim=True)
    metrics = attention_metrics(uniform, uniform)
    expected = np.log(np.arange(1, 10)).mean()
    assert metrics["entropy_student"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("causal", [True, False])
def test_metrics_equal_loops_with_scipy(causal):
    dots, teacher = random_weights(causal=causal)
    student = (2 * random_weights(causal=causal, seed=4)[0]).round() / 2  # with ties
    student = student.masked_fill(teacher == 0, -torch.inf).softmax(-1)
    dots = (2 * dots).round()
    padding = torch.zeros(2, 8, dtype=torch.bool)
    padding[0, 6:] = True
    correlations, kl, entropy = [], [], []
    for head in range(3):
        found, divergence, spread = [], [], []
        for row in range(2):
            length = 6 if row == 0 else 8
            for i in range(length):
                end = min(i + 1, length) if causal else length
                p, a = (w[row, head, i, :end].numpy() for w in (teacher, student))
                divergence.append((p * np.log(p / a)).sum())
                spread.append(-(a * np.log(a)).sum())
                d = dots[row, head, i, :end].numpy()
                if end >= 3 and np.ptp(d) > 0:
                    found.append(spearmanr(d, a).statistic if np.ptp(a) > 0 else 0.0)
        correlations.append(np.mean(found))
        kl.append(np.mean(divergence))
        entropy.append(np.mean(spread))
    metrics = attention_metrics(
        teacher, student, dots=dots, causal=causal, key_padding_mask=padding
    )
    assert metrics["monotonicity"] == pytest.approx(np.mean(correlations), rel=1e-9)
    assert metrics["kl"] == pytest.approx(np.mean(kl), rel=1e-9)
    assert metrics["entropy_student"] == pytest.approx(np.mean(entropy), rel=1e-9)


def test_fidelity_equals_the_metrics_of_the_layer_weights():
    model, tokens = trained_maps(to_hedgehog(model_of("llama"))), tokens_of()
    set_attention_mode(model, "linear")
    fidelity = attention_fidelity(model, {"input_ids": tokens})
    for layer in range(2):
        weights = attention_weights(model, {"input_ids": tokens}, layer)
        metrics = attention_metrics(weights.teacher, weights.student, dots=weights.dots)
        for name, value in metrics.items():
            assert fidelity[name][layer] == pytest.approx(value, rel=1e-9)
    assert model.model.layers[0].self_attn.attention_mode == "linear"


def test_weights_are_those_of_the_model():
    model, tokens = model_of("llama"), tokens_of()
    with torch.no_grad():
        recorded = model(tokens, output_attentions=True).attentions
    converted = to_hedgehog(model)
    for layer in range(2):
        weights = attention_weights(converted, {"input_ids": tokens}, layer)
        torch.testing.assert_close(weights.teacher, recorded[layer], **CLOSE)


def test_a_sliding_window_teacher_is_distilled_over_its_window():
    torch.manual_seed(0)
    layer = to_hedgehog(SoftmaxAttention(WIDTH, HEADS, window_size=4))
    weights = attention_weights(layer, torch.randn(1, 12, WIDTH), 0)
    band = torch.ones(12, 12).tril().triu(-3).bool()
    assert not weights.teacher[..., ~band].any()
    torch.testing.assert_close(weights.teacher.sum(-1), torch.ones(1, HEADS, 12))
    assert weights.student[0, 0, 11, 0] > 0


# Refusals.


class Unknown(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)


def test_models_without_supported_attention_are_named():
    message = (
        "no supported attention module in Unknown; register one with register_attention_adapter"
    )
    with pytest.raises(ValueError, match=message):
        to_hedgehog(Unknown())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"feature_map": "cosine"}, "feature_map must be one of .* got 'cosine'"),
        ({"activation": "gelu"}, "activation must be one of .* got 'gelu'"),
        ({"init": "zeros"}, "init must be one of"),
        ({"feature_dim": 5}, "feature_dim must equal head_dim"),
        ({"layers": [2]}, r"layers must be in range\(2\), got 2"),
        ({"layers": [-3]}, r"layers must be in range\(2\), got -3"),
    ],
)
def test_conversion_options_are_checked_before_anything_changes(options, message):
    model = model_of("llama")
    with pytest.raises(ValueError, match=message):
        to_hedgehog(model, inplace=True, **options)
    assert type(model.model.layers[0].self_attn).__name__ == "LlamaAttention"


def test_modes_and_double_conversion_are_checked():
    model = to_hedgehog(model_of("llama"), inplace=True)
    with pytest.raises(ValueError, match=r"mode must be one of .* got 'hard'"):
        set_attention_mode(model, "hard")
    with pytest.raises(ValueError, match="is already converted"):
        to_hedgehog(model)
    with pytest.raises(ValueError, match="has no converted attention"):
        set_attention_mode(model_of("llama"), "linear")


def test_distillation_arguments_are_checked():
    model, batch = to_hedgehog(model_of("llama")), {"input_ids": tokens_of()}
    for options, message in (
        ({"lr": 0.0}, "lr must be positive"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0"),
        ({"max_steps": 0}, "max_steps must be at least 1"),
        ({"epochs": 0}, "epochs must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            distill_attention(model, [batch], **options)
    with pytest.raises(ValueError, match="batches must hold at least one batch"):
        distill_attention(model, [])
    with pytest.raises(ValueError, match="batches must be readable again"):
        distill_attention(model, iter([batch]), epochs=2)
    with pytest.raises(TypeError, match="a batch must be a dict of tensors or a tensor, got list"):
        distill_attention(model, [[1, 2]])
    fixed = to_hedgehog(model_of("llama"), feature_map="elu1")
    with pytest.raises(ValueError, match="have no parameters to distil"):
        distill_attention(fixed, [batch])
    assert model.model.layers[0].self_attn.attention_mode == "softmax"
    with pytest.raises(ValueError, match=r"layer must be in range\(2\), got 2"):
        attention_weights(model, batch, 2)


def test_loss_and_metric_shapes_are_checked():
    q, k = torch.zeros(2, 5, 4, 6), torch.zeros(2, 5, 2, 6)
    maps = HedgehogFeatureMap(6, 4), HedgehogFeatureMap(6, 2)
    with pytest.raises(ValueError, match="q must have shape"):
        attention_distillation_loss(q[0], k, *maps)
    with pytest.raises(ValueError, match="k must have the batch, time and head_dim of q"):
        attention_distillation_loss(q, k[:, :4], *maps)
    with pytest.raises(TypeError, match="key_padding_mask must be boolean"):
        attention_distillation_loss(q, k, *maps, key_padding_mask=torch.ones(2, 5))
    with pytest.raises(ValueError, match="must leave at least one token"):
        attention_distillation_loss(
            q, k, *maps, key_padding_mask=torch.ones(2, 5, dtype=torch.bool)
        )
    weights = torch.ones(1, 2, 5, 5) / 5
    with pytest.raises(ValueError, match=r"teacher must have shape \(B, H, T, T\)"):
        attention_metrics(weights[..., :4], weights)
    with pytest.raises(ValueError, match=r"student must have the shape \(B, H, T, T\)"):
        attention_metrics(weights, weights[:, :1])


def test_other_libraries_attention_is_registered_by_an_adapter():
    class Renamed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = SoftmaxAttention(WIDTH, HEADS)

        def forward(self, x):
            return self.inner.o_proj(x)

    class Other(Renamed):
        pass

    class OtherAdapter(RankoneAttentionAdapter):
        def describe(self, module):
            return super().describe(module.inner)

        def read_call(self, module, args, kwargs):
            return super().read_call(module.inner, args, kwargs)

        def project(self, module, call):
            return super().project(module.inner, call)

        def rotate(self, module, call, q, k):
            return super().rotate(module.inner, call, q, k)

        def output(self, module, call, heads):
            return super().output(module.inner, call, heads)

    register_attention_adapter(Other, OtherAdapter())
    model = nn.Sequential(nn.Identity(), Other())
    converted = set_attention_mode(to_hedgehog(model), "linear")
    plain = set_attention_mode(to_hedgehog(model[1].inner), "linear")
    x = torch.randn(1, 5, WIDTH)
    torch.testing.assert_close(converted(x), plain(x))
    with pytest.raises(TypeError, match="adapter must be an AttentionAdapter"):
        register_attention_adapter(Other, OtherAdapter)
    with pytest.raises(TypeError, match="module_class must be a subclass"):
        register_attention_adapter(int, AttentionAdapter())
