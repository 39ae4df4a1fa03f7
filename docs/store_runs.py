"""Store a report of ``rankone reproduce`` for the gallery: one small file a method.

Usage: python docs/store_runs.py REPORT.json [FOLDER]

REPORT.json is the ``reproduction.json`` of a run, as of ``rankone reproduce --all --out FOLDER``.
Each method in it gets a file in docs/runs (or FOLDER), written whole or not at all; methods that
are not in it keep theirs.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "python")]

from rankone._files import write_whole  # noqa: E402
from rankone.reproduce import Reproduction, read_report  # noqa: E402
from sitegen import svg  # noqa: E402


def store(run: Reproduction, folder: Path) -> Path:
    """Write one run, its figures made small."""
    figures = tuple(
        dataclasses.replace(figure, panels=tuple(map(svg.small, figure.panels)))
        for figure in run.figures
    )
    data = dataclasses.replace(run, figures=figures).to_dict()
    text = json.dumps(data, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    return write_whole(folder / f"{run.slug}.json", text)


def main(arguments: list[str]) -> int:
    """Store every run of a report; the exit status."""
    if len(arguments) not in (1, 2):
        print(__doc__, file=sys.stderr)
        return 2
    report = Path(arguments[0])
    folder = Path(arguments[1]) if len(arguments) == 2 else HERE / "runs"
    if not report.is_file():
        print(f"{report} is not a file", file=sys.stderr)
        return 1
    runs, failures = read_report(report)
    folder.mkdir(parents=True, exist_ok=True)
    size = sum(store(run, folder).stat().st_size for run in runs)
    print(f"{len(runs)} runs in {folder}, {size / 2**20:.1f} MiB")
    for failure in failures:
        print(f"{failure.slug} did not run: {failure.error}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
