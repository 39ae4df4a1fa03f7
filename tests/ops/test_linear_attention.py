"""The op against its recurrence, its closed forms and its own symmetries, native and composite."""

import math
import subprocess
import sys

import pytest
import torch
from rankone.ops import (
    linear_attention,
    linear_attention_reference,
    linear_attention_step,
)

from .linear_attention_cases import (
    DECAY_FORMS,
    GRADIENT_FACTOR,
    SHAPES,
    TOLERANCE,
    Case,
    decay_gradient_tolerance,
    relative_error,
)
from .sequence_cases import BACKENDS, assert_gradients_near, assert_near, layouts


def ones(time, *, key_dim=1, dtype=torch.float64):
    return [torch.ones(1, time, 1, key_dim, dtype=dtype) for _ in range(3)]


# Closed forms.


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_decay_ones_count_the_tokens(backend):
    q, k, v = ones(150)
    output, _ = linear_attention(q, k, v, scale=1.0, backend=backend)
    assert torch.equal(output.flatten(), torch.arange(1.0, 151.0, dtype=torch.float64))


@pytest.mark.parametrize("backend", BACKENDS)
def test_half_decay_gives_the_geometric_series(backend):
    q, k, v = ones(100)
    decay = torch.tensor([0.5], dtype=torch.float64).log()
    output, _ = linear_attention(q, k, v, decay, scale=1.0, backend=backend)
    expected = 2 - 0.5 ** torch.arange(100, dtype=torch.float64)
    torch.testing.assert_close(output.flatten(), expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_token_sees_itself_undecayed(backend):
    case = Case(time=1, decay="channel", with_state=False)
    output, _ = case.run(linear_attention, backend=backend, scale=1.0)
    expected = (case.q * case.k).sum(-1, keepdim=True) * case.v
    assert_near([output], [expected], 1e-14)


@pytest.mark.parametrize("log_decay", [-1e4, -math.inf])
@pytest.mark.parametrize("form", DECAY_FORMS[1:])
@pytest.mark.parametrize("backend", BACKENDS)
def test_total_forgetting_leaves_the_token_itself(backend, form, log_decay):
    case = Case(time=80, decay=form, with_state=False)
    case.log_decay = torch.full_like(case.log_decay, log_decay).requires_grad_()
    output, _ = case.run(linear_attention, backend=backend, scale=0.3)
    assert_near([output], [0.3 * (case.q * case.k).sum(-1, keepdim=True) * case.v], 1e-14)
    gradients = case.gradients(linear_attention, backend=backend)
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert gradients[3].abs().max() <= 1e-12


@pytest.mark.parametrize("form", ["token", "channel"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reset", [1, 16, 50, 64])
def test_minus_infinity_restarts_the_sequence(backend, form, reset):
    case = Case(time=100, decay=form)
    with torch.no_grad():
        case.log_decay[:, reset] = -math.inf
    output, state = case.run(linear_attention, backend=backend)
    tail = [tensor[:, reset:] for tensor in (case.q, case.k, case.v, case.log_decay)]
    restarted, restarted_state = linear_attention(*tail, output_final_state=True, backend=backend)
    assert_near([output[:, reset:], state], [restarted, restarted_state], 1e-13)
    assert all(g.isfinite().all() for g in case.gradients(linear_attention, backend=backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_normalized_average_of_a_constant_is_the_constant(backend):
    case = Case(time=200, decay="channel", normalize=True, with_state=False)
    case.v = torch.full_like(case.v, 2.5)
    output, *_ = case.run(linear_attention, backend=backend)
    torch.testing.assert_close(output, torch.full_like(output, 2.5), rtol=1e-9, atol=0)


# Against the recurrence.


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("form", DECAY_FORMS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join(map(str, shape.values())))
@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_the_recurrence(backend, shape, form, normalize):
    case = Case(**shape, decay=form, normalize=normalize)
    expected = case.run(linear_attention_reference)
    assert_near(case.run(linear_attention, backend=backend), expected, 1e-12)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("form", DECAY_FORMS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join(map(str, shape.values())))
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_equal_those_of_the_recurrence(backend, shape, form, normalize):
    case = Case(**shape, decay=form, normalize=normalize)
    expected = case.gradients(linear_attention_reference)
    assert_gradients_near(case.gradients(linear_attention, backend=backend), expected, 1e-11)


@pytest.mark.parametrize("form", DECAY_FORMS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradcheck_with_initial_and_final_state(backend, form):
    case = Case(batch=1, heads=1, kv_heads=1, decay=form)

    def function(*tensors):
        q, k, v, *rest = tensors
        decay = rest[0] if form != "none" else None
        return linear_attention(
            q, k, v, decay, initial_state=rest[-1], output_final_state=True, backend=backend
        )

    assert torch.autograd.gradcheck(function, case.differentiable(), fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("form", DECAY_FORMS)
def test_error_of_each_dtype_stays_within_its_rounding(form, dtype):
    case = Case(batch=1, time=4096, key_dim=64, value_dim=64, decay=form, dtype=dtype,
                with_state=False)  # fmt: skip
    exact = case.in_double()
    output, state = case.run(linear_attention, backend="native")
    expected, expected_state = exact.run(linear_attention)
    assert output.dtype == dtype
    assert state.dtype == torch.float32
    assert relative_error(output, expected) <= TOLERANCE[dtype]
    assert relative_error(state, expected_state) <= TOLERANCE[torch.float32]
    gradients = case.gradients(linear_attention, backend="native")
    expected_gradients = exact.gradients(linear_attention)
    if form != "none":
        *gradients, decay_grad = gradients
        *expected_gradients, expected_decay_grad = expected_gradients
        assert relative_error(decay_grad, expected_decay_grad) <= decay_gradient_tolerance(4096)
    assert_gradients_near(gradients, expected_gradients, GRADIENT_FACTOR * TOLERANCE[dtype])


def test_float32_state_keeps_what_a_bfloat16_state_would_lose():
    case = Case(batch=1, time=4096, heads=2, key_dim=64, value_dim=64, decay="head",
                dtype=torch.bfloat16, with_state=False)  # fmt: skip
    case.log_decay = torch.tensor([-0.01, -0.001])
    output, _ = case.run(linear_attention)
    expected, _ = case.in_double().run(linear_attention, backend="torch")
    assert relative_error(output, expected) <= TOLERANCE[torch.bfloat16]


# Symmetries.


@pytest.mark.parametrize("form", DECAY_FORMS)
@pytest.mark.parametrize("split", [0, 1, 16, 63, 64, 100])
def test_state_carries_across_calls(form, split):
    case = Case(time=100, decay=form, dtype=torch.float32, key_dim=24, value_dim=40)
    whole, state = case.run(linear_attention)
    decay = case.log_decay
    pieces = []
    current = case.state
    for piece in (slice(0, split), slice(split, 100)):
        part = decay[:, piece] if form in ("token", "channel") else decay
        output, current = linear_attention(
            case.q[:, piece], case.k[:, piece], case.v[:, piece], part,
            initial_state=current, output_final_state=True,
        )  # fmt: skip
        pieces.append(output)
    assert_near([torch.cat(pieces, 1), current], [whole, state], 1e-6)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("form", DECAY_FORMS)
def test_steps_equal_the_full_call(form, normalize):
    case = Case(time=20, heads=6, kv_heads=2, decay=form, normalize=normalize)
    expected = case.run(linear_attention)
    state, outputs = case.state, []
    for t in range(20):
        decay = case.log_decay[:, t] if form in ("token", "channel") else case.log_decay
        output, state = linear_attention_step(
            case.q[:, t], case.k[:, t], case.v[:, t], state, decay, normalize=normalize
        )
        outputs.append(output)
    state = state if normalize else (state,)
    assert_near([torch.stack(outputs, 1), *state], expected, 1e-12)


def test_step_leaves_its_state_as_it_was():
    case = Case(time=1)
    before = case.state.clone()
    _, after = linear_attention_step(case.q[:, 0], case.k[:, 0], case.v[:, 0], case.state)
    assert torch.equal(case.state, before)
    assert after.data_ptr() != case.state.data_ptr()


@pytest.mark.parametrize("form", DECAY_FORMS)
def test_gradcheck_of_the_step(form):
    case = Case(batch=2, time=1, heads=4, kv_heads=2, decay=form, key_dim=3, value_dim=4)

    def function(q, k, v, *rest):
        decay = rest[0] if form != "none" else None
        if form in ("token", "channel"):
            decay = decay[:, 0]
        return linear_attention_step(q[:, 0], k[:, 0], v[:, 0], rest[-1], decay)

    assert torch.autograd.gradcheck(function, case.differentiable())


@pytest.mark.parametrize("form", DECAY_FORMS)
def test_packed_sequences_equal_separate_calls(form):
    offsets = (0, 40, 40, 41, 120)
    case = Case(batch=1, time=120, decay=form, cu_seqlens=offsets, heads=4)
    output, state = case.run(linear_attention)
    for index in range(4):
        piece = slice(offsets[index], offsets[index + 1])
        decay = case.log_decay
        decay = decay[:, piece] if form in ("token", "channel") else decay
        expected, expected_state = linear_attention(
            case.q[:, piece], case.k[:, piece], case.v[:, piece], decay,
            initial_state=case.state[index : index + 1], output_final_state=True,
        )  # fmt: skip
        assert_near([output[:, piece], state[index : index + 1]], [expected, expected_state], 1e-13)


def test_decay_forms_agree_where_they_mean_the_same():
    case = Case(time=77, decay="head", key_dim=12)
    expected = case.run(linear_attention)
    per_token = case.log_decay.expand(2, 77, 2)
    for decay in (per_token, per_token[..., None].expand(2, 77, 2, 12)):
        output, state = linear_attention(
            case.q, case.k, case.v, decay, initial_state=case.state, output_final_state=True
        )
        assert_near([output, state], expected, 1e-13)


def test_value_channels_do_not_mix():
    case = Case(time=70, value_dim=33, decay="channel", with_state=False)
    order = torch.randperm(33)
    output, _ = case.run(linear_attention)
    permuted, _ = linear_attention(case.q, case.k, case.v[..., order], case.log_decay)
    assert torch.equal(permuted, output[..., order])


@pytest.mark.parametrize("form", DECAY_FORMS)
@pytest.mark.parametrize("chunk_size", [16, 32, 64, 128])
@pytest.mark.parametrize("backend", BACKENDS)
def test_chunk_size_changes_rounding_only(backend, chunk_size, form):
    case = Case(time=150, decay=form)
    expected = case.run(linear_attention_reference)
    options = {"chunk_size": chunk_size, "backend": backend}
    assert_near(case.run(linear_attention, **options), expected, 1e-12)
    gradients = case.gradients(linear_attention, **options)
    assert_gradients_near(gradients, case.gradients(linear_attention_reference), 1e-11)


@pytest.mark.parametrize("heads", [(1, 1), (4, 2)])
@pytest.mark.parametrize("form", DECAY_FORMS)
def test_bits_do_not_depend_on_the_number_of_threads(threads, form, heads):
    case = Case(batch=1, time=300, heads=heads[0], kv_heads=heads[1], key_dim=40, value_dim=72,
                decay=form, dtype=torch.float32)  # fmt: skip
    results = []
    for count in (1, 2, 5):
        threads(count)
        results.append((*case.run(linear_attention), *case.gradients(linear_attention)))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


# Layouts and edges.


@pytest.mark.parametrize("form", DECAY_FORMS)
def test_any_strides_are_read(form):
    case = Case(time=50, heads=4, kv_heads=2, key_dim=9, value_dim=11, decay=form)
    expected = case.run(linear_attention)
    for layout in layouts():
        q, k, v = (layout(tensor.detach()) for tensor in (case.q, case.k, case.v))
        decay = case.log_decay
        decay = layout(decay.detach()) if form in ("token", "channel") else decay
        state = case.state.detach().transpose(-1, -2).contiguous().transpose(-1, -2)
        output = linear_attention(q, k, v, decay, initial_state=state, output_final_state=True)
        assert all(torch.equal(a, b) for a, b in zip(output, expected, strict=True))


def test_broadcast_inputs_are_read_without_copies_being_needed():
    q = torch.randn(1, 1, 1, 6, dtype=torch.float64).expand(2, 30, 3, 6)
    output, _ = linear_attention(q, q, q)
    expected, _ = linear_attention(q.clone(), q.clone(), q.clone())
    assert torch.equal(output, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("normalize", [False, True])
def test_empty_sequence_returns_its_state(backend, normalize):
    case = Case(time=0, decay="token", normalize=normalize)
    output, *state = case.run(linear_attention, backend=backend)
    assert output.shape == (2, 0, 2, 7)
    assert_near(state, case.states(), 0)
    gradients = torch.autograd.grad(sum(s.sum() for s in state), case.states())
    assert all(torch.equal(g, torch.ones_like(g)) for g in gradients)


def test_empty_batch_and_no_sequences():
    empty = torch.randn(0, 5, 2, 3)
    output, state = linear_attention(empty, empty, empty, output_final_state=True)
    assert output.shape == (0, 5, 2, 3)
    assert state.shape == (0, 2, 3, 3)


def test_the_initial_state_is_not_aliased():
    case = Case(time=0)
    _, state = case.run(linear_attention)
    assert state.data_ptr() != case.state.data_ptr()


@pytest.mark.parametrize("normalize", [False, True])
def test_non_causal_form_sums_over_the_whole_sequence(normalize):
    case = Case(time=50, heads=6, kv_heads=2, normalize=normalize, with_state=False)
    options = {"causal": False, "normalize": normalize, "scale": 0.7}
    output, state = linear_attention(case.q, case.k, case.v, **options)
    keys, values = (x.repeat_interleave(3, 2) for x in (case.k, case.v))
    scores = torch.einsum("bthk,bshk->bhts", case.q, keys)
    weighted = torch.einsum("bhts,bshv->bthv", scores, values)
    if normalize:
        expected = weighted / scores.sum(-1).transpose(1, 2)[..., None]
    else:
        expected = 0.7 * weighted
    assert state is None
    assert_near([output], [expected], 1e-12)
    assert_near([output], [linear_attention_reference(case.q, case.k, case.v, **options)[0]], 1e-12)


def test_scale_cancels_when_normalized():
    case = Case(normalize=True, decay="token")
    for scale in (1e-6, 1.0, 1e6):
        output, *_ = case.run(linear_attention, scale=scale)
        assert_near([output], [case.run(linear_attention)[0]], 1e-14)


def test_state_may_have_any_floating_dtype():
    case = Case(dtype=torch.float32)
    state = case.state.detach().to(torch.bfloat16).requires_grad_()
    output, _ = linear_attention(case.q, case.k, case.v, initial_state=state)
    expected, _ = linear_attention(case.q, case.k, case.v, initial_state=state.float())
    assert torch.equal(output, expected)
    assert torch.autograd.grad(output.sum(), state)[0].dtype == torch.bfloat16


MILLION = """
import resource, torch
from rankone.ops import linear_attention
T, D = 1_000_000, 16
torch.manual_seed(0)
q, k, v = (torch.randn(1, T, 1, D).requires_grad_() for _ in range(3))
g = torch.full((1, T, 1), -1e-3).requires_grad_()
warm = [x[:, :200].detach().requires_grad_() for x in (q, k, v, g)]
linear_attention(*warm)[0].sum().backward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
o, state = linear_attention(q, k, v, g, output_final_state=True)
forward = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
o.backward(torch.ones(()).expand_as(o))
backward = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert o.isfinite().all() and q.grad.isfinite().all() and g.grad.isfinite().all()
print((forward - before) * 1024, (backward - before) * 1024)
"""


def test_a_million_tokens_take_no_more_memory_than_their_outputs():
    """Nothing of size T * K * V (1 GB here) or T * T is ever allocated."""
    result = subprocess.run(
        [sys.executable, "-c", MILLION], capture_output=True, text=True, check=True
    )
    forward, backward = map(int, result.stdout.split())
    tensor = 1_000_000 * 16 * 4
    slack = tensor  # the allocator's and the libraries' own
    assert forward <= tensor + slack
    # The output, its gradient made contiguous, dq, dk, dv and the decay's gradient.
    assert backward <= 5 * tensor + tensor // 8 + slack
