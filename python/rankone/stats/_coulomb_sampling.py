"""Samples of Coulomb gases: exact from random matrices or independent radii, else MCMC."""

from __future__ import annotations

import math
from typing import Any, Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rankone.stats._coulomb_droplet import (
    HarmonicPotential,
    Radial,
    check_dim,
    check_gas,
    edge_radius,
    flux,
    values_at,
)

_GRID = 4096  # points of an inverse distribution function
_ADAPT_EVERY = 5  # sweeps between changes of the step, in burn-in
_ACCEPTANCE = (0.3, 0.5)


@overload
def sample_coulomb_gas(
    n_particles: int,
    *,
    dim: int,
    beta: float,
    potential: Radial,
    n_samples: int,
    method: str = "auto",
    n_chains: int = 256,
    burn_in: int = 200,
    thin: int = 2,
    step_size: float | None = None,
    random_state: int | np.random.Generator | None = None,
    device: str = "cpu",
    return_info: Literal[False] = False,
) -> NDArray: ...


@overload
def sample_coulomb_gas(
    n_particles: int,
    *,
    dim: int,
    beta: float,
    potential: Radial,
    n_samples: int,
    method: str = "auto",
    n_chains: int = 256,
    burn_in: int = 200,
    thin: int = 2,
    step_size: float | None = None,
    random_state: int | np.random.Generator | None = None,
    device: str = "cpu",
    return_info: Literal[True],
) -> tuple[NDArray, dict[str, Any]]: ...


def sample_coulomb_gas(
    n_particles: int,
    *,
    dim: int,
    beta: float,
    potential: Radial,
    n_samples: int,
    method: str = "auto",
    n_chains: int = 256,
    burn_in: int = 200,
    thin: int = 2,
    step_size: float | None = None,
    random_state: int | np.random.Generator | None = None,
    device: str = "cpu",
    return_info: bool = False,
) -> NDArray | tuple[NDArray, dict[str, Any]]:
    """Draw configurations of a Coulomb gas (see :mod:`rankone.stats.coulomb` for its energy).

    Args:
        n_particles: N, at least 1.
        dim: d, at least 1.
        beta: inverse temperature, above 0.
        potential: U, on float64 tensors.
        n_samples: configurations.
        method: ``"ginibre"``, eigenvalues of random matrices (d = 2, beta = 2,
            ``HarmonicPotential``); ``"radii"``, independent radii (d = 2, beta = 2), which are no
            positions: radii are independent in law and angles are not; ``"mcmc"``, single-particle
            Metropolis moves in many independent chains; ``"auto"``, the first that applies.
        n_chains, burn_in, thin: chains, sweeps before the first sample and between samples.
        step_size: standard deviation of a move; None adapts it to an acceptance of 0.3 to 0.5
            during burn-in, after which it is frozen.
        random_state: seed or generator.
        device: torch device of the chains.
        return_info: also return what the sampler did.

    Returns:
        (n_samples, N, dim) float64 positions, chain by chain for ``"mcmc"``; (n_samples, N) radii
        for ``"radii"``. With ``return_info`` also a dict of method, acceptance, step_size and ess,
        the effective number of independent samples for the mean squared radius.

    Raises:
        ValueError: for arguments outside those, or a method outside its domain.

    Source: arXiv 2310.16420 for the ensemble.

    Example:
        >>> from rankone.stats.coulomb import HarmonicPotential, sample_coulomb_gas
        >>> sample_coulomb_gas(5, dim=3, beta=2, potential=HarmonicPotential(), n_samples=4,
        ...                    n_chains=2, burn_in=5, random_state=0).shape
        (4, 5, 3)
    """
    check_dim(dim)
    check_gas(beta, n_particles)
    for name, value, least in (
        ("n_samples", n_samples, 1),
        ("n_chains", n_chains, 1),
        ("burn_in", burn_in, 0),
        ("thin", thin, 1),
    ):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if step_size is not None and not step_size > 0:
        raise ValueError(f"step_size must be above 0, got {step_size}")
    harmonic = isinstance(potential, HarmonicPotential)
    determinantal = dim == 2 and beta == 2
    if method == "auto":
        method = ("ginibre" if harmonic else "radii") if determinantal else "mcmc"
    if method not in ("ginibre", "radii", "mcmc"):
        raise ValueError(f"method must be auto, ginibre, radii or mcmc, got {method!r}")
    if method == "ginibre" and not (determinantal and harmonic):
        raise ValueError(
            "method 'ginibre' needs dim=2, beta=2 and a HarmonicPotential, got "
            f"dim={dim}, beta={beta}, {type(potential).__name__}"
        )
    if method == "radii" and not determinantal:
        raise ValueError(f"method 'radii' needs dim=2 and beta=2, got dim={dim} and beta={beta}")
    generator = np.random.default_rng(random_state)
    info: dict[str, Any] = {"method": method, "acceptance": 1.0, "step_size": None}
    if method == "ginibre":
        samples = _ginibre(n_particles, n_samples, generator, device)
        samples /= math.sqrt(potential.strength)  # type: ignore[attr-defined]
    elif method == "radii":
        samples = _radii(n_particles, potential, n_samples, generator)
    else:
        chains = min(n_chains, n_samples)
        gas = _Chains(n_particles, dim, beta, potential, chains, generator, device)
        samples = gas.run(n_samples, burn_in, thin, step_size)
        info |= {"acceptance": gas.acceptance, "step_size": gas.step, "ess": gas.ess}
    info.setdefault("ess", float(n_samples))
    return (samples, info) if return_info else samples


def _ginibre(n: int, n_samples: int, generator: np.random.Generator, device: str) -> NDArray:
    """Eigenvalues of matrices whose complex entries have variance 1/N, as points of the plane."""
    batch = max(1, 4_000_000 // (n * n))
    points = np.empty((n_samples, n, 2))
    for first in range(0, n_samples, batch):
        count = min(batch, n_samples - first)
        parts = generator.standard_normal((count, n, n, 2)) / math.sqrt(2 * n)
        matrices = torch.view_as_complex(torch.from_numpy(parts)).to(device)
        points[first : first + count] = torch.view_as_real(torch.linalg.eigvals(matrices)).cpu()
    return points


def _radii(n: int, potential: Radial, n_samples: int, generator: np.random.Generator) -> NDArray:
    """Independent radii, the k-th of density in proportion to r^(2k+1) exp(-2 N U(r))."""
    if isinstance(potential, HarmonicPotential):
        shape = np.arange(1, n + 1)
        return np.sqrt(generator.gamma(shape, size=(n_samples, n)) / (n * potential.strength))
    radius = edge_radius(potential, 2)
    # In log r, so that the first radii, far inside the droplet, are as well resolved as the last.
    log_r = np.linspace(
        math.log(radius * 1e-4), math.log(radius + 1 + 12 / math.sqrt(n)), 8 * _GRID
    )
    exponent = -2 * n * values_at(potential, np.exp(log_r))
    radii = np.empty((n_samples, n))
    for k in range(n):
        log_density = (2 * k + 2) * log_r + exponent  # of log r
        density = np.exp(log_density - log_density.max())
        mass = np.concatenate(([0.0], np.cumsum(density[1:] + density[:-1])))
        drawn = generator.random(n_samples) * mass[-1]
        first = np.searchsorted(mass, 0, side="right") - 1
        radii[:, k] = np.exp(np.interp(drawn, mass[first:], log_r[first:]))
    return radii


class _Chains:
    """Independent Metropolis chains, one configuration each, in one tensor."""

    def __init__(
        self,
        n: int,
        dim: int,
        beta: float,
        potential: Radial,
        chains: int,
        generator: np.random.Generator,
        device: str,
    ) -> None:
        self.n, self.dim, self.beta, self.potential, self.chains = n, dim, beta, potential, chains
        self.random = torch.Generator(device).manual_seed(int(generator.integers(2**62)))
        self.device = device
        self.x = torch.from_numpy(self._start(generator)).to(device)
        self.accepted = self.proposed = 0
        self.step = 0.0
        self.ess = 0.0

    @property
    def acceptance(self) -> float:
        """Share of moves accepted since the step was frozen."""
        return self.accepted / max(1, self.proposed)

    def _start(self, generator: np.random.Generator) -> NDArray:
        """Independent draws of the droplet: r^(d-1) U'(r) is the mass within r."""
        self.radius = edge_radius(self.potential, self.dim)
        grid = np.linspace(0, self.radius, _GRID)[1:]
        mass = np.maximum.accumulate(np.clip(flux(self.potential, self.dim, grid), 0, 1))
        radii = np.interp(generator.random((self.chains, self.n)), mass, grid)
        direction = generator.standard_normal((self.chains, self.n, self.dim))
        direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
        return radii[..., None] * direction

    def run(self, n_samples: int, burn_in: int, thin: int, step_size: float | None) -> NDArray:
        """Burn in, then draw; samples of one chain stand together."""
        # The typical distance of neighbours.
        self.step = step_size or self.radius * self.n ** (-1 / self.dim)
        for sweep in range(1, burn_in + 1):
            self._sweep()
            if step_size is None and sweep % _ADAPT_EVERY == 0:
                low, high = _ACCEPTANCE
                if not low <= self.acceptance <= high:
                    middle = (low + high) / 2
                    self.step *= float(np.clip(self.acceptance / middle, 0.5, 1.5))
                self.accepted = self.proposed = 0
        self.accepted = self.proposed = 0
        rounds = -(-n_samples // self.chains)
        drawn = torch.empty((rounds, *self.x.shape), dtype=torch.float64)
        for i in range(rounds):
            for _ in range(thin):
                self._sweep()
            drawn[i] = self.x.cpu()
        by_chain = drawn.transpose(0, 1)
        self.ess = _effective_samples(by_chain.square().sum(-1).mean(-1).numpy())
        # The surplus of a last, partial round is dropped from the last chains.
        keep = [
            rounds - (chain >= n_samples - (rounds - 1) * self.chains)
            for chain in range(self.chains)
        ]
        return np.concatenate([by_chain[c, :k].numpy() for c, k in enumerate(keep)])

    def _sweep(self) -> None:
        """One move of every particle of every chain."""
        shape = (self.n, self.chains)
        moves = torch.randn(
            (*shape, self.dim), generator=self.random, dtype=torch.float64, device=self.device
        )
        uniform = torch.rand(shape, generator=self.random, dtype=torch.float64, device=self.device)
        log_uniform = uniform.log()
        for i in range(self.n):
            old = self.x[:, i]
            new = old + self.step * moves[i]
            change = self.n * (
                self.potential(new.norm(dim=-1)) - self.potential(old.norm(dim=-1))
            ) + (self._repulsion(new, i) - self._repulsion(old, i))
            accept = log_uniform[i] < -self.beta * change
            self.x[:, i] = torch.where(accept[:, None], new, old)
            self.accepted += int(accept.sum())
        self.proposed += self.n * self.chains

    def _repulsion(self, point: Tensor, i: int) -> Tensor:
        """Energy of ``point`` with all particles but the i-th."""
        squared = (self.x - point[:, None]).square().sum(-1)
        squared[:, i] = 1.0  # adds the same to the old and the new energy
        if self.dim == 2:
            pair = -0.5 * squared.log()
        elif self.dim == 1:
            pair = -squared.sqrt()
        else:
            pair = squared ** ((2 - self.dim) / 2) / (self.dim - 2)
        return pair.sum(-1)


def _effective_samples(values: NDArray) -> float:
    """Independent samples worth as much as ``values`` (chains, rounds) for their mean."""
    chains, rounds = values.shape
    variance = values.var()
    if chains < 2 or rounds < 2 or variance == 0:
        return float(values.size)
    of_means = values.mean(axis=1).var(ddof=1)
    return float(min(values.size, chains * variance / of_means))
