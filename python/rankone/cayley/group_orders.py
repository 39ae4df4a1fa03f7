"""Orders of permutation groups, quickly: the alternating groups recognised, others by random
Schreier-Sims.

Sources: Jordan's theorem on primitive groups with a cycle of prime length; Seress, Permutation
Group Algorithms, 2003, chapters 4 and 10.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from rankone.cayley.permutation_utils import cycle_type, is_odd

# Random words tried before a group is taken for one that may be small: a word of S_n has a cycle of
# prime length in (n/2, n-2) with probability about log 2 / log n, so for n <= 100 the chance that
# sixty words miss it is below one in ten thousand. A miss costs time, never correctness.
_GIANT_WORDS = 60
_POOL = 12  # elements that product replacement multiplies with each other
_MIXING = 60  # steps before its elements are used

# A random element misses a chain that is too short with probability at most 1/2.
_TRIVIAL_SIFTS = 40


class _RandomElements:
    """Product replacement: nearly uniform elements of a group."""

    def __init__(self, permutations: Sequence[Sequence[int]]) -> None:
        self._draw = np.random.default_rng(0)
        distinct = sorted({tuple(permutation) for permutation in permutations})
        rows = [distinct[i % len(distinct)] for i in range(max(_POOL, len(distinct)))]
        self._pool = np.array(rows, dtype=np.int64)
        self._result = np.arange(self._pool.shape[1])
        for _ in range(_MIXING):
            self.next()

    def next(self) -> np.ndarray:
        """The next element, as a map of positions."""
        i, j = self._draw.choice(len(self._pool), 2, replace=False)
        other = self._pool[j]
        if self._draw.integers(2):
            other = np.argsort(other)
        if self._draw.integers(2):
            self._pool[i] = self._pool[i][other]
        else:
            self._pool[i] = other[self._pool[i]]
        # The rattle: a product of many pool elements is closer to uniform than one of them.
        self._result = self._result[self._pool[i]]
        return self._result


def orbit(permutations: Sequence[Sequence[int]], start: int) -> set[int]:
    """The positions that ``start`` can be brought to.

    Example:
        >>> sorted(orbit([[1, 0, 2]], 0))
        [0, 1]
    """
    found, pending = {start}, [start]
    while pending:
        position = pending.pop()
        for permutation in permutations:
            if permutation[position] not in found:
                found.add(permutation[position])
                pending.append(permutation[position])
    return found


def is_giant(permutations: Sequence[Sequence[int]]) -> bool:
    """Whether the group is known to contain the alternating group; False means "not known".

    Jordan: a transitive group with an element that has a cycle of prime length p, n/2 < p < n-2,
    contains the alternating group.
    """
    n = len(permutations[0])
    primes = {
        p
        for p in range(n // 2 + 1, n - 2)
        if p > 2 and all(p % divisor for divisor in range(2, math.isqrt(p) + 1))
    }
    if not primes or len(orbit(permutations, 0)) < n:
        return False
    elements = _RandomElements(permutations)
    return any(
        not primes.isdisjoint(cycle_type(elements.next().tolist())) for _ in range(_GIANT_WORDS)
    )


def giant_order(permutations: Sequence[Sequence[int]]) -> int | None:
    """The order of a group known to contain the alternating group, else None."""
    if not is_giant(permutations):
        return None
    odd = any(is_odd(permutation) for permutation in permutations)
    return math.factorial(len(permutations[0])) // (1 if odd else 2)


class _Level:
    """A base point, and for each point of its orbit an element that brings it there."""

    def __init__(self, base: int) -> None:
        self.base = base
        self.generators: list[np.ndarray] = []
        self.transversal: dict[int, np.ndarray] = {}

    def add(self, generator: np.ndarray) -> None:
        """Take a further generator of the stabiliser of the earlier base points."""
        self.generators.append(generator)
        self.transversal = {self.base: np.arange(len(generator))}
        pending = [self.base]
        while pending:
            point = pending.pop()
            for known in self.generators:
                image = int(known[point])
                if image not in self.transversal:
                    self.transversal[image] = known[self.transversal[point]]
                    pending.append(image)


def random_order(permutations: Sequence[Sequence[int]], enough: int | None = None) -> int:
    """A lower bound of the group's order, the order itself with probability 1 - 2^-40.

    Args:
        permutations: generators, in one-line form.
        enough: stop once the bound exceeds this number.

    Example:
        >>> random_order([[1, 2, 3, 0], [1, 0, 2, 3]])
        24
    """
    elements = _RandomElements(permutations)
    generators = [np.array(permutation) for permutation in permutations]
    levels: list[_Level] = []

    def order() -> int:
        return math.prod(len(level.transversal) for level in levels)

    def sift(element: np.ndarray) -> bool:
        """Strip an element by the chain; whether something new was left of it."""
        for level in levels:
            image = int(element[level.base])
            if image not in level.transversal:
                level.add(element)
                return True
            element = np.argsort(level.transversal[image])[element]
        moved = np.flatnonzero(element != np.arange(len(element)))
        if not len(moved):
            return False
        levels.append(_Level(int(moved[0])))
        levels[-1].add(element)
        return True

    for generator in generators:
        sift(generator)
    trivial = 0
    while trivial < _TRIVIAL_SIFTS and (enough is None or order() <= enough):
        trivial = 0 if sift(elements.next()) else trivial + 1
    return order()
