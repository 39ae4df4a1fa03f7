"""LightningAttention against its definition written out, and each of its options."""

import pytest
import torch
import torch.nn.functional as F
from rankone.nn import LightningAttention
from rankone.ops import decay_slopes, linear_attention_reference

WIDTH, HEADS, HEAD_DIM, KV_HEADS, TIME = 20, 4, 6, 2, 19

# Float64 layers with float32 log-decays in both of the compared computations.
TOLERANCE = {"rtol": 1e-9, "atol": 1e-9}

ACTIVATIONS = {
    "silu": F.silu,
    "gelu": F.gelu,
    "relu": F.relu,
    "elu": F.elu,
    "1+elu": lambda x: 1 + F.elu(x),
    "sigmoid": torch.sigmoid,
    "identity": lambda x: x,
}
DECAYS = ["alibi", "linear", "none", "learned", "token", "channel"]


def build(**options):
    torch.manual_seed(0)
    defaults = {"head_dim": HEAD_DIM, "num_kv_heads": KV_HEADS, "layer_idx": 1, "num_layers": 3}
    return LightningAttention(WIDTH, HEADS, **{**defaults, **options}).double()


def draw():
    return torch.randn(2, TIME, WIDTH, dtype=torch.float64)


def log_decay_by_definition(layer, x):
    if layer.decay == "none":
        return None
    if layer.decay in ("alibi", "linear"):
        return decay_slopes(KV_HEADS, 1, 3, layer.decay)
    if layer.decay == "learned":
        return -torch.log1p(layer.decay_logit.exp())
    log_decay = torch.log(torch.sigmoid(layer.a_proj(x))) / 16
    if layer.decay == "channel":
        log_decay = log_decay.reshape(2, TIME, KV_HEADS, HEAD_DIM)
    return log_decay


def norm_by_definition(name, layer, o):
    if name == "headwise_rmsnorm":
        rms = o.pow(2).mean(-1, keepdim=True).add(1e-6).sqrt()
        return (o / rms * layer.norm.weight).flatten(-2)
    o = o.flatten(-2)
    if name == "srmsnorm":
        return o / (o.pow(2).mean(-1, keepdim=True).sqrt() + 1e-8)
    if name == "rmsnorm":
        return o / o.pow(2).mean(-1, keepdim=True).add(1e-6).sqrt() * layer.norm.weight
    return F.layer_norm(o, o.shape[-1:], layer.norm.weight, layer.norm.bias)


def by_definition(layer, x, *, activation="silu", value_activation="silu", norm="srmsnorm"):
    shape = (2, TIME, -1, HEAD_DIM)
    q = ACTIVATIONS[activation](layer.q_proj(x)).reshape(shape)
    k = ACTIVATIONS[activation](layer.k_proj(x)).reshape(shape)
    v = ACTIVATIONS[value_activation](layer.v_proj(x)).reshape(shape)
    o, _ = linear_attention_reference(q, k, v, log_decay_by_definition(layer, x), scale=layer.scale)
    o = norm_by_definition(norm, layer, o)
    if layer.g_proj is not None:
        o = o * torch.sigmoid(layer.g_proj[1](layer.g_proj[0](x)))
    return layer.o_proj(o)


@pytest.mark.parametrize("decay", DECAYS)
def test_layer_is_its_definition_for_every_decay(decay):
    layer, x = build(decay=decay), draw()
    torch.testing.assert_close(layer(x), by_definition(layer, x), **TOLERANCE)


@pytest.mark.parametrize("norm", ["srmsnorm", "rmsnorm", "layernorm", "headwise_rmsnorm"])
def test_layer_is_its_definition_for_every_norm(norm):
    layer, x = build(norm=norm), draw()
    torch.testing.assert_close(layer(x), by_definition(layer, x, norm=norm), **TOLERANCE)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_layer_is_its_definition_for_every_activation(activation):
    for options in ({"activation": activation}, {"value_activation": activation}):
        layer, x = build(**options), draw()
        torch.testing.assert_close(layer(x), by_definition(layer, x, **options), **TOLERANCE)


def test_layer_is_its_definition_without_gate_and_with_biases_and_scale():
    for options in ({"use_output_gate": False}, {"bias": True}, {"scale": 0.01}, {"gate_rank": 3}):
        layer, x = build(norm="layernorm", **options), draw()
        torch.testing.assert_close(layer(x), by_definition(layer, x, norm="layernorm"), **TOLERANCE)


def test_parameters_follow_the_options():
    layer = build(bias=True, gate_rank=3, decay="channel")
    shapes = {name: tuple(tensor.shape) for name, tensor in layer.named_parameters()}
    assert shapes == {
        "q_proj.weight": (24, 20),
        "q_proj.bias": (24,),
        "k_proj.weight": (12, 20),
        "k_proj.bias": (12,),
        "v_proj.weight": (12, 20),
        "v_proj.bias": (12,),
        "a_proj.weight": (12, 20),
        "a_proj.bias": (12,),
        "g_proj.0.weight": (3, 20),
        "g_proj.1.weight": (24, 3),
        "g_proj.1.bias": (24,),
        "o_proj.weight": (20, 24),
        "o_proj.bias": (20,),
    }
    defaults = LightningAttention(32, 4)
    assert defaults.head_dim == 8
    assert defaults.num_kv_heads == 4
    assert defaults.g_proj[0].out_features == 8
    assert not any("bias" in name for name, _ in defaults.named_parameters())


def test_projected_decays_have_one_logit_a_head_or_channel():
    assert build(decay="token").a_proj.out_features == KV_HEADS
    assert build(decay="channel").a_proj.out_features == KV_HEADS * HEAD_DIM


def test_learned_decay_starts_at_the_alibi_slopes():
    layer = build(decay="learned")
    torch.testing.assert_close(
        -F.softplus(layer.decay_logit), decay_slopes(KV_HEADS).double(), rtol=1e-5, atol=0
    )


def test_fixed_slopes_are_no_part_of_a_checkpoint_and_stay_float32():
    layer = build()
    assert "slopes" not in layer.state_dict()
    expected = decay_slopes(KV_HEADS, 1, 3)
    for moved in (layer.bfloat16(), layer.double()):
        assert moved.slopes.dtype == torch.float32
        assert torch.equal(moved.slopes, expected)


def test_layer_built_on_the_meta_device_gets_its_slopes():
    layer = LightningAttention(16, 2, device="meta").to_empty(device="cpu")
    assert torch.equal(layer.slopes, decay_slopes(2, 0, 1))


def test_state_is_float32_and_of_the_key_value_heads():
    layer = build().bfloat16()
    _, state = layer(draw().bfloat16(), return_state=True)
    assert state.shape == (2, KV_HEADS, HEAD_DIM, HEAD_DIM)
    assert state.dtype == torch.float32
    assert layer.init_state(3).shape == (3, KV_HEADS, HEAD_DIM, HEAD_DIM)
    assert layer.init_state(3).dtype == torch.float32
    assert layer.init_state(3, dtype=torch.float64).dtype == torch.float64


@pytest.mark.parametrize("decay", DECAYS)
def test_padding_leaves_the_state_exactly_as_it_was(decay):
    """No decay and no token: a state read over nothing but padding is the same bits."""
    layer = build(decay=decay)
    _, state = layer(draw(), return_state=True)
    _, after = layer(
        draw(),
        state=state,
        attention_mask=torch.zeros(2, TIME, dtype=torch.bool),
        return_state=True,
    )
    assert torch.equal(after, state)


def test_float16_layer_does_not_overflow_on_a_long_text():
    layer = LightningAttention(8, 1, decay="none", activation="1+elu", value_activation="1+elu")
    with torch.no_grad():
        for projection in (layer.q_proj, layer.k_proj, layer.v_proj):
            projection.weight.fill_(1.0)
    y = layer.half()(torch.ones(1, 2000, 8, dtype=torch.float16))
    # The sums before the norm reach 2000 * 8 * 9^3, far beyond the largest float16.
    assert torch.isfinite(y).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decay": "exp"}, r"decay must be one of .* got 'exp'"),
        ({"norm": "batch"}, r"norm must be one of .* got 'batch'"),
        ({"activation": "swish"}, r"^activation must be one of .* got 'swish'"),
        ({"value_activation": "x"}, r"^value_activation must be one of .* got 'x'"),
        ({"gate_rank": 0}, r"gate_rank must be at least 1, got 0"),
        ({"layer_idx": 3}, r"layer_idx must be in range\(3\), got 3"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)
