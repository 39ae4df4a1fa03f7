"""Answering adaptively chosen queries on one data set without overfitting it (arXiv 1411.2664).

An analyst who chooses the next question after seeing the last answer soon fits the sample and not
the population. A mechanism stands between the two: it perturbs or withholds answers and carries,
where the theory has one, a guarantee about the population (:mod:`rankone.stats._adaptive_bounds`).

Thresholdout is that of "The reusable holdout" by the same authors, sparse vector and private
multiplicative weights are as in Dwork and Roth's monograph. The noise is for validity: it comes
from an ordinary generator in floating point, and nothing here protects anyone's secrets; for that
there is OpenDP.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rankone._namespace import public_names
from rankone.stats._adaptive_bounds import (
    _at_least_zero,
    _counts,
    advanced_composition,
    fixed_accuracy,
    gaussian_accuracy,
    gaussian_accuracy_at,
    max_queries,
    multiplicative_weights_accuracy,
    split_accuracy,
    transfer_bound,
    zcdp_to_dp,
)

__all__ = [
    "Answer",
    "BudgetExhausted",
    "EmpiricalMechanism",
    "GaussianMechanism",
    "PrivateMultiplicativeWeights",
    "Query",
    "SampleSplitting",
    "SparseVector",
    "Thresholdout",
    "advanced_composition",
    "fixed_accuracy",
    "gaussian_accuracy",
    "max_queries",
    "split_accuracy",
    "transfer_bound",
    "zcdp_to_dp",
]

Query = Callable[[Any], ArrayLike]

_BETA = 0.05  # probability of failure at which GaussianMechanism chooses its noise


class BudgetExhausted(RuntimeError):
    """A mechanism has used up its budget, or its declared number of queries."""


class Answer(NamedTuple):
    """One entry of a mechanism's ``history_``.

    Attributes:
        index: number of the query, from 0.
        answer: what was returned.
        kind: how it came about, such as ``"noisy"``, ``"train"``, ``"holdout"`` or ``"update"``.
    """

    index: int  # type: ignore[assignment]  # in place of tuple.index
    answer: float
    kind: str


class _Mechanism:
    """Keeps the log; ``answer`` of a subclass returns what :meth:`_log` was given."""

    def __init__(self, random_state: int | np.random.Generator | None) -> None:
        self.history_: list[Answer] = []
        self._generator = np.random.default_rng(random_state)

    @property
    def n_answered(self) -> int:
        """Number of answers given."""
        return len(self.history_)

    def _log(self, answer: float, kind: str) -> float:
        self.history_.append(Answer(self.n_answered, float(answer), kind))
        return float(answer)


class EmpiricalMechanism(_Mechanism):
    """Answers with the sample's mean: what happens without a mechanism.

    Args:
        data: array, frame, or tuple of arrays of equal length; rows are samples. A query gets a
            tuple as one argument: ``lambda data: data[0] > data[1]``.
        random_state: unused; taken so that mechanisms can be exchanged.

    Attributes:
        history_: list of :class:`Answer`.

    Example:
        >>> import numpy as np
        >>> from rankone.stats.adaptive import EmpiricalMechanism
        >>> EmpiricalMechanism(np.array([0.0, 1.0, 1.0, 0.0])).answer(lambda x: x)
        0.5
    """

    def __init__(self, data: Any, random_state: int | np.random.Generator | None = None) -> None:
        super().__init__(random_state)
        self._data, self.n_samples = data, _length(data, "data")

    def answer(self, query: Query) -> float:
        """The mean of ``query(data)``, (n,) values in [0, 1]."""
        return self._log(_evaluate(query, self._data).mean(), "empirical")

    def guarantee(self, beta: float = _BETA) -> None:
        """None: nothing holds for adaptively chosen queries."""
        return None


class SampleSplitting(_Mechanism):
    """Answers each query on rows of its own.

    Args:
        data: array, frame, or tuple of arrays of equal length, which a query gets as one argument.
        n_queries: parts into which the rows are dealt at random, 1 to n.
        random_state: seed or generator.

    Attributes:
        history_: list of :class:`Answer`.

    Raises:
        ValueError: for ``n_queries`` outside 1..n.

    Example:
        >>> import numpy as np
        >>> from rankone.stats.adaptive import SampleSplitting
        >>> mechanism = SampleSplitting(np.ones(10), 2, random_state=0)
        >>> mechanism.answer(lambda x: x)
        1.0
    """

    def __init__(
        self, data: Any, n_queries: int, random_state: int | np.random.Generator | None = None
    ) -> None:
        super().__init__(random_state)
        self._data, self.n_samples = data, _length(data, "data")
        if not 1 <= n_queries <= self.n_samples:
            raise ValueError(
                f"n_queries must lie between 1 and the {self.n_samples} rows, got {n_queries}"
            )
        self.n_queries = n_queries
        self._parts = np.array_split(self._generator.permutation(self.n_samples), n_queries)

    def answer(self, query: Query) -> float:
        """The mean of ``query`` on the next part.

        Raises:
            BudgetExhausted: when all parts were used.
        """
        _check_declared(self.n_answered, self.n_queries)
        part = _rows(self._data, self._parts[self.n_answered])
        return self._log(_evaluate(query, part).mean(), "split")

    def guarantee(self, beta: float = _BETA) -> float:
        """What all declared answers are within, of the population's, except with ``beta``."""
        return split_accuracy(self.n_samples, self.n_queries, beta)


class GaussianMechanism(_Mechanism):
    """Answers with the sample's mean plus normal noise.

    Args:
        data: array, frame, or tuple of arrays of equal length, which a query gets as one argument.
        n_queries: how many queries may be asked.
        scale: standard deviation of the noise; None takes the one with the best guarantee.
        random_state: seed or generator.

    Attributes:
        scale: standard deviation of the noise.
        rho: concentrated privacy of all declared answers, n_queries / (2 n^2 scale^2).
        history_: list of :class:`Answer`.

    Raises:
        ValueError: for ``n_queries`` below 1 or a negative ``scale``.

    Source: arXiv 1411.2664; the accounting is that of arXiv 1909.03577.

    Example:
        >>> import numpy as np
        >>> from rankone.stats.adaptive import GaussianMechanism
        >>> mechanism = GaussianMechanism(np.ones(100), 10, scale=0.0)
        >>> mechanism.answer(lambda x: x)
        1.0
    """

    def __init__(
        self,
        data: Any,
        n_queries: int,
        scale: float | None = None,
        random_state: int | np.random.Generator | None = None,
    ) -> None:
        super().__init__(random_state)
        self._data, self.n_samples = data, _length(data, "data")
        _counts(n_queries=n_queries)
        self.n_queries = n_queries
        if scale is None:
            _, best = gaussian_accuracy(self.n_samples, n_queries, _BETA, return_parameters=True)
            scale = best["scale"]
        _at_least_zero(scale=scale)
        self.scale = float(scale)
        squared = 2 * self.n_samples**2 * self.scale**2
        self.rho = n_queries / squared if squared > 0 else math.inf

    def answer(self, query: Query) -> float:
        """The mean of ``query(data)``, (n,) values in [0, 1], plus noise; it is not clipped.

        Raises:
            BudgetExhausted: after ``n_queries`` answers.
        """
        _check_declared(self.n_answered, self.n_queries)
        exact = _evaluate(query, self._data).mean()
        return self._log(exact + self._generator.normal(0.0, self.scale), "noisy")

    def guarantee(self, beta: float = _BETA) -> float:
        """What all declared answers are within, of the population's, except with ``beta``."""
        if self.scale == 0:
            return 1.0
        return gaussian_accuracy_at(self.n_samples, self.n_queries, beta, self.scale)


class Thresholdout(_Mechanism):
    """A holdout set that can be asked again and again.

    The training value is returned while it agrees with the holdout's up to a noisy threshold;
    otherwise the holdout's value is returned with noise, at a cost of 1 from the budget. An answer
    is within about ``threshold`` of the truth, not the truth itself. ``threshold`` and
    ``tolerance`` are the user's choice: at usual sizes no proof covers them.

    Args:
        train, holdout: data of the same kind: arrays, frames or tuples of arrays, which a query
            gets as one argument.
        threshold: T, at least 0; its noise, Laplace(2 tolerance), is drawn anew only after an
            answer from the holdout.
        tolerance: sigma, at least 0: each comparison has fresh noise of Laplace(4 sigma), each
            answer from the holdout fresh noise of Laplace(sigma).
        budget: answers from the holdout before queries are refused.
        noise: ``"laplace"``, or ``"gaussian"`` with the same numbers as standard deviations, for
            which the guarantees of Laplace noise do not hold.
        random_state: seed or generator.

    Attributes:
        budget_remaining: answers from the holdout that are left.
        n_overfit: answers from the holdout so far.
        epsilon_spent: privacy spent on the holdout, 2 / (sigma n) for each of them, for values in
            [0, 1].
        history_: list of :class:`Answer`, kinds ``"train"`` and ``"holdout"``.

    Raises:
        ValueError: for negative thresholds, tolerances or budgets, or an unknown noise.

    Source: "The reusable holdout: Preserving validity in adaptive data analysis", Science 2015.

    Example:
        >>> import numpy as np
        >>> from rankone.stats.adaptive import Thresholdout
        >>> train, holdout = np.ones(50), np.zeros(50)
        >>> mechanism = Thresholdout(train, holdout, 0.1, 0.0, budget=1)
        >>> mechanism.answer(lambda x: x), mechanism.budget_remaining
        (0.0, 0)
    """

    def __init__(
        self,
        train: Any,
        holdout: Any,
        threshold: float,
        tolerance: float,
        budget: float = math.inf,
        noise: str = "laplace",
        random_state: int | np.random.Generator | None = None,
    ) -> None:
        super().__init__(random_state)
        _at_least_zero(threshold=threshold, tolerance=tolerance, budget=budget)
        if noise not in ("laplace", "gaussian"):
            raise ValueError(f"noise must be 'laplace' or 'gaussian', got {noise!r}")
        _length(train, "train")
        self._train, self._holdout = train, holdout
        self.n_holdout = _length(holdout, "holdout")
        self.threshold, self.tolerance, self.noise = float(threshold), float(tolerance), noise
        self.budget_remaining = budget
        self.n_overfit = 0
        self._draw_threshold()

    @property
    def epsilon_spent(self) -> float:
        """Privacy spent on the overfitted queries so far."""
        if self.n_overfit == 0:
            return 0.0
        if self.tolerance == 0:
            return math.inf
        return self.n_overfit * 2 / (self.tolerance * self.n_holdout)

    def answer(self, query: Query) -> float:
        """The answer to ``query``, a function of data with (n,) values in [0, 1].

        Raises:
            BudgetExhausted: when less than 1 is left of the budget.
            ValueError: for values outside [0, 1] or of the wrong shape.
        """
        self._check_budget()
        train = _evaluate(query, self._train).mean()
        return self.answer_values(train, _evaluate(query, self._holdout).mean())

    def answer_values(self, train_value: float, holdout_value: float) -> float:
        """The answer to a query whose values on both sets were computed elsewhere.

        Args:
            train_value, holdout_value: finite, of any range.

        Raises:
            BudgetExhausted: when less than 1 is left of the budget.
            ValueError: for values that are not finite.
        """
        self._check_budget()
        for name, value in (("train_value", train_value), ("holdout_value", holdout_value)):
            if not math.isfinite(value):
                raise ValueError(f"{name} must be finite, got {value}")
        gap = abs(holdout_value - train_value)
        if gap > self._noisy_threshold + self._noise(4 * self.tolerance):
            self.budget_remaining -= 1
            self.n_overfit += 1
            self._draw_threshold()
            return self._log(holdout_value + self._noise(self.tolerance), "holdout")
        return self._log(train_value, "train")

    def scorer(self, estimator_scorer: Any = None) -> Callable[..., float]:
        """A scikit-learn scorer whose value is this mechanism's answer.

        Args:
            estimator_scorer: a scorer or its name, such as ``"accuracy"``; None uses the
                estimator's own ``score``. ``train`` and ``holdout`` must be tuples (X, y).

        Returns:
            ``score(estimator, X=None, y=None)``: it scores on ``train`` and ``holdout`` of this
            mechanism and ignores X and y, which the protocol of a search passes.

        Raises:
            ValueError: for data that are not pairs (X, y).
        """
        for name, data in (("train", self._train), ("holdout", self._holdout)):
            if not (isinstance(data, tuple) and len(data) == 2):
                raise ValueError(f"{name} must be a tuple (X, y) for a scorer, got {type(data)}")
        if estimator_scorer is None:
            measure = _own_score
        elif isinstance(estimator_scorer, str):
            from sklearn.metrics import get_scorer

            measure = get_scorer(estimator_scorer)
        else:
            measure = estimator_scorer

        def score(estimator: Any, X: Any = None, y: Any = None) -> float:
            self._check_budget()
            return self.answer_values(
                float(measure(estimator, *self._train)), float(measure(estimator, *self._holdout))
            )

        return score

    def guarantee(self, beta: float = _BETA) -> None:
        """None: the threshold and tolerance are the user's, without a proof at usual sizes."""
        return None

    def _check_budget(self) -> None:
        if self.budget_remaining < 1:
            raise BudgetExhausted(
                f"budget: all {self.n_overfit} answers from the holdout were given after "
                f"{self.n_answered} queries; take fresh holdout data"
            )

    def _draw_threshold(self) -> None:
        self._noisy_threshold = self.threshold + self._noise(2 * self.tolerance)

    def _noise(self, scale: float) -> float:
        draw = self._generator.laplace if self.noise == "laplace" else self._generator.normal
        return float(draw(0.0, scale)) if scale > 0 else 0.0


def _own_score(estimator: Any, X: Any, y: Any) -> float:
    return estimator.score(X, y)


class SparseVector(_Mechanism):
    """Reports which queries lie above a threshold, privately, and only that.

    Args:
        data: array, frame, or tuple of arrays of equal length, which a query gets as one argument.
        threshold: queries whose mean is above it are reported.
        epsilon: privacy budget of all reports, above 0; ``inf`` adds no noise.
        max_above: c, reports of "above" before queries are refused.
        sensitivity: D, of a query to one row; None means 1 / n, that of a mean in [0, 1].
        random_state: seed or generator.

    Attributes:
        n_above: reports of "above" so far.
        history_: list of :class:`Answer`, kinds ``"above"`` and ``"below"``, answers 1 and 0.

    Raises:
        ValueError: for ``epsilon`` or ``sensitivity`` of at most 0, or ``max_above`` below 1.

    Source: Dwork and Roth, "The Algorithmic Foundations of Differential Privacy", 2014: noise of
    Laplace(2 c D / epsilon) on the threshold, drawn anew after each "above", and of
    Laplace(4 c D / epsilon) on each query.

    Example:
        >>> import numpy as np
        >>> from rankone.stats.adaptive import SparseVector
        >>> reports = SparseVector(np.ones(10), 0.5, float("inf"))
        >>> reports.query(lambda x: x), reports.n_above
        (True, 1)
    """

    def __init__(
        self,
        data: Any,
        threshold: float,
        epsilon: float,
        max_above: int = 1,
        sensitivity: float | None = None,
        random_state: int | np.random.Generator | None = None,
    ) -> None:
        super().__init__(random_state)
        self._data, self.n_samples = data, _length(data, "data")
        if not epsilon > 0:
            raise ValueError(f"epsilon must be above 0, got {epsilon}")
        if not math.isfinite(threshold):
            raise ValueError(f"threshold must be finite, got {threshold}")
        _counts(max_above=max_above)
        if sensitivity is None:
            sensitivity = 1 / self.n_samples
        if not sensitivity > 0:
            raise ValueError(f"sensitivity must be above 0, got {sensitivity}")
        self.threshold, self.max_above, self.n_above = float(threshold), max_above, 0
        self._scale = 2 * max_above * sensitivity / epsilon
        self._draw_threshold()

    def query(self, query: Query) -> bool:
        """Whether the mean of ``query(data)``, (n,) values in [0, 1], is above the threshold.

        Raises:
            BudgetExhausted: after ``max_above`` reports of "above".
        """
        if self.n_above >= self.max_above:
            raise BudgetExhausted(f"max_above: all {self.max_above} reports were given")
        noisy = _evaluate(query, self._data).mean() + self._laplace(2 * self._scale)
        above = bool(noisy >= self._noisy_threshold)
        if above:
            self.n_above += 1
            self._draw_threshold()
        self._log(float(above), "above" if above else "below")
        return above

    def _draw_threshold(self) -> None:
        self._noisy_threshold = self.threshold + self._laplace(self._scale)

    def _laplace(self, scale: float) -> float:
        return float(self._generator.laplace(0.0, scale)) if scale > 0 else 0.0


class PrivateMultiplicativeWeights(_Mechanism):
    """Answers from a histogram that learns from the queries it got wrong.

    The hypothesis starts uniform over a finite universe. A query on which it is off by more than
    a noisy threshold is answered from the sample with noise, and the hypothesis moves towards
    that answer; every other answer comes from the hypothesis and costs nothing. Updates are few,
    at most ``4 log(universe_size) / threshold^2`` without noise, so that the number of queries
    may be exponential in the number of rows.

    Args:
        indices: (n,) the element of the universe that each row is.
        universe_size: U.
        threshold: T, above 0.
        noise_scale: b, at least 0: Laplace(b) on the threshold, kept until an update, Laplace(2b)
            on each comparison and Laplace(b) on each released answer.
        learning_rate: of an update; None means T / 2.
        max_updates: after them every answer comes from the hypothesis; None means
            ``ceil(4 log(U) / T^2)``.
        random_state: seed or generator.

    Attributes:
        hypothesis_: (U,) histogram.
        n_updates, max_updates: updates so far, and at most.
        history_: list of :class:`Answer`, kinds ``"update"`` and ``"hypothesis"``.

    Raises:
        ValueError: for indices outside the universe, ``threshold`` of at most 0 or a negative
            scale.

    Source: Dwork and Roth, "The Algorithmic Foundations of Differential Privacy", 2014; stated
    for adaptive data analysis in arXiv 1411.2664.

    Example:
        >>> import numpy as np
        >>> from rankone.stats.adaptive import PrivateMultiplicativeWeights
        >>> mechanism = PrivateMultiplicativeWeights([0, 0, 1], 2, 0.1, 0.0)
        >>> round(mechanism.answer(np.array([1.0, 0.0])), 4), mechanism.n_updates
        (0.6667, 1)
    """

    def __init__(
        self,
        indices: ArrayLike,
        universe_size: int,
        threshold: float,
        noise_scale: float,
        learning_rate: float | None = None,
        max_updates: int | None = None,
        random_state: int | np.random.Generator | None = None,
    ) -> None:
        super().__init__(random_state)
        _counts(universe_size=universe_size)
        indices = np.asarray(indices)
        if indices.ndim != 1 or not indices.size or not np.issubdtype(indices.dtype, np.integer):
            raise ValueError(
                f"indices must be integers of shape (n,), got {indices.dtype} {indices.shape}"
            )
        if indices.min() < 0 or indices.max() >= universe_size:
            raise ValueError(
                f"indices must lie in [0, {universe_size}), got {indices.min()} to {indices.max()}"
            )
        if not threshold > 0:
            raise ValueError(f"threshold must be above 0, got {threshold}")
        _at_least_zero(noise_scale=noise_scale)
        self.n_samples = len(indices)
        self.threshold, self.noise_scale = float(threshold), float(noise_scale)
        self.learning_rate = threshold / 2 if learning_rate is None else learning_rate
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0, got {learning_rate}")
        if max_updates is None:
            max_updates = math.ceil(4 * math.log(universe_size) / threshold**2)
        _at_least_zero(max_updates=max_updates)
        self.max_updates, self.n_updates = max_updates, 0
        self.hypothesis_ = np.full(universe_size, 1 / universe_size)
        self._histogram = np.bincount(indices, minlength=universe_size) / len(indices)
        self._threshold_noise = self._laplace(self.noise_scale)

    def answer(self, q: ArrayLike) -> float:
        """The answer to a query given by its values on the universe.

        Args:
            q: (U,) values in [0, 1].

        Raises:
            ValueError: for another shape, or values that are not finite or outside [0, 1].
        """
        q = _bounded(q, len(self.hypothesis_), "q")
        estimate = float(self.hypothesis_ @ q)
        if self.n_updates >= self.max_updates:
            return self._log(estimate, "hypothesis")
        exact = float(self._histogram @ q)
        compared = abs(exact - estimate) + self._laplace(2 * self.noise_scale)
        if compared <= self.threshold + self._threshold_noise:
            return self._log(estimate, "hypothesis")
        released = min(1.0, max(0.0, exact + self._laplace(self.noise_scale)))
        weights = self.hypothesis_ * np.exp(np.sign(released - estimate) * self.learning_rate * q)
        self.hypothesis_ = weights / weights.sum()
        self.n_updates += 1
        self._threshold_noise = self._laplace(self.noise_scale)
        return self._log(released, "update")

    def guarantee(self, beta: float = _BETA) -> float | None:
        """What the answers so far are within, of the population's, except with ``beta``.

        None without noise, and once the updates are used up.
        """
        if self.noise_scale == 0 or self.n_updates >= self.max_updates:
            return None
        return multiplicative_weights_accuracy(
            self.n_samples,
            max(1, self.n_answered),
            beta,
            threshold=self.threshold,
            noise_scale=self.noise_scale,
            max_updates=self.max_updates,
        )

    def _laplace(self, scale: float) -> float:
        return float(self._generator.laplace(0.0, scale)) if scale > 0 else 0.0


def _check_declared(answered: int, declared: int) -> None:
    if answered >= declared:
        raise BudgetExhausted(f"n_queries: all {declared} declared queries were answered")


def _length(data: Any, name: str) -> int:
    """Number of rows of an array, a frame or a tuple of arrays."""
    lengths = {len(part) for part in data} if isinstance(data, tuple) else {len(data)}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            f"{name} must have rows, the same number in every array, got {sorted(lengths)}"
        )
    return lengths.pop()


def _rows(data: Any, rows: NDArray) -> Any:
    if isinstance(data, tuple):
        return tuple(_rows(part, rows) for part in data)
    return data.iloc[rows] if hasattr(data, "iloc") else np.asarray(data)[rows]


def _evaluate(query: Query, data: Any) -> NDArray:
    """The query's values; data that is a tuple of arrays is one argument."""
    if not callable(query):
        raise TypeError(f"query must be a function of the data, got {type(query).__name__}")
    try:
        signature = inspect.signature(query)
    except (TypeError, ValueError):  # some functions in C have none
        signature = None
    if signature is not None:
        try:
            signature.bind(data)
        except TypeError as error:
            raise TypeError(
                "query must take one argument, the data (a tuple of arrays is passed as one), got "
                f"a function of {signature}"
            ) from error
    return _bounded(query(data), _length(data, "data"), "query")


def _bounded(values: ArrayLike, length: int, name: str) -> NDArray:
    """``length`` values in [0, 1], the condition of every guarantee."""
    values = np.asarray(values, dtype=np.float64)
    if values.shape != (length,):
        raise ValueError(f"{name} must have values of shape ({length},), got {values.shape}")
    if not (values >= 0).all() or not (values <= 1).all():
        raise ValueError(
            f"{name} must have finite values in [0, 1], got {values.min()} to {values.max()}"
        )
    return values


def __dir__() -> list[str]:
    return public_names(globals())
