"""What a reproduction claims: a statement, the number it expects, and the number it measured.

``passed`` is computed here from the numbers and never given by hand. A NaN passes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

Number = float | int
Measured = Number | str | tuple[Number, ...]


@dataclass(frozen=True)
class Claim:
    """One claim, by one of the constructors below.

    Attributes:
        statement: what is claimed, in words.
        expected: what the paper or the theory says, as it is shown.
        measured: what came out: a number, several, or a word.
        tolerance: what counts as holding, as it is shown.
        passed: whether it holds.
        note: a remark shown below the claim.

    Example:
        >>> from rankone.reproduce import Claim
        >>> Claim.at_most("relative error", 1.8e-7, 2e-6, expected="0").passed
        True
        >>> Claim.at_most("relative error", float("nan"), 2e-6, expected="0").passed
        False
    """

    statement: str
    expected: str
    measured: Measured
    tolerance: str
    passed: bool
    note: str = ""

    @classmethod
    def at_least(
        cls,
        statement: str,
        measured: Number,
        bound: Number,
        *,
        expected: str | None = None,
        strict: bool = False,
        note: str = "",
    ) -> Claim:
        """``measured >= bound``, or ``>`` with ``strict``."""
        passed = measured > bound if strict else measured >= bound
        sign = ">" if strict else "≥"
        return cls._bounded(statement, measured, f"{sign} {shown(bound)}", passed, expected, note)

    @classmethod
    def at_most(
        cls,
        statement: str,
        measured: Number,
        bound: Number,
        *,
        expected: str | None = None,
        strict: bool = False,
        note: str = "",
    ) -> Claim:
        """``measured <= bound``, or ``<`` with ``strict``."""
        passed = measured < bound if strict else measured <= bound
        sign = "<" if strict else "≤"
        return cls._bounded(statement, measured, f"{sign} {shown(bound)}", passed, expected, note)

    @classmethod
    def close(
        cls,
        statement: str,
        measured: Number,
        expected: Number,
        *,
        absolute: float = 0.0,
        relative: float = 0.0,
        note: str = "",
    ) -> Claim:
        """``|measured - expected|`` within ``absolute`` plus ``relative`` times ``|expected|``.

        Raises:
            ValueError: for a tolerance that is negative or not finite.
        """
        for name, tolerance in (("absolute", absolute), ("relative", relative)):
            if not (math.isfinite(tolerance) and tolerance >= 0):
                raise ValueError(f"{name} must be finite and at least 0, got {tolerance}")
        parts = [shown(absolute)] if absolute or not relative else []
        parts += [f"{shown(100 * relative)} %"] if relative else []
        allowed = absolute + relative * abs(expected)
        # A difference of two infinities is NaN, so that an infinite expectation is never met.
        passed = bool(abs(measured - expected) <= allowed)
        return cls(
            statement, shown(expected), _plain(measured), "± " + " ± ".join(parts), passed, note
        )

    @classmethod
    def exact(
        cls,
        statement: str,
        measured: Measured | Sequence[Number],
        expected: Measured | Sequence[Number],
        *,
        note: str = "",
    ) -> Claim:
        """``measured == expected``; a sequence holding a NaN equals nothing."""
        measured, expected = _plain(measured), _plain(expected)
        entries = measured if isinstance(measured, tuple) else (measured,)
        passed = bool(measured == expected) and not any(
            isinstance(entry, float) and math.isnan(entry) for entry in entries
        )
        return cls(statement, shown(expected), measured, "exact", passed, note)

    @classmethod
    def increasing(
        cls,
        statement: str,
        measured: Sequence[Number],
        *,
        expected: str = "increasing",
        note: str = "",
    ) -> Claim:
        """Every entry of ``measured`` is above the one before it.

        Raises:
            ValueError: for fewer than two entries.
        """
        values = tuple(_plain_number(value) for value in measured)
        if len(values) < 2:
            raise ValueError(f"measured must have at least two entries, got {len(values)}")
        passed = all(after > before for before, after in pairwise(values))
        return cls(statement, expected, values, "each above the last", passed, note)

    @classmethod
    def _bounded(
        cls,
        statement: str,
        measured: Number,
        tolerance: str,
        passed: bool,
        expected: str | None,
        note: str,
    ) -> Claim:
        shown_expected = tolerance if expected is None else expected
        return cls(statement, shown_expected, _plain(measured), tolerance, bool(passed), note)


def _plain_number(value: Number) -> Number:
    """A Python number for a numpy or torch scalar."""
    if isinstance(value, int | float) and type(value) in (int, float, bool):
        return value
    item = getattr(value, "item", None)
    return item() if item is not None else value


def _plain(value: Measured | Sequence[Number]) -> Measured:
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        return tuple(_plain_number(entry) for entry in value)
    return _plain_number(cast(Number, value))


def shown(value: Measured, digits: int = 3) -> str:
    """A measured value as a reader wants it: a few significant digits, integers in full.

    Args:
        value: number, text, or tuple of numbers.
        digits: significant digits of what is not an integer.

    Returns:
        The text.

    Example:
        >>> from rankone.reproduce import shown
        >>> shown(1.8231e-7), shown(16.482), shown(65536), shown((0.5, 2.0))
        ('1.82e-07', '16.5', '65536', '0.5, 2')
    """
    if isinstance(value, str):
        return value
    if isinstance(value, tuple):
        return ", ".join(shown(entry, digits) for entry in value)
    if isinstance(value, int):
        return str(value)
    if math.isfinite(value) and 10**digits <= abs(value) < 1e15:
        return f"{value:.0f}"
    return f"{value:.{digits}g}"
