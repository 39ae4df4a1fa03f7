"""Gated feed-forward blocks against their formula."""

import pytest
import torch
import torch.nn.functional as F
from rankone.nn import GLU, SwiGLU, make_feed_forward

GATES = {
    "swiglu": F.silu,
    "geglu": F.gelu,
    "reglu": F.relu,
    "glu": torch.sigmoid,
    "bilinear": lambda gate: gate,
}


@pytest.mark.parametrize("name", sorted(GATES))
def test_blocks_multiply_the_activated_gate_with_the_values(name):
    block = make_feed_forward(name, 12, 20).double()
    x = torch.randn(2, 3, 12, dtype=torch.float64)
    gate = x @ block.gate_proj.weight.T
    up = x @ block.up_proj.weight.T
    expected = (GATES[name](gate) * up) @ block.down_proj.weight.T
    torch.testing.assert_close(block(x), expected, rtol=1e-12, atol=1e-12)


def test_plain_multiplicative_unit_is_quadratic_in_its_input():
    block = GLU(6, activation="identity", bias=False).double()
    x = torch.randn(4, 6, dtype=torch.float64)
    torch.testing.assert_close(block(3 * x), 9 * block(x), rtol=1e-12, atol=1e-12)


def test_default_widths():
    assert GLU(96).up_proj.out_features == 256
    assert SwiGLU(96).up_proj.out_features == 256
    assert SwiGLU(100).up_proj.out_features == 272
    assert SwiGLU(512).up_proj.out_features == 1536
    assert GLU(8).down_proj.bias is not None
    assert SwiGLU(8).down_proj.bias is None


def test_gradients_reach_every_parameter():
    block = GLU(6)
    block(torch.randn(3, 6)).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in block.parameters())


def test_pattention_is_a_feed_forward_block_of_so_many_tokens():
    block = make_feed_forward("pattention", 6, 10, norm="gelu_l2")
    assert (block.in_features, block.out_features, block.num_tokens) == (6, 6, 10)
    assert block.norm == "gelu_l2"
    assert make_feed_forward("pattention", 6).num_tokens == 24


def test_further_options_reach_the_block():
    assert make_feed_forward("swiglu", 6).up_proj.bias is None
    assert make_feed_forward("swiglu", 6, bias=True).up_proj.bias is not None


def test_unknown_options_are_named():
    with pytest.raises(ValueError, match=r"activation must be one of .* got 'tanhh'"):
        GLU(4, activation="tanhh")
    with pytest.raises(ValueError, match=r"feed_forward must be one of .* got 'mlp'"):
        make_feed_forward("mlp", 4)
    with pytest.raises(ValueError, match="hidden must be at least 1, got 0"):
        GLU(4, 0)
