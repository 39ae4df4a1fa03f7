"""sLSTM's loop with its own backward against the recurrence under autograd, and closed forms."""

import math

import pytest
import torch
import torch.nn.functional as F
from rankone.ops._slstm import SLSTMState, slstm

TOLERANCE = 1e-11  # float64, some hundred steps


def inputs(time=25, *, batch=2, heads=3, width=4, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    gates = 2 * draw(batch, time, 4, heads, width)
    return gates, draw(4, heads, width, width), draw(4, heads, width)


def some_state(batch=2, heads=3, width=4):
    generator = torch.Generator().manual_seed(7)
    y, c, m = torch.randn(3, batch, heads, width, generator=generator, dtype=torch.float64)
    return SLSTMState(y, c, 1 + c.abs(), m)


def recurrence(gates, R, bias, state=None):
    """Token after token, without a reference exponent: c and n as they are defined."""
    batch, time, _, heads, width = gates.shape
    if state is None:
        y = c = n = gates.new_zeros(batch, heads, width)
    else:
        y, c, n, m = state
        c, n = c * m.exp(), n * m.exp()
    outputs = []
    for t in range(time):
        recurrent = torch.einsum("bhd,ghde->bghe", y, R)
        i, f, z, o = (gates[:, t] + recurrent + bias).unbind(1)
        c = torch.sigmoid(f) * c + i.exp() * torch.tanh(z)
        n = torch.sigmoid(f) * n + i.exp()
        y = torch.sigmoid(o) * c / n
        outputs.append(y)
    return torch.stack(outputs, 1), (y, c, n)


def assert_near(measured, expected):
    torch.testing.assert_close(measured, expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("given", [False, True])
def test_output_and_state_are_those_of_the_recurrence(given):
    tensors = inputs()
    state = some_state() if given else None
    y, after = slstm(*tensors, initial_state=state, output_final_state=True)
    expected, (last, c, n) = recurrence(*tensors, state)
    assert_near(y, expected)
    assert_near(after.y, last)
    assert_near(after.c * after.m.exp(), c)
    assert_near(after.n * after.m.exp(), n)


def test_gradients_are_those_of_the_recurrence():
    leaves = [t.clone().requires_grad_() for t in (*inputs(), *some_state())]
    weights = torch.randn(2, 25, 3, 4, dtype=torch.float64)

    def loss(y, c, n):
        return (y * weights).sum() + (c / n).square().sum()

    y, after = slstm(*leaves[:3], initial_state=tuple(leaves[3:]), output_final_state=True)
    expected, (last, c, n) = recurrence(*leaves[:3], leaves[3:])
    ours = torch.autograd.grad(loss(y, after.c, after.n) + after.y.sum(), leaves)
    theirs = torch.autograd.grad(loss(expected, c, n) + last.sum(), leaves)
    for measured, gradient in zip(ours, theirs, strict=True):
        torch.testing.assert_close(measured, gradient, rtol=1e-9, atol=1e-9)


def test_backward_passes_gradcheck():
    tensors = inputs(5, batch=1, heads=2, width=2)
    assert torch.autograd.gradcheck(
        lambda *leaves: slstm(*leaves)[0], [t.clone().requires_grad_() for t in tensors]
    )


def test_without_recurrence_it_is_a_weighted_average_of_every_channel():
    gates, R, bias = inputs()
    y, _ = slstm(gates, torch.zeros_like(R), bias)
    i, f, z, o = (gates + bias).unbind(2)
    total = F.logsigmoid(f).cumsum(1)
    weight = (total[:, :, None] - total[:, None] + i[:, None]).exp()
    future = torch.ones(25, 25, dtype=torch.bool).triu(1)[None, :, :, None, None]
    weight = weight.masked_fill(future, 0)
    average = (weight * torch.tanh(z)[:, None]).sum(2) / weight.sum(2)
    assert_near(y, torch.sigmoid(o) * average)


def test_each_head_and_gate_has_its_own_recurrent_block():
    gates, R, bias = inputs()
    y, _ = slstm(gates, R, bias)
    for head in range(3):
        alone, _ = slstm(gates[:, :, :, head : head + 1], R[:, head : head + 1], bias[:, [head]])
        assert_near(y[:, :, head : head + 1], alone)
    swapped = R.clone()
    swapped[1], swapped[2] = R[2], R[1]
    other, _ = slstm(gates, swapped, bias)
    assert (other - y).abs().max() > 1e-2


@pytest.mark.parametrize("cut", [0, 1, 13, 25])
def test_reading_in_pieces_is_reading_at_once(cut):
    gates, R, bias = inputs()
    whole, last = slstm(gates, R, bias, output_final_state=True)
    first, middle = slstm(gates[:, :cut], R, bias, output_final_state=True)
    second, after = slstm(gates[:, cut:], R, bias, initial_state=middle, output_final_state=True)
    assert_near(torch.cat([first, second], 1), whole)
    for part, other in zip(after, last, strict=True):
        assert_near(part, other)


@pytest.mark.parametrize("given", [False, True])
def test_packed_sequences_are_read_as_if_alone(given):
    lengths = [4, 0, 1, 15]
    gates, R, bias = inputs(20, batch=1)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    state = some_state(4) if given else None
    leaves = [t.clone().requires_grad_() for t in (gates, R, bias)]
    before = None if state is None else tuple(part.requires_grad_() for part in state)
    y, after = slstm(
        *leaves, initial_state=before, output_final_state=True, cu_seqlens=offsets.int()
    )
    rows = []
    for row, (start, length) in enumerate(zip(offsets, lengths, strict=False)):
        rows.append(
            slstm(
                leaves[0][:, start : start + length],
                *leaves[1:],
                initial_state=None if before is None else tuple(p[row : row + 1] for p in before),
                output_final_state=True,
            )
        )
    assert_near(y, torch.cat([alone for alone, _ in rows], 1))
    for index, part in enumerate(after):
        expected = torch.cat([state[index] for _, state in rows])
        # A state that nothing was read into has no reference exponent: n is 0 there.
        if index == 3:
            assert_near(part[after.n > 0], expected[after.n > 0])
        else:
            assert_near(part, expected)
    wanted = leaves if before is None else [*leaves, *before]
    weights = torch.randn(20, 3, 4, dtype=torch.float64)

    def loss(y, states):
        return (y[0] * weights).sum() + sum(s.square().sum() for state in states for s in state[:3])

    ours = torch.autograd.grad(loss(y, [after]), wanted)
    theirs = torch.autograd.grad(
        loss(torch.cat([alone for alone, _ in rows], 1), [state for _, state in rows]), wanted
    )
    for measured, gradient in zip(ours, theirs, strict=True):
        torch.testing.assert_close(measured, gradient, rtol=1e-9, atol=1e-9)


def test_the_reference_of_an_empty_state_does_not_count():
    gates, R, bias = inputs()
    zeros = torch.zeros(2, 3, 4, dtype=torch.float64)
    fresh, _ = slstm(gates - 100, R, bias)
    given, state = slstm(
        gates - 100,
        R,
        bias,
        initial_state=(zeros, zeros, zeros, zeros + 5),
        output_final_state=True,
    )
    assert torch.equal(given, fresh)
    assert (state.m < 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_gates_overflow_nowhere(dtype):
    gates, R, bias = inputs(40)
    leaves = [t.to(dtype).requires_grad_() for t in (5e3 * gates, R, bias)]
    y, state = slstm(*leaves, output_final_state=True)
    y.sum().backward()
    assert y.dtype == dtype
    assert y.abs().max() <= 1
    for tensor in (y, *state, *(leaf.grad for leaf in leaves)):
        assert torch.isfinite(tensor).all()


def test_float32_follows_double():
    tensors = [t.float() for t in inputs(200)]
    y, _ = slstm(*tensors)
    exact, _ = slstm(*(t.double() for t in tensors))
    # R multiplies errors from step to step; 2^-23 times a few hundred.
    assert (y.double() - exact).abs().max() < 5e-5


def test_no_tokens_keep_the_state():
    gates, R, bias = inputs(0)
    state = some_state()
    y, after = slstm(gates, R, bias, initial_state=state, output_final_state=True)
    assert y.shape == (2, 0, 3, 4)
    for part, other in zip(after, state, strict=True):
        assert torch.equal(part, other)
    R = R.requires_grad_()
    y, after = slstm(gates, R, bias, initial_state=state, output_final_state=True)
    after.c.sum().backward()
    assert not R.grad.any()


class TestErrors:
    def test_shapes_are_named(self):
        gates, R, bias = inputs(5)
        with pytest.raises(ValueError, match=r"gates must be 5-D .* got shape \(5, 4, 3, 4\)"):
            slstm(gates[0], R, bias)
        with pytest.raises(ValueError, match="gates must have 4 entries"):
            slstm(gates[:, :, :3], R, bias)
        with pytest.raises(ValueError, match=r"R must have shape \(4, 3, 4, 4\)"):
            slstm(gates, R[..., :3], bias)
        with pytest.raises(ValueError, match=r"bias must have shape \(4, 3, 4\)"):
            slstm(gates, R, bias[0])
        with pytest.raises(ValueError, match=r"initial_state\.c must have shape \(2, 3, 4\)"):
            slstm(gates, R, bias, initial_state=some_state()._replace(c=torch.zeros(2, 3)))
        with pytest.raises(ValueError, match="batch size must be 1 when cu_seqlens is given"):
            slstm(gates, R, bias, cu_seqlens=torch.tensor([0, 5]))
        with pytest.raises(ValueError, match="cu_seqlens must end at the time length 5, got 4"):
            slstm(gates[:1], R, bias, cu_seqlens=torch.tensor([0, 4]))

    def test_dtypes_and_values_are_named(self):
        gates, R, bias = inputs(5)
        with pytest.raises(TypeError, match=r"R must be float32, .* got torch\.int64"):
            slstm(gates, R.long(), bias)
        with pytest.raises(TypeError, match=r"initial_state must be a tuple \(y, c, n, m\)"):
            slstm(gates, R, bias, initial_state=gates)
        gates[0, 0, 0, 0, 0] = math.nan
        with pytest.raises(ValueError, match="gates must be finite, got nan"):
            slstm(gates, R, bias)
