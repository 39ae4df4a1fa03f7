"""Tokenizers: nothing is lost, and merges are those of the definition."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from rankone.datasets import BytePairTokenizer, ByteTokenizer, python_docs

TEXTS = [
    "",
    "plain words and  two spaces\n\n\ttabs",
    "naïve façade, 東京, \U0001f600!",
    "x_1 == 'aaaa' # 12345 --> ...",
]


@pytest.fixture(scope="module")
def tokenizer():
    return BytePairTokenizer.train(python_docs().train[:40_000], 400)


@pytest.mark.parametrize("text", TEXTS)
def test_decoding_gives_the_text_back(tokenizer, text):
    for each in (ByteTokenizer(), tokenizer):
        tokens = each.encode(text)
        assert tokens.dtype == torch.int64
        assert each.decode(tokens) == text


def test_every_byte_string_goes_through(tokenizer):
    data = np.random.default_rng(0).integers(256, size=5000, dtype=np.uint8).tobytes()
    for each in (ByteTokenizer(), tokenizer):
        assert each.decode_bytes(each.encode(data)) == data


def test_byte_tokens_are_the_bytes():
    assert ByteTokenizer().encode("é").tolist() == [0xC3, 0xA9]
    assert ByteTokenizer().vocab_size == 256
    assert ByteTokenizer().decode(torch.tensor([0xC3])) == "\ufffd"


def merges_by_definition(text, count):
    """Join the most frequent pair of one unbroken word, written out."""
    symbols, merges = list(text), []
    for token in range(256, 256 + count):
        best = None
        pairs = Counter(pairwise(symbols))
        # Ties go to the pair of smaller tokens.
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        joined, index = [], 0
        while index < len(symbols):
            if tuple(symbols[index : index + 2]) == best:
                joined.append(token)
                index += 2
            else:
                joined.append(symbols[index])
                index += 1
        symbols = joined
    return merges, symbols


def test_merges_are_those_of_the_definition():
    letters = np.random.default_rng(1).choice(list(b"aab"), size=300).astype(np.uint8).tobytes()
    merges, symbols = merges_by_definition(letters, 12)
    tokenizer = BytePairTokenizer.train(letters, 268)
    assert tokenizer.merges == merges
    assert tokenizer.encode(letters).tolist() == symbols


def test_merges_shorten_the_text_and_stay_inside_words(tokenizer):
    text = python_docs().validation
    assert len(tokenizer.encode(text)) < 0.6 * len(text)
    assert tokenizer.vocab_size == 400
    for token in range(256, 400):
        piece = tokenizer.decode_bytes(torch.tensor([token]))
        assert piece.isspace() or b" " not in piece[1:]


def test_text_without_repeats_has_no_merges():
    assert BytePairTokenizer.train(b"abc", 300).vocab_size == 256
    assert BytePairTokenizer.train(b"", 300).vocab_size == 256


def test_values_out_of_range_are_named(tokenizer):
    with pytest.raises(ValueError, match="vocab_size must be at least 256, got 255"):
        BytePairTokenizer.train(b"abc", 255)
    with pytest.raises(ValueError, match="merges must join earlier tokens"):
        BytePairTokenizer([(256, 97)])
    for each, size in ((ByteTokenizer(), 255), (tokenizer, 399)):
        with pytest.raises(ValueError, match=f"tokens must be between 0 and {size}, got -1 to"):
            each.decode(torch.tensor([-1, 3]))
        with pytest.raises(ValueError, match="tokens must be 1-D"):
            each.decode(torch.zeros(1, 1, dtype=torch.int64))
