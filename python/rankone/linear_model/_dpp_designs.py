"""Random designs for least squares: i.i.d., projection DPP, volume-rescaled and repeated DPP.

All are exact draws. The projection DPP goes by the chain rule with rejection from the Christoffel
measure, for many draws at once; volume-rescaled designs are m points of that DPP and n - m i.i.d.
points, shuffled (Cauchy-Binet), so that no determinant is ever computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rankone._arguments import check_instance, check_number
from rankone._repr import short_repr
from rankone.linear_model._orthonormal_bases import OrthonormalBasis, check_integer

METHODS = ("iid", "volume", "repeated_dpp")

# Numbers held by one batch of DPP draws: 256 MB of float64.
_BATCH_NUMBERS = 2**25

# A step of the chain rule needs at most m proposals on average. Beyond this many times m the basis
# is not what it says: the chance of it is below exp(-1000).
_PATIENCE = 1000

# Squared relative residual below which a point counts as already spanned: rounding, not chance.
_SPANNED = 1e-14


@dataclass(frozen=True)
class Design:
    """Points at which to evaluate, and what is known of the fit before any evaluation.

    Attributes:
        points: (n, D).
        weights: (n,), w(x_i) of the weighted least squares.
        gram: (m, m), (1/n) sum_i w(x_i) phi(x_i) phi(x_i)^T.
        lambda_min: its smallest eigenvalue.
        method: how the points were drawn.
        n_attempts: designs (or sets of candidates) drawn until the condition held.
    """

    __repr__ = short_repr

    points: np.ndarray
    weights: np.ndarray
    gram: np.ndarray
    lambda_min: float
    method: str
    n_attempts: int


def _check_mix(mix: Any) -> float:
    if isinstance(mix, bool) or not isinstance(mix, float | int | np.number) or not 0 <= mix <= 1:
        raise ValueError(f"mix must lie in [0, 1], got {mix!r}")
    return float(mix)


def _weights(Phi: np.ndarray, mix: float) -> np.ndarray:
    density = mix + (1 - mix) * np.einsum("...j,...j->...", Phi, Phi) / Phi.shape[-1]
    if not np.all(density > 0):
        raise ValueError("X must avoid points where every basis function is 0 when mix is 0")
    return 1 / density


def christoffel_weights(basis: OrthonormalBasis, X: Any, mix: float = 0.0) -> np.ndarray:
    """w(x) = 1 / (mix + (1 - mix) k(x) / m), the weights of least squares under the sampling law.

    Args:
        basis: m functions.
        X: (n, D) points.
        mix: share of the reference measure, in [0, 1]; for mix > 0 no weight exceeds 1 / mix.

    Returns:
        (n,) weights.

    Raises:
        ValueError: for mix out of range, or a point where all functions vanish under mix = 0.

    Example:
        >>> from rankone.linear_model.dpp_least_squares import LegendreBasis, christoffel_weights
        >>> christoffel_weights(LegendreBasis(1), [[0.0], [1.0]]).round(6).tolist()
        [2.0, 0.5]
    """
    check_instance("basis", basis, OrthonormalBasis)
    return _weights(basis.evaluate(X), _check_mix(mix))


def _iid(basis: OrthonormalBasis, n: int, mix: float, rng: np.random.Generator) -> np.ndarray:
    if mix == 0:
        return basis.sample_christoffel(n, rng)
    reference = np.flatnonzero(rng.random(n) < mix)
    rest = np.ones(n, dtype=bool)
    rest[reference] = False
    drawn = basis.sample_reference(len(reference), rng)
    other = basis.sample_christoffel(n - len(reference), rng)
    points = np.empty((n, basis.n_dims), dtype=np.result_type(drawn, other))
    points[reference], points[rest] = drawn, other
    return points


def sample_iid(
    basis: OrthonormalBasis, n: int, *, mix: float = 0.0, random_state: Any = None
) -> np.ndarray:
    """Independent points of nu, mix of the reference measure and the rest Christoffel.

    Args:
        basis: m functions.
        n: number of points, at least 1.
        mix: in [0, 1].
        random_state: int, Generator (advanced) or None.

    Returns:
        (n, D).

    Raises:
        ValueError: for arguments out of range.

    Example:
        >>> from rankone.linear_model.dpp_least_squares import LegendreBasis, sample_iid
        >>> sample_iid(LegendreBasis(3), 5, random_state=0).shape
        (5, 1)
    """
    check_instance("basis", basis, OrthonormalBasis)
    n = check_integer("n", n, 1)
    return _iid(basis, n, _check_mix(mix), np.random.default_rng(random_state))


def sample_projection_dpp(
    basis: OrthonormalBasis, n_draws: int = 1, *, random_state: Any = None
) -> np.ndarray:
    """Independent draws of the projection determinantal point process of span(phi).

    m points have the joint density det[phi(x_1) .. phi(x_m)]^2 / m!. Exact, by the chain rule:
    propose from the Christoffel measure and accept with the share of phi(y) that the points so far
    do not span; about m log m proposals a draw.

    Args:
        basis: m functions.
        n_draws: at least 1.
        random_state: int, Generator (advanced) or None.

    Returns:
        (n_draws, m, D), points in exchangeable order.

    Raises:
        ValueError: for ``n_draws`` out of range.
        RuntimeError: for a basis whose functions are linearly dependent.

    Example:
        >>> from rankone.linear_model.dpp_least_squares import LegendreBasis, sample_projection_dpp
        >>> sample_projection_dpp(LegendreBasis(3), 2, random_state=0).shape
        (2, 4, 1)
    """
    check_instance("basis", basis, OrthonormalBasis)
    n_draws = check_integer("n_draws", n_draws, 1)
    rng = np.random.default_rng(random_state)
    batch = max(1, _BATCH_NUMBERS // basis.n_functions**2)
    return np.concatenate(
        [
            _projection_dpp(basis, min(batch, n_draws - start), rng)
            for start in range(0, n_draws, batch)
        ]
    )


def _projection_dpp(basis: OrthonormalBasis, n_draws: int, rng: np.random.Generator) -> np.ndarray:
    m = basis.n_functions
    spanned = np.zeros((n_draws, m, m))  # orthonormal rows, one more a step
    points: np.ndarray | None = None
    for step in range(m):
        waiting = np.arange(n_draws)
        block = -(-m // (m - step))  # the expected number of proposals
        proposed = 0
        while len(waiting):
            if proposed > _PATIENCE * m:
                raise RuntimeError(
                    f"basis must hold {m} linearly independent functions with exact Christoffel "
                    f"draws; no point for step {step + 1} in {proposed} proposals"
                )
            proposed += block
            candidates = basis.sample_christoffel(len(waiting) * block, rng)
            phi = basis.evaluate(candidates).reshape(len(waiting), block, m)
            Q = spanned[waiting, :step]
            projected = phi @ Q.transpose(0, 2, 1)
            size = np.einsum("dbj,dbj->db", phi, phi)
            share = 1 - np.einsum("dbs,dbs->db", projected, projected) / size
            accepted = (rng.random(share.shape) < share) & (share > _SPANNED)
            first = accepted.argmax(axis=1)
            found = np.flatnonzero(accepted[np.arange(len(waiting)), first])
            at = first[found]
            residual = phi[found, at]
            for _ in range(2):  # one pass lets the rows drift from orthogonality
                inner = np.einsum("dsj,dj->ds", Q[found], residual)
                residual = residual - np.einsum("ds,dsj->dj", inner, Q[found])
            residual /= np.linalg.norm(residual, axis=1, keepdims=True)
            spanned[waiting[found], step] = residual
            chosen = candidates.reshape(len(waiting), block, -1)[found, at]
            if points is None:
                points = np.empty((n_draws, m, chosen.shape[-1]), dtype=candidates.dtype)
            points[waiting[found], step] = chosen
            waiting = np.delete(waiting, found)
    assert points is not None
    return points


def _check_size(n: Any, m: int, method: str) -> int:
    n = check_integer("n", n, 1)
    if method == "volume" and n < m:
        raise ValueError(f"n must be at least the number of functions {m} for volume, got {n}")
    if method == "repeated_dpp" and n % m:
        raise ValueError(
            f"n must be a multiple of the number of functions {m} for repeated_dpp, got {n}"
        )
    return n


def sample_designs(
    basis: OrthonormalBasis,
    n: int,
    method: str,
    n_designs: int,
    *,
    mix: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Independent designs at once, (n_designs, n, D)."""
    m = basis.n_functions
    if method == "iid":
        return _iid(basis, n_designs * n, mix, rng).reshape(n_designs, n, -1)
    if method == "repeated_dpp":
        return sample_projection_dpp(basis, n_designs * (n // m), random_state=rng).reshape(
            n_designs, n, -1
        )
    points = sample_projection_dpp(basis, n_designs, random_state=rng)
    if n > m:
        rest = _iid(basis, n_designs * (n - m), mix, rng).reshape(n_designs, n - m, -1)
        points = np.concatenate([points, rest], axis=1)
    order = rng.permuted(np.tile(np.arange(n), (n_designs, 1)), axis=1)
    return np.take_along_axis(points, order[:, :, None], axis=1)


def sample_volume(
    basis: OrthonormalBasis, n: int, *, mix: float = 0.0, random_state: Any = None
) -> np.ndarray:
    """One volume-rescaled design: density proportional to det(G) with respect to nu^n.

    m points of the projection DPP and n - m independent points of nu in random order: by
    Cauchy-Binet this is that density, for every mix. E[u_hat] = P_V u and E[G^-1] = n / (n-m+1) I.

    Args:
        basis: m functions.
        n: number of points, at least m.
        mix: in [0, 1].
        random_state: int, Generator (advanced) or None.

    Returns:
        (n, D).

    Raises:
        ValueError: for n below m or arguments out of range.

    Example:
        >>> from rankone.linear_model.dpp_least_squares import LegendreBasis, sample_volume
        >>> sample_volume(LegendreBasis(3), 6, random_state=0).shape
        (6, 1)
    """
    check_instance("basis", basis, OrthonormalBasis)
    n = _check_size(n, basis.n_functions, "volume")
    rng = np.random.default_rng(random_state)
    return sample_designs(basis, n, "volume", 1, mix=_check_mix(mix), rng=rng)[0]


def sample_repeated_dpp(basis: OrthonormalBasis, n: int, *, random_state: Any = None) -> np.ndarray:
    """The union of n / m independent projection DPPs, one draw after another.

    Args:
        basis: m functions.
        n: number of points, a multiple of m.
        random_state: int, Generator (advanced) or None.

    Returns:
        (n, D).

    Raises:
        ValueError: for n that is no multiple of m.

    Example:
        >>> from rankone.linear_model.dpp_least_squares import LegendreBasis, sample_repeated_dpp
        >>> sample_repeated_dpp(LegendreBasis(3), 8, random_state=0).shape
        (8, 1)
    """
    check_instance("basis", basis, OrthonormalBasis)
    n = _check_size(n, basis.n_functions, "repeated_dpp")
    rng = np.random.default_rng(random_state)
    return sample_designs(basis, n, "repeated_dpp", 1, mix=0.0, rng=rng)[0]


def grams(Phi: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(..., m, m) Gram matrices of (..., n, m) values, and their smallest eigenvalues."""
    scaled = Phi * np.sqrt(weights / Phi.shape[-2])[..., None]
    G = np.swapaxes(scaled, -1, -2) @ scaled
    return G, np.linalg.eigvalsh(G)[..., 0]


def _prune(points: np.ndarray, Phi: np.ndarray, weights: np.ndarray, least: float) -> np.ndarray:
    """Indices kept: drop the point whose loss leaves the largest lambda, while it is enough."""
    m = Phi.shape[1]
    kept = np.arange(len(points))
    outer = weights[:, None, None] * Phi[:, :, None] * Phi[:, None, :]
    total = outer.sum(axis=0)
    while len(kept) > m:
        after = np.linalg.eigvalsh((total - outer[kept]) / (len(kept) - 1))[:, 0]
        worst = int(after.argmax())
        if after[worst] < least:
            break
        total = total - outer[kept[worst]]
        kept = np.delete(kept, worst)
    return kept


def sample_design(
    basis: OrthonormalBasis,
    n: int,
    method: str = "repeated_dpp",
    *,
    mix: float = 0.0,
    delta: float | None = None,
    n_candidates: int = 1,
    prune: bool = False,
    max_attempts: int = 1000,
    random_state: Any = None,
) -> Design:
    """A random design, conditioned on a stable Gram matrix where ``delta`` is given.

    Args:
        basis: m functions.
        n: number of points; at least m for "volume", a multiple of m for "repeated_dpp".
        method: "iid", "volume" or "repeated_dpp".
        mix: share of the reference measure in nu; 0 for "repeated_dpp", whose points all follow
            the Christoffel measure.
        delta: redraw the whole design until lambda_min >= 1 - delta; None takes the first.
        n_candidates: designs drawn at each attempt, of which the most stable is kept.
        prune: then drop points, one by one, while lambda_min >= 1 - delta and more than m are left.
        max_attempts: before giving up.
        random_state: int, Generator (advanced) or None.

    Returns:
        The :class:`Design`.

    Raises:
        ValueError: for arguments out of range, mix with "repeated_dpp", prune without delta.
        RuntimeError: where no attempt was stable, naming the best lambda seen.

    Example:
        >>> from rankone.linear_model.dpp_least_squares import LegendreBasis, sample_design
        >>> design = sample_design(LegendreBasis(3), 16, delta=0.5, random_state=0)
        >>> design.lambda_min >= 0.5
        True
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    check_instance("basis", basis, OrthonormalBasis)
    n = _check_size(n, basis.n_functions, method)
    mix = _check_mix(mix)
    if method == "repeated_dpp" and mix:
        raise ValueError(f"mix must be 0 for repeated_dpp, got {mix}")
    if delta is not None:
        check_number("delta", delta)
    if delta is not None and not 0 < delta < 1:
        raise ValueError(f"delta must lie strictly between 0 and 1, or be None, got {delta!r}")
    if prune and delta is None:
        raise ValueError("prune needs delta: pruning keeps lambda_min >= 1 - delta")
    n_candidates = check_integer("n_candidates", n_candidates, 1)
    max_attempts = check_integer("max_attempts", max_attempts, 1)
    rng = np.random.default_rng(random_state)
    least = -np.inf if delta is None else 1 - delta
    seen = -np.inf
    for attempt in range(1, max_attempts + 1):
        points = sample_designs(basis, n, method, n_candidates, mix=mix, rng=rng)
        Phi = basis.evaluate(points.reshape(-1, points.shape[-1]))
        Phi = Phi.reshape(n_candidates, n, -1)
        weights = _weights(Phi, mix)
        lambdas = grams(Phi, weights)[1]
        best = int(lambdas.argmax())
        seen = max(seen, float(lambdas[best]))
        if lambdas[best] >= least:
            kept = np.arange(n)
            if prune:
                kept = _prune(points[best], Phi[best], weights[best], least)
            gram, lambda_min = grams(Phi[best][kept], weights[best][kept])
            return Design(
                points[best][kept], weights[best][kept], gram, float(lambda_min), method, attempt
            )
    raise RuntimeError(
        f"no design of {n} points had lambda_min >= {least:.4g} in max_attempts = "
        f"{max_attempts}; the best had {seen:.4g}: take more points, a larger delta or more "
        "candidates"
    )
