"""Chunks of time as eager torch code lays them out, the heads before them."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

CHUNK = 64


def chunked(tensor: Tensor, chunk: int) -> Tensor:
    """(B, T, H, ...) as (B, H, T / chunk, chunk, ...), with zeros after the last token."""
    missing = -tensor.shape[1] % chunk
    if missing:
        tensor = F.pad(tensor, (0, 0) * (tensor.ndim - 2) + (0, missing))
    return tensor.unflatten(1, (-1, chunk)).movedim(3, 1)


def whole_sequence(tensor: Tensor, time: int) -> Tensor:
    """The inverse of :func:`chunked`: (B, time, H, ...)."""
    return tensor.flatten(2, 3).movedim(1, 2)[:, :time]
