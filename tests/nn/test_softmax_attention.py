"""SoftmaxAttention against attention written out, and its cache."""

import pytest
import torch
from rankone.nn import SoftmaxAttention, apply_rotary

WIDTH, HEADS, TIME = 16, 4, 21
TOLERANCE = {"rtol": 1e-9, "atol": 1e-9}


def by_definition(layer, x):
    time = x.shape[1]
    positions = torch.arange(time).expand(x.shape[0], -1)
    q = apply_rotary(layer.q_proj(x).unflatten(-1, (-1, layer.head_dim)), positions)
    k = apply_rotary(layer.k_proj(x).unflatten(-1, (-1, layer.head_dim)), positions)
    v = layer.v_proj(x).unflatten(-1, (-1, layer.head_dim))
    group = layer.num_heads // layer.num_kv_heads
    k, v = k.repeat_interleave(group, 2), v.repeat_interleave(group, 2)
    scores = torch.einsum("bthd,bshd->bhts", q, k) * layer.head_dim**-0.5
    distance = torch.arange(time)[:, None] - torch.arange(time)
    hidden = distance < 0
    if layer.window_size is not None:
        hidden = hidden | (distance >= layer.window_size)
    weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
    return layer.o_proj(torch.einsum("bhts,bshd->bthd", weights, v).flatten(-2))


@pytest.mark.parametrize("window_size", [None, 1, 5, TIME, 100])
@pytest.mark.parametrize("num_kv_heads", [4, 2, 1])
def test_layer_is_its_definition(window_size, num_kv_heads):
    torch.manual_seed(0)
    layer = SoftmaxAttention(
        WIDTH, HEADS, num_kv_heads=num_kv_heads, window_size=window_size, bias=True
    ).double()
    x = torch.randn(2, TIME, WIDTH, dtype=torch.float64)
    torch.testing.assert_close(layer(x), by_definition(layer, x), **TOLERANCE)


def test_cache_of_a_window_is_a_ring_of_its_size():
    layer = SoftmaxAttention(WIDTH, HEADS, window_size=6)
    state = layer.init_state(2)
    for step in range(10):
        assert state.keys.shape == (2, 6, HEADS, WIDTH // HEADS)
        assert state.length.tolist() == [step, step]
        _, state = layer.step(torch.randn(2, WIDTH), state)
    assert state.positions.tolist() == [[6, 7, 8, 9, 4, 5]] * 2


@pytest.mark.parametrize("first", [0, 1, 4, 6, 7, 20])
def test_reading_leaves_the_ring_that_steps_leave(first):
    layer = SoftmaxAttention(WIDTH, HEADS, window_size=6).double()
    x = torch.randn(2, TIME, WIDTH, dtype=torch.float64)
    _, read = layer(x[:, :first], return_state=True)
    stepped = layer.init_state(2)
    for t in range(TIME):
        if t == first:
            assert torch.equal(read.positions, stepped.positions)
            torch.testing.assert_close(read.keys, stepped.keys, **TOLERANCE)
            torch.testing.assert_close(read.values, stepped.values, **TOLERANCE)
        _, stepped = layer.step(x[:, t], stepped)


def test_gaps_inside_a_text_do_not_shorten_the_window():
    """Ten paddings between two tokens that are neighbours: a window of 3 reaches over them."""
    layer = SoftmaxAttention(WIDTH, HEADS, window_size=3).double()
    x = torch.randn(1, TIME, WIDTH, dtype=torch.float64)
    mask = torch.ones(1, TIME, dtype=torch.bool)
    mask[:, 5:15] = False
    y = layer(x, attention_mask=mask)
    alone = layer(x[mask][None])
    torch.testing.assert_close(y[mask], alone[0], **TOLERANCE)


def test_window_is_not_a_matrix_of_all_times_by_all_entries():
    """Reading 4096 tokens through a window of 16 keeps no tensor of 4096 * 4096 entries."""
    layer = SoftmaxAttention(WIDTH, 1, window_size=16)
    with torch.profiler.profile(profile_memory=True) as profile:
        layer(torch.randn(1, 4096, WIDTH))
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    assert 0 < largest < 4096 * 4096 / 8


def test_padding_takes_no_position():
    layer = SoftmaxAttention(WIDTH, HEADS)
    mask = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1]])
    _, state = layer(torch.randn(2, 4, WIDTH), attention_mask=mask, return_state=True)
    assert state.positions.tolist() == [[-1, -1, 0, 1], [-1, 0, 1, 2]]
    assert state.length.tolist() == [2, 3]


def test_options_out_of_range_are_named():
    with pytest.raises(ValueError, match="head_dim must be even for rotary positions, got 3"):
        SoftmaxAttention(12, 4)
    with pytest.raises(ValueError, match="window_size must be at least 1, got 0"):
        SoftmaxAttention(16, 4, window_size=0)
    with pytest.raises(TypeError, match=r"state must be an AttentionCache .* got Tensor"):
        SoftmaxAttention(16, 4)(torch.zeros(1, 2, 16), state=torch.zeros(1))
