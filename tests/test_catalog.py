"""The catalogue: what it names exists, and the README shows it as it is."""

import dataclasses
import importlib
import inspect
import re
from pathlib import Path

import pytest
from rankone import catalog

README = Path(__file__).resolve().parents[1] / "README.md"


@pytest.fixture(params=catalog.methods(), ids=lambda entry: entry.slug)
def entry(request):
    return request.param


def test_every_entry_point_is_callable(entry):
    assert entry.entry_points
    for name in entry.entry_points:
        assert callable(catalog.resolve(name)), name


def test_every_method_has_a_reproduction(entry):
    module = importlib.import_module(entry.module)
    assert list(inspect.signature(module.run).parameters) == ["settings"]


def test_every_reproduction_module_is_of_a_method():
    folder = Path(importlib.import_module("rankone.reproduce").__file__).parent
    modules = {path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")}
    assert modules == {entry.module.rpartition(".")[2] for entry in catalog.methods()}


def test_slugs_are_unique_and_fit_file_names(entry):
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", entry.slug)
    assert sum(other.slug == entry.slug for other in catalog.methods()) == 1


def test_papers_are_cited_by_their_arxiv_identifier(entry):
    if entry.slug == "batter-impact":  # its identifier is not known
        assert entry.paper.arxiv is entry.paper.url is None
        assert entry.paper.link == entry.paper.reference == entry.paper.title
        return
    assert re.fullmatch(r"\d{4}\.\d{4,5}", entry.paper.arxiv)
    assert entry.paper.url == f"https://arxiv.org/abs/{entry.paper.arxiv}"
    assert entry.paper.arxiv in entry.paper.reference


def test_lightning_attention_is_the_first_method():
    assert catalog.methods()[0].slug == "lightning-attention-2"


def test_methods_cannot_be_changed(entry):
    with pytest.raises(dataclasses.FrozenInstanceError):
        entry.slug = "other"


def test_a_method_is_found_by_its_slug(entry):
    assert catalog.method(entry.slug) is entry


def test_an_unknown_slug_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'lightning-attention-2'"):
        catalog.method("lightening-attention")


def test_a_slug_like_no_other_points_to_the_list():
    with pytest.raises(ValueError, match="`rankone methods` lists them"):
        catalog.method("zzz")


def test_resolve_says_when_there_is_nothing():
    with pytest.raises(ImportError):
        catalog.resolve("rankone.ops.no_such_function")


def test_the_table_has_one_row_a_method():
    lines = catalog.catalog_table().splitlines()
    assert len(lines) == 2 + len(catalog.methods())
    columns = {line.replace(r"\|", "").count("|") for line in lines}
    assert len(columns) == 1
    for entry, line in zip(catalog.methods(), lines[2:], strict=True):
        assert f"`{entry.slug}`" in line
        assert entry.paper.link in line


def test_the_readme_shows_the_current_table():
    text = README.read_text(encoding="utf-8")
    assert catalog.updated_readme(text) == text, "run `rankone methods --update README.md`"


def test_only_what_is_between_the_markers_is_renewed(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(
        f"before\n{catalog.TABLE_BEGIN}\nthe table of before\n{catalog.TABLE_END}\nafter\n"
    )
    assert catalog.update_readme(readme)
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert catalog.catalog_table() in text
    assert "the table of before" not in text
    assert not catalog.update_readme(readme)


@pytest.mark.parametrize(
    "text",
    [
        "no markers",
        catalog.TABLE_BEGIN,
        f"{catalog.TABLE_END}\n{catalog.TABLE_BEGIN}",
        2 * f"{catalog.TABLE_BEGIN}\n{catalog.TABLE_END}\n",
    ],
)
def test_a_readme_without_its_markers_is_refused(text):
    with pytest.raises(ValueError, match="catalogue"):
        catalog.updated_readme(text)
