"""Feature maps phi of linear attention, whose weights are phi(q) . phi(k), normalised over keys.

    hedgehog    [softmax(y), softmax(-y)], y = x W + b learned, one W a head
    relu        relu(x W + b) + 1e-6, learned likewise (T2R)
    elu1        1 + elu(x)
    performer   exp(w_i . x' - |x'|^2 / 2) / sqrt(m), x' = x / d^(1/4), w_i Gaussian, orthogonal
    taylor      [1, x', vec(x' x'^T) / sqrt(2)], of product 1 + s + s^2 / 2, s = q . k / sqrt(d)

All map (..., heads, d) to (..., heads, ``num_features``) without negative weights, in float32
(float64 for float64 inputs) also under autocast: a feature that underflows in half precision is a
key that is never found. :func:`feature_map` builds one by its name. Sources: "The Hedgehog & the
Porcupine", arXiv 2402.04347; T2R arXiv 2103.13076; elu arXiv 2006.16236; Performer arXiv
2009.14794; Taylor arXiv 2402.18668.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rankone._arguments import check_integer, check_size
from rankone.ops.checks import check_tensor

ACTIVATIONS = ("softmax", "exp", "softmax_joint")
INITS = ("identity", "normal")

# exp(20)^2 times a long text stays far below the largest float32.
EXP_LIMIT = 20.0

# Keeps the normaliser of a ReLU map, all of whose features may be off, above 0.
RELU_FLOOR = 1e-6


class FeatureMap(nn.Module):
    """Base of the maps: checks the width, computes in float32 or float64 outside of autocast.

    Attributes:
        head_dim: width of an input head.
        num_features: width of an output head.
    """

    num_features: int

    def __init__(self, head_dim: int, num_heads: int | None = None) -> None:
        super().__init__()
        check_size("head_dim", head_dim)
        if num_heads is not None:
            check_integer("num_heads", num_heads)
            if num_heads < 1:
                raise ValueError(f"num_heads must be at least 1 or None, got {num_heads}")
        self.head_dim = head_dim
        self.num_heads = num_heads

    def forward(self, x: Tensor) -> Tensor:
        """Features of every head.

        Args:
            x: (..., heads, head_dim) floating point.

        Returns:
            (..., heads, num_features), float32, or float64 for float64 ``x``.

        Raises:
            ValueError: for another width or number of heads.
            TypeError: for an ``x`` that is not floating point.
        """
        check_tensor("x", x)
        if not x.is_floating_point():
            raise TypeError(f"x must be floating point, got {x.dtype}")
        heads = "heads" if self.num_heads is None else self.num_heads
        wrong_heads = self.num_heads is not None and x.ndim > 1 and x.shape[-2] != self.num_heads
        if x.ndim < 2 or x.shape[-1] != self.head_dim or wrong_heads:
            raise ValueError(
                f"x must have shape (..., {heads}, {self.head_dim}), got shape {tuple(x.shape)}"
            )
        with torch.autocast(x.device.type, enabled=False):
            return self.features(x.to(torch.promote_types(x.dtype, torch.float32)))

    def features(self, x: Tensor) -> Tensor:
        """The map of checked float32 or float64 heads."""
        raise TypeError(f"{type(self).__name__} must define features")

    def extra_repr(self) -> str:
        return f"{self.head_dim}, num_heads={self.num_heads}, num_features={self.num_features}"


class _AffineFeatureMap(FeatureMap):
    """Maps of y = x W + b with one W (d, f) a head, or one for all."""

    bias: nn.Parameter | None

    def __init__(
        self,
        head_dim: int,
        num_heads: int | None = None,
        *,
        feature_dim: int | None = None,
        bias: bool = True,
        init: str = "identity",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(head_dim, num_heads)
        feature_dim = head_dim if feature_dim is None else feature_dim
        check_size("feature_dim", feature_dim)
        if init not in INITS:
            raise ValueError(f"init must be one of {list(INITS)}, got {init!r}")
        if init == "identity" and feature_dim != head_dim:
            raise ValueError(
                "feature_dim must equal head_dim for init 'identity', "
                f"got {feature_dim} and {head_dim}"
            )
        self.feature_dim = feature_dim
        self.init = init
        heads = 1 if num_heads is None else num_heads
        placement: dict[str, Any] = {"device": device, "dtype": dtype}
        self.weight = nn.Parameter(torch.empty(heads, head_dim, feature_dim, **placement))
        if bias:
            self.bias = nn.Parameter(torch.empty(heads, feature_dim, **placement))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """W = I or N(0, 1 / d), b = 0."""
        if self.init == "identity":
            self.weight.copy_(torch.eye(self.head_dim, device=self.weight.device))
        else:
            self.weight.normal_(std=self.head_dim**-0.5)
        if self.bias is not None:
            self.bias.zero_()

    def affine(self, x: Tensor) -> Tensor:
        """y = x W + b, (..., heads, feature_dim)."""
        weight = self.weight.to(x.dtype)
        if weight.shape[0] == 1:
            y = x @ weight[0]
        else:
            y = torch.einsum("...hd,hdf->...hf", x, weight)
        return y if self.bias is None else y + self.bias.to(x.dtype)


class HedgehogFeatureMap(_AffineFeatureMap):
    """Learned, spiky and monotone features: the map that mimics softmax attention.

    Args:
        head_dim: width d of a head.
        num_heads: heads, each with its own map; None shares one map among any number of heads.
        feature_dim: width f of y = (x W + b) / temperature; default ``head_dim``.
        activation: ``"softmax"``: [softmax(y), softmax(-y)], each over f features; ``"exp"``:
            [exp(y), exp(-y)] with y clamped to [-20, 20] (the clamp is rankone's own choice);
            ``"softmax_joint"``: one softmax over the 2 f entries [y, -y].
        bias: whether there is a b.
        init: ``"identity"`` (W = I) or ``"normal"`` (N(0, 1 / d)); b = 0.
        temperature: divides y.
        device, dtype: of the parameters; torch's defaults where None.

    Attributes:
        weight: (heads, d, f) parameter; heads is 1 for a shared map.
        bias: (heads, f) parameter, or None.
        num_features: 2 f.

    Raises:
        ValueError: for an unknown activation or init, sizes below 1, a temperature that is not
            positive, or identity init with feature_dim != head_dim.

    Source: "The Hedgehog & the Porcupine: Expressive Linear Attentions with Softmax Mimicry",
    arXiv 2402.04347.

    Example:
        >>> import torch
        >>> from rankone.nn.feature_maps import HedgehogFeatureMap
        >>> phi = HedgehogFeatureMap(8, num_heads=4)
        >>> phi(torch.randn(2, 10, 4, 8)).shape
        torch.Size([2, 10, 4, 16])
    """

    def __init__(
        self,
        head_dim: int,
        num_heads: int | None = None,
        *,
        feature_dim: int | None = None,
        activation: str = "softmax",
        bias: bool = True,
        init: str = "identity",
        temperature: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {list(ACTIVATIONS)}, got {activation!r}")
        if not (temperature > 0 and math.isfinite(temperature)):
            raise ValueError(f"temperature must be positive, got {temperature}")
        super().__init__(
            head_dim,
            num_heads,
            feature_dim=feature_dim,
            bias=bias,
            init=init,
            device=device,
            dtype=dtype,
        )
        self.activation = activation
        self.temperature = temperature
        self.num_features = 2 * self.feature_dim

    def features(self, x: Tensor) -> Tensor:
        y = self.affine(x) / self.temperature
        if self.activation == "exp":
            y = y.clamp(-EXP_LIMIT, EXP_LIMIT)
            return torch.cat([y.exp(), (-y).exp()], dim=-1)
        if self.activation == "softmax":
            return torch.cat([y.softmax(-1), (-y).softmax(-1)], dim=-1)
        return torch.cat([y, -y], dim=-1).softmax(-1)

    def extra_repr(self) -> str:
        return (
            f"{super().extra_repr()}, activation={self.activation!r}, "
            f"temperature={self.temperature}"
        )


class ReluFeatureMap(_AffineFeatureMap):
    """relu(x W + b) + 1e-6, learned: the map of T2R.

    Arguments and parameters as :class:`HedgehogFeatureMap`; ``num_features`` is f.

    Source: "Finetuning Pretrained Transformers into RNNs" (T2R), arXiv 2103.13076; W = I as the
    Hedgehog paper's comparison.

    Example:
        >>> import torch
        >>> from rankone.nn.feature_maps import ReluFeatureMap
        >>> ReluFeatureMap(4)(-torch.ones(1, 4)).max().item() < 2e-6
        True
    """

    def __init__(
        self,
        head_dim: int,
        num_heads: int | None = None,
        *,
        feature_dim: int | None = None,
        bias: bool = True,
        init: str = "identity",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            head_dim,
            num_heads,
            feature_dim=feature_dim,
            bias=bias,
            init=init,
            device=device,
            dtype=dtype,
        )
        self.num_features = self.feature_dim

    def features(self, x: Tensor) -> Tensor:
        return F.relu(self.affine(x)) + RELU_FLOOR


class EluFeatureMap(FeatureMap):
    """1 + elu(x), without parameters.

    Source: "Transformers are RNNs", arXiv 2006.16236.

    Example:
        >>> import torch
        >>> from rankone.nn.feature_maps import EluFeatureMap
        >>> EluFeatureMap(2)(torch.tensor([[0.0, 1.0]]))
        tensor([[1., 2.]])
    """

    def __init__(self, head_dim: int, num_heads: int | None = None) -> None:
        super().__init__(head_dim, num_heads)
        self.num_features = head_dim

    def features(self, x: Tensor) -> Tensor:
        return 1 + F.elu(x)


class PerformerFeatureMap(FeatureMap):
    """Positive random features, whose products have exp(q . k / sqrt(d)) as their mean.

    Args:
        head_dim: width d of a head.
        num_heads: heads; they share the random directions, as queries and keys must.
        num_features: m; default 4 ``head_dim``.
        random_state: seed of the directions, the same for the maps of queries and of keys.

    Attributes:
        projection: (m, d) buffer, Gaussian rows, orthogonal in blocks of d.

    Raises:
        ValueError: for ``num_features`` below 1.

    Source: "Rethinking Attention with Performers", arXiv 2009.14794.

    Example:
        >>> import torch
        >>> from rankone.nn.feature_maps import PerformerFeatureMap
        >>> phi, x = PerformerFeatureMap(4, num_features=4096), torch.full((1, 4), 0.5)
        >>> abs(float(phi(x) @ phi(x).T) - 1.6487) < 0.2  # exp(1 / sqrt(4))
        True
    """

    projection: Tensor

    def __init__(
        self,
        head_dim: int,
        num_heads: int | None = None,
        *,
        num_features: int | None = None,
        random_state: int = 0,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(head_dim, num_heads)
        num_features = 4 * head_dim if num_features is None else num_features
        check_size("num_features", num_features)
        self.num_features = num_features
        projection = _orthogonal_gaussian(num_features, head_dim, random_state)
        self.register_buffer("projection", projection.to(device))

    def features(self, x: Tensor) -> Tensor:
        x = x * self.head_dim**-0.25
        exponent = x @ self.projection.to(x.dtype).T - x.square().sum(-1, keepdim=True) / 2
        return exponent.exp() / math.sqrt(self.num_features)


def _orthogonal_gaussian(rows: int, columns: int, random_state: int) -> Tensor:
    """Rows as N(0, I), orthogonal to each other within blocks of ``columns``."""
    generator = torch.Generator().manual_seed(random_state)
    blocks = []
    for _ in range(-(-rows // columns)):
        gaussian = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
        orthogonal, triangle = torch.linalg.qr(gaussian)
        blocks.append((orthogonal * triangle.diagonal().sign()).T)
    lengths = torch.randn(rows, columns, generator=generator, dtype=torch.float64).norm(dim=1)
    return (torch.cat(blocks)[:rows] * lengths[:, None]).float()


class TaylorFeatureMap(FeatureMap):
    """Second-order Taylor features: phi(q) . phi(k) = 1 + s + s^2 / 2 with s = q . k / sqrt(d).

    The width is 1 + d + d^2.

    Source: "Simple linear attention language models balance the recall-throughput tradeoff",
    arXiv 2402.18668.

    Example:
        >>> import torch
        >>> from rankone.nn.feature_maps import TaylorFeatureMap
        >>> phi, x = TaylorFeatureMap(4), torch.ones(1, 4)
        >>> round(float(phi(x) @ phi(x).T), 4)
        5.0
    """

    def __init__(self, head_dim: int, num_heads: int | None = None) -> None:
        super().__init__(head_dim, num_heads)
        self.num_features = 1 + head_dim + head_dim**2

    def features(self, x: Tensor) -> Tensor:
        x = x * self.head_dim**-0.25
        square = (x[..., :, None] * x[..., None, :]).flatten(-2) / math.sqrt(2)
        return torch.cat([torch.ones_like(x[..., :1]), x, square], dim=-1)


FEATURE_MAPS: dict[str, type[FeatureMap]] = {
    "hedgehog": HedgehogFeatureMap,
    "elu1": EluFeatureMap,
    "relu": ReluFeatureMap,
    "performer": PerformerFeatureMap,
    "taylor": TaylorFeatureMap,
}


def feature_map(
    name: str, head_dim: int, num_heads: int | None = None, **options: Any
) -> FeatureMap:
    """A feature map by its name.

    Args:
        name: ``"hedgehog"``, ``"relu"``, ``"elu1"``, ``"performer"`` or ``"taylor"``.
        head_dim: width of a head.
        num_heads: number of heads with maps of their own; None for one map.
        **options: of the map's class; see there.

    Returns:
        The map.

    Raises:
        ValueError: for an unknown name, or options that the class refuses.
        TypeError: for options that the class does not have.

    Example:
        >>> from rankone.nn.feature_maps import feature_map
        >>> feature_map("taylor", 8).num_features
        73
    """
    if name not in FEATURE_MAPS:
        raise ValueError(f"feature map name must be one of {sorted(FEATURE_MAPS)}, got {name!r}")
    return FEATURE_MAPS[name](head_dim, num_heads, **options)
