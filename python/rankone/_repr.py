"""What ``repr`` shows of results: arrays by their shape, long lists by their first entries."""

from __future__ import annotations

import dataclasses
from typing import Any

_NUMBERS = 8  # of an array that is still shown number by number
_ENTRIES = 6  # of a list, shown in full up to twice as many
_CHARACTERS = 120


def short_repr(result: Any) -> str:
    """What ``repr`` shows of a dataclass that holds arrays.

    Args:
        result: the dataclass; its class says ``__repr__ = short_repr``.

    Returns:
        Its name with every field that ``repr`` would show, in one line.

    Example:
        >>> import dataclasses
        >>> import numpy as np
        >>> from rankone._repr import short_repr
        >>> @dataclasses.dataclass
        ... class Result:
        ...     __repr__ = short_repr
        ...     values: np.ndarray
        ...     losses: list
        >>> Result(np.zeros((20, 3)), list(range(99)))
        Result(values=<20 x 3 float64>, losses=[0, 1, 2, 3, 4, 5, ... 99 entries])
    """
    shown = (
        f"{field.name}={_shown(getattr(result, field.name))}"
        for field in dataclasses.fields(result)
        if field.repr
    )
    return f"{type(result).__qualname__}({', '.join(shown)})"


def _shown(value: Any) -> str:
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and shape:
        sizes = " x ".join(map(str, shape))
        dtype = getattr(value, "dtype", None)
        if dtype is None:
            return f"<{type(value).__name__}, {sizes}>"
        if len(shape) > 1 or shape[0] > _NUMBERS:
            return f"<{sizes} {str(dtype).removeprefix('torch.')}>"
    if isinstance(value, dict) and len(value) > 2 * _ENTRIES:
        return f"<dict of {len(value)}>"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_shown(entry)}" for key, entry in value.items()) + "}"
    if type(value) in (list, tuple):
        opening, closing = ("[", "]") if isinstance(value, list) else ("(", ")")
        if len(value) > 2 * _ENTRIES:
            first = ", ".join(map(_shown, value[:_ENTRIES]))
            return f"{opening}{first}, ... {len(value)} entries{closing}"
        comma = "," if closing == ")" and len(value) == 1 else ""
        return opening + ", ".join(map(_shown, value)) + comma + closing
    text = repr(value)
    return text if len(text) <= _CHARACTERS else f"{text[:_CHARACTERS]}..."
