"""The short convolution against its sum, sequence by sequence and token by token."""

import itertools

import pytest
import torch
from rankone.ops import causal_conv1d, causal_conv1d_step
from torch.nn import functional

from .sequence_cases import TOLERANCE, assert_gradients_near, assert_near, relative_error

DOUBLE = torch.float64


def by_the_sum(x, weight, bias=None, *, activation=None, initial_state=None, **_):
    """One sequence a row: y_t = sum_w weight_w x_{t - W + 1 + w}, from a history of its own."""
    batch, time, channels = x.shape
    width = weight.shape[1]
    if initial_state is None:
        initial_state = x.new_zeros(batch, channels, width - 1)
    history = torch.cat([initial_state.transpose(1, 2), x], dim=1)
    rows = [(history[:, t : t + width] * weight.T).sum(1) for t in range(time)]
    y = torch.stack(rows, 1) if rows else x
    y = y if bias is None else y + bias
    y = functional.silu(y) if activation == "silu" else y
    return y, history[:, history.shape[1] - (width - 1) :].transpose(1, 2)


def inputs(batch=2, time=23, channels=6, width=4, sequences=None, dtype=DOUBLE):
    x = torch.randn(batch, time, channels, dtype=dtype)
    weight, bias = torch.randn(channels, width, dtype=dtype), torch.randn(channels, dtype=dtype)
    state = torch.randn(sequences or batch, channels, width - 1, dtype=dtype)
    return [tensor.requires_grad_() for tensor in (x, weight, bias, state)]


def gradients(results, tensors):
    torch.manual_seed(1)
    total = sum((r * torch.randn(r.shape, dtype=r.dtype)).sum() for r in results)
    return torch.autograd.grad(total, tensors, materialize_grads=True)


@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("width", [1, 2, 4, 7])
@pytest.mark.parametrize("time", [0, 1, 2, 3, 23])
def test_equals_the_sum_with_every_gradient(time, width, activation):
    x, weight, bias, state = tensors = inputs(time=time, width=width)
    results = [
        function(x, weight, bias, activation=activation, initial_state=state, **options)
        for function, options in ((causal_conv1d, {"output_final_state": True}), (by_the_sum, {}))
    ]
    assert_near(*results, 1e-14)
    assert all(tensor.is_contiguous() for tensor in results[0])
    assert_gradients_near(*(gradients(result, tensors) for result in results), 1e-13)


def test_the_last_weight_meets_the_token_itself():
    x = torch.arange(1.0, 5.0).view(1, 4, 1)
    y, state = causal_conv1d(x, torch.tensor([[0.0, 0.0, 1.0]]))
    assert torch.equal(y, x)
    assert state is None
    y, _ = causal_conv1d(x, torch.tensor([[1.0, 0.0, 0.0]]))
    assert y.flatten().tolist() == [0.0, 0.0, 1.0, 2.0]


def test_channels_do_not_mix():
    x, weight, bias, state = inputs()
    y, _ = causal_conv1d(x, weight, bias, initial_state=state)
    alone, _ = causal_conv1d(x[..., 2:3], weight[2:3], bias[2:3], initial_state=state[:, 2:3])
    assert_near([y[..., 2:3]], [alone], 1e-15)


def test_outputs_before_a_changed_token_keep_their_bits():
    x, weight, bias, _ = inputs(dtype=torch.float32)
    y, _ = causal_conv1d(x, weight, bias)
    changed = x.detach().clone()
    changed[:, 11] += 1
    other, _ = causal_conv1d(changed, weight, bias)
    assert torch.equal(other[:, :11], y[:, :11])
    assert not torch.equal(other[:, 11], y[:, 11])


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("width", [1, 2, 4, 7])
@pytest.mark.parametrize("integer", [torch.int32, torch.int64])
def test_packed_sequences_equal_separate_calls_with_every_gradient(width, with_state, integer):
    """Sequences of 0, 1, 2, 20 and 0 tokens: shorter and longer than the filter's reach."""
    offsets = (0, 0, 1, 3, 23, 23)
    x, weight, bias, state = tensors = inputs(batch=1, width=width, sequences=5)
    options = {"activation": "silu", "output_final_state": True}
    result = causal_conv1d(
        x, weight, bias, initial_state=state if with_state else None,
        cu_seqlens=torch.tensor(offsets, dtype=integer), **options,
    )  # fmt: skip
    pieces = [
        by_the_sum(
            x[:, start:end], weight, bias,
            initial_state=state[index : index + 1] if with_state else None, **options,
        )
        for index, (start, end) in enumerate(itertools.pairwise(offsets))
    ]  # fmt: skip
    expected = [torch.cat([piece[0] for piece in pieces], 1), torch.cat([p[1] for p in pieces])]
    assert_near(result, expected, 1e-14)
    assert_gradients_near(gradients(result, tensors), gradients(expected, tensors), 1e-13)


def test_a_short_sequence_passes_its_state_on():
    """The final state after one token still holds entries of the initial state, differentiably."""
    x, weight, _, state = inputs(batch=1, time=1, width=4)
    _, final = causal_conv1d(x, weight, initial_state=state, output_final_state=True)
    assert torch.equal(final[..., :2], state[..., 1:])
    assert torch.equal(final[..., 2], x[:, 0])
    (gradient,) = torch.autograd.grad(final.sum(), state)
    assert gradient[0, 0].tolist() == [0.0, 1.0, 1.0]


@pytest.mark.parametrize("split", [0, 1, 2, 9, 23])
def test_state_carries_across_calls(split):
    x, weight, bias, state = inputs()
    options = {"activation": "silu", "output_final_state": True}
    expected = causal_conv1d(x, weight, bias, initial_state=state, **options)
    pieces = []
    for piece in (x[:, :split], x[:, split:]):
        y, state = causal_conv1d(piece, weight, bias, initial_state=state, **options)
        pieces.append(y)
    assert_near([torch.cat(pieces, 1), state], expected, 1e-14)


@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("with_state", [False, True])
def test_steps_equal_the_full_call(with_state, width):
    x, weight, bias, state = inputs(width=width)
    state = state if with_state else None
    expected = causal_conv1d(
        x, weight, bias, activation="silu", initial_state=state, output_final_state=True
    )
    rows = []
    for t in range(23):
        y, state = causal_conv1d_step(x[:, t], weight, state, bias, activation="silu")
        rows.append(y)
    assert_near([torch.stack(rows, 1), state], expected, 1e-14)


@pytest.mark.parametrize("packed", [False, True])
def test_gradcheck(packed):
    x, weight, bias, state = inputs(batch=1, time=9, channels=2, width=3, sequences=3)
    offsets = torch.tensor([0, 1, 1, 9]) if packed else None
    state = state if packed else state[:1].detach().requires_grad_()

    def function(x, weight, bias, state):
        return causal_conv1d(
            x, weight, bias, activation="silu", initial_state=state, output_final_state=True,
            cu_seqlens=offsets,
        )  # fmt: skip

    assert torch.autograd.gradcheck(function, (x, weight, bias, state))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_error_of_each_dtype_stays_within_its_rounding(dtype):
    x, weight, bias, state = (tensor.detach() for tensor in inputs(time=200, dtype=dtype))
    result = causal_conv1d(x, weight, bias, initial_state=state, output_final_state=True)
    exact = [tensor.double() for tensor in (x, weight, bias)]
    expected = by_the_sum(*exact, initial_state=state.double())
    assert all(tensor.dtype == dtype for tensor in result)
    assert_near(result, expected, TOLERANCE[dtype])
    y, new_state = causal_conv1d_step(x[:, 0], weight, state, bias)
    assert y.dtype == new_state.dtype == dtype
    assert relative_error(y, expected[0][:, 0]) <= TOLERANCE[dtype]


@pytest.mark.parametrize("packed", [False, True])
def test_compiles_without_a_graph_break(packed):
    torch.compiler.reset()
    x, weight, bias, state = inputs(batch=1, sequences=3 if packed else 1, dtype=torch.float32)
    options = {
        "activation": "silu", "initial_state": state, "output_final_state": True,
        "cu_seqlens": torch.tensor([0, 5, 5, 23]) if packed else None,
    }  # fmt: skip
    compiled = torch.compile(causal_conv1d, fullgraph=True, backend="aot_eager")
    results = [function(x, weight, bias, **options) for function in (compiled, causal_conv1d)]
    assert_near(*results, 1e-6)
    assert_gradients_near(*(gradients(r, (x, weight, bias, state)) for r in results), 1e-6)


def test_autocast_decides_the_dtype():
    x, weight, bias, state = (tensor.detach() for tensor in inputs(dtype=torch.float32))
    cast = [tensor.bfloat16() for tensor in (x, weight, bias, state)]
    expected = causal_conv1d(*cast[:3], initial_state=cast[3], output_final_state=True)
    with torch.autocast("cpu", torch.bfloat16):
        result = causal_conv1d(x, weight, bias, initial_state=state, output_final_state=True)
        mixed, _ = causal_conv1d(cast[0], weight, bias, initial_state=state)
        y, _ = causal_conv1d_step(x[:, 0], weight, state, bias)
    assert all(torch.equal(one, other) for one, other in zip(result, expected, strict=True))
    assert torch.equal(mixed, expected[0])
    assert y.dtype == torch.bfloat16
    assert relative_error(y, expected[0][:, 0]) <= TOLERANCE[torch.bfloat16]


X, WEIGHT = torch.randn(2, 8, 6), torch.randn(6, 4)

MISTAKES = {
    "x of rank 2": ({"x": X[0]}, ValueError, "x must be 3-D"),
    "weight of rank 3": ({"weight": WEIGHT[None]}, ValueError, "weight must be 2-D"),
    "weight of other channels": (
        {"weight": WEIGHT[:5]}, ValueError, r"weight must have shape \(6, 4\)",
    ),
    "no width": ({"weight": WEIGHT[:, :0]}, ValueError, "weight must have a width of at least 1"),
    "bias": ({"bias": torch.randn(5)}, ValueError, r"bias must have shape \(6,\)"),
    "activation": ({"activation": "relu"}, ValueError, "activation must be one of"),
    "state": (
        {"initial_state": torch.randn(2, 3, 6)}, ValueError,
        r"initial_state must have shape \(2, 6, 3\)",
    ),
    "integer state": (
        {"initial_state": torch.zeros(2, 6, 3, dtype=torch.int64)}, TypeError,
        "initial_state must be float32",
    ),
    "integers": ({"x": X.long()}, TypeError, "x must be float32"),
    "two dtypes": ({"weight": WEIGHT.double()}, TypeError, "weight must have the dtype of x"),
    "two devices": ({"weight": WEIGHT.to("meta")}, ValueError, "weight must be on the device of x"),
    "offsets with a batch": (
        {"cu_seqlens": torch.tensor([0, 8])}, ValueError, "batch size must be 1",
    ),
    "offsets that stop early": (
        {"x": X[:1], "cu_seqlens": torch.tensor([0, 7])}, ValueError,
        "cu_seqlens must end at the time length 8, got 7",
    ),
    "offsets that decrease": (
        {"x": X[:1], "cu_seqlens": torch.tensor([0, 5, 3, 8])}, ValueError,
        "cu_seqlens must not decrease",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_named(mistake):
    changes, error, message = MISTAKES[mistake]
    with pytest.raises(error, match=message):
        causal_conv1d(**{"x": X, "weight": WEIGHT, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": X}, "x must be 2-D"),
        ({"state": torch.randn(2, 6, 4)}, r"state must have shape \(2, 6, 3\)"),
        ({"weight": WEIGHT[:5]}, "weight must have shape"),
    ],
)
def test_step_mistakes_are_named(changes, message):
    arguments = {"x": X[:, 0], "weight": WEIGHT, "state": None, **changes}
    with pytest.raises(ValueError, match=message):
        causal_conv1d_step(**arguments)
