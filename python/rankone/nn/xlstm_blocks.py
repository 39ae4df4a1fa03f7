"""The residual blocks of xLSTM: a mixer, a reading direction, and the sLSTM's feed-forward part.

A block is x + mixer(norm(x)), for the sLSTM followed by a gated GELU block of the same form. A
direction other than causal turns the tokens of every sequence around, never its padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rankone._arguments import check_size
from rankone.nn.feed_forward import GLU
from rankone.nn.mixer import check_sequence
from rankone.nn.norms import LayerNorm
from rankone.nn.packing import pack, sequence_of, unpack
from rankone.nn.xlstm_mixers import (
    MLSTM,
    NORM_EPS,
    ROUNDINGS,
    SLSTM,
    WIDTH_MULTIPLE,
    residual_deviation,
    rounded,
    small_deviation,
)
from rankone.ops.checks import check_cu_seqlens_values, check_shape

DIRECTIONS = ("causal", "reverse", "bidirectional")


def reversal(cu_seqlens: Tensor, tokens: int) -> Tensor:
    """(tokens,) int64: the place that each place of a reversed packed batch is read from."""
    offsets = cu_seqlens.to(torch.int64)
    row = sequence_of(offsets, tokens)
    return offsets[row] + offsets[row + 1] - 1 - torch.arange(tokens, device=offsets.device)


class _Block(nn.Module):
    """Norm, mixer and residual, then the same with a feed-forward block where there is one."""

    def __init__(
        self,
        mixer: MLSTM | SLSTM,
        feed_forward: nn.Module | None,
        *,
        direction: str,
        double_residual: bool,
        dropout: float,
        placement: dict[str, Any],
    ) -> None:
        super().__init__()
        if direction not in DIRECTIONS:
            raise ValueError(f"direction must be one of {list(DIRECTIONS)}, got {direction!r}")
        if double_residual and direction != "bidirectional":
            raise ValueError(f"double_residual needs direction='bidirectional', got {direction!r}")
        self.direction = direction
        self.double_residual = double_residual

        def norm() -> nn.Module:
            return LayerNorm(mixer.hidden_size, eps=NORM_EPS, bias=False, **placement)

        self.mixer_norm = norm()
        self.mixer = mixer
        self.feed_forward_norm = None if feed_forward is None else norm()
        self.feed_forward = feed_forward
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        *,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        state: Any = None,
        return_state: bool = False,
    ) -> Any:
        """Read a batch of sequences; arguments and errors as for the mixer.

        Returns:
            (batch, time, d_model), and with ``return_state``, which only a causal block has, the
            mixer's state.
        """
        if self.direction != "causal" and (state is not None or return_state):
            raise ValueError(
                f"state and return_state need direction='causal', got {self.direction!r}"
            )
        mask, _ = check_sequence(x, self.mixer.hidden_size, attention_mask, cu_seqlens)
        if cu_seqlens is not None and not torch.compiler.is_compiling():
            check_cu_seqlens_values(cu_seqlens, x.shape[1])
        if mask is not None:
            packed = pack(x, mask)
            if position_ids is not None:
                check_shape("position_ids", position_ids, x.shape[:2], "batch, time")
                position_ids = position_ids.flatten()[packed.places][None]
            y, state = self._read(packed.x, position_ids, packed.cu_seqlens, state, return_state)
            y = unpack(y, packed.places, *x.shape[:2])
        else:
            y, state = self._read(x, position_ids, cu_seqlens, state, return_state)
        return (y, state) if return_state else y

    def step(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Read one token (batch, d_model) after ``state``; only a causal block can."""
        if self.direction != "causal":
            raise ValueError(f"step needs direction='causal', got {self.direction!r}")
        mixed, state = self.mixer.step(self.mixer_norm(x), state)
        return self._fed_forward(x + self.dropout(mixed)), state

    def init_state(
        self,
        batch_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Any:
        """The mixer's state before the first token; only a causal block has one."""
        if self.direction != "causal":
            raise ValueError(f"init_state needs direction='causal', got {self.direction!r}")
        return self.mixer.init_state(batch_size, device=device, dtype=dtype)

    def _read(
        self,
        x: Tensor,
        position_ids: Tensor | None,
        cu_seqlens: Tensor | None,
        state: Any,
        return_state: bool,
    ) -> tuple[Tensor, Any]:
        h = self.mixer_norm(x)
        if self.direction == "causal":
            mixed = self.mixer(
                h,
                position_ids=position_ids,
                state=state,
                return_state=return_state,
                cu_seqlens=cu_seqlens,
            )
            mixed, state = mixed if return_state else (mixed, None)
            return self._fed_forward(x + self.dropout(mixed)), state

        order = None if cu_seqlens is None else reversal(cu_seqlens, x.shape[1])

        def turned(tokens: Tensor) -> Tensor:
            return tokens.flip(1) if order is None else tokens.index_select(1, order)

        # Rotary products depend on differences of positions alone; negated, the distance to an
        # earlier token of the reversed text is what it is in the text.
        back = None if position_ids is None else -turned(position_ids)
        if self.direction == "reverse":
            mixed = turned(self.mixer(turned(h), position_ids=back, cu_seqlens=cu_seqlens))
            return self._fed_forward(x + self.dropout(mixed)), None
        forth, mirrored = self._both_ways(h, turned(h), position_ids, back, cu_seqlens)
        forth, mirrored = self.dropout(forth), self.dropout(turned(mirrored))
        if self.double_residual:
            return self._fed_forward(x + forth) + self._fed_forward(x + mirrored), None
        return self._fed_forward(x + forth + mirrored, times=2), None

    def _both_ways(
        self,
        forth: Tensor,
        back: Tensor,
        forth_positions: Tensor | None,
        back_positions: Tensor | None,
        cu_seqlens: Tensor | None,
    ) -> Sequence[Tensor]:
        """The mixer over both readings in one call."""
        axis = 0 if cu_seqlens is None else 1
        position_ids = None
        if forth_positions is not None and back_positions is not None:
            position_ids = torch.cat([forth_positions, back_positions], dim=axis)
        if cu_seqlens is not None:
            cu_seqlens = torch.cat([cu_seqlens, cu_seqlens[1:] + cu_seqlens[-1]])
        both = torch.cat([forth, back], dim=axis)
        return self.mixer(both, position_ids=position_ids, cu_seqlens=cu_seqlens).chunk(2, dim=axis)

    def _fed_forward(self, x: Tensor, times: int = 1) -> Tensor:
        """A map of single tokens read both ways is itself, ``times`` 2."""
        if self.feed_forward is None or self.feed_forward_norm is None:
            return x
        return x + times * self.dropout(self.feed_forward(self.feed_forward_norm(x)))

    def extra_repr(self) -> str:
        return f"direction={self.direction!r}"


class MLSTMBlock(_Block):
    """x + mLSTM(norm(x)), in one or both reading directions.

    Args:
        d_model: width of the residual stream.
        num_heads: heads.
        proj_factor, round_proj, conv_size, rope, rope_base, eps: of :class:`MLSTM`.
        direction: ``"causal"``; ``"reverse"``, from the last token to the first; or
            ``"bidirectional"``, x + f(x) + reversed f(reversed x) with the same weights.
        double_residual: with ``"bidirectional"``, add two whole blocks instead, which doubles the
            residual stream, as the published code does.
        dropout: on what is added to the residual stream.
        layer_idx, num_layers: place in the model, for the initial weights.
        device, dtype: of the parameters; torch's defaults where None.

    Shapes:
        (batch, time, d_model) to the same.

    Raises:
        ValueError: for sizes that do not fit, or unknown options.

    Source: "xLSTM", arXiv 2405.04517; directions, "Bio-xLSTM", arXiv 2411.04165. One residual for
    both directions is this project's choice.

    Example:
        >>> import torch
        >>> from rankone.nn.xlstm_blocks import MLSTMBlock
        >>> MLSTMBlock(32, 4, direction="bidirectional")(torch.randn(2, 10, 32)).shape
        torch.Size([2, 10, 32])
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int = 4,
        *,
        proj_factor: float = 2.0,
        round_proj: str = "down",
        conv_size: int = 4,
        rope: bool = False,
        rope_base: float = 5e5,
        eps: float = 1e-6,
        direction: str = "causal",
        double_residual: bool = False,
        dropout: float = 0.0,
        layer_idx: int = 0,
        num_layers: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        placement: dict[str, Any] = {"device": device, "dtype": dtype}
        mixer = MLSTM(
            d_model,
            num_heads,
            proj_factor=proj_factor,
            round_proj=round_proj,
            conv_size=conv_size,
            rope=rope,
            rope_base=rope_base,
            eps=eps,
            layer_idx=layer_idx,
            num_layers=num_layers,
            **placement,
        )
        super().__init__(
            mixer,
            None,
            direction=direction,
            double_residual=double_residual,
            dropout=dropout,
            placement=placement,
        )


class SLSTMBlock(_Block):
    """x + sLSTM(norm(x)), then x + feed_forward(norm(x)) with a gated GELU.

    Args:
        d_model: width of the residual stream.
        num_heads: heads.
        conv_size: of :class:`SLSTM`.
        ff_factor: inner width of the feed-forward block as a multiple of ``d_model``.
        ff_multiple: multiple that the inner width is rounded to.
        ff_round: ``"up"`` or ``"down"``.
        direction, double_residual, dropout, layer_idx, num_layers: as :class:`MLSTMBlock`; both
            parts of the block are read in the direction, so ``"bidirectional"`` adds the
            feed-forward block, which treats tokens alone, twice.
        device, dtype: of the parameters; torch's defaults where None.

    Shapes:
        (batch, time, d_model) to the same.

    Raises:
        ValueError: for sizes that do not fit, or unknown options.

    Source: arXiv 2405.04517, arXiv 2411.04165.

    Example:
        >>> import torch
        >>> from rankone.nn.xlstm_blocks import SLSTMBlock
        >>> SLSTMBlock(32, 4)(torch.randn(2, 10, 32)).shape
        torch.Size([2, 10, 32])
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int = 4,
        *,
        conv_size: int = 4,
        ff_factor: float = 1.3,
        ff_multiple: int = WIDTH_MULTIPLE,
        ff_round: str = "up",
        direction: str = "causal",
        double_residual: bool = False,
        dropout: float = 0.0,
        layer_idx: int = 0,
        num_layers: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        placement: dict[str, Any] = {"device": device, "dtype": dtype}
        if not ff_factor > 0:
            raise ValueError(f"ff_factor must be above 0, got {ff_factor}")
        check_size("ff_multiple", ff_multiple)
        if ff_round not in ROUNDINGS:
            raise ValueError(f"ff_round must be one of {list(ROUNDINGS)}, got {ff_round!r}")
        mixer = SLSTM(
            d_model,
            num_heads,
            conv_size=conv_size,
            layer_idx=layer_idx,
            num_layers=num_layers,
            **placement,
        )
        inner = rounded(ff_factor * d_model, ff_multiple, ff_round)
        feed_forward = GLU(d_model, inner, activation="gelu", bias=False, **placement)
        small = small_deviation(d_model)
        nn.init.normal_(feed_forward.gate_proj.weight, std=small)
        nn.init.normal_(feed_forward.up_proj.weight, std=small)
        nn.init.normal_(feed_forward.down_proj.weight, std=residual_deviation(d_model, num_layers))
        super().__init__(
            mixer,
            feed_forward,
            direction=direction,
            double_residual=double_residual,
            dropout=dropout,
            placement=placement,
        )
