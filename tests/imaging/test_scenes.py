"""Simulated scenes and sensors against their definitions."""

import numpy as np
import pytest
from rankone.imaging import observe, simulate_scene, spectral_response
from rankone.imaging.scenes import MATERIALS
from scipy.ndimage import gaussian_filter, rotate
from scipy.special import softmax


def noise_free(**changes):
    options = {"size": 32, "ratio": 4, "library": "synthetic", "snr_db": None, "random_state": 3}
    return simulate_scene(**options | changes)


class TestResponse:
    def test_columns_sum_to_one_and_peak_at_their_centres(self):
        wavelengths = np.linspace(0.4, 1, 601)
        srf = spectral_response(wavelengths, [0.5, 0.8], [0.05, 0.1])
        np.testing.assert_allclose(srf.sum(axis=0), 1)
        np.testing.assert_allclose(wavelengths[srf.argmax(axis=0)], [0.5, 0.8])

    def test_half_of_the_peak_at_half_the_width(self):
        srf = spectral_response(np.array([0.5, 0.525]), [0.5], 0.05)
        assert srf[1, 0] / srf[0, 0] == pytest.approx(0.5, abs=1e-4)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (([[0.5]], [0.5], 0.1), r"wavelengths must have one dimension, got shape \(1, 1\)"),
            (([0.5], [0.5, 0.6], [0.1] * 3), r"fwhm must be a number or of shape \(2,\), got"),
            (([0.5], [0.5], 0.0), "fwhm must be positive, got a minimum of 0"),
            (([0.5], [np.nan], 0.1), "must be finite, got NaN or infinity"),
            (([0.5, 0.6], [9.0], 0.01), "centers must lie near a wavelength, 0.5 to 0.6, got 9"),
        ],
    )
    def test_rejects(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            spectral_response(*arguments)


class TestScene:
    def test_shapes_and_ranges(self):
        scene = simulate_scene(library="synthetic", random_state=0)
        assert scene.hsi.shape == (8, 8, 180)
        assert scene.msi.shape == (64, 64, 4)
        assert scene.reference.shape == (64, 64, 180)
        assert scene.srf.shape == (180, 4)
        assert scene.endmembers.shape == (8, 180)
        assert scene.abundances.shape == (64, 64, 8)
        np.testing.assert_allclose(scene.endmembers.max(axis=1), 0.9)
        np.testing.assert_allclose(scene.abundances.sum(axis=2), 1)

    def test_mixes_linearly_and_projects_exactly_without_noise(self):
        scene = noise_free()
        np.testing.assert_allclose(scene.reference, scene.abundances @ scene.endmembers)
        np.testing.assert_allclose(scene.msi, scene.reference @ scene.srf)

    def test_follows_its_recipe_field_by_field(self):
        scene = noise_free(n_endmembers=3, rotation=7.0)
        rng = np.random.default_rng(3)
        for _ in range(3):  # centres, widths, heights of the spectra
            rng.uniform(size=(3, 6, 1))
        fields = []
        for _ in range(3):
            field = gaussian_filter(rng.standard_normal((48, 48)), 3, mode="wrap")
            fields.append(field / field.std())
        mixed = softmax(10 * np.stack(fields, axis=-1), axis=-1) @ scene.endmembers
        np.testing.assert_allclose(scene.reference, mixed[8:40, 8:40])
        band = rotate(mixed[..., 50], 7.0, reshape=False, order=1, mode="nearest")
        band = gaussian_filter(band, 4 / 2.355)[8:40, 8:40]
        np.testing.assert_allclose(scene.hsi[..., 50], band[2::4, 2::4], atol=1e-12)

    def test_is_repeatable_and_differs_between_seeds(self):
        first, again, other = (noise_free(snr_db=30.0, random_state=seed) for seed in (1, 1, 2))
        np.testing.assert_array_equal(first.hsi, again.hsi)
        assert not np.allclose(first.hsi, other.hsi)

    def test_turning_changes_the_hyperspectral_image_alone(self):
        straight, turned = noise_free(rotation=0.0), noise_free(rotation=20.0)
        np.testing.assert_array_equal(straight.msi, turned.msi)
        assert np.abs(straight.hsi - turned.hsi).max() > 0.05

    @pytest.mark.parametrize("name", ["hsi", "msi"])
    def test_noise_has_the_asked_ratio(self, name):
        clean, noisy = noise_free()[name], noise_free(snr_db=20.0)[name]
        ratio = 10 * np.log10(np.mean(clean**2) / np.mean((noisy - clean) ** 2))
        assert ratio == pytest.approx(20, abs=0.5)

    def test_infinite_ratio_is_no_noise(self):
        np.testing.assert_array_equal(noise_free(snr_db=np.inf).msi, noise_free().msi)

    def test_other_numbers_of_bands(self):
        for bands in (1, 3, 6):
            assert noise_free(n_msi_bands=bands).msi.shape == (32, 32, bands)

    def test_measured_spectra_are_of_the_named_materials(self):
        spectra = pytest.importorskip("rankone.datasets.spectra")
        try:
            library = spectra.land_cover_spectra()
        except ModuleNotFoundError as error:
            pytest.skip(str(error))
        scene = simulate_scene(size=16, ratio=4, random_state=0)
        for material, spectrum in zip(MATERIALS, scene.endmembers, strict=False):
            of_class = library.reflectance[library.materials == material].clip(0, 1)
            assert (np.abs(of_class - spectrum).max(axis=1) == 0).any()
        np.testing.assert_allclose(scene.wavelengths[[0, -1]], [0.4, 2.45], atol=0.011)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"n_endmembers": 0}, "n_endmembers must be an integer of at least 1, got 0"),
            ({"size": 32.5}, "size must be an integer of at least 1, got 32.5"),
            ({"ratio": 64}, "ratio must leave a pixel of 32, got 64"),
            ({"sharpness": -1.0}, "sharpness must be finite and at least 0, got -1"),
            ({"library": "usgs"}, "library must be 'earthlib' or 'synthetic', got 'usgs'"),
            ({"snr_db": np.nan}, "snr_db must be a number of dB, got nan"),
            ({"rotation": np.inf}, "rotation must be finite, got inf"),
        ],
    )
    def test_rejects(self, changes, message):
        with pytest.raises(ValueError, match=message):
            noise_free(**changes)


class TestObserve:
    scene = np.random.default_rng(0).random((40, 48, 6))
    srf = np.eye(6)[:, :3]

    def test_a_crop_is_seen_by_the_multispectral_image_alone(self):
        pair = observe(self.scene, self.srf, ratio=4, crop=0.2, snr_db=None)
        assert pair.hsi.shape == (8, 9, 6)  # 4 and 5 pixels off at every edge
        assert pair.msi.shape == (40, 48, 3)
        blurred = gaussian_filter(self.scene, (4 / 2.355, 4 / 2.355, 0))
        np.testing.assert_allclose(pair.hsi, blurred[4:36, 5:43][2::4, 2::4])

    def test_a_margin_is_seen_by_neither(self):
        pair = observe(self.scene, self.srf, ratio=4, margin=4, snr_db=None)
        np.testing.assert_array_equal(pair.reference, self.scene[4:-4, 4:-4])
        assert pair.hsi.shape == (8, 10, 6)

    def test_responses_are_scaled_to_sum_one(self):
        pair = observe(self.scene, 5 * self.srf, ratio=4, snr_db=None)
        np.testing.assert_allclose(pair.msi, self.scene[..., :3])

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"srf": np.eye(5)}, "srf must have 6 rows, got 5"),
            ({"crop": 1.0}, r"crop must be in \[0, 1\), got 1"),
            ({"margin": 20}, r"margin must leave pixels of \(40, 48\), got 20"),
            ({"ratio": 0}, "ratio must be an integer of at least 1, got 0"),
            ({"ratio": 100}, r"ratio must be below the \(40, 48\) pixels seen, got 100"),
        ],
    )
    def test_rejects(self, changes, message):
        with pytest.raises(ValueError, match=message):
            observe(**{"scene": self.scene, "srf": self.srf} | changes)
