"""The largest diameter of the symmetric group over generating sets of a kind, by exhaustion.

Sets are taken up to simultaneous conjugation, which relabels positions and changes no distance:
the first generator runs over one permutation of each cycle type, the others over everything up to
its centraliser. Each set is searched on the table of where its generators send all n! elements.
This project's own design; the question is that of CayleyPy Growth (arXiv 2509.19162).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from rankone.cayley._extras import need
from rankone.cayley.errors import CayleyError, check_range
from rankone.cayley.permutation_utils import cycle_type, is_odd

KINDS = ("pairs", "involution_triples")
# All n! permutations are held at once, and every pair of them is a set.
_MAX_N = 8


@dataclass(frozen=True)
class MaxDiameter:
    """What :func:`max_diameter_search` found.

    Attributes:
        n: positions.
        kind: kind of generating sets.
        diameter: the largest.
        n_sets: generating sets searched, up to conjugation.
        generators: the sets that have it, one a conjugation class, without inverses.
    """

    n: int
    kind: str
    diameter: int
    n_sets: int
    generators: list[list[list[int]]]


def max_diameter_search(n: int, kind: str = "pairs", n_jobs: int = 1) -> MaxDiameter:
    """Search every generating set of S_n of a kind.

    Args:
        n: 3 to 8 positions; the work grows like (n!)^2, seconds for 7.
        kind: "pairs" is {a, b} with inverses; "involution_triples" is three involutions.
        n_jobs: processes.

    Returns:
        :class:`MaxDiameter`.

    Raises:
        CayleyError: for another n or kind.

    Example:
        >>> from rankone.cayley.analysis import max_diameter_search
        >>> max_diameter_search(4, "pairs").diameter
        6
    """
    check_range("n", n, 3, _MAX_N)
    if kind not in KINDS:
        raise CayleyError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if n_jobs != -1:
        check_range("n_jobs", n_jobs, 1)
    space = _Space(n)
    firsts = space.class_representatives(involutions=kind == "involution_triples")
    if n_jobs == 1:
        parts = [_search(space, kind, first) for first in firsts]
    else:
        joblib = need("joblib", "max_diameter_search with n_jobs")
        parts = joblib.Parallel(n_jobs=n_jobs)(
            joblib.delayed(_search)(space, kind, first) for first in firsts
        )
    diameter = max(part[0] for part in parts)
    sets = [found for part in parts if part[0] == diameter for found in part[2]]
    generators = [[space.elements[i].tolist() for i in found] for found in sets]
    return MaxDiameter(n, kind, diameter, sum(part[1] for part in parts), generators)


class _Space:
    """S_n in lexicographic order, elements by number."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.elements = np.array(list(itertools.permutations(range(n))), dtype=np.int64)
        self._digits = n ** np.arange(n - 1, -1, -1)
        self._keys = self.elements @ self._digits
        inverses = np.argsort(self.elements, axis=1)
        self.inverse = self.numbers(inverses)
        self.odd = np.array([is_odd(p) for p in self.elements.tolist()])

    def numbers(self, permutations: np.ndarray) -> np.ndarray:
        """Numbers of permutations (N, n)."""
        return np.searchsorted(self._keys, permutations @ self._digits)

    def moves(self, index: int) -> np.ndarray:
        """Where a generator sends every element, by numbers: new[i] = old[p[i]]."""
        return self.numbers(self.elements[:, self.elements[index]])

    def conjugates(self, index: int) -> np.ndarray:
        """q p q^-1 of one element by every q, by numbers."""
        p = self.elements[index]
        moved = np.take_along_axis(self.elements, p[self.elements[self.inverse]], axis=1)
        return self.numbers(moved)

    def involutions(self) -> np.ndarray:
        identity = np.arange(len(self.elements))
        return np.flatnonzero((self.inverse == identity) & (identity != 0))

    def class_representatives(self, *, involutions: bool) -> list[int]:
        """The first element of each cycle type, the identity left out."""
        pool = self.involutions() if involutions else np.arange(1, len(self.elements))
        first: dict[tuple[int, ...], int] = {}
        for index in pool.tolist():
            first.setdefault(cycle_type(self.elements[index].tolist()), index)
        return list(first.values())

    def centraliser(self, index: int) -> np.ndarray:
        return np.flatnonzero(self.conjugates(index) == index)

    def conjugated_by(self, q: int, indices: np.ndarray) -> np.ndarray:
        """q p q^-1 for many p, by numbers."""
        images = self.elements[q][self.elements[indices][:, self.elements[self.inverse[q]]]]
        return self.numbers(images)

    def diameter(self, generators: tuple[int, ...]) -> int:
        """Diameter with these generators and their inverses; -1 where they do not generate S_n."""
        closed = dict.fromkeys((*generators, *(int(self.inverse[g]) for g in generators)))
        tables = [self.moves(g) for g in closed]
        seen = np.zeros(len(self.elements), dtype=bool)
        frontier = np.zeros(1, dtype=np.int64)
        seen[0] = True
        found, depth = 1, -1
        while len(frontier):
            depth += 1
            fresh = np.zeros_like(seen)
            for table in tables:
                fresh[table[frontier]] = True
            fresh &= ~seen
            seen |= fresh
            frontier = np.flatnonzero(fresh)
            found += len(frontier)
        return depth if found == len(self.elements) else -1


def _search(space: _Space, kind: str, first: int) -> tuple[int, int, list[tuple[int, ...]]]:
    """(largest diameter, sets that generate, those that reach it) with a given first generator."""
    best, count = -1, 0
    sets: list[tuple[int, ...]] = []
    for rest in _partners(space, kind, first):
        chosen = (first, *rest)
        if not space.odd[list(chosen)].any():
            continue
        if not _transitive(space.elements[list(chosen)]):
            continue
        diameter = space.diameter(chosen)
        if diameter < 0:
            continue
        count += 1
        if diameter > best:
            best, sets = diameter, []
        if diameter == best:
            sets.append(chosen)
    return best, count, sets


def _transitive(permutations: np.ndarray) -> bool:
    reached, todo = {0}, [0]
    while todo:
        here = todo.pop()
        for p in permutations:
            there = int(p[here])
            if there not in reached:
                reached.add(there)
                todo.append(there)
    return len(reached) == permutations.shape[1]


def _partners(space: _Space, kind: str, first: int) -> Iterator[tuple[int, ...]]:
    """The other generators, one choice of each orbit of the first one's centraliser."""
    symmetries = space.centraliser(first)
    if kind == "pairs":
        pool = np.arange(1, len(space.elements))
        images = np.stack([space.conjugated_by(q, pool) for q in symmetries])
        # A generator and its inverse make the same set.
        least = np.minimum(images.min(0), space.inverse[images].min(0))
        for second in pool[least == pool].tolist():
            if second != first:
                yield (second,)
        return
    pool = space.involutions()
    place = {int(p): i for i, p in enumerate(pool)}
    images = np.stack([space.conjugated_by(q, pool) for q in symmetries])
    seen = np.zeros((len(pool), len(pool)), dtype=bool)
    for i, j in itertools.combinations(range(len(pool)), 2):
        if seen[i, j] or first in (pool[i], pool[j]):
            continue
        a = np.array([place[int(p)] for p in images[:, i]])
        b = np.array([place[int(p)] for p in images[:, j]])
        seen[a, b] = seen[b, a] = True
        yield int(pool[i]), int(pool[j])
