"""Causal abstraction: interventions, sites, bijective maps, the search, the ladder."""

import itertools
import pickle
import warnings
from collections import namedtuple

import numpy as np
import pytest
import torch
from joblib import parallel_config
from rankone.interpret import _interchange
from rankone.interpret.causal_abstraction import (
    CausalModel,
    DistributedAlignmentSearch,
    EqualityMLP,
    HookSite,
    IdentityAlignment,
    Interventions,
    LinearAlignment,
    LookupAlignment,
    RevNetAlignment,
    SplitSite,
    WhitenedAlignment,
    alignment_ladder,
    distributive_law,
    hierarchical_equality,
    interchange,
    interchange_intervention_accuracy,
    sample_interventions,
    untrained_copy,
)
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from torch import nn

# Rounding of float64 through a few dozen additions of numbers of size 1 to 10.
EXACT = 1e-9
HALVES = [list(range(8)), list(range(8, 16))]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def equality():
    return hierarchical_equality()


@pytest.fixture(scope="module")
def drawn(equality):
    return sample_interventions(equality.sampler, equality.causal_models["both_equality"], 600)


@pytest.fixture(scope="module")
def words():
    generator = torch.Generator().manual_seed(1)
    return hierarchical_equality(vocab=torch.rand(4, 4, generator=generator, dtype=torch.float64))


def random_network(d=16, n_classes=2):
    return EqualityMLP(d, n_classes).double()


class Planted(nn.Module):
    """Bits a = x_0 > 0 and b = x_1 > 0 hidden by a rotation; the tail undoes it: label a xor b."""

    def __init__(self, d=6, n=4000):
        super().__init__()
        self.rotation = nn.Parameter(torch.linalg.qr(torch.randn(d, d)).Q)
        self.scale = nn.Parameter(torch.ones(1))

    def head(self, x):
        return x @ self.rotation.T

    def tail(self, h):
        x = h @ self.rotation
        same = self.scale * x[:, 0] * x[:, 1]
        return torch.stack((same, -same), dim=1)

    def forward(self, x):
        return self.tail(self.head(x))


def signs(n, generator):
    return torch.randint(2, (n, 6), generator=generator) * 2.0 - 1


XOR = CausalModel(
    {"a": lambda x: x[:, 0] > 0, "b": lambda x: x[:, 1] > 0}, lambda v: v["a"] ^ v["b"]
)


# Algorithms and interventions.


@pytest.mark.parametrize("V", [1, 2, 3])
def test_intervene_equals_a_loop_over_rows(V):
    names = [f"v{i}" for i in range(V)]
    model = CausalModel(
        {name: lambda x, i=i: x[:, i] > 0.5 for i, name in enumerate(names)},
        lambda v: sum(v[name].long() << i for i, name in enumerate(names)) * 7 % 5,
        context={"c": lambda x: x[:, 3] > 0.5},
    )
    x = torch.rand(40, 4)
    sources = torch.rand(40, V, 4)
    mask = torch.rand(40, V) < 0.5
    expected = []
    for k in range(40):
        bits = [(sources[k, i, i] if mask[k, i] else x[k, i]).item() > 0.5 for i in range(V)]
        expected.append(sum(bit << i for i, bit in enumerate(bits)) * 7 % 5)
    assert model.intervene(x, sources, mask).tolist() == expected


def test_every_nonzero_mask_occurs_and_equally_often(equality):
    model = CausalModel({name: lambda x: x[:, 0] > 0 for name in "abc"}, lambda v: v["a"])
    n = 7000
    mask = sample_interventions(equality.sampler, model, n).mask
    patterns, counts = torch.unique(mask.long(), dim=0, return_counts=True)
    assert sorted(patterns.tolist()) == sorted(
        list(p) for p in itertools.product((0, 1), repeat=3) if any(p)
    )
    assert (counts - n / 7).abs().max() < 4 * np.sqrt(n / 7)


def test_modes_swap_all_or_one_variable(equality):
    model = equality.causal_models["both_equality"]
    assert sample_interventions(equality.sampler, model, 9, mode="all").mask.all()
    one = sample_interventions(equality.sampler, model, 9, mode=1).mask
    assert not one[:, 0].any()
    assert one[:, 1].all()


def test_every_variable_has_a_source_of_its_own(drawn):
    assert not (drawn.sources[:, 0] == drawn.sources[:, 1]).all(dim=1).any()
    assert drawn.sources_differ().all()
    drawn = drawn.select(slice(3))
    same = Interventions(drawn.base, drawn.sources.clone(), drawn.mask.clone(), drawn.label)
    same.mask[:] = torch.tensor([[True, False], [False, True], [True, True]])
    same.sources[:, 0] = same.base
    assert same.sources_differ().tolist() == [False, True, False]


def test_interventions_repeat_with_the_seed_and_balance_on_request(equality):
    model = distributive_law().causal_models["and_or"]
    sampler = distributive_law().sampler
    first, again, other = (
        sample_interventions(sampler, model, 50, random_state=s) for s in (3, 3, 4)
    )
    assert torch.equal(first.sources, again.sources)
    assert not torch.equal(first.base, other.base)
    balanced = sample_interventions(sampler, model, 501, balanced=True)
    assert len(balanced) == 501
    assert (balanced.label != model.run(balanced.base)).sum() == 250
    assert torch.equal(
        balanced.label, model.intervene(balanced.base, balanced.sources, balanced.mask)
    )


def test_label_is_the_algorithms_and_not_the_networks(equality, drawn):
    base = drawn.base.unflatten(1, (4, 4))
    sources = drawn.sources.unflatten(2, (4, 4))
    left, right = ((base[:, 2 * i] == base[:, 2 * i + 1]).all(dim=1) for i in range(2))
    swapped_left, swapped_right = (
        (sources[:, i, 2 * i] == sources[:, i, 2 * i + 1]).all(dim=1) for i in range(2)
    )
    left = torch.where(drawn.mask[:, 0], swapped_left, left)
    right = torch.where(drawn.mask[:, 1], swapped_right, right)
    assert torch.equal(drawn.label, (left == right).long())


# Tasks and the network.


def test_hierarchical_equality_has_pairs_equal_half_of_the_time(equality, words):
    for task in (equality, words):
        x = task.sampler(4000, torch.Generator().manual_seed(2))
        values = task.causal_models["both_equality"].values(x)
        for name in ("left", "right"):
            assert abs(values[name].double().mean() - 0.5) < 4 * 0.5 / np.sqrt(4000)
        expected = task.causal_models["both_equality"].run(x)
        assert all(torch.equal(model.run(x), expected) for model in task.causal_models.values())
    assert set(equality.causal_models) == {"both_equality", "left_equality"}
    assert len(torch.unique(words.inputs, dim=0)) == 256


def test_first_argument_takes_the_vector_and_keeps_the_rest_of_the_base(words):
    model = words.causal_models["first_argument"]
    drawn = sample_interventions(words.sampler, model, 300)
    edited = drawn.base.clone()
    edited[:, :4] = drawn.sources[:, 0, :4]
    assert torch.equal(drawn.label, model.run(edited))


def test_left_equality_takes_only_the_left_side(equality):
    model = equality.causal_models["left_equality"]
    drawn = sample_interventions(equality.sampler, model, 300)
    edited = drawn.base.clone()
    edited[:, :8] = drawn.sources[:, 0, :8]
    assert drawn.mask.shape == (300, 1)
    assert torch.equal(drawn.label, model.run(edited))


def test_distributive_law_is_balanced_and_its_two_algorithms_agree():
    task = distributive_law()
    x = task.sampler(4000, torch.Generator().manual_seed(2))
    pairs = x.unflatten(1, (3, 2, 4))
    a, b, c = (pairs[:, :, 0] == pairs[:, :, 1]).all(dim=2).T
    expected = ((a & b) | (b & c)).long()
    assert (task.input_dim, task.n_classes) == (24, 2)
    assert abs(expected.double().mean() - 0.5) < 4 * 0.5 / np.sqrt(4000)
    for model in task.causal_models.values():
        assert torch.equal(model.run(x), expected)


def test_network_is_its_head_and_tail_at_every_layer(drawn):
    network = EqualityMLP(16, n_layers=4)
    for layer in range(1, 5):
        site = network.site(layer)
        h = site.read(drawn.base)
        assert h.shape == (600, 16)
        assert h.min() >= 0
        assert torch.equal(site.run(drawn.base, h), network(drawn.base))


# Sites.


@pytest.mark.parametrize("layer", [1, 3])
def test_hook_site_and_split_site_give_one_accuracy_and_no_hook_remains(drawn, layer):
    network = EqualityMLP(16)
    hook = HookSite(network, f"layers.{layer - 1}")
    alignment = LinearAlignment(16)
    sites = (network.site(layer), hook, HookSite(network, network.layers[layer - 1]))
    logits = [interchange(site, alignment, HALVES, drawn) for site in sites]
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])
    accuracies = {
        interchange_intervention_accuracy(site, alignment, HALVES, drawn) for site in sites
    }
    assert len(accuracies) == 1
    assert not any(module._forward_hooks for module in network.modules())


class Sequence(nn.Module):
    """A transformer that answers at its last position."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.last = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.out = nn.Linear(8, 3)

    def forward(self, ids):
        return self.out(self.last(self.block(self.embed(ids)))[:, -1])


@pytest.mark.parametrize("position", [1, -1])
def test_hook_at_a_position_replaces_that_position_alone(position):
    model = Sequence().eval()
    ids = torch.randint(7, (5, 4))
    site = HookSite(model, "block", position=position)
    h = torch.randn(5, 8)
    with torch.no_grad():
        states = model.block(model.embed(ids))
        assert torch.allclose(site.read(ids), states[:, position], atol=1e-6)
        states[:, position] = h
        expected = model.out(model.last(states)[:, -1])
        assert torch.allclose(site.run(ids, h), expected, atol=1e-6)


def test_hook_replaces_the_first_of_a_tuple_and_reads_logits_of_an_object():
    Pair = namedtuple("Pair", ["states", "weights"])
    Output = namedtuple("Output", ["logits"])

    class Block(nn.Module):
        def forward(self, x):
            return Pair(x + 1, None)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Block()

        def forward(self, x):
            return Output(2 * self.block(x).states)

    site, x = HookSite(Model(), "block"), torch.randn(3, 2)
    assert torch.equal(site.read(x), x + 1)
    assert torch.equal(site.run(x, x), 2 * x)
    doubled = HookSite(site.model, "block", logits=lambda out: 3 * out.logits)
    assert torch.equal(doubled.run(x, x), 6 * x)


def test_hooks_are_removed_when_the_model_fails():
    class Fails(nn.Module):
        def forward(self, x):
            raise RuntimeError("broken")

    x = torch.randn(3, 2)
    after = HookSite(nn.Sequential(nn.Linear(2, 2), Fails()), "0")
    before = HookSite(nn.Sequential(Fails(), nn.Linear(2, 2)), "1")
    h = after.read(x)  # ends before the module that fails
    for call in (lambda: after.run(x, h), lambda: before.read(x)):
        with pytest.raises(RuntimeError, match="broken"):
            call()
    assert not after.module._forward_hooks
    assert not before.module._forward_hooks


def test_module_in_place_after_the_hook_does_not_write_into_states():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))
    site, x = HookSite(model, "0"), torch.randn(6, 3)
    h = site.read(x).detach()
    kept = h.clone()
    assert torch.equal(site.run(x, h), model(x))
    assert torch.equal(h, kept)


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.twice = nn.Linear(2, 2)
        self.unused = nn.Linear(2, 2)
        self.rnn = nn.LSTM(2, 2)
        self.list = nn.ModuleList([nn.Linear(2, 2)])
        self.indices = Indices()

    def forward(self, x):
        self.indices(x)
        return self.twice(self.twice(x))


class Indices(nn.Module):
    def forward(self, x):
        return x.argmax(dim=1)


def hooked(name, **options):
    model, x = Shared(), torch.randn(3, 2)
    site = HookSite(model, name, **options)
    return site.run(x, site.read(x))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: hooked("twice"), ValueError, r"twice \(Linear\) runs more often"),
        (lambda: hooked("unused"), ValueError, r"unused \(Linear\) did not"),
        (lambda: hooked("rnn"), TypeError, r"rnn \(LSTM\) returns its final state"),
        (lambda: hooked("list"), TypeError, r"list \(ModuleList\) only holds others"),
        (lambda: hooked("indices"), TypeError, r"indices \(Indices\) returned torch.int64"),
        (lambda: hooked("nothing"), ValueError, "module must name a submodule of model"),
        (lambda: HookSite(Shared(), nn.Linear(2, 2)), ValueError, "must be a submodule"),
        (lambda: HookSite(len, "a"), TypeError, "model must be an nn.Module"),
        (lambda: hooked("twice", position=0), ValueError, r"shape \(n, t, d\) with position=0"),
        (
            lambda: HookSite(Sequence(), "block").read(torch.zeros(2, 3, dtype=torch.long)),
            ValueError,
            "give position",
        ),
        (
            lambda: HookSite(Sequence(), "block", 9).read(torch.zeros(2, 3, dtype=torch.long)),
            ValueError,
            "position must be within the 3 positions",
        ),
        (
            lambda: HookSite(nn.Sequential(nn.Flatten(0, 0), nn.Unflatten(0, (1, 6))), "1").read(
                torch.zeros(6)
            ),
            ValueError,
            "one row an input, 6 in all",
        ),
        (lambda: SplitSite(3, len), TypeError, "head must be callable"),
        (
            lambda: SplitSite(nn.Flatten(0), len).read(torch.zeros(2, 3)),
            ValueError,
            r"head must give hidden states of shape \(n, d\)",
        ),
        (
            lambda: SplitSite(len, lambda h: h[:, 0]).run(torch.zeros(2, 3), torch.zeros(2, 3)),
            ValueError,
            r"tail must give logits of shape \(n, c\)",
        ),
        (
            lambda: HookSite(nn.Sequential(nn.Linear(2, 2)), "0").run(
                torch.zeros(3, 2), torch.zeros(3, 1)
            ),
            ValueError,
            r"h must have shape \(3, 2\)",
        ),
    ],
)
def test_sites_refuse_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()


# Maps.


MAPS = {
    "identity": lambda d: IdentityAlignment(),
    "orthogonal": lambda d: LinearAlignment(d),
    "linear": lambda d: LinearAlignment(d, orthogonal=False),
    "revnet": lambda d: RevNetAlignment(d),
    "deep revnet": lambda d: RevNetAlignment(d, n_blocks=3, hidden=7, depth=2),
    "whitened": lambda d: WhitenedAlignment(RevNetAlignment(d, 2), torch.randn(50, d).double()),
}


def scrambled(alignment):
    """The map in float64 with weights away from their start."""
    alignment = alignment.double()
    with torch.no_grad():
        for parameter in alignment.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return alignment


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("d", [6, 7])
def test_inverse_is_exact_for_even_and_odd_widths(name, d):
    alignment = scrambled(MAPS[name](d))
    h = 3 * torch.randn(200, d).double()
    assert (alignment.inverse(alignment(h)) - h).abs().max() < EXACT
    assert (alignment(alignment.inverse(h)) - h).abs().max() < EXACT


@pytest.mark.parametrize("d", [4, 5])
@pytest.mark.parametrize("name", ["orthogonal", "revnet", "deep revnet"])
def test_volume_is_preserved(name, d):
    alignment = scrambled(MAPS[name](d))
    J = torch.func.jacrev(lambda h: alignment(h[None])[0])(torch.randn(d).double())
    assert abs(torch.linalg.det(J).abs() - 1) < EXACT


def test_orthogonal_map_preserves_norms_after_training_steps():
    alignment = scrambled(LinearAlignment(9))
    h = torch.randn(20, 9).double()
    assert torch.allclose(alignment(h).norm(dim=1), h.norm(dim=1), rtol=1e-12)


def test_reversible_network_is_not_linear_and_its_halves_are_as_published():
    alignment = RevNetAlignment(7, n_blocks=2, hidden=5, depth=3).double()
    assert [layer.in_features for layer in alignment.F[0] if hasattr(layer, "weight")] == [
        4,
        5,
        5,
        5,
    ]
    h = torch.randn(3, 7).double()
    a, b = h[:, :3], h[:, 3:]
    for F, G in zip(alignment.F, alignment.G, strict=True):
        a = a + F(b)
        b = b + G(a)
    assert torch.equal(alignment(h), torch.cat((a, b), dim=1))
    assert not torch.allclose(
        alignment(2 * h) - alignment(0 * h), 2 * (alignment(h) - alignment(0 * h))
    )


def test_whitened_states_have_unit_covariance_down_to_the_floor():
    axes = torch.linalg.qr(torch.randn(3, 3).double()).Q
    H = torch.randn(4000, 3).double() @ torch.diag(torch.tensor([10.0, 1, 1e-3]).double()) @ axes
    white = WhitenedAlignment(IdentityAlignment(), H)(H)
    expected = torch.tensor([1e-6 / (1e-4 * 100), 1, 1]).double()
    assert torch.allclose(torch.linalg.eigvalsh(white.T.cov()), expected, rtol=0.1)
    assert white.mean(dim=0).abs().max() < EXACT


def test_ill_conditioned_linear_map_is_refused():
    alignment = LinearAlignment(4, orthogonal=False).double()
    with torch.no_grad():
        alignment.linear.weight.copy_(torch.diag(torch.tensor([1, 1, 1, 2e-8])))
    h = torch.randn(5, 4).double()
    assert torch.allclose(alignment.inverse(alignment(h)), h, atol=1e-6)
    with torch.no_grad():
        alignment.linear.weight[3, 3] = 0.5e-8
    with pytest.raises(ValueError, match="condition number of at most 1e"):
        alignment.inverse(h)


# Interchange.


@pytest.mark.parametrize("name", MAPS)
def test_mask_of_nothing_reproduces_the_network(name, drawn):
    network = random_network()
    alignment = scrambled(MAPS[name](16))
    untouched = Interventions(
        drawn.base.double(), drawn.sources.double(), torch.zeros_like(drawn.mask), drawn.label
    )
    logits = interchange(network.site(2), alignment, HALVES, untouched)
    assert torch.allclose(logits, network(untouched.base), atol=EXACT)


@pytest.mark.parametrize("name", MAPS)
def test_swap_of_all_coordinates_gives_the_sources_logits(name, drawn):
    network = random_network()
    sources = drawn.sources[:, :1].double()
    swap = Interventions(
        drawn.base.double(), sources, torch.ones(600, 1, dtype=torch.bool), drawn.label
    )
    logits = interchange(network.site(2), scrambled(MAPS[name](16)), [range(16)], swap)
    assert torch.allclose(logits, network(sources[:, 0]), atol=EXACT)


def test_interchange_equals_a_loop_over_rows(drawn):
    network, alignment = random_network(), scrambled(RevNetAlignment(16, 2))
    site, partitions = network.site(1), [[0, 5, 9], [2, 15]]
    few = drawn.select(slice(40))
    few = Interventions(few.base.double(), few.sources.double(), few.mask, few.label)
    expected = []
    for k in range(40):
        z = alignment(site.read(few.base[k : k + 1]))
        for v, group in enumerate(partitions):
            if few.mask[k, v]:
                z[:, group] = alignment(site.read(few.sources[k, v : v + 1]))[:, group]
        expected.append(site.run(few.base[k : k + 1], alignment.inverse(z)))
    logits = interchange(site, alignment, partitions, few)
    assert torch.allclose(logits, torch.cat(expected), atol=EXACT)
    iia = interchange_intervention_accuracy(site, alignment, partitions, few, batch_size=7)
    assert iia == (torch.cat(expected).argmax(dim=1) == few.label).double().mean().item()


def test_constant_network_scores_the_frequency_of_its_label_whatever_the_map(drawn):
    site = SplitSite(nn.Linear(16, 16), lambda h: 0 * h[:, :2] + torch.tensor([0.0, 1.0]))
    frequency = drawn.label.double().mean().item()
    for name in ("identity", "orthogonal", "revnet"):
        search = DistributedAlignmentSearch(site, HALVES, name, max_epochs=1).fit(drawn)
        assert search.score(drawn) == pytest.approx(frequency, abs=1e-12)


# The search.


def test_planted_rotation_is_recovered():
    network = Planted()
    site = SplitSite(network.head, network.tail)
    train, validation, test = (
        sample_interventions(signs, XOR, n, random_state=n) for n in (1500, 400, 1000)
    )
    known = LinearAlignment(6, orthogonal=False)
    with torch.no_grad():
        known.linear.weight.copy_(network.rotation.T)
    exact = interchange_intervention_accuracy(site, known, [[0], [1]], test)
    identity = interchange_intervention_accuracy(site, IdentityAlignment(), [[0], [1]], test)
    search = DistributedAlignmentSearch(
        site, [[0], [1]], lr=3e-2, batch_size=128, max_epochs=20
    ).fit(train, validation)
    assert exact == 1.0
    assert identity < 0.8
    assert search.score(test) > 0.97


def test_network_is_unchanged_by_fit(drawn):
    network = nn.Sequential(
        nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 2)
    )
    network[0].bias.requires_grad_(False)
    network[1].eval()
    before = {name: entry.clone() for name, entry in network.state_dict().items()}
    flags = [p.requires_grad for p in network.parameters()]
    modes = [m.training for m in network.modules()]
    sites = (
        HookSite(network, "2"),
        SplitSite(network[:3], network[3:]),
        SplitSite(lambda x: network[:3](x), lambda h: network[3:](h)),
    )
    histories = []
    for site in sites:
        search = DistributedAlignmentSearch(site, HALVES, max_epochs=2, batch_size=100)
        histories.append(search.fit(drawn).history_)
        assert all(torch.equal(network.state_dict()[name], before[name]) for name in before)
        assert [p.requires_grad for p in network.parameters()] == flags
        assert [m.training for m in network.modules()] == modes
        assert all(p.grad is None for p in network.parameters())
    assert histories[0] == histories[1] == histories[2]


def test_frozen_network_is_restored_when_the_fit_fails(drawn):
    network = EqualityMLP(16).train()
    with pytest.raises(ValueError, match="partitions"):
        DistributedAlignmentSearch(network.site(1), [[0], [99]]).fit(drawn)
    assert all(p.requires_grad for p in network.parameters())
    assert all(m.training for m in network.modules())


def test_map_of_the_best_validation_loss_is_kept(drawn):
    """At a rate that overshoots, the last epoch is not the best."""
    network = EqualityMLP(16)
    train, validation = drawn.select(slice(400)), drawn.select(slice(400, 600))
    search = DistributedAlignmentSearch(
        network.site(1), HALVES, "revnet", n_blocks=2, hidden=64, lr=5e-2, batch_size=50,
        max_epochs=12, early_stopping=12,
    ).fit(train, validation)  # fmt: skip
    losses = [entry["validation_loss"] for entry in search.history_]
    assert min(losses) < losses[-1]
    with torch.no_grad():
        logits = interchange(network.site(1), search.alignment_, HALVES, validation)
    loss = nn.functional.cross_entropy(logits, validation.label).item()
    # The map before the first epoch is a candidate too.
    assert loss <= min(losses) + 1e-6


def test_search_stops_early_and_lowers_the_rate(drawn):
    site = SplitSite(nn.Linear(16, 16), lambda h: 0 * h[:, :2])
    search = DistributedAlignmentSearch(
        site, HALVES, max_epochs=30, early_stopping=6, lr_patience=1, lr_factor=0.1, lr=0.01
    ).fit(drawn)
    assert search.n_epochs_ == len(search.history_) == 7
    assert [entry["epoch"] for entry in search.history_] == list(range(1, 8))
    rates = [entry["lr"] for entry in search.history_]
    assert rates[0] == 0.01
    assert rates[-1] == pytest.approx(1e-4)


def test_warm_up_slows_the_first_steps(drawn):
    network = EqualityMLP(16)
    start = DistributedAlignmentSearch(network.site(1), HALVES, "linear", max_epochs=1)
    fast = clone(start).fit(drawn)
    slow = clone(start).set_params(warmup_steps=10**6).fit(drawn)
    torch.manual_seed(0)
    weight = LinearAlignment(16, orthogonal=False).linear.weight
    assert (slow.alignment_.linear.weight - weight).abs().max() < 1e-6
    assert (fast.alignment_.linear.weight - weight).abs().max() > 1e-4
    assert slow.history_[0]["lr"] == 1e-3


def test_fit_repeats_and_leaves_torchs_generator(drawn):
    search = DistributedAlignmentSearch(EqualityMLP(16).site(1), HALVES, max_epochs=2)
    state = torch.get_rng_state()
    first = search.fit(drawn).history_
    assert torch.equal(torch.get_rng_state(), state)
    assert clone(search).fit(drawn).history_ == first
    assert clone(search).set_params(random_state=1).fit(drawn).history_ != first


def test_states_too_many_to_keep_are_read_for_every_batch(drawn, monkeypatch):
    search = DistributedAlignmentSearch(
        EqualityMLP(16).double().site(1), HALVES, "revnet", n_blocks=1, max_epochs=2, batch_size=100
    )
    data = Interventions(drawn.base.double(), drawn.sources.double(), drawn.mask, drawn.label)
    kept = clone(search).fit(data)
    monkeypatch.setattr(_interchange, "MAX_KEPT_BYTES", 0)
    read = clone(search).fit(data)
    for before, after in zip(kept.history_, read.history_, strict=True):
        assert after["train_loss"] == pytest.approx(before["train_loss"], abs=EXACT)


def test_given_module_is_copied_and_pickled_with_the_search(drawn):
    alignment = RevNetAlignment(16, 1)
    before = {name: entry.clone() for name, entry in alignment.state_dict().items()}
    search = DistributedAlignmentSearch(
        EqualityMLP(16).site(1), HALVES, alignment, whiten=True, max_epochs=2, lr=0.01
    ).fit(drawn)
    assert all(torch.equal(alignment.state_dict()[name], before[name]) for name in before)
    assert isinstance(search.alignment_, WhitenedAlignment)
    assert pickle.loads(pickle.dumps(search)).score(drawn) == search.score(drawn)


def test_divergence_is_warned_about_and_a_finite_map_kept(drawn):
    site = SplitSite(nn.Linear(16, 16).double(), nn.Linear(16, 2).double())
    data = Interventions(drawn.base.double(), drawn.sources.double(), drawn.mask, drawn.label)
    search = DistributedAlignmentSearch(
        site, HALVES, "revnet", n_blocks=20, lr=1e4, max_epochs=5, batch_size=100
    )
    with pytest.warns(ConvergenceWarning, match="lower lr"):
        search.fit(data)
    assert all(torch.isfinite(p).all() for p in search.alignment_.parameters())


def test_lossy_map_is_warned_about(drawn):
    class Rounded(IdentityAlignment):
        def inverse(self, z):
            return z.round()

    site = EqualityMLP(16).site(1)
    with pytest.warns(UserWarning, match="on its way back"):
        DistributedAlignmentSearch(site, HALVES, Rounded()).fit(drawn)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DistributedAlignmentSearch(site, HALVES, "revnet", max_epochs=1).fit(drawn)


# The lookup.


@pytest.mark.parametrize("name", ["both_equality", "left_equality", "first_argument"])
@pytest.mark.parametrize("layer", [1, 2])
def test_lookup_aligns_any_injective_network_perfectly(words, name, layer):
    network = random_network()
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.orthogonal_(module.weight)
            nn.init.constant_(module.bias, 0.5)
    model = words.causal_models[name]
    partitions = [[0, 1], [2, 3]][: len(model.variables)]
    site = network.site(layer)
    lookup = LookupAlignment(site, model, words.inputs, partitions)
    drawn = sample_interventions(words.sampler, model, 1500, random_state=3)
    fair = drawn.select(drawn.sources_differ())
    accuracy = (network(drawn.base).argmax(dim=1) == model.run(drawn.base)).double().mean()
    assert accuracy < 0.8
    assert interchange_intervention_accuracy(site, lookup, partitions, fair) == 1.0
    assert interchange_intervention_accuracy(site, lookup, partitions, drawn) < 1.0
    search = DistributedAlignmentSearch(site, partitions, lookup).fit(fair)
    assert (search.n_epochs_, search.n_parameters_, search.score(fair)) == (0, 0, 1.0)


def bits():
    return torch.cartesian_prod(*[torch.arange(2.0, dtype=torch.float64)] * 2) * 2 - 1


def test_lookup_on_a_network_that_solves_the_task_is_perfect_on_all_interventions():
    torch.manual_seed(1)
    network = Planted(d=2).double()
    site = SplitSite(network.head, network.tail)
    same = CausalModel(XOR.variables, lambda v: v["a"] ^ v["b"])
    assert torch.equal(network(bits()).argmax(dim=1), same.run(bits()))
    drawn = sample_interventions(
        lambda n, g: bits()[torch.randint(4, (n,), generator=g)], same, 500
    )
    assert not drawn.sources_differ().all()
    lookup = LookupAlignment(site, same, bits(), [[0], [1]])
    assert interchange_intervention_accuracy(site, lookup, [[0], [1]], drawn) == 1.0


def test_lookup_works_through_hooks(words):
    model = words.causal_models["both_equality"]
    site = HookSite(random_network(), "layers.0")
    lookup = LookupAlignment(site, model, words.inputs, HALVES)
    drawn = sample_interventions(words.sampler, model, 500, mode=0)
    fair = drawn.select(drawn.sources_differ())
    assert interchange_intervention_accuracy(site, lookup, HALVES, fair) == 1.0


def test_lookup_without_a_leftover_coordinate_keeps_networks_answer_on_equal_sources(words):
    """No bijection can do otherwise: all coordinates are those of one source."""
    model, network = words.causal_models["both_equality"], random_network()
    lookup = LookupAlignment(network.site(1), model, words.inputs, HALVES)
    one = words.inputs[100:200]
    swap = Interventions(
        words.inputs[:100], one[:, None].repeat(1, 2, 1), torch.ones(100, 2) > 0, model.run(one)
    )
    logits = interchange(network.site(1), lookup, HALVES, swap)
    assert torch.allclose(logits, network(one), atol=EXACT)


def test_lookup_is_one_to_one_on_every_state_that_interventions_reach(words):
    model = words.causal_models["both_equality"]
    partitions = [[0, 1], [2, 3]]
    network = random_network()
    lookup = LookupAlignment(network.site(1), model, words.inputs, partitions)
    index = torch.arange(256).double()
    assert torch.equal(lookup(lookup.states), index[:, None].expand(-1, 16))
    assert torch.equal(lookup.inverse(lookup(lookup.states)), lookup.states)
    z = torch.randint(256, (3000, 3)).double()[:, torch.tensor([0, 0, 1, 1] + [2] * 12)]
    z = torch.unique(z, dim=0)
    h = lookup.inverse(z)
    assert len(torch.unique(h, dim=0)) == len(z)
    assert torch.equal(lookup(h), z)
    anchors = torch.cdist(h, torch.cat((lookup.anchors, lookup.states)), p=float("inf"))
    assert anchors.min(dim=1).values.max() <= 1e-6


def lookup_with(**changes):
    arguments = {
        "site": SplitSite(nn.Linear(2, 3).double(), lambda h: h[:, :2]),
        "causal_model": CausalModel(XOR.variables, XOR.output),
        "inputs": bits(),
        "partitions": [[0], [1]],
    }
    return LookupAlignment(**{**arguments, **changes})


def residual():
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(2, 2).double()

        def forward(self, x):
            return x + self.inner(x)

    return HookSite(Around(), "inner")


def constant(c):
    return SplitSite(nn.Linear(2, 3).double(), lambda h: 0 * h[:, :2] + torch.eye(2).double()[c])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"site": SplitSite(lambda x: x[:, :1].repeat(1, 3), lambda h: h)},
            "one to one; the network maps 4 inputs to 2 states",
        ),
        ({"site": constant(1)}, "no drawn state had label 0"),
        ({"inputs": bits()[[0, 0, 1]]}, "inputs must be at least 2 and different"),
        ({"partitions": [[0], [0]]}, "partitions must be disjoint"),
        ({"partitions": [[0]]}, "partitions must be one a variable, 2 in all, got 1"),
        (
            {
                "causal_model": CausalModel(
                    {"a": XOR.variables["a"]}, XOR.output, {"b": XOR.variables["b"]}
                ),
                "partitions": [[0, 1, 2]],
            },
            "leave a coordinate over",
        ),
        (
            {"causal_model": CausalModel(XOR.variables, lambda v: v["a"] + 2 * v["b"])},
            "labels of causal_model must lie within 0 to 1",
        ),
        ({"site": residual()}, "depend on the input beyond the hidden state"),
        ({"max_draws": 0}, "max_draws must be an integer of at least 1"),
    ],
)
def test_lookup_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        lookup_with(**changes)


# The ladder.


def test_ladder_reports_every_map_and_its_control(drawn):
    network = EqualityMLP(16)
    control = untrained_copy(network, random_state=5)
    arguments = (network.site(1), HALVES, drawn, drawn, drawn)
    options = {
        "ladder": (IdentityAlignment(), "orthogonal", ("revnet", {"n_blocks": 1, "hidden": 4})),
        "max_epochs": 1,
        "control": control.site(1),
    }
    rows = alignment_ladder(*arguments, **options)
    assert [row["name"] for row in rows] == [
        "IdentityAlignment",
        "orthogonal",
        "revnet (n_blocks=1, hidden=4)",
    ]
    assert [row["n_parameters"] for row in rows] == [0, 256, 2 * (8 * 4 + 4 + 4 * 8 + 8)]
    search = DistributedAlignmentSearch(network.site(1), HALVES, max_epochs=1).fit(drawn, drawn)
    assert rows[1]["iia"] == search.score(drawn)
    assert all(row["seconds"] > 0 for row in rows)
    with parallel_config(backend="threading"):
        again = alignment_ladder(*arguments, n_jobs=2, **options)
    for field in ("iia", "control_iia"):
        assert [row[field] for row in again] == [row[field] for row in rows]


def test_untrained_copy_draws_anew_and_leaves_the_network():
    network = EqualityMLP(16)
    before = network.classifier.weight.detach().clone()
    fresh, same, other = (untrained_copy(network, random_state=s) for s in (1, 1, 2))
    assert torch.equal(network.classifier.weight, before)
    assert not torch.equal(fresh.classifier.weight, before)
    assert torch.equal(fresh.classifier.weight, same.classifier.weight)
    assert not torch.equal(fresh.classifier.weight, other.classifier.weight)
    with pytest.raises(TypeError, match=r"network \(Planted\) has parameters and none"):
        untrained_copy(Planted())


# Bad input.


def fit(**options):
    task = hierarchical_equality()
    data = sample_interventions(task.sampler, task.causal_models["both_equality"], 30)
    changed = options.pop("data", lambda data: data)(data)
    site = options.pop("site", None) or EqualityMLP(16).site(1)
    partitions = options.pop("partitions", HALVES)
    DistributedAlignmentSearch(site, partitions, **{"max_epochs": 1, **options}).fit(changed)


def changed(**fields):
    def change(data):
        for name, entry in fields.items():
            setattr(data, name, entry(getattr(data, name)))
        return data

    return change


def sample(mode="any", n=5, **options):
    task = hierarchical_equality()
    model = options.pop("model", task.causal_models["both_equality"])
    return sample_interventions(task.sampler, model, n, mode=mode, **options)


CONSTANT = CausalModel({"a": lambda x: x[:, 0] > 0}, lambda v: 0 * v["a"])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: fit(alignment="rotation"), ValueError, 'alignment must be "identity"'),
        (lambda: fit(alignment=nn.Linear(16, 16)), TypeError, "with an inverse method"),
        (lambda: fit(partitions=[[0, 1], [1, 2]]), ValueError, r"disjoint; partitions\[1\]"),
        (lambda: fit(partitions=[[0, 0], [1]]), ValueError, "disjoint"),
        (lambda: fit(partitions=[[], [1]]), ValueError, r"partitions\[0\] must hold at least one"),
        (lambda: fit(partitions=[[0], [16]]), ValueError, r"within 0 to 15, got \[16\]"),
        (lambda: fit(partitions=[[-1], [1]]), ValueError, r"within 0 to 15, got \[-1\]"),
        (lambda: fit(partitions=[[0.5], [1]]), TypeError, r"partitions\[0\] must hold integers"),
        (lambda: fit(partitions=[[0], [1], [2]]), ValueError, "one a variable, 2 in all, got 3"),
        (lambda: fit(max_epochs=0), ValueError, "max_epochs must be an integer of at least 1"),
        (lambda: fit(batch_size=2.5), TypeError, "batch_size must be an integer"),
        (lambda: fit(early_stopping=0), ValueError, "early_stopping"),
        (lambda: fit(lr=0.0), ValueError, "lr must be positive"),
        (lambda: fit(lr="fast"), TypeError, "lr must be a real number"),
        (lambda: fit(tol=np.nan), ValueError, "tol must be finite"),
        (lambda: fit(site=EqualityMLP(16)), TypeError, "site must be a SplitSite or HookSite"),
        (lambda: fit(partitions=3), TypeError, "partitions must be one list of coordinates"),
        (lambda: fit(data=changed(mask=lambda m: m[:, 0])), ValueError, r"shape \(n, V\)"),
        (lambda: fit(data=lambda data: "data"), TypeError, "must be Interventions, got str"),
        (lambda: fit(data=changed(base=lambda b: b / 0)), ValueError, "site must be finite"),
        (lambda: fit(lr_factor=1.0), ValueError, "lr_factor must lie between 0 and 1"),
        (lambda: fit(tol=-1.0), ValueError, "tol must be at least 0"),
        (lambda: fit(alignment="revnet", n_blocks=0), ValueError, "n_blocks"),
        (lambda: fit(alignment="revnet", hidden=0), ValueError, "hidden"),
        (lambda: fit(alignment="revnet", depth=0), ValueError, "depth"),
        (
            lambda: fit(data=changed(label=lambda y: y + 1)),
            ValueError,
            "network's 2 classes, got 2",
        ),
        (lambda: fit(data=changed(label=lambda y: y - 1)), ValueError, "at least 0, got -1"),
        (
            lambda: fit(data=changed(label=lambda y: y.double())),
            TypeError,
            "label must be integers",
        ),
        (lambda: fit(data=changed(label=lambda y: y[:3])), ValueError, r"label must have shape"),
        (
            lambda: fit(data=changed(mask=lambda m: m.long())),
            TypeError,
            "mask must be a tensor of torch.bool",
        ),
        (lambda: fit(data=changed(mask=lambda m: m[:3])), ValueError, r"mask must have shape"),
        (
            lambda: fit(data=changed(sources=lambda s: s[:, :1])),
            ValueError,
            r"sources must have shape \(",
        ),
        (lambda: fit(data=lambda data: data.select(slice(1))), ValueError, "at least 2"),
        (
            lambda: fit(data=lambda data: data.select(slice(0))),
            ValueError,
            "at least one, got none",
        ),
        (
            lambda: fit(site=SplitSite(lambda x: x.bfloat16(), lambda h: h[:, :2])),
            TypeError,
            "float32 or float64, got torch.bfloat16",
        ),
        (
            lambda: fit(site=SplitSite(lambda x: x, lambda h: h[:, 0])),
            ValueError,
            r"logits of shape \(n, c\)",
        ),
        (lambda: sample("some"), ValueError, 'mode must be "any", "all" or an integer from 0 to 1'),
        (lambda: sample(2), ValueError, "mode must be"),
        (lambda: sample(True), ValueError, "mode must be"),
        (lambda: sample(n=0), ValueError, "n must be an integer of at least 1"),
        (lambda: sample(model=CONSTANT, balanced=True), ValueError, "balanced must be False"),
        (lambda: CausalModel({}, len), ValueError, "at least one variable"),
        (lambda: CausalModel({"a": len}, len, {"a": len}), ValueError, "repeat a variable"),
        (
            lambda: CausalModel({"a": lambda x: x[:, 0]}, len).values(torch.rand(3, 2)),
            TypeError,
            "a must give integers",
        ),
        (
            lambda: CausalModel({"a": lambda x: x > 0}, len).values(torch.rand(3, 2)),
            ValueError,
            r"a must give shape \(3,\), got \(3, 2\)",
        ),
        (
            lambda: hierarchical_equality(vocab=torch.ones(3, 4)),
            ValueError,
            "at least 2 different rows, got 1",
        ),
        (lambda: hierarchical_equality(vocab=torch.ones(3)), ValueError, r"shape \(V, e\)"),
        (lambda: hierarchical_equality(0), ValueError, "embed_dim"),
        (lambda: EqualityMLP(16).site(4), ValueError, "layer must lie within 1 to 3, got 4"),
        (lambda: EqualityMLP(16).site(0), ValueError, "layer must lie within 1 to 3, got 0"),
        (lambda: RevNetAlignment(1), ValueError, "d must be an integer of at least 2"),
        (lambda: LinearAlignment(4)(torch.rand(2, 3)), ValueError, r"h must have shape \(n, 4\)"),
        (lambda: RevNetAlignment(4).inverse(torch.rand(4)), ValueError, r"z must have shape"),
        (
            lambda: WhitenedAlignment(IdentityAlignment(), torch.ones(5, 2)),
            ValueError,
            "H must hold different hidden states",
        ),
        (
            lambda: WhitenedAlignment(IdentityAlignment(), torch.full((5, 2), np.nan)),
            ValueError,
            "H must be finite",
        ),
        (
            lambda: WhitenedAlignment(IdentityAlignment(), torch.rand(5, 2), floor=0.0),
            ValueError,
            "floor must be above 0",
        ),
        (lambda: ladder(ladder=()), ValueError, "ladder must hold at least one map"),
        (lambda: ladder(ladder=("rotation",)), ValueError, "modules or names of identity"),
        (lambda: ladder(rate=1), TypeError, "options must be of the search, got rate"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def ladder(**options):
    data = sample()
    return alignment_ladder(EqualityMLP(16).site(1), HALVES, data, data, data, **options)


def test_score_before_fit_says_so(drawn):
    with pytest.raises(NotFittedError):
        DistributedAlignmentSearch(EqualityMLP(16).site(1), HALVES).score(drawn)
