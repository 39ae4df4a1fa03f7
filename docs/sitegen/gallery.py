"""The gallery: one page a reproduction, written from its stored run, and an index of all.

A stored run is one entry of ``reproduction.json`` under ``docs/runs``; a method without one gets a
page that says so. Figures are put into the finished pages, after the search index was written, so
that tick labels are not found by a search.
"""

from __future__ import annotations

import json
import re
from functools import cache
from html import escape
from itertools import groupby
from pathlib import Path

from rankone import catalog
from rankone.reproduce import Claim, Figure, Reproduction, Table, shown
from rankone.reproduce._page import duration, holding
from rankone.reproduce._reproduction import NOT_MEASURED, TABLE_DIGITS

from sitegen import catalogue, svg

RUNS = Path(__file__).parents[1] / "runs"

_SHORT = 32  # characters of a cell that is never broken over lines
_PLACE = re.compile(r"<!-- figure:([a-z0-9-]+):(\d+|card) -->")
_PUBLISHED = (
    '<p class="rk-note"><span class="rk-badge">published</span> '
    "Quoted from a publication, not measured here.</p>",
    "",
)
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>$|#~^])")


@cache
def stored(slug: str) -> Reproduction | None:
    """The stored run of a method, or None."""
    path = RUNS / f"{slug}.json"
    if not path.is_file():
        return None
    return Reproduction.from_dict(json.loads(path.read_text(encoding="utf-8")))


def command(run: Reproduction) -> str:
    """What repeats a run."""
    options = " --full" if run.settings.get("mode") == "full" else ""
    device = run.settings.get("device", "cpu")
    options += f" --device {device}" if device != "cpu" else ""
    seed = run.settings.get("random state", 0)
    options += f" --random-state {seed}" if seed else ""
    return f"rankone reproduce {run.slug}{options}"


def markdown(method: catalog.Method) -> str:
    """The page of one method."""
    run = stored(method.slug)
    parts = [f"# {method.title}", "", catalogue.paper(method.paper), ""]
    if run is None:
        parts += [
            '!!! warning "No run is stored"',
            "",
            "    Nothing was measured for this page.",
            "",
            *_again(f"rankone reproduce {method.slug}"),
        ]
        return "\n".join([*parts, *_code(method)])
    facts = [f"<b>{_state(run)}</b>", f"{run.settings.get('mode', 'quick')} mode"]
    facts.append(f"took {duration(run.seconds)}")
    parts += [f'<p class="rk-facts">{" · ".join(facts)}</p>', ""]
    parts += ["## Claims", "", _claims(run.claims), ""]
    if run.figures:
        parts += ["## Figures", ""]
        for number, figure in enumerate(run.figures):
            parts += [f"### {_escaped(figure.title)}", ""]
            parts += [
                f'<figure class="rk-figure"><!-- figure:{run.slug}:{number} -->'
                f"<figcaption>{escape(figure.caption)}</figcaption></figure>",
                "",
            ]
    if run.tables:
        parts += ["## Tables", ""]
        for table in run.tables:
            parts += _table(table)
    parts += _again(command(run))
    parts += _settings(run)
    return "\n".join([*parts, *_code(method)])


def index() -> str:
    """The page of all reproductions, and of the claims that do not hold."""
    methods = catalog.methods()
    runs = [run for method in methods if (run := stored(method.slug))]
    claims = [claim for run in runs for claim in run.claims]
    held = sum(claim.passed for claim in claims)
    seconds = sum(run.seconds for run in runs)
    parts = [
        "---",
        "hide: [toc]",
        "---",
        "",
        "# Gallery",
        "",
        f"What each paper claims and what came out here: {held} of {len(claims)} claims hold in "
        f"{len(runs)} reproductions, which took {duration(seconds)} together. The modes are those "
        "of `rankone reproduce`: quick fits in about a minute on two cores, full is the paper's "
        "scale. [Those that do not hold](#what-does-not-hold) are listed below.",
        "",
    ]
    for field, group in groupby(methods, key=lambda method: method.field):
        parts += [f"## {field[0].upper()}{field[1:]}", "", '<div class="rk-cards">']
        parts += [_card(method) for method in group]
        parts += ["</div>", ""]
    return "\n".join([*parts, *_failing(methods)])


def _card(method: catalog.Method) -> str:
    run = stored(method.slug)
    picture = f"<!-- figure:{method.slug}:card -->" if run and run.figures else ""
    state = _state(run) if run else "no run is stored"
    took = f" · {duration(run.seconds)}" if run else ""
    return (
        f'<a class="rk-card" href="{method.slug}.html">'
        f'<span class="rk-thumbnail">{picture}</span>'
        f'<span class="rk-card-title">{escape(method.title)}</span>'
        f'<span class="rk-card-facts">{state}{took}</span></a>'
    )


def _state(run: Reproduction) -> str:
    kind = "good" if run.passed else "bad"
    return f'<span class="rk-mark {kind}">{escape(holding(run.claims))}</span>'


def _failing(methods: tuple[catalog.Method, ...]) -> list[str]:
    parts = ["## What does not hold", ""]
    failing = [
        (method, claim)
        for method in methods
        if (run := stored(method.slug))
        for claim in run.claims
        if not claim.passed
    ]
    if not failing:
        return [*parts, "Every claim of the stored runs holds."]
    rows = "".join(
        f'<tr class="bad"><td><a href="{method.slug}.html">{escape(method.title)}</a></td>'
        f"{_claim_cells(claim)}</tr>"
        for method, claim in failing
    )
    parts += [
        "A claim that does not hold is shown as it came out; its page says under which conditions.",
        "",
        _claims_table(("method", "claim", "expected", "tolerance", "measured"), rows),
    ]
    return parts


def _claims(claims: tuple[Claim, ...]) -> str:
    rows = []
    for claim in claims:
        kind, word = ("good", "holds") if claim.passed else ("bad", "does not hold")
        rows.append(
            f'<tr class="{kind}">{_claim_cells(claim)}'
            f'<td data-label="result"><span class="rk-mark {kind}">{word}</span></td></tr>'
        )
    return _claims_table(("claim", "expected", "tolerance", "measured", "result"), "".join(rows))


def _claim_cells(claim: Claim) -> str:
    note = f'<div class="rk-note">{escape(claim.note)}</div>' if claim.note else ""
    return (
        f'<td class="rk-statement">{escape(claim.statement)}{note}</td>'
        f'<td data-label="expected">{escape(claim.expected)}</td>'
        f'<td data-label="tolerance">{escape(claim.tolerance)}</td>'
        f'<td data-label="measured"><b>{escape(shown(claim.measured))}</b></td>'
    )


def _claims_table(columns: tuple[str, ...], rows: str) -> str:
    headings = "".join(f"<th>{name}</th>" for name in columns)
    return (
        f'<table class="rk-claims"><thead><tr>{headings}</tr></thead><tbody>{rows}</tbody></table>'
    )


def _table(table: Table) -> list[str]:
    headings = "".join(
        f"<th{_numeric(row[place] for row in table.rows)}>{escape(name)}</th>"
        for place, name in enumerate(table.columns)
    )
    rows = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in table.rows)
    parts = [
        f"### {_escaped(table.title)}",
        "",
        *(_PUBLISHED if table.published else ()),
        f'<div class="rk-scroll" tabindex="0"><table class="rk-table"><thead><tr>{headings}</tr>'
        f"</thead><tbody>{rows}</tbody></table></div>",
        "",
    ]
    return [*parts, f'<p class="rk-note">{escape(table.note)}</p>', ""] if table.note else parts


def _is_number(cell: object) -> bool:
    return cell is None or (isinstance(cell, int | float) and not isinstance(cell, bool))


def _numeric(cells: object) -> str:
    return ' class="rk-number"' if all(_is_number(cell) for cell in cells) else ""


def _cell(cell: object) -> str:
    if cell is None:
        return f'<td class="rk-number">{NOT_MEASURED}</td>'
    if _is_number(cell):
        return f'<td class="rk-number">{shown(cell, TABLE_DIGITS)}</td>'
    text = shown(cell) if isinstance(cell, tuple) else str(cell)
    short = ' class="rk-short"' if len(text) <= _SHORT else ""
    return f"<td{short}>{escape(text)}</td>"


def _again(line: str) -> list[str]:
    return ["## Run it again", "", "```console", f"$ {line}", "```", ""]


def _settings(run: Reproduction) -> list[str]:
    rows = "".join(
        f"<dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd>"
        for name, value in run.settings.items()
    )
    return [
        f'<details class="rk-settings"><summary>How it was run</summary><dl>{rows}</dl></details>',
        "",
    ]


def _code(method: catalog.Method) -> list[str]:
    links = [f"- {catalogue.entry_link(name)}" for name in method.entry_points]
    related = f"[The guide to {method.field}](../guides/{catalogue.guide(method.field)})"
    if method.family:
        page = method.family.replace("_", "-")
        related += f" and [the kernel](../kernels/{page}.md)"
    return ["## In the library", "", *links, "", f"{related}.", ""]


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text)


def with_figures(page: str) -> str:
    """The HTML of a page with every figure in its place."""

    def figure(match: re.Match[str]) -> str:
        run = stored(match[1])
        assert run is not None
        if match[2] == "card":
            first = run.figures[0]
            return svg.inline(first.panels[0], f"{match[1]}-card", first.title)
        return _panels(run.figures[int(match[2])], f"{match[1]}-{match[2]}")

    return _PLACE.sub(figure, page)


def _panels(figure: Figure, prefix: str) -> str:
    panels = "".join(
        f"<div>{svg.inline(panel, f'{prefix}-{number}', figure.title)}</div>"
        for number, panel in enumerate(figure.panels)
    )
    return f'<div class="rk-panels">{panels}</div>'
