"""The demo: each kernel family at real work on real data, and one report.

One module a family, with ``PLAN`` (a sentence), ``expected_seconds(options)`` and
``run(options, say)``, which returns a :class:`rankone.reproduce.Section`.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankone._files import write_whole
from rankone.reproduce._page import Section, duration, holding, html_page

SECTIONS = ("language_model", "recall", "forecast", "growth")
HTML_NAME = "demo.html"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """How to run the demo.

    Attributes:
        seconds: how long the language model learns; the rest takes about a minute.
        random_state: seed of everything random.
        progress: show progress bars on a terminal, and plain lines elsewhere.
        overrides: fields of a section's scale to replace, by section name.
    """

    seconds: float = 60.0
    random_state: int = 0
    progress: bool = True
    overrides: dict[str, dict[str, Any]] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.seconds < float("inf"):
            raise ValueError(f"seconds must be positive and finite, got {self.seconds}")

    def scale(self, section: str) -> dict[str, Any]:
        """The overrides of one section."""
        return (self.overrides or {}).get(section, {})


@dataclass(frozen=True)
class Demo:
    """What :func:`demo` did: its sections, the report, and the seconds it took."""

    sections: tuple[Section, ...]
    html: Path
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether every claim of every section holds."""
        return all(claim.passed for section in self.sections for claim in section.claims)


def demo(out: str | Path = "rankone-demo", options: Options | None = None) -> Demo:
    """Run every section, show what came out, and write one self-contained HTML report.

    Args:
        out: folder of the report, made if it is missing.
        options: how to run; None means the defaults.

    Returns:
        :class:`Demo`.

    Example:
        >>> import tempfile
        >>> from rankone.demo import Options, demo
        >>> with tempfile.TemporaryDirectory() as folder:  # doctest: +SKIP
        ...     print(demo(folder, Options(seconds=10)).html.name)
        demo.html
    """
    from rankone.reproduce._terminal import console, print_claims, print_table

    options = options or Options()
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    modules = [importlib.import_module(f"{__name__}.{name}") for name in SECTIONS]
    screen = console()

    def say(line: str) -> None:
        screen.print(line, markup=False, highlight=False, soft_wrap=True)

    start = time.perf_counter()
    expected = sum(module.expected_seconds(options) for module in modules)
    say(f"This demo takes about {duration(expected)}:")
    for index, module in enumerate(modules, start=1):
        say(f"  {index}. {module.PLAN}")
    sections = []
    for module in modules:
        section = module.run(options, say)
        sections.append(section)
        if section.claims:
            print_claims(screen, section.title, section.claims)
        for table in section.tables:
            print_table(screen, table)
        for passage in section.passages:
            say(f"{passage.title}\n\n{passage.text}\n")
        if section.claims:
            say(f"{section.title}: {holding(section.claims)}")
    page = html_page(
        "rankone: demo",
        "Each kernel family at work on real data, measured on this machine.",
        sections,
    )
    html = write_whole(folder / HTML_NAME, page)
    seconds = time.perf_counter() - start
    say(f"Done in {duration(seconds)}. The report lies at {html.resolve()}")
    return Demo(tuple(sections), html, seconds)
