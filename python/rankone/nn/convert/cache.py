"""RecurrentCache: the states of a converted model, passed to transformers as ``past_key_values``.

    cache = RecurrentCache()
    model.generate(tokens, past_key_values=cache)        # or model(tokens, past_key_values=cache)
    cache.state(layer)                                   # the layer's tuple of tensors, or None
    cache.set_state(layer, state, tokens=T)              # after reading T more tokens
    cache.nbytes, cache.softmax_nbytes, cache.seq_length

A state is a tuple of tensors, or of nested tuples, lists and dicts of them, with the sequence as
first axis. A layer kept as softmax calls ``update`` and gets its grown keys and values back. The
rest of the methods are those that transformers asks of a cache (lengths for positions and masks,
reordering of beams), which is matched by name: this file needs no transformers.
:func:`install_recurrent_cache` lets a converted model make its own cache where none is given. Own
design.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree


class RecurrentCache:
    """States of the layers of a converted transformers model, of constant size in the length.

    Pass a new one as ``past_key_values`` to the model or to its ``generate``; it is changed in
    place. Layers that stayed softmax keep growing keys and values in it, counted apart.

    Attributes:
        seq_length: number of tokens read, padding included.
        nbytes: bytes of the recurrent states: of their floating-point tensors, so without the
            counters and masks of a few bytes a sequence.
        softmax_nbytes: bytes of the keys and values of layers kept as softmax.

    Example:
        >>> import torch
        >>> from rankone.nn.convert import RecurrentCache
        >>> cache = RecurrentCache()
        >>> cache.set_state(0, (torch.zeros(1, 2, 4, 4),), tokens=7)
        >>> cache.seq_length, cache.nbytes, cache.softmax_nbytes
        (7, 128, 0)
    """

    # What transformers asks of a cache: it grows as it is used and is not compiled.
    is_compileable = False
    is_initialized = True
    is_croppable = False

    def __init__(self) -> None:
        self._states: dict[int, Any] = {}
        self._keys_values: dict[int, tuple[Tensor, Tensor]] = {}
        self._lengths: dict[int, int] = {}

    def state(self, layer_idx: int) -> Any:
        """The state of a layer, or None before its first token."""
        return self._states.get(layer_idx)

    def set_state(self, layer_idx: int, state: Any, *, tokens: int) -> None:
        """Keep a layer's state after it has read ``tokens`` more tokens."""
        self._states[layer_idx] = state
        self._lengths[layer_idx] = self._lengths.get(layer_idx, 0) + tokens

    def keys_values(self, layer_idx: int) -> tuple[Tensor, Tensor] | None:
        """Keys and values (B, Hk, T, d) of a layer kept as softmax, or None."""
        return self._keys_values.get(layer_idx)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Append keys and values (B, Hk, T, d) of a softmax layer; gives all of them."""
        before = self._keys_values.get(layer_idx)
        if before is not None:
            key_states = torch.cat([before[0], key_states], dim=-2)
            value_states = torch.cat([before[1], value_states], dim=-2)
        self._keys_values[layer_idx] = (key_states, value_states)
        self._lengths[layer_idx] = key_states.shape[-2]
        return key_states, value_states

    @property
    def nbytes(self) -> int:
        """Bytes of the recurrent states."""
        return sum(
            tensor.numel() * tensor.element_size()
            for tensor in self._tensors(self._states)
            if tensor.is_floating_point()
        )

    @property
    def softmax_nbytes(self) -> int:
        """Bytes of the keys and values of layers kept as softmax."""
        return sum(t.numel() * t.element_size() for t in self._tensors(self._keys_values))

    @property
    def seq_length(self) -> int:
        """Tokens read so far."""
        return max(self._lengths.values(), default=0)

    @property
    def batch_size(self) -> int:
        """Number of sequences, -1 while empty."""
        first = next(self._tensors([self._states, self._keys_values]), None)
        return -1 if first is None else first.shape[0]

    def __len__(self) -> int:
        return max(self._lengths, default=-1) + 1

    def __bool__(self) -> bool:
        return True  # an empty cache is still a cache

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens read before this call."""
        return self.seq_length

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Position of the first token of this call."""
        return self.seq_length

    def get_mask_sizes(self, query_length: Any, layer_idx: int = 0) -> tuple[int, int]:
        """Number of keys that a mask covers, and the first of them."""
        if isinstance(query_length, Tensor):  # older versions give the positions of the queries
            query_length = query_length.shape[0]
        return self.seq_length + query_length, 0

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """No bound: -1."""
        return -1

    def get_max_cache_shape(self, layer_idx: int | None = None) -> int:
        """No bound: -1."""
        return -1

    @property
    def is_sliding(self) -> list[bool]:
        """Whether each layer keeps a window of keys: none does."""
        return [False] * len(self)

    @property
    def is_linear(self) -> list[bool]:
        """Whether each layer has a recurrent state."""
        return [layer in self._states for layer in range(len(self))]

    @property
    def is_dummy(self) -> list[bool]:
        """Whether each layer is a placeholder: none is."""
        return [False] * len(self)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Let every sequence continue that of the beam it came from."""
        self._map(lambda tensor: tensor.index_select(0, beam_idx.to(tensor.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every sequence."""
        self._map(lambda tensor: tensor.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some sequences."""
        self._map(lambda tensor: tensor[indices.to(tensor.device)])

    def reset(self) -> None:
        """Forget everything."""
        self._states.clear()
        self._keys_values.clear()
        self._lengths.clear()

    def crop(self, tokens_to_remove: int) -> None:
        """Refused unless it is of nothing: a recurrent state cannot be taken back."""
        if tokens_to_remove:
            raise ValueError(
                "a RecurrentCache cannot forget its last tokens: assisted decoding and "
                "contrastive search need the original model"
            )

    def activate_past_recording(self) -> None:
        """Refused: see :meth:`crop`."""
        self.crop(1)

    def __repr__(self) -> str:
        return (
            f"RecurrentCache(layers={len(self)}, seq_length={self.seq_length}, "
            f"nbytes={self.nbytes}, softmax_nbytes={self.softmax_nbytes})"
        )

    @staticmethod
    def _tensors(tree: Any) -> Iterator[Tensor]:
        return (leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor))

    def _map(self, function: Callable[[Tensor], Tensor]) -> None:
        def apply(leaf: Any) -> Any:
            return function(leaf) if isinstance(leaf, Tensor) else leaf

        self._states = pytree.tree_map(apply, self._states)
        self._keys_values = pytree.tree_map(apply, self._keys_values)


def install_recurrent_cache(model: nn.Module) -> None:
    """Let the transformers models in ``model`` make a :class:`RecurrentCache` by themselves.

    Before a call with an empty cache of another kind, or with none although one is to be made, the
    cache becomes a RecurrentCache, if a part of the model has a true attribute
    ``uses_recurrent_state``. So ``generate`` without ``past_key_values`` is recurrent too.
    """
    for module in model.modules():
        if not hasattr(module, "config") or _give_recurrent_cache in _pre_hooks(module):
            continue
        accepted = inspect.signature(module.forward).parameters
        if "past_key_values" in accepted and hasattr(module, "base_model_prefix"):
            module.register_forward_pre_hook(_give_recurrent_cache, with_kwargs=True)


def _pre_hooks(module: nn.Module) -> list[Any]:
    return list(module._forward_pre_hooks.values())


def _give_recurrent_cache(
    module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    cache = kwargs.get("past_key_values")
    if isinstance(cache, RecurrentCache):
        return None
    if not any(getattr(part, "uses_recurrent_state", False) for part in module.modules()):
        return None
    if cache is None:
        use_cache = kwargs.get("use_cache")
        if use_cache is None:
            use_cache = getattr(module.config, "use_cache", False) and not module.training
        if not use_cache:
            return args, {**kwargs, "use_cache": False}
    elif not hasattr(cache, "get_seq_length") or cache.get_seq_length():
        raise ValueError(
            "past_key_values must be a RecurrentCache (or empty) for a converted model, got "
            f"{type(cache).__name__} of an earlier call"
        )
    return args, {**kwargs, "past_key_values": RecurrentCache()}
