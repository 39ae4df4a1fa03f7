"""The survival distribution against scipy, and the regression against lifelines and its score."""

import math
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from rankone.stats import _apgw_fit
from rankone.stats.survival import APGW, APGWRegressor, compare_apgw, survival_target
from scipy import stats
from scipy.integrate import quad
from sklearn.base import clone

T = np.geomspace(0.05, 20, 40)
CASES = [(0.7, 1.3, 0.6, -0.5), (2.0, 0.4, 1.8, 0.0), (1.0, 1.0, 2.5, 0.3), (0.5, 2.0, 0.7, 4.0)]


def simulated(n=200, seed=0, kappa=0.5, censoring=3.0):
    """Two columns, one of which acts on both scale and shape."""
    generator = np.random.default_rng(seed)
    X = np.column_stack((generator.integers(0, 2, n), generator.standard_normal(n)))
    life = APGW(phi=np.exp(0.8 + 0.5 * X[:, 0]), gamma=np.exp(0.2 - 0.4 * X[:, 0]), kappa=kappa)
    life = life.rvs(random_state=generator)
    end = generator.exponential(censoring, n)
    return X, survival_target(np.minimum(life, end), life <= end)


X, Y = simulated()


class TestDistribution:
    def test_weibull_log_logistic_and_burr(self):
        phi, lam, gamma = 0.4, 1.7, 1.6
        np.testing.assert_allclose(
            APGW(phi, lam, gamma, 1).sf(T),
            stats.weibull_min(gamma, scale=lam ** (-1 / gamma) / phi).sf(T),
            rtol=1e-12,
        )
        np.testing.assert_allclose(
            APGW(phi, 1, gamma, 0).sf(T), stats.fisk(gamma, scale=1 / phi).sf(T), rtol=1e-12
        )
        np.testing.assert_allclose(
            APGW(phi, lam, gamma, 0).sf(T),
            stats.burr12(gamma, lam, scale=1 / phi).sf(T),
            rtol=1e-12,
        )

    def test_linear_hazard(self):
        # kappa = 2, gamma = 1: h = lam phi (1 + phi t / 3).
        np.testing.assert_allclose(APGW(0.5, 2, 1, 2).hazard(T), 1 + T / 6, rtol=1e-12)

    def test_large_kappa_is_gompertz(self):
        t = np.linspace(0.01, 3, 50)
        gompertz = -stats.gompertz(2.0).logsf(t)  # 2 (e^t - 1)
        np.testing.assert_allclose(APGW(1, 2, 1, 1e6).cumulative_hazard(t), gompertz, rtol=1e-5)
        assert np.isfinite(APGW(1, 1, 1, 1e8).logpdf(5.0))

    @pytest.mark.parametrize("parameters", CASES)
    def test_hazard_is_the_slope_of_the_cumulative_hazard(self, parameters):
        life, h = APGW(*parameters), 1e-6
        slope = (life.cumulative_hazard(T * (1 + h)) - life.cumulative_hazard(T * (1 - h))) / (
            2 * h * T
        )
        np.testing.assert_allclose(life.hazard(T), slope, rtol=1e-7)

    @pytest.mark.parametrize("parameters", CASES)
    def test_density_and_cure_make_one(self, parameters):
        life = APGW(*parameters)
        mass = sum(
            quad(lambda s: float(life.pdf(math.exp(s))) * math.exp(s), a, b, limit=200)[0]
            for a, b in ((-60, 0), (0, 30), (30, 200))
        )
        assert mass + life.cure_probability() == pytest.approx(1, abs=1e-8)

    @pytest.mark.parametrize("parameters", CASES)
    def test_quantiles_invert_the_distribution(self, parameters):
        life = APGW(*parameters)
        q = np.array([1e-9, 0.01, 0.3, 0.5])
        np.testing.assert_allclose(life.cdf(life.ppf(q)), q, rtol=1e-9)
        np.testing.assert_allclose(life.sf(life.isf(0.9)), 0.9, rtol=1e-12)
        assert life.ppf(0) == 0
        assert life.median() == life.ppf(0.5)

    def test_cure(self):
        life = APGW(2.0, 0.8, 1.2, -0.4)
        cured = math.exp(0.8 * 0.6 / -0.4)
        assert life.cure_probability() == pytest.approx(cured)
        assert life.sf(np.inf) == pytest.approx(cured)
        assert life.sf(1e100) == pytest.approx(cured, rel=1e-6)
        assert np.isinf(life.ppf([1 - cured + 1e-9, 1.0])).all()
        assert np.isfinite(life.ppf(1 - cured - 1e-6))
        draws = life.rvs(20_000, random_state=0)
        assert np.isposinf(draws).mean() == pytest.approx(cured, abs=4 * math.sqrt(0.25 / 20_000))
        assert APGW(kappa=0.0).cure_probability() == 0

    @pytest.mark.parametrize("gamma", [0.5, 1.0, 1.7])
    @pytest.mark.parametrize("kappa", [-0.6, 0.0, 0.4, 1.0, 3.0, 2.0])
    def test_shape_and_turning_point_are_those_of_the_hazard(self, gamma, kappa):
        life = APGW(0.8, 1.3, gamma, kappa)
        t = np.geomspace(1e-6, 1e6, 200_001)
        slope = np.diff(life.log_hazard(t))
        tolerance = 1e-12
        up, down = slope > tolerance, slope < -tolerance
        shape = life.hazard_shape()
        if shape == "constant":
            assert not up.any() and not down.any()  # noqa: PT018
        elif shape in ("increasing", "decreasing"):
            assert not (down if shape == "increasing" else up).any()
            assert np.isnan(life.turning_point())
        else:
            first, later = (up, down) if shape == "up-then-down" else (down, up)
            turn = np.flatnonzero(later)[0]
            assert not later[:turn].any()
            assert not first[turn + 1 :].any()
            assert life.turning_point() == pytest.approx(t[turn], rel=1e-3)

    def test_parameters_broadcast(self):
        life = APGW(phi=[[1.0], [2.0]], kappa=[0.0, 0.5, -0.5])
        assert life.sf(1.0).shape == (2, 3)
        assert life.rvs(random_state=0).shape == (2, 3)
        assert life.sf(1.0)[1, 2] == APGW(2.0, kappa=-0.5).sf(1.0)

    def test_before_time_zero(self):
        life = APGW(gamma=1.0)
        assert (life.cdf(-1.0), life.pdf(-1.0), life.sf(-1.0)) == (0, 0, 1)
        assert life.hazard(0.0) == 1.0

    @pytest.mark.parametrize(
        ("parameters", "message"),
        [
            ({"phi": 0}, "phi must be finite and above 0, got 0"),
            ({"lam": -1}, "lam must be finite and above 0"),
            ({"gamma": np.nan}, "gamma must be finite"),
            ({"kappa": -1}, "kappa must be finite and above -1, got -1"),
            ({"phi": [1, 2], "lam": [1, 2, 3]}, "must broadcast"),
        ],
    )
    def test_bad_parameters(self, parameters, message):
        with pytest.raises(ValueError, match=message):
            APGW(**parameters)

    def test_bad_calls(self):
        with pytest.raises(ValueError, match="q must lie in"):
            APGW().ppf(1.2)
        with pytest.raises(ValueError, match="must be scalars"):
            APGW(gamma=[1.0, 2.0]).hazard_shape()


class TestLikelihood:
    data = _apgw_fit.Data(
        X=torch.tensor(X),
        log_time=torch.tensor(np.log(Y["time"])),
        event=torch.tensor(Y["event"].copy()),
        late=torch.tensor([], dtype=torch.long),
        log_entry=torch.tensor([], dtype=torch.float64),
    )
    model = _apgw_fit.Model(
        (
            _apgw_fit.Component((0, 1)),
            _apgw_fit.Component(()),
            _apgw_fit.Component((0,)),
            _apgw_fit.Component(()),
        )
    )

    def value(self, theta):
        return float(_apgw_fit.log_likelihood(self.model, torch.tensor(theta), self.data))

    def gradient(self, theta):
        point = torch.tensor(theta, requires_grad=True)
        _apgw_fit.log_likelihood(self.model, point, self.data).backward()
        return point.grad.numpy()

    def theta(self, kappa):
        return np.array([0.8, 0.5, 0.1, -0.2, 0.3, -0.4, math.log1p(kappa)])

    @pytest.mark.parametrize("kappa", [-0.7, 0.0, 0.5, 1.0, 50.0])
    def test_it_is_that_of_the_distribution(self, kappa):
        theta = self.theta(kappa)
        life = APGW(
            np.exp(theta[0] + X @ theta[1:3]),
            math.exp(theta[3]),
            np.exp(theta[4] + X[:, 0] * theta[5]),
            kappa,
        )
        t, event = Y["time"], Y["event"]
        expected = np.where(event, life.logpdf(t), -life.cumulative_hazard(t)).sum()
        assert self.value(theta) == pytest.approx(expected, rel=1e-10)

    def test_value_and_gradient_are_continuous_at_kappa_zero(self):
        at = self.theta(0.0)
        for step in (-2e-6, -5e-7, 5e-7, 2e-6):  # both sides of the series
            near = self.theta(step)
            assert self.value(near) == pytest.approx(self.value(at), abs=1e-3)
            np.testing.assert_allclose(self.gradient(near), self.gradient(at), rtol=1e-4, atol=1e-3)
        assert np.isfinite(self.gradient(at)).all()

    @pytest.mark.parametrize("kappa", [-0.5, 1e-8, 2.0])
    def test_gradient_is_that_of_differences(self, kappa):
        theta, h = self.theta(kappa), 1e-6
        differences = [
            (self.value(theta + h * e) - self.value(theta - h * e)) / (2 * h)
            for e in np.eye(len(theta))
        ]
        np.testing.assert_allclose(self.gradient(theta), differences, rtol=1e-6, atol=1e-6)


class TestAgainstLifelines:
    @pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
    @pytest.mark.parametrize(
        ("kappa", "name", "shape"),
        [(1.0, "WeibullAFTFitter", "rho_"), (0.0, "LogLogisticAFTFitter", "beta_")],
    )
    def test_accelerated_failure_time(self, kappa, name, shape):
        lifelines = pytest.importorskip("lifelines")
        frame = pd.DataFrame(X, columns=["a", "b"])
        model = APGWRegressor(kappa=kappa, shape_covariates=False, tol=1e-9).fit(frame, Y)
        other = getattr(lifelines, name)().fit(
            frame.assign(t=Y["time"], d=Y["event"]), "t", event_col="d"
        )
        # Its optimiser stops earlier: ours is never worse, and hardly better.
        assert -1e-6 < model.log_likelihood_ - other.log_likelihood_ < 1e-3
        scale = other.params_.drop(index=shape, level=0).droplevel(0)
        np.testing.assert_allclose(
            model.coef_["log_phi"], -scale[["Intercept", "a", "b"]], atol=5e-3
        )
        np.testing.assert_allclose(
            model.coef_["log_gamma"], other.params_[shape]["Intercept"], atol=5e-3
        )
        se = model.summary().se[:3]
        np.testing.assert_allclose(
            se,
            other.standard_errors_.drop(index=shape, level=0).droplevel(0)[["Intercept", "a", "b"]],
            rtol=1e-2,
        )

    @pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
    def test_concordance_without_cure(self):
        utils = pytest.importorskip("lifelines.utils")
        model = APGWRegressor(kappa=1.0, shape_covariates=False).fit(X, Y)
        median = model.predict_quantile(X)
        assert model.score(X, Y) == pytest.approx(
            utils.concordance_index(Y["time"], median, Y["event"])
        )


class TestRegression:
    @pytest.mark.parametrize("options", [{}, {"scale": "ph"}, {"scale": "ph", "phi": 0.7}])
    def test_score_vanishes_at_the_optimum(self, options):
        model = APGWRegressor(tol=1e-8, **options).fit(X, Y)
        assert model.converged_
        h = 1e-5

        def likelihood(theta):
            moved = clone(model)
            moved.__dict__.update(model.__dict__)
            moved._theta = theta
            life = moved._distribution(X)
            t = Y["time"][:, None]
            return np.where(Y["event"][:, None], life.logpdf(t), -life.cumulative_hazard(t)).sum()

        theta = model._theta
        assert likelihood(theta) == pytest.approx(model.log_likelihood_, abs=1e-8)
        for e in np.eye(len(theta)):
            slope = (likelihood(theta + h * e) - likelihood(theta - h * e)) / (2 * h)
            assert abs(slope) < 1e-3

    @pytest.mark.parametrize("scale", ["aft", "ph"])
    def test_unit_of_time(self, scale):
        c = 365.25
        scaled = survival_target(c * Y["time"], Y["event"])
        model = APGWRegressor(scale, tol=1e-9).fit(X, Y)
        other = APGWRegressor(scale, tol=1e-9).fit(X, scaled)
        assert other.log_likelihood_ == pytest.approx(
            model.log_likelihood_ - Y["event"].sum() * math.log(c), abs=1e-6
        )
        shift = {"log_phi": np.array([math.log(c), 0, 0])}
        for name, value in model.coef_.items():
            np.testing.assert_allclose(other.coef_[name], value - shift.get(name, 0), atol=1e-4)
        if scale == "ph":
            assert other.phi_fixed_ == pytest.approx(model.phi_fixed_ / c)

    def test_scaling_a_column_scales_its_coefficient(self):
        other = APGWRegressor(tol=1e-9).fit(X * [1, 100] + [0, 5], Y)
        model = APGWRegressor(tol=1e-9).fit(X, Y)
        assert other.coef_["log_phi"][2] == pytest.approx(model.coef_["log_phi"][2] / 100, abs=1e-6)
        np.testing.assert_allclose(
            other.covariance_[2, 2], model.covariance_[2, 2] / 1e4, rtol=1e-3
        )

    @pytest.mark.filterwarnings("ignore:the information")
    def test_nested_models_never_lose_likelihood(self):
        table = compare_apgw(X, Y)["log_likelihood"]
        for small, large in (
            ("base", "aft"), ("aft", "aft+shape"), ("ph", "ph+shape"), ("aft", "both"),
            ("ph", "both"), ("both", "both+shape"), ("aft+shape", "both+shape"),
            ("ph+shape", "both+shape"), ("aft+shape", "aft+shape+kappa"),
        ):  # fmt: skip
            assert table[large] >= table[small] - 1e-6, (small, large)
        shape_only = APGWRegressor(scale_covariates=False).fit(X, Y)
        assert table["aft+shape"] >= shape_only.log_likelihood_ - 1e-6

    def test_recovers_the_truth(self):
        data = simulated(n=4000, seed=5, kappa=0.5)
        model = APGWRegressor().fit(*data)
        table = model.summary().set_index(["component", "term"])
        truth = {("log_phi", "0"): 0.5, ("log_phi", "1"): 0.0, ("log_gamma", "0"): -0.4}
        for key, value in truth.items():
            row = table.loc[key]
            assert abs(row.coef - value) < 4 * row.se

    def test_entry_at_zero_changes_nothing(self):
        plain = APGWRegressor().fit(X, Y)
        other = APGWRegressor().fit(X, Y, entry=np.zeros(len(X)))
        assert other.log_likelihood_ == plain.log_likelihood_

    def test_entry_adds_the_cumulative_hazard(self):
        entry = np.where(np.arange(len(X)) % 3 == 0, 0.5 * Y["time"], 0.0)
        model = APGWRegressor(tol=1e-8).fit(X, Y, entry=entry)
        life = model._distribution(X)
        t = Y["time"][:, None]
        expected = np.where(Y["event"][:, None], life.logpdf(t), -life.cumulative_hazard(t)).sum()
        expected += life.cumulative_hazard(entry[:, None]).sum()
        assert model.log_likelihood_ == pytest.approx(expected, abs=1e-8)

    def test_columns_by_name_and_by_index(self):
        frame = pd.DataFrame(X, columns=["group", "size"])
        by_name = APGWRegressor(scale_covariates=["size"], shape_covariates=["group"]).fit(frame, Y)
        by_index = APGWRegressor(scale_covariates=[1], shape_covariates=[0]).fit(X, Y)
        assert by_name.log_likelihood_ == by_index.log_likelihood_
        assert by_name.summary().term.tolist() == [
            "intercept", "size", "intercept", "group", "intercept"
        ]  # fmt: skip
        np.testing.assert_allclose(by_name.predict_quantile(frame), by_index.predict_quantile(X))

    def test_fixed_shapes(self):
        model = APGWRegressor(gamma=1.0, kappa=1.0).fit(X, Y)
        assert set(model.coef_) == {"log_phi"}
        assert (model.kappa_, model.n_parameters_) == (1.0, 3)
        assert APGWRegressor(kappa_covariates=True).fit(X, Y).kappa_ is None

    @pytest.mark.filterwarnings("ignore:the information")
    def test_two_scales_with_columns_of_their_own(self):
        model = APGWRegressor("both", {"phi": [0], "lambda": [1]}, False).fit(X, Y)
        assert len(model.coef_["log_phi"]) == len(model.coef_["log_lambda"]) == 2

    def test_information_criteria(self):
        model = APGWRegressor().fit(X, Y)
        assert model.aic_ == 2 * 7 - 2 * model.log_likelihood_
        assert model.bic_ == pytest.approx(7 * math.log(200) - 2 * model.log_likelihood_)

    def test_repeats_exactly_and_clones(self):
        first, second = APGWRegressor().fit(X, Y), clone(APGWRegressor()).fit(X, Y)
        np.testing.assert_array_equal(first._theta, second._theta)

    def test_targets_of_scikit_survival(self):
        util = pytest.importorskip("sksurv.util")
        target = util.Surv.from_arrays(Y["event"], Y["time"], name_event="died", name_time="days")
        assert (
            APGWRegressor().fit(X, target).log_likelihood_
            == APGWRegressor().fit(X, Y).log_likelihood_
        )


class TestPredictions:
    model = APGWRegressor().fit(X, Y)

    def test_shapes_and_identities(self):
        times = np.array([0.0, 0.5, 2.0])
        survival = self.model.predict_survival_function(X[:7], times)
        hazard = self.model.predict_cumulative_hazard(X[:7], times)
        assert survival.shape == (7, 3)
        np.testing.assert_allclose(survival, np.exp(-hazard))
        assert self.model.predict_hazard(X[:7], times).shape == (7, 3)
        quartile = self.model.predict_quantile(X[:7], 0.25)
        for row, t in zip(X[:7], quartile, strict=True):
            assert self.model.predict_survival_function(row[None], [t]) == pytest.approx(0.75)

    def test_hazard_ratio_is_that_of_the_hazards(self):
        ratio = self.model.hazard_ratio([1, 0], [0, 0], T)
        above, below = self.model.predict_hazard([[1, 0], [0, 0]], T)
        np.testing.assert_allclose(ratio, above / below, rtol=1e-12)

    def test_a_pure_aft_model_has_one_time_ratio(self):
        model = APGWRegressor(shape_covariates=False).fit(X, Y)
        ratios = [model.time_ratio([1, 0], [0, 0], q) for q in (0.1, 0.5, 0.8)]
        np.testing.assert_allclose(ratios, math.exp(-model.coef_["log_phi"][1]), rtol=1e-9)
        crossing = [self.model.time_ratio([1, 0], [0, 0], q) for q in (0.1, 0.8)]
        assert abs(crossing[0] - crossing[1]) > 0.05

    def test_proportional_hazards_have_one_hazard_ratio(self):
        model = APGWRegressor("ph", shape_covariates=False).fit(X, Y)
        np.testing.assert_allclose(
            model.hazard_ratio([1, 0], [0, 0], T), math.exp(model.coef_["log_lambda"][1]), rtol=1e-9
        )

    def test_band_is_the_delta_method_by_differences(self):
        times = np.array([0.3, 1.0])
        lower, upper = self.model.survival_band(X[:3], times)
        center = self.model.predict_survival_function(X[:3], times)
        assert ((lower < center) & (center < upper)).all()
        theta, h = self.model._theta, 1e-6
        slopes = []
        for e in np.eye(len(theta)):
            moved = []
            for sign in (1, -1):
                other = clone(self.model)
                other.__dict__.update(self.model.__dict__)
                other._theta = theta + sign * h * e
                moved.append(np.log(other.predict_cumulative_hazard(X[:3], times)))
            slopes.append((moved[0] - moved[1]) / (2 * h))
        slopes = np.array(slopes)
        deviation = np.sqrt(np.einsum("inm,ij,jnm->nm", slopes, self.model.covariance_, slopes))
        log_h = np.log(-np.log(center))
        np.testing.assert_allclose(lower, np.exp(-np.exp(log_h + 1.959964 * deviation)), rtol=1e-5)

    def test_score_ranks_the_cured_last(self):
        model = APGWRegressor(kappa=-0.6, shape_covariates=False, scale_covariates=[0]).fit(X, Y)
        cured = model.predict_cure_probability(X)
        assert (cured > 0.2).all()
        assert 0.4 < model.score(X, Y) < 1


class TestWarningsAndErrors:
    def test_gompertz_limit(self):
        life = APGW(kappa=1e6, gamma=1.0).rvs(600, random_state=0)
        with pytest.warns(UserWarning, match="Gompertz limit"):
            APGWRegressor(gamma=1.0).fit(np.empty((600, 0)), survival_target(life, np.ones(600)))

    def test_redundant_scales_are_named(self):
        with pytest.warns(UserWarning, match=r"singular along log_.*\[intercept\]"):
            APGWRegressor("both", {"phi": [0]}, False, kappa=1.0).fit(X, Y)

    def test_sound_fits_do_not_warn(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            APGWRegressor().fit(X, Y)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"scale": "po"}, "scale must be 'aft', 'ph' or 'both', got 'po'"),
            ({"scale_covariates": ["age"]}, "scale_covariates must name columns of X, got 'age'"),
            ({"shape_covariates": [2]}, "shape_covariates must hold names or indices below 2"),
            ({"shape_covariates": "0"}, "must be True, False or a list"),
            ({"scale_covariates": {"phi": True}}, "for scale='both' only"),
            ({"scale": "both", "scale_covariates": {"mu": True}}, "entries 'phi' and 'lambda'"),
            ({"gamma": 0}, "gamma must be finite and above 0, got 0"),
            ({"kappa": -1}, "kappa must be finite and above -1"),
            ({"scale": "ph", "phi": -1}, "phi must be 'median' or a number above 0, got -1"),
        ],
    )
    def test_parameters(self, options, message):
        with pytest.raises(ValueError, match=message):
            APGWRegressor(**options).fit(X, Y)

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: (X, Y["time"]), "y must be a structured array"),
            (lambda: (X, Y[:5]), "as many rows as X, 200, got 5"),
            (lambda: (np.where(X > 2, np.nan, X), Y), "NaN"),
            (lambda: (np.where(X > 2, np.inf, X), Y), "infinity"),
            (lambda: (X * [1, 0], Y), r"constant columns \[1\]"),
            (lambda: (X, survival_target(Y["time"], np.zeros(200))), "at least one event"),
        ],
    )
    def test_data(self, make, message):
        with pytest.raises(ValueError, match=message):
            APGWRegressor().fit(*make())

    @pytest.mark.parametrize("entry", [Y["time"], -np.ones(200)])
    def test_entries(self, entry):
        with pytest.raises(ValueError, match="entry must be at least 0 and below the time"):
            APGWRegressor().fit(X, Y, entry=entry)

    @pytest.mark.parametrize(
        ("time", "event", "message"),
        [
            ([1, 0], [1, 1], "time must be above 0 and finite"),
            ([1, -2], [1, 1], "time must be above 0"),
            ([1, np.inf], [1, 1], "finite"),
            ([1, 2], [1], r"the same shape \(n,\), got"),
            ([1, 2], [1, 2], "event must hold True and False"),
        ],
    )
    def test_targets(self, time, event, message):
        with pytest.raises(ValueError, match=message):
            survival_target(time, event)

    def test_likelihood_ratio_test(self):
        small = APGWRegressor(shape_covariates=False).fit(X, Y)
        large = APGWRegressor().fit(X, Y)
        statistic, freedom, p = large.likelihood_ratio_test(small)
        assert statistic == pytest.approx(2 * (large.log_likelihood_ - small.log_likelihood_))
        assert (freedom, p) == (2, pytest.approx(stats.chi2.sf(statistic, 2)))
        assert small.likelihood_ratio_test(large) == (statistic, freedom, p)
        ph = APGWRegressor("ph", shape_covariates=False).fit(X, Y)
        with pytest.raises(ValueError, match="other must be nested"):
            large.likelihood_ratio_test(ph)
        with pytest.raises(ValueError, match="other must be nested"):
            large.likelihood_ratio_test(large)
        with pytest.raises(ValueError, match="same data"):
            large.likelihood_ratio_test(APGWRegressor().fit(X[:150], Y[:150]))

    def test_other_calls(self):
        model = APGWRegressor().fit(X, Y)
        with pytest.raises(ValueError, match="times must be of shape"):
            model.predict_hazard(X, [-1.0])
        with pytest.raises(ValueError, match="alpha must lie in"):
            model.survival_band(X, [1.0], alpha=0)
        with pytest.raises(ValueError, match="times must be above 0 for a band"):
            model.survival_band(X, [0.0])
        with pytest.raises(ValueError, match="criterion must be 'aic' or 'bic', got 'hqc'"):
            compare_apgw(X, Y, criterion="hqc")
