"""What a trained learner computes: its distance to known algorithms, and what its layers hold.

Source: "What learning algorithm is in-context learning? Investigations with linear models" (arXiv
2211.15661) for the comparison with known algorithms and the probes. The Bayes error beside each
comparison and the pooled probe are rankone's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from sklearn.utils import Bunch
from torch import Tensor, nn

from rankone.icl._in_context_transformer import (
    InContextTransformer,
    bayes_predictions,
    check_model,
    linear_layer,
    one_cycle,
)
from rankone.icl._reference_predictors import (
    bayes_alpha,
    draw,
    linear_sampler,
    make_linear_tasks,
    prefix_predictions,
    prefix_weights,
    spd,
)
from rankone.icl._tasks import (
    RandomState,
    check_choice,
    check_count,
    check_number,
    torch_generator,
)

TARGETS = ("moment", "weights", "control")
KINDS = ("linear", "mlp")

# Of the probes.
_PROBE_STEPS = 400
_PROBE_RATE = 1e-2
_PROBE_BATCH = 256
_PROBE_HIDDEN = 128
_PROBE_TRAIN_SHARE = 0.75
_PROBE_WARMUP = 0.3


@torch.no_grad()
def algorithm_profile(
    model: InContextTransformer,
    *,
    n_examples: int,
    noise_std: float = 0.0,
    alphas: Sequence[float] | None = None,
    n_tasks: int = 6000,
    random_state: RandomState = None,
) -> Bunch:
    """Which algorithm a learner behaves like: its distance to each of them, at every position.

    Tasks have w ~ N(0, I). Under noise least squares predicts with infinite variance at positions
    d - 1, d and d + 1: read its distance from position d + 2 on, as ``best_alpha`` does.

    Args:
        model: the learner.
        n_examples: n, at most its ``max_examples``.
        noise_std: sigma of the labels.
        alphas: penalties of ridge regression, at least 0, where 0 is least squares; None is 0 and
            1/16, 1/4, 1, 4, 16 times the Bayes value, or 0, .01, .0625, .25, 1, 4 without noise.
        n_tasks: tasks.
        random_state: of the tasks.

    Returns:
        A Bunch of

        - spd: {name: (n,) :func:`spd`}, of "ols", "gd" (one optimal step), "sgd" (steps of
          1 / (d + 2 + sigma^2), the optimal first one), "knn", "zero", "bayes" and, for each
          alpha, "ridge(alpha)" with alpha written as by ``format(alpha, ".12g")``
        - best_alpha: of least distance, the mean over positions 1, ..., n - 1; 0 competes under
          noise on positions from d + 2 on alone
        - alphas: the penalties
        - mse: (n,) mean squared error of the learner
        - bayes_mse: (n,) of the posterior mean on the same tasks, which no learner is below in
          expectation; a learner far above it is not trained.

    Raises:
        ValueError: for sizes below 1 or too large, fewer than 2 examples, and negative or no
            penalties.
        TypeError: for a model that is no :class:`InContextTransformer`, ``alphas`` of one number.

    Source: arXiv 2211.15661; which positions count is rankone's own.

    Example:
        >>> from rankone.icl.linear_models import InContextTransformer, algorithm_profile
        >>> model = InContextTransformer(2, 6, n_layers=1, random_state=0)
        >>> profile = algorithm_profile(model, n_examples=6, n_tasks=50, random_state=0)
        >>> profile.spd["ols"].shape, profile.alphas
        (torch.Size([6]), (0.0, 0.01, 0.0625, 0.25, 1.0, 4.0))
    """
    n, d = check_model(model, n_examples), model.n_features
    check_count("n_examples", n_examples, 2)
    alpha_bayes = bayes_alpha(noise_std)
    penalties = _penalties(alphas, alpha_bayes)
    tasks = make_linear_tasks(
        n_tasks, n, d, noise_std=noise_std, random_state=random_state,
        dtype=model.positions.dtype, device=model.positions.device,
    )  # fmt: skip
    X, y = tasks.X, tasks.y
    prediction = model(X, y)
    references = {
        "ols": prefix_predictions(X, y, "ols"),
        "gd": prefix_predictions(X, y, "gd", noise_ratio=alpha_bayes),
        "sgd": prefix_predictions(X, y, "sgd", step_size=1 / (d + 2 + alpha_bayes)),
        "knn": prefix_predictions(X, y, "knn"),
        "zero": prefix_predictions(X, y, "zero"),
        "bayes": bayes_predictions(X, y, alpha_bayes),
    }
    for alpha in penalties:
        if alpha == 0:
            references[ridge_name(alpha)] = references["ols"]
        else:
            references[ridge_name(alpha)] = prefix_predictions(X, y, "ridge", alpha=alpha)
    distances = {name: spd(prediction, other, d) for name, other in references.items()}
    return Bunch(
        spd=distances,
        best_alpha=_best_alpha(distances, penalties, d, noise_std > 0),
        alphas=penalties,
        mse=(prediction - y).double().square().mean(0),
        bayes_mse=(references["bayes"] - y).double().square().mean(0),
    )


def ridge_name(alpha: float) -> str:
    """Key of ridge regression in a profile."""
    return f"ridge({alpha:.12g})"


def _penalties(alphas: Sequence[float] | None, alpha_bayes: float) -> tuple[float, ...]:
    if alphas is not None:
        if not isinstance(alphas, Iterable) or isinstance(alphas, str):
            raise TypeError(f"alphas must be a sequence of numbers, got {alphas!r}")
        penalties = tuple(check_number("alphas", alpha) for alpha in alphas)
        if not penalties:
            raise ValueError("alphas must hold at least one penalty, got none")
        return penalties
    if alpha_bayes == 0:
        return (0.0, 0.01, 0.0625, 0.25, 1.0, 4.0)
    return (0.0, *(factor * alpha_bayes for factor in (1 / 16, 1 / 4, 1.0, 4.0, 16.0)))


def _best_alpha(
    distances: dict[str, Tensor], penalties: Sequence[float], n_features: int, noise: bool
) -> float:
    def mean(alpha: float, start: int) -> float:
        return float(distances[ridge_name(alpha)][start:].mean())

    positive = [alpha for alpha in penalties if alpha > 0]
    if not positive:
        return 0.0
    best = min(positive, key=lambda alpha: mean(alpha, 1))
    start = n_features + 2 if noise else 1
    if 0 in penalties and start < len(distances["ols"]) and mean(0.0, start) < mean(best, start):
        return 0.0
    return best


class _Probe(nn.Module):
    """Target from a learned average of the tokens, linear or through one hidden layer."""

    def __init__(
        self, n_tokens: int, d_model: int, n_outputs: int, kind: str, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(n_tokens, device=generator.device))
        if kind == "linear":
            self.head: nn.Module = linear_layer(d_model, n_outputs, generator)
        else:
            self.head = nn.Sequential(
                linear_layer(d_model, _PROBE_HIDDEN, generator),
                nn.GELU(),
                linear_layer(_PROBE_HIDDEN, n_outputs, generator),
            )

    def forward(self, h: Tensor) -> Tensor:
        return self.head(torch.einsum("t,btc->bc", self.scores.softmax(0), h))


def probe_hidden_states(
    model: InContextTransformer,
    *,
    target: str = "weights",
    kind: str = "mlp",
    n_examples: int,
    noise_std: float = 0.0,
    n_tasks: int = 12000,
    random_state: RandomState = None,
) -> Tensor:
    """How well what an algorithm needs can be read from each layer of a learner.

    A probe averages the states of a prompt with learned weights of the positions and maps the
    average to the target. The embedding is the layer to compare with: an average of raw tokens
    already tells an MLP much about the weights.

    Args:
        model: the learner.
        n_examples: n, at least 2; the prompt holds n - 1 examples and a query.
        target: ``"moment"``, X^T y of the n - 1 examples; ``"weights"``, their posterior mean
            weights; ``"control"``, the weights of other tasks, of which nothing can be read.
        kind: ``"linear"`` or ``"mlp"``, one hidden layer of 128 GELU units.
        noise_std: sigma of the labels.
        n_tasks: three quarters train the probes, one quarter scores them; at least 8.
        random_state: of the tasks and probes.

    Returns:
        (n_layers + 1,) float64 R^2 on the scoring tasks, the mean over the entries of the target.

    Raises:
        ValueError: for an unknown ``target`` or ``kind``, and sizes out of range.
        TypeError: for a model that is no :class:`InContextTransformer`.

    Source: arXiv 2211.15661; pooling over the prompt and its sizes are rankone's own.

    Example:
        >>> from rankone.icl.linear_models import InContextTransformer, probe_hidden_states
        >>> model = InContextTransformer(2, 3, n_layers=1, random_state=0)
        >>> probe_hidden_states(model, n_examples=3, n_tasks=40, random_state=0).shape
        torch.Size([2])
    """
    n = check_model(model, n_examples)
    check_count("n_examples", n_examples, 2)
    check_choice("target", target, TARGETS)
    check_choice("kind", kind, KINDS)
    check_count("n_tasks", n_tasks, 8)
    check_number("noise_std", noise_std)
    device, dtype = model.positions.device, model.positions.dtype
    generator = torch_generator(random_state, device)
    sampler = linear_sampler(n, model.n_features, noise_std=noise_std, dtype=dtype, device=device)
    tasks = draw(sampler, n_tasks, generator)
    targets = _probe_targets(tasks.X, tasks.y, target, noise_std, generator)
    with torch.no_grad():
        states = model.hidden_states(tasks.X, tasks.y)
    seed = int(torch.randint(2**62, (), generator=generator, device=device))
    scores = [_probe_score(h, targets, kind, seed) for h in states]
    return torch.tensor(scores, dtype=torch.float64)


def _probe_targets(
    X: Tensor, y: Tensor, target: str, noise_std: float, generator: torch.Generator
) -> Tensor:
    if target == "moment":
        return (y[:, None, :-1] @ X[:, :-1])[:, 0]
    alpha = bayes_alpha(noise_std)
    if alpha == 0:
        weights = prefix_weights(X, y, "ols")[:, -1]
    else:
        weights = prefix_weights(X, y, "ridge", alpha=alpha)[:, -1]
    if target == "control":
        return weights[torch.randperm(len(X), generator=generator, device=X.device)]
    return weights


def _probe_score(h: Tensor, targets: Tensor, kind: str, seed: int) -> float:
    n_train = round(_PROBE_TRAIN_SHARE * len(h))
    train, mean, std = h[:n_train], h[:n_train].mean((0, 1)), h[:n_train].std((0, 1))
    # A channel that does not vary stays at 0.
    scale = std.where(std > 0, torch.ones_like(std))
    train, test = (train - mean) / scale, (h[n_train:] - mean) / scale
    center, spread = targets[:n_train].mean(0), targets[:n_train].std(0)
    goal, held_out = (targets[:n_train] - center) / spread, (targets[n_train:] - center) / spread
    generator = torch.Generator(device=h.device).manual_seed(seed)
    probe = _Probe(h.shape[1], h.shape[2], targets.shape[1], kind, generator).to(h)
    optimizer = torch.optim.Adam(probe.parameters(), lr=_PROBE_RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: one_cycle(step, _PROBE_STEPS, _PROBE_WARMUP)
    )
    for _ in range(_PROBE_STEPS):
        rows = torch.randint(n_train, (_PROBE_BATCH,), generator=generator, device=h.device)
        error = (probe(train[rows]) - goal[rows]).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        residual = (probe(test) - held_out).double().square().sum(0)
    total = (held_out - held_out.mean(0)).double().square().sum(0)
    return float((1 - residual / total).mean())
