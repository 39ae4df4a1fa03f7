"""XLSTMLM: xLSTM as a language model of text, DNA, proteins or molecules.

    x = embedding;  x = block(x) for every block;  logits = norm(x) W^T

Causal, it predicts the next token and generates with constant memory a token. Reading both ways, or
in turns, it predicts masked tokens. Under reverse-complement parameter sharing the blocks read both
strands of DNA with the same weights, and the head adds what the two say about a base.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rankone._arguments import check_size
from rankone._model_files import read_model, write_model
from rankone.nn.generation import generate
from rankone.nn.language_model import IGNORED_LABEL, next_token_targets
from rankone.nn.mixer import check_attention_mask
from rankone.nn.norms import LayerNorm
from rankone.nn.packing import pack, unpack
from rankone.nn.xlstm_blocks import MLSTMBlock, SLSTMBlock, reversal
from rankone.nn.xlstm_mixers import MLSTM, NORM_EPS, WIDTH_MULTIPLE, small_deviation
from rankone.ops.checks import check_cu_seqlens, check_cu_seqlens_values, check_shape, shape_of

# Key of the JSON options in the metadata of a saved model.
OPTIONS_KEY = "rankone.xlstm"

DIRECTIONS = ("causal", "bidirectional", "alternating")
RC_EQUIVARIANCES = (None, "ps")

# [CLS] [SEP] [BOS] [MASK] [PAD] [RESERVED] [UNK] A C G T N: A with T, C with G.
DNA_COMPLEMENT = (0, 1, 2, 3, 4, 5, 6, 10, 9, 8, 7, 11)

_DNA = {
    "vocab_size": 12,
    "num_layers": 4,
    "num_heads": 4,
    "direction": "bidirectional",
    "slstm_ff_factor": 1.1,
    "slstm_ff_multiple": 8,
    "slstm_ff_round": "down",
    "complement_map": DNA_COMPLEMENT,
}
_PROTEIN = {
    "vocab_size": 38,
    "num_layers": 16,
    "num_heads": 4,
    "round_proj": "up",
    "rope": True,
}
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "dna_500k": {**_DNA, "d_model": 128},
    "dna_2m": {**_DNA, "d_model": 256, "rope": True},
    "prot_26m": {**_PROTEIN, "d_model": 512},
    "prot_102m": {**_PROTEIN, "d_model": 1024},
    "chem_15m": {"vocab_size": 37, "d_model": 512, "num_layers": 9, "num_heads": 8},
}


class XLSTMOutput(NamedTuple):
    """Result of :class:`XLSTMLM`.

    Attributes:
        loss: mean nats a predicted token, float32; None without labels.
        logits: (batch, time, vocab_size).
        state: one state a block; None without ``return_state``.
        hidden: (batch, time, d_model) after the last norm, or 2 d_model with parameter sharing;
            None without ``return_hidden``.
    """

    loss: Tensor | None
    logits: Tensor
    state: tuple[Any, ...] | None = None
    hidden: Tensor | None = None


class XLSTMLM(nn.Module):
    """A language model of xLSTM blocks.

    Args:
        vocab_size: number of tokens.
        d_model: width of the residual stream.
        num_layers: number of blocks.
        num_heads: heads of every block.
        slstm_at: blocks, from 0, that are sLSTM; the others are mLSTM.
        proj_factor, round_proj: inner width of the mLSTM blocks, as in
            :class:`rankone.nn.MLSTMBlock`.
        slstm_ff_factor, slstm_ff_multiple, slstm_ff_round: inner width of the feed-forward part of
            the sLSTM blocks, as in :class:`rankone.nn.SLSTMBlock`.
        conv_size: tokens that the convolutions see.
        rope: rotary positions in the mLSTM blocks.
        rope_base: base of their angles.
        direction: ``"causal"``; ``"bidirectional"``, where every block reads both ways with the
            same weights; or ``"alternating"``, blocks 0, 2, ... from right to left and the others
            from left to right.
        double_residual: with ``"bidirectional"``, add two whole blocks, as the published code does.
        rc_equivariance: ``"ps"`` shares all parameters between a DNA strand and its reverse
            complement: logits of the reverse complement are exactly those of the strand, reversed
            and complemented.
        complement_map: (vocab_size,) complement of every token, itself where it has none.
        tie_embeddings: whether the head is the embedding.
        dropout: on what the blocks add to the residual stream.
        eps: of :func:`rankone.ops.mlstm`.
        activation_checkpointing: recompute every block in the backward pass instead of keeping its
            activations.
        device, dtype: of the parameters; torch's defaults where None.

    Raises:
        ValueError: for sizes that do not fit, unknown options, parameter sharing without a
            complement map, or a map that is not its own inverse.

    Source: "xLSTM", arXiv 2405.04517, and "Bio-xLSTM", arXiv 2411.04165. Parameter sharing for the
    mLSTM, one residual for both directions, and any length and packing are this project's.

    Example:
        >>> import torch
        >>> from rankone.nn.xlstm import XLSTMLM
        >>> model = XLSTMLM(12, 32, 2, rope=True)
        >>> tokens = torch.randint(12, (2, 20))
        >>> model(tokens, labels=tokens).logits.shape
        torch.Size([2, 20, 12])
        >>> model.generate(tokens, 5, temperature=0.0).shape
        torch.Size([2, 25])
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int,
        num_layers: int,
        *,
        num_heads: int = 4,
        slstm_at: Sequence[int] = (),
        proj_factor: float = 2.0,
        round_proj: str = "down",
        slstm_ff_factor: float = 1.3,
        slstm_ff_multiple: int = WIDTH_MULTIPLE,
        slstm_ff_round: str = "up",
        conv_size: int = 4,
        rope: bool = False,
        rope_base: float = 5e5,
        direction: str = "causal",
        double_residual: bool = False,
        rc_equivariance: str | None = None,
        complement_map: Sequence[int] | Tensor | None = None,
        tie_embeddings: bool = False,
        dropout: float = 0.0,
        eps: float = 1e-6,
        activation_checkpointing: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("vocab_size", vocab_size), ("num_layers", num_layers)):
            check_size(name, value)
        if direction not in DIRECTIONS:
            raise ValueError(f"direction must be one of {list(DIRECTIONS)}, got {direction!r}")
        if rc_equivariance not in RC_EQUIVARIANCES:
            raise ValueError(
                f"rc_equivariance must be one of {list(RC_EQUIVARIANCES)}, got {rc_equivariance!r}"
            )
        if isinstance(slstm_at, int):
            raise TypeError(f"slstm_at must be a sequence of layers, got {slstm_at}")
        slstm_at = tuple(slstm_at)
        if any(not 0 <= layer < num_layers for layer in slstm_at):
            raise ValueError(f"slstm_at must name layers of 0..{num_layers - 1}, got {slstm_at}")
        if double_residual and direction != "bidirectional":
            raise ValueError(f"double_residual needs direction='bidirectional', got {direction!r}")
        complement = _checked_complement(complement_map, vocab_size)
        if rc_equivariance is not None and complement is None:
            raise ValueError("complement_map must be given with rc_equivariance, got None")
        self.options: dict[str, Any] = {
            "vocab_size": vocab_size,
            "d_model": d_model,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "slstm_at": slstm_at,
            "proj_factor": proj_factor,
            "round_proj": round_proj,
            "slstm_ff_factor": slstm_ff_factor,
            "slstm_ff_multiple": slstm_ff_multiple,
            "slstm_ff_round": slstm_ff_round,
            "conv_size": conv_size,
            "rope": rope,
            "rope_base": rope_base,
            "direction": direction,
            "double_residual": double_residual,
            "rc_equivariance": rc_equivariance,
            "complement_map": complement,
            "tie_embeddings": tie_embeddings,
            "dropout": dropout,
            "eps": eps,
            "activation_checkpointing": activation_checkpointing,
        }
        self.vocab_size = vocab_size
        self.direction = direction
        self.rc_equivariance = rc_equivariance
        self.activation_checkpointing = activation_checkpointing
        placement: dict[str, Any] = {"device": device, "dtype": dtype}
        self.register_buffer(
            "complement_map",
            None if complement is None else torch.tensor(complement, device=device),
            persistent=False,
        )

        def block(layer: int) -> nn.Module:
            turns = "reverse" if layer % 2 == 0 else "causal"
            shared: dict[str, Any] = {
                "conv_size": conv_size,
                "direction": turns if direction == "alternating" else direction,
                "double_residual": double_residual,
                "dropout": dropout,
                "layer_idx": layer,
                "num_layers": num_layers,
                **placement,
            }
            if layer in slstm_at:
                return SLSTMBlock(
                    d_model,
                    num_heads,
                    ff_factor=slstm_ff_factor,
                    ff_multiple=slstm_ff_multiple,
                    ff_round=slstm_ff_round,
                    **shared,
                )
            return MLSTMBlock(
                d_model,
                num_heads,
                proj_factor=proj_factor,
                round_proj=round_proj,
                rope=rope,
                rope_base=rope_base,
                eps=eps,
                **shared,
            )

        self.embedding = nn.Embedding(vocab_size, d_model, **placement)
        self.blocks = nn.ModuleList(block(layer) for layer in range(num_layers))
        self.norm = LayerNorm(d_model, eps=NORM_EPS, bias=False, **placement)
        self.head = None if tie_embeddings else nn.Linear(d_model, vocab_size, False, **placement)
        nn.init.normal_(self.embedding.weight, std=small_deviation(d_model))
        if self.head is not None:
            nn.init.normal_(self.head.weight, std=small_deviation(d_model))

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> XLSTMLM:
        """A model of a published size, with new weights.

        Args:
            name: ``"dna_500k"`` (440 992 parameters), ``"dna_2m"`` (1 668 384), ``"prot_26m"``
                (25 918 080), ``"prot_102m"`` (102 167 680) or ``"chem_15m"`` (14 816 400).
            overrides: arguments of the constructor to set otherwise.

        Raises:
            ValueError: for an unknown name.

        Example:
            >>> from rankone.nn.xlstm import XLSTMLM
            >>> model = XLSTMLM.from_preset("dna_500k", rc_equivariance="ps")
            >>> sum(parameter.numel() for parameter in model.parameters())
            440992
        """
        if name not in PRESETS:
            raise ValueError(f"name must be one of {sorted(PRESETS)}, got {name!r}")
        return cls(**{**PRESETS[name], **overrides})

    def forward(
        self,
        input_ids: Tensor,
        *,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        state: Sequence[Any] | None = None,
        return_state: bool = False,
        return_hidden: bool = False,
    ) -> XLSTMOutput:
        """Logits of every position, and the loss where labels are given.

        Args:
            input_ids: (batch, time) int64 or int32.
            position_ids: (batch, time) integer rotary positions; default 0, 1, ... in every
                sequence, or on from ``state``. Parameter sharing reads both strands with them.
            attention_mask: (batch, time), boolean or integer, 1 on tokens and 0 on padding.
            labels: (batch, time), aligned with ``input_ids``. A causal model's logits at t are
                scored with ``labels[:, t + 1]``, other models' with ``labels[:, t]``. Labels of
                -100 and at padding are left out.
            cu_seqlens: (sequences + 1,) int32 or int64, starts of packed sequences; batch is 1.
            state: what an earlier call of a causal model returned, to read on from there.
            return_state: also return the state after the last token.
            return_hidden: also return the normalised hidden states.

        Returns:
            :class:`XLSTMOutput`; without any label that counts, the loss is 0.

        Raises:
            ValueError: for tensors of the wrong shape, a state where the model is not causal or
                shares parameters, or labels of a causal model that shares parameters: what it says
                at t has seen the tokens to the right.
            TypeError: for tokens or labels that are not integers.
        """
        hidden, new_state = self.hidden_states(
            input_ids,
            position_ids=position_ids,
            attention_mask=attention_mask,
            cu_seqlens=cu_seqlens,
            state=state,
            return_state=return_state,
        )
        logits = self.logits(hidden)
        loss = None
        if labels is not None:
            loss = self._loss(logits, labels, input_ids, attention_mask, cu_seqlens)
        return XLSTMOutput(loss, logits, new_state, hidden if return_hidden else None)

    def hidden_states(
        self,
        input_ids: Tensor,
        *,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        state: Sequence[Any] | None = None,
        return_state: bool = False,
    ) -> tuple[Tensor, tuple[Any, ...] | None]:
        """Normalised hidden states, as in :class:`XLSTMOutput`, and the state or None.

        Arguments as :meth:`forward`.
        """
        _check_ids("input_ids", input_ids, ("batch", "time"))
        if state is not None or return_state:
            self._require_recurrent("state and return_state")
        states = self._block_states(state)
        self._check_positions(position_ids, input_ids)
        mask = check_attention_mask(attention_mask, input_ids)
        batch, time = input_ids.shape
        places = None
        if cu_seqlens is not None:
            if mask is not None:
                raise ValueError(
                    "attention_mask must be None when cu_seqlens is given: packed input has no "
                    "padding"
                )
            check_cu_seqlens(cu_seqlens, batch)
            if not torch.compiler.is_compiling():
                check_cu_seqlens_values(cu_seqlens, time)
        if mask is not None:
            # Padding is taken out once, for all blocks.
            packed = pack(input_ids[..., None], mask)
            input_ids, cu_seqlens, places = packed.x[..., 0], packed.cu_seqlens, packed.places
            if position_ids is not None:
                position_ids = position_ids.flatten()[places][None]

        if self.rc_equivariance is None:
            x, new_states = self._read(input_ids, position_ids, cu_seqlens, states, return_state)
        else:
            x, new_states = self._both_strands(input_ids, position_ids, cu_seqlens), []
        if places is not None:
            x = unpack(x, places, batch, time)
        return x, tuple(new_states) if return_state else None

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., vocab_size) scores from normalised hidden states."""
        weight = self.embedding.weight if self.head is None else self.head.weight
        if self.rc_equivariance is None:
            return F.linear(hidden, weight)
        strand, other = hidden.chunk(2, dim=-1)
        return F.linear(strand, weight) + F.linear(other.flip(-1), weight[self._complement])

    def step(
        self, input_ids: Tensor, state: Sequence[Any] | None = None
    ) -> tuple[Tensor, tuple[Any, ...]]:
        """Read one token of every sequence; causal models only.

        Args:
            input_ids: (batch,) int64 or int32.
            state: state before them; None at the start.

        Returns:
            Logits (batch, vocab_size) of the token after, and the new state.
        """
        self._require_recurrent("step")
        _check_ids("input_ids", input_ids, ("batch",))
        x = self.embedding(input_ids)
        new_states = []
        for block, block_state in zip(self.blocks, self._block_states(state), strict=True):
            x, block_state = cast(Any, block).step(x, block_state)
            new_states.append(block_state)
        return self.logits(self.norm(x)), tuple(new_states)

    def init_state(
        self,
        batch_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> tuple[Any, ...]:
        """The state before the first token of ``batch_size`` sequences, one entry a block."""
        self._require_recurrent("init_state")
        return tuple(
            cast(Any, block).init_state(batch_size, device=device, dtype=dtype)
            for block in self.blocks
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
        position_ids: Tensor | None = None,
        random_state: int | torch.Generator | None = None,
    ) -> Tensor:
        """Continue a prompt, with memory that does not grow; causal models only.

        Args:
            prompt: (batch, time) with time at least 1.
            position_ids: (batch, time) rotary positions of the prompt; new tokens count on.
            max_new_tokens, temperature, top_k, top_p, eos, attention_mask, random_state: see
                :func:`rankone.nn.generate`.

        Returns:
            (batch, time + new) int64.
        """
        self._require_recurrent("generate")
        return generate(
            cast(Any, self),
            prompt,
            max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            eos=eos,
            attention_mask=attention_mask,
            random_state=random_state,
            prompt_options={"position_ids": position_ids},
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write weights and options to one safetensors file, whole or not at all."""
        write_model(path, self.state_dict(), {OPTIONS_KEY: json.dumps(self.options)})

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, device: torch.device | str = "cpu") -> XLSTMLM:
        """Read a model that :meth:`save` wrote.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file holds no xLSTM of this library.
        """
        options, tensors = read_model(path, OPTIONS_KEY, "xLSTM", device=device)
        dtype = tensors["embedding.weight"].dtype
        model = cls(**json.loads(options), device=device, dtype=dtype)
        model.load_state_dict(tensors)
        return model

    @property
    def _complement(self) -> Tensor:
        return cast(Tensor, self.complement_map)

    def _both_strands(
        self, input_ids: Tensor, position_ids: Tensor | None, cu_seqlens: Tensor | None
    ) -> Tensor:
        """[a, flip b]: hidden states of the strand and of its reverse complement, side by side.

        Each f of the model acts on the halves as [f(a), flip f(flip b)], so flip b, the other
        strand in its own reading order, goes through the model as a sequence of its own.
        """
        axis = 0 if cu_seqlens is None else 1
        order = None if cu_seqlens is None else reversal(cu_seqlens, input_ids.shape[1])

        def turned(tokens: Tensor) -> Tensor:
            return tokens.flip(1) if order is None else tokens.index_select(1, order)

        strands = torch.cat([input_ids, turned(self._complement[input_ids])], dim=axis)
        if position_ids is not None:
            position_ids = torch.cat([position_ids, position_ids], dim=axis)
        if cu_seqlens is not None:
            cu_seqlens = torch.cat([cu_seqlens, cu_seqlens[1:] + cu_seqlens[-1]])
        states = self._block_states(None)
        hidden, _ = self._read(strands, position_ids, cu_seqlens, states, False)
        strand, other = hidden.chunk(2, dim=axis)
        return torch.cat([strand, turned(other).flip(-1)], dim=-1)

    def _read(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None,
        cu_seqlens: Tensor | None,
        states: Sequence[Any],
        return_state: bool,
    ) -> tuple[Tensor, list[Any]]:
        """Hidden states and block states of tokens without padding."""
        x = self.embedding(input_ids)
        recompute = self.activation_checkpointing and self.training and torch.is_grad_enabled()
        new_states: list[Any] = []
        for block, state in zip(self.blocks, states, strict=True):
            turns = isinstance(cast(Any, block).mixer, MLSTM)
            arguments: dict[str, Any] = {
                "position_ids": position_ids if turns else None,
                "cu_seqlens": cu_seqlens,
                "state": state,
                "return_state": return_state,
            }
            if recompute:
                result = checkpoint(block, x, use_reentrant=False, **arguments)
            else:
                result = block(x, **arguments)
            x, state = result if return_state else (result, None)
            new_states.append(state)
        return self.norm(x), new_states

    def _loss(
        self,
        logits: Tensor,
        labels: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        cu_seqlens: Tensor | None,
    ) -> Tensor:
        if self.direction == "causal":
            if self.rc_equivariance is not None:
                raise ValueError(
                    "labels must be None where direction='causal' meets rc_equivariance='ps': the "
                    "other strand has read the next token"
                )
            targets = next_token_targets(labels, input_ids, attention_mask, cu_seqlens)
            logits = logits[:, :-1]
        else:
            _check_ids("labels", labels, ("batch", "time"))
            check_shape("labels", labels, input_ids.shape, "batch, time, as input_ids")
            mask = check_attention_mask(attention_mask, input_ids)
            targets = labels.to(torch.int64)
            if mask is not None:
                targets = targets.masked_fill(~mask, IGNORED_LABEL)
        total = F.cross_entropy(
            logits.flatten(0, 1).float(),
            targets.flatten(),
            ignore_index=IGNORED_LABEL,
            reduction="sum",
        )
        return total / (targets != IGNORED_LABEL).sum().clamp(min=1)

    def _require_recurrent(self, what: str) -> None:
        if self.direction != "causal":
            raise ValueError(f"{what} needs direction='causal', got {self.direction!r}")
        if self.rc_equivariance is not None:
            raise ValueError(
                f"{what} needs rc_equivariance=None, got {self.rc_equivariance!r}: "
                "the other strand is read from the end"
            )

    def _check_positions(self, position_ids: Tensor | None, input_ids: Tensor) -> None:
        if position_ids is None:
            return
        if not self.options["rope"]:
            raise ValueError("position_ids must be None where rope=False")
        check_shape("position_ids", position_ids, input_ids.shape, "batch, time, as input_ids")

    def _block_states(self, state: Sequence[Any] | None) -> Sequence[Any]:
        if state is None:
            return (None,) * len(self.blocks)
        if isinstance(state, Tensor) or len(state) != len(self.blocks):
            found = shape_of(state) if isinstance(state, Tensor) else f"{len(state)} entries"
            raise ValueError(f"state must have one entry a block ({len(self.blocks)}), got {found}")
        return state


def _checked_complement(
    complement_map: Sequence[int] | Tensor | None, vocab_size: int
) -> tuple[int, ...] | None:
    if complement_map is None:
        return None
    complement = tuple(int(token) for token in complement_map)
    if len(complement) != vocab_size:
        raise ValueError(
            f"complement_map must have vocab_size = {vocab_size} entries, got {len(complement)}"
        )
    for token, other in enumerate(complement):
        if not 0 <= other < vocab_size or complement[other] != token:
            raise ValueError(f"complement_map must be its own inverse, got {other} for {token}")
    return complement


def _check_ids(name: str, tokens: Tensor, layout: tuple[str, ...]) -> None:
    if not isinstance(tokens, Tensor) or tokens.dtype not in (torch.int32, torch.int64):
        got = tokens.dtype if isinstance(tokens, Tensor) else type(tokens).__name__
        raise TypeError(f"{name} must be an int32 or int64 tensor, got {got}")
    if tokens.ndim != len(layout):
        raise ValueError(f"{name} must have shape ({', '.join(layout)}), got {shape_of(tokens)}")
