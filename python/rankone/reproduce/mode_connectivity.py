"""Landscaping linear mode connectivity (arXiv 2406.16300): barriers, alignment, ridges.

Three experiments on scikit-learn's digits: barriers before and after matching hidden units, the
curvature and layer-wise formulas against losses, and children spawned along one training run. The
full mode adds 5 pairs of larger networks: 3 x 512 perceptrons on digits enlarged to 28 x 28, or on
``settings.data``, an .npz with x_train, x_test, y_train and y_test, such as MNIST; for images of
three channels, such as CIFAR-10, convolutional networks with batch normalisation. The paper's own
text was not at hand beyond its abstract; expected values are those of rankone's derivations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from rankone._sweep import sweep
from rankone.interpret.mode_connectivity import (
    PathProfile,
    RidgeReport,
    activation_matching,
    apply_permutation,
    curvature_barrier,
    directional_derivatives,
    layerwise_barriers,
    linear_path,
    parameter_groups,
    parameters_of,
    plot_path,
    plot_ridge,
    predict_layerwise_barriers,
    sequential_permutation_spec,
    spawn_experiment,
    weight_matching,
)
from rankone.reproduce import SERIES, Claim, Figure, Reproduction, Settings, Table, panel

BATCH = 64
MOMENTUM = 0.9
ALIGNMENTS = ("none", "weights", "activations")


@dataclass(frozen=True)
class Scale:
    """Sizes of one run.

    Attributes:
        widths: of the aligned ReLU networks with two hidden layers; the first is the narrow one of
            the claims, the second the wide one.
        align_epochs: at learning rate 0.1.
        smooth: (width, hidden layers) of the tanh networks.
        smooth_epochs: at learning rate 0.05.
        smooth_pairs: pairs of each; the claims on single networks are on the first.
        nodes: of the curvature identity, on each side.
        spawn_widths: hidden widths of the spawned ReLU networks.
        spawn_epochs: of the whole cosine schedule from learning rate 0.05.
        spawns: epochs at which the children part.
        spawn_seeds: parents.
        n_points: of a path.
        image_pairs: pairs of networks on images.
        image_widths: hidden widths of the perceptrons on images.
        image_channels: of the convolutions on colour images, a pooling after each.
        image_epochs: at learning rate 0.05.
        image_rows: training images on which losses are measured, at most.
    """

    widths: tuple[int, ...] = (64, 256)
    align_epochs: int = 60
    smooth: tuple[tuple[int, int], ...] = ((64, 4), (128, 3))
    smooth_epochs: int = 40
    smooth_pairs: int = 4
    nodes: int = 32
    spawn_widths: tuple[int, ...] = (64, 64, 64)
    spawn_epochs: int = 24
    spawns: tuple[int, ...] = (0, 2, 8, 16)
    spawn_seeds: int = 2
    n_points: int = 25
    image_pairs: int = 0
    image_widths: tuple[int, ...] = (512, 512, 512)
    image_channels: tuple[int, ...] = (64, 128, 256, 512)
    image_epochs: int = 20
    image_rows: int = 10_000


QUICK = Scale()
FULL = Scale(
    widths=(64, 256, 512),
    smooth=((64, 4), (128, 3), (32, 5)),
    spawn_seeds=3,
    image_pairs=5,
)


def run(settings: Settings) -> Reproduction:
    """Alignment, curvature, spawning and, at full scale, larger networks."""
    scale = settings.scale(quick=QUICK, full=FULL)
    seed = settings.random_state

    def measured(function: Callable, cells: list, description: str) -> list:
        return sweep(
            partial(function, scale=scale, seed=seed),
            cells,
            random_state=seed,
            n_jobs=settings.n_jobs,
            description=description,
            progress=settings.progress,
        )

    aligned = measured(_aligned, list(scale.widths), "alignment")
    cells = [(sizes, pair) for sizes in scale.smooth for pair in range(scale.smooth_pairs)]
    results = iter(measured(_smooth, cells, "curvature"))
    smooth = [[next(results) for _ in range(scale.smooth_pairs)] for _ in scale.smooth]
    spawned = measured(_spawned, list(range(scale.spawn_seeds)), "spawning")
    images, source = [], "none"
    if scale.image_pairs:
        data, source = image_data(settings)
        images = [
            _image_pair(data, pair, scale, seed)
            for pair in settings.track(range(scale.image_pairs), "images")
        ]
    return Reproduction(
        slug="mode-connectivity",
        claims=(
            *_alignment_claims(aligned, images, scale),
            *(claim for sizes, r in zip(scale.smooth, smooth, strict=True)
              for claim in _smooth_claims(sizes, r, scale)),
            *_spawn_claims(spawned, scale),
        ),
        tables=(
            _alignment_table(aligned, scale),
            *((_image_table(images, source),) if images else ()),
            _smooth_table(smooth, scale),
            _spawn_table(spawned, scale),
        ),
        figures=(_figure(aligned, smooth, spawned, scale),),
        settings={
            "data": "scikit-learn's digits / 16, split 75/25, losses on the training part",
            "training": f"SGD, momentum {MOMENTUM}, batch {BATCH}, PyTorch's initialisation",
            "images": source,
        },
    )  # fmt: skip


def digit_data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training and test pixels in [0, 1] and labels: (X, X_test, y, y_test)."""
    X, y = load_digits(return_X_y=True)
    split = train_test_split(
        (X / 16).astype(np.float32), y, test_size=0.25, stratify=y, random_state=0
    )
    X, X_test, y, y_test = (torch.as_tensor(part) for part in split)
    return X, X_test, y, y_test


def perceptron(
    widths: tuple[int, ...], seed: int, activation: type[nn.Module] = nn.ReLU
) -> nn.Sequential:
    """Linear layers of these widths with an activation between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), activation()]
    return _initialised(nn.Sequential(*layers[:-1]), seed)


def _initialised(model: nn.Sequential, seed: int) -> nn.Sequential:
    """PyTorch's default initialisation from a generator of its own, so that threads do not mix."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in model:
            if isinstance(part, nn.Linear | nn.Conv2d):
                bound = part.weight[0].numel() ** -0.5
                part.weight.uniform_(-bound, bound, generator=generator)
                part.bias.uniform_(-bound, bound, generator=generator)  # type: ignore[union-attr]
    return model


def train(
    model: nn.Module,
    X: Tensor,
    y: Tensor,
    rates: list[float],
    seed: int,
    first: int = 0,
    last: int | None = None,
    state: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Train in place for epochs first, ..., last - 1 of a schedule of learning rates.

    Returns:
        The optimiser's state, from which a later call goes on.
    """
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=rates[0], momentum=MOMENTUM)
    if state is not None:
        optimizer.load_state_dict(state)
    model.train()
    for rate in rates[first:last]:
        optimizer.param_groups[0]["lr"] = rate
        for batch in torch.randperm(len(X), generator=order).to(X.device).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(X[batch]), y[batch]).backward()
            optimizer.step()
    return optimizer.state_dict()


def _pair(
    make: Callable[[int], nn.Sequential], X: Tensor, y: Tensor, rates: list[float], seed: int
) -> tuple[nn.Sequential, dict[str, Tensor], dict[str, Tensor]]:
    """Two networks trained from seeds ``seed`` and ``seed + 1``: one of them, and both dicts."""
    models = [make(seed + k).to(X.device) for k in (0, 1)]
    for k, model in enumerate(models):
        train(model, X, y, rates, seed + k)
    return models[0], parameters_of(models[0]), parameters_of(models[1])


def _alignments(model: nn.Sequential, a: dict, b: dict, X: Tensor) -> dict[str, dict]:
    """b as it is, and permuted by each matching."""
    spec = sequential_permutation_spec(model)
    return {
        "none": b,
        "weights": apply_permutation(b, spec, weight_matching(a, b, spec)),
        "activations": apply_permutation(b, spec, activation_matching(model, a, b, X)),
    }


def _aligned(width: int, rng: np.random.Generator, *, scale: Scale, seed: int) -> dict[str, Any]:
    X, X_test, y, y_test = digit_data()
    make = partial(perceptron, (64, width, width, 10))
    model, a, b = _pair(make, X, y, [0.1] * scale.align_epochs, seed)
    return _paths(model, a, b, (X, X_test, y, y_test), scale)


def _paths(
    model: nn.Sequential, a: dict, b: dict, data: tuple, scale: Scale, batch_size: int | None = None
) -> dict[str, Any]:
    X, X_test, y, y_test = data
    ends = _alignments(model, a, b, X)
    paths = {
        name: linear_path(model, a, end, X, y, scale.n_points, batch_size=batch_size)
        for name, end in ends.items()
    }
    tests = {
        name: linear_path(model, a, end, X_test, y_test, 3, batch_size=batch_size)
        for name, end in ends.items()
    }
    change = max(abs(path.loss[-1] - paths["none"].loss[-1]) for path in paths.values())
    return {"paths": paths, "tests": tests, "change": float(change)}


def _smooth(
    cell: tuple[tuple[int, int], int], rng: np.random.Generator, *, scale: Scale, seed: int
) -> dict[str, Any]:
    (width, depth), pair = cell
    X, _, y, _ = digit_data()
    make = partial(perceptron, (64, *(width,) * depth, 10), activation=nn.Tanh)
    model, a, b = _pair(make, X, y, [0.05] * scale.smooth_epochs, seed + 2 * pair)
    a, b = ({name: value.double() for name, value in end.items()} for end in (a, b))
    delta = {name: b[name] - a[name] for name in a}
    start = directional_derivatives(model, a, delta, X, y)[1]
    end = directional_derivatives(model, b, delta, X, y)[1]
    middle = {name: (a[name] + b[name]) / 2 for name in a}
    true = layerwise_barriers(model, a, b, X, y)
    predicted = predict_layerwise_barriers(model, a, b, X, y)
    taylor = _taylor(model, a, b, X, y)
    return {
        "barrier": linear_path(model, a, b, X, y, scale.n_points).midpoint_barrier,
        "integral": None if pair else curvature_barrier(model, a, b, X, y, n_nodes=scale.nodes),
        "middle": directional_derivatives(model, middle, delta, X, y)[1],
        "ends": (start, end),
        "true": list(true.values()),
        "predicted": list(predicted.values()),
        "spearman": float(spearmanr(list(true.values()), list(predicted.values())).statistic),
        "taylor": float(spearmanr(list(true.values()), taylor).statistic),
    }


def _taylor(model: nn.Module, a: dict, b: dict, X: Tensor, y: Tensor) -> list[float]:
    """Second-order expansions at ``a`` of the layer-wise barriers at 1/2, up to one constant."""
    predicted = []
    for names in parameter_groups(model).values():
        move = {name: b[name] - a[name] if name in names else 0 * a[name] for name in a}
        slope, curvature = directional_derivatives(model, a, move, X, y)
        predicted.append(slope / 2 + curvature / 8)
    return predicted


def _spawned(
    index: int, rng: np.random.Generator, *, scale: Scale, seed: int
) -> dict[str, Any]:  # fmt: skip
    X, _, y, _ = digit_data()
    widths = (64, *scale.spawn_widths, 10)
    epochs = scale.spawn_epochs
    rates = [0.025 * (1 + math.cos(math.pi * epoch / epochs)) for epoch in range(epochs)]

    def trained(model: nn.Module, first: int, last: int | None, order: int, state: Any) -> Any:
        return train(model, X, y, rates, order, first, last, state)

    start = seed + index
    reports = spawn_experiment(
        lambda: perceptron(widths, start), trained, scale.spawns, X, y, start,
        n_points=scale.n_points,
    )  # fmt: skip
    # Seeds far from those of the parents: nothing is shared with any of them.
    model, a, b = _pair(partial(perceptron, widths), X, y, rates, 1000 + 2 * start)
    return {"reports": reports, "control": linear_path(model, a, b, X, y, scale.n_points)}


def convolutional(channels: tuple[int, ...], size: int, seed: int) -> nn.Sequential:
    """Blocks of convolution, batch normalisation, ReLU and pooling on (3, size, size) images."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise((3, *channels)):
        layers += [
            nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(),
            nn.MaxPool2d(2),
        ]  # fmt: skip
    side = size >> len(channels)
    layers += [nn.Flatten(), nn.Linear(channels[-1] * side * side, 10)]
    return _initialised(nn.Sequential(*layers), seed)


def image_data(settings: Settings) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], str]:
    """(X, X_test, y, y_test) and where they come from: rows of pixels, or (n, 3, side, side).

    Raises:
        ValueError: for an archive without the four arrays.
    """
    if settings.data is None:
        X, X_test, y, y_test = digit_data()
        X, X_test = (
            F.interpolate(part.reshape(-1, 1, 8, 8), size=28, mode="bilinear").flatten(1)
            for part in (X, X_test)
        )
        source = "scikit-learn's digits enlarged to 28 x 28"
    else:
        names = ("x_train", "x_test", "y_train", "y_test")
        with np.load(settings.data) as archive:
            missing = [name for name in names if name not in archive]
            if missing:
                raise ValueError(
                    f"data must be an npz file with {', '.join(names)}, got one without "
                    f"{', '.join(missing)}"
                )
            X, X_test, y, y_test = (torch.as_tensor(archive[name]) for name in names)
        X, X_test = (part.float() / 255 for part in (X, X_test))
        if X.ndim == 4 and X.shape[-1] == 3:
            X, X_test = (part.movedim(-1, 1).contiguous() for part in (X, X_test))
        else:
            X, X_test = X.flatten(1), X_test.flatten(1)
        source = settings.data.name
    moved = (X, X_test, y.flatten().long(), y_test.flatten().long())
    return tuple(part.to(settings.device) for part in moved), source  # type: ignore[return-value]


def _image_pair(data: tuple, pair: int, scale: Scale, seed: int) -> dict[str, Any]:
    X, X_test, y, y_test = data
    if X.ndim == 4:
        make = partial(convolutional, scale.image_channels, X.shape[-1])
    else:
        make = partial(perceptron, (X.shape[1], *scale.image_widths, 10))
    model, a, b = _pair(make, X, y, [0.05] * scale.image_epochs, seed + 2 * pair)
    rows = slice(scale.image_rows)
    return _paths(model, a, b, (X[rows], X_test, y[rows], y_test), scale, batch_size=1000)


def _alignment_claims(aligned: list, images: list, scale: Scale) -> list[Claim]:
    narrow, wide = aligned[0], aligned[1]
    barriers = {name: path.barrier for name, path in wide["paths"].items()}
    low = {name: path.barrier for name, path in narrow["paths"].items()}
    middle = {name: path.accuracy[1] for name, path in narrow["tests"].items()}
    w, W = scale.widths[:2]
    return [
        Claim.at_least(f"width {W}: barrier without alignment", barriers["none"], 0.08),
        Claim.at_most(f"width {W}: barrier after weight matching", barriers["weights"], 0.02),
        Claim.at_most(f"width {W}: barrier after activation matching", barriers["activations"],
                      0.02),
        Claim.at_most(f"width {w}: barrier after weight matching over that without",
                      low["weights"] / low["none"], 0.3),
        Claim.at_most("a permuted network is the same function: largest change of its loss",
                      max(result["change"] for result in (*aligned, *images)), 1e-5),
        Claim.at_least(f"width {w}: gain of midpoint test accuracy by weight matching",
                       middle["weights"] - middle["none"], 0.02),
    ]  # fmt: skip


def _smooth_claims(sizes: tuple[int, int], pairs: list[dict], scale: Scale) -> list[Claim]:
    name, first = _smooth_name(sizes), pairs[0]
    ranked = np.sort(first["true"])
    closest = 100 * float(np.min(np.diff(ranked) / np.abs(ranked).max()))
    mean, taylor = (float(np.mean([r[key] for r in pairs])) for key in ("spearman", "taylor"))
    return [
        Claim.close(f"{name}: integral of curvature, {scale.nodes} nodes, for the barrier at 1/2",
                    first["integral"], first["barrier"], relative=0.01),
        Claim.at_most(f"{name}: curvature at the midpoint", first["middle"], 0, strict=True),
        Claim.at_least(f"{name}: smaller curvature of the two ends", min(first["ends"]), 0),
        Claim.at_least(f"{name}: rank correlation of predicted and true layer-wise barriers",
                       first["spearman"], 0.9,
                       note=f"of {len(ranked)} layers, the closest two {closest:.2g} % of the "
                       f"highest apart; expansion at the end point alone: {first['taylor']:.2f}"),
        Claim.at_least(f"{name}: its mean over {len(pairs)} pairs of networks", mean, 0.9,
                       note=f"expansion at the end point alone: {taylor:.2f}"),
    ]  # fmt: skip


def _reports(spawned: list, i: int) -> list[RidgeReport]:
    """Reports of all parents at the i-th spawn epoch."""
    return [result["reports"][i] for result in spawned]


def _mean_barriers(spawned: list, scale: Scale) -> list[float]:
    return [
        float(np.mean([report.ridge_barrier for report in _reports(spawned, i)]))
        for i in range(len(scale.spawns))
    ]


def _spawn_claims(spawned: list, scale: Scale) -> list[Claim]:
    *early, late, last = _mean_barriers(spawned, scale)
    claims = [
        Claim.at_least(
            f"children from epoch {k}: mean barrier", mean, 5 * late, strict=True,
            expected=f"above 5 times that from epoch {scale.spawns[-2]}",
        )
        for k, mean in zip(scale.spawns[:-2], early, strict=True)
    ]  # fmt: skip
    rises = [
        rise
        for i in range(len(scale.spawns))
        for report in _reports(spawned, i)
        for rise in report.mountainside_rises
    ]
    controls = [result["control"] for result in spawned]
    middle = scale.n_points // 2
    return [
        *claims,
        Claim.at_most(f"children from epoch {scale.spawns[-1]}: mean barrier", last, 1e-3),
        Claim.at_most("largest rise on the way from a start to a child", max(rises), 1e-3),
        Claim.at_least("independent networks: lowest barrier",
                       min(path.barrier for path in controls), 0.3),
        Claim.at_most("independent networks: highest midpoint accuracy",
                      max(path.accuracy[middle] for path in controls), 0.9),
    ]  # fmt: skip


def _alignment_table(aligned: list, scale: Scale) -> Table:
    rows = []
    for width, result in zip(scale.widths, aligned, strict=True):
        for name in ALIGNMENTS:
            path, test = result["paths"][name], result["tests"][name]
            rows.append((width, name, path.barrier, path.barrier_alpha, *test.accuracy.tolist()))
    return Table(
        title="Two ReLU networks with two hidden layers, before and after alignment",
        columns=("width", "matched", "barrier", "at", "test accuracy of the first",
                 "of the midpoint", "of the second"),
        rows=tuple(rows),
    )  # fmt: skip


def _image_table(images: list, source: str) -> Table:
    rows = []
    for pair, result in enumerate(images):
        for name in ALIGNMENTS:
            test = result["tests"][name]
            rows.append((pair, name, result["paths"][name].barrier, *test.accuracy.tolist()))
    return Table(
        title=f"Larger networks on {source}",
        columns=("pair", "matched", "barrier", "test accuracy of the first", "of the midpoint",
                 "of the second"),
        rows=tuple(rows),
        note="Batch normalisation has its running statistics computed anew at every point.",
    )  # fmt: skip


def _smooth_table(smooth: list, scale: Scale) -> Table:
    return Table(
        title="tanh networks: the barrier at 1/2 from losses and from curvature",
        columns=("network", "excess loss", "integral of curvature", "curvature at start",
                 "midpoint", "end", "rank correlation, one node", "expansion at the end point"),
        rows=tuple(
            (_smooth_name(sizes), r["barrier"], r["integral"], r["ends"][0], r["middle"],
             r["ends"][1], r["spearman"], r["taylor"])
            for sizes, pairs in zip(scale.smooth, smooth, strict=True)
            for r in pairs
        ),
    )  # fmt: skip


def _spawn_table(spawned: list, scale: Scale) -> Table:
    rows: list[tuple] = []
    for i, k in enumerate(scale.spawns):
        reports = _reports(spawned, i)
        rows.append(
            (
                f"epoch {k}",
                float(np.mean([report.spawn_loss for report in reports])),
                float(np.mean([report.ridge_barrier for report in reports])),
                float(max(report.ridge_barrier for report in reports)),
                float(max(max(report.mountainside_rises) for report in reports)),
                f"{sum(report.same_side for report in reports)} of {len(reports)}",
            )
        )
    controls = [result["control"].barrier for result in spawned]
    rows.append(("independent", None, float(np.mean(controls)), max(controls), None, None))
    return Table(
        title="Children that part at an epoch of one run",
        columns=("parted at", "loss there", "mean barrier", "largest", "largest rise on the way",
                 "on the same side"),
        rows=tuple(rows),
    )  # fmt: skip


def _smooth_name(sizes: tuple[int, int]) -> str:
    return f"{sizes[1]} tanh layers of {sizes[0]}"


def _figure(aligned: list, smooth: list, spawned: list, scale: Scale) -> Figure:
    with panel("position on the line", "loss", title=f"width {scale.widths[1]}") as (paths, axes):
        for name, label in zip(
            ALIGNMENTS, ("as trained", "weights matched", "activations matched"), strict=True
        ):
            profile: PathProfile = aligned[1]["paths"][name]
            plot_path(profile, axes, label=label)
        axes.legend()
    with panel("barrier of a layer", "predicted from one curvature") as (layers, axes):
        values = [v for pairs in smooth for v in (*pairs[0]["true"], *pairs[0]["predicted"])]
        axes.plot([min(values), max(values)], [min(values), max(values)], ":", color=SERIES[3])
        for sizes, pairs, color in zip(scale.smooth, smooth, SERIES, strict=False):
            axes.plot(pairs[0]["true"], pairs[0]["predicted"], "o", color=color,
                      label=_smooth_name(sizes))  # fmt: skip
        axes.legend()
    with panel("epoch at which the children part", "barrier between them") as (barriers, axes):
        for result in spawned:
            values = [report.ridge_barrier for report in result["reports"]]
            axes.plot(scale.spawns, values, "o-", color=SERIES[0], alpha=0.35, linewidth=1)
        axes.plot(scale.spawns, _mean_barriers(spawned, scale), "o-", color=SERIES[0], label="mean")
        axes.set_yscale("symlog", linthresh=1e-4)
        axes.set_ylim(bottom=0)
        axes.legend()
    with panel("", "loss", title=f"parted at epoch {scale.spawns[1]}") as (triangle, axes):
        plot_ridge(spawned[0]["reports"][1], axes)
    return Figure.render(
        "The line between two networks",
        "Loss on the training digits along the line before and after matching hidden units, dotted "
        "the chord; layer-wise barriers at 1/2 from losses and from the slope and one curvature "
        "near the first network, dotted equality; the barrier between two children against the "
        "epoch at which they part, each parent faint; and the loss around the triangle of a start "
        "and its children.",
        paths,
        layers,
        barriers,
        triangle,
    )
