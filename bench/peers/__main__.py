"""Command line of the comparisons: ``python -m bench.peers --op linear_attention``."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

import torch

from bench.peers import permutation_bfs, registry, report
from bench.peers.run import run


def parser() -> argparse.ArgumentParser:
    parsed = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parsed.add_argument("--op", choices=(*registry.NAMES, permutation_bfs.NAME), action="append",
                        help="may be repeated; all where left out")  # fmt: skip
    parsed.add_argument("--device", choices=("cpu", "cuda"),
                        help="cuda where there is a GPU, else cpu, where left out")  # fmt: skip
    parsed.add_argument("--quick", action="store_true", help="fewer and smaller cases")
    parsed.add_argument("--repeats", type=int, help="timed rounds")
    parsed.add_argument("--threads", type=int, help="threads of every contender")
    parsed.add_argument("--peer-python", default=sys.executable,
                        help="interpreter of peers in processes of their own")  # fmt: skip
    parsed.add_argument("--out", type=Path, default=Path("bench/results"),
                        help="folder of the tables")  # fmt: skip
    return parsed


def main(arguments: list[str] | None = None) -> int:
    """Run, print and write; 1 where a result was wrong or rankone could not run."""
    options = parser().parse_args(arguments)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        print("bench.peers: --device cuda needs a CUDA device and a CUDA build of torch",
              file=sys.stderr)  # fmt: skip
        return 2
    # A time limit ends the run like an interrupt: what was measured is still written.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    failed = False
    for name in options.op or (*registry.NAMES, permutation_bfs.NAME):
        if name == permutation_bfs.NAME:
            if device == "cpu":
                failed = _searches(options) or failed
            continue
        finished = run(
            registry.load(name), device=torch.device(device), quick=options.quick,
            repeats=options.repeats, threads=options.threads,
        )  # fmt: skip
        print(report.markdown(finished))
        for path in report.write(finished, options.out):
            print(f"written: {path}")
        failed = failed or bool(finished.failures)
    return 1 if failed else 0


def _searches(options: argparse.Namespace) -> bool:
    """The comparison of searches, whose peers are processes; whether it failed."""
    finished = permutation_bfs.run(
        permutation_bfs.QUICK if options.quick else permutation_bfs.FULL,
        repeats=options.repeats or 3,
        threads=options.threads or 1,
        peer_python=options.peer_python,
    )
    print(permutation_bfs.markdown(finished))
    for path in permutation_bfs.write(finished, options.out):
        print(f"written: {path}")
    return bool(finished.failures)


if __name__ == "__main__":
    sys.exit(main())
