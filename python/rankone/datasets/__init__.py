"""Loaders and generators of data, each with its source, licence and version."""

from rankone._namespace import public_names
from rankone.datasets.biology import SequenceDataset, load_dna_contig, load_proteome, load_smiles
from rankone.datasets.long_horizon import LONG_HORIZON_FILES, long_horizon_series
from rankone.datasets.pretrained import PretrainedNetwork, load_minilm, load_smollm2
from rankone.datasets.prices import nasdaq_prices, sp500_prices, vix_prices
from rankone.datasets.recall import RecallExamples, mqar, recall_with_overwrite
from rankone.datasets.series import (
    SeriesDataset,
    electricity_load,
    exchange_rates,
    hourly_traffic,
    typical_weather,
)
from rankone.datasets.spectra import (
    HyperspectralCube,
    SpectralLibrary,
    cube_files,
    hyperspectral_cube,
    land_cover_spectra,
)
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
    python_topics,
    sample_windows,
)
from rankone.datasets.tokenizers import BytePairTokenizer, ByteTokenizer
from rankone.datasets.warfarin import warfarin_doses

__all__ = [
    "LONG_HORIZON_FILES",
    "BigramBaseline",
    "BytePairTokenizer",
    "ByteTokenizer",
    "HyperspectralCube",
    "PretrainedNetwork",
    "RecallExamples",
    "SequenceDataset",
    "SeriesDataset",
    "SpectralLibrary",
    "SurvivalDataset",
    "TableDataset",
    "TextDataset",
    "bigram_baseline",
    "breast_cancer_gbsg2",
    "cube_files",
    "electricity_load",
    "exchange_rates",
    "hourly_traffic",
    "hyperspectral_cube",
    "land_cover_spectra",
    "load_dna_contig",
    "load_minilm",
    "load_proteome",
    "load_smiles",
    "load_smollm2",
    "long_horizon_series",
    "mqar",
    "nasdaq_prices",
    "python_docs",
    "python_topics",
    "r_table",
    "recall_with_overwrite",
    "sample_windows",
    "sp500_prices",
    "typical_weather",
    "veterans_lung_cancer",
    "vix_prices",
    "warfarin_doses",
]


def __dir__() -> list[str]:
    return public_names(globals())
