"""LightningAttention: the linear-attention layer over ``rankone.ops.linear_attention``.

q, k, v = activations of linear maps of x; o = linear attention with the layer's decay; the heads
are merged, normalised, gated by a low-rank sigmoid gate of x and mapped back:

    y = (norm(o) * sigmoid(x W1 W2)) W_o

Training and reading a text cost O(time); a decoding step costs O(1) and the state is one
(head_dim, head_dim) matrix a key-value head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rankone._arguments import check_integer, check_size
from rankone.nn.activations import activation_function
from rankone.nn.context_parallel import ContextParallel, agree_on_shard, layer_facts, sharded
from rankone.nn.mixer import check_heads, check_sequence, check_token, register_mixer
from rankone.nn.norms import NORMS, RMSNorm, make_norm
from rankone.ops import decay_slopes, linear_attention, linear_attention_step
from rankone.ops.checks import check_shape

DECAYS = ("alibi", "linear", "none", "learned", "token", "channel")

# Projected decays start near exp(-0.7 / 16) = 0.96 a token, a memory of some 20 tokens.
GATE_NORMALIZER = 16.0


class _Projections(NamedTuple):
    q: Tensor
    k: Tensor
    v: Tensor
    log_decay: Tensor | None


@torch.no_grad()
def _inverse_softplus(y: Tensor) -> Tensor:
    return torch.log(torch.expm1(y))


class LightningAttention(nn.Module):
    """Causal linear attention with decay, gated and normalised, as a layer.

    Args:
        hidden_size: width of the input and the output.
        num_heads: query heads.
        head_dim: width of a head; default hidden_size / num_heads.
        num_kv_heads: key and value heads, a divisor of ``num_heads``; default ``num_heads``.
        layer_idx: index of the layer in its model; the fixed slopes depend on it.
        num_layers: number of layers of the model.
        decay: ``"alibi"`` or ``"linear"`` (fixed slopes, see :func:`rankone.ops.decay_slopes`),
            ``"none"``, ``"learned"`` (one parameter a head), ``"token"`` (projected, one a token
            and head) or ``"channel"`` (projected, one a token, head and key channel).
        activation: activation of queries and keys: ``"silu"``, ``"gelu"``, ``"relu"``, ``"elu"``,
            ``"1+elu"``, ``"sigmoid"`` or ``"identity"``.
        value_activation: activation of values.
        gate_rank: rank of the output gate; default ``head_dim``.
        use_output_gate: whether the output is gated.
        norm: ``"srmsnorm"``, ``"rmsnorm"`` or ``"layernorm"`` over the merged heads, or
            ``"headwise_rmsnorm"``.
        scale: factor on the outputs of the attention, before the norm.
        bias: whether the linear maps have biases (the first map of the gate has none).
        device, dtype: of the parameters; torch's defaults where None.

    Raises:
        ValueError: for widths and heads that do not fit, or an unknown decay, activation or norm.

    Source: "Lightning Attention-2", arXiv 2401.04658; the layer of TransNormerLLM,
    arXiv 2307.14995; projected decays as in gated linear attention, arXiv 2312.06635.

    Example:
        >>> import torch
        >>> from rankone.nn import LightningAttention
        >>> layer = LightningAttention(32, 4)
        >>> x = torch.randn(2, 10, 32)
        >>> y = layer(x)
        >>> first, state = layer(x[:, :9], return_state=True)
        >>> last, state = layer.step(x[:, 9], state)
        >>> torch.allclose(last, y[:, 9], atol=1e-5)
        True
    """

    slopes: Tensor

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        *,
        head_dim: int | None = None,
        num_kv_heads: int | None = None,
        layer_idx: int = 0,
        num_layers: int = 1,
        decay: str = "alibi",
        activation: str = "silu",
        value_activation: str = "silu",
        gate_rank: int | None = None,
        use_output_gate: bool = True,
        norm: str = "srmsnorm",
        scale: float = 1.0,
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        head_dim, num_kv_heads = check_heads(hidden_size, num_heads, head_dim, num_kv_heads)
        if decay not in DECAYS:
            raise ValueError(f"decay must be one of {list(DECAYS)}, got {decay!r}")
        if norm not in (*NORMS, "headwise_rmsnorm"):
            raise ValueError(f"norm must be one of {[*NORMS, 'headwise_rmsnorm']}, got {norm!r}")
        if gate_rank is not None:
            check_size("gate_rank", gate_rank)
        check_integer("layer_idx", layer_idx)
        check_integer("num_layers", num_layers)
        if not 0 <= layer_idx < num_layers:
            raise ValueError(f"layer_idx must be in range({num_layers}), got {layer_idx}")

        self.hidden_size = hidden_size
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads
        self.head_dim = head_dim
        self.layer_idx = layer_idx
        self.num_layers = num_layers
        self.decay = decay
        self.scale = scale
        self._activation = activation_function("activation", activation)
        self._value_activation = activation_function("value_activation", value_activation)

        def linear(inputs: int, outputs: int, bias: bool = bias) -> nn.Linear:
            return nn.Linear(inputs, outputs, bias, device=device, dtype=dtype)

        width = num_heads * head_dim
        kv_width = num_kv_heads * head_dim
        self.q_proj = linear(hidden_size, width)
        self.k_proj = linear(hidden_size, kv_width)
        self.v_proj = linear(hidden_size, kv_width)
        self._init_decay(linear, device, dtype)
        self.headwise_norm = norm == "headwise_rmsnorm"
        if self.headwise_norm:
            self.norm: nn.Module = RMSNorm(head_dim, device=device, dtype=dtype)
        else:
            self.norm = make_norm(norm, width, device=device, dtype=dtype)
        if use_output_gate:
            rank = head_dim if gate_rank is None else gate_rank
            self.g_proj: nn.Module | None = nn.Sequential(
                linear(hidden_size, rank, False), linear(rank, width)
            )
        else:
            self.g_proj = None
        self.o_proj = linear(width, hidden_size)

    def _init_decay(
        self,
        linear: Callable[[int, int], nn.Linear],
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        if self.decay in ("alibi", "linear"):
            self.register_buffer("slopes", self._fixed_slopes(device), persistent=False)
        elif self.decay == "learned":
            slopes = decay_slopes(self.num_kv_heads, kind="alibi")
            start = _inverse_softplus(-slopes)
            self.decay_logit = nn.Parameter(start.to(device=device, dtype=dtype))
        elif self.decay == "token":
            self.a_proj = linear(self.hidden_size, self.num_kv_heads)
        elif self.decay == "channel":
            self.a_proj = linear(self.hidden_size, self.num_kv_heads * self.head_dim)

    def _fixed_slopes(self, device: torch.device | str | None) -> Tensor:
        slopes = decay_slopes(self.num_kv_heads, self.layer_idx, self.num_layers, self.decay)
        return slopes.to(device)

    def _apply(self, fn, recurse=True):
        # Slopes are not part of a checkpoint and stay float32: half precision would change the
        # decays, and a module built on the meta device has none to copy.
        super()._apply(fn, recurse)
        if "slopes" in self._buffers:
            self._buffers["slopes"] = self._fixed_slopes(self.q_proj.weight.device)
        return self

    def forward(
        self,
        x: Tensor,
        *,
        attention_mask: Tensor | None = None,
        state: Tensor | None = None,
        return_state: bool = False,
        cu_seqlens: Tensor | None = None,
        context_parallel: ContextParallel | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Mix a batch of sequences.

        Args:
            x: (batch, time, hidden_size).
            attention_mask: (batch, time), boolean or integer, 1 on tokens and 0 on padding, which
                may stand left or right; padding leaves the state as it is.
            state: (sequences, num_kv_heads, head_dim, head_dim), from an earlier call; default
                zeros.
            return_state: also return the state after the last token.
            cu_seqlens: (sequences + 1,) int32 or int64, starts of packed sequences; batch is 1.
            context_parallel: process group or one-dimensional ``DeviceMesh`` over which time is
                cut, one contiguous shard a rank: ``x`` is this rank's, ``state`` and
                ``cu_seqlens`` are those of the whole on every rank, and so is the state that is
                returned. No mask.

        Returns:
            (batch, time, hidden_size) in the dtype of the projections, and with ``return_state``
            the state, float32 (float64 for a float64 layer).

        Raises:
            ValueError: for an input, mask or state of the wrong shape.
            TypeError: for a mask that is neither boolean nor integer.
            DistributedError: with ``context_parallel``, where ranks disagree or one is gone.
        """
        shard = None
        if context_parallel is not None:
            shard = agree_on_shard(
                x, context_parallel, cu_seqlens, attention_mask,
                lambda whole: self._checked(x, None, whole, state),
                layer_facts(self, x, state, return_state),
            )  # fmt: skip
            cu_seqlens = shard.whole_cu_seqlens
        mask = self._checked(x, attention_mask, cu_seqlens, state)
        q, k, v, log_decay = self._project(x)
        if mask is not None:
            padding = ~mask[..., None, None]
            k = k.masked_fill(padding, 0)
            v = v.masked_fill(padding, 0)
            if log_decay is not None:
                if log_decay.ndim == 1:
                    log_decay = log_decay.expand(*x.shape[:2], -1)
                padding = padding if log_decay.ndim == 4 else padding[..., 0]
                log_decay = log_decay.masked_fill(padding, 0)
        o, final_state = sharded(linear_attention, shard)(
            q,
            k,
            v,
            log_decay,
            scale=self.scale,
            initial_state=state,
            output_final_state=return_state,
            cu_seqlens=cu_seqlens,
        )
        y = self._output(x, o)
        return (y, cast(Tensor, final_state)) if return_state else y

    def step(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mix one token.

        Args:
            x: (batch, hidden_size).
            state: (batch, num_kv_heads, head_dim, head_dim), or None at the start.

        Returns:
            (batch, hidden_size) and the new state.

        Raises:
            ValueError: for an input or state of the wrong shape.
        """
        check_token(x, self.hidden_size)
        self._check_state(state, x.shape[0])
        q, k, v, log_decay = self._project(x)
        o, new_state = linear_attention_step(q, k, v, state, log_decay, scale=self.scale)
        return self._output(x, o), cast(Tensor, new_state)

    def init_state(
        self,
        batch_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Zeros: (batch_size, num_kv_heads, head_dim, head_dim).

        Args:
            batch_size: number of sequences.
            device: default that of the layer.
            dtype: default float32, or float64 for a float64 layer.
        """
        weight = self.q_proj.weight
        if dtype is None:
            dtype = torch.promote_types(weight.dtype, torch.float32)
        shape = (batch_size, self.num_kv_heads, self.head_dim, self.head_dim)
        return torch.zeros(shape, device=weight.device if device is None else device, dtype=dtype)

    def _checked(
        self,
        x: Tensor,
        attention_mask: Tensor | None,
        cu_seqlens: Tensor | None,
        state: Tensor | None,
    ) -> Tensor | None:
        """The mask as booleans, after checking all of it."""
        mask, sequences = check_sequence(x, self.hidden_size, attention_mask, cu_seqlens)
        self._check_state(state, sequences)
        return mask

    def _check_state(self, state: Tensor | None, sequences: int) -> None:
        if state is not None:
            shape = (sequences, self.num_kv_heads, self.head_dim, self.head_dim)
            check_shape("state", state, shape, "sequences, kv heads, key dim, value dim")

    def _project(self, x: Tensor) -> _Projections:
        heads = (self.num_heads, self.head_dim)
        kv_heads = (self.num_kv_heads, self.head_dim)
        q = self._activation(self.q_proj(x)).unflatten(-1, heads)
        k = self._activation(self.k_proj(x)).unflatten(-1, kv_heads)
        v = self._value_activation(self.v_proj(x)).unflatten(-1, kv_heads)
        if q.dtype == torch.float16:
            # Outputs grow with time until the norm; float16 would overflow at 65504.
            q, k, v = q.float(), k.float(), v.float()
        return _Projections(q, k, v, self._log_decay(x))

    def _log_decay(self, x: Tensor) -> Tensor | None:
        if self.decay == "none":
            return None
        if self.decay in ("alibi", "linear"):
            return self.slopes
        if self.decay == "learned":
            logit = self.decay_logit
            return -F.softplus(logit.to(torch.promote_types(logit.dtype, torch.float32)))
        logits = self.a_proj(x)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        log_decay = F.logsigmoid(logits) / GATE_NORMALIZER
        if self.decay == "channel":
            log_decay = log_decay.unflatten(-1, (self.num_kv_heads, self.head_dim))
        return log_decay

    def _output(self, x: Tensor, o: Tensor) -> Tensor:
        o = self.norm(o).flatten(-2) if self.headwise_norm else self.norm(o.flatten(-2))
        if self.g_proj is not None:
            o = o * torch.sigmoid(self.g_proj(x))
        if not torch.is_autocast_enabled(x.device.type):
            o = o.to(x.dtype)
        return self.o_proj(o)

    def extra_repr(self) -> str:
        return (
            f"{self.hidden_size}, {self.num_heads}, head_dim={self.head_dim}, "
            f"num_kv_heads={self.num_kv_heads}, decay={self.decay!r}, scale={self.scale}"
        )


register_mixer("lightning_attention", LightningAttention)
