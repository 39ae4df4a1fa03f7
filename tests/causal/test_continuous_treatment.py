"""Semiparametric dose response against brute-force kernel sums, closed forms and known truths."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from joblib import parallel_config
from rankone.causal import _link_surface, _two_scores
from rankone.causal.continuous_treatment import SemiparametricDoseResponse
from scipy.special import expit
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

BETA = np.array([1.0, -0.8, 0.5, 0.0]) / np.linalg.norm([1.0, -0.8, 0.5])
GAMMA = np.array([0.6, 0.0, -0.5, 0.0])  # the last covariate enters nothing
ROUNDING = 1e-10  # sums of a few hundred float64 terms, relative
SAME_FIT = 1e-5  # two runs of L-BFGS on one problem in different units


def outcomes(n, seed=0, link=lambda u, v: 1 + 1.2 * u - (v - 0.3) ** 2):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 4))
    treatment = 0.5 * X @ GAMMA + rng.standard_normal(n)
    probability = expit(link(X @ BETA, treatment - X @ GAMMA))
    return X, treatment, (rng.random(n) < probability).astype(float)


X, T, Y = outcomes(300)


@pytest.fixture(scope="module")
def model():
    return SemiparametricDoseResponse(max_iter=30).fit(X, T, Y)


def brute_force(model, u, v, *, leave_out=False):
    """m by the formula, row by row, from the fitted coefficients alone."""
    train_u, train_v = X @ model.coef_prognostic_, T - X @ model.coef_interaction_
    h_u, h_v = model.bandwidth_
    c = model.prior_strength
    out = []
    for i in range(len(u)):
        kernel = np.exp(-(((u[i] - train_u) / h_u) ** 2) / 2 - ((v[i] - train_v) / h_v) ** 2 / 2)
        if leave_out:
            kernel[i] = 0
        out.append((kernel @ Y + c * Y.mean()) / (kernel.sum() + c))
    return np.array(out)


class TestFormula:
    def test_probabilities_are_the_shrunk_kernel_mean_of_the_fitted_scores(self, model):
        new, treatment, _ = outcomes(40, seed=1)
        u, v = new @ model.coef_prognostic_, treatment - new @ model.coef_interaction_
        expected = brute_force(model, u, v)
        probability = model.predict_proba(new, treatment)
        np.testing.assert_allclose(probability[:, 1], expected, rtol=ROUNDING)
        np.testing.assert_allclose(probability.sum(axis=1), 1)
        np.testing.assert_allclose(model.link_surface(u, v), expected, rtol=ROUNDING)
        np.testing.assert_array_equal(model.predict(new, treatment), expected > 0.5)
        np.testing.assert_allclose(model.prognostic_score(new), u)
        np.testing.assert_allclose(model.interaction_score(new, treatment), v)
        assert model.value(new, treatment) == pytest.approx(expected.mean())

    def test_leave_one_out_leaves_the_own_row_out_and_keeps_the_overall_mean(self, model):
        u, v = X @ model.coef_prognostic_, T - X @ model.coef_interaction_
        expected = brute_force(model, u, v, leave_out=True)
        np.testing.assert_allclose(model.loo_predict_proba()[:, 1], expected, rtol=ROUNDING)

    def test_reported_loss_is_that_of_the_leave_one_out_probabilities(self, model):
        assert model.loo_log_loss_ == pytest.approx(
            log_loss(Y, model.loo_predict_proba()[:, 1]), rel=ROUNDING
        )

    def test_reported_loss_has_no_penalty(self):
        penalised = SemiparametricDoseResponse(l2=0.1, max_iter=20).fit(X, T, Y)
        assert penalised.loo_log_loss_ == pytest.approx(
            log_loss(Y, penalised.loo_predict_proba()[:, 1]), rel=ROUNDING
        )
        plain = SemiparametricDoseResponse(max_iter=20).fit(X, T, Y)
        norms = [np.linalg.norm(m.coef_interaction_) for m in (penalised, plain)]
        assert norms[0] < norms[1]

    def test_dose_response_is_the_probability_at_each_treatment(self, model):
        grid = np.linspace(-1, 2, 5)
        curves = model.dose_response(X[:3], grid)
        for j, treatment in enumerate(grid):
            np.testing.assert_allclose(
                curves[:, j], model.predict_proba(X[:3], np.full(3, treatment))[:, 1]
            )

    def test_surface_broadcasts(self, model):
        u, v = np.linspace(-1, 1, 3), np.linspace(-1, 1, 4)
        surface = model.link_surface(u[:, None], v)
        assert surface.shape == (3, 4)
        np.testing.assert_allclose(surface[1, 2], model.link_surface(u[1], v[2]))
        np.testing.assert_allclose(surface, model._link.on_product(u, v), rtol=ROUNDING)

    def test_kernel_mass_says_how_much_data_is_near(self, model):
        u, v = X[:1] @ model.coef_prognostic_, T[:1] - X[:1] @ model.coef_interaction_
        scores = np.column_stack((X @ model.coef_prognostic_, T - X @ model.coef_interaction_))
        squares = np.square((scores - [u[0], v[0]]) / model.bandwidth_).sum(axis=1)
        near, far = model.kernel_mass(X[[0, 0]], [T[0], 100.0])
        assert near == pytest.approx(np.exp(-squares / 2).sum())
        assert far == 0

    def test_scores_have_their_normalisation(self, model):
        assert np.linalg.norm(model.coef_prognostic_) == pytest.approx(1)
        assert np.linalg.norm(model.coef_interaction_) != pytest.approx(1, abs=0.01)


class TestLoss:
    """The loss that is minimised, and its gradient."""

    z = torch.from_numpy(np.random.default_rng(0).standard_normal((14, 2)))
    y = torch.tensor([0.0, 1.0] * 7, dtype=torch.float64)
    weight = torch.from_numpy(np.random.default_rng(1).integers(1, 4, 14).astype(float))

    def loss(self, z, reference, prior_strength=2.0):
        return _two_scores.LeaveOneOutLogLoss.apply(
            z, self.y, self.weight, torch.tensor(reference), prior_strength
        )

    @pytest.mark.parametrize("reference", [list(range(14)), [1, 4, 5, 11]])
    def test_equals_the_formula_with_copies_left_out_together(self, reference):
        z, y, weight = (a.numpy() for a in (self.z, self.y, self.weight))
        mean = weight @ y / weight.sum()
        total = 0.0
        for i in range(14):
            rows = [j for j in reference if j != i]
            kernel = weight[rows] * np.exp(-np.square(z[rows] - z[i]).sum(axis=1) / 2)
            m = (kernel @ y[rows] + 2 * mean) / (kernel.sum() + 2)
            total -= weight[i] * np.log(m if y[i] else 1 - m) / weight.sum()
        assert float(self.loss(self.z, reference)) == pytest.approx(total, rel=ROUNDING)

    @pytest.mark.parametrize("reference", [list(range(14)), [1, 4, 5, 11]])
    @pytest.mark.parametrize("rows_a_block", [3, 100])
    def test_gradient_is_that_of_finite_differences(self, reference, rows_a_block, monkeypatch):
        monkeypatch.setattr(_link_surface, "_BLOCK", rows_a_block * len(reference))
        z = self.z.clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda z: self.loss(z, reference), z)

    def test_gradient_is_finite_where_there_is_neither_mass_nor_prior(self):
        z = (1e6 * self.z).requires_grad_()
        loss = self.loss(z, list(range(14)), 0.0)
        (gradient,) = torch.autograd.grad(loss, z)
        share = float(self.weight @ self.y / self.weight.sum())
        assert float(loss.detach()) == pytest.approx(
            -share * np.log(share) - (1 - share) * np.log1p(-share)
        )
        assert not gradient.any()

    def test_no_kernel_larger_than_a_block_is_held(self, monkeypatch):
        held = []

        plain = _link_surface.gaussian_kernel

        def recorded(rows, reference):
            held.append(len(rows) * len(reference))
            return plain(rows, reference)

        monkeypatch.setattr(_link_surface, "gaussian_kernel", recorded)
        monkeypatch.setattr(_two_scores, "gaussian_kernel", recorded)
        n = 2500
        SemiparametricDoseResponse(max_iter=1, max_reference=300).fit(*outcomes(n))
        assert max(held) <= _link_surface._BLOCK < n * n


class TestInvariance:
    def test_units_change_coefficients_and_not_probabilities(self, model):
        scale, shift = np.array([10.0, 0.01, 3.0, 2.0]), np.array([5.0, -1.0, 100.0, 0.0])
        other = clone(model).fit(X * scale + shift, 7 * T - 20, Y)
        new, treatment, _ = outcomes(50, seed=2)
        np.testing.assert_allclose(
            other.predict_proba(new * scale + shift, 7 * treatment - 20),
            model.predict_proba(new, treatment),
            atol=SAME_FIT,
        )
        np.testing.assert_allclose(
            other.coef_interaction_, model.coef_interaction_ * 7 / scale, rtol=1e-3
        )
        direction = model.coef_prognostic_ / scale
        np.testing.assert_allclose(
            other.coef_prognostic_, direction / np.linalg.norm(direction), atol=SAME_FIT
        )
        np.testing.assert_allclose(
            other.optimal_treatment(new * scale + shift),
            7 * model.optimal_treatment(new) - 20,
            atol=1e-3,
        )

    def test_opposite_outcome_flips_the_prognostic_score_alone(self, model):
        other = clone(model).fit(X, T, 1 - Y)
        np.testing.assert_allclose(other.coef_interaction_, model.coef_interaction_, atol=SAME_FIT)
        np.testing.assert_allclose(other.coef_prognostic_, -model.coef_prognostic_, atol=SAME_FIT)
        np.testing.assert_allclose(
            other.predict_proba(X, T), model.predict_proba(X, T)[:, ::-1], atol=SAME_FIT
        )
        np.testing.assert_allclose(
            other.optimal_treatment(X, maximize=False), model.optimal_treatment(X), atol=SAME_FIT
        )

    def test_higher_prognostic_score_means_a_better_outcome(self, model):
        u, v = X @ model.coef_prognostic_, T - X @ model.coef_interaction_
        step = 0.01
        assert np.mean(model.link_surface(u + step, v) - model.link_surface(u - step, v)) > 0
        assert model.coef_prognostic_ @ BETA > 0.9

    def test_clone_frames_and_pickle(self, model):
        assert clone(model).get_params() == model.get_params()
        frame = pd.DataFrame(X, columns=["age", "weight", "dose", "noise"])
        named = clone(model).fit(frame, pd.Series(T), pd.Series(Y.astype(bool)))
        assert list(named.feature_names_in_) == list(frame.columns)
        assert "age" in str(named.summary())
        again = pickle.loads(pickle.dumps(named))
        np.testing.assert_array_equal(again.predict_proba(frame, T), named.predict_proba(frame, T))

    def test_equal_random_state_gives_equal_fits(self):
        options = {"max_reference": 150, "n_starts": 2, "max_iter": 5}
        first, second, third = (
            SemiparametricDoseResponse(**options, random_state=seed).fit(X, T, Y)
            for seed in (3, 3, 4)
        )
        np.testing.assert_array_equal(first.coef_interaction_, second.coef_interaction_)
        assert (first.coef_interaction_ != third.coef_interaction_).any()

    def test_a_constant_covariate_has_no_coefficients(self):
        padded = np.column_stack((X, np.full(len(X), 3.0)))
        fitted = SemiparametricDoseResponse(max_iter=10, n_starts=2, random_state=0).fit(
            padded, T, Y
        )
        assert fitted.coef_prognostic_[-1] == 0
        assert fitted.coef_interaction_[-1] == 0

    def test_without_standardising_the_truth_is_found_as_well(self):
        plain = SemiparametricDoseResponse(standardize=False, max_iter=30).fit(X, T, Y)
        assert plain.coef_prognostic_ @ BETA > 0.9
        assert np.linalg.norm(plain.coef_interaction_ - GAMMA) < 0.5


class TestBandwidth:
    def test_in_sample_loss_wants_no_bandwidth_and_leave_one_out_does(self, model):
        tight = SemiparametricDoseResponse(bandwidth=0.2 * model.bandwidth_, max_iter=1)
        tight.fit(X, T, Y)
        in_sample = [log_loss(Y, m.predict_proba(X, T)[:, 1]) for m in (tight, model)]
        assert in_sample[0] < in_sample[1]
        assert tight.loo_log_loss_ > model.loo_log_loss_
        deviations = np.std([X @ model.coef_prognostic_, T - X @ model.coef_interaction_], axis=1)
        assert (model.bandwidth_ > 0.5 * len(X) ** (-1 / 6) * deviations * (1 + 1e-6)).all()

    def test_rule_follows_the_final_scores(self):
        ruled = SemiparametricDoseResponse(bandwidth="rule", max_iter=20).fit(10 * X, T, Y)
        deviations = np.std(
            [10 * X @ ruled.coef_prognostic_, T - 10 * X @ ruled.coef_interaction_], axis=1
        )
        np.testing.assert_allclose(ruled.bandwidth_, 1.5 * len(X) ** (-1 / 6) * deviations)

    def test_a_pair_is_held_in_units_of_the_public_scores(self):
        scale = np.array([10.0, 0.1, 1.0, 1.0])
        held = SemiparametricDoseResponse(bandwidth=(0.8, 2.0), max_iter=20)
        held.fit(X * scale, 3 * T, Y)
        assert held.bandwidth_.tolist() == [0.8, 2.0]

        def loss(beta, gamma):
            z = np.column_stack((X * scale @ beta / 0.8, (3 * T - X * scale @ gamma) / 2.0))
            squares = np.square(z[:, None] - z).sum(axis=2)
            kernel = np.exp(-squares / 2) - np.eye(len(z))
            m = (kernel @ Y + 2 * Y.mean()) / (kernel.sum(axis=1) + 2)
            return log_loss(Y, m)

        best = loss(held.coef_prognostic_, held.coef_interaction_)
        assert best == pytest.approx(held.loo_log_loss_, rel=ROUNDING)
        start = loss(held.coef_prognostic_, held.init_interaction_)
        assert best < start

    def test_endless_bandwidths_give_the_overall_mean(self):
        flat = SemiparametricDoseResponse(bandwidth=(1e8, 1e8), max_iter=2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            flat.fit(X, T, Y)
        np.testing.assert_allclose(flat.predict_proba(X, T)[:, 1], Y.mean(), rtol=1e-6)

    @pytest.mark.parametrize("prior_strength", [0, 2.0])
    def test_far_from_data_is_the_overall_mean_and_never_nan(self, prior_strength):
        fitted = SemiparametricDoseResponse(prior_strength=prior_strength, max_iter=5)
        fitted.fit(X, T, Y)
        far = fitted.predict_proba(X[:2] + 1e6, T[:2] - 1e6)
        np.testing.assert_allclose(far[:, 1], Y.mean())
        assert np.isfinite(fitted.loo_predict_proba()).all()

    def test_tiny_bandwidths_do_not_cancel(self):
        tiny = SemiparametricDoseResponse(bandwidth=(1e-9, 1e-9), max_iter=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            tiny.fit(X, T, Y)
        np.testing.assert_allclose(
            tiny.predict_proba(X, T)[:, 1], (Y + 2 * Y.mean()) / 3, rtol=1e-6
        )


class TestRecovery:
    def test_an_irrelevant_covariate_has_coefficients_near_zero(self):
        fitted = SemiparametricDoseResponse(max_iter=30).fit(*outcomes(1000, seed=3))
        assert abs(fitted.coef_prognostic_[3]) < 0.2
        assert abs(fitted.coef_interaction_[3]) < 0.2
        assert fitted.coef_prognostic_ @ BETA > 0.97
        assert fitted.converged_

    def test_start_is_the_vertex_of_a_quadratic_logistic_model(self, model):
        Z, t = (X - X.mean(axis=0)) / X.std(axis=0), ((T - T.mean()) / T.std())[:, None]
        logistic = LogisticRegression(C=10, max_iter=1000)
        coefficients = logistic.fit(np.hstack((Z, t, t**2, Z * t)), Y).coef_[0]
        gamma = np.clip(-coefficients[6:] / (2 * coefficients[5]), -3, 3)
        np.testing.assert_allclose(
            model.init_interaction_, gamma * T.std() / X.std(axis=0), rtol=1e-6
        )

    def test_further_starts_never_lose(self):
        options = {"max_iter": 8, "random_state": 0}
        one = SemiparametricDoseResponse(**options).fit(X, T, Y)
        three = SemiparametricDoseResponse(n_starts=3, **options).fit(X, T, Y)
        assert three.loo_log_loss_ <= one.loo_log_loss_ + 1e-12

    def test_shrinkage_steadies_the_interaction(self):
        def mean_error(prior_strength):
            model = SemiparametricDoseResponse(prior_strength=prior_strength, max_iter=15)
            gammas = [model.fit(*outcomes(250, seed)).coef_interaction_ for seed in range(10, 14)]
            return np.mean(np.linalg.norm(np.array(gammas) - GAMMA, axis=1))

        assert mean_error(2.0) < mean_error(0.1)

    def test_reference_subset_finds_the_same_truth(self):
        data = outcomes(800, seed=4)
        fitted = SemiparametricDoseResponse(max_reference=300, max_iter=20, random_state=0)
        fitted.fit(*data)
        assert fitted.coef_prognostic_ @ BETA > 0.95
        # The reported loss is that of every row, as predictions are.
        assert fitted.loo_log_loss_ == pytest.approx(
            log_loss(data[2], fitted.loo_predict_proba()[:, 1])
        )

    @pytest.mark.parametrize("seed", [2, 4])
    def test_no_treatment_effect_is_no_error_and_nearly_flat_with_a_penalty(self, seed):
        null = outcomes(400, seed, link=lambda u, v: 1.5 * u)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            free, held = (
                SemiparametricDoseResponse(max_iter=15, l2=l2).fit(*null) for l2 in (0.0, 0.03)
            )
            assert np.isfinite(free.optimal_treatment(null[0])).all()
        assert np.abs(held.coef_interaction_).max() < 0.5
        assert np.ptp(held._link.average_curve(51)[1]) < 0.2


class TestOptimum:
    def test_depends_on_covariates_linearly_up_to_an_offset(self, model):
        optimum = model.optimal_treatment(X)
        offsets = optimum - X @ model.coef_interaction_
        np.testing.assert_allclose(offsets, offsets[0])
        assert np.std(optimum) > 0.3
        u = np.quantile(X @ model.coef_prognostic_, np.arange(1, 10) / 10)
        grid = np.linspace(*np.quantile(T - X @ model.coef_interaction_, (0.02, 0.98)), 101)
        average = model.link_surface(u[:, None], grid).mean(axis=0)
        assert offsets[0] == pytest.approx(grid[average.argmax()])

    def test_personal_offset_is_best_on_the_own_row_of_the_surface(self, model):
        grid = np.linspace(*np.quantile(T - X @ model.coef_interaction_, (0.02, 0.98)), 31)
        surface = model.link_surface((X @ model.coef_prognostic_)[:, None], grid)
        np.testing.assert_allclose(
            model.optimal_treatment(X, personalized_offset=True, n_grid=31),
            X @ model.coef_interaction_ + grid[surface.argmax(axis=1)],
        )

    def test_bounds_clip(self, model):
        optimum = model.optimal_treatment(X, bounds=(-0.2, 0.1))
        free = model.optimal_treatment(X)
        np.testing.assert_array_equal(optimum, np.clip(free, -0.2, 0.1))
        one_sided = model.optimal_treatment(X, bounds=(0, np.inf))
        np.testing.assert_array_equal(one_sided, np.maximum(free, 0))

    def test_monotone_effect_warns_and_stays_inside_the_data(self):
        data = outcomes(300, 1, link=lambda u, v: u + v)
        with pytest.warns(UserWarning, match="monotone up to noise"):
            fitted = SemiparametricDoseResponse(bandwidth="rule", max_iter=15).fit(*data)
        v = data[1] - data[0] @ fitted.coef_interaction_
        for maximize, edge, word in ((True, 0.98, "maximal"), (False, 0.02, "minimal")):
            with pytest.warns(UserWarning, match=f"{word} at v = .*no interior optimum seen"):
                optimum = fitted.optimal_treatment(data[0], maximize=maximize)
            offset = optimum - data[0] @ fitted.coef_interaction_
            np.testing.assert_allclose(offset, np.quantile(v, edge))

    def test_interior_optimum_does_not_warn(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            SemiparametricDoseResponse(max_iter=15).fit(X, T, Y).optimal_treatment(X)

    def test_least_outcome_is_looked_for_on_demand(self, model):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            worst = model.optimal_treatment(X, maximize=False)
        assert model.value(X, worst) < model.value(X, model.optimal_treatment(X))

    @pytest.mark.parametrize(
        ("curve", "expected"),
        [((0, 1, 0), 1), ((0, 1, 0.9), 0.1), ((0, 1), 0), ((2, 2), 0), ((0, 3, 1, 4, 2), 0.5)],
    )
    def test_prominence(self, curve, expected):
        assert _link_surface.prominence(np.array(curve, dtype=float)) == pytest.approx(expected)


class TestBootstrap:
    def test_draws_intervals_and_jobs(self, model):
        draws = model.bootstrap(n_boot=4, random_state=0, level=0.5)
        assert draws["coef_prognostic"].shape == draws["coef_interaction"].shape == (4, 4)
        assert (draws["coef_prognostic"] @ model.coef_prognostic_ > 0).all()
        np.testing.assert_allclose(np.linalg.norm(draws["coef_prognostic"], axis=1), 1)
        for name in ("coef_prognostic", "coef_interaction", "offset"):
            np.testing.assert_allclose(
                draws[f"{name}_interval"].T, np.quantile(draws[name], (0.25, 0.75), axis=0)
            )
        assert draws["coef_interaction_interval"].shape == (4, 2)
        with parallel_config(backend="threading"):
            again = model.bootstrap(n_boot=4, n_jobs=2, random_state=0, level=0.5)
        np.testing.assert_array_equal(draws["coef_interaction"], again["coef_interaction"])
        frame = model.summary(draws).frame
        assert list(frame.columns) == ["estimate", "std_error", "lower", "upper"]
        np.testing.assert_allclose(
            frame["std_error"].to_numpy()[4:], draws["coef_interaction"].std(axis=0, ddof=1)
        )

    def test_copies_do_not_predict_one_another(self, model):
        # Doubled rows, each with its twin in the sum, send bandwidths down; doubled weights do not.
        doubled = clone(model).fit(np.vstack((X, X)), np.tile(T, 2), np.tile(Y, 2))
        found, _ = model._fitted(np.full(len(X), 2.0), "loo", np.random.RandomState(0))
        assert doubled.bandwidth_.prod() < 0.6 * model.bandwidth_.prod()
        assert found.bandwidth.prod() > 0.8 * model.bandwidth_.prod()

    def test_summary_without_draws_says_how_to_get_errors(self, model):
        table = model.summary()
        assert list(table.frame.columns) == ["estimate"]
        assert "summary(bootstrap())" in str(table)

    def test_outcome_too_rare_to_resample(self, monkeypatch):
        rare = np.zeros(len(X))
        rare[0] = 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fitted = SemiparametricDoseResponse(max_iter=1).fit(X, T, rare)
        monkeypatch.setattr("rankone.causal.continuous_treatment._REDRAWS", 0)
        with pytest.raises(ValueError, match="y is too rare to resample"):
            fitted.bootstrap(n_boot=2, random_state=0)


class TestPlots:
    def test_each_draws_on_the_given_axes(self, model):
        from matplotlib.figure import Figure

        for draw in (
            model.plot_surface,
            model.plot_calibration,
            lambda ax: model.plot_dose_response(X[:2], ax=ax, labels=["a", "b"]),
            lambda ax: model.plot_dose_response(X[:2], np.linspace(-1, 1, 5), ax=ax),
        ):
            ax = Figure().add_subplot()
            assert draw(ax=ax) is ax
            assert ax.get_xlabel()

    def test_curves_are_solid_only_where_data_carry_them(self, model):
        from matplotlib.figure import Figure

        ax = model.plot_dose_response(X[:1], [0.0, 1000.0], ax=Figure().add_subplot())
        solid, dotted = ax.get_lines()
        assert np.isfinite(solid.get_ydata()).tolist() == [True, False]
        assert np.isfinite(dotted.get_ydata()).all()


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ((X[:, 0], T, Y), ValueError, "Expected 2D array"),
            ((np.where(X > 2, np.nan, X), T, Y), ValueError, "NaN"),
            ((X, T[:-1], Y), ValueError, r"treatment must be \(300,\), got shape \(299,\)"),
            ((X, T[:, None], Y), ValueError, r"treatment must be \(300,\), got shape \(300, 1\)"),
            ((np.ones((300, 2)), T, Y), ValueError, "X must have a column that varies"),
            ((X, np.ones(300), Y), ValueError, "treatment must vary, got 1 in every row"),
            ((X, np.where(T > 2, np.inf, T), Y), ValueError, "treatment must be finite"),
            ((X, T.astype(complex), Y), TypeError, "treatment must be numeric, got dtype complex"),
            ((X, T, Y[:-1]), ValueError, r"y must be \(300,\)"),
            ((X, T, Y[:, None]), ValueError, r"y must be \(300,\)"),
            ((X, T, Y + 1), ValueError, r"y must hold 0 and 1, got \[2.0\]"),
            ((X, T, T), ValueError, "y must hold 0 and 1"),
            ((X, T, np.where(Y == 1, np.nan, Y)), ValueError, "y must be finite"),
            ((X, T, np.ones(300)), ValueError, "y must hold both 0 and 1, got 1 only"),
            ((X, T, np.full(300, "no")), TypeError, "y must be numeric"),
        ],
    )
    def test_fit(self, arguments, error, message):
        with pytest.raises(error, match=message):
            SemiparametricDoseResponse().fit(*arguments)

    @pytest.mark.parametrize(
        ("parameters", "message"),
        [
            ({"prior_strength": -1}, "prior_strength must be at least 0, got -1"),
            ({"prior_strength": np.nan}, "prior_strength must be at least 0, got nan"),
            ({"l2": -0.1}, "l2 must be at least 0, got -0.1"),
            ({"bandwidth": "scott"}, "bandwidth must be 'loo', 'rule' or a pair"),
            ({"bandwidth": (1.0, 0.0)}, "pair .* of positive numbers"),
            ({"bandwidth": (1.0,)}, "pair .* of positive numbers"),
            ({"bandwidth": None}, "pair .* of positive numbers"),
            ({"max_iter": 0}, "max_iter must be an integer of at least 1, got 0"),
            ({"n_starts": 1.5}, "n_starts must be an integer of at least 1, got 1.5"),
            ({"max_reference": 1}, "max_reference must be an integer of at least 2, got 1"),
        ],
    )
    def test_parameters(self, parameters, message):
        with pytest.raises(ValueError, match=message):
            SemiparametricDoseResponse(**parameters).fit(X, T, Y)

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda m: m.predict_proba(X[:, :2], T), "2 features"),
            (lambda m: m.predict_proba(X, T[:5]), r"treatment must be \(300,\)"),
            (lambda m: m.interaction_score(X, T * np.nan), "treatment must be finite"),
            (lambda m: m.dose_response(X, 1.0), r"grid must be 1-D, got shape \(\)"),
            (lambda m: m.dose_response(X, []), "grid must have at least one entry"),
            (lambda m: m.link_surface([1.0, 2.0], [1.0, 2.0, 3.0]), "u and v must have shapes"),
            (lambda m: m.link_surface(np.nan, 0.0), "u must be finite"),
            (lambda m: m.optimal_treatment(X, bounds=(1, 1)), "bounds must be an increasing pair"),
            (lambda m: m.optimal_treatment(X, bounds=(1,)), "bounds must be an increasing pair"),
            (lambda m: m.optimal_treatment(X, bounds=(np.nan, 1)), "bounds must be an increasing"),
            (lambda m: m.optimal_treatment(X, n_grid=1), "n_grid must be an integer of at least 2"),
            (lambda m: m.value(X, T[:3]), r"rule must be \(300,\)"),
            (lambda m: m.bootstrap(1), "n_boot must be an integer of at least 2, got 1"),
            (lambda m: m.bootstrap(5, level=1), r"level must lie in \(0, 1\), got 1"),
            (lambda m: m.plot_dose_response(X[:2], labels=["a"]), "labels must have an entry"),
        ],
    )
    def test_methods(self, model, call, message):
        with pytest.raises(ValueError, match=message):
            call(model)

    @pytest.mark.parametrize("name", ["prior_strength", "l2"])
    def test_numbers(self, name):
        with pytest.raises(TypeError, match=f"{name} must be a number of at least 0, got None"):
            SemiparametricDoseResponse(**{name: None}).fit(X, T, Y)

    @pytest.mark.parametrize(
        "call",
        [
            lambda m: m.predict_proba(X, T),
            lambda m: m.loo_predict_proba(),
            lambda m: m.link_surface(0, 0),
            lambda m: m.optimal_treatment(X),
            lambda m: m.bootstrap(),
            lambda m: m.plot_surface(),
        ],
    )
    def test_before_fit(self, call):
        with pytest.raises(NotFittedError):
            call(SemiparametricDoseResponse())

    def test_few_rows_warn(self):
        with pytest.warns(UserWarning, match="100 rows for 4 covariates"):
            SemiparametricDoseResponse(max_iter=2).fit(X[:100], T[:100], Y[:100])

    @pytest.mark.filterwarnings("ignore:the average curve:UserWarning")
    def test_treatment_that_follows_the_covariates_warns(self):
        with pytest.warns(UserWarning, match="nearly a linear function of X"):
            SemiparametricDoseResponse(max_iter=2).fit(X, X @ GAMMA + 0.01 * T, Y)
