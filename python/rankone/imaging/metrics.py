"""How far an estimated hyperspectral image is from the reference.

The spectral angle is one between the spectra of a pixel, averaged over pixels; the same formula
along the other axis, an angle between the images of a band, is another and smaller number.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rankone._optional import require
from rankone.imaging._validation import check_image


def rmse(ref: ArrayLike, est: ArrayLike, data_range: float = 1.0) -> float:
    """Root mean square error over all pixels and bands, as a share of the data range.

    Args:
        ref: (M, N, L) reference image.
        est: (M, N, L) estimate.
        data_range: width of the range of values.

    Returns:
        The error, 0 for equal images.

    Raises:
        ValueError: for shapes that differ or are not of images, values that are not finite, and a
            range that is not positive.

    Example:
        >>> import numpy as np
        >>> from rankone.imaging import rmse
        >>> rmse(np.zeros((2, 2, 3)), np.full((2, 2, 3), 0.5))
        0.5
    """
    ref, est = _pair(ref, est)
    return float(np.sqrt(np.mean((ref - est) ** 2)) / _positive(data_range, "data_range"))


def psnr(ref: ArrayLike, est: ArrayLike, data_range: float = 1.0) -> float:
    """Peak signal-to-noise ratio in dB, mean over bands; infinite if a band has no error.

    Args:
        ref, est: (M, N, L) reference and estimate.
        data_range: width of the range of values.

    Returns:
        Decibels.

    Raises:
        ValueError: as :func:`rmse`.

    Example:
        >>> import numpy as np
        >>> from rankone.imaging import psnr
        >>> round(psnr(np.zeros((2, 2, 3)), np.full((2, 2, 3), 0.1)), 6)
        20.0
    """
    ref, est = _pair(ref, est)
    mse = np.mean((ref - est) ** 2, axis=(0, 1))
    with np.errstate(divide="ignore"):
        return float(np.mean(10 * np.log10(_positive(data_range, "data_range") ** 2 / mse)))


def spectral_angle_map(ref: ArrayLike, est: ArrayLike) -> NDArray[np.float64]:
    """Angle in degrees between the two spectra of every pixel; NaN where one is all zero.

    Args:
        ref, est: (M, N, L) reference and estimate.

    Returns:
        (M, N) degrees in [0, 180].

    Raises:
        ValueError: for shapes that differ or are not of images, and values that are not finite.

    Example:
        >>> import numpy as np
        >>> from rankone.imaging import spectral_angle_map
        >>> spectral_angle_map([[[1.0, 0.0]]], [[[1.0, 1.0]]]).round(6)
        array([[45.]])
    """
    ref, est = _pair(ref, est)
    norms = np.linalg.norm(ref, axis=2) * np.linalg.norm(est, axis=2)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = np.einsum("ijk,ijk->ij", ref, est) / norms
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def sam(ref: ArrayLike, est: ArrayLike) -> float:
    """Spectral angle in degrees, mean over pixels; those with an all-zero spectrum are left out.

    Args:
        ref, est: (M, N, L) reference and estimate.

    Returns:
        Degrees; NaN if every pixel was left out.

    Raises:
        ValueError: as :func:`spectral_angle_map`.

    Example:
        >>> import numpy as np
        >>> from rankone.imaging import sam
        >>> round(sam(np.array([[[1.0, 0.0]]]), np.array([[[1.0, 1.0]]])), 6)
        45.0
    """
    angles = spectral_angle_map(ref, est)
    counted = angles[~np.isnan(angles)]
    return float(counted.mean()) if counted.size else float("nan")


def ergas(ref: ArrayLike, est: ArrayLike, ratio: float) -> float:
    """Relative dimensionless global error: (100 / ratio) sqrt(mean_b (RMSE_b / mean_b)²).

    Args:
        ref, est: (M, N, L) reference and estimate.
        ratio: pixel size of the low-resolution image over that of the high-resolution one.

    Returns:
        The error, 0 for equal images.

    Raises:
        ValueError: as :func:`rmse`, and for a band of the reference whose mean is zero.

    Example:
        >>> import numpy as np
        >>> from rankone.imaging import ergas
        >>> ergas(np.full((2, 2, 3), 0.5), np.full((2, 2, 3), 0.6), ratio=4).__round__(6)
        5.0
    """
    ref, est = _pair(ref, est)
    means = ref.mean(axis=(0, 1))
    if (means == 0).any():
        raise ValueError(
            f"ref must have no band of mean zero, got one at {int(np.argmax(means == 0))}"
        )
    relative = np.mean((ref - est) ** 2, axis=(0, 1)) / means**2
    return float(100 / _positive(ratio, "ratio") * np.sqrt(relative.mean()))


def ssim_bands(
    ref: ArrayLike, est: ArrayLike, data_range: float = 1.0, *, per_band: bool = False
) -> float | NDArray[np.float64]:
    """Structural similarity of the bands, by ``skimage.metrics``, and its mean.

    Args:
        ref, est: (M, N, L) reference and estimate, at least 7 pixels a side.
        data_range: width of the range of values.
        per_band: return every band's rather than their mean.

    Returns:
        The mean over bands, or (L,) with ``per_band``.

    Raises:
        ImportError: if scikit-image is not installed.
        ValueError: as :func:`rmse`, and for images smaller than the window of 7 x 7.

    Example:
        >>> import numpy as np
        >>> from rankone.imaging import ssim_bands
        >>> image = np.random.default_rng(0).random((8, 8, 3))
        >>> ssim_bands(image, image)
        1.0
    """
    similarity = require("skimage.metrics", extra="imaging", package="scikit-image")
    ref, est = _pair(ref, est)
    if min(ref.shape[:2]) < 7:
        raise ValueError(f"ref must be at least 7 x 7 pixels, got {ref.shape[0]} x {ref.shape[1]}")
    data_range = _positive(data_range, "data_range")
    bands = np.array(
        [
            similarity.structural_similarity(ref[..., b], est[..., b], data_range=data_range)
            for b in range(ref.shape[2])
        ]
    )
    return bands if per_band else float(bands.mean())


def _pair(ref: ArrayLike, est: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    ref, est = check_image(ref, "ref"), check_image(est, "est")
    if ref.shape != est.shape:
        raise ValueError(f"est must have the shape of ref, {ref.shape}, got {est.shape}")
    return ref, est


def _positive(value: float, name: str) -> float:
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be finite and positive, got {value}")
    return float(value)
