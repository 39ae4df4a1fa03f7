"""Twisty puzzles: by formula, by geometry, and from files in GAP notation."""

from rankone.cayley.puzzles.gap_puzzles import GapPuzzles
from rankone.cayley.puzzles.geometry import puzzle_from_cuts
from rankone.cayley.puzzles.puzzles import Puzzles

__all__ = ["GapPuzzles", "Puzzles", "puzzle_from_cuts"]
