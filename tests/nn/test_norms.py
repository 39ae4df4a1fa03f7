"""Norms against their formulas."""

import pytest
import torch
from rankone.nn import RMSNorm, SRMSNorm, make_norm

# Rounding of one float64 reduction over a few dozen channels.
TOLERANCE = {"rtol": 1e-13, "atol": 1e-13}


@pytest.fixture
def x():
    return torch.randn(3, 5, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_srmsnorm_divides_by_the_root_mean_square_plus_eps(x):
    eps = 0.25
    expected = x / (x.pow(2).mean(-1, keepdim=True).sqrt() + eps)
    torch.testing.assert_close(SRMSNorm(24, eps)(x), expected, **TOLERANCE)


def test_srmsnorm_has_no_parameters_and_maps_zero_to_zero():
    norm = SRMSNorm(4)
    assert not list(norm.parameters())
    x = torch.zeros(2, 4, requires_grad=True)
    y = norm(x)
    y.sum().backward()
    assert torch.equal(y, torch.zeros(2, 4))
    assert torch.isfinite(x.grad).all()


def test_rmsnorm_equals_that_of_torch(x):
    ours = RMSNorm(24, eps=1e-3).double()
    with torch.no_grad():
        ours.weight.copy_(torch.linspace(0.5, 2.0, 24))
    expected = torch.nn.functional.rms_norm(x, (24,), ours.weight, 1e-3)
    torch.testing.assert_close(ours(x), expected, **TOLERANCE)


def test_norms_of_separate_heads_do_not_mix(x):
    heads = x.unflatten(-1, (4, 6))
    for norm in (SRMSNorm(6), RMSNorm(6).double()):
        whole = norm(heads)
        for head in range(4):
            torch.testing.assert_close(whole[..., head, :], norm(heads[..., head, :]), **TOLERANCE)


@pytest.mark.parametrize("name", ["srmsnorm", "rmsnorm", "layernorm"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_input_keeps_its_dtype_and_float32_statistics(name, dtype):
    # The mean square, 2^18, overflows float16; the result is exactly representable.
    x = torch.tensor([512.0, -512.0, 512.0, -512.0], dtype=dtype)
    y = make_norm(name, 4).to(dtype)(x)
    assert y.dtype == dtype
    assert torch.equal(y, x.sign())


@pytest.mark.parametrize("name", ["srmsnorm", "rmsnorm", "layernorm", "plain_layernorm"])
def test_norms_keep_the_dtype_of_the_residual_stream_under_autocast(name):
    norm = make_norm(name, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert norm(torch.randn(2, 8)).dtype == torch.float32
        assert norm(torch.randn(2, 8).bfloat16()).dtype == torch.bfloat16


def test_plain_layernorm_centres_and_scales_without_parameters(x):
    norm = make_norm("plain_layernorm", 24)
    assert not list(norm.parameters())
    centred = x - x.mean(-1, keepdim=True)
    expected = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(norm(x), expected, **TOLERANCE)


def test_srmsnorm_gradient_is_that_of_its_formula():
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(SRMSNorm(5), x)
    assert torch.autograd.gradcheck(RMSNorm(5).double(), x)


def test_unknown_norm_and_wrong_width_are_named():
    with pytest.raises(ValueError, match=r"norm must be one of .* got 'batchnorm'"):
        make_norm("batchnorm", 4)
    for norm in (SRMSNorm(4), RMSNorm(4)):
        with pytest.raises(ValueError, match=r"x must have 4 channels .* \(2, 5\)"):
            norm(torch.ones(2, 5))
