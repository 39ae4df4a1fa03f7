"""Small models trained on recall tasks, shared by the reproductions and the demo.

Each is one mixer between an embedding and a head, each behind a norm: what the model can recall is
what the mixer can.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rankone import _timing, nn
from rankone._progress import Progress
from rankone.datasets import RecallExamples
from rankone.nn.lightning_attention import GATE_NORMALIZER
from rankone.ops import linear_attention

IGNORED_LABEL = -100

# Sequences that are scored at once.
_SCORED = 512


@dataclass(frozen=True, kw_only=True)
class RecallTraining:
    """How a recall model learns.

    Attributes:
        steps, batch_size: of training.
        examples: training sequences, read again and again in fresh orders; None draws as many as
            the steps read, so that none is seen twice.
        learning_rate: peak, after a tenth of the steps; the end is 0.
        weight_decay: of matrices.
        score_every: steps between two scores on the test sequences.
    """

    steps: int = 400
    batch_size: int = 64
    examples: int | None = None
    learning_rate: float = 1e-2
    weight_decay: float = 0.1
    score_every: int = 40


@dataclass(frozen=True)
class RecallResult:
    """What came of one training run.

    Attributes:
        steps, accuracies: share of test queries answered right, after these numbers of steps.
        seconds: training time.
        parameters: of the model.
    """

    steps: tuple[int, ...]
    accuracies: tuple[float, ...]
    seconds: float
    parameters: int

    @property
    def accuracy(self) -> float:
        return self.accuracies[-1]


class ExchangedOp(nn.DeltaNet):
    """DeltaNet with another op in the place of the delta rule, to be trained beside it.

    Args:
        op: ``"linear_attention"`` (queries and keys are silu features, not normalised),
            ``"decayed_linear_attention"`` (the same, with a learnt decay a token and head) or
            ``"softmax_attention"`` (scaled dot products, no positions).
    """

    def __init__(self, hidden_size: int, num_heads: int, *, op: str) -> None:
        super().__init__(hidden_size, num_heads, qk_norm="none", use_beta=False)
        self.op = op
        if op == "decayed_linear_attention":
            self.a_proj = torch.nn.Linear(hidden_size, num_heads, bias=False)

    def _log_decay(self, x: Tensor) -> Tensor | None:
        if self.op != "decayed_linear_attention":
            return None
        return F.logsigmoid(self.a_proj(x)) / GATE_NORMALIZER

    def _recur(self, q, k, v, beta, log_decay, state, return_state, cu_seqlens, shard):
        if return_state or any(given is not None for given in (state, cu_seqlens, shard)):
            raise RuntimeError("a layer with an exchanged op reads whole sequences only")
        if self.op != "softmax_attention":
            return linear_attention(q, k, v, log_decay)
        q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2), None

    def _recur_step(self, q, k, v, beta, log_decay, state):
        raise RuntimeError("a layer with an exchanged op has no decoding step")


def recall_model(
    mixer: Callable[..., torch.nn.Module] | str,
    *,
    vocab_size: int,
    hidden_size: int,
    random_state: int,
    num_layers: int = 1,
    num_heads: int = 1,
    initializer_range: float | None = None,
    device: str = "cpu",
    **options: Any,
) -> nn.LanguageModel:
    """Embedding, norm, mixer, residual, norm and head; no feed-forward block."""
    config = nn.LanguageModelConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=num_heads,
        mixer_kwargs=options,
        feed_forward=None,
        tie_embeddings=False,
        initializer_range=initializer_range,
    )
    kind: Any = mixer
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random_state)
        model = nn.LanguageModel(
            config, mixer=kind if isinstance(kind, str) else [kind] * num_layers
        )
    return model.to(device)


def train_recall(
    model: nn.LanguageModel,
    draw: Callable[[int, int], RecallExamples],
    training: RecallTraining,
    *,
    test_examples: int = 512,
    random_state: int = 0,
    description: str = "training",
    progress: bool = True,
) -> RecallResult:
    """Train on drawn sequences and score on others, on one thread.

    Args:
        model: from :func:`recall_model`.
        draw: number of sequences and seed to examples.
        training: how it learns.
        test_examples: sequences that it is scored on.
        random_state: seed of all sequences.
        description: what the progress bar says.
        progress: whether there is one.
    """
    seeds = np.random.SeedSequence(random_state).generate_state(2)
    test = draw(test_examples, int(seeds[0]))
    examples = draw(training.examples or training.steps * training.batch_size, int(seeds[1]))
    steps, accuracies = [], []
    # One thread: the products are too small to share.
    with (
        Progress(description, training.steps, enabled=progress) as bar,
        _timing.torch_threads(1),
    ):

        def after(step: int, loss: float) -> None:
            bar.advance(1)
            if step % training.score_every == 0 or step == training.steps:
                steps.append(step)
                accuracies.append(recall_accuracy(model, test))

        result = nn.train(
            model,
            _batches(examples, training.batch_size, random_state),
            nn.TrainingConfig(
                max_steps=training.steps,
                learning_rate=training.learning_rate,
                min_learning_rate=0.0,
                warmup_steps=max(training.steps // 10, 1),
                weight_decay=training.weight_decay,
            ),
            callback=after,
            progress=False,
        )
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return RecallResult(tuple(steps), tuple(accuracies), result.seconds, parameters)


def _batches(
    examples: RecallExamples, batch_size: int, random_state: int
) -> Iterator[dict[str, Tensor]]:
    """Batches without end, every pass over the examples in an order of its own."""
    tokens, labels = (torch.from_numpy(array) for array in examples)
    # The model's loss is of the token after each position, and the answer stands at the query.
    following = torch.full_like(labels, IGNORED_LABEL)
    following[:, 1:] = labels[:, :-1]
    rng = np.random.default_rng(random_state)
    while True:
        order = torch.from_numpy(rng.permutation(len(tokens)))
        for rows in order.split(batch_size):
            yield {"tokens": tokens[rows], "labels": following[rows]}


@torch.no_grad()
def recall_accuracy(model: nn.LanguageModel, examples: RecallExamples) -> float:
    """Share of queries whose most likely answer is the right one."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    tokens, labels = (torch.from_numpy(array) for array in examples)
    right = asked = 0
    for part, answers in zip(tokens.split(_SCORED), labels.split(_SCORED), strict=True):
        found = model(part.to(device)).logits.argmax(-1).cpu()
        query = answers != IGNORED_LABEL
        right += int((found == answers)[query].sum())
        asked += int(query.sum())
    model.train(was_training)
    return right / asked
