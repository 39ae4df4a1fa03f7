"""Activations by the names that layers take as options."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def _one_plus_elu(x: Tensor) -> Tensor:
    return F.elu(x) + 1.0


def _identity(x: Tensor) -> Tensor:
    return x


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "relu": F.relu,
    "elu": F.elu,
    "1+elu": _one_plus_elu,
    "sigmoid": torch.sigmoid,
    "identity": _identity,
}


def activation_function(argument: str, name: str) -> Callable[[Tensor], Tensor]:
    """The activation called ``name``; ``argument`` is the option's name in the error message."""
    if name not in ACTIVATIONS:
        raise ValueError(f"{argument} must be one of {sorted(ACTIVATIONS)}, got {name!r}")
    return ACTIVATIONS[name]
