"""Mutual information against closed forms, brute-force densities, and scikit-learn's rules."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from joblib import parallel_config
from rankone.stats.mutual_info import (
    MutualInfoScreener,
    _isj,
    birge_rozenholc_bins,
    linfoot,
    mutual_info_binning,
    mutual_info_kde,
)
from sklearn.base import clone
from sklearn.feature_selection import mutual_info_regression
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks


@parametrize_with_checks([MutualInfoScreener(), MutualInfoScreener("pearson")])
def test_scikit_learn_conventions(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(estimator)


def gaussian_pair(n, rho, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(n)
    return x, rho * x + np.sqrt(1 - rho**2) * rng.standard_normal(n)


class TestKde:
    # Means of five runs that the estimate is known for, and the truth it tends to.
    @pytest.mark.parametrize(
        ("n", "expected"),
        [(500, (0.028, 0.157, 0.423, 0.794)), (10_000, (0.007, 0.144, 0.478, 1.010))],
    )
    def test_gaussian_pairs(self, n, expected):
        for rho, value in zip((0.0, 0.5, 0.8, 0.95), expected, strict=True):
            runs = [mutual_info_kde(*gaussian_pair(n, rho, seed)) for seed in range(5)]
            assert np.mean(runs) == pytest.approx(value, abs=0.03)

    def test_bias_falls_with_n(self):
        truth = -0.5 * np.log(1 - 0.8**2)
        errors = [abs(mutual_info_kde(*gaussian_pair(n, 0.8)) - truth) for n in (300, 3000, 30_000)]
        assert errors == sorted(errors, reverse=True)

    def test_symmetric_and_affine_invariant(self):
        x, y = gaussian_pair(700, 0.7)
        value = mutual_info_kde(x, y)
        assert mutual_info_kde(y, x) == pytest.approx(value, abs=1e-9)
        assert mutual_info_kde(1e6 - 1e4 * x, 3e-5 * y) == pytest.approx(value, abs=1e-3)

    @pytest.mark.parametrize("kernel", ["epanechnikov", "gaussian"])
    def test_agrees_with_the_density_summed_point_by_point(self, kernel):
        """O(n G^2) sums of the product kernel on the same grid: binning is the only difference."""
        x, y = gaussian_pair(60, 0.6)
        G = 128
        value = mutual_info_kde(x, y, n_grid=G, kernel=kernel, bw_multiplier=1.5)

        def side(v):
            spread = min(v.std(ddof=1), np.subtract(*np.quantile(v, (0.75, 0.25))) / 1.349)
            h = 1.5 * 0.9 * spread * 60**-0.2
            reach = (np.sqrt(5) if kernel == "epanechnikov" else 4.0) * h
            grid = np.linspace(v.min() - reach, v.max() + reach, G)
            u = (grid[:, None] - v) / h
            if kernel == "epanechnikov":
                return np.where(np.abs(u) <= np.sqrt(5), 1 - u**2 / 5, 0)
            return np.where(np.abs(u) <= 4, np.exp(-(u**2) / 2), 0)

        P = side(x) @ side(y).T
        P /= P.sum()
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = P * np.log(P / np.outer(P.sum(axis=1), P.sum(axis=0)))
        assert value == pytest.approx(np.nansum(terms), rel=0.02)

    def test_bandwidths_reach_the_kernel(self):
        x, y = gaussian_pair(500, 0.9)
        values = [mutual_info_kde(x, y, bw_multiplier=factor) for factor in (0.3, 1, 3, 10)]
        assert values == sorted(values, reverse=True)
        assert values[0] > 3 * values[-1]
        assert mutual_info_kde(x, y, bandwidth=0.2) > mutual_info_kde(x, y, bandwidth=1.0)
        assert mutual_info_kde(x, y, bandwidth="scott") < values[1]

    def test_nonlinear_dependence_counts(self):
        x = np.random.default_rng(0).standard_normal(2000)
        assert mutual_info_kde(x, x**2) > 0.8
        assert abs(np.corrcoef(x, x**2)[0, 1]) < 0.1

    def test_constant_input_has_no_information(self):
        x = np.arange(20.0)
        assert mutual_info_kde(x, np.ones(20)) == 0.0
        assert mutual_info_kde(np.ones(20), x) == 0.0
        assert mutual_info_kde(x, np.ones(20, dtype=int)) == 0.0

    def test_values_that_half_coincide_still_have_a_bandwidth(self):
        rng = np.random.default_rng(0)
        x = np.where(rng.random(500) < 0.8, 0.0, rng.standard_normal(500))
        assert mutual_info_kde(x, x + 0.1 * rng.standard_normal(500)) > 0.1

    def test_linfoot_is_the_correlation_of_gaussian_pairs(self):
        rho = np.array([0.0, 0.3, 0.99])
        np.testing.assert_allclose(linfoot(-0.5 * np.log(1 - rho**2)), rho, atol=1e-12)


class TestDiscreteTarget:
    def test_two_shifted_normals(self):
        """Against the integral of the mixture's entropies."""
        rng = np.random.default_rng(0)
        y = rng.integers(0, 2, 20_000)
        x = rng.standard_normal(20_000) + 2 * y
        grid = np.linspace(-8, 10, 20_001)
        f = np.exp(-((grid[:, None] - [0, 2]) ** 2) / 2) / np.sqrt(2 * np.pi)
        mixture = f.mean(axis=1)
        truth = np.sum(0.5 * f * np.log((f + 1e-300) / mixture[:, None])) * (grid[1] - grid[0])
        assert mutual_info_kde(x, y) == pytest.approx(truth, abs=0.01)
        assert mutual_info_kde(x, y.astype(float), discrete_target=True) == mutual_info_kde(x, y)
        assert mutual_info_kde(x, np.where(y, "a", "b")) == pytest.approx(mutual_info_kde(x, y))
        assert mutual_info_kde(x, y.astype(bool)) == pytest.approx(mutual_info_kde(x, y))

    def test_a_perfect_split_has_the_entropy_of_the_classes(self):
        y = np.repeat([0, 1, 2], 50)
        x = 100.0 * y + np.random.default_rng(0).standard_normal(150)
        assert mutual_info_kde(x, y) == pytest.approx(np.log(3), abs=1e-6)
        assert mutual_info_kde(100.0 * y, y) == pytest.approx(np.log(3), abs=1e-6)

    def test_small_classes_are_dropped_with_a_warning(self):
        rng = np.random.default_rng(0)
        y = np.r_[np.repeat([0, 1], 50), [7, 7]]
        x = rng.standard_normal(102) + y
        with pytest.warns(UserWarning, match="fewer than 3 rows are dropped: 7"):
            value = mutual_info_kde(x, y)
        assert value == pytest.approx(mutual_info_kde(x[:100], y[:100]))


class TestBandwidths:
    def test_improved_sheather_jones(self):
        widths = [_isj(np.random.default_rng(seed).standard_normal(2000)) for seed in range(8)]
        assert np.mean(widths) == pytest.approx(0.241, abs=0.012)
        rng = np.random.default_rng(0)
        two = np.r_[rng.normal(-4, 0.5, 1000), rng.normal(4, 0.5, 1000)]
        assert _isj(two) == pytest.approx(0.141, abs=0.01)
        assert _isj(1000 * two) == pytest.approx(1000 * _isj(two), rel=1e-6)

    def test_no_fixed_point_warns_and_takes_silverman(self, monkeypatch):
        monkeypatch.setattr("rankone.stats.mutual_info._isj", lambda x: None)
        x, y = gaussian_pair(100, 0.5)
        with pytest.warns(UserWarning, match="no fixed point here"):
            value = mutual_info_kde(x, y, bandwidth="isj")
        assert value == mutual_info_kde(x, y)


class TestBinning:
    def test_uniform_takes_one_bin_and_separated_modes_more(self):
        assert birge_rozenholc_bins(np.linspace(0, 1, 1000)) == 1
        rng = np.random.default_rng(0)
        two = np.r_[rng.normal(-5, 0.3, 500), rng.normal(5, 0.3, 500)]
        chosen = birge_rozenholc_bins(two)
        assert chosen > 3
        # The criterion, bin by bin.
        scores = []
        for D in range(1, 101):
            counts = np.histogram(two, bins=D)[0]
            fit = sum(c * np.log(c * D / 1000) for c in counts if c)
            scores.append(fit - (D - 1 + np.log(D) ** 2.5))
        assert chosen == int(np.argmax(scores)) + 1
        assert birge_rozenholc_bins(np.ones(5)) == 1

    def test_plug_in_of_a_table(self):
        y = np.r_[np.zeros(60, int), np.ones(40, int)]
        x = np.r_[np.zeros(58), np.ones(2), np.zeros(27), np.ones(13)]
        P = np.array([[58, 27], [2, 13]]) / 100
        expected = np.sum(P * np.log(P / np.outer(P.sum(axis=1), P.sum(axis=0))))
        assert mutual_info_binning(x, y, max_bins=2) == pytest.approx(expected)


class TestScreener:
    @pytest.fixture
    def data(self):
        X = np.random.default_rng(0).standard_normal((300, 66))
        y = X[:, 5] ** 2 + 0.7 * X[:, 60] + 0.3 * np.random.default_rng(1).standard_normal(300)
        return X, y

    def test_scores_are_those_of_single_pairs(self, data):
        X, y = data
        for name, function in (("kde", mutual_info_kde), ("binning", mutual_info_binning)):
            scores = MutualInfoScreener(name).fit(X, y).scores_
            expected = [function(x, y) for x in X.T[::13]]
            np.testing.assert_allclose(scores[::13], expected, atol=1e-10)
        r = np.array([np.corrcoef(x, y)[0, 1] for x in X.T])
        np.testing.assert_allclose(
            MutualInfoScreener("pearson").fit(X, y).scores_, -np.log(1 - r**2) / 2, atol=1e-10
        )
        knn = MutualInfoScreener("knn", random_state=0).fit(X, y).scores_
        np.testing.assert_array_equal(knn, mutual_info_regression(X, y, random_state=0))

    def test_finds_what_correlation_misses(self, data):
        X, y = data
        kde = MutualInfoScreener(n_features_to_select=2).fit(X, y)
        assert set(kde.get_support(indices=True)) == {5, 60}
        assert 5 not in MutualInfoScreener("pearson").fit(X, y).ranking_[:1]
        np.testing.assert_array_equal(kde.ranking_, np.argsort(-kde.scores_, kind="stable"))
        np.testing.assert_allclose(kde.linfoot_, linfoot(kde.scores_))

    def test_jobs_do_not_change_numbers(self, data):
        X, y = data
        with parallel_config(backend="threading"):
            two = MutualInfoScreener(n_jobs=2).fit(X, y).scores_
        np.testing.assert_array_equal(two, MutualInfoScreener().fit(X, y).scores_)

    def test_threshold_and_redundancy(self, data):
        X, y = data
        X = np.column_stack([X, X[:, 5] + 1e-3])
        scores = MutualInfoScreener().fit(X, y).scores_
        kept = MutualInfoScreener(threshold=0.1).fit(X, y).get_support()
        np.testing.assert_array_equal(kept, scores >= 0.1)
        clumped = MutualInfoScreener(n_features_to_select=3, redundancy_threshold=0.5).fit(X, y)
        chosen = clumped.get_support(indices=True)
        assert len({5, 66} & set(chosen)) == 1
        assert len(chosen) == 3

    def test_classes_and_frames_and_pipelines(self, data):
        X, y = data
        frame = pd.DataFrame(X, columns=[f"gene {j}" for j in range(66)])
        screener = MutualInfoScreener(n_features_to_select=2).set_output(transform="pandas")
        assert "gene 5" in screener.fit(frame, y > 1).transform(frame).columns
        assert "gene 5" in str(screener.summary(3))
        search = GridSearchCV(
            make_pipeline(MutualInfoScreener(), LinearRegression()),
            {"mutualinfoscreener__n_features_to_select": [1, 2]},
            cv=3,
        ).fit(frame, y)
        again = pickle.loads(pickle.dumps(search.best_estimator_))
        np.testing.assert_array_equal(again.predict(frame), search.predict(frame))
        assert clone(screener).n_features_to_select == 2

    def test_constant_columns_score_zero(self, data):
        X, y = data
        X = np.column_stack([X[:, :3], np.full(300, 4.0)])
        for name in ("kde", "binning", "pearson"):
            assert MutualInfoScreener(name).fit(X, y).scores_[3] == 0

    def test_plot_fills_the_selected_bars(self, data):
        ax = MutualInfoScreener(n_features_to_select=2).fit(*data).plot(n_bars=4)
        assert [bar.get_fill() for bar in ax.patches] == [True, True, False, False]


class TestErrors:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"n_grid": 8}, "n_grid must be an integer of at least 16"),
            ({"bandwidth": 0.0}, "bandwidth must be finite and above 0"),
            ({"bandwidth": "plugin"}, "bandwidth must be 'silverman', 'scott', 'isj' or a number"),
            ({"bw_multiplier": -1.0}, "bw_multiplier must be finite and above 0"),
            ({"kernel": "box"}, "kernel must be one of epanechnikov, gaussian"),
        ],
    )
    def test_options(self, options, message):
        x = np.arange(20.0)
        with pytest.raises(ValueError, match=message):
            mutual_info_kde(x, x, **options)
        with pytest.raises(ValueError, match=message):
            MutualInfoScreener(**options).fit(x[:, None], x)

    def test_values(self):
        x = np.arange(20.0)
        for function in (mutual_info_kde, mutual_info_binning):
            with pytest.raises(ValueError, match="x and y must have one length, got 20 and 19"):
                function(x, x[1:])
            with pytest.raises(ValueError, match="y must be finite, got NaN or infinity"):
                function(x, np.where(x == 3, np.nan, x))
            with pytest.raises(ValueError, match="x must hold at least 10 values, got 9"):
                function(x[:9], x[:9])
            with pytest.raises(ValueError, match="x must have one dimension"):
                function(x[:, None], x)
        with pytest.raises(ValueError, match="max_bins must be an integer of at least 1"):
            birge_rozenholc_bins(x, 0)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"estimator": "hist"}, "estimator must be one of kde"),
            ({"discrete_target": "maybe"}, "discrete_target must be 'auto', True or False"),
            ({"n_features_to_select": 0}, "n_features_to_select must be an integer of at least 1"),
            ({"threshold": np.nan}, "threshold must be finite or None"),
        ],
    )
    def test_screener(self, options, message):
        X = np.random.default_rng(0).standard_normal((20, 3))
        with pytest.raises(ValueError, match=message):
            MutualInfoScreener(**options).fit(X, X[:, 0])
        with pytest.raises(ValueError, match="minimum of 10 is required"):
            MutualInfoScreener().fit(X[:9], X[:9, 0])
        with pytest.raises(ValueError, match="pearson needs a numeric target or two classes"):
            MutualInfoScreener("pearson").fit(X, np.array(list("abcd") * 5))
