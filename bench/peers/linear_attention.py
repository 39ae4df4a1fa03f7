"""Causal linear attention beside its peers.

``sdpa`` is softmax attention: another function of the same inputs, quadratic in time, and what one
would use instead. All others compute the same function. In a training call q, k, v and learned
decays (per token and per channel) get gradients; constant decays per head get none, as fixed slopes
in a model.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from rankone.ops import linear_attention, linear_attention_reference, linear_attention_step
from rankone.ops._library import native_for
from torch import Tensor

from bench.peers.eager_linear_attention import eager_linear_attention, eager_linear_attention_step
from bench.peers.registry import Benchmark, Call, Case, Contender, Goal, Work

SUBJECT, COMPOSITE, EAGER, SDPA, FLA = "rankone", "rankone torch", "eager torch", "sdpa", "fla"

# Tokens at the end of one head that are compared with the recurrence.
_WINDOW = 96
_CHUNK = 64
# Twice the state's rounding for float32; half a unit in the last place of the operands and of the
# output, and of the state where a peer rounds it, for the short ones.
_TOLERANCE = {torch.float32: 1e-5, torch.float16: 3e-3, torch.bfloat16: 2e-2}


@dataclass(frozen=True)
class Inputs:
    """q, k, v, the decay, and the gradient of the output or, for a step, the state."""

    q: Tensor
    k: Tensor
    v: Tensor
    log_decay: Tensor | None
    output_grad: Tensor | None = None
    state: Tensor | None = None

    def leaves(self) -> tuple[Tensor, ...]:
        learned = self.log_decay is not None and self.log_decay.requires_grad
        return (self.q, self.k, self.v, *((self.log_decay,) if learned else ()))


def _sizes(case: Case) -> tuple[int, int, int, int, int, str]:
    axes = case.axes
    kv_heads = int(axes.get("Hk", axes["H"]))
    return (int(axes["B"]), int(axes.get("T", 1)), int(axes["H"]), kv_heads, int(axes["D"]),
            str(axes["decay"]))  # fmt: skip


def inputs(case: Case, device: torch.device, seed: int) -> Inputs:
    """Normal q, k, v and decays between 0.9 and 1, by device, made in place."""
    batch, time, heads, kv_heads, dim, decay = _sizes(case)
    generator = torch.Generator(device).manual_seed(seed)
    train = case.mode == "forward+backward"
    token = (batch,) if case.mode == "step" else (batch, time)

    def normal(*shape: int, dtype: torch.dtype = case.dtype, leaf: bool = False) -> Tensor:
        tensor = torch.empty(shape, device=device, dtype=dtype).normal_(generator=generator)
        return tensor.requires_grad_(leaf and train)

    shape = {
        "none": None,
        "head": (kv_heads,),
        "token": (*token, kv_heads),
        "channel": (*token, kv_heads, dim),
    }[decay]
    log_decay = None
    if shape is not None:
        log_decay = torch.empty(shape, device=device).uniform_(0.9, 1.0, generator=generator).log_()
        log_decay.requires_grad_(train and decay != "head")
    return Inputs(
        normal(*token, heads, dim, leaf=True),
        normal(*token, kv_heads, dim, leaf=True),
        normal(*token, kv_heads, dim, leaf=True),
        log_decay,
        normal(*token, heads, dim) if train else None,
        normal(batch, kv_heads, dim, dim, dtype=torch.float32) if case.mode == "step" else None,
    )


def _whole(function: Callable[..., Any]) -> Callable[[Case, Inputs], Call]:
    """A contender that takes (q, k, v, log_decay) and returns the output alone."""

    def prepare(case: Case, given: Inputs) -> Call:
        arguments = (given.q, given.k, given.v, given.log_decay)
        if case.mode == "forward":
            return lambda: (function(*arguments),)
        leaves, output_grad = given.leaves(), given.output_grad

        def call() -> tuple[Tensor, ...]:
            output = function(*arguments)
            return (output.detach(), *torch.autograd.grad(output, leaves, output_grad))

        return call

    return prepare


def _with_step(
    function: Callable[..., Any], step: Callable[..., Any]
) -> Callable[[Case, Inputs], Call]:
    def prepare(case: Case, given: Inputs) -> Call:
        if case.mode != "step":
            return _whole(function)(case, given)
        arguments = (given.q, given.k, given.v, given.state, given.log_decay)
        return lambda: step(*arguments)

    return prepare


def _native(q, k, v, log_decay):
    return linear_attention(q, k, v, log_decay, backend="native")[0]


def _composite(q, k, v, log_decay):
    return linear_attention(q, k, v, log_decay, backend="torch")[0]


def _sdpa(case: Case, given: Inputs) -> Call:
    """Softmax attention on inputs of its own (batch, heads, time, dim) layout."""
    leaves = tuple(
        x.detach().transpose(1, 2).contiguous().requires_grad_(x.requires_grad)
        for x in (given.q, given.k, given.v)
    )
    grouped = given.q.shape[2] != given.k.shape[2]

    def forward() -> Tensor:
        return F.scaled_dot_product_attention(*leaves, is_causal=True, enable_gqa=grouped)

    if case.mode == "forward":
        return lambda: (forward(),)
    assert given.output_grad is not None
    output_grad = given.output_grad.transpose(1, 2).contiguous()

    def call() -> tuple[Tensor, ...]:
        output = forward()
        return (output.detach(), *torch.autograd.grad(output, leaves, output_grad))

    return call


def _fla_function(case: Case) -> tuple[Callable[..., Any], dict[str, str]]:
    """flash-linear-attention's kernel for a case and its name of the decay."""
    step = case.mode == "step"
    if case.axes["decay"] == "channel":
        from fla.ops.gla import chunk_gla, fused_recurrent_gla

        return (fused_recurrent_gla, {"channel": "gk"}) if step else (chunk_gla, {"channel": "g"})
    from fla.ops.simple_gla import chunk_simple_gla, fused_recurrent_simple_gla

    names = {"head": "g_gamma", "token": "g"}
    return (fused_recurrent_simple_gla if step else chunk_simple_gla), names


def _fla(case: Case, given: Inputs) -> Call:
    function, names = _fla_function(case)
    name = names.get(str(case.axes["decay"]))

    def run(q, k, v, log_decay, **options):
        if name is not None:
            options[name] = log_decay
        return function(q=q, k=k, v=v, **options)

    if case.mode != "step":
        return _whole(lambda *arguments: run(*arguments)[0])(case, given)
    q, k, v = (x[:, None] for x in (given.q, given.k, given.v))
    decay = given.log_decay
    if decay is not None and decay.ndim > 1:
        decay = decay[:, None]
    state = given.state

    def call() -> tuple[Tensor, ...]:
        output, after = run(q, k, v, decay, initial_state=state, output_final_state=True)
        return output[:, 0], after

    return call


def _fla_unavailable(case: Case, device: torch.device) -> str | None:
    if device.type != "cuda":
        return "flash-linear-attention needs a CUDA device"
    if importlib.util.find_spec("fla") is None:
        return "flash-linear-attention is not installed"
    if case.axes.get("Hk", case.axes["H"]) != case.axes["H"]:
        return "flash-linear-attention has no grouped heads here"
    try:
        _fla_function(case)
    except ImportError as error:
        return f"flash-linear-attention does not import: {error}"
    return None


def _native_unavailable(case: Case, device: torch.device) -> str | None:
    if native_for("linear_attention", device, case.dtype) is None:
        return f"this installation has no native kernels for {device.type}"
    return None


def _not_for_steps(case: Case, device: torch.device) -> str | None:
    return "has no step of its own" if case.mode == "step" else None


def work(case: Case) -> Work:
    """Least flops of the chunked form with chunks of 64, lower triangles counted once, and bytes.

    The recurrence takes 2 K V a token for the state and 2 K V for each query head; inside a chunk
    a token meets half of its 64 neighbours. The backward pass recomputes the state.
    """
    batch, time, heads, kv_heads, dim, decay = _sizes(case)
    tokens = batch * time
    square = 2.0 * dim * dim
    element = torch.empty((), dtype=case.dtype).element_size()
    numbers = tokens * dim * (2 * heads + 2 * kv_heads) * element
    gates = 4 * {"none": 0, "head": kv_heads, "token": tokens * kv_heads,
                 "channel": tokens * kv_heads * dim}[decay]  # fmt: skip
    flops = tokens * (heads + kv_heads) * square
    if case.mode == "step":
        return Work(flops, numbers + gates + 2 * 4 * batch * kv_heads * dim * dim)
    flops += tokens * heads * _CHUNK * 2.0 * dim
    if case.mode == "forward":
        return Work(flops, numbers + gates)
    # dq, dS and the state; dk and dv; five triangular products: scores, dA, dA K, A dO, dA Q.
    backward = tokens * (2 * heads + 3 * kv_heads) * square
    backward += tokens * heads * _CHUNK * 5.0 * dim
    # q, k, v, do read; dq, dk, dv written; learned decays read and their gradients written.
    moved = tokens * dim * (3 * heads + 4 * kv_heads) * element
    moved += gates * (1 if decay == "head" else 2)
    return Work(flops + backward, numbers + gates + moved)


def _relative(measured: Tensor, expected: Tensor) -> float:
    expected = expected.double()
    difference = torch.linalg.vector_norm(measured.double() - expected)
    return float(difference / torch.linalg.vector_norm(expected))


def error(case: Case, given: Inputs, results: tuple[Tensor, ...]) -> float:
    """Largest relative error of the results over the last tokens of the last kv head.

    The state before the window comes from its closed form in float64, so that a window at the end
    of a long sequence holds the whole run to account; gradients there depend on later tokens alone,
    and on that state.
    """
    _, time, heads, kv_heads, _, decay = _sizes(case)
    group = heads // kv_heads
    step = case.mode == "step"
    rows = slice(max(0, time - _WINDOW), time)

    def cut(tensor: Tensor, count: int) -> Tensor:
        tensor = tensor[:, None] if step else tensor
        return tensor[-1:, rows, -count:].detach().double().cpu()

    def last(tensor: Tensor, count: int = 1) -> Tensor:
        tensor = tensor[:, None] if step else tensor
        return tensor[-1:, :, -count:].detach().double().cpu()

    decays = None
    if given.log_decay is not None:
        whole = given.log_decay.detach().double().cpu()
        decays = whole[-1:] if decay == "head" else last(given.log_decay)
    if step:
        assert given.state is not None
        state = given.state[-1:, -1:].double().cpu()
    else:
        state = _state_before(last(given.k), last(given.v), decays, rows.start)
    window_decay = decays if decays is None or decay == "head" else decays[:, rows]
    window = [cut(given.q, group), cut(given.k, 1), cut(given.v, 1)]
    train = case.mode == "forward+backward"
    learned = train and decay in ("token", "channel")
    leaves = [*window, window_decay] if learned else window
    for leaf in leaves if train else ():
        leaf.requires_grad_()
    output, after = linear_attention_reference(
        *window, window_decay, initial_state=state, output_final_state=True
    )
    errors = [_relative(cut(results[0], group), output.detach())]
    if step:
        errors.append(_relative(results[1][-1:, -1:].cpu(), after))
    if train:
        assert given.output_grad is not None
        expected = torch.autograd.grad(output, leaves, cut(given.output_grad, group))
        counts = (group, 1, 1, 1)
        for measured, gradient, count in zip(results[1:], expected, counts, strict=False):
            errors.append(_relative(cut(measured, count), gradient))
    return max(errors)


def _state_before(k: Tensor, v: Tensor, decays: Tensor | None, start: int) -> Tensor:
    """S after ``start`` tokens of one head: sum_j k_j v_j^T times the decays of later tokens."""
    keys, values = k[0, :start, 0], v[0, :start, 0]
    if decays is not None:
        gates = decays.expand(1, k.shape[1], 1) if decays.ndim == 1 else decays
        gates = gates[0, :start, 0]
        gates = gates[:, None] if gates.ndim == 1 else gates
        later = gates.flip(0).cumsum(0).flip(0) - gates
        keys = keys * later.exp()
    return (keys.mT @ values)[None, None]


def tolerance(case: Case) -> float:
    return _TOLERANCE[case.dtype]


# The grids.


def cases(device: torch.device, quick: bool) -> list[Case]:
    return _cuda_cases(quick) if device.type == "cuda" else _cpu_cases(quick)


def _both(section: str, dtype: torch.dtype, axes: Sequence[dict], memory: bool = False):
    return [
        Case(section, mode, shape, dtype, memory)
        for mode in ("forward", "forward+backward")
        for shape in axes
    ]


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
    return _both(section, dtype, shapes, memory)


def _heads(dtype: torch.dtype, time: int, dim: int, heads: Sequence[tuple[int, int]]) -> list[Case]:
    shapes = [
        {"T": time, "D": dim, "B": 1, "H": count, "Hk": kv_heads, "decay": "token"}
        for count, kv_heads in heads
    ]
    return _both("Heads", dtype, shapes)


def _steps(dtype: torch.dtype, batches: Sequence[int], heads: int, dims: Sequence[int],
           decays: Sequence[str]) -> list[Case]:  # fmt: skip
    return [
        Case("Decode step", "step", {"B": batch, "H": heads, "D": dim, "decay": decay}, dtype,
             graph=True)
        for dim in dims
        for decay in decays
        for batch in batches
    ]  # fmt: skip


FORMS = ("none", "head", "token", "channel")
_POWERS = tuple(2**power for power in range(8, 15))


def _cpu_cases(quick: bool) -> list[Case]:
    dtype = torch.float32
    if quick:
        return [
            *_grid("Length", dtype, batch=1, heads=4, lengths=(256, 1024), dims=(64,),
                   decays=("head",), memory=True),
            *_grid("Decay", dtype, batch=1, heads=4, lengths=(512,), dims=(64,), decays=FORMS),
            *_heads(dtype, 512, 64, ((1, 1), (8, 2))),
            *_steps(dtype, (1,), 8, (64,), ("head",)),
        ]  # fmt: skip
    return [
        *_grid("Length", dtype, batch=1, heads=4, lengths=_POWERS, dims=(64,), decays=("head",),
               memory=True),
        *_grid("Decay", dtype, batch=1, heads=4, lengths=(1024, 4096), dims=(64, 128),
               decays=FORMS),
        *_heads(dtype, 2048, 64, ((1, 1), (4, 4), (16, 16), (16, 4))),
        *_steps(dtype, (1, 16), 8, (64, 128), FORMS),
    ]  # fmt: skip


def _cuda_cases(quick: bool) -> list[Case]:
    dtype = torch.bfloat16
    if quick:
        return [
            *_grid("Length", dtype, batch=2, heads=64, lengths=(1024, 4096, 16384), dims=(128,),
                   decays=("head",), memory=True),
            *_grid("Decay", dtype, batch=2, heads=32, lengths=(4096,), dims=(64, 128),
                   decays=FORMS),
            *_heads(dtype, 8192, 128, ((1, 1), (16, 16), (16, 4))),
            *_steps(dtype, (1, 64), 64, (128,), ("head", "channel")),
        ]  # fmt: skip
    return [
        *_grid("Length", dtype, batch=2, heads=64, lengths=_POWERS, dims=(64, 128),
               decays=("head",), memory=True),
        *_grid("Decay", dtype, batch=2, heads=32, lengths=(1024, 4096, 16384), dims=(64, 128),
               decays=FORMS),
        *_grid("Decay, float32", torch.float32, batch=2, heads=32, lengths=(4096,), dims=(64, 128),
               decays=FORMS),
        *_heads(dtype, 16384, 128, ((1, 1), (4, 4), (16, 16), (64, 64), (64, 8))),
        *_steps(dtype, (1, 64), 64, (64, 128), FORMS),
    ]  # fmt: skip


def goals(rows: Sequence[Any], device: torch.device) -> list[Goal]:
    """The CPU goals: three times eager torch, and ahead of softmax attention from T = 1024."""
    if device.type != "cpu":
        return []
    found = []
    for mode in ("forward", "forward+backward"):
        chosen = [row for row in rows if row.case.mode == mode and row.case.axes["D"] == 64]
        limits = {
            EAGER: (3.0, chosen),
            SDPA: (1.0, [r for r in chosen if r.case.axes["T"] >= 1024]),
        }
        for peer, (limit, candidates) in limits.items():
            ratios = [(row.ratio(peer), row.case) for row in candidates if peer in row.timings]
            if not ratios:
                continue
            least, case = min(ratios, key=lambda pair: pair[0].median)
            met = sum(ratio.median >= limit for ratio, _ in ratios)
            since = " from T = 1024" if peer == SDPA else ""
            found.append(
                Goal(
                    f"{mode}, D = 64: {peer} takes at least {limit:g} times as long{since}",
                    f"{met} of {len(ratios)} cases; least {least} at {case}",
                    met == len(ratios),
                )
            )
    return found


BENCHMARK = Benchmark(
    name="linear_attention",
    title="Causal linear attention",
    contenders=(
        Contender(SUBJECT, _with_step(_native, linear_attention_step), _native_unavailable),
        Contender(COMPOSITE, _whole(_composite), _not_for_steps),
        Contender(EAGER, _with_step(eager_linear_attention, eager_linear_attention_step)),
        Contender(SDPA, _sdpa, _not_for_steps, same_function=False),
        Contender(FLA, _fla, _fla_unavailable),
    ),
    cases=cases,
    inputs=inputs,
    work=work,
    error=error,
    tolerance=tolerance,
    goals=goals,
    notes=(
        f"`{EAGER}`: chunks of {_CHUNK} as batched matrix products, backward by autograd "
        "(`bench/peers/eager_linear_attention.py`).",
        f'`{COMPOSITE}`: `backend="torch"`, the composite implementation with the exact handling '
        "of any decay and no stored states.",
        f"`{SDPA}`: `scaled_dot_product_attention(is_causal=True)`, which has no decay: another "
        "function of the same shapes.",
        "Flops are those of the chunked form with chunks of 64, lower triangles counted once.",
    ),
)
