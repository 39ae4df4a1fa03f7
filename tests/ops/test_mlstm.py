"""mLSTM on the linear-attention kernel against its definition, its recurrence, and limits."""

import math

import pytest
import torch
import torch.nn.functional as F
from rankone.ops import linear_attention
from rankone.ops._mlstm import MLSTMState, mlstm, mlstm_step
from torch import Tensor

# Sums of some hundred float64 terms, each rounded at 1e-16 and scaled by gates of any size.
TOLERANCE = 1e-11


def inputs(time=70, *, batch=2, heads=3, key_dim=8, value_dim=5, gate_std=5.0, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return (
        draw(batch, time, heads, key_dim),
        draw(batch, time, heads, key_dim),
        draw(batch, time, heads, value_dim),
        gate_std * draw(batch, time, heads),
        gate_std * draw(batch, time, heads),
    )


def direct_sum(q, k, v, i, f):
    """h_t = sum_s exp(F_t - F_s + i_s) (q_t . k_s) v_s / max(|sum_s ...|, 1), every pair."""
    total = F.logsigmoid(f).cumsum(1)
    weight = total[:, :, None] - total[:, None] + i[:, None]
    time = q.shape[1]
    future = torch.ones(time, time, dtype=torch.bool).triu(1)[None, :, :, None]
    scores = torch.einsum("bthk,bshk->btsh", q, k) * q.shape[-1] ** -0.5
    scores = scores * weight.masked_fill(future, -math.inf).exp()
    denominator = scores.sum(2).abs().clamp(min=1.0)
    return torch.einsum("btsh,bshv->bthv", scores, v) / denominator[..., None]


def stabilised_recurrence(q, k, v, i, f, eps, state=None):
    """The recurrence of the published code, one token after the other."""
    batch, time, heads, key_dim = q.shape
    if state is None:
        C = q.new_zeros(batch, heads, key_dim, v.shape[-1])
        n = q.new_zeros(batch, heads, key_dim)
        m = q.new_full((batch, heads), -math.inf)
    else:
        C, n, m = state
    outputs = []
    for t in range(time):
        log_forget = F.logsigmoid(f[:, t])
        new = torch.maximum(log_forget + m, i[:, t])
        keep, write = (log_forget + m - new).exp(), (i[:, t] - new).exp()
        C = keep[..., None, None] * C + write[..., None, None] * (
            k[:, t, ..., None] * v[:, t, ..., None, :]
        )
        n = keep[..., None] * n + write[..., None] * k[:, t]
        m = new
        query = q[:, t] * key_dim**-0.5
        below = (n * query).sum(-1).abs().maximum((-m).exp()) + eps
        outputs.append(torch.einsum("bhkv,bhk->bhv", C, query) / below[..., None])
    return torch.stack(outputs, 1), (C, n, m)


def error(measured: Tensor, expected: Tensor) -> float:
    measured, expected = measured.detach(), expected.detach()
    return float((measured - expected).abs().max() / expected.abs().max())


def test_values_and_all_five_gradients_are_those_of_the_direct_sum():
    tensors = [tensor.requires_grad_() for tensor in inputs()]
    weights = torch.randn(2, 70, 3, 5, dtype=torch.float64)
    h, state = mlstm(*tensors, eps=0.0)
    assert state is None
    expected = direct_sum(*tensors)
    assert error(h, expected) < TOLERANCE
    ours = torch.autograd.grad((h * weights).sum(), tensors)
    theirs = torch.autograd.grad((expected * weights).sum(), tensors)
    for measured, gradient in zip(ours, theirs, strict=True):
        assert error(measured, gradient) < TOLERANCE


@pytest.mark.parametrize("eps", [0.0, 1e-6, 1e-2])
def test_output_and_state_are_those_of_the_stabilised_recurrence(eps):
    tensors = inputs(50)
    h, state = mlstm(*tensors, eps=eps, output_final_state=True)
    expected, expected_state = stabilised_recurrence(*tensors, eps)
    assert error(h, expected) < TOLERANCE
    for part, other in zip(state, expected_state, strict=True):
        assert error(part, other) < TOLERANCE


def test_default_eps_is_that_of_published_models():
    tensors = inputs(20)
    expected, _ = stabilised_recurrence(*tensors, 1e-6)
    h, _ = mlstm(*tensors)
    exact, _ = mlstm(*tensors, eps=0.0)
    assert error(h, expected) < TOLERANCE
    assert error(h, exact) > 1e-9


@pytest.mark.parametrize(("gate_std", "bound"), [(1.0, 5e-7), (40.0, 7e-6)])
def test_float32_loses_little_however_large_the_gates(gate_std, bound):
    """A few units of 2^-23 on the sums, and on exponents as large as the gates."""
    tensors = inputs(300, gate_std=gate_std)
    single = [tensor.float() for tensor in tensors]
    h, _ = mlstm(*single, eps=0.0)
    exact, _ = mlstm(*(tensor.double() for tensor in single), eps=0.0)
    assert (h.double() - exact).norm() / exact.norm() < bound


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_follows_double(dtype):
    tensors = [tensor.to(dtype) for tensor in inputs(gate_std=1.0)[:3]]
    i, f = inputs(gate_std=1.0)[3:]
    h, state = mlstm(*tensors, i.float(), f.float(), output_final_state=True)
    exact, _ = mlstm(*(tensor.double() for tensor in tensors), i.float(), f.float())
    assert h.dtype == dtype
    assert {part.dtype for part in state} == {torch.float32}
    # Keys, numerator, denominator and quotient are rounded; the denominator may be small.
    assert (h.double() - exact).norm() / exact.norm() < 16 * torch.finfo(dtype).eps


def test_float16_sums_may_outgrow_float16():
    """n . q reaches 8 * 3^2 * 4000 / sqrt(8), beyond 65504; the average v does not."""
    q = k = torch.full((1, 4000, 1, 8), 3.0, dtype=torch.float16)
    gate = torch.zeros(1, 4000, 1)
    h, state = mlstm(q, k, q, gate, gate + torch.inf, output_final_state=True)
    step, _ = mlstm_step(q[:, 0], k[:, 0], q[:, 0], gate[:, 0], gate[:, 0] + torch.inf, state)
    assert h.dtype == step.dtype == torch.float16
    torch.testing.assert_close(h, q)
    torch.testing.assert_close(step, q[:, 0])


def test_extreme_gates_overflow_nowhere():
    q, k, v, _, _ = (tensor.float() for tensor in inputs(64))
    generator = torch.Generator().manual_seed(1)
    i, f = 1e4 * torch.randn(2, 2, 64, 3, generator=generator)
    leaves = [tensor.requires_grad_() for tensor in (q, k, v, i, f)]
    h, state = mlstm(*leaves, output_final_state=True)
    (h.sum() + sum(part.sum() for part in state[:2])).backward()
    for tensor in (h, *state, *(leaf.grad for leaf in leaves)):
        assert torch.isfinite(tensor).all()


def test_a_constant_on_all_input_gates_changes_nothing_where_the_normaliser_rules():
    q, k, v, i, f = inputs()
    q, k = q.abs(), k.abs()  # n . q is far above 1 then
    h, _ = mlstm(q, k, v, i + 40, f, eps=0.0)
    raised, _ = mlstm(q, k, v, i + 47, f, eps=0.0)
    assert error(raised, h) < TOLERANCE
    _, state = mlstm(q, k, v, i + 40, f, output_final_state=True)
    assert ((state.n * q[:, -1]).sum(-1) * state.m.exp()).min() > 10


def test_a_normaliser_below_one_is_one():
    """Numerator and normaliser must not be divided by a small n . q: C^T q itself is the output."""
    q, k, v, i, f = inputs(12)
    h, _ = mlstm(q, k, v, i - 60, f, eps=0.0)
    weight = (i - 60).exp()[..., None]
    keep = torch.sigmoid(f)
    state = q.new_zeros(2, 3, 8, 5)
    for t in range(12):
        state = keep[:, t, :, None, None] * state + torch.einsum(
            "bhk,bhv->bhkv", weight[:, t] * k[:, t], v[:, t]
        )
        expected = torch.einsum("bhkv,bhk->bhv", state, q[:, t]) * 8**-0.5
        torch.testing.assert_close(h[:, t], expected, rtol=1e-10, atol=0)


def test_open_forget_gates_are_plain_linear_attention_with_its_normaliser():
    q, k, v, i, f = inputs()
    h, _ = mlstm(q, k, v, torch.zeros_like(i), torch.full_like(f, math.inf), eps=0.0)
    values, _ = linear_attention(q, k, v)
    ones, _ = linear_attention(q, k, torch.ones_like(v[..., :1]))
    assert error(h, values / ones.abs().clamp(min=1)) < TOLERANCE


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("cut", [0, 1, 37, 69, 70])
def test_reading_in_two_pieces_is_reading_at_once(cut, dtype):
    tensors = [tensor.to(dtype) for tensor in inputs(gate_std=30.0)]
    # Gates that pull m to some 1e3, where float32 has a grain of 1e-4.
    tensors[3] = tensors[3] + 1000
    whole, state = mlstm(*tensors, output_final_state=True)
    first, middle = mlstm(*(tensor[:, :cut] for tensor in tensors), output_final_state=True)
    second, last = mlstm(
        *(tensor[:, cut:] for tensor in tensors), initial_state=middle, output_final_state=True
    )
    bound = 1e-10 if dtype == torch.float64 else 1e-4
    assert error(torch.cat([first, second], 1), whole) < bound
    for part, other in zip(last, state, strict=True):
        assert error(part, other) < bound


def test_float32_state_loses_nothing_where_m_is_large():
    """m = 1e6 has a grain of 0.06 in float32; the state is kept in units of the rounded m."""
    tensors = [tensor.float() for tensor in inputs(40, gate_std=1.0)]
    tensors[3] = tensors[3] + 1e6
    tensors[:2] = [tensor.abs() for tensor in tensors[:2]]  # no cancelling in n . q
    exact, _ = mlstm(*(tensor.double() for tensor in tensors))
    _, state = mlstm(*(tensor[:, :20] for tensor in tensors), output_final_state=True)
    h, _ = mlstm(*(tensor[:, 20:] for tensor in tensors), initial_state=state)
    assert error(h.double(), exact[:, 20:]) < 2e-5


def test_gradients_through_a_handed_on_state_are_those_of_the_whole():
    tensors = [tensor.requires_grad_() for tensor in inputs(40)]
    weights = torch.randn(2, 40, 3, 5, dtype=torch.float64)
    whole, _ = mlstm(*tensors, eps=0.0)
    expected = torch.autograd.grad((whole * weights).sum(), tensors)
    first, state = mlstm(*(t[:, :17] for t in tensors), eps=0.0, output_final_state=True)
    second, _ = mlstm(*(t[:, 17:] for t in tensors), eps=0.0, initial_state=state)
    pieces = torch.cat([first, second], 1)
    for ours, theirs in zip(
        torch.autograd.grad((pieces * weights).sum(), tensors), expected, strict=True
    ):
        assert error(ours, theirs) < TOLERANCE


def test_gradients_of_every_input_and_of_a_given_state():
    tensors = inputs(6, batch=1, heads=2, key_dim=3, value_dim=2, gate_std=1.0)
    _, state = mlstm(*tensors, output_final_state=True)
    leaves = [t.detach().requires_grad_() for t in (*tensors, *state)]

    def outputs(*arguments):
        h, after = mlstm(
            *arguments[:5], initial_state=arguments[5:], eps=0.0, output_final_state=True
        )
        # C exp(m) does not depend on the choice of m.
        return h, after[0] * after[2].exp()[..., None, None].detach()

    h, _ = outputs(*leaves)
    ours = torch.autograd.grad(h.square().sum(), leaves)
    expected, _ = stabilised_recurrence(*leaves[:5], 0.0, tuple(leaves[5:]))
    theirs = torch.autograd.grad(expected.square().sum(), leaves)
    for measured, gradient in zip(ours, theirs, strict=True):
        assert error(measured, gradient) < TOLERANCE


def test_steps_are_the_whole_and_leave_their_state_alone():
    tensors = inputs(30)
    whole, last = mlstm(*tensors, output_final_state=True)
    state = None
    for t in range(30):
        h, new = mlstm_step(*(tensor[:, t] for tensor in tensors), state)
        if state is not None:
            again, _ = mlstm_step(*(tensor[:, t] for tensor in tensors), state)
            assert torch.equal(again, h)
        assert error(h, whole[:, t]) < TOLERANCE
        state = new
    for part, other in zip(state, last, strict=True):
        assert error(part, other) < TOLERANCE


def test_packed_sequences_are_read_as_if_alone():
    """An earlier sequence with far larger gates would ruin the next, were the maximum shared."""
    lengths = [9, 0, 1, 30]
    tensors = inputs(40, batch=1)
    tensors[3][:, :9] += 300
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    state = MLSTMState(
        *(torch.randn(4, 3, *shape, dtype=torch.float64) for shape in ((8, 5), (8,), ()))
    )
    for before in (None, state):
        h, after = mlstm(
            *tensors, cu_seqlens=offsets, initial_state=before, output_final_state=True
        )
        for row, (start, length) in enumerate(zip(offsets, lengths, strict=False)):
            alone, alone_after = mlstm(
                *(tensor[:, start : start + length] for tensor in tensors),
                initial_state=None if before is None else tuple(p[row : row + 1] for p in before),
                output_final_state=True,
            )
            torch.testing.assert_close(h[:, start : start + length], alone, rtol=1e-10, atol=1e-12)
            for part, other in zip(after, alone_after, strict=True):
                torch.testing.assert_close(part[row], other[0], rtol=1e-10, atol=1e-12)


def test_masked_tokens_leave_the_state_unchanged():
    q, k, v, i, f = inputs(20)
    masked = torch.zeros(2, 20, 1, dtype=torch.bool)
    masked[:, :4] = masked[:, 10:13] = masked[:, 19:] = True
    kept = ~masked[0, :, 0]
    leaves = [tensor.requires_grad_() for tensor in (q, k, v, i, f)]
    gates = i.masked_fill(masked, -math.inf), f.masked_fill(masked, math.inf)
    h, state = mlstm(q, k, v, *gates, output_final_state=True)
    short, expected = mlstm(*(tensor[:, kept] for tensor in leaves), output_final_state=True)
    assert error(h[:, kept], short) < TOLERANCE
    assert torch.equal(h[:, :4], torch.zeros_like(h[:, :4]))
    for part, other in zip(state, expected, strict=True):
        assert error(part, other) < TOLERANCE
    for ours, theirs in zip(
        torch.autograd.grad(h[:, kept].square().sum(), leaves),
        torch.autograd.grad(short.square().sum(), leaves),
        strict=True,
    ):
        assert error(ours, theirs) < TOLERANCE


def test_a_closed_forget_gate_forgets_everything():
    q, k, v, i, f = inputs(20)
    f[:, 11] = -math.inf
    h, state = mlstm(q, k, v, i, f, output_final_state=True)
    fresh, expected = mlstm(*(t[:, 11:] for t in (q, k, v, i, f)), output_final_state=True)
    torch.testing.assert_close(h[:, 11:], fresh, rtol=1e-10, atol=1e-12)
    for part, other in zip(state, expected, strict=True):
        torch.testing.assert_close(part, other, rtol=1e-10, atol=1e-12)
    i[:, 11] = -math.inf
    h, _ = mlstm(q, k, v, i, f)
    assert torch.equal(h[:, 11], torch.zeros_like(h[:, 11]))
    assert torch.isfinite(h).all()


def test_values_as_wide_as_the_kernel_takes():
    tensors = inputs(9, batch=1, heads=1, key_dim=4, value_dim=256)
    h, state = mlstm(*tensors, output_final_state=True, eps=0.0)
    assert error(h, direct_sum(*tensors)) < TOLERANCE
    assert state.C.shape == (1, 1, 4, 256)
    assert state.n.shape == (1, 1, 4)
    step, after = mlstm_step(*(tensor[:, 8] for tensor in tensors), None, eps=0.0)
    more, _ = mlstm(*(tensor[:, :1] for tensor in tensors), initial_state=after, eps=0.0)
    pair = [torch.cat([t[:, 8:], t[:, :1]], 1) for t in tensors]
    expected = direct_sum(*pair)
    assert error(torch.cat([step[:, None], more], 1), expected) < TOLERANCE


def test_long_forgetting_keeps_its_digits():
    """Log-forget sums of -1e5: taken globally in float32 their differences would be worth 0.01."""
    time = 20_000
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, time, 1, 4, generator=generator)
    i, f = torch.randn(2, 1, time, 1, generator=generator)
    f = f - 5
    h, _ = mlstm(q, k, v, i, f, eps=0.0)
    # Beyond 60 tokens the past weighs less than e^-200.
    tail = [tensor[:, -200:].double() for tensor in (q, k, v, i, f)]
    assert error(h[:, -100:].double(), direct_sum(*tail)[:, -100:]) < 2e-5


def test_no_tokens_keep_the_state():
    tensors = inputs(0)
    h, state = mlstm(*tensors, output_final_state=True)
    assert h.shape == (2, 0, 3, 5)
    assert (state.m == -math.inf).all()
    assert not state.C.any()
    _, before = mlstm(*inputs(5), output_final_state=True)
    _, after = mlstm(*tensors, initial_state=before, output_final_state=True)
    for part, other in zip(after, before, strict=True):
        assert torch.equal(part, other)


def test_both_backends_agree():
    tensors = inputs()
    native, _ = mlstm(*tensors, backend="native")
    composite, _ = mlstm(*tensors, backend="torch")
    assert error(native, composite) < TOLERANCE


def test_compiled_op_is_the_eager_one():
    torch._dynamo.reset()
    tensors = inputs(33)
    compiled = torch.compile(mlstm, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(
        compiled(*tensors, output_final_state=True), mlstm(*tensors, output_final_state=True)
    )


def test_autocast_reads_float32_inputs():
    tensors = [tensor.float() for tensor in inputs(gate_std=1.0)]
    whole, _ = mlstm(*tensors)
    with torch.autocast("cpu", torch.bfloat16):
        h, _ = mlstm(*tensors)
    assert h.dtype == torch.bfloat16
    assert (h.float() - whole).norm() / whole.norm() < 2**-4


class TestErrors:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({0: torch.zeros(2, 4, 8)}, r"q must be 4-D .* got shape \(2, 4, 8\)"),
            ({1: torch.zeros(2, 4, 3, 7)}, r"k must have shape \(2, 4, 3, 8\) .*that of q"),
            ({2: torch.zeros(2, 5, 3, 5)}, r"v must have shape \(2, 4, 3, 5\).*got \(2, 5, 3, 5\)"),
            ({3: torch.zeros(2, 4, 2)}, r"input_gate must have shape \(2, 4, 3\)"),
            ({4: torch.zeros(2, 4)}, r"forget_gate must have shape \(2, 4, 3\)"),
            ({3: torch.full((2, 4, 3), math.nan)}, "input_gate must not be NaN"),
            ({4: torch.full((2, 4, 3), math.nan)}, "forget_gate must not be NaN"),
            ({3: torch.full((2, 4, 3), math.inf)}, r"input_gate must be below \+inf, got inf"),
        ],
    )
    def test_tensors_that_do_not_fit_are_named(self, change, message):
        arguments = [tensor.float() for tensor in inputs(4)]
        for place, tensor in change.items():
            arguments[place] = tensor
        with pytest.raises(ValueError, match=message):
            mlstm(*arguments)

    def test_dtypes_are_named(self):
        q, k, v, i, f = inputs(4)
        with pytest.raises(TypeError, match="k must have the dtype of q"):
            mlstm(q, k.float(), v, i, f)
        with pytest.raises(TypeError, match="forget_gate must be float32"):
            mlstm(q, k, v, i, f.long())
        with pytest.raises(TypeError, match=r"v must be a torch\.Tensor, got list"):
            mlstm(q, k, [1.0], i, f)

    def test_states_eps_and_offsets_are_checked(self):
        tensors = inputs(4)
        _, state = mlstm(*tensors, output_final_state=True)
        with pytest.raises(TypeError, match=r"initial_state must be a tuple \(C, n, m\), got Tens"):
            mlstm(*tensors, initial_state=state.C)
        with pytest.raises(ValueError, match=r"initial_state\.n must have shape \(2, 3, 8\)"):
            mlstm(*tensors, initial_state=(state.C, state.m, state.m))
        with pytest.raises(ValueError, match=r"state\.m must have shape \(2, 3\)"):
            mlstm_step(*(t[:, 0] for t in tensors), (state.C, state.n, state.n))
        with pytest.raises(ValueError, match="q must be 3-D"):
            mlstm_step(*tensors)
        with pytest.raises(ValueError, match="eps must be finite and at least 0, got -1"):
            mlstm(*tensors, eps=-1)
        with pytest.raises(ValueError, match="batch size must be 1 when cu_seqlens is given"):
            mlstm(*tensors, cu_seqlens=torch.tensor([0, 4]))
        with pytest.raises(ValueError, match="cu_seqlens must end at the time length 4, got 3"):
            mlstm(*(t[:1] for t in tensors), cu_seqlens=torch.tensor([0, 3]))
        with pytest.raises(ValueError, match="last axis of v must be between 1 and 256, got 257"):
            mlstm(*inputs(2, value_dim=257))
        with pytest.raises(ValueError, match="backend must be one of"):
            mlstm(*tensors, backend="cuda")
