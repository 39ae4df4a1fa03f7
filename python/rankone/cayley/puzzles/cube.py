"""The n x n x n cube by formula.

Sticker number face n^2 + row n + column, faces in the order U, F, R, B, L, D. A slice is a product
of 4-cycles of stickers around the cube and, at either end, of a face turned; the central state is
the colour of each face. Conventions: CayleyPy Growth, arXiv 2509.19162.
"""

from __future__ import annotations

import itertools

from rankone.cayley.cayley_graph_def import CayleyGraphDef
from rankone.cayley.errors import CayleyError, check, check_range
from rankone.cayley.permutation_utils import (
    compose_permutations,
    identity_perm,
    inverse_permutation,
    permutation_from_cycles,
)

U, F, R, B, L, D = range(6)
METRICS = ("QSTM", "QTM", "HTM", "ATM", "fixed_QTM", "fixed_HTM")

Slices = dict[str, list[int]]


def _face_turn(n: int, face: int, *, clockwise: bool) -> list[list[int]]:
    """Cycles (row, column) -> (column, n - 1 - row) of a face, or their inverses."""
    seen: set[tuple[int, int]] = set()
    cycles = []
    for start in itertools.product(range(n), repeat=2):
        row, column = start
        cycle = []
        while (row, column) not in seen:
            seen.add((row, column))
            cycle.append(face * n * n + row * n + column)
            row, column = column, n - 1 - row
        if len(cycle) > 1:
            cycles.append(cycle if clockwise else cycle[::-1])
    return cycles


def cube_slices(n: int) -> Slices:
    """The 3n slices f0.., r0.., d0.. of an n x n x n cube."""

    def sticker(face: int, row: int, column: int) -> int:
        return face * n * n + row * n + column

    slices: Slices = {}
    last = n - 1
    for s in range(n):
        cycles = [
            [
                sticker(L, last - k, last - s),
                sticker(D, s, last - k),
                sticker(R, k, s),
                sticker(U, last - s, k),
            ]
            for k in range(n)
        ]
        if s == 0:
            cycles += _face_turn(n, F, clockwise=False)
        if s == last:
            cycles += _face_turn(n, B, clockwise=True)
        slices[f"f{s}"] = permutation_from_cycles(6 * n * n, cycles)
    for s in reversed(range(n)):
        cycles = [
            [sticker(U, k, s), sticker(F, k, s), sticker(D, k, s), sticker(B, last - k, last - s)]
            for k in range(n)
        ]
        if s == 0:
            cycles += _face_turn(n, L, clockwise=True)
        if s == last:
            cycles += _face_turn(n, R, clockwise=False)
        slices[f"r{last - s}"] = permutation_from_cycles(6 * n * n, cycles)
    for s in range(n):
        row = last - s
        cycles = [[sticker(face, row, k) for face in (F, L, B, R)] for k in range(n)]
        if s == 0:
            cycles += _face_turn(n, D, clockwise=False)
        if s == last:
            cycles += _face_turn(n, U, clockwise=True)
        slices[f"d{s}"] = permutation_from_cycles(6 * n * n, cycles)
    return slices


def _with_inverses(slices: Slices, *, mark: str, squares: bool = False) -> Slices:
    moves: Slices = {}
    for name, move in slices.items():
        moves[name] = move
        moves[name + mark] = inverse_permutation(move)
        if squares:
            moves[name + "^2"] = compose_permutations(move, move)
    return moves


def _axis_moves(n: int, slices: Slices) -> Slices:
    """Every way to turn the slices of one axis by 0, 90 or -90 degrees, less the one that does
    nothing."""
    moves: Slices = {}
    for axis, letter in zip("XYZ", "rdf", strict=True):
        for turns in itertools.product(("", "cw", "ccw"), repeat=n):
            move = identity_perm(6 * n * n)
            name = f"axis_{axis}"
            for s, turn in enumerate(turns):
                if turn:
                    one = slices[f"{letter}{s}"]
                    one = one if turn == "cw" else inverse_permutation(one)
                    move = compose_permutations(move, one)
                    name += f"_s{s}_{turn}"
            if any(turns):
                moves[name] = move
    return moves


def rubik_cube(cube_size: int, metric: str) -> CayleyGraphDef:
    """See :meth:`rankone.cayley.Puzzles.rubik_cube`."""
    check_range("cube_size", cube_size, 2)
    if metric not in METRICS:
        raise CayleyError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
    n = cube_size
    slices = cube_slices(n)
    if metric == "QSTM":
        moves = _with_inverses(slices, mark="_inv")
    elif metric == "ATM":
        moves = _axis_moves(n, slices)
    else:
        if metric.startswith("fixed"):
            check(n == 2, f"metric {metric!r} is of the 2x2x2 cube, got cube_size {n}")
            # r0 is the slice of face R; the metric calls it r1.
            slices = {"f0": slices["f0"], "r1": slices["r0"], "d0": slices["d0"]}
        elif n % 2:
            middle = str(n // 2)
            slices = {name: move for name, move in slices.items() if name[1:] != middle}
        moves = _with_inverses(slices, mark="'", squares=metric.endswith("HTM"))
    colors = [face for face in range(6) for _ in range(n * n)]
    return CayleyGraphDef.create(
        list(moves.values()), list(moves), colors, f"rubik_cube-{n}-{metric}"
    )
