"""One training loop for every model: AdamW, warm-up and cosine, clipping, limits, resume.

A model is trained by minimising ``model(**batch).loss``. The loop is small on purpose: it owns the
optimiser, the learning rate and the checkpoint, and nothing of the model or the data.
"""

from __future__ import annotations

import itertools
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rankone._arguments import check_instance, check_size
from rankone._files import write_whole
from rankone._progress import Progress
from rankone._repr import short_repr
from rankone.ops.checks import check_tensor

Batch = Tensor | Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How :func:`train` optimises.

    Attributes:
        max_steps: optimiser steps in all, resumed ones included.
        max_seconds: seconds of training in all, resumed ones included. At least one of the two
            limits is needed. The learning rate follows ``max_steps`` where that is given, so that
            such a run can be repeated exactly; otherwise the clock.
        learning_rate: peak of the schedule.
        min_learning_rate: its end, as a fraction of the peak.
        warmup_steps: steps of linear increase from 0.
        weight_decay: of parameters with two or more axes; vectors, and parameters marked with
            ``_no_weight_decay``, do not decay.
        betas: AdamW's running-average factors.
        gradient_clip: largest global gradient norm; None for no clipping.
        autocast_dtype: ``torch.bfloat16`` for autocast in the forward pass, or None.

    Raises:
        ValueError: for no limit, or values out of range.

    Example:
        >>> from rankone.nn import TrainingConfig
        >>> TrainingConfig(max_steps=10, learning_rate=1e-3).betas
        (0.9, 0.95)
    """

    max_steps: int | None = None
    max_seconds: float | None = None
    learning_rate: float = 1e-3
    min_learning_rate: float = 0.1
    warmup_steps: int = 50
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    gradient_clip: float | None = 1.0
    autocast_dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        if self.max_steps is None and self.max_seconds is None:
            raise ValueError("max_steps or max_seconds must be given, got neither")
        for name in ("max_steps", "max_seconds", "gradient_clip"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if not 0 <= self.min_learning_rate <= 1:
            raise ValueError(f"min_learning_rate must be in [0, 1], got {self.min_learning_rate}")
        for name in ("warmup_steps", "weight_decay"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if self.autocast_dtype not in (None, torch.bfloat16):
            raise ValueError(
                "autocast_dtype must be None or torch.bfloat16 (float16 needs loss scaling), "
                f"got {self.autocast_dtype}"
            )


@dataclass(frozen=True)
class TrainingResult:
    """What :func:`train` did.

    Attributes:
        losses: loss of every step, resumed ones included.
        steps: number of optimiser steps.
        tokens: number of tokens read (elements of the batches' ``tokens``).
        seconds: training time.
        stopped_by: ``"max_steps"``, ``"max_seconds"``, ``"batches"`` (they ran out) or
            ``"interrupt"``.
    """

    __repr__ = short_repr

    losses: list[float]
    steps: int
    tokens: int
    seconds: float
    stopped_by: str

    @property
    def tokens_per_second(self) -> float:
        """Tokens trained on in a second of wall time."""
        return self.tokens / self.seconds if self.seconds else 0.0


def learning_rate_factor(step: int, progress: float, config: TrainingConfig) -> float:
    """Factor on the peak learning rate: linear warm-up times a cosine down to its minimum.

    Args:
        step: steps done before this one.
        progress: share of the run that is done, from 0 to 1.
        config: the schedule.

    Returns:
        The factor, between 0 and 1.

    Example:
        >>> from rankone.nn import TrainingConfig, learning_rate_factor
        >>> config = TrainingConfig(max_steps=100, warmup_steps=10, min_learning_rate=0.1)
        >>> round(learning_rate_factor(4, 0.0, config), 3)
        0.5
        >>> round(learning_rate_factor(100, 1.0, config), 3)
        0.1
    """
    check_instance("config", config, TrainingConfig)
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
    return warmup * (config.min_learning_rate + (1.0 - config.min_learning_rate) * cosine)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """AdamW groups: matrices decay, vectors and ``_no_weight_decay`` parameters do not.

    Args:
        model: its parameters that ask for gradients are taken.
        weight_decay: of the matrices.

    Returns:
        Two groups, as ``torch.optim.AdamW`` takes them.

    Example:
        >>> import torch
        >>> from rankone.nn import parameter_groups
        >>> [len(group["params"]) for group in parameter_groups(torch.nn.Linear(2, 2), 0.1)]
        [1, 1]
    """
    check_instance("model", model, nn.Module)
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            exempt = parameter.ndim < 2 or getattr(parameter, "_no_weight_decay", False)
            (others if exempt else decayed).append(parameter)
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def train(
    model: nn.Module,
    batches: Iterable[Batch],
    config: TrainingConfig,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    progress: bool = True,
    callback: Callable[[int, float], None] | None = None,
) -> TrainingResult:
    """Train a model until a limit, the end of the batches, or Ctrl-C.

    Ctrl-C ends the run after the step under way; the model keeps what it learnt, and the
    checkpoint is written. A second Ctrl-C interrupts at once.

    Args:
        model: ``model(**batch)`` returns an object with a scalar ``loss``.
        batches: token tensors (batch, time), which are their own labels, or mappings of the
            model's arguments. To resume, give the same batches from their beginning: those already
            read are passed over.
        config: how to optimise.
        checkpoint: file with model, optimiser, random state and history, written at the end and
            every ``checkpoint_every`` steps, each time whole or not at all.
        checkpoint_every: steps between checkpoints.
        resume: go on from ``checkpoint``. With ``max_steps`` as the limit, an interrupted and
            resumed run is the uninterrupted one, step by step.
        progress: show a progress bar; there is none when the output is not a terminal.
        callback: called with the number of steps done and the last loss after every step.

    Returns:
        :class:`TrainingResult`.

    Raises:
        FileNotFoundError: if there is nothing to resume from.
        ValueError: for checkpoint options that do not fit together.
        FloatingPointError: if a loss is not finite; the step is not taken.

    Example:
        >>> import torch
        >>> from rankone.nn import LanguageModel, LanguageModelConfig, TrainingConfig, train
        >>> model = LanguageModel(LanguageModelConfig(vocab_size=8, hidden_size=16, num_layers=1))
        >>> batches = [torch.randint(8, (2, 12)) for _ in range(3)]
        >>> train(model, batches, TrainingConfig(max_steps=3)).steps
        3
    """
    path = None if checkpoint is None else Path(checkpoint)
    if path is None and (resume or checkpoint_every is not None):
        raise ValueError("checkpoint must be given with resume or checkpoint_every, got None")
    if checkpoint_every is not None:
        check_size("checkpoint_every", checkpoint_every)
    if path is not None and not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"no directory for the checkpoint {path}")

    run = _Run(model, config)
    if path is not None and resume:
        run.load(path)
    was_training = model.training
    model.train()
    saved_at = run.step
    stream = itertools.islice(iter(batches), run.step, None)
    with interruptible() as interrupted, _progress_bar(progress, run) as show:
        while True:
            stopped_by = "interrupt" if interrupted() else run.limit()
            if stopped_by is None:
                with run.clock():
                    batch = next(stream, None)
                    if batch is not None:
                        loss = run.take_step(batch)
                if batch is None:
                    stopped_by = "batches"
            if stopped_by is not None:
                break
            show()
            if callback is not None:
                callback(run.step, loss)
            if path is not None and checkpoint_every and run.step % checkpoint_every == 0:
                run.save(path)
                saved_at = run.step
    if path is not None and (saved_at != run.step or not path.exists()):
        run.save(path)
    model.train(was_training)
    return TrainingResult(run.losses, run.step, run.tokens, run.seconds, stopped_by)


@torch.no_grad()
def evaluate(model: nn.Module, tokens: Tensor, *, length: int, batch_size: int = 16) -> float:
    """Mean loss of a text, in nats a token, read in windows that each start afresh.

    Every token but the first is predicted once, from the tokens before it in its window.

    Args:
        model: ``model(tokens=, labels=)`` returns an object with a scalar ``cross_entropy``, the
            mean over the tokens after the first of each window.
        tokens: (n,) int64.
        length: tokens that are predicted a window.
        batch_size: windows that are read at once.

    Returns:
        The mean over the n - 1 predicted tokens.

    Raises:
        ValueError: for a text of fewer than 2 tokens, or sizes below 1.

    Example:
        >>> import torch
        >>> from rankone.nn import LanguageModel, LanguageModelConfig, evaluate
        >>> model = LanguageModel(LanguageModelConfig(vocab_size=8, hidden_size=16, num_layers=1))
        >>> 1.5 < evaluate(model, torch.randint(8, (100,)), length=16) < 3.0
        True
    """
    check_instance("model", model, nn.Module)
    check_tensor("tokens", tokens)
    if tokens.ndim != 1 or tokens.shape[0] < 2:
        raise ValueError(f"tokens must be 1-D with at least 2 entries, got {tuple(tokens.shape)}")
    if length < 1 or batch_size < 1:
        raise ValueError(f"length and batch_size must be at least 1, got {length} and {batch_size}")
    tokens = tokens.to(next(model.parameters()).device)
    predicted = tokens.shape[0] - 1
    whole = predicted // length * length
    batches: list[Tensor] = []
    if whole:
        batches += tokens[: whole + 1].unfold(0, length + 1, length).split(batch_size)
    if whole < predicted:
        batches.append(tokens[None, whole:])
    was_training = model.training
    model.eval()
    total = sum(
        model(tokens=batch, labels=batch).cross_entropy.item() * batch[:, 1:].numel()
        for batch in batches
    )
    model.train(was_training)
    return total / predicted


class _Run:
    """The state of one training run: all that a checkpoint holds."""

    def __init__(self, model: nn.Module, config: TrainingConfig) -> None:
        check_instance("model", model, nn.Module)
        check_instance("config", config, TrainingConfig)
        self.model = model
        self.config = config
        self.device = next(model.parameters()).device
        self.optimizer = torch.optim.AdamW(
            parameter_groups(model, config.weight_decay),
            lr=config.learning_rate,
            betas=config.betas,
        )
        self.losses: list[float] = []
        self.tokens = 0
        self.seconds = 0.0

    @property
    def step(self) -> int:
        return len(self.losses)

    def progress(self) -> float:
        if self.config.max_steps is not None:
            return self.step / self.config.max_steps
        return self.seconds / (self.config.max_seconds or math.inf)

    def limit(self) -> str | None:
        if self.config.max_steps is not None and self.step >= self.config.max_steps:
            return "max_steps"
        if self.config.max_seconds is not None and self.seconds >= self.config.max_seconds:
            return "max_seconds"
        return None

    @contextmanager
    def clock(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - start

    def take_step(self, batch: Batch) -> float:
        arguments = {"tokens": batch, "labels": batch} if isinstance(batch, Tensor) else batch
        arguments = {
            name: value.to(self.device) if isinstance(value, Tensor) else value
            for name, value in arguments.items()
        }
        factor = learning_rate_factor(self.step, self.progress(), self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * factor
        dtype = self.config.autocast_dtype
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None):
            loss = self.model(**arguments).loss
        value = loss.item()
        if not math.isfinite(value):
            raise FloatingPointError(f"the loss of step {self.step} is {value}")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.config.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.gradient_clip)
        self.optimizer.step()
        self.losses.append(value)
        self.tokens += arguments["tokens"].numel() if "tokens" in arguments else 0
        return value

    def save(self, path: Path) -> None:
        contents = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "losses": self.losses,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "cpu_random_state": torch.get_rng_state(),
        }
        if self.device.type == "cuda":
            contents["cuda_random_state"] = torch.cuda.get_rng_state(self.device)
        write_whole(path, lambda file: torch.save(contents, file))

    def load(self, path: Path) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"no checkpoint to resume from at {path}")
        contents = torch.load(path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(contents["model"])
        self.optimizer.load_state_dict(contents["optimizer"])
        self.losses = contents["losses"]
        self.tokens = contents["tokens"]
        self.seconds = contents["seconds"]
        torch.set_rng_state(contents["cpu_random_state"].cpu())
        if self.device.type == "cuda" and "cuda_random_state" in contents:
            torch.cuda.set_rng_state(contents["cuda_random_state"].cpu(), self.device)


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a flag; signals can be caught in the main thread alone."""
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield pressed.is_set
        return
    previous = signal.getsignal(signal.SIGINT)

    def on_interrupt(number: int, frame: Any) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, previous)

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, previous)


@contextmanager
def _progress_bar(wanted: bool, run: _Run) -> Iterator[Callable[[], None]]:
    """A bar over the run's steps, or its seconds where those are the only limit."""
    config = run.config
    total = config.max_steps or math.ceil(config.max_seconds or 0)
    with Progress("training", total, enabled=wanted) as bar:

        def show() -> None:
            done = run.step if config.max_steps is not None else int(run.seconds)
            rate = run.tokens / max(run.seconds, 1e-9)
            loss = run.losses[-1] if run.losses else math.nan
            bar.advance(min(done, total) - bar.done, f"loss {loss:.3f}  {rate:,.0f} tokens/s")

        show()
        yield show
