"""How long each package of rankone takes to import, beyond torch and beyond its own libraries.

Usage: python tools/import_time.py [--repeat N] [package ...]

User CPU seconds of fresh processes, the least of N. `libraries` is what a process takes that
imports torch and the third-party packages the package was seen to load, and nothing of rankone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

PACKAGES = (
    "rankone",
    "rankone.ops",
    "rankone.nn",
    "rankone.cayley",
    "rankone.stats",
    "rankone.linear_model",
    "rankone.forecast",
    "rankone.imaging",
    "rankone.causal",
    "rankone.rl",
    "rankone.control",
    "rankone.interpret",
    "rankone.icl",
    "rankone.distributed",
    "rankone.datasets",
    "rankone.catalog",
    "rankone.reproduce",
    "rankone.cli",
)
MEASURE = """
import resource
start = resource.getrusage(resource.RUSAGE_SELF).ru_utime
import {modules}
print(resource.getrusage(resource.RUSAGE_SELF).ru_utime - start)
"""
# Every module of another package, in the order in which the imports finished.
LOADED = """
import json, sys
before = set(sys.modules)
import {modules}
print(json.dumps([name for name in sys.modules if name not in before
                  and name.partition(".")[0] not in ("rankone", *sys.stdlib_module_names)
                  and getattr(sys.modules[name], "__spec__", None) is not None]))
"""
IMPORT_THESE = """
import json, resource, sys
from importlib import import_module
names = json.loads(sys.stdin.read())
start = resource.getrusage(resource.RUSAGE_SELF).ru_utime
for name in names:
    try:
        import_module(name)
    except ImportError:
        pass  # made while its parent was imported
print(resource.getrusage(resource.RUSAGE_SELF).ru_utime - start)
"""


def run(code: str, stdin: str = "") -> str:
    """What a fresh interpreter prints for ``code``."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def seconds(code: str, repeat: int, stdin: str = "") -> float:
    """The least that ``code`` says it took."""
    return min(float(run(code, stdin)) for _ in range(repeat))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("packages", nargs="*", default=PACKAGES)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()

    torch = seconds(MEASURE.format(modules="torch"), options.repeat)
    print(f"{'torch':22} {torch:6.2f} s")
    print(f"{'':22} {'all':>6} {'libraries':>10} {'own':>6}")
    for package in options.packages:
        everything = seconds(MEASURE.format(modules=package), options.repeat)
        loaded = json.loads(run(LOADED.format(modules=package)))
        libraries = seconds(IMPORT_THESE, options.repeat, json.dumps(loaded))
        print(f"{package:22} {everything:6.2f} {libraries:10.2f} {everything - libraries:6.2f}")


if __name__ == "__main__":
    main()
