"""What a network for unregistered fusion has to beat: regression of spectra, and interpolation."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import zoom
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from rankone.imaging._validation import check_image, check_pair, check_scaled_image


class LinearSpectralRegression(BaseEstimator):
    """Ridge regression of full spectra on their projections to the multispectral bands.

    Learned on the pixels of the low-resolution image alone, y R -> y, and applied to the
    multispectral pixels: it needs no registration either. Where at most l + 1 materials mix
    linearly and there is no noise it is exact up to the penalty, since abundances that sum to one
    make the spectra an affine function of l bands. A baseline of this project's own, not of the
    paper.

    Args:
        alpha: penalty on the coefficients, not on the intercept.

    Attributes:
        coef_: (l, L).
        mean_spectrum_: (L,) of the low-resolution image.
        srf_: (L, l) responses with columns of sum one.

    Example:
        >>> from rankone.imaging import LinearSpectralRegression, simulate_scene, rmse
        >>> mixed = {"snr_db": None, "library": "synthetic", "random_state": 0}
        >>> scene = simulate_scene(5, size=32, ratio=4, **mixed)
        >>> model = LinearSpectralRegression(alpha=0).fit(scene.hsi, scene.msi, scene.srf)
        >>> rmse(scene.reference, model.predict()) < 1e-6
        True
    """

    def __init__(self, alpha: float = 1e-8) -> None:
        self.alpha = alpha

    def fit(self, hsi: ArrayLike, msi: ArrayLike, srf: ArrayLike) -> Self:
        """Learn from the pixels of ``hsi``; ``msi`` is kept as what :meth:`predict` applies to.

        Args:
            hsi: (m, n, L) low-resolution hyperspectral image in [0, 1].
            msi: (M, N, l) high-resolution multispectral image in [0, 1].
            srf: (L, l) spectral responses, columns scaled to sum one.

        Raises:
            ValueError: for images or responses that do not match or are out of range, and a
                negative ``alpha``.
        """
        if not (np.isfinite(self.alpha) and self.alpha >= 0):
            raise ValueError(f"alpha must be finite and at least 0, got {self.alpha}")
        hsi, msi, self.srf_ = check_pair(hsi, msi, srf)
        spectra = hsi.reshape(-1, hsi.shape[2])
        self.mean_spectrum_ = spectra.mean(axis=0)
        centred = spectra - self.mean_spectrum_
        projected = centred @ self.srf_
        # As least squares on rows extended by the penalty: the normal equations would square the
        # condition, which noise-free bands that nearly depend on each other cannot afford.
        penalty = np.sqrt(self.alpha) * np.eye(projected.shape[1])
        zeros = np.zeros((projected.shape[1], centred.shape[1]))
        self.coef_ = np.linalg.lstsq(
            np.vstack([projected, penalty]), np.vstack([centred, zeros]), rcond=None
        )[0]
        self._msi = msi
        return self

    def predict(self, msi: ArrayLike | None = None) -> NDArray[np.float64]:
        """Full spectra of every pixel, clipped to [0, 1].

        Args:
            msi: (M, N, l) image; by default the one given to :meth:`fit`.

        Returns:
            (M, N, L).
        """
        check_is_fitted(self)
        if msi is None:
            msi = self._msi
        msi = check_scaled_image(msi, "msi", bands=self.srf_.shape[1])
        centred = msi - self.mean_spectrum_ @ self.srf_
        return (centred @ self.coef_ + self.mean_spectrum_).clip(0, 1)

    def fit_predict(self, hsi: ArrayLike, msi: ArrayLike, srf: ArrayLike) -> NDArray[np.float64]:
        """:meth:`fit`, then :meth:`predict` of the same image."""
        return self.fit(hsi, msi, srf).predict()


def upsample_bicubic(hsi: ArrayLike, shape: tuple[int, int]) -> NDArray[np.float64]:
    """A low-resolution image by cubic splines on a finer grid, clipped to [0, 1].

    Takes the two grids to cover the same ground, which unregistered images do not.

    Args:
        hsi: (m, n, L) image.
        shape: rows and columns (M, N) of the result.

    Returns:
        (M, N, L).

    Raises:
        ValueError: for a shape that is not two positive integers.

    Example:
        >>> import numpy as np
        >>> from rankone.imaging import upsample_bicubic
        >>> upsample_bicubic(np.full((4, 4, 3), 0.5), (16, 16)).shape
        (16, 16, 3)
    """
    hsi = check_image(hsi, "hsi")
    if len(shape) < 2 or any(int(size) != size or size < 1 for size in shape[:2]):
        raise ValueError(f"shape must be two positive integers, got {shape}")
    factors = (shape[0] / hsi.shape[0], shape[1] / hsi.shape[1], 1)
    return zoom(hsi, factors, order=3, mode="nearest", grid_mode=True).clip(0, 1)
