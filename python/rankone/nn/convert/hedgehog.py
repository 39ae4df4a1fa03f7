"""Hedgehog conversion: a trained softmax model with learned linear attention in its place.

    model = to_hedgehog(model)              # original outputs; maps added
    distill_attention(model, batches)       # trains the maps against the model's own weights
    set_attention_mode(model, "linear")     # recurrent from here on

Every attention module keeps its class, parameters and place (see ``converted``) and gains
``feature_map_q``, one map a query head, and ``feature_map_k``, one a key head, so that one state a
kv head serves its whole group. The maps act after norms and rotary positions, without the factor
1 / sqrt(d). While distilling, every layer passes on its softmax output (teacher forcing), so that
all layers train in one forward pass; the loss of a layer is computed and differentiated within that
layer's call, which keeps memory at one layer's weights. In linear mode no T x T weights exist.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from rankone._arguments import check_instance
from rankone.nn.convert.adapters import AttentionCall, AttentionSpec, copied, find_attention
from rankone.nn.convert.cache import install_recurrent_cache
from rankone.nn.convert.converted import ConvertedAttention, convert_module, unfuse_encoders
from rankone.nn.convert.distillation import (
    DistillationLoss,
    allowed_keys,
    distillation_loss,
    features,
    grouped_products,
    student_weights,
    teacher_weights,
    weight_metrics,
)
from rankone.nn.feature_maps import FEATURE_MAPS
from rankone.nn.feature_maps import feature_map as build_feature_map
from rankone.nn.hedgehog import feature_attention
from rankone.nn.packing import sequence_of

MODES = ("softmax", "distill", "linear")

# What the observer of a layer is given: the layer, and the loss or measure of its call.
Observer = Callable[["HedgehogConversion", AttentionCall], None]


class AttentionWeights(NamedTuple):
    """What a converted layer attends to, before and after.

    Attributes:
        teacher: (B, H, T, T) softmax weights.
        student: (B, H, T, T) weights of the feature maps.
        dots: (B, H, T, T) products of queries and keys.
        allowed: (B or 1, 1, T, T) boolean, keys that a query may see.
        valid: (B, T) boolean, False on padding; None where there is none.
    """

    teacher: Tensor
    student: Tensor
    dots: Tensor
    allowed: Tensor
    valid: Tensor | None


class HedgehogConversion(ConvertedAttention):
    """An attention module with feature maps and three modes.

    Attributes:
        feature_map_q, feature_map_k: the maps of queries and keys.
        attention_mode: ``"softmax"`` (as before), ``"distill"`` (as before, and
            ``distillation_loss`` is set by every call) or ``"linear"``.
        distillation_loss: loss of the last call in mode ``"distill"``, with a gradient for the maps
            only; None before.
    """

    feature_map_q: nn.Module
    feature_map_k: nn.Module
    attention_mode: str
    distillation_loss: Tensor | None

    # Takes the place of keeping the loss, while distill_attention or attention_fidelity runs.
    _observer: Observer | None

    @property
    def uses_converted_path(self) -> bool:
        return self.attention_mode == "linear"

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.attention_mode == "distill":
            # A cache is the original module's business: the loss is of the tokens of this call.
            seen = {name: value for name, value in kwargs.items() if name not in _CACHES}
            self._observe(self.conversion_adapter.read_call(self, args, seen))
        return super().forward(*args, **kwargs)

    def _observe(self, call: AttentionCall) -> None:
        if self._observer is not None:
            self._observer(self, call)
        else:
            self.distillation_loss = self.loss_of(call).cross_entropy

    def queries_and_keys(self, call: AttentionCall) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys (rotated) and values of a call."""
        adapter = self.conversion_adapter
        q, k, v = adapter.project(self, call)
        return (*adapter.rotate(self, call, q, k), v)

    def allowed(self, call: AttentionCall) -> tuple[Tensor, Tensor]:
        """Keys (B or 1, 1, T, T) that the student and the teacher see."""
        batch, time = call.hidden.shape[:2]
        sequence = None if call.cu_seqlens is None else sequence_of(call.cu_seqlens, time)

        def keys(window: int | None) -> Tensor:
            return allowed_keys(
                batch,
                time,
                causal=call.causal,
                mask=call.padding_mask,
                sequence=sequence,
                window=window,
                device=call.hidden.device,
            )

        student, window = keys(None), self.conversion_spec.window
        return student, (student if window is None else keys(window))

    def loss_of(self, call: AttentionCall) -> DistillationLoss:
        """Cross-entropy of the student's weights against the teacher's, on this call's tokens."""
        with torch.no_grad():
            q, k, _ = self.queries_and_keys(call)
        allowed, teacher_allowed = self.allowed(call)
        return distillation_loss(
            q,
            k,
            self.feature_map_q,
            self.feature_map_k,
            allowed=allowed,
            teacher_allowed=teacher_allowed,
            valid=call.padding_mask,
            scale=self.conversion_spec.scale,
        )

    def weights_of(self, call: AttentionCall) -> AttentionWeights:
        """Teacher and student weights of this call, without gradients."""
        with torch.no_grad(), torch.autocast(call.hidden.device.type, enabled=False):
            q, k, _ = self.queries_and_keys(call)
            dtype = torch.promote_types(q.dtype, torch.float32)
            q, k = q.to(dtype), k.to(dtype)
            allowed, teacher_allowed = self.allowed(call)
            dots = grouped_products(q, k)
            teacher = teacher_weights(dots, self.conversion_spec.scale, teacher_allowed)
            phi = features(q, k, self.feature_map_q, self.feature_map_k)
            student = student_weights(*phi, allowed)
        return AttentionWeights(teacher, student, dots, allowed, call.padding_mask)

    def attend(self, call: AttentionCall) -> tuple[Tensor, tuple[Tensor, ...] | None]:
        q, k, v = self.queries_and_keys(call)
        phi_q, phi_k = features(q, k, self.feature_map_q, self.feature_map_k)
        if phi_k.shape[2] != v.shape[2]:
            v_heads = v.repeat_interleave(phi_k.shape[2] // v.shape[2], dim=2)
        else:
            v_heads = v
        heads, state = feature_attention(
            phi_q,
            phi_k,
            v_heads,
            causal=call.causal,
            mask=call.padding_mask,
            state=call.state,  # type: ignore[arg-type]
            return_state=call.return_state,
            cu_seqlens=call.cu_seqlens,
        )
        return heads.to(v.dtype), state

    def init_attend_state(
        self, batch_size: int, device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, ...]:
        spec = self.conversion_spec
        heads = getattr(self.feature_map_k, "num_heads", None) or spec.num_kv_heads
        shape = (batch_size, heads, int(self.feature_map_k.num_features))  # type: ignore[arg-type]
        dtype = torch.promote_types(dtype, torch.float32)
        values = torch.zeros((*shape, spec.head_dim), device=device, dtype=dtype)
        return values, torch.zeros(shape, device=device, dtype=dtype)


_CACHES = ("past_key_values", "past_key_value")


def to_hedgehog(
    model: nn.Module,
    *,
    layers: Iterable[int] | None = None,
    feature_map: str = "hedgehog",
    per_query_head_keys: bool = False,
    inplace: bool = False,
    **map_options: Any,
) -> nn.Module:
    """Add feature maps to the attention of a trained model; its outputs stay until it is switched.

    Args:
        model: a model of transformers (Bert, Roberta, GPT-2, Llama, Mistral, Qwen2, Qwen3), one
            with ``torch.nn.MultiheadAttention`` as self-attention, one of rankone's own with
            softmax mixers, or any whose attention was registered with
            :func:`register_attention_adapter`.
        layers: indices of the attention modules to convert, in the model's order; None for all.
        feature_map: ``"hedgehog"`` or another name of :func:`rankone.nn.feature_maps.feature_map`.
        per_query_head_keys: one key map and state a query head, instead of one a kv head.
        inplace: convert the model itself instead of a copy.
        **map_options: of the feature map, such as ``activation="exp"``.

    Returns:
        The converted model, in mode ``"softmax"``. Its state_dict has the original keys and those
        of the maps; no original parameter is changed. A saved state_dict is loaded into a model
        that was built and converted alike.

    Raises:
        ValueError: for an unknown map, options that it refuses, no supported attention, a layer
            index out of range, or an attention module that is converted already.

    Source: "The Hedgehog & the Porcupine: Expressive Linear Attentions with Softmax Mimicry",
    arXiv 2402.04347; sharing a key map within a group of heads is rankone's own.

    Example:
        >>> import torch
        >>> from rankone.nn import LanguageModel, LanguageModelConfig
        >>> from rankone.nn.convert import set_attention_mode, to_hedgehog
        >>> config = LanguageModelConfig(
        ...     vocab_size=50, hidden_size=32, num_layers=2, num_heads=2, mixer="softmax_attention"
        ... )
        >>> model = LanguageModel(config)
        >>> tokens = torch.randint(50, (1, 9))
        >>> converted = to_hedgehog(model)
        >>> torch.equal(converted(tokens).logits, model(tokens).logits)
        True
        >>> set_attention_mode(converted, "linear").generate(tokens, 4).shape
        torch.Size([1, 13])
    """
    if feature_map not in FEATURE_MAPS:
        raise ValueError(f"feature_map must be one of {sorted(FEATURE_MAPS)}, got {feature_map!r}")
    chosen = list(layers) if layers is not None else None
    found = find_attention(model, chosen)
    maps = []
    for path, module, adapter in found:
        if isinstance(module, ConvertedAttention):
            raise ValueError(f"the attention module at {path!r} is already converted")
        maps.append(
            _maps_of(
                module, adapter.describe(module), feature_map, per_query_head_keys, map_options
            )
        )
    model = copied(model, inplace)
    for (_, module, _), (map_q, map_k) in zip(find_attention(model, chosen), maps, strict=True):
        converted = cast(HedgehogConversion, convert_module(module, HedgehogConversion))
        converted.feature_map_q = map_q
        converted.feature_map_k = map_k
        converted.attention_mode = "softmax"
        converted.distillation_loss = None
        converted._observer = None
        converted.train(converted.training)
    unfuse_encoders(model)
    install_recurrent_cache(model)
    return model


def _maps_of(
    module: nn.Module,
    spec: AttentionSpec,
    name: str,
    per_query_head_keys: bool,
    options: Mapping[str, Any],
) -> tuple[nn.Module, nn.Module]:
    weight = next(module.parameters())
    key_heads = spec.num_heads if per_query_head_keys else spec.num_kv_heads
    dtype = torch.promote_types(weight.dtype, torch.float32)
    map_q, map_k = (
        build_feature_map(name, spec.head_dim, heads, **options).to(weight.device, dtype)
        for heads in (spec.num_heads, key_heads)
    )
    return map_q, map_k


def converted_layers(model: nn.Module) -> list[HedgehogConversion]:
    """The converted attention modules of a model, in its order.

    Raises:
        ValueError: if there is none.
    """
    check_instance("model", model, nn.Module)
    layers = [module for module in model.modules() if isinstance(module, HedgehogConversion)]
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no converted attention: use to_hedgehog first"
        )
    return layers


def set_attention_mode(model: nn.Module, mode: str) -> nn.Module:
    """Switch all converted attention of a model.

    Args:
        model: of :func:`to_hedgehog`.
        mode: ``"softmax"``, the original attention; ``"distill"``, the same, with the loss of every
            layer in its ``distillation_loss``; ``"linear"``, the recurrent one.

    Returns:
        The model.

    Raises:
        ValueError: for an unknown mode or a model without converted attention.

    Example:
        >>> from rankone.nn import SoftmaxAttention
        >>> from rankone.nn.convert import set_attention_mode, to_hedgehog
        >>> layer = set_attention_mode(to_hedgehog(SoftmaxAttention(16, 2)), "linear")
        >>> layer.attention_mode
        'linear'
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {list(MODES)}, got {mode!r}")
    for layer in converted_layers(model):
        layer.attention_mode = mode
    return model


def distill_attention(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    lr: float = 1e-2,
    weight_decay: float = 0.0,
    max_steps: int | None = None,
    epochs: int = 1,
    callback: Callable[[int, float, np.ndarray], None] | None = None,
) -> dict[str, Any]:
    """Train the feature maps of a converted model to give the weights of its own softmax.

    AdamW on the maps alone; everything else is frozen for the run, and flags, gradients, training
    state and modes are put back after it. Every layer sees the original model's hidden states, and
    backpropagates within its own call.

    Args:
        model: of :func:`to_hedgehog`.
        batches: dicts of tensors, given to the model as keywords (``input_ids``,
            ``attention_mask``), or tensors, given as its first argument.
        lr: learning rate.
        weight_decay: of AdamW.
        max_steps: stop after this many batches; None for all.
        epochs: passes over ``batches``, which must be readable again for more than one.
        callback: called after every step with its number from 1, the loss and the KL of the layers.

    Returns:
        ``loss``: list of the mean cross-entropy of the layers before every step; ``kl``: array
        (steps, layers) of KL(teacher, student), nats.

    Raises:
        ValueError: for a model without converted attention or learned maps, numbers out of range,
            batches that are empty or can be read only once, or a layer that a batch does not reach.

    Source: "The Hedgehog & the Porcupine", arXiv 2402.04347; the layerwise backward is rankone's.

    Example:
        >>> import torch
        >>> from rankone.nn import LanguageModel, LanguageModelConfig
        >>> from rankone.nn.convert import distill_attention, to_hedgehog
        >>> config = LanguageModelConfig(
        ...     vocab_size=50, hidden_size=32, num_layers=2, num_heads=2, mixer="softmax_attention"
        ... )
        >>> model = to_hedgehog(LanguageModel(config))
        >>> history = distill_attention(model, [torch.randint(50, (2, 16))], epochs=5)
        >>> history["kl"].shape, history["loss"][-1] < history["loss"][0]
        ((5, 2), True)
    """
    layers = converted_layers(model)
    for name, value, floor in (("max_steps", max_steps, 1), ("epochs", epochs, 1)):
        if value is not None and value < floor:
            raise ValueError(f"{name} must be at least {floor}, got {value}")
    if not lr > 0:
        raise ValueError(f"lr must be positive, got {lr}")
    if weight_decay < 0:
        raise ValueError(f"weight_decay must be at least 0, got {weight_decay}")
    if epochs > 1 and iter(batches) is batches:
        raise ValueError("batches must be readable again for epochs above 1, got an iterator")
    parameters = list(_map_parameters(layers))
    if not parameters:
        raise ValueError("the feature maps of this model have no parameters to distil")

    losses: list[float] = []
    divergences: list[np.ndarray] = []
    current: dict[HedgehogConversion, float] = {}
    share = 1 / len(layers)

    def learn(layer: HedgehogConversion, call: AttentionCall) -> None:
        with torch.enable_grad():
            loss = layer.loss_of(call)
            (loss.cross_entropy * share).backward()
        losses[-1] += loss.cross_entropy.item() * share
        current[layer] = loss.kl.item()

    with _observed(model, layers, learn), _only_trainable(model, parameters):
        optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay)
        for batch in _batches(batches, epochs, max_steps):
            losses.append(0.0)
            current.clear()
            optimizer.zero_grad(set_to_none=True)
            with torch.no_grad():
                _call(model, batch)
            _check_reached(current, layers)
            optimizer.step()
            divergences.append(np.array([current[layer] for layer in layers]))
            if callback is not None:
                callback(len(losses), losses[-1], divergences[-1])
    if not losses:
        raise ValueError("batches must hold at least one batch, got none")
    return {"loss": losses, "kl": np.stack(divergences)}


def attention_fidelity(model: nn.Module, batch: Any) -> dict[str, np.ndarray]:
    """How well every converted layer mimics its softmax on one batch.

    Args:
        model: of :func:`to_hedgehog`; its mode is put back afterwards.
        batch: dict of tensors or tensor, as in :func:`distill_attention`.

    Returns:
        ``kl``, ``entropy_teacher``, ``entropy_student`` and ``monotonicity``, each (layers,), as
        :func:`attention_metrics` defines them, with the original model's hidden states at every
        layer.

    Raises:
        ValueError: for a model without converted attention, or a layer that the batch does not
            reach.

    Example:
        >>> import torch
        >>> from rankone.nn import SoftmaxAttention
        >>> from rankone.nn.convert import attention_fidelity, to_hedgehog
        >>> layer = to_hedgehog(SoftmaxAttention(16, 2))
        >>> attention_fidelity(layer, torch.randn(1, 9, 16))["kl"].shape
        (1,)
    """
    layers = converted_layers(model)
    measured: dict[HedgehogConversion, dict[str, Any]] = {}

    def measure(layer: HedgehogConversion, call: AttentionCall) -> None:
        teacher, student, dots, allowed, valid = layer.weights_of(call)
        measured[layer] = weight_metrics(teacher, student, dots, allowed, valid)

    _observe_batch(model, layers, measure, batch)
    _check_reached(measured, layers)
    names = ("kl", "entropy_teacher", "entropy_student", "monotonicity")
    return {name: np.array([measured[layer][name] for layer in layers]) for name in names}


def attention_weights(model: nn.Module, batch: Any, layer: int) -> AttentionWeights:
    """Teacher and student weights of one converted layer on one batch, T x T each.

    Args:
        model: of :func:`to_hedgehog`; its mode is put back afterwards.
        batch: dict of tensors or tensor, as in :func:`distill_attention`.
        layer: index among the converted layers.

    Returns:
        Teacher and student weights.

    Raises:
        ValueError: for a model without converted attention, an index out of range, or a layer that
            the batch does not reach.

    Example:
        >>> import torch
        >>> from rankone.nn import SoftmaxAttention
        >>> from rankone.nn.convert import attention_weights, to_hedgehog
        >>> layer = to_hedgehog(SoftmaxAttention(16, 2))
        >>> weights = attention_weights(layer, torch.randn(1, 9, 16), 0)
        >>> weights.student.shape
        torch.Size([1, 2, 9, 9])
    """
    layers = converted_layers(model)
    if not -len(layers) <= layer < len(layers):
        raise ValueError(f"layer must be in range({len(layers)}), got {layer}")
    seen: dict[HedgehogConversion, AttentionWeights] = {}

    def keep(found: HedgehogConversion, call: AttentionCall) -> None:
        if found is layers[layer]:
            seen[found] = found.weights_of(call)

    _observe_batch(model, layers, keep, batch)
    _check_reached(seen, [layers[layer]])
    return seen[layers[layer]]


def _observe_batch(
    model: nn.Module, layers: list[HedgehogConversion], observer: Observer, batch: Any
) -> None:
    with _observed(model, layers, observer), torch.no_grad():
        _call(model, batch)


def _check_reached(
    reached: Mapping[HedgehogConversion, Any], layers: Sequence[HedgehogConversion]
) -> None:
    if len(reached) != len(layers):
        raise ValueError(
            f"a batch must reach every converted layer, got {len(reached)} of {len(layers)}"
        )


def _map_parameters(layers: Iterable[HedgehogConversion]) -> Iterator[nn.Parameter]:
    for layer in layers:
        yield from layer.feature_map_q.parameters()
        yield from layer.feature_map_k.parameters()


@contextmanager
def _observed(
    model: nn.Module, layers: list[HedgehogConversion], observer: Observer
) -> Iterator[None]:
    """Softmax outputs, evaluation mode, and every layer's calls shown to ``observer``."""
    modes = [layer.attention_mode for layer in layers]
    training = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        for layer in layers:
            layer.attention_mode, layer._observer = "distill", observer
        yield
    finally:
        for layer, mode in zip(layers, modes, strict=True):
            layer.attention_mode, layer._observer = mode, None
        for module, flag in training:
            module.training = flag


@contextmanager
def _only_trainable(model: nn.Module, parameters: list[nn.Parameter]) -> Iterator[None]:
    """requires_grad on these parameters alone; flags and gradients are put back."""
    before = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    try:
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        for parameter in parameters:
            parameter.requires_grad_(True)
            parameter.grad = None
        yield
    finally:
        for parameter, flag, gradient in before:
            parameter.requires_grad_(flag)
            parameter.grad = gradient


def _batches(batches: Iterable[Any], epochs: int, max_steps: int | None) -> Iterator[Any]:
    number = 0
    for _ in range(epochs):
        for batch in batches:
            if number == max_steps:
                return
            yield batch
            number += 1


def _call(model: nn.Module, batch: Any) -> None:
    device = next(model.parameters()).device
    if isinstance(batch, Mapping):
        moved = {
            name: value.to(device) if isinstance(value, Tensor) else value
            for name, value in batch.items()
        }
        model(**moved)
    elif isinstance(batch, Tensor):
        model(batch.to(device))
    else:
        raise TypeError(
            f"a batch must be a dict of tensors or a tensor, got {type(batch).__name__}"
        )
