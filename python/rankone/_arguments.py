"""Checks of what an argument is, before anything asks it for an attribute.

The ops have checks of their own on tensors (:mod:`rankone.ops.checks`).
"""

from __future__ import annotations

import numbers
from typing import Any


def check_instance(name: str, value: Any, kind: type) -> None:
    """Require an object of a class.

    Args:
        name: of the argument, for the message.
        value: what was given.
        kind: the class.

    Raises:
        TypeError: naming the argument, what was expected and what came.

    Example:
        >>> from pathlib import Path
        >>> from rankone._arguments import check_instance
        >>> check_instance("path", Path("a"), Path)
    """
    if not isinstance(value, kind):
        came = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
        raise TypeError(f"{name} must be a {kind.__name__}, got {came}")


def check_number(name: str, value: Any) -> None:
    """Require a real number, of Python or numpy, and no boolean.

    Args:
        name: of the argument, for the message.
        value: what was given.

    Raises:
        TypeError: naming the argument and what came.

    Example:
        >>> from rankone._arguments import check_number
        >>> check_number("tol", 1e-6)
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {value!r}")


def check_integer(name: str, value: Any) -> None:
    """Require a whole number, of Python or numpy, and no boolean.

    Args:
        name: of the argument, for the message.
        value: what was given.

    Raises:
        TypeError: naming the argument and what came.

    Example:
        >>> from rankone._arguments import check_integer
        >>> check_integer("num_heads", 4)
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer, got {value!r}")


def check_size(name: str, value: Any) -> None:
    """Require a whole number of at least 1.

    Args:
        name: of the argument, for the message.
        value: what was given.

    Raises:
        TypeError: for what is no whole number.
        ValueError: for one below 1.

    Example:
        >>> from rankone._arguments import check_size
        >>> check_size("hidden_size", 64)
    """
    check_integer(name, value)
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
