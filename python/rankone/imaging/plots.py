"""Pictures of bands, spectra, errors and fits. Each draws into ``ax`` and returns it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rankone.imaging._validation import check_image
from rankone.imaging.metrics import spectral_angle_map

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Red, green and blue of a false-colour picture where wavelengths are known, in micrometres.
RGB_WAVELENGTHS = (0.665, 0.56, 0.49)
STRETCH_PERCENTILES = (2, 98)


def plot_band(
    image: ArrayLike,
    band: int,
    *,
    wavelengths: ArrayLike | None = None,
    limits: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """One band of an image, in grey.

    Args:
        image: (M, N, L).
        band: index, negative ones from the end.
        wavelengths: (L,) micrometres, for the title.
        limits: values shown black and white; by default the band's extremes.
        ax: axes to draw in; by default new ones.

    Returns:
        The axes.

    Raises:
        ValueError: for a band that the image lacks.

    Example:
        >>> import numpy as np
        >>> from rankone.imaging import plot_band
        >>> plot_band(np.random.default_rng(0).random((8, 8, 3)), 1).get_title()
        'band 1'
    """
    image = check_image(image, "image")
    if not -image.shape[2] <= band < image.shape[2]:
        raise ValueError(f"band must be one of {image.shape[2]}, got {band}")
    title = f"band {band % image.shape[2]}"
    if wavelengths is not None:
        title += f", {_wavelengths(wavelengths, image.shape[2])[band]:.3g} µm"
    low, high = limits or (None, None)
    axes = _picture_axes(ax, title)
    axes.imshow(image[..., band], cmap="gray", vmin=low, vmax=high)
    return axes


def plot_false_colour(
    image: ArrayLike,
    *,
    wavelengths: ArrayLike | None = None,
    bands: Sequence[int] | None = None,
    limits: ArrayLike | None = None,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Three bands of an image as red, green and blue, each stretched to its 2nd to 98th percentile.

    Args:
        image: (M, N, L).
        wavelengths: (L,) micrometres; the bands nearest to red, green and blue light are shown.
        bands: three indices, in place of those; without either, bands at 3/4, 1/2 and 1/4.
        limits: (3, 2) values shown dark and bright in place of the percentiles, to show several
            pictures alike; see :func:`false_colour_limits`.
        title: of the picture.
        ax: axes to draw in; by default new ones.

    Returns:
        The axes.

    Raises:
        ValueError: for bands that the image lacks, or limits of another shape.

    Example:
        >>> import numpy as np
        >>> from rankone.imaging import plot_false_colour
        >>> plot_false_colour(np.random.default_rng(0).random((8, 8, 9))).images[0].get_size()
        (8, 8)
    """
    image = check_image(image, "image")
    chosen = image[..., _rgb_bands(image, wavelengths, bands)]
    if limits is None:
        bounds = np.percentile(chosen, STRETCH_PERCENTILES, axis=(0, 1)).T
    else:
        bounds = np.asarray(limits, dtype=np.float64)
        if bounds.shape != (3, 2):
            raise ValueError(f"limits must have shape (3, 2), got {bounds.shape}")
    width = np.maximum(bounds[:, 1] - bounds[:, 0], np.finfo(float).tiny)
    axes = _picture_axes(ax, title)
    axes.imshow(((chosen - bounds[:, 0]) / width).clip(0, 1))
    return axes


def false_colour_limits(
    image: ArrayLike,
    *,
    wavelengths: ArrayLike | None = None,
    bands: Sequence[int] | None = None,
) -> NDArray[np.float64]:
    """The percentiles that :func:`plot_false_colour` would stretch an image to.

    Args:
        image: (M, N, L).
        wavelengths, bands: as in :func:`plot_false_colour`.

    Returns:
        (3, 2): low and high limit of each channel.

    Example:
        >>> import numpy as np
        >>> from rankone.imaging import false_colour_limits
        >>> false_colour_limits(np.random.default_rng(0).random((8, 8, 5))).shape
        (3, 2)
    """
    image = check_image(image, "image")
    chosen = image[..., _rgb_bands(image, wavelengths, bands)]
    return np.percentile(chosen, STRETCH_PERCENTILES, axis=(0, 1)).T


def plot_error_map(
    ref: ArrayLike,
    est: ArrayLike,
    *,
    kind: str = "sam",
    maximum: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Error of every pixel: its spectral angle in degrees, or its root mean square over bands.

    Args:
        ref, est: (M, N, L) reference and estimate.
        kind: ``"sam"`` or ``"rmse"``.
        maximum: value shown brightest; by default the largest.
        ax: axes to draw in; by default new ones.

    Returns:
        The axes, with a colour bar beside them.

    Raises:
        ValueError: for images of different shapes, and another kind.

    Example:
        >>> import numpy as np
        >>> from rankone.imaging import plot_error_map
        >>> image = np.random.default_rng(0).random((8, 8, 3))
        >>> plot_error_map(image, image**2, kind="rmse").images[0].get_size()
        (8, 8)
    """
    if kind not in ("sam", "rmse"):
        raise ValueError(f"kind must be 'sam' or 'rmse', got {kind!r}")
    angles = spectral_angle_map(ref, est)
    if kind == "sam":
        values, label = angles, "spectral angle (degrees)"
    else:
        difference = np.asarray(ref, dtype=np.float64) - np.asarray(est, dtype=np.float64)
        values, label = np.sqrt(np.mean(difference**2, axis=2)), "RMSE of the pixel"
    axes = _picture_axes(ax, "")
    picture = axes.imshow(values, cmap="magma", vmin=0, vmax=maximum)
    axes.figure.colorbar(picture, ax=axes, label=label, shrink=0.8)
    return axes


def plot_spectra(
    images: Mapping[str, ArrayLike],
    pixels: Sequence[tuple[int, int]],
    *,
    wavelengths: ArrayLike | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Spectra of some pixels in several images: a colour a pixel, a line style an image.

    Args:
        images: name -> (M, N, L).
        pixels: (row, column) of each.
        wavelengths: (L,) micrometres, for the axis; by default band numbers.
        ax: axes to draw in; by default new ones.

    Returns:
        The axes.

    Raises:
        ValueError: for no images or pixels, pixels outside, and images of different shapes.

    Example:
        >>> import numpy as np
        >>> from rankone.imaging import plot_spectra
        >>> image = np.random.default_rng(0).random((8, 8, 3))
        >>> len(plot_spectra({"a": image, "b": image**2}, [(0, 0), (3, 4)]).lines)
        4
    """
    if not images or not len(pixels):
        raise ValueError(f"images and pixels must not be empty, got {len(images)}, {len(pixels)}")
    arrays = {name: check_image(image, f"images[{name!r}]") for name, image in images.items()}
    shape = next(iter(arrays.values())).shape
    for name, array in arrays.items():
        if array.shape != shape:
            raise ValueError(f"images[{name!r}] must have shape {shape}, got {array.shape}")
    for row, column in pixels:
        if not (0 <= row < shape[0] and 0 <= column < shape[1]):
            raise ValueError(f"pixels must lie in {shape[:2]}, got {(row, column)}")
    along = np.arange(shape[2]) if wavelengths is None else _wavelengths(wavelengths, shape[2])
    axes = ax if ax is not None else _new_axes()
    styles = ("-", "--", ":", "-.")
    for number, (row, column) in enumerate(pixels):
        for place, (name, array) in enumerate(arrays.items()):
            axes.plot(
                along,
                array[row, column],
                styles[place % len(styles)],
                color=f"C{number}",
                linewidth=1.5,
                label=name if number == 0 else None,
            )
    axes.set_xlabel("band" if wavelengths is None else "wavelength (µm)")
    axes.set_ylabel("reflectance")
    axes.legend()
    return axes


def plot_abundances(abundances: ArrayLike, base: int, *, ax: Axes | None = None) -> Axes:
    """Weight of one base at every pixel.

    Args:
        abundances: (M, N, k), such as ``DirichletSpectralFusion.abundances_``.
        base: index, negative ones from the end.
        ax: axes to draw in; by default new ones.

    Returns:
        The axes, with a colour bar beside them.

    Raises:
        ValueError: for a base that is not there.

    Example:
        >>> import numpy as np
        >>> from rankone.imaging import plot_abundances
        >>> plot_abundances(np.full((8, 8, 3), 1 / 3), 2).get_title()
        'base 2'
    """
    weights = check_image(abundances, "abundances")
    if not -weights.shape[2] <= base < weights.shape[2]:
        raise ValueError(f"base must be one of {weights.shape[2]}, got {base}")
    axes = _picture_axes(ax, f"base {base % weights.shape[2]}")
    picture = axes.imshow(weights[..., base], cmap="viridis", vmin=0, vmax=1)
    axes.figure.colorbar(picture, ax=axes, label="weight", shrink=0.8)
    return axes


def plot_loss(
    loss_curve: Mapping[str, ArrayLike], term: str = "reconstruction", *, ax: Axes | None = None
) -> Axes:
    """A term of the loss against the step.

    Args:
        loss_curve: ``DirichletSpectralFusion.loss_curve_``.
        term: which of its curves; a positive one is drawn on a logarithmic axis.
        ax: axes to draw in; by default new ones.

    Returns:
        The axes.

    Raises:
        ValueError: for a term that is not there.

    Example:
        >>> from rankone.imaging import plot_loss
        >>> plot_loss({"reconstruction": [3.0, 2.0, 1.5]}).get_yscale()
        'log'
    """
    if term not in loss_curve:
        raise ValueError(f"term must be one of {', '.join(loss_curve)}, got {term!r}")
    values = np.asarray(loss_curve[term], dtype=np.float64)
    axes = ax if ax is not None else _new_axes()
    axes.plot(np.arange(len(values)), values)
    if (values > 0).all():
        axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel(term.replace("_", " "))
    return axes


def _rgb_bands(
    image: NDArray, wavelengths: ArrayLike | None, bands: Sequence[int] | None
) -> list[int]:
    count = image.shape[2]
    if bands is not None:
        if len(bands) != 3 or not all(-count <= band < count for band in bands):
            raise ValueError(f"bands must be three of {count}, got {tuple(bands)}")
        return list(bands)
    if wavelengths is None:
        return [3 * count // 4, count // 2, count // 4]
    along = _wavelengths(wavelengths, count)
    return [int(np.abs(along - wanted).argmin()) for wanted in RGB_WAVELENGTHS]


def _wavelengths(wavelengths: ArrayLike, count: int) -> NDArray[np.float64]:
    array = np.asarray(wavelengths, dtype=np.float64)
    if array.shape != (count,):
        raise ValueError(f"wavelengths must have shape ({count},), got {array.shape}")
    return array


def _new_axes() -> Any:
    import matplotlib.pyplot as plt

    return plt.subplots(layout="constrained")[1]


def _picture_axes(ax: Axes | None, title: str) -> Any:
    axes = ax if ax is not None else _new_axes()
    axes.set_title(title)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    return axes
