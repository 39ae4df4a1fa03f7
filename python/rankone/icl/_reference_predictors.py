"""Linear tasks, the algorithms an in-context learner is compared with, and the two distances.

Position i has seen i examples and predicts label i + 1, so that one batched call gives what every
algorithm predicts at every position of a prompt: ridge regression from running Gram matrices, one
step of gradient descent as causal linear attention of the inputs to the labels before them.
Predictors are computed in float64. Every gradient is of

    1/2 sum (w . x - y)^2 + weight_decay / 2 ||w||^2,

which makes ``step_size`` twice the alpha of the paper.

Source: "What learning algorithm is in-context learning? Investigations with linear models" (arXiv
2211.15661) for the tasks, the algorithms and the two distances. The step that is optimal at every
position and the R^2 that goes with implicit weights are rankone's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from rankone._repr import short_repr
from rankone.icl._gradient_descent import check_context
from rankone.icl._tasks import (
    RandomState,
    TaskSampler,
    check_choice,
    check_count,
    check_number,
    torch_generator,
)
from rankone.icl.linear_self_attention import read_prefixes

PREDICTORS = ("ols", "ridge", "gd", "sgd", "knn", "zero")

# Features that one call of the linear attention kernels takes; q . k is a sum over such blocks.
_FEATURE_BLOCK = 256


class InContextLearner(Protocol):
    """Anything that predicts from examples."""

    def predict(self, X: Tensor, y: Tensor, X_query: Tensor) -> Tensor:
        """(B, m) predictions at X_query (B, m, d) from X (B, i, d) and y (B, i)."""
        ...


@dataclass(frozen=True, eq=False)
class LinearTasks:
    """A batch of linear regression tasks.

    Attributes:
        X: (B, n, d) inputs.
        y: (B, n) labels, with their noise.
        w: (B, d) weights.
    """

    __repr__ = short_repr

    X: Tensor
    y: Tensor
    w: Tensor


def make_linear_tasks(
    n_tasks: int,
    n_examples: int,
    n_features: int,
    *,
    noise_std: float = 0.0,
    w_std: float = 1.0,
    random_state: RandomState = None,
    dtype: torch.dtype = torch.float32,
    device: Any = "cpu",
) -> LinearTasks:
    """Linear tasks: x ~ N(0, I), w ~ N(0, w_std^2 I) a task, y = w . x + noise_std e.

    Args:
        n_tasks: B.
        n_examples: n.
        n_features: d.
        noise_std: sigma of the labels.
        w_std: tau of the weights, above 0.
        random_state: an int, a numpy random state or generator, a torch generator on ``device``, or
            None.
        dtype: torch.float32 or torch.float64.
        device: of the tensors.

    Returns:
        The tasks.

    Raises:
        ValueError: for sizes below 1, a negative ``noise_std`` or a ``w_std`` not above 0.
        TypeError: for another dtype.

    Source: the tasks of arXiv 2211.15661.

    Example:
        >>> from rankone.icl.linear_models import make_linear_tasks
        >>> tasks = make_linear_tasks(4, 6, 2, random_state=0)
        >>> tasks.X.shape, tasks.y.shape, tasks.w.shape
        (torch.Size([4, 6, 2]), torch.Size([4, 6]), torch.Size([4, 2]))
    """
    check_count("n_tasks", n_tasks)
    sampler = linear_sampler(
        n_examples, n_features, noise_std=noise_std, w_std=w_std, dtype=dtype, device=device
    )
    return draw(sampler, n_tasks, torch_generator(random_state, device))


def linear_sampler(
    n_examples: int,
    n_features: int,
    *,
    noise_std: float = 0.0,
    w_std: float = 1.0,
    dtype: torch.dtype = torch.float32,
    device: Any = "cpu",
) -> TaskSampler:
    """The sampler behind :func:`make_linear_tasks`, for batch after batch."""
    check_count("n_examples", n_examples)
    check_count("n_features", n_features)
    check_number("w_std", w_std, positive=True)
    w_cov = w_std**2 * torch.eye(n_features, dtype=torch.float64)
    return TaskSampler(
        n_examples, n_features, noise_std=noise_std, w_cov=w_cov, dtype=dtype, device=device
    )


def draw(sampler: TaskSampler, n_tasks: int, generator: torch.Generator) -> LinearTasks:
    """``n_tasks`` fresh tasks of :func:`linear_sampler`."""
    tasks = sampler.draw(n_tasks, generator)
    assert tasks.w is not None
    return LinearTasks(tasks.X, tasks.y, tasks.w)


def bayes_alpha(noise_std: float, w_std: float = 1.0) -> float:
    """The penalty sigma^2 / tau^2 with which ridge regression is the posterior mean.

    Args:
        noise_std: sigma of the labels.
        w_std: tau of the weights, above 0.

    Returns:
        alpha; 0 without noise, where the posterior mean is the least squares of least norm.

    Raises:
        ValueError: for a negative ``noise_std`` or a ``w_std`` not above 0.

    Source: arXiv 2211.15661.

    Example:
        >>> from rankone.icl.linear_models import bayes_alpha
        >>> bayes_alpha(0.5)
        0.25
    """
    return (check_number("noise_std", noise_std) / check_number("w_std", w_std, positive=True)) ** 2


@dataclass(frozen=True)
class _Options:
    """Checked arguments of a predictor."""

    alpha: float
    step_size: float | None  # None is the optimal one
    n_steps: int
    weight_decay: float
    n_passes: int
    n_neighbors: int
    noise_ratio: float


def prefix_predictions(
    X: Tensor,
    y: Tensor,
    predictor: str = "ols",
    *,
    alpha: float = 1.0,
    step_size: float | str = "optimal",
    n_steps: int = 1,
    weight_decay: float = 0.0,
    n_passes: int = 1,
    n_neighbors: int = 3,
    noise_ratio: float = 0.0,
) -> Tensor:
    """What an algorithm predicts for every label of a prompt from the examples before it.

    Args:
        X: (B, n, d) inputs, floating.
        y: (B, n) labels; the last is never used.
        predictor: ``"ols"``, least squares of least norm; ``"ridge"``; ``"gd"``, full-batch
            gradient descent from 0; ``"sgd"``, from 0, one example a step in the order of the
            prompt; ``"knn"``, the mean label of the nearest examples; ``"zero"``.
        alpha: penalty of ridge, above 0.
        step_size: of gd and sgd, above 0. ``"optimal"``, for one step of gd alone, is
            1 / (i + d + 1 + noise_ratio) at position i, of the least expected squared error.
        n_steps: of gd.
        weight_decay: of gd and sgd.
        n_passes: of sgd over the examples seen.
        n_neighbors: of knn; all examples where there are fewer.
        noise_ratio: sigma^2 / tau^2, for the optimal step.

    Returns:
        (B, n) in the dtype of X, computed in float64. Entry i is from the first i examples, so that
        entry 0 is 0.

    Raises:
        ValueError: for shapes that disagree, values that are not finite, an unknown ``predictor``,
            numbers out of range, and an optimal step of sgd or of more than one step.
        TypeError: for tensors that are none, or not floating.

    Source: arXiv 2211.15661; the optimal step is rankone's own.

    Example:
        >>> import torch
        >>> from rankone.icl.linear_models import prefix_predictions
        >>> X, y = torch.tensor([[[1.0], [2.0], [4.0]]]), torch.tensor([[3.0, 6.0, 12.0]])
        >>> prefix_predictions(X, y, "gd", step_size=0.1)
        tensor([[0.0000, 0.6000, 6.0000]])
    """
    options = _checked_options(
        predictor, alpha, step_size, n_steps, weight_decay, n_passes, n_neighbors, noise_ratio
    )
    inputs, labels = _checked_data(X, y)
    if predictor == "knn":
        predictions = _nearest(inputs, labels, options.n_neighbors)
    elif predictor == "gd" and options.n_steps == 1:
        predictions = _gradient_step(inputs, labels) * _steps(inputs, options)
    else:
        predictions = (_WEIGHTS[predictor](inputs, labels, options) * inputs).sum(-1)
    return predictions.to(X.dtype)


def prefix_weights(
    X: Tensor,
    y: Tensor,
    predictor: str = "ols",
    *,
    alpha: float = 1.0,
    step_size: float | str = "optimal",
    n_steps: int = 1,
    weight_decay: float = 0.0,
    n_passes: int = 1,
    n_neighbors: int = 3,
    noise_ratio: float = 0.0,
) -> Tensor:
    """The weights of an algorithm after every prefix of a prompt.

    Args:
        X, y, predictor, alpha, step_size, n_steps, weight_decay, n_passes, n_neighbors,
            noise_ratio: as :func:`prefix_predictions`; not ``"knn"``, which has no weights.

    Returns:
        (B, n, d) in the dtype of X; row i is from the first i examples, row 0 is 0.

    Raises:
        ValueError, TypeError: as :func:`prefix_predictions`, and ValueError for ``"knn"``.

    Source: arXiv 2211.15661.

    Example:
        >>> import torch
        >>> from rankone.icl.linear_models import prefix_weights
        >>> X, y = torch.tensor([[[1.0], [2.0], [4.0]]]), torch.tensor([[3.0, 6.0, 12.0]])
        >>> prefix_weights(X, y, "ridge", alpha=1.0)[..., 0]
        tensor([[0.0000, 1.5000, 2.5000]])
    """
    options = _checked_options(
        predictor, alpha, step_size, n_steps, weight_decay, n_passes, n_neighbors, noise_ratio
    )
    if predictor == "knn":
        raise ValueError(
            "predictor must be one of ols, ridge, gd, sgd, zero, which have weights, got 'knn'"
        )
    inputs, labels = _checked_data(X, y)
    return _WEIGHTS[predictor](inputs, labels, options).to(X.dtype)


def _checked_options(
    predictor: str,
    alpha: float,
    step_size: float | str,
    n_steps: int,
    weight_decay: float,
    n_passes: int,
    n_neighbors: int,
    noise_ratio: float,
) -> _Options:
    check_choice("predictor", predictor, PREDICTORS)
    check_count("n_steps", n_steps)
    step: float | None
    if isinstance(step_size, str):
        check_choice("step_size", step_size, ("optimal",))
        if predictor == "sgd" or (predictor == "gd" and n_steps != 1):
            of = "sgd" if predictor == "sgd" else f"gd with n_steps={n_steps!r}"
            raise ValueError(
                f"step_size must be a number for {of}, got 'optimal', which is known for one step "
                "of gd alone"
            )
        step = None
    else:
        step = check_number("step_size", step_size, positive=True)
    return _Options(
        alpha=check_number("alpha", alpha, positive=predictor == "ridge"),
        step_size=step,
        n_steps=int(n_steps),
        weight_decay=check_number("weight_decay", weight_decay),
        n_passes=check_count("n_passes", n_passes),
        n_neighbors=check_count("n_neighbors", n_neighbors),
        noise_ratio=check_number("noise_ratio", noise_ratio),
    )


def check_examples(X: Tensor, y: Tensor) -> None:
    """X (B, n, d) and y (B, n) are floating tensors of one dtype that agree."""
    check_context(X, y)
    for name, tensor in (("X", X), ("y", y)):
        if not tensor.is_floating_point():
            raise TypeError(f"{name} must be floating, got {tensor.dtype}")
    if y.dtype != X.dtype:
        raise TypeError(f"y must be {X.dtype} as X is, got {y.dtype}")
    if not X.shape[0] or not X.shape[2]:
        raise ValueError(f"X must have at least one task and feature, got shape {tuple(X.shape)}")


def _checked_data(X: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Examples in float64."""
    check_examples(X, y)
    if not X.shape[1]:
        raise ValueError(f"X must have at least one example, got shape {tuple(X.shape)}")
    for name, tensor in (("X", X), ("y", y[:, :-1])):
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"{name} must be finite, got NaN or infinity")
    return X.double(), y.double()


def _before(totals: Tensor) -> Tensor:
    """Running totals (B, n, ...) over the examples before each position."""
    return torch.cat([torch.zeros_like(totals[:, :1]), totals[:, :-1].cumsum(1)], 1)


def _gram(X: Tensor) -> Tensor:
    return _before(X[..., None] * X[..., None, :])


def _moment(X: Tensor, y: Tensor) -> Tensor:
    return _before(X * y[..., None])


def _steps(X: Tensor, options: _Options) -> Tensor:
    """(n,) step size of every position."""
    _, n, d = X.shape
    if options.step_size is not None:
        return X.new_full((n,), options.step_size)
    return 1 / (torch.arange(n, dtype=X.dtype, device=X.device) + d + 1 + options.noise_ratio)


def _gradient_step(X: Tensor, y: Tensor) -> Tensor:
    """(B, n) sum of y_j x_j . x_i over the examples j before i."""
    blocks = X.split(_FEATURE_BLOCK, dim=-1)
    return sum(read_prefixes(block, block, y[..., None])[..., 0] for block in blocks)  # type: ignore[return-value]


def _ols(X: Tensor, y: Tensor, options: _Options) -> Tensor:
    weights = [torch.zeros_like(X[:, 0])]
    for i in range(1, X.shape[1]):
        weights.append((torch.linalg.pinv(X[:, :i]) @ y[:, :i, None])[..., 0])
    return torch.stack(weights, 1)


def _ridge(X: Tensor, y: Tensor, options: _Options) -> Tensor:
    identity = torch.eye(X.shape[2], dtype=X.dtype, device=X.device)
    factor, failed = torch.linalg.cholesky_ex(_gram(X) + options.alpha * identity)
    if bool(failed.any()):
        raise ValueError(
            f"alpha must be above the rounding of X^T X, got {options.alpha}; for its limit take "
            "predictor='ols'"
        )
    return torch.cholesky_solve(_moment(X, y)[..., None], factor)[..., 0]


def _gd(X: Tensor, y: Tensor, options: _Options) -> Tensor:
    steps, moment = _steps(X, options)[:, None], _moment(X, y)
    weights = steps * moment
    if options.n_steps > 1:
        gram = _gram(X)
        for _ in range(options.n_steps - 1):
            gradient = (gram @ weights[..., None])[..., 0] - moment + options.weight_decay * weights
            weights = weights - steps * gradient
    return weights


def _sgd(X: Tensor, y: Tensor, options: _Options) -> Tensor:
    assert options.step_size is not None
    # Column i holds the weights of the prefix of i examples; example t is in those with i > t.
    weights = torch.zeros_like(X)
    for _ in range(options.n_passes):
        for t in range(X.shape[1] - 1):
            x, seen = X[:, t, None], weights[:, t + 1 :]
            residual = (seen * x).sum(-1, keepdim=True) - y[:, t, None, None]
            gradient = residual * x + options.weight_decay * seen
            weights = torch.cat([weights[:, : t + 1], seen - options.step_size * gradient], 1)
    return weights


def _zero(X: Tensor, y: Tensor, options: _Options) -> Tensor:
    return torch.zeros_like(X)


_WEIGHTS: dict[str, Callable[[Tensor, Tensor, _Options], Tensor]] = {
    "ols": _ols,
    "ridge": _ridge,
    "gd": _gd,
    "sgd": _sgd,
    "zero": _zero,
}


def _nearest(X: Tensor, y: Tensor, n_neighbors: int) -> Tensor:
    n = X.shape[1]
    distance = torch.cdist(X, X, compute_mode="donot_use_mm_for_euclid_dist")
    seen = torch.ones(n, n, dtype=torch.bool, device=X.device).tril(-1)
    near = distance.masked_fill(~seen, torch.inf).topk(min(n_neighbors, n), largest=False)
    labels = y[:, None].expand(-1, n, -1).gather(2, near.indices)
    counted = near.values.isfinite()
    return labels.where(counted, torch.zeros_like(labels)).sum(-1) / counted.sum(-1).clamp(min=1)


def spd(pred_a: Tensor, pred_b: Tensor, n_features: int) -> Tensor:
    """Squared prediction difference at every position: E (a - b)^2 / d.

    Args:
        pred_a, pred_b: (B, n) predictions for the same prompts; labels without noise, w . x, make
            one of them the truth.
        n_features: d.

    Returns:
        (n,) float64, the mean over the tasks.

    Raises:
        ValueError: for shapes that disagree, no task, or ``n_features`` below 1.
        TypeError: for arguments that are no tensors.

    Source: arXiv 2211.15661; divided by d, which makes the distance of zero and the truth 1.

    Example:
        >>> import torch
        >>> from rankone.icl.linear_models import spd
        >>> spd(torch.ones(5, 3), torch.zeros(5, 3), 2)
        tensor([0.5000, 0.5000, 0.5000], dtype=torch.float64)
    """
    d = check_count("n_features", n_features)
    _check_pair("pred_a", pred_a, "pred_b", pred_b, "(B, n)")
    return (pred_a.double() - pred_b.double()).square().mean(0) / d


def implicit_weights(
    model: InContextLearner,
    X: Tensor,
    y: Tensor,
    *,
    n_queries: int | None = None,
    random_state: RandomState = None,
) -> tuple[Tensor, Tensor]:
    """The weights a learner acts by: least squares of its predictions on fresh queries.

    The context is kept and the queries are asked one at a time; there is no intercept.

    Args:
        model: anything with ``predict(X (B, i, d), y (B, i), X_query (B, m, d)) -> (B, m)``.
        X: (B, i, d) inputs of the contexts.
        y: (B, i) labels.
        n_queries: m, above d; None is 4 d.
        random_state: of the queries, which are standard normal.

    Returns:
        W: (B, d) weights.
        r2: (B,) 1 - ||residual||^2 / ||predictions||^2 of the fit; a learner with a low one is not
            linear in the query and has no weights. A learner that predicts 0 has r2 = 1.

    Raises:
        ValueError: for shapes that disagree, ``n_queries`` not above d, predictions of another
            shape.
        TypeError: for a model without ``predict``, or tensors that are not floating.

    Source: arXiv 2211.15661; R^2 beside the weights is rankone's own.

    Example:
        >>> import torch
        >>> from rankone.icl.linear_models import implicit_weights
        >>> class Mean:
        ...     def predict(self, X, y, X_query):
        ...         return (X_query @ X.mean(1)[..., None])[..., 0]
        >>> X = torch.ones(1, 3, 2)
        >>> W, r2 = implicit_weights(Mean(), X, torch.ones(1, 3), random_state=0)
        >>> W.round(decimals=4), r2.round(decimals=4)
        (tensor([[1., 1.]]), tensor([1.]))
    """
    if not callable(getattr(model, "predict", None)):
        raise TypeError(f"model must have a method predict, got {type(model).__name__}")
    check_examples(X, y)
    B, _, d = X.shape
    m = 4 * d if n_queries is None else check_count("n_queries", n_queries, d + 1)
    generator = torch_generator(random_state, X.device)
    queries = torch.randn(B, m, d, generator=generator, dtype=X.dtype, device=X.device)
    with torch.no_grad():
        predictions = model.predict(X, y, queries)
    if not isinstance(predictions, Tensor) or predictions.shape != (B, m):
        came = tuple(predictions.shape) if isinstance(predictions, Tensor) else type(predictions)
        raise ValueError(f"model.predict must return a tensor of shape ({B}, {m}), got {came}")
    if not bool(predictions.isfinite().all()):
        raise ValueError("model.predict must return finite predictions, got NaN or inf")
    targets, inputs = predictions.double()[..., None], queries.double()
    W = torch.linalg.lstsq(inputs, targets).solution
    residual = (targets - inputs @ W).square().sum((1, 2))
    power = targets.square().sum((1, 2))
    r2 = 1 - residual / power.where(power > 0, torch.ones_like(power))
    return W[..., 0].to(X.dtype), r2.to(X.dtype)


def ilwd(W_a: Tensor, W_b: Tensor) -> float:
    """Implicit linear weight difference: E ||w_a - w_b||^2 / d.

    Args:
        W_a, W_b: (B, d) weights of two algorithms for the same contexts.

    Returns:
        The mean over the tasks.

    Raises:
        ValueError: for shapes that disagree.
        TypeError: for arguments that are no tensors.

    Source: arXiv 2211.15661.

    Example:
        >>> import torch
        >>> from rankone.icl.linear_models import ilwd
        >>> ilwd(torch.ones(5, 2), torch.zeros(5, 2))
        1.0
    """
    _check_pair("W_a", W_a, "W_b", W_b, "(B, d)")
    return float((W_a.double() - W_b.double()).square().mean())


def _check_pair(name_a: str, a: Tensor, name_b: str, b: Tensor, shape: str) -> None:
    for name, tensor in ((name_a, a), (name_b, b)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
    if a.ndim != 2 or not a.numel():
        raise ValueError(
            f"{name_a} must have shape {shape} with B at least 1, got {tuple(a.shape)}"
        )
    if a.shape != b.shape:
        raise ValueError(
            f"{name_b} must have shape {tuple(a.shape)} as {name_a} has, got {tuple(b.shape)}"
        )
