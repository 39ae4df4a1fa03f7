"""The CUDA engines of the breadth-first search and its two ops on a device, against the reference
and the CPU's engines."""

import gc
import math

import pytest
import torch
from rankone.cayley import CayleyGraph, PermutationGroups
from rankone.ops import perm_apply, perm_hash_neighbors, permutation_bfs
from rankone.ops._permutation_bfs import WIDTHS, _perm_apply_torch, _perm_hash_neighbors_torch
from rankone.ops._permutation_bfs_cuda import free_device_memory

from .cuda_cases import DEVICE, captured
from .permutation_bfs_cases import (
    GRAPHS,
    LRX,
    assert_limits_stop,
    assert_same_search,
    lrx,
    packed,
    permutations,
)

pytestmark = pytest.mark.cuda

RANKED = ("closed", "directed", "two starts")


def on_device(tensor):
    return None if tensor is None else tensor.to(DEVICE)


def allocated():
    """Bytes of device memory that tensors hold which something still refers to."""
    gc.collect()
    return torch.cuda.memory_allocated()


# Searches.


@pytest.mark.parametrize("engine", ["auto", "hash", "bitarray"])
@pytest.mark.parametrize("name", GRAPHS)
def test_engines_give_the_layers_of_the_reference(name, engine):
    generators, start, modulus = GRAPHS[name]
    options = {"modulus": modulus, "max_layer_size_to_store": None}
    expected = permutation_bfs(generators, start, engine="reference", **options)
    generators, start = on_device(generators), on_device(start)
    if engine == "bitarray" and name not in RANKED:
        with pytest.raises(ValueError, match="bitarray does not apply"):
            permutation_bfs(generators, start, engine=engine, **options)
        return
    found = permutation_bfs(generators, start, engine=engine, **options)
    assert all(states.device.type == DEVICE.type for states in found.layers.values())
    assert_same_search(found, expected)
    wanted = "bitarray" if name in RANKED else "hash"
    assert found.engine == (wanted if engine == "auto" else engine)


@pytest.mark.parametrize("engine", ["hash", "bitarray"])
@pytest.mark.parametrize("take", [(0, 1, 2), (0, 2)], ids=["closed", "directed"])
def test_every_layer_of_s_10_equals_the_cpus(engine, take):
    generators = lrx(10)[list(take)]
    expected = permutation_bfs(generators, engine="hash", max_layer_size_to_store=None)
    found = permutation_bfs(on_device(generators), engine=engine, max_layer_size_to_store=None)
    assert_same_search(found, expected)


@pytest.mark.parametrize("engine", ["hash", "bitarray"])
def test_many_generators_find_stirling_numbers(engine):
    n = 9
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    generators = torch.arange(n).repeat(len(pairs), 1)
    for row, (i, j) in zip(generators, pairs, strict=True):
        row[i], row[j] = j, i
    growth = [1]  # of the product of (1 + i q)
    for i in range(1, n):
        growth = [a + i * b for a, b in zip([*growth, 0], [0, *growth], strict=True)]
    assert permutation_bfs(on_device(generators), engine=engine).layer_sizes == growth


@pytest.mark.parametrize("engine", ["hash", "bitarray"])
def test_s_12_is_found_whole(engine):
    found = permutation_bfs(on_device(lrx(12)), engine=engine)
    assert found.complete
    assert sum(found.layer_sizes) == math.factorial(12)
    assert (len(found.layer_sizes) - 1, found.layer_sizes[-1]) == (66, 1)
    # The farthest element, known in closed form.
    assert found.layers[66].tolist() == [[1, 0, *range(11, 1, -1)]]


def test_states_of_many_words_equal_the_cpus():
    generator = torch.Generator().manual_seed(5)
    moves = []
    for _ in range(3):
        move = torch.arange(120)
        places = torch.randperm(120, generator=generator)[:4]
        move[places] = move[places.roll(1)]
        moves += [move, move.argsort()]
    start = torch.randint(0, 200, (120,), generator=generator)
    start[0] = 199
    options = {"max_layer_size_to_store": None, "max_level": 9}
    for generators in (torch.stack(moves), torch.stack(moves[::2])):
        expected = permutation_bfs(generators, start, engine="hash", **options)
        found = permutation_bfs(on_device(generators), on_device(start), engine="hash", **options)
        assert_same_search(found, expected)


@pytest.mark.parametrize("engine", ["hash", "bitarray"])
def test_results_repeat(engine):
    options = {"engine": engine, "max_layer_size_to_store": None}
    first = permutation_bfs(on_device(lrx(9)), **options)
    for _ in range(3):
        assert_same_search(permutation_bfs(on_device(lrx(9)), **options), first)


@pytest.mark.parametrize("engine", ["hash", "bitarray"])
def test_limits_stop_a_search(engine):
    assert_limits_stop(on_device(LRX), engine)


@pytest.mark.parametrize("engine", ["hash", "bitarray"])
def test_a_search_gives_its_memory_back(engine):
    before = allocated()
    torch.cuda.reset_peak_memory_stats()
    found = permutation_bfs(on_device(lrx(10)), engine=engine)
    # Torch rounds each array up to half a kilobyte.
    assert torch.cuda.max_memory_allocated() - before <= found.peak_bytes + 2**16
    del found
    assert allocated() == before


def test_max_bytes_bounds_the_device_memory():
    limit = 2**20
    before = allocated()
    torch.cuda.reset_peak_memory_stats()
    found = permutation_bfs(on_device(lrx(10)), engine="hash", max_bytes=limit)
    assert found.status == "memory_limit"
    assert torch.cuda.max_memory_allocated() - before <= limit + 2**16
    with pytest.raises(MemoryError, match=r"bitarray engine needs .* bytes on the device"):
        permutation_bfs(on_device(lrx(10)), engine="bitarray", max_bytes=2**16)


def test_what_no_device_has_is_refused_before_it_is_asked_for():
    before = allocated()
    with pytest.raises(MemoryError, match="bytes on the device"):
        permutation_bfs(on_device(lrx(15)), engine="bitarray")
    found = permutation_bfs(on_device(lrx(15)), max_level=5)
    assert found.engine == "hash"
    del found
    assert allocated() == before


def test_a_callback_that_raises_ends_the_search():
    def fail(level, size, seconds):
        if level == 3:
            raise LookupError("level three")

    before = allocated()
    for engine in ("hash", "bitarray"):
        with pytest.raises(LookupError, match="level three"):
            permutation_bfs(on_device(lrx(8)), engine=engine, on_level=fail)
    assert allocated() == before


def test_a_search_runs_on_the_current_stream():
    stream = torch.cuda.Stream()
    expected = permutation_bfs(lrx(8), engine="hash").layer_sizes
    with torch.cuda.stream(stream):
        for engine in ("hash", "bitarray"):
            assert permutation_bfs(on_device(lrx(8)), engine=engine).layer_sizes == expected


def test_the_external_engine_runs_on_the_cpu_alone(tmp_path):
    with pytest.raises(ValueError, match="engine 'external' runs on the CPU"):
        permutation_bfs(on_device(LRX), engine="external", scratch_dir=tmp_path)


def test_a_graph_on_the_gpu_is_searched_there():
    graph = CayleyGraph(PermutationGroups.lrx(9), device="cuda")
    expected = CayleyGraph(PermutationGroups.lrx(9), device="cpu").bfs()
    for engine, ran in (("auto", "bitarray"), ("bitarray", "bitarray"), ("hash", "hash")):
        found = graph.bfs(engine=engine)
        assert found.engine_info["engine"] == ran
        assert found.layer_sizes == expected.layer_sizes
        assert found.last_layer().tolist() == expected.last_layer().tolist()
    assert graph.estimate_memory("bitarray")["limit_bytes"] <= free_device_memory(graph.device)


# Ops.


@pytest.mark.parametrize("w", WIDTHS)
@pytest.mark.parametrize("n", [1, 5, 16, 33])
def test_packed_states_are_permuted(n, w):
    words, _ = packed(n, w, count=1000)
    generators = permutations(n)
    found = perm_apply(words.cuda(), generators.cuda(), n, w)
    assert torch.equal(found.cpu(), _perm_apply_torch(words, generators, n, w))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("n", [1, 54, 700])
def test_hashes_of_neighbors_equal_the_composite(n, dtype):
    states = torch.randint(0, 120, (1000, n)).to(dtype)
    generators = permutations(n)
    weights = torch.randint(-(2**62), 2**62, (n,))
    found = perm_hash_neighbors(states.cuda(), generators.cuda(), weights.cuda())
    assert torch.equal(found.cpu(), _perm_hash_neighbors_torch(states, generators, weights))


def test_generators_are_looked_at_on_demand(monkeypatch):
    words, _ = packed(5, 4)
    repeats = torch.tensor([[0, 0, 1, 2, 3]]).cuda()
    monkeypatch.setenv("RANKONE_CHECK_VALUES", "1")
    with pytest.raises(ValueError, match=r"generators\[0\] must be a permutation"):
        perm_apply(words.cuda(), repeats, 5, 4)
    with pytest.raises(ValueError, match=r"generators\[0\] must be a permutation"):
        perm_hash_neighbors(words.new_zeros(2, 5).cuda(), repeats, repeats[0])


def test_a_graph_of_the_ops_replays_on_new_states():
    generators = permutations(24).cuda()
    weights = torch.randint(-(2**62), 2**62, (24,)).cuda()
    states = torch.zeros(300, 24, dtype=torch.int64).cuda()
    graph, hashes = captured(lambda: perm_hash_neighbors(states, generators, weights))
    words = torch.zeros(300, 2, dtype=torch.int64).cuda()
    apply_graph, moved = captured(lambda: perm_apply(words, generators, 24, 4))
    states.random_(0, 100)
    fresh, _ = packed(24, 4, count=300)
    words.copy_(fresh)
    graph.replay()
    apply_graph.replay()
    assert torch.equal(hashes, _perm_hash_neighbors_torch(states, generators, weights))
    assert torch.equal(moved, _perm_apply_torch(words, generators, 24, 4))
