"""mLSTM and sLSTM, the two memories of xLSTM, as sequence mixers.

mLSTM, of inner width d_in:

    u, z = split(x W_up);  c = silu(conv(u))
    q, k = block-diagonal maps of c, v of u;  i, f = affine maps of [q; k; v]
    y = ((norm a head(mlstm(q, k, v, i, f)) + skip * c) * silu(z)) W_down

sLSTM: gates i, f from silu(conv(x)) and z, o from x, by maps a head; y = norm a head(slstm(gates)).
The mLSTM decodes in O(1) a token from one matrix a head; the sLSTM has no parallel form over time.
"""

from __future__ import annotations

import abc
import math
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rankone._arguments import check_integer, check_size
from rankone.nn.mixer import check_sequence, check_token, register_mixer
from rankone.nn.packing import pack, sequence_of, unpack
from rankone.nn.rotary import apply_rotary
from rankone.nn.short_convolution import ShortConvolution
from rankone.ops._mlstm import mlstm, mlstm_step
from rankone.ops._slstm import GATES, slstm
from rankone.ops.checks import check_shape

ROUNDINGS = ("down", "up")

NORM_EPS = 1e-5
# Block of the q, k and v maps, and the multiple that inner widths are rounded to.
QKV_BLOCK = 4
WIDTH_MULTIPLE = 64
# Initial biases of the mLSTM's gates: heads forget at different rates, and write little.
FORGET_BIAS_RANGE = (3.0, 6.0)
INPUT_BIAS_STD = 0.1


def rounded(width: float, multiple: int, rounding: str) -> int:
    """``width`` down or up to a multiple, and at least that."""
    if rounding not in ROUNDINGS:
        raise ValueError(f"rounding must be one of {list(ROUNDINGS)}, got {rounding!r}")
    count = round(width / multiple, 6)  # 1.1 * 640 is 704.0000000000001
    return multiple * max(1, math.floor(count) if rounding == "down" else math.ceil(count))


def small_deviation(d_model: int) -> float:
    """sqrt(2 / (5 d)), arXiv 1910.05895."""
    return math.sqrt(2 / (5 * d_model))


def residual_deviation(d_model: int, num_layers: int) -> float:
    """2 / (L sqrt(d)), of the maps that write to the residual stream."""
    return 2 / (num_layers * math.sqrt(d_model))


class BlockDiagonalLinear(nn.Module):
    """A linear map without bias whose matrix is block-diagonal.

    Args:
        width: of input and output.
        blocks: equal square blocks on the diagonal.

    Shapes:
        (..., width) to (..., width); ``weight`` is (blocks, width / blocks, width / blocks), output
        channel first.

    Raises:
        ValueError: if ``blocks`` does not divide ``width``.

    Example:
        >>> import torch
        >>> from rankone.nn.xlstm_mixers import BlockDiagonalLinear
        >>> BlockDiagonalLinear(8, 2).weight.shape
        torch.Size([2, 4, 4])
    """

    def __init__(
        self,
        width: int,
        blocks: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if blocks < 1 or width < 1 or width % blocks:
            raise ValueError(f"blocks must divide the width {width}, got {blocks}")
        size = width // blocks
        self.weight = nn.Parameter(torch.empty(blocks, size, size, device=device, dtype=dtype))
        nn.init.normal_(self.weight, std=small_deviation(width))

    def forward(self, x: Tensor) -> Tensor:
        blocks = x.unflatten(-1, self.weight.shape[:2])
        return torch.einsum("...ni,noi->...no", blocks, self.weight).flatten(-2)

    def extra_repr(self) -> str:
        blocks, size, _ = self.weight.shape
        return f"{blocks * size}, blocks={blocks}"


class HeadNorm(nn.Module):
    """LayerNorm over each head of (..., heads, dim) with one gain a channel: (..., heads * dim)."""

    def __init__(
        self,
        width: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width, device=device, dtype=dtype))

    def forward(self, h: Tensor) -> Tensor:
        wide = h.to(torch.promote_types(h.dtype, torch.float32))
        normed = F.layer_norm(wide, wide.shape[-1:], eps=NORM_EPS).flatten(-2)
        return (normed * self.weight).to(h.dtype)


class MLSTMLayerState(NamedTuple):
    """State of :class:`MLSTM`.

    Attributes:
        C, n, m: state of :func:`rankone.ops.mlstm`: (sequences, heads, dim, dim), (sequences,
            heads, dim) and (sequences, heads).
        conv: (sequences, d_in, conv_size - 1) last inputs of the convolution, oldest first.
        position: (sequences,) int64, rotary position of the next token; None without rotary
            positions.
    """

    C: Tensor
    n: Tensor
    m: Tensor
    conv: Tensor
    position: Tensor | None


class SLSTMLayerState(NamedTuple):
    """State of :class:`SLSTM`.

    Attributes:
        y, c, n, m: state of :func:`rankone.ops.slstm`, each (sequences, heads, dim).
        conv: (sequences, d_model, conv_size - 1) last inputs of the convolution, oldest first.
    """

    y: Tensor
    c: Tensor
    n: Tensor
    m: Tensor
    conv: Tensor


class _RecurrentMixer(nn.Module, abc.ABC):
    """What the two mixers share: checks, padding, and the convolution's place in the state."""

    hidden_size: int
    num_heads: int
    conv: ShortConvolution

    def forward(
        self,
        x: Tensor,
        *,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        state: Any = None,
        return_state: bool = False,
        cu_seqlens: Tensor | None = None,
    ) -> Any:
        """Mix a batch of sequences.

        Args:
            x: (batch, time, hidden_size).
            position_ids: (batch, time) integer rotary positions; by default they count on from the
                state, or from 0. Only with rotary positions.
            attention_mask: (batch, time), boolean or integer, 1 on tokens and 0 on padding, which
                is taken out before the layer and comes back as zeros.
            state: what an earlier call returned; default the start of a sequence.
            return_state: also return the state after the last token.
            cu_seqlens: (sequences + 1,) int32 or int64, starts of packed sequences; batch is 1.

        Returns:
            (batch, time, hidden_size), and with ``return_state`` the state.

        Raises:
            ValueError: for an input, positions, mask or state of the wrong shape.
            TypeError: for a mask that is neither boolean nor integer, or another kind of state.
        """
        mask, sequences = check_sequence(x, self.hidden_size, attention_mask, cu_seqlens)
        self._check_state(state, sequences)
        if position_ids is not None:
            self._check_positions(position_ids, x)
        if mask is None:
            y, new_state = self._mix(x, position_ids, state, return_state, cu_seqlens)
        else:
            packed = pack(x, mask)
            if position_ids is not None:
                position_ids = position_ids.flatten()[packed.places][None]
            y, new_state = self._mix(packed.x, position_ids, state, return_state, packed.cu_seqlens)
            y = unpack(y, packed.places, *x.shape[:2])
        return (y, new_state) if return_state else y

    def _check_positions(self, position_ids: Tensor, x: Tensor) -> None:
        raise ValueError("position_ids must be None where there are no rotary positions")

    @abc.abstractmethod
    def _state_shapes(self, sequences: int) -> tuple[type, dict[str, tuple[int, ...]]]:
        """The state's type and the shapes of its parts but ``conv``."""

    @abc.abstractmethod
    def _mix(
        self,
        x: Tensor,
        position_ids: Tensor | None,
        state: Any,
        return_state: bool,
        cu_seqlens: Tensor | None,
    ) -> tuple[Tensor, Any]:
        """Output and state of tokens without padding."""

    def _check_state(self, state: Any, sequences: int) -> None:
        if state is None:
            return
        kind, shapes = self._state_shapes(sequences)
        fields = cast(Any, kind)._fields
        if not isinstance(state, tuple) or len(state) != len(fields):
            raise TypeError(
                f"state must be a {kind.__name__} ({', '.join(fields)}), got {type(state).__name__}"
            )
        parts = dict(zip(fields, state, strict=True))
        for name, shape in shapes.items():
            check_shape(f"state.{name}", parts[name], shape, "sequences, heads, dims")
        self.conv.check_state("state.conv", parts["conv"], sequences)

    def extra_repr(self) -> str:
        return f"{self.hidden_size}, num_heads={self.num_heads}"


class MLSTM(_RecurrentMixer):
    """xLSTM's matrix memory as a mixer, between an up- and a down-projection.

    Args:
        hidden_size: width of the input and the output.
        num_heads: heads.
        proj_factor: inner width as a multiple of ``hidden_size``, rounded to a multiple of 64.
        round_proj: ``"down"`` or ``"up"``; which multiple.
        conv_size: tokens that the convolution sees.
        rope: turn q and k by rotary positions, channel pairs side by side.
        rope_base: base of the rotary angles.
        input_gate_bias: mean of the input gates' initial biases.
        eps: of :func:`rankone.ops.mlstm`.
        layer_idx: which layer of the model it is, from 0; not used.
        num_layers: layers of the model; scales the initial down-projection.
        device, dtype: of the parameters; torch's defaults where None.

    Raises:
        ValueError: for sizes that do not fit, or unknown options.

    Source: "xLSTM: Extended Long Short-Term Memory", arXiv 2405.04517.

    Example:
        >>> import torch
        >>> from rankone.nn.xlstm_mixers import MLSTM
        >>> layer = MLSTM(32, 4)
        >>> x = torch.randn(2, 10, 32)
        >>> first, state = layer(x[:, :9], return_state=True)
        >>> last, state = layer.step(x[:, 9], state)
        >>> torch.allclose(last, layer(x)[:, 9], atol=1e-5)
        True
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int = 4,
        *,
        proj_factor: float = 2.0,
        round_proj: str = "down",
        conv_size: int = 4,
        rope: bool = False,
        rope_base: float = 5e5,
        input_gate_bias: float = 0.0,
        eps: float = 1e-6,
        layer_idx: int = 0,
        num_layers: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_sizes(hidden_size, num_heads, layer_idx, num_layers)
        if round_proj not in ROUNDINGS:
            raise ValueError(f"round_proj must be one of {list(ROUNDINGS)}, got {round_proj!r}")
        if not proj_factor > 0:
            raise ValueError(f"proj_factor must be above 0, got {proj_factor}")
        if not (math.isfinite(eps) and eps >= 0):
            raise ValueError(f"eps must be finite and at least 0, got {eps}")
        inner = rounded(proj_factor * hidden_size, WIDTH_MULTIPLE, round_proj)
        if inner % num_heads:
            raise ValueError(
                f"the inner width must be a multiple of num_heads, got {inner} and {num_heads}"
            )
        if rope and inner // num_heads % 2:
            raise ValueError(f"the head dim must be even with rope, got {inner // num_heads}")
        placement: dict[str, Any] = {"device": device, "dtype": dtype}
        self.hidden_size = hidden_size
        self.num_heads = num_heads
        self.head_dim = inner // num_heads
        self.rope = rope
        self.rope_base = rope_base
        self.eps = eps
        self.up_proj = nn.Linear(hidden_size, 2 * inner, False, **placement)
        self.conv = ShortConvolution(inner, conv_size, bias=True, activation="silu", **placement)
        self.q_proj = BlockDiagonalLinear(inner, inner // QKV_BLOCK, **placement)
        self.k_proj = BlockDiagonalLinear(inner, inner // QKV_BLOCK, **placement)
        self.v_proj = BlockDiagonalLinear(inner, inner // QKV_BLOCK, **placement)
        # Input gates of all heads, then forget gates.
        self.gate_weight = nn.Parameter(torch.empty(2 * num_heads, 3 * inner, **placement))
        self.gate_bias = nn.Parameter(torch.empty(2 * num_heads, **placement))
        self.head_norm = HeadNorm(inner, **placement)
        self.skip = nn.Parameter(torch.ones(inner, **placement))
        self.o_proj = nn.Linear(inner, hidden_size, False, **placement)
        self._initialize(num_layers, input_gate_bias)

    @torch.no_grad()
    def _initialize(self, num_layers: int, input_gate_bias: float) -> None:
        small = small_deviation(self.hidden_size)
        for module in (self.up_proj, self.q_proj, self.k_proj, self.v_proj):
            nn.init.normal_(module.weight, std=small)
        nn.init.normal_(self.o_proj.weight, std=residual_deviation(self.hidden_size, num_layers))
        nn.init.zeros_(self.gate_weight)
        nn.init.normal_(self.gate_bias[: self.num_heads], input_gate_bias, INPUT_BIAS_STD)
        forget = torch.linspace(*FORGET_BIAS_RANGE, self.num_heads)
        self.gate_bias[self.num_heads :] = forget.to(self.gate_bias)

    def step(
        self, x: Tensor, state: MLSTMLayerState | None = None
    ) -> tuple[Tensor, MLSTMLayerState]:
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
        u, z = self.up_proj(x).chunk(2, dim=-1)
        c, conv = self.conv.step(u, state.conv)
        position_ids = None if state.position is None else state.position[:, None]
        heads = self._heads(c[:, None], u[:, None], position_ids)
        q, k, v, i, f = (part[:, 0] for part in heads)
        h, memory = mlstm_step(q, k, v, i, f, (state.C, state.n, state.m), eps=self.eps)
        position = None if state.position is None else state.position + 1
        return self._output(h, c, z), MLSTMLayerState(*memory, conv, position)

    def init_state(
        self,
        batch_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> MLSTMLayerState:
        """The state before the first token of ``batch_size`` sequences.

        Args:
            batch_size: number of sequences.
            device: default that of the layer.
            dtype: of the convolution's inputs, default the layer's; the memory is float32 (float64
                where ``dtype`` is float64).
        """
        weight = self.skip
        dtype = weight.dtype if dtype is None else dtype
        wide = torch.promote_types(dtype, torch.float32)
        shapes = self._state_shapes(batch_size)[1]
        conv = self.conv.init_state(batch_size, device=device, dtype=dtype)
        position = None
        if self.rope:
            position = weight.new_zeros(batch_size, device=device, dtype=torch.int64)
        return MLSTMLayerState(
            weight.new_zeros(shapes["C"], device=device, dtype=wide),
            weight.new_zeros(shapes["n"], device=device, dtype=wide),
            weight.new_full(shapes["m"], -math.inf, device=device, dtype=wide),
            conv,
            position,
        )

    def _state_shapes(self, sequences: int) -> tuple[type, dict[str, tuple[int, ...]]]:
        heads, dim = self.num_heads, self.head_dim
        shapes: dict[str, tuple[int, ...]] = {
            "C": (sequences, heads, dim, dim),
            "n": (sequences, heads, dim),
            "m": (sequences, heads),
        }
        if self.rope:
            shapes["position"] = (sequences,)
        return MLSTMLayerState, shapes

    def _check_positions(self, position_ids: Tensor, x: Tensor) -> None:
        if not self.rope:
            super()._check_positions(position_ids, x)
        check_shape("position_ids", position_ids, x.shape[:2], "batch, time")
        if position_ids.is_floating_point() or position_ids.dtype == torch.bool:
            raise TypeError(f"position_ids must be integers, got {position_ids.dtype}")

    def _mix(
        self,
        x: Tensor,
        position_ids: Tensor | None,
        state: MLSTMLayerState | None,
        return_state: bool,
        cu_seqlens: Tensor | None,
    ) -> tuple[Tensor, MLSTMLayerState | None]:
        u, z = self.up_proj(x).chunk(2, dim=-1)
        c, conv = self.conv(
            u,
            state=None if state is None else state.conv,
            return_state=return_state,
            cu_seqlens=cu_seqlens,
        )
        position = None
        if self.rope:
            start = None if state is None else state.position
            position_ids, position = _positions(x, position_ids, start, cu_seqlens)
        h, memory = mlstm(
            *self._heads(c, u, position_ids),
            initial_state=None if state is None else (state.C, state.n, state.m),
            output_final_state=return_state,
            cu_seqlens=cu_seqlens,
            eps=self.eps,
        )
        y = self._output(h, c, z)
        if memory is None:
            return y, None
        return y, MLSTMLayerState(*memory, cast(Tensor, conv), position)

    def _heads(
        self, c: Tensor, u: Tensor, position_ids: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """q, k, v and the two gates of every head, of (batch, time, d_in)."""
        q, k, v = self.q_proj(c), self.k_proj(c), self.v_proj(u)
        # The gates are exponents: formed and kept in float32 at least.
        with torch.autocast(c.device.type, enabled=False):
            wide = torch.promote_types(c.dtype, torch.float32)
            gates = F.linear(
                torch.cat([q, k, v], dim=-1).to(wide),
                self.gate_weight.to(wide),
                self.gate_bias.to(wide),
            )
        i, f = gates.chunk(2, dim=-1)
        q, k, v = (part.unflatten(-1, (self.num_heads, self.head_dim)) for part in (q, k, v))
        if self.rope:
            positions = cast(Tensor, position_ids)
            q = apply_rotary(q, positions, base=self.rope_base)
            k = apply_rotary(k, positions, base=self.rope_base)
        return q, k, v, i, f

    def _output(self, h: Tensor, c: Tensor, z: Tensor) -> Tensor:
        skip = self.skip.to(c.dtype)
        return self.o_proj((self.head_norm(h).to(c.dtype) + skip * c) * F.silu(z))


class SLSTM(_RecurrentMixer):
    """xLSTM's scalar memory as a mixer: gates that also read the last output of their head.

    Args:
        hidden_size: width of the input and the output.
        num_heads: heads, which divide ``hidden_size``.
        conv_size: tokens that the convolution before the gates i and f sees.
        recurrent_std: standard deviation of the initial recurrent weights.
        layer_idx: which layer of the model it is, from 0; later layers start with forget gates that
            are spread more unevenly.
        num_layers: layers of the model.
        device, dtype: of the parameters; torch's defaults where None.

    Raises:
        ValueError: for sizes that do not fit.

    Source: "xLSTM: Extended Long Short-Term Memory", arXiv 2405.04517.

    Example:
        >>> import torch
        >>> from rankone.nn.xlstm_mixers import SLSTM
        >>> y, state = SLSTM(32, 4)(torch.randn(2, 10, 32), return_state=True)
        >>> y.shape, state.c.shape
        (torch.Size([2, 10, 32]), torch.Size([2, 4, 8]))
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int = 4,
        *,
        conv_size: int = 4,
        recurrent_std: float = 0.0,
        layer_idx: int = 0,
        num_layers: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_sizes(hidden_size, num_heads, layer_idx, num_layers)
        if hidden_size % num_heads:
            raise ValueError(
                "hidden_size must be a multiple of num_heads, "
                f"got hidden_size {hidden_size} and num_heads {num_heads}"
            )
        if recurrent_std < 0:
            raise ValueError(f"recurrent_std must be at least 0, got {recurrent_std}")
        placement: dict[str, Any] = {"device": device, "dtype": dtype}
        self.hidden_size = hidden_size
        self.num_heads = num_heads
        self.head_dim = hidden_size // num_heads
        self.conv = ShortConvolution(
            hidden_size, conv_size, bias=True, activation="silu", **placement
        )
        self.i_gate = BlockDiagonalLinear(hidden_size, num_heads, **placement)
        self.f_gate = BlockDiagonalLinear(hidden_size, num_heads, **placement)
        self.z_gate = BlockDiagonalLinear(hidden_size, num_heads, **placement)
        self.o_gate = BlockDiagonalLinear(hidden_size, num_heads, **placement)
        dim = self.head_dim
        self.recurrent = nn.Parameter(torch.empty(GATES, num_heads, dim, dim, **placement))
        self.bias = nn.Parameter(torch.zeros(GATES, num_heads, dim, **placement))
        self.bias._no_weight_decay = True  # type: ignore[attr-defined]
        self.head_norm = HeadNorm(hidden_size, **placement)
        with torch.no_grad():
            nn.init.normal_(self.recurrent, std=recurrent_std)
            depth = layer_idx / max(num_layers - 1, 1)
            place = torch.arange(dim, dtype=torch.float64) / max(dim - 1, 1)
            self.bias[1] = (5 - 12 * place ** (0.3 + 1.3 * depth)).to(self.bias)

    def step(
        self, x: Tensor, state: SLSTMLayerState | None = None
    ) -> tuple[Tensor, SLSTMLayerState]:
        """Mix one token; see :meth:`MLSTM.step`."""
        check_token(x, self.hidden_size)
        y, state = self.forward(x[:, None], state=state, return_state=True)
        return y[:, 0], state

    def init_state(
        self,
        batch_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> SLSTMLayerState:
        """The state before the first token; see :meth:`MLSTM.init_state`."""
        dtype = self.bias.dtype if dtype is None else dtype
        wide = torch.promote_types(dtype, torch.float32)
        shape = (batch_size, self.num_heads, self.head_dim)
        y, c, n, m = (self.bias.new_zeros(shape, device=device, dtype=wide) for _ in range(GATES))
        conv = self.conv.init_state(batch_size, device=device, dtype=dtype)
        return SLSTMLayerState(y, c, n, m, conv)

    def _state_shapes(self, sequences: int) -> tuple[type, dict[str, tuple[int, ...]]]:
        shape = (sequences, self.num_heads, self.head_dim)
        return SLSTMLayerState, dict.fromkeys(("y", "c", "n", "m"), shape)

    def _mix(
        self,
        x: Tensor,
        position_ids: Tensor | None,
        state: SLSTMLayerState | None,
        return_state: bool,
        cu_seqlens: Tensor | None,
    ) -> tuple[Tensor, SLSTMLayerState | None]:
        c, conv = self.conv(
            x,
            state=None if state is None else state.conv,
            return_state=return_state,
            cu_seqlens=cu_seqlens,
        )
        gates = torch.stack([self.i_gate(c), self.f_gate(c), self.z_gate(x), self.o_gate(x)], dim=2)
        h, cell = slstm(
            gates.unflatten(-1, (self.num_heads, self.head_dim)),
            self.recurrent,
            self.bias,
            initial_state=None if state is None else (state.y, state.c, state.n, state.m),
            output_final_state=return_state,
            cu_seqlens=cu_seqlens,
        )
        y = self.head_norm(h).to(x.dtype)
        return y, None if cell is None else SLSTMLayerState(*cell, cast(Tensor, conv))


def check_sizes(hidden_size: int, num_heads: int, layer_idx: int, num_layers: int) -> None:
    for name, value in (
        ("hidden_size", hidden_size),
        ("num_heads", num_heads),
        ("num_layers", num_layers),
    ):
        check_size(name, value)
    check_integer("layer_idx", layer_idx)
    if not 0 <= layer_idx < num_layers:
        raise ValueError(f"layer_idx must be in 0..{num_layers - 1}, got {layer_idx}")


def _positions(
    x: Tensor, position_ids: Tensor | None, start: Tensor | None, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Rotary positions (batch, time) of every token, and (sequences,) that of the token after."""
    batch, time = x.shape[:2]
    places = torch.arange(time, device=x.device)
    if cu_seqlens is None:
        if start is None:
            start = places.new_zeros(batch)
        if position_ids is None:
            return start[:, None] + places, start + time
        return position_ids, position_ids[:, -1] + 1 if time else start
    offsets = cu_seqlens.to(device=x.device, dtype=torch.int64)
    if start is None:
        start = torch.zeros_like(offsets[:-1])
    row = sequence_of(offsets, time)
    if position_ids is None:
        return (places - offsets[row] + start[row])[None], start + offsets.diff()
    last = (offsets[1:] - 1).clamp(min=0)
    after = position_ids[0, last] + 1 if time else start
    return position_ids, torch.where(offsets.diff() > 0, after, start)


register_mixer("mlstm", MLSTM)
register_mixer("slstm", SLSTM)
