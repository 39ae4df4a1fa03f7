"""HedgehogAttention: normalised linear attention with learned feature maps, as a layer.

    a_ij = phi_q(q_i) . phi_k(k_j) / sum_j' phi_q(q_i) . phi_k(k_j')        y_i = sum_j a_ij v_j

phi_q and phi_k are one :class:`rankone.nn.feature_maps.HedgehogFeatureMap` each, with a map of its
own for every query head and every key head; there is no factor 1 / sqrt(d), and rotary positions
come before the maps. Causal attention is a recurrence with the state (S, z); the weights are never
formed. :func:`feature_attention` is that computation for any feature map; the conversions of
``rankone.nn.convert`` use it too.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from rankone._arguments import check_integer
from rankone.distributed import SequenceShard
from rankone.nn.context_parallel import (
    ContextParallel,
    causal_layer_shard,
    last_positions,
    shard_positions,
    sharded,
    tokens_before,
)
from rankone.nn.feature_maps import HedgehogFeatureMap
from rankone.nn.lrpe import merge_padding_masks
from rankone.nn.mixer import check_heads, check_sequence, check_token, register_mixer
from rankone.nn.packing import padded_rows, token_positions
from rankone.nn.rotary import apply_rotary
from rankone.ops import linear_attention, linear_attention_step
from rankone.ops.checks import check_cu_seqlens_values, check_shape

# Feature widths above this are read in blocks: the kernels' limit on the width of a key.
MAX_FEATURES = 256

# Below every positive float32 sum of features that matters; 0 / 0 at padding becomes 0.
NORMALIZER_FLOOR = 1e-30


def feature_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = True,
    mask: Tensor | None = None,
    state: tuple[Tensor, Tensor] | None = None,
    return_state: bool = False,
    cu_seqlens: Tensor | None = None,
    shard: SequenceShard | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """Linear attention normalised over the keys, from features of queries and keys.

    Args:
        q: (B, T, H, F) features of queries, float32 or float64, not negative.
        k: (B, T, Hk, F) features of keys.
        v: (B, T, Hk, V) values.
        causal: whether a token sees only itself and the past.
        mask: (B, T) boolean, True on tokens; keys at padding are left out.
        state: (S (N, Hk, F, V), z (N, Hk, F)) after the tokens before; only when causal.
        return_state: also give the state after the last token.
        cu_seqlens: (N + 1,) offsets of packed sequences; only when causal.
        shard: where time is cut over ranks, how; states are then those of the whole.

    Returns:
        (B, T, H, V) in the dtype of the features, and the state or None.

    Example:
        >>> import torch
        >>> from rankone.nn.hedgehog import feature_attention
        >>> q = k = torch.ones(1, 3, 1, 2)
        >>> v = torch.arange(3.0)[None, :, None, None]
        >>> feature_attention(q, k, v)[0].flatten()
        tensor([0.0000, 0.5000, 1.0000])
    """
    v = v.to(q.dtype)
    if mask is not None:
        padding = ~mask[..., None, None]
        k, v = k.masked_fill(padding, 0), v.masked_fill(padding, 0)
    with torch.autocast(q.device.type, enabled=False):
        if q.shape[-1] > MAX_FEATURES:
            return _wide_attention(q, k, v, causal, state, return_state, cu_seqlens, shard)
        if causal and q.shape[1] == 1 and cu_seqlens is None and shard is None:
            tokens = q[:, 0], k[:, 0], v[:, 0]
            o, after = linear_attention_step(*tokens, state, normalize=True, eps=NORMALIZER_FLOOR)
            return o[:, None], cast("tuple[Tensor, Tensor]", after) if return_state else None
        o, after = sharded(linear_attention, shard)(
            q,
            k,
            v,
            initial_state=state,
            output_final_state=return_state,
            normalize=True,
            eps=NORMALIZER_FLOOR,
            causal=causal,
            cu_seqlens=cu_seqlens,
        )
    return o, cast("tuple[Tensor, Tensor] | None", after)


def _wide_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: bool,
    state: tuple[Tensor, Tensor] | None,
    return_state: bool,
    cu_seqlens: Tensor | None,
    shard: SequenceShard | None,
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """Blocks of features add up, in the weighted values and in the normaliser (a value of 1)."""
    v = torch.cat([v, torch.ones_like(v[..., :1])], dim=-1)
    before = None
    if state is not None:
        before = torch.cat([state[0], state[1][..., None]], dim=-1).split(MAX_FEATURES, dim=-2)
    sums: Any = 0
    states = []
    blocks = zip(q.split(MAX_FEATURES, -1), k.split(MAX_FEATURES, -1), strict=True)
    for index, (q_block, k_block) in enumerate(blocks):
        part, after = sharded(linear_attention, shard)(
            q_block.contiguous(),
            k_block.contiguous(),
            v,
            scale=1.0,
            initial_state=None if before is None else before[index].contiguous(),
            output_final_state=return_state,
            causal=causal,
            cu_seqlens=cu_seqlens,
        )
        sums = sums + part
        states.append(after)
    o = sums[..., :-1] / (sums[..., -1:] + NORMALIZER_FLOOR)
    if not return_state:
        return o, None
    joined = torch.cat(cast("list[Tensor]", states), dim=-2)
    return o, (joined[..., :-1], joined[..., -1])


class HedgehogState(NamedTuple):
    """The state of :class:`HedgehogAttention`, of constant size in the length.

    Attributes:
        values: (sequences, num_kv_heads, 2 f, head_dim), S = sum of phi(k) v^T; float32 (float64
            for a float64 layer).
        normalizer: (sequences, num_kv_heads, 2 f), z = sum of phi(k).
        length: (sequences,) int64, number of tokens read.
    """

    values: Tensor
    normalizer: Tensor
    length: Tensor


class HedgehogAttention(nn.Module):
    """Linear attention with Hedgehog feature maps, for training from scratch.

    Args:
        dim: width of the input and the output.
        num_heads: query heads.
        num_kv_heads: key and value heads, a divisor of ``num_heads``; default ``num_heads``.
        activation: of the feature maps, see :class:`rankone.nn.feature_maps.HedgehogFeatureMap`.
        causal: whether a token sees only itself and the past.
        rotary: whether queries and keys are rotated by their positions, before the maps.
        bias: whether the four linear maps have biases.
        head_dim: width of a head; default dim / num_heads.
        rope_base: base of the rotary angles.
        device, dtype: of the parameters; torch's defaults where None.

    Attributes:
        q_proj, k_proj, v_proj, out_proj: the linear maps.
        feature_map_q, feature_map_k: one map a query head, and one a key head.

    Raises:
        ValueError: for widths and heads that do not fit, an odd head with ``rotary``, or an
            unknown activation.

    Source: "The Hedgehog & the Porcupine: Expressive Linear Attentions with Softmax Mimicry",
    arXiv 2402.04347; the sharing of maps among grouped heads is rankone's own.

    Example:
        >>> import torch
        >>> from rankone.nn.hedgehog import HedgehogAttention
        >>> layer = HedgehogAttention(32, 4, num_kv_heads=2)
        >>> x = torch.randn(2, 10, 32)
        >>> y = layer(x)
        >>> first, state = layer(x[:, :9], return_state=True)
        >>> last, state = layer.step(x[:, 9], state)
        >>> torch.allclose(last, y[:, 9], atol=1e-5)
        True
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        num_kv_heads: int | None = None,
        activation: str = "softmax",
        causal: bool = True,
        rotary: bool = False,
        bias: bool = True,
        head_dim: int | None = None,
        rope_base: float = 10000.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_integer("dim", dim)
        head_dim, num_kv_heads = check_heads(dim, num_heads, head_dim, num_kv_heads)
        if rotary and head_dim % 2:
            raise ValueError(f"head_dim must be even for rotary positions, got {head_dim}")
        self.dim = dim
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads
        self.head_dim = head_dim
        self.causal = causal
        self.rotary = rotary
        self.rope_base = rope_base

        def linear(inputs: int, outputs: int) -> nn.Linear:
            return nn.Linear(inputs, outputs, bias, device=device, dtype=dtype)

        def learned_map(heads: int) -> HedgehogFeatureMap:
            return HedgehogFeatureMap(
                head_dim, heads, activation=activation, device=device, dtype=dtype
            )

        self.q_proj = linear(dim, num_heads * head_dim)
        self.k_proj = linear(dim, num_kv_heads * head_dim)
        self.v_proj = linear(dim, num_kv_heads * head_dim)
        self.out_proj = linear(num_heads * head_dim, dim)
        self.feature_map_q = learned_map(num_heads)
        self.feature_map_k = learned_map(num_kv_heads)

    def forward(
        self,
        x: Tensor,
        key_padding_mask: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        state: HedgehogState | None = None,
        return_state: bool = False,
        *,
        attention_mask: Tensor | None = None,
        context_parallel: ContextParallel | None = None,
    ) -> Tensor | tuple[Tensor, HedgehogState]:
        """Mix a batch of sequences.

        Args:
            x: (batch, time, dim).
            key_padding_mask: (batch, time) boolean, True on padding, which may stand anywhere.
            cu_seqlens: (sequences + 1,) int32 or int64, starts of packed sequences; batch is 1.
            state: from an earlier call; only for a causal layer.
            return_state: also return the state after the last token; only for a causal layer.
            attention_mask: (batch, time), 1 on tokens and 0 on padding, instead of
                ``key_padding_mask``.
            context_parallel: process group or one-dimensional ``DeviceMesh`` over which time is
                cut, one contiguous shard a rank: ``x`` is this rank's, ``state`` and
                ``cu_seqlens`` are those of the whole on every rank, and so is the state that is
                returned. Causal
                layers only, and no mask.

        Returns:
            (batch, time, dim), and with ``return_state`` the :class:`HedgehogState`. Outputs at
            padding mean nothing.

        Raises:
            ValueError: for an input, mask or state of the wrong shape, or a state of a layer that
                is not causal.
            TypeError: for a mask or state of the wrong type.
            DistributedError: with ``context_parallel``, where ranks disagree or one is gone.
        """
        if not self.causal and (state is not None or return_state):
            raise ValueError("state and return_state need a causal layer, got causal=False")
        attention_mask = merge_padding_masks(key_padding_mask, attention_mask, cu_seqlens, x)
        if context_parallel is not None:
            return self._mix_shard(
                x, context_parallel, cu_seqlens, attention_mask, state, return_state
            )
        mask, sequences = check_sequence(x, self.dim, attention_mask, cu_seqlens)
        self._check_state(state, sequences)
        if cu_seqlens is not None:
            check_cu_seqlens_values(cu_seqlens, x.shape[1])
            if not self.causal:
                padded, mask, row, column = padded_rows(x, cu_seqlens)
                return cast(Tensor, self(padded, attention_mask=mask))[row, column][None]
        start = x.new_zeros(sequences, dtype=torch.int64) if state is None else state.length
        positions, length = token_positions(x, mask, cu_seqlens, start)
        q, k, v = self._project(x, positions)
        o, after = feature_attention(
            self.feature_map_q(q),
            self.feature_map_k(k),
            v,
            causal=self.causal,
            mask=mask,
            state=None if state is None else (state.values, state.normalizer),
            return_state=return_state,
            cu_seqlens=cu_seqlens,
        )
        y = self._output(x, o)
        if not return_state:
            return y
        values, normalizer = cast("tuple[Tensor, Tensor]", after)
        return y, HedgehogState(values, normalizer, length)

    def _mix_shard(
        self,
        x: Tensor,
        context_parallel: ContextParallel,
        cu_seqlens: Tensor | None,
        attention_mask: Tensor | None,
        state: HedgehogState | None,
        return_state: bool,
    ) -> Tensor | tuple[Tensor, HedgehogState]:
        """:meth:`forward` on this rank's part of sequences that are cut along time."""
        shard = causal_layer_shard(
            self, x, context_parallel, cu_seqlens, attention_mask, state, return_state
        )
        start = tokens_before(shard, x, None if state is None else state.length)
        q, k, v = self._project(x, shard_positions(shard, start))
        o, after = feature_attention(
            self.feature_map_q(q),
            self.feature_map_k(k),
            v,
            state=None if state is None else (state.values, state.normalizer),
            return_state=return_state,
            shard=shard,
        )
        y = self._output(x, o)
        if not return_state:
            return y
        values, normalizer = cast("tuple[Tensor, Tensor]", after)
        return y, HedgehogState(values, normalizer, last_positions(shard, start))

    def step(self, x: Tensor, state: HedgehogState | None = None) -> tuple[Tensor, HedgehogState]:
        """Mix one token: (batch, dim) after ``state``; gives the output and the new state."""
        check_token(x, self.dim)
        y, state = cast("tuple[Tensor, HedgehogState]", self(x[:, None], None, None, state, True))
        return y[:, 0], state

    def init_state(
        self,
        batch_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> HedgehogState:
        """Zeros for ``batch_size`` sequences, float32 by default (float64 for a float64 layer)."""
        weight = self.q_proj.weight
        device = weight.device if device is None else device
        if dtype is None:
            dtype = torch.promote_types(weight.dtype, torch.float32)
        shape = (batch_size, self.num_kv_heads, self.feature_map_k.num_features)
        return HedgehogState(
            torch.zeros((*shape, self.head_dim), device=device, dtype=dtype),
            torch.zeros(shape, device=device, dtype=dtype),
            torch.zeros(batch_size, device=device, dtype=torch.int64),
        )

    def _check_state(self, state: HedgehogState | None, sequences: int) -> None:
        if state is None:
            return
        if not isinstance(state, tuple) or len(state) != len(HedgehogState._fields):
            raise TypeError(
                "state must be a HedgehogState (values, normalizer, length), "
                f"got {type(state).__name__}"
            )
        shape = (sequences, self.num_kv_heads, self.feature_map_k.num_features)
        axes = "sequences, kv heads, features"
        check_shape("state.values", state[0], (*shape, self.head_dim), f"{axes}, head dim")
        check_shape("state.normalizer", state[1], shape, axes)
        check_shape("state.length", state[2], (sequences,), "sequences")

    def _project(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q = self.q_proj(x).unflatten(-1, (self.num_heads, self.head_dim))
        k = self.k_proj(x).unflatten(-1, (self.num_kv_heads, self.head_dim))
        v = self.v_proj(x).unflatten(-1, (self.num_kv_heads, self.head_dim))
        if self.rotary:
            q = apply_rotary(q, positions, base=self.rope_base)
            k = apply_rotary(k, positions, base=self.rope_base)
        return q, k, v

    def _output(self, x: Tensor, o: Tensor) -> Tensor:
        o = o.flatten(-2)
        if not torch.is_autocast_enabled(x.device.type):
            o = o.to(x.dtype)
        return self.out_proj(o)

    def extra_repr(self) -> str:
        return (
            f"{self.dim}, {self.num_heads}, num_kv_heads={self.num_kv_heads}, "
            f"causal={self.causal}, rotary={self.rotary}"
        )


register_mixer("hedgehog_attention", HedgehogAttention)
