"""Fits, moments, plots, extremal searches and challenges, against closed forms and brute force."""

import itertools
import math
from collections import Counter
from fractions import Fraction

import matplotlib
import numpy as np
import pytest
import torch
from rankone.cayley import (
    CayleyError,
    CayleyGraph,
    CayleyGraphDef,
    MatrixGroups,
    PermutationGroups,
    Puzzles,
)
from rankone.cayley.analysis import (
    fit_quasi_polynomial,
    growth_statistics,
    make_pathfinding_benchmark,
    max_diameter_search,
    plot_diameters,
    plot_growth,
    score_submission,
)
from rankone.cayley.permutation_utils import compose_permutations, inverse_permutation

matplotlib.use("Agg")

# Diameters of complete searches, n = 3, 4, ...
LX = [2, 6, 11, 18, 25, 35, 45, 58, 71, 87, 103, 122, 141]
LRX = [2, *(n * (n - 1) // 2 for n in range(4, 13))]


class TestFit:
    def test_lx_has_period_two_from_five_on(self):
        fit = fit_quasi_polynomial(range(3, 16), LX)
        assert (fit.period, fit.degree, fit.n_min) == (2, 2, 5)
        assert fit.coefficients[1] == (Fraction(9, 4), Fraction(-2), Fraction(3, 4))
        assert fit.coefficients[0] == (Fraction(3), Fraction(-2), Fraction(3, 4))
        assert fit.n_checked == 5 + 6 - 2 * 3
        assert fit(101) == Fraction(3 * 101**2 - 8 * 101 + 9, 4)

    def test_lrx_is_a_polynomial_from_four_on(self):
        fit = fit_quasi_polynomial(range(3, 13), LRX)
        assert (fit.period, fit.degree, fit.n_min) == (1, 2, 4)
        assert fit.as_string() == "(n^2 - n)/2 for n >= 4"

    @pytest.mark.parametrize("period", [1, 2, 3, 4])
    @pytest.mark.parametrize("degree", [0, 1, 2])
    def test_a_quasi_polynomial_is_found_again(self, period, degree):
        rng = np.random.default_rng(10 * period + degree)
        truth = {
            r: [Fraction(int(a), 6) for a in rng.integers(1, 50, degree + 1)] for r in range(period)
        }
        ns = list(range(2, 2 + period * (degree + 4)))
        values = [sum(a * n**k for k, a in enumerate(truth[n % period])) for n in ns]
        fit = fit_quasi_polynomial(ns, values, max_period=4)
        assert period % fit.period == 0
        for n in range(200):
            assert fit(n) == sum(a * n**k for k, a in enumerate(truth[n % period]))

    def test_of_fits_from_one_n_on_the_cheapest_is_taken(self):
        fit = fit_quasi_polynomial(range(6), [5] * 6)
        assert (fit.period, fit.degree, fit.n_min, fit.n_checked) == (1, 0, 0, 5)
        fit = fit_quasi_polynomial(range(8), [1, 2] * 4)
        assert (fit.period, fit.degree) == (2, 0)
        fit = fit_quasi_polynomial(range(8), range(8))
        assert (fit.period, fit.degree) == (1, 1)

    def test_a_fit_without_a_check_is_none(self):
        assert fit_quasi_polynomial([1, 2, 3], [1, 5, 2]) is None
        assert fit_quasi_polynomial([1, 2, 3, 4], [0, 1, 4, 9]).degree == 2
        assert fit_quasi_polynomial([1, 2, 3, 4], [0, 1, 4, 9], min_check=2) is None

    def test_a_near_miss_is_none(self):
        values = [n * n for n in range(12)]
        values[-1] += Fraction(1, 10**30)
        assert fit_quasi_polynomial(range(12), values) is None

    def test_n_min_is_where_the_last_misfit_ends(self):
        values = [100, 7, 2, 3, 4, 5, 6]
        fit = fit_quasi_polynomial(range(7), values)
        assert (fit.degree, fit.n_min, fit.n_checked) == (1, 2, 3)

    def test_the_end_of_a_table_does_not_outweigh_the_rest(self):
        """Three diameters of LX lie on a line by chance, n = 13 to 15; floors repeat values."""
        assert LX[-1] - LX[-2] == LX[-2] - LX[-3]
        assert fit_quasi_polynomial(range(3, 16), LX).n_min == 5
        fit = fit_quasi_polynomial(range(8), [n // 2 for n in range(8)])
        assert (fit.period, fit.degree, fit.n_min) == (2, 1, 0)

    def test_order_and_gaps_do_not_matter(self):
        ns = [11, 4, 9, 30, 6, 5]
        assert fit_quasi_polynomial(ns, [n * (n - 1) // 2 for n in ns]).n_min == 4

    def test_formulas_are_written_out(self):
        assert fit_quasi_polynomial(range(9), [0] * 9).as_string() == "0 for n >= 0"
        fit = fit_quasi_polynomial(range(8), [n // 2 for n in range(8)])
        assert fit.as_string() == "(n)/2 for n = 0 mod 2, (n - 1)/2 for n = 1 mod 2, n >= 0"
        assert fit_quasi_polynomial(range(5), [3 - n for n in range(5)]).as_string() == (
            "-n + 3 for n >= 0"
        )

    @pytest.mark.parametrize(
        ("ns", "values", "options", "message"),
        [
            ([1, 2], [1], {}, "values must have one entry for each of 2 ns, got 1"),
            ([1, 1], [1, 2], {}, "ns must be distinct"),
            ([1.0], [1], {}, "ns must be integers, got 1.0"),
            ([1], [1.0], {}, "values must be integers or fractions, got 1.0"),
            ([1], [1], {"max_period": 0}, "max_period must be at least 1, got 0"),
            ([1], [1], {"max_degree": -1}, "max_degree must be at least 0, got -1"),
            ([1], [1], {"min_check": 0}, "min_check must be at least 1, got 0"),
        ],
    )
    def test_bad_tables_are_named(self, ns, values, options, message):
        with pytest.raises(CayleyError, match=message):
            fit_quasi_polynomial(ns, values, **options)


def inversions(n):
    """Coefficients of the product of 1 + q + ... + q^(i-1)."""
    sizes = np.array([1], dtype=object)
    for i in range(2, n + 1):
        sizes = np.convolve(sizes, np.ones(i, dtype=object))
    return [int(size) for size in sizes]


class TestStatistics:
    def test_moments_are_those_of_the_sample(self):
        sizes = [1, 3, 6, 11, 20, 9]
        sample = np.repeat(np.arange(6), sizes).astype(float)
        central = sample - sample.mean()
        facts = growth_statistics(sizes)
        assert (facts["n_states"], facts["diameter"], facts["mode"]) == (50, 5, 4)
        assert facts["mean"] == pytest.approx(sample.mean(), rel=1e-12)
        assert facts["std"] == pytest.approx(sample.std(), rel=1e-12)
        assert facts["skewness"] == pytest.approx((central**3).mean() / sample.std() ** 3)
        assert facts["excess_kurtosis"] == pytest.approx(
            (central**4).mean() / sample.std() ** 4 - 3
        )

    def test_ks_is_its_formula(self):
        facts = growth_statistics([1, 2, 1])
        normal = [0.5 * math.erfc(-(i - 0.5) / math.sqrt(0.5) / math.sqrt(2)) for i in range(3)]
        expected = max(abs(c - p) for c, p in zip([0.25, 0.75, 1.0], normal, strict=True))
        assert facts["ks_normal"] == pytest.approx(expected, rel=1e-12)

    @pytest.mark.parametrize(("n", "ks"), [(8, 0.0061), (10, 0.0050), (12, 0.0042)])
    def test_coxeter_growth_is_nearly_normal(self, n, ks):
        facts = growth_statistics(inversions(n))
        assert facts["ks_normal"] == pytest.approx(ks, abs=0.0005)
        assert facts["mean"] == pytest.approx(n * (n - 1) / 4)
        assert facts["skewness"] == pytest.approx(0, abs=1e-12)

    def test_lrx_growth_leans_to_the_right(self):
        facts = growth_statistics(CayleyGraph(PermutationGroups.lrx(8), device="cpu").growth())
        assert facts["ks_normal"] <= 0.05
        assert facts["skewness"] == pytest.approx(-0.60, abs=0.03)

    def test_it_agrees_with_the_result_of_a_search(self):
        result = CayleyGraph(PermutationGroups.pancake(6), device="cpu").bfs()
        facts = growth_statistics(result.layer_sizes)
        for name, value in result.statistics().items():
            if name in facts:
                assert facts[name] == pytest.approx(value)

    def test_a_single_vertex_has_no_shape(self):
        facts = growth_statistics([1])
        assert (facts["std"], facts["skewness"], facts["excess_kurtosis"]) == (0, 0, 0)
        assert math.isnan(facts["ks_normal"])

    def test_numbers_beyond_double_precision(self):
        assert growth_statistics(inversions(30))["n_states"] == math.factorial(30)

    @pytest.mark.parametrize("sizes", [[], [1, 0], [1, -2], [1, 2.5]])
    def test_bad_sizes_are_named(self, sizes):
        with pytest.raises(CayleyError, match="layer_sizes"):
            growth_statistics(sizes)


class TestPlots:
    def test_growth_is_drawn_as_a_density(self):
        result = CayleyGraph(PermutationGroups.coxeter(6), device="cpu").bfs()
        ax = plot_growth({"a": result, "b": [1, 4, 6, 4, 1]})
        curve = ax.lines[0]
        x, y = curve.get_xdata(), curve.get_ydata()
        assert float(np.sum(y) * (x[1] - x[0])) == pytest.approx(1)
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b", "normal"]

    def test_growth_as_it_is(self):
        result = CayleyGraph(PermutationGroups.coxeter(4), device="cpu").bfs()
        ax = plot_growth([result], normalize=False)
        assert list(ax.lines[0].get_ydata()) == result.layer_sizes
        assert len(ax.lines) == 1

    def test_diameters_are_drawn_with_their_fits(self):
        table = {"lx": dict(zip(range(3, 16), LX, strict=True)), "other": {3: 1, 4: 2}}
        fit = fit_quasi_polynomial(range(3, 16), LX)
        figure = matplotlib.figure.Figure()
        ax = plot_diameters(table, {"lx": fit, "other": None}, figure.add_subplot())
        points, curve, _ = ax.lines
        assert list(points.get_ydata()) == LX
        assert list(curve.get_ydata()) == LX[2:]

    def test_nothing_to_draw_is_refused(self):
        with pytest.raises(CayleyError, match="results must not be empty"):
            plot_growth({})
        with pytest.raises(CayleyError, match="must have two layers"):
            plot_growth({"a": [1]})
        with pytest.raises(CayleyError, match="table must not be empty"):
            plot_diameters({})
        with pytest.raises(CayleyError, match="fits must be of families of table, got b"):
            plot_diameters({"a": {1: 1}}, {"b": None})


def diameter_by_search(generators):
    """Diameter of the Cayley graph by sets of tuples; None where it is not all of S_n."""
    n = len(generators[0])
    layer = {tuple(range(n))}
    seen, depth = set(layer), -1
    while layer:
        depth += 1
        layer = {tuple(s[i] for i in p) for s in layer for p in generators} - seen
        seen |= layer
    return depth if len(seen) == math.factorial(n) else None


class TestMaxDiameter:
    @pytest.mark.parametrize("n", [3, 4])
    def test_pairs_against_every_pair(self, n):
        elements = [list(p) for p in itertools.permutations(range(n))]
        diameters = [
            diameter_by_search([a, inverse_permutation(a), b, inverse_permutation(b)])
            for a, b in itertools.combinations(elements, 2)
        ]
        best = max(d for d in diameters if d is not None)
        found = max_diameter_search(n, "pairs")
        assert found.diameter == best
        for a, b in found.generators:
            assert (
                diameter_by_search([a, inverse_permutation(a), b, inverse_permutation(b)]) == best
            )

    def test_triples_against_every_triple(self):
        elements = [list(p) for p in itertools.permutations(range(4))]
        involutions = [
            p for p in elements if p != [0, 1, 2, 3] and compose_permutations(p, p) == elements[0]
        ]
        diameters = map(diameter_by_search, itertools.combinations(involutions, 3))
        found = max_diameter_search(4, "involution_triples")
        assert found.diameter == max(d for d in diameters if d is not None)

    def test_the_square_with_whiskers_is_extremal(self):
        assert max_diameter_search(5, "pairs").diameter == 10
        assert max_diameter_search(5, "involution_triples").diameter == 10
        assert max_diameter_search(6, "pairs").diameter == 15
        triples = max_diameter_search(6, "involution_triples")
        assert triples.diameter == 16
        whiskers = CayleyGraph(PermutationGroups.square_with_whiskers(6), device="cpu")
        assert whiskers.diameter() == 16
        assert all(diameter_by_search(found) == 16 for found in triples.generators)

    def test_processes_share_the_work(self):
        assert max_diameter_search(4, n_jobs=2) == max_diameter_search(4)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((2,), "n must be between 3 and 8, got 2"),
            ((9,), "n must be between 3 and 8, got 9"),
            ((4, "quadruples"), "kind must be one of pairs, involution_triples"),
            ((4, "pairs", 0), "n_jobs must be at least 1, got 0"),
        ],
    )
    def test_bad_arguments_are_named(self, arguments, message):
        with pytest.raises(CayleyError, match=message):
            max_diameter_search(*arguments)


class TestChallenges:
    def test_uniform_states_are_every_element_equally_often(self):
        """A group of order 20 on five points, neither symmetric nor alternating."""
        definition = CayleyGraphDef.create([[1, 2, 3, 4, 0], [0, 2, 4, 1, 3]])
        instances = make_pathfinding_benchmark(definition, 4000, random_state=0)
        counts = Counter(tuple(instance["initial_state"]) for instance in instances)
        group = {
            tuple(state)
            for state in CayleyGraph(definition, device="cpu")
            .bfs(max_layer_size_to_store=None)
            .all_states.tolist()
        }
        assert set(counts) == group
        assert len(group) == 20
        # Binomial counts with mean 200 and standard deviation 14.
        assert all(abs(count - 200) < 5 * 14 for count in counts.values())

    def test_uniform_states_of_the_symmetric_group(self):
        instances = make_pathfinding_benchmark(PermutationGroups.lrx(3), 1200, random_state=0)
        counts = Counter(tuple(instance["initial_state"]) for instance in instances)
        assert len(counts) == 6
        assert all(abs(count - 200) < 5 * 13 for count in counts.values())

    def test_uniform_states_of_a_puzzle_can_be_reached(self):
        definition = Puzzles.rubik_cube(2, "fixed_QTM")
        graph = CayleyGraph(definition, device="cpu")
        for instance in make_pathfinding_benchmark(definition, 3, random_state=0):
            assert sorted(instance["initial_state"]) == sorted(definition.central_state)
            partial = graph.bfs(max_diameter=7, return_all_hashes=True)
            from rankone.cayley.algo import MeetInTheMiddle

            path = MeetInTheMiddle.find_path_from(graph, instance["initial_state"], partial)
            assert path is not None

    @pytest.mark.parametrize("moves", [0, 1, 4])
    def test_scrambled_states_are_that_near(self, moves):
        definition = PermutationGroups.lx(5)
        table = CayleyGraph(definition, device="cpu").distance_table()
        instances = make_pathfinding_benchmark(definition, 20, scramble=moves, random_state=1)
        assert [instance["id"] for instance in instances] == list(range(20))
        states = torch.tensor([instance["initial_state"] for instance in instances])
        assert int(table.distance(states).max()) <= moves

    def test_matrices_are_scrambled_as_matrices(self):
        definition = MatrixGroups.heisenberg(modulo=5)
        (instance,) = make_pathfinding_benchmark(definition, 1, scramble=3, random_state=0)
        assert np.shape(instance["initial_state"]) == (3, 3)
        with pytest.raises(CayleyError, match="must be an integer for matrix generators"):
            make_pathfinding_benchmark(definition, 1)

    def test_a_seed_repeats_the_states(self):
        lrx = PermutationGroups.lrx(6)
        one, same, other = (
            make_pathfinding_benchmark(lrx, 5, random_state=seed) for seed in (1, 1, 2)
        )
        assert one == same != other

    def test_solutions_are_counted_and_replayed(self):
        definition = PermutationGroups.lrx(6)
        graph = CayleyGraph(definition, device="cpu")
        table = graph.distance_table()
        instances = make_pathfinding_benchmark(definition, 6, random_state=0)
        paths = [table.path(torch.tensor(i["initial_state"])) for i in instances]
        total = sum(map(len, paths))
        expected = {"solved": 6, "total_length": total, "errors": {}}
        assert score_submission(definition, instances, paths) == expected
        named = {i: definition.path_to_string(path) for i, path in enumerate(paths)}
        assert score_submission(definition, instances, named) == expected
        named = {i: definition.path_to_string(path, " ") for i, path in enumerate(paths)}
        assert score_submission(definition, instances, named, delimiter=" ") == expected

    def test_what_is_wrong_with_a_path_is_said(self):
        definition = PermutationGroups.lrx(4)
        instances = [{"id": name, "initial_state": [1, 2, 3, 0]} for name in "abcdef"]
        found = score_submission(
            definition, instances, {"a": [1], "b": [0], "c": "R.Z", "d": [7], "e": "R"}
        )
        assert (found["solved"], found["total_length"]) == (2, 2)
        assert list(found["errors"]) == ["b", "c", "d", "f"]
        assert "must lead to the central state" in found["errors"]["b"]
        assert found["errors"]["c"] == "no generator is called 'Z'"
        assert "generator numbers from 0 to 2, got 7" in found["errors"]["d"]
        assert found["errors"]["f"] == "no path"

    def test_a_solved_state_needs_no_move(self):
        definition = PermutationGroups.lrx(4)
        instances = [{"id": 0, "initial_state": [0, 1, 2, 3]}]
        for path in ([], ""):
            assert score_submission(definition, instances, [path])["solved"] == 1

    def test_bad_arguments_are_named(self):
        lrx = PermutationGroups.lrx(4)
        with pytest.raises(CayleyError, match="n_instances must be at least 1, got 0"):
            make_pathfinding_benchmark(lrx, 0)
        with pytest.raises(CayleyError, match="scramble must be 'uniform' or an integer"):
            make_pathfinding_benchmark(lrx, 1, scramble="random")
        with pytest.raises(CayleyError, match="scramble must be at least 0, got -1"):
            make_pathfinding_benchmark(lrx, 1, scramble=-1)
        with pytest.raises(CayleyError, match="one entry for each of 0 instances, got 1"):
            score_submission(lrx, [], [[0]])
        with pytest.raises(CayleyError, match="paths must be of known instances, got 9"):
            score_submission(lrx, [{"id": 0, "initial_state": [0, 1, 2, 3]}], {9: [0]})
