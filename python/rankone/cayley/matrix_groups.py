"""Named generating sets of matrices; central states are identities.

Names and conventions follow CayleyPy Growth, arXiv 2509.19162; `unitriangular` was added by this
project.
"""

from __future__ import annotations

import numpy as np

from rankone.cayley.cayley_graph_def import MAX_MODULUS, CayleyGraphDef, MatrixGenerator
from rankone.cayley.errors import check_range


def _elementary(n: int, row: int, column: int, entry: int = 1) -> np.ndarray:
    matrix = np.eye(n, dtype=np.int64)
    matrix[row, column] = entry
    return matrix


def _check(n: int, smallest: int, modulo: int) -> str:
    """Checked arguments; the suffix of the name."""
    check_range("n", n, smallest)
    if modulo != 0:
        check_range("modulo", modulo, 2, MAX_MODULUS)
    return f"-{n}" + (f"%{modulo}" if modulo else "")


def _define(
    matrices: dict[str, np.ndarray], modulo: int, name: str, add_inverses: bool = False
) -> CayleyGraphDef:
    definition = CayleyGraphDef.for_matrix_group(
        generators=[MatrixGenerator.create(matrix, modulo) for matrix in matrices.values()],
        generator_names=list(matrices),
        name=name,
    )
    return definition.make_inverse_closed() if add_inverses else definition


class MatrixGroups:
    """Named generating sets of matrices.

    Example:
        >>> from rankone.cayley import MatrixGroups
        >>> MatrixGroups.heisenberg(modulo=5).generator_names
        ['x', 'y', "x'", "y'"]
    """

    @staticmethod
    def heisenberg(*, n: int = 3, modulo: int = 0, add_inverses: bool = True) -> CayleyGraphDef:
        """I + E_{0,i} and I + E_{i,n-1} for 0 < i < n-1."""
        suffix = _check(n, 3, modulo)
        inner = range(1, n - 1)
        x = {"x" if n == 3 else f"x{i}": _elementary(n, 0, i) for i in inner}
        y = {"y" if n == 3 else f"y{i}": _elementary(n, i, n - 1) for i in inner}
        return _define({**x, **y}, modulo, f"heisenberg{suffix}", add_inverses)

    @staticmethod
    def special_linear_fundamental_roots(n: int, modulo: int = 0) -> CayleyGraphDef:
        """I +- E_{k,k+1} and I +- E_{k+1,k}: generators of SL_n."""
        suffix = _check(n, 2, modulo)
        matrices = {}
        for k in range(1, n):
            matrices[f"e{k}"] = _elementary(n, k - 1, k)
            matrices[f"e{k}'"] = _elementary(n, k - 1, k, -1)
            matrices[f"f{k}"] = _elementary(n, k, k - 1)
            matrices[f"f{k}'"] = _elementary(n, k, k - 1, -1)
        return _define(matrices, modulo, f"sl_fund_roots{suffix}")

    @staticmethod
    def special_linear_root_weyl(n: int, modulo: int = 0) -> CayleyGraphDef:
        """e = I + E_{01}, w = the cyclic shift with (-1)^(n-1) in its last row, and inverses."""
        suffix = _check(n, 2, modulo)
        shift = np.eye(n, k=1, dtype=np.int64)
        shift[n - 1, 0] = (-1) ** (n - 1)
        matrices = {
            "e": _elementary(n, 0, 1),
            "e'": _elementary(n, 0, 1, -1),
            "w": shift,
            "w'": shift.T.copy(),
        }
        return _define(matrices, modulo, f"sl_root_weyl{suffix}")

    @staticmethod
    def unitriangular(n: int, modulo: int, add_inverses: bool = True) -> CayleyGraphDef:
        """I + E_{i,i+1} for all i, modulo m: a group of order m^(n(n-1)/2).

        Inverses are added for m > 2; for m = 2 every generator is its own.
        """
        check_range("modulo", modulo, 2, MAX_MODULUS)
        suffix = _check(n, 2, modulo)
        matrices = {f"t{i}": _elementary(n, i, i + 1) for i in range(n - 1)}
        return _define(matrices, modulo, f"unitriangular{suffix}", add_inverses)
