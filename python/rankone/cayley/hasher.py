"""64-bit hashes of packed states.

A state of one word is its own hash. Longer states are chained through a bijective mix of
multiply-xorshift rounds (the finaliser of SplitMix64, Steele, Lea and Flood 2014). Hashes name
states in results; whether two states are equal is always decided on their words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from rankone.cayley.cayley_graph import CayleyGraph

_MASK = (1 << 64) - 1
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_INCREMENT = 0x9E3779B97F4A7C15
_DEFAULT_SEED = 0x5EED


def _signed(word: int) -> int:
    word &= _MASK
    return word - (1 << 64) if word >> 63 else word


def _shift_right(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix(x: Tensor) -> Tensor:
    """A bijection of int64 under which every input bit reaches every output bit."""
    x = (x ^ _shift_right(x, 30)) * _signed(_MULTIPLIERS[0])
    x = (x ^ _shift_right(x, 27)) * _signed(_MULTIPLIERS[1])
    return x ^ _shift_right(x, 31)


def hash_words(words: Tensor, seed: int) -> Tensor:
    """Hash rows of words (N, W) by chaining :func:`mix`; (N,) int64."""
    value = torch.full_like(words[:, 0], seed)
    for word in words.unbind(1):
        value = mix((value ^ word) + _signed(_INCREMENT))
    return value


class StateHasher:
    """Hashes the states of a graph.

    Args:
        graph: its encoding is read.
        random_seed: another seed gives other hashes of states longer than one word, and never
            other results; None is a fixed seed.
        chunk_size: states hashed at a time.

    Attributes:
        is_identity: whether a state is one word, which is then its hash.
    """

    def __init__(
        self, graph: CayleyGraph, random_seed: int | None, chunk_size: int = 2**18
    ) -> None:
        self.is_identity = graph.encoded_state_size == 1
        self.chunk_size = chunk_size
        seed = _DEFAULT_SEED if random_seed is None else (random_seed + 1) * _INCREMENT
        self._seed = int(mix(torch.tensor(_signed(seed))))

    def make_hashes(self, states: Tensor) -> Tensor:
        """Hashes of encoded states.

        Args:
            states: (N, words) int64.

        Returns:
            (N,) int64.
        """
        if self.is_identity:
            return states.reshape(-1)
        hashes = states.new_empty(states.shape[0])
        for first in range(0, states.shape[0], self.chunk_size):
            chunk = slice(first, first + self.chunk_size)
            hashes[chunk] = hash_words(states[chunk], self._seed)
        return hashes
