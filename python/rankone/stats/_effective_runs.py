"""Effective Runs: runs valued by control, conditions and tempo.

ER = S D T of one innings. The paper names the measure and does not give its formula in what could
be read of it; the definition here is this library's own, and replaceable. It looks at the
finished match: it is a target, never something known before the match.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin

from rankone.stats._frames import numbers, require_columns

PITCH_WEIGHTS: Mapping[str, float] = MappingProxyType(
    {"batting": -0.10, "seam": 0.15, "spin": 0.10, "unknown": 0.0}
)
WEATHER_WEIGHTS: Mapping[str, float] = MappingProxyType(
    {"clear": 0.0, "overcast": 0.05, "rain": 0.05, "unknown": 0.0}
)
TARGETS = ("effective_runs", "impact_share")
_COUNTS = ("runs", "balls", "runs_controlled", "runs_uncontrolled", "rest_runs", "rest_balls")


def effective_runs(
    table: pd.DataFrame,
    *,
    gamma: float = 0.5,
    tempo: float = 0.5,
    tempo_prior: float = 30.0,
    tempo_clip: tuple[float, float] = (0.5, 2.0),
    pitch_weights: Mapping[str, float] | None = None,
    weather_weights: Mapping[str, float] | None = None,
) -> NDArray[np.float64]:
    """Effective Runs of innings, ER = S D T; this library's own definition.

    S = R1 + gamma R0 + (gamma + (1 - gamma) c) Ru, with R1, R0 and Ru the runs off controlled,
    uncontrolled and unknown balls and c the smoothed control rate. D = 1 + pitch weight + weather
    weight. T = clip(((r + k rho) / (B + k)) / rho, low, high)^tempo, with r runs off B balls, rho
    the runs per ball of all other batters of the match and k ``tempo_prior``; T = 1 where they
    faced no ball or scored no run.

    Args:
        table: rows of :func:`build_innings_table`.
        gamma: worth of a run off an uncontrolled ball; 1 ignores control.
        tempo: exponent of the tempo factor, at least 0; 0 ignores tempo.
        tempo_prior: k, balls at the match's rate added to the innings, at least 0.
        tempo_clip: (low, high) of the tempo ratio.
        pitch_weights, weather_weights: class -> weight, in place of the defaults: batting -0.10,
            seam 0.15, spin 0.10, unknown 0; clear 0, overcast 0.05, rain 0.05, unknown 0.

    Returns:
        (n,) float64, in runs.

    Raises:
        ValueError: for missing columns, numbers that are not finite, negative counts, and a pitch
            or weather class without a weight.

    Source:
        The measure is named in "Impact of a Batter in ODI Cricket Implementing Regression Models
        from Match Commentary" (2023); its formula there was not found.

    Example:
        >>> import pandas as pd
        >>> from rankone.stats.batting import effective_runs
        >>> innings = pd.DataFrame({
        ...     "runs": [50], "balls": [60], "runs_controlled": [50], "runs_uncontrolled": [0],
        ...     "control_rate_smoothed": [0.97], "rest_runs": [200], "rest_balls": [250],
        ...     "pitch": ["seam"], "weather": ["overcast"]})
        >>> effective_runs(innings).round(2).tolist()
        [60.83]
    """
    needed = (*_COUNTS, "control_rate_smoothed", "pitch", "weather")
    require_columns(table, needed, "table")
    gamma = _finite("gamma", gamma)
    tempo = _finite("tempo", tempo, at_least=0)
    prior = _finite("tempo_prior", tempo_prior, at_least=0)
    low, high = _clip(tempo_clip)
    counts = {name: numbers(table, name, "table") for name in _COUNTS}
    for name, values in counts.items():
        if (values < 0).any():
            raise ValueError(f"table must have no negative {name}, got {values.min()}")
    runs, balls = counts["runs"], counts["balls"]
    controlled, uncontrolled = counts["runs_controlled"], counts["runs_uncontrolled"]
    rate = numbers(table, "control_rate_smoothed", "table")

    unknown = runs - controlled - uncontrolled
    shots = controlled + gamma * uncontrolled + (gamma + (1 - gamma) * rate) * unknown
    difficulty = (
        1
        + _weights(table, "pitch", pitch_weights, PITCH_WEIGHTS)
        + _weights(table, "weather", weather_weights, WEATHER_WEIGHTS)
    )
    compared = (counts["rest_runs"] > 0) & (counts["rest_balls"] > 0) & (balls + prior > 0)
    rho = np.ones(len(table))
    np.divide(counts["rest_runs"], counts["rest_balls"], out=rho, where=compared)
    ratio = np.ones(len(table))
    np.divide(runs + prior * rho, (balls + prior) * rho, out=ratio, where=compared)
    pace = np.where(compared, np.clip(ratio, low, high) ** tempo, 1.0)
    return shots * difficulty * pace


def _finite(name: str, value: Any, at_least: float = -math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise ValueError(f"{name} must be a number, got {value!r}")
    if not (math.isfinite(value) and value >= at_least):
        least = "" if at_least == -math.inf else f" of at least {at_least:g}"
        raise ValueError(f"{name} must be a finite number{least}, got {value!r}")
    return float(value)


def _clip(tempo_clip: Any) -> tuple[float, float]:
    try:
        low, high = (float(value) for value in tempo_clip)
    except (TypeError, ValueError) as error:
        raise ValueError(f"tempo_clip must be (low, high), got {tempo_clip!r}") from error
    if not 0 <= low <= high:
        raise ValueError(f"tempo_clip must have 0 <= low <= high, got {tempo_clip!r}")
    return low, high


def _weights(
    table: pd.DataFrame,
    column: str,
    given: Mapping[str, float] | None,
    default: Mapping[str, float],
) -> NDArray[np.float64]:
    weights = default if given is None else given
    if not isinstance(weights, Mapping):
        raise ValueError(
            f"{column}_weights must map classes to weights, got a {type(weights).__name__}"
        )
    codes, classes = pd.factorize(table[column], use_na_sentinel=False)
    without = [label for label in classes if label not in weights]
    if without:
        raise ValueError(
            f"{column}_weights must have a weight for every {column} class, "
            f"got none for {', '.join(map(repr, without))}"
        )
    values = [_finite(f"{column}_weights[{label!r}]", weights[label]) for label in classes]
    return np.array(values, dtype=np.float64)[codes]


def impact_share(table: pd.DataFrame, er: ArrayLike) -> NDArray[np.float64]:
    """Share in percent of each innings in the Effective Runs of its team innings.

    Args:
        table: rows with match_id and innings, all batters of a team innings present.
        er: (n,) Effective Runs.

    Returns:
        (n,) float64; a team innings sums to 100, or to 0 where its Effective Runs do.

    Raises:
        ValueError: for missing columns, and ``er`` of another length or not finite.

    Example:
        >>> import pandas as pd
        >>> from rankone.stats.batting import impact_share
        >>> team_innings = pd.DataFrame({"match_id": ["1", "1"], "innings": 1})
        >>> impact_share(team_innings, [30.0, 10.0]).tolist()
        [75.0, 25.0]
    """
    require_columns(table, ("match_id", "innings"), "table")
    values = np.asarray(er, dtype=np.float64)
    if values.shape != (len(table),):
        raise ValueError(f"er must have shape ({len(table)},), got {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("er must be finite, got NaN or infinity")
    if not len(values):
        return values.copy()
    team = table.groupby(["match_id", "innings"], sort=False, dropna=False).ngroup().to_numpy()
    total = np.bincount(team, weights=values)[team]
    share = np.zeros(len(values))
    np.divide(100 * values, total, out=share, where=total != 0)
    return share


class EffectiveRuns(TransformerMixin, BaseEstimator):
    """Effective Runs, or the impact share, as a stateless transformer.

    Args:
        function: any ``function(table, **params) -> (n,)``; None is :func:`effective_runs`.
        target: "effective_runs", or "impact_share" for its share of the team innings.
        params: keyword arguments of ``function``.

    Example:
        >>> import pandas as pd
        >>> from rankone.stats.batting import EffectiveRuns
        >>> EffectiveRuns(function=lambda table: table["runs"]).fit_transform(
        ...     pd.DataFrame({"runs": [3.0, 4.0]})).tolist()
        [[3.0], [4.0]]
    """

    def __init__(
        self,
        *,
        function: Callable[..., ArrayLike] | None = None,
        target: str = "effective_runs",
        params: Mapping[str, Any] | None = None,
    ) -> None:
        self.function = function
        self.target = target
        self.params = params

    def fit(self, table: pd.DataFrame | None = None, y: Any = None) -> EffectiveRuns:
        """Check the parameters; nothing is learnt."""
        if self.target not in TARGETS:
            raise ValueError(f"target must be one of {TARGETS}, got {self.target!r}")
        if self.function is not None and not callable(self.function):
            raise ValueError(f"function must be callable or None, got {self.function!r}")
        if self.params is not None and not isinstance(self.params, Mapping):
            raise ValueError(f"params must be a mapping or None, got {self.params!r}")
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def transform(self, table: pd.DataFrame) -> NDArray[np.float64]:
        """The measure of every row, (n, 1) float64.

        Raises:
            ValueError: for bad parameters, or a function that returns another shape.
        """
        self.fit(table)
        function = effective_runs if self.function is None else self.function
        values = np.asarray(function(table, **(self.params or {})), dtype=np.float64)
        if values.shape != (len(table),):
            raise ValueError(
                f"function must return an array of shape ({len(table)},), got {values.shape}"
            )
        if self.target == "impact_share":
            values = impact_share(table, values)
        return values[:, np.newaxis]

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """The name of the one column, the target."""
        return np.array([self.target], dtype=object)
