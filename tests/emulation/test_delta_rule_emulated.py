"""The delta rule's CUDA kernels through the public op, on host memory."""

import pytest
import torch
from rankone.ops import delta_rule, delta_rule_reference, delta_rule_step

from tests.ops.delta_rule_cases import DECAY_FORMS, Case
from tests.ops.sequence_cases import (
    GRADIENT_FACTOR,
    TOLERANCE,
    decay_gradient_tolerance,
    relative_error,
)

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

SHAPES = (
    {"time": 1, "batch": 1},
    {"time": 70, "batch": 1, "heads": 1, "value_heads": 2, "key_dim": 16, "value_dim": 24},
    {"time": 64, "batch": 2, "key_dim": 7, "value_dim": 5, "largest_beta": 2.0},
    {"time": 60, "batch": 1, "cu_seqlens": (0, 17, 17, 60), "key_dim": 16, "value_dim": 8},
)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", DECAY_FORMS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join(map(str, shape.values())))
@pytest.mark.parametrize("use_qk_l2norm", [False, True])
def test_equals_the_recurrence(emulated, shape, form, dtype, use_qk_l2norm):
    emulated.set_schedule_seed(11)
    case = Case(**shape, decay=form, dtype=dtype, use_qk_l2norm=use_qk_l2norm)
    results = case.run(delta_rule)
    expected = case.in_double().run(delta_rule_reference)
    # Every write u is rounded to the dtype. In the steady state of strengths uniform below b,
    # E u^2 / E S^2 is 1 for b = 1 and 2 for b = 2, and what a write leaves decays as fast.
    allowed = TOLERANCE[dtype] * case.largest_beta**0.5
    for one, other in zip(results, expected, strict=True):
        assert relative_error(one, other) <= allowed
    gradients = case.gradients(delta_rule)
    wanted = case.in_double().gradients(delta_rule_reference)
    largest = max(float(torch.linalg.vector_norm(gradient)) for gradient in wanted)
    allowed = GRADIENT_FACTOR * TOLERANCE[dtype]
    if form != "none":
        allowed = max(allowed, decay_gradient_tolerance(shape["time"]))
    for one, other in zip(gradients, wanted, strict=True):
        difference = float(torch.linalg.vector_norm(one.double() - other))
        assert difference <= allowed * max(float(torch.linalg.vector_norm(other)), 0.05 * largest)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", DECAY_FORMS)
def test_step_equals_the_recurrence(emulated, form, dtype):
    case = Case(time=1, heads=2, value_heads=4, decay=form, dtype=dtype, key_dim=24, value_dim=33)
    decay = None if case.log_decay is None else case.log_decay[:, 0]
    tokens = (tensor[:, 0] for tensor in case.tokens())
    output, state = delta_rule_step(*tokens, case.state, log_decay=decay)
    expected, expected_state = case.in_double().run(delta_rule_reference)
    assert relative_error(output, expected[:, 0]) <= TOLERANCE[dtype]
    assert relative_error(state, expected_state) <= TOLERANCE[torch.float32]


@pytest.mark.parametrize("form", DECAY_FORMS)
def test_bits_do_not_depend_on_the_schedule(emulated, form):
    case = Case(batch=1, time=150, decay=form, dtype=torch.bfloat16, key_dim=16, value_dim=16)
    results = []
    for seed in (1, 2, 3):
        emulated.set_schedule_seed(seed)
        results.append((*case.run(delta_rule), *case.gradients(delta_rule)))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_unit_keys_and_full_strength_store_exactly(emulated):
    """With beta = 1 a key reads back what was written last, whatever the memory held before."""
    case = Case(batch=1, time=40, dtype=torch.float32, key_dim=16, value_dim=16)
    ones = torch.ones_like(case.beta)
    _, state = delta_rule(
        case.q, case.k, case.v, ones, initial_state=case.state, output_final_state=True
    )
    read = torch.einsum("bhk,bhkv->bhv", case.k[:, -1], state)
    assert relative_error(read, case.v[:, -1].double()) <= TOLERANCE[torch.float32]


def test_a_long_sequence_of_few_heads_is_split_in_time(emulated):
    case = Case(batch=1, time=1100, heads=1, value_heads=1, decay="token", dtype=torch.float32,
                key_dim=8, value_dim=8)  # fmt: skip
    expected = case.in_double().run(delta_rule_reference)
    try:
        for multiprocessors in (1, 64):
            emulated.set_multiprocessors(multiprocessors)
            for one, other in zip(case.run(delta_rule), expected, strict=True):
                assert relative_error(one, other) <= TOLERANCE[torch.float32]
    finally:
        emulated.set_multiprocessors(4)
