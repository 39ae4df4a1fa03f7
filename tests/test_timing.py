"""Side-by-side timing: its bookkeeping. How long anything takes is not asserted."""

import pytest
import torch
from rankone import _timing
from rankone._timing import Timing, interleaved, ratio, torch_threads


@pytest.fixture(autouse=True)
def short_samples(monkeypatch):
    monkeypatch.setattr(_timing, "_MIN_SAMPLE_SECONDS", 1e-9)


def test_rounds_alternate_their_order():
    calls = []
    interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=4)
    assert "".join(calls[-8:]) == "abbaabba"


def test_every_sample_is_synchronised_on_both_sides():
    events = []
    interleaved(
        {"a": lambda: events.append("call")}, repeats=2, synchronize=lambda: events.append("wait")
    )
    assert events == ["wait", "call", "wait"] * 3


def test_every_sample_is_counted():
    counted = []
    callables = {"a": lambda: None, "b": lambda: None}
    interleaved(callables, repeats=3, on_sample=lambda: counted.append(1))
    assert len(counted) == (3 + 1) * 2


def test_short_calls_are_repeated(monkeypatch):
    monkeypatch.setattr(_timing, "_MIN_SAMPLE_SECONDS", 1e-3)
    calls = []
    timings = interleaved({"a": lambda: calls.append(1)}, repeats=2)
    assert len(timings["a"].seconds) == 2
    assert len(calls) > 10


def test_any_hashable_is_a_key():
    timings = interleaved({("linear", 64): lambda: None}, repeats=1)
    assert list(timings) == [("linear", 64)]


def test_median_and_quartiles():
    timing = Timing("a", (5.0, 1.0, 4.0, 2.0, 3.0))
    assert (timing.low, timing.median, timing.high) == (2.0, 3.0, 4.0)


def test_ratios_are_taken_round_by_round():
    """A machine that slows down for both sides leaves the ratio as it is."""
    slower, faster = Timing("a", (2.0, 20.0, 200.0)), Timing("b", (1.0, 10.0, 100.0))
    compared = ratio(slower, faster)
    assert (compared.low, compared.median, compared.high) == (2.0, 2.0, 2.0)


def test_only_timings_of_one_run_are_compared():
    with pytest.raises(ValueError, match="only timings of one run"):
        ratio(Timing("a", (1.0,)), Timing("b", (1.0, 2.0)))


def test_at_least_one_round():
    with pytest.raises(ValueError, match="repeats must be at least 1, got 0"):
        interleaved({}, repeats=0)


def test_the_thread_count_comes_back(threads):
    threads(2)
    with torch_threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


def test_the_thread_count_comes_back_after_an_error(threads):
    threads(2)
    with pytest.raises(ValueError, match="invalid literal"), torch_threads(1):
        int("x")
    assert torch.get_num_threads() == 2


def test_at_least_one_thread():
    with pytest.raises(ValueError, match="must be at least 1, got 0"), torch_threads(0):
        pass
