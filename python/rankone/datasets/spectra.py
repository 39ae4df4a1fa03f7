"""Reflectance spectra that an installed package carries, and image cubes that a user supplies.

The package is found, its files read, and never imported. No package was found that carries a
hyperspectral image; :func:`hyperspectral_cube` reads those that have to be fetched by hand.
"""

from __future__ import annotations

import csv
import importlib.metadata
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rankone._optional import require
from rankone._repr import short_repr

SPECTRA_INSTALL = "pip install --no-deps earthlib"
CUBE_SUFFIXES = (".npy", ".npz", ".mat", ".hdr")


@dataclass(frozen=True)
class SpectralLibrary:
    """Spectra of known materials, with their origin.

    Attributes:
        name: what it is.
        reflectance: (n, L) float64, a row a spectrum.
        wavelengths: (L,) micrometres.
        materials: (n,) class of every spectrum.
        source: where it was read from.
        licence: under which it may be used.
        version: of the package that carries it.
    """

    __repr__ = short_repr

    name: str
    reflectance: NDArray[np.float64]
    wavelengths: NDArray[np.float64]
    materials: NDArray
    source: str
    licence: str
    version: str


@dataclass(frozen=True)
class HyperspectralCube:
    """An image of many bands, with its origin.

    Attributes:
        name: of the file or folder.
        values: (rows, columns, L) float64, divided by their maximum.
        wavelengths: (L,) micrometres, or None where the file does not say.
        scale: what the values were divided by.
        source: the path it was read from.
    """

    __repr__ = short_repr

    name: str
    values: NDArray[np.float64]
    wavelengths: NDArray[np.float64] | None
    scale: float
    source: str


def land_cover_spectra() -> SpectralLibrary:
    """7261 measured reflectances of soils, plants, roofs, roads and more, 0.4 to 2.45 µm.

    Returns:
        :class:`SpectralLibrary` of 180 bands; a few values lie above one.

    Raises:
        ModuleNotFoundError: where the package ``earthlib``, which carries the files, is not
            installed; it is not imported, so that its dependencies are not needed.

    Example:
        >>> from rankone.datasets.spectra import land_cover_spectra
        >>> land_cover_spectra().reflectance.shape
        (7261, 180)
    """
    folder = _earthlib_data()
    header = _envi_header((folder / "spectra.sli.hdr").read_text())
    shape = int(header["lines"]), int(header["samples"])
    values = np.fromfile(folder / "spectra.sli", dtype="<f4")
    if values.size != shape[0] * shape[1]:
        raise ValueError(f"spectra.sli must hold {shape[0]} x {shape[1]} values, got {values.size}")
    with (folder / "spectra.csv").open(newline="", encoding="utf-8") as rows:
        materials = np.array([row["LEVEL_3"] for row in csv.DictReader(rows)])
    return SpectralLibrary(
        name="global library of land cover spectra",
        reflectance=values.reshape(shape).astype(np.float64),
        wavelengths=np.array([float(entry) for entry in header["wavelength"].split(",")]),
        materials=materials,
        source="spectra.sli of the package earthlib",
        licence="MIT (the package)",
        version=f"earthlib {importlib.metadata.version('earthlib')}",
    )


def hyperspectral_cube(path: str | Path, *, variable: str | None = None) -> HyperspectralCube:
    """A hyperspectral image from a file or folder of the user's.

    What the benchmarks of the field are distributed as can be read as it is:

    - Pavia Centre and University: ``Pavia.mat``, ``PaviaU.mat``;
    - Harvard: a ``.mat`` a scene, with the cube in ``ref``;
    - CAVE: the folder of a scene, with a 16-bit PNG a band (``*_ms_01.png`` to ``*_ms_31.png``);
    - ENVI: the ``.hdr`` beside its data file;
    - ``.npy``, or ``.npz`` with one array.

    Args:
        path: a file of those kinds, or a folder of PNGs.
        variable: name of the array in a ``.mat`` or ``.npz``; by default its only or largest one of
            three dimensions.

    Returns:
        :class:`HyperspectralCube`, bands last, divided by its maximum.

    Raises:
        FileNotFoundError: if there is nothing at ``path``.
        ImportError: for a file kind whose reader is not installed.
        ValueError: for a kind that is not read, and for a file without a cube of finite,
            non-negative numbers.

    Example:
        >>> import numpy as np, tempfile, pathlib
        >>> from rankone.datasets.spectra import hyperspectral_cube
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = pathlib.Path(folder) / "cube.npy"
        ...     np.save(file, np.arange(24.0).reshape(2, 3, 4))
        ...     hyperspectral_cube(file).values.max()
        np.float64(1.0)
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"path must be a file or folder that exists, got {path}")
    wavelengths = None
    kind = path.suffix.lower()
    if path.is_dir():
        values = _bands_as_images(path)
    elif kind == ".npy":
        values = np.load(path, allow_pickle=False)
    elif kind == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            values = _largest_cube(dict(arrays), variable, path)
    elif kind == ".mat":
        values = _largest_cube(_matlab(path), variable, path)
    elif kind == ".hdr":
        envi = require("spectral.io.envi", extra="imaging", package="spectral")
        image = envi.open(str(path))
        values = np.asarray(image.load())
        wavelengths = _micrometres(image.bands.centers, image.bands.band_unit)
    else:
        raise ValueError(
            f"path must be a folder of PNGs or end in .npy, .npz, .mat or .hdr, got {path.name!r}"
        )
    if values.ndim != 3 or values.dtype.kind not in "fiu" or values.size == 0:
        raise ValueError(
            f"{path.name} must hold real numbers in three dimensions, "
            f"got shape {values.shape} and dtype {values.dtype}"
        )
    values = values.astype(np.float64)
    scale = float(values.max())
    if not np.isfinite(values).all() or values.min() < 0 or scale <= 0:
        raise ValueError(f"{path.name} must hold finite, non-negative numbers, not all zero")
    return HyperspectralCube(
        name=path.stem,
        values=values / scale,
        wavelengths=wavelengths,
        scale=scale,
        source=str(path),
    )


def cube_files(path: str | Path) -> list[Path]:
    """What :func:`hyperspectral_cube` can read at ``path``: itself, or the cubes in a folder.

    Args:
        path: a file, the folder of a CAVE scene, or a folder of such files and folders.

    Returns:
        Paths, sorted by name; files named ``srf`` are left out.

    Raises:
        FileNotFoundError: if there is nothing at ``path``, or nothing that is read.

    Example:
        >>> import numpy as np, tempfile, pathlib
        >>> from rankone.datasets.spectra import cube_files
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(pathlib.Path(folder) / "pavia.npy", np.ones((2, 2, 3)))
        ...     [file.name for file in cube_files(folder)]
        ['pavia.npy']
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"path must be a file or folder that exists, got {path}")
    if not path.is_dir() or any(path.glob("*.png")):
        return [path]
    found = [
        entry
        for entry in sorted(path.iterdir())
        if (entry.is_dir() and (any(entry.glob("*.png")) or any(entry.glob("*/*.png"))))
        or (entry.suffix.lower() in CUBE_SUFFIXES and entry.stem.lower() != "srf")
    ]
    # CAVE unpacks to a folder in a folder of the same name.
    found = [
        next(entry.glob("*/*.png")).parent
        if entry.is_dir() and not any(entry.glob("*.png"))
        else entry
        for entry in found
    ]
    if not found:
        raise FileNotFoundError(
            f"path must hold {', '.join(CUBE_SUFFIXES)} files or folders of PNGs, got {path}"
        )
    return found


def _earthlib_data() -> Path:
    spec = importlib.util.find_spec("earthlib")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            "land_cover_spectra reads files of the package earthlib, which is not installed; "
            f"`{SPECTRA_INSTALL}` installs it without its dependencies, which are not needed"
        )
    folder = Path(spec.submodule_search_locations[0]) / "data"
    missing = [
        name
        for name in ("spectra.sli", "spectra.sli.hdr", "spectra.csv")
        if not (folder / name).is_file()
    ]
    if missing:
        raise ModuleNotFoundError(
            f"land_cover_spectra reads {', '.join(missing)} of the package earthlib, which the "
            f"installed version {importlib.metadata.version('earthlib')} lacks"
        )
    return folder


def _envi_header(text: str) -> dict[str, str]:
    """Fields of an ENVI header; a value in braces is given without them."""
    fields = re.findall(r"^([\w ]+?)\s*=\s*(\{[^}]*\}|[^\n]*)", text, flags=re.MULTILINE)
    return {name.strip().lower(): value.strip().strip("{}").strip() for name, value in fields}


def _matlab(path: Path) -> dict[str, NDArray]:
    """Arrays of a MATLAB file of either format, axes in MATLAB's order."""
    with path.open("rb") as file:
        is_hdf5 = file.read(10) == b"MATLAB 7.3"
    if is_hdf5:  # its axes come reversed
        h5py = require("h5py", extra="imaging")
        with h5py.File(path) as file:
            return {
                name: np.asarray(entry).T
                for name, entry in file.items()
                if isinstance(entry, h5py.Dataset)
            }
    from scipy.io import loadmat

    return {name: v for name, v in loadmat(path).items() if isinstance(v, np.ndarray)}


def _largest_cube(arrays: dict[str, NDArray], variable: str | None, path: Path) -> NDArray:
    if variable is not None:
        if variable not in arrays:
            raise ValueError(
                f"variable must be one of {', '.join(sorted(arrays))} of {path.name}, "
                f"got {variable!r}"
            )
        return arrays[variable]
    cubes = [array for array in arrays.values() if array.ndim == 3]
    if not cubes:
        raise ValueError(f"{path.name} must hold an array of three dimensions, got none")
    return max(cubes, key=lambda cube: cube.size)


def _bands_as_images(folder: Path) -> NDArray:
    """A folder with one grey PNG a band, in the order of their names; others are left out."""
    io = require("skimage.io", extra="imaging", package="scikit-image")
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() == ".png")
    numbered = [file for file in files if re.search(r"_ms_\d+$", file.stem)] or files
    if not numbered:
        raise ValueError(f"path must hold a PNG a band, got none in {folder}")
    bands = [io.imread(file) for file in numbered]
    # One of the CAVE scenes is stored with colour channels that are all alike.
    bands = [band[..., 0] if band.ndim == 3 else band for band in bands]
    if len({band.shape for band in bands}) > 1:
        raise ValueError(f"PNGs of {folder.name} must have one shape, got several")
    return np.stack(bands, axis=-1)


def _micrometres(centers: list[float] | None, unit: str | None) -> NDArray[np.float64] | None:
    if centers is None:
        return None
    nanometres = (unit or "").lower() in ("nanometers", "nanometres", "nm")
    return np.asarray(centers, dtype=np.float64) / (1000 if nanometres else 1)
