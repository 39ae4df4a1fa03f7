"""LanguageModel: token embedding, pre-norm blocks with any mixer, gated feed-forward, tied head.

    x += mixer(norm(x));  x += feed_forward(norm(x));  logits = norm(x) embedding^T

The model knows of a mixer only what :class:`rankone.nn.Mixer` says, so linear attention, softmax
attention, the delta rule, routed memories and hybrids of them are one class. Its state is the tuple
of its mixers' states: a text can be read in pieces, and without unbounded attention decoding takes
constant time and memory a token. What routing mixers report is collected, and their balance loss
joins the model's. Decoding stands in ``generation.py``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rankone._arguments import check_instance
from rankone._model_files import read_model, write_model
from rankone.distributed import SequenceShard, fetch_tokens
from rankone.distributed._shard import all_reduced
from rankone.nn.context_parallel import ContextParallel, agree_on_shard, takes_context_parallel
from rankone.nn.feed_forward import make_feed_forward
from rankone.nn.generation import generate
from rankone.nn.grouped_linear import GroupedLinear
from rankone.nn.language_model_config import LanguageModelConfig, check_per_layer
from rankone.nn.mixer import (
    MixerState,
    build_mixer,
    check_attention_mask,
    check_mixer,
    mixer_name,
    returns_router,
)
from rankone.nn.norms import make_norm
from rankone.nn.routing import RouterOutput, load_balancing_loss
from rankone.ops.checks import check_cu_seqlens, check_shape, check_tensor, shape_of

# Key of the JSON configuration in the metadata of a saved model.
CONFIG_KEY = "rankone.language_model"

IGNORED_LABEL = -100

MixerChoice: TypeAlias = "str | type[nn.Module] | Callable[[int], nn.Module]"


class LanguageModelOutput(NamedTuple):
    """Result of :class:`LanguageModel`.

    Attributes:
        loss: what training minimises: ``cross_entropy``, and with routing mixers their weighted
            balance loss, float32; None without labels.
        logits: (batch, time, vocab_size).
        state: one mixer state a layer; None without ``return_state``.
        aux_loss: balance loss of the routing mixers, before its factor; None without any.
        router_load: (routing layers, M) share of tokens that went to each; None without any, or
            where layers differ in M.
        cross_entropy: mean in nats a predicted token, float32; None without labels.
        routers: the :class:`rankone.nn.RouterOutput` of every layer, None where a layer does not
            route.
    """

    loss: Tensor | None
    logits: Tensor
    state: tuple[MixerState, ...] | None = None
    aux_loss: Tensor | None = None
    router_load: Tensor | None = None
    cross_entropy: Tensor | None = None
    routers: tuple[RouterOutput | None, ...] = ()


class Block(nn.Module):
    """One pre-norm residual block: a mixer, then a feed-forward block where there is one."""

    mixer: Any  # a module that is a rankone.nn.Mixer

    def __init__(
        self,
        mixer_norm: nn.Module,
        mixer: nn.Module,
        feed_forward_norm: nn.Module | None = None,
        feed_forward: nn.Module | None = None,
        *,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        self.mixer_norm = mixer_norm
        self.mixer = mixer
        self.feed_forward_norm = feed_forward_norm
        self.feed_forward = feed_forward
        self.dropout = dropout

    def forward(
        self,
        x: Tensor,
        state: MixerState,
        return_state: bool,
        attention_mask: Tensor | None,
        cu_seqlens: Tensor | None,
        shard: SequenceShard | None = None,
    ) -> tuple[Tensor, MixerState, RouterOutput | None]:
        routes = returns_router(self.mixer)
        mixed = self.mixer(
            self.mixer_norm(x),
            attention_mask=attention_mask,
            state=state,
            return_state=return_state,
            cu_seqlens=cu_seqlens,
            **({"return_router": True} if routes else {}),
            **({} if shard is None else {"context_parallel": shard}),
        )
        mixed, *results = mixed if return_state or routes else (mixed,)
        state = results[0] if return_state else None
        return self._feed_forward(x + self._dropped(mixed)), state, results[-1] if routes else None

    def step(self, x: Tensor, state: MixerState) -> tuple[Tensor, MixerState]:
        mixed, state = self.mixer.step(self.mixer_norm(x), state)
        return self._feed_forward(x + self._dropped(mixed)), state

    def _feed_forward(self, x: Tensor) -> Tensor:
        if self.feed_forward is None or self.feed_forward_norm is None:
            return x
        return x + self._dropped(self.feed_forward(self.feed_forward_norm(x)))

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class LanguageModel(nn.Module):
    """A decoder language model with a pluggable mixer.

    Args:
        config: sizes and choices.
        mixer: instead of ``config.mixer``: a registered name, a class built as
            :class:`rankone.nn.Mixer` says, a callable from the layer's index to a module, or a list
            of names and classes, one a layer. A model whose mixers are not registered is loaded by
            giving the same ``mixer`` to :meth:`load`.
        device, dtype: of the parameters; torch's defaults where None.

    Raises:
        ValueError: for an unknown mixer, norm or feed-forward block, or a list that does not have
            one entry a layer.
        TypeError: for a mixer without the methods of :class:`rankone.nn.Mixer`.

    Example:
        >>> import torch
        >>> from rankone.nn import LanguageModel, LanguageModelConfig
        >>> model = LanguageModel(LanguageModelConfig(vocab_size=256, hidden_size=32, num_layers=2))
        >>> tokens = torch.randint(256, (1, 20))
        >>> output = model(tokens, labels=tokens, return_state=True)
        >>> output.logits.shape
        torch.Size([1, 20, 256])
        >>> rest = model(torch.randint(256, (1, 5)), state=output.state)
        >>> model.generate(tokens, 8, temperature=0.0).shape
        torch.Size([1, 28])
    """

    def __init__(
        self,
        config: LanguageModelConfig,
        *,
        mixer: MixerChoice | Sequence[str | type[nn.Module]] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_instance("config", config, LanguageModelConfig)
        choice = config.mixer if mixer is None else mixer
        if choice is None:
            raise ValueError(
                "mixer must be given: the configuration is of a model whose mixers have no "
                "registered name"
            )
        self.config = dataclasses.replace(config, mixer=_mixer_names(choice))
        width = config.hidden_size
        placement: dict[str, Any] = {"device": device, "dtype": dtype}

        self.embedding = nn.Embedding(config.vocab_size, width, **placement)

        def norm(name: str = config.norm) -> nn.Module:
            return make_norm(name, width, config.norm_eps, **placement)

        self.embedding_norm = norm() if config.embedding_norm else None

        def feed_forward() -> tuple[nn.Module, ...]:
            if config.feed_forward is None:
                return ()
            return norm(), make_feed_forward(
                config.feed_forward,
                width,
                config.intermediate_size,
                **placement,
                **config.feed_forward_kwargs,
            )

        self.blocks = nn.ModuleList(
            Block(
                norm(),
                _layer_mixer(choice, config, layer, placement),
                *feed_forward(),
                dropout=config.dropout,
            )
            for layer in range(config.num_layers)
        )
        self.norm = norm(config.final_norm or config.norm)
        if config.tie_embeddings:
            self.head = None
        else:
            self.head = nn.Linear(width, config.vocab_size, False, **placement)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw embedding and linear weights anew: N(0, s), biases 0.

        s is the configuration's ``initializer_range``; the maps that write to the residual stream,
        ``o_proj``, ``out_proj`` and ``down_proj``, have s / sqrt(2 * num_layers), so that the
        stream's variance does not grow with depth (as GPT-2).
        """
        deviation = self.config.initializer_range
        if deviation is None:
            deviation = math.sqrt(2 / (5 * self.config.hidden_size))
        for name, module in self.named_modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=deviation)
            elif isinstance(module, (nn.Linear, GroupedLinear)):
                residual = name.rsplit(".", 1)[-1] in ("o_proj", "out_proj", "down_proj")
                depth = math.sqrt(2 * self.config.num_layers) if residual else 1.0
                nn.init.normal_(module.weight, std=deviation / depth)
                if isinstance(module, nn.Linear) and module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(
        self,
        tokens: Tensor,
        *,
        labels: Tensor | None = None,
        state: Sequence[MixerState] | None = None,
        return_state: bool = False,
        attention_mask: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        context_parallel: ContextParallel | None = None,
    ) -> LanguageModelOutput:
        """Logits of the next token at every position, and the loss where labels are given.

        Args:
            tokens: (batch, time) int64 or int32.
            labels: (batch, time), aligned with ``tokens`` and usually the same tensor: the loss at
                position t is of ``labels[:, t + 1]``. Labels of -100, labels at padding, and the
                first label of every packed sequence are left out.
            state: the state an earlier call returned, to read on from there.
            return_state: also return the state after the last token.
            attention_mask: (batch, time), boolean or integer, 1 on tokens and 0 on padding.
            cu_seqlens: (sequences + 1,) int32 or int64, starts of packed sequences; batch is 1.
            context_parallel: process group or one-dimensional ``DeviceMesh`` over which time is
                cut, one contiguous shard a rank: ``tokens``, ``labels`` and the logits are this
                rank's; ``state`` and ``cu_seqlens`` are those of the whole on every rank, and so
                is the state that is returned. The mean of the ranks' losses is the loss of the
                whole, so that the mean of their gradients, which DDP and FSDP take, is its
                gradient, also where shards differ in length. Every mixer must take it; no mask.

        Returns:
            :class:`LanguageModelOutput`.

        Raises:
            ValueError: for tokens, labels, mask or state of the wrong shape.
            TypeError: for tokens or labels that are not integers.
            DistributedError: with ``context_parallel``, where ranks disagree or one is gone.
        """
        shard = None
        if context_parallel is not None:
            shard = self._shard(
                tokens, context_parallel, cu_seqlens, attention_mask, state, return_state, labels
            )
            cu_seqlens = None
        hidden, new_state, routers = self._read(
            tokens, state, return_state, attention_mask, cu_seqlens, shard
        )
        logits = self.logits(hidden)
        aux_loss = self._balance_loss(routers, tokens, attention_mask)
        loss = cross_entropy = None
        if labels is not None and shard is not None:
            loss = cross_entropy = sharded_next_token_loss(logits, labels, shard)
        elif labels is not None:
            cross_entropy = next_token_loss(logits, labels, tokens, attention_mask, cu_seqlens)
            loss = cross_entropy
            if aux_loss is not None:
                loss = loss + self.config.aux_loss_scale * aux_loss.to(loss.dtype)
        loads = [router.load for router in routers if router is not None]
        alike = len({load.shape for load in loads}) == 1
        return LanguageModelOutput(
            loss=loss,
            logits=logits,
            state=new_state,
            aux_loss=aux_loss,
            router_load=torch.stack(loads).detach() if alike else None,
            cross_entropy=cross_entropy,
            routers=routers,
        )

    def hidden_states(
        self,
        tokens: Tensor,
        *,
        state: Sequence[MixerState] | None = None,
        return_state: bool = False,
        attention_mask: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        context_parallel: ContextParallel | None = None,
    ) -> tuple[Tensor, tuple[MixerState, ...] | None]:
        """Normalised (batch, time, hidden_size) before the head, and the state or None.

        Arguments as :meth:`forward`.
        """
        shard = None
        if context_parallel is not None:
            shard = self._shard(
                tokens, context_parallel, cu_seqlens, attention_mask, state, return_state, None
            )
            cu_seqlens = None
        return self._read(tokens, state, return_state, attention_mask, cu_seqlens, shard)[:2]

    def _shard(
        self,
        tokens: Tensor,
        context_parallel: ContextParallel,
        cu_seqlens: Tensor | None,
        attention_mask: Tensor | None,
        state: Sequence[MixerState] | None,
        return_state: bool,
        labels: Tensor | None,
    ) -> SequenceShard:
        """How time is cut; agreed once for all layers."""

        def check(whole: Tensor | None) -> None:
            _check_tokens("tokens", tokens, ("batch", "time"))
            if whole is not None:
                check_cu_seqlens(whole, tokens.shape[0])
            if labels is not None:
                _check_tokens("labels", labels, ("batch", "time"))
                check_shape("labels", labels, tokens.shape, "batch, time, as tokens")
            self._layer_states(state)
            for layer, block in enumerate(self._blocks):
                if not takes_context_parallel(block.mixer):
                    raise ValueError(
                        "context_parallel needs mixers that can run on a part of time, got "
                        f"{type(block.mixer).__name__} in layer {layer}"
                    )

        configuration = hashlib.sha256(self.config.to_json().encode()).hexdigest()
        facts = {
            "tokens": f"({tokens.shape[0]}, time)" if isinstance(tokens, Tensor) else None,
            "configuration": configuration[:16],
            "labels": labels is not None,
            "state": state is not None,
            "return_state": return_state,
            "gradients": torch.is_grad_enabled(),
            "training": self.training,
        }
        return agree_on_shard(tokens, context_parallel, cu_seqlens, attention_mask, check, facts)

    def _read(
        self,
        tokens: Tensor,
        state: Sequence[MixerState] | None,
        return_state: bool,
        attention_mask: Tensor | None,
        cu_seqlens: Tensor | None,
        shard: SequenceShard | None = None,
    ) -> tuple[Tensor, tuple[MixerState, ...] | None, tuple[RouterOutput | None, ...]]:
        """What :meth:`hidden_states` returns, and every layer's router output."""
        _check_tokens("tokens", tokens, ("batch", "time"))
        states = self._layer_states(state)
        x = self.embed(tokens)
        recompute = (
            self.config.activation_checkpointing and self.training and torch.is_grad_enabled()
        )
        new_states, routers = [], []
        for block, layer_state in zip(self.blocks, states, strict=True):
            arguments = (x, layer_state, return_state, attention_mask, cu_seqlens, shard)
            if recompute:
                x, layer_state, router = checkpoint(block, *arguments, use_reentrant=False)
            else:
                x, layer_state, router = block(*arguments)
            new_states.append(layer_state)
            routers.append(router)
        return self.norm(x), tuple(new_states) if return_state else None, tuple(routers)

    def _balance_loss(
        self,
        routers: Sequence[RouterOutput | None],
        tokens: Tensor,
        attention_mask: Tensor | None,
    ) -> Tensor | None:
        routed = [router for router in routers if router is not None]
        if not routed:
            return None
        if self.config.balance == "layer":
            return torch.stack([router.aux_loss for router in routed]).mean()
        sizes = {(router.logits.shape[-1], router.indices.shape[-1]) for router in routed}
        if len(sizes) > 1:
            raise ValueError(
                "balance must be 'layer' where layers differ in memories or top_k, got 'pooled'"
            )
        mask = check_attention_mask(attention_mask, tokens)
        return load_balancing_loss(
            torch.cat([router.logits for router in routed]),
            routed[0].indices.shape[-1],
            mask=None if mask is None else mask.repeat(len(routed), 1),
        )

    def embed(self, tokens: Tensor) -> Tensor:
        """(..., hidden_size) input of the first block for (...) tokens."""
        x = self.embedding(tokens)
        if self.config.embedding_scale != 1:
            x = x * self.config.embedding_scale
        if self.embedding_norm is not None:
            x = self.embedding_norm(x)
        return F.dropout(x, self.config.dropout, self.training) if self.config.dropout else x

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., vocab_size) scores of the next token from normalised hidden states."""
        return F.linear(hidden, self.embedding.weight) if self.head is None else self.head(hidden)

    def step(
        self, tokens: Tensor, state: Sequence[MixerState] | None = None
    ) -> tuple[Tensor, tuple[MixerState, ...]]:
        """Read one token of every sequence.

        Args:
            tokens: (batch,) int64 or int32.
            state: state before them; None at the start.

        Returns:
            Logits (batch, vocab_size) of the token after, and the new state.
        """
        _check_tokens("tokens", tokens, ("batch",))
        x = self.embed(tokens)
        new_states = []
        for block, layer_state in zip(self._blocks, self._layer_states(state), strict=True):
            x, layer_state = block.step(x, layer_state)
            new_states.append(layer_state)
        return self.logits(self.norm(x)), tuple(new_states)

    def init_state(
        self,
        batch_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> tuple[MixerState, ...]:
        """The state before the first token of ``batch_size`` sequences, one entry a layer."""
        return tuple(
            block.mixer.init_state(batch_size, device=device, dtype=dtype) for block in self._blocks
        )

    def generate(
        self,
        prompt: Tensor,
        max_new_tokens: int,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        eos: int | None = None,
        attention_mask: Tensor | None = None,
        random_state: int | torch.Generator | None = None,
    ) -> Tensor:
        """Continue a prompt; see :func:`rankone.nn.generate`."""
        return generate(
            self,
            prompt,
            max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            eos=eos,
            attention_mask=attention_mask,
            random_state=random_state,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write weights and configuration to one safetensors file, whole or not at all."""
        write_model(path, self.state_dict(), {CONFIG_KEY: self.config.to_json()})

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        mixer: MixerChoice | Sequence[str | type[nn.Module]] | None = None,
        device: torch.device | str = "cpu",
    ) -> LanguageModel:
        """Read a model that :meth:`save` wrote.

        Args:
            path: the file.
            mixer: as in the constructor; needed where the saved mixers have no registered name.
            device: where the weights go.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file holds no language model of this library.
        """
        config, tensors = read_model(path, CONFIG_KEY, "language model", device=device)
        dtype = tensors["embedding.weight"].dtype
        # A subclass is a configuration with a constructor of its own, and this one holds it all.
        model = cls.__new__(cls)
        LanguageModel.__init__(
            model, LanguageModelConfig.from_json(config), mixer=mixer, device=device, dtype=dtype
        )
        model.load_state_dict(tensors)
        return model

    @property
    def layer_types(self) -> list[str]:
        """The registered name of every layer's mixer, or its class's name where it has none."""
        kinds = [type(block.mixer) for block in self._blocks]
        return [mixer_name(kind) or kind.__name__ for kind in kinds]

    @property
    def _blocks(self) -> Sequence[Block]:
        return cast("Sequence[Block]", self.blocks)

    def _layer_states(self, state: Sequence[MixerState] | None) -> Sequence[MixerState]:
        if state is None:
            return (None,) * len(self.blocks)
        if isinstance(state, Tensor) or len(state) != len(self.blocks):
            found = shape_of(state) if isinstance(state, Tensor) else f"{len(state)} entries"
            raise ValueError(f"state must have one entry a layer ({len(self.blocks)}), got {found}")
        return state


def _mixer_names(choice: Any) -> str | tuple[str, ...] | None:
    """The choice as registered names, or None if a part of it has none."""
    if isinstance(choice, str):
        return choice
    if isinstance(choice, Sequence):
        names = [entry if isinstance(entry, str) else mixer_name(entry) for entry in choice]
        known = tuple(name for name in names if name is not None)
        return known if len(known) == len(names) else None
    return mixer_name(choice)


def _layer_mixer(
    choice: Any, config: LanguageModelConfig, layer: int, placement: Mapping[str, Any]
) -> nn.Module:
    if isinstance(choice, Sequence) and not isinstance(choice, str):
        check_per_layer("mixer", choice, config.num_layers)
        choice = choice[layer]
    options = config.mixer_kwargs
    if not isinstance(options, Mapping):
        options = options[layer]
    if isinstance(choice, (str, type)) or mixer_name(choice) is not None:
        options = dict(options)
        return build_mixer(
            choice,
            config.hidden_size,
            options.pop("num_heads", config.num_heads),
            layer_idx=layer,
            num_layers=config.num_layers,
            **placement,
            **options,
        )
    if options:
        raise ValueError(
            "mixer_kwargs must be empty when mixer is a callable of the layer's index, "
            f"got {dict(options)}"
        )
    return check_mixer(choice(layer)).to(**placement)


def _check_tokens(name: str, tokens: Tensor, layout: tuple[str, ...]) -> None:
    check_tensor(name, tokens)
    if tokens.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{name} must be int32 or int64, got {tokens.dtype}")
    if tokens.ndim != len(layout):
        raise ValueError(f"{name} must have shape ({', '.join(layout)}), got {shape_of(tokens)}")


def next_token_loss(
    logits: Tensor,
    labels: Tensor,
    tokens: Tensor,
    attention_mask: Tensor | None,
    cu_seqlens: Tensor | None,
) -> Tensor:
    """Mean nats of :func:`next_token_targets`."""
    return F.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(),
        next_token_targets(labels, tokens, attention_mask, cu_seqlens).flatten(),
        ignore_index=IGNORED_LABEL,
    )


def sharded_next_token_loss(logits: Tensor, labels: Tensor, shard: SequenceShard) -> Tensor:
    """:func:`next_token_loss` of a whole that is cut over ranks, so that its mean over ranks is it.

    The sum over this rank's tokens, times the number of ranks, over the number of tokens of all.
    """
    ends = list(itertools.accumulate(shard.lengths))
    following = fetch_tokens(labels, shard, [(end, min(end + 1, shard.total)) for end in ends])
    targets = torch.cat([labels, following], dim=1)[:, 1:].to(torch.int64)
    logits = logits[:, : targets.shape[1]]
    first = torch.tensor(shard.begins, device=labels.device) - shard.offset - 1
    first = first[(first >= 0) & (first < targets.shape[1])]
    targets = targets.index_fill(1, first, IGNORED_LABEL)
    count = all_reduced((targets != IGNORED_LABEL).sum(), shard.group)
    nats = F.cross_entropy(
        logits.flatten(0, 1).float(),
        targets.flatten(),
        ignore_index=IGNORED_LABEL,
        reduction="sum",
    )
    return nats * (shard.size / count)


def next_token_targets(
    labels: Tensor,
    tokens: Tensor,
    attention_mask: Tensor | None,
    cu_seqlens: Tensor | None,
) -> Tensor:
    """``labels[:, 1:]`` with -100 at padding and at the first tokens of packed texts."""
    _check_tokens("labels", labels, ("batch", "time"))
    check_shape("labels", labels, tokens.shape, "batch, time, as tokens")
    if tokens.shape[1] < 2:
        raise ValueError(f"labels need at least 2 tokens a row, got shape {shape_of(labels)}")
    targets = labels.to(torch.int64)
    mask = check_attention_mask(attention_mask, tokens)
    if mask is not None:
        targets = targets.masked_fill(~mask, IGNORED_LABEL)
        # The token that predicts the first one of a left-padded text is padding.
        targets[:, 1:] = targets[:, 1:].masked_fill(~mask[:, :-1], IGNORED_LABEL)
    if cu_seqlens is not None:
        check_cu_seqlens(cu_seqlens, tokens.shape[0])
        # One place more than tokens: an empty last sequence starts at the end of time.
        first = torch.zeros(tokens.shape[1] + 1, dtype=torch.bool, device=tokens.device)
        first = first.index_fill(0, cu_seqlens.to(torch.int64), True)
        targets = targets.masked_fill(first[:-1], IGNORED_LABEL)
    return targets[:, 1:]
