"""Fixed decay slopes against the series that define them."""

import pytest
import torch
from rankone.ops import decay_slopes


def test_power_of_two_heads_give_one_geometric_series():
    expected = -torch.tensor([2.0**-h for h in range(1, 9)])
    assert torch.equal(decay_slopes(8), expected)


def test_other_head_counts_take_every_second_slope_of_the_double():
    expected = -torch.tensor([0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125])
    assert torch.equal(decay_slopes(6), expected)


def test_deeper_layers_forget_less():
    first, last = decay_slopes(4, 0, 12), decay_slopes(4, 11, 12)
    torch.testing.assert_close(first, decay_slopes(4) * (1 + 1e-5))
    torch.testing.assert_close(last, decay_slopes(4) * 1e-5)


def test_a_single_layer_is_not_scaled():
    assert torch.equal(decay_slopes(4, 0, 1), decay_slopes(4))


def test_linear_slopes():
    expected = -torch.tensor([0.0, 2.0, 4.0, 6.0])
    assert torch.equal(decay_slopes(4, kind="linear"), expected)
    assert torch.equal(decay_slopes(4, 3, 6, kind="linear"), expected / 2)


@pytest.mark.parametrize("heads", [1, 2, 3, 5, 12, 20])
def test_slopes_are_log_decays(heads):
    slopes = decay_slopes(heads)
    assert slopes.shape == (heads,)
    assert slopes.dtype == torch.float32
    assert (slopes < 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_heads": 0}, "num_heads"),
        ({"num_heads": 4, "kind": "cosine"}, "kind must be"),
        ({"num_heads": 4, "layer_idx": 1}, "go together"),
        ({"num_heads": 4, "layer_idx": 4, "num_layers": 4}, r"layer_idx must be in range\(4\)"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        decay_slopes(**arguments)
