"""One layer of linear self-attention as an in-context learner, with its optimum known exactly.

Tokens are z_i = (x_i, y_i) for the context and z_q = (x_q, 0) for a query. The layer predicts

    v^T (sum over the context of z_i z_i^T) M z_q,

without softmax, scale or residual, and no query attends to itself. With M = [A; b^T] over the
first d columns and v = (v_x, v_y) this splits into a part odd in the labels, x_q^T P X^T y with
P = (v_y A + v_x b^T)^T, one step of preconditioned gradient descent, and an even part, which the
optimum does not have. (v, M) has a free scale, so that P is what is compared, never the matrices.

Source: "One Step of Gradient Descent is Provably the Optimal In-Context Learner with One Layer of
Linear Self-Attention" (arXiv 2307.03576) for the layer, its reduced form and its optimum. The
closed forms, the aligned start and the traps that it avoids, in which v_x b^T carries P and learns
one direction of the inputs, were worked out for rankone.
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

from rankone._namespace import public_names
from rankone._repr import short_repr
from rankone.icl._gradient_descent import (
    OneStepGDRegressor,
    Optimum,
    check_context,
    empirical_step_size,
    one_step_gd,
    optimal_preconditioner,
    optimal_step_size,
    population_loss,
    single_index_step_size,
    training_optimum,
)
from rankone.icl._tasks import (
    ICLTasks,
    Link,
    Matrix,
    RandomState,
    Target,
    TaskSampler,
    check_choice,
    check_count,
    check_dtype,
    check_number,
    check_square,
    make_regression_tasks,
    torch_generator,
)
from rankone.ops import linear_attention

__all__ = [
    "ICLTasks",
    "LinearSelfAttention",
    "OneStepGDRegressor",
    "TrainingHistory",
    "empirical_step_size",
    "make_regression_tasks",
    "one_step_gd",
    "optimal_preconditioner",
    "optimal_step_size",
    "population_loss",
    "single_index_step_size",
    "train_lsa",
]

FORMS = ("reduced", "qkv")
INITS = ("aligned", "random")
BACKENDS = ("auto", "native", "torch")
LOSSES = ("query", "all_prefixes")

# Channels of a token: the head dimension of the linear attention kernels ends here.
_MAX_TOKEN_WIDTH = 256

# The loss has heavy tails: training has ended badly where its mean over the last share of the steps
# exceeds the optimum by more than the slack.
_LAST_SHARE = 0.05
_LOSS_SLACK = 0.15


def read_context(q: Tensor, k: Tensor, v: Tensor, backend: str = "auto") -> Tensor:
    """Linear attention of queries to a context that they are no part of.

    Args:
        q: (B, m, K) queries.
        k: (B, n, K) keys of the context.
        v: (B, n, V) its values.
        backend: of :func:`rankone.ops.linear_attention`.

    Returns:
        (B, m, V) sum over the context of (q . k_i) v_i.
    """
    n, m = k.shape[1], q.shape[1]
    # One sequence of n + m tokens: the queries' own values are 0, the context asks nothing.
    q = F.pad(q, (0, 0, n, 0))[:, :, None]
    k, v = (F.pad(tensor, (0, 0, 0, m))[:, :, None] for tensor in (k, v))
    o, _ = linear_attention(q, k, v, scale=1.0, causal=False, backend=backend)
    return o[:, n:, 0]


def read_prefixes(q: Tensor, k: Tensor, v: Tensor, backend: str = "auto") -> Tensor:
    """Linear attention of every token to those before it, itself excluded, in O(n).

    Args:
        q, k: (B, n, K) queries and keys.
        v: (B, n, V) values.
        backend: of :func:`rankone.ops.linear_attention`.

    Returns:
        (B, n, V); row t is the sum over i < t of (q_t . k_i) v_i, row 0 exactly 0.
    """
    # Keys and values one token late: no diagonal term that would have to be taken off again.
    k, v = (F.pad(tensor[:, :-1], (0, 0, 1, 0))[:, :, None] for tensor in (k, v))
    o, _ = linear_attention(q[:, :, None], k, v, scale=1.0, causal=True, backend=backend)
    return o[:, :, 0]


class LinearSelfAttention(nn.Module):
    """One layer of linear self-attention that reads a context of examples and predicts a query.

    Args:
        n_features: d, from 1 to 255.
        form: ``"reduced"``, parameters v (d + 1,) and M (d + 1, d + 1); ``"qkv"``, parameters W_Q,
            W_K, W_V (d + 1, d + 1) and readout (d + 1,), with v = W_V^T readout and M = W_K^T W_Q.
        init: ``"aligned"``, v close to the label's axis, from where every training tried found the
            optimum; ``"random"``, v without a direction, from where training can end in a trap
            close to rank one unless Sigma Lambda is a multiple of the identity.
        init_std: with (r, s), M ~ N(0, s^2) and v = r e_{d+1} + N(0, s^2) if aligned,
            v ~ N(0, r^2) if random. The qkv form starts from W_Q ~ N(0, s^2), W_K and W_V of
            I + N(0, s^2), and a readout as v.
        backend: of :func:`rankone.ops.linear_attention`: ``"auto"``, ``"native"`` or ``"torch"``.
        random_state: of the start.
        dtype: torch.float32 or torch.float64.
        device: of the parameters.

    Raises:
        ValueError: for ``n_features`` out of range, unknown words, or ``init_std`` that is not a
            pair of numbers of at least 0.
        TypeError: for another dtype.

    Source: arXiv 2307.03576.

    Example:
        >>> from rankone.icl.linear_self_attention import LinearSelfAttention
        >>> from rankone.icl.linear_self_attention import make_regression_tasks
        >>> tasks = make_regression_tasks(8, 20, 5, random_state=0)
        >>> layer = LinearSelfAttention(5, random_state=0)
        >>> layer(*tasks.context, tasks.query[0]).shape
        torch.Size([8])
    """

    def __init__(
        self,
        n_features: int,
        *,
        form: str = "reduced",
        init: str = "aligned",
        init_std: tuple[float, float] = (0.3, 0.03),
        backend: str = "auto",
        random_state: RandomState = None,
        dtype: torch.dtype = torch.float32,
        device: Any = "cpu",
    ) -> None:
        super().__init__()
        self.n_features = check_count("n_features", n_features)
        if n_features >= _MAX_TOKEN_WIDTH:
            raise ValueError(f"n_features must be at most {_MAX_TOKEN_WIDTH - 1}, got {n_features}")
        check_choice("form", form, FORMS)
        check_choice("init", init, INITS)
        check_choice("backend", backend, BACKENDS)
        check_dtype(dtype)
        if not isinstance(init_std, tuple | list) or len(init_std) != 2:
            raise ValueError(f"init_std must be a pair of numbers, got {init_std!r}")
        readout_std, std = (check_number("init_std", value) for value in init_std)
        self.form, self.init, self.init_std, self.backend = form, init, (readout_std, std), backend
        generator = torch_generator(random_state, device)
        width = n_features + 1

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=dtype, device=device)

        if init == "aligned":
            v = std * normal(width)
            v[-1] += readout_std
        else:
            v = readout_std * normal(width)
        M = std * normal(width, width)
        if form == "reduced":
            self.v, self.M = nn.Parameter(v), nn.Parameter(M)
        else:
            identity = torch.eye(width, dtype=dtype, device=device)
            self.W_Q = nn.Parameter(M)
            self.W_K = nn.Parameter(identity + std * normal(width, width))
            self.W_V = nn.Parameter(identity + std * normal(width, width))
            self.readout = nn.Parameter(v)

    @classmethod
    def from_preconditioner(cls, P: Matrix, *, backend: str = "auto") -> LinearSelfAttention:
        """The layer that is one step of gradient descent with preconditioner P, by construction.

        Args:
            P: (d, d), in the dtype and on the device that the layer shall have; numpy arrays too.
            backend: as of the class.

        Returns:
            A layer of the reduced form with v = e_{d+1}, A = P^T and 0 elsewhere.

        Raises:
            ValueError: for a P that is not a finite square matrix.
            TypeError: for a P that is neither float32 nor float64.

        Example:
            >>> import torch
            >>> from rankone.icl.linear_self_attention import LinearSelfAttention
            >>> LinearSelfAttention.from_preconditioner(torch.eye(2)).effective_preconditioner()
            tensor([[1., 0.],
                    [0., 1.]])
        """
        check_square("P", P)
        P = torch.as_tensor(P).detach()
        layer = cls(
            len(P), backend=backend, init_std=(1.0, 0.0), random_state=0, dtype=P.dtype,
            device=P.device,
        )  # fmt: skip
        with torch.no_grad():
            layer.M[:-1, :-1] = P.T
        return layer

    def forward(self, X: Tensor, y: Tensor, X_query: Tensor) -> Tensor:
        """Predictions for queries that share one context a task.

        Args:
            X: (B, n, d) inputs of the contexts, in the layer's dtype or float32.
            y: (B, n) labels.
            X_query: (B, d) one query a task, or (B, m, d).

        Returns:
            (B,) or (B, m) predictions, computed in the layer's dtype, in that of X.

        Raises:
            ValueError: for shapes that disagree.
            TypeError: for dtypes that disagree, and float64 in a float32 layer.
        """
        inputs, labels, queries = self._checked(X, y, X_query)
        if X_query.ndim == 2:
            queries = queries[:, None]
        k, v = self._keys_and_values(inputs, labels)
        predictions = self._read_out(read_context(self._queries(queries), k, v, self.backend))
        return (predictions if X_query.ndim == 3 else predictions[:, 0]).to(X.dtype)

    def forward_prefixes(self, X: Tensor, y: Tensor) -> Tensor:
        """The prediction of every point from the points before it, in one causal pass.

        Args:
            X: (B, n, d) inputs, in the layer's dtype or float32.
            y: (B, n) labels.

        Returns:
            (B, n); entry t is ``forward(X[:, :t], y[:, :t], X[:, t])``, entry 0 is exactly 0.

        Raises:
            ValueError: for shapes that disagree.
            TypeError: for dtypes that disagree, and float64 in a float32 layer.
        """
        inputs, labels, queries = self._checked(X, y, X)
        k, v = self._keys_and_values(inputs, labels)
        return self._read_out(read_prefixes(self._queries(queries), k, v, self.backend)).to(X.dtype)

    def _checked(self, X: Tensor, y: Tensor, X_query: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The inputs in the layer's dtype."""
        if X_query is None:
            raise TypeError("X_query must be a tensor, got None")
        check_context(X, y, X_query)
        if X.shape[2] != self.n_features:
            raise ValueError(f"X must have {self.n_features} features, got {X.shape[2]}")
        dtype = next(self.parameters()).dtype
        if X.dtype not in (torch.float32, dtype):
            raise TypeError(f"X must be torch.float32 or in the layer's {dtype}, got {X.dtype}")
        for name, tensor in (("y", y), ("X_query", X_query)):
            if tensor.dtype != X.dtype:
                raise TypeError(f"{name} must be {X.dtype} as X is, got {tensor.dtype}")
        return X.to(dtype), y.to(dtype), X_query.to(dtype)

    def _keys_and_values(self, X: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        tokens = torch.cat([X, y[..., None]], dim=-1)
        if self.form == "reduced":
            return tokens, (tokens @ self.v)[..., None]
        return tokens @ self.W_K.T, tokens @ self.W_V.T

    def _queries(self, X: Tensor) -> Tensor:
        matrix = self.M if self.form == "reduced" else self.W_Q
        return X @ matrix[:, :-1].T

    def _read_out(self, read: Tensor) -> Tensor:
        return read[..., 0] if self.form == "reduced" else read @ self.readout

    @torch.no_grad()
    def reduced(self) -> tuple[Tensor, Tensor]:
        """v (d + 1,) and M (d + 1, d + 1) of either form, detached copies."""
        if self.form == "reduced":
            return self.v.clone(), self.M.clone()
        return self.W_V.T @ self.readout, self.W_K.T @ self.W_Q

    def effective_preconditioner(self) -> Tensor:
        """P = (v_y A + v_x b^T)^T, (d, d), detached: the odd part is x_q^T P X^T y."""
        v, M = self.reduced()
        return (v[-1] * M[:-1, :-1] + torch.outer(v[:-1], M[-1, :-1])).T

    def even_part(self) -> tuple[float, float]:
        """||v_x|| ||A||_F and |v_y| ||b||, which bound the two terms even in the labels."""
        v, M = self.reduced()
        return (
            float(v[:-1].norm() * M[:-1, :-1].norm()),
            float(v[-1].abs() * M[-1, :-1].norm()),
        )

    def extra_repr(self) -> str:
        return f"n_features={self.n_features}, form={self.form!r}, backend={self.backend!r}"


@dataclass(frozen=True, eq=False)
class TrainingHistory:
    """How a layer approached its optimum.

    Attributes:
        step: (k,) steps taken.
        loss: (k,) training loss, the mean since the entry before.
        distance: (k,) ||P - P*||_F / ||P*||_F, or ||P||_F where P* is 0.
        even: (k,) the larger of :meth:`LinearSelfAttention.even_part` over ||P||_F.
        optimal_loss: the loss of P*.
        optimal_preconditioner: (d, d) P*, float64; estimated from 65,536 fresh tasks for a target
            without a closed form. For a callable target whose law is not symmetric under rotation
            it is the best gradient step, which a layer with an even part may beat.
    """

    __repr__ = short_repr

    step: NDArray
    loss: NDArray
    distance: NDArray
    even: NDArray
    optimal_loss: float
    optimal_preconditioner: Tensor

    def plot(self, ax: Any = None) -> Any:
        """Distance to the optimum and share of the even part against the step.

        Args:
            ax: matplotlib axes; None makes new ones.

        Returns:
            The axes.
        """
        if ax is None:
            import matplotlib.pyplot as plt

            _, ax = plt.subplots()
        ax.plot(self.step, self.distance, label="distance of P to P*")
        ax.plot(self.step, self.even, label="even part over P")
        ax.set_yscale("log")
        ax.set_xlabel("training step")
        ax.set_ylabel("relative size")
        ax.legend()
        return ax


def train_lsa(
    layer: LinearSelfAttention,
    n_context: int,
    *,
    loss: str = "query",
    steps: int = 4000,
    batch_size: int = 512,
    lr: float = 3e-2,
    clip: float = 1.0,
    noise_std: float = 0.0,
    x_cov: Matrix | None = None,
    w_cov: Matrix | str | None = None,
    target: Target = "linear",
    link: Link | None = None,
    random_state: RandomState = None,
    n_log: int = 50,
) -> TrainingHistory:
    """Train a layer in place on fresh tasks: Adam, its rate falling to 0 on a cosine.

    Args:
        layer: the layer; every parameter is trained.
        n_context: n, examples before the query.
        loss: ``"query"``, the squared error of the query after n examples; ``"all_prefixes"``, its
            mean over the points 2, ..., n + 1, each predicted from those before it.
        steps: of the optimiser.
        batch_size: fresh tasks a step.
        lr: first learning rate.
        clip: largest norm of a gradient.
        noise_std, x_cov, w_cov, target, link: of the tasks, as :func:`make_regression_tasks`.
        random_state: of the tasks.
        n_log: entries of the history.

    Returns:
        The history.

    Raises:
        ValueError: for an unknown ``loss``, sizes below 1, rates not above 0, and tasks that
            :func:`make_regression_tasks` refuses.
        TypeError: for a layer that is none.

    Warns:
        ConvergenceWarning: if the training loss of the last steps exceeds the optimum by more than
            15 %, as in a trap close to rank one.

    Example:
        >>> from rankone.icl.linear_self_attention import LinearSelfAttention, train_lsa
        >>> layer = LinearSelfAttention(2, random_state=0)
        >>> history = train_lsa(layer, 5, steps=300, batch_size=128, random_state=0)
        >>> bool(history.distance[-1] < history.distance[0])
        True
    """
    if not isinstance(layer, LinearSelfAttention):
        raise TypeError(f"layer must be a LinearSelfAttention, got {type(layer).__name__}")
    check_choice("loss", loss, LOSSES)
    check_count("n_context", n_context)
    for name, size in (("steps", steps), ("batch_size", batch_size), ("n_log", n_log)):
        check_count(name, size)
    check_number("lr", lr, positive=True)
    check_number("clip", clip, positive=True)
    first = next(layer.parameters())
    sampler = TaskSampler(
        n_context + 1, layer.n_features, noise_std=noise_std, x_cov=x_cov, w_cov=w_cov,
        target=target, link=link, dtype=first.dtype, device=first.device,
    )  # fmt: skip
    generator = torch_generator(random_state, first.device)
    optimum = training_optimum(sampler, "full" if loss == "query" else "all", generator)
    losses = torch.zeros(steps, dtype=torch.float64, device=first.device)
    logged = np.unique(np.linspace(1, steps, min(n_log, steps)).round().astype(int))
    distance: list[float] = []
    even: list[float] = []
    optimizer = torch.optim.Adam(layer.parameters(), lr=lr)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / steps))
        error = _errors(layer, sampler.draw(batch_size, generator), loss).square().mean()
        optimizer.zero_grad()
        error.backward()
        nn.utils.clip_grad_norm_(layer.parameters(), clip)
        optimizer.step()
        losses[step] = error.detach()
        if step + 1 == logged[len(distance)]:
            distance.append(_distance(layer, optimum))
            even.append(_even_ratio(layer))
    trace = losses.cpu().numpy()
    _warn_if_far(trace, optimum, layer)
    intervals = np.split(trace[: logged[-1]], logged[:-1])
    return TrainingHistory(
        step=logged,
        loss=np.array([interval.mean() for interval in intervals]),
        distance=np.array(distance),
        even=np.array(even),
        optimal_loss=optimum.loss,
        optimal_preconditioner=optimum.preconditioner,
    )


def _errors(layer: LinearSelfAttention, tasks: ICLTasks, loss: str) -> Tensor:
    if loss == "all_prefixes":
        return (layer.forward_prefixes(tasks.X, tasks.y) - tasks.y)[:, 1:]
    X_query, y_query = tasks.query
    return layer(*tasks.context, X_query) - y_query


def _distance(layer: LinearSelfAttention, optimum: Optimum) -> float:
    best = optimum.preconditioner
    distance = float((layer.effective_preconditioner().cpu().double() - best).norm())
    size = float(best.norm())
    return distance / size if size else distance


def _even_ratio(layer: LinearSelfAttention) -> float:
    odd = float(layer.effective_preconditioner().norm())
    even = max(layer.even_part())
    return even / odd if odd else (math.inf if even else 0.0)


def _warn_if_far(losses: NDArray, optimum: Optimum, layer: LinearSelfAttention) -> None:
    last = float(losses[-max(1, round(_LAST_SHARE * len(losses))) :].mean())
    if last <= (1 + _LOSS_SLACK) * optimum.loss:
        return
    advice = "more steps, or a smaller lr"
    if layer.init == "random":
        advice = "init='aligned', which avoids traps close to rank one, or " + advice
    warnings.warn(
        f"the training loss ended at {last:.4g} where the optimum is {optimum.loss:.4g}; try "
        f"{advice}",
        ConvergenceWarning,
        stacklevel=3,
    )


def __dir__() -> list[str]:
    return public_names(globals())
