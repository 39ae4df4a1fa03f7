"""Runs a benchmark: every case with all contenders in one process, checked as it is timed."""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import torch
from rankone import _environment
from rankone._progress import Progress
from rankone._timing import Ratio, Timing, ratio, torch_threads

from bench.peers import measure, memory
from bench.peers.registry import Benchmark, Call, Case, Contender, Goal


@dataclass
class Row:
    """What was measured on one case.

    Attributes:
        timings: a contender's call: device time on CUDA, wall-clock time on a CPU and for steps.
        graphs: on CUDA, replays of the captured call.
        fraction: the subject's share of the ceiling: of the measured sgemm rate on a CPU, of the
            floor on CUDA.
        errors: relative to float64, of the contenders that compute the same function.
        extra_bytes: peak memory beyond the inputs.
    """

    case: Case
    subject: str
    timings: dict[str, Timing]
    graphs: dict[str, Timing] = field(default_factory=dict)
    fraction: Ratio | None = None
    errors: dict[str, float] = field(default_factory=dict)
    extra_bytes: dict[str, int] = field(default_factory=dict)

    def ratio(self, peer: str) -> Ratio:
        """How many times as long as the subject a peer takes."""
        return ratio(self.timings[peer], self.timings[self.subject])

    def graph_ratio(self, peer: str) -> Ratio:
        return ratio(self.graphs[peer], self.graphs[self.subject])


@dataclass
class Report:
    """A finished run."""

    benchmark: Benchmark
    device: torch.device
    facts: dict[str, str | int]
    rows: list[Row]
    skipped: list[str]
    failures: list[str]
    goals: Sequence[Goal] = ()
    ceilings: measure.Ceilings | None = None


def facts(device: torch.device) -> dict[str, str | int]:
    """The machine and the versions that the numbers belong to."""
    found = dict(_environment.describe())
    found["date"] = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    if device.type == "cuda":
        found["CUDA"] = str(torch.version.cuda)
    else:
        found["load average at the start"] = f"{os.getloadavg()[0]:.1f}"
    return found


class _Run:
    def __init__(self, benchmark: Benchmark, device: torch.device, repeats: int) -> None:
        self.benchmark, self.device, self.repeats = benchmark, device, repeats
        self.skipped: dict[str, None] = {}
        self.failures: list[str] = []
        self.ceilings: measure.Ceilings | None = None

    def row(self, case: Case) -> Row | None:
        """Check, then time, all contenders that can run; None where the subject cannot."""
        benchmark, cuda = self.benchmark, self.device.type == "cuda"
        work = benchmark.work(case)
        count = measure.input_sets(work.bytes) if cuda else 1
        sets = [benchmark.inputs(case, self.device, seed) for seed in range(count)]
        calls: dict[str, list[Call]] = {}
        errors: dict[str, float] = {}
        for contender in benchmark.contenders:
            prepared = self._checked(case, contender, sets, errors)
            if prepared is not None:
                calls[contender.name] = prepared
            elif contender.name == benchmark.subject:
                return None
        row = Row(case, benchmark.subject, self._timings(case, calls), errors=errors)
        if cuda:
            assert self.ceilings is not None
            if case.graph:
                row.graphs = self._graph_timings(case, calls)
            timing = row.graphs.get(benchmark.subject) or row.timings[benchmark.subject]
            floor = self.ceilings.floor(work.flops, work.bytes, case.dtype)
            row.fraction = Ratio(floor / timing.median, floor / timing.high, floor / timing.low)
        elif case.mode != "step":
            share = work.flops / measure.sgemm_flops()
            speed = ratio(row.timings[measure.SGEMM], row.timings[benchmark.subject])
            row.fraction = Ratio(share * speed.median, share * speed.low, share * speed.high)
        if case.memory:
            for name in calls:
                row.extra_bytes[name] = (
                    memory.cuda_extra_bytes(calls[name][0])
                    if cuda
                    else memory.cpu_extra_bytes(benchmark.name, name, case)
                )
        return row

    def _checked(
        self, case: Case, contender: Contender, sets: list, errors: dict[str, float]
    ) -> list[Call] | None:
        """The contender's calls, one an input set, once their results are right."""
        is_subject = contender.name == self.benchmark.subject
        reason = contender.unavailable(case, self.device)
        if reason is not None:
            self._leave_out(contender, reason, case, is_subject)
            return None
        try:
            prepared = [contender.prepare(case, given) for given in sets]
            results = prepared[0]()
            if contender.same_function:
                error = self.benchmark.error(case, sets[0], results)
                errors[contender.name] = error
                limit = self.benchmark.tolerance(case)
                if not error <= limit:
                    reason = f"relative error {error:.1e} exceeds {limit:.0e}"
        except Exception as exception:
            # One contender that cannot run a case must not end the comparison of the others.
            reason = f"{type(exception).__name__}: {str(exception).splitlines()[0]}"
        if reason is None:
            return prepared
        self._leave_out(contender, f"{reason} ({case})", case, is_subject)
        return None

    def _leave_out(self, contender: Contender, reason: str, case: Case, failed: bool) -> None:
        line = f"{contender.name}: {reason}"
        if failed:
            self.failures.append(line)
        else:
            self.skipped[line] = None

    def _timings(self, case: Case, calls: dict[str, list[Call]]) -> dict[str, Timing]:
        if self.device.type != "cuda":
            single = {name: prepared[0] for name, prepared in calls.items()}
            return measure.cpu_times(single, repeats=self.repeats)
        rotating = {name: measure.rotating(prepared) for name, prepared in calls.items()}
        if case.mode == "step":
            return measure.host_times(rotating, repeats=self.repeats)
        return measure.cuda_times(rotating, repeats=self.repeats)

    def _graph_timings(self, case: Case, calls: dict[str, list[Call]]) -> dict[str, Timing]:
        graphs = {}
        for name, prepared in calls.items():
            try:
                graphs[name] = measure.rotating([measure.graph_of(call) for call in prepared])
            except RuntimeError as error:
                line = f"{name}: not captured into a CUDA graph: {str(error).splitlines()[0]}"
                if name == self.benchmark.subject:
                    self.failures.append(line)
                else:
                    self.skipped[line] = None
        return measure.cuda_times(graphs, repeats=self.repeats)


def run(
    benchmark: Benchmark,
    *,
    device: torch.device,
    quick: bool = False,
    repeats: int | None = None,
    threads: int | None = None,
    cases: Sequence[Case] | None = None,
    progress: bool = True,
) -> Report:
    """Measure a benchmark.

    Args:
        benchmark: what to run.
        device: where.
        quick: fewer and smaller cases, fewer rounds.
        repeats: timed rounds; 7, or 3 in quick mode, where not given.
        threads: torch's and rankone's threads for every contender; as they are where not given.
        cases: instead of the benchmark's own.
        progress: show how far it is.

    Returns:
        The report; ``failures`` says where the subject could not run or was wrong. An interrupt
        ends the run and keeps the rows so far.
    """
    runner = _Run(benchmark, device, repeats or (3 if quick else 7))
    chosen = benchmark.cases(device, quick) if cases is None else cases
    with torch_threads(threads or torch.get_num_threads()):
        described = facts(device)
        if device.type == "cuda":
            dtypes = list(dict.fromkeys(case.dtype for case in chosen))
            runner.ceilings = measure.cuda_ceilings(dtypes)
        rows = []
        with Progress(benchmark.title, len(chosen), enabled=progress) as bar:
            try:
                for case in chosen:
                    row = runner.row(case)
                    if row is not None:
                        rows.append(row)
                    gc.collect()
                    bar.advance()
            except KeyboardInterrupt:
                runner.failures.append(f"interrupted after {bar.done} of {len(chosen)} cases")
        if device.type != "cuda":
            described["load average at the end"] = f"{os.getloadavg()[0]:.1f}"
    return Report(
        benchmark, device, described, rows, list(runner.skipped), runner.failures,
        benchmark.goals(rows, device), runner.ceilings,
    )  # fmt: skip
