"""Print what an installation of rankone with some extras needs, one requirement a line.

Usage: python tools/requirements.py [extra ...]

Reads pyproject.toml next to it; extras that name other extras of rankone are followed.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

_OWN_EXTRAS = re.compile(r"rankone\[([^\]]+)\]")


def requirements(project: dict, extras: list[str]) -> list[str]:
    """The dependencies of ``project`` and of its ``extras``, sorted, each once."""
    optional = project["optional-dependencies"]
    found = set(project["dependencies"])
    wanted, seen = list(extras), set()
    while wanted:
        extra = wanted.pop()
        if extra in seen:
            continue
        if extra not in optional:
            raise SystemExit(f"no extra {extra!r}; there are {', '.join(sorted(optional))}")
        seen.add(extra)
        for requirement in optional[extra]:
            own = _OWN_EXTRAS.match(requirement)
            if own:
                wanted.extend(name.strip() for name in own.group(1).split(","))
            else:
                found.add(requirement)
    return sorted(found)


if __name__ == "__main__":
    pyproject = Path(__file__).parents[1] / "pyproject.toml"
    print("\n".join(requirements(tomllib.loads(pyproject.read_text())["project"], sys.argv[1:])))
