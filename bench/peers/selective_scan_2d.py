"""The 2D selective scan, and Mamba's scan over one axis, beside their peers.

``mamba-ssm`` has the scan over one axis alone, on CUDA. Every contender of a case computes the same
function. In a training call every tensor gets its gradient. Results are compared with the op in
float64, which the tests hold against the plain recurrence.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rankone.ops import selective_scan, selective_scan_2d
from rankone.ops._library import native_for
from torch import Tensor

from bench.peers.eager_selective_scan_2d import eager_selective_scan, eager_selective_scan_2d
from bench.peers.registry import Benchmark, Call, Case, Contender, Goal, Work

SUBJECT, COMPOSITE, EAGER, COPY, MAMBA = (
    "rankone", "rankone torch", "eager torch", "copy", "mamba-ssm",
)  # fmt: skip
GRID, LINE = "2D, zoh", "1D, mamba"

# Rounding of the inputs to the short dtypes is shared with the float64 run; what is left is that of
# the output, and of gradients summed in float32.
_TOLERANCE = {torch.float32: 2e-5, torch.float16: 3e-3, torch.bfloat16: 2e-2}
# On the CPU; against a loop in eager torch.
_GOAL = 20.0

# Per cell, channel and state of one kind: two exponentials, eight fused and six plain products.
_FLOPS = 22


@dataclass(frozen=True)
class Inputs:
    """The arguments of the op in order, all tensors, and the gradient of the output."""

    arguments: tuple[Tensor, ...]
    output_grad: Tensor | None


def _sizes(case: Case) -> tuple[int, int, int, int, int]:
    batch, rows, columns, channels, states = (int(case.axes[name]) for name in "BVTDN")
    return batch, rows, columns, channels, states


def inputs(case: Case, device: torch.device, seed: int) -> Inputs:
    """Normal inputs and steps, decay rates between 0.5 and 1.5, couplings half of their bound."""
    batch, rows, columns, channels, n = _sizes(case)
    generator = torch.Generator(device).manual_seed(seed)
    train = case.mode == "forward+backward"

    def normal(*shape: int, dtype: torch.dtype = case.dtype) -> Tensor:
        tensor = torch.empty(shape, device=device, dtype=dtype).normal_(generator=generator)
        return tensor.requires_grad_(train)

    def uniform(low: float, high: float) -> Tensor:
        tensor = torch.empty(channels, n, device=device).uniform_(low, high, generator=generator)
        return tensor.requires_grad_(train)

    skip = normal(channels, dtype=torch.float32)
    if case.axes["scan"] == LINE:
        tokens, vectors = (batch, channels, columns), (batch, n, columns)
        arguments = (normal(*tokens), normal(*tokens), uniform(-1.5, -0.5), normal(*vectors),
                     normal(*vectors), skip)  # fmt: skip
        output_shape: tuple[int, ...] = tokens
    else:
        cells = (batch, rows, columns)
        output_shape = (*cells, channels)
        arguments = (
            *(normal(*cells, channels) for _ in range(3)),
            uniform(-1.5, -0.5), uniform(-0.25, 0.25), uniform(-0.25, 0.25), uniform(-1.5, -0.5),
            *(normal(*cells, n) for _ in range(4)), skip,
        )  # fmt: skip
    grad = normal(*output_shape).detach() if train else None
    return Inputs(arguments, grad)


def _function(case: Case, backend: str) -> Callable[..., Tensor]:
    if case.axes["scan"] == LINE:
        return lambda *given: selective_scan(*given, delta_softplus=True, backend=backend)
    return lambda *given: selective_scan_2d(*given, dt_softplus=True, backend=backend)


def _prepare(choose: Callable[[Case], Callable[..., Tensor]]) -> Callable[[Case, Inputs], Call]:
    def prepare(case: Case, given: Inputs) -> Call:
        function = choose(case)
        if case.mode == "forward":
            return lambda: (function(*given.arguments),)

        def call() -> tuple[Tensor, ...]:
            output = function(*given.arguments)
            gradients = torch.autograd.grad(output, given.arguments, given.output_grad)
            return (output.detach(), *gradients)

        return call

    return prepare


def _eager(case: Case) -> Callable[..., Tensor]:
    return eager_selective_scan if case.axes["scan"] == LINE else eager_selective_scan_2d


def _copy(case: Case, given: Inputs) -> Call:
    """A copy that reads and writes, together, the least bytes of the case."""
    source = torch.zeros(int(work(case).bytes) // 8, device=given.arguments[0].device)
    target = torch.empty_like(source)
    return lambda: (target.copy_(source),)


def _mamba(case: Case) -> Callable[..., Tensor]:
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    return lambda *given: selective_scan_fn(*given, delta_softplus=True)


def _mamba_unavailable(case: Case, device: torch.device) -> str | None:
    if case.axes["scan"] != LINE:
        return "mamba-ssm scans one axis alone"
    if device.type != "cuda":
        return "mamba-ssm needs a CUDA device"
    if importlib.util.find_spec("mamba_ssm") is None:
        return "mamba-ssm is not installed"
    try:
        _mamba(case)
    except ImportError as error:
        return f"mamba-ssm does not import: {error}"
    return None


def _native_unavailable(case: Case, device: torch.device) -> str | None:
    if native_for("selective_scan_2d", device, case.dtype) is None:
        return f"this installation has no native kernels for {device.type}"
    return None


def work(case: Case) -> Work:
    """Flops of the recurrence, and bytes of each input read and each output written once.

    The backward pass runs the recurrence once more, forwards, and its adjoint backwards, which
    takes about twice the operations.
    """
    batch, rows, columns, channels, n = _sizes(case)
    element = torch.empty((), dtype=case.dtype).element_size()
    cells = batch * rows * columns
    kinds = 1 if case.axes["scan"] == LINE else 2
    flops = float(_FLOPS * kinds * cells * channels * n)
    read = cells * ((1 + kinds) * channels + 2 * kinds * n) * element
    parameters = 4 * channels * (1 + n * (1 if kinds == 1 else 4))
    written = cells * channels * element
    if case.mode == "forward":
        return Work(flops, read + parameters + written)
    return Work(4 * flops, 3 * read + 2 * parameters + 2 * written)


def error(case: Case, given: Inputs, results: tuple[Tensor, ...]) -> float:
    """Largest relative error of output and gradients against the op in float64, on the CPU."""
    exact = Inputs(
        tuple(
            tensor.detach().double().cpu().requires_grad_(tensor.requires_grad)
            for tensor in given.arguments
        ),
        None if given.output_grad is None else given.output_grad.double().cpu(),
    )
    expected = _prepare(lambda chosen: _function(chosen, "auto"))(case, exact)()
    errors = []
    for measured, wanted in zip(results, expected, strict=True):
        wanted = wanted.detach()
        difference = torch.linalg.vector_norm(measured.detach().double().cpu() - wanted)
        errors.append(float(difference / torch.linalg.vector_norm(wanted)))
    return max(errors)


def tolerance(case: Case) -> float:
    return _TOLERANCE[case.dtype]


def _cases(
    section: str, dtype: torch.dtype, scan: str, shapes: Sequence[tuple[int, int, int, int, int]],
    *, memory: bool = False,
) -> list[Case]:  # fmt: skip
    return [
        Case(
            section,
            mode,
            {"scan": scan, **dict(zip(("B", "V", "T", "D", "N"), shape, strict=True))},
            dtype,
            memory,
        )
        for mode in ("forward", "forward+backward")
        for shape in shapes
    ]


def cases(device: torch.device, quick: bool) -> list[Case]:
    """The series of a forecaster, longer ones, more variates, an image, and the line."""
    if device.type == "cuda":
        dtype = torch.bfloat16
        if quick:
            # Small enough for a loop over the cells in eager torch, and for float64 on the host.
            return [
                *_cases("Series", torch.float32, GRID, [(32, 7, 96, 128, 16)]),
                *_cases("Variates", dtype, GRID, [(8, 32, 96, 128, 16)]),
                *_cases("Image", dtype, GRID, [(2, 56, 56, 192, 16)]),
                *_cases("Line", dtype, LINE, [(2, 1, time, 1024, 16) for time in (1024, 4096)],
                        memory=True),
            ]  # fmt: skip
        lengths = (1024, 2048, 4096, 8192, 16384)
        return [
            *_cases("Series", torch.float32, GRID, [(32, 7, 96, 128, 16), (32, 7, 720, 128, 16)]),
            *_cases("Variates", dtype, GRID, [(8, v, 96, 128, 16) for v in (32, 321)]),
            *_cases("Image", dtype, GRID, [(16, 56, 56, 192, 16)]),
            *_cases("Line", dtype, LINE, [(8, 1, time, 2048, 16) for time in lengths], memory=True),
        ]
    dtype = torch.float32
    lengths = (96, 192) if quick else (48, 96, 192, 384, 768)
    states = (8,) if quick else (4, 8, 16, 32)
    variates = (32,) if quick else (32, 128)
    line = (512,) if quick else (512, 2048)
    return [
        *_cases("Length", dtype, GRID, [(8, 7, time, 64, 16) for time in lengths], memory=True),
        *_cases("States", dtype, GRID, [(8, 7, 96, 64, n) for n in states]),
        *_cases("Variates", dtype, GRID, [(2, v, 96, 64, 16) for v in variates]),
        *_cases("Line", dtype, LINE, [(2, 1, time, 256, 16) for time in line]),
    ]


def goals(rows: Sequence[Any], device: torch.device) -> list[Goal]:
    """The CPU goal: a score times eager torch, forwards and with gradients."""
    if device.type != "cpu":
        return []
    found = []
    for mode in ("forward", "forward+backward"):
        ratios = {
            str(row.case): row.ratio(EAGER).median
            for row in rows
            if row.case.mode == mode and row.case.axes["scan"] == GRID and EAGER in row.timings
        }
        if ratios:
            lowest = min(ratios, key=lambda case: ratios[case])
            found.append(
                Goal(
                    f"{mode}: at least {_GOAL:.0f} times as fast as {EAGER} on every grid",
                    f"{ratios[lowest]:.1f} times at least, at {lowest}",
                    ratios[lowest] >= _GOAL,
                )
            )
    return found


BENCHMARK = Benchmark(
    name="selective_scan_2d",
    title="2D selective scan",
    contenders=(
        Contender(SUBJECT, _prepare(lambda case: _function(case, "native")), _native_unavailable),
        Contender(COMPOSITE, _prepare(lambda case: _function(case, "torch"))),
        Contender(EAGER, _prepare(_eager)),
        Contender(COPY, _copy, same_function=False),
        Contender(MAMBA, _prepare(_mamba), _mamba_unavailable),
    ),
    cases=cases,
    inputs=inputs,
    work=work,
    error=error,
    tolerance=tolerance,
    goals=goals,
    notes=(
        "eager torch forms all coefficients at once and loops over the cells of a grid, or over "
        "time; rankone torch goes over anti-diagonals.",
        "copy moves the least bytes of the case, so that its ratio is the share of the copy rate "
        "at which the scan moves them.",
        "Flops count 22 a cell, channel, state and kind of state; the exponentials among them make "
        "a fraction of a matrix product's speed the most that can be reached.",
    ),
)
