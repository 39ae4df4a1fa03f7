"""SCAD and MCP regression, linear and logistic, by accelerated gradient.

Minimises loss + sum_j p_alpha(|b_j|) with ||y - X b - b0||^2 / (2 n) or the mean logistic loss; the
intercept is free and X is used as given. The default solver is the Ghadimi-Lan scheme in the
setting of "Accelerated Gradient Methods for Sparse Statistical Learning with Nonconvex Penalties"
(arXiv 2009.10629; chapter of K. Yang's doctoral thesis "Contributions to Robust and Efficient
Methods for Analysis of High Dimensional Data", 2025).
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from scipy import stats
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import check_cv
from sklearn.utils import Bunch
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from rankone._arguments import check_number
from rankone._namespace import public_names
from rankone.linear_model._nonconvex_solvers import (
    SOLVERS,
    Loss,
    Problem,
    Products,
    check_alpha,
    check_penalty,
    concave_gradient,
    penalty_value,
    threshold,
)
from rankone.stats._summary import Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "NonconvexLogisticRegression",
    "NonconvexRegression",
    "NonconvexRegressionCV",
    "nonconvex_path",
    "penalty_value",
    "threshold",
]

# A screened column counts as a violator above alpha by this share: solutions are not exact.
_KKT_SLACK = 1e-6


def _check_solver(solver: Any, max_iter: Any, tol: Any) -> None:
    if solver not in SOLVERS:
        raise ValueError(f"solver must be one of {', '.join(SOLVERS)}, got {solver!r}")
    if isinstance(max_iter, bool) or not isinstance(max_iter, int | np.integer) or max_iter < 1:
        raise ValueError(f"max_iter must be an integer of at least 1, got {max_iter!r}")
    check_number("tol", tol)
    if not (math.isfinite(tol) and tol > 0):
        raise ValueError(f"tol must be finite and above 0, got {tol!r}")


def _check_tensor(X: torch.Tensor, n_features: int | None = None) -> torch.Tensor:
    if not X.is_floating_point():
        raise TypeError(f"X must have a floating dtype, got {X.dtype}")
    if X.ndim != 2 or 0 in X.shape:
        raise ValueError(f"X must have two dimensions and no empty one, got {tuple(X.shape)}")
    if not bool(torch.isfinite(X).all()):
        raise ValueError("X must be finite, got NaN or infinity")
    if n_features is not None and X.shape[1] != n_features:
        raise ValueError(f"X must have {n_features} columns, got {X.shape[1]}")
    return X.detach().double()


def _check_target(y: Any, n: int) -> np.ndarray:
    """The target beside a tensor, as numpy."""
    values = y.detach().cpu().numpy() if isinstance(y, torch.Tensor) else np.asarray(y)
    if values.shape != (n,):
        raise ValueError(f"y must have shape ({n},), got {values.shape}")
    return values


def _warn_unless(converged: bool, max_iter: int) -> None:
    if not converged:
        warnings.warn(
            f"max_iter = {max_iter} steps did not reach tol; raise max_iter, or tol, or scale X",
            ConvergenceWarning,
            stacklevel=3,
        )


class _NonconvexModel(BaseEstimator):
    """Fitting, prediction and summary shared by the two losses."""

    _family: str

    def __init__(
        self,
        alpha: float = 0.1,
        *,
        penalty: str = "scad",
        gamma: float | None = None,
        solver: str = "ag",
        restart: bool = False,
        max_iter: int = 5000,
        tol: float = 1e-7,
        fit_intercept: bool = True,
        warm_start: bool = False,
    ) -> None:
        self.alpha = alpha
        self.penalty = penalty
        self.gamma = gamma
        self.solver = solver
        self.restart = restart
        self.max_iter = max_iter
        self.tol = tol
        self.fit_intercept = fit_intercept
        self.warm_start = warm_start

    def _solve(self, X: Any, y: np.ndarray) -> tuple[np.ndarray, float]:
        """Coefficients (p,) and intercept; sets what the solver leaves."""
        gamma = check_penalty(self.penalty, self.gamma)
        alpha = check_alpha(self.alpha)
        _check_solver(self.solver, self.max_iter, self.tol)
        loss = Loss(Products(X), y, self._family, bool(self.fit_intercept))
        problem = Problem.make(loss, alpha, self.penalty, gamma)
        start = np.zeros(loss.p + loss.free)
        if self.warm_start and hasattr(self, "coef_") and self._flat()[0].shape == (loss.p,):
            start[: loss.p], last = self._flat()
            start[loss.p :] = last
        solution = problem.solve(
            start,
            solver=self.solver,
            restart=bool(self.restart),
            max_iter=self.max_iter,
            tol=self.tol,
        )
        self.n_iter_ = max(solution.n_iter, 1)
        self.converged_ = solution.converged
        self.objective_path_ = solution.objectives
        self.__dict__.pop("dual_gap_", None)
        if self.penalty == "l1":
            self.dual_gap_ = loss.dual_gap(solution.theta, alpha)
        _warn_unless(solution.converged, self.max_iter)
        self._fit_errors(loss, solution.theta, alpha, gamma)
        return solution.theta[: loss.p], loss.intercept(solution.theta)

    def _fit_errors(self, loss: Loss, theta: np.ndarray, alpha: float, gamma: float) -> None:
        """The sandwich of Fan and Li (2001) on the selected columns."""
        b = theta[: loss.p]
        chosen = np.flatnonzero(b)
        self._chosen, self._freedom = chosen, loss.n - len(chosen) - int(bool(self.fit_intercept))
        self._errors = np.full(len(chosen), np.nan)
        if self.penalty == "l1" or self._freedom <= 0 or not len(chosen):
            return
        part = loss.columns(chosen)
        A = part.X.X.cpu().numpy() if isinstance(part.X.X, torch.Tensor) else np.array(part.X.X)
        A = A - part.means
        lead = part.free
        if lead:
            A = np.column_stack([A, np.ones(loss.n)])
        predictor = loss.predictor(theta)
        if self._family == "linear":
            information = A.T @ A
            noise = float(np.sum(loss.residual(predictor) ** 2)) / self._freedom
        else:
            probability = expit(predictor)
            information = (A * (probability * (1 - probability))[:, None]).T @ A
            noise = 1.0
        sizes = b[chosen]
        slope = alpha + np.sign(sizes) * concave_gradient(sizes, alpha, self.penalty, gamma)
        ridge = np.append(loss.n * slope / np.abs(sizes), np.zeros(lead))
        try:
            inverse = np.linalg.inv(information + np.diag(ridge))
        except np.linalg.LinAlgError:
            return
        covariance = noise * inverse @ information @ inverse
        self._errors = np.sqrt(np.maximum(np.diag(covariance)[: len(chosen)], 0.0))

    def _penalty(self) -> float:
        return float(self.alpha)

    def _flat(self) -> tuple[np.ndarray, float]:
        coef = self.coef_
        coef = coef.cpu().numpy() if isinstance(coef, torch.Tensor) else coef
        return np.ravel(coef).astype(np.float64), float(np.ravel(self.intercept_)[0])

    def _predictor(self, X: Any) -> Any:
        check_is_fitted(self)
        coef, intercept = self._flat()
        if isinstance(X, torch.Tensor):
            double = _check_tensor(X, self.n_features_in_)
            values = double @ torch.as_tensor(coef, device=X.device) + intercept
            return values.to(X.dtype)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return X @ coef + intercept

    def _kept(self, coef: np.ndarray, like: Any) -> Any:
        """Coefficients as an array, or as a tensor beside the data."""
        if isinstance(like, torch.Tensor):
            return torch.as_tensor(coef, dtype=like.dtype, device=like.device)
        return coef

    def summary(self, *, level: float = 0.95) -> Summary:
        """The selected coefficients, with standard errors and intervals for SCAD and MCP.

        The errors are the sandwich of Fan and Li (2001), those of least squares (or of maximum
        likelihood) on the selected columns where the penalty is flat. They hold under the oracle
        property, that is when selection is right with probability near one; l1 has none.
        """
        check_is_fitted(self)
        if not 0 < level < 1:
            raise ValueError(f"level must lie strictly between 0 and 1, got {level!r}")
        names = getattr(self, "feature_names_in_", np.arange(self.n_features_in_))
        coef, intercept = self._flat()
        coef = coef[self._chosen]
        linear = self._family == "linear" and self._freedom > 0
        law = stats.t(self._freedom) if linear else stats.norm()
        reach = law.ppf(0.5 + level / 2)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.abs(coef / self._errors)
        frame = pd.DataFrame(
            {
                "estimate": coef,
                "std_error": self._errors,
                "lower": coef - reach * self._errors,
                "upper": coef + reach * self._errors,
                "p_value": 2 * law.sf(ratio),
            },
            index=pd.Index(np.asarray(names)[self._chosen], name="column"),
        )
        kind = "no standard errors under l1" if self.penalty == "l1" else "standard errors hold "
        if self.penalty != "l1":
            kind += "when the selection is right (oracle property); shrunken ones are biased"
        return Summary(
            f"{self.penalty.upper()} {self._family} regression, alpha {self._penalty():.4g}",
            frame,
            (
                f"{len(coef)} of {self.n_features_in_} columns selected; intercept "
                f"{intercept:.4g}; {self.n_iter_} steps.",
                f"{100 * level:g} % intervals: {kind}.",
            ),
        )


class NonconvexRegression(RegressorMixin, _NonconvexModel):
    """Linear regression with the SCAD, MCP or l1 penalty.

    Minimises ||y - X b - b0||^2 / (2 n) + sum_j p_alpha(|b_j|): a stationary point for SCAD and
    MCP, reached from zero (or from the last solution). "Accelerated Gradient Methods for Sparse
    Statistical Learning with Nonconvex Penalties" (arXiv 2009.10629).

    Takes numpy arrays, frames and torch tensors; for a tensor all products run on its device, in
    float64, and ``coef_`` and predictions are tensors beside it.

    Parameters:
        alpha: at least 0.
        penalty: "scad", "mcp" or "l1".
        gamma: above 2 for SCAD (default 3.7), above 1 for MCP (default 3).
        solver: "ag" (the paper's), "ag-gl" (Ghadimi and Lan's own setting), "prox" (proximal
            gradient) or "pncg" (:func:`rankone.linear_model.proximal_ncg.proximal_ncg`).
        restart: restart the momentum of "ag" when its steps shrink.
        max_iter, tol: steps at most, and the size of the gradient mapping at which to stop.
        fit_intercept: b0, unpenalised.
        warm_start: start from the last solution.

    Attributes:
        coef_: (p,).
        intercept_: float.
        n_iter_: steps taken.
        converged_: whether tol was reached.
        objective_path_: (n_iter_,) objective after each step.
        dual_gap_: for l1 alone.
        n_features_in_, feature_names_in_: as in scikit-learn.

    Example:
        >>> import numpy as np
        >>> from rankone.linear_model.nonconvex import NonconvexRegression
        >>> X = np.random.default_rng(0).standard_normal((100, 20))
        >>> model = NonconvexRegression(0.2).fit(X, 3 * X[:, 0] - 2 * X[:, 5])
        >>> np.flatnonzero(model.coef_).tolist(), bool(abs(model.coef_[0] - 3) < 1e-6)
        ([0, 5], True)
    """

    _family = "linear"

    def fit(self, X: Any, y: Any) -> NonconvexRegression:
        """Fit to X (n, p) and y (n,).

        Raises:
            ValueError: for parameters out of range, NaN, infinities or lengths that differ.
            TypeError: for a tensor without a floating dtype.
        """
        like = X
        if isinstance(X, torch.Tensor):
            X = _check_tensor(X)
            y = _check_target(y, len(X)).astype(np.float64)
            if not np.all(np.isfinite(y)):
                raise ValueError("y must be finite, got NaN or infinity")
            self.n_features_in_ = X.shape[1]
        else:
            X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
            y = y.astype(np.float64)
        coef, self.intercept_ = self._solve(X, y)
        self.coef_ = self._kept(coef, like)
        return self

    def predict(self, X: Any) -> Any:
        """X coef_ + intercept_, (n,); a tensor for a tensor."""
        return self._predictor(X)


class NonconvexLogisticRegression(ClassifierMixin, _NonconvexModel):
    """Logistic regression of two classes with the SCAD, MCP or l1 penalty.

    Minimises the mean logistic loss + sum_j p_alpha(|b_j|). Separable classes have no maximum
    likelihood; where the penalty is flat the coefficients then grow until ``max_iter``, with a
    ConvergenceWarning. "Accelerated Gradient Methods for Sparse Statistical Learning with
    Nonconvex Penalties" (arXiv 2009.10629).

    Parameters and attributes are those of :class:`NonconvexRegression`, with ``classes_`` (2,),
    ``coef_`` (1, p) and ``intercept_`` (1,); the coefficients are for ``classes_[1]``.

    Example:
        >>> import numpy as np
        >>> from rankone.linear_model.nonconvex import NonconvexLogisticRegression
        >>> rng = np.random.default_rng(0)
        >>> X = rng.standard_normal((400, 10))
        >>> y = X[:, 3] + rng.logistic(size=400) > 0
        >>> model = NonconvexLogisticRegression(0.1, penalty="mcp").fit(X, y)
        >>> np.flatnonzero(model.coef_).tolist()
        [3]
    """

    _family = "logistic"

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags

    def fit(self, X: Any, y: Any) -> NonconvexLogisticRegression:
        """Fit to X (n, p) and labels y (n,) of two classes.

        Raises:
            ValueError: for other than two classes, parameters out of range, NaN or infinities.
            TypeError: for a tensor without a floating dtype.
        """
        like = X
        if isinstance(X, torch.Tensor):
            X = _check_tensor(X)
            y = _check_target(y, len(X))
            self.n_features_in_ = X.shape[1]
        else:
            X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        classes, codes = np.unique(y, return_inverse=True)
        if len(classes) != 2:
            raise ValueError(
                "Only binary classification is supported: y must have two classes, got "
                f"{len(classes)} class{'' if len(classes) == 1 else 'es'}"
            )
        self.classes_ = classes
        coef, intercept = self._solve(X, 2.0 * codes - 1.0)
        self.coef_ = self._kept(coef[None, :], like)
        self.intercept_ = self._kept(np.array([intercept]), like)
        return self

    def decision_function(self, X: Any) -> Any:
        """Log-odds of ``classes_[1]``, (n,); a tensor for a tensor."""
        return self._predictor(X)

    def predict_proba(self, X: Any) -> Any:
        """(n, 2) probabilities of ``classes_``; a tensor for a tensor."""
        odds = self.decision_function(X)
        if isinstance(odds, torch.Tensor):
            return torch.stack([torch.sigmoid(-odds), torch.sigmoid(odds)], dim=1)
        return np.column_stack([expit(-odds), expit(odds)])

    def predict(self, X: Any) -> np.ndarray:
        """The likelier class, (n,)."""
        odds = self.decision_function(X)
        odds = odds.cpu().numpy() if isinstance(odds, torch.Tensor) else odds
        return self.classes_[(odds > 0).astype(int)]


def nonconvex_path(
    X: Any,
    y: Any,
    *,
    penalty: str = "scad",
    gamma: float | None = None,
    alphas: Any = None,
    n_alphas: int = 100,
    eps: float = 1e-3,
    screening: str | None = "strong",
    family: str = "linear",
    solver: str = "ag",
    restart: bool = False,
    max_iter: int = 5000,
    tol: float = 1e-7,
    fit_intercept: bool = True,
) -> tuple[np.ndarray, np.ndarray, Bunch]:
    """Solutions along a path of penalties, each started from the one before.

    The sequential strong rule drops column j at alpha_{k+1} if |x_j^T r| / n < 2 alpha_{k+1} -
    alpha_k at the last solution; the optimality conditions of the dropped columns are then checked,
    and the problem solved again with the violators until there are none.

    Args:
        X: (n, p) array or tensor.
        y: (n,); two classes for family "logistic".
        penalty, gamma, solver, restart, max_iter, tol, fit_intercept: as in
            :class:`NonconvexRegression`.
        alphas: penalties, sorted here in descending order; None is geometric from
            max_j |x_j^T (y - mean)| / n (centred columns) down to ``eps`` times it.
        n_alphas, eps: of that grid.
        screening: "strong" or None.
        family: "linear" or "logistic".

    Returns:
        alphas (a,), coefs (p, a), and a Bunch with intercepts, n_iter, converged, n_kept (columns
        in the last problem solved) and n_violations, each (a,).

    Raises:
        ValueError: for arguments out of range.

    Example:
        >>> import numpy as np
        >>> from rankone.linear_model.nonconvex import nonconvex_path
        >>> X = np.random.default_rng(0).standard_normal((50, 200))
        >>> alphas, coefs, info = nonconvex_path(X, X[:, 7], penalty="mcp", n_alphas=5, eps=0.1)
        >>> coefs.shape, np.flatnonzero(coefs[:, -1]).tolist()
        ((200, 5), [7])
    """
    gamma = check_penalty(penalty, gamma)
    _check_solver(solver, max_iter, tol)
    if screening not in ("strong", None):
        raise ValueError(f"screening must be 'strong' or None, got {screening!r}")
    if family not in ("linear", "logistic"):
        raise ValueError(f"family must be 'linear' or 'logistic', got {family!r}")
    kind = NonconvexRegression if family == "linear" else NonconvexLogisticRegression
    checker = kind()
    if isinstance(X, torch.Tensor):
        X = _check_tensor(X)
        y = _check_target(y, len(X))
    else:
        X, y = validate_data(checker, X, y, dtype=np.float64)
    if family == "logistic":
        classes, codes = np.unique(y, return_inverse=True)
        if len(classes) != 2:
            raise ValueError(f"y must have two classes, got {len(classes)}")
        target = 2.0 * codes - 1.0
    else:
        target = np.asarray(y, dtype=np.float64)
        if not np.all(np.isfinite(target)):
            raise ValueError("y must be finite, got NaN or infinity")
    loss = Loss(Products(X), target, family, bool(fit_intercept))
    grid = _penalties(loss, alphas, n_alphas, eps)
    return _path(
        loss,
        grid,
        penalty=penalty,
        gamma=gamma,
        screening=screening is not None,
        solver=solver,
        restart=restart,
        max_iter=max_iter,
        tol=tol,
    )


def _null(loss: Loss) -> np.ndarray:
    """theta with no coefficients: the intercept that fits best."""
    theta = np.zeros(loss.p + loss.free)
    if loss.free:
        share = float(np.mean(loss.y > 0))
        theta[-1] = math.log(share / (1 - share))
    return theta


def _penalties(loss: Loss, alphas: Any, n_alphas: int, eps: float) -> np.ndarray:
    if alphas is not None:
        grid = np.sort(np.atleast_1d(np.asarray(alphas, dtype=np.float64)))[::-1]
        if grid.ndim != 1 or not grid.size or not np.all(np.isfinite(grid)) or grid[-1] < 0:
            raise ValueError(f"alphas must be finite and at least 0, got {alphas!r}")
        return grid
    if isinstance(n_alphas, bool) or not isinstance(n_alphas, int | np.integer) or n_alphas < 1:
        raise ValueError(f"n_alphas must be an integer of at least 1, got {n_alphas!r}")
    check_number("eps", eps)
    if not 0 < eps < 1:
        raise ValueError(f"eps must lie strictly between 0 and 1, got {eps!r}")
    gradient = loss.gradient_at(loss.predictor(_null(loss)))[: loss.p]
    top = float(np.abs(gradient).max(initial=0.0))
    if top <= 0:
        raise ValueError("y must vary with some column of X: every penalty gives no coefficients")
    return np.geomspace(top, eps * top, int(n_alphas))


def _path(
    loss: Loss,
    alphas: np.ndarray,
    *,
    penalty: str,
    gamma: float,
    screening: bool,
    solver: str,
    restart: bool,
    max_iter: int,
    tol: float,
) -> tuple[np.ndarray, np.ndarray, Bunch]:
    theta = _null(loss)
    coefs = np.zeros((loss.p, len(alphas)))
    info = Bunch(
        intercepts=np.zeros(len(alphas)),
        n_iter=np.zeros(len(alphas), dtype=int),
        converged=np.ones(len(alphas), dtype=bool),
        n_kept=np.zeros(len(alphas), dtype=int),
        n_violations=np.zeros(len(alphas), dtype=int),
    )
    gradient = np.abs(loss.gradient_at(loss.predictor(theta))[: loss.p])
    before = max(float(gradient.max(initial=0.0)), float(alphas[0]))
    for k, alpha in enumerate(alphas.tolist()):
        keep = np.ones(loss.p, dtype=bool)
        if screening:
            keep = (gradient >= 2 * alpha - before) | (theta[: loss.p] != 0)
        while True:
            kept = np.flatnonzero(keep)
            part = loss if len(kept) == loss.p else loss.columns(kept)
            start = np.concatenate([theta[kept], theta[loss.p :]])
            if len(start):
                # The constant of the kept columns: that of all p would be p / |kept| times too
                # large, and the steps as much too short.
                problem = Problem.make(part, alpha, penalty, gamma)
                solution = problem.solve(
                    start,
                    solver=solver,
                    restart=restart,
                    max_iter=max_iter,
                    tol=tol,
                    trace=False,
                )
                info.n_iter[k] += solution.n_iter
                info.converged[k] = solution.converged
                theta[: loss.p] = 0.0
                theta[kept] = solution.theta[: len(kept)]
                theta[loss.p :] = solution.theta[len(kept) :]
            gradient = np.abs(loss.gradient_at(loss.predictor(theta))[: loss.p])
            violators = ~keep & (gradient > alpha * (1 + _KKT_SLACK))
            if not violators.any():
                break
            info.n_violations[k] += int(violators.sum())
            keep |= violators
        coefs[:, k] = theta[: loss.p]
        info.intercepts[k] = loss.intercept(theta)
        info.n_kept[k] = len(kept)
        before = alpha
    _warn_unless(bool(info.converged.all()), max_iter)
    return alphas, coefs, info


def _fold(
    X: np.ndarray,
    y: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    alphas: np.ndarray,
    options: dict[str, Any],
) -> np.ndarray:
    _, coefs, info = nonconvex_path(X[train], y[train], alphas=alphas, **options)
    return np.mean((y[test, None] - X[test] @ coefs - info.intercepts) ** 2, axis=0)


class NonconvexRegressionCV(RegressorMixin, _NonconvexModel):
    """:class:`NonconvexRegression` with alpha chosen by cross-validation along the path.

    Parameters:
        alphas: penalties; None is the grid of :func:`nonconvex_path` on all rows.
        penalty, gamma, solver, restart, max_iter, tol, fit_intercept: as in
            :class:`NonconvexRegression`.
        n_alphas, eps: of the grid.
        screening: "strong" or None.
        cv: number of folds, a splitter or an iterable of splits.
        n_jobs: over folds, as in joblib; it changes no number.

    Attributes:
        alpha_: the penalty with the smallest mean error.
        alphas_: (a,), descending.
        mse_path_: (a, folds).
        coef_path_: (p, a), on all rows.
        coef_, intercept_: the path's solution at ``alpha_`` on all rows.
        n_iter_, converged_: of that solution.

    Example:
        >>> import numpy as np
        >>> from rankone.linear_model.nonconvex import NonconvexRegressionCV
        >>> rng = np.random.default_rng(0)
        >>> X = rng.standard_normal((80, 30))
        >>> y = 2 * X[:, 3] + 0.5 * rng.standard_normal(80)
        >>> model = NonconvexRegressionCV(n_alphas=10, eps=0.05, cv=4).fit(X, y)
        >>> bool(model.coef_[3] > 1.8)
        True
    """

    _family = "linear"

    def __init__(
        self,
        alphas: Any = None,
        *,
        penalty: str = "scad",
        gamma: float | None = None,
        n_alphas: int = 100,
        eps: float = 1e-3,
        screening: str | None = "strong",
        cv: Any = 5,
        solver: str = "ag",
        restart: bool = False,
        max_iter: int = 5000,
        tol: float = 1e-7,
        fit_intercept: bool = True,
        n_jobs: int | None = None,
    ) -> None:
        self.alphas = alphas
        self.penalty = penalty
        self.gamma = gamma
        self.n_alphas = n_alphas
        self.eps = eps
        self.screening = screening
        self.cv = cv
        self.solver = solver
        self.restart = restart
        self.max_iter = max_iter
        self.tol = tol
        self.fit_intercept = fit_intercept
        self.n_jobs = n_jobs

    def fit(self, X: Any, y: Any) -> NonconvexRegressionCV:
        """Choose alpha on held-out folds, then take the path on all rows.

        Raises:
            ValueError: for parameters out of range, NaN, infinities or lengths that differ.
        """
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True, ensure_min_samples=2)
        y = y.astype(np.float64)
        gamma = check_penalty(self.penalty, self.gamma)
        _check_solver(self.solver, self.max_iter, self.tol)
        options: dict[str, Any] = {
            "penalty": self.penalty,
            "gamma": self.gamma,
            "screening": self.screening,
            "solver": self.solver,
            "restart": self.restart,
            "max_iter": self.max_iter,
            "tol": self.tol,
            "fit_intercept": self.fit_intercept,
        }
        self.alphas_, self.coef_path_, info = nonconvex_path(
            X, y, alphas=self.alphas, n_alphas=self.n_alphas, eps=self.eps, **options
        )
        splits = list(check_cv(self.cv).split(X, y))
        errors = Parallel(n_jobs=self.n_jobs)(
            delayed(_fold)(X, y, train, test, self.alphas_, options) for train, test in splits
        )
        self.mse_path_ = np.array(errors).T
        best = int(self.mse_path_.mean(axis=1).argmin())
        self.alpha_ = float(self.alphas_[best])
        self.coef_ = self.coef_path_[:, best].copy()
        self.intercept_ = float(info.intercepts[best])
        self.n_iter_ = max(int(info.n_iter[best]), 1)
        self.converged_ = bool(info.converged[best])
        loss = Loss(Products(X), y, self._family, bool(self.fit_intercept))
        self._fit_errors(loss, self.coef_, self.alpha_, gamma)
        return self

    def _penalty(self) -> float:
        return self.alpha_

    def predict(self, X: Any) -> Any:
        """X coef_ + intercept_, (n,)."""
        return self._predictor(X)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Coefficients along the path, with the chosen penalty."""
        check_is_fitted(self)
        if ax is None:
            from matplotlib.figure import Figure

            ax = Figure(layout="constrained").add_subplot()
        used = np.any(self.coef_path_ != 0, axis=1)
        ax.plot(self.alphas_, self.coef_path_[used].T)
        ax.axvline(self.alpha_, color="0.5", linestyle="--")
        ax.set_xscale("log")
        ax.set_xlabel("alpha")
        ax.set_ylabel("coefficient")
        return ax


def __dir__() -> list[str]:
    return public_names(globals())
