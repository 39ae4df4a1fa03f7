"""The cuts of the puzzles that :class:`GapPuzzles` serves by name.

Distances in units of the inradius. The names are those of the collection of GAP files that
CayleyPy ships; the cuts were found for this project so that stickers, generators and the first
layers of growth agree with those files.
"""

from __future__ import annotations

from fractions import Fraction

_CUBES = (*range(2, 14), 20, 30, 40)

_DINO = "v 0.577350269189626"
_CHOP = "e 0"


def _cube(n: int) -> str:
    """Planes at 1 - 2i/n; the mirror images come from the opposite faces."""
    return "c " + " ".join(f"f {1 - Fraction(2 * i, n)}" for i in range(1, n // 2 + 1))


def _tetrahedron(layers: int, *, tips: bool) -> str:
    last = layers if tips else layers - 1
    return "t " + " ".join(f"v {Fraction(4 * j, layers) - 1}" for j in range(1, last))


def _minx(layers: int) -> str:
    return "d " + " ".join(f"f {1 - 0.36 * j / layers:.15g}" for j in range(1, layers + 1))


_PREFIXES = ("", "master_", "professor_", "royal_", "emperor_")

CUTS: dict[str, str] = {
    **{f"{n}x{n}x{n}": _cube(n) for n in _CUBES},
    "skewb": "c v 0",
    "master_skewb": "c v 0.275",
    "professor_skewb": "c v 0 v 0.38",
    "compy_cube": "c v 0.866",
    "dino": f"c {_DINO}",
    "helicopter": "c e 0.707106781186547",
    "curvy_copter": "c e 0.83",
    "little_chop": f"c {_CHOP}",
    "2x2x2_+_dino": f"c f 0 {_DINO}",
    "2x2x2_+_little_chop": f"c f 0 {_CHOP}",
    "dino_+_little_chop": f"c {_DINO} {_CHOP}",
    "2x2x2_+_dino_+_little_chop": f"c f 0 {_DINO} {_CHOP}",
    **{f"{p}pyraminx": _tetrahedron(n, tips=True) for n, p in enumerate(_PREFIXES, 3)},
    **{f"{p}tetraminx": _tetrahedron(n, tips=False) for n, p in enumerate(_PREFIXES, 3)},
    "Jing_pyraminx": "t f 0",
    "pyramorphix": "t e 0",
    "mastermorphix": "t e 0.346184634065199",
    "master_pyramorphix": "t e 0.866025403784437",
    "megaminx": "d f 0.7",
    "gigaminx": _minx(2),
    "teraminx": _minx(3),
    "petaminx": _minx(4),
    "examinx": _minx(5),
    "zetaminx": _minx(6),
    "yottaminx": _minx(7),
    "pentultimate": "d f 0",
    "master_pentultimate": "d f 0.1",
    "elite_pentultimate": "d f 0 f 0.145905",
    "pyraminx_crystal": "d f 0.447213595499958",
    "starminx": "d v 0.937962370425399",
    "starminx_2": "d f 0.23606797749979",
    "starminx_combo": "d f 0.23606797749979 v 0.937962370425399",
    "chopasaurus": "d v 0",
    "big_chop": "d e 0",
    "megaminx_+_chopasaurus": "d f 0.61803398875 v 0",
    "skewb_diamond": "o f 0",
    "FTO": "o f 1/3",
    "master_FTO": "o f 0.5 f 0",
    "Christopher's_jewel": "o v 0.577350269189626",
    "octastar": "o e 0",
    "Trajber's_octahedron": "o v 0.433012701892219",
    "radio_chop": "i f 0",
    "Eitan's_star": "i f 0.61803398874989",
    "icosamate": "i v 0",
    "Regular_Astrominx": "i v 0.18759247376021",
    "Regular_Astrominx_+_Big_Chop": "i v 0.18759247376021 e 0",
    "Redicosahedron": "i v 0.794654472291766",
    "Redicosahedron_with_centers": "i v 0.84",
    "Icosaminx": "i v 0.73",
}
