"""Rotary positions against complex rotation, and the relative-position property."""

import pytest
import torch
from rankone.nn import apply_rotary


def test_pairs_are_turned_like_complex_numbers():
    x = torch.randn(2, 5, 3, 8)
    positions = torch.tensor([[0, 1, 2, 7, 100], [3, 3, 3, 0, 1]])
    frequency = 10000.0 ** (-torch.arange(0, 8, 2, dtype=torch.float64) / 8)
    angle = positions.double()[..., None, None] * frequency
    turned = torch.view_as_complex(x.double().unflatten(-1, (4, 2))) * torch.polar(
        torch.ones_like(angle), angle
    )
    expected = torch.view_as_real(turned).flatten(-2).float()
    # Angles up to 100 radians in float32 are good to 100 * 2^-24 = 6e-6.
    torch.testing.assert_close(apply_rotary(x, positions), expected, rtol=0, atol=3e-5)


def test_scores_depend_on_the_distance_alone():
    q, k = torch.randn(2, 1, 1, 1, 16).unbind()

    def score(query_at, key_at):
        return (
            apply_rotary(q, torch.tensor([[query_at]])) * apply_rotary(k, torch.tensor([[key_at]]))
        ).sum()

    torch.testing.assert_close(score(9, 4), score(25, 20), rtol=0, atol=3e-5)
    assert (score(9, 4) - score(9, 5)).abs() > 1e-3


def test_the_rest_of_a_head_passes_as_it_is():
    x = torch.randn(2, 5, 3, 10)
    positions = torch.arange(5).expand(2, -1)
    turned = apply_rotary(x, positions, rotary_dim=6)
    assert torch.equal(turned[..., 6:], x[..., 6:])
    assert torch.equal(turned[..., :6], apply_rotary(x[..., :6], positions))
    assert torch.equal(apply_rotary(x, positions, rotary_dim=0), x)


def test_pairs_across_halves_are_neighbouring_pairs_in_another_order():
    x = torch.randn(2, 5, 3, 8)
    positions = torch.arange(5).expand(2, -1)
    halves = apply_rotary(x, positions, interleaved=False)
    order = torch.tensor([0, 4, 1, 5, 2, 6, 3, 7])
    assert torch.equal(halves[..., order], apply_rotary(x[..., order], positions))


@pytest.mark.parametrize("rotary_dim", [3, 10, -2])
def test_turned_widths_that_do_not_fit_are_refused(rotary_dim):
    with pytest.raises(ValueError, match=rf"rotary_dim must be even and in 0..8, got {rotary_dim}"):
        apply_rotary(torch.zeros(1, 1, 1, 8), torch.zeros(1, 1), rotary_dim=rotary_dim)


def test_odd_head_width_is_refused():
    with pytest.raises(ValueError, match="must be even for rotary positions, got 7"):
        apply_rotary(torch.zeros(1, 1, 1, 7), torch.zeros(1, 1))
