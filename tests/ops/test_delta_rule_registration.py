"""What torch sees of the ops: schemas, fake tensors, autograd, autocast and the compiler."""

import pytest
import torch
from rankone.ops import delta_rule, delta_rule_step

from .delta_rule_cases import DECAY_FORMS, Case
from .sequence_cases import BACKENDS, relative_error

FORWARD = torch.ops.rankone.delta_rule_fwd.default
BACKWARD = torch.ops.rankone.delta_rule_bwd.default
STEP = torch.ops.rankone.delta_rule_step.default
STEP_INPLACE = torch.ops.rankone.delta_rule_step_.default


def forward_arguments(case, *, chunk_size=0, backend="auto"):
    return (*case.tokens(), case.log_decay, case.state, case.offsets, 0.5, case.use_qk_l2norm,
            1e-6, chunk_size, backend)  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("form", DECAY_FORMS)
def test_opcheck_of_the_forward(form, backend):
    case = Case(time=20, value_heads=4, decay=form, dtype=torch.float32)
    torch.library.opcheck(FORWARD, forward_arguments(case, backend=backend))


@pytest.mark.parametrize("chunk_size", [1, 16])
def test_opcheck_of_the_forward_with_packed_sequences_and_normalisation(chunk_size):
    case = Case(batch=1, time=20, cu_seqlens=(0, 5, 20), dtype=torch.bfloat16, with_state=False,
                use_qk_l2norm=True)  # fmt: skip
    torch.library.opcheck(FORWARD, forward_arguments(case, chunk_size=chunk_size))


@pytest.mark.parametrize("form", DECAY_FORMS)
def test_opcheck_of_the_backward(form):
    case = Case(time=20, value_heads=4, decay=form, dtype=torch.float32)
    arguments = [
        argument.detach() if isinstance(argument, torch.Tensor) else argument
        for argument in forward_arguments(case)
    ]
    grad, state_grad = torch.randn(2, 20, 4, 7), torch.randn(2, 4, 5, 7)
    torch.library.opcheck(BACKWARD, (*arguments, grad, state_grad, form != "none", True))


def step_arguments(case, state):
    *token, decay = case.at(0)
    return (*token, state, decay, 0.5, False, 1e-6, "auto")


@pytest.mark.parametrize("form", DECAY_FORMS)
def test_opcheck_of_the_step(form):
    case = Case(time=1, value_heads=4, decay=form, dtype=torch.float32)
    torch.library.opcheck(STEP, step_arguments(case, case.state))
    with torch.no_grad():
        arguments = [
            argument.detach().clone() if isinstance(argument, torch.Tensor) else argument
            for argument in step_arguments(case, case.state)
        ]
    torch.library.opcheck(STEP_INPLACE, arguments)


@pytest.mark.parametrize("mode", ["chunk", "recurrent"])
@pytest.mark.parametrize("form", DECAY_FORMS)
@pytest.mark.parametrize("shape", [{}, {"batch": 1, "cu_seqlens": (0, 9, 37)}])
def test_compiles_without_a_graph_break(form, shape, mode):
    torch.compiler.reset()
    case = Case(**shape, decay=form, dtype=torch.float32)
    compiled = torch.compile(delta_rule, fullgraph=True, backend="aot_eager")
    pairs = zip(case.run(compiled, mode=mode), case.run(delta_rule, mode=mode), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    compiled_gradients = case.gradients(compiled, mode=mode)
    pairs = zip(compiled_gradients, case.gradients(delta_rule, mode=mode), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_compiles_through_the_default_backend():
    case = Case(decay="token", dtype=torch.float32)
    compiled = torch.compile(lambda *a, **k: delta_rule(*a, **k), fullgraph=True)
    for one, other in zip(case.run(compiled), case.run(delta_rule), strict=True):
        assert relative_error(one, other) <= 1e-6


@pytest.mark.parametrize("inplace", [False, True])
def test_step_compiles_without_a_graph_break(inplace):
    case = Case(time=1, dtype=torch.float32)
    with torch.no_grad():
        *token, _ = case.at(0)
        compiled = torch.compile(delta_rule_step, fullgraph=True, backend="aot_eager")
        state = case.state.clone()
        result = compiled(*token, state, inplace=inplace)
        expected = delta_rule_step(*token, case.state.clone(), inplace=inplace)
    assert all(torch.equal(one, other) for one, other in zip(result, expected, strict=True))
    assert torch.equal(state, expected[1] if inplace else case.state)


def test_autocast_casts_queries_keys_and_values_and_nothing_else():
    case = Case(decay="token", dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        output, state = case.run(delta_rule)
        mixed, _ = delta_rule(
            case.q, case.k.bfloat16(), case.v, case.beta, log_decay=case.log_decay,
            initial_state=case.state,
        )  # fmt: skip
        *token, _ = case.at(0)
        step, _ = delta_rule_step(*token, None)
    cast = [x.detach().bfloat16() for x in (case.q, case.k, case.v)]
    expected, _ = delta_rule(*cast, case.beta, log_decay=case.log_decay, initial_state=case.state)
    assert output.dtype == step.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    assert torch.equal(output, expected)
    assert torch.equal(mixed, expected)
    gradients = torch.autograd.grad(output.float().sum(), (case.q, case.beta))
    assert all(gradient.dtype == torch.float32 for gradient in gradients)


def test_double_backward_says_that_there_is_none():
    case = Case(decay="token")
    output, _ = case.run(delta_rule)
    (gradient,) = torch.autograd.grad(output.sin().sum(), case.q, create_graph=True)
    with pytest.raises(RuntimeError, match="not twice differentiable"):
        gradient.sum().backward()


def test_unneeded_gradients_are_not_returned():
    case = Case(decay="channel")
    q = case.q.detach().requires_grad_()
    k, v, beta, decay = (t.detach() for t in (case.k, case.v, case.beta, case.log_decay))
    output, _ = delta_rule(q, k, v, beta, log_decay=decay)
    output.sum().backward()
    assert q.grad is not None
    assert all(tensor.grad is None for tensor in (k, v, beta, decay))


def test_inference_mode_and_no_grad_run():
    case = Case()
    with torch.inference_mode():
        output, _ = case.run(delta_rule)
        *token, _ = case.at(0)
        state = case.state.clone()
        delta_rule_step(*token, state, inplace=True)
    assert not output.requires_grad
    assert not torch.equal(state, case.state)
