"""Control functions: what an outcome is under an action, given the state that the action moves.

``Z = M A + V`` is fitted by least squares; ``E[Y | Z, V] = l(Z) + lambda(V)`` by two networks whose
outputs are added. lambda carries the confounding of Z and Y, and is dropped from ``do``, where V
keeps its own distribution whatever the action.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, clone
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import nn

from rankone.causal._checks import (
    Array,
    at_least,
    matrix,
    non_negative,
    positive,
    same_length,
    vector,
)
from rankone.causal._moment_restriction import check_actions, check_rows

# Residuals averaged over in a prediction; the error of the mean is then below 2 % of a deviation.
AVERAGED_RESIDUALS = 5000

# Rows evaluated at once, residuals times actions.
_EVALUATED = 2**18

# Below this the action is a weak instrument (the rule of Staiger and Stock).
_WEAK_F = 10.0


def torch_generator(random_state: int | np.random.RandomState | None) -> torch.Generator:
    """A generator of its own, so that the global one is left as it is."""
    return torch.Generator().manual_seed(draw_seed(check_random_state(random_state)))


def draw_seed(rng: np.random.RandomState) -> int:
    """A seed for another generator."""
    return int(rng.randint(2**31 - 1))


def initialised_linear(inputs: int, outputs: int, generator: torch.Generator | None) -> nn.Linear:
    """A layer with torch's usual initialisation, drawn from ``generator``."""
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs)
    bound = inputs**-0.5
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.uniform_(-bound, bound, generator=generator)
    return layer


def first_stage(Z: Array, A: Array) -> tuple[Array, Array, Array]:
    """Least squares of Z on [1, A]: intercept (d,), slope (d, k), residuals (n, d)."""
    centre = A.mean(axis=0)
    slope = np.linalg.lstsq(A - centre, Z - Z.mean(axis=0), rcond=None)[0].T
    intercept = Z.mean(axis=0) - slope @ centre
    return intercept, slope, Z - intercept - A @ slope.T


def weakest_f(Z: Array, A: Array) -> float:
    """F statistic on A of the linear combination of Z that A moves least; 0 for singular Z."""
    n, k = A.shape
    left, singular, _ = np.linalg.svd(Z - Z.mean(axis=0), full_matrices=False)
    if singular[-1] <= singular[0] * n * np.finfo(np.float64).eps:
        return 0.0
    basis = np.linalg.qr(A - A.mean(axis=0)).Q
    correlations = np.linalg.svd(left.T @ basis, compute_uv=False)
    if len(correlations) < Z.shape[1]:
        return 0.0
    explained = float(min(correlations[-1] ** 2, 1))
    return np.inf if explained == 1 else explained / (1 - explained) * (n - k - 1) / k


class AdditiveNetwork:
    """``Y = l(Z) + lambda(V)`` by two networks d -> h -> h -> 1 with tanh, fitted by Adam."""

    def __init__(
        self,
        *,
        hidden: int,
        epochs: int,
        batch_size: int,
        lr: float,
        weight_decay: float,
        control: bool,
        random_state: int | np.random.RandomState | None,
    ) -> None:
        self.hidden = hidden
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.control = control
        self.random_state = random_state

    def fit(self, Z: Array, V: Array, Y: Array) -> AdditiveNetwork:
        """Fit both parts to (n, d) states, (n, d) residuals and (n,) outcomes."""
        generator = torch_generator(self.random_state)
        self._outcome = _network(Z.shape[1], self.hidden, generator)
        self._control = _network(V.shape[1], self.hidden, generator) if self.control else None
        self._z_scaling, self._v_scaling = _scaling(Z), _scaling(V)
        self._y_scaling = float(Y.mean()), float(Y.std()) or 1.0
        z, v = _scaled(Z, self._z_scaling), _scaled(V, self._v_scaling)
        centre, scale = self._y_scaling
        y = torch.as_tensor((Y - centre) / scale, dtype=torch.float32)
        parameters = list(self._outcome.parameters())
        if self._control is not None:
            parameters += self._control.parameters()
        size = min(self.batch_size, len(y))
        optimizer = torch.optim.Adam(parameters, lr=self.lr, weight_decay=self.weight_decay)
        steps = self.epochs * -(-len(y) // size)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(self.epochs):
            for rows in torch.randperm(len(y), generator=generator).split(size):
                predicted = self._outcome(z[rows])[:, 0]
                if self._control is not None:
                    predicted = predicted + self._control(v[rows])[:, 0]
                loss = (predicted - y[rows]).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        if not np.isfinite(loss.item()):
            raise RuntimeError(f"the regression diverged: lower lr, which is {self.lr:g}")
        return self

    def predict_outcome(self, Z: Array) -> Array:
        """l at (m, d) states, up to a constant."""
        centre, scale = self._y_scaling
        return centre + scale * _evaluated(self._outcome, _scaled(Z, self._z_scaling))

    def predict_control(self, V: Array) -> Array:
        """lambda at (m, d) residuals, up to a constant."""
        if self._control is None:
            return np.zeros(len(V))
        return self._y_scaling[1] * _evaluated(self._control, _scaled(V, self._v_scaling))


def _network(inputs: int, hidden: int, generator: torch.Generator) -> nn.Sequential:
    return nn.Sequential(
        initialised_linear(inputs, hidden, generator),
        nn.Tanh(),
        initialised_linear(hidden, hidden, generator),
        nn.Tanh(),
        initialised_linear(hidden, 1, generator),
    )


def _scaling(values: Array) -> tuple[Array, Array]:
    scale = values.std(axis=0)
    return values.mean(axis=0), np.where(scale > 0, scale, 1.0)


def _scaled(values: Array, scaling: tuple[Array, Array]) -> torch.Tensor:
    return torch.as_tensor((values - scaling[0]) / scaling[1], dtype=torch.float32)


def _evaluated(network: nn.Module, inputs: torch.Tensor) -> Array:
    with torch.inference_mode():
        return network(inputs)[:, 0].double().numpy()


def shifted_residuals(
    intercept: Array, slope: Array, residuals: Array, A: Array
) -> Iterator[tuple[slice, Array]]:
    """For blocks of actions, ``intercept + M a + v`` (rows, residuals, d) and where they belong."""
    rows = max(1, _EVALUATED // len(residuals))
    centres = intercept + A @ slope.T
    for start in range(0, len(A), rows):
        block = slice(start, start + rows)
        yield block, centres[block, None] + residuals


class ControlFunctionRegressor(BaseEstimator):
    """Effect of an action on an outcome, through an observed state that the action moves linearly.

    ``Z = M A + V`` and ``Y = l(Z) + U``, where U may depend on V but not on A. The regression of Y
    on Z alone is biased by that confounding even for the true Z; the additive regression on (Z, V)
    identifies l and ``lambda(v) = E[U | V = v]``, the constant fixed by ``E[lambda(V)] = 0``. No
    interval is given: outside the actions seen, the error is that of the networks' extrapolation.

    Args:
        hidden: units of the two hidden layers of either network.
        epochs, batch_size, lr, weight_decay: of Adam with a cosine schedule to 0.
        control: fit lambda; False regresses on Z alone, for comparison.
        random_state: of initialisation, batches and residuals averaged over.
        estimator: another additive regression, such as splines: an object with
            ``fit(Z, V, Y)``, ``predict_outcome(Z)`` and ``predict_control(V)``; it is cloned.
            The arguments of the networks then have no effect, and ``control`` must be True.

    Attributes:
        intercept_: (d,), M_: (d, k), residuals_: (n, d) of Z on [1, A].
        lambda_mean_: mean of the fitted lambda over the residuals, moved into l.
        first_stage_f_: F statistic on A of the direction of Z that A moves least.

    Source: "Identifying Representations for Intervention Extrapolation" (arXiv 2310.04295) for the
    control function; networks and diagnostics are this project's own.

    Example:
        >>> import numpy as np
        >>> from rankone.causal.intervention_extrapolation import ControlFunctionRegressor
        >>> rng = np.random.default_rng(0)
        >>> A, V = rng.uniform(-1, 1, (500, 1)), rng.normal(size=(500, 1))
        >>> Z = 2 * A + V
        >>> model = ControlFunctionRegressor(random_state=0).fit(Z, A, Z[:, 0] + V[:, 0])
        >>> effects = model.predict_do([[0.2], [0.5]])  # exactly 0.4 and 1
        >>> bool(np.abs(effects - [0.4, 1.0]).max() < 0.15)
        True
    """

    def __init__(
        self,
        hidden: int = 48,
        epochs: int = 60,
        batch_size: int = 500,
        lr: float = 3e-3,
        weight_decay: float = 1e-4,
        control: bool = True,
        random_state: int | np.random.RandomState | None = None,
        estimator: Any = None,
    ) -> None:
        self.hidden = hidden
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.control = control
        self.random_state = random_state
        self.estimator = estimator

    def fit(self, Z: ArrayLike, A: ArrayLike, Y: ArrayLike) -> ControlFunctionRegressor:
        """Fit both stages.

        Args:
            Z: (n, d) states.
            A: (n, k) actions, k >= d.
            Y: (n,) outcomes.

        Raises:
            ValueError: for shapes, parameters out of range, k < d, or [1, A] without full rank.

        Warns:
            UserWarning: where A hardly moves some direction of Z (F below 10).
        """
        self._check()
        states, actions = matrix("Z", Z), matrix("A", A)
        outcomes = vector("Y", Y)
        same_length(Z=states, A=actions, Y=outcomes)
        d, k = states.shape[1], actions.shape[1]
        if k < d:
            raise ValueError(f"A must have at least as many columns as Z, got {k} for {d}")
        check_rows(len(actions), k, "A")
        check_actions(actions)
        self.intercept_, self.M_, self.residuals_ = first_stage(states, actions)
        self.first_stage_f_ = weakest_f(states, actions)
        if self.first_stage_f_ < _WEAK_F:
            warnings.warn(
                "A hardly moves some direction of Z (F statistic "
                f"{self.first_stage_f_:.3g}, at least {_WEAK_F:g} is wanted): effects along it are "
                "not identified; use fewer states or stronger actions",
                UserWarning,
                stacklevel=2,
            )
        rng = check_random_state(self.random_state)
        self.estimator_ = self._additive(draw_seed(rng))
        self.estimator_.fit(states, self.residuals_, outcomes)
        self.lambda_mean_ = (
            float(np.mean(self.estimator_.predict_control(self.residuals_)))
            if self.control
            else 0.0
        )
        n = len(states)
        keep = rng.permutation(n)[:AVERAGED_RESIDUALS] if n > AVERAGED_RESIDUALS else slice(None)
        self._averaged = self.residuals_[keep]
        return self

    def predict_do(self, A: ArrayLike, Z: ArrayLike | None = None) -> Array:
        """Expected outcomes (m,) under actions that are set.

        Args:
            A: (m, k) actions, also outside those of the training.
            Z: None for ``E[Y | do(A = a)]``, the average over at most 5000 residuals; (m, d) states
                for ``E[Y | Z = z, do(A = a)] = l(z) + lambda(z - intercept - M a)``.

        Raises:
            NotFittedError: before ``fit``.
            ValueError: for shapes that do not fit.
        """
        check_is_fitted(self, "M_")
        actions = matrix("A", A)
        d, k = self.M_.shape
        if actions.shape[1] != k:
            raise ValueError(f"A must have {k} columns as in fit, got {actions.shape[1]}")
        if Z is None:
            result = np.empty(len(actions))
            for block, moved in shifted_residuals(
                self.intercept_, self.M_, self._averaged, actions
            ):
                outcomes = self.estimator_.predict_outcome(moved.reshape(-1, d))
                result[block] = np.reshape(outcomes, moved.shape[:2]).mean(axis=1)
            return result + self.lambda_mean_
        states = matrix("Z", Z)
        if states.shape[1] != d:
            raise ValueError(f"Z must have {d} columns as in fit, got {states.shape[1]}")
        same_length(A=actions, Z=states)
        outcome = np.asarray(self.estimator_.predict_outcome(states), dtype=np.float64)
        if not self.control:
            return outcome
        residuals = states - self.intercept_ - actions @ self.M_.T
        return outcome + self.estimator_.predict_control(residuals)

    def _additive(self, seed: int) -> Any:
        if self.estimator is not None:
            additive = clone(self.estimator, safe=False)
            if "random_state" in getattr(additive, "get_params", dict)():
                additive.set_params(random_state=seed)
            return additive
        return AdditiveNetwork(
            hidden=self.hidden,
            epochs=self.epochs,
            batch_size=self.batch_size,
            lr=self.lr,
            weight_decay=self.weight_decay,
            control=self.control,
            random_state=seed,
        )

    def _check(self) -> None:
        at_least(1, hidden=self.hidden, epochs=self.epochs, batch_size=self.batch_size)
        positive(lr=self.lr)
        non_negative(weight_decay=self.weight_decay)
        if self.estimator is not None and not self.control:
            raise ValueError("control must be True with an estimator of your own, got False")
        for method in ("fit", "predict_outcome", "predict_control"):
            if self.estimator is not None and not callable(getattr(self.estimator, method, None)):
                raise ValueError(
                    "estimator must have fit(Z, V, Y), predict_outcome(Z) and predict_control(V), "
                    f"got {type(self.estimator).__name__} without {method}"
                )
