"""What a benchmark is, and the one list of them.

A family adds a module with ``BENCHMARK = Benchmark(...)`` and its name to ``NAMES``. Timing,
memory, correctness and tables are shared: a family says which cases there are, how each contender
is called, how much work a case is, and how far a result lies from its float64 reference.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

NAMES = ("linear_attention", "delta_rule", "selective_scan_2d", "mixers")

Call = Callable[[], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Case:
    """One row of a table.

    Attributes:
        section: the table it stands in.
        mode: what one call does, such as "forward", "forward+backward" or "step".
        axes: sizes and forms, by the names that head their columns.
        dtype: of the inputs.
        memory: also measure the peak memory of each contender.
        graph: on CUDA, also time replays of a captured graph.
    """

    section: str
    mode: str
    axes: Mapping[str, int | str]
    dtype: torch.dtype = torch.float32
    memory: bool = False
    graph: bool = False

    def __str__(self) -> str:
        return f"{self.mode} " + " ".join(f"{name}={value}" for name, value in self.axes.items())


@dataclass(frozen=True)
class Work:
    """The least that a case asks for: each input read once, each output written once."""

    flops: float
    bytes: float


@dataclass(frozen=True)
class Contender:
    """One implementation.

    Attributes:
        name: the head of its column.
        prepare: (case, inputs) to a call without arguments that returns the result tensors.
        unavailable: (case, device) to the reason why it cannot run, or None.
        same_function: whether it computes what the subject computes, so that its error is checked.
    """

    name: str
    prepare: Callable[[Case, Any], Call]
    unavailable: Callable[[Case, torch.device], str | None] = lambda case, device: None
    same_function: bool = True


@dataclass(frozen=True)
class Goal:
    """A statement about the measured rows, and whether it holds."""

    statement: str
    measured: str
    holds: bool


@dataclass(frozen=True)
class Benchmark:
    """One op with its peers.

    Attributes:
        name: as on the command line and in the names of the result files.
        title: heading of the report.
        contenders: the first is the subject, with which all others are compared.
        cases: (device, quick) to the rows, in order.
        inputs: (case, device, seed) to the inputs that all contenders share. Nothing larger than
            the inputs themselves is allocated on the way, so that peak memory can be read.
        work: what a case costs at least.
        error: (case, inputs, results) to the largest relative error against float64.
        tolerance: the largest error that passes.
        goals: statements to check on the finished rows.
        notes: what a reader must know to read the numbers.
        figure: finished rows to a matplotlib figure, written beside the tables.
    """

    name: str
    title: str
    contenders: Sequence[Contender]
    cases: Callable[[torch.device, bool], Sequence[Case]]
    inputs: Callable[[Case, torch.device, int], Any]
    work: Callable[[Case], Work]
    error: Callable[[Case, Any, tuple[Tensor, ...]], float]
    tolerance: Callable[[Case], float]
    goals: Callable[[Sequence[Any], torch.device], Sequence[Goal]] = lambda rows, device: ()
    notes: Sequence[str] = field(default_factory=tuple)
    figure: Callable[[Sequence[Any]], Any] | None = None

    @property
    def subject(self) -> str:
        return self.contenders[0].name


def load(name: str) -> Benchmark:
    """The benchmark of this name.

    Raises:
        ValueError: where there is none.
    """
    if name not in NAMES:
        raise ValueError(f"op must be one of {NAMES}, got {name!r}")
    return importlib.import_module(f"bench.peers.{name}").BENCHMARK
