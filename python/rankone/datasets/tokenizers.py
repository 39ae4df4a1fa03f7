"""Tokenizers over bytes: one token a byte, and byte-pair encoding.

Both encode any text without loss: ``decode(encode(text))`` gives it back.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

NUM_BYTES = 256


class ByteTokenizer:
    """One token a byte.

    Example:
        >>> from rankone.datasets import ByteTokenizer
        >>> ByteTokenizer().encode("hi")
        tensor([104, 105])
    """

    vocab_size = NUM_BYTES

    def encode(self, text: str | bytes) -> Tensor:
        """(n,) int64, one entry a byte of the text in UTF-8."""
        data = _as_bytes(text)
        return torch.from_numpy(np.frombuffer(data, np.uint8).astype(np.int64))

    def decode_bytes(self, tokens: Tensor) -> bytes:
        """The bytes of (n,) tokens."""
        _check_tokens(tokens, self.vocab_size)
        return bytes(tokens.tolist())

    def decode(self, tokens: Tensor) -> str:
        """The text of (n,) tokens; bytes that are not UTF-8 read as the replacement character."""
        return self.decode_bytes(tokens).decode(errors="replace")


# Merges stay inside these pieces: a word or number with the space before it, punctuation, white
# space.
_PIECES = re.compile(rb" ?[A-Za-z_\x80-\xff]+| ?[0-9]+| ?[^\sA-Za-z0-9_\x80-\xff]+|\s+")


class BytePairTokenizer:
    """Byte-pair encoding: tokens 0 to 255 are the bytes, every further one joins two earlier ones.

    Args:
        merges: pairs of tokens in the order in which they are joined.

    Source: "Neural Machine Translation of Rare Words with Subword Units", arXiv 1508.07909.

    Example:
        >>> from rankone.datasets import BytePairTokenizer
        >>> tokenizer = BytePairTokenizer.train(b"low lower lowest", 258)
        >>> tokenizer.decode(tokenizer.encode("slow")), len(tokenizer.encode("slow"))
        ('slow', 2)
    """

    def __init__(self, merges: list[tuple[int, int]]) -> None:
        self._bytes = [bytes([value]) for value in range(NUM_BYTES)]
        for left, right in merges:
            if not 0 <= left < len(self._bytes) or not 0 <= right < len(self._bytes):
                raise ValueError(f"merges must join earlier tokens, got {(left, right)}")
            self._bytes.append(self._bytes[left] + self._bytes[right])
        self.merges = list(merges)
        self._token_of = {pair: NUM_BYTES + rank for rank, pair in enumerate(merges)}
        self._piece_tokens: dict[bytes, list[int]] = {}

    @property
    def vocab_size(self) -> int:
        """Number of tokens: 256 bytes and the merges."""
        return len(self._bytes)

    @classmethod
    def train(cls, text: str | bytes, vocab_size: int) -> BytePairTokenizer:
        """Learn merges: the most frequent pair is joined, again and again.

        Args:
            text: what to count pairs in.
            vocab_size: tokens in all, at least 256. There are fewer when no pair occurs twice.

        Raises:
            ValueError: for a vocabulary below 256.
        """
        if vocab_size < NUM_BYTES:
            raise ValueError(f"vocab_size must be at least {NUM_BYTES}, got {vocab_size}")
        pieces = Counter(_PIECES.findall(_as_bytes(text)))
        symbols = np.frombuffer(b"".join(pieces), np.uint8).astype(np.int64)
        lengths = np.fromiter(map(len, pieces), np.int64, len(pieces))
        piece = np.repeat(np.arange(len(pieces)), lengths)
        weight = np.fromiter(pieces.values(), np.int64, len(pieces))

        merges: list[tuple[int, int]] = []
        for token in range(NUM_BYTES, vocab_size):
            inside = piece[:-1] == piece[1:]
            codes = symbols[:-1] * vocab_size + symbols[1:]
            counts = np.bincount(codes[inside], weights=weight[piece[:-1][inside]])
            if counts.size == 0 or counts.max() < 2:
                break
            best = int(counts.argmax())
            left, right = divmod(best, vocab_size)
            merges.append((left, right))
            starts = np.flatnonzero(inside & (codes == best))
            if left == right:
                starts = _without_overlaps(starts)
            symbols[starts] = token
            keep = np.ones(symbols.size, dtype=bool)
            keep[starts + 1] = False
            symbols, piece = symbols[keep], piece[keep]
        return cls(merges)

    def encode(self, text: str | bytes) -> Tensor:
        """(n,) int64 tokens of a text."""
        tokens: list[int] = []
        for piece in _PIECES.findall(_as_bytes(text)):
            known = self._piece_tokens.get(piece)
            if known is None:
                known = self._piece_tokens[piece] = self._encode_piece(piece)
            tokens.extend(known)
        return torch.tensor(tokens, dtype=torch.int64)

    def decode_bytes(self, tokens: Tensor) -> bytes:
        """The bytes of (n,) tokens."""
        _check_tokens(tokens, self.vocab_size)
        return b"".join(self._bytes[token] for token in tokens.tolist())

    def decode(self, tokens: Tensor) -> str:
        """The text of (n,) tokens; bytes that are not UTF-8 read as the replacement character."""
        return self.decode_bytes(tokens).decode(errors="replace")

    def _encode_piece(self, piece: bytes) -> list[int]:
        tokens = list(piece)
        while True:
            joined = [self._token_of.get(pair) for pair in pairwise(tokens)]
            token = min((entry for entry in joined if entry is not None), default=None)
            if token is None:
                return tokens
            at = joined.index(token)
            tokens[at : at + 2] = [token]


def _without_overlaps(starts: np.ndarray) -> np.ndarray:
    """Of runs of neighbouring places, every second one from the run's first."""
    if starts.size == 0:
        return starts
    run = np.concatenate([[0], np.cumsum(np.diff(starts) != 1)])
    first = np.searchsorted(run, run)
    return starts[(np.arange(starts.size) - first) % 2 == 0]


def _as_bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


def _check_tokens(tokens: Tensor, vocab_size: int) -> None:
    if tokens.ndim != 1:
        raise ValueError(f"tokens must be 1-D, got shape {tuple(tokens.shape)}")
    if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < vocab_size:
        raise ValueError(
            f"tokens must be between 0 and {vocab_size - 1}, "
            f"got {int(tokens.min())} to {int(tokens.max())}"
        )
