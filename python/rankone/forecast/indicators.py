"""Technical indicators of daily prices, all causal: row t uses rows up to t alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

COLUMNS = {
    "open": "Open",
    "high": "High",
    "low": "Low",
    "close": "Adj Close",
    "volume": "Volume",
}

# With a number of rows after the name, as in sma_50.
WINDOWED = ("sma", "ema", "rsi", "bollinger", "volatility")
PLAIN = ("macd", "macd_signal", "difference", *COLUMNS)

_BOLLINGER_WIDTH = 2.0
_MACD = (12, 26, 9)


def technical_indicators(
    df: pd.DataFrame,
    indicators: Sequence[str] = ("sma_50", "sma_200", "rsi_14", "volatility_21"),
    columns: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Indicators of a table of daily prices.

    - ``sma_k``, ``ema_k``: simple and exponential (span k) average of k closes;
    - ``rsi_k``: relative strength index with Wilder's smoothing, 100 where nothing fell and 50
      where nothing moved;
    - ``macd``: difference of the exponential averages of 12 and 26 closes, ``macd_signal``: its own
      average of 9;
    - ``bollinger_k``: width of the band of two standard deviations about the average of k closes,
      relative to it;
    - ``volatility_k``: standard deviation of k log returns;
    - ``difference``: change of the close;
    - ``open``, ``high``, ``low``, ``close``, ``volume``: as they are.

    Args:
        df: a row a day, in time order.
        indicators: names, as above.
        columns: names in ``df`` by what they hold; only those that are needed must be there. None
            is Open, High, Low, Adj Close, Volume.

    Returns:
        A column an indicator, with the index of ``df``; NaN before an indicator exists.

    Raises:
        TypeError: for a ``df`` that is no data frame.
        ValueError: for an unknown indicator, or a column that is missing.

    Example:
        >>> import pandas as pd
        >>> from rankone.forecast import technical_indicators
        >>> frame = pd.DataFrame({"Adj Close": [1.0, 2.0, 4.0]})
        >>> technical_indicators(frame, ("sma_2", "difference")).iloc[-1].tolist()
        [3.0, 2.0]
    """
    if not isinstance(df, pd.DataFrame):
        raise TypeError(f"df must be a pandas DataFrame, got a {type(df).__name__}")
    if isinstance(indicators, str):
        raise ValueError(f"indicators must be several names, got the text {indicators!r}")
    names = COLUMNS | dict(columns or {})
    unknown = sorted(set(names) - set(COLUMNS))
    if unknown:
        raise ValueError(f"columns must be by {', '.join(COLUMNS)}, got {', '.join(unknown)}")

    def column(kind: str) -> pd.Series:
        if names[kind] not in df.columns:
            raise ValueError(f"df must have the column {names[kind]!r} ({kind}), which is missing")
        return df[names[kind]].astype(float)

    return pd.DataFrame({name: _indicator(name, column) for name in indicators}, index=df.index)


def select_k(X: Any, y: Any, k: int, *, n_train: int) -> np.ndarray:
    """The k columns that correlate most with a series, by its training rows alone.

    Args:
        X: (n, V) array or data frame; rows with NaN are left out, column by column.
        y: (n,).
        k: columns to choose.
        n_train: rows that may be looked at, the first ones.

    Returns:
        (k,) positions of the columns, the largest absolute correlation first.

    Raises:
        ValueError: for a k or ``n_train`` out of range, or rows that do not agree.

    Example:
        >>> import numpy as np
        >>> from rankone.forecast import select_k
        >>> y = np.arange(6.0)
        >>> X = np.stack([np.array([1.0, -1, 1, -1, 1, -1]), -y], 1)
        >>> select_k(X, y, 1, n_train=4).tolist()
        [1]
    """
    frame = pd.DataFrame(X).reset_index(drop=True)
    series = pd.Series(np.asarray(y, dtype=np.float64))
    if len(frame) != len(series):
        raise ValueError(f"X must have the {len(series)} rows of y, got {len(frame)}")
    if not 1 <= k <= frame.shape[1]:
        raise ValueError(f"k must be between 1 and the {frame.shape[1]} columns, got {k}")
    if not 2 <= n_train <= len(series):
        raise ValueError(f"n_train must be between 2 and the {len(series)} rows, got {n_train}")
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = frame[:n_train].corrwith(series[:n_train]).abs().to_numpy()
    # A constant column correlates with nothing.
    return np.argsort(-np.nan_to_num(correlation, nan=-1.0), kind="stable")[:k]


def _indicator(name: str, column: Callable[[str], pd.Series]) -> pd.Series:
    match = re.fullmatch(rf"({'|'.join(WINDOWED)})_([1-9]\d*)", name)
    if match:
        return _windowed(match[1], int(match[2]), column("close"))
    if name in COLUMNS:
        return column(name)
    if name == "difference":
        return column("close").diff()
    if name in ("macd", "macd_signal"):
        fast, slow, signal = _MACD
        line = _ema(column("close"), fast) - _ema(column("close"), slow)
        return line if name == "macd" else _ema(line, signal)
    known = [f"{kind}_<rows>" for kind in WINDOWED] + list(PLAIN)
    raise ValueError(f"indicators must be of {', '.join(known)}, got {name!r}")


def _windowed(kind: str, rows: int, close: pd.Series) -> pd.Series:
    if kind == "sma":
        return close.rolling(rows).mean()
    if kind == "ema":
        return _ema(close, rows)
    if kind == "bollinger":
        # The standard deviation of Bollinger's bands has divisor k.
        deviation = close.rolling(rows).std(ddof=0)
        return 2 * _BOLLINGER_WIDTH * deviation / close.rolling(rows).mean()
    if kind == "volatility":
        if (close <= 0).any():
            raise ValueError(f"the close must be positive for volatility, got {close.min()}")
        returns = pd.Series(np.log(close.to_numpy()), index=close.index).diff()
        return returns.rolling(rows).std()
    return _rsi(close, rows)


def _ema(series: pd.Series, span: int) -> pd.Series:
    return series.ewm(span=span, adjust=False, min_periods=span).mean()


def _rsi(close: pd.Series, rows: int) -> pd.Series:
    change = close.diff()
    up, down = (
        part.clip(lower=0).ewm(alpha=1 / rows, adjust=False, min_periods=rows).mean()
        for part in (change, -change)
    )
    total = up + down
    # 100 - 100 / (1 + up / down), without its division by 0.
    return (100 * up / total).mask(total == 0, 50.0)
