"""Potentials of Coulomb gases, derivatives of radial functions, and the droplet's radius."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq
from torch import Tensor

Radial = Callable[[Tensor], Tensor]

_LARGEST_RADIUS = 2.0**200


@dataclass(frozen=True)
class PowerPotential:
    """``U(r) = strength r^power / power``.

    Args:
        power: above 0.
        strength: above 0.

    Raises:
        ValueError: for values of at most 0.

    Example:
        >>> import torch
        >>> from rankone.stats.coulomb import PowerPotential
        >>> PowerPotential(4)(torch.tensor(2.0)).item()
        4.0
    """

    power: float
    strength: float = 1.0

    def __post_init__(self) -> None:
        for name in ("power", "strength"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")

    def __call__(self, r: Tensor) -> Tensor:
        return self.strength / self.power * r**self.power


@dataclass(frozen=True)
class HarmonicPotential:
    """``U(r) = strength r^2 / 2``; with strength 1, d = 2 and beta = 2 the Ginibre ensemble.

    Args:
        strength: above 0.

    Raises:
        ValueError: for a strength of at most 0.

    Example:
        >>> from rankone.stats.coulomb import HarmonicPotential, droplet_radius
        >>> droplet_radius(HarmonicPotential(4.0), 2)
        0.5
    """

    strength: float = 1.0

    def __post_init__(self) -> None:
        if not self.strength > 0:
            raise ValueError(f"strength must be above 0, got {self.strength}")

    def __call__(self, r: Tensor) -> Tensor:
        return self.strength / 2 * r * r


def check_dim(dim: int) -> None:
    if not (dim >= 1 and dim == int(dim)):
        raise ValueError(f"dim must be an integer of at least 1, got {dim}")


def check_gas(beta: float, n_particles: int) -> None:
    if not beta > 0:
        raise ValueError(f"beta must be above 0, got {beta}")
    if not (n_particles >= 1 and n_particles == int(n_particles)):
        raise ValueError(f"n_particles must be an integer of at least 1, got {n_particles}")


def values_at(function: Radial, r: NDArray) -> NDArray:
    value = torch.as_tensor(function(torch.from_numpy(np.array(r, dtype=np.float64))))
    return np.broadcast_to(value.numpy(), r.shape)


def slopes_at(function: Radial, r: NDArray, order: int) -> list[NDArray]:
    """Derivatives of orders 1 to ``order`` at every entry of ``r``."""
    point = torch.from_numpy(np.array(r, dtype=np.float64)).requires_grad_()
    value = torch.as_tensor(function(point), dtype=torch.float64).expand(point.shape)
    found = []
    for _ in range(order):
        value = _gradient(value, point)
        found.append(value.detach().numpy())
    return found


def _gradient(value: Tensor, point: Tensor) -> Tensor:
    """Elementwise derivative; zero where ``value`` no longer depends on ``point``."""
    if not value.requires_grad:
        return torch.zeros_like(point)
    (slope,) = torch.autograd.grad(value.sum(), point, create_graph=True, allow_unused=True)
    return torch.zeros_like(point) if slope is None else slope


def flux(potential: Radial, dim: int, r: NDArray) -> NDArray:
    """``r^(d-1) U'(r)``: the mass within r."""
    return r ** (dim - 1) * slopes_at(potential, r, 1)[0]


def flux_slope(function: Radial, dim: int, r: NDArray) -> NDArray:
    """``(r^(d-1) function')'``."""
    first, second = slopes_at(function, r, 2)
    slope = r ** (dim - 1) * second
    if dim > 1:
        slope = slope + (dim - 1) * r ** (dim - 2) * first
    return slope


def edge_radius(potential: Radial, dim: int) -> float:
    def excess(r: float) -> float:
        return float(flux(potential, dim, np.array(r))) - 1

    upper = 1.0
    while not excess(upper) >= 0:
        upper *= 2
        if upper > _LARGEST_RADIUS:
            raise ValueError(
                "potential must confine the gas: r^(d-1) U'(r) never reaches 1, so that there is "
                "no droplet"
            )
    lower = upper / 2
    while not excess(lower) < 0:
        upper, lower = lower, lower / 2
        if lower == 0:
            raise ValueError("potential must have r^(d-1) U'(r) below 1 near the centre")
    return float(brentq(excess, lower, upper, xtol=1e-14, rtol=8.9e-16))
