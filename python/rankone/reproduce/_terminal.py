"""Claims and tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from rankone.reproduce._claims import Claim, Measured, Number, shown
from rankone.reproduce._page import duration, holding
from rankone.reproduce._reproduction import NOT_MEASURED, TABLE_DIGITS, Reproduction, Table

# Wide enough for a row of claims where the output is a file or a pipe and has no width of its own.
_PLAIN_WIDTH = 120


def console() -> Console:
    """Standard output, at its own width on a terminal."""
    plain = Console()
    return plain if plain.is_terminal else Console(width=_PLAIN_WIDTH)


def print_reproduction(console: Console, title: str, reproduction: Reproduction) -> None:
    """Claims as a table, measured and published tables below, and one line of summary."""
    print_claims(console, title, reproduction.claims)
    for table in reproduction.tables:
        print_table(console, table)
    summary = f"{reproduction.slug}: {holding(reproduction.claims)}"
    style = "green" if reproduction.passed else "red"
    console.print(f"[{style}]{escape(summary)}[/] in {duration(reproduction.seconds)}")


def print_summary(
    console: Console, reproductions: Sequence[Reproduction], failures: Mapping[str, str]
) -> None:
    """One row a method: how many of its claims hold, those that do not, and the time it took.

    ``failures`` has the errors of the methods that did not run, by slug.
    """
    grid = RichTable(title="Summary", title_justify="left", box=box.SIMPLE_HEAD)
    for heading, side in (("method", "left"), ("claims", "left"), ("time", "right")):
        grid.add_column(heading, justify=side)  # type: ignore[arg-type]
    grid.add_column("what does not hold")
    for entry in reproductions:
        failed = "; ".join(claim.statement for claim in entry.claims if not claim.passed)
        style = "green" if entry.passed else "red"
        claims = f"[{style}]{escape(holding(entry.claims))}[/]"
        grid.add_row(entry.slug, claims, duration(entry.seconds), escape(failed))
    for slug, error in failures.items():
        grid.add_row(slug, "[red]did not run[/]", "", escape(error))
    console.print(grid)
    claims = [claim for entry in reproductions for claim in entry.claims]
    total = f"{len(reproductions)} methods ran, {len(failures)} did not; {holding(claims)}"
    console.print(total, markup=False, highlight=False)


def print_claims(console: Console, title: str, claims: Sequence[Claim]) -> None:
    """One row a claim; a claim that does not hold says so in words."""
    grid = RichTable(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD)
    grid.add_column("claim", min_width=28)
    for heading in ("expected", "tolerance", "measured", "result"):
        grid.add_column(heading)
    for claim in claims:
        result = "[green]holds[/]" if claim.passed else "[bold red]does not hold[/]"
        statement = escape(claim.statement)
        if claim.note:
            statement += f"\n[dim]{escape(claim.note)}[/]"
        cells = (claim.expected, claim.tolerance, shown(claim.measured))
        grid.add_row(statement, *(escape(cell) for cell in cells), result)
    console.print(grid)


def print_table(console: Console, table: Table) -> None:
    """A table of a report; one of published numbers says so in its title."""
    title = f"{table.title} (published)" if table.published else table.title
    console.print(title, style="italic", markup=False, highlight=False)
    grid = RichTable(box=box.SIMPLE_HEAD)
    for index, heading in enumerate(table.columns):
        numeric = all(isinstance(row[index], Number | None) for row in table.rows)
        grid.add_column(escape(heading), justify="right" if numeric else "left")
    for row in table.rows:
        grid.add_row(*(escape(_cell(cell)) for cell in row))
    console.print(grid)
    if table.note:
        console.print(f"{table.note}\n", style="dim", markup=False, highlight=False)


def _cell(cell: Measured | None) -> str:
    return NOT_MEASURED if cell is None else shown(cell, TABLE_DIGITS)
