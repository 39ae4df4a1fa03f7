"""Partial correlations of parts against regressions, closed forms and other libraries."""

import numpy as np
import pandas as pd
import pytest
from rankone.datasets import r_table
from rankone.stats import compositional
from rankone.stats.compositional import (
    CompositionalPartialCorrelation,
    alr,
    alr_inv,
    closure,
    clr,
    clr_inv,
    ilr,
    ilr_inv,
    multiple_correlation,
    multiplicative_replacement,
    partial_correlation,
    proportionality,
    residual_correlation,
    symmetric_balance_correlation,
    variation_matrix,
)
from sklearn.base import clone

EXACT = 1e-10  # algebraic identities in float64, condition numbers up to 1e4


def compositions(n=50, parts=5, seed=0):
    """Correlated log-normal parts, closed."""
    generator = np.random.default_rng(seed)
    mixing = np.eye(parts) + 0.5 * generator.standard_normal((parts, parts))
    return closure(np.exp(generator.standard_normal((n, parts)) @ mixing))


X = compositions()
D = X.shape[1]
PAIRS = [(i, j) for i in range(D) for j in range(i + 1, D)]


def of_covariance(open_covariance):
    """R and P of a given covariance of the open logs, by the generic pseudo-inverse."""
    H = np.eye(len(open_covariance)) - 1 / len(open_covariance)
    P = np.linalg.pinv(H @ open_covariance @ H)
    root = np.sqrt(np.diag(P))
    return -P / np.outer(root, root) + 2 * np.eye(len(P)), P


class TestDefinition:
    model = CompositionalPartialCorrelation().fit(X)

    @pytest.mark.parametrize("ref", range(D))
    def test_precision_is_that_of_every_reference(self, ref):
        sigma = np.cov(alr(X, ref), rowvar=False)
        F = np.insert(np.eye(D - 1), ref, -1.0, axis=1)
        np.testing.assert_allclose(
            self.model.precision_, F.T @ np.linalg.inv(sigma) @ F, rtol=EXACT, atol=EXACT
        )

    def test_precision_has_rank_one_less_and_rows_that_cancel(self):
        P = self.model.precision_
        assert np.linalg.matrix_rank(P) == D - 1
        np.testing.assert_allclose(P.sum(axis=1), 0, atol=EXACT * np.abs(P).max())

    def test_covariance_is_that_of_centred_log_ratios(self):
        np.testing.assert_allclose(self.model.covariance_, np.cov(clr(X), rowvar=False), rtol=EXACT)

    @pytest.mark.parametrize(("i", "j"), PAIRS)
    def test_regression_and_precision_agree(self, i, j):
        assert residual_correlation(X, i, j) == pytest.approx(
            self.model.partial_corr_[i, j], abs=EXACT
        )

    @pytest.mark.parametrize("r", [1, 2, 3, 4])
    def test_partial_variance_is_that_of_residuals_for_any_reference(self, r):
        ratios = np.log(X) - np.log(X[:, [r]])
        ratios -= ratios.mean(axis=0)
        others = [k for k in range(D) if k not in (0, r)]
        fit = np.linalg.lstsq(ratios[:, others], ratios[:, 0], rcond=None)[0]
        residual = ratios[:, 0] - ratios[:, others] @ fit
        assert residual @ residual / (len(X) - 1) == pytest.approx(self.model.partial_var_[0])
        assert self.model.partial_var_[0] <= ratios[:, 0] @ ratios[:, 0] / (len(X) - 1)

    def test_sum_rule_gives_every_part_a_positive_partner(self):
        R, pv = self.model.partial_corr_, self.model.partial_var_
        off = R - np.eye(D)
        np.testing.assert_allclose((off / np.sqrt(pv)).sum(axis=1), 1 / np.sqrt(pv), rtol=EXACT)
        assert (off.max(axis=1) > 0).all()

    def test_three_parts_condition_on_the_third(self):
        three = compositions(parts=3)
        R, _ = partial_correlation(three)
        a, b = np.log(three[:, 0] / three[:, 2]), np.log(three[:, 1] / three[:, 2])
        assert R[0, 1] == pytest.approx(np.corrcoef(a, b)[0, 1], abs=EXACT)

    def test_controls_give_the_subcomposition(self):
        R, _ = partial_correlation(X[:, [0, 1, 3, 4]])
        assert residual_correlation(X, 0, 1, controls=[3, 4]) == pytest.approx(R[0, 1], abs=EXACT)
        a, b = np.log(X[:, 0] / X[:, 3]), np.log(X[:, 1] / X[:, 3])
        assert residual_correlation(X, 0, 1, controls=3) == pytest.approx(np.corrcoef(a, b)[0, 1])

    def test_a_subcomposition_has_other_partial_correlations(self):
        R, _ = partial_correlation(X[:, :4])
        assert np.abs(R - self.model.partial_corr_[:4, :4]).max() > 0.01


class TestInvariance:
    R, pv = partial_correlation(X)

    def check(self, table, R=None, pv=None):
        found, variance = partial_correlation(table)
        np.testing.assert_allclose(found, self.R if R is None else R, atol=EXACT)
        np.testing.assert_allclose(variance, self.pv if pv is None else pv, rtol=EXACT)

    def test_rows_have_no_scale(self):
        self.check(X * np.random.default_rng(1).uniform(0.1, 100, (len(X), 1)))

    def test_parts_have_no_unit(self):
        self.check(X * np.array([1, 1e6, 1e-3, 7, 55.85]))

    def test_order_of_parts(self):
        order = [3, 0, 4, 1, 2]
        self.check(X[:, order], self.R[np.ix_(order, order)], self.pv[order])

    @pytest.mark.parametrize("power", [2.0, -0.5])
    def test_powers(self, power):
        self.check(X**power, pv=self.pv * power**2)


class TestClosedForms:
    def test_independent_open_parts_are_positively_related(self):
        R, _ = of_covariance(np.eye(6))
        np.testing.assert_allclose(R[np.triu_indices(6, 1)], 1 / 5)
        found = compositional._precision(np.eye(6) - 1 / 6, range(6))
        np.testing.assert_allclose(compositional._correlation_of(found), R, atol=1e-12)

    def test_precision_of_independent_parts_of_unequal_variance(self):
        v = np.array([1e-6, 0.3, 1.0, 2.0, 1e4])
        H = np.eye(5) - 0.2
        closed = np.diag(1 / v) - np.outer(1 / v, 1 / v) / (1 / v).sum()
        found = compositional._precision(H @ np.diag(v) @ H, range(5))
        scale = np.sqrt(np.diag(closed))
        # Rounding of Gamma itself, whose entries reach 1e4 where a variance is 1e-6.
        np.testing.assert_allclose(
            found / scale / scale[:, None], closed / scale / scale[:, None], atol=2e-5
        )

    def test_a_pseudo_inverse_with_a_cut_off_would_drop_real_directions(self):
        v = np.array([1e-9, 1.0, 1.0, 1e8])
        H = np.eye(4) - 0.25
        gamma = H @ np.diag(v) @ H
        cut = np.linalg.pinv(gamma, rcond=1e-7)
        assert np.linalg.matrix_rank(cut) < 3
        assert np.linalg.matrix_rank(compositional._precision(gamma, range(4)), tol=1e-12) == 3


class TestAgainstOtherLibraries:
    def test_transforms_of_scikit_bio(self):
        other = pytest.importorskip("skbio.stats.composition")
        np.testing.assert_allclose(closure(3 * X), other.closure(3 * X), rtol=1e-12)
        np.testing.assert_allclose(clr(X), other.clr(X), atol=1e-12)
        np.testing.assert_allclose(clr_inv(clr(X)), other.clr_inv(other.clr(X)), atol=1e-12)
        for ref in (0, 2):
            np.testing.assert_allclose(alr(X, ref), other.alr(X, ref), atol=1e-12)
            np.testing.assert_allclose(alr_inv(alr(X, ref), ref), X, atol=1e-12)
        # Bases of the two libraries are the same up to signs.
        np.testing.assert_allclose(np.abs(ilr(X)), np.abs(other.ilr(X)), atol=1e-12)
        np.testing.assert_allclose(ilr_inv(ilr(X)), X, atol=1e-12)

    def test_multiplicative_replacement_of_composition_stats(self):
        other = pytest.importorskip("composition_stats")
        table = X.copy()
        table[table < 0.05] = 0
        np.testing.assert_allclose(
            multiplicative_replacement(table, 0.01),
            other.multiplicative_replacement(closure(table), 0.01),
            atol=1e-12,
        )

    @pytest.mark.parametrize("ref", [0, 3])
    def test_pcorr_of_log_ratios_gives_the_block_without_the_reference(self, ref):
        pytest.importorskip("pingouin")
        found = pd.DataFrame(alr(X, ref)).pcorr().to_numpy()
        R, _ = partial_correlation(X)
        np.testing.assert_allclose(
            found, np.delete(np.delete(R, ref, axis=0), ref, axis=1), atol=EXACT
        )

    @pytest.mark.filterwarnings("ignore")
    def test_pcorr_of_centred_log_ratios_does_not(self):
        pytest.importorskip("pingouin")
        found = pd.DataFrame(clr(X)).pcorr().to_numpy()
        R, _ = partial_correlation(X)
        assert np.abs(found - R).max() > 0.01

    @pytest.mark.parametrize(("i", "j"), [(0, 1), (2, 4)])
    def test_t_and_p_are_those_of_a_regression(self, i, j):
        api = pytest.importorskip("statsmodels.api")
        table = CompositionalPartialCorrelation().fit(X).inference()
        row = table[(table.part_i == i) & (table.part_j == j)].iloc[0]
        r, *others = (k for k in range(D) if k not in (i, j))
        ratios = np.log(X) - np.log(X[:, [r]])
        fit = api.OLS(ratios[:, i], api.add_constant(ratios[:, [j, *others]])).fit()
        assert row.t == pytest.approx(fit.tvalues[1], rel=1e-9)
        assert row.p_value == pytest.approx(fit.pvalues[1], rel=1e-9)
        assert fit.df_resid == CompositionalPartialCorrelation().fit(X).dof_ == len(X) - D + 1


class TestPublishedTables:
    """Values computed once from the tables themselves, quoted in three digits."""

    def test_roman_pottery(self):
        frame = r_table("heplots", "Pottery2").frame.drop(columns=["Region", "Site", "Kiln"])
        model = CompositionalPartialCorrelation().fit(frame)
        R = pd.DataFrame(model.partial_corr_, frame.columns, frame.columns)
        for pair, value in {("Al", "Ba"): 0.841, ("Al", "Mn"): -0.564, ("Al", "Fe"): 0.268}.items():
            assert R.loc[pair] == pytest.approx(value, abs=5e-4)
        assert np.corrcoef(np.log(frame.Al), np.log(frame.Fe))[0, 1] < -0.2

    def test_skye(self):
        R, pv = partial_correlation(r_table("MASS", "Skye").frame)
        np.testing.assert_allclose(R[[0, 0, 1], [1, 2, 2]], [0.9820, -0.9150, 0.9748], atol=5e-5)
        np.testing.assert_allclose(pv, [0.0409, 0.0125, 0.0570], atol=5e-5)


class TestShrinkage:
    few = compositions(n=12, parts=20, seed=3)

    def test_no_shrinkage_is_the_empirical_estimate(self):
        found = CompositionalPartialCorrelation(covariance="basis_shrinkage", shrinkage=0).fit(X)
        exact = CompositionalPartialCorrelation().fit(X)
        np.testing.assert_allclose(found.covariance_, exact.covariance_, atol=1e-12)
        np.testing.assert_allclose(found.partial_corr_, exact.partial_corr_, atol=EXACT)

    def test_full_shrinkage_has_independent_open_parts(self):
        found = CompositionalPartialCorrelation(covariance="basis_shrinkage", shrinkage=1).fit(X)
        expected, _ = of_covariance(np.diag(np.log(X).var(axis=0, ddof=1)))
        np.testing.assert_allclose(found.partial_corr_, expected, atol=EXACT)

    def test_more_parts_than_rows(self):
        model = CompositionalPartialCorrelation(covariance="basis_shrinkage").fit(self.few)
        assert 0 < model.shrinkage_ < 1
        R = model.partial_corr_
        np.testing.assert_array_equal(R, R.T)
        assert (np.abs(R) <= 1).all()
        np.testing.assert_allclose(model.covariance_.sum(axis=1), 0, atol=1e-12)

    def test_automatic_intensity_is_the_ratio_of_the_formula(self):
        model = CompositionalPartialCorrelation(covariance="basis_shrinkage").fit(self.few)
        logs = np.log(closure(self.few))
        z = (logs - logs.mean(axis=0)) / logs.std(axis=0, ddof=1)
        n, above, below = len(z), 0.0, 0.0
        for i in range(z.shape[1]):
            for j in range(z.shape[1]):
                if i != j:
                    w = z[:, i] * z[:, j]
                    above += n / (n - 1) ** 3 * np.square(w - w.mean()).sum()
                    below += (w.sum() / (n - 1)) ** 2
        assert model.shrinkage_ == pytest.approx(min(1, above / below), rel=1e-10)

    def test_there_is_no_t_law(self):
        model = CompositionalPartialCorrelation(covariance="basis_shrinkage").fit(self.few)
        with pytest.raises(ValueError, match="shrunk estimates have no t law"):
            model.inference()


class TestTables:
    names = ("Al", "Fe", "Mg", "Ca", "Na")

    def test_frames_give_their_names(self):
        model = CompositionalPartialCorrelation().fit(pd.DataFrame(X, columns=list(self.names)))
        table = model.inference()
        assert table.columns.tolist() == [
            "part_i", "part_j", "r", "t", "p_value", "p_adjusted", "ci_low", "ci_high"
        ]  # fmt: skip
        assert table.part_i.tolist() == [self.names[i] for i, _ in PAIRS]
        assert table.part_j.tolist() == [self.names[j] for _, j in PAIRS]
        assert model.feature_names_in_.tolist() == list(self.names)

    def test_intervals_are_fishers(self):
        table = CompositionalPartialCorrelation().fit(X).inference(alpha=0.1)
        half = 1.6448536269514722 / np.sqrt(len(X) - D)
        np.testing.assert_allclose(np.arctanh(table.ci_high) - np.arctanh(table.r), half)
        np.testing.assert_allclose(np.arctanh(table.r) - np.arctanh(table.ci_low), half)

    def test_graphs(self):
        model = CompositionalPartialCorrelation().fit(X)
        by_size = model.graph(threshold=0.3)
        np.testing.assert_array_equal(
            by_size, (np.abs(model.partial_corr_) >= 0.3) & ~np.eye(D, dtype=bool)
        )
        by_level = model.graph(alpha=0.05)
        np.testing.assert_array_equal(by_level, by_level.T)
        assert by_level.sum() == 2 * (model.inference().p_adjusted < 0.05).sum()
        assert not by_level.diagonal().any()

    def test_clones_and_numbers_do_not_depend_on_y(self):
        model = CompositionalPartialCorrelation(covariance="basis_shrinkage", shrinkage=0.2)
        np.testing.assert_array_equal(
            clone(model).fit(X).partial_corr_, clone(model).fit(X, np.ones(len(X))).partial_corr_
        )

    def test_plot_labels_the_parts(self):
        from matplotlib.figure import Figure

        axes = Figure().add_subplot()
        model = CompositionalPartialCorrelation().fit(pd.DataFrame(X, columns=list(self.names)))
        assert model.plot(axes) is axes
        assert [label.get_text() for label in axes.get_xticklabels()] == list(self.names)


class TestComparisonCoefficients:
    def test_variation_matrix(self):
        found = variation_matrix(X)
        for i, j in PAIRS:
            assert found[i, j] == pytest.approx(np.var(np.log(X[:, i] / X[:, j]), ddof=1))

    def test_proportionality(self):
        C = clr(X)
        for i, j in PAIRS:
            a, b = C[:, i], C[:, j]
            rho = 1 - np.var(a - b) / (np.var(a) + np.var(b))
            phi = np.var(a - b) / np.var(a + b)
            assert proportionality(X)[i, j] == pytest.approx(rho, abs=EXACT)
            assert proportionality(X, "phi_s")[i, j] == pytest.approx(phi, rel=1e-9)

    def test_symmetric_balances_are_orthonormal_coordinates(self):
        # Symmetric pivot coordinates written out as balances of part i and part j.
        found = symmetric_balance_correlation(X)
        gram = np.array([[1 - 1 / D, -1 / D], [-1 / D, 1 - 1 / D]])
        values, vectors = np.linalg.eigh(gram)
        root = vectors @ np.diag(values**-0.5) @ vectors.T
        for i, j in PAIRS:
            coordinates = clr(X)[:, [i, j]] @ root
            assert found[i, j] == pytest.approx(np.corrcoef(coordinates.T)[0, 1], abs=EXACT)

    def test_multiple_correlation_depends_on_the_reference(self):
        for ref in (0, 2):
            found = multiple_correlation(X, ref)
            assert np.isnan(found[ref])
            assert ((found >= 0) & (found <= 1))[np.arange(D) != ref].all()
            ratios = np.delete(np.log(X) - np.log(X[:, [ref]]), ref, axis=1)
            ratios -= ratios.mean(axis=0)
            _, rest, *_ = np.linalg.lstsq(ratios[:, 1:], ratios[:, 0], rcond=None)
            first = 1 if ref == 0 else 0
            assert found[first] == pytest.approx(1 - rest[0] / (ratios[:, 0] @ ratios[:, 0]))
        a, b = multiple_correlation(X, 0), multiple_correlation(X, 2)
        assert np.abs(a - b)[[1, 3, 4]].max() > 0.01


class TestBadInput:
    @pytest.mark.parametrize(
        ("table", "message"),
        [
            (np.ones(5), "2D array"),
            (np.where(X > 0.5, np.nan, X), "NaN"),
            (np.where(X.max() == X, np.inf, X), "infinity"),
            (-X, "parts of at least 0, got negative values"),
            (np.where(X.max() == X, 0, X), "1 zero parts: give zero_replacement"),
            (X[:, :2], "2 feature"),
            (X[:5], "5 rows and 5 parts; use covariance='basis_shrinkage'"),
            (X[:1], "1 sample"),
            (np.column_stack((X, 2 * X[:, 1])), "constant ratio of parts 1 and 5"),
            (np.column_stack((X, np.sqrt(X[:, 0] * X[:, 1]))), r"collinear parts \[0, 1, 5\]"),
        ],
    )
    def test_tables(self, table, message):
        with pytest.raises(ValueError, match=message):
            CompositionalPartialCorrelation().fit(table)

    @pytest.mark.parametrize(
        ("parameters", "message"),
        [
            ({"covariance": "ridge"}, "covariance must be 'empirical' or 'basis_shrinkage'"),
            ({"zero_replacement": 0.5}, r"delta must lie in \(0, 1/D\) = \(0, 0.2\), got 0.5"),
            ({"covariance": "basis_shrinkage", "shrinkage": 1.5}, "a number in .0, 1., got 1.5"),
            ({"covariance": "basis_shrinkage", "shrinkage": "ml"}, "shrinkage must be 'auto'"),
        ],
    )
    def test_parameters(self, parameters, message):
        with pytest.raises(ValueError, match=message):
            CompositionalPartialCorrelation(**parameters).fit(X)

    def test_zeros_are_replaced_only_when_asked(self):
        table = np.where(X < 0.02, 0, X)
        found = CompositionalPartialCorrelation(zero_replacement=0.005).fit(table)
        expected = CompositionalPartialCorrelation().fit(multiplicative_replacement(table, 0.005))
        np.testing.assert_array_equal(found.partial_corr_, expected.partial_corr_)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((1, 1, None), "i and j must differ, got 1"),
            ((0, 9, None), "j must be the index of one of 5 parts, got 9"),
            ((0, 1, []), "controls must name at least one part"),
            ((0, 1, [1, 2]), "neither i nor j"),
            ((0, 1, [2, 2]), "each once"),
        ],
    )
    def test_residual_correlation(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            residual_correlation(X, *arguments)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({}, "either threshold or alpha"),
            ({"threshold": 0.1, "alpha": 0.1}, "either threshold or alpha"),
            ({"threshold": 2.0}, r"threshold must lie in \[0, 1\], got 2.0"),
            ({"alpha": 0.0}, r"alpha must lie in \(0, 1\), got 0.0"),
        ],
    )
    def test_graph(self, options, message):
        with pytest.raises(ValueError, match=message):
            CompositionalPartialCorrelation().fit(X).graph(**options)

    def test_other_functions(self):
        with pytest.raises(ValueError, match="metric must be 'rho_p' or 'phi_s', got 'rho'"):
            proportionality(X, metric="rho")
        with pytest.raises(ValueError, match="ref must be the index of one of 5 parts, got 5"):
            alr(X, ref=5)
        with pytest.raises(ValueError, match="got a row of zeros"):
            closure([[0.0, 0.0]])
        with pytest.raises(ValueError, match="strictly positive, got 1 zero"):
            clr([[0.0, 1.0]])
        with pytest.raises(ValueError, match="name must be a data set of the R package MASS"):
            r_table("MASS", "nothing")
