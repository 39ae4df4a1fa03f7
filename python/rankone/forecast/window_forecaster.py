"""WindowForecaster: what every forecaster that maps a lookback to a horizon has in common.

A subclass makes its model and, where it wants another, its loss. Fitting standardises the series by
its training rows, holds out the last rows for early stopping, and trains on sliding windows.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from rankone.forecast.training import TrainingHistory, fit_epochs, halved_every_epoch, mean_loss
from rankone.forecast.windows import SeriesScaler, SeriesWindows

# Windows that are forecast at once.
_PREDICTION_BATCH = 256


class WindowForecaster(BaseEstimator):
    """Base of forecasters of (T, V) series from windows.

    Subclasses have the parameters ``lookback``, ``horizon``, ``max_epochs``, ``batch_size``,
    ``lr``, ``patience``, ``val_fraction``, ``scale``, ``device``, ``random_state`` and
    ``progress``, and define :meth:`_make_model`.

    Attributes:
        model_: the trained module, (n, lookback, V) to (n, horizon, V), on standardised series.
        history_: :class:`TrainingHistory`.
        scaler_mean_, scaler_scale_: (V,) of the rows that the weights were fitted on.
        n_features_in_: V.
    """

    lookback: int
    horizon: int
    max_epochs: int
    batch_size: int
    lr: float
    patience: int | None
    val_fraction: float
    scale: bool
    device: str | torch.device | None
    random_state: Any
    progress: bool
    gradient_clip: float | None = None
    batches_per_epoch: int | None = None

    def _make_model(self, n_features: int) -> nn.Module:
        """The untrained model for V variates."""
        raise TypeError(f"{type(self).__name__} must define _make_model")

    def _loss(self, model: nn.Module, lookbacks: Tensor, targets: Tensor) -> Tensor:
        """The training loss."""
        return nn.functional.mse_loss(model(lookbacks), targets)

    @staticmethod
    def _schedule(epoch: int) -> float:
        return halved_every_epoch(epoch)

    def fit(self, X: Any, X_val: Any = None) -> WindowForecaster:
        """Fit to a series.

        Args:
            X: (T, V) array or data frame, a row a time.
            X_val: (T', V) to stop by; its first ``lookback`` rows serve as the lookback of the
                first window alone. None holds out the last ``val_fraction`` of the rows of X, and
                their windows look back into the rows before.

        Returns:
            self.

        Raises:
            ValueError: for parameters out of range, entries that are not finite, and series shorter
                than lookback + horizon.
        """
        self._check_parameters()
        series = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        held_out = None
        if X_val is not None:
            held_out = validate_data(self, X_val, dtype=np.float64, reset=False)
            self._check_length("X_val", held_out)
        train = series
        if X_val is None and self.val_fraction:
            first = len(series) - round(self.val_fraction * len(series))
            train, held_out = series[:first], series[max(first - self.lookback, 0) :]
            self._check_length("the validation rows of X and the lookback before them", held_out)
        self._check_length("the training rows of X", train)
        scaler = SeriesScaler.fit(train, self.scale)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        device = torch.device(self.device or "cpu")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = self._make_model(train.shape[1])
        model = model.to(device)
        self.scaler_mean_, self.scaler_scale_ = scaler.mean, scaler.scale
        windows = self._windows(train, device)
        generator = torch.Generator().manual_seed(seed)

        def train_batches() -> Any:
            return windows.shuffled(self.batch_size, generator, self.batches_per_epoch)

        validation: Callable[[], Any] | None = None
        if held_out is not None:
            validation_windows = self._windows(held_out, device)

            def validation() -> Any:
                return validation_windows.in_order(_PREDICTION_BATCH)

        self.history_: TrainingHistory = fit_epochs(
            model,
            lambda lookbacks, targets: self._loss(model, lookbacks, targets),
            train_batches,
            validation,
            validation_loss=lambda lookbacks, targets: nn.functional.mse_loss(
                model(lookbacks), targets
            ),
            max_epochs=self.max_epochs,
            patience=self.patience,
            learning_rate=self.lr,
            schedule=self._schedule,
            gradient_clip=self.gradient_clip,
            total_batches=min(
                max(len(windows) // self.batch_size, 1), self.batches_per_epoch or len(windows)
            ),
            progress=self.progress,
        )
        self.model_ = model
        self._last_rows = series[-self.lookback :].copy()
        return self

    def predict(self, X: Any = None) -> np.ndarray:
        """The ``horizon`` rows after a series, in its own units.

        Args:
            X: (T, V), of which the last ``lookback`` rows are read; None continues the series of
                the fit.

        Returns:
            (horizon, V).

        Raises:
            ValueError: for fewer than ``lookback`` rows or another number of variates.
        """
        check_is_fitted(self, "model_")
        rows = (
            self._last_rows if X is None else validate_data(self, X, dtype=np.float64, reset=False)
        )
        if len(rows) < self.lookback:
            raise ValueError(f"X must have at least lookback={self.lookback} rows, got {len(rows)}")
        rows = self._scaler().standardize(rows[-self.lookback :])
        return self._scaler().restore(self._forecast(torch.from_numpy(rows).float()[None])[0])

    def predict_windows(self, X: Any) -> np.ndarray:
        """The forecast of every window of a series: (T - lookback - horizon + 1, horizon, V)."""
        check_is_fitted(self, "model_")
        series = validate_data(self, X, dtype=np.float64, reset=False)
        self._check_length("X", series)
        windows = self._windows(series, torch.device("cpu"))
        forecasts = [
            self._forecast(lookbacks) for lookbacks, _ in windows.in_order(_PREDICTION_BATCH)
        ]
        return self._scaler().restore(np.concatenate(forecasts))

    def score(self, X: Any, y: Any = None) -> float:
        """Minus the mean squared error over every window of a series, on standardised data."""
        check_is_fitted(self, "model_")
        series = validate_data(self, X, dtype=np.float64, reset=False)
        self._check_length("X", series)
        device = next(self.model_.parameters()).device
        windows = self._windows(series, device)
        return -mean_loss(
            self.model_,
            lambda lookbacks, targets: nn.functional.mse_loss(self.model_(lookbacks), targets),
            windows.in_order(_PREDICTION_BATCH),
        )

    def _scaler(self) -> SeriesScaler:
        return SeriesScaler(self.scaler_mean_, self.scaler_scale_)

    def _windows(self, series: np.ndarray, device: torch.device) -> SeriesWindows:
        standardized = torch.from_numpy(self._scaler().standardize(series)).float().to(device)
        return SeriesWindows(standardized, self.lookback, self.horizon)

    @torch.no_grad()
    def _forecast(self, lookbacks: Tensor) -> np.ndarray:
        device = next(self.model_.parameters()).device
        return self.model_(lookbacks.to(device)).double().cpu().numpy()

    def _check_length(self, name: str, series: np.ndarray) -> None:
        if len(series) < self.lookback + self.horizon:
            raise ValueError(
                f"{name} must have at least lookback + horizon = {self.lookback} + {self.horizon} "
                f"rows, got {len(series)}"
            )

    def _check_parameters(self) -> None:
        for name in ("lookback", "horizon", "max_epochs", "batch_size"):
            value = getattr(self, name)
            if not isinstance(value, numbers.Integral) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
        if not self.lr > 0:
            raise ValueError(f"lr must be positive, got {self.lr}")
        if not 0 <= self.val_fraction < 1:
            raise ValueError(f"val_fraction must be in [0, 1), got {self.val_fraction}")
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"patience must be at least 1 or None, got {self.patience}")
