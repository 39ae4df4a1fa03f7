"""Scenes whose high-resolution truth is known, and the two images that sensors would make of them.

The spectra are measured ones, the maps of materials smooth random fields, the mixing linear: a test
of fusion, easier than a photograph. The hyperspectral image is turned, blurred and sampled, so that
the pair is not registered. The generator is of this project's own design.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter, rotate
from scipy.special import softmax
from sklearn.utils import Bunch

from rankone.datasets.spectra import land_cover_spectra
from rankone.imaging._validation import check_image, check_response

# The first eight are the reproduction's; the others follow where more are asked for.
MATERIALS = (
    *("soil", "canopy", "road", "comp_shingle", "litter", "char", "sand", "paint"),
    *("sidewalk", "gravel", "bark", "wood", "asphalt", "metal", "tile", "concrete_tile"),
)
# Blue, green, red and near infrared, in micrometres.
FOUR_BANDS = ((0.49, 0.56, 0.665, 0.842), (0.065, 0.036, 0.031, 0.115))
FIELD_SMOOTHNESS = 3.0  # pixels
# FWHM of a Gaussian over its standard deviation, to the digits that the scenes are defined with.
FWHM = 2.355
SYNTHETIC_BANDS = 180
_PEAKS = 6


def spectral_response(
    wavelengths: ArrayLike, centers: ArrayLike, fwhm: ArrayLike
) -> NDArray[np.float64]:
    """Gaussian spectral response functions, a column a band of the multispectral sensor.

    Args:
        wavelengths: (L,) of the hyperspectral bands.
        centers: (l,) of the multispectral bands, in the same unit.
        fwhm: full width at half maximum, (l,) or one for all.

    Returns:
        (L, l) with columns of sum one.

    Raises:
        ValueError: for shapes that do not match, widths that are not positive, and a band that no
            wavelength falls in.

    Example:
        >>> import numpy as np
        >>> from rankone.imaging import spectral_response
        >>> spectral_response(np.linspace(0.4, 1, 61), [0.5, 0.8], 0.05).sum(axis=0)
        array([1., 1.])
    """
    wavelengths, centers, fwhm = (
        np.asarray(array, dtype=np.float64) for array in (wavelengths, centers, fwhm)
    )
    for name, array in (("wavelengths", wavelengths), ("centers", centers)):
        if array.ndim != 1 or array.size == 0:
            raise ValueError(f"{name} must have one dimension, got shape {array.shape}")
    if fwhm.shape not in ((), centers.shape):
        raise ValueError(f"fwhm must be a number or of shape {centers.shape}, got {fwhm.shape}")
    if not all(np.isfinite(array).all() for array in (wavelengths, centers, fwhm)):
        raise ValueError("wavelengths, centers and fwhm must be finite, got NaN or infinity")
    if (fwhm <= 0).any():
        raise ValueError(f"fwhm must be positive, got a minimum of {fwhm.min():.4g}")
    response = np.exp(-0.5 * ((wavelengths[:, None] - centers) / (fwhm / FWHM)) ** 2)
    sums = response.sum(axis=0)
    if (sums == 0).any():
        outside = centers[sums == 0][0]
        raise ValueError(
            f"centers must lie near a wavelength, {wavelengths.min():.4g} to "
            f"{wavelengths.max():.4g}, got {outside:.4g}"
        )
    return response / sums


def observe(
    scene: ArrayLike,
    srf: ArrayLike,
    *,
    ratio: int = 8,
    rotation: float = 0.0,
    margin: int = 0,
    crop: float = 0.0,
    snr_db: float | None = 35.0,
    random_state: int | np.random.Generator | None = None,
) -> Bunch:
    """The hyperspectral and the multispectral image of a scene, not registered with each other.

    The multispectral image sees the scene without its margin, every pixel. The hyperspectral one
    sees it turned, blurred by the width of a pixel (a Gaussian of FWHM ``ratio``), without the
    margin, without a further ``crop``, and every ``ratio``-th pixel.

    Args:
        scene: (rows, columns, L) high-resolution spectra.
        srf: (L, l) spectral responses, columns scaled to sum one.
        ratio: pixel size of the hyperspectral image over that of the other.
        rotation: degrees by which the hyperspectral image is turned.
        margin: pixels at every edge that only the turning needs.
        crop: share of the rows and columns, from both sides together, that only the multispectral
            image sees.
        snr_db: signal-to-noise ratio of white noise, relative to the root mean square of each
            image; None or infinity for none.
        random_state: of the noise.

    Returns:
        Bunch of ``hsi`` (m, n, L), ``msi`` (M, N, l), ``reference`` (M, N, L) and ``srf``.

    Raises:
        ValueError: for shapes that do not match and numbers out of range.

    Example:
        >>> import numpy as np
        >>> from rankone.imaging import observe
        >>> scene = np.random.default_rng(0).random((32, 32, 6))
        >>> observe(scene, np.eye(6)[:, :2], ratio=4, rotation=5, crop=0.25).hsi.shape
        (6, 6, 6)
    """
    scene = check_image(scene, "scene")
    srf = check_response(srf)
    if srf.shape[0] != scene.shape[2]:
        raise ValueError(f"srf must have {scene.shape[2]} rows, got {srf.shape[0]}")
    _whole(ratio, "ratio", 1)
    _whole(margin, "margin", 0)
    if not 0 <= crop < 1:
        raise ValueError(f"crop must be in [0, 1), got {crop}")
    if not np.isfinite(rotation):
        raise ValueError(f"rotation must be finite, got {rotation}")
    rows, columns = scene.shape[0] - 2 * margin, scene.shape[1] - 2 * margin
    if min(rows, columns) < 1:
        raise ValueError(f"margin must leave pixels of {scene.shape[:2]}, got {margin}")
    reference = scene[margin : margin + rows, margin : margin + columns]

    turned = scene
    if rotation:
        turned = rotate(scene, rotation, axes=(0, 1), reshape=False, order=1, mode="nearest")
    blurred = gaussian_filter(turned, (ratio / FWHM, ratio / FWHM, 0))
    cut = [margin + round(size * crop / 2) for size in (rows, columns)]
    seen = blurred[cut[0] : scene.shape[0] - cut[0], cut[1] : scene.shape[1] - cut[1]]
    hsi = seen[ratio // 2 :: ratio, ratio // 2 :: ratio]
    if 0 in hsi.shape:
        raise ValueError(f"ratio must be below the {seen.shape[:2]} pixels seen, got {ratio}")
    generator = np.random.default_rng(random_state)
    return Bunch(
        hsi=_noisy(hsi, snr_db, generator),
        msi=_noisy(reference @ srf, snr_db, generator),
        reference=reference.copy(),
        srf=srf,
    )


def simulate_scene(
    n_endmembers: int = 8,
    n_msi_bands: int = 4,
    size: int = 64,
    ratio: int = 8,
    rotation: float = 10.0,
    snr_db: float | None = 35.0,
    sharpness: float = 10.0,
    library: str = "earthlib",
    random_state: int | np.random.Generator | None = None,
) -> Bunch:
    """A scene of linearly mixed materials, and an unregistered pair of images of it.

    Args:
        n_endmembers: materials K, one spectrum each.
        n_msi_bands: bands l of the multispectral image; 4 are blue, green, red and near infrared,
            other numbers are spread evenly over the library's wavelengths.
        size: rows and columns of the multispectral image.
        ratio: pixel size of the hyperspectral image over that of the other.
        rotation: degrees by which the hyperspectral image is turned.
        snr_db: signal-to-noise ratio of both images; None or infinity for none.
        sharpness: of the maps of materials; the larger, the fewer mixed pixels.
        library: ``"earthlib"`` for measured spectra of the package of that name, ``"synthetic"``
            for smooth random ones.
        random_state: of spectra, maps and noise.

    Returns:
        Bunch of ``hsi`` (size/ratio, size/ratio, L), ``msi`` (size, size, l), ``reference`` (size,
        size, L), ``srf`` (L, l), ``endmembers`` (K, L), ``abundances`` (size, size, K) and
        ``wavelengths`` (L,) in micrometres.

    Raises:
        ModuleNotFoundError: for measured spectra without the package that carries them.
        ValueError: for numbers out of range and an unknown library.

    Example:
        >>> from rankone.imaging import simulate_scene
        >>> scene = simulate_scene(library="synthetic", size=32, ratio=4, random_state=0)
        >>> scene.hsi.shape, scene.msi.shape
        ((8, 8, 180), (32, 32, 4))
    """
    for name, value in (
        ("n_endmembers", n_endmembers),
        ("n_msi_bands", n_msi_bands),
        ("size", size),
        ("ratio", ratio),
    ):
        _whole(value, name, 1)
    if not (np.isfinite(sharpness) and sharpness >= 0):
        raise ValueError(f"sharpness must be finite and at least 0, got {sharpness}")
    if ratio // 2 >= size:
        raise ValueError(f"ratio must leave a pixel of {size}, got {ratio}")
    generator = np.random.default_rng(random_state)
    if library == "earthlib":
        wavelengths, endmembers = _measured_spectra(n_endmembers, generator)
    elif library == "synthetic":
        wavelengths, endmembers = _smooth_spectra(n_endmembers, generator)
    else:
        raise ValueError(f"library must be 'earthlib' or 'synthetic', got {library!r}")

    margin = size // 4
    field_size = size + 2 * margin
    fields = np.empty((field_size, field_size, n_endmembers))
    for k in range(n_endmembers):
        noise = generator.standard_normal((field_size, field_size))
        field = gaussian_filter(noise, FIELD_SMOOTHNESS, mode="wrap")
        fields[..., k] = field / field.std()
    abundances = softmax(sharpness * fields, axis=-1)
    pair = observe(
        abundances @ endmembers,
        spectral_response(wavelengths, *_band_centers(n_msi_bands, wavelengths)),
        ratio=ratio,
        rotation=rotation,
        margin=margin,
        snr_db=snr_db,
        random_state=generator,
    )
    inner = slice(margin, margin + size)
    return Bunch(
        **pair,
        endmembers=endmembers,
        abundances=abundances[inner, inner],
        wavelengths=wavelengths,
    )


def _measured_spectra(
    count: int, generator: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if count > len(MATERIALS):
        raise ValueError(
            f"n_endmembers must be at most {len(MATERIALS)} with measured spectra, got {count}"
        )
    library = land_cover_spectra()
    drawn = [
        generator.choice(np.flatnonzero(library.materials == material))
        for material in MATERIALS[:count]
    ]
    return library.wavelengths, library.reflectance[drawn].clip(0, 1)


def _smooth_spectra(
    count: int, generator: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums of six Gaussians over the measured library's range, scaled to a maximum of 0.9."""
    wavelengths = np.linspace(0.4, 2.45, SYNTHETIC_BANDS)
    centers = generator.uniform(0.4, 2.45, (count, _PEAKS, 1))
    widths = generator.uniform(0.05, 0.5, (count, _PEAKS, 1))
    heights = generator.uniform(0.1, 1.0, (count, _PEAKS, 1))
    spectra = (heights * np.exp(-0.5 * ((wavelengths - centers) / widths) ** 2)).sum(axis=1)
    return wavelengths, 0.9 * spectra / spectra.max(axis=1, keepdims=True)


def _band_centers(
    count: int, wavelengths: NDArray[np.float64]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Centres and widths of ``count`` multispectral bands."""
    if count == len(FOUR_BANDS[0]):
        return FOUR_BANDS
    edges = np.linspace(wavelengths.min(), wavelengths.max(), count + 1)
    width = float(edges[1] - edges[0]) / 2
    return tuple((edges[:-1] + edges[1:]) / 2), (width,) * count


def _noisy(
    image: NDArray[np.float64], snr_db: float | None, generator: np.random.Generator
) -> NDArray[np.float64]:
    if snr_db is None:
        return image.copy()
    if np.isnan(snr_db) or snr_db == -np.inf:
        raise ValueError(f"snr_db must be a number of dB, got {snr_db}")
    deviation = np.sqrt(np.mean(image**2)) * 10 ** (-snr_db / 20)
    return image + deviation * generator.standard_normal(image.shape)


def _whole(value: int, name: str, at_least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < at_least:
        raise ValueError(f"{name} must be an integer of at least {at_least}, got {value!r}")
