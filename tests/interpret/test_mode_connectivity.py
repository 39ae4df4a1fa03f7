"""Linear mode connectivity: barriers, curvature, layers, and the ridge between children."""

import copy
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from rankone.interpret import mode_connectivity as mc
from torch import nn

EXACT = 1e-12  # float64, losses of order 1


def cross_entropy(outputs, targets):
    return F.cross_entropy(outputs, targets).detach()


class Product(nn.Module):
    """f(x) = p q x: the smallest network with a permutation-free barrier."""

    def __init__(self):
        super().__init__()
        self.p = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.q = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x):
        return self.p * self.q * x


def both(value):
    tensor = torch.tensor(value, dtype=torch.float64)
    return {"p": tensor, "q": tensor.clone()}


ONE = torch.ones(1, 1, dtype=torch.float64)
TOY = (Product(), both(1.0), both(-1.0), ONE, ONE)


def perceptron(seed, activation=nn.Tanh, widths=(4, 6, 5, 3)):
    torch.manual_seed(seed)
    layers = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*layers[:-1]).double()


def spread(params, factor=3.0):
    """Larger weights, so that the path bends."""
    return {name: factor * value for name, value in params.items()}


@pytest.fixture
def problem():
    model = perceptron(0)
    a, b = (spread(mc.parameters_of(perceptron(seed))) for seed in (0, 1))
    torch.manual_seed(2)
    return model, a, b, torch.randn(40, 4, dtype=torch.float64), torch.randint(3, (40,))


class TestBarrier:
    def test_straight_line_has_none(self):
        alphas = np.linspace(0, 1, 7)
        assert mc.loss_barrier(alphas, 0.3 + 1.7 * alphas) == (0.0, 0.0)

    def test_is_relative_to_the_chord_and_not_to_the_lower_end(self):
        assert mc.loss_barrier([0, 0.5, 1], [0.0, 2.5, 4.0]) == (0.5, 0.5)
        assert mc.loss_barrier([0, 0.5, 1], [0.0, 1.5, 4.0]) == (0.0, 0.0)

    def test_infinite_between_finite_ends(self):
        assert mc.loss_barrier([0, 0.5, 1], [1.0, np.inf, 1.0]) == (np.inf, 0.5)

    def test_convex_model_has_no_barrier_and_negative_curvature_integral(self):
        model = nn.Linear(4, 3).double()
        torch.manual_seed(5)
        a, b = ({n: torch.randn_like(p) for n, p in mc.parameters_of(model).items()} for _ in "ab")
        X, y = torch.randn(30, 4, dtype=torch.float64), torch.randint(3, (30,))
        path = mc.linear_path(model, a, b, X, y)
        assert path.barrier == 0
        assert mc.curvature_barrier(model, a, b, X, y, n_nodes=4) < 0
        assert path.midpoint_barrier < 0

    def test_product_network_has_barrier_one_at_the_middle(self):
        path = mc.linear_path(*TOY, loss_fn=F.mse_loss)
        expected = ((1 - 2 * path.alphas) ** 2 - 1) ** 2
        np.testing.assert_allclose(path.loss, expected, atol=EXACT)
        assert path.barrier == pytest.approx(1, abs=EXACT)
        assert path.barrier_alpha == 0.5
        assert path.midpoint_barrier == pytest.approx(1, abs=EXACT)
        assert np.isnan(path.accuracy).all()

    def test_reversed_path_is_the_path_back(self, problem):
        model, a, b, X, y = problem
        forth, back = mc.linear_path(model, a, b, X, y), mc.linear_path(model, b, a, X, y)
        np.testing.assert_allclose(forth.loss[::-1], back.loss, rtol=0, atol=EXACT)
        assert forth.barrier == pytest.approx(back.barrier, abs=EXACT)

    def test_accuracy_is_the_share_of_right_classes(self, problem):
        model, a, b, X, y = problem
        path = mc.linear_path(model, a, b, X, y, 3)
        model.load_state_dict(a)
        assert path.accuracy[0] == pytest.approx(float((model(X).argmax(1) == y).double().mean()))

    def test_only_moves_the_named_tensors(self, problem):
        model, a, b, X, y = problem
        path = mc.linear_path(model, a, b, X, y, 3, only=["0.weight"])
        model.load_state_dict(a | {"0.weight": b["0.weight"]})
        assert path.loss[-1] == pytest.approx(float(cross_entropy(model(X), y)), abs=EXACT)

    def test_batches_change_nothing(self, problem):
        model, a, b, X, y = problem
        whole, parts = (mc.linear_path(model, a, b, X, y, 5, batch_size=n) for n in (None, 7))
        np.testing.assert_allclose(whole.loss, parts.loss, atol=EXACT)
        np.testing.assert_allclose(whole.accuracy, parts.accuracy, atol=EXACT)
        assert mc.curvature_barrier(model, a, b, X, y, n_nodes=4, batch_size=7) == pytest.approx(
            mc.curvature_barrier(model, a, b, X, y, n_nodes=4), abs=EXACT
        )

    def test_arrays_and_single_precision_are_taken(self):
        model = perceptron(0).float()
        a = mc.parameters_of(model)
        X, y = np.random.default_rng(0).normal(size=(9, 4)), np.arange(9) % 3
        path = mc.linear_path(model, a, a, X, y, 3)
        # Float32 losses of order 1 on a path that stays where it is.
        np.testing.assert_allclose(path.excess, 0, atol=1e-6)

    def test_model_is_left_as_it_was(self, problem):
        model, a, _, X, y = problem
        model = nn.Sequential(*model[:2], nn.BatchNorm1d(6).double(), nn.Dropout(), *model[2:])
        a = mc.parameters_of(model)
        before = copy.deepcopy(model.state_dict())
        first, second = (mc.linear_path(model, a, spread(a), X, y, 3).loss for _ in "ab")
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
        assert all(part.training for part in model.modules())
        np.testing.assert_array_equal(first, second)  # no dropout


class TestBatchNormalisation:
    @pytest.fixture
    def network(self):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)
        ).double()  # fmt: skip

    def test_statistics_are_those_of_the_data(self, network):
        X = torch.randn(50, 3, dtype=torch.float64)
        buffers = mc.recalibrate_batchnorm(network, mc.parameters_of(network), X)
        hidden = network[0](X).detach()
        torch.testing.assert_close(buffers["1.running_mean"], hidden.mean(0))
        torch.testing.assert_close(buffers["1.running_var"], hidden.var(0))
        assert float(network[1].running_mean.abs().max()) == 0

    def test_path_reports_both_losses(self, network):
        a = mc.parameters_of(network)
        torch.manual_seed(1)
        b = {name: value + torch.randn_like(value) for name, value in a.items()}
        X, y = torch.randn(50, 3, dtype=torch.float64), torch.randint(2, (50,))
        path = mc.linear_path(network, a, b, X, y, 3)
        middle = mc.interpolate(a, b, 0.5)
        own = copy.deepcopy(network).eval()
        own.load_state_dict(middle, strict=False)
        stale = float(cross_entropy(own(X), y))
        own.load_state_dict(mc.recalibrate_batchnorm(network, middle, X), strict=False)
        fresh = float(cross_entropy(own(X), y))
        assert path.loss[1] == pytest.approx(fresh, abs=EXACT)
        assert path.model_buffer_loss[1] == pytest.approx(stale, abs=EXACT)
        assert abs(stale - fresh) > 0.01

    def test_curvature_is_that_of_the_model_buffers(self, network):
        network[2] = nn.Tanh()
        a = mc.parameters_of(network)
        b = {name: -2 * value for name, value in a.items()}
        X, y = torch.randn(50, 3, dtype=torch.float64), torch.randint(2, (50,))
        loss = mc.linear_path(network, a, b, X, y, 3).model_buffer_loss
        expected = loss[1] - (loss[0] + loss[2]) / 2
        assert mc.curvature_barrier(network, a, b, X, y) == pytest.approx(expected, abs=1e-6)


class TestCurvature:
    @pytest.mark.parametrize(
        ("activation", "alpha"),
        [
            (nn.Tanh, 0.2),
            (nn.Tanh, 0.5),
            (nn.Tanh, 0.75),
            (nn.Tanh, 1.0),
            (nn.GELU, 0.5),
            (nn.SiLU, 0.5),
        ],
    )
    def test_integral_is_the_excess_loss(self, problem, activation, alpha):
        _, a, b, X, y = problem
        model = perceptron(0, activation)
        loss = mc.linear_path(model, a, b, X, y, 21).loss
        expected = loss[round(20 * alpha)] - (1 - alpha) * loss[0] - alpha * loss[-1]
        measured = mc.curvature_barrier(model, a, b, X, y, alpha)
        assert measured == pytest.approx(expected, abs=1e-4)

    def test_relu_is_warned_about_by_name_and_its_integral_is_wrong(self, problem):
        _, a, b, X, y = problem
        model = perceptron(0, nn.ReLU)
        true = mc.linear_path(model, a, b, X, y).midpoint_barrier
        with pytest.warns(mc.KinkWarning, match=r"relu in 1 \(ReLU\), relu in 3 \(ReLU\)"):
            integral = mc.curvature_barrier(model, a, b, X, y)
        assert abs(integral - true) > 0.1 * abs(true)
        with pytest.warns(mc.KinkWarning):
            mc.predict_layerwise_barriers(model, a, b, X, y)

    def test_kinks_without_a_module_and_in_the_loss_are_seen(self):
        class Functional(nn.Linear):
            def forward(self, x):
                return F.relu(super().forward(x))

        model = Functional(1, 1).double()
        a = mc.parameters_of(model)
        with pytest.warns(mc.KinkWarning, match=r"relu in the model \(Functional\)"):
            mc.curvature_barrier(model, a, a, ONE, ONE, loss_fn=F.mse_loss)
        with pytest.warns(mc.KinkWarning, match="abs in loss_fn"):
            mc.curvature_barrier(*TOY, loss_fn=lambda output, y: (output - y).abs().mean())

    @pytest.mark.parametrize("activation", [nn.Tanh(), nn.ELU(), nn.CELU(2.0), nn.SiLU()])
    def test_smooth_networks_are_not_warned_about(self, activation, recwarn):
        model = nn.Sequential(nn.Linear(2, 2), activation, nn.Linear(2, 2))
        a = mc.parameters_of(model)
        mc.curvature_barrier(model, a, a, torch.randn(4, 2), torch.tensor([0, 1, 0, 1]), n_nodes=1)
        assert not [w for w in recwarn if issubclass(w.category, mc.KinkWarning)]

    @pytest.mark.parametrize("activation", [nn.ELU(2.0), nn.SELU(), nn.Hardswish(), nn.PReLU()])
    def test_units_with_a_kink_are(self, activation):
        model = nn.Sequential(nn.Linear(2, 2), activation, nn.Linear(2, 2))
        a = mc.parameters_of(model)
        X, y = torch.randn(4, 2), torch.tensor([0, 1, 0, 1])
        with pytest.warns(mc.KinkWarning, match=type(activation).__name__):
            mc.curvature_barrier(model, a, a, X, y, n_nodes=1)

    def test_derivatives_match_central_differences(self, problem):
        model, a, b, X, y = problem
        step = 1e-4
        moved = [{n: v + s * b[n] for n, v in a.items()} for s in (-step, 0, step)]
        low, here, high = (mc.linear_path(model, p, p, X, y, 3).loss[0] for p in moved)
        slope, curvature = mc.directional_derivatives(model, a, b, X, y)
        assert slope == pytest.approx((high - low) / (2 * step), rel=1e-4)
        assert curvature == pytest.approx((high - 2 * here + low) / step**2, rel=1e-4)

    def test_threads_do_not_mix_their_derivatives(self, problem):
        model, a, b, X, y = problem
        alone = mc.curvature_barrier(model, a, b, X, y, n_nodes=8)
        with ThreadPoolExecutor(4) as pool:
            found = list(
                pool.map(lambda _: mc.curvature_barrier(model, a, b, X, y, n_nodes=8), range(8))
            )
        assert found == pytest.approx([alone] * 8, abs=EXACT)

    def test_derivatives_through_attention(self):
        torch.manual_seed(0)

        class Attention(nn.Module):
            def __init__(self):
                super().__init__()
                self.mix = nn.MultiheadAttention(4, 2, batch_first=True)
                self.out = nn.Linear(4, 2)

            def forward(self, x):
                return self.out(self.mix(x, x, x, need_weights=False)[0].mean(1))

        model, other = Attention().double(), Attention().double()
        a, b = spread(mc.parameters_of(model)), spread(mc.parameters_of(other))
        X, y = torch.randn(6, 3, 4, dtype=torch.float64), torch.tensor([0, 1] * 3)
        expected = mc.linear_path(model, a, b, X, y, 3).midpoint_barrier
        fast = torch.backends.mha.get_fastpath_enabled()
        assert mc.curvature_barrier(model, a, b, X, y) == pytest.approx(expected, abs=1e-6)
        assert torch.backends.mha.get_fastpath_enabled() == fast


class TestLayers:
    def test_groups_are_the_tensors_of_each_module(self):
        groups = mc.parameter_groups(TOY[0])
        assert groups == {"": ["p", "q"]}
        assert mc.parameter_groups(perceptron(0))["2"] == ["2.weight", "2.bias"]

    @pytest.mark.parametrize("alpha", [0.3, 0.5])
    def test_one_group_moves_and_the_chord_joins_the_whole_networks(self, problem, alpha):
        model, a, b, X, y = problem
        barriers = mc.layerwise_barriers(model, a, b, X, y, alpha)

        def loss(params):
            model.load_state_dict(params)
            return float(cross_entropy(model(X), y))

        for group, names in mc.parameter_groups(model).items():
            moved = {n: torch.lerp(v, b[n], alpha) if n in names else v for n, v in a.items()}
            expected = loss(moved) - (1 - alpha) * loss(a) - alpha * loss(b)
            assert barriers[group] == pytest.approx(expected, abs=EXACT)

    @pytest.mark.parametrize("alpha", [0.3, 0.5])
    def test_prediction_with_many_nodes_is_exact(self, problem, alpha):
        model, a, b, X, y = problem
        true = mc.layerwise_barriers(model, a, b, X, y, alpha)
        predicted = mc.predict_layerwise_barriers(model, a, b, X, y, alpha, n_nodes=30)
        assert predicted == pytest.approx(true, abs=1e-3)

    def test_one_node_is_the_centroid_and_not_the_end_point(self, problem):
        model, a, b, X, y = problem
        predicted = mc.predict_layerwise_barriers(model, a, b, X, y)
        zero = {name: torch.zeros_like(value) for name, value in a.items()}
        loss = mc.linear_path(model, a, b, X, y, 3).loss
        for group, names in mc.parameter_groups(model).items():
            delta = zero | {name: b[name] - a[name] for name in names}
            slope = mc.directional_derivatives(model, a, delta, X, y)[0]
            third = {name: value + delta[name] / 6 for name, value in a.items()}
            curvature = mc.directional_derivatives(model, third, delta, X, y)[1]
            expected = loss[0] + slope / 2 + curvature / 8 - (loss[0] + loss[-1]) / 2
            assert predicted[group] == pytest.approx(expected, abs=EXACT)


class TestRidge:
    def test_product_network(self):
        report = mc.mountainside_ridge(
            TOY[0], both(0.3), *TOY[1:], n_points=261, loss_fn=F.mse_loss
        )
        assert report.ridge_barrier == pytest.approx(1, abs=EXACT)
        assert report.end_curvatures == pytest.approx((32, 32), abs=1e-10)
        assert report.midpoint_curvature == pytest.approx(-16, abs=1e-10)
        # 261 points hit p = q = 0, the top of the way to (-1, -1), at alpha = 3/13.
        assert report.mountainside_rises == pytest.approx((0, 1 - (1 - 0.09) ** 2), abs=1e-12)
        assert report.spawn_loss == pytest.approx((1 - 0.09) ** 2, abs=EXACT)
        assert report.end_losses == (0, 0)
        assert not report.same_side

    def test_rise_is_zero_on_a_descent_above_its_chord(self):
        # From a plateau the loss falls late: an excess over the chord, and no climb.
        report = mc.mountainside_ridge(
            TOY[0], both(0.05), both(1.0), both(1.0), ONE, ONE, loss_fn=F.mse_loss
        )
        assert report.mountainsides[0].barrier > 0.05
        assert report.mountainside_rises == (0, 0)
        assert report.same_side

    def test_tolerance_decides_the_side(self):
        arguments = (TOY[0], both(0.3), *TOY[1:])
        assert mc.mountainside_ridge(*arguments, tol=1.5, loss_fn=F.mse_loss).same_side

    def test_children_continue_the_schedule_with_their_own_orders(self):
        calls = []

        def train(model, first, last, seed, state):
            calls.append((first, last, seed, state))
            with torch.no_grad():
                model.weight += 1 if last is None else 10
            return {"epochs": last}

        X, y = torch.randn(6, 2), torch.tensor([0, 1] * 3)
        reports = mc.spawn_experiment(lambda: nn.Linear(2, 2), train, [5, 0, 2], X, y, 3)
        assert [call[:2] for call in calls] == [
            (0, None), (0, None), (0, 2), (2, None), (2, None), (2, 5), (5, None), (5, None),
        ]  # fmt: skip
        assert [call[3] for call in calls] == [None] * 3 + [{"epochs": 2}] * 3 + [{"epochs": 5}] * 2
        assert len({call[2] for call in calls}) == len(calls)
        # Reports come in the order asked for; the parent itself moves on between spawns only.
        starts = {k: float(report.spawn_loss) for k, report in zip([5, 0, 2], reports, strict=True)}
        torch.manual_seed(3)
        model = nn.Linear(2, 2)
        for k, shift in ((0, 0), (2, 10), (5, 10)):
            with torch.no_grad():
                model.weight += shift
            expected = float(cross_entropy(model(X), y))
            assert starts[k] == pytest.approx(expected, abs=1e-5)  # float32

    def test_experiment_is_repeatable_and_leaves_the_global_seed(self):
        def train(model, first, last, seed, state):
            torch.manual_seed(seed)
            with torch.no_grad():
                model.weight += torch.randn_like(model.weight)

        X, y = torch.randn(6, 2), torch.tensor([0, 1] * 3)
        losses = [
            mc.spawn_experiment(lambda: nn.Linear(2, 2), train, [0], X, y, 1)[0].ridge.loss
            for _ in "ab"
        ]
        np.testing.assert_array_equal(*losses)
        assert losses[0][0] != losses[0][-1]


class TestPlots:
    def test_path_shows_loss_and_chord(self):
        profile = mc.linear_path(*TOY, loss_fn=F.mse_loss)
        ax = mc.plot_path(profile)
        assert mc.plot_path(profile, ax) is ax
        np.testing.assert_allclose(ax.lines[0].get_ydata(), profile.loss)
        np.testing.assert_allclose(ax.lines[1].get_ydata(), profile.chord)

    def test_ridge_goes_round_the_triangle(self):
        report = mc.mountainside_ridge(TOY[0], both(0.3), *TOY[1:], loss_fn=F.mse_loss)
        ax = mc.plot_ridge(report)
        x = np.concatenate([line.get_xdata() for line in ax.lines])
        assert (x.min(), x.max()) == (-1, 2)


def _path(**changes):
    arguments = dict(zip(("model", "a", "b", "X", "y"), TOY, strict=True)) | {"loss_fn": F.mse_loss}
    return mc.linear_path(**arguments | changes)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: mc.parameters_of({}), TypeError, "model must be a torch.nn.Module, got dict"),
        (lambda: _path(a={"p": ONE}), ValueError, "must have the same names"),
        (lambda: _path(b=both(1.0) | {"q": ONE}), ValueError, "q must have one shape"),
        (lambda: _path(model=nn.Linear(1, 1)), ValueError, "must have the same names"),
        (lambda: _path(a=3), TypeError, "must be a dictionary of tensors by name"),
        (lambda: _path(b={"p": 1, "q": 2}), TypeError, "p must be a floating tensor, got int"),
        (lambda: _path(n_points=24), ValueError, "n_points must be an odd integer"),
        (lambda: _path(n_points=1), ValueError, "n_points must be an odd integer"),
        (lambda: _path(batch_size=0), ValueError, "batch_size must be an integer of at least 1"),
        (lambda: _path(only="p"), TypeError, "only must be a collection"),
        (lambda: _path(only=["r"]), ValueError, r"only must name tensors .*\['r'\]"),
        (lambda: _path(y=torch.ones(2, 1)), ValueError, "as many rows, got 1 and 2"),
        (lambda: _path(X=torch.ones(0, 1)), ValueError, "X must hold at least one row"),
        (lambda: _path(X=ONE * torch.nan), ValueError, "must be a number, got NaN"),
        (lambda: _path(X=ONE * 1j), TypeError, "X must be real"),
        (lambda: _path(loss_fn=None), TypeError, "loss_fn must be callable"),
        (lambda: _path(loss_fn=lambda o, y: o - y), ValueError, r"scalar tensor.*got \(1, 1\)"),
        (
            lambda: mc.interpolate(TOY[1], TOY[2], 1.1),
            ValueError,
            r"alpha must .*\[0, 1\], got 1.1",
        ),
        (lambda: mc.interpolate(TOY[1], TOY[2], None), ValueError, "alpha must be a number"),
        (lambda: mc.curvature_barrier(*TOY, alpha=-0.1), ValueError, "alpha must be a number"),
        (lambda: mc.curvature_barrier(*TOY, n_nodes=0), ValueError, "n_nodes must be an integer"),
        (lambda: mc.layerwise_barriers(*TOY, alpha=2), ValueError, "alpha must be a number"),
        (lambda: mc.predict_layerwise_barriers(*TOY, alpha=2), ValueError, "alpha must be"),
        (lambda: mc.predict_layerwise_barriers(*TOY, n_nodes=1.5), ValueError, "n_nodes must be"),
        (
            lambda: mc.directional_derivatives(TOY[0], TOY[1], {"p": ONE}, ONE, ONE),
            ValueError,
            "direction lacks",
        ),
        (
            lambda: mc.mountainside_ridge(TOY[0], both(0.0), *TOY[1:], tol=-1),
            ValueError,
            "tol must be a number of at least 0, got -1",
        ),
        (
            lambda: mc.spawn_experiment(Product, lambda *a: None, [], ONE, ONE),
            ValueError,
            "epochs must hold at least one",
        ),
        (
            lambda: mc.spawn_experiment(Product, lambda *a: None, [-1], ONE, ONE),
            ValueError,
            "epochs must be an integer of at least 0, got -1",
        ),
        (
            lambda: mc.spawn_experiment(Product, lambda *a: None, [0], ONE, ONE, -1),
            ValueError,
            "random_state must be an integer of at least 0, got -1",
        ),
        (
            lambda: mc.spawn_experiment(Product, None, [0], ONE, ONE),
            TypeError,
            "train must be callable, got NoneType",
        ),
        (
            lambda: mc.spawn_experiment(dict, lambda *a: None, [0], ONE, ONE),
            TypeError,
            "make_model must return a torch.nn.Module, got dict",
        ),
        (lambda: mc.loss_barrier([0, 1], [1, 2, 3]), ValueError, r"shapes \(2,\) and \(3,\)"),
        (lambda: mc.loss_barrier([0, 0.5], [1, 2]), ValueError, "increase from 0 to 1"),
        (lambda: mc.loss_barrier([0, 1], [1, np.nan]), ValueError, "losses must be numbers"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
