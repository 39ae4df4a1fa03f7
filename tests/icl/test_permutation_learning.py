"""Exact learning of permutations: the law, the size of the ensemble, draws and trained networks."""

import math
import pickle
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch
from rankone.icl._gaussian_function import GaussianFunction
from rankone.icl._relu_ensemble import _initial
from rankone.icl.permutation_learning import (
    ExactPermutationLearner,
    binary_inputs,
    ensemble_complexity,
    make_permutation_task,
    ntk_coefficients,
    posterior,
    two_layer_kernels,
)
from scipy.integrate import quad
from scipy.stats import chisquare, norm
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError

KERNELS = ("ntk", "readout")
# float64 through a solve with a matrix of condition number about k.
SOLVED = {"rtol": 0, "atol": 1e-12}
SIZES = [2, 3, 5, 9, 16]


def fitted(k=5, **options):
    task = make_permutation_task(k, random_state=k)
    return task, ExactPermutationLearner(random_state=0, **options).fit(task.X, task.Y)


def inputs_of_each_count(k, seed=0):
    """Three inputs of every number of ones, repetitions included."""
    rng = np.random.default_rng(seed)
    rows = np.zeros((3 * k, k), dtype=np.uint8)
    for i, row in enumerate(rows):
        row[rng.permutation(k)[: i // 3 + 1]] = 1
    return rows


def solved_law(X, permutation, kernel, sigma_w=1.0):
    """Mean and covariance by a linear solve with the kernels of the training set."""
    k = len(permutation)
    train = np.eye(k)
    theta, K = two_layer_kernels(train, sigma_w=sigma_w)
    theta_test, K_test = two_layer_kernels(train, X, sigma_w=sigma_w)
    dynamics, towards = (theta, theta_test) if kernel == "ntk" else (K, K_test)
    w = np.linalg.solve(dynamics, towards)
    prior = two_layer_kernels(X, sigma_w=sigma_w)[1]
    covariance = prior + w.T @ K @ w - w.T @ K_test - K_test.T @ w
    return w.T @ train[:, permutation], covariance


# Kernels and closed forms.


@pytest.mark.parametrize("angle", [0.0, 0.3, np.pi / 2, 2.5, np.pi])
def test_kernels_are_the_integrals_of_the_network(angle):
    u, v = np.array([1.0, 0.0]), np.array([np.cos(angle), np.sin(angle)])
    sigma_w = 1.3
    theta, K = two_layer_kernels([u], [v], sigma_w=sigma_w)
    # Polar coordinates: the radial parts are 2 and 1, both inputs are active on an arc.
    arc = (angle - np.pi / 2, np.pi / 2)
    relu = quad(lambda a: np.cos(a) * np.cos(a - angle), *arc)[0] * 2 / (2 * np.pi)
    gate = (arc[1] - arc[0]) / (2 * np.pi)
    scale = sigma_w**4 / 2
    assert K.item() == pytest.approx(scale * relu, abs=1e-14)
    assert theta.item() == pytest.approx(scale * (relu + np.cos(angle) * gate), abs=1e-14)


def test_kernels_keep_their_digits_for_nearly_parallel_rows():
    x = np.random.default_rng(0).normal(size=(50, 7))
    theta, K = two_layer_kernels(x)
    assert np.allclose(np.diag(theta), 1 / 7, rtol=1e-14)
    assert np.allclose(np.diag(K), 1 / 14, rtol=1e-14)
    close = two_layer_kernels(x, x * (1 + 1e-9))[0]
    assert np.allclose(np.diag(close), 1 / 7, rtol=1e-14)
    angle = 1e-6
    theta = two_layer_kernels([[1.0, 0.0]], [[np.cos(angle), np.sin(angle)]])[0].item()
    expected = (np.sin(angle) + 2 * (np.pi - angle) * np.cos(angle)) / (4 * np.pi)
    assert theta == pytest.approx(expected, rel=1e-15)


def test_kernels_of_rows_as_they_are_scale_with_both_lengths():
    A, B = np.random.default_rng(0).normal(size=(2, 4, 3))
    for raw, unit in zip(
        two_layer_kernels(A, B, normalize=False), two_layer_kernels(A, B), strict=True
    ):
        lengths = np.linalg.norm(A, axis=1)[:, None] * np.linalg.norm(B, axis=1)
        assert np.allclose(raw, unit * lengths, rtol=1e-13)
    assert two_layer_kernels(np.zeros((1, 3)), B, normalize=False)[0].max() == 0


@pytest.mark.parametrize("k", [2, 5, 12])
def test_kernel_matrices_of_the_basis_have_their_eigenvalues(k):
    s = 1.2**4 / (2 * np.pi * k)
    for matrix, diagonal in zip(
        two_layer_kernels(np.eye(k), sigma_w=1.2), (2 * np.pi, np.pi), strict=True
    ):
        D = diagonal - 1
        expected = s * np.array([D] * (k - 1) + [D + k])
        assert np.allclose(np.linalg.eigvalsh(matrix), expected, rtol=1e-13)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("k", SIZES)
def test_closed_forms_are_the_direct_solve(k, kernel):
    X = inputs_of_each_count(k)
    permutation = np.random.default_rng(k).permutation(k)
    mean, variance, covariance = posterior(
        X, permutation, kernel=kernel, sigma_w=1.1, return_cov=True
    )
    expected, expected_covariance = solved_law(X, permutation, kernel, 1.1)
    assert np.allclose(mean, expected, **SOLVED)
    assert np.allclose(covariance, expected_covariance, **SOLVED)
    assert np.allclose(variance, np.diag(expected_covariance), **SOLVED)
    assert np.linalg.eigvalsh(covariance)[0] >= -SOLVED["atol"]


def test_readout_law_is_gaussian_process_regression():
    k, X = 6, binary_inputs(6)
    _, K = two_layer_kernels(np.eye(k))
    _, cross = two_layer_kernels(np.eye(k), X)
    conditional = two_layer_kernels(X)[1] - cross.T @ np.linalg.solve(K, cross)
    covariance = posterior(X, np.arange(k), kernel="readout", return_cov=True)[2]
    assert np.allclose(covariance, conditional, **SOLVED)
    tangent = posterior(X, np.arange(k), return_cov=True)[2]
    assert np.abs(tangent - conditional).max() > 1e-4


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("k", SIZES)
def test_training_inputs_are_exact(k, kernel):
    alpha0, alpha1, variance, _ = ntk_coefficients(1, k, kernel=kernel)
    assert (alpha0, alpha1, variance) == (0, 1, 0)
    covariance = posterior(binary_inputs(k, n_ones=1), range(k), kernel=kernel, return_cov=True)[2]
    assert not covariance.any()


def test_coefficients_have_their_known_values():
    for k, kernel, expected in (
        (10, "ntk", (-0.00985, 0.5654, 0.006519)),
        (10, "readout", (-0.02326, 0.6179, 0.006282)),
        (30, "ntk", (-0.00427, 0.5710, 0.002140)),
    ):
        found = ntk_coefficients(2, k, kernel=kernel)[:3]
        assert np.allclose(found, expected, rtol=0, atol=(5e-6, 5e-5, 5e-7))
    assert ntk_coefficients(2, 5).offdiag == 2 * np.pi - 1
    assert ntk_coefficients(2, 5, kernel="readout").offdiag == np.pi - 1


@pytest.mark.parametrize("kernel", KERNELS)
def test_signs_of_the_means_tell_the_bits(kernel):
    for k in (3, 10, 60):
        alpha0, alpha1, variance, _ = ntk_coefficients(np.arange(2, k + 1), k, kernel=kernel)
        assert np.all(alpha0[:-1] < 0)
        assert np.isnan(alpha0[-1])
        assert np.all(alpha1 > 0)
        assert np.all(variance > 0)


def test_coefficients_of_all_ones_have_their_formula():
    k, t = 7, np.arccos(1 / np.sqrt(7))
    F = np.sin(t) + 2 * (np.pi - t) / np.sqrt(k) - 1
    found = ntk_coefficients(k, k).alpha1
    assert found == pytest.approx((1 + F) / (2 * np.pi - 1 + k), rel=1e-13)


def test_mean_and_variance_of_pairs_fall_like_one_over_k():
    k = np.array([100, 1000, 10**6])
    found = np.array([ntk_coefficients(2, size)[:3] for size in k.tolist()])
    assert np.allclose(k * found[:, 2], [0.06375, 0.06356, 0.06354], rtol=0, atol=1e-5)
    assert np.allclose(k * found[:, 0], [-0.14299, -0.14975, -0.15054], rtol=0, atol=1e-5)
    assert found[-1, 1] == pytest.approx(0.5753, abs=5e-5)
    F = np.sin(np.pi / 4) + 2 * (3 * np.pi / 4) / np.sqrt(2) - 1
    D = 2 * np.pi - 1
    assert 10**6 * found[-1, 0] == pytest.approx(-(2 * F - D) / D, rel=1e-4)


def test_coefficients_hold_for_a_million_bits():
    mpmath = pytest.importorskip("mpmath")
    k = 10**6
    for c in (2, 1000, k):
        with mpmath.workdps(40):
            t = mpmath.acos(1 / mpmath.sqrt(c))
            F = mpmath.sin(t) + 2 * (mpmath.pi - t) / mpmath.sqrt(c) - 1
            D = 2 * mpmath.pi - 1
            alpha0 = (D - c * F) / (D * (D + k))
            expected = float(alpha0 + F / D)
        assert ntk_coefficients(c, k).alpha1 == pytest.approx(expected, rel=1e-9)


def test_output_bits_sum_to_the_counted_means():
    for c in range(1, 6):
        X = binary_inputs(6, n_ones=c)
        mean, _ = posterior(X, np.random.default_rng(c).permutation(6))
        alpha0, alpha1, _, _ = ntk_coefficients(c, 6)
        assert np.allclose(mean.sum(axis=1), c * alpha1 + (6 - c) * alpha0, rtol=1e-13)


def test_mean_moves_with_permuted_inputs_and_outputs():
    rng = np.random.default_rng(0)
    X, perm, order = binary_inputs(5), rng.permutation(5), rng.permutation(5)
    mean = posterior(X, perm)[0]
    assert np.array_equal(posterior(X, perm[order])[0], mean[:, order])
    # x[order] seen through the inverse order is x again.
    assert np.array_equal(posterior(X[:, order], np.argsort(order)[perm])[0], mean)


@pytest.mark.parametrize("kernel", KERNELS)
def test_scale_of_weights_moves_only_the_variance(kernel):
    one = ntk_coefficients([2, 3], 5, kernel=kernel)
    two = ntk_coefficients([2, 3], 5, kernel=kernel, sigma_w=2.0)
    assert np.array_equal(one[:2], two[:2])
    assert np.allclose(two.variance, 16 * one.variance, rtol=1e-14)


def test_errors_at_disjoint_inputs_are_correlated():
    covariance = posterior([[1, 1, 0, 0, 0], [0, 0, 1, 1, 0]], range(5), return_cov=True)[2]
    assert covariance[0, 1] / covariance[0, 0] > 0.03


# The size of the ensemble.


def test_ensembles_have_their_known_sizes():
    single = [ensemble_complexity(k) for k in (5, 8, 10, 15, 20, 30)]
    assert single == [208, 289, 338, 461, 587, 851]
    assert [ensemble_complexity(k, n_ones="all") for k in (5, 10, 20, 30)] == [455, 801, 1469, 2183]
    midpoint = [ensemble_complexity(k, n_ones="all", rounding="midpoint") for k in (10, 20, 30)]
    assert midpoint == [16, 37, 60]
    assert {ensemble_complexity(k, rounding="midpoint") for k in range(2, 41)} == {1}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("rounding", ["sign", "midpoint"])
def test_size_is_the_smallest_that_passes_the_sum_over_every_input(kernel, rounding):
    k, delta = 7, 0.05
    X = binary_inputs(k)
    X = X[X.sum(axis=1) > 1]
    mean, variance = posterior(X, range(k), kernel=kernel)
    threshold = np.zeros((len(X), 1))
    if rounding == "midpoint":
        mixed = X.sum(axis=1) < k
        threshold[mixed] = (mean[mixed].min(axis=1) + mean[mixed].max(axis=1))[:, None] / 2
    margin = np.abs(mean - threshold)

    def failure(n):
        return norm.sf(margin * np.sqrt(n / variance)[:, None]).sum()

    found = ensemble_complexity(k, delta=delta, n_ones="all", kernel=kernel, rounding=rounding)
    assert failure(found) <= delta < failure(found - 1)


def test_one_input_of_many_ones_and_training_inputs():
    assert ensemble_complexity(10, n_ones=1) == 1
    alpha1, variance = ntk_coefficients(10, 10)[1:3]
    found = ensemble_complexity(10, n_ones=10)
    tails = 10 * norm.sf(alpha1 * np.sqrt(np.array([found - 1, found]) / variance))
    assert tails[1] <= 0.1 < tails[0]


@pytest.mark.parametrize("scope", [2, 5, "all"])
@pytest.mark.parametrize("rounding", ["sign", "midpoint"])
def test_bound_is_its_formula_and_above_the_exact_size(scope, rounding):
    k, delta = 12, 0.1
    options = {"n_ones": scope, "rounding": rounding, "delta": delta}
    found = ensemble_complexity(k, method="bound", **options)
    assert found >= ensemble_complexity(k, **options)
    worst = 0.0
    for c in range(2, k + 1) if scope == "all" else [scope]:
        alpha0, alpha1, variance, _ = ntk_coefficients(c, k)
        if c == k:
            margin = alpha1
        else:
            margin = min(-alpha0, alpha1) if rounding == "sign" else (alpha1 - alpha0) / 2
        worst = max(worst, 2 * variance / margin**2)
    logs = math.log(k) + math.log(1 / delta) + (k * math.log(2) if scope == "all" else 0)
    assert found == math.ceil(worst * logs)


def test_size_grows_with_the_fourth_power_of_the_weights():
    one, two = (ensemble_complexity(10, sigma_w=sigma_w) for sigma_w in (1.0, 2.0))
    assert 16 * (one - 1) < two <= 16 * one


def test_one_input_is_linearithmic_and_all_inputs_below_quadratic():
    k = np.array([20, 50, 100, 200, 400])
    single = np.array([ensemble_complexity(int(size)) for size in k])
    every = np.array([ensemble_complexity(int(size), n_ones="all") for size in k])
    assert np.all(np.diff(single / (k * np.log(k))) < 0)
    assert np.all(np.diff(every / k**2) < 0)
    assert np.polyfit(np.log(k), np.log(single), 1)[0] == pytest.approx(1.06, abs=0.02)
    assert np.polyfit(np.log(k), np.log(every), 1)[0] == pytest.approx(1.10, abs=0.03)


def test_readout_needs_several_times_fewer_models():
    for k in (5, 10, 30):
        ratio = ensemble_complexity(k) / ensemble_complexity(k, kernel="readout")
        assert 4 <= ratio <= 7.5


# Inputs and tasks.


def test_all_inputs_are_every_nonzero_row_once():
    for k in (1, 5):
        X = binary_inputs(k)
        numbers = X @ (2 ** np.arange(k)[::-1])
        assert X.dtype == np.uint8
        assert numbers.tolist() == list(range(1, 2**k))


@pytest.mark.parametrize("k", [6, 24])
def test_all_inputs_of_some_ones_are_every_subset_once(k):
    X = binary_inputs(k, n_ones=2)
    found = {tuple(np.flatnonzero(row)) for row in X}
    assert len(X) == math.comb(k, 2)
    assert found == set(combinations(range(k), 2))
    numbers = X @ (2 ** np.arange(k)[::-1])
    assert np.all(np.diff(numbers) > 0)


@pytest.mark.parametrize(("k", "n_ones", "n"), [(40, None, 300), (40, 3, 300), (8, None, 250)])
def test_samples_are_distinct_and_repeatable(k, n_ones, n):
    X = binary_inputs(k, n_ones=n_ones, n_samples=n, random_state=1)
    assert len(np.unique(X, axis=0)) == n == len(X)
    assert X.any(axis=1).all()
    if n_ones is not None:
        assert np.all(X.sum(axis=1) == n_ones)
    again = binary_inputs(k, n_ones=n_ones, n_samples=n, random_state=1)
    assert np.array_equal(X, again)


@pytest.mark.parametrize(("n_ones", "total", "n"), [(None, 31, 5), (2, 10, 2), (2, 10, 7)])
def test_samples_are_uniform(n_ones, total, n):
    random_state = np.random.RandomState(0)
    counts = dict.fromkeys(map(bytes, binary_inputs(5, n_ones=n_ones)), 0)
    for _ in range(400):
        for row in binary_inputs(5, n_ones=n_ones, n_samples=n, random_state=random_state):
            counts[bytes(row)] += 1
    assert len(counts) == total
    assert chisquare(list(counts.values())).pvalue > 1e-3


def test_task_labels_are_permuted_inputs():
    task = make_permutation_task(6, random_state=3)
    for x, y in zip(task.X, task.Y, strict=True):
        assert np.array_equal(y, x[task.permutation])
    given = make_permutation_task(4, permutation=[3, 1, 0, 2])
    assert given.permutation.tolist() == [3, 1, 0, 2]


# The learner.


def test_k_examples_fix_the_permutation_of_every_input():
    task, model = fitted(10, mode="kernel")
    X = binary_inputs(10)
    assert len(task.X) == 10
    assert len(X) == 1023
    assert np.array_equal(model.predict(X), X[:, task.permutation])
    assert model.score(X, X[:, task.permutation]) == 1
    assert np.array_equal(model.decision_function(X), posterior(X, task.permutation)[0])
    assert not model.predict_std(X).any()


def test_examples_come_in_any_order():
    task = make_permutation_task(7, random_state=0)
    order = np.random.default_rng(1).permutation(7)
    model = ExactPermutationLearner(mode="kernel").fit(task.X[order], task.Y[order])
    assert np.array_equal(model.permutation_, task.permutation)


@pytest.mark.parametrize("mode", ["kernel", "gp"])
@pytest.mark.parametrize("rounding", ["sign", "midpoint"])
def test_training_inputs_are_rounded_at_one_half(mode, rounding):
    task, model = fitted(9, mode=mode, rounding=rounding, n_models=1)
    assert np.array_equal(model.predict(task.X), task.Y)
    assert model.threshold_(1) == 0.5


def test_ensemble_size_is_chosen_for_the_scope():
    for options in ({}, {"scope": 2}, {"kernel": "readout", "delta": 0.01}, {"sigma_w": 0.7}):
        _, model = fitted(6, **options)
        arguments = {"n_ones": "all", **options}
        arguments["n_ones"] = arguments.pop("scope", arguments["n_ones"])
        assert model.n_models_ == ensemble_complexity(6, **arguments)


def test_draw_is_exact_on_all_inputs_about_as_often_as_promised():
    failures = 0
    X = binary_inputs(6)
    task = make_permutation_task(6, random_state=0)
    for seed in range(60):
        model = ExactPermutationLearner(random_state=seed).fit(task.X, task.Y)
        failures += model.score(X, X[:, task.permutation]) < 1
    # At most 0.1 by the union bound: 14 of 60 has a probability below 1e-3.
    assert failures <= 14


def test_single_network_is_wrong_on_most_inputs():
    task, model = fitted(8, mode="network", n_models=40, width=128)
    X = binary_inputs(8)
    right = (model.member_outputs(X) > 0) == (X[:, task.permutation] == 1)
    assert right.all(axis=2).mean() < 0.5


def test_midpoint_needs_a_small_part_of_the_models():
    task, model = fitted(10, rounding="midpoint")
    X = binary_inputs(10)
    assert model.n_models_ == 16
    assert model.score(X, X[:, task.permutation]) > 0.99
    signed = clone(model).set_params(rounding="sign", n_models=16).fit(task.X, task.Y)
    pairs = binary_inputs(10, n_ones=2)
    assert model.score(pairs, pairs[:, task.permutation]) == 1
    assert signed.score(pairs, pairs[:, task.permutation]) < 0.5
    c = np.arange(2, 10)
    alpha0, alpha1, _, _ = ntk_coefficients(c, 10)
    assert np.allclose(model.threshold_(c), (alpha0 + alpha1) / 2, rtol=1e-13)
    assert np.array_equal(signed.threshold_(np.arange(1, 11)), [0.5] + [0] * 9)


def test_std_is_that_of_the_average():
    task, model = fitted(6, n_models=50, sigma_w=1.4)
    X = inputs_of_each_count(6)
    variance = posterior(X, task.permutation, sigma_w=1.4)[1]
    assert np.allclose(model.predict_std(X), np.sqrt(variance / 50), rtol=1e-13)


# The joint draw.


def test_draw_has_the_covariance_however_it_was_asked_for():
    X = binary_inputs(4)
    _, _, covariance = posterior(X, range(4), return_cov=True)

    def law(A, B):
        both = posterior(np.concatenate([A, B]), range(4), return_cov=True)[2]
        return both[: len(A), len(A) :]

    n = 40_000
    draw = GaussianFunction(law, n, seed=0, max_block=3)
    parts = [draw(X[part], max_bytes=10**6) for part in ([1, 5, 2, 4], [0], [5, 3, 6, 7])]
    values = draw(X, max_bytes=10**6)
    assert np.array_equal(values[[1, 5, 2, 4]], parts[0])
    assert np.array_equal(values[[5, 3, 6, 7]], parts[2])
    spread = np.sqrt((np.outer(*[np.diag(covariance)] * 2) + covariance**2) / n)
    # 120 entries: the largest of as many normal deviations is below 4.5.
    assert np.all(np.abs(values @ values.T / n - covariance) <= 4.5 * spread + 1e-15)


def test_conditioning_determines_what_is_already_known():
    # A covariance of rank 2: the third input's value is the sum of the first two.
    F = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    X = np.array([[0, 1], [1, 0], [1, 1]], dtype=np.uint8)

    def law(A, B):
        rows = [F[(2 * part[:, 0] + part[:, 1]) - 1] for part in (A, B)]
        return rows[0] @ rows[1].T

    draw = GaussianFunction(law, 4, seed=0)
    first = draw(X[:2], max_bytes=10**6)
    assert np.allclose(draw(X[2:], max_bytes=10**6)[0], first.sum(axis=0), rtol=0, atol=1e-7)


def test_repeated_calls_rows_and_orders_agree():
    _, model = fitted(7, n_models=3)
    X = binary_inputs(7, n_samples=60, random_state=0)
    first = model.decision_function(X)
    assert np.array_equal(model.decision_function(X), first)
    assert np.array_equal(model.decision_function(X[::-1])[::-1], first)
    doubled = model.decision_function(np.repeat(X, 2, axis=0))
    assert np.array_equal(doubled[::2], first)
    assert np.array_equal(doubled[1::2], first)
    assert np.array_equal(model.predict(X), first > model.threshold_(X.sum(axis=1))[:, None])
    _, again = fitted(7, n_models=3)
    assert np.array_equal(again.decision_function(X[::-1])[::-1], first)
    _, other = fitted(7, n_models=3)
    other.set_params(random_state=1).fit(
        *(make_permutation_task(7, random_state=7)[n] for n in "XY")
    )
    assert not np.array_equal(other.decision_function(X), first)


def test_draw_of_the_average_has_its_variance():
    k, n_models = 5, 3
    task = make_permutation_task(k, random_state=0)
    x = [[1, 1, 0, 0, 0], [0, 0, 1, 1, 1]]
    mean, variance = posterior(x, task.permutation)
    values = np.array(
        [
            ExactPermutationLearner(n_models, random_state=seed)
            .fit(task.X, task.Y)
            .decision_function(x)
            for seed in range(400)
        ]
    )
    squares = ((values - mean) ** 2).mean(axis=(0, 2)) * n_models / variance
    # 2000 draws: a standard error of sqrt(2 / 2000).
    assert np.allclose(squares, 1, rtol=0, atol=4 * math.sqrt(2 / 2000))


def test_draw_says_when_it_outgrows_its_memory():
    _, model = fitted(8, max_bytes=8 * 100**2)
    model.predict(binary_inputs(8, n_samples=90, random_state=0))
    with pytest.raises(ValueError, match=r"max_bytes is 80000: raise max_bytes"):
        model.predict(binary_inputs(8))


# Trained networks.


def reference_descent(W, V, targets, steps, rate_w, rate_v, sigma_w):
    """Gradient descent on one network by autograd."""
    k, m = V.shape
    W, V = (tensor.double().clone().requires_grad_() for tensor in (W, V))
    for _ in range(steps):
        f = (
            sigma_w
            / math.sqrt(m)
            * V
            @ torch.relu(sigma_w / math.sqrt(k) * W @ torch.eye(k).double())
        )
        loss = ((f - targets) ** 2).sum() / 2
        gradient_w, gradient_v = torch.autograd.grad(loss, (W, V))
        with torch.no_grad():
            W -= rate_w * gradient_w
            V -= rate_v * gradient_v
    return W.detach(), V.detach()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("kernel", KERNELS)
def test_training_is_gradient_descent(kernel):
    k, m, sigma_w, steps = 4, 30, 1.2, 12
    options = {"mode": "network", "n_models": 3, "width": m, "kernel": kernel}
    task, model = fitted(k, max_steps=steps, sigma_w=sigma_w, tol=1e-9, **options)
    seed = np.random.RandomState(0).randint(np.iinfo(np.int32).max)
    start = _initial(np.random.SeedSequence(seed).spawn(3), m, k)
    largest = sigma_w**4 * ((1 if kernel == "ntk" else 0.5) + (k - 1) / (2 * np.pi)) / k
    targets = torch.as_tensor(task.Y.T).double()
    for i in range(3):
        rates = (1 / largest if kernel == "ntk" else 0.0, 1 / largest)
        W, V = reference_descent(start[0][i], start[1][i], targets, steps, *rates, sigma_w)
        # float32 through 12 steps.
        assert torch.allclose(model.weights_[0][i].double(), W, rtol=0, atol=1e-5)
        assert torch.allclose(model.weights_[1][i].double(), V, rtol=0, atol=1e-5)
    if kernel == "readout":
        assert torch.equal(model.weights_[0], start[0])


@pytest.mark.parametrize("kernel", KERNELS)
def test_wide_networks_follow_the_law(kernel):
    k, n = 5, 400
    task, model = fitted(k, mode="network", n_models=n, width=512, kernel=kernel)
    assert model.residual_ < 1e-6
    for c in (2, 4, 5):
        X = binary_inputs(k, n_ones=c)
        outputs = model.member_outputs(X)
        bits = X[:, task.permutation] == 1
        alpha0, alpha1, variance, _ = ntk_coefficients(c, k, kernel=kernel)
        for chosen, expected in ((bits, alpha1), (~bits, alpha0)):
            if chosen.any():
                averages = outputs[:, chosen].mean(axis=1)
                error = averages.std(ddof=1) / math.sqrt(n)
                # 0.006 is the room of the width, O(1/m).
                assert averages.mean() == pytest.approx(float(expected), abs=4 * error + 0.006)
        assert outputs.var(axis=0, ddof=1).mean() == pytest.approx(float(variance), rel=0.1)
    assert np.allclose(model.member_outputs(task.X), task.Y, rtol=0, atol=2e-6)


def test_standard_parameterisation_is_the_readout_kernel():
    k, m, n = 5, 256, 300
    rng = torch.Generator().manual_seed(0)
    W = torch.randn(n, m, k, generator=rng)
    V = torch.randn(n, k, m, generator=rng)
    rate = 1 / ((0.5 + (k - 1) / (2 * np.pi)) / k)
    eye = torch.eye(k)
    for _ in range(80):
        hidden = torch.relu(W) / math.sqrt(k)
        error = V @ hidden / math.sqrt(m) - eye
        slope = V.transpose(1, 2) @ error / math.sqrt(m) * (W > 0) / math.sqrt(k)
        # V / sqrt m and W / sqrt k move with one learning rate: W lags by the factor k / m.
        V = V - rate * error @ hidden.transpose(1, 2) / math.sqrt(m)
        W = W - rate * k / m * slope
    x = torch.as_tensor(binary_inputs(k, n_ones=2) / math.sqrt(2)).float()
    outputs = (V @ torch.relu(W @ x.T) / math.sqrt(m * k)).transpose(1, 2)
    zeros = outputs[:, x == 0].mean(dim=1)
    error = float(zeros.std() / math.sqrt(n))
    readout, tangent = (float(ntk_coefficients(2, k, kernel=name).alpha0) for name in KERNELS[::-1])
    assert abs(float(zeros.mean()) - readout) <= 4 * error
    assert abs(float(zeros.mean()) - tangent) > 4 * error


def test_average_of_members_is_the_decision():
    _, model = fitted(5, mode="network", n_models=7, width=64)
    X = binary_inputs(5)
    outputs = model.member_outputs(X)
    assert outputs.shape == (7, 31, 5)
    assert outputs.dtype == model.decision_function(X).dtype == np.float64
    # float32 products may be summed in another order for another chunk.
    assert np.allclose(outputs.mean(axis=0), model.decision_function(X), rtol=0, atol=1e-6)


@pytest.mark.parametrize("options", [{"max_bytes": 40_000}, {"n_jobs": 2}])
def test_networks_do_not_depend_on_chunks_or_jobs(options):
    common = {"mode": "network", "n_models": 9, "width": 64}
    _, whole = fitted(5, **common)
    _, parts = fitted(5, **common, **options)
    for one, two in zip(whole.weights_, parts.weights_, strict=True):
        assert torch.allclose(one, two, rtol=0, atol=1e-5)
    X = binary_inputs(5)
    found = [model.decision_function(X) for model in (whole, parts)]
    assert np.allclose(*found, rtol=0, atol=1e-5)


def test_unfinished_training_warns():
    with pytest.warns(ConvergenceWarning, match=r"4 of 4 networks have a training error of up to"):
        _, model = fitted(5, mode="network", n_models=4, width=64, max_steps=3)
    assert model.n_steps_ == 3
    assert model.residual_ > 1e-6


def test_refit_in_another_mode_leaves_no_weights():
    task, model = fitted(4, mode="network", n_models=2, width=16)
    assert model.n_steps_ > 0
    model.set_params(mode="gp").fit(task.X, task.Y)
    assert not hasattr(model, "weights_")
    assert (model.n_steps_, model.residual_) == (0, 0.0)


# Conventions and bad input.


@pytest.mark.parametrize("mode", ["kernel", "gp", "network"])
def test_learner_is_cloned_pickled_and_takes_frames(mode):
    task = make_permutation_task(4, random_state=0)
    names = list("abcd")
    frame, labels = pd.DataFrame(task.X, columns=names), pd.DataFrame(task.Y)
    model = ExactPermutationLearner(5, mode=mode, width=32, random_state=0)
    model = clone(model).fit(frame, labels)
    X = pd.DataFrame(binary_inputs(4), columns=names)
    predicted = model.predict(X)
    assert predicted.dtype == np.uint8
    assert model.n_features_in_ == 4
    assert list(model.feature_names_in_) == names
    again = pickle.loads(pickle.dumps(model))
    assert np.array_equal(again.decision_function(X), model.decision_function(X))
    assert np.array_equal(again.threshold_([1, 2]), model.threshold_([1, 2]))


def test_entries_may_be_booleans_or_floats():
    task, model = fitted(4, mode="kernel")
    X = binary_inputs(4)
    expected = X[:, task.permutation]
    assert np.array_equal(model.predict(X.astype(bool)), expected)
    assert np.array_equal(model.predict(X.astype(float)), expected)


EYE = np.eye(4)
BAD_CALLS = [
    (lambda: ntk_coefficients(0, 5), ValueError, "n_ones must lie in 1 to k = 5, got 0"),
    (lambda: ntk_coefficients([2, 6], 5), ValueError, "n_ones must lie in 1 to k = 5, got 2 to 6"),
    (lambda: ntk_coefficients(2.0, 5), TypeError, "n_ones must be integers"),
    (lambda: ntk_coefficients(1, 1), ValueError, "k must be at least 2, got 1"),
    (lambda: ntk_coefficients(1, 2.5), TypeError, "k must be an integer"),
    (lambda: ntk_coefficients(1, 3, kernel="rbf"), ValueError, "kernel must be one of 'ntk'"),
    (lambda: ntk_coefficients(1, 3, sigma_w=0), ValueError, "sigma_w must be positive"),
    (lambda: ntk_coefficients(1, 3, sigma_w="1"), TypeError, "sigma_w must be a number"),
    (lambda: two_layer_kernels(EYE, np.eye(3)), ValueError, "X2 must have the 4 columns of X1"),
    (lambda: two_layer_kernels(np.zeros((1, 2))), ValueError, "X1 must have no zero row"),
    (lambda: two_layer_kernels([[np.nan, 1]]), ValueError, "NaN"),
    (lambda: posterior([[0, 0]], [0, 1]), ValueError, "X must have no row of zeros alone"),
    (lambda: posterior([[0, 2]], [0, 1]), ValueError, "X must be binary, entries 0 or 1, got 2"),
    (lambda: posterior([["a", "b"]], [0, 1]), TypeError, "X must hold the numbers 0 and 1"),
    (lambda: posterior([[0, 1]], [0, 1, 2]), ValueError, "X must have 3 columns"),
    (lambda: posterior([[0, 1]], [0, 0]), ValueError, "perm must be a permutation of 0 to 1"),
    (lambda: posterior([[0, 1]], [[0, 1]]), ValueError, "perm must be a list of at least 2"),
    (lambda: posterior([[0, 1]], [0.0, 1.0]), TypeError, "perm must hold integers"),
    (lambda: ensemble_complexity(5, delta=1.0), ValueError, r"delta must lie inside \(0, 1\)"),
    (lambda: ensemble_complexity(5, delta=np.nan), ValueError, "delta must lie inside"),
    (lambda: ensemble_complexity(5, n_ones=6), ValueError, "n_ones must be 1 to 5, got 6"),
    (lambda: ensemble_complexity(5, n_ones="any"), ValueError, "n_ones must be 'all' or a number"),
    (lambda: ensemble_complexity(5, n_ones=2.0), TypeError, "n_ones must be an integer"),
    (lambda: ensemble_complexity(5, rounding="up"), ValueError, "rounding must be one of 'sign'"),
    (lambda: ensemble_complexity(5, method="mc"), ValueError, "method must be one of 'gaussian'"),
    (lambda: ensemble_complexity(5, kernel="x"), ValueError, "kernel must be one of"),
    (lambda: binary_inputs(21), ValueError, "n_samples must be given where there are more than"),
    (lambda: binary_inputs(60, n_ones=9), ValueError, "n_samples must be given"),
    (lambda: binary_inputs(4, n_samples=16), ValueError, "n_samples must be at most the 15 inputs"),
    (lambda: binary_inputs(4, n_ones=5), ValueError, "n_ones must be 1 to 4, got 5"),
    (lambda: binary_inputs(0), ValueError, "k must be at least 1"),
    (lambda: make_permutation_task(1), ValueError, "k must be at least 2"),
    (
        lambda: make_permutation_task(3, permutation=[0, 1]),
        ValueError,
        "permutation must hold k = 3 indices, got 2",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD_CALLS)
def test_bad_calls_say_what_is_wrong(call, error, message):
    with pytest.raises(error, match=message):
        call()


BAD_FITS = [
    (EYE[:3], EYE[:3], {}, "X must be the k standard basis vectors"),
    (EYE[[0, 1, 2, 2]], EYE, {}, "X must be the k standard basis vectors"),
    (np.ones((4, 4)), EYE, {}, "X must be the k standard basis vectors"),
    (2 * EYE, EYE, {}, "X must be binary"),
    (np.zeros((4, 4)), EYE, {}, "X must have no row of zeros"),
    (EYE, EYE[[0, 1, 2, 2]], {}, "Y must be their permuted images"),
    (EYE, EYE[:3], {}, "Y must be their permuted images"),
    (EYE, EYE + 1, {}, "Y must be binary"),
    ([[1]], [[1]], {}, "k must be at least 2"),
    (EYE, EYE, {"kernel": "rbf"}, "kernel must be one of"),
    (EYE, EYE, {"rounding": "up"}, "rounding must be one of"),
    (EYE, EYE, {"mode": "exact"}, "mode must be one of"),
    (EYE, EYE, {"scope": "some"}, "scope must be 'all' or a number of ones, got 'some'"),
    (EYE, EYE, {"scope": 5}, "scope must be 1 to 4, got 5"),
    (EYE, EYE, {"delta": 0}, "delta must lie inside"),
    (EYE, EYE, {"n_models": 0}, "n_models must be at least 1"),
    (EYE, EYE, {"n_models": "many"}, "n_models must be 'auto' or an integer, got 'many'"),
    (EYE, EYE, {"width": 0}, "width must be at least 1"),
    (EYE, EYE, {"max_steps": 0}, "max_steps must be at least 1"),
    (EYE, EYE, {"max_bytes": 0}, "max_bytes must be at least 1"),
    (EYE, EYE, {"tol": 0.0}, "tol must be positive"),
    (EYE, EYE, {"sigma_w": -1.0}, "sigma_w must be positive"),
    (EYE, EYE, {"sigma_w": 1e80}, "sigma_w must have a fourth power in double range"),
    (EYE, EYE, {"sigma_w": 1e-80}, "sigma_w must have a fourth power in double range"),
    (EYE, EYE, {"mode": "network", "device": "abacus"}, "device must be an available torch device"),
]


@pytest.mark.parametrize(("X", "Y", "options", "message"), BAD_FITS)
def test_bad_fits_say_what_is_wrong(X, Y, options, message):
    with pytest.raises(ValueError, match=message):
        ExactPermutationLearner(**options).fit(X, Y)


def test_number_of_models_must_be_an_integer():
    with pytest.raises(TypeError, match=r"n_models must be an integer, got 2\.5"):
        ExactPermutationLearner(2.5).fit(EYE, EYE)


@pytest.mark.parametrize(
    "method", ["predict", "decision_function", "predict_std", "member_outputs"]
)
def test_bad_test_rows_say_what_is_wrong(method):
    with pytest.raises(NotFittedError):
        getattr(ExactPermutationLearner(), method)(EYE)
    call = getattr(ExactPermutationLearner().fit(EYE, EYE), method)
    for X, message in (
        ([[1, 0, 2, 0]], "X must be binary, entries 0 or 1, got 2"),
        ([[1, 0, 0, 0], [0, 0, 0, 0]], "X must have no row of zeros alone, got one at 1"),
        ([[1, 0, 0]], "X has 3 features, but ExactPermutationLearner is expecting 4"),
    ):
        with pytest.raises(ValueError, match=message):
            call(X)


def test_members_and_scores_say_what_they_need():
    model = ExactPermutationLearner().fit(EYE, EYE)
    with pytest.raises(ValueError, match="mode must be 'network' for outputs of members, got 'gp'"):
        model.member_outputs(EYE)
    with pytest.raises(ValueError, match=r"Y must have shape \(4, 4\), as X, got \(3, 4\)"):
        model.score(EYE, EYE[:3])
