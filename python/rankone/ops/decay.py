"""Fixed per-head decays."""

from __future__ import annotations

import torch
from torch import Tensor


def _power_of_two_slopes(num_heads: int) -> list[float]:
    return [2.0 ** (-8.0 * (head + 1) / num_heads) for head in range(num_heads)]


def decay_slopes(
    num_heads: int,
    layer_idx: int | None = None,
    num_layers: int | None = None,
    kind: str = "alibi",
) -> Tensor:
    """Log-decays of fixed per-head exponential decay, one constant a head.

    ``"alibi"`` is the geometric series 2^(-8 (h + 1) / H) for H a power of two; for other H the
    series of the largest power of two P below H, followed by every second slope of that of 2P.
    With ``layer_idx`` l and ``num_layers`` L > 1 it is multiplied by 1 - l / (L - 1) + 1e-5, so
    that deeper layers forget less. ``"linear"`` is (8 h / H) (1 - l / L), where head 0 keeps
    everything.

    Args:
        num_heads: H, at least 1.
        layer_idx: l, from 0; None for no dependence on depth.
        num_layers: L; given together with ``layer_idx``.
        kind: ``"alibi"`` or ``"linear"``.

    Returns:
        (num_heads,) float32, all at most 0, for the ``log_decay`` of
        :func:`rankone.ops.linear_attention`.

    Raises:
        ValueError: for an unknown kind, no heads, or a layer outside ``range(num_layers)``.

    Source: arXiv 2401.04658 and the ALiBi slopes of arXiv 2108.12409.

    Example:
        >>> from rankone.ops import decay_slopes
        >>> decay_slopes(2)
        tensor([-0.0625, -0.0039])
    """
    if isinstance(num_heads, bool) or not isinstance(num_heads, int):
        raise TypeError(f"num_heads must be an integer, got {num_heads!r}")
    if num_heads < 1:
        raise ValueError(f"num_heads must be at least 1, got {num_heads}")
    if (layer_idx is None) != (num_layers is None):
        raise ValueError(f"layer_idx and num_layers go together, got {layer_idx} and {num_layers}")
    if layer_idx is not None and num_layers is not None and not 0 <= layer_idx < num_layers:
        raise ValueError(f"layer_idx must be in range({num_layers}), got {layer_idx}")

    if kind == "alibi":
        power = 1 << (num_heads.bit_length() - 1)
        slopes = _power_of_two_slopes(power)
        slopes += _power_of_two_slopes(2 * power)[0::2][: num_heads - power]
        factor = 1.0
        if layer_idx is not None and num_layers is not None and num_layers > 1:
            factor = 1.0 - layer_idx / (num_layers - 1) + 1e-5
    elif kind == "linear":
        slopes = [8.0 * head / num_heads for head in range(num_heads)]
        factor = 1.0
        if layer_idx is not None and num_layers is not None:
            factor = 1.0 - layer_idx / num_layers
    else:
        raise ValueError(f"kind must be 'alibi' or 'linear', got {kind!r}")
    return -torch.tensor([slope * factor for slope in slopes], dtype=torch.float32)
