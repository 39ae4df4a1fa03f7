"""Training of a forecaster in epochs: early stopping on a validation loss, the best state kept.

Unlike :func:`rankone.nn.train`, which runs a language model for a number of steps on endless
batches, a forecaster sees a finite set of windows several times and stops by validation.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from rankone._progress import Progress
from rankone.nn.training import interruptible

Loss = Callable[[Tensor, Tensor], Tensor]
Batches = Iterable[tuple[Tensor, Tensor]]


@dataclass
class TrainingHistory:
    """What the epochs of a fit gave.

    Attributes:
        train_loss: mean training loss, one number an epoch.
        validation_loss: one number an epoch, or empty without validation windows.
        best_epoch: number of the epoch, from 1, whose state was kept; 0 where none was finished.
        stopped_by: ``"max_epochs"``, ``"patience"`` or ``"interrupt"``.
        seconds: wall time.
    """

    train_loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    best_epoch: int = 0
    stopped_by: str = "max_epochs"
    seconds: float = 0.0


def halved_every_epoch(epoch: int) -> float:
    """Factor on the learning rate of an epoch, from 1: 1, 1, 1/2, 1/4, ...

    The schedule of the linear long-horizon forecasters (arXiv 2205.13504).
    """
    return 0.5 ** max(epoch - 2, 0)


def constant(epoch: int) -> float:
    """A learning rate that stays."""
    return 1.0


def fit_epochs(
    model: nn.Module,
    loss: Loss,
    train_batches: Callable[[], Batches],
    validation_batches: Callable[[], Batches] | None,
    *,
    validation_loss: Loss | None = None,
    max_epochs: int,
    patience: int | None,
    learning_rate: float,
    schedule: Callable[[int], float] = halved_every_epoch,
    gradient_clip: float | None = None,
    total_batches: int = 0,
    progress: bool = True,
) -> TrainingHistory:
    """Minimise a loss over batches with Adam; the model is left in its best state.

    Ctrl-C ends the run after the batch under way, and the best state until then is kept.

    Args:
        model: changed in place.
        loss: (lookbacks, targets) to a scalar.
        train_batches: makes the batches of one epoch.
        validation_batches: makes the validation batches; None validates on nothing, and the last
            state is the best.
        validation_loss: a loss of its own for validation, a mean over a batch's windows; None is
            the loss.
        max_epochs: passes over the training batches.
        patience: epochs without improvement after which to stop; None for never.
        learning_rate: of the first epoch.
        schedule: factor on it, by epoch from 1.
        gradient_clip: largest gradient norm, or None.
        total_batches: of one epoch, for the progress bar.
        progress: show a bar on a terminal.

    Returns:
        :class:`TrainingHistory`.

    Raises:
        FloatingPointError: where a training loss is not finite.
    """
    history = TrainingHistory()
    start = time.perf_counter()
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    best, best_loss, since = copy.deepcopy(model.state_dict()), math.inf, 0
    with interruptible() as stop, _bar(max_epochs * total_batches, progress) as bar:
        for epoch in range(1, max_epochs + 1):
            model.train()
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * schedule(epoch)
            total = windows = 0.0
            for lookbacks, targets in train_batches():
                value = loss(lookbacks, targets)
                number = value.item()
                if not math.isfinite(number):
                    raise FloatingPointError(f"the loss of epoch {epoch} is {number}")
                optimizer.zero_grad(set_to_none=True)
                value.backward()
                if gradient_clip is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), gradient_clip)
                optimizer.step()
                total += number * len(lookbacks)
                windows += len(lookbacks)
                bar.advance(1, f"epoch {epoch}, loss {number:.4f}")
                if stop():
                    break
            if stop():
                history.stopped_by = "interrupt"
                if not history.train_loss:
                    # Better a model that has learnt a little than the untrained one.
                    best = copy.deepcopy(model.state_dict())
                break
            history.train_loss.append(total / max(windows, 1))
            if validation_batches is None:
                best, history.best_epoch = copy.deepcopy(model.state_dict()), epoch
                continue
            current = mean_loss(model, validation_loss or loss, validation_batches())
            history.validation_loss.append(current)
            if current < best_loss:
                best, best_loss, since = copy.deepcopy(model.state_dict()), current, 0
                history.best_epoch = epoch
            else:
                since += 1
                if patience is not None and since >= patience:
                    history.stopped_by = "patience"
                    break
    model.load_state_dict(best)
    model.eval()
    history.seconds = time.perf_counter() - start
    return history


@torch.no_grad()
def mean_loss(model: nn.Module, loss: Loss, batches: Batches) -> float:
    """Mean of a loss over the windows of batches, in evaluation mode."""
    model.eval()
    total = windows = 0.0
    for lookbacks, targets in batches:
        total += loss(lookbacks, targets).item() * len(lookbacks)
        windows += len(lookbacks)
    return total / windows


@contextmanager
def _bar(total: int, wanted: bool) -> Iterator[Progress]:
    with Progress("fitting", total, enabled=wanted and total > 0) as bar:
        yield bar
