"""Search over permutations as an op, and the two ops on many states."""

import math

import pytest
import torch
from rankone.ops import perm_apply, perm_hash_neighbors, permutation_bfs, permutation_bfs_reference
from rankone.ops._library import warn_composite
from rankone.ops._permutation_bfs import (
    WIDTHS,
    _perm_apply_torch,
    _perm_hash_neighbors_torch,
    native_kernels,
)

needs_native = pytest.mark.skipif(native_kernels() is None, reason="the native module is not built")
LRX = torch.tensor([[1, 2, 3, 4, 0], [4, 0, 1, 2, 3], [1, 0, 2, 3, 4]])
SHEARS = torch.tensor([[[1, 1], [0, 1]], [[1, 0], [1, 1]]])


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


@pytest.mark.parametrize("w", WIDTHS)
@pytest.mark.parametrize("n", [1, 5, 16, 33])
def test_packed_states_are_permuted(n, w):
    words, values = packed(n, w)
    generators = permutations(n)
    found = perm_apply(words, generators, n, w)
    assert torch.equal(found, _perm_apply_torch(words, generators, n, w))
    per_word = 64 // w
    for g, p in enumerate(generators):
        for i in range(n):
            word = found[g, :, i // per_word] >> (w * (i % per_word))
            mask = -1 if w == 64 else (1 << w) - 1
            assert torch.equal(word & mask, values[:, p[i]])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("n", [1, 7, 54])
def test_hashes_of_neighbors_are_those_of_the_neighbors(n, dtype):
    states = torch.randint(0, 120, (9, n)).to(dtype)
    generators = permutations(n)
    weights = torch.randint(-(2**62), 2**62, (n,))
    found = perm_hash_neighbors(states, generators, weights)
    expected = (states.long()[:, generators] * weights).sum(2).T
    assert torch.equal(found, expected)
    assert torch.equal(_perm_hash_neighbors_torch(states, generators, weights), expected)


def test_the_ops_pass_opcheck():
    words, values = packed(9, 4)
    generators = permutations(9)
    torch.library.opcheck(torch.ops.rankone.perm_apply.default, (words, generators, 9, 4))
    weights = torch.randint(-(2**62), 2**62, (9,))
    torch.library.opcheck(
        torch.ops.rankone.perm_hash_neighbors.default, (values, generators, weights)
    )


def test_the_ops_compile():
    words, _ = packed(9, 4)
    generators = permutations(9)

    def double(states):
        return perm_apply(states, generators, 9, 4) + 1

    compiled = torch.compile(double, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(words), double(words))


def test_the_reference_knows_small_groups():
    swaps = torch.tensor([[1, 0, 2, 3], [0, 2, 1, 3], [0, 1, 3, 2]])
    found = permutation_bfs_reference(swaps, torch.arange(4)[None])
    assert found["layer_sizes"] == [1, 3, 5, 6, 5, 3, 1]  # permutations by inversions
    found = permutation_bfs_reference(LRX, torch.arange(5)[None])
    assert (sum(found["layer_sizes"]), len(found["layer_sizes"])) == (math.factorial(5), 11)
    assert found["layers"][10].tolist() == [[1, 0, 4, 3, 2]]


GRAPHS = {
    "closed": (LRX, None, 0),
    "directed": (LRX[[0, 2]], None, 0),
    "coset": (LRX, torch.tensor([0, 0, 1, 1, 2]), 0),
    "binary": (LRX, torch.tensor([0, 0, 1, 1, 1]), 0),
    "two starts": (LRX, torch.tensor([[0, 1, 2, 3, 4], [1, 0, 2, 3, 4]]), 0),
    "matrices": (SHEARS, None, 5),
    "vectors": (SHEARS, torch.tensor([[1], [0]]), 7),
}


@needs_native
@pytest.mark.parametrize("engine", ["auto", "hash", "bitarray", "external"])
@pytest.mark.parametrize("name", GRAPHS)
def test_engines_give_the_layers_of_the_reference(name, engine, tmp_path):
    generators, start, modulus = GRAPHS[name]
    options = {"modulus": modulus, "max_layer_size_to_store": None}
    expected = permutation_bfs(generators, start, engine="reference", **options)
    if engine == "bitarray" and name in ("coset", "matrices", "vectors"):
        with pytest.raises(ValueError, match="bitarray"):
            permutation_bfs(generators, start, engine=engine, **options)
        return
    if engine == "external":
        options["scratch_dir"] = tmp_path
    found = permutation_bfs(generators, start, engine=engine, **options)
    assert found.complete
    assert found.layer_sizes == expected.layer_sizes
    assert found.layers.keys() == expected.layers.keys()
    assert all(torch.equal(found.layers[d], expected.layers[d]) for d in found.layers)


@pytest.mark.parametrize("engine", ["reference", "hash", "bitarray"])
def test_limits_stop_a_search(engine):
    if engine != "reference" and native_kernels() is None:
        pytest.skip("the native module is not built")
    whole = permutation_bfs(LRX, engine=engine)
    for limit, layers, status in (
        ({"max_level": 3}, 4, "max_level"),
        ({"max_states": 10}, 3, "max_states"),
        ({"max_layer_size": 5}, 3, "max_layer_size"),
        ({"on_level": lambda level, size, seconds: level == 2}, 3, "stopped"),
    ):
        part = permutation_bfs(LRX, engine=engine, **limit)
        assert part.layer_sizes == whole.layer_sizes[:layers]
        assert (part.complete, part.status) == (False, status)
        assert sorted(part.layers) == [0, layers - 1]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: permutation_bfs([[1, 0]]), TypeError, "generators must be a torch.Tensor"),
        (lambda: permutation_bfs(LRX.int()), TypeError, "generators must be int64"),
        (lambda: permutation_bfs(LRX[:0]), ValueError, "at least one, got shape"),
        (
            lambda: permutation_bfs(torch.tensor([[0, 0, 1]])),
            ValueError,
            r"generators\[0\] must be a permutation of 0..2, got \[0, 0, 1\]",
        ),
        (lambda: permutation_bfs(LRX, torch.arange(4)), ValueError, r"shape \(5,\) or \(k, 5\)"),
        (lambda: permutation_bfs(LRX, -torch.arange(5)), ValueError, "negative, got -4"),
        (lambda: permutation_bfs(LRX, engine="fast"), ValueError, "engine must be one of"),
        (lambda: permutation_bfs(LRX, engine="external"), ValueError, "scratch_dir must be given"),
        (lambda: permutation_bfs(LRX, resume=True), ValueError, "resume goes with"),
        (lambda: permutation_bfs(LRX, modulus=3), ValueError, "modulus goes with matrices"),
        (lambda: permutation_bfs(SHEARS, modulus=1), ValueError, "modulus must be 0 or"),
        (lambda: permutation_bfs(SHEARS[:, :1]), ValueError, "square matrices"),
        (lambda: permutation_bfs(LRX, max_states=0), ValueError, "max_states must be positive"),
        (lambda: permutation_bfs(LRX, num_threads=0), ValueError, "num_threads must be at least"),
        (lambda: perm_apply(LRX, LRX, 5, 3), ValueError, "w must be one of"),
        (lambda: perm_apply(LRX, LRX, 5, 4), ValueError, "states must have 1 words"),
        (lambda: perm_apply(LRX[:, :1], LRX, 4, 4), ValueError, "n = 4 columns, got 5"),
        (lambda: perm_apply(LRX.int(), LRX, 5, 64), TypeError, "states must be int64"),
        (lambda: perm_hash_neighbors(LRX.float(), LRX, LRX[0]), TypeError, "uint8, int16"),
        (lambda: perm_hash_neighbors(LRX, LRX, LRX[0, :3]), ValueError, "weights must have the 5"),
        (lambda: perm_hash_neighbors(LRX, LRX, LRX), ValueError, "weights must be 1-D"),
    ],
)
def test_bad_input_names_the_argument(call, error, message):
    with pytest.raises(error, match=message):
        call()


@needs_native
def test_a_search_that_cannot_fit_is_refused():
    n = 12
    left = torch.tensor([[*range(1, n), 0], [n - 1, *range(n - 1)]])
    with pytest.raises(MemoryError):
        permutation_bfs(left, engine="bitarray", max_bytes=2**20)


def test_without_the_native_module_the_reference_answers_and_says_so(monkeypatch):
    monkeypatch.setattr("rankone.ops._permutation_bfs.native_kernels", lambda: None)
    warn_composite.cache_clear()
    with pytest.warns(UserWarning, match="permutation_bfs runs as composite torch code"):
        found = permutation_bfs(LRX)
    assert found.engine == "reference"
    with pytest.raises(RuntimeError, match="pip install"):
        permutation_bfs(LRX, engine="hash")
