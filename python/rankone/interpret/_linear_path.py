"""Loss along the straight line between two networks, and its barrier.

The barrier is the largest excess of the loss over the chord between the two end losses, not over
one of them: unequal ends on a straight slope have none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import nn

from rankone._repr import short_repr
from rankone.interpret._network_loss import (
    LossFunction,
    NetworkLoss,
    Parameters,
    check_same,
    interpolate,
)

# Excesses below this many rounding errors of the losses are no barrier.
_ROUNDING_ERRORS = 8


@dataclass(frozen=True, eq=False)
class PathProfile:
    """Losses at evenly spaced points of a path.

    Attributes:
        alphas: (n_points,) from 0 to 1.
        loss: (n_points,) mean loss; with batch normalisation, after its running statistics were
            computed anew at every point.
        accuracy: (n_points,) at the same points, NaN where the targets are not classes.
        barrier: largest excess of ``loss`` over the chord, at least 0.
        barrier_alpha: where it is; 0 without a barrier.
        midpoint_barrier: excess at 1/2, with its sign.
        model_buffer_loss: (n_points,) loss with the buffers of the given model at every point;
            None without batch normalisation, where it is ``loss``.
    """

    __repr__ = short_repr

    alphas: NDArray[np.float64]
    loss: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    barrier: float
    barrier_alpha: float
    midpoint_barrier: float
    model_buffer_loss: NDArray[np.float64] | None = None

    @property
    def chord(self) -> NDArray[np.float64]:
        """(n_points,) straight line between the two end losses."""
        return (1 - self.alphas) * self.loss[0] + self.alphas * self.loss[-1]

    @property
    def excess(self) -> NDArray[np.float64]:
        """(n_points,) loss above the chord."""
        return self.loss - self.chord

    @property
    def rise(self) -> float:
        """Largest climb ``max_j (l_j - min_{i<=j} l_i)``: 0 on a path that only descends."""
        return float(np.max(self.loss - np.minimum.accumulate(self.loss)))


def loss_barrier(alphas: ArrayLike, losses: ArrayLike) -> tuple[float, float]:
    """Largest excess of a loss curve over its chord.

    Args:
        alphas: (n,) increasing from 0 to 1.
        losses: (n,); infinite values are allowed between finite ends.

    Returns:
        (barrier, alpha at which it is): 0 and 0 where the curve stays at or below the chord.

    Raises:
        ValueError: for other shapes, alphas that do not increase from 0 to 1, and losses that are
            NaN or infinite at an end.

    Example:
        >>> from rankone.interpret.mode_connectivity import loss_barrier
        >>> loss_barrier([0.0, 0.5, 1.0], [1.0, 3.0, 2.0])
        (1.5, 0.5)
    """
    alphas, losses = np.asarray(alphas, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    if alphas.ndim != 1 or alphas.shape != losses.shape or len(alphas) < 2:
        raise ValueError(
            "alphas and losses must be 1-D of one length of at least 2, got shapes "
            f"{alphas.shape} and {losses.shape}"
        )
    if alphas[0] != 0 or alphas[-1] != 1 or not np.all(np.diff(alphas) > 0):
        raise ValueError("alphas must increase from 0 to 1")
    if (
        np.isnan(losses).any()
        or np.isneginf(losses).any()
        or not np.isfinite(losses[[0, -1]]).all()
    ):
        raise ValueError("losses must be numbers, and finite at both ends")
    excess = losses - (1 - alphas) * losses[0] - alphas * losses[-1]
    # What rounding alone leaves of a straight line.
    allowed = _ROUNDING_ERRORS * np.finfo(np.float64).eps * np.abs(losses[[0, -1]]).max()
    at = int(np.argmax(excess))
    if excess[at] <= allowed:
        return 0.0, 0.0
    return float(excess[at]), float(alphas[at])


def linear_path(
    model: nn.Module,
    a: Parameters,
    b: Parameters,
    X: Any,
    y: Any,
    n_points: int = 25,
    loss_fn: LossFunction = F.cross_entropy,
    only: Iterable[str] | None = None,
    *,
    batch_size: int | None = None,
) -> PathProfile:
    """Loss and accuracy on the straight line from ``a`` to ``b``.

    Args:
        model: any module that maps X to outputs. It is copied, run in evaluation mode and never
            changed; buffers are its own, except the running statistics of batch normalisation,
            which belong to one set of weights and are computed anew on X at every point.
        a, b: parameter dictionaries of the model (:func:`parameters_of`).
        X: (n, ...) inputs, tensor or array; floating ones are taken to the dtype of ``a``.
        y: (n, ...) targets.
        n_points: points of the path, odd, so that 1/2 is one.
        loss_fn: mean loss of (outputs, targets).
        only: names of the tensors that move.
        batch_size: rows run at once, all by default. The loss must then be a plain mean over rows.

    Returns:
        The profile.

    Raises:
        ValueError: for dictionaries that are not those of the model, an even or small n_points, a
            loss that is not a scalar or not a number.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from rankone.interpret.mode_connectivity import linear_path
        >>> model = nn.Linear(1, 1, bias=False)
        >>> x = torch.ones(1, 1)
        >>> a, b = {"weight": torch.zeros(1, 1)}, {"weight": torch.full((1, 1), 2.0)}
        >>> path = linear_path(model, a, b, x, x, n_points=3, loss_fn=nn.functional.mse_loss)
        >>> path.loss.tolist(), path.barrier, path.midpoint_barrier
        ([1.0, 0.0, 1.0], 0.0, -1.0)
    """
    alphas = _grid(n_points)
    check_same(a, b)
    network = NetworkLoss(model, a, X, y, loss_fn, batch_size)
    points = [interpolate(a, b, alpha, only) for alpha in alphas.tolist()]
    loss, accuracy = np.array(
        [network.loss_and_accuracy(point, recalibrate=True) for point in points]
    ).T
    as_given = np.array([network(p) for p in points]) if network.has_batchnorm else None
    barrier, barrier_alpha = loss_barrier(alphas, loss)
    middle = n_points // 2
    return PathProfile(
        alphas=alphas,
        loss=loss,
        accuracy=accuracy,
        barrier=barrier,
        barrier_alpha=barrier_alpha,
        midpoint_barrier=float(loss[middle] - (loss[0] + loss[-1]) / 2),
        model_buffer_loss=as_given,
    )


def plot_path(profile: PathProfile, ax: Any = None, *, label: str = "loss") -> Any:
    """Draw a loss profile with its chord, and its barrier as a vertical line.

    Args:
        profile: of :func:`linear_path`.
        ax: axes to draw in; None for new ones. Several profiles may share one.
        label: of the curve.

    Returns:
        The axes.

    Example:
        >>> import numpy as np
        >>> from rankone.interpret.mode_connectivity import PathProfile, plot_path
        >>> alphas = np.array([0.0, 0.5, 1.0])
        >>> profile = PathProfile(alphas, np.array([1.0, 3.0, 2.0]), alphas * np.nan, 1.5, 0.5, 1.5)
        >>> plot_path(profile).get_ylabel()
        'loss'
    """
    if ax is None:
        from matplotlib import pyplot

        ax = pyplot.subplots()[1]
    (curve,) = ax.plot(profile.alphas, profile.loss, label=label)
    color = curve.get_color()
    ax.plot(profile.alphas, profile.chord, ":", color=color, linewidth=1)
    if profile.barrier > 0:
        at = int(np.argmax(profile.excess))
        ax.plot([profile.alphas[at]] * 2, [profile.chord[at], profile.loss[at]], color=color,
                linewidth=1)  # fmt: skip
    ax.set_xlabel("position on the line")
    ax.set_ylabel("loss")
    return ax


def _grid(n_points: int) -> NDArray[np.float64]:
    odd = isinstance(n_points, int | np.integer) and not isinstance(n_points, bool)
    if not odd or n_points < 3 or n_points % 2 == 0:
        raise ValueError(f"n_points must be an odd integer of at least 3, got {n_points!r}")
    return np.arange(n_points) / (n_points - 1)
