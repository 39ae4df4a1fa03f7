"""Memory rules: how one memory of :class:`rankone.nn.MixtureOfMemories` reads and writes.

A rule sees packed sequences of tokens, and nothing of routing. The built-in ones are the delta
rule and linear attention with and without decay, on their ops.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from rankone.ops import delta_rule, delta_rule_step, linear_attention, linear_attention_step


@runtime_checkable
class MemoryRule(Protocol):
    """What a memory does with queries, keys, values and further projections of its tokens.

    ``extras`` names the further projections, each with its width a head. They arrive in a mapping
    under the same names, as (1, tokens, heads, width), or (batch, heads, width) in ``step``. Two
    names are gates: ``"b"``, of width 1, arrives as a write strength in (0, 1), or (0, 2) with
    ``allow_neg_eigval``, without the last axis; ``"a"``, of width 1 or ``key_dim``, as a log-decay,
    without the last axis where the width is 1. Gates are float32 (float64 for float64 layers).
    """

    @property
    def extras(self) -> Mapping[str, int]:
        """Width of every projection of the input that the rule asks for, by name."""
        ...

    def state_shape(self, heads: int, key_dim: int, value_dim: int) -> tuple[int, ...]:
        """Shape of the state of one sequence; states start as zeros."""
        ...

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        extras: Mapping[str, Tensor],
        *,
        initial_state: Tensor | None,
        cu_seqlens: Tensor,
        output_final_state: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Outputs (1, tokens, heads, value_dim) and the states (sequences, *state_shape) or None.

        q, k are (1, tokens, heads, key_dim), v (1, tokens, heads, value_dim), packed sequences;
        a sequence without tokens keeps its state.
        """
        ...

    def step(
        self, q: Tensor, k: Tensor, v: Tensor, extras: Mapping[str, Tensor], state: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One token of every sequence: (batch, heads, value_dim) and the new states."""
        ...


@dataclass(frozen=True)
class DeltaMemory:
    """The delta rule, with queries and keys of norm 1.

    Attributes:
        decay_width: 0 without decay, 1 for one decay a head, ``key_dim`` for one a channel.
    """

    decay_width: int = 0

    @property
    def extras(self) -> Mapping[str, int]:
        return {"b": 1, "a": self.decay_width} if self.decay_width else {"b": 1}

    def state_shape(self, heads: int, key_dim: int, value_dim: int) -> tuple[int, ...]:
        return heads, key_dim, value_dim

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        extras: Mapping[str, Tensor],
        *,
        initial_state: Tensor | None,
        cu_seqlens: Tensor,
        output_final_state: bool,
    ) -> tuple[Tensor, Tensor | None]:
        return delta_rule(
            q,
            k,
            v,
            extras["b"],
            log_decay=extras.get("a"),
            initial_state=initial_state,
            cu_seqlens=cu_seqlens,
            output_final_state=output_final_state,
            use_qk_l2norm=True,
        )

    def step(
        self, q: Tensor, k: Tensor, v: Tensor, extras: Mapping[str, Tensor], state: Tensor
    ) -> tuple[Tensor, Tensor]:
        return delta_rule_step(
            q, k, v, extras["b"], state, log_decay=extras.get("a"), use_qk_l2norm=True
        )


@dataclass(frozen=True)
class LinearMemory:
    """Linear attention: every write adds.

    Attributes:
        decays: whether the memory forgets, by one decay a token and head.
    """

    decays: bool = False

    @property
    def extras(self) -> Mapping[str, int]:
        return {"a": 1} if self.decays else {}

    def state_shape(self, heads: int, key_dim: int, value_dim: int) -> tuple[int, ...]:
        return heads, key_dim, value_dim

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        extras: Mapping[str, Tensor],
        *,
        initial_state: Tensor | None,
        cu_seqlens: Tensor,
        output_final_state: bool,
    ) -> tuple[Tensor, Tensor | None]:
        q, k, v = _unbounded(q, k, v)
        o, state = linear_attention(
            q,
            k,
            v,
            extras.get("a"),
            initial_state=initial_state,
            cu_seqlens=cu_seqlens,
            output_final_state=output_final_state,
        )
        return o, cast("Tensor | None", state)

    def step(
        self, q: Tensor, k: Tensor, v: Tensor, extras: Mapping[str, Tensor], state: Tensor
    ) -> tuple[Tensor, Tensor]:
        q, k, v = _unbounded(q, k, v)
        o, new_state = linear_attention_step(q, k, v, state, extras.get("a"))
        return o, cast(Tensor, new_state)


def _unbounded(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """float16 as float32: outputs grow with time until the norm, and would pass 65504."""
    if q.dtype == torch.float16:
        return q.float(), k.float(), v.float()
    return q, k, v


# Projections that the layer has itself.
RESERVED_NAMES = ("q", "k", "v", "g", "o")

# Rules by name, each made for a key width.
MEMORY_RULES: dict[str, Callable[[int], MemoryRule]] = {
    "gated_delta_rule": lambda key_dim: DeltaMemory(1),
    "gated_delta_rule_channel": lambda key_dim: DeltaMemory(key_dim),
    "delta_rule": lambda key_dim: DeltaMemory(),
    "linear_attention": lambda key_dim: LinearMemory(),
    "gated_linear_attention": lambda key_dim: LinearMemory(decays=True),
}


def make_memory_rule(rule: str | MemoryRule, key_dim: int) -> MemoryRule:
    """The rule of this name for keys of this width, or the given rule itself.

    Args:
        rule: one of the names of :class:`MixtureOfMemories`, or a :class:`MemoryRule`.
        key_dim: width of a key.

    Returns:
        The rule.

    Raises:
        ValueError: for an unknown name, extras called as the layer's own projections, or gates of
            a width that :class:`MemoryRule` does not have.
        TypeError: for an object without the methods of :class:`MemoryRule`.

    Example:
        >>> from rankone.nn import make_memory_rule
        >>> make_memory_rule("gated_delta_rule_channel", 8).extras
        {'b': 1, 'a': 8}
    """
    if isinstance(rule, str):
        if rule not in MEMORY_RULES:
            raise ValueError(f"memory_rule must be one of {sorted(MEMORY_RULES)}, got {rule!r}")
        return MEMORY_RULES[rule](key_dim)
    if isinstance(rule, type) or not isinstance(rule, MemoryRule):
        raise TypeError(
            "memory_rule must be a name or an object with extras, state_shape, forward and step "
            f"(see rankone.nn.MemoryRule), got {getattr(rule, '__name__', type(rule).__name__)}"
        )
    taken = sorted(set(rule.extras) & set(RESERVED_NAMES))
    if taken:
        raise ValueError(f"extras of memory_rule must not be called {', '.join(taken)}")
    if rule.extras.get("b", 1) != 1 or rule.extras.get("a", 1) not in (1, key_dim):
        raise ValueError(
            f"extras of memory_rule must have width 1 for 'b' and 1 or {key_dim} for 'a', "
            f"got {dict(rule.extras)}"
        )
    return rule
