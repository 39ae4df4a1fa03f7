"""Tasks, closed forms of the optimum and the loss, and the estimator of one step."""

import math
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from rankone.icl.linear_self_attention import (
    OneStepGDRegressor,
    empirical_step_size,
    make_regression_tasks,
    one_step_gd,
    optimal_preconditioner,
    optimal_step_size,
    population_loss,
    single_index_step_size,
)
from sklearn.base import clone
from sklearn.utils.estimator_checks import check_estimator


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# A few roundings of float64 through a solve of a well-conditioned matrix.
ROUNDING = 1e-12


def covariance(d, seed):
    """Eigenvalues from 0.3 to 3 in a random basis."""
    Q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))
    return torch.as_tensor(Q * np.geomspace(0.3, 3, d) @ Q.T)


SIGMA, LAMBDA = covariance(3, 1), covariance(3, 2)


def second_moment(n, sigma, lam, noise_std):
    """E[g g^T] from the moments of a Gaussian, with inverses and no shared code."""
    level = np.trace(lam @ sigma) + noise_std**2
    return n * (n + 1) * sigma @ lam @ sigma + n * level * sigma


# Closed forms.


def test_step_sizes_have_their_known_values():
    assert optimal_step_size(20, 5, noise_std=0.5) == pytest.approx(1 / 26.25, rel=ROUNDING)
    assert optimal_step_size(8, 3, w_var=4.0, noise_std=2.0) == pytest.approx(1 / 13)
    assert optimal_step_size(20, 8) == pytest.approx(1 / 29, rel=ROUNDING)
    assert optimal_step_size(1, 1) == pytest.approx(1 / 3, rel=ROUNDING)
    assert optimal_step_size(20, 5, noise_std=0.5, prefix="all") == pytest.approx(
        0.0502092, abs=5e-8
    )
    assert optimal_step_size(6, 2, noise_std=1.0, w_var=4.0, prefix="all") == pytest.approx(
        1 / (13 / 3 + 3 + 0.25), rel=ROUNDING
    )


def test_losses_have_their_known_values():
    step = optimal_step_size(20, 5, noise_std=0.5)
    assert population_loss(step, 20, 5, noise_std=0.5) == pytest.approx(1.440476, abs=5e-7)
    assert population_loss(1 / 29, 20, 8) == pytest.approx(8 - 160 / 29, rel=ROUNDING)
    assert population_loss(step, 5, 5, noise_std=0.5) == pytest.approx(3.753, abs=5e-4)
    assert population_loss(step, 80, 5, noise_std=0.5) == pytest.approx(24.84, abs=5e-3)
    assert population_loss(0.0, 7, 5, noise_std=0.5) == 5.25  # the query's label is noisy


def test_preconditioner_is_its_formula():
    level = float(np.trace(LAMBDA @ SIGMA)) + 0.36
    expected = np.linalg.inv(8 * SIGMA.numpy() + level * np.linalg.inv(LAMBDA.numpy()))
    P = optimal_preconditioner(7, SIGMA, w_cov=LAMBDA, noise_std=0.6)
    assert P.dtype == torch.float64
    np.testing.assert_allclose(P, expected, rtol=1e-11)
    isotropic = optimal_preconditioner(20, torch.eye(5), noise_std=0.5)
    np.testing.assert_allclose(isotropic, np.eye(5) / 26.25, rtol=ROUNDING, atol=1e-16)


def test_inverse_covariance_of_the_weights_is_the_anisotropic_case():
    P = optimal_preconditioner(20, SIGMA, w_cov="inverse", noise_std=0.5)
    inverse = np.linalg.inv(SIGMA.numpy())
    np.testing.assert_allclose(P, inverse / (20 + 3 + 1 + 0.25), rtol=1e-11)
    given = optimal_preconditioner(20, SIGMA, w_cov=inverse, noise_std=0.5)
    np.testing.assert_allclose(P, given, rtol=1e-11)
    loss = population_loss(P, 20, x_cov=SIGMA, w_cov="inverse", noise_std=0.5)
    isotropic = population_loss(optimal_step_size(20, 3, noise_std=0.5), 20, 3, noise_std=0.5)
    assert loss == pytest.approx(isotropic, rel=1e-11)


def test_singular_weights_are_allowed():
    lam = torch.diag(torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64))
    near = lam + 1e-9 * torch.eye(3, dtype=torch.float64)
    P = optimal_preconditioner(10, SIGMA, w_cov=lam, noise_std=0.2)
    np.testing.assert_allclose(
        P, optimal_preconditioner(10, SIGMA, w_cov=near, noise_std=0.2), atol=1e-8
    )
    nothing = optimal_preconditioner(10, SIGMA, w_cov=torch.zeros(3, 3))
    assert torch.equal(nothing, torch.zeros(3, 3, dtype=torch.float64))


def test_long_contexts_invert_the_covariance_and_much_noise_leaves_the_prior():
    inverse = np.linalg.inv(SIGMA.numpy())

    def error(n):
        P = n * optimal_preconditioner(n, SIGMA, w_cov=LAMBDA, noise_std=0.6).numpy()
        return np.linalg.norm(P - inverse) / np.linalg.norm(inverse)

    assert error(10**5) < 1e-3
    assert error(10**4) / error(10**5) == pytest.approx(10, rel=0.02)  # O(1 / n)
    noisy = 1e8 * optimal_preconditioner(7, SIGMA, w_cov=LAMBDA, noise_std=1e4)
    np.testing.assert_allclose(noisy, LAMBDA, rtol=1e-5, atol=1e-6)


def test_loss_is_a_parabola_around_the_preconditioner(rng):
    P = optimal_preconditioner(7, SIGMA, w_cov=LAMBDA, noise_std=0.6)
    moment = second_moment(7, SIGMA, LAMBDA, 0.6)
    law = {"x_cov": SIGMA, "w_cov": LAMBDA, "noise_std": 0.6}
    best = population_loss(P, 7, **law)
    shrunk = np.trace(SIGMA @ LAMBDA) + 0.36 - 7 * np.trace(SIGMA @ P @ SIGMA @ LAMBDA)
    assert best == pytest.approx(float(shrunk), rel=ROUNDING)
    for scale in (0.01, 1.0):
        D = torch.as_tensor(rng.normal(size=(3, 3)) * scale)
        rise = float((SIGMA @ D @ moment @ D.T).trace())
        assert population_loss(P + D, 7, **law) - best == pytest.approx(rise, rel=1e-9)


def test_rotating_the_covariances_rotates_the_preconditioner(rng):
    Q = torch.as_tensor(np.linalg.qr(rng.normal(size=(3, 3)))[0])
    P = optimal_preconditioner(7, SIGMA, w_cov=LAMBDA, noise_std=0.6)
    sigma, lam = Q @ SIGMA @ Q.T, Q @ LAMBDA @ Q.T
    turned = optimal_preconditioner(7, sigma, w_cov=lam, noise_std=0.6)
    np.testing.assert_allclose(turned, Q @ P @ Q.T, rtol=1e-10, atol=1e-12)
    assert population_loss(turned, 7, x_cov=sigma, w_cov=lam, noise_std=0.6) == pytest.approx(
        population_loss(P, 7, x_cov=SIGMA, w_cov=LAMBDA, noise_std=0.6), rel=1e-11
    )


def test_prefix_optimum_minimises_the_mean_loss_over_prefixes(rng):
    law = {"x_cov": SIGMA, "w_cov": LAMBDA, "noise_std": 0.6}
    P = optimal_preconditioner(6, SIGMA, w_cov=LAMBDA, noise_std=0.6, prefix="all")

    def mean_loss(candidate):
        return np.mean([population_loss(candidate, t, **law) for t in range(1, 7)])

    for _ in range(5):
        D = 1e-3 * torch.as_tensor(rng.normal(size=(3, 3)))
        assert mean_loss(P + D) > mean_loss(P)
        # A minimum: what is linear in D cancels.
        slope = abs(mean_loss(P + D) - mean_loss(P - D))
        assert slope < 1e-6 * (mean_loss(P + D) - mean_loss(P))
    isotropic = optimal_preconditioner(6, np.eye(3), noise_std=0.6, prefix="all")
    assert float(isotropic[0, 0]) == pytest.approx(
        optimal_step_size(6, 3, noise_std=0.6, prefix="all"), rel=ROUNDING
    )


def test_closed_forms_are_the_means_of_simulated_tasks(rng):
    tasks = make_regression_tasks(
        100_000, 7, 3, noise_std=0.6, x_cov=SIGMA, w_cov=LAMBDA, random_state=0, dtype=torch.float64
    )
    X, y = tasks.context
    X_query, y_query = tasks.query
    P = 0.02 * torch.as_tensor([[2.0, 1.0, 0.0], [-1.0, 1.0, 1.0], [0.5, -1.0, 3.0]])
    losses = (one_step_gd(X, y, X_query, P) - y_query).square()
    error = float(losses.std()) / math.sqrt(len(losses))
    exact = population_loss(P, 7, x_cov=SIGMA, w_cov=LAMBDA, noise_std=0.6)
    assert abs(float(losses.mean()) - exact) < 4 * error
    transposed = population_loss(P.T, 7, x_cov=SIGMA, w_cov=LAMBDA, noise_std=0.6)
    assert abs(transposed - exact) > 6 * error
    gradient = (X * y[..., None]).sum(1)
    moment = (gradient.T @ gradient / len(gradient)).numpy()
    exact = second_moment(7, SIGMA, LAMBDA, 0.6).numpy()
    assert np.linalg.norm(moment - exact) < 0.03 * np.linalg.norm(exact)


# Single-index targets.


def test_identity_link_is_a_linear_target():
    step = single_index_step_size(12, 4, lambda z: z, noise_std=0.3)
    assert step == pytest.approx(1 / (12 + 4 + 1 + 4 * 0.09), rel=1e-11)
    assert step == pytest.approx(optimal_step_size(12, 4, noise_std=0.3, w_var=1 / 4), rel=1e-11)


def test_cubic_link_has_its_moments():
    # c1 = 3, m0 = 15, m2 = 105, and six nodes are exact for them.
    exact = 9 / (11 * 9 + 3 * 15 + 105 + 4 * 0.09)
    assert single_index_step_size(12, 4, lambda z: z**3, noise_std=0.3) == pytest.approx(exact)
    five = single_index_step_size(12, 4, lambda z: z**3, noise_std=0.3, n_nodes=5)
    assert five == pytest.approx(exact, rel=1e-11)


def test_even_link_has_step_zero():
    assert single_index_step_size(12, 4, np.abs) == 0.0
    assert single_index_step_size(12, 4, lambda z: z**2 - 1, noise_std=1.0) == 0.0
    assert single_index_step_size(12, 4, np.zeros_like) == 0.0


@pytest.mark.parametrize(
    ("link", "array_link"),
    [(torch.tanh, np.tanh), (lambda z: torch.sin(2 * z), lambda z: np.sin(2 * z))],
)
def test_step_of_a_link_is_the_empirical_one(link, array_link):
    tasks = make_regression_tasks(
        60_000, 6, 3, noise_std=0.3, target="single_index", link=link, random_state=0
    )
    exact = single_index_step_size(6, 3, array_link, noise_std=0.3)
    assert empirical_step_size(tasks) == pytest.approx(exact, rel=0.03)
    torch.testing.assert_close(tasks.w.norm(dim=1), torch.ones(60_000))


def test_sign_costs_the_quadrature_half_a_percent():
    c1 = math.sqrt(2 / math.pi)
    exact = c1**2 / (11 * c1**2 + 3 + 1 + 4 * 0.09)
    assert single_index_step_size(12, 4, np.sign, noise_std=0.3) == pytest.approx(exact, rel=5e-3)


# Tasks.


def test_tasks_have_the_covariances_asked_for():
    tasks = make_regression_tasks(
        40_000, 1, 3, x_cov=SIGMA, w_cov="inverse", random_state=0, dtype=torch.float64
    )
    inverse = np.linalg.inv(SIGMA.numpy())
    for sample, exact in ((tasks.X.flatten(0, 1), SIGMA.numpy()), (tasks.w, inverse)):
        # An entry's standard error is at most sqrt(2 / 40,000) of the largest variance.
        np.testing.assert_allclose(
            np.cov(sample.T), exact, atol=4 * math.sqrt(2 / 40_000) * exact.max()
        )
    given = make_regression_tasks(40_000, 1, 3, w_cov=LAMBDA, random_state=0)
    np.testing.assert_allclose(np.cov(given.w.T), LAMBDA, atol=0.1)


def test_every_label_is_noisy_that_of_the_query_too():
    tasks = make_regression_tasks(20_000, 2, 3, noise_std=0.6, random_state=0)
    noise = tasks.y - (tasks.X @ tasks.w[..., None])[..., 0]
    assert noise.shape == (20_000, 3)
    for column in noise.T:
        assert float(column.std()) == pytest.approx(0.6, rel=0.03)
    clean = make_regression_tasks(5, 2, 3, random_state=0)
    torch.testing.assert_close(clean.y, (clean.X @ clean.w[..., None])[..., 0])


def test_network_targets_have_the_variance_of_their_law():
    tasks = make_regression_tasks(20_000, 1, 5, target="mlp", random_state=0)
    assert tasks.w is None
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(200_000, 5)) / math.sqrt(5)
    exact = np.mean(np.tanh((directions * rng.normal(size=directions.shape)).sum(1)) ** 2)
    assert float(tasks.y.square().mean()) == pytest.approx(exact, rel=0.05)


def test_tasks_repeat_by_random_state_and_continue_a_generator():
    first = make_regression_tasks(3, 4, 2, random_state=0)
    assert torch.equal(first.X, make_regression_tasks(3, 4, 2, random_state=0).X)
    assert not torch.equal(first.X, make_regression_tasks(3, 4, 2, random_state=1).X)
    generator = torch.Generator().manual_seed(0)
    draws = [make_regression_tasks(3, 4, 2, random_state=generator).X for _ in range(2)]
    assert not torch.equal(*draws)


def test_callable_target_gets_the_inputs_and_the_noise_is_added():
    def target(X, generator):
        return X.sum(-1).square()

    tasks = make_regression_tasks(4, 5, 2, target=target, random_state=0)
    torch.testing.assert_close(tasks.y, tasks.X.sum(-1).square())
    noisy = make_regression_tasks(4, 5, 2, target=target, noise_std=1.0, random_state=0)
    assert not torch.equal(noisy.y, tasks.y)


# One step.


def test_one_step_is_a_gradient_step_on_the_sum_of_squares():
    X, y = torch.randn(3, 6, 2, dtype=torch.float64), torch.randn(3, 6, dtype=torch.float64)
    queries = torch.randn(3, 4, 2, dtype=torch.float64)
    P = torch.randn(2, 2, dtype=torch.float64)
    w = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    (0.5 * ((X @ w[..., None])[..., 0] - y).square().sum()).backward()
    stepped = -w.grad @ P.T
    expected = (queries @ stepped[..., None])[..., 0]
    torch.testing.assert_close(one_step_gd(X, y, queries, P), expected)
    torch.testing.assert_close(one_step_gd(X, y, queries[:, 0], P), expected[:, 0])
    torch.testing.assert_close(
        one_step_gd(X, y, queries, 0.3), one_step_gd(X, y, queries, 0.3 * torch.eye(2))
    )


def test_regressor_follows_the_conventions():
    check_estimator(OneStepGDRegressor())


def test_regressor_takes_the_optimal_step(rng):
    X = rng.normal(size=(30, 3))
    y = X @ [1.0, -2.0, 0.5]
    model = OneStepGDRegressor(noise_std=0.6, x_cov=SIGMA, w_cov=LAMBDA).fit(X, y)
    P = optimal_preconditioner(30, SIGMA, w_cov=LAMBDA, noise_std=0.6).numpy()
    np.testing.assert_allclose(model.preconditioner_, P)
    np.testing.assert_allclose(model.coef_, P @ X.T @ y)
    np.testing.assert_allclose(model.predict(X), X @ model.coef_)
    plain = OneStepGDRegressor(step_size=0.02).fit(X, y)
    np.testing.assert_allclose(plain.coef_, 0.02 * X.T @ y)
    matrix = rng.normal(size=(3, 3))
    np.testing.assert_allclose(OneStepGDRegressor(matrix).fit(X, y).coef_, matrix @ X.T @ y)


def test_regressor_is_what_a_task_predicts_and_takes_frames():
    tasks = make_regression_tasks(1, 9, 3, random_state=0, dtype=torch.float64)
    X, y = (tensor[0].numpy() for tensor in tasks.context)
    model = clone(OneStepGDRegressor()).fit(pd.DataFrame(X, columns=list("abc")), y)
    assert list(model.feature_names_in_) == ["a", "b", "c"]
    query = pd.DataFrame(tasks.query[0].numpy(), columns=list("abc"))
    expected = one_step_gd(*tasks.context, tasks.query[0], optimal_step_size(9, 3))
    np.testing.assert_allclose(pickle.loads(pickle.dumps(model)).predict(query), expected)


# Bad input.

INDEFINITE = np.diag([1.0, -1.0, 1.0])
SKEWED = np.array([[1.0, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
SEMIDEFINITE = np.diag([1.0, 0.0, 1.0])
DATA = (np.zeros((4, 3)), np.zeros(4))
ZEROS = (torch.zeros(2, 4, 3), torch.zeros(2, 4), torch.zeros(2, 3))


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: make_regression_tasks(0, 2, 3), ValueError, "n_tasks must be an integer"),
        (lambda: make_regression_tasks(1, 0, 3), ValueError, "n_context must be an integer of at"),
        (lambda: make_regression_tasks(1, 2, 0), ValueError, "n_features must be an integer"),
        (lambda: make_regression_tasks(1, 2, 3, noise_std=-1), ValueError, "noise_std must be a"),
        (
            lambda: make_regression_tasks(1, 2, 3, x_cov=INDEFINITE),
            ValueError,
            "x_cov must be symmetric positive definite, got smallest eigenvalue -1",
        ),
        (
            lambda: make_regression_tasks(1, 2, 3, x_cov=SEMIDEFINITE),
            ValueError,
            "x_cov must be symmetric positive definite",
        ),
        (lambda: make_regression_tasks(1, 2, 3, x_cov=SKEWED), ValueError, "x_cov must be symm"),
        (lambda: make_regression_tasks(1, 2, 3, w_cov=SKEWED), ValueError, "w_cov must be symm"),
        (
            lambda: make_regression_tasks(1, 2, 3, w_cov=INDEFINITE),
            ValueError,
            "w_cov must be symmetric positive semi-definite",
        ),
        (
            lambda: make_regression_tasks(1, 2, 2, x_cov=SIGMA),
            ValueError,
            r"x_cov must have shape \(2, 2\), got \(3, 3\)",
        ),
        (
            lambda: make_regression_tasks(1, 2, 3, x_cov=np.full((3, 3), np.nan)),
            ValueError,
            "x_cov must be finite",
        ),
        (
            lambda: make_regression_tasks(1, 2, 3, x_cov=[["a"] * 3] * 3),
            TypeError,
            "x_cov must hold real numbers",
        ),
        (lambda: make_regression_tasks(1, 2, 3, w_cov="same"), ValueError, "'inverse', got 'same'"),
        (lambda: make_regression_tasks(1, 2, 3, target="cubic"), ValueError, "target must be one"),
        (
            lambda: make_regression_tasks(1, 2, 3, target="single_index"),
            ValueError,
            "link must be a callable for target='single_index', got None",
        ),
        (lambda: make_regression_tasks(1, 2, 3, link=torch.tanh), ValueError, "link must be None"),
        (
            lambda: make_regression_tasks(1, 2, 3, target="mlp", w_cov="inverse"),
            ValueError,
            "w_cov must be None for a nonlinear target",
        ),
        (
            lambda: make_regression_tasks(1, 2, 3, target=lambda X, generator: X),
            ValueError,
            r"target must return a tensor of shape \(1, 3\), got \(1, 3, 3\)",
        ),
        (
            lambda: make_regression_tasks(1, 2, 3, random_state=-1),
            ValueError,
            "random_state must be an integer from 0 to .*, got -1",
        ),
        (lambda: make_regression_tasks(1, 2, 3, dtype=torch.half), TypeError, "dtype must be"),
        (lambda: optimal_step_size(0, 3), ValueError, "n_context must be an integer"),
        (lambda: optimal_step_size(2, 3, w_var=0.0), ValueError, "w_var must be a finite number a"),
        (lambda: optimal_step_size(2, 3, prefix="some"), ValueError, "prefix must be one of full"),
        (lambda: optimal_preconditioner(0, SIGMA), ValueError, "n_context must be an integer"),
        (lambda: optimal_preconditioner(2, INDEFINITE), ValueError, "x_cov must be symmetric pos"),
        (lambda: optimal_preconditioner(2, None), ValueError, "x_cov must be a"),
        (lambda: optimal_preconditioner(2, SIGMA, noise_std=-1), ValueError, "noise_std must be"),
        (lambda: population_loss(0.1, 5), ValueError, "n_features must be given"),
        (lambda: population_loss(np.eye(2), 5, 3), ValueError, "preconditioner must have shape"),
        (lambda: population_loss(np.eye(2), 5, x_cov=SIGMA), ValueError, "x_cov must have shape"),
        (lambda: population_loss(math.inf, 5, 3), ValueError, "preconditioner must be finite"),
        (lambda: population_loss("optimal", 5, 3), ValueError, "preconditioner must be a number"),
        (lambda: single_index_step_size(2, 3, None), ValueError, "link must be a callable"),
        (lambda: single_index_step_size(2, 3, np.log), ValueError, "link must return 128 finite"),
        (lambda: single_index_step_size(2, 3, np.sum), ValueError, "link must return 128 finite"),
        (lambda: single_index_step_size(2, 3, np.tanh, n_nodes=1), ValueError, "n_nodes must be"),
        (lambda: one_step_gd(*ZEROS, np.eye(2)), ValueError, "preconditioner must be a number or"),
        (lambda: one_step_gd(ZEROS[0], *ZEROS[2:] * 2, 1.0), ValueError, "y must have shape"),
        (lambda: OneStepGDRegressor("best").fit(*DATA), ValueError, "step_size must be one of opt"),
        (lambda: OneStepGDRegressor(np.eye(2)).fit(*DATA), ValueError, "step_size must have shape"),
        (lambda: OneStepGDRegressor(noise_std=-1).fit(*DATA), ValueError, "noise_std must be a"),
        (lambda: OneStepGDRegressor(x_cov=np.eye(2)).fit(*DATA), ValueError, "x_cov must have sh"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.filterwarnings("error")
def test_all_zero_contexts_have_no_empirical_step():
    tasks = make_regression_tasks(3, 2, 2, target=lambda X, generator: 0 * X.sum(-1))
    with pytest.raises(ValueError, match="tasks must have a context that is not all 0"):
        empirical_step_size(tasks)
