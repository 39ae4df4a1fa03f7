"""LanguageModelConfig: what rebuilds a language model, as it is saved with its weights."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rankone._arguments import check_number, check_size

# How the balance loss of several routing layers is taken: the mean of theirs, or that of all their
# tokens together.
BALANCES = ("layer", "pooled")


@dataclass(frozen=True, kw_only=True)
class LanguageModelConfig:
    """Everything that rebuilds a :class:`LanguageModel`; saved with it as JSON.

    Attributes:
        vocab_size: number of tokens.
        hidden_size: width of the residual stream.
        num_layers: number of blocks.
        num_heads: heads of every mixer whose options name no other number.
        mixer: a name known to :func:`rankone.nn.register_mixer`, or one a layer.
        mixer_kwargs: options of the mixer, or one mapping a layer.
        feed_forward: ``"swiglu"``, ``"geglu"``, ``"reglu"``, ``"glu"``, ``"bilinear"`` or
            ``"pattention"``; None for blocks of a mixer alone.
        intermediate_size: inner width of the feed-forward block, or its number of tokens; default
            as :func:`rankone.nn.make_feed_forward`.
        feed_forward_kwargs: further options of the feed-forward block.
        norm: ``"rmsnorm"``, ``"srmsnorm"``, ``"layernorm"`` or ``"plain_layernorm"``.
        final_norm: the norm before the head, where it is another one.
        norm_eps: of the norms; default that of each.
        tie_embeddings: whether the head is the embedding.
        embedding_scale: factor on the token embeddings at the input.
        embedding_norm: whether ``norm`` is applied to them as well.
        dropout: share of the embedding, and of what mixers and feed-forward blocks add to the
            residual stream, that is dropped in training.
        initializer_range: standard deviation of initial weights; default
            sqrt(2 / (5 * hidden_size)) (arXiv 1910.05895), 0.023 at width 768.
        activation_checkpointing: recompute every block in the backward pass instead of keeping
            its activations.
        aux_loss_scale: factor of the routing mixers' balance loss in the loss.
        balance: ``"layer"`` for the mean of the layers' balance losses, ``"pooled"`` for the loss
            of the tokens of all layers taken together.

    Raises:
        ValueError: for sizes below 1, an unknown balance, or lists that do not have one entry a
            layer.

    Example:
        >>> from rankone.nn import LanguageModelConfig
        >>> LanguageModelConfig(vocab_size=256, num_layers=2).mixer
        'lightning_attention'
    """

    vocab_size: int
    hidden_size: int = 256
    num_layers: int = 4
    num_heads: int = 4
    mixer: str | Sequence[str] | None = "lightning_attention"
    mixer_kwargs: Mapping[str, Any] | Sequence[Mapping[str, Any]] = field(default_factory=dict)
    feed_forward: str | None = "swiglu"
    intermediate_size: int | None = None
    feed_forward_kwargs: Mapping[str, Any] = field(default_factory=dict)
    norm: str = "rmsnorm"
    final_norm: str | None = None
    norm_eps: float | None = None
    tie_embeddings: bool = True
    embedding_scale: float = 1.0
    embedding_norm: bool = False
    dropout: float = 0.0
    initializer_range: float | None = None
    activation_checkpointing: bool = False
    aux_loss_scale: float = 0.01
    balance: str = "layer"

    def __post_init__(self) -> None:
        if self.balance not in BALANCES:
            raise ValueError(f"balance must be one of {list(BALANCES)}, got {self.balance!r}")
        check_number("dropout", self.dropout)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
        for name in ("vocab_size", "hidden_size", "num_layers", "num_heads"):
            check_size(name, getattr(self, name))
        for name in ("mixer", "mixer_kwargs"):
            value = getattr(self, name)
            if isinstance(value, Sequence) and not isinstance(value, str):
                check_per_layer(name, value, self.num_layers)
                object.__setattr__(self, name, tuple(value))

    def to_json(self) -> str:
        """The configuration as JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> LanguageModelConfig:
        """The configuration from :meth:`to_json`'s text.

        Raises:
            ValueError: for an entry that this version does not know.
        """
        entries = json.loads(text)
        unknown = set(entries) - {entry.name for entry in dataclasses.fields(cls)}
        if unknown:
            raise ValueError(f"unknown entries in the configuration: {sorted(unknown)}")
        return cls(**entries)


def check_per_layer(name: str, value: Sequence[Any], num_layers: int) -> None:
    if len(value) != num_layers:
        raise ValueError(
            f"{name} must have one entry a layer (num_layers {num_layers}), got {len(value)}"
        )
