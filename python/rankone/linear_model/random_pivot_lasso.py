"""Sparse linear regression on arbitrary designs when the support is random.

A few random columns (pivots) are left unpenalised; every other column is replaced by what the
pivots do not explain of it, rescaled to norm sqrt(N), and the l1 penalty acts on those. Almost
dependent columns at very different scales then cost nothing, whatever the condition number.

Source: "Sparse Linear Regression is Easy on Random Supports" (arXiv 2511.06211): its setting, its
claim and its two phases (precondition the design, then solve an l1 program). The preconditioner
here, random pivots with rescaled residuals, is a derivation of this project with the complete proof
in :class:`RandomPivotLasso`; it is not the authors' algorithm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.linear_model import Lasso, lasso_path
from sklearn.model_selection import check_cv
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from rankone._namespace import public_names
from rankone.linear_model._random_pivots import (
    PivotParameters,
    RandomPivotPreconditioner,
    check_count,
    make_ill_conditioned_sparse,
    n_pivots_for,
    pivot_failure_bound,
    pivot_ratio,
    precondition,
    prediction_error_bound,
    project_out,
)
from rankone.stats._summary import Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "RandomPivotLasso",
    "RandomPivotLassoCV",
    "RandomPivotPreconditioner",
    "make_ill_conditioned_sparse",
    "n_pivots_for",
    "pivot_failure_bound",
    "pivot_ratio",
    "prediction_error_bound",
]

# The scaled-lasso iteration for an unknown noise level.
_SIGMA_ITERATIONS = 30
_SIGMA_TOLERANCE = 1e-4

# A residual of y below this many roundings of ||y|| is rounding: y lies in the span of the pivots.
_ROUNDINGS = 64


@dataclass(frozen=True)
class _Fit:
    """One draw of pivots, fitted; without Z, so that repeats cost no memory."""

    objective: float
    pivots: np.ndarray
    residual_norms: np.ndarray
    residual_coef: np.ndarray
    coef: np.ndarray
    intercept: float
    fitted: np.ndarray
    alpha: float
    sigma: float
    n_iter: int
    dual_gap: float
    rank: int


def _solve(
    Z: np.ndarray, y: np.ndarray, alpha: float, start: np.ndarray | None, max_iter: int, tol: float
) -> tuple[np.ndarray, int, float]:
    """Lasso of y on Z without an intercept: coefficients, iterations, duality gap."""
    if alpha == 0:
        return np.linalg.lstsq(Z, y, rcond=None)[0], 1, 0.0
    model = Lasso(
        alpha=alpha,
        fit_intercept=False,
        precompute=False,
        copy_X=False,
        max_iter=max_iter,
        tol=tol,
        warm_start=start is not None,
    )
    if start is not None:
        model.coef_ = start.copy()
    model.fit(Z, y)
    return model.coef_, int(np.max(model.n_iter_)), float(np.max(model.dual_gap_))


def _fit_pivots(
    X: np.ndarray,
    y: np.ndarray,
    pivots: np.ndarray,
    *,
    alpha: float | str,
    sigma: float | None,
    refit: bool,
    fit_intercept: bool,
    rank_tol: float,
    max_iter: int,
    tol: float,
) -> _Fit:
    n, d = X.shape
    phase = precondition(X, pivots, fit_intercept=fit_intercept, rank_tol=rank_tol)
    Q, Z = phase.Q, phase.Z
    degrees = n - Q.shape[1]
    rest = y.copy()
    project_out(Q, rest)
    size = float(np.linalg.norm(rest))
    explained = size <= _ROUNDINGS * np.finfo(np.float64).eps * float(np.linalg.norm(y))
    level = size / math.sqrt(degrees) if sigma is None else float(sigma)
    unit = math.sqrt(2 * math.log(max(d, 2)) / n)
    universal = isinstance(alpha, str)
    penalty = level * unit if universal else float(alpha)
    u, n_iter, gap = np.zeros(d), 0, 0.0
    if explained:
        level = 0.0 if sigma is None else level
        penalty = level * unit if universal else penalty
    elif phase.active.any():
        u, n_iter, gap = _solve(Z, rest, penalty, None, max_iter, tol)
        u[~phase.active] = 0.0  # least squares, at alpha = 0, may leave rounding there
        if sigma is None:
            for _ in range(_SIGMA_ITERATIONS if universal else 1):
                before = level
                level = float(np.linalg.norm(rest - Z @ u)) / math.sqrt(degrees)
                done = abs(level - before) < _SIGMA_TOLERANCE * before
                if not universal or done or level == 0:
                    break
                penalty = level * unit
                u, more, gap = _solve(Z, rest, penalty, u, max_iter, tol)
                n_iter += more
    objective = (
        float(np.sum((rest - Z @ u) ** 2)) / (2 * n)
        + penalty * float(np.abs(u).sum())
        + level**2 * Q.shape[1] / n
    )
    chosen = np.flatnonzero(u)
    if refit and len(chosen):
        u[chosen] = np.linalg.lstsq(Z[:, chosen], rest, rcond=None)[0]
    coef, intercept = phase.coefficients(X, y, u[:, None])
    return _Fit(
        objective=objective,
        pivots=pivots,
        residual_norms=phase.residual_norms,
        residual_coef=u,
        coef=coef[:, 0],
        intercept=float(intercept[0]),
        fitted=(y - rest) + Z @ u,
        alpha=penalty,
        sigma=level,
        n_iter=max(n_iter, 1),
        dual_gap=gap,
        rank=Q.shape[1],
    )


class _PivotRegressor(PivotParameters, RegressorMixin, BaseEstimator):
    """Prediction, the fitted attributes and their summary."""

    def _check_solver(self) -> None:
        if isinstance(self.tol, bool) or not isinstance(self.tol, float | int) or not self.tol > 0:
            raise ValueError(f"tol must be above 0, got {self.tol!r}")
        check_count("max_iter", self.max_iter, 1)

    def _keep(self, fit: _Fit) -> None:
        self.coef_ = fit.coef
        self.intercept_ = fit.intercept
        self.fitted_values_ = fit.fitted
        self.residual_coef_ = fit.residual_coef
        self.pivots_ = fit.pivots
        self.residual_norms_ = fit.residual_norms
        self.alpha_ = fit.alpha
        self.sigma_ = fit.sigma
        self.n_iter_ = fit.n_iter
        self.dual_gap_ = fit.dual_gap
        self._rank = fit.rank

    def predict(self, X: Any) -> np.ndarray:
        """X coef_ + intercept_, shape (n,).

        For the training rows of a design with a condition number above about 1e8 use
        ``fitted_values_``: there the coefficients are huge and their products cancel.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return X @ self.coef_ + self.intercept_

    def summary(self) -> Summary:
        """The columns used: pivots and selected ones, with what the pivots leave of them.

        The theory bounds the prediction error and says nothing of single coefficients, so there
        are no standard errors here; the notes give the bound on the pivots' failure.
        """
        check_is_fitted(self)
        names = getattr(self, "feature_names_in_", None)
        labels = np.arange(self.n_features_in_) if names is None else np.asarray(names)
        selected = np.flatnonzero(self.residual_coef_)
        order = selected[np.argsort(-np.abs(self.residual_coef_[selected]), kind="stable")]
        rows = np.concatenate([order, self.pivots_]).astype(int)
        frame = pd.DataFrame(
            {
                "role": ["selected"] * len(order) + ["pivot"] * len(self.pivots_),
                "coefficient": self.coef_[rows],
                "rescaled": np.where(np.isin(rows, selected), self.residual_coef_[rows], np.nan),
                "residual_norm": self.residual_norms_[rows],
            },
            index=pd.Index(labels[rows], name="column"),
        )
        n, m = len(self.fitted_values_), len(self.pivots_)
        failure = pivot_failure_bound(self.n_nonzero, m)
        return Summary(
            f"Random-pivot Lasso, {n} rows, {self.n_features_in_} columns",
            frame,
            (
                f"Intercept {self.intercept_:.4g}; penalty alpha {self.alpha_:.4g}; noise level "
                f"sigma {self.sigma_:.4g}.",
                f"{m} pivots: a random support of {self.n_nonzero} columns is failed with "
                f"probability at most {failure:.3g}.",
                "The theory bounds the prediction error, not single coefficients: no standard "
                "errors.",
            ),
        )


class RandomPivotLasso(_PivotRegressor):
    r"""Sparse regression that no near-dependence of the columns can harm, if the support is random.

    Minimises (1/2N) ||y - Q c - Z u||^2 + alpha ||u||_1 over (c, u): Q is an orthonormal basis of m
    randomly drawn columns, whose coefficients are free, and Z holds the residuals of the other
    columns off that basis, rescaled to norm sqrt(N).

    The setting and the claim, for any X a prediction error that vanishes with N = poly(k, log d)
    once the support is random, are of "Sparse Linear Regression is Easy on Random Supports"
    (arXiv 2511.06211). The preconditioner is a derivation of this project; this is its proof.
    With T a uniform k-set and r_j the distance of x_j from the pivots' span:

    1. ||X w|| >= |w_i| dist(x_i, span X_{T minus i}) for w on T and every i in T.
    2. Fix i in T. T minus i is a uniform (k-1)-set, and R holds b = floor(m / (k - 1)) disjoint
       uniform (k-1)-sets. The distance of x_i from span X_S does not grow with S, and the b + 1
       sets are exchangeable, so that T minus i is strictly the nearest with probability at most
       1 / (b + 1). Over all i in T: **P[some i in T has r_i > dist(x_i, span X_{T minus i})] <=
       k / (floor(m / (k - 1)) + 1)**, whatever X is.
    3. Outside that event, **sum_{i in T} |w_i| r_i <= k ||X w||** for all w on T at once: the l1
       norm that the penalty sees is at most k ||X w|| / sqrt(N).
    4. The slow-rate bound of the Lasso plus the cost of q free directions then bounds the in-sample
       error, with no condition number in it: :func:`prediction_error_bound`.

    The cost is O(N d m) and a Lasso of size (N, d), the memory one dense copy of X (N = 400 and
    d = 100 000: 0.32 GB).

    Parameters:
        n_nonzero: k, the number of nonzero coefficients to allow for.
        alpha: "universal", sigma sqrt(2 log d / N), or a penalty of at least 0.
        sigma: standard deviation of the noise; None estimates it by the scaled-lasso fixed point.
        n_pivots: m, or "auto": min(d, N // 4, (k - 1) ceil(k / failure_prob)).
        failure_prob: in (0, 1), wanted bound on the failure probability of the pivots.
        pivots: column indices to use instead of a draw.
        refit: replace u on its support by least squares; not part of the theorem.
        fit_intercept: put a column of ones among the pivots.
        rank_tol: relative size below which a direction or a residual is taken for zero; such
            columns, constant ones with an intercept among them, get the coefficient 0.
        max_iter, tol: of the coordinate descent.
        n_repeats: draws of the pivots; the one with the smallest
            (1/2N) ||y - fit||^2 + alpha ||u||_1 + sigma^2 q / N is kept.
        n_jobs: of the repeats, as in joblib; it changes no number.
        random_state: int, RandomState or None.

    Attributes:
        coef_: (d,), in the original columns.
        intercept_: float.
        fitted_values_: (N,), stable at any condition number, unlike ``X @ coef_``.
        residual_coef_: (d,), u; 0 at pivots and inactive columns.
        pivots_: (m,) column indices.
        residual_norms_: (d,), r_j; 0 at pivots and inactive columns.
        alpha_, sigma_: penalty and noise level used.
        n_iter_: passes of the coordinate descent over all steps of sigma, at least 1.
        dual_gap_: of the last coordinate descent.
        n_features_in_, feature_names_in_: as in scikit-learn.

    Example:
        >>> from rankone.linear_model.random_pivot_lasso import (
        ...     RandomPivotLasso, make_ill_conditioned_sparse)
        >>> X, y, coef, support, signal = make_ill_conditioned_sparse(random_state=0)
        >>> model = RandomPivotLasso(4, sigma=1.0, n_pivots=12, random_state=0).fit(X, y)
        >>> bool(((model.fitted_values_ - signal) ** 2).mean() < 0.3)
        True
    """

    def __init__(
        self,
        n_nonzero: int = 5,
        *,
        alpha: float | str = "universal",
        sigma: float | None = None,
        n_pivots: int | str = "auto",
        failure_prob: float = 0.5,
        pivots: Any = None,
        refit: bool = False,
        fit_intercept: bool = True,
        rank_tol: float = 1e-10,
        max_iter: int = 10000,
        tol: float = 1e-6,
        n_repeats: int = 1,
        n_jobs: int | None = None,
        random_state: Any = None,
    ) -> None:
        self.n_nonzero = n_nonzero
        self.alpha = alpha
        self.sigma = sigma
        self.n_pivots = n_pivots
        self.failure_prob = failure_prob
        self.pivots = pivots
        self.refit = refit
        self.fit_intercept = fit_intercept
        self.rank_tol = rank_tol
        self.max_iter = max_iter
        self.tol = tol
        self.n_repeats = n_repeats
        self.n_jobs = n_jobs
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> RandomPivotLasso:
        """Fit to a dense design X (N, d) and a target y (N,).

        Raises:
            ValueError: for parameters out of range, NaN, infinities or lengths that differ.
            TypeError: for a sparse X.
        """
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True, ensure_min_samples=2)
        y = y.astype(np.float64)
        m, pivots = self._check_pivot_parameters(*X.shape)
        self._check_solver()
        n_repeats = check_count("n_repeats", self.n_repeats, 1)
        if isinstance(self.alpha, str):
            if self.alpha != "universal":
                raise ValueError(f"alpha must be 'universal' or a number, got {self.alpha!r}")
        elif not (math.isfinite(self.alpha) and self.alpha >= 0):
            raise ValueError(f"alpha must be finite and at least 0, got {self.alpha!r}")
        if self.sigma is not None and not (math.isfinite(self.sigma) and self.sigma > 0):
            raise ValueError(f"sigma must be finite and above 0, or None, got {self.sigma!r}")
        if pivots is not None:
            draws = [pivots]
        else:
            rng = check_random_state(self.random_state)
            draws = [rng.choice(X.shape[1], m, replace=False) for _ in range(n_repeats)]
        options: dict[str, Any] = {
            "alpha": self.alpha,
            "sigma": self.sigma,
            "refit": bool(self.refit),
            "fit_intercept": bool(self.fit_intercept),
            "rank_tol": self.rank_tol,
            "max_iter": self.max_iter,
            "tol": self.tol,
        }
        jobs = self.n_jobs if len(draws) > 1 else 1
        fits = Parallel(n_jobs=jobs)(delayed(_fit_pivots)(X, y, draw, **options) for draw in draws)
        self._keep(min(fits, key=lambda fit: fit.objective))
        return self


def _fold_errors(
    X: np.ndarray,
    y: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    n_pivots: int,
    alphas: np.ndarray,
    seed: int,
    options: dict[str, Any],
) -> np.ndarray:
    """Mean squared error on the held-out rows at every alpha; nothing here sees those rows."""
    X_train, y_train = X[train], y[train]
    pivots = check_random_state(seed).choice(X.shape[1], n_pivots, replace=False)
    phase = precondition(
        X_train, pivots, fit_intercept=options["fit_intercept"], rank_tol=options["rank_tol"]
    )
    rest = y_train.copy()
    project_out(phase.Q, rest)
    U = np.zeros((X.shape[1], len(alphas)))
    if phase.active.any():
        U = lasso_path(
            phase.Z,
            rest,
            alphas=alphas,
            precompute=False,
            copy_X=False,
            max_iter=options["max_iter"],
            tol=options["tol"],
        )[1]
    if options["refit"]:
        for column in U.T:
            chosen = np.flatnonzero(column)
            if len(chosen):
                column[chosen] = np.linalg.lstsq(phase.Z[:, chosen], rest, rcond=None)[0]
    coef, intercept = phase.coefficients(X_train, y_train, U)
    return np.mean((y[test, None] - X[test] @ coef - intercept) ** 2, axis=0)


class RandomPivotLassoCV(_PivotRegressor):
    """:class:`RandomPivotLasso` with penalty and number of pivots chosen by cross-validation.

    In every fold the pivots are drawn anew and basis and residuals computed from the training rows
    alone. Prediction is then judged on new rows, for which the theory makes no promise.

    Parameters:
        n_nonzero: k, the number of nonzero coefficients to allow for.
        alphas: number of penalties, geometric from alpha_max = max |Z^T y~| / N on all rows down
            to alpha_max / 1000 for each number of pivots, or the penalties themselves, above 0.
        n_pivots_grid: numbers of pivots to try; None is (0, m / 2, m) for the automatic m.
        cv: number of folds, a splitter or an iterable of splits.
        failure_prob, refit, fit_intercept, rank_tol, max_iter, tol, random_state: as in
            :class:`RandomPivotLasso`.
        n_jobs: over folds and numbers of pivots, as in joblib; it changes no number.

    Attributes:
        alpha_, n_pivots_: the choice with the smallest mean error.
        alphas_: (g, a) penalties in descending order, a row for each number of pivots.
        n_pivots_grid_: (g,).
        mse_path_: (g, a, folds) errors on held-out rows.
        others: as in :class:`RandomPivotLasso`, of the final fit to all rows.

    Example:
        >>> from rankone.linear_model.random_pivot_lasso import (
        ...     RandomPivotLassoCV, make_ill_conditioned_sparse)
        >>> X, y, *_ = make_ill_conditioned_sparse(60, 40, 3, rank=1, random_state=0)
        >>> model = RandomPivotLassoCV(3, alphas=5, cv=3, random_state=0).fit(X, y)
        >>> model.mse_path_.shape
        (3, 5, 3)
    """

    def __init__(
        self,
        n_nonzero: int = 5,
        *,
        alphas: Any = 30,
        n_pivots_grid: Any = None,
        cv: Any = 5,
        failure_prob: float = 0.5,
        refit: bool = False,
        fit_intercept: bool = True,
        rank_tol: float = 1e-10,
        max_iter: int = 10000,
        tol: float = 1e-6,
        n_jobs: int | None = None,
        random_state: Any = None,
    ) -> None:
        self.n_nonzero = n_nonzero
        self.alphas = alphas
        self.n_pivots_grid = n_pivots_grid
        self.cv = cv
        self.failure_prob = failure_prob
        self.refit = refit
        self.fit_intercept = fit_intercept
        self.rank_tol = rank_tol
        self.max_iter = max_iter
        self.tol = tol
        self.n_jobs = n_jobs
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> RandomPivotLassoCV:
        """Choose by cross-validation, then fit to all rows.

        Raises:
            ValueError: for parameters out of range, NaN, infinities or lengths that differ.
            TypeError: for a sparse X.
        """
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True, ensure_min_samples=2)
        y = y.astype(np.float64)
        n, d = X.shape
        auto, _ = self._check_pivot_parameters(n, d)
        self._check_solver()
        splits = list(check_cv(self.cv).split(X, y))
        fewest = min(len(train) for train, _ in splits)
        most = min(fewest - 2, d)
        if self.n_pivots_grid is None:
            grid = sorted({min(m, max(most, 0)) for m in (0, auto // 2, auto)})
        else:
            grid = [check_count("n_pivots_grid", m, 0, most) for m in self.n_pivots_grid]
            if not grid:
                raise ValueError("n_pivots_grid must hold at least one number of pivots, got none")
        rng = check_random_state(self.random_state)
        options: dict[str, Any] = {
            "refit": bool(self.refit),
            "fit_intercept": bool(self.fit_intercept),
            "rank_tol": self.rank_tol,
            "max_iter": self.max_iter,
            "tol": self.tol,
        }
        pivots = [rng.choice(d, m, replace=False) for m in grid]
        alphas = np.array([self._penalties(X, y, drawn, options) for drawn in pivots])
        seeds = rng.randint(np.iinfo(np.int32).max, size=(len(grid), len(splits)))
        errors = Parallel(n_jobs=self.n_jobs)(
            delayed(_fold_errors)(X, y, train, test, m, alphas[g], int(seeds[g, f]), options)
            for g, m in enumerate(grid)
            for f, (train, test) in enumerate(splits)
        )
        shape = (len(grid), len(splits), alphas.shape[1])
        self.mse_path_ = np.array(errors).reshape(shape).transpose(0, 2, 1)
        mean = self.mse_path_.mean(axis=2)
        best, at = np.unravel_index(np.argmin(mean), mean.shape)
        self.alphas_, self.n_pivots_grid_ = alphas, np.array(grid)
        self.n_pivots_ = grid[best]
        chosen = float(alphas[best, at])
        self._keep(_fit_pivots(X, y, pivots[best], alpha=chosen, sigma=None, **options))
        return self

    def _penalties(
        self, X: np.ndarray, y: np.ndarray, pivots: np.ndarray, options: dict[str, Any]
    ) -> np.ndarray:
        if not np.isscalar(self.alphas):
            alphas = np.sort(np.asarray(self.alphas, dtype=np.float64))[::-1]
            if alphas.ndim != 1 or not len(alphas) or not np.all(np.isfinite(alphas)):
                raise ValueError(f"alphas must be finite and one-dimensional, got {self.alphas!r}")
            if alphas[-1] <= 0:
                raise ValueError(f"alphas must be above 0, got {alphas[-1]!r}")
            return alphas
        count = check_count("alphas", self.alphas, 1)
        phase = precondition(
            X, pivots, fit_intercept=options["fit_intercept"], rank_tol=options["rank_tol"]
        )
        rest = y.copy()
        project_out(phase.Q, rest)
        top = float(np.max(np.abs(phase.Z.T @ rest))) / len(y)
        # With nothing left to explain every penalty gives u = 0; any positive grid will do.
        top = max(top, np.finfo(np.float64).tiny ** 0.5)
        return np.geomspace(top, 1e-3 * top, count)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Mean held-out error against the penalty, one line for each number of pivots."""
        check_is_fitted(self)
        if ax is None:
            from matplotlib.figure import Figure

            ax = Figure(layout="constrained").add_subplot()
        folds = self.mse_path_.shape[2]
        for m, alphas, errors in zip(
            self.n_pivots_grid_, self.alphas_, self.mse_path_, strict=True
        ):
            mean, spread = errors.mean(axis=1), errors.std(axis=1) / math.sqrt(folds)
            (line,) = ax.plot(alphas, mean, label=f"{m} pivots")
            ax.fill_between(alphas, mean - spread, mean + spread, alpha=0.2, color=line.get_color())
        ax.axvline(self.alpha_, color="0.5", linestyle="--")
        ax.set_xscale("log")
        ax.set_xlabel("alpha")
        ax.set_ylabel("held-out mean squared error")
        ax.legend()
        return ax


def __dir__() -> list[str]:
    return public_names(globals())
