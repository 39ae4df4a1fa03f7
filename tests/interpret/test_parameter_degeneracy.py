"""Counts of free parameters against brute-force Hessians of the behavioural loss."""

import copy

import pytest
import torch
from rankone.interpret.interaction_basis import (
    effective_parameter_count,
    parameter_degeneracy,
    synchronized_groups,
)
from sklearn.datasets import load_digits
from torch import nn

RTOL = 1e-10


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def network(*modules, seed=0):
    model = nn.Sequential(*modules).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=generator)
    return model


def behavioural_hessian(model, X):
    """Half the second derivative of ``mean |f_theta - f_theta*|^2``, by torch's autograd."""
    target = model(X).detach()
    names, shapes = zip(*((n, p.shape) for n, p in model.named_parameters()), strict=True)
    theta = torch.cat([p.detach().flatten() for p in model.parameters()])
    sizes = [shape.numel() for shape in shapes]

    def loss(theta):
        parts = [v.reshape(s) for v, s in zip(theta.split(sizes), shapes, strict=True)]
        parameters = dict(zip(names, parts, strict=True))
        out = torch.func.functional_call(model, parameters, (X,))
        return (out - target).square().sum(1).mean()

    return torch.autograd.functional.hessian(loss, theta) / 2


def rank(matrix):
    values = torch.linalg.eigvalsh(matrix)
    return int((values > RTOL * values[-1]).sum())


def two_clusters(synchronised, seed):
    """A 4-6-3 network whose first three neurons fire on one cluster exactly, if synchronised."""
    model = network(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3), seed=seed)
    X = normal(80, 4, seed=seed + 1)
    X[:, 0] += torch.where(torch.arange(80) < 40, 9.0, -9.0)
    with torch.no_grad():
        # Biases small, so that no other neuron fires everywhere and stands in for an output bias.
        model[0].bias.mul_(0.3)
        model[0].weight[:3, 0] = 3.0 if synchronised else 0.0
        model[0].weight[3:, 0] = 0.0
    return model, X


@pytest.mark.parametrize("seed", [0, 10])
def test_synchronised_neurons_free_a_linear_group(seed):
    """Six rescalings, and 3^2 - 3 more where three ReLUs fire on exactly one cluster."""
    for synchronised, null in ((True, 6 + (9 - 3)), (False, 6)):
        model, X = two_clusters(synchronised, seed)
        H = behavioural_hessian(model, X)
        assert len(H) - rank(H) == null
        assert len(H) - effective_parameter_count(model, X, 0.0) == null
        first, second = parameter_degeneracy(model, X)
        assert first.sync_groups == ([[0, 1, 2]] if synchronised else [])
        assert first.n_sync_free == null - 6
        assert (second.sync_groups, second.n_sync_free) == ([], 0)


@pytest.mark.parametrize("bias", [True, False])
def test_bound_is_reached_by_a_layer_with_linear_maps_after_it(bias):
    model = network(
        nn.Linear(5, 6, bias=bias), nn.Tanh(), nn.Linear(6, 4, bias=bias), nn.Linear(4, 3)
    )
    X = normal(60, 5) @ torch.diag(torch.tensor([1.0, 1, 1, 0, 0])).double()
    layers = parameter_degeneracy(model, X, exact=True)
    for layer in layers[1:]:
        assert layer.exact_rank == layer.rank_bound
    first = layers[0]
    assert first.activation_rank == 3 + bias
    assert first.n_params == 30 + 6 * bias
    assert first.exact_rank <= first.rank_bound < first.n_params
    assert first.n_free == first.n_params - first.rank_bound
    assert layers[1].jacobian_rank == 3  # of 4, read by three outputs


def test_exact_ranks_are_those_of_the_hessian_blocks():
    model = network(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    X = normal(30, 3)
    H = behavioural_hessian(model, X)
    first, second = parameter_degeneracy(model, X, exact=True)
    # named_parameters: weight, bias of one layer, then of the next.
    assert first.exact_rank == rank(H[:20, :20])
    assert second.exact_rank == rank(H[20:, 20:])
    assert [layer.exact_rank for layer in parameter_degeneracy(model, X)] == [None, None]


def test_dead_neurons_lower_the_ranks_and_are_no_group():
    model = network(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    with torch.no_grad():
        model[0].bias[:2] = -100.0
    first, second = parameter_degeneracy(model, normal(50, 3))
    assert first.jacobian_rank == 3
    assert second.activation_rank == 3 + 1
    assert first.sync_groups == []


def test_groups_are_compared_by_firing_sets_not_by_correlation():
    base = normal(100, 1)
    p = torch.cat([base, base**3 + 1e-3 * base.abs(), base + 0.05, -base, -5 - base.abs()], dim=1)
    p[:, 1] = torch.where(base[:, 0] > 0, torch.rand(100).double() + 0.1, -1.0)
    correlation = torch.corrcoef(p[:, :3].T)
    assert correlation[0, 2] > correlation[0, 1]
    assert synchronized_groups(p) == [[0, 1]]
    assert synchronized_groups(p.float()) == [[0, 1]]
    assert synchronized_groups(p.reshape(50, 2, 5)) == [[0, 1]]


def test_groups_are_of_two_and_more():
    assert synchronized_groups([[1.0, 2.0, -1.0, 3.0], [1.0, -1.0, 1.0, -1.0]]) == [[1, 3]]
    assert synchronized_groups(torch.ones(4, 3)) == [[0, 1, 2]]
    assert synchronized_groups(-torch.ones(4, 3)) == []


def trained_digits():
    digits = load_digits()
    X = torch.as_tensor(digits.data / 16, dtype=torch.float32)
    y = torch.as_tensor(digits.target)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-3)
        for _ in range(10):
            for batch in torch.randperm(len(X)).split(64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(X[batch]), y[batch]).backward()
                optimizer.step()
    return model, X


def test_digits_last_layer_reaches_its_bound_and_the_first_stays_below():
    model, X = trained_digits()
    first, second = parameter_degeneracy(model, X[::2], rtol=1e-12, exact=True)
    assert (first.name, second.name) == ("0", "2")
    assert (first.n_params, second.n_params) == (1040, 170)
    alive = int((model[0](X[::2]) > 0).any(dim=0).sum())
    varying = int((X[::2].std(dim=0) > 0).sum())
    assert first.rank_bound == alive * (varying + 1)
    assert second.exact_rank == second.rank_bound == 10 * (alive + 1)
    assert first.exact_rank <= first.rank_bound


def test_effective_count_is_the_number_of_large_eigenvalues():
    model, X = two_clusters(True, 0)
    values = torch.linalg.eigvalsh(behavioural_hessian(model, X))
    counts = []
    for epsilon in (1e-6, 1e-2, 1.0, 30.0):
        count = effective_parameter_count(model, X, epsilon, radius=0.5)
        assert count == int((values * 0.25 > epsilon).sum())
        counts.append(count)
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]


def test_effective_count_from_few_data_points_is_the_same_spectrum():
    """With fewer outputs than parameters the smaller of two Gram matrices is decomposed."""
    model = network(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    X = normal(5, 4)
    assert effective_parameter_count(model, X, 0.0) == rank(behavioural_hessian(model, X)) == 10


def test_models_are_left_as_they_are():
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))
    before = copy.deepcopy(model.state_dict())
    parameter_degeneracy(model, normal(9, 3))
    effective_parameter_count(model, normal(9, 3), 1e-9)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_relu_in_place_changes_nothing():
    model = network(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    expected = parameter_degeneracy(model, normal(20, 3), exact=True)
    model[1] = nn.ReLU(inplace=True)
    assert parameter_degeneracy(model, normal(20, 3), exact=True) == expected


def test_nested_names_and_relu_behind_an_identity():
    inner = nn.Sequential(nn.Linear(3, 2, bias=False), nn.Identity(), nn.ReLU())
    model = network(inner, nn.Linear(2, 2))
    with torch.no_grad():
        inner[0].weight[1] = 2 * inner[0].weight[0]
    first, second = parameter_degeneracy(model, normal(20, 3))
    assert (first.name, second.name) == ("0.0", "1")
    assert (first.sync_groups, first.n_sync_free) == ([[0, 1]], 2)


def test_frozen_modules_stand_between_layers():
    norm = nn.LayerNorm(4).requires_grad_(False)
    model = nn.Sequential(nn.Linear(3, 4), norm, nn.Linear(4, 2))
    assert [layer.n_params for layer in parameter_degeneracy(model, normal(20, 3))] == [16, 10]


SHARED = nn.Linear(3, 3)


@pytest.mark.parametrize(
    ("model", "options", "error", "message"),
    [
        (nn.Linear(3, 2), {}, TypeError, "model must be an nn.Sequential, got Linear"),
        (nn.Sequential(nn.ReLU()), {}, ValueError, "at least one nn.Linear"),
        (
            nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)),
            {},
            TypeError,
            "1 is a LayerNorm with trainable parameters",
        ),
        (
            nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 4))),
            {},
            TypeError,
            "0 is a ParametrizedLinear with trainable parameters",
        ),
        (
            nn.Sequential(SHARED, nn.ReLU(), SHARED),
            {},
            ValueError,
            "2 shares its parameters with 0",
        ),
        (
            nn.Sequential(nn.Linear(3, 4), nn.Dropout()),
            {},
            ValueError,
            "model.1 is a Dropout in training mode",
        ),
        (nn.Sequential(nn.Linear(3, 2)), {"rtol": 1.0}, ValueError, "rtol must be in"),
        (nn.Sequential(nn.Linear(3, 2)), {"X": normal(3)}, ValueError, "X must be 2-D, got 1-D"),
        (nn.Sequential(nn.Linear(3, 2)), {"X": normal(2, 3) / 0}, ValueError, "X must be finite"),
    ],
)
def test_parameter_degeneracy_refuses(model, options, error, message):
    options = {"X": normal(5, 3), **options}
    with pytest.raises(error, match=message):
        parameter_degeneracy(model, **options)


@pytest.mark.parametrize(
    ("model", "options", "error", "message"),
    [
        (torch.tanh, {}, TypeError, "model must be an nn.Module"),
        (nn.ReLU(), {}, ValueError, "model must have parameters"),
        (nn.Linear(3, 2), {"epsilon": -1.0}, ValueError, "epsilon must be finite and at least 0"),
        (nn.Linear(3, 2), {"radius": 0.0}, ValueError, "radius must be positive"),
        (nn.Linear(3, 2), {"X": normal(3)}, ValueError, "X must be 2-D or 3-D"),
    ],
)
def test_effective_count_refuses(model, options, error, message):
    options = {"X": normal(5, 3), "epsilon": 1e-6, **options}
    with pytest.raises(error, match=message):
        effective_parameter_count(model, **options)


def test_synchronized_groups_refuse():
    with pytest.raises(ValueError, match="preactivations must be 2-D or 3-D, got 1-D"):
        synchronized_groups([1.0, 2.0])
