"""xLSTM mixers, blocks and language model against definitions written out token by token.

That pieces, packing, padding and steps change nothing in the mixers is tested in test_mixer.py.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from rankone.nn import LanguageModel, LanguageModelConfig, TrainingConfig, parameter_groups, train
from rankone.nn.xlstm import DNA_COMPLEMENT, PRESETS, XLSTMLM
from rankone.nn.xlstm_blocks import MLSTMBlock, SLSTMBlock
from rankone.nn.xlstm_mixers import MLSTM, SLSTM, BlockDiagonalLinear, rounded

WIDTH, HEADS, TIME = 16, 2, 14
TOLERANCE = {"rtol": 1e-9, "atol": 1e-9}
DIRECTIONS = ("causal", "bidirectional", "alternating")


def inputs(time=TIME, batch=2):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, time, WIDTH, dtype=torch.float64, generator=generator)


def tokens(time=TIME, batch=2, vocab=12):
    return torch.randint(vocab, (batch, time), generator=torch.Generator().manual_seed(time))


def shaken(module):
    """Float64 with every parameter away from 0 and 1, so that none can be left out unnoticed."""
    torch.manual_seed(3)
    module = module.double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


def model(**options):
    torch.manual_seed(0)
    sizes = {"vocab_size": 12, "d_model": WIDTH, "num_layers": 2, "num_heads": HEADS}
    return shaken(XLSTMLM(**{**sizes, **options}))


def convolved(conv, x):
    """silu of every token's last W inputs by the filter."""
    taps = conv.weight.shape[1]
    padded = F.pad(x, (0, 0, taps - 1, 0))
    return F.silu(
        sum(padded[:, t : t + x.shape[1]] * conv.weight[:, t] for t in range(taps)) + conv.bias
    )


def block_diagonal(layer):
    return torch.block_diag(*layer.weight)


def turned_pairs(x, positions, base):
    """Channels (2 j, 2 j + 1) as complex numbers, turned by position * base^(-2 j / dim)."""
    dim = x.shape[-1]
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    rates = base ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angles = positions.double()[..., None, None] * rates
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)


def mlstm_by_definition(layer, x, positions=None):
    heads = layer.num_heads
    u, z = layer.up_proj(x).chunk(2, -1)
    c = convolved(layer.conv, u)
    q, k = c @ block_diagonal(layer.q_proj).T, c @ block_diagonal(layer.k_proj).T
    v = u @ block_diagonal(layer.v_proj).T
    gates = torch.cat([q, k, v], -1) @ layer.gate_weight.T + layer.gate_bias
    i, f = gates[..., :heads], gates[..., heads:]
    q, k, v = (part.unflatten(-1, (heads, -1)) for part in (q, k, v))
    if layer.rope:
        q, k = (turned_pairs(part, positions, layer.rope_base) for part in (q, k))
    batch, time, _, dim = q.shape
    h = torch.empty_like(v)
    for row in range(batch):
        for head in range(heads):
            C, n, m = torch.zeros(dim, dim).double(), torch.zeros(dim).double(), -math.inf
            for t in range(time):
                forget = F.logsigmoid(f[row, t, head])
                new = torch.maximum(forget + m, i[row, t, head])
                keep, write = (forget + m - new).exp(), (i[row, t, head] - new).exp()
                C = keep * C + write * torch.outer(k[row, t, head], v[row, t, head])
                n, m = keep * n + write * k[row, t, head], new
                query = q[row, t, head] * dim**-0.5
                h[row, t, head] = (C.T @ query) / (
                    torch.maximum((n @ query).abs(), (-m).exp()) + layer.eps
                )
    centred = h - h.mean(-1, keepdim=True)
    normed = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    normed = normed.flatten(-2) * layer.head_norm.weight
    return layer.o_proj((normed + layer.skip * c) * F.silu(z))


def slstm_by_definition(layer, x):
    heads, dim = layer.num_heads, layer.head_dim
    c = convolved(layer.conv, x)
    pairs = ((layer.i_gate, c), (layer.f_gate, c), (layer.z_gate, x), (layer.o_gate, x))
    raw = [
        (y @ block_diagonal(gate).T).unflatten(-1, (heads, dim)) + layer.bias[index]
        for index, (gate, y) in enumerate(pairs)
    ]
    batch, time = x.shape[:2]
    y = cell = norm = torch.zeros(batch, heads, dim, dtype=x.dtype)
    outputs = []
    for t in range(time):
        i, f, z, o = (
            raw[g][:, t] + torch.einsum("bhd,hde->bhe", y, layer.recurrent[g]) for g in range(4)
        )
        cell = torch.sigmoid(f) * cell + i.exp() * torch.tanh(z)
        norm = torch.sigmoid(f) * norm + i.exp()
        y = torch.sigmoid(o) * cell / norm
        outputs.append(y)
    h = torch.stack(outputs, 1)
    centred = h - h.mean(-1, keepdim=True)
    normed = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return normed.flatten(-2) * layer.head_norm.weight


def parameters_of(module):
    return sum(parameter.numel() for parameter in module.parameters())


class TestMixers:
    @pytest.mark.parametrize(
        "options",
        [{}, {"rope": True, "rope_base": 100.0}, {"proj_factor": 5.0, "round_proj": "up"}],
        ids=str,
    )
    def test_mlstm_is_its_definition(self, options):
        layer = shaken(MLSTM(WIDTH, HEADS, conv_size=3, **options))
        x = inputs()
        positions = torch.arange(TIME).expand(2, -1)
        # Rotary angles are float32.
        tolerance = {"rtol": 1e-5, "atol": 1e-5} if layer.rope else TOLERANCE
        torch.testing.assert_close(layer(x), mlstm_by_definition(layer, x, positions), **tolerance)

    def test_slstm_is_its_definition(self):
        layer = shaken(SLSTM(WIDTH, HEADS))
        x = inputs()
        torch.testing.assert_close(layer(x), slstm_by_definition(layer, x), **TOLERANCE)

    def test_given_positions_are_used_and_counted_on_from(self):
        layer = shaken(MLSTM(WIDTH, HEADS, rope=True, rope_base=100.0))
        x = inputs()
        positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5]]).expand(2, -1)
        y, state = layer(x, position_ids=positions, return_state=True)
        expected = mlstm_by_definition(layer, x, positions)
        torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
        assert state.position.tolist() == [6, 6]
        assert (y - layer(x)).abs().max() > 1e-3

        offsets = torch.tensor([0, 3, 3, 8, 14])
        packed, state = layer(x[:1], position_ids=positions[:1], cu_seqlens=offsets,
                              return_state=True)  # fmt: skip
        torch.testing.assert_close(packed, layer(x[:1], cu_seqlens=offsets), **TOLERANCE)
        assert state.position.tolist() == [3, 0, 5, 6]

        mask = torch.ones(2, TIME, dtype=torch.bool)
        mask[0, 3:8] = False
        masked = layer(x, position_ids=positions, attention_mask=mask)
        alone = layer(x[:1, mask[0]], position_ids=positions[:1, mask[0]])
        torch.testing.assert_close(masked[:1, mask[0]], alone, **TOLERANCE)

    def test_rotary_products_depend_on_distances_alone(self):
        layer = shaken(MLSTM(WIDTH, HEADS, rope=True))
        positions = torch.arange(TIME).expand(2, -1)
        moved = layer(inputs(), position_ids=positions + 17)
        torch.testing.assert_close(moved, layer(inputs()), rtol=1e-4, atol=1e-4)

    def test_block_diagonal_maps_mix_four_channels(self):
        layer = BlockDiagonalLinear(12, 3).double()
        x = torch.randn(5, 12, dtype=torch.float64)
        torch.testing.assert_close(layer(x), x @ block_diagonal(layer).T, **TOLERANCE)
        moved = x.clone()
        moved[:, 5] += 1
        changed = (layer(moved) != layer(x)).any(0)
        assert changed.nonzero().flatten().tolist() == [4, 5, 6, 7]

    def test_initial_parameters_are_the_published_ones(self):
        torch.manual_seed(0)
        layer = MLSTM(512, 4, layer_idx=1, num_layers=3)
        small, residual = math.sqrt(2 / (5 * 512)), 2 / (3 * math.sqrt(512))
        for weight, expected in (
            (layer.up_proj.weight, small),
            (layer.q_proj.weight, small),
            (layer.v_proj.weight, small),
            (layer.o_proj.weight, residual),
        ):
            # Six standard errors of the deviation of n normal draws.
            assert abs(weight.std() / expected - 1) < 6 / math.sqrt(2 * weight.numel())
        assert not layer.gate_weight.any()
        assert layer.gate_bias[4:].tolist() == [3, 4, 5, 6]
        assert layer.gate_bias[:4].abs().max() < 0.6
        assert (layer.skip == 1).all()

        layer = SLSTM(64, 4, layer_idx=2, num_layers=4)
        assert not layer.recurrent.any()
        assert not layer.bias[[0, 2, 3]].any()
        expected = [5 - 12 * (j / 15) ** (0.3 + 1.3 * 2 / 3) for j in range(16)]
        torch.testing.assert_close(layer.bias[1, 2], torch.tensor(expected))

    def test_vectors_do_not_decay(self):
        groups = parameter_groups(SLSTM(16, 2), 0.1)
        exempt = {id(parameter) for parameter in groups[1]["params"]}
        layer = SLSTM(16, 2)
        assert id(layer.bias) in {id(p) for p in parameter_groups(layer, 0.1)[1]["params"]}
        assert id(layer.recurrent) in {id(p) for p in parameter_groups(layer, 0.1)[0]["params"]}
        assert len(exempt) == 3  # bias, convolution bias and norm

    @pytest.mark.parametrize("mixer", ["mlstm", "slstm"])
    def test_they_serve_in_any_language_model_with_constant_memory(self, mixer, tmp_path):
        torch.manual_seed(0)
        config = LanguageModelConfig(
            vocab_size=19, hidden_size=16, num_layers=2, num_heads=2, mixer=mixer
        )
        language_model = LanguageModel(config).double().eval()
        text = torch.randint(19, (2, 30))
        whole = language_model(text).logits
        state = language_model(text[:, :11], return_state=True).state
        sizes = set()
        for t in range(11, 30):
            logits, state = language_model.step(text[:, t], state)
            torch.testing.assert_close(logits, whole[:, t], **TOLERANCE)
            sizes.add(sum(p.nbytes for layer in state for p in layer if p is not None))
        assert len(sizes) == 1
        language_model.save(tmp_path / "model")
        loaded = LanguageModel.load(tmp_path / "model")
        assert torch.equal(loaded(text).logits, whole)
        assert language_model.generate(text, 3, random_state=0).shape == (2, 33)

    def test_options_that_do_not_fit_are_named(self):
        for call, message in (
            (lambda: MLSTM(16, 3), "inner width must be a multiple of num_heads, got 64 and 3"),
            (lambda: MLSTM(16, 64, rope=True), "head dim must be even with rope, got 1"),
            (lambda: MLSTM(16, 2, round_proj="near"), "round_proj must be one of .* got 'near'"),
            (lambda: MLSTM(16, 2, proj_factor=0), "proj_factor must be above 0, got 0"),
            (lambda: MLSTM(16, 2, eps=-1), "eps must be finite and at least 0, got -1"),
            (lambda: MLSTM(0), "hidden_size must be at least 1, got 0"),
            (lambda: MLSTM(16, 2, layer_idx=2, num_layers=2), r"layer_idx must be in 0\.\.1"),
            (lambda: SLSTM(16, 3), "hidden_size must be a multiple of num_heads"),
            (lambda: SLSTM(16, 2, recurrent_std=-1), "recurrent_std must be at least 0"),
            (lambda: BlockDiagonalLinear(10, 4), "blocks must divide the width 10, got 4"),
            (lambda: SLSTMBlock(16, 2, ff_round="near"), "ff_round must be one of"),
            (lambda: SLSTMBlock(16, 2, ff_factor=0), "ff_factor must be above 0"),
            (lambda: SLSTMBlock(16, 2, ff_multiple=0), "ff_multiple must be at least 1"),
            (lambda: MLSTMBlock(16, 2, direction="both"), "direction must be one of"),
            (lambda: MLSTMBlock(16, 2, double_residual=True), "double_residual needs direction="),
        ):
            with pytest.raises(ValueError, match=message):
                call()

    def test_states_and_positions_are_checked(self):
        layer = MLSTM(WIDTH, HEADS, rope=True).double()
        x = inputs()
        with pytest.raises(TypeError, match=r"state must be a MLSTMLayerState \(C, n, m"):
            layer(x, state=torch.zeros(2))
        with pytest.raises(ValueError, match=r"state\.C must have shape \(2, 2, 32, 32\)"):
            layer(x, state=layer.init_state(3))
        with pytest.raises(ValueError, match=r"position_ids must have shape \(2, 14\)"):
            layer(x, position_ids=torch.arange(TIME))
        with pytest.raises(TypeError, match="position_ids must be integers"):
            layer(x, position_ids=torch.zeros(2, TIME))
        for plain in (MLSTM(WIDTH, HEADS).double(), SLSTM(WIDTH, HEADS).double()):
            with pytest.raises(ValueError, match="position_ids must be None where there are no"):
                plain(x, position_ids=torch.zeros(2, TIME, dtype=torch.int64))


class TestBlocks:
    @pytest.mark.parametrize(("factor", "multiple", "rounding", "width"), [
        (2.0, 64, "down", 192), (2.0, 64, "up", 256), (1.3, 64, "up", 192), (1.1, 8, "down", 104),
    ])  # fmt: skip
    def test_widths_are_rounded(self, factor, multiple, rounding, width):
        assert rounded(factor * 100, multiple, rounding) == width

    def test_width_of_a_whole_multiple_is_not_rounded_away(self):
        assert rounded(1.1 * 640, 64, "up") == 704
        assert rounded(2.0 * 24, 64, "down") == 64

    def test_mlstm_block_adds_the_mixer_of_the_norm(self):
        block = shaken(MLSTMBlock(WIDTH, HEADS))
        x = inputs()
        normed = F.layer_norm(x, (WIDTH,), block.mixer_norm.weight, eps=1e-5)
        torch.testing.assert_close(block(x), x + block.mixer(normed), **TOLERANCE)
        assert block.mixer_norm.bias is None

    def test_slstm_block_adds_a_gated_gelu(self):
        block = shaken(SLSTMBlock(WIDTH, HEADS))
        x = inputs()
        y = x + block.mixer(F.layer_norm(x, (WIDTH,), block.mixer_norm.weight))
        normed = F.layer_norm(y, (WIDTH,), block.feed_forward_norm.weight)
        ff = block.feed_forward
        inner = F.gelu(normed @ ff.gate_proj.weight.T) * (normed @ ff.up_proj.weight.T)
        torch.testing.assert_close(block(x), y + inner @ ff.down_proj.weight.T, **TOLERANCE)
        assert ff.up_proj.weight.shape == (64, WIDTH)

    @pytest.mark.parametrize("kind", [MLSTMBlock, SLSTMBlock])
    def test_directions_are_made_of_the_causal_mixer(self, kind):
        x = inputs()

        def part(block, h):
            return block.mixer(block.mixer_norm(h))

        def ff(block, h):
            if block.feed_forward is None:
                return torch.zeros_like(h)
            return block.feed_forward(block.feed_forward_norm(h))

        block = shaken(kind(WIDTH, HEADS, direction="reverse"))
        y = x + part(block, x.flip(1)).flip(1)
        torch.testing.assert_close(block(x), y + ff(block, y), **TOLERANCE)

        block = shaken(kind(WIDTH, HEADS, direction="bidirectional"))
        y = x + part(block, x) + part(block, x.flip(1)).flip(1)
        expected = y + ff(block, y) + ff(block, y.flip(1)).flip(1)
        torch.testing.assert_close(block(x), expected, **TOLERANCE)

        block = shaken(kind(WIDTH, HEADS, direction="bidirectional", double_residual=True))

        def whole(h):
            y = h + part(block, h)
            return y + ff(block, y)

        expected = whole(x) + whole(x.flip(1)).flip(1)
        torch.testing.assert_close(block(x), expected, **TOLERANCE)

    @pytest.mark.parametrize("direction", ["reverse", "bidirectional"])
    @pytest.mark.parametrize("kind", [MLSTMBlock, SLSTMBlock])
    def test_padding_is_not_turned_around(self, kind, direction):
        block = shaken(kind(WIDTH, HEADS, direction=direction))
        x = inputs()
        mask = torch.ones(2, TIME, dtype=torch.bool)
        mask[0, 9:] = False
        mask[1, :4] = False
        y = block(x, attention_mask=mask)
        torch.testing.assert_close(y[0, :9], block(x[:1, :9])[0], **TOLERANCE)
        torch.testing.assert_close(y[1, 4:], block(x[1:, 4:])[0], **TOLERANCE)
        # A flipped padded tensor would read the padding first.
        assert (y[0, :9] - block(x)[0, :9]).abs().max() > 1e-3

        offsets = torch.tensor([0, 5, 5, 14])
        packed = block(x[:1], cu_seqlens=offsets)
        apart = torch.cat([block(x[:1, :5]), block(x[:1, 5:])], 1)
        torch.testing.assert_close(packed, apart, **TOLERANCE)

    def test_reversed_positions_keep_their_distances(self):
        block = shaken(MLSTMBlock(WIDTH, HEADS, rope=True, rope_base=50.0, direction="reverse"))
        x = inputs()
        counted = block(x, position_ids=torch.arange(TIME).expand(2, -1))
        torch.testing.assert_close(counted, block(x), rtol=1e-4, atol=1e-4)

    def test_only_causal_blocks_have_a_state(self):
        block = MLSTMBlock(WIDTH, HEADS, direction="bidirectional").double()
        for call in (
            lambda: block(inputs(), return_state=True),
            lambda: block(inputs(), state=MLSTM(WIDTH, HEADS).init_state(2)),
            lambda: block.step(inputs()[:, 0]),
            lambda: block.init_state(2),
        ):
            with pytest.raises(ValueError, match="direction='causal', got 'bidirectional'"):
                call()
        causal = MLSTMBlock(WIDTH, HEADS).double()
        y, _ = causal(inputs(), return_state=True)
        first, _ = causal.step(inputs()[:, 0], causal.init_state(2))
        torch.testing.assert_close(first, y[:, 0], **TOLERANCE)


class TestModel:
    @pytest.mark.parametrize(
        ("name", "count"),
        [
            ("dna_500k", 440_992),
            ("dna_2m", 1_668_384),
            ("prot_26m", 25_918_080),
            ("prot_102m", 102_167_680),
            ("chem_15m", 14_816_400),
        ],
    )
    def test_presets_have_the_published_parameter_counts(self, name, count):
        assert parameters_of(XLSTMLM.from_preset(name, device="meta")) == count

    def test_presets_can_be_changed(self):
        changed = XLSTMLM.from_preset("dna_500k", d_model=32, slstm_at=range(4), vocab_size=12)
        assert changed.options["d_model"] == 32
        assert all(isinstance(block, SLSTMBlock) for block in changed.blocks)
        assert changed.blocks[0].feed_forward.up_proj.out_features == 32  # 35.2 down to 8s
        with pytest.raises(ValueError, match=r"name must be one of .* got 'dna_1b'"):
            XLSTMLM.from_preset("dna_1b")
        assert set(PRESETS) == {"dna_500k", "dna_2m", "prot_26m", "prot_102m", "chem_15m"}

    def test_small_model_of_the_reproduction_has_its_count(self):
        assert parameters_of(XLSTMLM(38, 64, 2)) == 65_232

    def test_it_is_embedding_blocks_norm_and_head(self):
        lm = model(slstm_at=(1,))
        ids = tokens()
        x = lm.embedding(ids)
        for block in lm.blocks:
            x = block(x)
        x = F.layer_norm(x, (WIDTH,), lm.norm.weight)
        output = lm(ids, return_hidden=True)
        torch.testing.assert_close(output.hidden, x, **TOLERANCE)
        torch.testing.assert_close(output.logits, x @ lm.head.weight.T, **TOLERANCE)
        assert output.loss is None
        assert output.state is None
        tied = model(tie_embeddings=True)
        hidden = tied(ids, return_hidden=True).hidden
        expected = hidden @ tied.embedding.weight.T
        torch.testing.assert_close(tied(ids).logits, expected, **TOLERANCE)

    def test_kinds_and_directions_of_the_blocks(self):
        lm = XLSTMLM(12, 16, 4, num_heads=2, slstm_at=(1, 2), direction="alternating")
        assert [type(block) for block in lm.blocks] == [
            MLSTMBlock, SLSTMBlock, SLSTMBlock, MLSTMBlock
        ]  # fmt: skip
        turns = ["reverse", "causal", "reverse", "causal"]
        assert [block.direction for block in lm.blocks] == turns

    def test_what_a_position_sees(self):
        ids = tokens()
        changed = ids.clone()
        changed[:, 6] = (ids[:, 6] + 1) % 12
        for direction, seen in (
            ("causal", range(6, TIME)),
            ("bidirectional", range(TIME)),
            ("alternating", range(TIME)),
        ):
            lm = model(direction=direction, slstm_at=(1,))
            moved = (lm(ids).logits - lm(changed).logits).abs().amax((0, 2)) > 1e-9
            assert moved.nonzero().flatten().tolist() == list(seen), direction

    @pytest.mark.parametrize("options", [{}, {"slstm_at": (0,)}, {"rope": True}], ids=str)
    def test_pieces_and_steps_equal_reading_at_once(self, options):
        lm = model(**options)
        ids = tokens()
        whole = lm(ids).logits
        first = lm(ids[:, :5], return_state=True)
        second = lm(ids[:, 5:], state=first.state)
        torch.testing.assert_close(torch.cat([first.logits, second.logits], 1), whole, **TOLERANCE)
        state = lm.init_state(2)
        for t in range(TIME):
            logits, state = lm.step(ids[:, t], state)
            torch.testing.assert_close(logits, whole[:, t], **TOLERANCE)

    @pytest.mark.parametrize("sharing", [None, "ps"])
    @pytest.mark.parametrize("direction", DIRECTIONS)
    def test_padding_and_packing_change_nothing(self, direction, sharing):
        lm = model(
            direction=direction, slstm_at=(1,), rope=True, rc_equivariance=sharing,
            complement_map=DNA_COMPLEMENT,
        )  # fmt: skip
        ids = tokens()
        mask = torch.ones(2, TIME, dtype=torch.int64)
        mask[0, :5] = 0
        mask[1, 11:] = 0
        padded = lm(ids, attention_mask=mask).logits
        torch.testing.assert_close(padded[0, 5:], lm(ids[:1, 5:]).logits[0], **TOLERANCE)
        torch.testing.assert_close(padded[1, :11], lm(ids[1:, :11]).logits[0], **TOLERANCE)
        packed = lm(ids[:1], cu_seqlens=torch.tensor([0, 4, 14], dtype=torch.int32)).logits
        apart = torch.cat([lm(ids[:1, :4]).logits, lm(ids[:1, 4:]).logits], 1)
        torch.testing.assert_close(packed, apart, **TOLERANCE)

    def test_causal_loss_is_of_the_next_token(self):
        lm = model()
        ids = tokens()
        output = lm(ids, labels=ids)
        expected = F.cross_entropy(
            output.logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten()
        )
        torch.testing.assert_close(output.loss, expected)

    def test_other_losses_are_of_the_selected_tokens(self):
        lm = model(direction="bidirectional")
        ids = tokens()
        labels = torch.full_like(ids, -100)
        labels[0, 3], labels[1, 7], labels[1, 12] = 5, 2, 9
        mask = torch.ones_like(ids)
        mask[1, 10:] = 0
        output = lm(ids, labels=labels, attention_mask=mask)
        nats = output.logits.log_softmax(-1)
        expected = -(nats[0, 3, 5] + nats[1, 7, 2]) / 2
        torch.testing.assert_close(output.loss.double(), expected, rtol=1e-6, atol=1e-6)
        nothing = torch.full_like(ids, -100)
        assert lm(ids, labels=nothing).loss == model()(ids, labels=nothing).loss == 0

    def test_generation_continues_greedily(self):
        lm = model(rope=True)
        ids = tokens(6)
        text = lm.generate(ids, 5, temperature=0.0)
        for t in range(6, 11):
            assert torch.equal(lm(text[:, :t]).logits[:, -1].argmax(-1), text[:, t])
        sampled = [lm.generate(ids, 8, temperature=1.0, top_p=0.9, random_state=1)] * 2
        assert torch.equal(*sampled)
        positions = torch.tensor([[0, 1, 2, 0, 1, 2]] * 2)
        text = lm.generate(ids, 3, temperature=0.0, position_ids=positions)
        counted = torch.cat([positions, torch.tensor([[3, 4]] * 2)], 1)
        expected = lm(text[:, :8], position_ids=counted).logits[:, -1].argmax(-1)
        assert torch.equal(text[:, 8], expected)

    def test_saved_model_is_loaded_as_what_it_was(self, tmp_path):
        lm = model(
            slstm_at=(0,), direction="bidirectional", rc_equivariance="ps", rope=True,
            complement_map=DNA_COMPLEMENT,
        )  # fmt: skip
        lm.save(tmp_path / "model")
        loaded = XLSTMLM.load(tmp_path / "model")
        assert torch.equal(loaded(tokens()).logits, lm(tokens()).logits)
        with pytest.raises(FileNotFoundError, match="no model file"):
            XLSTMLM.load(tmp_path / "nothing")
        config = LanguageModelConfig(vocab_size=4, hidden_size=8, num_layers=1, num_heads=1)
        LanguageModel(config).save(tmp_path / "other")
        with pytest.raises(ValueError, match="does not hold a rankone xLSTM"):
            XLSTMLM.load(tmp_path / "other")

    @pytest.mark.parametrize("direction", DIRECTIONS)
    def test_recomputing_blocks_changes_no_gradient(self, direction):
        gradients = []
        for recompute in (False, True):
            lm = model(
                slstm_at=(1,), direction=direction, activation_checkpointing=recompute
            ).train()  # fmt: skip
            lm(tokens(), labels=tokens()).loss.backward()
            gradients.append([parameter.grad for parameter in lm.parameters()])
        for plain, recomputed in zip(*gradients, strict=True):
            torch.testing.assert_close(plain, recomputed, **TOLERANCE)

    def test_autocast_gives_bfloat16_accuracy(self):
        torch.manual_seed(0)
        lm = XLSTMLM(12, 32, 2, slstm_at=(1,), rope=True, direction="bidirectional")
        whole = lm(tokens(40)).logits
        with torch.autocast("cpu", torch.bfloat16):
            output = lm(tokens(40), labels=tokens(40))
        assert (output.logits - whole).norm() / whole.norm() < 2**-4
        assert output.loss.dtype == torch.float32
        output.loss.backward()
        assert all(torch.isfinite(parameter.grad).all() for parameter in lm.parameters())

    def test_dropout_acts_in_training_alone(self):
        lm = model(dropout=0.5, slstm_at=(1,))
        assert torch.equal(lm(tokens()).logits, lm(tokens()).logits)
        lm.train()
        assert not torch.equal(lm(tokens()).logits, lm(tokens()).logits)

    def test_it_learns_a_repeated_text(self):
        torch.manual_seed(0)
        lm = XLSTMLM(8, 32, 1)
        text = torch.arange(8).repeat(4)[None].expand(4, -1)
        batches = iter(lambda: {"input_ids": text, "labels": text}, None)
        config = TrainingConfig(max_steps=30, learning_rate=2e-2, warmup_steps=5)
        assert train(lm, batches, config, progress=False).losses[-1] < 0.2

    def test_empty_texts(self):
        for direction in DIRECTIONS:
            lm = model(direction=direction, slstm_at=(1,), rope=True)
            assert lm(torch.zeros(2, 0, dtype=torch.int64)).logits.shape == (2, 0, 12)


class TestReverseComplement:
    def build(self, sharing="ps", **options):
        options = {"direction": "bidirectional", **options}
        return model(rc_equivariance=sharing, complement_map=DNA_COMPLEMENT, **options)

    def other_strand(self, ids):
        return torch.tensor(DNA_COMPLEMENT)[ids].flip(1)

    def violation(self, lm, ids):
        turned = lm(ids).logits.flip(1)[..., list(DNA_COMPLEMENT)]
        return (lm(self.other_strand(ids)).logits - turned).abs().max()

    @pytest.mark.parametrize("slstm_at", [(), (1,), (0, 1)], ids=["mlstm", "mixed", "slstm"])
    @pytest.mark.parametrize("direction", DIRECTIONS)
    @pytest.mark.parametrize("rope", [False, True])
    def test_parameter_sharing_is_equivariant(self, slstm_at, direction, rope):
        lm = self.build(slstm_at=slstm_at, direction=direction, rope=rope)
        assert self.violation(lm, tokens(60)) <= 1e-10

    def test_a_plain_model_is_not(self):
        for slstm_at in ((), (0, 1)):
            assert self.violation(self.build(None, slstm_at=slstm_at), tokens(60)) > 1e-2

    def test_sharing_adds_no_parameters(self):
        assert parameters_of(self.build()) == parameters_of(self.build(None))

    def test_channels_are_the_two_strands_by_definition(self):
        """Embedding [E(x), flip E(RC x)], every f as [f(a), flip f(flip b)], and the two heads."""
        lm = self.build(slstm_at=(1,))
        ids = tokens()
        a = lm.embedding(ids)
        b = lm.embedding(self.other_strand(ids)).flip(1, 2)
        for block in lm.blocks:
            a, b = block(a), block(b.flip(1, 2)).flip(1, 2)
        a, b = lm.norm(a), lm.norm(b.flip(1, 2)).flip(1, 2)
        output = lm(ids, return_hidden=True)
        torch.testing.assert_close(output.hidden, torch.cat([a, b], -1), **TOLERANCE)
        weight = lm.head.weight
        logits = a @ weight.T + b.flip(2) @ weight[list(DNA_COMPLEMENT)].T
        torch.testing.assert_close(output.logits, logits, **TOLERANCE)

    def test_equivariance_holds_with_padding(self):
        lm = self.build(rope=True)
        ids = tokens(20)
        mask = torch.ones_like(ids)
        mask[:, 13:] = 0
        other = ids.clone()
        other[:, :13] = self.other_strand(ids[:, :13])
        turned = lm(ids, attention_mask=mask).logits[:, :13].flip(1)[..., list(DNA_COMPLEMENT)]
        error = (lm(other, attention_mask=mask).logits[:, :13] - turned).abs().max()
        assert error <= 1e-10

    def test_it_trains_on_masked_bases(self):
        lm = self.build().float().train()
        ids = tokens()
        lm(ids, labels=ids).loss.backward()
        assert all(parameter.grad.abs().sum() > 0 for parameter in lm.parameters())

    def test_what_would_leak_the_next_base_is_refused(self):
        lm = self.build(direction="causal")
        ids = tokens()
        assert self.violation(lm, ids) <= 1e-10
        with pytest.raises(ValueError, match="labels must be None where direction='causal' meets"):
            lm(ids, labels=ids)
        for call in (
            lambda: lm.generate(ids, 1),
            lambda: lm.step(ids[:, 0]),
            lambda: lm(ids, return_state=True),
            lambda: lm.init_state(2),
        ):
            with pytest.raises(ValueError, match="needs rc_equivariance=None, got 'ps'"):
                call()


class TestErrors:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"direction": "both"}, "direction must be one of .* got 'both'"),
            ({"rc_equivariance": "ph"}, r"rc_equivariance must be one of .* got 'ph'"),
            ({"rc_equivariance": "ps"}, "complement_map must be given with rc_equivariance"),
            ({"complement_map": range(11)}, "complement_map must have vocab_size = 12 entries"),
            (
                {"complement_map": [1, 2, 0, *range(3, 12)]},
                "complement_map must be its own inverse, got 1 for 0",
            ),
            ({"complement_map": [-1, *range(1, 12)]}, "complement_map must be its own inverse"),
            ({"slstm_at": (2,)}, r"slstm_at must name layers of 0\.\.1, got \(2,\)"),
            ({"double_residual": True}, "double_residual needs direction='bidirectional'"),
            ({"vocab_size": 0}, "vocab_size must be at least 1, got 0"),
            ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
            ({"num_heads": 64, "rope": True}, "head dim must be even with rope, got 1"),
        ],
    )
    def test_options_that_do_not_fit_are_named(self, options, message):
        with pytest.raises(ValueError, match=message):
            model(**options)

    def test_layers_that_are_no_sequence(self):
        with pytest.raises(TypeError, match="slstm_at must be a sequence of layers, got 1"):
            model(slstm_at=1)

    def test_a_reading_both_ways_has_no_state(self):
        lm = model(direction="bidirectional")
        ids = tokens()
        for call in (
            lambda: lm(ids, return_state=True),
            lambda: lm(ids, state=(None, None)),
            lambda: lm.generate(ids, 1),
            lambda: lm.step(ids[:, 0]),
            lambda: lm.init_state(1),
        ):
            with pytest.raises(ValueError, match="needs direction='causal', got 'bidirectional'"):
                call()

    def test_inputs_that_do_not_fit_are_named(self):
        lm = model()
        ids = tokens()
        with pytest.raises(ValueError, match=r"input_ids must have shape \(batch, time\)"):
            lm(ids[0])
        with pytest.raises(TypeError, match="input_ids must be an int32 or int64 tensor"):
            lm(ids.float())
        with pytest.raises(ValueError, match=r"labels must have shape \(2, 14\)"):
            lm(ids, labels=ids[:, 1:])
        both = model(direction="bidirectional")
        with pytest.raises(ValueError, match=r"labels must have shape \(2, 14\)"):
            both(ids, labels=ids[:, 1:])
        with pytest.raises(TypeError, match="labels must be an int32 or int64 tensor"):
            both(ids, labels=ids.float())
        with pytest.raises(ValueError, match=r"attention_mask must have shape \(2, 14\)"):
            lm(ids, attention_mask=torch.ones(2, 3))
        with pytest.raises(ValueError, match="attention_mask must be None when cu_seqlens"):
            lm(ids[:1], attention_mask=torch.ones(1, TIME).long(), cu_seqlens=torch.tensor([0, 14]))
        for packed in (lm, both, MLSTMBlock(WIDTH, HEADS, direction="reverse")):
            x = inputs()[:1].float() if isinstance(packed, MLSTMBlock) else ids[:1]
            with pytest.raises(
                ValueError, match="cu_seqlens must end at the time length 14, got 9"
            ):
                packed(x, cu_seqlens=torch.tensor([0, 9]))
        with pytest.raises(ValueError, match="position_ids must be None where rope=False"):
            lm(ids, position_ids=ids)
        with pytest.raises(ValueError, match=r"position_ids must have shape \(2, 14\)"):
            model(rope=True)(ids, position_ids=ids[:, 1:])
        with pytest.raises(ValueError, match=r"state must have one entry a block \(2\), got 1"):
            lm(ids, state=(None,))
