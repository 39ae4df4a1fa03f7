"""Rotary position embedding: consecutive channel pairs turned by position * base^(-2 i / dim)."""

from __future__ import annotations

import torch
from torch import Tensor


def apply_rotary(x: Tensor, positions: Tensor, *, base: float = 10000.0) -> Tensor:
    """Rotate channel pairs (2 i, 2 i + 1) of every head by an angle proportional to its position.

    Args:
        x: (batch, time, heads, dim), dim even.
        positions: (batch, time) integer.
        base: pair i turns by position * base^(-2 i / dim) radians.

    Returns:
        The rotated tensor, in the shape and dtype of ``x``; angles are float32.

    Raises:
        ValueError: if dim is odd.

    Source: "RoFormer", arXiv 2104.09864.

    Example:
        >>> import torch
        >>> from rankone.nn import apply_rotary
        >>> x = torch.randn(1, 1, 2, 8)
        >>> torch.equal(apply_rotary(x, torch.zeros(1, 1)), x)
        True
    """
    dim = x.shape[-1]
    if dim % 2:
        raise ValueError(f"the last axis of x must be even for rotary positions, got {dim}")
    pair = torch.arange(0, dim, 2, device=x.device, dtype=torch.float32)
    angle = positions.to(torch.float32)[..., None, None] * base ** (-pair / dim)
    cos, sin = angle.cos(), angle.sin()
    even, odd = x[..., 0::2], x[..., 1::2]
    rotated = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    return rotated.flatten(-2).to(x.dtype)
