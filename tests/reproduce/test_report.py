"""The report: self-contained, complete, honest, and written whole or not at all."""

import dataclasses
import io
import json
import math
import os
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from rankone.reproduce import (
    SERIES,
    Claim,
    Failure,
    Figure,
    Passage,
    Reproduction,
    Section,
    Settings,
    Table,
    html_page,
    panel,
    read_report,
    write_report,
)
from rankone.reproduce._figures import inlined
from rankone.reproduce._page import duration, holding
from rankone.reproduce._terminal import print_reproduction

VOID = {"meta", "br", "img", "link", "hr", "input"}
NAVIGATION = {("a", "href")}


class Page(HTMLParser):
    """Elements, ids, addresses that a browser would load, and text; and that tags are closed."""

    def __init__(self, text):
        super().__init__()
        self.loaded, self.ids, self.words, self.tags, self.open = [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self._attributes(tag, attributes)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self._attributes(tag, attributes)

    def _attributes(self, tag, attributes):
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href", "srcset", "data", "poster", "action"):
                inside = value.startswith(("#", "data:"))
                if not inside and (tag, name) not in NAVIGATION:
                    self.loaded.append(value)
            if name == "style":
                self.loaded += re.findall(r"url\((?!#)[^)]*\)", value)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def drawn(label="a"):
    with panel("T", "tokens/s") as (drawing, axes):
        axes.plot([1, 2, 3], [1, 4, 9], "o-", label=label)
        axes.legend()
    return drawing


@pytest.fixture
def reproduction():
    return Reproduction(
        slug="lightning-attention-2",
        claims=(
            Claim.at_most("relative error", 1.5e-7, 2e-6, expected="0"),
            Claim.at_least("speed-up", 2.0, 4.0, note='measured <twice> & "more"'),
            Claim.increasing("rises", (1.0, math.nan, math.inf)),
        ),
        tables=(
            Table("Measured", ("T", "ms"), ((512, 1.25), (1024, None))),
            Table("Anchors", ("T", "ms"), ((8192, 17.66),), note="A100.", published=True),
        ),
        figures=(Figure.render("Speed", "Against T.", drawn(), drawn()),),
        seconds=12.5,
        settings={"random state": 0, "torch": "2", "mode": "quick"},
    )


@pytest.fixture
def page(reproduction, tmp_path):
    _, path = write_report(tmp_path, [reproduction])
    return path.read_text(encoding="utf-8")


def test_the_page_loads_nothing(page):
    parsed = Page(page)
    assert parsed.loaded == []
    assert not {"script", "link", "iframe", "object", "embed"} & set(parsed.tags)
    assert "@import" not in page
    assert re.findall(r"https?://[^\"<\s]*", page) == ["https://arxiv.org/abs/2401.04658"]
    assert "default-src 'none'" in page


def test_the_page_is_well_formed_and_its_ids_are_unique(page):
    parsed = Page(page)
    assert parsed.open == []
    assert len(parsed.ids) == len(set(parsed.ids))
    assert parsed.tags.count("svg") == 2


def test_references_inside_figures_lead_somewhere(page):
    targets = set(re.findall(r'href="#([^"]+)"', page)) | set(re.findall(r"url\(#([^)]+)\)", page))
    assert targets
    assert targets <= set(Page(page).ids)


def test_the_page_says_what_holds_and_what_does_not(page):
    parsed = Page(page)
    assert "1 of 3 claims hold" in parsed.text
    assert page.count('<span class="mark good">holds</span>') == 1
    assert page.count('<span class="mark bad">does not hold</span>') == 2


def test_published_tables_are_marked(page):
    assert re.search(r"Anchors\s*<span[^>]*>published</span>", page)
    assert not re.search(r"Measured\s*<span[^>]*>published</span>", page)
    assert "17.66" in Page(page).text


def test_text_is_escaped():
    section = Section("a", "<b>", "a < b & c", passages=(Passage("sample", "</pre><script>"),))
    parsed = Page(html_page("<i>", "", [section]))
    assert "script" not in parsed.tags
    assert "i" not in parsed.tags
    assert "</pre><script>" in parsed.text


def test_the_page_has_a_dark_palette_for_every_colour_of_the_figures(page):
    used = set(re.findall(r"var\((--[\w-]+)", page))
    dark = page[page.index("prefers-color-scheme:dark") : page.index("*{box-sizing")]
    assert {"--ink", "--series-1"} <= used
    assert all(f"{name}:" in dark for name in used)


def test_figures_keep_no_fixed_colour_of_the_palette():
    (svg,) = Figure.render("t", "c", drawn()).panels
    for colour in SERIES:
        assert not re.search(rf"(?<!, ){colour}", svg), "a colour outside var(--name, colour)"


def test_a_figure_is_drawn_the_same_every_time():
    assert Figure.render("t", "c", drawn()) == Figure.render("t", "c", drawn())


def test_a_figure_is_closed_after_rendering():
    drawing = drawn()
    Figure.render("t", "c", drawing)
    assert drawing.axes == []


def test_a_figure_alone_is_a_complete_svg():
    from xml.etree import ElementTree

    (svg,) = Figure.render("t", "c", drawn("a < b & c")).panels
    root = ElementTree.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "a < b & c" in "".join(root.itertext())
    assert "xmlns" not in inlined(svg, "p")


def test_a_figure_needs_a_panel():
    with pytest.raises(ValueError, match="at least one matplotlib figure"):
        Figure.render("t", "c")


def test_rows_fit_the_columns_of_a_table():
    with pytest.raises(ValueError, match="must have 2 cells, got 1"):
        Table("t", ("a", "b"), ((1,),))


def test_json_round_trip(reproduction, tmp_path):
    path, _ = write_report(tmp_path, [reproduction], [Failure("lightning-attention-2", "why")])
    (back,), failures = read_report(path)
    assert failures == [Failure("lightning-attention-2", "why")]
    assert math.isnan(back.claims[2].measured[1])
    assert back.claims[2].measured[2] == math.inf
    # NaN differs from itself, so the claim that holds one is compared by its other fields.
    assert back.claims[:2] == reproduction.claims[:2]
    assert dataclasses.replace(back, claims=()) == dataclasses.replace(reproduction, claims=())


def test_numpy_scalars_are_written_as_numbers(tmp_path):
    """Claims are compared and counted with NumPy, whose booleans JSON does not know."""
    claim = dataclasses.replace(Claim.exact("x", 1, 1), passed=np.bool_(True))
    table = Table("t", ("a", "b"), ((np.float32(0.5), np.int64(3)),))
    write_report(tmp_path, [Reproduction("deltanet", (claim,), (table,))])
    (found,), _ = read_report(tmp_path / "reproduction.json")
    assert found.claims[0].passed is True
    assert found.tables[0].rows == ((0.5, 3),)


def test_json_is_strict(reproduction, tmp_path):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    path, _ = write_report(tmp_path, [reproduction])
    json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_a_report_that_cannot_be_made_leaves_the_old_one(reproduction, tmp_path):
    written = write_report(tmp_path, [reproduction])
    before = [path.read_bytes() for path in written]
    broken = dataclasses.replace(reproduction, slug="no-such-method")
    with pytest.raises(ValueError, match="no method"):
        write_report(tmp_path, [broken])
    assert [path.read_bytes() for path in written] == before
    assert sorted(os.listdir(tmp_path)) == sorted(path.name for path in written)


def test_the_terminal_shows_every_claim(reproduction):
    from rich.console import Console

    console = Console(width=120, record=True, file=io.StringIO())
    print_reproduction(console, "Title", reproduction)
    text = console.export_text()
    assert text.count("does not hold") == 2
    assert "lightning-attention-2: 1 of 3 claims hold" in text
    assert "Anchors (published)" in text
    assert 'measured <twice> & "more"' in text


def test_no_claims_is_not_a_success():
    assert not Reproduction("lightning-attention-2", ()).passed


@pytest.mark.parametrize(
    ("passed", "words"),
    [
        ((True, True), "all 2 claims hold"),
        ((True, False), "1 of 2 claims hold"),
        ((True,), "the claim holds"),
        ((False,), "the claim does not hold"),
    ],
)
def test_holding_in_words(passed, words):
    claims = [Claim.exact("x", int(hold), 1) for hold in passed]
    assert holding(claims) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (1.23, "1.2 s"),
        (9.97, "10 s"),
        (48.2, "48 s"),
        (59.7, "1 min"),
        (80, "1 min 20 s"),
        (7380, "2 h 3 min"),
    ],
)
def test_durations_in_words(seconds, words):
    assert duration(seconds) == words


@dataclasses.dataclass(frozen=True)
class Scale:
    size: int


def test_settings_choose_the_scale_of_the_mode():
    scales = {"quick": Scale(1), "full": Scale(2)}
    assert Settings().scale(**scales).size == 1
    assert Settings(full=True).scale(**scales).size == 2
    assert Settings(overrides={"size": 3}).scale(**scales).size == 3


def test_unknown_overrides_are_refused():
    with pytest.raises(ValueError, match=r"fields of Scale \(size\), got sice"):
        Settings(overrides={"sice": 3}).scale(quick=Scale(1), full=Scale(2))
