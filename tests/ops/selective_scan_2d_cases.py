"""Inputs shared by the tests of the 2D selective scan on every backend."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .sequence_cases import SequenceCase

# (discretization, structure), every pair there is.
MODES = (
    ("zoh", "diagonal"),
    ("mamba", "diagonal"),
    ("exp", "diagonal"),
    ("none", "diagonal"),
    ("zoh", "companion"),
)


@dataclass
class Case(SequenceCase):
    """Random inputs of one shape; tensors that get gradients require them.

    ``vectors`` says of B1, B2, C1, C2 whether they are "static", one a cell ("cell") or one a cell
    and group ("group"); ``heads`` and ``groups`` divide the channels.
    """

    batch: int = 2
    rows: int = 4
    columns: int = 5
    channels: int = 6
    states: int = 3
    mode: tuple[str, str] = ("zoh", "diagonal")
    heads: tuple[int, int] = (6, 6)
    vectors: tuple[str, str, str, str] = ("cell", "cell", "cell", "cell")
    groups: int = 2
    scalar: bool = False
    coupled: tuple[bool, bool] = (True, True)
    extras: bool = True  # D, z, biases and softplus
    with_state: bool = True
    reverse: tuple[bool, bool] = (False, False)
    dtype: torch.dtype = torch.float64
    seed: int = 0
    rounded_to: torch.dtype | None = None

    def __post_init__(self):
        normal = self.normal()
        state = torch.float64 if self.dtype == torch.float64 else torch.float32
        discretization, structure = self.mode
        batch, channels, n = self.batch, self.channels, self.states
        cells = (batch, self.rows, self.columns)

        def positive(*shape):
            return torch.special.ndtr(normal(*shape, dtype=torch.float64))

        given = {"x": normal(*cells, channels), "dt1": None, "dt2": None}
        width = 1 if self.scalar else n
        if discretization == "none":
            for name in ("A1", "A2", "A3", "A4"):
                given[name] = (0.8 * positive(channels, width) - 0.4).to(state)
        else:
            for name, heads in zip(("dt1", "dt2"), self.heads, strict=True):
                raw = positive(*cells, heads) if not self.extras else normal(*cells, heads)
                given[name] = raw.to(self.dtype)
            for name in ("A1", "A4"):
                given[name] = -(0.2 + positive(channels, width)).to(state)
            limit = torch.sqrt(given["A1"] * given["A4"]).double()
            for name in ("A2", "A3"):
                given[name] = (limit * (1.8 * positive(channels, width) - 0.9)).to(state)
        if structure == "companion":
            for name in ("A1", "A2"):
                a = normal(channels, n, dtype=torch.float64)
                given[name] = (a / a.abs().sum(-1, keepdim=True)).to(state)
            given["gamma"] = (positive(channels) - 0.5).to(state)
        for name, keep in zip(("A2", "A3"), self.coupled, strict=True):
            given[name] = given[name] if keep else None
        shapes = {
            "static": (channels, n),
            "cell": (*cells, n),
            "group": (*cells, self.groups, n),
        }
        for name, form in zip(("B1", "B2", "C1", "C2"), self.vectors, strict=True):
            given[name] = normal(*shapes[form], dtype=state if form == "static" else self.dtype)
        if self.extras:
            given["D"] = normal(channels, dtype=state)
            given["z"] = normal(*cells, channels)
            if discretization != "none":
                for name, heads in zip(("dt1", "dt2"), self.heads, strict=True):
                    given[f"{name}_bias"] = normal(heads, dtype=state) - 1
        self.given = given
        self.states_in = ()
        if self.with_state:
            self.states_in = tuple(
                normal(batch, length, channels, n, dtype=state)
                for length in (self.rows, self.rows, self.columns, self.columns)
            )
        for tensor in self.differentiable():
            tensor.requires_grad_()

    def differentiable(self) -> tuple[Tensor, ...]:
        return (*(t for t in self.given.values() if t is not None), *self.states_in)

    def options(self) -> dict:
        softplus = self.extras and self.mode[0] != "none"
        return {
            "dt_softplus": softplus,
            "discretization": self.mode[0],
            "structure": self.mode[1],
            "reverse_rows": self.reverse[0],
            "reverse_cols": self.reverse[1],
        }

    def run(self, function, **changes) -> tuple[Tensor, ...]:
        """y, then both states of the last column and of the last row."""
        states = {}
        if self.states_in:
            states = {
                "initial_col_state": self.states_in[:2],
                "initial_row_state": self.states_in[2:],
            }
        y, (col, row) = function(
            **{**self.given, **self.options(), **states, **changes}, return_final_state=True
        )
        return y, *col, *row

    def rebuilt(self, tensors) -> "Case":
        """The same case with other differentiable tensors, in the order of ``differentiable``."""
        other = replace(self)
        given = iter(tensors)
        other.given = {
            name: None if tensor is None else next(given) for name, tensor in self.given.items()
        }
        other.states_in = tuple(next(given) for _ in self.states_in)
        return other

    def part(self, rows, columns) -> dict[str, Tensor | None]:
        """The tensors over cells of a rectangle of the grid, and the others as they are."""
        return {
            name: tensor[:, rows, columns] if tensor is not None and tensor.ndim > 2 else tensor
            for name, tensor in self.given.items()
        }

    def laid_out(self, layout: Callable[[Tensor], Tensor]) -> "Case":
        """The same numbers in leaves with other strides; matrices are transposed in memory."""
        tensors = [
            (layout(t) if t.ndim > 2 else t.mT.contiguous().mT if t.ndim == 2 else t)
            .detach()
            .requires_grad_()
            for t in self.differentiable()
        ]
        return self.rebuilt(tensors)

    def in_double(self) -> "Case":
        """The same numbers, held in float64."""
        doubled = [tensor.detach().double().requires_grad_() for tensor in self.differentiable()]
        other = self.rebuilt(doubled)
        other.dtype, other.rounded_to = torch.float64, self.dtype
        return other


# A sample of every axis: one row, one column, sizes that fit no tile in either axis, every form of
# vectors, shared steps, numbers of states that have a kernel of their own and some that have none.
SHAPES = (
    {"rows": 1, "columns": 1},
    {"rows": 1, "columns": 70, "with_state": False},
    {"rows": 70, "columns": 1},
    {"rows": 9, "columns": 21, "channels": 5, "heads": (1, 5), "batch": 1},
    {"rows": 17, "columns": 3, "states": 16, "channels": 4, "heads": (4, 2), "batch": 1},
    {"rows": 3, "columns": 7, "states": 1, "extras": False},
    {"rows": 3, "columns": 4, "states": 64, "channels": 2, "heads": (2, 1), "groups": 1},
    {"rows": 2, "columns": 9, "states": 8, "channels": 33, "heads": (33, 11), "groups": 3,
     "vectors": ("group", "static", "cell", "group")},
    {"states": 4, "channels": 12, "heads": (12, 3), "vectors": ("static", "group", "group", "cell"),
     "scalar": True, "reverse": (True, False)},
    {"states": 5, "vectors": ("static",) * 4, "reverse": (True, True), "extras": False},
    {"states": 32, "rows": 3, "columns": 11, "batch": 1, "channels": 3, "heads": (3, 1),
     "groups": 3, "reverse": (False, True)},
)  # fmt: skip


def applicable(shape: dict, mode: tuple[str, str]) -> dict:
    """A shape for a mode: the companion structure has no scalar form."""
    return {**shape, "scalar": False} if mode[1] == "companion" else shape


def layouts() -> tuple[Callable[[Tensor], Tensor], ...]:
    """Functions that lay the same (batch, rows, columns, ...) numbers out with other strides."""
    return (
        lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
        lambda x: torch.cat([x, x], -1)[..., : x.shape[-1]],
        lambda x: x.transpose(1, -1).contiguous().transpose(1, -1),
        lambda x: x.movedim(-1, 1).contiguous().movedim(1, -1),
        lambda x: x.movedim(0, -1).contiguous().movedim(-1, 0),
        lambda x: x.repeat_interleave(2, -1)[..., ::2],
    )
