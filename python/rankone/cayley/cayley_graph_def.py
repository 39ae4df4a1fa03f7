"""Definition of a Cayley or Schreier graph: generators and a central state.

The graph's vertices are the states reachable from the central state, its edges v -> g(v). A
permutation generator acts on positions, ``new[i] = old[p[i]]``; a matrix generator from the left,
``new = A @ old mod m``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rankone.cayley._extras import need
from rankone.cayley.errors import CayleyError, check, check_range
from rankone.cayley.group_orders import giant_order, orbit
from rankone.cayley.permutation_utils import check_permutation, inverse_permutation

AnyStateType = Tensor | np.ndarray | list

MAX_MODULUS = 2**31  # products of two residues stay below 2^62


class GeneratorType(Enum):
    """What the generators of a graph are."""

    PERMUTATION = 1
    MATRIX = 2


@dataclass(frozen=True)
class MatrixGenerator:
    """A square integer matrix that multiplies states from the left, modulo ``modulo``.

    Attributes:
        matrix: (n, n) int64, entries in 0..modulo-1 where ``modulo`` is not 0.
        modulo: 2 to 2**31, or 0 for int64 arithmetic with wrap-around.

    Example:
        >>> shear = MatrixGenerator.create([[1, 1], [0, 1]], 5)
        >>> shear.inv.matrix.tolist()
        [[1, 4], [0, 1]]
    """

    matrix: np.ndarray
    modulo: int

    @staticmethod
    def create(matrix: list | np.ndarray, modulo: int = 0) -> MatrixGenerator:
        """Check a matrix and reduce its entries.

        Raises:
            CayleyError: for a matrix that is not square or not integer, or a modulus out of range.
        """
        if modulo != 0:
            check_range("modulo", modulo, 2, MAX_MODULUS)
        array = _integers("matrix", matrix)
        check(
            array.ndim == 2 and array.shape[0] == array.shape[1] and array.size > 0,
            f"matrix must be square, got shape {array.shape}",
        )
        if modulo:
            array = array % modulo
        return MatrixGenerator(array, int(modulo))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MatrixGenerator):
            return NotImplemented
        return self.modulo == other.modulo and np.array_equal(self.matrix, other.matrix)

    def __hash__(self) -> int:
        return hash((self.modulo, self.matrix.shape, self.matrix.tobytes()))

    @cached_property
    def n(self) -> int:
        """Number of rows."""
        return self.matrix.shape[0]

    def apply(self, state: np.ndarray) -> np.ndarray:
        """``matrix @ state``, reduced.

        Args:
            state: (n, m) integers.

        Raises:
            CayleyError: where the state does not have n rows.
        """
        array = _integers("state", state)
        check(
            array.ndim == 2 and array.shape[0] == self.n,
            f"state must have shape ({self.n}, m), got {array.shape}",
        )
        return self.apply_batch_torch(torch.from_numpy(array)[None])[0].numpy()

    def apply_batch_torch(self, states: Tensor) -> Tensor:
        """``matrix @ state`` for each of ``states``, reduced.

        Args:
            states: (B, n, m) int64.

        Returns:
            (B, n, m) int64.
        """
        check(
            states.ndim == 3 and states.shape[1] == self.n,
            f"states must have shape (B, {self.n}, m), got {tuple(states.shape)}",
        )
        # Column by column: int64 matrix products exist on CPU only, and a sum of n products may
        # overflow where one does not.
        rows = self._rows.to(states.device)
        if self.modulo:
            states = states % self.modulo
        each = self.modulo and self.n * (self.modulo - 1) ** 2 >= 2**63
        result = torch.zeros_like(states)
        for column in range(self.n):
            result += rows[:, column, None] * states[:, column, None, :]
            if each:
                result %= self.modulo
        if self.modulo and not each:
            result %= self.modulo
        return result

    @cached_property
    def _rows(self) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(self.matrix))

    @cached_property
    def inv(self) -> MatrixGenerator:
        """The inverse, exact: adjugate over determinant in integers.

        Raises:
            CayleyError: where the determinant shares a factor with the modulus (with modulo 0:
                where it is not 1 or -1).
        """
        determinant, adjugate = _determinant_and_adjugate(self.matrix.tolist())
        divisor = math.gcd(determinant, self.modulo)
        check(
            divisor == 1,
            f"matrix must be invertible modulo {self.modulo}, but its determinant {determinant} "
            f"has the common divisor {divisor} with it",
        )
        if self.modulo:
            unit = pow(determinant, -1, self.modulo)
            entries = [[entry * unit % self.modulo for entry in row] for row in adjugate]
        else:
            entries = [[entry * determinant for entry in row] for row in adjugate]
        return MatrixGenerator.create(entries, self.modulo)

    def is_inverse_to(self, other: MatrixGenerator) -> bool:
        """Whether the product of the two matrices is the identity."""
        if self.modulo != other.modulo or self.n != other.n:
            return False
        return np.array_equal(self.apply(other.matrix), np.eye(self.n, dtype=np.int64))


def _determinant_and_adjugate(rows: list[list[int]]) -> tuple[int, list[list[int]]]:
    """Both in exact integers; the adjugate of a singular matrix is not needed and left empty."""
    n = len(rows)
    work = [
        [Fraction(entry) for entry in row] + [Fraction(int(i == j)) for j in range(n)]
        for i, row in enumerate(rows)
    ]
    determinant = Fraction(1)
    for column in range(n):
        pivot = next((row for row in range(column, n) if work[row][column]), None)
        if pivot is None:
            return 0, []
        if pivot != column:
            work[column], work[pivot] = work[pivot], work[column]
            determinant = -determinant
        head = work[column][column]
        determinant *= head
        work[column] = [entry / head for entry in work[column]]
        for row in range(n):
            factor = work[row][column]
            if row != column and factor:
                work[row] = [a - factor * b for a, b in zip(work[row], work[column], strict=True)]
    return int(determinant), [[int(entry * determinant) for entry in row[n:]] for row in work]


def _integers(name: str, values: Any) -> np.ndarray:
    """``values`` as a contiguous int64 array; fractions and ragged lists are refused."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    try:
        array = np.asarray(values)
    except ValueError:
        raise CayleyError(
            f"{name} must be a rectangular array, got rows of different lengths"
        ) from None
    if array.dtype == object or array.dtype.kind not in "iub":
        if array.dtype.kind == "f" and np.array_equal(array, np.round(array)):
            return np.ascontiguousarray(array.astype(np.int64))
        raise CayleyError(f"{name} must hold integers, got {array.dtype} values")
    return np.ascontiguousarray(array.astype(np.int64))


@dataclass(frozen=True)
class CayleyGraphDef:
    """Generators, their names and the central state; see :meth:`create`.

    Attributes:
        generators_type: permutations or matrices.
        generators_permutations: one-line permutations; empty for a matrix group.
        generators_matrices: matrices; empty for a permutation group.
        generator_names: one name a generator.
        central_state: entries of the central state, a matrix row by row.
        name: name of the graph, "" for none.

    Source: CayleyPy Growth, arXiv 2509.19162.
    """

    generators_type: GeneratorType
    generators_permutations: list[list[int]]
    generators_matrices: list[MatrixGenerator]
    generator_names: list[str]
    central_state: list[int]
    name: str

    @staticmethod
    def create(
        generators: list[list[int]] | Tensor | np.ndarray,
        generator_names: list[str] | None = None,
        central_state: AnyStateType | str | None = None,
        name: str = "",
    ) -> CayleyGraphDef:
        """A graph of permutations.

        Args:
            generators: one-line permutations of one length n.
            generator_names: default: the one-line forms, joined by commas.
            central_state: n non-negative integers or a string of digits; default 0..n-1.
            name: name of the graph.

        Raises:
            CayleyError: for an empty set, generators of different lengths or that are no
                permutations, a wrong number of names, or a central state of the wrong length.

        Example:
            >>> CayleyGraphDef.create([[1, 2, 0], [1, 0, 2]]).generator_names
            ['1,2,0', '1,0,2']
        """
        rows = _generator_rows(generators)
        n = len(rows[0])
        for index, row in enumerate(rows):
            if len(row) != n:
                raise CayleyError(
                    f"generators must have one length, got {n} for generators[0] and {len(row)} "
                    f"for generators[{index}]"
                )
            check_permutation(f"generators[{index}]", row)
        if generator_names is None:
            generator_names = [",".join(map(str, row)) for row in rows]
        if central_state is None:
            state = list(range(n))
        else:
            state = CayleyGraphDef.normalize_central_state(central_state)
            check(
                len(state) == n,
                f"central_state must have the length {n} of the generators, got {len(state)}",
            )
            check(
                min(state) >= 0, f"central_state must not be negative, got the value {min(state)}"
            )
        names = _check_names(generator_names, len(rows))
        return CayleyGraphDef(GeneratorType.PERMUTATION, rows, [], names, state, name)

    @staticmethod
    def for_matrix_group(
        *,
        generators: list[MatrixGenerator],
        generator_names: list[str] | None = None,
        central_state: AnyStateType | str | None = None,
        name: str = "",
    ) -> CayleyGraphDef:
        """A graph of matrices.

        Args:
            generators: matrices of one size n and one modulus.
            generator_names: default g0, g1, ...
            central_state: (n, m) integers, default the identity.
            name: name of the graph.

        Raises:
            CayleyError: for an empty set, different sizes or moduli, a wrong number of names, or a
                central state whose entries are not a multiple of n.
        """
        generators = list(generators)
        check(generators, "generators must not be empty")
        n, modulo = generators[0].n, generators[0].modulo
        for index, generator in enumerate(generators):
            check(
                generator.n == n and generator.modulo == modulo,
                f"generators must have one size and modulus, got ({n}, {modulo}) for "
                f"generators[0] and ({generator.n}, {generator.modulo}) for generators[{index}]",
            )
        if generator_names is None:
            generator_names = [f"g{index}" for index in range(len(generators))]
        if central_state is None:
            central_state = np.eye(n, dtype=np.int64)
        state = CayleyGraphDef.normalize_central_state(central_state)
        check(
            len(state) > 0 and len(state) % n == 0,
            f"central_state must have a multiple of {n} entries, got {len(state)}",
        )
        if modulo:
            state = [entry % modulo for entry in state]
        names = _check_names(generator_names, len(generators))
        return CayleyGraphDef(GeneratorType.MATRIX, [], generators, names, state, name)

    @staticmethod
    def normalize_central_state(
        central_state: list[int] | list[list[int]] | Tensor | np.ndarray | str,
    ) -> list[int]:
        """The entries of a state as a list: from a list, array, tensor, matrix or digits.

        Example:
            >>> CayleyGraphDef.normalize_central_state("0011")
            [0, 0, 1, 1]
        """
        if isinstance(central_state, str):
            check(
                central_state.isascii() and central_state.isdigit(),
                f"central_state must be a string of digits, got {central_state!r}",
            )
            return [int(digit) for digit in central_state]
        return _integers("central_state", central_state).reshape(-1).tolist()

    @cached_property
    def generators(self) -> list[list[int]] | list[MatrixGenerator]:
        """The generators, of whichever type."""
        return self.generators_permutations or self.generators_matrices

    @cached_property
    def n_generators(self) -> int:
        """Number of generators."""
        return len(self.generators)

    @cached_property
    def state_size(self) -> int:
        """Number of entries of a state."""
        return len(self.central_state)

    @cached_property
    def decoded_state_shape(self) -> tuple[int, ...]:
        """(n,) for permutations, (n, m) for matrices."""
        if self.is_permutation_group():
            return (self.state_size,)
        n = self.generators_matrices[0].n
        return (n, self.state_size // n)

    @cached_property
    def generators_inverse_map(self) -> list[int] | None:
        """For each generator the number of its inverse, or None where one has none in the set."""
        numbers: dict[Any, int] = {}
        for index, generator in enumerate(self.generators):
            numbers.setdefault(_key(generator), index)
        inverses = []
        for generator in self.generators:
            try:
                found = numbers.get(_key(_inverse(generator)))
            except CayleyError:
                return None
            if found is None:
                return None
            inverses.append(found)
        return inverses

    @cached_property
    def generators_inverse_closed(self) -> bool:
        """Whether every generator has its inverse in the set."""
        return self.generators_inverse_map is not None

    def is_permutation_group(self) -> bool:
        """Whether the generators are permutations."""
        return self.generators_type == GeneratorType.PERMUTATION

    def is_matrix_group(self) -> bool:
        """Whether the generators are matrices."""
        return self.generators_type == GeneratorType.MATRIX

    def with_central_state(self, central_state: AnyStateType | str) -> CayleyGraphDef:
        """The same generators with another central state.

        Example:
            >>> CayleyGraphDef.create([[1, 2, 0]]).with_central_state("001").central_state
            [0, 0, 1]
        """
        if self.is_permutation_group():
            return CayleyGraphDef.create(
                self.generators_permutations, self.generator_names, central_state, self.name
            )
        return CayleyGraphDef.for_matrix_group(
            generators=self.generators_matrices,
            generator_names=self.generator_names,
            central_state=central_state,
            name=self.name,
        )

    def with_name(self, name: str) -> CayleyGraphDef:
        """The same graph under another name."""
        return replace(self, name=name)

    def _with_generators(
        self, generators: list, names: list[str] | None, name: str
    ) -> CayleyGraphDef:
        if self.is_permutation_group():
            return CayleyGraphDef.create(generators, names, self.central_state, name)
        return CayleyGraphDef.for_matrix_group(
            generators=generators,
            generator_names=names,
            central_state=np.reshape(self.central_state, self.decoded_state_shape),
            name=name,
        )

    def with_inverted_generators(self) -> CayleyGraphDef:
        """The graph with every generator replaced by its inverse, in the same order."""
        return self._with_generators([_inverse(g) for g in self.generators], None, "")

    def make_inverse_closed(self) -> CayleyGraphDef:
        """The graph with missing inverses added at the end; the graph itself where none is missing.

        An added generator has the name of its inverse and a prime, the graph the suffix "-ic".

        Example:
            >>> CayleyGraphDef.create([[1, 2, 0]], ["L"]).make_inverse_closed().generator_names
            ['L', "L'"]
        """
        if self.generators_inverse_closed:
            return self
        generators = list(self.generators)
        names = list(self.generator_names)
        known = {_key(generator) for generator in generators}
        for generator, name in zip(self.generators, self.generator_names, strict=True):
            inverse = _inverse(generator)
            if _key(inverse) not in known:
                known.add(_key(inverse))
                generators.append(inverse)
                names.append(name + "'")
        return self._with_generators(generators, names, self.name + "-ic" if self.name else "")

    def dedup_generators(self) -> CayleyGraphDef:
        """The graph without repeated generators, of which the first is kept.

        Example:
            >>> CayleyGraphDef.create([[1, 0], [1, 0]], ["a", "b"]).dedup_generators().n_generators
            1
        """
        first: dict[Any, int] = {}
        for index, generator in enumerate(self.generators):
            first.setdefault(_key(generator), index)
        keep = list(first.values())
        if len(keep) == self.n_generators:
            return self
        return self._with_generators(
            [self.generators[index] for index in keep],
            [self.generator_names[index] for index in keep],
            self.name,
        )

    def path_to_string(self, path: Sequence[int], delimiter: str = ".") -> str:
        """Names of the generators of a path."""
        return delimiter.join(self.generator_names[index] for index in path)

    def revert_path(self, path: Sequence[int]) -> list[int]:
        """The path that leads back: inverse generators in reverse order.

        Raises:
            CayleyError: where the generators are not closed under inverses.
        """
        inverses = self.generators_inverse_map
        if inverses is None:
            raise CayleyError("generators must be inverse-closed to revert a path")
        return [inverses[index] for index in reversed(list(path))]

    def group_order(self) -> int:
        """Order of the group that the permutations generate.

        Found by Schreier-Sims; of a group that contains the alternating group, by Jordan's
        theorem. For a central state with repeats the graph has fewer vertices than this.

        Raises:
            CayleyError: for a matrix group.

        Example:
            >>> CayleyGraphDef.create([[1, 2, 3, 0], [1, 0, 2, 3]]).group_order()
            24
        """
        check(self.is_permutation_group(), "group_order needs permutation generators")
        order = giant_order(self.generators_permutations)
        if order is not None:
            return order
        sympy = need("sympy.combinatorics", "the order of a group")
        distinct = sorted({tuple(generator) for generator in self.generators_permutations})
        group = sympy.PermutationGroup([sympy.Permutation(list(entry)) for entry in distinct])
        return int(group.order())

    def is_transitive(self) -> bool:
        """Whether the generators lead from every position to every other.

        Raises:
            CayleyError: for a matrix group.
        """
        check(self.is_permutation_group(), "is_transitive needs permutation generators")
        return len(orbit(self.generators_permutations, 0)) == self.state_size


def _generator_rows(generators: Any) -> list[list[int]]:
    if isinstance(generators, Tensor):
        generators = generators.detach().cpu().numpy()
    rows = list(generators)
    check(rows, "generators must not be empty")
    converted = []
    for index, row in enumerate(rows):
        check(
            hasattr(row, "__len__") and len(row) > 0,
            f"generators[{index}] must be a permutation in one-line form, got {row!r}",
        )
        converted.append(_integers(f"generators[{index}]", row).tolist())
    return converted


def _check_names(names: Sequence[str], count: int) -> list[str]:
    names = list(names)
    check(
        len(names) == count,
        f"generator_names must have one name for each of {count} generators, got {len(names)}",
    )
    return names


def _key(generator: Any) -> Any:
    return generator if isinstance(generator, MatrixGenerator) else tuple(generator)


def _inverse(generator: Any) -> Any:
    if isinstance(generator, MatrixGenerator):
        return generator.inv
    return inverse_permutation(generator)
