"""Forecasters that are torch networks trained on sliding windows.

NetworkTraining is the training that all of them share: seeds, early stopping, checkpoints.
NetworkForecaster adds the fit of a model from a lookback to a horizon, and files.
"""

from __future__ import annotations

import hashlib
import json
import math
import numbers
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from rankone._model_files import read_model, write_model
from rankone.forecast.training import TrainingHistory, fit_epochs, halved_every_epoch
from rankone.forecast.window_forecaster import WindowForecaster, check_count, check_share
from rankone.forecast.windows import SeriesScaler, SeriesWindows

# Validation windows that are forecast at once.
_VALIDATION_BATCH = 256

# Parameters that may differ between a fit and the one that goes on from its checkpoint.
_MAY_CHANGE = ("max_epochs", "patience", "device", "progress", "checkpoint")

_FILE_KEY = "rankone.forecast"


class NetworkTraining(BaseEstimator):
    """Training of ``model_`` on the windows of a series.

    Attributes:
        model_: the trained module.
        history_: :class:`TrainingHistory`.
    """

    model_: Any
    max_epochs: int
    batch_size: int
    lr: float
    patience: int | None
    val_fraction: float
    device: str | torch.device | None
    random_state: Any
    progress: bool
    checkpoint: str | os.PathLike[str] | None
    gradient_clip: float | None = None
    batches_per_epoch: int | None = None
    # Whether an epoch leaves out its last partial batch, as the long-horizon protocol does.
    drop_last = True

    def _loss(self, model: nn.Module, lookbacks: Tensor, targets: Tensor) -> Tensor:
        """The training loss."""
        return self._validation_loss(model, lookbacks, targets)

    def _validation_loss(self, model: nn.Module, lookbacks: Tensor, targets: Tensor) -> Tensor:
        """The loss to stop by."""
        return nn.functional.mse_loss(model(lookbacks), targets)

    @staticmethod
    def _schedule(epoch: int) -> float:
        return halved_every_epoch(epoch)

    def _train(
        self,
        make_model: Callable[[], nn.Module],
        train: np.ndarray,
        held_out: np.ndarray | None,
        lookback: int,
        horizon: int,
    ) -> None:
        """Set ``model_`` and ``history_``.

        Args:
            make_model: the untrained model; what it draws is fixed by the seed.
            train, held_out: (T, V) scaled rows to fit on and to stop by.
            lookback, horizon: of the windows.
        """
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        device = torch.device(self.device or "cpu")
        generator = torch.Generator().manual_seed(seed)
        windows = SeriesWindows(_floats(train, device), lookback, horizon)
        validation: Callable[[], Any] | None = None
        if held_out is not None:
            validation_windows = SeriesWindows(_floats(held_out, device), lookback, horizon)

            def validation() -> Any:
                return validation_windows.in_order(_VALIDATION_BATCH)

        batches = max(len(windows) // self.batch_size, 1)
        if not self.drop_last:
            batches = math.ceil(len(windows) / self.batch_size)
        with seeded(seed, device):
            model = make_model().to(device)
            self.history_: TrainingHistory = fit_epochs(
                model,
                lambda lookbacks, targets: self._loss(model, lookbacks, targets),
                lambda: windows.shuffled(
                    self.batch_size,
                    generator,
                    self.batches_per_epoch,
                    drop_last=self.drop_last,
                ),
                validation,
                validation_loss=lambda lookbacks, targets: self._validation_loss(
                    model, lookbacks, targets
                ),
                max_epochs=self.max_epochs,
                patience=self.patience,
                learning_rate=self.lr,
                schedule=self._schedule,
                gradient_clip=self.gradient_clip,
                total_batches=min(batches, self.batches_per_epoch or batches),
                progress=self.progress,
                checkpoint=self.checkpoint,
                generator=generator,
                fingerprint=self._fingerprint(train, held_out),
            )
        self.model_ = model

    def _fingerprint(self, *arrays: np.ndarray | None) -> str:
        parameters = {
            name: value if isinstance(value, numbers.Number | str | tuple) else None
            for name, value in self.get_params().items()
            if name not in _MAY_CHANGE
        }
        digest = hashlib.sha256(repr((type(self).__name__, sorted(parameters.items()))).encode())
        for array in arrays:
            if array is not None:
                digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def _check_training(self) -> None:
        for name in ("max_epochs", "batch_size"):
            check_count(name, getattr(self, name))
        if not isinstance(self.lr, numbers.Real) or not 0 < float(self.lr) < math.inf:
            raise ValueError(f"lr must be positive and finite, got {self.lr!r}")
        check_share("val_fraction", self.val_fraction, zero=True)
        if self.patience is not None:
            try:
                check_count("patience", self.patience)
            except ValueError:
                raise ValueError(
                    f"patience must be at least 1 or None, got {self.patience!r}"
                ) from None


class NetworkForecaster(NetworkTraining, WindowForecaster):
    """Base of networks (n, lookback, V) to (n, horizon, V), on standardised series.

    Subclasses have the parameters ``lookback``, ``horizon``, ``max_epochs``, ``batch_size``,
    ``lr``, ``patience``, ``val_fraction``, ``scale``, ``device``, ``random_state``, ``progress``
    and ``checkpoint``, and define :meth:`_make_model`.

    Attributes:
        model_: the trained module.
        history_: :class:`TrainingHistory`.
        scaler_mean_, scaler_scale_: (V,) of the rows that the weights were fitted on.
        n_features_in_: V.
    """

    scale: bool

    def _make_model(self, n_features: int) -> nn.Module:
        """The untrained model for V variates."""
        raise TypeError(f"{type(self).__name__} must define _make_model")

    def _stops_early(self) -> bool:
        """Whether there are epochs, which validation rows can end."""
        return True

    def fit(self, X: Any, X_val: Any = None) -> Self:
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
            if self._stops_early():
                self._check_length("X_val", held_out)
        train = series
        if X_val is None and self._stops_early() and self.val_fraction:
            first = len(series) - round(self.val_fraction * len(series))
            train, held_out = series[:first], series[max(first - self.lookback, 0) :]
            self._check_length("the validation rows of X and the lookback before them", held_out)
        self._check_length("the training rows of X", train)
        scaler = SeriesScaler.fit(train, "standard" if self.scale else None)
        self._fit_scaled(
            scaler.transform(train), None if held_out is None else scaler.transform(held_out)
        )
        self.scaler_mean_, self.scaler_scale_ = scaler.offset, scaler.scale
        self._last_rows = series[-self.lookback :].copy()
        return self

    def _fit_scaled(self, train: np.ndarray, held_out: np.ndarray | None) -> None:
        """Set ``model_`` and ``history_`` from standardised rows."""
        self._train(
            lambda: self._make_model(train.shape[1]), train, held_out, self.lookback, self.horizon
        )

    @torch.no_grad()
    def _forecast(self, lookbacks: np.ndarray) -> np.ndarray:
        parameter = next(self.model_.parameters())
        inputs = torch.from_numpy(np.ascontiguousarray(lookbacks)).to(parameter)
        return self.model_(inputs).double().cpu().numpy()

    def _check_parameters(self) -> None:
        self._check_counts("lookback", "horizon")
        self._check_training()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write parameters, scaler and weights to one safetensors file, whole or not at all.

        Args:
            path: the file, in a folder that exists.

        Raises:
            ValueError: for a ``random_state`` that is no number, which a file cannot hold.
        """
        check_is_fitted(self, "model_")
        parameters = self.get_params() | {"device": None, "checkpoint": None}
        if self.random_state is not None and not isinstance(self.random_state, numbers.Integral):
            raise ValueError(
                f"random_state must be an integer or None to be saved, got {self.random_state!r}"
            )
        tensors = {f"model.{name}": value for name, value in self.model_.state_dict().items()}
        for name in ("scaler_mean_", "scaler_scale_", "_last_rows"):
            tensors[name] = torch.from_numpy(np.ascontiguousarray(getattr(self, name)))
        names = getattr(self, "feature_names_in_", None)
        metadata = {
            "forecaster": type(self).__name__,
            "parameters": parameters,
            "feature_names": None if names is None else list(names),
        }
        on_cpu = {name: value.cpu() for name, value in tensors.items()}
        write_model(path, on_cpu, {_FILE_KEY: json.dumps(metadata, default=_plain)})

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, device: str | torch.device | None = None
    ) -> Self:
        """Read a forecaster that :meth:`save` wrote; its ``history_`` is empty.

        Args:
            path: the file.
            device: where the weights go; None is the CPU.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: for a file of another kind of forecaster.
        """
        header, tensors = read_model(path, _FILE_KEY, "forecaster")
        metadata: dict[str, Any] = json.loads(header)
        kind = metadata["forecaster"]
        if kind != cls.__name__:
            raise ValueError(f"path must be a file of {cls.__name__}, got one of {kind}")
        forecaster = cls(**(metadata["parameters"] | {"device": device}))
        for name in ("scaler_mean_", "scaler_scale_", "_last_rows"):
            setattr(forecaster, name, tensors.pop(name).numpy())
        forecaster.n_features_in_ = len(forecaster.scaler_mean_)
        if metadata["feature_names"] is not None:
            forecaster.feature_names_in_ = np.array(metadata["feature_names"], dtype=object)
        weights = {name.removeprefix("model."): value for name, value in tensors.items()}
        with torch.random.fork_rng(devices=[]):
            model = forecaster._make_model(forecaster.n_features_in_)
        # Least squares leaves float64 weights where the constructor makes float32 ones.
        model.to(next(iter(weights.values())).dtype).load_state_dict(weights)
        forecaster.model_ = model.to(torch.device(device or "cpu")).eval()
        forecaster.history_ = TrainingHistory()
        return forecaster


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's random numbers fixed inside, and left as they were outside."""
    devices = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def _floats(rows: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(rows)).float().to(device)


def _plain(value: Any) -> Any:
    """What a parameter is in JSON."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a parameter of type {type(value).__name__} cannot be saved")
