"""NormAttention: linear attention whose denominator is replaced by a norm of its output.

    y_t = sum_{s <= t} <q_t, k_s> v_s        o = SRMSNorm(y) W_o

with q, k = LRPE(phi(x W)). Dividing by sum_s <q_t, k_s> bounds the output but not the gradient; the
norm bounds both. Time is O(T), causal or not. The state of a causal layer is a (head_dim, head_dim)
matrix a head, and the number of tokens read, which the rotation needs.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor

from rankone.distributed import SequenceShard
from rankone.nn.activations import activation_function
from rankone.nn.context_parallel import (
    ContextParallel,
    causal_layer_shard,
    last_positions,
    shard_positions,
    sharded,
    tokens_before,
)
from rankone.nn.lrpe import LRPEAttention, merge_padding_masks
from rankone.nn.mixer import register_mixer
from rankone.nn.packing import offsets_of, padded_rows, sequence_of
from rankone.ops import linear_attention, linear_attention_step
from rankone.ops.checks import check_shape

FEATURE_MAPS = ("1+elu", "elu", "relu", "silu", "identity")

# Xavier gain of queries, keys and values, as the published code draws them.
QKV_GAIN = 2**-0.5


class NormAttentionState(NamedTuple):
    """What NormAttention keeps of the past.

    Attributes:
        memory: (sequences, num_heads, head_dim, head_dim), sum of k v^T, float32 (float64 for a
            float64 layer).
        position: (sequences,) int64, number of tokens read.
    """

    memory: Tensor
    position: Tensor


class NormAttention(LRPEAttention):
    """Linear attention without scale and denominator, normalised over the merged heads.

    Args:
        dim: width of the input and the output.
        num_heads: heads, a divisor of ``dim``.
        activation: of queries and keys: ``"1+elu"``, ``"elu"``, ``"relu"``, ``"silu"`` or
            ``"identity"``.
        causal: whether a token sees its past alone, or everything.
        norm: of the merged heads: ``"srmsnorm"`` (the paper's), ``"rmsnorm"``, ``"layernorm"`` or
            ``"none"``.
        lrpe: whether queries and keys are encoded by :class:`rankone.nn.LRPE`.
        bias: whether the projections have biases.
        dropout: share of the output that is dropped in training.
        device, dtype: of the parameters; torch's defaults where None.

    Raises:
        ValueError: for widths and heads that do not fit, or unknown options.

    Source: "The Devil in Linear Transformer", arXiv 2210.10340. The state for streaming and the
    reset of positions in packed sequences were derived for this project.

    Example:
        >>> import torch
        >>> from rankone.nn.norm_attention import NormAttention
        >>> layer = NormAttention(32, 4)
        >>> x = torch.randn(2, 10, 32)
        >>> y = layer(x)
        >>> _, state = layer(x[:, :9], return_state=True)
        >>> last, state = layer.step(x[:, 9], state)
        >>> torch.allclose(last, y[:, 9], atol=1e-5)
        True
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        activation: str = "1+elu",
        causal: bool = True,
        norm: str = "srmsnorm",
        lrpe: bool = True,
        bias: bool = True,
        dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if activation not in FEATURE_MAPS:
            raise ValueError(f"activation must be one of {list(FEATURE_MAPS)}, got {activation!r}")
        super().__init__(
            dim,
            num_heads,
            causal=causal,
            norm=norm,
            lrpe=lrpe,
            bias=bias,
            dropout=dropout,
            qkv_gain=QKV_GAIN,
            device=device,
            dtype=dtype,
        )
        self.activation = activation
        self._activation = activation_function("activation", activation)

    def forward(
        self,
        x: Tensor,
        *,
        key_padding_mask: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        state: NormAttentionState | None = None,
        return_state: bool = False,
        attention_mask: Tensor | None = None,
        context_parallel: ContextParallel | None = None,
    ) -> Tensor | tuple[Tensor, NormAttentionState]:
        """Mix a batch of sequences.

        Args:
            x: (batch, time, dim).
            key_padding_mask: (batch, time) boolean, True on padding, which may stand anywhere and
                takes no position.
            cu_seqlens: (sequences + 1,) int32 or int64, starts of packed sequences; batch is 1.
            state: of an earlier call; causal layers only.
            return_state: also return the state after the last token; causal layers only.
            attention_mask: (batch, time), 1 on tokens and 0 on padding, in place of
                ``key_padding_mask``.
            context_parallel: process group or one-dimensional ``DeviceMesh`` over which time is
                cut, one contiguous shard a rank: ``x`` is this rank's, ``state`` and
                ``cu_seqlens`` are those of the whole on every rank, and so is the state that is
                returned. Causal
                layers only, and no mask.

        Returns:
            (batch, time, dim), 0 at padding, and with ``return_state`` the state.

        Raises:
            ValueError: for arguments of the wrong shape, or that exclude each other.
            TypeError: for masks of the wrong dtype.
            DistributedError: with ``context_parallel``, where ranks disagree or one is gone.
        """
        if context_parallel is not None:
            mask = merge_padding_masks(key_padding_mask, attention_mask, cu_seqlens, x)
            return self._mix_shard(x, context_parallel, cu_seqlens, mask, state, return_state)
        mask, sequences = self._check_call(
            x, key_padding_mask, attention_mask, cu_seqlens, state, return_state
        )
        self._check_state(state, sequences)
        start = None if state is None else state.position
        positions, length = _positions(x, mask, cu_seqlens, start, sequences)
        q, k, v = self._features(x, positions)
        if mask is not None:
            padding = ~mask[..., None, None]
            k, v = k.masked_fill(padding, 0), v.masked_fill(padding, 0)
        memory = None if state is None else state.memory
        o, memory = self._attend(q, k, v, memory, return_state, cu_seqlens)
        y = self._output(o.flatten(-2), x, mask)
        if not return_state:
            return y
        position = length if start is None else start + length
        return y, NormAttentionState(cast(Tensor, memory), position)

    def _mix_shard(
        self,
        x: Tensor,
        context_parallel: ContextParallel,
        cu_seqlens: Tensor | None,
        attention_mask: Tensor | None,
        state: NormAttentionState | None,
        return_state: bool,
    ) -> Tensor | tuple[Tensor, NormAttentionState]:
        """:meth:`forward` on this rank's part of sequences that are cut along time."""
        shard = causal_layer_shard(
            self, x, context_parallel, cu_seqlens, attention_mask, state, return_state
        )
        start = tokens_before(shard, x, None if state is None else state.position)
        q, k, v = self._features(x, shard_positions(shard, start))
        memory = None if state is None else state.memory
        o, memory = self._attend(q, k, v, memory, return_state, None, shard)
        y = self._output(o.flatten(-2), x)
        if not return_state:
            return y
        return y, NormAttentionState(cast(Tensor, memory), last_positions(shard, start))

    def step(
        self, x: Tensor, state: NormAttentionState | None = None
    ) -> tuple[Tensor, NormAttentionState]:
        """Mix one token.

        Args:
            x: (batch, dim).
            state: None at the start.

        Returns:
            (batch, dim) and the new state.

        Raises:
            ValueError: for an input or state of the wrong shape, or a layer that is not causal.
        """
        self._check_step(x)
        self._check_state(state, x.shape[0])
        if state is None:
            state = self.init_state(x.shape[0], device=x.device)
        q, k, v = (part[:, 0] for part in self._features(x[:, None], state.position[:, None]))
        o, memory = linear_attention_step(q, k, v, state.memory, scale=1.0)
        y = self._output(o.flatten(-2), x)
        return y, NormAttentionState(cast(Tensor, memory), state.position + 1)

    def init_state(
        self,
        batch_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> NormAttentionState:
        """The state before the first token; ``dtype`` is that of the memory."""
        weight = self.q_proj.weight
        device = weight.device if device is None else device
        if dtype is None:
            dtype = torch.promote_types(weight.dtype, torch.float32)
        shape = (batch_size, self.num_heads, self.head_dim, self.head_dim)
        return NormAttentionState(
            torch.zeros(shape, device=device, dtype=dtype),
            torch.zeros(batch_size, device=device, dtype=torch.int64),
        )

    def attention_weights(self, x: Tensor) -> Tensor:
        """(batch, heads, time, time) products <q_t, k_s>, 0 where t does not see s.

        Quadratic in time and memory: for analysis only.

        Args:
            x: (batch, time, dim).
        """
        self._check_call(x, None, None, None, None, False)
        q, k, _ = self._features(x, None)
        weights = torch.einsum("bthd,bshd->bhts", q, k)
        return weights.tril() if self.causal else weights

    def _features(self, x: Tensor, positions: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self._project(x)
        if q.dtype == torch.float16:
            # Outputs grow with time until the norm; float16 would overflow at 65504.
            q, k, v = q.float(), k.float(), v.float()
        q = self._encode(self._activation(q), positions)
        return q, self._encode(self._activation(k), positions), v

    def _attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        memory: Tensor | None,
        return_state: bool,
        cu_seqlens: Tensor | None,
        shard: SequenceShard | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Outputs of every head before the norm, and the memory after the last token."""
        if not self.causal:
            return _attend_both_ways(q, k, v, cu_seqlens), None
        o, memory = sharded(linear_attention, shard)(
            q,
            k,
            v,
            scale=1.0,
            initial_state=memory,
            output_final_state=return_state,
            cu_seqlens=cu_seqlens,
        )
        return o, cast("Tensor | None", memory)

    def _check_state(self, state: NormAttentionState | None, sequences: int) -> None:
        if state is None:
            return
        if not isinstance(state, NormAttentionState):
            raise TypeError(
                f"state must be a NormAttentionState (memory, position), got {type(state).__name__}"
            )
        shape = (sequences, self.num_heads, self.head_dim, self.head_dim)
        check_shape("state.memory", state.memory, shape, "sequences, heads, head dim, head dim")
        check_shape("state.position", state.position, (sequences,), "sequences")

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, activation={self.activation!r}"


def _attend_both_ways(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    """Attention of every token to its whole sequence; packed sequences are padded meanwhile."""
    if cu_seqlens is None:
        return linear_attention(q, k, v, scale=1.0, causal=False)[0]
    heads, head_dim = q.shape[2:]
    merged, _, row, column = padded_rows(torch.cat([q, k, v], -1).flatten(2), cu_seqlens)
    q, k, v = merged.unflatten(-1, (heads, 3 * head_dim)).chunk(3, dim=-1)
    return linear_attention(q, k, v, scale=1.0, causal=False)[0][row, column][None]


def _positions(
    x: Tensor,
    mask: Tensor | None,
    cu_seqlens: Tensor | None,
    start: Tensor | None,
    sequences: int,
) -> tuple[Tensor | None, Tensor]:
    """Position of every token, None for 0, 1, 2, ...; and the number of tokens a sequence."""
    time = x.shape[1]
    if cu_seqlens is not None:
        cu_seqlens = cu_seqlens.to(x.device)
        length = cu_seqlens.to(torch.int64).diff()
        sequence = sequence_of(cu_seqlens, time)
        first = -offsets_of(length)[:-1] if start is None else start - offsets_of(length)[:-1]
        return (torch.arange(time, device=x.device) + first[sequence])[None], length
    if mask is not None:
        positions, length = mask.cumsum(1) - 1, mask.sum(1)
    else:
        length = torch.full((sequences,), time, device=x.device)
        if start is None:
            return None, length
        positions = torch.arange(time, device=x.device)[None]
    return positions if start is None else positions + start[:, None], length


register_mixer("norm_attention", NormAttention)
