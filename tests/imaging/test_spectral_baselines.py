"""Ridge regression against scikit-learn and its exactness; interpolation against splines."""

import numpy as np
import pytest
from rankone.imaging import LinearSpectralRegression, rmse, simulate_scene, upsample_bicubic
from scipy.ndimage import map_coordinates
from sklearn.base import clone
from sklearn.linear_model import Ridge


@pytest.fixture(scope="module")
def scene():
    return simulate_scene(size=32, ratio=4, library="synthetic", random_state=0)


class TestRegression:
    @pytest.mark.parametrize("alpha", [1e-8, 1e-3, 1.0])
    def test_equals_ridge_with_an_intercept(self, scene, alpha):
        model = LinearSpectralRegression(alpha).fit(scene.hsi, scene.msi, scene.srf)
        spectra = scene.hsi.reshape(-1, 180)
        ridge = Ridge(alpha, solver="svd").fit(spectra @ scene.srf, spectra)
        expected = ridge.predict(scene.msi.reshape(-1, 4)).reshape(32, 32, 180)
        np.testing.assert_allclose(model.predict(), expected.clip(0, 1), atol=1e-9)

    @pytest.mark.parametrize(("materials", "bands"), [(6, 6), (5, 4), (7, 6), (2, 1)])
    def test_is_exact_for_as_many_materials_as_bands_and_one(self, materials, bands):
        # Weights that sum to one make the spectra affine in the bands.
        scene = simulate_scene(
            materials, bands, size=32, ratio=4, snr_db=None, library="synthetic", random_state=1
        )
        estimate = LinearSpectralRegression().fit_predict(scene.hsi, scene.msi, scene.srf)
        assert rmse(scene.reference, estimate) < 1e-4

    def test_is_not_exact_for_more_materials(self):
        scene = simulate_scene(
            8, 4, size=32, ratio=4, snr_db=None, library="synthetic", random_state=1
        )
        estimate = LinearSpectralRegression().fit_predict(scene.hsi, scene.msi, scene.srf)
        assert rmse(scene.reference, estimate) > 1e-3

    def test_needs_no_registration(self, scene):
        order = np.random.default_rng(0).permutation(64)
        shuffled = scene.hsi.reshape(64, 180)[order].reshape(8, 8, 180)
        model = LinearSpectralRegression()
        expected = model.fit_predict(scene.hsi, scene.msi, scene.srf)
        np.testing.assert_allclose(
            model.fit_predict(shuffled, scene.msi, scene.srf), expected, atol=1e-9
        )

    def test_conventions(self, scene):
        model = LinearSpectralRegression(0.5)
        assert clone(model).get_params() == {"alpha": 0.5}
        with pytest.raises(ValueError, match="alpha must be finite and at least 0, got -1"):
            LinearSpectralRegression(-1).fit(scene.hsi, scene.msi, scene.srf)
        with pytest.raises(ValueError, match="msi must have 4 bands, got 3"):
            model.fit(scene.hsi, scene.msi, scene.srf).predict(scene.msi[..., :3])


class TestBicubic:
    def test_covers_the_same_ground(self):
        # Pixel centres of both grids in the unit square; splines with edges continued.
        hsi = np.random.default_rng(0).random((5, 6, 2))
        rows = (np.arange(20) + 0.5) / 20 * 5 - 0.5
        columns = (np.arange(24) + 0.5) / 24 * 6 - 0.5
        grid = np.meshgrid(rows, columns, indexing="ij")
        expected = map_coordinates(hsi[..., 1], grid, order=3, mode="nearest").clip(0, 1)
        found = upsample_bicubic(hsi, (20, 24))
        np.testing.assert_allclose(found[3:-3, 3:-3, 1], expected[3:-3, 3:-3], atol=1e-6)

    def test_bands_do_not_mix_and_constants_stay(self):
        spectrum = np.array([0.1, 0.5, 0.9])
        found = upsample_bicubic(np.tile(spectrum, (4, 4, 1)), (16, 12))
        np.testing.assert_allclose(found, np.tile(spectrum, (16, 12, 1)))

    @pytest.mark.parametrize("shape", [(16,), (16, 0), (16, 2.5)])
    def test_rejects_shapes(self, shape):
        with pytest.raises(ValueError, match="shape must be two positive integers, got"):
            upsample_bicubic(np.zeros((4, 4, 3)), shape)
