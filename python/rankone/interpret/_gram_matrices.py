"""Gram matrices of activations and of Jacobians, which an interaction basis is made from.

Jacobians are squared data point by data point and summed batch by batch in float64, so that never
more than one output coordinate of one batch is held.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rankone.interpret._gradients import as_data, integer, output_gradients, rows, run_named

# From an output (b, t, m) to random signs (sources, b, t).
Probes = Callable[[Tensor], Tensor]


def activation_gram(h: Any, center: bool = False) -> Tensor:
    """Mean outer product of activations.

    Args:
        h: (n, d) or (n, t, d); positions count as data points.
        center: take off the mean first, which makes it the covariance (divided by n).

    Returns:
        G (d, d), float64.

    Raises:
        ValueError: for activations that are not 2-D or 3-D, empty or not finite.

    Example:
        >>> import torch
        >>> from rankone.interpret.interaction_basis import activation_gram
        >>> activation_gram(torch.tensor([[1.0, 0.0], [3.0, 0.0]]))
        tensor([[5., 0.],
                [0., 0.]], dtype=torch.float64)
    """
    f = rows(as_data("h", h))
    if center:
        f = f - f.mean(dim=0)
    return f.T @ f / len(f)


def jacobian_gram(
    fn: Callable[[Tensor], Tensor], h: Any, C_out: Any = None, batch_size: int = 256
) -> Tensor:
    """Mean of ``J^T J`` over data points, J the Jacobian of all outputs of ``fn``.

    Args:
        fn: from (n, d) to (n, m), or (n, t, d) to (n, t', m) or (n, m), every row on its own.
        h: (n, d) or (n, t, d), floating, the inputs of fn; fn runs in their dtype.
        C_out: (m, k); the target is then ``fn(h) @ C_out``.
        batch_size: rows differentiated at once.

    Returns:
        K (d, d), float64: for sequences the sum over all output positions, per input position.

    Raises:
        ValueError: for inputs that are not 2-D or 3-D or not finite, a C_out of another number of
            rows, and an output of another shape or without a gradient.
        TypeError: for an fn that is not callable or does not run in the dtype of h.

    Example:
        >>> import torch
        >>> from rankone.interpret.interaction_basis import jacobian_gram
        >>> W = torch.tensor([[2.0, 0.0]], dtype=torch.float64)
        >>> jacobian_gram(lambda f: f @ W.T, torch.randn(5, 2, dtype=torch.float64))
        tensor([[4., 0.],
                [0., 0.]], dtype=torch.float64)
    """
    if not callable(fn):
        raise TypeError(f"fn must be callable, got {type(fn).__name__}")
    floating = isinstance(h, Tensor) and h.is_floating_point()
    f = as_data("h", h, dtype=h.dtype if floating else torch.float64)
    batch_size = integer("batch_size", batch_size, 1)
    projection = None
    if C_out is not None:
        projection = as_data("C_out", C_out, dtype=f.dtype, device=f.device, dims=(2,))
    return mean_jacobian_gram(fn, f, projection, batch_size, None)


def mean_jacobian_gram(
    fn: Callable[[Tensor], Tensor],
    f: Tensor,
    C_out: Tensor | None,
    batch_size: int,
    probes: Probes | None,
) -> Tensor:
    """:func:`jacobian_gram` of checked arguments, with random signs over positions if asked."""
    total = f.new_zeros((f.shape[-1], f.shape[-1]), dtype=torch.float64)
    for batch in f.split(batch_size):
        with torch.enable_grad():
            node = batch.detach().requires_grad_()
            output = run_named(fn, "fn", node)
            if C_out is not None:
                if C_out.shape[0] != output.shape[-1]:
                    raise ValueError(
                        f"C_out must have {output.shape[-1]} rows, the width of the output of fn, "
                        f"got {C_out.shape[0]}"
                    )
                output = output @ C_out
        total += gram_sums(output, [node], probes)[0]
    return total / math.prod(f.shape[:-1])


def gram_sums(output: Tensor, nodes: Sequence[Tensor], probes: Probes | None) -> list[Tensor]:
    """Sums of ``J^T J`` over one batch, a matrix a node; a mean over sources with probes."""
    signs = None if probes is None else probes(output)
    sums = [n.new_zeros((n.shape[-1], n.shape[-1]), dtype=torch.float64) for n in nodes]
    for gradients in output_gradients(output, nodes, signs):
        for total, gradient in zip(sums, gradients, strict=True):
            g = rows(gradient)
            total.addmm_(g.T, g)
    return sums if signs is None else [total / len(signs) for total in sums]
