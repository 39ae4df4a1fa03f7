"""The splits of the long-horizon forecasting benchmarks, by rows.

Validation and test blocks start a lookback early, so that their first target is the first row of
the block.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Rows of 12, 4 and 4 months of 30 days.
_ETT_HOUR = (12 * 30 * 24, 4 * 30 * 24, 4 * 30 * 24)
_NAMED = {"ett_hour": _ETT_HOUR, "ett_minute": tuple(4 * rows for rows in _ETT_HOUR)}
SPLITS = ("7:1:2", *_NAMED)


@dataclass(frozen=True)
class Blocks:
    """A series in three parts; the later two begin with the lookback before them.

    Attributes:
        train, validation, test: (rows, V).
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def split_rows(rows: int, split: str | tuple[int, int, int] = "7:1:2") -> tuple[int, int, int]:
    """Rows of training, validation and test.

    Args:
        rows: of the series.
        split: ``"7:1:2"`` (70 and 20 percent, rounded down, and what is left), ``"ett_hour"``,
            ``"ett_minute"`` (12, 4 and 4 months of 30 days), or three numbers of rows.

    Raises:
        ValueError: for an unknown split, or one that needs more rows than there are.

    Example:
        >>> from rankone.forecast.protocol import split_rows
        >>> split_rows(17520), split_rows(17420, "ett_hour")
        ((12264, 1752, 3504), (8640, 2880, 2880))
    """
    if split == "7:1:2":
        train, test = int(0.7 * rows), int(0.2 * rows)
        parts = (train, rows - train - test, test)
    elif isinstance(split, str):
        if split not in _NAMED:
            raise ValueError(
                f"split must be one of {SPLITS} or three numbers of rows, got {split!r}"
            )
        train, validation, test = _NAMED[split]
        parts = (train, validation, test)
    else:
        if len(split) != 3:
            raise ValueError(f"split must be three numbers of rows, got {split}")
        parts = (split[0], split[1], split[2])
    if min(parts) < 1 or sum(parts) > rows:
        raise ValueError(f"split {split} takes {parts} rows, of a series of {rows}")
    return parts


def split_series(
    X: np.ndarray, lookback: int, split: str | tuple[int, int, int] = "7:1:2"
) -> Blocks:
    """A series (T, V) in training, validation and test blocks.

    Args:
        X: (T, V).
        lookback: rows that the later blocks start early.
        split: as for :func:`split_rows`.

    Raises:
        ValueError: as :func:`split_rows`, and for a lookback longer than the training block.
    """
    train, validation, test = split_rows(len(X), split)
    if lookback > train:
        raise ValueError(f"lookback must be at most the {train} training rows, got {lookback}")
    end = train + validation
    return Blocks(X[:train], X[train - lookback : end], X[end - lookback : end + test])
