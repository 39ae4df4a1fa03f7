"""How many environments certify a rate of violations: finite and infinite classes.

The constants are those of this project's derivation, not the paper's. The bounds by VC dimension
are large, and are there as theory; the finite class and held-out environments are for practice.
"""

from __future__ import annotations

import math

from scipy.optimize import brentq
from scipy.stats import beta

CRITERIA = ("excess_risk", "gradient")

# Warren's constant and the degree of an inequality of the gradient criterion.
_WARREN = 8 * math.e
_GRADIENT_DEGREE = 3


def pac_environments(
    zeta: float,
    delta: float,
    *,
    n_hypotheses: int | None = None,
    vc_dim: float | None = None,
) -> int:
    """Training environments without a violation that certify a violation rate of ``zeta``.

    Finite class: ``ceil(log(delta / N) / log(1 - zeta))``. Infinite class:
    ``max((4 / zeta) log2(2 / delta), (8 V / zeta) log2(13 / zeta))``.

    Args:
        zeta: rate, in (0, 1).
        delta: probability that the certificate is wrong, in (0, 1).
        n_hypotheses: N, size of a class fixed before the environments are seen.
        vc_dim: V, of an infinite class.

    Returns:
        Number of environments, at least 1.

    Raises:
        ValueError: for values out of range, or not exactly one of the two classes.

    Example:
        >>> from rankone.causal.approximate_invariance import pac_environments
        >>> pac_environments(0.1, 0.05, n_hypotheses=42)
        64
    """
    _check_rate("zeta", zeta)
    _check_class(delta, n_hypotheses, vc_dim)
    if n_hypotheses is not None:
        return max(1, math.ceil(math.log(delta / n_hypotheses) / math.log1p(-zeta)))
    assert vc_dim is not None
    return math.ceil(max(4 / zeta * math.log2(2 / delta), 8 * vc_dim / zeta * math.log2(13 / zeta)))


def pac_violation_bound(
    n_env: int,
    delta: float,
    *,
    n_violations: int = 0,
    n_hypotheses: int | None = None,
    vc_dim: float | None = None,
) -> float:
    """Violation rate that ``n_env`` training environments certify; 1 where they certify nothing.

    Finite class: the Clopper-Pearson bound at ``delta / N``, simultaneous for all N. Infinite
    class: the inverse of :func:`pac_environments`.

    Args:
        n_env: independent training environments.
        delta: probability that the certificate is wrong, in (0, 1).
        n_violations: those among them with a gap above epsilon.
        n_hypotheses: N, size of a class fixed before the environments are seen.
        vc_dim: V, of an infinite class; then without violations.

    Returns:
        The rate, in [0, 1].

    Raises:
        ValueError: for values out of range, or not exactly one of the two classes.

    Example:
        >>> from rankone.causal.approximate_invariance import pac_violation_bound
        >>> round(pac_violation_bound(64, 0.05, n_hypotheses=42), 3)
        0.1
    """
    _check_class(delta, n_hypotheses, vc_dim)
    if n_env < 1:
        raise ValueError(f"n_env must be at least 1, got {n_env}")
    if not 0 <= n_violations <= n_env:
        raise ValueError(f"n_violations must be in 0 .. n_env = {n_env}, got {n_violations}")
    if n_hypotheses is not None:
        if n_violations == n_env:
            return 1.0
        return float(beta.ppf(1 - delta / n_hypotheses, n_violations + 1, n_env - n_violations))
    if n_violations:
        raise ValueError(f"n_violations must be 0 with vc_dim, got {n_violations}")
    assert vc_dim is not None

    def excess(zeta: float) -> float:
        return 8 * vc_dim / zeta * math.log2(13 / zeta) - n_env

    first = 4 * math.log2(2 / delta) / n_env
    if excess(1.0) >= 0:
        return 1.0
    second = float(brentq(excess, 1e-12, 1.0, xtol=1e-14)) if excess(1e-12) > 0 else 0.0
    return min(1.0, max(first, second))


def vc_dimension(
    n_components: int,
    n_features: int,
    *,
    n_sites: int | None = None,
    in_degree: int | None = None,
    criterion: str = "gradient",
) -> float:
    """Bound of the VC dimension of the interventions with a gap above epsilon.

    From the number of free parameters ``P = k p + k`` and the degrees of the inequalities; with m
    sites of in-degree at most r, and the gradient criterion, also from the monomials of the
    intervention that the moments are linear in, whatever p is. The smaller one is returned.

    Args:
        n_components, n_features: k and p.
        n_sites, in_degree: m and r, both or neither; of the gradient criterion.
        criterion: "gradient" or "excess_risk".

    Returns:
        The bound.

    Raises:
        ValueError: for sizes below 1, or options that do not fit together.

    Example:
        >>> from rankone.causal.approximate_invariance import vc_dimension
        >>> round(vc_dimension(2, 10**6, n_sites=1, in_degree=1))
        172
    """
    for name, size in (("n_components", n_components), ("n_features", n_features)):
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
    if criterion not in CRITERIA:
        raise ValueError(f"criterion must be one of {CRITERIA}, got {criterion!r}")
    if (n_sites is None) != (in_degree is None):
        raise ValueError(
            f"n_sites and in_degree must be given together, got {n_sites} and {in_degree}"
        )
    k = n_components
    free = k * n_features + k
    if criterion == "excess_risk":
        if n_sites is not None:
            raise ValueError('n_sites must be None with criterion="excess_risk"')
        return 2 * free * math.log2(_WARREN * (2 * k + 4))
    ambient = 2 * free * math.log2(_WARREN * _GRADIENT_DEGREE * 2 * k)
    if n_sites is None or in_degree is None:
        return ambient
    if n_sites < 1 or in_degree < 0:
        raise ValueError(
            f"n_sites must be at least 1 and in_degree at least 0, got {n_sites} and {in_degree}"
        )
    block = n_sites**2 * in_degree
    monomials = (1 + n_sites) * (1 + block + block * (block + 1) // 2)
    return min(ambient, 2 * monomials * 2 * k * math.log2(6 * k))


def _check_rate(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name} must be in (0, 1), got {value}")


def _check_class(delta: float, n_hypotheses: int | None, vc_dim: float | None) -> None:
    _check_rate("delta", delta)
    if (n_hypotheses is None) == (vc_dim is None):
        raise ValueError(
            "exactly one of n_hypotheses and vc_dim must be given, got "
            f"n_hypotheses={n_hypotheses} and vc_dim={vc_dim}"
        )
    if n_hypotheses is not None and n_hypotheses < 1:
        raise ValueError(f"n_hypotheses must be at least 1, got {n_hypotheses}")
    if vc_dim is not None and not vc_dim > 0:
        raise ValueError(f"vc_dim must be positive, got {vc_dim}")
