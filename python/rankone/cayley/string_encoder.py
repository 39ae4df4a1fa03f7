"""Packing of states into 64-bit words, and permutations of packed states by shifts and masks.

Element i stands in bits [w (i mod k), w (i mod k) + w) of word i // k, k = 64 // w elements a word,
lowest bits first; no element straddles two words. With w a power of two this is the layout of the
native engines. Words are int64 tensors whose sign bit is a bit like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from rankone.cayley.errors import check, check_range

WORD_BITS = 64
# Widths that the native engines know; they divide the word.
NATIVE_WIDTHS = (1, 2, 4, 8, 16, 32, 64)


def width_for(max_value: int) -> int:
    """The narrowest native width that holds 0..max_value.

    Example:
        >>> width_for(1), width_for(5), width_for(16)
        (1, 4, 8)
    """
    return next(width for width in NATIVE_WIDTHS if max_value < 1 << width)


def _signed(word: int) -> int:
    """The int64 with the bits of a 64-bit word."""
    return word - (1 << WORD_BITS) if word >> (WORD_BITS - 1) else word


class StringEncoder:
    """Packs vectors of small non-negative integers.

    Args:
        code_width: bits of one element, 1 to 64; elements are in 0..2**code_width - 1 (any int64
            for 64).
        n: elements of a state.

    Example:
        >>> import torch
        >>> encoder = StringEncoder(code_width=4, n=3)
        >>> encoder.encode(torch.tensor([[2, 0, 1]])).tolist()
        [[258]]
    """

    def __init__(self, *, code_width: int = 1, n: int = 1) -> None:
        check_range("code_width", code_width, 1, WORD_BITS)
        check_range("n", n, 1)
        self.w = code_width
        self.n = n
        self.elements_per_word = WORD_BITS // code_width
        self.encoded_length = -(-n // self.elements_per_word)

    def encode(self, s: Tensor) -> Tensor:
        """Pack states.

        Args:
            s: (N, n) integers.

        Returns:
            (N, words) int64.

        Raises:
            CayleyError: for a wrong length or a value that does not fit the width.
        """
        check(
            s.ndim == 2 and s.shape[1] == self.n,
            f"states must have shape (N, {self.n}), got {tuple(s.shape)}",
        )
        s = s.long()
        if self.w < WORD_BITS and s.numel():
            low, high = (int(bound) for bound in torch.aminmax(s))
            check(
                low >= 0 and high < 1 << self.w,
                f"states must have values from 0 to {(1 << self.w) - 1} to be packed in {self.w} "
                f"bits, got {low if low < 0 else high}",
            )
        return self._encode(s)

    def _encode(self, s: Tensor) -> Tensor:
        if self.elements_per_word == 1:
            return s.contiguous()
        k, words = self.elements_per_word, self.encoded_length
        encoded = s.new_zeros(s.shape[0], words)
        for slot in range(k):
            columns = s[:, slot::k]
            encoded[:, : columns.shape[1]] |= columns << (slot * self.w)
        return encoded

    def decode(self, encoded: Tensor) -> Tensor:
        """Unpack states.

        Args:
            encoded: (N, words) int64.

        Returns:
            (N, n) int64.
        """
        check(
            encoded.ndim == 2 and encoded.shape[1] == self.encoded_length,
            f"encoded must have shape (N, {self.encoded_length}), got {tuple(encoded.shape)}",
        )
        if self.elements_per_word == 1 and self.w == WORD_BITS:
            return encoded.clone()
        mask = (1 << self.w) - 1
        decoded = encoded.new_empty(encoded.shape[0], self.n)
        k = self.elements_per_word
        for slot in range(k):
            columns = decoded[:, slot::k]
            columns.copy_((encoded[:, : columns.shape[1]] >> (slot * self.w)) & mask)
        return decoded

    def prepare_shift_to_mask(self, p: Sequence[int]) -> dict[tuple[int, int, int], int]:
        """Terms of a permutation: (source word, target word, left shift) -> mask of the target."""
        k = self.elements_per_word
        terms: dict[tuple[int, int, int], int] = {}
        element = (1 << self.w) - 1
        for target, source in enumerate(p):
            shift = (target % k - source % k) * self.w
            key = (source // k, target // k, shift)
            terms[key] = terms.get(key, 0) | element << (target % k * self.w)
        return terms

    def implement_permutation(self, p: Sequence[int]) -> Callable[[Tensor, Tensor], None]:
        """A function ``f(source, target)`` that permutes packed states.

        ``target`` must hold zeros; both are (N, words) int64.
        """
        check(len(p) == self.n, f"p must have length {self.n}, got {len(p)}")
        if self.elements_per_word == 1:
            columns = torch.tensor(list(p))

            def gather(source: Tensor, target: Tensor) -> None:
                target.copy_(source[:, columns.to(source.device)])

            return gather
        terms = [
            (source, target, shift, _signed(mask))
            for (source, target, shift), mask in self.prepare_shift_to_mask(p).items()
        ]

        def permute(source: Tensor, target: Tensor) -> None:
            for source_word, target_word, shift, mask in terms:
                word = source[:, source_word]
                # The arithmetic right shift fills with copies of the sign bit; they fall outside
                # the mask, which ends `shift` bits below the top.
                word = word << shift if shift > 0 else word >> -shift if shift else word
                target[:, target_word] |= word & mask

        return permute

    def implement_permutation_1d(self, p: Sequence[int]) -> Callable[[np.ndarray], np.ndarray]:
        """A function that permutes states of one word in a numpy array.

        Raises:
            CayleyError: where a state takes more than one word.
        """
        check(
            self.encoded_length == 1,
            f"n must fit one word of {self.elements_per_word} elements, got {self.n}",
        )
        permute = self.implement_permutation(p)

        def apply(states: np.ndarray) -> np.ndarray:
            source = torch.from_numpy(np.ascontiguousarray(states, dtype=np.int64))[:, None]
            target = torch.zeros_like(source)
            permute(source, target)
            return target[:, 0].numpy()

        return apply


__all__ = ["NATIVE_WIDTHS", "StringEncoder", "width_for"]
