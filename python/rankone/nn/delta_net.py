"""DeltaNet and GatedDeltaNet: the delta-rule layers over ``rankone.ops.delta_rule``.

    q, k, v = short convolutions of linear maps of x;  k and q of norm 1 a head
    S_t = decayed S_{t-1} + beta_t k_t (v_t - S^T k_t)^T;  o_t = S_t^T q_t / sqrt(key dim)
    y = (RMSNorm(o) * silu(x W_g)) W_o

A write replaces what the memory held under its key instead of adding to it. GatedDeltaNet also
forgets, by a decay a token and head or a token and key channel. Training and reading cost O(time);
a decoding step costs O(1), with a state of one (key dim, value dim) matrix a value head and the
last inputs of the convolutions.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rankone._arguments import check_integer, check_size
from rankone.distributed import SequenceShard
from rankone.nn.activations import activation_function
from rankone.nn.context_parallel import ContextParallel, agree_on_shard, layer_facts, sharded
from rankone.nn.mixer import check_sequence, check_token, register_mixer
from rankone.nn.norms import RMSNorm
from rankone.nn.packing import pack, unpack
from rankone.nn.short_convolution import ShortConvolution
from rankone.ops import delta_rule, delta_rule_step
from rankone.ops.checks import check_shape

# Options of qk_activation and what they are called in rankone.nn.activations.
QK_ACTIVATIONS = {"silu": "silu", "relu": "relu", "elu": "1+elu", "identity": "identity"}
QK_NORMS = ("l2", "sum", "none")
DECAYS = ("scalar", "channel")

# Added to the sums that divide q and k, so that a row of zeros stays one.
SUM_NORM_EPS = 1e-6

# Ranges of the initial decay, arXiv 2412.06464: its rate exp(A_log) and its step softplus(dt_bias).
MAX_DECAY_RATE = 16.0
MIN_DECAY_RATE = 1e-4
DECAY_STEP_RANGE = (1e-3, 1e-1)
MIN_DECAY_STEP = 1e-4


class DeltaNetState(NamedTuple):
    """The state of :class:`DeltaNet` and :class:`GatedDeltaNet`.

    Attributes:
        recurrent: (sequences, value heads, key dim, value dim), float32 (float64 for a float64
            layer).
        conv_q, conv_k, conv_v: (sequences, channels, conv_size - 1) inputs of the convolutions,
            oldest first; None without convolutions.
    """

    recurrent: Tensor
    conv_q: Tensor | None
    conv_k: Tensor | None
    conv_v: Tensor | None


def wide(x: Tensor) -> Tensor:
    """``x`` in float32, or in float64 if it is that: the dtype of gates and states."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def decay_parameters(
    heads: int,
    channels: int = 1,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[nn.Parameter, nn.Parameter]:
    """``A_log`` (heads,) and ``dt_bias`` (heads * channels,), drawn as GatedDeltaNet does.

    exp(A_log) is uniform in (0, 16); softplus(dt_bias) is log-uniform in [1e-3, 1e-1]. Neither
    decays with the optimiser's weight decay.
    """
    rate = torch.empty(heads).uniform_(0, MAX_DECAY_RATE)
    while bool((rate < MIN_DECAY_RATE).any()):
        again = torch.empty(heads).uniform_(0, MAX_DECAY_RATE)
        rate = torch.where(rate < MIN_DECAY_RATE, again, rate)
    low, high = (math.log(bound) for bound in DECAY_STEP_RANGE)
    step = torch.empty(heads * channels).uniform_(low, high).exp().clamp(min=MIN_DECAY_STEP)
    parameters = []
    for start in (rate.log(), step + torch.log(-torch.expm1(-step))):  # inverse of softplus
        parameter = nn.Parameter(start.to(device=device, dtype=dtype))
        parameter._no_weight_decay = True  # type: ignore[attr-defined]
        parameters.append(parameter)
    return parameters[0], parameters[1]


def projected_log_decay(a: Tensor, A_log: Tensor, dt_bias: Tensor) -> Tensor:
    """-exp(A_log) * softplus(a + dt_bias), at least in float32.

    Args:
        a: (..., heads * channels) projected logits.
        A_log: (heads,).
        dt_bias: (heads * channels,).

    Returns:
        (..., heads, channels).
    """
    step = F.softplus(wide(a) + wide(dt_bias)).unflatten(-1, (A_log.shape[0], -1))
    return -wide(A_log).exp()[:, None] * step


def checked_value_dim(key_dim: int, expand_v: float) -> int:
    """``key_dim * expand_v`` as an integer."""
    value_dim = key_dim * expand_v
    if value_dim != int(value_dim) or value_dim < 1:
        raise ValueError(
            f"head_dim * expand_v must be a whole number of at least 1, got {key_dim} * {expand_v}"
        )
    return int(value_dim)


class _DeltaMixer(nn.Module):
    """What DeltaNet and GatedDeltaNet share: all but the gates and the way sizes are given."""

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        num_v_heads: int,
        head_k_dim: int,
        head_v_dim: int,
        *,
        use_beta: bool,
        use_output_gate: bool,
        use_short_conv: bool,
        conv_size: int,
        conv_bias: bool,
        qk_activation: str,
        qk_norm: str,
        allow_neg_eigval: bool,
        norm_eps: float,
        placement: dict[str, Any],
    ) -> None:
        super().__init__()
        for name, value in (("hidden_size", hidden_size), ("num_heads", num_heads)):
            check_size(name, value)
        if qk_activation not in QK_ACTIVATIONS:
            raise ValueError(
                f"qk_activation must be one of {sorted(QK_ACTIVATIONS)}, got {qk_activation!r}"
            )
        if qk_norm not in QK_NORMS:
            raise ValueError(f"qk_norm must be one of {list(QK_NORMS)}, got {qk_norm!r}")
        check_integer("num_v_heads", num_v_heads)
        if num_v_heads < 1 or num_v_heads % num_heads:
            raise ValueError(
                f"num_v_heads must be a multiple of num_heads, got {num_v_heads} and {num_heads}"
            )
        self.hidden_size = hidden_size
        self.num_heads = num_heads
        self.num_v_heads = num_v_heads
        self.head_k_dim = head_k_dim
        self.head_v_dim = head_v_dim
        self.qk_norm = qk_norm
        self.allow_neg_eigval = allow_neg_eigval

        def linear(inputs: int, outputs: int) -> nn.Linear:
            return nn.Linear(inputs, outputs, False, **placement)

        key_width, value_width = num_heads * head_k_dim, num_v_heads * head_v_dim
        self.q_proj = linear(hidden_size, key_width)
        self.k_proj = linear(hidden_size, key_width)
        self.v_proj = linear(hidden_size, value_width)
        self.b_proj = linear(hidden_size, num_v_heads) if use_beta else None
        qk_activation = QK_ACTIVATIONS[qk_activation]
        self._qk_activation = activation_function("qk_activation", qk_activation)

        def convolution(width: int, activation: str) -> ShortConvolution | None:
            if not use_short_conv:
                return None
            return ShortConvolution(
                width, conv_size, bias=conv_bias, activation=activation, **placement
            )

        self.q_conv = convolution(key_width, qk_activation)
        self.k_conv = convolution(key_width, qk_activation)
        self.v_conv = convolution(value_width, "silu")
        self.g_proj = linear(hidden_size, value_width) if use_output_gate else None
        self.o_norm = RMSNorm(head_v_dim, norm_eps, **placement)
        self.o_proj = linear(value_width, hidden_size)

    def forward(
        self,
        x: Tensor,
        *,
        attention_mask: Tensor | None = None,
        state: DeltaNetState | None = None,
        return_state: bool = False,
        cu_seqlens: Tensor | None = None,
        context_parallel: ContextParallel | None = None,
    ) -> Tensor | tuple[Tensor, DeltaNetState]:
        """Mix a batch of sequences.

        Args:
            x: (batch, time, hidden_size).
            attention_mask: (batch, time), boolean or integer, 1 on tokens and 0 on padding, which
                is taken out before the layer and comes back as zeros.
            state: :class:`DeltaNetState` of an earlier call, one entry of its first axis a
                sequence; default the start of a sequence.
            return_state: also return the state after the last token.
            cu_seqlens: (sequences + 1,) int32 or int64, starts of packed sequences; batch is 1.
            context_parallel: process group or one-dimensional ``DeviceMesh`` over which time is
                cut, one contiguous shard a rank: ``x`` is this rank's, ``state`` and
                ``cu_seqlens`` are those of the whole on every rank, and so is the state that is
                returned. No mask.

        Returns:
            (batch, time, hidden_size), and with ``return_state`` the :class:`DeltaNetState`.

        Raises:
            ValueError: for an input, mask or state of the wrong shape.
            TypeError: for a mask that is neither boolean nor integer, or another kind of state.
            DistributedError: with ``context_parallel``, where ranks disagree or one is gone.
        """
        if context_parallel is not None:
            shard = agree_on_shard(
                x, context_parallel, cu_seqlens, attention_mask,
                lambda whole: self._checked(x, None, whole, state),
                layer_facts(self, x, state, return_state),
            )  # fmt: skip
            y, new_state = self._mix(x, state, return_state, None, shard)
            return (y, cast(DeltaNetState, new_state)) if return_state else y
        mask = self._checked(x, attention_mask, cu_seqlens, state)
        if mask is None:
            y, new_state = self._mix(x, state, return_state, cu_seqlens)
        else:
            packed = pack(x, mask)
            y, new_state = self._mix(packed.x, state, return_state, packed.cu_seqlens)
            y = unpack(y, packed.places, *x.shape[:2])
        return (y, cast(DeltaNetState, new_state)) if return_state else y

    def step(self, x: Tensor, state: DeltaNetState | None = None) -> tuple[Tensor, DeltaNetState]:
        """Mix one token.

        Args:
            x: (batch, hidden_size).
            state: state before it, or None at the start.

        Returns:
            (batch, hidden_size) and the new state; the old one is left as it is.

        Raises:
            ValueError: for an input or state of the wrong shape.
        """
        check_token(x, self.hidden_size)
        self._check_state(state, x.shape[0])
        if state is None:
            state = self.init_state(x.shape[0], device=x.device)
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        q, conv_q = _convolve_step(self.q_conv, q, state.conv_q, self._qk_activation)
        k, conv_k = _convolve_step(self.k_conv, k, state.conv_k, self._qk_activation)
        v, conv_v = _convolve_step(self.v_conv, v, state.conv_v, F.silu)
        o, recurrent = self._recur_step(*self._split(q, k, v), *self._gates(x), state.recurrent)
        return self._output(x, o), DeltaNetState(recurrent, conv_q, conv_k, conv_v)

    def init_state(
        self,
        batch_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> DeltaNetState:
        """Zeros for ``batch_size`` sequences.

        Args:
            batch_size: number of sequences.
            device: default that of the layer.
            dtype: of the convolutions' inputs, default the layer's; the recurrent state is float32
                (float64 where ``dtype`` is float64).
        """
        weight = self.q_proj.weight
        dtype = weight.dtype if dtype is None else dtype
        recurrent = weight.new_zeros(
            self._recurrent_shape(batch_size),
            device=device,
            dtype=torch.promote_types(dtype, torch.float32),
        )
        convolutions = (
            None if conv is None else conv.init_state(batch_size, device=device, dtype=dtype)
            for conv in (self.q_conv, self.k_conv, self.v_conv)
        )
        return DeltaNetState(recurrent, *convolutions)

    def _recurrent_shape(self, sequences: int) -> tuple[int, ...]:
        return (sequences, self.num_v_heads, self.head_k_dim, self.head_v_dim)

    def _checked(
        self,
        x: Tensor,
        attention_mask: Tensor | None,
        cu_seqlens: Tensor | None,
        state: DeltaNetState | None,
    ) -> Tensor | None:
        """The mask as booleans, after checking all of it."""
        mask, sequences = check_sequence(x, self.hidden_size, attention_mask, cu_seqlens)
        self._check_state(state, sequences)
        return mask

    def _check_state(self, state: DeltaNetState | None, sequences: int) -> None:
        if state is None:
            return
        if not isinstance(state, tuple) or len(state) != len(DeltaNetState._fields):
            raise TypeError(
                "state must be a DeltaNetState (recurrent, conv_q, conv_k, conv_v), "
                f"got {type(state).__name__}"
            )
        layout = "sequences, value heads, key dim, value dim"
        check_shape("state.recurrent", state[0], self._recurrent_shape(sequences), layout)
        convolutions = (self.q_conv, self.k_conv, self.v_conv)
        names = DeltaNetState._fields[1:]
        for name, conv, entry in zip(names, convolutions, state[1:], strict=True):
            if conv is not None:
                conv.check_state(f"state.{name}", cast(Tensor, entry), sequences)

    def _mix(
        self,
        x: Tensor,
        state: DeltaNetState | None,
        return_state: bool,
        cu_seqlens: Tensor | None,
        shard: SequenceShard | None = None,
    ) -> tuple[Tensor, DeltaNetState | None]:
        recurrent, *before = (None,) * 4 if state is None else state
        projected = (self.q_proj(x), self.k_proj(x), self.v_proj(x))
        convolutions = (self.q_conv, self.k_conv, self.v_conv)
        activations = (self._qk_activation, self._qk_activation, F.silu)
        mixed, after = [], []
        for channels, conv, activation, inputs in zip(
            projected, convolutions, activations, before, strict=True
        ):
            if conv is None:
                channels, inputs = activation(channels), None
            else:
                channels, inputs = conv(
                    channels,
                    state=inputs,
                    return_state=return_state,
                    cu_seqlens=cu_seqlens,
                    shard=shard,
                )
            mixed.append(channels)
            after.append(inputs)
        o, recurrent = self._recur(
            *self._split(*mixed), *self._gates(x), recurrent, return_state, cu_seqlens, shard
        )
        new_state = None
        if return_state:
            new_state = DeltaNetState(cast(Tensor, recurrent), *after)
        return self._output(x, o), new_state

    def _split(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q = q.unflatten(-1, (self.num_heads, self.head_k_dim))
        k = k.unflatten(-1, (self.num_heads, self.head_k_dim))
        v = v.unflatten(-1, (self.num_v_heads, self.head_v_dim))
        if self.qk_norm == "sum":
            q = q / (q.sum(-1, keepdim=True) + SUM_NORM_EPS)
            k = k / (k.sum(-1, keepdim=True) + SUM_NORM_EPS)
        if self.qk_norm != "l2" and q.dtype == torch.float16:
            # Nothing bounds the state then, and float16 would overflow at 65504.
            q, k, v = q.float(), k.float(), v.float()
        return q, k, v

    def _gates(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Write strengths and log-decays of every token and value head."""
        if self.b_proj is None:
            return wide(x.new_ones(*x.shape[:-1], self.num_v_heads)), self._log_decay(x)
        beta = torch.sigmoid(wide(self.b_proj(x)))
        return 2 * beta if self.allow_neg_eigval else beta, self._log_decay(x)

    def _log_decay(self, x: Tensor) -> Tensor | None:
        return None

    def _recur(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        beta: Tensor,
        log_decay: Tensor | None,
        state: Tensor | None,
        return_state: bool,
        cu_seqlens: Tensor | None,
        shard: SequenceShard | None,
    ) -> tuple[Tensor, Tensor | None]:
        return sharded(delta_rule, shard)(
            q,
            k,
            v,
            beta,
            log_decay=log_decay,
            initial_state=state,
            output_final_state=return_state,
            cu_seqlens=cu_seqlens,
            use_qk_l2norm=self.qk_norm == "l2",
        )

    def _recur_step(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        beta: Tensor,
        log_decay: Tensor | None,
        state: Tensor,
    ) -> tuple[Tensor, Tensor]:
        return delta_rule_step(
            q, k, v, beta, state, log_decay=log_decay, use_qk_l2norm=self.qk_norm == "l2"
        )

    def _output(self, x: Tensor, o: Tensor) -> Tensor:
        o = self.o_norm(o).flatten(-2)
        if self.g_proj is not None:
            o = o * F.silu(self.g_proj(x))
        if not torch.is_autocast_enabled(x.device.type):
            o = o.to(x.dtype)
        return self.o_proj(o)

    def extra_repr(self) -> str:
        return (
            f"{self.hidden_size}, num_heads={self.num_heads}, num_v_heads={self.num_v_heads}, "
            f"head_k_dim={self.head_k_dim}, head_v_dim={self.head_v_dim}"
        )


def _convolve_step(
    conv: ShortConvolution | None, x: Tensor, state: Tensor | None, activation: Any
) -> tuple[Tensor, Tensor | None]:
    if conv is None:
        return activation(x), None
    return conv.step(x, cast(Tensor, state))


class DeltaNet(_DeltaMixer):
    """The delta rule as a layer: a memory of fixed size that overwrites.

    Args:
        hidden_size: width of the input and the output.
        num_heads: heads.
        expand_k: width of all keys together, as a multiple of ``hidden_size``.
        expand_v: width of all values together, as a multiple of ``hidden_size``.
        use_beta: whether the write strength is projected, sigmoid(x W_b); otherwise it is 1.
        use_output_gate: whether the normalised output is gated by silu(x W_g).
        use_short_conv: whether q, k and v pass a convolution over time; without it one layer can
            not bind a value to the key before it.
        conv_size: tokens that the convolutions see.
        conv_bias: whether they have a bias.
        qk_activation: of queries and keys: ``"silu"``, ``"relu"``, ``"elu"`` (elu + 1) or
            ``"identity"``.
        qk_norm: ``"l2"``, ``"sum"`` or ``"none"``, over each head. The memory is only sure to stay
            bounded with ``"l2"``.
        allow_neg_eigval: write strengths up to 2 instead of 1.
        norm_eps: of the output norm.
        device, dtype: of the parameters; torch's defaults where None.

    Raises:
        ValueError: for sizes that do not fit, or unknown options.

    Source: "Parallelizing Linear Transformers with the Delta Rule over Sequence Length",
    arXiv 2406.06484.

    Example:
        >>> import torch
        >>> from rankone.nn import DeltaNet
        >>> layer = DeltaNet(32, 4)
        >>> x = torch.randn(2, 10, 32)
        >>> y = layer(x)
        >>> first, state = layer(x[:, :9], return_state=True)
        >>> last, state = layer.step(x[:, 9], state)
        >>> torch.allclose(last, y[:, 9], atol=1e-5)
        True
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int = 4,
        *,
        expand_k: float = 1.0,
        expand_v: float = 1.0,
        use_beta: bool = True,
        use_output_gate: bool = False,
        use_short_conv: bool = True,
        conv_size: int = 4,
        conv_bias: bool = False,
        qk_activation: str = "silu",
        qk_norm: str = "l2",
        allow_neg_eigval: bool = False,
        norm_eps: float = 1e-5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_integer("hidden_size", hidden_size)
        check_integer("num_heads", num_heads)
        widths = []
        for name, factor in (("expand_k", expand_k), ("expand_v", expand_v)):
            width = hidden_size * factor
            if num_heads < 1 or width < 1 or width % num_heads:
                raise ValueError(
                    f"hidden_size * {name} must be a multiple of num_heads, "
                    f"got {hidden_size} * {factor} and {num_heads}"
                )
            widths.append(int(width) // num_heads)
        super().__init__(
            hidden_size,
            num_heads,
            num_heads,
            *widths,
            use_beta=use_beta,
            use_output_gate=use_output_gate,
            use_short_conv=use_short_conv,
            conv_size=conv_size,
            conv_bias=conv_bias,
            qk_activation=qk_activation,
            qk_norm=qk_norm,
            allow_neg_eigval=allow_neg_eigval,
            norm_eps=norm_eps,
            placement={"device": device, "dtype": dtype},
        )


class GatedDeltaNet(_DeltaMixer):
    """The gated delta rule as a layer: a memory that overwrites and forgets.

    Args:
        hidden_size: width of the input and the output.
        num_heads: heads of queries and keys.
        head_dim: key width of a head.
        expand_v: value width of a head, as a multiple of ``head_dim``.
        num_v_heads: heads of values, a multiple of ``num_heads``; default ``num_heads``.
        decay: ``"scalar"`` (one a token and value head) or ``"channel"`` (one a token, value head
            and key channel, from a projection of rank ``head_dim``).
        use_output_gate: whether the normalised output is gated by silu(x W_g).
        use_short_conv: whether q, k and v pass a convolution over time.
        conv_size: tokens that the convolutions see.
        conv_bias: whether they have a bias.
        allow_neg_eigval: write strengths up to 2 instead of 1.
        norm_eps: of the output norm.
        device, dtype: of the parameters; torch's defaults where None.

    Raises:
        ValueError: for sizes that do not fit, or unknown options.

    Source: "Gated Delta Networks: Improving Mamba2 with Delta Rule", arXiv 2412.06464; decay a
    channel, "Kimi Linear", arXiv 2510.26692.

    Example:
        >>> import torch
        >>> from rankone.nn import GatedDeltaNet
        >>> layer = GatedDeltaNet(32, 2, 16, num_v_heads=4)
        >>> y, state = layer(torch.randn(2, 10, 32), return_state=True)
        >>> y.shape, state.recurrent.shape
        (torch.Size([2, 10, 32]), torch.Size([2, 4, 16, 32]))
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int = 6,
        head_dim: int = 256,
        *,
        expand_v: float = 2.0,
        num_v_heads: int | None = None,
        decay: str = "scalar",
        use_output_gate: bool = True,
        use_short_conv: bool = True,
        conv_size: int = 4,
        conv_bias: bool = False,
        allow_neg_eigval: bool = False,
        norm_eps: float = 1e-5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if decay not in DECAYS:
            raise ValueError(f"decay must be one of {list(DECAYS)}, got {decay!r}")
        check_size("head_dim", head_dim)
        placement: dict[str, Any] = {"device": device, "dtype": dtype}
        super().__init__(
            hidden_size,
            num_heads,
            num_heads if num_v_heads is None else num_v_heads,
            head_dim,
            checked_value_dim(head_dim, expand_v),
            use_beta=True,
            use_output_gate=use_output_gate,
            use_short_conv=use_short_conv,
            conv_size=conv_size,
            conv_bias=conv_bias,
            qk_activation="silu",
            qk_norm="l2",
            allow_neg_eigval=allow_neg_eigval,
            norm_eps=norm_eps,
            placement=placement,
        )
        self.decay = decay
        if decay == "scalar":
            channels = 1
            self.a_proj: nn.Module = nn.Linear(hidden_size, self.num_v_heads, False, **placement)
        else:
            channels = head_dim
            self.a_proj = nn.Sequential(
                nn.Linear(hidden_size, head_dim, False, **placement),
                nn.Linear(head_dim, self.num_v_heads * head_dim, False, **placement),
            )
        self.A_log, self.dt_bias = decay_parameters(self.num_v_heads, channels, **placement)

    def _log_decay(self, x: Tensor) -> Tensor:
        log_decay = projected_log_decay(self.a_proj(x), self.A_log, self.dt_bias)
        return log_decay.squeeze(-1) if self.decay == "scalar" else log_decay

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, decay={self.decay!r}"


register_mixer("delta_net", DeltaNet)
register_mixer("gated_delta_net", GatedDeltaNet)
