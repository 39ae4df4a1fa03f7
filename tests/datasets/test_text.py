"""Text of the Python documentation, windows, and the bigram baseline."""

import itertools
import math
import platform

import numpy as np
import pytest
import torch
from rankone.datasets import bigram_baseline, python_docs, sample_windows
from rankone.datasets.text import _distinct_paragraphs, python_topics


class TestPythonDocs:
    def test_text_is_the_documentation_with_its_origin(self):
        docs = python_docs()
        text = (docs.train + docs.validation).decode()
        assert 'The "assert" statement' in text
        assert 200_000 < len(text) < 1_000_000
        assert docs.version == platform.python_version()
        assert docs.licence == "PSF-2.0"
        assert "pydoc_data" in docs.source

    def test_share_of_the_validation_text_is_as_asked(self):
        for fraction in (0.1, 0.3):
            docs = python_docs(validation_fraction=fraction)
            share = len(docs.validation) / (len(docs.validation) + len(docs.train))
            assert 0.8 * fraction < share <= fraction

    def test_no_paragraph_is_in_both_texts(self):
        def paragraphs(text):
            return {" ".join(part.split()) for part in text.decode().split("\n\n")} - {""}

        docs = python_docs()
        assert len(paragraphs(docs.validation)) > 50
        assert not paragraphs(docs.train) & paragraphs(docs.validation)

    def test_no_text_is_lost(self):
        from pydoc_data.topics import topics

        docs = python_docs()
        words = set((docs.train + docs.validation).decode().split())
        assert words == {word for topic in topics.values() for word in topic.split()}

    def test_split_is_repeatable_and_follows_the_seed(self):
        assert python_docs() == python_docs()
        assert python_docs(random_state=1).validation != python_docs().validation

    def test_repeated_paragraphs_are_kept_once(self):
        texts = _distinct_paragraphs(
            {"b": "one\n\ntwo", "a": "\ntwo\n\n\nthree  x", "c": "three x"}
        )
        assert texts == [b"two\n\nthree  x\n\n", b"one\n\n"]

    def test_fraction_out_of_range_is_named(self):
        with pytest.raises(ValueError, match=r"validation_fraction must be in \(0, 1\), got 1"):
            python_docs(validation_fraction=1)


class TestPythonTopics:
    def test_topics_stand_in_the_order_of_their_names(self):
        from pydoc_data.topics import topics

        docs = python_topics(separator="\n", ascii_only=False)
        text = (docs.train + docs.validation).decode()
        assert text == "\n".join(topics[name] for name in sorted(topics))
        assert docs.version == platform.python_version()

    def test_bytes_are_characters_in_ascii(self):
        ascii_only, whole = python_topics(), python_topics(ascii_only=False)
        text = (whole.train + whole.validation).decode()
        replaced = "".join(letter if ord(letter) < 128 else "?" for letter in text)
        assert (ascii_only.train + ascii_only.validation).decode() == replaced
        assert len(ascii_only.train) == int(0.9 * len(text))

    def test_fraction_out_of_range_is_named(self):
        with pytest.raises(ValueError, match=r"validation_fraction must be in \(0, 1\), got 0"):
            python_topics(validation_fraction=0)


class TestSampleWindows:
    def test_windows_are_places_of_the_text_and_reach_both_ends(self):
        text = torch.arange(20) + 100
        starts = set()
        for batch in itertools.islice(sample_windows(text, 18, 5, random_state=0), 20):
            assert batch.shape == (5, 18)
            assert (batch.diff(dim=1) == 1).all()
            starts |= set((batch[:, 0] - 100).tolist())
        assert starts == {0, 1, 2}

    def test_same_seed_gives_the_same_windows(self):
        text = torch.arange(1000)

        def first(seed):
            return next(sample_windows(text, 4, 8, random_state=seed))

        assert torch.equal(first(7), first(7))
        assert not torch.equal(first(7), first(8))

    def test_sizes_that_do_not_fit_are_named(self):
        with pytest.raises(ValueError, match=r"at least length=9 entries, got shape \(8,\)"):
            sample_windows(torch.arange(8), 9, 1)
        with pytest.raises(
            ValueError, match="length and batch_size must be at least 1, got 4 and 0"
        ):
            sample_windows(torch.arange(8), 4, 0)


class TestBigramBaseline:
    train = (b"the cat sat on the mat; the dog ate the rat. " * 40) + bytes(range(32, 127))
    validation = b"the rat sat on the dog. a zebra ate it?"

    def score(self, smoothing):
        """Cross-entropy under the formula, byte by byte."""
        prior = (np.bincount(list(self.train), minlength=256) + 1 / 256) / (len(self.train) + 1)
        total = 0.0
        for first, second in itertools.pairwise(self.validation):
            pairs = sum(pair == (first, second) for pair in itertools.pairwise(self.train))
            of_first = self.train[:-1].count(bytes([first]))
            total -= math.log((pairs + smoothing * prior[second]) / (of_first + smoothing))
        return total / (len(self.validation) - 1)

    def test_cross_entropy_is_that_of_the_formula(self):
        result = bigram_baseline(self.train, self.validation)
        assert result.nats_per_byte == pytest.approx(self.score(result.smoothing), rel=1e-12)

    def test_smoothing_depends_on_the_training_text_alone(self):
        chosen = bigram_baseline(self.train, self.validation).smoothing
        assert bigram_baseline(self.train, b"\x00\xff" * 30).smoothing == chosen

    def test_chosen_smoothing_is_inside_the_range_tried_and_near_the_best(self):
        docs = python_docs()
        result = bigram_baseline(docs.train, docs.validation)
        assert 1 < result.smoothing < 100
        # Less than the entropy of single bytes and more than what is known of English text.
        assert 2.0 < result.nats_per_byte < 3.0

    def test_deterministic_text_costs_nothing_and_random_text_log_256(self):
        assert bigram_baseline(b"ab" * 5000, b"ab" * 100).nats_per_byte < 1e-3
        noise = np.random.default_rng(0).integers(256, size=200_000, dtype=np.uint8).tobytes()
        cost = bigram_baseline(noise[:100_000], noise[100_000:]).nats_per_byte
        assert cost == pytest.approx(math.log(256), rel=2e-3)

    def test_short_texts_are_named(self):
        with pytest.raises(ValueError, match="validation must have at least 2 bytes, got 1"):
            bigram_baseline(b"abc", b"a")
