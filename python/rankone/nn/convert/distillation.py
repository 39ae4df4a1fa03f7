"""Attention distillation: how far linear-attention weights are from softmax weights, as a loss.

With teacher weights p = softmax of q_i . k_j scale and student weights a, the normalised products
of features, both over the allowed keys j of a query i:

    loss = - mean over valid queries i of sum_j p_ij log max(a_ij, 1e-12)

averaged over heads. It is at least the mean entropy of p, and the difference is KL(p, a). The
metrics measure what linear maps lose: low entropy and monotonicity in the dot product. The weights
are T x T here, since a loss on weights needs them; converted models form none. Source: "The
Hedgehog & the Porcupine", arXiv 2402.04347, for the loss; the grouped-head rule and the exact
definitions of the metrics are rankone's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rankone._optional import require
from rankone.ops.checks import check_shape, check_tensor, shape_of

# Inside the logarithm: a key that the student never looks at costs 27.6 nats.
WEIGHT_FLOOR = 1e-12

# A query with fewer keys has no rank correlation worth the name.
MIN_RANKED_KEYS = 3


def allowed_keys(
    batch: int,
    time: int,
    *,
    causal: bool,
    mask: Tensor | None = None,
    sequence: Tensor | None = None,
    window: int | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """(batch or 1, 1, T, T) boolean: which keys a query may see.

    Args:
        batch: number of rows.
        time: tokens a row, T.
        causal: only itself and the past.
        mask: (batch, T) boolean, True on tokens.
        sequence: (T,) index of the packed sequence of every token.
        window: only the last ``window`` of them.
        device: where the result is.
    """
    allowed = torch.ones(1, 1, time, time, dtype=torch.bool, device=device)
    if causal:
        allowed = allowed.tril()
    if window is not None:
        allowed = allowed.triu(1 - window)
    if sequence is not None:
        allowed = allowed & (sequence[:, None] == sequence)
    if mask is not None:
        allowed = allowed & mask[:, None, None, :]
    return allowed.expand(batch, 1, time, time) if mask is not None else allowed


def teacher_weights(dots: Tensor, scale: float, allowed: Tensor) -> Tensor:
    """Softmax weights (B, H, T, T) over the allowed keys; 0 where a query has none."""
    scores = (dots * scale).masked_fill(~allowed, float("-inf"))
    return scores.softmax(-1).nan_to_num(0.0)


def student_weights(phi_q: Tensor, phi_k: Tensor, allowed: Tensor) -> Tensor:
    """Weights (B, H, T, T) of linear attention: products of features, normalised over keys.

    Args:
        phi_q: (B, T, H, F).
        phi_k: (B, T, Hk, F).
        allowed: (B or 1, 1, T, T) boolean.
    """
    products = grouped_products(phi_q, phi_k).masked_fill(~allowed, 0)
    total = products.sum(-1, keepdim=True)
    return products / total.clamp_min(torch.finfo(products.dtype).tiny)


def grouped_products(q: Tensor, k: Tensor) -> Tensor:
    """q_i . k_j of (B, T, H, F) and (B, T, Hk, F): (B, H, T, T); head h reads h // (H / Hk)."""
    heads, kv_heads = q.shape[2], k.shape[2]
    grouped = q.unflatten(2, (kv_heads, heads // kv_heads))
    return torch.einsum("bqhgf,bkhf->bhgqk", grouped, k).flatten(1, 2)


def features(
    q: Tensor, k: Tensor, feature_map_q: nn.Module, feature_map_k: nn.Module
) -> tuple[Tensor, Tensor]:
    """phi_q(q) and phi_k(k); keys are repeated where ``feature_map_k`` has a map a query head."""
    heads, kv_heads = q.shape[2], k.shape[2]
    if heads != kv_heads and getattr(feature_map_k, "num_heads", None) == heads:
        k = k.repeat_interleave(heads // kv_heads, dim=2)
    return feature_map_q(q), feature_map_k(k)


@dataclass(frozen=True)
class DistillationLoss:
    """Cross-entropy of a layer with its gradient, and the entropy of the teacher (no gradient)."""

    cross_entropy: Tensor
    teacher_entropy: Tensor

    @property
    def kl(self) -> Tensor:
        """KL(teacher, student) without gradient."""
        return self.cross_entropy.detach() - self.teacher_entropy


def distillation_loss(
    q: Tensor,
    k: Tensor,
    feature_map_q: nn.Module,
    feature_map_k: nn.Module,
    *,
    allowed: Tensor,
    teacher_allowed: Tensor,
    valid: Tensor | None,
    scale: float,
) -> DistillationLoss:
    """The loss over given sets of keys; q and k take no gradient.

    Args:
        q: (B, T, H, d).
        k: (B, T, Hk, d).
        feature_map_q: map of queries.
        feature_map_k: map of keys.
        allowed: (B or 1, 1, T, T) keys that the student may see.
        teacher_allowed: keys that the teacher sees.
        valid: (B, T) boolean, queries that count; None for all.
        scale: of the teacher's products.
    """
    dtype = torch.promote_types(q.dtype, torch.float32)
    with torch.autocast(q.device.type, enabled=False):
        q, k = q.detach().to(dtype), k.detach().to(dtype)
        phi_q, phi_k = features(q, k, feature_map_q, feature_map_k)
        with torch.no_grad():
            teacher = teacher_weights(grouped_products(q, k), scale, teacher_allowed)
            entropy = _mean_over_queries(-torch.special.xlogy(teacher, teacher).sum(-1), valid)
        student = student_weights(phi_q, phi_k, allowed)
        loss = -(teacher * student.clamp_min(WEIGHT_FLOOR).log()).sum(-1)
    return DistillationLoss(_mean_over_queries(loss, valid).mean(), entropy.mean())


def _mean_over_queries(values: Tensor, valid: Tensor | None) -> Tensor:
    """(H,) means of (B, H, T) over the valid queries (B, T)."""
    if valid is None:
        return values.mean((0, 2))
    weight = valid[:, None].to(values.dtype)
    return (values * weight).sum((0, 2)) / weight.sum().clamp_min(1)


def attention_distillation_loss(
    q: Tensor,
    k: Tensor,
    feature_map_q: nn.Module,
    feature_map_k: nn.Module,
    *,
    causal: bool = True,
    key_padding_mask: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Cross-entropy of linear-attention weights against softmax weights of the same q and k.

    Args:
        q: (B, T, H, d) queries, rotated where the model has rotary positions.
        k: (B, T, Hk, d) keys; H is a multiple of Hk.
        feature_map_q: map of the queries, see :func:`rankone.nn.feature_maps.feature_map`.
        feature_map_k: map of the keys, one a kv head or one a query head.
        causal: whether a token sees only itself and the past.
        key_padding_mask: (B, T) boolean, True on padding, as ``torch.nn.MultiheadAttention``:
            neither keys nor queries there count.
        scale: of the teacher's products; default d ** -0.5.

    Returns:
        Scalar, float32 or float64, in nats; its gradient reaches the maps only.

    Raises:
        ValueError: for shapes that do not fit, or no valid query.
        TypeError: for a mask that is not boolean.

    Source: "The Hedgehog & the Porcupine", arXiv 2402.04347.

    Example:
        >>> import torch
        >>> from rankone.nn.convert import attention_distillation_loss
        >>> from rankone.nn.feature_maps import HedgehogFeatureMap
        >>> q, k = torch.zeros(2, 1, 8, 3, 4)
        >>> loss = attention_distillation_loss(
        ...     q, k, HedgehogFeatureMap(4, 3), HedgehogFeatureMap(4, 3), causal=False
        ... )
        >>> round(loss.item(), 4)  # ln 8
        2.0794
    """
    for name, tensor in (("q", q), ("k", k)):
        check_tensor(name, tensor)
        if tensor.ndim != 4:
            raise ValueError(
                f"{name} must have shape (batch, time, heads, head_dim), got {shape_of(tensor)}"
            )
    batch, time, heads, head_dim = q.shape
    kv_heads = k.shape[2]
    if k.shape[:2] != q.shape[:2] or k.shape[3] != head_dim or not kv_heads or heads % kv_heads:
        raise ValueError(
            "k must have the batch, time and head_dim of q and a divisor of its heads, "
            f"got {shape_of(k)} for q {shape_of(q)}"
        )
    mask = _token_mask(key_padding_mask, batch, time)
    allowed = allowed_keys(batch, time, causal=causal, mask=mask, device=q.device)
    return distillation_loss(
        q,
        k,
        feature_map_q,
        feature_map_k,
        allowed=allowed,
        teacher_allowed=allowed,
        valid=mask,
        scale=head_dim**-0.5 if scale is None else scale,
    ).cross_entropy


def _token_mask(key_padding_mask: Tensor | None, batch: int, time: int) -> Tensor | None:
    if key_padding_mask is None:
        return None
    check_shape("key_padding_mask", key_padding_mask, (batch, time), "batch, time")
    if key_padding_mask.dtype != torch.bool:
        raise TypeError(
            f"key_padding_mask must be boolean, True on padding, got {key_padding_mask.dtype}"
        )
    if bool(key_padding_mask.all()):
        raise ValueError("key_padding_mask must leave at least one token, got padding alone")
    return ~key_padding_mask


def attention_metrics(
    teacher: Tensor,
    student: Tensor,
    *,
    dots: Tensor | None = None,
    causal: bool = True,
    key_padding_mask: Tensor | None = None,
) -> dict[str, Any]:
    """How attention weights differ: KL, entropies, monotonicity.

    Args:
        teacher: (B, H, T, T) weights p, a row a query.
        student: (B, H, T, T) weights a.
        dots: (B, H, T, T) products q_i . k_j, for the monotonicity.
        causal: whether only keys up to the query's own count.
        key_padding_mask: (B, T) boolean, True on padding.

    Returns:
        Floats over the allowed keys, averaged over valid queries and then heads: ``kl`` = sum of
        p log(p / a) in nats, ``entropy_teacher`` and ``entropy_student`` in nats, and
        ``monotonicity``, the Spearman correlation of products and student weights with average
        ranks for ties (queries with fewer than 3 keys, or with equal products throughout, are
        skipped; equal weights under different products count as 0); None without ``dots``.

    Raises:
        ValueError: for weights or products that are not (B, H, T, T).
        TypeError: for a mask that is not boolean.

    Example:
        >>> import torch
        >>> from rankone.nn.convert import attention_metrics
        >>> dots = torch.randn(1, 2, 6, 6)
        >>> weights = dots.masked_fill(~torch.ones(6, 6).tril().bool(), -torch.inf).softmax(-1)
        >>> metrics = attention_metrics(weights, weights, dots=dots)
        >>> metrics["kl"], round(metrics["monotonicity"], 6)
        (0.0, 1.0)
    """
    check_tensor("teacher", teacher)
    check_tensor("student", student)
    if dots is not None:
        check_tensor("dots", dots)
    if teacher.ndim != 4 or teacher.shape[-1] != teacher.shape[-2]:
        raise ValueError(f"teacher must have shape (B, H, T, T), got {shape_of(teacher)}")
    for name, weights in (("student", student), ("dots", dots)):
        if weights is not None and weights.shape != teacher.shape:
            raise ValueError(
                f"{name} must have the shape (B, H, T, T) of teacher, {shape_of(teacher)}, "
                f"got {shape_of(weights)}"
            )
    batch, _, time, _ = teacher.shape
    mask = _token_mask(key_padding_mask, batch, time)
    allowed = allowed_keys(batch, time, causal=causal, mask=mask, device=teacher.device)
    return weight_metrics(teacher, student, dots, allowed, mask)


def weight_metrics(
    teacher: Tensor, student: Tensor, dots: Tensor | None, allowed: Tensor, valid: Tensor | None
) -> dict[str, Any]:
    """:func:`attention_metrics` over given keys (B or 1, 1, T, T) and queries (B, T)."""
    with torch.no_grad():
        p, a = (weights.double().masked_fill(~allowed, 0) for weights in (teacher, student))
        log_ratio = p.clamp_min(WEIGHT_FLOOR).log() - a.clamp_min(WEIGHT_FLOOR).log()
        per_query = {
            "kl": (p * log_ratio).sum(-1),
            "entropy_teacher": -torch.special.xlogy(p, p).sum(-1),
            "entropy_student": -torch.special.xlogy(a, a).sum(-1),
        }
        means = {
            name: _mean_over_queries(values, valid).mean().item()
            for name, values in per_query.items()
        }
    monotonicity = None if dots is None else _monotonicity(dots, student, allowed, valid)
    return {**means, "monotonicity": monotonicity}


def _monotonicity(dots: Tensor, weights: Tensor, allowed: Tensor, valid: Tensor | None) -> float:
    """Mean Spearman correlation along the allowed keys of every query; nan without a query."""
    rankdata = require("scipy.stats", extra="convert").rankdata
    batch, heads, time, _ = dots.shape
    keep = allowed.expand(batch, 1, time, time)
    chosen = keep.sum(-1) >= MIN_RANKED_KEYS
    if valid is not None:
        chosen = chosen & valid[:, None]
    keep, chosen = keep.expand(-1, heads, -1, -1), chosen.expand(-1, heads, -1)
    seen = keep[chosen].cpu().numpy()
    centred = []
    for values in (dots, weights):
        row = values.detach().double()[chosen].cpu().numpy()
        ranks = rankdata(np.where(seen, row, np.inf), axis=-1)  # the keys left out rank last
        mean = (ranks * seen).sum(-1, keepdims=True) / seen.sum(-1, keepdims=True)
        centred.append((ranks - mean) * seen)
    x, y = centred
    spread_x, spread_y = (x**2).sum(-1), (y**2).sum(-1)
    product = (x * y).sum(-1)
    scale = np.sqrt(spread_x * spread_y)
    correlation = np.divide(product, scale, out=np.zeros_like(product), where=scale > 0)
    counts = spread_x > 0
    head = np.broadcast_to(np.arange(heads)[None, :, None], (batch, heads, time))
    head = head[chosen.cpu().numpy()][counts]
    if not len(head):
        return float("nan")
    sums = np.bincount(head, correlation[counts], minlength=heads)
    number = np.bincount(head, minlength=heads)
    return float((sums[number > 0] / number[number > 0]).mean())
