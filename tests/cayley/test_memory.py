"""Memory is foretold: what a search needs, and who would fit."""

import pytest
from rankone.cayley import CayleyError, MatrixGroups, PermutationGroups, Puzzles
from rankone.ops._permutation_bfs import native_kernels

from .graphs import graph

GIB = 2**30
pytestmark = pytest.mark.skipif(native_kernels() is None, reason="the native module is not built")


def test_the_bitarray_takes_two_bits_an_element():
    estimate = graph(PermutationGroups.lrx(12)).estimate_memory("bitarray")
    bits = 479001600 * 2 / 8
    # Counters of chunks and target bitmaps come on top.
    assert bits <= estimate["bytes_peak"] <= 1.1 * bits + 64 * 2**20
    assert estimate["n_states"] == 479001600
    assert estimate["n_states_exact"]
    assert estimate["fits"]


def test_the_hash_engine_takes_its_slots():
    estimate = graph(PermutationGroups.lrx(10)).estimate_memory("hash")
    assert estimate["bytes_peak"] == pytest.approx(3628800 * 8 / 0.7, rel=1e-6)
    assert (estimate["engine"], estimate["reason"]) == ("hash", "")


def test_peaks_stay_below_the_estimate():
    made = graph(PermutationGroups.lrx(9))
    for engine in ("hash", "torch", "bitarray"):
        info = made.bfs(engine=engine).engine_info
        floor = 8 * 2**20  # buffers that do not grow with the graph
        assert info["bytes_peak"] <= made.estimate_memory(engine)["bytes_peak"] + floor


def test_auto_estimates_the_engine_that_it_would_take():
    assert graph(PermutationGroups.lrx(9)).estimate_memory()["engine"] == "bitarray"
    assert graph(MatrixGroups.heisenberg(modulo=5)).estimate_memory()["engine"] == "hash"


def test_a_search_that_cannot_fit_is_refused_before_it_starts():
    with pytest.raises(MemoryError, match=r"1.308e\+12 states.*no engine would fit.*max_diameter"):
        graph(PermutationGroups.lrx(15)).bfs()
    with pytest.raises(MemoryError, match=r"more than 1e\+15 states"):
        graph(Puzzles.megaminx()).bfs()
    with pytest.raises(MemoryError, match="no bound on its states is known"):
        graph(MatrixGroups.heisenberg()).bfs()


def test_the_error_names_the_engine_that_would_fit():
    made = graph(PermutationGroups.lrx(11))
    with pytest.raises(MemoryError, match=r"'hash' would need up to .*'bitarray' would fit"):
        made.bfs(engine="hash", max_memory_gb=0.05)
    coset = PermutationGroups.lrx(24).with_central_state([0] * 8 + [1] * 8 + [2] * 8)
    with pytest.raises(MemoryError, match="engine 'hash' would need"):
        graph(coset).bfs(engine="hash", max_memory_gb=1)
    with pytest.raises(MemoryError, match=r"'bitarray' would need up to .* limit is 0.01 GiB"):
        graph(PermutationGroups.lrx(12)).bfs(engine="bitarray", max_memory_gb=0.01)


def test_a_small_orbit_of_many_points_is_searched():
    """Arrangements alone, 110!, would be refused; the group has 3000 elements."""
    assert sum(graph(PermutationGroups.torus(50, 60)).bfs().layer_sizes) == 3000


def test_a_limited_search_runs_and_stops_at_its_memory():
    made = graph(PermutationGroups.lrx(13))
    for engine in ("hash", "torch"):
        with pytest.warns(UserWarning, match=f"'{engine}' reached its memory limit"):
            result = made.bfs(engine=engine, max_memory_gb=0.004, max_diameter=60)
        assert not result.bfs_completed
        assert result.engine_info["status"] == "memory_limit"
        assert result.engine_info["bytes_peak"] <= 0.005 * GIB
        assert result.layer_sizes[:6] == [1, 3, 6, 12, 24, 48]
        assert len(result.last_layer()) == result.layer_sizes[-1]


def test_a_limited_search_of_an_endless_graph_runs():
    sizes = graph(MatrixGroups.heisenberg()).bfs(max_diameter=4).layer_sizes
    assert sizes[:3] == [1, 4, 12]


def test_n_too_large_for_the_engine_is_named():
    with pytest.raises((CayleyError, MemoryError), match="bitarray"):
        graph(PermutationGroups.lrx(20)).bfs(engine="bitarray")


def test_unknown_engines_are_named():
    with pytest.raises(CayleyError, match=r"engine must be one of .* got 'magic'"):
        graph(PermutationGroups.lrx(5)).estimate_memory("magic")
