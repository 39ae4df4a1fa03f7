"""Checks of images and spectral responses that the estimators of this package share."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

RANGE_SLACK = 0.1  # noise and calibration take reflectances a little out of [0, 1]
MIN_PIXELS = 4


def check_image(image: ArrayLike, name: str, *, bands: int | None = None) -> NDArray[np.float64]:
    """``image`` as a finite float64 array of three dimensions.

    Raises:
        TypeError: if it does not hold real numbers.
        ValueError: for its number of dimensions or bands, emptiness, NaN or infinities.
    """
    array = np.asarray(image)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} must hold real numbers, got dtype {array.dtype}")
    if array.ndim != 3:
        raise ValueError(f"{name} must have shape (rows, columns, bands), got {array.shape}")
    if 0 in array.shape:
        raise ValueError(f"{name} must not be empty, got shape {array.shape}")
    if bands is not None and array.shape[2] != bands:
        raise ValueError(f"{name} must have {bands} bands, got {array.shape[2]}")
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return array


def check_scaled_image(
    image: ArrayLike, name: str, *, bands: int | None = None
) -> NDArray[np.float64]:
    """:func:`check_image`, and values in [0, 1] up to a tenth."""
    array = check_image(image, name, bands=bands)
    low, high = float(array.min()), float(array.max())
    if low < -RANGE_SLACK or high > 1 + RANGE_SLACK:
        raise ValueError(
            f"{name} must lie in [0, 1], rescale first; got values from {low:.4g} to {high:.4g}"
        )
    return array


def check_response(srf: ArrayLike) -> NDArray[np.float64]:
    """``srf`` as (L, l) with columns of sum one.

    Raises:
        ValueError: for its number of dimensions, values that are negative or not finite, and
            columns of zeros.
    """
    array = np.asarray(srf)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"srf must hold real numbers, got dtype {array.dtype}")
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"srf must have shape (HSI bands, MSI bands), got {array.shape}")
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise ValueError("srf must be finite, got NaN or infinity")
    if (array < 0).any():
        raise ValueError(f"srf must not be negative, got a minimum of {array.min():.4g}")
    sums = array.sum(axis=0)
    if (sums == 0).any():
        raise ValueError(f"srf must have no column of zeros, got one at {int(sums.argmin())}")
    return array / sums


def check_pair(
    hsi: ArrayLike, msi: ArrayLike, srf: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """A hyperspectral image, a multispectral one and the response that links them.

    Raises:
        ValueError: for shapes that do not match, values out of range, too few HSI pixels.
    """
    srf = check_response(srf)
    hsi = check_scaled_image(hsi, "hsi")
    msi = check_scaled_image(msi, "msi")
    if srf.shape != (hsi.shape[2], msi.shape[2]):
        raise ValueError(
            f"srf must have shape (bands of hsi, bands of msi) = "
            f"{(hsi.shape[2], msi.shape[2])}, got {srf.shape}"
        )
    if hsi.shape[0] * hsi.shape[1] < MIN_PIXELS:
        raise ValueError(
            f"hsi must have at least {MIN_PIXELS} pixels, got {hsi.shape[0]} x {hsi.shape[1]}"
        )
    return hsi, msi, srf
