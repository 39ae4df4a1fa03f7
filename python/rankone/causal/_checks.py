"""Checks of arguments that estimators of this package share: each error names the argument."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import column_or_1d
from sklearn.utils.validation import check_array

Array = NDArray[np.float64]


def matrix(name: str, values: ArrayLike) -> Array:
    """``values`` as a finite float64 matrix."""
    if np.ndim(values) != 2:
        raise ValueError(f"{name} must be 2-D, got {np.ndim(values)}-D")
    return _numbers(name, values)


def vector(name: str, values: ArrayLike) -> Array:
    """``values`` as a finite float64 vector; a single column is one, with sklearn's warning."""
    if np.ndim(values) not in (1, 2):
        raise ValueError(f"{name} must be 1-D, got {np.ndim(values)}-D")
    array = column_or_1d(values, warn=True, input_name=name)
    return _numbers(name, array, ensure_2d=False)


def _numbers(name: str, values: ArrayLike, **options: Any) -> Array:
    """scikit-learn's own validation; the messages of some of its errors name no argument."""
    try:
        return check_array(values, dtype=np.float64, input_name=name, **options)
    except ValueError as error:
        if name in str(error).split():
            raise
        raise ValueError(f"{name} must hold finite numbers: {error}") from error


def same_length(**arrays: Any) -> None:
    """Raise unless all arrays have as many rows."""
    lengths = {name: len(values) for name, values in arrays.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ValueError(f"{' and '.join(lengths)} must have as many rows, got {found}")


def at_least(minimum: int, **values: Any) -> None:
    """Raise unless each value is an integer of at least ``minimum``."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < minimum:
            raise ValueError(f"{name} must be an integer of at least {minimum}, got {value!r}")


def positive(**values: Any) -> None:
    """Raise unless each value is a positive, finite number."""
    for name, value in values.items():
        if not (isinstance(value, int | float | np.number) and math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be a positive and finite number, got {value!r}")


def non_negative(**values: Any) -> None:
    """Raise unless each value is a finite number of at least 0."""
    for name, value in values.items():
        if not (isinstance(value, int | float | np.number) and math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be at least 0 and finite, got {value!r}")
