"""The stick-breaking encoder against products written out, and its layers one by one."""

import math

import numpy as np
import pytest
import torch
from rankone.nn.dirichlet_encoder import DirichletEncoder, log_stick_breaking, stick_breaking

FLOAT32 = 1e-6  # a few dozen roundings at values of at most one
DOUBLE = 1e-12


def broken_in_a_loop(v):
    left, pieces = 1.0, []
    for share in v:
        pieces.append(left * share)
        left *= 1 - share
    return pieces, left


class TestStickBreaking:
    def test_pieces_of_a_half_a_third_and_a_quarter(self):
        s = stick_breaking(torch.tensor([1 / 2, 1 / 3, 1 / 4], dtype=torch.float64))
        torch.testing.assert_close(s, torch.tensor([1 / 2, 1 / 6, 1 / 12], dtype=torch.float64))
        assert float(1 - s.sum()) == pytest.approx(1 / 4)

    @pytest.mark.parametrize("k", [1, 2, 7, 35])
    def test_equal_pieces_leave_nothing(self, k):
        v = 1 / torch.arange(k, 0, -1, dtype=torch.float64)
        s = stick_breaking(v)
        torch.testing.assert_close(s, torch.full((k,), 1 / k, dtype=torch.float64))
        assert float(1 - s.sum()) == pytest.approx(0, abs=DOUBLE)

    def test_equals_the_loop_and_sums_to_one_less_the_rest(self):
        v = torch.rand(50, 12, dtype=torch.float64)
        s = stick_breaking(v)
        for row, pieces in zip(v.tolist(), s, strict=True):
            expected, left = broken_in_a_loop(row)
            np.testing.assert_allclose(pieces, expected, atol=DOUBLE)
            assert float(pieces.sum()) == pytest.approx(1 - left)
        torch.testing.assert_close(s.sum(-1), 1 - torch.prod(1 - v, dim=-1))

    def test_logarithms_give_the_same_pieces(self):
        v = torch.rand(50, 12, dtype=torch.float64)
        torch.testing.assert_close(log_stick_breaking(v.log()).exp(), stick_breaking(v))

    def test_gradients(self):
        v = torch.rand(3, 5, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(stick_breaking, v)
        log_v = (-torch.rand(3, 5, dtype=torch.float64) - 0.1).requires_grad_()
        assert torch.autograd.gradcheck(log_stick_breaking, log_v)

    def test_gradients_where_nothing_or_everything_is_broken_off(self):
        v = torch.tensor([0.0, 1.0, 0.5, 1.0], requires_grad=True)
        stick_breaking(v)[2].backward()
        # s_3 = v_3 (1 - v_1)(1 - v_2)
        assert v.grad.tolist() == [0.0, -0.5, 0.0, 0.0]

    def test_saturated_logits_stay_finite_in_float32(self):
        logits = torch.tensor([60.0, -60.0, 60.0, 60.0, -60.0, 0.0]).repeat(4, 6)
        logits.requires_grad_()
        s = log_stick_breaking(torch.nn.functional.logsigmoid(logits)).exp()
        s.square().sum().backward()
        assert torch.isfinite(s).all()
        assert torch.isfinite(logits.grad).all()

    def test_logarithms_keep_what_float32_products_round_away(self):
        # At a logit of 15.5 the share is 1 - 1.9e-7, of which float32 keeps one digit.
        logits = torch.tensor([15.5, 0.0])
        exact = float(stick_breaking(torch.sigmoid(logits.double()))[1])
        by_logarithm = log_stick_breaking(torch.nn.functional.logsigmoid(logits)).exp()
        by_product = stick_breaking(torch.sigmoid(logits))
        assert float(by_logarithm[1]) == pytest.approx(exact, rel=1e-5)
        assert float(by_product[1]) != pytest.approx(exact, rel=1e-2)

    def test_arrays_give_arrays(self):
        s = stick_breaking([0.5, 0.5])
        assert isinstance(s, np.ndarray)
        assert s.tolist() == [0.5, 0.25]

    def test_rejects_integers_and_scalars(self):
        with pytest.raises(TypeError, match=r"v must hold floating point numbers, got torch.int64"):
            stick_breaking(torch.ones(3, dtype=torch.int64))
        with pytest.raises(ValueError, match="v must have at least one dimension, got none"):
            stick_breaking(torch.tensor(0.5))


class TestEncoder:
    @pytest.mark.parametrize(("bands", "bases", "width"), [(4, 12, 4), (1, 1, 1), (3, 35, 8)])
    def test_equals_its_layers_one_after_the_other(self, bands, bases, width):
        encoder = DirichletEncoder(bands, bases, width).double()
        for parameter in encoder.parameters():  # biases too, which start at zero
            torch.nn.init.normal_(parameter, std=0.3)
        x = torch.randn(20, bands, dtype=torch.float64)
        h = [x]
        for layer in encoder.trunk:
            h.append(torch.cat([layer(h[-1]), h[-1]], dim=1))
        assert h[5].shape[1] == bands + 5 * width + 10
        u = torch.sigmoid(encoder.to_logits(h[5]))
        q = torch.cat([encoder.branch[0](h[2]), h[2]], dim=1)
        q = torch.cat([encoder.branch[1](q), q], dim=1)
        beta = torch.nn.functional.softplus(encoder.to_beta(q))
        v = u ** (1 / beta)
        torch.testing.assert_close(encoder(x), stick_breaking(v), atol=1e-7, rtol=1e-6)

    def test_layers_have_the_widths_of_the_paper(self):
        encoder = DirichletEncoder(4, 12, 8)
        assert [layer.out_features for layer in encoder.trunk] == [8, 9, 10, 11, 12]
        assert [layer.out_features for layer in encoder.branch] == [10, 11]
        assert (encoder.to_logits.out_features, encoder.to_beta.out_features) == (12, 1)

    def test_starts_glorot_uniform_without_biases(self):
        encoder = DirichletEncoder(40, 500, 40)
        layer = encoder.to_logits.requires_grad_(False)
        bound = math.sqrt(6 / (layer.in_features + layer.out_features))
        assert float(layer.weight.abs().max()) <= bound
        assert float(layer.weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.02)
        assert all(p.count_nonzero() == 0 for n, p in encoder.named_parameters() if "bias" in n)

    def test_a_generator_repeats_the_start(self):
        encoder, other = DirichletEncoder(3, 5, 2), DirichletEncoder(3, 5, 2)
        for module in (encoder, other):
            module.reset_parameters(torch.Generator().manual_seed(7))
        for name, value in encoder.state_dict().items():
            torch.testing.assert_close(other.state_dict()[name], value)

    def test_weights_are_nonnegative_with_sum_at_most_one(self):
        weights = DirichletEncoder(4, 35, 8)(30 * torch.randn(6, 7, 4)).detach()
        assert weights.shape == (6, 7, 35)
        assert float(weights.min()) >= 0
        assert float(weights.sum(-1).max()) <= 1 + FLOAT32

    def test_extreme_inputs_have_finite_gradients(self):
        encoder = DirichletEncoder(4, 12, 4)
        encoder(1e4 * torch.randn(50, 4)).square().sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in encoder.parameters())

    def test_is_pixel_wise(self):
        encoder, x = DirichletEncoder(4, 12, 4), torch.randn(60, 4)
        order = torch.randperm(60)
        torch.testing.assert_close(encoder(x[order]), encoder(x)[order], atol=FLOAT32, rtol=0)

    @pytest.mark.parametrize("beta", [0.5, 2.0, 5.0])
    def test_powers_of_uniforms_are_kumaraswamy(self, beta):
        # E[u^(1/β)] = β/(β+1); 2/3 at β = 2.
        u = torch.rand(200_000, dtype=torch.float64)
        mean = float((torch.log(u) / beta).exp().mean())
        assert mean == pytest.approx(beta / (beta + 1), abs=5 * 0.35 / math.sqrt(len(u)))

    @pytest.mark.parametrize("name", ["in_features", "n_bases", "width"])
    def test_rejects_sizes_below_one(self, name):
        sizes = {"in_features": 4, "n_bases": 12, "width": 4} | {name: 0}
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            DirichletEncoder(**sizes)

    def test_rejects_other_bands(self):
        with pytest.raises(ValueError, match=r"x must have shape \(\.\.\., 4\), got \(8, 3\)"):
            DirichletEncoder(4, 12, 4)(torch.zeros(8, 3))
