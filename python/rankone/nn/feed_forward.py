"""Feed-forward blocks: down(activation(gate(x)) * up(x)), and their choice by name."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rankone._arguments import check_integer, check_size
from rankone.nn.activations import activation_function
from rankone.nn.pattention import Pattention
from rankone.ops.checks import check_floating, check_tensor


def rounded_width(dim: int, ratio: int = 4) -> int:
    """2 / 3 * ratio * dim rounded up to a multiple of 256, or of 8 where dim is below 256."""
    check_integer("dim", dim)
    multiple = 256 if dim >= 256 else 8
    return -(-2 * ratio * dim // (3 * multiple)) * multiple


class GLU(nn.Module):
    """Gated linear unit: down_proj(activation(gate_proj(x)) * up_proj(x)).

    ``activation="identity"`` is the plain multiplicative unit ("bilinear" in the paper below, the
    SGLU of TransNormerLLM), ``"sigmoid"`` the original GLU, ``"silu"`` SwiGLU, ``"gelu"`` GEGLU.

    Args:
        dim: width of the input and the output.
        hidden: inner width; default int(8 / 3 * dim), which has as many weights as an ungated
            block of inner width 4 * dim.
        activation: name of the activation on the gate.
        bias: whether the three projections have biases.
        device, dtype: of the parameters; torch's defaults where None.

    Shapes:
        (..., dim) to (..., dim).

    Raises:
        ValueError: for an unknown activation or an inner width below 1.

    Source: "GLU Variants Improve Transformer", arXiv 2002.05202.

    Example:
        >>> import torch
        >>> from rankone.nn import GLU
        >>> GLU(8, activation="identity")(torch.zeros(2, 3, 8)).shape
        torch.Size([2, 3, 8])
    """

    def __init__(
        self,
        dim: int,
        hidden: int | None = None,
        *,
        activation: str = "silu",
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_size("dim", dim)
        hidden = int(8 / 3 * dim) if hidden is None else hidden
        check_size("hidden", hidden)
        self.activation = activation
        self._activation = activation_function("activation", activation)
        self.gate_proj = nn.Linear(dim, hidden, bias, device=device, dtype=dtype)
        self.up_proj = nn.Linear(dim, hidden, bias, device=device, dtype=dtype)
        self.down_proj = nn.Linear(hidden, dim, bias, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) to (..., dim)."""
        check_tensor("x", x)
        check_floating("x", x)
        return self.down_proj(self._activation(self.gate_proj(x)) * self.up_proj(x))

    def extra_repr(self) -> str:
        return f"activation={self.activation!r}"


class SwiGLU(GLU):
    """SwiGLU as language models use it: silu gate, no biases, a rounded inner width.

    Args:
        dim: width of the input and the output.
        hidden: inner width; default 8 / 3 * dim rounded up to a multiple of 256, or of 8 where
            dim is below 256.
        device, dtype: of the parameters; torch's defaults where None.

    Source: arXiv 2002.05202.

    Example:
        >>> from rankone.nn import SwiGLU
        >>> SwiGLU(96).up_proj.out_features
        256
    """

    def __init__(
        self,
        dim: int,
        hidden: int | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        hidden = rounded_width(dim) if hidden is None else hidden
        super().__init__(dim, hidden, activation="silu", bias=False, device=device, dtype=dtype)


# The gate activations of arXiv 2002.05202 by the names given there.
FEED_FORWARDS = {
    "swiglu": "silu",
    "geglu": "gelu",
    "reglu": "relu",
    "glu": "sigmoid",
    "bilinear": "identity",
}


def make_feed_forward(
    name: str,
    dim: int,
    hidden: int | None = None,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **options: Any,
) -> nn.Module:
    """The bias-free feed-forward block called ``name``.

    Args:
        name: ``"swiglu"``, ``"geglu"``, ``"reglu"``, ``"glu"`` (sigmoid gate), ``"bilinear"``
            (no activation), or ``"pattention"``.
        dim: width of the input and the output.
        hidden: inner width, by default that of :class:`SwiGLU`; or number of tokens, by default
            4 * dim.
        options: further options of :class:`GLU` or :class:`rankone.nn.Pattention`.
        device, dtype: of the parameters; torch's defaults where None.

    Returns:
        A module from (..., dim) to (..., dim).

    Raises:
        ValueError: for an unknown name.

    Example:
        >>> from rankone.nn import make_feed_forward
        >>> make_feed_forward("bilinear", 96).activation
        'identity'
    """
    if name == "pattention":
        tokens = 4 * dim if hidden is None else hidden
        return Pattention(dim, dim, tokens, device=device, dtype=dtype, **options)
    if name not in FEED_FORWARDS:
        names = sorted([*FEED_FORWARDS, "pattention"])
        raise ValueError(f"feed_forward must be one of {names}, got {name!r}")
    return GLU(
        dim,
        rounded_width(dim) if hidden is None else hidden,
        activation=FEED_FORWARDS[name],
        device=device,
        dtype=dtype,
        **{"bias": False, **options},
    )
