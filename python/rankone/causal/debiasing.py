"""Undoing the shrinkage of machine-learned outcomes before a causal analysis.

A model trained for accuracy predicts conditional means, so its predictions vary less than the truth
and every effect computed from them is too small. Two corrections need labels once, on a held-out
calibration split: a linear one, exact if the mean prediction at a given truth is a line, and
Tweedie's, exact for every truth if the residual is Gaussian and independent of the prediction.

Neither is regression calibration or SIMEX, which undo classical error (measurement around the
truth); here the truth varies around the prediction.

Source: "Debiasing Machine Learning Predictions for Causal Inference Without Additional Ground Truth
Data: 'One Map, Many Trials' in Satellite-Driven Poverty Analysis" (arXiv 2508.01341) for the two
corrections and the kernel score with Scott's bandwidth. The other scores, ``preserve_variance``,
``score_predictions``, recalibration, the intervals with calibration error, and pseudo-trials drawn
on the truth are this project's own.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from numpy.typing import ArrayLike
from scipy.special import expit
from scipy.stats import skew
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.model_selection import KFold
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from rankone._arguments import check_integer, check_number, check_size
from rankone._namespace import public_names
from rankone.causal._scores import (
    BANDWIDTHS,
    Score,
    gaussian_score,
    kernel_bandwidth,
    kernel_score,
    mixture_score,
)

__all__ = [
    "ATEResult",
    "LinearCalibrationDebiaser",
    "TweedieDebiaser",
    "attenuation_diagnostics",
    "compare_debiasers",
    "debiased_ate",
    "prediction_powered_ate",
]

SCORES = ("kde", "gmm", "gaussian")
RECALIBRATIONS = ("none", "linear")

# Below the first an inversion is meaningless; below the second it amplifies noise fivefold.
_SMALLEST_SLOPE = 1e-8
_WEAK_SLOPE = 0.2

# Fewer pairs leave sigma and the score uncertain.
_FEW_PAIRS = 100

# Farther from 1, E[y | p] is not p.
_MISCALIBRATED = 0.2

# Effect sizes of pseudo-trials, in log odds a standard deviation of the target.
_STRONGEST = 2.0

# Attempts to draw a pseudo-trial with both arms.
_ATTEMPTS = 100


def _vector(name: str, values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"{name} must have shape (n,) with n >= 1, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return array


def _pairs(predictions: ArrayLike, targets: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    p, y = _vector("predictions", predictions), _vector("targets", targets)
    if len(p) != len(y):
        raise ValueError(f"predictions and targets must have one length, got {len(p)} and {len(y)}")
    for name, values in (("predictions", p), ("targets", y)):
        if np.ptp(values) == 0:
            raise ValueError(f"{name} must vary, got {len(values)} times {values[0]:g}")
    return p, y


def _slope(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Least squares of y on x: slope and intercept."""
    slope = float(np.mean((x - x.mean()) * (y - y.mean())) / np.var(x))
    return slope, float(y.mean() - slope * x.mean())


class _Debiaser(TransformerMixin, BaseEstimator):
    """What the corrections share: the range of the calibration predictions."""

    def _fit_range(self, p: np.ndarray) -> None:
        self.support_ = (float(p.min()), float(p.max()))
        self.n_calibration_ = len(p)

    def _checked(self, predictions: ArrayLike) -> np.ndarray:
        check_is_fitted(self, "support_")
        p = _vector("predictions", predictions)
        low, high = self.support_
        outside = int(np.sum((p < low) | (p > high)))
        if outside:
            warnings.warn(
                f"{outside} of {len(p)} predictions lie outside the calibration predictions' range "
                f"[{low:.4g}, {high:.4g}], where the correction is extrapolated",
                UserWarning,
                stacklevel=3,
            )
        return p


class LinearCalibrationDebiaser(_Debiaser):
    """Linear calibration correction: predictions regressed on the truth, and that line inverted.

    Exact if ``E[p | y]`` is a line. The direction matters: regressing the truth on predictions
    gives another prediction, and attenuates again.

    Attributes:
        slope_, intercept_: of predictions on targets.
        residual_std_: standard deviation of predictions around that line.
        r2_: of that line.
        support_: smallest and largest calibration prediction.
        n_calibration_: pairs.

    Source: arXiv 2508.01341.

    Example:
        >>> import numpy as np
        >>> from rankone.causal import LinearCalibrationDebiaser
        >>> y = np.array([0.0, 1.0, 2.0])
        >>> LinearCalibrationDebiaser().fit(1 + 0.5 * y, y).transform([1.0, 2.0]).tolist()
        [0.0, 2.0]
    """

    def fit(self, predictions: ArrayLike, targets: ArrayLike) -> LinearCalibrationDebiaser:
        """Fit the line on calibration pairs.

        Args:
            predictions: (n,), of units that the model was not trained on.
            targets: (n,), their truth.

        Raises:
            ValueError: for arrays that do not fit, do not vary, or a slope that is not positive.

        Warns:
            UserWarning: for a slope below 0.2.
        """
        p, y = _pairs(predictions, targets)
        self.slope_, self.intercept_ = _slope(y, p)
        if self.slope_ <= _SMALLEST_SLOPE:
            raise ValueError(
                "predictions must rise with targets, got a slope of "
                f"{self.slope_:.3g}: they say nothing that could be corrected"
            )
        if self.slope_ < _WEAK_SLOPE:
            warnings.warn(
                f"the slope of predictions on targets is {self.slope_:.3g}: the correction "
                f"amplifies errors {1 / self.slope_:.1f} times",
                UserWarning,
                stacklevel=2,
            )
        residual = p - self.intercept_ - self.slope_ * y
        self.residual_std_ = float(np.std(residual))
        self.r2_ = float(1 - np.var(residual) / np.var(p))
        self._fit_range(p)
        return self

    def transform(self, predictions: ArrayLike) -> np.ndarray:
        """Corrected values (m,) of predictions (m,).

        Raises:
            NotFittedError: before ``fit``.
            ValueError: for another shape or numbers that are not finite.

        Warns:
            UserWarning: for predictions outside ``support_``.
        """
        return (self._checked(predictions) - self.intercept_) / self.slope_


class TweedieDebiaser(_Debiaser):
    """Tweedie's correction ``p - sigma^2 s(p)``, s the score of the predictions' density.

    If ``y = p + e`` with e normal and independent of p, then ``E[p_T | y] = y`` for every y: any
    contrast of groups that differ in y, and not in p given y, is unbiased. Both sigma and s belong
    to the calibration population, never to a trial. Which score to choose matters: with Scott's
    bandwidth a fifth of the effect can still be missing for skew predictions; "gmm" is the least
    biased of those here, and ``score_predictions`` makes all of them better.

    Args:
        score: "kde" (Gaussian kernel), "gmm" (Gaussian mixture chosen by BIC), "gaussian", or a
            vectorised function, on the recalibrated scale.
        bandwidth: of the kernel: "scott", "silverman", "isj", or a number on the scale of the
            predictions.
        preserve_variance: keep the sample's variance in the kernel density.
        recalibrate: "linear" first replaces p by the regression of y on p, needed where E[y|p] is
            not p (forests, ridge); "none" does not.
        max_components: of the mixture.
        tail: outside the quantiles ``tail`` and ``1 - tail`` of the score's sample, the scores of
            "kde" and "gmm" keep the value there.
        n_grid: cells of the binned kernel, at least.
        random_state: of the mixture's starts.

    Attributes:
        sigma_: standard deviation of the residuals y - p (ddof 0).
        bandwidth_: of the kernel, on the recalibrated scale.
        recalibration_: (alpha, beta), (0, 1) without.
        mixture_: the mixture of the standardised score sample.
        support_: smallest and largest calibration prediction.
        n_calibration_: pairs.

    Source: arXiv 2508.01341; ``"isj"``, ``"gmm"``, ``preserve_variance``, ``recalibrate`` and
    ``score_predictions`` are this project's own.

    Example:
        >>> import numpy as np
        >>> from rankone.causal import TweedieDebiaser
        >>> rng = np.random.default_rng(0)
        >>> p = rng.normal(size=2000)
        >>> y = p + rng.normal(size=2000)
        >>> corrected = TweedieDebiaser().fit(p, y).transform(p)
        >>> bool(1.6 < np.std(corrected) / np.std(p) < 2.2)
        True
    """

    def __init__(
        self,
        score: str | Callable[[np.ndarray], np.ndarray] = "kde",
        bandwidth: str | float = "scott",
        preserve_variance: bool = False,
        recalibrate: str = "none",
        max_components: int = 6,
        tail: float = 5e-4,
        n_grid: int = 4096,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.score = score
        self.bandwidth = bandwidth
        self.preserve_variance = preserve_variance
        self.recalibrate = recalibrate
        self.max_components = max_components
        self.tail = tail
        self.n_grid = n_grid
        self.random_state = random_state

    def fit(
        self,
        predictions: ArrayLike,
        targets: ArrayLike,
        score_predictions: ArrayLike | None = None,
    ) -> TweedieDebiaser:
        """Fit residual variance and score.

        Args:
            predictions: (n,), of units that the model was not trained on.
            targets: (n,), their truth.
            score_predictions: (N,), predictions of the same population to estimate the score from,
                such as the whole unlabelled map; None for the calibration predictions.

        Raises:
            ValueError: for arrays that do not fit or vary, or parameters out of range.

        Warns:
            UserWarning: for fewer than 100 pairs, or predictions that need recalibration.
        """
        self._check()
        p, y = _pairs(predictions, targets)
        sample = p if score_predictions is None else _vector("score_predictions", score_predictions)
        if np.ptp(sample) == 0:
            raise ValueError(f"score_predictions must vary, got {len(sample)} equal values")
        self._estimate_score(sample)
        self._own_sample = score_predictions is None
        return self._calibrate(p, y)

    def transform(self, predictions: ArrayLike) -> np.ndarray:
        """Corrected values (m,) of predictions (m,).

        Raises:
            NotFittedError: before ``fit``.
            ValueError: for another shape or numbers that are not finite.

        Warns:
            UserWarning: for predictions outside ``support_``.
        """
        alpha, beta = self._recalibration()
        p = alpha + beta * self._checked(predictions)
        return p - self.sigma_**2 * self._score_at(p)

    def score_function(self, x: ArrayLike) -> np.ndarray:
        """The score at ``x`` (m,), on the recalibrated scale.

        Raises:
            NotFittedError: before ``fit``.
            ValueError: for another shape or numbers that are not finite.
        """
        self._recalibration()
        return self._score_at(_vector("x", x))

    def _recalibration(self) -> tuple[float, float]:
        check_is_fitted(self, "sigma_")
        return self.recalibration_

    def _check(self) -> None:
        if not callable(self.score) and self.score not in SCORES:
            raise ValueError(f"score must be one of {SCORES} or a function, got {self.score!r}")
        if isinstance(self.bandwidth, str):
            if self.bandwidth not in BANDWIDTHS:
                raise ValueError(
                    f"bandwidth must be one of {BANDWIDTHS} or a number, got {self.bandwidth!r}"
                )
        elif not (math.isfinite(self.bandwidth) and self.bandwidth > 0):
            raise ValueError(f"bandwidth must be positive and finite, got {self.bandwidth}")
        if self.recalibrate not in RECALIBRATIONS:
            raise ValueError(
                f"recalibrate must be one of {RECALIBRATIONS}, got {self.recalibrate!r}"
            )
        check_size("max_components", self.max_components)
        check_number("tail", self.tail)
        if not 0 <= self.tail < 0.5:
            raise ValueError(f"tail must be in [0, 0.5), got {self.tail}")
        check_integer("n_grid", self.n_grid)
        if self.n_grid < 2:
            raise ValueError(f"n_grid must be at least 2, got {self.n_grid}")

    def _estimate_score(self, sample: np.ndarray) -> None:
        """The score on the scale of the raw predictions; recalibration maps it exactly."""
        self._raw_score: Score | None = None
        if callable(self.score):
            return
        if self.score == "gaussian":
            self._raw_score = gaussian_score(sample)
            return
        if self.score == "kde":
            self._raw_bandwidth = kernel_bandwidth(sample, self.bandwidth)
            score = kernel_score(
                sample,
                self._raw_bandwidth,
                preserve_variance=self.preserve_variance,
                n_grid=self.n_grid,
            )
        else:
            score, self.mixture_ = mixture_score(sample, self.max_components, self.random_state)
        low, high = np.quantile(sample, [self.tail, 1 - self.tail])
        self._raw_score = lambda x: score(np.clip(x, low, high))

    def _calibrate(self, p: np.ndarray, y: np.ndarray) -> TweedieDebiaser:
        """Recalibration and residual variance from pairs, with the score as it is."""
        slope, intercept = _slope(p, y)
        if self.recalibrate == "linear":
            if slope <= _SMALLEST_SLOPE:
                raise ValueError(
                    f"targets must rise with predictions, got a slope of {slope:.3g}: there is "
                    "nothing to recalibrate"
                )
            self.recalibration_ = (intercept, slope)
        else:
            self.recalibration_ = (0.0, 1.0)
            if abs(slope - 1) > _MISCALIBRATED:
                warnings.warn(
                    f"the slope of targets on predictions is {slope:.3g}, not 1: predictions are "
                    'not conditional means; recalibrate="linear" makes them so',
                    UserWarning,
                    stacklevel=3,
                )
        if len(p) < _FEW_PAIRS:
            warnings.warn(
                f"{len(p)} calibration pairs are few for a variance and a score; "
                f"{_FEW_PAIRS} or more are advised",
                UserWarning,
                stacklevel=3,
            )
        alpha, beta = self.recalibration_
        if self.score == "kde":
            self.bandwidth_ = beta * self._raw_bandwidth
        self.sigma_ = float(np.std(y - alpha - beta * p))
        self._fit_range(p)
        return self

    def _score_at(self, x: np.ndarray) -> np.ndarray:
        if self._raw_score is None:
            values = np.asarray(self.score(x), dtype=np.float64)  # type: ignore[operator]
            if values.shape != x.shape:
                raise ValueError(f"score must return shape {x.shape}, got shape {values.shape}")
            return values
        alpha, beta = self.recalibration_
        return self._raw_score((x - alpha) / beta) / beta


@dataclass(frozen=True)
class ATEResult:
    """An average treatment effect from corrected predictions.

    Attributes:
        estimate: difference of the weighted means of corrected predictions.
        se: bootstrap standard error; NaN without a bootstrap.
        ci_low, ci_high: percentile limits; NaN without a bootstrap.
        naive: the difference without the correction.
        n_treated, n_control: units.
    """

    estimate: float
    se: float
    ci_low: float
    ci_high: float
    naive: float
    n_treated: int
    n_control: int


def debiased_ate(
    debiaser: LinearCalibrationDebiaser | TweedieDebiaser,
    predictions: ArrayLike,
    treatment: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    calibration: tuple[ArrayLike, ArrayLike] | None = None,
    n_boot: int = 0,
    alpha: float = 0.05,
    n_jobs: int | None = None,
    random_state: int | np.random.RandomState | None = None,
) -> ATEResult:
    """Average treatment effect from corrected predictions, with a bootstrap interval.

    Args:
        debiaser: fitted.
        predictions: (m,), of the trial's units.
        treatment: (m,), 0 or 1.
        weights: (m,), such as inverse propensities; None for equal ones.
        calibration: the calibration predictions and targets. With them every draw resamples these
            too and refits the debiaser; without, the interval ignores its error.
        n_boot: draws, stratified by arm; 0 for none.
        alpha: one minus the level of the interval.
        n_jobs: as in joblib.
        random_state: of the draws.

    Returns:
        :class:`ATEResult`.

    Raises:
        NotFittedError: for a debiaser that is not fitted.
        ValueError: for arrays that do not fit, a treatment that is not binary, an arm that is
            missing or without weight.

    Source: arXiv 2508.01341 for the estimate; the interval is this project's own.

    Example:
        >>> import numpy as np
        >>> from rankone.causal import LinearCalibrationDebiaser, debiased_ate
        >>> y = np.array([0.0, 1.0, 2.0])
        >>> debiaser = LinearCalibrationDebiaser().fit(y / 2, y)
        >>> debiased_ate(debiaser, [0.0, 0.5, 1.0], [0, 0, 1]).estimate
        1.5
    """
    p = _vector("predictions", predictions)
    A = _treatment(treatment, len(p))
    w = np.ones(len(p)) if weights is None else _vector("weights", weights)
    if len(w) != len(p):
        raise ValueError(f"weights must have length {len(p)}, got {len(w)}")
    if w.min() < 0:
        raise ValueError(f"weights must be at least 0, got {w.min():g}")
    for arm in (0, 1):
        if w[arm == A].sum() == 0:
            raise ValueError(f"weights of arm {arm} must not all be 0")
    if n_boot < 0 or n_boot == 1:
        raise ValueError(f"n_boot must be 0 or at least 2, got {n_boot}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be in (0, 1), got {alpha}")
    if not isinstance(debiaser, LinearCalibrationDebiaser | TweedieDebiaser):
        raise TypeError(
            "debiaser must be a LinearCalibrationDebiaser or a TweedieDebiaser, got "
            f"{type(debiaser).__name__}"
        )
    corrected = debiaser.transform(p)
    estimate, naive = _contrast(corrected, A, w), _contrast(p, A, w)
    se = low = high = math.nan
    if n_boot:
        pairs = None if calibration is None else _pairs(*calibration)
        rng = check_random_state(random_state)
        seeds = rng.randint(np.iinfo(np.int32).max, size=n_boot)
        draws = Parallel(n_jobs=n_jobs)(
            delayed(_draw)(debiaser, p, A, w, corrected, pairs, int(seed)) for seed in seeds
        )
        se = float(np.std(draws, ddof=1))
        low, high = (float(q) for q in np.quantile(draws, [alpha / 2, 1 - alpha / 2]))
    treated = int(A.sum())
    return ATEResult(estimate, se, low, high, naive, treated, len(A) - treated)


def _treatment(treatment: ArrayLike, length: int) -> np.ndarray:
    A = _vector("treatment", treatment)
    if len(A) != length:
        raise ValueError(f"treatment must have length {length}, got {len(A)}")
    if not np.isin(A, (0, 1)).all():
        raise ValueError("treatment must be 0 or 1 for every unit")
    if A.min() == A.max():
        raise ValueError(f"treatment must have both arms, got {len(A)} units of arm {A[0]:g}")
    return A.astype(np.int64)


def _contrast(values: np.ndarray, A: np.ndarray, w: np.ndarray) -> float:
    return float(
        np.average(values[A == 1], weights=w[A == 1])
        - np.average(values[A == 0], weights=w[A == 0])
    )


def _draw(
    debiaser: LinearCalibrationDebiaser | TweedieDebiaser,
    p: np.ndarray,
    A: np.ndarray,
    w: np.ndarray,
    corrected: np.ndarray,
    pairs: tuple[np.ndarray, np.ndarray] | None,
    seed: int,
) -> float:
    """The estimate of one bootstrap draw."""
    rng = np.random.RandomState(seed)
    if pairs is not None:
        rows = rng.randint(len(pairs[0]), size=len(pairs[0]))
        # What the user was warned of once need not be said in every draw.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            corrected = _refitted(debiaser, pairs[0][rows], pairs[1][rows]).transform(p)
    means = []
    for arm in (1, 0):
        units = np.flatnonzero(arm == A)
        # An arm drawn without any weight has no mean; draw it again.
        for _ in range(_ATTEMPTS):
            drawn = rng.choice(units, len(units))
            if w[drawn].sum() > 0:
                break
        means.append(np.average(corrected[drawn], weights=w[drawn]))
    return float(means[0] - means[1])


def _refitted(
    debiaser: LinearCalibrationDebiaser | TweedieDebiaser, p: np.ndarray, y: np.ndarray
) -> LinearCalibrationDebiaser | TweedieDebiaser:
    """Fitted anew to calibration pairs; a score from a sample of its own is kept."""
    if isinstance(debiaser, TweedieDebiaser) and not debiaser._own_sample:
        copy = clone(debiaser)
        copy.__dict__.update(debiaser.__dict__)
        return copy._calibrate(p, y)
    return clone(debiaser).fit(p, y)


def prediction_powered_ate(
    predictions: ArrayLike,
    treatment: ArrayLike,
    targets: ArrayLike,
    labelled: ArrayLike,
    *,
    lam: float = 1.0,
) -> float:
    """The comparator that needs labels in the trial: prediction-powered inference.

    In each arm ``lam`` times the mean prediction plus the mean of ``y - lam p`` over the labelled.

    Args:
        predictions: (m,).
        treatment: (m,), 0 or 1.
        targets: (m,); entries of units without a label are not read.
        labelled: (m,), booleans.
        lam: weight of the predictions.

    Returns:
        The estimated effect.

    Raises:
        ValueError: for arrays that do not fit, or an arm without a labelled unit.

    Example:
        >>> from rankone.causal import prediction_powered_ate
        >>> prediction_powered_ate([0, 1, 2, 3], [0, 0, 1, 1], [1, 0, 4, 0], [1, 0, 1, 0])
        3.0
    """
    p = _vector("predictions", predictions)
    A = _treatment(treatment, len(p))
    known = np.asarray(labelled).astype(bool)
    y = np.asarray(targets, dtype=np.float64)
    for name, values in (("labelled", known), ("targets", y)):
        if values.shape != p.shape:
            raise ValueError(f"{name} must have shape {p.shape}, got shape {values.shape}")
    if not np.isfinite(y[known]).all():
        raise ValueError("targets must be finite where labelled, got NaN or infinity")
    means = []
    for arm in (1, 0):
        own = arm == A
        if not (own & known).any():
            raise ValueError(f"labelled must mark a unit of arm {arm}")
        rest = y[own & known] - lam * p[own & known]
        means.append(lam * p[own].mean() + rest.mean())
    return float(means[0] - means[1])


def compare_debiasers(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    debiasers: Mapping[str, LinearCalibrationDebiaser | TweedieDebiaser] | None = None,
    n_splits: int = 5,
    n_contrasts: int = 100,
    window: float = 1.0,
    random_state: int | None = 0,
) -> pd.DataFrame:
    """Which correction to trust, from calibration pairs alone: pseudo-trials drawn on the truth.

    In every held-out fold treatments are drawn with log odds proportional to the target, as in a
    trial whose arms differ in the outcome. Drawing on the predictions instead would make shrinkage
    look absent, because given p naive means are right.

    Args:
        predictions, targets: (n,), calibration pairs.
        debiasers: what to compare, by name; None for "lcc" and "tweedie" with their defaults. The
            uncorrected "naive" is always the first row.
        n_splits: folds.
        n_contrasts: pseudo-trials a fold.
        window: share of the targets' quantiles that a trial covers; below 1 it checks local trials.
        random_state: of folds and draws.

    Returns:
        A frame indexed by name: ``slope`` of estimated on true contrasts (1 is unbiased), ``rmse``
        and ``bias``.

    Raises:
        ValueError: for arrays that do not fit, or options out of range.

    Source: this project's own.

    Example:
        >>> import numpy as np
        >>> from rankone.causal import compare_debiasers
        >>> rng = np.random.default_rng(0)
        >>> p = rng.normal(size=500)
        >>> frame = compare_debiasers(p, p + rng.normal(size=500), n_contrasts=20)
        >>> bool(frame.loc["naive", "slope"] < 0.7 < frame.loc["lcc", "slope"])
        True
    """
    p, y = _pairs(predictions, targets)
    if debiasers is None:
        debiasers = {"lcc": LinearCalibrationDebiaser(), "tweedie": TweedieDebiaser()}
    if "naive" in debiasers:
        raise ValueError('debiasers must not use the name "naive", which is always compared')
    if not 2 <= n_splits <= len(p) // 2:
        raise ValueError(f"n_splits must be in 2 .. {len(p) // 2}, got {n_splits}")
    if n_contrasts < 1:
        raise ValueError(f"n_contrasts must be at least 1, got {n_contrasts}")
    if not 0 < window <= 1:
        raise ValueError(f"window must be in (0, 1], got {window}")
    rng = np.random.default_rng(random_state)
    folds = KFold(n_splits, shuffle=True, random_state=int(rng.integers(2**31)))
    true: list[float] = []
    found: dict[str, list[float]] = {name: [] for name in ("naive", *debiasers)}
    for kept, held in folds.split(p):
        with warnings.catch_warnings():
            # Of the range of a fold; the user sees those of their own fit.
            warnings.simplefilter("ignore", UserWarning)
            values = {"naive": p[held]} | {
                name: clone(each).fit(p[kept], y[kept]).transform(p[held])
                for name, each in debiasers.items()
            }
        for _ in range(n_contrasts):
            rows, A = _pseudo_trial(y[held], window, rng)
            ones = np.ones(len(rows))
            true.append(_contrast(y[held][rows], A, ones))
            for name in found:
                found[name].append(_contrast(values[name][rows], A, ones))
    truth = np.array(true)
    summary: dict[str, dict[str, float]] = {}
    for name, estimates in found.items():
        error = np.array(estimates) - truth
        summary[name] = {
            "slope": _slope(truth, np.array(estimates))[0],
            "rmse": float(np.sqrt(np.mean(error**2))),
            "bias": float(np.mean(error)),
        }
    return pd.DataFrame.from_dict(summary, orient="index")


def _pseudo_trial(
    y: np.ndarray, window: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Units and treatments of a trial whose arms differ in the target."""
    for _ in range(_ATTEMPTS):
        start = rng.uniform(0, 1 - window)
        low, high = np.quantile(y, [start, start + window])
        rows = np.flatnonzero((y >= low) & (y <= high))
        spread = np.std(y[rows])
        strength = rng.uniform(-_STRONGEST, _STRONGEST)
        if len(rows) < 2 or spread == 0:
            continue
        z = (y[rows] - y[rows].mean()) / spread
        A = (rng.random(len(rows)) < expit(strength * z)).astype(np.int64)
        if 0 < A.sum() < len(A):
            return rows, A
    raise ValueError(
        f"window={window:g} leaves too few distinct targets a fold for a trial with two arms"
    )


def attenuation_diagnostics(predictions: ArrayLike, targets: ArrayLike) -> dict[str, float]:
    """How far predictions are shrunk, and whether the corrections' assumptions hold.

    Args:
        predictions, targets: (n,), calibration pairs.

    Returns:
        ``attenuation_slope`` (predictions on targets: what naive contrasts are multiplied by),
        ``calibration_slope`` (targets on predictions, should be 1), ``residual_mean`` and
        ``residual_variance`` of y - p, ``heteroscedasticity`` (correlation of predictions with
        squared residuals, should be near 0), and ``skewness`` of the predictions.

    Raises:
        ValueError: for arrays that do not fit or vary.

    Example:
        >>> from rankone.causal import attenuation_diagnostics
        >>> attenuation_diagnostics([0.0, 0.5, 1.0], [0.0, 1.0, 2.0])["attenuation_slope"]
        0.5
    """
    p, y = _pairs(predictions, targets)
    residual = y - p
    squares = residual**2
    varies = np.ptp(squares) > 0
    return {
        "attenuation_slope": _slope(y, p)[0],
        "calibration_slope": _slope(p, y)[0],
        "residual_mean": float(residual.mean()),
        "residual_variance": float(residual.var()),
        "heteroscedasticity": float(np.corrcoef(p, squares)[0, 1]) if varies else 0.0,
        "skewness": float(skew(p)),
    }


def __dir__() -> list[str]:
    return public_names(globals())
