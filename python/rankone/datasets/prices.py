"""Daily market prices that the package ``arch`` carries; its files are read, it is not imported."""

from __future__ import annotations

import importlib.metadata

from rankone._optional import require
from rankone.datasets.series import package_file
from rankone.datasets.tables import TableDataset

PRICES_INSTALL = "pip install --no-deps arch"


def sp500_prices() -> TableDataset:
    """The S&P 500 index, day by day from 1999 to 2018.

    5031 rows by date with Open, High, Low, Close, Adj Close and Volume.

    Returns:
        :class:`TableDataset`.

    Raises:
        ModuleNotFoundError: where the package ``arch``, which carries the file, is not installed.

    Example:
        >>> from rankone.datasets import sp500_prices
        >>> sp500_prices().frame.shape
        (5031, 6)
    """
    return _market("sp500", "S&P 500, daily")


def nasdaq_prices() -> TableDataset:
    """The NASDAQ composite index, day by day from 1999 to 2018, as :func:`sp500_prices`.

    Returns:
        :class:`TableDataset`.

    Raises:
        ModuleNotFoundError: as :func:`sp500_prices`.

    Example:
        >>> from rankone.datasets import nasdaq_prices
        >>> nasdaq_prices().frame.shape
        (5031, 6)
    """
    return _market("nasdaq", "NASDAQ composite, daily")


def vix_prices() -> TableDataset:
    """The volatility index VIX, day by day from 2014 to the start of 2019.

    A row a date, with the column ``vix``; days without a reading are NaN.

    Returns:
        :class:`TableDataset`.

    Raises:
        ModuleNotFoundError: as :func:`sp500_prices`.

    Example:
        >>> from rankone.datasets import vix_prices
        >>> list(vix_prices().frame)
        ['vix']
    """
    return _market("vix", "volatility index VIX, daily")


def _market(name: str, title: str) -> TableDataset:
    path = package_file("arch", f"data/{name}/{name}.csv.gz", f"{name}_prices", PRICES_INSTALL)
    pd = require("pandas", extra="stats")
    frame = pd.read_csv(path)
    frame["Date"] = pd.to_datetime(frame["Date"], format="%m/%d/%Y")
    frame = frame.set_index("Date").apply(pd.to_numeric, errors="coerce")
    return TableDataset(
        name=title,
        frame=frame,
        source="as shipped in the package arch",
        licence="NCSA (package)",
        version=f"arch {importlib.metadata.version('arch')}",
    )
