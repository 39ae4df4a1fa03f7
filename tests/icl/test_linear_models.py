"""Reference algorithms at every prefix, their distances, and the weights that learners act by."""

import numpy as np
import pytest
import torch
from rankone.icl import _reference_predictors as module
from rankone.icl.linear_models import (
    bayes_alpha,
    ilwd,
    implicit_weights,
    make_linear_tasks,
    prefix_predictions,
    prefix_weights,
    spd,
)
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.neighbors import KNeighborsRegressor
from torch.testing import assert_close

# Sums of a few hundred float64 products of order 1.
EXACT = {"rtol": 1e-9, "atol": 1e-10}


def tasks_of(n_tasks=20, n_examples=7, n_features=3, **options):
    options = {"random_state": 0, "dtype": torch.float64} | options
    return make_linear_tasks(n_tasks, n_examples, n_features, **options)


def truth(tasks):
    return (tasks.X @ tasks.w[..., None])[..., 0]


@pytest.fixture(scope="module")
def many():
    """Enough noiseless tasks for means within 2 %."""
    return tasks_of(20_000, 11, 5)


# Tasks.


def test_tasks_have_the_law_asked_for():
    tasks = tasks_of(20_000, 4, 2, noise_std=0.5, w_std=3.0)
    assert_close(tasks.w.var().item(), 9.0, rtol=0.03, atol=0)
    assert_close(tasks.X.var().item(), 1.0, rtol=0.03, atol=0)
    assert_close((tasks.y - truth(tasks)).std().item(), 0.5, rtol=0.03, atol=0)


def test_tasks_repeat_with_their_random_state():
    assert torch.equal(tasks_of().X, tasks_of().X)
    assert not torch.equal(tasks_of().X, tasks_of(random_state=1).X)
    assert make_linear_tasks(2, 3, 4, random_state=0).X.dtype == torch.float32


def test_bayes_alpha_is_the_ratio_of_variances():
    assert bayes_alpha(0.5, 2.0) == 0.0625
    assert bayes_alpha(0.0) == 0.0


# Algorithms at every prefix.


def each_prefix(tasks, fit):
    """Predictions of a scikit-learn estimator, task by task and prefix by prefix."""
    X, y = tasks.X.numpy(), tasks.y.numpy()
    predictions = np.zeros(y.shape)
    for b in range(len(X)):
        for i in range(1, X.shape[1]):
            predictions[b, i] = fit(i).fit(X[b, :i], y[b, :i]).predict(X[b, i : i + 1])[0]
    return torch.from_numpy(predictions)


def test_ridge_is_that_of_scikit_learn_at_every_prefix():
    tasks = tasks_of(4, noise_std=0.5)
    expected = each_prefix(tasks, lambda i: Ridge(alpha=0.3, fit_intercept=False))
    assert_close(prefix_predictions(tasks.X, tasks.y, "ridge", alpha=0.3), expected, **EXACT)


def test_ols_is_the_least_norm_solution_before_and_after_d_examples():
    tasks = tasks_of(4, noise_std=0.5)
    expected = each_prefix(tasks, lambda i: LinearRegression(fit_intercept=False))
    assert_close(prefix_predictions(tasks.X, tasks.y, "ols"), expected, **EXACT)


def test_knn_is_that_of_scikit_learn():
    tasks = tasks_of(4)
    expected = each_prefix(tasks, lambda i: KNeighborsRegressor(min(3, i)))
    assert_close(prefix_predictions(tasks.X, tasks.y, "knn", n_neighbors=3), expected, **EXACT)


def test_ridge_tends_to_ols_as_alpha_vanishes():
    tasks = tasks_of(noise_std=0.5, random_state=1)
    ridge = prefix_weights(tasks.X, tasks.y, "ridge", alpha=1e-9)
    # alpha over the smallest squared singular value of 20 x 7 random contexts.
    assert_close(ridge, prefix_weights(tasks.X, tasks.y, "ols"), rtol=1e-4, atol=1e-4)


def test_many_steps_of_gd_reach_the_least_norm_solution():
    X = torch.tensor([[[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 0.0], [1.0, 2.0, 3.0]]])
    y = torch.tensor([[1.0, -2.0, 0.5, 0.0]])
    largest = float(torch.linalg.matrix_norm(X[0, :3], 2)) ** 2
    steps = {"step_size": 1.9 / largest, "n_steps": 2000}
    gd = prefix_weights(X.double(), y.double(), "gd", **steps)
    assert_close(gd, prefix_weights(X.double(), y.double(), "ols"), **EXACT)


def test_one_step_of_gd_is_the_step_times_the_moment():
    tasks = tasks_of()
    weights = prefix_weights(tasks.X, tasks.y, "gd", step_size=0.1)
    for i in range(7):
        moment = (tasks.y[:, None, :i] @ tasks.X[:, :i])[:, 0]
        assert_close(weights[:, i], 0.1 * moment, **EXACT)


def test_steps_of_gd_follow_the_gradient_with_decay():
    tasks = tasks_of()
    options = {"step_size": 0.05, "n_steps": 3, "weight_decay": 0.4}
    X, y = tasks.X[:, :4], tasks.y[:, :4]
    w = torch.zeros(20, 3, dtype=torch.float64, requires_grad=True)
    for _ in range(3):
        loss = 0.5 * ((X @ w[..., None])[..., 0] - y).square().sum() + 0.2 * w.square().sum()
        (gradient,) = torch.autograd.grad(loss, w)
        w = (w - 0.05 * gradient).detach().requires_grad_()
    assert_close(prefix_weights(tasks.X, tasks.y, "gd", **options)[:, 4], w.detach(), **EXACT)


def test_the_optimal_step_beats_its_neighbours_at_every_position(many):
    best = spd(prefix_predictions(many.X, many.y, "gd"), truth(many), 5)
    for i in range(1, 11):
        for factor in (0.7, 1.4):
            other = prefix_predictions(many.X, many.y, "gd", step_size=factor / (i + 6))
            assert best[i] < spd(other, truth(many), 5)[i]


def test_the_optimal_step_knows_the_noise():
    tasks = tasks_of(2, noise_std=1.0)
    weights = prefix_weights(tasks.X, tasks.y, "gd", noise_ratio=1.0)
    moment = (tasks.y[:, None, :4] @ tasks.X[:, :4])[:, 0]
    assert_close(weights[:, 4], moment / (4 + 3 + 1 + 1), **EXACT)


def test_sgd_takes_one_example_at_a_time():
    tasks = tasks_of(1)
    options = {"step_size": 0.1, "weight_decay": 0.2, "n_passes": 2}
    weights = prefix_weights(tasks.X, tasks.y, "sgd", **options)[0]
    X, y = tasks.X[0].numpy(), tasks.y[0].numpy()
    for i in range(7):
        w = np.zeros(3)
        for _ in range(2):
            for j in range(i):
                w = w - 0.1 * ((w @ X[j] - y[j]) * X[j] + 0.2 * w)
        assert_close(weights[i], torch.from_numpy(w), **EXACT)


def test_sgd_after_one_example_is_the_step_times_that_example():
    tasks = tasks_of()
    weights = prefix_weights(tasks.X, tasks.y, "sgd", step_size=0.3)
    assert_close(weights[:, 1], 0.3 * tasks.y[:, :1] * tasks.X[:, 0], **EXACT)


OPTIONS = {
    "ols": {},
    "ridge": {"alpha": 0.5},
    "gd": {"step_size": 0.05, "n_steps": 3, "weight_decay": 0.1},
    "sgd": {"step_size": 0.05},
    "knn": {},
    "zero": {},
}


@pytest.mark.parametrize("predictor", [*module.PREDICTORS, "optimal gd"])
def test_no_prediction_sees_its_label_or_what_comes_later(predictor):
    name, options = ("gd", {}) if predictor == "optimal gd" else (predictor, OPTIONS[predictor])
    tasks = tasks_of()
    before = prefix_predictions(tasks.X, tasks.y, name, **options)
    X, y = tasks.X.clone(), tasks.y.clone()
    X[:, 4:], y[:, 3:] = 7.0, -5.0
    after = prefix_predictions(X, y, name, **options)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not before[:, 0].any()
    if name != "zero":
        assert not torch.equal(before[:, 4:], after[:, 4:])


@pytest.mark.parametrize("predictor", module.PREDICTORS)
def test_the_last_label_is_not_read(predictor):
    tasks = tasks_of()
    y = tasks.y.clone()
    y[:, -1] = torch.nan
    assert prefix_predictions(tasks.X, y, predictor, **OPTIONS[predictor]).isfinite().all()


@pytest.mark.parametrize("predictor", ["ols", "ridge", "gd", "sgd", "zero"])
def test_predictions_are_those_of_the_weights(predictor):
    tasks = tasks_of()
    weights = prefix_weights(tasks.X, tasks.y, predictor, **OPTIONS[predictor])
    predictions = prefix_predictions(tasks.X, tasks.y, predictor, **OPTIONS[predictor])
    assert_close(predictions, (weights * tasks.X).sum(-1), **EXACT)


def test_one_step_by_linear_attention_takes_any_number_of_features():
    tasks = tasks_of(2, 4, 300)
    weights = prefix_weights(tasks.X, tasks.y, "gd")
    expected = (weights * tasks.X).sum(-1)
    assert_close(prefix_predictions(tasks.X, tasks.y, "gd"), expected, **EXACT)


@pytest.mark.parametrize("predictor", ["ols", "ridge", "gd", "knn"])
def test_predictions_are_computed_in_float64_and_returned_in_the_dtype_of_x(predictor):
    tasks = tasks_of(dtype=torch.float32)
    single = prefix_predictions(tasks.X, tasks.y, predictor)
    double = prefix_predictions(tasks.X.double(), tasks.y.double(), predictor)
    assert single.dtype == torch.float32
    assert torch.equal(single, double.float())


# Distances.


def test_distances_have_their_closed_forms_without_noise(many):
    d = 5
    i = torch.arange(11, dtype=torch.float64)
    prediction = {
        name: prefix_predictions(many.X, many.y, name) for name in ("zero", "ols", "gd")
    } | {"truth": truth(many)}
    rank, shrink = i.clamp(max=d) / d, i / (i + d + 1)
    closed = {
        ("zero", "ols"): rank,
        ("ols", "truth"): 1 - rank,
        ("zero", "gd"): shrink,
        ("gd", "truth"): (d + 1) / (i + d + 1),
        ("gd", "ols"): rank - shrink,
    }
    for (a, b), expected in closed.items():
        # 20,000 tasks with heavy tails: a standard error of about 1 %.
        assert_close(spd(prediction[a], prediction[b], d), expected, rtol=0.06, atol=1e-9)
    assert closed["zero", "ols"][3] == 0.6
    assert closed["gd", "ols"][3] == pytest.approx(0.6 - 3 / 9)
    assert closed["gd", "ols"][10] == pytest.approx(0.375)


def test_ols_under_noise_has_its_closed_form_away_from_d_examples():
    n, d, noise_std = 12, 3, 0.5
    tasks = tasks_of(20_000, n, d, noise_std=noise_std)
    distance = spd(prefix_predictions(tasks.X, tasks.y, "ols"), truth(tasks), d)
    # The variance of the squares is finite from d + 4 on, and moderate after it.
    for i in range(d + 5, n):
        assert distance[i] == pytest.approx(noise_std**2 / (i - d - 1), rel=0.06)
    # Infinite in the mean; at d + 2 it is noise_std^2.
    assert distance[d] > 3 * noise_std**2


def test_ols_under_noise_has_its_closed_form_for_few_examples():
    d, noise_std, i = 8, 0.5, 2
    tasks = tasks_of(40_000, i + 1, d, noise_std=noise_std)
    distance = spd(prefix_predictions(tasks.X, tasks.y, "ols"), truth(tasks), d)[i]
    expected = 1 - i / d + noise_std**2 / d * i / (d - i - 1)
    assert float(distance) == pytest.approx(expected, rel=0.04)


def test_the_bayes_ridge_has_the_smallest_error():
    tasks = tasks_of(20_000, 8, 3, noise_std=0.5)
    errors = {
        alpha: spd(prefix_predictions(tasks.X, tasks.y, "ridge", alpha=alpha), truth(tasks), 3)[1:]
        for alpha in (bayes_alpha(0.5) / 2, bayes_alpha(0.5), 2 * bayes_alpha(0.5))
    }
    for other in (0.125, 0.5):
        assert (errors[0.25] < errors[other]).all()


class Prefix:
    """A reference algorithm as a learner."""

    def __init__(self, predictor, **options):
        self.predictor, self.options = predictor, options

    def predict(self, X, y, X_query):
        m = X_query.shape[1]
        prompts = torch.cat([X.repeat_interleave(m, 0), X_query.flatten(0, 1)[:, None]], 1)
        labels = torch.cat([y, y[:, :1]], 1).repeat_interleave(m, 0)
        output = prefix_predictions(prompts, labels, self.predictor, **self.options)
        return output[:, -1].view(-1, m)


def test_implicit_weights_of_ridge_are_its_coefficients():
    tasks = tasks_of()
    W, r2 = implicit_weights(Prefix("ridge", alpha=0.5), tasks.X, tasks.y, random_state=0)
    for b in range(20):
        ridge = Ridge(alpha=0.5, fit_intercept=False).fit(tasks.X[b].numpy(), tasks.y[b].numpy())
        assert_close(W[b], torch.from_numpy(ridge.coef_), **EXACT)
    assert_close(r2, torch.ones_like(r2), **EXACT)


def test_nearest_neighbours_have_no_weights():
    tasks = tasks_of()
    _, r2 = implicit_weights(Prefix("knn"), tasks.X, tasks.y, random_state=0)
    assert (r2 < 0.99).all()


def test_a_learner_that_predicts_zero_is_linear():
    tasks = tasks_of()
    W, r2 = implicit_weights(Prefix("zero"), tasks.X, tasks.y, random_state=0)
    assert not W.any()
    assert (r2 == 1).all()


def test_for_linear_predictors_both_distances_agree():
    tasks = tasks_of(20_000, 6, 3)
    ridge = {"predictor": "ridge", "alpha": 0.5}
    W_gd, W_ridge = (
        prefix_weights(tasks.X, tasks.y, "gd"),
        prefix_weights(tasks.X, tasks.y, **ridge),
    )
    distance = spd(
        prefix_predictions(tasks.X, tasks.y, "gd"), prefix_predictions(tasks.X, tasks.y, **ridge), 3
    )
    for i in range(1, 6):
        assert float(distance[i]) == pytest.approx(ilwd(W_gd[:, i], W_ridge[:, i]), rel=0.06)


# Bad input.

X, Y = torch.zeros(2, 4, 3), torch.zeros(2, 4)


class Wrong:
    def predict(self, X, y, X_query):
        return X_query[..., 0, 0]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: make_linear_tasks(0, 2, 2), ValueError, "n_tasks must be an integer"),
        (lambda: make_linear_tasks(2, 0, 2), ValueError, "n_examples must be an integer"),
        (lambda: make_linear_tasks(2, 2, 0), ValueError, "n_features must be an integer"),
        (lambda: make_linear_tasks(2, 2, 2, noise_std=-1.0), ValueError, "noise_std must be"),
        (lambda: make_linear_tasks(2, 2, 2, w_std=0.0), ValueError, "w_std must be"),
        (lambda: make_linear_tasks(2, 2, 2, dtype=torch.int64), TypeError, "dtype must be"),
        (lambda: bayes_alpha(-1.0), ValueError, "noise_std must be"),
        (lambda: bayes_alpha(1.0, 0.0), ValueError, "w_std must be"),
        (lambda: prefix_predictions(X, Y, "lasso"), ValueError, "predictor must be one of"),
        (lambda: prefix_predictions(X[0], Y), ValueError, r"X must have shape \(B, n, d\)"),
        (lambda: prefix_predictions(X, Y[:, 1:]), ValueError, "y must have shape"),
        (lambda: prefix_predictions(X[:, :0], Y[:, :0]), ValueError, "at least one example"),
        (lambda: prefix_predictions(X[:0], Y[:0]), ValueError, "at least one task"),
        (lambda: prefix_predictions(X.long(), Y), TypeError, "X must be floating"),
        (lambda: prefix_predictions(X, Y.double()), TypeError, "y must be torch.float32"),
        (lambda: prefix_predictions(X / 0, Y), ValueError, "X must be finite"),
        (lambda: prefix_predictions(X, Y / 0), ValueError, "y must be finite"),
        (
            lambda: prefix_predictions(X + 1, Y, "ridge", alpha=1e-300),
            ValueError,
            "alpha must be above the rounding",
        ),
        (lambda: prefix_predictions(X.numpy(), Y), TypeError, "X must be a tensor"),
        (lambda: prefix_predictions(X, Y, "ridge", alpha=0.0), ValueError, "alpha must be"),
        (lambda: prefix_predictions(X, Y, "gd", step_size=-0.1), ValueError, "step_size must be"),
        (lambda: prefix_predictions(X, Y, "gd", step_size="best"), ValueError, "step_size must be"),
        (lambda: prefix_predictions(X, Y, "gd", n_steps=2), ValueError, "step_size must be a num"),
        (lambda: prefix_predictions(X, Y, "sgd"), ValueError, "step_size must be a number for sgd"),
        (lambda: prefix_predictions(X, Y, "gd", n_steps=0), ValueError, "n_steps must be"),
        (lambda: prefix_predictions(X, Y, "gd", weight_decay=-1.0), ValueError, "weight_decay"),
        (lambda: prefix_predictions(X, Y, "gd", noise_ratio=-1.0), ValueError, "noise_ratio"),
        (lambda: prefix_predictions(X, Y, "knn", n_neighbors=0), ValueError, "n_neighbors must"),
        (
            lambda: prefix_predictions(X, Y, "sgd", step_size=0.1, n_passes=0),
            ValueError,
            "n_passes must",
        ),
        (lambda: prefix_weights(X, Y, "knn"), ValueError, "which have weights"),
        (lambda: spd(Y, Y[:, 1:], 2), ValueError, "pred_b must have shape"),
        (lambda: spd(Y[0], Y[0], 2), ValueError, "pred_a must have shape"),
        (lambda: spd(Y, Y.numpy(), 2), TypeError, "pred_b must be a tensor"),
        (lambda: spd(Y, Y, 0), ValueError, "n_features must be"),
        (lambda: ilwd(Y, Y[1:]), ValueError, "W_b must have shape"),
        (lambda: implicit_weights(object(), X, Y), TypeError, "must have a method predict"),
        (lambda: implicit_weights(Wrong(), X, Y), ValueError, "model.predict must return"),
        (lambda: implicit_weights(Wrong(), X, Y, n_queries=3), ValueError, "n_queries must be"),
    ],
)
def test_bad_input_names_the_argument(call, error, message):
    with pytest.raises(error, match=message):
        call()
