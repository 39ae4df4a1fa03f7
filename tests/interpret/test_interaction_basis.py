"""The interaction basis: its algebra, its invariance, its edges, and what it refuses."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from rankone.interpret.interaction_basis import (
    InteractionBasis,
    activation_gram,
    jacobian_gram,
)
from scipy import linalg
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from torch import nn

ROUNDING = 1e-10  # of float64 sums and decompositions at these sizes
EIGENVALUES = 1e-8  # relative, of eigenvalues by different routes


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mlp(widths, seed=0):
    """Sections of a smooth network as plain functions in float64."""

    def section(W, b):
        return lambda h: torch.tanh(h @ W + b)

    sections = []
    for i, (a, b) in enumerate(pairwise(widths)):
        W = normal(a, b, seed=seed + i) / a**0.5
        sections.append(section(W, 0.3 * normal(b, seed=seed + 50 + i)))
    return sections


def rewritten(sections, mixings, shift=0.0):
    """The same network with every inner node layer f given as ``f A + shift``."""
    outs = [*((A, shift) for A in mixings), (None, 0.0)]
    undos = [(None, 0.0), *((torch.linalg.inv(A), shift) for A in mixings)]
    return [_wrapped(*parts) for parts in zip(sections, undos, outs, strict=True)]


def _wrapped(inner, undo, out):
    def run(h):
        if undo[0] is not None:
            h = (h - undo[1]) @ undo[0]
        h = inner(h)
        return h if out[0] is None else h @ out[0] + out[1]

    return run


def conditioned(d, condition, seed=0):
    """A nonsymmetric matrix of a given condition number."""
    U, V = (torch.linalg.qr(normal(d, d, seed=seed + i))[0] for i in (1, 2))
    return U * torch.logspace(0, np.log10(condition), d, dtype=torch.float64) @ V


def brute_force_jacobians(fn, X):
    """(n, m, d), a data point at a time by forward differentiation."""
    return torch.stack([torch.func.jacfwd(lambda x: fn(x[None])[0])(x) for x in X])


def close(ours, exact, tolerance=ROUNDING):
    scale = float(exact.abs().max())
    np.testing.assert_allclose(ours, exact, rtol=0, atol=tolerance * scale)


X = normal(200, 6) @ normal(6, 6, seed=1) + 1.0
SECTIONS = mlp((6, 5, 4, 3))


@pytest.fixture(scope="module")
def fitted():
    return InteractionBasis().fit(SECTIONS, X)


def node(layer):
    h = X
    for section in SECTIONS[:layer]:
        h = section(h)
    return h


def tail(layer):
    def run(h):
        for section in SECTIONS[layer:]:
            h = section(h)
        return h

    return run


# The Gram matrices.


def test_activation_gram_is_numpy_covariance_and_second_moment():
    close(activation_gram(X, center=True), torch.as_tensor(np.cov(X.T.numpy(), bias=True)))
    close(activation_gram(X), X.T @ X / len(X))


def test_activation_gram_averages_over_positions():
    sequences = normal(7, 4, 3)
    close(activation_gram(sequences), activation_gram(sequences.reshape(28, 3)))


@pytest.mark.parametrize("batch_size", [1, 64, 1000])
def test_jacobian_gram_is_the_mean_of_squares_whatever_the_batches(batch_size):
    J = brute_force_jacobians(tail(0), X[:80])
    exact = torch.einsum("nij,nik->jk", J, J) / len(J)
    close(jacobian_gram(tail(0), X[:80], batch_size=batch_size), exact)
    # The square of the mean Jacobian, or the gradient of a loss, is something else.
    assert (exact - J.mean(0).T @ J.mean(0)).abs().max() > 0.01


def test_jacobian_gram_of_projected_outputs():
    C = normal(3, 2, seed=5)
    close(jacobian_gram(tail(0), X, C), jacobian_gram(lambda h: tail(0)(h) @ C, X))


def attention(h):
    return torch.softmax(h @ h.transpose(1, 2), dim=-1) @ torch.tanh(h)


def test_jacobian_gram_of_sequences_sums_over_output_positions():
    h = normal(5, 3, 2)
    J = torch.stack([torch.func.jacfwd(lambda x: attention(x[None])[0])(x) for x in h])
    exact = torch.einsum("btisj,btisk->jk", J, J) / 15
    close(jacobian_gram(attention, h), exact)


def test_stochastic_sources_are_unbiased_and_repeatable():
    h = normal(40, 4, 3)
    sections = [attention, attention]
    exact = InteractionBasis().fit(sections, h).layers_[0].jacobian_gram_
    estimates = torch.stack(
        [
            InteractionBasis(n_stochastic_sources=5, random_state=seed)
            .fit(sections, h)
            .layers_[0]
            .jacobian_gram_
            for seed in range(12)
        ]
    )
    error = estimates.std(dim=0) / 12**0.5
    assert ((estimates.mean(0) - exact).abs() <= 5 * error + 1e-12).all()
    assert error.max() > 1e-4  # they are estimates
    again = InteractionBasis(n_stochastic_sources=5, random_state=11).fit(sections, h)
    assert torch.equal(again.layers_[0].jacobian_gram_, estimates[11])


def test_one_source_is_exact_where_positions_do_not_mix():
    h = normal(10, 4, 3)
    sections = [torch.tanh, lambda f: f @ normal(3, 2)]
    exact = InteractionBasis().fit(sections, h).layers_[0].jacobian_gram_
    one = InteractionBasis(n_stochastic_sources=1, random_state=0).fit(sections, h)
    close(one.layers_[0].jacobian_gram_, exact)


# The basis.


@pytest.mark.parametrize(
    ("scaling", "p"), [("importance", 0.5), ("whitened", 0.0), ("balanced", 0.25)]
)
@pytest.mark.parametrize("basis", ["interaction", "local_interaction"])
def test_both_gram_matrices_are_diagonal_in_the_new_coordinates(basis, scaling, p):
    model = InteractionBasis(basis, scaling=scaling).fit(SECTIONS, X)
    for l in range(3):
        layer = model.layers_[l]
        z = model.transform(node(l), l)
        importance = layer.importance_
        close(z.T @ z / len(z), torch.diag(importance ** (2 * p)), EIGENVALUES)
        # Functions of z, by the chain rule through f = z C^+ + mu.
        K = layer.components_pinv_ @ layer.jacobian_gram_ @ layer.components_pinv_.T
        close(K, torch.diag(importance ** (1 - 2 * p)), EIGENVALUES)
        close(layer.components_pinv_ @ layer.components_, torch.eye(len(importance)).double())


@pytest.mark.parametrize("basis", ["interaction", "local_interaction"])
def test_local_recursion_reads_the_importance_scaling_whatever_is_returned(basis):
    importance, whitened = (
        InteractionBasis(basis, scaling=scaling).fit(SECTIONS, X)
        for scaling in ("importance", "whitened")
    )
    for a, b in zip(importance.layers_, whitened.layers_, strict=True):
        close(a.importance_, b.importance_)


@pytest.mark.parametrize("center", [True, False])
def test_importances_are_the_nonzero_spectrum_of_the_product(center):
    model = InteractionBasis(center=center).fit(SECTIONS, X)
    for l in range(3):
        G = activation_gram(node(l), center=center).numpy()
        K = jacobian_gram(tail(l), node(l)).numpy()
        spectrum = np.sort(linalg.eigvals(G @ K).real)[::-1]
        k = model.layers_[l].n_directions
        np.testing.assert_allclose(model.layers_[l].importance_, spectrum[:k], rtol=EIGENVALUES)
        assert (np.abs(spectrum[k:]) <= 1e-10 * spectrum[0]).all()


def test_importances_are_squared_hankel_singular_values():
    """A linear system's Gramians, from scipy's Lyapunov solver, as G and K of a layer."""
    A = normal(4, 4).numpy() / 3 - 2 * np.eye(4)
    B, C = normal(4, 2, seed=1).numpy(), normal(2, 4, seed=2).numpy()
    P = linalg.solve_continuous_lyapunov(A, -B @ B.T)
    Q = linalg.solve_continuous_lyapunov(A.T, -C.T @ C)
    Lp, Lq = linalg.cholesky(P, lower=True), linalg.cholesky(Q, lower=True)
    # Inputs whose second moment is P exactly; a linear map whose Jacobian Gram is Q.
    signs = torch.as_tensor(linalg.hadamard(4), dtype=torch.float64)
    f, W = signs @ torch.as_tensor(Lp.T), torch.as_tensor(Lq)
    model = InteractionBasis(center=False).fit([lambda h: h @ W], f)
    hankel = linalg.svdvals(Lq.T @ Lp)
    np.testing.assert_allclose(model.layers_[0].importance_, hankel**2, rtol=EIGENVALUES)


def test_linear_tail_splits_the_output_variance():
    W = normal(3, 6, seed=4)
    layer = InteractionBasis().fit([lambda f: f @ W.T], X).layers_[0]
    G = activation_gram(X, center=True)
    assert float(layer.importance_.sum()) == pytest.approx(float((W @ G @ W.T).trace()))
    variance = (X @ W.T).var(dim=0, correction=0).sum()
    assert float(layer.importance_.sum()) == pytest.approx(float(variance))
    values, vectors = torch.linalg.eigh(G)
    assert layer.n_directions == torch.linalg.matrix_rank(W @ vectors * values.sqrt())


def test_dead_directions_are_dropped_not_inverted():
    """Two dead inputs, one direction that the output never reads: 3 of 6 stay."""
    h = X.clone()
    h[:, :2] = 0.0
    W = torch.zeros(6, 4, dtype=torch.float64)
    W[2:5] = normal(3, 4)
    layer = InteractionBasis().fit([lambda f: torch.tanh(f @ W)], h).layers_[0]
    assert (layer.activation_rank_, layer.jacobian_rank_, layer.n_directions) == (4, 3, 3)
    assert torch.isfinite(layer.components_).all()


@pytest.mark.parametrize("condition", [3.0, 300.0])
@pytest.mark.parametrize("basis", ["interaction", "local_interaction"])
def test_invariance_under_a_nonorthogonal_change_of_basis(basis, condition):
    mixings = [conditioned(5, condition, seed=3), conditioned(4, condition, seed=7)]
    model = InteractionBasis(basis).fit(SECTIONS, X)
    other = InteractionBasis(basis).fit(rewritten(SECTIONS, mixings, shift=2.0), X)
    edges = zip(model.edges(X), other.edges(X), strict=True)
    for l in (1, 2):
        ours, theirs = model.layers_[l], other.layers_[l]
        close(theirs.importance_, ours.importance_, EIGENVALUES)
        # Up to rounding, up to sign: distinct eigenvalues.
        z = model.transform(node(l), l)
        mixed = other.transform(node(l) @ mixings[l - 1] + 2.0, l)
        gap = (z.abs() - mixed.abs()).abs().max(dim=0).values / z.abs().max(dim=0).values
        assert gap.max() < 1e-6
    for a, b in edges:
        close(b, a, 1e-6)


def test_pca_is_not_invariant():
    mixings = [conditioned(5, 300.0, seed=3), conditioned(4, 300.0, seed=7)]
    model, other = (
        InteractionBasis("pca").fit(sections, X).layers_[1].importance_
        for sections in (SECTIONS, rewritten(SECTIONS, mixings))
    )
    assert abs(float(other[0] / model[0]) - 1) > 0.1


def test_output_is_unchanged_where_only_unread_directions_are_removed(fitted):
    for l in range(4):
        projected = fitted.project(node(l), l, fitted.layers_[l].n_directions)
        close(tail(l)(projected), tail(l)(node(l)))
    read = normal(6, 2, seed=8)
    sections = [lambda f: torch.tanh(f @ read), lambda h: h @ normal(2, 3, seed=9)]
    model = InteractionBasis().fit(sections, X)
    rank = model.layers_[0].jacobian_rank_
    assert rank == 2
    projected = model.project(X, 0, rank)
    assert (projected - X).abs().max() > 0.1
    close(sections[1](sections[0](projected)), sections[1](sections[0](X)))


def test_projection_keeps_the_first_directions(fitted):
    z = fitted.transform(node(1), 1)
    z[:, 2:] = 0
    close(fitted.project(node(1), 1, 2), fitted.inverse_transform(z, 1))
    close(fitted.project(node(1), 1, 0), fitted.layers_[1].mean_.expand(len(X), -1))


def test_each_column_has_a_positive_entry_of_largest_magnitude():
    for basis in ("interaction", "local_interaction", "pca"):
        for layer in InteractionBasis(basis).fit(SECTIONS, X).layers_:
            C = layer.components_
            assert (C.gather(0, C.abs().argmax(0, keepdim=True)) > 0).all()


def test_output_layer_and_pca_are_scikit_learns_pca(fitted):
    reference = PCA().fit(node(3))
    n = len(X)
    for layer in (fitted.layers_[3], InteractionBasis("pca").fit(SECTIONS, X).layers_[3]):
        variances = torch.as_tensor(reference.explained_variance_ * (n - 1) / n)
        close(layer.importance_, variances)
        close(layer.components_.abs(), torch.as_tensor(np.abs(reference.components_.T)))
        close(layer.mean_, torch.as_tensor(reference.mean_))


def test_neuron_basis_is_the_identity_without_centring():
    model = InteractionBasis("neuron").fit(SECTIONS, X)
    assert torch.equal(model.transform(X, 0), X)
    assert torch.equal(model.layers_[0].mean_, torch.zeros(6).double())
    kept = model.project(X, 0, 1)
    loudest = X.square().mean(0).argmax()
    assert torch.equal(kept[:, loudest], X[:, loudest])
    assert (kept == 0).sum() == 5 * len(X)


def test_linear_last_sections_make_both_interaction_bases_agree():
    W = normal(4, 3, seed=6)
    sections = [*mlp((6, 5, 4)), lambda h: h @ W]
    both = [
        InteractionBasis(basis).fit(sections, X) for basis in ("interaction", "local_interaction")
    ]
    for l in (1, 2):
        close(both[1].layers_[l].importance_, both[0].layers_[l].importance_, EIGENVALUES)
    # At layer 0 the Jacobian of a nonlinear section lies in between.
    gap = both[1].layers_[0].importance_ - both[0].layers_[0].importance_
    assert gap.abs().max() > 1e-4


# Edges.


def test_edges_of_a_linear_section():
    W = normal(6, 4, seed=2)
    model = InteractionBasis().fit([lambda f: f @ W, torch.tanh], X)
    matrix = model.edges(X)[0]
    a, b = model.layers_[:2]
    What = (a.components_pinv_ @ W @ b.components_).T
    second_moments = model.transform(X, 0).square().mean(0)
    close(matrix, What.square() * second_moments)
    assert matrix.shape == (b.n_directions, a.n_directions)


def test_edges_square_the_contribution_of_each_data_point():
    """Against a brute-force Jacobian; squaring after the mean would give less."""
    model = InteractionBasis().fit(SECTIONS, X)

    a, b = model.layers_[1], model.layers_[2]

    def step(z):
        h = SECTIONS[1](z @ a.components_pinv_ + a.mean_)
        return (h - b.mean_) @ b.components_

    z = model.transform(node(1), 1)
    contributions = brute_force_jacobians(step, z) * z[:, None, :]
    close(model.edges(X)[1], contributions.square().mean(0))
    assert (contributions.mean(0).square() < 0.9 * contributions.square().mean(0)).any()


def test_integrated_edges_are_complete_in_one_dimension():
    """The integral of the derivative is the difference of the values at its ends."""
    x = normal(100, 1)

    def section(h):
        return torch.sin(2 * h) + h**2

    model = InteractionBasis("neuron", center=False).fit([section], x)
    (matrix,) = model.edges(x, integration="gauss-legendre", n_points=12)
    exact = (section(x) - section(torch.zeros(1))).square().mean()
    assert matrix.item() == pytest.approx(exact.item(), rel=1e-9)
    assert model.edges(x)[0].item() != pytest.approx(exact.item(), rel=0.1)


def test_integrated_edges_of_a_sequence_sum_over_input_positions():
    """One direction: sum over s of the integrals is z(t) less its value at zero."""
    x = normal(30, 4, 1)
    mix = normal(4, 4, seed=3)

    def section(h):
        return torch.tanh(mix @ h)

    model = InteractionBasis("neuron").fit([section], x)
    (matrix,) = model.edges(x, integration="gauss-legendre", n_points=20)
    assert matrix.item() == pytest.approx(section(x).square().mean().item(), rel=1e-6)


def test_edges_do_not_depend_on_batches():
    small = InteractionBasis(batch_size=7).fit(SECTIONS, X)
    for a, b in zip(small.edges(X), InteractionBasis().fit(SECTIONS, X).edges(X), strict=True):
        close(a, b)
    quadrature = ("gauss-legendre", 3)
    for a, b in zip(
        small.edges(X, *quadrature),
        InteractionBasis().fit(SECTIONS, X).edges(X, *quadrature),
        strict=True,
    ):
        close(a, b)


# Ablations.


def test_ablation_curve_scores_the_projected_network(fitted):
    y = tail(0)(X).argmax(dim=1)
    curve = fitted.ablation_curve(X, y, 1, [0, 2, 5])
    manual = [
        float((tail(1)(fitted.project(node(1), 1, k)).argmax(1) == y).double().mean())
        for k in (0, 2, 5)
    ]
    np.testing.assert_array_equal(curve, manual)
    assert curve[-1] == 1.0
    errors = fitted.ablation_curve(X, tail(0)(X), 1, [1, 3, 5], metric="squared_error")
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < ROUNDING
    largest = fitted.ablation_curve(X, y, 1, [2], metric=lambda out, y: out.max().item())
    assert largest[0] == tail(1)(fitted.project(node(1), 1, 2)).max().item()


def test_edge_ablation_computes_each_direction_from_its_kept_edges(fitted):
    edges = fitted.edges(X)[1]
    outputs = tail(0)(X)
    n = edges.numel()
    curve = fitted.edge_ablation_curve(X, outputs, edges, 1, [0, 7, n], "squared_error")
    assert curve[2] < ROUNDING
    a, b = fitted.layers_[1:3]
    kept = edges >= edges.flatten().sort(descending=True).values[6]
    z, z_next = fitted.transform(node(1), 1), []
    for i in range(len(edges)):
        h = SECTIONS[1]((z * kept[i]) @ a.components_pinv_ + a.mean_)
        z_next.append((h - b.mean_) @ b.components_[:, i])
    out = tail(2)(torch.stack(z_next, 1) @ b.components_pinv_ + b.mean_)
    assert curve[1] == pytest.approx((out - outputs).square().sum(1).mean().item())


# A user's network.


def test_modules_are_run_in_float64_and_left_as_they_are():
    network = nn.Sequential(nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 2)).train()
    before = [parameter.clone() for parameter in network.parameters()]
    model = InteractionBasis().fit(network, X.float())
    assert network.training
    for parameter, old in zip(network.parameters(), before, strict=True):
        assert parameter.dtype == torch.float32
        assert parameter.requires_grad
        assert parameter.grad is None
        assert torch.equal(parameter, old)
    assert model.layers_[0].components_.dtype == torch.float64
    K = jacobian_gram(network.double(), X.float().double())
    close(model.layers_[0].jacobian_gram_, K.detach())


def test_float32_model_keeps_float64_ranks():
    network = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))
    single, double = (
        InteractionBasis(dtype=dtype).fit(network, X) for dtype in (torch.float32, torch.float64)
    )
    for a, b in zip(single.layers_, double.layers_, strict=True):
        assert a.components_.dtype == torch.float64
        assert a.n_directions == b.n_directions
        close(a.importance_, b.importance_, 1e-4)


def test_modules_in_place_do_not_write_into_node_layers():
    network = [nn.Linear(6, 5), nn.ReLU(inplace=True), nn.Linear(5, 2)]
    model = InteractionBasis().fit(network, X)
    network[1] = nn.ReLU()
    for a, b in zip(model.layers_, InteractionBasis().fit(network, X).layers_, strict=True):
        assert torch.equal(a.importance_, b.importance_)
    assert (model.activations(X, 1) < 0).any()


def test_sequences_may_end_in_one_vector():
    h = normal(50, 4, 3)
    W = normal(3, 2)
    model = InteractionBasis().fit([attention, lambda f: f[:, -1] @ W], h)
    assert model.transform(attention(h), 1).shape == (50, 4, 2)
    # Only the last of four positions is read: K is a quarter of W W^T.
    close(model.layers_[1].jacobian_gram_, W @ W.T / 4)
    assert [tuple(e.shape) for e in model.edges(h)] == [
        (2, model.layers_[0].n_directions),
        (2, 2),
    ]


def test_arrays_and_frames_are_accepted():
    pandas = pytest.importorskip("pandas")
    model = InteractionBasis().fit(SECTIONS, X)
    for data in (X.numpy(), pandas.DataFrame(X.numpy()), X.requires_grad_(False)):
        other = InteractionBasis().fit(SECTIONS, data)
        assert torch.equal(other.layers_[0].components_, model.layers_[0].components_)
    with torch.inference_mode():
        inference = X + 0
    assert InteractionBasis().fit(SECTIONS, inference).layers_[0].n_directions == 5


def test_parameters_clone():
    model = InteractionBasis("pca", rtol=1e-6)
    assert clone(model).get_params() == model.get_params()


# Bad input.

LINEAR = [nn.Linear(6, 2)]
BATCH_MIXING = [lambda h: h - h.mean(dim=0)]


@pytest.mark.parametrize(
    ("options", "sections", "data", "error", "message"),
    [
        ({"basis": "svd"}, LINEAR, X, ValueError, "basis must be one of .* got 'svd'"),
        ({"scaling": "none"}, LINEAR, X, ValueError, "scaling must be one of"),
        ({"rtol": -1.0}, LINEAR, X, ValueError, "rtol must be in"),
        ({"rtol_jacobian": 1.0}, LINEAR, X, ValueError, "rtol_jacobian must be in"),
        ({"batch_size": 0}, LINEAR, X, ValueError, "batch_size must be an integer of at least 1"),
        ({"dtype": torch.float16}, LINEAR, X, TypeError, "dtype must be torch.float32 or"),
        ({"n_stochastic_sources": 0}, LINEAR, X, ValueError, "n_stochastic_sources must be an"),
        ({"n_stochastic_sources": 2}, LINEAR, X, ValueError, "n_stochastic_sources needs seq"),
        ({}, LINEAR, X[0], ValueError, "X must be 2-D or 3-D, got 1-D"),
        ({}, LINEAR, X[:0], ValueError, "X must not be empty"),
        ({}, LINEAR, X + 0j, TypeError, "X must be real"),
        ({}, LINEAR, [["a"]], TypeError, "X must be numeric, got dtype <U1"),
        ({}, LINEAR, X / 0, ValueError, "X must be finite"),
        ({}, [], X, ValueError, "sections must hold at least one"),
        ({}, torch.tanh, X, TypeError, "sections must be a sequence of callables"),
        ({}, [torch.tanh, 3], X, TypeError, r"sections\[1\] must be callable, got int"),
        ({}, [lambda h: h.sum()], X, ValueError, r"sections\[0\] must return a 2-D or 3-D"),
        ({}, [lambda h: (h, h)], X, ValueError, "3-D tensor, got tuple"),
        ({}, [lambda h: h[:5]], X, ValueError, "must return a row for every data point"),
        ({}, [lambda h: h / 0], X, ValueError, r"sections\[0\] must return finite values"),
        ({}, [nn.Linear(3, 2)], X, ValueError, r"sections\[0\] fails on inputs of shape \(200, 6"),
        ({}, BATCH_MIXING, X, ValueError, r"sections\[0\] must treat every data point on its own"),
        ({}, [lambda h: h + torch.rand_like(h)], X, ValueError, "without randomness"),
        ({}, [nn.Dropout()], X, ValueError, r"sections\[0\] is a Dropout in training mode"),
        (
            {},
            [nn.Sequential(nn.Linear(6, 2), nn.BatchNorm1d(2))],
            X,
            ValueError,
            r"sections\[0\].1 is a BatchNorm1d in training mode",
        ),
        (
            {},
            [lambda h: h @ torch.ones(6, 2)],
            X,
            TypeError,
            r"sections\[0\] does not run on torch.float64",
        ),
        ({}, [lambda h: 0 * h + 1], X, ValueError, "layer 1 is constant .* importances vanish"),
        ({}, LINEAR, torch.ones(9, 6), ValueError, "layer . is constant"),
        ({}, [lambda h: h.detach()], X, ValueError, "carries no gradient"),
        (
            {},
            [lambda h: h, lambda h: h.detach() + 0 * h],
            X,
            ValueError,
            "layer 1: all importances vanish",
        ),
    ],
)
def test_fit_refuses(options, sections, data, error, message):
    with pytest.raises(error, match=message):
        InteractionBasis(**options).fit(sections, data)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.transform(X, 4), "layer must be an integer from 0 to 3, got 4"),
        (lambda m: m.transform(X, -1), "layer must be an integer from 0 to 3, got -1"),
        (lambda m: m.transform(X, True), "layer must be an integer"),
        (lambda m: m.transform(X, 1), "h must have 5 columns at layer 1"),
        (lambda m: m.transform(X / 0, 0), "h must be finite"),
        (lambda m: m.inverse_transform(X, 1), "z must have 4 columns at layer 1"),
        (lambda m: m.project(X, 0, 7), "k must be at most 6"),
        (lambda m: m.project(X, 0, -1), "k must be an integer of at least 0"),
        (lambda m: m.edges(X, integration="simpson"), "integration must be one of"),
        (lambda m: m.edges(X, "gauss-legendre", 0), "n_points must be an integer"),
        (lambda m: m.ablation_curve(X, X[:, 0], 9, [1]), "layer must be an integer"),
        (lambda m: m.ablation_curve(X, X, 1, [1]), "y must have shape .200,. for accuracy"),
        (lambda m: m.ablation_curve(X, X, 1, [1], "squared_error"), "y must have shape"),
        (lambda m: m.ablation_curve(X, X, 1, [1], "f1"), "metric must be one of"),
        (lambda m: m.edge_ablation_curve(X, X, X, 3, [1]), "layer must be .* from 0 to 2"),
        (
            lambda m: m.edge_ablation_curve(X, X, torch.ones(2, 2), 1, [1]),
            r"edges must have shape \(3, 4\) at layer 1",
        ),
        (
            lambda m: m.edge_ablation_curve(X, X[:, 0], torch.ones(3, 4), 1, [13]),
            "n_edges must be at most 12, got 13",
        ),
    ],
)
def test_fitted_basis_refuses(fitted, call, message):
    with pytest.raises(ValueError, match=message):
        call(fitted)


def test_gram_functions_refuse():
    with pytest.raises(ValueError, match="h must be 2-D or 3-D, got 1-D"):
        activation_gram(X[0])
    with pytest.raises(ValueError, match=r"C_out must have 3 rows, .* got 2"):
        jacobian_gram(tail(0), X, torch.eye(2))
    with pytest.raises(TypeError, match="fn must be callable, got int"):
        jacobian_gram(3, X)
    with pytest.raises(ValueError, match="fn must return a 2-D or 3-D tensor, got 0-D"):
        jacobian_gram(torch.sum, X)
    with pytest.raises(TypeError, match=r"fn does not run on torch\.float64 inputs"):
        jacobian_gram(nn.Linear(6, 2), X)
    with pytest.raises(ValueError, match="batch_size must be"):
        jacobian_gram(tail(0), X, batch_size=0)


def test_unfitted_basis_and_single_numbers_are_refused(fitted):
    with pytest.raises(NotFittedError):
        InteractionBasis().transform(X, 0)
    with pytest.raises(TypeError, match="ks must be a sequence of integers, got int"):
        fitted.ablation_curve(X, X[:, 0], 1, 3)
    with pytest.raises(TypeError, match="n_edges must be a sequence of integers, got int"):
        fitted.edge_ablation_curve(X, X[:, 0], torch.ones(3, 4), 1, 3)
