"""Which call of a model breaks additivity: a trace of random projections.

A projection is linear, so what it says of x, y and x + y is what the tensors would say, and a trace
of a deep network takes no more memory than its calls have names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

__all__ = ["Call", "first_nonlinear", "projections"]

# Projections kept of every tensor: that both miss a change has probability 0.
_PROJECTIONS = 2
# Part of the tensors' norms that a sum of four projections may be off by in single precision.
_AUDIT_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Call:
    """What one call of an audited run did.

    Attributes:
        name: of the function or of the module's type.
        where: the module that called it, in words.
        entered, left: projections and norm of every floating tensor.
        module: whether it is a whole module, of use where nothing inside can be seen.
    """

    name: str
    where: str
    entered: tuple[Tensor, ...]
    left: tuple[Tensor, ...]
    module: bool = False


def projections(values: Any) -> tuple[Tensor, ...]:
    """Random projections, linear in each floating tensor, and its norm."""
    found: list[Tensor] = []
    for value in values if isinstance(values, tuple | list) else ():
        if isinstance(value, tuple | list):
            found += projections(value)
        elif isinstance(value, Tensor) and value.is_floating_point() and value.numel():
            flat = value.detach().flatten().to("cpu", torch.float64)
            found.append(torch.cat((_directions(flat.numel()) @ flat, flat.norm()[None])))
    return tuple(found)


# A network has few sizes of tensors, most of them in a row.
@lru_cache(maxsize=8)
def _directions(size: int) -> Tensor:
    generator = torch.Generator().manual_seed(size)
    return torch.randn(_PROJECTIONS, size, generator=generator, dtype=torch.float64)


def first_nonlinear(recorded: list[Call], runs: Sequence[list[Call]]) -> list[str]:
    """Calls that turn additive inputs into outputs that are not, in order and without repeats.

    Args:
        recorded: calls of the recording run at x.
        runs: calls of the replays at x, 0, p, q and p + q.

    Returns:
        Names with the modules that called them; a nested call before the one around it.
    """
    found: dict[str, None] = {}
    for reference, *calls in zip(recorded, *runs, strict=False):
        at_x, *probes = calls
        if len({(call.name, call.where) for call in (reference, *calls)}) > 1:
            found.setdefault(f"{reference.name}{reference.where} (not called for every input)")
            break
        entered = [call.entered for call in probes]
        left = [call.left for call in probes]
        if at_x.module and found:
            continue  # holds a call that is listed
        if _additive(entered) and not _additive(left):
            found.setdefault(f"{at_x.name}{at_x.where}")
        elif _equal(reference.entered, at_x.entered) and not _equal(reference.left, at_x.left):
            found.setdefault(f"{at_x.name}{at_x.where} (differs from call to call)")
    return list(found)


def _additive(tensors: Sequence[tuple[Tensor, ...]]) -> bool:
    return all(
        _within(zero + both - p - q, zero, both, p, q)
        for zero, p, q, both in zip(*tensors, strict=False)
    )


def _equal(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> bool:
    return all(_within(a - b, a, b) for a, b in zip(ours, theirs, strict=False))


def _within(difference: Tensor, *tensors: Tensor) -> bool:
    size = max(float(tensor[-1]) for tensor in tensors)
    return bool(difference[:-1].abs().max() <= _AUDIT_TOLERANCE * size)
