"""Spectra read from an installed package, and cubes in every kind of file that is read."""

import importlib.util

import numpy as np
import pytest
from rankone.datasets.spectra import cube_files, hyperspectral_cube, land_cover_spectra

CUBE = np.random.default_rng(0).random((5, 4, 3))

needs_spectra = pytest.mark.skipif(
    importlib.util.find_spec("earthlib") is None, reason="earthlib is not installed"
)


@needs_spectra
class TestLandCover:
    def test_what_it_holds(self):
        library = land_cover_spectra()
        assert library.reflectance.shape == (7261, 180)
        assert library.wavelengths.shape == (180,)
        assert library.materials.shape == (7261,)
        assert (np.diff(library.wavelengths) > 0).all()
        assert 0.39 < library.wavelengths[0] < 0.41
        assert 2.44 < library.wavelengths[-1] < 2.46
        assert library.version.startswith("earthlib ")

    def test_spectra_belong_to_their_names(self):
        # Leaves are green and much brighter in the near infrared; charred ground is dark.
        library = land_cover_spectra()
        by_name = {
            name: library.reflectance[library.materials == name].mean(axis=0)
            for name in ("canopy", "char")
        }
        green, red, infrared = (
            np.abs(library.wavelengths - at).argmin() for at in (0.55, 0.67, 0.85)
        )
        assert by_name["canopy"][green] > by_name["canopy"][red]
        assert by_name["canopy"][infrared] > 4 * by_name["canopy"][red]
        assert by_name["char"][infrared] < by_name["canopy"][infrared] / 2

    def test_agrees_with_a_reader_of_the_format(self):
        envi = pytest.importorskip("spectral.io.envi")
        spec = importlib.util.find_spec("earthlib")
        folder = f"{spec.submodule_search_locations[0]}/data"
        other = envi.open(f"{folder}/spectra.sli.hdr", f"{folder}/spectra.sli")
        library = land_cover_spectra()
        np.testing.assert_allclose(library.reflectance, other.spectra)
        np.testing.assert_allclose(library.wavelengths, other.bands.centers)


def test_a_missing_package_is_named_with_its_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="`pip install --no-deps earthlib` installs it"):
        land_cover_spectra()


class TestCubes:
    def check(self, cube):
        np.testing.assert_allclose(cube.values, CUBE / CUBE.max(), atol=1e-4)

    def test_numpy(self, tmp_path):
        np.save(tmp_path / "cube.npy", CUBE)
        np.savez(tmp_path / "cubes.npz", small=CUBE[:1], large=CUBE, flat=CUBE[0])
        cube = hyperspectral_cube(tmp_path / "cube.npy")
        self.check(cube)
        assert (cube.name, cube.wavelengths, cube.scale) == ("cube", None, CUBE.max())
        self.check(hyperspectral_cube(tmp_path / "cubes.npz"))
        small = hyperspectral_cube(tmp_path / "cubes.npz", variable="small")
        assert small.values.shape == (1, 4, 3)

    def test_matlab(self, tmp_path):
        from scipy.io import savemat

        savemat(tmp_path / "PaviaU.mat", {"paviaU": CUBE, "labels": CUBE[..., 0]})
        self.check(hyperspectral_cube(tmp_path / "PaviaU.mat"))

    def test_matlab_seven_point_three_has_its_axes_reversed(self, tmp_path):
        h5py = pytest.importorskip("h5py")
        # What MATLAB writes: a userblock with its text, then HDF5 with the axes reversed.
        with h5py.File(tmp_path / "scene.mat", "w", userblock_size=512) as file:
            file["ref"] = CUBE.T
        header = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
        with (tmp_path / "scene.mat").open("r+b") as file:
            file.write(header)
        self.check(hyperspectral_cube(tmp_path / "scene.mat"))

    @pytest.mark.parametrize(("unit", "factor"), [("Nanometers", 1000), ("Micrometers", 1)])
    def test_envi(self, tmp_path, unit, factor):
        envi = pytest.importorskip("spectral.io.envi")
        metadata = {"wavelength": [0.5 * factor, 0.6 * factor, 0.7 * factor]}
        metadata["wavelength units"] = unit
        envi.save_image(str(tmp_path / "scene.hdr"), CUBE.astype(np.float32), metadata=metadata)
        cube = hyperspectral_cube(tmp_path / "scene.hdr")
        self.check(cube)
        np.testing.assert_allclose(cube.wavelengths, [0.5, 0.6, 0.7])

    def test_a_folder_with_a_picture_a_band(self, tmp_path):
        io = pytest.importorskip("skimage.io")
        for band in range(3):
            picture = (65535 * CUBE[..., band]).astype(np.uint16)
            io.imsave(tmp_path / f"toy_ms_{band + 1:02d}.png", picture, check_contrast=False)
        rgb = np.zeros((5, 4, 3), dtype=np.uint8)
        io.imsave(tmp_path / "toy_RGB.png", rgb, check_contrast=False)
        self.check(hyperspectral_cube(tmp_path))

    def test_all_cubes_of_a_folder(self, tmp_path):
        for name in ("b.npy", "a.npy", "srf.npy"):
            np.save(tmp_path / name, CUBE)
        (tmp_path / "notes.txt").write_text("no cube")
        (tmp_path / "scene_ms" / "scene_ms").mkdir(parents=True)
        (tmp_path / "scene_ms" / "scene_ms" / "scene_ms_01.png").touch()
        found = [str(path.relative_to(tmp_path)) for path in cube_files(tmp_path)]
        assert found == ["a.npy", "b.npy", "scene_ms/scene_ms"]
        assert cube_files(tmp_path / "a.npy") == [tmp_path / "a.npy"]

    def test_rejects(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="path must be a file or folder that exists"):
            hyperspectral_cube(tmp_path / "none.npy")
        with pytest.raises(FileNotFoundError, match=r"path must hold \.npy, \.npz, \.mat, \.hdr"):
            cube_files(tmp_path)
        (tmp_path / "cube.tif").touch()
        with pytest.raises(ValueError, match=r"end in \.npy, .* got 'cube.tif'"):
            hyperspectral_cube(tmp_path / "cube.tif")
        np.save(tmp_path / "flat.npy", CUBE[0])
        with pytest.raises(
            ValueError, match=r"flat.npy must hold real numbers in three dimensions"
        ):
            hyperspectral_cube(tmp_path / "flat.npy")
        np.save(tmp_path / "negative.npy", CUBE - 0.5)
        with pytest.raises(
            ValueError, match=r"negative.npy must hold finite, non-negative numbers"
        ):
            hyperspectral_cube(tmp_path / "negative.npy")
        np.savez(tmp_path / "flat.npz", a=CUBE[0])
        with pytest.raises(ValueError, match="must hold an array of three dimensions, got none"):
            hyperspectral_cube(tmp_path / "flat.npz")
        with pytest.raises(ValueError, match=r"variable must be one of a of flat.npz, got 'b'"):
            hyperspectral_cube(tmp_path / "flat.npz", variable="b")
        (tmp_path / "empty").mkdir()
        with pytest.raises(ValueError, match="path must hold a PNG a band, got none in"):
            hyperspectral_cube(tmp_path / "empty")
