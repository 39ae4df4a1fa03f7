"""DiagAttention: softmax or rectified attention inside consecutive blocks of the sequence.

Time is cut into blocks of ``block_size`` tokens, and a token attends inside its own block, so the
cost is O(T block_size) and no (T, T) matrix exists. Tokens are laid into a grid of blocks: by a
reshape where the input is plain, by one scatter where sequences are packed, padded or continued,
whose blocks then begin where each sequence begins. Positions count from the start of the block, so
a grid slot is a position, and the state of a causal layer is the unfinished block.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from rankone._arguments import check_size
from rankone.nn.lrpe import LRPEAttention
from rankone.nn.mixer import register_mixer
from rankone.nn.packing import offsets_of, sequence_of
from rankone.nn.window_attention import causal_attention, masked_attention
from rankone.ops.checks import check_shape

KINDS = ("softmax", "relu")


class DiagAttentionState(NamedTuple):
    """The unfinished block of every sequence.

    Attributes:
        keys, values: (sequences, block_size, num_heads, head_dim), position-encoded keys and
            values, 0 beyond ``fill``.
        fill: (sequences,) int64, tokens in the block, 0 to block_size - 1.
    """

    keys: Tensor
    values: Tensor
    fill: Tensor


class _Grid(NamedTuple):
    """How tokens lie in blocks.

    Attributes:
        places: (tokens,) flattened slot of every token, one past the last for padding; None where
            every batch row fills ``row_blocks`` blocks in order.
        blocks: number of blocks.
        row_blocks: number of blocks of a batch row, 0 with ``places``.
        first: (sequences,) first block of each sequence.
        last: (sequences,) last block of each sequence.
        end: (sequences,) tokens since the start of the first block.
        valid: (blocks, block_size), slots that hold a token; None where all do.
    """

    places: Tensor | None
    blocks: int
    row_blocks: int
    first: Tensor
    last: Tensor
    end: Tensor
    valid: Tensor | None


class DiagAttention(LRPEAttention):
    """Attention inside blocks of ``block_size`` tokens.

    Args:
        dim: width of the input and the output.
        num_heads: heads, a divisor of ``dim``.
        block_size: tokens a block.
        kind: ``"softmax"``, or ``"relu"`` for rectified scores that are normalised by ``norm``
            after they have weighted the values.
        causal: whether a token sees its past alone, inside its block.
        norm: of the merged heads of kind ``"relu"``: ``"srmsnorm"`` (the paper's), ``"rmsnorm"``,
            ``"layernorm"`` or ``"none"``. Softmax attention has none.
        lrpe: whether queries and keys are encoded by :class:`rankone.nn.LRPE`, with positions
            counted from the start of the block.
        bias: whether the projections have biases.
        dropout: share of the output that is dropped in training.
        device, dtype: of the parameters; torch's defaults where None.

    Raises:
        ValueError: for widths and heads that do not fit, a block below 1, or unknown options.

    Source: "The Devil in Linear Transformer", arXiv 2210.10340. That blocks begin anew in packed
    sequences, the masking of padded keys and the state for streaming were derived for this project.

    Example:
        >>> import torch
        >>> from rankone.nn.diag_attention import DiagAttention
        >>> layer = DiagAttention(32, 4, block_size=8)
        >>> x = torch.randn(1, 20, 32)
        >>> torch.allclose(layer(x)[:, 8:16], layer(x[:, 8:16]), atol=1e-5)
        True
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        block_size: int = 64,
        kind: str = "softmax",
        causal: bool = True,
        norm: str = "srmsnorm",
        lrpe: bool = True,
        bias: bool = True,
        dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_size("block_size", block_size)
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {list(KINDS)}, got {kind!r}")
        super().__init__(
            dim,
            num_heads,
            causal=causal,
            norm=norm,
            lrpe=lrpe,
            bias=bias,
            dropout=dropout,
            qkv_gain=1.0,
            device=device,
            dtype=dtype,
        )
        if kind == "softmax":
            self.norm = None
        self.block_size = block_size
        self.kind = kind

    def forward(
        self,
        x: Tensor,
        *,
        key_padding_mask: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        state: DiagAttentionState | None = None,
        return_state: bool = False,
        attention_mask: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, DiagAttentionState]:
        """Mix a batch of sequences; arguments and results as :meth:`NormAttention.forward`."""
        mask, sequences = self._check_call(
            x, key_padding_mask, attention_mask, cu_seqlens, state, return_state
        )
        self._check_state(state, sequences)
        fill = None if state is None else state.fill
        grid = self._grid(x, mask, cu_seqlens, fill)
        q, k, v = self._laid(x, grid)
        if state is not None:
            held = self._slots(x) < state.fill[:, None]
            k = _begin(k, state.keys, held[..., None, None], grid.first)
            v = _begin(v, state.values, held[..., None, None], grid.first)
        y = self._attend(q, k, v, grid.valid).flatten(-2)
        y = self._output(_collect(y, grid, x.shape[0], x.shape[1]), x, mask)
        return (y, self._final_state(k, v, grid)) if return_state else y

    def step(
        self, x: Tensor, state: DiagAttentionState | None = None
    ) -> tuple[Tensor, DiagAttentionState]:
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
        fill = state.fill[:, None]
        q, k, v = self._widened(*self._project(x[:, None]))
        q, k = self._encode(q, fill), self._encode(k, fill)
        slots = self._slots(x)
        here = (slots == fill)[..., None, None]
        keys = torch.where(here, k, state.keys.to(k.dtype))
        values = torch.where(here, v, state.values.to(v.dtype))
        y = self._weighted(q, keys, values, (slots <= fill)[:, None, None])
        fill = (fill + 1) % self.block_size
        kept = (slots < fill)[..., None, None]
        new_state = DiagAttentionState(
            keys.masked_fill(~kept, 0), values.masked_fill(~kept, 0), fill[:, 0]
        )
        return self._output(y[:, 0].flatten(-2), x), new_state

    def init_state(
        self,
        batch_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> DiagAttentionState:
        """An empty block for ``batch_size`` sequences; ``dtype`` is that of keys and values."""
        weight = self.k_proj.weight
        device = weight.device if device is None else device
        shape = (batch_size, self.block_size, self.num_heads, self.head_dim)
        entries = torch.zeros(shape, device=device, dtype=weight.dtype if dtype is None else dtype)
        fill = torch.zeros(batch_size, device=device, dtype=torch.int64)
        return DiagAttentionState(entries, entries, fill)

    def attention_weights(self, x: Tensor) -> Tensor:
        """(batch, heads, time, time) weights of the values, 0 outside the blocks.

        They are probabilities for softmax, rectified scores for relu. Quadratic in time and
        memory: for analysis only.

        Args:
            x: (batch, time, dim).
        """
        self._check_call(x, None, None, None, None, False)
        batch, time = x.shape[:2]
        grid = self._grid(x, None, None, None)
        q, k, _ = self._laid(x, grid)
        inside = self._weights(q, k, self._visible(grid.valid, x))
        blocks, block = grid.row_blocks, self.block_size
        weights = inside.new_zeros(batch, self.num_heads, blocks, block, blocks, block)
        inside = inside.unflatten(0, (batch, blocks)).movedim(1, -1)
        weights.diagonal(dim1=2, dim2=4).copy_(inside)
        return weights.flatten(4).flatten(2, 3)[..., :time, :time]

    def _slots(self, x: Tensor) -> Tensor:
        return torch.arange(self.block_size, device=x.device)

    def _grid(
        self, x: Tensor, mask: Tensor | None, cu_seqlens: Tensor | None, fill: Tensor | None
    ) -> _Grid:
        batch, time = x.shape[:2]
        block = self.block_size
        if mask is None and cu_seqlens is None and fill is None:
            row_blocks = max(-(-time // block), 1)
            first = row_blocks * torch.arange(batch, device=x.device)
            valid = None
            if row_blocks * block > time:
                valid = torch.arange(row_blocks * block, device=x.device) < time
                valid = valid.unflatten(0, (row_blocks, block)).repeat(batch, 1)
            end = torch.full_like(first, time)
            last = first + row_blocks - 1
            return _Grid(None, batch * row_blocks, row_blocks, first, last, end, valid)
        if cu_seqlens is not None:
            cu_seqlens = cu_seqlens.to(x.device)
            length = cu_seqlens.to(torch.int64).diff()
            sequence = sequence_of(cu_seqlens, time)
            position = torch.arange(time, device=x.device) - offsets_of(length)[sequence]
            padding = None
        else:
            if mask is None:
                mask = torch.ones(batch, time, dtype=torch.bool, device=x.device)
            length = mask.sum(1)
            sequence = torch.arange(batch, device=x.device).repeat_interleave(time)
            position = (mask.cumsum(1) - 1).flatten()
            padding = ~mask.flatten()
        sequences = length.shape[0]
        end = length if fill is None else fill + length
        taken = (-(-end // block)).clamp(min=1)
        first = taken.cumsum(0) - taken
        # The sum of ``taken`` is below this, which is known without reading a tensor's values.
        blocks = batch * time // block + 2 * sequences
        start = first * block if fill is None else first * block + fill
        places = start[sequence] + position
        if padding is not None:
            places = places.masked_fill(padding, blocks * block)
        valid = torch.zeros(blocks * block + 1, dtype=torch.bool, device=x.device)
        valid = valid.index_fill(0, places, True)[:-1].unflatten(0, (blocks, block))
        if fill is not None:
            held = self._slots(x) < fill[:, None]
            valid = valid.index_copy(0, first, valid.index_select(0, first) | held)
        return _Grid(places, blocks, 0, first, first + taken - 1, end, valid)

    def _laid(self, x: Tensor, grid: _Grid) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (blocks, block_size, heads, head_dim), position-encoded."""
        parts = self._widened(*self._project(x))
        shape = (grid.blocks, self.block_size)
        if grid.places is None:
            missing = grid.row_blocks * self.block_size - x.shape[1]
            q, k, v = (
                F.pad(part, (0, 0, 0, 0, 0, missing)).flatten(0, 1).unflatten(0, shape)
                for part in parts
            )
        else:
            rows = torch.stack(parts, dim=2).flatten(0, 1)
            room = rows.new_zeros(grid.blocks * self.block_size + 1, *rows.shape[1:])
            laid = room.index_copy(0, grid.places, rows)[:-1]
            q, k, v = laid.unflatten(0, shape).unbind(2)
        return self._encode(q), self._encode(k), v

    def _widened(self, *parts: Tensor) -> tuple[Tensor, ...]:
        # Rectified scores are not normalised before the norm: float16 would overflow at 65504.
        if self.kind == "relu" and parts[0].dtype == torch.float16:
            return tuple(part.float() for part in parts)
        return parts

    def _visible(self, valid: Tensor | None, x: Tensor) -> Tensor | None:
        """(blocks or 1, 1, block_size, block_size): which keys a slot sees; None for all."""
        slots = self._slots(x)
        visible = slots <= slots[:, None] if self.causal else None
        if valid is None:
            return None if visible is None else visible[None, None]
        keys = valid[:, None, None, :]
        visible = keys if visible is None else visible & keys
        # An empty slot sees itself: a row of nothing has no softmax.
        return visible | torch.eye(self.block_size, dtype=torch.bool, device=x.device)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Tensor:
        if self.causal and self.kind == "softmax":
            # Slots fill from the first on, so a token's past holds tokens alone.
            return causal_attention(q, k, v)
        return self._weighted(q, k, v, self._visible(valid, q))

    def _weighted(self, q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None) -> Tensor:
        """(blocks, queries, heads, head_dim): values weighted by what each query sees."""
        if self.kind == "softmax":
            return masked_attention(q, k, v, visible)
        return (self._weights(q, k, visible) @ v.transpose(1, 2)).transpose(1, 2)

    def _weights(self, q: Tensor, k: Tensor, visible: Tensor | None) -> Tensor:
        scores = q.transpose(1, 2) @ k.permute(0, 2, 3, 1) * self.head_dim**-0.5
        if self.kind == "relu":
            weights = F.relu(scores)
            return weights if visible is None else weights.masked_fill(~visible, 0)
        if visible is not None:
            scores = scores.masked_fill(~visible, float("-inf"))
        return scores.softmax(-1)

    def _final_state(self, k: Tensor, v: Tensor, grid: _Grid) -> DiagAttentionState:
        fill = grid.end % self.block_size
        beyond = (self._slots(k) >= fill[:, None])[..., None, None]
        keys, values = (part.index_select(0, grid.last).masked_fill(beyond, 0) for part in (k, v))
        return DiagAttentionState(keys, values, fill)

    def _check_state(self, state: DiagAttentionState | None, sequences: int) -> None:
        if state is None:
            return
        if not isinstance(state, DiagAttentionState):
            raise TypeError(
                "state must be a DiagAttentionState (keys, values, fill), "
                f"got {type(state).__name__}"
            )
        shape = (sequences, self.block_size, self.num_heads, self.head_dim)
        check_shape("state.keys", state.keys, shape, "sequences, block size, heads, head dim")
        check_shape("state.values", state.values, shape, "sequences, block size, heads, head dim")
        check_shape("state.fill", state.fill, (sequences,), "sequences")

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, block_size={self.block_size}, kind={self.kind!r}"


def _begin(laid: Tensor, held: Tensor, taken: Tensor, first: Tensor) -> Tensor:
    """``laid`` with the slots of the state put into each sequence's first block."""
    begun = torch.where(taken, held.to(laid.dtype), laid.index_select(0, first))
    return laid.index_copy(0, first, begun)


def _collect(y: Tensor, grid: _Grid, batch: int, time: int) -> Tensor:
    """(batch, time, width) outputs of the tokens of a grid (blocks, block_size, width)."""
    if grid.places is None:
        return y.unflatten(0, (batch, grid.row_blocks)).flatten(1, 2)[:, :time]
    slots = F.pad(y.flatten(0, 1), (0, 0, 0, 1))
    return slots.index_select(0, grid.places).unflatten(0, (batch, time))


register_mixer("diag_attention", DiagAttention)
