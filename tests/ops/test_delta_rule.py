"""The op against its recurrence, its closed forms and its own symmetries, native and composite."""

import math

import pytest
import torch
from rankone.ops import (
    delta_rule,
    delta_rule_reference,
    delta_rule_step,
    linear_attention_reference,
)
from torch.nn import functional

from .delta_rule_cases import DECAY_FORMS, SHAPES, Case
from .sequence_cases import (
    BACKENDS,
    GRADIENT_FACTOR,
    TOLERANCE,
    assert_gradients_near,
    assert_near,
    decay_gradient_tolerance,
    layouts,
    relative_error,
)

DOUBLE = torch.float64


def unit(*shape, dtype=DOUBLE):
    return functional.normalize(torch.randn(*shape, dtype=DOUBLE), dim=-1).to(dtype)


def one_head(*tensors):
    """(T, dim) tensors as (1, T, 1, dim), and (T,) ones as (1, T, 1)."""
    return [tensor[None, :, None] for tensor in tensors]


# Closed forms.


@pytest.mark.parametrize("backend", BACKENDS)
def test_householder_reflectors_of_lapack_give_the_transposed_q(backend):
    matrix = torch.randn(12, 12, dtype=DOUBLE)
    packed, strengths = torch.geqrf(matrix)
    keys = (packed.tril(-1) + torch.eye(12, dtype=DOUBLE)).T.contiguous()
    values = torch.zeros(12, 12, dtype=DOUBLE)
    _, state = delta_rule(
        *one_head(keys, keys, values, strengths), output_final_state=True, backend=backend,
        initial_state=torch.eye(12, dtype=DOUBLE)[None, None],
    )  # fmt: skip
    expected = torch.linalg.qr(matrix).Q.T
    assert relative_error(state[0, 0], expected) <= 1e-12
    assert relative_error((state[0, 0] @ matrix).triu(), state[0, 0] @ matrix) <= 1e-12


@pytest.mark.parametrize("backend", BACKENDS)
def test_orthonormal_keys_with_strength_one_are_linear_attention(backend):
    keys = torch.linalg.qr(torch.randn(24, 24, dtype=DOUBLE)).Q
    queries, values = (torch.randn(24, 24, dtype=DOUBLE) for _ in range(2))
    q, k, v, beta = one_head(queries, keys, values, torch.ones(24, dtype=DOUBLE))
    result = delta_rule(q, k, v, beta, output_final_state=True, backend=backend)
    expected = linear_attention_reference(q, k, v, output_final_state=True)
    assert_near(result, expected, 1e-13)


@pytest.mark.parametrize("form", DECAY_FORMS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_write_with_strength_one_is_read_back_exactly(backend, form):
    case = Case(time=80, decay=form)
    output, _ = delta_rule(
        case.k, case.k, case.v, torch.ones_like(case.beta), log_decay=case.log_decay,
        initial_state=case.state, scale=1.0, backend=backend,
    )  # fmt: skip
    assert_near([output], [case.v], 1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_second_value_of_a_key_replaces_the_first(backend):
    key = unit(6)
    keys, values = torch.stack([key, key]), torch.randn(2, 4, dtype=DOUBLE)
    q, k, v, beta = one_head(keys, keys, values, torch.ones(2, dtype=DOUBLE))
    _, state = delta_rule(q, k, v, beta, output_final_state=True, backend=backend)
    assert_near([state[0, 0].T @ key], [values[1]], 1e-14)


@pytest.mark.parametrize("backend", BACKENDS)
def test_repeated_writes_converge_to_the_pseudoinverse(backend):
    """With strength one, passes over the same pairs are the Kaczmarz iteration."""
    keys, values = unit(6, 16), torch.randn(6, 5, dtype=DOUBLE)
    passes = 200
    repeated = [tensor.repeat(passes, 1) for tensor in (keys, keys, values)]
    strengths = torch.ones(6 * passes, dtype=DOUBLE)
    _, state = delta_rule(*one_head(*repeated, strengths), output_final_state=True, backend=backend)
    assert_near([state[0, 0]], [torch.linalg.pinv(keys) @ values], 1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
def test_strength_two_reflects_and_keeps_the_norm(backend):
    case = Case(time=150, key_dim=9)
    _, state = delta_rule(
        case.q, case.k, torch.zeros_like(case.v), torch.full_like(case.beta, 2.0),
        initial_state=case.state, output_final_state=True, backend=backend,
    )  # fmt: skip
    assert_near([state.norm(dim=(-1, -2))], [case.state.norm(dim=(-1, -2))], 1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
def test_strength_zero_without_decay_leaves_the_state_untouched(backend):
    case = Case(time=100, dtype=torch.float32)
    output, state = delta_rule(
        case.q, case.k, case.v, torch.zeros_like(case.beta), initial_state=case.state, scale=1.0,
        output_final_state=True, backend=backend,
    )  # fmt: skip
    assert torch.equal(state, case.state)
    assert_near([output], [torch.einsum("bthk,bhkv->bthv", case.q, case.state)], 1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_error_is_taken_against_the_decayed_state(backend):
    one = torch.ones(1, 1, 1, 1, dtype=DOUBLE)
    state = torch.full((1, 1, 1, 1), 8.0, dtype=DOUBLE)
    output, final = delta_rule(
        one, one, 3 * one, 0.5 * one[..., 0], log_decay=one[..., 0] * math.log(0.25), scale=10.0,
        initial_state=state, output_final_state=True, backend=backend,
    )  # fmt: skip
    # 2 after the decay, then half of the error 1; the scale multiplies the read alone, once.
    assert final.item() == pytest.approx(2.5, rel=1e-15)
    assert output.item() == pytest.approx(25.0, rel=1e-15)


@pytest.mark.parametrize("log_decay", [-800.0, -1e4, -math.inf])
@pytest.mark.parametrize("form", DECAY_FORMS[1:])
@pytest.mark.parametrize("backend", BACKENDS)
def test_total_forgetting_leaves_the_token_itself(backend, form, log_decay):
    case = Case(time=80, decay=form)
    case.log_decay = torch.full_like(case.log_decay, log_decay).requires_grad_()
    output, _ = case.run(delta_rule, backend=backend, scale=0.3)
    expected = 0.3 * (case.q * case.k).sum(-1, keepdim=True) * case.beta[..., None] * case.v
    assert_near([output], [expected], 1e-14)
    gradients = case.gradients(delta_rule, backend=backend)
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert not gradients[4].any()
    assert not gradients[5].any()


@pytest.mark.parametrize("form", DECAY_FORMS[1:])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reset", [1, 16, 50, 64])
def test_minus_infinity_restarts_the_sequence(backend, form, reset):
    case = Case(time=100, decay=form)
    with torch.no_grad():
        case.log_decay[:, reset] = -math.inf
    output, state = case.run(delta_rule, backend=backend)
    *tail, decay = case.at(slice(reset, None))
    restarted, restarted_state = delta_rule(
        *tail, log_decay=decay, output_final_state=True, backend=backend
    )
    assert_near([output[:, reset:], state], [restarted, restarted_state], 1e-13)
    gradients = case.gradients(delta_rule, backend=backend)
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert_gradients_near(gradients, case.gradients(delta_rule_reference), 1e-11)
    assert not gradients[4][:, reset].any()


@pytest.mark.parametrize("form", DECAY_FORMS[1:])
@pytest.mark.parametrize("backend", BACKENDS)
def test_heads_that_forget_quickly_stay_finite_and_exact(backend, form):
    """exp(G) exp(-G) would be 0 * inf after a few tokens of these."""
    case = Case(time=130, decay=form, dtype=torch.float32)
    case.log_decay = (40 * case.log_decay.detach()).requires_grad_()
    exact = case.in_double()
    expected = exact.run(delta_rule_reference)
    assert_near(case.run(delta_rule, backend=backend), expected, TOLERANCE[torch.float32])
    gradients = case.gradients(delta_rule, backend=backend)
    wanted = exact.gradients(delta_rule_reference)
    assert_gradients_near(gradients, wanted, GRADIENT_FACTOR * TOLERANCE[torch.float32])


# Against the recurrence.


@pytest.mark.parametrize("form", DECAY_FORMS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join(map(str, shape.values())))
@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_the_recurrence(backend, shape, form):
    case = Case(**shape, decay=form)
    assert_near(case.run(delta_rule, backend=backend), case.run(delta_rule_reference), 1e-12)


@pytest.mark.parametrize("form", DECAY_FORMS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join(map(str, shape.values())))
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_equal_those_of_the_recurrence(backend, shape, form):
    case = Case(**shape, decay=form)
    expected = case.gradients(delta_rule_reference)
    assert_gradients_near(case.gradients(delta_rule, backend=backend), expected, 1e-11)


@pytest.mark.parametrize("l2norm", [False, True])
@pytest.mark.parametrize("form", DECAY_FORMS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradcheck_of_all_inputs_with_both_results(backend, form, l2norm):
    case = Case(batch=1, heads=1, value_heads=2, decay=form, use_qk_l2norm=l2norm)

    def function(q, k, v, beta, *rest):
        return delta_rule(
            q, k, v, beta, log_decay=rest[0] if form != "none" else None, initial_state=rest[-1],
            output_final_state=True, use_qk_l2norm=l2norm, backend=backend,
        )  # fmt: skip

    assert torch.autograd.gradcheck(function, case.differentiable(), fast_mode=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("which", [0, 1])
def test_either_result_alone_is_differentiated(backend, which):
    case = Case(decay="channel")
    gradients = []
    for function, options in ((delta_rule, {"backend": backend}), (delta_rule_reference, {})):
        total = case.run(function, **options)[which].sin().sum()
        # The final state does not depend on the queries.
        gradients.append(torch.autograd.grad(total, case.differentiable(), materialize_grads=True))
    assert_gradients_near(*gradients, 1e-11)


@pytest.mark.parametrize("form", DECAY_FORMS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_double_precision_error_at_the_size_of_the_paper(backend, form):
    case = Case(batch=1, time=512, key_dim=64, value_dim=64, decay=form, with_state=False)
    assert_near(case.run(delta_rule, backend=backend), case.run(delta_rule_reference), 1e-12)


@pytest.mark.parametrize("chunk_size", [16, 32, 64])
@pytest.mark.parametrize("form", DECAY_FORMS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_single_precision_error_at_the_size_of_the_paper(backend, form, chunk_size):
    case = Case(batch=1, time=512, key_dim=64, value_dim=64, decay=form, with_state=False,
                dtype=torch.float32)  # fmt: skip
    expected = case.in_double().run(delta_rule_reference)
    assert_near(case.run(delta_rule, backend=backend, chunk_size=chunk_size), expected, 1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("form", DECAY_FORMS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_error_of_each_dtype_stays_within_its_rounding(backend, form, dtype):
    case = Case(batch=1, time=1024, key_dim=64, value_dim=64, decay=form, dtype=dtype,
                with_state=False)  # fmt: skip
    exact = case.in_double()
    output, state = case.run(delta_rule, backend=backend)
    expected, expected_state = exact.run(delta_rule, backend="torch")
    assert output.dtype == dtype
    assert state.dtype == torch.float32
    assert relative_error(output, expected) <= TOLERANCE[dtype]
    assert relative_error(state, expected_state) <= TOLERANCE[torch.float32]
    gradients = case.gradients(delta_rule, backend=backend)
    wanted = exact.gradients(delta_rule, backend="torch")
    assert [g.dtype for g in gradients] == [t.dtype for t in case.differentiable()]
    if form != "none":
        decay_grad, expected_decay_grad = gradients[4], wanted[4]
        assert relative_error(decay_grad, expected_decay_grad) <= decay_gradient_tolerance(1024)
    # beta's gradient, too, is taken before rounding.
    assert relative_error(gradients[3], wanted[3]) <= GRADIENT_FACTOR * TOLERANCE[torch.float32]
    assert_gradients_near(gradients[:3], wanted[:3], GRADIENT_FACTOR * TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_small_residual_of_large_numbers_survives(backend, dtype):
    """The state predicts 4098 for a value of 4096; both dtypes round 4098 to 4096."""
    one = torch.ones(1, 1, 1, 1, dtype=dtype)
    _, state = delta_rule(
        one, one, 4096 * one, torch.ones(1, 1, 1), initial_state=torch.full((1, 1, 1, 1), 4098.0),
        output_final_state=True, backend=backend,
    )  # fmt: skip
    assert state.item() == 4096


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_state_beyond_the_range_of_float16_is_read(backend):
    one = torch.ones(1, 1, 1, 1, dtype=torch.float16)
    output, state = delta_rule(
        one, one, 0 * one, torch.zeros(1, 1, 1), initial_state=torch.full((1, 1, 1, 1), 1e6),
        scale=1e-4, output_final_state=True, backend=backend,
    )  # fmt: skip
    assert output.item() == pytest.approx(100, rel=TOLERANCE[torch.float16])
    assert state.item() == 1e6


# Stability over long sequences.

LONG = 100_000


def long_case(largest_beta, dtype):
    return Case(batch=1, time=LONG, heads=1, value_heads=1, key_dim=16, value_dim=16,
                largest_beta=largest_beta, dtype=dtype)  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
def test_strengths_up_to_two_stay_stable_over_100000_tokens(backend):
    case = long_case(2.0, torch.float32)
    result = case.run(delta_rule, backend=backend)
    expected = case.in_double().run(delta_rule, backend="torch")
    assert_near(result, expected, TOLERANCE[torch.float32])


@pytest.mark.parametrize("backend", BACKENDS)
def test_100000_reflections_keep_the_norm(backend):
    """Each reflection by a rounded key errs by a few 2**-24, and the errors walk at random."""
    case = long_case(2.0, torch.float32)
    _, state = delta_rule(
        case.q, case.k, torch.zeros_like(case.v), torch.full_like(case.beta, 2.0),
        initial_state=case.state, output_final_state=True, backend=backend,
    )  # fmt: skip
    assert float(state.norm() / case.state.norm()) == pytest.approx(1, abs=LONG**0.5 * 2**-23)


# Symmetries.


@pytest.mark.parametrize("form", DECAY_FORMS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_recurrent_mode_agrees(backend, form):
    for shape in ({"value_heads": 4}, {"batch": 1, "cu_seqlens": (0, 10, 10, 37)}):
        case = Case(**shape, decay=form, use_qk_l2norm=True)
        options = {"mode": "recurrent", "backend": backend}
        assert_near(case.run(delta_rule, **options), case.run(delta_rule_reference), 1e-13)
        gradients = case.gradients(delta_rule, **options)
        assert_gradients_near(gradients, case.gradients(delta_rule_reference), 1e-11)


@pytest.mark.parametrize("form", DECAY_FORMS)
@pytest.mark.parametrize("split", [0, 1, 16, 63, 64, 100])
@pytest.mark.parametrize("backend", BACKENDS)
def test_state_carries_across_calls(backend, form, split):
    case = Case(time=100, decay=form, dtype=torch.float32, key_dim=24, value_dim=40)
    expected = case.run(delta_rule, backend=backend)
    state, pieces = case.state, []
    for piece in (slice(0, split), slice(split, 100)):
        *tokens, decay = case.at(piece)
        output, state = delta_rule(
            *tokens, log_decay=decay, initial_state=state, output_final_state=True, backend=backend
        )
        pieces.append(output)
    assert_near([torch.cat(pieces, 1), state], expected, 1e-6)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("l2norm", [False, True])
@pytest.mark.parametrize("form", DECAY_FORMS)
def test_steps_equal_the_full_call(form, l2norm, inplace):
    case = Case(time=20, heads=2, value_heads=6, decay=form, use_qk_l2norm=l2norm)
    expected = case.run(delta_rule)
    state, outputs = case.state.detach().clone(), []
    with torch.no_grad():
        for t in range(20):
            *token, decay = case.at(t)
            output, state = delta_rule_step(
                *token, state, log_decay=decay, use_qk_l2norm=l2norm, inplace=inplace
            )
            outputs.append(output)
    assert_near([torch.stack(outputs, 1), state], expected, 1e-12)


def test_step_leaves_its_state_as_it_was_unless_asked():
    case = Case(time=1)
    *token, _ = (None if t is None else t.detach() for t in case.at(0))
    state = case.state.detach().clone()
    output, after = delta_rule_step(*token, state)
    assert torch.equal(case.state, state)
    overwritten, same = delta_rule_step(*token, state, inplace=True)
    assert same is state
    assert torch.equal(state, after)
    assert torch.equal(output, overwritten)


def test_step_without_a_state_starts_from_zeros():
    case = Case(time=1)
    *token, _ = case.at(0)
    zeros = torch.zeros_like(case.state)
    for one, other in zip(
        delta_rule_step(*token, None), delta_rule_step(*token, zeros), strict=True
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize("form", DECAY_FORMS)
def test_gradcheck_of_the_step(form):
    case = Case(time=1, heads=1, value_heads=2, decay=form, key_dim=3, value_dim=4)

    def function(q, k, v, beta, *rest):
        decay = rest[0][:, 0] if form != "none" else None
        return delta_rule_step(q[:, 0], k[:, 0], v[:, 0], beta[:, 0], rest[-1], log_decay=decay)

    assert torch.autograd.gradcheck(function, case.differentiable())


@pytest.mark.parametrize("form", DECAY_FORMS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_packed_sequences_equal_separate_calls(backend, form):
    offsets = (0, 40, 40, 41, 120)
    case = Case(batch=1, time=120, decay=form, cu_seqlens=offsets, value_heads=4)
    output, state = case.run(delta_rule, backend=backend)
    for index in range(4):
        piece = slice(offsets[index], offsets[index + 1])
        *tokens, decay = case.at(piece)
        expected = delta_rule(
            *tokens, log_decay=decay, initial_state=case.state[index : index + 1],
            output_final_state=True, backend=backend,
        )  # fmt: skip
        assert_near([output[:, piece], state[index : index + 1]], expected, 1e-13)


def test_packed_offsets_may_be_of_either_integer_type():
    case = Case(batch=1, time=30, cu_seqlens=(0, 10, 30))
    expected = case.run(delta_rule)
    case.offsets = case.offsets.int()
    assert all(torch.equal(a, b) for a, b in zip(case.run(delta_rule), expected, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_channel_decay_constant_over_channels_is_the_token_decay(backend):
    case = Case(time=77, decay="token", key_dim=12, value_heads=4)
    expected = case.run(delta_rule, backend=backend)
    case.log_decay = case.log_decay[..., None].expand(2, 77, 4, 12)
    assert_near(case.run(delta_rule, backend=backend), expected, 1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
def test_value_heads_read_the_key_head_of_their_group(backend):
    case = Case(heads=2, value_heads=6, decay="token")
    expected = case.run(delta_rule, backend=backend)
    case.q, case.k = (tensor.repeat_interleave(3, dim=2) for tensor in (case.q, case.k))
    assert_near(case.run(delta_rule, backend=backend), expected, 1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
def test_normalisation_in_the_op_is_that_of_the_formula(backend):
    case = Case(time=50, use_qk_l2norm=True)
    result = case.run(delta_rule, backend=backend, l2norm_eps=0.5)
    case.q, case.k = (x / (x.square().sum(-1, keepdim=True) + 0.5).sqrt() for x in (case.q, case.k))
    case.use_qk_l2norm = False
    assert_near(result, case.run(delta_rule, backend=backend), 1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
def test_padding_tokens_change_nothing(backend):
    """Tokens with k = v = beta = g = 0 behind a sequence, also under the normalisation."""
    case = Case(time=70, decay="token", use_qk_l2norm=True)
    output, state = case.run(delta_rule, backend=backend)
    padded = [functional.pad(x, (0, 0, 0, 0, 0, 9)) for x in (case.q, case.k, case.v)]
    beta, decay = (functional.pad(x, (0, 0, 0, 9)) for x in (case.beta, case.log_decay))
    longer, final = delta_rule(
        *padded, beta, log_decay=decay, initial_state=case.state, output_final_state=True,
        use_qk_l2norm=True, backend=backend,
    )  # fmt: skip
    assert_near([longer[:, :70], final], [output, state], 1e-14)


@pytest.mark.parametrize("form", DECAY_FORMS)
@pytest.mark.parametrize("chunk_size", [16, 32, 64])
@pytest.mark.parametrize("backend", BACKENDS)
def test_chunk_size_changes_rounding_only(backend, chunk_size, form):
    case = Case(time=150, decay=form)
    options = {"chunk_size": chunk_size, "backend": backend}
    assert_near(case.run(delta_rule, **options), case.run(delta_rule_reference), 1e-12)
    gradients = case.gradients(delta_rule, **options)
    assert_gradients_near(gradients, case.gradients(delta_rule_reference), 1e-11)


@pytest.mark.parametrize("form", DECAY_FORMS)
@pytest.mark.parametrize("changed", [1, 15, 16, 40, 99])
@pytest.mark.parametrize("backend", BACKENDS)
def test_outputs_before_a_changed_token_keep_their_bits(backend, changed, form):
    case = Case(time=100, decay=form, dtype=torch.float32)
    before, _ = case.run(delta_rule, backend=backend)
    with torch.no_grad():
        for tensor in (case.q, case.k, case.v, case.beta):
            tensor[:, changed] += 1
        if case.log_decay is not None:
            case.log_decay[:, changed] -= 1
    after, _ = case.run(delta_rule, backend=backend)
    assert torch.equal(after[:, :changed], before[:, :changed])
    assert not torch.equal(after[:, changed], before[:, changed])


@pytest.mark.parametrize("backend", BACKENDS)
def test_value_channels_do_not_mix(backend):
    case = Case(time=70, value_dim=33, decay="channel", with_state=False)
    order = torch.randperm(33)
    expected, _ = case.run(delta_rule, backend=backend)
    case.v = case.v[..., order]
    permuted, _ = case.run(delta_rule, backend=backend)
    assert_near([permuted], [expected[..., order]], 1e-14)


@pytest.mark.parametrize("heads", [(1, 1), (2, 4)])
@pytest.mark.parametrize("form", DECAY_FORMS)
def test_bits_do_not_depend_on_the_number_of_threads(threads, form, heads):
    case = Case(batch=1, time=300, heads=heads[0], value_heads=heads[1], key_dim=40, value_dim=72,
                decay=form, dtype=torch.float32)  # fmt: skip
    results = []
    for count in (1, 2, 5):
        threads(count)
        options = {"backend": "native"}
        results.append((*case.run(delta_rule, **options), *case.gradients(delta_rule, **options)))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


# Layouts and edges.


@pytest.mark.parametrize("form", DECAY_FORMS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_any_strides_are_read(backend, form):
    case = Case(time=50, heads=2, value_heads=4, key_dim=9, value_dim=11, decay=form)
    expected = case.run(delta_rule, backend=backend)
    gradients = case.gradients(delta_rule, backend=backend)
    for layout in layouts():
        other = Case(time=50, heads=2, value_heads=4, key_dim=9, value_dim=11, decay=form)
        for name in ("q", "k", "v", "beta", "log_decay"):
            tensor = getattr(case, name)
            if tensor is not None:
                setattr(other, name, layout(tensor.detach()).requires_grad_())
        state = case.state.detach().transpose(-1, -2).contiguous().transpose(-1, -2)
        other.state = state.requires_grad_()
        assert_near(other.run(delta_rule, backend=backend), expected, 1e-14)
        assert_gradients_near(other.gradients(delta_rule, backend=backend), gradients, 1e-13)


def test_broadcast_inputs_are_read_without_copies_being_needed():
    q = unit(1, 1, 1, 6).expand(2, 30, 3, 6)
    beta = torch.full((1, 1, 1), 0.5, dtype=DOUBLE).expand(2, 30, 3)
    output, _ = delta_rule(q, q, q, beta)
    expected, _ = delta_rule(q.clone(), q.clone(), q.clone(), beta.clone())
    assert torch.equal(output, expected)


@pytest.mark.parametrize("mode", ["chunk", "recurrent"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_empty_sequence_returns_its_state(backend, mode):
    case = Case(time=0, decay="token")
    output, state = case.run(delta_rule, backend=backend, mode=mode)
    assert output.shape == (2, 0, 2, 7)
    assert torch.equal(state, case.state)
    assert state.data_ptr() != case.state.data_ptr()
    (gradient,) = torch.autograd.grad(state.sum(), case.state)
    assert torch.equal(gradient, torch.ones_like(gradient))


@pytest.mark.parametrize("function", [delta_rule, delta_rule_reference])
def test_empty_batch_and_no_sequences(function):
    empty = torch.randn(0, 5, 2, 3)
    output, state = function(empty, empty, empty, empty[..., 0], output_final_state=True)
    assert output.shape == (0, 5, 2, 3)
    assert state.shape == (0, 2, 3, 3)
    none = torch.randn(1, 0, 2, 3, requires_grad=True)
    output, state = function(
        none, none, none, none[..., 0], output_final_state=True, cu_seqlens=torch.tensor([0])
    )
    assert output.shape == (1, 0, 2, 3)
    assert state.shape == (0, 2, 3, 3)
    output.sum().backward()
    assert none.grad.shape == none.shape


@pytest.mark.parametrize("backend", BACKENDS)
def test_dims_beyond_256_run_on_cpu(backend):
    case = Case(batch=1, time=40, heads=1, value_heads=1, key_dim=300, value_dim=270)
    assert_near(case.run(delta_rule, backend=backend), case.run(delta_rule_reference), 1e-12)
    gradients = case.gradients(delta_rule, backend=backend)
    assert_gradients_near(gradients, case.gradients(delta_rule_reference), 1e-11)


def test_states_strengths_and_decays_may_have_any_floating_dtype():
    case = Case(dtype=torch.float32, decay="token")
    names = ("beta", "log_decay", "state")
    for name in names:
        setattr(case, name, getattr(case, name).detach().bfloat16().requires_grad_())
    output, _ = case.run(delta_rule)
    gradients = torch.autograd.grad(output.sum(), [getattr(case, name) for name in names])
    assert all(gradient.dtype == torch.bfloat16 for gradient in gradients)
    for name in names:
        setattr(case, name, getattr(case, name).detach().float())
    assert torch.equal(output, case.run(delta_rule)[0])


def test_the_composite_backward_recomputes_the_entry_states_of_the_forward():
    from rankone.ops import _delta_rule_chunked as composite

    case = Case(batch=1, time=64 * 100, heads=1, value_heads=1, with_state=False)
    with torch.no_grad():
        inputs = composite.Inputs(*case.tokens(), None, None, None, 1.0, False, 1e-6, 64)
        (sweep,) = (sweep for _, _, sweep in composite._sweeps(inputs, DOUBLE))
        start = torch.zeros(1, 1, 5, 7, dtype=DOUBLE)
        entries = dict(sweep.entry_states_reversed(start))
    assert list(entries) == list(reversed(range(100)))
    for index in (0, 1, 57, 99):
        before = (tensor[:, : 64 * index] for tensor in case.tokens())
        _, expected = delta_rule_reference(*before, output_final_state=True)
        assert_near([entries[index]], [expected], 1e-12)
