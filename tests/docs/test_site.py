"""The documentation site builds in strict mode, offline, and every part of it holds together."""

import importlib
import json
import os
import re
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from rankone import catalog

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
RUNS = DOCS / "runs"

# Elements that make a browser load something.
LOADED = {"audio": "src", "embed": "src", "iframe": "src", "img": "src", "object": "data",
          "script": "src", "source": "src", "video": "src"}  # fmt: skip
EXTERNAL = re.compile(r"^(?:[a-z]+:)?//", flags=re.IGNORECASE)


class Elements(HTMLParser):
    """What a page loads, links to, and can be linked to at."""

    def __init__(self, text: str):
        super().__init__()
        self.ids, self.links, self.loaded, self.rows = set(), set(), set(), 0
        self._claims = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.ids |= {attributes[name] for name in ("id", "name") if attributes.get(name)}
        if tag == "a" and attributes.get("href"):
            self.links.add(attributes["href"])
        if tag == "link" and "canonical" not in attributes.get("rel", ""):
            self.loaded.add(attributes["href"])
        if attributes.get(LOADED.get(tag)):
            self.loaded.add(attributes[LOADED[tag]])
        if tag == "table":
            self._claims = attributes.get("class") == "rk-claims"
        if tag == "tr" and self._claims and attributes.get("class"):
            self.rows += 1

    def handle_endtag(self, tag):
        if tag == "table":
            self._claims = False


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict",
         "-f", DOCS / "mkdocs.yml", "-d", folder],
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return folder


@pytest.fixture(scope="module")
def elements(site):
    """The elements of each page, read once."""

    @cache
    def read(path: Path) -> Elements:
        return Elements(path.read_text(encoding="utf-8"))

    return read


def html_files(site: Path) -> list[Path]:
    return sorted(path for path in site.rglob("*.html") if path.name != "404.html")


def test_nothing_is_loaded_from_elsewhere(site, elements):
    external = {
        (path.name, address)
        for path in html_files(site)
        for address in elements(path).loaded
        if EXTERNAL.match(address)
    }
    assert not external
    for sheet in site.rglob("*.css"):
        style = sheet.read_text(encoding="utf-8")
        addresses = re.findall(r"url\(['\"]?([^)'\"]+)|@import\s+['\"]([^'\"]+)", style)
        assert not [address for pair in addresses for address in pair if EXTERNAL.match(address)]


def test_every_internal_link_and_anchor_resolves(site, elements):
    broken = []
    for path in html_files(site):
        for address in elements(path).links | elements(path).loaded:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                broken.append((path.relative_to(site).as_posix(), address))
                continue
            anchored = parts.fragment and parts.fragment != "__skip" and target.suffix == ".html"
            if anchored and unquote(parts.fragment) not in elements(target).ids:
                broken.append((path.relative_to(site).as_posix(), address))
    assert not broken


def test_every_public_name_has_an_entry(site, elements):
    missing = []
    for page in docs_module("sitegen.api").available():
        ids = elements(site / "api" / f"{page.name}.html").ids
        for path in (page.package, *page.modules):
            for name in getattr(importlib.import_module(path), "__all__", ()):
                value = catalog.resolve(f"{path}.{name}")
                if not isinstance(value, type(sys)) and not documented(path, name, ids):
                    missing.append(f"{path}.{name}")
    assert not missing


def documented(path: str, name: str, ids: set[str]) -> bool:
    if f"{path}.{name}" in ids:
        return True
    # What a module shares with its package is documented there.
    value = catalog.resolve(f"{path}.{name}")
    parent = path.rpartition(".")[0]
    shared = getattr(importlib.import_module(parent), name, None) is value
    return shared and f"{parent}.{name}" in ids


def test_every_public_package_has_a_page():
    modules = set()
    for page in docs_module("sitegen.api").available():
        modules |= {page.package, *page.modules}
    packages = {
        ".".join(("rankone", *path.parent.relative_to(ROOT / "python" / "rankone").parts))
        for path in (ROOT / "python" / "rankone").rglob("__init__.py")
    }
    assert packages - modules <= {"rankone", "rankone.demo"}


def test_every_entry_point_of_the_catalogue_is_linked(site, elements):
    links = elements(site / "catalogue.html").links
    for method in catalog.methods():
        assert f"gallery/{method.slug}.html" in links
        for name in method.entry_points:
            assert any(link.endswith(f"#{name}") for link in links), name


def test_every_method_has_a_stored_run():
    assert {path.stem for path in RUNS.glob("*.json")} == {
        method.slug for method in catalog.methods()
    }


def test_gallery_pages_show_every_claim(site, elements):
    for method in catalog.methods():
        page = elements(site / "gallery" / f"{method.slug}.html")
        run = json.loads((RUNS / f"{method.slug}.json").read_text(encoding="utf-8"))
        assert page.rows == len(run["claims"]), method.slug


def test_claims_that_fail_are_listed_on_the_index(site, elements):
    failing = sum(
        not claim["passed"]
        for path in RUNS.glob("*.json")
        for claim in json.loads(path.read_text(encoding="utf-8"))["claims"]
    )
    assert elements(site / "gallery" / "index.html").rows == failing


def test_a_method_without_a_run_has_a_page_that_says_so(monkeypatch, tmp_path):
    gallery = docs_module("sitegen.gallery")
    monkeypatch.setattr(gallery, "RUNS", tmp_path)
    gallery.stored.cache_clear()
    try:
        assert "No run is stored" in gallery.markdown(catalog.methods()[0])
        assert "0 of 0 claims" in gallery.index()
    finally:
        gallery.stored.cache_clear()


@pytest.mark.parametrize("latex", [r"\nosuchcommand x", r"\frac{1", r"a & b"])
def test_a_formula_that_cannot_be_converted_is_named(latex):
    mathematics = docs_module("sitegen.mathematics")
    with pytest.raises(mathematics.FormulaError) as raised:
        mathematics.with_mathml(f'<span class="arithmatex">\\({latex}\\)</span>')
    assert repr(latex) in str(raised.value)


def test_limits_stand_below_their_operator_in_displayed_formulas():
    mathml = docs_module("sitegen.mathematics").mathml
    formula = r"\arg\min_{x \in S_{1}} f(x)"
    assert "<munder><mo" in mathml(formula, display=True)
    assert "<munder>" not in mathml(formula)


def test_stored_figures_are_smaller_and_draw_the_same():
    from rankone.reproduce import Figure, panel

    svg = docs_module("sitegen.svg")
    with panel("time, s", "value") as (drawing, axes):
        axes.plot([0, 1, 2], [0.123456, 3, 1], marker="o", label="measured")
        axes.legend()
    full = Figure.render("t", "c", drawing).panels[0]
    small = svg.small(full)
    assert len(small) < 0.7 * len(full)
    assert svg.small(small) == small
    for fact in ("time, s", "measured", "var(--series-1"):
        assert full.count(fact) == small.count(fact)
    assert len(re.findall("<use", small)) == len(re.findall("<use", full))
    referred = set(re.findall(r'href="#([^"]+)|url\(#([^)]+)', small))
    ids = set(re.findall(r'\bid="([^"]+)"', small))
    assert {first or second for first, second in referred} == ids
    exact, rounded = (
        [float(number) for number in re.findall(r'<use [^>]*\bx="([^"]+)"', text)]
        for text in (full, small)
    )
    assert exact == pytest.approx(rounded, abs=0.0051)  # hundredths of a point


def test_a_report_is_stored_as_it_was_measured(tmp_path):
    from rankone.reproduce import Claim, Reproduction, Table, read_report, write_report

    runs = [
        Reproduction(
            method.slug,
            (Claim.at_most("error", float("nan"), 1.0), Claim.exact("count", 3, 3)),
            (Table("t", ("a",), ((None,), (float("inf"),)), published=True),),
            seconds=1.5,
            settings={"mode": "quick"},
        )
        for method in catalog.methods()[:2]
    ]
    report, _ = write_report(tmp_path / "report", runs)
    script = docs_module("store_runs")
    assert script.main([str(report), str(tmp_path / "runs")]) == 0
    assert sorted(path.stem for path in (tmp_path / "runs").iterdir()) == sorted(
        run.slug for run in runs
    )
    for run in read_report(report)[0]:
        text = (tmp_path / "runs" / f"{run.slug}.json").read_text(encoding="utf-8")
        assert json.loads(text) == run.to_dict()
    assert script.main([str(tmp_path / "none.json")]) == 1


def docs_module(name: str):
    """A module of the site's own code."""
    if str(DOCS) not in sys.path:
        sys.path.append(str(DOCS))
    return importlib.import_module(name)
