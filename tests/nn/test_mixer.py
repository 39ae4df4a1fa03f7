"""The contract of rankone.nn.Mixer, for every registered mixer, and the registry."""

import pytest
import torch
from rankone.nn import (
    LightningAttention,
    Mixer,
    SoftmaxAttention,
    build_mixer,
    register_mixer,
    registered_mixers,
)
from rankone.nn.tokenformer import TokenFormerAttention
from torch import nn

WIDTH, HEADS, TIME = 24, 4, 45

# Float64 layers; rotary angles and log-decays are float32 in both of the compared runs.
TOLERANCE = {"rtol": 1e-9, "atol": 1e-9}

MIXERS = {
    "hedgehog": ("hedgehog_attention", {}),
    "hedgehog grouped": ("hedgehog_attention", {"num_kv_heads": 2, "rotary": True}),
    "tokenformer": ("tokenformer_attention", {"num_tokens": 10, "rotary_pct": 0.5}),
    "tokenformer window": ("tokenformer_attention", {"window_size": 7, "norm": "gelu_l2"}),
    "lightning alibi": ("lightning_attention", {}),
    "lightning linear": ("lightning_attention", {"decay": "linear"}),
    "lightning none": ("lightning_attention", {"decay": "none"}),
    "lightning learned": ("lightning_attention", {"decay": "learned"}),
    "lightning token": ("lightning_attention", {"decay": "token"}),
    "lightning channel": ("lightning_attention", {"decay": "channel"}),
    "lightning channel grouped": ("lightning_attention", {"decay": "channel", "num_kv_heads": 2}),
    "softmax": ("softmax_attention", {}),
    "softmax grouped": ("softmax_attention", {"num_kv_heads": 1}),
    "softmax window": ("softmax_attention", {"window_size": 7}),
    "sliding window": ("sliding_window_attention", {"window_size": 16}),
    "liger": ("liger_attention", {"window": 8}),
    "liger grouped scalar": (
        "liger_attention",
        {"window": 5, "structure": "mamba2", "num_kv_heads": 2, "bias": True},
    ),
    "mlstm": ("mlstm", {"input_gate_bias": 5.0}),
    "mlstm rope": (
        "mlstm",
        {"rope": True, "input_gate_bias": 5.0, "round_proj": "up", "conv_size": 3},
    ),
    "slstm": ("slstm", {"recurrent_std": 0.5}),
    "norm": ("norm_attention", {}),
    "norm elu plain": ("norm_attention", {"activation": "elu", "lrpe": False, "bias": False}),
    "diag softmax": ("diag_attention", {"block_size": 7}),
    "diag relu": ("diag_attention", {"block_size": 5, "kind": "relu"}),
    "delta": ("delta_net", {}),
    "delta gate bias": (
        "delta_net",
        {
            "use_output_gate": True,
            "conv_bias": True,
            "expand_k": 0.5,
            "expand_v": 2.0,
            "conv_size": 3,
            "allow_neg_eigval": True,
        },
    ),
    "delta sum norm": ("delta_net", {"qk_activation": "elu", "qk_norm": "sum", "use_beta": False}),
    "delta no conv": ("delta_net", {"use_short_conv": False}),
    "gated delta": ("gated_delta_net", {"head_dim": 6}),
    "gated delta grouped": ("gated_delta_net", {"head_dim": 6, "num_v_heads": 8}),
    "gated delta channel": ("gated_delta_net", {"head_dim": 6, "decay": "channel"}),
    "memories": ("mixture_of_memories", {"head_dim": 6}),
    "memories whole conv": (
        "mixture_of_memories",
        {"head_dim": 6, "conv_scope": "sequence", "memory_rule": "delta_rule"},
    ),
    "memories one projection": (
        "mixture_of_memories",
        {"head_dim": 6, "per_memory_projections": False, "num_memories": 3, "top_k": 1},
    ),
    "memories one projection whole conv": (
        "mixture_of_memories",
        {"head_dim": 6, "per_memory_projections": False, "conv_scope": "sequence"},
    ),
    "memories linear no conv": (
        "mixture_of_memories",
        {"head_dim": 6, "memory_rule": "linear_attention", "use_short_conv": False},
    ),
    "memories gated linear alone": (
        "mixture_of_memories",
        {"head_dim": 6, "memory_rule": "gated_linear_attention", "shared_memory": False},
    ),
    "memories channel": (
        "mixture_of_memories",
        {"head_dim": 6, "memory_rule": "gated_delta_rule_channel", "expand_v": 2.0},
    ),
}


@pytest.fixture(params=MIXERS.values(), ids=MIXERS.keys())
def mixer(request):
    torch.manual_seed(0)
    name, options = request.param
    return build_mixer(name, WIDTH, HEADS, **options).double().eval()


@pytest.fixture
def x():
    return torch.randn(
        2, TIME, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )


def test_every_registered_mixer_is_under_test(mixer):
    assert set(registered_mixers()) == {name for name, _ in MIXERS.values()}
    assert isinstance(mixer, Mixer)


def test_no_token_sees_the_future(mixer, x):
    changed = x.clone()
    changed[:, 20:] = 0
    torch.testing.assert_close(mixer(changed)[:, :20], mixer(x)[:, :20], **TOLERANCE)


@pytest.mark.parametrize("cuts", [(0, TIME), (1, TIME), (13, 14, 40, TIME), (44, TIME)])
def test_reading_in_pieces_equals_reading_at_once(mixer, x, cuts):
    state, pieces, start = None, [], 0
    for end in cuts:
        y, state = mixer(x[:, start:end], state=state, return_state=True)
        pieces.append(y)
        start = end
    torch.testing.assert_close(torch.cat(pieces, 1), mixer(x), **TOLERANCE)


def test_steps_equal_reading_at_once(mixer, x):
    whole = mixer(x)
    state = mixer.init_state(2)
    for t in range(TIME):
        y, state = mixer.step(x[:, t], state)
        torch.testing.assert_close(y, whole[:, t], **TOLERANCE)


def test_step_without_state_is_the_first_token(mixer, x):
    y, _ = mixer.step(x[:, 0])
    torch.testing.assert_close(y, mixer(x)[:, 0], **TOLERANCE)


def test_steps_leave_earlier_states_as_they_were(mixer, x):
    _, state = mixer(x[:, :10], return_state=True)
    first, _ = mixer.step(x[:, 10], state)
    mixer.step(x[:, 30], state)
    again, _ = mixer.step(x[:, 10], state)
    assert torch.equal(first, again)


def test_packed_sequences_equal_separate_ones(mixer):
    lengths = [9, 1, 0, 23, 12]
    parts = [torch.randn(1, length, WIDTH, dtype=torch.float64) for length in lengths]
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0)
    y, state = mixer(torch.cat(parts, 1), cu_seqlens=cu_seqlens, return_state=True)
    separate = torch.cat([mixer(part) for part in parts], 1)
    torch.testing.assert_close(y, separate, **TOLERANCE)

    more = torch.randn(len(lengths), 4, WIDTH, dtype=torch.float64)
    after, _ = mixer(more, state=state, return_state=True)
    for row, part in enumerate(parts):
        alone = mixer(torch.cat([part, more[row : row + 1]], 1))
        torch.testing.assert_close(after[row], alone[0, -4:], **TOLERANCE)

    packed_more = more.flatten(0, 1)[None]
    offsets = torch.arange(0, 4 * len(lengths) + 1, 4, dtype=torch.int32)
    again = mixer(packed_more, state=state, cu_seqlens=offsets)
    torch.testing.assert_close(again[0].unflatten(0, (-1, 4)), after, **TOLERANCE)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("mask_dtype", [torch.bool, torch.int64])
def test_padding_changes_neither_outputs_nor_state(mixer, x, side, mask_dtype):
    length = 30
    mask = torch.zeros(2, TIME, dtype=mask_dtype)
    real = slice(TIME - length, TIME) if side == "left" else slice(0, length)
    mask[0, real] = 1
    mask[1] = 1
    padded, state = mixer(x, attention_mask=mask, return_state=True)
    alone, state_alone = mixer(x[:1, real], return_state=True)
    assert torch.isfinite(padded).all()
    torch.testing.assert_close(padded[:1, real], alone, **TOLERANCE)
    torch.testing.assert_close(padded[1:], mixer(x[1:]), **TOLERANCE)

    token = torch.randn(2, WIDTH, dtype=torch.float64)
    y, _ = mixer.step(token, state)
    y_alone, _ = mixer.step(token[:1], state_alone)
    torch.testing.assert_close(y[:1], y_alone, **TOLERANCE)


def test_padding_within_pieces_changes_nothing(mixer, x):
    """Right padding in one piece and left padding in the next."""
    mask = torch.ones(2, TIME, dtype=torch.bool)
    mask[0, 10:16] = False
    _, state = mixer(x[:, :13], attention_mask=mask[:, :13], return_state=True)
    y = mixer(x[:, 13:], attention_mask=mask[:, 13:], state=state)
    alone = mixer(torch.cat([x[:1, :10], x[:1, 16:]], 1))
    torch.testing.assert_close(y[0, 3:], alone[0, 10:], **TOLERANCE)


def test_gradients_reach_every_parameter_the_input_and_the_state(mixer, x):
    _, state = mixer(x[:, :8], return_state=True)
    parts = [
        part.detach().requires_grad_() if part is not None and part.is_floating_point() else part
        for part in (state if isinstance(state, tuple) else (state,))
    ]
    state = type(state)(*parts) if isinstance(state, tuple) else parts[0]
    leaves = [part for part in parts if part is not None and part.requires_grad]
    x = x[:, 8:].clone().requires_grad_()
    mixer(x, state=state).square().sum().backward()
    for tensor in (x, *leaves, *mixer.parameters()):
        assert torch.isfinite(tensor.grad).all()
        assert tensor.grad.abs().sum() > 0


def test_gradients_with_padding_are_those_without(mixer, x):
    mask = torch.ones(1, TIME, dtype=torch.bool)
    mask[:, :15] = False
    mixer(x[:1], attention_mask=mask)[:, 15:].square().sum().backward()
    padded = [parameter.grad.clone() for parameter in mixer.parameters()]
    mixer.zero_grad()
    mixer(x[:1, 15:]).square().sum().backward()
    for parameter, gradient in zip(mixer.parameters(), padded, strict=True):
        torch.testing.assert_close(gradient, parameter.grad, **TOLERANCE)


def test_autocast_gives_bfloat16_accuracy(mixer, x):
    mixer, x = mixer.float(), x.float()
    whole = mixer(x)
    with torch.autocast("cpu", torch.bfloat16):
        y, state = mixer(x, return_state=True)
        stepped, _ = mixer.step(x[:, 0], state)
    assert torch.isfinite(stepped).all()
    # Four roundings to 8 bits on the way (input, projections, attention, output), each 2^-9.
    error = (y - whole).norm() / whole.norm()
    assert error < 2**-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lower_precision_layers_run_and_agree(mixer, x, dtype):
    whole = mixer(x)
    y, _ = mixer.to(dtype)(x.to(dtype), return_state=True)
    assert y.dtype == dtype
    assert (y.double() - whole).norm() / whole.norm() < 2**6 * torch.finfo(dtype).eps


def test_compiled_mixer_equals_the_eager_one(x):
    torch._dynamo.reset()
    for layer in (
        LightningAttention(WIDTH, HEADS, decay="token"),
        SoftmaxAttention(WIDTH, HEADS),
        TokenFormerAttention(WIDTH, HEADS),
    ):
        layer = layer.double()
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        mask = torch.ones(2, TIME, dtype=torch.bool)
        mask[0, :9] = False
        torch.testing.assert_close(compiled(x), layer(x), **TOLERANCE)
        torch.testing.assert_close(
            compiled(x, attention_mask=mask), layer(x, attention_mask=mask), **TOLERANCE
        )


@pytest.mark.parametrize(
    ("name", "options"),
    [("delta_net", {}), ("gated_delta_net", {"head_dim": 6, "decay": "channel"})],
)
def test_compiled_delta_rule_layers_equal_the_eager_ones(x, name, options):
    torch._dynamo.reset()
    layer = build_mixer(name, WIDTH, HEADS, **options).double()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    y, state = compiled(x, return_state=True)
    expected, expected_state = layer(x, return_state=True)
    torch.testing.assert_close(y, expected, **TOLERANCE)
    for part, other in zip(state, expected_state, strict=True):
        torch.testing.assert_close(part, other, **TOLERANCE)


class TestErrors:
    def test_input_of_the_wrong_width_or_rank(self, mixer):
        with pytest.raises(ValueError, match=r"x must have shape \(batch, time, 24\), got .*25"):
            mixer(torch.zeros(2, 3, 25, dtype=torch.float64))
        with pytest.raises(ValueError, match=r"x must have shape \(batch, time, 24\)"):
            mixer(torch.zeros(2, 24, dtype=torch.float64))
        with pytest.raises(ValueError, match=r"x must have shape \(batch, 24\)"):
            mixer.step(torch.zeros(2, 1, 24, dtype=torch.float64))

    def test_input_that_is_no_floating_tensor(self, mixer):
        for call, shape in ((mixer, (2, 3, 24)), (mixer.step, (2, 24))):
            with pytest.raises(TypeError, match=r"x must be float32, .* got torch.int64"):
                call(torch.zeros(shape, dtype=torch.int64))
            with pytest.raises(TypeError, match=r"x must be a torch\.Tensor, got list"):
                call([[0.0] * 24])

    def test_mask_of_the_wrong_shape_or_dtype(self, mixer, x):
        with pytest.raises(ValueError, match=r"attention_mask must have shape \(2, 45\)"):
            mixer(x, attention_mask=torch.ones(2, 44, dtype=torch.bool))
        with pytest.raises(TypeError, match=r"attention_mask must be boolean or integer"):
            mixer(x, attention_mask=torch.zeros(2, TIME))

    def test_mask_with_packed_sequences(self, mixer, x):
        with pytest.raises(ValueError, match="attention_mask must be None when cu_seqlens"):
            mixer(
                x[:1],
                attention_mask=torch.ones(1, TIME, dtype=torch.bool),
                cu_seqlens=torch.tensor([0, TIME]),
            )

    def test_packed_offsets_that_do_not_fit(self, mixer, x):
        with pytest.raises(ValueError, match="batch size must be 1 when cu_seqlens is given"):
            mixer(x, cu_seqlens=torch.tensor([0, TIME]))
        with pytest.raises(ValueError, match="cu_seqlens must end at"):
            mixer(x[:1], cu_seqlens=torch.tensor([0, TIME - 1]))

    def test_state_of_the_wrong_shape(self, mixer, x):
        with pytest.raises(ValueError, match=r"state.* must have shape"):
            mixer(x, state=mixer.init_state(3))
        with pytest.raises(ValueError, match=r"state.* must have shape"):
            mixer.step(x[:, 0], mixer.init_state(1))

    @pytest.mark.parametrize("kind", [LightningAttention, SoftmaxAttention])
    def test_heads_that_do_not_fit(self, kind):
        with pytest.raises(ValueError, match="hidden_size must be a multiple of num_heads"):
            kind(30, 4)
        with pytest.raises(ValueError, match="num_heads must be a multiple of num_kv_heads"):
            kind(32, 4, num_kv_heads=3)
        with pytest.raises(ValueError, match="hidden_size and num_heads must be at least 1"):
            kind(32, 0)
        with pytest.raises(ValueError, match="head_dim must be at least 1, got 0"):
            kind(32, 4, head_dim=0)


class TestRegistry:
    def test_factories_get_the_context_they_name(self):
        seen = {}

        def factory(hidden_size, num_heads, *, layer_idx, flavour="plain"):
            seen.update(layer_idx=layer_idx, flavour=flavour)
            return SoftmaxAttention(hidden_size, num_heads)

        build_mixer(factory, 16, 2, layer_idx=3, num_layers=5, flavour="other")
        assert seen == {"layer_idx": 3, "flavour": "other"}

    def test_taken_and_unknown_names(self):
        with pytest.raises(ValueError, match="'softmax_attention' is taken by SoftmaxAttention"):
            register_mixer("softmax_attention", LightningAttention)
        with pytest.raises(ValueError, match=r"mixer must be one of .* got 'nope'"):
            build_mixer("nope", 16, 2)

    def test_what_is_not_a_mixer_is_refused(self):
        with pytest.raises(TypeError, match=r"a mixer must be a torch.nn.Module .* got Linear"):
            build_mixer(lambda hidden_size, num_heads: nn.Linear(2, 2), 16, 2)
