"""Linear naive Bayes against scikit-learn's classifiers, sampled posteriors and closed forms."""

import numpy as np
import pytest
from rankone.linear_model.generative_classifiers import (
    LinearGaussianNB,
    compare_learning_curves,
    gaussian_mixture_bayes_error,
    gaussian_mixture_problem,
    logistic_consistency_transform,
    sample_complexity,
    zero_one_excess_bound,
)
from scipy.special import log_softmax, softmax, xlogy
from scipy.stats import norm
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.utils.estimator_checks import parametrize_with_checks

X, y = load_iris(return_X_y=True)


@parametrize_with_checks([LinearGaussianNB(), LinearGaussianNB(var_smoothing=1e-3)])
def test_scikit_learn_conventions(estimator, check):
    check(estimator)


def pooled_variance(X, y):
    """Prior-weighted biased within-class variances, class by class."""
    return sum(np.mean(y == k) * X[y == k].var(axis=0) for k in np.unique(y))


class TestAgainstOtherClassifiers:
    def test_equals_gaussian_nb_with_the_pooled_variance(self):
        model = LinearGaussianNB().fit(X, y)
        other = GaussianNB().fit(X, y)
        other.var_ = np.tile(pooled_variance(X, y) + 1e-9, (3, 1))
        np.testing.assert_allclose(
            model.predict_joint_log_proba(X), other.predict_joint_log_proba(X), atol=1e-7
        )
        np.testing.assert_allclose(model.predict_proba(X), other.predict_proba(X), atol=1e-7)

    def test_differs_from_gaussian_nb_whose_variances_are_per_class(self):
        assert not np.allclose(
            LinearGaussianNB().fit(X, y).predict_proba(X), GaussianNB().fit(X, y).predict_proba(X)
        )

    def test_equals_lda_of_a_diagonal_covariance(self):
        # LDA's discriminant by the textbook formula with the off-diagonal entries left out.
        model = LinearGaussianNB(var_smoothing=0).fit(X, y)
        inverse = np.diag(1 / pooled_variance(X, y))
        means = np.array([X[y == k].mean(axis=0) for k in range(3)])
        scores = X @ inverse @ means.T - 0.5 * np.diag(means @ inverse @ means.T) + np.log(1 / 3)
        np.testing.assert_allclose(model.decision_function(X), scores, rtol=1e-10)

    @pytest.mark.parametrize("solver", ["svd", "lsqr"])
    def test_equals_lda_for_one_feature(self, solver):
        column, n = X[:, [2]], len(X)
        lda = LinearDiscriminantAnalysis(solver=solver, store_covariance=True).fit(column, y)
        model = LinearGaussianNB(var_smoothing=0).fit(column, y)
        np.testing.assert_allclose(model.var_, lda.covariance_[0], rtol=1e-12)  # over N
        np.testing.assert_allclose(
            model.predict_proba(column), lda.predict_proba(column), atol=1e-10
        )
        # The textbook's covariance over N - K scales every difference of scores.
        unbiased = sum(np.var(column[y == k]) * 50 for k in range(3)) / (n - 3)
        means = model.theta_[:, 0]
        scores = (column * means - means**2 / 2) / unbiased
        np.testing.assert_allclose(
            softmax((model.decision_function(column) - np.log(1 / 3)) * (n - 3) / n, axis=1),
            softmax(scores, axis=1),
            atol=1e-10,
        )

    def test_variance_is_neither_total_nor_unweighted_nor_unbiased(self):
        rows = np.r_[0:50, 50:60, 100:130]  # unequal classes
        model = LinearGaussianNB(var_smoothing=0).fit(X[rows], y[rows])
        within = [X[rows][y[rows] == k] for k in range(3)]
        np.testing.assert_allclose(model.var_, pooled_variance(X[rows], y[rows]), rtol=1e-12)
        for wrong in (
            X[rows].var(axis=0),
            np.mean([part.var(axis=0) for part in within], axis=0),
            sum(len(part) / len(rows) * part.var(axis=0, ddof=1) for part in within),
        ):
            assert not np.allclose(model.var_, wrong, rtol=1e-3)


class TestFitting:
    @pytest.mark.parametrize("size", [1, 7, 64])
    def test_partial_fit_in_any_chunks_equals_fit(self, size):
        order = np.random.default_rng(0).permutation(len(X))
        streamed = LinearGaussianNB()
        for start in range(0, len(X), size):
            rows = order[start : start + size]
            streamed.partial_fit(X[rows], y[rows], classes=[0, 1, 2])
        whole = LinearGaussianNB().fit(X, y)
        for name in ("class_count_", "theta_", "var_", "coef_", "intercept_"):
            np.testing.assert_allclose(getattr(streamed, name), getattr(whole, name), rtol=1e-11)
        np.testing.assert_allclose(
            streamed.decision_function(X), whole.decision_function(X), rtol=1e-9, atol=1e-9
        )

    def test_integer_weights_are_repetitions(self):
        weight = np.random.default_rng(1).integers(0, 4, len(X))
        weighted = LinearGaussianNB().fit(X, y, sample_weight=weight)
        repeated = LinearGaussianNB().fit(np.repeat(X, weight, axis=0), np.repeat(y, weight))
        for name in ("class_count_", "theta_", "var_", "intercept_"):
            np.testing.assert_allclose(getattr(weighted, name), getattr(repeated, name), rtol=1e-11)

    def test_predictions_do_not_change_when_features_are_rescaled(self):
        scale = np.array([1e-3, 1.0, 1e4, 7.0])
        model = LinearGaussianNB(var_smoothing=0)
        np.testing.assert_allclose(
            clone(model).fit(X, y).predict_proba(X),
            clone(model).fit(X * scale, y).predict_proba(X * scale),
            atol=1e-12,
        )

    def test_given_priors_shift_the_intercepts_alone(self):
        priors = [0.7, 0.2, 0.1]
        model, plain = LinearGaussianNB(priors=priors).fit(X, y), LinearGaussianNB().fit(X, y)
        np.testing.assert_array_equal(model.coef_, plain.coef_)
        np.testing.assert_allclose(
            model.intercept_ - plain.intercept_, np.log(np.array(priors) * 3)
        )

    def test_means_far_from_zero_keep_their_digits(self):
        offset = 1e7
        near, far = LinearGaussianNB().fit(X, y), LinearGaussianNB().fit(X + offset, y)
        np.testing.assert_allclose(far.var_, near.var_, rtol=1e-7)

    def test_labels_may_be_strings(self):
        names = np.array(["setosa", "versicolor", "virginica"])[y]
        assert set(LinearGaussianNB().fit(X, names).predict(X)) == set(names)


class TestScores:
    def test_scores_are_linear_in_coef_and_intercept(self):
        model = LinearGaussianNB().fit(X, y)
        np.testing.assert_allclose(
            model.decision_function(X), X @ model.coef_.T + model.intercept_, rtol=1e-9
        )
        np.testing.assert_allclose(model.coef_, model.theta_ / model.var_)

    def test_two_classes_give_log_odds(self):
        rows = y < 2
        model = LinearGaussianNB().fit(X[rows], y[rows])
        odds = model.decision_function(X)
        assert model.coef_.shape == (2, 4)
        assert odds.shape == (150,)
        posterior = model.predict_log_proba(X)
        np.testing.assert_allclose(odds, posterior[:, 1] - posterior[:, 0], rtol=1e-9)

    def test_an_absent_class_and_a_constant_feature_give_no_nan(self):
        padded = np.column_stack((X, np.full(len(X), 1e4)))
        rows = y < 2
        model = LinearGaussianNB().partial_fit(padded[rows], y[rows], classes=[0, 1, 2])
        assert model.class_prior_[2] == 0
        assert (model.decision_function(padded)[:, 2] == -np.inf).all()
        log_proba = model.predict_log_proba(padded)
        assert not np.isnan(log_proba).any()
        assert np.isfinite(log_proba[:, :2].max(axis=1).mean())
        np.testing.assert_allclose(model.predict_proba(padded).sum(axis=1), 1)
        # The constant feature says nothing about the class.
        plain = LinearGaussianNB().partial_fit(X[rows], y[rows], classes=[0, 1, 2])
        np.testing.assert_allclose(
            model.predict_proba(padded), plain.predict_proba(X), rtol=1e-6, atol=1e-12
        )


class TestBadInput:
    @pytest.mark.parametrize(
        ("parameters", "message"),
        [
            ({"priors": [0.5, 0.5]}, r"priors must have shape \(3,\), got \(2,\)"),
            ({"priors": [1.2, -0.1, -0.1]}, "priors must be at least 0"),
            ({"priors": [0.5, 0.3, 0.3]}, "priors must sum to 1, got a sum of 1.1"),
            ({"var_smoothing": -1e-9}, "var_smoothing must be at least 0, got -1e-09"),
            ({"var_smoothing": np.nan}, "var_smoothing must be at least 0, got nan"),
        ],
    )
    def test_parameters(self, parameters, message):
        with pytest.raises(ValueError, match=message):
            LinearGaussianNB(**parameters).fit(X, y)

    def test_one_class(self):
        with pytest.raises(ValueError, match="at least two classes, got 1 class"):
            LinearGaussianNB().fit(X, np.zeros(len(X)))

    def test_first_partial_fit_without_classes(self):
        with pytest.raises(ValueError, match="classes must be given in the first call"):
            LinearGaussianNB().partial_fit(X, y)

    def test_unseen_label(self):
        model = LinearGaussianNB().partial_fit(X[y < 2], y[y < 2], classes=[0, 1])
        with pytest.raises(ValueError, match=r"y must hold labels of \[0, 1\], got \[2\]"):
            model.partial_fit(X, y)

    def test_changed_classes(self):
        model = LinearGaussianNB().partial_fit(X[y < 2], y[y < 2], classes=[0, 1])
        with pytest.raises(ValueError, match=r"classes must stay \[0, 1\]"):
            model.partial_fit(X, y, classes=[0, 1, 2])

    @pytest.mark.parametrize(("weight", "message"), [(0.0, "zero"), (-1.0, "[Nn]egative")])
    def test_sample_weight(self, weight, message):
        with pytest.raises(ValueError, match=message):
            LinearGaussianNB().fit(X, y, sample_weight=np.full(len(X), weight))

    def test_constant_feature_without_smoothing(self):
        constant = np.column_stack((X, np.ones(len(X))))
        with pytest.raises(ValueError, match=r"constant features \[4\]"):
            LinearGaussianNB(var_smoothing=0).fit(constant, y)


class TestProblem:
    def test_means_and_variances(self):
        data, labels = gaussian_mixture_problem(5, 3, 60_000, random_state=0)
        for k, mean in enumerate([-1.0, 1.0, 2.0]):
            rows = data[labels == k]
            assert len(rows) == 20_000
            # Four standard errors of a mean and of a variance over 20000 rows.
            np.testing.assert_allclose(rows.mean(axis=0), mean, atol=4 * np.sqrt(5 / 20_000))
            np.testing.assert_allclose(rows.var(axis=0), [5, 5, 1, 1, 1], rtol=4 * 0.01)

    @pytest.mark.parametrize(
        ("n_features", "n_classes", "expected"),
        [
            (2, 2, 0.110336),
            (4, 2, 0.056923),
            (10, 2, 0.009508),
            (2, 3, 0.253654),
            (10, 5, 0.055798),
        ],
    )
    def test_bayes_error_is_that_of_the_true_posterior(self, n_features, n_classes, expected):
        error = gaussian_mixture_bayes_error(n_features, n_classes)
        assert error == pytest.approx(expected, abs=5e-7)
        data, labels = gaussian_mixture_problem(n_features, n_classes, 400_000, random_state=0)
        deviations = np.ones(n_features)
        deviations[: n_features // 2] = np.sqrt(n_features)
        means = [-1.0, *(2.0**k for k in range(n_classes - 1))]
        density = [norm.logpdf(data, mean, deviations).sum(axis=1) for mean in means]
        assert np.mean(np.argmax(density, axis=0) != labels) == pytest.approx(error, abs=0.003)

    @pytest.mark.parametrize(
        ("sizes", "message"),
        [
            ((0, 2, 10), "n_features must be at least 1, got 0"),
            ((3, 1, 10), "n_classes must be at least 2, got 1"),
            ((3, 4, 3), "n_samples must be at least n_classes = 4, got 3"),
        ],
    )
    def test_bad_sizes(self, sizes, message):
        with pytest.raises(ValueError, match=message):
            gaussian_mixture_problem(*sizes)


class TestSampleComplexity:
    def test_stops_at_the_first_size_that_reaches_the_target(self):
        result = sample_complexity(
            LinearGaussianNB(), 50, train_sizes=range(4, 41), n_repeats=5, n_test=4000
        )
        assert result.target == pytest.approx(gaussian_mixture_bayes_error(50, 2) + 0.01)
        assert result.n_samples == result.train_sizes[-1]
        assert result.errors[-1] <= result.target
        assert (result.errors[:-1] > result.target).all()

    def test_an_unreached_target_gives_none_and_not_the_last_size(self):
        result = sample_complexity(
            LogisticRegression(), 50, train_sizes=[4, 5], n_repeats=2, n_test=500
        )
        assert result.n_samples is None
        assert result.train_sizes.tolist() == [4, 5]

    def test_default_sizes(self):
        result = sample_complexity(LinearGaussianNB(), 3, n_classes=2, n_repeats=1, n_test=100)
        step = np.diff([4, *result.train_sizes])
        assert result.train_sizes[0] == 4
        assert set(step[1:]) <= {2}

    def test_repeats_exactly_for_one_random_state(self):
        run = {"train_sizes": [4, 6], "n_repeats": 2, "n_test": 200, "random_state": 5}
        first = sample_complexity(LinearGaussianNB(), 20, **run)
        np.testing.assert_array_equal(
            first.errors, sample_complexity(LinearGaussianNB(), 20, **run).errors
        )

    @pytest.mark.parametrize("sizes", [[], [1, 5]])
    def test_bad_sizes(self, sizes):
        with pytest.raises(ValueError, match="train_sizes must hold sizes of at least n_classes"):
            sample_complexity(LinearGaussianNB(), 5, train_sizes=sizes)

    def test_bad_tolerance(self):
        with pytest.raises(ValueError, match="tol must be above 0, got 0"):
            sample_complexity(LinearGaussianNB(), 5, tol=0)


class Scripted:
    """A classifier whose error depends on the training size alone."""

    def __init__(self, errors=None):
        self.errors = errors

    def get_params(self, deep=False):
        return {"errors": self.errors}

    def fit(self, X, y):
        self.range = np.ptp(X, axis=0)
        self.minimum = X.min(axis=0)
        self.classes_ = np.unique(y)
        self.wrong = self.errors[len(X)]
        return self

    def predict(self, X):
        # Rows hold their own label in the last column, scaled to [0, 1].
        label = (X[:, -1] > 0.5).astype(int)
        flipped = np.arange(len(X)) < round(self.wrong * len(X))
        return np.where(flipped, 1 - label, label)


class TestLearningCurves:
    data = np.column_stack((np.random.default_rng(0).random((300, 2)), np.arange(300) % 2))
    labels = np.arange(300) % 2

    def curves(self, generative, discriminative, sizes=(10, 20, 40), **options):
        return compare_learning_curves(
            Scripted(dict(zip(sizes, generative, strict=True))),
            Scripted(dict(zip(sizes, discriminative, strict=True))),
            self.data,
            self.labels,
            sizes,
            **options,
        )

    def test_crossover_is_interpolated_in_the_logarithm_of_the_size(self):
        curves = self.curves([0.1, 0.1, 0.1], [0.3, 0.2, 0.0])
        np.testing.assert_allclose(curves.generative_error, 0.1)
        np.testing.assert_allclose(curves.discriminative_error, [0.3, 0.2, 0.0])
        assert curves.crossover == pytest.approx(20 * np.sqrt(2))

    @pytest.mark.parametrize(
        ("generative", "discriminative"),
        [((0.1, 0.1, 0.1), (0.3, 0.2, 0.15)), ((0.3, 0.2, 0.1), (0.1, 0.1, 0.3))],
    )
    def test_without_a_change_to_the_better_there_is_none(self, generative, discriminative):
        assert self.curves(generative, discriminative).crossover is None

    def test_scaler_sees_the_subset_alone(self):
        class Recorder(Scripted):
            ranges = ()

            def fit(self, X, y):
                Recorder.ranges += ((X.min(), X.max()),)
                return super().fit(X, y)

            def predict(self, X):
                Recorder.outside = Recorder.outside or X.min() < 0 or X.max() > 1
                return super().predict(X)

        Recorder.outside = False
        error = {4: 0.0}
        compare_learning_curves(
            Recorder(error), Recorder(error), self.data, self.labels, [4], n_repeats=3
        )
        np.testing.assert_allclose(Recorder.ranges, [(0, 1)] * 6, atol=1e-12)
        assert Recorder.outside

    def test_every_subset_holds_every_class(self):
        class Counter(Scripted):
            def fit(self, X, y):
                assert len(np.unique(y)) == 2
                return super().fit(X, y)

        curves = compare_learning_curves(
            Counter({2: 0.0}), Counter({2: 0.0}), self.data, self.labels, [2], n_repeats=20
        )
        assert curves.generative_error[0] == 0

    def test_test_rows_are_never_trained_on(self):
        class Memory(Scripted):
            def fit(self, X, y):
                self.seen = {tuple(row) for row in X}
                return super().fit(X, y)

            def predict(self, X):
                assert not self.seen & {tuple(row) for row in X}
                return super().predict(X)

        compare_learning_curves(
            Memory({100: 0.0}), Memory({100: 0.0}), self.data, self.labels, [100], scaler=None
        )

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"train_sizes": [1, 5]}, "train_sizes must lie between the number of classes, 2"),
            ({"train_sizes": [5, 201]}, "the size of the training pool, 200"),
            ({"train_sizes": [5, 5]}, "train_sizes must be increasing"),
            ({"train_sizes": []}, "train_sizes must be increasing"),
            ({"scaler": "robust"}, "scaler must be 'minmax' or None, got 'robust'"),
            ({"n_repeats": 0}, "n_repeats must be at least 1, got 0"),
        ],
    )
    def test_bad_input(self, options, message):
        call = {"train_sizes": [5, 6], **options}
        with pytest.raises(ValueError, match=message):
            compare_learning_curves(
                LinearGaussianNB(), LinearGaussianNB(), self.data, self.labels, **call
            )

    def test_a_class_too_rare_to_be_drawn(self):
        labels = np.zeros(3000, dtype=int)
        labels[:3] = 1
        data = np.random.default_rng(0).random((3000, 2))
        with pytest.raises(ValueError, match="1000 subsets of 2 rows lacked a class"):
            compare_learning_curves(LinearGaussianNB(), LinearGaussianNB(), data, labels, [2])


class TestBound:
    def test_values_in_natural_logarithms(self):
        np.testing.assert_allclose(
            logistic_consistency_transform([0, 0.5, 1]), [0, 0.13081, np.log(2)], atol=5e-6
        )

    def test_transform_is_convex_and_above_half_the_square(self):
        t = np.linspace(0, 1, 10_001)
        value = logistic_consistency_transform(t)
        assert (value >= t**2 / 2).all()
        assert (np.diff(value, 2) > 0).all()

    def test_series_meets_the_formula(self):
        t = np.array([9.999e-4, 1.0001e-3])
        formula = (xlogy(1 + t, 1 + t) + xlogy(1 - t, 1 - t)) / 2
        np.testing.assert_allclose(logistic_consistency_transform(t), formula, rtol=1e-9)
        assert logistic_consistency_transform(1e-9) == pytest.approx(5e-19, rel=1e-12)

    @pytest.mark.parametrize("gap", [1e-6, 0.01, 0.3, 0.9, 0.999])
    def test_a_tie_of_two_classes_attains_the_bound(self, gap):
        p = np.array([(1 + gap) / 2, (1 - gap) / 2])
        divergence = float(p @ (np.log1p([gap, -gap])))  # against tied scores, softmax 1/2
        assert zero_one_excess_bound(divergence) == pytest.approx(gap, rel=1e-6)

    def test_no_point_violates_the_transform(self):
        generator = np.random.default_rng(0)
        p = generator.dirichlet(np.full(5, 0.5), 20_000)
        scores = generator.standard_normal((20_000, 5))
        divergence = (xlogy(p, p) - p * log_softmax(scores, axis=1)).sum(axis=1)
        gap = p.max(axis=1) - p[np.arange(20_000), scores.argmax(axis=1)]
        assert (logistic_consistency_transform(gap) <= divergence).all()

    @pytest.mark.parametrize("excess", [1e-14, 1e-3, 0.2, 0.69])
    def test_exact_form_inverts_the_transform_and_is_below_the_square_root(self, excess):
        bound = zero_one_excess_bound(excess)
        assert logistic_consistency_transform(bound) == pytest.approx(excess, rel=1e-9)
        assert bound <= zero_one_excess_bound(excess, form="sqrt")

    def test_bounds_are_capped_at_one(self):
        assert zero_one_excess_bound(np.log(2)) == 1
        assert zero_one_excess_bound(5.0) == 1
        assert zero_one_excess_bound(5.0, form="sqrt") == 1
        assert zero_one_excess_bound(0.0) == 0

    @pytest.mark.parametrize("t", [-0.1, 1.1, np.nan, [0.2, 2.0]])
    def test_t_outside_the_unit_interval(self, t):
        with pytest.raises(ValueError, match=r"t must lie in \[0, 1\], got"):
            logistic_consistency_transform(t)

    @pytest.mark.parametrize("excess", [-1e-9, np.nan])
    def test_negative_excess(self, excess):
        with pytest.raises(ValueError, match="excess_logistic_risk must be at least 0"):
            zero_one_excess_bound(excess)

    def test_unknown_form(self):
        with pytest.raises(ValueError, match="form must be 'exact' or 'sqrt', got 'log2'"):
            zero_one_excess_bound(0.1, form="log2")
