"""The HTML report: one self-contained page of sections, with nothing loaded from anywhere.

Styles and figures stand inside the page, and its content policy forbids everything else. It follows
the reader's light or dark screen; on a narrow one tables of claims turn into cards and panels of
figures stand below one another. Used by reproductions and by the demo.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from rankone.reproduce._claims import Claim, Measured, Number, shown
from rankone.reproduce._figures import PALETTE, Figure, inlined
from rankone.reproduce._reproduction import NOT_MEASURED, TABLE_DIGITS, Table

_NUMBER = ' class="number"'
_SHORT = 32  # characters of a cell that is never broken over lines

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@dataclass(frozen=True)
class Passage:
    """Text shown as it stands, such as a generated sample.

    Attributes:
        title: heading.
        text: shown with its line breaks.
        note: a remark below it.
    """

    title: str
    text: str
    note: str = ""


@dataclass(frozen=True)
class Section:
    """One method or one part of the demo, as it stands in a report.

    Attributes:
        anchor: its id in the page.
        title, lead: heading and first paragraph.
        claims, tables, figures, passages: what it shows, in this order.
        settings: conditions, shown folded.
        seconds: how long it took.
        source: text and address of the publication, an address of None leaving it without a link;
            or None.
    """

    anchor: str
    title: str
    lead: str
    claims: tuple[Claim, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    passages: tuple[Passage, ...] = ()
    settings: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    seconds: float = 0.0
    source: tuple[str, str | None] | None = None


def html_page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """One self-contained HTML document.

    Args:
        title: heading of the page.
        lead: what the page is, in a sentence or two.
        sections: what it shows.

    Returns:
        The document.

    Example:
        >>> from rankone.reproduce import Section, html_page
        >>> page = html_page("Report", "What came out.", [Section("a", "Speed", "How fast.")])
        >>> page.startswith("<!doctype html>")
        True
    """
    body = [
        f"<header><h1>{escape(title)}</h1><p>{escape(lead)}</p>{_contents(sections)}</header>",
        "<main>",
        *(_section(section) for section in sections),
        "</main>",
    ]
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            f"<title>{escape(title)}</title>",
            f"<style>{_stylesheet()}</style></head><body>",
            *body,
            "</body></html>",
            "",
        ]
    )


def holding(claims: Sequence[Claim]) -> str:
    """How many claims hold, in words: ``"5 of 7 claims hold"``."""
    count = sum(claim.passed for claim in claims)
    if len(claims) == 1:
        return "the claim holds" if count else "the claim does not hold"
    if count == len(claims):
        return f"all {count} claims hold"
    return f"{count} of {len(claims)} claims hold"


def duration(seconds: float) -> str:
    """A duration as a reader says it: ``"48 s"``, ``"12 min 5 s"``."""
    whole = round(seconds)
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if whole < 60:
        return f"{whole} s"
    large, small = (whole, "s") if whole < 3600 else (whole // 60, "min")
    unit = "min" if small == "s" else "h"
    return f"{large // 60} {unit}" + (f" {large % 60} {small}" if large % 60 else "")


def _contents(sections: Sequence[Section]) -> str:
    if len(sections) < 2:
        return ""
    entries = []
    for section in sections:
        state = f" <span>{escape(holding(section.claims))}</span>" if section.claims else ""
        link = f'<a href="#{escape(section.anchor)}">{escape(section.title)}</a>'
        entries.append(f"<li>{link}{state}</li>")
    return f"<nav><ul>{''.join(entries)}</ul></nav>"


def _section(section: Section) -> str:
    facts = []
    if section.claims:
        kind = "good" if all(claim.passed for claim in section.claims) else "bad"
        facts.append(f'<b class="{kind}">{escape(holding(section.claims))}</b>')
    if section.seconds:
        facts.append(f"took {duration(section.seconds)}")
    parts = [
        f'<section id="{escape(section.anchor)}">',
        f"<h2>{escape(section.title)}</h2>",
        f"<p>{escape(section.lead)}</p>" if section.lead else "",
    ]
    if section.source:
        text, address = section.source
        cited = f'<a href="{escape(address)}">{escape(text)}</a>' if address else escape(text)
        parts.append(f'<p class="note">{cited}</p>')
    if facts:
        parts.append(f'<p class="facts">{" · ".join(facts)}</p>')
    if section.claims:
        parts.append(_claims(section.claims))
    for index, figure in enumerate(section.figures):
        parts.append(_figure(figure, f"{section.anchor}-{index}"))
    parts += [_table(table) for table in section.tables]
    parts += [_passage(passage) for passage in section.passages]
    parts += [_settings(section.settings), "</section>"]
    return "\n".join(part for part in parts if part)


def _claims(claims: Sequence[Claim]) -> str:
    rows = []
    for claim in claims:
        kind, word = ("good", "holds") if claim.passed else ("bad", "does not hold")
        note = f'<div class="note">{escape(claim.note)}</div>' if claim.note else ""
        rows.append(
            f'<tr class="{kind}"><td>{escape(claim.statement)}{note}</td>'
            f'<td data-label="expected">{escape(claim.expected)}</td>'
            f'<td data-label="tolerance">{escape(claim.tolerance)}</td>'
            f'<td data-label="measured"><b>{escape(shown(claim.measured))}</b></td>'
            f'<td data-label="result"><span class="mark {kind}">{word}</span></td></tr>'
        )
    headings = "".join(
        f"<th>{name}</th>" for name in ("claim", "expected", "tolerance", "measured", "result")
    )
    return (
        f'<table class="claims"><thead><tr>{headings}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _table(table: Table) -> str:
    headings = "".join(
        f"<th{_NUMBER if all(_numeric(row[index]) for row in table.rows) else ''}>"
        f"{escape(name)}</th>"
        for index, name in enumerate(table.columns)
    )
    rows = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>" for row in table.rows)
    badge = ' <span class="badge">published</span>' if table.published else ""
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (
        f'<h3>{escape(table.title)}{badge}</h3><div class="scroll"><table>'
        f"<thead><tr>{headings}</tr></thead><tbody>{rows}</tbody></table></div>{note}"
    )


def _cell(cell: Measured | None) -> str:
    if cell is None:
        return f"<td{_NUMBER}>{NOT_MEASURED}</td>"
    if _numeric(cell):
        return f"<td{_NUMBER}>{shown(cell, TABLE_DIGITS)}</td>"
    text = str(cell)
    kind = ' class="short"' if len(text) <= _SHORT else ""
    return f"<td{kind}>{escape(text)}</td>"


def _numeric(cell: object) -> bool:
    return cell is None or (isinstance(cell, Number) and not isinstance(cell, bool))


def _figure(figure: Figure, anchor: str) -> str:
    panels = "".join(
        f"<div>{_labelled(inlined(svg, f'{anchor}-{index}'), figure.title)}</div>"
        for index, svg in enumerate(figure.panels)
    )
    return (
        f'<figure><h3>{escape(figure.title)}</h3><div class="panels">{panels}</div>'
        f"<figcaption>{escape(figure.caption)}</figcaption></figure>"
    )


def _labelled(svg: str, title: str) -> str:
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1)


def _passage(passage: Passage) -> str:
    note = f'<p class="note">{escape(passage.note)}</p>' if passage.note else ""
    return f"<h3>{escape(passage.title)}</h3><pre>{escape(passage.text)}</pre>{note}"


def _settings(settings: Mapping[str, object]) -> str:
    if not settings:
        return ""
    entries = "".join(
        f"<dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd>"
        for name, value in settings.items()
    )
    return f"<details><summary>How it was run</summary><dl>{entries}</dl></details>"


def _stylesheet() -> str:
    light = "".join(f"--{name}:{colours[0]};" for name, colours in PALETTE.items())
    dark = "".join(f"--{name}:{colours[1]};" for name, colours in PALETTE.items())
    return (
        f":root{{{light}--page:#fff;--raised:#f5f7f9;--good:#1a7036;--bad:#b3261e;}}"
        f"@media(prefers-color-scheme:dark){{:root{{{dark}"
        "--page:#14171b;--raised:#1d2228;--good:#6ecb83;--bad:#ff8f85;}}" + _RULES
    )


_RULES = """
*{box-sizing:border-box}
body{margin:0 auto;max-width:66rem;padding:1.5rem 1.25rem 4rem;background:var(--page);
color:var(--ink);font:1rem/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
h1{font-size:1.9rem;line-height:1.2;margin:.5rem 0 .75rem}
h2{font-size:1.4rem;line-height:1.25;margin:0 0 .5rem}
h3{font-size:1.05rem;margin:2rem 0 .6rem}
p{margin:.4rem 0;max-width:46rem}
a{color:var(--series-1)}
section{border-top:1px solid var(--grid);margin-top:2.25rem;padding-top:1.75rem}
nav ul{margin:1rem 0 0;padding-left:1.2rem}
nav span,.note,figcaption,.facts{color:var(--muted)}
.note,figcaption{font-size:.875rem;line-height:1.45;max-width:46rem}
b.good,.mark.good{color:var(--good)}
b.bad,.mark.bad{color:var(--bad)}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{border-bottom:1px solid var(--grid);padding:.45rem .8rem .45rem 0;text-align:left;
vertical-align:top}
th{color:var(--muted);font-size:.82rem;font-weight:600;vertical-align:bottom}
.number{text-align:right;padding-right:1.6rem}
.short,td.number{white-space:nowrap}
.claims{width:100%;margin-top:1rem}
.claims td:first-child{width:44%}
.mark{font-weight:600;white-space:nowrap}
.mark.good::before{content:"✓ "}
.mark.bad::before{content:"✗ "}
.scroll{overflow-x:auto}
.scroll th{min-width:5.5rem}
.badge{border:1px solid var(--muted);border-radius:1rem;color:var(--muted);font-size:.72rem;
font-weight:600;margin-left:.3rem;padding:.1rem .5rem;vertical-align:middle}
figure{margin:0}
.panels{display:grid;gap:1.25rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,20rem),1fr))}
.panels>div{max-width:36rem}
.panels svg{display:block;height:auto;width:100%}
.panels text{font-family:inherit!important}
figcaption{margin-top:.5rem}
pre{background:var(--raised);border-radius:.4rem;font:.85rem/1.5 ui-monospace,SFMono-Regular,Menlo,
Consolas,monospace;margin:.5rem 0;overflow-x:auto;padding:.9rem 1rem;white-space:pre-wrap;
overflow-wrap:anywhere}
details{margin-top:1.75rem}
summary{cursor:pointer;color:var(--muted)}
dl{display:grid;gap:.15rem 1.25rem;grid-template-columns:max-content 1fr;font-size:.875rem}
dt{color:var(--muted)}
dd{margin:0;overflow-wrap:anywhere}
@media(max-width:40rem){
body{padding:1rem 1rem 3rem}
h1{font-size:1.55rem}
.claims thead{display:none}
.claims,.claims tbody,.claims tr,.claims td{display:block;width:100%}
.claims tr{background:var(--raised);border-left:.25rem solid var(--good);border-radius:.3rem;
margin-bottom:.8rem;padding:.6rem .8rem}
.claims tr.bad{border-left-color:var(--bad)}
.claims td{border:0;padding:.1rem 0}
.claims td:first-child{width:100%;padding-bottom:.3rem}
.claims td[data-label]{display:flex;gap:1rem;justify-content:space-between;text-align:right}
.claims td[data-label]::before{color:var(--muted);content:attr(data-label)}
dl{grid-template-columns:1fr}
dd{margin-bottom:.4rem}
}
@media print{details{display:none}}
"""
