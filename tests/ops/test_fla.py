"""fla's names: argument order, defaults, state shapes, and values against the recurrence."""

import inspect

import pytest
import torch
from rankone.ops import decay_slopes, delta_rule_reference, fla, linear_attention_reference
from torch.nn import functional

from .sequence_cases import relative_error

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
    "chunk_delta_rule": (
        "q k v beta scale initial_state output_final_state use_qk_l2norm_in_kernel cu_seqlens "
        "cu_seqlens_cpu"
    ),
    "fused_recurrent_delta_rule": (
        "q k v beta scale initial_state output_final_state use_qk_l2norm_in_kernel cu_seqlens"
    ),
    "chunk_gated_delta_rule": (
        "q k v g beta scale initial_state output_final_state use_qk_l2norm_in_kernel "
        "use_beta_sigmoid_in_kernel allow_neg_eigval state_v_first cu_seqlens cu_seqlens_cpu "
        "chunk_indices cp_context"
    ),
    "fused_recurrent_gated_delta_rule": (
        "q k v g gk gv beta scale initial_state output_final_state use_qk_l2norm_in_kernel "
        "use_gate_in_kernel A_log dt_bias use_beta_sigmoid_in_kernel allow_neg_eigval "
        "state_v_first cu_seqlens"
    ),
    "chunk_kda": (
        "q k v g beta scale initial_state output_final_state use_qk_l2norm_in_kernel "
        "use_gate_in_kernel use_beta_sigmoid_in_kernel allow_neg_eigval safe_gate lower_bound "
        "disable_recompute return_intermediate_states state_v_first cu_seqlens cu_seqlens_cpu "
        "cp_context"
    ),
    "fused_recurrent_kda": (
        "q k v g beta A_log dt_bias scale initial_state output_final_state "
        "use_qk_l2norm_in_kernel use_gate_in_kernel use_beta_sigmoid_in_kernel allow_neg_eigval "
        "lower_bound state_v_first cu_seqlens"
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


# The delta rule.

CHUNK_AND_RECURRENT = {
    "delta_rule": (fla.chunk_delta_rule, fla.fused_recurrent_delta_rule),
    "gated_delta_rule": (fla.chunk_gated_delta_rule, fla.fused_recurrent_gated_delta_rule),
    "kda": (fla.chunk_kda, fla.fused_recurrent_kda),
}


@pytest.fixture
def delta():
    """q, k, v, beta, gates per token, gates per channel, states."""
    double = torch.float64
    q, k = (torch.randn(2, 33, 2, 8, dtype=double) for _ in range(2))
    v = torch.randn(2, 33, 4, 6, dtype=double)
    g, gk = (functional.logsigmoid(torch.randn(shape, dtype=double))
             for shape in ((2, 33, 4), (2, 33, 4, 8)))  # fmt: skip
    return q, k, v, torch.rand(2, 33, 4, dtype=double), g, gk, torch.randn(2, 4, 8, 6, dtype=double)


def assert_results(result, expected):
    assert len(result) == 2
    assert near(result[0], expected[0])
    assert near(result[1], expected[1])


@pytest.mark.parametrize("function", CHUNK_AND_RECURRENT["delta_rule"])
def test_delta_rule_normalises_and_scales(delta, function):
    q, k, v, beta, *_, state = delta
    result = function(q, k, v, beta, 0.7, state, True, True)
    expected = delta_rule_reference(
        q, k, v, beta, scale=0.7, initial_state=state, output_final_state=True, use_qk_l2norm=True
    )
    assert_results(result, expected)
    output, none = function(q, functional.normalize(k, dim=-1), v, beta)
    assert none is None
    assert near(output, delta_rule_reference(q, functional.normalize(k, dim=-1), v, beta)[0])


def test_fused_recurrent_strengths_default_to_one(delta):
    q, k, v, beta, *_ = delta
    expected, _ = delta_rule_reference(q, k, v, torch.ones_like(beta), use_qk_l2norm=True)
    output, _ = fla.fused_recurrent_delta_rule(q, k, v, use_qk_l2norm_in_kernel=True)
    assert near(output, expected)
    output, _ = fla.fused_recurrent_gated_delta_rule(q, k, v, use_qk_l2norm_in_kernel=True)
    assert near(output, expected)


@pytest.mark.parametrize("name", ["gated_delta_rule", "kda"])
@pytest.mark.parametrize("which", [0, 1])
def test_gated_delta_rules_decay_and_transpose_states(delta, name, which):
    q, k, v, beta, g, gk, state = delta
    gate = gk if name == "kda" else g
    expected = delta_rule_reference(
        q, k, v, beta, log_decay=gate, initial_state=state, output_final_state=True,
        use_qk_l2norm=True,
    )  # fmt: skip
    options = {"output_final_state": True, "use_qk_l2norm_in_kernel": True}
    function = CHUNK_AND_RECURRENT[name][which]
    result = function(q, k, v, g=gate, beta=beta, initial_state=state, **options)
    assert_results(result, expected)
    output, final = function(
        q, k, v, g=gate, beta=beta, initial_state=state.mT, state_v_first=True, **options
    )
    assert_results((output, final.mT), expected)


@pytest.mark.parametrize("name", ["gated_delta_rule", "kda"])
@pytest.mark.parametrize("which", [0, 1])
def test_gates_and_strengths_are_activated_on_request(delta, name, which):
    q, k, v, *_ = delta
    shape = (2, 33, 4, 8) if name == "kda" else (2, 33, 4)
    raw, logits = torch.randn(shape).double(), torch.randn(2, 33, 4).double()
    bias, rate_log = torch.randn(shape[2:]).double(), torch.randn(4).double()
    rate = rate_log.exp().view(4, *(1 for _ in shape[3:]))
    expected, _ = delta_rule_reference(
        q, k, v, 2 * logits.sigmoid(), log_decay=-rate * functional.softplus(raw + bias),
        use_qk_l2norm=True,
    )  # fmt: skip
    function = CHUNK_AND_RECURRENT[name][which]
    options = {
        "g": raw, "use_qk_l2norm_in_kernel": True, "use_gate_in_kernel": True,
        "dt_bias": bias.flatten(),
    }  # fmt: skip
    output, _ = function(
        q, k, v, beta=logits, A_log=rate_log, use_beta_sigmoid_in_kernel=True,
        allow_neg_eigval=True, **options,
    )  # fmt: skip
    assert near(output, expected)
    with pytest.raises(ValueError, match="A_log must be given"):
        function(q, k, v, beta=logits, **options)
    with pytest.raises(ValueError, match="allow_neg_eigval"):
        function(q, k, v, beta=logits, A_log=rate_log, allow_neg_eigval=True, **options)


@pytest.mark.parametrize("function", CHUNK_AND_RECURRENT["kda"])
def test_kda_gates_may_be_bounded_below(delta, function):
    q, k, v, beta, *_ = delta
    raw, rate_log = torch.randn(2, 33, 4, 8).double(), torch.randn(4).double()
    for given, rate in ((None, 1.0), (rate_log, rate_log.exp()[:, None])):
        expected, _ = delta_rule_reference(
            q, k, v, beta, log_decay=-5.0 * torch.sigmoid(rate * raw), use_qk_l2norm=True
        )
        output, _ = function(
            q, k, v, raw, beta, use_qk_l2norm_in_kernel=True, use_gate_in_kernel=True,
            lower_bound=-5.0, A_log=given,
        )  # fmt: skip
        assert near(output, expected)


def test_token_and_channel_gates_add_up(delta):
    q, k, v, beta, g, gk, _ = delta
    expected, _ = delta_rule_reference(
        q, k, v, beta, log_decay=g[..., None] + gk, use_qk_l2norm=True
    )
    output, _ = fla.fused_recurrent_gated_delta_rule(
        q, k, v, g, gk, beta=beta, use_qk_l2norm_in_kernel=True
    )
    assert near(output, expected)


def test_packed_delta_rule_keeps_sequences_apart(delta):
    q, k, v, beta, g, *_ = (tensor[:1] for tensor in delta)
    offsets = torch.tensor([0, 12, 33])
    output, final = fla.chunk_gated_delta_rule(
        q, k, v, g, beta, output_final_state=True, use_qk_l2norm_in_kernel=True, cu_seqlens=offsets
    )
    for index, piece in enumerate((slice(0, 12), slice(12, 33))):
        expected = delta_rule_reference(
            *(x[:, piece] for x in (q, k, v, beta)), log_decay=g[:, piece],
            output_final_state=True, use_qk_l2norm=True,
        )  # fmt: skip
        assert_results((output[:, piece], final[index : index + 1]), expected)


def test_what_the_delta_rule_lacks_is_refused(delta):
    q, k, v, beta, g, gk, _ = delta
    with pytest.raises(ValueError, match="gv is not a form"):
        fla.fused_recurrent_gated_delta_rule(q, k, v, gv=v, beta=beta)
    with pytest.raises(ValueError, match="cp_context is not a form"):
        fla.chunk_gated_delta_rule(q, k, v, g, beta, cp_context=object())
    with pytest.raises(ValueError, match="return_intermediate_states is not a form"):
        fla.chunk_kda(q, k, v, gk, beta, return_intermediate_states=True)
    with pytest.raises(ValueError, match="lower_bound must be given"):
        fla.chunk_kda(q, k, v, gk, beta, safe_gate=True, use_gate_in_kernel=True)
    with pytest.raises(ValueError, match="lower_bound must be negative"):
        fla.chunk_kda(q, k, v, gk, beta, lower_bound=1.0, use_gate_in_kernel=True)
    with pytest.raises(ValueError, match=r"g must have shape \(2, 33, 4\)"):
        fla.chunk_gated_delta_rule(q, k, v, gk, beta)
    with pytest.raises(ValueError, match=r"g must have shape \(2, 33, 4, 8\)"):
        fla.chunk_kda(q, k, v, g, beta)
    with pytest.raises(ValueError, match="g must be given"):
        fla.fused_recurrent_gated_delta_rule(q, k, v, use_gate_in_kernel=True)
