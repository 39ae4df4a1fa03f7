"""The CUDA engines of the breadth-first search through the public ops, on host memory."""

import pytest
import torch
from rankone.ops import _permutation_bfs, perm_apply, perm_hash_neighbors, permutation_bfs
from rankone.ops._permutation_bfs import WIDTHS, _perm_apply_torch, _perm_hash_neighbors_torch
from rankone.ops._permutation_bfs_cuda import DeviceArrays

from tests.emulation.conftest import EmulatedKernels
from tests.ops.permutation_bfs_cases import (
    GRAPHS,
    LRX,
    assert_limits_stop,
    assert_same_search,
    lrx,
    packed,
    permutations,
)

RANKED = ("closed", "directed", "two starts")


class Kernels:
    """In the place of ``rankone._native.cuda``: ops take a thread count where CUDA takes a stream,
    searches are called as they are."""

    def __init__(self, module):
        self.module = module
        self.ops = EmulatedKernels(module)

    def __getattr__(self, name):
        return getattr(self.ops if name.startswith("perm_") else self.module, name)


@pytest.fixture
def arrays(monkeypatch):
    """Every DeviceArrays that a search made."""
    made = []
    make = DeviceArrays.__init__

    def remember(self, device):
        make(self, device)
        made.append(self)

    monkeypatch.setattr(DeviceArrays, "__init__", remember)
    return made


@pytest.fixture
def emulated(emulation_module, monkeypatch):
    """Makes the ops run CPU tensors on the emulated CUDA functions."""
    kernels = Kernels(emulation_module)
    monkeypatch.setattr(_permutation_bfs, "cuda_kernels", lambda device: kernels)
    yield emulation_module
    emulation_module.set_schedule_seed(0)


@pytest.mark.parametrize("engine", ["auto", "hash", "bitarray"])
@pytest.mark.parametrize("name", GRAPHS)
def test_engines_give_the_layers_of_the_reference(emulated, arrays, name, engine):
    generators, start, modulus = GRAPHS[name]
    options = {"modulus": modulus, "max_layer_size_to_store": None}
    expected = permutation_bfs(generators, start, engine="reference", **options)
    if engine == "bitarray" and name not in RANKED:
        with pytest.raises(ValueError, match="bitarray does not apply"):
            permutation_bfs(generators, start, engine=engine, **options)
        return
    for seed in (1, 2):
        emulated.set_schedule_seed(seed)
        found = permutation_bfs(generators, start, engine=engine, **options)
        assert found.complete
        assert_same_search(found, expected)
    wanted = "bitarray" if name in RANKED else "hash"
    assert found.engine == (wanted if engine == "auto" else engine)
    assert len(arrays) == 2
    assert not any(held._held for held in arrays)


@pytest.mark.parametrize("engine", ["hash", "bitarray"])
def test_limits_stop_a_search(emulated, engine):
    assert_limits_stop(LRX, engine)


@pytest.mark.parametrize("engine", ["hash", "bitarray"])
def test_an_error_in_a_callback_comes_through_and_frees_the_arrays(emulated, arrays, engine):
    def fail(level, size, seconds):
        if level == 3:
            raise LookupError("level three")

    with pytest.raises(LookupError, match="level three"):
        permutation_bfs(lrx(6), engine=engine, on_level=fail)
    assert not arrays[0]._held


def test_a_search_that_cannot_fit_is_refused_or_stops(emulated, arrays):
    with pytest.raises(MemoryError, match=r"bitarray engine needs .* bytes on the device"):
        permutation_bfs(lrx(8), engine="bitarray", max_bytes=2**12)
    assert not any(held._held for held in arrays)
    found = permutation_bfs(lrx(8), engine="hash", max_bytes=2**16)
    assert found.status == "memory_limit"
    assert found.peak_bytes <= 2**16
    assert found.layer_sizes == permutation_bfs(lrx(8)).layer_sizes[: len(found.layer_sizes)]
    assert permutation_bfs(lrx(8), max_bytes=2**12).engine == "hash"


@pytest.mark.parametrize("engine", ["hash", "bitarray"])
def test_a_device_without_room_is_a_memory_error(emulated, monkeypatch, engine):
    monkeypatch.setattr(DeviceArrays, "allocate", lambda self, count: 0)
    with pytest.raises(MemoryError, match="device"):
        permutation_bfs(LRX, engine=engine)


def test_an_error_of_the_allocator_comes_through(emulated, monkeypatch):
    def fail(self, count):
        raise RuntimeError("the device is lost")

    monkeypatch.setattr(DeviceArrays, "allocate", fail)
    with pytest.raises(RuntimeError, match="the device is lost"):
        permutation_bfs(LRX, engine="hash")


@pytest.mark.parametrize("w", WIDTHS)
@pytest.mark.parametrize("n", [1, 5, 16, 33])
def test_packed_states_are_permuted(emulated, n, w):
    words, _ = packed(n, w)
    generators = permutations(n)
    found = perm_apply(words, generators, n, w)
    assert torch.equal(found, _perm_apply_torch(words, generators, n, w))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_hashes_of_neighbors_equal_the_composite(emulated, dtype):
    states = torch.randint(0, 120, (70, 54)).to(dtype)
    generators = permutations(54)
    weights = torch.randint(-(2**62), 2**62, (54,))
    found = perm_hash_neighbors(states, generators, weights)
    assert torch.equal(found, _perm_hash_neighbors_torch(states, generators, weights))


def test_strided_inputs_are_read_right(emulated):
    words, _ = packed(33, 4, count=22)
    generators = permutations(66)[:, :33].argsort(1)
    found = perm_apply(words[::2], generators, 33, 4)
    assert torch.equal(found, _perm_apply_torch(words[::2], generators, 33, 4))
    states = torch.randint(0, 9, (54, 20)).T
    weights = torch.randint(-(2**62), 2**62, (108,))[::2]
    moves = permutations(54)
    found = perm_hash_neighbors(states, moves, weights)
    assert torch.equal(found, _perm_hash_neighbors_torch(states, moves, weights))


def test_each_module_raises_its_own_memory_error(emulated):
    native = _permutation_bfs.require_native_kernels("this test")
    limited = {"max_bytes": 1}
    no_room = {"allocate": lambda count: 0, "release": print, "stream": 0}
    for module, options in ((emulated, no_room), (native, limited), (emulated, no_room)):
        graph = module.Graph(LRX.numpy(), torch.arange(5)[None].numpy(), 4)
        with pytest.raises(module.MemoryLimitError, match="max_bytes"):
            module.bfs_hash(graph, **options)
