"""The reproduction of unregistered hyperspectral super-resolution."""

import numpy as np
import pytest
from rankone.reproduce import Settings
from rankone.reproduce import hyperspectral_sr as module

TINY = {
    "seeds": (0,),
    "size": 16,
    "ratio": 4,
    "library": "synthetic",
    "n_bases": 4,
    "encoder_width": 2,
    "max_iter": 20,
    "rotations": (0.0, 20.0),
    "rotation_seed": 0,
    "rotation_iter": 20,
    "data_size": 16,
    "data_ratios": (4,),
}


@pytest.fixture(scope="module")
def reproduction():
    return module.run(Settings(progress=False, overrides=TINY))


@pytest.mark.parametrize(
    ("words", "tolerance"),
    [
        ("over that of bicubic upsampling (assumes registration), seed 0", "< 0.75"),
        ("spectral angle lower than ridge regression's", "> 0.8"),
        ("over that of ridge regression, means over seeds: no gain", "± 0.1"),
        ("rotation does not matter", "< 1.2"),
        ("it does for bicubic upsampling", "> 1.2"),
        ("smallest weight of a base", "≥ 0"),
        ("largest sum of a pixel's weights over one", "≤ 1e-06"),
    ],
)
def test_every_claim_is_there_with_its_tolerance(reproduction, words, tolerance):
    (claim,) = [claim for claim in reproduction.claims if words in claim.statement]
    assert claim.tolerance == tolerance


def test_there_are_no_other_claims(reproduction):
    assert len(reproduction.claims) == 7


def test_weights_are_valid_at_any_scale(reproduction):
    assert all(claim.passed for claim in reproduction.claims[-2:])


def test_norm_and_terms_are_reported_without_a_verdict(reproduction):
    errors, terms, published = reproduction.tables
    assert [row[1] for row in terms.rows] == list(module.VARIANTS)
    assert not any("l2" in claim.statement for claim in reproduction.claims)
    assert len(errors.rows) == 2 * 4  # a seed and the mean, four methods
    assert published.published
    assert published.rows[0][1:] == (0.902, 0.001)
    assert "Not targets" in published.note


def test_the_figure_shows_images_spectra_and_errors(reproduction):
    (figure,) = reproduction.figures
    assert len(figure.panels) == 7
    assert "wavelength (µm)" in figure.panels[5]
    assert "rotation (degrees)" in figure.panels[6]


class TestOwnData:
    def cube(self, bands):
        from scipy.ndimage import gaussian_filter

        fields = np.random.default_rng(0).random((20, 24, bands))
        return gaussian_filter(fields, (2, 2, 2)) + 0.1

    def test_a_folder_of_cubes_with_responses(self, tmp_path):
        np.save(tmp_path / "first.npy", self.cube(6))
        np.save(tmp_path / "second.npy", self.cube(6))
        np.save(tmp_path / "srf.npy", np.eye(6)[:, :2])
        made = module.run(Settings(progress=False, overrides=TINY, data=tmp_path))
        assert len(made.claims) == 2 * 3 + 4
        assert [table.title for table in made.tables[:2]] == [
            "Errors of the high-resolution image: first, ratio 4",
            "Errors of the high-resolution image: second, ratio 4",
        ]
        assert made.settings["images"] == str(tmp_path)

    def test_degrades_as_the_paper_does(self, tmp_path):
        np.save(tmp_path / "scene.npy", self.cube(50))
        scale = Settings(overrides=TINY).scale(quick=module.QUICK, full=module.FULL)
        (subject,) = module._subjects(tmp_path / "scene.npy", scale)
        cell = module._Cell(0, 0, 10.0, module.FUSION, 1)
        pair = module._observed(subject, cell, scale, Settings())
        assert pair.reference.shape == (16, 16, 50)
        assert pair.msi.shape == (16, 16, 4)  # without responses of the user's, four even bands
        assert pair.hsi.shape == (3, 3, 50)  # of the 14 pixels a side that the crop leaves

    def test_three_bands_for_few(self):
        srf = module._even_response(31)
        assert srf.shape == (31, 3)
        np.testing.assert_allclose(srf.sum(axis=0), 1)

    def test_rejects_what_is_too_small(self, tmp_path):
        np.save(tmp_path / "scene.npy", self.cube(6)[:6])
        with pytest.raises(ValueError, match="data must have at least 8 pixels a side, got"):
            module.run(Settings(overrides=TINY, data=tmp_path / "scene.npy"))


def test_modes_have_the_published_scale():
    quick, full = module.QUICK, module.FULL
    assert (quick.seeds, quick.size, quick.ratio, quick.rotation) == ((0, 1, 2), 64, 8, 10.0)
    assert (quick.n_bases, quick.encoder_width, quick.max_iter) == (12, 4, 400)
    assert (quick.lr, quick.lr_final) == (1e-2, 5e-4)
    assert (quick.rotations, quick.rotation_seed, quick.rotation_iter) == ((0, 5, 10, 20), 2, 300)
    assert (full.n_bases, full.encoder_width, full.max_iter) == (35, 8, 5000)
    assert (full.lr, full.lr_final, len(full.seeds), full.data_ratios) == (1e-3, None, 5, (8, 32))
