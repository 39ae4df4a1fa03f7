"""Technical indicators: closed forms, causality, and selection by the training rows."""

import numpy as np
import pandas as pd
import pytest
from rankone.forecast import select_k, technical_indicators

ALL = (
    "sma_5", "ema_5", "rsi_14", "bollinger_20", "volatility_21", "macd", "macd_signal",
    "difference", "open", "high", "low", "close", "volume",
)  # fmt: skip


def table(rows=300, seed=0):
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(0.01 * rng.normal(size=rows).cumsum())
    return pd.DataFrame(
        {
            "Open": close * 0.99,
            "High": close * 1.02,
            "Low": close * 0.98,
            "Adj Close": close,
            "Volume": rng.integers(1, 9, rows),
        },
        index=pd.date_range("2020-01-01", periods=rows),
    )


def closes(values):
    return pd.DataFrame({"Adj Close": np.asarray(values, dtype=float)})


def test_the_simple_average_is_the_mean_of_its_rows():
    frame = table()
    result = technical_indicators(frame)
    assert list(result) == ["sma_50", "sma_200", "rsi_14", "volatility_21"]
    assert result.index.equals(frame.index)
    close = frame["Adj Close"].to_numpy()
    assert result["sma_50"][:49].isna().all()
    for row in (49, 120, 299):
        assert result["sma_50"].iloc[row] == pytest.approx(close[row - 49 : row + 1].mean())
    assert result["sma_200"].first_valid_index() == frame.index[199]
    returns = np.diff(np.log(close))
    assert result["volatility_21"].iloc[50] == pytest.approx(returns[29:50].std(ddof=1))
    assert result["volatility_21"][:21].isna().all()


class TestRelativeStrength:
    def rsi(self, values):
        return technical_indicators(closes(values), ("rsi_14",))["rsi_14"].to_numpy()

    def test_only_rises_give_100_and_only_falls_0(self):
        np.testing.assert_allclose(self.rsi(np.arange(1.0, 60))[14:], 100.0)
        np.testing.assert_allclose(self.rsi(np.arange(60.0, 1, -1))[14:], 0.0, atol=1e-12)

    def test_a_constant_series_gives_50(self):
        np.testing.assert_array_equal(self.rsi(np.full(60, 7.0))[14:], 50.0)

    def test_rises_and_falls_in_turn_tend_to_50(self):
        assert abs(self.rsi(10 + np.arange(201) % 2)[200] - 50) < 4

    def test_is_wilders_recursion(self):
        close = table()["Adj Close"].to_numpy()
        change = np.diff(close)
        up, down = max(change[0], 0), max(-change[0], 0)
        for step in change[1:]:
            up += (max(step, 0) - up) / 14
            down += (max(-step, 0) - down) / 14
        assert self.rsi(close)[-1] == pytest.approx(100 - 100 / (1 + up / down))
        assert np.isnan(self.rsi(close)[13])
        assert np.isfinite(self.rsi(close)[14])


def test_exponential_averages_are_recursions():
    close = table()["Adj Close"].to_numpy()

    def ema(values, span):
        average = [values[0]]
        for value in values[1:]:
            average.append(average[-1] + 2 / (span + 1) * (value - average[-1]))
        return np.array(average)

    result = technical_indicators(table(), ("ema_20", "macd", "macd_signal"))
    np.testing.assert_allclose(result["ema_20"][19:], ema(close, 20)[19:])
    line = ema(close, 12) - ema(close, 26)
    np.testing.assert_allclose(result["macd"][25:], line[25:], atol=1e-9)
    np.testing.assert_allclose(result["macd_signal"][33:], ema(line[25:], 9)[8:], atol=1e-9)
    assert result["macd_signal"][:33].isna().all()


def test_the_band_has_four_standard_deviations():
    close = table()["Adj Close"].to_numpy()
    width = technical_indicators(table(), ("bollinger_20",))["bollinger_20"].to_numpy()
    rows = close[80:100]
    assert width[99] == pytest.approx(4 * rows.std() / rows.mean())


@pytest.mark.parametrize("row", [120, 250])
def test_a_row_changes_no_indicator_before_it(row):
    frame = table()
    changed = frame.copy()
    changed.iloc[row] *= 3
    before, after = (technical_indicators(f, ALL) for f in (frame, changed))
    pd.testing.assert_frame_equal(before[:row], after[:row])
    assert (before.iloc[row] != after.iloc[row]).all()


def test_columns_may_have_other_names():
    frame = table().rename(columns={"Adj Close": "c"})
    result = technical_indicators(frame, ("sma_5",), {"close": "c"})
    expected = technical_indicators(table(), ("sma_5",))
    pd.testing.assert_frame_equal(result, expected)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"sma_<rows>.*rsi_<rows>.*macd.*got 'adx_14'"):
        technical_indicators(table(), ("adx_14",))
    for name in ("sma", "sma_0", "sma_x", "macd_5"):
        with pytest.raises(ValueError, match=f"got '{name}'"):
            technical_indicators(table(), (name,))
    with pytest.raises(ValueError, match=r"column 'Volume' \(volume\), which is missing"):
        technical_indicators(closes([1.0, 2.0]), ("volume",))
    with pytest.raises(ValueError, match="columns must be by open, high"):
        technical_indicators(table(), columns={"price": "c"})
    with pytest.raises(TypeError, match="df must be a pandas DataFrame, got a ndarray"):
        technical_indicators(np.zeros((5, 5)))


def test_texts_and_prices_that_have_no_logarithm_are_refused():
    with pytest.raises(ValueError, match="several names, got the text 'sma_5'"):
        technical_indicators(table(), "sma_5")
    with pytest.raises(ValueError, match="the close must be positive for volatility, got -2"):
        technical_indicators(closes([1.0, -2.0, 3.0]), ("volatility_2",))


class TestSelection:
    def test_the_training_rows_alone_choose(self):
        rng = np.random.default_rng(0)
        y = rng.normal(size=200)
        X = rng.normal(size=(200, 3))
        X[:100, 2] = -y[:100]  # in the training rows
        X[100:, 0] = y[100:]  # in the test rows
        assert select_k(X, y, 1, n_train=100).tolist() == [2]
        changed = X.copy()
        changed[100:] = 0
        assert (
            select_k(changed, y, 3, n_train=100).tolist() == select_k(X, y, 3, n_train=100).tolist()
        )

    def test_constant_columns_come_last_and_gaps_are_left_out(self):
        y = np.arange(20.0)
        X = np.stack([np.ones(20), np.where(y < 5, np.nan, y), np.sin(y)], 1)
        assert select_k(pd.DataFrame(X), y, 3, n_train=15).tolist() == [1, 2, 0]

    def test_mistakes_are_named(self):
        y, X = np.arange(5.0), np.ones((5, 2))
        with pytest.raises(ValueError, match="k must be between 1 and the 2 columns, got 3"):
            select_k(X, y, 3, n_train=4)
        with pytest.raises(ValueError, match="n_train must be between 2 and the 5 rows, got 6"):
            select_k(X, y, 1, n_train=6)
        with pytest.raises(ValueError, match="X must have the 5 rows of y, got 4"):
            select_k(X[:4], y, 1, n_train=3)
