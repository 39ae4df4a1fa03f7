"""Rep4Ex: the moment restriction, the control function, and the two together."""

import math
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from rankone.causal.intervention_extrapolation import (
    ControlFunctionRegressor,
    LinearInvarianceAutoencoder,
    Rep4Ex,
    affine_r2,
    maximum_moment_restriction,
    moment_permutation_test,
)
from scipy.spatial.distance import pdist
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import NotFittedError
from torch import nn

# The ridge of the covariance, 1e-6, beside variances of at least about 0.1.
RIDGE_ERROR = 1e-3

# What rounding leaves of a sum of 10^4 float64 numbers of order one.
SUM_ERROR = 1e-12


def codes_and_actions(seed, b=150, d=2, k=2, curvature=0.0):
    """Codes whose mean is affine in actions uniform on a square, plus ``curvature`` times A^2."""
    rng = np.random.default_rng(seed)
    A = rng.uniform(-1, 1, (b, k))
    slope = rng.normal(size=(k, d))
    phi = 0.3 + A @ slope + curvature * A[:, :d] ** 2 + rng.normal(size=(b, d))
    return torch.tensor(phi), torch.tensor(A)


def double_sum(phi, A, s, diagonal=True):
    """The raw criterion, pair by pair."""
    phi, A = phi.numpy(), A.numpy()
    design = np.column_stack([np.ones(len(A)), A])
    R = phi - design @ np.linalg.lstsq(design, phi, rcond=None)[0]
    total = 0.0
    for i in range(len(A)):
        for j in range(len(A)):
            if diagonal or i != j:
                kernel = math.exp(-np.sum((A[i] - A[j]) ** 2) / (2 * s**2))
                total += kernel * R[i] @ R[j]
    return total / len(A) ** 2


# The criterion.


@pytest.mark.parametrize(("d", "k"), [(1, 1), (2, 2), (3, 4)])
def test_raw_criterion_is_the_double_sum_with_its_diagonal(d, k):
    phi, A = codes_and_actions(0, b=60, d=d, k=k)
    value = maximum_moment_restriction(phi, A, bandwidth=0.7, normalize=False)
    assert value.shape == ()
    assert math.isclose(value, double_sum(phi, A, 0.7), rel_tol=1e-9)


def test_bandwidth_is_the_median_distance():
    phi, A = codes_and_actions(1)
    median = float(np.median(pdist(A.numpy())))
    default, explicit = (
        maximum_moment_restriction(phi, A, **options) for options in ({}, {"bandwidth": median})
    )
    assert math.isclose(default, explicit, rel_tol=SUM_ERROR)


def test_raw_criterion_ignores_affine_functions_of_the_action_and_scales_with_the_square():
    phi, A = codes_and_actions(2)
    raw = maximum_moment_restriction(phi, A, normalize=False)
    shifted = phi + 5 - A @ torch.tensor([[3.0, -1.0], [0.5, 8.0]], dtype=A.dtype)
    assert math.isclose(maximum_moment_restriction(shifted, A, normalize=False), raw, rel_tol=1e-10)
    scaled = maximum_moment_restriction(0.01 * phi, A, normalize=False)
    assert math.isclose(scaled, 1e-4 * raw, rel_tol=1e-10)


def test_normalised_criterion_ignores_affine_maps_of_the_code():
    phi, A = codes_and_actions(3)
    value = maximum_moment_restriction(phi, A)
    mixed = phi @ torch.tensor([[2.0, -1.0], [0.7, 0.4]], dtype=A.dtype) - 4
    assert math.isclose(maximum_moment_restriction(mixed, A), value, rel_tol=RIDGE_ERROR)
    # What drives the raw criterion to 0 leaves this one as it was.
    assert math.isclose(maximum_moment_restriction(0.1 * phi, A), value, rel_tol=RIDGE_ERROR)


def mean_criterion(b, curvature=0.0, repetitions=6):
    values = [
        float(maximum_moment_restriction(*codes_and_actions(100 + i, b=b, curvature=curvature)))
        for i in range(repetitions)
    ]
    return np.mean(values)


def test_criterion_of_an_affine_mean_falls_like_one_over_b():
    large, small = mean_criterion(1000), mean_criterion(128, repetitions=40)
    # The slope varies, and with it the share of noise in the code: 2.2e-4 is for pure noise.
    assert large < 2.5e-4
    assert 4 < small / large < 16
    rng = np.random.default_rng(4)
    noise = [
        maximum_moment_restriction(
            torch.tensor(rng.normal(size=(1000, 2))), torch.tensor(rng.uniform(-1, 1, (1000, 2)))
        ).item()
        for _ in range(8)
    ]
    assert math.isclose(np.mean(noise), 2.2e-4, rel_tol=0.15)


def test_curvature_raises_the_criterion_by_an_order_of_magnitude():
    assert mean_criterion(1000, curvature=1.5) > 10 * mean_criterion(1000)


def test_departures_that_no_square_shows_are_found():
    rng = np.random.default_rng(5)
    A = rng.uniform(-1, 1, (1000, 1))
    # The third Legendre polynomial: uncorrelated with 1, A and A^2.
    phi = 3 * A + (5 * A**3 - 3 * A) + 0.5 * rng.normal(size=A.shape)
    assert abs(np.corrcoef((phi - 3 * A)[:, 0], A[:, 0] ** 2)[0, 1]) < 0.1
    assert moment_permutation_test(phi, A, n_permutations=99, random_state=0).p_value == 0.01


def test_without_the_diagonal_noise_would_be_negative():
    rng = np.random.default_rng(6)
    with_diagonal, without = [], []
    for _ in range(15):
        phi = torch.tensor(rng.normal(size=(40, 1)))
        A = torch.tensor(rng.uniform(-1, 1, (40, 1)))
        with_diagonal.append(
            maximum_moment_restriction(phi, A, bandwidth=0.6, normalize=False).item()
        )
        without.append(double_sum(phi, A, 0.6, diagonal=False))
    assert min(with_diagonal) > 0
    assert np.mean(without) < -3 * np.std(without) / math.sqrt(len(without))


@pytest.mark.parametrize("normalize", [True, False])
def test_gradient_is_exact(normalize):
    phi, A = codes_and_actions(7, b=8)
    phi.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda values: maximum_moment_restriction(values, A, normalize=normalize), phi
    )


def test_gradient_flows_through_the_fit_and_the_covariance():
    phi, A = codes_and_actions(8)
    phi.requires_grad_()
    (gradient,) = torch.autograd.grad(maximum_moment_restriction(phi, A), phi)
    size = gradient.norm() * phi.norm()
    # Neither a shift along A nor a stretch changes the value; with W or C detached both would.
    (raw,) = torch.autograd.grad(maximum_moment_restriction(phi, A, normalize=False), phi)
    assert (A.T @ raw).abs().max() < SUM_ERROR * raw.norm() * A.norm()
    assert (gradient * (phi - phi.mean(dim=0))).sum().abs() < 1e-5 * size


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_criterion_takes_any_floating_dtype(dtype):
    phi, A = codes_and_actions(9)
    value = maximum_moment_restriction(phi.to(dtype), A.to(dtype))
    assert value.dtype == dtype
    exact = maximum_moment_restriction(phi.to(dtype).double(), A.to(dtype).double())
    assert math.isclose(value, exact, rel_tol=max(1e-4, torch.finfo(dtype).eps))


def test_actions_far_from_zero_lose_no_precision():
    phi, A = codes_and_actions(10)
    far = maximum_moment_restriction(phi.float(), A + 1e6)
    assert math.isclose(far, maximum_moment_restriction(phi, A), rel_tol=1e-4)


# The permutation test.


def test_p_values_are_uniform_where_the_restriction_holds():
    p = [
        moment_permutation_test(
            *codes_and_actions(seed, b=60), n_permutations=39, random_state=seed
        ).p_value
        for seed in range(150)
    ]
    assert abs(np.mean(p) - 0.5) < 4 * math.sqrt(1 / 12 / 150)
    assert abs(np.mean(np.array(p) <= 0.1) - 0.1) < 4 * math.sqrt(0.09 / 150)


def test_permutations_in_blocks_give_the_same_test(monkeypatch):
    phi, A = codes_and_actions(11, b=80, curvature=0.4)
    whole = moment_permutation_test(phi, A, n_permutations=30, random_state=0)
    monkeypatch.setattr("rankone.causal._moment_restriction._BUDGET", 80 * 2 * 7)
    assert moment_permutation_test(phi, A, n_permutations=30, random_state=0) == whole
    assert math.isclose(whole.statistic, maximum_moment_restriction(phi, A), rel_tol=SUM_ERROR)


# The control function.


def quadratic_world(n, *, confounding, seed=0):
    """``Z = 0.5 + A + V``, ``Y = 0.6 Z^2 - Z + U``, and the closed form of its effects."""
    rng = np.random.default_rng(seed)
    A = rng.uniform(-1.5, 1.5, (n, 1))
    V = 0.7 * rng.normal(size=(n, 1))
    Z = 0.5 + A + V
    U = confounding * V[:, 0] + 0.2 * rng.normal(size=n)

    def effect(x):
        m = 0.5 + x[:, 0]
        return 0.6 * (m**2 + 0.49) - m

    return Z, A, 0.6 * Z[:, 0] ** 2 - Z[:, 0] + U, effect


@pytest.fixture(scope="module")
def quadratic():
    world = quadratic_world(2500, confounding=1.5)
    return *world, ControlFunctionRegressor(random_state=0).fit(*world[:3])


def test_effect_has_its_closed_form_and_is_biased_without_control(quadratic):
    Z, A, Y, effect, model = quadratic
    tried = np.linspace(-1.2, 1.2, 9)[:, None]
    # Three standard deviations of U in a mean of n / 9 rows.
    tolerance = 3 * math.hypot(1.5 * 0.7, 0.2) / math.sqrt(2500 / 9)
    assert np.abs(model.predict_do(tried) - effect(tried)).max() < tolerance
    biased = ControlFunctionRegressor(control=False, random_state=0).fit(Z, A, Y)
    assert np.abs(biased.predict_do(tried) - effect(tried)).max() > 3 * tolerance
    assert biased.lambda_mean_ == 0


def test_conditional_effect_adds_the_control_function(quadratic):
    Z, _, _, _, model = quadratic
    z, a = np.array([[0.5], [1.0], [1.5]]), np.array([[0.4], [0.0], [0.6]])
    expected = 0.6 * z[:, 0] ** 2 - z[:, 0] + 1.5 * (z - 0.5 - a)[:, 0]
    assert np.allclose(model.predict_do(a, z), expected, atol=0.15)
    # The average over the residuals of one action is the average effect.
    action = np.full((len(Z), 1), 0.3)
    moved = model.intercept_ + action @ model.M_.T + model.residuals_
    assert math.isclose(
        model.predict_do(action, moved).mean(), model.predict_do(action[:1])[0], rel_tol=1e-5
    )


def test_linear_world_agrees_with_two_stage_least_squares():
    rng = np.random.default_rng(12)
    n = 2000
    A = rng.uniform(-1, 1, (n, 2))
    V = rng.normal(size=(n, 2)) @ [[0.8, 0.3], [0.0, 0.6]]
    Z = 1 + A @ [[1.0, 0.3], [-0.2, 0.9]] + V
    Y = 2 + Z @ [1.0, -0.5] + V @ [0.9, 0.7] + 0.2 * rng.normal(size=n)
    model = ControlFunctionRegressor(random_state=0).fit(Z, A, Y)
    design = np.column_stack([np.ones(n), A])
    fitted = design @ np.linalg.lstsq(design, Z, rcond=None)[0]
    second = np.linalg.lstsq(np.column_stack([np.ones(n), fitted]), Y, rcond=None)[0]
    points = np.array([[0, 0], [0.6, 0.6], [-0.6, 0.6], [0.6, -0.6]])
    first = np.linalg.lstsq(design, Z, rcond=None)[0]
    states = np.column_stack([np.ones(4), points]) @ first
    expected = second[0] + states @ second[1:]
    assert np.allclose(model.predict_do(points), expected, atol=0.1)
    naive = np.linalg.lstsq(np.column_stack([np.ones(n), Z]), Y, rcond=None)[0]
    assert np.abs(naive[0] + states @ naive[1:] - expected).max() > 0.3


def test_affine_recoding_leaves_the_curve():
    n = 1500
    Z, A, Y, _ = quadratic_world(n, confounding=1.0)
    rng = np.random.default_rng(13)
    A2 = rng.uniform(-1, 1, (n, 2))
    A2[:, :1] = A / 1.5
    Z2 = np.column_stack([Z, A2[:, 1:] + 0.5 * rng.normal(size=(n, 1))])
    mixed = Z2 @ [[2.0, -0.5], [0.8, 1.0]] + [3, -7]
    points = np.column_stack([np.linspace(-0.8, 0.8, 7), np.zeros(7)])
    curves = [
        ControlFunctionRegressor(random_state=0).fit(codes, A2, Y).predict_do(points)
        for codes in (Z2, mixed)
    ]
    assert np.abs(curves[0] - curves[1]).max() < 0.12
    assert np.ptp(curves[0]) > 0.8


class Polynomial(BaseEstimator):
    """Quadratic l plus linear lambda, with a constant moved between them by ``offset``."""

    def __init__(self, offset=0.0):
        self.offset = offset

    def fit(self, Z, V, Y):
        design = np.column_stack([np.ones(len(Z)), Z, Z**2, V])
        self.coef_ = np.linalg.lstsq(design, Y, rcond=None)[0]
        return self

    def predict_outcome(self, Z):
        c = self.coef_
        return c[0] + c[1] * Z[:, 0] + c[2] * Z[:, 0] ** 2 + self.offset

    def predict_control(self, V):
        return self.coef_[3] * V[:, 0] - self.offset


def test_another_additive_regression_can_be_given():
    Z, A, Y, effect = quadratic_world(4000, confounding=1.5)
    model = ControlFunctionRegressor(estimator=Polynomial(), random_state=0).fit(Z, A, Y)
    far = np.array([[-3.0], [0.0], [3.0]])
    assert np.allclose(model.predict_do(far), effect(far), atol=0.15)
    assert not hasattr(model.estimator, "coef_")


def test_constant_between_the_parts_does_not_matter():
    Z, A, Y, _ = quadratic_world(500, confounding=1.5)
    plain, moved = (
        ControlFunctionRegressor(estimator=Polynomial(offset), random_state=0).fit(Z, A, Y)
        for offset in (0.0, 9.0)
    )
    assert math.isclose(moved.lambda_mean_, -9, rel_tol=1e-9)
    assert np.allclose(moved.predict_do(A[:5]), plain.predict_do(A[:5]))
    assert np.allclose(moved.predict_do(A[:5], Z[:5]), plain.predict_do(A[:5], Z[:5]))


def test_average_is_over_residuals_around_the_new_mean():
    Z, A, Y, _ = quadratic_world(400, confounding=1.0)
    model = ControlFunctionRegressor(estimator=Polynomial(), random_state=0).fit(Z, A, Y)
    c = model.estimator_.coef_
    state = model.intercept_ + model.M_ @ [2.5] + model.residuals_[:, 0]
    expected = np.mean(c[0] + c[1] * state + c[2] * state**2)
    assert math.isclose(model.predict_do([[2.5]])[0], expected, rel_tol=1e-12)


def test_first_stage_is_least_squares():
    Z, A, Y, _ = quadratic_world(300, confounding=1.0)
    model = ControlFunctionRegressor(epochs=1, random_state=0).fit(Z, A, Y)
    slope, intercept = np.polyfit(A[:, 0], Z[:, 0], 1)
    assert math.isclose(model.M_[0, 0], slope, rel_tol=1e-9)
    assert math.isclose(model.intercept_[0], intercept, rel_tol=1e-9)
    residuals = Z[:, 0] - intercept - slope * A[:, 0]
    assert np.allclose(model.residuals_[:, 0], residuals)
    explained = np.sum((slope * (A - A.mean())) ** 2)
    assert math.isclose(model.first_stage_f_, explained / (residuals @ residuals / 298))


def test_actions_that_leave_a_direction_of_the_state_alone_are_reported():
    rng = np.random.default_rng(14)
    A = rng.uniform(-1, 1, (400, 2))
    Z = np.column_stack([A[:, 0], A[:, 0]]) + rng.normal(size=(400, 2))
    with pytest.warns(UserWarning, match="hardly moves some direction of Z"):
        ControlFunctionRegressor(epochs=1, random_state=0).fit(Z, A, Z[:, 0])


# Both together.


def curved_world(n, seed):
    """Two latent states behind a curved injection into six features."""
    rng = np.random.default_rng(seed)
    A = rng.uniform(-1, 1, (n, 2))
    V = 0.5 * rng.normal(size=(n, 2))
    Z = A @ [[1.2, -0.4], [0.4, 1.2]] + V
    first = Z[:, 0] + 0.45 * Z[:, 1] ** 2
    warped = np.column_stack([first, Z[:, 1] + 0.35 * np.sin(1.5 * first)])
    features = warped @ np.random.default_rng(99).normal(size=(2, 6))
    X = np.where(features < 0, 0.3 * features, features)
    Y = 1.5 * Z[:, 0] + Z[:, 1] ** 2 + V[:, 0] + 0.1 * rng.normal(size=n)
    return X, A, Y, Z


SMALL = {"hidden": (32, 32), "epochs": 40, "batch_size": 400, "random_state": 0}


@pytest.fixture(scope="module")
def world():
    return curved_world(2400, seed=0)


@pytest.fixture(scope="module")
def fitted(world):
    X, A, Y, _ = world
    return Rep4Ex(2, **SMALL).fit(X, A, Y)


@pytest.fixture(scope="module")
def vanilla(world):
    X, A, _, _ = world
    return Rep4Ex(2, reg=0, **SMALL).fit(X, A)


def test_penalty_identifies_the_state_up_to_an_affine_map(world, fitted, vanilla):
    X, _, _, Z = world
    with_penalty, without = (affine_r2(Z, m.transform(X)) for m in (fitted, vanilla))
    assert with_penalty > 0.93
    assert with_penalty > without + 0.05
    assert fitted.moment_loss_ < 0.5 * vanilla.moment_loss_


def test_moment_test_tells_the_codes_apart_on_fresh_rows(fitted, vanilla):
    X, A, _, _ = curved_world(600, seed=1)
    rejected = vanilla.moment_test(X, A, n_permutations=99, random_state=0)
    statistic, p = fitted.moment_test(X, A, n_permutations=99, random_state=0)
    assert rejected.p_value <= 0.02
    assert p > rejected.p_value
    assert statistic < rejected.statistic


def test_autoencoder_reconstructs(world, fitted):
    X, *_ = world
    restored = fitted.inverse_transform(fitted.transform(X))
    error = np.mean(((restored - X) / X.std(axis=0)) ** 2)
    assert math.isclose(error, fitted.reconstruction_loss_, rel_tol=1e-5)
    assert error < 0.05
    assert fitted.history_.moment.shape == fitted.history_.reconstruction.shape == (40,)


def test_effects_are_those_of_the_regressor_on_the_code(world, fitted):
    X, A, _, _ = world
    assert np.array_equal(fitted.predict_do(A[:6]), fitted.regressor_.predict_do(A[:6]))
    conditional = fitted.predict_do(A[:6], X[:6])
    assert np.allclose(conditional, fitted.regressor_.predict_do(A[:6], fitted.transform(X[:6])))
    assert np.allclose(fitted.M_, fitted.regressor_.M_)


def test_coverage_is_the_share_of_shifted_states_in_the_box(world, fitted):
    X, *_ = world
    codes = fitted.transform(X)
    for action in ([0.2, -0.3], [1.5, 1.5]):
        moved = fitted.intercept_ + fitted.M_ @ action + fitted.residuals_
        inside = ((moved >= codes.min(axis=0)) & (moved <= codes.max(axis=0))).all(axis=1)
        assert math.isclose(fitted.coverage([action])[0], inside.mean())
    with pytest.warns(UserWarning, match="coverage falls to 0.00"):
        fitted.predict_do([[9.0, 9.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted.predict_do([[0.0, 0.0]])


def test_effects_come_with_their_coverage(fitted):
    frame = fitted.effects(pd.DataFrame({"dose": [0.0, 0.5], "dial": [0.0, 0.5]}))
    assert list(frame.columns) == ["dose", "dial", "effect", "coverage"]
    assert np.allclose(frame["coverage"], fitted.coverage([[0, 0], [0.5, 0.5]]))


def short(**options):
    regressor = ControlFunctionRegressor(epochs=2)
    return Rep4Ex(2, **{**SMALL, "epochs": 2, "regressor": regressor, **options})


def test_one_state_and_one_action():
    rng = np.random.default_rng(15)
    A = rng.uniform(-1, 1, (900, 1))
    Z = A + 0.4 * rng.normal(size=(900, 1))
    X = np.hstack([Z + 0.3 * Z**2, np.tanh(Z), Z**3 / 3])
    model = Rep4Ex(1, hidden=(16,), epochs=40, batch_size=300, random_state=0)
    model.fit(X, A, 2 * Z[:, 0])
    assert affine_r2(Z, model.transform(X)) > 0.9
    assert model.predict_do([[0.0], [0.5]]).shape == model.coverage([[0.0], [0.5]]).shape == (2,)
    assert model.M_.shape == (1, 1)


def test_equal_seeds_give_equal_results_and_leave_the_global_generator(world):
    X, A, Y, _ = world
    before = torch.random.get_rng_state()
    first, again, other = (short(random_state=seed).fit(X, A, Y) for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert np.array_equal(first.transform(X), again.transform(X))
    assert np.array_equal(first.predict_do(A[:5], X[:5]), again.predict_do(A[:5], X[:5]))
    assert not np.allclose(first.transform(X), other.transform(X))


class Dropped(nn.Module):
    """An autoencoder that draws from the global generator."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Linear(6, 2), nn.Linear(2, 6)

    def encode(self, x):
        return self.down(nn.functional.dropout(x, 0.1, self.training))

    def decode(self, z):
        return self.up(z)


def test_modules_of_the_user_are_copied_and_repeatable(world):
    X, A, _, _ = world
    module = Dropped()
    weight = module.down.weight.clone()
    before = torch.random.get_rng_state()
    codes = [short(autoencoder=module).fit(X, A).transform(X) for _ in range(2)]
    assert np.array_equal(*codes)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(module.down.weight, weight)


def test_regressors_of_the_user_are_cloned(world):
    X, A, Y, _ = world
    given = ControlFunctionRegressor(epochs=1)
    models = [short(regressor=given).fit(X, A, Y) for _ in range(2)]
    assert not hasattr(given, "M_")
    assert models[0].regressor_.epochs == 1
    states = models[0].transform(X[:4])
    assert np.array_equal(*(model.regressor_.predict_do(A[:4], states) for model in models))


def test_clone_pickle_and_frames(world, fitted):
    X, A, Y, _ = world
    assert clone(fitted).get_params() == fitted.get_params()
    restored = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(restored.predict_do(A[:4]), fitted.predict_do(A[:4]))
    frame = pd.DataFrame(X, columns=[f"gene {index}" for index in range(6)])
    model = short().set_output(transform="pandas").fit(frame, pd.DataFrame(A), pd.Series(Y))
    codes = model.transform(frame)
    assert list(codes.columns) == ["rep4ex0", "rep4ex1"]
    assert np.array_equal(codes.to_numpy(), short().fit_transform(X, A))
    assert model.predict_do(A[:3], frame[:3]).shape == (3,)


def test_constant_features_are_left_as_they_are(world):
    X, A, _, _ = world
    padded = np.column_stack([X, np.full(len(X), 7.0)])
    model = short().fit(padded, A)
    assert np.isfinite(model.transform(padded)).all()
    assert model.scale_[-1] == 1


def test_refitting_without_outcomes_forgets_the_regression(world):
    X, A, Y, _ = world
    model = short().fit(X, A, Y).fit(X, A)
    with pytest.raises(NotFittedError, match=r"call fit\(X, A, Y\)"):
        model.predict_do(A)


@pytest.mark.cuda
def test_training_on_a_gpu(world):
    X, A, _, Z = world
    model = Rep4Ex(2, device="cuda", **SMALL).fit(X, A)
    assert affine_r2(Z, model.transform(X)) > 0.93
    assert np.isfinite(model.inverse_transform(model.transform(X))).all()


def test_small_batches_are_reported(world):
    X, A, _, _ = world
    with pytest.warns(UserWarning, match="batches of 200 rows"):
        short(batch_size=200, epochs=1).fit(X, A)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        short(batch_size=200, epochs=1, reg=0).fit(X, A)


def test_actions_of_few_values_are_reported(world):
    X, A, _, _ = world
    with pytest.warns(UserWarning, match="a column of A has 5 values"):
        short(epochs=1).fit(X, np.column_stack([A[:, 0], np.round(2 * A[:, 1])]))


def test_diverged_training_is_an_error(world):
    X, A, _, _ = world
    with pytest.raises(RuntimeError, match="lower lr, which is 1e"):
        short(epochs=4, lr=1e12).fit(X, A)


def test_plots_return_their_axes(fitted):
    pytest.importorskip("matplotlib").use("Agg")
    from matplotlib.figure import Figure

    path = np.linspace(-1.5, 1.5, 7)[:, None] * [1.0, 1.0]
    axes = Figure().add_subplot()
    assert fitted.plot_effects(path, ax=axes) is axes
    assert np.allclose(axes.lines[0].get_xdata(), path[:, 0])
    training = fitted.plot_training(ax=Figure().add_subplot())
    assert np.array_equal(training.lines[0].get_ydata(), fitted.history_.moment)


def test_autoencoder_mirrors_its_layers():
    module = LinearInvarianceAutoencoder(10, 2, hidden=(7, 5))
    shapes = [tuple(p.shape) for p in module.parameters() if p.ndim == 2]
    assert shapes == [(7, 10), (5, 7), (2, 5), (5, 2), (7, 5), (10, 7)]
    reconstruction, z = module(torch.ones(3, 10))
    assert torch.equal(z, module.encode(torch.ones(3, 10)))
    assert torch.equal(reconstruction, module.decode(z))


def test_affine_r2_sees_through_mixing_alone():
    rng = np.random.default_rng(16)
    Z = rng.normal(size=(500, 2))
    assert math.isclose(affine_r2(Z, Z @ [[1.0, 2.0], [-1.0, 1.0]] + 3), 1, rel_tol=1e-12)
    # A column known and the other not: half of the pooled variance.
    noise = np.column_stack([Z[:, 0], rng.normal(size=500)])
    share = np.var(Z[:, 0]) / np.var(Z, axis=0).sum()
    assert math.isclose(affine_r2(Z, noise), share, abs_tol=0.02)


# Bad input.

PHI, ACTIONS = torch.zeros(9, 2), torch.arange(18.0).reshape(9, 2) ** 2
X9, A9, Y9 = np.random.default_rng(17).normal(size=(3, 40, 2))


def fit(A=A9, X=X9, Y=None, **options):
    return Rep4Ex(2, epochs=1, reg=options.pop("reg", 0), **options).fit(X, A, Y)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: maximum_moment_restriction(PHI[:, 0], ACTIONS), ValueError, "phi must be 2-D"),
        (lambda: maximum_moment_restriction(PHI, ACTIONS[:, 0]), ValueError, "A must be 2-D"),
        (lambda: maximum_moment_restriction(PHI[1:], ACTIONS), ValueError, "got 8 and 9"),
        (lambda: maximum_moment_restriction(PHI.int(), ACTIONS), TypeError, "phi must have a fl"),
        (lambda: maximum_moment_restriction(PHI.numpy(), ACTIONS), TypeError, "phi must be a t"),
        (lambda: maximum_moment_restriction(PHI, A9[:9]), TypeError, "A must be a torch tensor"),
        (lambda: maximum_moment_restriction(PHI[:3], ACTIONS[:3]), ValueError, "more than k"),
        (lambda: maximum_moment_restriction(PHI, 0 * ACTIONS), ValueError, "constant column 0"),
        (
            lambda: maximum_moment_restriction(PHI, ACTIONS[:, :1] * torch.tensor([1.0, 2.0])),
            ValueError,
            "got rank 2",
        ),
        (
            lambda: maximum_moment_restriction(PHI, ACTIONS, bandwidth=0),
            ValueError,
            "bandwidth must be 'median' or a positive number, got 0",
        ),
        (
            lambda: maximum_moment_restriction(PHI, ACTIONS, bandwidth="mean"),
            ValueError,
            "got 'mean'",
        ),
        (
            lambda: maximum_moment_restriction(PHI[:, :1], torch.eye(9)[:, :1]),
            ValueError,
            "A must be continuous",
        ),
        (
            lambda: moment_permutation_test(PHI, ACTIONS, n_permutations=0),
            ValueError,
            "n_permutations must be an integer of at least 1, got 0",
        ),
        (
            lambda: maximum_moment_restriction(PHI, ACTIONS, bandwidth=None),
            ValueError,
            "got None",
        ),
        (lambda: moment_permutation_test(A9[:, 0], A9), ValueError, "phi must be 2-D, got 1-D"),
        (lambda: moment_permutation_test(A9 * np.nan, A9), ValueError, "phi contains NaN"),
        (lambda: affine_r2(A9[:, 0], A9), ValueError, "Z must be 2-D, got 1-D"),
        (lambda: affine_r2(A9, A9[1:]), ValueError, "Z 40, F 39"),
        (lambda: affine_r2(np.ones((5, 1)), A9[:5]), ValueError, "Z must vary"),
        (lambda: LinearInvarianceAutoencoder(0, 2), ValueError, "in_features must be an integer"),
        (lambda: LinearInvarianceAutoencoder(3, 2, hidden=8), ValueError, "hidden must be a tuple"),
        (
            lambda: LinearInvarianceAutoencoder(3, 2, negative_slope=0.0),
            ValueError,
            "negative_slope must be a positive",
        ),
        (lambda: fit(A=A9[:, 0]), ValueError, "A must be 2-D, got 1-D"),
        (lambda: fit(X=X9[:, 0]), ValueError, "X must be 2-D, got 1-D"),
        (lambda: fit(A=A9[1:]), ValueError, "X 40, A 39"),
        (lambda: fit(Y=Y9[1:, 0]), ValueError, "Y 39"),
        (lambda: fit(A=A9[:, :1]), ValueError, "at least latent_dim = 2 columns, got 1"),
        (lambda: fit(A=np.column_stack([A9[:, 0], 2 * A9[:, 0]])), ValueError, "full column rank"),
        (lambda: fit(A=np.where(A9 > 1, np.nan, A9)), ValueError, "A contains NaN"),
        (lambda: fit(reg=-1), ValueError, "reg must be at least 0 and finite, got -1"),
        (lambda: Rep4Ex(2, epochs=0).fit(X9, A9), ValueError, "epochs must be an integer"),
        (lambda: fit(lr=0.0), ValueError, "lr must be a positive and finite number, got 0.0"),
        (lambda: fit(lr=None), ValueError, "lr must be a positive and finite number, got None"),
        (lambda: fit(reg="30"), ValueError, "reg must be at least 0 and finite, got '30'"),
        (lambda: fit(hidden=None), ValueError, "hidden must be a tuple of widths, got None"),
        (lambda: fit(device="gpu"), ValueError, "device must be a torch device, got 'gpu'"),
        (lambda: fit(X=X9[:, :1]), ValueError, "X must have at least latent_dim = 2 columns"),
        (lambda: fit(Y=["a"] * 40), ValueError, "Y must hold finite numbers: could not conv"),
        (lambda: fit(Y=np.where(Y9[:, 0] > 1, np.nan, 0)), ValueError, "Y contains NaN"),
        (lambda: fit(batch_size=3), ValueError, "more than k"),
        (lambda: Rep4Ex(0).fit(X9, A9), ValueError, "latent_dim must be an integer of at least 1"),
        (lambda: fit(autoencoder=nn.Linear(2, 2)), ValueError, "Linear without encode"),
        (
            lambda: fit(autoencoder=LinearInvarianceAutoencoder(2, 1)),
            ValueError,
            r"autoencoder must encode 40 rows to shape \(40, 2\), got \(40, 1\)",
        ),
        (lambda: fit(regressor=object()), ValueError, "object without fit"),
        (lambda: Rep4Ex(2).transform(X9), NotFittedError, "not fitted"),
        (lambda: Rep4Ex(2).predict_do(A9), NotFittedError, "not fitted"),
        (lambda: fit().predict_do(A9), NotFittedError, r"call fit\(X, A, Y\)"),
        (lambda: fit().transform(X9[:, :1]), ValueError, "expecting 2 features"),
        (lambda: fit().coverage(A9[:, :1]), ValueError, "A must have 2 columns"),
        (
            lambda: fit().coverage(A9[:0]),
            ValueError,
            "A must hold finite numbers: Found array with 0",
        ),
        (lambda: fit().inverse_transform(A9[:, :1]), ValueError, "latent_dim = 2 columns"),
        (lambda: fit().moment_test(X9, A9[1:]), ValueError, "X 40, A 39"),
        (lambda: fit(Y=Y9[:, 0]).predict_do(A9[1:], X9), ValueError, "A 39, X 40"),
        (lambda: fit(Y=Y9[:, 0]).plot_effects(A9, along=2), ValueError, "along must be a column"),
        (lambda: ControlFunctionRegressor().predict_do(A9), NotFittedError, "not fitted"),
        (
            lambda: ControlFunctionRegressor().fit(X9, A9[:, :1], Y9[:, 0]),
            ValueError,
            "at least as many columns as Z, got 1 for 2",
        ),
        (
            lambda: ControlFunctionRegressor().fit(X9, A9, np.full(40, np.inf)),
            ValueError,
            "Y contains infinity",
        ),
        (
            lambda: ControlFunctionRegressor(weight_decay=-1).fit(X9, A9, Y9[:, 0]),
            ValueError,
            "weight_decay must be at least 0",
        ),
        (
            lambda: ControlFunctionRegressor(estimator=object()).fit(X9, A9, Y9[:, 0]),
            ValueError,
            "object without fit",
        ),
        (
            lambda: ControlFunctionRegressor(estimator=Polynomial(), control=False).fit(
                X9, A9, Y9[:, 0]
            ),
            ValueError,
            "control must be True",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:A hardly moves")
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
