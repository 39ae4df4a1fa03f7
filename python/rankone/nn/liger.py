"""LigerAttention: a gated recurrence and a narrow softmax window over one set of projections.

A layer that was trained with softmax attention becomes recurrent without a new parameter: the gate
of the recurrence is read off the keys. ``liger_heads.py`` has the equations; here are the layer
over given projections and the mixer with projections of its own.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from rankone.nn.liger_heads import (
    HasLigerOptions,
    LigerOptions,
    LigerState,
    Projected,
    check_liger_state,
    liger_heads,
)
from rankone.nn.mixer import check_heads, check_sequence, check_token, register_mixer
from rankone.nn.packing import sequence_of
from rankone.nn.rotary import apply_rotary
from rankone.ops.checks import check_cu_seqlens_values


class LigerAttention(HasLigerOptions, nn.Module):
    """Gated recurrence plus windowed softmax over the projections of an attention layer.

    Args:
        q_proj, k_proj, v_proj, o_proj: linear maps, used and not copied: to ``num_heads``,
            ``num_kv_heads`` and ``num_kv_heads`` heads, and from ``num_heads`` heads.
        num_heads: query heads, a multiple of ``num_kv_heads``.
        num_kv_heads: key and value heads; query head h reads the state of key-value head
            h // (num_heads / num_kv_heads).
        head_dim: width of a head, even.
        structure: gate and key feature, as :func:`rankone.nn.convert.liger_gate`.
        window: tokens that the softmax sees, a token's own included.
        alpha: weight of the recurrence.
        beta: weight of the window.
        gate_normalizer, lower_bound: of the gate.
        rope_base: base of the rotary angles of the window's queries and keys.

    Raises:
        ValueError: for heads or projections that do not fit, an unknown structure or ``"gsa"``, a
            window below 1, alpha = beta = 0, or gate options out of range.

    Source: "Liger: Linearizing Large Language Models to Gated Recurrent Structures",
    arXiv 2503.01496. The state a key-value head, the handling of padding and the state of the
    window are this project's own.

    Example:
        >>> import torch
        >>> from rankone.nn import LigerAttention, SoftmaxAttention
        >>> soft = SoftmaxAttention(32, 4, num_kv_heads=2)
        >>> projections = soft.q_proj, soft.k_proj, soft.v_proj, soft.o_proj
        >>> layer = LigerAttention(*projections, num_heads=4, num_kv_heads=2, head_dim=8, window=16)
        >>> y, state = layer(torch.randn(2, 100, 32), return_state=True)
        >>> y.shape, state.recurrent.shape, state.keys.shape
        (torch.Size([2, 100, 32]), torch.Size([2, 2, 8, 8]), torch.Size([2, 16, 2, 8]))
    """

    def __init__(
        self,
        q_proj: nn.Module,
        k_proj: nn.Module,
        v_proj: nn.Module,
        o_proj: nn.Module,
        *,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        structure: str = "gla",
        window: int = 64,
        alpha: float = 0.5,
        beta: float = 0.5,
        gate_normalizer: float = 16.0,
        lower_bound: float = 0.0,
        rope_base: float = 10000.0,
    ) -> None:
        super().__init__()
        hidden_size = _features("q_proj", q_proj)[0]
        check_heads(hidden_size, num_heads, head_dim, num_kv_heads)
        if head_dim % 2:
            raise ValueError(f"head_dim must be even for rotary positions, got {head_dim}")
        width, kv_width = num_heads * head_dim, num_kv_heads * head_dim
        expected = {
            "q_proj": (q_proj, (hidden_size, width)),
            "k_proj": (k_proj, (hidden_size, kv_width)),
            "v_proj": (v_proj, (hidden_size, kv_width)),
            "o_proj": (o_proj, (width, _features("o_proj", o_proj)[1])),
        }
        for name, (projection, sizes) in expected.items():
            found = _features(name, projection)
            if found != sizes:
                raise ValueError(
                    f"{name} must map {sizes[0]} to {sizes[1]} channels, "
                    f"got {found[0]} to {found[1]}"
                )
        self.hidden_size = hidden_size
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads
        self.head_dim = head_dim
        self.rope_base = rope_base
        self.liger = LigerOptions(structure, window, alpha, beta, gate_normalizer, lower_bound)
        self.q_proj = q_proj
        self.k_proj = k_proj
        self.v_proj = v_proj
        self.o_proj = o_proj

    def forward(
        self,
        x: Tensor,
        *,
        attention_mask: Tensor | None = None,
        state: LigerState | None = None,
        return_state: bool = False,
        cu_seqlens: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, LigerState]:
        """Mix a batch of sequences.

        Args:
            x: (batch, time, hidden_size).
            attention_mask: (batch, time), boolean or integer, 1 on tokens and 0 on padding.
                Padding is left out of the recurrence, the window and the positions.
            state: :class:`LigerState` of an earlier call.
            return_state: also return the state after the last token.
            cu_seqlens: (sequences + 1,) int32 or int64, starts of packed sequences; batch is 1.

        Returns:
            (batch, time, hidden_size), and with ``return_state`` the :class:`LigerState`.

        Raises:
            ValueError: for an input, mask or state of the wrong shape.
            TypeError: for a mask that is neither boolean nor integer, or another kind of state.
        """
        mask, sequences = check_sequence(x, self.hidden_size, attention_mask, cu_seqlens)
        self._check_state(state, sequences)
        start = x.new_zeros(sequences, dtype=torch.int64) if state is None else state.length
        time = torch.arange(x.shape[1], device=x.device)
        if cu_seqlens is not None:
            check_cu_seqlens_values(cu_seqlens, x.shape[1])
            offsets = cu_seqlens.to(device=x.device, dtype=torch.int64)
            sequence = sequence_of(offsets, x.shape[1])
            positions = (start[sequence] + time - offsets[sequence])[None]
        elif mask is not None:
            positions = start[:, None] + mask.cumsum(1) - 1
        else:
            positions = start[:, None] + time
        o, state = liger_heads(
            self._project(x, positions),
            self.liger,
            scale=self.head_dim**-0.5,
            mask=mask,
            cu_seqlens=cu_seqlens,
            state=state,
            return_state=return_state,
        )
        y = self.o_proj(o.flatten(-2))
        return (y, cast(LigerState, state)) if return_state else y

    def step(self, x: Tensor, state: LigerState | None = None) -> tuple[Tensor, LigerState]:
        """Mix one token: (batch, hidden_size) after ``state``; gives the output and new state."""
        check_token(x, self.hidden_size)
        if state is None:
            state = self.init_state(x.shape[0], device=x.device)
        y, state = cast(
            tuple[Tensor, LigerState], self.forward(x[:, None], state=state, return_state=True)
        )
        return y[:, 0], state

    def init_state(
        self,
        batch_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> LigerState:
        """Zeros for ``batch_size`` sequences.

        Args:
            batch_size: number of sequences.
            device: default that of the layer.
            dtype: of the window, default the layer's; the recurrent state is float32 (float64 where
                ``dtype`` is float64).
        """
        weight = next(self.k_proj.parameters())
        return LigerState.zeros(
            batch_size,
            self.num_kv_heads,
            self.head_dim,
            self.window,
            device=weight.device if device is None else device,
            dtype=weight.dtype if dtype is None else dtype,
        )

    def _check_state(self, state: LigerState | None, sequences: int) -> None:
        check_liger_state(state, sequences, self.num_kv_heads, self.head_dim, self.window)

    def _project(self, x: Tensor, positions: Tensor) -> Projected:
        q = self.q_proj(x).unflatten(-1, (self.num_heads, self.head_dim))
        k = self.k_proj(x).unflatten(-1, (self.num_kv_heads, self.head_dim))
        v = self.v_proj(x).unflatten(-1, (self.num_kv_heads, self.head_dim))
        rotated_q = apply_rotary(q, positions, base=self.rope_base)
        return Projected(q, k, v, rotated_q, apply_rotary(k, positions, base=self.rope_base))

    def extra_repr(self) -> str:
        return (
            f"num_heads={self.num_heads}, num_kv_heads={self.num_kv_heads}, "
            f"head_dim={self.head_dim}, structure={self.structure!r}, window={self.window}, "
            f"alpha={self.alpha}, beta={self.beta}"
        )


class LigerMixer(LigerAttention):
    """:class:`LigerAttention` with projections of its own: the mixer ``"liger_attention"``.

    Args:
        hidden_size: width of the input and the output.
        num_heads: query heads.
        head_dim: width of a head, even; default hidden_size / num_heads.
        num_kv_heads: key and value heads, a divisor of ``num_heads``; default ``num_heads``.
        bias: whether the linear maps have biases.
        **options: those of :class:`LigerAttention`.
        device, dtype: of the parameters; torch's defaults where None.

    Example:
        >>> from rankone.nn import LanguageModel, LanguageModelConfig
        >>> config = LanguageModelConfig(
        ...     vocab_size=256, hidden_size=32, num_layers=2, mixer="liger_attention",
        ...     mixer_kwargs={"structure": "mamba2", "window": 16},
        ... )
        >>> LanguageModel(config).blocks[0].mixer.structure
        'mamba2'
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        *,
        head_dim: int | None = None,
        num_kv_heads: int | None = None,
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        head_dim, num_kv_heads = check_heads(hidden_size, num_heads, head_dim, num_kv_heads)

        def linear(inputs: int, outputs: int) -> nn.Linear:
            return nn.Linear(inputs, outputs, bias, device=device, dtype=dtype)

        width, kv_width = num_heads * head_dim, num_kv_heads * head_dim
        super().__init__(
            linear(hidden_size, width),
            linear(hidden_size, kv_width),
            linear(hidden_size, kv_width),
            linear(width, hidden_size),
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            **options,
        )


def _features(name: str, projection: nn.Module) -> tuple[int, int]:
    sizes = getattr(projection, "in_features", None), getattr(projection, "out_features", None)
    if not isinstance(projection, nn.Module) or None in sizes:
        raise TypeError(f"{name} must be a linear map, got {type(projection).__name__}")
    return cast("tuple[int, int]", sizes)


register_mixer("liger_attention", LigerMixer)
