"""The maximum moment restriction: how far ``E[phi | A]`` is from an affine function of A.

R is phi less its least-squares fit on [1, A], K a Gaussian kernel of A: ``R' K R / b^2`` is zero in
the limit if and only if ``E[R | A] = 0``. The diagonal of K stays: the fit makes the sum without it
negative for pure noise, and an encoder would learn to drive it further down. Dividing by the
covariance of phi leaves a number that no invertible affine map of phi changes, which is the class
that the restriction identifies; without it an encoder shrinks its code and the decoder undoes that.

Source: "Identifying Representations for Intervention Extrapolation" (arXiv 2310.04295) for the
restriction and the kernel criterion; normalisation and permutation test are this project's own.
"""

from __future__ import annotations

import math
from numbers import Real
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.utils import check_random_state

from rankone.causal._checks import at_least, matrix

Bandwidth = str | float

# Rows whose pairwise distances give the bandwidth: half a million pairs settle a median.
BANDWIDTH_ROWS = 1000

# Keeps the covariance invertible; small beside codes of unit order.
RIDGE = 1e-6

# Numbers held at once by the permutation test: 128 MB of float64.
_BUDGET = 2**24


class MomentTest(NamedTuple):
    """A permutation test of the moment restriction.

    Attributes:
        statistic: the normalised criterion Q.
        p_value: (1 + permutations with at least Q) / (1 + permutations).
    """

    statistic: float
    p_value: float


def maximum_moment_restriction(
    phi: torch.Tensor,
    A: torch.Tensor,
    *,
    bandwidth: Bandwidth = "median",
    normalize: bool = True,
) -> torch.Tensor:
    """Kernel criterion of ``E[phi - alpha - W A | A] = 0``, a V-statistic.

    With R the residuals of phi on [1, A] and ``K_ij = exp(-|A_i - A_j|^2 / (2 s^2))``, the raw
    criterion is ``tr(R' K R) / b^2``; the normalised one ``tr(C^-1 R' K R) / b^2`` with C the
    covariance of phi (ddof 1) plus 1e-6 I. If ``E[phi | A]`` is affine the criterion falls like
    1 / b; about 0.11 d / b for actions uniform on a square.

    Args:
        phi: (b, d) codes, of a floating dtype; float16 and bfloat16 are computed in float32.
        A: (b, k) actions of the same device, continuous; b > k + 1.
        bandwidth: s, or "median" for the median pairwise distance of up to 1000 rows of A.
        normalize: divide by the covariance, which makes the value invariant to affine maps of phi.

    Returns:
        0-dim tensor of phi's dtype, differentiable in phi, through R and C.

    Raises:
        TypeError: for a phi or A that is not a tensor, or a phi that is not floating.
        ValueError: for shapes, too few rows, [1, A] without full rank, or a bandwidth that is not
            positive.

    Source: arXiv 2310.04295; the normalisation is this project's own.

    Example:
        >>> import torch
        >>> from rankone.causal.intervention_extrapolation import maximum_moment_restriction
        >>> A = torch.linspace(-1, 1, 200)[:, None]
        >>> noise = torch.sin(1000 * A)
        >>> affine = maximum_moment_restriction(3 * A + noise, A)
        >>> curved = maximum_moment_restriction(3 * A + A**2 + noise, A)
        >>> bool(affine < 0.1 * curved)
        True
    """
    for name, value in (("phi", phi), ("A", A)):
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"{name} must be a torch tensor, got {type(value).__name__}")
        if value.ndim != 2:
            raise ValueError(f"{name} must be 2-D, got shape {tuple(value.shape)}")
    if not phi.is_floating_point():
        raise TypeError(f"phi must have a floating dtype, got {phi.dtype}")
    if A.is_complex():
        raise TypeError(f"A must be real, got {A.dtype}")
    if len(phi) != len(A):
        raise ValueError(f"phi and A must have as many rows, got {len(phi)} and {len(A)}")
    if phi.device != A.device:
        raise ValueError(f"phi and A must be on one device, got {phi.device} and {A.device}")
    if not phi.shape[1] or not A.shape[1]:
        raise ValueError(
            f"phi and A must have columns, got shapes {tuple(phi.shape)} and {tuple(A.shape)}"
        )
    check_rows(len(phi), A.shape[1])
    computed = torch.promote_types(phi.dtype, torch.float32)
    actions = A.detach().to(torch.promote_types(A.dtype, computed))
    check_actions(actions.cpu().numpy())
    s = resolve_bandwidth(bandwidth, actions)
    # Centred while still in A's own precision: kernel and residuals depend on differences alone.
    actions = (actions - actions.mean(dim=0)).to(computed)
    return criterion(phi.to(computed), actions, s, normalize=normalize).to(phi.dtype)


def criterion(
    phi: torch.Tensor, A: torch.Tensor, bandwidth: float, *, normalize: bool = True
) -> torch.Tensor:
    """:func:`maximum_moment_restriction` without checks, of one dtype."""
    basis = _basis(A)
    R = phi - basis @ (basis.T @ phi)
    moments = R.T @ (_kernel(A, A, bandwidth) @ R) / len(phi) ** 2
    if not normalize:
        return moments.trace()
    return torch.linalg.solve(_covariance(phi), moments).trace()


def moment_permutation_test(
    phi: ArrayLike,
    A: ArrayLike,
    *,
    bandwidth: Bandwidth = "median",
    n_permutations: int = 200,
    random_state: int | np.random.RandomState | None = None,
) -> MomentTest:
    """Whether ``E[phi | A]`` is affine in A, by permuting residuals against actions.

    Rows of the residuals are permuted, and each permuted set is projected on [1, A] again: without
    that the observed value, whose residuals are orthogonal to A, would be too small to be rejected.
    O(n^2) time for each permutation; memory grows with n alone.

    Args:
        phi: (n, d) codes, of rows that the encoder was not trained on.
        A: (n, k) their actions.
        bandwidth: as in :func:`maximum_moment_restriction`.
        n_permutations: at least 1.
        random_state: of the permutations.

    Returns:
        :class:`MomentTest`. A small p-value says that the code is not affine in the latent state,
        or that the action does not move the latent state linearly.

    Raises:
        ValueError: for shapes, too few rows, [1, A] without full rank, or ``n_permutations``.

    Source: this project's own.

    Example:
        >>> import numpy as np
        >>> from rankone.causal.intervention_extrapolation import moment_permutation_test
        >>> rng = np.random.default_rng(0)
        >>> A = rng.uniform(-1, 1, (300, 1))
        >>> curved = A**2 + 0.3 * rng.normal(size=(300, 1))
        >>> moment_permutation_test(curved, A, random_state=0).p_value < 0.01
        True
    """
    at_least(1, n_permutations=n_permutations)
    codes, actions = torch.tensor(matrix("phi", phi)), torch.tensor(matrix("A", A))
    observed = float(maximum_moment_restriction(codes, actions, bandwidth=bandwidth))
    s = resolve_bandwidth(bandwidth, actions)
    actions = actions - actions.mean(dim=0)
    basis = _basis(actions)
    residuals = codes - basis @ (basis.T @ codes)
    inverse = torch.linalg.inv(_covariance(codes))
    rng = check_random_state(random_state)
    n, d = codes.shape
    at_once = max(1, _BUDGET // (n * d))
    exceeding = 0
    for start in range(0, n_permutations, at_once):
        count = min(at_once, n_permutations - start)
        orders = torch.as_tensor(np.stack([rng.permutation(n) for _ in range(count)], axis=1))
        R = residuals[orders].reshape(n, count * d)
        R = R - basis @ (basis.T @ R)
        values = _statistics(R, actions, s, inverse)
        exceeding += int((values >= observed).sum())
    return MomentTest(observed, (1 + exceeding) / (1 + n_permutations))


def _statistics(
    R: torch.Tensor, A: torch.Tensor, bandwidth: float, inverse: torch.Tensor
) -> torch.Tensor:
    """The normalised criterion of each group of d columns of R."""
    n, d = len(A), len(inverse)
    groups = R.shape[1] // d
    total = torch.zeros(groups, dtype=R.dtype)
    rows = max(1, _BUDGET // n)
    for start in range(0, n, rows):
        block = slice(start, start + rows)
        smoothed = (_kernel(A[block], A, bandwidth) @ R).reshape(-1, groups, d)
        total += ((R[block].reshape(-1, groups, d) @ inverse) * smoothed).sum(dim=(0, 2))
    return total / n**2


def check_rows(rows: int, k: int, name: str = "phi") -> None:
    """Raise unless ``rows`` leave residuals of a fit on [1, A]."""
    if rows <= k + 1:
        raise ValueError(f"{name} must have more than k + 1 = {k + 1} rows, got {rows}")


def check_actions(A: np.ndarray) -> None:
    """Raise unless [1, A] has full column rank."""
    if not np.isfinite(A).all():
        raise ValueError("A must be finite, got NaN or infinity")
    constant = np.flatnonzero(np.ptp(A, axis=0) == 0)
    if len(constant):
        raise ValueError(f"[1, A] must have full column rank, got constant column {constant[0]}")
    centred = A - A.mean(axis=0)
    rank = int(np.linalg.matrix_rank(centred / centred.std(axis=0)))
    if rank < A.shape[1]:
        raise ValueError(
            f"[1, A] must have full column rank {A.shape[1] + 1}, got rank {rank + 1}: "
            "a column of A is a linear function of the others"
        )


def resolve_bandwidth(bandwidth: Bandwidth, A: torch.Tensor) -> float:
    """The kernel's s: as given, or the median pairwise distance of evenly spaced rows of A."""
    if bandwidth == "median":
        keep = np.linspace(0, len(A) - 1, min(len(A), BANDWIDTH_ROWS)).astype(np.int64)
        sample = A[torch.as_tensor(keep, device=A.device)].to(torch.float64)
        s = float(np.median(torch.pdist(sample).cpu().numpy()))
        if s > 0:
            return s
        raise ValueError(
            "A must be continuous, got a median distance of 0: more than half of its pairs of rows "
            "are equal"
        )
    if not (isinstance(bandwidth, Real) and math.isfinite(bandwidth) and bandwidth > 0):
        raise ValueError(f"bandwidth must be 'median' or a positive number, got {bandwidth!r}")
    return float(bandwidth)


def _basis(A: torch.Tensor) -> torch.Tensor:
    """Orthonormal columns that span [1, A]."""
    design = torch.cat([torch.ones_like(A[:, :1]), A], dim=1)
    return torch.linalg.qr(design).Q


def _kernel(left: torch.Tensor, right: torch.Tensor, bandwidth: float) -> torch.Tensor:
    # Centred actions: the expanded square loses nothing that matters to an exponential.
    squared = left.square().sum(dim=1)[:, None] + right.square().sum(dim=1) - 2 * left @ right.T
    return torch.exp(squared.clamp_min(0) / (-2 * bandwidth**2))


def _covariance(phi: torch.Tensor) -> torch.Tensor:
    centred = phi - phi.mean(dim=0)
    identity = torch.eye(phi.shape[1], dtype=phi.dtype, device=phi.device)
    return centred.T @ centred / (len(phi) - 1) + RIDGE * identity
