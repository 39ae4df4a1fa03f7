"""Independent ways to the same numbers, shared by the tests of this folder."""

import math
from collections import Counter

import torch
from rankone.cayley import CayleyGraph

CPU = "cpu"


def graph(definition, **options):
    return CayleyGraph(definition, device=CPU, **options)


def growth(definition, **search):
    search.setdefault("max_layer_size_to_store", 0)
    return graph(definition).bfs(**search).layer_sizes


def diameter(definition):
    return len(growth(definition)) - 1


def plain_layers(definition, start=None):
    """Layers by Python sets of tuples, straight from the definition of the graph."""
    layer = {tuple(definition.central_state if start is None else start)}
    seen = set()
    layers = []
    while layer:
        layers.append(layer)
        seen |= layer
        layer = {n for state in layer for n in neighbors(definition, state)} - seen
    return layers


def neighbors(definition, state):
    """The neighbours of a state, in the order of the generators."""
    if definition.is_permutation_group():
        return [tuple(state[i] for i in p) for p in definition.generators_permutations]
    rows, columns = definition.decoded_state_shape
    found = []
    for generator in definition.generators_matrices:
        a = generator.matrix.tolist()
        new = [
            sum(a[i][k] * state[k * columns + j] for k in range(rows))
            for i in range(rows)
            for j in range(columns)
        ]
        found.append(tuple(v % generator.modulo for v in new) if generator.modulo else tuple(new))
    return found


def polynomial_product(factors):
    """Coefficients of a product of polynomials given by ascending coefficients."""
    product = [1]
    for factor in factors:
        result = [0] * (len(product) + len(factor) - 1)
        for i, a in enumerate(product):
            for j, b in enumerate(factor):
                result[i + j] += a * b
        product = result
    return product


def stirling_growth(n):
    """Permutations by n minus their number of cycles: unsigned Stirling numbers c(n, n - d)."""
    return polynomial_product([[1, i] for i in range(n)])[:n]


def binomials(n):
    return [math.comb(n, d) for d in range(n + 1)]


def multiset(rows):
    return Counter(map(tuple, torch.as_tensor(rows).tolist()))
