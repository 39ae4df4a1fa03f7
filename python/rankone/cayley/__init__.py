"""Cayley and Schreier graphs: growth, diameter, paths, and learned search.

A superset of the public interface of the library of CayleyPy Growth (arXiv 2509.19162): a script
that imports from it runs with ``rankone.cayley`` in its imports.

Example:
    >>> from rankone.cayley import CayleyGraph, PermutationGroups
    >>> CayleyGraph(PermutationGroups.lrx(8), device="cpu").diameter()
    28
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rankone._namespace import public_names
from rankone.cayley.algo import BfsResult, bfs_bitmask, bfs_numpy, find_path
from rankone.cayley.cayley_graph import CayleyGraph
from rankone.cayley.cayley_graph_def import (
    AnyStateType,
    CayleyGraphDef,
    GeneratorType,
    MatrixGenerator,
)
from rankone.cayley.cayley_path import CayleyPath
from rankone.cayley.create_graph import create_graph
from rankone.cayley.distance_table import DistanceTable
from rankone.cayley.errors import CayleyError
from rankone.cayley.graphs_lib import MatrixGroups, PermutationGroups, prepare_graph
from rankone.cayley.puzzles import GapPuzzles, Puzzles, puzzle_from_cuts

if TYPE_CHECKING:
    from rankone.cayley.datasets import load_dataset as load_dataset
    from rankone.cayley.models import GroupTokenizer as GroupTokenizer
    from rankone.cayley.models import ModelConfig as ModelConfig
    from rankone.cayley.models import load_checkpoint as load_checkpoint
    from rankone.cayley.models import save_checkpoint as save_checkpoint
    from rankone.cayley.predictor import Predictor as Predictor
    from rankone.cayley.train import Loss as Loss
    from rankone.cayley.train import MseLoss as MseLoss
    from rankone.cayley.train import PinballLoss as PinballLoss
    from rankone.cayley.train import make_loss as make_loss
    from rankone.cayley.train import train_predictor as train_predictor

# Imported when they are asked for: they bring models, and data files.
_LATE = {
    "GroupTokenizer": "models",
    "Loss": "train",
    "ModelConfig": "models",
    "MseLoss": "train",
    "PinballLoss": "train",
    "Predictor": "predictor",
    "load_checkpoint": "models",
    "load_dataset": "datasets",
    "make_loss": "train",
    "save_checkpoint": "models",
    "train_predictor": "train",
}
_SUBMODULES = (
    "algo",
    "analysis",
    "datasets",
    "distributed",
    "models",
    "permutation_utils",
    "predictor",
    "puzzles",
    "train",
)

__all__ = [
    "AnyStateType",
    "BfsResult",
    "CayleyError",
    "CayleyGraph",
    "CayleyGraphDef",
    "CayleyPath",
    "DistanceTable",
    "GapPuzzles",
    "GeneratorType",
    "GroupTokenizer",
    "Loss",
    "MatrixGenerator",
    "MatrixGroups",
    "ModelConfig",
    "MseLoss",
    "PermutationGroups",
    "PinballLoss",
    "Predictor",
    "Puzzles",
    "bfs_bitmask",
    "bfs_numpy",
    "create_graph",
    "find_path",
    "load_checkpoint",
    "load_dataset",
    "make_loss",
    "prepare_graph",
    "puzzle_from_cuts",
    "save_checkpoint",
    "train_predictor",
]


def __getattr__(name: str) -> Any:
    if name in _LATE:
        return getattr(import_module(f"rankone.cayley.{_LATE[name]}"), name)
    if name in _SUBMODULES:
        return import_module(f"rankone.cayley.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return public_names(globals())
