"""The local interaction basis (arXiv 2405.10928): modules recovered, few interactions, invariance.

Networks of two modules that are hidden by random changes of basis, and multilayer perceptrons on
digits, in the interaction, PCA and neuron bases. The full mode adds a perceptron on 28 x 28 images
and a one-layer transformer for addition modulo a prime.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from rankone._sweep import sweep
from rankone.interpret.interaction_basis import (
    InteractionBasis,
    interaction_modularity,
    plot_interaction_graph,
)
from rankone.reproduce import SERIES, Claim, Figure, Reproduction, Settings, Table, panel

NAMES = {"interaction": "interaction basis", "pca": "PCA", "neuron": "neurons"}

MODULE = 4  # width of a hidden module
NODE_LAYERS = slice(1, 3)  # edges between the mixed inner node layers
# The random mixings have condition numbers up to about 1e4, which enter the Gram squared.
MIXED_RTOL = 1e-13

LOST_ACCURACY = 0.001  # allowed by the edge ablation
HIDDEN = 1  # node layer of the ablation curves, and where the counted edges start


@dataclass(frozen=True)
class Addition:
    """A one-layer transformer that adds modulo a prime.

    Attributes:
        modulus, width, heads, hidden: p, and sizes of the model.
        steps, train_fraction: of full-batch training.
    """

    modulus: int = 113
    width: int = 128
    heads: int = 4
    hidden: int = 512
    steps: int = 25_000
    train_fraction: float = 0.3


@dataclass(frozen=True)
class Scale:
    """Sizes of one run.

    Attributes:
        networks: hidden-module networks.
        draws: inputs of each of the two modules; the data are all pairs.
        widths, epochs, seeds: of the perceptrons on digits.
        ablated: numbers of directions kept; the claim is at the entry 8 where there is one.
        image_widths, image_epochs: of the perceptron on 28 x 28 images; none without epochs.
        addition: the transformer, or None.
    """

    networks: int = 20
    draws: int = 32
    widths: tuple[int, ...] = (64, 32, 32, 10)
    epochs: int = 120
    seeds: int = 3
    ablated: tuple[int, ...] = (1, 2, 4, 6, 8, 10, 12, 16, 20, 24)
    image_widths: tuple[int, ...] = (784, 100, 100, 10)
    image_epochs: int = 0
    addition: Addition | None = None


QUICK = Scale()
FULL = Scale(networks=100, seeds=5, image_epochs=30, addition=Addition())


def run(settings: Settings) -> Reproduction:
    """Hidden modules, digits, and in full mode larger networks."""
    scale = settings.scale(quick=QUICK, full=FULL)
    modules = _sweep(settings, _hidden_modules, range(scale.networks), scale, "hidden modules")
    digits = _sweep(settings, _digits, range(scale.seeds), scale, "digits")
    tables = [_modules_table(modules), _network_table("Perceptrons on digits", digits)]
    if scale.image_epochs:
        images = _image_data(settings)
        found = [_images(settings, scale, images, seed) for seed in range(scale.seeds)]
        tables.append(_network_table(f"Perceptrons on {images[-1]}", found))
    if scale.addition is not None:
        found = [_addition(settings, scale.addition, seed) for seed in range(scale.seeds)]
        title = f"One-layer transformers that add modulo {scale.addition.modulus}"
        tables.append(_network_table(title, found))
    return Reproduction(
        slug="interaction-basis",
        claims=(*_modules_claims(modules), *_digits_claims(digits, scale)),
        tables=tuple(tables),
        figures=(_graphs(settings, scale), _curves(digits, scale)),
        settings={
            "hidden modules": f"{scale.networks} networks of two modules of width {MODULE}, "
            f"{scale.draws}^2 inputs, rtol {MIXED_RTOL:g}: at the default 1e-10 a mixing of high "
            "condition can push a direction below the cutoff, the one step that depends on the "
            "basis",
            "graph": "edges between the three inner node layers, logarithmic, floor 1e-6",
            "digits": f"{'-'.join(map(str, scale.widths))} ReLU, {scale.epochs} epochs, "
            f"{scale.seeds} seeds; bases from the training data, errors on held-out data",
        },
    )


def _sweep(
    settings: Settings, function: Callable, cells: range, scale: Scale, description: str
) -> list[Any]:
    # Seeds of the cells' own, so that a network is the same in every sweep.
    return sweep(
        lambda cell, _: function(settings.random_state + cell, scale),
        cells,
        random_state=settings.random_state,
        n_jobs=settings.n_jobs,
        description=description,
        progress=settings.progress,
    )


def _modular_section(into: Tensor, bias: Tensor, out: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda z: torch.relu(z @ into + bias) @ out


def modular_sections(seed: int, mixed: bool) -> list[Callable[[Tensor], Tensor]]:
    """Four sections of two independent modules, the inner node layers in random bases if mixed."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def blocks(rows: int, columns: int) -> Tensor:
        return torch.block_diag(*(normal(rows, columns) for _ in range(2)))

    identity = torch.eye(2 * MODULE, dtype=torch.float64)
    undo = identity
    sections: list[Callable[[Tensor], Tensor]] = []
    for k in range(4):
        first = 1.4 * blocks(MODULE, 2 * MODULE) / MODULE**0.5
        second = 1.4 * blocks(2 * MODULE, MODULE) / (2 * MODULE) ** 0.5
        bias, mixing = 0.1 * normal(4 * MODULE), normal(2 * MODULE, 2 * MODULE)
        if not mixed or k == 3:
            mixing = identity
        sections.append(_modular_section(undo @ first, bias, second @ mixing))
        undo = torch.linalg.inv(mixing)
    return sections


def factorial_inputs(seed: int, draws: int) -> Tensor:
    """All pairs of inputs of two modules, whose sample covariance is exactly block diagonal."""
    generator = torch.Generator().manual_seed(seed)
    generator.manual_seed(int(torch.randint(2**31, (), generator=generator)))
    first, second = torch.randn(2, draws, MODULE, generator=generator, dtype=torch.float64)
    return torch.cat([first.repeat_interleave(draws, 0), second.repeat(draws, 1)], dim=1)


def _modular_basis(basis: str, mixed: bool, seed: int, draws: int) -> tuple[Any, list[Tensor], Any]:
    X = factorial_inputs(seed, draws)
    model = InteractionBasis(basis, rtol=MIXED_RTOL, rtol_jacobian=MIXED_RTOL)
    edges = model.fit(modular_sections(seed, mixed), X).edges(X)[NODE_LAYERS]
    return model, edges, interaction_modularity(edges)


def _hidden_modules(seed: int, scale: Scale) -> dict[tuple[str, bool], tuple[float, int]]:
    """Score and number of communities by basis and mixing."""
    found = {}
    for basis in NAMES:
        for mixed in (True, False):
            _, _, result = _modular_basis(basis, mixed, seed, scale.draws)
            found[basis, mixed] = result.score, len(result.communities)
    return found


def _scores(modules: list[dict], basis: str, mixed: bool) -> np.ndarray:
    return np.array([network[basis, mixed][0] for network in modules])


def _modules_claims(modules: list[dict]) -> list[Claim]:
    interaction = _scores(modules, "interaction", True)
    communities = [network["interaction", True][1] for network in modules]
    return [
        Claim.at_least(
            "hidden modules, interaction basis of mixed networks: modularity, median",
            float(np.median(interaction)),
            0.45,
            note=f"{interaction.min():.3f} to {interaction.max():.3f}; 0.5 is the ceiling",
        ),
        Claim.exact(
            "hidden modules, interaction basis of mixed networks: communities, median",
            int(np.median(communities)),
            2,
        ),
        Claim.at_most(
            "hidden modules, interaction basis: largest change of modularity by mixing",
            float(np.abs(interaction - _scores(modules, "interaction", False)).max()),
            1e-6,
            expected="0",
        ),
        Claim.at_most(
            "hidden modules, PCA of mixed networks: highest modularity",
            float(_scores(modules, "pca", True).max()),
            0.2,
        ),
        Claim.at_least(
            "hidden modules, PCA of unmixed networks: lowest modularity",
            float(_scores(modules, "pca", False).min()),
            0.45,
        ),
        Claim.at_most(
            "hidden modules, neurons of mixed networks: highest modularity",
            float(_scores(modules, "neuron", True).max()),
            0.1,
        ),
    ]


def _modules_table(modules: list[dict]) -> Table:
    rows: list[tuple[str | float, ...]] = []
    for basis, name in NAMES.items():
        for mixed in (True, False):
            scores = _scores(modules, basis, mixed)
            rows.append(
                (
                    f"{name}, {'mixed' if mixed else 'unmixed'}",
                    *(float(np.quantile(scores, q)) for q in (0, 0.5, 1)),
                    float(np.median([network[basis, mixed][1] for network in modules])),
                )
            )
    return Table(
        title="Modularity of networks with two hidden modules",
        columns=("", "lowest", "median", "highest", "communities, median"),
        rows=tuple(rows),
    )


def perceptron(widths: tuple[int, ...], seed: int) -> nn.Sequential:
    """Linear layers with ReLUs between them, torch's initialisation."""
    layers: list[nn.Module] = []
    with torch.device("meta"):
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return _initialised(nn.Sequential(*layers[:-1]), torch.Generator().manual_seed(seed))


Module = TypeVar("Module", bound=nn.Module)


def _initialised(model: Module, generator: torch.Generator) -> Module:
    """Linear layers as torch initialises them, without its global generator, which jobs share."""
    model.to_empty(device="cpu")
    for module in model.modules():
        if isinstance(module, nn.Linear):
            bound = module.in_features**-0.5
            for parameter in module.parameters():
                nn.init.uniform_(parameter, -bound, bound, generator=generator)
    return model


def train(model: nn.Module, X: Tensor, y: Tensor, epochs: int, seed: int) -> nn.Module:
    """AdamW, learning rate 3e-3, weight decay 1e-3, batches of 64."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(X), generator=generator).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(X[batch]), y[batch]).backward()
            optimizer.step()
    return model


def digit_data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """scikit-learn's digits, pixels in [0, 1]: training and held-out inputs, then labels."""
    images, labels = load_digits(return_X_y=True)
    pixels = torch.as_tensor(images / 16, dtype=torch.float32)
    parts = train_test_split(
        pixels, torch.as_tensor(labels), test_size=0.25, stratify=labels, random_state=0
    )
    return tuple(parts)


def perceptron_sections(model: nn.Module) -> list[nn.Module]:
    """A section for every linear layer with its ReLU."""
    assert isinstance(model, nn.Sequential)
    return [model[i : i + 2] for i in range(0, len(model), 2)]


def interaction_mass_edges(edges: Tensor, mass: float = 0.99) -> int:
    """Smallest number of edges whose strengths sum to that share of all."""
    held = edges.flatten().sort(descending=True).values.cumsum(0)
    return int((held < mass * held[-1]).sum()) + 1


def required_edges(accuracy: Callable[[int], float], n_edges: int, target: float) -> int:
    """Smallest number of edges by bisection, taking accuracy to grow with their number."""
    low, high = 0, n_edges
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if accuracy(middle) >= target else (middle + 1, high)
    return high


def _measured(
    sections: list[nn.Module], X: Tensor, X_test: Tensor, y_test: Tensor, ks: tuple[int, ...]
) -> dict[str, dict[str, Any]]:
    """Bases of one network: directions, edges and what ablations cost, by basis."""
    found = {}
    for basis in NAMES:
        model = InteractionBasis(basis).fit(sections, X)
        edges = model.edges(X)[HIDDEN]
        shown = [k for k in ks if k <= len(model.layers_[HIDDEN].mean_)]
        outputs = model.activations(X_test, len(sections))
        correct = float((outputs.argmax(-1) == y_test).double().mean())

        def accuracy(count: int, model: Any = model, edges: Tensor = edges) -> float:
            curve = model.edge_ablation_curve(X_test, y_test, edges, HIDDEN, [count])
            return float(curve[0])

        found[basis] = {
            "directions": [layer.n_directions for layer in model.layers_],
            "importance": [layer.importance_.cpu().numpy() for layer in model.layers_],
            "edges": interaction_mass_edges(edges),
            "required": required_edges(accuracy, edges.numel(), correct - LOST_ACCURACY),
            "accuracy": correct,
            "errors": model.ablation_curve(X_test, outputs, HIDDEN, shown, "squared_error"),
            "accuracies": model.ablation_curve(X_test, y_test, HIDDEN, shown),
        }
    return found


def _digits(seed: int, scale: Scale) -> dict[str, Any]:
    X, X_test, y, y_test = digit_data()
    model = train(perceptron(scale.widths, seed), X, y, scale.epochs, seed)
    sections = perceptron_sections(model)
    found: dict[str, Any] = _measured(sections, X, X_test, y_test, scale.ablated)
    changed = InteractionBasis().fit(_rewritten(sections, scale.widths, seed), X)
    before = found["interaction"]["importance"]
    after = [layer.importance_.numpy() for layer in changed.layers_]
    found["change"] = max(map(_change, before[1:-1], after[1:-1]))
    found["change of each"] = _change(before[2], after[2], each=True)
    return found


def _change(before: np.ndarray, after: np.ndarray, each: bool = False) -> float:
    """Largest change of an importance, over the largest of the layer or over each one itself."""
    if len(before) != len(after):
        return np.inf
    return float((np.abs(after - before) / (before if each else before[0])).max())


def _rewritten(
    sections: list[nn.Module], widths: tuple[int, ...], seed: int
) -> list[Callable[[Tensor], Tensor]]:
    """The same network with every hidden node layer in a random invertible basis."""
    generator = torch.Generator().manual_seed(seed)
    undo = torch.eye(widths[0], dtype=torch.float64)
    rewritten: list[Callable[[Tensor], Tensor]] = []
    for section, width in zip(sections, widths[1:], strict=True):
        mixing = torch.randn(width, width, generator=generator, dtype=torch.float64)
        if section is sections[-1]:
            mixing = torch.eye(width, dtype=torch.float64)
        into, out = nn.Linear(len(undo), len(undo), bias=False), nn.Linear(width, width, bias=False)
        into.weight, out.weight = nn.Parameter(undo.T), nn.Parameter(mixing.T)
        rewritten.append(nn.Sequential(into, section, out))
        undo = torch.linalg.inv(mixing)
    return rewritten


def _digits_claims(digits: list[dict], scale: Scale) -> list[Claim]:
    def counts(basis: str) -> tuple[int, ...]:
        return tuple(network[basis]["edges"] for network in digits)

    def ratios(basis: str) -> list[float]:
        pairs = zip(counts(basis), counts("interaction"), strict=True)
        return [other / own for other, own in pairs]

    kept = 8 if 8 in scale.ablated else scale.ablated[0]
    at = scale.ablated.index(kept)
    errors = [
        (network["interaction"]["errors"][at], network["pca"]["errors"][at]) for network in digits
    ]
    directions = [network["interaction"]["directions"][2] for network in digits]
    return [
        Claim.at_most(
            "digits, edges between hidden layers that hold 99 % of the interaction, interaction "
            "basis: most of any seed",
            max(counts("interaction")),
            60,
            note=", ".join(map(str, counts("interaction"))),
        ),
        Claim.at_least(
            "digits, the same edges, PCA over interaction basis: least ratio",
            min(ratios("pca")),
            2.5,
            note=", ".join(map(str, counts("pca"))),
        ),
        Claim.at_least(
            "digits, the same edges, neurons over interaction basis: least ratio",
            min(ratios("neuron")),
            8,
            note=", ".join(map(str, counts("neuron"))),
        ),
        Claim.at_most(
            f"digits, squared error of the logits with {kept} of {scale.widths[1]} directions of "
            "the first hidden layer, interaction basis over PCA: highest ratio",
            max(own / pca for own, pca in errors),
            0.4,
            note=", ".join(f"{own:.2f}/{pca:.2f}" for own, pca in errors),
        ),
        Claim.at_most(
            "digits, importances of both hidden layers after random invertible changes of basis: "
            "largest change over the largest importance of the layer",
            max(network["change"] for network in digits),
            1e-8,
            expected="0",
        ),
        Claim.at_most(
            "digits, each importance of the second hidden layer after these changes of basis: "
            "largest relative change",
            max(network["change of each"] for network in digits),
            1e-8,
            expected="0",
            note="in the first hidden layer importances span 8 decades, and the smallest carry the "
            "rounding errors of the largest",
        ),
        Claim.at_most(
            f"digits, directions kept of the {scale.widths[2]} of the second hidden layer: most of "
            "any seed",
            max(directions),
            scale.widths[-1],
            expected=f"{scale.widths[-1]}, the number of outputs",
        ),
    ]


def _network_table(title: str, networks: list[dict]) -> Table:
    def row(basis: str, name: str) -> tuple[Any, ...]:
        found = [network[basis] for network in networks]
        return (
            name,
            tuple(f["directions"][HIDDEN] for f in found),
            tuple(f["edges"] for f in found),
            tuple(f["required"] for f in found),
            float(np.mean([f["accuracy"] for f in found])),
        )

    return Table(
        title=title,
        columns=(
            "",
            f"directions at node layer {HIDDEN}",
            "edges with 99 %",
            "edges required",
            "accuracy, mean",
        ),
        rows=tuple(row(basis, name) for basis, name in NAMES.items()),
        note=f"Edges from node layer {HIDDEN} on, a number a seed; required for an accuracy within "
        f"{LOST_ACCURACY:g}, by bisection over the edges ranked by strength.",
    )


def _image_data(settings: Settings) -> tuple[Tensor, Tensor, Tensor, Tensor, str]:
    """MNIST from the user's npz file, or digits enlarged to 28 x 28, in [0, 1]."""
    if settings.data is not None:
        names = ("x_train", "x_test", "y_train", "y_test")
        with np.load(settings.data) as archive:
            missing = [name for name in names if name not in archive]
            if missing:
                raise ValueError(
                    f"data must be an npz file with {', '.join(names)}, got one without "
                    f"{', '.join(missing)}"
                )
            x, x_test, y, y_test = (torch.as_tensor(archive[name]) for name in names)
        x, x_test = (images.flatten(1).float() / 255 for images in (x, x_test))
        source = settings.data.name
    else:
        x, x_test, y, y_test = digit_data()
        x, x_test = (
            F.interpolate(images.reshape(-1, 1, 8, 8), size=28, mode="bilinear").flatten(1)
            for images in (x, x_test)
        )
        source = "scikit-learn's digits enlarged to 28 x 28"
    device = settings.device
    return x.to(device), x_test.to(device), y.long().to(device), y_test.long().to(device), source


def _images(settings: Settings, scale: Scale, data: tuple, seed: int) -> dict[str, Any]:
    X, X_test, y, y_test, _ = data
    seed += settings.random_state
    model = perceptron(scale.image_widths, seed).to(settings.device)
    train(model, X, y, scale.image_epochs, seed)
    ks = scale.ablated
    return _measured(perceptron_sections(model), X, X_test, y_test, ks)


class ResidualAttention(nn.Module):
    """Causal softmax attention added to its input (batch, time, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        q, k, v = self.qkv(h).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        future = torch.ones(h.shape[1], h.shape[1], dtype=torch.bool, device=h.device).triu(1)
        mixed = scores.masked_fill(future, -torch.inf).softmax(-1) @ v
        return h + self.out(mixed.transpose(1, 2).flatten(2))


class ResidualPerceptron(nn.Module):
    """A ReLU layer added to its input."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))

    def forward(self, h: Tensor) -> Tensor:
        return h + self.layers(h)


class LastPosition(nn.Module):
    """Logits (batch, modulus) of the last position."""

    def __init__(self, width: int, modulus: int) -> None:
        super().__init__()
        self.unembed = nn.Linear(width, modulus, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        return self.unembed(h[:, -1])


def _addition(settings: Settings, sizes: Addition, seed: int) -> dict[str, Any]:
    """A transformer trained on a + b, its node layers the residual stream and the logits."""
    seed += settings.random_state
    p = sizes.modulus
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        blocks = nn.Sequential(
            ResidualAttention(sizes.width, sizes.heads),
            ResidualPerceptron(sizes.width, sizes.hidden),
            LastPosition(sizes.width, p),
        )
    blocks = _initialised(blocks, generator).to(settings.device)
    # A vector for each number and the equals sign, and one for each of three positions.
    drawn = torch.randn(p + 4, sizes.width, generator=generator) * sizes.width**-0.5
    embedding, position = (
        nn.Parameter(part.to(settings.device)) for part in drawn.split([p + 1, 3])
    )
    order = torch.randperm(p * p, generator=generator)
    a, b = torch.arange(p).repeat_interleave(p), torch.arange(p).repeat(p)
    tokens = torch.stack([a, b, torch.full_like(a, p)], dim=1).to(settings.device)
    sums = ((a + b) % p).to(settings.device)
    seen = order[: round(sizes.train_fraction * p * p)].to(settings.device)
    optimizer = torch.optim.AdamW(
        [*blocks.parameters(), embedding, position], lr=1e-3, weight_decay=1.0, betas=(0.9, 0.98)
    )
    for _ in settings.track(range(sizes.steps), f"training addition, seed {seed}"):
        optimizer.zero_grad()
        logits = blocks(embedding[tokens[seen]] + position)
        F.cross_entropy(logits, sums[seen]).backward()
        optimizer.step()
    X = (embedding[tokens] + position).detach()
    return _measured(list(blocks), X, X, sums, (sizes.width,))


def _graphs(settings: Settings, scale: Scale) -> Figure:
    drawings = []
    for basis, name in NAMES.items():
        model, edges, result = _modular_basis(basis, True, settings.random_state, scale.draws)
        title = f"{name}, modularity {result.score:.2f}"
        with panel("node layer", "", title=title) as (drawing, axes):
            plot_interaction_graph(model, edges, result.communities, axes, first_layer=1)
        drawings.append(drawing)
    return Figure.render(
        "Two modules, hidden by random changes of basis",
        "One network in three bases. A dot is a direction, sized by importance; a line is an "
        "interaction, darker when stronger; colours are Louvain communities, and grey lines join "
        "two of them.",
        *drawings,
    )


def _curves(digits: list[dict], scale: Scale) -> Figure:
    shown = [k for k in scale.ablated if k <= scale.widths[HIDDEN]]
    with panel("directions kept", "squared error of the logits") as (errors, axes):
        for (basis, name), color in zip(NAMES.items(), SERIES, strict=False):
            runs = np.array([network[basis]["errors"][: len(shown)] for network in digits])
            axes.plot(
                shown, np.exp(np.log(runs + 1e-12).mean(axis=0)), "o-", color=color, label=name
            )
            axes.fill_between(
                shown, runs.min(axis=0) + 1e-12, runs.max(axis=0) + 1e-12, color=color, alpha=0.15
            )
        axes.set_yscale("log")
        axes.legend()
    with panel("directions kept", "accuracy") as (accuracy, axes):
        for (basis, name), color in zip(NAMES.items(), SERIES, strict=False):
            runs = np.array([network[basis]["accuracies"][: len(shown)] for network in digits])
            axes.plot(shown, runs.mean(axis=0), "o-", color=color, label=name)
        axes.legend()
    return Figure.render(
        "Digits with a part of the first hidden layer's directions",
        "Held-out data; the other directions at their mean (neurons: at zero). Left: geometric "
        f"mean and range of {scale.seeds} seeds. Right: mean accuracy, in which the "
        "interaction basis and PCA tie.",
        errors,
        accuracy,
    )
