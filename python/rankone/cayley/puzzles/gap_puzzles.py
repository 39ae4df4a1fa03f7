"""Puzzles by name, made from geometry, and puzzles from files in GAP notation.

A file has lines "M_name:=(1,2)(3,4);", one a move, in cycles of 1-based positions, and possibly
"ip:=[[1,2],[3,4]];", lists of positions whose pieces look the same. Other lines are ignored.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from rankone._files import write_whole
from rankone.cayley.cayley_graph_def import CayleyGraphDef
from rankone.cayley.errors import CayleyError, check
from rankone.cayley.permutation_utils import cycles_of, permutation_from_cycles
from rankone.cayley.puzzles.cut_table import CUTS
from rankone.cayley.puzzles.geometry import puzzle_from_cuts

_FOLDER_VARIABLE = "RANKONE_GAP_DIR"
_MOVE = re.compile(r"\s*M_(?P<name>\w+)\s*:=\s*(?P<cycles>[\s\d(),]*?)\s*;\s*")
_IDENTICAL = re.compile(r"\s*ip\s*:=\s*\[(?P<lists>.*)\]\s*;\s*")
_CYCLE = re.compile(r"\(([\s\d,]*)\)")
_LIST = re.compile(r"\[([\s\d,]*)\]")


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",") if word.strip()]


def parse_gap_text(text: str, name: str = "") -> CayleyGraphDef:
    """The puzzle of a file's text.

    Raises:
        CayleyError: where it has no move, or a move is no permutation.

    Example:
        >>> parse_gap_text("M_R:=(1,2,3);").generators_permutations
        [[1, 2, 0]]
    """
    moves: dict[str, list[list[int]]] = {}
    identical: list[list[int]] = []
    # A statement may run over several lines; a comment ends its own.
    lines = (line.partition("#")[0] for line in text.splitlines())
    for statement in " ".join(lines).split(";"):
        move = _MOVE.fullmatch(statement + ";")
        if move:
            cycles = [_numbers(found) for found in _CYCLE.findall(move["cycles"])]
            moves[move["name"]] = [cycle for cycle in cycles if cycle]
            continue
        lists = _IDENTICAL.fullmatch(statement + ";")
        if lists:
            identical = [_numbers(found) for found in _LIST.findall(lists["lists"])]
    check(moves, "the file must have a line M_name:=(..)..;, got none")
    positions = [p for cycles in moves.values() for cycle in cycles for p in cycle]
    positions += [p for pieces in identical for p in pieces]
    check(positions, "the moves of the file move nothing")
    n = max(positions)
    state = list(range(n))
    for pieces in identical:
        for position in pieces:
            state[position - 1] = pieces[0] - 1
    numbers: dict[int, int] = {}
    state = [numbers.setdefault(color, len(numbers)) for color in state]
    return CayleyGraphDef.create(
        [permutation_from_cycles(n, cycles, offset=1) for cycles in moves.values()],
        list(moves),
        state,
        name,
    )


class GapPuzzles:
    """Puzzles by name and from files.

    Example:
        >>> from rankone.cayley import GapPuzzles
        >>> GapPuzzles.puzzle("dino").n_generators
        16
    """

    @staticmethod
    def list_puzzles() -> list[str]:
        """The names that :meth:`puzzle` knows, in alphabetical order."""
        return sorted(CUTS)

    @staticmethod
    def puzzle(puzzle_name: str, make_inverse_closed: bool = True) -> CayleyGraphDef:
        """A puzzle by name, made by :func:`puzzle_from_cuts` with all moves.

        Args:
            puzzle_name: one of :meth:`list_puzzles`, or the name of a file, without ".gap", in
                :meth:`get_gaps_dir`.
            make_inverse_closed: add the inverse turns.

        Raises:
            CayleyError: for an unknown name.
        """
        file = GapPuzzles.get_gaps_dir() / f"{puzzle_name}.gap"
        if puzzle_name in CUTS:
            definition = puzzle_from_cuts(
                CUTS[puzzle_name], make_inverse_closed=False, name=f"{puzzle_name}.gap"
            )
        elif file.is_file():
            definition = GapPuzzles.load_puzzle_from_file(file)
        else:
            raise CayleyError(
                f"puzzle_name must be one of GapPuzzles.list_puzzles(), got {puzzle_name!r}"
            )
        return definition.make_inverse_closed() if make_inverse_closed else definition

    @staticmethod
    def get_gaps_dir() -> Path:
        """Folder of further GAP files: $RANKONE_GAP_DIR, else ~/.local/share/rankone/gap.

        The puzzles of :meth:`list_puzzles` need no files, and the folder need not exist.
        """
        folder = os.environ.get(_FOLDER_VARIABLE)
        return Path(folder) if folder else Path.home() / ".local" / "share" / "rankone" / "gap"

    @staticmethod
    def load_puzzle_from_file(file_name: str | os.PathLike[str]) -> CayleyGraphDef:
        """The puzzle of a GAP file, named after it, without inverses added.

        Raises:
            CayleyError: for a file without moves.
            FileNotFoundError: where there is none.
        """
        path = Path(file_name)
        return parse_gap_text(path.read_text(encoding="utf-8"), path.name)

    @staticmethod
    def save_puzzle_to_file(definition: CayleyGraphDef, file_name: str | os.PathLike[str]) -> None:
        """Write a graph of permutations as a GAP file, whole or not at all.

        Raises:
            CayleyError: for a matrix group, or a name of a generator that GAP does not take.
        """
        check(definition.is_permutation_group(), "a GAP file holds permutations, got matrices")
        lines = []
        for name, generator in zip(
            definition.generator_names, definition.generators_permutations, strict=True
        ):
            check(
                re.fullmatch(r"\w+", name),
                f"generator names must be letters, digits and underscores, got {name!r}",
            )
            cycles = cycles_of(generator)
            text = "".join("(" + ",".join(str(p + 1) for p in cycle) + ")" for cycle in cycles)
            lines.append(f"M_{name}:={text or '()'};")
        places: dict[int, list[int]] = {}
        for position, color in enumerate(definition.central_state):
            places.setdefault(color, []).append(position + 1)
        lists = ",".join(
            "[" + ",".join(map(str, found)) + "]" for found in places.values() if len(found) > 1
        )
        lines.append(f"ip:=[{lists}];")
        write_whole(file_name, "\n".join(lines) + "\n")
