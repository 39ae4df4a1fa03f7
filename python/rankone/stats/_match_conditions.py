"""Pitch and weather from a match summary, by counting phrases of each class.

The paper names the step; the rules and the lexicon are this library's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin

from rankone.stats._commentary_lexicon import (
    NEUTRAL_PHRASES,
    PITCH_CLASSES,
    RAIN,
    RAIN_CANCELLED,
    WEATHER_CLASSES,
)
from rankone.stats._phrases import (
    MARKS,
    UNKNOWN,
    Phrases,
    check_window,
    hits,
    normalise,
    phrase_key,
    texts_of,
    tokens_of,
)

_SENTENCE_ENDS = MARKS - frozenset(",()")


@lru_cache(maxsize=32)
def _class_lexicon(entries: tuple[tuple[str, str], ...]) -> tuple[dict[str, str], Phrases]:
    classes = {**dict.fromkeys(NEUTRAL_PHRASES, UNKNOWN), **dict(entries)}
    silent = (phrase for phrase, label in classes.items() if label == UNKNOWN)
    return classes, Phrases(classes, silent)


class MatchConditionExtractor(TransformerMixin, BaseEstimator):
    """Reads the pitch and the weather from a match summary.

    Counts unnegated phrases of each class; the class with strictly the most wins, a tie or none is
    "unknown". A summary is written after the match: what it says was not known before. Lexicon and
    rules are this library's own.

    Args:
        pitch_lexicon: entries added to the built-in ones or in place of them: phrase -> class, or
            class -> list of phrases. Built-in classes: batting, seam, spin. The class "unknown"
            makes a phrase mean nothing.
        weather_lexicon: likewise; built-in classes: clear, overcast, rain.
        negation_window: as in :class:`CommentaryParser`.

    Example:
        >>> from rankone.stats.batting import MatchConditionExtractor
        >>> MatchConditionExtractor().extract("A green top. The rain stayed away and it was sunny.")
        {'pitch': 'seam', 'weather': 'clear'}
    """

    def __init__(
        self,
        *,
        pitch_lexicon: Mapping[str, Any] | None = None,
        weather_lexicon: Mapping[str, Any] | None = None,
        negation_window: int = 4,
    ) -> None:
        self.pitch_lexicon = pitch_lexicon
        self.weather_lexicon = weather_lexicon
        self.negation_window = negation_window

    def fit(self, texts: Any = None, y: Any = None) -> MatchConditionExtractor:
        """Check the parameters; nothing is learnt."""
        self._rules()
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def extract(self, text: str) -> dict[str, str]:
        """The classes of one summary, ``{"pitch": ..., "weather": ...}``.

        Raises:
            ValueError: for a text that is not a str, and for bad parameters.
        """
        if not isinstance(text, str):
            raise ValueError(f"text must be a str, got {text!r}")
        return self._read(self._rules(), text)

    def transform(self, texts: Any) -> pd.DataFrame:
        """The classes of several summaries: a frame with pitch and weather.

        Args:
            texts: (n,) of str; None and NaN read "unknown". The index of a Series is kept.

        Raises:
            ValueError: for entries of another type.
        """
        rules = self._rules()
        rows = [self._read(rules, text or "") for text in texts_of(texts)]
        index = texts.index if isinstance(texts, pd.Series) else None
        return pd.DataFrame(rows, columns=["pitch", "weather"], index=index)

    def _rules(self) -> tuple[Any, Any, int]:
        return (
            _class_lexicon(_classes("pitch_lexicon", PITCH_CLASSES, self.pitch_lexicon)),
            _class_lexicon(_classes("weather_lexicon", WEATHER_CLASSES, self.weather_lexicon)),
            check_window(self.negation_window),
        )

    def _read(self, rules: tuple[Any, Any, int], text: str) -> dict[str, str]:
        pitch, weather, window = rules
        pitch_counts: dict[str, int] = {}
        weather_counts: dict[str, int] = {}
        for sentence in _sentences(tokens_of(normalise(text))):
            _count(sentence, pitch, window, pitch_counts, frozenset())
            dry = any(_RAIN_CANCELLED.at(sentence, start) for start in range(len(sentence)))
            _count(sentence, weather, window, weather_counts, frozenset((RAIN,) if dry else ()))
        return {"pitch": _most(pitch_counts), "weather": _most(weather_counts)}


_RAIN_CANCELLED = Phrases(RAIN_CANCELLED)


def _classes(
    name: str, built_in: Mapping[str, tuple[str, ...]], added: Mapping[str, Any] | None
) -> tuple[tuple[str, str], ...]:
    """phrase -> class, as sorted pairs."""
    classes = {phrase: label for label, phrases in built_in.items() for phrase in phrases}
    if added is not None and not isinstance(added, Mapping):
        raise ValueError(f"{name} must be a mapping, got a {type(added).__name__}")
    for key, value in (added or {}).items():
        if isinstance(value, str):
            classes[phrase_key(name, key)] = value
        elif isinstance(key, str) and isinstance(value, list | tuple | set | frozenset):
            classes.update({phrase_key(name, phrase): key for phrase in value})
        else:
            raise ValueError(
                f"{name} must map phrases to classes or classes to lists of phrases, "
                f"got {key!r}: {value!r}"
            )
    return tuple(sorted(classes.items()))


def _sentences(tokens: list[str]) -> Iterator[list[str]]:
    start = 0
    for position, token in enumerate(tokens):
        if token in _SENTENCE_ENDS:
            yield tokens[start:position]
            start = position + 1
    yield tokens[start:]


def _count(
    sentence: list[str],
    lexicon: tuple[dict[str, str], Phrases],
    window: int,
    counts: dict[str, int],
    cancelled: frozenset[str],
) -> None:
    classes, phrases = lexicon
    for phrase, negated in hits(sentence, phrases, window):
        label = classes[phrase]
        if not negated and label != UNKNOWN and label not in cancelled:
            counts[label] = counts.get(label, 0) + 1


def _most(counts: Mapping[str, int]) -> str:
    top = max(counts.values(), default=0)
    leaders = [label for label, count in counts.items() if count == top]
    return leaders[0] if len(leaders) == 1 else UNKNOWN
