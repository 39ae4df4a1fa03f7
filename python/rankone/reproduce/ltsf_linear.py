"""Linear long-horizon forecasters (arXiv 2205.13504): what one linear map does on real series.

The published benchmark files are in no installable package. Quick mode measures the same questions
on real series that packages ship: exchange rates of the same eight currencies, electricity demand,
traffic and weather. ``settings.data`` may name a folder with the benchmark files, by the names of
``rankone.datasets.LONG_HORIZON_FILES`` (ETTh1.csv, electricity.csv, ..., national_illness.csv; a
header, the date in the first column); the full mode then runs the published protocol on them and
holds it against the published table. With ``settings.out`` its results are kept as they come, and
an interrupted run goes on from them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rankone.datasets import (
    LONG_HORIZON_FILES,
    SeriesDataset,
    electricity_load,
    exchange_rates,
    hourly_traffic,
    typical_weather,
)
from rankone.forecast.evaluation import evaluate_long_horizon
from rankone.forecast.linear import LinearForecaster
from rankone.forecast.network_forecaster import NetworkForecaster
from rankone.forecast.plotting import plot_weights
from rankone.reproduce import Claim, Figure, Reproduction, Settings, Table, panel
from rankone.reproduce._ltsf_benchmarks import benchmarks, published_table, transformer_table

FX, LOAD, TRAFFIC, WEATHER = "exchange rates", "load", "traffic", "weather"
_LOADERS: dict[str, Callable[[], SeriesDataset]] = {
    FX: exchange_rates,
    LOAD: electricity_load,
    TRAFFIC: hourly_traffic,
    WEATHER: typical_weather,
}
# Rows of the seasons of each series: a day, a week.
_DAY = {LOAD: 48, TRAFFIC: 24, WEATHER: 24}
_WEEK = {LOAD: 336, TRAFFIC: 168}


@dataclass(frozen=True)
class Scale:
    """Sizes of one run.

    Attributes:
        alpha: penalty of the least-squares weights, per training row.
        fx_horizons: at which the exchange rates are forecast from 336 days.
        load_lookbacks, traffic_lookbacks: of the curves of error against lookback.
        adam_epochs: of the protocol's own solver on exchange rates.
        transformer_epochs, transformer_batches: of the small Transformer; None is all windows.
        transformer_fx: try it on exchange rates too.
        benchmarks: also run the user's benchmark files, where there are any.
        names, horizons, epochs: of those: which files, how many of each file's four horizons, and
            passes over the windows.
    """

    alpha: float = 1e-3
    fx_horizons: tuple[int, ...] = (96, 192, 336)
    load_lookbacks: tuple[int, ...] = (24, 48, 96, 192, 336)
    traffic_lookbacks: tuple[int, ...] = (24, 48, 96, 168, 336)
    adam_epochs: int = 6
    transformer_epochs: int = 2
    transformer_batches: int | None = None
    transformer_fx: bool = False
    benchmarks: bool = False
    names: tuple[str, ...] = tuple(LONG_HORIZON_FILES)
    horizons: int = 4
    epochs: int = 10


QUICK = Scale()
FULL = Scale(adam_epochs=10, transformer_fx=True, benchmarks=True)


def run(settings: Settings) -> Reproduction:
    """Least squares on real series, a small Transformer, and the benchmarks where they are."""
    scale = settings.scale(quick=QUICK, full=FULL)
    study = _Study(settings, scale)
    claims = [
        *_fx_claims(study),
        *_season_claims(study),
        *_lookback_claims(study),
        *_order_claims(study),
        *_transformer_claims(study),
    ]
    tables = [study.table(), published_table(), transformer_table(), *study.missing_tables()]
    if scale.benchmarks:
        measured, table = benchmarks(settings, scale)
        claims += measured
        tables.append(table)
    return Reproduction(
        slug="ltsf-linear",
        claims=tuple(claims),
        tables=tuple(tables),
        figures=tuple(_figures(study)),
        settings={
            "split": "70/10/20 by rows; every column standardised by the training rows",
            "least squares": f"alpha = {scale.alpha:g} times the training rows",
            "data": "none given" if settings.data is None else str(settings.data),
        },
    )


class _Study:
    """Evaluations on the shipped series, each done once, with the rows of their table."""

    def __init__(self, settings: Settings, scale: Scale) -> None:
        self.settings, self.scale = settings, scale
        self.series: dict[str, SeriesDataset] = {}
        self.missing: dict[str, str] = {}
        for name, loader in _LOADERS.items():
            try:
                self.series[name] = loader()
            except ModuleNotFoundError as error:
                self.missing[name] = str(error)
        self._results: dict[tuple[Any, ...], dict[str, Any]] = {}
        self._rows: list[tuple[Any, ...]] = []
        self.forecasters: dict[tuple[Any, ...], LinearForecaster] = {}

    def linear(
        self, name: str, variant: str, lookback: int, horizon: int, permute: str | None = None
    ) -> dict[str, Any]:
        """The least-squares forecaster on a series."""
        key = (name, variant, lookback, horizon)
        X = self.series[name].values
        if key not in self.forecasters:
            self.forecasters[key] = LinearForecaster(
                lookback,
                horizon,
                variant,
                solver="lstsq",
                alpha=self.scale.alpha * int(0.7 * len(X)),
                progress=False,
            )
        label = f"{variant}, least squares" + (f", {permute} lookback" if permute else "")
        return self.evaluate(name, label, self.forecasters[key], lookback, horizon, permute=permute)

    def evaluate(
        self,
        name: str,
        label: str,
        forecaster: Any,
        lookback: int,
        horizon: int,
        *,
        permute: str | None = None,
    ) -> dict[str, Any]:
        key = (name, label, lookback, horizon)
        if key in self._results:
            return self._results[key]
        seasons = [
            rows
            for rows in (_WEEK.get(name), _DAY.get(name))
            if rows is not None and rows <= lookback
        ]
        with warnings.catch_warnings():
            # That DLinear's least squares are Linear's is one of the claims.
            warnings.filterwarnings("ignore", "solver='lstsq' gives variant='dlinear'")
            result = evaluate_long_horizon(
                forecaster,
                self.series[name].values,
                lookback,
                horizon,
                permute=permute,
                seasons=seasons,
                random_state=self.settings.random_state,
            )
        self._results[key] = result
        contenders = {label: result}
        if permute is None:
            contenders |= result["baselines"]
        for contender, errors in contenders.items():
            row = (name, lookback, horizon, contender)
            if row not in [entry[:4] for entry in self._rows]:
                self._rows.append((*row, errors["mse"], errors["mae"], errors["mase"]))
        return result

    def table(self) -> Table:
        sources = "; ".join(
            f"{name}: {dataset.source} ({dataset.version}, {dataset.licence}), "
            f"{len(dataset.values)} rows of {dataset.values.shape[1]}"
            for name, dataset in self.series.items()
        )
        notes = [
            "Errors on standardised data over every window of the test block; MASE in units of the "
            "seasonal naive error of the training rows, of the longest season that the lookback "
            "holds, or of the last value's.",
            sources + ".",
        ]
        if FX in self.series:
            notes.append(self._fx_note())
        return Table(
            title="Real series that packages ship",
            columns=("series", "lookback", "horizon", "forecaster", "MSE", "MAE", "MASE"),
            rows=tuple(self._rows),
            note=" ".join(notes),
        )

    def _fx_note(self) -> str:
        beaten = [
            row
            for row in self._rows
            if row[0] == FX
            and row[3] != "repeat"
            and row[4] < next(r[4] for r in self._rows if r[:4] == (FX, row[1], row[2], "repeat"))
        ]
        published = (
            "in the published table of the Exchange benchmark NLinear (0.081, 0.157, 0.305, 0.643) "
            "ties with Repeat (0.081, 0.167, 0.305, 0.823) at 96 and 336 steps and is ahead at 192 "
            "and 720."
        )
        if beaten:
            names = "; ".join(f"{row[3]}, {row[1]} to {row[2]}" for row in beaten)
            return f"On exchange rates repeating the last value is beaten by {names}; {published}"
        return f"On exchange rates no linear model beats repeating the last value; {published}"

    def missing_tables(self) -> list[Table]:
        if not self.missing:
            return []
        return [
            Table(
                title="Series that were not measured",
                columns=("series", "reason"),
                rows=tuple(self.missing.items()),
            )
        ]


# Claims.


def _fx_claims(study: _Study) -> list[Claim]:
    if FX not in study.series:
        return []
    linear, nlinear, dlinear = (
        study.linear(FX, variant, 96, 96)["mse"] for variant in ("linear", "nlinear", "dlinear")
    )
    repeat = study.linear(FX, "nlinear", 96, 96)["baselines"]["repeat"]["mse"]
    study.evaluate(
        FX,
        f"nlinear, Adam, {study.scale.adam_epochs} epochs",
        LinearForecaster(
            96,
            96,
            "nlinear",
            lr=5e-4,
            batch_size=8,
            max_epochs=study.scale.adam_epochs,
            random_state=study.settings.random_state,
            progress=study.settings.progress,
            device=study.settings.device,
        ),
        96,
        96,
    )
    claims = [
        Claim.close(
            "exchange rates, 96 days to 96: error of repeating the last value", repeat, 0.078,
            absolute=0.002, note="published for the Exchange benchmark: 0.081",
        ),
        Claim.close(
            "exchange rates, 96 days to 96: error of NLinear", nlinear, 0.081, absolute=0.003,
            note="published for the Exchange benchmark: 0.081",
        ),
        Claim.at_most(
            "exchange rates: error of NLinear over that of Linear", nlinear / linear, 1.0,
            expected="below 1", strict=True,
        ),
        Claim.at_most(
            "exchange rates: Linear and DLinear describe the same maps, difference of errors",
            abs(linear - dlinear), 1e-6, expected="0", strict=True,
        ),
    ]  # fmt: skip
    for horizon in study.scale.fx_horizons:
        results = {
            variant: study.linear(FX, variant, 336, horizon) for variant in ("nlinear", "linear")
        }
        repeat = results["nlinear"]["baselines"]["repeat"]["mse"]
        claims.append(
            Claim.increasing(
                f"exchange rates, 336 days to {horizon}: errors of Repeat, NLinear, Linear",
                (repeat, results["nlinear"]["mse"], results["linear"]["mse"]),
            )
        )
    return claims


def _season_claims(study: _Study) -> list[Claim]:
    claims = []
    if LOAD in study.series:
        short, long = (study.linear(LOAD, "nlinear", 336, horizon) for horizon in (48, 336))
        week = f"seasonal naive ({_WEEK[LOAD]})"
        claims += [
            Claim.at_most(
                "load, 336 half hours to 48: error of NLinear over that of last week",
                short["mse"] / short["baselines"][week]["mse"], 0.8, strict=True,
                note=_pair(short, week),
            ),
            Claim.close(
                "load, 336 half hours to 336: error of NLinear over that of last week",
                long["mse"] / long["baselines"][week]["mse"], 1.0, absolute=0.15,
                note=_pair(long, week),
            ),
        ]  # fmt: skip
    for name, season, bound, words in (
        (WEATHER, _DAY[WEATHER], 0.65, "yesterday"),
        (TRAFFIC, _WEEK[TRAFFIC], 0.75, "last week"),
    ):
        if name not in study.series:
            continue
        result = study.linear(name, "linear", 168, 96)
        naive = f"seasonal naive ({season})"
        claims.append(
            Claim.at_most(
                f"{name}, 168 hours to 96: error of Linear over that of {words}",
                result["mse"] / result["baselines"][naive]["mse"],
                bound,
                strict=True,
                note=_pair(result, naive),
            )
        )
    return claims


def _pair(result: dict[str, Any], naive: str) -> str:
    return f"{result['mse']:.4f} against {result['baselines'][naive]['mse']:.4f}"


def _lookback_claims(study: _Study) -> list[Claim]:
    claims = []
    for name, horizon, lookbacks in _curves(study):
        shrinking = lookbacks[::-1]
        claims.append(
            Claim.increasing(
                f"{name}, {horizon} steps ahead: error of Linear with lookbacks "
                f"{', '.join(map(str, shrinking))}",
                [study.linear(name, "linear", lookback, horizon)["mse"] for lookback in shrinking],
                expected="a shorter lookback is worse",
            )
        )
    return claims


def _curves(study: _Study) -> list[tuple[str, int, tuple[int, ...]]]:
    scale = study.scale
    curves = [(LOAD, 48, scale.load_lookbacks), (TRAFFIC, 96, scale.traffic_lookbacks)]
    return [curve for curve in curves if curve[0] in study.series]


def _order_claims(study: _Study) -> list[Claim]:
    claims = []
    if LOAD in study.series:
        clean, shuffled, half = (
            study.linear(LOAD, "nlinear", 336, 48, permute)["mse"]
            for permute in (None, "shuffle", "half")
        )
        claims.append(
            Claim.at_least(
                "load: error of NLinear with a shuffled lookback over that in order",
                shuffled / clean,
                20,
                expected="order matters",
                strict=True,
                note=f"in order {clean:.4f}, shuffled {shuffled:.2f}, halves swapped {half:.2f}",
            )
        )
    if FX in study.series:
        clean, shuffled = (
            study.linear(FX, "nlinear", 96, 96, permute)["mse"] for permute in (None, "shuffle")
        )
        claims.append(
            Claim.close(
                "exchange rates: error of NLinear with a shuffled lookback over that in order",
                shuffled / clean,
                1.0,
                absolute=0.05,
                note="a random walk has no order to read",
            )
        )
    return claims


def _transformer_claims(study: _Study) -> list[Claim]:
    cells = [(LOAD, "linear", 1.0)]
    if study.scale.transformer_fx:
        cells.append((FX, "nlinear", 0.2))
    claims = []
    for name, variant, share in cells:
        if name not in study.series:
            continue
        transformer = study.evaluate(
            name,
            "small Transformer",
            SmallTransformerForecaster(
                96,
                48,
                max_epochs=study.scale.transformer_epochs,
                batches_per_epoch=study.scale.transformer_batches,
                device=study.settings.device,
                random_state=study.settings.random_state,
                progress=study.settings.progress,
            ),
            96,
            48,
        )
        linear = study.linear(name, variant, 96, 48)
        claims.append(
            Claim.at_most(
                f"{name}, 96 to 48: error of {'Linear' if variant == 'linear' else 'NLinear'} over "
                "that of a small Transformer",
                linear["mse"] / transformer["mse"],
                share,
                strict=True,
                note=f"{linear['mse']:.3f} against {transformer['mse']:.3f}; a small vanilla "
                "Transformer, a stand-in for the published ones and none of them",
            )
        )
    return claims


# A small Transformer.

_WIDTH, _HEADS, _FEED_FORWARD, _DROPOUT = 64, 4, 128, 0.05
_KNOWN = 48  # rows of the lookback that the decoder sees


class _SmallTransformer(nn.Module):
    """An encoder of the lookback, and a decoder of its last rows and as many zeros as steps."""

    positions: Tensor

    def __init__(self, lookback: int, horizon: int, variates: int) -> None:
        super().__init__()
        self.horizon = horizon
        self.encoder_values = nn.Linear(variates, _WIDTH)
        self.decoder_values = nn.Linear(variates, _WIDTH)
        self.transformer = nn.Transformer(
            d_model=_WIDTH,
            nhead=_HEADS,
            num_encoder_layers=2,
            num_decoder_layers=1,
            dim_feedforward=_FEED_FORWARD,
            dropout=_DROPOUT,
            batch_first=True,
        )
        self.head = nn.Linear(_WIDTH, variates)
        self.register_buffer("positions", _sinusoids(max(lookback, _KNOWN + horizon), _WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        """(B, lookback, V) to (B, horizon, V)."""
        known = x[:, -_KNOWN:]
        decoded = torch.cat([known, x.new_zeros(x.shape[0], self.horizon, x.shape[2])], 1)
        source = self.encoder_values(x) + self.positions[: x.shape[1]]
        target = self.decoder_values(decoded) + self.positions[: decoded.shape[1]]
        return self.head(self.transformer(source, target))[:, -self.horizon :]


def _sinusoids(length: int, width: int) -> Tensor:
    angle = torch.arange(length)[:, None] * 10_000 ** (-torch.arange(0, width, 2) / width)
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)


class SmallTransformerForecaster(NetworkForecaster):
    """A vanilla Transformer of width 64, a small stand-in for the published ones.

    Args:
        lookback, horizon: rows that are read and rows that are forecast.
        max_epochs, batch_size, lr, batches_per_epoch: of Adam.
        device: torch device; None is the CPU.
        random_state: of weights, dropout and order of windows.
        progress: show a bar on a terminal.
    """

    patience = None
    val_fraction = 0.0
    scale = True
    checkpoint = None

    def __init__(
        self,
        lookback: int = 96,
        horizon: int = 48,
        *,
        max_epochs: int = 2,
        batch_size: int = 32,
        lr: float = 5e-4,
        batches_per_epoch: int | None = None,
        device: str | torch.device | None = None,
        random_state: Any = None,
        progress: bool = True,
    ) -> None:
        self.lookback = lookback
        self.horizon = horizon
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.lr = lr
        self.batches_per_epoch = batches_per_epoch
        self.device = device
        self.random_state = random_state
        self.progress = progress

    def _make_model(self, n_features: int) -> _SmallTransformer:
        return _SmallTransformer(self.lookback, self.horizon, n_features)


def _figures(study: _Study) -> list[Figure]:
    from matplotlib.ticker import LogLocator

    panels = []
    if LOAD in study.series:
        study.linear(LOAD, "nlinear", 336, 48)
        forecaster = study.forecasters[LOAD, "nlinear", 336, 48]
        with panel("lag", "steps ahead", title="weights of NLinear on load") as (drawing, axes):
            plot_weights(forecaster.coef_, ax=axes)
        panels.append(drawing)
    curves = _curves(study)
    if curves:
        with panel("lookback", "mean squared error", title="longer lookbacks help") as (
            drawing,
            axes,
        ):
            for name, horizon, lookbacks in curves:
                errors = [
                    study.linear(name, "linear", lookback, horizon)["mse"] for lookback in lookbacks
                ]
                axes.plot(lookbacks, errors, "o-", label=f"{name}, {horizon} steps")
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.minorticks_off()
            axes.legend()
        panels.append(drawing)
    if not panels:
        return []
    return [
        Figure.render(
            "What a linear map reads",
            "Least-squares weights of half-hourly electricity demand: a row a step ahead, a column "
            "a lag; the stripes lie a day, 48 half hours, apart, and the darkest is last week. "
            "Test error of Linear against the rows that it reads.",
            *panels,
        )
    ]
