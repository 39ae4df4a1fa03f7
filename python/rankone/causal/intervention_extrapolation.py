"""Predicting unseen interventions through an identified representation (Rep4Ex).

``Z = M A + V``, ``X = g(Z)``, ``Y = l(Z) + U``: an action A moves a latent state linearly, X is an
injective image of it, U and V are confounded. An autoencoder whose code has an affine ``E[code |
A]`` recovers Z up to an affine map, which is enough to extrapolate: a control function then gives
``E[Y | do(A = a)]`` for actions outside the range that was tried.

Source: "Identifying Representations for Intervention Extrapolation" (arXiv 2310.04295; ICLR 2024)
for the model, the linear invariance constraint and the control function. Architecture, the
normalised penalty, schedules, the permutation test and the coverage are this project's own.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    clone,
)
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import nn

from rankone._namespace import public_names
from rankone.causal._checks import (
    Array,
    at_least,
    matrix,
    non_negative,
    positive,
    same_length,
    vector,
)
from rankone.causal._control_function import (
    AVERAGED_RESIDUALS,
    ControlFunctionRegressor,
    draw_seed,
    first_stage,
    shifted_residuals,
    torch_generator,
)
from rankone.causal._linear_invariance import LinearInvarianceAutoencoder, check_hidden
from rankone.causal._moment_restriction import (
    MomentTest,
    check_actions,
    check_rows,
    criterion,
    maximum_moment_restriction,
    moment_permutation_test,
    resolve_bandwidth,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "ControlFunctionRegressor",
    "LinearInvarianceAutoencoder",
    "MomentTest",
    "Rep4Ex",
    "TrainingHistory",
    "affine_r2",
    "maximum_moment_restriction",
    "moment_permutation_test",
]

# OneCycleLR rises to this many times lr.
_PEAK = 3.0

# The criterion of pure noise is about 0.11 d / b; below this many rows it is as large as what the
# code of an autoencoder without penalty shows.
_SMALL_BATCH = 256

# Below this share of shifted states inside the training states, a prediction is a guess.
_LOW_COVERAGE = 0.5

# With fewer values of an action, its support has no interior that a curve could show in.
_FEW_LEVELS = 10

# Rows encoded at once.
_ENCODED = 2**16


@dataclass(frozen=True)
class TrainingHistory:
    """Means over the batches of each epoch.

    Attributes:
        reconstruction: (epochs,) mean squared error of the standardised features.
        moment: (epochs,) normalised criterion Q.
    """

    reconstruction: Array
    moment: Array


def affine_r2(Z: ArrayLike, F: ArrayLike) -> float:
    """Share of Z's variance that an affine function of F explains, pooled over columns.

    A representation is identified up to an affine map only: this, and no comparison of coordinates,
    measures how well.

    Args:
        Z: (n, d) true states.
        F: (n, m) codes.

    Returns:
        1 - residual / total sum of squares of Z regressed on [1, F].

    Raises:
        ValueError: for shapes, or a Z that does not vary.

    Example:
        >>> import numpy as np
        >>> from rankone.causal.intervention_extrapolation import affine_r2
        >>> Z = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0], [3.0, 5.0]])
        >>> round(affine_r2(Z, Z @ [[1.0, 2.0], [3.0, 4.0]] + 7), 10)
        1.0
    """
    states, codes = matrix("Z", Z), matrix("F", F)
    same_length(Z=states, F=codes)
    total = float(np.sum((states - states.mean(axis=0)) ** 2))
    if total == 0:
        raise ValueError(f"Z must vary, got {len(states)} equal rows")
    *_, residuals = first_stage(states, codes)
    return 1 - float(np.sum(residuals**2)) / total


class Rep4Ex(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Effects of actions outside the range tried, through a representation of high-dimensional X.

    An autoencoder is trained on reconstruction + ``reg`` times the maximum moment restriction, so
    that the mean of its code is affine in the action; a control function regression of Y on the
    code gives the effects. What makes this valid: A is exogenous and continuous and moves the state
    linearly, at least ``latent_dim`` actions with full-rank effect, X is an injective function of
    the state without noise. ``moment_test`` on fresh rows and ``coverage`` say when to distrust it.
    No interval is given: outside the actions tried the error is one of extrapolation, which no
    resampling of rows shows.

    Args:
        latent_dim: d, dimension of the state.
        reg: weight of the normalised criterion; 0 is an autoencoder. 10 to 30 makes no difference.
        hidden: widths of the encoder's hidden layers.
        epochs, lr: of Adam with a one-cycle schedule that rises to 3 lr.
        batch_size: rows a step, at most n; the incomplete last batch is dropped. Keep it large: the
            criterion's noise is about 0.11 d / batch_size.
        regressor: None for ``ControlFunctionRegressor()``; or any object with ``fit(Z, A, Y)`` and
            ``predict_do(A, Z=None)``, which is cloned.
        autoencoder: None for :class:`LinearInvarianceAutoencoder`; or any module with ``encode``
            and ``decode``, of which a copy is trained from the weights that it has.
        device: torch device of the autoencoder.
        random_state: of everything random. On the CPU, equal seeds give equal results.

    Attributes:
        autoencoder_: trained, on standardised features.
        regressor_: fitted regressor; absent without Y.
        mean_, scale_: (p,) of the features.
        intercept_: (d,), M_: (d, k), residuals_: (n, d) of the code on [1, A].
        code_range_, action_range_: smallest and largest of each coordinate, (2, d) and (2, k).
        bandwidth_: of the kernel.
        reconstruction_loss_: mean squared error of the standardised features, training rows.
        moment_loss_: Q of the last batch.
        history_: :class:`TrainingHistory`.

    Source: "Identifying Representations for Intervention Extrapolation" (arXiv 2310.04295);
    architecture, normalised penalty and diagnostics are this project's own.

    Example:
        >>> import numpy as np
        >>> from rankone.causal.intervention_extrapolation import Rep4Ex
        >>> rng = np.random.default_rng(0)
        >>> A = rng.uniform(-1, 1, (600, 1))
        >>> Z = A + 0.5 * rng.normal(size=(600, 1))
        >>> X = np.hstack([Z, np.tanh(Z)])
        >>> model = Rep4Ex(latent_dim=1, epochs=2, random_state=0).fit(X, A, Z[:, 0])
        >>> model.predict_do(np.array([[0.0], [1.2]])).shape
        (2,)
    """

    def __init__(
        self,
        latent_dim: int,
        reg: float = 30.0,
        hidden: tuple[int, ...] = (64, 64, 64),
        epochs: int = 60,
        batch_size: int = 1000,
        lr: float = 1e-3,
        regressor: Any = None,
        autoencoder: nn.Module | None = None,
        device: str | torch.device = "cpu",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.latent_dim = latent_dim
        self.reg = reg
        self.hidden = hidden
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.regressor = regressor
        self.autoencoder = autoencoder
        self.device = device
        self.random_state = random_state

    def fit(self, X: ArrayLike, A: ArrayLike, Y: ArrayLike | None = None) -> Rep4Ex:
        """Train the autoencoder and, with Y, the regression.

        Args:
            X: (n, p) features.
            A: (n, k) actions, k >= latent_dim.
            Y: (n,) outcomes; None for the representation alone.

        Raises:
            ValueError: for shapes, parameters out of range, k or p below latent_dim, [1, A] without
                full rank, or an autoencoder or regressor without the methods named above.
            RuntimeError: if the training diverges.

        Warns:
            UserWarning: for batches so small that the criterion is noise, actions of fewer than 10
                values, and where A hardly moves some direction of the code.
        """
        self._check()
        features = self._features(X, reset=True)
        actions = matrix("A", A)
        outcomes = None if Y is None else vector("Y", Y)
        if outcomes is None:
            same_length(X=features, A=actions)
        else:
            same_length(X=features, A=actions, Y=outcomes)
        k = actions.shape[1]
        if k < self.latent_dim:
            raise ValueError(
                f"A must have at least latent_dim = {self.latent_dim} columns, got {k}"
            )
        if features.shape[1] < self.latent_dim:
            raise ValueError(
                f"X must have at least latent_dim = {self.latent_dim} columns, "
                f"got {features.shape[1]}"
            )
        check_rows(min(self.batch_size, len(features)), k, "a batch of X and A")
        check_actions(actions)
        levels = min(len(np.unique(column)) for column in actions.T)
        if levels < _FEW_LEVELS:
            warnings.warn(
                f"a column of A has {levels} values: codes that are no affine function of the "
                "state can then pass the restriction; actions must vary continuously",
                UserWarning,
                stacklevel=2,
            )
        rng = check_random_state(self.random_state)
        self.mean_ = features.mean(axis=0)
        deviation = features.std(axis=0)
        self.scale_ = np.where(deviation > 0, deviation, 1.0)
        self.bandwidth_ = resolve_bandwidth("median", torch.tensor(actions))
        self._train(features, actions, rng)
        self._n_features_out = self.latent_dim
        codes = self._encoded(features)
        self.intercept_, self.M_, self.residuals_ = first_stage(codes, actions)
        self.code_range_ = np.stack([codes.min(axis=0), codes.max(axis=0)])
        self.action_range_ = np.stack([actions.min(axis=0), actions.max(axis=0)])
        if outcomes is None:
            self.__dict__.pop("regressor_", None)
        else:
            self.regressor_ = self._new_regressor(draw_seed(rng))
            self.regressor_.fit(codes, actions, outcomes)
        return self

    def fit_transform(self, X: ArrayLike, A: ArrayLike, Y: ArrayLike | None = None) -> Array:
        """Fit, and the codes (n, d) of X; see :meth:`fit`."""
        return self.fit(X, A, Y).transform(X)

    def transform(self, X: ArrayLike) -> Array:
        """Codes (n, d) of features (n, p).

        Raises:
            NotFittedError: before ``fit``.
            ValueError: for another number of features.
        """
        check_is_fitted(self, "autoencoder_")
        return self._encoded(self._features(X, reset=False))

    def inverse_transform(self, Z: ArrayLike) -> Array:
        """Features (n, p) that codes (n, d) are decoded to.

        Raises:
            NotFittedError: before ``fit``.
            ValueError: for another number of columns.
        """
        check_is_fitted(self, "autoencoder_")
        codes = matrix("Z", Z)
        if codes.shape[1] != self.latent_dim:
            raise ValueError(
                f"Z must have latent_dim = {self.latent_dim} columns, got {codes.shape[1]}"
            )
        return self.mean_ + self.scale_ * self._mapped(self.autoencoder_.decode, codes)

    def predict_do(self, A: ArrayLike, X: ArrayLike | None = None) -> Array:
        """Expected outcomes (m,) under actions that are set.

        Args:
            A: (m, k) actions, also outside those of the training.
            X: None for ``E[Y | do(A = a)]``; (m, p) features, a row an action, for ``E[Y | X = x,
                do(A = a)]``.

        Raises:
            NotFittedError: before ``fit``, or after a ``fit`` without Y.
            ValueError: for shapes that do not fit.

        Warns:
            UserWarning: where ``coverage`` is below 0.5, of averages alone.
        """
        actions = self._actions(A)
        if not hasattr(self, "regressor_"):
            raise NotFittedError("predict_do needs outcomes: call fit(X, A, Y) first")
        if X is not None:
            codes = self._encoded(self._features(X, reset=False))
            same_length(A=actions, X=codes)
            return self.regressor_.predict_do(actions, codes)
        lowest = float(np.min(self._coverage(actions)))
        if lowest < _LOW_COVERAGE:
            warnings.warn(
                f"coverage falls to {lowest:.2f}: under some of these actions most states lie "
                "outside those of the training, where nothing but the regression's extrapolation "
                "says what happens; see coverage(A)",
                UserWarning,
                stacklevel=2,
            )
        return self.regressor_.predict_do(actions)

    def coverage(self, A: ArrayLike) -> Array:
        """Share (m,) of the states under actions (m, k) inside the box of the training's codes.

        Raises:
            NotFittedError: before ``fit``.
            ValueError: for another number of actions.
        """
        return self._coverage(self._actions(A))

    def effects(self, A: ArrayLike) -> pd.DataFrame:
        """Actions (m, k), their expected outcomes and coverage, a row an action.

        Raises:
            NotFittedError: before ``fit``, or after a ``fit`` without Y.
            ValueError: for another number of actions.
        """
        actions = self._actions(A)
        names = list(A.columns) if isinstance(A, pd.DataFrame) else None
        frame = pd.DataFrame(
            actions, columns=names or [f"A{index}" for index in range(actions.shape[1])]
        )
        return frame.assign(effect=self.predict_do(actions), coverage=self._coverage(actions))

    def moment_test(
        self,
        X: ArrayLike,
        A: ArrayLike,
        n_permutations: int = 200,
        random_state: int | np.random.RandomState | None = None,
    ) -> MomentTest:
        """Permutation test that the mean code is affine in A, on rows not used in ``fit``.

        Args:
            X: (n, p) features.
            A: (n, k) actions.
            n_permutations: at least 1.
            random_state: of the permutations.

        Returns:
            (Q, p). A small p: the code is no affine function of the state, or A does not act
            linearly on it.

        Raises:
            NotFittedError: before ``fit``.
            ValueError: for shapes, [1, A] without full rank, or ``n_permutations``.
        """
        actions = self._actions(A)
        codes = self._encoded(self._features(X, reset=False))
        same_length(X=codes, A=actions)
        return moment_permutation_test(
            codes,
            actions,
            bandwidth=self.bandwidth_,
            n_permutations=n_permutations,
            random_state=random_state,
        )

    def plot_effects(self, A: ArrayLike, *, along: int = 0, ax: Axes | None = None) -> Axes:
        """Draw expected outcomes against one action, coloured by their coverage.

        Args:
            A: (m, k) actions of a path.
            along: column of A for the abscissa.
            ax: axes to draw on.

        Raises:
            NotFittedError: before ``fit``, or after a ``fit`` without Y.
            ValueError: for another number of actions, or no such column.
        """
        actions = self._actions(A)
        if not 0 <= along < actions.shape[1]:
            raise ValueError(
                f"along must be a column of A from 0 to {actions.shape[1] - 1}, got {along!r}"
            )
        order = np.argsort(actions[:, along], kind="stable")
        path = actions[order]
        covered = self._coverage(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the picture shows it
            effect = self.predict_do(path)
        axes = _new_axes() if ax is None else ax
        axes.axvspan(*self.action_range_[:, along], color="0.5", alpha=0.12, linewidth=0)
        axes.plot(path[:, along], effect, linewidth=1.2)
        points = axes.scatter(
            path[:, along], effect, c=covered, vmin=0, vmax=1, cmap="viridis", s=22, zorder=3
        )
        axes.figure.colorbar(points, ax=axes, label="coverage")
        axes.set_xlabel(f"action {along} (grey: tried)")
        axes.set_ylabel("expected outcome under do(A)")
        return axes

    def plot_training(self, *, ax: Axes | None = None) -> Axes:
        """Draw the criterion and the reconstruction error against epochs.

        Raises:
            NotFittedError: before ``fit``.
        """
        check_is_fitted(self, "autoencoder_")
        axes = _new_axes() if ax is None else ax
        epochs = np.arange(1, len(self.history_.moment) + 1)
        axes.plot(epochs, self.history_.moment, label="criterion Q")
        axes.plot(epochs, self.history_.reconstruction, label="reconstruction error")
        axes.set_yscale("log")
        axes.set_xlabel("epoch")
        axes.legend()
        return axes

    def _train(self, features: Array, actions: Array, rng: np.random.RandomState) -> None:
        device = torch.device(self.device)
        generator = torch_generator(rng)
        if self.autoencoder is None:
            module: Any = LinearInvarianceAutoencoder(
                features.shape[1], self.latent_dim, tuple(self.hidden), generator=generator
            )
        else:
            module = copy.deepcopy(self.autoencoder)
        module = module.to(device=device, dtype=torch.float32).train()
        x = torch.as_tensor((features - self.mean_) / self.scale_, dtype=torch.float32).to(device)
        centred = actions - actions.mean(axis=0)
        a = torch.as_tensor(centred, dtype=torch.float32).to(device)
        n, size = len(x), min(self.batch_size, len(x))
        if self.reg > 0 and size < _SMALL_BATCH:
            warnings.warn(
                f"batches of {size} rows: the criterion's noise, about 0.11 latent_dim / "
                f"{size}, is as large as what it should find; use at least {_SMALL_BATCH} rows",
                UserWarning,
                stacklevel=3,
            )
        # Modules of the user may draw from the global generator, for dropout for example.
        isolated = contextlib.nullcontext() if self.autoencoder is None else _seeded(rng, device)
        steps = n // size
        optimizer = torch.optim.Adam(module.parameters(), lr=self.lr)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=_PEAK * self.lr, total_steps=self.epochs * steps
        )
        means = torch.zeros(self.epochs, 2, device=device)
        with isolated:
            for epoch in range(self.epochs):
                order = torch.randperm(n, generator=generator)[: steps * size].to(device)
                for rows in order.split(size):
                    batch = x[rows]
                    code = _code(module, batch, self.latent_dim)
                    error = (module.decode(code) - batch).square().mean()
                    watched = code if self.reg > 0 else code.detach()
                    moment = criterion(watched, a[rows], self.bandwidth_)
                    optimizer.zero_grad()
                    (error + self.reg * moment if self.reg > 0 else error).backward()
                    optimizer.step()
                    schedule.step()
                    means[epoch] += torch.stack([error, moment]).detach() / steps
        recorded = means.double().cpu().numpy()
        if not np.isfinite(recorded).all():
            raise RuntimeError(f"the training diverged: lower lr, which is {self.lr:g}")
        self.autoencoder_: Any = module.eval()
        self.history_ = TrainingHistory(recorded[:, 0], recorded[:, 1])
        self.moment_loss_ = float(moment.detach())
        restored = self._mapped(module.decode, self._encoded(features))
        standard = (features - self.mean_) / self.scale_
        self.reconstruction_loss_ = float(np.mean((restored - standard) ** 2))

    def _mapped(self, function: Callable[[torch.Tensor], torch.Tensor], values: Array) -> Array:
        """A half of the autoencoder on rows of float64, in blocks."""
        device = torch.device(self.device)
        with torch.inference_mode():
            blocks = [
                function(block.to(device)).double().cpu()
                for block in torch.tensor(values, dtype=torch.float32).split(_ENCODED)
            ]
        return torch.cat(blocks).numpy()

    def _encoded(self, features: Array) -> Array:
        return self._mapped(self.autoencoder_.encode, (features - self.mean_) / self.scale_)

    def _features(self, X: ArrayLike, *, reset: bool) -> Array:
        if np.ndim(X) != 2:
            raise ValueError(f"X must be 2-D, got {np.ndim(X)}-D")
        return validate_data(self, X, dtype=np.float64, reset=reset)

    def _actions(self, A: ArrayLike) -> Array:
        check_is_fitted(self, "autoencoder_")
        actions = matrix("A", A)
        if actions.shape[1] != self.M_.shape[1]:
            raise ValueError(
                f"A must have {self.M_.shape[1]} columns as in fit, got {actions.shape[1]}"
            )
        return actions

    def _coverage(self, actions: Array) -> Array:
        n = len(self.residuals_)
        keep = np.linspace(0, n - 1, min(n, AVERAGED_RESIDUALS)).astype(np.int64)
        low, high = self.code_range_
        inside = np.empty(len(actions))
        for block, moved in shifted_residuals(
            self.intercept_, self.M_, self.residuals_[keep], actions
        ):
            inside[block] = ((moved >= low) & (moved <= high)).all(axis=2).mean(axis=1)
        return inside

    def _new_regressor(self, seed: int) -> Any:
        if self.regressor is None:
            return ControlFunctionRegressor(random_state=seed)
        regressor = clone(self.regressor, safe=False)
        parameters: dict[str, Any] = getattr(regressor, "get_params", dict)()
        if "random_state" in parameters and parameters["random_state"] is None:
            regressor.set_params(random_state=seed)
        return regressor

    def _check(self) -> None:
        at_least(1, latent_dim=self.latent_dim, epochs=self.epochs, batch_size=self.batch_size)
        non_negative(reg=self.reg)
        positive(lr=self.lr)
        check_hidden(self.hidden)
        try:
            torch.device(self.device)
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"device must be a torch device, got {self.device!r}") from error
        for name, value, methods in (
            ("autoencoder", self.autoencoder, ("encode", "decode")),
            ("regressor", self.regressor, ("fit", "predict_do")),
        ):
            for method in methods:
                if value is not None and not callable(getattr(value, method, None)):
                    raise ValueError(
                        f"{name} must have {' and '.join(methods)}, "
                        f"got {type(value).__name__} without {method}"
                    )


def _code(module: Any, batch: torch.Tensor, latent_dim: int) -> torch.Tensor:
    code = module.encode(batch)
    if code.shape != (len(batch), latent_dim):
        raise ValueError(
            f"autoencoder must encode {len(batch)} rows to shape ({len(batch)}, {latent_dim}), "
            f"got {tuple(code.shape)}"
        )
    return code


@contextlib.contextmanager
def _seeded(rng: np.random.RandomState, device: torch.device) -> Iterator[None]:
    """Torch's global generators seeded inside, and as they were outside."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(draw_seed(rng))
        yield


def _new_axes() -> Axes:
    from matplotlib import pyplot

    return pyplot.subplots()[1]


def __dir__() -> list[str]:
    return public_names(globals())
