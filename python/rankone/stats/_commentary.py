"""Shot control from ball-by-ball commentary, and commentary beside its deliveries.

The paper names the step, commentary to shot control; the rules and the lexicon are this library's
own.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin

from rankone.stats._commentary_lexicon import HARD_WEIGHT, NEUTRAL_PHRASES, SHOT_WEIGHTS
from rankone.stats._cricsheet import KEY
from rankone.stats._frames import numbers, require_columns, wickets_of
from rankone.stats._phrases import (
    Phrases,
    check_window,
    hits,
    is_missing,
    normalise,
    phrase_key,
    texts_of,
    tokens_of,
)

_RESULT = (
    r"no run|\d+ runs?|(?:four|six)(?: runs?)?|out|\d+ wides?|no ball[^,]*|\d+ leg byes?|\d+ byes?"
)
_PREFIX = re.compile(rf"\s*[^,]{{1,59}} to [^,]{{1,59}},\s*(?:{_RESULT})\s*(?:,|$)")
# Ways out after which the shot was not in control, when the batter facing is out.
UNCONTROLLED_DISMISSALS = frozenset(
    ("bowled", "caught", "caught and bowled", "lbw", "stumped", "hit wicket")
)
_UNMATCHED_SHARE = 0.05  # of deliveries or of lines; above it alignment warns


@dataclass(frozen=True)
class Cue:
    """A phrase found in a line of commentary.

    Attributes:
        phrase: the phrase, normalised.
        weight: the weight with which it counts, after negation.
        hard: whether it decides alone, after negation.
        negated: whether negators turned it.
    """

    phrase: str
    weight: float
    hard: bool
    negated: bool


@dataclass(frozen=True)
class ShotReading:
    """What a line of commentary says about the shot.

    Attributes:
        control: 1 in control, 0 not in control, -1 unknown or no shot.
        score: sum of the cues' weights.
        cues: in the order of the text.
    """

    control: int
    score: float
    cues: tuple[Cue, ...]


@lru_cache(maxsize=32)
def _shot_lexicon(added: tuple[tuple[str, float], ...]) -> tuple[dict[str, float], Phrases]:
    weights = {**dict.fromkeys(NEUTRAL_PHRASES, 0.0), **SHOT_WEIGHTS, **dict(added)}
    return weights, Phrases(weights, (phrase for phrase, w in weights.items() if w == 0))


class CommentaryParser(TransformerMixin, BaseEstimator):
    """Reads from a line of commentary whether the batter was in control of the shot.

    The lexicon and the rules are this library's own; the paper's were not published. A hard cue
    (an edge, a play and miss) decides alone; otherwise the signs of the summed weights do.

    Args:
        lexicon: phrases with weights, added to the built-in lexicon or in place of its entries.
            A weight of -4 or less is hard; 0 makes a phrase mean nothing.
        negation_window: a negator reaches cues that start at most so many tokens after it; 0
            switches negation off.
        use_events: a facing batter who is bowled, caught, lbw, stumped or hit wicket was not in
            control, whatever the text says.
        default: of a text without a verdict: "unknown" (-1) or "control" (1).

    Source:
        "Impact of a Batter in ODI Cricket Implementing Regression Models from Match Commentary"
        (2023) names the step; the rules are this library's.

    Example:
        >>> from rankone.stats.batting import CommentaryParser
        >>> parser = CommentaryParser()
        >>> parser.transform(["there was no edge, he drives", "driven but not timed well"]).tolist()
        [1, 0]
        >>> parser.parse("beaten! no edge").control
        0
    """

    def __init__(
        self,
        *,
        lexicon: Mapping[str, float] | None = None,
        negation_window: int = 4,
        use_events: bool = True,
        default: str = "unknown",
    ) -> None:
        self.lexicon = lexicon
        self.negation_window = negation_window
        self.use_events = use_events
        self.default = default

    def fit(self, texts: Any = None, y: Any = None) -> CommentaryParser:
        """Check the parameters; nothing is learnt."""
        self._rules()
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def parse(
        self, text: str, wicket_kind: str | None = None, is_wide: bool = False
    ) -> ShotReading:
        """Read one line.

        Args:
            text: the line, with or without its "X to Y, result," beginning.
            wicket_kind: how the facing batter was out on this delivery, or None.
            is_wide: a wide offers no shot and reads -1.

        Returns:
            The code, the score and the cues.

        Raises:
            ValueError: for a text that is not a str, and for bad parameters.
        """
        if not isinstance(text, str):
            raise ValueError(f"text must be a str, got {text!r}")
        rules = self._rules()
        kind = None if wicket_kind is None else wicket_kind.lower()
        return self._decide(rules, self._cues(rules, text), kind, is_wide)

    def transform(self, texts: Any) -> NDArray[np.int8]:
        """Codes from the text alone: 1 in control, 0 not, -1 unknown; (n,) int8.

        Args:
            texts: (n,) of str; None and NaN read -1.

        Raises:
            ValueError: for entries of another type.
        """
        return self._codes(texts_of(texts), None, None)

    def control_codes(self, deliveries: pd.DataFrame, texts: Any) -> NDArray[np.int8]:
        """Codes of deliveries: their text, with wides and wickets taken into account.

        Args:
            deliveries: rows with batter, wides and wickets.
            texts: (n,) of str, aligned with the rows; None and NaN read -1, also on a wicket:
                without text only dismissals would be known, which says nothing about control.

        Returns:
            (n,) int8.

        Raises:
            ValueError: for missing columns, and lengths that differ.
        """
        require_columns(deliveries, ("batter", "wides", "wickets"), "deliveries")
        entries = texts_of(texts)
        if len(entries) != len(deliveries):
            raise ValueError(
                f"texts must have one entry a delivery ({len(deliveries)}), got {len(entries)}"
            )
        kinds = [
            next((str(kind).lower() for out, kind in wickets if out == batter), None)
            if wickets
            else None
            for batter, wickets in zip(
                deliveries["batter"], wickets_of(deliveries, "deliveries"), strict=True
            )
        ]
        return self._codes(entries, kinds, (deliveries["wides"] > 0).tolist())

    def _rules(self) -> tuple[dict[str, float], Phrases, int]:
        window = check_window(self.negation_window)
        if self.default not in ("unknown", "control"):
            raise ValueError(f"default must be 'unknown' or 'control', got {self.default!r}")
        added: dict[str, float] = {}
        if self.lexicon is not None and not isinstance(self.lexicon, Mapping):
            raise ValueError(
                f"lexicon must map phrases to weights, got a {type(self.lexicon).__name__}"
            )
        for phrase, weight in (self.lexicon or {}).items():
            key = phrase_key("lexicon", phrase)
            if isinstance(weight, bool) or not isinstance(weight, Real) or math.isnan(weight):
                raise ValueError(f"lexicon must have numbers as weights, got {weight!r}")
            added[key] = float(weight)
        return (*_shot_lexicon(tuple(sorted(added.items()))), window)

    def _cues(self, rules: tuple[dict[str, float], Phrases, int], text: str) -> tuple[Cue, ...]:
        weights, phrases, window = rules
        text = normalise(text)
        prefix = _PREFIX.match(text)
        if prefix is not None:
            text = text[prefix.end() :]
        cues = []
        for phrase, negated in hits(tokens_of(text), phrases, window):
            weight = weights[phrase]
            if weight == 0:
                continue
            hard = weight <= HARD_WEIGHT
            if negated:
                weight, hard = (1.0, False) if hard else (-weight, False)
            cues.append(Cue(phrase, weight, hard, negated))
        return tuple(cues)

    def _decide(
        self, rules: Any, cues: tuple[Cue, ...], wicket_kind: str | None, is_wide: bool
    ) -> ShotReading:
        score = math.fsum(cue.weight for cue in cues)
        if is_wide:
            control = -1
        elif (self.use_events and wicket_kind in UNCONTROLLED_DISMISSALS) or any(
            cue.hard for cue in cues
        ):
            control = 0
        elif score != 0:
            control = int(score > 0)
        else:
            control = 1 if self.default == "control" else -1
        return ShotReading(control, score, cues)

    def _codes(
        self, texts: list[Any], kinds: list[str | None] | None, wides: list[bool] | None
    ) -> NDArray[np.int8]:
        rules = self._rules()
        known: dict[str, tuple[Cue, ...]] = {}  # lines repeat, above all without their prefix
        codes = np.full(len(texts), -1, dtype=np.int8)
        for row, text in enumerate(texts):
            if text is None or (wides is not None and wides[row]):
                continue
            cues = known.get(text)
            if cues is None:
                cues = known[text] = self._cues(rules, text)
            kind = kinds[row] if kinds is not None else None
            codes[row] = self._decide(rules, cues, kind, False).control
        return codes


def align_commentary(deliveries: pd.DataFrame, commentary: pd.DataFrame) -> NDArray[np.object_]:
    """Put lines of commentary beside the deliveries they describe.

    Args:
        deliveries: rows with match_id, innings, over and ball.
        commentary: rows with the same key and ``text``; or, in place of over and ball, with
            ``label``, such as "12.3", in file order. A wide or no-ball repeats its label, so that
            the position in the over is the running count of its lines.

    Returns:
        (n,) of str, None where a delivery has no line.

    Raises:
        ValueError: for missing columns, and a key that occurs twice on either side.

    Warns:
        UserWarning: if more than 5 % of the deliveries, or of the lines on these matches, find no
            partner.

    Example:
        >>> import pandas as pd
        >>> from rankone.stats.batting import align_commentary
        >>> balls = pd.DataFrame({"match_id": "1", "innings": 1, "over": 0, "ball": [1, 2]})
        >>> lines = pd.DataFrame({"match_id": "1", "innings": 1, "label": ["0.1", "0.1"],
        ...                       "text": ["wide", "driven"]})
        >>> align_commentary(balls, lines).tolist()
        ['wide', 'driven']
    """
    require_columns(deliveries, KEY, "deliveries")
    if "over" in commentary.columns and "ball" in commentary.columns:
        require_columns(commentary, (*KEY, "text"), "commentary")
        keys = _keys(commentary, "commentary")
    else:
        require_columns(commentary, ("match_id", "innings", "label", "text"), "commentary")
        over = [_over_of(label) for label in commentary["label"]]
        placed = commentary.assign(over=over)
        order = placed.groupby(["match_id", "innings", "over"], sort=False).cumcount()
        keys = _keys(placed.assign(ball=order + 1), "commentary")
    for name, key in (
        ("deliveries", delivery_keys := _keys(deliveries, "deliveries")),
        ("commentary", keys),
    ):
        if not key.is_unique:
            raise ValueError(
                f"{name} must have each (match_id, innings, over, ball) once, "
                f"got {key[key.duplicated()][0]} twice"
            )
    found = keys.get_indexer(delivery_keys)
    texts = np.empty(len(deliveries), dtype=object)
    lines = commentary["text"].to_numpy(dtype=object)
    for row in np.flatnonzero(found >= 0):
        line = lines[found[row]]
        texts[row] = None if is_missing(line) else line
    _warn_unmatched("deliveries without a line of commentary", found < 0)
    ours = keys.get_level_values(0).isin(delivery_keys.get_level_values(0).unique())
    _warn_unmatched(
        "lines of commentary on these matches without a delivery",
        delivery_keys.get_indexer(keys[ours]) < 0,
    )
    return texts


def _keys(frame: pd.DataFrame, name: str) -> pd.MultiIndex:
    places = [numbers(frame, column, name).astype("int64") for column in KEY[1:]]
    return pd.MultiIndex.from_arrays(
        [frame["match_id"].astype(str).to_numpy(dtype=object), *places], names=KEY
    )


def _over_of(label: Hashable) -> int:
    try:
        return int(float(str(label)))
    except (ValueError, OverflowError) as error:
        raise ValueError(f"label must be over.ball, such as '12.3', got {label!r}") from error


def _warn_unmatched(what: str, unmatched: NDArray[np.bool_]) -> None:
    if len(unmatched) and unmatched.mean() > _UNMATCHED_SHARE:
        warnings.warn(
            f"{unmatched.mean():.1%} of {len(unmatched)} {what}",
            UserWarning,
            stacklevel=3,
        )
