"""Permutations of hidden units: the same function, planted ones undone, optimal assignments."""

import warnings
from itertools import pairwise, permutations

import numpy as np
import pytest
import torch
from rankone.interpret.mode_connectivity import (
    PermutationSpec,
    activation_matching,
    apply_permutation,
    parameters_of,
    sequential_permutation_spec,
    weight_matching,
)
from sklearn.exceptions import ConvergenceWarning
from torch import nn

EXACT = 1e-12  # float64, outputs of order 1


def conv_net():
    """Every kind of supported layer, with normalisation that is not the identity."""
    net = nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Sequential(nn.Conv2d(5, 4, 3), nn.LayerNorm((4, 4, 4)), nn.PReLU(4)),
        nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 7), nn.LayerNorm(7), nn.GELU(),
        nn.Dropout(),
        nn.Linear(7, 6, bias=False), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3),
        nn.LogSoftmax(dim=1),
    ).double()  # fmt: skip
    with torch.no_grad():
        for name, tensor in (*net.named_parameters(), *net.named_buffers()):
            if "running_var" in name:
                tensor.uniform_(0.5, 2)
            elif tensor.is_floating_point():
                tensor.copy_(torch.randn_like(tensor) / 2)
    return net.eval()


def random_permutation(params, spec, seed=0):
    rng = np.random.default_rng(seed)
    order = {}
    for name, places in spec.perms.items():
        tensor, axis = places[0]
        entry = spec.axes[tensor][axis]
        block = entry[1] if isinstance(entry, tuple) else 1
        order[name] = rng.permutation(params[tensor].shape[axis] // block)
    return order


def objective(a, b, spec, perm):
    moved = apply_permutation(b, spec, perm)
    return sum(float((a[name] * moved[name]).sum()) for name in spec.axes)


def chain(seed, widths=(6, 16, 16, 16, 4)):
    torch.manual_seed(seed)
    layers = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.Tanh()]
    return nn.Sequential(*layers[:-1]).double()


class TestSpec:
    def test_axes_of_a_convolutional_network(self):
        spec = sequential_permutation_spec(conv_net())
        assert spec.axes["0.weight"] == ("P0", None, None, None)
        assert spec.axes["1.bias"] == ("P0",)
        assert spec.axes["4.0.weight"] == ("P1", "P0", None, None)
        assert spec.axes["4.1.weight"] == ("P1", None, None)
        assert spec.axes["4.2.weight"] == ("P1",)
        assert spec.axes["6.weight"] == (("P1", 16),)
        assert spec.axes["7.weight"] == ("P2", ("P1", 16))
        assert spec.axes["14.weight"] == (None, "P3")
        assert spec.axes["14.bias"] == (None,)
        assert spec.buffers["1.running_mean"] == ("P0",)
        assert spec.buffers["6.running_var"] == (("P1", 16),)
        assert set(spec.axes) == set(parameters_of(conv_net()))

    def test_places_of_a_permutation(self):
        spec = sequential_permutation_spec(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)))
        assert spec.perms == {"P0": [("0.weight", 0), ("0.bias", 0), ("1.weight", 1)]}

    @pytest.mark.parametrize(
        ("layers", "message"),
        [
            ([nn.Linear(2, 3), nn.GLU(), nn.Linear(3, 1)], r"module 1 \(GLU\) is not supported"),
            ([nn.Linear(2, 3), nn.Softmax(1), nn.Linear(3, 1)], r"module 1 \(Softmax\) is not"),
            ([nn.Linear(2, 3), nn.LSTM(3, 1)], r"module 1 \(LSTM\) is not supported"),
            ([nn.Conv2d(2, 4, 3, groups=2), nn.Conv2d(4, 1, 3)], r"module 0 \(Conv2d\) is not"),
            ([nn.Linear(2, 3), nn.Linear(4, 1)], r"module 1 \(Linear\) must have as many inputs"),
            ([nn.Conv1d(2, 3, 1), nn.Linear(6, 1)], "must have a Flatten and a multiple of the 3"),
            ([nn.Conv1d(2, 3, 1), nn.Conv1d(4, 1, 1)], "must read the 3 channels"),
            ([nn.Linear(2, 3), nn.MaxPool1d(3), nn.Linear(1, 1)], "would mix the units"),
            ([nn.Linear(2, 3), nn.BatchNorm1d(6), nn.Linear(3, 1)], "one entry for each of the 3"),
            ([nn.Conv1d(2, 3, 1), nn.Flatten(0), nn.Linear(3, 1)], "must flatten from axis 1"),
            ([shared := nn.Linear(3, 3), nn.Tanh(), shared], "is module 0 again"),
        ],
    )
    def test_layers_that_do_not_fit_are_named(self, layers, message):
        with pytest.raises(ValueError, match=message):
            sequential_permutation_spec(nn.Sequential(*layers))

    def test_other_networks_are_refused(self):
        with pytest.raises(TypeError, match=r"must be an nn\.Sequential, got Linear"):
            sequential_permutation_spec(nn.Linear(2, 2))

    def test_activations_may_be_shared(self):
        act = nn.ReLU()
        net = nn.Sequential(nn.Linear(2, 3), act, nn.Linear(3, 3), act, nn.Linear(3, 1))
        assert list(sequential_permutation_spec(net).perms) == ["P0", "P1"]


class TestSameFunction:
    def test_of_a_convolutional_network_with_its_running_statistics(self):
        net, other = conv_net(), conv_net()
        spec, state = sequential_permutation_spec(net), net.state_dict()
        order = random_permutation(state, spec)
        other.load_state_dict(apply_permutation(state, spec, order))
        X = torch.randn(10, 2, 12, 12, dtype=torch.float64)
        torch.testing.assert_close(other(X), net(X), rtol=0, atol=EXACT)
        assert not torch.equal(other[0].weight, net[0].weight)
        assert not torch.equal(other[1].running_mean, net[1].running_mean)

    @pytest.mark.parametrize("left_out", ["0.bias", "7.weight", "1.weight"])
    def test_is_lost_when_one_tensor_is_left_out(self, left_out):
        net, other = conv_net(), conv_net()
        spec, state = sequential_permutation_spec(net), net.state_dict()
        order = random_permutation(state, spec)
        other.load_state_dict(apply_permutation(state, spec, order) | {left_out: state[left_out]})
        X = torch.randn(10, 2, 12, 12, dtype=torch.float64)
        assert not torch.allclose(other(X), net(X), atol=1e-3)

    def test_of_a_residual_network_with_axes_by_hand(self):
        class Residual(nn.Module):
            def __init__(self):
                super().__init__()
                self.stem, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6, 2)
                self.inner = nn.ModuleList(nn.Conv2d(6, 4, 3, padding=1) for _ in range(2))
                self.outer = nn.ModuleList(nn.Conv2d(4, 6, 3, padding=1) for _ in range(2))

            def forward(self, x):
                x = self.stem(x)
                for inner, outer in zip(self.inner, self.outer, strict=True):
                    x = x + outer(inner(x).tanh())
                return self.head(x.mean(dim=(2, 3)))

        axes = {"stem.weight": ("s", None, None, None), "stem.bias": ("s",)}
        for k in range(2):
            axes |= {
                f"inner.{k}.weight": (f"b{k}", "s", None, None), f"inner.{k}.bias": (f"b{k}",),
                f"outer.{k}.weight": ("s", f"b{k}", None, None), f"outer.{k}.bias": ("s",),
            }  # fmt: skip
        spec = PermutationSpec(axes | {"head.weight": (None, "s"), "head.bias": (None,)})
        net, other = Residual().double(), Residual().double()
        a = parameters_of(net)
        order = random_permutation(a, spec)
        b = apply_permutation(a, spec, order)
        other.load_state_dict(b)
        X = torch.randn(5, 3, 6, 6, dtype=torch.float64)
        torch.testing.assert_close(other(X), net(X), rtol=0, atol=EXACT)
        found = weight_matching(a, b, spec)
        assert all(np.array_equal(order[p][found[p]], np.arange(len(order[p]))) for p in order)

    def test_new_index_i_is_old_index_perm_i(self):
        spec = PermutationSpec({"w": (("P", 2),)})
        moved = apply_permutation({"w": torch.arange(6)}, spec, {"P": [2, 0, 1]})
        assert moved["w"].tolist() == [4, 5, 0, 1, 2, 3]


class TestWeightMatching:
    @pytest.mark.parametrize("seed", range(5))
    def test_planted_permutation_is_undone_exactly(self, seed):
        net = conv_net()
        spec, a = sequential_permutation_spec(net), parameters_of(net)
        b = apply_permutation(a, spec, random_permutation(a, spec, seed))
        back = apply_permutation(b, spec, weight_matching(a, b, spec, random_state=seed))
        assert all(torch.equal(back[name], a[name]) for name in a)

    def test_one_hidden_layer_reaches_the_global_optimum(self):
        a, b = (parameters_of(chain(seed, (3, 5, 2))) for seed in (0, 1))
        spec = sequential_permutation_spec(chain(0, (3, 5, 2)))
        best = max(objective(a, b, spec, {"P0": np.array(p)}) for p in permutations(range(5)))
        found = objective(a, b, spec, weight_matching(a, b, spec))
        assert found == pytest.approx(best, abs=EXACT)

    @pytest.mark.parametrize("init", [None, "identity"])
    def test_objective_never_falls_over_sweeps(self, init):
        net = chain(0)
        spec = sequential_permutation_spec(net)
        a, b = parameters_of(net), parameters_of(chain(1))
        if init is not None:
            init = {name: np.arange(16) for name in spec.perms}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            values = [
                objective(a, b, spec, weight_matching(a, b, spec, max_iter=n, init=init))
                for n in range(1, 8)
            ]
        assert all(after >= before - EXACT for before, after in pairwise(values))
        assert values[0] > objective(a, b, spec, {})

    def test_one_sweep_is_not_enough_for_deep_networks(self):
        net = chain(0)
        spec, a, b = sequential_permutation_spec(net), parameters_of(net), parameters_of(chain(1))
        start = {name: np.arange(16) for name in spec.perms}
        with pytest.warns(ConvergenceWarning, match="raise max_iter"):
            one = weight_matching(a, b, spec, max_iter=1, init=start)
        many = weight_matching(a, b, spec, init=start)
        assert objective(a, b, spec, many) > objective(a, b, spec, one) + 1e-3

    def test_distance_never_grows(self):
        net = chain(0)
        spec, a, b = sequential_permutation_spec(net), parameters_of(net), parameters_of(chain(1))
        moved = apply_permutation(b, spec, weight_matching(a, b, spec))

        def distance(other):
            return sum(float((a[name] - other[name]).square().sum()) for name in a)

        assert distance(moved) < distance(b)

    def test_assignment_beats_greedy_rows(self):
        # Row 0 prefers column 0 by little, row 1 by much.
        a = {"w": torch.tensor([[1.0, 0.0], [1.0, 1.0]])}
        b = {"w": torch.tensor([[2.0, 0.0], [1.9, -5.0]])}
        found = weight_matching(a, b, PermutationSpec({"w": ("P", None)}))
        assert found["P"].tolist() == [1, 0]

    def test_permutation_on_both_axes_of_one_tensor_never_loses(self):
        torch.manual_seed(0)
        a, b = ({"w": torch.randn(6, 6, dtype=torch.float64)} for _ in "ab")
        spec = PermutationSpec({"w": ("P", "P")})
        assert objective(a, b, spec, weight_matching(a, b, spec)) >= objective(a, b, spec, {})

    def test_takes_whole_state_dictionaries(self):
        net = conv_net()
        spec, state = sequential_permutation_spec(net), net.state_dict()
        order = random_permutation(state, spec)
        found = weight_matching(state, apply_permutation(state, spec, order), spec)
        assert all(np.array_equal(order[p][found[p]], np.arange(len(order[p]))) for p in order)

    def test_is_repeatable(self):
        net = chain(0)
        spec, a, b = sequential_permutation_spec(net), parameters_of(net), parameters_of(chain(1))
        first, second = (weight_matching(a, b, spec, random_state=4) for _ in "ab")
        assert all(np.array_equal(first[name], second[name]) for name in spec.perms)


class TestActivationMatching:
    def test_planted_permutation_is_undone(self):
        net = conv_net()
        spec, a = sequential_permutation_spec(net), parameters_of(net)
        order = random_permutation(a, spec)
        b = apply_permutation(a, spec, order)
        found = activation_matching(net, a, b, torch.randn(20, 2, 12, 12))
        assert set(found) == set(spec.perms)
        for name, planted in order.items():
            assert np.array_equal(planted[found[name]], np.arange(len(planted)))

    def test_is_the_best_assignment_of_correlations(self):
        first, second = (chain(seed, (3, 5, 2)) for seed in (0, 1))
        X = torch.randn(60, 3, dtype=torch.float64)
        hidden = [net[:2](X).detach().numpy().T for net in (first, second)]
        correlation = np.corrcoef(*hidden)[:5, 5:]
        best = max(permutations(range(5)), key=lambda p: correlation[range(5), p].sum())
        found = activation_matching(first, parameters_of(first), parameters_of(second), X)
        assert tuple(found["P0"]) == best

    def test_dead_units_are_matched_without_nan(self):
        net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
        a = parameters_of(net)
        a["0.bias"][:2] = -100
        found = activation_matching(net, a, a, torch.randn(30, 2))
        assert sorted(found["P0"]) == [0, 1, 2, 3]
        assert found["P0"][2:].tolist() == [2, 3]


SPEC = PermutationSpec({"w": ("P", None)})
W = {"w": torch.eye(3)}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: PermutationSpec({"w": "P"}), ValueError, "axes of w must be a tuple"),
        (lambda: PermutationSpec({"w": (3,)}), ValueError, "must be None, a permutation name"),
        (lambda: PermutationSpec({"w": (("P", 0),)}), ValueError, "block of at least 1"),
        (lambda: apply_permutation({}, SPEC, {}), ValueError, r"spec names unknown tensors: \['w'"),
        (
            lambda: apply_permutation(W, {}, {}),
            TypeError,
            "spec must be a PermutationSpec, got dict",
        ),
        (
            lambda: apply_permutation(W, PermutationSpec({"w": ("P",)}), {}),
            ValueError,
            "one entry for each of its 2 axes",
        ),
        (
            lambda: apply_permutation(W, PermutationSpec({"w": (("P", 2), None)}), {}),
            ValueError,
            "axis 0 of w must have a multiple of units of 2",
        ),
        (
            lambda: apply_permutation(
                W | {"v": torch.ones(4)}, PermutationSpec({"w": ("P", None), "v": ("P",)}), {}
            ),
            ValueError,
            "axis 0 of v must have 3 units of 1 for permutation P, got 4",
        ),
        (lambda: apply_permutation(W, SPEC, [0]), TypeError, "perm must be a dictionary"),
        (lambda: apply_permutation(W, SPEC, {"Q": [0]}), ValueError, "unknown permutations"),
        (lambda: apply_permutation(W, SPEC, {"P": [0, 1, 1]}), ValueError, r"of 0\.\.2, got"),
        (lambda: apply_permutation(W, SPEC, {"P": [0, 1]}), ValueError, r"of 0\.\.2, got"),
        (lambda: apply_permutation(W, SPEC, {"P": [0.0, 1, 2]}), ValueError, r"of 0\.\.2, got"),
        (lambda: weight_matching(W, {}, SPEC), ValueError, "must have the same names"),
        (
            lambda: weight_matching(W, {"w": torch.eye(2)}, SPEC),
            ValueError,
            "w must have one shape",
        ),
        (lambda: weight_matching(W, W, SPEC, max_iter=0), ValueError, "max_iter must be"),
        (lambda: weight_matching(W, W, SPEC, init={"P": [1]}), ValueError, r"init\['P'\] must be"),
        (
            lambda: activation_matching(chain(0), W, W, torch.ones(1, 6)),
            ValueError,
            "must have the same names",
        ),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
