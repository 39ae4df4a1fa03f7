"""The one error of this package, and how a check raises it."""

from __future__ import annotations


class CayleyError(ValueError, AssertionError):
    """A wrong argument of :mod:`rankone.cayley`.

    It is a ``ValueError``, as everywhere in this library, and an ``AssertionError`` for scripts
    that were written for libraries which check by ``assert``.

    Example:
        >>> from rankone.cayley import CayleyGraphDef, CayleyError
        >>> try:
        ...     CayleyGraphDef.create([[0, 0, 1]])
        ... except CayleyError as error:
        ...     print(error)
        generators[0] must be a permutation of 0..2, got [0, 0, 1]
    """


def check(condition: object, message: str) -> None:
    """Raise :class:`CayleyError` with ``message`` unless ``condition`` holds."""
    if not condition:
        raise CayleyError(message)


def check_range(name: str, value: int, low: int, high: int | None = None) -> None:
    """Require an integer ``low <= value <= high``."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise CayleyError(f"{name} must be an integer, got {value!r}")
    if high is None:
        check(value >= low, f"{name} must be at least {low}, got {value}")
    else:
        check(low <= value <= high, f"{name} must be between {low} and {high}, got {value}")
