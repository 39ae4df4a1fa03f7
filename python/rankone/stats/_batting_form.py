"""What is known of a batter before an innings, whether a feature knows more, and honest splits.

A form feature of a row uses innings on dates strictly before the row's date: sums are taken per
date, accumulated within each batter and shifted by one date, so that not even a rounding error
depends on the row's own day or on later ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import TimeSeriesSplit
from sklearn.utils import check_random_state

from rankone.stats._effective_runs import effective_runs
from rankone.stats._frames import dates_of, require_columns

POST_INNINGS = frozenset(
    (
        *("runs", "balls", "fours", "sixes", "dots", "strike_rate", "dismissed", "dismissal"),
        *("balls_known", "balls_controlled", "control_rate", "control_rate_smoothed"),
        *("runs_controlled", "runs_uncontrolled", "rest_runs", "rest_balls", "team_total", "won"),
        *("effective_runs", "impact_share"),
    )
)
_WINDOWED = ("runs", "effective_runs", "strike_rate", "control_rate")
_CAREER = ("runs", "effective_runs", "control_rate", "balls")
_OTHER_FORM = ("innings_before", "days_since_last", "opponent_conceded", "venue_runs")
_FORM_NAME = re.compile(rf"(?:{'|'.join(_WINDOWED)})_last\d+")
_LEAK = 1e-9  # of a column's largest value; rounding is below 1e-12 of it


def form_columns(table: pd.DataFrame) -> list[str]:
    """The form features among the columns of ``table``."""
    fixed = {*(f"{name}_career" for name in _CAREER), *_OTHER_FORM}
    return [
        name
        for name in table.columns
        if isinstance(name, str) and (name in fixed or _FORM_NAME.fullmatch(name))
    ]


def add_form_features(table: pd.DataFrame, *, windows: Iterable[int] = (5, 10)) -> pd.DataFrame:
    """Append what was known of each batter before the day of the innings.

    For w in ``windows``: the means of runs, effective_runs, strike_rate and control_rate over the
    last w dates played, ``{column}_last{w}``. Over the whole past: runs_career,
    effective_runs_career, control_rate_career and balls_career (means a past innings),
    innings_before and days_since_last. Over all batters: opponent_conceded and venue_runs, the
    past mean of individual innings' runs against that opponent and at that venue.

    Args:
        table: rows of :func:`build_innings_table`, in any order. Where it has no column
            effective_runs, :func:`effective_runs` with its defaults stands in.
        windows: numbers of dates, at least 1 each.

    Returns:
        A copy with the same index and the new columns. NaN values are skipped in means (a window
        counts dates, also those with a NaN); a mean is NaN where there is no past.

    Raises:
        ValueError: for missing columns or dates, and windows that are not positive integers.

    Example:
        >>> from rankone.stats.batting import (
        ...     add_form_features, build_innings_table, load_cricsheet, simulate_odi)
        >>> data = load_cricsheet(simulate_odi(3, 2, overs=5, random_state=0).cricsheet)
        >>> form = add_form_features(build_innings_table(data.deliveries, data.matches))
        >>> int(form["innings_before"].max())
        2
    """
    needed = ("batter", "opponent", "venue", "runs", "balls", "strike_rate", "control_rate")
    require_columns(table, needed, "table")
    dates = dates_of(table, "table")
    sizes = _windows(windows)
    if "effective_runs" in table.columns:
        er = table["effective_runs"]
    else:
        er = pd.Series(effective_runs(table), index=table.index)
    values = {
        name: _floats(er if name == "effective_runs" else table[name])
        for name in dict.fromkeys((*_WINDOWED, *_CAREER))
    }

    days = _Past(table["batter"], dates, table)
    new: dict[str, NDArray] = {}
    for size in sizes:
        for name in _WINDOWED:
            new[f"{name}_last{size}"] = days.mean(values[name], last=size)
    for name in _CAREER:
        new[f"{name}_career"] = days.mean(values[name])
    new["innings_before"] = days.innings_before()
    new["days_since_last"] = days.days_since_last()
    new["opponent_conceded"] = _Past(table["opponent"], dates, table).mean(values["runs"])
    new["venue_runs"] = _Past(table["venue"], dates, table).mean(values["runs"])
    kept = table.drop(columns=[name for name in new if name in table.columns])
    return pd.concat([kept, pd.DataFrame(new, index=table.index)], axis=1)


def _windows(windows: Any) -> list[int]:
    if not isinstance(windows, Iterable) or isinstance(windows, str):
        raise ValueError(f"windows must be a sequence of integers, got {windows!r}")
    sizes = list(dict.fromkeys(windows))
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
            raise ValueError(f"windows must hold integers of at least 1, got {size!r}")
    return [int(size) for size in sizes]


def _floats(column: pd.Series) -> NDArray[np.float64]:
    return column.to_numpy(dtype=np.float64, na_value=np.nan)


class _Past:
    """Means over the earlier dates of each group (a batter, an opponent or a venue).

    Args:
        group: (n,) labels; rows without one have no past.
        dates: (n,).
        table: its match_id and innings order rows of one day, so that sums do not depend on the
            order of the rows.
    """

    def __init__(self, group: pd.Series, dates: NDArray, table: pd.DataFrame) -> None:
        codes, _ = pd.factorize(group, use_na_sentinel=True)
        day_codes, days = pd.factorize(dates, sort=True)
        ties = [
            table[name].astype(str)
            for name in ("match_id", "innings", "batter")
            if name in table.columns
        ]
        self._order = np.lexsort((*reversed(ties), day_codes, codes))
        self._missing = codes < 0
        cell = codes[self._order].astype(np.int64) * max(len(days), 1) + day_codes[self._order]
        cells, starts, inverse = np.unique(cell, return_index=True, return_inverse=True)
        self._row_cell = np.empty(len(codes), dtype=np.int64)
        self._row_cell[self._order] = inverse
        self._cell_sorted = inverse
        self._group = cells // max(len(days), 1)
        self._date = np.asarray(dates)[self._order][starts]

    def _sums(self, values: NDArray[np.float64]) -> pd.Series:
        """Per-cell sums, accumulated over the dates of each group, each date's own included."""
        sums = np.bincount(
            self._cell_sorted, weights=values[self._order], minlength=len(self._group)
        )
        return pd.Series(sums).groupby(self._group).cumsum()

    def _shifted(self, accumulated: pd.Series, by: int) -> NDArray[np.float64]:
        return accumulated.groupby(self._group).shift(by).to_numpy(dtype=np.float64)

    def _rows(self, cells: NDArray[np.float64]) -> NDArray[np.float64]:
        rows = cells[self._row_cell]
        rows[self._missing] = np.nan
        return rows

    def mean(self, values: NDArray[np.float64], last: int | None = None) -> NDArray[np.float64]:
        present = ~np.isnan(values)
        means = []
        for entry in (np.where(present, values, 0.0), present.astype(np.float64)):
            accumulated = self._sums(entry)
            total = self._shifted(accumulated, 1)
            if last is not None:
                total = total - np.nan_to_num(self._shifted(accumulated, 1 + last))
            means.append(total)
        sums, counts = means
        result = np.full(len(sums), np.nan)
        np.divide(sums, counts, out=result, where=counts > 0)
        return self._rows(result)

    def innings_before(self) -> NDArray[np.int64]:
        before = self._shifted(self._sums(np.ones(len(self._order))), 1)
        return np.nan_to_num(self._rows(before)).astype(np.int64)

    def days_since_last(self) -> NDArray[np.float64]:
        last = pd.Series(self._date).groupby(self._group).shift(1).to_numpy()
        return self._rows((self._date - last) / np.timedelta64(1, "D"))


def check_leakage(
    table: pd.DataFrame,
    *,
    feature_function: Callable[[pd.DataFrame], pd.DataFrame] = add_form_features,
    n_probes: int = 5,
    random_state: Any = None,
) -> pd.DataFrame:
    """Whether features know the outcome of their own day or of later ones.

    For several dates d, every numeric or boolean post-innings column is overwritten with noise on
    the rows of d and later, the features are computed again, and those of rows up to and including
    d are compared: same-day outcomes count as leaks.

    Args:
        table: rows of :func:`build_innings_table`, without the features.
        feature_function: table -> table with new columns and the same index.
        n_probes: dates tried, drawn without replacement; all if there are fewer.
        random_state: seed of dates and noise.

    Returns:
        One row a new column: column, max_change (infinite if a value came or went, or a value that
        is no number changed) and leaks.

    Raises:
        ValueError: for fewer than two dates, a bad ``n_probes``, a table without post-innings
            columns, and a function that adds no column or changes the index.

    Example:
        >>> from rankone.stats.batting import (
        ...     build_innings_table, check_leakage, load_cricsheet, simulate_odi)
        >>> data = load_cricsheet(simulate_odi(4, 2, overs=5, random_state=0).cricsheet)
        >>> table = build_innings_table(data.deliveries, data.matches)
        >>> bool(check_leakage(table, random_state=0)["leaks"].any())
        False
    """
    require_columns(table, ("date",), "table")
    dates = dates_of(table, "table")
    days = np.unique(dates)
    if len(days) < 2:
        raise ValueError(f"table must have at least two dates, got {len(days)}")
    if isinstance(n_probes, bool) or not isinstance(n_probes, int | np.integer) or n_probes < 1:
        raise ValueError(f"n_probes must be an integer of at least 1, got {n_probes!r}")
    outcomes = [
        name
        for name in table.columns
        if name in POST_INNINGS and pd.api.types.is_numeric_dtype(table[name])
    ]
    if not outcomes:
        raise ValueError("table must have numeric post-innings columns, got none")
    rng = check_random_state(random_state)
    base = _features(feature_function, table)
    columns = [name for name in base.columns if name not in table.columns]
    if not columns:
        raise ValueError(
            "feature_function must add at least one column, got none: every column that it returns "
            "is in table already; if those are its features, drop them from table first"
        )
    change = dict.fromkeys(columns, 0.0)
    # The first date has no past: it can only show what the others show too.
    probes = rng.choice(days[1:], size=min(n_probes, len(days) - 1), replace=False)
    for day in probes:
        altered = _features(feature_function, _with_noise(table, outcomes, dates >= day, rng))
        for name in columns:
            if name not in altered.columns:
                change[name] = np.inf
                continue
            shown = dates <= day
            change[name] = max(change[name], _difference(base[name][shown], altered[name][shown]))
    scale = {name: _scale(base[name]) for name in columns}
    return pd.DataFrame(
        {
            "column": columns,
            "max_change": [change[name] for name in columns],
            "leaks": [change[name] > _LEAK * scale[name] for name in columns],
        }
    )


def _features(function: Callable[[pd.DataFrame], pd.DataFrame], table: pd.DataFrame) -> Any:
    features = function(table)
    if not isinstance(features, pd.DataFrame) or not features.index.equals(table.index):
        raise ValueError("feature_function must return a DataFrame with the index of its table")
    return features


def _with_noise(
    table: pd.DataFrame, columns: list[str], rows: NDArray[np.bool_], rng: np.random.RandomState
) -> pd.DataFrame:
    noisy = table.copy()
    for name in columns:
        column = table[name]
        if pd.api.types.is_bool_dtype(column):
            values = column.to_numpy(dtype=bool).copy()
            values[rows] = rng.random_sample(int(rows.sum())) < 0.5
        else:
            values = _floats(column).copy()
            top = 1 + np.nanmax(np.abs(values), initial=0.0)
            drawn = rng.uniform(top, 2 * top, int(rows.sum()))  # unlike any value that was there
            whole = pd.api.types.is_integer_dtype(column)
            values[rows] = drawn.round() if whole else drawn
            values = values.astype(np.int64) if whole and not np.isnan(values).any() else values
        noisy[name] = values
    return noisy


def _difference(before: pd.Series, after: pd.Series) -> float:
    if not pd.api.types.is_numeric_dtype(before) or not pd.api.types.is_numeric_dtype(after):
        left, right = before.astype(object), after.astype(object)
        same = (left.to_numpy() == right.to_numpy()) | (left.isna() & right.isna()).to_numpy()
        return 0.0 if bool(np.all(same)) else np.inf
    left, right = _floats(before), _floats(after)
    if (np.isnan(left) != np.isnan(right)).any():
        return np.inf
    # Equal infinities differ by nothing.
    with np.errstate(invalid="ignore"):
        difference = np.where(left == right, 0.0, np.abs(left - right))
    return float(np.nanmax(difference, initial=0.0))


def _scale(column: pd.Series) -> float:
    if not pd.api.types.is_numeric_dtype(column):
        return 1.0
    values = np.abs(_floats(column))
    return float(np.max(values, where=np.isfinite(values), initial=1.0))


class TimeOrderedSplit:
    """Cross-validation in time: each fold tests on later dates than it trains on.

    scikit-learn's ``TimeSeriesSplit`` over the unique dates: no date and no match is on both sides.

    Args:
        n_splits: folds, at least 2.
        embargo_days: training rows lie more than so many days before the first test date.

    Example:
        >>> import pandas as pd
        >>> from rankone.stats.batting import TimeOrderedSplit
        >>> days = pd.DataFrame({"date": pd.date_range("2020-01-01", periods=4).repeat(2)})
        >>> [(len(train), len(test)) for train, test in TimeOrderedSplit(3).split(days)]
        [(2, 2), (4, 2), (6, 2)]
    """

    def __init__(self, n_splits: int = 5, *, embargo_days: float = 0) -> None:
        if isinstance(n_splits, bool) or not isinstance(n_splits, int | np.integer) or n_splits < 2:
            raise ValueError(f"n_splits must be an integer of at least 2, got {n_splits!r}")
        if (
            isinstance(embargo_days, bool)
            or not isinstance(embargo_days, int | float | np.number)
            or not 0 <= embargo_days < np.inf
        ):
            raise ValueError(f"embargo_days must be a number of at least 0, got {embargo_days!r}")
        self.n_splits = n_splits
        self.embargo_days = embargo_days

    def __repr__(self) -> str:
        return f"TimeOrderedSplit({self.n_splits}, embargo_days={self.embargo_days})"

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """The number of folds."""
        return self.n_splits

    def split(
        self, X: pd.DataFrame, y: Any = None, groups: Any = None
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
        """Yield (train, test) row numbers.

        Args:
            X: rows with ``date`` and, where matches last several days, ``match_id``.
            y, groups: ignored.

        Raises:
            ValueError: for too few dates, missing dates, and an embargo that leaves no training
                rows.
        """
        dates = dates_of(X, "X")
        days, codes = np.unique(dates, return_inverse=True)
        if len(days) <= self.n_splits:
            raise ValueError(
                f"X must have more dates than folds: {self.n_splits} folds, got {len(days)} dates"
            )
        embargo = np.timedelta64(round(self.embargo_days * 86_400_000_000_000), "ns")
        for _, test_days in TimeSeriesSplit(self.n_splits).split(days):
            in_test = (codes >= test_days[0]) & (codes <= test_days[-1])
            in_train = codes < test_days[0]
            if embargo:
                in_train &= dates < days[test_days[0]] - embargo
            if "match_id" in X.columns:
                in_train &= ~X["match_id"].isin(X["match_id"][in_test]).to_numpy()
            train, test = np.flatnonzero(in_train), np.flatnonzero(in_test)
            if not len(train):
                raise ValueError(
                    f"embargo_days = {self.embargo_days} leaves no training rows before "
                    f"{np.datetime_as_string(days[test_days[0]], unit='D')}"
                )
            yield train, test
