"""Beam search: every path is replayed, bans hold, widths that keep all find shortest paths."""

import itertools

import pytest
import torch
from rankone.cayley import (
    CayleyError,
    CayleyGraph,
    CayleyGraphDef,
    MatrixGroups,
    PermutationGroups,
    Predictor,
    Puzzles,
)
from rankone.cayley.algo import BeamSearchAlgorithm, BeamSearchResult
from rankone.cayley.algo._linear_hash import LinearHash
from rankone.cayley.algo.beam_search import _Beam

MODES = ("simple", "advanced", "iterated")


def graph_of(definition, **options):
    return CayleyGraph(definition, device="cpu", threads=1, **options)


LRX = graph_of(PermutationGroups.lrx(7))
LX = graph_of(PermutationGroups.lx(6))
HEISENBERG = graph_of(MatrixGroups.heisenberg(modulo=5))
CUBE = graph_of(Puzzles.rubik_cube(2, "fixed_QTM"))
WIDE = 10**6


def scrambled(graph, moves, seed=0):
    """A state with a path of at most ``moves`` moves to the central state."""
    rng = torch.Generator().manual_seed(seed)
    path = torch.randint(graph.definition.n_generators, (moves,), generator=rng).tolist()
    inverted = graph.with_inverted_generators
    return inverted.apply_path(graph.central_state, path)[0]


def leads(graph, start, path, destination=None):
    destination = graph.central_state if destination is None else torch.as_tensor(destination)
    return torch.equal(graph.apply_path(start, path).reshape(-1), destination.reshape(-1))


class TestLinearHash:
    @pytest.mark.parametrize("graph", [LRX, LX, HEISENBERG, CUBE])
    def test_hashes_of_children_are_those_of_the_states_themselves(self, graph):
        linear = LinearHash(graph)
        states = linear.narrow(graph.random_walks(width=6, length=4, random_state=0)[0])
        indices = torch.arange(graph.definition.n_generators * len(states))
        children = linear.child_states(states, indices)
        expected = graph.get_neighbors_decoded(states.long()).reshape(children.shape)
        assert torch.equal(children.long(), expected)
        assert torch.equal(linear.of_children(states).reshape(-1), linear.of_states(children))

    def test_all_states_of_a_graph_have_different_hashes(self):
        states = torch.tensor(list(itertools.permutations(range(7))))
        linear = LinearHash(LRX)
        assert len(linear.of_states(linear.narrow(states)).unique()) == 5040

    def test_states_are_held_in_the_narrowest_type(self):
        assert LinearHash(LRX).narrow(LRX.central_state[None]).dtype == torch.uint8
        large = graph_of(PermutationGroups.lrx(300))
        assert LinearHash(large).narrow(large.central_state[None]).dtype == torch.int16


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("graph", [LRX, LX, HEISENBERG, CUBE], ids=["lrx", "lx", "matrix", "cube"])
def test_paths_lead_to_the_central_state(graph, mode):
    for seed in range(4):
        start = scrambled(graph, 9, seed)
        found = graph.beam_search(
            start_state=start, beam_mode=mode, beam_width=3000, history_depth=2, return_path=True
        )
        assert found.path_found
        assert len(found.path) == found.path_length
        assert leads(graph, start, found.path)
        assert found.get_path_as_string() == graph.definition.path_to_string(found.path)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("predictor", ["zero", "hamming"])
def test_a_beam_that_keeps_all_finds_shortest_paths(mode, predictor):
    table = LRX.distance_table()
    for state in torch.tensor(list(itertools.permutations(range(7))))[::611]:
        found = LRX.beam_search(
            start_state=state, beam_mode=mode, beam_width=WIDE, predictor=predictor
        )
        assert found.path_length == int(table.distance(state))
        assert found.path is None or found.path_length == 0


@pytest.mark.parametrize("mode", MODES)
def test_directed_graphs_find_shortest_paths_to_the_centre(mode):
    table = LX.distance_table()
    for state in torch.tensor(list(itertools.permutations(range(6))))[::97]:
        found = LX.beam_search(start_state=state, beam_mode=mode, beam_width=WIDE, return_path=True)
        assert found.path_length == int(table.distance(state))
        assert leads(LX, state, found.path)


@pytest.mark.parametrize("mode", MODES)
def test_any_destination(mode):
    start, destination = [1, 0, 2, 3, 4, 5, 6], [3, 4, 5, 6, 0, 1, 2]
    found = LRX.beam_search(
        start_state=start,
        destination_state=destination,
        beam_mode=mode,
        beam_width=WIDE,
        return_path=True,
    )
    assert leads(LRX, start, found.path, destination)
    # X, then three or four shifts.
    assert found.path_length == 4


@pytest.mark.parametrize("mode", MODES)
def test_the_destination_is_there_at_once(mode):
    found = LRX.beam_search(start_state=LRX.central_state, beam_mode=mode)
    assert (found.path_found, found.path_length, found.path) == (True, 0, [])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("return_path", [False, True])
def test_meeting_layers_around_the_centre_gives_shortest_paths(mode, return_path):
    table = LRX.distance_table()
    partial = LRX.bfs(max_diameter=6, return_all_hashes=True)
    for state in torch.tensor(list(itertools.permutations(range(7))))[::499]:
        found = LRX.beam_search(
            start_state=state,
            beam_mode=mode,
            beam_width=WIDE,
            bfs_result_for_mitm=partial,
            return_path=return_path,
        )
        assert found.path_length == int(table.distance(state))
        if return_path:
            assert leads(LRX, state, found.path)


def test_meeting_needs_the_inverted_graph_where_generators_are_not_closed():
    partial = LX.with_inverted_generators.bfs(max_diameter=5, return_all_hashes=True)
    table = LX.distance_table()
    for state in torch.tensor(list(itertools.permutations(range(6))))[::71]:
        found = LX.beam_search(
            start_state=state, beam_width=WIDE, bfs_result_for_mitm=partial, return_path=True
        )
        assert found.path_length == int(table.distance(state))
        assert leads(LX, state, found.path)
    wrong = LX.bfs(max_diameter=5, return_all_hashes=True)
    with pytest.raises(CayleyError, match=r"must be of graph\.with_inverted_generators"):
        LX.beam_search(start_state=[1, 0, 2, 3, 4, 5], bfs_result_for_mitm=wrong)


def test_a_start_among_the_layers_is_found_without_a_step():
    partial = LRX.bfs(max_diameter=6, return_all_hashes=True)
    start = LRX.apply_path(LRX.central_state, [0, 2, 0])[0]
    found = LRX.beam_search(
        start_state=start, max_steps=0, bfs_result_for_mitm=partial, return_path=True
    )
    assert found.path_length == 3
    assert leads(LRX, start, found.path)


def test_long_states_with_hashes_of_many_words_are_met():
    graph = graph_of(Puzzles.rubik_cube(3, "QTM"))
    assert graph.encoded_state_size > 1
    partial = graph.bfs(max_diameter=3, return_all_hashes=True)
    start = scrambled(graph, 5)
    found = graph.beam_search(
        start_state=start, beam_width=WIDE, bfs_result_for_mitm=partial, return_path=True
    )
    assert found.path_length <= 5
    assert leads(graph, start, found.path)


@pytest.mark.parametrize("mode", MODES)
def test_scores_are_asked_of_distinct_decoded_states_that_are_not_banned(mode):
    seen = []

    def score(states):
        assert states.dtype == torch.int64
        assert bool((states.sort(1).values == torch.arange(7)).all())
        rows = [tuple(row) for row in states.tolist()]
        assert len(set(rows)) == len(rows)
        seen.append(set(rows))
        return (states != LRX.central_state).sum(1).float()

    LRX.beam_search(
        start_state=[1, 0, 6, 5, 4, 3, 2],
        beam_mode=mode,
        beam_width=4,
        max_steps=12,
        history_depth=3,
        predictor=score,
    )
    assert len(seen) > 5
    if mode != "simple":
        for i, j in itertools.combinations(range(len(seen)), 2):
            if j - i <= 3:
                assert not seen[i] & seen[j]


def test_banned_states_lead_out_of_a_trap():
    """A hexagon on which all scores are equal: a beam of one goes back and forth on an edge."""
    graph = graph_of(PermutationGroups.coxeter(3))
    options = {
        "start_state": [2, 1, 0],
        "beam_mode": "advanced",
        "beam_width": 1,
        "max_steps": 6,
        "predictor": "zero",
        "return_path": True,
    }
    assert not graph.beam_search(**options).path_found
    assert graph.beam_search(history_depth=2, **options).path == [0, 1, 0]


def steps_of(graph, mode, start, predictor, *, width, steps):
    """A search stopped after some steps, with its beam still there to look at."""
    beam = _Beam(
        graph, start, None, predictor, width=width, history_depth=0,
        quota=width // graph.definition.n_generators if mode == "iterated" else 0,
        return_path=True, bfs_result=None, use_child_scores=False, verbose=0,
    )  # fmt: skip
    for step in range(steps):
        assert beam._step(step) is None
    return beam


def test_iterated_keeps_children_that_the_others_drop():
    """Everything that L makes is scored best; a third of the beam is not L's all the same."""
    start = [3, 1, 4, 0, 5, 2, 6]
    first = LRX.apply_path(start, [0]), LRX.apply_path(start, [1]), LRX.apply_path(start, [2])
    favourites = torch.cat([LRX.apply_path(state, [0]) for state in first])

    def score(states):
        return 1.0 - (states[:, None] == favourites).all(2).any(1).float()

    generators = {}
    for mode in ("advanced", "iterated"):
        beam = steps_of(LRX, mode, start, score, width=3, steps=2)
        generators[mode] = sorted(beam.trail[1][1].tolist())
    assert generators == {"advanced": [0, 0, 0], "iterated": [0, 1, 2]}


def test_quota_and_rest_are_the_best_by_brute_force():
    beam = object.__new__(_Beam)
    rng = torch.Generator().manual_seed(0)
    for _ in range(50):
        count, width, generators = 30, 12, 4
        scores = torch.randint(6, (count,), generator=rng).float()
        owner = torch.randint(generators, (count,), generator=rng).sort().values
        beam.width, beam.quota = width, width // generators
        order = sorted(range(count), key=lambda i: (float(scores[i]), i))
        expected, used = [], dict.fromkeys(range(generators), 0)
        for i in order:
            if used[int(owner[i])] < beam.quota:
                used[int(owner[i])] += 1
                expected.append(i)
        rest = [i for i in order if i not in expected]
        expected += rest[: width - len(expected)]
        assert sorted(beam._best(scores, owner).tolist()) == sorted(expected)


def test_the_way_back_takes_five_bytes_a_kept_state():
    beam = steps_of(LRX, "simple", [3, 1, 4, 0, 5, 2, 6], None, width=5, steps=6)
    kept = sum(len(parents) for parents, _ in beam.trail)
    assert kept == 3 + 5 * 5
    assert sum(p.nbytes + g.nbytes for p, g in beam.trail) == 5 * kept


def test_more_than_256_generators_have_paths_too():
    n = 24
    graph = graph_of(PermutationGroups.all_transpositions(n))
    assert graph.definition.n_generators > 256
    start = torch.arange(n)
    start[[22, 23, 21]] = start[[23, 21, 22]]
    found = graph.beam_search(start_state=start, return_path=True)
    assert leads(graph, start, found.path)
    assert found.path_length == 2


@pytest.mark.parametrize("mode", MODES)
def test_child_scores_give_the_same_beam_as_scores_of_children(mode):
    start = [1, 0, 6, 5, 4, 3, 2]
    options = {"start_state": start, "beam_mode": mode, "beam_width": 60, "max_steps": 25}
    assert LRX.beam_search(use_child_scores=True, **options) == LRX.beam_search(**options)


def test_debug_scores_are_the_best_of_each_cut():
    found = LRX.beam_search(
        start_state=[1, 0, 6, 5, 4, 3, 2], beam_width=1, max_steps=3, predictor=lambda s: s[:, 0]
    )
    assert list(found.debug_scores) == [0, 1, 2]
    # L, R and X bring 0, 2 and 0 to the front; then 0 or 1.
    assert found.debug_scores[0] == 0


def test_results_do_not_depend_on_seed_or_batches():
    options = {
        "start_state": [1, 0, 6, 5, 4, 3, 2], "beam_width": 300, "return_path": True,
        "max_steps": 40,
    }  # fmt: skip
    results = [
        graph_of(PermutationGroups.lrx(7), random_seed=seed, batch_size=batch).beam_search(
            **options
        )
        for seed, batch in ((0, 2**20), (7, 2**20), (None, 3))
    ]
    assert results[0] == results[1] == results[2]


def test_a_search_that_fails_says_so():
    found = LRX.beam_search(start_state=[1, 0, 6, 5, 4, 3, 2], beam_width=2, max_steps=5)
    assert (found.path_found, found.path_length, found.path) == (False, 0, None)
    with pytest.raises(CayleyError, match="return_path=True"):
        found.get_path_as_string()


def test_states_out_of_reach_are_not_found():
    """Even permutations alone."""
    graph = graph_of(
        CayleyGraphDef.create([[1, 2, 0, 3], [2, 0, 1, 3], [0, 2, 3, 1], [0, 3, 1, 2]])
    )
    found = graph.beam_search(
        start_state=[1, 0, 2, 3], beam_mode="advanced", history_depth=50, max_steps=50
    )
    assert not found.path_found


def test_methods_by_name():
    search = BeamSearchAlgorithm(LRX)
    options = {"start_state": [1, 2, 3, 4, 5, 6, 0], "return_path": True}
    for method in (search.search_simple, search.search_advanced, search.search_iterated):
        assert method(**options).path == [1]
    destination = [1, 2, 3, 4, 5, 6, 0]
    assert search.search_advanced(LRX.central_state, destination, return_path=True).path == [0]


def test_verbose_prints_a_line_a_step(capsys):
    LRX.beam_search(start_state=[1, 0, 6, 5, 4, 3, 2], beam_width=2, max_steps=3, verbose=1)
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_a_result_checks_its_path():
    with pytest.raises(CayleyError, match="path must have path_length = 2 entries, got 1"):
        BeamSearchResult(True, 2, [0], {}, LRX.definition)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beam_mode": "wide"}, "beam_mode must be one of simple, advanced, iterated, got 'wide'"),
        ({"beam_width": 0}, "beam_width must be between 1 and 2147483647, got 0"),
        ({"max_steps": -1}, "max_steps must be at least 0, got -1"),
        ({"history_depth": -1}, "history_depth must be at least 0, got -1"),
        ({"start_state": [0, 1]}, r"start_state must have states of shape \(7,\)"),
        ({"destination_state": [[0] * 7] * 2}, "destination_state must be one state, got 2"),
        ({"predictor": "manhattan"}, "models_or_heuristics must be one of zero, hamming"),
        ({"predictor": lambda s: s.float()}, "the model must return one score for each of"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(CayleyError, match=message):
        LRX.beam_search(
            **{"start_state": [1, 0, 6, 5, 4, 3, 2], "beam_width": 2, "max_steps": 4, **arguments}
        )


def test_layers_must_be_of_this_graph_from_the_destination_and_with_hashes():
    start = {"start_state": [1, 0, 6, 5, 4, 3, 2]}
    with pytest.raises(CayleyError, match="return_all_hashes=True"):
        LRX.beam_search(bfs_result_for_mitm=LRX.bfs(max_diameter=2), **start)
    other = graph_of(PermutationGroups.coxeter(7)).bfs(max_diameter=2, return_all_hashes=True)
    with pytest.raises(CayleyError, match="must be of this graph"):
        LRX.beam_search(bfs_result_for_mitm=other, **start)
    partial = LRX.bfs(max_diameter=2, return_all_hashes=True)
    with pytest.raises(CayleyError, match="must start from the destination"):
        LRX.beam_search(
            bfs_result_for_mitm=partial, destination_state=[1, 2, 3, 4, 5, 6, 0], **start
        )


class TestPredictor:
    def test_heuristics(self):
        states = [[1, 0, 2, 3, 4, 5, 6], list(range(7))]
        assert Predictor(LRX, "hamming")(states).tolist() == [2, 0]
        assert Predictor(LRX, "zero")(states).tolist() == [0, 0]

    def test_models_are_modules_objects_or_callables(self):
        class Estimator:
            def predict(self, states):
                return states[:, 0].numpy() * 2.0

        states = torch.tensor([[3, 0, 1, 2, 4, 5, 6]])
        module = torch.nn.Sequential(torch.nn.Flatten(0))
        assert Predictor(LRX, Estimator())(states).tolist() == [6]
        assert Predictor(LRX, lambda s: s[:, 1])(states).tolist() == [0]
        assert Predictor(LRX, module.train()).model.training is False
        with pytest.raises(CayleyError, match="got int"):
            Predictor(LRX, 3)

    def test_batches_are_joined(self):
        graph = graph_of(PermutationGroups.lrx(7), batch_size=4)
        sizes = []

        def score(states):
            sizes.append(len(states))
            return states[:, 0]

        states = graph.random_walks(width=10, length=1)[0]
        assert Predictor(graph, score)(states).tolist() == [0] * 10
        assert max(sizes) <= 4

    @pytest.mark.parametrize("graph", [LRX, HEISENBERG])
    def test_children_are_scored_generator_by_generator(self, graph):
        states = graph.random_walks(width=4, length=2, random_state=0)[0]
        scores = Predictor(graph, "hamming").score_children(states)
        assert scores.shape == (8, graph.definition.n_generators)
        for row, state in zip(scores, states, strict=True):
            for generator, score in enumerate(row):
                child = graph.apply_path(state, [generator])
                assert int((child.reshape(-1) != graph.central_state).sum()) == int(score)

    def test_a_model_with_an_output_a_generator_is_asked_once_a_state(self):
        class Outputs(torch.nn.Module):
            n_outputs = 3

            def forward(self, states):
                return states[:, :3].float()

        predictor = Predictor(LRX, Outputs())
        assert predictor.score_children([[3, 1, 2, 0, 4, 5, 6]]).tolist() == [[3, 1, 2]]
        with pytest.raises(CayleyError, match="given by score_children"):
            predictor([[3, 1, 2, 0, 4, 5, 6]])

    def test_wrong_numbers_of_outputs_are_refused(self):
        model = torch.nn.Linear(7, 2)
        model.n_outputs = 2
        with pytest.raises(CayleyError, match="must have 1 output or 3, one a generator, got 2"):
            Predictor(LRX, model).score_children([list(range(7))])

    def test_gradients_are_not_kept(self):
        model = torch.nn.Linear(7, 1)
        scores = Predictor(LRX, lambda s: model(s.float())[:, 0])([list(range(7))])
        assert not scores.requires_grad
