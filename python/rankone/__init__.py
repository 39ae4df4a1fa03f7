"""rankone: hand-written kernels for linear-structure computations, and the methods built on them.

``rankone.ops`` holds the kernels as torch ops, ``rankone.nn`` the layers and models,
``rankone.cayley`` Cayley graphs, ``rankone.forecast``, ``rankone.linear_model`` and
``rankone.stats`` the methods of their fields, ``rankone.catalog`` the list of methods and
``rankone.reproduce`` what each of them claims.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __version__: str

    from rankone import catalog as catalog
    from rankone import causal as causal
    from rankone import cayley as cayley
    from rankone import control as control
    from rankone import datasets as datasets
    from rankone import distributed as distributed
    from rankone import forecast as forecast
    from rankone import icl as icl
    from rankone import imaging as imaging
    from rankone import interpret as interpret
    from rankone import linear_model as linear_model
    from rankone import nn as nn
    from rankone import ops as ops
    from rankone import reproduce as reproduce
    from rankone import rl as rl
    from rankone import stats as stats

_SUBMODULES = (
    "catalog",
    "causal",
    "cayley",
    "control",
    "datasets",
    "distributed",
    "forecast",
    "icl",
    "imaging",
    "interpret",
    "linear_model",
    "nn",
    "ops",
    "reproduce",
    "rl",
    "stats",
)

__all__ = ["__version__", *_SUBMODULES]


def _find_version() -> str:
    """The version in pyproject.toml: this source tree's, or the one recorded at installation."""
    tree = Path(__file__).resolve().parents[2] / "pyproject.toml"
    if tree.is_file():
        import tomllib

        project = tomllib.loads(tree.read_text(encoding="utf-8")).get("project", {})
        if project.get("name") == "rankone":
            return project["version"]
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("rankone")
    except PackageNotFoundError:  # the package's folder alone was copied
        return "0+unknown"


def __getattr__(name: str):
    if name == "__version__":
        return globals().setdefault(name, _find_version())
    if name in _SUBMODULES:
        return import_module(f"rankone.{name}")
    raise AttributeError(f"module 'rankone' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
