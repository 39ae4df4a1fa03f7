"""Least squares at points drawn to repel each other: n close to m evaluations, and stable.

Weighted least squares in an m-dimensional space from points of a projection determinantal point
process, of volume-rescaled sampling, or of the Christoffel measure. Source: "Weighted
least-squares approximation with determinantal point processes and generalized volume sampling"
(arXiv 2312.14057). Samplers, identities and bounds are the standard ones of these laws; constants
of the paper's probabilistic bounds are not claimed here.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import linalg, stats
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_array
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from rankone._namespace import public_names
from rankone.linear_model._dpp_designs import (
    Design,
    christoffel_weights,
    grams,
    sample_design,
    sample_iid,
    sample_projection_dpp,
    sample_repeated_dpp,
    sample_volume,
)
from rankone.linear_model._orthonormal_bases import (
    DiscreteBasis,
    LegendreBasis,
    OrthonormalBasis,
    TrigonometricBasis,
    check_integer,
)
from rankone.stats._summary import Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "DPPLeastSquares",
    "Design",
    "DiscreteBasis",
    "LegendreBasis",
    "OrthonormalBasis",
    "TrigonometricBasis",
    "WeightedLeastSquares",
    "christoffel_weights",
    "sample_design",
    "sample_iid",
    "sample_projection_dpp",
    "sample_repeated_dpp",
    "sample_volume",
]


def _covariance(Phi: np.ndarray, residual: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """HC3: errors independent with unequal variances, points as they are. NaN without slack."""
    n, m = Phi.shape
    scaled = Phi * np.sqrt(weights)[:, None]
    Q, R = linalg.qr(scaled, mode="economic")
    slack = 1 - np.einsum("ij,ij->i", Q, Q)
    if n <= m or slack.min() <= np.finfo(np.float64).eps * n:
        return np.full((m, m), np.nan)
    inner = linalg.solve_triangular(R, Q.T * (residual * np.sqrt(weights) / slack))
    return inner @ inner.T


def _summarise(
    title: str, names: Any, coef: np.ndarray, covariance: np.ndarray, freedom: int, level: float
) -> Summary:
    if not 0 < level < 1:
        raise ValueError(f"level must lie strictly between 0 and 1, got {level!r}")
    if coef.ndim != 1:
        raise ValueError(f"summary needs one target, the fit has {len(coef)}")
    error = np.sqrt(np.diag(covariance))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = coef / error
    reach = stats.t.ppf(0.5 + level / 2, freedom) if freedom > 0 else np.nan
    frame = pd.DataFrame(
        {
            "estimate": coef,
            "std_error": error,
            "lower": coef - reach * error,
            "upper": coef + reach * error,
            "p_value": 2 * stats.t.sf(np.abs(ratio), freedom) if freedom > 0 else np.nan,
        },
        index=pd.Index(names, name="coefficient"),
    )
    notes = [
        f"{100 * level:g} % intervals from HC3 standard errors: points taken as given, errors "
        "independent with unequal variances.",
        "For a function observed without noise they measure the misfit at the points.",
    ]
    if np.isnan(error).any():
        notes.append("No standard errors: a point with leverage 1 leaves no residual to judge by.")
    return Summary(title, frame, tuple(notes))


class WeightedLeastSquares(MultiOutputMixin, RegressorMixin, BaseEstimator):
    """Least squares in an orthonormal basis at weighted points.

    Minimises (1/n) sum_i w_i (y_i - v(x_i))^2 over v in span(phi), by a least squares solver on
    sqrt(w_i / n) phi(x_i) and never by the normal equations. With points that do not determine the
    fit it warns (``numpy.exceptions.RankWarning``) and takes the solution of smallest norm.

    From "Weighted least-squares approximation with determinantal point processes and generalized
    volume sampling" (arXiv 2312.14057).

    Parameters:
        basis: an :class:`OrthonormalBasis`.

    Attributes:
        coef_: (m,) in the orthonormal basis, or (q, m) for q targets.
        gram_: (m, m), (1/n) sum_i w_i phi(x_i) phi(x_i)^T.
        lambda_min_: its smallest eigenvalue; near 1 the fit is near the best one.
        n_features_in_: D.

    Example:
        >>> import numpy as np
        >>> from rankone.linear_model.dpp_least_squares import (
        ...     LegendreBasis, WeightedLeastSquares, sample_design)
        >>> basis = LegendreBasis(5)
        >>> design = sample_design(basis, 12, random_state=0)
        >>> model = WeightedLeastSquares(basis)
        >>> y = np.exp(design.points[:, 0])
        >>> error = model.fit(design.points, y, design.weights).predict([[0.3]]) - np.exp(0.3)
        >>> bool(abs(error[0]) < 1e-3)
        True
    """

    def __init__(self, basis: OrthonormalBasis) -> None:
        self.basis = basis

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> WeightedLeastSquares:
        """Fit to values at points of the domain.

        Args:
            X: (n, D) points.
            y: (n,) or (n, q) values.
            sample_weight: (n,), w(x_i) of the law the points were drawn from, as in
                ``Design.weights``; None weighs all points alike, which is right for points of the
                reference measure only.

        Raises:
            ValueError: for values that are not finite, weights below 0, or points off the domain.
        """
        if not isinstance(self.basis, OrthonormalBasis):
            raise ValueError(f"basis must be an OrthonormalBasis, got {self.basis!r}")
        X, y = validate_data(self, X, y, dtype=np.float64, multi_output=True, y_numeric=True)
        y = np.asarray(y, dtype=np.float64)
        weights = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        Phi = self.basis.evaluate(X)
        n, m = Phi.shape
        root = np.sqrt(weights / n)
        target = y * (root[:, None] if y.ndim == 2 else root)
        solution, _, rank, _ = linalg.lstsq(Phi * root[:, None], target)
        if rank < m:
            warnings.warn(
                f"{n} weighted points determine {rank} of {m} coefficients; the solution of "
                "smallest norm is taken",
                np.exceptions.RankWarning,
                stacklevel=2,
            )
        self.coef_ = solution.T
        self.gram_, lambda_min = grams(Phi, weights)
        self.lambda_min_ = float(lambda_min)
        self._freedom = n - m
        self._covariance = np.full((m, m), np.nan)
        if y.ndim == 1 and rank == m:
            self._covariance = _covariance(Phi, y - Phi @ solution, weights)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The fitted function at points X (n, D): (n,) or (n, q)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return self.basis.evaluate(X) @ self.coef_.T

    def summary(self, *, level: float = 0.95) -> Summary:
        """Coefficients with HC3 standard errors and t intervals; needs one target and n > m."""
        check_is_fitted(self)
        m = self.coef_.shape[-1]
        return _summarise(
            f"Weighted least squares, {m} functions, lambda_min {self.lambda_min_:.4g}",
            np.arange(m),
            self.coef_,
            self._covariance,
            self._freedom,
            level,
        )


class DPPLeastSquares(BaseEstimator):
    """Choose the points, evaluate there, fit: least squares from close to m evaluations.

    From "Weighted least-squares approximation with determinantal point processes and generalized
    volume sampling" (arXiv 2312.14057).

    Parameters:
        basis: an :class:`OrthonormalBasis`; may be None for :meth:`fit_pool`.
        n_samples: evaluations n, or "auto": m max(2, ceil(log(m) + 1)), and 2 m for
            "repeated_dpp".
        method: "repeated_dpp", "volume" or "iid".
        mix: share of the reference measure; 0 for "repeated_dpp".
        delta: the design is redrawn until lambda_min >= 1 - delta; None takes the first.
        n_candidates: designs an attempt, the most stable kept.
        prune: drop points while the design stays stable.
        random_state: int, Generator (advanced) or None.

    Attributes:
        design_: the :class:`Design`.
        coef_: (m,) or (q, m): in the orthonormal basis after :meth:`fit_function`, in the original
            features after :meth:`fit_pool`.
        queried_: (n,) row indices asked for, after :meth:`fit_pool`; repeated draws may repeat
            a row.

    Example:
        >>> import numpy as np
        >>> from rankone.linear_model.dpp_least_squares import DPPLeastSquares, LegendreBasis
        >>> model = DPPLeastSquares(LegendreBasis(8), random_state=0)
        >>> model = model.fit_function(lambda X: np.exp(X[:, 0]))
        >>> len(model.design_.points), bool(abs(model.predict([[0.5]])[0] - np.exp(0.5)) < 1e-6)
        (18, True)
    """

    def __init__(
        self,
        basis: OrthonormalBasis | None = None,
        n_samples: int | str = "auto",
        *,
        method: str = "repeated_dpp",
        mix: float = 0.0,
        delta: float | None = 0.5,
        n_candidates: int = 1,
        prune: bool = False,
        random_state: Any = None,
    ) -> None:
        self.basis = basis
        self.n_samples = n_samples
        self.method = method
        self.mix = mix
        self.delta = delta
        self.n_candidates = n_candidates
        self.prune = prune
        self.random_state = random_state

    def _check_fitted(self) -> None:
        if not hasattr(self, "coef_"):
            raise NotFittedError("call fit_function or fit_pool first: DPPLeastSquares has no fit")

    def _draw(self, basis: OrthonormalBasis) -> Design:
        m = basis.n_functions
        if isinstance(self.n_samples, str):
            if self.n_samples != "auto":
                raise ValueError(f"n_samples must be 'auto' or an integer, got {self.n_samples!r}")
            n = 2 * m if self.method == "repeated_dpp" else m * max(2, math.ceil(math.log(m) + 1))
        else:
            n = check_integer("n_samples", self.n_samples, 1)
        return sample_design(
            basis,
            n,
            self.method,
            mix=self.mix,
            delta=self.delta,
            n_candidates=self.n_candidates,
            prune=self.prune,
            random_state=self.random_state,
        )

    def _fit_values(self, basis: OrthonormalBasis, design: Design, values: Any) -> None:
        values = check_array(
            values, dtype=np.float64, ensure_2d=False, allow_nd=False, input_name="values"
        )
        if values.ndim == 0 or len(values) != len(design.points):
            raise ValueError(
                f"the function must return a value for each of {len(design.points)} points, got "
                f"shape {values.shape}"
            )
        fit = WeightedLeastSquares(basis).fit(design.points, values, design.weights)
        self.design_ = design
        self.coef_ = fit.coef_
        self._covariance = fit._covariance
        self._freedom = fit._freedom
        self._values = values

    def fit_function(self, func: Callable[[np.ndarray], Any]) -> DPPLeastSquares:
        """Draw the design, call ``func(points)`` once with (n, D) points, and fit its values.

        Raises:
            ValueError: for values of another length or not finite.
            RuntimeError: where no stable design was found.
        """
        if not isinstance(self.basis, OrthonormalBasis):
            raise ValueError(f"basis must be an OrthonormalBasis, got {self.basis!r}")
        design = self._draw(self.basis)
        self._fit_values(self.basis, design, func(design.points))
        self.n_features_in_ = self.basis.n_dims
        self.__dict__.pop("queried_", None)
        return self

    def fit_pool(self, X: Any, y_oracle: Callable[[np.ndarray], Any]) -> DPPLeastSquares:
        """Linear regression on a pool of rows (P, m) from labels of n of them.

        The features are used as given: put a column of ones among them for an intercept.

        Args:
            X: (P, m) features of all rows, of full column rank.
            y_oracle: called once with the (n,) row indices, returns their labels.

        Raises:
            ValueError: for features of deficient rank, or labels of another length or not finite.
            RuntimeError: where no stable design was found.
        """
        names = X.columns if isinstance(X, pd.DataFrame) else None
        basis = DiscreteBasis(X)
        design = self._draw(basis)
        rows = design.points[:, 0].astype(np.intp)
        self._fit_values(basis, design, y_oracle(rows))
        back = linalg.solve_triangular(basis.triangle_, np.eye(basis.n_functions))
        self.coef_ = (back @ self.coef_.T).T
        self._covariance = back @ self._covariance @ back.T
        self.queried_ = rows
        self.n_features_in_ = basis.n_functions
        self._names = np.arange(basis.n_functions) if names is None else np.asarray(names)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Values at points X (n, D), or for feature rows X (n, m) after :meth:`fit_pool`."""
        self._check_fitted()
        if hasattr(self, "queried_"):
            X = check_array(X, dtype=np.float64, input_name="X")
            if X.shape[1] != self.n_features_in_:
                raise ValueError(f"X must have {self.n_features_in_} columns, got {X.shape[1]}")
            return X @ self.coef_.T
        assert self.basis is not None
        return self.basis.evaluate(X) @ self.coef_.T

    def summary(self, *, level: float = 0.95) -> Summary:
        """Coefficients with HC3 standard errors and t intervals; needs one target and n > m."""
        self._check_fitted()
        m = self.coef_.shape[-1]
        return _summarise(
            f"Least squares from {len(self.design_.points)} points ({self.design_.method}), "
            f"lambda_min {self.design_.lambda_min:.4g}",
            self._names if hasattr(self, "queried_") else np.arange(m),
            self.coef_,
            self._covariance,
            self._freedom,
            level,
        )

    def plot(self, ax: Axes | None = None, *, n_grid: int = 400) -> Axes:
        """The fitted function of one variable, and the values it was fitted to.

        Raises:
            ValueError: after :meth:`fit_pool`, in more than one dimension or for several targets.
        """
        self._check_fitted()
        if hasattr(self, "queried_") or self.n_features_in_ != 1 or self.coef_.ndim != 1:
            raise ValueError("plot needs a fitted function of one variable with one value")
        if ax is None:
            from matplotlib.figure import Figure

            ax = Figure(layout="constrained").add_subplot()
        # A draw of the reference measure shows the domain of any basis.
        assert self.basis is not None
        drawn = self.basis.sample_reference(n_grid, np.random.default_rng(0))
        x = np.sort(np.concatenate([drawn[:, 0], self.design_.points[:, 0]]))
        ax.plot(x, self.predict(x[:, None]), label="fit")
        ax.plot(self.design_.points[:, 0], self._values, "o", label="evaluations")
        ax.set_xlabel("x")
        ax.legend()
        return ax


def __dir__() -> list[str]:
    return public_names(globals())
