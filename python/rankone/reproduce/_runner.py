"""Runs reproductions by slug and writes their report."""

from __future__ import annotations

import dataclasses
import importlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankone import _environment, catalog
from rankone._files import write_whole
from rankone.reproduce._page import Section, html_page
from rankone.reproduce._reproduction import Reproduction, Settings
from rankone.reproduce._terminal import console, print_reproduction, print_summary

JSON_NAME = "reproduction.json"
HTML_NAME = "reproduction.html"


@dataclass(frozen=True)
class Failure:
    """A reproduction that did not run to its end, and why.

    Attributes:
        slug: the method.
        error: type and message of what stopped it.
    """

    slug: str
    error: str


@dataclass(frozen=True)
class Run:
    """What :func:`reproduce` returns.

    Attributes:
        reproductions: those that ran, in the order asked for.
        failures: those that did not.
        json, html: the files written, or None where no folder was given.
    """

    reproductions: tuple[Reproduction, ...]
    failures: tuple[Failure, ...]
    json: Path | None
    html: Path | None

    @property
    def passed(self) -> bool:
        """Whether everything ran and every claim holds."""
        return not self.failures and all(entry.passed for entry in self.reproductions)


def reproduce(
    slugs: Sequence[str] | str,
    settings: Settings | None = None,
    *,
    show: bool = True,
) -> Run:
    """Run reproductions, show their claims and write a JSON file and an HTML page.

    A claim that does not hold is shown as not holding. A reproduction that raises, for want of an
    optional package for instance, is listed as not run and does not stop the others; an interrupt
    stops all, and what ran until then is still written.

    Args:
        slugs: one slug or several; every one is checked before the first runs.
        settings: mode, device, seed; ``settings.out`` is the folder for ``reproduction.json`` and
            ``reproduction.html``, which are written whole or not at all. None means quick mode on
            the CPU, with no files.
        show: print tables on the terminal.

    Returns:
        The reproductions, the failures and the paths of the files.

    Raises:
        ValueError: for an unknown slug, no slug, or a device that torch does not have here.

    Example:
        >>> from rankone.reproduce import Settings, reproduce
        >>> scale = {"lengths": (32, 64), "backward_lengths": (32,), "accuracy_time": 64}
        >>> scale |= {"short": 32, "long": 64, "rising_from": 32}
        >>> settings = Settings(overrides=scale, progress=False)
        >>> run = reproduce("lightning-attention-2", settings, show=False)
        >>> run.reproductions[0].slug
        'lightning-attention-2'
    """
    settings = settings or Settings()
    asked = [slugs] if isinstance(slugs, str) else list(dict.fromkeys(slugs))
    if not asked:
        raise ValueError("slugs must name at least one method, got none")
    entries = [catalog.method(slug) for slug in asked]
    _environment.check_device(settings.device)

    reproductions: list[Reproduction] = []
    failures: list[Failure] = []
    paths: tuple[Path | None, Path | None] = (None, None)
    interrupted: KeyboardInterrupt | None = None
    for entry in entries:
        try:
            result = run_one(entry, settings)
        except KeyboardInterrupt as error:
            interrupted = error
            break
        except Exception as error:  # one method's failure is reported, and the others still run
            failures.append(Failure(entry.slug, f"{type(error).__name__}: {error}"))
            if show:
                console().print(f"{entry.slug}: did not run: {error}", style="red", markup=False)
        else:
            reproductions.append(result)
            if show:
                print_reproduction(console(), entry.title, result)
        if settings.out is not None:
            # After every method: whatever ends a long run, what ran until then is there.
            paths = write_report(settings.out, reproductions, failures)
    if show and len(entries) > 1:
        errors = {failure.slug: failure.error for failure in failures}
        print_summary(console(), reproductions, errors)
    if show and paths[1] is not None:
        console().print(f"report: {paths[1]}", markup=False, soft_wrap=True)
    if interrupted is not None:
        raise interrupted
    return Run(tuple(reproductions), tuple(failures), *paths)


def run_one(entry: catalog.Method, settings: Settings) -> Reproduction:
    """Run one reproduction and add its wall time and the conditions of the run.

    Args:
        entry: the method.
        settings: how to run.

    Returns:
        What the method's ``run`` returned, with seconds and conditions.

    Example:
        >>> from rankone.catalog import method
        >>> from rankone.reproduce import Settings, run_one
        >>> run_one(method("deltanet"), Settings()).seconds > 0  # doctest: +SKIP
        True
    """
    try:
        module = importlib.import_module(entry.module)
    except ModuleNotFoundError as error:
        if entry.extra is None:
            raise
        raise ImportError(
            f"{error.name} is needed here and not installed: pip install 'rankone[{entry.extra}]'",
            name=error.name,
        ) from error
    start = time.perf_counter()
    result = module.run(settings)
    seconds = time.perf_counter() - start
    conditions = {
        "mode": "full" if settings.full else "quick",
        "device": settings.device,
        "random state": settings.random_state,
        **{f"scale: {name}": str(value) for name, value in settings.overrides.items()},
        **_environment.describe(),
        **result.settings,
    }
    return dataclasses.replace(result, seconds=seconds, settings=conditions)


def write_report(
    out: Path, reproductions: Sequence[Reproduction], failures: Sequence[Failure] = ()
) -> tuple[Path, Path]:
    """Write ``reproduction.json`` and ``reproduction.html``, each whole or not at all.

    Args:
        out: folder, made if it is missing.
        reproductions: what ran to its end.
        failures: what did not.

    Returns:
        Paths of the two files.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from rankone.reproduce import Failure, read_report, write_report
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     json, html = write_report(Path(folder), [], [Failure("deltanet", "no data")])
        ...     failures = read_report(json)[1]
        >>> failures[0].slug
        'deltanet'
    """
    data = {
        "reproductions": [entry.to_dict() for entry in reproductions],
        "failures": [dataclasses.asdict(entry) for entry in failures],
    }
    # Both are rendered before either is written.
    json_text = json.dumps(data, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    page = html_page(
        "rankone: reproductions",
        "What each method claims, measured on this machine. A claim that does not hold is shown "
        "as not holding; numbers quoted from a publication are marked as published.",
        [*map(_section, reproductions), *map(_failed_section, failures)],
    )
    out.mkdir(parents=True, exist_ok=True)
    return write_whole(out / JSON_NAME, json_text), write_whole(out / HTML_NAME, page)


def read_report(path: Path) -> tuple[list[Reproduction], list[Failure]]:
    """Read back a ``reproduction.json``.

    Args:
        path: of the file.

    Returns:
        The reproductions and the failures in it.

    Raises:
        FileNotFoundError: where there is no such file.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from rankone.reproduce import Failure, read_report, write_report
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     json, html = write_report(Path(folder), [], [Failure("deltanet", "no data")])
        ...     failures = read_report(json)[1]
        >>> failures[0].slug
        'deltanet'
    """
    data: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    return (
        [Reproduction.from_dict(entry) for entry in data["reproductions"]],
        [Failure(**entry) for entry in data["failures"]],
    )


def _section(result: Reproduction) -> Section:
    entry = catalog.method(result.slug)
    return Section(
        anchor=result.slug,
        title=entry.title,
        lead="",
        claims=result.claims,
        tables=result.tables,
        figures=result.figures,
        settings=result.settings,
        seconds=result.seconds,
        source=(entry.paper.reference, entry.paper.url),
    )


def _failed_section(failure: Failure) -> Section:
    entry = catalog.method(failure.slug)
    return Section(failure.slug, entry.title, f"This reproduction did not run. {failure.error}")
