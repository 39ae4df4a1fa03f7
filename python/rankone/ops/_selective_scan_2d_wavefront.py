"""The 2D selective scan in torch code: anti-diagonals of the grid one after another, any device.

A cell needs its left and its upper neighbour only, so the cells of one anti-diagonal are advanced
together: V + T - 1 steps; without a second state, whole columns. Coefficients are formed diagonal
by diagonal and never for the whole grid. The backward runs the adjoint recurrence over the
diagonals in reverse, on states kept by a second forward sweep.

    λ1[v,t] = C1 g + Ā1[v,t+1] λ1[v,t+1] + Ā3[v+1,t] λ2[v+1,t]
    λ2[v,t] = C2 g + Ā2[v,t+1] λ1[v,t+1] + Ā4[v+1,t] λ2[v+1,t]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from rankone.ops._sequence import state_dtype


@dataclass(frozen=True)
class Inputs:
    """What forward and backward read, in the order of the op's arguments.

    Per-cell tensors have one dtype: x and z are (B, V, T, D), steps (B, V, T, H). Input and output
    vectors are (B, V, T, G, N) of that dtype, or static (D, N). All others, and static vectors,
    have the state's dtype: A's are (D, N) or (D, 1), states (B, V or T, D, N) in the order of the
    scan. Without A4 there is no h2: rows are scans of their own, and dt2, A2, A3, B2, C2 and every
    state but col_h1 are None.
    """

    x: Tensor
    dt1: Tensor | None
    dt2: Tensor | None
    A1: Tensor
    A2: Tensor | None
    A3: Tensor | None
    A4: Tensor | None
    B1: Tensor
    B2: Tensor | None
    C1: Tensor
    C2: Tensor | None
    D: Tensor | None
    z: Tensor | None
    dt1_bias: Tensor | None
    dt2_bias: Tensor | None
    gamma: Tensor | None
    col_h1: Tensor | None
    col_h2: Tensor | None
    row_h1: Tensor | None
    row_h2: Tensor | None
    dt_softplus: bool
    discretization: str
    structure: str
    reverse_rows: bool
    reverse_cols: bool

    @property
    def state_size(self) -> int:
        return self.B1.shape[-1]

    @property
    def single_axis(self) -> bool:
        return self.A4 is None

    def tensors(self) -> tuple[Tensor | None, ...]:
        return tuple(getattr(self, name) for name in TENSORS)

    def with_tensors(self, tensors: Sequence[Tensor | None]) -> Inputs:
        changes: dict[str, Any] = dict(zip(TENSORS, tensors, strict=True))
        return dataclasses.replace(self, **changes)


TENSORS = tuple(field.name for field in dataclasses.fields(Inputs))[:20]
_CELLS = ("x", "dt1", "dt2", "z", "B1", "B2", "C1", "C2")

# Where |dt A| is below it, G and its derivative are Taylor series: the formulas lose
# eps / |dt A|**2 to cancellation. The terms left out are below 0.25**14 / 14! of the value.
_SERIES_BELOW = 0.25
_SERIES_TERMS = 14
# Of the softplus: log(1 + exp(-40)) is below the rounding of 40.
_SOFTPLUS_LINEAR_FROM = 40


def held_input(dt: Tensor, a: Tensor) -> Tensor:
    """G = (exp(dt a) - 1) / a, the integral of exp(s a) over a step; dt where a is 0."""
    exponent = dt * a
    small = exponent.abs() < _SERIES_BELOW
    near = torch.where(small, exponent, 0)
    series = torch.ones_like(near)
    for term in range(_SERIES_TERMS, 1, -1):
        series = 1 + series * near / term
    # dt itself may be infinite where it is not small.
    return torch.where(small, torch.where(small, dt, 0) * series, torch.expm1(exponent) / a)


def held_input_slope(dt: Tensor, a: Tensor) -> Tensor:
    """dG/da = (dt exp(dt a) - G) / a; dt**2 / 2 where a is 0."""
    exponent = dt * a
    small = exponent.abs() < _SERIES_BELOW
    near = torch.where(small, exponent, 0)
    # The sum of (k + 1) z**k / (k + 2)!.
    series, factor = torch.zeros_like(near), 1.0
    coefficients = []
    for k in range(_SERIES_TERMS):
        factor /= k + 2
        coefficients.append((k + 1) * factor)
    for coefficient in reversed(coefficients):
        series = coefficient + series * near
    growth = torch.where(exponent == -torch.inf, 0, dt * torch.exp(exponent))
    away = (growth - torch.expm1(exponent) / a) / a
    return torch.where(small, torch.where(small, dt, 0).square() * series, away)


def companion_product(coefficients: Tensor, state: Tensor) -> Tensor:
    """Comp(a) h: component i is h_{i-1} + a_i h_{N-1}, with h_{-1} = 0."""
    return functional.pad(state[..., :-1], (1, 0)) + coefficients * state[..., -1:]


def companion_adjoint(coefficients: Tensor, adjoint: Tensor) -> Tensor:
    """The transposed product: component i is λ_{i+1}, the last Σ a_i λ_i."""
    return torch.cat([adjoint[..., 1:], (coefficients * adjoint).sum(-1, keepdim=True)], -1)


@dataclass(frozen=True)
class _Axis:
    """One kind of state: the names of what moves it, and the coefficient of either kind."""

    step: str
    bias: str
    own: str
    other: str
    drive: str
    read: str


_TIME = _Axis("dt1", "dt1_bias", "A1", "A2", "B1", "C1")
_VARIATES = _Axis("dt2", "dt2_bias", "A4", "A3", "B2", "C2")


class _Cells:
    """The cells that are advanced together: (B, n, D, N) numbers, or broadcast to that."""

    def __init__(self, inputs: Inputs, rows: Tensor, columns: Tensor) -> None:
        self.inputs = inputs
        self.rows, self.columns = rows, columns
        self.channels = inputs.x.shape[-1]
        self.x = inputs.x[:, rows, columns][..., None]

    def raw_step(self, axis: _Axis) -> Tensor:
        dt = getattr(self.inputs, axis.step)[:, self.rows, self.columns]
        bias = getattr(self.inputs, axis.bias)
        return dt if bias is None else dt + bias

    def step(self, axis: _Axis) -> Tensor | None:
        if getattr(self.inputs, axis.step) is None:
            return None
        dt = self.raw_step(axis)
        if self.inputs.dt_softplus:
            dt = functional.softplus(dt, threshold=_SOFTPLUS_LINEAR_FROM)
        return dt.repeat_interleave(self.channels // dt.shape[-1], -1)[..., None]

    def vector(self, name: str) -> Tensor:
        vector = getattr(self.inputs, name)
        if vector.ndim == 2:
            return vector
        vector = vector[:, self.rows, self.columns]
        return vector.repeat_interleave(self.channels // vector.shape[-2], -2)

    def coefficients(self, axis: _Axis) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Factors of the own state, of the other kind's (None is 0), of the input (None is 1)."""
        dt = self.step(axis)
        own, other = getattr(self.inputs, axis.own), getattr(self.inputs, axis.other)
        if dt is None:
            return own, other, None
        mode = self.inputs.discretization
        hold = dt if mode == "mamba" else held_input(dt, own)
        if other is not None:
            other = torch.exp(dt * other) if mode == "exp" else hold * other
        return torch.exp(dt * own), other, hold

    def advance(self, axis: _Axis, own_state: Tensor, other_state: Tensor | None) -> Tensor:
        """The new states of a kind, from its own and the other kind's neighbours."""
        driven = self.vector(axis.drive) * self.x
        if axis is _TIME and self.inputs.structure == "companion":
            blend = self.blend()
            return own_state + blend * self.companion_change(own_state, other_state, driven)
        own, other, hold = self.coefficients(axis)
        new = own * own_state + (driven if hold is None else hold * driven)
        if other is not None and other_state is not None:
            new = new + other * other_state
        return new

    def blend(self) -> Tensor:
        dt = self.step(_TIME)
        assert dt is not None
        return -torch.expm1(-dt)

    def companion_change(self, h1: Tensor, h2: Tensor | None, driven: Tensor) -> Tensor:
        change = companion_product(self.inputs.A1, h1) - h1 + driven
        if h2 is None:
            return change
        assert self.inputs.A2 is not None
        assert self.inputs.gamma is not None
        return change + self.inputs.gamma[:, None] * companion_product(self.inputs.A2, h2)


@dataclass(frozen=True)
class _Advanced:
    """A group of cells with its neighbours' states and its own."""

    cells: _Cells
    left1: Tensor
    left2: Tensor | None
    up1: Tensor | None
    up2: Tensor | None
    h1: Tensor
    h2: Tensor | None


def _sweep(inputs: Inputs) -> Iterator[_Advanced]:
    """Every group of cells in turn; inputs in scan order and the state's dtype."""
    batch, rows, columns, channels = inputs.x.shape

    def border(state: Tensor | None, count: int) -> Tensor:
        if state is not None:
            return state
        return inputs.x.new_zeros(batch, count, channels, inputs.state_size)

    device = inputs.x.device
    # What each row computed last: the left neighbours of its next cell.
    front1 = border(inputs.col_h1, rows)
    if inputs.single_axis:
        every_row = torch.arange(rows, device=device)
        for column in range(columns):
            cells = _Cells(inputs, every_row, torch.full_like(every_row, column))
            h1 = cells.advance(_TIME, front1, None)
            yield _Advanced(cells, front1, None, None, None, h1, None)
            front1 = h1
        return
    front2 = border(inputs.col_h2, rows)
    above1, above2 = border(inputs.row_h1, columns), border(inputs.row_h2, columns)
    for diagonal in range(rows + columns - 1):
        low, high = max(0, diagonal - columns + 1), min(rows, diagonal + 1)
        at_rows = torch.arange(low, high, device=device)
        cells = _Cells(inputs, at_rows, diagonal - at_rows)
        left1, left2 = front1[:, low:high], front2[:, low:high]
        up1, up2 = front1[:, max(low - 1, 0) : high - 1], front2[:, max(low - 1, 0) : high - 1]
        if low == 0:
            up1 = torch.cat([above1[:, diagonal : diagonal + 1], up1], 1)
            up2 = torch.cat([above2[:, diagonal : diagonal + 1], up2], 1)
        h1 = cells.advance(_TIME, left1, left2)
        h2 = cells.advance(_VARIATES, up2, up1)
        yield _Advanced(cells, left1, left2, up1, up2, h1, h2)
        front1 = torch.cat([front1[:, :low], h1, front1[:, high:]], 1)
        front2 = torch.cat([front2[:, :low], h2, front2[:, high:]], 1)


def _read(done: _Advanced) -> Tensor:
    """y of the cells before the gate."""
    cells = done.cells
    read = (cells.vector("C1") * done.h1).sum(-1)
    if done.h2 is not None:
        read = read + (cells.vector("C2") * done.h2).sum(-1)
    if cells.inputs.D is not None:
        read = read + cells.inputs.D * cells.x[..., 0]
    return read


def forward(inputs: Inputs, y: Tensor, final: Sequence[Tensor | None]) -> None:
    """Write y, and the states of the last column and row where they are wanted."""
    given = _prepared(inputs)
    columns = given.x.shape[2]
    col1, col2, row1, row2 = final
    last = y.shape[1] - 1
    result = torch.empty_like(given.x)
    for done in _sweep(given):
        rows, at = done.cells.rows, done.cells.columns
        read = _read(done)
        if given.z is not None:
            read = read * functional.silu(given.z[:, rows, at])
        result[:, rows, at] = read
        for col, row, state in ((col1, row1, done.h1), (col2, row2, done.h2)):
            if state is None:
                continue
            high = int(rows[-1])
            if col is not None:
                ends = (at == columns - 1).nonzero()[:, 0]
                col[:, rows[ends]] = state[:, ends]
            if row is not None and high == last:
                row[:, at[-1]] = state[:, -1]
    y.copy_(_flipped(result, inputs))


def backward(
    inputs: Inputs,
    y_grad: Tensor | None,
    final_grad: Sequence[Tensor | None],
    gradients: Sequence[Tensor | None],
) -> None:
    """Write the gradients that are wanted, one an input tensor; an incoming None is 0."""
    given = _prepared(inputs)
    dtype = given.x.dtype
    if y_grad is None:
        y_grad = torch.zeros_like(given.x)
    adjoint = _Adjoint(given, _flipped(y_grad.to(dtype), inputs), final_grad)
    for done in reversed(list(_sweep(given))):
        adjoint.take(done)
    for name, gradient in zip(TENSORS, gradients, strict=True):
        if gradient is None:
            continue
        found = adjoint.fronts[name] if name in adjoint.fronts else adjoint.found[name]
        if name in _CELLS and found.ndim > 2:
            found = _flipped(found, inputs)
        if name[0] == "A" and gradient.shape[-1] < found.shape[-1]:
            found = found.sum(-1, keepdim=True)
        gradient.copy_(found)


class _Adjoint:
    """The adjoint recurrence: gradients of every input tensor, in scan order."""

    def __init__(self, inputs: Inputs, y_grad: Tensor, final_grad: Sequence[Tensor | None]) -> None:
        batch, rows, columns, channels = inputs.x.shape
        n = inputs.state_size
        self.inputs, self.y_grad = inputs, y_grad
        self.found: dict[str, Tensor] = {}
        for name, tensor in zip(TENSORS, inputs.tensors(), strict=True):
            if tensor is not None:
                shape = (channels, n) if name[0] == "A" else tensor.shape
                self.found[name] = tensor.new_zeros(shape)
        lengths = {"col_h1": rows, "col_h2": rows, "row_h1": columns, "row_h2": columns}
        if inputs.single_axis:
            lengths = {"col_h1": rows}
        # What the cells to the right of, and below, the next ones add to their states' adjoints:
        # at first the gradients of the final states; in the end those of the initial ones.
        self.fronts = {
            name: inputs.x.new_zeros(batch, lengths[name], channels, n)
            if gradient is None
            else gradient.to(inputs.x.dtype, copy=True)
            for name, gradient in zip(lengths, final_grad, strict=False)
        }

    def take(self, done: _Advanced) -> None:
        cells, inputs = done.cells, self.inputs
        rows, columns = cells.rows, cells.columns
        g = self.y_grad[:, rows, columns]
        if inputs.z is not None:
            z = inputs.z[:, rows, columns]
            sigmoid = torch.sigmoid(z)
            self.found["z"][:, rows, columns] = g * _read(done) * sigmoid * (1 + z * (1 - sigmoid))
            g = g * z * sigmoid
        x_grad = torch.zeros_like(g)
        if inputs.D is not None:
            x_grad = x_grad + g * inputs.D
            self.found["D"] += (g * cells.x[..., 0]).sum((0, 1))
        g = g[..., None]
        col1 = self.fronts["col_h1"]
        adjoint1 = cells.vector("C1") * g + col1[:, rows]
        if done.h2 is not None:
            col2, row1, row2 = (self.fronts[name] for name in ("col_h2", "row_h1", "row_h2"))
            adjoint1 = adjoint1 + row1[:, columns]
        self._vector("C1", cells, g * done.h1)
        left1, left2, x1 = self._moved(_TIME, cells, adjoint1, done.left1, done.left2)
        col1[:, rows] = left1
        x_grad = x_grad + x1
        if done.h2 is not None:
            assert done.up2 is not None
            adjoint2 = cells.vector("C2") * g + col2[:, rows] + row2[:, columns]
            self._vector("C2", cells, g * done.h2)
            up2, up1, x2 = self._moved(_VARIATES, cells, adjoint2, done.up2, done.up1)
            col2[:, rows] = 0 if left2 is None else left2
            row2[:, columns] = up2
            row1[:, columns] = 0 if up1 is None else up1
            x_grad = x_grad + x2
        self.found["x"][:, rows, columns] = x_grad

    def _moved(
        self, axis: _Axis, cells: _Cells, adjoint: Tensor, own_state: Tensor,
        other_state: Tensor | None,
    ) -> tuple[Tensor, Tensor | None, Tensor]:  # fmt: skip
        """What the neighbours' own and other states get, and x; parameters are added up."""
        drive = cells.vector(axis.drive)
        if axis is _TIME and self.inputs.structure == "companion":
            return self._companion_moved(cells, adjoint, own_state, other_state, drive)
        own, other, hold = cells.coefficients(axis)
        held = adjoint if hold is None else adjoint * hold
        self._vector(axis.drive, cells, held * cells.x)
        dt, a = cells.step(axis), getattr(self.inputs, axis.own)
        c = getattr(self.inputs, axis.other)
        own_grad = adjoint * own_state
        other_grad = None if c is None or other_state is None else adjoint * other_state
        if dt is None:
            self._sum(axis.own, own_grad)
            if other_grad is not None:
                self._sum(axis.other, other_grad)
        else:
            own_grad = own_grad * own  # of dt a
            hold_grad = adjoint * drive * cells.x
            step_grad = a * own_grad
            if other_grad is not None:
                assert other is not None
                if self.inputs.discretization == "exp":
                    other_grad = other_grad * other  # of dt c
                    step_grad = step_grad + c * other_grad
                    self._sum(axis.other, dt * other_grad)
                else:
                    assert hold is not None
                    hold_grad = hold_grad + other_grad * c
                    self._sum(axis.other, hold * other_grad)
            if self.inputs.discretization == "mamba":
                step_grad = step_grad + hold_grad
                self._sum(axis.own, dt * own_grad)
            else:
                step_grad = step_grad + own * hold_grad
                self._sum(axis.own, dt * own_grad + held_input_slope(dt, a) * hold_grad)
            self._step(axis, cells, step_grad.sum(-1))
        to_other = None if other is None or other_state is None else adjoint * other
        return adjoint * own, to_other, (held * drive).sum(-1)

    def _companion_moved(
        self, cells: _Cells, adjoint: Tensor, h1: Tensor, h2: Tensor | None, drive: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        blend = cells.blend()
        held = blend * adjoint
        change = cells.companion_change(h1, h2, drive * cells.x)
        dt = cells.step(_TIME)
        assert dt is not None
        self._step(_TIME, cells, (torch.exp(-dt) * adjoint * change).sum(-1))
        self._vector("B1", cells, held * cells.x)
        self._sum("A1", held * h1[..., -1:])
        to_own = adjoint - held + companion_adjoint(self.inputs.A1, held)
        to_other = None
        if h2 is not None:
            assert self.inputs.A2 is not None
            assert self.inputs.gamma is not None
            gamma = self.inputs.gamma[:, None]
            self._sum("A2", gamma * held * h2[..., -1:])
            moved = companion_product(self.inputs.A2, h2)
            self.found["gamma"] += (held * moved).sum((0, 1, 3))
            to_other = companion_adjoint(self.inputs.A2, gamma * held)
        return to_own, to_other, (held * drive).sum(-1)

    def _sum(self, name: str, gradient: Tensor) -> None:
        self.found[name] += gradient.sum((0, 1))

    def _vector(self, name: str, cells: _Cells, gradient: Tensor) -> None:
        found = self.found[name]
        if found.ndim == 2:
            found += gradient.sum((0, 1))
        else:
            groups = gradient.unflatten(2, (found.shape[3], -1)).sum(3)
            found[:, cells.rows, cells.columns] = groups

    def _step(self, axis: _Axis, cells: _Cells, gradient: Tensor) -> None:
        found = self.found[axis.step]
        gradient = gradient.unflatten(2, (found.shape[3], -1)).sum(3)
        if self.inputs.dt_softplus:
            gradient = gradient * torch.sigmoid(cells.raw_step(axis))
        found[:, cells.rows, cells.columns] = gradient
        if axis.bias in self.found:
            self.found[axis.bias] += gradient.sum((0, 1))


def _prepared(inputs: Inputs) -> Inputs:
    """In the state's dtype and flipped so that both axes are scanned upwards."""
    dtype = state_dtype(inputs.x.dtype)
    tensors = []
    for name, tensor in zip(TENSORS, inputs.tensors(), strict=True):
        if tensor is not None:
            tensor = tensor.to(dtype)
            if name in _CELLS and tensor.ndim > 2:
                tensor = _flipped(tensor, inputs)
        tensors.append(tensor)
    return inputs.with_tensors(tensors)


def _flipped(tensor: Tensor, inputs: Inputs) -> Tensor:
    axes = [axis for axis, flip in ((1, inputs.reverse_rows), (2, inputs.reverse_cols)) if flip]
    return tensor.flip(axes) if axes else tensor
