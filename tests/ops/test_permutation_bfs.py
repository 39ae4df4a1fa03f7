"""Search over permutations as an op, and the two ops on many states."""

import math

import pytest
import torch
from rankone.ops import perm_apply, perm_hash_neighbors, permutation_bfs, permutation_bfs_reference
from rankone.ops._library import warn_composite
from rankone.ops._permutation_bfs import (
    WIDTHS,
    SearchLimits,
    _choose_engine,
    _perm_apply_torch,
    _perm_hash_neighbors_torch,
    native_graph,
    native_kernels,
    native_search,
)
from rankone.ops._permutation_bfs_cuda import cuda_search, device_limit

from .permutation_bfs_cases import (
    GRAPHS,
    LRX,
    SHEARS,
    assert_limits_stop,
    assert_same_search,
    packed,
    permutations,
)

needs_native = pytest.mark.skipif(native_kernels() is None, reason="the native module is not built")


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
    assert_same_search(found, expected)


@pytest.mark.parametrize("engine", ["reference", "hash", "bitarray"])
def test_limits_stop_a_search(engine):
    if engine != "reference" and native_kernels() is None:
        pytest.skip("the native module is not built")
    assert_limits_stop(LRX, engine)


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


class FakeKernels:
    """Stands for the CUDA functions where there is no device."""

    def __init__(self, obstacle="", bitarray=10**6):
        self.obstacle, self.bitarray = obstacle, bitarray

    def bitarray_obstacle(self, graph):
        return self.obstacle

    def bfs_memory(self, graph, expected_states=0):
        return {"hash": 0, "bitarray": self.bitarray}


def test_the_device_chooses_the_engine_by_its_own_kernels():
    assert _choose_engine(None, FakeKernels(), None) == "bitarray"
    assert _choose_engine(None, FakeKernels(), 10**6) == "bitarray"
    assert _choose_engine(None, FakeKernels(), 10**6 - 1) == "hash"
    assert _choose_engine(None, FakeKernels(obstacle="0/1 words"), None) == "hash"


def test_a_search_takes_no_more_of_a_device_than_is_free(monkeypatch):
    device = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (800, 2000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 300)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 100)
    # Torch's unused blocks are free for a search, and a tenth is left.
    assert device_limit(device, None) == 900
    assert device_limit(device, 950) == 900
    assert device_limit(device, 500) == 500
    assert device_limit(torch.device("cpu"), None) is None


@needs_native
def test_no_kernels_for_a_device_is_an_error_that_says_how_to_build_them():
    graph = native_graph(LRX, torch.arange(5)[None], 4)
    with pytest.raises(
        RuntimeError, match=r"engine 'hash' has no kernels for meta.*RANKONE_CUDA=ON"
    ):
        native_search(
            "hash",
            graph,
            limits=SearchLimits(),
            max_layer_size_to_store=0,
            threads=1,
            device=torch.device("meta"),
        )


def test_the_external_engine_is_refused_off_the_cpu():
    with pytest.raises(
        ValueError, match=r"engine 'external' runs on the CPU, got a search on cuda"
    ):
        cuda_search(FakeKernels(), "external", None, torch.device("cuda", 0))
