"""One row a batter's innings, from deliveries.

Scoring rules: a wide is not a ball faced and a no-ball is; a batter's runs are those off the bat;
an all-run four is no boundary; whoever came in has a row, also run out without facing; retired
hurt is not out. Everything is counted with integer codes and ``bincount``, never row by row.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from rankone.stats._cricsheet import KEY
from rankone.stats._frames import dates_of, numbers, require_columns, wickets_of
from rankone.stats._phrases import UNKNOWN

NOT_DISMISSALS = frozenset(("retired hurt", "retired not out"))
_NEEDED = (
    *KEY,
    *("team", "opponent", "batter", "non_striker"),
    *("runs_batter", "runs_total", "non_boundary", "wides", "wickets"),
)


def build_innings_table(
    deliveries: pd.DataFrame,
    matches: pd.DataFrame,
    *,
    control: ArrayLike | None = None,
    conditions: pd.DataFrame | None = None,
    control_prior: tuple[float, float] = (0.8, 10.0),
) -> pd.DataFrame:
    """Batting innings from ball-by-ball data.

    Args:
        deliveries, matches: as :func:`load_cricsheet` returns them, the deliveries in any order.
        control: (n,) codes aligned with ``deliveries``: 1 in control, 0 not, -1 unknown; None
            means unknown throughout. Codes on wides count as unknown.
        conditions: match_id, pitch and weather; matches it lacks are "unknown".
        control_prior: (c0, m) of the smoothed control rate
            ``(m c0 + controlled) / (m + known)``.

    Returns:
        One row a batter who came in, sorted by date, match_id, innings and position: match_id,
        date, innings, team, opponent, venue, batter, position, runs, balls, fours, sixes, dots,
        dismissed, dismissal (None if not out), strike_rate (runs per 100 balls, NaN at 0 balls),
        balls_known, balls_controlled, control_rate (NaN if no code is known),
        control_rate_smoothed, runs_controlled, runs_uncontrolled, rest_runs and rest_balls (off
        the bat, all other batters of the match), team_total (extras included), won (False also
        when nobody won), pitch, weather.

    Raises:
        ValueError: for no deliveries, missing columns, deliveries that occur twice or whose match
            is unknown, and control codes of the wrong length or outside {-1, 0, 1}.

    Example:
        >>> from rankone.stats.batting import build_innings_table, load_cricsheet, simulate_odi
        >>> data = load_cricsheet(simulate_odi(1, 2, overs=5, random_state=0).cricsheet)
        >>> table = build_innings_table(data.deliveries, data.matches)
        >>> int(table["balls"].sum()) == int((data.deliveries["wides"] == 0).sum())
        True
    """
    require_columns(deliveries, _NEEDED, "deliveries")
    require_columns(matches, ("match_id", "date", "venue", "winner"), "matches")
    if not len(deliveries):
        raise ValueError("deliveries must have at least one row, got none")
    prior, strength = _prior(control_prior)
    codes = _control(control, len(deliveries))

    for name in KEY[1:]:
        numbers(deliveries, name, "deliveries")
    deliveries = deliveries.assign(_control=codes, match_id=deliveries["match_id"].astype(str))
    deliveries = deliveries.sort_values(list(KEY), kind="stable", ignore_index=True)
    repeated = deliveries.duplicated(list(KEY))
    if repeated.any():
        key = tuple(deliveries.loc[repeated, list(KEY)].iloc[0])
        raise ValueError(f"deliveries must have each of {KEY} once, got {key} twice")
    innings = deliveries.groupby(["match_id", "innings"], sort=True).ngroup().to_numpy()
    first_ball = np.unique(innings, return_index=True)[1]

    name_codes, names, appearances, wickets = _names(deliveries, innings)
    n_names = len(names)
    keys, position = _positions(*appearances, n_names)
    rows_of = np.searchsorted(keys, innings * n_names + name_codes)  # delivery -> row of its batter

    runs_batter = numbers(deliveries, "runs_batter", "deliveries")
    faced = numbers(deliveries, "wides", "deliveries") == 0
    boundary = ~deliveries["non_boundary"].to_numpy(dtype=bool)
    code = np.where(faced, deliveries["_control"].to_numpy(), -1)

    def count(mask: NDArray[np.bool_], weights: NDArray | None = None) -> NDArray[np.int64]:
        chosen = None if weights is None else weights[mask]
        total = np.bincount(rows_of[mask], weights=chosen, minlength=len(keys))
        return total.round().astype(np.int64)

    everything = np.ones(len(deliveries), dtype=bool)
    runs, balls = count(everything, runs_batter), count(faced)
    known, controlled = count(code >= 0), count(code == 1)
    row_innings, row_names = np.divmod(keys, n_names)
    first = deliveries.iloc[first_ball[row_innings]].reset_index(drop=True)
    rest_runs, rest_balls = _rest(first, row_names, n_names, runs, balls)
    dismissed, dismissal = _dismissals(wickets, keys, n_names)
    match = _match_columns(first["match_id"], matches, conditions)
    team_total = np.bincount(innings, weights=numbers(deliveries, "runs_total", "deliveries"))
    with np.errstate(invalid="ignore", divide="ignore"):
        strike_rate, control_rate = 100 * runs / balls, controlled / known

    table = pd.DataFrame(
        {
            "match_id": first["match_id"],
            "date": match["date"],
            "innings": first["innings"],
            "team": first["team"],
            "opponent": first["opponent"],
            "venue": match["venue"],
            "batter": names[row_names],
            "position": position,
            "runs": runs,
            "balls": balls,
            "fours": count(boundary & (runs_batter == 4)),
            "sixes": count(boundary & (runs_batter == 6)),
            "dots": count(faced & (runs_batter == 0)),
            "dismissed": dismissed,
            "dismissal": pd.Series(dismissal, dtype=object),
            "strike_rate": strike_rate,
            "balls_known": known,
            "balls_controlled": controlled,
            "control_rate": control_rate,
            "control_rate_smoothed": (strength * prior + controlled) / (strength + known),
            "runs_controlled": count(code == 1, runs_batter),
            "runs_uncontrolled": count(code == 0, runs_batter),
            "rest_runs": rest_runs,
            "rest_balls": rest_balls,
            "team_total": team_total[row_innings].round().astype(np.int64),
            "won": (match["winner"] == first["team"]).to_numpy(dtype=bool),
            "pitch": match["pitch"],
            "weather": match["weather"],
        }
    )
    return table.sort_values(
        ["date", "match_id", "innings", "position"], kind="stable", ignore_index=True
    )


def _prior(control_prior: Any) -> tuple[float, float]:
    try:
        rate, strength = (float(value) for value in control_prior)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"control_prior must be (rate, strength), got {control_prior!r}"
        ) from error
    if not (0 <= rate <= 1 and 0 < strength < np.inf):
        raise ValueError(
            f"control_prior must be a rate in [0, 1] and a positive strength, got {control_prior!r}"
        )
    return rate, strength


def _control(control: ArrayLike | None, n_rows: int) -> NDArray[np.int8]:
    if control is None:
        return np.full(n_rows, -1, dtype=np.int8)
    codes = np.asarray(control)
    if codes.shape != (n_rows,):
        raise ValueError(
            f"control must have one code a delivery, shape ({n_rows},), got {codes.shape}"
        )
    if not np.isin(codes, (-1, 0, 1)).all():
        bad = codes[~np.isin(codes, (-1, 0, 1))][0]
        raise ValueError(f"control must hold -1, 0 and 1 alone, got {bad!r}")
    return codes.astype(np.int8)


Wickets = tuple[NDArray[np.int64], NDArray[np.int64], list[str]]


def _names(
    deliveries: pd.DataFrame, innings: NDArray
) -> tuple[NDArray, NDArray, tuple[NDArray, NDArray, NDArray], Wickets]:
    """Codes of the strikers, all names, appearances and wickets.

    Appearances are (innings, name code, time), with the batter before the non-striker before the
    players out within a delivery; wickets are (innings, name code, kind).
    """
    n = len(deliveries)
    with_wicket = [
        (row, out, str(kind).lower())
        for row, wickets in enumerate(wickets_of(deliveries, "deliveries"))
        if wickets
        for out, kind in wickets
    ]
    wicket_rows = np.array([row for row, _, _ in with_wicket], dtype=np.int64)
    everyone: Iterable[Any] = [
        *deliveries["batter"],
        *deliveries["non_striker"],
        *(out for _, out, _ in with_wicket),
    ]
    codes, names = pd.factorize(np.array(everyone, dtype=object))
    if (codes < 0).any():
        raise ValueError("deliveries must name a batter, a non_striker and every player out")
    rows = np.concatenate([np.arange(n), np.arange(n), wicket_rows])
    rank = np.repeat([0, 1, 2], [n, n, len(wicket_rows)])
    wickets = (
        innings[wicket_rows],
        codes[2 * n :],
        [kind for _, _, kind in with_wicket],
    )
    # Of several players out in one delivery the first listed comes first: the sort is stable.
    return codes[:n], names, (innings[rows], codes, 3 * rows + rank), wickets


def _positions(
    innings: NDArray, names: NDArray, time: NDArray, n_names: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sorted keys innings * n_names + name, and each one's place in the order of appearance."""
    order = np.argsort(time, kind="stable")
    keys, first = np.unique((innings * n_names + names)[order], return_index=True)
    by_appearance = np.lexsort((first, keys // n_names))
    group = keys[by_appearance] // n_names
    starts = np.searchsorted(group, group)
    position = np.empty(len(keys), dtype=np.int64)
    position[by_appearance] = np.arange(len(keys)) - starts + 1
    return keys, position


def _rest(
    first: pd.DataFrame, names: NDArray, n_names: int, runs: NDArray, balls: NDArray
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Runs off the bat and balls faced of all other batters of the match."""
    match, _ = pd.factorize(first["match_id"])
    team, _ = pd.factorize(first["team"])
    # One batter may bat in several innings of a match: none of them is the rest.
    _, own = np.unique((match * (team.max() + 1) + team) * n_names + names, return_inverse=True)

    def others(values: NDArray[np.int64]) -> NDArray[np.int64]:
        total = np.bincount(match, weights=values)[match] - np.bincount(own, weights=values)[own]
        return total.round().astype(np.int64)

    return others(runs), others(balls)


def _dismissals(
    wickets: Wickets, keys: NDArray, n_names: int
) -> tuple[NDArray[np.bool_], list[str | None]]:
    innings, names, kinds = wickets
    dismissed = np.zeros(len(keys), dtype=bool)
    dismissal: list[str | None] = [None] * len(keys)
    for row, kind in zip(np.searchsorted(keys, innings * n_names + names), kinds, strict=True):
        if kind not in NOT_DISMISSALS:
            dismissed[row] = True
            dismissal[row] = kind
    return dismissed, dismissal


def _match_columns(
    match_ids: pd.Series, matches: pd.DataFrame, conditions: pd.DataFrame | None
) -> pd.DataFrame:
    """date, venue, winner, pitch and weather of each row's match."""
    known = pd.Index(matches["match_id"].astype(str))
    if not known.is_unique:
        raise ValueError("matches must have each match_id once")
    found = known.get_indexer(match_ids)
    if (found < 0).any():
        missing = match_ids[found < 0].iloc[0]
        raise ValueError(f"matches must hold the match of every delivery, {missing!r} is missing")
    columns = {
        "date": dates_of(matches, "matches")[found],
        "venue": matches["venue"].to_numpy(dtype=object)[found],
        "winner": matches["winner"].to_numpy(dtype=object)[found],
        "pitch": np.full(len(match_ids), UNKNOWN, dtype=object),
        "weather": np.full(len(match_ids), UNKNOWN, dtype=object),
    }
    if conditions is not None:
        require_columns(conditions, ("match_id", "pitch", "weather"), "conditions")
        described = pd.Index(conditions["match_id"].astype(str))
        if not described.is_unique:
            raise ValueError("conditions must have each match_id once")
        found = described.get_indexer(match_ids)
        for name in ("pitch", "weather"):
            values = conditions[name].astype(object).fillna(UNKNOWN).to_numpy()
            columns[name] = np.where(found >= 0, values[found] if len(values) else UNKNOWN, UNKNOWN)
    return pd.DataFrame(columns)
