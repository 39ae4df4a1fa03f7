"""The CUDA kernels of linear attention on a device, held to float64 on the host."""

import functools

import pytest
import torch
from rankone.ops import (
    _library,
    linear_attention,
    linear_attention_reference,
    linear_attention_step,
)
from rankone.ops._linear_attention import native_inputs

from . import cuda_cases
from .cuda_cases import (
    DEVICE,
    DTYPES,
    assert_a_graph_replays_on_new_inputs,
    assert_gradients_close,
    assert_same_bits,
    on_device,
)
from .linear_attention_cases import DECAY_FORMS, SHAPES, TOLERANCE, Case, relative_error
from .sequence_cases import layouts

pytestmark = pytest.mark.cuda

native_attention = functools.partial(linear_attention, backend="native")


def run(case, function=native_attention):
    return cuda_cases.run(case, function)


def assert_close_to_float64(case, *, function=native_attention, exact=linear_attention_reference):
    cuda_cases.assert_close_to_float64(case, function=function, exact=exact)


def token_decay(case, piece):
    return case.log_decay[:, piece] if case.decay in ("token", "channel") else case.log_decay


# Correctness.


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", DECAY_FORMS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_equals_the_recurrence(shape, form, dtype):
    assert_close_to_float64(Case(decay=form, dtype=dtype, **shape))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", DECAY_FORMS)
@pytest.mark.parametrize("shape", [SHAPES[4], SHAPES[8], SHAPES[9]])
def test_normalized_form_equals_the_recurrence(shape, form, dtype):
    assert_close_to_float64(Case(decay=form, dtype=dtype, normalize=True, **shape))


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
    exact = functools.partial(linear_attention, backend="torch")
    assert_close_to_float64(case, exact=exact)


@pytest.mark.parametrize("heads", [(1, 1), (3, 1)])
@pytest.mark.parametrize("form", DECAY_FORMS)
def test_few_heads_for_a_long_time_are_split_over_time(form, heads):
    case = Case(batch=1, time=20_000, heads=heads[0], kv_heads=heads[1], key_dim=64, value_dim=48,
                decay=form, dtype=torch.bfloat16)  # fmt: skip
    exact = functools.partial(linear_attention, backend="torch")
    assert_close_to_float64(case, exact=exact)


@pytest.mark.parametrize("form", DECAY_FORMS)
def test_packed_sequences_of_one_head_are_split_over_time(form):
    offsets = (0, 9000, 9000, 9001, 20_000)
    case = Case(batch=1, time=20_000, heads=1, kv_heads=1, key_dim=32, value_dim=32, decay=form,
                dtype=torch.bfloat16, cu_seqlens=offsets)  # fmt: skip
    exact = functools.partial(linear_attention, backend="torch")
    assert_close_to_float64(case, exact=exact)


@pytest.mark.parametrize("chunk_size", [16, 32, 64, 128])
@pytest.mark.parametrize("form", DECAY_FORMS)
def test_chunk_size_changes_rounding_only(form, chunk_size):
    case = Case(time=150, decay=form, dtype=torch.float32, key_dim=24, value_dim=40)
    function = functools.partial(native_attention, chunk_size=chunk_size)
    assert_close_to_float64(case, function=function)


@pytest.mark.parametrize("gate", [-1e4, float("-inf")])
@pytest.mark.parametrize("form", ["head", "token", "channel"])
def test_vanishing_decays_reset_the_state(form, gate):
    case = Case(time=100, decay=form, dtype=torch.bfloat16, key_dim=20, value_dim=20)
    case.log_decay = torch.full_like(case.log_decay, gate).requires_grad_()
    results, gradients = run(on_device(case))
    expected, expected_gradients = run(case.in_double(), linear_attention_reference)
    assert relative_error(results[0].cpu(), expected[0]) <= TOLERANCE[case.dtype]
    # exp has slope 0 at -inf, where autograd through the recurrence says 0 * inf.
    expected_gradients = [gradient.nan_to_num() for gradient in expected_gradients]
    assert_gradients_close(case, gradients, expected_gradients)


@pytest.mark.parametrize("form", ["token", "channel"])
def test_one_reset_restarts_the_sequence(form):
    case = Case(time=100, decay=form, dtype=torch.float32, with_state=False)
    case.log_decay = case.log_decay.detach().clone()
    case.log_decay[:, 41] = -torch.inf
    moved = on_device(case)
    whole, _ = moved.run(native_attention)
    piece = slice(41, 100)
    fresh, _ = native_attention(
        moved.q[:, piece], moved.k[:, piece], moved.v[:, piece], moved.log_decay[:, piece]
    )
    assert relative_error(whole[:, piece], fresh) <= TOLERANCE[torch.float32]


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", DECAY_FORMS)
def test_steps_equal_the_recurrence(form, dtype, normalize):
    case = Case(time=20, heads=6, kv_heads=2, key_dim=40, value_dim=72, decay=form, dtype=dtype,
                normalize=normalize)  # fmt: skip
    expected = case.in_double().run(linear_attention_reference)
    moved = on_device(case)
    state, outputs = moved.state, []
    for t in range(case.time):
        output, state = linear_attention_step(
            moved.q[:, t], moved.k[:, t], moved.v[:, t], state, token_decay(moved, t),
            normalize=normalize,
        )  # fmt: skip
        outputs.append(output)
    assert outputs[0].dtype == dtype
    assert relative_error(torch.stack(outputs, 1).cpu(), expected[0]) <= TOLERANCE[dtype]
    states = state if normalize else (state,)
    for measured, wanted in zip(states, expected[1:], strict=True):
        assert relative_error(measured.cpu(), wanted) <= TOLERANCE[torch.float32]


@pytest.mark.parametrize("batch", [1, 64, 300])
def test_step_serves_any_batch_and_leaves_its_state_as_it_was(batch):
    case = Case(batch=batch, time=1, heads=8, kv_heads=8, key_dim=128, value_dim=128, decay="token",
                dtype=torch.bfloat16)  # fmt: skip
    moved = on_device(case)
    before = moved.state.detach().clone()
    output, state = linear_attention_step(
        moved.q[:, 0], moved.k[:, 0], moved.v[:, 0], moved.state, moved.log_decay[:, 0]
    )
    expected = case.in_double().run(linear_attention_reference)
    assert relative_error(output.cpu(), expected[0][:, 0]) <= TOLERANCE[torch.bfloat16]
    assert relative_error(state.cpu(), expected[1]) <= TOLERANCE[torch.float32]
    assert torch.equal(moved.state, before)


def test_state_carries_from_a_call_into_steps_and_back():
    case = Case(time=100, decay="token", dtype=torch.float32, key_dim=24, value_dim=40)
    moved = on_device(case)
    whole, final = moved.run(native_attention)
    first, middle, last = slice(0, 64), 64, slice(65, 100)
    output, state = native_attention(
        moved.q[:, first], moved.k[:, first], moved.v[:, first], moved.log_decay[:, first],
        initial_state=moved.state, output_final_state=True,
    )  # fmt: skip
    one, state = linear_attention_step(
        moved.q[:, middle], moved.k[:, middle], moved.v[:, middle], state,
        moved.log_decay[:, middle],
    )  # fmt: skip
    rest, state = native_attention(
        moved.q[:, last], moved.k[:, last], moved.v[:, last], moved.log_decay[:, last],
        initial_state=state, output_final_state=True,
    )  # fmt: skip
    pieces = torch.cat([output, one[:, None], rest], 1)
    assert relative_error(pieces, whole) <= TOLERANCE[torch.float32]
    assert relative_error(state, final) <= TOLERANCE[torch.float32]


@pytest.mark.parametrize("form", DECAY_FORMS)
def test_any_strides_are_read(form):
    case = on_device(Case(time=50, heads=4, kv_heads=2, key_dim=9, value_dim=11, decay=form,
                          dtype=torch.bfloat16))  # fmt: skip
    expected = case.run(native_attention)
    for layout in layouts():
        q, k, v = (layout(tensor.detach()) for tensor in (case.q, case.k, case.v))
        decay = case.log_decay
        decay = layout(decay.detach()) if form in ("token", "channel") else decay
        results = native_attention(
            q, k, v, decay, initial_state=case.state, output_final_state=True
        )
        assert_same_bits(results, expected)


@pytest.mark.parametrize("normalize", [False, True])
def test_empty_sequence_returns_its_state(normalize):
    case = on_device(Case(time=0, decay="token", normalize=normalize, dtype=torch.float32))
    output, *state = case.run(native_attention)
    assert output.shape == (2, 0, 2, 7)
    assert all(torch.equal(a, b) for a, b in zip(state, case.states(), strict=True))


def test_composite_code_on_the_device_equals_the_kernels():
    case = Case(time=130, heads=6, kv_heads=2, decay="channel", dtype=torch.float32)
    composite = functools.partial(linear_attention, backend="torch")
    assert_close_to_float64(case, function=composite)


def test_float64_has_no_kernels_and_says_so():
    case = on_device(Case())
    with pytest.raises(RuntimeError, match=r"backend='native'.*float64.*cuda"):
        case.run(native_attention)


def test_autocast_casts_queries_keys_and_values():
    case = on_device(Case(decay="token", dtype=torch.float32))
    with torch.autocast(DEVICE.type, torch.bfloat16):
        output, state = case.run(native_attention)
    short = [tensor.to(torch.bfloat16) for tensor in (case.q, case.k, case.v)]
    expected, expected_state = native_attention(
        *short, case.log_decay, initial_state=case.state, output_final_state=True
    )
    assert torch.equal(output, expected)
    assert torch.equal(state, expected_state)


# What a kernel of this library promises beside its numbers.


@pytest.mark.parametrize(
    "shape",
    [
        {"time": 300, "heads": 6, "kv_heads": 2},
        {"time": 20_000, "batch": 1, "heads": 1, "kv_heads": 1},
    ],
)
@pytest.mark.parametrize("form", DECAY_FORMS)
def test_the_same_input_gives_the_same_bits(form, shape):
    case = on_device(Case(key_dim=40, value_dim=72, decay=form, dtype=torch.bfloat16, **shape))
    first = run(case)
    for _ in range(2):
        again = run(case)
        for one, other in zip(first, again, strict=True):
            assert_same_bits(one, other)


@pytest.mark.parametrize(
    "shape", [{"time": 200}, {"time": 5000, "batch": 1, "heads": 1, "kv_heads": 1}]
)
@pytest.mark.parametrize("form", DECAY_FORMS)
def test_forward_replays_from_a_graph_on_new_inputs(form, shape):
    case = on_device(Case(decay=form, dtype=torch.bfloat16, key_dim=64, value_dim=64, **shape))
    assert_a_graph_replays_on_new_inputs(
        lambda: case.run(native_attention), (case.q, case.k, case.v)
    )


@pytest.mark.parametrize("form", DECAY_FORMS)
def test_step_replays_from_a_graph_on_new_inputs(form):
    case = on_device(Case(time=1, decay=form, dtype=torch.bfloat16, key_dim=64, value_dim=64))
    arguments = (case.q[:, 0], case.k[:, 0], case.v[:, 0], case.state, token_decay(case, 0))
    assert_a_graph_replays_on_new_inputs(
        lambda: linear_attention_step(*arguments), (case.q, case.k, case.v, case.state)
    )


@pytest.mark.parametrize("form", DECAY_FORMS)
def test_compiles_without_a_graph_break(form):
    case = on_device(Case(time=70, decay=form, dtype=torch.float32))
    compiled = torch.compile(native_attention, fullgraph=True, backend="aot_eager")
    first, second = run(case, compiled), run(case)
    for one, other in zip(first, second, strict=True):
        assert_same_bits(one, other)


def test_compiles_through_the_default_backend():
    case = on_device(Case(time=70, decay="token", dtype=torch.float32))
    compiled = torch.compile(lambda *a, **k: 2 * native_attention(*a, **k)[0], fullgraph=True)
    arguments = (case.q, case.k, case.v, case.log_decay)
    expected = 2 * native_attention(*arguments)[0]
    assert relative_error(compiled(*arguments), expected) <= TOLERANCE[torch.float32]


def test_step_compiles_without_a_graph_break():
    case = on_device(Case(time=1, dtype=torch.float32))
    compiled = torch.compile(linear_attention_step, fullgraph=True, backend="aot_eager")
    arguments = (case.q[:, 0], case.k[:, 0], case.v[:, 0], case.state)
    for one, other in zip(compiled(*arguments), linear_attention_step(*arguments), strict=True):
        assert torch.equal(one, other)


def test_kernels_run_on_the_current_stream():
    case = on_device(Case(time=3000, heads=4, kv_heads=4, key_dim=64, value_dim=64, decay="token",
                          dtype=torch.bfloat16))  # fmt: skip
    cuda_cases.assert_runs_on_the_current_stream(case, native_attention, case.v)


@pytest.mark.parametrize("form", DECAY_FORMS)
def test_nothing_waits_for_the_device(form):
    case = on_device(Case(batch=1, time=500, decay=form, cu_seqlens=(0, 200, 500),
                          dtype=torch.bfloat16))  # fmt: skip
    cuda_cases.assert_does_not_wait_for_the_device(case, native_attention)


def test_backward_keeps_nothing_that_grows_beyond_its_results():
    def extra(time):
        case = on_device(Case(batch=1, time=time, heads=8, kv_heads=8, key_dim=64, value_dim=64,
                              dtype=torch.bfloat16, with_state=False))  # fmt: skip
        return cuda_cases.peak_of_a_training_call(
            lambda: native_attention(case.q, case.k, case.v)[0], (case.q, case.k, case.v)
        )

    extra(1024)
    tensor = 8 * 64 * 2
    growth = (extra(65_536) - extra(32_768)) / 32_768
    # The output, dq, dk and dv; one more for rounding to the allocator's blocks.
    assert growth <= 5 * tensor


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_kernels_run_on_the_device_of_their_tensors():
    case = Case(time=70, decay="token", dtype=torch.float32)
    other = torch.device("cuda", 1)
    tensors = [x.detach().to(other) for x in (case.q, case.k, case.v, case.log_decay)]
    output, _ = native_attention(*tensors)
    expected, _ = linear_attention_reference(case.q, case.k, case.v, case.log_decay)
    assert output.device == other
    assert relative_error(output.cpu(), expected) <= TOLERANCE[torch.float32]


# Bad input.


BAD_ARGUMENTS = (
    ({"q": lambda c: c.q[0]}, r"q must be"),
    ({"k": lambda c: c.k[:, :-1]}, r"k must"),
    ({"v": lambda c: c.v.float()}, r"dtype"),
    ({"k": lambda c: c.k.cpu()}, r"device"),
    ({"log_decay": lambda c: c.log_decay.cpu()}, r"device"),
    ({"log_decay": lambda c: c.log_decay[:, :-1]}, r"log_decay must have shape"),
    ({"initial_state": lambda c: c.state[:, :, :-1]}, r"initial_state"),
    ({"cu_seqlens": lambda c: torch.tensor([0, 37], device=DEVICE)}, r"batch size must be 1"),
    ({"chunk_size": lambda c: 48}, r"chunk_size must be one of"),
)


@pytest.mark.parametrize(("change", "message"), BAD_ARGUMENTS)
def test_bad_input_raises_before_a_kernel_starts(monkeypatch, change, message):
    case = on_device(Case(decay="token", dtype=torch.bfloat16))
    arguments = {
        "q": case.q, "k": case.k, "v": case.v, "log_decay": case.log_decay,
        "initial_state": case.state,
    }  # fmt: skip
    arguments |= {name: make(case) for name, make in change.items()}
    cuda_cases.forbid_kernels(monkeypatch)
    with pytest.raises((ValueError, TypeError), match=message):
        native_attention(**arguments)


BAD_VALUES = (
    ({"log_decay": lambda c: -c.log_decay}, r"log_decay"),
    ({"log_decay": lambda c: torch.full_like(c.log_decay, torch.nan)}, r"log_decay"),
    ({"cu_seqlens": lambda c: torch.tensor([0, 30, 20, 37], device=DEVICE)}, r"cu_seqlens"),
    ({"cu_seqlens": lambda c: torch.tensor([0, 30], device=DEVICE)}, r"cu_seqlens"),
)


@pytest.mark.parametrize(("change", "message"), BAD_VALUES)
def test_values_are_read_where_the_environment_asks_for_it(monkeypatch, change, message):
    case = on_device(Case(batch=1, decay="token", dtype=torch.bfloat16))
    arguments = {"q": case.q, "k": case.k, "v": case.v, "log_decay": case.log_decay}
    monkeypatch.setenv("RANKONE_CHECK_VALUES", "1")
    native_attention(**arguments)
    arguments |= {name: make(case) for name, make in change.items()}
    cuda_cases.forbid_kernels(monkeypatch)
    with pytest.raises(ValueError, match=message):
        native_attention(**arguments)


def test_a_refused_call_leaves_the_process_usable():
    case = Case(time=70, decay="token", dtype=torch.float32)
    moved = on_device(case)
    native = _library.native_for("linear_attention", moved.q.device, torch.float32)
    numbers, alive = native_inputs(
        moved.q, moved.k, moved.v, moved.log_decay, moved.state, None, 0.5, False, 0
    )
    sizes, (_, *options), *rest = numbers
    float64 = 1
    output = torch.empty(2, 70, 2, 7, device=DEVICE)
    state = torch.empty(2, 2, 5, 7, device=DEVICE)
    with pytest.raises(ValueError, match=r"dtype.*float64"):
        _library.call(
            native, "linear_attention_forward", output,
            sizes, (float64, *options), *rest,
            (output.data_ptr(), state.data_ptr()),
        )  # fmt: skip
    del alive
    assert_close_to_float64(case)


def test_a_failed_allocation_leaves_the_process_usable():
    case = Case(time=70, decay="token", dtype=torch.float32)
    q = torch.zeros(1, 1, 1, 1, device=DEVICE).expand(2**20, 2**20, 1, 256)
    with pytest.raises(torch.OutOfMemoryError):
        native_attention(q, q, q)
    assert_close_to_float64(case)
