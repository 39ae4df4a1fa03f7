"""Graphs by name: every family, every puzzle, and the name that a definition carries.

``prepare_graph(name)`` takes the name of a method of :class:`PermutationGroups`,
:class:`MatrixGroups` or :class:`Puzzles` with its arguments as keywords, the name of a puzzle of
:class:`GapPuzzles`, or what ``definition.name`` says, so that ``prepare_graph(d.name) == d``.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

from rankone.cayley.cayley_graph_def import CayleyGraphDef
from rankone.cayley.errors import CayleyError
from rankone.cayley.matrix_groups import MatrixGroups
from rankone.cayley.permutation_groups import PermutationGroups
from rankone.cayley.puzzles import GapPuzzles, Puzzles

_INT = r"(\d+)"


def _named(pattern: str, make: Callable[..., CayleyGraphDef]) -> tuple[re.Pattern[str], Any]:
    return re.compile(pattern), make


def _matrix(function: Callable[..., CayleyGraphDef]) -> Callable[..., CayleyGraphDef]:
    def make(n: str, modulo: str | None, closed: str | None) -> CayleyGraphDef:
        return function(n=int(n), modulo=int(modulo or 0), add_inverses=bool(closed))

    return make


def _matrix_closed(function: Callable[..., CayleyGraphDef]) -> Callable[..., CayleyGraphDef]:
    return lambda n, modulo: function(int(n), int(modulo or 0))


def _tree(n: str, edges: str) -> CayleyGraphDef:
    pairs = [[int(end) for end in edge.split(",")] for edge in edges.split("+")]
    return PermutationGroups.transposition_tree(int(n), pairs)


def _classes(n: str, classes: str, seed: str | None) -> CayleyGraphDef:
    sizes: dict[tuple[int, ...], int | None] = {}
    for entry in classes.split("+"):
        lengths, _, size = entry.partition(":")
        sizes[tuple(map(int, lengths.split(".")))] = int(size) if size else None
    random_state = int(seed) if seed else None
    return PermutationGroups.conjugacy_classes(int(n), sizes, random_state=random_state)


def _koltsov(n: str, k: str, d: str | None) -> CayleyGraphDef:
    if d is None:
        return PermutationGroups.koltsov3(int(n), 2, int(k))
    return PermutationGroups.koltsov3(int(n), 1, int(k), int(d))


def _integers(function: Callable[..., CayleyGraphDef]) -> Callable[..., CayleyGraphDef]:
    return lambda *numbers: function(*map(int, numbers))


_GROUPS = PermutationGroups
_ONE = (
    "all_transpositions",
    "transposons",
    "block_interchange",
    "full_reversals",
    "signed_reversals",
    "lx",
    "coxeter",
    "cyclic_coxeter",
    "pancake",
    "burnt_pancake",
    "three_cycles",
    "three_cycles_0ij",
    "derangements",
    "stars",
    "rapaport_m1",
    "rapaport_m2",
    "all_cycles",
    "larx",
    "down_cycles",
    "prefix_cycles",
    "hypercube",
    "square_with_whiskers",
)
_TWO = (
    "top_spin",
    "cubic_pancake",
    "wrapped_k_cycles",
    "increasing_k_cycles",
    "consecutive_k_cycles",
    "torus",
)

# The names that definitions carry. Anything of the form "<method>-<integers>" is one of _ONE, _TWO.
_NAMES = (
    *(_named(rf"{name}-{_INT}", _integers(getattr(_GROUPS, name))) for name in _ONE),
    *(_named(rf"{name}-{_INT}-{_INT}", _integers(getattr(_GROUPS, name))) for name in _TWO),
    _named(rf"lrx-{_INT}", _integers(_GROUPS.lrx)),
    _named(rf"lrx-{_INT}\(k={_INT}\)", _integers(_GROUPS.lrx)),
    _named(rf"coxeter b_{_INT}", _integers(_GROUPS.coxeter_b)),
    _named(rf"coxeter d_{_INT}", _integers(_GROUPS.coxeter_d)),
    _named(
        rf"three_cycles_01i-{_INT}(-ic)?",
        lambda n, closed: _GROUPS.three_cycles_01i(int(n), bool(closed)),
    ),
    _named(rf"involutive-derangements-{_INT}", _integers(_GROUPS.involutive_derangements)),
    _named(rf"generalized-stars-{_INT}-{_INT}", _integers(_GROUPS.generalized_stars)),
    _named(
        rf"lsl_cycles-{_INT}(-directed)?",
        lambda n, directed: _GROUPS.lsl_cycles(int(n), not directed),
    ),
    _named(rf"sheveleva2-n{_INT}-k{_INT}", _integers(_GROUPS.sheveleva2)),
    _named(rf"koltsov3-n{_INT}-k{_INT}(?:-type1-d{_INT})?", _koltsov),
    _named(rf"transposition_tree-{_INT}-([\d,+]+)", _tree),
    _named(rf"conjugacy_classes-{_INT}-([\d.+:]+)(?:-seed{_INT})?", _classes),
    _named(
        rf"rand_generators-{_INT}-{_INT}-seed{_INT}",
        lambda n, k, seed: _GROUPS.rand_generators(int(n), int(k), random_state=int(seed)),
    ),
    _named(rf"heisenberg-{_INT}(?:%{_INT})?(-ic)?", _matrix(MatrixGroups.heisenberg)),
    _named(rf"unitriangular-{_INT}(?:%{_INT})?(-ic)?", _matrix(MatrixGroups.unitriangular)),
    _named(
        rf"sl_fund_roots-{_INT}(?:%{_INT})?",
        _matrix_closed(MatrixGroups.special_linear_fundamental_roots),
    ),
    _named(
        rf"sl_root_weyl-{_INT}(?:%{_INT})?", _matrix_closed(MatrixGroups.special_linear_root_weyl)
    ),
    _named(rf"rubik_cube-{_INT}-(\w+)", lambda n, metric: Puzzles.rubik_cube(int(n), metric)),
    _named(rf"globe_puzzle-{_INT}-{_INT}", _integers(Puzzles.globe_puzzle)),
    _named(rf"hungarian_rings-{_INT}-{_INT}-{_INT}-{_INT}", _integers(Puzzles.hungarian_rings)),
    _named(r"(.+)\.gap-ic", lambda name: GapPuzzles.puzzle(name)),
    _named(r"(.+)\.gap", lambda name: GapPuzzles.puzzle(name, make_inverse_closed=False)),
)

_LEGACY: dict[str, Callable[[], CayleyGraphDef]] = {
    "cube_2/2/2_6gensQTM": lambda: Puzzles.rubik_cube(2, "fixed_QTM"),
    "cube_2/2/2_9gensHTM": lambda: Puzzles.rubik_cube(2, "fixed_HTM"),
    "cube_3/3/3_12gensQTM": lambda: Puzzles.rubik_cube(3, "QTM"),
    "cube_3/3/3_18gensHTM": lambda: Puzzles.rubik_cube(3, "HTM"),
}


def _libraries() -> dict[str, Callable[..., CayleyGraphDef]]:
    """Every static method of the three libraries."""
    return {
        name: getattr(library, name)
        for library in (PermutationGroups, MatrixGroups, Puzzles)
        for name, member in vars(library).items()
        if isinstance(member, staticmethod)
    }


def _hungarian_rings(n: int) -> CayleyGraphDef:
    """Two rings with 2 crossings on n points."""
    right = (n + 2) // 2
    left = n + 2 - right
    left_index = right // 3
    return Puzzles.hungarian_rings(left, left_index, right, left_index + 1)


def prepare_graph(name: str, n: int = 0, **kwargs: Any) -> CayleyGraphDef:
    """A predefined graph.

    Args:
        name: a method of the three libraries, a puzzle, a definition's name, or one of
            "cube_2/2/2_6gensQTM", "cube_2/2/2_9gensHTM", "cube_3/3/3_12gensQTM",
            "cube_3/3/3_18gensHTM", "01i" and "hungarian_rings" (with n).
        n: the family's n.
        **kwargs: its other arguments.

    Returns:
        Its definition.

    Raises:
        CayleyError: for an unknown name, naming near ones, or arguments that the family has not.

    Example:
        >>> from rankone.cayley import prepare_graph
        >>> prepare_graph("lx-7").n_generators, prepare_graph("top_spin", n=6, k=3).name
        (2, 'top_spin-6-3')
    """
    if name in _LEGACY:
        return _LEGACY[name]()
    if name == "01i":
        return PermutationGroups.three_cycles_01i(n, **kwargs)
    if name == "hungarian_rings" and not kwargs:
        return _hungarian_rings(n)
    libraries = _libraries()
    if name in libraries:
        function = libraries[name]
        if n and "n" in inspect.signature(function).parameters:
            kwargs["n"] = n
        try:
            inspect.signature(function).bind(**kwargs)
        except TypeError as error:
            raise CayleyError(f"arguments of {name!r}: {error}") from None
        return function(**kwargs)
    for pattern, make in _NAMES:
        match = pattern.fullmatch(name)
        if match:
            return make(*match.groups())
    if name in GapPuzzles.list_puzzles():
        return GapPuzzles.puzzle(name, **kwargs)
    if name.endswith("-ic"):
        return prepare_graph(name.removesuffix("-ic"), n, **kwargs).make_inverse_closed()
    known = [*libraries, *_LEGACY, *GapPuzzles.list_puzzles()]
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise CayleyError(f"no graph is called {name!r}{hint}")


def prepare_graph_from_words(name: str, words: Sequence[str]) -> CayleyGraphDef:
    """A predefined graph from a command line: its name, then its arguments in order.

    Raises:
        CayleyError: as :func:`prepare_graph`, and for too many arguments.

    Example:
        >>> prepare_graph_from_words("top_spin", ["6", "3"]).name
        'top_spin-6-3'
    """
    function = _libraries().get(name)
    parameters = [] if function is None else list(inspect.signature(function).parameters)
    if name == "hungarian_rings" and len(words) == 1:
        parameters = ["n"]
    if len(words) > len(parameters):
        takes = f"takes {', '.join(parameters)}" if parameters else "takes no arguments"
        raise CayleyError(f"{name!r} {takes}, got {' '.join(words)}")
    values: list[Any] = [int(word) if word.lstrip("-").isdigit() else word for word in words]
    return prepare_graph(name, **dict(zip(parameters, values, strict=False)))


__all__ = ["MatrixGroups", "PermutationGroups", "prepare_graph", "prepare_graph_from_words"]
