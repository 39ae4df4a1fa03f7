"""ChimeraForecaster: Chimera fitted to one multivariate series."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn

from rankone.forecast.network_forecaster import NetworkForecaster
from rankone.nn import Chimera


class ChimeraForecaster(NetworkForecaster):
    """Forecasts a multivariate series with :class:`rankone.nn.Chimera`.

    Take a ``d_model`` of 16 or more: every block begins with a layer norm over it, and at 8 the
    error is larger and depends more on the seed.

    Args:
        lookback, horizon: rows that are read and rows that are forecast.
        d_model, n_layers, d_state, decoder, revin, structure, bidirectional, selective, expand,
            decompose: of the model.
        closed_loop_weight: weight of the teacher-forcing error with ``decoder="closed_loop"``.
        max_epochs: passes over the training windows.
        batch_size: windows a step.
        lr: of the first two epochs; halved in each one after.
        patience: epochs without improvement of the validation error after which to stop, or None.
        val_fraction: share of the rows, the last ones, to stop by; 0 for none.
        scale: standardise every variate by the training rows.
        gradient_clip: largest gradient norm, or None.
        batches_per_epoch: random batches that make an epoch; None for all windows.
        device: torch device; None is the CPU.
        random_state: of weights and order of windows.
        progress: show a bar on a terminal.
        checkpoint: file written after every epoch, from which an interrupted fit goes on.

    Attributes:
        model_: :class:`rankone.nn.Chimera`.
        history_: :class:`TrainingHistory`.
        scaler_mean_, scaler_scale_: (V,).
        n_features_in_: V.

    Source: arXiv 2406.04320.

    Example:
        >>> import numpy as np
        >>> from rankone.forecast import ChimeraForecaster
        >>> t = np.arange(300)
        >>> X = np.stack([np.sin(t / 5), np.cos(t / 5)], 1)
        >>> forecaster = ChimeraForecaster(24, 6, d_model=8, n_layers=1, d_state=4, max_epochs=1)
        >>> forecaster.fit(X).predict().shape
        (6, 2)
    """

    def __init__(
        self,
        lookback: int = 96,
        horizon: int = 96,
        *,
        d_model: int = 64,
        n_layers: int = 2,
        d_state: int = 16,
        decoder: str = "direct",
        revin: bool = True,
        structure: str = "diagonal",
        bidirectional: bool = True,
        selective: bool = True,
        expand: float = 2,
        decompose: bool = False,
        closed_loop_weight: float = 1.0,
        max_epochs: int = 10,
        batch_size: int = 32,
        lr: float = 1e-3,
        patience: int | None = 3,
        val_fraction: float = 0.125,
        scale: bool = True,
        gradient_clip: float | None = 1.0,
        batches_per_epoch: int | None = None,
        device: str | torch.device | None = None,
        random_state: Any = None,
        progress: bool = True,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> None:
        self.lookback = lookback
        self.horizon = horizon
        self.d_model = d_model
        self.n_layers = n_layers
        self.d_state = d_state
        self.decoder = decoder
        self.revin = revin
        self.structure = structure
        self.bidirectional = bidirectional
        self.selective = selective
        self.expand = expand
        self.decompose = decompose
        self.closed_loop_weight = closed_loop_weight
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.lr = lr
        self.patience = patience
        self.val_fraction = val_fraction
        self.scale = scale
        self.gradient_clip = gradient_clip
        self.batches_per_epoch = batches_per_epoch
        self.device = device
        self.random_state = random_state
        self.progress = progress
        self.checkpoint = checkpoint

    def _make_model(self, n_features: int) -> Chimera:
        return Chimera(
            n_features,
            self.lookback,
            self.horizon,
            d_model=self.d_model,
            n_layers=self.n_layers,
            d_state=self.d_state,
            decoder=self.decoder,
            revin=self.revin,
            structure=self.structure,
            bidirectional=self.bidirectional,
            selective=self.selective,
            expand=self.expand,
            decompose=self.decompose,
        )

    def _loss(self, model: nn.Module, lookbacks: Tensor, targets: Tensor) -> Tensor:
        assert isinstance(model, Chimera)
        forecast, feedback_error = model.forward_with_feedback_error(lookbacks)
        return nn.functional.mse_loss(forecast, targets) + self.closed_loop_weight * feedback_error
