"""Unregistered hyperspectral super-resolution by a shared Dirichlet encoder (arXiv 1904.12175).

Measured reflectance spectra mixed into scenes whose truth is known, seen by two sensors that are
not registered; the network against interpolation, which assumes registration, and ridge regression
of spectra, which does not.

The paper's own images are not shipped by any package that was found. ``settings.data`` may name one
of them, or a folder that holds several: the ``.mat`` of Pavia or Harvard, the folder of PNGs of a
CAVE scene, an ENVI header, ``.npy`` or ``.npz`` (see ``rankone.datasets.hyperspectral_cube``), with
the responses of the multispectral sensor in ``srf.npy`` beside them, (bands of the cube, bands of
the sensor). They then take the place of the scenes, degraded as in the paper: turned, cropped by
15 % and sampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import Bunch
from threadpoolctl import threadpool_limits

from rankone._sweep import sweep
from rankone.datasets.spectra import cube_files, hyperspectral_cube
from rankone.imaging.metrics import ergas, psnr, rmse, sam, ssim_bands
from rankone.imaging.plots import (
    false_colour_limits,
    plot_error_map,
    plot_false_colour,
    plot_spectra,
)
from rankone.imaging.scenes import observe, simulate_scene, spectral_response
from rankone.imaging.spectral_baselines import LinearSpectralRegression, upsample_bicubic
from rankone.imaging.spectral_fusion import DirichletSpectralFusion
from rankone.reproduce import Claim, Figure, Reproduction, Settings, Table, panel

FUSION = "Dirichlet fusion"
BICUBIC = "bicubic upsampling"
RIDGE = "ridge regression"
UNCLIPPED = "ridge regression, not clipped to [0, 1]"
# What differs from the default, by the name it has in the table.
VARIANTS: dict[str, dict[str, Any]] = {
    FUSION: {},
    "with squared l2 norms": {"norm": "l2"},
    "without mutual information": {"mi_weight": 0.0},
    "without mutual information, sparsity and volume": {
        "mi_weight": 0.0,
        "sparsity_weight": 0.0,
        "volume_weight": 0.0,
    },
}
METRICS = ("RMSE", "PSNR (dB)", "SAM (degrees)", "ERGAS", "SSIM")
FEW_BANDS = 40  # up to which the paper's smaller network for 31 bands is taken


@dataclass(frozen=True)
class Scale:
    """Sizes of one run.

    Attributes:
        seeds: scenes, or noise and start on the user's data.
        size: pixels a side of the multispectral image of a scene.
        ratio: pixel size of the hyperspectral image over that of the other.
        rotation: degrees between the two images.
        library: of spectra, as in ``simulate_scene``.
        n_bases, encoder_width, max_iter, lr, lr_final: of the network.
        rotations, rotation_seed, rotation_iter: of the sweep over angles.
        data_size: central pixels a side that are taken of the user's data.
        data_ratios: ratios that the user's data are tried at.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    size: int = 64
    ratio: int = 8
    rotation: float = 10.0
    library: str = "earthlib"
    n_bases: int = 12
    encoder_width: int = 4
    max_iter: int = 400
    lr: float = 1e-2
    lr_final: float | None = 5e-4
    rotations: tuple[float, ...] = (0.0, 5.0, 10.0, 20.0)
    rotation_seed: int = 2
    rotation_iter: int = 300
    data_size: int = 64
    data_ratios: tuple[int, ...] = (8,)


QUICK = Scale()
FULL = Scale(
    seeds=(0, 1, 2, 3, 4),
    size=128,
    n_bases=35,
    encoder_width=8,
    max_iter=5000,
    lr=1e-3,
    lr_final=None,
    rotation_iter=5000,
    data_size=512,
    data_ratios=(8, 32),
)
SNR_DB = 35.0
SMALL_SIZE = 64
DATA_CROP = 0.15


@dataclass(frozen=True)
class _Subject:
    """What is fused: simulated scenes (no cube), or a cube of the user's at one ratio."""

    name: str
    ratio: int
    cube: NDArray[np.float64] | None = None
    srf: NDArray[np.float64] | None = None
    wavelengths: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class _Cell:
    subject: int
    seed: int
    rotation: float
    variant: str
    max_iter: int
    keep_images: bool = False


@dataclass(frozen=True)
class _Outcome:
    """Metrics by method, and what else a fit shows."""

    metrics: dict[str, dict[str, float]]
    smallest_weight: float
    largest_sum: float
    msi_error: float
    images: dict[str, NDArray] | None = None


def run(settings: Settings) -> Reproduction:
    """Fuse unregistered pairs, turn them further apart, and leave out terms of the loss."""
    scale = settings.scale(quick=QUICK, full=FULL)
    subjects = _subjects(settings.data, scale)
    compared = [
        _Cell(
            number,
            seed,
            scale.rotation,
            variant,
            scale.max_iter,
            keep_images=number == 0 and seed == scale.seeds[0] and variant == FUSION,
        )
        for number in range(len(subjects))
        for seed in scale.seeds
        for variant in VARIANTS
    ]
    turned = [
        _Cell(0, scale.rotation_seed, rotation, FUSION, scale.rotation_iter)
        for rotation in scale.rotations
    ]

    def fuse(cell: _Cell, _: np.random.Generator) -> _Outcome:
        return _fuse(subjects[cell.subject], cell, scale, settings)

    # On a few thousand pixels, torch's threads wait for each other more than they compute.
    small = (scale.size if settings.data is None else scale.data_size) <= SMALL_SIZE
    with threadpool_limits(limits=1 if small else None):
        outcomes = sweep(
            fuse,
            [*compared, *turned],
            random_state=settings.random_state,
            n_jobs=settings.n_jobs,
            description="fusing",
            progress=settings.progress,
        )
    found = dict(zip(compared, outcomes, strict=False))
    by_angle = outcomes[len(compared) :]
    return Reproduction(
        slug="hyperspectral-sr",
        claims=(
            *_comparison_claims(subjects, scale, found),
            *_rotation_claims(scale, by_angle),
            *_weight_claims(outcomes),
        ),
        tables=(
            *(_metrics_table(subject, n, scale, found) for n, subject in enumerate(subjects)),
            _terms_table(subjects, scale, found),
            _published_table(),
        ),
        figures=(_figure(subjects[0], scale, found, by_angle),),
        settings={
            "images": str(settings.data or "")
            or f"scenes of 8 materials, spectra: {scale.library}, {scale.size} x {scale.size}, "
            f"4 bands at {scale.size // scale.ratio} x {scale.size // scale.ratio} x 180",
            "network": f"{scale.n_bases} bases, width {scale.encoder_width}, "
            f"{scale.max_iter} steps from {scale.lr:g}"
            + ("" if settings.data is None else f"; at most 15 and 3 up to {FEW_BANDS} bands"),
        },
    )


def _subjects(data: Path | None, scale: Scale) -> list[_Subject]:
    if data is None:
        return [_Subject("scenes", scale.ratio)]
    data = Path(data)
    response = (data if data.is_dir() else data.parent) / "srf.npy"
    subjects = []
    for file in cube_files(data):
        cube = hyperspectral_cube(file)
        bands = cube.values.shape[2]
        if response.is_file():
            srf = np.load(response, allow_pickle=False)
        else:
            srf = _even_response(bands)
        for ratio in scale.data_ratios:
            values = _centre(cube.values, scale.data_size, ratio)
            subjects.append(
                _Subject(f"{cube.name}, ratio {ratio}", ratio, values, srf, cube.wavelengths)
            )
    return subjects


def _even_response(bands: int) -> NDArray[np.float64]:
    """Three (few bands) or four Gaussian responses, spread evenly over the bands."""
    count = 3 if bands <= FEW_BANDS else 4
    centers = (np.arange(count) + 0.5) * bands / count - 0.5
    return spectral_response(np.arange(bands), centers, 0.75 * bands / count)


def _centre(values: NDArray, size: int, ratio: int) -> NDArray:
    """The central square part, at most ``size`` a side and a multiple of ``ratio``."""
    side = min(size, *values.shape[:2]) // ratio * ratio
    if side < 2 * ratio:
        raise ValueError(f"data must have at least {2 * ratio} pixels a side, got {values.shape}")
    row, column = ((length - side) // 2 for length in values.shape[:2])
    return values[row : row + side, column : column + side]


def _observed(subject: _Subject, cell: _Cell, scale: Scale, settings: Settings) -> Bunch:
    seed = settings.random_state + cell.seed
    if subject.cube is None or subject.srf is None:
        return simulate_scene(
            size=scale.size,
            ratio=scale.ratio,
            rotation=cell.rotation,
            snr_db=SNR_DB,
            library=scale.library,
            random_state=seed,
        )
    pair = observe(
        subject.cube,
        subject.srf,
        ratio=subject.ratio,
        rotation=cell.rotation,
        crop=DATA_CROP,
        snr_db=SNR_DB,
        random_state=seed,
    )
    return Bunch(**pair, wavelengths=subject.wavelengths)


def _fuse(subject: _Subject, cell: _Cell, scale: Scale, settings: Settings) -> _Outcome:
    pair = _observed(subject, cell, scale, settings)
    few = subject.cube is not None and pair.hsi.shape[2] <= FEW_BANDS
    model = DirichletSpectralFusion(
        n_bases=min(scale.n_bases, 15) if few else scale.n_bases,
        encoder_width=min(scale.encoder_width, 3) if few else scale.encoder_width,
        max_iter=cell.max_iter,
        lr=scale.lr,
        lr_final=scale.lr_final,
        device=settings.device,
        random_state=settings.random_state,
        **VARIANTS[cell.variant],
    )
    estimates: dict[str, NDArray] = {FUSION: model.fit_predict(pair.hsi, pair.msi, pair.srf)}
    if cell.variant == FUSION:
        ridge = LinearSpectralRegression().fit(pair.hsi, pair.msi, pair.srf)
        centred = pair.msi - ridge.mean_spectrum_ @ ridge.srf_
        estimates |= {
            BICUBIC: upsample_bicubic(pair.hsi, pair.msi.shape[:2]),
            RIDGE: ridge.predict(),
            UNCLIPPED: centred @ ridge.coef_ + ridge.mean_spectrum_,
        }
    projected = estimates[FUSION] @ pair.srf
    return _Outcome(
        metrics={
            name: _metrics(pair.reference, estimate, subject.ratio)
            for name, estimate in estimates.items()
        },
        smallest_weight=float(model.abundances_.min()),
        largest_sum=float(model.abundances_.sum(axis=2, dtype=np.float64).max()),
        msi_error=float(np.linalg.norm(projected - pair.msi) / np.linalg.norm(pair.msi)),
        images={"reference": pair.reference, "hsi": pair.hsi, **estimates}
        | ({} if pair.wavelengths is None else {"wavelengths": pair.wavelengths})
        if cell.keep_images
        else None,
    )


def _metrics(reference: NDArray, estimate: NDArray, ratio: int) -> dict[str, float]:
    values = (
        rmse(reference, estimate),
        psnr(reference, estimate),
        sam(reference, estimate),
        ergas(reference, estimate, ratio),
        float(ssim_bands(reference, estimate)),
    )
    return dict(zip(METRICS, values, strict=True))


Found = dict[_Cell, _Outcome]


def _values(
    found: Found, scale: Scale, subject: int, method: str, metric: str, variant: str = FUSION
) -> NDArray[np.float64]:
    """A metric at every seed."""
    by_seed = {
        cell.seed: outcome.metrics[method][metric]
        for cell, outcome in found.items()
        if (cell.subject, cell.variant) == (subject, variant)
    }
    return np.array([by_seed[seed] for seed in scale.seeds])


def _comparison_claims(subjects: Sequence[_Subject], scale: Scale, found: Found) -> list[Claim]:
    claims = []
    for number, subject in enumerate(subjects):
        error = {
            name: _values(found, scale, number, name, "RMSE") for name in (FUSION, BICUBIC, RIDGE)
        }
        angle = {
            name: _values(found, scale, number, name, "SAM (degrees)")
            for name in (FUSION, RIDGE, UNCLIPPED)
        }
        of = "" if subject.cube is None else f", {subject.name}"
        claims += [
            Claim.at_most(
                f"RMSE over that of bicubic upsampling (assumes registration), seed {seed}{of}",
                float(ours / theirs),
                0.75,
                strict=True,
            )
            for seed, ours, theirs in zip(scale.seeds, error[FUSION], error[BICUBIC], strict=True)
        ]
        gain = angle[RIDGE].mean() - angle[FUSION].mean()
        unclipped = angle[UNCLIPPED].mean() - angle[FUSION].mean()
        claims += [
            Claim.at_least(
                f"spectral angle lower than ridge regression's by, degrees, mean over seeds{of}",
                float(gain),
                0.8,
                strict=True,
                note=f"both clipped to [0, 1]; {unclipped:.2f} degrees from the regression's "
                "values as they are",
            ),
            Claim.close(
                f"RMSE over that of ridge regression, means over seeds: no gain{of}",
                float(error[FUSION].mean() / error[RIDGE].mean()),
                1.0,
                absolute=0.1,
                note="the network's gain is in the shape of spectra, not in their error",
            ),
        ]
    return claims


def _rotation_claims(scale: Scale, by_angle: Sequence[_Outcome]) -> list[Claim]:
    ours, theirs = (
        [outcome.metrics[name]["RMSE"] for outcome in by_angle] for name in (FUSION, BICUBIC)
    )
    angles = ", ".join(f"{angle:g}" for angle in scale.rotations)
    first, last = scale.rotations[0], scale.rotations[-1]
    return [
        Claim.at_most(
            f"rotation does not matter: largest over smallest RMSE at {angles} degrees",
            max(ours) / min(ours),
            1.2,
            strict=True,
            note="one start of the network each; what differs is mostly noise of the optimisation",
        ),
        Claim.at_least(
            f"it does for bicubic upsampling: RMSE at {last:g} over {first:g} degrees",
            theirs[-1] / theirs[0],
            1.2,
            strict=True,
        ),
    ]


def _weight_claims(outcomes: Sequence[_Outcome]) -> list[Claim]:
    return [
        Claim.at_least(
            "smallest weight of a base, all fits", min(o.smallest_weight for o in outcomes), 0.0
        ),
        Claim.at_most(
            "largest sum of a pixel's weights over one, all fits",
            max(o.largest_sum for o in outcomes) - 1,
            1e-6,
        ),
    ]


def _metrics_table(subject: _Subject, number: int, scale: Scale, found: Found) -> Table:
    rows: list[tuple[int | str | float, ...]] = []
    methods = (FUSION, RIDGE, UNCLIPPED, BICUBIC)
    values = {
        (name, metric): _values(found, scale, number, name, metric)
        for name in methods
        for metric in METRICS
    }
    for place, seed in enumerate(scale.seeds):
        for name in methods:
            rows.append((seed, name, *(float(values[name, metric][place]) for metric in METRICS)))
    for name in methods:
        rows.append(("mean", name, *(float(values[name, metric].mean()) for metric in METRICS)))
    return Table(
        title=f"Errors of the high-resolution image: {subject.name}",
        columns=("seed", "method", *METRICS),
        rows=tuple(rows),
        note=f"Hyperspectral image turned by {scale.rotation:g} degrees, ratio {subject.ratio}, "
        f"{SNR_DB:g} dB. SAM is a mean over pixels, PSNR over bands: ridge regression is nearly "
        "exact at the bands that the multispectral sensor sees, and further off elsewhere.",
    )


def _terms_table(subjects: Sequence[_Subject], scale: Scale, found: Found) -> Table:
    rows = []
    for number, subject in enumerate(subjects):
        for variant in VARIANTS:
            errors = _values(found, scale, number, FUSION, "RMSE", variant)
            angles = _values(found, scale, number, FUSION, "SAM (degrees)", variant)
            rows.append(
                (
                    subject.name,
                    variant,
                    tuple(map(float, errors)),
                    float(errors.mean()),
                    float(angles.mean()),
                )
            )
    return Table(
        title="What norm and terms of the loss change",
        columns=("images", "loss", "RMSE by seed", "mean RMSE", "mean SAM (degrees)"),
        rows=tuple(rows),
        note="Reported without pass or fail. The paper reports gains from the l2,1 norm and from "
        "mutual information.",
    )


def _published_table() -> Table:
    return Table(
        title="Figures that come with the authors' code",
        columns=("image", "SAM (degrees)", "RMSE"),
        rows=(("Pavia, label of the trained checkpoint", 0.902, 0.001),),
        note="Not targets: that code computes them on the image it was trained on, and takes the "
        "angle along the pixels of a band rather than along the bands of a pixel. The tables of "
        "the paper are on Pavia, CAVE and Harvard, which have to be supplied.",
        published=True,
    )


def _figure(subject: _Subject, scale: Scale, found: Found, by_angle: Sequence[_Outcome]) -> Figure:
    images = next(outcome.images for outcome in found.values() if outcome.images is not None)
    reference, wavelengths = images["reference"], images.get("wavelengths")
    limits = false_colour_limits(reference, wavelengths=wavelengths)
    panels = []
    for name, title in (
        ("reference", "reference"),
        ("hsi", f"hyperspectral image, {scale.rotation:g}°"),
        (BICUBIC, BICUBIC),
        (FUSION, FUSION),
    ):
        with panel("", "", size=(2.7, 2.9)) as (picture, axes):
            plot_false_colour(
                images[name], wavelengths=wavelengths, limits=limits, title=title, ax=axes
            )
        panels.append(picture)
    with panel("", "", size=(3.4, 2.9)) as (errors, axes):
        plot_error_map(reference, images[FUSION], ax=axes)
        axes.set_title("where spectra differ")
    side = reference.shape[0]
    pixels = [(side // 4, side // 4), (side // 2, side // 2), (3 * side // 4, side // 3)]
    with panel("", "", title="Spectra of three pixels") as (spectra, axes):
        plot_spectra(
            {"reference": reference, FUSION: images[FUSION]},
            pixels,
            wavelengths=wavelengths,
            ax=axes,
        )
    with panel("rotation (degrees)", "RMSE", title="Error against rotation") as (turned, axes):
        for name in (FUSION, RIDGE, BICUBIC):
            values = [outcome.metrics[name]["RMSE"] for outcome in by_angle]
            axes.plot(scale.rotations, values, "o-", label=name)
        axes.set_ylim(bottom=0)
        axes.legend()
    return Figure.render(
        "A high-resolution spectrum at every pixel, from a pair that is not registered",
        f"Images: {subject.name}, seed {scale.seeds[0]}, in red, green and blue bands stretched "
        "alike; then the angle between true and estimated spectra. The error against rotation is "
        f"of seed {scale.rotation_seed}.",
        *panels,
        errors,
        spectra,
        turned,
    )
