"""to_liger: a pretrained decoder becomes a gated recurrent model without a new parameter.

Every attention layer keeps its projections, its place and its parameters' names; what stands
between them becomes :func:`rankone.nn.liger_heads.liger_heads`. LoRA on queries, keys and values
then recovers most of what the change of mechanism costs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from rankone.nn.convert.adapters import AttentionCall, FoundAttention, copied, find_attention
from rankone.nn.convert.cache import install_recurrent_cache
from rankone.nn.convert.converted import ConvertedAttention, convert_module
from rankone.nn.convert.lora import LoRAConfig, add_lora, check_targets, lora_parameters
from rankone.nn.language_model import LanguageModel
from rankone.nn.liger_heads import (
    HasLigerOptions,
    LigerOptions,
    LigerState,
    Projected,
    check_liger_state,
    liger_heads,
)
from rankone.nn.softmax_attention import SlidingWindowAttention, SoftmaxAttention


class LigerConversion(HasLigerOptions, ConvertedAttention):
    """An attention module whose softmax was replaced by Liger's recurrence and window.

    Attributes:
        liger: its :class:`rankone.nn.liger_heads.LigerOptions`; also readable one by one as
            ``structure``, ``window``, ``alpha``, ``beta``, ``gate_normalizer``, ``lower_bound``.
    """

    def attend(self, call: AttentionCall) -> tuple[Tensor, LigerState | None]:
        spec = self.conversion_spec
        q, k, v = self.conversion_adapter.project(self, call)
        rotated_q, rotated_k = self.conversion_adapter.rotate(self, call, q, k)
        state = None
        if call.state is not None:
            sequences = call.hidden.shape[0]
            if call.cu_seqlens is not None:
                sequences = call.cu_seqlens.shape[0] - 1
            check_liger_state(call.state, sequences, spec.num_kv_heads, spec.head_dim, self.window)
            state = LigerState(*call.state)
        return liger_heads(
            Projected(q, k, v, rotated_q, rotated_k),
            self.liger,
            scale=spec.scale,
            mask=call.padding_mask,
            cu_seqlens=call.cu_seqlens,
            state=state,
            return_state=call.return_state,
        )

    def init_attend_state(
        self, batch_size: int, device: torch.device, dtype: torch.dtype
    ) -> LigerState:
        spec = self.conversion_spec
        return LigerState.zeros(
            batch_size, spec.num_kv_heads, spec.head_dim, self.window, device=device, dtype=dtype
        )


def to_liger(
    model: nn.Module,
    *,
    structure: str = "gla",
    window: int = 64,
    alpha: float = 0.5,
    beta: float = 0.5,
    gate_normalizer: float = 16.0,
    lower_bound: float = 0.0,
    softmax_layers: Iterable[int] = (),
    lora: LoRAConfig | None = None,
    inplace: bool = False,
) -> Any:
    """Replace every softmax attention of a decoder by a gated recurrence and a softmax window.

    The model keeps its class, its call, its parameters and their names, and decodes in constant
    memory with :class:`rankone.nn.convert.RecurrentCache` (a transformers model) or its own
    ``generate`` (a model of rankone). Nothing is initialised anew; train with next-token
    cross-entropy to recover quality. Dropout on attention weights is not applied.

    A saved transformers model holds the original class and names: convert again after loading it.
    A :class:`rankone.nn.LanguageModel` saves that it was converted (merge LoRA before saving).

    Args:
        model: transformers Llama, Mistral, Qwen2, Qwen3 or GPT-2, a
            :class:`rankone.nn.LanguageModel` with softmax layers, or any model whose causal
            attention has an adapter.
        structure: ``"gla"`` (default), ``"hgrn2"``, ``"rwkv6"``, ``"mlstm"`` (also
            ``"gated_retention"``), ``"mamba2"`` or ``"none"``, as
            :func:`rankone.nn.convert.liger_gate`.
        window: tokens that the softmax sees, a token's own included.
        alpha: weight of the recurrence.
        beta: weight of the window; alpha + beta = 1 keeps the scale of the outputs.
        gate_normalizer: root taken of the gates of gla, mlstm and mamba2; 1 is the paper's table.
        lower_bound: least gate of hgrn2.
        softmax_layers: indices of attention layers that stay as they are, counted in the model's
            order; negative ones count from the end.
        lora: adapts the projections of the converted layers and freezes everything else; without
            it no flag changes.
        inplace: change ``model`` itself rather than a copy.

    Returns:
        The converted model. Its attention modules have the readable attributes ``structure``,
        ``window``, ``alpha``, ``beta``, ``gate_normalizer`` and ``lower_bound``.

    Raises:
        ValueError: for an unknown structure or ``"gsa"``, a window below 1, a gate_normalizer that
            is not positive, a lower_bound outside [0, 1), alpha = beta = 0, softmax_layers out of
            range or all of them, a model without supported attention, attention that is not causal,
            layers that are converted already, or LoRA targets that are not found.

    Source: "Liger: Linearizing Large Language Models to Gated Recurrent Structures",
    arXiv 2503.01496, with its authors' code for the root in the gate.

    Example:
        >>> import torch
        >>> from rankone.nn import LanguageModel, LanguageModelConfig
        >>> from rankone.nn.convert import to_liger
        >>> config = LanguageModelConfig(vocab_size=256, hidden_size=32, mixer="softmax_attention")
        >>> model = to_liger(LanguageModel(config), window=16, softmax_layers=(3,))
        >>> model.config.mixer
        ('liger_attention', 'liger_attention', 'liger_attention', 'softmax_attention')
        >>> model.generate(torch.randint(256, (1, 20)), 8).shape
        torch.Size([1, 28])
    """
    options = LigerOptions(structure, window, alpha, beta, gate_normalizer, lower_bound)
    layers = _converted_layers(find_attention(model), softmax_layers)
    if lora is not None:
        for layer in layers:
            check_targets(layer.module, lora)
    paths = [layer.path for layer in layers]
    model = copied(model, inplace)
    modules = [model.get_submodule(path) for path in paths]
    mixer_kwargs = {
        module: _mixer_kwargs(module, options)
        for module in modules
        if type(module) in (SoftmaxAttention, SlidingWindowAttention)
    }
    for module in modules:
        cast(LigerConversion, convert_module(module, LigerConversion)).liger = options
    for part in model.modules():
        if isinstance(part, LanguageModel):
            _note_conversion(part, mixer_kwargs)
    if lora is not None:
        model.requires_grad_(False)
        for module in modules:
            add_lora(module, lora)
        for parameter in lora_parameters(model):
            parameter.requires_grad_(True)
    install_recurrent_cache(model)
    return model


def _converted_layers(
    found: list[FoundAttention], softmax_layers: Iterable[int]
) -> list[FoundAttention]:
    kept = set()
    for layer in softmax_layers:
        if not hasattr(layer, "__index__"):
            raise TypeError(f"softmax_layers must hold integers, got {layer!r}")
        if not -len(found) <= layer < len(found):
            raise ValueError(f"softmax_layers must be in range({len(found)}), got {layer}")
        kept.add(layer % len(found))
    layers = [entry for index, entry in enumerate(found) if index not in kept]
    if not layers:
        raise ValueError("softmax_layers must leave at least one layer to convert")
    for path, module, adapter in layers:
        if isinstance(module, ConvertedAttention):
            raise ValueError(f"{path or type(module).__name__} is already converted")
        if adapter.describe(module).causal is not True:
            raise ValueError(
                f"{path or type(module).__name__}: bidirectional attention cannot be converted; "
                "use to_hedgehog"
            )
    return layers


def _mixer_kwargs(module: Any, options: LigerOptions) -> dict[str, Any]:
    """Options of the mixer ``"liger_attention"`` that computes what ``module`` will."""
    return {
        "num_heads": module.num_heads,
        "num_kv_heads": module.num_kv_heads,
        "head_dim": module.head_dim,
        "bias": module.q_proj.bias is not None,
        "rope_base": module.rope_base,
        **dataclasses.asdict(options),
    }


def _note_conversion(
    model: LanguageModel, mixer_kwargs: Mapping[nn.Module, Mapping[str, Any]]
) -> None:
    """Let the configuration name the mixers that a saved model has to be built with."""
    config = model.config
    if config.mixer is None:
        return
    mixers, options = config.mixer, config.mixer_kwargs
    names = [mixers] * config.num_layers if isinstance(mixers, str) else list(mixers)
    kwargs = [options] * config.num_layers if isinstance(options, Mapping) else list(options)
    for layer, block in enumerate(cast(Any, model.blocks)):
        if block.mixer in mixer_kwargs:
            names[layer] = "liger_attention"
            kwargs[layer] = mixer_kwargs[block.mixer]
    model.config = dataclasses.replace(config, mixer=tuple(names), mixer_kwargs=tuple(kwargs))
