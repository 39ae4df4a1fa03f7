"""Text to learn language models from, and what a language model must beat.

The text is that of Python's own reference documentation, which every Python installation carries.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rankone._repr import short_repr


@dataclass(frozen=True)
class TextDataset:
    """A text with its origin.

    Attributes:
        name: what the text is.
        train: bytes to learn from.
        validation: bytes to measure on; no paragraph of them occurs in ``train``.
        source: where it was read from.
        licence: under which it may be used.
        version: of the source.
    """

    __repr__ = short_repr

    name: str
    train: bytes
    validation: bytes
    source: str
    licence: str
    version: str


def python_docs(*, validation_fraction: float = 0.1, random_state: int = 0) -> TextDataset:
    """The Python language reference, as the help of the running interpreter holds it.

    ``pydoc_data.topics`` has some 80 topics, several of which contain others word for word. Every
    paragraph is kept once, so that the validation text is not a copy of text that was learnt; then
    whole topics are drawn for validation.

    Args:
        validation_fraction: share of the bytes to hold out, between 0 and 1.
        random_state: seed of the draw.

    Returns:
        :class:`TextDataset`, in all about 370 kB.

    Raises:
        ValueError: for a fraction outside (0, 1).
        ModuleNotFoundError: if this Python was installed without ``pydoc_data``.

    Example:
        >>> from rankone.datasets import python_docs
        >>> docs = python_docs()
        >>> len(docs.train) > 8 * len(docs.validation)
        True
    """
    if not 0 < validation_fraction < 1:
        raise ValueError(f"validation_fraction must be in (0, 1), got {validation_fraction}")
    topics = _topics("python_docs")
    texts = _distinct_paragraphs(topics)
    total = sum(len(text) for text in texts)
    validation: set[int] = set()
    held_out = 0
    for index in np.random.default_rng(random_state).permutation(len(texts)):
        if held_out + len(texts[index]) <= validation_fraction * total:
            validation.add(int(index))
            held_out += len(texts[index])
    return TextDataset(
        name="Python language reference",
        train=b"".join(text for index, text in enumerate(texts) if index not in validation),
        validation=b"".join(text for index, text in enumerate(texts) if index in validation),
        source="pydoc_data.topics of the Python standard library",
        licence="PSF-2.0",
        version=platform.python_version(),
    )


def python_topics(
    *, separator: str = "\n\n", ascii_only: bool = True, validation_fraction: float = 0.1
) -> TextDataset:
    """Every topic of the Python language reference as it stands, joined in the order of names.

    Several topics contain others word for word, so the validation text, the last part, repeats
    paragraphs that were learnt; :func:`python_docs` keeps every paragraph once.

    Args:
        separator: between two topics.
        ascii_only: put "?" for every character outside ASCII, so that a byte is a character.
        validation_fraction: share of the characters to hold out, between 0 and 1.

    Returns:
        :class:`TextDataset`, in UTF-8; with Python 3.11 and the default options 465126 characters,
        of which 94 differ.

    Raises:
        ValueError: for a fraction outside (0, 1).
        ModuleNotFoundError: if this Python was installed without ``pydoc_data``.

    Example:
        >>> from rankone.datasets.text import python_topics
        >>> docs = python_topics()
        >>> len(docs.train) // len(docs.validation)
        8
    """
    if not 0 < validation_fraction < 1:
        raise ValueError(f"validation_fraction must be in (0, 1), got {validation_fraction}")
    topics = _topics("python_topics")
    text = separator.join(topics[name] for name in sorted(topics))
    if ascii_only:
        text = text.encode("ascii", errors="replace").decode("ascii")
    end = int((1 - validation_fraction) * len(text))
    return TextDataset(
        name="Python language reference, all topics",
        train=text[:end].encode(),
        validation=text[end:].encode(),
        source="pydoc_data.topics of the Python standard library",
        licence="PSF-2.0",
        version=platform.python_version(),
    )


def _topics(reader: str) -> dict[str, str]:
    try:
        from pydoc_data.topics import topics
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{reader} reads pydoc_data.topics of the standard library, which this Python lacks; "
            "some Linux distributions package it apart (libpython3-stdlib or python3-doc)"
        ) from error
    return topics


def _distinct_paragraphs(topics: dict[str, str]) -> list[bytes]:
    """The topics in order of their names, each with the paragraphs no earlier topic has."""
    seen: set[str] = set()
    texts = []
    for name in sorted(topics):
        kept = []
        for paragraph in re.split(r"\n\s*\n", topics[name].strip("\n")):
            key = " ".join(paragraph.split())
            if key not in seen:
                seen.add(key)
                kept.append(paragraph)
        if kept:
            texts.append(("\n\n".join(kept) + "\n\n").encode())
    return texts


def sample_windows(
    tokens: Tensor, length: int, batch_size: int, *, random_state: int = 0
) -> Iterator[Tensor]:
    """Endless batches of windows at random places of a text.

    Args:
        tokens: (n,) int64.
        length: tokens a window.
        batch_size: windows a batch.
        random_state: seed; the same seed gives the same batches.

    Yields:
        (batch_size, length) int64.

    Raises:
        ValueError: if the text is not 1-D or shorter than a window.

    Example:
        >>> import torch
        >>> from rankone.datasets import sample_windows
        >>> next(sample_windows(torch.arange(100), 8, 4)).shape
        torch.Size([4, 8])
    """
    if tokens.ndim != 1 or tokens.shape[0] < length:
        raise ValueError(
            f"tokens must be 1-D with at least length={length} entries, "
            f"got shape {tuple(tokens.shape)}"
        )
    if length < 1 or batch_size < 1:
        raise ValueError(f"length and batch_size must be at least 1, got {length} and {batch_size}")
    return _windows(tokens, length, batch_size, np.random.default_rng(random_state))


def _windows(
    tokens: Tensor, length: int, batch_size: int, generator: np.random.Generator
) -> Iterator[Tensor]:
    offsets = torch.arange(length)
    while True:
        starts = generator.integers(tokens.shape[0] - length + 1, size=(batch_size, 1))
        yield tokens[torch.from_numpy(starts) + offsets]


@dataclass(frozen=True)
class BigramBaseline:
    """Result of :func:`bigram_baseline`.

    Attributes:
        nats_per_byte: cross-entropy on the validation text, of every byte but the first.
        smoothing: the pseudo-count that was chosen.
    """

    nats_per_byte: float
    smoothing: float


# Pseudo-counts tried: a text of some 100 kB wants about 10, bytes without any order all of them.
_SMOOTHINGS = tuple(float(value) for value in np.logspace(-1, 5, 61))


def bigram_baseline(train: bytes, validation: bytes) -> BigramBaseline:
    """Cross-entropy of the best additively smoothed byte bigram model.

    P(b | a) = (count(a b) + s p(b)) / (count(a) + s), with p the byte frequencies of the training
    text (one pseudo-count spread over all 256 bytes) and s the pseudo-count under which the
    training text, each byte left out of the counts in turn, is most likely.

    Args:
        train: bytes to count.
        validation: bytes to score.

    Returns:
        :class:`BigramBaseline`.

    Raises:
        ValueError: for texts of fewer than 2 bytes.

    Example:
        >>> from rankone.datasets import bigram_baseline
        >>> bigram_baseline(b"ab" * 500, b"abababab").nats_per_byte < 0.01
        True
    """
    for name, text in (("train", train), ("validation", validation)):
        if len(text) < 2:
            raise ValueError(f"{name} must have at least 2 bytes, got {len(text)}")
    counts = _bigram_counts(train)
    frequency = np.bincount(np.frombuffer(train, np.uint8), minlength=256) + 1 / 256
    prior = frequency / frequency.sum()
    smoothing = min(
        _SMOOTHINGS, key=lambda value: _cross_entropy(counts, counts, prior, value, left_out=1)
    )
    nats = _cross_entropy(_bigram_counts(validation), counts, prior, smoothing, left_out=0)
    return BigramBaseline(nats, smoothing)


def _bigram_counts(text: bytes) -> np.ndarray:
    values = np.frombuffer(text, np.uint8).astype(np.int64)
    pairs = np.bincount(values[:-1] * 256 + values[1:], minlength=256 * 256)
    return pairs.reshape(256, 256)


def _cross_entropy(
    scored: np.ndarray, counts: np.ndarray, prior: np.ndarray, smoothing: float, *, left_out: int
) -> float:
    """Nats a byte of the pairs ``scored`` when ``left_out`` of each is taken off the counts."""
    first, second = scored.nonzero()
    of_pair = counts[first, second] - left_out
    of_first = counts.sum(1)[first] - left_out
    probability = (of_pair + smoothing * prior[second]) / (of_first + smoothing)
    return float(-(scored[first, second] * np.log(probability)).sum() / scored.sum())
