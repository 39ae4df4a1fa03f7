"""Pattention against its definition written out, and growth that keeps the function."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from rankone.nn.functional import PATTENTION_NORMS, pattention
from rankone.nn.pattention import Pattention

# Sums of a few dozen float64 products in another order.
TOLERANCE = {"rtol": 1e-12, "atol": 1e-12}
TOKENS, IN, OUT = 11, 6, 5


def gelu(value):
    return 0.5 * value * (1 + math.erf(value / math.sqrt(2)))


def by_definition(x, keys, values, scale, norm, eps=1e-6):
    """One number at a time, for (time, in)."""
    rows = []
    for row in x.tolist():
        products = [sum(a * b for a, b in zip(row, key, strict=True)) for key in keys.tolist()]
        if norm == "l2_gelu":
            root = math.sqrt(sum(a * a for a in products) + eps)
            scores = [gelu(scale * a / root) for a in products]
        elif norm == "gelu_l2":
            active = [gelu(a) for a in products]
            root = math.sqrt(sum(a * a for a in active) + eps)
            scores = [scale * a / root for a in active]
        else:
            total = sum(math.exp(a) for a in products)
            scores = [len(products) * math.exp(a) / total for a in products]
        rows.append(
            [
                sum(s * v for s, v in zip(scores, column, strict=True))
                for column in values.T.tolist()
            ]
        )
    return torch.tensor(rows, dtype=torch.float64)


def tensors(*shape, requires_grad=False):
    return (
        torch.randn(*shape, IN, dtype=torch.float64, requires_grad=requires_grad),
        torch.randn(TOKENS, IN, dtype=torch.float64, requires_grad=requires_grad),
        torch.randn(TOKENS, OUT, dtype=torch.float64, requires_grad=requires_grad),
    )


class TestFunction:
    @pytest.mark.parametrize("norm", PATTENTION_NORMS)
    def test_is_its_definition(self, norm):
        x, keys, values = tensors(7)
        for scale, eps in ((math.sqrt(TOKENS), 1e-6), (0.7, 0.5)):
            torch.testing.assert_close(
                pattention(x, keys, values, scale=scale, norm=norm, eps=eps),
                by_definition(x, keys, values, scale, norm, eps),
                **TOLERANCE,
            )

    def test_softmax_is_n_times_scaled_dot_product_attention(self):
        x, keys, values = tensors(7)
        attended = F.scaled_dot_product_attention(x[None], keys[None], values[None], scale=1.0)
        torch.testing.assert_close(
            pattention(x, keys, values, scale=1.0, norm="softmax"),
            TOKENS * attended[0],
            **TOLERANCE,
        )

    def test_softmax_of_large_products_does_not_overflow(self):
        x, keys, values = tensors(7)
        y = pattention(1e4 * x, keys, values, scale=1.0, norm="softmax")
        largest = (x @ keys.T).argmax(-1)
        torch.testing.assert_close(y, TOKENS * values[largest], rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("factor", [1e-3, 7.0, 1e6])
    def test_l2_gelu_does_not_see_the_length_of_its_input(self, factor):
        x, keys, values = tensors(7)
        torch.testing.assert_close(
            pattention(factor * x, keys, values, scale=2.0, eps=0.0),
            pattention(x, keys, values, scale=2.0, eps=0.0),
            **TOLERANCE,
        )

    @pytest.mark.parametrize("norm", PATTENTION_NORMS)
    def test_order_of_the_tokens_does_not_matter(self, norm):
        x, keys, values = tensors(7)
        order = torch.randperm(TOKENS)
        torch.testing.assert_close(
            pattention(x, keys[order], values[order], scale=2.0, norm=norm),
            pattention(x, keys, values, scale=2.0, norm=norm),
            **TOLERANCE,
        )

    def test_one_token_is_gelu_of_plus_or_minus_the_scale(self):
        values = torch.randn(1, OUT, dtype=torch.float64)
        x = torch.tensor([[2.0], [-3.0]], dtype=torch.float64)
        y = pattention(x, torch.ones_like(x[:1]), values, scale=1.0)
        # With eps = 1e-6 the row norm is off by 1e-7 of itself.
        expected = torch.tensor([[0.841345], [-0.158655]], dtype=torch.float64) * values
        torch.testing.assert_close(y, expected, rtol=3e-6, atol=0)
        for scale in (0.5, 3.0):
            y = pattention(x[:1], torch.ones_like(x[:1]), values, scale=scale, eps=0.0)
            torch.testing.assert_close(y, gelu(scale) * values, **TOLERANCE)

    def test_it_is_no_two_layer_perceptron(self):
        """The row norm couples the tokens: one key changes the scores of all others."""
        x, keys, values = tensors(7)
        changed = torch.cat([3 * keys[:1], keys[1:]])
        values = torch.cat([torch.zeros_like(values[:1]), values[1:]])
        y, y_changed = (pattention(x, each, values, scale=2.0) for each in (keys, changed))
        perceptron, perceptron_changed = (F.gelu(x @ each.T) @ values for each in (keys, changed))
        assert (y - y_changed).abs().max() > 0.1
        torch.testing.assert_close(perceptron, perceptron_changed, **TOLERANCE)

    @pytest.mark.parametrize("norm", PATTENTION_NORMS)
    @pytest.mark.parametrize("scale", [math.sqrt(TOKENS), -0.4])
    def test_derivatives_of_first_and_second_order(self, norm, scale):
        inputs = tensors(3, requires_grad=True)

        def call(*inputs):
            return pattention(*inputs, scale=scale, norm=norm)

        assert torch.autograd.gradcheck(call, inputs)
        assert torch.autograd.gradgradcheck(call, inputs)

    @pytest.mark.parametrize("wanted", range(3))
    def test_gradient_of_one_input_alone(self, wanted):
        inputs = tensors(4, requires_grad=True)
        every = torch.autograd.grad(pattention(*inputs, scale=2.0).square().sum(), inputs)
        alone = [tensor.detach() for tensor in inputs]
        alone[wanted].requires_grad_()
        pattention(*alone, scale=2.0).square().sum().backward()
        torch.testing.assert_close(alone[wanted].grad, every[wanted], **TOLERANCE)

    @pytest.mark.parametrize("norm", PATTENTION_NORMS)
    def test_zero_rows_give_finite_values_and_gradients(self, norm):
        x, keys, values = tensors(4, requires_grad=True)
        y = pattention(0 * x, keys, values, scale=2.0, norm=norm)
        y.sum().backward()
        expected = 0 * y if norm != "softmax" else values.sum(0).expand_as(y)
        torch.testing.assert_close(y, expected, **TOLERANCE)
        assert all(torch.isfinite(tensor.grad).all() for tensor in (x, keys, values))

    @pytest.mark.parametrize("norm", PATTENTION_NORMS)
    def test_one_matrix_of_all_rows_by_all_tokens_is_kept(self, norm):
        time, tokens = 100, 300
        kept = []
        x, keys, values = (torch.randn(n, 8, requires_grad=True) for n in (time, tokens, tokens))
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: kept.append(tensor.shape) or tensor, lambda tensor: tensor
        ):
            pattention(x, keys, values, scale=2.0, norm=norm)
        assert kept.count((time, tokens)) == 1
        assert sum(shape.numel() for shape in kept) == time * tokens + time + 8 * (
            time + 2 * tokens
        )

    @pytest.mark.parametrize("shape", [(), (4,), (2, 3), (2, 1, 3), (2, 0), (0,)])
    def test_leading_axes_are_any(self, shape):
        x, keys, values = tensors(*shape, requires_grad=True)
        y = pattention(x, keys, values, scale=2.0)
        assert y.shape == (*shape, OUT)
        rows = pattention(x.reshape(-1, IN), keys, values, scale=2.0)
        torch.testing.assert_close(y.reshape(-1, OUT), rows, **TOLERANCE)
        y.sum().backward()
        assert x.grad.shape == x.shape

    @pytest.mark.parametrize("norm", PATTENTION_NORMS)
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
    def test_lower_precision(self, norm, dtype):
        x, keys, values = (tensor.to(dtype) for tensor in tensors(40))
        wide = [tensor.double().requires_grad_() for tensor in (x, keys, values)]
        narrow = [tensor.clone().requires_grad_() for tensor in (x, keys, values)]
        y = pattention(*narrow, scale=3.0, norm=norm)
        exact = pattention(*wide, scale=3.0, norm=norm)
        y.sum().backward()
        exact.sum().backward()
        assert y.dtype == dtype
        # A, S and y are rounded once each, and so are dS, dA and the result on the way back.
        bound = 8 * torch.finfo(dtype).eps
        pairs = [(ours.grad, theirs.grad) for ours, theirs in zip(narrow, wide, strict=True)]
        for ours, theirs in [(y, exact), *pairs]:
            assert ours.dtype == dtype
            assert (ours.double() - theirs).norm() / theirs.norm() < bound

    def test_row_norms_of_half_precision_do_not_overflow(self):
        x = torch.full((1, 1), 300.0, dtype=torch.float16)
        keys, values = torch.ones_like(x).expand(4, 1), torch.ones_like(x).expand(4, 1)
        y = pattention(x, keys, values, scale=2.0)
        assert float(y) == pytest.approx(4 * gelu(1.0), rel=2**-10)

    def test_autocast_casts_inputs_and_gives_full_gradients(self):
        x, keys, values = (tensor.float().requires_grad_() for tensor in tensors(40))
        with torch.autocast("cpu", torch.bfloat16):
            y = pattention(x, keys, values, scale=3.0)
            mixed = pattention(x.bfloat16(), keys, values, scale=3.0)
        assert y.dtype == mixed.dtype == torch.bfloat16
        y.sum().backward()
        assert x.grad.dtype == keys.grad.dtype == torch.float32
        double = [tensor.detach().double() for tensor in (x, keys, values)]
        exact = pattention(*double, scale=3.0)
        assert (y.double() - exact).norm() / exact.norm() < 8 * 2**-8
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(pattention(*double, scale=3.0), exact)

    @pytest.mark.parametrize("norm", PATTENTION_NORMS)
    def test_compiled_equals_eager(self, norm):
        torch._dynamo.reset()
        inputs = tensors(2, 3, requires_grad=True)

        def call(*inputs):
            return pattention(*inputs, scale=2.0, norm=norm)

        compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
        y, expected = compiled(*inputs), call(*inputs)
        torch.testing.assert_close(y, expected, **TOLERANCE)
        ours = torch.autograd.grad(y.square().sum(), inputs)
        theirs = torch.autograd.grad(expected.square().sum(), inputs)
        torch.testing.assert_close(ours, theirs, **TOLERANCE)

    @pytest.mark.parametrize("norm", PATTENTION_NORMS)
    def test_gradients_of_each_sample(self, norm):
        x, keys, values = tensors(4)

        def loss(keys, row):
            return pattention(row[None], keys, values, scale=2.0, norm=norm).square().sum()

        each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(keys, x)
        leaf = keys.clone().requires_grad_()
        for row, gradient in zip(x, each, strict=True):
            (expected,) = torch.autograd.grad(loss(leaf, row), leaf)
            torch.testing.assert_close(gradient, expected, **TOLERANCE)


class TestDropout:
    def test_zeroes_scores_and_keeps_their_mean(self):
        tokens, dropout = 20_000, 0.25
        x = torch.ones(1, 1, dtype=torch.float64)
        keys, values = torch.ones(2, tokens, 1, dtype=torch.float64).unbind()
        plain = pattention(x, keys, values, scale=math.sqrt(tokens))
        dropped = pattention(x, keys, values, scale=math.sqrt(tokens), dropout=dropout)
        # The share kept is a mean of 20 000 draws: five of its standard deviations.
        deviation = math.sqrt(dropout / (1 - dropout) / tokens)
        assert abs(float(dropped / plain) - 1) < 5 * deviation
        kept = pattention(x, keys[:50], torch.eye(50, dtype=torch.float64), scale=7.0, dropout=0.5)
        assert 0 < (kept == 0).sum() < 50

    @pytest.mark.parametrize("norm", PATTENTION_NORMS)
    def test_derivatives_with_the_same_draw(self, norm):
        def call(*inputs):
            torch.manual_seed(3)
            return pattention(*inputs, scale=2.0, norm=norm, dropout=0.4)

        assert torch.autograd.gradcheck(call, tensors(2, requires_grad=True))

    def test_acts_in_training_mode_only(self):
        layer = Pattention(IN, OUT, 40, dropout=0.5)
        x = torch.randn(3, IN)
        assert not torch.equal(layer(x), layer(x))
        layer.eval()
        assert torch.equal(layer(x), layer(x))


def grown_twins(norm="l2_gelu", **options):
    layer = Pattention(IN, OUT, TOKENS, norm=norm, value_init_std=0.5, dtype=torch.float64)
    twin = copy.deepcopy(layer)
    twin.grow(7, **options)
    return layer, twin


class TestGrowth:
    @pytest.mark.parametrize("norm", ["l2_gelu", "gelu_l2"])
    def test_any_number_of_growths_keeps_the_function(self, norm):
        layer = Pattention(IN, OUT, TOKENS, norm=norm, value_init_std=0.5, dtype=torch.float64)
        x = torch.randn(50, IN, dtype=torch.float64)
        before = layer(x)
        for growth, number in enumerate((1, 4, 30, 64), start=1):
            layer.grow(number)
            assert layer.value_param_tokens[-number:].abs().min() > 0, growth
            torch.testing.assert_close(layer(x), before, **TOLERANCE)
        assert layer.num_tokens == TOKENS + 99

    @pytest.mark.parametrize("norm", ["l2_gelu", "gelu_l2"])
    def test_first_gradients_after_growth(self, norm):
        layer, twin = grown_twins(norm)
        x = torch.randn(50, IN, dtype=torch.float64)
        for each in (layer, twin):
            each(x).square().sum().backward()
        for name in ("key_param_tokens", "value_param_tokens"):
            old, grown = getattr(layer, name).grad, getattr(twin, name).grad
            torch.testing.assert_close(grown[:TOKENS], old, **TOLERANCE)
        assert twin.value_param_tokens.grad[TOKENS:].abs().max() == 0
        assert twin.key_param_tokens.grad[TOKENS:].abs().min() > 0

    def test_first_gradient_of_new_keys_is_the_paper_s(self):
        """S'(0) tau / |A| (dY V_new^T)^T X, with GeLU'(0) = 1/2."""
        _, layer = grown_twins()
        x = torch.randn(50, IN, dtype=torch.float64)
        upstream = torch.randn(50, OUT, dtype=torch.float64)
        (layer(x) * upstream).sum().backward()
        products = x @ layer.key_param_tokens.T
        factor = 0.5 * layer.scale / (products.square().sum(-1, keepdim=True) + 1e-6).sqrt()
        expected = (factor * upstream @ layer.value_param_tokens[TOKENS:].T).T @ x
        torch.testing.assert_close(layer.key_param_tokens.grad[TOKENS:], expected, **TOLERANCE)

    def test_zero_keys_and_zero_values_never_learn(self):
        _, layer = grown_twins(value_init="zeros")
        optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
        x = torch.randn(50, IN, dtype=torch.float64)
        for _ in range(5):
            optimizer.zero_grad()
            layer(x).square().sum().backward()
            optimizer.step()
        assert layer.key_param_tokens[TOKENS:].abs().max() == 0
        assert layer.value_param_tokens[TOKENS:].abs().max() == 0

    @pytest.mark.parametrize("options", [{"rescale": True}, {"key_init": "normal"}])
    def test_the_paper_s_code_changes_the_function(self, options):
        layer, twin = grown_twins(**options)
        x = torch.randn(50, IN, dtype=torch.float64)
        difference = (layer(x) - twin(x)).norm() / layer(x).norm()
        assert difference > 0.05

    def test_rescale_is_the_root_of_all_tokens(self):
        layer, twin = grown_twins(rescale=True)
        assert layer.scale == math.sqrt(TOKENS)
        assert twin.scale == math.sqrt(TOKENS + 7)
        assert grown_twins()[1].scale == math.sqrt(TOKENS)

    def test_softmax_grows_on_demand_only(self):
        layer = Pattention(IN, OUT, TOKENS, norm="softmax", dtype=torch.float64)
        x = torch.randn(50, IN, dtype=torch.float64)
        before = layer(x)
        with pytest.raises(ValueError, match="allow_function_change=True"):
            layer.grow(4)
        assert layer.num_tokens == TOKENS
        layer.grow(4, allow_function_change=True)
        assert layer.num_tokens == TOKENS + 4
        assert (layer(x) - before).abs().max() > 1e-3

    def test_new_tokens_are_drawn_like_the_old_ones(self):
        layer = Pattention(40, 50, 10, key_init_std=0.3, value_init_std=0.7)
        generator = torch.Generator().manual_seed(5)
        twin = copy.deepcopy(layer)
        layer.grow(200, key_init="normal", generator=generator)
        # Standard deviations of 8000 and 10 000 draws: five of their own.
        assert float(layer.key_param_tokens[10:].detach().std()) == pytest.approx(0.3, rel=0.04)
        assert float(layer.value_param_tokens[10:].detach().std()) == pytest.approx(0.7, rel=0.04)
        twin.grow(200, key_init="normal", generator=generator.manual_seed(5))
        assert torch.equal(layer.value_param_tokens, twin.value_param_tokens)
        assert torch.equal(layer.key_param_tokens, twin.key_param_tokens)

    def test_result_maps_old_parameters_to_new(self):
        layer = Pattention(IN, OUT, TOKENS)
        layer.value_param_tokens.requires_grad_(False)
        layer.key_param_tokens._no_weight_decay = True
        old = [layer.key_param_tokens, layer.value_param_tokens]
        replaced = layer.grow(3)
        assert [id(each) for each in replaced] == [id(each) for each in old]
        assert replaced[old[0]] is layer.key_param_tokens
        assert replaced[old[1]] is layer.value_param_tokens
        assert layer.key_param_tokens.requires_grad
        assert not layer.value_param_tokens.requires_grad
        assert layer.key_param_tokens._no_weight_decay
        assert torch.equal(layer.key_param_tokens[:TOKENS], old[0])

    def test_gradients_under_way_are_kept(self):
        layer = Pattention(IN, OUT, TOKENS)
        layer(torch.randn(4, IN)).sum().backward()
        before = layer.key_param_tokens.grad
        layer.grow(3)
        assert torch.equal(layer.key_param_tokens.grad[:TOKENS], before)
        assert layer.key_param_tokens.grad[TOKENS:].abs().max() == 0


OPTIMIZERS = {
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=1e-2, amsgrad=True),
    "adam foreach": lambda parameters: torch.optim.Adam(parameters, lr=1e-2, foreach=True),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=1e-2, momentum=0.9),
    "rmsprop": lambda parameters: torch.optim.RMSprop(parameters, lr=1e-2, momentum=0.5),
    "adagrad": lambda parameters: torch.optim.Adagrad(parameters, lr=1e-2),
}


def give_gradients(layer, seed):
    """The same gradients for the old rows of every twin; new rows get others."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in layer.parameters():
        old = torch.randn(TOKENS, parameter.shape[1], generator=generator)
        new = torch.randn(parameter.shape[0] - TOKENS, parameter.shape[1])
        parameter.grad = torch.cat([old, new])


class TestGrowthWithOptimizer:
    @pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
    def test_old_rows_go_on_bit_for_bit(self, make):
        layer, other = Pattention(IN, OUT, TOKENS), torch.nn.Linear(2, 2)
        twin = copy.deepcopy(layer)
        ours = make([*other.parameters(), *layer.parameters()])
        theirs = make([*other.parameters(), *twin.parameters()])
        for step in range(6):
            if step == 3:
                before = {
                    name: copy.deepcopy(ours.state[parameter])
                    for name, parameter in layer.named_parameters()
                }
                layer.grow(5, optimizer=ours)
                for name, parameter in layer.named_parameters():
                    for entry, value in before[name].items():
                        grown = ours.state[parameter][entry]
                        if isinstance(value, torch.Tensor) and value.ndim == 2:
                            assert torch.equal(grown[:TOKENS], value)
                            assert grown[TOKENS:].abs().max() == 0
                        else:
                            assert grown == value
            for each, optimizer in ((layer, ours), (twin, theirs)):
                give_gradients(each, step)
                optimizer.step()
        for mine, plain in zip(layer.parameters(), twin.parameters(), strict=True):
            assert mine.shape[0] == TOKENS + 5
            assert torch.equal(mine[:TOKENS], plain)
            for entry, value in theirs.state[plain].items():
                kept = ours.state[mine][entry]
                if isinstance(value, torch.Tensor) and value.ndim == 2:
                    assert torch.equal(kept[:TOKENS], value)
                    assert kept[TOKENS:].abs().max() > 0
                else:
                    assert kept == value

    def test_groups_hold_the_new_parameters_in_their_places(self):
        layer = Pattention(IN, OUT, TOKENS)
        optimizer = torch.optim.AdamW(
            [
                {"params": [layer.value_param_tokens], "weight_decay": 0.0},
                {"params": [layer.key_param_tokens], "lr": 0.5},
            ]
        )
        old = list(layer.parameters())
        layer.grow(2, optimizer=optimizer)
        assert optimizer.param_groups[0]["params"][0] is layer.value_param_tokens
        assert optimizer.param_groups[1]["params"][0] is layer.key_param_tokens
        assert optimizer.param_groups[1]["lr"] == 0.5
        assert not any(parameter in optimizer.state for parameter in old)

    def test_moments_with_one_number_a_token_grow_too(self):
        layer = Pattention(IN, OUT, TOKENS)
        optimizer = torch.optim.Adafactor(layer.parameters())
        for seed in range(2):
            give_gradients(layer, seed)
            optimizer.step()
        before = copy.deepcopy(optimizer.state[layer.key_param_tokens])
        layer.grow(4, optimizer=optimizer)
        state = optimizer.state[layer.key_param_tokens]
        assert torch.equal(state["row_var"][:TOKENS], before["row_var"])
        assert torch.equal(state["col_var"], before["col_var"])
        give_gradients(layer, 2)
        optimizer.step()
        assert all(torch.isfinite(parameter).all() for parameter in layer.parameters())

    def test_state_survives_a_checkpoint(self):
        layer = Pattention(IN, OUT, TOKENS)
        optimizer = torch.optim.AdamW(layer.parameters())
        give_gradients(layer, 0)
        optimizer.step()
        layer.grow(4, optimizer=optimizer)
        fresh = Pattention(IN, OUT, TOKENS + 4)
        fresh.load_state_dict(layer.state_dict())
        again = torch.optim.AdamW(fresh.parameters())
        again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        for each, each_optimizer in ((layer, optimizer), (fresh, again)):
            torch.manual_seed(1)
            give_gradients(each, 1)
            each_optimizer.step()
        for mine, theirs in zip(layer.parameters(), fresh.parameters(), strict=True):
            assert torch.equal(mine, theirs)

    def test_an_optimizer_of_other_parameters_is_refused_and_nothing_changes(self):
        layer = Pattention(IN, OUT, TOKENS)
        optimizer = torch.optim.SGD([layer.key_param_tokens], lr=0.1)
        with pytest.raises(ValueError, match=r"got one without value_param_tokens"):
            layer.grow(2, optimizer=optimizer)
        assert layer.num_tokens == TOKENS
        assert optimizer.param_groups[0]["params"][0] is layer.key_param_tokens
        layer.value_param_tokens.requires_grad_(False)
        layer.grow(2, optimizer=optimizer)
        assert optimizer.param_groups[0]["params"][0] is layer.key_param_tokens
        with pytest.raises(TypeError, match=r"optimizer must be a torch\.optim\.Optimizer"):
            layer.grow(2, optimizer=[])


class TestState:
    def test_names_are_the_reference_s_and_the_scale_is_among_them(self):
        layer = Pattention(IN, OUT, TOKENS)
        state = layer.state_dict()
        assert set(state) == {"key_param_tokens", "value_param_tokens", "_extra_state"}
        assert state["_extra_state"].dtype == torch.float64
        assert state["_extra_state"].shape == ()

    def test_a_grown_layer_is_reloaded_with_its_scale(self, tmp_path):
        layer, twin = grown_twins()
        x = torch.randn(50, IN, dtype=torch.float64)
        torch.save(twin.state_dict(), tmp_path / "state.pt")
        fresh = Pattention(IN, OUT, TOKENS + 7, dtype=torch.float64)
        assert fresh.scale != layer.scale
        fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        assert fresh.scale == layer.scale
        assert torch.equal(fresh(x), twin(x))

    def test_casts_do_not_round_the_scale(self):
        layer = Pattention(IN, OUT, TOKENS).to(torch.bfloat16)
        assert layer.scale == math.sqrt(TOKENS)
        assert float(layer.state_dict()["_extra_state"]) == math.sqrt(TOKENS)
        assert isinstance(layer.scale, float)

    def test_initial_weights(self):
        layer = Pattention(60, 70, 200)
        assert layer.scale == math.sqrt(200)
        for parameter in layer.parameters():
            assert float(parameter.detach().std()) == pytest.approx(0.02, rel=0.04)
            assert abs(float(parameter.detach().mean())) < 5 * 0.02 / math.sqrt(parameter.numel())
        layer = Pattention(60, 70, 200, scale=3, key_init_std=0.1, value_init_std=0.4)
        assert layer.scale == 3.0
        assert float(layer.key_param_tokens.detach().std()) == pytest.approx(0.1, rel=0.04)
        assert float(layer.value_param_tokens.detach().std()) == pytest.approx(0.4, rel=0.04)


class TestErrors:
    @pytest.mark.parametrize("name", ["in_features", "out_features", "num_tokens"])
    def test_sizes_below_one(self, name):
        sizes = {"in_features": 2, "out_features": 2, "num_tokens": 2, name: 0}
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            Pattention(**sizes)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"norm": "l1"}, r"norm must be one of .* got 'l1'"),
            ({"scale": math.inf}, "scale must be finite, got inf"),
            ({"eps": -1.0}, "eps must be at least 0 and finite, got -1.0"),
            ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ],
    )
    def test_options_of_layer_and_function(self, options, message):
        with pytest.raises(ValueError, match=message):
            Pattention(2, 2, 2, **options)
        x = torch.zeros(2, 2)
        with pytest.raises(ValueError, match=message):
            pattention(x, x, x, **{"scale": 1.0, **options})

    def test_negative_deviations(self):
        with pytest.raises(ValueError, match="value_init_std must be at least 0 and finite"):
            Pattention(2, 2, 2, value_init_std=-1.0)

    def test_input_of_another_width_names_both(self):
        layer = Pattention(IN, OUT, TOKENS)
        with pytest.raises(ValueError, match=r"in_features = 6 .* got 7 \(shape \(3, 7\)\)"):
            layer(torch.zeros(3, 7))
        with pytest.raises(ValueError, match="got a scalar"):
            layer(torch.zeros(()))
        with pytest.raises(TypeError, match=r"x must be a torch\.Tensor, got list"):
            layer([[0.0] * IN])
        with pytest.raises(TypeError, match=r"x must be float32, .* got torch\.int64"):
            layer(torch.zeros(3, IN, dtype=torch.int64))
        with pytest.raises(TypeError, match=r"must have the dtype of x, torch\.float64"):
            layer(torch.zeros(3, IN, dtype=torch.float64))

    @pytest.mark.parametrize(
        ("shapes", "message"),
        [
            (((3, 4), (5, 6), (5, 2)), r"x must have 6 channels on its last axis.*\(3, 4\)"),
            (((3, 4), (5, 4), (6, 2)), r"values must have as many tokens as keys, 5, got 6"),
            (((3, 4), (4,), (5, 2)), r"keys must be 2-D \(tokens, in\)"),
            (((3, 4), (0, 4), (0, 2)), "keys must hold at least 1 token"),
        ],
    )
    def test_shapes_of_the_function(self, shapes, message):
        with pytest.raises(ValueError, match=message):
            pattention(*(torch.zeros(shape) for shape in shapes), scale=1.0)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"num_new": 0}, "num_new must be at least 1, got 0"),
            ({"num_new": 1, "key_init": "ones"}, r"key_init must be one of .* got 'ones'"),
            ({"num_new": 1, "value_init": "ones"}, r"value_init must be one of .* got 'ones'"),
        ],
    )
    def test_growth(self, options, message):
        layer = Pattention(IN, OUT, TOKENS)
        with pytest.raises(ValueError, match=message):
            layer.grow(**options)
        assert layer.num_tokens == TOKENS


@pytest.mark.cuda
class TestOnADevice:
    def test_function_and_gradients_are_those_of_the_cpu(self):
        on_cpu = tensors(40, requires_grad=True)
        on_device = [tensor.detach().cuda().requires_grad_() for tensor in on_cpu]
        for norm in PATTENTION_NORMS:
            ours = pattention(*on_device, scale=3.0, norm=norm)
            theirs = pattention(*on_cpu, scale=3.0, norm=norm)
            torch.testing.assert_close(ours.cpu(), theirs, **TOLERANCE)
            gradients = torch.autograd.grad(ours.square().sum(), on_device)
            expected = torch.autograd.grad(theirs.square().sum(), on_cpu)
            torch.testing.assert_close([each.cpu() for each in gradients], list(expected))

    @pytest.mark.parametrize("device", ["cpu", "cuda"])
    def test_growth_with_a_fused_optimizer_and_either_generator(self, device):
        layer = Pattention(IN, OUT, TOKENS, device="cuda")
        optimizer = torch.optim.AdamW(layer.parameters(), fused=True)
        x = torch.randn(50, IN, device="cuda")
        for step in range(4):
            if step == 2:
                before = layer(x)
                layer.grow(5, optimizer=optimizer, generator=torch.Generator(device))
                torch.testing.assert_close(layer(x), before)
            optimizer.zero_grad()
            layer(x).square().sum().backward()
            optimizer.step()
        assert layer.key_param_tokens[TOKENS:].abs().min() > 0
