"""ConvertedAttention: an attention module that keeps its class, parameters and place.

A conversion makes a module an instance of a subclass of its own class: its parameters, state_dict
keys, attributes and hooks stay what they were, ``isinstance`` still holds, and its original
``forward`` is ``super().forward``. A conversion is a subclass of :class:`ConvertedAttention` with

    uses_converted_path   whether calls go to the conversion (else to the original forward)
    attend(call)          (B, T, H, d) heads and the layer's state, see ``adapters``
    init_attend_state     the state before the first token (for rankone's own models)

and :func:`convert_module` puts it in place.
"""

from __future__ import annotations

from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from rankone.nn.convert.adapters import (
    AttentionAdapter,
    AttentionCall,
    AttentionSpec,
    attention_adapter,
)


class ConvertedAttention(nn.Module):
    """Base of conversions: sends a call through the adapter to :meth:`attend`."""

    # Set on the subclass that convert_module makes.
    _conversion: ClassVar[type[ConvertedAttention]]
    _original_class: ClassVar[type[nn.Module]]

    @property
    def conversion_adapter(self) -> AttentionAdapter:
        """How this module's class is read."""
        return cast(AttentionAdapter, attention_adapter(self))

    @property
    def conversion_spec(self) -> AttentionSpec:
        """Sizes and kind of the module."""
        return self.conversion_adapter.describe(self)

    @property
    def uses_converted_path(self) -> bool:
        """Whether calls go to :meth:`attend`."""
        return True

    @property
    def uses_recurrent_state(self) -> bool:
        """Whether the module reads on from a recurrent state."""
        return self.uses_converted_path and self.conversion_spec.causal is True

    def attend(self, call: AttentionCall) -> tuple[Tensor, tuple[Tensor, ...] | None]:
        """Heads (B, T, H, d) of a call, and the state after it where the call wants one."""
        raise TypeError(f"{type(self).__name__} must define attend")

    def init_attend_state(
        self, batch_size: int, device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, ...]:
        """The state before the first token of ``batch_size`` sequences."""
        raise TypeError(f"{type(self).__name__} must define init_attend_state")

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not self.uses_converted_path:
            return super().forward(*args, **kwargs)
        adapter = self.conversion_adapter
        call = adapter.read_call(self, args, kwargs)
        heads, state = self.attend(call)
        return adapter.finish(self, call, heads, state)

    def __reduce_ex__(self, protocol: Any) -> Any:
        # The class is made at run time: name its two parts instead.
        return _empty_instance, (self._conversion, self._original_class), self.__getstate__()


class _MixerMethods:
    """``step`` and ``init_state`` of a converted mixer of rankone."""

    def step(self: Any, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        if not self.uses_converted_path:
            return super().step(x, state)  # type: ignore[misc]
        y, state = self.forward(x[:, None], state=state, return_state=True)
        return y[:, 0], state

    def init_state(
        self: Any,
        batch_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Any:
        if not self.uses_converted_path:
            return super().init_state(batch_size, device=device, dtype=dtype)  # type: ignore[misc]
        weight = next(self.parameters())
        device = weight.device if device is None else torch.device(device)
        dtype = weight.dtype if dtype is None else dtype
        state = self.init_attend_state(batch_size, device, dtype)
        return (*state, torch.zeros(batch_size, dtype=torch.int64, device=device))


# Made classes by (conversion, original class): one class for all modules of a kind.
_CLASSES: dict[tuple[type, type], type[ConvertedAttention]] = {}


def _converted_class(
    conversion: type[ConvertedAttention], original: type[nn.Module]
) -> type[ConvertedAttention]:
    if (conversion, original) in _CLASSES:
        return _CLASSES[conversion, original]
    mixer = hasattr(original, "step") and hasattr(original, "init_state")
    bases = (_MixerMethods, conversion, original) if mixer else (conversion, original)
    name = f"{conversion.__name__}[{original.__name__}]"
    members = {
        "__module__": original.__module__,
        "_conversion": conversion,
        "_original_class": original,
    }
    made = cast("type[ConvertedAttention]", type(name, bases, members))
    return _CLASSES.setdefault((conversion, original), made)


def _empty_instance(
    conversion: type[ConvertedAttention], original: type[nn.Module]
) -> ConvertedAttention:
    kind = _converted_class(conversion, original)
    return kind.__new__(kind)


def convert_module(module: nn.Module, conversion: type[ConvertedAttention]) -> ConvertedAttention:
    """Make an attention module an instance of a conversion, in place.

    Raises:
        ValueError: if it already is converted.
    """
    if isinstance(module, ConvertedAttention):
        raise ValueError(f"the attention module is already converted: {type(module).__name__}")
    original = type(module)
    module.__class__ = _converted_class(conversion, original)
    if isinstance(module, nn.MultiheadAttention):
        # TransformerEncoderLayer's fused path reads the weights past forward; hooks turn it off.
        module.register_forward_pre_hook(_no_hook)
    return cast(ConvertedAttention, module)


def _no_hook(module: nn.Module, args: tuple[Any, ...]) -> None:
    return None


def unfuse_encoders(model: nn.Module) -> None:
    """Keep ``torch.nn.TransformerEncoder`` from nested tensors where its layers are converted."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder) and any(
            isinstance(part, ConvertedAttention) for part in module.modules()
        ):
            module.use_nested_tensor = False
