"""Checks of the frames that the batting functions take."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def require_columns(frame: Any, columns: Iterable[str], name: str) -> None:
    """Raise TypeError for anything but a DataFrame, ValueError naming the columns it lacks."""
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(f"{name} must be a pandas DataFrame, got a {type(frame).__name__}")
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise ValueError(f"{name} must have the columns {', '.join(missing)}, which are missing")


def numbers(frame: pd.DataFrame, column: str, name: str) -> NDArray[np.float64]:
    """A column as finite float64.

    Raises:
        ValueError: for entries that are missing, infinite or no numbers.
    """
    try:
        values = frame[column].to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must have numbers in the column {column}: {error}") from error
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise ValueError(
            f"{name} must have finite numbers in the column {column}, "
            f"got {values[bad[0]]} in row {bad[0]}"
        )
    return values


def wickets_of(frame: pd.DataFrame, name: str) -> list[Any]:
    """The column ``wickets``: a sequence of (player_out, kind) a row, None where it is empty.

    Raises:
        ValueError: for entries of another form, such as the text that a CSV file makes of them.
    """
    rows: list[Any] = []
    for row, wickets in enumerate(frame["wickets"]):
        if isinstance(wickets, tuple | list):
            if any(not isinstance(entry, tuple | list) or len(entry) != 2 for entry in wickets):
                raise ValueError(
                    f"{name} must have (player_out, kind) in wickets, got {wickets!r} in row {row}"
                )
            rows.append(wickets or None)
        else:
            raise ValueError(
                f"{name} must have tuples in the column wickets, got {wickets!r} in row {row}"
            )
    return rows


def dates_of(frame: pd.DataFrame, name: str) -> NDArray[np.datetime64]:
    """The column ``date`` as datetime64.

    Raises:
        ValueError: for entries that are missing or no dates.
    """
    require_columns(frame, ("date",), name)
    try:
        dates = pd.to_datetime(frame["date"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must have dates in the column date: {error}") from error
    if dates.isna().any():
        raise ValueError(f"{name} must have a date in every row, got a missing one")
    return dates.to_numpy(dtype="datetime64[ns]")
