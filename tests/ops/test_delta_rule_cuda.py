"""The CUDA kernels of the delta rule on a device, held to float64 on the host."""

import functools

import pytest
import torch
from rankone.ops import _library, delta_rule, delta_rule_reference, delta_rule_step
from rankone.ops._delta_rule import native_inputs
from rankone.ops._delta_rule_chunked import Inputs

from . import cuda_cases
from .cuda_cases import (
    DEVICE,
    DTYPES,
    assert_a_graph_replays_on_new_inputs,
    assert_gradients_close,
    assert_same_bits,
    on_device,
)
from .delta_rule_cases import DECAY_FORMS, SHAPES, Case
from .sequence_cases import TOLERANCE, layouts, relative_error

pytestmark = pytest.mark.cuda

native_rule = functools.partial(delta_rule, backend="native")
# On the host in float64: exact to 1e-12, and faster than the recurrence on long sequences.
composite_rule = functools.partial(delta_rule, backend="torch")


def run(case, function=native_rule):
    return cuda_cases.run(case, function)


def assert_close_to_float64(case, *, function=native_rule, exact=delta_rule_reference):
    cuda_cases.assert_close_to_float64(case, function=function, exact=exact)


# Correctness.


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", DECAY_FORMS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_equals_the_recurrence(shape, form, dtype):
    assert_close_to_float64(Case(decay=form, dtype=dtype, **shape))


@pytest.mark.parametrize("dims", [(1, 256), (256, 1), (17, 31), (96, 200), (255, 129), (256, 256)])
@pytest.mark.parametrize("form", DECAY_FORMS)
def test_dims_that_fit_no_tile_are_padded_inside(form, dims):
    case = Case(time=70, key_dim=dims[0], value_dim=dims[1], batch=1, decay=form,
                dtype=torch.bfloat16)  # fmt: skip
    assert_close_to_float64(case)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", DECAY_FORMS)
def test_long_sequences_keep_their_precision(form, dtype):
    case = Case(batch=1, time=4096, key_dim=64, value_dim=64, decay=form, dtype=dtype,
                with_state=False)  # fmt: skip
    assert_close_to_float64(case, exact=composite_rule)


@pytest.mark.parametrize("form", DECAY_FORMS)
def test_negative_eigenvalues_keep_their_precision_over_long_sequences(form):
    case = Case(batch=1, time=4096, key_dim=64, value_dim=64, decay=form, dtype=torch.bfloat16,
                largest_beta=2.0)  # fmt: skip
    assert_close_to_float64(case, exact=composite_rule)


@pytest.mark.parametrize("heads", [(1, 1), (1, 3)])
@pytest.mark.parametrize("form", DECAY_FORMS)
def test_few_heads_for_a_long_time_equal_the_recurrence(form, heads):
    case = Case(batch=1, time=20_000, heads=heads[0], value_heads=heads[1], key_dim=64,
                value_dim=48, decay=form, dtype=torch.bfloat16)  # fmt: skip
    assert_close_to_float64(case, exact=composite_rule)


@pytest.mark.parametrize("form", DECAY_FORMS)
def test_packed_sequences_of_one_head_equal_the_recurrence(form):
    offsets = (0, 9000, 9000, 9001, 20_000)
    case = Case(batch=1, time=20_000, heads=1, value_heads=1, key_dim=32, value_dim=32, decay=form,
                dtype=torch.bfloat16, cu_seqlens=offsets)  # fmt: skip
    assert_close_to_float64(case, exact=composite_rule)


@pytest.mark.parametrize("chunk_size", [16, 32, 64])
@pytest.mark.parametrize("form", DECAY_FORMS)
def test_chunk_size_changes_rounding_only(form, chunk_size):
    case = Case(time=150, decay=form, dtype=torch.float32, key_dim=24, value_dim=40)
    assert_close_to_float64(case, function=functools.partial(native_rule, chunk_size=chunk_size))


@pytest.mark.parametrize("form", DECAY_FORMS)
def test_the_recurrent_mode_equals_the_recurrence(form):
    case = Case(time=40, decay=form, dtype=torch.float32, value_heads=4, use_qk_l2norm=True)
    assert_close_to_float64(case, function=functools.partial(native_rule, mode="recurrent"))


@pytest.mark.parametrize("gate", [-1e4, float("-inf")])
@pytest.mark.parametrize("form", DECAY_FORMS[1:])
def test_vanishing_decays_reset_the_state(form, gate):
    case = Case(time=100, decay=form, dtype=torch.bfloat16, key_dim=20, value_dim=20)
    case.log_decay = torch.full_like(case.log_decay, gate).requires_grad_()
    results, gradients = run(on_device(case))
    expected, expected_gradients = run(case.in_double(), delta_rule_reference)
    assert relative_error(results[0].cpu(), expected[0]) <= TOLERANCE[case.dtype]
    # exp has slope 0 at -inf, where autograd through the recurrence says 0 * inf.
    expected_gradients = [gradient.nan_to_num() for gradient in expected_gradients]
    assert_gradients_close(case, gradients, expected_gradients)


@pytest.mark.parametrize("form", DECAY_FORMS[1:])
def test_one_reset_restarts_the_sequence(form):
    case = Case(time=100, decay=form, dtype=torch.float32, with_state=False)
    case.log_decay = case.log_decay.detach().clone()
    case.log_decay[:, 41] = -torch.inf
    moved = on_device(case)
    whole, _ = moved.run(native_rule)
    *tokens, decay = moved.at(slice(41, 100))
    fresh, _ = native_rule(*tokens, log_decay=decay)
    assert relative_error(whole[:, 41:], fresh) <= TOLERANCE[torch.float32]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_small_residual_of_large_numbers_survives(dtype):
    """The state predicts 4098 for a value of 4096; both dtypes round 4098 to 4096."""
    one = torch.ones(1, 1, 1, 1, dtype=dtype, device=DEVICE)
    state = torch.full((1, 1, 1, 1), 4098.0, device=DEVICE)
    _, state = native_rule(
        one, one, 4096 * one, one[..., 0].float(), initial_state=state, output_final_state=True
    )
    assert state.item() == 4096


def test_a_state_beyond_the_range_of_float16_is_read():
    one = torch.ones(1, 1, 1, 1, dtype=torch.float16, device=DEVICE)
    state = torch.full((1, 1, 1, 1), 1e6, device=DEVICE)
    output, state = native_rule(
        one, one, 0 * one, torch.zeros(1, 1, 1, device=DEVICE), initial_state=state, scale=1e-4,
        output_final_state=True,
    )  # fmt: skip
    assert output.item() == pytest.approx(100, rel=TOLERANCE[torch.float16])
    assert state.item() == 1e6


def test_100000_reflections_keep_the_norm():
    """Each reflection by a rounded key errs by a few 2**-24, and the errors walk at random."""
    time = 100_000
    case = on_device(Case(batch=1, time=time, heads=1, value_heads=1, key_dim=16, value_dim=16,
                          dtype=torch.float32))  # fmt: skip
    _, state = native_rule(
        case.q, case.k, torch.zeros_like(case.v), torch.full_like(case.beta, 2.0),
        initial_state=case.state, output_final_state=True,
    )  # fmt: skip
    ratio = (state.norm() / case.state.norm()).item()
    assert ratio == pytest.approx(1, abs=time**0.5 * 2**-23)


# Steps.


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", DECAY_FORMS)
def test_steps_equal_the_recurrence(form, dtype, inplace):
    case = Case(time=20, heads=2, value_heads=6, key_dim=40, value_dim=72, decay=form, dtype=dtype,
                use_qk_l2norm=True)  # fmt: skip
    expected = case.in_double().run(delta_rule_reference)
    moved = on_device(case)
    state, outputs = moved.state.detach().clone(), []
    with torch.no_grad():
        for t in range(case.time):
            *token, decay = moved.at(t)
            output, state = delta_rule_step(
                *token, state, log_decay=decay, use_qk_l2norm=True, inplace=inplace
            )
            outputs.append(output)
    assert outputs[0].dtype == dtype
    assert relative_error(torch.stack(outputs, 1).cpu(), expected[0]) <= TOLERANCE[dtype]
    assert relative_error(state.cpu(), expected[1]) <= TOLERANCE[torch.float32]


@pytest.mark.parametrize("batch", [1, 64, 300])
def test_step_serves_any_batch_and_leaves_its_state_as_it_was(batch):
    case = Case(batch=batch, time=1, heads=4, value_heads=8, key_dim=128, value_dim=128,
                decay="token", dtype=torch.bfloat16)  # fmt: skip
    moved = on_device(case)
    before = moved.state.detach().clone()
    *token, decay = moved.at(0)
    output, state = delta_rule_step(*token, moved.state, log_decay=decay)
    expected = case.in_double().run(delta_rule_reference)
    assert relative_error(output.cpu(), expected[0][:, 0]) <= TOLERANCE[torch.bfloat16]
    assert relative_error(state.cpu(), expected[1]) <= TOLERANCE[torch.float32]
    assert torch.equal(moved.state, before)


def test_state_carries_from_a_call_into_steps_and_back():
    case = Case(time=100, decay="token", dtype=torch.float32, key_dim=24, value_dim=40)
    moved = on_device(case)
    whole, final = moved.run(native_rule)
    state, pieces = moved.state, []
    for piece in (slice(0, 64), 64, slice(65, 100)):
        *tokens, decay = moved.at(piece)
        if isinstance(piece, int):
            output, state = delta_rule_step(*tokens, state, log_decay=decay)
            output = output[:, None]
        else:
            output, state = native_rule(
                *tokens, log_decay=decay, initial_state=state, output_final_state=True
            )
        pieces.append(output)
    assert relative_error(torch.cat(pieces, 1), whole) <= TOLERANCE[torch.float32]
    assert relative_error(state, final) <= TOLERANCE[torch.float32]


# Layouts and edges.


@pytest.mark.parametrize("form", DECAY_FORMS)
def test_any_strides_are_read(form):
    case = on_device(Case(time=50, heads=2, value_heads=4, key_dim=9, value_dim=11, decay=form,
                          dtype=torch.bfloat16))  # fmt: skip
    expected = case.run(native_rule)
    for layout in layouts():
        tokens = [layout(tensor.detach()) for tensor in case.tokens()]
        decay = None if case.log_decay is None else layout(case.log_decay.detach())
        results = native_rule(
            *tokens, log_decay=decay, initial_state=case.state, output_final_state=True
        )
        assert_same_bits(results, expected)


def test_empty_sequence_returns_its_state():
    case = on_device(Case(time=0, decay="token", dtype=torch.float32))
    output, state = case.run(native_rule)
    assert output.shape == (2, 0, 2, 7)
    assert torch.equal(state, case.state)


def test_composite_code_on_the_device_equals_the_kernels():
    case = Case(time=130, heads=2, value_heads=6, decay="channel", dtype=torch.float32)
    assert_close_to_float64(case, function=composite_rule)


def test_float64_has_no_kernels_and_says_so():
    case = on_device(Case())
    with pytest.raises(RuntimeError, match=r"backend='native'.*float64.*cuda"):
        case.run(native_rule)


def test_autocast_casts_queries_keys_and_values():
    case = on_device(Case(decay="token", dtype=torch.float32))
    with torch.autocast(DEVICE.type, torch.bfloat16):
        results = case.run(native_rule)
    case.q, case.k, case.v = (x.to(torch.bfloat16) for x in (case.q, case.k, case.v))
    assert_same_bits(results, case.run(native_rule))


# What a kernel of this library promises beside its numbers.


@pytest.mark.parametrize(
    "shape",
    [
        {"time": 300, "heads": 2, "value_heads": 6},
        {"time": 20_000, "batch": 1, "heads": 1, "value_heads": 1},
    ],
)
@pytest.mark.parametrize("form", DECAY_FORMS)
def test_the_same_input_gives_the_same_bits(form, shape):
    case = on_device(Case(key_dim=40, value_dim=72, decay=form, dtype=torch.bfloat16, **shape))
    first = run(case)
    for _ in range(2):
        for one, other in zip(first, run(case), strict=True):
            assert_same_bits(one, other)


@pytest.mark.parametrize("form", DECAY_FORMS)
@pytest.mark.parametrize("changed", [1, 15, 16, 64, 99])
def test_outputs_before_a_changed_token_keep_their_bits(changed, form):
    case = on_device(Case(time=100, decay=form, dtype=torch.bfloat16, key_dim=24, value_dim=40))
    before, _ = case.run(native_rule)
    with torch.no_grad():
        for tensor in case.tokens():
            tensor[:, changed] += 1
        if case.log_decay is not None:
            case.log_decay[:, changed] -= 1
    after, _ = case.run(native_rule)
    assert torch.equal(after[:, :changed], before[:, :changed])
    assert not torch.equal(after[:, changed], before[:, changed])


@pytest.mark.parametrize(
    "shape", [{"time": 200}, {"time": 5000, "batch": 1, "heads": 1, "value_heads": 1}]
)
@pytest.mark.parametrize("form", DECAY_FORMS)
def test_forward_replays_from_a_graph_on_new_inputs(form, shape):
    # Normal keys would let the state grow without bound: the op normalises them.
    case = on_device(Case(decay=form, dtype=torch.bfloat16, key_dim=64, value_dim=64,
                          use_qk_l2norm=True, **shape))  # fmt: skip
    assert_a_graph_replays_on_new_inputs(lambda: case.run(native_rule), (case.q, case.k, case.v))


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("form", DECAY_FORMS)
def test_step_replays_from_a_graph_on_new_inputs(form, inplace):
    case = on_device(Case(time=1, decay=form, dtype=torch.bfloat16, key_dim=64, value_dim=64))
    *token, decay = (None if x is None else x.detach() for x in case.at(0))
    state = case.state.detach()
    kept = torch.empty_like(state)

    def step():
        kept.copy_(state)
        return delta_rule_step(*token, kept, log_decay=decay, inplace=inplace)

    assert_a_graph_replays_on_new_inputs(step, (*token[:3], state))


@pytest.mark.parametrize("form", DECAY_FORMS)
def test_compiles_without_a_graph_break(form):
    case = on_device(Case(time=70, decay=form, dtype=torch.float32))
    compiled = torch.compile(native_rule, fullgraph=True, backend="aot_eager")
    for one, other in zip(run(case, compiled), run(case), strict=True):
        assert_same_bits(one, other)


def test_compiles_through_the_default_backend():
    case = on_device(Case(time=70, decay="token", dtype=torch.float32))
    compiled = torch.compile(lambda *a, **k: 2 * native_rule(*a, **k)[0], fullgraph=True)
    measured = compiled(*case.tokens(), log_decay=case.log_decay)
    expected = 2 * native_rule(*case.tokens(), log_decay=case.log_decay)[0]
    assert relative_error(measured, expected) <= TOLERANCE[torch.float32]


@pytest.mark.parametrize("inplace", [False, True])
def test_step_compiles_without_a_graph_break(inplace):
    case = on_device(Case(time=1, dtype=torch.float32))
    compiled = torch.compile(delta_rule_step, fullgraph=True, backend="aot_eager")
    *token, _ = case.at(0)
    with torch.no_grad():
        first, second = (
            function(*token, case.state.detach().clone(), inplace=inplace)
            for function in (compiled, delta_rule_step)
        )
    assert_same_bits(first, second)


def test_kernels_run_on_the_current_stream():
    case = on_device(Case(time=3000, heads=4, value_heads=4, key_dim=64, value_dim=64,
                          decay="token", dtype=torch.bfloat16))  # fmt: skip
    cuda_cases.assert_runs_on_the_current_stream(case, native_rule, case.v)


@pytest.mark.parametrize("form", DECAY_FORMS)
def test_nothing_waits_for_the_device(form):
    case = on_device(Case(batch=1, time=500, decay=form, cu_seqlens=(0, 200, 500),
                          dtype=torch.bfloat16))  # fmt: skip
    cuda_cases.assert_does_not_wait_for_the_device(case, native_rule)


def test_backward_keeps_nothing_that_grows_beyond_its_results():
    heads, dim = 8, 64

    def extra(time):
        case = on_device(Case(batch=1, time=time, heads=heads, value_heads=heads, key_dim=dim,
                              value_dim=dim, dtype=torch.bfloat16, with_state=False))  # fmt: skip
        return cuda_cases.peak_of_a_training_call(
            lambda: native_rule(*case.tokens())[0], case.tokens()
        )

    extra(1024)
    growth = (extra(65_536) - extra(32_768)) / 32_768
    # A token of the output, dq, dk and dv, of their fp32 parts where heads are grouped, and of
    # beta; a state of a chunk of 64 would be 512 bytes a token and head more.
    assert growth <= heads * (4 * 2 * dim + 2 * 4 * dim + 4 * 4)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_kernels_run_on_the_device_of_their_tensors():
    case = Case(time=70, decay="token", dtype=torch.float32)
    other = torch.device("cuda", 1)
    *tokens, decay = (x.detach().to(other) for x in (*case.tokens(), case.log_decay))
    output, _ = native_rule(*tokens, log_decay=decay)
    expected, _ = delta_rule_reference(*case.tokens(), log_decay=case.log_decay)
    assert output.device == other
    assert relative_error(output.cpu(), expected) <= TOLERANCE[torch.float32]


# Bad input.


def wide(tensor):
    return torch.cat([tensor] * 52, -1)


BAD_ARGUMENTS = (
    ({"q": lambda c: c.q[0]}, r"q must be"),
    ({"k": lambda c: c.k[:, :-1]}, r"k must"),
    ({"v": lambda c: c.v.float()}, r"dtype"),
    ({"k": lambda c: c.k.cpu()}, r"device"),
    ({"beta": lambda c: c.beta.cpu()}, r"device"),
    ({"beta": lambda c: c.beta[..., None]}, r"beta must have shape"),
    ({"log_decay": lambda c: c.log_decay.cpu()}, r"device"),
    ({"log_decay": lambda c: c.log_decay[:, :-1]}, r"log_decay must have shape"),
    ({"initial_state": lambda c: c.state[:, :, :-1]}, r"initial_state"),
    ({"cu_seqlens": lambda c: torch.tensor([0, 37], device=DEVICE)}, r"batch size must be 1"),
    ({"chunk_size": lambda c: 48}, r"chunk_size must be one of"),
    ({"q": lambda c: wide(c.q), "k": lambda c: wide(c.k)}, r"q must be between 1 and 256"),
    ({"v": lambda c: wide(c.v)}, r"v must be between 1 and 256"),
)


@pytest.mark.parametrize(("change", "message"), BAD_ARGUMENTS)
def test_bad_input_raises_before_a_kernel_starts(monkeypatch, change, message):
    case = on_device(Case(decay="token", dtype=torch.bfloat16))
    arguments = {
        "q": case.q, "k": case.k, "v": case.v, "beta": case.beta, "log_decay": case.log_decay,
        "initial_state": case.state,
    }  # fmt: skip
    arguments |= {name: make(case) for name, make in change.items()}
    cuda_cases.forbid_kernels(monkeypatch)
    with pytest.raises((ValueError, TypeError), match=message):
        native_rule(**arguments)


BAD_VALUES = (
    ({"beta": lambda c: torch.full_like(c.beta, torch.inf)}, r"beta must be finite"),
    ({"beta": lambda c: torch.full_like(c.beta, torch.nan)}, r"beta must be finite"),
    ({"log_decay": lambda c: -c.log_decay}, r"log_decay"),
    ({"log_decay": lambda c: torch.full_like(c.log_decay, torch.nan)}, r"log_decay"),
    ({"cu_seqlens": lambda c: torch.tensor([0, 30, 20, 37], device=DEVICE)}, r"cu_seqlens"),
    ({"cu_seqlens": lambda c: torch.tensor([0, 30], device=DEVICE)}, r"cu_seqlens"),
)


@pytest.mark.parametrize(("change", "message"), BAD_VALUES)
def test_values_are_read_where_the_environment_asks_for_it(monkeypatch, change, message):
    case = on_device(Case(batch=1, decay="token", dtype=torch.bfloat16))
    arguments = {
        "q": case.q, "k": case.k, "v": case.v, "beta": case.beta, "log_decay": case.log_decay
    }  # fmt: skip
    monkeypatch.setenv("RANKONE_CHECK_VALUES", "1")
    native_rule(**arguments)
    arguments |= {name: make(case) for name, make in change.items()}
    cuda_cases.forbid_kernels(monkeypatch)
    with pytest.raises(ValueError, match=message):
        native_rule(**arguments)


def test_a_refused_call_leaves_the_process_usable():
    case = Case(time=70, decay="token", dtype=torch.float32)
    moved = on_device(case)
    native = _library.native_for("delta_rule", moved.q.device, torch.float32)
    numbers, alive = native_inputs(
        Inputs(*moved.tokens(), moved.log_decay, moved.state, None, 0.5, False, 1e-6, 0)
    )
    sizes, (_, *options), *rest = numbers
    float64 = 1
    output = torch.empty(2, 70, 2, 7, device=DEVICE)
    state = torch.empty(2, 2, 5, 7, device=DEVICE)
    with pytest.raises(ValueError, match=r"dtype.*float64"):
        _library.call(
            native, "delta_rule_forward", output,
            sizes, (float64, *options), *rest, (output.data_ptr(), state.data_ptr()),
        )  # fmt: skip
    del alive
    assert_close_to_float64(case)


def test_a_failed_allocation_leaves_the_process_usable():
    case = Case(time=70, decay="token", dtype=torch.float32)
    q = torch.zeros(1, 1, 1, 1, device=DEVICE).expand(2**20, 2**20, 1, 256)
    with pytest.raises(torch.OutOfMemoryError):
        native_rule(q, q, q, q[..., 0])
    assert_close_to_float64(case)
