"""The fit of two linear scores by the leave-one-out log loss of a kernel regression on them.

The loss costs one exponential a pair of rows: a block of rows has its kernel sums, hence its
outcome probabilities, hence their derivatives, before the next block starts, so that loss and
gradient in z = (u / h_u, v / h_v) come out of one pass whose memory is one block. Autograd does the
rest, from z back to coefficients and bandwidths.

Row weights are multiplicities of a bootstrap. A repeated row is one row of the kernel sums that
leave-one-out leaves out whole; were the copies rows of their own, each would predict its twin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from rankone.causal._link_surface import blocks, gaussian_kernel

PROBABILITY_FLOOR = 1e-6  # of the log loss
RULE_FACTOR = 1.5  # h = 1.5 n^(-1/6) sd(score): the rule of stage 1 and the start of stage 2
BANDWIDTH_RANGE = (0.5, 10.0)  # of the factor of n^(-1/6) sd(score) in stage 2
START_NOISE = 0.3  # standard deviation of further starts about the parametric one
_START_PENALTY = 10.0  # inverse penalty C of the logistic regressions of the start
_LEAST_CURVATURE = 1e-3  # |coefficient of t^2| from which a vertex is worth starting at
_FARTHEST_START = 3.0  # standard deviations of the treatment


class LeaveOneOutLogLoss(torch.autograd.Function):
    """Weighted mean leave-one-out log loss of the shrunk kernel regression, differentiable in z."""

    @staticmethod
    def forward(
        ctx: Any,
        z: torch.Tensor,
        y: torch.Tensor,
        weight: torch.Tensor,
        reference: torch.Tensor,
        prior_strength: float,
    ) -> torch.Tensor:
        """The loss.

        Args:
            ctx: of autograd.
            z: (n, 2) scores over their bandwidths.
            y: (n,) outcomes, 0 or 1.
            weight: (n,) positive multiplicities.
            reference: (m,) increasing indices of the rows that the sums run over.
            prior_strength: c, at least 0.

        Returns:
            Scalar tensor.
        """
        about, outcome = z[reference], y[reference]
        multiplicity = weight[reference]
        # Sums over j of w_j K_ij times 1, y_j, z_j, y_j z_j.
        moments = torch.cat((torch.ones_like(about[:, :1]), about), dim=1) * multiplicity[:, None]
        columns = torch.cat((moments, moments * outcome[:, None]), dim=1)
        total_weight = weight.sum()
        prior_mean = (weight @ y) / total_weight
        place = torch.full((len(z),), -1, dtype=torch.int64)
        place[reference] = torch.arange(len(reference))

        loss = z.new_zeros(())
        gradient = torch.zeros_like(z)
        pulled = torch.zeros(len(reference), 6, dtype=z.dtype)
        for rows in blocks(len(z), len(reference)):
            kernel = gaussian_kernel(z[rows], about)
            own = place[rows]
            (inside,) = torch.nonzero(own >= 0, as_tuple=True)
            kernel[inside, own[inside]] = 0
            sums = kernel @ columns
            mass = sums[:, 0] + prior_strength
            empty = mass <= 0
            safe = torch.where(empty, 1.0, mass)
            mean = torch.where(empty, prior_mean, (sums[:, 3] + prior_strength * prior_mean) / safe)
            clipped = mean.clamp(PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
            label, share = y[rows], weight[rows] / total_weight
            loss -= share @ (label * clipped.log() + (1 - label) * torch.log1p(-clipped))
            # d loss / d (sum of K y) and d loss / d (sum of K).
            slope = share * (clipped - label) / (clipped * (1 - clipped))
            slope = torch.where((mean == clipped) & ~empty, slope, 0.0) / safe
            by_total, by_mass = slope[:, None], -(slope * mean)[:, None]
            at = z[rows]
            # d K_ij = -K_ij (z_i - z_j) . (dz_i - dz_j), summed over j here and over i below.
            gradient[rows] -= by_total * (sums[:, 3:4] * at - sums[:, 4:6])
            gradient[rows] -= by_mass * (sums[:, 0:1] * at - sums[:, 1:3])
            pulled += kernel.T @ torch.cat((by_mass, by_mass * at, by_total, by_total * at), dim=1)
        by_row = pulled[:, 1:3] - pulled[:, 0:1] * about
        by_row += outcome[:, None] * (pulled[:, 4:6] - pulled[:, 3:4] * about)
        gradient[reference] += multiplicity[:, None] * by_row
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        (gradient,) = ctx.saved_tensors
        return grad_outputs[0] * gradient, None, None, None, None


@dataclass(frozen=True)
class ScoreFit:
    """Fitted scores in the units of the columns that were given.

    Attributes:
        prognostic: (p,) coefficients of u, of norm 1 by ``norm_scale``.
        interaction: (p,) coefficients gamma of v = t - x'gamma.
        bandwidth: (2,) h_u and h_v.
        objective: penalised leave-one-out loss.
        start_interaction: (p,) gamma of the parametric start.
        converged: whether the last stage met its tolerance.
        n_iter: iterations of both stages.
    """

    prognostic: NDArray
    interaction: NDArray
    bandwidth: NDArray
    objective: float
    start_interaction: NDArray
    converged: bool
    n_iter: int


def parametric_start(
    X: NDArray, treatment: NDArray, y: NDArray, weight: NDArray
) -> tuple[NDArray, NDArray]:
    """Start of (beta, gamma): the vertex of a quadratic logistic model with interactions.

    A vertex that is a minimum is as good a start as a maximum: the link's shape is free.
    """
    p = X.shape[1]
    t = treatment[:, None]
    model = LogisticRegression(C=_START_PENALTY, max_iter=1000)
    quadratic = model.fit(np.hstack((X, t, t**2, X * t)), y, sample_weight=weight).coef_[0]
    curvature, slopes = quadratic[p + 1], quadratic[p + 2 :]
    gamma = np.zeros(p)
    if abs(curvature) > _LEAST_CURVATURE:
        gamma = np.clip(-slopes / (2 * curvature), -_FARTHEST_START, _FARTHEST_START)
    v = t - (X @ gamma)[:, None]
    beta = model.fit(np.hstack((X, v, v**2)), y, sample_weight=weight).coef_[0, :p]
    norm = np.linalg.norm(beta)
    varies = np.ptp(X, axis=0) > 0
    return (beta / norm if norm > 0 else varies / max(1.0, np.sqrt(varies.sum()))), gamma


def fit_scores(
    X: NDArray,
    treatment: NDArray,
    y: NDArray,
    weight: NDArray,
    *,
    bandwidth: str | NDArray,
    norm_scale: NDArray,
    prior_strength: float,
    l2: float,
    max_iter: int,
    n_starts: int,
    max_reference: int,
    generator: np.random.RandomState,
) -> ScoreFit:
    """Minimise the leave-one-out log loss over coefficients and bandwidths.

    Stage 1 ties the bandwidths to the spread of the scores of the moment; stage 2 frees them.

    Args:
        X: (n, p) covariates, centred.
        treatment: (n,) centred.
        y: (n,) outcomes, 0 or 1.
        weight: (n,) positive multiplicities; their sum is the sample size of the rule.
        bandwidth: ``"loo"``, ``"rule"``, or (h_u, h_v) to hold.
        norm_scale: (p,); u = x'beta with ||beta * norm_scale|| = 1.
        prior_strength: c.
        l2: penalty on ||gamma||^2.
        max_iter: iterations of each stage.
        n_starts: the parametric start and noise about it.
        max_reference: rows that the sums run over, drawn once where there are more.
        generator: of that draw and of the further starts.

    Returns:
        :class:`ScoreFit` of the start with the smallest loss.
    """
    n, p = X.shape
    if n > max_reference:
        reference = np.sort(generator.choice(n, max_reference, replace=False))
    else:
        reference = np.arange(n)
    problem = _Problem(X, treatment, y, weight, reference, norm_scale, prior_strength, l2)
    beta, gamma = parametric_start(X, treatment, y, weight)
    starts = [(beta, gamma)]
    varies = np.ptp(X, axis=0) > 0
    for _ in range(n_starts - 1):
        noise = START_NOISE * generator.standard_normal((2, p)) * varies
        starts.append((beta + noise[0], gamma + noise[1]))
    fits = [
        problem.minimised(np.concatenate(start), bandwidth, max_iter, gamma) for start in starts
    ]
    return min(fits, key=lambda fit: fit.objective)


class _Problem:
    """The loss of one data set as a function of (beta, gamma) and, where free, log h."""

    def __init__(
        self,
        X: NDArray,
        treatment: NDArray,
        y: NDArray,
        weight: NDArray,
        reference: NDArray,
        norm_scale: NDArray,
        prior_strength: float,
        l2: float,
    ) -> None:
        self.X, self.treatment, self.y, self.weight, self.norm_scale = (
            torch.from_numpy(np.ascontiguousarray(a, dtype=np.float64))
            for a in (X, treatment, y, weight, norm_scale)
        )
        self.reference = torch.from_numpy(reference)
        self.prior_strength, self.l2 = prior_strength, l2
        self.p = X.shape[1]
        self.shrink = float(weight.sum()) ** (-1 / 6)

    def scores(self, parameters: torch.Tensor) -> torch.Tensor:
        """(n, 2): u and v."""
        beta, gamma = parameters[: self.p], parameters[self.p : 2 * self.p]
        u = self.X @ beta / torch.linalg.vector_norm(beta * self.norm_scale)
        return torch.stack((u, self.treatment - self.X @ gamma), dim=1)

    def spread(self, scores: torch.Tensor) -> torch.Tensor:
        """(2,) weighted standard deviations, 1 for a score that does not vary."""
        share = self.weight / self.weight.sum()
        deviation = (share @ (scores - share @ scores).square()).sqrt()
        return torch.where(deviation > 0, deviation, 1.0)

    def loss(self, scores: torch.Tensor, h: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
        log_loss: torch.Tensor = LeaveOneOutLogLoss.apply(
            scores / h, self.y, self.weight, self.reference, self.prior_strength
        )
        return log_loss + self.l2 * gamma.square().sum()

    def minimised(
        self, start: NDArray, bandwidth: str | NDArray, max_iter: int, start_gamma: NDArray
    ) -> ScoreFit:
        """Both stages from one start."""
        held = None if isinstance(bandwidth, str) else torch.as_tensor(bandwidth)

        def tied(parameters: torch.Tensor) -> torch.Tensor:
            scores = self.scores(parameters)
            h = RULE_FACTOR * self.shrink * self.spread(scores.detach()) if held is None else held
            return self.loss(scores, h, parameters[self.p :])

        def free(parameters: torch.Tensor) -> torch.Tensor:
            scores = self.scores(parameters)
            return self.loss(
                scores, parameters[2 * self.p :].exp(), parameters[self.p : 2 * self.p]
            )

        first = _lbfgs(tied, start, None, max_iter)
        iterations = first.nit
        final = torch.from_numpy(first.x)
        spread = self.spread(self.scores(final)) * self.shrink
        h = RULE_FACTOR * spread if held is None else held
        last = first
        if isinstance(bandwidth, str) and bandwidth == "loo":
            low, high = BANDWIDTH_RANGE
            bounds = [(None, None)] * (2 * self.p) + [
                (float(np.log(low * s)), float(np.log(high * s))) for s in spread.numpy()
            ]
            begin = np.concatenate((first.x, np.log(h.numpy())))
            last = _lbfgs(free, begin, bounds, max_iter)
            iterations += last.nit
            h = torch.from_numpy(last.x[2 * self.p :]).exp()
        beta, gamma = last.x[: self.p], last.x[self.p : 2 * self.p]
        return ScoreFit(
            prognostic=beta / np.linalg.norm(beta * self.norm_scale.numpy()),
            interaction=gamma,
            bandwidth=h.numpy().astype(np.float64),
            objective=float(last.fun),
            start_interaction=start_gamma,
            converged=bool(last.success),
            n_iter=int(iterations),
        )


def _lbfgs(function: Any, start: NDArray, bounds: Any, max_iter: int) -> Any:
    def value_and_gradient(parameters: NDArray) -> tuple[float, NDArray]:
        at = torch.from_numpy(parameters.copy()).requires_grad_()
        value = function(at)
        (gradient,) = torch.autograd.grad(value, at)
        return float(value.detach()), gradient.numpy()

    return minimize(
        value_and_gradient,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"maxiter": max_iter},
    )
