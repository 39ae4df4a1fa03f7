"""Plots of forecasts against the truth, and of the weights of a linear forecaster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_forecast(
    y_true: Any,
    forecasts: Any,
    *,
    history: Any = None,
    interval: tuple[Any, Any] | None = None,
    index: Any = None,
    label: str = "forecast",
    ax: Axes | None = None,
) -> Axes:
    """One variate's forecasts against what came.

    Args:
        y_true: (n,) values that were forecast, or None.
        forecasts: (n,), or a mapping of names to several.
        history: (m,) values before, or None.
        interval: (lower, upper), both (n,), or None.
        index: (n,) positions or times of the values; None counts from 0.
        label: of a single forecast.
        ax: where to draw; None makes a new figure.

    Returns:
        The axes.

    Raises:
        ValueError: for forecasts and truth of different lengths, or a history with an index.

    Example:
        >>> from rankone.forecast import plot_forecast
        >>> plot_forecast([1.0, 2.0], [1.5, 1.5]).get_legend_handles_labels()[1]
        ['truth', 'forecast']
    """
    named = dict(forecasts) if isinstance(forecasts, Mapping) else {label: forecasts}
    lines = {name: np.asarray(values, dtype=np.float64) for name, values in named.items()}
    steps = len(next(iter(lines.values())))
    if history is not None and index is not None:
        raise ValueError("history must be None with an index, which holds no times for it")
    positions = np.arange(steps) if index is None else np.asarray(index)
    if y_true is not None:
        lines = {"truth": np.asarray(y_true, dtype=np.float64)} | lines
    for name, values in lines.items():
        if values.shape != (steps,) or len(positions) != steps:
            raise ValueError(
                f"{name} and its index must be ({steps},), got {values.shape} and {len(positions)}"
            )
    ax = _axes(ax)
    if history is not None:
        before = np.asarray(history, dtype=np.float64)
        ax.plot(np.arange(-len(before), 0), before, color="0.5", label="history")
    for name, values in lines.items():
        truth = name == "truth"
        ax.plot(positions, values, label=name, color="0.2" if truth else None, linewidth=1.2)
    if interval is not None:
        lower, upper = (np.asarray(bound, dtype=np.float64) for bound in interval)
        ax.fill_between(positions, lower, upper, alpha=0.2, linewidth=0, label="interval")
    ax.legend()
    return ax


def plot_weights(coef: Any, *, ax: Axes | None = None) -> Axes:
    """Heat map of the weights (H, L) of a linear forecaster.

    Args:
        coef: (H, L), a row a step ahead.
        ax: where to draw; None makes a new figure.

    Returns:
        The axes; the lag of the last value of a lookback is 1.

    Raises:
        ValueError: for another number of axes.

    Example:
        >>> import numpy as np
        >>> from rankone.forecast import plot_weights
        >>> plot_weights(np.eye(3)).get_xlabel() != ""
        True
    """
    weights = np.asarray(coef, dtype=np.float64)
    if weights.ndim != 2:
        raise ValueError(f"coef must be (horizon, lookback), got {weights.shape}")
    ax = _axes(ax)
    horizon, lookback = weights.shape
    # One weight, of the last value, would leave the others pale.
    limit = float(np.quantile(np.abs(weights), 0.995)) or 1.0
    image = ax.imshow(
        weights,
        cmap="PuOr",
        vmin=-limit,
        vmax=limit,
        aspect="auto",
        origin="lower",
        extent=(lookback + 0.5, 0.5, 0.5, horizon + 0.5),
    )
    ax.set_xlabel("lag")
    ax.set_ylabel("steps ahead")
    ax.grid(False)
    ax.figure.colorbar(image, ax=ax)
    return ax


def _axes(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    from matplotlib.figure import Figure

    return Figure(layout="constrained").add_subplot()
