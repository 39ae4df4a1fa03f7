"""Exact learning of bit permutations from k examples by ensembles of wide networks (2502.16763).

Two-layer ReLU networks in NTK parameterisation are trained on the k standard basis vectors. At
infinite width every output is a Gaussian process whose mean is positive exactly at the 1-bits of
the permuted input, so that an ensemble's average, rounded at 0, is exact on all 2^k - 1 inputs once
the ensemble is large enough. The law is known in closed form, hence the size of the ensemble, an
exact draw of its average, and the networks themselves can be compared.

From the paper: the setting, the Gaussian limit, rounding at 0, O(k log k) models for one input and
O(k^2) for all of them. Derived for this library: the closed forms, the exact size of the ensemble
under the Gaussian law, training of the readout alone (``kernel="readout"``, also the limit of the
standard parameterisation with one learning rate), and the midpoint threshold.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import Bunch, check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from rankone._namespace import public_names
from rankone.icl._gaussian_function import GaussianFunction
from rankone.icl._permutation_law import (
    KERNELS,
    ROUNDINGS,
    PermutationCoefficients,
    binary_rows,
    check_delta,
    check_integer,
    check_name,
    check_positive,
    check_weight_scale,
    checked_permutation,
    checked_scope,
    checked_size,
    count_ones,
    ensemble_complexity,
    kernel_scale,
    ntk_coefficients,
    offdiagonal,
    output_covariance,
    output_law,
    output_mean,
    posterior,
    rounding_threshold,
    two_layer_kernels,
)
from rankone.icl._relu_ensemble import check_device, member_outputs, train_ensemble

__all__ = [
    "ExactPermutationLearner",
    "PermutationCoefficients",
    "binary_inputs",
    "ensemble_complexity",
    "make_permutation_task",
    "ntk_coefficients",
    "posterior",
    "two_layer_kernels",
]

MODES = ("kernel", "gp", "network")

_MAX_ENUMERATED = 2**20  # inputs listed one by one


def binary_inputs(
    k: int,
    *,
    n_ones: int | None = None,
    n_samples: int | None = None,
    random_state: Any = None,
) -> NDArray:
    """Nonzero binary inputs: all of them, or a uniform sample without repetition.

    Args:
        k: bits, at least 1.
        n_ones: only inputs of so many ones.
        n_samples: inputs drawn; None lists all, which are at most 2^20.
        random_state: seed, ``RandomState`` or None.

    Returns:
        (n, k) uint8, in increasing order of the number they spell where all are listed.

    Raises:
        ValueError: for too many inputs to list, or more samples than there are inputs.

    Example:
        >>> from rankone.icl.permutation_learning import binary_inputs
        >>> binary_inputs(3, n_ones=2).tolist()
        [[0, 1, 1], [1, 0, 1], [1, 1, 0]]
        >>> binary_inputs(40, n_ones=2, n_samples=5, random_state=0).shape
        (5, 40)
    """
    check_integer("k", k, low=1)
    if n_ones is not None:
        check_integer("n_ones", n_ones, low=1, high=k)
    total = 2**k - 1 if n_ones is None else math.comb(k, n_ones)
    if n_samples is None:
        return _all_inputs(k, n_ones, total)
    check_integer("n_samples", n_samples, low=1)
    if n_samples > total:
        raise ValueError(f"n_samples must be at most the {total} inputs there are, got {n_samples}")
    generator = check_random_state(random_state)
    if total <= _MAX_ENUMERATED and 4 * n_samples > total:
        return _all_inputs(k, n_ones, total)[generator.permutation(total)[:n_samples]]
    # Distinct rows in the order of their first appearance are a uniform sample.
    drawn = np.empty((0, k), dtype=np.uint8)
    while len(drawn) < n_samples:
        count = 2 * (n_samples - len(drawn)) + 8
        if n_ones is None:
            fresh = generator.randint(0, 2, size=(count, k), dtype=np.uint8)
            fresh = fresh[fresh.any(axis=1)]
        else:
            fresh = np.zeros((count, k), dtype=np.uint8)
            order = generator.random_sample((count, k)).argsort(axis=1)
            np.put_along_axis(fresh, order[:, :n_ones], 1, axis=1)
        drawn = np.concatenate([drawn, fresh])
        first = np.unique(np.packbits(drawn, axis=1), axis=0, return_index=True)[1]
        drawn = drawn[np.sort(first)]
    return drawn[:n_samples]


def make_permutation_task(
    k: int, *, permutation: ArrayLike | None = None, random_state: Any = None
) -> Bunch:
    """The k training examples of a permutation.

    Args:
        k: bits, at least 2.
        permutation: (k,) indices with y[i] = x[permutation[i]]; None draws one.
        random_state: seed, ``RandomState`` or None.

    Returns:
        Bunch of ``X`` (k, k) and ``Y`` (k, k) uint8 and ``permutation`` (k,).

    Raises:
        ValueError: for a ``permutation`` that is none of k indices.

    Example:
        >>> from rankone.icl.permutation_learning import make_permutation_task
        >>> make_permutation_task(3, permutation=[2, 0, 1]).Y.tolist()
        [[0, 1, 0], [0, 0, 1], [1, 0, 0]]
    """
    k = checked_size(k)
    if permutation is None:
        perm = check_random_state(random_state).permutation(k)
    else:
        perm = checked_permutation(permutation, name="permutation")
        if len(perm) != k:
            raise ValueError(f"permutation must hold k = {k} indices, got {len(perm)}")
    X = np.eye(k, dtype=np.uint8)
    return Bunch(X=X, Y=X[:, perm], permutation=perm)


class ExactPermutationLearner(BaseEstimator):
    """A permutation of bits learned from the k basis vectors by an averaged, rounded ensemble.

    Args:
        n_models: networks N of the ensemble; ``"auto"`` takes :func:`ensemble_complexity`.
        delta: probability of failure for ``"auto"``, inside (0, 1).
        scope: for ``"auto"``: ``"all"`` inputs at once, or one input of so many ones.
        kernel: ``"ntk"`` trains both layers, ``"readout"`` the second alone.
        rounding: ``"sign"`` predicts 1 where the average is positive (above 1/2 for inputs with a
            single one, whose averages are exactly 0 and 1); ``"midpoint"`` where it is above
            the middle of the two means that inputs with so many ones have (where it is positive
            for inputs of ones alone, which have one mean).
        mode: ``"kernel"``, the mean of infinitely many networks, without their noise; ``"gp"``, an
            exact joint draw of the average of N infinitely wide networks; ``"network"``, N networks
            of finite width trained by gradient descent.
        width: m of ``mode="network"``.
        sigma_w: standard deviation of the scaled weights.
        max_steps: of gradient descent.
        tol: largest training error at which gradient descent stops. Weights are float32: below
            about 1e-6 it may not be reached.
        max_bytes: memory of one chunk of networks, and of the joint draw's factor (the default
            holds 11,585 distinct inputs since the last fit).
        device: torch device of ``mode="network"``.
        n_jobs: chunks of networks trained at once, in threads, as in joblib.
        random_state: seed of the draw or of the initial weights.

    Attributes:
        n_features_in_: k.
        permutation_: (k,) indices with y[i] = x[permutation_[i]].
        n_models_: N. ``mode="kernel"`` does not use it.
        threshold_: function of the number of ones (scalar or array) to the rounding threshold.
        n_steps_: most steps that a network took; 0 unless ``mode="network"``.
        residual_: largest training error; 0 unless ``mode="network"``.
        weights_: (W (N, m, k), V (N, k, m)), float32 tensors; ``mode="network"`` only.

    In ``mode="gp"`` one function is drawn a fit: later calls of ``predict`` extend it conditionally
    on what was drawn before, so that repeated calls agree and all inputs are joint. Calls from
    several threads must not overlap.

    Source: "Exact Learning of Permutations for Nonzero Binary Inputs with Logarithmic Training Size
    and Quadratic Ensemble Complexity", arXiv 2502.16763; ``kernel="readout"`` and
    ``rounding="midpoint"`` are this library's.

    Example:
        >>> from rankone.icl.permutation_learning import (
        ...     ExactPermutationLearner, binary_inputs, make_permutation_task)
        >>> task = make_permutation_task(10, random_state=0)
        >>> model = ExactPermutationLearner(random_state=0).fit(task.X, task.Y)
        >>> X = binary_inputs(10)
        >>> model.n_models_, len(X), model.score(X, X[:, task.permutation])
        (801, 1023, 1.0)
    """

    def __init__(
        self,
        n_models: int | str = "auto",
        delta: float = 0.1,
        scope: int | str = "all",
        kernel: str = "ntk",
        rounding: str = "sign",
        mode: str = "gp",
        width: int = 2048,
        sigma_w: float = 1.0,
        max_steps: int = 5000,
        tol: float = 1e-6,
        max_bytes: int = 2**30,
        device: str = "cpu",
        n_jobs: int | None = None,
        random_state: Any = None,
    ) -> None:
        self.n_models = n_models
        self.delta = delta
        self.scope = scope
        self.kernel = kernel
        self.rounding = rounding
        self.mode = mode
        self.width = width
        self.sigma_w = sigma_w
        self.max_steps = max_steps
        self.tol = tol
        self.max_bytes = max_bytes
        self.device = device
        self.n_jobs = n_jobs
        self.random_state = random_state

    def fit(self, X: ArrayLike, Y: ArrayLike) -> ExactPermutationLearner:
        """Recover the permutation, and train the networks in ``mode="network"``.

        Args:
            X: (k, k) the standard basis vectors, in any order.
            Y: (k, k) their permuted images.

        Returns:
            self.

        Raises:
            ValueError: for X that is not the full basis, Y that is not a permutation's, or a
                parameter outside its range.

        Warns:
            ConvergenceWarning: if a network's training error is not below ``tol`` in ``max_steps``.
        """
        rows = binary_rows(validate_data(self, X, dtype=None), "X")
        k = rows.shape[1]
        self._check_parameters(k)
        labels = binary_rows(check_array(Y, dtype=None, input_name="Y"), "Y")
        for name, matrix, what in (
            ("X", rows, "the k standard basis vectors, each once"),
            ("Y", labels, "their permuted images, each a different standard basis vector"),
        ):
            square = matrix.shape == (k, k)
            if not square or (matrix.sum(axis=0) != 1).any() or (matrix.sum(axis=1) != 1).any():
                raise ValueError(
                    f"{name} must be {what}, shape ({k}, {k}), got shape {matrix.shape}"
                    + (" with other rows" if square else "")
                )
        self.permutation_ = np.empty(k, dtype=np.int64)
        self.permutation_[labels.argmax(axis=1)] = rows.argmax(axis=1)
        if isinstance(self.n_models, str):
            self.n_models_ = ensemble_complexity(
                k,
                delta=self.delta,
                n_ones=self.scope,
                kernel=self.kernel,
                rounding=self.rounding,
                sigma_w=self.sigma_w,
            )
        else:
            self.n_models_ = int(self.n_models)
        self.threshold_: Callable[[ArrayLike], NDArray] = partial(
            rounding_threshold, k=k, kernel=self.kernel, rounding=self.rounding
        )
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        self.n_steps_, self.residual_ = 0, 0.0
        # What another mode left behind in an earlier fit.
        self.__dict__.pop("weights_", None)
        self.__dict__.pop("_noise", None)
        if self.mode == "gp":
            covariance = partial(output_covariance, kernel=self.kernel, sigma_w=self.sigma_w)
            self._noise = GaussianFunction(covariance, k, seed=seed)
        elif self.mode == "network":
            check_device(self.device)
            self._train(k, seed)
        return self

    def decision_function(self, X: ArrayLike) -> NDArray:
        """The ensemble's average before rounding.

        Args:
            X: (q, k) binary rows, none of zeros alone.

        Returns:
            (q, k) float64.

        Raises:
            ValueError: for rows that are not binary, a zero row, a wrong width, or in
                ``mode="gp"`` more inputs since fit than ``max_bytes`` holds.
        """
        return self._average(self._checked(X))

    def predict(self, X: ArrayLike) -> NDArray:
        """The permuted inputs.

        Args:
            X: (q, k) binary rows, none of zeros alone.

        Returns:
            (q, k) uint8.

        Raises:
            ValueError: as :meth:`decision_function`.
        """
        rows = self._checked(X)
        threshold = self.threshold_(count_ones(rows))
        return (self._average(rows) > threshold[:, None]).astype(np.uint8)

    def predict_std(self, X: ArrayLike) -> NDArray:
        """Standard deviation of the ensemble's average, over initial weights.

        It is that of the infinite width, ``sqrt(variance / N)``, and 0 in ``mode="kernel"``. For
        the spread of the finite networks themselves see :meth:`member_outputs`.

        Args:
            X: (q, k) binary rows, none of zeros alone.

        Returns:
            (q,) float64, the same for every output bit.
        """
        rows = self._checked(X)
        if self.mode == "kernel":
            return np.zeros(len(rows))
        law = output_law(count_ones(rows), rows.shape[1], self.kernel, self.sigma_w)
        return np.sqrt(law.variance / self.n_models_)

    def score(self, X: ArrayLike, Y: ArrayLike) -> float:
        """Share of rows of which every bit is right.

        Args:
            X: (q, k) binary rows, none of zeros alone.
            Y: (q, k) the true outputs.

        Returns:
            A share in [0, 1].

        Raises:
            ValueError: for Y of another shape than X.
        """
        predicted = self.predict(X)
        truth = check_array(Y, dtype=None, input_name="Y")
        if truth.shape != predicted.shape:
            raise ValueError(f"Y must have shape {predicted.shape}, as X, got {truth.shape}")
        return float((predicted == truth).all(axis=1).mean())

    def member_outputs(self, X: ArrayLike) -> NDArray:
        """Outputs of every network, ``mode="network"`` only.

        Args:
            X: (q, k) binary rows, none of zeros alone.

        Returns:
            (N, q, k) float64.

        Raises:
            ValueError: in another mode.
        """
        rows = self._checked(X)
        if self.mode != "network":
            raise ValueError(f"mode must be 'network' for outputs of members, got {self.mode!r}")
        return np.concatenate(list(self._chunks(rows))).astype(np.float64)

    def _check_parameters(self, k: int) -> None:
        checked_size(k)
        check_name("kernel", self.kernel, KERNELS)
        check_name("rounding", self.rounding, ROUNDINGS)
        check_name("mode", self.mode, MODES)
        check_delta(self.delta)
        checked_scope(self.scope, k, "scope")
        check_weight_scale(self.sigma_w)
        check_positive("tol", self.tol)
        for name in ("width", "max_steps", "max_bytes"):
            check_integer(name, getattr(self, name), low=1)
        if isinstance(self.n_models, str):
            if self.n_models != "auto":
                raise ValueError(f"n_models must be 'auto' or an integer, got {self.n_models!r}")
        else:
            check_integer("n_models", self.n_models, low=1)

    def _train(self, k: int, seed: int) -> None:
        offdiag = offdiagonal(self.kernel)
        trained = train_ensemble(
            np.eye(k)[self.permutation_],
            self.n_models_,
            self.width,
            readout_only=self.kernel == "readout",
            sigma_w=self.sigma_w,
            step_size=1 / (kernel_scale(k, self.sigma_w) * (offdiag + k)),
            max_steps=self.max_steps,
            tol=self.tol,
            max_bytes=self.max_bytes,
            device=self.device,
            n_jobs=self.n_jobs,
            seed=seed,
        )
        self.weights_ = (trained.W, trained.V)
        self.n_steps_ = int(trained.steps.max())
        self.residual_ = float(trained.residuals.max())
        late = int((~(trained.residuals < self.tol)).sum())
        if late:
            warnings.warn(
                f"{late} of {self.n_models_} networks have a training error of up to "
                f"{self.residual_:.3g}, not below tol={self.tol:g}, after {self.n_steps_} steps: "
                "raise max_steps, width or tol",
                ConvergenceWarning,
                stacklevel=3,
            )

    def _checked(self, X: ArrayLike) -> NDArray:
        check_is_fitted(self, "permutation_")
        return binary_rows(validate_data(self, X, dtype=None, reset=False), "X")

    def _average(self, rows: NDArray) -> NDArray:
        if self.mode == "network":
            total = sum(chunk.sum(axis=0, dtype=np.float64) for chunk in self._chunks(rows))
            return np.asarray(total) / self.n_models_
        mean = output_mean(rows, self.permutation_, self.kernel, self.sigma_w)
        if self.mode == "gp":
            noise = self._noise(rows, max_bytes=self.max_bytes)
            mean += noise / math.sqrt(self.n_models_)
        return mean

    def _chunks(self, rows: NDArray) -> Iterator[NDArray]:
        return member_outputs(
            self.weights_,
            rows / np.sqrt(count_ones(rows))[:, None],
            sigma_w=self.sigma_w,
            max_bytes=self.max_bytes,
            device=self.device,
        )


def _all_inputs(k: int, n_ones: int | None, total: int) -> NDArray:
    if total > _MAX_ENUMERATED:
        raise ValueError(
            f"n_samples must be given where there are more than {_MAX_ENUMERATED} inputs to list, "
            f"got None for k={k}, which has {total}"
        )
    if n_ones is None or k <= 20:
        numbers = np.arange(1, 2**k, dtype=np.int64)
        bits = (numbers[:, None] >> np.arange(k - 1, -1, -1)) & 1
        rows = bits.astype(np.uint8)
        return rows if n_ones is None else rows[count_ones(rows) == n_ones]
    from itertools import chain, combinations

    chosen = np.fromiter(chain.from_iterable(combinations(range(k), n_ones)), dtype=np.int64)
    rows = np.zeros((total, k), dtype=np.uint8)
    np.put_along_axis(rows, chosen.reshape(total, n_ones), 1, axis=1)
    return rows[::-1]


def __dir__() -> list[str]:
    return public_names(globals())
