"""Puzzles with conventions of their own: cubes, rings, globes, and some cut solids.

Conventions: CayleyPy Growth, arXiv 2509.19162; numbers of stickers of the cut solids are this
project's own.
"""

from __future__ import annotations

import itertools

import numpy as np

from rankone.cayley.cayley_graph_def import CayleyGraphDef
from rankone.cayley.errors import CayleyError, check, check_range
from rankone.cayley.permutation_utils import (
    compose_permutations,
    identity_perm,
    inverse_permutation,
    permutation_from_cycles,
)
from rankone.cayley.puzzles.cube import cube_slices, rubik_cube
from rankone.cayley.puzzles.cut_table import CUTS
from rankone.cayley.puzzles.gap_puzzles import GapPuzzles
from rankone.cayley.puzzles.geometry import cut_solid, nearest_points, rotation

# Tips of the pyraminx by the faces opposite to them.
_PYRAMINX_TIPS = {"r": "BL", "l": "BR", "b": "F", "u": "D"}
# Faces of the megaminx by the faces opposite to them, seen with U up and F in front.
_MEGAMINX = {"U": "D", "F": "B", "L": "DR", "BL": "FR", "BR": "FL", "R": "DL"}


def _moves(moves: dict[str, list[int]], name: str, state: list[int] | None = None):
    return CayleyGraphDef.create(list(moves.values()), list(moves), state, name)


def _with_inverse(moves: dict[str, list[int]], name: str, move: list[int]) -> None:
    moves[name] = move
    moves[f"{name}_inv"] = inverse_permutation(move)


class Puzzles:
    """Puzzles with conventions of their own.

    Example:
        >>> from rankone.cayley import Puzzles
        >>> Puzzles.rubik_cube(3, "HTM").n_generators
        18
    """

    @staticmethod
    def rubik_cube(cube_size: int, metric: str) -> CayleyGraphDef:
        """The n x n x n cube, one colour a face.

        Args:
            cube_size: n, at least 2.
            metric: "QSTM": quarter turns of every slice; "QTM": of every slice but the middle one
                of an odd cube; "HTM": QTM and half turns; "ATM": all turns of the slices of one
                axis at once; "fixed_QTM", "fixed_HTM": the 2x2x2 with one corner fixed.

        Raises:
            CayleyError: for another metric, or a fixed corner of a larger cube.
        """
        return rubik_cube(cube_size, metric)

    @staticmethod
    def globe_puzzle(a: int, b: int) -> CayleyGraphDef:
        """A globe of a + 1 rows of 2b tiles: rows turn (r_i), half globes flip (f_j)."""
        check_range("a", a, 1)
        check_range("b", b, 1)
        columns = 2 * b
        n = (a + 1) * columns
        moves: dict[str, list[int]] = {}
        for row in range(a + 1):
            cycle = [row * columns + column for column in range(columns)]
            _with_inverse(moves, f"r{row}", permutation_from_cycles(n, [cycle]))
        for j in range(columns):
            exchange = identity_perm(n)
            for i, t in itertools.product(range((a + 1) // 2), range(b)):
                here = i * columns + (j + t) % columns
                there = (a - i) * columns + (j + b - 1 - t) % columns
                exchange[here], exchange[there] = there, here
            moves[f"f{j}"] = exchange
        return _moves(moves, f"globe_puzzle-{a}-{b}")

    @staticmethod
    def hungarian_rings(
        left_size: int, left_index: int, right_size: int, right_index: int
    ) -> CayleyGraphDef:
        """Two rings that cross at one place (both indexes 0) or two, each of which turns.

        Args:
            left_size: stones of the left ring, 0..left_size-1.
            left_index: where the rings cross a second time, on the left ring, at most half way.
            right_size: stones of the right ring.
            right_index: the same place on the right ring, counted backwards.

        Raises:
            CayleyError: for a size below 2, an index beyond half the ring, or one index 0 alone.
        """
        check_range("left_size", left_size, 2)
        check_range("right_size", right_size, 2)
        check_range("left_index", left_index, 0, left_size // 2)
        check_range("right_index", right_index, 0, right_size // 2)
        check(
            (left_index == 0) == (right_index == 0),
            "left_index and right_index must both be 0 or both be positive, "
            f"got {left_index} and {right_index}",
        )
        n = left_size + right_size - (2 if left_index else 1)
        if left_index:
            split = left_size + right_size - right_index - 1
            right = [0, *range(left_size, split), left_index, *range(split, n)]
        else:
            right = [0, *range(left_size, n)]
        turns = {
            "L": permutation_from_cycles(n, [list(range(left_size))]),
            "R": permutation_from_cycles(n, [right]),
        }
        moves = dict(turns)
        for name, turn in turns.items():
            inverse = inverse_permutation(turn)
            if inverse != turn:
                moves[f"-{name}"] = inverse
        return _moves(moves, f"hungarian_rings-{left_size}-{left_index}-{right_size}-{right_index}")

    @staticmethod
    def mini_pyramorphix() -> CayleyGraphDef:
        """The 2x2x2 of which slices turn by 180 degrees only, and its whole rotations by 180 and
        120 degrees, on 24 stickers."""
        slices = cube_slices(2)
        names = (("DF", "RL"), ("LF", "RD"), ("DL", "FR"))
        moves: dict[str, list[int]] = {}
        wholes = []
        for letter, pair in zip("frd", names, strict=True):
            halves = [slices[f"{letter}{s}"] for s in range(2)]
            wholes.append(compose_permutations(*halves))
            for name, half in zip(pair, halves, strict=True):
                moves[f"M_{name}"] = compose_permutations(half, half)
            moves[f"M_{pair[0]}v"] = compose_permutations(wholes[-1], wholes[-1])
        # Two quarter turns about different axes make a third of a turn about a diagonal.
        f, r = wholes[0], wholes[1]
        back_f, back_r = inverse_permutation(f), inverse_permutation(r)
        thirds = [(f, r), (f, back_r), (back_f, r), (back_f, back_r)]
        for name, (first, second) in zip("FDLR", thirds, strict=True):
            third = compose_permutations(first, second)
            moves[f"M_{name}v"] = third
            moves[f"M_{name}vi"] = inverse_permutation(third)
        return _moves(moves, "mini_pyramorphix")

    @staticmethod
    def picture_cube333() -> CayleyGraphDef:
        """The 3x3x3 with pictures on its centres: each is split in four, which makes 72 facelets;
        quarter turns of all nine slices."""
        grid = [(x, y) for x, y in itertools.product((-1.0, 0.0, 1.0), repeat=2) if x or y]
        grid += [(x, y) for x, y in itertools.product((-0.25, 0.25), repeat=2)]
        points = np.array(
            [
                np.roll([side, x, y], axis)
                for axis in range(3)
                for side in (1.5, -1.5)
                for x, y in grid
            ]
        )
        tree = nearest_points(points)
        moves: dict[str, list[int]] = {}
        for axis, letter in enumerate("frd"):
            slab = np.clip(np.round(points[:, axis]), -1, 1)
            turn = rotation(np.eye(3)[axis], -np.pi / 2)
            for s, height in enumerate((1, 0, -1)):
                inside = np.flatnonzero(slab == height)
                move = np.arange(len(points))
                move[tree.query(points[inside] @ turn.T)[1]] = inside
                moves[f"{letter}{s}"] = move.tolist()
                moves[f"-{letter}{s}"] = inverse_permutation(move.tolist())
        return _moves(moves, "picture_cube333")

    @staticmethod
    def pyraminx() -> CayleyGraphDef:
        """The pyraminx: tips r, l, b, u and the layers BL, BR, F, D opposite; 36 stickers."""
        cut = cut_solid(CUTS["pyraminx"])
        moves: dict[str, list[int]] = {}
        bases: dict[str, list[int]] = {}
        for axis, (tip, base) in enumerate(_PYRAMINX_TIPS.items()):
            turns = {
                slab: cut.moves[label].tolist()
                for label, (number, slab) in cut.move_slabs.items()
                if number == axis
            }
            _with_inverse(moves, tip, turns[max(turns)])
            _with_inverse(bases, base, turns[min(turns)])
        return _moves({**moves, **bases}, "pyraminx")

    @staticmethod
    def megaminx() -> CayleyGraphDef:
        """The megaminx: twelve faces by fifths of a turn, 120 stickers."""
        cut = cut_solid(CUTS["megaminx"])
        faces = _megaminx_faces([axis.direction for axis in cut.axes])
        moves: dict[str, list[int]] = {}
        moving = np.flatnonzero(
            np.any([move != np.arange(len(move)) for move in cut.moves.values()], axis=0)
        )
        renumber = np.full(len(cut.faces), -1)
        renumber[moving] = np.arange(len(moving))
        for face, (axis, outward) in faces.items():
            slabs = {
                slab: label for label, (number, slab) in cut.move_slabs.items() if number == axis
            }
            label = slabs[max(slabs) if outward > 0 else min(slabs)]
            _with_inverse(moves, f"M_{face}", renumber[cut.moves[label][moving]].tolist())
        return _moves(moves, "megaminx")

    @staticmethod
    def starminx() -> CayleyGraphDef:
        """The starminx: see :class:`GapPuzzles`."""
        return GapPuzzles.puzzle("starminx")

    @staticmethod
    def starminx_2() -> CayleyGraphDef:
        """The starminx 2: see :class:`GapPuzzles`."""
        return GapPuzzles.puzzle("starminx_2")


def _megaminx_faces(directions: list[np.ndarray]) -> dict[str, tuple[int, int]]:
    """Face -> (axis, sign), with U up, F in front, and F, L, BL, BR, R clockwise from above."""
    up = directions[0]
    # Of each other axis the end in the upper half.
    signs = [1 if axis @ up > 0 else -1 for axis in directions]
    upper = [sign * axis for sign, axis in zip(signs, directions, strict=True)]
    front = upper[1] - (upper[1] @ up) * up
    across = np.cross(front, up)
    angle = [np.arctan2(axis @ across, axis @ front) % (2 * np.pi) for axis in upper]
    ring = sorted(range(1, len(directions)), key=lambda axis: round(angle[axis], 6))
    found: dict[str, tuple[int, int]] = {}
    for face, axis in zip(("U", "F", "L", "BL", "BR", "R"), (0, *ring), strict=True):
        found[face] = (axis, signs[axis])
    if set(found) != set(_MEGAMINX):
        raise CayleyError("the faces of the dodecahedron were not found")
    return {
        name: place
        for face, opposite in _MEGAMINX.items()
        for name, place in (
            (face, found[face]),
            (opposite, (found[face][0], -found[face][1])),
        )
    }
