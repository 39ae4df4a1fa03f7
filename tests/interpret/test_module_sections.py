"""Networks cut at named submodules by hooks."""

import pytest
import torch
from rankone.interpret.interaction_basis import InteractionBasis, module_sections
from torch import nn


class Residual(nn.Module):
    """Tokens to logits, with a skip around the hidden layer and a helper that runs twice."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.inner = nn.Linear(4, 4)
        self.joined = nn.Identity()
        self.pair = nn.LSTM(4, 3, batch_first=True)
        self.twice = nn.Tanh()
        self.unused = nn.Linear(1, 1)
        self.head = nn.Linear(4, 5)

    def forward(self, tokens):
        h = self.embed(tokens)
        self.pair(h)
        h = self.joined(h + self.twice(self.inner(self.twice(h))))
        return self.head(h[:, -1])


def residual():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Residual().double()


TOKENS = torch.cartesian_prod(torch.arange(7), torch.arange(7))


def test_sections_are_those_cut_by_hand():
    model = residual()
    sections, embedded = module_sections(model, ["embed", "joined"], TOKENS)
    assert torch.equal(embedded, model.embed(TOKENS))

    def middle(h):
        return h + torch.tanh(model.inner(torch.tanh(h)))

    by_hand = [middle, lambda h: model.head(h[:, -1])]
    ours = InteractionBasis().fit(sections, embedded)
    theirs = InteractionBasis().fit(by_hand, embedded)
    for a, b in zip(ours.layers_, theirs.layers_, strict=True):
        torch.testing.assert_close(a.components_, b.components_, rtol=0, atol=1e-10)
    for a, b in zip(ours.edges(embedded), theirs.edges(embedded), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10 * float(b.max()))


def test_sequential_cut_by_name_is_its_slices():
    network = nn.Sequential(nn.Linear(5, 4), nn.ReLU(inplace=True), nn.Linear(4, 3))
    X = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    sections, h = module_sections(network, ["0", "1"], X)
    ours = InteractionBasis().fit(sections, h)
    theirs = InteractionBasis().fit(network, X)
    for a, b in zip(ours.layers_, theirs.layers_[1:], strict=True):
        torch.testing.assert_close(a.importance_, b.importance_, rtol=1e-5, atol=1e-6)


def test_network_is_left_without_hooks():
    model = residual()
    sections, h = module_sections(model, ["embed"], TOKENS)
    InteractionBasis().fit(sections, h)
    assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(ValueError, match="must have shape"):
        sections[0](h[:, :1])
    assert not any(module._forward_hooks for module in sections[0].modules())


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        ([], ValueError, "names must be one or more different"),
        (["embed", "embed"], ValueError, "names must be one or more different"),
        (["layer9"], ValueError, "names must be submodules of the model, got 'layer9'"),
        (["unused"], ValueError, "unused must run in the forward pass of the model, but did not"),
        (["twice"], ValueError, r"twice \(Tanh\) must run once"),
        (["pair"], TypeError, r"pair \(LSTM\) must return one floating tensor, got tuple"),
        (["joined", "embed"], ValueError, "joined must run .* before embed, but did not"),
        (["embed", "inner"], ValueError, "inner must be all that the output of the model depends"),
    ],
)
def test_cuts_that_are_none_are_refused_by_name(names, error, message):
    with pytest.raises(error, match=message):
        module_sections(residual(), names, TOKENS)


def test_models_and_inputs_are_checked():
    with pytest.raises(TypeError, match=r"model must be an nn\.Module, got function"):
        module_sections(lambda x: x, ["embed"], TOKENS)
    with pytest.raises(ValueError, match="X must hold at least two inputs"):
        module_sections(residual(), ["embed"], TOKENS[:1])
    with pytest.raises(ValueError, match=r"model.1 is a Dropout in training mode"):
        module_sections(nn.Sequential(nn.Linear(2, 2), nn.Dropout()), ["0"], torch.ones(3, 2))
