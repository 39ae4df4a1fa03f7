"""The demo, from its first line to its report, in a few seconds."""

import math
import re

import numpy as np
import pytest
import torch
from rankone.datasets import ByteTokenizer
from rankone.demo import Options, demo
from rankone.demo.language_model import nats_per_byte
from rankone.nn import LanguageModel, LanguageModelConfig

TINY = {
    "hidden_size": 32,
    "num_layers": 1,
    "num_heads": 2,
    "window": 64,
    "batch_size": 2,
    "sample_bytes": 12,
    "contexts": (16, 32, 64),
    "repeats": 1,
}


TINY_RECALL = {
    "hidden_size": 8,
    "seq_len": 16,
    "num_keys": 2,
    "vocab_size": 20,
    "steps": 4,
    "test_examples": 8,
    "lengths": (4, 16),
}


TINY_FORECAST = {
    "lookback": 24,
    "horizon": 6,
    "d_model": 4,
    "d_state": 2,
    "epochs": 1,
    "batches": 2,
    "rows": 2000,
}
TINY_GROWTH = {"largest": 7, "table": 6, "states": 4}


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A run of the demo and what it printed, without a terminal."""
    import contextlib
    import io

    text = io.StringIO()
    folder = tmp_path_factory.mktemp("demo") / "new"
    overrides = {
        "language_model": TINY,
        "recall": TINY_RECALL,
        "forecast": TINY_FORECAST,
        "growth": TINY_GROWTH,
    }
    with contextlib.redirect_stdout(text):
        result = demo(folder, Options(seconds=1.0, overrides=overrides))
    return result, text.getvalue()


def test_it_opens_with_what_it_will_do_and_how_long_it_takes(shown):
    first, second, *_ = shown[1].splitlines()
    assert re.fullmatch(r"This demo takes about (\d+ min )?\d+ s:", first)
    assert "train a small language model" in second


def test_it_closes_with_where_the_report_lies(shown):
    result, text = shown
    assert text.splitlines()[-1].endswith(f"The report lies at {result.html.resolve()}")
    assert result.html.is_file()


def test_it_says_plainly_whether_the_baseline_was_beaten(shown):
    result, text = shown
    claim = result.sections[0].claims[0]
    assert "bigram" in claim.statement
    words = "The model beats" if claim.passed else "The model does NOT beat"
    assert words in text


def test_training_shows_plain_lines_without_a_terminal(shown):
    assert re.search(r"step \d+, loss \d\.\d+ nats a byte", shown[1])


def test_the_report_has_every_part(shown):
    page = shown[0].html.read_text(encoding="utf-8")
    forecast = shown[0].sections[2]
    # The forecast has two panels where its data is installed.
    assert page.count("<svg") == 6 + (2 if forecast.figures else 0)
    parts = ("Loss while training", "The cost of one more token", "A sample of 12 bytes")
    for words in (*parts, "Recall while training", "One sequence"):
        assert words in page
    assert not re.search(r"https?://", page)


def test_the_state_of_linear_attention_does_not_grow_and_the_cache_does(shown):
    rows = shown[0].sections[0].tables[1].rows
    assert [row[0] for row in rows] == [16, 32, 64]
    assert len({row[3] for row in rows}) == 1
    assert rows[2][4] > 3.5 * rows[0][4]
    assert shown[0].sections[0].claims[3].passed


def test_a_recalled_sequence_is_shown_with_its_answers(shown):
    (passage,) = shown[0].sections[1].passages
    written = [line for line in passage.text.splitlines() if line.startswith("written")]
    assert len(written) == 2
    last = dict(re.findall(r"(\d+)=(\d+)", written[1]))
    rows = [line.split() for line in passage.text.splitlines()[4:]]
    assert {row[0]: row[1] for row in rows} == last


def test_the_state_of_the_delta_rule_does_not_grow(shown):
    claims = shown[0].sections[1].claims
    (claim,) = [claim for claim in claims if "same size" in claim.statement]
    assert claim.passed
    # One (8, 8) matrix and three inputs of each of three convolutions of 8 channels, float32.
    assert claim.measured == (4 * (8 * 8 + 3 * 3 * 8),)


def test_the_forecast_is_shown_beside_what_it_must_beat(shown):
    forecast = shown[0].sections[2]
    if not forecast.tables:
        pytest.skip("needs pip install --no-deps autots")
    assert [row[0] for row in forecast.tables[0].rows] == [
        "Chimera", "NLinear, least squares", "the last hour again", "the last day again",
        "the last week again",
    ]  # fmt: skip
    hourly = [claim for claim in forecast.claims if "hour by hour" in claim.statement]
    assert hourly[0].passed
    assert "Chimera: mean squared error" in shown[1]


def test_without_its_data_the_forecast_says_how_to_get_them(monkeypatch):
    import importlib.util

    from rankone.demo import forecast

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    lines = []
    section = forecast.run(Options(overrides={"forecast": TINY_FORECAST}), lines.append)
    assert section.claims == ()
    assert lines[0].startswith("Forecast: NOT RUN.")
    for text in (lines[0], section.lead):
        assert "pip install --no-deps autots" in text


def test_repeated_days_and_the_linear_forecaster_are_what_they_are_called():
    """On a series of period 24 hours, repeating the last day and the linear map are exact."""
    from rankone.demo import forecast

    hours = np.arange(1000)
    values = np.stack([np.sin(2 * np.pi * hours / 24), np.cos(2 * np.pi * hours / 24)], 1)
    scale = forecast.Scale(lookback=48, horizon=6)

    class Zeros:
        def predict_windows(self, series):
            return np.zeros((len(series) - 48 - 6 + 1, 6, 2))

    forecasts, targets = forecast._forecasts(scale, Zeros(), values, 700, 800)
    assert targets.shape == (1000 - 800 - 6 + 1, 6, 2)
    assert np.array_equal(targets[3], values[803:809])
    np.testing.assert_allclose(forecasts[forecast.LAST_DAY], targets, atol=1e-9)
    np.testing.assert_allclose(forecasts[forecast.LINEAR], targets, atol=1e-6)
    repeated = forecasts[forecast.LAST_HOUR]
    assert np.array_equal(repeated[3], np.repeat(values[802:803], 6, 0))


def test_the_farthest_arrangement_and_the_way_home_are_exact(shown):
    section = shown[0].sections[3]
    assert all(claim.passed for claim in section.claims)
    assert [row[:3] for row in section.tables[0].rows] == [
        (4, 24, 6), (5, 120, 10), (6, 720, 15), (7, 5040, 21)
    ]  # fmt: skip
    (passage,) = section.passages
    assert passage.text.splitlines()[-1].endswith("0 1 2 3 4 5")


def test_the_demo_passes_when_its_claims_do(shown):
    claims = [claim for section in shown[0].sections for claim in section.claims]
    assert shown[0].passed == all(claim.passed for claim in claims)


def test_nats_per_byte_counts_every_byte_but_the_first():
    """Reading in pieces with the state carried over gives the loss of one call."""
    config = LanguageModelConfig(vocab_size=256, hidden_size=16, num_layers=1, num_heads=2)
    model = LanguageModel(config).double().eval()
    text = ByteTokenizer().encode(bytes(range(256)) * 9)
    with torch.no_grad():
        expected = float(model(text[None], labels=text[None]).loss)
    assert math.isclose(nats_per_byte(model, text), expected, rel_tol=1e-6)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_the_time_must_be_positive_and_finite(seconds):
    with pytest.raises(ValueError, match="seconds must be positive and finite"):
        Options(seconds=seconds)
