"""Cumulants of linear statistics of Coulomb gases in any dimension (arXiv 2310.16420).

N particles in R^d with energy ``E = N sum_i U(|x_i|) + sum_{i<j} V_d(|x_i - x_j|)`` and density in
proportion to ``exp(-beta E)``; ``V_d(r) = r^(2-d) / (d-2)``, ``-log r`` in two dimensions and
``-r`` in one, so that ``V_d'(r) = -r^(1-d)``. For large N they fill a ball, the droplet, of radius
R with ``R^(d-1) U'(R) = 1``. A linear statistic is ``L = sum_i f(|x_i|)``.

The leading order of every cumulant follows from the droplet of the potential ``U - s f``. The
formulas were derived for this library in the normalisation above from the paper's statement, and
are held against exact results for finite N. Functions f and U are callables on float64 torch
tensors, elementwise and differentiable; their derivatives come from automatic differentiation.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq, minimize_scalar
from scipy.special import roots_legendre
from scipy.stats import kstat

from rankone._namespace import public_names
from rankone.stats._coulomb_droplet import (
    HarmonicPotential,
    PowerPotential,
    Radial,
    check_dim,
    check_gas,
    edge_radius,
    flux,
    flux_slope,
    slopes_at,
    values_at,
)
from rankone.stats._coulomb_sampling import sample_coulomb_gas

__all__ = [
    "HarmonicPotential",
    "PowerPotential",
    "cumulants",
    "droplet_radius",
    "estimate_cumulants",
    "exact_cumulants_determinantal",
    "large_deviation_rate",
    "linear_statistic",
    "mass_density",
    "sample_coulomb_gas",
    "scaled_mean",
    "validity_constant",
]

_NODES = 400  # Gauss-Legendre; 800 change nothing beyond 1e-12 for smooth f
_RATE_NODES = 48  # of the integral of G over s
_UNTRUSTED = 1e6  # a validity constant above this leaves no interval to speak of


def droplet_radius(potential: Radial, dim: int) -> float:
    """Radius R of the ball that the particles fill: ``R^(dim-1) U'(R) = 1``.

    Args:
        potential: U.
        dim: d, at least 1.

    Returns:
        R.

    Raises:
        ValueError: for ``dim`` below 1 or a potential that confines nothing.

    Example:
        >>> from rankone.stats.coulomb import HarmonicPotential, droplet_radius
        >>> droplet_radius(HarmonicPotential(), 3)
        1.0
    """
    check_dim(dim)
    return edge_radius(potential, dim)


def mass_density(potential: Radial, dim: int) -> Callable[[ArrayLike], NDArray]:
    """Radial mass density ``m(r) = d/dr (r^(dim-1) U'(r))`` of the droplet, of total mass 1.

    Args:
        potential: U.
        dim: d, at least 1.

    Returns:
        A function of radii (any shape) that returns m there, 0 beyond the droplet.

    Raises:
        ValueError: as :func:`droplet_radius`.

    Example:
        >>> from rankone.stats.coulomb import HarmonicPotential, mass_density
        >>> mass_density(HarmonicPotential(), 2)([0.25, 2.0]).tolist()
        [0.5, 0.0]
    """
    radius = droplet_radius(potential, dim)

    def density(r: ArrayLike) -> NDArray:
        r = np.asarray(r, dtype=np.float64)
        return np.where(r <= radius, flux_slope(potential, dim, r), 0.0)

    return density


def cumulants(
    f: Radial,
    potential: Radial,
    *,
    dim: int,
    beta: float,
    n_particles: int,
    max_order: int = 4,
    check: bool = True,
) -> NDArray:
    """Cumulants of ``L = sum_i f(|x_i|)`` at leading order in the number of particles.

    ``kappa_1 = N int f m``; ``kappa_2 = int r^(d-1) f'^2 / beta``; from the third on
    ``kappa_q = beta^(1-q) N^(2-q)`` times the (q-2)-th derivative at s = 0 of
    ``I(s) = int_0^R(s) r^(d-1) f'^2``, which depends on f through its derivatives at R alone. They
    come from one power series of R(s), without dividing by f'(R).

    Args:
        f: function of the radius.
        potential: U.
        dim: d, at least 1.
        beta: inverse temperature, above 0.
        n_particles: N, at least 1.
        max_order: largest cumulant.
        check: look at the droplet and the validity of the expansion.

    Returns:
        (max_order,) with kappa_q in entry q - 1.

    Raises:
        ValueError: for arguments outside those, or (with ``check``) where the mass density is
            negative: the droplet is not a ball.

    Warns:
        UserWarning: with ``check``, where :func:`validity_constant` is infinite or huge: the
            higher cumulants can then be wrong at every N.

    Source: "Linear statistics for Coulomb gases: higher order cumulants", arXiv 2310.16420.

    Example:
        >>> from rankone.stats.coulomb import HarmonicPotential, cumulants
        >>> cumulants(
        ...     lambda r: r**4, HarmonicPotential(), dim=2, beta=2, n_particles=10
        ... ).round(10).tolist()
        [3.3333333333, 1.0, 0.8, 1.12]
    """
    check_dim(dim)
    check_gas(beta, n_particles)
    if max_order < 1:
        raise ValueError(f"max_order must be at least 1, got {max_order}")
    radius = edge_radius(potential, dim)
    if check:
        _check_validity(f, potential, dim, radius)
    n = n_particles
    result = np.empty(max_order)
    result[0] = n * _mean(f, potential, dim, radius)
    if max_order > 1:
        result[1] = _fluctuation(f, dim, radius) / beta
    if max_order > 2:
        series = _fluctuation_series(f, potential, dim, radius, max_order - 2)
        for q in range(3, max_order + 1):
            scale = math.factorial(q - 2) * float(beta) ** (1 - q) * float(n) ** (2 - q)
            result[q - 1] = scale * series[q - 2]
    return result


def validity_constant(f: Radial, potential: Radial, dim: int) -> float:
    """``c = sup over the droplet of |(r^(d-1) f')'| / (r^(d-1) U')'``.

    The droplet of ``U - s f`` is a ball for |s| < 1/c. Where c is infinite, as where the density
    vanishes at the centre and f does not follow it, the cumulants beyond the third cannot be
    trusted.

    Args:
        f: function of the radius.
        potential: U.
        dim: d, at least 1.

    Returns:
        c, possibly ``inf``.

    Raises:
        ValueError: as :func:`droplet_radius`.

    Example:
        >>> from rankone.stats.coulomb import HarmonicPotential, PowerPotential, validity_constant
        >>> validity_constant(lambda r: r**2, HarmonicPotential(), 2)
        2.0
        >>> validity_constant(lambda r: r**2, PowerPotential(4), 2)
        inf
    """
    check_dim(dim)
    return _validity_constant(f, potential, dim, edge_radius(potential, dim))


def scaled_mean(f: Radial, potential: Radial, *, dim: int, s: float) -> float:
    """``G(s)``, the mean of L / N in the potential ``U - s f``.

    Args:
        f: function of the radius.
        potential: U.
        dim: d, at least 1.
        s: strength of the perturbation.

    Returns:
        ``G(s) = f(R(s)) - int_0^R(s) f' r^(d-1) (U' - s f') dr``.

    Raises:
        ValueError: where the perturbed potential confines nothing.

    Example:
        >>> from rankone.stats.coulomb import HarmonicPotential, scaled_mean
        >>> round(scaled_mean(lambda r: r**2, HarmonicPotential(), dim=2, s=0.25), 12)
        1.0
    """
    check_dim(dim)
    perturbed = _perturbed(f, potential, s)
    return _mean(f, perturbed, dim, edge_radius(perturbed, dim))


def large_deviation_rate(
    f: Radial, potential: Radial, *, dim: int, ell: ArrayLike
) -> float | NDArray:
    """Rate ``Psi`` of large deviations: ``P(L near N ell)`` decays as ``exp(-beta N^2 Psi(ell))``.

    ``Psi(ell) = s ell - int_0^s G`` with ``G(s) = ell``, while the droplet stays a ball.

    Args:
        f: function of the radius.
        potential: U.
        dim: d, at least 1.
        ell: values of L / N, any shape.

    Returns:
        Psi, a float or of ``ell``'s shape.

    Raises:
        ValueError: for values that no ball-shaped droplet reaches.

    Example:
        >>> import math
        >>> from rankone.stats.coulomb import HarmonicPotential, large_deviation_rate
        >>> rate = large_deviation_rate(lambda r: r**2, HarmonicPotential(), dim=2, ell=1.0)
        >>> math.isclose(rate, 1 / 4 - math.log(2) / 4)
        True
    """
    check_dim(dim)
    values = np.asarray(ell, dtype=np.float64)
    c = validity_constant(f, potential, dim)
    if math.isinf(c):
        raise ValueError("f must leave the droplet a ball for small s, got a validity constant inf")
    rates = [_rate(f, potential, dim, float(value), c) for value in values.ravel()]
    return rates[0] if values.ndim == 0 else np.reshape(rates, values.shape)


def exact_cumulants_determinantal(
    f: Radial,
    potential: Radial,
    *,
    n_particles: int,
    max_order: int = 4,
    n_quad: int = 3000,
) -> NDArray:
    """Exact cumulants for d = 2 and beta = 2, where the radii are independent in law.

    The radii have the law of independent r_0, ..., r_(N-1), the k-th of density in proportion to
    ``r^(2k+1) exp(-2 N U(r))``.

    Args:
        f: function of the radius.
        potential: U.
        n_particles: N, at least 1.
        max_order: largest cumulant, 1 to 6.
        n_quad: nodes of the quadrature.

    Returns:
        (max_order,) with kappa_q in entry q - 1.

    Raises:
        ValueError: for arguments outside those.

    Example:
        >>> from rankone.stats.coulomb import HarmonicPotential, exact_cumulants_determinantal
        >>> exact_cumulants_determinantal(
        ...     lambda r: r**2, HarmonicPotential(), n_particles=4, max_order=2).round(12).tolist()
        [2.5, 0.625]
    """
    check_gas(2.0, n_particles)
    if not 1 <= max_order <= 6:
        raise ValueError(f"max_order must lie between 1 and 6, got {max_order}")
    if n_quad < 1:
        raise ValueError(f"n_quad must be at least 1, got {n_quad}")
    n = n_particles
    r, weight = _quadrature(droplet_radius(potential, 2) + 1 + 12 / math.sqrt(n), n_quad)
    value, exponent = values_at(f, r), -2 * n * values_at(potential, r)
    log_r, log_weight = np.log(r), np.log(weight)
    total = np.zeros(6)
    block = max(1, 4_000_000 // n_quad)  # rows of about 30 MB
    for first in range(0, n, block):
        k = np.arange(first, min(first + block, n))
        log_density = (2 * k[:, None] + 1) * log_r + exponent + log_weight
        density = np.exp(log_density - log_density.max(axis=1, keepdims=True))
        density /= density.sum(axis=1, keepdims=True)
        mean = density @ value
        centered = value - mean[:, None]
        # Centred from the start: raw moments would lose the fourth cumulant to cancellation.
        m2, m3, m4, m5, m6 = ((density * centered**j).sum(axis=1) for j in range(2, 7))
        total += [
            mean.sum(),
            m2.sum(),
            m3.sum(),
            (m4 - 3 * m2**2).sum(),
            (m5 - 10 * m3 * m2).sum(),
            (m6 - 15 * m4 * m2 - 10 * m3**2 + 30 * m2**3).sum(),
        ]
    return total[:max_order]


def linear_statistic(positions: ArrayLike, f: Radial) -> NDArray:
    """``L = sum_i f(|x_i|)`` of each configuration.

    Args:
        positions: (n_samples, N, d) positions or (n_samples, N) radii.
        f: function of the radius.

    Returns:
        (n_samples,).

    Raises:
        ValueError: for another number of dimensions.

    Example:
        >>> import numpy as np
        >>> from rankone.stats.coulomb import linear_statistic
        >>> linear_statistic(np.ones((1, 3, 2)), lambda r: r**2).round(12).tolist()
        [6.0]
    """
    positions = np.asarray(positions, dtype=np.float64)
    if positions.ndim not in (2, 3):
        raise ValueError(
            f"positions must have shape (n_samples, N, d) or (n_samples, N), got {positions.shape}"
        )
    radii = positions if positions.ndim == 2 else np.linalg.norm(positions, axis=-1)
    return values_at(f, radii).sum(axis=-1)


def estimate_cumulants(
    values: ArrayLike, max_order: int = 4, n_blocks: int = 50
) -> tuple[NDArray, NDArray]:
    """Unbiased cumulants (k-statistics) and their standard errors.

    The errors are a jackknife over contiguous blocks. Samples of Markov chains come chain by chain
    from :func:`sample_coulomb_gas`, so that blocks hold whole chains and are independent.

    Args:
        values: (n,) values of a statistic.
        max_order: largest cumulant, 1 to 4.
        n_blocks: blocks, 2 to n / (max_order + 1).

    Returns:
        Estimates and standard errors, each (max_order,).

    Raises:
        ValueError: for arguments outside those.

    Example:
        >>> import numpy as np
        >>> from rankone.stats.coulomb import estimate_cumulants
        >>> draws = np.random.default_rng(0).standard_normal(5000)
        >>> estimates, errors = estimate_cumulants(draws)
        >>> bool((np.abs(estimates - [0, 1, 0, 0]) < 4 * errors).all())
        True
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"values must have shape (n,), got {values.shape}")
    if not 1 <= max_order <= 4:
        raise ValueError(f"max_order must lie between 1 and 4, got {max_order}")
    if n_blocks < 2 or n_blocks * (max_order + 1) > len(values):
        raise ValueError(
            f"n_blocks must lie between 2 and n / (max_order + 1), got {n_blocks} for "
            f"{len(values)} values"
        )
    orders = range(1, max_order + 1)
    estimates = np.array([kstat(values, q) for q in orders])
    starts = np.linspace(0, len(values), n_blocks + 1).astype(int)
    left_out = np.array(
        [[kstat(np.delete(values, slice(a, b)), q) for q in orders] for a, b in pairwise(starts)]
    )
    spread = np.square(left_out - left_out.mean(axis=0)).sum(axis=0)
    return estimates, np.sqrt((n_blocks - 1) / n_blocks * spread)


def _taylor(function: Radial, radius: float, order: int) -> NDArray:
    """Taylor coefficients 0..order at ``radius``."""
    point = np.array(radius)
    derivatives = [values_at(function, point), *slopes_at(function, point, order)]
    return np.array([float(d) / math.factorial(k) for k, d in enumerate(derivatives)])


def _perturbed(f: Radial, potential: Radial, s: float) -> Radial:
    return lambda r: potential(r) - s * f(r)


def _quadrature(upper: float, nodes: int = _NODES) -> tuple[NDArray, NDArray]:
    x, weight = roots_legendre(nodes)
    return upper * (x + 1) / 2, upper * weight / 2


def _mean(f: Radial, potential: Radial, dim: int, radius: float) -> float:
    """``int_0^R f m``, integrated by parts so that it holds whatever the density's sign."""
    r, weight = _quadrature(radius)
    inner = weight @ (slopes_at(f, r, 1)[0] * flux(potential, dim, r))
    return float(values_at(f, np.array(radius)) - inner)


def _fluctuation(f: Radial, dim: int, radius: float) -> float:
    r, weight = _quadrature(radius)
    return float(weight @ (r ** (dim - 1) * slopes_at(f, r, 1)[0] ** 2))


def _fluctuation_series(
    f: Radial, potential: Radial, dim: int, radius: float, order: int
) -> NDArray:
    """Coefficients 0..order of ``I(s) - I(0)`` in s.

    With x = R(s) - R, the edge solves A(R + x) - 1 = s B(R + x), A and B the fluxes of U and f;
    the series of x is improved by one order a pass.
    """
    shell = np.array([math.comb(dim - 1, k) * radius ** (dim - 1 - k) for k in range(dim)])
    potential_slope = _derivative_series(_taylor(potential, radius, order + 1))
    f_slope = _derivative_series(_taylor(f, radius, order + 1))
    a = _product(shell, potential_slope, order)
    b = _product(shell, f_slope, order)
    c = _product(b, f_slope, order)
    if not a[1] > 0:
        raise ValueError(f"potential must have a positive density at the edge, got {a[1]:.3g}")
    x = np.zeros(order + 1)
    for _ in range(order):
        powers = _powers(x, order)
        shifted = np.concatenate(([0.0], (b @ powers)[:-1]))  # s B(R + x)
        x = (shifted - a[2:] @ powers[2:]) / a[1]
    powers = _powers(x, order + 1)
    k = np.arange(1, order + 1)
    return (c[:order] / k) @ powers[1 : order + 1, : order + 1]


def _derivative_series(coefficients: NDArray) -> NDArray:
    return coefficients[1:] * np.arange(1, len(coefficients))


def _product(a: NDArray, b: NDArray, order: int) -> NDArray:
    product = np.convolve(a, b)[: order + 1]
    return np.pad(product, (0, order + 1 - len(product)))


def _powers(x: NDArray, order: int) -> NDArray:
    """Rows k = 0..order: the series x^k, truncated."""
    powers = np.zeros((order + 1, len(x)))
    powers[0, 0] = 1
    for k in range(1, order + 1):
        powers[k] = np.convolve(powers[k - 1], x)[: len(x)]
    return powers


def _validity_constant(f: Radial, potential: Radial, dim: int, radius: float) -> float:
    def ratio(r: NDArray) -> NDArray:
        above, below = np.abs(flux_slope(f, dim, r)), flux_slope(potential, dim, r)
        with np.errstate(divide="ignore", invalid="ignore"):
            quotient = above / below
        return np.where(above == 0, 0.0, np.where(below > 0, quotient, np.inf))

    # Towards the centre, where a vanishing density shows as growth without bound.
    inner = ratio(radius * np.array([1e-3, 1e-5, 1e-7]))
    r = np.linspace(radius / 2000, radius, 2000)
    values = ratio(r)
    best = int(np.argmax(values))
    if math.isinf(values[best]) or (
        inner[2] > 2 * inner[1] > 4 * inner[0] and inner[2] > values.max()
    ):
        return math.inf
    step = r[1] - r[0]
    refined = minimize_scalar(
        lambda point: -float(ratio(np.array(point))),
        bounds=(max(r[best] - step, radius * 1e-9), min(r[best] + step, radius)),
        method="bounded",
    )
    return float(max(values[best], inner.max(), -refined.fun))


def _check_validity(f: Radial, potential: Radial, dim: int, radius: float) -> None:
    if not _is_ball(potential, dim, radius):
        raise ValueError(
            "potential must have a mass density of at least 0 within the droplet: the droplet of "
            "this one is not a ball"
        )
    c = _validity_constant(f, potential, dim, radius)
    if c > _UNTRUSTED:
        warnings.warn(
            f"the validity constant is {c:.3g}: the droplet does not stay a ball for small "
            "perturbations by f, so that cumulants beyond the third can be wrong at every number "
            "of particles",
            UserWarning,
            stacklevel=3,
        )


def _is_ball(potential: Radial, dim: int, radius: float) -> bool:
    density = flux_slope(potential, dim, radius * np.arange(1, 513) / 512)
    return bool((density >= -1e-12 * max(1.0, np.abs(density).max())).all())


def _rate(f: Radial, potential: Radial, dim: int, ell: float, c: float) -> float:
    def mean(s: float) -> float | None:
        """G(s), or None where the droplet is not a ball."""
        perturbed = _perturbed(f, potential, s)
        try:
            radius = edge_radius(perturbed, dim)
        except ValueError:
            return None
        return _mean(f, perturbed, dim, radius) if _is_ball(perturbed, dim, radius) else None

    center = mean(0.0)
    if center is None:
        raise ValueError("potential must have a ball for its droplet")
    if ell == center:
        return 0.0
    sign = 1.0 if ell > center else -1.0
    inside, step, reached = 0.0, (0.5 / c if c > 0 else 1.0), center
    while True:
        if step < 1e-13 * max(1e-3, inside) or inside > 1e12:
            raise ValueError(
                f"ell must be reachable by a ball-shaped droplet, got {ell}: it lies beyond "
                f"{reached:.6g}, where s = {sign * inside:.6g}"
            )
        value = mean(sign * (inside + step))
        if value is None:
            step /= 2
        elif sign * (value - ell) >= 0:
            break
        else:
            inside, reached, step = inside + step, value, 2 * step

    def difference(magnitude: float) -> float:
        perturbed = _perturbed(f, potential, sign * magnitude)
        return sign * (_mean(f, perturbed, dim, edge_radius(perturbed, dim)) - ell)

    s = sign * brentq(difference, inside, inside + step, xtol=1e-14, rtol=8.9e-16)
    points, weight = _quadrature(1.0, _RATE_NODES)
    # Graded towards s, where the droplet may be about to lose its shape.
    graded, stretched = 1 - (1 - points) ** 2, 2 * (1 - points) * weight
    means = [
        _mean(f, p, dim, edge_radius(p, dim))
        for p in (_perturbed(f, potential, s * point) for point in graded)
    ]
    return float(s * ell - s * (stretched @ np.array(means)))


def __dir__() -> list[str]:
    return public_names(globals())
