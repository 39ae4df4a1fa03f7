"""Language models of published methods: configurations of :class:`rankone.nn.LanguageModel`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from rankone.nn.feed_forward import rounded_width
from rankone.nn.language_model import LanguageModel, LanguageModelConfig

HYBRIDS = (None, "sliding_window", "global")
DELTA_MIXERS = ("delta_net", "gated_delta_net")

# Standard deviation of the initial weights of these models.
INITIALIZER_RANGE = 0.02

# What DeltaNetLM calls its layers, where that is not the registered name of the mixer.
LAYER_TYPES = {"sliding_window_attention": "sliding_window", "softmax_attention": "attention"}


class DeltaNetLM(LanguageModel):
    """A language model of delta-rule layers, alone or with attention layers among them.

    Args:
        vocab_size: number of tokens.
        hidden_size: width of the residual stream.
        num_layers: number of blocks.
        num_heads: heads of the delta-rule layers.
        mixer: ``"delta_net"`` or ``"gated_delta_net"``.
        mixer_kwargs: options of :class:`rankone.nn.DeltaNet` or :class:`rankone.nn.GatedDeltaNet`.
        hybrid: ``"sliding_window"`` makes layers 1, 3, 5, ... (from 0) softmax attention over
            ``window_size`` tokens; ``"global"`` makes layers 1 and num_layers // 2 softmax
            attention over the whole past; None neither.
        window_size: of the sliding-window layers.
        attention_heads: heads of the attention layers; default ``num_heads``.
        rope_base: base of their rotary angles.
        hidden_ratio: the SwiGLU blocks are 2 / 3 * hidden_ratio * hidden_size wide, rounded up to
            a multiple of 256, or of 8 where hidden_size is below 256.
        tie_embeddings: whether the head is the embedding.
        norm_eps: of the norms between the layers.
        device, dtype: of the parameters; torch's defaults where None.

    Raises:
        ValueError: for sizes that do not fit, or unknown options.

    Source: "Parallelizing Linear Transformers with the Delta Rule over Sequence Length",
    arXiv 2406.06484; "Gated Delta Networks", arXiv 2412.06464.

    Example:
        >>> from rankone.nn import DeltaNetLM
        >>> model = DeltaNetLM(64, hidden_size=32, num_layers=4, num_heads=2, hybrid="global")
        >>> model.layer_types
        ['delta_net', 'attention', 'attention', 'delta_net']
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        hidden_size: int = 1024,
        num_layers: int = 24,
        num_heads: int = 8,
        mixer: str = "delta_net",
        mixer_kwargs: Mapping[str, Any] | None = None,
        hybrid: str | None = None,
        window_size: int = 1024,
        attention_heads: int | None = None,
        rope_base: float = 10000.0,
        hidden_ratio: int = 4,
        tie_embeddings: bool = False,
        norm_eps: float = 1e-6,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if mixer not in DELTA_MIXERS:
            raise ValueError(f"mixer must be one of {list(DELTA_MIXERS)}, got {mixer!r}")
        if hybrid not in HYBRIDS:
            raise ValueError(f"hybrid must be one of {list(HYBRIDS)}, got {hybrid!r}")
        mixers = [mixer] * num_layers
        options: list[Mapping[str, Any]] = [dict(mixer_kwargs or {})] * num_layers
        attention: dict[str, Any] = {"rope_base": rope_base}
        if attention_heads is not None:
            attention["num_heads"] = attention_heads
        for layer in range(num_layers):
            if hybrid == "sliding_window" and layer % 2 == 1:
                mixers[layer] = "sliding_window_attention"
                options[layer] = {**attention, "window_size": window_size}
            elif hybrid == "global" and layer in (1, num_layers // 2):
                mixers[layer] = "softmax_attention"
                options[layer] = attention
        config = LanguageModelConfig(
            vocab_size=vocab_size,
            hidden_size=hidden_size,
            num_layers=num_layers,
            num_heads=num_heads,
            mixer=mixers,
            mixer_kwargs=options,
            intermediate_size=rounded_width(hidden_size, hidden_ratio),
            norm_eps=norm_eps,
            tie_embeddings=tie_embeddings,
            initializer_range=INITIALIZER_RANGE,
        )
        super().__init__(config, device=device, dtype=dtype)

    @property
    def layer_types(self) -> list[str]:
        """Of each layer: delta_net, gated_delta_net, sliding_window or attention."""
        return [LAYER_TYPES.get(name, name) for name in super().layer_types]


class MixtureOfMemoriesLM(LanguageModel):
    """A language model of mixture-of-memories layers, whose loss balances their routers.

    Args:
        vocab_size: number of tokens.
        hidden_size: width of the residual stream.
        num_layers: number of blocks.
        num_heads: heads of a memory.
        head_dim: key width of a head.
        num_memories: memories that tokens are routed to.
        top_k: memories a token is routed to.
        mixer_kwargs: further options of :class:`rankone.nn.MixtureOfMemories`.
        hidden_ratio: the SwiGLU blocks are 2 / 3 * hidden_ratio * hidden_size wide, rounded up to
            a multiple of 256, or of 8 where hidden_size is below 256.
        tie_embeddings: whether the head is the embedding.
        norm_eps: of the norms between the layers.
        aux_loss_scale: factor of the balance loss.
        balance: ``"layer"`` for the mean of the layers' balance losses, ``"pooled"`` for the loss
            of the tokens of all layers taken together.
        device, dtype: of the parameters; torch's defaults where None.

    Raises:
        ValueError: for sizes that do not fit, or unknown options.

    Source: "MoM: Linear Sequence Modeling with Mixture-of-Memories", arXiv 2502.13685.

    Example:
        >>> import torch
        >>> from rankone.nn import MixtureOfMemoriesLM
        >>> model = MixtureOfMemoriesLM(
        ...     64, hidden_size=32, num_layers=2, num_heads=2, head_dim=8)
        >>> tokens = torch.randint(64, (1, 12))
        >>> output = model(tokens, labels=tokens)
        >>> output.router_load.shape
        torch.Size([2, 4])
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        hidden_size: int = 1024,
        num_layers: int = 24,
        num_heads: int = 4,
        head_dim: int = 256,
        num_memories: int = 4,
        top_k: int = 2,
        mixer_kwargs: Mapping[str, Any] | None = None,
        hidden_ratio: int = 4,
        tie_embeddings: bool = False,
        norm_eps: float = 1e-6,
        aux_loss_scale: float = 0.01,
        balance: str = "layer",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        options = {"head_dim": head_dim, "num_memories": num_memories, "top_k": top_k}
        config = LanguageModelConfig(
            vocab_size=vocab_size,
            hidden_size=hidden_size,
            num_layers=num_layers,
            num_heads=num_heads,
            mixer="mixture_of_memories",
            mixer_kwargs={**options, **(mixer_kwargs or {})},
            intermediate_size=rounded_width(hidden_size, hidden_ratio),
            norm_eps=norm_eps,
            tie_embeddings=tie_embeddings,
            initializer_range=INITIALIZER_RANGE,
            aux_loss_scale=aux_loss_scale,
            balance=balance,
        )
        super().__init__(config, device=device, dtype=dtype)
