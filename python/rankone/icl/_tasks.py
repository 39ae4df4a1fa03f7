"""In-context regression tasks: n points with labels, one query, and one hidden function a task.

A sampler is checked once and then draws batches of fresh tasks, as a training loop needs them.
Covariances stay factored: inputs are drawn through the Cholesky factor of theirs, and weights with
the inverse covariance by a triangular solve with the same factor.

Setting: "One Step of Gradient Descent is Provably the Optimal In-Context Learner with One Layer of
Linear Self-Attention" (arXiv 2307.03576).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, TypeAlias

import numpy as np
import torch
from sklearn.utils import check_random_state
from torch import Tensor

from rankone._repr import short_repr

RandomState: TypeAlias = int | np.random.RandomState | np.random.Generator | torch.Generator | None
Target: TypeAlias = str | Callable[[Tensor, torch.Generator], Tensor]
Link: TypeAlias = Callable[[Tensor], Tensor]
Matrix: TypeAlias = Any  # a tensor or anything that numpy reads as a matrix

TARGETS = ("linear", "single_index", "mlp")

# A covariance may miss symmetry, and a semi-definite one may miss zero, by this many roundings of
# its largest entry, times its size.
_ROUNDINGS = 16


def check_count(name: str, value: Any, low: int = 1) -> int:
    """``value`` as an int of at least ``low``."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < low:
        raise ValueError(f"{name} must be an integer of at least {low}, got {value!r}")
    return int(value)


def check_number(name: str, value: Any, *, positive: bool = False) -> float:
    """``value`` as a finite float of at least 0, or above 0."""
    valid = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not valid or value < 0 or (positive and value == 0):
        bound = "a finite number above 0" if positive else "a finite number of at least 0"
        raise ValueError(f"{name} must be {bound}, got {value!r}")
    return float(value)


def check_choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    """``value`` is one of ``allowed``."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def check_dtype(dtype: Any) -> torch.dtype:
    """``dtype`` is one that tasks and layers are computed in."""
    if dtype not in (torch.float32, torch.float64):
        raise TypeError(f"dtype must be torch.float32 or torch.float64, got {dtype!r}")
    return dtype


def check_square(name: str, value: Matrix, n_features: int | None = None) -> tuple[Tensor, float]:
    """``value`` as a finite (d, d) float64 tensor on the CPU, and the rounding unit it had."""
    if isinstance(value, str):
        raise ValueError(f"{name} must be a square matrix, got {value!r}")
    if not isinstance(value, Tensor):
        value = np.asarray(value)
        if value.dtype.kind not in "fiu":
            raise TypeError(f"{name} must hold real numbers, got dtype {value.dtype}")
    matrix = torch.as_tensor(value).detach().cpu()
    if matrix.is_complex() or matrix.dtype == torch.bool:
        raise TypeError(f"{name} must hold real numbers, got {matrix.dtype}")
    unit = torch.finfo(matrix.dtype if matrix.is_floating_point() else torch.float64).eps
    matrix = matrix.double()
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.numel():
        raise ValueError(f"{name} must be a square matrix, got shape {tuple(matrix.shape)}")
    if n_features is not None and len(matrix) != n_features:
        raise ValueError(
            f"{name} must have shape ({n_features}, {n_features}), got {tuple(matrix.shape)}"
        )
    if not matrix.isfinite().all():
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return matrix, unit


def _symmetric(name: str, value: Matrix, n_features: int | None, kind: str) -> tuple[Tensor, float]:
    """A symmetric matrix, and the size of its rounding errors."""
    matrix, unit = check_square(name, value, n_features)
    slack = _ROUNDINGS * len(matrix) * unit * float(matrix.abs().max())
    asymmetry = float((matrix - matrix.T).abs().max())
    if asymmetry > slack:
        raise ValueError(
            f"{name} must be symmetric {kind}, got a matrix that differs from its transpose by "
            f"{asymmetry:.3g}"
        )
    return (matrix + matrix.T) / 2, slack


class Covariances:
    """Checked covariances of inputs and weights, float64 on the CPU.

    Args:
        x_cov: (d, d) Sigma, or None for the identity.
        w_cov: (d, d) Lambda, None for the identity, or ``"inverse"`` for Sigma^-1.
        n_features: d; None takes it from the matrices.

    Attributes:
        sigma, weights: (d, d) Sigma and Lambda.
        product: (d, d) Sigma Lambda, the identity itself under ``"inverse"``.
        factor: lower Cholesky factor of Sigma, or None for the identity.
        weight_root: a square root of Lambda, or None for the identity and under ``"inverse"``.
        inverse: whether Lambda is Sigma^-1.
    """

    def __init__(
        self, x_cov: Matrix | None, w_cov: Matrix | str | None, n_features: int | None = None
    ) -> None:
        self.inverse = isinstance(w_cov, str)
        if self.inverse and w_cov != "inverse":
            raise ValueError(f"w_cov must be a matrix, None or 'inverse', got {w_cov!r}")
        self.factor: Tensor | None = None
        self.weight_root: Tensor | None = None
        if x_cov is not None:
            sigma, _ = _symmetric("x_cov", x_cov, n_features, "positive definite")
            factor, failed = torch.linalg.cholesky_ex(sigma)
            if failed:
                smallest = float(torch.linalg.eigvalsh(sigma)[0])
                raise ValueError(
                    f"x_cov must be symmetric positive definite, got smallest eigenvalue "
                    f"{smallest:.3g}"
                )
            self.factor, n_features = factor, len(sigma)
        if w_cov is not None and not self.inverse:
            weights, slack = _symmetric("w_cov", w_cov, n_features, "positive semi-definite")
            values, vectors = torch.linalg.eigh(weights)
            if values[0] < -slack:
                raise ValueError(
                    "w_cov must be symmetric positive semi-definite, got smallest eigenvalue "
                    f"{float(values[0]):.3g}"
                )
            self.weight_root, n_features = vectors * values.clamp(min=0).sqrt(), len(weights)
        if n_features is None:
            raise ValueError("n_features must be given where neither x_cov nor w_cov says it")
        identity = torch.eye(n_features, dtype=torch.float64)
        self.n_features = n_features
        self.sigma = identity if x_cov is None else sigma
        if self.inverse:
            self.weights = identity
            if self.factor is not None:
                self.weights = torch.cholesky_solve(identity, self.factor)
            self.product = identity
        else:
            self.weights = identity if w_cov is None else weights
            self.product = self.sigma @ self.weights

    @property
    def isotropic_inputs(self) -> bool:
        """Whether Sigma was left at the identity."""
        return self.factor is None


def torch_generator(random_state: RandomState, device: Any = "cpu") -> torch.Generator:
    """A torch generator on ``device`` from whatever says a random state.

    A torch generator is returned as it is, so that several draws continue one stream.
    """
    if isinstance(random_state, torch.Generator):
        return random_state
    if isinstance(random_state, np.random.Generator):
        seed = int(random_state.integers(2**31 - 1))
    else:
        try:
            seed = int(check_random_state(random_state).randint(2**31 - 1))
        except ValueError as error:
            raise ValueError(
                "random_state must be an integer from 0 to 2**32 - 1, a random state or generator, "
                f"or None, got {random_state!r}"
            ) from error
    return torch.Generator(device=device).manual_seed(seed)


@dataclass(frozen=True, eq=False)
class ICLTasks:
    """A batch of tasks; the last point of each is the query.

    Attributes:
        X: (B, n + 1, d) inputs.
        y: (B, n + 1) labels, noisy all of them, that of the query too.
        w: (B, d) hidden weights, unit directions of a single-index target, or None.
    """

    __repr__ = short_repr

    X: Tensor
    y: Tensor
    w: Tensor | None

    @property
    def context(self) -> tuple[Tensor, Tensor]:
        """Inputs (B, n, d) and labels (B, n) of the context."""
        return self.X[:, :-1], self.y[:, :-1]

    @property
    def query(self) -> tuple[Tensor, Tensor]:
        """Input (B, d) and label (B,) of the query."""
        return self.X[:, -1], self.y[:, -1]


class TaskSampler:
    """Draws batches of tasks from one law; arguments as :func:`make_regression_tasks`.

    Args:
        n_points: points a task, the query among them.
    """

    def __init__(
        self,
        n_points: int,
        n_features: int,
        *,
        noise_std: float = 0.0,
        x_cov: Matrix | None = None,
        w_cov: Matrix | str | None = None,
        target: Target = "linear",
        link: Link | None = None,
        hidden: int = 16,
        dtype: torch.dtype = torch.float32,
        device: Any = "cpu",
    ) -> None:
        self.n_points = check_count("n_points", n_points)
        self.n_features = check_count("n_features", n_features)
        self.noise_std = check_number("noise_std", noise_std)
        self.hidden = check_count("hidden", hidden)
        if not callable(target):
            check_choice("target", target, TARGETS)
        if target == "single_index" and not callable(link):
            raise ValueError(f"link must be a callable for target='single_index', got {link!r}")
        if target != "single_index" and link is not None:
            raise ValueError(f"link must be None unless target='single_index', got target={target}")
        if target != "linear" and w_cov is not None:
            raise ValueError(
                "w_cov must be None for a nonlinear target, which has no weights to draw with it, "
                f"got {w_cov!r}"
            )
        self.target, self.link = target, link
        self.dtype, self.device = check_dtype(dtype), torch.device(device)
        self.covariances = Covariances(x_cov, w_cov, n_features)
        self._factor = self._moved(self.covariances.factor)
        self._weight_root = self._moved(self.covariances.weight_root)

    def _moved(self, matrix: Tensor | None) -> Tensor | None:
        return None if matrix is None else matrix.to(self.device, self.dtype)

    def draw(self, n_tasks: int, generator: torch.Generator) -> ICLTasks:
        """``n_tasks`` fresh tasks."""

        def normal(*shape: int) -> Tensor:
            return torch.randn(
                n_tasks, *shape, generator=generator, dtype=self.dtype, device=self.device
            )

        X = normal(self.n_points, self.n_features)
        if self._factor is not None:
            X = X @ self._factor.T
        y, w = self._labels(X, normal, generator)
        if self.noise_std:
            y = y + self.noise_std * normal(self.n_points)
        return ICLTasks(X, y, w)

    def _labels(
        self, X: Tensor, normal: Callable[..., Tensor], generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        d = self.n_features
        if self.target == "linear":
            w = self._weights(normal(d))
            return (X @ w[..., None])[..., 0], w
        if self.target == "single_index":
            assert self.link is not None
            w = torch.nn.functional.normalize(normal(d), dim=-1)
            return self._checked("link", self.link((X @ w[..., None])[..., 0]), X), w
        if self.target == "mlp":
            directions, weights = normal(self.hidden, d), normal(self.hidden)
            units = torch.tanh(X @ directions.mT / math.sqrt(d))
            return (units @ weights[..., None])[..., 0] / math.sqrt(self.hidden), None
        assert callable(self.target)
        return self._checked("target", self.target(X, generator), X), None

    def _weights(self, normal: Tensor) -> Tensor:
        if self.covariances.inverse and self._factor is not None:
            return torch.linalg.solve_triangular(self._factor, normal, upper=False, left=False)
        return normal if self._weight_root is None else normal @ self._weight_root.T

    def _checked(self, name: str, y: Any, X: Tensor) -> Tensor:
        if not isinstance(y, Tensor) or y.shape != X.shape[:2]:
            came = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            raise ValueError(
                f"{name} must return a tensor of shape {tuple(X.shape[:2])}, got {came}"
            )
        return y.to(X.dtype)


def make_regression_tasks(
    n_tasks: int,
    n_context: int,
    n_features: int,
    *,
    noise_std: float = 0.0,
    x_cov: Matrix | None = None,
    w_cov: Matrix | str | None = None,
    target: Target = "linear",
    link: Link | None = None,
    hidden: int = 16,
    random_state: RandomState = None,
    dtype: torch.dtype = torch.float32,
    device: Any = "cpu",
) -> ICLTasks:
    """In-context regression tasks: x ~ N(0, Sigma), y = f(x) + noise_std e, a new f every task.

    Args:
        n_tasks: B.
        n_context: n, points before the query.
        n_features: d, the width of x.
        noise_std: standard deviation of the labels' noise; the query's label has it as well.
        x_cov: (d, d) Sigma, symmetric positive definite; None is the identity.
        w_cov: (d, d) covariance of w, symmetric positive semi-definite, for linear targets; None is
            the identity, ``"inverse"`` is Sigma^-1.
        target: ``"linear"``, f(x) = w . x; ``"single_index"``, link(u . x) with u uniform on the
            unit sphere; ``"mlp"``, sum_j a_j tanh(u_j . x) with u_j ~ N(0, I / d) and
            a_j ~ N(0, 1 / hidden); or a callable of (X (B, n + 1, d), torch generator) that returns
            the noiseless (B, n + 1) labels.
        link: function of tensors, for ``"single_index"`` only.
        hidden: units of ``"mlp"``.
        random_state: an int, a numpy random state or generator, a torch generator on ``device``, or
            None.
        dtype: torch.float32 or torch.float64.
        device: of the tensors.

    Returns:
        The tasks.

    Raises:
        ValueError: for sizes below 1, a negative ``noise_std``, covariances that are none, an
            unknown target, and a link or ``w_cov`` that the target has no use for.
        TypeError: for another dtype.

    Source: the tasks of arXiv 2307.03576.

    Example:
        >>> from rankone.icl.linear_self_attention import make_regression_tasks
        >>> tasks = make_regression_tasks(8, 20, 5, noise_std=0.5, random_state=0)
        >>> tasks.X.shape, tasks.y.shape, tasks.w.shape
        (torch.Size([8, 21, 5]), torch.Size([8, 21]), torch.Size([8, 5]))
    """
    check_count("n_tasks", n_tasks)
    check_count("n_context", n_context)
    sampler = TaskSampler(
        n_context + 1,
        n_features,
        noise_std=noise_std,
        x_cov=x_cov,
        w_cov=w_cov,
        target=target,
        link=link,
        hidden=hidden,
        dtype=dtype,
        device=device,
    )
    return sampler.draw(n_tasks, torch_generator(random_state, device))
