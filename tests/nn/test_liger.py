"""Liger's gates, sliding-window attention and LigerAttention, against their plain definitions."""

import math

import pytest
import torch
import torch.nn.functional as F
from rankone import nn as rankone_nn
from rankone.nn import (
    LanguageModel,
    LanguageModelConfig,
    LigerAttention,
    LigerState,
    SoftmaxAttention,
    apply_rotary,
    sliding_window_attention,
)
from rankone.nn.convert import liger_gate
from rankone.ops import linear_attention
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CHANNEL_GATES = ("gla", "hgrn2", "rwkv6")
SCALAR_GATES = ("mlstm", "mamba2")
STRUCTURES = (*CHANNEL_GATES, *SCALAR_GATES, "none")

HEADS, KV_HEADS, DIM, TIME = 6, 2, 8, 37
WIDTH = HEADS * DIM

# Float64 throughout; rotary angles are float32 in both of the compared computations.
TOLERANCE = {"rtol": 1e-10, "atol": 1e-10}


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def dense_window(q, k, v, window, scale=None, padding=None):
    """Softmax attention with a (time, time) mask and repeated heads."""
    groups = q.shape[2] // k.shape[2]
    k, v = k.repeat_interleave(groups, 2), v.repeat_interleave(groups, 2)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    scores = scale * torch.einsum("bthd,bshd->bhts", q, k)
    row = torch.arange(q.shape[1])
    hidden = (row[None] > row[:, None]) | (row[None] <= row[:, None] - window)
    hidden = hidden.expand(q.shape[0], 1, -1, -1)
    if padding is not None:
        hidden = hidden | padding[:, None, None]
    weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    return torch.einsum("bhts,bshd->bthd", weights, v)


class TestGate:
    @pytest.mark.parametrize("structure", STRUCTURES)
    def test_shapes_and_dtype(self, structure):
        log_decay, features = liger_gate(drawn(2, 5, 3, 4, dtype=torch.bfloat16), structure)
        assert features.shape == (2, 5, 3, 4)
        assert features.dtype == torch.float32
        if structure == "none":
            assert log_decay is None
            return
        assert log_decay.shape == ((2, 5, 3, 4) if structure in CHANNEL_GATES else (2, 5, 3))
        assert log_decay.dtype == torch.float32
        assert (log_decay <= 0).all()

    def test_gates_of_keys_that_are_zero(self):
        k = torch.zeros(1, 2, 3, 4, dtype=torch.float64)
        expected = {
            "gla": -math.log(2) / 16,
            "hgrn2": -math.log(2),
            "rwkv6": -1.0,
            "mlstm": -math.log(2) / 16,
            "mamba2": -math.log(2) / 16,
        }
        for structure, value in expected.items():
            log_decay, features = liger_gate(k, structure)
            torch.testing.assert_close(log_decay, torch.full_like(log_decay, value))
            feature = 0.5 if structure == "hgrn2" else 0.25
            torch.testing.assert_close(features, torch.full_like(features, feature))

    def test_mamba2_of_a_head_with_mean_zero(self):
        k = drawn(1, 2, 3, 4)
        log_decay, _ = liger_gate(k - k.mean(-1, keepdim=True), "mamba2", gate_normalizer=1.0)
        torch.testing.assert_close(log_decay, torch.full_like(log_decay, -math.log(2)))

    @pytest.mark.parametrize("tau", [1.0, 16.0])
    def test_gates_are_those_of_the_table(self, tau):
        k = drawn(2, 5, 3, 4)
        pooled = F.adaptive_avg_pool1d(k.flatten(-2), 3)
        gates = {
            "gla": torch.sigmoid(k) ** (1 / tau),
            "hgrn2": torch.sigmoid(k),
            "rwkv6": torch.exp(-torch.exp(k)),
            "mlstm": torch.sigmoid(pooled) ** (1 / tau),
            "mamba2": torch.exp(-F.softplus(pooled)) ** (1 / tau),
        }
        for structure, gate in gates.items():
            log_decay, features = liger_gate(k, structure, gate_normalizer=tau)
            torch.testing.assert_close(log_decay.exp(), gate)
            expected = 1 - gate if structure == "hgrn2" else torch.exp(k) / k.exp().sum(-1, True)
            torch.testing.assert_close(features, expected)

    def test_hgrn2_stays_above_its_lower_bound(self):
        k = drawn(2, 5, 3, 4) * 5
        log_decay, features = liger_gate(k, "hgrn2", lower_bound=0.3)
        gate = 0.3 + 0.7 * torch.sigmoid(k)
        torch.testing.assert_close(log_decay, gate.log())
        torch.testing.assert_close(features, 1 - gate)
        far, _ = liger_gate(torch.tensor([-1e3, 1e3]).view(1, 1, 1, 2), "hgrn2", lower_bound=0.3)
        torch.testing.assert_close(far.flatten(), torch.tensor([math.log(0.3), 0.0]))

    @pytest.mark.parametrize("structure", SCALAR_GATES)
    def test_scalar_gates_depend_on_the_mean_of_their_own_head_alone(self, structure):
        k = drawn(1, 4, 3, 8)
        before, _ = liger_gate(k, structure)
        other = k.clone()
        other[:, :, 1] = other[:, :, 1].flip(-1) + drawn(8).sub(drawn(8).mean())
        after, _ = liger_gate(other, structure)
        torch.testing.assert_close(after, before)
        other[:, :, 1] += 1
        after, _ = liger_gate(other, structure)
        assert torch.equal(after[:, :, ::2], before[:, :, ::2])
        assert (after[:, :, 1] != before[:, :, 1]).all()

    def test_gated_retention_is_another_name_of_mlstm(self):
        k = drawn(1, 4, 3, 8)
        for ours, theirs in zip(
            liger_gate(k, "gated_retention"), liger_gate(k, "mlstm"), strict=True
        ):
            assert torch.equal(ours, theirs)

    def test_bad_arguments(self):
        k = torch.zeros(1, 2, 3, 4)
        with pytest.raises(ValueError, match=r"structure must be one of \['gla', .* got 'lstm'"):
            liger_gate(k, "lstm")
        with pytest.raises(ValueError, match="'gsa' is not supported: gated slot attention decays"):
            liger_gate(k, "gsa")
        for tau in (0.0, -1.0, math.inf, math.nan):
            with pytest.raises(ValueError, match="gate_normalizer must be positive and finite"):
                liger_gate(k, gate_normalizer=tau)
        for bound in (-0.1, 1.0):
            with pytest.raises(ValueError, match=r"lower_bound must be in \[0, 1\), got"):
                liger_gate(k, "hgrn2", lower_bound=bound)
        with pytest.raises(
            ValueError, match=r"k must be 4-D \(batch, time, kv_heads, head_dim\), got"
        ):
            liger_gate(torch.zeros(2, 3, 4))
        with pytest.raises(TypeError, match="k must be float32"):
            liger_gate(torch.zeros(1, 2, 3, 4, dtype=torch.int64))


class TestSlidingWindow:
    @pytest.mark.parametrize("window", [1, 2, 7, 16, TIME - 1, TIME, 4 * TIME])
    @pytest.mark.parametrize("kv_heads", [1, 2, 6])
    def test_equals_the_dense_masked_softmax(self, window, kv_heads):
        q, k, v = (
            drawn(2, TIME, 6, 8),
            drawn(2, TIME, kv_heads, 8, seed=1),
            drawn(2, TIME, kv_heads, 5, seed=2),
        )
        o = sliding_window_attention(q, k, v, window)
        torch.testing.assert_close(o, dense_window(q, k, v, window), **TOLERANCE)
        o = sliding_window_attention(q, k, v, window, scale=0.7)
        torch.testing.assert_close(o, dense_window(q, k, v, window, 0.7), **TOLERANCE)

    def test_the_window_counts_the_token_itself(self):
        q, k, v = drawn(1, 20, 2, 8), drawn(1, 20, 2, 8, seed=1), drawn(1, 20, 2, 8, seed=2)
        assert torch.equal(sliding_window_attention(q, k, v, 1), v)
        v.requires_grad_()
        (gradient,) = torch.autograd.grad(sliding_window_attention(q, k, v, 6)[:, 10].sum(), v)
        seen = gradient.abs().sum((0, 2, 3)) > 0
        assert seen.nonzero().flatten().tolist() == list(range(5, 11))

    @pytest.mark.parametrize("window", [1, 5, 100])
    @pytest.mark.parametrize("side", ["left", "right"])
    def test_padding_is_neither_seen_nor_answered(self, window, side):
        q, k, v = drawn(2, 20, 4, 8), drawn(2, 20, 2, 8, seed=1), drawn(2, 20, 2, 8, seed=2)
        real = slice(6, 20) if side == "left" else slice(0, 14)
        padding = torch.ones(2, 20, dtype=torch.bool)
        padding[0, real] = False
        padding[1] = False
        o = sliding_window_attention(q, k, v, window, key_padding_mask=padding)
        alone = sliding_window_attention(q[:1, real], k[:1, real], v[:1, real], window)
        torch.testing.assert_close(o[:1, real], alone, **TOLERANCE)
        torch.testing.assert_close(
            o[1:], sliding_window_attention(q[1:], k[1:], v[1:], window), **TOLERANCE
        )
        assert (o[padding] == 0).all()

    def test_no_tensor_grows_with_the_square_of_time(self):
        class Largest(TorchDispatchMode):
            numel = 0

            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                result = func(*args, **(kwargs or {}))
                for leaf in tree_leaves(result):
                    if isinstance(leaf, torch.Tensor):
                        self.numel = max(self.numel, leaf.numel())
                return result

        def largest(time):
            q, k, v = (drawn(1, time, 2, 8) for _ in range(3))
            padding = torch.zeros(1, time, dtype=torch.bool)
            with Largest() as mode:
                sliding_window_attention(q, k, v, 16)
                sliding_window_attention(q, k, v, 16, key_padding_mask=padding)
            return mode.numel

        assert largest(512) <= 2.1 * largest(256)

    def test_gradients_equal_the_dense_ones(self):
        leaves = [drawn(1, 23, heads, 8, seed=heads).requires_grad_() for heads in (4, 2, 2)]
        ours = torch.autograd.grad(sliding_window_attention(*leaves, 5).square().sum(), leaves)
        dense = torch.autograd.grad(dense_window(*leaves, 5).square().sum(), leaves)
        for a, b in zip(ours, dense, strict=True):
            torch.testing.assert_close(a, b, **TOLERANCE)

    def test_the_function_is_an_attribute_of_the_package(self):
        import rankone.nn.softmax_attention
        import rankone.nn.window_attention  # noqa: F401

        assert rankone_nn.sliding_window_attention is sliding_window_attention
        assert callable(rankone_nn.sliding_window_attention)

    def test_bad_arguments(self):
        q, k = torch.zeros(1, 5, 4, 8), torch.zeros(1, 5, 2, 8)
        with pytest.raises(ValueError, match="window must be at least 1, got 0"):
            sliding_window_attention(q, k, k, 0)
        with pytest.raises(TypeError, match="window must be an integer, got float"):
            sliding_window_attention(q, k, k, 2.0)
        with pytest.raises(ValueError, match="q must be 4-D"):
            sliding_window_attention(q[0], k, k, 2)
        with pytest.raises(ValueError, match="k must have shape"):
            sliding_window_attention(q, k[:, :4], k[:, :4], 2)
        with pytest.raises(ValueError, match="v must have shape"):
            sliding_window_attention(q, k, k[:, :4], 2)
        with pytest.raises(ValueError, match="multiple"):
            sliding_window_attention(q[:, :, :3], k, k, 2)
        with pytest.raises(TypeError, match="dtype"):
            sliding_window_attention(q, k, k.double(), 2)
        with pytest.raises(ValueError, match=r"key_padding_mask must have shape \(1, 5\)"):
            sliding_window_attention(q, k, k, 2, key_padding_mask=torch.zeros(1, 4).bool())
        with pytest.raises(TypeError, match="key_padding_mask must be boolean, True on padding"):
            sliding_window_attention(q, k, k, 2, key_padding_mask=torch.zeros(1, 5))


def layer_of(bias=False, **options):
    torch.manual_seed(0)
    soft = SoftmaxAttention(WIDTH, HEADS, num_kv_heads=KV_HEADS, bias=bias).double()
    sizes = {"num_heads": HEADS, "num_kv_heads": KV_HEADS, "head_dim": DIM}
    return LigerAttention(soft.q_proj, soft.k_proj, soft.v_proj, soft.o_proj, **sizes, **options)


def projected(layer, x):
    return (
        projection(x).unflatten(-1, (-1, DIM))
        for projection in (layer.q_proj, layer.k_proj, layer.v_proj)
    )


def plain(layer, x):
    """The definition, token by token, with everything repeated to the query heads."""
    q, k, v = projected(layer, x)
    log_decay, features = liger_gate(
        k, layer.structure, gate_normalizer=layer.gate_normalizer, lower_bound=layer.lower_bound
    )
    groups = HEADS // KV_HEADS
    if log_decay is None:
        gate = torch.ones_like(features)
    else:
        gate = log_decay.exp() if log_decay.ndim == 4 else log_decay.exp()[..., None]
        gate = gate.expand_as(features)
    gate, features, values = (part.repeat_interleave(groups, 2) for part in (gate, features, v))
    state = x.new_zeros(x.shape[0], HEADS, DIM, DIM)
    recurred = []
    for t in range(x.shape[1]):
        written = torch.einsum("bhk,bhv->bhkv", features[:, t], values[:, t])
        state = gate[:, t, :, :, None] * state + written
        recurred.append(torch.einsum("bhk,bhkv->bhv", q[:, t].softmax(-1), state))
    places = torch.arange(x.shape[1])[None]
    windowed = dense_window(apply_rotary(q, places), apply_rotary(k, places), v, layer.window)
    o = layer.alpha * torch.stack(recurred, 1) + layer.beta * windowed
    return layer.o_proj(o.flatten(-2))


class TestLayer:
    @pytest.fixture
    def x(self):
        return drawn(2, TIME, WIDTH)

    @pytest.mark.parametrize("structure", STRUCTURES)
    def test_equals_the_plain_recurrence_and_the_dense_window(self, x, structure):
        layer = layer_of(structure=structure, window=7, alpha=0.3, beta=0.9, gate_normalizer=4.0)
        torch.testing.assert_close(layer(x), plain(layer, x), **TOLERANCE)

    def test_recurrence_without_gate_is_dense_causal_linear_attention(self, x):
        layer = layer_of(structure="none", alpha=1.0, beta=0.0)
        q, k, v = projected(layer, x)
        k, v = (part.repeat_interleave(HEADS // KV_HEADS, 2) for part in (k, v))
        weights = torch.einsum("bthd,bshd->bhts", q.softmax(-1), k.softmax(-1)).tril()
        o = torch.einsum("bhts,bshd->bthd", weights, v)
        torch.testing.assert_close(layer(x), layer.o_proj(o.flatten(-2)), **TOLERANCE)

    def test_positions_do_not_reach_the_recurrence(self, x):
        layer = layer_of(alpha=1.0, beta=0.0)
        other = layer_of(alpha=1.0, beta=0.0, rope_base=10.0)
        assert torch.equal(layer(x), other(x))

    def test_window_alone_is_softmax_attention(self, x):
        soft = SoftmaxAttention(WIDTH, HEADS, num_kv_heads=KV_HEADS, window_size=9).double()
        sizes = {"num_heads": HEADS, "num_kv_heads": KV_HEADS, "head_dim": DIM}
        layer = LigerAttention(
            soft.q_proj,
            soft.k_proj,
            soft.v_proj,
            soft.o_proj,
            **sizes,
            window=9,
            alpha=0.0,
            beta=1.0,
        )
        torch.testing.assert_close(layer(x), soft(x), **TOLERANCE)

    def test_linear_in_alpha_and_beta(self, x):
        both, first, second = (
            layer_of(alpha=alpha, beta=beta, window=9)(x)
            for alpha, beta in ((0.5, 0.5), (1.0, 0.0), (0.0, 1.0))
        )
        torch.testing.assert_close(both, 0.5 * first + 0.5 * second, **TOLERANCE)

    def test_the_state_has_the_kv_heads_and_equals_repeating_to_all_heads(self, x):
        layer = layer_of(alpha=1.0, beta=0.0)
        y, state = layer(x, return_state=True)
        assert state.recurrent.shape == (2, KV_HEADS, DIM, DIM)
        assert state.keys.shape == (2, 64, KV_HEADS, DIM)
        q, k, v = projected(layer, x)
        log_decay, features = liger_gate(k)
        k, v, log_decay = (
            part.repeat_interleave(HEADS // KV_HEADS, 2) for part in (features, v, log_decay)
        )
        o, repeated = linear_attention(
            q.softmax(-1), k, v, log_decay, scale=1.0, output_final_state=True
        )
        torch.testing.assert_close(y, layer.o_proj(o.flatten(-2)), **TOLERANCE)
        torch.testing.assert_close(
            state.recurrent.repeat_interleave(HEADS // KV_HEADS, 1), repeated, **TOLERANCE
        )

    def test_projections_are_shared_and_not_copied(self):
        soft = SoftmaxAttention(WIDTH, HEADS)
        layer = LigerAttention(
            soft.q_proj,
            soft.k_proj,
            soft.v_proj,
            soft.o_proj,
            num_heads=6,
            num_kv_heads=6,
            head_dim=8,
        )
        assert layer.q_proj is soft.q_proj
        assert list(layer.state_dict()) == list(soft.state_dict())

    @pytest.mark.parametrize("structure", STRUCTURES)
    @pytest.mark.parametrize("size", [-1e3, 1e3])
    def test_huge_keys_give_finite_outputs_and_gradients(self, structure, size):
        layer = layer_of(structure=structure, bias=True, window=5).float()
        with torch.no_grad():
            layer.k_proj.bias.fill_(size)
        x = drawn(1, 70, WIDTH, dtype=torch.float32).requires_grad_()
        y, state = layer(x, return_state=True)
        y.square().sum().backward()
        for tensor in (y, state.recurrent, x.grad, *(p.grad for p in layer.parameters())):
            assert torch.isfinite(tensor).all()

    def test_state_does_not_grow_and_is_float32_for_half_precision(self, x):
        layer = layer_of(window=5).bfloat16()
        state = layer.init_state(2)
        sizes = [part.shape for part in state]
        assert state.recurrent.dtype == torch.float32
        assert state.keys.dtype == torch.bfloat16
        _, state = layer(x.bfloat16(), return_state=True)
        assert [part.shape for part in state] == sizes
        assert state.recurrent.dtype == torch.float32
        assert state.keys.dtype == torch.bfloat16
        _, state = layer.step(x[:, 0].bfloat16(), state)
        assert [part.shape for part in state] == sizes
        assert state.length.tolist() == [TIME + 1, TIME + 1]

    def test_bad_arguments(self):
        for options, message in (
            ({"structure": "gsa"}, "gated slot attention"),
            ({"structure": "x"}, "structure must be one of"),
            ({"window": 0}, "window must be at least 1, got 0"),
            ({"alpha": 0.0, "beta": 0.0}, "alpha and beta must not both be 0"),
            ({"alpha": math.nan}, "alpha must be finite"),
            ({"gate_normalizer": 0}, "gate_normalizer must be positive"),
            ({"lower_bound": 1.0}, r"lower_bound must be in \[0, 1\)"),
        ):
            with pytest.raises(ValueError, match=message):
                layer_of(**options)
        for name in ("alpha", "beta", "gate_normalizer", "lower_bound"):
            with pytest.raises(TypeError, match=f"{name} must be a real number, got str"):
                layer_of(**{name: "1"})
        linear = torch.nn.Linear(16, 16)
        sizes = {"num_heads": 2, "num_kv_heads": 1, "head_dim": 8}
        with pytest.raises(ValueError, match="k_proj must map 16 to 8 channels, got 16 to 16"):
            LigerAttention(linear, linear, linear, linear, **sizes)
        with pytest.raises(TypeError, match="v_proj must be a linear map, got ReLU"):
            LigerAttention(linear, torch.nn.Linear(16, 8), torch.nn.ReLU(), linear, **sizes)
        with pytest.raises(ValueError, match="head_dim must be even"):
            LigerAttention(linear, linear, linear, linear, num_heads=2, num_kv_heads=2, head_dim=7)
        with pytest.raises(TypeError, match="state must be a LigerState"):
            layer_of()(drawn(1, 2, WIDTH), state=torch.zeros(1))
        state = layer_of(window=4).init_state(1)
        with pytest.raises(ValueError, match=r"state\.keys must have shape"):
            layer_of(window=5)(drawn(1, 2, WIDTH), state=state)


class TestLanguageModel:
    def test_generation_equals_reading_the_whole_text_again(self):
        torch.manual_seed(0)
        config = LanguageModelConfig(
            vocab_size=40,
            hidden_size=32,
            num_layers=2,
            mixer="liger_attention",
            mixer_kwargs={"num_kv_heads": 2, "window": 6},
        )
        model = LanguageModel(config).double().eval()
        prompt = torch.randint(40, (2, 15))
        generated = model.generate(prompt, 20, temperature=0.0)
        tokens = prompt
        for _ in range(20):
            tokens = torch.cat([tokens, model(tokens).logits[:, -1:].argmax(-1)], 1)
        assert torch.equal(generated, tokens)
        _, state = model.step(prompt[:, 0])
        assert isinstance(state[0], LigerState)

    def test_saved_models_load(self, tmp_path):
        config = LanguageModelConfig(
            vocab_size=40, hidden_size=32, num_layers=1, mixer="liger_attention"
        )
        model = LanguageModel(config).eval()
        model.save(tmp_path / "model.safetensors")
        loaded = LanguageModel.load(tmp_path / "model.safetensors").eval()
        tokens = torch.randint(40, (1, 9))
        assert torch.equal(loaded(tokens).logits, model(tokens).logits)
        assert loaded.layer_types == ["liger_attention"]
