"""The selective scans as one writes them in eager torch: coefficients at once, then a loop.

The peers that rankone's kernels are held against. Exponentials and holds of the whole grid are
formed in a few large operations; only the recurrence is a loop, over the columns of a grid and the
rows of a column, or over time. The backward pass is autograd's, which keeps every state.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def eager_selective_scan_2d(
    x: Tensor,
    dt1: Tensor,
    dt2: Tensor,
    A1: Tensor,
    A2: Tensor,
    A3: Tensor,
    A4: Tensor,
    B1: Tensor,
    B2: Tensor,
    C1: Tensor,
    C2: Tensor,
    D: Tensor,
) -> Tensor:
    """The zoh scan of ``rankone.ops.selective_scan_2d`` with softplus steps and one group; the
    diagonals of A1 and A4 are not 0."""
    compute = torch.promote_types(x.dtype, torch.float32)
    dt1, dt2 = (F.softplus(dt.to(compute))[..., None] for dt in (dt1, dt2))
    inputs = x.to(compute)[..., None]
    B1, B2, C1, C2 = (vector.to(compute)[..., None, :] for vector in (B1, B2, C1, C2))
    hold1, hold2 = torch.expm1(dt1 * A1) / A1, torch.expm1(dt2 * A4) / A4
    own1, own2 = torch.exp(dt1 * A1), torch.exp(dt2 * A4)
    other1, other2 = hold1 * A2, hold2 * A3
    drive1, drive2 = hold1 * B1 * inputs, hold2 * B2 * inputs
    rows, columns = x.shape[1:3]
    zero = torch.zeros_like(drive1[:, 0, 0])
    # Unbound rather than indexed: the gradient of an index is as large as what it indexes.
    tensors = (drive1, own1, other1, drive2, own2, other2, C1, C2)
    cells = [[list(column.unbind(1)) for column in tensor.unbind(2)] for tensor in tensors]
    left = [(zero, zero)] * rows
    outputs = []
    for t in range(columns):
        above = (zero, zero)
        column = []
        for v in range(rows):
            drive_1, own_1, other_1, drive_2, own_2, other_2, read_1, read_2 = (
                part[t][v] for part in cells
            )
            h1 = torch.addcmul(drive_1, own_1, left[v][0])
            h1 = torch.addcmul(h1, other_1, left[v][1])
            h2 = torch.addcmul(drive_2, other_2, above[0])
            h2 = torch.addcmul(h2, own_2, above[1])
            above = (h1, h2)
            column.append((read_1 * h1 + read_2 * h2).sum(-1))
            left[v] = above
        outputs.append(torch.stack(column, 1))
    y = torch.stack(outputs, 2) + D * inputs[..., 0]
    return y.to(x.dtype)


def eager_selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor
) -> Tensor:
    """Mamba's scan of ``rankone.ops.selective_scan`` with softplus steps and one group."""
    compute = torch.promote_types(u.dtype, torch.float32)
    step = F.softplus(delta.to(compute))[..., None]
    inputs = u.to(compute)
    B, C = (vector.to(compute).transpose(1, 2)[:, None] for vector in (B, C))
    decay, drive = torch.exp(step * A[:, None]), step * B * inputs[..., None]
    state = torch.zeros_like(drive[:, :, 0])
    states = []
    for driven, kept in zip(drive.unbind(2), decay.unbind(2), strict=True):
        state = torch.addcmul(driven, kept, state)
        states.append(state)
    y = (torch.stack(states, 2) * C).sum(-1) + D[:, None] * inputs
    return y.to(u.dtype)
