"""Training of a forecaster in epochs: early stopping on a validation loss, the best state kept.

A checkpoint after every epoch lets an interrupted fit go on as though it had not been.

Unlike :func:`rankone.nn.train`, which runs a language model for a number of steps on endless
batches, a forecaster sees a finite set of windows several times and stops by validation.
"""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rankone._files import write_whole
from rankone._progress import Progress
from rankone._repr import short_repr
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
        stopped_by: ``"max_epochs"``, ``"patience"``, ``"interrupt"``, or ``"closed form"`` where
            nothing was iterated.
        seconds: wall time, of all sessions of a resumed fit.
    """

    __repr__ = short_repr

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
    checkpoint: str | os.PathLike[str] | None = None,
    generator: torch.Generator | None = None,
    fingerprint: str = "",
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
        checkpoint: file that is written after every epoch, whole or not at all; where it is there
            at the start, the fit goes on from it.
        generator: of the order of batches, saved with the checkpoint.
        fingerprint: of the data and parameters, so that no other fit goes on from the file.

    Returns:
        :class:`TrainingHistory`.

    Raises:
        FloatingPointError: where a training loss is not finite.
        ValueError: for a checkpoint of another fit.
        FileNotFoundError: for a checkpoint in a folder that does not exist.
    """
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None and not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"no directory for the checkpoint {path}")
    run = _Run(model, torch.optim.Adam(model.parameters(), lr=learning_rate), generator)
    if path is not None and path.is_file():
        run.load(path, fingerprint)
    history = run.history
    before, start = history.seconds, time.perf_counter()
    with interruptible() as stop, _bar(max_epochs * total_batches, progress) as bar:
        bar.advance(run.epoch * total_batches)
        for epoch in range(run.epoch + 1, max_epochs + 1):
            if run.exhausted(patience):
                break
            model.train()
            for group in run.optimizer.param_groups:
                group["lr"] = learning_rate * schedule(epoch)
            total = windows = 0.0
            for lookbacks, targets in train_batches():
                value = loss(lookbacks, targets)
                number = value.item()
                if not math.isfinite(number):
                    raise FloatingPointError(f"the loss of epoch {epoch} is {number}")
                run.optimizer.zero_grad(set_to_none=True)
                value.backward()
                if gradient_clip is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), gradient_clip)
                run.optimizer.step()
                total += number * len(lookbacks)
                windows += len(lookbacks)
                bar.advance(1, f"epoch {epoch}, loss {number:.4f}")
                if stop():
                    break
            if stop():
                history.stopped_by = "interrupt"
                if not history.train_loss:
                    # Better a model that has learnt a little than the untrained one.
                    run.best = copy.deepcopy(model.state_dict())
                break
            history.train_loss.append(total / max(windows, 1))
            if validation_batches is None:
                run.keep(epoch)
            else:
                run.validated(mean_loss(model, validation_loss or loss, validation_batches()))
            history.seconds = before + time.perf_counter() - start
            if path is not None:
                run.save(path, fingerprint)
    if history.stopped_by != "interrupt" and run.exhausted(patience):
        history.stopped_by = "patience"
    model.load_state_dict(run.best)
    model.eval()
    history.seconds = before + time.perf_counter() - start
    return history


class _Run:
    """The state of one fit: all that a checkpoint holds."""

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Adam, generator: torch.Generator | None
    ) -> None:
        self.model, self.optimizer, self.generator = model, optimizer, generator
        self.history = TrainingHistory()
        self.best = copy.deepcopy(model.state_dict())

    @property
    def epoch(self) -> int:
        """Epochs that are finished."""
        return len(self.history.train_loss)

    def keep(self, epoch: int) -> None:
        self.best, self.history.best_epoch = copy.deepcopy(self.model.state_dict()), epoch

    def validated(self, loss: float) -> None:
        if loss < min(self.history.validation_loss, default=math.inf):
            self.keep(self.epoch)
        self.history.validation_loss.append(loss)

    def exhausted(self, patience: int | None) -> bool:
        """Whether so many epochs went by without improvement."""
        validated = len(self.history.validation_loss)
        return bool(
            patience is not None and validated and validated - self.history.best_epoch >= patience
        )

    def save(self, path: Path, fingerprint: str) -> None:
        contents: dict[str, Any] = {
            "fingerprint": fingerprint,
            "model": self.model.state_dict(),
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            "history": asdict(self.history),
            "cpu_random_state": torch.get_rng_state(),
        }
        if self.generator is not None:
            contents["order"] = self.generator.get_state()
        device = next(self.model.parameters()).device
        if device.type == "cuda":
            contents["cuda_random_state"] = torch.cuda.get_rng_state(device)
        write_whole(path, lambda file: torch.save(contents, file))

    def load(self, path: Path, fingerprint: str) -> None:
        device = next(self.model.parameters()).device
        contents = torch.load(path, map_location=device, weights_only=True)
        if contents["fingerprint"] != fingerprint:
            raise ValueError(
                f"checkpoint {path} is of a fit with other data or parameters; give another file, "
                "or remove it"
            )
        self.model.load_state_dict(contents["model"])
        self.optimizer.load_state_dict(contents["optimizer"])
        self.best = contents["best"]
        self.history = TrainingHistory(**contents["history"])
        torch.set_rng_state(contents["cpu_random_state"].cpu())
        if self.generator is not None:
            self.generator.set_state(contents["order"].cpu())
        if device.type == "cuda" and "cuda_random_state" in contents:
            torch.cuda.set_rng_state(contents["cuda_random_state"].cpu(), device)


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
