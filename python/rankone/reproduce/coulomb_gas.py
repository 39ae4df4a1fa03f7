"""Cumulants of linear statistics of Coulomb gases (arXiv 2310.16420).

The leading order in N against exact results in the plane, against Markov chains elsewhere, where it
must fail, and the rate of large deviations against random matrices.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import poch
from scipy.stats import norm
from torch import Tensor

from rankone.reproduce import Claim, Figure, Reproduction, Settings, Table, panel
from rankone.stats.coulomb import (
    HarmonicPotential,
    PowerPotential,
    cumulants,
    estimate_cumulants,
    exact_cumulants_determinantal,
    large_deviation_rate,
    linear_statistic,
    sample_coulomb_gas,
    validity_constant,
)

HARMONIC = HarmonicPotential()
Radial = Callable[[Tensor], Tensor]


def _square(r: Tensor) -> Tensor:
    return r**2


def _quartic(r: Tensor) -> Tensor:
    return r**4


def _mixture(r: Tensor) -> Tensor:
    return r**2 / 2 + r**4 / 4


@dataclass(frozen=True)
class Chains:
    """One Monte Carlo run: dimension, temperature and lengths."""

    dim: int
    beta: float
    n_particles: int
    chains: int = 1000
    sweeps: int = 260
    burn_in: int = 60
    thin: int = 4


@dataclass(frozen=True)
class Scale:
    """Sizes of one run.

    Attributes:
        particles: increasing numbers of particles of the exact results; claims compare the
            entries ``coarse`` and ``fine``.
        coarse, fine: two of them.
        chains: Monte Carlo runs; the claims are about the first in three dimensions and the first
            in the plane.
        ginibre_particles, ginibre_samples: matrices of the histogram.
        rate_particles, rate_samples: matrices of the rate of large deviations.
    """

    particles: tuple[int, ...] = (25, 50, 100, 200, 400, 800)
    coarse: int = 100
    fine: int = 800
    chains: tuple[Chains, ...] = (Chains(3, 2.0, 16), Chains(2, 1.0, 16))
    ginibre_particles: int = 50
    ginibre_samples: int = 1000
    rate_particles: int = 20
    rate_samples: int = 2000


QUICK = Scale()
FULL = Scale(
    particles=(25, 50, 100, 200, 400, 800, 1600, 5000),
    chains=(
        Chains(3, 2.0, 16),
        Chains(2, 1.0, 16),
        *(
            Chains(dim, beta, n, sweeps=600, burn_in=200)
            for dim in (1, 2, 3)
            for beta in (0.5, 1.0, 2.0, 4.0)
            for n in (16, 32, 64, 128)
            if (dim, beta, n) not in ((3, 2.0, 16), (2, 1.0, 16))
        ),
    ),
    ginibre_samples=20_000,
    rate_samples=50_000,
)


def run(settings: Settings) -> Reproduction:
    """Measure the six comparisons."""
    scale = settings.scale(quick=QUICK, full=FULL)
    ratios = _ratios(settings, scale)
    simulated = [_simulate(settings, chains) for chains in settings.track(scale.chains, "chains")]
    rate_error, rate_points = _rate(settings, scale)
    return Reproduction(
        slug="coulomb-gas",
        claims=(
            *_ratio_claims(scale, ratios),
            *_dimension_claims(),
            *_chain_claims(scale, simulated),
            *_edge_claims(),
            *_failure_claims(),
            Claim.at_most(
                f"-log density of L/N of {scale.rate_samples} Ginibre matrices over beta N^2 "
                "against the rate: largest difference over the middle 98 %",
                rate_error,
                0.01,
                expected="0",
                note=f"N = {scale.rate_particles}, both shifted to 0 at the mode",
            ),
        ),
        tables=(_ratio_table(scale, ratios), _chain_table(scale, simulated)),
        figures=(_figure(settings, scale, ratios, rate_points),),
        settings={
            "chains": f"{scale.chains[0].chains} chains, {scale.chains[0].sweeps} sweeps of which "
            f"{scale.chains[0].burn_in} burn-in",
        },
    )


_CASES: dict[str, tuple[Radial, Radial]] = {
    "r^4, harmonic": (_quartic, HARMONIC),
    "exp(-r^2), harmonic": (lambda r: torch.exp(-(r**2)), HARMONIC),
    "cos(2 r^2), harmonic": (lambda r: torch.cos(2 * r**2), HARMONIC),
    "r^2, r^2/2 + r^4/4": (_square, _mixture),
}

# case -> (numbers of particles, orders 2..5) of exact over leading order
Ratios = dict[str, NDArray]


def _ratios(settings: Settings, scale: Scale) -> Ratios:
    found = {}
    for name, (f, potential) in settings.track(_CASES.items(), "exact results", total=len(_CASES)):
        rows = []
        for n in scale.particles:
            exact = exact_cumulants_determinantal(f, potential, n_particles=n, max_order=5)
            order = cumulants(f, potential, dim=2, beta=2, n_particles=n, max_order=5)
            rows.append(exact[1:] / order[1:])
        found[name] = np.array(rows)
    return found


def _ratio_claims(scale: Scale, ratios: Ratios) -> list[Claim]:
    claims = []
    coarse, fine = (scale.particles.index(n) for n in (scale.coarse, scale.fine))
    for name, ratio in ratios.items():
        error = np.abs(ratio - 1)
        claims += [
            Claim.at_most(
                f"plane, beta = 2, f and U: {name}: largest |exact / leading - 1|, q = 2..5, "
                f"N = {scale.fine}",
                error[fine].max(),
                0.06,
                expected="0",
            ),
            Claim.at_least(
                f"{name}: error at N = {scale.coarse} over that at {scale.fine}, least of q = 2..4",
                # Orders whose correction vanishes to rounding have converged already.
                min(
                    (
                        error[coarse, q] / error[fine, q]
                        for q in range(3)
                        if error[coarse, q] > 1e-9
                    ),
                    default=math.inf,
                ),
                3,
                expected="8" if scale.fine == 8 * scale.coarse else "N to N",
            ),
        ]
    return claims


def _dimension_claims() -> list[Claim]:
    worst = 0.0
    for dim in range(1, 6):
        found = cumulants(_square, HARMONIC, dim=dim, beta=2.0, n_particles=10, max_order=6)
        for q in range(2, 7):
            expected = dim / (dim + 2) * 2 ** (q - 1) * poch(2 / dim, q - 1)
            worst = max(worst, abs(found[q - 1] * 2 ** (q - 1) * 10 ** (q - 2) / expected - 1))
    return [
        Claim.at_most(
            "f = r^2, harmonic, d = 1..5, q = 2..6: largest relative difference from "
            "d/(d+2) 2^(q-1) (2/d)_(q-1)",
            worst,
            1e-8,
            expected="0",
        )
    ]


@dataclass(frozen=True)
class Simulated:
    """Estimated cumulants 1..3 of L with f = r^2, their errors, and the references."""

    estimates: NDArray
    errors: NDArray
    leading: NDArray
    exact: NDArray | None
    acceptance: float


def _simulate(settings: Settings, chains: Chains) -> Simulated:
    rounds = (chains.sweeps - chains.burn_in) // chains.thin
    points, info = sample_coulomb_gas(
        chains.n_particles,
        dim=chains.dim,
        beta=chains.beta,
        potential=HARMONIC,
        n_samples=rounds * chains.chains,
        method="mcmc",
        n_chains=chains.chains,
        burn_in=chains.burn_in,
        thin=chains.thin,
        random_state=settings.random_state,
        device=settings.device,
        return_info=True,
    )
    estimates, errors = estimate_cumulants(linear_statistic(points, _square), max_order=3)
    n, beta = chains.n_particles, chains.beta
    exact = None
    if chains.dim == 2:  # L is a gamma variable at every N and beta
        shape, width = n + beta * n * (n - 1) / 4, 2 / (beta * n)
        exact = np.array([math.factorial(q - 1) * shape * width**q for q in (1, 2, 3)])
    leading = cumulants(_square, HARMONIC, dim=chains.dim, beta=beta, n_particles=n, max_order=3)
    return Simulated(estimates, errors, leading, exact, float(info["acceptance"]))


def _chain_claims(scale: Scale, simulated: list[Simulated]) -> list[Claim]:
    claims = []
    space = next(
        (i, s) for i, s in enumerate(simulated) if s.exact is None and scale.chains[i].dim == 3
    )
    plane = next((i, s) for i, s in enumerate(simulated) if s.exact is not None)
    index, found = plane
    chains = scale.chains[index]
    label = f"d = {chains.dim}, beta = {chains.beta:g}, N = {chains.n_particles}"
    assert found.exact is not None
    for q in (2, 3):
        claims.append(
            Claim.close(
                f"chains, {label}: kappa_{q}",
                found.estimates[q - 1],
                found.exact[q - 1],
                absolute=4 * found.errors[q - 1],
                note="exact: a gamma variable; the tolerance is four standard errors",
            )
        )
    index, found = space
    chains = scale.chains[index]
    label = f"d = {chains.dim}, beta = {chains.beta:g}, N = {chains.n_particles}"
    claims += [
        Claim.close(
            f"chains, {label}: kappa_2 against leading order",
            found.estimates[1],
            found.leading[1],
            relative=0.15,
        ),
        Claim.close(
            f"chains, {label}: kappa_3 against leading order",
            found.estimates[2],
            found.leading[2],
            absolute=4 * found.errors[2],
            relative=0.15,
            note="four standard errors and 15 %",
        ),
    ]
    return claims


def _edge_claims() -> list[Claim]:
    def order(f: Radial) -> NDArray:
        return cumulants(f, HARMONIC, dim=2, beta=2.0, n_particles=1, max_order=6)

    plain, changed = order(_square), order(lambda r: r**2 + (r**2 - 1) ** 6)
    flat = order(lambda r: (r**2 - 1) ** 2)
    return [
        Claim.at_most(
            "f and f + h, h flat to fifth order at the edge: largest relative difference of "
            "kappa_3..kappa_6",
            float(np.abs(changed[2:] / plain[2:] - 1).max()),
            1e-8,
            expected="0",
        ),
        Claim.at_least("the same: difference of kappa_2", float(abs(changed[1] - plain[1])), 1e-3),
        Claim.at_most(
            "f = (r^2 - 1)^2, of slope 0 at the edge: largest |kappa_q|, q = 3..6",
            float(np.abs(flat[2:]).max()),
            1e-8,
            expected="0",
        ),
    ]


def _failure_claims() -> list[Claim]:
    potential, n = PowerPotential(4), 400
    exact = exact_cumulants_determinantal(_square, potential, n_particles=n, max_order=5)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        order = cumulants(_square, potential, dim=2, beta=2, n_particles=n, max_order=5)
    ratio = exact[1:] / order[1:]
    expected = (0.996, 0.966, 0.478, -13.6)
    claims = [
        Claim.close(
            f"U = r^4/4, f = r^2, N = {n}, where the expansion fails: exact / leading, q = {q}",
            float(ratio[q - 2]),
            expected[q - 2],
            relative=0.01,
        )
        for q in range(2, 6)
    ]
    flagged = bool(caught) and math.isinf(validity_constant(_square, potential, 2))
    claims.append(
        Claim.exact("the validity check flags that case", "yes" if flagged else "no", "yes")
    )
    return claims


def _rate(settings: Settings, scale: Scale) -> tuple[float, tuple[NDArray, NDArray, NDArray]]:
    """Largest difference of the empirical from the exact rate, and both on a grid."""
    n = scale.rate_particles
    points = sample_coulomb_gas(
        n,
        dim=2,
        beta=2,
        potential=HARMONIC,
        n_samples=scale.rate_samples,
        random_state=settings.random_state + 1,
    )
    values = linear_statistic(points, _square) / n
    low, high = np.quantile(values, [0.01, 0.99])
    edges = np.linspace(low, high, 16)
    density, _ = np.histogram(values, edges, density=True)
    middle = (edges[:-1] + edges[1:]) / 2
    empirical = -np.log(np.maximum(density, 1e-300)) / (2 * n**2)
    rate = np.asarray(large_deviation_rate(_square, HARMONIC, dim=2, ell=middle))
    mode = int(np.argmax(density))
    empirical = empirical - empirical[mode] + rate[mode]
    return float(np.abs(empirical - rate).max()), (middle, empirical, rate)


def _ratio_table(scale: Scale, ratios: Ratios) -> Table:
    return Table(
        title="Exact over leading order, in the plane at beta = 2",
        columns=("f, U", "N", "q = 2", "q = 3", "q = 4", "q = 5"),
        rows=tuple(
            (name, n, *map(float, row))
            for name, ratio in ratios.items()
            for n, row in zip(scale.particles, ratio, strict=True)
        ),
    )


def _chain_table(scale: Scale, simulated: list[Simulated]) -> Table:
    rows = []
    for chains, found in zip(scale.chains, simulated, strict=True):
        for q in (2, 3):
            rows.append(
                (
                    chains.dim,
                    chains.beta,
                    chains.n_particles,
                    q,
                    float(found.estimates[q - 1]),
                    float(found.errors[q - 1]),
                    float(found.leading[q - 1]),
                    None if found.exact is None else float(found.exact[q - 1]),
                    found.acceptance,
                )
            )
    return Table(
        title="Markov chains, f = r^2, harmonic",
        columns=(
            "d",
            "beta",
            "N",
            "q",
            "estimate",
            "standard error",
            "leading order",
            "exact",
            "acceptance",
        ),
        rows=tuple(rows),
    )


def _figure(
    settings: Settings,
    scale: Scale,
    ratios: Ratios,
    rate_points: tuple[NDArray, NDArray, NDArray],
) -> Figure:
    n = scale.ginibre_particles
    with panel("particles N", "|exact / leading - 1|", title="f = r^4 in the plane") as (
        convergence,
        axes,
    ):
        error = np.abs(ratios["r^4, harmonic"] - 1)
        for q in range(4):
            axes.loglog(scale.particles, error[:, q], "o-", label=f"q = {q + 2}")
        axes.legend()
    with panel("standardised L", "density", title=f"{scale.ginibre_samples} matrices, N = {n}") as (
        histogram,
        axes,
    ):
        points = sample_coulomb_gas(
            n,
            dim=2,
            beta=2,
            potential=HARMONIC,
            n_samples=scale.ginibre_samples,
            random_state=settings.random_state + 2,
        )
        values = linear_statistic(points, _quartic)
        exact = exact_cumulants_determinantal(_quartic, HARMONIC, n_particles=n)
        standard = (values - exact[0]) / math.sqrt(exact[1])
        axes.hist(standard, bins=30, density=True, alpha=0.4, label="matrices")
        x = np.linspace(-4, 4.5, 200)
        axes.plot(x, norm.pdf(x), "--", label="normal")
        order = cumulants(_quartic, HARMONIC, dim=2, beta=2, n_particles=n)
        axes.plot(x, _edgeworth(x, order), label="with kappa_3, kappa_4")
        axes.legend()
    with panel("L / N", "rate", title="Large deviations, f = r^2") as (rate, axes):
        middle, empirical, theory = rate_points
        axes.plot(middle, theory, label="theory")
        axes.plot(middle, empirical, "o", label=f"matrices, N = {scale.rate_particles}")
        axes.legend()
    return Figure.render(
        "Linear statistics of Coulomb gases",
        "Left: the leading order is off by 1/N. Middle: L = sum r^4 of Ginibre matrices, "
        "standardised by the exact mean and variance, with the Edgeworth curve of the leading "
        "order. Right: the rate function and -log density over beta N^2, shifted to agree at the "
        "mode.",
        convergence,
        histogram,
        rate,
    )


def _edgeworth(x: NDArray, order: NDArray) -> NDArray:
    """The normal density corrected by the third and fourth cumulant."""
    skewness = order[2] / order[1] ** 1.5
    kurtosis = order[3] / order[1] ** 2
    he3, he4 = x**3 - 3 * x, x**4 - 6 * x**2 + 3
    he6 = x**6 - 15 * x**4 + 45 * x**2 - 15
    return norm.pdf(x) * (1 + skewness / 6 * he3 + kurtosis / 24 * he4 + skewness**2 / 72 * he6)
