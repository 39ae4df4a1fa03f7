"""Algorithms on a :class:`rankone.cayley.CayleyGraph`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rankone._namespace import public_names
from rankone.cayley.algo.bfs_algo import BfsAlgorithm
from rankone.cayley.algo.bfs_bitmask import bfs_bitmask
from rankone.cayley.algo.bfs_distributed import BfsDistributed
from rankone.cayley.algo.bfs_mitm import MeetInTheMiddle
from rankone.cayley.algo.bfs_numpy import bfs_numpy
from rankone.cayley.algo.bfs_result import BfsResult
from rankone.cayley.algo.find_path import find_path
from rankone.cayley.algo.interactive_bfs import InteractiveBfs

if TYPE_CHECKING:
    from rankone.cayley.algo.beam_search import BeamSearchAlgorithm as BeamSearchAlgorithm
    from rankone.cayley.algo.beam_search import BeamSearchResult as BeamSearchResult
    from rankone.cayley.algo.random_walks import RandomWalksGenerator as RandomWalksGenerator

_LATE = {
    "BeamSearchAlgorithm": "beam_search",
    "BeamSearchResult": "beam_search",
    "RandomWalksGenerator": "random_walks",
}

__all__ = [
    "BeamSearchAlgorithm",
    "BeamSearchResult",
    "BfsAlgorithm",
    "BfsDistributed",
    "BfsResult",
    "InteractiveBfs",
    "MeetInTheMiddle",
    "RandomWalksGenerator",
    "bfs_bitmask",
    "bfs_numpy",
    "find_path",
]


def __getattr__(name: str) -> Any:
    if name in _LATE:
        return getattr(import_module(f"rankone.cayley.algo.{_LATE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return public_names(globals())
