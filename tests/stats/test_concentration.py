"""Diffusion sampling and its certificates against linear theory, torch and closed forms."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from rankone.stats.concentration import (
    DenoiserMLP,
    DiffusionGenerator,
    GaussianTwin,
    SGDLinearClassifier,
    concentration_report,
    edm_sample,
    edm_schedule,
    gaussian_denoiser,
    hill_estimator,
    lipschitz_profile,
    mixture_denoiser,
    poincare_bound,
    subgaussian_norm,
    tail_quantile_ratio,
    universality_gap,
)
from scipy.integrate import quad
from scipy.stats import norm
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.utils.estimator_checks import parametrize_with_checks

SPECTRUM = torch.tensor([4.0, 1.0, 0.25, 0.001], dtype=torch.float64)
GAUSSIAN = gaussian_denoiser(torch.zeros(4), torch.diag(SPECTRUM))
IDENTITY = torch.eye(4, dtype=torch.float64)


def gains(n_steps):
    return edm_sample(GAUSSIAN, IDENTITY, n_steps=n_steps).diagonal()


def churned_variance(lam, n_steps, churn, s_noise):
    """Variance of the churned sampler on N(0, lam), noise level by noise level."""
    levels = edm_schedule(n_steps).tolist()
    variance = levels[0] ** 2

    def slope(sigma):
        return (1 - lam / (lam + sigma**2)) / sigma

    for level, following in pairwise(levels):
        gamma = min(churn / n_steps, math.sqrt(2) - 1) if 0.05 <= level <= 50 else 0
        raised = level * (1 + gamma)
        variance += s_noise**2 * (raised**2 - level**2)
        factor = 1 + (following - raised) * slope(raised)
        if following > 0:
            factor = 1 + (following - raised) * (slope(raised) + slope(following) * factor) / 2
        variance *= factor**2
    return variance


class TestSchedule:
    def test_ends_and_order(self):
        levels = edm_schedule(18)
        assert levels.shape == (19,)
        assert levels.dtype == torch.float64
        assert levels[0] == 80
        assert levels[-2:].tolist() == [0.002, 0.0]
        assert (levels.diff() < 0).all()

    def test_levels_between(self):
        i, n, rho = 5, 18, 7
        top, bottom = 80 ** (1 / rho), 0.002 ** (1 / rho)
        expected = (top + i / (n - 1) * (bottom - top)) ** rho
        assert edm_schedule(18)[i].item() == pytest.approx(expected, rel=1e-12)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"n_steps": 1}, "n_steps must be at least 2, got 1"),
            ({"sigma_min": 0.0}, "0 < sigma_min < sigma_max, got 0.0"),
            ({"sigma_max": 0.001}, "sigma_min and sigma_max"),
            ({"rho": 0.0}, "rho must be above 0"),
        ],
    )
    def test_bad_input(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            edm_schedule(**arguments)


class TestSampler:
    def test_gains_on_a_gaussian(self):
        expected = [2.00428, 1.00292, 0.50182, 0.03182]
        np.testing.assert_allclose(gains(64), expected, atol=6e-6)

    def test_is_of_second_order(self):
        exact = 80 * (SPECTRUM / (SPECTRUM + 6400)).sqrt()
        errors = [(gains(n) - exact).abs()[0].item() for n in (18, 64, 256)]
        assert 10 < errors[0] / errors[1] < 20
        assert 10 < errors[1] / errors[2] < 20

    def test_is_linear_for_a_linear_denoiser(self):
        noise = torch.randn(7, 4, dtype=torch.float64)
        np.testing.assert_allclose(
            edm_sample(GAUSSIAN, noise, n_steps=20), noise @ torch.diag(gains(20)), atol=1e-12
        )

    @pytest.mark.parametrize("s_noise", [1.003, 1.0])
    def test_churn_inflates_as_the_recursion_says(self, s_noise):
        n = 20_000
        generator = torch.Generator().manual_seed(1)
        noise = torch.randn(n, 4, dtype=torch.float64, generator=generator)
        sample = edm_sample(
            GAUSSIAN, noise, n_steps=64, s_churn=40, s_noise=s_noise, generator=generator
        )
        expected = [churned_variance(lam, 64, 40, s_noise) for lam in SPECTRUM.tolist()]
        assert expected[0] > gains(64)[0] ** 2
        np.testing.assert_allclose(sample.var(0), expected, rtol=4 * math.sqrt(2 / n))

    def test_no_noise_is_added_without_churn(self):
        noise = torch.randn(3, 4, dtype=torch.float64)
        first, second = (
            edm_sample(GAUSSIAN, noise, generator=torch.Generator().manual_seed(seed))
            for seed in (0, 1)
        )
        assert torch.equal(first, second)

    def test_churn_stays_between_its_levels(self):
        noise = torch.randn(3, 4, dtype=torch.float64)
        outside = edm_sample(GAUSSIAN, noise, s_churn=40, s_min=90, s_max=100)
        assert torch.equal(outside, edm_sample(GAUSSIAN, noise))

    def test_calls_and_precision(self):
        calls = []

        def counted(x, sigma):
            calls.append(float(sigma))
            assert x.dtype == sigma.dtype == torch.float32
            return 0.5 * x

        assert edm_sample(counted, torch.randn(2, 3), n_steps=10).dtype == torch.float32
        assert len(calls) == 2 * 10 - 1

    def test_is_differentiable(self):
        noise = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda z: edm_sample(GAUSSIAN, z, n_steps=4), noise)

    @pytest.mark.parametrize(
        ("noise", "options", "message"),
        [
            (torch.zeros(3), {}, "noise must be a float tensor"),
            (torch.zeros(3, 2, dtype=torch.long), {}, "got torch.int64"),
            (torch.zeros(3, 4), {"s_churn": -1}, "s_churn must be at least 0"),
        ],
    )
    def test_bad_input(self, noise, options, message):
        with pytest.raises(ValueError, match=message):
            edm_sample(GAUSSIAN, noise, **options)


class TestDenoisers:
    mixture = staticmethod(
        mixture_denoiser(
            [0.3, 0.7], [[-1.0, 0.0], [2.0, 1.0]], [np.eye(2), [[0.5, 0.2], [0.2, 0.3]]]
        )
    )
    x = torch.randn(6, 2, dtype=torch.float64)

    def test_one_component_is_a_gaussian(self):
        cov = [[2.0, 0.3], [0.3, 0.5]]
        sigma = torch.tensor(0.7, dtype=torch.float64)
        expected = torch.tensor([1.0, -1.0], dtype=torch.float64)
        matrix = torch.tensor(cov, dtype=torch.float64)
        shrink = matrix @ torch.linalg.inv(matrix + 0.49 * torch.eye(2, dtype=torch.float64))
        np.testing.assert_allclose(
            gaussian_denoiser([1.0, -1.0], cov)(self.x, sigma),
            expected + (self.x - expected) @ shrink.T,
            rtol=1e-12,
        )

    def test_limits_of_the_noise_level(self):
        small, large = (torch.tensor(s, dtype=torch.float64) for s in (1e-6, 1e6))
        np.testing.assert_allclose(self.mixture(self.x, small), self.x, atol=1e-9)
        mean = np.tile([0.3 * -1 + 0.7 * 2, 0.7], (6, 1))
        np.testing.assert_allclose(self.mixture(self.x, large), mean, atol=1e-5)

    def test_posterior_mean_by_integration(self):
        D = mixture_denoiser([0.4, 0.6], [[-1.0], [1.5]], [[[0.3]], [[0.8]]])
        x, sigma = 0.4, 0.9

        def density(u):
            prior = 0.4 * norm.pdf(u, -1, math.sqrt(0.3)) + 0.6 * norm.pdf(u, 1.5, math.sqrt(0.8))
            return prior * norm.pdf(x, u, sigma)

        mean = quad(lambda u: u * density(u), -12, 12)[0] / quad(density, -12, 12)[0]
        found = D(torch.full((1, 1), x, dtype=torch.float64), torch.tensor(sigma).double())
        assert found.item() == pytest.approx(mean, rel=1e-8)

    def test_preconditioning_keeps_the_data_at_small_noise(self):
        network = DenoiserMLP(3, hidden=8, n_classes=2, sigma_data=0.5)
        x, label = torch.randn(4, 3), torch.tensor([0, 1, 1, 0])
        np.testing.assert_allclose(network(x, torch.tensor(1e-5), label).detach(), x, atol=1e-4)
        assert network(x, torch.ones(4), label).shape == (4, 3)

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: mixture_denoiser([0.5, 0.6], [[0.0], [1.0]], [[[1.0]]] * 2), "sum to 1"),
            (lambda: mixture_denoiser([1.0], [[0.0]], [np.eye(2)]), "must have shapes"),
            (lambda: DenoiserMLP(3, hidden=0), "hidden must be at least 1, got 0"),
            (lambda: DenoiserMLP(3, sigma_data=0), "sigma_data must be above 0"),
            (
                lambda: DenoiserMLP(3, n_classes=2)(torch.zeros(1, 3), torch.tensor(1.0)),
                "label must",
            ),
        ],
    )
    def test_bad_input(self, call, message):
        with pytest.raises(ValueError, match=message):
            call()


class TestGenerator:
    X = np.random.default_rng(0).standard_normal((400, 2)) @ np.diag([2.0, 0.5]) + [1.0, 0.0]
    model = DiffusionGenerator(hidden=32, n_steps_train=1000, random_state=0).fit(X)

    def test_learns_a_gaussian(self):
        sample = self.model.sample(2000, random_state=1)
        assert sample.dtype == np.float64
        np.testing.assert_allclose(sample.mean(axis=0), [1, 0], atol=0.3)
        np.testing.assert_allclose(sample.std(axis=0), [2, 0.5], rtol=0.25)
        assert self.model.loss_curve_[-50:].mean() < self.model.loss_curve_[:20].mean()
        assert self.model.sigma_data_ == pytest.approx(self.X.std())

    def test_one_seed_repeats_everything(self):
        again = clone(self.model).fit(self.X)
        np.testing.assert_array_equal(again.loss_curve_, self.model.loss_curve_)
        np.testing.assert_array_equal(
            again.sample(5, random_state=3), self.model.sample(5, random_state=3)
        )

    def test_training_leaves_torchs_own_generator_alone(self):
        torch.manual_seed(5)
        expected = torch.rand(1)
        torch.manual_seed(5)
        DiffusionGenerator(hidden=4, n_steps_train=2, random_state=0).fit(self.X)
        assert torch.equal(torch.rand(1), expected)

    def test_map_is_the_differentiable_sampler(self):
        noise = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
        self.model.map(noise).sum().backward()
        assert noise.grad.abs().min() > 0

    def test_classes_are_kept_apart(self):
        y = np.array(["left", "right"])[np.arange(400) % 2]
        X = self.X / 4 + np.where(y == "left", -3, 3)[:, None]
        model = DiffusionGenerator(hidden=32, n_steps_train=300, random_state=0).fit(X, y)
        assert model.classes_.tolist() == ["left", "right"]
        assert model.sample(100, y="left", random_state=0)[:, 0].mean() < -1.5
        assert model.sample(100, y=["right"] * 100, random_state=0)[:, 0].mean() > 1.5
        with pytest.raises(ValueError, match="y must hold labels of"):
            model.sample(2, y="up")
        with pytest.raises(ValueError, match="y must be given"):
            model.sample(2)

    def test_float32_is_kept(self):
        model = DiffusionGenerator(hidden=4, n_steps_train=2).fit(self.X.astype(np.float32))
        assert model.sample(3).dtype == np.float32

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda X: DiffusionGenerator().fit(X[:, 0]), "2D array"),
            (lambda X: DiffusionGenerator().fit(np.where(X > 1, np.nan, X)), "NaN"),
            (lambda X: DiffusionGenerator().fit(np.ones((5, 2))), "X must vary"),
            (
                lambda X: DiffusionGenerator(n_steps_train=0).fit(X),
                "n_steps_train must be at least 1",
            ),
            (lambda X: DiffusionGenerator(ema=1.0).fit(X), "ema must lie in"),
            (lambda X: DiffusionGenerator().fit(X, np.arange(400)), "at least two samples of each"),
            (lambda X: DiffusionGenerator().fit(X, np.zeros(3)), r"y must have shape \(400,\)"),
        ],
    )
    def test_bad_data(self, call, message):
        with pytest.raises(ValueError, match=message):
            call(self.X)

    def test_bad_calls(self):
        with pytest.raises(ValueError, match="n must be at least 1"):
            self.model.sample(0)
        with pytest.raises(ValueError, match="y must be None"):
            self.model.sample(2, y=0)
        with pytest.raises(ValueError, match=r"noise must have shape \(n, 2\)"):
            self.model.map(torch.zeros(3, 4))


class TestTwin:
    def test_moments_match_the_data(self):
        X, y = load_iris(return_X_y=True)
        twin = GaussianTwin().fit(X, y)
        for k in range(3):
            np.testing.assert_allclose(twin.means_[k], X[y == k].mean(axis=0))
            np.testing.assert_allclose(twin.covariances_[k], np.cov(X[y == k].T, ddof=0))
        sample, labels = twin.sample(20_000, random_state=0)
        for k in range(3):
            rows = sample[labels == k]
            np.testing.assert_allclose(rows.mean(axis=0), twin.means_[k], atol=0.02)
            np.testing.assert_allclose(np.cov(rows.T), twin.covariances_[k], atol=0.02)

    def test_classes_have_covariances_of_their_own(self):
        generator = np.random.default_rng(0)
        X = np.vstack((generator.standard_normal((50, 2)), 5 * generator.standard_normal((50, 2))))
        twin = GaussianTwin().fit(X, np.repeat([0, 1], 50))
        assert twin.covariances_[1].trace() > 10 * twin.covariances_[0].trace()

    def test_a_singular_class_stays_in_its_span(self):
        generator = np.random.default_rng(0)
        X = generator.standard_normal((40, 2)) @ generator.standard_normal((2, 5)) + 1
        twin = GaussianTwin().fit(X, np.arange(40) % 2)
        assert np.isinf(twin.condition_numbers_).all()
        sample, labels = twin.sample(30, random_state=0)
        for k in range(2):
            centered = np.vstack((X[np.arange(40) % 2 == k], sample[labels == k])) - twin.means_[k]
            assert np.linalg.matrix_rank(centered, tol=1e-6) == 2

    def test_bad_input(self):
        with pytest.raises(ValueError, match="at least two samples of each class"):
            GaussianTwin().fit(np.eye(3), [0, 0, 1])
        with pytest.raises(ValueError, match="n_per_class must be at least 1"):
            GaussianTwin().fit(np.eye(4), [0, 0, 1, 1]).sample(0)


@parametrize_with_checks([SGDLinearClassifier(lr=1e-6, fit_intercept=True)])
def test_scikit_learn_conventions(estimator, check):
    check(estimator)


class TestLinearClassifier:
    X, y = load_iris(return_X_y=True)

    @pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
    @pytest.mark.parametrize("intercept", [False, True])
    def test_a_step_is_torchs_gradient(self, loss, intercept):
        model = SGDLinearClassifier(loss, batch_size=150, n_epochs=2, fit_intercept=intercept)
        model.set_params(lr=0.05, random_state=0).fit(self.X, self.y)
        layer = torch.nn.Linear(4, 3, bias=intercept, dtype=torch.float64)
        for parameter in layer.parameters():
            torch.nn.init.zeros_(parameter)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.05)
        X, y = torch.tensor(self.X), torch.tensor(self.y)
        for _ in range(2):
            scores = layer(X)
            if loss == "mse":
                value = torch.nn.functional.mse_loss(
                    scores, torch.nn.functional.one_hot(y, 3).double()
                )
            else:
                value = torch.nn.functional.cross_entropy(scores, y)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        np.testing.assert_allclose(model.coef_, layer.weight.detach(), rtol=1e-9)
        if loss == "mse":
            expected = torch.nn.functional.mse_loss(
                layer(X), torch.nn.functional.one_hot(y, 3).double()
            )
        else:
            expected = torch.nn.functional.cross_entropy(layer(X), y)
        assert model.test_loss(self.X, self.y) == pytest.approx(expected.item(), rel=1e-10)

    def test_warm_restarts_follow_a_cosine(self):
        model = SGDLinearClassifier(lr=2.0, restart_period=4)
        rates = [model._rate(epoch) for epoch in range(6)]
        assert rates[0] == rates[4] == 2.0
        assert rates[2] == pytest.approx(1.0)
        assert rates[3] < rates[1]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"loss": "hinge"}, "loss must be 'mse' or 'cross_entropy', got 'hinge'"),
            ({"batch_size": 0}, "batch_size must be at least 1"),
            ({"restart_period": 0}, "restart_period must be at least 1"),
        ],
    )
    def test_bad_parameters(self, options, message):
        with pytest.raises(ValueError, match=message):
            SGDLinearClassifier(**options).fit(self.X, self.y)

    def test_bad_data(self):
        with pytest.raises(ValueError, match="1 class"):
            SGDLinearClassifier().fit(self.X, np.zeros(150))
        with pytest.raises(ValueError, match="y must hold labels of"):
            SGDLinearClassifier().fit(self.X, self.y).test_loss(self.X, self.y + 1)
        with pytest.raises(ValueError, match="lr must be small enough"), np.errstate(all="ignore"):
            SGDLinearClassifier(lr=1e6, n_epochs=100).fit(self.X, self.y)


class TestUniversality:
    def test_gaussian_data_and_their_twin_agree(self):
        generator = np.random.default_rng(0)
        y = np.arange(600) % 2
        X = generator.standard_normal((600, 5)) + 0.5 * y[:, None]
        table = universality_gap(X[:300], y[:300], X[300:], y[300:], (100,), n_seeds=8)
        data, twin = table.accuracy_mean
        error = math.hypot(*(table.accuracy_std / math.sqrt(8)))
        assert abs(data - twin) < 2 * error + 4 * 0.5 / math.sqrt(300 * 8)

    def test_a_scale_mixture_differs_from_its_twin(self):
        # Classes at +-1, within-class variance 0.1 or 1.9: sign error 0.117 against Phi(-1).
        generator = np.random.default_rng(0)
        n = 8000
        y = np.repeat([0, 1], n // 2)
        scale = np.sqrt(np.where(generator.random(n) < 0.5, 0.1, 1.9))
        X = (2 * y - 1 + scale * generator.standard_normal(n))[:, None]
        order = generator.permutation(n)
        X, y = X[order], y[order]
        table = universality_gap(X[:4000], y[:4000], X[4000:], y[4000:], (1000,), n_seeds=4)
        exact = (norm.cdf(-1 / math.sqrt(0.1)) + norm.cdf(-1 / math.sqrt(1.9))) / 2
        assert exact == pytest.approx(0.1174313, abs=1e-7)
        data, twin = 1 - table.accuracy_mean
        assert data == pytest.approx(exact, abs=0.02)
        assert twin == pytest.approx(norm.cdf(-1), abs=0.02)

    def test_table(self):
        X, y = load_iris(return_X_y=True)
        table = universality_gap(X, y, X, y, (5, 20), n_seeds=2, random_state=0)
        assert table.columns.tolist() == [
            "n_train", "source", "accuracy_mean", "accuracy_std", "loss_mean", "loss_std"
        ]  # fmt: skip
        assert table.n_train.tolist() == [5, 5, 20, 20]
        again = universality_gap(X, y, X, y, (5, 20), n_seeds=2, random_state=0)
        assert table.equals(again)

    def test_bad_input(self):
        X, y = load_iris(return_X_y=True)
        with pytest.raises(
            ValueError, match=r"n_train_per_class must lie between 1 and.*50, got 51"
        ):
            universality_gap(X, y, X, y, (51,))
        with pytest.raises(ValueError, match="loss must be"):
            universality_gap(X, y, X, y, (5,), loss="hinge")


class TestCertificates:
    def test_lipschitz_constant_of_a_linear_sampler_is_its_largest_gain(self):
        noise = torch.randn(3, 4, dtype=torch.float64)

        def sampler(z):
            return edm_sample(GAUSSIAN, z, n_steps=12)

        expected = edm_sample(GAUSSIAN, IDENTITY, n_steps=12).diagonal().max().item()
        for method in ("exact", "power"):
            profile = lipschitz_profile(sampler, noise, method)
            np.testing.assert_allclose(profile["values"], expected, rtol=1e-6)
            assert profile["max"] == pytest.approx(expected, rel=1e-6)

    def test_gains_of_a_nonlinear_map(self):
        noise = torch.randn(5, 3, dtype=torch.float64)
        matrix = torch.randn(3, 3, dtype=torch.float64)

        def curved(z):
            return torch.tanh(z @ matrix)

        expected = [
            torch.linalg.matrix_norm(
                torch.autograd.functional.jacobian(lambda row: curved(row[None])[0], row), ord=2
            ).item()
            for row in noise
        ]
        np.testing.assert_allclose(lipschitz_profile(curved, noise)["values"], expected, rtol=1e-9)

    def test_poincare_is_an_equality_for_linear_functionals(self):
        noise = torch.randn(40_000, 4, dtype=torch.float64)
        bound = poincare_bound(
            lambda z: edm_sample(GAUSSIAN, z, n_steps=8),
            noise,
            lambda x: x @ torch.ones(4).double(),
        )
        assert bound["ratio"] == pytest.approx(1, abs=4 * math.sqrt(2 / 40_000))

    def test_poincare_bounds_the_variance_of_norms(self):
        noise = torch.randn(5000, 4, dtype=torch.float64)
        bound = poincare_bound(lambda z: z, noise, lambda x: x.norm(dim=1))
        assert bound["bound"] == pytest.approx(1)
        assert bound["variance"] == pytest.approx(4 - (3 * math.sqrt(math.pi / 8)) ** 2, abs=0.05)

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: lipschitz_profile(torch.tanh, torch.zeros(3)), "noise must be a float tensor"),
            (lambda: lipschitz_profile(torch.tanh, torch.zeros(2, 2), "svd"), "method must be"),
            (
                lambda: poincare_bound(torch.tanh, torch.zeros(2, 2), lambda x: x),
                "functional must return one value a row",
            ),
        ],
    )
    def test_bad_input(self, call, message):
        with pytest.raises(ValueError, match=message):
            call()


class TestTails:
    def test_subgaussian_norms(self):
        assert subgaussian_norm([1.0, -1.0] * 50) == pytest.approx(1 / math.sqrt(math.log(2)))
        quantiles = norm.ppf((np.arange(200_000) + 0.5) / 200_000)
        assert subgaussian_norm(quantiles) == pytest.approx(math.sqrt(8 / 3), rel=0.01)
        assert subgaussian_norm(7 * quantiles + 3) == pytest.approx(
            7 * subgaussian_norm(quantiles), rel=1e-9
        )
        assert subgaussian_norm([2.0, 2.0]) == 0

    def test_subgaussian_norm_of_huge_values_does_not_overflow(self):
        x = np.random.default_rng(0).standard_t(2, 1000) * 1e150
        assert np.isfinite(subgaussian_norm(x))

    @pytest.mark.parametrize("alpha", [0.7, 2.0, 5.0])
    def test_hill_recovers_a_pareto_tail(self, alpha):
        x = (1 - (np.arange(100_000) + 0.5) / 100_000) ** (-1 / alpha)
        assert hill_estimator(x, 5000) == pytest.approx(alpha, rel=0.01)

    def test_quantile_ratios(self):
        X = np.random.default_rng(0).standard_normal((1000, 3))
        np.testing.assert_allclose(tail_quantile_ratio(0.5 * X, X), 0.5)

    def test_report(self):
        X = np.random.default_rng(0).standard_normal((4000, 6))
        report = concentration_report(X, lipschitz=1.0, random_state=0)
        assert report.index.tolist() == ["linear", "norm", "distance", "max"]
        assert (report.tail_ratio < 1.1).all()
        assert report.loc["linear", "kurtosis"] == pytest.approx(3, abs=0.5)
        assert report.loc["norm", "std"] == pytest.approx(np.linalg.norm(X, axis=1).std())
        assert report.loc["max", "std"] == pytest.approx(X.max(axis=1).std())

    def test_report_sees_heavy_tails_and_a_false_constant(self):
        generator = np.random.default_rng(0)
        heavy = generator.standard_t(2.5, (4000, 3))
        assert (concentration_report(heavy, random_state=0).tail_ratio > 10).all()
        X = generator.standard_normal((4000, 3))
        assert concentration_report(X, 0.3, random_state=0).loc["linear", "tail_ratio"] > 10

    def test_report_of_some_functionals(self):
        report = concentration_report(np.eye(5), functionals=("max",), random_state=0)
        assert report.index.tolist() == ["max"]

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: concentration_report(np.ones(3)), "2D array"),
            (lambda: concentration_report(np.eye(3), functionals=["median"]), r"got \['median'\]"),
            (lambda: concentration_report(np.eye(3), lipschitz=0), "lipschitz must be above 0"),
            (lambda: concentration_report(np.eye(3), n_projections=0), "n_projections must be"),
            (lambda: subgaussian_norm([np.inf, 1]), "x must be 2 or more finite"),
            (lambda: hill_estimator([1.0, 2.0], 2), "k must lie between 1 and n - 1 = 1, got 2"),
            (lambda: hill_estimator([0.0, 2.0], 1), "x must be above 0"),
            (lambda: tail_quantile_ratio(np.eye(2), np.eye(2), [2]), "q must lie in"),
        ],
    )
    def test_bad_input(self, call, message):
        with pytest.raises(ValueError, match=message):
            call()
