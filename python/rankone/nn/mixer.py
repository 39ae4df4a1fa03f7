"""What a sequence mixer is, and the registry of mixers by name.

A mixer is the part of a block that moves information between tokens: linear attention, softmax
attention, a state-space layer. :class:`Mixer` is the whole contract: a language model uses nothing
else of a mixer. The checks that every mixer makes on its arguments stand here too.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn

from rankone._arguments import check_integer, check_size
from rankone.ops.checks import (
    check_cu_seqlens,
    check_floating,
    check_shape,
    check_tensor,
    shape_of,
)

# None (the start of a sequence), one tensor, or a (named) tuple of tensors and None.
MixerState: TypeAlias = Any


@runtime_checkable
class Mixer(Protocol):
    """A causal sequence mixer: (batch, time, width) to (batch, time, width), with a state.

    A new mixer is a ``torch.nn.Module`` that

    - takes ``(hidden_size, num_heads, *, ...)`` in its constructor and, where it wants them, the
      keywords ``layer_idx``, ``num_layers``, ``device`` and ``dtype``;
    - names its last linear layer ``o_proj`` or ``out_proj``: a language model scales its initial
      weights down by the square root of twice the number of layers;
    - sets ``_no_weight_decay = True`` on parameters with two or more axes that must not decay
      (vectors never do);
    - gives the three methods below, such that reading a text in pieces, in one call, or token by
      token gives the same outputs, and a padded or packed text those of the text alone;
    - is registered under a name with :func:`register_mixer`, so that a saved model finds it.

    A mixer that routes its tokens also has ``returns_router = True``, and its ``forward`` takes
    ``return_router``, which puts a :class:`rankone.nn.RouterOutput` at the end of its results; a
    language model adds the balance loss of it to its own.

    The state is None for the start of a sequence, or a tensor, or a (named) tuple of tensors and
    None whose first axis is the sequence (batch row, or packed sequence). It is never changed in
    place.
    """

    def forward(
        self,
        x: Tensor,
        *,
        attention_mask: Tensor | None = None,
        state: MixerState = None,
        return_state: bool = False,
        cu_seqlens: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, MixerState]:
        """Mix (batch, time, width); with ``return_state`` also give the state after the end.

        ``attention_mask`` (batch, time) is 1 on tokens and 0 on padding, left or right; outputs at
        padding are finite and mean nothing. ``cu_seqlens`` (sequences + 1,) marks packed sequences
        in a batch of 1. The two exclude each other.
        """
        ...

    def step(self, x: Tensor, state: MixerState = None) -> tuple[Tensor, MixerState]:
        """Mix one token (batch, width) after ``state``; gives the output and the next state."""
        ...

    def init_state(
        self,
        batch_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> MixerState:
        """The state before the first token of ``batch_size`` sequences."""
        ...


MixerFactory: TypeAlias = Callable[..., nn.Module]

_REGISTRY: dict[str, MixerFactory] = {}


def register_mixer(name: str, factory: MixerFactory | None = None) -> Any:
    """Make a mixer available to language models under ``name``.

    Args:
        name: the name in :class:`rankone.nn.LanguageModelConfig`.
        factory: a class or function called as the constructor in :class:`Mixer`; without it,
            the result is a decorator.

    Returns:
        ``factory``, or the decorator.

    Raises:
        ValueError: if the name is taken by another factory.

    Example:
        >>> from rankone.nn import LightningAttention, register_mixer
        >>> _ = register_mixer("lightning_attention", LightningAttention)
    """

    def register(factory: MixerFactory) -> MixerFactory:
        if _REGISTRY.get(name, factory) is not factory:
            raise ValueError(f"mixer name {name!r} is taken by {_REGISTRY[name].__name__}")
        _REGISTRY[name] = factory
        return factory

    return register if factory is None else register(factory)


def registered_mixers() -> list[str]:
    """The names that :func:`register_mixer` has made available, in order.

    Returns:
        Names that :func:`build_mixer` and :class:`rankone.nn.LanguageModelConfig` take.

    Example:
        >>> from rankone.nn import registered_mixers
        >>> "delta_net" in registered_mixers()
        True
    """
    return sorted(_REGISTRY)


def mixer_name(factory: object) -> str | None:
    """The name a factory is registered under, or None."""
    return next((name for name, known in _REGISTRY.items() if known is factory), None)


def build_mixer(
    mixer: str | MixerFactory,
    hidden_size: int,
    num_heads: int,
    *,
    layer_idx: int = 0,
    num_layers: int = 1,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **options: Any,
) -> nn.Module:
    """One mixer from its registered name or its factory.

    Of ``layer_idx``, ``num_layers``, ``device`` and ``dtype`` the factory is given those that it
    names; ``options`` are given as they are.

    Args:
        mixer: a name of :func:`registered_mixers`, or a factory as :func:`register_mixer` takes.
        hidden_size: width of the model.
        num_heads: number of heads.
        layer_idx: index of the layer, from 0.
        num_layers: number of layers of the model.
        device, dtype: of the parameters.
        options: further options of the mixer.

    Returns:
        The layer.

    Raises:
        ValueError: for an unregistered name.
        TypeError: for options that the factory does not take, or a result without the methods of
            :class:`Mixer`.

    Example:
        >>> from rankone.nn import build_mixer
        >>> build_mixer("softmax_attention", 32, 4, window_size=16).window_size
        16
    """
    if isinstance(mixer, str):
        if mixer not in _REGISTRY:
            raise ValueError(f"mixer must be one of {registered_mixers()}, got {mixer!r}")
        mixer = _REGISTRY[mixer]
    accepted = inspect.signature(mixer).parameters
    context = {
        "layer_idx": layer_idx,
        "num_layers": num_layers,
        "device": device,
        "dtype": dtype,
    }
    context = {name: value for name, value in context.items() if name in accepted}
    return check_mixer(mixer(hidden_size, num_heads, **{**context, **options}))


def returns_router(module: object) -> bool:
    """Whether a mixer routes its tokens and can say how."""
    return bool(getattr(module, "returns_router", False))


def check_mixer(module: object) -> nn.Module:
    """Require a module with the methods of :class:`Mixer`."""
    if not isinstance(module, nn.Module) or not isinstance(module, Mixer):
        raise TypeError(
            "a mixer must be a torch.nn.Module with forward, step and init_state "
            f"(see rankone.nn.Mixer), got {type(module).__name__}"
        )
    return module


def check_heads(
    hidden_size: int, num_heads: int, head_dim: int | None, num_kv_heads: int | None
) -> tuple[int, int]:
    """Head width and number of key-value heads, with their defaults filled in."""
    given = {"hidden_size": hidden_size, "num_heads": num_heads, "head_dim": head_dim}
    for name, value in (given | {"num_kv_heads": num_kv_heads}).items():
        if value is not None:
            check_integer(name, value)
    if hidden_size < 1 or num_heads < 1:
        raise ValueError(
            f"hidden_size and num_heads must be at least 1, got {hidden_size} and {num_heads}"
        )
    if head_dim is None:
        if hidden_size % num_heads:
            raise ValueError(
                "hidden_size must be a multiple of num_heads when head_dim is not given, "
                f"got hidden_size {hidden_size} and num_heads {num_heads}"
            )
        head_dim = hidden_size // num_heads
    check_size("head_dim", head_dim)
    num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
    if num_kv_heads < 1 or num_heads % num_kv_heads:
        raise ValueError(
            f"num_heads must be a multiple of num_kv_heads, got {num_heads} and {num_kv_heads}"
        )
    return head_dim, num_kv_heads


def check_sequence(
    x: Tensor,
    hidden_size: int,
    attention_mask: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor | None, int]:
    """Check a mixer's input; gives the mask as booleans and the number of sequences."""
    check_tensor("x", x)
    check_floating("x", x)
    if x.ndim != 3 or x.shape[-1] != hidden_size:
        raise ValueError(f"x must have shape (batch, time, {hidden_size}), got shape {shape_of(x)}")
    if cu_seqlens is not None:
        if attention_mask is not None:
            raise ValueError(
                "attention_mask must be None when cu_seqlens is given: packed input has no padding"
            )
        check_cu_seqlens(cu_seqlens, x.shape[0])
        return None, cu_seqlens.shape[0] - 1
    return check_attention_mask(attention_mask, x), x.shape[0]


def check_attention_mask(attention_mask: Tensor | None, x: Tensor) -> Tensor | None:
    """The mask as booleans, after checking it against the (batch, time) of ``x``."""
    if attention_mask is None:
        return None
    check_shape("attention_mask", attention_mask, x.shape[:2], "batch, time")
    if attention_mask.is_floating_point() or attention_mask.is_complex():
        raise TypeError(
            "attention_mask must be boolean or integer, 1 on tokens and 0 on padding, "
            f"got {attention_mask.dtype}"
        )
    return attention_mask != 0


def check_token(x: Tensor, hidden_size: int) -> None:
    """Check the input of a mixer's ``step``."""
    check_tensor("x", x)
    check_floating("x", x)
    if x.ndim != 2 or x.shape[-1] != hidden_size:
        raise ValueError(f"x must have shape (batch, {hidden_size}), got shape {shape_of(x)}")
