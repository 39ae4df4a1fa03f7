"""Linearised relative position encoding, and the shell of the attention layers that use it.

    LRPE(x)_t = Rot(t theta) (I - 2 u u^T) x_t

is a rotation after a fixed reflection, so <LRPE(q)_t, LRPE(k)_s> depends on t - s alone while each
token is encoded by itself: linear attention stays linear. :class:`LRPEAttention` holds what
NormAttention and DiagAttention share: projections, argument checks, the norm of the merged heads.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rankone._arguments import check_integer, check_size
from rankone.nn.mixer import check_sequence, check_token
from rankone.nn.norms import make_norm
from rankone.ops.checks import (
    autocast_dtype,
    check_cu_seqlens_values,
    check_shape,
    check_tensor,
)

OUTPUT_NORMS = ("srmsnorm", "rmsnorm", "layernorm", "none")


class LRPE(nn.Module):
    """Linearised relative position encoding of every head: a reflection, then a rotation.

    Channels are paired as (2 i, 2 i + 1); pair i turns by position * theta_i, and theta_i starts
    at base^(-2 i / head_dim). Of an odd number of channels the last is not turned. Queries and
    keys must pass through the same module.

    ``theta`` and ``u`` stay float32 when the module is converted to half precision, whose angles
    would be off by radians after a thousand tokens.

    Args:
        head_dim: width of a head.
        base: of the initial angles.
        learn_theta: whether ``theta`` is a parameter; a buffer otherwise.
        householder: whether to reflect at all.
        seed: of the random unit vector ``u``; None draws from torch's global generator.
        device, dtype: of the parameters; torch's defaults where None.

    Attributes:
        theta: (head_dim // 2,) radians a position.
        u: (head_dim,) unit vector of the reflection, saved with the weights; None without it.

    Raises:
        ValueError: for a head_dim below 1, a base that is not positive, or an input or positions
            of the wrong shape.

    Source: "The Devil in Linear Transformer", arXiv 2210.10340.

    Example:
        >>> import torch
        >>> from rankone.nn.lrpe import LRPE
        >>> x = torch.randn(2, 10, 4, 8)
        >>> y = LRPE(8, seed=0)(x)
        >>> torch.allclose(y.norm(dim=-1), x.norm(dim=-1), atol=1e-5)
        True
    """

    theta: Tensor
    u: Tensor | None

    def __init__(
        self,
        head_dim: int,
        *,
        base: float = 10000.0,
        learn_theta: bool = True,
        householder: bool = True,
        seed: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_size("head_dim", head_dim)
        if not 0 < base < math.inf:
            raise ValueError(f"base must be positive and finite, got {base}")
        self.head_dim = head_dim
        self.base = base
        dtype = torch.promote_types(
            torch.get_default_dtype() if dtype is None else dtype, torch.float32
        )
        pair = torch.arange(head_dim // 2, dtype=torch.float64)
        theta = (base ** (-2 * pair / head_dim)).to(device=device, dtype=dtype)
        if learn_theta:
            self.theta = nn.Parameter(theta)
        else:
            self.register_buffer("theta", theta)
        u = None
        if householder:
            generator = None if seed is None else torch.Generator().manual_seed(seed)
            u = torch.randn(head_dim, generator=generator, dtype=torch.float64)
            u = F.normalize(u, dim=0).to(device=device, dtype=dtype)
        self.register_buffer("u", u)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LRPE:
        def convert(tensor: Tensor) -> Tensor:
            converted = fn(tensor)
            if converted.is_floating_point() and converted.itemsize < 4:
                # Back from the tensor, not from its rounded copy.
                return tensor.to(converted.device)
            return converted

        super()._apply(convert, recurse)
        return self

    def forward(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        """Encode the tokens of every head.

        Args:
            x: (..., time, heads, head_dim).
            positions: (time,) or (..., time), integer; default 0, 1, 2, ...

        Returns:
            The shape and dtype of ``x``.
        """
        check_tensor("x", x)
        if x.ndim < 3 or x.shape[-1] != self.head_dim:
            raise ValueError(
                f"x must have shape (..., time, heads, {self.head_dim}), got {tuple(x.shape)}"
            )
        if positions is None:
            positions = torch.arange(x.shape[-3], device=x.device)
        elif positions.ndim == 0 or positions.shape not in (x.shape[-3:-2], x.shape[:-2]):
            raise ValueError(
                f"positions must have shape {tuple(x.shape[-3:-2])} or {tuple(x.shape[:-2])}, "
                f"got {tuple(positions.shape)}"
            )
        wide = x.to(torch.promote_types(x.dtype, self.theta.dtype))
        if self.u is not None:
            # A sum of products rather than a matrix product, which autocast would round.
            wide = wide - 2 * (wide * self.u).sum(-1, keepdim=True) * self.u
        angle = (positions[..., None] * self.theta)[..., None, :]
        cos, sin = angle.cos(), angle.sin()
        pairs = self.head_dim // 2
        even, odd = wide[..., 0 : 2 * pairs : 2], wide[..., 1 : 2 * pairs : 2]
        turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)
        if self.head_dim % 2:
            turned = torch.cat([turned, wide[..., -1:]], dim=-1)
        return turned.to(x.dtype)

    def extra_repr(self) -> str:
        learn_theta = isinstance(self.theta, nn.Parameter)
        return (
            f"{self.head_dim}, base={self.base}, learn_theta={learn_theta}, "
            f"householder={self.u is not None}"
        )


class LRPEAttention(nn.Module):
    """What NormAttention and DiagAttention share; not a layer by itself.

    Args:
        dim: width of the input and the output.
        num_heads: heads, a divisor of ``dim``.
        causal: whether a token sees its past alone.
        norm: of the merged heads: ``"srmsnorm"``, ``"rmsnorm"``, ``"layernorm"`` or ``"none"``.
        lrpe: whether queries and keys are position-encoded.
        bias: whether the projections have biases.
        dropout: share of the output that is dropped in training.
        qkv_gain: of the Xavier-uniform initial weights of queries, keys and values.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        causal: bool,
        norm: str,
        lrpe: bool,
        bias: bool,
        dropout: float,
        qkv_gain: float,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        for name, value in (("dim", dim), ("num_heads", num_heads)):
            check_integer(name, value)
        if dim < 1 or num_heads < 1:
            raise ValueError(f"dim and num_heads must be at least 1, got {dim} and {num_heads}")
        if dim % num_heads:
            raise ValueError(f"dim must be a multiple of num_heads, got {dim} and {num_heads}")
        if norm not in OUTPUT_NORMS:
            raise ValueError(f"norm must be one of {list(OUTPUT_NORMS)}, got {norm!r}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        self.dim = dim
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.causal = causal
        self.dropout = dropout
        self.qkv_gain = qkv_gain

        def linear() -> nn.Linear:
            return nn.Linear(dim, dim, bias, device=device, dtype=dtype)

        self.q_proj = linear()
        self.k_proj = linear()
        self.v_proj = linear()
        self.lrpe = LRPE(self.head_dim, device=device, dtype=dtype) if lrpe else None
        self.norm = None if norm == "none" else make_norm(norm, dim, device=device, dtype=dtype)
        self.out_proj = linear()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights of the projections anew: Xavier-uniform, the output's bias 0."""
        for projection in (self.q_proj, self.k_proj, self.v_proj):
            projection.reset_parameters()
            nn.init.xavier_uniform_(projection.weight, self.qkv_gain)
        nn.init.xavier_uniform_(self.out_proj.weight)
        if self.out_proj.bias is not None:
            nn.init.zeros_(self.out_proj.bias)

    def _check_call(
        self,
        x: Tensor,
        key_padding_mask: Tensor | None,
        attention_mask: Tensor | None,
        cu_seqlens: Tensor | None,
        state: object,
        return_state: bool,
    ) -> tuple[Tensor | None, int]:
        """Booleans that are True on tokens, or None for no padding; and the sequences' number."""
        attention_mask = merge_padding_masks(key_padding_mask, attention_mask, cu_seqlens, x)
        mask, sequences = check_sequence(x, self.dim, attention_mask, cu_seqlens)
        if cu_seqlens is not None:
            check_cu_seqlens_values(cu_seqlens, x.shape[1])
        if not self.causal and (return_state or state is not None):
            name = "return_state" if return_state else "state"
            raise ValueError(f"{name} cannot be combined with causal=False: it has no past to keep")
        return mask, sequences

    def _check_step(self, x: Tensor) -> None:
        if not self.causal:
            raise ValueError("step needs causal=True, got a layer with causal=False")
        check_token(x, self.dim)

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, (..., heads, head_dim)."""
        heads = (self.num_heads, self.head_dim)
        q, k, v = (
            projection(x).unflatten(-1, heads)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        return q, k, v

    def _encode(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        return x if self.lrpe is None else self.lrpe(x, positions)

    def _output(self, y: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Norm and projection of merged heads (..., dim), 0 at padding."""
        if self.norm is not None:
            y = self.norm(y)
        if autocast_dtype(x) is None:
            y = y.to(x.dtype)
        y = F.dropout(self.out_proj(y), self.dropout, self.training)
        return y if mask is None else y.masked_fill(~mask[..., None], 0)

    def extra_repr(self) -> str:
        return f"{self.dim}, {self.num_heads}, causal={self.causal}, dropout={self.dropout}"


def merge_padding_masks(
    key_padding_mask: Tensor | None,
    attention_mask: Tensor | None,
    cu_seqlens: Tensor | None,
    x: Tensor,
) -> Tensor | None:
    """One mask that is True on tokens, from either of the two that a caller may give.

    Args:
        key_padding_mask: (batch, time) boolean, True on padding, as torch.nn.MultiheadAttention.
        attention_mask: (batch, time), 1 on tokens, as :class:`rankone.nn.Mixer`.
        cu_seqlens: excludes both.
        x: (batch, time, ...), what is masked.
    """
    if key_padding_mask is None:
        return attention_mask
    if attention_mask is not None:
        raise ValueError("key_padding_mask must be None when attention_mask is given")
    if cu_seqlens is not None:
        raise ValueError(
            "key_padding_mask must be None when cu_seqlens is given: packed input has no padding"
        )
    check_tensor("x", x)
    check_shape("key_padding_mask", key_padding_mask, x.shape[:2], "batch, time")
    if key_padding_mask.dtype != torch.bool:
        raise TypeError(
            f"key_padding_mask must be boolean, True on padding, got {key_padding_mask.dtype}"
        )
    return ~key_padding_mask
