"""Permutations in one-line form: ``p`` sends the element at position ``p[i]`` to position ``i``.

Positions count from 0. A cycle (c0 c1 ... cm) stands for p[c_j] = c_{j+1}.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Sequence
from typing import Any

from rankone._namespace import public_names
from rankone.cayley.errors import CayleyError, check


def identity_perm(n: int) -> list[int]:
    """The identity.

    Args:
        n: number of positions.

    Returns:
        0, 1, ..., n - 1.

    Example:
        >>> identity_perm(3)
        [0, 1, 2]
    """
    return list(range(n))


def apply_permutation(p: Any, x: Sequence[Any]) -> list[Any]:
    """The entries of a sequence in the order of a permutation: ``[x[p[0]], x[p[1]], ...]``.

    Args:
        p: permutation of the positions of ``x``, in one-line notation.
        x: any sequence.

    Returns:
        List of the entries.

    Example:
        >>> apply_permutation([2, 0, 1], "abc")
        ['c', 'a', 'b']
    """
    return [x[i] for i in p]


def compose_permutations(p1: Sequence[int], p2: Sequence[int]) -> list[int]:
    """``p1`` applied to ``p2``: the permutation i -> p2[p1[i]].

    Args:
        p1, p2: permutations of one length.

    Returns:
        The product.

    Example:
        >>> compose_permutations([1, 2, 0], [1, 0, 2])
        [0, 2, 1]
    """
    return apply_permutation(p1, p2)


def inverse_permutation(p: Sequence[int]) -> list[int]:
    """The permutation q with q[p[i]] = i.

    Args:
        p: permutation in one-line notation.

    Returns:
        The inverse.

    Example:
        >>> inverse_permutation([1, 2, 0])
        [2, 0, 1]
    """
    inverse = [0] * len(p)
    for position, element in enumerate(p):
        inverse[element] = position
    return inverse


def is_permutation(p: Any) -> bool:
    """Whether a sequence holds each of 0..len(p)-1 exactly once.

    Args:
        p: sequence of integers.

    Returns:
        True or False.

    Example:
        >>> is_permutation([1, 0]), is_permutation([1, 1])
        (True, False)
    """
    return sorted(p) == list(range(len(p)))


def transposition(n: int, i1: int, i2: int) -> list[int]:
    """The exchange of two positions.

    Args:
        n: number of positions.
        i1, i2: the two.

    Returns:
        The permutation.

    Raises:
        CayleyError: for equal positions or positions outside 0..n-1.

    Example:
        >>> transposition(4, 1, 3)
        [0, 3, 2, 1]
    """
    return permutation_from_cycles(n, [[i1, i2]])


def permutation_from_cycles(n: int, cycles: Iterable[Sequence[int]], offset: int = 0) -> list[int]:
    """The permutation of ``n`` positions with these disjoint cycles.

    Args:
        n: number of positions.
        cycles: disjoint cycles; (c0 c1 ... cm) means p[c_j] = c_{j+1}.
        offset: what the first position is called in ``cycles``, 1 for the notation of GAP.

    Returns:
        The permutation.

    Raises:
        CayleyError: for a position outside the range, or one that stands in two cycles.

    Example:
        >>> permutation_from_cycles(5, [[1, 2, 3]], offset=1)
        [1, 2, 0, 3, 4]
    """
    permutation = identity_perm(n)
    seen: set[int] = set()
    for cycle in cycles:
        positions = [int(position) - offset for position in cycle]
        for position in positions:
            check(
                0 <= position < n,
                f"cycles must hold positions from {offset} to {n - 1 + offset}, "
                f"got {position + offset}",
            )
            check(
                position not in seen,
                f"cycles must be disjoint, got position {position + offset} twice",
            )
            seen.add(position)
        for here, there in zip(positions, positions[1:] + positions[:1], strict=True):
            permutation[here] = there
    return permutation


def cycles_of(permutation: Sequence[int]) -> list[list[int]]:
    """The cycles of length at least 2, each from its smallest position.

    Args:
        permutation: in one-line notation.

    Returns:
        Cycles in the order of their smallest positions.

    Example:
        >>> cycles_of([1, 0, 2, 4, 5, 3])
        [[0, 1], [3, 4, 5]]
    """
    seen = [False] * len(permutation)
    cycles = []
    for start in range(len(permutation)):
        cycle = []
        while not seen[start]:
            seen[start] = True
            cycle.append(start)
            start = permutation[start]
        if len(cycle) > 1:
            cycles.append(cycle)
    return cycles


def cycle_type(permutation: Sequence[int]) -> tuple[int, ...]:
    """Lengths of all cycles, fixed points included, in descending order.

    Args:
        permutation: in one-line notation.

    Returns:
        The lengths, which add up to the number of positions.

    Example:
        >>> cycle_type([1, 0, 2])
        (2, 1)
    """
    lengths = [len(cycle) for cycle in cycles_of(permutation)]
    return tuple(sorted(lengths, reverse=True)) + (1,) * (len(permutation) - sum(lengths))


def is_odd(permutation: Sequence[int]) -> bool:
    """Whether the permutation is a product of an odd number of transpositions.

    Args:
        permutation: in one-line notation.

    Returns:
        Its parity, True for odd.

    Example:
        >>> is_odd([1, 0, 2]), is_odd([1, 2, 0])
        (True, False)
    """
    return sum(len(cycle) - 1 for cycle in cycles_of(permutation)) % 2 == 1


def permutations_with_cycle_lenghts(n: int, cycle_lengths: Sequence[int]) -> list[list[int]]:
    """Every permutation of ``n`` positions with exactly these cycle lengths.

    Args:
        n: number of positions.
        cycle_lengths: lengths that add up to ``n``, fixed points as 1, in any order.

    Returns:
        The permutations.

    Raises:
        CayleyError: where the lengths are not positive or do not add up to ``n``.

    Example:
        >>> permutations_with_cycle_lenghts(4, [2, 2])
        [[1, 0, 3, 2], [2, 3, 0, 1], [3, 2, 1, 0]]
    """
    lengths = _check_cycle_lengths(n, cycle_lengths)
    return [permutation_from_cycles(n, cycles) for cycles in _cycle_choices(range(n), lengths)]


def _cycle_choices(
    free: Sequence[int], lengths: tuple[int, ...]
) -> Iterable[list[tuple[int, ...]]]:
    """Ways to cut ``free`` into cycles: the smallest free position chooses its cycle first."""
    if not free:
        yield []
        return
    first, rest = free[0], free[1:]
    for length in sorted(set(lengths)):
        remaining = list(lengths)
        remaining.remove(length)
        for others in itertools.permutations(rest, length - 1):
            left = [position for position in rest if position not in others]
            for cycles in _cycle_choices(left, tuple(remaining)):
                yield [(first, *others), *cycles]


def _check_cycle_lengths(n: int, cycle_lengths: Sequence[int]) -> tuple[int, ...]:
    lengths = tuple(int(length) for length in cycle_lengths)
    check(
        all(length >= 1 for length in lengths),
        f"cycle_lengths must be positive, got {list(lengths)}",
    )
    if sum(lengths) != n:
        raise CayleyError(
            f"cycle_lengths must add up to n = {n}, got {list(lengths)} with sum {sum(lengths)}"
        )
    return lengths


def partition_to_permutation(
    cycle_lengths: Sequence[int],
    flag_random: bool = False,
    *,
    random_state: int | random.Random | None = None,
) -> list[int]:
    """One permutation with these cycle lengths.

    Args:
        cycle_lengths: lengths of the cycles.
        flag_random: True draws one of them uniformly; False takes runs of neighbouring positions.
        random_state: seed or generator of the draw.

    Returns:
        The permutation, of as many positions as the lengths add up to.

    Example:
        >>> partition_to_permutation([2, 1, 3])
        [1, 0, 2, 4, 5, 3]
    """
    n = sum(cycle_lengths)
    _check_cycle_lengths(n, cycle_lengths)
    positions = list(range(n))
    if flag_random:
        if not isinstance(random_state, random.Random):
            random_state = random.Random(random_state)
        random_state.shuffle(positions)
    cycles = []
    start = 0
    for length in cycle_lengths:
        cycles.append(positions[start : start + length])
        start += length
    return permutation_from_cycles(n, cycles)


def check_permutation(name: str, permutation: Sequence[int]) -> None:
    """Require a permutation.

    Args:
        name: of the argument, for the message.
        permutation: what was given.

    Raises:
        CayleyError: if it is none; the message shows at most its first 20 entries.

    Example:
        >>> check_permutation("p", [1, 0, 2])
    """
    if is_permutation(permutation):
        return
    n = len(permutation)
    shown = list(permutation) if n <= 20 else [*permutation[:20], "..."]
    raise CayleyError(f"{name} must be a permutation of 0..{n - 1}, got {shown}")


__all__ = [
    "apply_permutation",
    "check_permutation",
    "compose_permutations",
    "cycle_type",
    "cycles_of",
    "identity_perm",
    "inverse_permutation",
    "is_odd",
    "is_permutation",
    "partition_to_permutation",
    "permutation_from_cycles",
    "permutations_with_cycle_lenghts",
    "transposition",
]


def __dir__() -> list[str]:
    return public_names(globals())
