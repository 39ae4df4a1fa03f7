"""One layer of linear self-attention learns one step of gradient descent (arXiv 2307.03576).

Layers are trained on fresh tasks and held against the optimum in closed form: isotropic and
anisotropic inputs, targets from a random network, all prefixes at once, both forms of the layer.
The closed forms are held against simulated tasks, and free starts are shown to end in traps.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from rankone._sweep import sweep
from rankone.icl._tasks import ICLTasks, TaskSampler, torch_generator
from rankone.icl.linear_self_attention import (
    LinearSelfAttention,
    one_step_gd,
    optimal_preconditioner,
    optimal_step_size,
    population_loss,
    single_index_step_size,
    train_lsa,
)
from rankone.reproduce import MUTED, Claim, Figure, Reproduction, Settings, Table, panel

ISOTROPIC = "isotropic, d = 5, n = 20, sigma = 0.5"
NOISELESS = "isotropic, d = 8, n = 20, sigma = 0"
ANISOTROPIC = "w of the inverse covariance, d = 5, n = 20"
NETWORK = "tanh networks, d = 5, n = 20"
LONG = (ISOTROPIC, NOISELESS, ANISOTROPIC, NETWORK)

GENERAL = "eigenvalues 2, 1, 0.4, w isotropic, d = 3, n = 10, sigma = 0.3"
PREFIXES = "all prefixes, d = 2, n = 6, sigma = 0.5"

# Simulated tasks held at once.
_BATCH = 20_000

# A start is trapped where P is this far from the optimum, relatively, and the loss this many times
# the optimum.
_TRAP_DISTANCE, _TRAP_LOSS = 0.5, 1.5

_GENERAL_NOISE = 0.3

# A link of tensors and its name; every one is odd.
_LINKS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "tanh": torch.tanh,
    "cube": lambda z: z**3,
    "sin 2z": lambda z: torch.sin(2 * z),
    "sign": torch.sign,
}
_ARRAY_LINKS: dict[str, Callable[[NDArray], NDArray]] = {
    "tanh": np.tanh,
    "cube": lambda z: z**3,
    "sin 2z": lambda z: np.sin(2 * z),
    "sign": np.sign,
}


@dataclass(frozen=True)
class Scale:
    """Sizes of one run.

    Attributes:
        steps: of the four long trainings, from a random start.
        short_steps: of the trainings with general covariances.
        batch_size: tasks a step of both.
        aligned_seeds, random_seeds, qkv_seeds: short trainings from either start, and of the form
            with separate queries, keys and values.
        prefix_steps, prefix_batch: of the training on all prefixes.
        test_tasks: tasks of a test loss.
        moment_tasks: tasks of a simulated expectation.
        lengths: test lengths of the isotropic layer, trained at 20, among them 5, 20 and 80.
        grid: (d, n) of further isotropic trainings in both forms.
        grid_steps, grid_seeds: of those.
    """

    steps: int = 4000
    short_steps: int = 1500
    batch_size: int = 512
    aligned_seeds: int = 5
    random_seeds: int = 5
    qkv_seeds: int = 3
    prefix_steps: int = 1200
    prefix_batch: int = 256
    test_tasks: int = 200_000
    moment_tasks: int = 400_000
    lengths: tuple[int, ...] = (5, 10, 20, 40, 80)
    grid: tuple[tuple[int, int], ...] = ()
    grid_steps: int = 20_000
    grid_seeds: int = 5

    def __post_init__(self) -> None:
        if not {5, 20, 80} <= set(self.lengths):
            raise ValueError(f"lengths must hold 5, 20 and 80, got {self.lengths}")


QUICK = Scale()
FULL = Scale(
    steps=20_000,
    short_steps=20_000,
    prefix_steps=20_000,
    test_tasks=1_000_000,
    moment_tasks=2_000_000,
    grid=tuple((d, n) for d in (5, 10, 20) for n in (20, 50, 100)),
)


@dataclass(frozen=True)
class Training:
    """One training and the lengths that the layer is tested at, a plain value that can be sent."""

    n_features: int
    n_context: int
    steps: int
    batch_size: int
    tests: tuple[int, ...] = ()
    test_tasks: int = 0
    noise_std: float = 0.0
    eigenvalues: tuple[float, ...] | None = None
    w_cov: str | None = None
    target: str = "linear"
    loss: str = "query"
    form: str = "reduced"
    init: str = "aligned"
    device: str = "cpu"

    def law(self) -> dict[str, Any]:
        """Arguments of the tasks."""
        x_cov = None if self.eigenvalues is None else _rotated(self.eigenvalues)
        return {
            "noise_std": self.noise_std,
            "x_cov": x_cov,
            "w_cov": self.w_cov,
            "target": self.target,
        }


@dataclass(frozen=True)
class Trained:
    """What came out of a training.

    Attributes:
        P, optimum: (d, d) effective and best preconditioner.
        optimal_loss: of the best one.
        steps, distance, even: history.
        losses: by test length, the losses of the layer, of gradient descent with the best step for
            that length, and of ridge regression, on the same tasks.
    """

    P: NDArray
    optimum: NDArray
    optimal_loss: float
    steps: NDArray
    distance: NDArray
    even: NDArray
    losses: dict[int, tuple[float, float, float]]

    @property
    def last(self) -> float:
        """Distance to the optimum at the end."""
        return float(self.distance[-1])


def run(settings: Settings) -> Reproduction:
    """Train the layers, simulate the expectations, and compare both with the closed forms."""
    scale = settings.scale(quick=QUICK, full=FULL)
    trained = _trainings(settings, scale)
    steps = _simulated_steps(settings, scale)
    general = _sweep(
        settings, _general_law, [(scale.moment_tasks, settings.device)], "least squares"
    )
    isotropic = trained[ISOTROPIC][0]
    claims = (
        *_isotropic_claims(isotropic),
        *_noiseless_claims(trained[NOISELESS][0]),
        *_anisotropic_claims(trained[ANISOTROPIC][0]),
        *_network_claims(trained[NETWORK][0], steps[NETWORK]),
        *_general_claims(*general[0]),
        *_link_claims(steps),
        Claim.at_most(
            "the layer is not Bayes optimal: test loss of ridge regression with lambda = sigma^2, "
            "d = 5, n = 20, sigma = 0.5",
            isotropic.losses[20][2],
            0.40,
            note=f"the layer's is {isotropic.losses[20][0]:.3f}",
        ),
        *_start_claims(trained),
        *_prefix_claims(trained[PREFIXES][0]),
        *_length_claims(isotropic),
    )
    tables = [_training_table(trained), _step_table(steps)]
    if scale.grid:
        tables.append(_grid_table(trained, scale))
    return Reproduction(
        slug="one-step-gradient-descent",
        claims=claims,
        tables=tuple(tables),
        figures=(_maps(trained), _curves(trained, scale)),
        settings={
            "training": f"Adam 3e-2 on a cosine, {scale.steps} steps of {scale.batch_size} fresh "
            f"tasks from a random start, general covariances {scale.short_steps} steps",
            "test": f"{scale.test_tasks} tasks, {scale.moment_tasks} for simulated expectations",
        },
    )


def _sweep(settings: Settings, function: Callable, cells: list, description: str) -> list:
    return sweep(
        function,
        cells,
        random_state=settings.random_state,
        n_jobs=settings.n_jobs,
        description=description,
        progress=settings.progress,
    )


def _rotated(eigenvalues: Sequence[float], seed: int = 0) -> NDArray:
    """A covariance with these eigenvalues in a random basis."""
    d = len(eigenvalues)
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))
    return basis * np.asarray(eigenvalues) @ basis.T


# Trainings.


def _trainings(settings: Settings, scale: Scale) -> dict[str, list[Trained]]:
    long: dict[str, Any] = {
        "steps": scale.steps,
        "batch_size": scale.batch_size,
        "test_tasks": scale.test_tasks,
        "init": "random",
        "device": settings.device,
    }
    short: dict[str, Any] = {
        "steps": scale.short_steps,
        "batch_size": scale.batch_size,
        "tests": (10,),
        "test_tasks": scale.test_tasks // 4,
        "noise_std": _GENERAL_NOISE,
        "eigenvalues": (2.0, 1.0, 0.4),
        "device": settings.device,
    }
    plans: dict[str, list[Training]] = {
        ISOTROPIC: [Training(5, 20, noise_std=0.5, tests=scale.lengths, **long)],
        NOISELESS: [Training(8, 20, tests=(20,), **long)],
        ANISOTROPIC: [
            Training(5, 20, eigenvalues=(4.0, 2.0, 1.0, 0.5, 0.25), w_cov="inverse", **long)
        ],
        NETWORK: [Training(5, 20, target="mlp", **long)],
        "aligned": [Training(3, 10, **short)] * scale.aligned_seeds,
        "random": [Training(3, 10, init="random", **short)] * scale.random_seeds,
        "qkv": [Training(3, 10, form="qkv", **short)] * scale.qkv_seeds,
        PREFIXES: [
            Training(
                2,
                6,
                steps=scale.prefix_steps,
                batch_size=scale.prefix_batch,
                noise_std=0.5,
                loss="all_prefixes",
                device=settings.device,
            )
        ],
    }
    for d, n in scale.grid:
        for form in ("reduced", "qkv"):
            plans[_grid_name(d, n, form)] = [
                Training(
                    d,
                    n,
                    steps=scale.grid_steps,
                    batch_size=scale.batch_size,
                    noise_std=0.5,
                    form=form,
                    device=settings.device,
                )
            ] * scale.grid_seeds
    results = iter(
        _sweep(settings, _train, [cell for cells in plans.values() for cell in cells], "training")
    )
    return {name: [next(results) for _ in cells] for name, cells in plans.items()}


def _grid_name(d: int, n: int, form: str) -> str:
    return f"isotropic, d = {d}, n = {n}, {form}"


def _train(cell: Training, rng: np.random.Generator) -> Trained:
    layer = LinearSelfAttention(
        cell.n_features, form=cell.form, init=cell.init, random_state=rng, device=cell.device
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # traps are what is counted
        history = train_lsa(
            layer,
            cell.n_context,
            loss=cell.loss,
            steps=cell.steps,
            batch_size=cell.batch_size,
            random_state=rng,
            **cell.law(),
        )
    return Trained(
        P=layer.effective_preconditioner().double().cpu().numpy(),
        optimum=history.optimal_preconditioner.numpy(),
        optimal_loss=history.optimal_loss,
        steps=history.step,
        distance=history.distance,
        even=history.even,
        losses={n: _test_losses(layer, cell, n, rng) for n in cell.tests},
    )


@torch.no_grad()
def _test_losses(
    layer: LinearSelfAttention, cell: Training, n_context: int, rng: np.random.Generator
) -> tuple[float, float, float]:
    law = cell.law()
    sampler = TaskSampler(n_context + 1, cell.n_features, device=cell.device, **law)
    x_cov = np.eye(cell.n_features) if law["x_cov"] is None else law["x_cov"]
    P = optimal_preconditioner(n_context, x_cov, w_cov=cell.w_cov, noise_std=cell.noise_std)
    means = []
    for tasks in _batches(sampler, cell.test_tasks, rng):
        X_query, y_query = tasks.query
        predictions = (
            layer(*tasks.context, X_query),
            one_step_gd(*tasks.context, X_query, P),
            _ridge(tasks, cell.noise_std**2),
        )
        means.append([float((p - y_query).double().square().mean()) for p in predictions])
    layer_loss, step_loss, ridge_loss = np.mean(means, axis=0).tolist()
    return layer_loss, step_loss, ridge_loss


def _batches(sampler: TaskSampler, n_tasks: int, rng: np.random.Generator) -> Iterator[ICLTasks]:
    """Tasks in batches of one size, at least ``n_tasks`` together."""
    generator = torch_generator(rng, sampler.device)
    size = min(n_tasks, _BATCH)
    for _ in range(-(-n_tasks // size)):
        yield sampler.draw(size, generator)


def _ridge(tasks: ICLTasks, alpha: float) -> torch.Tensor:
    """Ridge regression on each context; for alpha = 0 the least squares of more rows than d."""
    X, y = (tensor.double() for tensor in tasks.context)
    gram = X.mT @ X + alpha * torch.eye(X.shape[2], dtype=X.dtype, device=X.device)
    w = torch.linalg.solve(gram, X.mT @ y[..., None])
    return (tasks.query[0].double()[:, None] @ w)[:, 0, 0]


# Simulated expectations.


def _simulated_steps(settings: Settings, scale: Scale) -> dict[str, tuple[float, float | None]]:
    """By target, E[y_q g . x_q] / E[(g . x_q)^2] from tasks, and the closed form or None."""
    names = [NETWORK, *_LINKS]
    cells = [(name, scale.moment_tasks, settings.device) for name in names]
    simulated = _sweep(settings, _simulated_step, cells, "simulating steps")
    exact: list[float | None] = [None]
    exact += [single_index_step_size(12, 4, link, noise_std=0.3) for link in _ARRAY_LINKS.values()]
    return dict(zip(names, zip(simulated, exact, strict=True), strict=True))


def _simulated_step(cell: tuple[str, int, str], rng: np.random.Generator) -> float:
    name, n_tasks, device = cell
    if name == NETWORK:
        sampler = TaskSampler(21, 5, target="mlp", device=device)
    else:
        sampler = TaskSampler(
            13, 4, noise_std=0.3, target="single_index", link=_LINKS[name], device=device
        )
    shared = square = 0.0
    for tasks in _batches(sampler, n_tasks, rng):
        # Every point is the query of the others in turn: the mean over tasks, with less noise.
        products = tasks.X * tasks.y[..., None]
        gradients = products.sum(1, keepdim=True) - products
        predictions = (tasks.X * gradients).sum(-1)
        shared += float((predictions * tasks.y).double().mean())
        square += float(predictions.double().square().mean())
    return shared / square


def _general_law(cell: tuple[int, str], rng: np.random.Generator) -> tuple[float, float, float]:
    """Relative error of the least squares P, and the simulated and exact loss of the best P."""
    n_tasks, device = cell
    n, d, noise_std = 7, 3, 0.6
    law: dict[str, Any] = {
        "x_cov": _rotated((2.0, 1.0, 0.4)),
        "w_cov": _rotated((1.5, 0.8, 0.3), seed=1),
        "noise_std": noise_std,
    }
    exact = optimal_preconditioner(n, law["x_cov"], w_cov=law["w_cov"], noise_std=noise_std)
    sampler = TaskSampler(n + 1, d, dtype=torch.float64, device=device, **law)
    gram = torch.zeros(d * d, d * d, dtype=torch.float64, device=device)
    shared = torch.zeros(d * d, dtype=torch.float64, device=device)
    losses = []
    for tasks in _batches(sampler, n_tasks, rng):
        (X, y), (X_query, y_query) = tasks.context, tasks.query
        gradient = (y[:, None] @ X)[:, 0]
        products = (X_query[:, :, None] * gradient[:, None]).flatten(1)
        gram += products.T @ products
        shared += products.T @ y_query
        losses.append(float((one_step_gd(X, y, X_query, exact) - y_query).square().mean()))
    P = torch.linalg.solve(gram, shared).reshape(d, d).cpu()
    error = float((P - exact).norm() / exact.norm())
    return error, float(np.mean(losses)), population_loss(exact, n, **law)


# Claims.


def _cosine(first: NDArray, second: NDArray) -> float:
    return float((first * second).sum() / np.linalg.norm(first) / np.linalg.norm(second))


def _off_diagonal(P: NDArray) -> float:
    return float(np.abs(P - np.diag(np.diag(P))).max())


def _isotropic_claims(trained: Trained) -> list[Claim]:
    eta = optimal_step_size(20, 5, noise_std=0.5)
    exact = population_loss(eta, 20, 5, noise_std=0.5)
    layer, step, _ = trained.losses[20]
    return [
        Claim.close(f"{ISOTROPIC}: mean diagonal of P, eta*",
                    float(np.diag(trained.P).mean()), eta, relative=0.02),
        Claim.at_most(f"{ISOTROPIC}: largest off-diagonal entry of P", _off_diagonal(trained.P),
                      1.5e-3, expected="0"),
        Claim.at_least(f"{ISOTROPIC}: cosine of P with I", _cosine(trained.P, np.eye(5)), 0.999,
                       expected="1"),
        Claim.close(f"{ISOTROPIC}: test loss of the layer", layer, exact, relative=0.015),
        Claim.close(f"{ISOTROPIC}: test loss of gradient descent with eta*", step, exact,
                    relative=0.015),
        Claim.at_most(f"{ISOTROPIC}: loss of the layer and of gradient descent on the same tasks, "
                      "difference", abs(layer - step), 0.01, expected="0"),
    ]  # fmt: skip


def _noiseless_claims(trained: Trained) -> list[Claim]:
    eta = optimal_step_size(20, 8)
    exact = population_loss(eta, 20, 8)
    layer, step, _ = trained.losses[20]
    return [
        Claim.close(f"{NOISELESS}: mean diagonal of P, eta*", float(np.diag(trained.P).mean()),
                    eta, relative=0.02),
        Claim.close(f"{NOISELESS}: test loss of the layer", layer, exact, relative=0.015),
        Claim.close(f"{NOISELESS}: test loss of gradient descent with eta*", step, exact,
                    relative=0.015),
    ]  # fmt: skip


def _anisotropic_claims(trained: Trained) -> list[Claim]:
    optimum = np.linalg.inv(_rotated((4.0, 2.0, 1.0, 0.5, 0.25))) / 26
    error = float(np.linalg.norm(trained.P - optimum) / np.linalg.norm(optimum))
    return [
        Claim.at_most(f"{ANISOTROPIC}: relative error of P to the inverse covariance over 26",
                      error, 0.03, expected="0"),
        Claim.at_least(f"{ANISOTROPIC}: cosine of P with it", _cosine(trained.P, optimum), 0.999,
                       expected="1"),
        Claim.at_most(f"{ANISOTROPIC}: cosine of P with I", _cosine(trained.P, np.eye(5)), 0.85,
                      expected="0.751"),
    ]  # fmt: skip


def _network_claims(trained: Trained, steps: tuple[float, float | None]) -> list[Claim]:
    return [
        Claim.close(f"{NETWORK}: mean diagonal of P, simulated best step",
                    float(np.diag(trained.P).mean()), steps[0], relative=0.02),
        Claim.at_least(f"{NETWORK}: cosine of P with I", _cosine(trained.P, np.eye(5)), 0.999,
                       expected="1"),
    ]  # fmt: skip


def _general_claims(error: float, simulated: float, exact: float) -> list[Claim]:
    law = "general covariances of x and w, d = 3, n = 7, sigma = 0.6"
    return [
        Claim.at_most(f"{law}: relative error of the least squares P to the closed form", error,
                      0.05, expected="0"),
        Claim.close(f"{law}: simulated loss of the best P", simulated, exact, relative=0.015),
    ]  # fmt: skip


def _link_claims(steps: dict[str, tuple[float, float | None]]) -> list[Claim]:
    claims = []
    for name in _LINKS:
        simulated, exact = steps[name]
        assert exact is not None
        claims.append(
            Claim.close(
                f"single index {name}, d = 4, n = 12, sigma = 0.3: simulated best step",
                simulated,
                exact,
                relative=0.02,
            )
        )
    return claims


def _trapped(trained: Trained) -> bool:
    return (
        trained.last > _TRAP_DISTANCE and trained.losses[10][0] > _TRAP_LOSS * trained.optimal_loss
    )


def _start_claims(trained: dict[str, list[Trained]]) -> list[Claim]:
    def distances(name: str) -> str:
        return ", ".join(f"{result.last:.3f}" for result in trained[name])

    starts = len(trained["random"])
    return [
        Claim.at_most(
            f"{GENERAL}, aligned start: distance of P to P*, largest of {len(trained['aligned'])} "
            "seeds",
            max(result.last for result in trained["aligned"]),
            0.05,
            expected="0",
            note=distances("aligned"),
        ),
        Claim.at_least(
            f"the same, random start: seeds of {starts} that end in a trap, P off by more than "
            f"{_TRAP_DISTANCE} and a loss above {_TRAP_LOSS} times the best",
            sum(_trapped(result) for result in trained["random"]),
            1,
            note=f"distances {distances('random')}",
        ),
        Claim.at_most(
            f"the same, aligned start, form qkv: distance, largest of {len(trained['qkv'])} seeds",
            max(result.last for result in trained["qkv"]),
            0.05,
            expected="0",
            note=distances("qkv"),
        ),
    ]


def _prefix_claims(trained: Trained) -> list[Claim]:
    eta = optimal_step_size(6, 2, noise_std=0.5, prefix="all")
    diagonal = np.diag(trained.P)
    return [
        Claim.close(f"{PREFIXES}: smallest diagonal entry of P", float(diagonal.min()), eta,
                    relative=0.05),
        Claim.close(f"{PREFIXES}: largest diagonal entry of P", float(diagonal.max()), eta,
                    relative=0.05),
        Claim.at_most(f"{PREFIXES}: largest off-diagonal entry of P over eta",
                      _off_diagonal(trained.P) / eta, 0.05, expected="0"),
    ]  # fmt: skip


def _length_claims(trained: Trained) -> list[Claim]:
    eta = optimal_step_size(20, 5, noise_std=0.5)
    return [
        Claim.close(
            f"trained at n = 20, sigma = 0.5, tested at n = {n}: loss of the fixed layer",
            trained.losses[n][0],
            population_loss(eta, n, 5, noise_std=0.5),
            relative=tolerance,
        )
        for n, tolerance in ((5, 0.01), (80, 0.05))
    ]


# Tables and figures.


def _training_table(trained: dict[str, list[Trained]]) -> Table:
    names = {name: name for name in LONG}
    names |= {
        "aligned": f"{GENERAL}, aligned start",
        "random": f"{GENERAL}, random start",
        "qkv": f"{GENERAL}, qkv",
        PREFIXES: PREFIXES,
    }
    rows = []
    for key, name in names.items():
        for result in trained[key]:
            tested = result.losses.get(20) or result.losses.get(10)
            rows.append(
                (
                    name,
                    result.last,
                    float(result.even[-1]),
                    tested[0] if tested else None,
                    tested[1] if tested else None,
                    result.optimal_loss,
                )
            )
    return Table(
        title="Trained layers",
        columns=(
            "",
            "distance of P to P*",
            "even part over P",
            "test loss",
            "of gradient descent",
            "best loss",
        ),
        rows=tuple(rows),
        note="Gradient descent with the best preconditioner on the same tasks. The best loss of "
        "tanh networks is estimated from fresh tasks; that of all prefixes is their mean.",
    )


def _step_table(steps: dict[str, tuple[float, float | None]]) -> Table:
    return Table(
        title="Best step sizes for nonlinear targets",
        columns=("target", "simulated", "closed form"),
        rows=tuple((name, *values) for name, values in steps.items()),
        note="Single-index targets at d = 4, n = 12, sigma = 0.3.",
    )


def _grid_table(trained: dict[str, list[Trained]], scale: Scale) -> Table:
    rows = []
    for d, n in scale.grid:
        cells = []
        for form in ("reduced", "qkv"):
            results = trained[_grid_name(d, n, form)]
            cells += [
                float(np.mean([result.last for result in results])),
                max(result.last for result in results),
            ]
        rows.append((d, n, *cells))
    return Table(
        title="Distance of P to P*, isotropic, sigma = 0.5",
        columns=("d", "n", "reduced, mean", "reduced, largest", "qkv, mean", "qkv, largest"),
        rows=tuple(rows),
        note=f"{scale.grid_seeds} seeds, {scale.grid_steps} steps, aligned start.",
    )


def _maps(trained: dict[str, list[Trained]]) -> Figure:
    panels = []
    titles = {ISOTROPIC: "isotropic", ANISOTROPIC: "anisotropic", NETWORK: "tanh networks"}
    for name, title in titles.items():
        result = trained[name][0]
        d = len(result.P)
        gap = np.full((d, 1), np.nan)
        with panel("", "", title=title, size=(4.8, 2.6)) as (drawing, axes):
            limit = float(np.abs(result.optimum).max())
            image = axes.imshow(
                np.hstack([result.P, gap, result.optimum]), cmap="RdBu_r", vmin=-limit, vmax=limit
            )
            axes.set_xticks([(d - 1) / 2, d + 1 + (d - 1) / 2], ["trained P", "best P*"])
            axes.set_yticks([])
            axes.grid(False)
            axes.spines[:].set_visible(False)
            drawing.colorbar(image, ax=axes, shrink=0.8)
        panels.append(drawing)
    return Figure.render(
        "What the layer does to the gradient",
        "Effective preconditioner of the trained layer beside the best one, on one scale of "
        "colours. Anisotropic: weights with the inverse covariance of the inputs, eigenvalues 4 to "
        "0.25 in a random basis. Tanh networks: P* estimated from fresh tasks.",
        *panels,
    )


def _curves(trained: dict[str, list[Trained]], scale: Scale) -> Figure:
    with panel("training step", "relative size", title="towards the optimum") as (left, axes):
        result = trained["aligned"][0]
        axes.plot(result.steps, result.distance, label="aligned start: distance of P to P*")
        axes.plot(result.steps, result.even, label="aligned start: even part over P")
        worst = max(trained["random"], key=lambda result: result.last)
        axes.plot(worst.steps, worst.distance, label="random start, the worst: distance of P to P*")
        axes.set_yscale("log")
        axes.legend(fontsize=8)
    isotropic = trained[ISOTROPIC][0]
    with panel("examples in the context n", "test loss", title="other lengths") as (right, axes):
        names = ("layer, trained at n = 20", "gradient descent, eta*(n)", "ridge regression")
        for index, name in enumerate(names):
            values = [isotropic.losses[n][index] for n in scale.lengths]
            axes.plot(scale.lengths, values, "o-" if index else "o", label=name)
        eta = optimal_step_size(20, 5, noise_std=0.5)
        lengths = range(min(scale.lengths), max(scale.lengths) + 1)
        exact = [population_loss(eta, n, 5, noise_std=0.5) for n in lengths]
        axes.plot(lengths, exact, "--", color=MUTED, label="layer, closed form")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(scale.lengths, [str(n) for n in scale.lengths])
        axes.minorticks_off()
        axes.legend(fontsize=8)
    return Figure.render(
        "Training, and contexts of other lengths",
        f"Left: {GENERAL}. Right: isotropic, d = 5, sigma = 0.5, {scale.test_tasks} tasks a point; "
        "a fixed layer keeps the step of its training length, too long for more examples.",
        left,
        right,
    )
