"""MixtureOfMemories: a router sends each token to k of M memories, which alone read and write it.

    p = softmax(x W_r);  I = the k largest;  w = p renormalised over I
    memories in I are updated with their own k, v and gates of x; the others stay as they are
    o = sum over I of w_m * read(S^m, q) + read(S^shared, q);  y = (RMSNorm(o) * silu(x W_g)) W_o

Tokens are dispatched: one stable sort makes the tokens of each memory and sequence contiguous, and
the rule runs once over them as packed sequences, so the cost does not grow with M. Queries come
from one projection; keys, values and gates are projected only for the memories that a token goes
to. Everything between router and output is a permutation, an expansion or a product of matrices,
so forward and backward are deterministic.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rankone._arguments import check_size
from rankone.nn.delta_net import (
    checked_value_dim,
    decay_parameters,
    projected_log_decay,
    wide,
)
from rankone.nn.dispatch import Dispatch
from rankone.nn.grouped_linear import GroupedLinear
from rankone.nn.memory_rules import MemoryRule, make_memory_rule
from rankone.nn.mixer import check_sequence, check_token, register_mixer
from rankone.nn.norms import RMSNorm
from rankone.nn.packing import pack, sequence_of, unpack
from rankone.nn.routing import check_top_k, route
from rankone.nn.short_convolution import ShortConvolution
from rankone.ops.checks import check_cu_seqlens_values, check_shape

CONV_SCOPES = ("memory", "sequence")

# Gain of the initial weights in the reference implementation.
INITIAL_GAIN = 2**-2.5


class MemoryState(NamedTuple):
    """The state of :class:`MixtureOfMemories`.

    The convolutions have one stream of inputs a memory, or one in all where they see the whole
    sequence and their projection is not by memory; None without convolutions.

    Attributes:
        recurrent: (sequences, M, heads, key dim, value dim), or (sequences, M, ...) as the rule
            says.
        shared: (sequences, heads, key dim, value dim) of the shared memory, or None.
        conv_q, conv_k, conv_v: (sequences, streams, channels, conv_size - 1), oldest first.
        shared_conv_q, shared_conv_k, shared_conv_v: (sequences, channels, conv_size - 1) of the
            shared memory; None without one, and for q where its convolution sees the whole sequence
            anyway.
    """

    recurrent: Tensor
    shared: Tensor | None
    conv_q: Tensor | None
    conv_k: Tensor | None
    conv_v: Tensor | None
    shared_conv_q: Tensor | None
    shared_conv_k: Tensor | None
    shared_conv_v: Tensor | None


class MixtureOfMemories(nn.Module):
    """Several memories of linear-time attention, of which each token uses a few.

    Args:
        hidden_size: width of the input and the output.
        num_heads: heads.
        head_dim: key width of a head.
        num_memories: memories M that tokens are routed to.
        top_k: memories k a token is routed to.
        expand_v: value width of a head, as a multiple of ``head_dim``.
        shared_memory: whether one more memory sees every token.
        memory_rule: ``"gated_delta_rule"``, ``"gated_delta_rule_channel"``, ``"delta_rule"``,
            ``"linear_attention"``, ``"gated_linear_attention"``, or a
            :class:`rankone.nn.MemoryRule`.
        per_memory_projections: whether every memory has its own keys, values and gates; otherwise
            all share one projection and the router alone tells them apart.
        use_output_gate: whether the normalised output is gated by silu(x W_g).
        use_short_conv: whether q, k and v pass a convolution; its weights are shared by all.
        conv_size: tokens that the convolutions see.
        conv_scope: ``"memory"`` convolves along the tokens of each memory; ``"sequence"`` along the
            whole sequence, which takes keys and values of every memory for every token unless
            ``per_memory_projections`` is False.
        allow_neg_eigval: write strengths up to 2 instead of 1.
        norm_eps: of the output norm.
        device, dtype: of the parameters; torch's defaults where None.

    Raises:
        ValueError: for sizes that do not fit, or unknown options.
        TypeError: for a memory rule without the methods of :class:`rankone.nn.MemoryRule`.

    Source: "MoM: Linear Sequence Modeling with Mixture-of-Memories", arXiv 2502.13685.

    Example:
        >>> import torch
        >>> from rankone.nn import MixtureOfMemories
        >>> layer = MixtureOfMemories(32, 2, 8)
        >>> y, state, router = layer(
        ...     torch.randn(2, 10, 32), return_state=True, return_router=True)
        >>> state.recurrent.shape, router.indices.shape, round(float(router.load.sum()), 3)
        (torch.Size([2, 4, 2, 8, 8]), torch.Size([2, 10, 2]), 2.0)
    """

    # A language model asks for the router's output and adds its loss.
    returns_router = True

    def __init__(
        self,
        hidden_size: int,
        num_heads: int = 4,
        head_dim: int = 256,
        *,
        num_memories: int = 4,
        top_k: int = 2,
        expand_v: float = 1.0,
        shared_memory: bool = True,
        memory_rule: str | MemoryRule = "gated_delta_rule",
        per_memory_projections: bool = True,
        use_output_gate: bool = True,
        use_short_conv: bool = True,
        conv_size: int = 4,
        conv_scope: str = "memory",
        allow_neg_eigval: bool = False,
        norm_eps: float = 1e-5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        for name, value in (
            ("hidden_size", hidden_size),
            ("num_heads", num_heads),
            ("head_dim", head_dim),
            ("num_memories", num_memories),
        ):
            check_size(name, value)
        check_top_k(top_k, num_memories)
        if conv_scope not in CONV_SCOPES:
            raise ValueError(f"conv_scope must be one of {list(CONV_SCOPES)}, got {conv_scope!r}")
        self.hidden_size = hidden_size
        self.num_heads = num_heads
        self.head_k_dim = head_dim
        self.head_v_dim = checked_value_dim(head_dim, expand_v)
        self.num_memories = num_memories
        self.top_k = top_k
        self.shared_memory = shared_memory
        self.conv_scope = conv_scope
        self.allow_neg_eigval = allow_neg_eigval
        self.rule = make_memory_rule(memory_rule, head_dim)

        placement: dict[str, Any] = {"device": device, "dtype": dtype}
        key_width, value_width = num_heads * head_dim, num_heads * self.head_v_dim
        groups = num_memories if per_memory_projections else 1
        self._extras = {name: num_heads * width for name, width in self.rule.extras.items()}
        by_memory = {"k": key_width, "v": value_width, **self._extras}

        self.router = nn.Linear(hidden_size, num_memories, False, **placement)
        self.q_proj = nn.Linear(hidden_size, key_width, False, **placement)
        for name, width in by_memory.items():
            projection = GroupedLinear(groups, hidden_size, width, **placement)
            self.add_module(f"{name}_proj", projection)
            if shared_memory:
                shared = nn.Linear(hidden_size, width, False, **placement)
                self.add_module(f"shared_{name}_proj", shared)

        def convolution(width: int) -> ShortConvolution | None:
            if not use_short_conv:
                return None
            return ShortConvolution(width, conv_size, activation="silu", **placement)

        self.q_conv = convolution(key_width)
        self.k_conv = convolution(key_width)
        self.v_conv = convolution(value_width)
        if "a" in self._extras:
            channels = self.rule.extras["a"]
            self.A_log, self.dt_bias = decay_parameters(num_heads, channels, **placement)
        self.g_proj = None
        if use_output_gate:
            self.g_proj = nn.Linear(hidden_size, value_width, False, **placement)
        self.o_norm = RMSNorm(self.head_v_dim, norm_eps, **placement)
        self.o_proj = nn.Linear(value_width, hidden_size, False, **placement)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight, gain=INITIAL_GAIN)
            elif isinstance(module, GroupedLinear):
                module.xavier_uniform_(INITIAL_GAIN)

    def forward(
        self,
        x: Tensor,
        *,
        attention_mask: Tensor | None = None,
        state: MemoryState | None = None,
        return_state: bool = False,
        cu_seqlens: Tensor | None = None,
        return_router: bool = False,
    ) -> Any:
        """Mix a batch of sequences.

        Args:
            x: (batch, time, hidden_size).
            attention_mask: (batch, time), boolean or integer, 1 on tokens and 0 on padding, which
                is taken out before the memories and comes back as zeros.
            state: :class:`MemoryState` of an earlier call, one entry of its first axis a sequence;
                default the start of a sequence.
            return_state: also return the state after the last token.
            cu_seqlens: (sequences + 1,) int32 or int64, starts of packed sequences; batch is 1.
            return_router: also return the :class:`RouterOutput`, whose load and loss are of the
                real tokens.

        Returns:
            (batch, time, hidden_size) in the dtype of ``x``, or a tuple of it, the state and the
            router's output, as far as asked for.

        Raises:
            ValueError: for an input, mask or state of the wrong shape.
            TypeError: for a mask that is neither boolean nor integer, or another kind of state.
        """
        mask, sequences = check_sequence(x, self.hidden_size, attention_mask, cu_seqlens)
        self._check_state(state, sequences)
        if cu_seqlens is not None:
            check_cu_seqlens_values(cu_seqlens, x.shape[1])
        router = route(self._logits(x), self.top_k, mask=mask)
        indices, weights = router.indices.flatten(0, 1), router.weights.flatten(0, 1)
        if mask is None:
            y, new_state = self._mix(x, indices, weights, cu_seqlens, state, return_state)
        else:
            packed = pack(x, mask)
            indices, weights = indices[packed.places], weights.index_select(0, packed.places)
            y, new_state = self._mix(
                packed.x, indices, weights, packed.cu_seqlens, state, return_state
            )
            y = unpack(y, packed.places, *x.shape[:2])
        results: list[Any] = [y]
        if return_state:
            results.append(new_state)
        if return_router:
            results.append(router)
        return tuple(results) if len(results) > 1 else y

    def step(self, x: Tensor, state: MemoryState | None = None) -> tuple[Tensor, MemoryState]:
        """Mix one token.

        Args:
            x: (batch, hidden_size).
            state: state before it, or None at the start.

        Returns:
            (batch, hidden_size) and the new state; the old one is left as it is, and memories that
            the token is not routed to are equal in both, bit for bit.

        Raises:
            ValueError: for an input or state of the wrong shape.
        """
        check_token(x, self.hidden_size)
        batch = x.shape[0]
        self._check_state(state, batch)
        if state is None:
            state = self.init_state(batch, device=x.device)
        router = route(self._logits(x)[:, None], self.top_k)
        sequence = torch.arange(batch, device=x.device)
        to = Dispatch.of(router.indices[:, 0], sequence, batch, memories=self.num_memories)
        place = (to.token, to.memory)

        q, conv_q, shared_q, shared_conv_q = self._step_queries(x, to, state)
        k, conv_k = self._step_routed(self._by_memory("k"), self.k_conv, x, to, state.conv_k)
        v, conv_v = self._step_routed(self._by_memory("v"), self.v_conv, x, to, state.conv_v)
        extras = {name: self._routed(self._by_memory(name), x, to) for name in self._extras}
        o, updated = self.rule.step(
            *self._split(q, k, v), self._gated(extras), state.recurrent[place]
        )
        recurrent = state.recurrent.index_put(place, updated.to(state.recurrent.dtype))
        o = _weighted(to.gather(o), router.weights[:, 0])

        shared_state, shared_conv_k, shared_conv_v = state.shared, None, None
        if self.shared_memory:
            shared_k, shared_conv_k = self._convolve_step(
                self.k_conv, self._shared("k")(x), state.shared_conv_k
            )
            shared_v, shared_conv_v = self._convolve_step(
                self.v_conv, self._shared("v")(x), state.shared_conv_v
            )
            extras = {name: self._shared(name)(x) for name in self._extras}
            read, shared_state = self.rule.step(
                *self._split(shared_q, shared_k, shared_v),
                self._gated(extras),
                cast(Tensor, state.shared),
            )
            o = o + read
        new_state = MemoryState(
            recurrent, shared_state, conv_q, conv_k, conv_v,
            shared_conv_q, shared_conv_k, shared_conv_v,
        )  # fmt: skip
        return self._output(x, o), new_state

    def init_state(
        self,
        batch_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> MemoryState:
        """Zeros for ``batch_size`` sequences.

        Args:
            batch_size: number of sequences.
            device: default that of the layer.
            dtype: of the convolutions' inputs, default the layer's; memories are float32 (float64
                where ``dtype`` is float64).
        """
        weight = self.q_proj.weight
        dtype = weight.dtype if dtype is None else dtype
        entries: list[Any] = []
        for index, shape in enumerate(self._state_shapes(batch_size)):
            # The first two are memories.
            kind = torch.promote_types(dtype, torch.float32) if index < 2 else dtype
            entries.append(
                None if shape is None else weight.new_zeros(shape, device=device, dtype=kind)
            )
        return MemoryState(*entries)

    def _state_shapes(self, sequences: int) -> tuple[tuple[int, ...] | None, ...]:
        """The shape of every entry of the state, or None where there is none."""
        memory = self.rule.state_shape(self.num_heads, self.head_k_dim, self.head_v_dim)
        whole = self.conv_scope == "sequence"
        routed: list[tuple[int, ...] | None] = []
        shared: list[tuple[int, ...] | None] = []
        for name, conv in (("q", self.q_conv), ("k", self.k_conv), ("v", self.v_conv)):
            if conv is None:
                routed.append(None)
                shared.append(None)
                continue
            channels = (conv.dim, conv.kernel_size - 1)
            streams = self.num_memories
            if whole:
                streams = 1 if name == "q" else self._by_memory(name).groups
            routed.append((sequences, streams, *channels))
            own = self.shared_memory and not (whole and name == "q")
            shared.append((sequences, *channels) if own else None)
        shared_memory = (sequences, *memory) if self.shared_memory else None
        return ((sequences, self.num_memories, *memory), shared_memory, *routed, *shared)

    def _check_state(self, state: MemoryState | None, sequences: int) -> None:
        if state is None:
            return
        if not isinstance(state, tuple) or len(state) != len(MemoryState._fields):
            raise TypeError(
                f"state must be a MemoryState ({', '.join(MemoryState._fields)}), "
                f"got {type(state).__name__}"
            )
        shapes = self._state_shapes(sequences)
        for name, entry, shape in zip(MemoryState._fields, state, shapes, strict=True):
            if shape is not None:
                check_shape(f"state.{name}", cast(Tensor, entry), shape, "sequences first")

    def _by_memory(self, name: str) -> GroupedLinear:
        return cast(GroupedLinear, self.get_submodule(f"{name}_proj"))

    def _shared(self, name: str) -> nn.Module:
        return self.get_submodule(f"shared_{name}_proj")

    def _logits(self, x: Tensor) -> Tensor:
        """Router logits in at least float32, also under autocast: rounding would move tokens."""
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(wide(x), wide(self.router.weight))

    def _routed(self, projection: GroupedLinear, x: Tensor, to: Dispatch) -> Tensor:
        """A projection of every pair, in sorted order."""
        if projection.groups == 1:
            return to.spread(projection(x, ()))
        return projection(to.spread(x), to.sizes)

    def _mix(
        self,
        x: Tensor,
        indices: Tensor,
        weights: Tensor,
        cu_seqlens: Tensor | None,
        state: MemoryState | None,
        return_state: bool,
    ) -> tuple[Tensor, MemoryState | None]:
        """``x`` (batch, time, hidden_size), packed where ``cu_seqlens`` is given; no padding."""
        batch, time, _ = x.shape
        sequences = batch if cu_seqlens is None else cu_seqlens.shape[0] - 1
        if sequences == 0:
            after = self.init_state(0, device=x.device) if return_state else None
            o = x.new_zeros(batch, time, self.num_heads, self.head_v_dim)
            return self._output(x, o), after
        before = MemoryState(*(None,) * 8) if state is None else state  # type: ignore[arg-type]
        offsets = cu_seqlens
        if offsets is None:
            offsets = time * torch.arange(batch + 1, device=x.device)
        tokens = x.flatten(0, 1)
        to = Dispatch.of(
            indices, sequence_of(offsets, batch * time), sequences, memories=self.num_memories
        )

        def whole(
            conv: ShortConvolution | None, rows: Tensor, inputs: Tensor | None
        ) -> tuple[Tensor, Tensor | None]:
            """(tokens, channels) along the sequences as they are."""
            if conv is None:
                return F.silu(rows), None
            rows, inputs = conv(
                rows.unflatten(0, (batch, time)),
                state=inputs,
                return_state=return_state,
                cu_seqlens=cu_seqlens,
            )
            return rows.flatten(0, 1), inputs

        def routed(
            conv: ShortConvolution | None, rows: Tensor, inputs: Tensor | None
        ) -> tuple[Tensor, Tensor | None]:
            """Pairs in sorted order along each memory's tokens."""
            if conv is None:
                return F.silu(rows), None
            if inputs is not None:
                inputs = inputs.transpose(0, 1).flatten(0, 1)
            rows, inputs = conv(
                rows[None], state=inputs, return_state=return_state, cu_seqlens=to.cu_seqlens
            )
            if inputs is not None:
                inputs = inputs.unflatten(0, (self.num_memories, sequences)).transpose(0, 1)
            return rows[0], inputs

        def keys_or_values(
            projection: GroupedLinear, conv: ShortConvolution | None, inputs: Tensor | None
        ) -> tuple[Tensor, Tensor | None]:
            if self.conv_scope == "memory" or conv is None:
                return routed(conv, self._routed(projection, tokens, to), inputs)
            every = projection.every(tokens).flatten(1)
            every, inputs = whole(conv, every, None if inputs is None else inputs.flatten(1, 2))
            if inputs is not None:
                inputs = inputs.unflatten(1, (projection.groups, conv.dim))
            if projection.groups == 1:
                return to.spread(every), inputs
            # Every (token, memory) at most once, so that its gradient is a copy.
            place = to.token * projection.groups + to.memory
            return every.reshape(-1, conv.dim).index_select(0, place), inputs

        projected = self.q_proj(tokens)
        shared_q, shared_conv_q = None, None
        if self.conv_scope == "sequence":
            inputs = None if before.conv_q is None else before.conv_q.flatten(1, 2)
            shared_q, inputs = whole(self.q_conv, projected, inputs)
            q, conv_q = to.spread(shared_q), None if inputs is None else inputs[:, None]
        else:
            q, conv_q = routed(self.q_conv, to.spread(projected), before.conv_q)
            if self.shared_memory:
                shared_q, shared_conv_q = whole(self.q_conv, projected, before.shared_conv_q)
        k, conv_k = keys_or_values(self._by_memory("k"), self.k_conv, before.conv_k)
        v, conv_v = keys_or_values(self._by_memory("v"), self.v_conv, before.conv_v)
        extras = {name: self._routed(self._by_memory(name), tokens, to) for name in self._extras}
        initial = None
        if before.recurrent is not None:
            initial = before.recurrent.transpose(0, 1).flatten(0, 1)
        o, recurrent = self._recur(q, k, v, extras, initial, to.cu_seqlens, return_state)
        o = _weighted(to.gather(o), weights)

        shared, shared_conv_k, shared_conv_v = None, None, None
        if self.shared_memory:
            k, shared_conv_k = whole(self.k_conv, self._shared("k")(tokens), before.shared_conv_k)
            v, shared_conv_v = whole(self.v_conv, self._shared("v")(tokens), before.shared_conv_v)
            extras = {name: self._shared(name)(tokens) for name in self._extras}
            read, shared = self._recur(
                cast(Tensor, shared_q), k, v, extras, before.shared, offsets, return_state
            )
            o = o + read
        after = None
        if return_state:
            recurrent = cast(Tensor, recurrent).unflatten(0, (self.num_memories, sequences))
            after = MemoryState(
                recurrent.transpose(0, 1), shared, conv_q, conv_k, conv_v,
                shared_conv_q, shared_conv_k, shared_conv_v,
            )  # fmt: skip
        return self._output(x, o.unflatten(0, (batch, time))), after

    def _recur(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        extras: Mapping[str, Tensor],
        initial_state: Tensor | None,
        cu_seqlens: Tensor,
        return_state: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """The rule over packed rows, each (rows, width)."""
        gated = {name: value[None] for name, value in self._gated(extras).items()}
        q, k, v = self._split(q, k, v)
        o, state = self.rule.forward(
            q[None],
            k[None],
            v[None],
            gated,
            initial_state=initial_state,
            cu_seqlens=cu_seqlens,
            output_final_state=return_state,
        )
        return o[0], state

    def _split(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        by_head = (self.num_heads, -1)
        return q.unflatten(-1, by_head), k.unflatten(-1, by_head), v.unflatten(-1, by_head)

    def _gated(self, extras: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Extra projections as the rule takes them: see :class:`rankone.nn.MemoryRule`."""
        gated = {}
        for name, value in extras.items():
            if name == "b":
                strength = torch.sigmoid(wide(value))
                gated[name] = 2 * strength if self.allow_neg_eigval else strength
            elif name == "a":
                log_decay = projected_log_decay(value, self.A_log, self.dt_bias)
                scalar = self.rule.extras["a"] == 1
                gated[name] = log_decay.squeeze(-1) if scalar else log_decay
            else:
                gated[name] = value.unflatten(-1, (self.num_heads, -1))
        return gated

    def _convolve_step(
        self, conv: ShortConvolution | None, x: Tensor, state: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        if conv is None:
            return F.silu(x), None
        return conv.step(x, cast(Tensor, state))

    def _step_queries(
        self, x: Tensor, to: Dispatch, state: MemoryState
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
        """Queries by pair with their state, and those of the shared memory with theirs."""
        projected = self.q_proj(x)
        if self.conv_scope == "sequence":
            before = None if state.conv_q is None else state.conv_q[:, 0]
            whole, after = self._convolve_step(self.q_conv, projected, before)
            return to.spread(whole), None if after is None else after[:, None], whole, None
        q, conv_q = self._step_selected(self.q_conv, to.spread(projected), to, state.conv_q)
        if not self.shared_memory:
            return q, conv_q, projected, None
        shared_q, shared_conv_q = self._convolve_step(self.q_conv, projected, state.shared_conv_q)
        return q, conv_q, shared_q, shared_conv_q

    def _step_routed(
        self,
        projection: GroupedLinear,
        conv: ShortConvolution | None,
        x: Tensor,
        to: Dispatch,
        state: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Keys or values of every pair in sorted order, and the convolution's new state."""
        if self.conv_scope == "memory" or conv is None:
            return self._step_selected(conv, self._routed(projection, x, to), to, state)
        every = projection.every(x)  # (batch, groups, width)
        whole, inputs = conv.step(every.flatten(1), cast(Tensor, state).flatten(1, 2))
        whole, inputs = whole.reshape(every.shape), inputs.unflatten(1, every.shape[1:])
        if projection.groups == 1:
            return to.spread(whole[:, 0]), inputs
        return whole[to.token, to.memory], inputs

    def _step_selected(
        self, conv: ShortConvolution | None, rows: Tensor, to: Dispatch, state: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Convolve pairs with the inputs of their memories, and put those back."""
        if conv is None:
            return F.silu(rows), None
        place = (to.token, to.memory)
        before = cast(Tensor, state)
        y, after = conv.step(rows, before[place])
        return y, before.index_put(place, after.to(before.dtype))

    def _output(self, x: Tensor, o: Tensor) -> Tensor:
        o = self.o_norm(o).flatten(-2)
        if self.g_proj is not None:
            o = o * F.silu(self.g_proj(x))
        if not torch.is_autocast_enabled(x.device.type):
            o = o.to(x.dtype)
        return self.o_proj(o).to(x.dtype)

    def extra_repr(self) -> str:
        return (
            f"{self.hidden_size}, num_heads={self.num_heads}, num_memories={self.num_memories}, "
            f"top_k={self.top_k}, conv_scope={self.conv_scope!r}, rule={self.rule}"
        )


def _weighted(o: Tensor, weights: Tensor) -> Tensor:
    """Sum over slots of (tokens, slots, heads, value dim) by (tokens, slots)."""
    return (o * weights[..., None, None].to(o.dtype)).sum(1)


register_mixer("mixture_of_memories", MixtureOfMemories)
