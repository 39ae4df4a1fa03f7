"""The moon shape: minority against majority accuracy over many models (arXiv 2305.02995).

Where the training data hold a spurious correlation, models that do better on the majority do worse,
or no better, on the minority, until the best ones gain steeply: the points of many models bend.
Here are the data and models to see it with, the accuracies of each model on the true groups, the
test of the bend, and the Gaussian case in closed form.

From the paper: the finding, for image models, and the two settings (spurious correlation, rare
subpopulation). Derived for this library: the statistics, the theory and the tabular experiments.
"""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm
from scipy.stats import t as student_t
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import ConvergenceWarning, FitFailedWarning
from sklearn.utils import Bunch, check_random_state
from sklearn.utils.validation import _num_samples, check_is_fitted

from rankone._namespace import public_names
from rankone.interpret._subpopulation_data import (
    check_count,
    default_model_zoo,
    spurious_digits,
    spurious_mixture,
)
from rankone.interpret._subpopulation_theory import (
    gaussian_frontier,
    gaussian_optimal_angle,
    gaussian_subpopulation_accuracy,
)

__all__ = [
    "MoonShapeAnalysis",
    "default_model_zoo",
    "gaussian_frontier",
    "gaussian_optimal_angle",
    "gaussian_subpopulation_accuracy",
    "mixture_accuracy",
    "overall_accuracy",
    "spurious_digits",
    "spurious_mixture",
    "subpopulation_accuracies",
]

_CONFIDENCE = 0.95  # of the bootstrap intervals
_MIN_POINTS = 4  # a parabola has three coefficients; the test of one needs a residual
_RESAMPLES_AT_ONCE = 256
_MAX_REDRAWS = 1000
# Of a term orthogonal to constant and slope, in units of the half range of the majority accuracy,
# over the root of the points: below this the points take two values up to rounding.
_TWO_VALUES = 1e-10

# Right answers by group, warnings of another process, and what was raised.
_Outcome = tuple[tuple[int, int] | None, list[tuple[str, type[Warning]]], Exception | None]


def subpopulation_accuracies(
    estimators: Sequence[Any],
    X_train: Any,
    y_train: ArrayLike,
    X_test: Any,
    y_test: ArrayLike,
    majority: ArrayLike,
    n_jobs: int | None = None,
    on_error: str = "raise",
) -> Bunch:
    """Fit models, and count what each gets right in either group of the test set.

    Give a test set with about as many minority as majority samples: with few, binomial noise alone
    bends the cloud. The attribute must not be a column of its own. Models that stop before they
    converge are kept, and that warning alone is silenced; other warnings are passed on.

    Args:
        estimators: (name, classifier) pairs, or classifiers, which are called by their class;
            clones are fitted.
        X_train, y_train: what they are fitted to.
        X_test, y_test: what they predict, with one label a row.
        majority: (n_test,) bool, whether a test sample is of the majority: by agreement of label
            and attribute, not by the more frequent label.
        n_jobs: jobs of joblib over the models; the accuracies do not depend on it.
        on_error: ``"raise"`` stops at a model that raises; ``"nan"`` warns of it by name and gives
            it NaN accuracies.

    Returns:
        Bunch of name (list), majority (m,) and minority (m,) accuracies, overall (m,) accuracy on
        the whole test set, the group sizes n_majority and n_minority, and failures (name to
        message).

    Raises:
        ValueError: for no estimators, unequal lengths, a group without test samples or another
            ``on_error``.
        TypeError: for ``majority`` that is not boolean, or an estimator without fit and predict.
        RuntimeError: for a model that raises, naming it, with its exception as the cause.

    Source: the protocol of "Accuracy on the Curve" (arXiv 2305.02995), on a user's own models.

    Example:
        >>> from rankone.interpret.subpopulation import (
        ...     default_model_zoo, spurious_mixture, subpopulation_accuracies)
        >>> train = spurious_mixture(500, 0.9, random_state=0)
        >>> test = spurious_mixture(1000, 0.5, random_state=1)
        >>> found = subpopulation_accuracies(
        ...     default_model_zoo()[:2], train.X, train.y, test.X, test.y, test.majority)
        >>> found.name
        ['LogisticRegression C=0.0001', 'LogisticRegression C=0.001']
        >>> bool((found.majority > found.minority).all())
        True
    """
    if on_error not in ("raise", "nan"):
        raise ValueError(f"on_error must be 'raise' or 'nan', got {on_error!r}")
    named = _named(estimators)
    y_test = _labels("y_test", y_test)
    _check_length("y_train", _labels("y_train", y_train), "X_train", X_train)
    _check_length("y_test", y_test, "X_test", X_test)
    group = np.asarray(majority)
    if group.dtype != np.bool_:
        raise TypeError(f"majority must be boolean, got dtype {group.dtype}")
    if group.shape != y_test.shape:
        raise ValueError(f"majority must have shape {y_test.shape}, got {group.shape}")
    n_majority, n_minority = int(group.sum()), int((~group).sum())
    if not (n_majority and n_minority):
        empty = "minority" if n_majority else "majority"
        raise ValueError(f"majority must mark samples of both groups, got an empty {empty}")

    parent = os.getpid()
    # Jobs in this process share its warning filters, so they are recorded here, once.
    with warnings.catch_warnings(record=True) as recorded:
        _silence_convergence()
        outcomes = Parallel(n_jobs=n_jobs)(
            delayed(_correct)(estimator, X_train, y_train, X_test, y_test, group, parent)
            for _, estimator in named
        )
    for entry in recorded:
        warnings.warn(entry.message, entry.category, stacklevel=2)
    counts = np.full((len(named), 2), np.nan)
    failures: dict[str, str] = {}
    for row, ((name, _), (correct, messages, error)) in enumerate(
        zip(named, outcomes, strict=True)
    ):
        for message, category in messages:
            warnings.warn(f"{name}: {message}", category, stacklevel=2)
        if error is None:
            counts[row] = correct
            continue
        failures[name] = f"{type(error).__name__}: {error}"
        if on_error == "raise":
            raise RuntimeError(f"estimator {name!r} raised {failures[name]}") from error
        warnings.warn(
            f"estimator {name!r} has NaN accuracies, it raised {failures[name]}",
            FitFailedWarning,
            stacklevel=2,
        )
    return Bunch(
        name=[name for name, _ in named],
        majority=counts[:, 0] / n_majority,
        minority=counts[:, 1] / n_minority,
        overall=counts.sum(axis=1) / len(group),
        n_majority=n_majority,
        n_minority=n_minority,
        failures=failures,
    )


def _correct(
    estimator: Any,
    X_train: Any,
    y_train: Any,
    X_test: Any,
    y_test: NDArray,
    group: NDArray,
    parent: int,
) -> _Outcome:
    """Right answers on majority and minority, what was warned of, and what was raised."""

    def attempt() -> tuple[tuple[int, int] | None, Exception | None]:
        try:
            predicted = clone(estimator).fit(X_train, y_train).predict(X_test)
            right = np.asarray(predicted) == y_test
            return (int((right & group).sum()), int((right & ~group).sum())), None
        except Exception as error:
            return None, error

    if os.getpid() == parent:
        correct, error = attempt()
        return correct, [], error
    with warnings.catch_warnings(record=True) as recorded:
        _silence_convergence()
        correct, error = attempt()
    messages = [(str(entry.message), entry.category) for entry in recorded]
    return correct, messages, _portable(error)


def _portable(error: Exception | None) -> Exception | None:
    """``error``, or its text where it would not survive the way to another process."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _silence_convergence() -> None:
    warnings.simplefilter("always")
    warnings.simplefilter("ignore", ConvergenceWarning)


def _named(estimators: Sequence[Any]) -> list[tuple[str, Any]]:
    named = []
    for entry in estimators:
        name, estimator = entry if isinstance(entry, tuple) else (type(entry).__name__, entry)
        if not (hasattr(estimator, "fit") and hasattr(estimator, "predict")):
            raise TypeError(f"estimators must have fit and predict, got {estimator!r} for {name!r}")
        named.append((str(name), estimator))
    if not named:
        raise ValueError("estimators must hold at least one model, got none")
    return named


def _labels(name: str, y: ArrayLike) -> NDArray:
    labels = np.asarray(y)
    if labels.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, got shape {labels.shape}")
    return labels


def _check_length(name: str, y: NDArray, X_name: str, X: Any) -> None:
    rows = _num_samples(X)
    if len(y) != rows:
        raise ValueError(f"{name} must have the {rows} rows of {X_name}, got {len(y)}")


class MoonShapeAnalysis(BaseEstimator):
    """Whether minority accuracy is a curved function of majority accuracy over models.

    Fits minority accuracy by least squares as a line and as a parabola of majority accuracy. The
    moon shape is a positive curvature that explains a good part of the scatter: look at the
    nonlinearity and the p-value together, for a parabola never fits worse than a line. The probit
    line is the control: where it fits, the bend is one of the scale of the axes.

    The p-value takes models as independent, which the members of one family are not quite; the
    bootstrap draws models in the same way.

    Args:
        n_bootstrap: resamples of the models for the intervals; 0 computes none.
        random_state: of the bootstrap.
        clip: accuracies are clipped to [clip, 1 - clip] before the probit, in (0, 0.5).

    Attributes:
        linear_coef_: (2,) of the line, constant first.
        quadratic_coef_: (3,) of the parabola, constant first.
        curvature_: coefficient of the square, ``quadratic_coef_[2]``.
        curvature_pvalue_: two-sided, of the t-test that the curvature is 0; 1 where the line leaves
            nothing but rounding.
        r2_linear_, r2_quadratic_: explained shares; both 1 for a constant minority accuracy.
        curvature_error_: its standard error.
        nonlinearity_: ``r2_quadratic_ - r2_linear_``, at least 0.
        r2_probit_: of the line between the probits; NaN where clipping leaves a constant majority.
        probit_coef_: (2,) of that line, constant first.
        curvature_interval_, nonlinearity_interval_: 95 % percentile intervals (2,), or None.
        n_models_: points.

    Source: the moon shape is of "Accuracy on the Curve: On the Nonlinear Correlation of ML
    Performance Between Data Subpopulations" (arXiv 2305.02995); these statistics are this
    library's own.

    Example:
        >>> import numpy as np
        >>> from rankone.interpret.subpopulation import MoonShapeAnalysis
        >>> majority = np.linspace(0.5, 0.9, 9)
        >>> analysis = MoonShapeAnalysis().fit(majority, 0.3 + 4 * (majority - 0.6) ** 2)
        >>> round(analysis.curvature_, 6), round(analysis.r2_quadratic_, 6)
        (4.0, 1.0)
    """

    def __init__(
        self,
        n_bootstrap: int = 0,
        random_state: int | np.random.RandomState | None = None,
        clip: float = 1e-3,
    ) -> None:
        self.n_bootstrap = n_bootstrap
        self.random_state = random_state
        self.clip = clip

    def fit(self, majority_accuracy: ArrayLike, minority_accuracy: ArrayLike) -> MoonShapeAnalysis:
        """Fit line, parabola and probit line.

        Args:
            majority_accuracy, minority_accuracy: (m,) accuracies in [0, 1], one a model, at least
                4 models.

        Returns:
            self.

        Raises:
            ValueError: for accuracies that are not in [0, 1] or NaN, unequal lengths, fewer than 4
                models or (for intervals) 4 distinct majority accuracies, or fewer than 3 distinct
                ones, between which no parabola is determined.
            TypeError: for what is not numbers.
        """
        check_count("n_bootstrap", self.n_bootstrap, 0)
        if not 0 < self.clip < 0.5:
            raise ValueError(f"clip must be in (0, 0.5), got {self.clip}")
        x = _accuracies("majority_accuracy", majority_accuracy)
        y = _accuracies("minority_accuracy", minority_accuracy)
        if len(x) != len(y):
            raise ValueError(
                f"minority_accuracy must have the {len(x)} models of majority_accuracy, "
                f"got {len(y)}"
            )
        if len(x) < _MIN_POINTS:
            raise ValueError(
                f"majority_accuracy must have at least {_MIN_POINTS} models, got {len(x)}"
            )
        if np.ptp(x) == 0:
            raise ValueError(f"majority_accuracy must not be constant, got {x[0]} for every model")
        self.n_models_ = len(x)
        self._points = x, y
        fit = _parabolas(x[None], y[None])
        if fit.two_values[0]:
            raise ValueError(
                "majority_accuracy must take at least 3 distinct values for a parabola, "
                f"got {np.unique(x).tolist()}"
            )
        self.linear_coef_ = fit.linear[0]
        self.quadratic_coef_ = fit.quadratic[0]
        self.curvature_ = float(fit.quadratic[0, 2])
        self.r2_linear_ = float(fit.r2_linear[0])
        self.nonlinearity_ = float(fit.nonlinearity[0])
        self.r2_quadratic_ = self.r2_linear_ + self.nonlinearity_
        self.curvature_error_ = float(fit.error[0])
        self.curvature_pvalue_ = float(fit.pvalue[0])
        self._fit_probit(x, y)
        self.curvature_interval_ = self.nonlinearity_interval_ = None
        if self.n_bootstrap:
            self._bootstrap(x, y)
        return self

    def _fit_probit(self, x: NDArray, y: NDArray) -> None:
        u, v = (norm.ppf(np.clip(values, self.clip, 1 - self.clip)) for values in (x, y))
        self.probit_coef_, self.r2_probit_ = np.full(2, np.nan), float("nan")
        if np.ptp(u) == 0:
            warnings.warn(
                f"majority accuracies are constant after clipping to [{self.clip:g}, "
                f"{1 - self.clip:g}], so there is no probit line: r2_probit_ is NaN; lower clip",
                UserWarning,
                stacklevel=3,
            )
            return
        du, dv = u - u.mean(), v - v.mean()
        slope = (du @ dv) / (du @ du)
        self.probit_coef_ = np.array([v.mean() - slope * u.mean(), slope])
        self.r2_probit_ = float((du @ dv) ** 2 / ((du @ du) * (dv @ dv))) if np.ptp(v) else 1.0

    def _bootstrap(self, x: NDArray, y: NDArray) -> None:
        distinct = len(np.unique(x))
        if distinct < _MIN_POINTS:
            raise ValueError(
                f"majority_accuracy must take at least {_MIN_POINTS} distinct values for "
                f"n_bootstrap, got {distinct}"
            )
        generator = check_random_state(self.random_state)
        curvature, nonlinearity = [], []
        for start in range(0, self.n_bootstrap, _RESAMPLES_AT_ONCE):
            rows = min(_RESAMPLES_AT_ONCE, self.n_bootstrap - start)
            chosen = _resamples(x, rows, generator)
            fit = _parabolas(x[chosen], y[chosen])
            curvature.append(fit.quadratic[:, 2])
            nonlinearity.append(fit.nonlinearity)
        levels = [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2]
        self.curvature_interval_ = np.quantile(np.concatenate(curvature), levels)
        self.nonlinearity_interval_ = np.quantile(np.concatenate(nonlinearity), levels)

    def predict(self, majority_accuracy: ArrayLike) -> NDArray:
        """The parabola at (n,) majority accuracies: (n,), not cut to [0, 1]."""
        check_is_fitted(self)
        x = _accuracies("majority_accuracy", majority_accuracy)
        constant, slope, curvature = self.quadratic_coef_
        return constant + x * (slope + x * curvature)

    def summary(self) -> Any:
        """The fits as a table.

        Returns:
            A summary that prints itself; its ``frame`` has a row each for the curvature, the
            nonlinearity and the three explained shares, with columns estimate, std_error, p_value,
            lower and upper (NaN where there is none).
        """
        from pandas import DataFrame

        from rankone.stats._summary import Summary

        check_is_fitted(self)
        nan = float("nan")
        no_interval = np.array([nan, nan])
        curvature = no_interval if self.curvature_interval_ is None else self.curvature_interval_
        bend = no_interval if self.nonlinearity_interval_ is None else self.nonlinearity_interval_
        rows = {
            "curvature": (
                self.curvature_, self.curvature_error_, self.curvature_pvalue_, *curvature,
            ),
            "nonlinearity": (self.nonlinearity_, nan, nan, *bend),
            "R2 linear": (self.r2_linear_, nan, nan, *no_interval),
            "R2 quadratic": (self.r2_quadratic_, nan, nan, *no_interval),
            "R2 probit": (self.r2_probit_, nan, nan, *no_interval),
        }  # fmt: skip
        columns = ["estimate", "std_error", "p_value", "lower", "upper"]
        notes = ["Least squares of minority on majority accuracy; models taken as independent."]
        if self.n_bootstrap:
            notes.append(
                f"{_CONFIDENCE:.0%} percentile intervals of {self.n_bootstrap} resamples of models."
            )
        return Summary(
            f"Accuracy curve of {self.n_models_} models",
            DataFrame.from_dict(rows, orient="index", columns=columns),
            tuple(notes),
        )

    def plot(self, ax: Any = None) -> Any:
        """Draw the models, the line, the parabola and the diagonal of equal accuracies.

        Args:
            ax: matplotlib axes; None makes new ones.

        Returns:
            The axes.
        """
        check_is_fitted(self)
        if ax is None:
            from matplotlib import pyplot

            ax = pyplot.subplots()[1]
        x, y = self._points
        grid = np.linspace(x.min(), x.max(), 200)
        ax.axline((0.5, 0.5), slope=1, color="0.6", linewidth=1, label="equal accuracies")
        ax.plot(x, y, "o", markersize=4, alpha=0.7, label="models")
        ax.plot(
            grid,
            self.linear_coef_[0] + self.linear_coef_[1] * grid,
            "--",
            label=f"line, R2 = {self.r2_linear_:.2f}",
        )
        ax.plot(grid, self.predict(grid), label=f"parabola, R2 = {self.r2_quadratic_:.2f}")
        ax.set_xlabel("majority accuracy")
        ax.set_ylabel("minority accuracy")
        ax.set_title(f"curvature {self.curvature_:.2f}, p = {self.curvature_pvalue_:.2g}")
        ax.legend()
        return ax


def _parabolas(x: NDArray, y: NDArray) -> Bunch:
    """Least-squares lines and parabolas of rows: x, y (b, m).

    An orthonormal basis of constant, slope and bend about the centre makes the explained shares
    sums of squares: the nonlinearity is never negative and no digits cancel in it.
    """
    m = x.shape[1]
    centre = x.mean(axis=1, keepdims=True)
    half = np.abs(x - centre).max(axis=1, keepdims=True)
    z = (x - centre) / half
    basis, R = np.linalg.qr(np.stack([np.ones_like(z), z, z**2], axis=2))
    middle = y.mean(axis=1, keepdims=True)
    dy = y - middle
    along = np.einsum("bmk,bm->bk", basis, dy)
    total = np.square(dy).sum(axis=1)
    flat = np.ptp(y, axis=1) == 0
    two_values = np.abs(R[:, 2, 2]) < _TWO_VALUES * np.sqrt(m)
    safe_total = np.where(flat, 1.0, total)
    r2_linear = np.where(flat, 1.0, along[:, 1] ** 2 / safe_total)
    nonlinearity = np.where(flat, 0.0, along[:, 2] ** 2 / safe_total)

    coefficients = np.zeros((len(x), 3))
    usable = ~two_values
    coefficients[usable] = np.linalg.solve(R[usable], along[usable, :, None])[..., 0]
    slope = along[:, 1] / R[:, 1, 1]  # the line's own: the parabola's slope at the centre differs
    residual = np.square(dy - np.einsum("bmk,bk->bm", basis, along)).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.sqrt(residual / (m - 3)) / np.abs(R[:, 2, 2])
        pvalue = 2 * student_t.sf(np.abs(coefficients[:, 2]) / error, m - 3)
    rounding = np.abs(along[:, 2]) <= m * np.finfo(float).eps * np.sqrt(np.square(y).sum(axis=1))
    pvalue = np.where(rounding, 1.0, pvalue)

    half, centre, middle = half[:, 0], centre[:, 0], middle[:, 0]
    b0, b1, b2 = coefficients[:, 0], coefficients[:, 1] / half, coefficients[:, 2] / half**2
    slope = slope / half
    return Bunch(
        linear=np.stack([middle - slope * centre, slope], axis=1),
        quadratic=np.stack(
            [middle + b0 - b1 * centre + b2 * centre**2, b1 - 2 * b2 * centre, b2], axis=1
        ),
        r2_linear=r2_linear,
        nonlinearity=nonlinearity,
        error=error / half**2,
        pvalue=pvalue,
        two_values=two_values,
    )


def _resamples(x: NDArray, rows: int, generator: np.random.RandomState) -> NDArray:
    """Indices (rows, m) of resamples that hold at least four distinct values of x."""
    chosen = generator.randint(len(x), size=(rows, len(x)))
    for _ in range(_MAX_REDRAWS):
        values = np.sort(x[chosen], axis=1)
        degenerate = (np.diff(values, axis=1) > 0).sum(axis=1) + 1 < _MIN_POINTS
        if not degenerate.any():
            return chosen
        chosen[degenerate] = generator.randint(len(x), size=(int(degenerate.sum()), len(x)))
    raise ValueError(
        "majority_accuracy must take 4 distinct values in a resample for n_bootstrap, "
        f"got none in {_MAX_REDRAWS} draws: nearly all models share few values"
    )


def _accuracies(name: str, values: ArrayLike) -> NDArray:
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must hold numbers, got dtype {array.dtype}")
    if array.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, got shape {array.shape}")
    array = array.astype(np.float64)
    _check_accuracies(name, array)
    return array


def _check_accuracies(name: str, array: NDArray) -> None:
    outside = ~((array >= 0) & (array <= 1))
    if outside.any():
        raise ValueError(f"{name} must be in [0, 1], got {array[outside].flat[0]}")


def mixture_accuracy(
    acc_a: tuple[ArrayLike, ArrayLike], acc_b: tuple[ArrayLike, ArrayLike], weight: ArrayLike
) -> tuple[Any, Any]:
    """Group accuracies of answering with model b with probability ``weight``, else with model a.

    They are ``(1 - weight) acc_a + weight acc_b`` exactly, a point of the chord: randomised models
    fill the region between curve and chord, so a curve of trained models is no necessity.

    Args:
        acc_a, acc_b: (majority, minority) accuracies in [0, 1], numbers or arrays.
        weight: in [0, 1], a number or an array that broadcasts.

    Returns:
        (majority, minority): floats, or arrays.

    Raises:
        ValueError: for accuracies or weights outside [0, 1], or accuracies that are not a pair.

    Source: derived for this library.

    Example:
        >>> from rankone.interpret.subpopulation import mixture_accuracy
        >>> mixture_accuracy((0.5, 0.5), (1.0, 0.75), 0.5)
        (0.75, 0.625)
    """
    pairs = []
    for name, pair in (("acc_a", acc_a), ("acc_b", acc_b)):
        if len(pair) != 2:
            raise ValueError(f"{name} must be a pair (majority, minority), got {len(pair)} entries")
        pairs.append([_numbers(name, entry) for entry in pair])
    share = _numbers("weight", weight)
    (majority_a, minority_a), (majority_b, minority_b) = pairs
    return (
        _plain((1 - share) * majority_a + share * majority_b),
        _plain((1 - share) * minority_a + share * minority_b),
    )


def overall_accuracy(majority: ArrayLike, minority: ArrayLike, minority_fraction: ArrayLike) -> Any:
    """Accuracy on a population: ``(1 - minority_fraction) majority + minority_fraction minority``.

    Args:
        majority, minority: accuracies in [0, 1], numbers or arrays.
        minority_fraction: share of the minority, in [0, 1].

    Returns:
        A float, or an array.

    Raises:
        ValueError: for values outside [0, 1].

    Example:
        >>> from rankone.interpret.subpopulation import overall_accuracy
        >>> overall_accuracy(1.0, 0.5, 0.25)
        0.875
    """
    share = _numbers("minority_fraction", minority_fraction)
    return _plain(
        (1 - share) * _numbers("majority", majority) + share * _numbers("minority", minority)
    )


def _numbers(name: str, values: ArrayLike) -> NDArray:
    array = np.asarray(values, dtype=np.float64)
    _check_accuracies(name, array)
    return array


def _plain(values: NDArray) -> Any:
    return values if np.ndim(values) else float(values)


def __dir__() -> list[str]:
    return public_names(globals())
