"""LinearForecaster: Linear, NLinear and DLinear fitted to one multivariate series.

By the published protocol, Adam with early stopping, or exactly, by least squares over all windows.
"""

from __future__ import annotations

import numbers
import os
import time
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rankone.forecast.least_squares import window_least_squares
from rankone.forecast.network_forecaster import NetworkForecaster
from rankone.forecast.training import TrainingHistory
from rankone.nn.linear_forecast import LinearForecast

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SOLVERS = ("adam", "lstsq")


class LinearForecaster(NetworkForecaster):
    """Forecasts a multivariate series with one linear map from lookback to horizon.

    Args:
        lookback, horizon: rows that are read and rows that are forecast.
        variant: ``"linear"``, ``"nlinear"`` or ``"dlinear"``, as in
            :class:`rankone.nn.LinearForecast`.
        individual: a map of its own for every variate.
        kernel_size: steps of the moving average of ``"dlinear"``.
        solver: ``"adam"``, the published protocol, or ``"lstsq"``, the exact minimiser of the
            squared error over all windows. The latter gives ``"dlinear"`` the solution of
            ``"linear"``, for both describe the same maps, and warns that it does.
        alpha: with ``"lstsq"``, penalty alpha ||W||^2 on the sum of squared errors, of standardised
            values unless ``scale=False``.
        lr: of the first two epochs; halved in each one after.
        batch_size: windows a step.
        max_epochs: passes over the training windows.
        patience: epochs without improvement of the validation error after which to stop, or None.
        scale: standardise every variate by the training rows.
        val_fraction: share of the rows, the last ones, to stop by; ``"lstsq"`` uses every row and
            ignores it.
        device: torch device of Adam and of the forecasts; None is the CPU.
        random_state: of weights and order of windows.
        progress: show a bar on a terminal.
        checkpoint: file written after every epoch, from which an interrupted fit goes on.

    Attributes:
        coef_: (H, L), or (V, H, L) with ``individual``: W of y = W x + b for any variant, on
            standardised values. One channel's W is the same in its own units.
        intercept_: (H,) or (V, H), on standardised values.
        scaler_mean_, scaler_scale_: (V,).
        n_features_in_: V.
        history_: :class:`TrainingHistory`, without epochs for ``"lstsq"``.
        model_: :class:`rankone.nn.LinearForecast`, float64 for ``"lstsq"``.

    Source: "Are Transformers Effective for Time Series Forecasting?", arXiv 2205.13504.

    Example:
        >>> import numpy as np
        >>> from rankone.forecast import LinearForecaster
        >>> X = np.sin(np.arange(300) / 5)[:, None]
        >>> forecaster = LinearForecaster(24, 100, solver="lstsq", variant="linear").fit(X)
        >>> truth = np.sin(np.arange(300, 400) / 5)
        >>> bool(np.abs(forecaster.predict()[:, 0] - truth).max() < 1e-6)
        True
    """

    model_: LinearForecast

    def __init__(
        self,
        lookback: int = 336,
        horizon: int = 96,
        variant: str = "nlinear",
        individual: bool = False,
        kernel_size: int = 25,
        solver: str = "adam",
        alpha: float = 0.0,
        lr: float = 1e-3,
        batch_size: int = 32,
        max_epochs: int = 10,
        patience: int | None = 3,
        scale: bool = True,
        val_fraction: float = 0.125,
        device: str | torch.device | None = None,
        random_state: Any = None,
        *,
        progress: bool = True,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> None:
        self.lookback = lookback
        self.horizon = horizon
        self.variant = variant
        self.individual = individual
        self.kernel_size = kernel_size
        self.solver = solver
        self.alpha = alpha
        self.lr = lr
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.patience = patience
        self.scale = scale
        self.val_fraction = val_fraction
        self.device = device
        self.random_state = random_state
        self.progress = progress
        self.checkpoint = checkpoint

    @property
    def coef_(self) -> np.ndarray:
        """Weights of the lookback in units of the scaled series, (H, L), or (V, H, L) a channel."""
        return self.model_.effective_weight().double().cpu().numpy()

    @property
    def intercept_(self) -> np.ndarray:
        """Constants of the forecast, (H,), or (V, H) a channel."""
        return self.model_.effective_bias().double().cpu().numpy()

    def plot_weights(self, channel: int = 0, ax: Axes | None = None) -> Axes:
        """Heat map of the weights: a row a step ahead, a column a lag.

        Args:
            channel: which map, with ``individual``.
            ax: where to draw; None makes a new figure.

        Returns:
            The axes.
        """
        from rankone.forecast.plotting import plot_weights

        coef = self.coef_
        return plot_weights(coef[channel] if self.individual else coef, ax=ax)

    def _make_model(self, n_features: int) -> LinearForecast:
        return LinearForecast(
            self.lookback,
            self.horizon,
            n_features,
            variant=self.variant,
            individual=self.individual,
            kernel_size=self.kernel_size,
        )

    def _stops_early(self) -> bool:
        return self.solver == "adam"

    def _fit_scaled(self, train: np.ndarray, held_out: np.ndarray | None) -> None:
        if self.solver == "adam":
            super()._fit_scaled(train, held_out)
            return
        start = time.perf_counter()
        with torch.random.fork_rng(devices=[]):
            model = self._make_model(train.shape[1]).double()
        coef, intercept = window_least_squares(
            train,
            self.lookback,
            self.horizon,
            alpha=self.alpha,
            individual=self.individual,
            relative=self.variant == "nlinear",
        )
        with torch.no_grad():
            model.weight.copy_(torch.from_numpy(coef))
            model.bias.copy_(torch.from_numpy(intercept))
            if self.variant == "dlinear":
                warnings.warn(
                    "solver='lstsq' gives variant='dlinear' the solution of 'linear', with the "
                    "same weights for remainder and trend: both describe the same maps",
                    UserWarning,
                    stacklevel=3,
                )
                model.trend_weight.copy_(model.weight)
                model.trend_bias.zero_()
        self.model_ = model.to(torch.device(self.device or "cpu")).eval()
        self.history_ = TrainingHistory(
            stopped_by="closed form", seconds=time.perf_counter() - start
        )

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.solver not in SOLVERS:
            raise ValueError(f"solver must be one of {', '.join(SOLVERS)}, got {self.solver!r}")
        if not isinstance(self.alpha, numbers.Real) or not 0 <= float(self.alpha) < np.inf:
            raise ValueError(f"alpha must be finite and at least 0, got {self.alpha!r}")
