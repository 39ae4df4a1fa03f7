"""TransNormer: block-diagonal attention in the early layers, normalised linear attention after.

    x += attention(SRMSNorm(x));  x += GLU(SRMSNorm(x))

:class:`TransNormer` is the stack, causal or bidirectional; :class:`TransNormerLM` is the same stack
as a configuration of :class:`rankone.nn.LanguageModel`. Two measures of the paper stand here too:
how local attention is, and the bound on the gradient that the norm gives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rankone._arguments import check_size
from rankone.nn.diag_attention import DiagAttention
from rankone.nn.feed_forward import GLU
from rankone.nn.language_model import Block, LanguageModel, LanguageModelConfig
from rankone.nn.lrpe import LRPEAttention, merge_padding_masks
from rankone.nn.mixer import MixerState, check_sequence, check_token
from rankone.nn.norm_attention import NormAttention
from rankone.nn.norms import SRMSNorm
from rankone.ops.checks import check_rank, check_tensor

# The two published configurations: kind of the early layers, activation of the later ones.
PRESETS = {
    "T1": {"kind": "relu", "activation": "elu"},
    "T2": {"kind": "softmax", "activation": "1+elu"},
}
ATTENTIONS = ("norm", "diag")


class TransNormerBlock(Block):
    """One pre-norm block: attention, then a gated linear unit, each after an SRMSNorm.

    Args:
        dim: width of the input and the output.
        num_heads: heads, a divisor of ``dim``.
        attention: ``"norm"`` for :class:`rankone.nn.NormAttention`, ``"diag"`` for
            :class:`rankone.nn.DiagAttention`.
        activation: of NormAttention's queries and keys.
        block_size: of DiagAttention.
        kind: of DiagAttention.
        causal: whether a token sees its past alone.
        norm: of the attention's merged heads.
        lrpe: whether queries and keys are position-encoded.
        bias: whether the linear maps have biases.
        hidden: inner width of the gated linear unit; default int(8 / 3 * dim).
        dropout: share of the outputs of the attention and of the unit dropped in training.
        device, dtype: of the parameters; torch's defaults where None.

    Raises:
        ValueError: for sizes that do not fit, or unknown options.

    Source: "The Devil in Linear Transformer", arXiv 2210.10340.

    Example:
        >>> import torch
        >>> from rankone.nn.transnormer import TransNormerBlock
        >>> TransNormerBlock(32, 4, attention="diag", block_size=8)(torch.zeros(2, 20, 32)).shape
        torch.Size([2, 20, 32])
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        attention: str = "norm",
        activation: str = "1+elu",
        block_size: int = 64,
        kind: str = "softmax",
        causal: bool = True,
        norm: str = "srmsnorm",
        lrpe: bool = True,
        bias: bool = True,
        hidden: int | None = None,
        dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if attention not in ATTENTIONS:
            raise ValueError(f"attention must be one of {list(ATTENTIONS)}, got {attention!r}")
        shared: dict[str, Any] = {
            "causal": causal, "norm": norm, "lrpe": lrpe, "bias": bias,
            "device": device, "dtype": dtype,
        }  # fmt: skip
        mixer: LRPEAttention
        if attention == "norm":
            mixer = NormAttention(dim, num_heads, activation=activation, **shared)
        else:
            mixer = DiagAttention(dim, num_heads, block_size=block_size, kind=kind, **shared)
        feed_forward = GLU(dim, hidden, bias=bias, device=device, dtype=dtype)
        super().__init__(SRMSNorm(dim), mixer, SRMSNorm(dim), feed_forward, dropout=dropout)

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        *,
        key_padding_mask: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        state: MixerState = None,
        return_state: bool = False,
        attention_mask: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, MixerState]:
        """Arguments and results as :meth:`rankone.nn.NormAttention.forward`.

        The output at padding is 0.
        """
        mask = merge_padding_masks(key_padding_mask, attention_mask, cu_seqlens, x)
        mask, _ = check_sequence(x, self.mixer.dim, mask, cu_seqlens)
        y, state, _ = super().forward(x, state, return_state, mask, cu_seqlens)
        if mask is not None:
            y = y.masked_fill(~mask[..., None], 0)
        return (y, state) if return_state else y

    def step(self, x: Tensor, state: MixerState = None) -> tuple[Tensor, MixerState]:
        """One token (batch, dim) after ``state``; gives the output and the new state."""
        check_token(x, self.mixer.dim)
        return super().step(x, state)

    def init_state(
        self,
        batch_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> MixerState:
        """The attention's state before the first token of ``batch_size`` sequences."""
        return self.mixer.init_state(batch_size, device=device, dtype=dtype)

    def attention_weights(self, x: Tensor) -> Tensor:
        """(batch, heads, time, time) weights of the block's attention; for analysis only."""
        return self.mixer.attention_weights(self.mixer_norm(x))


class TransNormer(nn.Module):
    """A stack of blocks, the early ones with DiagAttention, and a final SRMSNorm.

    Args:
        dim: width of the input and the output.
        num_layers: number of blocks.
        num_heads: heads, a divisor of ``dim``.
        preset: ``"T1"`` (rectified blocks, then elu) or ``"T2"`` (softmax blocks, then 1 + elu).
        block_size: of DiagAttention.
        num_diag_layers: how many of the layers, from the first, have DiagAttention; default
            num_layers // 2.
        causal: whether a token sees its past alone.
        dropout: share of the outputs of attention and gated linear unit dropped in training.
        device, dtype: of the parameters; torch's defaults where None.

    Raises:
        ValueError: for sizes that do not fit, or an unknown preset.

    Source: "The Devil in Linear Transformer", arXiv 2210.10340.

    Example:
        >>> import torch
        >>> from rankone.nn.transnormer import TransNormer
        >>> encoder = TransNormer(32, num_layers=4, num_heads=4, block_size=8, causal=False)
        >>> padding = torch.zeros(2, 20, dtype=torch.bool)
        >>> padding[0, 15:] = True
        >>> encoder(torch.randn(2, 20, 32), key_padding_mask=padding).shape
        torch.Size([2, 20, 32])
    """

    def __init__(
        self,
        dim: int,
        num_layers: int,
        num_heads: int,
        *,
        preset: str = "T2",
        block_size: int = 64,
        num_diag_layers: int | None = None,
        causal: bool = True,
        dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_diag_layers = _diag_layers(num_layers, num_diag_layers)
        self.dim = dim
        self.num_layers = num_layers
        self.preset = preset
        self.causal = causal
        options = _preset(preset)
        self.blocks = nn.ModuleList(
            TransNormerBlock(
                dim,
                num_heads,
                attention="diag" if layer < self.num_diag_layers else "norm",
                block_size=block_size,
                causal=causal,
                dropout=dropout,
                device=device,
                dtype=dtype,
                **options,
            )
            for layer in range(num_layers)
        )
        self.norm = SRMSNorm(dim)

    def forward(
        self,
        x: Tensor,
        *,
        key_padding_mask: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        state: Sequence[MixerState] | None = None,
        return_state: bool = False,
        attention_mask: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, tuple[MixerState, ...]]:
        """Arguments and results as :meth:`rankone.nn.NormAttention.forward`.

        The state has one entry a layer.
        """
        mask = merge_padding_masks(key_padding_mask, attention_mask, cu_seqlens, x)
        mask, _ = check_sequence(x, self.dim, mask, cu_seqlens)
        new_states = []
        for block, layer_state in zip(self.blocks, self._layer_states(state), strict=True):
            y = block(
                x,
                attention_mask=mask,
                cu_seqlens=cu_seqlens,
                state=layer_state,
                return_state=return_state,
            )
            x, layer_state = y if return_state else (y, None)
            new_states.append(layer_state)
        x = self.norm(x)
        return (x, tuple(new_states)) if return_state else x

    def step(
        self, x: Tensor, state: Sequence[MixerState] | None = None
    ) -> tuple[Tensor, tuple[MixerState, ...]]:
        """One token (batch, dim) after ``state``; gives the output and the new state."""
        new_states = []
        for block, layer_state in zip(self.blocks, self._layer_states(state), strict=True):
            x, layer_state = block.step(x, layer_state)  # type: ignore[operator]
            new_states.append(layer_state)
        return self.norm(x), tuple(new_states)

    def init_state(
        self,
        batch_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> tuple[MixerState, ...]:
        """The state before the first token of ``batch_size`` sequences, one entry a layer."""
        return tuple(
            block.init_state(batch_size, device=device, dtype=dtype)  # type: ignore[operator]
            for block in self.blocks
        )

    def attention_weights(self, x: Tensor) -> list[Tensor]:
        """(batch, heads, time, time) weights of every layer; for analysis only."""
        weights = []
        for block in self.blocks:
            weights.append(block.attention_weights(x))  # type: ignore[operator]
            x = block(x)
        return weights

    def _layer_states(self, state: Sequence[MixerState] | None) -> Sequence[MixerState]:
        if state is None:
            return (None,) * self.num_layers
        if isinstance(state, Tensor) or len(state) != self.num_layers:
            raise ValueError(
                f"state must have one entry a layer ({self.num_layers}), got "
                + ("a tensor" if isinstance(state, Tensor) else f"{len(state)} entries")
            )
        return state


class TransNormerLM(LanguageModel):
    """The language model of TransNormer blocks.

    Token embeddings are multiplied by sqrt(dim) and normalised; a final SRMSNorm stands before the
    head.

    Args:
        vocab_size: number of tokens.
        dim: width of the residual stream.
        num_layers: number of blocks.
        num_heads: heads, a divisor of ``dim``.
        preset: ``"T1"`` (rectified blocks, then elu) or ``"T2"`` (softmax blocks, then 1 + elu).
        tie_embeddings: whether the head is the embedding.
        embedding_norm: whether an SRMSNorm follows the embedding, as in both published
            configurations.
        block_size: of DiagAttention.
        num_diag_layers: how many of the layers, from the first, have DiagAttention; default
            num_layers // 2.
        dropout: share of the embedding and of the outputs of attention and gated linear unit
            dropped in training.
        activation_checkpointing: recompute every block in the backward pass instead of keeping
            its activations.
        device, dtype: of the parameters; torch's defaults where None.

    Raises:
        ValueError: for sizes that do not fit, or an unknown preset.

    Source: "The Devil in Linear Transformer", arXiv 2210.10340.

    Example:
        >>> import torch
        >>> from rankone.nn.transnormer import TransNormerLM
        >>> model = TransNormerLM(64, dim=32, num_layers=4, num_heads=4, block_size=8)
        >>> model.layer_types
        ['diag_attention', 'diag_attention', 'norm_attention', 'norm_attention']
        >>> model.generate(torch.zeros(1, 3, dtype=torch.int64), 20, random_state=0).shape
        torch.Size([1, 23])
    """

    def __init__(
        self,
        vocab_size: int,
        dim: int,
        num_layers: int,
        num_heads: int,
        *,
        preset: str = "T2",
        tie_embeddings: bool = True,
        embedding_norm: bool = True,
        block_size: int = 64,
        num_diag_layers: int | None = None,
        dropout: float = 0.0,
        activation_checkpointing: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        diag_layers = _diag_layers(num_layers, num_diag_layers)
        options = _preset(preset)
        diag = {"kind": options["kind"], "block_size": block_size}
        norm = {"activation": options["activation"]}
        norm_layers = num_layers - diag_layers
        config = LanguageModelConfig(
            vocab_size=vocab_size,
            hidden_size=dim,
            num_layers=num_layers,
            num_heads=num_heads,
            mixer=["diag_attention"] * diag_layers + ["norm_attention"] * norm_layers,
            mixer_kwargs=[diag] * diag_layers + [norm] * norm_layers,
            intermediate_size=int(8 / 3 * dim),
            feed_forward_kwargs={"bias": True},
            norm="srmsnorm",
            tie_embeddings=tie_embeddings,
            embedding_scale=math.sqrt(dim),
            embedding_norm=embedding_norm,
            dropout=dropout,
            activation_checkpointing=activation_checkpointing,
        )
        super().__init__(config, device=device, dtype=dtype)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw embedding and linear weights anew.

        The embedding, and a head of its own, are N(0, 1 / dim); the projections of attention are
        Xavier-uniform; the gated linear units are as torch.nn.Linear draws them.
        """
        for module in self.modules():
            if isinstance(module, nn.Embedding) or module is self.head:
                nn.init.normal_(module.weight, std=self.config.hidden_size**-0.5)
            elif isinstance(module, (GLU, LRPEAttention)):
                for part in module.children():
                    if isinstance(part, nn.Linear):
                        part.reset_parameters()
                if isinstance(module, LRPEAttention):
                    module.reset_parameters()


def local_attention_mass(weights: Tensor, r: float, causal: bool = True) -> Tensor:
    """Share of the attention that stays in a window of floor(r N) of the N tokens.

    The window of a causal query ends with the query itself; otherwise the query stands in its
    middle, and at the ends of the sequence the window is moved inside it. Weights count by
    magnitude, relative to the sum of their row; a row of zeros counts 0. Queries of the first half
    are left out: there the window covers most of what a query sees.

    Args:
        weights: (batch, heads, N, N), signed and unnormalised as they may be.
        r: length of the window over N, in (0, 1].
        causal: whether queries see their past alone.

    Returns:
        (heads,) means over batch and queries i >= N / 2, float32 or float64.

    Raises:
        ValueError: for weights of the wrong shape or an ``r`` outside (0, 1].

    Source: the locally accumulated attention score of arXiv 2210.10340; its form for causal rows
    was derived for this project.

    Example:
        >>> import torch
        >>> from rankone.nn.transnormer import local_attention_mass
        >>> weights = torch.ones(1, 1, 100, 100)
        >>> local_attention_mass(weights, 0.1, causal=False)
        tensor([0.1000])
    """
    check_rank("weights", weights, ("batch", "heads", "N", "N"))
    tokens = weights.shape[-1]
    if weights.shape[-2] != tokens or tokens == 0:
        raise ValueError(
            f"weights must have shape (batch, heads, N, N) with N at least 1, "
            f"got {tuple(weights.shape)}"
        )
    if not 0 < r <= 1:
        raise ValueError(f"r must be in (0, 1], got {r}")
    # The product of a decimal fraction and an integer may fall short of its value by rounding.
    window = math.floor(r * tokens + 1e-9)
    query = torch.arange(-(-tokens // 2) if tokens > 1 else 0, tokens, device=weights.device)
    if causal:
        start = query - window + 1
    else:
        start = (query - (window - 1) // 2).clamp(0, tokens - window)
    key = torch.arange(tokens, device=weights.device)
    inside = (key >= start[:, None]) & (key < start[:, None] + window)
    magnitude = weights[:, :, query].to(torch.promote_types(weights.dtype, torch.float32)).abs()
    total = magnitude.sum(-1)
    share = (magnitude * inside).sum(-1) / total.masked_fill(total == 0, 1)
    return share.mean((0, 2))


def attention_gradient_bound(v: Tensor, grad_out: Tensor, eps: float) -> float:
    """Bound on every |dL / ds_ij| of O = RMSNorm(S V): 3 c1 c2 d / (2 sqrt(eps)).

    c1 and c2 are the largest norms of a row of ``grad_out`` and of ``v``, d is the width, and eps
    stands inside the root of the norm: O_i = y_i / sqrt(|y_i|^2 / d + eps).

    Args:
        v: (..., n, d) values.
        grad_out: (..., n, d), dL / dO.
        eps: positive.

    Returns:
        The bound.

    Raises:
        ValueError: for shapes that do not fit, or an ``eps`` that is not positive.

    Source: "The Devil in Linear Transformer", arXiv 2210.10340.

    Example:
        >>> import torch
        >>> from rankone.nn.transnormer import attention_gradient_bound
        >>> attention_gradient_bound(torch.ones(3, 4), torch.ones(3, 4), eps=1.0)
        24.0
    """
    check_tensor("v", v)
    check_tensor("grad_out", grad_out)
    if 0 in v.shape or 0 in grad_out.shape:
        raise ValueError(
            f"v and grad_out must not be empty, got {tuple(v.shape)} and {tuple(grad_out.shape)}"
        )
    if v.ndim < 2 or grad_out.ndim < 2 or v.shape[-1] != grad_out.shape[-1]:
        raise ValueError(
            "v and grad_out must have shape (..., n, d) with one d, "
            f"got {tuple(v.shape)} and {tuple(grad_out.shape)}"
        )
    if not 0 < eps < math.inf:
        raise ValueError(f"eps must be positive and finite, got {eps}")
    c1 = float(grad_out.detach().double().norm(dim=-1).max())
    c2 = float(v.detach().double().norm(dim=-1).max())
    return 3 * c1 * c2 * v.shape[-1] / (2 * math.sqrt(eps))


def _preset(name: str) -> dict[str, Any]:
    if name not in PRESETS:
        raise ValueError(f"preset must be one of {sorted(PRESETS)}, got {name!r}")
    return PRESETS[name]


def _diag_layers(num_layers: int, num_diag_layers: int | None) -> int:
    check_size("num_layers", num_layers)
    if num_diag_layers is None:
        return num_layers // 2
    if not 0 <= num_diag_layers <= num_layers:
        raise ValueError(
            f"num_diag_layers must be between 0 and num_layers ({num_layers}), "
            f"got {num_diag_layers}"
        )
    return num_diag_layers
