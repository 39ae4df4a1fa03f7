"""Drawings of a fitted dose response: surface, curves, calibration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.calibration import calibration_curve

from rankone.causal._link_surface import LinkSurface, between_quantiles

_SHOWN = (0.01, 0.99)  # quantiles of the scores between which the surface is drawn
_CELLS = 60  # of the surface along either score


def draw_surface(link: LinkSurface, ax: Any = None, *, points: bool = True) -> Any:
    """The surface in colours over the training scores; returns the axes."""
    ax = _axes(ax)
    u, v = (between_quantiles(score, _SHOWN, _CELLS) for score in link.scores.T)
    drawn = ax.pcolormesh(
        u, v, link.on_product(u, v).T, cmap="viridis", vmin=0, vmax=1, rasterized=True
    )
    if points:
        for outcome, face in ((1, "white"), (0, "none")):
            rows = link.y == outcome
            ax.scatter(
                link.scores[rows, 0],
                link.scores[rows, 1],
                s=7,
                facecolors=face,
                edgecolors="white",
                linewidths=0.5,
                alpha=0.6,
                label=f"y = {outcome}",
            )
    ax.set_xlim(u[0], u[-1])
    ax.set_ylim(v[0], v[-1])
    ax.set_xlabel("prognostic score u")
    ax.set_ylabel("interaction score v")
    ax.grid(False)
    ax.figure.colorbar(drawn, ax=ax, label="P(Y = 1)", shrink=0.85)
    return ax


def draw_curves(
    treatments: NDArray, curves: NDArray, backed: NDArray, names: Sequence[str], ax: Any = None
) -> Any:
    """Dose-response curves (m, g), solid where ``backed`` (m, g); returns the axes."""
    ax = _axes(ax)
    for name, curve, solid in zip(names, curves, backed, strict=True):
        (line,) = ax.plot(treatments, np.where(solid, curve, np.nan), label=str(name))
        ax.plot(treatments, curve, linestyle=":", linewidth=1, color=line.get_color())
    ax.set_xlabel("treatment")
    ax.set_ylabel("P(Y = 1)")
    ax.legend()
    return ax


def draw_calibration(y: NDArray, predicted: NDArray, ax: Any = None, *, n_bins: int = 10) -> Any:
    """Observed shares in bins of equal counts of the prediction; returns the axes."""
    observed, mean = calibration_curve(y, predicted, n_bins=n_bins, strategy="quantile")
    ax = _axes(ax)
    ax.plot((0, 1), (0, 1), linestyle="--", linewidth=1, color="0.5", label="calibrated")
    ax.plot(mean, observed, "o-", label="leave-one-out")
    ax.set_xlabel("predicted P(Y = 1)")
    ax.set_ylabel("observed share")
    ax.legend()
    return ax


def _axes(ax: Any) -> Any:
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(layout="constrained")[1]
