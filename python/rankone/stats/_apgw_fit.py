"""Maximum likelihood for the adapted power generalized Weibull regression.

The likelihood has ridges and local optima. What makes nested models comparable is the ladder: a
model is started from the solution of every smaller model on the way to it, padded with zeros, so
that its likelihood is never below theirs. Times are in units of their median and columns are
standardised here; :mod:`rankone.stats.survival` undoes both.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from rankone.stats._apgw import LOG_KAPPA1_LIMITS

COMPONENTS = ("log_phi", "log_lambda", "log_gamma", "log_kappa1")
SCALES = ("log_phi", "log_lambda")
_KAPPA_STARTS = (-0.5, 0.001, 1.0, 3.0)
_SERIES_BELOW = 1e-6  # the series of expm1(kappa l) / kappa about kappa = 0
_TOWARDS_THE_LIMIT = math.log(11.0)  # of log(kappa + 1); beyond kappa = 10 the limit is tried
_REFUSED = 1e10  # value of the objective where the likelihood is not finite


@dataclass(frozen=True)
class Component:
    """One linear predictor: its columns, or the value it is fixed at."""

    columns: tuple[int, ...] = ()
    fixed: float | None = None

    @property
    def size(self) -> int:
        return 0 if self.fixed is not None else 1 + len(self.columns)


@dataclass(frozen=True)
class Model:
    """The four components, in the order of :data:`COMPONENTS`."""

    components: tuple[Component, Component, Component, Component]

    @property
    def size(self) -> int:
        return sum(component.size for component in self.components)

    def slices(self) -> Iterator[tuple[str, Component, slice]]:
        """Name, component and place in the parameter vector."""
        start = 0
        for name, component in zip(COMPONENTS, self.components, strict=True):
            yield name, component, slice(start, start + component.size)
            start += component.size

    def only(self, keep: Sequence[str]) -> Model:
        """The model with the columns of the components ``keep`` alone."""
        return Model(
            tuple(
                component if name in keep else replace(component, columns=())
                for name, component in zip(COMPONENTS, self.components, strict=True)
            )  # type: ignore[arg-type]
        )

    def with_component(self, name: str, component: Component) -> Model:
        parts = list(self.components)
        parts[COMPONENTS.index(name)] = component
        return Model(tuple(parts))  # type: ignore[arg-type]

    def nests(self, smaller: Model) -> bool:
        """Whether ``smaller`` is this model with some coefficients at 0 or at a fixed value."""
        for own, other in zip(self.components, smaller.components, strict=True):
            if own.fixed is not None:
                if other.fixed is None or not math.isclose(own.fixed, other.fixed, rel_tol=1e-9):
                    return False
            elif other.fixed is None and not set(other.columns) <= set(own.columns):
                return False
        return True

    def padded(self, smaller: Model, theta: NDArray) -> NDArray:
        """The parameters of this model at which it is ``smaller`` with parameters ``theta``."""
        result = np.zeros(self.size)
        places = {name: (component, place) for name, component, place in smaller.slices()}
        for name, component, place in self.slices():
            if component.fixed is not None:
                continue
            other, other_place = places[name]
            own = result[place]
            if other.fixed is not None:
                own[0] = other.fixed
                continue
            values = theta[other_place]
            own[0] = values[0]
            for column, value in zip(other.columns, values[1:], strict=True):
                own[1 + component.columns.index(column)] = value
        return result


@dataclass(frozen=True)
class Data:
    """Scaled observations.

    Attributes:
        X: (n, p) standardised columns.
        log_time: (n,) log of the times over their median.
        event: (n,) bool.
        late: indices of rows with an entry time above 0.
        log_entry: logs of those entry times over the median.
    """

    X: Tensor
    log_time: Tensor
    event: Tensor
    late: Tensor
    log_entry: Tensor


@dataclass(frozen=True)
class Solution:
    """A fitted model in scaled units."""

    model: Model
    theta: NDArray
    log_likelihood: float
    score: NDArray = field(repr=False)


def predictors(model: Model, theta: Tensor, X: Tensor) -> list[Tensor]:
    """The four linear predictors, each (n,) or a scalar."""
    found = []
    for name, component, place in model.slices():
        if component.fixed is not None:
            value = theta.new_tensor(component.fixed)
        else:
            own = theta[place]
            value = own[0]
            if component.columns:
                value = value + X[:, list(component.columns)] @ own[1:]
        if name == "log_kappa1":
            value = value.clamp(*LOG_KAPPA1_LIMITS)
        found.append(value)
    return found


def log_cumulative_hazard_parts(
    parts: Sequence[Tensor], log_time: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """log u, l = log(1 + u / (kappa + 1)) and the cumulative hazard at ``exp(log_time)``."""
    log_phi, log_lambda, log_gamma, log_kappa1 = parts
    log_u = log_gamma.exp() * (log_phi + log_time)
    log_factor = torch.logaddexp(torch.zeros_like(log_u), log_u - log_kappa1)
    kappa = torch.expm1(log_kappa1)
    near_zero = kappa.abs() < _SERIES_BELOW
    # The unused branch must not hold a 0/0: its gradient would be NaN even where it is unused.
    safe = torch.where(near_zero, torch.ones_like(kappa), kappa)
    product = kappa * log_factor
    series = log_factor * (1 + product / 2 + product * product / 6)
    curved = torch.where(near_zero, series, torch.expm1(safe * log_factor) / safe)
    return log_u, log_factor, (log_lambda + log_kappa1).exp() * curved


def log_likelihood(model: Model, theta: Tensor, data: Data) -> Tensor:
    """``sum d log h(t) - H(t) + H(entry)`` in scaled units."""
    parts = predictors(model, theta, data.X)
    log_u, log_factor, hazard = log_cumulative_hazard_parts(parts, data.log_time)
    _, log_lambda, log_gamma, log_kappa1 = parts
    kappa = torch.expm1(log_kappa1)
    log_h = log_lambda + log_gamma + log_u - data.log_time + (kappa - 1) * log_factor
    total = (log_h * data.event).sum() - hazard.sum()
    if len(data.late):
        late = [part[data.late] if part.ndim else part for part in parts]
        total = total + log_cumulative_hazard_parts(late, data.log_entry)[2].sum()
    return total


def fit(model: Model, data: Data, *, max_iter: int, tol: float) -> Solution:
    """The best solution of the ladder up to ``model``."""
    if all(model.components[COMPONENTS.index(name)].fixed is None for name in SCALES):
        solution = _fit_both_scales(model, data, max_iter, tol)
    else:
        solution = _ladder(model, data, max_iter, tol)[-1]
    return _at_the_limit(solution, data, max_iter, tol) or solution


def _at_the_limit(solution: Solution, data: Data, max_iter: int, tol: float) -> Solution | None:
    """The solution with kappa at its upper limit, where that is no worse.

    Towards the Gompertz limit the likelihood rises ever more slowly, and a climb stops on the way.
    """
    *_, (_, shape, place) = solution.model.slices()
    if shape.size != 1 or solution.theta[place][0] < _TOWARDS_THE_LIMIT:
        return None
    start = solution.theta.copy()
    start[place] = LOG_KAPPA1_LIMITS[1]
    found = _climb(solution.model, start, data, max_iter, tol)
    return found if found.log_likelihood >= solution.log_likelihood else None


def _fit_both_scales(model: Model, data: Data, max_iter: int, tol: float) -> Solution:
    """Start from the ladders of either scale alone, the other fixed at 1 in scaled units."""
    smaller = []
    for fixed in SCALES:
        one_scale = model.with_component(fixed, Component(fixed=0.0))
        smaller += _ladder(one_scale, data, max_iter, tol)
    without_shape = model.only(SCALES)
    for step in dict.fromkeys((without_shape, model)):
        smaller.append(_best(step, smaller, data, max_iter, tol))
    return smaller[-1]


def _ladder(model: Model, data: Data, max_iter: int, tol: float) -> list[Solution]:
    """Solutions from the intercepts alone up to ``model``, every subset of groups on the way."""
    solutions = [_intercepts(model.only(()), data, max_iter, tol)]
    groups = [
        group
        for group in (SCALES, ("log_gamma",), ("log_kappa1",))
        if any(model.components[COMPONENTS.index(name)].columns for name in group)
    ]
    for count in range(1, len(groups) + 1):
        for chosen in itertools.combinations(groups, count):
            step = model.only([name for group in chosen for name in group])
            solutions.append(_best(step, solutions, data, max_iter, tol))
    return solutions


def _intercepts(model: Model, data: Data, max_iter: int, tol: float) -> Solution:
    """The model without columns, from several baselines."""
    free = model.components[3].fixed is None
    starts = []
    for kappa in _KAPPA_STARTS if free else (0.0,):
        start = np.zeros(model.size)
        if free:
            start[-1] = math.log1p(kappa)
        starts.append(start)
    return max(
        (_climb(model, start, data, max_iter, tol) for start in starts),
        key=lambda solution: solution.log_likelihood,
    )


def _best(
    model: Model, smaller: Sequence[Solution], data: Data, max_iter: int, tol: float
) -> Solution:
    nested = [solution for solution in smaller if model.nests(solution.model)]
    return max(
        (
            _climb(model, model.padded(solution.model, solution.theta), data, max_iter, tol)
            for solution in nested
        ),
        key=lambda solution: solution.log_likelihood,
    )


def _climb(model: Model, start: NDArray, data: Data, max_iter: int, tol: float) -> Solution:
    """BFGS on the mean negative log-likelihood."""
    n = len(data.log_time)

    def objective(theta: NDArray) -> tuple[float, NDArray]:
        point = torch.tensor(theta, requires_grad=True)
        value = -log_likelihood(model, point, data) / n
        (gradient,) = torch.autograd.grad(value, point)
        found = float(value.detach())
        if not math.isfinite(found) or not torch.isfinite(gradient).all():
            return _REFUSED, np.zeros_like(theta)
        return found, gradient.numpy()

    if model.size:
        found = minimize(
            objective,
            start,
            jac=True,
            method="BFGS",
            options={"gtol": tol, "maxiter": max_iter},
        )
        theta = found.x if found.fun <= objective(start)[0] else start
    else:
        theta = start
    value, score = objective(theta)
    return Solution(model, theta, -n * value, score)


def information(solution: Solution, data: Data) -> NDArray:
    """Observed information: minus the Hessian of the log-likelihood."""
    point = torch.tensor(solution.theta)
    hessian = torch.autograd.functional.hessian(
        lambda theta: -log_likelihood(solution.model, theta, data), point
    )
    return hessian.numpy()
