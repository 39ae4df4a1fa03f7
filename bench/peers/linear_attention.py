"""Causal linear attention beside its peers.

``sdpa`` is softmax attention: another function of the same inputs, quadratic in time, and what one
would use instead. All others compute the same function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from rankone.ops import linear_attention, linear_attention_reference, linear_attention_step
from torch import Tensor

from bench.peers import sequence
from bench.peers.eager_linear_attention import eager_linear_attention, eager_linear_attention_step
from bench.peers.registry import Benchmark, Call, Case, Contender, Work
from bench.peers.sequence import COMPOSITE, EAGER, FLA, SDPA, SUBJECT, TRAIN, WINDOW

FORMS = ("none", "head", "token", "channel")
# Of the counted work.
_CHUNK = 64


@dataclass(frozen=True)
class Inputs:
    """q, k, v, the decay, and the gradient of the output or, for a step, the state."""

    q: Tensor
    k: Tensor
    v: Tensor
    log_decay: Tensor | None
    output_grad: Tensor | None = None
    state: Tensor | None = None

    def arguments(self) -> tuple[Tensor | None, ...]:
        state = () if self.state is None else (self.state,)
        return (self.q, self.k, self.v, *state, self.log_decay)

    def leaves(self) -> tuple[Tensor, ...]:
        learned = self.log_decay is not None and self.log_decay.requires_grad
        return (self.q, self.k, self.v, *((self.log_decay,) if learned else ()))


def _sizes(case: Case) -> tuple[int, int, int, int, int, str]:
    axes = case.axes
    kv_heads = int(axes.get("Hk", axes["H"]))
    return (int(axes["B"]), int(axes.get("T", 1)), int(axes["H"]), kv_heads, int(axes["D"]),
            str(axes["decay"]))  # fmt: skip


def inputs(case: Case, device: torch.device, seed: int) -> Inputs:
    """Normal q, k, v and decays between 0.9 and 1."""
    batch, time, heads, kv_heads, dim, decay = _sizes(case)
    draw = sequence.Draw(case, device, seed)
    token = (batch,) if case.mode == "step" else (batch, time)
    shape = {
        "none": None,
        "head": (kv_heads,),
        "token": (*token, kv_heads),
        "channel": (*token, kv_heads, dim),
    }[decay]
    state_shape = (batch, kv_heads, dim, dim)
    return Inputs(
        log_decay=draw.log_decay(shape, learned=decay != "head"),
        q=draw.normal(*token, heads, dim, leaf=True),
        k=draw.normal(*token, kv_heads, dim, leaf=True),
        v=draw.normal(*token, kv_heads, dim, leaf=True),
        output_grad=draw.normal(*token, heads, dim) if draw.train else None,
        state=draw.normal(*state_shape, dtype=torch.float32) if case.mode == "step" else None,
    )


def _native(q, k, v, log_decay):
    return linear_attention(q, k, v, log_decay, backend="native")[0]


def _composite(q, k, v, log_decay):
    return linear_attention(q, k, v, log_decay, backend="torch")[0]


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
        return sequence.whole(lambda *arguments: run(*arguments)[0])(case, given)
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
    if device.type == "cuda" and case.axes.get("Hk", case.axes["H"]) != case.axes["H"]:
        return "flash-linear-attention has no grouped heads here"
    return sequence.package_unavailable(
        "fla", "flash-linear-attention", device, lambda: _fla_function(case)
    )


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


def error(case: Case, given: Inputs, results: tuple[Tensor, ...]) -> float:
    """Largest relative error of the results over the last tokens of the last kv head.

    The state before the window comes from its closed form in float64, so that a window at the end
    of a long sequence holds the whole run to account; gradients there depend on later tokens alone,
    and on that state.
    """
    _, time, heads, kv_heads, _, decay = _sizes(case)
    group = heads // kv_heads
    step = case.mode == "step"
    rows = slice(max(0, time - WINDOW), time)

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
    train = case.mode == TRAIN
    learned = train and decay in ("token", "channel")
    leaves = [*window, window_decay] if learned else window
    for leaf in leaves if train else ():
        leaf.requires_grad_()
    output, after = linear_attention_reference(
        *window, window_decay, initial_state=state, output_final_state=True
    )
    errors = [sequence.relative_error(cut(results[0], group), output.detach())]
    if step:
        errors.append(sequence.relative_error(results[1][-1:, -1:].cpu(), after))
    if train:
        assert given.output_grad is not None
        expected = torch.autograd.grad(output, leaves, cut(given.output_grad, group))
        counts = (group, 1, 1, 1)
        for measured, gradient, count in zip(results[1:], expected, counts, strict=False):
            errors.append(sequence.relative_error(cut(measured, count), gradient))
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


def cases(device: torch.device, quick: bool) -> list[Case]:
    return sequence.cases(device, quick, forms=FORMS, length_form="head", head_axes=("H", "Hk"))


BENCHMARK = Benchmark(
    name="linear_attention",
    title="Causal linear attention",
    contenders=(
        Contender(
            SUBJECT,
            sequence.with_step(_native, linear_attention_step),
            sequence.native_unavailable("linear_attention"),
        ),
        Contender(COMPOSITE, sequence.whole(_composite), sequence.not_for_steps),
        Contender(EAGER, sequence.with_step(eager_linear_attention, eager_linear_attention_step)),
        Contender(SDPA, sequence.softmax_attention, sequence.not_for_steps, same_function=False),
        Contender(FLA, _fla, _fla_unavailable),
    ),
    cases=cases,
    inputs=inputs,
    work=work,
    error=error,
    tolerance=sequence.tolerance,
    goals=sequence.speed_goals,
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
