"""The reproduction of the S&P 500 forecasts at a tiny scale: every claim, table and figure."""

import numpy as np
import pandas as pd
import pytest
from rankone.catalog import method
from rankone.reproduce import Settings, run_one
from rankone.reproduce import sp500_lstm as module

try:
    module.sp500_prices()
except ModuleNotFoundError:
    PRICES = False
else:
    PRICES = True
needs_prices = pytest.mark.skipif(not PRICES, reason="needs pip install --no-deps arch")

METHOD = method("sp500-lstm")
TINY = {"epochs": 1, "hidden_size": 2, "window": 5, "seeds": (0, 1), "max_order": 0}


@pytest.fixture(scope="module")
def reproduction():
    return run_one(METHOD, Settings(overrides=TINY, progress=False))


@needs_prices
@pytest.mark.parametrize(
    ("words", "expected", "tolerance"),
    [
        ("rows in all", "5031, 2516", "exact"),
        ("last adjusted close", "2507", "± 1e-06"),
        ("yesterday's close: MAE", "13.7", "± 0.01"),
        ("yesterday's close: RMSE", "21.5", "± 0.01"),
        ("yesterday's close: accuracy", "99.5", "± 0.01"),
        ("ARIMA from the last training day, the paper's comparison", "200", "± 50"),
        ("ARIMA from the last training day: accuracy", "92.5", "± 2.5"),
        ("last training close throughout", "346", "± 0.5"),
        ("a straight line from", "185", "± 0.5"),
        ("ARIMA walking forward", "1", "± 0.02"),
        ("the paper's first claim", "below 1", "< 1"),
        ("the paper's second claim", "below 1", "< 1"),
        ("least ratio of MAE", "above 3", "> 3"),
        ("least Diebold-Mariano", "above 5", "> 5"),
        ("copies yesterday", "above 0", "> 0"),
        ("MAE over that of yesterday's close", "1", "± 0.015"),
        ("MAE over that of the drift", "about 1", "≥ 0.995"),
        ("least over seeds", "≥ 0.4", "≥ 0.4"),
        ("largest over seeds", "≤ 0.56", "≤ 0.56"),
    ],
)
def test_every_claim_is_there_with_its_tolerance(reproduction, words, expected, tolerance):
    matching = [claim for claim in reproduction.claims if words in claim.statement]
    if words == "least over seeds":
        matching = [claim for claim in matching if "directional" in claim.statement]
    if words == "copies yesterday":
        assert "lag ratio" in matching[0].statement
    if words == "MAE over that of yesterday's close":
        matching = [claim for claim in matching if "returns" in claim.statement]
    (claim,) = matching
    assert (claim.expected, claim.tolerance) == (expected, tolerance)


@needs_prices
def test_there_are_no_other_claims(reproduction):
    assert len(reproduction.claims) == 19


@needs_prices
@pytest.mark.parametrize(
    "words", ["rows in all", "adjusted close", "yesterday's close: ", "last training close"]
)
def test_what_needs_no_training_holds_at_any_scale(reproduction, words):
    claims = [claim for claim in reproduction.claims if words in claim.statement]
    assert claims
    assert all(claim.passed for claim in claims), claims


@needs_prices
def test_every_forecaster_stands_in_the_table_with_what_it_knows(reproduction):
    measured, published = reproduction.tables
    names = [row[0] for row in measured.rows]
    assert names[:2] == ["last training close", "last training close and drift"]
    assert {module.NAIVE, module.DRIFT} < set(names)
    assert sum(name.startswith("ARIMA") for name in names) == 2
    assert sum(name.startswith(module.PRICE) for name in names) == 2
    assert sum(name.startswith(module.ALL) for name in names) == 2
    assert {row[1] for row in measured.rows} == {"last training day", "day before"}
    assert published.published
    assert published.rows[2] == ("LSTM without features", 175.9, 207.34, 96.41)
    assert len(reproduction.figures[0].panels) == 2
    assert reproduction.settings["test days"] == "504, from 2016-12-29"


@needs_prices
def test_the_verdict_follows_from_the_measurements(reproduction, monkeypatch):
    assert reproduction.settings["verdict"] == module.VERDICT
    study = object.__new__(module._Study)

    def report(mae, skill, statistic, pvalue):
        return type(
            "Report",
            (),
            {
                "mae": mae,
                "skill": skill,
                "dm_statistic": statistic,
                "dm_pvalue": pvalue,
                "forecaster": "LSTMForecaster",
            },
        )

    study.naive, study.drift = report(10.0, 0.0, 0.0, 1.0), report(9.9, 0.01, -1.0, 0.3)
    study.arima = report(10.0, 0.0, 0.1, 0.9)
    study.lstm = {module.PRICE: [report(60.0, -5.0, 30.0, 0.0)]}
    assert study.verdict() == module.VERDICT
    study.lstm = {module.PRICE: [report(8.0, 0.2, -6.0, 1e-8)]}
    assert study.verdict() == "Beats yesterday's close on this series: LSTMForecaster."


def test_without_the_prices_the_report_says_so(monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result = module.run(Settings(progress=False))
    assert result.claims == ()
    assert not result.passed
    assert "pip install --no-deps arch" in result.tables[0].note


def walk(rows=420, seed=0):
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(0.01 * rng.normal(size=rows).cumsum())
    columns = {"Open": close, "High": close, "Low": close, module.CLOSE: close, "Volume": close}
    return pd.DataFrame(columns, index=pd.bdate_range("2014-01-03", periods=rows))


def scale(**more):
    sizes = {"window": 5, "epochs": 1, "hidden_size": 2, "seeds": (0,), "max_order": 0}
    return module.Scale(**(sizes | more))


def test_lstms_with_and_without_indicators_learn_from_the_same_days(monkeypatch):
    seen = []
    original = module.LSTMForecaster.fit

    def fit(self, y, X=None):
        seen.append((len(y), None if X is None else X.isna().to_numpy().any()))
        return original(self, y, X)

    monkeypatch.setattr(module.LSTMForecaster, "fit", fit)
    settings = Settings(progress=False)
    reports = [
        module.lstm_report(settings, scale(), walk(), seed=0, columns=columns)
        for columns in ((), module.INDICATORS)
    ]
    assert seen == [(336 - 199, None), (336 - 199, False)]
    assert list(reports[0].index) == list(reports[1].index)
    assert len(reports[0].y_true) == 420 - 336


class TestFullMode:
    def test_longer_training_and_other_series(self, monkeypatch):
        settings = Settings(progress=False)
        dataset = module.TableDataset("n", walk(700), "s", "l", "v")
        study = module._Study(settings, scale(), walk())
        claim, table = module._longer(settings, scale(long_epochs=1), study)
        assert "undertraining" in claim.statement
        assert claim.tolerance == "> 3"
        assert len(table.rows) == 5
        monkeypatch.setattr(module, "nasdaq_prices", lambda: dataset)
        index = pd.DataFrame({"vix": np.linspace(10, 20, 430)}, index=walk(430).index)
        index.iloc[5] = np.nan
        monkeypatch.setattr(
            module, "vix_prices", lambda: module.TableDataset("vix", index, "s", "l", "v")
        )
        nasdaq, vix = module._other_series(settings, scale(first="2014-01-01"), study)
        assert nasdaq.title == "NASDAQ composite"
        assert [row[0] for row in vix.rows][1:] == [
            "LSTM, nine columns, seed 0", "LSTM, nine columns and VIX, seed 0",
        ]  # fmt: skip
        assert vix.rows[1] != vix.rows[2]
        folds = module._folds(settings, scale(folds=2), dataset)
        assert [row[0] for row in folds.rows[:2]] == [
            f"fold 1, {module.NAIVE}", f"fold 1, {module.DRIFT}",
        ]  # fmt: skip
        assert len(folds.rows) == 2 * 5

    def test_modes_have_the_published_scale(self):
        quick, full = module.QUICK, module.FULL
        assert (quick.window, quick.epochs, quick.batch_size, quick.seeds) == (30, 8, 64, (0, 1, 2))
        assert (quick.max_order, full.max_order, full.long_epochs, full.folds) == (2, 5, 50, 5)
        assert full.beyond
        assert not quick.beyond
        assert len(module.INDICATORS) + 1 == 9
