"""Fusion of unregistered pairs: its loss written out, its symmetries, and what it gains."""

import pickle

import numpy as np
import pytest
import torch
from rankone.imaging import (
    DirichletSpectralFusion,
    LinearSpectralRegression,
    rmse,
    sam,
    simulate_scene,
    upsample_bicubic,
)
from rankone.imaging import spectral_fusion as module
from rankone.nn.dirichlet_encoder import DirichletEncoder
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

FLOAT32 = 1e-6
SHORT = {"n_bases": 6, "encoder_width": 3, "max_iter": 30, "lr": 1e-2, "random_state": 0}
QUICK = {
    "n_bases": 12,
    "encoder_width": 4,
    "max_iter": 400,
    "lr": 1e-2,
    "lr_final": 5e-4,
    "random_state": 0,
}


@pytest.fixture(autouse=True)
def one_thread(threads):
    threads(1)  # a few hundred pixels


@pytest.fixture(scope="module")
def scene():
    return simulate_scene(size=32, ratio=4, library="synthetic", random_state=0)


@pytest.fixture(scope="module")
def fitted(scene):
    return DirichletSpectralFusion(**QUICK).fit(scene.hsi, scene.msi, scene.srf)


def fit(scene, **changes):
    return DirichletSpectralFusion(**SHORT | changes).fit(scene.hsi, scene.msi, scene.srf)


class TestAfterQuickTraining:
    def test_beats_interpolation_which_needs_registration(self, scene, fitted):
        interpolated = upsample_bicubic(scene.hsi, (32, 32))
        assert rmse(scene.reference, fitted.predict()) < 0.75 * rmse(scene.reference, interpolated)
        assert sam(scene.reference, fitted.predict()) < sam(scene.reference, interpolated)

    def test_rotation_of_the_hyperspectral_image_hardly_matters(self):
        ours, theirs = [], []
        for angle in (0.0, 20.0):
            scene = simulate_scene(
                size=32, ratio=4, rotation=angle, library="synthetic", random_state=0
            )
            model = DirichletSpectralFusion(**QUICK | {"max_iter": 300})
            estimate = model.fit_predict(scene.hsi, scene.msi, scene.srf)
            ours.append(rmse(scene.reference, estimate))
            theirs.append(rmse(scene.reference, upsample_bicubic(scene.hsi, (32, 32))))
        assert max(ours) / min(ours) < 1.2
        assert theirs[1] / theirs[0] > 1.2

    def test_projects_back_to_the_multispectral_image(self, scene, fitted):
        error = fitted.predict() @ scene.srf - scene.msi
        assert np.linalg.norm(error) < 0.08 * np.linalg.norm(scene.msi)

    def test_weights_are_nonnegative_with_sum_at_most_one(self, fitted):
        assert fitted.abundances_.shape == (32, 32, 12)
        assert fitted.abundances_.min() >= 0
        assert fitted.abundances_.sum(axis=2).max() <= 1 + FLOAT32

    def test_loses_only_where_regression_is_exact(self):
        scene = simulate_scene(
            5, 4, size=32, ratio=4, snr_db=None, library="synthetic", random_state=0
        )
        estimate = DirichletSpectralFusion(**QUICK).fit_predict(scene.hsi, scene.msi, scene.srf)
        exact = LinearSpectralRegression().fit_predict(scene.hsi, scene.msi, scene.srf)
        assert rmse(scene.reference, exact) < 1e-4 < rmse(scene.reference, estimate)

    def test_keeps_the_state_of_the_lowest_reconstruction_loss(self, scene, fitted):
        curve = fitted.loss_curve_["reconstruction"]
        assert fitted.reconstruction_error_ <= curve.min()
        spectra = fitted.transform(scene.hsi, "hsi") @ (fitted.bases_ - fitted.mean_spectrum_)
        loss = np.linalg.norm(spectra + fitted.mean_spectrum_ - scene.hsi, axis=2).sum()
        centred = fitted.abundances_ @ (fitted.bases_ - fitted.mean_spectrum_)
        projected = (centred + fitted.mean_spectrum_) @ scene.srf
        loss += np.linalg.norm(projected - scene.msi, axis=2).sum() / 4**2
        assert fitted.reconstruction_error_ == pytest.approx(loss, rel=1e-4)


class TestPixelWise:
    def test_a_turned_image_gives_the_turned_result(self, scene, fitted):
        turned = fitted.predict(np.rot90(scene.msi))
        np.testing.assert_allclose(turned, np.rot90(fitted.predict()), atol=FLOAT32)

    def test_permuted_pixels_give_the_permuted_result(self, scene, fitted):
        order = np.random.default_rng(0).permutation(1024)
        permuted = scene.msi.reshape(-1, 4)[order].reshape(32, 32, 4)
        found = fitted.predict(permuted).reshape(-1, 180)
        np.testing.assert_allclose(found, fitted.predict().reshape(-1, 180)[order], atol=FLOAT32)

    def test_predicts_images_of_any_size(self, scene, fitted):
        found = fitted.predict(scene.msi[:5, :3])
        np.testing.assert_allclose(found, fitted.predict()[:5, :3], atol=FLOAT32)

    def test_blocks_change_nothing(self, scene, fitted, monkeypatch):
        whole = fitted.predict(scene.msi)
        monkeypatch.setattr(module, "BLOCK_PIXELS", 100)
        np.testing.assert_allclose(fitted.predict(scene.msi), whole, atol=FLOAT32)

    def test_training_does_not_see_where_pixels_lie(self, scene):
        # The multispectral grid never meets the hyperspectral one: any other shape will do.
        flat = scene.msi.reshape(16, 64, 4)
        one = DirichletSpectralFusion(**SHORT).fit_predict(scene.hsi, scene.msi, scene.srf)
        other = DirichletSpectralFusion(**SHORT).fit_predict(scene.hsi, flat, scene.srf)
        np.testing.assert_allclose(other.reshape(32, 32, 180), one, atol=1e-5)

    def test_one_encoder_serves_both_images(self, scene, fitted):
        # The hyperspectral image enters by its projection, not in its own bands.
        projected = scene.hsi @ scene.srf
        np.testing.assert_allclose(
            fitted.transform(scene.hsi, "hsi"), fitted.transform(projected), atol=1e-5
        )
        assert isinstance(fitted.encoder_, DirichletEncoder)
        assert fitted.encoder_.in_features == 4


class TestLoss:
    def pair(self, scene, msi_mean=None):
        mean = scene.hsi.mean(axis=(0, 1))
        msi_mean = mean @ scene.srf if msi_mean is None else msi_mean
        device = torch.device("cpu")
        return module._Pair.of(scene.hsi, scene.msi, scene.srf, mean, msi_mean, device)

    @pytest.mark.parametrize("norm", ["l21", "l2"])
    def test_is_its_formula(self, scene, norm):
        pair = self.pair(scene)
        model = module._FusionNetwork(pair, 6, 3, seed=0)
        with torch.no_grad():
            terms = model.terms(pair, None, norm, True, torch.Generator().manual_seed(0))
            bases = (model.mix @ model.spectra).double().numpy()
            mean = scene.hsi.mean(axis=(0, 1))
            reconstruction = sparsity = 0.0
            for image, share in ((scene.hsi @ scene.srf, 1.0), (scene.msi, 1 / 4**2)):
                centred = image.reshape(-1, 4) - mean @ scene.srf
                codes = model.encoder(torch.as_tensor(centred).float()).double().numpy()
                spectra = codes @ bases + mean
                if share == 1:
                    residuals = spectra - scene.hsi.reshape(-1, 180)
                else:
                    residuals = spectra @ scene.srf - scene.msi.reshape(-1, 4)
                lengths = np.array([np.sqrt(np.sum(row**2)) for row in residuals])
                reconstruction += share * np.sum(lengths if norm == "l21" else lengths**2)
                p = codes / (codes.sum(axis=1, keepdims=True) + 1e-8)
                sparsity += np.mean(-np.sum(p * np.log(p + 1e-8), axis=1))
        assert float(terms["reconstruction"]) == pytest.approx(reconstruction, rel=1e-4)
        assert float(terms["sparsity"]) == pytest.approx(sparsity, rel=1e-4)
        volume = np.mean([np.abs(base + mean).sum() for base in bases])
        assert float(terms["volume"]) == pytest.approx(volume, rel=1e-4)

    def test_total_is_the_weighted_sum(self, scene):
        model = fit(scene, lr_final=1e-3, mi_weight=0.3, sparsity_weight=0.2, volume_weight=0.1)
        curve = model.loss_curve_
        expected = curve["reconstruction"] - 0.3 * curve["mutual_information"]
        expected = expected + 0.2 * curve["sparsity"] + 0.1 * curve["volume"]
        np.testing.assert_allclose(curve["total"], expected, rtol=1e-5)
        assert all(len(values) == model.n_iter_ == 30 for values in curve.values())

    def test_weights_decay_with_the_learning_rate_at_the_papers_schedule(self, scene):
        model = fit(scene, sparsity_weight=5.0, mi_weight=0.0, volume_weight=0.0, decay=0.9)
        curve = model.loss_curve_
        weight = (curve["total"] - curve["reconstruction"]) / curve["sparsity"]
        np.testing.assert_allclose(weight, 5 * 0.9 ** np.arange(30), rtol=1e-2)

    def test_learning_rate_reaches_its_final_value_and_ignores_decay(self):
        model = DirichletSpectralFusion(max_iter=5, lr=1e-2, lr_final=1e-4, decay=0.5)
        rates = [model.lr * model._schedule(step)[0] for step in range(5)]
        np.testing.assert_allclose(rates, np.geomspace(1e-2, 1e-4, 5))
        assert {model._schedule(step)[1] for step in range(5)} == {1.0}

    def test_mutual_information_rises_above_that_of_independence(self, fitted):
        # Both images together: -4 log 2 if nothing were seen.
        information = fitted.loss_curve_["mutual_information"]
        assert information[-1] > -4 * np.log(2) + 0.3

    def test_without_its_weight_there_is_no_estimate(self, scene):
        model = fit(scene, mi_weight=0.0)
        assert np.isnan(model.loss_curve_["mutual_information"]).all()
        assert np.isfinite(model.loss_curve_["total"]).all()


class TestOptions:
    def test_same_seed_same_result_other_seed_another(self, scene):
        first, again = fit(scene), fit(scene)
        np.testing.assert_array_equal(first.bases_, again.bases_)
        assert not np.allclose(first.bases_, fit(scene, random_state=1).bases_)

    def test_global_random_state_is_left_alone(self, scene):
        of_torch, of_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
        fit(scene)
        assert torch.equal(torch.get_rng_state(), of_torch)
        assert (np.random.get_state()[1] == of_numpy).all()  # noqa: NPY002

    def test_more_starts_keep_the_best(self, scene):
        errors = [fit(scene, n_init=count).reconstruction_error_ for count in (1, 3)]
        assert errors[1] <= errors[0]

    def test_own_mean_is_the_multispectral_images(self, scene):
        model = fit(scene, msi_mean="own")
        np.testing.assert_allclose(model.msi_mean_, scene.msi.mean(axis=(0, 1)))
        projected = fit(scene)
        np.testing.assert_allclose(
            projected.msi_mean_, scene.hsi.mean(axis=(0, 1)) @ projected.srf_
        )

    def test_own_mean_shifts_spectra_of_other_ground(self, scene):
        # A multispectral image that shows a bright part only: its mean is not the scene's.
        brightness = scene.msi.sum(axis=2)
        bright = scene.msi[brightness > np.quantile(brightness, 0.75)].reshape(16, 16, 4)
        errors = {}
        for msi_mean in ("projected", "own"):
            model = DirichletSpectralFusion(**QUICK | {"msi_mean": msi_mean, "max_iter": 150})
            estimate = model.fit_predict(scene.hsi, bright, scene.srf)
            errors[msi_mean] = np.abs((estimate @ scene.srf - bright).mean())
        assert errors["projected"] < 0.5 * errors["own"]

    def test_subsets_of_pixels(self, scene):
        model = DirichletSpectralFusion(**QUICK | {"batch_pixels": 256})
        estimate = model.fit_predict(scene.hsi, scene.msi, scene.srf)
        interpolated = upsample_bicubic(scene.hsi, (32, 32))
        assert rmse(scene.reference, estimate) < 0.75 * rmse(scene.reference, interpolated)

    def test_subset_loss_is_unbiased(self, scene):
        pair = TestLoss().pair(scene)
        model = module._FusionNetwork(pair, 6, 3, seed=0)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            whole = model.terms(pair, None, "l21", False, generator)["reconstruction"]
            parts = [
                model.terms(pair, part, "l21", False, generator)["reconstruction"]
                for part in torch.randperm(1024, generator=generator).split(256)
            ]
        assert float(torch.stack(parts).mean()) == pytest.approx(float(whole), rel=1e-5)

    def test_stops_early_only_with_a_tolerance(self, scene):
        assert fit(scene, max_iter=205, lr=1e-9, mi_weight=0.0, tol=1e-3).n_iter_ == 200
        assert fit(scene, max_iter=205, lr=1e-9, mi_weight=0.0).n_iter_ == 205

    def test_unscaled_responses_are_scaled(self, scene):
        model = DirichletSpectralFusion(**SHORT)
        expected = model.fit_predict(scene.hsi, scene.msi, scene.srf)
        found = model.fit_predict(scene.hsi, scene.msi, 7 * scene.srf)
        np.testing.assert_allclose(found, expected, atol=1e-4)

    def test_integer_images_and_lists(self, scene):
        binary = (scene.msi > 0.3).astype(np.uint8)
        model = DirichletSpectralFusion(**SHORT).fit(scene.hsi.tolist(), binary, scene.srf)
        assert model.predict().shape == (32, 32, 180)
        assert model.predict().dtype == np.float32

    def test_clone_and_pickle(self, scene):
        model = fit(scene)
        assert clone(model).get_params() == model.get_params()
        copy = pickle.loads(pickle.dumps(model))
        np.testing.assert_array_equal(copy.predict(scene.msi), model.predict(scene.msi))


class TestBadInput:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"n_bases": 0}, "n_bases must be an integer of at least 1, got 0"),
            ({"encoder_width": 2.0}, "encoder_width must be an integer of at least 1, got 2.0"),
            ({"max_iter": True}, "max_iter must be an integer of at least 1, got True"),
            ({"n_init": -1}, "n_init must be an integer of at least 1, got -1"),
            ({"batch_pixels": 0}, "batch_pixels must be an integer of at least 1, got 0"),
            ({"mi_weight": -0.1}, "mi_weight must be finite and at least 0, got -0.1"),
            ({"tol": np.nan}, "tol must be finite and at least 0, got nan"),
            ({"lr": 0.0}, "lr must be finite and above 0, got 0.0"),
            ({"lr_final": -1.0}, "lr_final must be finite and above 0, got -1.0"),
            ({"decay": 1.5}, "decay must be at most 1, got 1.5"),
            ({"norm": "l1"}, "norm must be 'l21' or 'l2', got 'l1'"),
            ({"msi_mean": "both"}, "msi_mean must be 'projected' or 'own', got 'both'"),
        ],
    )
    def test_parameters(self, scene, changes, message):
        with pytest.raises(ValueError, match=message):
            fit(scene, **changes)

    @pytest.mark.parametrize(
        "model", [DirichletSpectralFusion(**SHORT), LinearSpectralRegression()]
    )
    @pytest.mark.parametrize(
        ("name", "change", "message"),
        [
            (
                "hsi",
                lambda x: x[0],
                r"hsi must have shape \(rows, columns, bands\), got \(8, 180\)",
            ),
            ("msi", lambda x: x[..., :3], r"srf must have shape .*\(180, 3\), got \(180, 4\)"),
            ("srf", lambda x: x.T, r"srf must have shape .*\(180, 4\), got \(4, 180\)"),
            (
                "srf",
                lambda x: x[:, 0],
                r"srf must have shape \(HSI bands, MSI bands\), got \(180,\)",
            ),
            ("srf", lambda x: x - 0.01, "srf must not be negative, got a minimum of -0.01"),
            ("srf", lambda x: x * [1, 1, 0, 1], "srf must have no column of zeros, got one at 2"),
            ("srf", lambda x: x * np.nan, "srf must be finite, got NaN or infinity"),
            ("hsi", lambda x: x * np.nan, "hsi must be finite, got NaN or infinity"),
            ("msi", lambda x: x / 0.0, "msi must be finite, got NaN or infinity"),
            ("hsi", lambda x: 255 * x, r"hsi must lie in \[0, 1\], rescale first; got values from"),
            ("msi", lambda x: x - 0.9, r"msi must lie in \[0, 1\], rescale first; got values from"),
            ("hsi", lambda x: x[:1, :3], "hsi must have at least 4 pixels, got 1 x 3"),
            ("msi", lambda x: x[:0], r"msi must not be empty, got shape \(0, 32, 4\)"),
        ],
    )
    @pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
    def test_images(self, scene, model, name, change, message):
        images = {"hsi": scene.hsi, "msi": scene.msi, "srf": scene.srf}
        images[name] = change(images[name])
        with pytest.raises(ValueError, match=message):
            clone(model).fit(**images)

    def test_dtypes(self, scene):
        with pytest.raises(TypeError, match="hsi must hold real numbers, got dtype complex128"):
            DirichletSpectralFusion().fit(scene.hsi + 0j, scene.msi, scene.srf)
        with pytest.raises(TypeError, match="srf must hold real numbers, got dtype <U"):
            DirichletSpectralFusion().fit(scene.hsi, scene.msi, [["a"]])

    def test_values_a_little_out_of_range_are_accepted(self, scene):
        assert fit(scene, max_iter=1).fit(scene.hsi, scene.msi.clip(0.05) * 1.05, scene.srf)

    def test_a_loss_that_is_not_finite(self, scene):
        with pytest.raises(ValueError, match="lr must be small enough for a finite loss, got 1e"):
            fit(scene, lr=1e30)

    def test_use(self, scene, fitted):
        with pytest.raises(NotFittedError):
            DirichletSpectralFusion().predict(scene.msi)
        with pytest.raises(ValueError, match="modality must be 'msi' or 'hsi', got 'pan'"):
            fitted.transform(scene.msi, "pan")
        with pytest.raises(ValueError, match="image must have 180 bands, got 4"):
            fitted.transform(scene.msi, "hsi")
        with pytest.raises(ValueError, match="image must have 4 bands, got 180"):
            fitted.predict(scene.hsi)
