"""Metrics against scikit-image, closed forms and loops over pixels."""

import numpy as np
import pytest
from rankone.imaging import ergas, psnr, rmse, sam, spectral_angle_map, ssim_bands

rng = np.random.default_rng(0)
REFERENCE = rng.uniform(0.1, 1, (12, 10, 5))
ESTIMATE = REFERENCE + 0.05 * rng.standard_normal(REFERENCE.shape)


def degrees(a, b):
    return np.degrees(np.arccos(a @ b / np.sqrt((a @ a) * (b @ b))))


class TestSpectralAngle:
    def test_of_known_vectors(self):
        assert sam([[[1.0, 0.0]]], [[[1.0, 1.0]]]) == pytest.approx(45)
        assert sam([[[1.0, 0.0]]], [[[0.0, 3.0]]]) == pytest.approx(90)

    def test_is_a_mean_over_pixels_of_angles_along_bands(self):
        angles = [degrees(REFERENCE[i, j], ESTIMATE[i, j]) for i in range(12) for j in range(10)]
        assert sam(REFERENCE, ESTIMATE) == pytest.approx(np.mean(angles))
        per_band = [degrees(REFERENCE[..., b].ravel(), ESTIMATE[..., b].ravel()) for b in range(5)]
        assert sam(REFERENCE, ESTIMATE) != pytest.approx(np.mean(per_band), rel=1e-2)

    def test_does_not_see_the_brightness_of_a_pixel(self):
        scaled = ESTIMATE * rng.uniform(0.1, 10, (12, 10, 1))
        assert sam(REFERENCE, scaled) == pytest.approx(sam(REFERENCE, ESTIMATE))

    def test_of_identical_images_is_zero_and_not_nan(self):
        # Rounding takes the cosine of equal vectors above one.
        assert sam(REFERENCE, REFERENCE) == pytest.approx(0, abs=1e-5)

    def test_leaves_out_pixels_without_a_spectrum(self):
        dark = REFERENCE.copy()
        dark[0, 0] = 0
        rest = spectral_angle_map(REFERENCE, ESTIMATE).ravel()[1:]
        assert sam(dark, ESTIMATE) == pytest.approx(rest.mean())
        assert np.isnan(spectral_angle_map(dark, ESTIMATE)[0, 0])
        assert np.isnan(sam(np.zeros((2, 2, 3)), np.ones((2, 2, 3))))


class TestErrors:
    def test_rmse_and_psnr_agree_with_scikit_image(self):
        metrics = pytest.importorskip("skimage.metrics")
        mse = metrics.mean_squared_error(REFERENCE, ESTIMATE)
        assert rmse(REFERENCE, ESTIMATE) == pytest.approx(np.sqrt(mse))
        bands = [
            metrics.peak_signal_noise_ratio(REFERENCE[..., b], ESTIMATE[..., b], data_range=2.0)
            for b in range(5)
        ]
        assert psnr(REFERENCE, ESTIMATE, data_range=2.0) == pytest.approx(np.mean(bands))

    def test_rmse_is_a_share_of_the_range(self):
        scaled = rmse(255 * REFERENCE, 255 * ESTIMATE, data_range=255)
        assert scaled == pytest.approx(rmse(REFERENCE, ESTIMATE))

    def test_psnr_of_identical_images_is_infinite(self):
        assert psnr(REFERENCE, REFERENCE) == np.inf

    def test_ergas_is_its_formula(self):
        total = 0.0
        for b in range(5):
            error = REFERENCE[..., b] - ESTIMATE[..., b]
            total += np.mean(error**2) / REFERENCE[..., b].mean() ** 2
        assert ergas(REFERENCE, ESTIMATE, 8) == pytest.approx(100 / 8 * np.sqrt(total / 5))

    def test_ssim_is_that_of_every_band(self):
        metrics = pytest.importorskip("skimage.metrics")
        bands = ssim_bands(REFERENCE, ESTIMATE, per_band=True)
        for b in range(5):
            expected = metrics.structural_similarity(
                REFERENCE[..., b], ESTIMATE[..., b], data_range=1.0
            )
            assert bands[b] == pytest.approx(expected)
        assert ssim_bands(REFERENCE, ESTIMATE) == pytest.approx(bands.mean())
        assert ssim_bands(REFERENCE, REFERENCE) == pytest.approx(1)

    def test_single_precision_and_integers_are_accepted(self):
        single = rmse(REFERENCE.astype(np.float32), ESTIMATE.astype(np.float32))
        assert single == pytest.approx(rmse(REFERENCE, ESTIMATE), rel=1e-6)
        assert rmse(np.zeros((2, 2, 2), dtype=np.uint8), np.full((2, 2, 2), 3, np.uint8)) == 3.0


class TestBadInput:
    @pytest.mark.parametrize("metric", [rmse, psnr, sam, ssim_bands, lambda a, b: ergas(a, b, 4)])
    def test_images_of_different_shapes(self, metric):
        with pytest.raises(ValueError, match=r"est must have the shape of ref, \(12, 10, 5\), got"):
            metric(REFERENCE, ESTIMATE[:, :8])

    def test_images_of_two_dimensions(self):
        with pytest.raises(ValueError, match=r"ref must have shape \(rows, columns, bands\)"):
            rmse(REFERENCE[0], ESTIMATE[0])

    def test_nan_and_complex(self):
        with pytest.raises(ValueError, match="est must be finite"):
            sam(REFERENCE, np.where(ESTIMATE > 0.5, np.nan, ESTIMATE))
        with pytest.raises(TypeError, match="ref must hold real numbers, got dtype complex128"):
            sam(REFERENCE.astype(complex), ESTIMATE)

    def test_numbers_that_are_not_positive(self):
        with pytest.raises(ValueError, match="data_range must be finite and positive, got 0"):
            psnr(REFERENCE, ESTIMATE, data_range=0)
        with pytest.raises(ValueError, match="ratio must be finite and positive, got -8"):
            ergas(REFERENCE, ESTIMATE, -8)

    def test_a_dark_band_has_no_relative_error(self):
        dark = REFERENCE.copy()
        dark[..., 3] = 0
        with pytest.raises(ValueError, match="ref must have no band of mean zero, got one at 3"):
            ergas(dark, ESTIMATE, 4)

    def test_images_below_the_window(self):
        with pytest.raises(ValueError, match="ref must be at least 7 x 7 pixels, got 6 x 10"):
            ssim_bands(REFERENCE[:6], ESTIMATE[:6])
