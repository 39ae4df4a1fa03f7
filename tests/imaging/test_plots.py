"""Pictures show what they say, in the axes they are given."""

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest
from matplotlib.figure import Figure
from rankone.imaging import (
    false_colour_limits,
    plot_abundances,
    plot_band,
    plot_error_map,
    plot_false_colour,
    plot_loss,
    plot_spectra,
    spectral_angle_map,
)

rng = np.random.default_rng(0)
IMAGE, OTHER = rng.random((2, 9, 8, 6))
WAVELENGTHS = np.linspace(0.45, 0.7, 6)


@pytest.fixture
def ax():
    return Figure().add_subplot()


def shown(axes):
    return np.asarray(axes.images[0].get_array())


def test_a_band(ax):
    assert plot_band(IMAGE, -2, wavelengths=WAVELENGTHS, limits=(0, 2), ax=ax) is ax
    np.testing.assert_array_equal(shown(ax), IMAGE[..., 4])
    assert ax.get_title() == "band 4, 0.65 µm"
    assert ax.images[0].get_clim() == (0, 2)


def test_false_colour_takes_the_bands_nearest_to_red_green_and_blue(ax):
    limits = [(0, 1)] * 3
    plot_false_colour(IMAGE, wavelengths=WAVELENGTHS, limits=limits, title="here", ax=ax)
    np.testing.assert_allclose(shown(ax), IMAGE[..., [4, 2, 1]])
    assert ax.get_title() == "here"


def test_false_colour_stretches_between_percentiles(ax):
    plot_false_colour(IMAGE, bands=(0, 1, 2), ax=ax)
    low, high = np.percentile(IMAGE[..., 1], (2, 98))
    expected = ((IMAGE[..., 1] - low) / (high - low)).clip(0, 1)
    np.testing.assert_allclose(shown(ax)[..., 1], expected)
    np.testing.assert_allclose(false_colour_limits(IMAGE, bands=(0, 1, 2))[1], (low, high))


def test_a_constant_image_has_a_picture(ax):
    assert np.isfinite(shown(plot_false_colour(np.full((4, 4, 3), 0.5), ax=ax))).all()


def test_errors_of_pixels(ax):
    plot_error_map(IMAGE, OTHER, maximum=9, ax=ax)
    np.testing.assert_allclose(shown(ax), spectral_angle_map(IMAGE, OTHER))
    assert ax.images[0].get_clim() == (0, 9)
    plot_error_map(IMAGE, OTHER, kind="rmse", ax=(other := Figure().add_subplot()))
    np.testing.assert_allclose(shown(other), np.sqrt(((IMAGE - OTHER) ** 2).mean(axis=2)))


def test_spectra_of_pixels(ax):
    plot_spectra({"a": IMAGE, "b": OTHER}, [(0, 1), (8, 7)], wavelengths=WAVELENGTHS, ax=ax)
    expected = [IMAGE[0, 1], OTHER[0, 1], IMAGE[8, 7], OTHER[8, 7]]
    for line, spectrum in zip(ax.lines, expected, strict=True):
        np.testing.assert_array_equal(line.get_ydata(), spectrum)
        np.testing.assert_array_equal(line.get_xdata(), WAVELENGTHS)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
    assert ax.lines[0].get_color() == ax.lines[1].get_color() != ax.lines[2].get_color()


def test_weights_and_losses(ax):
    np.testing.assert_array_equal(shown(plot_abundances(IMAGE, 3, ax=ax)), IMAGE[..., 3])
    axes = plot_loss({"total": [2.0, -1.0]}, "total", ax=Figure().add_subplot())
    assert axes.get_yscale() == "linear"


def test_new_axes_where_none_are_given():
    import matplotlib.pyplot as plt

    assert plot_band(IMAGE, 0).figure is plt.gcf()
    assert plot_loss({"reconstruction": [2.0, 1.0]}).figure is plt.gcf()
    plt.close("all")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plot_band(IMAGE, 6), "band must be one of 6, got 6"),
        (lambda: plot_band(IMAGE, 0, wavelengths=[1.0]), r"wavelengths must have shape \(6,\)"),
        (lambda: plot_false_colour(IMAGE, bands=(0, 1)), r"bands must be three of 6, got \(0, 1\)"),
        (lambda: plot_false_colour(IMAGE, limits=[0, 1]), r"limits must have shape \(3, 2\)"),
        (lambda: plot_error_map(IMAGE, OTHER, kind="l1"), "kind must be 'sam' or 'rmse', got 'l1'"),
        (lambda: plot_spectra({}, [(0, 0)]), "images and pixels must not be empty, got 0, 1"),
        (lambda: plot_spectra({"a": IMAGE}, [(9, 0)]), r"pixels must lie in \(9, 8\), got"),
        (
            lambda: plot_spectra({"a": IMAGE, "b": OTHER[:3]}, [(0, 0)]),
            r"images\['b'\] must have shape",
        ),
        (lambda: plot_abundances(IMAGE, -7), "base must be one of 6, got -7"),
        (lambda: plot_loss({"total": [1.0]}), "term must be one of total, got 'reconstruction'"),
    ],
)
def test_rejects(call, message):
    with pytest.raises(ValueError, match=message):
        call()
