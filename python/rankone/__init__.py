"""rankone: hand-written kernels for linear-structure computations, and the methods built on them.

``rankone.ops`` holds the kernels as torch ops, ``rankone.nn`` the layers and models,
``rankone.cayley`` Cayley graphs, ``rankone.forecast``, ``rankone.linear_model`` and
``rankone.stats`` the methods of their fields, ``rankone.catalog`` the list of methods and
``rankone.reproduce`` what each of them claims.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

try:
    __version__ = version("rankone")
except PackageNotFoundError:  # a source tree on PYTHONPATH, not installed
    __version__ = "0+source"

if TYPE_CHECKING:
    from rankone import catalog as catalog
    from rankone import cayley as cayley
    from rankone import datasets as datasets
    from rankone import forecast as forecast
    from rankone import linear_model as linear_model
    from rankone import nn as nn
    from rankone import ops as ops
    from rankone import reproduce as reproduce
    from rankone import stats as stats

_SUBMODULES = (
    "catalog",
    "causal",
    "cayley",
    "control",
    "datasets",
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


def __getattr__(name: str):
    if name in _SUBMODULES:
        return import_module(f"rankone.{name}")
    raise AttributeError(f"module 'rankone' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
