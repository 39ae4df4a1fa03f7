"""Complete searches of Cayley graphs beside CayleyPy and GAP.

    python -m bench.peers --op permutation_bfs [--quick] [--peer-python PYTHON] [--out FOLDER]

Every contender, rankone's engines included, is a process that lives through the whole comparison
and answers one search at a time, so that imports are not timed and the peak memory of each is read
the same way. Rounds alternate; ratios are taken round by round. Each result is compared with the
others: all layer sizes must agree, and add up to n!. CayleyPy 0.2.0 and passagemath-gap are not
dependencies: name an interpreter that has them, or install them beside rankone.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rankone._files import write_whole
from rankone._timing import Timing, ratio

NAME = "permutation_bfs"
SUBJECTS = ("rankone bitarray", "rankone hash")
CONTENDERS = (
    *SUBJECTS,
    "rankone torch",
    "cayleypy bfs",
    "cayleypy numpy",
    "cayleypy bitmask",
    "GAP sets",
    "GAP growth",
)
WORKER = Path(__file__).with_name("search_worker.py")
# GAP takes minutes beyond this, and gigabytes.
_GAP_N = 9


@dataclass(frozen=True)
class Case:
    """One graph."""

    family: str
    n: int

    def __str__(self) -> str:
        return f"{self.family}-{self.n}"

    @property
    def states(self) -> int:
        return math.factorial(self.n)


QUICK = (Case("lrx", 8), Case("coxeter", 8))
FULL = (
    Case("lrx", 9),
    Case("coxeter", 9),
    Case("pancake", 9),
    Case("lrx", 10),
    Case("coxeter", 10),
    Case("pancake", 10),
    Case("lrx", 11),
)


@dataclass
class Row:
    """What was measured on one graph: answers of each contender, one a round."""

    case: Case
    answers: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def timing(self, name: str, kind: str = "user_seconds") -> Timing:
        return Timing(name, tuple(answer[kind] for answer in self.answers[name]))

    def rate(self, name: str, kind: str = "user_seconds") -> float:
        """Million states a second."""
        return self.case.states / self.timing(name, kind).median / 1e6

    def extra_bytes(self, name: str) -> int:
        return max(answer["extra_bytes"] for answer in self.answers[name])


@dataclass
class Report:
    """A finished comparison."""

    facts: dict[str, str | int]
    rows: list[Row]
    skipped: list[str]
    failures: list[str]


class Worker:
    """A contender's process."""

    def __init__(self, name: str, python: str, threads: int) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self.name = name
        self._process = subprocess.Popen(
            [python, str(WORKER), name, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        first = self._answer()
        if "error" in first:
            self.close()
            raise RuntimeError(first["error"])

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):  # a library may print lines of its own
                return json.loads(line)
        return {"error": f"the process ended with status {self._process.wait()}"}

    def search(self, case: Case) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"family": case.family, "n": case.n}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return {"error": f"the process ended with status {self._process.wait()}"}
        return self._answer()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def run(
    cases: Sequence[Case],
    *,
    repeats: int = 3,
    threads: int = 1,
    peer_python: str = sys.executable,
    contenders: Sequence[str] = CONTENDERS,
) -> Report:
    """Measure every contender on every case; what cannot run is left out and named."""
    from rankone import _environment
    from rankone._timing import torch_threads

    with torch_threads(threads):
        facts: dict[str, str | int] = dict(_environment.describe())
    facts["load average at the start"] = f"{os.getloadavg()[0]:.1f}"
    skipped: dict[str, None] = {}
    failures: list[str] = []
    workers = []
    for name in contenders:
        python = sys.executable if name.startswith("rankone") else peer_python
        try:
            workers.append(Worker(name, python, threads))
        except RuntimeError as error:
            if name.startswith("rankone"):
                failures.append(f"{name}: {error}")
            else:
                skipped[f"{name}: {error}"] = None
    rows = []
    try:
        for case in cases:
            rows.append(_row(case, workers, repeats, skipped, failures))
    except KeyboardInterrupt:
        failures.append(f"interrupted after {len(rows)} of {len(cases)} graphs")
    finally:
        for worker in workers:
            worker.close()
    facts["load average at the end"] = f"{os.getloadavg()[0]:.1f}"
    return Report(facts, rows, list(skipped), failures)


def _row(
    case: Case,
    workers: Sequence[Worker],
    repeats: int,
    skipped: dict[str, None],
    failures: list[str],
) -> Row:
    row = Row(case)
    expected: list[int] | None = None
    able = [w for w in workers if not w.name.startswith("GAP") or case.n <= _GAP_N]
    for round_index in range(repeats):
        for worker in able if round_index % 2 == 0 else able[::-1]:
            answer = worker.search(case)
            if "error" not in answer:
                sizes = answer["layer_sizes"]
                if sum(sizes) == case.states and sizes == (expected or sizes):
                    expected = sizes
                else:
                    answer = {"error": f"found {sum(sizes)} states in {len(sizes)} layers"}
            if "error" in answer:
                line = f"{worker.name}: {answer['error']} ({case})"
                if worker.name.startswith("rankone"):
                    failures.append(line)
                else:
                    skipped[line] = None
                continue
            row.answers.setdefault(worker.name, []).append(answer)
    row.answers = {name: found for name, found in row.answers.items() if len(found) == repeats}
    return row


def markdown(report: Report) -> str:
    """The report as text."""
    from bench.peers.report import _table

    lines = ["# Breadth-first search of Cayley graphs", ""]
    lines += [*_table(("machine", ""), [(k, str(v)) for k, v in report.facts.items()]), ""]
    lines += [
        "Million states a second of user CPU time, which other work on the machine lengthens less "
        "than wall time (in brackets); medians over alternating rounds. `x` says how many times as "
        "long as `rankone bitarray` and `rankone hash` a contender takes, user CPU time, round by "
        "round, with quartiles. Memory is the growth of the process's peak resident size over one "
        "search. All contenders found the same layer sizes. `GAP sets` keeps layers as sorted "
        "sets, `GAP growth` is `GrowthFunctionOfGroup`.",
    ]
    for row in report.rows:
        head = ["contender", "million states/s", *(f"x {name}" for name in SUBJECTS), "peak, MiB"]
        body = []
        for name in row.answers:
            cells = [name, f"{row.rate(name):.2f} ({row.rate(name, 'seconds'):.2f})"]
            for subject in SUBJECTS:
                known = subject in row.answers and subject != name
                cells.append(str(ratio(row.timing(name), row.timing(subject))) if known else "-")
            cells.append(f"{row.extra_bytes(name) / 2**20:.1f}")
            body.append(cells)
        lines += ["", f"## {row.case}: {row.case.states:,} states", "", *_table(head, body)]
    for heading, entries in (("Skipped", report.skipped), ("Failures", report.failures)):
        if entries:
            lines += ["", f"## {heading}", "", *(f"- {entry}" for entry in entries)]
    return "\n".join(lines) + "\n"


def as_dict(report: Report) -> dict[str, object]:
    """The report as plain values."""
    rows = []
    for row in report.rows:
        found = {}
        for name in row.answers:
            found[name] = {
                "user seconds": list(row.timing(name).seconds),
                "seconds": list(row.timing(name, "seconds").seconds),
                "million states/s": row.rate(name),
                "extra bytes": row.extra_bytes(name),
            }
        rows.append({"graph": str(row.case), "states": row.case.states, "contenders": found})
    return {
        "op": NAME,
        "device": "cpu",
        "facts": report.facts,
        "rows": rows,
        "skipped": report.skipped,
        "failures": report.failures,
    }


def write(report: Report, folder: str | Path) -> tuple[Path, Path]:
    """Write ``permutation_bfs_cpu.json`` and ``.md`` into a folder and return their paths."""
    base = Path(folder) / f"{NAME}_cpu"
    base.parent.mkdir(parents=True, exist_ok=True)
    data = json.dumps(as_dict(report), indent=1, ensure_ascii=False)
    return (
        write_whole(base.with_suffix(".json"), data + "\n"),
        write_whole(base.with_suffix(".md"), markdown(report)),
    )
