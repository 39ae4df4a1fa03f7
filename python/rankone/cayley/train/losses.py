"""Losses: weighted means over labelled entries."""

from __future__ import annotations

import abc

import torch
from torch import Tensor

from rankone.cayley.errors import CayleyError, check


class Loss(abc.ABC):
    """Base of losses: the weighted mean of :meth:`elementwise` over labelled entries."""

    @abc.abstractmethod
    def elementwise(self, pred: Tensor, target: Tensor) -> Tensor:
        """The loss of each entry."""

    def __call__(
        self,
        pred: Tensor,
        target: Tensor,
        mask: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """The mean loss.

        Args:
            pred: predictions of any shape.
            target: of the same shape; what stands at entries without a label does not matter.
            mask: of the same shape, non-zero for labelled entries; None means all.
            weights: of the same shape, at least 0; None means 1.

        Returns:
            A scalar; 0 where nothing is labelled.

        Raises:
            CayleyError: for another shape.
        """
        for name, tensor in (("target", target), ("mask", mask), ("weights", weights)):
            check(
                tensor is None or tensor.shape == pred.shape,
                f"{name} must have the shape {tuple(pred.shape)} of pred, "
                f"got {tuple(getattr(tensor, 'shape', ()))}",
            )
        target = target.to(pred.dtype)
        share = torch.ones_like(pred) if weights is None else weights.to(pred.dtype)
        if mask is not None:
            labelled = mask != 0
            # Not by a product with 0, which would keep a NaN.
            target = torch.where(labelled, target, pred.detach())
            share = torch.where(labelled, share, torch.zeros_like(share))
        total = share.sum()
        if not bool(total):
            return (pred * 0).sum()
        return (self.elementwise(pred, target) * share).sum() / total


class MseLoss(Loss):
    """Squared error.

    Example:
        >>> import torch
        >>> from rankone.cayley import MseLoss
        >>> labelled = torch.tensor([True, False])
        >>> float(MseLoss()(torch.tensor([1.0, 5.0]), torch.tensor([2.0, 9.0]), labelled))
        1.0
    """

    def elementwise(self, pred: Tensor, target: Tensor) -> Tensor:
        return (pred - target) ** 2


class PinballLoss(Loss):
    """Quantile loss: tau times the error below the target, 1 - tau times the error above it.

    Args:
        tau: the quantile that a minimiser predicts, in (0, 1).

    Raises:
        CayleyError: for a tau outside.

    Example:
        >>> import torch
        >>> from rankone.cayley import PinballLoss
        >>> float(PinballLoss(0.75)(torch.tensor([1.0]), torch.tensor([3.0])))
        1.5
    """

    def __init__(self, tau: float = 0.5) -> None:
        check(0 < tau < 1, f"tau must be between 0 and 1, got {tau}")
        self.tau = tau

    def elementwise(self, pred: Tensor, target: Tensor) -> Tensor:
        short = target - pred
        return torch.maximum(self.tau * short, (self.tau - 1) * short)


def make_loss(name: str, tau: float = 0.5) -> Loss:
    """A loss by name.

    Args:
        name: "mse" or "pinball".
        tau: level of the pinball loss, strictly between 0 and 1.

    Returns:
        The loss.

    Raises:
        CayleyError: for another name.

    Example:
        >>> from rankone.cayley import make_loss
        >>> make_loss("pinball", 0.9).tau
        0.9
    """
    if name == "mse":
        return MseLoss()
    if name == "pinball":
        return PinballLoss(tau)
    raise CayleyError(f"name must be 'mse' or 'pinball', got {name!r}")
