"""Graphs of matrices: diameters and orders of the named families."""

import pytest
from rankone.cayley import MatrixGroups

from .graphs import diameter, growth, plain_layers

M = MatrixGroups


def test_heisenberg_mod_5():
    assert growth(M.heisenberg(modulo=5)) == [1, 4, 12, 32, 62, 12, 2]


@pytest.mark.parametrize("modulo", range(8, 14))
def test_heisenberg_diameters(modulo):
    assert diameter(M.heisenberg(modulo=modulo)) == 2 * (modulo // 2)


@pytest.mark.parametrize("modulo", range(3, 6))
def test_larger_heisenberg_groups(modulo):
    sizes = growth(M.heisenberg(n=4, modulo=modulo))
    assert len(sizes) - 1 == 2 * 2 * (modulo // 2)
    assert sum(sizes) == modulo**5


def test_sl2_fundamental_roots():
    found = [diameter(M.special_linear_fundamental_roots(2, m)) for m in range(2, 11)]
    assert found == [3, 4, 6, 6, 6, 7, 8, 8, 10]
    assert growth(M.special_linear_fundamental_roots(2, 5)) == [1, 4, 12, 26, 48, 26, 3]


def test_sl2_root_and_weyl_element():
    found = [diameter(M.special_linear_root_weyl(2, m)) for m in range(2, 11)]
    assert found == [3, 3, 6, 9, 8, 10, 12, 12, 12]


def test_sl3_has_its_order():
    assert sum(growth(M.special_linear_fundamental_roots(3, 3))) == 5616
    assert sum(growth(M.special_linear_root_weyl(3, 2))) == 168


def test_unitriangular_diameters():
    assert [diameter(M.unitriangular(3, p)) for p in (2, 3, 5, 7, 11, 13)] == [4, 4, 6, 8, 10, 12]
    assert [diameter(M.unitriangular(4, m)) for m in range(2, 8)] == [8, 8, 10, 10, 13, 12]
    assert [diameter(M.unitriangular(5, m)) for m in (2, 3)] == [12, 12]


@pytest.mark.parametrize(("n", "modulo"), [(3, 4), (4, 2), (4, 3)])
def test_unitriangular_orders(n, modulo):
    assert sum(growth(M.unitriangular(n, modulo))) == modulo ** (n * (n - 1) // 2)


@pytest.mark.parametrize(
    "definition",
    [
        M.heisenberg(modulo=4),
        M.heisenberg(modulo=3, add_inverses=False),
        M.special_linear_root_weyl(2, 6).with_central_state([[1], [0]]),
    ],
    ids=["closed", "directed", "vectors"],
)
def test_layers_are_those_of_plain_sets(definition):
    assert growth(definition) == [len(layer) for layer in plain_layers(definition)]


def test_integer_matrices_grow_without_end():
    found = growth(M.heisenberg(), max_diameter=5)
    assert found == [len(layer) for layer in plain_layers_to(M.heisenberg(), 5)]


def plain_layers_to(definition, depth):
    from .graphs import neighbors

    layer, seen, layers = {tuple(definition.central_state)}, set(), []
    for _ in range(depth + 1):
        layers.append(layer)
        seen |= layer
        layer = {n for state in layer for n in neighbors(definition, state)} - seen
    return layers
