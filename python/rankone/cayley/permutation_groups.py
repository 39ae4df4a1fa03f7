"""Named generating sets of permutations.

n is the number of positions, unless said otherwise; all central states are the identity. Names and
conventions follow CayleyPy Growth, arXiv 2509.19162; `hypercube`, `transposition_tree`, `torus` and
`square_with_whiskers` were added by this project.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from rankone.cayley.cayley_graph_def import CayleyGraphDef
from rankone.cayley.errors import CayleyError, check, check_range
from rankone.cayley.permutation_utils import (
    identity_perm,
    permutation_from_cycles,
    permutations_with_cycle_lenghts,
    transposition,
)

# (type, k, d) of the koltsov3 generators with the largest diameter: 10, 16, 30, 38 and 49.
_WHISKERS = {5: (1, 1, 1), 6: (1, 0, 1), 7: (2, 1, 1), 8: (2, 1, 1), 9: (1, 3, 1)}

# Prefix lengths of the seven cubic pancake graphs, as offsets from n where not positive.
_CUBIC_PANCAKE = {
    1: (0, -1, 2),
    2: (0, -1, 3),
    3: (0, -1, -2),
    4: (0, -1, -3),
    5: (0, -2, 2),
    6: (0, -2, 3),
    7: (0, -2, -3),
}


def _define(
    generators: Iterable[Sequence[int]], names: Iterable[str] | None, name: str
) -> CayleyGraphDef:
    return CayleyGraphDef.create(
        [list(generator) for generator in generators],
        None if names is None else list(names),
        name=name,
    )


def _comma(cycle: Iterable[int]) -> str:
    return "(" + ",".join(map(str, cycle)) + ")"


def _space(cycle: Iterable[int]) -> str:
    return "(" + " ".join(map(str, cycle)) + ")"


def _cycles(
    n: int, cycles: Iterable[Sequence[int]], name: str, label: object = _comma
) -> CayleyGraphDef:
    """One generator a cycle."""
    cycles = list(cycles)
    return _define(
        (permutation_from_cycles(n, [cycle]) for cycle in cycles),
        (label(cycle) for cycle in cycles),  # type: ignore[operator]
        name,
    )


def _left(n: int) -> list[int]:
    return [*range(1, n), 0]


def _right(n: int) -> list[int]:
    return [n - 1, *range(n - 1)]


def _reversal(n: int, first: int, last: int) -> list[int]:
    positions = identity_perm(n)
    positions[first : last + 1] = reversed(positions[first : last + 1])
    return positions


def _signed_reversal(n: int, first: int, last: int) -> list[int]:
    """On 2n points: stones first..last change their order and are turned over."""
    positions = identity_perm(2 * n)
    for position in range(first, last + 1):
        positions[position] = n + first + last - position
        positions[n + position] = first + last - position
    return positions


def _neighbor_pairs(n: int, first: int) -> list[list[int]]:
    return [[i, i + 1] for i in range(first, n - 1, 2)]


def _blocks(n: int, *bounds: int) -> list[int]:
    """The second and the fourth of five blocks of 0..n-1 exchanged."""
    a, b, c, d = bounds
    positions = identity_perm(n)
    return [
        *positions[:a],
        *positions[c:d],
        *positions[b:c],
        *positions[a:b],
        *positions[d:],
    ]


def _rng(random_state: int | np.random.Generator | None) -> np.random.Generator:
    return np.random.default_rng(random_state)


def _seed_suffix(random_state: object) -> str | None:
    return f"-seed{random_state}" if isinstance(random_state, int) else None


class PermutationGroups:
    """Named generating sets of permutations.

    Example:
        >>> from rankone.cayley import PermutationGroups
        >>> PermutationGroups.lrx(5).generator_names
        ['L', 'R', 'X']
    """

    @staticmethod
    def all_transpositions(n: int) -> CayleyGraphDef:
        """All (i j); diameter n-1."""
        check_range("n", n, 2)
        pairs = itertools.combinations(range(n), 2)
        return _cycles(n, pairs, f"all_transpositions-{n}")

    @staticmethod
    def transposons(n: int) -> CayleyGraphDef:
        """Block i..j-1 moved behind position k, for all i < j <= k < n."""
        check_range("n", n, 2)
        moves = [(i, j, k) for i in range(n) for j in range(i + 1, n) for k in range(j, n)]
        return _define(
            (_blocks(n, i, j, j, k + 1) for i, j, k in moves),
            (f"T[{i}..{j - 1},{k}]" for i, j, k in moves),
            f"transposons-{n}",
        )

    @staticmethod
    def block_interchange(n: int) -> CayleyGraphDef:
        """Blocks i..j-1 and k..l-1 exchanged, for all i < j <= k < l <= n."""
        check_range("n", n, 2)
        moves = [
            (i, j, k, l)
            for i in range(n)
            for j in range(i + 1, n + 1)
            for k in range(j, n)
            for l in range(k + 1, n + 1)
        ]
        return _define(
            (_blocks(n, *move) for move in moves),
            (f"I[{i}..{j - 1},{k}..{l - 1}]" for i, j, k, l in moves),
            f"block_interchange-{n}",
        )

    @staticmethod
    def full_reversals(n: int) -> CayleyGraphDef:
        """Every run i..j reversed; diameter n-1."""
        check_range("n", n, 2)
        runs = list(itertools.combinations(range(n), 2))
        return _define(
            (_reversal(n, i, j) for i, j in runs),
            (f"R[{i}..{j}]" for i, j in runs),
            f"full_reversals-{n}",
        )

    @staticmethod
    def signed_reversals(n: int) -> CayleyGraphDef:
        """Every run i..j of n two-sided stones reversed and turned over, on 2n points."""
        check_range("n", n, 1)
        runs = list(itertools.combinations_with_replacement(range(n), 2))
        return _define(
            (_signed_reversal(n, i, j) for i, j in runs),
            (f"R[{i}..{j}]" for i, j in runs),
            f"signed_reversals-{n}",
        )

    @staticmethod
    def lrx(n: int, k: int = 1) -> CayleyGraphDef:
        """Left shift, right shift and (0 k); diameter n(n-1)/2 for k = 1, n >= 4."""
        check_range("n", n, 3)
        check_range("k", k, 1, n - 1)
        name = f"lrx-{n}" + (f"(k={k})" if k != 1 else "")
        return _define([_left(n), _right(n), transposition(n, 0, k)], ["L", "R", "X"], name)

    @staticmethod
    def lx(n: int) -> CayleyGraphDef:
        """Left shift and (0 1), directed."""
        check_range("n", n, 3)
        return _define([_left(n), transposition(n, 0, 1)], ["L", "X"], f"lx-{n}")

    @staticmethod
    def top_spin(n: int, k: int = 4) -> CayleyGraphDef:
        """Left shift, right shift, and the reversal of the first k."""
        check_range("n", n, 2)
        check_range("k", k, 2, n)
        return _define([_left(n), _right(n), _reversal(n, 0, k - 1)], None, f"top_spin-{n}-{k}")

    @staticmethod
    def coxeter(n: int) -> CayleyGraphDef:
        """All (i i+1); diameter n(n-1)/2."""
        check_range("n", n, 2)
        return _cycles(n, _pairs(n), f"coxeter-{n}")

    @staticmethod
    def coxeter_b(n: int) -> CayleyGraphDef:
        """The Coxeter group B_n on 2n points: (0 n) and (i i+1)(n+i n+i+1); diameter n^2."""
        check_range("n", n, 2)
        return _coxeter_signed(n, [[0, n]], f"coxeter b_{n}")

    @staticmethod
    def coxeter_d(n: int) -> CayleyGraphDef:
        """The Coxeter group D_n on 2n points: (0 n+1)(1 n), (i i+1)(n+i n+i+1); diameter n(n-1)."""
        check_range("n", n, 2)
        return _coxeter_signed(n, [[0, n + 1], [1, n]], f"coxeter d_{n}")

    @staticmethod
    def cyclic_coxeter(n: int) -> CayleyGraphDef:
        """All (i i+1) and (0 n-1); diameter floor(n^2/4)."""
        check_range("n", n, 2)
        return _cycles(n, [*_pairs(n), (0, n - 1)], f"cyclic_coxeter-{n}")

    @staticmethod
    def pancake(n: int) -> CayleyGraphDef:
        """Prefix reversals R1..R(n-1), Ri of i+1 elements."""
        check_range("n", n, 2)
        return _define(
            (_reversal(n, 0, i) for i in range(1, n)),
            (f"R{i}" for i in range(1, n)),
            f"pancake-{n}",
        )

    @staticmethod
    def cubic_pancake(n: int, subset: int) -> CayleyGraphDef:
        """Three prefix reversals of lengths {n, n-1, 2}, {n, n-1, 3}, {n, n-1, n-2},
        {n, n-1, n-3}, {n, n-2, 2}, {n, n-2, 3} or {n, n-2, n-3}, for ``subset`` 1 to 7."""
        check_range("n", n, 2)
        check_range("subset", subset, 1, 7)
        lengths = [entry if entry > 0 else n + entry for entry in _CUBIC_PANCAKE[subset]]
        for length in lengths:
            check(
                0 <= length <= n,
                f"subset {subset} needs a prefix of length {length}, which n = {n} has not",
            )
        return _define(
            (_reversal(n, 0, length - 1) if length else identity_perm(n) for length in lengths),
            (f"R{length}" for length in lengths),
            f"cubic_pancake-{n}-{subset}",
        )

    @staticmethod
    def burnt_pancake(n: int) -> CayleyGraphDef:
        """Prefixes of n two-sided pancakes reversed and turned over, on 2n points."""
        check_range("n", n, 1)
        return _define(
            (_signed_reversal(n, 0, i) for i in range(n)),
            (f"R{i + 1}" for i in range(n)),
            f"burnt_pancake-{n}",
        )

    @staticmethod
    def three_cycles(n: int) -> CayleyGraphDef:
        """All (a b c) with a smallest."""
        check_range("n", n, 3)
        cycles = [c for c in itertools.permutations(range(n), 3) if c[0] == min(c)]
        return _cycles(n, cycles, f"three_cycles-{n}", _space)

    @staticmethod
    def three_cycles_0ij(n: int) -> CayleyGraphDef:
        """All (0 i j)."""
        check_range("n", n, 3)
        cycles = [(0, i, j) for i, j in itertools.permutations(range(1, n), 2)]
        return _cycles(n, cycles, f"three_cycles_0ij-{n}", _space)

    @staticmethod
    def three_cycles_01i(n: int, add_inverses: bool = True) -> CayleyGraphDef:
        """All (0 1 i), with (1 0 i) where inverses are added."""
        check_range("n", n, 3)
        heads = [(0, 1), (1, 0)] if add_inverses else [(0, 1)]
        cycles = [(*head, i) for i in range(2, n) for head in heads]
        return _cycles(n, cycles, f"three_cycles_01i-{n}" + ("-ic" if add_inverses else ""), _space)

    @staticmethod
    def derangements(n: int) -> CayleyGraphDef:
        """Every permutation without a fixed point; diameter 2 for n >= 4."""
        check_range("n", n, 2)
        found = [
            (index, p)
            for index, p in enumerate(itertools.permutations(range(n)))
            if all(i != e for i, e in enumerate(p))
        ]
        return _define(
            (p for _, p in found), (f"D{index}" for index, _ in found), f"derangements-{n}"
        )

    @staticmethod
    def involutive_derangements(n: int) -> CayleyGraphDef:
        """Every perfect matching of an even number of positions."""
        check_range("n", n, 2)
        check(n % 2 == 0, f"n must be even, got {n}")
        found = sorted(permutations_with_cycle_lenghts(n, [2] * (n // 2)))
        names = (f"ID{index + 1}" for index in range(len(found)))
        return _define(found, names, f"involutive-derangements-{n}")

    @staticmethod
    def stars(n: int) -> CayleyGraphDef:
        """All (0 i); diameter floor(3(n-1)/2)."""
        check_range("n", n, 2)
        return _define(
            (transposition(n, 0, i) for i in range(1, n)),
            (f"S{i}" for i in range(1, n)),
            f"stars-{n}",
        )

    @staticmethod
    def generalized_stars(n: int, k: int = 1) -> CayleyGraphDef:
        """All (i j) with i < k <= j."""
        check_range("n", n, 2)
        check_range("k", k, 1, n - 1)
        pairs = [(i, j) for i in range(k) for j in range(k, n)]
        return _define(
            (transposition(n, i, j) for i, j in pairs),
            (f"S{i}-{j}" for i, j in pairs),
            f"generalized-stars-{n}-{k}",
        )

    @staticmethod
    def rapaport_m1(n: int) -> CayleyGraphDef:
        """Partial products (0 1), (0 1)(2 3), ... and (1 2), (1 2)(3 4), ..."""
        check_range("n", n, 2)
        products = [
            (first, count)
            for first in (0, 1)
            for count in range(1, len(_neighbor_pairs(n, first)) + 1)
        ]
        return _define(
            (permutation_from_cycles(n, _neighbor_pairs(n, first)[:c]) for first, c in products),
            (f"M1_{first}_{count}" for first, count in products),
            f"rapaport_m1-{n}",
        )

    @staticmethod
    def rapaport_m2(n: int) -> CayleyGraphDef:
        """(0 1), the product of all (2i 2i+1), and the product of all (2i+1 2i+2)."""
        check_range("n", n, 2)
        generators = [
            transposition(n, 0, 1),
            permutation_from_cycles(n, _neighbor_pairs(n, 0)),
            permutation_from_cycles(n, _neighbor_pairs(n, 1)),
        ]
        return _define(generators, ["(0,1)", "EvenDisjTrans", "OddDisjTrans"], f"rapaport_m2-{n}")

    @staticmethod
    def all_cycles(n: int) -> CayleyGraphDef:
        """Every cycle of length 2 and more; diameter 2 for n >= 4."""
        check_range("n", n, 2)
        cycles = [
            (support[0], *rest)
            for length in range(2, n + 1)
            for support in itertools.combinations(range(n), length)
            for rest in itertools.permutations(support[1:])
        ]
        return _define(
            (permutation_from_cycles(n, [cycle]) for cycle in cycles),
            (f"cycle_{index + 1}" for index in range(len(cycles))),
            f"all_cycles-{n}",
        )

    @staticmethod
    def lsl_cycles(n: int, add_inverses: bool = True) -> CayleyGraphDef:
        """The cycles (0..n-1) and (1..n-1), and their inverses."""
        check_range("n", n, 3)
        long, short = list(range(n)), list(range(1, n))
        cycles = [long, short, long[::-1], short[::-1]][: 4 if add_inverses else 2]
        return _define(
            (permutation_from_cycles(n, [cycle]) for cycle in cycles),
            ["L", "S", "L_inv", "S_inv"][: len(cycles)],
            f"lsl_cycles-{n}" + ("" if add_inverses else "-directed"),
        )

    @staticmethod
    def wrapped_k_cycles(n: int, k: int) -> CayleyGraphDef:
        """The cycles (s .. s+k-1), positions mod n, for every s."""
        check_range("n", n, 2)
        check_range("k", k, 2, n)
        cycles = [[(s + i) % n for i in range(k)] for s in range(n)]
        return _cycles(n, cycles, f"wrapped_k_cycles-{n}-{k}", _space)

    @staticmethod
    def larx(n: int) -> CayleyGraphDef:
        """(0 1) and the left shift of all but the first, directed."""
        check_range("n", n, 2)
        generators = [transposition(n, 0, 1), [0, *range(2, n), 1]]
        return _define(generators, [_space(p) for p in generators], f"larx-{n}")

    @staticmethod
    def increasing_k_cycles(n: int, k: int) -> CayleyGraphDef:
        """Every cycle of k positions in increasing order."""
        check_range("n", n, 1)
        check_range("k", k, 1, n)
        cycles = itertools.combinations(range(n), k)
        return _cycles(n, cycles, f"increasing_k_cycles-{n}-{k}")

    @staticmethod
    def consecutive_k_cycles(n: int, k: int) -> CayleyGraphDef:
        """The cycles (i .. i+k-1), directed for k >= 3."""
        check_range("n", n, 1)
        check_range("k", k, 1, n)
        cycles = [tuple(range(i, i + k)) for i in range(n - k + 1)]
        return _cycles(n, cycles, f"consecutive_k_cycles-{n}-{k}")

    @staticmethod
    def down_cycles(n: int) -> CayleyGraphDef:
        """All cycles (i .. j); diameter n-1."""
        check_range("n", n, 2)
        cycles = [tuple(range(i, j + 1)) for i, j in itertools.combinations(range(n), 2)]
        return _cycles(n, cycles, f"down_cycles-{n}")

    @staticmethod
    def prefix_cycles(n: int) -> CayleyGraphDef:
        """The cycles (0 .. j); diameter n-1."""
        check_range("n", n, 2)
        return _cycles(n, [tuple(range(j + 1)) for j in range(1, n)], f"prefix_cycles-{n}")

    @staticmethod
    def conjugacy_classes(
        n: int,
        classes: Mapping[tuple[int, ...], int | None],
        *,
        random_state: int | np.random.Generator | None = None,
    ) -> CayleyGraphDef:
        """Whole conjugacy classes, or samples of them.

        Args:
            n: number of positions.
            classes: cycle type -> None (every element) or how many to draw; fixed points may be
                left out of a type.
            random_state: seed or generator of the draws.

        Example:
            >>> PermutationGroups.conjugacy_classes(4, {(2, 2): None}).n_generators
            3
        """
        check_range("n", n, 1)
        check(classes, "classes must not be empty")
        draw = _rng(random_state)
        generators: list[list[int]] = []
        names: list[str] = []
        label = []
        for given, size in classes.items():
            lengths = (*given, *[1] * (n - sum(given)))
            found = sorted(permutations_with_cycle_lenghts(n, lengths))
            text = ".".join(map(str, given))
            if size is not None:
                check_range(f"classes[{given}]", size, 1, len(found))
                chosen = sorted(draw.choice(len(found), size, replace=False).tolist())
                found = [found[index] for index in chosen]
            label.append(text if size is None else f"{text}:{size}")
            generators += found
            names += [f"C{text}_{index + 1}" for index in range(len(found))]
        name = f"conjugacy_classes-{n}-" + "+".join(label)
        if any(size is not None for size in classes.values()):
            suffix = _seed_suffix(random_state)
            name = name + suffix if suffix else ""
        return _define(generators, names, name)

    @staticmethod
    def rand_generators(
        n: int, k: int, *, random_state: int | np.random.Generator | None = None
    ) -> CayleyGraphDef:
        """``k`` permutations drawn uniformly.

        Args:
            n: number of positions.
            k: number of generators.
            random_state: seed or generator of the draws.
        """
        check_range("n", n, 1)
        check_range("k", k, 1)
        draw = _rng(random_state)
        suffix = _seed_suffix(random_state)
        return _define(
            [draw.permutation(n).tolist() for _ in range(k)],
            [f"g{index}" for index in range(k)],
            f"rand_generators-{n}-{k}{suffix}" if suffix else "",
        )

    @staticmethod
    def sheveleva2(n: int, k: int) -> CayleyGraphDef:
        """Two generators, directed: neighbouring transpositions by turns, and one 4-cycle.

        (i i+1) goes to one generator for even i and to the other for odd i. The 4-cycle
        (k-1 k k+1 k+2) takes the place of those it meets in its own generator; the other gains
        (k+1 k+3) where k < n-3.
        """
        check_range("n", n, 4)
        check_range("k", k, 1, n - 3)
        cycles: list[list[list[int]]] = [[], []]
        for i in range(n - 1):
            if i < k - 1 or i >= k + 3:
                cycles[i % 2].append([i, i + 1])
        cycles[(k - 1) % 2].append([k - 1, k, k + 1, k + 2])
        if k < n - 3:
            cycles[k % 2].append([k + 1, k + 3])
        involution, rest = cycles[k % 2], cycles[(k - 1) % 2]
        return _define(
            [permutation_from_cycles(n, involution), permutation_from_cycles(n, rest)],
            ["A", "S"],
            f"sheveleva2-n{n}-k{k}",
        )

    @staticmethod
    def koltsov3(n: int, perm_type: int = 2, k: int = 1, d: int = 1) -> CayleyGraphDef:
        """Three involutions: I = (0 1)(2 3)..., K = (1 2)(3 4)... and S.

        S = (k k+d) for ``perm_type`` 1 and (k k+3)(k+1 k+2) for 2, whose Schreier graph is a
        square with whiskers.
        """
        check_range("n", n, 2)
        check_range("perm_type", perm_type, 1, 2)
        check_range("d", d, 1)
        reach = d if perm_type == 1 else 3
        check(
            k >= 0 and k + reach < n,
            f"k must be between 0 and {n - 1 - reach} for n = {n}, perm_type = {perm_type}"
            + (f", d = {d}" if perm_type == 1 else "")
            + f", got {k}",
        )
        special = [[k, k + d]] if perm_type == 1 else [[k, k + 3], [k + 1, k + 2]]
        generators = [
            permutation_from_cycles(n, _neighbor_pairs(n, 0)),
            permutation_from_cycles(n, _neighbor_pairs(n, 1)),
            permutation_from_cycles(n, special),
        ]
        suffix = f"-type1-d{d}" if perm_type == 1 else ""
        return _define(generators, ["I", "K", "S"], f"koltsov3-n{n}-k{k}{suffix}")

    @staticmethod
    def square_with_whiskers(n: int) -> CayleyGraphDef:
        """The koltsov3 generators with the largest diameter for n = 5 to 9: 10, 16, 30, 38, 49."""
        check_range("n", n, min(_WHISKERS), max(_WHISKERS))
        perm_type, k, d = _WHISKERS[n]
        definition = PermutationGroups.koltsov3(n, perm_type, k, d)
        return definition.with_name(f"square_with_whiskers-{n}")

    @staticmethod
    def hypercube(n: int) -> CayleyGraphDef:
        """(i n+i) on 2n points: the n-cube, with C(n, d) vertices at distance d."""
        check_range("n", n, 1)
        return _cycles(2 * n, [(i, n + i) for i in range(n)], f"hypercube-{n}")

    @staticmethod
    def transposition_tree(n: int, edges: Sequence[Sequence[int]]) -> CayleyGraphDef:
        """(i j) for every edge of a tree on the positions: a path is coxeter, a star is stars.

        Raises:
            CayleyError: where the edges are not a tree.

        Example:
            >>> PermutationGroups.transposition_tree(3, [(0, 1), (0, 2)]).n_generators
            2
        """
        check_range("n", n, 2)
        pairs = [tuple(sorted(int(end) for end in edge)) for edge in edges]
        root = identity_perm(n)

        def find(vertex: int) -> int:
            while root[vertex] != vertex:
                vertex = root[vertex]
            return vertex

        for pair in pairs:
            check(
                len(pair) == 2 and 0 <= pair[0] < pair[1] < n,
                f"edges must join two different positions of 0..{n - 1}, got {pair}",
            )
            a, b = find(pair[0]), find(pair[1])
            if a == b:
                raise CayleyError(f"edges must be a tree, but {pair} closes a circle")
            root[a] = b
        check(len(pairs) == n - 1, f"edges must be a tree of {n - 1} edges, got {len(pairs)}")
        text = "+".join(f"{a},{b}" for a, b in pairs)
        return _cycles(n, pairs, f"transposition_tree-{n}-{text}")

    @staticmethod
    def torus(a: int, b: int) -> CayleyGraphDef:
        """Two disjoint cycles of lengths a and b, and their inverses: the a x b torus."""
        check_range("a", a, 2)
        check_range("b", b, 2)
        first, second = list(range(a)), list(range(a, a + b))
        cycles = [first, first[::-1], second, second[::-1]]
        definition = _define(
            (permutation_from_cycles(a + b, [cycle]) for cycle in cycles),
            ["A", "A_inv", "B", "B_inv"],
            f"torus-{a}-{b}",
        )
        return definition.dedup_generators()


def _pairs(n: int) -> list[tuple[int, int]]:
    return [(i, i + 1) for i in range(n - 1)]


def _coxeter_signed(n: int, first: list[list[int]], name: str) -> CayleyGraphDef:
    products = [first, *([[i, i + 1], [n + i, n + i + 1]] for i in range(n - 1))]
    return _define(
        (permutation_from_cycles(2 * n, cycles) for cycles in products),
        ("".join(map(_comma, cycles)) for cycles in products),
        name,
    )
