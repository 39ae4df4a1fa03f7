"""What torch sees of the ops: schemas, fake tensors, autograd, autocast and the compiler."""

import pytest
import torch
from rankone.ops import linear_attention, linear_attention_step

from .linear_attention_cases import DECAY_FORMS, Case, relative_error

FORWARD = torch.ops.rankone.linear_attention_fwd.default
BACKWARD = torch.ops.rankone.linear_attention_bwd.default
STEP = torch.ops.rankone.linear_attention_step.default


def forward_arguments(case, *, ones_column=False, backend="auto"):
    return (case.q, case.k, case.v, case.log_decay, case.state, case.offsets, 0.5, ones_column, 0,
            backend)  # fmt: skip


@pytest.mark.parametrize("backend", ["native", "torch"])
@pytest.mark.parametrize("form", DECAY_FORMS)
def test_opcheck_of_the_forward(form, backend):
    case = Case(time=20, heads=4, decay=form, dtype=torch.float32)
    torch.library.opcheck(FORWARD, forward_arguments(case, backend=backend))


def test_opcheck_of_the_forward_with_packed_sequences_and_a_ones_column():
    case = Case(batch=1, time=20, cu_seqlens=(0, 5, 20), dtype=torch.bfloat16, with_state=False)
    torch.library.opcheck(FORWARD, forward_arguments(case, ones_column=True))


@pytest.mark.parametrize("form", DECAY_FORMS)
def test_opcheck_of_the_backward(form):
    case = Case(time=20, heads=4, decay=form, dtype=torch.float32)
    tensors = [None if t is None else t.detach() for t in forward_arguments(case)[:5]]
    grad = torch.randn(2, 20, 4, 7)
    state_grad = torch.randn(2, 2, 5, 7)
    torch.library.opcheck(
        BACKWARD, (*tensors, None, grad, state_grad, 0.5, False, 0, "auto", form != "none", True)
    )


@pytest.mark.parametrize("form", DECAY_FORMS)
def test_opcheck_of_the_step(form):
    case = Case(time=1, heads=4, decay=form, dtype=torch.float32)
    decay = case.log_decay
    decay = decay[:, 0] if form in ("token", "channel") else decay
    torch.library.opcheck(
        STEP, (case.q[:, 0], case.k[:, 0], case.v[:, 0], case.state, decay, 0.5, False, "auto")
    )


@pytest.mark.parametrize("form", DECAY_FORMS)
@pytest.mark.parametrize("normalize", [False, True])
def test_compiles_without_a_graph_break(form, normalize):
    case = Case(decay=form, normalize=normalize, dtype=torch.float32)
    compiled = torch.compile(linear_attention, fullgraph=True, backend="aot_eager")
    for one, other in zip(case.run(compiled), case.run(linear_attention), strict=True):
        assert torch.equal(one, other)
    gradients = zip(case.gradients(compiled), case.gradients(linear_attention), strict=True)
    assert all(torch.equal(one, other) for one, other in gradients)


def test_compiles_through_the_default_backend():
    case = Case(decay="token", dtype=torch.float32)
    compiled = torch.compile(lambda *a, **k: linear_attention(*a, **k), fullgraph=True)
    for one, other in zip(case.run(compiled), case.run(linear_attention), strict=True):
        assert relative_error(one, other) <= 1e-6


def test_step_compiles_without_a_graph_break():
    case = Case(time=1, dtype=torch.float32)
    compiled = torch.compile(linear_attention_step, fullgraph=True, backend="aot_eager")
    arguments = (case.q[:, 0], case.k[:, 0], case.v[:, 0], case.state)
    for one, other in zip(compiled(*arguments), linear_attention_step(*arguments), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("normalize", [False, True])
def test_autocast_casts_queries_keys_and_values_and_nothing_else(normalize):
    case = Case(decay="token", dtype=torch.float32, normalize=normalize)
    with torch.autocast("cpu", torch.bfloat16):
        output, *state = case.run(linear_attention)
        mixed, *_ = linear_attention(
            case.q, case.k.bfloat16(), case.v, case.log_decay, initial_state=case.state,
            normalize=normalize,
        )  # fmt: skip
        step, _ = linear_attention_step(case.q[:, 0], case.k[:, 0], case.v[:, 0])
    cast = [x.detach().bfloat16() for x in (case.q, case.k, case.v)]
    expected, _ = linear_attention(
        *cast, case.log_decay, initial_state=case.state, normalize=normalize
    )
    assert output.dtype == step.dtype == torch.bfloat16
    assert all(part.dtype == torch.float32 for part in state)
    assert torch.equal(output, expected)
    assert torch.equal(mixed, expected)
    gradient = torch.autograd.grad(output.float().sum(), case.q)[0]
    assert gradient.dtype == torch.float32


def test_double_backward_says_that_there_is_none():
    case = Case(decay="token")
    output, _ = case.run(linear_attention)
    (gradient,) = torch.autograd.grad(output.sin().sum(), case.q, create_graph=True)
    with pytest.raises(RuntimeError, match="not twice differentiable"):
        gradient.sum().backward()


def test_unneeded_gradients_are_not_returned():
    case = Case(decay="channel")
    q = case.q.detach().requires_grad_()
    fixed = [tensor.detach() for tensor in (case.k, case.v, case.log_decay)]
    output, _ = linear_attention(q, *fixed)
    output.sum().backward()
    assert q.grad is not None
    assert all(tensor.grad is None for tensor in fixed)


def test_inference_mode_and_no_grad_run():
    case = Case()
    with torch.inference_mode():
        output, _ = linear_attention(case.q, case.k, case.v)
    assert not output.requires_grad
