"""A run as JSON and as Markdown tables, which also serve as the text on the terminal."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rankone._files import write_whole
from rankone._timing import Ratio, Timing

from bench.peers.measure import SGEMM
from bench.peers.run import Report, Row


def stem(report: Report) -> str:
    """Name of the result files: the op, the device and, where not all cores took part, threads."""
    device = report.device.type
    if device == "cuda":
        device = re.sub(r"[^a-z0-9]+", "-", str(report.facts["GPU"]).split(",")[0].lower())
    elif report.facts["torch threads"] != report.facts["cores"]:
        device += f"_threads{report.facts['torch threads']}"
    return f"{report.benchmark.name}_{device}"


def write(report: Report, folder: str | Path) -> tuple[Path, ...]:
    """Write ``<op>_<device>.json``, ``.md`` and a figure into a folder; gives their paths."""
    base = Path(folder) / stem(report)
    base.parent.mkdir(parents=True, exist_ok=True)
    data = json.dumps(as_dict(report), indent=1, ensure_ascii=False)
    paths = [
        write_whole(base.with_suffix(".json"), data + "\n"),
        write_whole(base.with_suffix(".md"), markdown(report)),
    ]
    if report.benchmark.figure is not None and report.rows:
        drawn = io.BytesIO()
        report.benchmark.figure(report.rows).savefig(
            drawn, format="svg", metadata={"Date": None, "Creator": None}
        )
        paths.append(write_whole(base.with_suffix(".svg"), drawn.getvalue()))
    return tuple(paths)


def as_dict(report: Report) -> dict[str, object]:
    return {
        "op": report.benchmark.name,
        "subject": report.benchmark.subject,
        "device": report.device.type,
        "facts": report.facts,
        "ceilings": report.ceilings.as_dict() if report.ceilings else None,
        "goals": [asdict(goal) for goal in report.goals],
        "skipped": report.skipped,
        "failures": report.failures,
        "rows": [_row_as_dict(row) for row in report.rows],
    }


def _row_as_dict(row: Row) -> dict[str, object]:
    contenders: dict[str, dict[str, object]] = {}
    for name, timing in row.timings.items():
        found: dict[str, object] = {"seconds": _quartiles(timing)}
        if name not in (row.subject, SGEMM):
            found["times as long"] = asdict(row.ratio(name))
        if name in row.graphs:
            found["graph seconds"] = _quartiles(row.graphs[name])
        if name in row.errors:
            found["relative error"] = row.errors[name]
        if name in row.extra_bytes:
            found["extra bytes"] = row.extra_bytes[name]
        contenders[name] = found
    return {
        "section": row.case.section,
        "mode": row.case.mode,
        "axes": dict(row.case.axes),
        "dtype": str(row.case.dtype).removeprefix("torch."),
        "fraction of ceiling": asdict(row.fraction) if row.fraction else None,
        "contenders": contenders,
    }


def _quartiles(timing: Timing) -> dict[str, float]:
    return {"median": timing.median, "low": timing.low, "high": timing.high}


def crowded(facts: Mapping[str, str | int]) -> bool:
    """Whether several threads were timed on a CPU that had no cores free for all of them."""
    threads = int(facts["torch threads"])
    load = float(facts.get("load average at the start", 0))
    return threads > 1 and load + threads > int(facts["cores"]) + 0.5


def markdown(report: Report) -> str:
    lines = [f"# {report.benchmark.title}", ""]
    described = [(name, str(value)) for name, value in report.facts.items()]
    if report.ceilings:
        described.append(("copy rate", f"{report.ceilings.copy_rate / 1e12:.2f} TB/s"))
        for dtype, rate in report.ceilings.matmul_rate.items():
            described.append((f"{dtype} matrix product", f"{rate / 1e12:.0f} TFLOP/s"))
    lines += [*_table(("machine", ""), described), ""]
    ceiling = "the floor, max(bytes / copy rate, flops / matrix product rate)"
    if report.device.type == "cpu":
        ceiling = "the rate of a float32 matrix product timed in the same rounds"
    lines += [
        "Times are medians over alternating rounds with their quartiles in brackets. A column "
        f"`x peer` says how many times as long as {report.benchmark.subject} the peer takes, round "
        f"by round; `of ceiling` is {report.benchmark.subject}'s share of {ceiling}. `error` is "
        f"{report.benchmark.subject}'s relative to float64, on the last tokens of the timed case.",
        "",
        *(f"- {note}" for note in report.benchmark.notes),
    ]
    if crowded(report.facts):
        lines += [
            "",
            "**Other work ran on these cores. Threads that wait for each other at barriers then "
            "lose more than others do: with several threads the ratios below do not count; measure "
            "on free cores or with one thread.**",
        ]
    if report.goals:
        goals = [(g.statement, g.measured, "yes" if g.holds else "NO") for g in report.goals]
        lines += ["", "## Goals", "", *_table(("goal", "measured", "holds"), goals)]
    for rows in _sections(report.rows):
        lines += ["", *_section(rows)]
    for heading, entries in (("Skipped", report.skipped), ("Failures", report.failures)):
        if entries:
            lines += ["", f"## {heading}", "", *(f"- {entry}" for entry in entries)]
    return "\n".join(lines) + "\n"


def _sections(rows: Sequence[Row]) -> list[list[Row]]:
    grouped: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        grouped.setdefault((row.case.section, row.case.mode), []).append(row)
    return list(grouped.values())


def _section(rows: list[Row]) -> list[str]:
    first = rows[0]
    fixed, varied = _axes(rows)
    named = [*(f"{name}={value}" for name, value in fixed.items()),
             str(first.case.dtype).removeprefix("torch.")]  # fmt: skip
    heading = f"## {first.case.section}: {first.case.mode} ({', '.join(named)})"
    if first.case.section.lower() == first.case.mode or first.case.mode == "step":
        heading = f"## {first.case.section} ({', '.join(named)})"
    peers = _names(row.timings for row in rows)
    peers = [name for name in peers if name not in (first.subject, SGEMM)]
    step = first.case.mode == "step"
    scale, unit = (1e6, "us a call") if step else (1e3, "ms")
    graphs = any(row.graphs for row in rows)
    head = [*varied, f"{first.subject}, {unit}"]
    if graphs:
        head.append("as a graph, us")
    if any(row.fraction for row in rows):
        head.append("of ceiling")
    head += [f"x {peer}" for peer in peers]
    if graphs:
        head += [f"x {peer} as a graph" for peer in peers]
    head.append("error")
    body = []
    for row in rows:
        line = [str(row.case.axes[name]) for name in varied]
        line.append(_spread(row.timings[row.subject], scale))
        if graphs:
            found = row.graphs.get(row.subject)
            line.append(_spread(found, 1e6) if found else "-")
        if any(other.fraction for other in rows):
            line.append(_percent(row.fraction))
        line += [str(row.ratio(peer)) if peer in row.timings else "-" for peer in peers]
        if graphs:
            both = [peer in row.graphs and row.subject in row.graphs for peer in peers]
            line += [
                str(row.graph_ratio(p)) if ok else "-" for p, ok in zip(peers, both, strict=True)
            ]
        line.append(f"{row.errors[row.subject]:.0e}")
        body.append(line)
    lines = [heading, "", *_table(head, body)]
    if any(row.extra_bytes for row in rows):
        lines += ["", *_memory(rows, varied)]
    return lines


def _memory(rows: list[Row], varied: list[str]) -> list[str]:
    """Peak memory beyond the inputs; the power of T by which it grew since the line before."""
    names = _names(row.extra_bytes for row in rows)
    head = [*varied, *(f"{name}, MB (growth)" for name in names)]
    body = []
    for index, row in enumerate(rows):
        line = [str(row.case.axes[name]) for name in varied]
        for name in names:
            size = row.extra_bytes.get(name)
            cell = "-" if size is None else f"{size / 1e6:.1f}"
            before = rows[index - 1] if index else None
            if size and before is not None and before.extra_bytes.get(name):
                longer = int(row.case.axes["T"]) / int(before.case.axes["T"])
                if longer > 1:
                    growth = math.log(size / before.extra_bytes[name]) / math.log(longer)
                    cell += f" (T^{growth:.2f})"
            line.append(cell)
        body.append(line)
    return ["Peak memory of one call beyond its inputs, results included:", "", *_table(head, body)]


def _axes(rows: list[Row]) -> tuple[dict[str, int | str], list[str]]:
    """Axes that are the same in all rows, and the names of the others."""
    axes = rows[0].case.axes
    fixed = {
        name: value for name, value in axes.items()
        if all(row.case.axes[name] == value for row in rows)
    }  # fmt: skip
    if len(rows) == 1:
        return {}, list(axes)
    return fixed, [name for name in axes if name not in fixed]


def _names(mappings: Iterable[dict]) -> list[str]:
    return list(dict.fromkeys(name for mapping in mappings for name in mapping))


def _spread(timing: Timing, scale: float) -> str:
    return " ".join((
        _digits(scale * timing.median),
        f"[{_digits(scale * timing.low)}, {_digits(scale * timing.high)}]",
    ))  # fmt: skip


def _digits(value: float) -> str:
    """Three significant digits without an exponent."""
    decimals = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:.{decimals}f}"


def _percent(fraction: Ratio | None) -> str:
    return "-" if fraction is None else f"{100 * fraction.median:.0f} %"


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(head, *body, strict=True)]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return [line(head), rule, *(line(row) for row in body)]
