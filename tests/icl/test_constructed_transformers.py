"""Constructed transformers against the algorithms they run, and the primitives they run them on."""

import copy
import math

import pytest
import torch
from rankone.icl import _constructed_transformers as module
from rankone.icl.linear_models import (
    ConstructedRidge,
    ConstructedSGD,
    gelu_product,
    layernorm_reciprocal,
    make_linear_tasks,
    prefix_predictions,
    prefix_weights,
)
from torch.testing import assert_close


@pytest.fixture(scope="module")
def prompts():
    """100 tasks of 6 examples and a query, d = 3."""
    tasks = make_linear_tasks(100, 7, 3, noise_std=0.3, random_state=0, dtype=torch.float64)
    return tasks.X, tasks.y


def split(prompts):
    X, y = prompts
    return X[:, :-1], y[:, :-1], X[:, -1]


def worst(a, b):
    return float((a - b).abs().max())


# Primitives.


@pytest.mark.parametrize(("order", "fall"), [(1, 4), (2, 16)])
def test_halving_the_scale_divides_the_error_of_a_product(order, fall):
    a, b = torch.tensor([1.0, -0.7, 1.5]).double(), torch.tensor([2.0, 0.9, -0.4]).double()
    coarse, fine = (gelu_product(a, b, scale=s, order=order) - a * b for s in (0.05, 0.025))
    assert fine.abs().min() > 1e-9
    assert_close(coarse / fine, torch.full_like(a, fall), rtol=0.02, atol=0)


def test_the_error_of_order_one_is_its_first_term():
    error = float(gelu_product(1.0, 2.0, scale=0.1, order=1)) - 2
    assert error == pytest.approx(-0.0333, abs=2e-3)
    error = float(gelu_product(1.0, 2.0, scale=0.01, order=1)) - 2
    assert error == pytest.approx(-(0.01**2) * 10 / 3, rel=1e-3)


def test_the_error_of_order_zero_is_that_of_the_paper_times_the_square_of_the_scale():
    a, b, s = 1.0, 2.0, 0.01
    first = -(s**2) * (4 * a**3 * b + 6 * a**2 * b**2 + 4 * a * b**3) / 12
    assert float(gelu_product(a, b, scale=s, order=0)) - a * b == pytest.approx(first, rel=1e-2)


def test_a_product_at_scale_one_is_no_product():
    assert abs(float(gelu_product(1.0, 2.0, scale=1.0, order=1)) - 2) > 0.5


def test_a_product_at_a_tiny_scale_is_rounding():
    a = torch.linspace(0.5, 2, 50, dtype=torch.float64)
    errors = [worst(gelu_product(a, 3 * a, scale=s), 3 * a * a) for s in (1e-9, 1e-6, 5e-4)]
    # One rounding of a unit, about scale, over scale^2.
    assert errors[0] > 1e-7
    assert errors[0] > 100 * errors[1] > 1000 * errors[2]


def test_a_tiny_scale_costs_the_ridge_its_digits(prompts):
    X, y, X_query = split(prompts)
    expected = prefix_predictions(*prompts, "ridge", alpha=0.1)[:, -1]
    default, tiny = (
        worst(ConstructedRidge(3, 6, alpha=0.1, product_scale=s)(X, y, X_query), expected)
        for s in (5e-4, 1e-8)
    )
    assert tiny > 1e-5 > default


def test_the_error_is_that_of_the_exact_gelu(monkeypatch):
    gelu = torch.nn.functional.gelu
    monkeypatch.setattr(module.F, "gelu", lambda u: gelu(u, approximate="tanh"))
    error = float(gelu_product(1.0, 2.0, scale=0.01, order=1)) - 2
    # The quartic term of the tanh form is 0.5 % larger.
    assert abs(error / (-(0.01**2) * 10 / 3) - 1) > 3e-3


def test_products_broadcast_and_keep_their_dtype():
    a, b = torch.ones(3, 1), torch.arange(2.0)
    product = gelu_product(a, b)
    assert product.dtype == torch.float32
    assert_close(product, a * b)


def test_the_reciprocal_has_the_error_that_the_gain_says():
    a = torch.tensor([0.5, 1.0, 40.0], dtype=torch.float64)
    relative = layernorm_reciprocal(a, gain=100.0) * a - 1
    assert_close(relative, -(0.5 + 1e-5) / (100 * a) ** 2, rtol=1e-3, atol=1e-15)
    assert_close(layernorm_reciprocal(a), 1 / a, rtol=3e-10, atol=0)


# Constructed models.


def test_sgd_is_its_recursion(prompts):
    model = ConstructedSGD(3, 6, step_size=0.1, weight_decay=0.1)
    expected = prefix_predictions(*prompts, "sgd", step_size=0.1, weight_decay=0.1)[:, -1]
    assert worst(model(*split(prompts)), expected) < 1e-8


def test_sgd_passes_over_the_examples_again(prompts):
    model = ConstructedSGD(3, 6, step_size=0.05, n_passes=2)
    expected = prefix_predictions(*prompts, "sgd", step_size=0.05, n_passes=2)[:, -1]
    assert worst(model(*split(prompts)), expected) < 1e-8


@pytest.mark.parametrize("alpha", [0.5, 1.0, 0.1])
def test_ridge_is_the_closed_solution(prompts, alpha):
    model = ConstructedRidge(3, 6, alpha=alpha)
    X, y, X_query = split(prompts)
    gram = X.mT @ X + alpha * torch.eye(3, dtype=torch.float64)
    solution = torch.linalg.solve(gram, X.mT @ y[..., None])[..., 0]
    assert worst(model(X, y, X_query), (solution * X_query).sum(-1)) < 1e-5
    assert worst(model.weights(X, y), solution) < 1e-5


def test_one_feature_and_one_example_are_enough():
    X, y, q = (torch.full(shape, 2.0).double() for shape in ((1, 1, 1), (1, 1), (1, 1)))
    assert float(ConstructedRidge(1, 1, alpha=1.0)(X, y, q)) == pytest.approx(8 / 5, abs=1e-6)
    assert float(ConstructedSGD(1, 1, step_size=0.1)(X, y, q)) == pytest.approx(0.8, abs=1e-8)


def test_weights_are_those_of_the_algorithm(prompts):
    X, y, _ = split(prompts)
    model = ConstructedSGD(3, 6, step_size=0.1)
    assert worst(model.weights(X, y), prefix_weights(*prompts, "sgd", step_size=0.1)[:, -1]) < 1e-8


def test_ridge_does_not_know_the_order_of_examples_and_sgd_does(prompts):
    X, y, X_query = split(prompts)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    ridge, sgd = ConstructedRidge(3, 6, alpha=0.5), ConstructedSGD(3, 6, step_size=0.1)
    assert worst(ridge(X, y, X_query), ridge(X[:, order], y[:, order], X_query)) < 1e-5
    assert worst(sgd(X, y, X_query), sgd(X[:, order], y[:, order], X_query)) > 1e-2


@pytest.mark.parametrize(("d", "n"), [(3, 6), (2, 4)])
def test_blocks_and_width_are_those_announced(d, n):
    sgd = ConstructedSGD(d, n, step_size=0.1, n_passes=2)
    ridge = ConstructedRidge(d, n)
    assert (sgd.n_blocks, sgd.d_model) == (4 * n + 1, 3 * d + 2 * n + 6)
    assert (ridge.n_blocks, ridge.d_model) == (5 * n + 2, d * d + 6 * d + 2 * n + 8)
    assert len(sgd.blocks) == sgd.n_blocks


def test_width_of_the_example():
    assert ConstructedSGD(3, 6, step_size=0.1).d_model == 27
    assert ConstructedRidge(3, 6).d_model == 47


@pytest.mark.parametrize(("order", "bound"), [(0, 3e-2), (1, 3e-3), (2, 1e-8)])
def test_the_order_of_products_decides_the_error(prompts, order, bound):
    model = ConstructedSGD(3, 6, step_size=0.1, product_scale=1e-3, product_order=order)
    expected = prefix_predictions(*prompts, "sgd", step_size=0.1)[:, -1]
    error = worst(model(*split(prompts)), expected)
    assert error < bound
    if order < 2:
        assert error > 1e-7


def test_a_weak_head_moves_a_mixture(prompts):
    model = ConstructedSGD(3, 6, step_size=0.1, beta=3.0)
    expected = prefix_predictions(*prompts, "sgd", step_size=0.1)[:, -1]
    assert worst(model(*split(prompts)), expected) > 1e-2


@pytest.mark.parametrize("model", [ConstructedSGD(3, 6, step_size=0.1), ConstructedRidge(3, 6)])
def test_the_answer_is_in_the_parameters_alone(prompts, model):
    arguments = split(prompts)
    before = model(*arguments)
    names = [name for name, _ in model.named_parameters()]
    assert {name.split(".")[0] for name in names} == {"embedding", "positions", "blocks"}
    for name in names:
        changed = copy.deepcopy(model)
        with torch.no_grad():
            dict(changed.named_parameters())[name].zero_()
        after = changed(*arguments)
        assert not after.isfinite().all() or worst(after, before) > 1e-4, name


def test_only_attention_gelu_norm_and_the_residual_touch_data():
    kinds = {
        type(layer)
        for block in ConstructedRidge(2, 2).blocks
        for layer in block.layers
    }  # fmt: skip
    assert kinds == {module.MoveAttention, module.GeluLayer, module.NormLayer}


def test_constructed_models_save_and_load(prompts):
    model, other = ConstructedRidge(3, 6, alpha=0.5), ConstructedRidge(3, 6, alpha=2.0)
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(*split(prompts)), other(*split(prompts)))


# Bad input.

SGD = ConstructedSGD(2, 3, step_size=0.1)
X, Y, Q = (torch.zeros(shape).double() for shape in ((4, 3, 2), (4, 3), (4, 2)))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: SGD(X.float(), Y, Q), ValueError, "X must be torch.float64"),
        (lambda: SGD(X, Y.float(), Q), ValueError, "y must be torch.float64"),
        (lambda: SGD(X, Y, Q.float()), ValueError, "X_query must be torch.float64"),
        (
            lambda: copy.deepcopy(SGD).float()(X, Y, Q),
            ValueError,
            "the model must be torch.float64",
        ),
        (lambda: SGD(X[:, 1:], Y[:, 1:], Q), ValueError, r"X must have shape \(B, 3, 2\)"),
        (lambda: SGD(X[..., :1], Y, Q[:, :1]), ValueError, r"X must have shape \(B, 3, 2\)"),
        (lambda: SGD(X, Y[:, 1:], Q), ValueError, "y must have shape"),
        (lambda: SGD(X, Y, Q[1:]), ValueError, "X_query must have shape"),
        (lambda: SGD(X, Y, Q[:, None]), ValueError, "X_query must have shape"),
        (lambda: SGD.weights(X.float(), Y.float()), ValueError, "X must be torch.float64"),
        (lambda: SGD(X.numpy(), Y, Q), TypeError, "X must be a tensor"),
        (lambda: ConstructedSGD(0, 3, step_size=0.1), ValueError, "n_features must be"),
        (lambda: ConstructedSGD(2, 0, step_size=0.1), ValueError, "n_examples must be"),
        (lambda: ConstructedSGD(2, 3, step_size=0.0), ValueError, "step_size must be"),
        (
            lambda: ConstructedSGD(2, 3, step_size=0.1, weight_decay=-1.0),
            ValueError,
            "weight_decay must be",
        ),
        (lambda: ConstructedSGD(2, 3, step_size=0.1, n_passes=0), ValueError, "n_passes must be"),
        (lambda: ConstructedRidge(2, 3, alpha=0.0), ValueError, "alpha must be"),
        (lambda: ConstructedRidge(2, 3, norm_gain=0.0), ValueError, "norm_gain must be"),
        (lambda: ConstructedRidge(2, 3, product_scale=0.0), ValueError, "product_scale must be"),
        (lambda: ConstructedRidge(2, 3, product_order=3), ValueError, "product_order must be"),
        (lambda: ConstructedRidge(2, 3, beta=math.inf), ValueError, "beta must be"),
        (lambda: gelu_product(1.0, 2.0, scale=0.0), ValueError, "scale must be"),
        (lambda: gelu_product(1.0, 2.0, order=3), ValueError, "order must be one of"),
        (lambda: gelu_product(torch.ones(2), torch.ones(3)), ValueError, "b must broadcast"),
        (lambda: gelu_product(torch.ones(2).long(), 1.0), TypeError, "a must be floating"),
        (lambda: gelu_product("a", 1.0), TypeError, "a must be a tensor or numbers"),
        (lambda: layernorm_reciprocal(0.0), ValueError, "a must be above 0"),
        (lambda: layernorm_reciprocal(1.0, gain=0.0), ValueError, "gain must be"),
        (lambda: layernorm_reciprocal(1.0, eps=-1.0), ValueError, "eps must be"),
    ],
)
def test_bad_input_names_the_argument(call, error, message):
    with pytest.raises(error, match=message):
        call()
