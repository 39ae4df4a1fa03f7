"""Arguments of the 2D selective scan: the checks, and the form in which the op takes them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rankone.ops import checks
from rankone.ops._selective_scan_2d_wavefront import TENSORS, Inputs
from rankone.ops._sequence import state_dtype

# In the order of rankone::ScanDiscretization and rankone::ScanStructure.
DISCRETIZATIONS = ("zoh", "mamba", "exp", "none")
STRUCTURES = ("diagonal", "companion")
# Of the kernels: the states of a cell stay in registers.
MAX_STATE = 64

State = tuple[Tensor, Tensor]
FinalState = tuple[State, State]

GRID = ("batch", "rows", "columns", "channels")
COLUMN = ("batch", "rows", "channels")


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {allowed}, got {value!r}")


def _check_real(name: str, tensor: object) -> None:
    checks.check_tensor(name, tensor)
    assert isinstance(tensor, Tensor)
    if tensor.is_complex():
        raise checks.DTypeError(f"{name} must be real, got {tensor.dtype}")
    checks.check_floating(name, tensor)


def _state_size(name: str, first: object) -> int:
    _check_real(name, first)
    assert isinstance(first, Tensor)
    if first.ndim < 2:
        raise ValueError(f"{name} must have at least 2 axes, got shape {checks.shape_of(first)}")
    size = first.shape[-1]
    if not 1 <= size <= MAX_STATE:
        raise ValueError(
            f"the state size, the last axis of {name}, must be between 1 and {MAX_STATE}, got "
            f"{size} in shape {checks.shape_of(first)}"
        )
    return size


def _check_grid(x: Tensor) -> None:
    for axis, name in ((1, "rows"), (2, "columns"), (3, "channels")):
        if axis < x.ndim and x.shape[axis] < 1:
            raise ValueError(f"x must have at least one of its {name}, got {checks.shape_of(x)}")


def _check_divides(name: str, tensor: Tensor, axis: int, what: str, channels: int) -> None:
    count = tensor.shape[axis]
    if count < 1 or channels % count:
        raise ValueError(
            f"the {what} of {name} must divide the {channels} channels of x, got {count} in shape "
            f"{checks.shape_of(tensor)}"
        )


def _check_step(name: str, dt: Tensor | None, x: Tensor, discretization: str) -> None:
    if discretization == "none":
        if dt is not None:
            raise ValueError(
                f"{name} must be None with discretization='none', got shape {checks.shape_of(dt)}"
            )
        return
    if dt is None:
        raise ValueError(f"{name} must be given with discretization={discretization!r}, got None")
    _check_real(name, dt)
    if dt.ndim != x.ndim or dt.shape[:-1] != x.shape[:-1]:
        raise ValueError(
            f"{name} must have shape (*{tuple(x.shape[:-1])}, heads), as x of shape "
            f"{checks.shape_of(x)}, got {checks.shape_of(dt)}"
        )
    _check_divides(name, dt, -1, "heads", x.shape[-1])


def _check_bias(name: str, bias: Tensor | None, step: str, dt: Tensor | None) -> None:
    if bias is None:
        return
    _check_real(name, bias)
    if dt is None:
        raise ValueError(f"{name} must be None without {step}, got shape {checks.shape_of(bias)}")
    checks.check_shape(name, bias, (dt.shape[-1],), f"as the last axis of {step}")


def _check_vector(name: str, vector: object, x: Tensor, size: int) -> None:
    """(D, N), one vector a cell, or one a cell and group."""
    _check_real(name, vector)
    assert isinstance(vector, Tensor)
    *cells, channels = x.shape
    if vector.ndim == 2:
        checks.check_shape(name, vector, (channels, size), "channels, state")
        return
    grouped = vector.ndim == len(cells) + 2
    expected = (*cells, vector.shape[-2], size) if grouped else (*cells, size)
    if tuple(vector.shape) != expected:
        raise ValueError(
            f"{name} must have shape {(*cells, size)} (one vector a cell), "
            f"(*{tuple(cells)}, groups, {size}) or {(channels, size)} (static), for x of shape "
            f"{checks.shape_of(x)}, got {checks.shape_of(vector)}"
        )
    if grouped:
        _check_divides(name, vector, -2, "groups", channels)


def _check_transitions(
    x: Tensor, size: int, transitions: dict[str, Tensor | None], discretization: str, structure: str
) -> None:
    channels = x.shape[-1]
    for name, a in transitions.items():
        if a is None:
            if name in ("A1", "A4") or discretization not in ("exp", "none"):
                where = "" if name in ("A1", "A4") else f" with discretization={discretization!r}"
                raise ValueError(f"{name} must be a tensor{where}, got None")
            continue
        _check_real(name, a)
        shapes = [(channels, size)]
        if structure == "diagonal" or name in ("A3", "A4"):
            shapes.append((channels, 1))
        # `in` takes a symbolic size of torch.compile for another than the number it stands for.
        if all(tuple(a.shape) != shape for shape in shapes):
            words = " or ".join(str(shape) for shape in shapes)
            raise ValueError(
                f"{name} must have shape {words} for x of shape {checks.shape_of(x)} and state "
                f"size {size}, got {checks.shape_of(a)}"
            )


def _check_states(name: str, state: object, sizes: tuple[int, ...], layout: str) -> None:
    if state is None:
        return
    if not isinstance(state, tuple | list) or len(state) != 2:
        raise TypeError(f"{name} must be a pair (h1, h2) of tensors, got {type(state).__name__}")
    for index, part in enumerate(state):
        checks.check_shape(f"{name}[{index}]", part, sizes, layout)
        _check_real(f"{name}[{index}]", part)


def prepare(
    x: Tensor,
    dt1: Tensor | None,
    dt2: Tensor | None,
    transitions: tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None],
    vectors: tuple[Tensor, Tensor | None, Tensor, Tensor | None],
    D: Tensor | None,
    *,
    single_axis: bool = False,
    z: Tensor | None = None,
    dt1_bias: Tensor | None = None,
    dt2_bias: Tensor | None = None,
    dt_softplus: bool = False,
    discretization: str = "zoh",
    structure: str = "diagonal",
    gamma: Tensor | None = None,
    reverse_rows: bool = False,
    reverse_cols: bool = False,
    col_state: State | None = None,
    row_state: State | None = None,
    col_name: str = "initial_col_state",
    layout: tuple[str, ...] = GRID,
) -> Inputs:
    """Check everything that does not need values, and bring the tensors into the op's form.

    Per-cell tensors of several dtypes are all brought to the widest, or to autocast's; parameters
    and states to the state's dtype. With ``single_axis`` there is no h2, and everything of it must
    be None.
    """
    _check_choice("discretization", discretization, DISCRETIZATIONS)
    _check_choice("structure", structure, STRUCTURES)
    if structure == "companion" and discretization != "zoh":
        raise ValueError(
            f"discretization must be 'zoh' with structure='companion', got {discretization!r}"
        )
    checks.check_rank("x", x, layout)
    _check_real("x", x)
    _check_grid(x)
    named_vectors = dict(zip(("B1", "B2", "C1", "C2"), vectors, strict=True))
    size = _state_size("B1", vectors[0])
    named_transitions = dict(zip(("A1", "A2", "A3", "A4"), transitions, strict=True))
    axes = 1 if single_axis else 2
    if not single_axis:
        _check_transitions(x, size, named_transitions, discretization, structure)
        _check_step("dt2", dt2, x, discretization)
    for name, vector in list(named_vectors.items())[:: 3 - axes]:
        _check_vector(name, vector, x, size)
    _check_step("dt1", dt1, x, discretization)
    _check_bias("dt1_bias", dt1_bias, "dt1", dt1)
    _check_bias("dt2_bias", dt2_bias, "dt2", dt2)
    if dt_softplus and discretization == "none":
        raise ValueError("dt_softplus must be False with discretization='none', got True")
    channels = x.shape[-1]
    if D is not None:
        _check_real("D", D)
        checks.check_shape("D", D, (channels,), "channels of x")
    if z is not None:
        _check_real("z", z)
        checks.check_shape("z", z, tuple(x.shape), "that of x")
    if structure == "companion":
        if gamma is None:
            raise ValueError("gamma must be given with structure='companion', got None")
        _check_real("gamma", gamma)
        checks.check_shape("gamma", gamma, (channels,), "channels of x")
    elif gamma is not None:
        raise ValueError(
            f"gamma must be None with structure={structure!r}, got shape {checks.shape_of(gamma)}"
        )
    batch, rows = x.shape[:2]
    _check_states(
        col_name, col_state, (batch, rows, channels, size), "batch, rows, channels, state"
    )
    if row_state is not None:
        sizes = (batch, x.shape[2], channels, size)
        _check_states("initial_row_state", row_state, sizes, "batch, columns, channels, state")
    given: dict[str, Tensor | None] = {
        "x": x, "dt1": dt1, "dt2": dt2, **named_transitions, **named_vectors, "D": D, "z": z,
        "dt1_bias": dt1_bias, "dt2_bias": dt2_bias, "gamma": gamma,
    }  # fmt: skip
    for name, state in (("col", col_state), ("row", row_state)):
        h1, h2 = (None, None) if state is None else state
        given |= {f"{name}_h1": h1, f"{name}_h2": h2}
    checks.check_same_device(given)
    options: tuple[Any, ...] = (
        dt_softplus, discretization, structure, reverse_rows, reverse_cols,
    )  # fmt: skip
    return Inputs(*_in_one_dtype(given), *options)


def _in_one_dtype(given: dict[str, Tensor | None]) -> list[Any]:
    x = given["x"]
    assert x is not None
    cells = {
        name: tensor
        for name, tensor in given.items()
        if tensor is not None and per_cell(name, tensor)
    }
    dtype = x.dtype
    for tensor in cells.values():
        dtype = torch.promote_types(dtype, tensor.dtype)
    under_autocast = checks.autocast_dtype(x)
    if under_autocast is not None and dtype != torch.float64:
        dtype = under_autocast
    result: list[Any] = []
    for name in TENSORS:
        entry = given[name]
        if entry is not None:
            entry = entry.to(dtype if name in cells else state_dtype(dtype))
            if name in cells and name[0] in "BC" and entry.ndim == x.ndim:
                entry = entry.unsqueeze(-2)
        result.append(entry)
    return result


def per_cell(name: str, tensor: Tensor) -> bool:
    """Whether an argument has an entry a cell, and not one a channel or border."""
    return name in ("x", "dt1", "dt2", "z") or (name[0] in "BC" and tensor.ndim > 2)
