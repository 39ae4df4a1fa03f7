"""Command line of the tables: ``python -m rankone.cayley.datasets --out FOLDER``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rankone.cayley.datasets.tables import (
    MAX_STATES,
    SHIPPED_MAX_EDGES,
    dataset_names,
    generate_datasets,
)


def main(arguments: list[str] | None = None) -> int:
    """Compute tables and write them; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m rankone.cayley.datasets", description=__doc__)
    parser.add_argument("names", nargs="*", help="tables; all where left out")
    parser.add_argument("--out", type=Path, required=True, help="folder of the JSON files")
    parser.add_argument("--max-states", type=float, default=MAX_STATES)
    parser.add_argument("--max-edges", type=float, default=SHIPPED_MAX_EDGES,
                        help="states times generators of a search at most")  # fmt: skip
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.names) - set(dataset_names()))
    if unknown:
        parser.error(f"no table is called {', '.join(unknown)}")
    for name in options.names or dataset_names():
        (table,) = generate_datasets(
            [name], options.max_states, max_edges=options.max_edges, out=options.out
        ).values()
        print(f"{name}: {len(table)} growth functions", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
