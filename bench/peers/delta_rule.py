"""The delta rule and its gated forms beside their peers.

``recurrence`` is the definition, token by token in eager torch, timed where sequences are short.
``sdpa`` is softmax attention: another function of the same inputs, quadratic in time, and what one
would use instead. All others compute the same function. Keys have norm 1 and write strengths are
between 0 and 1, as in a trained layer; in a training call all of q, k, v, beta and the decay get
gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from rankone.ops import delta_rule, delta_rule_reference, delta_rule_step
from torch import Tensor

from bench.peers import sequence
from bench.peers.eager_delta_rule import eager_delta_rule, eager_delta_rule_step
from bench.peers.registry import Benchmark, Call, Case, Contender, Goal, Work
from bench.peers.sequence import COMPOSITE, EAGER, FLA, SDPA, SUBJECT, TRAIN, WINDOW

FORMS = ("none", "token", "channel")
RECURRENCE, FLASH_QLA = "recurrence", "flash-qla"
# The longest sequence that the token-by-token peer is timed on.
RECURRENCE_LIMIT = 512
# Of the counted work.
_CHUNK = 64


@dataclass(frozen=True)
class Inputs:
    """q, k, v, beta, the decay, and the gradient of the output or, for a step, the state."""

    q: Tensor
    k: Tensor
    v: Tensor
    beta: Tensor
    log_decay: Tensor | None
    output_grad: Tensor | None = None
    state: Tensor | None = None

    def arguments(self) -> tuple[Tensor | None, ...]:
        state = () if self.state is None else (self.state,)
        return (self.q, self.k, self.v, self.beta, *state, self.log_decay)

    def leaves(self) -> tuple[Tensor, ...]:
        decay = () if self.log_decay is None else (self.log_decay,)
        return (self.q, self.k, self.v, self.beta, *decay)


def _sizes(case: Case) -> tuple[int, int, int, int, int, str]:
    """Batch, time, heads of the keys, heads of the values, head dim and decay form."""
    axes = case.axes
    value_heads = int(axes.get("HV", axes["H"]))
    return (int(axes["B"]), int(axes.get("T", 1)), int(axes["H"]), value_heads, int(axes["D"]),
            str(axes["decay"]))  # fmt: skip


def inputs(case: Case, device: torch.device, seed: int) -> Inputs:
    """Normal q and v, unit keys, beta uniform in [0, 1), decays between 0.9 and 1."""
    batch, time, heads, value_heads, dim, decay = _sizes(case)
    draw = sequence.Draw(case, device, seed)
    token = (batch,) if case.mode == "step" else (batch, time)
    shape = {
        "none": None,
        "token": (*token, value_heads),
        "channel": (*token, value_heads, dim),
    }[decay]
    keys = draw.normal(*token, heads, dim)
    F.normalize(keys, dim=-1, out=keys)
    state_shape = (batch, value_heads, dim, dim)
    return Inputs(
        q=draw.normal(*token, heads, dim, leaf=True),
        k=keys.requires_grad_(draw.train),
        v=draw.normal(*token, value_heads, dim, leaf=True),
        beta=draw.uniform((*token, value_heads), 0.0, 1.0).requires_grad_(draw.train),
        log_decay=draw.log_decay(shape, learned=True),
        output_grad=draw.normal(*token, value_heads, dim) if draw.train else None,
        state=draw.normal(*state_shape, dtype=torch.float32) if case.mode == "step" else None,
    )


def _native(q, k, v, beta, log_decay):
    return delta_rule(q, k, v, beta, log_decay=log_decay, backend="native")[0]


def _composite(q, k, v, beta, log_decay):
    return delta_rule(q, k, v, beta, log_decay=log_decay, backend="torch")[0]


def _step(q, k, v, beta, state, log_decay):
    return delta_rule_step(q, k, v, beta, state, log_decay=log_decay)


def token_by_token(q, k, v, beta, log_decay):
    """The recurrence in eager torch, in the dtype of a state."""
    batch, time, value_heads, value_dim = v.shape
    state_dtype = torch.promote_types(q.dtype, torch.float32)
    state = q.new_zeros(batch, value_heads, q.shape[-1], value_dim, dtype=state_dtype)
    nothing = [None] * time
    decays = nothing if log_decay is None else log_decay.unbind(1)
    outputs = []
    tokens = (tensor.unbind(1) for tensor in (q, k, v, beta))
    for query, key, value, strength, decay in zip(*tokens, decays, strict=True):
        output, state = eager_delta_rule_step(query, key, value, strength, state, decay)
        outputs.append(output)
    return torch.stack(outputs, 1)


def _only_short(case: Case, device: torch.device) -> str | None:
    if case.mode == "step":
        return "is the eager step itself"
    if int(case.axes["T"]) > RECURRENCE_LIMIT:
        return f"is timed up to T = {RECURRENCE_LIMIT}"
    return None


def _fla_function(case: Case) -> tuple[Callable[..., Any], dict[str, str]]:
    """flash-linear-attention's kernel for a case and its name of the decay."""
    step, decay = case.mode == "step", case.axes["decay"]
    if decay == "none":
        from fla.ops.delta_rule import chunk_delta_rule, fused_recurrent_delta_rule

        return (fused_recurrent_delta_rule if step else chunk_delta_rule), {}
    if decay == "channel":
        from fla.ops.kda import chunk_kda, fused_recurrent_kda

        return (fused_recurrent_kda if step else chunk_kda), {"channel": "g"}
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule, fused_recurrent_gated_delta_rule

    return (fused_recurrent_gated_delta_rule if step else chunk_gated_delta_rule), {"token": "g"}


def _fla(case: Case, given: Inputs) -> Call:
    function, names = _fla_function(case)
    name = names.get(str(case.axes["decay"]))

    def run(q, k, v, beta, log_decay, **options):
        if name is not None:
            options[name] = log_decay
        return function(q=q, k=k, v=v, beta=beta, **options)

    if case.mode != "step":
        return sequence.whole(lambda *arguments: run(*arguments)[0])(case, given)
    tokens = [
        None if x is None else x[:, None]
        for x in (given.q, given.k, given.v, given.beta, given.log_decay)
    ]

    def call() -> tuple[Tensor, ...]:
        output, after = run(*tokens, initial_state=given.state, output_final_state=True)
        return output[:, 0], after

    return call


def _fla_unavailable(case: Case, device: torch.device) -> str | None:
    if device.type == "cuda" and "HV" in case.axes and case.axes["decay"] != "token":
        return "flash-linear-attention has grouped value heads in the gated form alone"
    return sequence.package_unavailable(
        "fla", "flash-linear-attention", device, lambda: _fla_function(case)
    )


def _flash_qla_function() -> Callable[..., Any]:
    from flash_qla import chunk_gated_delta_rule

    return chunk_gated_delta_rule


def _flash_qla(case: Case, given: Inputs) -> Call:
    function = _flash_qla_function()

    def run(q, k, v, beta, log_decay):
        scale = q.shape[-1] ** -0.5
        return function(q=q, k=k, v=v, g=log_decay, beta=beta, scale=scale)[0]

    return sequence.whole(run)(case, given)


def _flash_qla_unavailable(case: Case, device: torch.device) -> str | None:
    if device.type == "cuda" and (case.mode == "step" or case.axes["decay"] != "token"):
        return "FlashQLA has the gated form of whole sequences alone"
    return sequence.package_unavailable("flash_qla", "FlashQLA", device, _flash_qla_function)


def work(case: Case) -> Work:
    """Least flops of the chunked form with chunks of 64, lower triangles counted once, and bytes.

    The recurrence takes three products with the state a token and value head, for the prediction,
    the write and the read. Inside a chunk a token meets half of its 64 neighbours: its key and its
    query their keys, once a key head; its update and its output their updates. The backward pass
    recomputes the states and the updates.
    """
    batch, time, heads, value_heads, dim, decay = _sizes(case)
    tokens = batch * time
    square, triangle = 2.0 * dim * dim, 1.0 * _CHUNK * dim
    element = torch.empty((), dtype=case.dtype).element_size()
    row = 2 * (heads + value_heads) * dim * element
    gates = 4 * value_heads * (1 + {"none": 0, "token": 1, "channel": dim}[decay])
    if case.mode == "step":
        state = 2 * 4 * batch * value_heads * dim * dim
        return Work(tokens * value_heads * 3 * square, tokens * (row + gates) + state)
    flops = tokens * value_heads * (3 * square + 2 * triangle) + tokens * heads * 2 * triangle
    size = tokens * (row + gates)
    if case.mode == "forward":
        return Work(flops, size)
    # The states and updates again. Then six products with S or dS: du, dq, dk twice and dS twice.
    # Triangles: du, the transposed solve, the gradients of both matrices, dq once and dk thrice.
    backward = tokens * value_heads * (2 * square + triangle + 6 * square + 8 * triangle)
    backward += tokens * heads * 2 * triangle
    # q, k, v, do read; dq, dk, dv written; beta and decays read, their gradients written.
    moved = tokens * ((4 * heads + 3 * value_heads) * dim * element + 2 * gates)
    return Work(flops + backward, size + moved)


def error(case: Case, given: Inputs, results: tuple[Tensor, ...]) -> float:
    """Largest relative error of the results over the last tokens of the last key head.

    The state before the window comes from the composite code in float64, so that a window at the
    end of a long sequence holds the whole run to account; gradients there depend on later tokens
    alone, and on that state.
    """
    _, time, heads, value_heads, _, _ = _sizes(case)
    group = value_heads // heads
    step, train = case.mode == "step", case.mode == TRAIN
    start = max(0, time - WINDOW)
    counts = (1, 1, group, group, group)

    def last(tensor: Tensor | None, count: int) -> Tensor | None:
        """All tokens of the last heads of the last batch row."""
        if tensor is None:
            return None
        tensor = tensor[:, None] if step else tensor
        return tensor[-1:, :, -count:].detach().double().cpu()

    tensors = (given.q, given.k, given.v, given.beta, given.log_decay)
    whole = [last(tensor, count) for tensor, count in zip(tensors, counts, strict=True)]
    if step:
        assert given.state is not None
        state = given.state[-1:, -group:].double().cpu()
    else:
        state = _state_before(whole, start)
    window = [None if tensor is None else tensor[:, start:].clone() for tensor in whole]
    leaves = [tensor.requires_grad_(train) for tensor in window if tensor is not None]
    output, after = delta_rule_reference(
        *window[:4], log_decay=window[4], initial_state=state, output_final_state=True
    )

    def distance(measured: Tensor, expected: Tensor, count: int) -> float:
        return sequence.relative_error(last(measured, count)[:, start:], expected)

    errors = [distance(results[0], output.detach(), group)]
    if step:
        errors.append(sequence.relative_error(results[1][-1:, -group:].cpu(), after))
    if train:
        expected = torch.autograd.grad(output, leaves, last(given.output_grad, group)[:, start:])
        for measured, gradient, count in zip(results[1:], expected, counts, strict=False):
            errors.append(distance(measured, gradient, count))
    return max(errors)


def _state_before(tensors: Sequence[Tensor | None], start: int) -> Tensor | None:
    """S after ``start`` tokens, in float64."""
    q, k, v, beta, decay = (None if x is None else x[:, :start] for x in tensors)
    if start == 0:
        return None
    return delta_rule(
        q, k, v, beta, log_decay=decay, output_final_state=True, backend="torch"
    )[1]  # fmt: skip


def cases(device: torch.device, quick: bool) -> list[Case]:
    return sequence.cases(device, quick, forms=FORMS, length_form="token", head_axes=("HV", "H"))


def goals(rows: Sequence[Any], device: torch.device) -> list[Goal]:
    """Those of every sequence op, and time in proportion to length."""
    found = sequence.speed_goals(rows, device)
    if device.type == "cpu":
        found += sequence.growth_goals(rows)
    return found


BENCHMARK = Benchmark(
    name="delta_rule",
    title="The delta rule",
    contenders=(
        Contender(
            SUBJECT, sequence.with_step(_native, _step), sequence.native_unavailable("delta_rule")
        ),
        Contender(COMPOSITE, sequence.whole(_composite), sequence.not_for_steps),
        Contender(EAGER, sequence.with_step(eager_delta_rule, eager_delta_rule_step)),
        Contender(RECURRENCE, sequence.whole(token_by_token), _only_short),
        Contender(SDPA, sequence.softmax_attention, sequence.not_for_steps, same_function=False),
        Contender(FLA, _fla, _fla_unavailable),
        Contender(FLASH_QLA, _flash_qla, _flash_qla_unavailable),
    ),
    cases=cases,
    inputs=inputs,
    work=work,
    error=error,
    tolerance=sequence.tolerance,
    goals=goals,
    notes=(
        f"`{EAGER}`: chunks as batched matrix products and one triangular solve, of 32 tokens up "
        "to D = 64 and of 64 above (the faster ones here); backward by autograd "
        "(`bench/peers/eager_delta_rule.py`).",
        f'`{COMPOSITE}`: `backend="torch"`, the composite implementation with the exact handling '
        "of any decay and no stored states.",
        f"`{RECURRENCE}`: token by token in eager torch, up to T = {RECURRENCE_LIMIT}.",
        f"`{SDPA}`: `scaled_dot_product_attention(is_causal=True)`, another function of the same "
        "shapes.",
        "Flops are those of the chunked form with chunks of 64, lower triangles counted once.",
    ),
)
