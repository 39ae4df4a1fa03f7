"""Write docs/site/api.md: the public names of each package with the first line of their docs."""

import importlib
import inspect
from pathlib import Path

PACKAGES = ("rankone.ops", "rankone.ops.fla", "rankone.nn", "rankone.datasets", "rankone.catalog",
            "rankone.reproduce")  # fmt: skip


def page() -> str:
    lines = ["# API", ""]
    for package in PACKAGES:
        module = importlib.import_module(package)
        lines += [f"## {package}", "", inspect.getdoc(module) or "", ""]
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if inspect.ismodule(value):
                continue
            summary = (inspect.getdoc(value) or "").split("\n\n")[0].replace("\n", " ")
            lines.append(f"- `{name}`: {summary}")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    target = Path(__file__).parent / "site" / "api.md"
    target.parent.mkdir(exist_ok=True)
    target.write_text(page())
    print(f"wrote {target}")
