"""What the distributed search costs: bytes an edge, edges a second, the exchange, a level.

    python bench/distributed_bfs.py --degrees 9 10 --processes 1 2 4

starts ``torch.distributed.run`` over gloo on this machine for each number of processes, one thread
each, and prints one row a search: the fastest of some rounds by the slowest process. "hash" is the
hash engine in one process, without an exchange. "CPU s" is user and system time of all processes
together, which a busy machine disturbs less than the seconds. "exchange" is the share of the time
in exchanges and waits for the other processes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

COLUMNS = (
    ("graph", "{graph}"),
    ("search", "{search}"),
    ("s", "{seconds:.3f}"),
    ("CPU s", "{cpu:.3f}"),
    ("M states/s a process", "{rate:.2f}"),
    ("M edges/s a process", "{edge_rate:.2f}"),
    ("bytes sent an edge", "{edge_bytes:.2f}"),
    ("bytes sent a state", "{state_bytes:.2f}"),
    ("exchange", "{share:.0%}"),
    ("exchanges", "{exchanges}"),
)


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system


def _search(n: int, engine: str, checkpoints: bool) -> dict[str, Any]:
    from rankone.cayley import CayleyGraph, PermutationGroups

    graph = CayleyGraph(PermutationGroups.lrx(n), device="cpu", threads=1)
    folder = os.environ.get("RANKONE_BENCH_FOLDER", "")
    scratch = (
        {"scratch_dir": tempfile.mkdtemp(dir=folder)} if checkpoints and engine == "hash" else {}
    )
    if checkpoints and engine == "distributed":
        import torch.distributed as dist

        name = [tempfile.mkdtemp(dir=folder)]
        dist.broadcast_object_list(name)
        scratch = {"scratch_dir": name[0]}
    began, cpu = time.perf_counter(), _cpu_seconds()
    result = graph.bfs(engine=engine, max_layer_size_to_store=0, **scratch)
    info = result.engine_info
    return {
        "seconds": time.perf_counter() - began,
        "cpu": _cpu_seconds() - cpu,
        "states": result.num_vertices,
        "levels": len(result.layer_sizes),
        "bytes": info.get("bytes_sent", 0),
        "exchanges": info.get("exchanges", 0),
        "waited": info.get("exchange_seconds", 0.0),
    }


def _work(sizes: list[int], rounds: int, engine: str, checkpoints: bool) -> None:
    """One process: the rounds of every size; rank 0 prints what all of them measured."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    if engine == "distributed":
        dist.init_process_group("gloo")
    for n in sizes:
        for _ in range(rounds):
            found = [_search(n, engine, checkpoints)]
            if engine == "distributed":
                everyone: list[Any] = [None] * dist.get_world_size()
                dist.all_gather_object(everyone, found[0])
                found = everyone
            if engine != "distributed" or dist.get_rank() == 0:
                print("FOUND " + json.dumps([n, found]), flush=True)
    if engine == "distributed":
        dist.destroy_process_group()


def _row(n: int, search: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    seconds = max(part["seconds"] for part in found)
    states, edges = found[0]["states"], 3 * found[0]["states"]
    sent = sum(part["bytes"] for part in found)
    return {
        "graph": f"LRX-{n}",
        "search": search,
        "seconds": seconds,
        "cpu": sum(part["cpu"] for part in found),
        "rate": states / seconds / len(found) / 1e6,
        "edge_rate": edges / seconds / len(found) / 1e6,
        "edge_bytes": sent / edges,
        "state_bytes": sent / states,
        "share": sum(part["waited"] for part in found) / seconds / len(found),
        "exchanges": found[0]["exchanges"],
        "levels": found[0]["levels"],
    }


def _measure(
    processes: int, arguments: argparse.Namespace, checkpoints: bool
) -> list[dict[str, Any]]:
    """The rows of one number of processes; 0 is the hash engine."""
    worker = [__file__, "--worker", "distributed" if processes else "hash"]
    worker += ["--rounds", str(arguments.rounds), "--degrees", *map(str, arguments.degrees)]
    worker += ["--checkpoints"] if checkpoints else []
    command = [sys.executable]
    if processes:
        command += ["-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={processes}"]
    with tempfile.TemporaryDirectory(prefix="rankone-bench-") as folder:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "RANKONE_BENCH_FOLDER": folder}
        done = subprocess.run(
            [*command, *worker], env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
    search = f"{processes} process{'es' if processes > 1 else ''}" if processes else "hash"
    rows: dict[int, dict[str, Any]] = {}
    for line in done.stdout.splitlines():
        if not line.startswith("FOUND "):
            continue
        n, found = json.loads(line.removeprefix("FOUND "))
        row = _row(n, search + (", checkpoints" if checkpoints else ""), found)
        if n not in rows or row["seconds"] < rows[n]["seconds"]:
            rows[n] = row
    return list(rows.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--degrees", type=int, nargs="+", default=[6, 9, 10], help="degrees n of LRX"
    )
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--checkpoints", action="store_true", help="also with a scratch folder")
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--worker", choices=("hash", "distributed"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        _work(arguments.degrees, arguments.rounds, arguments.worker, arguments.checkpoints)
        return
    rows = []
    for checkpoints in (False, True) if arguments.checkpoints else (False,):
        for processes in [0, *arguments.processes]:
            rows += _measure(processes, arguments, checkpoints)
    print("| " + " | ".join(name for name, _ in COLUMNS) + " | ms a level |")
    print("|" + " --- |" * (len(COLUMNS) + 1))
    for row in sorted(rows, key=lambda row: row["graph"].rjust(8)):
        cells = [text.format(**row) for _, text in COLUMNS]
        print("| " + " | ".join([*cells, f"{1e3 * row['seconds'] / row['levels']:.2f}"]) + " |")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
