"""Recall tasks against what they promise: read back example by example."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from rankone.datasets import RecallExamples, mqar, recall_with_overwrite


def written(tokens, context):
    """Last value of every key in the context, and how often it was written."""
    last, count = {}, {}
    for key, value in zip(tokens[:context:2], tokens[1:context:2], strict=True):
        last[int(key)] = int(value)
        count[int(key)] = count.get(int(key), 0) + 1
    return last, count


class Case(NamedTuple):
    draw: Callable[[int], RecallExamples]
    context: int
    keys: int
    rounds: int
    vocab_size: int


CASES = {
    "mqar full": Case(lambda seed: mqar(40, 64, 16, 64, seed), 32, 16, 1, 64),
    "mqar with filler": Case(lambda seed: mqar(40, 65, 5, 20, seed, power_a=0.5), 10, 5, 1, 20),
    "overwrite": Case(lambda seed: recall_with_overwrite(40, 64, 8, 128, seed), 32, 8, 2, 128),
    "overwrite full": Case(
        lambda seed: recall_with_overwrite(40, 24, 3, 18, seed, rounds=3), 18, 3, 3, 18
    ),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request):
    return request.param


def test_every_key_is_asked_once_for_its_last_value(case):
    tokens, labels = case.draw(0)
    for row, answers in zip(tokens, labels, strict=True):
        last, count = written(row, case.context)
        assert set(count.values()) == {case.rounds}
        assert len(last) == case.keys
        queries = np.flatnonzero(answers != -100)
        assert {int(row[place]) for place in queries} == set(last)
        assert len(queries) == case.keys
        assert all(answers[place] == last[int(row[place])] for place in queries)


def test_all_but_pairs_and_queries_is_filler(case):
    tokens, labels = case.draw(1)
    rest = labels == -100
    rest[:, : case.context] = False
    assert (tokens[rest] == 0).all()
    assert (tokens[~rest] > 0).all()
    assert (labels[:, : case.context] == -100).all()


def test_queries_stand_in_every_second_position(case):
    _, labels = case.draw(2)
    places = np.nonzero(labels != -100)[1]
    assert ((places - case.context) % 2 == 0).all()
    assert places.min() >= case.context


def test_keys_values_and_sizes(case):
    tokens, labels = case.draw(3)
    half = case.vocab_size // 2
    keys, values = tokens[:, : case.context : 2], tokens[:, 1 : case.context : 2]
    assert keys.min() >= 1
    assert keys.max() < half
    assert values.min() >= half
    assert values.max() < 2 * half
    assert all(len(set(row)) == len(row) for row in values.tolist())
    assert tokens.dtype == labels.dtype == np.int64


def test_same_seed_same_examples(case):
    first, again, other = case.draw(5), case.draw(5), case.draw(6)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first.tokens, other.tokens)


def test_order_of_a_round_is_independent_of_the_one_before():
    tokens, _ = recall_with_overwrite(2000, 32, 4, 40, seed=0)
    first, second = tokens[:, :8:2], tokens[:, 8:16:2]
    same = (first == second).mean()
    # A key keeps its place in one round of four; five standard errors of 8000 draws.
    assert abs(same - 0.25) < 5 * np.sqrt(0.25 * 0.75 / 8000)


def test_first_query_slot_follows_the_power_law():
    """One pair: the slot is one draw from p(j) in proportion to j^(a - 1)."""
    count, power = 20_000, 0.3
    _, labels = mqar(count, 22, 1, 8, seed=0, power_a=power)
    slot = (np.nonzero(labels != -100)[1] - 2) // 2
    expected = np.arange(1, 11.0) ** (power - 1)
    expected /= expected.sum()
    frequency = np.bincount(slot, minlength=10) / count
    assert (np.abs(frequency - expected) < 5 * np.sqrt(expected * (1 - expected) / count)).all()


def test_two_query_slots_are_drawn_without_replacement():
    """p(i, then j) = p_i p_j / (1 - p_i), over the keys in their order of drawing."""
    count = 20_000
    tokens, labels = mqar(count, 10, 2, 8, seed=1, power_a=0.01)
    rows = np.arange(count)
    asked = labels == tokens[rows, 1][:, None]
    slot = (np.argmax(asked, axis=1) - 4) // 2
    p = np.arange(1, 4.0) ** (0.01 - 1)
    p /= p.sum()
    frequency = np.bincount(slot, minlength=3) / count
    assert (np.abs(frequency - p) < 5 * np.sqrt(p * (1 - p) / count)).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mqar(0, 16, 2, 20, 0), "num_examples must be at least 1, got 0"),
        (lambda: mqar(1, 16, 0, 20, 0), "num_kv_pairs must be at least 1, got 0"),
        (lambda: mqar(1, 15, 4, 20, 0), "seq_len must be at least 16 .* got 15"),
        (lambda: mqar(1, 16, 4, 9, 0), "vocab_size must leave at least 4 keys .* got 9"),
        (
            lambda: recall_with_overwrite(1, 64, 8, 30, 0),
            "at least 8 keys and 16 values, got 30, which leaves 14 and 15",
        ),
        (lambda: recall_with_overwrite(1, 64, 0, 30, 0), "num_keys must be at least 1, got 0"),
        (
            lambda: recall_with_overwrite(1, 64, 2, 30, 0, rounds=0),
            "rounds must be at least 1, got 0",
        ),
        (
            lambda: recall_with_overwrite(1, 47, 8, 128, 0),
            "seq_len must be at least 48 to write 8 keys 2 times",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
