"""Routing of tokens to their top-k of several experts, and the loss that balances it.

    p = softmax(logits);  I = the k largest p;  w_m = p_m / sum of p over I
    load_m = share of tokens with m in I;  aux = M * sum_m load_m * mean(p_m)

Gates and statistics are float32 (float64 for float64 logits) whatever the layer's dtype.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rankone.ops.checks import check_shape, check_tensor


class RouterOutput(NamedTuple):
    """What a routing layer decided.

    Attributes:
        logits: (batch, time, M).
        indices: (batch, time, k) int64, the most likely first.
        weights: (batch, time, k), which sum to 1.
        load: (M,) share of the real tokens that go to each; sums to k. No gradient.
        aux_loss: 0-dim, see :func:`load_balancing_loss`.
    """

    logits: Tensor
    indices: Tensor
    weights: Tensor
    load: Tensor
    aux_loss: Tensor


def route(logits: Tensor, top_k: int, *, mask: Tensor | None = None) -> RouterOutput:
    """Choose the ``top_k`` most likely of M for every token; of equal ones the first.

    Args:
        logits: (batch, time, M).
        top_k: from 1 to M.
        mask: (batch, time) bool, False on tokens that the statistics leave out.

    Returns:
        :class:`RouterOutput`.

    Raises:
        ValueError: for top_k out of range or a mask of the wrong shape.

    Example:
        >>> import torch
        >>> from rankone.nn.routing import route
        >>> router = route(torch.tensor([[[0.0, 2.0, 0.0]]]), 2)
        >>> router.indices.tolist(), router.load.tolist()
        ([[[1, 0]]], [1.0, 1.0, 0.0])
    """
    probabilities, indices = _choose(logits, top_k)
    chosen = probabilities.gather(-1, indices)
    weights = chosen / chosen.sum(-1, keepdim=True)
    load, mean = _statistics(probabilities, indices, mask)
    return RouterOutput(logits, indices, weights, load, logits.shape[-1] * (load * mean).sum())


def load_balancing_loss(logits: Tensor, top_k: int, *, mask: Tensor | None = None) -> Tensor:
    """M * sum over m of (share of tokens routed to m) * (mean probability of m).

    It is ``top_k`` where routing is uniform, and at most M. The shares are counts and have no
    gradient; the probabilities have.

    Args:
        logits: (..., M).
        top_k: how many each token is routed to.
        mask: (...) bool, False on tokens to leave out.

    Returns:
        0-dim, float32 (float64 for float64 logits).

    Raises:
        ValueError: for top_k out of range or a mask of the wrong shape.

    Source: "MoM: Linear Sequence Modeling with Mixture-of-Memories", arXiv 2502.13685, after
    "Switch Transformers", arXiv 2101.03961.

    Example:
        >>> import torch
        >>> from rankone.nn import load_balancing_loss
        >>> float(load_balancing_loss(torch.zeros(3, 5, 4), 2))
        2.0
    """
    load, mean = _statistics(*_choose(logits, top_k), mask)
    return logits.shape[-1] * (load * mean).sum()


def check_top_k(top_k: int, memories: int) -> None:
    if not isinstance(top_k, int):
        raise TypeError(f"top_k must be an integer, got {top_k!r}")
    if not 1 <= top_k <= memories:
        raise ValueError(f"top_k must be between 1 and {memories}, got {top_k}")


def _choose(logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    check_tensor("logits", logits)
    check_top_k(top_k, logits.shape[-1])
    probabilities = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(-1)
    # A stable sort keeps equal ones in order, which topk does not promise.
    order = torch.sort(probabilities.detach(), dim=-1, descending=True, stable=True).indices
    return probabilities, order[..., :top_k]


def _statistics(
    probabilities: Tensor, indices: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Share of tokens and mean probability of each; without tokens, zeros."""
    number = probabilities.shape[-1]
    routed = torch.zeros_like(probabilities).scatter(-1, indices, 1.0)
    if mask is not None:
        check_shape("mask", mask, probabilities.shape[:-1], "the leading axes of logits")
        kept = mask[..., None].to(probabilities.dtype)
        routed, probabilities = routed * kept, probabilities * kept
        tokens = kept.sum().clamp(min=1)
    else:
        tokens = probabilities.new_tensor(max(probabilities.numel() // number, 1))
    axes = tuple(range(probabilities.ndim - 1))
    return routed.sum(axes) / tokens, probabilities.sum(axes) / tokens
