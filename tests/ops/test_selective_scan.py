"""Mamba's scan over one axis: against its plain recurrence, written here, and the 2D scan."""

import pytest
import torch
from rankone.ops import selective_scan, selective_scan_2d
from torch.nn import functional

from .sequence_cases import BACKENDS, TOLERANCE, assert_gradients_near, assert_near, relative_error

DOUBLE = torch.float64
both_backends = pytest.mark.parametrize("backend", BACKENDS)
LAYOUTS = ("static", "shared", "group")


def plain(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False):
    """The recurrence of arXiv 2312.00752, step by step, in the dtype of its arguments."""
    channels, time = u.shape[1:]

    def at(vector, t):
        if vector.ndim == 2:
            return vector
        if vector.ndim == 3:
            return vector[:, None, :, t]
        return vector[..., t].repeat_interleave(channels // vector.shape[1], 1)

    step = delta if delta_bias is None else delta + delta_bias[:, None]
    step = functional.softplus(step, threshold=50) if delta_softplus else step
    state = u.new_zeros(*u.shape[:2], A.shape[1])
    outputs = []
    for t in range(time):
        decay = torch.exp(step[:, :, t, None] * A)
        state = decay * state + step[:, :, t, None] * at(B, t) * u[:, :, t, None]
        outputs.append((state * at(C, t)).sum(-1))
    y = torch.stack(outputs, -1)
    y = y if D is None else y + D[:, None] * u
    return (y if z is None else y * functional.silu(z)), state


def inputs(layout_b="shared", layout_c="shared", *, time=20, states=4, dtype=DOUBLE):
    batch, channels = 2, 6
    shapes = {
        "static": (channels, states),
        "shared": (batch, states, time),
        "group": (batch, 3, states, time),
    }

    def normal(*shape):
        return torch.randn(shape, dtype=DOUBLE).to(dtype)

    wide = torch.promote_types(dtype, torch.float32)
    return {
        "u": normal(batch, channels, time),
        "delta": normal(batch, channels, time),
        "A": -torch.rand(channels, states, dtype=wide) - 0.1,
        "B": normal(*shapes[layout_b]),
        "C": normal(*shapes[layout_c]),
        "D": torch.randn(channels, dtype=wide),
        "z": normal(batch, channels, time),
        "delta_bias": torch.randn(channels, dtype=wide),
    }


@pytest.mark.parametrize("layout_b", LAYOUTS)
@pytest.mark.parametrize("layout_c", LAYOUTS)
@both_backends
def test_equals_the_plain_recurrence(backend, layout_b, layout_c):
    given = {k: t.requires_grad_() for k, t in inputs(layout_b, layout_c).items()}
    measured = selective_scan(**given, delta_softplus=True, return_last_state=True, backend=backend)
    expected = plain(**given, delta_softplus=True)
    assert_near(measured, expected, 1e-12)
    weights = [torch.randn_like(result) for result in expected]
    gradients = [
        torch.autograd.grad(
            sum((r * w).sum() for r, w in zip(results, weights, strict=True)), given.values()
        )
        for results in (measured, expected)
    ]
    assert_gradients_near(*gradients, 1e-11)


@pytest.mark.parametrize("left_out", ["D", "z", "delta_bias"])
@pytest.mark.parametrize("softplus", [False, True])
@both_backends
def test_each_option_may_be_left_out(backend, left_out, softplus):
    given = inputs()
    given[left_out] = None
    if not softplus:
        given["delta"] = given["delta"].abs()
    y = selective_scan(**given, delta_softplus=softplus, backend=backend)
    assert_near([y], [plain(**given, delta_softplus=softplus)[0]], 1e-12)


@pytest.mark.parametrize("time", [1, 2, 67])
@pytest.mark.parametrize("states", [1, 16, 64])
@both_backends
def test_lengths_and_states(backend, time, states):
    given = inputs(time=time, states=states)
    measured = selective_scan(**given, delta_softplus=True, return_last_state=True, backend=backend)
    assert_near(measured, plain(**given, delta_softplus=True), 1e-12)


@both_backends
def test_is_the_2d_scan_of_one_row(backend):
    given = inputs(time=9)
    nothing, no_vector = torch.zeros(6, 1, dtype=DOUBLE), torch.zeros(6, 4, dtype=DOUBLE)

    def row(tensor):
        return tensor.transpose(1, 2)[:, None]

    expected, ((h1, _), _) = selective_scan_2d(
        row(given["u"]), row(given["delta"]), torch.ones(2, 1, 9, 1, dtype=DOUBLE), given["A"],
        nothing, nothing, nothing, row(given["B"]), no_vector, row(given["C"]), no_vector,
        given["D"], z=row(given["z"]), dt1_bias=given["delta_bias"], dt_softplus=True,
        discretization="mamba", return_final_state=True, backend=backend,
    )  # fmt: skip
    y, last = selective_scan(**given, delta_softplus=True, return_last_state=True, backend=backend)
    assert_near([y, last], [expected[:, 0].transpose(1, 2), h1[:, 0]], 1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@both_backends
def test_error_of_each_dtype_stays_within_its_rounding(backend, dtype):
    given = inputs(time=300, states=16, dtype=dtype)
    y, last = selective_scan(**given, delta_softplus=True, return_last_state=True, backend=backend)
    expected = plain(**{k: t.double() for k, t in given.items()}, delta_softplus=True)
    assert (y.dtype, last.dtype) == (dtype, torch.float32)
    assert relative_error(y, expected[0]) <= TOLERANCE[dtype]
    assert relative_error(last, expected[1]) <= TOLERANCE[torch.float32]


@both_backends
def test_the_output_has_the_layout_of_the_input(backend):
    y = selective_scan(**inputs(), delta_softplus=True, backend=backend)
    assert y.is_contiguous()


def test_double_backward_says_that_there_is_none():
    given = {k: t.requires_grad_() for k, t in inputs().items()}
    (gradient,) = torch.autograd.grad(
        selective_scan(**given).sin().sum(), given["u"], create_graph=True
    )
    with pytest.raises(RuntimeError, match="not twice differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("name", ["A", "B", "C"])
def test_complex_state_spaces_are_refused(name):
    given = inputs()
    given[name] = given[name].to(torch.complex128)
    with pytest.raises(TypeError, match=f"{name} must be real, got torch.complex128; complex"):
        selective_scan(**given)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"u": torch.randn(2, 6)}, "u must be 3-D"),
        ({"u": torch.randn(2, 6, 0)}, "u must have at least one channel and step"),
        ({"delta": torch.randn(2, 6, 19)}, r"delta must have shape \(2, 6, 20\)"),
        ({"A": torch.randn(5, 4)}, r"A must have shape \(6, 4\)"),
        ({"A": torch.randn(6, 65)}, "last axis of A, must be between 1 and 64, got 65"),
        ({"A": torch.randn(6)}, r"A must be 2-D"),
        ({"B": torch.randn(2, 20, 4)}, r"B must have shape .* got \(2, 20, 4\)"),
        ({"C": torch.randn(2, 4, 4, 20)}, "groups of C must divide the 6 channels of u, got 4"),
        ({"C": torch.randn(4, 6)}, "C must have shape"),
        ({"D": torch.randn(5)}, r"D must have shape \(6,\)"),
        ({"z": torch.randn(2, 6, 1)}, r"z must have shape \(2, 6, 20\)"),
        ({"delta_bias": torch.randn(1)}, r"delta_bias must have shape \(6,\)"),
        ({"A": torch.zeros(6, 4, device="meta")}, "A must be on the device of u"),
    ],
)
def test_mistakes_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        selective_scan(**{**inputs(), **changes})


@pytest.mark.parametrize("name", ["u", "delta", "A", "B", "D", "z"])
def test_integers_are_refused(name):
    given = inputs()
    given[name] = given[name].long()
    with pytest.raises(TypeError, match=f"{name} must be float"):
        selective_scan(**given)
