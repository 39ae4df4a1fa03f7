"""Twisty puzzles: by formula, by geometry, and from files in GAP notation."""

from rankone._namespace import public_names
from rankone.cayley.puzzles.gap_puzzles import GapPuzzles
from rankone.cayley.puzzles.geometry import puzzle_from_cuts
from rankone.cayley.puzzles.puzzles import Puzzles

__all__ = ["GapPuzzles", "Puzzles", "puzzle_from_cuts"]


def __dir__() -> list[str]:
    return public_names(globals())
