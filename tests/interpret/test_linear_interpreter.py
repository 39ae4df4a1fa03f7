"""Linear interpreter: against Jacobians, closed forms and hand-built matrices, in float64.

EXACT bounds sums of a few hundred products of order one in double precision.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from rankone.interpret._frozen_units import POINTWISE
from rankone.interpret.linear_interpreter import (
    LinearInterpreter,
    LinearScope,
    NonlinearModelError,
    localisation,
    residual_share,
)
from torch import nn

EXACT = 1e-9
LANCZOS = 1e-6


def _model(*layers):
    """A network in double precision whose parameters and statistics are all random."""
    model = nn.Sequential(*layers).double().eval()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                value.normal_(0, 0.5)
                if name.endswith("running_var"):
                    value.exp_()
    return model


def _convolutional(pool=None, unit=nn.ReLU):
    return _model(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), unit(), pool or nn.MaxPool2d(2),
        nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3), unit(), nn.Flatten(), nn.Linear(12, 5),
    )  # fmt: skip


def _image(*shape):
    return torch.randn(*(shape or (2, 8, 8)), dtype=torch.float64)


def _jacobian(model, x):
    jacobian = torch.func.jacrev(lambda u: model(u[None])[0])(x)
    return jacobian.reshape(-1, x.numel()).detach()


def _worst(a, b):
    return float((a - b).detach().abs().max())


def _assert_affine(model, x, *, jacobian=True, mode="secant"):
    """A(x) = f(x), additive, adjoint, the matrix by both products, and the Jacobian."""
    interpreter = LinearScope(model, mode=mode).interpret(x)
    output = model(x.clone()[None])[0]
    F_x = interpreter.matrix()
    assert _worst(interpreter.apply(x[None])[0], output) < EXACT
    flat = F_x @ x.flatten() + interpreter.residual.flatten()
    assert _worst(flat, output.flatten()) < EXACT
    p, q = torch.randn(2, *x.shape, dtype=x.dtype)
    parts = interpreter.matvec(torch.stack((p, q, p + q)))
    assert _worst(parts[0] + parts[1], parts[2]) < EXACT
    v = torch.randn(1, *interpreter.output_shape, dtype=x.dtype)
    assert _worst((parts[0] * v[0]).sum(), (p * interpreter.rmatvec(v)[0]).sum()) < EXACT
    assert _worst(F_x @ p.flatten(), parts[0].flatten()) < EXACT
    assert _worst(v.flatten() @ F_x, interpreter.rmatvec(v).flatten()) < EXACT
    if jacobian:
        assert _worst(F_x, _jacobian(model, x)) < EXACT
    return interpreter


@pytest.mark.parametrize(
    "model",
    [
        _convolutional(),
        _convolutional(pool=nn.AvgPool2d(2), unit=lambda: nn.LeakyReLU(0.2, inplace=True)),
        _convolutional(pool=nn.AdaptiveMaxPool2d(4), unit=nn.PReLU),
        _convolutional(pool=nn.MaxPool2d(3, 2, padding=1), unit=lambda: nn.ReLU(inplace=True)),
    ],
)
@pytest.mark.parametrize("mode", ["secant", "tangent"])
def test_matrix_of_piecewise_linear_network_is_its_jacobian(model, mode):
    x = _image()
    interpreter = _assert_affine(model, x, mode=mode)
    residual = model(x[None])[0] - _jacobian(model, x) @ x.flatten()
    assert _worst(interpreter.residual, residual) < EXACT


@pytest.mark.parametrize("seed", range(4))
def test_the_winner_of_the_pool_is_that_of_the_reference(seed):
    # The probes' own winners would make the map nonlinear, and still right at x.
    torch.manual_seed(seed)
    pools = [nn.MaxPool1d(2), nn.MaxPool1d(3, 1, dilation=2, ceil_mode=True)]
    for pool in (*pools, nn.AdaptiveMaxPool1d(3)):
        _assert_affine(_model(nn.Conv1d(2, 3, 3), pool, nn.Tanh()), _image(2, 9), mode="tangent")
    volume = _model(nn.Conv3d(1, 2, 2), nn.MaxPool3d(2), nn.AdaptiveMaxPool3d(1))
    _assert_affine(volume, _image(1, 5, 5, 5))


class _Functional(nn.Module):
    """Units that are no modules, and additions that are none either."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
        self.third = nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, x):
        y = self.first(x)
        y += x
        z = torch.relu(self.second(y)).relu() + y.clamp(min=0)
        z = torch.cat((z.relu_(), F.leaky_relu(y - 1, 0.1)), 1)
        z = F.max_pool2d(self.third(z), 2).abs()
        return torch.maximum(z, 0.5 * z.flip(-1)).amax((2, 3)) - x.max(3).values.mean(2)


def test_functions_and_methods_are_caught_as_modules_are():
    _assert_affine(_model(_Functional()), _image())


def test_in_place_unit_writes_where_its_input_was_and_leaves_x_alone():
    class Aliased(nn.Module):
        def forward(self, x):
            kept = x
            F.relu(x, inplace=True)
            return x + 2 * kept

    x = _image(6)
    before = x.clone()
    interpreter = _assert_affine(Aliased().eval(), x, jacobian=False)
    assert torch.equal(x, before)
    assert torch.equal(interpreter.matrix(), torch.diag(3.0 * (x > 0)))


def test_tanh_network_has_the_closed_form():
    model = _model(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    x = _image(6)
    (W, b), (V, c) = ((layer.weight.detach(), layer.bias.detach()) for layer in model[::2])
    a = W @ x + b
    slope = torch.tanh(a) / a
    interpreter = _assert_affine(model, x, jacobian=False)
    assert _worst(interpreter.matrix(), V @ torch.diag(slope) @ W) < EXACT
    assert _worst(interpreter.residual, V @ (slope * b) + c) < EXACT


def test_sigmoid_keeps_its_value_at_zero_in_the_residual():
    model = _model(nn.Linear(6, 5), nn.Sigmoid(), nn.Linear(5, 3))
    x = _image(6)
    (W, b), (V, c) = ((layer.weight.detach(), layer.bias.detach()) for layer in model[::2])
    a = W @ x + b
    slope = (torch.sigmoid(a) - 0.5) / a
    interpreter = _assert_affine(model, x, jacobian=False)
    assert _worst(interpreter.matrix(), V @ torch.diag(slope) @ W) < EXACT
    assert _worst(interpreter.residual, V @ (slope * b + 0.5) + c) < EXACT


SMOOTH = [nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Mish, nn.ELU, nn.SELU, nn.CELU]
CLIPPED = [nn.ReLU6, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Softsign, nn.Tanhshrink]
OTHER = [nn.Softshrink, nn.Hardshrink, nn.LogSigmoid, nn.RReLU, lambda: nn.Threshold(0.1, 0.3)]


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # the reference, for RReLU
@pytest.mark.parametrize("unit", [*SMOOTH, *CLIPPED, *OTHER])
def test_secant_and_tangent_of_every_unit(unit):
    unit, a = unit().eval(), _image(40) * 4
    h0 = unit(torch.zeros(1, dtype=a.dtype))
    secant = _assert_affine(unit, a, jacobian=False)
    assert _worst(secant.matrix(), torch.diag((unit(a) - h0) / a)) < EXACT
    assert _worst(secant.residual, h0.expand(40)) < EXACT
    _assert_affine(unit, a, mode="tangent")


@pytest.mark.parametrize("unit", [nn.GELU(), nn.SiLU(), nn.Tanh(), nn.Sigmoid()])
def test_secant_of_a_smooth_network_is_not_the_gradient(unit):
    model, x = _model(nn.Linear(6, 5), unit, nn.Linear(5, 3)), _image(6)
    assert _worst(LinearScope(model).interpret(x).matrix(), _jacobian(model, x)) > 1e-3
    _assert_affine(model, x, mode="tangent")


@pytest.mark.parametrize(
    ("unit", "at_zero"),
    [(nn.ReLU(), 0.0), (nn.LeakyReLU(0.1), 0.1), (nn.GELU(), 0.5), (nn.SiLU(), 0.5),
     (nn.Tanh(), 1.0), (nn.Sigmoid(), 0.25), (nn.Softplus(), 0.5)],
)  # fmt: skip
@pytest.mark.parametrize("value", [0.0, 1e-9, -1e-12])
def test_slope_at_and_near_zero_is_the_derivative(unit, at_zero, value):
    x = torch.full((2,), value, dtype=torch.float64)
    slope = LinearScope(unit.eval()).interpret(x).matrix()[0, 0]
    if isinstance(unit, nn.ReLU | nn.LeakyReLU) and value > 0:
        at_zero = 1.0
    assert abs(float(slope) - at_zero) < LANCZOS


_ARGUMENTS = {
    "clamp": (-0.3, 0.4), "clip": (-0.3, 0.4), "clamp_min": (0.2,), "clamp_max": (0.2,),
    "threshold": (0.1, 0.3), "_threshold": (0.1, 0.3), "pow": (3,),
    "prelu": (torch.tensor([0.2], dtype=torch.float64),),
}  # fmt: skip


class _Unit(nn.Module):
    def __init__(self, function, *arguments):
        super().__init__()
        self.function, self.arguments = function, arguments

    def forward(self, x):
        return self.function(x + 0, *self.arguments)


@pytest.mark.parametrize("name", sorted(POINTWISE))
def test_every_pointwise_function_by_every_name_it_has(name):
    x, arguments = _image(20).abs() + 0.05, _ARGUMENTS.get(name, ())
    places = [(owner, n) for owner in (torch, F, torch.Tensor) for n in (name, f"{name}_")]
    functions = [getattr(owner, n) for owner, n in places if hasattr(owner, n)]
    modes = ["tangent"] if name in ("log", "rsqrt", "reciprocal") else ["tangent", "secant"]
    for function in functions or [torch._C._nn.log_sigmoid]:
        for mode in modes:
            unit = _Unit(function, *arguments).eval()
            interpreter = LinearScope(unit, mode=mode).interpret(x)
            assert _worst(interpreter.apply(x[None])[0], unit(x[None])[0]) < EXACT
            if mode == "tangent":
                slope = torch.autograd.functional.jacobian(lambda u: unit(u[None])[0], x)  # noqa: B023
                assert _worst(interpreter.matrix(), slope) < EXACT


def test_detached_tensors_stay_in_the_transposed_map():
    class Detached(nn.Module):
        def forward(self, x):
            return x.detach() + 2 * x.data

    _assert_affine(Detached().eval(), _image(3), jacobian=False)


def test_constants_may_pass_where_no_line_exists():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0))

        def forward(self, x):
            return x * self.scale.log() / torch.rsqrt(self.scale)

    _assert_affine(Scaled().double().eval(), _image(3))


def test_lanczos_of_a_dead_network_finds_zeros():
    model = _model(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 5))
    with torch.no_grad():
        model[0].bias.fill_(-100)
    for method in ("dense", "lanczos"):
        U, S, V = LinearScope(model).interpret(_image(6)).svd(k=2, method=method)
        assert not S.any()
        for vectors in (U, V):
            assert _worst(vectors @ vectors.T, torch.eye(2)) < EXACT


def test_slopes_without_a_finite_value_at_zero_are_refused():
    class Root(nn.Module):
        def forward(self, x):
            return x.pow(-0.5)

    x = _image(4).abs() + 0.1
    with pytest.raises(NonlinearModelError, match=r"pow in \(Root\) has no finite .* mode='tang"):
        LinearScope(Root().eval()).interpret(x)
    _assert_affine(Root().eval(), x, mode="tangent")


def test_adjoint_and_chunks():
    model, x = _convolutional(), _image()
    whole, pieces = (LinearScope(model, chunk_size=size).interpret(x) for size in (256, 3))
    u, v = torch.randn(7, 2, 8, 8).double(), torch.randn(7, 5).double()
    products = (whole.matvec(u) * v).flatten(1).sum(1), (u * whole.rmatvec(v)).flatten(1).sum(1)
    assert _worst(*products) < EXACT
    assert _worst(whole.apply(u), pieces.apply(u)) < EXACT
    assert _worst(whole.rmatvec(v), pieces.rmatvec(v)) < EXACT
    assert _worst(whole.matrix(), pieces.matrix()) < EXACT


def test_lanczos_and_dense_singular_values_agree():
    model = _model(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(3, 2, 2, 2))
    interpreter = LinearScope(model).interpret(_image(1, 8, 8))
    U, S, V = interpreter.svd(k=6, method="lanczos")
    U_dense, S_dense, V_dense = interpreter.svd(k=6, method="dense")
    assert U.shape == (6, 2, 16, 16)
    assert V.shape == (6, 1, 8, 8)
    assert _worst(S, S_dense) < LANCZOS
    assert bool((S.diff() <= 0).all())
    # Vectors are as good as the gaps between the values, at least 1e-2 here.
    assert float(-S.diff().max()) > 1e-2
    assert _worst(U, U_dense) < 1e2 * LANCZOS
    assert _worst(V, V_dense) < 1e2 * LANCZOS
    assert _worst(interpreter.matvec(V), S.view(6, 1, 1, 1) * U) < LANCZOS
    assert torch.equal(interpreter.svd(k=3, method="lanczos")[1].argsort(), torch.tensor([2, 1, 0]))


def test_singular_vectors_rebuild_the_matrix():
    interpreter = LinearScope(_convolutional()).interpret(_image())
    U, S, V = interpreter.svd()
    assert S.shape == (5,)
    assert _worst((U.T * S) @ V.reshape(5, -1), interpreter.matrix()) < EXACT
    assert interpreter.svd(method="lanczos")[1].shape == (4,)  # one fewer than all


def test_bilinear_upsampling_doubles_at_most():
    upsample = nn.Upsample(scale_factor=2, mode="bilinear").eval()
    interpreter = LinearScope(upsample).interpret(_image(1, 8, 8))
    assert abs(float(interpreter.svd(k=1)[1]) - 2) < EXACT
    assert not interpreter.residual.any()


def test_network_without_bias_has_no_residual_and_is_homogeneous():
    model = _model(
        nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(64, 3, bias=False),
    )  # fmt: skip
    x = _image(1, 8, 8)
    interpreter, scaled = (LinearScope(model).interpret(c * x) for c in (1, 7.5))
    assert not interpreter.residual.any()
    assert _worst(interpreter.matrix(), scaled.matrix()) < EXACT


def test_votes_and_bias_vote_add_up_to_every_logit():
    interpreter = LinearScope(_convolutional()).interpret(_image())
    for index in range(5):
        votes, bias = interpreter.vote((index,))
        assert votes.shape == (2, 8, 8)
        assert abs(float(votes.sum() + bias - interpreter.output[index])) < EXACT


def test_rows_and_columns_are_those_of_the_matrix():
    interpreter = LinearScope(_convolutional()).interpret(_image())
    matrix = interpreter.matrix()
    assert _worst(interpreter.row((3,)).flatten(), matrix[3]) < EXACT
    assert torch.equal(interpreter.row(-2), interpreter.row((3,)))
    assert _worst(interpreter.column((1, 2, 3)), matrix[:, 64 + 2 * 8 + 3]) < EXACT


def test_dead_network_is_all_residual():
    model = _model(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    with torch.no_grad():
        model[0].bias.fill_(-100)
    x = _image(4)
    interpreter = LinearScope(model).interpret(x)
    assert not interpreter.matrix().any()
    assert _worst(interpreter.residual, model(x[None])[0]) == 0


def test_final_softmax_is_all_residual():
    model, x = _model(nn.Linear(4, 3), nn.Softmax(1)), _image(4)
    interpreter = LinearScope(model).interpret(x)
    assert not interpreter.matrix().any()
    assert not interpreter.matvec(_image(1, 4)).any()
    assert _worst(interpreter.residual, model(x[None])[0]) < EXACT


class _Head(nn.Module):
    """x + softmax(q k^T) v(norm(x)), by hand or by the fused function."""

    def __init__(self, fused, causal=False):
        super().__init__()
        self.norm, self.mix = nn.LayerNorm(6), nn.Linear(6, 18, bias=False)
        self.fused, self.causal = fused, causal

    def scores(self, x):
        q, k, _ = self.mix(self.norm(x)).chunk(3, -1)
        scores = q @ k.transpose(-1, -2) / 6**0.5
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        return scores.masked_fill(hidden, -torch.inf) if self.causal else scores

    def forward(self, x):
        q, k, v = self.mix(self.norm(x)).chunk(3, -1)
        if self.fused:
            return x + F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return x + F.softmax(self.scores(x), -1) @ v


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_block_has_the_closed_form(fused, causal):
    model = _model(_Head(fused, causal))
    head, x, u = model[0], _image(5, 6), _image(5, 6)
    interpreter = _assert_affine(model, x, jacobian=False)
    attention = head.scores(x[None])[0].softmax(-1)
    std = (x.var(-1, keepdim=True, correction=0) + head.norm.eps).sqrt()
    normed = head.norm.weight * (u - u.mean(-1, keepdim=True)) / std
    expected = u + attention @ (normed @ head.mix.weight[12:].T)
    assert _worst(interpreter.matvec(u[None])[0], expected) < EXACT


class _SequenceFirst(nn.Module):
    """The batch second, as transformers had it, and merged with positions on the way back."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 8)
        self.last = nn.LayerNorm(4)

    def forward(self, x):
        y = self.layer(x.transpose(0, 1)).transpose(0, 1)
        return F.relu(self.last(y.reshape(-1, 4))).view(x.shape)


@pytest.mark.parametrize(
    "model",
    [
        nn.TransformerEncoderLayer(4, 2, 8, batch_first=True),
        nn.TransformerEncoderLayer(4, 1, 8, activation="gelu", norm_first=True, batch_first=True),
        _SequenceFirst(),
    ],
)
@pytest.mark.parametrize("mode", ["secant", "tangent"])
def test_transformer_layers(model, mode):
    _assert_affine(_model(model), _image(3, 4), jacobian=False, mode=mode)


def test_multihead_attention_with_masks_weights_and_other_widths():
    class Cross(nn.Module):
        def __init__(self):
            super().__init__()
            self.attend = nn.MultiheadAttention(4, 2, kdim=3, vdim=3, batch_first=True)

        def forward(self, x):
            memory = x[..., :3]
            mask = torch.ones(4, 4, dtype=torch.bool).triu(1)
            padding = torch.zeros(len(x), 4, dtype=torch.bool)
            padding[:, 3] = True
            mixed, weights = self.attend(
                x, memory, memory, attn_mask=mask, key_padding_mask=padding
            )
            return mixed + weights @ x

    _assert_affine(_model(Cross()), _image(4, 4), jacobian=False)


@pytest.mark.parametrize(
    "norm",
    [nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True), nn.LayerNorm([4, 5, 5]),
     nn.InstanceNorm2d(4, affine=True, track_running_stats=True), nn.LayerNorm(5, bias=False)],
)  # fmt: skip
def test_norms_freeze_the_deviation_and_keep_the_mean(norm):
    model, x, u = _model(norm), _image(4, 5, 5), _image(4, 5, 5)
    interpreter = _assert_affine(model, x, jacobian=False)
    shifted = interpreter.matvec(torch.stack((u, u + 3)))
    if getattr(norm, "track_running_stats", False):  # affine as it is
        assert _worst(interpreter.apply(u[None]), model(u[None])) < EXACT
    else:  # a constant is part of the mean
        assert _worst(interpreter.apply(u[None]), model(u[None])) > 1e-3
        assert _worst(shifted[0], shifted[1]) < EXACT


def test_root_mean_square_norm_and_normalize():
    class Norms(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.RMSNorm(5)

        def forward(self, x):
            return F.normalize(self.norm(x) + 1, dim=1)

    model, x = _model(Norms()), _image(3, 5)
    interpreter = _assert_affine(model, x, jacobian=False)
    rms = (x.square().mean(-1, keepdim=True) + torch.finfo(x.dtype).eps).sqrt()
    inner = model[0].norm.weight * x / rms + 1
    linear = (inner - 1) / inner.norm(dim=0)
    assert _worst(interpreter.matvec(x[None])[0], linear) < EXACT


class _SelectWhere(nn.Module):
    def forward(self, x):
        return torch.where(x > 0.3, 2 * x, -x) * (x < 1) + x.gather(1, x.argmax(1, keepdim=True))


def test_comparisons_are_decisions_of_the_reference():
    _assert_affine(_SelectWhere().eval(), _image(12))


@pytest.mark.parametrize("mode", ["secant", "tangent"])
def test_decompose_of_a_batch_is_interpret_sample_by_sample(mode):
    X = torch.randn(5, 2, 8, 8).double()
    for model in (_convolutional(), _convolutional(unit=nn.SiLU), _model(nn.Conv2d(2, 3, 3))):
        linear, residual = LinearScope(model, mode=mode, chunk_size=2).decompose(X)
        for x, Fx, r in zip(X, linear, residual, strict=True):
            interpreter = LinearScope(model, mode=mode).interpret(x)
            assert _worst(Fx, interpreter.matvec(x[None])[0]) < EXACT
            assert _worst(r, interpreter.residual) < EXACT
        assert _worst(linear + residual, model(X)) < EXACT


def test_no_gradient_flows_through_gates():
    # The transposed map at 2x with the gates of x is that at x: gates do not see u.
    model, x = _model(nn.Linear(4, 4), nn.Softplus(), nn.LayerNorm(4)), _image(4)
    interpreter = LinearScope(model).interpret(x)
    v = torch.eye(4).double()
    by_columns = interpreter.matvec(torch.eye(4).double())
    assert _worst(interpreter.rmatvec(v).T, by_columns) < EXACT
    assert all(parameter.grad is None for parameter in model.parameters())


def test_linear_operator_in_scipy():
    interpreter = LinearScope(_convolutional()).interpret(_image())
    operator, matrix = interpreter.linear_operator(), interpreter.matrix().numpy()
    rng = np.random.default_rng(0)
    u, U, v = rng.normal(size=128), rng.normal(size=(128, 3)), rng.normal(size=5)
    np.testing.assert_allclose(operator @ u, matrix @ u, atol=EXACT)
    np.testing.assert_allclose(operator @ U, matrix @ U, atol=EXACT)
    np.testing.assert_allclose(operator.T @ v, matrix.T @ v, atol=EXACT)
    assert operator.dtype == np.float64


def test_single_precision_is_exact_to_rounding():
    model, x = _convolutional().float(), _image().float()
    interpreter = LinearScope(model).interpret(x)
    assert interpreter.matrix().dtype == torch.float32
    assert _worst(interpreter.apply(x[None])[0], model(x[None])[0]) < 1e-4


def test_the_model_is_left_untouched():
    model, x = _convolutional(), _image()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    model[0].weight.requires_grad_(False)
    flags = [parameter.requires_grad for parameter in model.parameters()]
    LinearScope(model).interpret(x).svd(k=2)
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not module.training
    assert torch.is_grad_enabled()


def test_hooks_of_a_failed_interpretation_are_gone():
    from torch.nn.modules import module as internals

    with pytest.raises(NonlinearModelError):
        LinearScope(_model(_Gated())).interpret(_image(4))
    assert not internals._global_forward_hooks


def test_it_works_inside_no_grad_and_inference_mode():
    model, x = _model(nn.Linear(4, 4), nn.Tanh()), _image(4)
    expected = LinearScope(model).interpret(x).matrix()
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            interpreter = LinearScope(model).interpret(x.clone())
            assert torch.equal(interpreter.matrix(), expected)
            v = torch.eye(4).double()
            assert _worst(interpreter.rmatvec(v), expected) < EXACT


class _Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.value, self.gate = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.value(x) * torch.sigmoid(self.gate(x))


class _Squared(nn.Module):
    def forward(self, x):
        return x * x


class _WithoutGradient(nn.Module):
    def forward(self, x):
        with torch.no_grad():
            return 2 * x


class _Branching(nn.Module):
    def forward(self, x):
        return F.relu(x) if float(x.sum()) > 0 else torch.tanh(x)


class _AlwaysDropping(nn.Module):
    def forward(self, x):
        return F.dropout(x)


class _WithProduct(nn.Module):
    def forward(self, x):
        return x - 0.5 * torch.prod(x, 1, keepdim=True)


class _Pooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.pool = nn.Bilinear(4, 4, 3)

    def forward(self, x):
        return self.pool(x, x)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Linear(4, 4), _Gated()), r"not additive. Found: mul in '1' \(_Gated\)"),
        (_Squared(), r"mul in \(_Squared\)"),
        (nn.Sequential(nn.GLU()), r"glu in '0' \(GLU\)"),
        (_Pooled(), r"bilinear in 'pool' \(Bilinear\)"),
        (nn.Sequential(_WithoutGradient()), "transpose is not that of the map"),
        (nn.Sequential(_AlwaysDropping()), r"dropout in '0' \(_AlwaysDropping\) is random"),
        (_WithProduct(), r"prod in \(_WithProduct\)"),
        (nn.BatchNorm1d(4, track_running_stats=False), r"batch_norm in \(BatchNorm1d\) normalises"),
    ],
)
def test_what_has_no_rule_is_named(model, message):
    with pytest.raises(NonlinearModelError, match=message):
        LinearScope(model.double().eval()).interpret(_image(4))


def test_branch_on_values_is_refused_where_a_probe_takes_another():
    with pytest.raises(NonlinearModelError, match="branches on its values"):
        LinearScope(_Branching().eval()).interpret(_image(4).abs())


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_scripted_modules_are_named_as_a_whole():
    scripted = torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.Tanh())).eval()
    model = nn.Sequential(nn.Linear(4, 4), scripted).double().eval()
    with pytest.raises(NonlinearModelError, match="forward in '1'"):
        LinearScope(model).interpret(_image(4))


class _MeanOfBatch(nn.Module):
    def forward(self, x):
        return x - x.mean(0, keepdim=True)


class _Random(nn.Module):
    def forward(self, x):
        return x + torch.rand_like(x)


@pytest.mark.parametrize(
    ("model", "message"),
    [(_MeanOfBatch(), "are samples of a batch mixed"), (_Random(), "not the model's output")],
)
def test_maps_of_no_single_sample_are_refused(model, message):
    with pytest.raises(NonlinearModelError, match=message):
        LinearScope(model.eval()).interpret(_image(4))


def test_compiled_modules_run_as_they_were_written():
    model, x = _model(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)), _image(4)
    compiled = torch.compile(model, backend="eager")
    expected = LinearScope(model).interpret(x).matrix()
    assert _worst(LinearScope(compiled).interpret(x).matrix(), expected) < EXACT


def test_tiny_products_do_not_hide_below_the_tolerance():
    model = _model(_Gated(), nn.Linear(4, 2))
    with torch.no_grad():
        model[1].weight.mul_(1e-5)
    with pytest.raises(NonlinearModelError, match="mul"):
        LinearScope(model).interpret(_image(4))


def test_verification_is_a_choice():
    model = _model(_Gated())
    interpreter = LinearScope(model, verify=False).interpret(_image(4))
    assert isinstance(interpreter, LinearInterpreter)
    with pytest.raises(NonlinearModelError, match="mul"):
        LinearScope(model).decompose(_image(3, 4))


def test_residual_share_is_class_centred():
    linear, residual = torch.randn(4, 10).double(), torch.randn(4, 10).double()
    share = residual_share(linear, residual)
    assert share.shape == (4,)
    assert _worst(share, residual_share(linear + 5, residual - 3)) < EXACT
    assert not residual_share(linear, torch.ones(4, 10)).any()
    norms = [np.linalg.norm(p - p.mean()) for p in (residual[0].numpy(), linear[0].numpy())]
    assert abs(float(share[0]) - norms[0] / sum(norms)) < EXACT


def test_localisation_of_known_images():
    n = 4096
    spike = np.zeros((1, n))
    spike[0, 5] = 2
    wave = np.sin(2 * np.pi * 17 * np.arange(n) / n)[None]
    noise = np.random.default_rng(0).normal(size=(20, n))
    for images, spatial, spectral in [
        (np.ones((1, n)), 1, 1 / n),
        (spike, 1 / n, 1),
        (wave, 2 / 3, 2 / n),
    ]:
        np.testing.assert_allclose(localisation(images), [[spatial], [spectral]], rtol=EXACT)
    # Four standard errors of the ratios' means, by their sampling deviation of about 0.01.
    np.testing.assert_allclose(np.mean(localisation(noise), axis=1), [1 / 3, 1 / 2], atol=0.01)


def test_localisation_of_images_with_channels_is_of_all_entries():
    image = torch.zeros(2, 3, 8, 8)
    image[:, 1] = 1
    spatial, spectral = localisation(image)
    np.testing.assert_allclose(spatial, 1 / 3)
    np.testing.assert_allclose(spectral, 1 / 192)


def _scope(**options):
    return LinearScope(_model(nn.Linear(4, 3)), **options)


def _interpreter():
    return _scope().interpret(_image(4))


def _half():
    return LinearScope(nn.Linear(4, 3).bfloat16().eval()).interpret(_image(4).bfloat16())


class _Pair(nn.Module):
    def forward(self, x):
        return x, x


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: LinearScope(len), TypeError, "model must be a torch.nn.Module"),
        (lambda: _scope(mode="chord"), ValueError, "mode must be one of secant, tangent"),
        (lambda: _scope(chunk_size=0), ValueError, "chunk_size must be an integer"),
        (lambda: LinearScope(nn.Linear(4, 3)), ValueError, "call model.eval"),
        (lambda: _scope().interpret(np.ones(4)), TypeError, "x must be a torch.Tensor"),
        (lambda: _scope().interpret(torch.ones(4).long()), TypeError, "x must have a real float"),
        (lambda: _scope().interpret(torch.tensor(1.0)), ValueError, "x must have at least one"),
        (lambda: _scope().interpret(_image(4) / 0), ValueError, "x must be finite, got 4 entries"),
        (lambda: _interpreter().row(1.5), TypeError, "index must be a tuple of integers"),
        (lambda: _half().svd(), TypeError, "svd needs x in float32 or float64, got torch.bfloat16"),
        (lambda: _half().linear_operator(), TypeError, "linear_operator needs x in float32"),
        (lambda: _scope().decompose(_image(4)), ValueError, "X must have shape"),
        (
            lambda: LinearScope(_Pair().eval()).interpret(_image(4)),
            TypeError,
            "one tensor, got tup",
        ),
        (
            lambda: LinearScope(nn.Flatten(0).eval()).interpret(_image(4)),
            ValueError,
            "batch as its first",
        ),
        (lambda: _interpreter().apply(_image(4)), ValueError, r"u must have shape \(m, 4\)"),
        (lambda: _interpreter().matvec(_image(2, 5)), ValueError, "u must have shape"),
        (lambda: _interpreter().rmatvec(_image(2, 4)), ValueError, r"v must have shape \(m, 3\)"),
        (lambda: _interpreter().apply(torch.ones(2, 4)), TypeError, "u must have dtype"),
        (lambda: _interpreter().apply([[1.0] * 4]), TypeError, "u must be a torch.Tensor"),
        (lambda: _interpreter().row((3,)), ValueError, r"index must be an index into shape \(3,\)"),
        (lambda: _interpreter().column((0, 1)), ValueError, "index must be an index"),
        (lambda: _interpreter().vote((-4,)), ValueError, "index must be an index"),
        (lambda: _interpreter().svd(method="power"), ValueError, "method must be one of auto"),
        (lambda: _interpreter().svd(k=4), ValueError, "k must be at most"),
        (lambda: _interpreter().svd(k=0), ValueError, "k must be None or an integer"),
        (lambda: _interpreter().svd(k=3, method="lanczos"), ValueError, "k must be below"),
        (lambda: residual_share(torch.ones(3), torch.ones(3)), ValueError, "batch, classes"),
        (lambda: localisation(np.ones(3)), ValueError, "images must have shape"),
        (lambda: localisation(np.zeros((1, 3))), ValueError, "nonzero"),
        (lambda: localisation(np.ones((1, 3)) * 1j), TypeError, "images must be real"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_submodule_in_training_mode_is_named():
    model = _convolutional()
    scope, interpreter = LinearScope(model), LinearScope(model).interpret(_image())
    model[1].train()
    for call in (lambda: scope.interpret(_image()), lambda: scope.decompose(_image(1, 2, 8, 8)),
                 interpreter.matrix):  # fmt: skip
        with pytest.raises(ValueError, match=r"module '1' \(BatchNorm2d\) is in training mode"):
            call()
