"""One step of preconditioned gradient descent in context: its optimum and its loss, exactly.

With g = X^T y of a context, the prediction is x_q^T P g, one step from w = 0 on half the SUM of
squared errors (multiply P by n for the mean). Over tasks x ~ N(0, Sigma), w ~ N(0, Lambda), the
best P is E[w g^T] E[g g^T]^-1 with

    E[w g^T] = n Lambda Sigma,
    E[g g^T] = n (n + 1) Sigma Lambda Sigma + n c Sigma,    c = tr(Lambda Sigma) + sigma^2.

That one layer of linear self-attention has this step as its optimum is the result of "One Step of
Gradient Descent is Provably the Optimal In-Context Learner with One Layer of Linear Self-Attention"
(arXiv 2307.03576), which states the step as a ratio of expectations. The closed forms here, for any
pair of covariances, all prefixes of a context and single-index targets, were derived for rankone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import torch
from numpy.polynomial.hermite_e import hermegauss
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from rankone._arguments import check_instance
from rankone.icl._tasks import (
    Covariances,
    ICLTasks,
    Matrix,
    TaskSampler,
    check_choice,
    check_count,
    check_number,
    check_square,
)
from rankone.ops.checks import check_same_dtype

PREFIXES = ("full", "all")

# Nodes of the Gauss-Hermite rule for a link's moments.
_LINK_NODES = 128

# Tasks from which the optimum of a target without a closed form is estimated, and of one batch.
_ESTIMATION_TASKS = 2**16
_ESTIMATION_BATCH = 2**12

# Squared correlation of a link with its argument below which it is rounding: the step is then 0.
_NO_CORRELATION = np.finfo(float).eps


def _pairs(n_context: int, prefix: str) -> float:
    """E[t (t + 1)] / E[t] over the prefix lengths t: n + 1 for the whole context alone."""
    return n_context + 1 if prefix == "full" else 2 * (n_context + 2) / 3


def optimal_step_size(
    n_context: int,
    n_features: int,
    *,
    noise_std: float = 0.0,
    w_var: float = 1.0,
    prefix: str = "full",
) -> float:
    """The best step size for x ~ N(0, I), w ~ N(0, w_var I): P* = eta I.

    Args:
        n_context: n, examples of the context.
        n_features: d.
        noise_std: sigma of the labels.
        w_var: variance of each weight, above 0.
        prefix: ``"full"``, eta = 1 / (n + d + 1 + sigma^2 / w_var); ``"all"``, the best single
            step for a loss averaged over the prefixes of 1, ..., n examples,
            1 / ((2 n + 1) / 3 + d + 1 + sigma^2 / w_var).

    Returns:
        eta, of the sum of squared errors.

    Raises:
        ValueError: for sizes below 1, a negative ``noise_std``, ``w_var`` not above 0, or an
            unknown ``prefix``.

    Source: the full form evaluates the ratio of expectations of arXiv 2307.03576; ``"all"`` was
    derived for rankone.

    Example:
        >>> from rankone.icl.linear_self_attention import optimal_step_size
        >>> round(optimal_step_size(20, 5, noise_std=0.5), 7)
        0.0380952
    """
    n = check_count("n_context", n_context)
    d = check_count("n_features", n_features)
    check_choice("prefix", prefix, PREFIXES)
    noise = check_number("noise_std", noise_std) ** 2 / check_number("w_var", w_var, positive=True)
    return 1.0 / (_pairs(n, prefix) + d + noise)


def optimal_preconditioner(
    n_context: int,
    x_cov: Matrix,
    *,
    w_cov: Matrix | str | None = None,
    noise_std: float = 0.0,
    prefix: str = "full",
) -> Tensor:
    """The best P: [(n + 1) Sigma + (tr(Lambda Sigma) + sigma^2) Lambda^-1]^-1.

    Evaluated without Lambda^-1, so that Lambda may be singular.

    Args:
        n_context: n, examples of the context.
        x_cov: (d, d) Sigma, symmetric positive definite.
        w_cov: (d, d) Lambda, symmetric positive semi-definite; None is the identity, ``"inverse"``
            is Sigma^-1, for which P* = Sigma^-1 / (n + d + 1 + sigma^2).
        noise_std: sigma of the labels.
        prefix: ``"full"``, or ``"all"`` for a loss averaged over the prefixes of 1, ..., n
            examples, which has 2 (n + 2) / 3 in the place of n + 1.

    Returns:
        (d, d) float64 tensor.

    Raises:
        ValueError: for ``n_context`` below 1, matrices that are no covariances, a negative
            ``noise_std``, or an unknown ``prefix``.

    Source: derived for rankone; ``w_cov="inverse"`` is the anisotropic case of arXiv 2307.03576.

    Example:
        >>> import torch
        >>> from rankone.icl.linear_self_attention import optimal_preconditioner
        >>> optimal_preconditioner(1, torch.eye(1))
        tensor([[0.3333]], dtype=torch.float64)
    """
    n = check_count("n_context", n_context)
    check_choice("prefix", prefix, PREFIXES)
    if x_cov is None:
        raise ValueError("x_cov must be a (d, d) matrix, got None")
    law = Covariances(x_cov, w_cov)
    return _optimal(law, n, check_number("noise_std", noise_std), prefix)


def _noise_level(law: Covariances, noise_std: float) -> float:
    return float(law.product.trace()) + noise_std**2


def _optimal(law: Covariances, n_context: int, noise_std: float, prefix: str) -> Tensor:
    level = _noise_level(law, noise_std)
    if level == 0:  # every label is 0
        return torch.zeros_like(law.sigma)
    identity = torch.eye(law.n_features, dtype=torch.float64)
    return torch.linalg.solve(
        _pairs(n_context, prefix) * law.product.T + level * identity, law.weights
    )


def population_loss(
    preconditioner: Matrix | float,
    n_context: int,
    n_features: int | None = None,
    *,
    x_cov: Matrix | None = None,
    w_cov: Matrix | str | None = None,
    noise_std: float = 0.0,
) -> float:
    """Expected squared error of one step of gradient descent on a new, noisy label.

    Args:
        preconditioner: (d, d) P, symmetric or not, or a float, that times I.
        n_context: n, examples of the context; need not be what P was chosen for.
        n_features: d; needed only where no matrix says it.
        x_cov: (d, d) Sigma; None is the identity.
        w_cov: (d, d) Lambda; None is the identity, ``"inverse"`` is Sigma^-1.
        noise_std: sigma of the labels, the query's as well.

    Returns:
        tr(Sigma Lambda) + sigma^2 - 2 n tr(Sigma P Sigma Lambda) + tr(Sigma P E[g g^T] P^T).

    Raises:
        ValueError: for sizes below 1 or disagreeing, matrices that are no covariances, or a
            negative ``noise_std``.

    Source: derived for rankone, in the setting of arXiv 2307.03576.

    Example:
        >>> from rankone.icl.linear_self_attention import optimal_step_size, population_loss
        >>> step = optimal_step_size(20, 5, noise_std=0.5)
        >>> round(population_loss(step, 20, 5, noise_std=0.5), 6)
        1.440476
    """
    n = check_count("n_context", n_context)
    d = None if n_features is None else check_count("n_features", n_features)
    scalar = _as_scalar("preconditioner", preconditioner)
    if scalar is None:
        P, _ = check_square("preconditioner", preconditioner, d)
        law = Covariances(x_cov, w_cov, len(P))
    else:
        law = Covariances(x_cov, w_cov, d)
        P = scalar * torch.eye(law.n_features, dtype=torch.float64)
    return _loss(P, law, n, check_number("noise_std", noise_std))


def _loss(P: Tensor, law: Covariances, n_context: int, noise_std: float) -> float:
    level = _noise_level(law, noise_std)
    step = law.sigma @ P
    second_moment = gradient_second_moment(law, n_context, noise_std)
    explained = 2 * n_context * (step @ law.product).trace()
    return float(level - explained + (step @ second_moment @ P.T).trace())


def gradient_second_moment(law: Covariances, n_context: int, noise_std: float) -> Tensor:
    """E[g g^T] of g = X^T y, (d, d) float64."""
    level = _noise_level(law, noise_std)
    return n_context * ((n_context + 1) * law.product @ law.sigma + level * law.sigma)


def single_index_step_size(
    n_context: int,
    n_features: int,
    link: Callable[[NDArray], ArrayLike],
    *,
    noise_std: float = 0.0,
    n_nodes: int = _LINK_NODES,
) -> float:
    """The best step size for y = link(u . x) + noise, u uniform on the sphere and x ~ N(0, I).

    eta = c1^2 / ((n - 1) c1^2 + (d - 1) m0 + m2 + d sigma^2), with c1 = E[z link(z)],
    m0 = E[link(z)^2] and m2 = E[z^2 link(z)^2] for a standard normal z. A link that is even has
    c1 = 0: the best layer predicts 0.

    Args:
        n_context: n, examples of the context.
        n_features: d.
        link: function of a numpy array, element by element.
        noise_std: sigma of the labels.
        n_nodes: points of the Gauss-Hermite rule, exact for a polynomial link of degree up to
            n_nodes - 2. A jump at 0, such as that of the sign, costs 0.4 % with the default.

    Returns:
        eta, of the sum of squared errors.

    Raises:
        ValueError: for sizes below 1, fewer than 2 nodes, a negative ``noise_std``, or a link whose
            values are not finite or have another shape.

    Source: the ratio of expectations of arXiv 2307.03576, evaluated for rankone.

    Example:
        >>> import numpy as np
        >>> from rankone.icl.linear_self_attention import single_index_step_size
        >>> round(single_index_step_size(12, 4, np.tanh, noise_std=0.3), 5)
        0.0579
    """
    n = check_count("n_context", n_context)
    d = check_count("n_features", n_features)
    noise_std = check_number("noise_std", noise_std)
    moments = _link_moments(link, check_count("n_nodes", n_nodes, 2))
    return _single_index(n, d, moments, noise_std, "full")


def _single_index(
    n_context: int,
    n_features: int,
    moments: tuple[float, float, float],
    noise_std: float,
    prefix: str,
) -> float:
    c1, m0, m2 = moments
    if c1**2 <= _NO_CORRELATION * m0:
        return 0.0
    others = _pairs(n_context, prefix) - 2  # E[t (t - 1)] / E[t]
    return c1**2 / (others * c1**2 + (n_features - 1) * m0 + m2 + n_features * noise_std**2)


def _link_moments(link: Callable[[NDArray], ArrayLike], n_nodes: int) -> tuple[float, float, float]:
    """E[z link(z)], E[link(z)^2] and E[z^2 link(z)^2] of a standard normal z."""
    if not callable(link):
        raise ValueError(f"link must be a callable, got {link!r}")
    z, weights = hermegauss(n_nodes)
    weights = weights / weights.sum()
    values = np.asarray(link(z), dtype=float)
    if values.shape != z.shape or not np.isfinite(values).all():
        raise ValueError(
            f"link must return {n_nodes} finite values for {n_nodes} arguments up to "
            f"{z[-1]:.3g}, got shape {values.shape} and {np.sum(~np.isfinite(values))} not finite"
        )
    return (
        float(weights @ (z * values)),
        float(weights @ values**2),
        float(weights @ (z * values) ** 2),
    )


def empirical_step_size(tasks: ICLTasks) -> float:
    """The best step size of a sample of tasks: E[y_q (g . x_q)] / E[(g . x_q)^2].

    Args:
        tasks: from :func:`make_regression_tasks`, of any target.

    Returns:
        eta, of the sum of squared errors.

    Raises:
        ValueError: if every context has g . x_q = 0.

    Source: the ratio of arXiv 2307.03576 for targets whose law is invariant under rotation.

    Example:
        >>> from rankone.icl.linear_self_attention import empirical_step_size, make_regression_tasks
        >>> tasks = make_regression_tasks(20000, 20, 5, random_state=0)
        >>> abs(empirical_step_size(tasks) * 26 - 1) < 0.03
        True
    """
    check_instance("tasks", tasks, ICLTasks)
    X, y = tasks.context
    X_query, y_query = tasks.query
    prediction = one_step_gd(X.double(), y.double(), X_query.double(), 1.0)
    square = float(prediction.square().mean())
    if square == 0:
        raise ValueError("tasks must have a context that is not all 0, got g . x_q = 0 in each")
    return float((prediction * y_query).mean()) / square


def one_step_gd(X: Tensor, y: Tensor, X_query: Tensor, preconditioner: Matrix | float) -> Tensor:
    """Predictions x_q^T P X^T y: one step of gradient descent from w = 0, for each task.

    Args:
        X: (B, n, d) inputs of the contexts.
        y: (B, n) labels.
        X_query: (B, d) one query a task, or (B, m, d).
        preconditioner: (d, d) P, or a float, that times I.

    Returns:
        (B,) or (B, m) predictions.

    Raises:
        ValueError: for shapes that disagree.

    Source: arXiv 2307.03576.

    Example:
        >>> import torch
        >>> from rankone.icl.linear_self_attention import one_step_gd
        >>> one_step_gd(torch.ones(1, 2, 1), torch.ones(1, 2), torch.ones(1, 1), 0.25)
        tensor([0.5000])
    """
    if X_query is None:
        raise TypeError("X_query must be a tensor, got None")
    check_context(X, y, X_query)
    check_same_dtype({"X": X, "y": y, "X_query": X_query})
    gradient = (y[:, None] @ X)[:, 0]
    scalar = _as_scalar("preconditioner", preconditioner)
    if scalar is None:
        P = torch.as_tensor(preconditioner).to(X)
        if P.shape != (X.shape[2],) * 2:
            raise ValueError(
                f"preconditioner must be a number or have shape ({X.shape[2]}, {X.shape[2]}), got "
                f"{tuple(P.shape)}"
            )
        step = gradient @ P.T
    else:
        step = scalar * gradient
    return (X_query @ step[..., None])[..., 0] if X_query.ndim == 3 else (X_query * step).sum(-1)


def check_context(X: Tensor, y: Tensor, X_query: Tensor | None = None) -> None:
    """Shapes of contexts and queries agree."""
    given = {"X": X, "y": y} | ({} if X_query is None else {"X_query": X_query})
    for name, tensor in given.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
    if X.ndim != 3:
        raise ValueError(f"X must have shape (B, n, d), got {tuple(X.shape)}")
    if y.shape != X.shape[:2]:
        raise ValueError(f"y must have shape {tuple(X.shape[:2])} as X says, got {tuple(y.shape)}")
    if X_query is not None:
        B, _, d = X.shape
        valid = X_query.ndim in (2, 3) and X_query.shape[0] == B and X_query.shape[-1] == d
        if not valid:
            raise ValueError(
                f"X_query must have shape ({B}, {d}) or ({B}, m, {d}) as X says, got "
                f"{tuple(X_query.shape)}"
            )


def _as_scalar(name: str, value: Any) -> float | None:
    """A number as a finite float, None for anything with axes."""
    if isinstance(value, bool | str) or value is None:
        raise ValueError(f"{name} must be a number or a (d, d) matrix, got {value!r}")
    if isinstance(value, Real) or getattr(value, "ndim", None) == 0:
        number = float(value)
        if not np.isfinite(number):
            raise ValueError(f"{name} must be finite, got {number}")
        return number
    return None


@dataclass(frozen=True, eq=False)
class Optimum:
    """The best P of one training problem, (d, d) float64, and its loss."""

    preconditioner: Tensor
    loss: float


def training_optimum(sampler: TaskSampler, prefix: str, generator: torch.Generator) -> Optimum:
    """The best P for the tasks of ``sampler``; in closed form where there is one.

    Without one, for a target that is neither linear nor a link of isotropic inputs, it is the least
    squares solution of fresh tasks.
    """
    n = sampler.n_points - 1
    law, noise_std = sampler.covariances, sampler.noise_std
    if sampler.target == "linear":
        P = _optimal(law, n, noise_std, prefix)
        lengths = range(1, n + 1) if prefix == "all" else (n,)
        return Optimum(P, float(np.mean([_loss(P, law, t, noise_std) for t in lengths])))
    if sampler.target == "single_index" and law.isotropic_inputs:
        moments = _link_moments(_on_arrays(sampler), _LINK_NODES)
        step = _single_index(n, sampler.n_features, moments, noise_std, prefix)
        identity = torch.eye(sampler.n_features, dtype=torch.float64)
        mean_length = n if prefix == "full" else (n + 1) / 2
        loss = moments[1] + noise_std**2 - mean_length * moments[0] ** 2 * step
        return Optimum(step * identity, loss)
    return _estimated(sampler, prefix, generator)


def _on_arrays(sampler: TaskSampler) -> Callable[[NDArray], NDArray]:
    """The sampler's link as a function of numpy arrays."""
    link = sampler.link
    assert link is not None
    return lambda z: link(torch.as_tensor(z, dtype=sampler.dtype)).double().numpy()


def _estimated(sampler: TaskSampler, prefix: str, generator: torch.Generator) -> Optimum:
    d = sampler.n_features
    shared = torch.zeros(d, d, dtype=torch.float64, device=sampler.device)
    square = torch.zeros_like(shared)
    power = 0.0
    batches = _ESTIMATION_TASKS // _ESTIMATION_BATCH
    for _ in range(batches):
        tasks = sampler.draw(_ESTIMATION_BATCH, generator)
        X, y = tasks.X.double(), tasks.y.double()
        labelled = X * y[..., None]
        gradient = labelled[:, :-1].cumsum(1)
        queries, labels = labelled[:, 1:], y[:, 1:]
        if prefix == "full":
            gradient, queries, labels = gradient[:, -1:], queries[:, -1:], labels[:, -1:]
        count = batches * _ESTIMATION_BATCH * labels.shape[1]
        gradient, queries = gradient.flatten(0, 1), queries.flatten(0, 1)
        shared += queries.T @ gradient / count
        square += gradient.T @ gradient / count
        power += float(labels.square().sum()) / count
    # E[x_q x_q^T P g g^T] = Sigma P E[g g^T], for queries do not depend on their context.
    sigma = sampler.covariances.sigma.to(shared.device)
    if sampler.target == "mlp" and sampler.covariances.isotropic_inputs:
        P = shared.trace() / square.trace() * sigma  # no direction is preferred
    else:
        P = torch.linalg.solve(square, torch.linalg.solve(sigma, shared), left=False)
    return Optimum(P.cpu(), power - float((P * shared).sum()))


class OneStepGDRegressor(RegressorMixin, BaseEstimator):
    """Linear regression by one step of preconditioned gradient descent from 0, no intercept.

    What a trained layer of linear self-attention does with its context, as an estimator.

    Args:
        step_size: a float eta; a (d, d) preconditioner P; or ``"optimal"``, the best P for the
            number of samples given the other arguments.
        noise_std: sigma of the labels, for ``"optimal"``.
        x_cov: (d, d) covariance of the inputs, for ``"optimal"``; None is the identity.
        w_cov: (d, d) covariance of the weights, for ``"optimal"``; None is the identity,
            ``"inverse"`` is the inverse of ``x_cov``.

    Attributes:
        coef_: (d,) P X^T y.
        preconditioner_: (d, d) P.
        n_features_in_: d.

    Source: arXiv 2307.03576; ``"optimal"`` as :func:`optimal_preconditioner`.

    Example:
        >>> from rankone.icl.linear_self_attention import OneStepGDRegressor
        >>> model = OneStepGDRegressor(step_size=0.25).fit([[1.0], [2.0]], [1.0, 2.0])
        >>> model.coef_.tolist()
        [1.25]
    """

    def __init__(
        self,
        step_size: Any = "optimal",
        noise_std: float = 0.0,
        x_cov: Any = None,
        w_cov: Any = None,
    ) -> None:
        self.step_size = step_size
        self.noise_std = noise_std
        self.x_cov = x_cov
        self.w_cov = w_cov

    def fit(self, X: ArrayLike, y: ArrayLike) -> OneStepGDRegressor:
        """Take one step.

        Args:
            X: (n, d) inputs.
            y: (n,) labels.

        Returns:
            The estimator.

        Raises:
            ValueError: for data that are no such arrays, or parameters that do not fit them.
        """
        X, y = validate_data(self, X, y, y_numeric=True, dtype=np.float64)
        self.preconditioner_ = self._preconditioner(*X.shape)
        self.coef_ = self.preconditioner_ @ (X.T @ y)
        return self

    def predict(self, X: ArrayLike) -> NDArray:
        """Predictions (n,) for inputs X (n, d)."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=np.float64)
        return X @ self.coef_

    def _preconditioner(self, n_samples: int, n_features: int) -> NDArray:
        if isinstance(self.step_size, str):
            check_choice("step_size", self.step_size, ("optimal",))
            law = Covariances(self.x_cov, self.w_cov, n_features)
            noise_std = check_number("noise_std", self.noise_std)
            return _optimal(law, n_samples, noise_std, "full").numpy()
        scalar = _as_scalar("step_size", self.step_size)
        if scalar is not None:
            return scalar * np.eye(n_features)
        return check_square("step_size", self.step_size, n_features)[0].numpy()
