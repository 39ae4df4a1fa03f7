"""Generative against discriminative linear classifiers (arXiv 2302.02334).

A naive Bayes with one diagonal variance shared by all classes is a linear classifier that is
fitted in one pass and is near its own best error after few samples; logistic regression needs more
samples and then errs less. Here are the classifier, the sample sizes at which either wins, and the
bound that turns excess logistic loss into excess error.

From the paper and its code: the classifier, the simulated problem, the learning-curve protocol and
the square-root bound. Derived for this library: the consistency transform whose inverse sharpens
that bound, and the Bayes error of the simulated problem.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import logsumexp
from scipy.stats import norm
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils import Bunch, check_random_state, check_X_y
from sklearn.utils.multiclass import check_classification_targets, unique_labels
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from rankone._arguments import check_number
from rankone._namespace import public_names

__all__ = [
    "LinearGaussianNB",
    "compare_learning_curves",
    "gaussian_mixture_bayes_error",
    "gaussian_mixture_problem",
    "logistic_consistency_transform",
    "sample_complexity",
    "zero_one_excess_bound",
]

_MAX_REDRAWS = 1000  # a subset that lacks a class is drawn again this often
# Below this the transform's two terms cancel; three terms of its series err by less than 1e-19.
_SERIES_BELOW = 1e-3


class LinearGaussianNB(ClassifierMixin, BaseEstimator):
    """Naive Bayes with class means and one pooled diagonal variance: a linear classifier.

    The score of class k is ``log pi_k - sum_j theta_kj^2 / (2 var_j) + sum_j theta_kj x_j / var_j``
    with ``var_j = sum_k (n_k / N) var_kj + var_smoothing``, ``var_kj`` the biased variance within
    class k. Unlike scikit-learn's ``GaussianNB`` the variances are shared, so that the boundary is
    linear, and the smoothing is absolute.

    Args:
        priors: (K,) class probabilities in the order of ``classes_``; None takes the frequencies.
        var_smoothing: added to every variance, at least 0.

    Attributes:
        classes_: (K,) labels.
        class_count_: (K,) sums of the sample weights.
        class_prior_: (K,) ``priors``, or frequencies.
        theta_: (K, n_features) class means.
        var_: (n_features,) pooled variance, smoothed.
        coef_: (K, n_features) ``theta_ / var_``, for two classes as well.
        intercept_: (K,) constant terms of the scores; -inf for a class without samples so far.
        n_features_in_: number of features.

    Source: "Revisiting Discriminative vs. Generative Classifiers: Theory and Implications",
    arXiv 2302.02334.

    Example:
        >>> from rankone.linear_model.generative_classifiers import LinearGaussianNB
        >>> model = LinearGaussianNB().fit([[0.0], [1.0], [4.0], [5.0]], [0, 0, 1, 1])
        >>> model.predict([[1.5], [3.5]]).tolist()
        [0, 1]
        >>> float(model.var_[0])
        0.250000001
    """

    class_count_: NDArray
    theta_: NDArray
    _within: NDArray

    def __init__(self, priors: ArrayLike | None = None, var_smoothing: float = 1e-9) -> None:
        self.priors = priors
        self.var_smoothing = var_smoothing

    def fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> LinearGaussianNB:
        """Fit in one pass.

        Args:
            X: (n_samples, n_features).
            y: (n_samples,) labels of at least two classes.
            sample_weight: (n_samples,) weights of at least 0; an integer weight counts as so many
                repetitions.

        Returns:
            self.

        Raises:
            ValueError: for a single class, bad ``priors`` or ``var_smoothing``, weights that are
                all zero, or a feature of variance 0 with ``var_smoothing=0``.
        """
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        return self._update(X, y, np.unique(y), sample_weight, fresh=True)

    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> LinearGaussianNB:
        """Add samples; any split into calls gives the result of one ``fit``.

        Args:
            X: (n_samples, n_features).
            y: (n_samples,) labels out of ``classes``.
            classes: (K,) every label that may come, required in the first call.
            sample_weight: as in :meth:`fit`.

        Returns:
            self.

        Raises:
            ValueError: as :meth:`fit`; for a first call without ``classes`` and for unseen labels.
        """
        fresh = not hasattr(self, "classes_")
        X, y = validate_data(self, X, y, dtype=np.float64, reset=fresh)
        check_classification_targets(y)
        if fresh:
            if classes is None:
                raise ValueError("classes must be given in the first call of partial_fit, got None")
            known = unique_labels(classes)
        else:
            known = self.classes_
            if classes is not None and not np.array_equal(known, unique_labels(classes)):
                raise ValueError(f"classes must stay {known.tolist()}, got {classes!r}")
        return self._update(X, y, known, sample_weight, fresh=fresh)

    def _update(
        self,
        X: NDArray,
        y: NDArray,
        classes: NDArray,
        sample_weight: ArrayLike | None,
        *,
        fresh: bool,
    ) -> LinearGaussianNB:
        if len(classes) < 2:
            raise ValueError("y must hold at least two classes, got 1 class")
        unseen = np.setdiff1d(y, classes)
        if unseen.size:
            raise ValueError(f"y must hold labels of {classes.tolist()}, got {unseen.tolist()}")
        check_number("var_smoothing", self.var_smoothing)
        if not (np.isfinite(self.var_smoothing) and self.var_smoothing >= 0):
            raise ValueError(f"var_smoothing must be at least 0, got {self.var_smoothing}")
        priors = self._checked_priors(len(classes))
        weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        if not weight.any():
            raise ValueError("sample_weight must have a positive entry, got zeros only")

        member = np.searchsorted(classes, y)
        count, mean = _weighted_means(X, member, weight, len(classes))
        within = weight @ np.square(X - mean[member])  # squares about the class means of this batch
        if not fresh:
            seen, difference = self.class_count_, mean - self.theta_
            total = seen + count
            share = np.divide(count, total, out=np.zeros_like(total), where=total > 0)
            within += self._within + (seen * share) @ np.square(difference)
            mean = self.theta_ + share[:, None] * difference
            count = total
        variance = within / count.sum() + self.var_smoothing
        constant = np.flatnonzero(variance == 0)
        if constant.size:
            raise ValueError(
                "X must vary within classes where var_smoothing is 0, got constant features "
                f"{constant.tolist()}"
            )

        self.classes_ = classes
        self.class_count_ = count
        self.theta_ = mean
        self._within = within
        self.var_ = variance
        self.class_prior_ = count / count.sum() if priors is None else priors
        self.coef_ = mean / variance
        with np.errstate(divide="ignore"):
            log_prior = np.log(np.where(count > 0, self.class_prior_, 0.0))
        self.intercept_ = log_prior - 0.5 * np.square(mean) @ (1 / variance)
        # Scores relative to the grand mean: the same up to a term that all classes share, without
        # the cancellation that a large constant feature over a tiny variance would bring.
        self._center = count @ mean / count.sum()
        centered = mean - self._center
        self._centered_coef = centered / variance
        self._centered_intercept = log_prior - 0.5 * np.square(centered) @ (1 / variance)
        return self

    def _checked_priors(self, n_classes: int) -> NDArray | None:
        if self.priors is None:
            return None
        priors = np.asarray(self.priors, dtype=np.float64)
        if priors.shape != (n_classes,):
            raise ValueError(f"priors must have shape ({n_classes},), got {priors.shape}")
        if not (priors >= 0).all():
            raise ValueError(f"priors must be at least 0, got {priors.tolist()}")
        if abs(priors.sum() - 1) > 1e-8:
            raise ValueError(f"priors must sum to 1, got a sum of {priors.sum():.6g}")
        return priors

    def _centered_scores(self, X: ArrayLike) -> tuple[NDArray, NDArray]:
        """X about the grand mean, and the scores up to a term that all classes share."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False) - self._center
        return X, X @ self._centered_coef.T + self._centered_intercept

    def decision_function(self, X: ArrayLike) -> NDArray:
        """Scores of the classes.

        Args:
            X: (m, n_features).

        Returns:
            (m, K) scores ``X @ coef_.T + intercept_``; for two classes (m,) log-odds of
            ``classes_[1]``.
        """
        X, scores = self._centered_scores(X)
        if len(self.classes_) == 2:
            return scores[:, 1] - scores[:, 0]
        shared = (X + 0.5 * self._center) @ (self._center / self.var_)
        return scores + shared[:, None]

    def predict(self, X: ArrayLike) -> NDArray:
        """The class of the highest score, the first of several: (m,) labels."""
        best = self._centered_scores(X)[1].argmax(axis=1)
        return self.classes_[best]

    def predict_joint_log_proba(self, X: ArrayLike) -> NDArray:
        """``log P(x, k)`` with the full Gaussian normaliser: (m, K); -inf for a prior of 0."""
        X, scores = self._centered_scores(X)
        shared = -0.5 * (np.square(X) @ (1 / self.var_) + np.log(2 * np.pi * self.var_).sum())
        return scores + shared[:, None]

    def predict_log_proba(self, X: ArrayLike) -> NDArray:
        """Log posteriors: (m, K); -inf for a class of prior 0."""
        scores = self._centered_scores(X)[1]
        return scores - logsumexp(scores, axis=1, keepdims=True)

    def predict_proba(self, X: ArrayLike) -> NDArray:
        """Posteriors: (m, K), rows sum to 1."""
        return np.exp(self.predict_log_proba(X))


def _weighted_means(
    X: NDArray, member: NDArray, weight: NDArray, n_classes: int
) -> tuple[NDArray, NDArray]:
    """Weights and means by class; the mean of a class without weight is 0.

    Summed about the means of all rows, so that features far from 0 lose no digits.
    """
    count = np.bincount(member, weights=weight, minlength=n_classes)
    offset = X.mean(axis=0)
    sums = np.zeros((n_classes, X.shape[1]))
    for k in np.flatnonzero(count):
        rows = member == k
        sums[k] = weight[rows] @ (X[rows] - offset)
    positive = count > 0
    mean = np.zeros_like(sums)
    mean[positive] = sums[positive] / count[positive, None] + offset
    return count, mean


def gaussian_mixture_problem(
    n_features: int,
    n_classes: int,
    n_samples: int,
    random_state: int | np.random.RandomState | None = None,
) -> tuple[NDArray, NDArray]:
    """The paper's simulated problem: classes along the diagonal, half of the features noisy.

    Class k has mean ``mu_k (1, ..., 1)``, ``mu_0 = -1`` and ``mu_k = 2^(k-1)``; the first half of
    the features has variance ``n_features``, the others 1. Classes are balanced.

    Args:
        n_features: features, at least 1.
        n_classes: classes, at least 2.
        n_samples: rows, at least ``n_classes``.
        random_state: seed or generator.

    Returns:
        X (n_samples, n_features) and y (n_samples,), shuffled.

    Raises:
        ValueError: for sizes below those.

    Source: arXiv 2302.02334.

    Example:
        >>> from rankone.linear_model.generative_classifiers import gaussian_mixture_problem
        >>> X, y = gaussian_mixture_problem(4, 2, 10, random_state=0)
        >>> X.shape, int(y.sum())
        ((10, 4), 5)
    """
    _check_problem(n_features, n_classes)
    if n_samples < n_classes:
        raise ValueError(f"n_samples must be at least n_classes = {n_classes}, got {n_samples}")
    generator = check_random_state(random_state)
    y = generator.permutation(np.arange(n_samples) % n_classes)
    X = generator.standard_normal((n_samples, n_features))
    X[:, : n_features // 2] *= math.sqrt(n_features)
    return X + _class_means(n_classes)[y, None], y


def gaussian_mixture_bayes_error(n_features: int, n_classes: int) -> float:
    """The lowest error any classifier can have on :func:`gaussian_mixture_problem`.

    All means lie on one line, so that only neighbours along it are confused:
    ``(2 / K) sum_k Phi(-(mu_{k+1} - mu_k) s / 2)``, s^2 the sum of the inverse variances. Derived
    for this library.

    Args:
        n_features: features, at least 1.
        n_classes: classes, at least 2.

    Returns:
        A probability.

    Raises:
        ValueError: for sizes below those.

    Example:
        >>> from rankone.linear_model.generative_classifiers import gaussian_mixture_bayes_error
        >>> round(gaussian_mixture_bayes_error(2, 2), 6)
        0.110336
    """
    _check_problem(n_features, n_classes)
    noisy = n_features // 2
    s = math.sqrt(noisy / n_features + n_features - noisy)
    return float(2 / n_classes * norm.cdf(-np.diff(_class_means(n_classes)) * s / 2).sum())


def _class_means(n_classes: int) -> NDArray:
    return np.concatenate(([-1.0], 2.0 ** np.arange(n_classes - 1)))


def _check_problem(n_features: int, n_classes: int) -> None:
    if n_features < 1:
        raise ValueError(f"n_features must be at least 1, got {n_features}")
    if n_classes < 2:
        raise ValueError(f"n_classes must be at least 2, got {n_classes}")


def sample_complexity(
    estimator: Any,
    n_features: int,
    n_classes: int = 2,
    tol: float = 0.01,
    train_sizes: Iterable[int] | None = None,
    n_repeats: int = 10,
    n_test: int = 10000,
    random_state: int | np.random.RandomState | None = 0,
) -> Bunch:
    """The smallest training size whose mean test error is within ``tol`` of the Bayes error.

    Sizes are tried in turn on fresh training sets of :func:`gaussian_mixture_problem` against one
    fixed test set, up to the first that reaches the target.

    Args:
        estimator: a classifier; clones of it are fitted.
        n_features: features of the problem.
        n_classes: its classes.
        tol: allowed excess over the Bayes error, above 0.
        train_sizes: sizes to try, in this order, each at least ``n_classes``; None means
            ``range(2 n_classes, 100 n_features, ceil(log n_features))``.
        n_repeats: training sets a size.
        n_test: test samples.
        random_state: seed or generator.

    Returns:
        Bunch of n_samples (int, or None where no size reached the target), errors (mean test
        error at each size tried), train_sizes (those tried) and target.

    Raises:
        ValueError: for sizes below those, and for no training size.

    Source: protocol of arXiv 2302.02334.

    Example:
        >>> from rankone.linear_model.generative_classifiers import (
        ...     LinearGaussianNB, sample_complexity)
        >>> sample_complexity(LinearGaussianNB(), 50, train_sizes=range(4, 40)).n_samples < 20
        True
    """
    target = gaussian_mixture_bayes_error(n_features, n_classes) + tol
    if not tol > 0:
        raise ValueError(f"tol must be above 0, got {tol}")
    if n_repeats < 1:
        raise ValueError(f"n_repeats must be at least 1, got {n_repeats}")
    if train_sizes is None:
        step = max(1, math.ceil(math.log(n_features)))
        train_sizes = range(2 * n_classes, 100 * n_features, step)
    sizes = [int(size) for size in train_sizes]
    if not sizes or min(sizes) < n_classes:
        raise ValueError(
            f"train_sizes must hold sizes of at least n_classes = {n_classes}, got {sizes}"
        )
    generator = check_random_state(random_state)
    X_test, y_test = gaussian_mixture_problem(n_features, n_classes, n_test, generator)
    errors: list[float] = []
    reached = None
    for size in sizes:
        total = 0.0
        for _ in range(n_repeats):
            X, y = gaussian_mixture_problem(n_features, n_classes, size, generator)
            total += np.mean(clone(estimator).fit(X, y).predict(X_test) != y_test)
        errors.append(total / n_repeats)
        if errors[-1] <= target:
            reached = size
            break
    return Bunch(
        n_samples=reached,
        errors=np.array(errors),
        train_sizes=np.array(sizes[: len(errors)]),
        target=target,
    )


def compare_learning_curves(
    generative: Any,
    discriminative: Any,
    X: ArrayLike,
    y: ArrayLike,
    train_sizes: Sequence[int],
    n_repeats: int = 5,
    test_size: float = 1 / 3,
    scaler: str | None = "minmax",
    random_state: int | np.random.RandomState | None = 0,
) -> Bunch:
    """Test error of two classifiers against the training size, and where they cross.

    One random test split is held out. For each size and repeat a subset of the rest is drawn
    without replacement, again until it holds every class; scaler and both classifiers are fitted
    on it alone.

    Args:
        generative, discriminative: classifiers; clones of them are fitted.
        X: (n_samples, n_features) features.
        y: (n_samples,) labels.
        train_sizes: increasing sizes, from the number of classes to the size of the pool.
        n_repeats: subsets a size.
        test_size: share of the rows that is held out.
        scaler: ``"minmax"`` to [0, 1], or None.
        random_state: seed or generator.

    Returns:
        Bunch of train_sizes, generative_error, discriminative_error, generative_std,
        discriminative_std, each (len(train_sizes),), and crossover: the size at which the
        generative classifier stops being the better one, interpolated linearly in the logarithm
        of the size; None where it never does.

    Raises:
        ValueError: for sizes outside those, an unknown scaler, or a class so rare that 1000
            subsets lacked one.

    Source: protocol of arXiv 2302.02334.

    Example:
        >>> from sklearn.linear_model import LogisticRegression
        >>> from rankone.linear_model.generative_classifiers import (
        ...     LinearGaussianNB, compare_learning_curves, gaussian_mixture_problem)
        >>> X, y = gaussian_mixture_problem(20, 2, 300, random_state=0)
        >>> curves = compare_learning_curves(
        ...     LinearGaussianNB(), LogisticRegression(), X, y, [10, 100])
        >>> bool(curves.generative_error[0] < curves.discriminative_error[0])
        True
    """
    if scaler not in ("minmax", None):
        raise ValueError(f"scaler must be 'minmax' or None, got {scaler!r}")
    if n_repeats < 1:
        raise ValueError(f"n_repeats must be at least 1, got {n_repeats}")
    X, y = check_X_y(X, y, dtype=np.float64)
    generator = check_random_state(random_state)
    pool, X_test, pool_y, y_test = train_test_split(
        X, y, test_size=test_size, random_state=generator
    )
    n_classes = len(np.unique(y))
    sizes = np.asarray(train_sizes, dtype=np.int64)
    if sizes.ndim != 1 or not sizes.size or (np.diff(sizes) <= 0).any():
        raise ValueError(f"train_sizes must be increasing sizes, got {train_sizes!r}")
    if sizes[0] < n_classes or sizes[-1] > len(pool):
        raise ValueError(
            f"train_sizes must lie between the number of classes, {n_classes}, and the size of "
            f"the training pool, {len(pool)}, got {sizes.tolist()}"
        )
    errors = np.empty((2, len(sizes), n_repeats))
    for i, size in enumerate(sizes):
        for repeat in range(n_repeats):
            rows = _subset_with_all_classes(pool_y, size, n_classes, generator)
            train, test = pool[rows], X_test
            if scaler == "minmax":
                scaling = MinMaxScaler().fit(train)
                train, test = scaling.transform(train), scaling.transform(test)
            for side, estimator in enumerate((generative, discriminative)):
                predicted = clone(estimator).fit(train, pool_y[rows]).predict(test)
                errors[side, i, repeat] = np.mean(predicted != y_test)
    mean, deviation = errors.mean(axis=2), errors.std(axis=2)
    return Bunch(
        train_sizes=sizes,
        generative_error=mean[0],
        discriminative_error=mean[1],
        generative_std=deviation[0],
        discriminative_std=deviation[1],
        crossover=_crossover(sizes, mean[0] - mean[1]),
    )


def _subset_with_all_classes(
    y: NDArray, size: int, n_classes: int, generator: np.random.RandomState
) -> NDArray:
    for _ in range(_MAX_REDRAWS):
        rows = generator.choice(len(y), size, replace=False)
        if len(np.unique(y[rows])) == n_classes:
            return rows
    raise ValueError(
        f"train_sizes: {_MAX_REDRAWS} subsets of {size} rows lacked a class; use larger sizes"
    )


def _crossover(sizes: NDArray, difference: NDArray) -> float | None:
    """Where ``difference`` first goes from negative to at least 0, or None."""
    changes = np.flatnonzero((difference[:-1] < 0) & (difference[1:] >= 0))
    if not changes.size:
        return None
    i = changes[0]
    before, after = np.log(sizes[i : i + 2])
    share = -difference[i] / (difference[i + 1] - difference[i])
    return float(np.exp(before + share * (after - before)))


def logistic_consistency_transform(t: ArrayLike) -> NDArray:
    """The least excess logistic loss at a point where the excess zero-one loss is ``t``.

    ``T(t) = (1 + t)/2 log(1 + t) + (1 - t)/2 log(1 - t)``, natural logarithms: convex, between
    t^2 / 2 and log 2, for any number of classes. Derived for this library; the paper states the
    square-root bound that follows from ``T(t) >= t^2 / 2``.

    Args:
        t: gaps between the best class probability and that of the class ranked first, in [0, 1].

    Returns:
        T(t), of t's shape.

    Raises:
        ValueError: for ``t`` outside [0, 1].

    Example:
        >>> from rankone.linear_model.generative_classifiers import logistic_consistency_transform
        >>> round(float(logistic_consistency_transform(0.5)), 5)
        0.13081
    """
    t = np.asarray(t, dtype=np.float64)
    if not ((t >= 0) & (t <= 1)).all():
        raise ValueError("t must lie in [0, 1], got " + str(t[~((t >= 0) & (t <= 1))].ravel()[:3]))
    square = t * t
    series = square * (1 / 2 + square * (1 / 12 + square / 30))
    with np.errstate(divide="ignore", invalid="ignore"):
        lower = np.where(t < 1, (1 - t) / 2 * np.log1p(-t), 0.0)
    return np.where(t < _SERIES_BELOW, series, (1 + t) / 2 * np.log1p(t) + lower)


def zero_one_excess_bound(excess_logistic_risk: float, form: str = "exact") -> float:
    """Bound on the excess error of a classifier whose excess logistic risk is known.

    ``T^{-1}(E)`` with :func:`logistic_consistency_transform`, or the looser ``sqrt(2 E)``; both at
    most 1. The excess risk is the expected logistic loss (natural logarithm) less the least one
    that any scores attain, not the loss itself.

    Args:
        excess_logistic_risk: E, at least 0.
        form: ``"exact"`` or ``"sqrt"``, the paper's.

    Returns:
        The bound, in [0, 1].

    Raises:
        ValueError: for a negative or NaN risk, or an unknown form.

    Example:
        >>> from rankone.linear_model.generative_classifiers import zero_one_excess_bound
        >>> round(zero_one_excess_bound(0.02), 4), round(zero_one_excess_bound(0.02, "sqrt"), 4)
        (0.1993, 0.2)
    """
    excess = float(excess_logistic_risk)
    if not excess >= 0:
        raise ValueError(f"excess_logistic_risk must be at least 0, got {excess}")
    if form not in ("exact", "sqrt"):
        raise ValueError(f"form must be 'exact' or 'sqrt', got {form!r}")
    loose = min(1.0, math.sqrt(2 * excess))
    if form == "sqrt" or excess == 0:
        return loose
    if excess >= math.log(2):
        return 1.0
    return float(
        brentq(
            lambda t: float(logistic_consistency_transform(t)) - excess,
            0.0,
            loose,
            xtol=1e-15 * loose,
            rtol=8.9e-16,
        )
    )


def __dir__() -> list[str]:
    return public_names(globals())
