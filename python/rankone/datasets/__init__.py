"""Loaders and generators of data, each with its source, licence and version."""

from rankone.datasets.recall import RecallExamples, mqar, recall_with_overwrite
from rankone.datasets.series import SeriesDataset, hourly_traffic
from rankone.datasets.survival import (
    SurvivalDataset,
    breast_cancer_gbsg2,
    veterans_lung_cancer,
)
from rankone.datasets.tables import TableDataset, r_table
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
    "RecallExamples",
    "SeriesDataset",
    "SurvivalDataset",
    "TableDataset",
    "TextDataset",
    "bigram_baseline",
    "breast_cancer_gbsg2",
    "hourly_traffic",
    "mqar",
    "python_docs",
    "r_table",
    "recall_with_overwrite",
    "sample_windows",
    "veterans_lung_cancer",
]
