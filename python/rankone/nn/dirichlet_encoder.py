"""Stick-breaking encoder of spectra: pixels of a few bands to weights that sum to at most one.

v_j = u_j^(1/β) are draws of a Kumaraswamy(β, 1) by its inverse, s_j = v_j Π_{i<j} (1 - v_i) breaks
a stick of length one at them. A product of a few dozen factors in float32 underflows and loses its
gradient, so the encoder works with logarithms. Its layers have no activation between them: their
composition is one affine map, formed on the weights and applied once to every pixel.

"Unsupervised and Unregistered Hyperspectral Image Super-Resolution with Mutual Dirichlet-Net",
arXiv 1904.12175.
"""

from __future__ import annotations

from typing import overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from rankone._arguments import check_size
from rankone.ops.checks import check_floating, check_tensor

MIN_BETA = 1e-6
# log(1 - v) is taken at v = exp(-1e-7) at most: the float32 nearest below one is 1 - 6e-8.
MAX_LOG_V = -1e-7


@overload
def stick_breaking(v: Tensor) -> Tensor: ...
@overload
def stick_breaking(v: ArrayLike) -> NDArray[np.float64]: ...
def stick_breaking(v):
    """Lengths of the pieces broken off a stick of length one.

    s_j = v_j Π_{i<j} (1 - v_i). What is left of the stick, Π (1 - v_j), is dropped, so that the
    pieces sum to at most one.

    Args:
        v: (..., k) shares in [0, 1], each of what is left of the stick; a tensor or an array.

    Returns:
        (..., k) lengths, a tensor for a tensor and a float64 array for anything else.

    Raises:
        TypeError: for a tensor that is not of floating point numbers.
        ValueError: for ``v`` without dimensions.

    Example:
        >>> import torch
        >>> from rankone.imaging import stick_breaking
        >>> stick_breaking(torch.tensor([1 / 2, 1 / 3, 1 / 4]))
        tensor([0.5000, 0.1667, 0.0833])
    """
    if not isinstance(v, Tensor):
        return stick_breaking(torch.as_tensor(np.asarray(v, dtype=np.float64))).numpy()
    if not v.is_floating_point():
        raise TypeError(f"v must hold floating point numbers, got {v.dtype}")
    if v.ndim == 0:
        raise ValueError("v must have at least one dimension, got none")
    left = torch.cumprod(1 - v, dim=-1)
    return v * torch.cat([torch.ones_like(v[..., :1]), left[..., :-1]], dim=-1)


def log_stick_breaking(log_v: Tensor) -> Tensor:
    """:func:`stick_breaking` in logarithms: log s from log v.

    Args:
        log_v: (..., k), at most 0.

    Returns:
        (..., k) log s_j = log v_j + Σ_{i<j} log(1 - v_i).

    Example:
        >>> import torch
        >>> from rankone.nn.dirichlet_encoder import log_stick_breaking
        >>> log_stick_breaking(torch.tensor([1 / 2, 1 / 3, 1 / 4]).log()).exp()
        tensor([0.5000, 0.1667, 0.0833])
    """
    log_rest = torch.log(-torch.expm1(log_v.clamp(max=MAX_LOG_V)))
    before = F.pad(torch.cumsum(log_rest[..., :-1], dim=-1), (1, 0))
    return log_v + before


class DirichletEncoder(nn.Module):
    """Pixels of ``in_features`` bands to ``n_bases`` non-negative weights with sum at most one.

    Five linear layers of widths c, c+1, ..., c+4, each concatenated with its input, give the logits
    of u; a branch of two more from the second gives one positive β a pixel; the weights are broken
    off a stick at v_j = u_j^(1/β). There is no activation inside. Weights start Glorot uniform,
    biases at zero.

    Args:
        in_features: bands l of the input.
        n_bases: weights k.
        width: width c of the first layer.

    Raises:
        ValueError: for an argument below 1.

    References:
        "Unsupervised and Unregistered Hyperspectral Image Super-Resolution with Mutual
        Dirichlet-Net", arXiv 1904.12175.

    Example:
        >>> import torch
        >>> from rankone.nn import DirichletEncoder
        >>> weights = DirichletEncoder(4, 12, 4)(torch.randn(8, 8, 4))
        >>> weights.shape, bool((weights.sum(-1) <= 1 + 1e-6).all())
        (torch.Size([8, 8, 12]), True)
    """

    def __init__(self, in_features: int, n_bases: int, width: int) -> None:
        super().__init__()
        for name, value in (("in_features", in_features), ("n_bases", n_bases), ("width", width)):
            check_size(name, value)
        self.in_features, self.n_bases, self.width = in_features, n_bases, width
        features = in_features
        trunk = []
        for extra in range(5):
            trunk.append(nn.Linear(features, width + extra))
            features += width + extra
            if extra == 1:
                shared = features
        self.trunk = nn.ModuleList(trunk)
        self.to_logits = nn.Linear(features, n_bases)
        branch = [nn.Linear(shared, width + 2), nn.Linear(shared + width + 2, width + 3)]
        self.branch = nn.ModuleList(branch)
        self.to_beta = nn.Linear(shared + 2 * width + 5, 1)
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the weights anew, Glorot uniform, and set the biases to zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight, generator=generator)
                nn.init.zeros_(module.bias)

    def affine_map(self) -> tuple[Tensor, Tensor]:
        """The layers composed: (in_features, k + 1) weight and (k + 1,) bias.

        The first k columns give the logits of u, the last the input of the softplus of β.
        """
        like = self.to_beta.weight
        unit_vectors = torch.eye(self.in_features, dtype=like.dtype, device=like.device)
        # Rows are the images of the unit vectors without biases, the last that of zero with them.
        rows = F.pad(unit_vectors, (0, 0, 0, 1))
        carries_bias = F.pad(rows.new_zeros(self.in_features, 1), (0, 0, 0, 1), value=1.0)

        def through(layer: nn.Module, rows: Tensor) -> Tensor:
            assert isinstance(layer, nn.Linear)
            return F.linear(rows, layer.weight) + carries_bias * layer.bias

        for depth, layer in enumerate(self.trunk):
            rows = torch.cat([through(layer, rows), rows], dim=1)
            if depth == 1:
                shared = rows
        for layer in self.branch:
            shared = torch.cat([through(layer, shared), shared], dim=1)
        joined = torch.cat([through(self.to_logits, rows), through(self.to_beta, shared)], dim=1)
        return joined[:-1], joined[-1]

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) pixels to (..., n_bases) weights.

        Raises:
            ValueError: if the last dimension of ``x`` is not ``in_features``.
        """
        check_tensor("x", x)
        check_floating("x", x)
        if x.ndim == 0 or x.shape[-1] != self.in_features:
            raise ValueError(f"x must have shape (..., {self.in_features}), got {tuple(x.shape)}")
        weight, bias = self.affine_map()
        joined = x @ weight + bias
        beta = F.softplus(joined[..., -1:]).clamp_min(MIN_BETA)
        return log_stick_breaking(F.logsigmoid(joined[..., :-1]) / beta).exp()
