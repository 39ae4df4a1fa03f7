"""Which engine a graph on a GPU gets, and what it says where there is none; no device is needed."""

import pytest
import torch
from rankone.cayley import CayleyError, CayleyGraph, PermutationGroups
from rankone.cayley.algo import engines
from rankone.cayley.algo._collect import Limits, Wanted
from rankone.cayley.device_config import DeviceConfig
from rankone.ops._permutation_bfs import native_kernels

pytestmark = pytest.mark.skipif(native_kernels() is None, reason="the native module is not built")

GPU = torch.device("cuda", 0)
GIB = 2**30


class FakeKernels:
    """What the CUDA functions say of S_n: two bits a permutation, 18 bytes a state of a table."""

    def __init__(self, obstacle=""):
        self.obstacle = obstacle

    def bitarray_obstacle(self, graph):
        return self.obstacle

    def bfs_memory(self, graph, expected_states=0):
        return {
            "hash": 18 * expected_states + 2**24,
            "bitarray": 0 if self.obstacle else graph.memory()["bitarray"],
        }


@pytest.fixture
def gpu(monkeypatch):
    """Settings of a pretended GPU: its kernels and its free memory."""

    class Gpu:
        kernels = FakeKernels()
        free = 80 * GIB

    monkeypatch.setattr(
        engines, "cuda_kernels", lambda device: Gpu.kernels if device.type == "cuda" else None
    )
    monkeypatch.setattr(engines, "free_device_memory", lambda device: Gpu.free)
    return Gpu


def plan(definition, *, memory_gb=None, scratch_dir=None, wanted=None, **limits):
    """The plan of a search on a graph that lies on the GPU as far as the choice is concerned."""
    graph = CayleyGraph(definition, device="cpu")
    starts = graph.central_state[None]
    graph.device_config = DeviceConfig((GPU,))
    return engines.Plan(
        graph,
        starts,
        Limits(**limits),
        wanted or Wanted(),
        max_memory_gb=memory_gb,
        scratch_dir=scratch_dir,
    )


def test_whole_symmetric_groups_take_the_bits_up_to_14_elements(gpu):
    assert plan(PermutationGroups.lrx(9), memory_gb=70).choose() == "bitarray"
    assert plan(PermutationGroups.lrx(14), memory_gb=70).choose() == "bitarray"


def test_other_graphs_take_the_hash_tables(gpu):
    assert plan(PermutationGroups.lrx(9).with_central_state([0, 1] * 4 + [0])).choose() == "hash"
    gpu.kernels = FakeKernels("0/1 words")
    assert plan(PermutationGroups.lrx(9)).choose() == "hash"


def test_free_memory_bounds_a_search_before_it_starts(gpu):
    gpu.free = 20 * GIB
    searched = plan(PermutationGroups.lrx(14), memory_gb=70)
    assert searched.limit_bytes == int(0.9 * 20 * GIB)
    with pytest.raises(MemoryError, match=r"engine 'bitarray' would need up to 20.* GiB"):
        searched.require("bitarray")
    with pytest.raises(MemoryError, match=r"engine 'hash' would need .*no engine would fit"):
        searched.choose()
    estimate = searched.estimate("bitarray")
    assert not estimate["fits"]
    assert estimate["bytes_peak"] > estimate["limit_bytes"] == searched.limit_bytes


def test_a_limited_search_goes_to_the_hash_tables_and_stops_there(gpu):
    gpu.free = GIB
    assert plan(PermutationGroups.lrx(14), max_states=10**6).choose() == "hash"


def test_files_are_the_cpus(gpu, tmp_path):
    assert plan(PermutationGroups.lrx(9), scratch_dir=tmp_path).choose() == "torch"
    searched = plan(PermutationGroups.lrx(9), scratch_dir=tmp_path)
    with pytest.raises(CayleyError, match=r"'hash' .* with scratch_dir it runs on the CPU"):
        searched.require("hash")
    with pytest.raises(
        CayleyError, match=r"'external' .* runs on the CPU, and the graph is on cuda"
    ):
        plan(PermutationGroups.lrx(9)).require("external")


def test_without_kernels_torch_searches_the_gpu(gpu):
    gpu.kernels = None
    searched = plan(PermutationGroups.lrx(8))
    assert searched.choose() == "torch"
    with pytest.raises(RuntimeError, match=r"on cuda:0, for which it has no kernels.*CUDA=ON"):
        searched.require("hash")
