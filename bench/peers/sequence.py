"""What the benchmarks of the sequence ops share: contenders' calls, errors, grids and goals.

In a training call the tokens and learned decays (per token and per channel) get gradients; constant
decays per head get none, as fixed slopes in a model.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from rankone.ops._library import native_for
from torch import Tensor

from bench.peers.measure import SGEMM
from bench.peers.registry import Call, Case, Goal

SUBJECT, COMPOSITE, EAGER, SDPA, FLA = "rankone", "rankone torch", "eager torch", "sdpa", "fla"
TRAIN = "forward+backward"

# Tokens at the end of one head that are compared with the recurrence.
WINDOW = 96
# Twice the state's rounding for float32; half a unit in the last place of the operands and of the
# output, and of the state where a peer rounds it, for the short ones.
_TOLERANCE = {torch.float32: 1e-5, torch.float16: 3e-3, torch.bfloat16: 2e-2}
# What a spread of a fifth between rounds makes of the power over six doublings of the length.
_GROWTH_MARGIN = 0.05
_POWERS = tuple(2**power for power in range(8, 15))


class Inputs(Protocol):
    """The tensors of one case. A step's ``arguments`` hold the state as well."""

    q: Tensor
    k: Tensor
    v: Tensor
    output_grad: Tensor | None

    def arguments(self) -> tuple[Tensor | None, ...]:
        """What a contender is called with."""

    def leaves(self) -> tuple[Tensor, ...]:
        """What gets a gradient."""


# Drawing inputs.


class Draw:
    """Random tensors of one case, made on their device in place."""

    def __init__(self, case: Case, device: torch.device, seed: int) -> None:
        self.case, self.device = case, device
        self.train = case.mode == TRAIN
        self.generator = torch.Generator(device).manual_seed(seed)

    def normal(self, *shape: int, dtype: torch.dtype | None = None, leaf: bool = False) -> Tensor:
        tensor = torch.empty(shape, device=self.device, dtype=dtype or self.case.dtype)
        return tensor.normal_(generator=self.generator).requires_grad_(leaf and self.train)

    def uniform(self, shape: Sequence[int], low: float, high: float) -> Tensor:
        """Float32, without a gradient yet."""
        tensor = torch.empty(tuple(shape), device=self.device)
        return tensor.uniform_(low, high, generator=self.generator)

    def log_decay(self, shape: Sequence[int] | None, *, learned: bool) -> Tensor | None:
        """Logs of decays between 0.9 and 1."""
        if shape is None:
            return None
        return self.uniform(shape, 0.9, 1.0).log_().requires_grad_(learned and self.train)


# Contenders.


def whole(function: Callable[..., Any]) -> Callable[[Case, Any], Call]:
    """A contender that takes the arguments and returns the output alone."""

    def prepare(case: Case, given: Inputs) -> Call:
        arguments = given.arguments()
        if case.mode == "forward":
            return lambda: (function(*arguments),)
        leaves, output_grad = given.leaves(), given.output_grad

        def call() -> tuple[Tensor, ...]:
            output = function(*arguments)
            return (output.detach(), *torch.autograd.grad(output, leaves, output_grad))

        return call

    return prepare


def with_step(
    function: Callable[..., Any], step: Callable[..., Any]
) -> Callable[[Case, Any], Call]:
    """As :func:`whole`; ``step`` takes a step's arguments and returns the output and the state."""

    def prepare(case: Case, given: Inputs) -> Call:
        if case.mode != "step":
            return whole(function)(case, given)
        arguments = given.arguments()
        return lambda: step(*arguments)

    return prepare


def softmax_attention(case: Case, given: Inputs) -> Call:
    """Softmax attention on inputs of its own (batch, heads, time, dim) layout."""
    leaves = tuple(
        x.detach().transpose(1, 2).contiguous().requires_grad_(x.requires_grad)
        for x in (given.q, given.k, given.v)
    )
    queries, keys, values = (leaf.shape[1] for leaf in leaves)

    def forward() -> Tensor:
        query, key, value = leaves
        if values > keys:  # grouped values: every value head is a head of its own
            query, key = (x.repeat_interleave(values // keys, dim=1) for x in (query, key))
        return F.scaled_dot_product_attention(
            query, key, value, is_causal=True, enable_gqa=queries > keys
        )

    if case.mode == "forward":
        return lambda: (forward(),)
    assert given.output_grad is not None
    output_grad = given.output_grad.transpose(1, 2).contiguous()

    def call() -> tuple[Tensor, ...]:
        output = forward()
        return (output.detach(), *torch.autograd.grad(output, leaves, output_grad))

    return call


def native_unavailable(op: str) -> Callable[[Case, torch.device], str | None]:
    def reason(case: Case, device: torch.device) -> str | None:
        if native_for(op, device, case.dtype) is None:
            return f"this installation has no native kernels for {device.type}"
        return None

    return reason


def not_for_steps(case: Case, device: torch.device) -> str | None:
    return "has no step of its own" if case.mode == "step" else None


def package_unavailable(
    package: str, name: str, device: torch.device, function: Callable[[], object]
) -> str | None:
    """Why a CUDA package cannot run, where ``function`` imports what is wanted from it."""
    if device.type != "cuda":
        return f"{name} needs a CUDA device"
    if importlib.util.find_spec(package) is None:
        return f"{name} is not installed"
    try:
        function()
    except ImportError as error:
        return f"{name} does not import: {error}"
    return None


# Errors.


def relative_error(measured: Tensor, expected: Tensor) -> float:
    expected = expected.double()
    difference = torch.linalg.vector_norm(measured.double() - expected)
    return float(difference / torch.linalg.vector_norm(expected))


def tolerance(case: Case) -> float:
    return _TOLERANCE[case.dtype]


# Grids.


def _both_modes(
    section: str, dtype: torch.dtype, axes: Sequence[dict], memory: bool = False
) -> list[Case]:
    return [
        Case(section, mode, shape, dtype, memory)
        for mode in ("forward", TRAIN)
        for shape in axes
    ]  # fmt: skip


def _grid(
    section: str,
    dtype: torch.dtype,
    *,
    batch: int,
    heads: int,
    lengths: Sequence[int],
    dims: Sequence[int],
    decays: Sequence[str],
    memory: bool = False,
) -> list[Case]:
    shapes = [
        {"T": time, "D": dim, "B": batch, "H": heads, "decay": decay}
        for dim in dims
        for decay in decays
        for time in lengths
    ]
    return _both_modes(section, dtype, shapes, memory)


def _heads_grid(
    dtype: torch.dtype, time: int, dim: int, pairs: Sequence[tuple[int, int]], axes: tuple[str, str]
) -> list[Case]:
    """``pairs`` are (more heads, fewer heads), of the two ``axes``."""
    shapes = [
        {"T": time, "D": dim, "B": 1, **dict(zip(axes, pair, strict=True)), "decay": "token"}
        for pair in pairs
    ]
    return _both_modes("Heads", dtype, shapes)


def _step_grid(
    dtype: torch.dtype,
    batches: Sequence[int],
    heads: int,
    dims: Sequence[int],
    decays: Sequence[str],
) -> list[Case]:
    return [
        Case("Decode step", "step", {"B": batch, "H": heads, "D": dim, "decay": decay}, dtype,
             graph=True)
        for dim in dims
        for decay in decays
        for batch in batches
    ]  # fmt: skip


def cases(
    device: torch.device,
    quick: bool,
    *,
    forms: Sequence[str],
    length_form: str,
    head_axes: tuple[str, str],
) -> list[Case]:
    """The rows of an op with these decay forms.

    ``length_form`` is swept over all lengths; ``head_axes`` name the axes of the more and of the
    fewer heads of a grouped call.
    """
    one = (length_form,)
    if device.type == "cuda":
        return _cuda_cases(quick, forms, one, head_axes)
    dtype = torch.float32
    if quick:
        return [
            *_grid("Length", dtype, batch=1, heads=4, lengths=(256, 1024), dims=(64,), decays=one,
                   memory=True),
            *_grid("Decay", dtype, batch=1, heads=4, lengths=(512,), dims=(64,), decays=forms),
            *_heads_grid(dtype, 512, 64, ((1, 1), (8, 2)), head_axes),
            *_step_grid(dtype, (1,), 8, (64,), one),
        ]  # fmt: skip
    return [
        *_grid("Length", dtype, batch=1, heads=4, lengths=_POWERS, dims=(64,), decays=one,
               memory=True),
        *_grid("Decay", dtype, batch=1, heads=4, lengths=(1024, 4096), dims=(64, 128),
               decays=forms),
        *_heads_grid(dtype, 2048, 64, ((1, 1), (4, 4), (16, 16), (16, 4)), head_axes),
        *_step_grid(dtype, (1, 16), 8, (64, 128), forms),
    ]  # fmt: skip


def _cuda_cases(
    quick: bool, forms: Sequence[str], one: Sequence[str], head_axes: tuple[str, str]
) -> list[Case]:
    dtype = torch.bfloat16
    if quick:
        return [
            *_grid("Length", dtype, batch=2, heads=64, lengths=(1024, 4096, 16384), dims=(128,),
                   decays=one, memory=True),
            *_grid("Decay", dtype, batch=2, heads=32, lengths=(4096,), dims=(64, 128),
                   decays=forms),
            *_heads_grid(dtype, 8192, 128, ((1, 1), (16, 16), (16, 4)), head_axes),
            *_step_grid(dtype, (1, 64), 64, (128,), (*one, "channel")),
        ]  # fmt: skip
    pairs = ((1, 1), (4, 4), (16, 16), (64, 64), (64, 8))
    return [
        *_grid("Length", dtype, batch=2, heads=64, lengths=_POWERS, dims=(64, 128), decays=one,
               memory=True),
        *_grid("Decay", dtype, batch=2, heads=32, lengths=(1024, 4096, 16384), dims=(64, 128),
               decays=forms),
        *_grid("Decay, float32", torch.float32, batch=2, heads=32, lengths=(4096,), dims=(64, 128),
               decays=forms),
        *_heads_grid(dtype, 16384, 128, pairs, head_axes),
        *_step_grid(dtype, (1, 64), 64, (64, 128), forms),
    ]  # fmt: skip


# Goals.


def at_least(rows: Sequence[Any], peer: str, limit: float, what: str) -> list[Goal]:
    """The goal that the peer takes ``limit`` times as long in every row; none without rows."""
    ratios = [(row.ratio(peer), row.case) for row in rows if peer in row.timings]
    if not ratios:
        return []
    least, case = min(ratios, key=lambda pair: pair[0].median)
    met = sum(ratio.median >= limit for ratio, _ in ratios)
    return [
        Goal(
            what,
            f"{met} of {len(ratios)} cases; least {least} at {case}",
            met == len(ratios),
        )
    ]


def speed_goals(rows: Sequence[Any], device: torch.device) -> list[Goal]:
    """The CPU goals: three times eager torch, and ahead of softmax attention from T = 1024."""
    if device.type != "cpu":
        return []
    found = []
    for mode in ("forward", TRAIN):
        for dim in sorted({int(row.case.axes["D"]) for row in rows if row.case.mode == mode}):
            chosen = [row for row in rows if row.case.mode == mode and row.case.axes["D"] == dim]
            long = [row for row in chosen if int(row.case.axes["T"]) >= 1024]
            start = f"{mode}, D = {dim}:"
            found += at_least(chosen, EAGER, 3.0, f"{start} {EAGER} takes at least 3 times as long")
            found += at_least(
                long, SDPA, 1.0, f"{start} {SDPA} takes at least 1 times as long from T = 1024"
            )
    return found


def growth_goals(rows: Sequence[Any]) -> list[Goal]:
    """That time grows with length as that of eager torch, or more slowly.

    Times are taken in units of the matrix product of the same rounds, so that a drift of the
    machine's speed falls out; what the caches hold ever less of falls on both sides.
    """
    found = []
    for mode in ("forward", TRAIN):
        lengths = [
            r for r in rows
            if r.case.mode == mode and r.case.section == "Length" and EAGER in r.timings
        ]  # fmt: skip
        if len(lengths) < 2:
            continue
        first, last = lengths[0], lengths[-1]
        longer = math.log(int(last.case.axes["T"]) / int(first.case.axes["T"]))
        own = math.log(first.ratio(SGEMM).median / last.ratio(SGEMM).median) / longer
        peer = own + math.log(last.ratio(EAGER).median / first.ratio(EAGER).median) / longer
        found.append(
            Goal(
                f"{mode}, D = {first.case.axes['D']}: time grows no faster with T than that of "
                f"{EAGER}",
                f"T^{own:.2f} against T^{peer:.2f} from T = {first.case.axes['T']} to "
                f"{last.case.axes['T']}",
                own <= peer + _GROWTH_MARGIN,
            )
        )
    return found
