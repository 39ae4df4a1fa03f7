"""Passes through a model with its units recorded or replayed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rankone.interpret._frozen_units import FrozenUnits

__all__ = ["check_evaluating", "eager", "plain", "record", "replay", "run"]


def check_evaluating(model: nn.Module) -> None:
    """Raise ValueError, naming it, for a module in training mode."""
    for name, module in model.named_modules():
        if module.training:
            place = f"its module {name!r}" if name else "it"
            raise ValueError(
                f"model must be in evaluation mode, but {place} ({type(module).__name__}) is in "
                "training mode: call model.eval()"
            )


@contextmanager
def plain() -> Iterator[None]:
    """No gradients; ordinary tensors, which a later transposed pass may use."""
    with torch.inference_mode(False), torch.no_grad(), eager():
        yield


@contextmanager
def eager() -> Iterator[None]:
    """Compiled modules run as they were written, where there can be any."""
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def run(model: nn.Module, units: FrozenUnits, u: Tensor) -> Tensor:
    """The model on a copy of u, so that in-place units leave u as it is."""
    inputs = u.clone()
    with units:
        output = model(inputs)
    units.finish()
    if not isinstance(output, Tensor):
        raise TypeError(
            f"model must return one tensor, got {type(output).__name__}: wrap it in a module that "
            "picks one"
        )
    if output.ndim == 0 or len(output) != len(u):
        raise ValueError(
            f"model must keep the batch as its first dimension: {tuple(u.shape)} became "
            f"{tuple(output.shape)}"
        )
    return output


def record(model: nn.Module, mode: str, X: Tensor) -> tuple[list[tuple[str, Any]], Tensor]:
    """The frozen units of a batch, and the model's output."""
    units = FrozenUnits(model, mode, len(X))
    with plain():
        output = run(model, units, X)
    return units.recorded, output


def replay(
    model: nn.Module, mode: str, gates: list[tuple[str, Any]], U: Tensor, reference: int
) -> Tensor:
    """The model on U with the units that ``reference`` samples recorded."""
    with plain():
        return run(model, FrozenUnits(model, mode, len(U), gates, reference), U)
