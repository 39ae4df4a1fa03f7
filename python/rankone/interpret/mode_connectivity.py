"""Linear mode connectivity: how high the line between two networks is, and why.

"Landscaping Linear Mode Connectivity" (arXiv 2406.16300) sees a barrier as a ridge that runs
between solutions, whose mountainsides descend to either side. rankone works that out in its own
derivations, from the abstract alone: the barrier as an integral of negative curvature along the
path, a predictor of the barriers of single layers from derivatives near one end, and a report of
the ridge between two children of one start. Layer-wise barriers follow "Layer-wise Linear Mode
Connectivity" (arXiv 2307.06966), permutation matching "Git Re-Basin" (arXiv 2209.04836).

With l(alpha) the loss on the path, Delta the difference of the ends, and any alpha,
  e(alpha) = l(alpha) - (1-alpha) l(0) - alpha l(1) = - int_0^1 g(alpha, t) Delta^T H(t) Delta dt,
where g(alpha, t) is t (1-alpha) up to alpha and alpha (1-t) behind it. This needs a slope without
jumps: ReLU networks have kinks that no Hessian contains, and are warned about.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import roots_jacobi
from torch import nn

from rankone._namespace import public_names
from rankone.interpret._linear_path import PathProfile, linear_path, loss_barrier, plot_path
from rankone.interpret._matching import activation_matching, weight_matching
from rankone.interpret._network_loss import (
    KinkWarning,
    LossFunction,
    NetworkLoss,
    Parameters,
    check_same,
    checked_alpha,
    interpolate,
    parameter_groups,
    parameters_of,
    recalibrate_batchnorm,
)
from rankone.interpret._permutations import (
    PermutationSpec,
    apply_permutation,
    sequential_permutation_spec,
)

__all__ = [
    "KinkWarning",
    "PathProfile",
    "PermutationSpec",
    "RidgeReport",
    "activation_matching",
    "apply_permutation",
    "curvature_barrier",
    "directional_derivatives",
    "interpolate",
    "layerwise_barriers",
    "linear_path",
    "loss_barrier",
    "mountainside_ridge",
    "parameter_groups",
    "parameters_of",
    "plot_path",
    "plot_ridge",
    "predict_layerwise_barriers",
    "recalibrate_batchnorm",
    "sequential_permutation_spec",
    "spawn_experiment",
    "weight_matching",
]


@dataclass(frozen=True, eq=False)
class RidgeReport:
    """Two children of one start: the descents to them, and the ridge between them.

    Attributes:
        spawn_loss: at the start.
        end_losses: at the children.
        mountainside_rises: largest climb on the lines from the start to the children; 0 where the
            loss only descends.
        ridge_barrier: barrier between the children.
        midpoint_curvature: ``Delta^T H Delta`` half way between the children, Delta their
            difference; negative on a ridge. For networks with kinks, such as ReLU, it is that of
            the smooth piece around the point and says nothing of the kinks.
        end_curvatures: the same at the children.
        same_side: ridge_barrier <= tol.
        mountainsides: profiles from the start to the children.
        ridge: profile between the children.
    """

    spawn_loss: float
    end_losses: tuple[float, float]
    mountainside_rises: tuple[float, float]
    ridge_barrier: float
    midpoint_curvature: float
    end_curvatures: tuple[float, float]
    same_side: bool
    mountainsides: tuple[PathProfile, PathProfile]
    ridge: PathProfile


def directional_derivatives(
    model: nn.Module,
    params: Parameters,
    direction: Parameters,
    X: Any,
    y: Any,
    loss_fn: LossFunction = F.cross_entropy,
    *,
    batch_size: int | None = None,
) -> tuple[float, float]:
    """Slope and curvature of the loss along a direction, by forward mode over forward mode.

    Args:
        model: any module; buffers are its own, in evaluation mode.
        params: parameter dictionary, whose dtype the computation has.
        direction: dictionary with the same names and shapes; its length matters.
        X, y: (n, ...) inputs and targets.
        loss_fn: mean loss of (outputs, targets).
        batch_size: rows run at once, all by default.

    Returns:
        ``<grad L, direction>`` and ``direction^T H direction``.

    Raises:
        ValueError: for dictionaries that are not those of the model, and data that do not fit.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from rankone.interpret.mode_connectivity import directional_derivatives
        >>> model, x = nn.Linear(1, 1, bias=False), torch.ones(1, 1)
        >>> w, v = {"weight": torch.tensor([[3.0]])}, {"weight": torch.tensor([[1.0]])}
        >>> directional_derivatives(model, w, v, x, x, nn.functional.mse_loss)
        (4.0, 2.0)
    """
    check_same(params, direction, ("params", "direction"))
    network = NetworkLoss(model, params, X, y, loss_fn, batch_size)
    return network.derivatives(params, direction)[1:]


def curvature_barrier(
    model: nn.Module,
    a: Parameters,
    b: Parameters,
    X: Any,
    y: Any,
    alpha: float = 0.5,
    n_nodes: int = 32,
    loss_fn: LossFunction = F.cross_entropy,
    *,
    batch_size: int | None = None,
) -> float:
    """Excess of the loss over the chord, from curvature along the path alone.

    ``- int g(alpha, t) Delta^T H(theta_t) Delta dt`` by Gauss-Legendre quadrature on either side of
    alpha, where the kernel has its kink. It equals the excess measured from losses where the loss
    is twice differentiable; with batch normalisation, that with the buffers of the model
    (``PathProfile.model_buffer_loss``).

    Args:
        model, a, b, X, y, loss_fn: as for :func:`linear_path`.
        alpha: in [0, 1].
        n_nodes: on each side of alpha.
        batch_size: rows run at once, all by default.

    Returns:
        e(alpha), with its sign.

    Raises:
        ValueError: for alpha outside [0, 1], n_nodes below 1, and dictionaries that do not fit.

    Warns:
        KinkWarning: for operations whose slope jumps, such as ReLU; the value is then wrong.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from rankone.interpret.mode_connectivity import curvature_barrier
        >>> model, x = nn.Linear(1, 1, bias=False), torch.ones(1, 1)
        >>> a, b = {"weight": torch.zeros(1, 1)}, {"weight": torch.full((1, 1), 2.0)}
        >>> round(curvature_barrier(model, a, b, x, x, loss_fn=nn.functional.mse_loss), 6)
        -1.0
    """
    check_same(a, b)
    alpha = checked_alpha(alpha)
    n_nodes = _count("n_nodes", n_nodes)
    network = NetworkLoss(model, a, X, y, loss_fn, batch_size)
    network.warn_of_kinks(a, "curvature_barrier")
    delta = _difference(a, b)
    nodes, weights = np.polynomial.legendre.leggauss(n_nodes)
    excess = 0.0
    for low, high in ((0.0, alpha), (alpha, 1.0)):
        if high == low:
            continue
        times = (low + high) / 2 + (high - low) / 2 * nodes
        kernel = times * (1 - alpha) if low == 0 else alpha * (1 - times)
        for t, weight in zip(times, (high - low) / 2 * weights * kernel, strict=True):
            excess -= weight * network.derivatives(a, delta, t)[2]
    return float(excess)


def layerwise_barriers(
    model: nn.Module,
    a: Parameters,
    b: Parameters,
    X: Any,
    y: Any,
    alpha: float = 0.5,
    loss_fn: LossFunction = F.cross_entropy,
    *,
    batch_size: int | None = None,
) -> dict[str, float]:
    """Excess over the chord when the tensors of one module alone move.

    ``L(a + alpha Delta_k) - (1-alpha) L(a) - alpha L(b)`` for the tensors k of every module; the
    chord is that between the whole networks.

    Args:
        model, a, b, X, y, loss_fn: as for :func:`linear_path`; buffers are those of the model.
        alpha: in [0, 1].
        batch_size: rows run at once, all by default.

    Returns:
        Excess, with its sign, by module name (:func:`parameter_groups`).

    Raises:
        ValueError: for alpha outside [0, 1] and dictionaries that do not fit.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from rankone.interpret.mode_connectivity import layerwise_barriers, parameters_of
        >>> nets = [nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)) for _ in range(2)]
        >>> X, y = torch.randn(9, 2), torch.randint(2, (9,))
        >>> list(layerwise_barriers(nets[0], *map(parameters_of, nets), X, y))
        ['0', '2']
    """
    check_same(a, b)
    alpha = checked_alpha(alpha)
    network = NetworkLoss(model, a, X, y, loss_fn, batch_size)
    chord = (1 - alpha) * network(a) + alpha * network(b)
    return {
        group: network(interpolate(a, b, alpha, names)) - chord
        for group, names in parameter_groups(model).items()
    }


def predict_layerwise_barriers(
    model: nn.Module,
    a: Parameters,
    b: Parameters,
    X: Any,
    y: Any,
    alpha: float = 0.5,
    n_nodes: int = 1,
    loss_fn: LossFunction = F.cross_entropy,
    *,
    batch_size: int | None = None,
) -> dict[str, float]:
    """Layer-wise barriers from the slope at ``a`` and curvatures on the way to alpha.

    The loss at alpha is its Taylor formula with integral remainder, whose integral over
    ``(alpha - t) Delta_k^T H(a + t Delta_k) Delta_k`` is done by Gauss-Jacobi quadrature: one node
    at alpha / 3 and exact as n_nodes grows. The expansion at ``a`` alone ranks layers badly.

    Args:
        model, a, b, X, y, loss_fn: as for :func:`linear_path`; buffers are those of the model.
        alpha: in [0, 1].
        n_nodes: curvatures a module.
        batch_size: rows run at once, all by default.

    Returns:
        Predicted excess, with its sign, by module name.

    Raises:
        ValueError: for alpha outside [0, 1], n_nodes below 1, and dictionaries that do not fit.

    Warns:
        KinkWarning: for operations whose slope jumps, such as ReLU.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from rankone.interpret.mode_connectivity import (
        ...     parameters_of, predict_layerwise_barriers,
        ... )
        >>> nets = [nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)) for _ in range(2)]
        >>> X, y = torch.randn(9, 2), torch.randint(2, (9,))
        >>> list(predict_layerwise_barriers(nets[0], *map(parameters_of, nets), X, y))
        ['0', '2']
    """
    check_same(a, b)
    alpha = checked_alpha(alpha)
    n_nodes = _count("n_nodes", n_nodes)
    network = NetworkLoss(model, a, X, y, loss_fn, batch_size)
    network.warn_of_kinks(a, "predict_layerwise_barriers")
    start, end = network(a), network(b)
    delta = _difference(a, b)
    nodes, weights = roots_jacobi(n_nodes, 1, 0)
    times, weights = alpha / 2 * (1 + nodes), (alpha / 2) ** 2 * weights
    predicted = {}
    for group, names in parameter_groups(model).items():
        direction = {name: delta[name] for name in names}
        slope = network.derivatives(a, direction)[1]
        bend = sum(
            weight * network.derivatives(a, direction, t)[2]
            for t, weight in zip(times, weights, strict=True)
        )
        predicted[group] = float(start + alpha * slope + bend - (1 - alpha) * start - alpha * end)
    return predicted


def mountainside_ridge(
    model: nn.Module,
    spawn: Parameters,
    a: Parameters,
    b: Parameters,
    X: Any,
    y: Any,
    n_points: int = 25,
    tol: float = 0.02,
    loss_fn: LossFunction = F.cross_entropy,
    *,
    batch_size: int | None = None,
) -> RidgeReport:
    """Whether two children of one start have been separated by a ridge.

    Args:
        model, X, y, n_points, loss_fn, batch_size: as for :func:`linear_path`.
        spawn: parameters from which both children went on.
        a, b: parameters of the children.
        tol: the largest barrier between children on the same side.

    Returns:
        The report, in loss units.

    Raises:
        ValueError: for a negative tol and dictionaries that do not fit.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from rankone.interpret.mode_connectivity import mountainside_ridge
        >>> model, x = nn.Linear(1, 1, bias=False), torch.ones(1, 1)
        >>> spawn, a, b = ({"weight": torch.full((1, 1), w)} for w in (0.0, 1.0, -1.0))
        >>> report = mountainside_ridge(
        ...     model, spawn, a, b, x, x, n_points=5,
        ...     loss_fn=lambda output, target: (output.square() - target).square().mean(),
        ... )
        >>> report.ridge_barrier, report.mountainside_rises, report.same_side
        (1.0, (0.0, 0.0), False)
    """
    check_same(spawn, a, ("spawn", "a"))
    check_same(a, b)
    if not isinstance(tol, int | float) or not (math.isfinite(tol) and tol >= 0):
        raise ValueError(f"tol must be a number of at least 0, got {tol!r}")

    def path(start: Parameters, end: Parameters) -> PathProfile:
        return linear_path(model, start, end, X, y, n_points, loss_fn, batch_size=batch_size)

    descents = (path(spawn, a), path(spawn, b))
    ridge = path(a, b)
    network = NetworkLoss(model, a, X, y, loss_fn, batch_size)
    delta = _difference(a, b)
    start, middle, end = (network.derivatives(a, delta, t)[2] for t in (0.0, 0.5, 1.0))
    return RidgeReport(
        spawn_loss=float(descents[0].loss[0]),
        end_losses=(float(ridge.loss[0]), float(ridge.loss[-1])),
        mountainside_rises=(descents[0].rise, descents[1].rise),
        ridge_barrier=ridge.barrier,
        midpoint_curvature=middle,
        end_curvatures=(start, end),
        same_side=ridge.barrier <= tol,
        mountainsides=descents,
        ridge=ridge,
    )


def spawn_experiment(
    make_model: Callable[[], nn.Module],
    train: Callable[[nn.Module, int, int | None, int, Any], Any],
    epochs: Iterable[int],
    X: Any,
    y: Any,
    random_state: int = 0,
    *,
    n_points: int = 25,
    tol: float = 0.02,
    loss_fn: LossFunction = F.cross_entropy,
    batch_size: int | None = None,
) -> list[RidgeReport]:
    """Train a parent, let two children go on from it at several epochs, and report the ridges.

    Both children continue the parent's own schedule and optimiser from the spawn epoch on; only the
    order of their data differs.

    Args:
        make_model: makes the network; it is called once, after ``torch.manual_seed(random_state)``.
        train: ``train(model, first, last, seed, state)`` trains the model in place for the epochs
            first, ..., last - 1 of one fixed schedule, to its end where last is None, with the data
            order drawn from ``seed``. ``state`` is what the call for the epochs before returned,
            such as the optimiser's state dictionary, and None at first.
        epochs: spawn epochs k, at least 0.
        X, y: (n, ...) inputs and targets on which losses are measured.
        random_state: seed of the initialisation and of all data orders, at least 0.
        n_points, tol, loss_fn, batch_size: as for :func:`mountainside_ridge`.

    Returns:
        One report a spawn epoch, in the order of ``epochs``.

    Raises:
        ValueError: for no epoch, and for epochs or a seed that are not integers of at least 0.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from rankone.interpret.mode_connectivity import spawn_experiment
        >>> X, y = torch.randn(20, 2), torch.arange(20) % 2
        >>> def train(model, first, last, seed, state):
        ...     order = torch.Generator().manual_seed(seed)
        ...     optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        ...     for epoch in range(first, 3 if last is None else last):
        ...         for batch in torch.randperm(20, generator=order).split(5):
        ...             optimizer.zero_grad()
        ...             nn.functional.cross_entropy(model(X[batch]), y[batch]).backward()
        ...             optimizer.step()
        >>> reports = spawn_experiment(lambda: nn.Linear(2, 2), train, [0, 2], X, y)
        >>> [report.same_side for report in reports]
        [True, True]
    """
    epochs = list(epochs)
    if not epochs:
        raise ValueError("epochs must hold at least one spawn epoch, got none")
    for k in epochs:
        _count("epochs", k, minimum=0)
    _count("random_state", random_state, minimum=0)
    if not callable(train):
        raise TypeError(f"train must be callable, got {type(train).__name__}")
    with torch.random.fork_rng():
        torch.manual_seed(random_state)
        parent = make_model()
    if not isinstance(parent, nn.Module):
        raise TypeError(f"make_model must return a torch.nn.Module, got {type(parent).__name__}")
    # Streams 0 and 1 are the children's, the third the parent's, by the epoch at which they start.
    reports, state, done = {}, None, 0
    for k in sorted(set(epochs)):
        if k > done:
            state, done = train(parent, done, k, _seed(random_state, 2, done), state), k
        children = []
        for child in (0, 1):
            network = copy.deepcopy(parent)
            train(network, k, None, _seed(random_state, child, k), copy.deepcopy(state))
            children.append(parameters_of(network))
        reports[k] = mountainside_ridge(
            parent, parameters_of(parent), children[0], children[1], X, y, n_points, tol, loss_fn,
            batch_size=batch_size,
        )  # fmt: skip
    return [reports[k] for k in epochs]


def plot_ridge(report: RidgeReport, ax: Any = None) -> Any:
    """Draw the loss around the triangle of start and children: down, over the ridge, back up.

    Args:
        report: of :func:`mountainside_ridge`.
        ax: axes to draw in; None for new ones.

    Returns:
        The axes.

    Example:
        >>> import numpy as np
        >>> from rankone.interpret.mode_connectivity import PathProfile, RidgeReport, plot_ridge
        >>> alphas, flat = np.array([0.0, 0.5, 1.0]), np.zeros(3)
        >>> path = PathProfile(alphas, flat, flat, 0.0, 0.0, 0.0)
        >>> report = RidgeReport(0, (0, 0), (0, 0), 0, 0, (0, 0), True, (path, path), path)
        >>> [tick.get_text() for tick in plot_ridge(report).get_xticklabels()]
        ['start', 'child a', 'child b', 'start']
    """
    if ax is None:
        from matplotlib import pyplot

        ax = pyplot.subplots()[1]
    left, right = report.mountainsides
    (line,) = ax.plot(left.alphas - 1, left.loss, label="mountainsides")
    ax.plot(2 - right.alphas, right.loss, color=line.get_color())
    (line,) = ax.plot(report.ridge.alphas, report.ridge.loss, label="between the children")
    ax.fill_between(
        report.ridge.alphas, report.ridge.chord, report.ridge.loss, color=line.get_color(),
        alpha=0.2, linewidth=0,
    )  # fmt: skip
    ax.set_xticks([-1, 0, 1, 2], ["start", "child a", "child b", "start"])
    ax.set_ylabel("loss")
    ax.legend()
    return ax


def _difference(a: Parameters, b: Parameters) -> dict[str, torch.Tensor]:
    return {name: b[name] - value for name, value in a.items()}


def _count(name: str, value: Any, minimum: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < minimum:
        raise ValueError(f"{name} must be an integer of at least {minimum}, got {value!r}")
    return int(value)


def _seed(random_state: int, stream: int, epoch: int) -> int:
    return int(np.random.SeedSequence((random_state, stream, epoch)).generate_state(1)[0])


def __dir__() -> list[str]:
    return public_names(globals())
