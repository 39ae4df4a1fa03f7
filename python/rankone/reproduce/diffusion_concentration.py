"""Concentration and Gaussian universality of diffusion models (arXiv 2501.07741), at CPU size.

The sampler on an exact Gaussian, the loss of a heavy tail, certificates of concentration and the
universality of linear classifiers on scikit-learn's digits, and a control on which universality
must fail. ``settings.data`` may name an .npz with X and y, samples of any generator, whose
universality gap is then reported beside the digits'.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import kurtosis, norm

from rankone.reproduce import Claim, Figure, Reproduction, Settings, Table, panel
from rankone.stats.concentration import (
    DiffusionGenerator,
    GaussianTwin,
    concentration_report,
    edm_sample,
    gaussian_denoiser,
    lipschitz_profile,
    poincare_bound,
    tail_quantile_ratio,
    universality_gap,
)

_SPECTRUM = (4.0, 1.0, 0.25, 0.001)
_GAINS = (2.00428, 1.00292, 0.50182, 0.03182)
_CERTIFIED = (0, 3)  # digits whose sampler is looked at


@dataclass(frozen=True)
class Scale:
    """Sizes of one run.

    Attributes:
        tail_points, tail_steps, tail_hidden: training points, steps and width of the heavy-tail
            experiment, which samples as many points.
        digit_steps, digit_hidden: training of the digits' model.
        per_class: samples of each digit.
        train_per_class: of them, for training; the others test.
        sizes: training rows a class of the linear classifiers; the claims are about the last two.
        seeds: repetitions of them.
        jacobians: noises at which the digits' sampler is differentiated.
        poincare_draws: noises of the Poincare estimates.
        n_steps, s_churn: of the digits' sampler.
    """

    tail_points: int = 20_000
    tail_steps: int = 1500
    tail_hidden: int = 96
    digit_steps: int = 2500
    digit_hidden: int = 256
    per_class: int = 1500
    train_per_class: int = 700
    sizes: tuple[int, ...] = (20, 100, 300)
    seeds: int = 3
    jacobians: int = 8
    poincare_draws: int = 1000
    n_steps: int = 18
    s_churn: float = 0.0


QUICK = Scale()
FULL = Scale(
    tail_points=100_000,
    tail_steps=10_000,
    digit_steps=20_000,
    per_class=3000,
    train_per_class=1024,
    sizes=(20, 100, 300, 1024),
    seeds=10,
    jacobians=64,
    poincare_draws=10_000,
    n_steps=256,
    s_churn=40.0,
)


def run(settings: Settings) -> Reproduction:
    """Run the four experiments."""
    scale = settings.scale(quick=QUICK, full=FULL)
    tails = {name: _tail(settings, scale, name) for name in settings.track(_TAILS, "tails")}
    digits = _digits(settings, scale)
    tables = [_gap_table("digits", digits.gap), _certificate_table(digits)]
    if settings.data is not None:
        tables.append(_gap_table(Path(settings.data).name, _user_gap(settings, scale)))
    return Reproduction(
        slug="diffusion-concentration",
        claims=(
            *_gaussian_claims(),
            *_tail_claims(tails),
            *_digit_claims(scale, digits),
            *_control_claims(),
        ),
        tables=tuple(tables),
        figures=(_figure(tails, digits),),
        settings={
            "heavy tail": f"{scale.tail_points} points in 10 dimensions, {scale.tail_steps} steps",
            "digits": f"{scale.digit_steps} training steps, {scale.per_class} samples a class, "
            f"{scale.n_steps} sampling steps, churn {scale.s_churn:g}",
        },
    )


def _gaussian_claims() -> list[Claim]:
    spectrum = torch.tensor(_SPECTRUM, dtype=torch.float64)
    denoiser = gaussian_denoiser(np.zeros(4), np.diag(_SPECTRUM))
    unit = torch.eye(4, dtype=torch.float64)
    gains = {n: edm_sample(denoiser, unit, n_steps=n).diagonal() for n in (18, 64, 256)}
    exact = 80 * (spectrum / (spectrum + 6400)).sqrt()
    claims = [
        Claim.close(
            f"gain on a Gaussian of variance {variance:g}, 64 steps",
            float(found),
            value,
            absolute=1e-5,
            note=f"in the limit of many steps {float(limit):.5f}",
        )
        for variance, found, value, limit in zip(_SPECTRUM, gains[64], _GAINS, exact, strict=True)
    ]
    errors = {n: float((gain - exact).abs()[0]) for n, gain in gains.items()}
    claims += [
        Claim.close(
            f"second order: error at {few} steps over that at {many}",
            errors[few] / errors[many],
            15,
            absolute=5,
        )
        for few, many in ((18, 64), (64, 256))
    ]
    return claims


@dataclass(frozen=True)
class Tail:
    """Norms of data and of what a diffusion model makes of them."""

    data: NDArray
    generated: NDArray
    ratio: float


_TAILS = ("Student t, 3 degrees of freedom", "Gaussian")


def _tail(settings: Settings, scale: Scale, name: str) -> Tail:
    generator = np.random.default_rng(settings.random_state)
    X = generator.standard_normal((scale.tail_points, 10))
    if name != "Gaussian":
        X /= np.sqrt(generator.chisquare(3, scale.tail_points) / 3)[:, None]
    model = DiffusionGenerator(
        hidden=scale.tail_hidden,
        n_steps_train=scale.tail_steps,
        device=settings.device,
        random_state=settings.random_state,
    ).fit(X.astype(np.float32))
    sample = model.sample(scale.tail_points, random_state=settings.random_state + 1)
    return Tail(
        data=np.linalg.norm(X, axis=1),
        generated=np.linalg.norm(sample, axis=1).astype(float),
        ratio=float(tail_quantile_ratio(sample, X, [0.999])[0]),
    )


def _tail_claims(tails: dict[str, Tail]) -> list[Claim]:
    heavy, control = (tails[name] for name in _TAILS)

    def shape(tail: Tail) -> tuple[float, float]:
        return tuple(float(kurtosis(norms, fisher=False)) for norms in (tail.generated, tail.data))  # type: ignore[return-value]

    generated, data = shape(heavy)
    kept, own = shape(control)
    return [
        Claim.at_most(
            "heavy tails lost: 99.9 % quantile of norms, generated over data", heavy.ratio, 0.5
        ),
        Claim.at_most(
            "heavy tails lost: kurtosis of norms, generated over data",
            generated / data,
            0.2,
            note=f"{generated:.1f} against {data:.1f}",
        ),
        Claim.close(
            "Gaussian control kept: 99.9 % quantile of norms, generated over data",
            control.ratio,
            1.025,
            absolute=0.125,
            note=f"kurtosis {kept:.1f} against {own:.1f}",
        ),
    ]


@dataclass(frozen=True)
class Digits:
    """The digits' model, looked at.

    Attributes:
        gap: the frame of :func:`universality_gap`.
        poincare: (digit, functional, variance, bound).
        lipschitz: digit -> largest gain.
        norm_deviation: digit -> standard deviation of norms.
        reports: digit -> frame of :func:`concentration_report`.
        spectra: (10, 64) eigenvalues of the classes' covariances, decreasing.
        data_spectra: those of the training digits.
    """

    gap: pd.DataFrame
    poincare: list[tuple[int, str, float, float]]
    lipschitz: dict[int, float]
    norm_deviation: dict[int, float]
    reports: dict[int, pd.DataFrame]
    spectra: NDArray
    data_spectra: NDArray


def _digits(settings: Settings, scale: Scale) -> Digits:
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    X = (X / 8 - 1).astype(np.float32)
    model = DiffusionGenerator(
        hidden=scale.digit_hidden,
        n_steps_train=scale.digit_steps,
        lr=1.5e-3,
        n_steps=scale.n_steps,
        s_churn=scale.s_churn,
        device=settings.device,
        random_state=settings.random_state,
    ).fit(X, y)
    samples = np.stack(
        [
            model.sample(scale.per_class, y=digit, random_state=settings.random_state + digit)
            for digit in settings.track(range(10), "sampling digits")
        ]
    ).astype(np.float64)
    split = scale.train_per_class
    labels = np.arange(10)
    train, test = samples[:, :split], samples[:, split:]
    gap = universality_gap(
        train.reshape(-1, 64),
        labels.repeat(train.shape[1]),
        test.reshape(-1, 64),
        labels.repeat(test.shape[1]),
        [size for size in scale.sizes if size <= split],
        n_seeds=scale.seeds,
        random_state=settings.random_state,
    )
    poincare, lipschitz, reports = [], {}, {}
    for digit in _CERTIFIED:
        poincare += _poincare(settings, scale, model, digit)
        noise = torch.randn(
            scale.jacobians, 64, generator=torch.Generator().manual_seed(settings.random_state)
        )
        lipschitz[digit] = float(lipschitz_profile(partial(model.map, y=digit), noise)["max"])
        reports[digit] = concentration_report(
            samples[digit], lipschitz[digit], random_state=settings.random_state
        )
    twins = [GaussianTwin().fit(a.reshape(-1, 64), b) for a, b in (
        (samples, labels.repeat(scale.per_class)), (X.astype(np.float64), y)
    )]  # fmt: skip
    spectra, data_spectra = (
        np.linalg.eigvalsh(twin.covariances_)[:, ::-1].clip(min=0) for twin in twins
    )
    return Digits(
        gap=gap,
        poincare=poincare,
        lipschitz=lipschitz,
        norm_deviation={
            digit: float(np.linalg.norm(samples[digit], axis=1).std()) for digit in _CERTIFIED
        },
        reports=reports,
        spectra=spectra,
        data_spectra=data_spectra,
    )


def _poincare(
    settings: Settings, scale: Scale, model: DiffusionGenerator, digit: int
) -> list[tuple[int, str, float, float]]:
    generator = torch.Generator().manual_seed(settings.random_state + digit)
    noise = torch.randn(scale.poincare_draws, 64, generator=generator)
    directions = torch.randn(2, 64, generator=generator)
    directions /= directions.norm(dim=1, keepdim=True)
    functionals = {
        "linear 1": lambda x: x @ directions[0],
        "linear 2": lambda x: x @ directions[1],
        "norm": lambda x: x.norm(dim=1),
    }
    rows = []
    for name, functional in functionals.items():
        found = poincare_bound(lambda z: model.map(z, digit), noise, functional)
        rows.append((digit, name, found["variance"], found["bound"]))
    return rows


def _digit_claims(scale: Scale, digits: Digits) -> list[Claim]:
    claims = [
        Claim.at_most(
            f"Poincare, digit {digit}, {name}: variance over bound", variance / bound, 1.1
        )
        for digit, name, variance, bound in digits.poincare
    ]
    for digit in _CERTIFIED:
        largest = digits.lipschitz[digit]
        claims += [
            Claim.at_most(f"largest gain of the sampler, digit {digit}", largest, 5),
            Claim.at_most(
                f"norms concentrate, digit {digit}: standard deviation over the largest gain",
                digits.norm_deviation[digit] / largest,
                1,
            ),
        ]
    for size in scale.sizes[-2:]:
        data, twin = _pair(digits.gap, size)
        claims += [
            Claim.at_most(
                f"universality: accuracy gap of data and twin, {size} a class",
                abs(data.accuracy_mean - twin.accuracy_mean),
                0.02,
                expected="0",
                note=f"{data.accuracy_mean:.4f} against {twin.accuracy_mean:.4f}",
            ),
            Claim.at_most(
                f"universality: gap of test losses, {size} a class",
                abs(data.loss_mean - twin.loss_mean),
                0.002,
                expected="0",
                note=f"{data.loss_mean:.4f} against {twin.loss_mean:.4f}",
            ),
        ]
    smallest = digits.spectra[:, -1]
    condition = float((digits.spectra[:, 0] / np.maximum(smallest, 1e-300)).max())
    claims.append(
        Claim.at_least(
            "covariances nearly singular: largest condition number of a class", condition, 500
        )
    )
    return claims


def _pair(gap: pd.DataFrame, size: int) -> tuple[Any, Any]:
    rows = gap[gap.n_train == size].set_index("source")
    return rows.loc["data"], rows.loc["twin"]


def _control_claims() -> list[Claim]:
    error = sum(norm.cdf(-1 / math.sqrt(variance)) for variance in (0.1, 1.9)) / 2
    return [
        Claim.close(
            "control, scale mixture: error of the best linear classifier",
            float(error),
            0.1174313,
            absolute=1e-7,
        ),
        Claim.close(
            "control: error of the same classifier on the Gaussian twin",
            float(norm.cdf(-1)),
            0.1586553,
            absolute=1e-7,
            note="universality fails here, as it must",
        ),
        _sampled_control(),
    ]


def _sampled_control() -> Claim:
    """The same through the code that measures universality."""
    generator = np.random.default_rng(0)
    n = 12_000
    y = np.arange(n) % 2
    scale = np.sqrt(np.where(generator.random(n) < 0.5, 0.1, 1.9))
    X = (2 * y - 1 + scale * generator.standard_normal(n))[:, None]
    gap = universality_gap(
        X[: n // 2], y[: n // 2], X[n // 2 :], y[n // 2 :], [1000], n_seeds=3, random_state=0
    )
    data, twin = _pair(gap, 1000)
    return Claim.at_least(
        "control: accuracy gap that the comparison finds",
        abs(data.accuracy_mean - twin.accuracy_mean),
        0.02,
        strict=True,
        expected="0.041",
    )


def _user_gap(settings: Settings, scale: Scale) -> pd.DataFrame:
    with np.load(settings.data) as arrays:  # type: ignore[arg-type]
        X, y = arrays["X"].reshape(len(arrays["X"]), -1), arrays["y"]
    order = np.random.default_rng(settings.random_state).permutation(len(X))
    half = len(X) // 2
    train, test = order[:half], order[half:]
    smallest = int(np.unique(y[train], return_counts=True)[1].min())
    sizes = [size for size in scale.sizes if size <= smallest] or [smallest]
    return universality_gap(
        X[train], y[train], X[test], y[test], sizes, n_seeds=scale.seeds,
        random_state=settings.random_state,
    )  # fmt: skip


def _gap_table(name: str, gap: pd.DataFrame) -> Table:
    return Table(
        title=f"Linear classifiers on {name} and on their Gaussian twin",
        columns=(
            "rows a class",
            "source",
            "accuracy",
            "its deviation",
            "test loss",
            "its deviation over seeds",
        ),
        rows=tuple(
            tuple(value.item() if hasattr(value, "item") else value for value in row)
            for row in gap.itertuples(index=False)
        ),
        note="Each classifier is tested on the law that it was trained on.",
    )


def _certificate_table(digits: Digits) -> Table:
    rows = []
    for digit, report in digits.reports.items():
        for name, row in report.iterrows():
            rows.append(
                (
                    digit,
                    str(name),
                    digits.lipschitz[digit],
                    float(row["std"]),
                    float(row["psi2"]),
                    float(row["kurtosis"]),
                    float(row["tail_ratio"]),
                )
            )
    return Table(
        title="Concentration of 1-Lipschitz statistics of generated digits",
        columns=(
            "digit",
            "statistic",
            "largest gain",
            "deviation",
            "sub-Gaussian norm",
            "kurtosis",
            "worst tail over its bound",
        ),
        rows=tuple(rows),
    )


def _survival(norms: NDArray) -> tuple[NDArray, NDArray]:
    ordered = np.sort(norms)
    keep = np.unique(np.geomspace(1, len(ordered), 200).astype(int)) - 1
    keep = len(ordered) - 1 - keep
    return ordered[keep], (len(ordered) - keep) / len(ordered)


def _figure(tails: dict[str, Tail], digits: Digits) -> Figure:
    with panel("norm", "share above", title="Norms, Student t") as (norms, axes):
        tail = tails[_TAILS[0]]
        for label, values in (("data", tail.data), ("generated", tail.generated)):
            axes.loglog(*_survival(values), label=label)
        axes.legend()
    with panel("training rows a class", "accuracy", title="Digits and their twin") as (
        accuracy,
        axes,
    ):
        for source in ("data", "twin"):
            rows = digits.gap[digits.gap.source == source]
            (line,) = axes.plot(rows.n_train, rows.accuracy_mean, "o-", label=source)
            axes.fill_between(
                rows.n_train,
                rows.accuracy_mean - rows.accuracy_std,
                rows.accuracy_mean + rows.accuracy_std,
                color=line.get_color(),
                alpha=0.15,
                linewidth=0,
            )
        axes.set_xscale("log")
        axes.legend()
    with panel("index", "eigenvalue", title="Covariance spectra of the digits") as (spectra, axes):
        for label, values in (("generated", digits.spectra), ("data", digits.data_spectra)):
            for i, row in enumerate(values):
                color = "C0" if label == "generated" else "C1"
                axes.semilogy(
                    np.maximum(row, 1e-6),
                    color=color,
                    linewidth=0.8,
                    label=label if i == 0 else None,
                )
        axes.legend()
    return Figure.render(
        "What a diffusion model keeps",
        "Left: share of points beyond a norm; the model truncates the heavy tail. Middle: linear "
        "classifiers on generated digits and on Gaussians of the same class moments, each tested "
        "on its own law. Right: eigenvalues of the classes' covariances.",
        norms,
        accuracy,
        spectra,
    )
