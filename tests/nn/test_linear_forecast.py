"""LinearForecast: the three variants as linear maps, their parameters and their mistakes."""

import numpy as np
import pytest
import torch
from rankone.nn.linear_forecast import LinearForecast
from rankone.nn.series_decomposition import SeriesDecomposition

# Sums of 48 products of numbers about 1.
FLOAT32 = {"rtol": 1e-5, "atol": 1e-5}
VARIANTS = ("linear", "nlinear", "dlinear")


def moving_average(lookback, kernel_size):
    """M by its definition: row i averages positions i - half .. i + half, clamped to the ends."""
    matrix = np.zeros((lookback, lookback))
    half = (kernel_size - 1) // 2
    for i in range(lookback):
        for k in range(-half, half + 1):
            matrix[i, min(max(i + k, 0), lookback - 1)] += 1 / kernel_size
    return matrix


class TestDecomposition:
    def test_rows_of_the_moving_average_sum_to_one(self):
        identity = torch.eye(40, dtype=torch.float64)[None]
        remainder, trend = SeriesDecomposition(25)(identity)
        np.testing.assert_allclose(trend[0], moving_average(40, 25), atol=1e-15)
        np.testing.assert_allclose(trend[0].sum(1), 1.0, rtol=1e-14)
        np.testing.assert_allclose(remainder[0] + trend[0], identity[0], atol=1e-15)

    def test_a_constant_is_its_own_average(self):
        _, trend = SeriesDecomposition(25)(torch.full((1, 40, 1), 3.5, dtype=torch.float64))
        np.testing.assert_allclose(trend, 3.5, rtol=1e-14)

    def test_a_ramp_is_reproduced_but_near_the_ends(self):
        ramp = torch.arange(60.0, dtype=torch.float64)[None, :, None]
        _, trend = SeriesDecomposition(25)(ramp)
        np.testing.assert_allclose(trend[0, 12:-12], ramp[0, 12:-12], rtol=1e-13)
        assert abs(float(trend[0, 11, 0]) - 11.0) > 1e-3

    def test_even_kernels_are_refused(self):
        with pytest.raises(ValueError, match="kernel_size must be odd and at least 1, got 4"):
            SeriesDecomposition(4)


class TestLinearForecast:
    @pytest.mark.parametrize("individual", [False, True])
    @pytest.mark.parametrize("variant", VARIANTS)
    def test_is_the_affine_map_of_its_effective_weight(self, variant, individual):
        model = LinearForecast(48, 7, 3, variant, individual)
        x = torch.randn(5, 48, 3)
        weight, bias = model.effective_weight(), model.effective_bias()
        assert weight.shape == ((3, 7, 48) if individual else (7, 48))
        assert bias.shape == ((3, 7) if individual else (7,))
        for channel in range(3):
            w, b = (weight[channel], bias[channel]) if individual else (weight, bias)
            torch.testing.assert_close(model(x)[..., channel], x[..., channel] @ w.T + b, **FLOAT32)

    def test_the_weight_of_dlinear_is_the_sum_of_both_branches(self):
        model = LinearForecast(48, 7, variant="dlinear").double()
        average = moving_average(48, 25)
        seasonal, trend = model.weight.detach().numpy(), model.trend_weight.detach().numpy()
        expected = seasonal @ (np.eye(48) - average) + trend @ average
        np.testing.assert_allclose(model.effective_weight(), expected, rtol=1e-12, atol=1e-14)

    def test_rows_of_the_weight_of_nlinear_sum_to_one(self):
        weight = LinearForecast(48, 7, variant="nlinear").double().effective_weight()
        np.testing.assert_allclose(weight.sum(1), 1.0, rtol=1e-12)

    @pytest.mark.parametrize("individual", [False, True])
    def test_nlinear_shifts_with_its_input(self, individual):
        model = LinearForecast(96, 24, 2, "nlinear", individual)
        x = torch.randn(4, 96, 2)
        shifted = model(x + 10.0)
        assert float(((shifted - model(x) - 10.0).detach().abs() / 10.0).max()) < 1e-6
        linear = LinearForecast(96, 24, 2, "linear", individual)
        assert float((linear(x + 10.0) - linear(x) - 10.0).detach().abs().max()) > 0.1

    def test_no_gradient_flows_through_the_last_value_that_is_added(self):
        model = LinearForecast(5, 2, variant="nlinear")
        with torch.no_grad():
            model.weight.zero_()
        x = torch.randn(1, 5, 1, requires_grad=True)
        model(x).sum().backward()
        assert float(x.grad.abs().max()) == 0.0

    @pytest.mark.parametrize(
        ("variant", "individual", "parameters"),
        [
            ("linear", False, 96 * 720 + 720),
            ("nlinear", False, 96 * 720 + 720),
            ("dlinear", False, 139_680),
            ("dlinear", True, 7 * 139_680),
        ],
    )
    def test_has_the_published_number_of_parameters(self, variant, individual, parameters):
        model = LinearForecast(96, 720, 7, variant, individual)
        assert sum(parameter.numel() for parameter in model.parameters()) == parameters

    def test_channels_never_mix(self):
        model = LinearForecast(24, 6, 3, "dlinear", individual=True)
        x = torch.randn(2, 24, 3)
        changed = x.clone()
        changed[..., 1] = 100.0
        same = (model(x) == model(changed)).all(0).all(0)
        assert same.tolist() == [True, False, True]

    @pytest.mark.parametrize("variant", VARIANTS)
    def test_initial_weights(self, variant):
        average = LinearForecast(20, 3, variant=variant, init="average")
        weights = [value for name, value in average.named_parameters() if name.endswith("weight")]
        assert all(bool((weight == 1 / 20).all()) for weight in weights)
        uniform = LinearForecast(20, 300, variant=variant)
        for parameter in uniform.parameters():
            # As torch.nn.Linear: uniform within 1 / sqrt(inputs), for weights and biases.
            assert float(parameter.detach().abs().max()) <= 20**-0.5
            assert parameter.std().item() == pytest.approx(20**-0.5 / 3**0.5, rel=0.15)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"lookback": 0}, "lookback must be at least 1, got 0"),
            ({"horizon": -1}, "horizon must be at least 1"),
            ({"n_channels": 0}, "n_channels must be at least 1"),
            ({"variant": "tlinear"}, "variant must be one of linear, nlinear, dlinear"),
            ({"init": "zeros"}, "init must be one of uniform, average"),
            ({"variant": "dlinear", "kernel_size": 24}, "kernel_size must be odd"),
            ({"variant": "dlinear", "kernel_size": 41}, "kernel_size must be at most .* = 39"),
        ],
    )
    def test_mistakes_are_named(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            LinearForecast(**{"lookback": 20, "horizon": 3, **arguments})

    def test_other_shapes_are_refused(self):
        model = LinearForecast(20, 3, 2)
        with pytest.raises(ValueError, match="lookback=20, channels=2"):
            model(torch.zeros(1, 20, 3))
        with pytest.raises(ValueError, match="x must"):
            model(torch.zeros(20, 2))
