"""Two processes over gloo find what one finds."""

import os
import pickle
import subprocess
import sys
import textwrap

from rankone.cayley import PermutationGroups
from rankone.cayley.algo import BfsDistributed
from rankone.cayley.distributed import launch

from .graphs import graph

# Run in each of two processes; what rank 0 and rank 1 got is written beside the rendezvous.
SCRIPT = textwrap.dedent(
    """
    import itertools, pickle, sys, torch.distributed as dist
    import rankone.cayley.algo.bfs_distributed as module
    from rankone.cayley import CayleyGraph, MatrixGroups, PermutationGroups
    from rankone.cayley.algo import BfsDistributed

    folder, rank = sys.argv[1], int(sys.argv[2])
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    module._BATCH = 64  # many exchanges a level
    results = []
    definitions = (
        PermutationGroups.lrx(6),
        PermutationGroups.lx(6),
        PermutationGroups.lrx(20).with_central_state([0] * 17 + [1, 2, 3]),
        MatrixGroups.heisenberg(modulo=5),
    )
    for native, definition in itertools.product((True, False), definitions):
        if not native:
            module.has_native_engines = lambda graph: False
        graph = CayleyGraph(definition, device="cpu", threads=1)
        results.append(graph.bfs(engine="distributed"))
        results.append(graph.bfs(engine="distributed", max_layer_size_to_store=None,
                                 return_all_edges=True, return_all_hashes=True))
        results.append(graph.bfs(engine="distributed", max_diameter=4))
        results.append(graph.bfs(engine="distributed",
                                 stop_condition=lambda states, hashes: len(hashes) > 30))
        scratch = f"{folder}/{definition.name}-{native}"
        graph.bfs(engine="distributed", max_diameter=4, scratch_dir=scratch)
        results.append(graph.bfs(engine="distributed", resume=True, scratch_dir=scratch))
    with open(f"{folder}/result{rank}", "wb") as file:
        pickle.dump(results, file)
    dist.destroy_process_group()
    """
)


def test_two_processes_find_what_one_finds(tmp_path):
    """Native shares (where they are built) and torch shares, four graphs, five searches each."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path), str(rank)], env=environment)
        for rank in range(2)
    ]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    found, others = (pickle.loads((tmp_path / f"result{rank}").read_bytes()) for rank in range(2))
    stop = {"stop_condition": lambda states, hashes: len(hashes) > 30}
    everything = {
        "max_layer_size_to_store": None,
        "return_all_edges": True,
        "return_all_hashes": True,
    }
    searches = [{}, everything, {"max_diameter": 4}, stop, {}]
    for index, (result, other) in enumerate(zip(found, others, strict=True)):
        single = graph(result.graph).bfs(engine="torch", **searches[index % len(searches)])
        assert result == single
        assert result.engine_info["world_size"] == 2
        assert other.layer_sizes == single.layer_sizes
        assert all(len(states) == 0 for states in other.layers.values())


def test_launch_starts_processes():
    result = launch(PermutationGroups.lrx(6), nproc=2, max_layer_size_to_store=None)
    expected = graph(PermutationGroups.lrx(6)).bfs(engine="torch", max_layer_size_to_store=None)
    assert result == expected
    assert result.engine_info["world_size"] == 2


def test_without_a_group_it_is_a_search_in_one_process():
    made = graph(PermutationGroups.lx(6))
    result = BfsDistributed.bfs(made)
    assert result == made.bfs(engine="torch")
    assert result.engine_info["world_size"] == 1
