"""Predictors that are nearly optimal in every training environment, and stay so in new ones.

A representation is approximately invariant if the predictor on it is within epsilon of the best
predictor on it, in every environment. Found on a few interventions of a family, it carries over to
unseen ones: the share of those it fails in is bounded, by the number of training interventions and
not by the number of features.

Source: "PAC Generalization via Invariant Representations" (arXiv 2205.15196) for the setting:
approximate invariance of linear representations in linear structural equation models, its transfer
to unseen interventions without faithfulness, bounds free of the ambient dimension, and indirect
observation. The definitions, estimators and constants here are this project's own reading and
derivation; the paper's constants are not quoted.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from itertools import combinations

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.optimize import minimize
from scipy.stats import chi2, norm
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array, check_consistent_length, check_is_fitted

from rankone._arguments import check_integer, check_number, check_size
from rankone._namespace import public_names
from rankone.causal._linear_sem import InterventionFamily, LinearSEM, stack_moments
from rankone.causal._pac_bounds import (
    CRITERIA,
    pac_environments,
    pac_violation_bound,
    vc_dimension,
)

__all__ = [
    "ApproximateInvariantRegressor",
    "InterventionFamily",
    "LinearSEM",
    "invariance_gap",
    "pac_environments",
    "pac_violation_bound",
    "stack_moments",
    "vc_dimension",
]

METHODS = ("subset", "linear")
REFERENCES = ("observational", "pooled")

# More subsets than this are not listed.
_MOST_SUBSETS = 10**6

# Numbers of a block of subsets and environments, held at once.
_BLOCK = 2**22

# The penalty is raised in these shares of its final value.
_PENALTY_SHARES = (0.01, 0.1, 1.0)
_ITERATIONS = 300

# Directions of the features with less than this share of the largest variance are not observed.
_RANK_TOLERANCE = 1e-10

# A row of moments of one environment: features by features, features by target, target.
Moments = tuple[np.ndarray, np.ndarray, np.ndarray]
# (subsets, environments, size) -> half-widths of the sampling error of the gradient criterion.
_Errors = Callable[[np.ndarray, np.ndarray], np.ndarray]


def invariance_gap(
    cov_xx: ArrayLike,
    cov_xy: ArrayLike,
    representation: ArrayLike,
    coef: ArrayLike,
    criterion: str = "excess_risk",
) -> np.ndarray:
    """How far a predictor on a representation is from the best one on it, in each environment.

    With ``G = Phi C Phi'``, ``g = Phi c`` and ``r = G w - g``: the excess risk ``r' G^-1 r``, which
    does not depend on how the representation is parametrised, or the gradient ``max |r|``, which
    does.

    Args:
        cov_xx: (E, p, p), covariances of the features.
        cov_xy: (E, p), their covariances with the target.
        representation: Phi (k, p); k may be 0.
        coef: w (k,).
        criterion: "excess_risk" or "gradient".

    Returns:
        (E,), at least 0.

    Raises:
        ValueError: for shapes that do not fit or an unknown criterion.

    Source: arXiv 2205.15196, as read here.

    Example:
        >>> import numpy as np
        >>> from rankone.causal.approximate_invariance import invariance_gap
        >>> invariance_gap(np.ones((1, 1, 1)), [[0.5]], np.eye(1), [0.3]).round(6).tolist()
        [0.04]
    """
    if criterion not in CRITERIA:
        raise ValueError(f"criterion must be one of {CRITERIA}, got {criterion!r}")
    C, c = _environments(cov_xx, cov_xy)
    Phi, w = np.asarray(representation, dtype=float), np.asarray(coef, dtype=float)
    if Phi.ndim != 2 or Phi.shape[1] != C.shape[1]:
        raise ValueError(f"representation must have shape (k, {C.shape[1]}), got shape {Phi.shape}")
    if w.shape != (len(Phi),):
        raise ValueError(f"coef must have shape ({len(Phi)},), got shape {w.shape}")
    if not len(Phi):
        return np.zeros(len(C))
    G, g = Phi @ C @ Phi.T, c @ Phi.T
    return _gap(G, G @ w - g, criterion)


def _environments(cov_xx: ArrayLike, cov_xy: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    C, c = np.asarray(cov_xx, dtype=float), np.asarray(cov_xy, dtype=float)
    if C.ndim != 3 or C.shape[1] != C.shape[2] or not len(C):
        raise ValueError(f"cov_xx must have shape (E, p, p) with E >= 1, got shape {C.shape}")
    if c.shape != C.shape[:2]:
        raise ValueError(f"cov_xy must have shape {C.shape[:2]}, got shape {c.shape}")
    for name, values in (("cov_xx", C), ("cov_xy", c)):
        if not np.isfinite(values).all():
            raise ValueError(f"{name} must be finite, got NaN or infinity")
    return C, c


def _gap(G: np.ndarray, r: np.ndarray, criterion: str) -> np.ndarray:
    """Gaps (...) from (..., k, k) and (..., k)."""
    if criterion == "gradient":
        return np.abs(r).max(axis=-1)
    return np.maximum(np.sum(r * _solve(G, r), axis=-1), 0)


def _solve(G: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Solutions (..., k); of smallest norm where a matrix is singular."""
    try:
        return np.linalg.solve(G, r[..., None])[..., 0]
    except np.linalg.LinAlgError:
        return (np.linalg.pinv(G, hermitian=True) @ r[..., None])[..., 0]


class ApproximateInvariantRegressor(RegressorMixin, BaseEstimator):
    """Least squares on a representation that is approximately invariant over environments.

    Of the representations whose predictor is within epsilon of optimal in every training
    environment, the one with the smallest mean risk: among all subsets of features
    (``method="subset"``), or among linear ones, found by a penalty (``method="linear"``). The
    result need not be causal, and may predict better than the causal parents do.

    Args:
        method: "subset" or "linear".
        epsilon: allowed gap.
        max_subset_size: features a subset has at most.
        n_components: k of the linear method, below the number of features.
        reference: of the subset method: weights by least squares in an environment of its own
            ("observational"), which the certificate needs, or on the average moments of the
            training environments ("pooled"). The linear method pools.
        criterion: "excess_risk" or "gradient", see :func:`invariance_gap`.
        penalty: final weight of the mean gap in the linear method.
        n_starts: its Gaussian starts.
        sample_confidence: with data, or moments of ``n_samples`` rows, the gap of an exactly
            invariant subset stays below its allowance in all environments with this probability.
        random_state: of the starts.

    Attributes:
        subset_: features chosen, as a tuple (subset method).
        representation_: Phi (k, p), rows orthonormal.
        coef_representation_: w (k,).
        coef_: (p,), ``Phi' w``.
        intercept_: from the pooled means; 0 from moments.
        gaps_: (E,), of the training environments.
        risk_: mean of the training risks.
        n_hypotheses_: subsets tried; None for the linear method.
        n_environments_: E.

    Source: "PAC Generalization via Invariant Representations" (arXiv 2205.15196) for the setting;
    the estimators are this project's own.

    Example:
        >>> import numpy as np
        >>> from rankone.causal.approximate_invariance import (
        ...     ApproximateInvariantRegressor, InterventionFamily, LinearSEM, stack_moments
        ... )
        >>> B = np.zeros((3, 3))
        >>> B[1, 0], B[2, 1] = 1.0, 1.0
        >>> chain = LinearSEM(B, [1, 1, 1], target=1)
        >>> training = InterventionFamily(chain, sites=[2]).sample(5, random_state=0)
        >>> model = ApproximateInvariantRegressor()
        >>> model.fit_moments(*stack_moments(training), reference_moments=chain.moments()).subset_
        (0,)
    """

    def __init__(
        self,
        method: str = "subset",
        epsilon: float = 0.01,
        max_subset_size: int = 3,
        n_components: int = 2,
        reference: str = "observational",
        criterion: str = "excess_risk",
        penalty: float = 100.0,
        n_starts: int = 6,
        sample_confidence: float = 0.95,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.method = method
        self.epsilon = epsilon
        self.max_subset_size = max_subset_size
        self.n_components = n_components
        self.reference = reference
        self.criterion = criterion
        self.penalty = penalty
        self.n_starts = n_starts
        self.sample_confidence = sample_confidence
        self.random_state = random_state

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        environments: ArrayLike,
        observational: object = None,
    ) -> ApproximateInvariantRegressor:
        """Fit from rows with environment labels.

        Args:
            X: (n, p).
            y: (n,).
            environments: (n,), labels.
            observational: label of the reference environment, which is not a training environment
                then; needed for ``reference="observational"``.

        Raises:
            ValueError: for arrays that do not fit, no training environment, one of fewer than two
                rows, or a missing reference.
        """
        names = getattr(X, "columns", None)
        X = check_array(X, dtype=np.float64)
        y = check_array(y, dtype=np.float64, ensure_2d=False)
        labels = np.asarray(environments)
        if y.ndim != 1 or labels.ndim != 1:
            raise ValueError(
                f"y and environments must have shape (n,), got {y.shape} and {labels.shape}"
            )
        check_consistent_length(X, y, labels)
        is_reference = np.zeros(len(y), dtype=bool)
        reference = None
        if observational is not None:
            is_reference = labels == observational
            if not is_reference.any():
                raise ValueError(f"observational must be a label of a row, got {observational!r}")
            reference = _sample_moments(X[is_reference], y[is_reference])
        groups = [np.flatnonzero(labels == name) for name in np.unique(labels[~is_reference])]
        if not groups:
            raise ValueError("environments must hold a training environment besides the reference")
        if min(len(rows) for rows in groups) < 2:
            raise ValueError("every environment must have at least two rows")
        moments = [_sample_moments(X[rows], y[rows]) for rows in groups]
        C, c, v = (np.stack(each) for each in zip(*moments, strict=True))
        centred = [(X[rows] - X[rows].mean(axis=0), y[rows] - y[rows].mean()) for rows in groups]

        def errors(subsets: np.ndarray, coefs: np.ndarray) -> np.ndarray:
            result = np.empty((len(subsets), len(groups), subsets.shape[1]))
            for i, (subset, w) in enumerate(zip(subsets, coefs, strict=True)):
                for e, (rows, target) in enumerate(centred):
                    phi = rows[:, subset]
                    product = phi * (target - phi @ w)[:, None]
                    result[i, e] = product.std(axis=0, ddof=1) / math.sqrt(len(target))
            return result

        sizes = np.array([len(rows) for rows in groups])
        self._fit(C, c, v, reference, sizes, errors)
        training = ~is_reference
        self.intercept_ = float(y[training].mean() - X[training].mean(axis=0) @ self.coef_)
        if names is not None and all(isinstance(name, str) for name in names):
            self.feature_names_in_ = np.asarray(names, dtype=object)
        return self

    def fit_moments(
        self,
        cov_xx: ArrayLike,
        cov_xy: ArrayLike,
        var_y: ArrayLike,
        reference_moments: tuple[ArrayLike, ArrayLike, float] | None = None,
        n_samples: ArrayLike | None = None,
    ) -> ApproximateInvariantRegressor:
        """Fit from moments of the training environments.

        Args:
            cov_xx, cov_xy, var_y: (E, p, p), (E, p) and (E,).
            reference_moments: those of the reference environment, as :meth:`LinearSEM.moments`;
                needed for ``reference="observational"``.
            n_samples: (E,), rows behind the moments; None for exact moments. The allowance for
                sampling of the gradient criterion then takes the rows as Gaussian.

        Raises:
            ValueError: for shapes that do not fit or a missing reference.
        """
        C, c = _environments(cov_xx, cov_xy)
        v = np.asarray(var_y, dtype=float)
        if v.shape != (len(C),):
            raise ValueError(f"var_y must have shape ({len(C)},), got shape {v.shape}")
        sizes = None
        if n_samples is not None:
            sizes = np.asarray(n_samples)
            if sizes.shape != (len(C),) or sizes.min() < 2:
                raise ValueError(f"n_samples must have shape ({len(C)},), each at least 2")
        reference = None
        if reference_moments is not None:
            C0, c0 = _environments(
                np.asarray(reference_moments[0])[None], np.asarray(reference_moments[1])[None]
            )
            if C0.shape[1:] != C.shape[1:]:
                raise ValueError(
                    f"reference_moments must be of {C.shape[1]} features, got {C0.shape[1]}"
                )
            reference = C0[0], c0[0], float(reference_moments[2])

        def errors(subsets: np.ndarray, coefs: np.ndarray) -> np.ndarray:
            # Variance of a product of two jointly Gaussian variables of mean zero.
            G, g = _restrict(C, c, subsets)
            r = np.einsum("neij,nj->nei", G, coefs) - g
            risk = _risks(G, g, v, coefs)
            diagonal = np.diagonal(G, axis1=-2, axis2=-1)
            return np.sqrt((diagonal * risk[..., None] + r**2) / np.asarray(sizes)[:, None])

        self._fit(C, c, v, reference, sizes, errors)
        self.intercept_ = 0.0
        return self

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Predicted targets (n,) of features (n, p).

        Raises:
            NotFittedError: before ``fit``.
            ValueError: for another number of features.
        """
        check_is_fitted(self, "coef_")
        X = check_array(X, dtype=np.float64)
        if X.shape[1] != len(self.coef_):
            raise ValueError(f"X must have {len(self.coef_)} features, got {X.shape[1]}")
        return self.intercept_ + X @ self.coef_

    def violation_rate(self, cov_xx: ArrayLike, cov_xy: ArrayLike) -> float:
        """Share of the given environments in which the gap exceeds epsilon.

        Args:
            cov_xx, cov_xy: (E, p, p) and (E, p), of environments that were not trained on.

        Raises:
            NotFittedError: before ``fit``.
            ValueError: for shapes that do not fit.
        """
        check_is_fitted(self, "coef_")
        gaps = invariance_gap(
            cov_xx, cov_xy, self.representation_, self.coef_representation_, self.criterion
        )
        return float(np.mean(gaps > self.epsilon))

    def certificate(self, delta: float = 0.05) -> float:
        """Bound of the violation rate over the family, right with probability ``1 - delta``.

        For subsets with a reference fixed beforehand: Clopper-Pearson over the training
        environments, simultaneous for all subsets tried. With data, an environment whose estimated
        gap exceeds epsilon counts as a violation, although its subset was accepted with an
        allowance for sampling.

        Raises:
            NotFittedError: before ``fit``.
            ValueError: for another method or reference (use held-out environments and
                :func:`pac_violation_bound` with ``n_hypotheses=1``), or delta outside (0, 1).
        """
        check_is_fitted(self, "coef_")
        if self.method != "subset" or self.reference != "observational":
            raise ValueError(
                "certificate needs method='subset' and reference='observational', whose class is "
                "fixed before the environments are seen; for others hold out environments and use "
                "pac_violation_bound with n_hypotheses=1"
            )
        violations = int(np.sum(self.gaps_ > self.epsilon))
        return pac_violation_bound(
            self.n_environments_,
            delta,
            n_violations=violations,
            n_hypotheses=self.n_hypotheses_,
        )

    def _fit(
        self,
        C: np.ndarray,
        c: np.ndarray,
        v: np.ndarray,
        reference: tuple | None,
        sizes: np.ndarray | None,
        errors: _Errors,
    ) -> None:
        self._check(C.shape[1])
        self.n_features_in_ = C.shape[1]
        self.n_environments_ = len(C)
        if self.method == "subset":
            if self.reference == "observational":
                if reference is None:
                    raise ValueError(
                        "a reference environment must be given with reference='observational': "
                        "observational in fit, reference_moments in fit_moments"
                    )
                base = reference[:2]
            else:
                base = C.mean(axis=0), c.mean(axis=0)
            self._fit_subset(C, c, v, base, sizes, errors)
        else:
            self._fit_linear(C, c, v)
        self.coef_ = self.representation_.T @ self.coef_representation_
        self.gaps_ = invariance_gap(
            C, c, self.representation_, self.coef_representation_, self.criterion
        )
        risks = v - 2 * c @ self.coef_ + np.einsum("i,eij,j->e", self.coef_, C, self.coef_)
        self.risk_ = float(risks.mean())

    def _check(self, n_features: int) -> None:
        for name, known in (
            ("method", METHODS),
            ("reference", REFERENCES),
            ("criterion", CRITERIA),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}")
        check_number("epsilon", self.epsilon)
        check_number("sample_confidence", self.sample_confidence)
        if not (math.isfinite(self.epsilon) and self.epsilon >= 0):
            raise ValueError(f"epsilon must be finite and at least 0, got {self.epsilon}")
        if not 0 < self.sample_confidence < 1:
            raise ValueError(f"sample_confidence must be in (0, 1), got {self.sample_confidence}")
        if self.method == "subset":
            check_integer("max_subset_size", self.max_subset_size)
            if self.max_subset_size < 0:
                raise ValueError(f"max_subset_size must be at least 0, got {self.max_subset_size}")
            return
        check_integer("n_components", self.n_components)
        check_number("penalty", self.penalty)
        if not 1 <= self.n_components < n_features:
            raise ValueError(
                f"n_components must be in 1 .. {n_features - 1}, below the number of features, "
                f"got {self.n_components}"
            )
        if not self.penalty > 0:
            raise ValueError(f"penalty must be positive, got {self.penalty}")
        check_size("n_starts", self.n_starts)

    def _fit_subset(
        self,
        C: np.ndarray,
        c: np.ndarray,
        v: np.ndarray,
        base: tuple[np.ndarray, np.ndarray],
        sizes: np.ndarray | None,
        errors: _Errors,
    ) -> None:
        p = C.shape[1]
        largest = min(self.max_subset_size, p)
        count = sum(math.comb(p, j) for j in range(largest + 1))
        self.n_hypotheses_: int | None = count
        if count > _MOST_SUBSETS:
            raise ValueError(
                f"max_subset_size={self.max_subset_size} of {p} features gives "
                f"{count} subsets, more than {_MOST_SUBSETS}: screen the features or "
                "lower it"
            )
        # The empty subset predicts 0 and is always invariant.
        best, subset, coef = float(v.mean()), (), np.zeros(0)
        for j in range(1, largest + 1):
            every = np.array(list(combinations(range(p), j)))
            rows = max(1, _BLOCK // (len(C) * j * j))
            for start in range(0, len(every), rows):
                block = every[start : start + rows]
                G0, g0 = _restrict(base[0][None], base[1][None], block)
                w = _solve(G0[:, 0], g0[:, 0])
                G, g = _restrict(C, c, block)
                r = np.einsum("neij,nj->nei", G, w) - g
                risk = _risks(G, g, v, w)
                accepted = self._accepted(G, r, risk, sizes, functools.partial(errors, block, w))
                mean = np.where(accepted, risk.mean(axis=1), np.inf)
                i = int(np.argmin(mean))
                if mean[i] < best:
                    best, subset, coef = float(mean[i]), tuple(block[i].tolist()), w[i]
        self.subset_: tuple[int, ...] = subset
        self.representation_ = np.eye(p)[list(subset)]
        self.coef_representation_ = coef

    def _accepted(
        self,
        G: np.ndarray,
        r: np.ndarray,
        risk: np.ndarray,
        sizes: np.ndarray | None,
        errors: Callable[[], np.ndarray],
    ) -> np.ndarray:
        """Which subsets (N,) stay within epsilon, and the sampling error, in all environments."""
        k, n_env = r.shape[-1], r.shape[1]
        if sizes is None:
            return np.all(_gap(G, r, self.criterion) <= self.epsilon, axis=1)
        level = (1 - self.sample_confidence) / n_env
        if self.criterion == "excess_risk":
            allowance = risk * chi2.ppf(1 - level, k) / sizes
            return np.all(_gap(G, r, self.criterion) <= self.epsilon + allowance, axis=1)
        half_width = norm.ppf(1 - level / (2 * k)) * errors()
        return np.all(np.abs(r) <= self.epsilon + half_width, axis=(1, 2))

    def _fit_linear(self, C: np.ndarray, c: np.ndarray, v: np.ndarray) -> None:
        _, singular, directions = np.linalg.svd(C.mean(axis=0), hermitian=True)
        basis = directions[singular > _RANK_TOLERANCE * singular[0]]
        k, rank = self.n_components, len(basis)
        if k >= rank:
            raise ValueError(
                f"n_components must be below {rank}, the number of directions in which the "
                f"features vary, got {k}"
            )
        problem = _Penalised(basis @ C @ basis.T, c @ basis.T, v, self.criterion)
        rng = check_random_state(self.random_state)
        found = []
        for _ in range(self.n_starts):
            flat = rng.standard_normal(k * rank)
            for share in _PENALTY_SHARES:
                weight = share * self.penalty
                flat = minimize(
                    problem.objective,
                    flat,
                    args=(weight, k),
                    jac=True,
                    method="L-BFGS-B",
                    options={"maxiter": _ITERATIONS},
                ).x
            objective, gaps = problem.evaluate(flat, self.penalty, k)
            found.append(((gaps.max() > self.epsilon, objective), flat))
        Phi, w = problem.representation(min(found, key=lambda entry: entry[0])[1], k)
        self.n_hypotheses_ = None
        self.representation_ = Phi @ basis
        self.coef_representation_ = w


class _Penalised:
    """Mean risk plus a penalty on the mean gap, over orthonormal representations."""

    def __init__(self, C: np.ndarray, c: np.ndarray, v: np.ndarray, criterion: str) -> None:
        self._C, self._c, self._v = (torch.from_numpy(np.ascontiguousarray(a)) for a in (C, c, v))
        self._criterion = criterion

    def _terms(
        self, A: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Representation, weights, risks and gaps of a free matrix (k, p)."""
        Phi = torch.linalg.qr(A.T).Q.T
        G, g = Phi @ self._C @ Phi.T, self._c @ Phi.T
        w = torch.linalg.solve(G.mean(dim=0), g.mean(dim=0))
        r = G @ w - g
        risk = self._v - 2 * g @ w + torch.einsum("i,eij,j->e", w, G, w)
        if self._criterion == "gradient":
            gap = r.abs().amax(dim=1)
        else:
            gap = (r * torch.linalg.solve(G, r)).sum(dim=1)
        return Phi, w, risk, gap

    def objective(self, flat: np.ndarray, weight: float, k: int) -> tuple[float, np.ndarray]:
        A = torch.from_numpy(flat.copy()).view(k, -1).requires_grad_(True)
        _, _, risk, gap = self._terms(A)
        value = risk.mean() + weight * gap.mean()
        (gradient,) = torch.autograd.grad(value, A)
        return float(value.detach()), gradient.numpy().ravel()

    def evaluate(self, flat: np.ndarray, weight: float, k: int) -> tuple[float, np.ndarray]:
        with torch.no_grad():
            _, _, risk, gap = self._terms(torch.from_numpy(flat.copy()).view(k, -1))
        return float(risk.mean() + weight * gap.mean()), gap.numpy()

    def representation(self, flat: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        with torch.no_grad():
            Phi, w, _, _ = self._terms(torch.from_numpy(flat.copy()).view(k, -1))
        return Phi.numpy(), w.numpy()


def _sample_moments(X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    X, y = X - X.mean(axis=0), y - y.mean()
    return X.T @ X / len(y), X.T @ y / len(y), float(y @ y / len(y))


def _restrict(C: np.ndarray, c: np.ndarray, subsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Moments (N, E, k, k) and (N, E, k) of subsets (N, k)."""
    G = C[:, subsets[:, :, None], subsets[:, None, :]]
    return np.swapaxes(G, 0, 1), np.swapaxes(c[:, subsets], 0, 1)


def _risks(G: np.ndarray, g: np.ndarray, v: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Risks (N, E) of weights (N, k)."""
    return v - 2 * np.einsum("nei,ni->ne", g, w) + np.einsum("ni,neij,nj->ne", w, G, w)


def __dir__() -> list[str]:
    return public_names(globals())
