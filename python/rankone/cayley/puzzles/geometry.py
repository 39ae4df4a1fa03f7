"""Twisty puzzles from geometry: a Platonic solid, cut by planes, slabs of which turn.

The faces are cut into stickers by every plane; an axis with k cuts has k + 1 slabs, of which the
middle one, where there is one, stays still; a move turns one slab by the smallest rotation that
maps the solid to itself. This project's own design; no data files.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np

from rankone.cayley._extras import need
from rankone.cayley.cayley_graph_def import CayleyGraphDef
from rankone.cayley.errors import CayleyError, check

# Lengths are in units of the inradius.
CLIP_TOLERANCE = 1e-7
SMALLEST_AREA = 1e-6
MATCH_TOLERANCE = 1e-4
_SAME_AXIS = 1e-6

_GOLDEN = (1 + 5**0.5) / 2
# A rotation symmetry of a Platonic solid about an axis of a face, vertex or edge has one of these
# orders.
_ORDERS = (5, 4, 3, 2)
SOLIDS = {"t": "o", "c": "o", "o": "c", "d": "i", "i": "d"}


def _even_permutations(rows: list[tuple[float, float, float]]) -> np.ndarray:
    return np.array([np.roll(row, shift) for row in rows for shift in range(3)])


def _signs(row: tuple[float, float, float]) -> list[tuple[float, float, float]]:
    found = {
        tuple(sign * entry for sign, entry in zip(signs, row, strict=True))
        for signs in itertools.product((1.0, -1.0), repeat=3)
    }
    return sorted(tuple(entry + 0.0 for entry in point) for point in found)  # type: ignore[misc]


def _directions(solid: str) -> np.ndarray:
    """Unit vectors to the vertices."""
    if solid == "t":
        points = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=float)
    elif solid == "c":
        points = np.array(_signs((1.0, 1.0, 1.0)))
    elif solid == "o":
        points = np.vstack([np.eye(3), -np.eye(3)])
    elif solid == "i":
        points = _even_permutations(_signs((0.0, _GOLDEN, 1.0)))
    else:
        cyclic = _even_permutations(_signs((0.0, 1 / _GOLDEN, _GOLDEN)))
        points = np.vstack([np.array(_signs((1.0, 1.0, 1.0))), cyclic])
    return points / np.linalg.norm(points, axis=1, keepdims=True)


@dataclass(frozen=True)
class Solid:
    """A Platonic solid of inradius 1 about the origin.

    Attributes:
        vertices: (V, 3).
        faces: (F, 3) unit normals.
        edges: (E, 3) unit vectors to the middles of the edges.
    """

    vertices: np.ndarray
    faces: np.ndarray
    edges: np.ndarray

    def directions(self, kind: str) -> np.ndarray:
        """Unit vectors to faces ("f"), vertices ("v") or edges ("e")."""
        if kind == "v":
            return self.vertices / np.linalg.norm(self.vertices, axis=1, keepdims=True)
        return self.faces if kind == "f" else self.edges

    def polygon(self, face: int) -> np.ndarray:
        """The corners of a face, counter-clockwise as seen from outside."""
        normal = self.faces[face]
        corners = self.vertices[np.abs(self.vertices @ normal - 1) < _SAME_AXIS]
        first = corners[0] - normal
        angle = np.arctan2(corners @ np.cross(normal, first), corners @ first)
        return corners[np.argsort(angle)]


@lru_cache(maxsize=len(SOLIDS))
def solid(letter: str) -> Solid:
    """The solid t, c, o, d or i: tetrahedron, cube, octahedron, dodecahedron, icosahedron."""
    if letter not in SOLIDS:
        raise CayleyError(f"the solid must be one of {', '.join(SOLIDS)}, got {letter!r}")
    directions = _directions(letter)
    faces = -directions if letter == "t" else _directions(SOLIDS[letter])
    vertices = directions / np.max(faces @ directions.T)
    distance = np.linalg.norm(vertices[:, None] - vertices[None], axis=2)
    shortest = distance[distance > _SAME_AXIS].min()
    pairs = np.argwhere(np.triu(np.abs(distance - shortest) < _SAME_AXIS))
    middles = vertices[pairs].mean(axis=1)
    return Solid(vertices, faces, middles / np.linalg.norm(middles, axis=1, keepdims=True))


def nearest_points(points: np.ndarray) -> Any:
    """A tree that answers which of ``points`` (N, 3) is nearest."""
    return need("scipy.spatial", "the geometry of puzzles").cKDTree(points)


def rotation(axis: np.ndarray, angle: float) -> np.ndarray:
    """The matrix of a counter-clockwise rotation about a unit vector (Rodrigues)."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


@dataclass(frozen=True)
class Axis:
    """An axis of a puzzle.

    Attributes:
        direction: unit vector.
        cuts: distances of its planes along the direction, ascending.
        label: kind and number, such as "f0".
        order: a turn is by 360 degrees over this.
    """

    direction: np.ndarray
    cuts: np.ndarray
    label: str
    order: int

    def moving_slabs(self) -> list[int]:
        """Numbers of the slabs that turn, from the outermost along the direction inwards."""
        slabs = len(self.cuts) + 1
        return [s for s in reversed(range(slabs)) if not (slabs % 2 and s == slabs // 2)]

    def slab_of(self, points: np.ndarray) -> np.ndarray:
        """In which slab each point lies."""
        return np.searchsorted(self.cuts, points @ self.direction)


def parse_cuts(description: str) -> tuple[str, list[tuple[str, float]]]:
    """``"c f 1/3"`` as ``("c", [("f", 0.333...)])``."""
    words = description.split()
    check(
        len(words) >= 3 and len(words) % 2 == 1,
        f"description must be a solid and pairs of kind and distance, got {description!r}",
    )
    cuts = []
    for kind, text in zip(words[1::2], words[2::2], strict=True):
        check(kind in ("f", "v", "e"), f"the kind of a cut must be f, v or e, got {kind!r}")
        try:
            cuts.append((kind, float(Fraction(text))))
        except (ValueError, ZeroDivisionError):
            raise CayleyError(f"the distance of a cut must be a number, got {text!r}") from None
    return words[0], cuts


def _axes(body: Solid, cuts: list[tuple[str, float]]) -> list[Axis]:
    """Axes up to sign, with the distances of all their planes."""
    directions: list[np.ndarray] = []
    labels: list[str] = []
    distances: list[set[float]] = []
    counters: dict[str, int] = defaultdict(int)
    for kind, distance in cuts:
        for direction in body.directions(kind):
            cosines = np.array([known @ direction for known in directions])
            parallel = np.flatnonzero(np.abs(cosines) > 1 - _SAME_AXIS)
            if len(parallel):
                index = int(parallel[0])
                signed = distance if cosines[index] > 0 else -distance
            else:
                index, signed = len(directions), distance
                directions.append(direction)
                labels.append(f"{kind}{counters[kind]}")
                counters[kind] += 1
                distances.append(set())
            if all(abs(signed - other) > _SAME_AXIS for other in distances[index]):
                distances[index].add(signed)
    return [
        Axis(direction, np.array(sorted(found)), label, _rotation_order(body, direction))
        for direction, label, found in zip(directions, labels, distances, strict=True)
    ]


def _rotation_order(body: Solid, direction: np.ndarray) -> int:
    tree = nearest_points(body.vertices)
    for order in _ORDERS:
        turned = body.vertices @ rotation(direction, 2 * np.pi / order).T
        if tree.query(turned)[0].max() < MATCH_TOLERANCE:
            return order
    raise CayleyError("no rotation about the axis maps the solid to itself")


def _split(polygon: np.ndarray, side: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The parts of a convex polygon where the signed distance ``side`` is negative and positive."""
    parts: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    count = len(polygon)
    for here in range(count):
        there = (here + 1) % count
        a, b = side[here], side[there]
        if a <= CLIP_TOLERANCE:
            parts[0].append(polygon[here])
        if a >= -CLIP_TOLERANCE:
            parts[1].append(polygon[here])
        if min(a, b) < -CLIP_TOLERANCE and max(a, b) > CLIP_TOLERANCE:
            point = polygon[here] + (polygon[there] - polygon[here]) * (a / (a - b))
            parts[0].append(point)
            parts[1].append(point)
    return np.array(parts[0]), np.array(parts[1])


def _area_and_centroid(polygon: np.ndarray) -> tuple[float, np.ndarray]:
    fan = np.cross(polygon[1:-1] - polygon[0], polygon[2:] - polygon[0])
    weights = np.linalg.norm(fan, axis=1) / 2
    middles = (polygon[0] + polygon[1:-1] + polygon[2:]) / 3
    area = float(weights.sum())
    return area, (weights @ middles / area if area else polygon.mean(axis=0))


def _cut_face(polygon: np.ndarray, axes: list[Axis]) -> list[np.ndarray]:
    pieces = [polygon]
    for axis in axes:
        for distance in axis.cuts:
            corners = np.concatenate(pieces) @ axis.direction - distance
            starts = np.concatenate([[0], np.cumsum([len(piece) for piece in pieces])[:-1]])
            low = np.minimum.reduceat(corners, starts)
            high = np.maximum.reduceat(corners, starts)
            crossed = (low < -CLIP_TOLERANCE) & (high > CLIP_TOLERANCE)
            whole = [piece for piece, cut in zip(pieces, crossed, strict=True) if not cut]
            for index in np.flatnonzero(crossed):
                piece = pieces[index]
                side = corners[starts[index] : starts[index] + len(piece)]
                whole += [part for part in _split(piece, side) if len(part) >= 3]
            pieces = whole
    return pieces


@dataclass(frozen=True)
class CutSolid:
    """A solid whose faces are cut into stickers.

    Attributes:
        axes: the axes.
        centroids: (S, 3) of the stickers.
        faces: (S,) the face of each sticker.
        slabs: (S, A) the slab of each sticker along each axis.
        moves: name -> permutation of the stickers, one for each slab that turns, clockwise as seen
            from where the slab points (its axis' direction, or against it in the lower half).
        move_slabs: name -> (axis, slab).
        corner: the sticker next to vertex 0.
    """

    axes: list[Axis]
    centroids: np.ndarray
    faces: np.ndarray
    slabs: np.ndarray
    moves: dict[str, np.ndarray]
    move_slabs: dict[str, tuple[int, int]]
    corner: int


@lru_cache(maxsize=8)
def cut_solid(description: str) -> CutSolid:
    """Cut a solid; ``description`` as in :func:`puzzle_from_cuts`."""
    letter, cuts = parse_cuts(description)
    body = solid(letter)
    axes = _axes(body, cuts)
    centroids: list[np.ndarray] = []
    faces: list[int] = []
    for face in range(len(body.faces)):
        for piece in _cut_face(body.polygon(face), axes):
            area, centroid = _area_and_centroid(piece)
            if area >= SMALLEST_AREA:
                centroids.append(centroid)
                faces.append(face)
    points = np.array(centroids)
    slabs = np.stack([axis.slab_of(points) for axis in axes], axis=1)
    moves: dict[str, np.ndarray] = {}
    move_slabs: dict[str, tuple[int, int]] = {}
    for number, axis in enumerate(axes):
        for slab in axis.moving_slabs():
            outward = 1 if 2 * slab >= len(axis.cuts) + 1 else -1
            turn = rotation(outward * axis.direction, -2 * np.pi / axis.order)
            inside = np.flatnonzero(slabs[:, number] == slab)
            permutation = np.arange(len(points))
            if len(inside):
                tree = nearest_points(points[inside])
                error, target = tree.query(points[inside] @ turn.T)
                if error.max() > MATCH_TOLERANCE or len(np.unique(target)) < len(inside):
                    raise CayleyError(
                        f"the puzzle {description!r} jumbles: turned by "
                        f"{360 // axis.order} degrees, slab {slab} of axis {axis.label} does not "
                        "fall on itself"
                    )
                permutation[inside[target]] = inside
            name = f"{axis.label}_{slab}"
            moves[name] = permutation
            move_slabs[name] = (number, slab)
    near = np.linalg.norm(points - body.vertices[0], axis=1)
    return CutSolid(axes, points, np.array(faces), slabs, moves, move_slabs, int(near.argmin()))


def _orbits(moves: list[np.ndarray], count: int) -> np.ndarray:
    """The smallest sticker that the moves bring to each sticker's place."""
    sparse = need("scipy.sparse", "the geometry of puzzles")
    csgraph = need("scipy.sparse.csgraph", "the geometry of puzzles")
    rows = np.concatenate([np.arange(count)] * len(moves))
    graph = sparse.coo_array(
        (np.ones(len(rows)), (rows, np.concatenate(moves))), shape=(count, count)
    )
    return csgraph.connected_components(graph, directed=False)[1]


def _colors(
    scheme: str, faces: np.ndarray, slabs: np.ndarray, moves: list[np.ndarray]
) -> list[int]:
    count = len(faces)
    if scheme == "stickers":
        return list(range(count))
    if scheme == "faces":
        keys: list[object] = faces.tolist()
    else:
        pieces: dict[tuple[int, ...], int] = defaultdict(int)
        signatures = [tuple(row) for row in slabs.tolist()]
        for signature in signatures:
            pieces[signature] += 1
        orbits = _orbits(moves, count)
        keys = [
            ("center", int(faces[i]), int(orbits[i])) if pieces[signatures[i]] == 1 else i
            for i in range(count)
        ]
    numbers: dict[object, int] = {}
    return [numbers.setdefault(key, len(numbers)) for key in keys]


def puzzle_from_cuts(
    description: str,
    *,
    moves: str = "all",
    colors: str = "pieces",
    make_inverse_closed: bool = True,
    name: str = "",
) -> CayleyGraphDef:
    """A twisty puzzle: a Platonic solid and the planes that cut it.

    Args:
        description: the solid (t, c, o, d, i) and pairs of kind and distance: planes orthogonal to
            the directions of faces (f), vertices (v) or edges (e), at a signed distance in units
            of the inradius. "c f 1/3" is the 3x3x3 cube.
        moves: "all" slabs, which counts a puzzle turned as a whole as another state; or "fixed":
            no slab that holds vertex 0, so that positions are counted modulo whole rotations.
        colors: "pieces": stickers of pieces with several stickers are all different, single
            stickers of one face and one orbit the same; "faces": one colour a face; "stickers":
            all different.
        make_inverse_closed: add the inverse turns.
        name: name of the graph.

    Returns:
        One generator a slab, named by axis and slab. Stickers that never move are left out.

    Raises:
        CayleyError: for a description that is none, or a puzzle whose slabs do not fall on
            themselves ("jumbles").

    Example:
        >>> from rankone.cayley.puzzles import puzzle_from_cuts
        >>> puzzle_from_cuts("c f 1/3").state_size
        48
    """
    check(moves in ("all", "fixed"), f"moves must be 'all' or 'fixed', got {moves!r}")
    check(
        colors in ("pieces", "faces", "stickers"),
        f"colors must be 'pieces', 'faces' or 'stickers', got {colors!r}",
    )
    cut = cut_solid(description)
    chosen = {
        label: move
        for label, move in cut.moves.items()
        if moves == "all"
        or cut.slabs[cut.corner, cut.move_slabs[label][0]] != cut.move_slabs[label][1]
    }
    identity = np.arange(len(cut.faces))
    chosen = {label: move for label, move in chosen.items() if (move != identity).any()}
    check(chosen, f"no slab of {description!r} moves a sticker")
    moved = np.flatnonzero(np.any([move != identity for move in chosen.values()], axis=0))
    renumber = np.full(len(identity), -1)
    renumber[moved] = np.arange(len(moved))
    generators = {label: renumber[move[moved]] for label, move in chosen.items()}
    definition = CayleyGraphDef.create(
        [generator.tolist() for generator in generators.values()],
        list(generators),
        _colors(colors, cut.faces[moved], cut.slabs[moved], list(generators.values())),
        name,
    )
    return definition.make_inverse_closed() if make_inverse_closed else definition
