"""Dose response of a binary outcome with a treatment optimum that depends on covariates.

P(Y = 1 | t, x) = m(x'beta, t - x'gamma): a prognostic score, the deviation of the treatment from a
linear function of the covariates, and a smooth surface m that joins them by Nadaraya-Watson
regression. Under no unmeasured confounding given x that is P(Y = 1 | do(t), x), and the treatment
that suits x is x'gamma up to an offset.

From the paper (arXiv 2505.03893): the two scores and the kernel regression that joins them. Own
design, of this library: the leave-one-out log loss, the shrinkage of the regression, the parametric
start and the two stages of the optimiser, the bootstrap by multiplicities, and the diagnostics.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from rankone._namespace import public_names
from rankone._sweep import sweep
from rankone.causal._dose_response_plots import draw_calibration, draw_curves, draw_surface
from rankone.causal._link_surface import LinkSurface, between_quantiles, prominence
from rankone.causal._two_scores import PROBABILITY_FLOOR, ScoreFit, fit_scores
from rankone.stats._summary import Summary

__all__ = ["SemiparametricDoseResponse"]

SMALL_SAMPLE = 50  # rows a covariate below which fit warns
_CURVE_POINTS = 101
# Share of its range by which the average curve falls on both sides of an interior optimum. In
# simulations shrinkage bent the ends of monotone effects by up to 0.15 and left single-peaked
# effects above 0.5.
_LEAST_PROMINENCE = 0.25
_COLLINEAR = 0.99  # R^2 of the treatment on X from which gamma is not identified
_REDRAWS = 100  # of a bootstrap sample with a single outcome


class SemiparametricDoseResponse(BaseEstimator):
    """A prognostic score and a treatment-interaction score joined by kernel regression.

    The surface is estimated by a Gaussian product kernel on u = x'beta and v = t - x'gamma, shrunk
    towards the overall mean outcome by ``prior_strength`` units of kernel mass. Coefficients and
    bandwidths minimise the log loss of the leave-one-out version of it; the loss in the sample
    would send the bandwidths to 0. The optimiser starts at the vertex of a quadratic logistic
    model, first with bandwidths tied to the spread of the scores, then with free ones.

    beta needs an outcome that varies with u. gamma needs variation of the treatment given the
    covariates, and curvature in v: where the surface is monotone in v only its interaction with u
    identifies gamma, and ``fit`` warns. Where the treatment has no effect nothing does: gamma can
    run off and the surface follow noise, which the intervals of ``bootstrap`` show and a small
    penalty, ``l2=0.01``, prevents. What is estimated is causal only where the covariates hold every
    common cause of treatment and outcome.

    Args:
        bandwidth: ``"loo"`` chooses (h_u, h_v) with the coefficients; ``"rule"`` takes
            1.5 n^(-1/6) sd of each score; a pair holds them, in the units of the public scores.
        prior_strength: units of kernel mass c of the overall mean, at least 0.
        l2: penalty on the squared norm of gamma in standard deviations.
        standardize: scale columns and treatment to mean 0 and standard deviation 1 while fitting;
            results are in original units.
        max_iter: iterations of L-BFGS-B in each of its two stages.
        n_starts: starts: the parametric one, and noise of sd 0.3 about it.
        max_reference: training rows that the sums run over while fitting; with more rows a random
            subset of that size. Predictions use every row.
        random_state: seed or generator, of the subset and of the further starts.

    Attributes:
        coef_prognostic_: (p,) beta, of norm 1 in the units of X. A higher score means a better
            outcome on average.
        coef_interaction_: (p,) gamma, in units of treatment a unit of X.
        bandwidth_: (2,) h_u and h_v.
        loo_log_loss_: leave-one-out log loss, without the penalty.
        init_interaction_: (p,) gamma of the parametric start.
        converged_: whether the last stage met its tolerance within ``max_iter``.
        n_iter_: iterations of both stages.
        n_features_in_: number of covariates.
        feature_names_in_: their names, where X had names.

    Source: "Learning Interactions Between Continuous Treatments and Covariates with a
    Semiparametric Model", arXiv 2505.03893.

    Example:
        >>> import numpy as np
        >>> from rankone.causal.continuous_treatment import SemiparametricDoseResponse
        >>> rng = np.random.default_rng(0)
        >>> X, t = rng.standard_normal((300, 1)), rng.standard_normal(300)
        >>> y = rng.random(300) < 1 / (1 + np.exp(2 * (t - X[:, 0]) ** 2 - 2 - X[:, 0]))
        >>> model = SemiparametricDoseResponse().fit(X, t, y)
        >>> bool(abs(model.coef_interaction_[0] - 1) < 0.3)  # the best treatment is x
        True
    """

    coef_prognostic_: NDArray
    coef_interaction_: NDArray
    bandwidth_: NDArray
    _link: LinkSurface

    def __init__(
        self,
        bandwidth: str | Sequence[float] = "loo",
        prior_strength: float = 2.0,
        l2: float = 0.0,
        standardize: bool = True,
        max_iter: int = 60,
        n_starts: int = 1,
        max_reference: int = 4000,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.bandwidth = bandwidth
        self.prior_strength = prior_strength
        self.l2 = l2
        self.standardize = standardize
        self.max_iter = max_iter
        self.n_starts = n_starts
        self.max_reference = max_reference
        self.random_state = random_state

    def fit(self, X: ArrayLike, treatment: ArrayLike, y: ArrayLike) -> SemiparametricDoseResponse:
        """Fit scores, bandwidths and surface.

        Args:
            X: (n, p) covariates, an array or a frame.
            treatment: (n,) continuous treatment.
            y: (n,) outcomes, 0 or 1.

        Returns:
            self.

        Raises:
            ValueError: for X that is not (n, p) and finite; a treatment that is not (n,), finite
                and varying; outcomes other than 0 and 1, or of one class; parameters out of range.
            TypeError: for a treatment or outcome that is not numeric.

        Warns:
            UserWarning: for fewer than 50 rows a covariate, a treatment that is nearly a linear
                function of X, and an average curve without an interior extremum.
        """
        bandwidth = self._checked_parameters()
        X = validate_data(self, X, dtype=np.float64, copy=True, ensure_min_samples=2)
        n, p = X.shape
        treatment = _vector(treatment, "treatment", n)
        y = _vector(y, "y", n)
        if not np.isin(y, (0, 1)).all():
            other = np.setdiff1d(y, (0, 1))[:3].tolist()
            raise ValueError(f"y must hold 0 and 1, got {other}")
        if np.ptp(y) == 0:
            raise ValueError(f"y must hold both 0 and 1, got {int(y[0])} only")
        if not np.ptp(X, axis=0).any():
            raise ValueError("X must have a column that varies, got constant columns only")
        if np.ptp(treatment) == 0:
            raise ValueError(f"treatment must vary, got {treatment[0]:g} in every row")

        self._X, self._treatment, self._y = X, treatment, y
        self._center = X.mean(axis=0) if self.standardize else np.zeros(p)
        self._treatment_center = treatment.mean() if self.standardize else 0.0
        self._scale = _deviations(X) if self.standardize else np.ones(p)
        self._treatment_scale = treatment.std() if self.standardize else 1.0
        found, self._link = self._fitted(
            np.ones(n), bandwidth, check_random_state(self.random_state)
        )
        left_out = np.clip(self._link.left_out(), PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
        self.coef_prognostic_ = found.prognostic
        self.coef_interaction_ = found.interaction
        self.bandwidth_ = found.bandwidth
        self.loo_log_loss_ = float(
            -np.mean(np.where(y == 1, np.log(left_out), np.log1p(-left_out)))
        )
        self.init_interaction_ = found.start_interaction
        self.converged_ = found.converged
        self.n_iter_ = found.n_iter
        self._warn(n, p)
        return self

    def _checked_parameters(self) -> str | NDArray:
        for name in ("prior_strength", "l2"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float | np.number):
                raise TypeError(f"{name} must be a number of at least 0, got {value!r}")
            if not (np.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be at least 0, got {value}")
        for name, least in (("max_iter", 1), ("n_starts", 1), ("max_reference", 2)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
                raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
        if isinstance(self.bandwidth, str):
            if self.bandwidth not in ("loo", "rule"):
                raise ValueError(
                    f"bandwidth must be 'loo', 'rule' or a pair (h_u, h_v), got {self.bandwidth!r}"
                )
            return self.bandwidth
        try:
            pair = np.asarray(self.bandwidth, dtype=np.float64)
        except (TypeError, ValueError):
            pair = np.empty(0)
        if pair.shape != (2,) or not (np.isfinite(pair) & (pair > 0)).all():
            raise ValueError(
                "bandwidth must be 'loo', 'rule' or a pair (h_u, h_v) of positive numbers, "
                f"got {self.bandwidth!r}"
            )
        return pair

    def _fitted(
        self, weight: NDArray, bandwidth: str | NDArray, generator: np.random.RandomState
    ) -> tuple[ScoreFit, LinkSurface]:
        """The fit to the rows of positive weight, in the units of the data."""
        rows = weight > 0
        X, treatment, y, weight = self._X[rows], self._treatment[rows], self._y[rows], weight[rows]
        found = fit_scores(
            (X - self._center) / self._scale,
            (treatment - self._treatment_center) / self._treatment_scale,
            y,
            weight,
            bandwidth=bandwidth
            if isinstance(bandwidth, str)
            else bandwidth / np.array([1.0, self._treatment_scale]),
            # A pair is in units of the public scores, so that u takes its public norm.
            norm_scale=np.ones(X.shape[1]) if isinstance(bandwidth, str) else 1 / self._scale,
            prior_strength=float(self.prior_strength),
            l2=float(self.l2),
            max_iter=self.max_iter,
            n_starts=self.n_starts,
            max_reference=self.max_reference,
            generator=generator,
        )
        beta = found.prognostic / self._scale
        norm = np.linalg.norm(beta)
        beta /= norm
        unit = self._treatment_scale / self._scale
        gamma = found.interaction * unit
        if isinstance(bandwidth, str):
            bandwidth = found.bandwidth * np.array([1 / norm, self._treatment_scale])
        scores = np.column_stack((X @ beta, treatment - X @ gamma))
        link = LinkSurface(scores, y, weight, bandwidth, float(self.prior_strength))
        if not link.rises_with_u():
            beta = -beta
            link = replace(link, scores=scores * np.array([-1.0, 1.0]))
        found = replace(
            found,
            prognostic=beta,
            interaction=gamma,
            bandwidth=bandwidth,
            start_interaction=found.start_interaction * unit,
        )
        return found, link

    def _warn(self, n: int, p: int) -> None:
        if n < SMALL_SAMPLE * p:
            warnings.warn(
                f"{n} rows for {p} covariates: coefficients are unstable below {SMALL_SAMPLE} rows "
                "a covariate; use fewer covariates, or look at bootstrap() before using a rule",
                UserWarning,
                stacklevel=3,
            )
        explained = self._explained_treatment()
        if explained > _COLLINEAR:
            warnings.warn(
                f"the treatment is nearly a linear function of X (R^2 {explained:.4f}): without "
                "variation of the treatment given X the interaction coefficients are not "
                "identified",
                UserWarning,
                stacklevel=3,
            )
        curve = self._link.average_curve(_CURVE_POINTS)[1]
        if max(prominence(curve), prominence(-curve)) < _LEAST_PROMINENCE:
            warnings.warn(
                "the average curve in v is monotone up to noise (no interior optimum seen): the "
                "interaction coefficients are identified only through their interaction with the "
                "prognostic score; look at plot_surface()",
                UserWarning,
                stacklevel=3,
            )

    def _explained_treatment(self) -> float:
        """R^2 of the treatment on X."""
        design = np.column_stack((np.ones(len(self._X)), (self._X - self._X.mean(axis=0))))
        design[:, 1:] /= _deviations(self._X)
        fitted = design @ np.linalg.lstsq(design, self._treatment, rcond=None)[0]
        return float(1 - np.var(self._treatment - fitted) / np.var(self._treatment))

    def _covariates(self, X: ArrayLike) -> NDArray:
        check_is_fitted(self)
        return validate_data(self, X, dtype=np.float64, reset=False)

    def _deviation(self, X: NDArray, treatment: NDArray) -> NDArray:
        return treatment - X @ self.coef_interaction_

    def prognostic_score(self, X: ArrayLike) -> NDArray:
        """u = x'beta of (m, p) rows: (m,), higher for a better outcome."""
        return self._covariates(X) @ self.coef_prognostic_

    def interaction_score(self, X: ArrayLike, treatment: ArrayLike) -> NDArray:
        """v = t - x'gamma of (m, p) rows and (m,) treatments: (m,), in units of treatment."""
        X = self._covariates(X)
        return self._deviation(X, _vector(treatment, "treatment", len(X)))

    def _pair(self, X: ArrayLike, treatment: ArrayLike) -> NDArray:
        X = self._covariates(X)
        treatment = _vector(treatment, "treatment", len(X))
        return np.column_stack((X @ self.coef_prognostic_, self._deviation(X, treatment)))

    def predict_proba(self, X: ArrayLike, treatment: ArrayLike) -> NDArray:
        """Probabilities of the outcomes 0 and 1.

        Args:
            X: (m, p) covariates.
            treatment: (m,) treatment of each row.

        Returns:
            (m, 2); the second column is P(Y = 1 | do(t), x) under no unmeasured confounding.

        Raises:
            ValueError: for X unlike that of ``fit``, or a treatment that is not (m,) and finite.
        """
        scores = self._pair(X, treatment)
        return _two_columns(self._link.at(scores))

    def predict(self, X: ArrayLike, treatment: ArrayLike) -> NDArray:
        """1 where the probability of the outcome 1 is above one half, else 0: (m,) int."""
        return (self.predict_proba(X, treatment)[:, 1] > 0.5).astype(int)

    def loo_predict_proba(self) -> NDArray:
        """Leave-one-out probabilities of the training rows, for calibration: (n, 2)."""
        check_is_fitted(self)
        return _two_columns(self._link.left_out())

    def kernel_mass(self, X: ArrayLike, treatment: ArrayLike) -> NDArray:
        """Training rows near a treatment for such covariates, in units of kernel mass.

        A prediction from mass M is for the share ``prior_strength / (M + prior_strength)`` the
        overall mean and not data: where M is small, nobody like this had such a treatment.

        Args:
            X: (m, p) covariates.
            treatment: (m,) treatment of each row.

        Returns:
            (m,) sums of the kernel, at most the number of training rows.
        """
        scores = self._pair(X, treatment)
        return self._link.mass(scores)

    def dose_response(self, X: ArrayLike, grid: ArrayLike) -> NDArray:
        """Probability of the outcome 1 of each row at each treatment.

        Args:
            X: (m, p) covariates.
            grid: (g,) treatments.

        Returns:
            (m, g).

        Raises:
            ValueError: for a grid that is not 1-D and finite.
        """
        X = self._covariates(X)
        grid = _vector(grid, "grid")
        return self._link.at(self._curve_scores(X, grid)).reshape(len(X), len(grid))

    def _curve_scores(self, X: NDArray, grid: NDArray) -> NDArray:
        """(m g, 2) scores of every row at every treatment."""
        u = np.repeat(X @ self.coef_prognostic_, len(grid))
        v = grid - (X @ self.coef_interaction_)[:, None]
        return np.column_stack((u, v.ravel()))

    def link_surface(self, u: ArrayLike, v: ArrayLike) -> NDArray:
        """The surface m.

        Args:
            u, v: prognostic and interaction scores of shapes that broadcast; ``u[:, None]`` and
                ``v`` give the surface on a grid.

        Returns:
            m(u, v) in [0, 1], of the broadcast shape.

        Raises:
            ValueError: for shapes that do not broadcast, or scores that are not finite.
        """
        check_is_fitted(self)
        u, v = _real(u, "u"), _real(v, "v")
        try:
            u, v = np.broadcast_arrays(u, v)
        except ValueError:
            raise ValueError(
                f"u and v must have shapes that broadcast, got {u.shape} and {v.shape}"
            ) from None
        return self._link.at(np.column_stack((u.ravel(), v.ravel()))).reshape(u.shape)

    def optimal_treatment(
        self,
        X: ArrayLike,
        *,
        bounds: Sequence[float] | None = None,
        n_grid: int = 101,
        personalized_offset: bool = False,
        maximize: bool = True,
    ) -> NDArray:
        """The treatment x'gamma + v* with the best outcome.

        Args:
            X: (m, p) covariates.
            bounds: least and largest treatment, to which results are clipped; either may be
                infinite.
            n_grid: values of v tried, between the 2 % and 98 % quantiles of the training scores.
            personalized_offset: choose v* on the surface at the row's own prognostic score, rather
                than once on the average over the deciles of the training scores.
            maximize: whether the outcome 1 is the good one.

        Returns:
            (m,) in units of treatment.

        Raises:
            ValueError: for bounds that are not increasing, or fewer than 2 grid points.

        Warns:
            UserWarning: where the average curve is best at an end of the grid, or falls on one
                side of its best value by less than a quarter of its range.
        """
        X = self._covariates(X)
        limits = None if bounds is None else np.asarray(bounds, dtype=np.float64)
        if limits is not None and (limits.shape != (2,) or not limits[0] < limits[1]):
            raise ValueError(f"bounds must be an increasing pair, got {bounds!r}")
        if isinstance(n_grid, bool) or not isinstance(n_grid, int | np.integer) or n_grid < 2:
            raise ValueError(f"n_grid must be an integer of at least 2, got {n_grid!r}")
        sign = 1.0 if maximize else -1.0
        grid, curve = self._link.average_curve(n_grid)
        best = int((sign * curve).argmax())
        if prominence(sign * curve) < _LEAST_PROMINENCE:
            warnings.warn(
                f"the average curve is {'maximal' if maximize else 'minimal'} at "
                f"v = {grid[best]:.4g} and hardly worse from there to an end of the data (no "
                "interior optimum seen): the recommended treatments follow the edge of what was "
                "observed",
                UserWarning,
                stacklevel=2,
            )
        offset: Any = grid[best]
        if personalized_offset:
            surface = self._link.on_product(X @ self.coef_prognostic_, grid)
            offset = grid[(sign * surface).argmax(axis=1)]
        optimum = X @ self.coef_interaction_ + offset
        return optimum if limits is None else np.clip(optimum, *limits)

    def value(self, X: ArrayLike, rule: ArrayLike) -> float:
        """The model's own estimate of the mean outcome if every row is treated by a rule.

        It is optimistic for a rule that this model chose, on training rows most of all: the rule
        goes where the estimated surface errs upwards. Judge a rule on rows, and by a model, that
        did not choose it.

        Args:
            X: (m, p) covariates.
            rule: (m,) treatment of each row.

        Returns:
            Mean of m(x'beta, rule - x'gamma).
        """
        X = self._covariates(X)
        return float(self._link.at(self._pair(X, _vector(rule, "rule", len(X)))).mean())

    def bootstrap(
        self,
        n_boot: int = 200,
        n_jobs: int | None = None,
        random_state: int | np.random.RandomState | None = None,
        *,
        level: float = 0.95,
    ) -> dict[str, NDArray]:
        """Refit on resampled rows.

        Each draw repeats the whole fit, bandwidths included, with the multiplicities of a sample
        with replacement as row weights. Leave-one-out drops a row with all its copies; copies as
        rows of their own would predict one another and send the bandwidths to 0. A draw holds about
        63 % of the rows, so that its coefficients scatter more than those of whole samples: in
        simulations the intervals covered more often than their level.

        Args:
            n_boot: draws, at least 2.
            n_jobs: as in joblib; draws do not depend on it.
            random_state: seed or generator.
            level: coverage of the percentile intervals, in (0, 1).

        Returns:
            ``coef_prognostic`` and ``coef_interaction``, (n_boot, p) draws, those of beta with the
            sign that points along the fit's; ``offset``, (n_boot,) v* of each draw, so that
            ``X @ draws["coef_interaction"].T + draws["offset"]`` are draws of the recommended
            treatments; ``coef_prognostic_interval``, ``coef_interaction_interval`` (p, 2) and
            ``offset_interval`` (2,), percentiles.

        Raises:
            ValueError: for ``n_boot`` below 2 or ``level`` outside (0, 1).
        """
        check_is_fitted(self)
        if isinstance(n_boot, bool) or not isinstance(n_boot, int | np.integer) or n_boot < 2:
            raise ValueError(f"n_boot must be an integer of at least 2, got {n_boot!r}")
        if not 0 < level < 1:
            raise ValueError(f"level must lie in (0, 1), got {level}")
        seed = int(check_random_state(random_state).randint(2**31 - 1))
        draws = sweep(partial(_refit, self), range(n_boot), random_state=seed, n_jobs=n_jobs)
        columns = {
            "coef_prognostic": np.array([draw[0] for draw in draws]),
            "coef_interaction": np.array([draw[1] for draw in draws]),
            "offset": np.array([draw[2] for draw in draws]),
        }
        tails = [(1 - level) / 2, (1 + level) / 2]
        intervals = {
            f"{name}_interval": np.quantile(values, tails, axis=0).T
            for name, values in columns.items()
        }
        return columns | intervals

    def summary(self, draws: dict[str, NDArray] | None = None) -> Summary:
        """A table of the coefficients.

        Args:
            draws: what :meth:`bootstrap` returned, for standard errors and intervals.

        Returns:
            A summary that prints, with the table as ``.frame``: a row a score and covariate, with
            columns estimate and, given draws, std_error, lower and upper.
        """
        check_is_fitted(self)
        names = self._names()
        index = pd.MultiIndex.from_product((("prognostic", "interaction"), names))
        frame = pd.DataFrame(
            {"estimate": np.concatenate((self.coef_prognostic_, self.coef_interaction_))},
            index=index,
        )
        h_u, h_v = self.bandwidth_
        notes = [
            f"Leave-one-out log loss {self.loo_log_loss_:.4f}; bandwidths {h_u:.3g} and {h_v:.3g}.",
            f"R^2 of the treatment on the covariates {self._explained_treatment():.2f}.",
        ]
        if not self.converged_:
            notes.append(f"Not converged after {self.n_iter_} iterations: raise max_iter.")
        if draws is None:
            notes.append("Standard errors and intervals: summary(bootstrap()).")
        else:
            drawn = np.hstack((draws["coef_prognostic"], draws["coef_interaction"]))
            limits = np.vstack(
                (draws["coef_prognostic_interval"], draws["coef_interaction_interval"])
            )
            frame["std_error"] = drawn.std(axis=0, ddof=1)
            frame["lower"], frame["upper"] = limits.T
            notes.append(f"Standard errors and percentile intervals of {len(drawn)} resamples.")
        title = f"Semiparametric dose response, {len(self._y)} rows"
        return Summary(title, frame, tuple(notes))

    def _names(self) -> list[str]:
        default = [f"x{j}" for j in range(self.n_features_in_)]
        return [str(name) for name in getattr(self, "feature_names_in_", default)]

    def plot_surface(self, ax: Any = None, *, points: bool = True) -> Any:
        """Draw m over the training scores, with the rows of either outcome.

        Args:
            ax: matplotlib axes; None makes new ones.
            points: draw the training rows.

        Returns:
            The axes.
        """
        check_is_fitted(self)
        return draw_surface(self._link, ax, points=points)

    def plot_dose_response(
        self,
        X: ArrayLike,
        grid: ArrayLike | None = None,
        *,
        labels: Sequence[str] | None = None,
        ax: Any = None,
    ) -> Any:
        """Draw the curve of each row, dotted where the prior outweighs the data.

        Args:
            X: (m, p) covariates, a curve a row.
            grid: (g,) treatments; None takes 101 over the treatments of the data.
            labels: m names for the legend.
            ax: matplotlib axes; None makes new ones.

        Returns:
            The axes.

        Raises:
            ValueError: for labels that are not one a row.
        """
        X = self._covariates(X)
        if grid is None:
            treatments = between_quantiles(self._treatment, (0.01, 0.99), _CURVE_POINTS)
        else:
            treatments = _vector(grid, "grid")
        names = [f"row {i}" for i in range(len(X))] if labels is None else list(labels)
        if len(names) != len(X):
            raise ValueError(f"labels must have an entry a row, {len(X)}, got {len(names)}")
        scores = self._curve_scores(X, treatments)
        curves = self._link.at(scores).reshape(len(X), -1)
        backed = (self._link.mass(scores) >= self.prior_strength).reshape(curves.shape)
        return draw_curves(treatments, curves, backed, names, ax)

    def plot_calibration(self, ax: Any = None, *, n_bins: int = 10) -> Any:
        """Draw observed shares against leave-one-out probabilities, in bins of equal counts.

        Args:
            ax: matplotlib axes; None makes new ones.
            n_bins: bins.

        Returns:
            The axes.
        """
        check_is_fitted(self)
        return draw_calibration(self._y, self._link.left_out(), ax, n_bins=n_bins)


def _refit(
    model: SemiparametricDoseResponse, _: int, generator: np.random.Generator
) -> tuple[NDArray, NDArray, float]:
    """beta, gamma and v* of one bootstrap draw."""
    n = len(model._y)
    for _ in range(_REDRAWS):
        weight = np.bincount(generator.integers(n, size=n), minlength=n).astype(np.float64)
        rows = weight > 0
        if np.ptp(model._y[rows]) and np.ptp(model._treatment[rows]):
            break
    else:
        raise ValueError(
            f"y is too rare to resample: {_REDRAWS} samples of {n} rows lacked an outcome"
        )
    found, link = model._fitted(
        weight,
        model._checked_parameters(),
        np.random.RandomState(int(generator.integers(2**31 - 1))),
    )
    along = found.prognostic @ model.coef_prognostic_
    grid, curve = link.average_curve(_CURVE_POINTS)
    return (
        found.prognostic if along >= 0 else -found.prognostic,
        found.interaction,
        float(grid[curve.argmax()]),
    )


def _two_columns(probability: NDArray) -> NDArray:
    return np.column_stack((1 - probability, probability))


def _deviations(X: NDArray) -> NDArray:
    """Standard deviations of the columns, 1 for a constant one."""
    deviations = X.std(axis=0)
    return np.where((np.ptp(X, axis=0) > 0) & (deviations > 0), deviations, 1.0)


def _real(values: ArrayLike, name: str) -> NDArray:
    """A finite float64 array."""
    array = np.asarray(values)
    if array.dtype == object:
        try:
            array = array.astype(np.float64)
        except (TypeError, ValueError):
            raise TypeError(f"{name} must be numeric, got objects that are not") from None
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be numeric, got dtype {array.dtype}")
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return array


def _vector(values: ArrayLike, name: str, length: int | None = None) -> NDArray:
    """A finite float64 vector, of a length where one is given."""
    array = _real(values, name)
    if array.ndim != 1 or (length is not None and len(array) != length):
        expected = "1-D" if length is None else f"({length},)"
        raise ValueError(f"{name} must be {expected}, got shape {array.shape}")
    if not len(array):
        raise ValueError(f"{name} must have at least one entry, got none")
    return array


def __dir__() -> list[str]:
    return public_names(globals())
