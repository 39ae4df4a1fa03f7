"""LSTMForecaster: one value ahead from a window of a series and its covariates.

The network of "Forecasting S&P 500 Using LSTM Models" (arXiv 2501.17366); window, epochs and the
kind of forecast are not stated there and are this library's reading. Scalers are fitted on the
training rows and values beyond their range are kept, never clipped.
"""

from __future__ import annotations

import os
from typing import Any, Self

import numpy as np
import torch
from sklearn.utils.validation import check_array, check_is_fitted
from torch import Tensor, nn

from rankone.forecast.network_forecaster import NetworkTraining
from rankone.forecast.series_forecaster import SeriesForecaster, check_series
from rankone.forecast.training import constant
from rankone.forecast.window_forecaster import check_count, check_share, check_start
from rankone.forecast.windows import SeriesScaler, SeriesWindows

TARGETS = ("level", "return")
SCALERS = ("minmax", "standard", None)

_PREDICTION_BATCH = 1024


class _Network(nn.Module):
    """LSTM, dropout between and after its layers, and a linear map of the last step."""

    def __init__(self, n_inputs: int, hidden_size: int, n_layers: int, dropout: float) -> None:
        super().__init__()
        between = dropout if n_layers > 1 else 0.0
        self.lstm = nn.LSTM(n_inputs, hidden_size, n_layers, batch_first=True, dropout=between)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden_size, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, window, inputs) to (B,)."""
        states, _ = self.lstm(x)
        return self.head(self.dropout(states[:, -1]))[:, 0]


class LSTMForecaster(NetworkTraining, SeriesForecaster):
    """Forecasts the next value of a series with an LSTM.

    Args:
        window: rows that are read.
        hidden_size, n_layers, dropout: of the network.
        target: ``"level"``, the scaled next value, or ``"return"``, the change to it, standardised
            unless ``scaler`` is None, which is added to the last value.
        scaler: ``"minmax"``, ``"standard"`` or None, for every column by the training rows.
        max_epochs: passes over the training windows.
        batch_size: windows a step.
        lr: of Adam, constant.
        val_fraction: share of the training rows, the last ones, to stop by; 0 for none.
        patience: epochs without improvement of the validation error after which to stop, or None.
        device: torch device; None is the CPU.
        random_state: of weights, order of windows and dropout.
        progress: show a bar on a terminal.
        checkpoint: file written after every epoch, from which an interrupted fit goes on.

    Attributes:
        model_: the trained network, in float32.
        scaler_min_, scaler_scale_: (1 + k,), what is subtracted and divided by, of the series first
            and then of its covariates: minimum and range, or mean and standard deviation.
        history_: :class:`TrainingHistory`.
        n_features_in_: columns that are read, 1 + k.
        n_train_: rows of the fit.

    Source: arXiv 2501.17366.

    Example:
        >>> import numpy as np
        >>> from rankone.forecast import LSTMForecaster
        >>> y = np.sin(2 * np.pi * np.arange(200) / 31)
        >>> forecaster = LSTMForecaster(window=10, hidden_size=4, max_epochs=1, random_state=0)
        >>> forecaster.fit(y[:150]).predict_walk_forward(y, start=150).shape
        (50,)
    """

    n_features_in_: int
    gradient_clip = 1.0
    drop_last = False
    takes_covariates = True

    def __init__(
        self,
        window: int = 30,
        hidden_size: int = 64,
        n_layers: int = 2,
        dropout: float = 0.2,
        target: str = "level",
        scaler: str | None = "minmax",
        max_epochs: int = 8,
        batch_size: int = 64,
        lr: float = 1e-3,
        val_fraction: float = 0.0,
        patience: int | None = None,
        device: str | torch.device | None = None,
        random_state: Any = None,
        *,
        progress: bool = True,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> None:
        self.window = window
        self.hidden_size = hidden_size
        self.n_layers = n_layers
        self.dropout = dropout
        self.target = target
        self.scaler = scaler
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.lr = lr
        self.val_fraction = val_fraction
        self.patience = patience
        self.device = device
        self.random_state = random_state
        self.progress = progress
        self.checkpoint = checkpoint

    def fit(self, y: Any, X: Any = None) -> Self:
        """Fit to a series.

        Args:
            y: (n,).
            X: (n, k) array or data frame of covariates known up to the same row, or None.

        Returns:
            self.

        Raises:
            ValueError: for parameters out of range, entries that are not finite, an X of another
                number of rows, and fewer rows than a window and its target.
        """
        self._check_parameters()
        columns = self._columns(y, X, "y", "X", reset=True)
        if self.window >= len(columns):
            raise ValueError(
                f"window must be below the {len(columns)} training rows, got {self.window}"
            )
        rows = len(columns) - round(self.val_fraction * len(columns))
        if rows <= self.window:
            raise ValueError(
                f"window must be below the {rows} rows that are left for training, "
                f"got {self.window}"
            )
        scaler = SeriesScaler.fit(columns[:rows], self.scaler)
        changes = np.diff(columns[:, :1], axis=0, prepend=columns[:1, :1])
        self._change_scaler = SeriesScaler.fit(changes[1:rows], self.scaler and "standard")
        self.scaler_min_, self.scaler_scale_ = scaler.offset, scaler.scale
        scaled = scaler.transform(columns)
        targets = scaled[:, :1]
        if self.target == "return":
            targets = self._change_scaler.transform(changes)
        # The target stands in the last column, which the network does not read.
        table = np.concatenate([scaled, targets], 1)
        held_out = table[rows - self.window :] if rows < len(table) else None
        inputs = columns.shape[1]
        self._train(
            lambda: _Network(inputs, self.hidden_size, self.n_layers, self.dropout),
            table[:rows],
            held_out,
            self.window,
            1,
        )
        self._last_rows = columns[-self.window :].copy()
        self.n_train_ = len(columns)
        return self

    def predict(self, horizon: int = 1) -> np.ndarray:
        """The ``horizon`` values after the series of the fit, each after the one forecast before.

        Args:
            horizon: values ahead; above 1 for a fit without covariates alone, whose future would
                have to be known.

        Returns:
            (horizon,).

        Raises:
            ValueError: for a horizon below 1, or above 1 with covariates.
        """
        self._check_horizon(horizon)
        if horizon > 1 and self.n_features_in_ > 1:
            raise ValueError(
                f"horizon must be 1 for a fit with covariates X, whose future is not known, "
                f"got {horizon}"
            )
        rows = np.concatenate([self._last_rows, np.zeros((horizon, self._last_rows.shape[1]))])
        for step in range(horizon):
            # One window, whose target is not read.
            rows[self.window + step, 0] = self._one_step(rows[step : self.window + step])[0]
        return rows[self.window :, 0]

    def predict_walk_forward(  # type: ignore[override]
        self, y_full: Any, X_full: Any = None, start: int | None = None
    ) -> np.ndarray:
        """One-step forecasts of the rows from ``start`` on, each from the rows before it.

        Args:
            y_full: (n,).
            X_full: (n, k), as in the fit.
            start: first row that is forecast, at least ``window``.

        Returns:
            (n - start,); element t - start reads rows before t alone.

        Raises:
            ValueError: for a start below the window or beyond the rows, and covariates that are
                not those of the fit.
        """
        check_is_fitted(self, "n_train_")
        columns = self._columns(y_full, X_full, "y_full", "X_full", reset=False)
        check_start(start, self.window, len(columns))
        assert start is not None
        return self._one_step(columns[start - self.window : -1])

    @torch.no_grad()
    def _one_step(self, columns: np.ndarray) -> np.ndarray:
        """Forecasts after every whole window of the rows, the last included."""
        parameter = next(self.model_.parameters())
        scaler = SeriesScaler(self.scaler_min_, self.scaler_scale_)
        # A row after the last, which only the target of the last window would be.
        rows = np.concatenate([scaler.transform(columns), np.zeros((1, columns.shape[1]))])
        windows = SeriesWindows(torch.from_numpy(rows).to(parameter), self.window, 1)
        outputs = torch.cat(
            [self.model_(lookbacks) for lookbacks, _ in windows.in_order(_PREDICTION_BATCH)]
        )
        scaled = outputs.double().cpu().numpy()[:, None]
        if self.target == "return":
            last = columns[self.window - 1 :, 0]
            return last + self._change_scaler.restore(scaled)[:, 0]
        return scaled[:, 0] * self.scaler_scale_[0] + self.scaler_min_[0]

    @staticmethod
    def _schedule(epoch: int) -> float:
        return constant(epoch)

    def _validation_loss(self, model: nn.Module, lookbacks: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.mse_loss(model(lookbacks[:, :, :-1]), targets[:, 0, -1])

    def _columns(self, y: Any, X: Any, y_name: str, X_name: str, *, reset: bool) -> np.ndarray:
        """The series and its covariates, (n, 1 + k) float64."""
        series = check_series(y, y_name, rows=2)
        if reset:
            self._covariate_names = None if X is None else list(getattr(X, "columns", ())) or None
        if X is None:
            if not reset and self.n_features_in_ > 1:
                raise ValueError(
                    f"{X_name} must have the {self.n_features_in_ - 1} covariates of the fit, "
                    "got None"
                )
            self.n_features_in_ = 1
            return series[:, None]
        covariates = check_array(X, dtype=np.float64, input_name=X_name)
        if reset:
            self.n_features_in_ = 1 + covariates.shape[1]
        elif covariates.shape[1] != self.n_features_in_ - 1:
            raise ValueError(
                f"{X_name} must have the {self.n_features_in_ - 1} covariates of the fit, "
                f"got {covariates.shape[1]}"
            )
        names = list(getattr(X, "columns", ())) or None
        if self._covariate_names is not None and names not in (None, self._covariate_names):
            raise ValueError(
                f"{X_name} must have the columns of the fit, {self._covariate_names}, got {names}"
            )
        if len(covariates) != len(series):
            raise ValueError(
                f"{X_name} must have the {len(series)} rows of {y_name}, got {len(covariates)}"
            )
        return np.concatenate([series[:, None], covariates], 1)

    def _check_parameters(self) -> None:
        for name in ("window", "hidden_size", "n_layers"):
            check_count(name, getattr(self, name))
        check_share("dropout", self.dropout, zero=True)
        if self.target not in TARGETS:
            raise ValueError(f"target must be one of {', '.join(TARGETS)}, got {self.target!r}")
        if self.scaler not in SCALERS:
            raise ValueError(f"scaler must be 'minmax', 'standard' or None, got {self.scaler!r}")
        self._check_training()
