"""Forecasts of the S&P 500 with ARIMA and LSTM, judged honestly (arXiv 2501.17366).

The paper's table sets an ARIMA that forecasts every test day from the last training day beside an
LSTM that forecasts each day from the day before. Here every forecaster stands in both of these
places that it can take, beside the naive forecast with the same information, with a test of the
difference. Window, epochs, split and kind of forecast are not stated in the paper; those here are
this library's reading. Prices are those that the package ``arch`` ships, 2009 to 2018, not the
paper's 2013 to 2024.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from rankone._sweep import sweep
from rankone.datasets import TableDataset, nasdaq_prices, sp500_prices, vix_prices
from rankone.forecast.arima import ARIMAForecaster
from rankone.forecast.baselines import NaiveForecaster
from rankone.forecast.indicators import technical_indicators
from rankone.forecast.lstm import LSTMForecaster
from rankone.forecast.walk_forward import ForecastReport, walk_forward_evaluate
from rankone.reproduce import MUTED, SERIES, Claim, Figure, Reproduction, Settings, Table, panel

CLOSE = "Adj Close"
INDICATORS = (
    "sma_50", "sma_200", "rsi_14", "open", "high", "low", "volume", "volatility_21",
)  # fmt: skip
# Rows until the slowest indicator exists; they are left out of every LSTM's training, so that those
# with and without indicators learn from the same days.
_WARM_UP = 199

PRICE, ALL, RETURN = "LSTM, price only", "LSTM, nine columns", "LSTM of returns, price only"
NAIVE, DRIFT, ARIMA = "yesterday's close", "yesterday's close and drift", "ARIMA"

VERDICT = (
    "With equal information neither ARIMA nor LSTM beats yesterday's close on this series; the "
    "published ranking compares a multi-step ARIMA forecast with a one-step LSTM forecast."
)


@dataclass(frozen=True)
class Scale:
    """Sizes of one run.

    Attributes:
        first: day from which rows are used.
        window, epochs, batch_size, hidden_size: of the LSTMs.
        seeds: of the LSTMs of levels; the one of returns has the first.
        max_order: largest p and q of ARIMA.
        beyond: also train longer, forecast the NASDAQ, add the VIX, and walk forward in folds.
        long_epochs: of the longer training.
        folds: of the expanding walk through all rows.
    """

    first: str = "2009-01-01"
    window: int = 30
    epochs: int = 8
    batch_size: int = 64
    hidden_size: int = 64
    seeds: tuple[int, ...] = (0, 1, 2)
    max_order: int = 2
    beyond: bool = False
    long_epochs: int = 50
    folds: int = 5


QUICK = Scale()
FULL = Scale(max_order=5, beyond=True)


def run(settings: Settings) -> Reproduction:
    """Naive, ARIMA and LSTM forecasts of the same test days."""
    scale = settings.scale(quick=QUICK, full=FULL)
    try:
        dataset = sp500_prices()
    except ModuleNotFoundError as error:
        return _not_measured(error)
    study = _Study(settings, scale, dataset.frame.loc[scale.first :])
    claims = [*_data_claims(scale, dataset), *_claims(study)]
    tables = [study.table("S&P 500, the same test days for all", dataset), _published_table()]
    if scale.beyond:
        longer = _longer(settings, scale, study)
        claims.append(longer[0])
        tables += [
            longer[1],
            *_other_series(settings, scale, study),
            _folds(settings, scale, dataset),
        ]
    return Reproduction(
        slug="sp500-lstm",
        claims=tuple(claims),
        tables=tuple(tables),
        figures=(_figure(study),),
        settings={
            "verdict": study.verdict(),
            "test days": f"{len(study.naive.y_true)}, from {study.naive.index[0]:%Y-%m-%d}",
            "LSTM": f"window {scale.window}, {scale.epochs} epochs, batches of {scale.batch_size}",
        },
    )


def _not_measured(error: ModuleNotFoundError) -> Reproduction:
    table = Table("S&P 500", ("forecaster",), (), note=f"Not measured: {error}.")
    return Reproduction(slug="sp500-lstm", claims=(), tables=(table, _published_table()))


class _Study:
    """Every forecaster on one table of prices; 80 percent of its rows train."""

    def __init__(self, settings: Settings, scale: Scale, frame: pd.DataFrame) -> None:
        self.settings, self.scale, self.frame = settings, scale, frame
        self.close = frame[CLOSE]
        self.naive = walk_forward_evaluate(NaiveForecaster(), self.close)
        self.drift = walk_forward_evaluate(NaiveForecaster(drift=True), self.close)
        self.origin = {
            "last training close": self._origin(NaiveForecaster()),
            "last training close and drift": self._origin(NaiveForecaster("arithmetic")),
        }
        cells = [(ARIMA, 0)]
        cells += [(name, seed) for name in (PRICE, ALL) for seed in scale.seeds]
        cells.append((RETURN, scale.seeds[0]))
        results = sweep(
            self._cell,
            cells,
            random_state=settings.random_state,
            n_jobs=settings.n_jobs,
            description="fitting",
            progress=settings.progress,
        )
        self.order, self.arima_origin, self.arima = results[0]
        self.origin[f"ARIMA{self.order}"] = self.arima_origin
        self.lstm: dict[str, list[ForecastReport]] = {PRICE: [], ALL: [], RETURN: []}
        for (name, _), report in zip(cells[1:], results[1:], strict=True):
            self.lstm[name].append(report)

    def _origin(self, forecaster: Any) -> ForecastReport:
        return walk_forward_evaluate(forecaster, self.close, mode="origin")

    def _cell(self, cell: tuple[str, int], _: np.random.Generator) -> Any:
        name, seed = cell
        if name == ARIMA:
            return arima_reports(self.close, self.scale.max_order)
        return lstm_report(
            self.settings,
            self.scale,
            self.frame,
            seed=seed,
            columns=INDICATORS if name == ALL else (),
            target="return" if name == RETURN else "level",
        )

    def mean_mae(self, name: str) -> float:
        return float(np.mean([report.mae for report in self.lstm[name]]))

    def verdict(self) -> str:
        """The plain sentence, where the measurements support it."""
        one_step = [self.arima, *(report for group in self.lstm.values() for report in group)]
        winners = [
            report.forecaster
            for report in one_step
            if report.skill > 0 and report.dm_statistic < 0 and report.dm_pvalue < 0.05
        ]
        # The drift is known to all of them: growth is no skill of a model.
        worth = min(report.mae for report in one_step) / min(self.naive.mae, self.drift.mae)
        if winners and worth < 0.995:
            return f"Beats yesterday's close on this series: {', '.join(sorted(set(winners)))}."
        return VERDICT

    def table(self, title: str, dataset: TableDataset) -> Table:
        rows = [
            *(_row(name, "last training day", report) for name, report in self.origin.items()),
            _row(NAIVE, "day before", self.naive),
            _row(DRIFT, "day before", self.drift),
            _row(f"ARIMA{self.order}", "day before", self.arima),
        ]
        for name, reports in self.lstm.items():
            rows += [
                _row(f"{name}, seed {seed}", "day before", report)
                for seed, report in zip(self.scale.seeds, reports, strict=False)
            ]
        return Table(
            title=title,
            columns=_COLUMNS,
            rows=tuple(rows),
            note=f"{self.verdict()} {_NOTE} {dataset.name}: {dataset.source} ({dataset.version}, "
            f"{dataset.licence}).",
        )


_COLUMNS = (
    "forecaster", "knows up to", "MAE", "RMSE", "accuracy, %", "skill", "direction",
    "Diebold-Mariano", "p", "lag ratio",
)  # fmt: skip
_NOTE = (
    "Accuracy is 100 minus the mean absolute percentage error; skill, and the Diebold-Mariano test "
    "(positive: larger errors), are against the naive forecast that knows as much; a lag ratio "
    "above 0 copies yesterday."
)


def _row(name: str, knows: str, report: ForecastReport) -> tuple[Any, ...]:
    return (
        name, knows, report.mae, report.rmse, report.accuracy, report.skill,
        report.directional_accuracy, report.dm_statistic, report.dm_pvalue, report.lag_ratio,
    )  # fmt: skip


def arima_reports(
    close: pd.Series, max_order: int
) -> tuple[tuple[int, int, int], ForecastReport, ForecastReport]:
    """The order that was chosen, and the reports from the origin and walking forward."""
    forecaster = ARIMAForecaster(max_p=max_order, max_q=max_order, progress=False)
    origin = walk_forward_evaluate(forecaster, close, mode="origin")
    order = forecaster.order_
    # The same fit again, in the other mode.
    fixed = ARIMAForecaster(order=order, progress=False)
    return order, origin, walk_forward_evaluate(fixed, close)


def lstm_report(
    settings: Settings,
    scale: Scale,
    frame: pd.DataFrame,
    *,
    seed: int,
    columns: tuple[str, ...] = (),
    extra: pd.Series | None = None,
    target: str = "level",
    **options: Any,
) -> ForecastReport:
    """An LSTM on the rows from the first with every indicator, tested on the last fifth of all.

    Args:
        settings, scale: of the run.
        frame: prices by day.
        seed: of the LSTM, added to that of the run.
        columns: indicators beside the close.
        extra: another covariate, by day.
        target: of the LSTM.
        **options: of the LSTM, in place of the scale's.
    """
    X = technical_indicators(frame, columns) if columns else None
    if extra is not None:
        X = extra.to_frame() if X is None else X.assign(extra=extra)
    parameters = {
        "window": scale.window,
        "max_epochs": scale.epochs,
        "batch_size": scale.batch_size,
        "hidden_size": scale.hidden_size,
    }
    forecaster = LSTMForecaster(
        **(parameters | options),
        target=target,
        device=settings.device,
        random_state=settings.random_state + seed,
        progress=False,
    )
    return walk_forward_evaluate(
        forecaster,
        frame[CLOSE].iloc[_WARM_UP:],
        None if X is None else X.iloc[_WARM_UP:],
        start=int(0.8 * len(frame)) - _WARM_UP,
    )


# Claims.


def _data_claims(scale: Scale, dataset: TableDataset) -> list[Claim]:
    frame = dataset.frame.loc[scale.first :]
    last = dataset.frame[CLOSE].iloc[-1]
    return [
        Claim.exact(
            f"rows in all, and from {scale.first}", (len(dataset.frame), len(frame)), (5031, 2516)
        ),
        Claim.close("last adjusted close", float(last), 2506.850098, absolute=1e-6),
    ]


def _claims(study: _Study) -> list[Claim]:
    naive, arima, price = study.naive, study.arima_origin, study.lstm[PRICE]
    flat, line = list(study.origin.values())[:2]
    price_mae, all_mae = study.mean_mae(PRICE), study.mean_mae(ALL)
    price_seeds = ", ".join(f"{report.mae:.1f}" for report in price)
    returns = study.lstm[RETURN][0]
    seeds = len(study.scale.seeds)
    directions = [report.directional_accuracy for report in price]
    spread = "; ".join(
        f"{name}: {', '.join(f'{report.mae:.1f}' for report in study.lstm[name])}"
        for name in (PRICE, ALL)
    )
    overlap = max(report.mae for report in price) > min(r.mae for r in study.lstm[ALL]) and (
        max(report.mae for report in study.lstm[ALL]) > min(report.mae for report in price)
    )
    return [
        Claim.close("yesterday's close: MAE", naive.mae, 13.70, absolute=0.01),
        Claim.close("yesterday's close: RMSE", naive.rmse, 21.54, absolute=0.01),
        Claim.close("yesterday's close: accuracy, %", naive.accuracy, 99.48, absolute=0.01),
        Claim.close(
            "ARIMA from the last training day, the paper's comparison: MAE", arima.mae, 200,
            absolute=50, note=f"order {study.order}; RMSE {arima.rmse:.1f}",
        ),
        Claim.close(
            "ARIMA from the last training day: accuracy, %", arima.accuracy, 92.5, absolute=2.5,
            note="the paper has 89.8 for other years",
        ),
        Claim.close("last training close throughout: MAE", flat.mae, 346.4, absolute=0.5),
        Claim.close(
            "a straight line from the last training close: MAE", line.mae, 184.8, absolute=0.5,
            note="a line through the first and the last training close; ARIMA from the same day "
            f"has {arima.mae:.1f}",
        ),
        Claim.close(
            "ARIMA walking forward is yesterday's close: ratio of MAE", study.arima.mae / naive.mae,
            1.0, absolute=0.02,
        ),
        Claim.at_most(
            f"the paper's first claim: MAE of the LSTM of prices, mean of {seeds} seeds, over that "
            "of ARIMA from the last training day", price_mae / arima.mae, 1.0, expected="below 1",
            strict=True, note=f"{price_mae:.1f} ({price_seeds}) "
            f"against {arima.mae:.1f}; the LSTM knows every day before, ARIMA the last training "
            "day alone",
        ),
        Claim.at_most(
            f"the paper's second claim: MAE of the LSTM of prices over that with indicators, means "
            f"of {seeds} seeds", price_mae / all_mae, 1.0, expected="below 1", strict=True,
            note=f"{price_mae:.1f} against {all_mae:.1f} ({spread})"
            + ("; the seeds overlap, so that neither is shown to be better" if overlap else ""),
        ),
        Claim.at_least(
            "the LSTM of prices does not beat yesterday's close: least ratio of MAE over seeds",
            min(report.mae for report in price) / naive.mae, 3, expected="above 3", strict=True,
        ),
        Claim.at_least(
            "the LSTM of prices does not beat yesterday's close: least Diebold-Mariano statistic",
            min(report.dm_statistic for report in price), 5, expected="above 5", strict=True,
        ),
        Claim.at_least(
            "the LSTM of prices copies yesterday: least lag ratio over seeds",
            min(report.lag_ratio for report in price), 0, expected="above 0", strict=True,
        ),
        Claim.close(
            "the LSTM of returns has no skill: MAE over that of yesterday's close",
            returns.mae / naive.mae, 1.0, absolute=0.015,
        ),
        Claim.at_least(
            "the LSTM of returns has no skill: MAE over that of the drift",
            returns.mae / study.drift.mae, 0.995, expected="about 1",
        ),
        Claim.at_least(
            "directional accuracy of the LSTM of prices: least over seeds", min(directions), 0.40
        ),
        Claim.at_most(
            "directional accuracy of the LSTM of prices: largest over seeds", max(directions), 0.56
        ),
    ]  # fmt: skip


def _published_table() -> Table:
    return Table(
        title="Published for the S&P 500, October 2013 to September 2024",
        columns=("forecaster", "MAE", "RMSE", "accuracy, %"),
        rows=(
            ("ARIMA", 462.1, 614.0, 89.8),
            ("LSTM with features", 369.32, 412.84, 92.46),
            ("LSTM without features", 175.9, 207.34, 96.41),
        ),
        note="arXiv 2501.17366. Yesterday's close is not in it.",
        published=True,
    )


# The full mode.


def _longer(settings: Settings, scale: Scale, study: _Study) -> tuple[Claim, Table]:
    """Whether more training would change the verdict."""
    long = scale.long_epochs
    recipes: dict[str, dict[str, Any]] = {
        f"{long} epochs, learning rate 0.003, no dropout": {
            "max_epochs": long, "lr": 3e-3, "dropout": 0.0,
        },
        f"{long} epochs, learning rate 0.001, dropout 0.2": {"max_epochs": long},
        "window 60, 10 epochs, batches of 32": {
            "window": 60, "max_epochs": 10, "batch_size": 32,
        },
        "window 60, 10 epochs, batches of 32, nine columns": {
            "window": 60, "max_epochs": 10, "batch_size": 32, "columns": INDICATORS,
        },
        "window 60, 10 epochs, batches of 32, returns": {
            "window": 60, "max_epochs": 10, "batch_size": 32, "target": "return",
        },
    }  # fmt: skip
    reports = sweep(
        lambda recipe, _: lstm_report(settings, scale, study.frame, seed=0, **recipe),
        list(recipes.values()),
        random_state=settings.random_state,
        n_jobs=settings.n_jobs,
        description="training longer",
        progress=settings.progress,
    )
    ratios = [report.mae / study.naive.mae for report in reports[:2]]
    claim = Claim.at_least(
        f"undertraining is not the explanation: MAE after {long} epochs over that of yesterday's "
        "close, the smaller of two recipes", min(ratios), 3, expected="4 to 5", strict=True,
    )  # fmt: skip
    table = Table(
        title="LSTMs trained longer",
        columns=_COLUMNS,
        rows=tuple(
            _row(name, "day before", report) for name, report in zip(recipes, reports, strict=True)
        ),
        note=_NOTE,
    )
    return claim, table


def _other_series(settings: Settings, scale: Scale, study: _Study) -> list[Table]:
    """The NASDAQ, and the S&P 500 with the volatility index among its columns."""
    dataset = nasdaq_prices()
    nasdaq = _Study(settings, scale, dataset.frame.loc[scale.first :])
    tables = [nasdaq.table("NASDAQ composite", dataset)]
    index = vix_prices()
    # A day without a reading keeps the last one.
    volatility = index.frame["vix"].ffill()
    frame = study.frame.loc[volatility.index[0] : volatility.index[-1]]
    volatility = volatility.reindex(frame.index).ffill()
    rows = [_row(NAIVE, "day before", walk_forward_evaluate(NaiveForecaster(), frame[CLOSE]))]
    for name, columns, extra in (
        ("nine columns", INDICATORS, None),
        ("nine columns and VIX", INDICATORS, volatility),
    ):
        for seed in scale.seeds:
            report = lstm_report(settings, scale, frame, seed=seed, columns=columns, extra=extra)
            rows.append(_row(f"LSTM, {name}, seed {seed}", "day before", report))
    tables.append(
        Table(
            title="S&P 500 with the volatility index, 2014 to 2018",
            columns=_COLUMNS,
            rows=tuple(rows),
            note=f"{_NOTE} {index.name}: {index.source} ({index.version}).",
        )
    )
    return tables


def _folds(settings: Settings, scale: Scale, dataset: TableDataset) -> Table:
    """All rows, in folds each of which is forecast by a fit on all before it."""
    close = dataset.frame[CLOSE]
    edges = np.linspace(0, len(close), scale.folds + 2).astype(int)[1:]
    rows = []
    for fold, (start, end) in enumerate(pairwise(edges), 1):
        part = close.iloc[:end]
        for name, forecaster in (
            (NAIVE, NaiveForecaster()),
            (DRIFT, NaiveForecaster(drift=True)),
            ("ARIMA", ARIMAForecaster(max_p=2, max_q=2, progress=False)),
            *(
                (
                    f"LSTM of {target}s",
                    LSTMForecaster(
                        window=scale.window,
                        hidden_size=scale.hidden_size,
                        max_epochs=scale.epochs,
                        batch_size=scale.batch_size,
                        target=target,
                        device=settings.device,
                        random_state=settings.random_state,
                        progress=settings.progress,
                    ),
                )
                for target in ("level", "return")
            ),
        ):
            report = walk_forward_evaluate(forecaster, part, start=int(start))
            rows.append(_row(f"fold {fold}, {name}", "day before", report))
    return Table(
        title="S&P 500, all days in expanding folds",
        columns=_COLUMNS,
        rows=tuple(rows),
        note=f"{_NOTE} Each fold is forecast by a fit on all days before it.",
    )


# Figure.


def _figure(study: _Study) -> Figure:
    from matplotlib.ticker import LogLocator

    days = study.naive.index
    with panel("", "adjusted close", title="test days", size=(6.4, 3.6)) as (drawing, axes):
        axes.plot(days, study.naive.y_true, color=MUTED, linewidth=1.2, label="close")
        axes.plot(days, study.naive.y_pred, color=SERIES[0], linewidth=0.8, label=NAIVE)
        for number, report in enumerate(study.lstm[PRICE]):
            axes.plot(
                days, report.y_pred, color=SERIES[1], linewidth=0.8,
                label=None if number else f"{PRICE}, seeds",
            )  # fmt: skip
        axes.plot(
            days, study.arima_origin.y_pred, color=SERIES[2], label="ARIMA, last training day"
        )
        axes.tick_params(axis="x", rotation=30)
        axes.legend()
    bars = {
        "last training close": next(iter(study.origin.values())).mae,
        "ARIMA, last training day": study.arima_origin.mae,
        ALL: study.mean_mae(ALL),
        PRICE: study.mean_mae(PRICE),
        RETURN: study.mean_mae(RETURN),
        "ARIMA, day before": study.arima.mae,
        DRIFT: study.drift.mae,
        NAIVE: study.naive.mae,
    }
    with panel("mean absolute error", "", title="error", size=(6.4, 3.6)) as (errors, axes):
        axes.barh(list(bars), list(bars.values()))
        axes.axvline(study.naive.mae, color=MUTED, linestyle="--", label=NAIVE)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.grid(False, axis="y")
        axes.legend()
    return Figure.render(
        "Forecasts of the S&P 500",
        "Left: test days; yesterday's close cannot be told from the close. Right: mean absolute "
        "error on a logarithmic axis, LSTMs as means over seeds. " + study.verdict(),
        drawing,
        errors,
    )
