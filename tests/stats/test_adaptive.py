"""Mechanisms for adaptive queries against integrals of their noise laws and hand-written runs."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from rankone.stats.adaptive import (
    BudgetExhausted,
    EmpiricalMechanism,
    GaussianMechanism,
    PrivateMultiplicativeWeights,
    SampleSplitting,
    SparseVector,
    Thresholdout,
    advanced_composition,
    fixed_accuracy,
    gaussian_accuracy,
    max_queries,
    split_accuracy,
    transfer_bound,
    zcdp_to_dp,
)
from scipy import stats
from scipy.integrate import quad
from scipy.special import erfcinv
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import get_scorer
from sklearn.model_selection import GridSearchCV


def identity(x):
    return x


def exceeds(gap, threshold, sigma):
    """Probability that gap > threshold + Lap(2 sigma) + Lap(4 sigma), by integration."""
    gamma, eta = stats.laplace(scale=2 * sigma), stats.laplace(scale=4 * sigma)
    value, _ = quad(
        lambda g: gamma.pdf(g) * eta.cdf(gap - threshold - g),
        -60 * sigma,
        60 * sigma,
        points=[0, gap - threshold],
        limit=200,
    )
    return value


def four_errors(p, n):
    """Four standard errors of a share."""
    return 4 * math.sqrt(p * (1 - p) / n)


class TestBounds:
    def test_transfer_bound(self):
        alpha, beta = transfer_bound(0.01, 1e-4, 0.1, 1e-6, c=0.02, d=0.001)
        assert alpha == pytest.approx(0.01 + math.exp(0.1) - 1 + 0.02 + 0.002)
        assert beta == pytest.approx(1e-4 / 0.02 + 1e-6 / 0.001)
        assert transfer_bound(0.0, 0.1, 0.0, c=0.5) == (0.5, 0.2)

    def test_concentrated_privacy(self):
        assert zcdp_to_dp(0.02, 1e-6) == pytest.approx(0.02 + 2 * math.sqrt(0.02 * math.log(1e6)))

    def test_advanced_composition(self):
        epsilon, delta = advanced_composition(0.05, 100, 1e-6, 1e-9)
        assert epsilon == pytest.approx(
            0.05 * math.sqrt(200 * math.log(1e6)) + 100 * 0.05 * (math.exp(0.05) - 1)
        )
        assert delta == pytest.approx(100e-9 + 1e-6)

    @pytest.mark.parametrize(
        ("n", "m", "expected"),
        [
            (10**5, 100, 0.1014),
            (10**5, 1000, 0.1849),
            (10**6, 100, 0.0333),
            (10**6, 10**4, 0.1090),
            (10**6, 10**5, 0.1975),
        ],
    )
    def test_gaussian_accuracy(self, n, m, expected):
        assert gaussian_accuracy(n, m, 0.05) == pytest.approx(expected, rel=0.01)

    def test_gaussian_accuracy_is_near_a_grid_search(self):
        n, m, beta = 10**5, 300, 0.05
        found, best = gaussian_accuracy(n, m, beta, return_parameters=True)
        grid = math.inf
        for s, b, d in itertools.product(
            np.geomspace(1e-3, 0.3, 60), np.geomspace(1e-7, 1e-2, 30), np.geomspace(1e-10, 1e-3, 30)
        ):
            rho = m / (2 * n**2 * s**2)
            epsilon = rho + 2 * math.sqrt(rho * math.log(1 / d))
            if epsilon < 5:
                value = s * math.sqrt(2) * erfcinv(b / m) + math.expm1(epsilon)
                grid = min(grid, value + 2 * b / beta + 4 * d / beta)
        assert found == pytest.approx(grid, rel=0.04)
        assert found <= grid * (1 + 1e-6)
        assert set(best) == {"scale", "sample_beta", "delta"}

    def test_gaussian_accuracy_falls_with_rows_and_rises_with_queries(self):
        rows = [gaussian_accuracy(n, 100, 0.05) for n in (10**4, 10**5, 10**6)]
        queries = [gaussian_accuracy(10**5, m, 0.05) for m in (10, 100, 1000)]
        assert rows == sorted(rows, reverse=True)
        assert queries == sorted(queries)
        assert gaussian_accuracy(10, 10**6, 0.05) == 1.0

    def test_splitting_and_fixed_queries(self):
        assert split_accuracy(1000, 10, 0.05) == pytest.approx(math.sqrt(10 * math.log(400) / 2000))
        assert fixed_accuracy(1000, 10, 0.05) == pytest.approx(math.sqrt(math.log(400) / 2000))

    @pytest.mark.parametrize("method", ["gaussian", "split"])
    def test_max_queries_is_the_last_within_the_accuracy(self, method):
        guarantee = gaussian_accuracy if method == "gaussian" else split_accuracy
        m = max_queries(30_000, 0.15, 0.05, method=method)
        assert guarantee(30_000, m, 0.05) <= 0.15 < guarantee(30_000, m + 1, 0.05)
        assert max_queries(10, 0.01, 0.05, method=method) == 0

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: transfer_bound(0.1, 0.1, 0.1, c=0.0), "c must be above 0, got 0.0"),
            (lambda: transfer_bound(0.1, 0.1, 0.1, 1e-6, c=0.1), "d must be above 0 where delta"),
            (lambda: transfer_bound(-0.1, 0.1, 0.1, c=0.1), "alpha must be at least 0, got -0.1"),
            (lambda: zcdp_to_dp(-1, 0.1), "rho must be at least 0, got -1"),
            (lambda: zcdp_to_dp(1, 0), "delta must lie in .0, 1., got 0"),
            (lambda: advanced_composition(0.1, -1, 0.1), "k must be at least 0"),
            (lambda: gaussian_accuracy(0, 1, 0.05), "n must be an integer of at least 1, got 0"),
            (lambda: gaussian_accuracy(10, 1.5, 0.05), "n_queries must be an integer"),
            (lambda: split_accuracy(10, 1, 1.0), "beta must lie in .0, 1., got 1.0"),
            (lambda: max_queries(10, 0.1, 0.1, method="fixed"), "method must be 'gaussian' or"),
        ],
    )
    def test_bad_input(self, call, message):
        with pytest.raises(ValueError, match=message):
            call()


class TestSimpleMechanisms:
    data = np.random.default_rng(0).random(1000)

    def test_empirical_answers_are_means(self):
        mechanism = EmpiricalMechanism(self.data)
        assert mechanism.answer(identity) == self.data.mean()
        assert mechanism.guarantee() is None
        assert mechanism.history_[0] == (0, self.data.mean(), "empirical")

    def test_gaussian_answers_have_the_stated_law(self):
        mechanism = GaussianMechanism(self.data, 4000, scale=0.3, random_state=1)
        answers = np.array([mechanism.answer(identity) for _ in range(4000)])
        assert stats.kstest(answers, stats.norm(self.data.mean(), 0.3).cdf).pvalue > 1e-3
        assert mechanism.rho == pytest.approx(4000 / (2 * 1000**2 * 0.3**2))

    def test_gaussian_mechanism_takes_the_best_scale(self):
        mechanism = GaussianMechanism(np.zeros(10**5), 100)
        _, best = gaussian_accuracy(10**5, 100, 0.05, return_parameters=True)
        assert mechanism.scale == best["scale"]
        assert mechanism.guarantee() == pytest.approx(gaussian_accuracy(10**5, 100, 0.05), rel=1e-3)

    def test_any_other_scale_has_a_weaker_guarantee(self):
        best = GaussianMechanism(np.zeros(10**5), 100)
        for factor in (0.5, 2.0):
            other = GaussianMechanism(np.zeros(10**5), 100, scale=factor * best.scale)
            assert other.guarantee() > best.guarantee()
        assert GaussianMechanism(np.zeros(10), 1, scale=0.0).guarantee() == 1.0

    def test_splitting_uses_disjoint_rows_each_once(self):
        seen = []

        def remember(rows):
            seen.append(rows)
            return np.zeros(len(rows))

        mechanism = SampleSplitting(np.arange(103), 10, random_state=0)
        for _ in range(10):
            mechanism.answer(remember)
        assert {len(part) for part in seen} == {10, 11}
        assert sorted(np.concatenate(seen)) == list(range(103))
        assert mechanism.guarantee(0.1) == split_accuracy(103, 10, 0.1)

    def test_declared_queries_are_enforced(self):
        for mechanism in (GaussianMechanism(self.data, 1, 0.1), SampleSplitting(self.data, 1)):
            mechanism.answer(identity)
            with pytest.raises(BudgetExhausted, match="n_queries: all 1 declared"):
                mechanism.answer(identity)
            assert mechanism.n_answered == 1

    def test_frames_and_tuples_of_arrays(self):
        frame = pd.DataFrame({"a": [0.0, 1.0, 1.0, 1.0]}, index=list("wxyz"))
        assert EmpiricalMechanism(frame).answer(lambda table: table["a"]) == 0.75
        assert SampleSplitting(frame, 4).answer(lambda table: table["a"]) in (0.0, 1.0)
        pair = (np.eye(4), np.array([0.0, 0.0, 1.0, 1.0]))
        assert SampleSplitting(pair, 1).answer(lambda data: data[1]) == 0.5

    @pytest.mark.parametrize(
        ("query", "got"),
        [
            (lambda X, y: y, r"got a function of \(X, y\)"),
            (lambda: 0.5, r"got a function of \(\)"),
        ],
    )
    def test_data_in_a_tuple_is_one_argument_of_the_query(self, query, got):
        pair = (np.eye(4), np.array([0.0, 0.0, 1.0, 1.0]))
        mechanisms = (
            EmpiricalMechanism(pair),
            GaussianMechanism(pair, 3, scale=0.0),
            Thresholdout(pair, pair, 0.1, 0.0),
        )
        for mechanism in mechanisms:
            assert mechanism.answer(lambda data, weight=1.0: weight * data[1]) == 0.5
            with pytest.raises(TypeError, match=f"query must take one argument, .*{got}"):
                mechanism.answer(query)
            assert mechanism.n_answered == 1

    def test_a_query_without_a_signature_or_that_is_no_function(self):
        mechanism = EmpiricalMechanism(np.array([0.0, 1.0]))
        assert mechanism.answer(np.abs) == 0.5
        with pytest.raises(TypeError, match="query must be a function of the data, got float"):
            mechanism.answer(0.5)

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda x: SampleSplitting(x, 0), "n_queries must lie between 1 and the 1000 rows"),
            (lambda x: SampleSplitting(x, 1001), "got 1001"),
            (lambda x: GaussianMechanism(x, 0), "n_queries must be an integer of at least 1"),
            (lambda x: GaussianMechanism(x, 1, scale=-1), "scale must be at least 0, got -1"),
            (lambda x: EmpiricalMechanism((x, x[:3])), r"the same number in every array, got"),
            (lambda x: EmpiricalMechanism(x[:0]), "data must have rows"),
            (lambda x: EmpiricalMechanism(x).answer(lambda x: x[:3]), r"shape \(1000,\), got"),
            (lambda x: EmpiricalMechanism(x).answer(lambda x: x + 1), r"values in \[0, 1\], got"),
            (lambda x: EmpiricalMechanism(x).answer(lambda x: x * np.nan), "finite values"),
        ],
    )
    def test_bad_input(self, call, message):
        with pytest.raises(ValueError, match=message):
            call(self.data)


class TestThresholdout:
    def fresh(self, threshold=0.1, tolerance=0.05, seed=None, **options):
        return Thresholdout([0.0], [0.0], threshold, tolerance, random_state=seed, **options)

    def test_without_tolerance_it_is_a_plain_rule(self):
        mechanism = self.fresh(tolerance=0.0, budget=2)
        assert mechanism.answer_values(0.5, 0.55) == 0.5
        assert mechanism.answer_values(0.5, 0.7) == 0.7
        assert mechanism.answer_values(0.7, 0.5) == 0.5  # the sign of the gap does not matter
        assert (mechanism.n_overfit, mechanism.budget_remaining, mechanism.n_answered) == (2, 0, 3)
        assert [entry.kind for entry in mechanism.history_] == ["train", "holdout", "holdout"]

    def test_only_answers_from_the_holdout_are_charged(self):
        mechanism = self.fresh(tolerance=0.0, budget=1)
        for _ in range(100):
            mechanism.answer_values(0.5, 0.5)
        assert mechanism.budget_remaining == 1

    def test_an_exhausted_budget_refuses_even_answers_from_training(self):
        mechanism = self.fresh(tolerance=0.0, budget=1)
        mechanism.answer_values(0.0, 1.0)
        for ask in (
            lambda: mechanism.answer_values(0.5, 0.5),
            lambda: mechanism.answer(lambda x: np.zeros(1)),
        ):
            with pytest.raises(BudgetExhausted, match="all 1 answers from the holdout"):
                ask()
        assert mechanism.n_answered == 1

    @pytest.mark.parametrize("gap", [0.1, 0.0, 0.25])
    def test_crossing_probability_is_the_integral_over_both_noises(self, gap):
        n = 6000
        crossed = sum(self.fresh(seed=seed).answer_values(0.0, gap) != 0.0 for seed in range(n))
        expected = exceeds(gap, 0.1, 0.05)
        if gap == 0.1:
            assert expected == pytest.approx(0.5)
        assert crossed / n == pytest.approx(expected, abs=four_errors(expected, n))

    def test_answers_from_training_share_the_noisy_threshold(self):
        gap, sigma, n = 0.1, 0.05, 6000
        both = 0
        for seed in range(n):
            mechanism = self.fresh(seed=seed)
            both += all(mechanism.answer_values(0.0, gap) == 0.0 for _ in range(2))
        gamma, eta = stats.laplace(scale=2 * sigma), stats.laplace(scale=4 * sigma)
        expected, _ = quad(lambda g: gamma.pdf(g) * eta.sf(-g) ** 2, -3, 3, points=[0])
        assert expected > 0.25 + 0.04  # the variance of the conditional probability
        assert both / n == pytest.approx(expected, abs=four_errors(expected, n))

    def test_threshold_is_redrawn_after_an_answer_from_the_holdout(self):
        mechanism = self.fresh(seed=0)
        drawn = {mechanism._noisy_threshold}
        for _ in range(50):
            before = mechanism._noisy_threshold
            kind_before = mechanism.n_overfit
            mechanism.answer_values(0.0, 0.1)
            changed = mechanism._noisy_threshold != before
            assert changed == (mechanism.n_overfit > kind_before)
            drawn.add(mechanism._noisy_threshold)
        assert len(drawn) == mechanism.n_overfit + 1

    @pytest.mark.parametrize(
        ("noise", "law"), [("laplace", stats.laplace), ("gaussian", stats.norm)]
    )
    def test_released_answers_have_fresh_noise_of_the_tolerance(self, noise, law):
        mechanism = self.fresh(threshold=0.0, tolerance=0.05, seed=1, noise=noise)
        released = [mechanism.answer_values(0.0, 10.0) - 10.0 for _ in range(4000)]
        assert mechanism.n_overfit == 4000
        assert stats.kstest(released, law(scale=0.05).cdf).pvalue > 1e-3

    def test_queries_are_answered_on_both_sets(self):
        mechanism = Thresholdout(np.zeros(10), np.ones(20), 0.5, 0.0)
        assert mechanism.answer(identity) == 1.0
        assert mechanism.epsilon_spent == math.inf
        noisy = Thresholdout(np.zeros(10), np.ones(20), 0.0, 1e-3, random_state=0)
        assert noisy.epsilon_spent == 0
        noisy.answer(identity)
        assert noisy.epsilon_spent == pytest.approx(2 / (1e-3 * 20))
        assert noisy.guarantee() is None

    def test_scorer_guards_a_search(self):
        generator = np.random.default_rng(0)
        X, y = generator.standard_normal((120, 5)), np.arange(120) % 2
        train, holdout = (X[:60], y[:60]), (X[60:], y[60:])
        mechanism = Thresholdout(train, holdout, 0.0, 0.0)
        model = LogisticRegression().fit(*train)
        assert mechanism.scorer("accuracy")(model, *train) == model.score(*holdout)
        assert mechanism.scorer()(model) == model.score(*holdout)
        brier = get_scorer("neg_brier_score")
        assert mechanism.scorer(brier)(model) == pytest.approx(brier(model, *holdout))
        search = GridSearchCV(
            LogisticRegression(), {"C": [0.1, 1.0]}, scoring=mechanism.scorer("accuracy"), cv=2
        )
        search.fit(*train)
        assert mechanism.n_answered >= 4 + 3

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"threshold": -0.1}, "threshold must be at least 0, got -0.1"),
            ({"tolerance": -0.1}, "tolerance must be at least 0"),
            ({"budget": -1}, "budget must be at least 0"),
            ({"noise": "cauchy"}, "noise must be 'laplace' or 'gaussian', got 'cauchy'"),
        ],
    )
    def test_bad_input(self, options, message):
        with pytest.raises(ValueError, match=message):
            self.fresh(**options)

    def test_bad_values(self):
        with pytest.raises(ValueError, match="holdout_value must be finite, got nan"):
            self.fresh().answer_values(0.1, math.nan)
        with pytest.raises(ValueError, match=r"train must be a tuple \(X, y\) for a scorer"):
            self.fresh().scorer()


class TestSparseVector:
    data = np.full(100, 0.5)

    @pytest.mark.parametrize(("threshold", "max_above"), [(0.5, 1), (0.6, 1), (0.55, 3)])
    def test_crossing_probability_is_the_integral(self, threshold, max_above):
        epsilon, n = 1.0, 6000
        scale = 2 * max_above / 100 / epsilon
        expected = exceeds(0.5, threshold, scale / 2)  # noises of scale and twice the scale
        crossed = sum(
            SparseVector(
                self.data, threshold, epsilon, max_above=max_above, random_state=seed
            ).query(identity)
            for seed in range(n)
        )
        assert crossed / n == pytest.approx(expected, abs=four_errors(expected, n))

    def test_the_last_report_exhausts_it(self):
        mechanism = SparseVector(self.data, 0.4, math.inf, max_above=2)
        assert mechanism.query(identity)
        assert not mechanism.query(lambda x: 0 * x)
        assert mechanism.query(identity)
        with pytest.raises(BudgetExhausted, match="max_above: all 2 reports"):
            mechanism.query(identity)
        assert mechanism.n_above == 2

    def test_threshold_is_redrawn_after_a_report_only(self):
        mechanism = SparseVector(self.data, 0.5, 1.0, max_above=10, random_state=0)
        for _ in range(10):
            before = mechanism._noisy_threshold
            assert mechanism.query(identity) == (mechanism._noisy_threshold != before)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"epsilon": 0.0}, "epsilon must be above 0, got 0.0"),
            ({"max_above": 0}, "max_above must be an integer of at least 1"),
            ({"sensitivity": 0.0}, "sensitivity must be above 0"),
            ({"threshold": math.nan}, "threshold must be finite"),
        ],
    )
    def test_bad_input(self, options, message):
        with pytest.raises(ValueError, match=message):
            SparseVector(self.data, **{"threshold": 0.5, "epsilon": 1.0, **options})


class TestMultiplicativeWeights:
    indices = np.random.default_rng(0).choice(8, 200, p=np.arange(1, 9) / 36)

    def queries(self, count, seed=1):
        return (np.random.default_rng(seed).random((count, 8)) < 0.5).astype(float)

    def test_without_noise_it_equals_updates_by_hand(self):
        T = 0.05
        mechanism = PrivateMultiplicativeWeights(self.indices, 8, T, 0.0)
        truth = np.bincount(self.indices, minlength=8) / 200
        h = np.full(8, 1 / 8)
        for q in self.queries(300):
            if abs(truth @ q - h @ q) > T:
                expected = truth @ q
                h = h * np.exp(np.sign(expected - h @ q) * T / 2 * q)
                h /= h.sum()
            else:
                expected = h @ q
            assert mechanism.answer(q) == pytest.approx(expected, abs=1e-12)
            assert abs(mechanism.history_[-1].answer - truth @ q) <= T + 1e-12
        np.testing.assert_allclose(mechanism.hypothesis_, h, rtol=1e-10)

    def test_adversarial_queries_cannot_force_more_updates_than_the_potential_allows(self):
        T = 0.1
        indices = np.zeros(50, dtype=int)  # as far from uniform as can be
        mechanism = PrivateMultiplicativeWeights(indices, 64, T, 0.0, max_updates=10**6)
        for _ in range(2000):
            # The query on which hypothesis and sample differ most.
            gap = (np.arange(64) == 0) - mechanism.hypothesis_
            mechanism.answer((gap > 0).astype(float))
        assert 0 < mechanism.n_updates <= 4 * math.log(64) / T**2
        assert abs(mechanism.hypothesis_[0] - 1) <= T

    def test_default_limits_are_those_of_the_potential(self):
        mechanism = PrivateMultiplicativeWeights(self.indices, 8, 0.1, 0.01)
        assert mechanism.max_updates == math.ceil(4 * math.log(8) / 0.01)
        assert mechanism.learning_rate == 0.05

    def test_answers_from_the_hypothesis_cost_nothing(self):
        mechanism = PrivateMultiplicativeWeights(self.indices, 8, 0.5, 0.0)
        for q in self.queries(100):
            mechanism.answer(q)
        assert (mechanism.n_updates, mechanism.n_answered) == (0, 100)
        np.testing.assert_array_equal(mechanism.hypothesis_, 1 / 8)

    def test_updates_follow_the_noisy_answer(self):
        # The released answer is far below the sample's, so that the weights must fall.
        class Falling:
            draws = iter([0.0, 0.0, -5.0, 0.0])

            def laplace(self, *_):
                return next(self.draws)

        mechanism = PrivateMultiplicativeWeights(self.indices, 8, 0.05, 0.1, random_state=0)
        mechanism._generator, mechanism._threshold_noise = Falling(), 0.0
        next(Falling.draws)
        q = (np.arange(8) == 7).astype(float)
        assert mechanism.answer(q) == 0.0  # clipped
        assert mechanism.hypothesis_[7] < 1 / 8

    def test_after_the_last_update_the_hypothesis_answers(self):
        mechanism = PrivateMultiplicativeWeights(self.indices, 8, 1e-3, 0.01, max_updates=1)
        q = (np.arange(8) == 7).astype(float)
        mechanism.answer(q)
        assert mechanism.n_updates == 1
        assert mechanism.guarantee() is None
        assert mechanism.answer(1 - q) == pytest.approx(mechanism.hypothesis_ @ (1 - q))

    def test_guarantee_needs_noise_and_weakens_with_queries(self):
        indices = np.zeros(10**7, dtype=int)
        mechanism = PrivateMultiplicativeWeights(indices, 16, 0.1, 1e-3, max_updates=50)
        few = mechanism.guarantee()
        for _ in range(50):
            mechanism.answer(np.ones(16))
        assert 0.1 < few < mechanism.guarantee() < 0.5
        assert PrivateMultiplicativeWeights(indices[:9], 16, 0.1, 0.0).guarantee() is None

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (([0, 9], 8, 0.1, 0.0), r"indices must lie in \[0, 8\), got 0 to 9"),
            (([0.5], 8, 0.1, 0.0), "indices must be integers"),
            (([], 8, 0.1, 0.0), "indices must be integers"),
            (([0], 8, 0.0, 0.0), "threshold must be above 0, got 0.0"),
            (([0], 8, 0.1, -1.0), "noise_scale must be at least 0"),
            (([0], 8, 0.1, 0.0, 0.0), "learning_rate must be above 0"),
        ],
    )
    def test_bad_input(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            PrivateMultiplicativeWeights(*arguments)

    @pytest.mark.parametrize(
        ("q", "message"),
        [(np.ones(7), r"q must have values of shape \(8,\)"), (np.full(8, 2.0), "0, 1")],
    )
    def test_bad_queries(self, q, message):
        with pytest.raises(ValueError, match=message):
            PrivateMultiplicativeWeights([0], 8, 0.1, 0.0).answer(q)


def test_one_random_state_repeats_every_answer():
    data = np.random.default_rng(0).random(50)
    for make in (
        lambda: GaussianMechanism(data, 5, 0.1, random_state=3),
        lambda: SampleSplitting(data, 5, random_state=3),
        lambda: Thresholdout(data, data / 2, 0.1, 0.1, random_state=3),
    ):
        first, second = make(), make()
        assert [first.answer(identity) for _ in range(5)] == [
            second.answer(identity) for _ in range(5)
        ]
