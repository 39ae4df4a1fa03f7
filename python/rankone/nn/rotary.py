"""Rotary position embedding: channel pairs turned by position * base^(-2 i / dim)."""

from __future__ import annotations

import torch
from torch import Tensor

from rankone.ops.checks import check_tensor


def apply_rotary(
    x: Tensor,
    positions: Tensor,
    *,
    base: float = 10000.0,
    rotary_dim: int | None = None,
    interleaved: bool = True,
) -> Tensor:
    """Rotate channel pairs of every head by an angle proportional to its position.

    Args:
        x: (batch, time, heads, dim), dim even where all of it turns.
        positions: (batch, time) integer.
        base: pair i turns by position * base^(-2 i / rotary_dim) radians.
        rotary_dim: number of channels that turn, the first of a head; even; default dim. The rest
            passes as it is.
        interleaved: pair i is channels 2 i and 2 i + 1; otherwise channels i and
            i + rotary_dim / 2, as in GPT-NeoX.

    Returns:
        The rotated tensor, in the shape and dtype of ``x``; angles are float32.

    Raises:
        ValueError: if dim is odd, or rotary_dim is odd or not in 0..dim.

    Source: "RoFormer", arXiv 2104.09864.

    Example:
        >>> import torch
        >>> from rankone.nn import apply_rotary
        >>> x = torch.randn(1, 1, 2, 8)
        >>> torch.equal(apply_rotary(x, torch.zeros(1, 1)), x)
        True
    """
    check_tensor("x", x)
    check_tensor("positions", positions)
    dim = x.shape[-1] if rotary_dim is None else rotary_dim
    if rotary_dim is None and dim % 2:
        raise ValueError(f"the last axis of x must be even for rotary positions, got {dim}")
    if dim % 2 or not 0 <= dim <= x.shape[-1]:
        raise ValueError(f"rotary_dim must be even and in 0..{x.shape[-1]}, got {dim}")
    if dim == 0:
        return x
    turned, rest = x[..., :dim], x[..., dim:]
    pair = torch.arange(0, dim, 2, device=x.device, dtype=torch.float32)
    angle = positions.to(torch.float32)[..., None, None] * base ** (-pair / dim)
    cos, sin = angle.cos(), angle.sin()
    # Pairs lie side by side on the last axis, or across two halves.
    axis, split = (-1, (dim // 2, 2)) if interleaved else (-2, (2, dim // 2))
    first, second = turned.unflatten(-1, split).unbind(axis)
    rotated = torch.stack([first * cos - second * sin, first * sin + second * cos], dim=axis)
    rotated = rotated.flatten(-2).to(x.dtype)
    return rotated if dim == x.shape[-1] else torch.cat([rotated, rest], dim=-1)
