"""What torch sees of the ops: schemas, fake tensors, autograd, autocast and the compiler."""

import pytest
import torch
from rankone.ops import _selective_scan_2d as family
from rankone.ops import selective_scan, selective_scan_2d, selective_scan_2d_step

from .selective_scan_2d_cases import MODES, Case
from .sequence_cases import BACKENDS, relative_error

FORWARD = torch.ops.rankone.selective_scan_2d.default
BACKWARD = torch.ops.rankone.selective_scan_2d_bwd.default
FORMS = ("cell", "group", "static", "cell")
every_mode = pytest.mark.parametrize("mode", MODES, ids="-".join)


def op_arguments(case, backend="auto", return_final_state=True):
    given = dict(case.given)
    transitions = tuple(given.pop(name) for name in ("A1", "A2", "A3", "A4"))
    vectors = tuple(given.pop(name) for name in ("B1", "B2", "C1", "C2"))
    x, dt1, dt2 = (given.pop(name) for name in ("x", "dt1", "dt2"))
    inputs = family.prepare(
        x, dt1, dt2, transitions, vectors, given.pop("D", None), **given, **case.options(),
        col_state=case.states_in[:2] or None, row_state=case.states_in[2:] or None,
    )  # fmt: skip
    options = (
        inputs.dt_softplus, inputs.discretization, inputs.structure, inputs.reverse_rows,
        inputs.reverse_cols,
    )  # fmt: skip
    return (*inputs.tensors(), *options, return_final_state, backend)


@every_mode
@pytest.mark.parametrize("backend", BACKENDS)
def test_opcheck_of_the_forward(mode, backend):
    case = Case(rows=3, columns=4, mode=mode, vectors=FORMS, dtype=torch.float32)
    torch.library.opcheck(FORWARD, op_arguments(case, backend))


@pytest.mark.parametrize("reverse", [(False, True), (True, False)])
def test_opcheck_without_states_and_extras(reverse):
    case = Case(
        rows=3, columns=4, extras=False, with_state=False, reverse=reverse, dtype=torch.float32
    )
    torch.library.opcheck(FORWARD, op_arguments(case, return_final_state=False))


def test_opcheck_of_a_transposed_input():
    """y takes the strides of x, and the fake implementation says so."""
    case = Case(rows=3, columns=4, dtype=torch.float32)
    case.given["x"] = case.given["x"].detach().movedim(-1, 1).contiguous().movedim(1, -1)
    torch.library.opcheck(FORWARD, op_arguments(case))


def test_opcheck_of_the_single_axis():
    channels, n = 4, 3
    x, dt = torch.randn(2, 5, 7, channels), torch.rand(2, 5, 7, channels)
    vectors = torch.randn(2, 2, 5, 7, 1, n)
    inputs = family.prepare(
        x, dt, None, (-torch.rand(channels, n), None, None, None),
        (vectors[0], None, vectors[1], None), None, discretization="mamba", single_axis=True,
    )  # fmt: skip
    arguments = (*inputs.tensors(), False, "mamba", "diagonal", False, False, True, "auto")
    torch.library.opcheck(FORWARD, arguments)


@every_mode
def test_opcheck_of_the_backward(mode):
    case = Case(rows=3, columns=4, mode=mode, vectors=FORMS, dtype=torch.float32)
    arguments = [
        argument.detach() if isinstance(argument, torch.Tensor) else argument
        for argument in op_arguments(case)
    ]
    *inputs, _, backend = arguments
    gradients = [torch.randn(2, 3, 4, 6), *(torch.randn(2, k, 6, 3) for k in (3, 3, 4, 4))]
    wanted = [argument is not None for argument in arguments[:20]]
    torch.library.opcheck(BACKWARD, (*inputs, backend, *gradients, wanted))


@every_mode
def test_compiles_without_a_graph_break(mode):
    torch.compiler.reset()
    case = Case(rows=3, columns=4, mode=mode, vectors=FORMS, dtype=torch.float32)
    compiled = torch.compile(selective_scan_2d, fullgraph=True, backend="aot_eager")
    pairs = zip(case.run(compiled), case.run(selective_scan_2d), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    pairs = zip(case.gradients(compiled), case.gradients(selective_scan_2d), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_the_scan_over_one_axis_and_the_step_compile_too():
    torch.compiler.reset()
    u, delta = torch.randn(2, 4, 7), torch.rand(2, 4, 7)
    vectors = torch.randn(2, 2, 3, 7)
    arguments = (u, delta, -torch.rand(4, 3), *vectors)
    compiled = torch.compile(selective_scan, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*arguments), selective_scan(*arguments))
    case = Case(columns=1, dtype=torch.float32)
    given = {
        name: tensor[:, :, 0].detach() if tensor.ndim > 2 else tensor.detach()
        for name, tensor in case.given.items()
    }
    given["x_col"] = given.pop("x")
    compiled = torch.compile(selective_scan_2d_step, fullgraph=True, backend="aot_eager")
    y, state = compiled(**given, col_state=case.states_in[:2])
    expected, expected_state = selective_scan_2d_step(**given, col_state=case.states_in[:2])
    assert torch.equal(y, expected)
    assert all(torch.equal(one, other) for one, other in zip(state, expected_state, strict=True))


def test_compiles_where_the_channels_of_x_alone_are_symbolic():
    torch.compiler.reset()
    case = Case(dtype=torch.float32)
    given = {name: t if t is None else t.detach() for name, t in case.given.items()}
    torch._dynamo.maybe_mark_dynamic(given["x"], 3)
    compiled = torch.compile(selective_scan_2d, fullgraph=True, backend="aot_eager")
    y = compiled(**given, **case.options())
    assert torch.equal(y, selective_scan_2d(**given, **case.options()))


def test_compiles_through_the_default_backend():
    case = Case(rows=3, columns=4, dtype=torch.float32)
    compiled = torch.compile(lambda **k: selective_scan_2d(**k), fullgraph=True)
    for one, other in zip(case.run(compiled), case.run(selective_scan_2d), strict=True):
        assert relative_error(one, other) <= 1e-6


def test_autocast_casts_what_lies_over_the_cells_and_nothing_else():
    case = Case(vectors=FORMS, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y, *states = case.run(selective_scan_2d)
        mixed = {**case.given, "B1": case.given["B1"].bfloat16()}
        again = selective_scan_2d(**mixed, **case.options())
    assert y.dtype == again.dtype == torch.bfloat16
    assert all(state.dtype == torch.float32 for state in states)
    cast = Case(vectors=FORMS, dtype=torch.float32)
    cast.given = {
        name: tensor.detach().bfloat16() if tensor.ndim > 2 else tensor.detach()
        for name, tensor in case.given.items()
    }
    cast.states_in = case.states_in
    expected, *expected_states = cast.run(selective_scan_2d)
    assert torch.equal(y, expected)
    assert all(torch.equal(a, b) for a, b in zip(states, expected_states, strict=True))
    gradients = torch.autograd.grad(y.float().sum(), (case.given["x"], case.given["A1"]))
    assert all(gradient.dtype == torch.float32 for gradient in gradients)


def test_double_backward_says_that_there_is_none():
    case = Case()
    y, *_ = case.run(selective_scan_2d)
    (gradient,) = torch.autograd.grad(y.sin().sum(), case.given["x"], create_graph=True)
    with pytest.raises(RuntimeError, match="not twice differentiable"):
        gradient.sum().backward()


def test_inference_mode_and_no_grad_run():
    case = Case()
    with torch.inference_mode():
        y, *_ = case.run(selective_scan_2d)
    assert not y.requires_grad


def test_shapes_are_known_on_the_meta_device():
    case = Case(dtype=torch.float32)
    given = {name: tensor.detach().to("meta") for name, tensor in case.given.items()}
    y, ((h1, _), (row1, _)) = selective_scan_2d(**given, return_final_state=True)
    assert (y.shape, h1.shape, row1.shape) == ((2, 4, 5, 6), (2, 4, 6, 3), (2, 5, 6, 3))
