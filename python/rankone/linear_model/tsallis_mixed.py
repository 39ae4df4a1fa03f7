"""Linear mixed effects with q-Gaussian clusters: whole clusters can be outliers.

Cluster i: y_i = b0 + X_i b + Z_i u_i + e_i with (u_i, e_i) jointly q-Gaussian under one scale
variable, so that y_i is Student's t with nu degrees of freedom and scale V_i = Z_i D Z_i^T +
sigma^2 I. Each cluster has one weight (nu + n_i) / (nu + delta_i). Source: chapter of K. Yang's
doctoral thesis "Contributions to Robust and Efficient Methods for Analysis of High Dimensional
Data" (2025), whose text was not at hand: the model follows from maximum Tsallis entropy
(:mod:`rankone.stats.q_gaussian`), the ECME algorithm and the penalised step are derived for this
project.

All sums over clusters are sums of rows sorted by cluster; V_i enters through r x r matrices alone.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats
from scipy.optimize import minimize_scalar
from scipy.special import gammaln
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LassoCV
from sklearn.utils import check_array
from sklearn.utils.validation import check_consistent_length, check_is_fitted, validate_data

from rankone._arguments import check_number
from rankone.linear_model._nonconvex_solvers import (
    check_alpha,
    check_penalty,
    concave_gradient,
    concave_part,
    concavity,
    penalty_value,
)
from rankone.linear_model.proximal_ncg import proximal_ncg
from rankone.stats._summary import Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["TsallisMixedEffects"]

# Bounds of nu="auto": half a degree of freedom is beyond Cauchy, 200 is Gaussian to the eye.
_NU_BOUNDS = (0.5, 200.0)
_NU_START = 10.0

# Inner solver of the penalised step; each outer step starts from the last solution.
_INNER_STEPS = 200
_INNER_TOLERANCE = 1e-8

# The penalised fit starts from a Lasso chosen by cross-validation.
_PILOT_ALPHAS, _PILOT_RANGE, _PILOT_FOLDS = 20, 1e-2, 3

# The residual variance stays above this share of the variance of y.
_LEAST_SHARE = 1e-12

# Below this share the model interpolates.
_INTERPOLATING = 1e-8


@dataclass(frozen=True)
class _Clusters:
    """Rows sorted by cluster, and the sums that do not change while fitting."""

    A: np.ndarray  # (N, p + 1) with the intercept's column first, where there is one
    y: np.ndarray
    Z: np.ndarray  # (N, r)
    starts: np.ndarray
    code: np.ndarray  # cluster of each row
    sizes: np.ndarray
    ZtZ: np.ndarray  # (m, r, r)

    @classmethod
    def make(cls, A: np.ndarray, y: np.ndarray, Z: np.ndarray, code: np.ndarray) -> _Clusters:
        order = np.argsort(code, kind="stable")
        A, y, Z, code = A[order], y[order], Z[order], code[order]
        starts = np.flatnonzero(np.r_[True, code[1:] != code[:-1]])
        sizes = np.diff(np.r_[starts, len(code)])
        ZtZ = np.add.reduceat(Z[:, :, None] * Z[:, None, :], starts)
        return cls(A, y, Z, starts, code, sizes, ZtZ)

    def sums(self, rows: np.ndarray) -> np.ndarray:
        """Sums of rows (N, ...) over clusters, (m, ...)."""
        return np.add.reduceat(rows, self.starts)

    def Zt(self, rows: np.ndarray) -> np.ndarray:
        """Z_i^T rows_i: (m, r) for (N,), (m, r, k) for (N, k)."""
        if rows.ndim == 1:
            return self.sums(self.Z * rows[:, None])
        parts = [self.sums(column[:, None] * rows) for column in self.Z.T]
        return np.stack(parts, axis=1)


@dataclass(frozen=True)
class _State:
    """Parameters, and what the clusters make of them."""

    b: np.ndarray
    D: np.ndarray
    s2: float
    nu: float
    M: np.ndarray  # (m, r, r), D (s2 I + Z^T Z D)^{-1}: V^{-1} = (I - Z M Z^T) / s2
    residual: np.ndarray
    Ztr: np.ndarray
    delta: np.ndarray
    logdet: np.ndarray

    @classmethod
    def make(cls, data: _Clusters, b: np.ndarray, D: np.ndarray, s2: float, nu: float) -> _State:
        r = len(D)
        inner = s2 * np.eye(r) + data.ZtZ @ D
        M = D @ np.linalg.inv(inner)
        M = (M + M.transpose(0, 2, 1)) / 2
        residual = data.y - data.A @ b
        Ztr = data.Zt(residual)
        square = data.sums(residual**2) - np.einsum("ij,ijk,ik->i", Ztr, M, Ztr)
        logdet = (data.sizes - r) * math.log(s2) + np.linalg.slogdet(inner)[1]
        return cls(b, D, s2, nu, M, residual, Ztr, np.maximum(square, 0.0) / s2, logdet)

    def weights(self, data: _Clusters) -> np.ndarray:
        return (self.nu + data.sizes) / (self.nu + self.delta)

    def loglik(self, data: _Clusters, nu: float | None = None) -> float:
        nu = self.nu if nu is None else nu
        n = data.sizes
        terms = gammaln((nu + n) / 2) - gammaln(nu / 2) - n / 2 * math.log(nu * math.pi)
        terms = terms - self.logdet / 2 - (nu + n) / 2 * np.log1p(self.delta / nu)
        return float(terms.sum())

    def information(self, data: _Clusters, weights: np.ndarray) -> np.ndarray:
        """sum_i weights_i A_i^T V_i^{-1} A_i."""
        ZtA = data.Zt(data.A)
        whole = (data.A * weights[data.code][:, None]).T @ data.A
        inner = np.einsum("i,irk,irs,isl->kl", weights, ZtA, self.M, ZtA, optimize=True)
        return (whole - inner) / self.s2

    def whitened(self, data: _Clusters) -> tuple[np.ndarray, np.ndarray]:
        """V_i^{-1/2} A_i and V_i^{-1/2} y_i, rows as in ``data``."""
        values, vectors = np.linalg.eigh(self.D)
        W = data.Z @ (vectors * np.sqrt(np.maximum(values, 0.0)))
        WtW = data.sums(W[:, :, None] * W[:, None, :])
        lam, Q = np.linalg.eigh(WtW)
        lam = np.maximum(lam, 0.0)
        # (1 / sqrt(1 + lam / s2) - 1) / lam, in a form that is stable at lam = 0.
        root = np.sqrt(1 + lam / self.s2)
        K = np.einsum("irk,ik,isk->irs", Q, -1 / (self.s2 * root * (1 + root)), Q)

        def apply(rows: np.ndarray) -> np.ndarray:
            WtR = np.stack([data.sums(column[:, None] * rows) for column in W.T], axis=1)
            KWtR = (K @ WtR)[data.code]
            return (rows + np.einsum("nr,nrk->nk", W, KWtR)) / math.sqrt(self.s2)

        return apply(data.A), apply(data.y[:, None])[:, 0]


class TsallisMixedEffects(RegressorMixin, BaseEstimator):
    """Mixed effects regression in which outlying clusters lose their weight.

    Maximises the t likelihood of whole clusters by ECME; the observed log-likelihood (less N times
    the penalty, where there is one) never falls. With nu = "auto" the degrees of freedom are
    estimated; at nu = 10^6 the model is the Gaussian one. nu, and not q = 1 + 2 / (nu + n_i), is
    shared by clusters of different size.

    Derived for this project, see the module's head.

    Parameters:
        nu: "auto", in [0.5, 200], or a number above 0.
        penalty: None, "scad", "mcp" or "l1" on the fixed effects.
        alpha, gamma: of the penalty, as in
            :class:`rankone.linear_model.nonconvex.NonconvexRegression`.
        fit_intercept: b0, unpenalised.
        max_iter, tol: ECME steps at most, and the relative change of the log-likelihood at which
            to stop.

    Attributes:
        coef_: (p,) fixed effects; intercept_: float.
        random_cov_: (r, r), D; sigma2_: float; nu_: float.
        groups_: (m,) sorted; q_, weights_: (m,) in that order; random_effects_: (m, r).
        loglik_, loglik_path_: observed log-likelihood, after each step (less N times the penalty).
        bic_: with log N for each nonzero parameter.
        n_iter_, converged_: of the ECME steps.

    Example:
        >>> import numpy as np
        >>> from rankone.linear_model.tsallis_mixed import TsallisMixedEffects
        >>> rng = np.random.default_rng(0)
        >>> groups = np.repeat(np.arange(30), 6)
        >>> X = rng.standard_normal((180, 2))
        >>> y = X @ [1.0, -2.0] + rng.standard_normal(30)[groups] + rng.standard_normal(180)
        >>> y[groups == 7] += 100
        >>> model = TsallisMixedEffects().fit(X, y, groups)
        >>> model.outlying_groups().tolist(), bool(abs(model.coef_[1] + 2) < 0.2)
        ([7], True)
    """

    def __init__(
        self,
        *,
        nu: float | str = "auto",
        penalty: str | None = None,
        alpha: float = 0.0,
        gamma: float | None = None,
        fit_intercept: bool = True,
        max_iter: int = 500,
        tol: float = 1e-9,
    ) -> None:
        self.nu = nu
        self.penalty = penalty
        self.alpha = alpha
        self.gamma = gamma
        self.fit_intercept = fit_intercept
        self.max_iter = max_iter
        self.tol = tol

    def fit(self, X: Any, y: Any, groups: Any = None, Z: Any = None) -> TsallisMixedEffects:
        """Fit to rows in clusters.

        Args:
            X: (N, p) design of the fixed effects.
            y: (N,) responses.
            groups: (N,) labels of the clusters, at least two of them.
            Z: (N, r) design of the random effects; None is a random intercept.

        Raises:
            ValueError: for missing groups, lengths that differ, NaN, a singular design without a
                penalty, or parameters out of range.
        """
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True, ensure_min_samples=2)
        y = y.astype(np.float64)
        if groups is None:
            raise ValueError("groups must be given: the label of each row's cluster")
        gamma = math.inf
        if self.penalty is not None:
            gamma = check_penalty(self.penalty, self.gamma)
        alpha = check_alpha(self.alpha)
        if self.penalty is None and alpha > 0:
            raise ValueError(f"alpha must be 0 without a penalty, got {alpha!r}")
        if isinstance(self.nu, str):
            if self.nu != "auto":
                raise ValueError(f"nu must be 'auto' or a number, got {self.nu!r}")
        else:
            check_number("nu", self.nu)
            if not (math.isfinite(self.nu) and self.nu > 0):
                raise ValueError(f"nu must be finite and above 0, got {self.nu!r}")
        max_iter = self.max_iter
        if isinstance(max_iter, bool) or not isinstance(max_iter, int | np.integer) or max_iter < 1:
            raise ValueError(f"max_iter must be an integer of at least 1, got {max_iter!r}")
        check_number("tol", self.tol)
        if not (math.isfinite(self.tol) and self.tol > 0):
            raise ValueError(f"tol must be finite and above 0, got {self.tol!r}")
        labels, code = self._codes(groups, len(y))
        Z = self._random_design(Z, len(y))
        lead = int(bool(self.fit_intercept))
        A = np.column_stack([np.ones(len(y)), X]) if lead else X
        if self.penalty is None:
            self._check_rank(A)
        data = _Clusters.make(A, y, Z, code)
        state, path, converged = self._ecme(data, alpha, gamma, lead)
        if not converged:
            warnings.warn(
                f"max_iter = {max_iter} steps did not reach tol; raise one of them",
                ConvergenceWarning,
                stacklevel=2,
            )
        if state.s2 < _INTERPOLATING * float(y.var()):
            warnings.warn(
                "sigma2_ went to zero: the model interpolates y and its likelihood has no bound; "
                "raise alpha or fix nu",
                RuntimeWarning,
                stacklevel=2,
            )
        self._keep(data, state, path, labels, lead)
        self.n_iter_, self.converged_ = len(path), converged
        return self

    @staticmethod
    def _codes(groups: Any, n: int) -> tuple[np.ndarray, np.ndarray]:
        groups = np.asarray(groups)
        if groups.shape != (n,):
            raise ValueError(f"groups must have shape ({n},), got {groups.shape}")
        if pd.isna(groups).any():
            raise ValueError("groups must not hold missing labels")
        labels, code = np.unique(groups, return_inverse=True)
        if len(labels) < 2:
            raise ValueError("groups must hold at least two clusters, got one")
        return labels, code

    @staticmethod
    def _random_design(Z: Any, n: int) -> np.ndarray:
        if Z is None:
            return np.ones((n, 1))
        Z = check_array(Z, dtype=np.float64, input_name="Z")
        if len(Z) != n:
            raise ValueError(f"Z must have {n} rows, got {len(Z)}")
        return Z

    @staticmethod
    def _check_rank(A: np.ndarray) -> None:
        n, k = A.shape
        scale = np.linalg.norm(A, axis=0)
        rank = np.linalg.matrix_rank(A / np.where(scale > 0, scale, 1.0)) if n >= k else n
        if rank < k:
            raise ValueError(
                f"X (with the intercept) must have full column rank {k}, got {rank}: drop "
                "columns or give a penalty"
            )

    def _ecme(
        self, data: _Clusters, alpha: float, gamma: float, lead: int
    ) -> tuple[_State, list[float], bool]:
        N, r = data.Z.shape
        variance = float(data.y.var())
        floor = max(variance * _LEAST_SHARE, np.finfo(np.float64).tiny ** 0.5)
        nu = _NU_START if isinstance(self.nu, str) else float(self.nu)
        b = np.zeros(data.A.shape[1])
        spread = variance
        if self.penalty is None:
            b = np.linalg.lstsq(data.A, data.y, rcond=None)[0]
            spread = float(np.mean((data.y - data.A @ b) ** 2))
        else:
            # From zero the scale would hold all of the signal, and a penalty in units of the scale
            # would never let it go.
            pilot = LassoCV(
                alphas=_PILOT_ALPHAS, eps=_PILOT_RANGE, cv=_PILOT_FOLDS, fit_intercept=bool(lead)
            ).fit(data.A[:, lead:], data.y)
            b[lead:] = pilot.coef_
            b[:lead] = pilot.intercept_
            spread = float(np.mean((data.y - data.A @ b) ** 2))
        spread = max(spread, 2 * floor)
        D = np.eye(r) * spread / 2 / max(float(np.mean(data.Z**2)) * r, floor)
        state = _State.make(data, b, D, spread / 2, nu)
        path: list[float] = []
        converged = False
        for _ in range(self.max_iter):
            b = self._fixed_effects(data, state, alpha, gamma, lead)
            state = _State.make(data, b, state.D, state.s2, state.nu)
            w = state.weights(data)
            u = np.einsum("irs,is->ir", state.M, state.Ztr)
            D = np.mean(
                w[:, None, None] * u[:, :, None] * u[:, None, :] + state.s2 * state.M, axis=0
            )
            rest = state.residual - np.einsum("nr,nr->n", data.Z, u[data.code])
            shrunk = np.einsum("irs,irs->", state.M, data.ZtZ)
            s2 = (float(w[data.code] @ rest**2) + state.s2 * float(shrunk)) / N
            state = _State.make(data, b, (D + D.T) / 2, max(s2, floor), state.nu)
            if isinstance(self.nu, str):
                state = _State.make(data, b, state.D, state.s2, self._best_nu(data, state))
            value = state.loglik(data)
            if self.penalty is not None and alpha > 0:
                value -= N * penalty_value(
                    state.b[lead:], alpha, self.penalty, self._gamma_or_none(gamma)
                )
            path.append(value)
            if len(path) > 1 and abs(value - path[-2]) <= self.tol * max(abs(value), 1.0):
                converged = True
                break
        return state, path, converged

    @staticmethod
    def _gamma_or_none(gamma: float) -> float | None:
        return gamma if math.isfinite(gamma) else None

    @staticmethod
    def _best_nu(data: _Clusters, state: _State) -> float:
        low, high = (math.log(bound) for bound in _NU_BOUNDS)
        result = minimize_scalar(
            lambda log_nu: -state.loglik(data, math.exp(log_nu)),
            bounds=(low, high),
            method="bounded",
            options={"xatol": 1e-8},
        )
        # The search never tries its ends, and may miss a value better than its own.
        candidates = [math.exp(float(result.x)), state.nu, *_NU_BOUNDS]
        return max(candidates, key=lambda nu: state.loglik(data, nu))

    def _fixed_effects(
        self, data: _Clusters, state: _State, alpha: float, gamma: float, lead: int
    ) -> np.ndarray:
        w = state.weights(data)
        if self.penalty is None:
            information = state.information(data, w)
            weighted = w[data.code] * data.y
            Zty = data.Zt(data.y)
            inner = np.einsum("i,irk,irs,is->k", w, data.Zt(data.A), state.M, Zty, optimize=True)
            return np.linalg.solve(information, (data.A.T @ weighted - inner) / state.s2)
        A, y = state.whitened(data)
        N, nu, n = len(y), state.nu, data.sizes
        penalty = self.penalty

        def fun(b: np.ndarray) -> float:
            delta = data.sums((y - A @ b) ** 2)
            loss = float(((nu + n) / 2 * np.log1p(delta / nu)).sum()) / N
            return loss + float(concave_part(b[lead:], alpha, penalty, gamma).sum())

        def grad(b: np.ndarray) -> np.ndarray:
            rest = y - A @ b
            factor = (nu + n) / (nu + data.sums(rest**2))
            gradient = -(A.T @ (factor[data.code] * rest)) / N
            gradient[lead:] += concave_gradient(b[lead:], alpha, penalty, gamma)
            return gradient

        top = float(np.linalg.norm(A, 2)) ** 2
        lipschitz = max(top * (nu + float(n.max())) / (N * nu), concavity(penalty, gamma))
        l1 = np.full(A.shape[1], alpha)
        l1[:lead] = 0.0
        return proximal_ncg(
            fun,
            grad,
            state.b,
            l1,
            lipschitz=lipschitz,
            max_iter=_INNER_STEPS,
            tol=_INNER_TOLERANCE,
        ).x

    def _keep(
        self, data: _Clusters, state: _State, path: list[float], labels: np.ndarray, lead: int
    ) -> None:
        self.intercept_ = float(state.b[0]) if lead else 0.0
        self.coef_ = state.b[lead:].copy()
        self.random_cov_, self.sigma2_, self.nu_ = state.D, state.s2, state.nu
        self.groups_ = labels
        self.q_ = 1 + 2 / (state.nu + data.sizes)
        self.weights_ = state.weights(data)
        self.random_effects_ = np.einsum("irs,is->ir", state.M, state.Ztr)
        self.loglik_path_ = np.array(path)
        self.loglik_ = state.loglik(data)
        r = len(state.D)
        free = np.count_nonzero(self.coef_) + lead + r * (r + 1) // 2 + 1
        free += int(isinstance(self.nu, str))
        self.bic_ = -2 * self.loglik_ + free * math.log(len(data.y))
        self._sizes, self._delta = data.sizes, state.delta
        used = np.flatnonzero(np.r_[np.ones(lead, dtype=bool), self.coef_ != 0])
        share = (state.nu + data.sizes) / (state.nu + data.sizes + 2)
        information = state.information(data, share)[np.ix_(used, used)]
        try:
            covariance = np.linalg.inv(information)
        except np.linalg.LinAlgError:
            covariance = np.full_like(information, np.nan)
        self._used, self._lead = used, lead
        self._errors = np.sqrt(np.maximum(np.diag(covariance), 0.0))
        self._rows = len(data.y)

    def predict(self, X: Any, groups: Any = None, Z: Any = None) -> np.ndarray:
        """Fixed effects, plus the random effects of known groups where ``groups`` is given.

        Args:
            X: (n, p).
            groups: (n,) labels; new ones get no random effect. None predicts a new cluster.
            Z: (n, r); None is a random intercept.

        Returns:
            (n,).

        Raises:
            ValueError: for shapes that do not fit.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        fixed = X @ self.coef_ + self.intercept_
        if groups is None:
            return fixed
        groups = np.asarray(groups)
        check_consistent_length(X, groups)
        Z = self._random_design(Z, len(X))
        if Z.shape[1] != self.random_effects_.shape[1]:
            raise ValueError(
                f"Z must have {self.random_effects_.shape[1]} columns, got {Z.shape[1]}"
            )
        at = np.minimum(np.searchsorted(self.groups_, groups), len(self.groups_) - 1)
        known = self.groups_[at] == groups
        return fixed + np.where(known, np.einsum("nr,nr->n", Z, self.random_effects_[at]), 0.0)

    def outlying_groups(self, level: float = 0.01) -> np.ndarray:
        """Labels of the clusters whose delta_i / n_i is beyond the F(n_i, nu) law at ``level``.

        Raises:
            ValueError: for a level outside (0, 1).
        """
        check_is_fitted(self)
        if not 0 < level < 1:
            raise ValueError(f"level must lie strictly between 0 and 1, got {level!r}")
        tail = stats.f.sf(self._delta / self._sizes, self._sizes, self.nu_)
        return self.groups_[tail < level]

    def summary(self, *, level: float = 0.95) -> Summary:
        """Fixed effects with standard errors and intervals from the expected information.

        For the location of a t the information is sum_i (nu + n_i) / (nu + n_i + 2) X_i^T V_i^{-1}
        X_i (Lange, Little and Taylor 1989). Under a penalty it covers the selected effects, as if
        the selection had been known.
        """
        check_is_fitted(self)
        if not 0 < level < 1:
            raise ValueError(f"level must lie strictly between 0 and 1, got {level!r}")
        names = getattr(self, "feature_names_in_", np.arange(self.n_features_in_))
        every = np.r_[["intercept"] * self._lead, np.asarray(names).astype(str)]
        estimates = np.r_[[self.intercept_] * self._lead, self.coef_][self._used]
        reach = stats.norm.ppf(0.5 + level / 2)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.abs(estimates / self._errors)
        frame = pd.DataFrame(
            {
                "estimate": estimates,
                "std_error": self._errors,
                "lower": estimates - reach * self._errors,
                "upper": estimates + reach * self._errors,
                "p_value": 2 * stats.norm.sf(ratio),
            },
            index=pd.Index(every[self._used], name="effect"),
        )
        notes = [
            f"nu {self.nu_:.4g}, sigma^2 {self.sigma2_:.4g}, random effects' scale "
            f"{np.array2string(np.diag(self.random_cov_), precision=4)} on the diagonal.",
            f"Log-likelihood {self.loglik_:.6g}, BIC {self.bic_:.6g}; smallest cluster weight "
            f"{self.weights_.min():.3g}.",
            f"{100 * level:g} % intervals from the expected information.",
        ]
        if self.penalty is not None:
            notes.append("Selected effects only, as if the selection had been known.")
        return Summary(
            f"Tsallis mixed effects, {self._rows} rows in {len(self.groups_)} clusters",
            frame,
            tuple(notes),
        )

    def plot(self, ax: Axes | None = None, *, level: float = 0.01) -> Axes:
        """Cluster weights against delta_i / n_i, outlying clusters named."""
        outlying = set(self.outlying_groups(level).tolist())
        if ax is None:
            from matplotlib.figure import Figure

            ax = Figure(layout="constrained").add_subplot()
        ratio = self._delta / self._sizes
        ax.plot(ratio, self.weights_, "o")
        for label, x, y in zip(self.groups_.tolist(), ratio, self.weights_, strict=True):
            if label in outlying:
                ax.annotate(str(label), (x, y), textcoords="offset points", xytext=(3, 3))
        ax.set_xscale("log")
        ax.set_xlabel("squared distance over cluster size")
        ax.set_ylabel("cluster weight")
        return ax
