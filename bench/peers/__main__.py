"""Command line of the comparisons: ``python -m bench.peers --op linear_attention``."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

import torch

from bench.peers import registry, report
from bench.peers.run import run


def parser() -> argparse.ArgumentParser:
    parsed = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parsed.add_argument("--op", choices=registry.NAMES, action="append",
                        help="may be repeated; all where left out")  # fmt: skip
    parsed.add_argument("--device", choices=("cpu", "cuda"),
                        help="cuda where there is a GPU, else cpu, where left out")  # fmt: skip
    parsed.add_argument("--quick", action="store_true", help="fewer and smaller cases")
    parsed.add_argument("--repeats", type=int, help="timed rounds")
    parsed.add_argument("--threads", type=int, help="threads of every contender")
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
    for name in options.op or registry.NAMES:
        finished = run(
            registry.load(name), device=torch.device(device), quick=options.quick,
            repeats=options.repeats, threads=options.threads,
        )  # fmt: skip
        print(report.markdown(finished))
        for path in report.write(finished, options.out):
            print(f"written: {path}")
        failed = failed or bool(finished.failures)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
