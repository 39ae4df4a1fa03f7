"""Feature maps against their formulas, and HedgehogAttention against its dense weights."""

import copy
import math

import pytest
import torch
from rankone.nn import LanguageModel, LanguageModelConfig, TrainingConfig, apply_rotary, train
from rankone.nn.feature_maps import (
    FEATURE_MAPS,
    EluFeatureMap,
    HedgehogFeatureMap,
    PerformerFeatureMap,
    ReluFeatureMap,
    TaylorFeatureMap,
    feature_map,
)
from rankone.nn.hedgehog import HedgehogAttention, feature_attention

# Float64 throughout, where sums of some dozens of terms are compared.
EXACT = {"rtol": 1e-10, "atol": 1e-12}
# Rotary angles are float32 in both of the compared computations, positions apart.
ROTARY = {"rtol": 1e-6, "atol": 1e-6}
WIDTH, HEADS, KV_HEADS, TIME = 24, 4, 2, 33


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def trained(module, seed=3):
    """The module with parameters as training could leave them: no identity, no zero bias."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.4 * noise.to(parameter.dtype))
    return module


def test_exp_map_at_identity_gives_cosh_of_sums():
    q, k = draw(2, 5, 3, 8)
    phi = HedgehogFeatureMap(8, 3, activation="exp").double()
    torch.testing.assert_close((phi(q) * phi(k)).sum(-1), 2 * torch.cosh(q + k).sum(-1), **EXACT)


def test_each_half_of_the_softmax_map_sums_to_one():
    features = trained(HedgehogFeatureMap(8, 3).double())(5 * draw(5, 3, 8))
    ones = torch.ones(5, 3, dtype=torch.float64)
    torch.testing.assert_close(features[..., :8].sum(-1), ones, **EXACT)
    torch.testing.assert_close(features[..., 8:].sum(-1), ones, **EXACT)
    assert (features >= 0).all()


def test_the_map_is_two_sided():
    x = draw(5, 3, 8)
    phi = HedgehogFeatureMap(8).double()
    torch.testing.assert_close(phi(x)[..., :8], x.softmax(-1), **EXACT)
    torch.testing.assert_close(phi(x)[..., 8:], (-x).softmax(-1), **EXACT)


def test_the_joint_map_is_one_softmax_over_both_signs():
    x = draw(5, 3, 8)
    phi = HedgehogFeatureMap(8, activation="softmax_joint", temperature=0.5).double()
    expected = torch.cat([2 * x, -2 * x], -1).softmax(-1)
    torch.testing.assert_close(phi(x), expected, **EXACT)


@pytest.mark.parametrize("activation", ["softmax", "exp", "softmax_joint"])
def test_temperature_divides_before_the_activation(activation):
    x = draw(5, 3, 8)
    cold = HedgehogFeatureMap(8, activation=activation, temperature=2.0).double()
    plain = HedgehogFeatureMap(8, activation=activation).double()
    torch.testing.assert_close(cold(x), plain(x / 2), **EXACT)


def test_every_head_has_its_own_affine_map():
    phi = trained(HedgehogFeatureMap(6, 3, feature_dim=5, init="normal").double())
    x = draw(2, 7, 3, 6)
    assert phi.weight.shape == (3, 6, 5)
    assert phi.bias.shape == (3, 5)
    for head in range(3):
        y = x[:, :, head] @ phi.weight[head] + phi.bias[head]
        expected = torch.cat([y.softmax(-1), (-y).softmax(-1)], -1)
        torch.testing.assert_close(phi(x)[:, :, head], expected, **EXACT)


def test_a_shared_map_serves_any_number_of_heads():
    phi = trained(HedgehogFeatureMap(6).double())
    x = draw(2, 7, 3, 6)
    assert phi.weight.shape == (1, 6, 6)
    torch.testing.assert_close(phi(x)[:, :, 1:2], phi(x[:, :, 1:2]), **EXACT)


def test_initialisations():
    identity = HedgehogFeatureMap(6, 2)
    assert torch.equal(identity.weight, torch.eye(6).expand(2, 6, 6))
    assert not identity.bias.any()
    torch.manual_seed(0)
    normal = HedgehogFeatureMap(64, 8, feature_dim=128, init="normal", bias=False)
    assert normal.bias is None
    # 65536 draws: the standard deviation's own error is 0.3 %.
    assert normal.weight.std().item() == pytest.approx(64**-0.5, rel=0.02)


def test_extreme_inputs_stay_finite():
    x = torch.tensor([[[1e4, -1e4, 0.0, 50.0]]])
    for activation in ("softmax", "exp", "softmax_joint"):
        phi = HedgehogFeatureMap(4, activation=activation)
        features = phi(x)
        assert features.isfinite().all()
        features.sum().backward()
        assert phi.weight.grad.isfinite().all()
    assert HedgehogFeatureMap(4, activation="exp")(x).max().item() == pytest.approx(math.exp(20))


@pytest.mark.parametrize("name", FEATURE_MAPS)
def test_features_are_float32_whatever_the_precision_around_them(name):
    phi = feature_map(name, 8, 2)
    x = torch.randn(3, 2, 8).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = phi(x)
    assert features.dtype == torch.float32
    assert features.shape == (3, 2, phi.num_features)
    torch.testing.assert_close(features, phi(x.float()))
    assert phi(x.double()).dtype == torch.float64


def test_relu_map_is_t2r():
    phi = trained(ReluFeatureMap(6, 3).double())
    x = draw(4, 3, 6)
    y = torch.einsum("bhd,hdf->bhf", x, phi.weight) + phi.bias
    torch.testing.assert_close(phi(x), y.clamp_min(0) + 1e-6, **EXACT)


def test_elu_map():
    x = draw(4, 3, 6)
    expected = torch.where(x > 0, x + 1, x.exp())
    torch.testing.assert_close(EluFeatureMap(6)(x), expected, **EXACT)


def test_taylor_products_are_the_second_order_series():
    q, k = draw(2, 5, 3, 6)
    s = (q * k).sum(-1) / 6**0.5
    phi = TaylorFeatureMap(6)
    torch.testing.assert_close((phi(q) * phi(k)).sum(-1), 1 + s + s**2 / 2, **EXACT)


def test_performer_products_estimate_the_softmax_kernel():
    q, k = 0.7 * draw(2, 6, 1, 4)
    exact = ((q * k).sum(-1) / 2).exp()
    estimates = torch.stack(
        [
            (phi(q) * phi(k)).sum(-1)
            for phi in (
                PerformerFeatureMap(4, num_features=64, random_state=seed).double()
                for seed in range(400)
            )
        ]
    )
    error = (estimates.mean(0) - exact).abs()
    assert (error < 5 * estimates.std(0) / 400**0.5).all()


def test_performer_directions_are_orthogonal_and_shared_by_queries_and_keys():
    one, two = (PerformerFeatureMap(8, heads, num_features=8) for heads in (4, 2))
    assert torch.equal(one.projection, two.projection)
    gram = one.projection @ one.projection.T
    torch.testing.assert_close(gram, gram.diagonal().diag(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"head_dim": 0}, "head_dim must be at least 1, got 0"),
        ({"num_heads": 0}, "num_heads must be at least 1 or None, got 0"),
        ({"activation": "gelu"}, "activation must be one of .* got 'gelu'"),
        ({"init": "zero"}, "init must be one of .* got 'zero'"),
        ({"feature_dim": 16}, "feature_dim must equal head_dim for init 'identity', got 16 and 8"),
        ({"feature_dim": 0}, "feature_dim must be at least 1, got 0"),
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
    ],
)
def test_map_options_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        HedgehogFeatureMap(**{"head_dim": 8, **arguments})


def test_unknown_map_and_bad_inputs_are_refused():
    with pytest.raises(ValueError, match=r"feature map name must be one of .* got 'cosine'"):
        feature_map("cosine", 8)
    with pytest.raises(ValueError, match="num_features must be at least 1, got 0"):
        feature_map("performer", 8, num_features=0)
    with pytest.raises(ValueError, match=r"x must have shape \(..., 2, 8\), got shape \(3, 3, 8\)"):
        HedgehogFeatureMap(8, 2)(torch.zeros(3, 3, 8))
    with pytest.raises(TypeError, match=r"x must be floating point, got torch.int64"):
        HedgehogFeatureMap(8, 2)(torch.zeros(3, 2, 8, dtype=torch.int64))


def layer_of(**options):
    torch.manual_seed(0)
    defaults = {"num_kv_heads": KV_HEADS, "rotary": True}
    return trained(HedgehogAttention(WIDTH, HEADS, **{**defaults, **options}).double())


def dense(layer, x, allowed):
    """The layer by its T x T weights; allowed (B, T, T)."""
    batch, time, _ = x.shape
    size = layer.head_dim

    def heads(linear, count):
        return linear(x).view(batch, time, count, size)

    q, k, v = (
        heads(layer.q_proj, HEADS),
        heads(layer.k_proj, layer.num_kv_heads),
        heads(layer.v_proj, layer.num_kv_heads),
    )
    if layer.rotary:
        positions = torch.arange(time).expand(batch, -1)
        q, k = apply_rotary(q, positions), apply_rotary(k, positions)
    group = HEADS // layer.num_kv_heads
    phi_q = layer.feature_map_q(q)
    phi_k = layer.feature_map_k(k).repeat_interleave(group, dim=2)
    v = v.repeat_interleave(group, dim=2)
    weights = torch.einsum("bqhf,bkhf->bhqk", phi_q, phi_k) * allowed[:, None]
    weights = weights / weights.sum(-1, keepdim=True)
    return layer.out_proj(torch.einsum("bhqk,bkhv->bqhv", weights, v).flatten(-2))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("rotary", [True, False])
@pytest.mark.parametrize("activation", ["softmax", "exp", "softmax_joint"])
def test_layer_equals_its_dense_weights(causal, rotary, activation):
    layer, x = layer_of(causal=causal, rotary=rotary, activation=activation), draw(2, TIME, WIDTH)
    allowed = torch.ones(2, TIME, TIME, dtype=torch.float64)
    expected = dense(layer, x, allowed.tril() if causal else allowed)
    torch.testing.assert_close(layer(x), expected, rtol=1e-9, atol=1e-10)


def test_layer_equals_its_recurrence_token_by_token():
    layer, x = layer_of(rotary=False), draw(1, TIME, WIDTH)
    q, k, v = layer._project(x, torch.arange(TIME)[None])
    phi_q, phi_k = layer.feature_map_q(q)[0], layer.feature_map_k(k)[0]
    S = torch.zeros(KV_HEADS, phi_k.shape[-1], layer.head_dim, dtype=torch.float64)
    z = torch.zeros(KV_HEADS, phi_k.shape[-1], dtype=torch.float64)
    rows = []
    for t in range(TIME):
        S = S + phi_k[t][:, :, None] * v[0, t][:, None, :]
        z = z + phi_k[t]
        group = torch.arange(HEADS) // (HEADS // KV_HEADS)
        numerator = torch.einsum("hf,hfv->hv", phi_q[t], S[group])
        rows.append(numerator / (phi_q[t] * z[group]).sum(-1, keepdim=True))
    y, state = layer(x, return_state=True)
    torch.testing.assert_close(y[0], layer.out_proj(torch.stack(rows).flatten(-2)), **EXACT)
    torch.testing.assert_close(state.values[0], S, **EXACT)
    torch.testing.assert_close(state.normalizer[0], z, **EXACT)


def test_no_token_sees_the_future():
    layer, x = layer_of(), draw(2, TIME, WIDTH)
    changed = x.clone()
    changed[:, 20:] = 7
    assert torch.equal(layer(changed)[:, :20], layer(x)[:, :20])


def test_grouped_heads_keep_one_state_a_kv_head():
    layer = layer_of()
    _, state = layer(draw(2, 5, WIDTH), return_state=True)
    features = 2 * layer.head_dim
    assert state.values.shape == (2, KV_HEADS, features, layer.head_dim)
    assert state.normalizer.shape == (2, KV_HEADS, features)
    assert layer.feature_map_q.weight.shape[0] == HEADS
    assert layer.feature_map_k.weight.shape[0] == KV_HEADS
    _, later = layer(draw(2, 100, WIDTH), state=state, return_state=True)
    assert later.values.shape == state.values.shape
    assert later.length.tolist() == [105, 105]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_texts_equal_texts_alone(causal, side):
    layer = layer_of(causal=causal)
    x = draw(2, TIME, WIDTH)
    padding = torch.zeros(2, TIME, dtype=torch.bool)
    real = slice(5, None) if side == "left" else slice(None, TIME - 5)
    padding[1, :5] = side == "left"
    padding[1, TIME - 5 :] = side == "right"
    x[1, padding[1]] = 1e3  # what stands at padding does not matter
    y = layer(x, key_padding_mask=padding)
    torch.testing.assert_close(y[1:, real], layer(x[1:, real]), **ROTARY)
    torch.testing.assert_close(y[:1], layer(x[:1]), **ROTARY)
    assert torch.equal(y, layer(x, attention_mask=~padding))


@pytest.mark.parametrize("causal", [True, False])
def test_packed_texts_equal_texts_alone(causal):
    layer = layer_of(causal=causal)
    parts = [draw(1, length, WIDTH, seed=length) for length in (9, 1, 0, 14)]
    offsets = torch.tensor([0, 9, 10, 10, 24])
    y = layer(torch.cat(parts, 1), cu_seqlens=offsets)
    separate = torch.cat([layer(part) for part in parts if part.shape[1]], 1)
    torch.testing.assert_close(y, separate, **ROTARY)


def test_steps_equal_one_pass():
    layer, x = layer_of(), draw(2, 12, WIDTH)
    state, rows = layer.init_state(2), []
    for t in range(12):
        y, state = layer.step(x[:, t], state)
        rows.append(y)
    torch.testing.assert_close(torch.stack(rows, 1), layer(x), **ROTARY)


def test_wide_features_are_read_in_blocks():
    """Taylor features of 16 channels are 273 wide, above the kernels' limit."""
    phi = TaylorFeatureMap(16)
    q, k, v = draw(3, 2, 20, 2, 16)
    q, k = phi(q), phi(k)
    weights = torch.einsum("bqhf,bkhf->bhqk", q, k).tril()
    weights = weights / weights.sum(-1, keepdim=True)
    expected = torch.einsum("bhqk,bkhv->bqhv", weights, v)
    o, _ = feature_attention(q, k, v)
    torch.testing.assert_close(o, expected, rtol=1e-9, atol=1e-10)
    first, state = feature_attention(q[:, :13], k[:, :13], v[:, :13], return_state=True)
    rest, _ = feature_attention(q[:, 13:], k[:, 13:], v[:, 13:], state=state)
    torch.testing.assert_close(torch.cat([first, rest], 1), expected, rtol=1e-9, atol=1e-10)
    whole, _ = feature_attention(q, k, v, causal=False)
    full = torch.einsum("bqhf,bkhf->bhqk", q, k)
    full = full / full.sum(-1, keepdim=True)
    torch.testing.assert_close(
        whole, torch.einsum("bhqk,bkhv->bqhv", full, v), rtol=1e-9, atol=1e-10
    )


def test_weak_features_are_normalised_as_well():
    """Disjoint one-hot queries and keys: products of 1e-16, and still a mean of the values."""
    q = torch.tensor([1e-8, 1e-16]).repeat(1, 4, 1, 1)
    k = torch.tensor([1e-8, 1.0]).repeat(1, 4, 1, 1)
    v = torch.arange(4.0)[None, :, None, None]
    o, _ = feature_attention(q, k, v)
    torch.testing.assert_close(o.flatten(), torch.tensor([0.0, 0.5, 1.0, 1.5]))


def model_of(**options):
    torch.manual_seed(0)
    return LanguageModel(
        LanguageModelConfig(
            vocab_size=40,
            hidden_size=32,
            num_layers=2,
            num_heads=4,
            mixer="hedgehog_attention",
            mixer_kwargs={"rotary": True, "num_kv_heads": 2, **options},
        )
    )


def test_language_model_trains_from_scratch_and_decodes_in_constant_memory():
    model = model_of()
    tokens = torch.arange(30).repeat(4, 1) % 11
    batches = [{"tokens": tokens, "labels": tokens}] * 40
    config = TrainingConfig(max_steps=40, learning_rate=1e-2, warmup_steps=2)
    result = train(model, batches, config, progress=False)
    assert result.losses[-1] < 0.2 * result.losses[0]
    assert model.blocks[0].mixer.feature_map_q.weight.grad is not None
    generated = model.generate(tokens[:1, :15], 10, temperature=0.0)
    assert generated[0, 15:].tolist() == (torch.arange(15, 25) % 11).tolist()
    _, short = model.step(tokens[:1, 0])
    long = model(tokens[:1], return_state=True).state
    assert [s.values.shape for s in short] == [s.values.shape for s in long]


def test_language_model_is_saved_and_loaded(tmp_path):
    model = trained(model_of())
    tokens = torch.randint(40, (1, 9), generator=torch.Generator().manual_seed(0))
    model.save(tmp_path / "model.safetensors")
    loaded = LanguageModel.load(tmp_path / "model.safetensors")
    assert torch.equal(loaded(tokens).logits, model(tokens).logits)


def test_bfloat16_autocast_stays_near_float32():
    layer = copy.deepcopy(layer_of(rotary=False)).float()
    x = draw(2, TIME, WIDTH).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    # Projections of width 24 round at 2^-8; maps and weights do not.
    assert (y.float() - layer(x)).abs().max() < 0.05 * layer(x).abs().max()


def test_bad_arguments_are_refused():
    x = draw(2, 5, WIDTH)
    with pytest.raises(ValueError, match="num_heads must be a multiple of num_kv_heads"):
        HedgehogAttention(24, 4, num_kv_heads=3)
    with pytest.raises(ValueError, match="head_dim must be even for rotary positions, got 3"):
        HedgehogAttention(12, 4, rotary=True)
    with pytest.raises(ValueError, match="state and return_state need a causal layer"):
        layer_of(causal=False)(x, return_state=True)
    layer = layer_of()
    with pytest.raises(ValueError, match=r"x must have shape \(batch, time, 24\)"):
        layer(x[..., :5])
    with pytest.raises(TypeError, match="key_padding_mask must be boolean"):
        layer(x, key_padding_mask=torch.ones(2, 5))
    mask = torch.zeros(2, 5, dtype=torch.bool)
    with pytest.raises(ValueError, match="attention_mask is given"):
        layer(x, key_padding_mask=mask, attention_mask=~mask)
    with pytest.raises(TypeError, match="state must be a HedgehogState"):
        layer(x, state=x)
    with pytest.raises(ValueError, match=r"state.values"):
        layer(x, state=layer.init_state(3))
