"""A tour of convolutional networks guided by linear interpreters (arXiv 1908.05168).

Two small networks trained here and seen as the affine maps they are at an input: a classifier of
digits, which leans on its residual, and a network that doubles the size of an image, whose
eigen-inputs are local in space and in frequency. ``settings.data`` may name a classifier of the
user's own, saved whole by ``torch.save(model, path)``, such as one of torchvision's: it is given
the two sample photographs at 224 x 224 with ImageNet's normalisation. Loading such a file runs its
code.

Data: the digits and the sample images of scikit-learn.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits, load_sample_image
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from rankone.interpret.linear_interpreter import (
    LinearInterpreter,
    LinearScope,
    localisation,
    residual_share,
)
from rankone.reproduce import MUTED, SERIES, Claim, Figure, Reproduction, Settings, Table, panel

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

GREY = (0.299, 0.587, 0.114)
LEARNING_RATE = 2e-3
DIGITS_BATCH = 64
CROPS, CROP = 16, 48

# Top left corners in the halved photographs, and the side of the patches interpreted.
PATCHES = {"flower.jpg": (100, 150), "china.jpg": (120, 150)}
PATCH = 16
WIDE_CORNER = (40, 96)
# Each output pixel sees this many low-resolution pixels to every side.
REACH = 4
WINDOW = 12
# Low-resolution pixels whose columns are drawn.
SHOWN_PIXELS = ((6, 6), (6, 9), (9, 6), (9, 9))
# Eigen-inputs drawn: so many of the largest, and of the smallest, singular values.
LEADING, TRAILING = 8, 4

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGENET_SIDE = 224


@dataclass(frozen=True)
class Scale:
    """Sizes of one run.

    Attributes:
        digit_seeds: classifiers of digits.
        epochs: of each.
        checked: test images whose maps are compared with the network and its Jacobian.
        sr_seeds: networks of super-resolution.
        steps: of each.
        wide: side of a patch whose singular vectors are found without its matrix; 0 for none.
        wide_vectors: how many.
    """

    digit_seeds: int = 2
    epochs: int = 15
    checked: int = 10
    sr_seeds: int = 1
    steps: int = 500
    wide: int = 0
    wide_vectors: int = 32


QUICK = Scale()
FULL = Scale(digit_seeds=4, checked=50, sr_seeds=3, wide=128)


@dataclass(frozen=True)
class Digits:
    """One classifier on the test images."""

    accuracy: float
    linear: float
    residual: float
    share: float
    gap: float
    jacobian_gap: float
    example: LinearInterpreter


@dataclass(frozen=True)
class Patch:
    """One network of super-resolution at one patch."""

    seed: int
    image: str
    gap: float
    energy: float
    spatial: float
    spectral: float
    interpreter: LinearInterpreter
    vectors: tuple[Tensor, Tensor, Tensor]


def run(settings: Settings) -> Reproduction:
    """Train, interpret, measure."""
    scale = settings.scale(quick=QUICK, full=FULL)
    own = _own_classifier(settings.data, settings) if settings.data is not None else None
    data = _digits(settings)
    digits = [
        _measured_digits(_classifier(data, seed, scale.epochs, settings), data, scale.checked)
        for seed in settings.track(_seeds(settings, scale.digit_seeds), "digits")
    ]
    plain = _classifier(data, settings.random_state, scale.epochs, settings, bias=False)
    _, without = LinearScope(plain).decompose(data[2])
    networks = {
        seed: _super_resolution(seed, scale.steps, settings)
        for seed in settings.track(_seeds(settings, scale.sr_seeds), "super-resolution")
    }
    patches = [
        _measured_patch(seed, network, image, settings)
        for seed, network in networks.items()
        for image in PATCHES
    ]
    first = next(iter(networks.values()))
    wide = _wide(first, scale, settings) if scale.wide else None
    return Reproduction(
        slug="linear-interpreter",
        claims=(
            *_digit_claims(digits, float(without.abs().max())),
            *_patch_claims(patches),
            *(() if own is None else (_own_claim(own),)),
        ),
        tables=(
            _digit_table(digits, settings),
            _patch_table(patches),
            _psnr_table(networks, settings),
            *(() if wide is None else (_wide_table(wide, scale),)),
            *(() if own is None else (_own_table(own),)),
        ),
        figures=(
            _digit_figure(digits[0].example),
            _patch_figure(patches[0]),
            *(() if own is None else (_own_figure(own),)),
        ),
        settings={
            "mode": "secant, which is the tangent too for these networks",
            "digits": f"{scale.digit_seeds} seeds, {scale.epochs} epochs",
            "super-resolution": f"{scale.sr_seeds} seeds, {scale.steps} steps",
            "precision": "float32; float64 for singular vectors",
            **({} if settings.data is None else {"data": str(settings.data)}),
        },
    )


def _seeds(settings: Settings, count: int) -> list[int]:
    return [settings.random_state + i for i in range(count)]


# Digits.


def _digits(settings: Settings) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images and labels, test images and labels."""
    X, y = load_digits(return_X_y=True)
    parts = train_test_split(
        X.reshape(-1, 1, 8, 8) / 16, y, test_size=0.25, stratify=y, random_state=0
    )
    images, test_images = (torch.as_tensor(part, dtype=torch.float32) for part in parts[:2])
    labels, test_labels = (torch.as_tensor(part) for part in parts[2:])
    return tuple(part.to(settings.device) for part in (images, labels, test_images, test_labels))  # type: ignore[return-value]


def _classifier(data: tuple, seed: int, epochs: int, settings: Settings, *, bias: bool = True):
    """A trained network of digits; without any bias, and then without batch norm, for False."""

    def block(channels: int, filters: int) -> list[nn.Module]:
        norm = [nn.BatchNorm2d(filters)] if bias else []
        return [nn.Conv2d(channels, filters, 3, padding=1, bias=bias), *norm, nn.ReLU()]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            *block(1, 16), *block(16, 32), nn.MaxPool2d(2), *block(32, 32), nn.Flatten(),
            nn.Linear(512, 10, bias=bias),
        ).to(settings.device)  # fmt: skip
    images, labels = data[:2]
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    for _ in range(epochs):
        for batch in torch.randperm(len(images), generator=generator).split(DIGITS_BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    return model.eval()


def _measured_digits(model: nn.Module, data: tuple, checked: int) -> Digits:
    images, labels = data[2:]
    linear, residual = LinearScope(model).decompose(images)

    def accuracy(scores: Tensor) -> float:
        return float((scores.argmax(1) == labels).float().mean())

    with torch.no_grad():
        truth = model(images)
    gap = jacobian_gap = 0.0
    for image, scores in zip(images[:checked], truth, strict=False):
        interpreter = LinearScope(model).interpret(image)
        gap = max(gap, float((interpreter.apply(image[None])[0] - scores).abs().max()))
        jacobian = torch.func.jacrev(lambda u: model(u[None])[0])(image).reshape(10, -1).detach()
        jacobian_gap = max(jacobian_gap, float((interpreter.matrix() - jacobian).abs().max()))
    return Digits(
        accuracy=accuracy(truth),
        linear=accuracy(linear),
        residual=accuracy(residual),
        share=float(residual_share(linear, residual).mean()),
        gap=gap,
        jacobian_gap=jacobian_gap,
        example=LinearScope(model).interpret(images[0]),
    )


# Super-resolution.


def _grey(name: str, settings: Settings) -> tuple[Tensor, Tensor]:
    """A photograph of an even size and its 2 x 2 averages, each (1, 1, height, width)."""
    pixels = load_sample_image(name) @ np.array(GREY) / 255
    high = torch.as_tensor(pixels, dtype=torch.float32, device=settings.device)[None, None]
    high = high[..., : high.shape[-2] // 2 * 2, : high.shape[-1] // 2 * 2]
    return high, F.avg_pool2d(high, 2)


def _super_resolution(seed: int, steps: int, settings: Settings) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(1, 24, 5, padding=2), nn.ReLU(), nn.Conv2d(24, 24, 3, padding=1), nn.ReLU(),
            nn.Conv2d(24, 4, 3, padding=1), nn.PixelShuffle(2),
        ).to(settings.device)  # fmt: skip
    image, _ = _grey("china.jpg", settings)
    image = image[0, 0]
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        rows = 2 * rng.integers((image.shape[0] - CROP) // 2 + 1, size=CROPS)
        columns = 2 * rng.integers((image.shape[1] - CROP) // 2 + 1, size=CROPS)
        high = torch.stack(
            [image[r : r + CROP, c : c + CROP] for r, c in zip(rows, columns, strict=True)]
        )[:, None]
        optimizer.zero_grad()
        F.mse_loss(model(F.avg_pool2d(high, 2)), high).backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def _cut(image: str, corner: tuple[int, int], side: int, settings: Settings) -> Tensor:
    _, low = _grey(image, settings)
    (row, column) = corner
    return low[0, :, row : row + side, column : column + side].clone()


def _measured_patch(seed: int, model: nn.Module, image: str, settings: Settings) -> Patch:
    x = _cut(image, PATCHES[image], PATCH, settings)
    single = LinearScope(model).interpret(x)
    with torch.no_grad():
        gap = float((single.apply(x[None]) - model(x[None])).abs().max())
    # float64 shares no storage with the model, which stays as it is.
    double = _in_double(model)
    interpreter = LinearScope(double).interpret(x.double())
    vectors = interpreter.svd()
    spatial, spectral = localisation(vectors[2])
    return Patch(
        seed, image, gap, _window_energy(interpreter), float(spatial.mean()),
        float(spectral.mean()), interpreter, vectors,
    )  # fmt: skip


def _in_double(model: nn.Module) -> nn.Module:
    return deepcopy(model).double()


def _window_energy(interpreter: LinearInterpreter) -> float:
    """Least share of a column's energy in the window around its pixel, over interior pixels.

    A pixel is interior if no column that reaches it is cut by the patch's border.
    """
    side = interpreter.input_shape[-1]
    columns = interpreter.matrix().T.reshape(side, side, 2 * side, 2 * side)
    margin = WINDOW // 2 - 1
    shares = []
    for i in range(REACH, side - REACH):
        for j in range(REACH, side - REACH):
            energy = columns[i, j].square()
            top, left = 2 * i - margin, 2 * j - margin
            window = energy[top : top + WINDOW, left : left + WINDOW]
            shares.append(float(window.sum() / energy.sum()))
    return min(shares)


@dataclass(frozen=True)
class Wide:
    """Singular vectors of a wide patch."""

    values: Tensor
    spatial: float
    spectral: float
    worst: float


def _wide(model: nn.Module, scale: Scale, settings: Settings) -> Wide:
    x = _cut("flower.jpg", WIDE_CORNER, scale.wide, settings).double()
    interpreter = LinearScope(_in_double(model)).interpret(x)
    U, S, V = interpreter.svd(k=scale.wide_vectors, method="lanczos")
    spatial, spectral = localisation(V)
    error = (interpreter.matvec(V) - S.view(-1, 1, 1, 1) * U).abs().max() / S[0]
    return Wide(S.cpu(), float(spatial.mean()), float(spectral.mean()), float(error))


# A classifier of the user's own.


@dataclass(frozen=True)
class Own:
    """A classifier from a file, on the sample photographs."""

    name: str
    images: tuple[str, ...]
    gap: float
    winners: tuple[int, ...]
    by_linear: tuple[int, ...]
    shares: tuple[float, ...]
    inputs: Tensor
    votes: Tensor


def _own_classifier(path: Path, settings: Settings) -> Own:
    model = torch.load(path, map_location=settings.device, weights_only=False)
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"data must hold a whole torch.nn.Module, as by torch.save(model, path), got "
            f"{type(model).__name__}"
        )
    model = model.eval().float()
    images = tuple(PATCHES)
    X = torch.stack([_photograph(name, settings) for name in images])
    scope = LinearScope(model, chunk_size=1)
    linear, residual = scope.decompose(X)
    with torch.no_grad():
        scores = model(X)
    gap, votes = 0.0, []
    for x, score in zip(X, scores, strict=True):
        interpreter = scope.interpret(x)
        gap = max(gap, float((interpreter.apply(x[None])[0] - score).abs().max()))
        votes.append(interpreter.vote(int(score.argmax()))[0].sum(0))
    return Own(
        name=type(model).__name__,
        images=images,
        gap=gap / (1 + float(scores.abs().max())),
        winners=tuple(scores.argmax(1).tolist()),
        by_linear=tuple(linear.argmax(1).tolist()),
        shares=tuple(residual_share(linear, residual).tolist()),
        inputs=X.mean(1).cpu(),
        votes=torch.stack(votes).cpu(),
    )


def _photograph(name: str, settings: Settings) -> Tensor:
    """A sample photograph as torchvision's classifiers take it, (3, 224, 224)."""
    pixels = torch.as_tensor(load_sample_image(name).copy(), device=settings.device)
    image = pixels.permute(2, 0, 1)[None].float() / 255
    short = min(image.shape[-2:])
    top, left = ((size - short) // 2 for size in image.shape[-2:])
    square = image[..., top : top + short, left : left + short]
    side = (IMAGENET_SIDE, IMAGENET_SIDE)
    image = F.interpolate(square, side, mode="bilinear", antialias=True)[0]
    mean, std = (image.new_tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (image - mean) / std


# Claims and tables.


def _digit_claims(digits: list[Digits], residual: float) -> list[Claim]:
    return [
        Claim.at_most("digits: largest |A(x) - f(x)|, float32", max(d.gap for d in digits), 1e-4),
        Claim.at_most("digits: largest |F - Jacobian|, float32",
                      max(d.jacobian_gap for d in digits), 1e-4),
        Claim.at_least("digits: test accuracy, worst seed", min(d.accuracy for d in digits), 0.97),
        Claim.at_least("digits: accuracy less that of argmax(F x) alone, worst seed",
                       min(d.accuracy - d.linear for d in digits), 0.02,
                       note="the network relies on its residual"),
        Claim.at_least("digits: accuracy of argmax(r) alone, worst seed",
                       min(d.residual for d in digits), 0.20, note="chance is 0.10"),
        Claim.at_least("digits: mean residual share, worst seed",
                       min(d.share for d in digits), 0.25),
        Claim.exact("digits, no bias and no batch norm: largest |r|", residual, 0.0),
    ]  # fmt: skip


def _patch_claims(patches: list[Patch]) -> list[Claim]:
    return [
        Claim.at_most("super-resolution: largest |A(x) - f(x)|, float32",
                      max(p.gap for p in patches), 1e-4),
        Claim.at_least(f"super-resolution: least energy of an interior column in {WINDOW} x "
                       f"{WINDOW} around its pixel", min(p.energy for p in patches), 0.90),
        Claim.at_most("super-resolution: spectral participation of eigen-inputs, worst mean",
                      max(p.spectral for p in patches), 0.40,
                      note="random orthonormal images: 0.50"),
        Claim.at_most("super-resolution: spatial participation of eigen-inputs, worst mean",
                      max(p.spatial for p in patches), 0.30,
                      note="random orthonormal images: 0.34"),
    ]  # fmt: skip


def _own_claim(own: Own) -> Claim:
    return Claim.at_most(f"{own.name}: largest |A(x) - f(x)| over 1 + largest |f|", own.gap, 1e-4)


def _digit_table(digits: list[Digits], settings: Settings) -> Table:
    return Table(
        title="Digits: what the linear part and the residual know",
        columns=("seed", "accuracy", "argmax(F x)", "argmax(r)", "residual share"),
        rows=tuple(
            (seed, d.accuracy, d.linear, d.residual, d.share)
            for seed, d in zip(_seeds(settings, len(digits)), digits, strict=True)
        ),
        note="450 test images.",
    )


def _patch_table(patches: list[Patch]) -> Table:
    return Table(
        title="Super-resolution: eigen-inputs of patches of 16 x 16 pixels",
        columns=("seed", "image", "largest singular value", "least column energy",
                 "spatial participation", "spectral participation"),
        rows=tuple(
            (p.seed, p.image, float(p.vectors[1][0]), p.energy, p.spatial, p.spectral)
            for p in patches
        ),
        note="F is 1024 x 256; participations are means over all 256 eigen-inputs.",
    )  # fmt: skip


def _psnr_table(networks: dict[int, nn.Module], settings: Settings) -> Table:
    def psnr(image: Tensor, truth: Tensor) -> float:
        return float(-10 * torch.log10((image.clamp(0, 1) - truth).square().mean()))

    rows: list[tuple[str | float, ...]] = []
    pairs = {name: _grey(name, settings) for name in ("china.jpg", "flower.jpg")}
    with torch.no_grad():
        for seed, network in networks.items():
            rows.append(
                (f"seed {seed}", *(psnr(network(low), high) for high, low in pairs.values()))
            )
    bicubic = [
        psnr(F.interpolate(low, scale_factor=2, mode="bicubic"), high)
        for high, low in pairs.values()
    ]
    return Table(
        title="Super-resolution: peak signal to noise ratio, dB",
        columns=("", "china.jpg (training)", "flower.jpg"),
        rows=(*rows, ("bicubic", *bicubic)),
        note="No claim: the networks are small and see one photograph.",
    )


def _wide_table(wide: Wide, scale: Scale) -> Table:
    return Table(
        title=f"Super-resolution: {len(wide.values)} singular vectors of a patch of "
        f"{scale.wide} x {scale.wide} pixels, without its matrix",
        columns=("first value", "last value", "spatial participation", "spectral participation",
                 "largest error of F v = s u"),
        rows=((float(wide.values[0]), float(wide.values[-1]), wide.spatial, wide.spectral,
               wide.worst),),
    )  # fmt: skip


def _own_table(own: Own) -> Table:
    return Table(
        title=f"{own.name} on the sample photographs",
        columns=("image", "class", "class by F x alone", "residual share"),
        rows=tuple(zip(own.images, own.winners, own.by_linear, own.shares, strict=True)),
    )


# Figures.


def _shown(image: Tensor | np.ndarray, title: str, *, signed: bool = True) -> MatplotlibFigure:
    """One image; signed ones in two colours with zero white, gaps of NaN empty."""
    values = np.asarray(image.detach().cpu() if isinstance(image, Tensor) else image, dtype=float)
    with panel("", "", title=title, size=(4.0, 4.2)) as (drawing, axes):
        axes.grid(False)
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_visible(False)
        if signed:
            limit = float(np.nanmax(np.abs(values))) or 1.0
            axes.set_facecolor(MUTED)
            shown = axes.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit)
            drawing.colorbar(shown, ax=axes, shrink=0.75)
        else:
            axes.imshow(values, cmap="gray")
    return drawing


def _montage(images: Tensor, columns: int) -> np.ndarray:
    """Images side by side, each scaled to its own largest modulus, gaps of NaN between."""
    stack = images.detach().cpu().double().numpy()
    stack = stack / np.abs(stack).max(axis=(1, 2), keepdims=True)
    rows = -(-len(stack) // columns)
    padded = np.pad(stack, ((0, 0), (0, 1), (0, 1)), constant_values=np.nan)
    blank = np.full((rows * columns - len(stack), *padded.shape[1:]), np.nan)
    grid = np.concatenate((padded, blank)).reshape(rows, columns, *padded.shape[1:])
    height, width = padded.shape[1:]
    return grid.transpose(0, 2, 1, 3).reshape(rows * height, columns * width)[:-1, :-1]


def _digit_figure(interpreter: LinearInterpreter) -> Figure:
    winner = int(interpreter.output.argmax())
    votes, bias = interpreter.vote(winner)
    residual = interpreter.residual.cpu().numpy()
    linear = (interpreter.output - interpreter.residual).cpu().numpy()
    with panel("class", "score, less its mean over classes", title="Linear part, residual") as (
        bars,
        axes,
    ):
        classes = np.arange(len(residual))
        for shift, values, color, label in (
            (-0.2, linear, SERIES[0], "F x"),
            (0.2, residual, SERIES[1], "r"),
        ):
            axes.bar(classes + shift, values - values.mean(), 0.4, color=color, label=label)
        axes.axhline(0, color=MUTED, linewidth=0.8)
        axes.set_xticks(classes)
        axes.legend()
    return Figure.render(
        "A digit's votes",
        f"The first test image, recognised as {winner}: what the class looks for, what every pixel "
        f"votes (the bias votes {bias:.2f}), and both parts of every class's score.",
        _shown(interpreter.x[0], "Image", signed=False),
        _shown(interpreter.row(winner)[0], f"Row of class {winner}"),
        _shown(votes[0], f"Votes for class {winner}"),
        bars,
    )


def _patch_figure(patch: Patch) -> Figure:
    U, S, V = patch.vectors
    columns = torch.stack([patch.interpreter.column((0, i, j))[0] for i, j in SHOWN_PIXELS])
    order = torch.arange(len(S))
    chosen = torch.cat((order[:LEADING], order[-TRAILING:]))
    with panel("index", "singular value", title="Spectrum") as (spectrum, axes):
        axes.plot(np.arange(1, len(S) + 1), S.cpu().numpy(), color=SERIES[0])
        axes.plot(chosen.numpy() + 1, S[chosen].cpu().numpy(), "o", color=SERIES[1], label="shown")
        axes.set_yscale("log")
        axes.legend()
    values = ", ".join(f"{float(S[i]):.2g}" for i in chosen)
    return Figure.render(
        "What a network of super-resolution works with",
        f"At a patch of {patch.image}: what four pixels become, {len(chosen)} eigen-inputs and "
        f"eigen-outputs of the largest and the smallest singular values ({values}), each "
        "image scaled to its own largest entry, and all singular values.",
        _shown(_montage(columns, 2), "Columns of F"),
        _shown(_montage(V[chosen, 0], 4), "Eigen-inputs"),
        _shown(_montage(U[chosen, 0], 4), "Eigen-outputs"),
        spectrum,
    )


def _own_figure(own: Own) -> Figure:
    panels = []
    for name, image, votes in zip(own.images, own.inputs, own.votes, strict=True):
        panels.append(_shown(image, name, signed=False))
        # Coarse cells: votes of neighbouring pixels have opposite signs and hide the picture.
        coarse = F.avg_pool2d(votes[None], 8)[0] * 64
        panels.append(_shown(coarse, "Votes for its class, 8 x 8 pixels each"))
    return Figure.render(
        f"Where {own.name} votes", "Sums of the votes over channels and cells.", *panels
    )
