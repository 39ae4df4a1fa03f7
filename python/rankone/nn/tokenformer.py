"""TokenFormer: a Transformer whose linear maps are all attention over parameter tokens.

    x += Patt_o(attention(rope(Patt_q(h)), rope(Patt_k(h)), Patt_v(h))),  h = LN(x)
    x += Patt_ffn(LN(x))

LN has no weights, so that growth of the blocks is a matter of tokens alone. The model is a
configuration of :class:`rankone.nn.LanguageModel`, whose parts do the reading, the decoding and the
cache; this module has the attention layer, and growth of a whole model with its configuration.
Source: TokenFormer, arXiv 2410.23168.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from rankone._arguments import check_size
from rankone._model_files import read_model, write_model
from rankone.nn.language_model import Block, LanguageModel
from rankone.nn.language_model_config import LanguageModelConfig
from rankone.nn.mixer import MixerState, register_mixer
from rankone.nn.pattention import Growth, Pattention
from rankone.nn.softmax_attention import SoftmaxAttention
from rankone.ops.checks import check_rank

# Sizes of the paper's models, as arguments of TokenFormer; their vocabulary is VOCABULARY.
# "354M" and "757M" are the first and the last of the paper's series of growth.
VOCABULARY = 50304
SIZES: Mapping[str, Mapping[str, int]] = {
    "150M": {"num_layers": 12, "hidden_size": 768, "num_heads": 12},
    "450M": {"num_layers": 24, "hidden_size": 1024, "num_heads": 16},
    "900M": {"num_layers": 32, "hidden_size": 1280, "num_heads": 16},
    "1.5B": {"num_layers": 40, "hidden_size": 1536, "num_heads": 16},
    "354M": {
        "num_layers": 24,
        "hidden_size": 1024,
        "num_heads": 16,
        "attn_tokens": 768,
        "ffn_tokens": 3072,
    },
    "757M": {
        "num_layers": 24,
        "hidden_size": 1024,
        "num_heads": 16,
        "attn_tokens": 1792,
        "ffn_tokens": 7168,
    },
}

# Standard deviation of the initial embedding.
_EMBEDDING_STD = 0.02

_FILE = "model.safetensors"

# Key of the JSON configuration in the file's metadata.
_CONFIG_KEY = "rankone.tokenformer"


class TokenFormerAttention(SoftmaxAttention):
    """Causal softmax attention whose four projections are :class:`rankone.nn.Pattention`.

    Registered as the mixer ``"tokenformer_attention"``. It is softmax attention: its cache grows by
    one key and one value a token, and so does the time of a step; only with a ``window_size`` are
    they constant. The first ``rotary_pct`` of a head's channels turn, in halves as in GPT-NeoX, so
    that columns of the paper's value tokens mean what they mean there.

    Args:
        hidden_size: width of the input and the output.
        num_heads: heads, each hidden_size / num_heads wide.
        num_tokens: tokens of each projection; default ``hidden_size``.
        norm: score of the projections, see :func:`rankone.nn.functional.pattention`.
        rotary_pct: share of a head's channels that turn, rounded down to an even number.
        rope_base: base of the rotary angles.
        window_size: a token sees itself and the ``window_size - 1`` tokens before it; None sees
            the whole past.
        dropout: share of the projections' scores that is zeroed in training mode.
        value_init_std: standard deviation of initial value tokens; default
            2 / (num_layers * sqrt(hidden_size)).
        num_layers: layers of the model.
        device, dtype: of the parameters; torch's defaults where None.

    Raises:
        ValueError: for sizes that do not fit, an unknown norm, or shares out of range.

    Source: "TokenFormer: Rethinking Transformer Scaling with Tokenized Model Parameters",
    arXiv 2410.23168.

    Example:
        >>> import torch
        >>> from rankone.nn.tokenformer import TokenFormerAttention
        >>> layer = TokenFormerAttention(32, 4, num_tokens=48)
        >>> y, cache = layer(torch.randn(2, 20, 32), return_state=True)
        >>> y.shape, cache.keys.shape
        (torch.Size([2, 20, 32]), torch.Size([2, 20, 4, 8]))
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        *,
        num_tokens: int | None = None,
        norm: str = "l2_gelu",
        rotary_pct: float = 0.25,
        rope_base: float = 10000.0,
        window_size: int | None = None,
        dropout: float = 0.0,
        value_init_std: float | None = None,
        num_layers: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_size("num_layers", num_layers)

        def projection(inputs: int, outputs: int) -> Pattention:
            return Pattention(
                inputs,
                outputs,
                hidden_size if num_tokens is None else num_tokens,
                norm=norm,
                dropout=dropout,
                value_init_std=(
                    _value_std(num_layers, hidden_size)
                    if value_init_std is None
                    else value_init_std
                ),
                device=device,
                dtype=dtype,
            )

        super().__init__(
            hidden_size,
            num_heads,
            window_size=window_size,
            rope_base=rope_base,
            rotary_pct=rotary_pct,
            rope_interleaved=False,
            make_projection=projection,
        )

    @property
    def projections(self) -> tuple[Pattention, ...]:
        """The layers of queries, keys, values and outputs."""
        layers = (self.q_proj, self.k_proj, self.v_proj, self.o_proj)
        return cast("tuple[Pattention, ...]", layers)


register_mixer("tokenformer_attention", TokenFormerAttention)


class TokenFormerOutput(NamedTuple):
    """Result of :class:`TokenFormer`.

    Attributes:
        loss: mean cross-entropy in nats a predicted token, float32; None without labels.
        logits: (batch, time, vocab_size).
        past: one :class:`rankone.nn.AttentionCache` a layer; None without ``use_cache``.
    """

    loss: Tensor | None
    logits: Tensor
    past: tuple[MixerState, ...] | None = None


class TokenFormer(nn.Module):
    """A decoder language model of parameter tokens, which :meth:`grow` enlarges.

    The feed-forward part of a block is one :class:`rankone.nn.Pattention` of width d to d. There
    are no biases but that of the final LayerNorm.

    Args:
        vocab_size: number of tokens of the vocabulary.
        hidden_size: width d of the residual stream.
        num_layers: number of blocks.
        num_heads: attention heads, each hidden_size / num_heads wide.
        attn_tokens: parameter tokens of each of the four attention projections; default d.
        ffn_tokens: parameter tokens of the feed-forward part; default 4 d.
        norm: ``"l2_gelu"``, ``"gelu_l2"`` or ``"softmax"``; see
            :func:`rankone.nn.functional.pattention`.
        rotary_pct: share of a head's channels that turn with the position, the first ones, rounded
            down to an even number.
        rope_base: base of the rotary angles.
        tie_embeddings: whether the head is the embedding.
        dropout: share of the Pattention scores that is zeroed in training mode.
        gradient_checkpointing: recompute every block in the backward pass instead of keeping its
            activations.
        device, dtype: of the parameters; torch's defaults where None.

    Attributes:
        config: the arguments that make this model, as a dict that :meth:`grow` keeps up to date.
        model: the :class:`rankone.nn.LanguageModel` inside.

    Raises:
        ValueError: for sizes that do not fit, an unknown norm, or shares out of range.

    Source: "TokenFormer: Rethinking Transformer Scaling with Tokenized Model Parameters",
    arXiv 2410.23168; initial weights and sizes as its code. That the scale of a layer stays when it
    grows is this library's default, not that code's.

    Example:
        >>> import torch
        >>> from rankone.nn import TokenFormer
        >>> model = TokenFormer(64, hidden_size=32, num_layers=2, num_heads=4)
        >>> ids = torch.randint(64, (2, 12))
        >>> output = model(ids, labels=ids, use_cache=True)
        >>> _ = model.grow(attn_tokens=48, ffn_tokens=192)
        >>> torch.allclose(model(ids).logits, output.logits, atol=1e-4)
        True
        >>> model.generate(ids, 4, temperature=0.0).shape
        torch.Size([2, 16])
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        hidden_size: int = 768,
        num_layers: int = 12,
        num_heads: int = 12,
        attn_tokens: int | None = None,
        ffn_tokens: int | None = None,
        norm: str = "l2_gelu",
        rotary_pct: float = 0.25,
        rope_base: float = 10000.0,
        tie_embeddings: bool = True,
        dropout: float = 0.0,
        gradient_checkpointing: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        attn_tokens = hidden_size if attn_tokens is None else attn_tokens
        ffn_tokens = 4 * hidden_size if ffn_tokens is None else ffn_tokens
        for name, number in (
            ("hidden_size", hidden_size),
            ("num_layers", num_layers),
            ("attn_tokens", attn_tokens),
            ("ffn_tokens", ffn_tokens),
        ):
            check_size(name, number)
        self.config: dict[str, Any] = {
            "vocab_size": vocab_size,
            "hidden_size": hidden_size,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "attn_tokens": attn_tokens,
            "ffn_tokens": ffn_tokens,
            "norm": norm,
            "rotary_pct": rotary_pct,
            "rope_base": rope_base,
            "tie_embeddings": tie_embeddings,
            "dropout": dropout,
            "gradient_checkpointing": gradient_checkpointing,
        }
        self.model = LanguageModel(_language_model_config(self.config), device=device, dtype=dtype)

    def forward(
        self,
        input_ids: Tensor,
        *,
        labels: Tensor | None = None,
        past: tuple[MixerState, ...] | None = None,
        use_cache: bool = False,
        attention_mask: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
    ) -> TokenFormerOutput:
        """Logits of the next token at every position, and the loss where labels are given.

        Args:
            input_ids: (batch, time) int64 or int32.
            labels: (batch, time), aligned with ``input_ids`` and usually the same tensor: the loss
                at position t is of ``labels[:, t + 1]``. Labels of -100, labels at padding, and the
                first label of every packed sequence are left out.
            past: what an earlier call returned, to read on from there.
            use_cache: also return the cache after the last token.
            attention_mask: (batch, time), boolean or integer, 1 on tokens and 0 on padding.
            cu_seqlens: (sequences + 1,) int32 or int64, starts of packed sequences; batch is 1.

        Returns:
            :class:`TokenFormerOutput`.

        Raises:
            ValueError: for input_ids, labels, mask or past of the wrong shape.
            TypeError: for input_ids or labels that are not integers.
        """
        check_rank("input_ids", input_ids, ("batch", "time"))
        if input_ids.dtype not in (torch.int32, torch.int64):
            raise TypeError(f"input_ids must be int32 or int64, got {input_ids.dtype}")
        if past is not None and len(past) != len(self.model.blocks):
            raise ValueError(
                f"past must have one entry a layer ({len(self.model.blocks)}), got {len(past)}"
            )
        output = self.model(
            input_ids,
            labels=labels,
            state=past,
            return_state=use_cache,
            attention_mask=attention_mask,
            cu_seqlens=cu_seqlens,
        )
        return TokenFormerOutput(output.loss, output.logits, output.state)

    def generate(
        self,
        input_ids: Tensor,
        max_new_tokens: int,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        eos: int | None = None,
        attention_mask: Tensor | None = None,
        random_state: int | torch.Generator | None = None,
    ) -> Tensor:
        """Continue a prompt; see :func:`rankone.nn.generate`.

        The cache grows with the text, and so does the time of a token.
        """
        return self.model.generate(
            input_ids,
            max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            eos=eos,
            attention_mask=attention_mask,
            random_state=random_state,
        )

    def grow(
        self,
        *,
        attn_tokens: int | None = None,
        ffn_tokens: int | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        **grow_kwargs: Any,
    ) -> dict[nn.Parameter, nn.Parameter]:
        """Enlarge every layer to a total number of parameter tokens.

        Args:
            attn_tokens: tokens of each attention projection after growth; None leaves them.
            ffn_tokens: tokens of the feed-forward part after growth; None leaves them.
            optimizer: see :meth:`rankone.nn.Pattention.grow`.
            grow_kwargs: ``key_init``, ``value_init``, ``rescale``, ``allow_function_change`` and
                ``generator``, as there.

        Returns:
            Old parameters to new.

        Raises:
            ValueError: for a total below the present one, and as
                :meth:`rankone.nn.Pattention.grow`; the model is then as it was.
        """
        growth = Growth(optimizer=optimizer, **grow_kwargs)
        totals = {"attn_tokens": attn_tokens, "ffn_tokens": ffn_tokens}
        wanted = []
        for name, layer in self._layers():
            total = totals[name]
            if total is None or total == layer.num_tokens:
                continue
            if total < layer.num_tokens:
                raise ValueError(
                    f"{name} must be at least the present {layer.num_tokens}, got {total}"
                )
            growth.check(layer, total - layer.num_tokens)
            wanted.append((layer, total - layer.num_tokens))
        replaced: dict[nn.Parameter, nn.Parameter] = {}
        for layer, num_new in wanted:
            replaced |= growth.apply(layer, num_new)
        self.config |= {name: total for name, total in totals.items() if total is not None}
        self.model.config = _language_model_config(self.config)
        return replaced

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Write ``model.safetensors``, weights, scales and configuration, whole or not at all.

        Raises:
            ValueError: for a layer that was enlarged on its own, so that no configuration makes it.
        """
        for name, layer in self._layers():
            if layer.num_tokens != self.config[name]:
                raise ValueError(
                    f"every layer must have {name} = {self.config[name]} to be saved (grow the "
                    f"model, not its layers), got one of {layer.num_tokens}"
                )
        Path(directory).mkdir(parents=True, exist_ok=True)
        header = {_CONFIG_KEY: json.dumps(self.config, indent=2)}
        write_model(Path(directory) / _FILE, self.state_dict(), header)

    @classmethod
    def from_pretrained(
        cls, directory: str | os.PathLike[str], *, device: torch.device | str = "cpu"
    ) -> TokenFormer:
        """Read a model that :meth:`save_pretrained` wrote, in the dtype it was written in.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file holds no TokenFormer of this library.
        """
        path = Path(directory) / _FILE
        config, tensors = read_model(path, _CONFIG_KEY, "TokenFormer", device=device)
        dtype = tensors["model.embedding.weight"].dtype
        model = cls(**json.loads(config), device=device, dtype=dtype)
        model.load_state_dict(tensors)
        return model

    def _layers(self) -> Iterator[tuple[str, Pattention]]:
        """Every Pattention, under the entry of the configuration that has its size."""
        for module in self.model.blocks:
            block = cast(Block, module)
            for layer in cast(TokenFormerAttention, block.mixer).projections:
                yield "attn_tokens", layer
            yield "ffn_tokens", cast(Pattention, block.feed_forward)


def _value_std(num_layers: int, hidden_size: int) -> float:
    """Of initial value tokens: 2 / (L sqrt(d)), so that the residual stream keeps its size."""
    return 2 / (num_layers * math.sqrt(hidden_size))


def _language_model_config(config: Mapping[str, Any]) -> LanguageModelConfig:
    score = {"norm": config["norm"], "dropout": config["dropout"]}
    return LanguageModelConfig(
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        num_layers=config["num_layers"],
        num_heads=config["num_heads"],
        mixer="tokenformer_attention",
        mixer_kwargs={
            **score,
            "num_tokens": config["attn_tokens"],
            "rotary_pct": config["rotary_pct"],
            "rope_base": config["rope_base"],
        },
        feed_forward="pattention",
        intermediate_size=config["ffn_tokens"],
        feed_forward_kwargs={
            **score,
            "value_init_std": _value_std(config["num_layers"], config["hidden_size"]),
        },
        norm="plain_layernorm",
        final_norm="layernorm",
        tie_embeddings=config["tie_embeddings"],
        initializer_range=_EMBEDDING_STD,
        activation_checkpointing=config["gradient_checkpointing"],
    )
