"""Graphs and states that the tests of the breadth-first search share, on any device."""

import torch
from rankone.ops import permutation_bfs

LRX = torch.tensor([[1, 2, 3, 4, 0], [4, 0, 1, 2, 3], [1, 0, 2, 3, 4]])
SHEARS = torch.tensor([[[1, 1], [0, 1]], [[1, 0], [1, 1]]])

GRAPHS = {
    "closed": (LRX, None, 0),
    "directed": (LRX[[0, 2]], None, 0),
    "coset": (LRX, torch.tensor([0, 0, 1, 1, 2]), 0),
    "binary": (LRX, torch.tensor([0, 0, 1, 1, 1]), 0),
    "two starts": (LRX, torch.tensor([[0, 1, 2, 3, 4], [1, 0, 2, 3, 4]]), 0),
    "matrices": (SHEARS, None, 5),
    "vectors": (SHEARS, torch.tensor([[1], [0]]), 7),
}


def lrx(n):
    """L, R and X on n elements."""
    identity = torch.arange(n)
    exchange = torch.tensor([1, 0, *range(2, n)])
    return torch.stack([identity.roll(-1), identity.roll(1), exchange])


def packed(n, w, count=11):
    """Random packed states and their elements."""
    per_word = 64 // w
    high = min(2**w, 2**62)
    values = torch.randint(0, high, (count, n))
    words = torch.zeros(count, -(-n // per_word), dtype=torch.int64)
    for i in range(n):
        words[:, i // per_word] |= values[:, i] << (w * (i % per_word))
    return words, values


def permutations(n, count=4):
    return torch.stack([torch.randperm(n) for _ in range(count)])


def assert_same_search(found, expected):
    """Sizes, status and every stored state."""
    assert found.status == expected.status
    assert found.layer_sizes == expected.layer_sizes
    assert found.layers.keys() == expected.layers.keys()
    for level, states in found.layers.items():
        assert torch.equal(states.cpu(), expected.layers[level].cpu())


def assert_limits_stop(generators, engine):
    """Each limit ends the search of LRX-5 where it says, with the first and the last layer."""
    whole = permutation_bfs(generators, engine=engine)
    for limit, layers, status in (
        ({"max_level": 3}, 4, "max_level"),
        ({"max_states": 10}, 3, "max_states"),
        ({"max_layer_size": 5}, 3, "max_layer_size"),
        ({"on_level": lambda level, size, seconds: level == 2}, 3, "stopped"),
    ):
        part = permutation_bfs(generators, engine=engine, **limit)
        assert part.layer_sizes == whole.layer_sizes[:layers]
        assert (part.complete, part.status) == (False, status)
        assert sorted(part.layers) == [0, layers - 1]
