"""DeltaNet, GatedDeltaNet and their language models against definitions written out token by token.

That pieces, packing, padding and steps change nothing is tested for every mixer in test_mixer.py.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from rankone.nn import (
    DeltaNet,
    DeltaNetLM,
    GatedDeltaNet,
    LanguageModel,
    ShortConvolution,
    SlidingWindowAttention,
    SoftmaxAttention,
    parameter_groups,
)
from rankone.nn.delta_net import DeltaNetState

WIDTH, HEADS, TIME = 24, 3, 19
TOLERANCE = {"rtol": 1e-9, "atol": 1e-9}

ACTIVATIONS = {
    "silu": F.silu,
    "relu": F.relu,
    "elu": lambda x: F.elu(x) + 1,
    "identity": lambda x: x,
}


def inputs(time=TIME, batch=2):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, time, WIDTH, dtype=torch.float64, generator=generator)


def convolved(conv, x):
    """Every token's last W inputs by the filter, one by one."""
    if conv is None:
        return x
    taps = conv.weight.shape[1]
    padded = F.pad(x, (0, 0, taps - 1, 0))
    y = sum(padded[:, tap : tap + x.shape[1]] * conv.weight[:, tap] for tap in range(taps))
    return y if conv.bias is None else y + conv.bias


def by_definition(layer, x, activation, norm):
    """The pipeline of the layer with a loop over sequences, heads and tokens."""
    batch, time, _ = x.shape
    heads, value_heads = layer.num_heads, layer.num_v_heads
    q = activation(convolved(layer.q_conv, layer.q_proj(x))).unflatten(-1, (heads, -1))
    k = activation(convolved(layer.k_conv, layer.k_proj(x))).unflatten(-1, (heads, -1))
    v = F.silu(convolved(layer.v_conv, layer.v_proj(x))).unflatten(-1, (value_heads, -1))
    if norm == "l2":
        q, k = (y / (y.square().sum(-1, keepdim=True) + 1e-6).sqrt() for y in (q, k))
    elif norm == "sum":
        q, k = (y / (y.sum(-1, keepdim=True) + 1e-6) for y in (q, k))
    group = value_heads // heads
    q, k = q.repeat_interleave(group, 2), k.repeat_interleave(group, 2)
    beta = torch.ones(batch, time, value_heads, dtype=x.dtype)
    if layer.b_proj is not None:
        beta = torch.sigmoid(layer.b_proj(x)) * (2 if layer.allow_neg_eigval else 1)
    decay = torch.ones_like(k)
    if isinstance(layer, GatedDeltaNet):
        step = F.softplus(layer.a_proj(x) + layer.dt_bias).unflatten(-1, (value_heads, -1))
        decay = (-layer.A_log.exp()[:, None] * step).exp().expand_as(k)
    reads = torch.empty_like(v)
    for row in range(batch):
        for head in range(value_heads):
            state = torch.zeros(k.shape[-1], v.shape[-1], dtype=x.dtype)
            for t in range(time):
                state = decay[row, t, head][:, None] * state
                error = v[row, t, head] - state.T @ k[row, t, head]
                state = state + beta[row, t, head] * torch.outer(k[row, t, head], error)
                reads[row, t, head] = state.T @ q[row, t, head] * k.shape[-1] ** -0.5
    mean_square = reads.square().mean(-1, keepdim=True)
    o = reads / (mean_square + layer.o_norm.eps).sqrt() * layer.o_norm.weight
    o = o.flatten(-2)
    if layer.g_proj is not None:
        o = o * F.silu(layer.g_proj(x))
    return layer.o_proj(o)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_output_gate": True, "allow_neg_eigval": True},
        {"expand_k": 0.5, "expand_v": 2.0, "conv_size": 3, "conv_bias": True},
        {"use_beta": False, "use_short_conv": False},
        {"qk_activation": "elu", "qk_norm": "sum"},
        {"qk_activation": "relu"},
        {"qk_activation": "identity", "qk_norm": "none", "use_short_conv": False},
    ],
    ids=str,
)
def test_delta_net_is_its_definition(options):
    layer = DeltaNet(WIDTH, HEADS, **options).double()
    torch.nn.init.uniform_(layer.o_norm.weight, 0.5, 2)
    x = inputs()
    activation = ACTIVATIONS[options.get("qk_activation", "silu")]
    expected = by_definition(layer, x, activation, options.get("qk_norm", "l2"))
    torch.testing.assert_close(layer(x), expected, **TOLERANCE)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_v_heads": 6, "expand_v": 0.5, "allow_neg_eigval": True},
        {"decay": "channel", "use_output_gate": False},
        {"decay": "channel", "num_v_heads": 6, "use_short_conv": False},
    ],
    ids=str,
)
def test_gated_delta_net_is_its_definition(options):
    layer = GatedDeltaNet(WIDTH, HEADS, 8, **options).double()
    x = inputs()
    torch.testing.assert_close(layer(x), by_definition(layer, x, F.silu, "l2"), **TOLERANCE)


def test_parameter_count_of_delta_net():
    layer = DeltaNet(WIDTH, HEADS)
    count = sum(parameter.numel() for parameter in layer.parameters())
    assert count == 4 * WIDTH**2 + WIDTH * HEADS + 12 * WIDTH + WIDTH // HEADS


def test_parameters_have_the_published_names_and_shapes():
    layer = GatedDeltaNet(WIDTH, HEADS, 8, num_v_heads=6)
    assert {name: tuple(value.shape) for name, value in layer.named_parameters()} == {
        "q_proj.weight": (24, 24),
        "k_proj.weight": (24, 24),
        "v_proj.weight": (96, 24),
        "b_proj.weight": (6, 24),
        "a_proj.weight": (6, 24),
        "g_proj.weight": (96, 24),
        "o_proj.weight": (24, 96),
        "q_conv.weight": (24, 4),
        "k_conv.weight": (24, 4),
        "v_conv.weight": (96, 4),
        "o_norm.weight": (16,),
        "A_log": (6,),
        "dt_bias": (6,),
    }


def test_a_changed_token_leaves_earlier_outputs_bit_identical():
    for layer in (DeltaNet(WIDTH, HEADS), GatedDeltaNet(WIDTH, HEADS, 8, decay="channel")):
        x = inputs().float()
        changed = x.clone()
        changed[:, 11] += 1
        before, after = layer(x), layer(changed)
        assert torch.equal(before[:, :11], after[:, :11])
        assert (before[:, 11] != after[:, 11]).any()


def test_initial_decays_are_drawn_from_the_published_ranges():
    layer = GatedDeltaNet(8, 4000, 1, expand_v=1.0, use_short_conv=False, decay="scalar")
    rate = layer.A_log.detach().exp()
    assert rate.min() >= 1e-4 * (1 - 1e-5)
    # Uniform in (0, 16): mean 8 within five standard errors of 16 / sqrt(12 n).
    assert abs(rate.mean() - 8) < 5 * 16 / math.sqrt(12 * 4000)
    step = F.softplus(layer.dt_bias.detach().double()).log()
    low, high = math.log(1e-3), math.log(1e-1)
    assert step.min() >= low - 1e-3
    assert step.max() <= high + 1e-3
    assert abs(step.mean() - (low + high) / 2) < 5 * (high - low) / math.sqrt(12 * 4000)
    groups = parameter_groups(layer, 0.1)
    exempt = {id(parameter) for parameter in groups[1]["params"]}
    for parameter in (layer.A_log, layer.dt_bias):
        assert parameter._no_weight_decay
        assert id(parameter) in exempt


def test_padding_writes_nothing_into_any_part_of_the_state():
    layer = GatedDeltaNet(WIDTH, HEADS, 8).double()
    x = inputs(12)
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[0, 5:] = False
    mask[1, :] = False
    _, before = layer(inputs(7), return_state=True)
    _, state = layer(x, attention_mask=mask, state=before, return_state=True)
    _, alone = layer(
        x[:1, :5], state=DeltaNetState(*(part[:1] for part in before)), return_state=True
    )
    for part, kept, short in zip(state, before, alone, strict=True):
        torch.testing.assert_close(part[:1], short, **TOLERANCE)
        # A row of padding alone keeps its state to the bit.
        assert torch.equal(part[1], kept[1])


def test_unbounded_keys_are_kept_bounded_by_their_norm():
    """Without normalised keys the transition expands and the state diverges; with them it stays."""
    x = 20 * inputs(400)
    options = {"use_beta": False, "use_short_conv": False, "qk_activation": "identity"}
    sizes = {}
    for norm in ("l2", "none"):
        torch.manual_seed(0)
        layer = DeltaNet(WIDTH, HEADS, qk_norm=norm, **options).double()
        _, state = layer(x, return_state=True)
        sizes[norm] = state.recurrent.abs().max()
    assert sizes["l2"] < 1e3
    assert not sizes["none"] < 1e30


class TestShortConvolution:
    def test_layer_is_a_depthwise_causal_convolution(self):
        conv = ShortConvolution(WIDTH, 5, bias=True, activation="relu").double()
        x = inputs()
        y, _ = conv(x)
        torch.testing.assert_close(y, F.relu(convolved(conv, x)), **TOLERANCE)

    def test_state_of_a_text_shorter_than_the_filter_keeps_what_came_before(self):
        conv = ShortConvolution(WIDTH, 4).double()
        x = inputs()
        _, state = conv(x[:, :2], return_state=True)
        expected = F.pad(x[:, :2], (0, 0, 1, 0)).transpose(1, 2)
        assert torch.equal(state, expected)
        _, state = conv(x[:, 2:3], state=state, return_state=True)
        assert torch.equal(state, x[:, :3].transpose(1, 2))

    def test_initial_weights_are_those_of_a_torch_convolution(self):
        conv = ShortConvolution(2000, 4, bias=True)
        for weight in (conv.weight, conv.bias):
            assert weight.abs().max() <= 0.5
            assert abs(weight.std() - 0.5 / math.sqrt(3)) < 0.02

    def test_sizes_and_activations_are_checked(self):
        with pytest.raises(ValueError, match="dim and kernel_size must be at least 1, got 4 and 0"):
            ShortConvolution(4, 0)
        with pytest.raises(ValueError, match=r"activation must be one of .* got 'tanh'"):
            ShortConvolution(4, activation="tanh")


class TestLanguageModel:
    def build(self, **options):
        torch.manual_seed(0)
        sizes = {"hidden_size": 16, "num_layers": 6, "num_heads": 2}
        return DeltaNetLM(19, **{**sizes, **options}).double().eval()

    def tokens(self, time=40):
        return torch.randint(19, (2, time), generator=torch.Generator().manual_seed(time))

    @pytest.mark.parametrize("mixer", ["delta_net", "gated_delta_net"])
    def test_layer_types_are_the_layers(self, mixer):
        kwargs = {"head_dim": 8} if mixer == "gated_delta_net" else {}
        plain = self.build(mixer=mixer, mixer_kwargs=kwargs)
        assert plain.layer_types == [mixer] * 6
        window = self.build(
            mixer=mixer, mixer_kwargs=kwargs, hybrid="sliding_window", window_size=5
        )
        assert window.layer_types == [mixer, "sliding_window"] * 3
        for layer in (1, 3, 5):
            assert isinstance(window.blocks[layer].mixer, SlidingWindowAttention)
            assert window.blocks[layer].mixer.window_size == 5
        whole = self.build(
            mixer=mixer, mixer_kwargs=kwargs, hybrid="global", attention_heads=4, rope_base=500.0
        )
        kinds = [mixer, "attention", mixer, "attention", mixer, mixer]
        assert whole.layer_types == kinds
        attention = whole.blocks[3].mixer
        assert type(attention) is SoftmaxAttention
        assert attention.window_size is None
        assert (attention.num_heads, attention.rope_base) == (4, 500.0)

    def test_a_sliding_window_layer_cannot_see_beyond_its_window(self):
        model = self.build(hybrid="sliding_window", window_size=5)
        layer = model.blocks[1].mixer
        x = torch.randn(1, 30, 16, dtype=torch.float64)
        changed = x.clone()
        changed[:, 10] += 1
        moved = (layer(x) != layer(changed)).any(-1)[0]
        assert moved.nonzero().flatten().tolist() == [10, 11, 12, 13, 14]

    def test_a_global_layer_sees_the_whole_past(self):
        layer = self.build(hybrid="global").blocks[1].mixer
        x = torch.randn(1, 30, 16, dtype=torch.float64)
        changed = x.clone()
        changed[:, 0] += 1
        assert (layer(x) != layer(changed)).any(-1).all()

    @pytest.mark.parametrize("hybrid", [None, "sliding_window", "global"])
    def test_decoding_continues_the_text(self, hybrid):
        model = self.build(hybrid=hybrid, window_size=5)
        text = self.tokens()
        whole = model(text).logits
        state = model(text[:, :13], return_state=True).state
        for t in range(13, 40):
            logits, state = model.step(text[:, t], state)
            torch.testing.assert_close(logits, whole[:, t], **TOLERANCE)

    @pytest.mark.parametrize("hybrid", [None, "sliding_window"])
    def test_memory_of_decoding_does_not_grow(self, hybrid):
        model = self.build(hybrid=hybrid, window_size=8)

        def size(length):
            state = model(self.tokens(length), return_state=True).state
            return sum(part.nbytes for layer in state for part in layer)

        assert size(8) == size(80)

    def test_initial_weights(self):
        model = DeltaNetLM(300, hidden_size=128, num_layers=3, num_heads=2)
        for name, weight in model.named_parameters():
            if weight.ndim < 2 or "conv" in name:
                continue
            residual = name.endswith(("o_proj.weight", "down_proj.weight"))
            expected = 0.02 / math.sqrt(6) if residual else 0.02
            # Six standard errors of the deviation of n normal draws.
            assert abs(weight.std() / expected - 1) < 6 / math.sqrt(2 * weight.numel()), name

    def test_widths_of_the_feed_forward_blocks(self):
        def width(**options):
            return self.build(num_layers=1, **options).blocks[0].feed_forward.up_proj.out_features

        assert width(hidden_size=16) == 48  # 42.7 up to a multiple of 8
        assert width(hidden_size=256) == 768
        assert width(hidden_size=256, hidden_ratio=8) == 1536

    def test_norm_eps_reaches_every_norm_between_the_layers(self):
        model = self.build(norm_eps=0.25)
        norms = [model.norm, *(block.mixer_norm for block in model.blocks)]
        norms += [block.feed_forward_norm for block in model.blocks]
        assert {norm.eps for norm in norms} == {0.25}

    def test_saved_model_is_loaded_as_what_it_was(self, tmp_path):
        model = self.build(hybrid="sliding_window", window_size=5, attention_heads=1)
        model.save(tmp_path / "model")
        for loaded in (DeltaNetLM.load(tmp_path / "model"), LanguageModel.load(tmp_path / "model")):
            assert torch.equal(loaded(self.tokens()).logits, model(self.tokens()).logits)
        assert DeltaNetLM.load(tmp_path / "model").layer_types == model.layer_types

    def test_output_is_a_named_tuple_of_loss_logits_and_state(self):
        model = self.build()
        output = model(self.tokens(), labels=self.tokens(), return_state=True)
        loss, logits, state = output[:3]
        assert output._fields[:3] == ("loss", "logits", "state")
        assert loss is output.loss is output.cross_entropy
        assert logits.shape == (2, 40, 19)
        assert len(state) == 6
        assert output.aux_loss is None
        assert output.router_load is None

    def test_unknown_options_are_named(self):
        with pytest.raises(ValueError, match=r"mixer must be one of .* got 'mamba'"):
            self.build(mixer="mamba")
        with pytest.raises(ValueError, match=r"hybrid must be one of .* got 'local'"):
            self.build(hybrid="local")


class TestErrors:
    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: DeltaNet(30, 4), r"hidden_size \* expand_k must be a multiple of num_heads"),
            (lambda: DeltaNet(8, 4, expand_v=0.3), r"hidden_size \* expand_v must be a multiple"),
            (lambda: DeltaNet(8, 0), "must be a multiple of num_heads, got 8"),
            (lambda: DeltaNet(8, 2, qk_norm="l1"), r"qk_norm must be one of .* got 'l1'"),
            (lambda: DeltaNet(8, 2, qk_activation="exp"), "qk_activation must be one of"),
            (lambda: GatedDeltaNet(8, 2, 5, expand_v=0.5), r"head_dim \* expand_v must be a whole"),
            (lambda: GatedDeltaNet(8, 2, 4, num_v_heads=3), "num_v_heads must be a multiple"),
            (lambda: GatedDeltaNet(8, 2, 4, decay="vector"), r"decay must be one of .* 'vector'"),
            (lambda: GatedDeltaNet(8, 2, 0), "head_dim must be at least 1, got 0"),
            (lambda: GatedDeltaNet(8, 0, 4), "num_heads must be at least 1, got 0"),
        ],
    )
    def test_options_that_do_not_fit_are_named(self, call, message):
        with pytest.raises(ValueError, match=message):
            call()

    def test_a_state_of_another_kind_or_convolution_is_refused(self):
        layer, x = DeltaNet(WIDTH, HEADS), inputs().float()
        with pytest.raises(TypeError, match=r"state must be a DeltaNetState .* got Tensor"):
            layer(x, state=torch.zeros(1))
        other = DeltaNet(WIDTH, HEADS, conv_size=3).init_state(2)
        with pytest.raises(ValueError, match=r"state.conv_q must have shape \(2, 24, 3\)"):
            layer(x, state=other)
        without = DeltaNet(WIDTH, HEADS, use_short_conv=False).init_state(2)
        with pytest.raises(TypeError, match=r"state.conv_q must be a torch.Tensor, got None"):
            layer(x, state=without)
