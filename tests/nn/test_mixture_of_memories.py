"""MixtureOfMemories against a token-by-token oracle and against dense masked memories.

That pieces, packing, padding and steps change nothing is tested for every mixer in test_mixer.py.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from rankone.nn import (
    GatedDeltaNet,
    LanguageModel,
    MemoryState,
    MixtureOfMemories,
    MixtureOfMemoriesLM,
    load_balancing_loss,
    make_memory_rule,
    route,
)
from rankone.ops import delta_rule, delta_rule_step

WIDTH, HEADS, KEY, TIME = 24, 2, 6, 17
TOLERANCE = {"rtol": 1e-9, "atol": 1e-9}


def inputs(time=TIME, batch=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, time, WIDTH, dtype=torch.float64, generator=generator)


def build(**options):
    torch.manual_seed(0)
    layer = MixtureOfMemories(WIDTH, HEADS, KEY, **options).double()
    # Routing that differs between tokens more than at the small initial weights.
    torch.nn.init.normal_(layer.router.weight)
    return layer


def filtered(conv, rows):
    """The convolution of a list of rows that begins with nothing, then silu."""
    if conv is None:
        return [F.silu(row) for row in rows]
    taps = conv.weight.shape[1]
    results = []
    for t in range(len(rows)):
        y = sum(
            rows[t - lag] * conv.weight[:, taps - 1 - lag] for lag in range(taps) if t - lag >= 0
        )
        results.append(F.silu(y))
    return results


def reads_of(layer, weights, queries, keys, values, tokens):
    """A memory as a loop over its tokens; the lists are of convolved projections."""
    rule, heads = layer.rule, layer.num_heads
    state = torch.zeros(heads, layer.head_k_dim, layer.head_v_dim).double()
    results = []
    for q, k, v, x in zip(queries, keys, values, tokens, strict=True):
        q, k, v = q.view(heads, -1), k.view(heads, -1), v.view(heads, -1)
        if "a" in rule.extras:
            step = F.softplus(weights["a"] @ x + layer.dt_bias).view(heads, -1)
            state = (-layer.A_log.exp()[:, None] * step).exp()[..., None] * state
        if "b" in rule.extras:
            q = q / (q.square().sum(-1, keepdim=True) + 1e-6).sqrt()
            k = k / (k.square().sum(-1, keepdim=True) + 1e-6).sqrt()
            beta = torch.sigmoid(weights["b"] @ x)[:, None]
            beta = 2 * beta if layer.allow_neg_eigval else beta
            v = beta * (v - torch.einsum("hkv,hk->hv", state, k))
        state = state + torch.einsum("hk,hv->hkv", k, v)
        results.append(torch.einsum("hkv,hk->hv", state, q) * layer.head_k_dim**-0.5)
    return results


def routed_reads(layer, sequence, weights, times):
    """Reads of one memory with these weights that is given the tokens at these times."""
    q, k, v = (
        [weight @ x for x in sequence]
        for weight in (layer.q_proj.weight, weights["k"], weights["v"])
    )
    pairs = ((layer.q_conv, q), (layer.k_conv, k), (layer.v_conv, v))
    if layer.conv_scope == "sequence":
        q, k, v = ([filtered(conv, rows)[t] for t in times] for conv, rows in pairs)
    else:
        q, k, v = (filtered(conv, [rows[t] for t in times]) for conv, rows in pairs)
    return reads_of(layer, weights, q, k, v, [sequence[t] for t in times])


def token_list_oracle(layer, x):
    """Every memory keeps a list of its tokens and is run over that list alone."""
    names = ("k", "v", *layer.rule.extras)
    stacked = {name: layer.get_submodule(f"{name}_proj").weight for name in names}
    rows = []
    for sequence in x:
        time = len(sequence)
        p = (sequence @ layer.router.weight.T).softmax(-1)
        ranked = [
            sorted(range(p.shape[1]), key=lambda m, row=row: (-row[m], m)) for row in p.tolist()
        ]
        chosen = [ranking[: layer.top_k] for ranking in ranked]
        read = [torch.zeros(layer.num_heads, layer.head_v_dim).double() for _ in range(time)]
        for memory in range(p.shape[1]):
            weights = {
                name: weight[memory if len(weight) > 1 else 0] for name, weight in stacked.items()
            }
            times = [t for t in range(time) if memory in chosen[t]]
            for t, o in zip(times, routed_reads(layer, sequence, weights, times), strict=True):
                total = sum(p[t, other] for other in chosen[t])
                read[t] = read[t] + p[t, memory] / total * o
        if layer.shared_memory:
            weights = {name: layer.get_submodule(f"shared_{name}_proj").weight for name in names}
            for t, o in enumerate(routed_reads(layer, sequence, weights, list(range(time)))):
                read[t] = read[t] + o
        rows.append(torch.stack(read))
    o = torch.stack(rows)
    o = o / (o.square().mean(-1, keepdim=True) + layer.o_norm.eps).sqrt() * layer.o_norm.weight
    o = o.flatten(-2)
    if layer.g_proj is not None:
        o = o * F.silu(layer.g_proj(x))
    return layer.o_proj(o)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_memories": 3, "top_k": 1, "shared_memory": False, "allow_neg_eigval": True},
        {"memory_rule": "gated_delta_rule_channel", "expand_v": 2.0},
        {"memory_rule": "delta_rule", "conv_scope": "sequence"},
        {"memory_rule": "linear_attention", "per_memory_projections": False},
        {
            "memory_rule": "gated_linear_attention",
            "per_memory_projections": False,
            "conv_scope": "sequence",
        },
        {"use_short_conv": False, "use_output_gate": False, "num_memories": 5, "top_k": 5},
    ],
    ids=str,
)
def test_dispatch_is_the_token_list_oracle_with_all_gradients(options):
    layer = build(**options)
    x = inputs(9).requires_grad_()
    upstream = inputs(9, seed=2)
    tensors = (x, *layer.parameters())
    results = []
    for call in (layer, lambda x: token_list_oracle(layer, x)):
        y = call(x)
        results.append((y, *torch.autograd.grad(y, tensors, upstream)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, **TOLERANCE)


@pytest.mark.parametrize(
    "options", [{"use_short_conv": False}, {"conv_scope": "sequence"}], ids=str
)
def test_layer_is_a_weighted_sum_of_memories_that_see_masked_full_sequences(options):
    """With beta = 0 and no decay where a token is routed elsewhere, a state stays untouched."""
    layer = build(shared_memory=False, use_output_gate=False, **options)
    x = inputs()
    router = layer(x, return_router=True)[1]

    def convolve(conv, channels):
        return F.silu(channels) if conv is None else conv(channels)[0]

    q = convolve(layer.q_conv, layer.q_proj(x)).unflatten(-1, (HEADS, -1))
    total = 0
    for memory in range(4):
        routed = (router.indices == memory).any(-1)
        weight = torch.where(router.indices == memory, router.weights, 0).sum(-1)
        k = convolve(layer.k_conv, x @ layer.k_proj.weight[memory].T).unflatten(-1, (HEADS, -1))
        v = convolve(layer.v_conv, x @ layer.v_proj.weight[memory].T).unflatten(-1, (HEADS, -1))
        beta = torch.sigmoid(x @ layer.b_proj.weight[memory].T) * routed[..., None]
        step = F.softplus(x @ layer.a_proj.weight[memory].T + layer.dt_bias)
        log_decay = -layer.A_log.exp() * step * routed[..., None]
        o, _ = delta_rule(q, k, v, beta, log_decay=log_decay, use_qk_l2norm=True)
        total = total + weight[..., None, None] * o
    expected = layer.o_proj(layer.o_norm(total).flatten(-2))
    torch.testing.assert_close(layer(x), expected, **TOLERANCE)


def test_one_memory_is_gated_delta_net():
    layer = build(num_memories=1, top_k=1, shared_memory=False)
    same = GatedDeltaNet(WIDTH, HEADS, KEY, expand_v=1.0).double()
    weights = dict(layer.state_dict())
    del weights["router.weight"]
    for name in ("k_proj", "v_proj", "b_proj", "a_proj"):
        weights[f"{name}.weight"] = weights[f"{name}.weight"][0]
    same.load_state_dict(weights)
    torch.testing.assert_close(layer(inputs()), same(inputs()), **TOLERANCE)


def test_equal_memories_that_all_see_everything_are_one_memory_whatever_the_router_says():
    layer = build(top_k=4, shared_memory=False)
    with torch.no_grad():
        for name in ("k_proj", "v_proj", "b_proj", "a_proj"):
            weight = layer.get_submodule(name).weight
            weight.copy_(weight[:1].expand_as(weight))
    one = build(num_memories=1, top_k=1, shared_memory=False)
    weights = {
        name: value[:1] if name[:2] in ("k_", "v_", "b_", "a_") and value.ndim == 3 else value
        for name, value in layer.state_dict().items()
    }
    weights["router.weight"] = weights["router.weight"][:1]
    one.load_state_dict(weights)
    torch.testing.assert_close(layer(inputs()), one(inputs()), **TOLERANCE)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("options", [{}, {"conv_scope": "sequence"}], ids=str)
def test_a_changed_token_reaches_neither_earlier_tokens_nor_other_rows(training, options):
    layer = build(**options).train(training)
    x = inputs()
    changed = x.clone()
    changed[0, 9] = 5 * torch.randn(WIDTH, dtype=torch.float64)
    before, after = layer(x), layer(changed)
    torch.testing.assert_close(after[0, :9], before[0, :9], **TOLERANCE)
    torch.testing.assert_close(after[1], before[1], **TOLERANCE)
    assert (after[0, 9:] - before[0, 9:]).abs().max() > 1e-3
    # Training and inference are one function.
    torch.testing.assert_close(layer.train(not training)(x), before, rtol=0, atol=0)


@pytest.mark.parametrize("rule", ["gated_delta_rule", "gated_linear_attention", "delta_rule"])
def test_memories_a_step_does_not_choose_stay_bit_for_bit(rule):
    layer = build(memory_rule=rule)
    _, state = layer(inputs(), return_state=True)
    before = MemoryState(*(part.clone() for part in state))
    x = inputs(1, seed=3)[:, 0]
    _, after = layer.step(x, state)
    chosen = layer(x[:, None], return_router=True)[1].indices[:, 0]
    for row in range(2):
        for memory in range(4):
            untouched = [
                torch.equal(getattr(after, name)[row, memory], getattr(state, name)[row, memory])
                for name in ("recurrent", "conv_q", "conv_k", "conv_v")
            ]
            assert all(untouched) or memory in chosen[row]
            assert not any(untouched) or memory not in chosen[row]
    # The state that was given is left as it was.
    assert all(torch.equal(a, b) for a, b in zip(state, before, strict=True))


def test_a_memory_first_used_while_decoding():
    layer = build(top_k=1, num_memories=2)
    towards = torch.zeros(2, WIDTH, dtype=torch.float64)
    towards[0, 0], towards[1, 0] = 10, -10
    layer.router.weight.data.copy_(towards)
    x = inputs()
    x[..., 0] = 1
    x[:, 12:, 0] = -1
    whole, router = layer(x, return_router=True)
    assert (router.indices[:, :12] == 0).all()
    assert (router.indices[:, 12:] == 1).all()
    _, state = layer(x[:, :12], return_state=True)
    assert not state.recurrent[:, 1].any()
    for t in range(12, TIME):
        y, state = layer.step(x[:, t], state)
        torch.testing.assert_close(y, whole[:, t], **TOLERANCE)


@pytest.mark.parametrize("time", [0, 1, 2])
def test_memories_nobody_chose_and_short_texts(time):
    layer = build(num_memories=8, top_k=1)
    x = inputs(time)
    y, state = layer(x, return_state=True)
    assert y.shape == x.shape
    torch.testing.assert_close(y, token_list_oracle(layer, x) if time else y, **TOLERANCE)
    unused = 16 - len({(row, int(m)) for row in range(2) for m in layer(
        x, return_router=True)[1].indices[row].flatten()})  # fmt: skip
    assert int((~state.recurrent.flatten(2).any(-1)).sum()) == unused


def test_a_batch_of_padding_alone():
    layer = build()
    mask = torch.zeros(2, TIME, dtype=torch.bool)
    _, before = layer(inputs(), return_state=True)
    y, state, router = layer(
        inputs(), attention_mask=mask, state=before, return_state=True, return_router=True
    )
    assert torch.isfinite(y).all()
    assert all(torch.equal(a, b) for a, b in zip(state, before, strict=True))
    assert router.load.tolist() == [0, 0, 0, 0]
    assert router.aux_loss.item() == 0


def test_a_weight_that_underflows_still_updates_its_memory():
    layer = build(num_memories=2, shared_memory=False).float()
    layer.router.weight.data.zero_()
    layer.router.weight.data[0, 0] = 1e4
    x = inputs().float()
    x[..., 0] = 1
    _, state, router = layer(x, return_state=True, return_router=True)
    assert (router.weights[..., 1] == 0).all()
    assert state.recurrent[:, 1].any()


def test_gradients_do_not_depend_on_the_run():
    layer, x = build(num_memories=5, top_k=3), inputs(64)
    runs = []
    for _ in range(3):
        layer.zero_grad()
        layer(x).square().sum().backward()
        runs.append([parameter.grad.clone() for parameter in layer.parameters()])
    for again in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], again, strict=True))


@pytest.mark.parametrize("num_memories", [2, 16])
def test_projections_are_of_routed_tokens_only(num_memories, monkeypatch):
    """The rows that keys are projected for: top_k a token and one for the shared memory."""
    layer, x = build(num_memories=num_memories), inputs()
    rows = []
    linear = F.linear

    def counted(rows_in, weight, bias=None):
        if weight.shape == (HEADS * KEY, WIDTH):
            rows.append(rows_in.numel() // WIDTH)
        return linear(rows_in, weight, bias)

    monkeypatch.setattr(F, "linear", counted)
    layer(x)
    # Queries, gate and the shared memory's keys and values once; routed keys and values twice.
    assert sum(rows) == x.shape[0] * TIME * (4 + 2 * 2)


def test_parameter_count_and_names():
    layer = MixtureOfMemories(WIDTH, HEADS, KEY, expand_v=2.0)
    d, kd, vd, memories = WIDTH, HEADS * KEY, 2 * HEADS * KEY, 4
    expected = d * (kd + memories) + (memories + 1) * (kd + vd + 2 * HEADS) * d + 2 * HEADS
    expected += 4 * (2 * kd + vd) + 2 * KEY + 2 * d * vd
    assert sum(parameter.numel() for parameter in layer.parameters()) == expected
    shapes = {name: tuple(value.shape) for name, value in layer.named_parameters()}
    assert shapes == {
        "router.weight": (4, d),
        "q_proj.weight": (kd, d),
        "k_proj.weight": (4, kd, d),
        "v_proj.weight": (4, vd, d),
        "b_proj.weight": (4, HEADS, d),
        "a_proj.weight": (4, HEADS, d),
        "shared_k_proj.weight": (kd, d),
        "shared_v_proj.weight": (vd, d),
        "shared_b_proj.weight": (HEADS, d),
        "shared_a_proj.weight": (HEADS, d),
        "q_conv.weight": (kd, 4),
        "k_conv.weight": (kd, 4),
        "v_conv.weight": (vd, 4),
        "g_proj.weight": (vd, d),
        "o_norm.weight": (2 * KEY,),
        "o_proj.weight": (d, vd),
        "A_log": (HEADS,),
        "dt_bias": (HEADS,),
    }
    one = MixtureOfMemories(WIDTH, HEADS, KEY, per_memory_projections=False)
    assert one.k_proj.weight.shape == (1, kd, d)
    assert one.b_proj.weight.shape == (1, HEADS, d)


def test_initial_weights_are_xavier_uniform_with_the_published_gain():
    layer = MixtureOfMemories(200, 4, 50)
    for name in ("q_proj", "k_proj", "shared_v_proj", "o_proj", "router"):
        weight = layer.get_submodule(name).weight
        deviation = 2**-2.5 * math.sqrt(2 / sum(weight.shape[-2:]))
        # Six standard errors of the deviation of n uniform draws.
        assert abs(weight.std() / deviation - 1) < 6 * math.sqrt(0.2 / weight.numel()), name


class Counter:
    """A rule of its own: a running mean of values, weighted by an extra projection."""

    extras = {"importance": 3}  # noqa: RUF012

    def state_shape(self, heads, key_dim, value_dim):
        return (heads, value_dim + 1)

    def _advance(self, v, importance, state):
        weight = importance.exp().sum(-1, keepdim=True)
        state = state + torch.cat([weight * v, weight], dim=-1)
        return state[..., :-1] / state[..., -1:], state

    def forward(self, q, k, v, extras, *, initial_state, cu_seqlens, output_final_state):
        outputs, states = [], []
        for n in range(len(cu_seqlens) - 1):
            state = torch.zeros(v.shape[2], v.shape[3] + 1).to(v)
            state = state if initial_state is None else initial_state[n]
            for t in range(cu_seqlens[n], cu_seqlens[n + 1]):
                o, state = self._advance(v[0, t], extras["importance"][0, t], state)
                outputs.append(o)
            states.append(state)
        return torch.stack(outputs)[None], torch.stack(states) if output_final_state else None

    def step(self, q, k, v, extras, state):
        return self._advance(v, extras["importance"], state)


class TestCustomRule:
    def test_rule_is_run_over_each_memory_with_its_own_projections(self):
        layer = build(memory_rule=Counter(), top_k=1, use_short_conv=False, shared_memory=False)
        assert layer.importance_proj.weight.shape == (4, HEADS * 3, WIDTH)
        x = inputs(12)
        y, state, router = layer(x, return_state=True, return_router=True)
        assert state.recurrent.shape == (2, 4, HEADS, KEY + 1)
        expected = torch.zeros(2, 12, HEADS, KEY, dtype=torch.float64)
        for row in range(2):
            for memory in range(4):
                times = (router.indices[row, :, 0] == memory).nonzero().flatten()
                tokens = x[row, times]
                v = F.silu(tokens @ layer.v_proj.weight[memory].T).unflatten(-1, (HEADS, -1))
                weight = (tokens @ layer.importance_proj.weight[memory].T).exp()
                weight = weight.unflatten(-1, (HEADS, 3)).sum(-1, keepdim=True)
                expected[row, times] = (weight * v).cumsum(0) / weight.cumsum(0)
        expected = layer.o_norm(expected).flatten(-2) * F.silu(layer.g_proj(x))
        torch.testing.assert_close(y, layer.o_proj(expected), **TOLERANCE)

    def test_prefill_and_steps_are_one_call(self):
        layer = build(memory_rule=Counter())
        x = inputs()
        whole = layer(x)
        _, state = layer(x[:, :5], return_state=True)
        for t in range(5, TIME):
            y, state = layer.step(x[:, t], state)
            torch.testing.assert_close(y, whole[:, t], **TOLERANCE)

    def test_gates_by_their_reserved_names(self):
        """A rule with the names of the built-in gates gets them as the built-in one does."""

        class Same:
            extras = {"b": 1, "a": 1}  # noqa: RUF012

            def state_shape(self, heads, key_dim, value_dim):
                return heads, key_dim, value_dim

            def forward(self, q, k, v, extras, **options):
                return delta_rule(
                    q, k, v, extras["b"], log_decay=extras["a"], use_qk_l2norm=True, **options
                )

            def step(self, q, k, v, extras, state):
                return delta_rule_step(
                    q, k, v, extras["b"], state, log_decay=extras["a"], use_qk_l2norm=True
                )

        torch.testing.assert_close(
            build(memory_rule=Same())(inputs()), build()(inputs()), rtol=0, atol=0
        )

    def test_what_is_not_a_rule_is_refused(self):
        with pytest.raises(ValueError, match=r"memory_rule must be one of .* got 'mamba'"):
            build(memory_rule="mamba")
        with pytest.raises(TypeError, match=r"memory_rule must be a name or an object .* got int"):
            build(memory_rule=3)
        with pytest.raises(TypeError, match=r"an object with extras.* got Counter"):
            build(memory_rule=Counter)

        class Taken(Counter):
            extras = {"v": 1}  # noqa: RUF012

        class Wide(Counter):
            extras = {"a": 5}  # noqa: RUF012

        with pytest.raises(ValueError, match="extras of memory_rule must not be called v"):
            make_memory_rule(Taken(), 6)
        with pytest.raises(ValueError, match=r"1 or 6 for 'a', got \{'a': 5\}"):
            make_memory_rule(Wide(), 6)


class TestRouting:
    def test_ties_go_to_the_lower_index(self):
        router = route(torch.zeros(1, 3, 5), 2)
        assert router.indices.tolist() == [[[0, 1]] * 3]
        assert router.load.tolist() == [1, 1, 0, 0, 0]

    def test_weights_are_renormalised_probabilities(self):
        logits = torch.randn(2, 7, 5)
        router = route(logits, 3)
        p = logits.softmax(-1)
        largest = p.topk(3, dim=-1)
        assert torch.equal(router.indices, largest.indices)
        torch.testing.assert_close(
            router.weights, largest.values / largest.values.sum(-1, keepdim=True)
        )
        assert router.load.sum().item() == pytest.approx(3)

    def test_balance_loss_is_k_for_uniform_probabilities_and_m_at_its_worst(self):
        assert load_balancing_loss(torch.zeros(2, 9, 4), 2).item() == 2
        collapsed = torch.tensor([200.0, 100.0, 0.0, 0.0]).expand(2, 9, 4)
        assert load_balancing_loss(collapsed, 2).item() == pytest.approx(4)

    def test_balance_loss_is_that_of_the_definition(self):
        logits = torch.randn(3, 8, 5, dtype=torch.float64)
        mask = torch.rand(3, 8) < 0.6
        p = logits.softmax(-1)[mask]
        chosen = p.topk(2, dim=-1).indices
        counts = torch.bincount(chosen.flatten(), minlength=5) / len(p)
        expected = 5 * (counts * p.mean(0)).sum()
        torch.testing.assert_close(load_balancing_loss(logits, 2, mask=mask), expected)
        router = route(logits, 2, mask=mask)
        torch.testing.assert_close(router.aux_loss, expected)
        torch.testing.assert_close(router.load, counts.double())

    def test_balance_loss_has_a_gradient_through_probabilities_only(self):
        logits = torch.randn(3, 8, 5, dtype=torch.float64, requires_grad=True)
        load_balancing_loss(logits, 2).backward()
        load = route(logits.detach(), 2).load
        p = logits.detach().softmax(-1)
        # d/dlogit of M sum_m f_m mean_t p_tm, with f held fixed.
        expected = 5 / 24 * p * (load - (p * load).sum(-1, keepdim=True))
        torch.testing.assert_close(logits.grad, expected)

    def test_bad_arguments_are_named(self):
        for top_k in (0, 5):
            with pytest.raises(ValueError, match=f"top_k must be between 1 and 4, got {top_k}"):
                load_balancing_loss(torch.zeros(2, 4), top_k)
        with pytest.raises(ValueError, match=r"mask must have shape \(2, 3\)"):
            load_balancing_loss(torch.zeros(2, 3, 4), 2, mask=torch.ones(2, 4, dtype=torch.bool))

    def test_results_come_in_the_documented_order(self):
        layer, x = build(), inputs()
        y = layer(x)
        with_state = layer(x, return_state=True)
        with_router = layer(x, return_router=True)
        both = layer(x, return_state=True, return_router=True)
        assert isinstance(with_state[1], MemoryState)
        assert type(with_router[1]).__name__ == "RouterOutput"
        assert [type(part).__name__ for part in both[1:]] == ["MemoryState", "RouterOutput"]
        assert all(torch.equal(y, result[0]) for result in (with_state, with_router, both))

    def test_padding_is_left_out_of_the_statistics(self):
        layer, x = build(), inputs()
        mask = torch.ones(2, TIME, dtype=torch.bool)
        mask[0, :9] = False
        router = layer(x, attention_mask=mask, return_router=True)[1]
        tokens = x[mask][None]
        alone = layer(
            tokens, cu_seqlens=torch.tensor([0, TIME - 9, 2 * TIME - 9]), return_router=True
        )[1]
        torch.testing.assert_close(router.load, alone.load)
        torch.testing.assert_close(router.aux_loss, alone.aux_loss)

    def test_rounding_under_autocast_moves_no_token(self):
        layer, x = build().float(), inputs(200).float()
        exact = layer(x, return_router=True)[1]
        with torch.autocast("cpu", torch.bfloat16):
            y, cast = layer(x, return_router=True)
        assert torch.equal(exact.indices, cast.indices)
        assert y.dtype == torch.float32


class TestLanguageModel:
    def build(self, **options):
        torch.manual_seed(0)
        sizes = {"hidden_size": 16, "num_layers": 3, "num_heads": 2, "head_dim": 4}
        model = MixtureOfMemoriesLM(19, **{**sizes, **options}).double().eval()
        for block in model.blocks:
            torch.nn.init.normal_(block.mixer.router.weight)
        return model

    def tokens(self, time=20):
        return torch.randint(19, (2, time), generator=torch.Generator().manual_seed(time))

    def test_loss_is_cross_entropy_and_the_mean_balance_loss(self):
        model = self.build(aux_loss_scale=0.5)
        tokens = self.tokens()
        output = model(tokens, labels=tokens)
        cross_entropy = F.cross_entropy(
            output.logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()
        )
        torch.testing.assert_close(output.cross_entropy.double(), cross_entropy, rtol=1e-6, atol=0)
        layers = [load_balancing_loss(router.logits, 2) for router in output.routers]
        torch.testing.assert_close(output.aux_loss, torch.stack(layers).mean())
        expected = output.cross_entropy + 0.5 * output.aux_loss.float()
        torch.testing.assert_close(output.loss, expected)
        assert len({round(layer.item(), 6) for layer in layers}) == 3
        assert output.router_load.shape == (3, 4)
        torch.testing.assert_close(output.router_load.sum(1), torch.full((3,), 2.0).double())

    def test_pooled_balance_is_of_the_tokens_of_all_layers(self):
        tokens = self.tokens()
        mask = torch.ones_like(tokens)
        mask[0, :7] = 0
        output = self.build(balance="pooled")(tokens, attention_mask=mask)
        p = torch.cat([router.logits.softmax(-1)[mask.bool()] for router in output.routers])
        chosen = p.topk(2, dim=-1).indices
        load = torch.bincount(chosen.flatten(), minlength=4) / len(p)
        torch.testing.assert_close(output.aux_loss, 4 * (load * p.mean(0)).sum())
        layers = self.build()(tokens, attention_mask=mask)
        assert abs(layers.aux_loss - output.aux_loss) > 1e-6

    def test_training_moves_the_routers_by_the_balance_loss_alone(self):
        model = self.build().train()
        model(self.tokens()).aux_loss.backward()
        for block in model.blocks:
            assert block.mixer.router.weight.grad.abs().sum() > 0
        assert model.blocks[-1].mixer.k_proj.weight.grad is None

    def test_activation_checkpointing_changes_nothing(self):
        tokens, results = self.tokens(), []
        for flag in (False, True):
            model = self.build().train()
            config = model.config
            object.__setattr__(config, "activation_checkpointing", flag)
            output = model(tokens, labels=tokens)
            output.loss.backward()
            results.append([output.loss, *(parameter.grad for parameter in model.parameters())])
        for kept, recomputed in zip(*results, strict=True):
            torch.testing.assert_close(kept, recomputed, **TOLERANCE)

    def test_decoding_continues_the_text_in_constant_memory(self):
        model = self.build()
        text = self.tokens(40)
        whole = model(text).logits
        state = model(text[:, :13], return_state=True).state
        size = sum(part.nbytes for layer in state for part in layer)
        for t in range(13, 40):
            logits, state = model.step(text[:, t], state)
            torch.testing.assert_close(logits, whole[:, t], **TOLERANCE)
        assert sum(part.nbytes for layer in state for part in layer) == size

    def test_generation_is_repeated_reading(self):
        model = self.build()
        text = self.tokens(6)
        expected = text
        for _ in range(8):
            following = model(expected).logits[:, -1:].argmax(-1)
            expected = torch.cat([expected, following], 1)
        assert torch.equal(model.generate(text, 8, temperature=0.0), expected)

    def test_stacked_weights_start_like_the_others(self):
        model = MixtureOfMemoriesLM(50, hidden_size=128, num_layers=2, num_heads=2, head_dim=32)
        for name in ("k_proj", "v_proj", "q_proj", "router"):
            weight = model.blocks[0].mixer.get_submodule(name).weight
            assert abs(weight.std() / 0.02 - 1) < 6 / math.sqrt(2 * weight.numel()), name

    def test_saved_model_is_loaded_as_what_it_was(self, tmp_path):
        model = self.build(num_memories=3, top_k=1, mixer_kwargs={"conv_scope": "sequence"})
        model.save(tmp_path / "model")
        for kind in (MixtureOfMemoriesLM, LanguageModel):
            loaded = kind.load(tmp_path / "model")
            assert torch.equal(loaded(self.tokens()).logits, model(self.tokens()).logits)

    def test_unknown_balance_and_unlike_layers_are_named(self):
        with pytest.raises(ValueError, match=r"balance must be one of .* got 'batch'"):
            self.build(balance="batch")
        config = self.build(balance="pooled").config
        kwargs = [{"head_dim": 4, "num_memories": number} for number in (2, 3, 4)]
        object.__setattr__(config, "mixer_kwargs", kwargs)
        model = LanguageModel(config)
        with pytest.raises(ValueError, match="balance must be 'layer' where layers differ"):
            model(self.tokens())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "top_k must be between 1 and 4, got 0"),
        ({"top_k": 5}, "top_k must be between 1 and 4, got 5"),
        ({"num_memories": 0}, "num_memories must be at least 1, got 0"),
        ({"memory_rule": "none"}, r"memory_rule must be one of .* got 'none'"),
        ({"conv_scope": "token"}, r"conv_scope must be one of .* got 'token'"),
        ({"expand_v": 0.3}, r"head_dim \* expand_v must be a whole number"),
        ({"norm_eps": -1e-5}, "eps must be at least 0 and finite, got -1e-05"),
    ],
)
def test_options_that_do_not_fit_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        MixtureOfMemories(WIDTH, HEADS, KEY, **options)


def test_top_k_is_an_integer():
    with pytest.raises(TypeError, match=r"top_k must be an integer, got 1\.5"):
        MixtureOfMemories(WIDTH, HEADS, KEY, top_k=1.5)


def test_a_state_of_another_layer_is_refused():
    layer, x = build(), inputs()
    with pytest.raises(TypeError, match=r"state must be a MemoryState .* got Tensor"):
        layer(x, state=torch.zeros(1))
    with pytest.raises(ValueError, match=r"state.recurrent must have shape \(2, 4, 2, 6, 6\)"):
        layer(x, state=build(num_memories=3).init_state(2))
    with pytest.raises(ValueError, match=r"state.conv_q must have shape \(2, 4, 12, 3\)"):
        layer(x, state=build(conv_scope="sequence").init_state(2))
