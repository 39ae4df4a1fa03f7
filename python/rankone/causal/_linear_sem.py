"""Linear structural equation models, their moments, and families of interventions on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import check_random_state

from rankone._arguments import check_instance


class LinearSEM:
    """``W = B W + eta`` over features and a target, with independent noise and no cycle.

    Args:
        B: (n, n), ``B[i, j]`` the effect of node j on node i.
        noise_variance: (n,), positive.
        target: index of the node that is predicted; the others are the features, in order.

    Attributes:
        B, noise_variance, target: as given, in float64.

    Raises:
        ValueError: for shapes that do not fit, a cycle, or variances that are not positive.

    Example:
        >>> from rankone.causal.approximate_invariance import LinearSEM
        >>> chain = LinearSEM([[0, 0], [2, 0]], [1.0, 1.0], target=1)
        >>> [moment.tolist() for moment in chain.moments()[:2]], chain.moments()[2]
        ([[[1.0]], [2.0]], 5.0)
    """

    def __init__(self, B: ArrayLike, noise_variance: ArrayLike, target: int) -> None:
        self.B = np.array(B, dtype=np.float64)
        self.noise_variance = np.array(noise_variance, dtype=np.float64)
        n = len(self.B)
        if self.B.ndim != 2 or self.B.shape != (n, n) or n < 2:
            raise ValueError(f"B must have shape (n, n) with n >= 2, got shape {self.B.shape}")
        if not np.isfinite(self.B).all():
            raise ValueError("B must be finite, got NaN or infinity")
        if self.noise_variance.shape != (n,):
            raise ValueError(
                f"noise_variance must have shape ({n},), got shape {self.noise_variance.shape}"
            )
        if not np.all(np.isfinite(self.noise_variance) & (self.noise_variance > 0)):
            raise ValueError("noise_variance must be positive and finite")
        if not 0 <= target < n:
            raise ValueError(f"target must be in 0 .. {n - 1}, got {target}")
        self.target = int(target)
        self._edges = self.B != 0
        self._order = _topological_order(self._edges)
        self._features = np.delete(np.arange(n), self.target)

    @property
    def n_nodes(self) -> int:
        """Number of nodes, the target among them."""
        return len(self.B)

    def parents(self, i: int) -> tuple[int, ...]:
        """Nodes with an edge into node i; an intervention that sets a weight to 0 keeps the edge.

        Raises:
            ValueError: for a node that is not there.
        """
        self._check_node(i)
        return tuple(np.flatnonzero(self._edges[i]).tolist())

    def covariance(self) -> np.ndarray:
        """Covariance (n, n) of all nodes."""
        spread = np.linalg.inv(np.eye(self.n_nodes) - self.B)
        return (spread * self.noise_variance) @ spread.T

    def moments(self) -> tuple[np.ndarray, np.ndarray, float]:
        """Covariances of the features (p, p) and with the target (p,), the target's variance."""
        S = self.covariance()
        rest = self._features
        return S[np.ix_(rest, rest)], S[rest, self.target], float(S[self.target, self.target])

    def sample(
        self, n: int, random_state: int | np.random.RandomState | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Gaussian rows: features (n, p) and target (n,).

        Raises:
            ValueError: for n below 1.
        """
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        rng = check_random_state(random_state)
        noise = rng.standard_normal((n, self.n_nodes)) * np.sqrt(self.noise_variance)
        W = np.linalg.solve(np.eye(self.n_nodes) - self.B, noise.T).T
        return W[:, self._features], W[:, self.target]

    def intervene(
        self,
        weights: Mapping[int, ArrayLike] | None = None,
        noise_variance: Mapping[int, float] | None = None,
    ) -> LinearSEM:
        """The model after new weights on the same parents, new noise variances, or both.

        Args:
            weights: node -> row (n,) of effects on it; zeros are allowed (a hard intervention).
            noise_variance: node -> variance.

        Raises:
            ValueError: for an intervention on the target, a weight on a node that is no parent, or
                values as in the constructor.
        """
        B, variance = self.B.copy(), self.noise_variance.copy()
        for i, row in (weights or {}).items():
            self._check_site(i)
            values = np.asarray(row, dtype=np.float64)
            if values.shape != (self.n_nodes,):
                raise ValueError(
                    f"weights of node {i} must have shape ({self.n_nodes},), got {values.shape}"
                )
            new = np.flatnonzero((values != 0) & ~self._edges[i])
            if len(new):
                raise ValueError(
                    f"weights of node {i} must be on its parents {self.parents(i)}, got one on "
                    f"{new[0]}"
                )
            B[i] = values
        for i, value in (noise_variance or {}).items():
            self._check_site(i)
            variance[i] = value
        changed = LinearSEM(B, variance, self.target)
        changed._edges = self._edges
        return changed

    def _check_node(self, i: int) -> None:
        if not 0 <= i < self.n_nodes:
            raise ValueError(f"node must be in 0 .. {self.n_nodes - 1}, got {i}")

    def _check_site(self, i: int) -> None:
        self._check_node(i)
        if i == self.target:
            raise ValueError(f"the target, node {i}, must not be intervened on")


def _topological_order(edges: np.ndarray) -> list[int]:
    """Nodes with parents before children."""
    waiting = edges.sum(axis=1)
    order: list[int] = []
    ready = np.flatnonzero(waiting == 0).tolist()
    while ready:
        node = ready.pop()
        order.append(node)
        for child in np.flatnonzero(edges[:, node]).tolist():
            waiting[child] -= 1
            if waiting[child] == 0:
                ready.append(child)
    if len(order) < len(edges):
        stuck = sorted(set(range(len(edges))) - set(order))
        raise ValueError(f"B must have no cycle, got one among the nodes {stuck}")
    return order


class InterventionFamily:
    """Independent interventions on fixed nodes: uniform weights on their parents, and variances.

    Args:
        sem: the model.
        sites: nodes intervened on, all in every intervention; never the target.
        weight_range, variance_range: of the uniform laws.

    Raises:
        ValueError: for sites that are not there, repeated, or the target, or ranges out of order.

    Example:
        >>> from rankone.causal.approximate_invariance import InterventionFamily, LinearSEM
        >>> chain = LinearSEM([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [1, 1, 1], target=1)
        >>> len(InterventionFamily(chain, sites=[2]).sample(3, random_state=0))
        3
    """

    def __init__(
        self,
        sem: LinearSEM,
        sites: Sequence[int],
        weight_range: tuple[float, float] = (-1.5, 1.5),
        variance_range: tuple[float, float] = (0.2, 3.0),
    ) -> None:
        check_instance("sem", sem, LinearSEM)
        self.sem = sem
        self.sites = tuple(int(site) for site in sites)
        if not self.sites or len(set(self.sites)) < len(self.sites):
            raise ValueError(f"sites must be distinct nodes, at least one, got {self.sites}")
        for site in self.sites:
            sem._check_site(site)
        for name, bounds in (("weight_range", weight_range), ("variance_range", variance_range)):
            if not (len(bounds) == 2 and np.isfinite(bounds).all() and bounds[0] <= bounds[1]):
                raise ValueError(f"{name} must be two finite numbers in order, got {bounds}")
        if not variance_range[0] > 0:
            raise ValueError(f"variance_range must be positive, got {variance_range}")
        self.weight_range, self.variance_range = tuple(weight_range), tuple(variance_range)

    def sample(
        self, n: int, random_state: int | np.random.RandomState | None = None
    ) -> list[LinearSEM]:
        """``n`` independent models of the family.

        Raises:
            ValueError: for n below 1.
        """
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        rng = check_random_state(random_state)
        models = []
        for _ in range(n):
            weights, variances = {}, {}
            for site in self.sites:
                row = np.zeros(self.sem.n_nodes)
                parents = list(self.sem.parents(site))
                row[parents] = rng.uniform(*self.weight_range, len(parents))
                weights[site] = row
                variances[site] = rng.uniform(*self.variance_range)
            models.append(self.sem.intervene(weights, variances))
        return models


def stack_moments(sems: Sequence[LinearSEM]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Moments of several models.

    Args:
        sems: models of one number of nodes.

    Returns:
        E[X X^T] (E, p, p), E[X Y] (E, p) and E[Y^2] (E,).

    Raises:
        ValueError: for no model, or models of different sizes.

    Example:
        >>> from rankone.causal.approximate_invariance import LinearSEM, stack_moments
        >>> sem = LinearSEM([[0, 0], [2, 0]], [1.0, 1.0], target=1)
        >>> [moment.shape for moment in stack_moments([sem, sem, sem])]
        [(3, 1, 1), (3, 1), (3,)]
    """
    if not len(sems):
        raise ValueError("sems must hold at least one model, got none")
    if len({sem.n_nodes for sem in sems}) > 1:
        raise ValueError("sems must have one number of nodes")
    xx, xy, yy = zip(*(sem.moments() for sem in sems), strict=True)
    return np.stack(xx), np.stack(xy), np.array(yy)
