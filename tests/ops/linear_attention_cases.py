"""Inputs shared by the tests of linear attention on every backend."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .sequence_cases import (
    GRADIENT_FACTOR,
    TOLERANCE,
    SequenceCase,
    decay_gradient_tolerance,
    relative_error,
)

__all__ = [
    "DECAY_FORMS", "GRADIENT_FACTOR", "SHAPES", "TOLERANCE", "Case", "decay_gradient_tolerance",
    "relative_error",
]  # fmt: skip

DECAY_FORMS = ("none", "head", "token", "channel")


@dataclass
class Case(SequenceCase):
    """Random inputs of one shape; tensors that get gradients require them."""

    batch: int = 2
    time: int = 37
    heads: int = 2
    kv_heads: int = 2
    key_dim: int = 5
    value_dim: int = 7
    decay: str = "none"
    dtype: torch.dtype = torch.float64
    normalize: bool = False
    with_state: bool = True
    cu_seqlens: tuple[int, ...] | None = None
    seed: int = 0
    rounded_to: torch.dtype | None = None  # what the incoming gradients are rounded to

    def __post_init__(self):
        normal = self.normal()
        state_dtype = torch.float64 if self.dtype == torch.float64 else torch.float32
        batch, time, kv_heads = self.batch, self.time, self.kv_heads
        self.q = normal(batch, time, self.heads, self.key_dim)
        self.k = normal(batch, time, kv_heads, self.key_dim)
        self.v = normal(batch, time, kv_heads, self.value_dim)
        if self.normalize:
            self.q, self.k = self.q.abs() + 0.1, self.k.abs() + 0.1
        shape = {
            "none": None,
            "head": (kv_heads,),
            "token": (batch, time, kv_heads),
            "channel": (batch, time, kv_heads, self.key_dim),
        }[self.decay]
        self.log_decay = None
        if shape is not None:
            gates = normal(*shape, dtype=state_dtype)
            self.log_decay = torch.nn.functional.logsigmoid(gates + 1)
        sequences = batch if self.cu_seqlens is None else len(self.cu_seqlens) - 1
        self.offsets = None if self.cu_seqlens is None else torch.tensor(self.cu_seqlens)
        self.state = None
        if self.with_state:
            state = normal(sequences, kv_heads, self.key_dim, self.value_dim, dtype=state_dtype)
            normalizer = normal(sequences, kv_heads, self.key_dim, dtype=state_dtype).abs()
            self.state = (state, normalizer) if self.normalize else state
        for tensor in self.differentiable():
            tensor.requires_grad_()

    def states(self) -> tuple[Tensor, ...]:
        if self.state is None:
            return ()
        return self.state if isinstance(self.state, tuple) else (self.state,)

    def differentiable(self) -> tuple[Tensor, ...]:
        decay = () if self.log_decay is None else (self.log_decay,)
        return (self.q, self.k, self.v, *decay, *self.states())

    def run(self, function, **options) -> tuple[Tensor, ...]:
        """The output and the tensors of the final state."""
        output, state = function(
            self.q, self.k, self.v, self.log_decay, initial_state=self.state,
            output_final_state=True, normalize=self.normalize, cu_seqlens=self.offsets, **options,
        )  # fmt: skip
        return (output, *state) if isinstance(state, tuple) else (output, state)

    def in_double(self) -> "Case":
        """The same numbers, held in float64."""
        other = replace(self, dtype=torch.float64, rounded_to=self.dtype)
        other.q, other.k, other.v = (
            tensor.detach().double().requires_grad_() for tensor in (self.q, self.k, self.v)
        )
        if self.log_decay is not None:
            other.log_decay = self.log_decay.detach().double().requires_grad_()
        states = tuple(state.detach().double().requires_grad_() for state in self.states())
        other.state = (states if self.normalize else states[0]) if states else None
        return other


# A sample of every axis: lengths around the chunk sizes, dims that differ and fit no tile, grouped
# heads, packed sequences with empty ones among them.
SHAPES = (
    {"time": 1},
    {"time": 16, "key_dim": 16, "value_dim": 16},
    {"time": 63, "key_dim": 1, "value_dim": 1},
    {"time": 64, "key_dim": 7, "value_dim": 48},
    {"time": 65, "heads": 6, "kv_heads": 2},
    {"time": 129, "key_dim": 80, "value_dim": 96, "batch": 1},
    {"time": 40, "key_dim": 128, "value_dim": 192, "batch": 1},
    {"time": 33, "key_dim": 256, "value_dim": 256, "batch": 1, "heads": 1, "kv_heads": 1},
    {"time": 90, "batch": 1, "cu_seqlens": (0, 0, 17, 17, 81, 90), "heads": 4, "kv_heads": 2},
    {"time": 70, "with_state": False, "heads": 4, "kv_heads": 1},
)
