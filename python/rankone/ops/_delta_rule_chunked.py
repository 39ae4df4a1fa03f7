"""The delta rule and its gated forms in chunks of time, in plain torch on any device.

The same algorithm as the kernels, with C tokens a chunk, entry state S0 and products of decays W
within the chunk, w from its start, w' to its end::

    M = stril(sum_d k_rd k_sd W_rsd)    P = scale * tril(sum_d q_rd k_sd W_rsd)
    R = V - (w K) S0                    U = (I + diag(beta) M)^-1 (beta R)
    O = scale * (w Q) S0 + P U          S = w_C S0 + (w' K)^T U

A chunk of one token is the recurrence itself, which serves ``mode="recurrent"`` and the step. The
backward pass keeps the state at the start of every span of chunks, about the square root of their
number, and recomputes the rest. A log-decay's gradient is summed over the pairs of tokens that its
decay lies between, which holds no differences: after a reset it is exactly 0.

Equations: arXiv 2406.06484, 2412.06464 and 2510.26692; the backward pass was derived for this
project. Inside, tensors of a chunk are (B, value heads, C, dim); q and k are repeated for the value
heads that share them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from rankone.ops._chunks import (
    ChunkDecay,
    chunk_length,
    chunks,
    decay_factors,
    left_gradient,
    packed,
    products,
    right_gradient,
)

# The chunk size that means one token at a time.
RECURRENT = 1


@dataclass
class Inputs:
    """What the forward and the backward pass read; the fields of rankone::DeltaRuleInputs."""

    q: Tensor
    k: Tensor
    v: Tensor
    beta: Tensor
    log_decay: Tensor | None
    initial_state: Tensor | None
    cu_seqlens: Tensor | None
    scale: float
    use_qk_l2norm: bool
    l2norm_eps: float
    chunk_size: int


@dataclass
class Gradients:
    """Tensors that :func:`backward` fills; None where a gradient is not wanted."""

    q: Tensor
    k: Tensor
    v: Tensor
    beta: Tensor
    log_decay: Tensor | None
    initial_state: Tensor | None

    def tensors(self) -> tuple[Tensor | None, ...]:
        return self.q, self.k, self.v, self.beta, self.log_decay, self.initial_state


def _normalized(rows: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x (sum x^2 + eps)^-1/2 and that factor."""
    factor = (rows.square().sum(-1, keepdim=True) + eps).rsqrt()
    return rows * factor, factor


def _normalized_gradient(grad: Tensor, unit: Tensor, factor: Tensor) -> Tensor:
    return factor * (grad - unit * (unit * grad).sum(-1, keepdim=True))


class _Chunk:
    """One chunk of one sequence per batch row, in the compute dtype, and its two matrices."""

    def __init__(self, inputs: Inputs, factors: Tensor, time: slice, compute: torch.dtype):
        self.time = time
        self.group = inputs.v.shape[2] // inputs.q.shape[2]
        self.scale = inputs.scale
        query, key, self.value = (
            tensor[:, time].to(compute).transpose(1, 2) for tensor in (inputs.q, inputs.k, inputs.v)
        )
        self.norms: tuple[Tensor, Tensor] | None = None
        if inputs.use_qk_l2norm:
            query, query_factor = _normalized(query, inputs.l2norm_eps)
            key, key_factor = _normalized(key, inputs.l2norm_eps)
            self.norms = query_factor, key_factor
        # Before the heads are repeated, for the gradient of the normalisation.
        self.query_rows, self.key_rows = query, key
        self.query = self._repeat(query)
        self.key = self._repeat(key)
        self.beta = inputs.beta[:, time].to(compute).transpose(1, 2)[..., None]
        self.decay = ChunkDecay.of(factors[:, time], compute)
        self.key_products = products(self.key, self.key, self.decay.within).tril(-1)
        self.system = self.beta * self.key_products
        self.past_key = self.decay.from_start * self.key
        self.carried_key = self.decay.to_end * self.key

    def _repeat(self, rows: Tensor) -> Tensor:
        return rows if self.group == 1 else rows.repeat_interleave(self.group, dim=1)

    def query_products(self) -> Tensor:
        return self.scale * products(self.query, self.key, self.decay.within)

    def past_query(self) -> Tensor:
        return self.scale * self.decay.from_start * self.query

    def residual(self, state: Tensor) -> Tensor:
        return self.value - self.past_key @ state

    def updates(self, residual: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(
            self.system, self.beta * residual, upper=False, unitriangular=True
        )

    def next_state(self, state: Tensor, updates: Tensor) -> Tensor:
        return self.decay.whole[..., None] * state + self.carried_key.mT @ updates

    def backward(
        self, state: Tensor, output_grad: Tensor, state_grad: Tensor, gradients: Gradients
    ) -> Tensor:
        """Fill the chunk's rows of ``gradients``; returns the gradient of the entry state."""
        within = self.decay.within
        residual = self.residual(state)
        updates = self.updates(residual)
        past_query = self.past_query()

        update_grad = self.query_products().mT @ output_grad + self.carried_key @ state_grad
        query_product_grad = (output_grad @ updates.mT).tril()
        past_query_grad = output_grad @ state.mT
        carried_grad = updates @ state_grad.mT
        solved = torch.linalg.solve_triangular(
            self.system.mT, update_grad, upper=True, unitriangular=True
        )
        system_grad = -(solved @ updates.mT).tril(-1)
        value_grad = self.beta * solved
        key_product_grad = self.beta * system_grad
        past_key_grad = -(value_grad @ state.mT)
        entry_grad = self.decay.whole[..., None] * state_grad
        entry_grad = entry_grad + past_query.mT @ output_grad - self.past_key.mT @ value_grad

        scaled_grad = self.scale * query_product_grad
        query_grad = left_gradient(scaled_grad, self.key, within)
        query_grad += self.scale * self.decay.from_start * past_query_grad
        key_grad = left_gradient(key_product_grad, self.key, within)
        key_grad += right_gradient(key_product_grad, self.key, within)
        key_grad += right_gradient(scaled_grad, self.query, within)
        key_grad += self.decay.from_start * past_key_grad + self.decay.to_end * carried_grad

        time = self.time
        gradients.q[:, time] = self._input_gradient(query_grad, self.query_rows, 0)
        gradients.k[:, time] = self._input_gradient(key_grad, self.key_rows, 1)
        gradients.v[:, time] = value_grad.transpose(1, 2)
        beta_grad = (solved * residual).sum(-1) + (system_grad * self.key_products).sum(-1)
        gradients.beta[:, time] = beta_grad.transpose(1, 2)
        if gradients.log_decay is not None:
            past = past_query_grad * past_query + past_key_grad * self.past_key
            carried = carried_grad * self.carried_key
            through = self.decay.whole * (state * state_grad).sum(-1)
            if within.shape[-1] == 1:
                pairs = key_product_grad * self.key_products
                pairs += scaled_grad * products(self.query, self.key, within)
                pairs = pairs[..., None]
                past, carried = past.sum(-1, keepdim=True), carried.sum(-1, keepdim=True)
                # The one decay multiplies every row of the state.
                through = through.sum(-1, keepdim=True)
            else:
                left = key_product_grad[..., None] * self.key[..., :, None, :]
                left += scaled_grad[..., None] * self.query[..., :, None, :]
                pairs = left * self.key[..., None, :, :] * within
            decay_grad = _between(pairs) + _from_here(past) + _before(carried)
            decay_grad = (decay_grad + through[..., None, :]).transpose(1, 2)
            gradients.log_decay[:, time] = decay_grad.reshape(gradients.log_decay[:, time].shape)
        return entry_grad

    def _input_gradient(self, grad: Tensor, unit: Tensor, which: int) -> Tensor:
        """From the repeated, normalised heads back to (B, C, heads, key_dim) of the input."""
        if self.group > 1:
            grad = grad.unflatten(1, (-1, self.group)).sum(2)
        if self.norms is not None:
            grad = _normalized_gradient(grad, unit, self.norms[which])
        return grad.transpose(1, 2)


def _from_here(rows: Tensor) -> Tensor:
    """sum_{r >= t} of (..., C, .)."""
    return rows.flip(-2).cumsum(-2).flip(-2)


def _before(rows: Tensor) -> Tensor:
    """sum_{s < t} of (..., C, .)."""
    return torch.nn.functional.pad(rows.cumsum(-2)[..., :-1, :], (0, 0, 1, 0))


def _between(pairs: Tensor) -> Tensor:
    """sum_{s < t <= r} of pairs (..., r, s, .): those with the decay of t between them."""
    reaching = pairs.flip(-3).cumsum(-3).flip(-3).cumsum(-2)
    spanning = reaching.diagonal(-1, dim1=-3, dim2=-2).mT
    return torch.nn.functional.pad(spanning, (0, 0, 1, 0))


class _Sweep:
    """The chunks of one sequence per batch row, read in time order or against it."""

    def __init__(self, inputs: Inputs, factors: Tensor, time: slice, compute: torch.dtype):
        self.inputs, self.factors, self.compute = inputs, factors, compute
        length = chunk_length(inputs.chunk_size, factors.shape[-1])
        self.slices = [
            slice(time.start + piece.start, time.start + piece.stop)
            for piece in chunks(time.stop - time.start, length)
        ]

    def chunk(self, index: int) -> _Chunk:
        return _Chunk(self.inputs, self.factors, self.slices[index], self.compute)

    def _advance(self, index: int, state: Tensor) -> Tensor:
        chunk = self.chunk(index)
        return chunk.next_state(state, chunk.updates(chunk.residual(state)))

    def entry_states_reversed(self, state: Tensor) -> Iterator[tuple[int, Tensor]]:
        """(index, entry state) of the chunks, last first, each recomputed from its span's."""
        count = len(self.slices)
        span = max(1, math.isqrt(count))
        starts = []
        for index in range(count):
            if index % span == 0:
                starts.append(state)
            if index + 1 < count:
                state = self._advance(index, state)
        for number in reversed(range(len(starts))):
            first, last = number * span, min((number + 1) * span, count) - 1
            states = [starts[number]]
            for index in range(first, last):
                states.append(self._advance(index, states[-1]))
            for index in range(last, first - 1, -1):
                yield index, states[index - first]


def _sweeps(inputs: Inputs, compute: torch.dtype) -> Iterator[tuple[slice, Tensor, _Sweep]]:
    """(rows of the states, initial states, sweep): one, or one a packed sequence."""
    batch, time, value_heads, value_dim = inputs.v.shape
    key_dim = inputs.k.shape[-1]
    factors = decay_factors(inputs.log_decay, inputs.v[..., :1].expand(-1, -1, -1, key_dim))
    initial = inputs.initial_state
    for span, rows in packed(time, inputs.cu_seqlens):
        if initial is None:
            shape = (batch, value_heads, key_dim, value_dim)
            state = inputs.k.new_zeros(shape, dtype=compute)
        else:
            state = initial[rows].to(compute)
        yield rows, state, _Sweep(inputs, factors, span, compute)


def forward(inputs: Inputs, output: Tensor, final_state: Tensor) -> None:
    """Fill ``output`` and ``final_state``, whose dtype is the one computed in."""
    for rows, state, sweep in _sweeps(inputs, final_state.dtype):
        for index, time in enumerate(sweep.slices):
            chunk = sweep.chunk(index)
            updates = chunk.updates(chunk.residual(state))
            result = chunk.past_query() @ state + chunk.query_products() @ updates
            output[:, time] = result.transpose(1, 2)
            state = chunk.next_state(state, updates)
        final_state[rows] = state


def backward(
    inputs: Inputs,
    output_grad: Tensor,
    final_state_grad: Tensor | None,
    compute: torch.dtype,
    gradients: Gradients,
) -> None:
    """Fill ``gradients``; the incoming ones are shaped as the results of :func:`forward`."""
    for rows, state, sweep in _sweeps(inputs, compute):
        state_grad = torch.zeros_like(state)
        if final_state_grad is not None:
            state_grad = final_state_grad[rows].to(compute)
        for index, entry in sweep.entry_states_reversed(state):
            chunk = sweep.chunk(index)
            grad = output_grad[:, chunk.time].to(compute).transpose(1, 2)
            state_grad = chunk.backward(entry, grad, state_grad, gradients)
        if gradients.initial_state is not None:
            gradients.initial_state[rows] = state_grad
