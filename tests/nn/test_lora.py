"""LoRA: what a fresh, a trained and a merged adapter compute, and which parameters train."""

import pytest
import torch
from rankone.nn import LanguageModel, LanguageModelConfig, LoRALinear, SoftmaxAttention
from rankone.nn.convert import LoRAConfig, add_lora, lora_parameters, merge_lora
from torch import nn


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = LanguageModelConfig(
        vocab_size=30, hidden_size=16, num_layers=2, num_heads=2, mixer="softmax_attention"
    )
    return LanguageModel(config).eval()


def trained(model):
    """Give every adapter an update that is not zero."""
    with torch.no_grad():
        for parameter in lora_parameters(model):
            parameter.normal_(std=0.3)
    return model


class TestLinear:
    def test_a_fresh_adapter_changes_nothing(self):
        linear, x = nn.Linear(12, 7), torch.randn(5, 12)
        expected = linear(x)
        layer = LoRALinear(linear, rank=3)
        assert layer.base is linear
        assert layer.A.shape == (3, 12)
        assert layer.B.shape == (7, 3)
        assert (layer.B == 0).all()
        assert torch.equal(layer(x), expected)

    @pytest.mark.parametrize("bias", [True, False])
    def test_output_is_that_of_the_updated_weight(self, bias):
        layer = trained(LoRALinear(nn.Linear(12, 7, bias).double(), rank=3, alpha=12.0))
        x = torch.randn(5, 12, dtype=torch.float64)
        weight = layer.base.weight + 4.0 * layer.B @ layer.A
        torch.testing.assert_close(layer(x), nn.functional.linear(x, weight, layer.base.bias))
        torch.testing.assert_close(layer.weight, weight)
        assert layer.bias is layer.base.bias

    def test_a_is_kaiming_uniform_with_a_of_root_five(self):
        torch.manual_seed(0)
        layer = LoRALinear(nn.Linear(400, 8), rank=50)
        bound = 400**-0.5  # sqrt(6 / ((1 + 5) * fan_in))
        assert layer.A.abs().max() <= bound
        # Variance of a uniform variable, from 20000 draws: relative error about 0.6 percent.
        assert float(layer.A.detach().var() / (bound**2 / 3)) == pytest.approx(1, abs=0.04)

    def test_only_the_update_trains(self):
        layer = LoRALinear(nn.Linear(6, 4), rank=2)
        layer(torch.randn(3, 6)).sum().backward()
        assert layer.base.weight.grad is None
        assert layer.base.bias.grad is None
        assert layer.B.grad.abs().sum() > 0
        assert {n for n, p in layer.named_parameters() if p.requires_grad} == {"A", "B"}

    def test_dropout_acts_on_the_update_in_training_alone(self):
        torch.manual_seed(0)
        layer = trained(LoRALinear(nn.Linear(64, 4), rank=2, dropout=0.5))
        x = torch.randn(3, 64)
        assert not torch.allclose(layer(x), layer.eval()(x))
        assert torch.equal(layer(x), layer(x))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    def test_merged_equals_unmerged(self, dtype):
        layer = trained(LoRALinear(nn.Linear(12, 7).to(dtype), rank=3))
        x = torch.randn(5, 12).to(dtype)
        expected = layer(x)
        merged = layer.merged()
        assert merged is layer.base
        assert isinstance(merged, nn.Linear)
        tolerance = max(1e-5, 2 * torch.finfo(dtype).eps)
        torch.testing.assert_close(merged(x), expected, rtol=tolerance, atol=4 * tolerance)

    def test_bad_arguments(self):
        linear = nn.Linear(4, 4)
        for rank in (0, -1, 1.5, True):
            with pytest.raises(ValueError, match="rank must be an integer of at least 1"):
                LoRALinear(linear, rank=rank)
        with pytest.raises(ValueError, match="alpha must be positive"):
            LoRALinear(linear, alpha=0.0)
        with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\), got 1.0"):
            LoRALinear(linear, dropout=1.0)
        with pytest.raises(TypeError, match=r"linear must be a torch\.nn\.Linear, got Conv1d"):
            LoRALinear(nn.Conv1d(1, 1, 1))
        assert linear.weight.requires_grad


class TestModel:
    def test_defaults_adapt_queries_keys_and_values_and_freeze_the_rest(self, model):
        tokens = torch.randint(30, (2, 9))
        before = model(tokens).logits
        assert add_lora(model) is model
        assert torch.equal(model(tokens).logits, before)
        adapted = [name for name, part in model.named_modules() if isinstance(part, LoRALinear)]
        assert adapted == [
            f"blocks.{layer}.mixer.{name}"
            for layer in range(2)
            for name in ("q_proj", "k_proj", "v_proj")
        ]
        trainable = [p for p in model.parameters() if p.requires_grad]
        assert {id(p) for p in trainable} == {id(p) for p in lora_parameters(model)}
        assert sum(p.numel() for p in trainable) == 2 * 3 * 8 * (16 + 16)

    def test_merging_gives_the_same_outputs_under_the_old_names(self, model):
        names, tokens = list(model.state_dict()), torch.randint(30, (2, 9))
        before = model(tokens).logits
        trained(add_lora(model, LoRAConfig(rank=2, alpha=4.0)))
        after = model(tokens).logits
        assert not torch.allclose(after, before, atol=1e-3)
        assert merge_lora(model) is model
        assert list(model.state_dict()) == names
        assert lora_parameters(model) == []
        torch.testing.assert_close(model(tokens).logits, after, rtol=1e-5, atol=1e-5)

    def test_other_targets(self, model):
        add_lora(model, LoRAConfig(targets=("o_proj",)))
        assert isinstance(model.blocks[0].mixer.o_proj, LoRALinear)
        assert type(model.blocks[0].mixer.q_proj) is nn.Linear

    def test_training_moves_the_update_alone(self, model):
        add_lora(model)
        frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
        optimizer = torch.optim.AdamW(lora_parameters(model), lr=1e-2)
        tokens = torch.randint(30, (4, 12))
        losses = []
        for _ in range(15):
            loss = model(tokens, labels=tokens).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
        assert losses[-1] < losses[0]
        for name, parameter in model.named_parameters():
            if name in frozen:
                assert torch.equal(parameter, frozen[name])

    def test_an_adapted_layer_keeps_decoding(self):
        layer = trained(add_lora(SoftmaxAttention(16, 2, window_size=4)))
        x = torch.randn(1, 6, 16)
        whole, state = layer(x), layer.init_state(1)
        for t in range(6):
            y, state = layer.step(x[:, t], state)
            torch.testing.assert_close(y, whole[:, t], rtol=1e-5, atol=1e-5)

    def test_a_model_that_cannot_be_adapted_stays_as_it_was(self, model):
        with pytest.raises(ValueError, match="targets not found in LanguageModel: gone"):
            add_lora(model, LoRAConfig(targets=("q_proj", "gone")))
        with pytest.raises(ValueError, match=r"target mixer must be a torch\.nn\.Linear"):
            add_lora(model, LoRAConfig(targets=("mixer",)))
        assert all(parameter.requires_grad for parameter in model.parameters())
        assert lora_parameters(model) == []
        add_lora(model)
        with pytest.raises(ValueError, match="target q_proj is adapted already: call merge_lora"):
            add_lora(model)

    def test_bad_configurations(self):
        with pytest.raises(ValueError, match="rank must be an integer of at least 1, got 0"):
            LoRAConfig(rank=0)
        for targets in ((), "q_proj"):
            with pytest.raises(ValueError, match="targets must be a sequence of names"):
                LoRAConfig(targets=targets)
        with pytest.raises(ValueError, match="LoRALinear itself"):
            merge_lora(LoRALinear(nn.Linear(2, 2), rank=1))
