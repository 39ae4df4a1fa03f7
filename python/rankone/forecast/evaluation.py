"""Rolling-origin evaluation on the test block of the long-horizon benchmarks.

Every window of the test block is an origin. A forecaster is fitted once, on the training block, and
standardised errors are in units of the training rows, so that nothing of the test block enters a
scaler or a weight. The repeat and seasonal naive forecasts stand beside every result.

Protocol: "Are Transformers Effective for Time Series Forecasting?", arXiv 2205.13504.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_array

from rankone._progress import Progress
from rankone.forecast.baselines import RepeatForecaster, SeasonalNaiveForecaster
from rankone.forecast.metrics import mean_scaled, naive_scale
from rankone.forecast.protocol import split_series
from rankone.forecast.window_forecaster import WindowForecaster, check_count
from rankone.forecast.windows import SeriesScaler, SeriesWindows

PERMUTATIONS = (None, "shuffle", "half")


class _Errors:
    """Sums of the errors of one forecaster over windows."""

    def __init__(self, horizon: int, variates: int) -> None:
        self.squares = np.zeros(horizon)
        self.absolute = np.zeros(variates)
        self.windows = 0

    def add(self, errors: np.ndarray) -> None:
        """Errors (n, H, V)."""
        self.squares += np.square(errors).mean(2).sum(0)
        self.absolute += np.abs(errors).mean(1).sum(0)
        self.windows += len(errors)

    def summary(self, naive: np.ndarray) -> dict[str, Any]:
        absolute = self.absolute / self.windows
        per_step = self.squares / self.windows
        return {
            "mse": float(per_step.mean()),
            "mae": float(absolute.mean()),
            "rmse": float(np.sqrt(per_step.mean())),
            "mase": mean_scaled(absolute, naive),
            "mse_per_step": per_step,
        }


def evaluate_long_horizon(
    forecaster: WindowForecaster,
    X: Any,
    lookback: int,
    horizon: int,
    split: str | tuple[int, int, int] = "7:1:2",
    permute: str | None = None,
    *,
    seasons: int | Sequence[int] = (),
    raw_scale: bool = False,
    random_state: int = 0,
    progress: bool = False,
) -> dict[str, Any]:
    """Fit on the training block, and forecast every window of the test block.

    Args:
        forecaster: a :class:`WindowForecaster`, which is fitted, on training and validation block,
            and left so.
        X: (T, V) array or data frame.
        lookback, horizon: rows of the windows; the forecaster must have the same horizon, and a
            lookback that is no longer.
        split: as for :func:`rankone.forecast.protocol.split_rows`.
        permute: None, ``"shuffle"``, one fixed permutation of the rows of every test lookback, or
            ``"half"``, its halves swapped. Tells whether their order is made use of.
        seasons: rows of the seasons of the seasonal naive forecasts beside it, each at most the
            lookback. The first is that of the MASE; without any it is 1.
        raw_scale: errors in the units of X, rather than in standard deviations of training rows.
        random_state: of the permutation.
        progress: show a bar on a terminal.

    Returns:
        dict with ``mse``, ``mae``, ``rmse``, ``mase``, means over windows, horizon and variates;
        ``mse_per_step`` (H,); ``n_windows``; and ``baselines``, a dict of such dicts for
        ``"repeat"`` and ``"seasonal naive (rows)"``, whose lookbacks are never permuted.

    Raises:
        ValueError: for lookback, horizon or seasons that do not fit, an unknown split or
            permutation, and entries that are not finite.

    Example:
        >>> import numpy as np
        >>> from rankone.forecast import LinearForecaster, evaluate_long_horizon
        >>> X = np.sin(np.arange(500) / 5)[:, None]
        >>> forecaster = LinearForecaster(24, 12, solver="lstsq", variant="linear")
        >>> result = evaluate_long_horizon(forecaster, X, 24, 12)
        >>> result["mse"] < 1e-12 < result["baselines"]["repeat"]["mse"], result["n_windows"]
        (True, 89)
    """
    if not isinstance(forecaster, WindowForecaster):
        raise TypeError(
            f"forecaster must be a WindowForecaster, got a {type(forecaster).__name__}; "
            "walk_forward_evaluate takes those of one series"
        )
    check_count("lookback", lookback)
    if permute not in PERMUTATIONS:
        raise ValueError(f"permute must be None, 'shuffle' or 'half', got {permute!r}")
    if forecaster.horizon != horizon:
        raise ValueError(
            f"horizon must be that of the forecaster, {forecaster.horizon}, got {horizon}"
        )
    if forecaster.lookback > lookback:
        raise ValueError(
            f"lookback must be at least that of the forecaster, {forecaster.lookback}, "
            f"got {lookback}"
        )
    lags = [seasons] if isinstance(seasons, int | np.integer) else list(seasons)
    for season in lags:
        if not 1 <= season <= lookback:
            raise ValueError(f"seasons must be between 1 and the lookback {lookback}, got {season}")
    series = check_array(X, dtype=np.float64, input_name="X")
    blocks = split_series(series, lookback, split)
    train_rows = len(blocks.train)
    table = X.iloc if hasattr(X, "iloc") else series
    # Sliced from X as it came, so that the names of its columns are remembered. The validation
    # block starts the forecaster's own lookback early.
    end = train_rows + len(blocks.validation) - lookback
    forecaster.fit(table[:train_rows], table[train_rows - forecaster.lookback : end])
    contenders: dict[str, WindowForecaster] = {"": forecaster, "repeat": RepeatForecaster(horizon)}
    for season in lags:
        contenders[f"seasonal naive ({season})"] = SeasonalNaiveForecaster(horizon, season)
    for name, contender in contenders.items():
        if name:
            contender.fit(blocks.train)
    scale = np.ones(series.shape[1]) if raw_scale else SeriesScaler.fit(blocks.train).scale
    naive = naive_scale(blocks.train / scale, lags[0] if lags else 1)
    order = _order(permute, lookback, random_state)
    test = torch.from_numpy(np.require(blocks.test, requirements=["C", "W"]))
    windows = SeriesWindows(test, lookback, horizon)
    batch = forecaster._batch(series.shape[1])
    errors = {name: _Errors(horizon, series.shape[1]) for name in contenders}
    with Progress("test windows", len(windows), enabled=progress) as bar:
        for lookbacks, targets in windows.in_order(batch):
            truth = targets.numpy()
            for name, contender in contenders.items():
                inputs = lookbacks.numpy() if name else lookbacks.numpy()[:, order]
                errors[name].add((contender.predict_lookbacks(inputs) - truth) / scale)
            bar.advance(len(truth))
    summaries = {name: sums.summary(naive) for name, sums in errors.items()}
    return summaries.pop("") | {"n_windows": len(windows), "baselines": summaries}


def _order(permute: str | None, lookback: int, random_state: int) -> np.ndarray:
    """Positions of the rows of a lookback after the permutation."""
    positions = np.arange(lookback)
    if permute == "shuffle":
        return np.random.default_rng(random_state).permutation(lookback)
    if permute == "half":
        return np.roll(positions, -(lookback // 2))
    return positions
