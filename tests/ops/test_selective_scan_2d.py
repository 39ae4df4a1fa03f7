"""The op against its recurrence, its closed forms and its own symmetries, native and composite."""

import functools
import math

import pytest
import torch
from rankone.ops import (
    roesser_kernel,
    selective_scan_2d,
    selective_scan_2d_reference,
    selective_scan_2d_step,
)
from torch.nn import functional

from .selective_scan_2d_cases import MODES, SHAPES, Case, applicable, layouts
from .sequence_cases import (
    BACKENDS,
    GRADIENT_FACTOR,
    TOLERANCE,
    assert_gradients_near,
    assert_near,
    relative_error,
)

DOUBLE = torch.float64
both_backends = pytest.mark.parametrize("backend", BACKENDS)
every_mode = pytest.mark.parametrize("mode", MODES, ids="-".join)


def column(*values, dtype=DOUBLE):
    """One channel and one state each: (1, 1) tensors."""
    return [torch.tensor([[value]], dtype=dtype) for value in values]


def constant_system(x, transitions, inputs, outputs, *, steps=(None, None), **options):
    """Scan (V, T) by one channel with constant numbers."""
    grid = x[None, :, :, None]
    dt = [None if step is None else torch.full_like(grid, step) for step in steps]
    y = selective_scan_2d(
        grid, *dt, *column(*transitions), *column(*inputs), *column(*outputs), **options
    )
    return y[0, :, :, 0]


def impulse(rows, columns):
    x = torch.zeros(rows, columns, dtype=DOUBLE)
    x[0, 0] = 1
    return x


# Closed forms.


def lattice_paths(v, t, a1, a4, q):
    if v < 0 or t < 0:
        return 0.0
    return sum(
        q**k * math.comb(t, k) * a1 ** (t - k) * math.comb(v, k) * a4 ** (v - k)
        for k in range(min(v, t) + 1)
    )


def test_the_impulse_response_is_the_closed_form():
    a1, a2, a3, a4 = 0.6, 0.3, -0.4, 0.5
    b1, b2, c1, c2 = 1.2, 0.7, 0.9, -1.1
    kernel = roesser_kernel(*column(a1, a2, a3, a4), *column(b1, b2, c1, c2), (7, 9))
    assert kernel.shape == (1, 7, 9)

    def g(v, t):
        return lattice_paths(v, t, a1, a4, a2 * a3)

    for v in range(7):
        for t in range(9):
            expected = c1 * (b1 * (g(v, t) - a4 * g(v - 1, t)) + a2 * b2 * g(v, t - 1))
            expected += c2 * (a3 * b1 * g(v - 1, t) + b2 * (g(v, t) - a1 * g(v, t - 1)))
            assert kernel[0, v, t].item() == pytest.approx(expected, rel=1e-14, abs=1e-14)


@both_backends
def test_a_grid_is_convolved_with_the_impulse_response(backend):
    a, b, c = (0.6, 0.3, -0.4, 0.5), (1.2, 0.7), (0.9, -1.1)
    kernel = roesser_kernel(*column(*a), *column(*b), *column(*c), (6, 8))[0]
    x = torch.randn(6, 8, dtype=DOUBLE)
    y = constant_system(x, a, b, c, discretization="none", backend=backend)
    for v in range(6):
        for t in range(8):
            expected = (kernel[: v + 1, : t + 1].flip((0, 1)) * x[: v + 1, : t + 1]).sum()
            assert y[v, t].item() == pytest.approx(expected.item(), rel=1e-12, abs=1e-13)


@both_backends
def test_each_state_reads_the_neighbour_and_the_steps_of_its_own_cell(backend):
    """By hand on 2 x 2 cells: h2 sees h1 of the cell above, never of its own."""
    x = torch.zeros(1, 2, 2, 1, dtype=DOUBLE)
    x[0, 0, 0, 0] = 1
    dt1 = torch.tensor([[2.0, 3.0], [5.0, 7.0]], dtype=DOUBLE)[None, :, :, None]
    dt2 = torch.tensor([[11.0, 13.0], [17.0, 19.0]], dtype=DOUBLE)[None, :, :, None]
    zero, one = column(0.0, 1.0)
    coupling = column(10.0, 100.0)
    y, ((h1_col, h2_col), (h1_row, h2_row)) = selective_scan_2d(
        x, dt1, dt2, zero, *coupling, zero, one, zero, one, one, return_final_state=True,
        discretization="mamba", backend=backend,
    )  # fmt: skip
    # h1 = 2 at the first cell and stays along its row; the cell below gets 17 * 100 * 2 of it, the
    # one right of that 19 * 100 * 2 from above; h1 there is 7 * 10 times its left neighbour's h2.
    assert y[0, 0].flatten().tolist() == [2.0, 2.0]
    assert h2_row.flatten().tolist() == [3400.0, 3800.0]
    assert h1_row.flatten().tolist() == [0.0, 7 * 10 * 3400.0]
    assert h1_col.flatten().tolist() == [2.0, 7 * 10 * 3400.0]
    assert h2_col.flatten().tolist() == [0.0, 3800.0]


@both_backends
@pytest.mark.parametrize("step", [0.3, 1.0])
def test_the_gain_for_a_constant_input_does_not_depend_on_the_steps(backend, step):
    y = constant_system(
        torch.ones(120, 120, dtype=DOUBLE), (-1.0, 0.5, 0.4, -2.0), (0.7, 1.1), (1.0, -0.5),
        steps=(step, 2 * step), backend=backend,
    )  # fmt: skip
    assert y[-1, -1].item() == pytest.approx(0.7, abs=1e-9)


@both_backends
def test_the_rank_of_the_response_tells_coupled_from_separable(backend):
    def rank(a2, a3):
        y = constant_system(
            impulse(12, 12), (0.6, a2, a3, 0.5), (1.2, 0.7), (0.9, -1.1), discretization="none",
            backend=backend,
        )  # fmt: skip
        values = torch.linalg.svdvals(y)
        return int((values > 1e-12 * values[0]).sum())

    assert rank(0.3, 0.4) >= 10
    assert [rank(0.0, 0.4), rank(0.3, 0.0), rank(0.0, 0.0)] == [2, 2, 2]


# Special cases.


@both_backends
@pytest.mark.parametrize("mode", MODES[:4], ids="-".join)
def test_exchanging_the_axes_and_the_states_exchanges_the_result(backend, mode):
    case = Case(mode=mode, heads=(3, 6), vectors=("cell", "group", "static", "cell"))
    y, h1_col, h2_col, h1_row, h2_row = case.run(selective_scan_2d, backend=backend)
    pairs = {"dt1": "dt2", "A1": "A4", "A2": "A3", "B1": "B2", "C1": "C2", "dt1_bias": "dt2_bias"}
    pairs |= {second: first for first, second in pairs.items()}
    given = {}
    for name, tensor in case.given.items():
        cellwise = tensor is not None and tensor.ndim > 2
        given[pairs.get(name, name)] = tensor.transpose(1, 2) if cellwise else tensor
    col1, col2, row1, row2 = case.states_in
    turned, (col, row) = selective_scan_2d(
        **given, **case.options(), initial_col_state=(row2, row1), initial_row_state=(col2, col1),
        return_final_state=True, backend=backend,
    )  # fmt: skip
    results = (turned.transpose(1, 2), row[1], row[0], col[1], col[0])
    assert_near(results, (y, h1_col, h2_col, h1_row, h2_row), 1e-12)


@both_backends
def test_without_the_second_state_rows_are_mamba_scans(backend):
    case = Case(mode=("mamba", "diagonal"), with_state=False)
    given = {**case.given, "A2": torch.zeros(6, 1), "A3": torch.zeros(6, 1)}
    given["C2"] = torch.zeros_like(given["C2"])
    y = selective_scan_2d(**given, **case.options(), backend=backend)
    dt = functional.softplus(given["dt1"] + given["dt1_bias"])
    h = torch.zeros(2, 4, 6, 3, dtype=DOUBLE)
    for t in range(5):
        step = dt[:, :, t, :, None]
        drive = step * given["B1"][:, :, t, None] * given["x"][:, :, t, :, None]
        h = torch.exp(step * given["A1"]) * h + drive
        expected = (h * given["C1"][:, :, t, None]).sum(-1) + given["D"] * given["x"][:, :, t]
        expected = expected * functional.silu(given["z"][:, :, t])
        assert_near([y[:, :, t]], [expected], 1e-12)


@both_backends
def test_a_row_scan_then_a_column_scan_is_2dmamba(backend):
    """h[v,t] = Ā[v,t] h[v-1,t] + h_row[v,t], with one step and one A for both scans."""
    case = Case(mode=("exp", "diagonal"), extras=False, with_state=False)
    given = dict(case.given)
    given |= {"A2": None, "A3": given["A1"], "A4": given["A1"], "dt2": given["dt1"]}
    given |= {"B2": torch.zeros_like(given["B1"]), "C2": given["C1"]}
    y = selective_scan_2d(**given, **case.options(), backend=backend)
    decay = torch.exp(given["dt1"][..., None] * given["A1"])
    hold = (decay - 1) / given["A1"]
    drive = hold * given["B1"][:, :, :, None] * given["x"][..., None]
    row = torch.zeros(2, 4, 6, 3, dtype=DOUBLE)
    rows = []
    for t in range(5):
        row = decay[:, :, t] * row + drive[:, :, t]
        rows.append(row)
    h_row = torch.stack(rows, 2)
    h = torch.zeros(2, 5, 6, 3, dtype=DOUBLE)
    for v in range(4):
        h = decay[:, v] * h + h_row[:, v]
        expected = (given["C1"][:, v, :, None] * h).sum(-1)
        assert_near([y[:, v]], [expected], 1e-12)


@both_backends
def test_without_coupling_the_response_is_a_sum_of_products(backend):
    y = constant_system(
        impulse(6, 7), (0.6, 0.0, 0.0, 0.5), (1.2, 0.7), (0.9, -1.1), discretization="none",
        backend=backend,
    )  # fmt: skip
    times = torch.arange(7, dtype=DOUBLE)
    rows = torch.arange(6, dtype=DOUBLE)
    expected = torch.zeros(6, 7, dtype=DOUBLE)
    expected[0] += 0.9 * 1.2 * 0.6**times
    expected[:, 0] += -1.1 * 0.7 * 0.5**rows
    assert_near([y], [expected], 1e-13)


@both_backends
def test_the_companion_step_is_an_autoregression(backend):
    """An infinite step, nothing in the last column, no coupling: y = Σ φ_i x[t - i]."""
    order, channels = 5, 2
    weights = torch.randn(channels, order, dtype=DOUBLE)
    x = torch.randn(2, 3, 20, channels, dtype=DOUBLE)
    zeros = torch.zeros(channels, order, dtype=DOUBLE)
    first = torch.zeros(channels, order, dtype=DOUBLE)
    first[:, 0] = 1
    y = selective_scan_2d(
        x, torch.full_like(x, math.inf), torch.ones_like(x), zeros, zeros, zeros, -1 + zeros, first,
        zeros, weights, zeros, structure="companion", gamma=torch.zeros(channels, dtype=DOUBLE),
        backend=backend,
    )  # fmt: skip
    expected = sum(
        functional.pad(x, (0, 0, lag, 0))[:, :, :20] * weights[:, lag] for lag in range(order)
    )
    assert_near([y], [expected], 1e-12)


@both_backends
def test_the_masked_quadratic_form_gives_the_same(backend):
    """y = Σ over earlier cells of (C_i·B̄_j) P^{ij} x, P the responses of the scalar system."""
    rows, columns = 4, 5
    case = Case(
        batch=1, rows=rows, columns=columns, channels=1, states=3, heads=(1, 1), scalar=True,
        extras=False, with_state=False, groups=1,
    )  # fmt: skip
    given = {name: tensor.detach() for name, tensor in case.given.items()}
    y = selective_scan_2d(**given, **case.options(), backend=backend)[0, :, :, 0]
    a1, a2, a3, a4 = (given[name].item() for name in ("A1", "A2", "A3", "A4"))
    dt1, dt2, x = (given[name][0, :, :, 0] for name in ("dt1", "dt2", "x"))
    hold1, hold2 = torch.expm1(dt1 * a1) / a1, torch.expm1(dt2 * a4) / a4
    drive = [hold1[..., None] * given["B1"][0], hold2[..., None] * given["B2"][0]]
    read = [given["C1"][0], given["C2"][0]]
    expected = torch.zeros(rows, columns, dtype=DOUBLE)
    for v0 in range(rows):
        for t0 in range(columns):
            for j in range(2):
                response = torch.zeros(2, rows, columns, dtype=DOUBLE)
                for v in range(v0, rows):
                    for t in range(t0, columns):
                        left = response[:, v, t - 1] if t > t0 else torch.zeros(2)
                        up = response[:, v - 1, t] if v > v0 else torch.zeros(2)
                        source = float((v, t) == (v0, t0))
                        response[0, v, t] = (
                            torch.exp(dt1[v, t] * a1) * left[0] + hold1[v, t] * a2 * left[1]
                            + source * (j == 0)
                        )  # fmt: skip
                        response[1, v, t] = (
                            hold2[v, t] * a3 * up[0] + torch.exp(dt2[v, t] * a4) * up[1]
                            + source * (j == 1)
                        )  # fmt: skip
                for i in range(2):
                    products = read[i] @ drive[j][v0, t0]
                    expected += products * response[i] * x[v0, t0]
    assert_near([y], [expected], 1e-12)


# Against the recurrence.


@functools.cache
def recurrence(index, mode):
    """A case, its results and its gradients by the plain recurrence."""
    case = Case(**applicable(SHAPES[index], mode), mode=mode)
    with torch.no_grad():
        results = case.run(selective_scan_2d_reference)
    return case, results, case.gradients(selective_scan_2d_reference)


@both_backends
@every_mode
@pytest.mark.parametrize("shape", range(len(SHAPES)))
def test_equals_the_recurrence(shape, mode, backend):
    case, expected, _ = recurrence(shape, mode)
    with torch.no_grad():
        assert_near(case.run(selective_scan_2d, backend=backend), expected, 1e-12)


@both_backends
@every_mode
@pytest.mark.parametrize("shape", range(len(SHAPES)))
def test_gradients_equal_those_of_the_recurrence(shape, mode, backend):
    case, _, expected = recurrence(shape, mode)
    assert_gradients_near(case.gradients(selective_scan_2d, backend=backend), expected, 1e-11)


@pytest.mark.parametrize("discretization", ["exp", "none"])
@pytest.mark.parametrize("coupled", [(False, True), (True, False), (False, False)])
@both_backends
def test_a_missing_coupling_is_none(backend, coupled, discretization):
    case = Case(mode=(discretization, "diagonal"), coupled=coupled)
    expected = case.run(selective_scan_2d_reference)
    assert_near(case.run(selective_scan_2d, backend=backend), expected, 1e-12)
    gradients = case.gradients(selective_scan_2d, backend=backend)
    assert_gradients_near(gradients, case.gradients(selective_scan_2d_reference), 1e-11)


@pytest.mark.parametrize("reverse", [(True, False), (False, True), (True, True)])
@every_mode
@both_backends
def test_reversing_is_flipping_every_input_of_the_cells_and_the_result(backend, mode, reverse):
    case = Case(mode=mode, reverse=reverse, vectors=("cell", "group", "static", "cell"))
    axes = [axis for axis, flip in zip((1, 2), reverse, strict=True) if flip]
    flipped = Case(mode=mode, vectors=case.vectors)
    flipped.given = {
        name: tensor.flip(axes) if tensor is not None and tensor.ndim > 2 else tensor
        for name, tensor in case.given.items()
    }
    flipped.states_in = case.states_in
    y, *states = flipped.run(selective_scan_2d, backend=backend)
    assert_near(case.run(selective_scan_2d, backend=backend), [y.flip(axes), *states], 1e-13)
    # Flipping x alone gives something else.
    wrong = {**case.given, "x": case.given["x"].flip(axes)}
    other = selective_scan_2d(**wrong, **Case(mode=mode).options(), backend=backend)
    assert relative_error(other.flip(axes), y.flip(axes)) > 0.1


@every_mode
@both_backends
def test_gradcheck_of_all_inputs_with_all_results(backend, mode):
    case = Case(
        batch=1, rows=2, columns=3, channels=2, states=2, mode=mode, heads=(1, 2),
        vectors=("cell", "group", "static", "cell"),
    )  # fmt: skip

    def function(*tensors):
        return case.rebuilt(tensors).run(selective_scan_2d, backend=backend)

    # The composite form is slow: one random direction instead of every entry.
    fast = backend == "torch"
    assert torch.autograd.gradcheck(function, case.differentiable(), fast_mode=fast)


@pytest.mark.parametrize("which", range(5))
@both_backends
def test_each_result_alone_is_differentiated(backend, which):
    case = Case()
    gradients = []
    for function, options in (
        (selective_scan_2d, {"backend": backend}),
        (selective_scan_2d_reference, {}),
    ):
        total = case.run(function, **options)[which].sin().sum()
        gradients.append(torch.autograd.grad(total, case.differentiable(), materialize_grads=True))
    assert_gradients_near(*gradients, 1e-11)


@pytest.mark.parametrize("single", ["x", "dt1", "A3", "B2", "C1", "D", "z", "dt2_bias"])
@both_backends
def test_one_wanted_gradient_is_that_of_all(backend, single):
    case = Case()
    names = [name for name, tensor in case.given.items() if tensor is not None]
    expected = case.gradients(selective_scan_2d, backend=backend)[names.index(single)]
    for name, tensor in case.given.items():
        if name != single and tensor is not None:
            case.given[name] = tensor.detach()
    case.states_in = tuple(state.detach() for state in case.states_in)
    results = case.run(selective_scan_2d, backend=backend)
    generator = torch.Generator().manual_seed(case.seed + 1)
    weights = [torch.randn(r.shape, generator=generator, dtype=DOUBLE) for r in results]
    total = sum((r * w).sum() for r, w in zip(results, weights, strict=True))
    assert_near(torch.autograd.grad(total, [case.given[single]]), [expected], 1e-13)


# Causality, streaming.


@both_backends
def test_a_cell_changes_nothing_before_it(backend):
    case = Case(with_state=False)
    before = selective_scan_2d(**case.given, **case.options(), backend=backend)
    changed = case.given["x"].detach().clone()
    changed[:, 1, 2] += 1
    after = selective_scan_2d(**{**case.given, "x": changed}, **case.options(), backend=backend)
    difference = (after - before).abs().amax((0, 3))
    reached = torch.zeros(4, 5, dtype=torch.bool)
    reached[1:, 2:] = True
    assert bool((difference[~reached] == 0).all())
    assert bool((difference[reached] > 0).all())


@every_mode
@both_backends
def test_four_quadrants_with_states_handed_over_are_one_call(backend, mode):
    case = Case(rows=7, columns=9, mode=mode)
    col1, col2, row1, row2 = case.states_in
    top, bottom, first, second = slice(0, 3), slice(3, 7), slice(0, 4), slice(4, 9)

    def scan(rows, columns, col, row):
        return selective_scan_2d(
            **case.part(rows, columns), **case.options(), initial_col_state=col,
            initial_row_state=row, return_final_state=True, backend=backend,
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
    assert_near([y, *cols, *rows], case.run(selective_scan_2d, backend=backend), 1e-12)


@pytest.mark.parametrize("reverse_rows", [False, True])
@every_mode
@both_backends
def test_steps_equal_the_scan(backend, mode, reverse_rows):
    case = Case(
        mode=mode, heads=(2, 6), vectors=("cell", "group", "static", "cell"),
        reverse=(reverse_rows, False),
    )  # fmt: skip
    expected = case.run(selective_scan_2d, backend=backend, initial_row_state=None)
    options = case.options()
    del options["reverse_cols"]
    state, outputs = case.states_in[:2], []
    for t in range(5):
        given = case.part(slice(None), t)
        given["x_col"] = given.pop("x")
        y, state = selective_scan_2d_step(**given, **options, col_state=state, backend=backend)
        outputs.append(y)
    assert_near([torch.stack(outputs, 2), *state], expected[:3], 1e-12)
    weights = torch.randn(2, 4, 5, 6, dtype=DOUBLE)
    given = case.differentiable()[:-2]  # without the row states
    gradients = [
        torch.autograd.grad((y * weights).sum(), given)
        for y in (torch.stack(outputs, 2), expected[0])
    ]
    assert_gradients_near(*gradients, 1e-11)


def test_a_step_without_a_state_starts_from_zeros():
    case = Case(columns=1, with_state=False)
    given = case.part(slice(None), 0)
    given["x_col"] = given.pop("x")
    y, state = selective_scan_2d_step(**given, dt_softplus=True, col_state=None)
    expected = case.run(selective_scan_2d)
    assert_near([y[:, :, None], *state], expected[:3], 1e-13)


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (1, 1)])
@both_backends
def test_the_last_row_of_a_thin_grid_is_handed_over(backend, shape):
    case = Case(rows=shape[0], columns=shape[1], with_state=False)
    expected = case.run(selective_scan_2d_reference)
    assert_near(case.run(selective_scan_2d, backend=backend), expected, 1e-12)


# Stability and rounding.


@both_backends
def test_zero_steps_and_zero_rates_are_exact(backend):
    """A1 = A4 = 0 integrates; a step of 0 leaves the state and takes no input."""
    case = Case(rows=6, columns=7, extras=False)
    with torch.no_grad():
        case.given["A1"][:, 0] = 0
        case.given["A4"][:, 1] = 0
        case.given["dt1"][:, 2] = 0
        case.given["dt2"][:, :, 3] = 0
    expected = case.run(selective_scan_2d_reference)
    assert_near(case.run(selective_scan_2d, backend=backend), expected, 1e-13)
    gradients = case.gradients(selective_scan_2d, backend=backend)
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert_gradients_near(gradients, case.gradients(selective_scan_2d_reference), 1e-12)


@both_backends
def test_a_pure_integrator_adds_up_its_steps(backend):
    steps = torch.rand(1, 1, 20, 1, dtype=DOUBLE)
    zero, one = column(0.0, 1.0)
    y = selective_scan_2d(
        torch.ones_like(steps), steps, steps, zero, zero, zero, zero, one, zero, one, zero,
        backend=backend,
    )  # fmt: skip
    assert_near([y], [steps.cumsum(2)], 1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@both_backends
def test_small_steps_keep_their_digits(backend, dtype):
    """Dividing exp(z) - 1 by A would leave few digits of values and none of A's gradient."""
    case = Case(rows=5, columns=6, extras=False, dtype=dtype)
    with torch.no_grad():
        case.given["dt1"] *= 1e-5
        case.given["dt2"] *= torch.logspace(-6, 0, 6, dtype=dtype)[:, None]
    exact = case.in_double()
    expected = exact.run(selective_scan_2d_reference)
    assert_near(case.run(selective_scan_2d, backend=backend), expected, TOLERANCE[dtype])
    gradients = case.gradients(selective_scan_2d, backend=backend)
    wanted = exact.gradients(selective_scan_2d_reference)
    assert_gradients_near(gradients, wanted, GRADIENT_FACTOR * TOLERANCE[dtype])


def unit_system(x, coupling, step, **options):
    options.setdefault("discretization", "zoh")
    return constant_system(
        x, (-1.0, coupling, coupling, -1.0), (1.0, 1.0), (1.0, 1.0), steps=(step, step), **options
    )


@both_backends
def test_zoh_is_stable_below_the_bound_and_not_above(backend):
    # |A2 A3| = 0.81 A1 A4: an impulse dies out, a constant input has the closed form's gain.
    assert unit_system(impulse(200, 200), 0.9, 1.0, backend=backend).abs().max() < 2
    gain = unit_system(torch.ones(200, 200, dtype=DOUBLE), 0.9, 1.0, backend=backend)
    assert gain.abs().max() <= 20
    assert gain[-1, -1].item() == pytest.approx(20, rel=1e-9)
    # 1.44 A1 A4.
    grown = unit_system(impulse(200, 200), 1.2, 1.0, backend=backend)
    assert grown[-1, -1].item() == pytest.approx(2.7e19, rel=0.03)


@both_backends
def test_any_field_of_steps_keeps_the_bound(backend):
    case = Case(rows=60, columns=60, batch=1, extras=False, with_state=False)
    given = {name: tensor.detach() for name, tensor in case.given.items()}
    generator = torch.Generator().manual_seed(1)
    for name in ("dt1", "dt2"):
        given[name] = 10 ** (6 * torch.rand(given[name].shape, generator=generator) - 4).double()
    drive = [
        (given[name][..., None, :] * given["x"][..., None]).abs().amax((0, 1, 2))
        for name in ("B1", "B2")
    ]
    _, (col, row) = selective_scan_2d(
        **given, **case.options(), return_final_state=True, backend=backend
    )
    a1, a2, a3, a4 = (given[name].abs() for name in ("A1", "A2", "A3", "A4"))
    # The least p, q with a1 p = a2 q + drive1 and a4 q = a3 p + drive2.
    determinant = a1 * a4 - a2 * a3
    p = (a4 * drive[0] + a2 * drive[1]) / determinant
    q = (a3 * drive[0] + a1 * drive[1]) / determinant
    for state in (col, row):
        assert bool((state[0].abs() <= p).all())
        assert bool((state[1].abs() <= q).all())


@both_backends
@pytest.mark.parametrize(("step", "expected"), [(0.01, 1.0e13), (0.1, 1.7e11)])
def test_exponentiating_the_couplings_counts_lattice_paths(backend, step, expected):
    """Why "exp" is for parity only."""
    held = -math.expm1(-step)  # so that the discrete input is 1
    y = constant_system(
        impulse(24, 24), (-1.0, -1.0, -1.0, -1.0), (1 / held, 1 / held), (1.0, 1.0),
        steps=(step, step), discretization="exp", backend=backend,
    )  # fmt: skip
    assert y[-1, -1].item() == pytest.approx(expected, rel=0.05)


@both_backends
def test_single_precision_error_grows_with_the_root_of_the_path(backend):
    case = Case(
        batch=1, rows=16, columns=256, channels=4, states=16, heads=(4, 2), dtype=torch.float32
    )
    with torch.no_grad():
        y, *_ = case.run(selective_scan_2d, backend=backend)
        expected, *_ = case.in_double().run(selective_scan_2d, backend="torch")
    error = (y.double() - expected).abs().max() / expected.abs().max()
    assert error < 2e-6 * (16 + 256) ** 0.5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@both_backends
def test_half_precision_error_is_that_of_its_rounding(backend, dtype):
    case = Case(batch=1, rows=16, columns=256, channels=4, states=16, heads=(4, 2), dtype=dtype)
    with torch.no_grad():
        y, *states = case.run(selective_scan_2d, backend=backend)
        expected, *expected_states = case.in_double().run(selective_scan_2d, backend="torch")
    assert y.dtype == dtype
    assert all(state.dtype == torch.float32 for state in states)
    error = (y.double() - expected).abs().max() / expected.abs().max()
    assert error < 2e-2
    assert relative_error(y, expected) <= TOLERANCE[dtype]
    # The states come from the very numbers that were given, accumulated in float32.
    assert_near(states, expected_states, 10 * TOLERANCE[torch.float32])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@both_backends
def test_gradients_in_half_precision_have_the_error_of_their_rounding(backend, dtype):
    case = Case(batch=1, rows=5, columns=40, channels=8, states=16, heads=(8, 8), dtype=dtype)
    gradients = case.gradients(selective_scan_2d, backend=backend)
    wanted = case.in_double().gradients(selective_scan_2d, backend="torch")
    assert [g.dtype for g in gradients] == [t.dtype for t in case.differentiable()]
    assert_gradients_near(gradients, wanted, GRADIENT_FACTOR * TOLERANCE[dtype])


# Memory, layouts, threads.


@both_backends
def test_nothing_of_the_states_is_kept_for_the_backward(backend):
    case = Case(rows=8, columns=32, states=16, dtype=torch.float32, with_state=False)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        selective_scan_2d(**case.given, **case.options(), backend=backend)
    inputs = sum(tensor.nbytes for tensor in case.differentiable())
    storages = {tensor.untyped_storage().data_ptr(): tensor.nbytes for tensor in kept}
    assert sum(storages.values()) <= inputs


@pytest.mark.parametrize("layout", range(6))
@both_backends
def test_strides_do_not_change_the_result(backend, layout):
    case = Case(vectors=("cell", "group", "static", "cell"), heads=(3, 6))
    expected = case.run(selective_scan_2d, backend=backend)
    gradients = case.gradients(selective_scan_2d, backend=backend)
    other = case.laid_out(layouts()[layout])
    assert_near(other.run(selective_scan_2d, backend=backend), expected, 1e-14)
    assert_near(other.gradients(selective_scan_2d, backend=backend), gradients, 1e-13)


@both_backends
def test_expanded_inputs_are_read(backend):
    case = Case(extras=False, with_state=False)
    shared = case.given["dt1"][:, :1, :1, :1].detach()
    given = {**case.given, "dt1": shared.expand(2, 4, 5, 6), "dt2": shared.expand(2, 4, 5, 1)}
    y = selective_scan_2d(**given, **case.options(), backend=backend)
    given = {name: t if t is None else t.contiguous() for name, t in given.items()}
    assert_near([y], [selective_scan_2d_reference(**given, **case.options())], 1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_the_number_of_threads_changes_no_bit(dtype, threads):
    case = Case(batch=3, rows=5, columns=40, channels=24, heads=(24, 8), states=8, dtype=dtype)

    def everything():
        return (*case.run(selective_scan_2d), *case.gradients(selective_scan_2d))

    threads(1)
    expected = everything()
    for count in (1, 2, 3):
        threads(count)
        for one, other in zip(everything(), expected, strict=True):
            assert torch.equal(one, other)


@both_backends
def test_an_empty_batch_gives_empty_results_and_zero_gradients(backend):
    case = Case(batch=0)
    y, *states = case.run(selective_scan_2d, backend=backend)
    assert y.shape == (0, 4, 5, 6)
    assert [tuple(s.shape) for s in states] == [(0, k, 6, 3) for k in (4, 4, 5, 5)]
    (gradient,) = torch.autograd.grad(y.sum(), [case.given["A1"]])
    assert not gradient.any()


def test_the_kernel_of_a_system_is_differentiable():
    parameters = [p.requires_grad_() for p in column(0.6, 0.3, -0.4, 0.5, 1.2, 0.7, 0.9, -1.1)]
    assert torch.autograd.gradcheck(lambda *p: roesser_kernel(*p, (3, 4)), parameters)
