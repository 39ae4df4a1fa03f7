"""Concentration and Gaussian universality of diffusion-generated data (arXiv 2501.07741).

A sampler that is an L-Lipschitz function of Gaussian noise makes data whose Lipschitz statistics
concentrate, cannot keep heavy tails, and looks to a linear classifier like Gaussians of the same
class means and covariances. Here are the sampler (:mod:`rankone.stats._edm`), certificates of its
Lipschitz constant, reports on tails, and the comparison with a Gaussian twin.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.stats import kurtosis
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_array, check_random_state, check_X_y
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from rankone._arguments import check_number, check_size
from rankone._namespace import public_names
from rankone.ops.checks import check_tensor
from rankone.stats._edm import (
    DenoiserMLP,
    DiffusionGenerator,
    check_classes,
    edm_sample,
    edm_schedule,
    gaussian_denoiser,
    mixture_denoiser,
)

__all__ = [
    "DenoiserMLP",
    "DiffusionGenerator",
    "GaussianTwin",
    "SGDLinearClassifier",
    "concentration_report",
    "edm_sample",
    "edm_schedule",
    "gaussian_denoiser",
    "hill_estimator",
    "lipschitz_profile",
    "mixture_denoiser",
    "poincare_bound",
    "subgaussian_norm",
    "tail_quantile_ratio",
    "universality_gap",
]

_EXACT_JACOBIAN = 256  # largest dimension whose Jacobian is formed
_POWER_ITERATIONS = 20
_QUANTILES = (0.5, 0.75, 0.9, 0.95, 0.99, 0.999)  # of |f - mean f|, where tails are compared
FUNCTIONALS = ("linear", "norm", "distance", "max")


class GaussianTwin(BaseEstimator):
    """One Gaussian a class, with the data's means and full covariances.

    Sampling goes through an eigen-decomposition, so that singular covariances are sampled within
    their span; nothing is added to them.

    Attributes:
        classes_: (c,) labels.
        means_: (c, d).
        covariances_: (c, d, d), over n.
        condition_numbers_: (c,) largest over smallest eigenvalue, inf where that is 0.

    Source: arXiv 2501.07741.

    Example:
        >>> import numpy as np
        >>> from rankone.stats.concentration import GaussianTwin
        >>> X = np.random.default_rng(0).standard_normal((100, 3))
        >>> twin = GaussianTwin().fit(X, np.arange(100) % 2)
        >>> twin.sample(5, random_state=0)[0].shape
        (10, 3)
    """

    def fit(self, X: ArrayLike, y: ArrayLike) -> GaussianTwin:
        """Measure means and covariances.

        Args:
            X: (n, d).
            y: (n,) labels, at least two samples each.

        Returns:
            self.

        Raises:
            ValueError: for X that is not 2-D and finite, or classes of one sample.
        """
        X, y = validate_data(self, X, y, dtype=np.float64)
        self.classes_, indices = np.unique(y, return_inverse=True)
        check_classes(indices, self.classes_, len(X))
        parts = [X[indices == k] for k in range(len(self.classes_))]
        self.means_ = np.stack([part.mean(axis=0) for part in parts])
        self.covariances_ = np.stack(
            [np.atleast_2d(np.cov(part, rowvar=False, ddof=0)) for part in parts]
        )
        values, vectors = np.linalg.eigh(self.covariances_)
        # Rounding leaves eigenvalues of about 1e-16 where the span ends; either sign means 0.
        values[values < 1e-12 * values[:, -1:]] = 0.0
        with np.errstate(divide="ignore", invalid="ignore"):
            self.condition_numbers_ = np.where(
                values[:, 0] > 0, values[:, -1] / values[:, 0], np.inf
            )
        self._roots = vectors * np.sqrt(values)[:, None]
        return self

    def sample(
        self, n_per_class: int, random_state: int | np.random.RandomState | None = None
    ) -> tuple[NDArray, NDArray]:
        """Draw ``n_per_class`` samples of every class: X (c n, d) and y (c n,), class by class.

        Raises:
            ValueError: for ``n_per_class`` below 1.
        """
        check_is_fitted(self)
        if n_per_class < 1:
            raise ValueError(f"n_per_class must be at least 1, got {n_per_class}")
        count, d = self.means_.shape
        noise = check_random_state(random_state).standard_normal((count, n_per_class, d))
        X = self.means_[:, None] + noise @ self._roots.transpose(0, 2, 1)
        return X.reshape(-1, d), np.repeat(self.classes_, n_per_class)


class SGDLinearClassifier(ClassifierMixin, BaseEstimator):
    """A linear classifier trained by plain stochastic gradient descent, as the paper's are.

    Args:
        loss: ``"mse"``, squared error against one-hot labels, mean over entries, or
            ``"cross_entropy"`` of a softmax.
        lr: step size.
        batch_size: rows a step.
        n_epochs: passes over the data.
        fit_intercept: also learn a bias.
        restart_period: epochs of a cosine decay of the step size with warm restarts; None keeps it
            constant.
        random_state: seed of the order of the rows.

    Attributes:
        classes_: (c,) labels.
        coef_: (c, d).
        intercept_: (c,), zeros without ``fit_intercept``.
        n_features_in_: d.

    Source: arXiv 2501.07741.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> from rankone.stats.concentration import SGDLinearClassifier
        >>> X, y = load_iris(return_X_y=True)
        >>> model = SGDLinearClassifier("cross_entropy", lr=0.1, n_epochs=60, random_state=0)
        >>> model.fit(X, y).score(X, y) > 0.9
        True
    """

    def __init__(
        self,
        loss: str = "mse",
        lr: float = 0.01,
        batch_size: int = 32,
        n_epochs: int = 15,
        fit_intercept: bool = False,
        restart_period: int | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.loss = loss
        self.lr = lr
        self.batch_size = batch_size
        self.n_epochs = n_epochs
        self.fit_intercept = fit_intercept
        self.restart_period = restart_period
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> SGDLinearClassifier:
        """Train from zero weights: X (n, d), y (n,) of at least two classes.

        Raises:
            ValueError: for unknown losses, sizes below 1 or a single class.
        """
        self._check_loss()
        check_number("lr", self.lr)
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError(f"lr must be finite and above 0, got {self.lr}")
        for name in ("batch_size", "n_epochs"):
            check_size(name, getattr(self, name))
        if self.restart_period is not None:
            check_size("restart_period", self.restart_period)
        X, y = validate_data(self, X, y, dtype=np.float64)
        self.classes_, indices = _labels(y)
        targets = np.eye(len(self.classes_))[indices]
        generator = check_random_state(self.random_state)
        weights = np.zeros((len(self.classes_), X.shape[1]))
        bias = np.zeros(len(self.classes_))
        for epoch in range(self.n_epochs):
            rate = self._rate(epoch)
            order = generator.permutation(len(X))
            for first in range(0, len(X), self.batch_size):
                rows = order[first : first + self.batch_size]
                slope = self._slope(X[rows] @ weights.T + bias, targets[rows])
                weights -= rate * slope.T @ X[rows]
                if self.fit_intercept:
                    bias -= rate * slope.sum(axis=0)
        self.coef_, self.intercept_ = weights, bias
        if not np.isfinite(weights).all():
            raise ValueError(f"lr must be small enough for the descent to converge, got {self.lr}")
        return self

    def _check_loss(self) -> None:
        if self.loss not in ("mse", "cross_entropy"):
            raise ValueError(f"loss must be 'mse' or 'cross_entropy', got {self.loss!r}")

    def _rate(self, epoch: int) -> float:
        if self.restart_period is None:
            return self.lr
        share = epoch % self.restart_period / self.restart_period
        return self.lr * (1 + math.cos(math.pi * share)) / 2

    def _slope(self, scores: NDArray, targets: NDArray) -> NDArray:
        """Derivative of the batch's mean loss by its scores."""
        if self.loss == "mse":
            return 2 * (scores - targets) / scores.size
        return (_softmax(scores) - targets) / len(scores)

    def decision_function(self, X: ArrayLike) -> NDArray:
        """Scores (m, c); for two classes (m,), the second less the first."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        scores = X @ self.coef_.T + self.intercept_
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    def predict(self, X: ArrayLike) -> NDArray:
        """The class of the highest score: (m,)."""
        scores = self.decision_function(X)
        best = (scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(axis=1)
        return self.classes_[best]

    def test_loss(self, X: ArrayLike, y: ArrayLike) -> float:
        """The training loss on other data.

        Raises:
            ValueError: for labels that were not trained on.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        y = np.asarray(y)
        if not np.isin(y, self.classes_).all():
            raise ValueError(f"y must hold labels of {self.classes_.tolist()}")
        targets = np.eye(len(self.classes_))[np.searchsorted(self.classes_, y)]
        scores = X @ self.coef_.T + self.intercept_
        if self.loss == "mse":
            return float(np.square(scores - targets).mean())
        shifted = scores - scores.max(axis=1, keepdims=True)
        log_total = np.log(np.exp(shifted).sum(axis=1))
        return float((log_total - (shifted * targets).sum(axis=1)).mean())


def universality_gap(
    X_train: ArrayLike,
    y_train: ArrayLike,
    X_test: ArrayLike,
    y_test: ArrayLike,
    n_train_per_class: Sequence[int] = (20, 100, 300),
    n_seeds: int = 3,
    loss: str = "mse",
    random_state: int | None = None,
) -> pd.DataFrame:
    """Linear classifiers on data and on their Gaussian twin, each trained and tested on its own.

    Twins are fitted on training and test data together and sampled at the same sizes. Both
    classifiers of a seed see the same order of batches.

    Args:
        X_train, y_train: (n, d) and (n,) data to draw training sets from.
        X_test, y_test: other data of the same law.
        n_train_per_class: sizes of the training sets, each at most that of the smallest class.
        n_seeds: repetitions.
        loss: as :class:`SGDLinearClassifier`.
        random_state: seed.

    Returns:
        A frame with a row a size and source (``"data"``, ``"twin"``): n_train (a class), source,
        accuracy_mean, accuracy_std, loss_mean, loss_std, over seeds.

    Raises:
        ValueError: for sizes above what a class has, an unknown loss, or classes of one sample.

    Source: arXiv 2501.07741.

    Example:
        >>> import numpy as np
        >>> from rankone.stats.concentration import universality_gap
        >>> X = np.random.default_rng(0).standard_normal((80, 3))
        >>> table = universality_gap(X[:40], np.arange(40) % 2, X[40:], np.arange(40) % 2, (5,))
        >>> table["source"].tolist()
        ['data', 'twin']
    """
    X_train, y_train = check_X_y(X_train, y_train, dtype=np.float64)
    X_test, y_test = check_X_y(X_test, y_test, dtype=np.float64)
    if n_seeds < 1:
        raise ValueError(f"n_seeds must be at least 1, got {n_seeds}")
    twin = GaussianTwin().fit(np.vstack((X_train, X_test)), np.concatenate((y_train, y_test)))
    sizes = [int((y_train == label).sum()) for label in twin.classes_]
    test_size = max(1, round(len(y_test) / len(twin.classes_)))
    for size in n_train_per_class:
        if not 1 <= size <= min(sizes):
            raise ValueError(
                f"n_train_per_class must lie between 1 and the smallest class, {min(sizes)}, got "
                f"{size}"
            )
    seeds = check_random_state(random_state).randint(2**31 - 1, size=n_seeds)
    rows = []
    for size in n_train_per_class:
        results: dict[str, list[tuple[float, float]]] = {"data": [], "twin": []}
        for seed in seeds:
            generator = np.random.RandomState(seed)
            chosen = np.concatenate(
                [
                    generator.choice(np.flatnonzero(y_train == label), size, replace=False)
                    for label in twin.classes_
                ]
            )
            laws = {
                "data": ((X_train[chosen], y_train[chosen]), (X_test, y_test)),
                "twin": (twin.sample(size, generator), twin.sample(test_size, generator)),
            }
            for source, (train, test) in laws.items():
                model = SGDLinearClassifier(loss, random_state=int(seed)).fit(*train)
                results[source].append((model.score(*test), model.test_loss(*test)))
        for source, values in results.items():
            (accuracy, test_loss), (accuracy_std, loss_std) = (
                np.mean(values, axis=0),
                np.std(values, axis=0),
            )
            rows.append((size, source, accuracy, accuracy_std, test_loss, loss_std))
    columns = ["n_train", "source", "accuracy_mean", "accuracy_std", "loss_mean", "loss_std"]
    return pd.DataFrame(rows, columns=columns)


def lipschitz_profile(
    map_fn: Callable[[Tensor], Tensor], noise: Tensor, method: str = "auto"
) -> dict[str, float | NDArray]:
    """Largest singular value of the sampler's Jacobian at each of a few noises.

    Args:
        map_fn: a differentiable sampler, rows independent: (n, d) to (n, k).
        noise: (n, d) points to look at.
        method: ``"exact"`` forms the Jacobian, ``"power"`` takes 20 power iterations with
            forward and reverse products; ``"auto"`` is exact up to d = 256.

    Returns:
        A dict of values (n,), their max and their mean. The maximum over points is a lower bound
        on the sampler's Lipschitz constant.

    Raises:
        ValueError: for noise of another shape or an unknown method.

    Example:
        >>> import torch
        >>> from rankone.stats.concentration import lipschitz_profile
        >>> round(lipschitz_profile(lambda z: 3 * z, torch.randn(4, 2))["max"], 6)
        3.0
    """
    _check_noise(noise)
    if method not in ("auto", "exact", "power"):
        raise ValueError(f"method must be 'auto', 'exact' or 'power', got {method!r}")
    if method == "auto":
        method = "exact" if noise.shape[1] <= _EXACT_JACOBIAN else "power"
    noise = noise.detach()
    values = _exact_gains(map_fn, noise) if method == "exact" else _power_gains(map_fn, noise)
    found = values.double().numpy()
    return {"max": float(found.max()), "mean": float(found.mean()), "values": found}


def _exact_gains(map_fn: Callable[[Tensor], Tensor], noise: Tensor) -> Tensor:
    # Rows are independent: the sum over rows of an output has every row's own gradient.
    jacobian = torch.func.jacrev(lambda z: map_fn(z).sum(dim=0))(noise)  # (k, n, d)
    return torch.linalg.matrix_norm(jacobian.transpose(0, 1), ord=2)


def _power_gains(map_fn: Callable[[Tensor], Tensor], noise: Tensor) -> Tensor:
    generator = torch.Generator(noise.device).manual_seed(0)
    direction = torch.randn(noise.shape, generator=generator, dtype=noise.dtype)
    direction = direction / direction.norm(dim=1, keepdim=True)
    _, pullback = torch.func.vjp(map_fn, noise)  # type: ignore[misc]
    for _ in range(_POWER_ITERATIONS):
        _, pushed = torch.func.jvp(map_fn, (noise,), (direction,))  # type: ignore[misc]
        gain = pushed.norm(dim=1)
        (direction,) = pullback(pushed)
        direction = direction / direction.norm(dim=1, keepdim=True).clamp_min(1e-300)
    return gain


def poincare_bound(
    map_fn: Callable[[Tensor], Tensor],
    noise: Tensor,
    functional: Callable[[Tensor], Tensor],
) -> dict[str, float]:
    """The Gaussian Poincare inequality: ``Var f(F(z)) <= E |grad_z f(F(z))|^2``.

    Args:
        map_fn: a differentiable sampler F, rows independent.
        noise: (n, d) standard normal draws.
        functional: f, (n, k) to (n,), differentiable.

    Returns:
        A dict of variance, bound (both estimated from the draws) and ratio, variance over bound.

    Raises:
        ValueError: for noise of another shape, or a functional of another.

    Example:
        >>> import torch
        >>> from rankone.stats.concentration import poincare_bound
        >>> bound = poincare_bound(lambda z: 2 * z, torch.randn(4000, 1), lambda x: x[:, 0])
        >>> round(bound["bound"], 6), 0.8 < bound["ratio"] < 1.2
        (4.0, True)
    """
    _check_noise(noise)
    point = noise.detach().requires_grad_()
    value = functional(map_fn(point))
    if value.shape != (len(noise),):
        raise ValueError(
            f"functional must return one value a row, ({len(noise)},), got {tuple(value.shape)}"
        )
    (slope,) = torch.autograd.grad(value.sum(), point)
    variance = float(value.detach().double().var())
    bound = float(slope.double().square().sum(dim=1).mean())
    return {"variance": variance, "bound": bound, "ratio": variance / bound if bound else math.nan}


def concentration_report(
    X: ArrayLike,
    lipschitz: float | None = None,
    n_projections: int = 64,
    functionals: Sequence[str] = FUNCTIONALS,
    random_state: int | np.random.RandomState | None = None,
) -> pd.DataFrame:
    """How 1-Lipschitz statistics of data concentrate.

    Args:
        X: (n, d).
        lipschitz: L of the sampler; None takes the largest standard deviation of a projection,
            under which a Gaussian meets the bound.
        n_projections: random unit directions, and data points to measure distances from.
        functionals: of ``"linear"`` (projections), ``"norm"``, ``"distance"`` (to data points) and
            ``"max"`` (largest coordinate).
        random_state: seed of directions and points.

    Returns:
        A frame indexed by functional: std, psi2 (sub-Gaussian norm), kurtosis (3 for a normal) and
        tail_ratio, the largest ratio of an empirical tail to ``2 exp(-t^2 / (2 L^2))`` over
        quantiles up to 0.999; each the worst over directions or points.

    Raises:
        ValueError: for X that is not 2-D and finite, unknown functionals or L of at most 0.

    Source: arXiv 2501.07741.

    Example:
        >>> import numpy as np
        >>> from rankone.stats.concentration import concentration_report
        >>> X = np.random.default_rng(0).standard_normal((500, 3))
        >>> bool((concentration_report(X, 1.0, random_state=0)["tail_ratio"] < 1.1).all())
        True
    """
    X = check_array(X, dtype=np.float64, ensure_min_samples=2)
    unknown = sorted(set(functionals) - set(FUNCTIONALS))
    if unknown:
        raise ValueError(f"functionals must be of {', '.join(FUNCTIONALS)}, got {unknown}")
    if n_projections < 1:
        raise ValueError(f"n_projections must be at least 1, got {n_projections}")
    generator = check_random_state(random_state)
    directions = generator.standard_normal((X.shape[1], n_projections))
    directions /= np.linalg.norm(directions, axis=0)
    projections = X @ directions
    if lipschitz is None:
        lipschitz = float(projections.std(axis=0).max())
    if not lipschitz > 0:
        raise ValueError(f"lipschitz must be above 0, got {lipschitz}")
    rows = {}
    for name in functionals:
        if name == "linear":
            values = projections
        elif name == "norm":
            values = np.linalg.norm(X, axis=1)[:, None]
        elif name == "max":
            values = X.max(axis=1)[:, None]
        else:
            points = X[generator.choice(len(X), min(n_projections, len(X)), replace=False)]
            values = np.stack([np.linalg.norm(X - point, axis=1) for point in points], axis=1)
        rows[name] = {
            "std": float(values.std(axis=0).max()),
            "psi2": max(subgaussian_norm(column) for column in values.T),
            "kurtosis": float(np.max(kurtosis(values, axis=0, fisher=False))),
            "tail_ratio": _worst_tail(values, lipschitz),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def _worst_tail(values: NDArray, lipschitz: float) -> float:
    deviation = np.abs(values - values.mean(axis=0))
    thresholds = np.quantile(deviation, _QUANTILES, axis=0)
    empirical = (deviation[None] >= thresholds[:, None]).mean(axis=1)
    # In logs: far out the bound underflows.
    log_ratio = (
        np.log(np.maximum(empirical, 1e-300)) - math.log(2) + thresholds**2 / (2 * lipschitz**2)
    )
    return float(np.exp(np.minimum(log_ratio.max(), 700.0)))


def subgaussian_norm(x: ArrayLike) -> float:
    """``inf {t > 0: mean exp((x - mean)^2 / t^2) <= 2}``; sqrt(8/3) for a standard normal.

    Args:
        x: (n,) finite values, n at least 2.

    Returns:
        The norm; 0 for constant values.

    Raises:
        ValueError: for another shape or values that are not finite.

    Example:
        >>> from rankone.stats.concentration import subgaussian_norm
        >>> round(subgaussian_norm([-1.0, 1.0]), 7)
        1.2011224
    """
    x = _vector(x, "x", least=2)
    square = np.square(x - x.mean())
    largest = square.max()
    if largest == 0:
        return 0.0
    n = len(x)

    def above(log_t: float) -> bool:
        exponent = square * math.exp(-2 * log_t)
        peak = exponent.max()  # exp would overflow
        return peak + math.log(np.exp(exponent - peak).sum()) > math.log(2 * n)

    # mean exp(.) <= exp(largest / t^2), which is 2 at the upper end, and >= exp(largest/t^2) / n.
    high = 0.5 * math.log(largest / math.log(2))
    low = 0.5 * math.log(largest / math.log(2 * n))
    while high - low > 1e-13 * max(1.0, abs(high)):
        middle = (low + high) / 2
        if above(middle):
            low = middle
        else:
            high = middle
    return math.exp(high)


def hill_estimator(x: ArrayLike, k: int) -> float:
    """Tail index from the ``k`` largest values: ``1 / mean(ln X_(i) - ln X_(k+1))``.

    Args:
        x: (n,) values above 0.
        k: number of extremes, 1 to n - 1.

    Returns:
        alpha; inf where the extremes are equal.

    Raises:
        ValueError: for values of at most 0, or ``k`` out of range.

    Example:
        >>> from rankone.stats.concentration import hill_estimator
        >>> round(hill_estimator([1.0, 2.718281828459045], 1), 12)
        1.0
    """
    x = _vector(x, "x", least=2)
    if not (x > 0).all():
        raise ValueError(f"x must be above 0, got a minimum of {x.min():.6g}")
    if not 1 <= k < len(x):
        raise ValueError(f"k must lie between 1 and n - 1 = {len(x) - 1}, got {k}")
    logs = np.log(np.sort(x)[::-1][: k + 1])
    mean = float((logs[:k] - logs[k]).mean())
    return 1 / mean if mean > 0 else math.inf


def tail_quantile_ratio(
    generated: ArrayLike, reference: ArrayLike, q: Sequence[float] = (0.5, 0.9, 0.99, 0.999)
) -> NDArray:
    """Quantiles of the norms of generated over those of reference data.

    Args:
        generated, reference: (n, d) and (m, d).
        q: probabilities.

    Returns:
        (len(q),) ratios.

    Raises:
        ValueError: for arrays that are not 2-D and finite, or probabilities outside [0, 1].

    Example:
        >>> import numpy as np
        >>> from rankone.stats.concentration import tail_quantile_ratio
        >>> tail_quantile_ratio(2 * np.ones((5, 1)), np.ones((5, 1)), [0.5]).tolist()
        [2.0]
    """
    if not all(0 <= value <= 1 for value in q):
        raise ValueError(f"q must lie in [0, 1], got {q}")
    ours, theirs = (
        np.linalg.norm(check_array(X, dtype=np.float64), axis=1) for X in (generated, reference)
    )
    return np.quantile(ours, q) / np.quantile(theirs, q)


def _vector(x: ArrayLike, name: str, *, least: int) -> NDArray:
    x = np.asarray(x, dtype=np.float64)
    if x.ndim != 1 or len(x) < least or not np.isfinite(x).all():
        raise ValueError(f"{name} must be {least} or more finite values (n,), got {x.shape}")
    return x


def _check_noise(noise: Tensor) -> None:
    check_tensor("noise", noise)
    if noise.ndim != 2 or not noise.is_floating_point():
        raise ValueError(f"noise must be a float tensor (n, d), got {tuple(noise.shape)}")


def _labels(y: NDArray) -> tuple[NDArray, NDArray]:
    from sklearn.utils.multiclass import check_classification_targets

    check_classification_targets(y)
    classes, indices = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError("y must hold at least two classes, got 1 class")
    return classes, indices


def _softmax(scores: NDArray) -> NDArray:
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def __dir__() -> list[str]:
    return public_names(globals())
