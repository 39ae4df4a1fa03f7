"""A small GPT trained on linear regression prompts.

The prompt x_1, y_1, x_2, ..., x_n is interleaved, 2 n - 1 tokens (y, x) with zeros in the place of
what a token is not, and the prediction of y_i is read at the token of x_i: a causal model cannot
see the label it predicts. Training is on all positions, with fresh tasks every step.

Source: "What learning algorithm is in-context learning? Investigations with linear models" (arXiv
2211.15661). The Bayes error beside the training loss and the sizes of the defaults are rankone's
own.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor, nn

from rankone._repr import short_repr
from rankone.icl._gradient_descent import check_context
from rankone.icl._reference_predictors import (
    bayes_alpha,
    draw,
    linear_sampler,
    prefix_predictions,
)
from rankone.icl._tasks import (
    RandomState,
    check_count,
    check_number,
    torch_generator,
)

_POSITION_STD = 0.02

# The cycle of the learning rate starts at this share of its peak and ends near 0.
_FIRST_RATE = 1 / 25

# The mean loss of the last share of the steps is held against the Bayes error of this many tasks.
_LAST_SHARE = 0.05
_LOSS_SLACK = 0.25
_BAYES_TASKS = 4000

# Prompts held at once where every query of every task is one.
_PROMPT_BATCH = 8192


def linear_layer(n_inputs: int, n_outputs: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer with the start of torch's own, drawn from a stream of its own.

    The global stream is shared by all threads, and no training may depend on its neighbours.
    """
    layer = nn.utils.skip_init(nn.Linear, n_inputs, n_outputs, device=generator.device)
    bound = 1 / math.sqrt(n_inputs)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-bound, bound, generator=generator)
    return layer


class _Block(nn.Module):
    """h += Attn(LN h), then h += W_2 GELU(W_1 LN h)."""

    def __init__(
        self, d_model: int, n_heads: int, mlp_ratio: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm_attention = nn.LayerNorm(d_model, device=generator.device)
        self.norm_mlp = nn.LayerNorm(d_model, device=generator.device)
        self.qkv = linear_layer(d_model, 3 * d_model, generator)
        self.project = linear_layer(d_model, d_model, generator)
        self.widen = linear_layer(d_model, mlp_ratio * d_model, generator)
        self.narrow = linear_layer(mlp_ratio * d_model, d_model, generator)

    def forward(self, h: Tensor) -> Tensor:
        B, T, width = h.shape
        heads = self.qkv(self.norm_attention(h)).view(B, T, 3, self.n_heads, width // self.n_heads)
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        read = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        h = h + self.project(read.transpose(1, 2).reshape(B, T, width))
        return h + self.narrow(F.gelu(self.widen(self.norm_mlp(h))))


class InContextTransformer(nn.Module):
    """A pre-norm causal transformer that reads examples and predicts each label before it comes.

    Args:
        n_features: d.
        max_examples: longest prompt, the query among its examples.
        d_model: width, a multiple of ``n_heads``.
        n_layers: blocks.
        n_heads: heads of the attention.
        mlp_ratio: hidden width of a block's perceptron over ``d_model``.
        random_state: of the start.

    Raises:
        ValueError: for sizes below 1, or a ``d_model`` that is not a multiple of ``n_heads``.

    Source: arXiv 2211.15661.

    Example:
        >>> from rankone.icl.linear_models import InContextTransformer, make_linear_tasks
        >>> tasks = make_linear_tasks(4, 6, 2, random_state=0)
        >>> model = InContextTransformer(2, 6, n_layers=1, random_state=0)
        >>> model(tasks.X, tasks.y).shape
        torch.Size([4, 6])
    """

    def __init__(
        self,
        n_features: int,
        max_examples: int,
        *,
        d_model: int = 32,
        n_layers: int = 3,
        n_heads: int = 4,
        mlp_ratio: int = 4,
        random_state: RandomState = None,
    ) -> None:
        super().__init__()
        self.n_features = check_count("n_features", n_features)
        self.max_examples = check_count("max_examples", max_examples)
        for name, size in (("d_model", d_model), ("n_layers", n_layers), ("n_heads", n_heads)):
            check_count(name, size)
        check_count("mlp_ratio", mlp_ratio)
        if d_model % n_heads:
            raise ValueError(
                f"d_model must be a multiple of n_heads={n_heads}, got d_model={d_model}"
            )
        self.d_model, self.n_layers, self.n_heads = d_model, n_layers, n_heads
        self.mlp_ratio = mlp_ratio
        generator = torch_generator(random_state)
        self.embed = linear_layer(n_features + 1, d_model, generator)
        positions = torch.randn(
            2 * max_examples - 1, d_model, generator=generator, device=generator.device
        )
        self.positions = nn.Parameter(_POSITION_STD * positions)
        self.blocks = nn.ModuleList(
            _Block(d_model, n_heads, mlp_ratio, generator) for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(d_model, device=generator.device)
        self.read_out = linear_layer(d_model, 1, generator)

    def forward(self, X: Tensor, y: Tensor) -> Tensor:
        """The prediction of every label from the examples before it.

        Args:
            X: (B, n, d) inputs in the model's dtype, n at most ``max_examples``.
            y: (B, n) labels; the last is not read.

        Returns:
            (B, n); entry i depends on the first i examples and input i + 1.

        Raises:
            ValueError: for shapes that disagree, and more than ``max_examples`` examples.
            TypeError: for another dtype.
        """
        return self._predicted(self._states(X, y)[-1])

    def hidden_states(self, X: Tensor, y: Tensor) -> list[Tensor]:
        """The residual stream: the embedding, then after each block.

        Args:
            X, y: as of :meth:`forward`.

        Returns:
            ``n_layers + 1`` tensors (B, 2 n - 1, d_model).

        Raises:
            ValueError, TypeError: as :meth:`forward`.
        """
        return self._states(X, y)

    def predict(self, X: Tensor, y: Tensor, X_query: Tensor) -> Tensor:
        """Predictions for queries after one context a task, each query in a prompt of its own.

        Args:
            X: (B, i, d) contexts, i below ``max_examples`` and possibly 0.
            y: (B, i) labels.
            X_query: (B, m, d) queries.

        Returns:
            (B, m) predictions, without gradients.

        Raises:
            ValueError: for shapes that disagree and contexts that are too long.
            TypeError: for another dtype.
        """
        check_context(X, y, X_query)
        if X_query.ndim != 3:
            raise ValueError(
                f"X_query must have shape ({len(X)}, m, {X.shape[2]}), got {tuple(X_query.shape)}"
            )
        if X_query.dtype != X.dtype:
            raise TypeError(f"X_query must be {X.dtype} as X is, got {X_query.dtype}")
        (B, i, d), m = X.shape, X_query.shape[1]
        self._check(X, y, i + 1)
        batch = max(1, _PROMPT_BATCH // max(m, 1))
        predictions = []
        with torch.no_grad():
            for start in range(0, B, batch):
                part = slice(start, start + batch)
                queries = X_query[part].reshape(-1, 1, d)
                context = X[part].repeat_interleave(m, 0)
                labels = F.pad(y[part].repeat_interleave(m, 0), (0, 1))
                output = self(torch.cat([context, queries], 1), labels)[:, -1]
                predictions.append(output.view(len(X[part]), m))
        return torch.cat(predictions) if predictions else X.new_zeros(B, m)

    def _check(self, X: Tensor, y: Tensor, n_examples: int) -> None:
        if X.shape[2] != self.n_features:
            raise ValueError(f"X must have {self.n_features} features, got {X.shape[2]}")
        if not 1 <= n_examples <= self.max_examples:
            raise ValueError(
                f"X must make prompts of 1 to max_examples={self.max_examples} examples, the query "
                f"among them, got {n_examples}"
            )
        dtype = self.positions.dtype
        for name, tensor in (("X", X), ("y", y)):
            if tensor.dtype != dtype:
                raise TypeError(f"{name} must be {dtype} as the model is, got {tensor.dtype}")

    def _states(self, X: Tensor, y: Tensor) -> list[Tensor]:
        check_context(X, y)
        B, n, d = X.shape
        self._check(X, y, n)
        tokens = X.new_zeros(B, 2 * n - 1, d + 1)
        tokens[:, 0::2, 1:], tokens[:, 1::2, 0] = X, y[:, :-1]
        states = [self.embed(tokens) + self.positions[: 2 * n - 1]]
        for block in self.blocks:
            states.append(block(states[-1]))
        return states

    def _predicted(self, h: Tensor) -> Tensor:
        return self.read_out(self.norm(h[:, 0::2]))[..., 0]


def check_model(model: Any, n_examples: Any) -> int:
    if not isinstance(model, InContextTransformer):
        raise TypeError(f"model must be an InContextTransformer, got {type(model).__name__}")
    n = check_count("n_examples", n_examples)
    if n > model.max_examples:
        raise ValueError(f"n_examples must be at most max_examples={model.max_examples}, got {n}")
    return n


@dataclass(frozen=True, eq=False)
class TrainingHistory:
    """The course of a training.

    Attributes:
        step: (k,) steps taken.
        loss: (k,) training loss, the mean since the entry before.
        bayes_loss: the loss of the posterior mean, which no learner is below.
    """

    __repr__ = short_repr

    step: NDArray
    loss: NDArray
    bayes_loss: float

    @property
    def ratio(self) -> float:
        """The last loss over the Bayes loss."""
        return float(self.loss[-1]) / self.bayes_loss

    def plot(self, ax: Any = None) -> Any:
        """Training loss against the step, with the Bayes loss.

        Args:
            ax: matplotlib axes; None makes new ones.

        Returns:
            The axes.
        """
        if ax is None:
            import matplotlib.pyplot as plt

            _, ax = plt.subplots()
        ax.plot(self.step, self.loss, label="training loss")
        ax.axhline(self.bayes_loss, linestyle="--", color="0.4", label="Bayes")
        ax.set_yscale("log")
        ax.set_xlabel("training step")
        ax.set_ylabel("mean squared error")
        ax.legend()
        return ax


def one_cycle(step: int, steps: int, warmup: float) -> float:
    """Share of the largest rate: up and down on a cosine."""
    rise = warmup * steps
    if step < rise:
        return 1 - (1 - _FIRST_RATE) * 0.5 * (1 + math.cos(math.pi * step / rise))
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / (steps - rise)))


def train_in_context(
    model: InContextTransformer,
    *,
    n_examples: int,
    noise_std: float = 0.0,
    w_std: float = 1.0,
    steps: int = 1500,
    batch_size: int = 96,
    lr: float = 4e-3,
    warmup: float = 0.1,
    clip: float = 1.0,
    random_state: RandomState = None,
) -> TrainingHistory:
    """Train a learner in place on fresh linear tasks: AdamW, one cycle of the rate, no decay.

    The loss is the mean squared error of the predictions of all n labels.

    Args:
        model: the learner.
        n_examples: n, at most its ``max_examples``.
        noise_std: sigma of the labels.
        w_std: tau of the weights.
        steps: of the optimiser.
        batch_size: fresh tasks a step.
        lr: the largest rate.
        warmup: share of the steps in which the rate rises, from 0 to below 1.
        clip: largest norm of a gradient.
        random_state: of the tasks.

    Returns:
        The history.

    Raises:
        ValueError: for sizes below 1 or too large, and numbers out of range.
        TypeError: for a model that is no :class:`InContextTransformer`.

    Warns:
        ConvergenceWarning: if the last loss is more than 25 % above the Bayes error: what such a
            learner does says little of the algorithm that a trained one runs.

    Source: arXiv 2211.15661.

    Example:
        >>> import warnings
        >>> from rankone.icl.linear_models import InContextTransformer, train_in_context
        >>> model = InContextTransformer(2, 6, n_layers=1, random_state=0)
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore")  # 30 steps are not enough
        ...     history = train_in_context(model, n_examples=6, steps=30, random_state=0)
        >>> bool(history.loss[-1] < history.loss[0])
        True
    """
    n = check_model(model, n_examples)
    check_count("steps", steps)
    check_count("batch_size", batch_size)
    check_number("lr", lr, positive=True)
    check_number("clip", clip, positive=True)
    if check_number("warmup", warmup) >= 1:
        raise ValueError(f"warmup must be below 1, got {warmup!r}")
    first = model.positions
    sampler = linear_sampler(
        n, model.n_features, noise_std=noise_std, w_std=w_std, dtype=first.dtype,
        device=first.device,
    )  # fmt: skip
    generator = torch_generator(random_state, first.device)
    held_out = draw(sampler, _BAYES_TASKS, generator)
    bayes = bayes_predictions(held_out.X, held_out.y, bayes_alpha(noise_std, w_std))
    bayes_loss = float((bayes - held_out.y).double().square().mean())
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=lr, betas=(0.9, 0.98), eps=1e-9, weight_decay=0.0
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: one_cycle(step, steps, warmup)
    )
    model.train()
    losses = torch.zeros(steps, dtype=torch.float64, device=first.device)
    for step in range(steps):
        tasks = draw(sampler, batch_size, generator)
        error = (model(tasks.X, tasks.y) - tasks.y).square().mean()
        optimizer.zero_grad()
        error.backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        schedule.step()
        losses[step] = error.detach()
    model.eval()
    return _history(losses.cpu().numpy(), bayes_loss)


def _history(losses: NDArray, bayes_loss: float) -> TrainingHistory:
    steps = len(losses)
    last = max(1, round(_LAST_SHARE * steps))
    ends = np.unique(np.append(np.arange(last, steps, last), steps))
    history = TrainingHistory(
        step=ends,
        loss=np.array([part.mean() for part in np.split(losses, ends[:-1])]),
        bayes_loss=bayes_loss,
    )
    final = float(losses[-last:].mean())
    if not final <= (1 + _LOSS_SLACK) * bayes_loss:
        warnings.warn(
            f"the training loss ended at {final:.4g} where the Bayes error is {bayes_loss:.4g}; "
            "try more steps, a deeper model or a smaller lr",
            ConvergenceWarning,
            stacklevel=3,
        )
    return history


def bayes_predictions(X: Tensor, y: Tensor, alpha: float) -> Tensor:
    if alpha == 0:
        return prefix_predictions(X, y, "ols")
    return prefix_predictions(X, y, "ridge", alpha=alpha)
