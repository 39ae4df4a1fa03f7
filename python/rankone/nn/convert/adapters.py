"""Attention adapters: how a conversion reads the attention modules of other libraries.

A conversion replaces what stands between the projections and the output map of an attention
module. An :class:`AttentionAdapter` tells it, for one class of modules, everything else:

    spec = adapter.describe(module)               # heads, widths, causal, scale, layer index
    call = adapter.read_call(module, args, kwargs)  # hidden states, padding, rotary, state
    q, k, v = adapter.project(module, call)       # (B, T, H | Hk, d), q/k norms applied, unrotated
    q, k = adapter.rotate(module, call, q, k)     # as they are where there is no rotary embedding
    heads, state = ...                            # the conversion's own part, heads (B, T, H, d)
    return adapter.finish(module, call, heads, state)  # output map, cache, the caller's format

``call.state`` is what the conversion gave to ``finish`` for the tokens before (a tuple of tensors
with the sequence as first axis, or None at the start) and ``call.return_state`` says whether a
state is wanted; where it is kept (a ``RecurrentCache`` of a transformers model, a mixer state of a
rankone model) is the adapter's business. :func:`find_attention` lists the modules that have an
adapter, in the order of the model; :func:`register_attention_adapter` adds a class. The adapters of
transformers are found by class name, so that library is never imported here. The grouped-head
rules and the set of adapters are rankone's own design.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rankone._arguments import check_instance
from rankone.nn.convert.cache import RecurrentCache
from rankone.nn.mixer import check_sequence
from rankone.nn.packing import token_positions
from rankone.nn.rotary import apply_rotary
from rankone.nn.softmax_attention import SoftmaxAttention


@dataclass(frozen=True)
class AttentionSpec:
    """What an attention module is, as far as a conversion needs it.

    Attributes:
        num_heads: query heads H.
        num_kv_heads: key and value heads Hk; query head h reads kv head h // (H / Hk).
        head_dim: width d of a head.
        causal: whether a token sees only itself and the past; None where every call says so.
        scale: factor of the dot products in the softmax.
        layer_idx: index of the layer in a transformers cache, or None.
        rotary: whether queries and keys are rotated.
        window: number of last tokens that are seen, or None for all.
        dropout: dropout of the softmax weights.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    causal: bool | None
    scale: float
    layer_idx: int | None = None
    rotary: bool = False
    window: int | None = None
    dropout: float = 0.0


@dataclass
class AttentionCall:
    """One call of an attention module, in one form for all libraries.

    Attributes:
        hidden: (B, T, width) input.
        causal: whether a token sees only itself and the past.
        padding_mask: (B, T) boolean, True on tokens, or None where there is no padding.
        rotary: (cos, sin), each (1 or B, T, d), or integer positions (B, T), as the adapter's
            ``rotate`` takes them; None without a rotary embedding.
        state: the conversion's state after the tokens before, or None at the start.
        return_state: whether the state after this call is wanted.
        cu_seqlens: (sequences + 1,) offsets of packed sequences, or None.
        context: what the adapter's ``finish`` needs to know.
    """

    hidden: Tensor
    causal: bool
    padding_mask: Tensor | None = None
    rotary: Any = None
    state: tuple[Tensor, ...] | None = None
    return_state: bool = False
    cu_seqlens: Tensor | None = None
    context: dict[str, Any] = field(default_factory=dict)


class AttentionAdapter:
    """Base of the adapters that let a conversion read one class of attention modules.

    A subclass defines :meth:`describe`, :meth:`read_call`, :meth:`project`, :meth:`output` and
    :meth:`finish`, and is put to use by :func:`register_attention_adapter`.

    Attributes:
        projections: name of the linear map of queries, keys, values and outputs in the module,
            under the keys ``q_proj``, ``k_proj``, ``v_proj`` and ``o_proj``; a map that is not a
            submodule of its own is left out.
    """

    projections: ClassVar[Mapping[str, str]] = {
        "q_proj": "q_proj",
        "k_proj": "k_proj",
        "v_proj": "v_proj",
        "o_proj": "o_proj",
    }

    def accepts(self, module: nn.Module, parent: nn.Module, name: str) -> bool:
        """Whether the module, child ``name`` of ``parent``, is self-attention (default yes)."""
        return True

    def describe(self, module: nn.Module) -> AttentionSpec:
        """Sizes and kind of the module."""
        raise TypeError(f"{type(self).__name__} must define describe")

    def read_call(
        self, module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> AttentionCall:
        """The arguments of the module's ``forward`` as an :class:`AttentionCall`."""
        raise TypeError(f"{type(self).__name__} must define read_call")

    def project(self, module: nn.Module, call: AttentionCall) -> tuple[Tensor, Tensor, Tensor]:
        """q (B, T, H, d), k and v (B, T, Hk, d): norms of queries and keys applied, unrotated."""
        raise TypeError(f"{type(self).__name__} must define project")

    def rotate(
        self, module: nn.Module, call: AttentionCall, q: Tensor, k: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Queries and keys with their positions applied (default: as they are)."""
        return q, k

    def output(self, module: nn.Module, call: AttentionCall, heads: Tensor) -> Tensor:
        """The module's output map of (B, T, H, d) heads: (B, T, width)."""
        raise TypeError(f"{type(self).__name__} must define output")

    def finish(
        self,
        module: nn.Module,
        call: AttentionCall,
        heads: Tensor,
        state: tuple[Tensor, ...] | None,
    ) -> Any:
        """Store the state where the caller keeps it and give the results that it expects."""
        raise TypeError(f"{type(self).__name__} must define finish")


class FoundAttention(NamedTuple):
    """One attention module of a model: its attribute path, itself and its adapter."""

    path: str
    module: nn.Module
    adapter: AttentionAdapter


# Adapters by class, and by "module.qualname" for libraries that are not imported here.
_ADAPTERS: dict[type[nn.Module] | str, AttentionAdapter] = {}


def register_attention_adapter(
    module_class: type[nn.Module] | str, adapter: AttentionAdapter
) -> None:
    """Let conversions read attention modules of a class and its subclasses.

    Args:
        module_class: the class, or its full dotted name where importing it is to be avoided.
        adapter: how to read it; an earlier adapter of the same class is replaced.

    Raises:
        TypeError: for a class that is not of modules, or an adapter of another type.

    Example:
        >>> from rankone.nn import SoftmaxAttention
        >>> from rankone.nn.convert import RankoneAttentionAdapter, register_attention_adapter
        >>> class MyAttention(SoftmaxAttention):
        ...     pass
        >>> register_attention_adapter(MyAttention, RankoneAttentionAdapter())
    """
    if not isinstance(module_class, str) and not (
        isinstance(module_class, type) and issubclass(module_class, nn.Module)
    ):
        raise TypeError(
            f"module_class must be a subclass of torch.nn.Module or its name, got {module_class!r}"
        )
    if not isinstance(adapter, AttentionAdapter):
        raise TypeError(f"adapter must be an AttentionAdapter, got {type(adapter).__name__}")
    _ADAPTERS[module_class] = adapter


def attention_adapter(module: nn.Module) -> AttentionAdapter | None:
    """The adapter of the nearest class of a module that has one, or None."""
    for kind in type(module).__mro__:
        name = f"{kind.__module__}.{kind.__qualname__}"
        adapter = _ADAPTERS.get(kind) or _ADAPTERS.get(name)
        if adapter is not None:
            return adapter
    return None


def find_attention(model: nn.Module, layers: Iterable[int] | None = None) -> list[FoundAttention]:
    """The self-attention modules of a model that have an adapter, in the model's order.

    Args:
        model: any module; a model that is itself an attention module has the path ``""``.
        layers: indices into that order (negative ones count from the end); None gives all.

    Returns:
        What was found, each with its path in the model, its adapter and its description.

    Raises:
        ValueError: if there is none, or an index is out of range.
        TypeError: for an index that is not an integer.

    Example:
        >>> from torch import nn
        >>> from rankone.nn import SoftmaxAttention
        >>> from rankone.nn.convert import find_attention
        >>> model = nn.Sequential(SoftmaxAttention(32, 4), nn.Linear(32, 32))
        >>> [attention.path for attention in find_attention(model)]
        ['0']
    """
    check_instance("model", model, nn.Module)
    found: list[FoundAttention] = []
    inside: str | None = None
    for path, module in model.named_modules():
        if inside is not None and path.startswith(inside):
            continue  # a part of the attention module before
        adapter = attention_adapter(module)
        if adapter is None:
            continue
        parent, name = parent_of(model, path)
        if adapter.accepts(module, parent, name):
            found.append(FoundAttention(path, module, adapter))
            inside = path + "." if path else ""
    if not found:
        raise ValueError(
            f"no supported attention module in {type(model).__name__}; "
            "register one with register_attention_adapter"
        )
    if layers is None:
        return found
    chosen = []
    for layer in map(operator.index, layers):
        if not -len(found) <= layer < len(found):
            raise ValueError(f"layers must be in range({len(found)}), got {layer}")
        chosen.append(layer % len(found))
    return [found[layer] for layer in sorted(set(chosen))]


def parent_of(model: nn.Module, path: str) -> tuple[nn.Module, str]:
    """The module that holds the one at ``path``, and its name there."""
    parent, _, name = path.rpartition(".")
    return model.get_submodule(parent), name


def copied(model: nn.Module, inplace: bool) -> nn.Module:
    """The model itself, or a copy of it that shares no parameter."""
    return model if inplace else copy.deepcopy(model)


def visible_tokens(attention_mask: Tensor | None, time: int) -> Tensor | None:
    """Padding mask (B, T) of the current tokens from a mask of a transformers model.

    The mask is (B, keys), or (B, 1, T, keys) as booleans or as numbers to add to the scores; the
    last ``time`` keys are the current tokens, and a token is real where it sees itself.
    """
    if attention_mask is None:
        return None
    if attention_mask.ndim == 4:
        mask = attention_mask[:, 0, -time:, -time:].diagonal(dim1=-2, dim2=-1)
        if mask.dtype != torch.bool:
            mask = mask == 0 if mask.is_floating_point() else mask != 0
        return mask
    if attention_mask.ndim == 2:
        return attention_mask[:, -time:] != 0
    raise ValueError(
        "attention_mask must have shape (batch, keys) or (batch, 1, time, keys), "
        f"got {tuple(attention_mask.shape)}"
    )


# Attribute of a mask that check_only_padding has let pass.
_CHECKED = "_rankone_only_padding"


def check_only_padding(attention_mask: Tensor | None, causal: bool, window: int | None) -> None:
    """Require a 4-D mask to hide nothing but padding and, where causal, the future.

    A recurrent layer cannot follow other masks (packed texts, prefixes), and would be wrong in
    silence. A model gives one mask to all its layers, so a mask that passed is marked.
    """
    if attention_mask is None or attention_mask.ndim != 4 or window is not None:
        return
    if getattr(attention_mask, _CHECKED, None) == causal:
        return
    mask = attention_mask if attention_mask.dtype == torch.bool else attention_mask == 0
    time, keys = mask.shape[-2:]
    seen = mask[:, 0].sum(-1)
    key_is_token = mask[:, 0].any(1)
    if causal:
        expected = key_is_token.cumsum(1)[:, keys - time :]
    else:
        expected = key_is_token.sum(1, keepdim=True).expand_as(seen)
    token = visible_tokens(mask, time)
    if bool(((seen != expected) & cast(Tensor, token)).any()):
        raise ValueError(
            "attention_mask must hide only padding"
            + (" and later tokens" if causal else "")
            + " for a converted layer (packed texts and block masks are not supported)"
        )
    setattr(attention_mask, _CHECKED, causal)


class TransformersAdapter(AttentionAdapter):
    """What the attention modules of transformers share: call arguments, cache and results."""

    def read_call(
        self, module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> AttentionCall:
        spec = self.describe(module)
        given = dict(zip(self.positional, args, strict=False)) | dict(kwargs)
        if given.get("encoder_hidden_states") is not None:
            raise ValueError("encoder_hidden_states must be None: cross-attention has no adapter")
        hidden = given["hidden_states"]
        mask = given.get("attention_mask")
        causal = bool(spec.causal)
        check_only_padding(mask, causal, spec.window)
        cache = given.get("past_key_values", given.get("past_key_value"))
        state = None
        if cache is not None and not isinstance(cache, RecurrentCache):
            raise ValueError(
                "past_key_values must be a RecurrentCache for a converted layer, "
                f"got {type(cache).__name__}"
            )
        if cache is not None:
            if spec.layer_idx is None:
                raise ValueError("the attention module has no layer_idx to keep a state under")
            state = cache.state(spec.layer_idx)
        return AttentionCall(
            hidden=hidden,
            causal=causal,
            padding_mask=visible_tokens(mask, hidden.shape[1]),
            rotary=given.get("position_embeddings"),
            state=state,
            return_state=cache is not None,
            context={"cache": cache, "layer_idx": spec.layer_idx, "attention_mask": mask},
        )

    # Names of the first arguments of the module's forward.
    positional: ClassVar[tuple[str, ...]] = ("hidden_states",)

    def finish(
        self,
        module: nn.Module,
        call: AttentionCall,
        heads: Tensor,
        state: tuple[Tensor, ...] | None,
    ) -> Any:
        cache = call.context["cache"]
        if cache is not None:
            cache.set_state(call.context["layer_idx"], state, tokens=call.hidden.shape[1])
        return self.output(module, call, heads), None


class BertAttentionAdapter(TransformersAdapter):
    """Self-attention of Bert and Roberta: three maps; the output map is another module's."""

    projections: ClassVar[Mapping[str, str]] = {
        "q_proj": "query",
        "k_proj": "key",
        "v_proj": "value",
    }
    positional: ClassVar[tuple[str, ...]] = ("hidden_states", "attention_mask")

    def describe(self, module: Any) -> AttentionSpec:
        heads = module.num_attention_heads
        width = module.attention_head_size
        causal = bool(getattr(module, "is_causal", False) or getattr(module, "is_decoder", False))
        return AttentionSpec(
            num_heads=heads,
            num_kv_heads=heads,
            head_dim=width,
            causal=causal,
            scale=width**-0.5,
            layer_idx=getattr(module, "layer_idx", None),
            dropout=module.dropout.p,
        )

    def project(self, module: Any, call: AttentionCall) -> tuple[Tensor, Tensor, Tensor]:
        sizes = (module.num_attention_heads, module.attention_head_size)
        x = call.hidden
        q, k, v = (
            part(x).unflatten(-1, sizes) for part in (module.query, module.key, module.value)
        )
        return q, k, v

    def output(self, module: Any, call: AttentionCall, heads: Tensor) -> Tensor:
        return heads.flatten(-2)


class GPT2AttentionAdapter(TransformersAdapter):
    """Self-attention of GPT-2: one joint map of queries, keys and values."""

    projections: ClassVar[Mapping[str, str]] = {"o_proj": "c_proj"}
    positional: ClassVar[tuple[str, ...]] = ("hidden_states", "past_key_values", "attention_mask")

    def accepts(self, module: nn.Module, parent: nn.Module, name: str) -> bool:
        return not getattr(module, "is_cross_attention", False)

    def describe(self, module: Any) -> AttentionSpec:
        scale = 1.0
        if module.scale_attn_weights:
            scale = module.head_dim**-0.5
        if module.scale_attn_by_inverse_layer_idx:
            scale /= module.layer_idx + 1
        return AttentionSpec(
            num_heads=module.num_heads,
            num_kv_heads=module.num_heads,
            head_dim=module.head_dim,
            causal=True,
            scale=scale,
            layer_idx=module.layer_idx,
            dropout=module.attn_dropout.p,
        )

    def project(self, module: Any, call: AttentionCall) -> tuple[Tensor, Tensor, Tensor]:
        sizes = (module.num_heads, module.head_dim)
        parts = module.c_attn(call.hidden).split(module.split_size, dim=-1)
        q, k, v = (part.unflatten(-1, sizes) for part in parts)
        return q, k, v

    def output(self, module: Any, call: AttentionCall, heads: Tensor) -> Tensor:
        return module.resid_dropout(module.c_proj(heads.flatten(-2)))


class LlamaAttentionAdapter(TransformersAdapter):
    """Self-attention of Llama, Mistral, Qwen2 and Qwen3: rotary, grouped heads, q/k norms."""

    positional: ClassVar[tuple[str, ...]] = (
        "hidden_states",
        "position_embeddings",
        "attention_mask",
        "past_key_values",
    )

    def describe(self, module: Any) -> AttentionSpec:
        config = module.config
        return AttentionSpec(
            num_heads=config.num_attention_heads,
            num_kv_heads=config.num_key_value_heads,
            head_dim=module.head_dim,
            causal=True,
            scale=module.scaling,
            layer_idx=module.layer_idx,
            rotary=True,
            window=getattr(module, "sliding_window", getattr(config, "sliding_window", None)),
            dropout=module.attention_dropout,
        )

    def project(self, module: Any, call: AttentionCall) -> tuple[Tensor, Tensor, Tensor]:
        x = call.hidden
        q, k, v = (
            part(x).unflatten(-1, (-1, module.head_dim))
            for part in (module.q_proj, module.k_proj, module.v_proj)
        )
        if hasattr(module, "q_norm"):
            q, k = module.q_norm(q), module.k_norm(k)
        return q, k, v

    def rotate(
        self, module: nn.Module, call: AttentionCall, q: Tensor, k: Tensor
    ) -> tuple[Tensor, Tensor]:
        if call.rotary is None:
            raise ValueError("position_embeddings must be given: (cos, sin) of the tokens")
        cos, sin = (part[:, :, None] for part in call.rotary)
        return q * cos + _rotated_half(q) * sin, k * cos + _rotated_half(k) * sin

    def output(self, module: Any, call: AttentionCall, heads: Tensor) -> Tensor:
        return module.o_proj(heads.flatten(-2))


def _rotated_half(x: Tensor) -> Tensor:
    """(-second half, first half) of the channels: the partner of every channel in its pair."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)


class MultiheadAttentionAdapter(AttentionAdapter):
    """``torch.nn.MultiheadAttention`` used as self-attention, causal or not by its call."""

    projections: ClassVar[Mapping[str, str]] = {"o_proj": "out_proj"}
    positional: ClassVar[tuple[str, ...]] = (
        "query",
        "key",
        "value",
        "key_padding_mask",
        "need_weights",
        "attn_mask",
        "average_attn_weights",
        "is_causal",
    )

    def accepts(self, module: nn.Module, parent: nn.Module, name: str) -> bool:
        cross = isinstance(parent, nn.TransformerDecoderLayer) and name == "multihead_attn"
        return not cross

    def describe(self, module: Any) -> AttentionSpec:
        if module.bias_k is not None or module.add_zero_attn:
            raise ValueError(
                "MultiheadAttention must have add_bias_kv and add_zero_attn False to be converted"
            )
        if not (module.kdim == module.vdim == module.embed_dim):
            raise ValueError(
                "MultiheadAttention must have kdim and vdim equal to embed_dim to be converted, "
                f"got {module.kdim}, {module.vdim} and {module.embed_dim}"
            )
        return AttentionSpec(
            num_heads=module.num_heads,
            num_kv_heads=module.num_heads,
            head_dim=module.head_dim,
            causal=None,
            scale=module.head_dim**-0.5,
            dropout=module.dropout,
        )

    def read_call(
        self, module: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> AttentionCall:
        given = dict(zip(self.positional, args, strict=False)) | dict(kwargs)
        query = given["query"]
        if not (_same(query, given["key"]) and _same(query, given["value"])):
            raise ValueError(
                "query, key and value must be one tensor: only self-attention converts"
            )
        batched = query.ndim == 3
        hidden = query if batched else query[None]
        if batched and not module.batch_first:
            hidden = hidden.transpose(0, 1)
        time = hidden.shape[1]
        causal = bool(given.get("is_causal", False))
        attn_mask = given.get("attn_mask")
        if attn_mask is not None:
            hidden_keys = attn_mask if attn_mask.dtype == torch.bool else attn_mask != 0
            future = torch.ones(time, time, dtype=torch.bool, device=hidden.device).triu(1)
            if hidden_keys.shape[-2:] != future.shape or not bool((hidden_keys == future).all()):
                raise ValueError(
                    "attn_mask must be None or the causal mask for a converted layer, "
                    f"got another mask of shape {tuple(attn_mask.shape)}"
                )
            causal = True
        elif causal:
            raise ValueError("attn_mask must be given when is_causal is True")
        padding = given.get("key_padding_mask")
        mask = None
        if padding is not None:
            padding = padding if batched else padding[None]
            mask = ~padding if padding.dtype == torch.bool else padding == 0
        return AttentionCall(
            hidden=hidden, causal=causal, padding_mask=mask, context={"batched": batched}
        )

    def project(self, module: Any, call: AttentionCall) -> tuple[Tensor, Tensor, Tensor]:
        joint = F.linear(call.hidden, module.in_proj_weight, module.in_proj_bias)
        sizes = (module.num_heads, module.head_dim)
        q, k, v = (part.unflatten(-1, sizes) for part in joint.chunk(3, dim=-1))
        return q, k, v

    def output(self, module: Any, call: AttentionCall, heads: Tensor) -> Tensor:
        return module.out_proj(heads.flatten(-2))

    def finish(
        self, module: Any, call: AttentionCall, heads: Tensor, state: tuple[Tensor, ...] | None
    ) -> Any:
        y = self.output(module, call, heads)
        if not call.context["batched"]:
            return y[0], None
        return (y if module.batch_first else y.transpose(0, 1)), None


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are one, or the same view of one."""
    return one is other or (
        one.data_ptr() == other.data_ptr()
        and one.shape == other.shape
        and one.stride() == other.stride()
    )


class RankoneAttentionAdapter(AttentionAdapter):
    """rankone's own softmax layers: the mixer contract, rotary by positions.

    The mixer state is the conversion's tuple with the number of tokens read (B,) at its end.

    Example:
        >>> from rankone.nn import SoftmaxAttention
        >>> from rankone.nn.convert import RankoneAttentionAdapter
        >>> RankoneAttentionAdapter().describe(SoftmaxAttention(32, 4)).num_heads
        4
    """

    def describe(self, module: Any) -> AttentionSpec:
        return AttentionSpec(
            num_heads=module.num_heads,
            num_kv_heads=module.num_kv_heads,
            head_dim=module.head_dim,
            causal=True,
            scale=module.head_dim**-0.5,
            rotary=True,
            window=module.window_size,
        )

    def read_call(
        self, module: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> AttentionCall:
        given = dict(zip(("x",), args, strict=False)) | dict(kwargs)
        x, cu_seqlens, state = given["x"], given.get("cu_seqlens"), given.get("state")
        mask, sequences = check_sequence(
            x, module.hidden_size, given.get("attention_mask"), cu_seqlens
        )
        if state is not None and not isinstance(state, tuple):
            raise TypeError(f"state must be a tuple of tensors, got {type(state).__name__}")
        start = x.new_zeros(sequences, dtype=torch.int64) if state is None else state[-1]
        positions, length = token_positions(x, mask, cu_seqlens, start)
        return AttentionCall(
            hidden=x,
            causal=True,
            padding_mask=mask,
            rotary=positions,
            state=None if state is None else tuple(state[:-1]),
            return_state=bool(given.get("return_state", False)),
            cu_seqlens=cu_seqlens,
            context={"length": length},
        )

    def project(self, module: Any, call: AttentionCall) -> tuple[Tensor, Tensor, Tensor]:
        x = call.hidden
        q, k, v = (
            part(x).unflatten(-1, (-1, module.head_dim))
            for part in (module.q_proj, module.k_proj, module.v_proj)
        )
        return q, k, v

    def rotate(
        self, module: Any, call: AttentionCall, q: Tensor, k: Tensor
    ) -> tuple[Tensor, Tensor]:
        base = module.rope_base
        return apply_rotary(q, call.rotary, base=base), apply_rotary(k, call.rotary, base=base)

    def output(self, module: Any, call: AttentionCall, heads: Tensor) -> Tensor:
        return module.o_proj(heads.flatten(-2))

    def finish(
        self,
        module: nn.Module,
        call: AttentionCall,
        heads: Tensor,
        state: tuple[Tensor, ...] | None,
    ) -> Any:
        y = self.output(module, call, heads)
        return (y, (*(state or ()), call.context["length"])) if call.return_state else y


_BERT = BertAttentionAdapter()
_LLAMA = LlamaAttentionAdapter()
for _family, _name, _adapter in (
    ("bert", "BertSelfAttention", _BERT),
    ("roberta", "RobertaSelfAttention", _BERT),
    ("gpt2", "GPT2Attention", GPT2AttentionAdapter()),
    ("llama", "LlamaAttention", _LLAMA),
    ("mistral", "MistralAttention", _LLAMA),
    ("qwen2", "Qwen2Attention", _LLAMA),
    ("qwen3", "Qwen3Attention", _LLAMA),
):
    register_attention_adapter(
        f"transformers.models.{_family}.modeling_{_family}.{_name}", _adapter
    )
register_attention_adapter(nn.MultiheadAttention, MultiheadAttentionAdapter())
register_attention_adapter(SoftmaxAttention, RankoneAttentionAdapter())
