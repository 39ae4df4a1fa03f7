"""TransNormer's layers against their formulas written densely, and the stack and its model.

That pieces, packing, padding and steps change nothing is tested for both layers, as mixers, in
test_mixer.py as well.
"""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from rankone.nn import (
    GLU,
    LanguageModel,
    LanguageModelConfig,
    SRMSNorm,
    TrainingConfig,
    train,
)
from rankone.nn.diag_attention import DiagAttention, DiagAttentionState
from rankone.nn.lrpe import LRPE
from rankone.nn.norm_attention import NormAttention
from rankone.nn.transnormer import (
    TransNormer,
    TransNormerBlock,
    TransNormerLM,
    attention_gradient_bound,
    local_attention_mass,
)
from torch.utils._python_dispatch import TorchDispatchMode

DIM, HEADS, TIME, BLOCK = 24, 4, 45, 8

# Float64, angles included: rounding of sums over a few dozen tokens, with room for the norm.
TOLERANCE = {"rtol": 1e-8, "atol": 1e-8}

ACTIVATIONS = {
    "1+elu": lambda x: F.elu(x) + 1,
    "elu": F.elu,
    "relu": F.relu,
    "silu": F.silu,
    "identity": lambda x: x,
}


def inputs(batch=2, time=TIME, dim=DIM, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, time, dim, dtype=torch.float64, generator=generator)


def layer_of(cls, *args, **options):
    torch.manual_seed(0)
    layer = cls(*args, **options).double().eval()
    # Angles that differ from the initial ones, as after training.
    for module in layer.modules():
        if isinstance(module, LRPE):
            module.theta.data += 0.1 * torch.rand(module.theta.shape, dtype=torch.float64)
    return layer


def lrpe_by_definition(lrpe, x, positions):
    """Reflection by its matrix; pairs of channels as complex numbers, turned one by one."""
    if lrpe is None:
        return x
    x = x @ (torch.eye(lrpe.head_dim, dtype=x.dtype) - 2 * torch.outer(lrpe.u, lrpe.u))
    paired = lrpe.head_dim // 2 * 2
    pairs = torch.view_as_complex(x[..., :paired].unflatten(-1, (-1, 2)).contiguous())
    turns = torch.exp(1j * positions.to(x.dtype)[:, None] * lrpe.theta)[:, None]
    return torch.cat([torch.view_as_real(pairs * turns).flatten(-2), x[..., paired:]], -1)


def projected(layer, x, positions, activation=lambda x: x):
    q, k, v = (
        F.linear(x, projection.weight, projection.bias).unflatten(-1, (HEADS, -1))
        for projection in (layer.q_proj, layer.k_proj, layer.v_proj)
    )
    q = lrpe_by_definition(layer.lrpe, activation(q), positions)
    return q, lrpe_by_definition(layer.lrpe, activation(k), positions), v


def srms(x):
    return x / (x.square().mean(-1, keepdim=True).sqrt() + 1e-8)


def dense_norm_attention(layer, x, norm=srms):
    """sum_s <q_t, k_s> v_s through the (T, T) matrix; no scale, no denominator."""
    time = x.shape[1]
    q, k, v = projected(layer, x, torch.arange(time), ACTIVATIONS[layer.activation])
    weights = torch.einsum("bthd,bshd->bhts", q, k)
    if layer.causal:
        weights = weights * torch.ones(time, time, dtype=x.dtype).tril()
    o = torch.einsum("bhts,bshd->bthd", weights, v).flatten(-2)
    return F.linear(norm(o), layer.out_proj.weight, layer.out_proj.bias)


def dense_diag_attention(layer, x):
    """Attention masked to blocks through the (T, T) matrix; positions modulo the block."""
    time, block = x.shape[1], layer.block_size
    t = torch.arange(time)
    q, k, v = projected(layer, x, t % block)
    scores = torch.einsum("bthd,bshd->bhts", q, k) / math.sqrt(DIM // HEADS)
    seen = t[:, None] // block == t // block
    if layer.causal:
        seen &= t <= t[:, None]
    if layer.kind == "softmax":
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    else:
        weights = scores.clamp(min=0) * seen
    o = torch.einsum("bhts,bshd->bthd", weights, v).flatten(-2)
    if layer.kind == "relu":
        o = srms(o)
    return F.linear(o, layer.out_proj.weight, layer.out_proj.bias)


class TestSRMSNorm:
    def test_scale_of_the_input_does_not_matter_and_nothing_is_learnt(self):
        norm, x = SRMSNorm(DIM), inputs().float()
        assert not list(norm.parameters())
        torch.testing.assert_close(norm(3 * x), norm(x), rtol=1e-6, atol=1e-6)

    def test_zero_rows_give_zeros_and_finite_gradients(self):
        x = torch.zeros(2, 3, DIM, requires_grad=True)
        y = SRMSNorm(DIM)(x)
        y.square().sum().backward()
        assert torch.equal(y, torch.zeros_like(y))
        assert torch.isfinite(x.grad).all()

    def test_eps_is_added_to_the_root(self):
        x = torch.tensor([[1e-4, -1e-4]], dtype=torch.float64)
        expected = x / (1e-4 + 1e-2)
        torch.testing.assert_close(SRMSNorm(2, eps=1e-2)(x), expected, rtol=1e-12, atol=0)


class TestLRPE:
    @pytest.mark.parametrize("head_dim", [1, 5, 8])
    def test_is_the_reflection_then_the_rotation_of_consecutive_pairs(self, head_dim):
        lrpe = LRPE(head_dim, seed=3).double()
        x = inputs(dim=3 * head_dim).unflatten(-1, (3, head_dim))
        expected = lrpe_by_definition(lrpe, x, torch.arange(TIME))
        torch.testing.assert_close(lrpe(x), expected, **TOLERANCE)
        pair = torch.arange(head_dim // 2, dtype=torch.float64)
        torch.testing.assert_close(
            lrpe.theta.detach(), 10000 ** (-2 * pair / head_dim), rtol=1e-6, atol=0
        )

    @pytest.mark.parametrize("head_dim", [5, 8])
    def test_keeps_norms(self, head_dim):
        lrpe = layer_of(LRPE, head_dim)
        x = inputs(dim=2 * head_dim).unflatten(-1, (2, head_dim))
        torch.testing.assert_close(lrpe(x).norm(dim=-1), x.norm(dim=-1), rtol=1e-6, atol=0)

    def test_products_depend_on_the_distance_alone(self):
        lrpe = layer_of(LRPE, 8)
        q, k = inputs(2, 1, 8).unflatten(-1, (1, 8)).expand(2, TIME, 1, 8)
        products = torch.einsum("thd,shd->ts", lrpe(q), lrpe(k))
        shifted = torch.einsum(
            "thd,shd->ts",
            lrpe(q, torch.arange(TIME) + 1000),
            lrpe(k, torch.arange(TIME) + 1000),
        )
        torch.testing.assert_close(products[1:, 1:], products[:-1, :-1], **TOLERANCE)
        torch.testing.assert_close(shifted, products, **TOLERANCE)
        assert (products[0] - products[0, 0]).abs().max() > 0.1

    def test_without_angles_it_is_the_reflection_alone(self):
        lrpe = LRPE(6).double()
        lrpe.theta.data.zero_()
        x = inputs(dim=6)[:, :, None]
        u = lrpe.u
        expected = x - 2 * (x @ u)[..., None] * u
        torch.testing.assert_close(lrpe(x), expected, **TOLERANCE)
        torch.testing.assert_close(lrpe(lrpe(x)), x, rtol=1e-6, atol=1e-6)
        plain = LRPE(6, householder=False).double()
        plain.theta.data.zero_()
        assert plain.u is None
        torch.testing.assert_close(plain(x), x)

    def test_angles_are_learnt_and_the_reflection_is_saved_and_fixed(self):
        lrpe = LRPE(6)
        assert [name for name, _ in lrpe.named_parameters()] == ["theta"]
        assert set(lrpe.state_dict()) == {"theta", "u"}
        assert not list(LRPE(6, learn_theta=False).parameters())
        assert set(LRPE(6, learn_theta=False).state_dict()) == {"theta", "u"}
        assert torch.equal(LRPE(6, seed=1).u, LRPE(6, seed=1).u)
        assert not torch.equal(LRPE(6, seed=1).u, LRPE(6, seed=2).u)
        torch.testing.assert_close(lrpe.u.norm(), torch.tensor(1.0))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_angles_stay_float32_in_half_precision(self, dtype):
        lrpe = LRPE(8)
        theta, x = lrpe.theta.detach().clone(), inputs(1, 2048, 8).float()[:, :, None]
        whole = lrpe(x)
        half = lrpe.to(dtype)
        assert torch.equal(half.theta, theta)
        y = half(x.to(dtype))
        assert y.dtype == dtype
        assert (y.float() - whole).norm() / whole.norm() < 2 * torch.finfo(dtype).eps
        assert LRPE(8, dtype=dtype).theta.dtype == torch.float32
        assert NormAttention(8, 1, dtype=dtype).lrpe.theta.dtype == torch.float32

    def test_autocast_does_not_round_angles_and_reflections(self):
        lrpe, x = LRPE(8), inputs(1, 100, 8).float()[:, :, None]
        with torch.autocast("cpu", torch.bfloat16):
            inside = lrpe(x)
        assert torch.equal(inside, lrpe(x))

    def test_shapes_can_be_traced_on_the_meta_device(self):
        model = TransNormer(8, 2, 2, block_size=4, device="meta")
        assert model(torch.zeros(1, 9, 8, device="meta")).shape == (1, 9, 8)

    def test_errors(self):
        with pytest.raises(ValueError, match="head_dim must be at least 1, got 0"):
            LRPE(0)
        with pytest.raises(ValueError, match="base must be positive and finite, got -1"):
            LRPE(4, base=-1)
        with pytest.raises(ValueError, match=r"x must have shape \(\.\.\., time, heads, 4\)"):
            LRPE(4)(torch.zeros(2, 3, 5))
        with pytest.raises(ValueError, match=r"positions must have shape \(3,\) or \(2, 3\)"):
            LRPE(4)(torch.zeros(2, 3, 1, 4), torch.zeros(4))


class TestNormAttention:
    @pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
    @pytest.mark.parametrize("causal", [True, False])
    @pytest.mark.parametrize("options", [{}, {"lrpe": False, "bias": False}], ids=str)
    def test_is_the_dense_formula(self, activation, causal, options):
        layer = layer_of(NormAttention, DIM, HEADS, activation=activation, causal=causal, **options)
        x = inputs()
        torch.testing.assert_close(layer(x), dense_norm_attention(layer, x), **TOLERANCE)

    def test_is_its_recurrence(self):
        layer, x = layer_of(NormAttention, DIM, HEADS), inputs()
        q, k, v = projected(layer, x, torch.arange(TIME), ACTIVATIONS["1+elu"])
        state = torch.zeros(2, HEADS, DIM // HEADS, DIM // HEADS, dtype=torch.float64)
        whole = layer(x)
        for t in range(TIME):
            state = state + k[:, t, :, :, None] * v[:, t, :, None, :]
            y = (q[:, t, :, None] @ state).flatten(1)
            torch.testing.assert_close(layer.out_proj(srms(y)), whole[:, t], **TOLERANCE)

    @pytest.mark.parametrize("norm", ["rmsnorm", "layernorm", "none"])
    def test_other_norms_take_the_place_of_the_parameter_free_one(self, norm):
        layer, x = layer_of(NormAttention, DIM, HEADS, norm=norm), inputs()
        other = {
            "rmsnorm": lambda y: F.rms_norm(y, (DIM,), eps=1e-6),
            "layernorm": lambda y: F.layer_norm(y, (DIM,)),
            "none": lambda y: y,
        }[norm]
        torch.testing.assert_close(layer(x), dense_norm_attention(layer, x, other), **TOLERANCE)

    def test_gradients_are_those_of_the_dense_formula(self):
        layer, x = layer_of(NormAttention, DIM, HEADS), inputs().requires_grad_()
        wanted = (x, *layer.parameters())
        upstream = inputs(seed=2)
        gradients = torch.autograd.grad(layer(x), wanted, upstream)
        expected = torch.autograd.grad(dense_norm_attention(layer, x), wanted, upstream)
        for gradient, other in zip(gradients, expected, strict=True):
            torch.testing.assert_close(gradient, other, rtol=1e-7, atol=1e-7)

    @pytest.mark.parametrize("causal", [True, False])
    def test_the_size_of_the_values_does_not_matter(self, causal):
        layer, x = layer_of(NormAttention, DIM, HEADS, causal=causal), inputs()
        y = layer(x)
        with torch.no_grad():
            layer.v_proj.weight.mul_(100)
            layer.v_proj.bias.mul_(100)
        # The norm's eps stands beside an rms of about 1.
        torch.testing.assert_close(layer(x), y, rtol=1e-6, atol=1e-6)

    def test_norm_is_over_the_merged_heads(self):
        """A head that is made small stays small, which a norm a head would undo."""
        layer, x = layer_of(NormAttention, DIM, HEADS), inputs()
        layer.out_proj = torch.nn.Identity()
        with torch.no_grad():
            layer.v_proj.weight[: DIM // HEADS] *= 1e-3
            layer.v_proj.bias[: DIM // HEADS] *= 1e-3
        y = layer(x)
        torch.testing.assert_close(
            y.square().mean(-1), torch.ones(2, TIME, dtype=torch.float64), rtol=1e-6, atol=0
        )
        assert y[..., : DIM // HEADS].abs().max() < 0.05

    def test_tokens_after_t_do_not_matter(self):
        layer, x = layer_of(NormAttention, DIM, HEADS), inputs()
        changed = x.clone()
        changed[:, 20:] = inputs(seed=5)[:, 20:]
        torch.testing.assert_close(layer(changed)[:, :20], layer(x)[:, :20], **TOLERANCE)

    def test_bidirectional_form_without_positions_commutes_with_permutations(self):
        layer, x = layer_of(NormAttention, DIM, HEADS, causal=False, lrpe=False), inputs()
        order = torch.randperm(TIME, generator=torch.Generator().manual_seed(4))
        torch.testing.assert_close(layer(x[:, order]), layer(x)[:, order], **TOLERANCE)

    @pytest.mark.parametrize("causal", [True, False])
    def test_weights_are_the_raw_products(self, causal):
        layer, x = layer_of(NormAttention, DIM, HEADS, causal=causal, norm="none"), inputs()
        v = layer.v_proj(x).unflatten(-1, (HEADS, -1))
        o = torch.einsum("bhts,bshd->bthd", layer.attention_weights(x), v).flatten(-2)
        torch.testing.assert_close(layer.out_proj(o), layer(x), **TOLERANCE)

    def test_float16_does_not_overflow_before_the_norm(self):
        """Every y of this input is near 6 * T^(1/2) * 300^3, far beyond 65504."""
        layer = NormAttention(16, 2, activation="relu", lrpe=False)
        x = 300 * torch.rand(1, 500, 16)
        whole = layer(x)
        assert ((layer.half()(x.half()).float() - whole).norm() / whole.norm()) < 0.01

    def test_initial_weights(self):
        torch.manual_seed(0)
        layer = NormAttention(256, 4)
        bound = math.sqrt(6 / 512)
        for projection, gain in (
            (layer.q_proj, 2**-0.5), (layer.k_proj, 2**-0.5),
            (layer.v_proj, 2**-0.5), (layer.out_proj, 1.0),
        ):  # fmt: skip
            assert projection.weight.detach().abs().max() == pytest.approx(gain * bound, rel=0.01)
        assert not layer.out_proj.bias.any()
        diag = DiagAttention(256, 4)
        assert diag.q_proj.weight.detach().abs().max() == pytest.approx(bound, rel=0.01)


class TestDiagAttention:
    @pytest.mark.parametrize("kind", ["softmax", "relu"])
    @pytest.mark.parametrize("causal", [True, False])
    @pytest.mark.parametrize("block", [1, 5, 8, 64])
    def test_is_the_dense_formula_on_a_block_diagonal_mask(self, kind, causal, block):
        layer = layer_of(DiagAttention, DIM, HEADS, block_size=block, kind=kind, causal=causal)
        x = inputs()
        torch.testing.assert_close(layer(x), dense_diag_attention(layer, x), **TOLERANCE)

    @pytest.mark.parametrize("kind", ["softmax", "relu"])
    @pytest.mark.parametrize("causal", [True, False])
    def test_blocks_do_not_know_of_each_other(self, kind, causal):
        layer = layer_of(DiagAttention, DIM, HEADS, block_size=BLOCK, kind=kind, causal=causal)
        x = inputs()
        assert TIME % BLOCK
        alone = torch.cat([layer(block) for block in x.split(BLOCK, dim=1)], 1)
        torch.testing.assert_close(layer(x), alone, **TOLERANCE)

    @pytest.mark.parametrize("causal", [True, False])
    def test_a_block_of_everything_is_softmax_attention(self, causal):
        layer = layer_of(DiagAttention, DIM, HEADS, block_size=TIME, causal=causal)
        x = inputs()
        q, k, v = (part.transpose(1, 2) for part in projected(layer, x, torch.arange(TIME)))
        o = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        torch.testing.assert_close(
            layer(x), layer.out_proj(o.transpose(1, 2).flatten(-2)), **TOLERANCE
        )

    def test_blocks_of_one_token_hand_the_value_through(self):
        layer, x = layer_of(DiagAttention, DIM, HEADS, block_size=1), inputs()
        torch.testing.assert_close(layer(x), layer.out_proj(layer.v_proj(x)), **TOLERANCE)

    def test_softmax_blocks_are_not_normalised_and_rectified_ones_are(self):
        x = inputs()
        for kind, ratio in (("softmax", 100), ("relu", 1)):
            layer = layer_of(DiagAttention, DIM, HEADS, block_size=BLOCK, kind=kind)
            y = layer(x)
            with torch.no_grad():
                layer.v_proj.weight.mul_(100)
                layer.v_proj.bias.mul_(100)
            torch.testing.assert_close(layer(x), ratio * y, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("kind", ["softmax", "relu"])
    @pytest.mark.parametrize("causal", [True, False])
    @pytest.mark.parametrize("time", [1, 16, 45])
    def test_weights_weigh_the_values(self, kind, causal, time):
        layer = layer_of(
            DiagAttention, DIM, HEADS, block_size=BLOCK, kind=kind, causal=causal, norm="none"
        )
        x = inputs(time=time)
        weights = layer.attention_weights(x)
        v = layer.v_proj(x).unflatten(-1, (HEADS, -1))
        o = torch.einsum("bhts,bshd->bthd", weights, v).flatten(-2)
        torch.testing.assert_close(layer.out_proj(o), layer(x), **TOLERANCE)
        t = torch.arange(time) // BLOCK
        assert not weights[..., t[:, None] != t].any()

    def test_zero_padding_of_a_ragged_block_gets_no_weight(self):
        """All keys are equal, so every token of the last block weighs one fifth."""
        layer = layer_of(DiagAttention, DIM, HEADS, block_size=BLOCK, causal=False, lrpe=False)
        with torch.no_grad():
            layer.k_proj.weight.zero_()
        x = inputs(time=TIME)
        expected = layer.out_proj(layer.v_proj(x[:, 40:]).mean(1, keepdim=True))
        torch.testing.assert_close(layer(x)[:, 40:], expected.expand(2, 5, DIM), **TOLERANCE)

    def test_state_is_emptied_when_a_block_ends(self):
        layer, x = layer_of(DiagAttention, DIM, HEADS, block_size=BLOCK), inputs()
        _, stepped = layer(x[:, : BLOCK - 1], return_state=True)
        _, stepped = layer.step(x[:, BLOCK - 1], stepped)
        _, read = layer(x[:, :BLOCK], return_state=True)
        for state in (stepped, read):
            assert isinstance(state, DiagAttentionState)
            assert not any(part.any() for part in state)


LAYERS = {
    "norm": lambda **options: layer_of(NormAttention, DIM, HEADS, **options),
    "diag softmax": lambda **options: layer_of(
        DiagAttention, DIM, HEADS, block_size=BLOCK, **options
    ),
    "diag relu": lambda **options: layer_of(
        DiagAttention, DIM, HEADS, block_size=BLOCK, kind="relu", **options
    ),
    "block": lambda **options: layer_of(
        TransNormerBlock, DIM, HEADS, attention="diag", block_size=BLOCK, **options
    ),
    "T1": lambda **options: layer_of(
        TransNormer, DIM, 4, HEADS, preset="T1", block_size=BLOCK, **options
    ),
    "T2": lambda **options: layer_of(TransNormer, DIM, 3, HEADS, block_size=BLOCK, **options),
}


@pytest.fixture(params=LAYERS.values(), ids=LAYERS.keys())
def make(request):
    return request.param


@pytest.mark.parametrize("causal", [True, False])
def test_packed_sequences_equal_separate_ones(make, causal):
    layer = make(causal=causal)
    parts = [inputs(1, length, seed=length) for length in (9, 1, 0, 23, 8)]
    cu_seqlens = torch.tensor([0, 9, 10, 10, 33, 41], dtype=torch.int32)
    y = layer(torch.cat(parts, 1), cu_seqlens=cu_seqlens)
    separate = [layer(part) for part in parts if part.shape[1]]
    torch.testing.assert_close(y, torch.cat(separate, 1), **TOLERANCE)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("places", ["left", "right", "within"])
def test_padding_changes_nothing_and_reads_zero(make, causal, places):
    layer, x = make(causal=causal), inputs()
    padding = torch.zeros(2, TIME, dtype=torch.bool)
    padding[0, {"left": slice(0, 11), "right": slice(34, TIME), "within": slice(5, 16)}[places]] = (
        True
    )
    y = layer(x, key_padding_mask=padding)
    torch.testing.assert_close(y[:1, ~padding[0]], layer(x[:1, ~padding[0]]), **TOLERANCE)
    torch.testing.assert_close(y[1:], layer(x[1:]), **TOLERANCE)
    torch.testing.assert_close(layer(x, attention_mask=(~padding).int()), y)
    assert not y[0, padding[0]].any()


def test_streaming_equals_one_call_across_block_boundaries(make):
    layer, x = make(), inputs()
    whole = layer(x)
    state = None
    for t in range(TIME):
        y, state = layer.step(x[:, t], state)
        torch.testing.assert_close(y, whole[:, t], **TOLERANCE)
    first, state = layer(x[:, :13], return_state=True)
    second, state = layer(x[:, 13:32], state=state, return_state=True)
    third, _ = layer.step(x[:, 32], state)
    torch.testing.assert_close(
        torch.cat([first, second, third[:, None]], 1), whole[:, :33], **TOLERANCE
    )


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("shape", [(0, 5, DIM), (2, 0, DIM)])
def test_no_sequences_and_no_tokens_are_fine(make, causal, shape):
    layer, x = make(causal=causal), torch.zeros(shape, dtype=torch.float64)
    assert layer(x).shape == shape
    if causal:
        y, state = layer(x, return_state=True)
        assert y.shape == shape
        if shape[0]:
            # Nothing was read, so what follows is a beginning.
            torch.testing.assert_close(layer(inputs(), state=state), layer(inputs()))


@pytest.mark.parametrize("causal", [True, False])
def test_what_stands_in_the_padding_is_never_read(make, causal):
    layer, x = make(causal=causal), inputs()
    padding = torch.zeros(2, TIME, dtype=torch.bool)
    padding[0, 30:] = True
    x[padding] = torch.nan
    assert torch.isfinite(layer(x, key_padding_mask=padding)).all()


@pytest.mark.parametrize("name", ["norm", "diag softmax"])
def test_compiled_layers_equal_the_eager_ones(name):
    torch._dynamo.reset()
    layer, x = LAYERS[name](), inputs(1)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x), **TOLERANCE)


def test_state_has_one_size(make):
    layer, x = make(), inputs()

    def size(state):
        if isinstance(state, torch.Tensor):
            return state.numel()
        return sum(size(part) for part in state)

    sizes = {size(layer(x[:, :time], return_state=True)[1]) for time in (1, 8, 30, 45)}
    assert sizes == {size(layer.init_state(2))}


class _LargestTensor(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.entries = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for part in result if isinstance(result, tuple | list) else (result,):
            if isinstance(part, torch.Tensor):
                self.entries = max(self.entries, part.numel())
        return result


@pytest.mark.parametrize("causal", [True, False])
def test_no_tensor_grows_with_the_square_of_time(make, causal):
    layer, time = make(causal=causal), 512
    with _LargestTensor() as largest:
        layer(inputs(1, time)).sum().backward()
    # The widest per token: a feed-forward block, or a row of scores of every head of a block.
    assert largest.entries <= time * max(int(8 / 3 * DIM), HEADS * BLOCK, 3 * DIM) < time**2


def test_bfloat16_layers_stay_within_two_percent(make):
    """A stack is held to its own rounded weights: their rounding alone moves four layers so far."""
    layer, x = make().float(), inputs(1, 2048).float()
    half = copy.deepcopy(layer).bfloat16()
    whole = (copy.deepcopy(half).float() if isinstance(layer, TransNormer) else layer)(x)
    y = half(x.bfloat16())
    assert y.dtype == torch.bfloat16
    assert (y.float() - whole).norm() / whole.norm() < 0.02


def test_autocast_stays_within_two_percent(make):
    layer, x = make().float(), inputs(1, 512).float()
    whole = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        y, state = layer(x, return_state=True)
        stepped, _ = layer.step(x[:, 0], state)
    assert (y.float() - whole).norm() / whole.norm() < 0.02
    assert torch.isfinite(stepped).all()


@pytest.mark.parametrize("cls", [NormAttention, DiagAttention])
def test_dropout_acts_in_training_alone(cls):
    layer, x = layer_of(cls, DIM, HEADS, dropout=0.5), inputs()
    plain = layer_of(cls, DIM, HEADS)
    torch.testing.assert_close(layer(x), plain(x))
    y = layer.train()(x)
    dropped = (y == 0).double().mean()
    assert 0.45 < dropped < 0.55
    torch.testing.assert_close(y[y != 0], 2 * plain(x)[y != 0])


class TestTransNormer:
    def test_blocks_are_pre_norm_residual_blocks(self):
        block, x = layer_of(TransNormerBlock, DIM, HEADS), inputs()
        h = x + dense_norm_attention(block.mixer, srms(x))
        glu = block.feed_forward
        inner = F.silu(glu.gate_proj(srms(h))) * glu.up_proj(srms(h))
        torch.testing.assert_close(block(x), h + glu.down_proj(inner), **TOLERANCE)

    def test_early_layers_are_diagonal_and_presets_are_the_published_ones(self):
        for preset, kind, activation in (("T1", "relu", "elu"), ("T2", "softmax", "1+elu")):
            model = TransNormer(DIM, 5, HEADS, preset=preset)
            mixers = [block.mixer for block in model.blocks]
            kinds = [type(mixer) for mixer in mixers]
            assert kinds == [DiagAttention] * 2 + [NormAttention] * 3
            assert {mixer.kind for mixer in mixers[:2]} == {kind}
            assert {mixer.activation for mixer in mixers[2:]} == {activation}
            assert {mixer.block_size for mixer in mixers[:2]} == {64}

    @pytest.mark.parametrize("count", [0, 1, 3])
    def test_number_of_diagonal_layers_can_be_chosen(self, count):
        model = TransNormer(DIM, 3, HEADS, num_diag_layers=count)
        kinds = [isinstance(block.mixer, DiagAttention) for block in model.blocks]
        assert kinds == [True] * count + [False] * (3 - count)

    @pytest.mark.parametrize("preset", ["T1", "T2"])
    def test_parameters_of_a_layer_are_counted_by_the_formula(self, preset):
        dim, heads = 48, 4
        d, h = dim // heads, int(8 * dim / 3)
        layer = 4 * (dim**2 + dim) + d // 2 + 2 * (dim * h + h) + h * dim + dim
        model = TransNormer(dim, 4, heads, preset=preset)
        assert sum(p.numel() for p in model.parameters()) == 4 * layer
        for tied in (True, False):
            lm = TransNormerLM(100, dim, 4, heads, preset=preset, tie_embeddings=tied)
            count = sum(p.numel() for p in lm.parameters())
            assert count == 4 * layer + 100 * dim * (1 if tied else 2)

    def test_weights_of_every_layer(self):
        model, x = layer_of(TransNormer, DIM, 3, HEADS, block_size=BLOCK), inputs()
        weights = model.attention_weights(x)
        assert len(weights) == 3
        hidden = model.blocks[0](x)
        expected = model.blocks[1].mixer.attention_weights(srms(hidden))
        torch.testing.assert_close(weights[1], expected, **TOLERANCE)

    @pytest.mark.parametrize("silent", ["mixer.out_proj", "feed_forward.down_proj"])
    def test_dropout_falls_on_both_branches(self, silent):
        block, x = layer_of(TransNormerBlock, DIM, HEADS, dropout=0.3), inputs()
        with torch.no_grad():
            for parameter in block.get_submodule(silent).parameters():
                parameter.zero_()
        branch = block(x) - x
        dropped = block.train()(x) - x
        kept = dropped != 0
        assert 0.65 < kept.double().mean() < 0.75
        torch.testing.assert_close(dropped[kept], branch[kept] / 0.7, **TOLERANCE)


class TestTransNormerLM:
    def model(self, **options):
        torch.manual_seed(0)
        model = TransNormerLM(19, DIM, 4, HEADS, block_size=BLOCK, **options)
        return model.double().eval()

    def tokens(self, batch=2, time=TIME):
        return torch.randint(19, (batch, time), generator=torch.Generator().manual_seed(7))

    @pytest.mark.parametrize("preset", ["T1", "T2"])
    @pytest.mark.parametrize("embedding_norm", [True, False])
    @pytest.mark.parametrize("tied", [True, False])
    def test_is_the_stack_between_embedding_and_head(self, preset, embedding_norm, tied):
        model = self.model(preset=preset, embedding_norm=embedding_norm, tie_embeddings=tied)
        stack = TransNormer(DIM, 4, HEADS, preset=preset, block_size=BLOCK).double()
        weights = {
            name: tensor
            for name, tensor in model.state_dict().items()
            if name not in ("embedding.weight", "head.weight")
        }
        stack.load_state_dict(weights)
        x = model.embedding.weight[self.tokens()] * math.sqrt(DIM)
        hidden = stack(srms(x) if embedding_norm else x)
        head = model.embedding.weight if tied else model.head.weight
        torch.testing.assert_close(model(self.tokens()).logits, hidden @ head.T, **TOLERANCE)

    def test_initial_embedding_and_weights(self):
        torch.manual_seed(0)
        model = TransNormerLM(500, 64, 2, 4, tie_embeddings=False)
        for weight in (model.embedding.weight, model.head.weight):
            assert weight.detach().std() == pytest.approx(64**-0.5, rel=0.02)
        norm = model.blocks[1].mixer
        assert norm.q_proj.weight.detach().abs().max() == pytest.approx(
            math.sqrt(3 / 128), rel=0.01
        )
        assert not norm.out_proj.bias.any()
        glu = model.blocks[0].feed_forward
        assert isinstance(glu, GLU)
        assert glu.gate_proj.weight.detach().abs().max() == pytest.approx(64**-0.5, rel=0.01)
        before = norm.q_proj.weight.clone()
        model.reset_parameters()
        assert not torch.equal(norm.q_proj.weight, before)

    def test_greedy_generation_streams_what_one_call_says(self):
        model = self.model()
        text = model.generate(self.tokens(1, 5), 30, temperature=0.0)
        logits = model(text).logits
        assert torch.equal(text[:, 5:], logits[:, 4:-1].argmax(-1))

    def test_padded_prompts_generate_as_if_alone(self):
        model = self.model()
        prompt = self.tokens(2, 12)
        mask = torch.ones(2, 12, dtype=torch.bool)
        mask[0, :5] = False
        both = model.generate(prompt, 20, temperature=0.0, attention_mask=mask)
        alone = model.generate(prompt[:1, 5:], 20, temperature=0.0)
        assert torch.equal(both[:1, 12:], alone[:, 7:])

    def test_packed_texts_equal_separate_ones(self):
        model, tokens = self.model(), self.tokens(1, 30)
        cu_seqlens = torch.tensor([0, 11, 30])
        packed = model(tokens, cu_seqlens=cu_seqlens).logits
        separate = torch.cat([model(tokens[:, :11]).logits, model(tokens[:, 11:]).logits], 1)
        torch.testing.assert_close(packed, separate, **TOLERANCE)

    @pytest.mark.parametrize("cls", [TransNormerLM, LanguageModel])
    def test_saved_models_load_with_reflections_and_angles(self, tmp_path, cls):
        model = self.model(preset="T1", dropout=0.1)
        model.save(tmp_path / "model.safetensors")
        loaded = cls.load(tmp_path / "model.safetensors").eval()
        assert loaded.config == model.config or (loaded.config.to_json() == model.config.to_json())
        assert torch.equal(loaded(self.tokens()).logits, model(self.tokens()).logits)

    def test_recomputing_blocks_gives_the_same_gradients(self):
        gradients = []
        for checkpointing in (False, True):
            model = self.model(activation_checkpointing=checkpointing).train()
            model(self.tokens(), labels=self.tokens()).loss.backward()
            gradients.append([p.grad for p in model.parameters()])
        torch.testing.assert_close(gradients[0], gradients[1])

    def test_dropout_falls_on_the_embedding_and_the_branches_in_training(self):
        model = self.model(dropout=0.25)
        torch.testing.assert_close(model(self.tokens()).logits, self.model()(self.tokens()).logits)
        embedded = model.train().embed(self.tokens())
        assert 0.2 < (embedded == 0).double().mean() < 0.3
        assert {block.dropout for block in model.blocks} == {0.25}

    @pytest.mark.parametrize("autocast_dtype", [None, torch.bfloat16])
    def test_a_periodic_text_is_learnt(self, autocast_dtype):
        torch.manual_seed(0)
        model = TransNormerLM(7, 16, 2, 2, block_size=4)
        batches = [(torch.arange(24) + start)[None] % 7 for start in range(7)] * 10
        config = TrainingConfig(
            max_steps=60,
            learning_rate=1e-2,
            warmup_steps=5,
            weight_decay=0.01,
            betas=(0.9, 0.98),
            autocast_dtype=autocast_dtype,
        )
        result = train(model, batches, config, progress=False)
        assert result.losses[0] > 1.5
        assert result.losses[-1] < 0.2

    @pytest.mark.parametrize("mixer", ["norm_attention", "diag_attention"])
    def test_both_layers_are_mixers_of_any_language_model(self, mixer):
        torch.manual_seed(0)
        config = LanguageModelConfig(
            vocab_size=19, hidden_size=DIM, num_layers=2, num_heads=HEADS, mixer=mixer
        )
        model = LanguageModel(config).double()
        assert model.layer_types == [mixer] * 2
        text = model.generate(self.tokens(1, 5), 10, temperature=0.0)
        assert torch.equal(text[:, 5:], model(text).logits[:, 4:-1].argmax(-1))
        # Maps into the residual stream start smaller by the square root of twice the depth.
        mixer = model.blocks[0].mixer
        assert mixer.out_proj.weight.std() < 0.7 * mixer.q_proj.weight.std()


class TestLocalAttentionMass:
    @pytest.mark.parametrize("r", [0.01, 0.1, 0.5, 1.0])
    def test_uniform_causal_weights(self, r):
        tokens = 100
        window = round(r * tokens)
        weights = torch.ones(3, 2, tokens, tokens, dtype=torch.float64).tril()
        shares = [min(window, i + 1) / (i + 1) for i in range(50, 100)]
        expected = torch.full((2,), sum(shares) / 50, dtype=torch.float64)
        torch.testing.assert_close(local_attention_mass(weights, r), expected)

    @pytest.mark.parametrize("causal", [True, False])
    @pytest.mark.parametrize("tokens", [1, 2, 7, 20])
    def test_is_its_definition_row_by_row(self, causal, tokens):
        generator = torch.Generator().manual_seed(0)
        weights = torch.randn(2, 3, tokens, tokens, generator=generator, dtype=torch.float64)
        weights = weights.tril() if causal else weights
        for r in (0.29, 0.5, 1.0):
            window = math.floor(r * tokens)
            total = torch.zeros(3, dtype=torch.float64)
            rows = [i for i in range(tokens) if i >= tokens / 2] or [0]
            for i in rows:
                end = i + 1
                if not causal:
                    end = min(max(i + 1 + window // 2, window), tokens)
                inside = weights[:, :, i, max(end - window, 0) : end].abs().sum(-1)
                total += (inside / weights[:, :, i].abs().sum(-1)).mean(0) / len(rows)
            torch.testing.assert_close(local_attention_mass(weights, r, causal), total)

    def test_signs_do_not_cancel_and_rows_of_zeros_count_nothing(self):
        weights = torch.tensor([[1.0, 0.0], [-3.0, 1.0]])[None, None]
        torch.testing.assert_close(local_attention_mass(weights, 0.5), torch.tensor([0.25]))
        assert local_attention_mass(torch.zeros(1, 2, 4, 4), 0.5).tolist() == [0, 0]

    def test_blocks_within_the_window_hold_everything(self):
        layer = DiagAttention(DIM, HEADS, block_size=4)
        weights = layer.attention_weights(inputs(time=40).float())
        torch.testing.assert_close(local_attention_mass(weights, 0.1), torch.ones(HEADS))

    def test_errors(self):
        with pytest.raises(ValueError, match=r"weights must be 4-D \(batch, heads, N, N\)"):
            local_attention_mass(torch.zeros(2, 4, 4), 0.5)
        with pytest.raises(ValueError, match=r"weights must have shape .* got \(1, 1, 3, 4\)"):
            local_attention_mass(torch.zeros(1, 1, 3, 4), 0.5)
        for r in (0, 1.5, math.nan):
            with pytest.raises(ValueError, match=r"r must be in \(0, 1\]"):
                local_attention_mass(torch.zeros(1, 1, 4, 4), r)


class TestGradientBound:
    @pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 1e3])
    @pytest.mark.parametrize("eps", [1e-4, 1e-2, 1.0])
    def test_no_gradient_of_a_score_exceeds_it(self, scale, eps):
        generator = torch.Generator().manual_seed(0)
        for _ in range(20):
            s, v, upstream = (
                torch.randn(shape, generator=generator, dtype=torch.float64)
                for shape in ((6, 6), (6, 5), (6, 5))
            )
            s = (scale * s).requires_grad_()
            o = F.rms_norm(s @ v, (5,), eps=eps)
            (gradient,) = torch.autograd.grad(o, s, upstream)
            bound = attention_gradient_bound(v, upstream, eps)
            assert gradient.abs().max() <= bound
            # Not vacuous either: small scores come within two orders of it.
            if scale == 1e-6 and eps == 1e-4:
                assert gradient.abs().max() > bound / 100

    def test_is_the_formula(self):
        v = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
        grad_out = torch.tensor([[0.0, 2.0], [1.0, 0.0]])
        assert attention_gradient_bound(v, grad_out, 0.25) == pytest.approx(3 * 2 * 5 * 2 / 1.0)

    def test_errors(self):
        with pytest.raises(ValueError, match=r"v and grad_out must have shape .* \(3, 5\)"):
            attention_gradient_bound(torch.zeros(3, 4), torch.zeros(3, 5), 1.0)
        with pytest.raises(ValueError, match="eps must be positive and finite, got 0"):
            attention_gradient_bound(torch.zeros(3, 4), torch.zeros(3, 4), 0)


class TestErrors:
    @pytest.mark.parametrize(
        "build", [NormAttention, DiagAttention, TransNormerBlock], ids=lambda cls: cls.__name__
    )
    def test_sizes_and_shared_options(self, build):
        with pytest.raises(ValueError, match="dim must be a multiple of num_heads, got 30 and 4"):
            build(30, 4)
        with pytest.raises(ValueError, match="dim and num_heads must be at least 1, got 8 and 0"):
            build(8, 0)
        with pytest.raises(ValueError, match=r"norm must be one of .* got 'batchnorm'"):
            build(8, 2, norm="batchnorm")
        with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\), got 1"):
            build(8, 2, dropout=1)

    def test_options_of_each_layer(self):
        with pytest.raises(ValueError, match="block_size must be at least 1, got 0"):
            DiagAttention(8, 2, block_size=0)
        with pytest.raises(ValueError, match=r"kind must be one of .* got 'elu'"):
            DiagAttention(8, 2, kind="elu")
        for activation in ("gelu", "softmax"):
            with pytest.raises(ValueError, match=r"activation must be one of .* got"):
                NormAttention(8, 2, activation=activation)
        with pytest.raises(ValueError, match=r"attention must be one of .* got 'full'"):
            TransNormerBlock(8, 2, attention="full")

    @pytest.mark.parametrize(
        "build", [lambda **o: TransNormer(8, 4, 2, **o), lambda **o: TransNormerLM(9, 8, 4, 2, **o)]
    )
    def test_options_of_the_stack(self, build):
        with pytest.raises(ValueError, match=r"preset must be one of .* got 'T3'"):
            build(preset="T3")
        for count in (-1, 5):
            with pytest.raises(
                ValueError, match=rf"num_diag_layers must be between 0 and .*\(4\), got {count}"
            ):
                build(num_diag_layers=count)
        with pytest.raises(ValueError, match="block_size must be at least 1, got 0"):
            build(block_size=0)
        with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\), got 1"):
            build(dropout=1)
        with pytest.raises(ValueError, match="num_layers must be at least 1, got 0"):
            TransNormer(8, 0, 2)

    def test_inputs(self, make):
        layer, x = make(), inputs()
        for bad in (torch.zeros(2, DIM), torch.zeros(2, 3, DIM + 1), torch.zeros(1, 2, 3, DIM)):
            with pytest.raises(ValueError, match=r"^x must have shape \(batch, time, 24\)"):
                layer(bad.double())
        with pytest.raises(ValueError, match=r"^x must have shape \(batch, 24\)"):
            layer.step(x)
        for call in (layer, layer.step):
            with pytest.raises(TypeError, match=r"^x must be a torch\.Tensor, got list"):
                call([[0.0] * DIM])
            with pytest.raises(TypeError, match=r"^x must be float32, .* got torch.int64"):
                call(torch.zeros((2, 3, DIM) if call is layer else (2, DIM), dtype=torch.int64))
        padding = torch.zeros(2, TIME, dtype=torch.bool)
        with pytest.raises(ValueError, match=r"key_padding_mask must have shape \(2, 45\)"):
            layer(x, key_padding_mask=padding[:, 1:])
        with pytest.raises(TypeError, match=r"key_padding_mask must be boolean, .* torch.int64"):
            layer(x, key_padding_mask=padding.long())
        with pytest.raises(ValueError, match="key_padding_mask must be None when attention_mask"):
            layer(x, key_padding_mask=padding, attention_mask=~padding)
        with pytest.raises(ValueError, match="key_padding_mask must be None when cu_seqlens"):
            layer(x[:1], key_padding_mask=padding[:1], cu_seqlens=torch.tensor([0, TIME]))
        with pytest.raises(ValueError, match=f"cu_seqlens must end at .* {TIME}, got 40"):
            layer(x[:1], cu_seqlens=torch.tensor([0, 40]))
        with pytest.raises(ValueError, match="cu_seqlens must not decrease"):
            layer(x[:1], cu_seqlens=torch.tensor([0, 30, 20, TIME]))

    def test_bidirectional_layers_have_no_state(self, make):
        layer, x = make(causal=False), inputs()
        with pytest.raises(ValueError, match="return_state cannot be combined with causal=False"):
            layer(x, return_state=True)
        with pytest.raises(ValueError, match="state cannot be combined with causal=False"):
            layer(x, state=layer.init_state(2))
        with pytest.raises(ValueError, match="step needs causal=True"):
            layer.step(x[:, 0])

    def test_states(self):
        x = inputs()
        norm, diag = layer_of(NormAttention, DIM, HEADS), layer_of(DiagAttention, DIM, HEADS)
        with pytest.raises(TypeError, match="state must be a NormAttentionState"):
            norm(x, state=diag.init_state(2))
        with pytest.raises(TypeError, match="state must be a DiagAttentionState"):
            diag(x, state=norm.init_state(2))
        with pytest.raises(ValueError, match=r"state.memory must have shape \(2, 4, 6, 6\)"):
            norm(x, state=norm.init_state(3))
        with pytest.raises(ValueError, match=r"state.keys must have shape \(2, 64, 4, 6\)"):
            diag.step(x[:, 0], diag.init_state(1))
        stack = layer_of(TransNormer, DIM, 2, HEADS)
        with pytest.raises(ValueError, match=r"state must have one entry a layer \(2\), got 1"):
            stack(x, state=stack.init_state(2)[:1])
