"""Every engine finds the layers of the torch engine, and the torch engine those of plain sets."""

import warnings

import pytest
import torch
from rankone.cayley import (
    CayleyError,
    MatrixGroups,
    PermutationGroups,
    Puzzles,
    bfs_bitmask,
    bfs_numpy,
    puzzle_from_cuts,
)
from rankone.cayley.algo import BfsAlgorithm, InteractiveBfs
from rankone.ops._permutation_bfs import native_kernels

from .graphs import graph, growth, plain_layers

needs_native = pytest.mark.skipif(native_kernels() is None, reason="the native module is not built")

GRAPHS = {
    "lrx": PermutationGroups.lrx(7),
    "directed lx": PermutationGroups.lx(6),
    "directed larx": PermutationGroups.larx(6),
    "top spin": PermutationGroups.top_spin(7),
    "coset": PermutationGroups.coxeter(8).with_central_state("00011122"),
    "binary coset": PermutationGroups.lrx(12).with_central_state([0] * 6 + [1] * 6),
    "directed coset": PermutationGroups.larx(8).with_central_state("00010111"),
    "long reversals": PermutationGroups.full_reversals(6),
    "burnt pancake": PermutationGroups.burnt_pancake(4),
    "two words": PermutationGroups.torus(9, 11),
    "three words": Puzzles.hungarian_rings(3, 1, 40, 0 + 1),
    "skewb diamond": puzzle_from_cuts("o f 0", moves="fixed"),
    "heisenberg": MatrixGroups.heisenberg(modulo=7),
    "directed heisenberg": MatrixGroups.heisenberg(modulo=5, add_inverses=False),
    "unitriangular": MatrixGroups.unitriangular(4, 3),
    "vectors": MatrixGroups.special_linear_root_weyl(3, 3).with_central_state([[1], [0], [0]]),
    "identity": PermutationGroups.torus(3, 3).with_central_state([0] * 6),
}
GRAPHS["three words"] = PermutationGroups.lrx(40).with_central_state([*range(2), *[2] * 38])
SMALL = ["lrx", "directed lx", "coset", "directed coset", "heisenberg", "vectors", "identity"]
BITARRAY = [
    "lrx",
    "directed lx",
    "directed larx",
    "top spin",
    "binary coset",
    "long reversals",
    "burnt pancake",
    "heisenberg",
    "directed heisenberg",
    "unitriangular",
]
EVERYTHING = {
    "max_layer_size_to_store": None,
    "return_all_edges": True,
    "return_all_hashes": True,
}


@pytest.mark.parametrize("name", SMALL)
def test_the_torch_engine_finds_the_layers_of_plain_sets(name):
    result = graph(GRAPHS[name]).bfs(engine="torch", max_layer_size_to_store=None)
    expected = [sorted(layer) for layer in plain_layers(GRAPHS[name])]
    assert result.bfs_completed
    assert result.layer_sizes == [len(layer) for layer in expected]
    for distance, layer in enumerate(expected):
        rows = result.layers[distance].reshape(len(layer), -1).tolist()
        assert rows == [list(state) for state in layer]


@needs_native
@pytest.mark.parametrize("engine", ["hash", "distributed", "external"])
@pytest.mark.parametrize("name", GRAPHS)
def test_native_engines_give_the_result_of_the_torch_engine(name, engine):
    made = graph(GRAPHS[name])
    if engine == "external" and made.definition.state_size > 30:
        pytest.skip("tested on smaller states")
    result = made.bfs(engine=engine, **EVERYTHING)
    assert result == made.bfs(engine="torch", **EVERYTHING)
    assert result.engine_info["engine"] == engine


@needs_native
@pytest.mark.parametrize("name", BITARRAY)
def test_the_bitarray_gives_the_result_of_the_torch_engine(name):
    made = graph(GRAPHS[name])
    assert made.bfs(engine="bitarray", **EVERYTHING) == made.bfs(engine="torch", **EVERYTHING)


@pytest.mark.parametrize("engine", ["torch", "hash", "bitarray", "external", "auto"])
def test_results_do_not_depend_on_threads_seeds_or_batches(engine):
    if engine not in ("torch", "auto") and native_kernels() is None:
        pytest.skip("the native module is not built")
    definition = PermutationGroups.lx(6)
    expected = graph(definition).bfs(engine="torch", max_layer_size_to_store=None)
    for options, threads in (({"random_seed": 0}, 1), ({"batch_size": 7}, 2), ({}, 3)):
        made = graph(definition, **options)
        result = made.bfs(engine=engine, threads=threads, max_layer_size_to_store=None)
        assert result == expected


@pytest.mark.parametrize("width", [None, 5, 63])
@pytest.mark.parametrize("engine", ["torch", "hash", "auto"])
def test_results_do_not_depend_on_the_encoding(engine, width):
    if engine == "hash" and native_kernels() is None:
        pytest.skip("the native module is not built")
    definition = GRAPHS["coset"]
    expected = graph(definition).bfs(engine="torch", max_layer_size_to_store=None)
    result = graph(definition, bit_encoding_width=width).bfs(
        engine=engine, max_layer_size_to_store=None
    )
    assert result == expected


ENGINES = ["torch", "hash", "bitarray", "external", "distributed"]


@pytest.fixture(params=ENGINES)
def engine(request):
    if request.param in ("hash", "bitarray", "external") and native_kernels() is None:
        pytest.skip("the native module is not built")
    return request.param


def test_several_start_states(engine):
    made = graph(PermutationGroups.lrx(6))
    starts = [[1, 0, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5], [1, 0, 2, 3, 4, 5]]
    result = made.bfs(engine=engine, start_states=starts, max_layer_size_to_store=None)
    assert result.layers[0].tolist() == [[0, 1, 2, 3, 4, 5], [1, 0, 2, 3, 4, 5]]
    distance = {}
    for start in starts[:2]:
        for d, layer in enumerate(plain_layers(made.definition, start)):
            for state in layer:
                distance[state] = min(d, distance.get(state, d))
    sizes = [0] * (max(distance.values()) + 1)
    for d in distance.values():
        sizes[d] += 1
    assert result.layer_sizes == sizes


def test_growth_from_any_element_is_the_same(engine):
    made = graph(PermutationGroups.lrx(6))
    other = made.bfs(engine=engine, start_states=[5, 3, 0, 2, 1, 4])
    assert other.layer_sizes == made.bfs(engine="torch").layer_sizes


def test_only_the_first_the_last_and_small_layers_are_kept(engine):
    made = graph(PermutationGroups.lrx(6))
    sizes = made.bfs(engine="torch").layer_sizes
    kept = made.bfs(engine=engine, max_layer_size_to_store=11).layers
    assert sorted(kept) == [d for d, size in enumerate(sizes) if size <= 11]
    assert sorted(made.bfs(engine=engine, max_layer_size_to_store=0).layers) == [0, len(sizes) - 1]
    stopped = made.bfs(engine=engine, max_layer_size_to_store=0, max_diameter=7)
    assert sorted(stopped.layers) == [0, 7]
    assert len(stopped.layers[7]) == sizes[7]


def test_limits_stop_a_search(engine):
    made = graph(PermutationGroups.lrx(6))
    sizes = made.bfs(engine="torch").layer_sizes
    cases = [
        ({"max_diameter": 4}, 5, "max_diameter"),
        ({"max_diameter": 0}, 1, "max_diameter"),
        ({"max_layers": 3}, 3, "max_diameter"),
        ({"max_layer_size_to_explore": 20}, 5, "max_layer_size"),
        ({"max_states": 40}, 5, "max_states"),
        ({"stop_condition": lambda states, hashes: len(hashes) > 30}, 6, "stop_condition"),
    ]
    for options, layers, status in cases:
        result = made.bfs(engine=engine, **options)
        assert not result.bfs_completed
        assert result.layer_sizes == sizes[:layers]
        assert result.engine_info["status"] == status
        assert len(result.last_layer()) == sizes[layers - 1]


def test_a_time_limit_keeps_what_was_found(engine):
    made = graph(PermutationGroups.lrx(9))
    result = made.bfs(engine=engine, time_limit=1e-9)
    assert not result.bfs_completed
    assert result.engine_info["status"] == "time_limit"
    expected = [1, 3, 6, 12, 24, 46]
    assert result.layer_sizes == expected[: len(result.layer_sizes)]


def test_an_interrupt_keeps_what_was_found(engine):
    def interrupt(level, size, seconds):
        if level == 3:
            raise KeyboardInterrupt

    made = graph(PermutationGroups.lrx(6))
    with pytest.warns(UserWarning, match="was interrupted and stopped at depth 3 with 21 states"):
        result = made.bfs(engine=engine, progress=interrupt)
    assert result.layer_sizes == [1, 3, 6, 11]
    assert result.engine_info["status"] == "interrupted"
    assert len(result.last_layer()) == 11


def test_errors_of_callbacks_come_through(engine):
    def fail(level, size, seconds):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        graph(PermutationGroups.lrx(5)).bfs(engine=engine, progress=fail)


def test_progress_sees_every_layer(engine):
    seen = []
    made = graph(PermutationGroups.lrx(6))
    result = made.bfs(
        engine=engine, progress=lambda level, size, seconds: seen.append((level, size))
    )
    assert seen == list(enumerate(result.layer_sizes))


def test_the_stop_condition_sees_states_and_their_hashes(engine):
    made = graph(PermutationGroups.lrx(5))
    found = []

    def watch(states, hashes):
        assert torch.equal(made.hasher.make_hashes(states), hashes)
        found.append(made.decode_states(states))
        return False

    result = made.bfs(engine=engine, stop_condition=watch, max_layer_size_to_store=None)
    assert result.bfs_completed
    assert all(torch.equal(found[d - 1], result.layers[d]) for d in range(1, len(found) + 1))


def test_engine_info_says_what_ran(engine):
    info = graph(PermutationGroups.lrx(6)).bfs(engine=engine, threads=1).engine_info
    assert info["engine"] == engine
    assert info["status"] == "complete"
    assert info["bytes_peak"] > 0
    assert info["states_per_second"] == pytest.approx(720 / info["seconds"])


RESUMED = ["torch", "hash", "external", "distributed"]


@pytest.mark.parametrize("engine", RESUMED)
@pytest.mark.parametrize("name", ["lrx", "directed lx", "coset", "heisenberg"])
def test_a_search_goes_on_from_its_checkpoint(engine, name, tmp_path):
    if engine in ("hash", "external") and native_kernels() is None:
        pytest.skip("the native module is not built")
    made = graph(GRAPHS[name])
    whole = made.bfs(engine=engine)
    folder = tmp_path / "scratch"
    for depth in (0, 2, 5):
        part = made.bfs(engine=engine, scratch_dir=folder, max_diameter=depth, resume=depth > 0)
        assert part.layer_sizes == whole.layer_sizes[: depth + 1]
    assert made.bfs(engine=engine, scratch_dir=folder, resume=True) == whole


@pytest.mark.parametrize("engine", RESUMED)
def test_a_scratch_folder_is_not_overwritten(engine, tmp_path):
    if engine in ("hash", "external") and native_kernels() is None:
        pytest.skip("the native module is not built")
    made = graph(PermutationGroups.lrx(5))
    made.bfs(engine=engine, scratch_dir=tmp_path / "a", max_diameter=2)
    with pytest.raises(CayleyError, match="already holds a search; give resume=True"):
        made.bfs(engine=engine, scratch_dir=tmp_path / "a")
    with pytest.raises(ValueError, match=r"another|other"):
        graph(PermutationGroups.lrx(6)).bfs(engine=engine, scratch_dir=tmp_path / "a", resume=True)


def test_a_killed_search_leaves_a_folder_to_resume_from(tmp_path):
    """The manifest names only layers whose files are complete."""
    made = graph(PermutationGroups.lrx(6))

    def die(level, size, seconds):
        if level == 6:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        made.bfs(engine="torch", scratch_dir=tmp_path, progress=die)
    assert made.bfs(engine="torch", scratch_dir=tmp_path, resume=True) == made.bfs(engine="torch")


@needs_native
def test_wrappers_over_the_engines():
    for definition in (PermutationGroups.lrx(6), PermutationGroups.lx(6), PermutationGroups.lrx(3)):
        expected = growth(definition, engine="torch")
        assert bfs_numpy(graph(definition)) == expected
        assert bfs_bitmask(graph(definition)) == expected
        assert bfs_numpy(graph(definition), max_diameter=2) == expected[:3]
    assert BfsAlgorithm.bfs(graph(definition)).layer_sizes == expected


def test_growth_and_diameter_need_a_whole_search():
    made = graph(PermutationGroups.lx(6))
    assert (made.diameter(), made.growth()[-1]) == (18, 1)
    with pytest.raises(CayleyError, match=r"stopped early \(max_diameter\) at depth 3"):
        made.diameter(max_diameter=3)
    with pytest.warns(UserWarning, match="lower bound"):
        assert made.bfs(max_diameter=3).diameter() == 3


def test_an_interactive_search_finds_the_same_layers():
    made = graph(PermutationGroups.larx(5))
    expected = made.bfs(engine="torch", max_layer_size_to_store=None)
    search = InteractiveBfs(made, made.central_state)
    for distance in range(len(expected.layer_sizes)):
        assert torch.equal(made.decode_states(search.cur_layer), expected.layers[distance])
        assert torch.equal(search.hashes[-1], made.hasher.make_hashes(search.cur_layer))
        state = search.find_on_last_layer(search.hashes[-1])
        assert state.tolist() in expected.layers[distance].tolist()
        search.step()
    assert len(search.cur_layer) == 0
    assert search.find_on_last_layer(search.hashes[0]) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "fast"}, "engine must be one of auto, torch, .* got 'fast'"),
        ({"start_states": [[0, 1, 2]]}, r"start_states must have states of shape \(5,\)"),
        ({"start_states": torch.zeros(0, 5)}, "start_states"),
        ({"start_states": torch.zeros(0, 5, dtype=torch.int64)}, "start_states must not be empty"),
        ({"max_diameter": -1}, "max_diameter must be at least 0, got -1"),
        ({"max_layer_size_to_store": -1}, "max_layer_size_to_store must be at least 0"),
        ({"max_layer_size_to_explore": 0}, "max_layer_size_to_explore must be at least 1"),
        ({"max_states": 0}, "max_states must be at least 1, got 0"),
        ({"max_layers": 0}, "max_layers must be at least 1, got 0"),
        ({"time_limit": 0}, "time_limit must be positive, got 0"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"max_memory_gb": -1}, "max_memory_gb must be positive, got -1"),
        ({"stop_condition": 3}, "stop_condition must be callable or None, got 3"),
        ({"resume": True}, "scratch_dir must be given with resume=True"),
    ],
)
def test_bad_input_names_the_argument(options, message):
    with pytest.raises(CayleyError, match=message):
        graph(PermutationGroups.lrx(5)).bfs(**options)


def test_checkpoints_hold_no_hashes(tmp_path):
    with pytest.raises(CayleyError, match="cannot be combined with return_all_edges"):
        graph(PermutationGroups.lrx(5)).bfs(
            engine="torch", scratch_dir=tmp_path, return_all_hashes=True
        )


@needs_native
def test_an_engine_that_does_not_apply_says_why():
    with pytest.raises(CayleyError, match=r"'bitarray' cannot make this search: .* permutation"):
        graph(GRAPHS["coset"]).bfs(engine="bitarray")
    with pytest.raises(CayleyError, match="cannot resume"):
        graph(PermutationGroups.lrx(5)).bfs(engine="bitarray", scratch_dir="x", resume=True)


def test_without_the_native_module_torch_answers(monkeypatch):
    expected = growth(PermutationGroups.lrx(6))
    monkeypatch.setattr("rankone.cayley.algo.engines.native_kernels", lambda: None)
    made = graph(PermutationGroups.lrx(6))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = made.bfs()
    assert (result.layer_sizes, result.engine_info["engine"]) == (expected, "torch")
    assert bfs_numpy(made) == expected
    with pytest.raises(RuntimeError, match=r"engine 'hash': .* not built.*pip install"):
        made.bfs(engine="hash")


@needs_native
def test_auto_takes_the_engine_of_the_documentation(tmp_path):
    def chosen(definition, **options):
        return graph(definition).bfs(**options).engine_info["engine"]

    assert chosen(PermutationGroups.lrx(7)) == "bitarray"
    assert chosen(PermutationGroups.hypercube(6), max_diameter=2) == "hash"
    assert chosen(GRAPHS["coset"]) == "hash"
    assert chosen(GRAPHS["heisenberg"]) == "hash"
    assert chosen(PermutationGroups.lrx(7), return_all_hashes=True) == "torch"
    assert chosen(PermutationGroups.lrx(9), return_all_hashes=True, max_diameter=3) == "hash"
    assert chosen(PermutationGroups.lrx(7), scratch_dir=tmp_path) == "hash"
