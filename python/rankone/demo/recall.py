"""The delta rule in the demo: a memory that overwrites, beside one that can only add.

Two models of one layer read sequences in which every key is written several times, and are asked
for the last value. They differ in one operation. Then the trained memory is read and written token
by token, and its size does not change with the length of the text.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rankone import _environment, nn
from rankone.datasets import RecallExamples, recall_with_overwrite
from rankone.demo import Options, Say
from rankone.reproduce import Claim, Figure, Passage, Section, Table, panel
from rankone.reproduce._page import duration
from rankone.reproduce._recall import (
    ExchangedOp,
    RecallResult,
    RecallTraining,
    recall_model,
    train_recall,
)

PLAN = (
    "teach two small memories to recall the last value of keys that are written twice, one with "
    "the delta rule, which overwrites, and one with linear attention, which can only add"
)

ADDS = "linear attention"
OVERWRITES = "delta rule"

# Both trainings on two cores.
_SECONDS = 30.0


@dataclass(frozen=True)
class Scale:
    """Sizes of the demo's task and models.

    Attributes:
        hidden_size: of both models.
        vocab_size, seq_len, num_keys, rounds: of the task.
        steps: of training.
        test_examples: sequences that the models are scored on.
        lengths: lengths of the texts whose state is measured.
    """

    hidden_size: int = 32
    vocab_size: int = 128
    seq_len: int = 64
    num_keys: int = 8
    rounds: int = 2
    steps: int = 400
    test_examples: int = 512
    lengths: tuple[int, ...] = (64, 512, 4096)

    def draw(self, count: int, seed: int) -> RecallExamples:
        return recall_with_overwrite(
            count, self.seq_len, self.num_keys, self.vocab_size, seed, self.rounds
        )


def expected_seconds(options: Options) -> float:
    """About how long this section takes."""
    return _SECONDS


def run(options: Options, say: Say) -> Section:
    """Train both models, score them, show one sequence; the section of the report."""
    scale = replace(Scale(), **options.scale("recall"))
    start = time.perf_counter()
    say(
        f"Recall: {scale.num_keys} keys are written {scale.rounds} times each, then asked for "
        f"once; a guess among the values of a key is right in 1 of {scale.rounds} cases."
    )
    models, results = {}, {}
    for name in (ADDS, OVERWRITES):
        models[name] = _model(scale, name, options.random_state)
        results[name] = train_recall(
            models[name],
            scale.draw,
            RecallTraining(steps=scale.steps, score_every=max(scale.steps // 10, 1)),
            test_examples=scale.test_examples,
            random_state=options.random_state,
            description=f"learning with {name}",
            progress=options.progress,
        )
        say(
            f"  {name}: {100 * results[name].accuracy:.0f} % recalled after "
            f"{duration(results[name].seconds)}"
        )
    steps = _accuracy_by_steps(models[OVERWRITES], scale, options.random_state)
    sizes = _state_bytes(models[OVERWRITES], scale)
    return Section(
        anchor="recall",
        title="A memory that overwrites",
        lead="Both memories have the same size and see every token once. The delta rule first "
        "reads what its memory holds under a key and writes the difference; linear attention adds "
        "the new value to the old one.",
        claims=_claims(results, steps, sizes),
        tables=(_table(results),),
        figures=(_figure(scale, results),),
        passages=(_passage(models, scale, options.random_state),),
        settings={
            "task": f"{scale.num_keys} keys, {scale.rounds} rounds, {scale.seq_len} tokens of "
            f"{scale.vocab_size}",
            "models": f"one layer, width {scale.hidden_size}, one head",
            "training": f"{scale.steps} steps of 64 sequences",
            "random state": options.random_state,
            **_environment.describe(),
        },
        seconds=time.perf_counter() - start,
    )


def _model(scale: Scale, name: str, random_state: int) -> nn.LanguageModel:
    sizes = {"vocab_size": scale.vocab_size, "hidden_size": scale.hidden_size}
    common: dict[str, Any] = {**sizes, "random_state": random_state, "initializer_range": 0.15}
    if name == OVERWRITES:
        return recall_model("delta_net", **common)
    return recall_model(ExchangedOp, op="linear_attention", **common)


@torch.no_grad()
def _accuracy_by_steps(model: nn.LanguageModel, scale: Scale, random_state: int) -> float:
    """Accuracy where the model reads token by token, carrying nothing but its state."""
    examples = scale.draw(min(scale.test_examples, 64), random_state + 1)
    tokens, labels = (torch.from_numpy(array) for array in examples)
    state, answers = None, []
    for t in range(tokens.shape[1]):
        logits, state = model.step(tokens[:, t], state)
        answers.append(logits.argmax(-1))
    asked = labels >= 0
    return float((torch.stack(answers, 1) == labels)[asked].float().mean())


@torch.no_grad()
def _state_bytes(model: nn.LanguageModel, scale: Scale) -> tuple[int, ...]:
    """Bytes of the state after texts of several lengths."""
    sizes = []
    for length in scale.lengths:
        state = model(torch.zeros(1, length, dtype=torch.int64), return_state=True).state
        sizes.append(sum(part.nbytes for part in _tensors(state)))
    return tuple(sizes)


def _tensors(state: object) -> list[Tensor]:
    if isinstance(state, Tensor):
        return [state]
    if isinstance(state, Sequence):
        return [tensor for part in state for tensor in _tensors(part)]
    return []


def _claims(
    results: dict[str, RecallResult], steps: float, sizes: tuple[int, ...]
) -> tuple[Claim, ...]:
    return (
        Claim.at_least(
            "the delta rule recalls the last value: accuracy",
            results[OVERWRITES].accuracy,
            0.95,
            expected="1",
        ),
        Claim.at_most(
            "linear attention cannot tell it from the first: accuracy",
            results[ADDS].accuracy,
            0.6,
            expected="about 0.5",
        ),
        Claim.at_least(
            "read token by token, the delta rule recalls as well: accuracy",
            steps,
            0.95,
            expected="1",
        ),
        Claim.exact(
            "its state has the same size after every length of text: sizes in bytes",
            tuple(sorted(set(sizes))),
            (sizes[0],),
        ),
    )


def _table(results: dict[str, RecallResult]) -> Table:
    return Table(
        title="Recall after training",
        columns=("memory", "accuracy", "parameters", "training, s"),
        rows=tuple(
            (name, result.accuracy, result.parameters, result.seconds)
            for name, result in results.items()
        ),
        note="Share of queries on unseen sequences that are answered right.",
    )


def _figure(scale: Scale, results: dict[str, RecallResult]) -> Figure:
    with panel("training step", "recalled on unseen sequences") as (drawing, axes):
        for name in (OVERWRITES, ADDS):
            axes.plot(results[name].steps, results[name].accuracies, label=name)
        axes.set_ylim(0, 1.02)
        axes.legend()
    return Figure.render(
        "Recall while training",
        f"Share of queries answered with the last of {scale.rounds} values.",
        drawing,
    )


@torch.no_grad()
def _passage(models: dict[str, nn.LanguageModel], scale: Scale, random_state: int) -> Passage:
    """One unseen sequence: what was written, what was asked, what both models answered."""
    examples = scale.draw(1, random_state + 2)
    tokens, labels = examples.tokens[0], examples.labels[0]
    width = len(str(scale.vocab_size))
    lines = []
    for index in range(scale.rounds):
        part = tokens[index * 2 * scale.num_keys : (index + 1) * 2 * scale.num_keys]
        pairs = zip(part[::2], part[1::2], strict=True)
        written = "  ".join(f"{key:>{width}}={value:<{width}}" for key, value in pairs)
        lines.append(f"written, round {index + 1}:  {written}")
    asked = np.flatnonzero(labels >= 0)
    text = torch.from_numpy(tokens)[None]
    found = {name: model(text).logits[0].argmax(-1).numpy() for name, model in models.items()}
    lines.append("")
    lines.append(f"{'key':>5}  {'last value':>10}  " + "  ".join(f"{name:>16}" for name in found))
    for place in asked:
        answers = "  ".join(f"{found[name][place]:>16}" for name in found)
        lines.append(f"{tokens[place]:>5}  {labels[place]:>10}  {answers}")
    return Passage(
        "One sequence",
        "\n".join(lines),
        "Tokens are numbers: keys below "
        f"{scale.vocab_size // 2}, values from there on. Each model answers every query once.",
    )
