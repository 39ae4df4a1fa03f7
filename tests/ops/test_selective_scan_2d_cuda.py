"""The CUDA kernels of the 2D selective scan on a device, held to float64 on the host."""

import functools

import pytest
import torch
from rankone.ops import (
    _library,
    selective_scan,
    selective_scan_2d,
    selective_scan_2d_reference,
    selective_scan_2d_step,
)
from rankone.ops import _selective_scan_2d as family

from . import cuda_cases
from .cuda_cases import (
    DEVICE,
    DTYPES,
    assert_a_graph_replays_on_new_inputs,
    assert_close_to_float64,
    assert_same_bits,
    moved,
    on_device,
    run,
)
from .selective_scan_2d_cases import MODES, SHAPES, Case, applicable, layouts
from .sequence_cases import (
    GRADIENT_FACTOR,
    TOLERANCE,
    SequenceCase,
    assert_gradients_near,
    assert_near,
    relative_error,
)
from .test_selective_scan import LAYOUTS, inputs, plain
from .test_selective_scan_2d_arguments import MISTAKES, call
from .test_selective_scan_2d_registration import op_arguments

pytestmark = pytest.mark.cuda

native_scan = functools.partial(selective_scan_2d, backend="native")
native_step = functools.partial(selective_scan_2d_step, backend="native")
# On the host in float64: exact to 1e-12, and faster than the recurrence on large grids.
host_scan = selective_scan_2d
every_mode = pytest.mark.parametrize("mode", MODES, ids="-".join)
# Every form of B and C beside another.
FORMS = ("cell", "group", "static", "cell")


def on_host(tensors):
    return [tensor.cpu() for tensor in tensors]


def within_range(shape, mode, dtype):
    """Exponentiated couplings both ways count lattice paths, which leaves the range of float16 on
    a large grid: there, one way."""
    cells = shape.get("rows", 4) * shape.get("columns", 5)
    if mode[0] == "exp" and dtype == torch.float16 and cells > 100:
        return {**shape, "coupled": (True, False)}
    return applicable(shape, mode)


def step_arguments(case, column):
    """The arguments of a step at one column, without its state."""
    given = case.part(slice(None), column)
    given["x_col"] = given.pop("x")
    options = case.options()
    del options["reverse_cols"]
    return {**given, **options}


# Correctness.


@pytest.mark.parametrize("dtype", DTYPES)
@every_mode
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_equals_the_recurrence(shape, mode, dtype):
    case = Case(**within_range(shape, mode, dtype), mode=mode, dtype=dtype)
    assert_close_to_float64(case, function=native_scan, exact=selective_scan_2d_reference)


# More rows, or more columns, than a block has warps; several channels a thread, which takes a
# block for every second multiprocessor; so many groups that a block runs fewer warps.
LAYOUTS_OF_THE_KERNELS = (
    {"rows": 20, "columns": 37, "batch": 1},
    {"rows": 37, "columns": 20, "batch": 1},
    {"rows": 3, "columns": 5, "batch": 36, "channels": 130, "heads": (130, 13), "states": 4},
    {"rows": 9, "columns": 6, "channels": 64, "heads": (64, 1), "groups": 64, "states": 4,
     "vectors": ("group",) * 4},
)  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@every_mode
@pytest.mark.parametrize("shape", LAYOUTS_OF_THE_KERNELS)
def test_every_layout_of_the_kernels_equals_the_scan_on_the_host(shape, mode, dtype):
    case = Case(**within_range(shape, mode, dtype), mode=mode, dtype=dtype)
    assert_close_to_float64(case, function=native_scan, exact=host_scan)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("grid", [(3, 2000), (2000, 3)])
@pytest.mark.parametrize("coupled", [(False, True), (True, False), (False, False)])
@pytest.mark.parametrize("discretization", ["exp", "none"])
def test_a_long_axis_that_is_split_equals_the_scan_on_the_host(
    discretization, coupled, grid, dtype
):
    case = Case(
        batch=1, rows=grid[0], columns=grid[1], mode=(discretization, "diagonal"), coupled=coupled,
        dtype=dtype,
    )  # fmt: skip
    assert_close_to_float64(case, function=native_scan, exact=host_scan)


@pytest.mark.parametrize("reverse", [(True, False), (False, True), (True, True)])
@every_mode
def test_reversed_axes_equal_the_recurrence(mode, reverse):
    case = Case(rows=5, columns=11, mode=mode, reverse=reverse, vectors=FORMS, dtype=torch.float32)
    assert_close_to_float64(case, function=native_scan, exact=selective_scan_2d_reference)


@pytest.mark.parametrize("reverse", [(True, False), (False, True), (True, True)])
def test_reversing_is_flipping_every_input_of_the_cells_and_the_result(reverse):
    case = on_device(Case(vectors=FORMS, reverse=reverse, dtype=torch.float32))
    axes = [axis for axis, flip in zip((1, 2), reverse, strict=True) if flip]
    flipped = on_device(Case(vectors=FORMS, dtype=torch.float32))
    flipped.given = {
        name: tensor.flip(axes) if tensor is not None and tensor.ndim > 2 else tensor
        for name, tensor in case.given.items()
    }
    y, *states = flipped.run(native_scan)
    assert_near(case.run(native_scan), [y.flip(axes), *states], TOLERANCE[torch.float32])


@pytest.mark.parametrize("dtype", DTYPES)
def test_errors_grow_with_the_root_of_the_path_alone(dtype):
    case = Case(batch=1, rows=16, columns=256, channels=4, states=16, heads=(4, 2), dtype=dtype)
    with torch.no_grad():
        y, *states = on_host(on_device(case).run(native_scan))
        expected, *expected_states = case.in_double().run(host_scan)
    path = (16 + 256) ** 0.5
    assert y.dtype == dtype
    assert all(state.dtype == torch.float32 for state in states)
    assert relative_error(y, expected) <= max(TOLERANCE[dtype], TOLERANCE[torch.float32] * path)
    # The states come from the very numbers that were given, accumulated in float32.
    assert_near(states, expected_states, TOLERANCE[torch.float32] * path)


def test_zero_steps_and_zero_rates_are_exact():
    """A1 = A4 = 0 integrates; a step of 0 leaves the state and takes no input."""
    case = Case(rows=6, columns=7, extras=False, dtype=torch.float32)
    with torch.no_grad():
        case.given["A1"][:, 0] = 0
        case.given["A4"][:, 1] = 0
        case.given["dt1"][:, 2] = 0
        case.given["dt2"][:, :, 3] = 0
    assert_close_to_float64(case, function=native_scan, exact=selective_scan_2d_reference)


def test_small_steps_keep_their_digits():
    """Dividing exp(z) - 1 by A would leave few digits of values and none of A's gradient."""
    case = Case(rows=5, columns=6, extras=False, dtype=torch.float32)
    with torch.no_grad():
        case.given["dt1"] *= 1e-5
        case.given["dt2"] *= torch.logspace(-6, 0, 6)[:, None]
    assert_close_to_float64(case, function=native_scan, exact=selective_scan_2d_reference)


@pytest.mark.parametrize("coupling", [0.9, 1.2])
def test_an_impulse_dies_out_below_the_bound_of_stability_and_not_above(coupling):
    def column(value):
        return torch.full((1, 1), value, device=DEVICE)

    x = torch.zeros(1, 200, 200, 1, device=DEVICE)
    x[0, 0, 0, 0] = 1
    step = torch.ones_like(x)
    y = native_scan(
        x, step, step, column(-1.0), column(coupling), column(coupling), column(-1.0),
        *(column(1.0) for _ in range(4)),
    )  # fmt: skip
    if coupling < 1:
        assert y.abs().max() < 2
    else:
        # |A2 A3| = 1.44 A1 A4: the growth of the float64 scan, which the host tests state.
        assert y[0, -1, -1, 0].item() == pytest.approx(2.7e19, rel=0.03)


SINGLE = ("x", "dt1", "A3", "B2", "C1", "D", "z", "dt2_bias")


@pytest.mark.parametrize("single", SINGLE)
def test_one_wanted_gradient_is_that_of_all(single):
    case = on_device(Case(dtype=torch.float32))
    names = [name for name, tensor in case.given.items() if tensor is not None]
    _, expected = run(case, native_scan)
    leaf = case.given[single]
    case.given = {name: t if t is None else t.detach() for name, t in case.given.items()}
    case.given[single] = leaf
    case.states_in = tuple(state.detach() for state in case.states_in)
    case.differentiable = lambda: (leaf,)
    _, gradient = run(case, native_scan)
    tolerance = GRADIENT_FACTOR * TOLERANCE[torch.float32]
    assert_near(gradient, [expected[names.index(single)]], tolerance)


@pytest.mark.parametrize("which", range(5))
def test_each_result_alone_is_differentiated(which):
    case = Case(dtype=torch.float32)
    gradients = []
    for tried, function in (
        (on_device(case), native_scan),
        (case.in_double(), selective_scan_2d_reference),
    ):
        total = tried.run(function)[which].sin().sum()
        found = torch.autograd.grad(total, tried.differentiable(), materialize_grads=True)
        gradients.append(on_host(found))
    assert_gradients_near(*gradients, GRADIENT_FACTOR * TOLERANCE[torch.float32])


# Carried states and steps.


@every_mode
def test_four_quadrants_with_states_handed_over_are_one_call(mode):
    case = on_device(Case(rows=7, columns=9, mode=mode, dtype=torch.float32))
    col1, col2, row1, row2 = case.states_in
    top, bottom, first, second = slice(0, 3), slice(3, 7), slice(0, 4), slice(4, 9)

    def scan(rows, columns, col, row):
        return native_scan(
            **case.part(rows, columns), **case.options(), initial_col_state=col,
            initial_row_state=row, return_final_state=True,
        )  # fmt: skip

    def cut(state, where):
        return tuple(h[:, where] for h in state)

    y11, (c1, r1) = scan(top, first, cut((col1, col2), top), cut((row1, row2), first))
    y12, (c2, r2) = scan(top, second, c1, cut((row1, row2), second))
    y21, (c3, r3) = scan(bottom, first, cut((col1, col2), bottom), r1)
    y22, (c4, r4) = scan(bottom, second, c3, r2)
    y = torch.cat([torch.cat([y11, y12], 2), torch.cat([y21, y22], 2)], 1)
    cols = [torch.cat(pair, 1) for pair in zip(c2, c4, strict=True)]
    rows = [torch.cat(pair, 1) for pair in zip(r3, r4, strict=True)]
    measured, whole = [y, *cols, *rows], case.run(native_scan)
    assert_near(measured, whole, TOLERANCE[torch.float32])
    generator = torch.Generator(DEVICE).manual_seed(case.seed)
    weights = [torch.randn(r.shape, generator=generator, device=DEVICE) for r in whole]
    gradients = [
        torch.autograd.grad(results, case.differentiable(), weights)
        for results in (measured, whole)
    ]
    assert_gradients_near(*gradients, GRADIENT_FACTOR * TOLERANCE[torch.float32])


@pytest.mark.parametrize("reverse_rows", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@every_mode
def test_steps_equal_the_recurrence(mode, dtype, reverse_rows):
    case = Case(
        rows=11, mode=mode, heads=(2, 6), vectors=FORMS, reverse=(reverse_rows, False), dtype=dtype
    )
    expected = case.in_double().run(selective_scan_2d_reference, initial_row_state=None)
    tried = on_device(case)
    state, outputs = tried.states_in[:2], []
    for t in range(case.columns):
        y, state = native_step(**step_arguments(tried, t), col_state=state)
        outputs.append(y)
    assert outputs[0].dtype == dtype
    assert relative_error(torch.stack(outputs, 2).cpu(), expected[0]) <= TOLERANCE[dtype]
    assert_near(on_host(state), expected[1:3], TOLERANCE[torch.float32])


def test_steps_have_the_gradients_of_the_scan():
    case = on_device(Case(rows=11, heads=(2, 6), vectors=FORMS, dtype=torch.float32))
    whole, *_ = case.run(native_scan, initial_row_state=None)
    state, outputs = case.states_in[:2], []
    for t in range(case.columns):
        y, state = native_step(**step_arguments(case, t), col_state=state)
        outputs.append(y)
    weights = torch.randn_like(whole)
    given = case.differentiable()[:-2]  # without the row states
    gradients = [torch.autograd.grad(y, given, weights) for y in (torch.stack(outputs, 2), whole)]
    assert_gradients_near(*gradients, GRADIENT_FACTOR * TOLERANCE[torch.float32])


@pytest.mark.parametrize("batch", [1, 64, 300])
def test_step_serves_any_batch_and_leaves_its_state_as_it_was(batch):
    case = Case(batch=batch, rows=7, columns=1, channels=48, heads=(48, 12), states=16,
                dtype=torch.bfloat16)  # fmt: skip
    tried = on_device(case)
    before = [state.detach().clone() for state in tried.states_in[:2]]
    y, state = native_step(**step_arguments(tried, 0), col_state=tried.states_in[:2])
    with torch.no_grad():
        expected = case.in_double().run(host_scan, initial_row_state=None)
    assert relative_error(y.cpu(), expected[0][:, :, 0]) <= TOLERANCE[torch.bfloat16]
    assert_near(on_host(state), expected[1:3], TOLERANCE[torch.float32])
    assert_same_bits(tried.states_in[:2], before)


def test_a_step_without_a_state_starts_from_zeros():
    case = Case(columns=1, with_state=False, dtype=torch.float32)
    y, state = native_step(**step_arguments(on_device(case), 0), col_state=None)
    expected = case.in_double().run(selective_scan_2d_reference)
    assert_near(on_host([y[:, :, None], *state]), expected[:3], TOLERANCE[torch.float32])


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (1, 1)])
def test_the_last_row_of_a_thin_grid_is_handed_over(shape):
    case = Case(rows=shape[0], columns=shape[1], with_state=False, dtype=torch.float32)
    assert_close_to_float64(case, function=native_scan, exact=selective_scan_2d_reference)


# Mamba's scan over one axis.


class Line(SequenceCase):
    """Inputs of ``selective_scan``, drawn as its tests on the host draw them."""

    def __init__(self, *forms, dtype=torch.float32, **sizes):
        self.dtype, self.rounded_to, self.seed = dtype, None, 0
        drawn = inputs(*forms, dtype=dtype, **sizes)
        self.given = {name: tensor.requires_grad_() for name, tensor in drawn.items()}

    def differentiable(self):
        return tuple(self.given.values())

    def run(self, function):
        return function(**self.given, delta_softplus=True)

    def in_double(self):
        other = Line(dtype=torch.float64)
        other.rounded_to = self.dtype
        other.given = {
            name: tensor.detach().double().requires_grad_() for name, tensor in self.given.items()
        }
        return other


native_line = functools.partial(selective_scan, return_last_state=True, backend="native")
host_line = functools.partial(selective_scan, return_last_state=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout_b", LAYOUTS)
@pytest.mark.parametrize("layout_c", LAYOUTS)
def test_the_scan_over_one_axis_equals_the_plain_recurrence(layout_b, layout_c, dtype):
    case = Line(layout_b, layout_c, dtype=dtype)
    assert_close_to_float64(case, function=native_line, exact=plain)


@pytest.mark.parametrize("time", [1, 2, 67])
@pytest.mark.parametrize("states", [1, 16, 64])
def test_lengths_and_states_of_one_axis(time, states):
    case = Line(time=time, states=states)
    assert_close_to_float64(case, function=native_line, exact=plain)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_long_axis_is_split_and_keeps_its_precision(dtype):
    case = Line("group", "shared", time=5000, states=16, dtype=dtype)
    assert_close_to_float64(case, function=native_line, exact=host_line)


@pytest.mark.parametrize("left_out", ["D", "z", "delta_bias"])
@pytest.mark.parametrize("softplus", [False, True])
def test_each_option_of_one_axis_may_be_left_out(left_out, softplus):
    given = inputs(dtype=torch.float32)
    given[left_out] = None
    if not softplus:
        given["delta"] = given["delta"].abs()
    y, last = native_line(**moved(given), delta_softplus=softplus)
    exact = {name: tensor if tensor is None else tensor.double() for name, tensor in given.items()}
    expected = plain(**exact, delta_softplus=softplus)
    assert_near(on_host([y, last]), expected, TOLERANCE[torch.float32])


def test_any_strides_of_one_axis_are_read():
    case = on_device(Line("group", "static", time=40, dtype=torch.bfloat16))
    expected = case.run(native_line)
    assert expected[0].is_contiguous()
    case.given = {name: t.mT.contiguous().mT if t.ndim > 1 else t for name, t in case.given.items()}
    assert_same_bits(case.run(native_line), expected)


# Layouts and edges.


@pytest.mark.parametrize("layout", range(6))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_strides_are_read(dtype, layout):
    case = Case(rows=6, columns=9, vectors=FORMS, heads=(3, 6), dtype=dtype)
    expected, gradients = run(on_device(case), native_scan)
    # Moved first: a copy to a device keeps no gaps.
    other = on_device(case).laid_out(layouts()[layout])
    assert not other.given["x"].is_contiguous()
    results, found = run(other, native_scan)
    assert_same_bits(results, expected)
    assert_near(found, gradients, GRADIENT_FACTOR * TOLERANCE[dtype])


def test_expanded_inputs_are_read():
    case = on_device(Case(extras=False, with_state=False, dtype=torch.float32))
    shared = case.given["dt1"][:, :1, :1, :1].detach()
    given = {name: t if t is None else t.detach() for name, t in case.given.items()}
    given |= {"dt1": shared.expand(2, 4, 5, 6), "dt2": shared.expand(2, 4, 5, 1)}
    given["x"] = given["x"][:, :, :1].expand(2, 4, 5, 6)
    y = native_scan(**given, **case.options())
    exact = {name: t if t is None else t.contiguous().cpu().double() for name, t in given.items()}
    expected = selective_scan_2d_reference(**exact, **case.options())
    assert_near(on_host([y]), [expected], TOLERANCE[torch.float32])


@pytest.mark.parametrize("with_state", [False, True])
def test_an_empty_batch_gives_empty_results_and_zero_gradients(with_state):
    case = on_device(Case(batch=0, with_state=with_state, dtype=torch.bfloat16))
    y, *states = case.run(native_scan)
    assert y.shape == (0, 4, 5, 6)
    assert [tuple(s.shape) for s in states] == [(0, k, 6, 3) for k in (4, 4, 5, 5)]
    given = [case.given[name] for name in ("x", "A1", "B1", "D", "dt1_bias")]
    for gradient, tensor in zip(torch.autograd.grad(y.sum(), given), given, strict=True):
        assert gradient.shape == tensor.shape
        assert not gradient.any()


def test_an_empty_batch_of_one_axis_gives_empty_results():
    given = {
        name: tensor[:0] if name in ("u", "delta", "B", "C", "z") else tensor
        for name, tensor in inputs(dtype=torch.float32).items()
    }
    y, last = native_line(**moved(given))
    assert (y.shape, last.shape) == ((0, 6, 20), (0, 6, 4))


@every_mode
def test_composite_code_on_the_device_equals_the_recurrence(mode):
    case = Case(mode=mode, vectors=FORMS, dtype=torch.float32)
    composite = functools.partial(selective_scan_2d, backend="torch")
    assert_close_to_float64(case, function=composite, exact=selective_scan_2d_reference)


def test_float64_has_no_kernels_and_says_so():
    case = on_device(Case())
    with pytest.raises(RuntimeError, match=r"backend='native'.*float64.*cuda"):
        case.run(native_scan)


def test_autocast_casts_what_lies_over_the_cells_and_nothing_else():
    case = on_device(Case(vectors=FORMS, dtype=torch.float32))
    with torch.autocast(DEVICE.type, torch.bfloat16):
        results = case.run(native_scan)
    case.given = {
        name: tensor.bfloat16() if tensor is not None and tensor.ndim > 2 else tensor
        for name, tensor in case.given.items()
    }
    assert results[0].dtype == torch.bfloat16
    assert_same_bits(results, case.run(native_scan))


# What a kernel of this library promises beside its numbers.


@pytest.mark.parametrize("shape", [SHAPES[7], SHAPES[8], *LAYOUTS_OF_THE_KERNELS])
@every_mode
def test_the_same_input_gives_the_same_bits(mode, shape):
    case = on_device(Case(**applicable(shape, mode), mode=mode, dtype=torch.bfloat16))
    first = run(case, native_scan)
    for _ in range(2):
        for one, other in zip(first, run(case, native_scan), strict=True):
            assert_same_bits(one, other)


def test_a_split_axis_gives_the_same_bits():
    grid = Case(batch=1, rows=3, columns=2000, mode=("none", "diagonal"), coupled=(True, False),
                dtype=torch.bfloat16)  # fmt: skip
    line = Line("group", "shared", time=5000, dtype=torch.bfloat16)
    for case, function in ((on_device(grid), native_scan), (on_device(line), native_line)):
        first = run(case, function)
        for one, other in zip(first, run(case, function), strict=True):
            assert_same_bits(one, other)


@pytest.mark.parametrize("cell", [(0, 0), (1, 2), (8, 13), (9, 19)])
@every_mode
def test_a_cell_changes_no_bit_before_it(mode, cell):
    case = on_device(Case(rows=10, columns=20, mode=mode, with_state=False, dtype=torch.bfloat16))
    row, column = cell
    before, *_ = case.run(native_scan)
    with torch.no_grad():
        for name in ("x", "B1", "C2", "z"):
            case.given[name][:, row, column] += 1
    after, *_ = case.run(native_scan)
    changed = (after != before).any(-1).any(0)
    reached = torch.zeros_like(changed)
    reached[row:, column:] = True
    assert not changed[~reached].any()
    assert changed[row, column]


@every_mode
def test_forward_replays_from_a_graph_on_new_inputs(mode):
    case = on_device(Case(rows=9, columns=33, mode=mode, vectors=FORMS, dtype=torch.bfloat16))
    overwritten = [case.given[name] for name in ("x", "B1", "C2", "z")]
    assert_a_graph_replays_on_new_inputs(lambda: case.run(native_scan), overwritten)


def test_split_axes_replay_from_a_graph_on_new_inputs():
    grid = on_device(Case(batch=1, rows=3, columns=2000, mode=("exp", "diagonal"),
                          coupled=(False, True), dtype=torch.bfloat16))  # fmt: skip
    line = on_device(Line(time=5000, dtype=torch.bfloat16))
    assert_a_graph_replays_on_new_inputs(
        lambda: grid.run(native_scan), (grid.given["x"], grid.given["B1"])
    )
    assert_a_graph_replays_on_new_inputs(
        lambda: line.run(native_line), (line.given["u"], line.given["C"])
    )


@every_mode
def test_step_replays_from_a_graph_on_new_inputs(mode):
    case = on_device(Case(rows=9, columns=1, mode=mode, vectors=FORMS, dtype=torch.bfloat16))
    arguments = step_arguments(case, 0)
    state = case.states_in[:2]

    def step():
        y, after = native_step(**arguments, col_state=state)
        return y, *after

    assert_a_graph_replays_on_new_inputs(step, (arguments["x_col"], arguments["C1"], *state))


@every_mode
def test_compiles_without_a_graph_break(mode):
    case = on_device(Case(mode=mode, vectors=FORMS, dtype=torch.float32))
    compiled = torch.compile(native_scan, fullgraph=True, backend="aot_eager")
    for one, other in zip(run(case, compiled), run(case, native_scan), strict=True):
        assert_same_bits(one, other)


def test_compiles_through_the_default_backend():
    case = on_device(Case(vectors=FORMS, dtype=torch.float32))
    compiled = torch.compile(lambda **given: 2 * native_scan(**given), fullgraph=True)
    arguments = {**case.given, **case.options()}
    expected = 2 * native_scan(**arguments)
    assert relative_error(compiled(**arguments), expected) <= TOLERANCE[torch.float32]


def test_step_compiles_without_a_graph_break():
    case = on_device(Case(columns=1, dtype=torch.float32))
    compiled = torch.compile(native_step, fullgraph=True, backend="aot_eager")
    arguments = {**step_arguments(case, 0), "col_state": case.states_in[:2]}
    with torch.no_grad():
        (y, state), (expected, expected_state) = compiled(**arguments), native_step(**arguments)
    assert_same_bits((y, *state), (expected, *expected_state))


def test_kernels_run_on_the_current_stream():
    case = on_device(Case(rows=8, columns=500, channels=64, heads=(64, 64), states=16,
                          dtype=torch.bfloat16))  # fmt: skip
    cuda_cases.assert_runs_on_the_current_stream(case, native_scan, case.given["x"])


def test_kernels_of_one_axis_run_on_the_current_stream():
    case = on_device(Line(time=5000, dtype=torch.bfloat16))
    cuda_cases.assert_runs_on_the_current_stream(case, native_line, case.given["u"])


@every_mode
def test_nothing_waits_for_the_device(mode):
    case = on_device(Case(rows=9, columns=40, mode=mode, vectors=FORMS, dtype=torch.bfloat16))
    cuda_cases.assert_does_not_wait_for_the_device(case, native_scan)


def test_nothing_on_one_axis_waits_for_the_device():
    case = on_device(Line(time=5000, dtype=torch.bfloat16))
    cuda_cases.assert_does_not_wait_for_the_device(case, native_line)


def test_nothing_of_the_states_is_kept_for_the_backward():
    case = on_device(Case(rows=8, columns=32, states=16, dtype=torch.float32, with_state=False))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        native_scan(**case.given, **case.options())
    inputs_bytes = sum(tensor.nbytes for tensor in case.differentiable())
    storages = {tensor.untyped_storage().data_ptr(): tensor.nbytes for tensor in kept}
    assert sum(storages.values()) <= inputs_bytes


def test_training_takes_less_memory_than_the_states_of_all_cells():
    batch, rows, channels, states = 16, 2, 128, 16

    def extra(columns):
        case = on_device(Case(batch=batch, rows=rows, columns=columns, channels=channels,
                              heads=(channels, channels), states=states, extras=False,
                              with_state=False, dtype=torch.bfloat16))  # fmt: skip
        return cuda_cases.peak_of_a_training_call(
            lambda: native_scan(**case.given, **case.options()), case.differentiable()
        )

    extra(64)
    growth = (extra(1024) - extra(512)) / 512
    assert growth < batch * rows * channels * states * 2 * 4


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_kernels_run_on_the_device_of_their_tensors():
    case = Case(dtype=torch.float32, with_state=False)
    other = torch.device("cuda", 1)
    given = {name: t if t is None else t.detach().to(other) for name, t in case.given.items()}
    y = native_scan(**given, **case.options())
    expected, *_ = case.in_double().run(selective_scan_2d_reference)
    assert y.device == other
    assert relative_error(y.cpu(), expected) <= TOLERANCE[torch.float32]


# Bad input.


@pytest.mark.parametrize("mistake", [name for name in MISTAKES if name != "backend"])
def test_bad_input_raises_before_a_kernel_starts(monkeypatch, mistake):
    changes, message = MISTAKES[mistake]
    cuda_cases.forbid_kernels(monkeypatch)
    with pytest.raises(ValueError, match=message):
        call(lambda **arguments: native_scan(**moved(arguments)), **changes)


@pytest.mark.parametrize("name", ["dt1", "A1", "B1", "C2", "D", "z", "dt2_bias"])
def test_a_tensor_of_another_device_raises_before_a_kernel_starts(monkeypatch, name):
    given = on_device(Case(dtype=torch.float32)).given
    given[name] = given[name].cpu()
    cuda_cases.forbid_kernels(monkeypatch)
    with pytest.raises(ValueError, match=f"{name} must be on the device of x, cuda.*, got cpu"):
        native_scan(**given, dt_softplus=True)


def test_a_refused_call_leaves_the_process_usable():
    case = Case(dtype=torch.float32)
    tried = on_device(case)
    native = _library.native_for("selective_scan_2d", DEVICE, torch.float32)
    tensors_and_options = op_arguments(tried)[:-2]
    numbers, alive = family.native_inputs(family.Inputs(*tensors_and_options))
    sizes, (_, *options), *rest = numbers
    float64 = 1
    y = torch.empty_like(tried.given["x"])
    with pytest.raises(ValueError, match=r"dtype.*float64"):
        _library.call(
            native, "selective_scan_2d_forward", y,
            sizes, (float64, *options), *rest, family._cells(y), (0, 0, 0, 0),
        )  # fmt: skip
    del alive
    assert_close_to_float64(case, function=native_scan, exact=selective_scan_2d_reference)


def test_a_failed_allocation_leaves_the_process_usable():
    case = Case(dtype=torch.float32)
    one = torch.zeros(1, 1, device=DEVICE)
    x = one[..., None, None].expand(2**20, 2**10, 2**10, 1)
    with pytest.raises(torch.OutOfMemoryError):
        native_scan(x, None, None, one, one, one, one, one, one, one, one, discretization="none")
    assert_close_to_float64(case, function=native_scan, exact=selective_scan_2d_reference)
