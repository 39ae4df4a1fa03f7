"""pattention: attention of tokens over learned parameter tokens, in place of a linear map.

    A = x K^T;  S = score(A);  y = S V

Two GEMMs with a row-wise score between them. The backward pass keeps A and one number a row and
recomputes S from them, where a graph of single ops would keep A, the normalised A and S. Scores are
computed in float32 for 16-bit input. Source: TokenFormer, arXiv 2410.23168.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rankone._namespace import public_names
from rankone.ops.checks import (
    autocast_dtype,
    check_rank,
    check_same_device,
    check_same_dtype,
    check_tensor,
    shape_of,
)

__all__ = ["pattention"]

PATTENTION_NORMS = ("l2_gelu", "gelu_l2", "softmax")


def pattention(
    x: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    scale: float,
    norm: str = "l2_gelu",
    eps: float = 1e-6,
    dropout: float = 0.0,
) -> Tensor:
    """Attention over n parameter tokens: S V with S a score of A = x K^T (no 1/sqrt(d), no bias).

    - ``"l2_gelu"``: S = GeLU(scale * A / sqrt(sum(A^2) + eps)), the sum over the tokens;
    - ``"gelu_l2"``: S = scale * GeLU(A) / sqrt(sum(GeLU(A)^2) + eps);
    - ``"softmax"``: S = n * softmax(A); ``scale`` and ``eps`` have no part in it.

    GeLU is the exact form with erf. Zero rows give zeros in the first two. ``eps`` inside the root
    is this library's; the paper's code divides by the norm alone.

    Args:
        x: (..., in) floating point.
        keys: (n, in) key tokens, in the dtype of ``x``.
        values: (n, out) value tokens, in the dtype of ``x``.
        scale: the paper's tau, sqrt(n) for a layer of n tokens.
        norm: the score.
        eps: added inside the root, at least 0.
        dropout: share of the entries of S that are zeroed at random; the rest grows by
            1 / (1 - dropout).

    Returns:
        (..., out), in the dtype of ``x``; under autocast in autocast's.

    Raises:
        ValueError: for shapes that do not fit, no tokens, an unknown norm, or numbers out of range.
        TypeError: for tensors that are not of one floating dtype.

    Source: "TokenFormer: Rethinking Transformer Scaling with Tokenized Model Parameters",
    arXiv 2410.23168.

    Example:
        >>> import torch
        >>> from rankone.nn.functional import pattention
        >>> x, keys, values = torch.randn(2, 5, 8), torch.randn(16, 8), torch.randn(16, 4)
        >>> pattention(x, keys, values, scale=4.0).shape
        torch.Size([2, 5, 4])
    """
    check_norm(norm)
    check_score_numbers(scale, eps, dropout)
    _check_tensors(x, keys, values)
    autocast = autocast_dtype(x)
    if autocast is not None and x.dtype != torch.float64:
        x, keys, values = x.to(autocast), keys.to(autocast), values.to(autocast)
    rows = x.reshape(-1, x.shape[-1])
    kept = None
    if dropout > 0:
        shape = (rows.shape[0], keys.shape[0])
        kept = torch.rand(shape, device=x.device) >= dropout
    if torch.compiler.is_compiling():
        wide = _wide(rows @ keys.T)
        scores, _ = _scores(wide, _row_numbers(wide, norm, eps), norm, scale)
        y = _dropped(scores, kept, dropout).to(values.dtype) @ values
    else:
        y, _, _ = _Pattention.apply(rows, keys, values, kept, norm, scale, eps, dropout)
    return y.reshape(*x.shape[:-1], values.shape[1])


def check_norm(norm: str) -> None:
    if norm not in PATTENTION_NORMS:
        raise ValueError(f"norm must be one of {list(PATTENTION_NORMS)}, got {norm!r}")


def check_score_numbers(scale: float, eps: float, dropout: float) -> None:
    if not math.isfinite(scale):
        raise ValueError(f"scale must be finite, got {scale}")
    if not 0 <= eps < math.inf:
        raise ValueError(f"eps must be at least 0 and finite, got {eps}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be in [0, 1), got {dropout}")


def _check_tensors(x: Tensor, keys: Tensor, values: Tensor) -> None:
    check_tensor("x", x)
    check_rank("keys", keys, ("tokens", "in"))
    check_rank("values", values, ("tokens", "out"))
    check_same_dtype({"x": x, "keys": keys, "values": values})
    check_same_device({"x": x, "keys": keys, "values": values})
    if keys.shape[0] < 1:
        raise ValueError(f"keys must hold at least 1 token, got shape {shape_of(keys)}")
    if values.shape[0] != keys.shape[0]:
        raise ValueError(
            f"values must have as many tokens as keys, {keys.shape[0]}, got {values.shape[0]}"
        )
    if x.ndim < 1 or x.shape[-1] != keys.shape[1]:
        raise ValueError(
            f"x must have {keys.shape[1]} channels on its last axis, as the keys, "
            f"got shape {shape_of(x)}"
        )


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _inverse_norm(entries: Tensor, eps: float) -> Tensor:
    return torch.rsqrt(entries.square().sum(-1, keepdim=True) + eps)


def _row_numbers(wide: Tensor, norm: str, eps: float) -> Tensor:
    """What the score needs of every row of A: its inverse norm, or its log-sum-exp."""
    if norm == "softmax":
        return torch.logsumexp(wide, -1, keepdim=True)
    return _inverse_norm(wide if norm == "l2_gelu" else F.gelu(wide), eps)


def _scores(wide: Tensor, row: Tensor, norm: str, scale: float) -> tuple[Tensor, Tensor]:
    """S, and what its GeLU is applied to (for the softmax, S again)."""
    if norm == "softmax":
        scores = wide.shape[-1] * torch.exp(wide - row)
        return scores, scores
    if norm == "l2_gelu":
        normalised = wide * (scale * row)
        return F.gelu(normalised), normalised
    return F.gelu(wide) * (scale * row), wide


def _scores_backward(
    upstream: Tensor,
    scores: Tensor,
    inner: Tensor,
    wide: Tensor,
    row: Tensor,
    norm: str,
    scale: float,
) -> Tensor:
    """dA from dS; ``scores`` and ``inner`` are those of :func:`_scores`."""
    if norm == "softmax":
        mean = (upstream * scores).sum(-1, keepdim=True) / wide.shape[-1]
        return scores * (upstream - mean)
    # Of N = scale r A with r = (sum(A^2) + eps)^(-1/2): dA = scale r dN - r^2 sum(dN A) N.
    if norm == "l2_gelu":
        upstream = torch.ops.aten.gelu_backward(upstream, inner)
        along = row.square() * (upstream * wide).sum(-1, keepdim=True)
        return torch.addcmul((scale * row) * upstream, inner, along, value=-1)
    along = row.square() * (upstream * F.gelu(wide)).sum(-1, keepdim=True)
    upstream = torch.addcmul((scale * row) * upstream, scores, along, value=-1)
    return torch.ops.aten.gelu_backward(upstream, wide)


def _dropped(scores: Tensor, kept: Tensor | None, dropout: float) -> Tensor:
    return scores if kept is None else torch.where(kept, scores / (1 - dropout), 0)


class _Pattention(torch.autograd.Function):
    """(T, in), (n, in), (n, out) to (T, out), A (T, n) and one number a row (T, 1).

    The last two are outputs because that is how they can be kept for the backward pass under
    ``torch.func`` transforms as well; nothing is differentiated through them.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        keys: Tensor,
        values: Tensor,
        kept: Tensor | None,
        norm: str,
        scale: float,
        eps: float,
        dropout: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        products = x @ keys.T
        wide = _wide(products)
        row = _row_numbers(wide, norm, eps)
        scores, _ = _scores(wide, row, norm, scale)
        return _dropped(scores, kept, dropout).to(values.dtype) @ values, products, row

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, keys, values, kept, *ctx.options = inputs
        _, products, row = output
        ctx.mark_non_differentiable(products, row)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, keys, values, kept, products, row)

    @staticmethod
    def backward(ctx: Any, *upstreams: Tensor | None) -> tuple[Tensor | None, ...]:
        upstream = upstreams[0]
        if upstream is None:
            return (None,) * 8
        x, keys, values, kept, products, row = ctx.saved_tensors
        norm, scale, eps, dropout = ctx.options
        if torch.is_grad_enabled():
            # For derivatives of the derivatives A has to be a function of x and the keys again.
            products = x @ keys.T
            row = _row_numbers(_wide(products), norm, eps)
        wide = _wide(products)
        scores, inner = _scores(wide, row, norm, scale)
        dx = dkeys = dvalues = None
        if ctx.needs_input_grad[2]:
            dvalues = _dropped(scores, kept, dropout).to(values.dtype).T @ upstream
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
            dscores = _dropped(_wide(upstream @ values.T), kept, dropout)
            dproducts = _scores_backward(dscores, scores, inner, wide, row, norm, scale)
            dproducts = dproducts.to(products.dtype)
            dx = dproducts @ keys if ctx.needs_input_grad[0] else None
            dkeys = dproducts.T @ x if ctx.needs_input_grad[1] else None
        return dx, dkeys, dvalues, None, None, None, None, None


def __dir__() -> list[str]:
    return public_names(globals())
