"""Best arm of a linear bandit whose model is wrong, found with few queries when it is sparse.

Candidates for the sparse parameter are eliminated, not arms: the most promising candidate names an
arm, the arm is queried once, and every candidate that its reward contradicts goes. The arm found is
within a constant times epsilon of the best, where dense design and least squares lose
epsilon sqrt(d).

Source: "Does Sparsity Help in Learning Misspecified Linear Bandits?" (arXiv 2303.16998): the
setting, O(epsilon^-s d^s) queries for an O(epsilon)-optimal arm, exponentially many in s for less,
polynomially many with good features. The algorithms here, with their constants and guarantees, are
derived for this project from those statements; the polytope form and the instances are its own.
"""

from __future__ import annotations

import heapq
import math
import warnings
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linprog
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from rankone._arguments import check_instance
from rankone._namespace import public_names
from rankone.rl._bandit_instances import (
    ROUNDING,
    MisspecifiedBandit,
    check_epsilon,
    check_features,
    near_orthogonal_instance,
    random_instance,
    spherical_code,
    spread_instance,
)
from rankone.rl._sparse_net import check_net, grid_points, net_size, sparse_net

__all__ = [
    "DenseDesign",
    "MisspecifiedBandit",
    "SparseElimination",
    "SparseRecovery",
    "g_optimal_design",
    "near_orthogonal_instance",
    "net_size",
    "random_instance",
    "sparse_net",
    "spherical_code",
    "spread_instance",
]

# Numbers of a block of candidates times arms, held at once.
_BLOCK = 2**22

# Arms of a design with less weight than this are not queried.
_SUPPORT_WEIGHT = 1e-3

# Codes of scipy's linear programs.
_OPTIMAL, _INFEASIBLE = 0, 2

_CONTRADICTION = (
    "no sparse parameter fits the observations: epsilon={epsilon:g} is below the misspecification, "
    "or sparsity={sparsity} is too small"
)


class _Queries:
    """Averaged observations of one fit, each arm's taken once."""

    def __init__(
        self, bandit: MisspecifiedBandit, noise_std: float, epsilon: float, delta: float, most: int
    ) -> None:
        if not noise_std >= 0:
            raise ValueError(f"noise_std must be at least 0, got {noise_std}")
        if not 0 < delta < 1:
            raise ValueError(f"delta must be in (0, 1), got {delta}")
        deviation = 2 * math.log(2 * most / delta)
        self._bandit = bandit
        self.pulls = max(1, math.ceil(noise_std**2 * deviation / epsilon**2))
        self.half_width = noise_std * math.sqrt(deviation / self.pulls)
        self.seen: dict[int, float] = {}

    def __call__(self, arm: int) -> float:
        if arm not in self.seen:
            self.seen[arm] = self._bandit.pull(arm, self.pulls)
        return self.seen[arm]

    def best(self) -> int:
        return max(self.seen, key=lambda arm: self.seen[arm])


class _Net:
    """The candidates of all supports of one size: their best arms, and which still stand."""

    def __init__(self, features: np.ndarray, supports: np.ndarray, points: np.ndarray) -> None:
        self.supports, self.points = supports, points
        shape = (len(supports), len(points))
        self.arms = np.empty(shape, dtype=np.int32)
        self.upper = np.empty(shape)
        rows = max(1, _BLOCK // len(features))
        for index, support in enumerate(supports):
            columns = features[:, support].T
            for start in range(0, len(points), rows):
                values = points[start : start + rows] @ columns
                arms = np.argmax(values, axis=1)
                self.arms[index, start : start + rows] = arms
                self.upper[index, start : start + rows] = values[np.arange(len(arms)), arms]

    def top(self) -> tuple[float, int]:
        """Largest upper bound that still stands, and its index; the lowest index of equals."""
        index = int(np.argmax(self.upper))
        return float(self.upper.flat[index]), index

    def eliminate(self, feature: np.ndarray, observed: float, tolerance: float) -> None:
        rows = max(1, _BLOCK // len(self.points))
        for start in range(0, len(self.supports), rows):
            values = feature[self.supports[start : start + rows]] @ self.points.T
            contradicted = np.abs(values - observed) > tolerance
            self.upper[start : start + rows][contradicted] = -np.inf

    def survivors(self) -> int:
        return int(np.count_nonzero(np.isfinite(self.upper)))


class SparseElimination(BaseEstimator):
    """Elimination of sparse candidates: an arm within a constant times epsilon of the best.

    ``method="net"`` keeps a finite net of candidates of radius rho, queries the best arm of the
    most promising one, and deletes those that differ from the observation by more than
    epsilon + rho + xi, with xi the half-width of the averaged noise; the arm returned is within
    2 (epsilon + rho + xi) of the best and at most as many arms are queried as the net has points.
    ``method="polytope"`` keeps, for every support, all parameters that fit, and finds the most
    promising arm by linear programs: within 2 (epsilon + xi), without a net. Both guarantees are
    derived here; the polytope form is this project's own.

    Args:
        sparsity: s, the most relevant features.
        epsilon: bound of the absolute misspecification.
        method: "net" or "polytope".
        net_radius: rho; None means epsilon.
        theta_bound: bound of the norm of theta (of each coordinate, for the polytope).
        noise_std: standard deviation of one pull; an arm is pulled until xi <= epsilon.
        delta: probability with which the noise may break the guarantee.
        max_queries: distinct arms queried at most; None means all.
        max_candidates: points a net may have.
        normalize: require features of norm at most 1. Otherwise rho counts times the largest norm.
        random_state: of the order in which the polytope form takes equal arms.

    Attributes:
        best_arm_: the arm found.
        n_queries_: distinct arms queried.
        n_candidates_: points of the net, or supports of the polytope form.
        n_survivors_: those that fit all observations.
        upper_bound_: bound of the best mean reward less epsilon and rho, when it stopped.
        guarantee_: bound of the sub-optimality of ``best_arm_`` (void where not converged).
        converged_: whether it stopped by itself.
        history_: (arm, observation, upper bound, survivors) of every query.

    Source: "Does Sparsity Help in Learning Misspecified Linear Bandits?" (arXiv 2303.16998).

    Example:
        >>> from rankone.rl.misspecified_bandit import SparseElimination, spread_instance
        >>> bandit = spread_instance(16, 0.1, 1)
        >>> model = SparseElimination(sparsity=1, epsilon=0.1).fit(bandit)
        >>> bool(bandit.suboptimality(model.best_arm_) <= model.guarantee_)
        True
    """

    def __init__(
        self,
        sparsity: int,
        epsilon: float,
        method: str = "net",
        net_radius: float | None = None,
        theta_bound: float = 1.0,
        noise_std: float = 0.0,
        delta: float = 0.05,
        max_queries: int | None = None,
        max_candidates: int = 5_000_000,
        normalize: bool = True,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.sparsity = sparsity
        self.epsilon = epsilon
        self.method = method
        self.net_radius = net_radius
        self.theta_bound = theta_bound
        self.noise_std = noise_std
        self.delta = delta
        self.max_queries = max_queries
        self.max_candidates = max_candidates
        self.normalize = normalize
        self.random_state = random_state

    def fit(self, bandit: MisspecifiedBandit) -> SparseElimination:
        """Query arms of ``bandit`` until one is certified.

        Raises:
            ValueError: for parameters out of range, features longer than 1 with ``normalize``, or
                a net larger than ``max_candidates``.
            RuntimeError: if nothing fits the observations: epsilon or sparsity is too small.

        Warns:
            ConvergenceWarning: if ``max_queries`` were not enough; the best arm seen is returned.
        """
        radius = self._check(bandit)
        arms = bandit.n_arms
        most = arms if self.max_queries is None else min(arms, self.max_queries)
        queries = _Queries(bandit, self.noise_std, self.epsilon, self.delta, most)
        self.history_: list[tuple[int, float, float, int]] = []
        self.upper_bound_ = math.inf
        if self.method == "net":
            self._fit_net(bandit.features, queries, most, radius)
        else:
            self._fit_polytope(bandit.features, queries, most)
        self.n_queries_ = len(queries.seen)
        if not self.converged_:
            self.best_arm_ = queries.best()
            warnings.warn(
                f"max_queries={most} arms were queried before one was certified; best_arm_ is the "
                "best seen, without guarantee",
                ConvergenceWarning,
                stacklevel=2,
            )
        return self

    def _check(self, bandit: MisspecifiedBandit) -> float:
        """Radius of the net in rewards: times the largest norm without ``normalize``."""
        check_instance("bandit", bandit, MisspecifiedBandit)
        check_epsilon(self.epsilon)
        d = bandit.features.shape[1]
        if self.net_radius is not None and not self.net_radius > 0:
            raise ValueError(f"net_radius must be positive, got {self.net_radius}")
        radius = self.epsilon if self.net_radius is None else self.net_radius
        check_net(d, self.sparsity, radius, self.theta_bound)
        if self.method not in ("net", "polytope"):
            raise ValueError(f'method must be "net" or "polytope", got {self.method!r}')
        if self.max_queries is not None and self.max_queries < 1:
            raise ValueError(f"max_queries must be at least 1, got {self.max_queries}")
        norm = float(np.linalg.norm(bandit.features, axis=1).max())
        if not self.normalize:
            return radius * norm
        if norm > 1 + ROUNDING:
            raise ValueError(
                f"features must have norms of at most 1, got {norm:.6g}; divide them and theta "
                "by it, or set normalize=False"
            )
        return radius

    def _fit_net(self, features: np.ndarray, queries: _Queries, most: int, radius: float) -> None:
        d = features.shape[1]
        spacing = self.epsilon if self.net_radius is None else self.net_radius
        self.n_candidates_ = net_size(d, self.sparsity, spacing, self.theta_bound)
        if self.n_candidates_ > self.max_candidates:
            raise ValueError(
                f"the net has {self.n_candidates_} candidates, more than max_candidates="
                f'{self.max_candidates}; use method="polytope", or a larger net_radius'
            )
        sizes = range(self.sparsity + 1)
        nets = [
            _Net(
                features,
                np.array(list(combinations(range(d), j)), dtype=np.intp).reshape(
                    math.comb(d, j), j
                ),
                grid_points(j, self.sparsity, spacing, self.theta_bound),
            )
            for j in sizes
        ]
        tolerance = self.epsilon + radius + queries.half_width
        self.guarantee_ = 2 * tolerance
        self.converged_ = False
        while True:
            tops = [net.top() for net in nets]
            net = max(sizes, key=lambda j: tops[j][0])
            upper, index = tops[net]
            if upper == -math.inf:
                raise RuntimeError(
                    _CONTRADICTION.format(epsilon=self.epsilon, sparsity=self.sparsity)
                )
            arm = int(nets[net].arms.flat[index])
            self.upper_bound_ = upper
            if arm not in queries.seen and len(queries.seen) == most:
                return
            observed = queries(arm)
            for each in nets:
                each.eliminate(features[arm], observed, tolerance)
            self.n_survivors_ = sum(each.survivors() for each in nets)
            self.history_.append((arm, observed, upper, self.n_survivors_))
            if nets[net].upper.flat[index] > -math.inf:
                self.best_arm_, self.converged_ = arm, True
                return

    def _fit_polytope(self, features: np.ndarray, queries: _Queries, most: int) -> None:
        arms, d = features.shape
        supports = list(combinations(range(d), self.sparsity))
        self.n_candidates_ = len(supports)
        tolerance = self.epsilon + queries.half_width
        self.guarantee_ = 2 * tolerance
        self.converged_ = False
        order = check_random_state(self.random_state).permutation(arms)
        feasible = set(range(len(supports)))
        # Entries: minus the bound, place among equals, support, arm, queries it was solved at.
        heap = [
            (
                -self.theta_bound * float(np.abs(features[arm, list(support)]).sum()),
                place,
                i,
                arm,
                0,
            )
            for place, arm in enumerate(order.tolist())
            for i, support in enumerate(supports)
        ]
        heapq.heapify(heap)
        while heap:
            minus, place, i, arm, solved = heap[0]
            if i not in feasible:
                heapq.heappop(heap)
                continue
            if solved < len(queries.seen):
                bound = self._largest(features, queries.seen, supports[i], arm, tolerance)
                if bound is None:
                    feasible.discard(i)
                    heapq.heappop(heap)
                else:
                    # Bounds only fall; rounding of a program may not raise one.
                    heapq.heapreplace(heap, (max(minus, -bound), place, i, arm, len(queries.seen)))
                continue
            self.upper_bound_, self.n_survivors_ = -minus, len(feasible)
            if arm in queries.seen:
                self.best_arm_, self.converged_ = arm, True
                return
            if len(queries.seen) == most:
                break
            observed = queries(arm)
            self.history_.append((arm, observed, -minus, len(feasible)))
            if observed >= -minus - tolerance:
                self.best_arm_, self.converged_ = arm, True
                return
        if not feasible:
            raise RuntimeError(_CONTRADICTION.format(epsilon=self.epsilon, sparsity=self.sparsity))
        # Every arm queried is as good as certified; fewer are not.
        self.converged_ = len(queries.seen) == arms
        self.best_arm_ = queries.best()

    def _largest(
        self,
        features: np.ndarray,
        seen: dict[int, float],
        support: tuple[int, ...],
        arm: int,
        tolerance: float,
    ) -> float | None:
        """Largest reward of ``arm`` over the parameters on a support that fit; None if none do."""
        columns = features[:, support]
        rows, observed = columns[list(seen)], np.array(list(seen.values()))
        found = linprog(
            -columns[arm],
            A_ub=np.vstack([rows, -rows]),
            b_ub=np.concatenate([tolerance + observed, tolerance - observed]),
            bounds=(-self.theta_bound, self.theta_bound),
            method="highs",
        )
        if found.status == _INFEASIBLE:
            return None
        if found.status != _OPTIMAL:
            raise RuntimeError(f"the linear program of arm {arm} failed: {found.message}")
        return float(-found.fun)


class SparseRecovery(BaseEstimator):
    """Sparse parameter from few random arms, by the smallest l1 norm that fits.

    Minimises ``||theta||_1`` subject to residuals of at most epsilon + xi on arms drawn without
    replacement. With good features (random signs, say) 4 s ln d arms are enough for an error of
    order epsilon.

    Args:
        sparsity: s, for the number of queries.
        epsilon: bound of the absolute misspecification.
        n_queries: distinct arms; None means ``ceil(4 s ln d)``, at most all.
        noise_std: standard deviation of one pull; an arm is pulled until xi <= epsilon.
        delta: probability with which the noise may exceed xi.
        random_state: of the arms drawn.

    Attributes:
        best_arm_: arm with the largest predicted reward.
        theta_: (d,).
        n_queries_: distinct arms queried.

    Source: "Does Sparsity Help in Learning Misspecified Linear Bandits?" (arXiv 2303.16998) for the
    rate; the program is this project's reading.

    Example:
        >>> from rankone.rl.misspecified_bandit import SparseRecovery, random_instance
        >>> bandit = random_instance(200, 50, 2, 0.01, features="rademacher", seed=0)
        >>> model = SparseRecovery(sparsity=2, epsilon=0.01, random_state=0).fit(bandit)
        >>> bool(bandit.suboptimality(model.best_arm_) <= 0.04)
        True
    """

    def __init__(
        self,
        sparsity: int,
        epsilon: float,
        n_queries: int | None = None,
        noise_std: float = 0.0,
        delta: float = 0.05,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.sparsity = sparsity
        self.epsilon = epsilon
        self.n_queries = n_queries
        self.noise_std = noise_std
        self.delta = delta
        self.random_state = random_state

    def fit(self, bandit: MisspecifiedBandit) -> SparseRecovery:
        """Query the arms and solve the program.

        Raises:
            ValueError: for parameters out of range.
            RuntimeError: if nothing fits the observations: epsilon is too small.
        """
        check_instance("bandit", bandit, MisspecifiedBandit)
        check_epsilon(self.epsilon)
        arms, d = bandit.features.shape
        if not 1 <= self.sparsity <= d:
            raise ValueError(f"sparsity must be in 1 .. number of features = {d}, got "
                             f"{self.sparsity}")  # fmt: skip
        count = self.n_queries
        if count is None:
            count = min(arms, max(1, math.ceil(4 * self.sparsity * math.log(d))))
        if not 1 <= count <= arms:
            raise ValueError(f"n_queries must be in 1 .. number of arms = {arms}, got {count}")
        queries = _Queries(bandit, self.noise_std, self.epsilon, self.delta, count)
        drawn = check_random_state(self.random_state).permutation(arms)[:count]
        observed = np.array([queries(int(arm)) for arm in drawn])
        rows = bandit.features[drawn]
        tolerance = self.epsilon + queries.half_width
        split = np.hstack([rows, -rows])
        found = linprog(
            np.ones(2 * d),
            A_ub=np.vstack([split, -split]),
            b_ub=np.concatenate([tolerance + observed, tolerance - observed]),
            method="highs",
        )
        if found.status == _INFEASIBLE:
            raise RuntimeError(_CONTRADICTION.format(epsilon=self.epsilon, sparsity=self.sparsity))
        if found.status != _OPTIMAL:
            raise RuntimeError(f"the linear program failed: {found.message}")
        self.theta_ = found.x[:d] - found.x[d:]
        self.best_arm_ = int(np.argmax(bandit.features @ self.theta_))
        self.n_queries_ = count
        return self

    def predict(self, features: ArrayLike) -> np.ndarray:
        """Predicted mean rewards (arms,) of ``features`` (arms, d)."""
        check_is_fitted(self)
        return _predict(features, self.theta_)


def g_optimal_design(
    features: ArrayLike, tol: float = 0.01, max_iter: int = 1000
) -> tuple[np.ndarray, float, int]:
    """Weights on few arms that keep the variance of every prediction small.

    Frank-Wolfe on the D-optimal design, whose largest leverage is the rank r at the optimum
    (Kiefer and Wolfowitz), from r arms chosen by greedy volume: a start on few arms keeps the
    support small.

    Args:
        features: (arms, d).
        tol: stop at a largest leverage of r (1 + tol).
        max_iter: steps at most.

    Returns:
        Weights (arms,) that sum to one, the largest leverage, and the rank r of the features.

    Raises:
        ValueError: for features that are all zero, or options out of range.

    Warns:
        ConvergenceWarning: if ``max_iter`` steps were not enough.

    Example:
        >>> import numpy as np
        >>> from rankone.rl.misspecified_bandit import g_optimal_design
        >>> weights, leverage, rank = g_optimal_design(np.eye(3))
        >>> weights.round(3).tolist(), rank
        ([0.333, 0.333, 0.333], 3)
    """
    features = check_features(features)
    if not tol > 0:
        raise ValueError(f"tol must be positive, got {tol}")
    if max_iter < 0:
        raise ValueError(f"max_iter must be at least 0, got {max_iter}")
    _, singular, directions = np.linalg.svd(features, full_matrices=False)
    threshold = singular[0] * max(features.shape) * np.finfo(np.float64).eps
    rank = int(np.sum(singular > threshold))
    if rank == 0:
        raise ValueError("features must have a nonzero row, got zeros")
    # Coordinates of equal scale: leverages do not depend on the basis of the span.
    rows = features @ (directions[:rank].T / singular[:rank])
    weights = np.zeros(len(features))
    weights[_greedy_volume(rows)] = 1 / rank
    for step in range(max_iter + 1):
        covariance = rows.T @ (weights[:, None] * rows)
        leverages = np.sum(rows * np.linalg.solve(covariance, rows.T).T, axis=1)
        arm = int(np.argmax(leverages))
        largest = float(leverages[arm])
        if largest <= rank * (1 + tol):
            break
        if step == max_iter:
            warnings.warn(
                f"max_iter={max_iter} steps left a largest leverage of {largest:.4g}, above "
                f"{rank * (1 + tol):.4g}",
                ConvergenceWarning,
                stacklevel=2,
            )
            break
        gamma = (largest / rank - 1) / (largest - 1)
        weights *= 1 - gamma
        weights[arm] += gamma
    return weights, largest, rank


def _greedy_volume(rows: np.ndarray) -> np.ndarray:
    """As many arms as there are columns, each the farthest from the span of those before it."""
    rest = rows.copy()
    chosen = []
    for _ in range(rows.shape[1]):
        arm = int(np.argmax(np.sum(rest**2, axis=1)))
        chosen.append(arm)
        direction = rest[arm] / np.linalg.norm(rest[arm])
        rest -= np.outer(rest @ direction, direction)
    return np.array(chosen)


class DenseDesign(BaseEstimator):
    """The baseline: optimal design, least squares, and the arm with the largest prediction.

    Its loss is epsilon sqrt(d) on :func:`spread_instance`, however sparse the parameter.

    Args:
        tol: of :func:`g_optimal_design`.
        noise_std: standard deviation of one pull.
        n_pulls: pulls an arm of the design.

    Attributes:
        best_arm_: arm with the largest predicted reward.
        theta_: (d,), the weighted least squares solution of smallest norm.
        theta_std_: (d,), standard deviations of ``theta_`` by the noise alone; the error of the
            model is not in them.
        design_weights_: (arms,).
        max_leverage_: of the design.
        n_queries_: distinct arms queried.

    Example:
        >>> from rankone.rl.misspecified_bandit import DenseDesign, spread_instance
        >>> bandit = spread_instance(16, 0.1, 1)
        >>> model = DenseDesign().fit(bandit)
        >>> round(bandit.suboptimality(model.best_arm_) / 0.1, 3)
        4.408
    """

    def __init__(self, tol: float = 0.01, noise_std: float = 0.0, n_pulls: int = 1) -> None:
        self.tol = tol
        self.noise_std = noise_std
        self.n_pulls = n_pulls

    def fit(self, bandit: MisspecifiedBandit) -> DenseDesign:
        """Query the arms of the design and solve.

        Raises:
            ValueError: for parameters out of range.
        """
        check_instance("bandit", bandit, MisspecifiedBandit)
        if self.n_pulls < 1:
            raise ValueError(f"n_pulls must be at least 1, got {self.n_pulls}")
        if not self.noise_std >= 0:
            raise ValueError(f"noise_std must be at least 0, got {self.noise_std}")
        weights, self.max_leverage_, _ = g_optimal_design(bandit.features, tol=self.tol)
        self.design_weights_ = weights
        queried = np.flatnonzero(weights > _SUPPORT_WEIGHT)
        observed = np.array([bandit.pull(int(arm), self.n_pulls) for arm in queried])
        root = np.sqrt(weights[queried])
        solve = np.linalg.pinv(root[:, None] * bandit.features[queried]) * root
        self.theta_ = solve @ observed
        variance = self.noise_std**2 / self.n_pulls
        self.theta_std_ = np.sqrt(variance * np.sum(solve**2, axis=1))
        self.best_arm_ = int(np.argmax(bandit.features @ self.theta_))
        self.n_queries_ = len(queried)
        return self

    def predict(self, features: ArrayLike) -> np.ndarray:
        """Predicted mean rewards (arms,) of ``features`` (arms, d)."""
        check_is_fitted(self)
        return _predict(features, self.theta_)


def _predict(features: ArrayLike, theta: np.ndarray) -> np.ndarray:
    features = check_features(features)
    if features.shape[1] != len(theta):
        raise ValueError(
            f"features must have {len(theta)} columns as in fit, got {features.shape[1]}"
        )
    return features @ theta


def __dir__() -> list[str]:
    return public_names(globals())
