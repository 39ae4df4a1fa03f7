"""Bad input: each mistake is refused before a kernel runs, by the argument's name."""

import warnings

import pytest
import torch
from rankone.ops import (
    _library,
    roesser_kernel,
    selective_scan_2d,
    selective_scan_2d_reference,
    selective_scan_2d_step,
)

B, V, T, D, N = 2, 3, 4, 6, 5


def call(function=selective_scan_2d, **changes):
    arguments = {
        "x": torch.randn(B, V, T, D),
        "dt1": torch.rand(B, V, T, D),
        "dt2": torch.rand(B, V, T, 2),
        **{name: -torch.rand(D, N) for name in ("A1", "A2", "A3", "A4")},
        **{name: torch.randn(B, V, T, N) for name in ("B1", "B2", "C1", "C2")},
    }
    arguments.update(changes)
    return function(**arguments)


NONE = {"discretization": "none", "dt1": None, "dt2": None}
STATE = torch.zeros(B, V, D, N)
ROW = torch.zeros(B, T, D, N)

MISTAKES = {
    "x of rank 3": ({"x": torch.randn(B, T, D)}, r"x must be 4-D .*\(2, 4, 6\)"),
    "no rows": ({"x": torch.randn(B, 0, T, D)}, r"x must have at least one of its rows.*\(2, 0"),
    "no columns": ({"x": torch.randn(B, V, 0, D)}, "x must have at least one of its columns"),
    "no channels": ({"x": torch.randn(B, V, T, 0)}, "x must have at least one of its channels"),
    "time of dt1": (
        {"dt1": torch.rand(B, V, T + 1, D)},
        r"dt1 must have shape .*\(2, 3, 4, 6\), got \(2, 3, 5, 6\)",
    ),
    "rank of dt2": ({"dt2": torch.rand(B, V, T)}, "dt2 must have shape"),
    "heads of dt2": ({"dt2": torch.rand(B, V, T, 4)}, r"heads of dt2 must divide the 6 .* got 4"),
    "no heads": ({"dt2": torch.rand(B, V, T, 0)}, "heads of dt2 must divide"),
    "dt1 missing": ({"dt1": None}, "dt1 must be given with discretization='zoh', got None"),
    "dt2 missing": ({"dt2": None}, "dt2 must be given"),
    "dt with none": (
        {"discretization": "none", "dt1": None},
        r"dt2 must be None with discretization='none', got shape \(2, 3, 4, 2\)",
    ),
    "softplus with none": ({**NONE, "dt_softplus": True}, "dt_softplus must be False"),
    "states of A1": (
        {"A1": -torch.rand(D, N + 1)},
        r"A1 must have shape \(6, 5\) or \(6, 1\) .*got \(6, 6\)",
    ),
    "channels of A4": ({"A4": -torch.rand(D + 1, N)}, r"A4 must have shape .*got \(7, 5\)"),
    "vector A2": ({"A2": -torch.rand(D)}, r"A2 must have shape .*got \(6,\)"),
    "A1 missing": ({"A1": None}, "A1 must be a tensor, got None"),
    "A4 missing": ({**NONE, "A4": None}, "A4 must be a tensor, got None"),
    "A2 missing": ({"A2": None}, "A2 must be a tensor with discretization='zoh', got None"),
    "A3 missing": (
        {"A3": None, "discretization": "mamba"},
        "A3 must be a tensor with discretization='mamba', got None",
    ),
    "B1 of a vector": ({"B1": torch.randn(N)}, "B1 must have at least 2 axes"),
    "no states": (
        {name: torch.randn(B, V, T, 0) for name in ("B1", "B2", "C1", "C2")},
        "between 1 and 64, got 0",
    ),
    "65 states": ({"B1": torch.randn(B, V, T, 65)}, "last axis of B1, .*between 1 and 64, got 65"),
    "states of C2": (
        {"C2": torch.randn(B, V, T, N - 1)},
        r"C2 must have shape \(2, 3, 4, 5\) .*\(6, 5\) \(static\).*got \(2, 3, 4, 4\)",
    ),
    "rows of B2": ({"B2": torch.randn(B, V + 1, T, N)}, "B2 must have shape"),
    "rank of B2": ({"B2": torch.randn(B, T, N)}, "B2 must have shape"),
    "static B2": ({"B2": torch.randn(D + 1, N)}, r"B2 must have shape \(6, 5\)"),
    "groups of C1": (
        {"C1": torch.randn(B, V, T, 4, N)},
        r"groups of C1 must divide the 6 channels of x, got 4",
    ),
    "D": ({"D": torch.randn(D - 1)}, r"D must have shape \(6,\)"),
    "z": ({"z": torch.randn(B, V, T, 1)}, r"z must have shape \(2, 3, 4, 6\)"),
    "bias": ({"dt2_bias": torch.randn(D)}, r"dt2_bias must have shape \(2,\) .*got \(6,\)"),
    "bias without a step": (
        {**NONE, "dt1_bias": torch.randn(D)},
        r"dt1_bias must be None without dt1, got shape \(6,\)",
    ),
    "discretization": ({"discretization": "bilinear"}, "discretization must be one of .*bilinear"),
    "structure": ({"structure": "dense"}, "structure must be one of .*dense"),
    "companion of another mode": (
        {"structure": "companion", "discretization": "mamba", "gamma": torch.zeros(D)},
        "discretization must be 'zoh' with structure='companion', got 'mamba'",
    ),
    "companion without gamma": (
        {"structure": "companion"},
        "gamma must be given with structure='companion'",
    ),
    "gamma alone": ({"gamma": torch.zeros(D)}, "gamma must be None with structure='diagonal'"),
    "gamma": (
        {"structure": "companion", "gamma": torch.zeros(D, 1)},
        r"gamma must have shape \(6,\)",
    ),
    "scalar companion": (
        {"structure": "companion", "gamma": torch.zeros(D), "A1": -torch.rand(D, 1)},
        r"A1 must have shape \(6, 5\) for",
    ),
    "column state": (
        {"initial_col_state": (STATE, ROW)},
        r"initial_col_state\[1\] must have shape \(2, 3, 6, 5\)",
    ),
    "row state": (
        {"initial_row_state": (STATE, ROW)},
        r"initial_row_state\[0\] must have shape \(2, 4, 6, 5\)",
    ),
    "backend": ({"backend": "triton"}, "backend must be one of"),
}


@pytest.mark.parametrize("function", [selective_scan_2d, selective_scan_2d_reference])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_named(mistake, function):
    changes, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message):
        call(function, **changes)


@pytest.mark.parametrize("name", ["x", "dt1", "A1", "A3", "B1", "C2", "D", "z", "dt2_bias"])
@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64])
def test_only_real_floating_tensors_are_taken(name, dtype):
    shapes = {"D": (D,), "dt2_bias": (2,), "A1": (D, N), "A3": (D, N), "B1": (D, N), "C2": (D, N)}
    with pytest.raises(TypeError, match=f"{name} must be") as caught:
        call(**{name: torch.ones(shapes.get(name, (B, V, T, D)), dtype=dtype)})
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("name", ["x", "dt1", "A2", "B2", "D", "initial_col_state"])
def test_not_a_tensor_is_refused(name):
    with pytest.raises(TypeError, match=f"{name} must be a.*got float"):
        call(**{name: 1.0})


@pytest.mark.parametrize(
    ("name", "shape"), [("dt1", (B, V, T, D)), ("A1", (D, N)), ("C2", (D, N)), ("D", (D,))]
)
def test_devices_must_agree(name, shape):
    with pytest.raises(ValueError, match=f"{name} must be on the device of x, cpu, got meta"):
        call(**{name: torch.zeros(shape, device="meta")})


def step(**changes):
    arguments = {
        "x_col": torch.randn(B, V, D),
        "dt1": torch.rand(B, V, D),
        "dt2": torch.rand(B, V, 2),
        **{name: -torch.rand(D, N) for name in ("A1", "A2", "A3", "A4")},
        **{name: torch.randn(B, V, N) for name in ("B1", "B2", "C1", "C2")},
        "col_state": None,
    }
    return selective_scan_2d_step(**{**arguments, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_col": torch.randn(B, V, 1, D)}, "x must be 3-D"),
        ({"dt1": torch.rand(B, V, 1, D)}, "dt1 must have shape"),
        ({"B1": torch.randn(B, V, 4, N)}, "groups of B1 must divide"),
        ({"C1": torch.randn(B, V + 1, N)}, "C1 must have shape"),
        ({"col_state": (STATE, STATE[:1])}, r"col_state\[1\] must have shape \(2, 3, 6, 5\)"),
        ({"discretization": "none"}, "dt2 must be None"),
    ],
)
def test_step_mistakes_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        step(**changes)


@pytest.mark.parametrize("shape", [(3,), (0, 4), (3, 4, 5)])
def test_a_kernel_needs_two_sizes(shape):
    one = torch.ones(1, 1)
    with pytest.raises(ValueError, match="shape must be two sizes"):
        roesser_kernel(*[one] * 8, shape)


def test_a_kernel_takes_constant_vectors_alone():
    one = torch.ones(1, 1)
    with pytest.raises(ValueError, match=r"B1 must be 2-D \(channels, state\)"):
        roesser_kernel(*[one] * 4, torch.ones(1, 1, 1, 1), *[one] * 3, (3, 4))


def test_mixed_precision_is_brought_to_the_widest():
    given = {"x": torch.randn(B, V, T, D).bfloat16(), "D": torch.randn(D, dtype=torch.float64)}
    torch.manual_seed(3)
    y = call(**given)
    torch.manual_seed(3)
    expected = call(x=given["x"].float(), D=given["D"].float())
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, expected.bfloat16())


def test_missing_kernels_warn_once_and_still_compute(monkeypatch):
    monkeypatch.setattr(_library, "_native", None)
    _library.warn_composite.cache_clear()
    with pytest.warns(UserWarning, match="selective_scan_2d runs as composite torch code"):
        call()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y = call()
    _library.warn_composite.cache_clear()
    assert y.isfinite().all()


def test_native_backend_without_kernels_says_how_to_get_them(monkeypatch):
    monkeypatch.setattr(_library, "_native", None)
    with pytest.raises(RuntimeError, match="Install rankone from source"):
        call(backend="native")
