"""The reproduction of Chimera at a tiny scale: every claim, table and figure."""

import numpy as np
import pytest
import torch
from rankone.catalog import method
from rankone.reproduce import Settings, run_one
from rankone.reproduce import _chimera_full as full
from rankone.reproduce import chimera as module

TINY = {
    "variates": 3,
    "length": 12,
    "width": 8,
    "state": 4,
    "seeds": (0, 1),
    "steps": 3,
    "batch_size": 4,
    "test_windows": 16,
    "hold_steps": 3,
    "hold_length": 8,
    "timed_lengths": (96, 192),
    "timed_shape": (1, 2, 8, 4),
    "repeats": 2,
    "lookback": 24,
    "horizon": 6,
    "traffic_epochs": 1,
    "traffic_batches": 2,
    "traffic_width": 4,
    "traffic_state": 2,
}


@pytest.fixture(scope="module")
def reproduction():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return run_one(method("chimera"), Settings(overrides=TINY, progress=False))
    finally:
        torch.set_num_threads(before)


def only(reproduction, words):
    (claim,) = [claim for claim in reproduction.claims if words in claim.statement]
    return claim


@pytest.mark.parametrize(
    ("words", "tolerance"),
    [
        ("2D scan, driver first", "< 0.2"),
        ("no variate axis", "> 0.9"),
        ("2D scan, driver last", "> 0.9"),
        ("2D scan both ways, driver last", "< 0.2"),
        ("both ways coupled", "≥ 10"),
        ("without A2, without A3, without both", "exact"),
        ("gain for a constant input", "≤ 0.001"),
        ("T = 192 over T = 96", "± 0.4"),
        ("input-dependent parameters hold", "< 0.05"),
        ("constant parameters cannot", "> 0.2"),
    ],
)
def test_every_claim_is_there_with_its_tolerance(reproduction, words, tolerance):
    assert only(reproduction, words).tolerance == tolerance


def test_there_are_no_other_claims(reproduction):
    assert len(reproduction.claims) == 10


@pytest.mark.parametrize("words", ["rank of", "gain for"])
def test_facts_about_the_operator_hold_at_any_scale(reproduction, words):
    claims = [claim for claim in reproduction.claims if words in claim.statement]
    assert claims
    assert all(claim.passed for claim in claims), claims


def test_untrained_models_do_not_pass(reproduction):
    assert not only(reproduction, "2D scan, driver first").passed
    assert not only(reproduction, "input-dependent").passed
    assert not reproduction.passed


def test_tables_and_figure(reproduction):
    errors, times, traffic = reproduction.tables
    assert [row[0] for row in errors.rows] == list(module._LATTICE_MODELS)
    assert [row[0] for row in times.rows] == [96, 192]
    assert traffic.rows or "pip install --no-deps autots" in traffic.note
    assert not any(table.published for table in reproduction.tables)
    (figure,) = reproduction.figures
    assert len(figure.panels) == 4
    assert "best possible" in figure.panels[2]


def test_without_the_traffic_data_the_report_says_so(monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    table = module._traffic(Settings(progress=False), module.Scale(**TINY))
    assert table.rows == ()
    assert table.note.startswith("Not measured: hourly_traffic reads a file of the package autots")
    assert "pip install --no-deps autots" in table.note


def test_modes_have_the_published_scale():
    quick = module.QUICK
    assert (quick.variates, quick.length, quick.width, quick.state) == (5, 33, 16, 8)
    assert (quick.steps, quick.batch_size, quick.seeds, quick.test_windows) == (
        250,
        16,
        (0, 1),
        256,
    )
    assert (quick.hold_steps, quick.hold_length) == (300, 32)
    assert quick.kernel_shape == (12, 12)
    assert (quick.lookback, quick.horizon) == (96, 24)
    with pytest.raises(ValueError, match="timed_lengths must hold 96 and 192"):
        module.Scale(timed_lengths=(96,))


class TestFullMode:
    def test_reads_the_files_of_the_user_and_times_the_rest(self, tmp_path, threads):
        threads(1)
        lines = ["date,a,b", *(f"2016-07-01,{t % 24},{t % 7}" for t in range(400))]
        (tmp_path / "weather.csv").write_text("\n".join(lines) + "\n")
        records = {
            "x_train": np.random.default_rng(0).normal(size=(8, 20, 3)),
            "y_train": np.arange(8) % 2,
            "x_test": np.random.default_rng(1).normal(size=(4, 20, 3)),
            "y_test": np.arange(4) % 2,
        }
        np.savez(tmp_path / "ptbxl.npz", **records)
        sizes = {"timed_lengths": (96, 192), "timed_shape": (1, 2, 4, 2), "repeats": 1}
        scale = module.Scale(
            data_dir=str(tmp_path), lookbacks=(8,), horizons=(4,), traffic_epochs=1,
            traffic_batches=2, traffic_width=2, traffic_state=1, **sizes,
        )  # fmt: skip
        throughput, training, horizons, records = full.full_tables(Settings(progress=False), scale)
        assert [row[:2] for row in throughput.rows] == [
            (96, "2D scan"), (96, "four flattened 1D scans"),
            (192, "2D scan"), (192, "four flattened 1D scans"),
        ]  # fmt: skip
        assert [row[0] for row in training.rows] == [96, 192]
        assert [row[:3] for row in horizons.rows] == [("weather.csv", 8, 4)]
        assert 0 < horizons.rows[0][3] < 10
        assert "ETTh2.csv" in horizons.note
        assert records.rows[0][:2] == (2, 4)

    def test_it_is_off_in_quick_mode(self):
        assert module.FULL.beyond
        assert not module.QUICK.beyond


class TestLattice:
    def test_variates_follow_each_other_with_the_stated_numbers(self):
        generator = torch.Generator().manual_seed(0)
        x = module.lattice(4000, 5, 33, generator, driver_first=True).double()
        assert x.shape == (4000, 5, 33)
        noise = x[:, 1:, 1:] - 0.95 * x[:, :-1, :-1]
        # 4000 * 4 * 32 draws; four standard errors of a variance.
        assert noise.var().item() == pytest.approx(0.09, rel=4 * (2 / 512_000) ** 0.5)
        assert x[:, 0].var().item() == pytest.approx(1.0, rel=4 * (2 / 132_000) ** 0.5)
        previous = x[:, 0, :-1].flatten(), x[:, 0, 1:].flatten()
        assert abs(float(torch.corrcoef(torch.stack(previous))[0, 1])) < 4 / 128_000**0.5
        # Burnt in: as variable at the first step as at the last.
        assert x[:, 4, 0].var().item() == pytest.approx(x[:, 4, -1].var().item(), rel=0.15)

    def test_the_other_orientation_is_the_mirror_image(self):
        one, other = (
            module.lattice(3, 4, 9, torch.Generator().manual_seed(1), driver_first=first)
            for first in (True, False)
        )
        assert torch.equal(one.flip(1), other)

    def test_the_best_forecast_has_the_stated_error(self):
        generator = torch.Generator().manual_seed(0)
        x = module.lattice(2000, 5, 33, generator, driver_first=True)
        error = (0.95 * x[:, :-1, :-1] - x[:, 1:, 1:]).square().mean()
        assert error.item() == pytest.approx(module._BAYES_ERROR, rel=0.02)


def test_flagged_values_are_held():
    generator = torch.Generator().manual_seed(0)
    x, target = module.flagged_values(50, 20, generator)
    assert x.shape == (50, 2, 20, 2)
    for row, wanted in zip(x.flatten(0, 1), target.flatten(0, 1), strict=True):
        held = None
        for (value, flag), expected in zip(row.tolist(), wanted.tolist(), strict=True):
            held = value if flag else held
            assert held == expected
    assert bool((x[:, :, 0, 1] == 1).all())
    share = x[:, :, 1:, 1].mean().item()
    assert share == pytest.approx(0.15, abs=4 * (0.15 * 0.85 / 1900) ** 0.5)
