"""Loaders and generators of data, each with its source, licence and version."""

from rankone.datasets.text import (
    BigramBaseline,
    TextDataset,
    bigram_baseline,
    python_docs,
    sample_windows,
)
from rankone.datasets.tokenizers import BytePairTokenizer, ByteTokenizer

__all__ = [
    "BigramBaseline",
    "BytePairTokenizer",
    "ByteTokenizer",
    "TextDataset",
    "bigram_baseline",
    "python_docs",
    "sample_windows",
]
