"""The nine long-horizon forecasting benchmarks, read from the user's own files.

No package ships them. They are looked for, under the names below, in a folder that the user gives:
CSV files with a header and the date in the first column.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np

# File of each benchmark, and how the protocol splits its rows.
LONG_HORIZON_FILES = {
    "ETTh1": ("ETTh1.csv", "ett_hour"),
    "ETTh2": ("ETTh2.csv", "ett_hour"),
    "ETTm1": ("ETTm1.csv", "ett_minute"),
    "ETTm2": ("ETTm2.csv", "ett_minute"),
    "Electricity": ("electricity.csv", "7:1:2"),
    "Exchange": ("exchange_rate.csv", "7:1:2"),
    "Traffic": ("traffic.csv", "7:1:2"),
    "Weather": ("weather.csv", "7:1:2"),
    "ILI": ("national_illness.csv", "7:1:2"),
}


def long_horizon_series(folder: str | os.PathLike[str], name: str) -> np.ndarray:
    """A benchmark (T, V) float64 from its file in a folder.

    Args:
        folder: where the file lies.
        name: ``"ETTh1"``, ``"ETTh2"``, ``"ETTm1"``, ``"ETTm2"``, ``"Electricity"``,
            ``"Exchange"``, ``"Traffic"``, ``"Weather"`` or ``"ILI"``.

    Returns:
        (T, V) float64, a column a variate, without the dates.

    Raises:
        ValueError: for another name, and cells that are no numbers.
        FileNotFoundError: where the file is not in the folder.

    Example:
        >>> from rankone.datasets import long_horizon_series
        >>> long_horizon_series("data", "ETTh1").shape  # doctest: +SKIP
        (17420, 7)
    """
    if name not in LONG_HORIZON_FILES:
        raise ValueError(f"name must be one of {', '.join(LONG_HORIZON_FILES)}, got {name!r}")
    path = Path(folder) / LONG_HORIZON_FILES[name][0]
    with path.open(newline="", encoding="utf-8") as file:
        _, *rows = csv.reader(file)
    try:
        return np.array([[float(cell) for cell in row[1:]] for row in rows if row])
    except ValueError as error:
        raise ValueError(
            f"{path} must have a date and then numbers in every row: {error}"
        ) from error
