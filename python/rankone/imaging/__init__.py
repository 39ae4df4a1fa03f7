"""Imaging: hyperspectral super-resolution from unregistered pairs, its baselines and metrics."""

from rankone._namespace import public_names
from rankone._optional import require_installed

require_installed("scipy", "sklearn", extra="imaging")

from rankone.imaging.metrics import ergas, psnr, rmse, sam, spectral_angle_map, ssim_bands
from rankone.imaging.mutual_information import (
    MutualInformationCritic,
    jensen_shannon_information,
)
from rankone.imaging.plots import (
    false_colour_limits,
    plot_abundances,
    plot_band,
    plot_error_map,
    plot_false_colour,
    plot_loss,
    plot_spectra,
)
from rankone.imaging.scenes import observe, simulate_scene, spectral_response
from rankone.imaging.spectral_baselines import LinearSpectralRegression, upsample_bicubic
from rankone.imaging.spectral_fusion import DirichletSpectralFusion
from rankone.nn.dirichlet_encoder import stick_breaking

__all__ = [
    "DirichletSpectralFusion",
    "LinearSpectralRegression",
    "MutualInformationCritic",
    "ergas",
    "false_colour_limits",
    "jensen_shannon_information",
    "observe",
    "plot_abundances",
    "plot_band",
    "plot_error_map",
    "plot_false_colour",
    "plot_loss",
    "plot_spectra",
    "psnr",
    "rmse",
    "sam",
    "simulate_scene",
    "spectral_angle_map",
    "spectral_response",
    "ssim_bands",
    "stick_breaking",
    "upsample_bicubic",
]


def __dir__() -> list[str]:
    return public_names(globals())
