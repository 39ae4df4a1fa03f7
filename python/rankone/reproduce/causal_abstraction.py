"""Causal abstraction and how much of it is the alignment map (arXiv 2507.08802).

A. A trained network: an orthogonal map finds both equalities in its first layer and not in its
last, a reversible network in every layer. B. An untrained network on a finite set of inputs: the
orthogonal map is at chance, the reversible one near 1, the lookup at 1 exactly. With continuous
inputs and torch's own initialisation an untrained network is not driven to 1; a row shows it.

``settings.data`` may name a folder with a pretrained causal language model, such as one of the
Pythia models: indirect-object identification is then aligned at its middle layer as well.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from rankone._sweep import sweep
from rankone.interpret._causal_models import seeded
from rankone.interpret.causal_abstraction import (
    DistributedAlignmentSearch,
    EqualityMLP,
    Interventions,
    LookupAlignment,
    Task,
    distributive_law,
    hierarchical_equality,
    interchange_intervention_accuracy,
    sample_interventions,
)
from rankone.reproduce import MUTED, SERIES, Claim, Figure, Reproduction, Settings, Table, panel
from rankone.reproduce._indirect_objects import indirect_objects

LAYERS = (1, 2, 3)
CHANCE = 0.5
_WORDS = 4
_TRAINING_RATE = 2e-3
_TRAINING_BATCH = 512
_TESTED = 10_000

# Seeds of the sets of interventions: training, validation, test.
_SET_SEEDS = (0, 1, 2)

# The task of each algorithm, and whether its interventions change the label half of the time
# without balancing.
ALGORITHMS = {
    "both_equality": ("continuous", True),
    "left_equality": ("continuous", True),
    "first_argument": ("vocabulary", False),
    "and_or_and": ("distributive", False),
    "and_or": ("distributive", False),
}

NAMES = {"identity": "identity", "orthogonal": "orthogonal", "revnet": "reversible network"}

# Means over 10 seeds of the paper's archived results, layers 1 to 3.
PUBLISHED = (
    ("both_equality", "orthogonal", 0.842, 0.614, 0.498),
    ("both_equality", "reversible network", 0.998, 0.999, 0.999),
    ("and_or_and", "orthogonal", 0.723, 0.660, 0.571),
    ("and_or_and", "reversible network", 0.998, 0.999, 0.997),
    ("and_or", "orthogonal", 0.792, 0.771, 0.770),
    ("and_or", "reversible network", 0.974, 0.925, 0.885),
    ("both_equality, untrained", "reversible network 10 x 128", 0.673, None, None),
    ("left_equality, untrained", "reversible network 10 x 128", 0.780, None, None),
    ("and_or_and, untrained", "reversible network 10 x 128", 0.861, None, None),
)


@dataclass(frozen=True)
class Scale:
    """Sizes of one run.

    Attributes:
        training_samples, training_epochs: of the trained networks.
        interventions: for training, validation and test of a map.
        seeds: networks.
        algorithms: that the trained networks are aligned with; both_equality is one.
        n_blocks: of the reversible network.
        hidden, untrained_hidden: its width on trained and untrained networks.
        orthogonal_epochs, revnet_epochs, untrained_epochs: at most.
        lr, batch_size: of the maps' training.
        progression: further widths of the reversible network.
        prompts: interventions of indirect-object identification, if a model is given.
    """

    training_samples: int = 2**17
    training_epochs: int = 10
    interventions: tuple[int, int, int] = (2**15, 3000, 10_000)
    seeds: tuple[int, ...] = (0,)
    algorithms: tuple[str, ...] = ("both_equality",)
    n_blocks: int = 5
    hidden: int = 32
    untrained_hidden: int = 64
    orthogonal_epochs: int = 4
    revnet_epochs: int = 5
    untrained_epochs: int = 8
    lr: float = 3e-3
    batch_size: int = 512
    progression: tuple[int, ...] = (2, 8)
    prompts: tuple[int, int, int] = (2000, 200, 500)


QUICK = Scale()
FULL = Scale(
    training_samples=2**20,
    training_epochs=20,
    interventions=(1_280_000, 10_000, 10_000),
    seeds=tuple(range(10)),
    algorithms=tuple(ALGORITHMS),
    n_blocks=10,
    hidden=16,
    untrained_hidden=128,
    orthogonal_epochs=50,
    revnet_epochs=50,
    untrained_epochs=50,
    lr=1e-3,
    batch_size=6400,
    progression=(1, 2, 4, 8, 16, 32, 64, 128),
    prompts=(1_000_000, 2048, 2**14),
)


@dataclass(frozen=True)
class _Source:
    """A network: its task, how its weights came about, its seed."""

    task: str
    weights: str  # "trained", "default" or "kaiming"
    seed: int


@dataclass(frozen=True)
class _Fit:
    """One map on one network."""

    source: _Source
    algorithm: str
    layer: int
    alignment: str  # of the search, or "lookup"
    hidden: int = 0
    epochs: int = 1
    whiten: bool = False


def run(settings: Settings) -> Reproduction:
    """Align trained and untrained networks with the algorithms of their tasks."""
    scale = settings.scale(quick=QUICK, full=FULL)
    grid = [fit for seed in scale.seeds for fit in _fits(scale, seed)]
    sources = list(dict.fromkeys(fit.source for fit in grid))
    offset = settings.random_state
    trained = dict(
        zip(
            sources,
            sweep(
                lambda source, _: _network(source, scale, offset),
                sources,
                random_state=offset,
                n_jobs=settings.n_jobs,
                description="networks",
                progress=settings.progress,
            ),
            strict=True,
        )
    )
    found = sweep(
        lambda cell, _: _aligned(cell[0], cell[1], scale, offset),
        [(fit, trained[fit.source][0]) for fit in grid],
        random_state=offset,
        n_jobs=settings.n_jobs,
        description="maps",
        progress=settings.progress,
    )
    results = dict(zip(grid, found, strict=True))
    accuracy = {source: trained[source][1] for source in sources}
    tables = [
        _grid_table(results, scale),
        _untrained_table(results, accuracy, scale),
        Table(
            title="Published interchange intervention accuracy",
            columns=("algorithm", "map", *(f"layer {layer}" for layer in LAYERS)),
            rows=PUBLISHED,
            note="Means over 10 seeds at the paper's scale; untrained networks with torch's own "
            "initialisation.",
            published=True,
        ),
    ]
    if settings.data is not None:
        tables.append(
            indirect_objects(
                settings.data,
                scale.prompts,
                batch_size=scale.batch_size,
                device=settings.device,
                random_state=offset,
            )
        )
    return Reproduction(
        slug="causal-abstraction",
        claims=_claims(results, accuracy, scale),
        tables=tuple(tables),
        figures=(_figure(results, scale),),
        settings={
            "trained": f"{scale.training_samples} samples, {scale.training_epochs} epochs, Adam "
            f"{_TRAINING_RATE:g}, batch {_TRAINING_BATCH}",
            "untrained": f"Kaiming-normal weights, zero biases, {_WORDS}-word vocabulary, "
            f"{_WORDS**4} inputs, layer 1, whitened states",
            "maps": f"{scale.interventions[0]} interventions, Adam {scale.lr:g}, batch "
            f"{scale.batch_size}; reversible network of {scale.n_blocks} blocks",
            "seeds": len(scale.seeds),
            "model": str(settings.data or "none given"),
        },
    )


def _fits(scale: Scale, seed: int) -> list[_Fit]:
    fits = []
    for algorithm in scale.algorithms:
        source = _Source(ALGORITHMS[algorithm][0], "trained", seed)
        for layer in LAYERS:
            fits += [
                _Fit(source, algorithm, layer, "identity"),
                _Fit(source, algorithm, layer, "orthogonal", epochs=scale.orthogonal_epochs),
                _Fit(source, algorithm, layer, "revnet", scale.hidden, scale.revnet_epochs),
            ]
        if ALGORITHMS[algorithm][0] != "vocabulary":
            fits.append(_continuous_control(scale, algorithm, seed))
    fits += [_trained_revnet(scale, seed, hidden) for hidden in scale.progression]
    untrained = _Source("vocabulary", "kaiming", seed)
    fits.append(
        _Fit(
            untrained,
            "both_equality",
            1,
            "orthogonal",
            epochs=scale.orthogonal_epochs,
            whiten=True,
        )
    )
    widths = (*scale.progression, scale.untrained_hidden)
    fits += [_untrained_revnet(scale, seed, hidden) for hidden in widths]
    fits.append(_Fit(untrained, "both_equality", 1, "lookup"))
    return list(dict.fromkeys(fits))


def _trained_revnet(scale: Scale, seed: int, hidden: int) -> _Fit:
    source = _Source("continuous", "trained", seed)
    return _Fit(source, "both_equality", LAYERS[-1], "revnet", hidden, scale.revnet_epochs)


def _untrained_revnet(scale: Scale, seed: int, hidden: int) -> _Fit:
    source = _Source("vocabulary", "kaiming", seed)
    return _Fit(source, "both_equality", 1, "revnet", hidden, scale.untrained_epochs, whiten=True)


def _continuous_control(scale: Scale, algorithm: str, seed: int) -> _Fit:
    source = _Source(ALGORITHMS[algorithm][0], "default", seed)
    return _Fit(source, algorithm, 1, "revnet", scale.untrained_hidden, scale.revnet_epochs)


def _task(name: str, seed: int) -> Task:
    if name == "distributive":
        return distributive_law()
    if name == "continuous":
        return hierarchical_equality()
    generator = torch.Generator().manual_seed(seed)
    return hierarchical_equality(vocab=torch.rand(_WORDS, 4, generator=generator) - 0.5)


def _network(source: _Source, scale: Scale, offset: int) -> tuple[EqualityMLP, float]:
    """The network and its accuracy on fresh inputs."""
    seed = source.seed + offset
    task = _task(source.task, seed)
    algorithm = next(iter(task.causal_models.values()))
    generator = torch.Generator().manual_seed(seed)
    with seeded(seed):
        network = EqualityMLP(task.input_dim, task.n_classes)
        if source.weights == "kaiming":
            for module in network.modules():
                if isinstance(module, nn.Linear):
                    nn.init.kaiming_normal_(module.weight)
                    nn.init.zeros_(module.bias)
    if source.weights == "trained":
        x = task.sampler(scale.training_samples, generator)
        label = algorithm.run(x)
        optimizer = torch.optim.Adam(network.parameters(), lr=_TRAINING_RATE)
        for _ in range(scale.training_epochs):
            for rows in torch.randperm(len(x), generator=generator).split(_TRAINING_BATCH):
                loss = nn.functional.cross_entropy(network(x[rows]), label[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    fresh = task.sampler(_TESTED, generator)
    with torch.no_grad():
        right = network(fresh).argmax(dim=1) == algorithm.run(fresh)
    return network, right.double().mean().item()


def _sets(fit: _Fit, task: Task, scale: Scale, seed: int) -> list[Interventions]:
    return [
        sample_interventions(
            task.sampler,
            task.causal_models[fit.algorithm],
            n,
            random_state=seed * len(_SET_SEEDS) + part,
            balanced=not ALGORITHMS[fit.algorithm][1],
        )
        for n, part in zip(scale.interventions, _SET_SEEDS, strict=True)
    ]


def _aligned(fit: _Fit, network: EqualityMLP, scale: Scale, offset: int) -> dict[str, float]:
    seed = fit.source.seed + offset
    task = _task(fit.source.task, seed)
    train, validation, test = _sets(fit, task, scale, seed)
    site = copy.deepcopy(network).site(fit.layer)  # jobs in threads must not share modes
    model = task.causal_models[fit.algorithm]
    d = task.input_dim
    if fit.alignment == "lookup" and task.inputs is not None:
        # Two leftover coordinates keep the base's index where both variables are swapped.
        groups = [range(d // 2 - 1), range(d // 2 - 1, d - 2)]
        lookup = LookupAlignment(site, model, task.inputs, groups, random_state=seed)
        differ = test.sources_differ()
        return {
            "iia": interchange_intervention_accuracy(site, lookup, groups, test.select(differ)),
            "all": interchange_intervention_accuracy(site, lookup, groups, test),
            "reused": 1 - differ.double().mean().item(),
        }
    # One variable takes the first half; two take a half each.
    groups = [range(d // 2), range(d // 2, d)][: len(model.variables)]
    search = DistributedAlignmentSearch(
        site,
        groups,
        fit.alignment,
        n_blocks=scale.n_blocks,
        hidden=fit.hidden or None,
        whiten=fit.whiten,
        lr=scale.lr,
        max_epochs=fit.epochs,
        batch_size=scale.batch_size,
        random_state=seed,
    ).fit(train, validation)
    return {"iia": search.score(test), "n_parameters": search.n_parameters_}


def _of(results: dict[_Fit, dict[str, float]], **wanted: object) -> np.ndarray:
    """Accuracies of the fits with these fields, a seed each."""
    return np.array(
        [
            result["iia"]
            for fit, result in results.items()
            if all(getattr(fit, name) == value for name, value in wanted.items())
        ]
    )


def _trained(results: dict, scale: Scale, algorithm: str, layer: int, alignment: str) -> np.ndarray:
    return np.array(
        [
            result["iia"]
            for fit, result in results.items()
            if fit.source.weights == "trained"
            and (fit.algorithm, fit.layer, fit.alignment) == (algorithm, layer, alignment)
            and (alignment != "revnet" or fit.hidden == scale.hidden)
        ]
    )


def _claims(results: dict, accuracy: dict[_Source, float], scale: Scale) -> tuple[Claim, ...]:
    """Of several seeds, the worst."""
    seeds = scale.seeds
    solved = [accuracy[_Source("continuous", "trained", seed)] for seed in seeds]
    chance = [accuracy[_Source("vocabulary", "kaiming", seed)] for seed in seeds]
    rotated = {
        layer: _trained(results, scale, "both_equality", layer, "orthogonal") for layer in (1, 3)
    }
    untrained = [_untrained_revnet(scale, seed, scale.untrained_hidden) for seed in seeds]
    farthest = max(chance, key=lambda value: abs(value - CHANCE))
    return (
        Claim.at_least("trained network: accuracy on its task", min(solved), 0.99),
        Claim.at_most("trained network, layer 3: accuracy under the orthogonal map",
                      rotated[3].max(), 0.60),
        Claim.at_least("trained network, layer 3: accuracy under the reversible network",
                       _trained(results, scale, "both_equality", 3, "revnet").min(), 0.97),
        Claim.at_least("trained network, orthogonal map: accuracy at layer 1 less that at layer 3",
                       (rotated[1] - rotated[3]).min(), 0.1, strict=True),
        Claim.close("untrained network: accuracy on the task", farthest, CHANCE, absolute=0.1),
        Claim.at_most("untrained network: accuracy under the orthogonal map",
                      _of(results, whiten=True, alignment="orthogonal").max(), 0.60),
        Claim.at_least("untrained network: accuracy under the reversible network",
                       min(results[fit]["iia"] for fit in untrained), 0.90),
        Claim.exact("untrained network: accuracy under the lookup, sources different from the base",
                    _of(results, alignment="lookup").min(), 1.0),
    )  # fmt: skip


def _grid_table(results: dict, scale: Scale) -> Table:
    rows: list[tuple[str | float | None, ...]] = []
    for algorithm in scale.algorithms:
        for alignment, name in NAMES.items():
            means = [
                _trained(results, scale, algorithm, layer, alignment).mean() for layer in LAYERS
            ]
            rows.append((algorithm, name, *(float(mean) for mean in means)))
        if ALGORITHMS[algorithm][0] != "vocabulary":
            fits = [_continuous_control(scale, algorithm, seed) for seed in scale.seeds]
            control = float(np.mean([results[fit]["iia"] for fit in fits]))
            name = f"{NAMES['revnet']}, {scale.untrained_hidden} wide"
            rows.append((f"{algorithm}, untrained", name, control, None, None))
    return Table(
        title="Interchange intervention accuracy at each layer",
        columns=("algorithm", "map", *(f"layer {layer}" for layer in LAYERS)),
        rows=tuple(rows),
        note=f"Means of {len(scale.seeds)} seeds; half of the interventions change the label. "
        "Untrained: continuous inputs, torch's own initialisation, states as they are. "
        f"first_argument is on a vocabulary of {_WORDS} words.",
    )


def _untrained_table(results: dict, accuracy: dict[_Source, float], scale: Scale) -> Table:
    rows = []
    for i, seed in enumerate(scale.seeds):
        source = _Source("vocabulary", "kaiming", seed)
        lookup = results[_Fit(source, "both_equality", 1, "lookup")]
        rows.append(
            (
                seed,
                accuracy[source],
                float(_of(results, whiten=True, alignment="orthogonal")[i]),
                results[_untrained_revnet(scale, seed, scale.untrained_hidden)]["iia"],
                lookup["iia"],
                lookup["all"],
                lookup["reused"],
            )
        )
    return Table(
        title="An untrained network on a finite set of inputs, both_equality at layer 1",
        columns=(
            "seed",
            "task accuracy",
            "orthogonal",
            "reversible network",
            "lookup",
            "lookup, all draws",
            "draws that reuse the base",
        ),
        rows=tuple(rows),
    )


def _figure(results: dict, scale: Scale) -> Figure:
    with panel("layer", "interchange intervention accuracy") as (layers, axes):
        for (alignment, name), color in zip(NAMES.items(), SERIES, strict=False):
            values = [
                _trained(results, scale, "both_equality", layer, alignment) for layer in LAYERS
            ]
            axes.plot(LAYERS, [v.mean() for v in values], "o-", color=color, label=name)
            if len(scale.seeds) > 1:
                lowest, highest = ([f(v) for v in values] for f in (np.min, np.max))
                axes.fill_between(LAYERS, lowest, highest, color=color, alpha=0.15, linewidth=0)
        _finished(axes)
        axes.set_xticks(LAYERS)
    with panel("parameters of the reversible network", "") as (parameters, axes):
        networks = (
            ("trained, layer 3", _trained_revnet, scale.hidden),
            ("untrained, layer 1", _untrained_revnet, scale.untrained_hidden),
        )
        for (name, fit_of, own), color in zip(networks, SERIES[2:], strict=False):
            widths = sorted({*scale.progression, own})
            fits = [[fit_of(scale, seed, width) for seed in scale.seeds] for width in widths]
            sizes = [results[fit[0]]["n_parameters"] for fit in fits]
            means = [np.mean([results[f]["iia"] for f in fit]) for fit in fits]
            axes.plot(sizes, means, "o-", color=color, label=name)
        axes.set_xscale("log")
        _finished(axes)
    return Figure.render(
        "A map strong enough finds the algorithm anywhere",
        "Both equalities of the hierarchical task. Left: the trained network; what the orthogonal "
        "map loses from layer to layer the reversible network keeps. Right: the reversible "
        f"network's width grows; the untrained network knows {_WORDS**4} inputs, with whitened "
        "states. Dashed: chance.",
        layers,
        parameters,
    )


def _finished(axes: object) -> None:
    axes.axhline(CHANCE, color=MUTED, linestyle="--", linewidth=1)  # type: ignore[attr-defined]
    axes.set_ylim(0.4, 1.03)  # type: ignore[attr-defined]
    axes.legend()  # type: ignore[attr-defined]
