"""Inputs shared by the tests of the delta rule on every backend."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from .sequence_cases import SequenceCase

DECAY_FORMS = ("none", "token", "channel")


@dataclass
class Case(SequenceCase):
    """Random inputs of one shape; tensors that get gradients require them.

    Keys have norm 1 up to the rounding of the dtype, unless the op normalises; the write strengths
    are uniform in [0, largest_beta].
    """

    batch: int = 2
    time: int = 37
    heads: int = 2
    value_heads: int = 2
    key_dim: int = 5
    value_dim: int = 7
    decay: str = "none"
    dtype: torch.dtype = torch.float64
    with_state: bool = True
    cu_seqlens: tuple[int, ...] | None = None
    largest_beta: float = 1.0
    use_qk_l2norm: bool = False
    seed: int = 0
    rounded_to: torch.dtype | None = None  # what the incoming gradients are rounded to

    def __post_init__(self):
        normal = self.normal()
        state_dtype = torch.float64 if self.dtype == torch.float64 else torch.float32
        batch, time, value_heads = self.batch, self.time, self.value_heads
        self.q = normal(batch, time, self.heads, self.key_dim)
        keys = normal(batch, time, self.heads, self.key_dim, dtype=torch.float64)
        keys = keys if self.use_qk_l2norm else functional.normalize(keys, dim=-1)
        self.k = keys.to(self.dtype)
        self.v = normal(batch, time, value_heads, self.value_dim)
        strengths = normal(batch, time, value_heads, dtype=torch.float64)
        # The normal distribution function makes them uniform.
        self.beta = (self.largest_beta * torch.special.ndtr(strengths)).to(state_dtype)
        shape = {
            "none": None,
            "token": (batch, time, value_heads),
            "channel": (batch, time, value_heads, self.key_dim),
        }[self.decay]
        self.log_decay = None
        if shape is not None:
            self.log_decay = functional.logsigmoid(normal(*shape, dtype=state_dtype) + 1)
        sequences = batch if self.cu_seqlens is None else len(self.cu_seqlens) - 1
        self.offsets = None if self.cu_seqlens is None else torch.tensor(self.cu_seqlens)
        self.state = None
        if self.with_state:
            state_shape = (sequences, value_heads, self.key_dim, self.value_dim)
            self.state = normal(*state_shape, dtype=state_dtype)
        for tensor in self.differentiable():
            tensor.requires_grad_()

    def tokens(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.q, self.k, self.v, self.beta

    def at(self, rows) -> tuple[Tensor, ...]:
        """q, k, v, beta and log_decay at some times."""
        decay = None if self.log_decay is None else self.log_decay[:, rows]
        return (*(tensor[:, rows] for tensor in self.tokens()), decay)

    def differentiable(self) -> tuple[Tensor, ...]:
        return tuple(t for t in (*self.tokens(), self.log_decay, self.state) if t is not None)

    def run(self, function, **options) -> tuple[Tensor, Tensor]:
        """The output and the final state."""
        return function(
            *self.tokens(), log_decay=self.log_decay, initial_state=self.state,
            output_final_state=True, cu_seqlens=self.offsets, use_qk_l2norm=self.use_qk_l2norm,
            **options,
        )  # fmt: skip

    def in_double(self) -> "Case":
        """The same numbers, held in float64."""
        other = replace(self, dtype=torch.float64, rounded_to=self.dtype)
        for name in ("q", "k", "v", "beta", "log_decay", "state"):
            tensor = getattr(self, name)
            if tensor is not None:
                setattr(other, name, tensor.detach().double().requires_grad_())
        return other


# A sample of every axis: lengths around the chunk sizes, dims that differ and fit no tile, grouped
# value heads, packed sequences with empty ones among them, normalisation in the op.
SHAPES = (
    {"time": 1},
    {"time": 16, "key_dim": 16, "value_dim": 16},
    {"time": 63, "key_dim": 1, "value_dim": 1},
    {"time": 64, "key_dim": 7, "value_dim": 48, "largest_beta": 2.0},
    {"time": 65, "heads": 2, "value_heads": 6},
    {"time": 129, "key_dim": 80, "value_dim": 96, "batch": 1},
    {"time": 40, "key_dim": 128, "value_dim": 192, "batch": 1, "use_qk_l2norm": True},
    {"time": 33, "key_dim": 256, "value_dim": 256, "batch": 1, "heads": 1, "value_heads": 1},
    {"time": 90, "batch": 1, "cu_seqlens": (0, 0, 17, 17, 81, 90), "heads": 2, "value_heads": 4},
    {"time": 70, "with_state": False, "heads": 1, "value_heads": 4, "use_qk_l2norm": True},
)
