"""What answers to adaptively chosen queries guarantee about the population.

The transfer theorem in the explicit form of arXiv 1909.03577, composition of differential privacy,
and the accuracies that follow from them for answers with Gaussian noise, for sample splitting and
for queries fixed in advance. Logarithms are natural.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, overload

import numpy as np
from scipy.optimize import minimize
from scipy.special import erfcinv

_INFEASIBLE = 1e6
_LARGEST_EPSILON = 5.0  # e^5 - 1 is far above the accuracy of 1 that holds for nothing
# Where the minimiser starts; the best of all is kept.
_SCALES = (1e-3, 0.01, 0.1, 0.5)
_SAMPLE_BETAS = (1e-6, 1e-4, 1e-3)
_DELTAS = (1e-9, 1e-6)


def transfer_bound(
    alpha: float, beta: float, epsilon: float, delta: float = 0.0, *, c: float, d: float = 0.0
) -> tuple[float, float]:
    """Accuracy on the population from accuracy on the sample and differential privacy.

    Args:
        alpha, beta: the answers to bounded queries are within ``alpha`` of the sample's except
            with probability ``beta``.
        epsilon, delta: the answers are (epsilon, delta)-differentially private in the sample.
        c: free, above 0.
        d: free, above 0 where ``delta`` is, else at least 0.

    Returns:
        (alpha', beta'), ``alpha' = alpha + e^epsilon - 1 + c + 2 d`` and
        ``beta' = beta / c + delta / d``: the answers are within alpha' of the population's except
        with probability beta'.

    Raises:
        ValueError: for arguments outside those.

    Source: "A New Analysis of Differential Privacy's Generalization Guarantees", arXiv 1909.03577.

    Example:
        >>> from rankone.stats.adaptive import transfer_bound
        >>> [round(value, 4) for value in transfer_bound(0.01, 0.001, 0.02, c=0.02)]
        [0.0502, 0.05]
    """
    _at_least_zero(alpha=alpha, beta=beta, epsilon=epsilon, delta=delta, d=d)
    if not c > 0:
        raise ValueError(f"c must be above 0, got {c}")
    if delta > 0 and d == 0:
        raise ValueError(f"d must be above 0 where delta is, got d=0 and delta={delta}")
    failure = beta / c + (delta / d if delta > 0 else 0.0)
    return alpha + math.expm1(epsilon) + c + 2 * d, failure


def zcdp_to_dp(rho: float, delta: float) -> float:
    """The epsilon for which rho-concentrated privacy implies (epsilon, delta).

    Args:
        rho: at least 0.
        delta: in (0, 1).

    Returns:
        ``rho + 2 sqrt(rho log(1 / delta))``.

    Raises:
        ValueError: for arguments outside those.

    Example:
        >>> from rankone.stats.adaptive import zcdp_to_dp
        >>> zcdp_to_dp(0.0, 0.1)
        0.0
    """
    _at_least_zero(rho=rho)
    _probability(delta=delta)
    return rho + 2 * math.sqrt(rho * math.log(1 / delta))


def advanced_composition(
    epsilon: float, k: int, delta_prime: float, delta: float = 0.0
) -> tuple[float, float]:
    """Privacy of ``k`` adaptively chosen (epsilon, delta)-private steps.

    Args:
        epsilon, delta: of each step, at least 0.
        k: number of steps, at least 0.
        delta_prime: in (0, 1), spent on the composition.

    Returns:
        (epsilon', delta'), ``epsilon' = epsilon sqrt(2 k log(1/delta_prime)) +
        k epsilon (e^epsilon - 1)`` and ``delta' = k delta + delta_prime``.

    Raises:
        ValueError: for arguments outside those.

    Example:
        >>> from rankone.stats.adaptive import advanced_composition
        >>> advanced_composition(0.1, 0, 1e-6)
        (0.0, 1e-06)
    """
    _at_least_zero(epsilon=epsilon, k=k, delta=delta)
    _probability(delta_prime=delta_prime)
    composed = epsilon * math.sqrt(2 * k * math.log(1 / delta_prime))
    return composed + k * epsilon * math.expm1(epsilon), k * delta + delta_prime


@overload
def gaussian_accuracy(
    n: int, n_queries: int, beta: float, return_parameters: Literal[False] = False
) -> float: ...


@overload
def gaussian_accuracy(
    n: int, n_queries: int, beta: float, return_parameters: Literal[True]
) -> tuple[float, dict[str, float]]: ...


def gaussian_accuracy(
    n: int, n_queries: int, beta: float, return_parameters: bool = False
) -> float | tuple[float, dict[str, float]]:
    """What adaptive queries answered with Gaussian noise are guaranteed to be within.

    The noise is chosen: ``A = min over s, sample_beta, delta of s sqrt(2) erfcinv(sample_beta / m)
    + e^epsilon - 1 + 2 sample_beta / beta + 4 delta / beta``, epsilon of the concentrated privacy
    ``m / (2 n^2 s^2)``.

    Args:
        n: rows, at least 1.
        n_queries: m, at least 1.
        beta: probability of failure, in (0, 1).
        return_parameters: also return the minimiser.

    Returns:
        The accuracy, at most 1; with ``return_parameters`` also a dict of scale (the noise's
        standard deviation), sample_beta and delta.

    Raises:
        ValueError: for arguments outside those.

    Example:
        >>> from rankone.stats.adaptive import gaussian_accuracy
        >>> round(gaussian_accuracy(1_000_000, 1000, 0.05), 3)
        0.06
    """
    _counts(n=n, n_queries=n_queries)
    _probability(beta=beta)

    def objective(logs: Sequence[float]) -> float:
        scale, sample_beta, delta = np.exp(logs)
        return _gaussian_objective(n, n_queries, beta, scale, sample_beta, delta)

    accuracy, (scale, sample_beta, delta) = _minimum(
        objective, itertools.product(_SCALES, _SAMPLE_BETAS, _DELTAS)
    )
    accuracy = min(1.0, accuracy)
    if not return_parameters:
        return accuracy
    return accuracy, {"scale": scale, "sample_beta": sample_beta, "delta": delta}


def gaussian_accuracy_at(n: int, n_queries: int, beta: float, scale: float) -> float:
    """As :func:`gaussian_accuracy` for noise of a given standard deviation, above 0."""

    def objective(logs: Sequence[float]) -> float:
        return _gaussian_objective(n, n_queries, beta, scale, *np.exp(logs))

    return min(1.0, _minimum(objective, itertools.product(_SAMPLE_BETAS, _DELTAS))[0])


def _gaussian_objective(
    n: int, m: int, beta: float, scale: float, sample_beta: float, delta: float
) -> float:
    if sample_beta >= beta / 2 or delta >= beta / 2:
        return _INFEASIBLE
    rho = m / (2 * n**2 * scale**2)
    epsilon = rho + 2 * math.sqrt(rho * math.log(1 / delta))
    if epsilon > _LARGEST_EPSILON:
        return _INFEASIBLE
    error = scale * math.sqrt(2) * float(erfcinv(sample_beta / m))
    return error + math.expm1(epsilon) + 2 * sample_beta / beta + 4 * delta / beta


def multiplicative_weights_accuracy(
    n: int,
    n_queries: int,
    beta: float,
    *,
    threshold: float,
    noise_scale: float,
    max_updates: int,
) -> float:
    """What answers of private multiplicative weights are guaranteed to be within, at most 1.

    Each update costs 3 / (n noise_scale); ``max_updates`` of them by advanced composition. While
    updates remain answers are within ``threshold + 3 noise_scale log(3 m / sample_beta)`` of the
    sample's.
    """
    step = 3 / (n * noise_scale)

    def objective(logs: Sequence[float]) -> float:
        sample_beta, delta = np.exp(logs)
        if sample_beta >= beta / 2 or delta >= beta / 2:
            return _INFEASIBLE
        epsilon, spent = advanced_composition(step, max_updates, delta)
        if epsilon > _LARGEST_EPSILON:
            return _INFEASIBLE
        error = threshold + 3 * noise_scale * math.log(3 * n_queries / sample_beta)
        return error + math.expm1(epsilon) + 2 * sample_beta / beta + 4 * spent / beta

    return min(1.0, _minimum(objective, itertools.product(_SAMPLE_BETAS, _DELTAS))[0])


def _minimum(
    objective: Callable[[Sequence[float]], float], starts: Iterable[tuple[float, ...]]
) -> tuple[float, tuple[float, ...]]:
    """The least value over positive arguments, by Nelder-Mead in their logs, and where it is."""
    best, where = math.inf, ()
    for start in starts:
        found = minimize(
            objective,
            np.log(start),
            method="Nelder-Mead",
            options={"xatol": 1e-4, "fatol": 1e-9, "maxiter": 2000},
        )
        if found.fun < best:
            best, where = float(found.fun), tuple(np.exp(found.x).tolist())
    return best, where


def split_accuracy(n: int, n_queries: int, beta: float) -> float:
    """What adaptive queries on disjoint parts of the rows are guaranteed to be within.

    Args:
        n: rows, at least 1.
        n_queries: m parts, at least 1.
        beta: probability of failure, in (0, 1).

    Returns:
        ``sqrt(m log(2 m / beta) / (2 n))``.

    Raises:
        ValueError: for arguments outside those.

    Example:
        >>> from rankone.stats.adaptive import split_accuracy
        >>> round(split_accuracy(100_000, 100, 0.05), 4)
        0.0644
    """
    _counts(n=n, n_queries=n_queries)
    _probability(beta=beta)
    return math.sqrt(n_queries * math.log(2 * n_queries / beta) / (2 * n))


def fixed_accuracy(n: int, n_queries: int, beta: float) -> float:
    """What queries fixed before the data were seen are guaranteed to be within.

    Args:
        n: rows, at least 1.
        n_queries: m, at least 1.
        beta: probability of failure, in (0, 1).

    Returns:
        ``sqrt(log(2 m / beta) / (2 n))``.

    Raises:
        ValueError: for arguments outside those.

    Example:
        >>> from rankone.stats.adaptive import fixed_accuracy
        >>> round(fixed_accuracy(100_000, 100, 0.05), 5)
        0.00644
    """
    return split_accuracy(n, n_queries, beta) / math.sqrt(n_queries)


def max_queries(n: int, accuracy: float, beta: float, method: str = "gaussian") -> int:
    """The largest number of adaptive queries with a guaranteed accuracy, by bisection.

    Args:
        n: rows, at least 1.
        accuracy: wanted, in (0, 1).
        beta: probability of failure, in (0, 1).
        method: ``"gaussian"`` noise or ``"split"`` rows.

    Returns:
        The number of queries; 0 where not one can be answered.

    Raises:
        ValueError: for arguments outside those.

    Example:
        >>> from rankone.stats.adaptive import max_queries, split_accuracy
        >>> m = max_queries(10_000, 0.1, 0.05, method="split")
        >>> split_accuracy(10_000, m, 0.05) <= 0.1 < split_accuracy(10_000, m + 1, 0.05)
        True
    """
    if method not in ("gaussian", "split"):
        raise ValueError(f"method must be 'gaussian' or 'split', got {method!r}")
    _counts(n=n)
    _probability(accuracy=accuracy, beta=beta)
    guarantee = gaussian_accuracy if method == "gaussian" else split_accuracy
    if guarantee(n, 1, beta) > accuracy:
        return 0
    enough = 1
    while guarantee(n, 2 * enough, beta) <= accuracy:
        enough *= 2
    too_many = 2 * enough
    while too_many - enough > 1:
        middle = (enough + too_many) // 2
        if guarantee(n, middle, beta) <= accuracy:
            enough = middle
        else:
            too_many = middle
    return enough


def _at_least_zero(**values: float) -> None:
    for name, value in values.items():
        if not value >= 0:
            raise ValueError(f"{name} must be at least 0, got {value}")


def _probability(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < 1:
            raise ValueError(f"{name} must lie in (0, 1), got {value}")


def _counts(**values: int) -> None:
    for name, value in values.items():
        if not (value >= 1 and value == int(value)):
            raise ValueError(f"{name} must be an integer of at least 1, got {value}")
