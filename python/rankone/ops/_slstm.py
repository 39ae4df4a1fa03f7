"""sLSTM, xLSTM's scalar memory with recurrent gates: a loop over time with its own backward.

    raw^g_t = gates^g_t + y_{t-1} R_g + bias_g,  g one of i, f, z, o
    m_t = max(logsigmoid(raw^f) + m_{t-1}, raw^i)
    c_t = e^{logsigmoid(raw^f) + m_{t-1} - m_t} c_{t-1} + e^{raw^i - m_t} tanh(raw^z)
    n_t = the same with 1 for the tanh;   y_t = sigmoid(raw^o) c_t / n_t

y enters the gates, so time cannot be tiled. A step forward is one batched product over heads and a
few elementwise passes; what the backward needs of them apart from the recurrence is formed for all
steps at once, and the gradient of R is one product at the end. y does not depend on m, so no
gradient flows through it.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from rankone.ops import _sequence, checks
from rankone.ops._mlstm import check_state_tuple

GATES = 4


class SLSTMState(NamedTuple):
    """State of :func:`slstm`, each (N, H, D), float32 (float64 for float64 inputs).

    Attributes:
        y: last output.
        c: weighted sum of the inputs over exp(m).
        n: sum of the weights over exp(m); 0 where nothing was read.
        m: log of the factor taken out of c and n.
    """

    y: Tensor
    c: Tensor
    n: Tensor
    m: Tensor


def slstm(
    gates: Tensor,
    R: Tensor,
    bias: Tensor,
    *,
    initial_state: SLSTMState | tuple[Tensor, Tensor, Tensor, Tensor] | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, SLSTMState | None]:
    """sLSTM over whole sequences, one step after the other.

    Args:
        gates: (B, T, 4, H, D) what the inputs give to the gates' pre-activations, in the order
            i, f, z, o; float32, float64, float16 or bfloat16.
        R: (4, H, D, D) recurrent weights of each head: ``y @ R[g, h]`` is added to gate g.
        bias: (4, H, D) added to the pre-activations.
        initial_state: (y, c, n, m), each (N, H, D); None is the start of a sequence. m counts only
            where n is not 0. N is B, or the number of packed sequences.
        output_final_state: also return the state after the last token.
        cu_seqlens: (N + 1,) int32 or int64 offsets of sequences packed along time, B = 1. They run
            side by side, so the loop is as long as the longest.

    Returns:
        y: (B, T, H, D) in the dtype of gates.
        state: None, or :class:`SLSTMState`.

    Raises:
        ValueError: for wrong shapes, devices or values that are not finite (read on CPU tensors,
            elsewhere only with ``RANKONE_CHECK_VALUES=1``); the message names the argument.
        TypeError: for wrong dtypes (also a ``ValueError``).

    Source: "xLSTM: Extended Long Short-Term Memory", arXiv 2405.04517.

    Example:
        >>> import torch
        >>> from rankone.ops import slstm
        >>> gates = torch.randn(2, 10, 4, 3, 8)
        >>> y, state = slstm(gates, torch.zeros(4, 3, 8, 8), torch.zeros(4, 3, 8),
        ...                  output_final_state=True)
        >>> y.shape, state.c.shape
        (torch.Size([2, 10, 3, 8]), torch.Size([2, 3, 8]))
    """
    _check_arguments(gates, R, bias, initial_state, cu_seqlens)
    checks.check_flags({"output_final_state": output_final_state})
    dtype = _sequence.state_dtype(gates.dtype)
    heads, width = gates.shape[3:]
    if cu_seqlens is None:
        rows = gates
        lengths = torch.full((gates.shape[0],), gates.shape[1], device=gates.device)
    else:
        checks.check_cu_seqlens_values(cu_seqlens, gates.shape[1])
        offsets = cu_seqlens.to(device=gates.device, dtype=torch.int64)
        lengths = offsets.diff()
        row = torch.repeat_interleave(lengths, output_size=gates.shape[1])
        column = torch.arange(gates.shape[1], device=gates.device) - offsets[row]
        longest = int(lengths.max()) if lengths.numel() else 0
        padded = gates.new_zeros(lengths.shape[0], longest, *gates.shape[2:])
        rows = padded.index_put((row, column), gates[0])
    if initial_state is None:
        zeros = torch.zeros(rows.shape[0], heads, width, dtype=dtype, device=gates.device)
        initial_state = (zeros,) * 4
    with torch.autocast(gates.device.type, enabled=False):
        raw = rows.to(dtype) + bias.to(dtype)
        before = (part.to(dtype) for part in initial_state)
        y, *after = _SLSTM.apply(raw, R.to(dtype), lengths, *before)
    if cu_seqlens is not None:
        y = y[row, column][None]
    return y.to(gates.dtype), SLSTMState(*after) if output_final_state else None


class _SLSTM(torch.autograd.Function):
    """(batch, time, 4, heads, dim) with the bias in it; every tensor of one dtype.

    Inside, tensors are (time, heads, batch, dim), so that the product with R is batched over heads
    and each step is contiguous.
    """

    @staticmethod
    def forward(
        ctx: Any, gates: Tensor, R: Tensor, lengths: Tensor, *state: Tensor
    ) -> tuple[Tensor, ...]:
        batch, time, _, heads, width = gates.shape
        raw = gates.permute(1, 3, 0, 2, 4).reshape(time, heads, batch, GATES * width)
        recurrent = R.permute(1, 2, 0, 3).reshape(heads, width, GATES * width)
        y, c, n, m = (part.transpose(0, 1) for part in state)
        # Without a past the first token's weight alone is the reference.
        m = torch.where(n == 0, -math.inf, m)
        states = raw.new_empty(4, time + 1, heads, batch, width)
        for part, start in zip(states, (y, c, n, m), strict=True):
            part[0] = start
        preactivations = torch.empty_like(raw)
        for t in range(time):
            step = torch.baddbmm(raw[t], states[0, t], recurrent, out=preactivations[t])
            i, f, z, o = step.split(width, dim=-1)
            log_forget = functional.logsigmoid(f) + states[3, t]
            m = torch.maximum(log_forget, i, out=states[3, t + 1])
            keep, write = torch.exp(log_forget - m), torch.exp(i - m)
            c = torch.addcmul(write * torch.tanh(z), keep, states[1, t], out=states[1, t + 1])
            n = torch.addcmul(write, keep, states[2, t], out=states[2, t + 1])
            torch.mul(torch.sigmoid(o), c / n, out=states[0, t + 1])
        ctx.save_for_backward(preactivations, recurrent, states, lengths)
        rows = torch.arange(batch, device=raw.device)
        after = [part[lengths, :, rows] for part in states]
        output = states[0, 1:].permute(2, 0, 1, 3).contiguous()
        ctx.mark_non_differentiable(after[3])
        return output, *after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast(gradients[0].device.type, enabled=False):
            return _backward(ctx.saved_tensors, gradients)


def _backward(
    saved: tuple[Tensor, ...], gradients: tuple[Tensor, ...]
) -> tuple[Tensor | None, ...]:
    """Gradients of the arguments of :class:`_SLSTM` from those of its results."""
    preactivations, recurrent, states, lengths = saved
    y, c, n, m = states
    time, heads, batch, width = c[1:].shape
    i, f, z, o = preactivations.split(width, dim=-1)
    keep = torch.exp(functional.logsigmoid(f) + m[:-1] - m[1:])
    write, value, gate = torch.exp(i - m[1:]), torch.tanh(z), torch.sigmoid(o)
    ratio = c[1:] / n[1:]
    gate_slope = ratio * gate * (1 - gate)
    to_c = gate / n[1:]
    to_n = -to_c * ratio
    forget_slope = keep * torch.sigmoid(-f)
    value_slope = write * (1 - value.square())

    output_grad = gradients[0].permute(1, 2, 0, 3)
    # The final state of a row is that after its own length; rows are padded behind it.
    ends = lengths[None, :, None]
    final = [gradient.transpose(0, 1) for gradient in gradients[1:4]]
    raw_grad = torch.empty_like(preactivations)
    transposed = recurrent.transpose(1, 2)
    dy, dc, dn = (torch.where(ends == time, part, 0.0) for part in final)
    for t in range(time - 1, -1, -1):
        dy = dy + output_grad[t]
        dc = torch.addcmul(dc, dy, to_c[t])
        dn = torch.addcmul(dn, dy, to_n[t])
        di, df, dz, do = raw_grad[t].split(width, dim=-1)
        torch.mul(dc * c[t] + dn * n[t], forget_slope[t], out=df)
        torch.mul(torch.addcmul(dn, dc, value[t]), write[t], out=di)
        torch.mul(dc, value_slope[t], out=dz)
        torch.mul(dy, gate_slope[t], out=do)
        dy = torch.bmm(raw_grad[t], transposed)
        dc, dn = dc * keep[t], dn * keep[t]
        if t == 0:
            m_grad = (dc * c[0] + dn * n[0]).transpose(0, 1)
        ended = ends == t
        dy, dc, dn = (
            torch.where(ended, part, running)
            for part, running in zip(final, (dy, dc, dn), strict=True)
        )
    if time == 0:
        m_grad = torch.zeros_like(gradients[1])
    # Time and batch are summed over at once.
    previous = y[:-1].transpose(0, 1).reshape(heads, time * batch, width)
    by_head = raw_grad.transpose(0, 1).reshape(heads, time * batch, GATES * width)
    R_grad = torch.bmm(previous.transpose(1, 2), by_head)
    R_grad = R_grad.unflatten(-1, (GATES, width)).permute(2, 0, 1, 3)
    gates_grad = raw_grad.unflatten(-1, (GATES, width)).permute(2, 0, 3, 1, 4)
    return (
        gates_grad, R_grad, None,
        dy.transpose(0, 1), dc.transpose(0, 1), dn.transpose(0, 1), m_grad,
    )  # fmt: skip


def _check_arguments(
    gates: Tensor,
    R: Tensor,
    bias: Tensor,
    state: tuple[Tensor, ...] | None,
    cu_seqlens: Tensor | None,
) -> None:
    checks.check_rank("gates", gates, ("batch", "time", "4", "heads", "dim"))
    batch, _, count, heads, width = gates.shape
    if count != GATES:
        raise ValueError(
            "gates must have 4 entries (i, f, z, o) on its third axis, "
            f"got shape {checks.shape_of(gates)}"
        )
    checks.check_floating("gates", gates)
    checks.check_shape("R", R, (GATES, heads, width, width), "gates, heads, dim, dim")
    checks.check_floating("R", R)
    checks.check_shape("bias", bias, (GATES, heads, width), "gates, heads, dim")
    checks.check_floating("bias", bias)
    if cu_seqlens is not None:
        checks.check_cu_seqlens(cu_seqlens, batch)
    tensors = {"gates": gates, "R": R, "bias": bias}
    if state is not None:
        sequences = _sequence.sequence_count(gates, cu_seqlens)
        shape, layout = (sequences, heads, width), "sequences, heads, dim"
        tensors |= check_state_tuple(
            "initial_state", state, SLSTMState._fields, (shape,) * 4, (layout,) * 4
        )
    checks.check_same_device({**tensors, "cu_seqlens": cu_seqlens})
    if not torch.compiler.is_compiling():
        for name in ("gates", "R", "bias"):
            checks.check_finite_values(name, tensors[name].contiguous())
