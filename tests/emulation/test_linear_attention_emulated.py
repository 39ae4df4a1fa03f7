"""The CUDA kernels through the public op, on host memory: what a GPU user calls, without a GPU."""

import pytest
import torch
from rankone.ops import linear_attention, linear_attention_reference, linear_attention_step

from tests.ops.linear_attention_cases import (
    DECAY_FORMS,
    GRADIENT_FACTOR,
    TOLERANCE,
    Case,
    decay_gradient_tolerance,
    relative_error,
)

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

SHAPES = (
    {"time": 1, "batch": 1},
    {"time": 70, "batch": 1, "heads": 2, "kv_heads": 1, "key_dim": 16, "value_dim": 24},
    {"time": 64, "batch": 2, "key_dim": 7, "value_dim": 5},
    {"time": 60, "batch": 1, "cu_seqlens": (0, 17, 17, 60), "key_dim": 16, "value_dim": 8},
)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", DECAY_FORMS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join(map(str, shape.values())))
@pytest.mark.parametrize("normalize", [False, True])
def test_equals_the_recurrence(emulated, shape, form, dtype, normalize):
    emulated.set_schedule_seed(11)
    case = Case(**shape, decay=form, dtype=dtype, normalize=normalize)
    results = case.run(linear_attention)
    expected = case.in_double().run(linear_attention_reference)
    for one, other in zip(results, expected, strict=True):
        assert relative_error(one, other) <= TOLERANCE[dtype]
    gradients = case.gradients(linear_attention)
    wanted = case.in_double().gradients(linear_attention_reference)
    largest = max(float(torch.linalg.vector_norm(gradient)) for gradient in wanted)
    allowed = GRADIENT_FACTOR * TOLERANCE[dtype]
    if form != "none":
        allowed = max(allowed, decay_gradient_tolerance(shape["time"]))
    for one, other in zip(gradients, wanted, strict=True):
        difference = float(torch.linalg.vector_norm(one.double() - other))
        assert difference <= allowed * max(float(torch.linalg.vector_norm(other)), 0.05 * largest)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("form", DECAY_FORMS[1:])
def test_decay_gradient_of_a_long_memory_is_not_lost_to_rounding(emulated, form, dtype):
    """It sums differences that cancel; operands rounded to 16 bits would leave errors of 10 %."""
    case = Case(batch=1, time=700, heads=1, kv_heads=1, decay=form, dtype=dtype, key_dim=16,
                value_dim=16, with_state=False)  # fmt: skip
    case.log_decay = (0.02 * case.log_decay.detach()).requires_grad_()
    *_, measured = case.gradients(linear_attention)
    *_, expected = case.in_double().gradients(linear_attention, backend="torch")
    assert relative_error(measured, expected) <= GRADIENT_FACTOR * TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", DECAY_FORMS)
def test_step_equals_the_recurrence(emulated, form, dtype):
    case = Case(time=1, heads=4, decay=form, dtype=dtype, key_dim=24, value_dim=33)
    decay = case.log_decay
    decay = decay[:, 0] if form in ("token", "channel") else decay
    output, state = linear_attention_step(
        case.q[:, 0], case.k[:, 0], case.v[:, 0], case.state, decay
    )
    expected, expected_state = case.in_double().run(linear_attention_reference)
    assert relative_error(output, expected[:, 0]) <= TOLERANCE[dtype]
    assert relative_error(state, expected_state) <= TOLERANCE[torch.float32]


@pytest.mark.parametrize("form", DECAY_FORMS)
def test_bits_do_not_depend_on_the_schedule(emulated, form):
    case = Case(batch=1, time=150, decay=form, dtype=torch.bfloat16, key_dim=16, value_dim=16)
    results = []
    for seed in (1, 2, 3):
        emulated.set_schedule_seed(seed)
        results.append((*case.run(linear_attention), *case.gradients(linear_attention)))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_a_long_sequence_of_few_heads_is_split_in_time(emulated):
    case = Case(batch=1, time=1500, heads=1, kv_heads=1, decay="token", dtype=torch.float32,
                key_dim=8, value_dim=8)  # fmt: skip
    expected = case.in_double().run(linear_attention_reference)
    for multiprocessors in (1, 64):
        emulated.set_multiprocessors(multiprocessors)
        for one, other in zip(case.run(linear_attention), expected, strict=True):
            assert relative_error(one, other) <= TOLERANCE[torch.float32]
    emulated.set_multiprocessors(4)
