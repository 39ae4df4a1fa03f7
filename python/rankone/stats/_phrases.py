"""Finding known phrases in text, and whether a negation turns them.

Left to right, the longest known phrase at a position is a hit, else the longest negator there is
remembered. A negator reaches hits that start at most a window of tokens after it, with no mark and
no contrast word between; an odd number of them turns the hit.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from rankone.stats._commentary_lexicon import CONTRAST_WORDS, NEGATORS

UNKNOWN = "unknown"
MARKS = frozenset(".,;:!?()\u2012\u2013\u2014\u2015")
_TOKEN = re.compile(r"[a-z0-9']+|[.,;:!?()\u2012-\u2015]")


def normalise(text: str) -> str:
    """Lower case, plain apostrophes, negations spelt out, hyphens as spaces."""
    text = unicodedata.normalize("NFKC", text)
    text = re.sub("[\u2018\u2019\u02bc]", "'", text).lower()
    text = text.replace("can't", "can not").replace("cannot", "can not")
    text = text.replace("won't", "will not").replace("n't", " not")
    return re.sub("[-\u2010]", " ", text)


def tokens_of(text: str) -> list[str]:
    """Words and marks of a normalised text."""
    return _TOKEN.findall(text)


class Phrases:
    """Phrases by their first word, longest first.

    Args:
        phrases: words separated by spaces.
        silent: those that are read as a whole and mean nothing.
    """

    def __init__(self, phrases: Iterable[str], silent: Iterable[str] = ()) -> None:
        self.silent = frozenset(silent)
        self._by_first: dict[str, list[tuple[tuple[str, ...], str]]] = {}
        for phrase in phrases:
            words = tuple(tokens_of(phrase))
            self._by_first.setdefault(words[0], []).append((words, phrase))
        for entries in self._by_first.values():
            entries.sort(key=lambda entry: -len(entry[0]))

    def at(self, tokens: list[str], position: int) -> tuple[str, int] | None:
        """The longest phrase that starts at ``position`` and its number of words."""
        for words, phrase in self._by_first.get(tokens[position], ()):
            if tuple(tokens[position : position + len(words)]) == words:
                return phrase, len(words)
        return None


_NEGATOR_PHRASES = Phrases(NEGATORS)


def hits(tokens: list[str], phrases: Phrases, window: int) -> Iterator[tuple[str, bool]]:
    """(phrase, negated) from left to right; no token is used twice."""
    live: list[int] = []  # last words of negators that no mark or contrast word has ended
    position = 0
    while position < len(tokens):
        found = phrases.at(tokens, position)
        if found is not None:
            phrase, length = found
            near = [negator for negator in live if position - negator <= window]
            # A silent phrase is no cue: it spends no negator.
            negated = len(near) % 2 == 1 and phrase not in phrases.silent
            if negated:
                live = [negator for negator in live if position - negator > window]
            yield phrase, negated
            position += length
            continue
        negator = _NEGATOR_PHRASES.at(tokens, position)
        if negator is not None:
            position += negator[1]
            live.append(position - 1)
            continue
        if tokens[position] in MARKS or tokens[position] in CONTRAST_WORDS:
            live = []
        position += 1


def phrase_key(name: str, phrase: Any) -> str:
    """``phrase`` normalised as texts are; an error if it can never match."""
    words = tokens_of(normalise(phrase)) if isinstance(phrase, str) else []
    if not words or any(word in MARKS for word in words):
        raise ValueError(f"{name} must have phrases of words without marks, got {phrase!r}")
    return " ".join(words)


def is_missing(text: Any) -> bool:
    """None, NaN or NA."""
    return text is None or text is pd.NA or (isinstance(text, float) and math.isnan(text))


def check_window(window: Any) -> int:
    """``negation_window`` as an int, or ValueError."""
    if isinstance(window, bool) or not isinstance(window, int | np.integer) or window < 0:
        raise ValueError(f"negation_window must be an integer of at least 0, got {window!r}")
    return int(window)


def texts_of(texts: Any, name: str = "texts") -> list[Any]:
    """A list of strings, None where one is missing."""
    if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
        raise ValueError(f"{name} must be a sequence of texts, got a {type(texts).__name__}")
    entries = [None if is_missing(text) else text for text in texts]
    for row, text in enumerate(entries):
        if text is not None and not isinstance(text, str):
            raise ValueError(f"{name} must hold str or None, got {text!r} in row {row}")
    return entries
