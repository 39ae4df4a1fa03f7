"""fla's names: argument order, defaults, state shapes, and values against the recurrence."""

import inspect

import pytest
import torch
from rankone.ops import decay_slopes, fla, linear_attention_reference

from .linear_attention_cases import relative_error

# Positional order and defaults of fla.ops (0.4 and later), as far as a caller relies on them.
SIGNATURES = {
    "chunk_linear_attn": "q k v scale initial_state output_final_state normalize cu_seqlens",
    "fused_recurrent_linear_attn": (
        "q k v scale initial_state output_final_state reverse normalize cu_seqlens"
    ),
    "chunk_simple_gla": "q k v g g_gamma scale initial_state output_final_state",
    "fused_recurrent_simple_gla": "q k v g g_gamma scale initial_state output_final_state reverse",
    "chunk_gla": "q k v g scale initial_state output_final_state",
    "fused_recurrent_gla": "q k v gk gv scale initial_state output_final_state reverse",
    "chunk_lightning_attn": (
        "q k v layer_idx num_layers scale initial_state output_final_state cu_seqlens"
    ),
    "fused_recurrent_lightning_attn": (
        "q k v layer_idx num_layers scale initial_state output_final_state reverse cu_seqlens"
    ),
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_argument_order(name):
    parameters = list(inspect.signature(getattr(fla, name)).parameters)
    expected = SIGNATURES[name].split()
    assert parameters[: len(expected)] == expected
    assert "cu_seqlens" in parameters


def test_every_name_is_exported():
    assert set(fla.__all__) == set(SIGNATURES)


@pytest.fixture
def qkv():
    return [torch.randn(2, 33, 3, 8, dtype=torch.float64).abs() for _ in range(3)]


def near(measured, expected):
    return relative_error(measured, expected) <= 1e-12


def test_chunk_linear_attn_normalizes_by_default(qkv):
    output, (state, z) = fla.chunk_linear_attn(*qkv, output_final_state=True)
    expected, (expected_state, expected_z) = linear_attention_reference(
        *qkv, normalize=True, output_final_state=True
    )
    assert z.shape == (2, 1, 3, 8)
    # fla's epsilon is added to scale * q z, the reference's to q z.
    assert relative_error(output, expected) <= 1e-9
    assert near(state, expected_state)
    assert near(z[:, 0], expected_z)


def test_linear_attn_state_continues(qkv):
    whole, final = fla.chunk_linear_attn(*qkv, output_final_state=True)
    head = [x[:, :20] for x in qkv]
    tail = [x[:, 20:] for x in qkv]
    _, state = fla.chunk_linear_attn(*head, output_final_state=True)
    rest, last = fla.chunk_linear_attn(*tail, initial_state=state, output_final_state=True)
    assert near(rest, whole[:, 20:])
    assert near(last[0], final[0])
    assert near(last[1], final[1])


def test_fused_recurrent_linear_attn_does_not_normalize_by_default(qkv):
    output, state = fla.fused_recurrent_linear_attn(*qkv)
    assert state is None
    assert near(output, linear_attention_reference(*qkv)[0])


@pytest.mark.parametrize("function", [fla.chunk_simple_gla, fla.fused_recurrent_simple_gla])
def test_simple_gla_takes_gates_or_constants(qkv, function):
    gates = -torch.rand(2, 33, 3, dtype=torch.float64)
    assert near(function(*qkv, gates)[0], linear_attention_reference(*qkv, gates)[0])
    constant = gates[0, 0]
    output, _ = function(*qkv, None, constant)
    assert near(output, linear_attention_reference(*qkv, constant)[0])
    with pytest.raises(ValueError, match="g and g_gamma"):
        function(*qkv, gates, constant)
    with pytest.raises(ValueError, match="g must be 3-D"):
        function(*qkv, g=constant)


@pytest.mark.parametrize("function", [fla.chunk_gla, fla.fused_recurrent_gla])
def test_gla_gates_key_channels(qkv, function):
    gates = -torch.rand(2, 33, 3, 8, dtype=torch.float64)
    output, state = function(*qkv, gates, scale=0.5, output_final_state=True)
    expected, expected_state = linear_attention_reference(
        *qkv, gates, scale=0.5, output_final_state=True
    )
    assert near(output, expected)
    assert near(state, expected_state)
    _, transposed = function(*qkv, gates, scale=0.5, output_final_state=True, state_v_first=True)
    assert near(transposed, expected_state.transpose(-1, -2))


@pytest.mark.parametrize("function", [fla.chunk_lightning_attn, fla.fused_recurrent_lightning_attn])
def test_lightning_attn_uses_the_linear_slopes(qkv, function):
    output, _ = function(*qkv, 2, 8)
    slopes = decay_slopes(3, 2, 8, kind="linear")
    assert near(output, linear_attention_reference(*qkv, slopes)[0])


def test_reverse_runs_each_packed_sequence_from_its_end():
    q, k, v = (torch.randn(1, 30, 2, 4, dtype=torch.float64) for _ in range(3))
    gates = -torch.rand(1, 30, 2, dtype=torch.float64)
    offsets = torch.tensor([0, 12, 30])
    states = torch.randn(2, 2, 4, 4, dtype=torch.float64)
    output, final = fla.fused_recurrent_simple_gla(
        q, k, v, gates, initial_state=states, output_final_state=True, reverse=True,
        cu_seqlens=offsets,
    )  # fmt: skip
    for index, piece in enumerate((slice(0, 12), slice(12, 30))):
        expected, expected_state = linear_attention_reference(
            *(x[:, piece].flip(1) for x in (q, k, v, gates)),
            initial_state=states[index : index + 1], output_final_state=True,
        )  # fmt: skip
        assert near(output[:, piece], expected.flip(1))
        assert near(final[index : index + 1], expected_state)


def test_value_gates_are_refused(qkv):
    with pytest.raises(ValueError, match="gv must be None"):
        fla.fused_recurrent_gla(*qkv, gv=torch.zeros(2, 33, 3, 8))
