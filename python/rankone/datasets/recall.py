"""Recall tasks: key-value pairs to remember, then keys whose value is asked for.

Token 0 is filler, [1, vocab_size / 2) are keys and [vocab_size / 2, vocab_size) are values. A
sequence opens with the pairs, key and value side by side; then every second position is a slot
that holds a key or filler. The label of a queried key is its value; everything else is ignored.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FILLER = 0

# Label of positions that ask for nothing, as torch's cross-entropy has it.
IGNORED_LABEL = -100


class RecallExamples(NamedTuple):
    """Sequences of a recall task.

    Attributes:
        tokens: (num_examples, seq_len) int64.
        labels: (num_examples, seq_len) int64; the answer stands at the position of the query, and
            -100 where nothing is asked.
    """

    tokens: NDArray[np.int64]
    labels: NDArray[np.int64]


def mqar(
    num_examples: int,
    seq_len: int,
    num_kv_pairs: int,
    vocab_size: int,
    seed: int,
    power_a: float = 0.01,
) -> RecallExamples:
    """Multi-query associative recall: every pair is written once and asked for once.

    Args:
        num_examples: number of sequences.
        seq_len: tokens a sequence, at least 4 * ``num_kv_pairs``.
        num_kv_pairs: pairs a sequence; its keys are all different, and so are its values.
        vocab_size: number of tokens, filler included.
        seed: of every draw.
        power_a: the j-th slot after the pairs is drawn with probability in proportion to
            j^(power_a - 1), so small values ask soon after the pairs.

    Returns:
        :class:`RecallExamples`.

    Raises:
        ValueError: for sizes below 1, too short sequences or too small vocabularies.

    Source: "Zoology: Measuring and Improving Recall in Efficient Language Models",
    arXiv 2312.04927.

    Example:
        >>> from rankone.datasets import mqar
        >>> tokens, labels = mqar(2, 16, 3, 20, seed=0)
        >>> tokens.shape, (labels >= 0).sum(1).tolist()
        ((2, 16), [3, 3])
    """
    _check_sizes(num_examples, seq_len, num_kv_pairs, 1, vocab_size, "num_kv_pairs")
    rng = np.random.default_rng(seed)
    keys = _draw_apart(rng, num_examples, num_kv_pairs, 1, vocab_size // 2)
    values = _draw_apart(rng, num_examples, num_kv_pairs, vocab_size // 2, vocab_size)
    pairs = np.stack([keys, values], axis=2).reshape(num_examples, -1)
    slot = np.arange(1, (seq_len - pairs.shape[1]) // 2 + 1, dtype=np.float64)
    return _with_queries(rng, seq_len, pairs, keys, values, (power_a - 1.0) * np.log(slot))


def recall_with_overwrite(
    num_examples: int,
    seq_len: int,
    num_keys: int,
    vocab_size: int,
    seed: int,
    rounds: int = 2,
) -> RecallExamples:
    """Recall of the last value of keys that are written several times.

    In every round each key is written once, in a fresh order and with a value that occurs nowhere
    else in the sequence; then each key is asked for once, at a slot drawn uniformly.

    Args:
        num_examples: number of sequences.
        seq_len: tokens a sequence, at least 2 * ``num_keys`` * (``rounds`` + 1).
        num_keys: different keys a sequence.
        vocab_size: number of tokens, filler included.
        seed: of every draw.
        rounds: times that each key is written.

    Returns:
        :class:`RecallExamples`; the label is the value of the last round.

    Raises:
        ValueError: for sizes below 1, too short sequences or too small vocabularies.

    Example:
        >>> from rankone.datasets import recall_with_overwrite
        >>> tokens, labels = recall_with_overwrite(1, 24, 2, 20, seed=0, rounds=3)
        >>> int((tokens == tokens[0, 0]).sum())
        4
    """
    _check_sizes(num_examples, seq_len, num_keys, rounds, vocab_size, "num_keys")
    rng = np.random.default_rng(seed)
    keys = _draw_apart(rng, num_examples, num_keys, 1, vocab_size // 2)
    values = _draw_apart(rng, num_examples, rounds * num_keys, vocab_size // 2, vocab_size)
    values = values.reshape(num_examples, rounds, num_keys)
    order = _orders(rng, num_examples * rounds, num_keys).reshape(values.shape)
    written = np.take_along_axis(np.broadcast_to(keys[:, None], values.shape), order, axis=2)
    pairs = np.stack([written, np.take_along_axis(values, order, axis=2)], axis=3)
    pairs = pairs.reshape(num_examples, -1)
    slots = (seq_len - pairs.shape[1]) // 2
    return _with_queries(rng, seq_len, pairs, keys, values[:, -1], np.zeros(slots))


def _check_sizes(
    num_examples: int, seq_len: int, num_keys: int, rounds: int, vocab_size: int, keys_name: str
) -> None:
    for name, value in (("num_examples", num_examples), (keys_name, num_keys), ("rounds", rounds)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    shortest = 2 * num_keys * (rounds + 1)
    if seq_len < shortest:
        raise ValueError(
            f"seq_len must be at least {shortest} to write {num_keys} keys {rounds} times and ask "
            f"for each in every second position, got {seq_len}"
        )
    keys, values = vocab_size // 2 - 1, vocab_size - vocab_size // 2
    if keys < num_keys or values < num_keys * rounds:
        raise ValueError(
            f"vocab_size must leave at least {num_keys} keys and {num_keys * rounds} values, "
            f"got {vocab_size}, which leaves {max(keys, 0)} and {values}"
        )


def _orders(rng: np.random.Generator, rows: int, size: int) -> NDArray[np.int64]:
    """One random order of range(size) a row."""
    return np.argsort(rng.random((rows, size)), axis=1)


def _draw_apart(
    rng: np.random.Generator, rows: int, count: int, low: int, high: int
) -> NDArray[np.int64]:
    """(rows, count) of range(low, high), uniformly, without repetition within a row."""
    return low + _orders(rng, rows, high - low)[:, :count]


def _with_queries(
    rng: np.random.Generator,
    seq_len: int,
    pairs: NDArray[np.int64],
    keys: NDArray[np.int64],
    values: NDArray[np.int64],
    slot_log_weights: NDArray[np.float64],
) -> RecallExamples:
    """``pairs``, then each key in a slot drawn without replacement by the weights."""
    rows, count = keys.shape
    # The order of log-weight + Gumbel noise is that of draws without replacement.
    noise = rng.gumbel(size=(rows, slot_log_weights.size))
    slot = np.argsort(-(slot_log_weights + noise), axis=1)[:, :count]
    position = pairs.shape[1] + 2 * slot
    tokens = np.full((rows, seq_len), FILLER, dtype=np.int64)
    labels = np.full((rows, seq_len), IGNORED_LABEL, dtype=np.int64)
    tokens[:, : pairs.shape[1]] = pairs
    np.put_along_axis(tokens, position, keys, axis=1)
    np.put_along_axis(labels, position, values, axis=1)
    return RecallExamples(tokens, labels)
