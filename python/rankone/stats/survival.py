"""Adapted power generalized Weibull survival regression (arXiv 1901.03212).

One distribution whose shape kappa runs through the log-logistic, Weibull, Gompertz and cure
families, with covariates on its time scale (accelerated failure time), on its hazard scale
(proportional hazards) or on both, and on its power shape, which lets hazards cross.

From the paper: the distribution and its regression. Chosen for this library: log links, the fixed
time scale of the proportional-hazards form (1 / median, so that the unit of time does not matter)
and the ladder of starts that keeps nested models comparable (:mod:`rankone.stats._apgw_fit`).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted, validate_data

from rankone._arguments import check_integer, check_number
from rankone._namespace import public_names
from rankone.stats._apgw import APGW, LOG_KAPPA1_LIMITS
from rankone.stats._apgw_fit import (
    Component,
    Data,
    Model,
    Solution,
    fit,
    information,
    log_cumulative_hazard_parts,
)

__all__ = ["APGW", "APGWRegressor", "compare_apgw", "survival_target"]

Columns = bool | Sequence[str | int]

_CONVERGED = 1e-5  # largest entry of the mean score
_FLAT = 1e10  # condition number of the information above which a direction counts as flat


def survival_target(time: ArrayLike, event: ArrayLike) -> NDArray:
    """Times and event indicators as one structured array, scikit-survival's convention.

    Args:
        time: (n,) observed times, above 0 and finite.
        event: (n,) True where the event was observed, False where the time is censored.

    Returns:
        (n,) with fields ``event`` (bool) and ``time`` (float64).

    Raises:
        ValueError: for other shapes, times that are not positive and finite, or events other than
            0 and 1.

    Example:
        >>> from rankone.stats.survival import survival_target
        >>> survival_target([2.0, 3.0], [1, 0])["event"].tolist()
        [True, False]
    """
    time, event = np.asarray(time, dtype=np.float64), np.asarray(event)
    if time.ndim != 1 or event.shape != time.shape:
        raise ValueError(
            f"time and event must have the same shape (n,), got {time.shape} and {event.shape}"
        )
    _check_times(time)
    if not np.isin(event, (0, 1)).all():
        raise ValueError("event must hold True and False, or 1 and 0")
    target = np.empty(len(time), dtype=[("event", bool), ("time", np.float64)])
    target["event"], target["time"] = event.astype(bool), time
    return target


class APGWRegressor(BaseEstimator):
    """Maximum-likelihood regression with the :class:`APGW` distribution.

    Args:
        scale: ``"aft"``, covariates in phi with lambda = 1; ``"ph"``, covariates in lambda with
            phi fixed; ``"both"``, two scales, which is nearly redundant and not identified where
            kappa = 1.
        scale_covariates: True (all columns), False, a list of names or indices, or for
            ``scale="both"`` a dict with entries ``"phi"`` and ``"lambda"`` of these.
        shape_covariates: the same for gamma; they give hazards that cross.
        kappa_covariates: the same for kappa + 1.
        gamma, kappa: fix a shape at this value, without covariates; kappa = 1 is Weibull,
            kappa = 0 log-logistic. None estimates it.
        phi: time scale that ``"ph"`` fixes: ``"median"`` (1 / median of the observed times) or a
            number in 1 / unit of time.
        max_iter: iterations of each climb.
        tol: largest entry of the mean score at which a climb ends.
        random_state: unused, the fit has no random part; taken for the sake of one interface.

    Attributes:
        coef_: dict of the free components among ``log_phi``, ``log_lambda``, ``log_gamma`` and
            ``log_kappa1`` (= log(kappa + 1)): (1 + columns,), the intercept first, original units.
        covariance_: inverse of the observed information, in the order of ``coef_``.
        log_likelihood_, aic_, bic_, n_parameters_: of the fit; bic uses log n.
        kappa_: kappa; None where it depends on covariates.
        phi_fixed_: the fixed time scale of ``"ph"``, else None.
        converged_: whether the mean score is below 1e-5.
        n_samples_, n_events_, n_features_in_, feature_names_in_: of the data.

    Source: "A Flexible Parametric Modelling Framework for Survival Analysis", arXiv 1901.03212.

    Example:
        >>> import numpy as np
        >>> from rankone.stats.survival import APGW, APGWRegressor, survival_target
        >>> x = np.arange(4000) % 2
        >>> times = APGW(phi=np.exp(0.5 * x)).rvs(random_state=0)
        >>> model = APGWRegressor(kappa=1.0, shape_covariates=False)
        >>> y = survival_target(times, np.ones(4000))
        >>> model.fit(x[:, None], y).coef_["log_phi"].round(1)
        array([0. , 0.5])
    """

    def __init__(
        self,
        scale: str = "aft",
        scale_covariates: Columns | Mapping[str, Columns] = True,
        shape_covariates: Columns = True,
        kappa_covariates: Columns = False,
        gamma: float | None = None,
        kappa: float | None = None,
        phi: str | float = "median",
        max_iter: int = 500,
        tol: float = 1e-6,
        random_state: int | None = None,
    ) -> None:
        self.scale = scale
        self.scale_covariates = scale_covariates
        self.shape_covariates = shape_covariates
        self.kappa_covariates = kappa_covariates
        self.gamma = gamma
        self.kappa = kappa
        self.phi = phi
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state

    def fit(self, X: Any, y: NDArray, entry: ArrayLike | None = None) -> APGWRegressor:
        """Fit to times that may be right-censored and left-truncated.

        Args:
            X: (n, p) frame or array without an intercept; p may be 0.
            y: (n,) structured array, first field the event, second the time, as
                :func:`survival_target` makes it.
            entry: (n,) times of at least 0 before which a subject could not have been observed to
                fail; None means 0.

        Returns:
            self.

        Raises:
            ValueError: for times that are not positive and finite, no event, entries not before
                the times, X that is not finite or has constant columns in use, unknown scales or
                columns.

        Warns:
            UserWarning: where the information is (nearly) singular, naming the two parameters of
                the flat direction, and where kappa ran to its upper limit.
        """
        check_integer("max_iter", self.max_iter)
        check_number("tol", self.tol)
        X = self._features(X, reset=True)
        event, time = _split_target(y, len(X))
        if not event.any():
            raise ValueError("y must hold at least one event, got censored times only")
        entries = _checked_entries(entry, time)
        median = float(np.median(time))
        model = self._model(X.shape[1], median)
        used = sorted({c for component in model.components for c in component.columns})
        mean, deviation = X.mean(axis=0), X.std(axis=0)
        names = self._names(X.shape[1])
        constant = [names[c] for c in used if not deviation[c] > 1e-12 * (1 + abs(mean[c]))]
        if constant:
            raise ValueError(f"X must vary in every column in use, got constant columns {constant}")
        deviation[~(deviation > 0)] = 1.0
        late = np.flatnonzero(entries > 0)
        data = Data(
            X=torch.tensor((X - mean) / deviation),
            log_time=torch.tensor(np.log(time / median)),
            event=torch.tensor(event),
            late=torch.tensor(late),
            log_entry=torch.tensor(np.log(entries[late] / median)),
        )
        solution = fit(model, data, max_iter=self.max_iter, tol=self.tol)
        self._model_ = model
        self.n_samples_, self.n_events_ = len(X), int(event.sum())
        self.phi_fixed_ = (
            math.exp(float(model.components[0].fixed or 0.0)) / median
            if self.scale == "ph"
            else None
        )
        self._unscale(solution, data, mean, deviation, median)
        self.log_likelihood_ = solution.log_likelihood - self.n_events_ * math.log(median)
        self.n_parameters_ = model.size
        self.aic_ = 2 * model.size - 2 * self.log_likelihood_
        self.bic_ = model.size * math.log(len(X)) - 2 * self.log_likelihood_
        self.converged_ = bool(np.abs(solution.score).max(initial=0.0) < _CONVERGED)
        shape = model.components[3]
        if shape.fixed is not None:
            self.kappa_: float | None = math.expm1(shape.fixed)
        elif shape.columns:
            self.kappa_ = None
        else:
            self.kappa_ = math.expm1(np.clip(self.coef_["log_kappa1"][0], *LOG_KAPPA1_LIMITS))
        return self

    def _features(self, X: Any, *, reset: bool) -> NDArray:
        width = X.shape[1] if getattr(X, "ndim", 2) == 2 and hasattr(X, "shape") else None
        if width == 0:  # intercepts only; scikit-learn's validation refuses no column at all
            if reset:
                self.n_features_in_ = 0
            return np.empty((len(X), 0))
        return validate_data(self, X, dtype=np.float64, reset=reset)

    def _names(self, count: int) -> list[Any]:
        return list(getattr(self, "feature_names_in_", range(count)))

    def _columns(self, given: Any, count: int, argument: str) -> tuple[int, ...]:
        """Indices of the columns that an argument names."""
        if given is True:
            return tuple(range(count))
        if given is False or given is None:
            return ()
        if isinstance(given, str) or not isinstance(given, Sequence | np.ndarray):
            raise ValueError(f"{argument} must be True, False or a list of columns, got {given!r}")
        names = self._names(count)
        found = []
        for column in given:
            if isinstance(column, str):
                if column not in names:
                    raise ValueError(f"{argument} must name columns of X, got {column!r}")
                found.append(names.index(column))
            elif 0 <= column < count:
                found.append(int(column))
            else:
                raise ValueError(
                    f"{argument} must hold names or indices below {count}, got {column!r}"
                )
        return tuple(dict.fromkeys(found))

    def _model(self, count: int, median: float) -> Model:
        if self.scale not in ("aft", "ph", "both"):
            raise ValueError(f"scale must be 'aft', 'ph' or 'both', got {self.scale!r}")
        for name, least in (("gamma", 0), ("kappa", -1)):
            value = getattr(self, name)
            if value is None:
                continue
            check_number(name, value)
            if not (math.isfinite(value) and value > least):
                raise ValueError(f"{name} must be finite and above {least}, got {value}")
        given = self.scale_covariates
        if isinstance(given, Mapping):
            if self.scale != "both" or not set(given) <= {"phi", "lambda"}:
                raise ValueError(
                    "scale_covariates may be a dict with entries 'phi' and 'lambda' for "
                    f"scale='both' only, got {given!r} for scale={self.scale!r}"
                )
            wanted = {name: given.get(name, False) for name in ("phi", "lambda")}
        else:
            wanted = {"phi": given, "lambda": given}
        columns = {
            name: self._columns(value, count, "scale_covariates") for name, value in wanted.items()
        }
        phi = Component(columns["phi"])
        lam = Component(columns["lambda"])
        if self.scale == "aft":
            lam = Component(fixed=0.0)
        elif self.scale == "ph":
            phi = Component(fixed=self._fixed_log_phi(median))
        shapes = []
        for name, value, given in (
            ("shape_covariates", self.gamma, self.shape_covariates),
            ("kappa_covariates", self.kappa, self.kappa_covariates),
        ):
            if value is None:
                shapes.append(Component(self._columns(given, count, name)))
            else:
                log = math.log(value) if name == "shape_covariates" else math.log1p(value)
                shapes.append(Component(fixed=log))
        return Model((phi, lam, *shapes))  # type: ignore[arg-type]

    def _fixed_log_phi(self, median: float) -> float:
        """In units of the median time."""
        if self.phi == "median":
            return 0.0
        if isinstance(self.phi, str) or not (math.isfinite(self.phi) and self.phi > 0):
            raise ValueError(f"phi must be 'median' or a number above 0, got {self.phi!r}")
        return math.log(self.phi * median)

    def _unscale(
        self, solution: Solution, data: Data, mean: NDArray, deviation: NDArray, median: float
    ) -> None:
        """Coefficients and covariance in original units; both follow one affine map."""
        model, theta = solution.model, solution.theta
        transform = np.eye(model.size)
        shift = np.zeros(model.size)
        for name, component, place in model.slices():
            if component.fixed is not None:
                continue
            columns = list(component.columns)
            first = place.start
            for k, column in enumerate(columns, start=first + 1):
                transform[k, k] = 1 / deviation[column]
                transform[first, k] = -mean[column] / deviation[column]
            if name == "log_phi":
                shift[first] = -math.log(median)
        self._theta = transform @ theta + shift
        matrix = information(solution, data)
        self._check_information(solution, matrix)
        self.covariance_ = transform @ np.linalg.pinv(matrix, hermitian=True) @ transform.T
        self.coef_ = {
            name: self._theta[place].copy()
            for name, component, place in model.slices()
            if component.fixed is None
        }

    def _terms(self) -> list[tuple[str, str]]:
        """(component, term) of every parameter."""
        names = self._names(self.n_features_in_)
        return [
            (name, term)
            for name, component, _ in self._model_.slices()
            if component.fixed is None
            for term in ("intercept", *(str(names[c]) for c in component.columns))
        ]

    def _check_information(self, solution: Solution, matrix: NDArray) -> None:
        model = solution.model
        keep = np.ones(model.size, dtype=bool)
        for name, component, place in model.slices():
            alone = name == "log_kappa1" and component.size == 1
            if alone and solution.theta[place][0] >= LOG_KAPPA1_LIMITS[1] - 1e-6:
                keep[place] = False
                warnings.warn(
                    "kappa ran to its upper limit: Gompertz limit; its coefficient has no standard "
                    "error",
                    UserWarning,
                    stacklevel=5,
                )
        if not keep.any():
            return
        values, vectors = np.linalg.eigh(matrix[np.ix_(keep, keep)])
        if values[0] <= 0 or values[-1] > _FLAT * values[0]:
            terms = [term for term, kept in zip(self._terms(), keep, strict=True) if kept]
            flat = np.argsort(-np.abs(vectors[:, 0]))[:2]
            pair = " and ".join(f"{terms[i][0]}[{terms[i][1]}]" for i in flat)
            warnings.warn(
                f"the information is nearly singular along {pair}: the data do not tell them "
                "apart; fix one of them or drop a covariate",
                UserWarning,
                stacklevel=5,
            )

    def _distribution(self, X: Any) -> APGW:
        """The fitted distribution of every row, parameters (n, 1)."""
        check_is_fitted(self)
        X = self._features(X, reset=False)
        log_phi, log_lambda, log_gamma, log_kappa1 = (
            np.broadcast_to(part, len(X))[:, None] for part in self._predictors(X)
        )
        kappa = np.expm1(np.clip(log_kappa1, *LOG_KAPPA1_LIMITS))
        return APGW(np.exp(log_phi), np.exp(log_lambda), np.exp(log_gamma), kappa)

    def _predictors(self, X: NDArray) -> list[NDArray]:
        found = []
        for name, component, place in self._model_.slices():
            if component.fixed is None:
                own = self._theta[place]
                found.append(own[0] + X[:, list(component.columns)] @ own[1:])
            elif name == "log_phi":
                found.append(np.array(math.log(self.phi_fixed_ or 1.0)))
            else:
                found.append(np.array(component.fixed))
        return found

    def predict_survival_function(self, X: Any, times: ArrayLike) -> NDArray:
        """S(t) of every row: X (n, p), times (m,) of at least 0; returns (n, m)."""
        return self._distribution(X).sf(_checked_grid(times))

    def predict_cumulative_hazard(self, X: Any, times: ArrayLike) -> NDArray:
        """H(t) of every row: X (n, p), times (m,) of at least 0; returns (n, m)."""
        return self._distribution(X).cumulative_hazard(_checked_grid(times))

    def predict_hazard(self, X: Any, times: ArrayLike) -> NDArray:
        """h(t) of every row: X (n, p), times (m,) of at least 0; returns (n, m)."""
        return self._distribution(X).hazard(_checked_grid(times))

    def predict_quantile(self, X: Any, q: float = 0.5) -> NDArray:
        """Time by which a share ``q`` of subjects like each row has failed: (n,); inf if never."""
        return self._distribution(X).ppf(q)[:, 0]

    def predict_cure_probability(self, X: Any) -> NDArray:
        """Share of subjects like each row that never fails: (n,); 0 unless kappa < 0."""
        return self._distribution(X).cure_probability()[:, 0]

    def hazard_ratio(self, x1: ArrayLike, x0: ArrayLike, times: ArrayLike) -> NDArray:
        """h(t | x1) / h(t | x0) for covariates (p,) each at times (m,); returns (m,)."""
        above, below = (self._distribution(self._row(x)) for x in (x1, x0))
        grid = _checked_grid(times)
        return np.exp(above.log_hazard(grid) - below.log_hazard(grid))[0]

    def time_ratio(self, x1: ArrayLike, x0: ArrayLike, q: float = 0.5) -> float:
        """Ratio of the q-quantiles of time; the same for every q in a pure AFT model."""
        above, below = (self.predict_quantile(self._row(x), q)[0] for x in (x1, x0))
        return float(above / below)

    def _row(self, x: ArrayLike) -> Any:
        row = np.asarray(x, dtype=np.float64).reshape(1, -1)
        names = getattr(self, "feature_names_in_", None)
        return row if names is None else pd.DataFrame(row, columns=names)

    def survival_band(
        self, X: Any, times: ArrayLike, alpha: float = 0.05
    ) -> tuple[NDArray, NDArray]:
        """Pointwise confidence band of S(t) by the delta method on log(-log S).

        Args:
            X: (n, p).
            times: (m,) above 0.
            alpha: one less the coverage, in (0, 1).

        Returns:
            Lower and upper bounds, each (n, m).

        Raises:
            ValueError: for arguments outside those.
        """
        check_is_fitted(self)
        if not 0 < alpha < 1:
            raise ValueError(f"alpha must lie in (0, 1), got {alpha}")
        grid = _checked_grid(times)
        if not (grid > 0).all():
            raise ValueError("times must be above 0 for a band")
        X = self._features(X, reset=False)
        rows, log_grid = torch.tensor(X), torch.tensor(np.log(grid))

        def log_hazard_of(theta: torch.Tensor) -> torch.Tensor:
            parts = []
            for name, component, place in self._model_.slices():
                if component.fixed is None:
                    own = theta[place]
                    part = own[0] + rows[:, list(component.columns)] @ own[1:]
                else:
                    known = math.log(self.phi_fixed_ or 1) if name == "log_phi" else component.fixed
                    part = torch.full((len(rows),), float(known), dtype=torch.float64)
                parts.append(part[:, None])
            parts[3] = parts[3].clamp(*LOG_KAPPA1_LIMITS)
            return log_cumulative_hazard_parts(parts, log_grid)[2].log()

        theta = torch.tensor(self._theta)
        center = log_hazard_of(theta).numpy()
        slopes = torch.autograd.functional.jacobian(log_hazard_of, theta, vectorize=True).numpy()
        variance = np.einsum("nmi,ij,nmj->nm", slopes, self.covariance_, slopes)
        half = stats.norm.isf(alpha / 2) * np.sqrt(np.maximum(variance, 0))
        return np.exp(-np.exp(center + half)), np.exp(-np.exp(center - half))

    def score(self, X: Any, y: NDArray) -> float:
        """Harrell's concordance of the predicted median with the observed times.

        Rows whose median is infinite count as later than all others, by their cure probability and
        then by their time scale.
        """
        distribution = self._distribution(X)
        event, time = _split_target(y, len(distribution.phi))
        median = distribution.median()[:, 0]
        cured = np.isposinf(median)
        keys = np.stack(
            (
                np.where(cured, np.inf, median),
                np.where(cured, distribution.cure_probability()[:, 0], 0.0),
                np.where(cured, -np.log(distribution.phi[:, 0]), 0.0),
            ),
            axis=1,
        )
        _, rank = np.unique(keys, axis=0, return_inverse=True)
        return _concordance(time, event, rank.ravel())

    def summary(self) -> pd.DataFrame:
        """Coefficients with Wald tests and 95 % intervals.

        Returns:
            A frame with a row a parameter: component, term, coef, se, z, p, lower, upper.
        """
        check_is_fitted(self)
        terms = self._terms()
        coef = self._theta
        se = np.sqrt(np.maximum(np.diag(self.covariance_), 0))
        with np.errstate(divide="ignore", invalid="ignore"):
            z = coef / se
        half = stats.norm.isf(0.025) * se
        return pd.DataFrame(
            {
                "component": [component for component, _ in terms],
                "term": [term for _, term in terms],
                "coef": coef,
                "se": se,
                "z": z,
                "p": 2 * stats.norm.sf(np.abs(z)),
                "lower": coef - half,
                "upper": coef + half,
            }
        )

    def likelihood_ratio_test(self, other: APGWRegressor) -> tuple[float, int, float]:
        """Test the smaller of two nested models against the larger.

        Args:
            other: fitted to the same data; either may be the smaller model.

        Returns:
            Statistic, degrees of freedom and p-value.

        Raises:
            ValueError: for models that are not nested, or data of another size.
        """
        check_is_fitted(self)
        check_is_fitted(other)
        sizes = [(m.n_samples_, m.n_events_) for m in (self, other)]
        if sizes[0] != sizes[1]:
            raise ValueError(
                "other must be fitted to the same data, got "
                f"{sizes[1]} and not {sizes[0]} (rows, events)"
            )
        large, small = sorted((self, other), key=lambda m: -m.n_parameters_)
        freedom = large.n_parameters_ - small.n_parameters_
        if freedom == 0 or not large._model_.nests(small._model_):
            raise ValueError("other must be nested in this model, or this model in it")
        statistic = max(0.0, 2 * (large.log_likelihood_ - small.log_likelihood_))
        return statistic, freedom, float(stats.chi2.sf(statistic, freedom))


def compare_apgw(X: Any, y: NDArray, *, criterion: str = "aic") -> pd.DataFrame:
    """Fit the main forms of the regression and rank them.

    Args:
        X: (n, p) frame or array; every form uses all columns.
        y: (n,) structured array as :func:`survival_target` makes it.
        criterion: ``"aic"`` or ``"bic"``.

    Returns:
        A frame indexed by form (base, aft, ph, aft+shape, ph+shape, both, both+shape,
        aft+shape+kappa), best first: log_likelihood, n_parameters, aic, bic, kappa (NaN where it
        depends on covariates) and converged.

    Raises:
        ValueError: for another criterion, or as :meth:`APGWRegressor.fit`.

    Source: arXiv 1901.03212.

    Example:
        >>> import numpy as np
        >>> from rankone.stats.survival import APGW, compare_apgw, survival_target
        >>> times = APGW().rvs(60, random_state=0)
        >>> table = compare_apgw(np.arange(60.0)[:, None], survival_target(times, np.ones(60)))
        >>> len(table), bool(table["aic"].is_monotonic_increasing)
        (8, True)
    """
    if criterion not in ("aic", "bic"):
        raise ValueError(f"criterion must be 'aic' or 'bic', got {criterion!r}")
    forms: dict[str, dict[str, Any]] = {
        "base": {"scale_covariates": False, "shape_covariates": False},
        "aft": {"shape_covariates": False},
        "ph": {"scale": "ph", "shape_covariates": False},
        "aft+shape": {},
        "ph+shape": {"scale": "ph"},
        "both": {"scale": "both", "shape_covariates": False},
        "both+shape": {"scale": "both"},
        "aft+shape+kappa": {"kappa_covariates": True},
    }
    rows = {}
    for name, options in forms.items():
        with warnings.catch_warnings():
            # Two scales are often nearly redundant; no standard error of theirs is shown here.
            warnings.simplefilter("ignore", UserWarning)
            model = APGWRegressor(**options).fit(X, y)
        rows[name] = {
            "log_likelihood": model.log_likelihood_,
            "n_parameters": model.n_parameters_,
            "aic": model.aic_,
            "bic": model.bic_,
            "kappa": np.nan if model.kappa_ is None else model.kappa_,
            "converged": model.converged_,
        }
    return pd.DataFrame.from_dict(rows, orient="index").sort_values(criterion)


def _check_times(time: NDArray) -> None:
    if not (np.isfinite(time) & (time > 0)).all():
        raise ValueError("time must be above 0 and finite in every row")


def _split_target(y: Any, rows: int) -> tuple[NDArray, NDArray]:
    """Events and times of a structured array, in this order of its fields."""
    names = getattr(getattr(y, "dtype", None), "names", None)
    if names is None or len(names) != 2 or y.ndim != 1:
        raise ValueError(
            "y must be a structured array (n,) of two fields, event and time; make it with "
            "survival_target(time, event)"
        )
    event, time = y[names[0]], np.asarray(y[names[1]], dtype=np.float64)
    if event.dtype != bool:
        raise ValueError(f"y must have a bool event as its first field, got {event.dtype}")
    if len(time) != rows:
        raise ValueError(f"y must have as many rows as X, {rows}, got {len(time)}")
    _check_times(time)
    return event, time


def _checked_entries(entry: ArrayLike | None, time: NDArray) -> NDArray:
    if entry is None:
        return np.zeros_like(time)
    entry = np.asarray(entry, dtype=np.float64)
    if entry.shape != time.shape:
        raise ValueError(f"entry must have shape {time.shape}, got {entry.shape}")
    if not ((entry >= 0) & (entry < time)).all():
        raise ValueError("entry must be at least 0 and below the time in every row")
    return entry


def _checked_grid(times: ArrayLike) -> NDArray:
    times = np.atleast_1d(np.asarray(times, dtype=np.float64))
    if times.ndim != 1 or not (times >= 0).all():
        raise ValueError("times must be of shape (m,) and at least 0")
    return times


def _concordance(time: NDArray, event: NDArray, rank: NDArray) -> float:
    """Share of comparable pairs in the right order; ties of the prediction count half."""
    agree = comparable = 0.0
    failed = np.flatnonzero(event)
    block = max(1, 4_000_000 // len(time))
    for first in range(0, len(failed), block):
        i = failed[first : first + block]
        later = (time > time[i, None]) | ((time == time[i, None]) & ~event)
        higher = (rank > rank[i, None]) + 0.5 * (rank == rank[i, None])
        agree += float((higher * later).sum())
        comparable += float(later.sum())
    if comparable == 0:
        raise ValueError("y must hold at least one pair of comparable times")
    return agree / comparable


def __dir__() -> list[str]:
    return public_names(globals())
