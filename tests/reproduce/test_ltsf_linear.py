"""The reproduction of the linear forecasters at a tiny scale: claims, tables, benchmark files."""

import json

import numpy as np
import pytest
from rankone.catalog import method
from rankone.reproduce import Settings, run_one
from rankone.reproduce import _ltsf_benchmarks as benchmarks
from rankone.reproduce import _ltsf_published as published
from rankone.reproduce import ltsf_linear as module

METHOD = method("ltsf-linear")
TINY = {"adam_epochs": 1, "transformer_epochs": 1, "transformer_batches": 2}


@pytest.fixture(scope="module")
def short_series():
    """The shipped series with few rows, so that every window of them is quick."""
    patch = pytest.MonkeyPatch()
    rng = np.random.default_rng(0)

    def series(variates, season):
        t = np.arange(1700)[:, None]
        values = np.sin(2 * np.pi * t / season) + 0.1 * rng.normal(size=(1700, variates))
        if season == 1:
            values = rng.normal(size=(1700, variates)).cumsum(0)
        return module.SeriesDataset("n", values, ("v",) * variates, t[:, 0], "s", "l", "v 1")

    loaders = {
        module.FX: lambda: series(2, 1),
        module.LOAD: lambda: series(1, 48),
        module.TRAFFIC: lambda: series(2, 24),
        module.WEATHER: lambda: series(2, 24),
    }
    patch.setattr(module, "_LOADERS", loaders)
    yield patch
    patch.undo()


@pytest.fixture(scope="module")
def reproduction(short_series):
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return run_one(METHOD, Settings(overrides=TINY, progress=False))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("words", "expected", "tolerance"),
    [
        ("96 days to 96: error of repeating", "0.078", "± 0.002"),
        ("96 days to 96: error of NLinear", "0.081", "± 0.003"),
        ("error of NLinear over that of Linear", "below 1", "< 1"),
        ("Linear and DLinear describe the same maps", "0", "< 1e-06"),
        ("336 days to 96: errors of Repeat, NLinear, Linear", "increasing", "each above the last"),
        ("336 days to 192: errors of", "increasing", "each above the last"),
        ("336 days to 336: errors of", "increasing", "each above the last"),
        ("load, 336 half hours to 48", "< 0.8", "< 0.8"),
        ("load, 336 half hours to 336", "1", "± 0.15"),
        ("weather, 168 hours to 96", "< 0.65", "< 0.65"),
        ("traffic, 168 hours to 96", "< 0.75", "< 0.75"),
        ("lookbacks 336, 192, 96, 48, 24", "a shorter lookback is worse", "each above the last"),
        ("lookbacks 336, 168, 96, 48, 24", "a shorter lookback is worse", "each above the last"),
        ("load: error of NLinear with a shuffled", "order matters", "> 20"),
        ("exchange rates: error of NLinear with a shuffled", "1", "± 0.05"),
        ("load, 96 to 48: error of Linear over that of a small", "< 1", "< 1"),
    ],
)
def test_every_claim_is_there_with_its_tolerance(reproduction, words, expected, tolerance):
    (claim,) = [claim for claim in reproduction.claims if words in claim.statement]
    assert (claim.expected, claim.tolerance) == (expected, tolerance)


def test_there_are_no_other_claims(reproduction):
    assert len(reproduction.claims) == 16


def test_equal_maps_have_equal_errors_on_any_series(reproduction):
    (claim,) = [c for c in reproduction.claims if "the same maps" in c.statement]
    assert claim.passed


def test_every_row_stands_beside_its_baselines(reproduction):
    measured = reproduction.tables[0]
    cells = {row[:3] for row in measured.rows}
    for cell in cells:
        names = {row[3] for row in measured.rows if row[:3] == cell}
        assert "repeat" in names
        name, lookback, _ = cell
        if name == module.LOAD and lookback == 336:
            assert {"seasonal naive (336)", "seasonal naive (48)"} <= names
    assert "On exchange rates" in measured.note
    assert "0.081, 0.167, 0.305, 0.823" in measured.note
    small = [claim for claim in reproduction.claims if "small Transformer" in claim.statement]
    assert "none of them" in small[0].note


def test_published_tables_say_so(reproduction):
    published_tables = [table for table in reproduction.tables if table.published]
    assert len(published_tables) == 2
    assert len(published_tables[0].rows) == 36
    assert len(reproduction.figures[0].panels) == 2


def test_missing_packages_skip_their_rows_visibly(monkeypatch):
    def missing():
        raise ModuleNotFoundError("load needs the package pmdarima")

    monkeypatch.setattr(module, "_LOADERS", dict.fromkeys(module._LOADERS, missing))
    result = module.run(Settings(overrides=TINY, progress=False))
    assert result.claims == ()
    (table,) = [table for table in result.tables if "not measured" in table.title]
    assert (module.LOAD, "load needs the package pmdarima") in table.rows


class TestBenchmarks:
    @pytest.fixture
    def folder(self, tmp_path):
        rng = np.random.default_rng(0)
        for name, rows in (("exchange_rate.csv", 2000), ("national_illness.csv", 900)):
            lines = ["date,a,OT"]
            for t, row in enumerate(rng.normal(size=(rows, 2)).cumsum(0)):
                lines.append(f"2000-01-{t},{row[0]:.6f},{row[1]:.6f}")
            (tmp_path / name).write_text("\n".join(lines) + "\n")
        return tmp_path

    def settings(self, folder, **more):
        return Settings(data=folder, progress=False, **more)

    def test_each_file_gets_its_claims(self, folder):
        scale = module.Scale(horizons=1, epochs=1)
        claims, table = benchmarks.benchmarks(self.settings(folder), scale)
        assert [claim.statement for claim in claims] == [
            f"{name}, {horizon} steps ahead: error of {variant}"
            for name, horizon in (("Exchange", 96), ("ILI", 24))
            for variant in ("repeat", "linear", "nlinear", "dlinear")
        ]
        assert [claim.tolerance for claim in claims[:4]] == ["± 0.002"] + ["± 0.01"] * 3
        assert claims[5].tolerance == "± 0.195"
        assert "ETTh1.csv" in table.note
        assert "--data" in table.note
        # Repeat by hand, by the protocol: training rows scale, every window of the last fifth.
        lines = (folder / "exchange_rate.csv").read_text().split("\n")[1:-1]
        X = np.array([[float(cell) for cell in line.split(",")[1:]] for line in lines])
        X = X / X[:1400].std(0)
        errors = [
            np.square(X[start : start + 96] - X[start - 1]).mean() for start in range(1600, 1905)
        ]
        assert claims[0].measured == pytest.approx(np.mean(errors), rel=1e-9)

    def test_results_are_kept_and_gone_on_from(self, folder, tmp_path, monkeypatch):
        scale = module.Scale(horizons=1, epochs=1, names=("Exchange",))
        settings = self.settings(folder, out=tmp_path / "out")
        first, _ = benchmarks.benchmarks(settings, scale)
        kept = json.loads((tmp_path / "out" / benchmarks.CELLS_FILE).read_text())
        assert set(kept["cells"]) == {
            f"Exchange {variant} 96" for variant in ("repeat", "linear", "nlinear", "dlinear")
        }
        calls = []
        monkeypatch.setattr(benchmarks, "_benchmark", lambda *a: calls.append(a) or 1.0)
        again, _ = benchmarks.benchmarks(settings, scale)
        assert [claim.measured for claim in again] == [claim.measured for claim in first]
        assert calls == []
        other = self.settings(folder, out=tmp_path / "out", random_state=1)
        benchmarks.benchmarks(other, scale)
        assert len(calls) == 4

    def test_without_files_nothing_is_claimed(self):
        claims, table = benchmarks.benchmarks(Settings(progress=False), module.Scale())
        assert claims == []
        assert table.rows == ()
        assert "no folder was given" in table.note
        assert "national_illness.csv" in table.note


def test_the_settings_of_the_published_runs():
    assert published.published_run("ETTh1", 96) == published.Run(336, 5e-3, 32)
    assert published.published_run("ETTm2", 192).lr == 1e-3
    assert published.published_run("ETTm2", 336).lr == 1e-2
    assert published.published_run("Exchange", 192).batch_size == 8
    assert published.published_run("Exchange", 336).batch_size == 32
    assert published.published_run("ILI", 60) == published.Run(104, 1e-2, 32)
    assert published.published_run("Weather", 720) == published.Run(336, 1e-4, 16)


def test_tolerances_of_the_published_values():
    assert published.tolerance("ETTh1", 96, 0.375) == pytest.approx(0.01125)
    assert published.tolerance("Weather", 96, 0.176) == 0.01
    assert published.tolerance("ILI", 24, 2.0) == pytest.approx(0.2)
    assert published.tolerance("Exchange", 720, 0.643) == pytest.approx(0.0643)
    assert published.tolerance("Exchange", 336, 0.305) == 0.01


def test_modes_have_the_published_scale():
    assert module.QUICK.alpha == 1e-3
    assert module.QUICK.fx_horizons == (96, 192, 336)
    assert not module.QUICK.benchmarks
    assert module.FULL.benchmarks
    assert module.FULL.transformer_fx
    assert (module.FULL.epochs, module.FULL.horizons, len(module.FULL.names)) == (10, 4, 9)


def test_the_small_transformer_is_what_it_is_called():
    import torch

    model = module.SmallTransformerForecaster(96, 48)._make_model(3)
    transformer = model.transformer
    assert (transformer.d_model, transformer.nhead) == (64, 4)
    assert (len(transformer.encoder.layers), len(transformer.decoder.layers)) == (2, 1)
    assert transformer.encoder.layers[0].linear1.out_features == 128
    assert transformer.encoder.layers[0].dropout.p == 0.05
    assert model(torch.randn(2, 96, 3)).shape == (2, 48, 3)
    # Sines and cosines of geometric frequencies, by the formula.
    table = module._sinusoids(5, 8)
    assert table[3, 2].item() == pytest.approx(np.sin(3 / 10_000 ** (2 / 8)), abs=1e-6)
    assert table[3, 3].item() == pytest.approx(np.cos(3 / 10_000 ** (2 / 8)), abs=1e-6)
