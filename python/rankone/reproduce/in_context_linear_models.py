"""Which algorithm an in-context learner runs on linear models (arXiv 2211.15661).

Learners of one and three layers are trained on linear tasks and held against gradient descent,
least squares and ridge regression at every position; probes read moments and weights from their
layers; transformers with constructed weights are held against the algorithms that they run.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from rankone._sweep import sweep
from rankone.icl._learner_profile import ridge_name
from rankone.icl.linear_models import (
    ConstructedRidge,
    ConstructedSGD,
    InContextTransformer,
    algorithm_profile,
    bayes_alpha,
    make_linear_tasks,
    prefix_predictions,
    probe_hidden_states,
    train_in_context,
)
from rankone.reproduce import MUTED, Claim, Figure, Reproduction, Settings, Table, panel

# Of the trained learners.
D, N = 2, 6
ALPHAS = (0.0, 0.01, 0.0625, 0.25, 1.0, 4.0)
NOISY_ALPHAS = (0.0, 0.0625, 0.25, 1.0, 4.0)
NOISE_STD = 0.5

# Of the constructed transformers.
_BUILT_D, _BUILT_N = 3, 6
_STEP, _DECAY = 0.1, 0.1
_RIDGE_ALPHAS = (0.5, 1.0, 0.1)
_ORDERS = (0, 1, 2)

_REFERENCES = ("ols", "gd", "ridge(0.25)", "knn", "zero")
_PROBES = tuple((t, k) for t in ("weights", "moment", "control") for k in ("mlp", "linear"))


@dataclass(frozen=True)
class Scale:
    """Sizes of one run.

    Attributes:
        steps: of the trainings of three layers.
        shallow_steps: of the training of one layer.
        batch_size: tasks a step of both.
        d_model, n_heads, lr: of both.
        test_tasks: tasks of a comparison.
        probe_tasks: tasks that train and score the probes.
        built_tasks: tasks of the constructed transformers.
        product_scales: of the figure of their errors.
        grid_layers, grid_widths: depths and widths of further trainings without noise, each depth
            with each width; none in the quick mode.
        grid_noise: noise of further trainings of the deepest learner at ``noise_width``.
        noise_width: see there.
        grid_d, grid_n, grid_steps, grid_batch, grid_lr, grid_warmup: of those.
    """

    steps: int = 1500
    shallow_steps: int = 1000
    batch_size: int = 96
    d_model: int = 32
    n_heads: int = 4
    lr: float = 4e-3
    test_tasks: int = 6000
    probe_tasks: int = 12_000
    built_tasks: int = 500
    product_scales: tuple[float, ...] = (1e-6, 1e-5, 1e-4, 5e-4, 1e-3, 3e-3, 1e-2, 3e-2)
    grid_layers: tuple[int, ...] = ()
    grid_widths: tuple[int, ...] = ()
    grid_noise: tuple[float, ...] = ()
    noise_width: int = 512
    grid_d: int = 8
    grid_n: int = 40
    grid_steps: int = 500_100
    grid_batch: int = 64
    grid_lr: float = 1e-4
    grid_warmup: float = 0.2


QUICK = Scale()
FULL = Scale(
    grid_layers=(1, 2, 4, 8, 16),
    grid_widths=(16, 32, 64, 128, 256, 512, 1024),
    grid_noise=(0.25, 0.5, 0.75, 1.0),
)


@dataclass(frozen=True)
class Training:
    """One training and what is measured after it, a plain value that can be sent."""

    n_features: int
    n_examples: int
    n_layers: int
    d_model: int
    n_heads: int
    steps: int
    batch_size: int
    lr: float
    test_tasks: int
    warmup: float = 0.1
    noise_std: float = 0.0
    alphas: tuple[float, ...] | None = None
    probe_tasks: int = 0
    device: str = "cpu"


@dataclass(frozen=True)
class Learner:
    """What came out of a training.

    Attributes:
        spd: by algorithm, (n,) distances.
        alphas: penalties of ridge regression.
        best_alpha: the nearest of them.
        mse, bayes_mse: (n,) errors of the learner and of the posterior mean.
        probes: by (target, kind), (n_layers + 1,) R^2.
    """

    spd: dict[str, NDArray]
    alphas: tuple[float, ...]
    best_alpha: float
    mse: NDArray
    bayes_mse: NDArray
    probes: dict[tuple[str, str], NDArray]

    def distance(self, name: str) -> float:
        """Mean distance over the positions that have seen an example."""
        return float(self.spd[name][1:].mean())

    def ridge_distances(self) -> dict[float, float]:
        """Mean distance by penalty."""
        return {alpha: self.distance(ridge_name(alpha)) for alpha in self.alphas}

    @property
    def error(self) -> tuple[float, float]:
        """Mean squared error over d of the learner and of the posterior mean, likewise."""
        return float(self.mse[1:].mean()), float(self.bayes_mse[1:].mean())


@dataclass(frozen=True)
class Built:
    """Errors of the constructed transformers.

    Attributes:
        sgd: largest error of the answers against the recursion.
        ridge: by penalty, against the closed solution.
        curves: by (model, order), largest error at each product scale.
        sizes: blocks of SGD and ridge, then their widths.
    """

    sgd: float
    ridge: dict[float, float]
    curves: dict[tuple[str, int], list[float]]
    sizes: tuple[int, int, int, int]


def run(settings: Settings) -> Reproduction:
    """Train and profile the learners, probe one, and run the constructed transformers."""
    scale = settings.scale(quick=QUICK, full=FULL)
    plans = _plans(settings, scale)
    results = sweep(
        _train,
        list(plans.values()),
        random_state=settings.random_state,
        n_jobs=settings.n_jobs,
        description="training",
        progress=settings.progress,
    )
    learners = dict(zip(plans, results, strict=True))
    built = _constructed(scale, settings.random_state)
    shallow, deep, noisy = (learners[name] for name in ("L = 1", "L = 3", "L = 3, noise"))
    claims = (
        *_algorithm_claims(shallow, deep),
        *_noise_claims(noisy),
        *_probe_claims(deep),
        *_built_claims(built),
    )
    figures = [
        _position_figure(shallow, deep),
        _alpha_figure(deep, noisy),
        _probe_figure(deep),
        _built_figure(built, scale),
    ]
    if scale.grid_layers:
        figures.append(_grid_figure(learners, scale))
    return Reproduction(
        slug="in-context-linear-models",
        claims=claims,
        tables=(_learner_table(plans, learners), _probe_table(deep), _built_table(built)),
        figures=tuple(figures),
        settings={
            "learner": f"d = {D}, n = {N}, width {scale.d_model}, {scale.n_heads} heads, "
            f"{scale.steps} steps of {scale.batch_size} tasks (one layer {scale.shallow_steps})",
            "test": f"{scale.test_tasks} tasks, means over positions 1 to {N - 1}; probes "
            f"{scale.probe_tasks} tasks, constructed transformers {scale.built_tasks}",
        },
    )


def _plans(settings: Settings, scale: Scale) -> dict[str, Training]:
    def small(n_layers: int, steps: int, noise_std: float = 0.0, probes: int = 0) -> Training:
        return Training(
            D, N, n_layers, scale.d_model, scale.n_heads, steps, scale.batch_size, scale.lr,
            scale.test_tasks, noise_std=noise_std, probe_tasks=probes, device=settings.device,
            alphas=NOISY_ALPHAS if noise_std else ALPHAS,
        )  # fmt: skip

    def large(n_layers: int, d_model: int, noise_std: float = 0.0) -> Training:
        return Training(
            scale.grid_d, scale.grid_n, n_layers, d_model, scale.n_heads, scale.grid_steps,
            scale.grid_batch, scale.grid_lr, scale.test_tasks, warmup=scale.grid_warmup,
            noise_std=noise_std, device=settings.device,
        )  # fmt: skip

    plans = {
        "L = 3": small(3, scale.steps, probes=scale.probe_tasks),
        "L = 3, noise": small(3, scale.steps, NOISE_STD),
        "L = 1": small(1, scale.shallow_steps),
    }
    for n_layers in scale.grid_layers:
        for d_model in scale.grid_widths:
            plans[_grid_name(n_layers, d_model)] = large(n_layers, d_model)
    for noise_std in scale.grid_noise:
        n_layers = max(scale.grid_layers)
        name = f"{_grid_name(n_layers, scale.noise_width)}, sigma = {noise_std:g}"
        plans[name] = large(n_layers, scale.noise_width, noise_std)
    return plans


def _grid_name(n_layers: int, d_model: int) -> str:
    return f"L = {n_layers}, width {d_model}"


def _train(cell: Training, rng: np.random.Generator) -> Learner:
    model = InContextTransformer(
        cell.n_features,
        cell.n_examples,
        d_model=cell.d_model,
        n_layers=cell.n_layers,
        n_heads=cell.n_heads,
        random_state=rng,
    ).to(cell.device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # errors are in the table
        train_in_context(
            model,
            n_examples=cell.n_examples,
            noise_std=cell.noise_std,
            steps=cell.steps,
            batch_size=cell.batch_size,
            lr=cell.lr,
            warmup=cell.warmup,
            random_state=rng,
        )
    profile = algorithm_profile(
        model,
        n_examples=cell.n_examples,
        noise_std=cell.noise_std,
        alphas=cell.alphas,
        n_tasks=cell.test_tasks,
        random_state=rng,
    )
    probes = {
        (target, kind): probe_hidden_states(
            model,
            target=target,
            kind=kind,
            n_examples=cell.n_examples,
            noise_std=cell.noise_std,
            n_tasks=cell.probe_tasks,
            random_state=rng,
        ).numpy()
        for target, kind in (_PROBES if cell.probe_tasks else ())
    }
    return Learner(
        spd={name: values.cpu().numpy() for name, values in profile.spd.items()},
        alphas=profile.alphas,
        best_alpha=profile.best_alpha,
        mse=profile.mse.cpu().numpy() / cell.n_features,
        bayes_mse=profile.bayes_mse.cpu().numpy() / cell.n_features,
        probes=probes,
    )


# Constructed transformers.


def _constructed(scale: Scale, random_state: int) -> Built:
    d, n = _BUILT_D, _BUILT_N
    tasks = make_linear_tasks(
        scale.built_tasks, n + 1, d, random_state=random_state, dtype=torch.float64
    )
    X, y = tasks.X, tasks.y

    def error(model: ConstructedSGD | ConstructedRidge, expected: torch.Tensor) -> float:
        answer = model(X[:, :-1], y[:, :-1], X[:, -1])
        return float((answer - expected[:, -1]).abs().max())

    recursion = prefix_predictions(X, y, "sgd", step_size=_STEP, weight_decay=_DECAY)
    solution = {a: prefix_predictions(X, y, "ridge", alpha=a) for a in _RIDGE_ALPHAS}
    sgd = ConstructedSGD(d, n, step_size=_STEP, weight_decay=_DECAY)
    ridges = {alpha: ConstructedRidge(d, n, alpha=alpha) for alpha in _RIDGE_ALPHAS}
    curves: dict[tuple[str, int], list[float]] = {}
    for order in _ORDERS:
        for size in scale.product_scales:
            products = {"product_scale": size, "product_order": order}
            gradient = ConstructedSGD(d, n, step_size=_STEP, weight_decay=_DECAY, **products)  # type: ignore[arg-type]
            ridge = ConstructedRidge(d, n, alpha=1.0, **products)  # type: ignore[arg-type]
            curves.setdefault(("SGD", order), []).append(error(gradient, recursion))
            curves.setdefault(("ridge", order), []).append(error(ridge, solution[1.0]))
    some_ridge = ridges[_RIDGE_ALPHAS[0]]
    return Built(
        sgd=error(sgd, recursion),
        ridge={alpha: error(model, solution[alpha]) for alpha, model in ridges.items()},
        curves=curves,
        sizes=(sgd.n_blocks, some_ridge.n_blocks, sgd.d_model, some_ridge.d_model),
    )


# Claims.


def _algorithm_claims(shallow: Learner, deep: Learner) -> list[Claim]:
    ols, gd = deep.distance("ols"), deep.distance("gd")
    shallow_ols, shallow_gd = shallow.distance("ols"), shallow.distance("gd")
    return [
        Claim.at_most(
            "L = 1, sigma = 0: distance to one optimal step of gradient descent over that to least "
            "squares",
            shallow_gd / shallow_ols,
            0.85,
            expected="0.63",
            strict=True,
            note=f"{shallow_gd:.3f} and {shallow_ols:.3f}; a poor learner, with a squared error "
            f"over d of {shallow.error[0]:.3f} where the posterior mean has {shallow.error[1]:.3f}",
        ),
        Claim.at_most(
            "L = 3, sigma = 0: distance to least squares over that to gradient descent",
            ols / gd,
            0.2,
            expected="0.096",
            strict=True,
            note=f"{ols:.3f} and {gd:.3f}",
        ),
        Claim.at_most(
            "L = 3, sigma = 0: distance to least squares", ols, 0.10, expected="0.038", strict=True
        ),
        Claim.at_most(
            "sigma = 0: best penalty of ridge regression at L = 3 over that at L = 1",
            deep.best_alpha / shallow.best_alpha if shallow.best_alpha else float("nan"),
            0.25,
            expected="0.01 or 0.0625",
            note=f"{deep.best_alpha:g} at L = 3 (distance "
            f"{deep.distance(ridge_name(deep.best_alpha)):.3f}), {shallow.best_alpha:g} at L = 1 "
            f"({shallow.distance(ridge_name(shallow.best_alpha)):.3f})",
        ),
    ]


def _noise_claims(noisy: Learner) -> list[Claim]:
    distances = noisy.ridge_distances()
    bayes = bayes_alpha(NOISE_STD)
    ridge, ols = noisy.spd[ridge_name(bayes)], noisy.spd["ols"]
    error, bayes_error = noisy.error
    shown = ", ".join(f"{alpha:g}: {value:.4f}" for alpha, value in distances.items())
    return [
        Claim.exact(
            "L = 3, sigma = 0.5: the penalty of least distance is that of the posterior mean",
            min(distances, key=distances.__getitem__),
            bayes,
            note=f"{shown}; gradient descent {noisy.distance('gd'):.3f}",
        ),
        Claim.at_most(
            "L = 3, sigma = 0.5: distance to the ridge regression of the posterior mean",
            distances[bayes],
            0.06,
            expected="0.0227",
        ),
        *(
            Claim.at_most(
                f"L = 3, sigma = 0.5, position {i}: distance to that ridge regression over the "
                "distance to least squares",
                float(ridge[i] / ols[i]),
                0.5,
                expected=expected,
                strict=True,
                note=f"{ridge[i]:.3f} and {ols[i]:.3f}",
            )
            for i, expected in ((4, "0.19"), (5, "0.34"))
        ),
        Claim.at_most(
            "L = 3, sigma = 0.5: mean squared error over that of the posterior mean",
            error / bayes_error,
            1.15,
            expected="1.06",
            note=f"{error:.4f} and {bayes_error:.4f}, divided by d",
        ),
    ]


def _probe_claims(deep: Learner) -> list[Claim]:
    claims = []
    for target, margin, gain in (("weights", "0.30", "0.32"), ("moment", "", "0.29")):
        mlp, linear = deep.probes[target, "mlp"], deep.probes[target, "linear"]
        rows = f"MLP {_listed(mlp)}; linear {_listed(linear)}"
        claims += [
            Claim.at_least(
                f"probes of the {target}, L = 3, sigma = 0: R^2 of the MLP less that of the linear "
                "probe, least of the layers",
                float((mlp - linear).min()),
                0.1,
                expected=margin or None,
                note=rows,
            ),
            Claim.at_least(
                f"probes of the {target}: R^2 of the MLP at the best layer less that at the "
                "embedding",
                float(mlp.max() - mlp[0]),
                0.15,
                expected=gain,
            ),
        ]
    control = np.concatenate([deep.probes["control", kind] for kind in ("mlp", "linear")])
    claims.append(
        Claim.at_most(
            "probes of the weights of other tasks: largest absolute R^2",
            float(np.abs(control).max()),
            0.03,
            expected="0",
        )
    )
    return claims


def _listed(values: NDArray) -> str:
    return ", ".join(f"{value:.3f}" for value in values)


def _built_claims(built: Built) -> list[Claim]:
    d, n = _BUILT_D, _BUILT_N
    return [
        Claim.at_most(
            f"constructed SGD, d = {d}, n = {n}, step {_STEP}, decay {_DECAY}: largest error "
            "against the recursion",
            built.sgd,
            1e-8,
            expected="1.6e-11",
        ),
        *(
            Claim.at_most(
                f"constructed ridge, d = {d}, n = {n}, alpha = {alpha:g}: largest error against "
                "the closed solution",
                built.ridge[alpha],
                1e-5,
                expected=expected,
            )
            for alpha, expected in zip(_RIDGE_ALPHAS, ("1.7e-8", "1.5e-8", "2.1e-7"), strict=True)
        ),
        Claim.exact(
            f"blocks of constructed SGD and ridge, then their widths, d = {d}, n = {n}",
            built.sizes,
            (2 * n + 1, 5 * n + 2, 3 * d + 2 * n + 6, d * d + 6 * d + 2 * n + 8),
        ),
    ]


# Tables and figures.


def _learner_table(plans: dict[str, Training], learners: dict[str, Learner]) -> Table:
    rows = []
    for name, learner in learners.items():
        noise_std = plans[name].noise_std
        # Under noise least squares has an infinite mean next to d examples.
        ols = None if noise_std else learner.distance("ols")
        gd, best = learner.distance("gd"), learner.best_alpha
        rows.append(
            (name, noise_std, ols, gd, best, learner.distance(ridge_name(best)), *learner.error)
        )
    return Table(
        title="Learners and algorithms",
        columns=("", "sigma", "distance to OLS", "to one step of GD", "best ridge alpha",
                 "distance to it", "squared error / d", "of the posterior mean"),
        rows=tuple(rows),
        note="Distances are squared differences of predictions over d, means over the positions "
        "that have seen an example. Under noise that to least squares has no finite mean.",
    )  # fmt: skip


def _probe_table(deep: Learner) -> Table:
    layers = len(deep.probes["weights", "mlp"])
    return Table(
        title="R^2 of probes, L = 3, sigma = 0",
        columns=("target", "probe", "embedding", *(f"layer {i}" for i in range(1, layers))),
        rows=tuple((*key, *(float(r2) for r2 in values)) for key, values in deep.probes.items()),
        note="Learned average of the tokens of a prompt, then a linear map or one hidden layer. "
        "The control is the weights of other tasks.",
    )


def _built_table(built: Built) -> Table:
    rows: list[tuple[str, float | None, float]] = [("SGD", None, built.sgd)]
    rows += [("ridge", alpha, error) for alpha, error in built.ridge.items()]
    return Table(
        title="Constructed transformers",
        columns=("", "alpha", "largest error"),
        rows=tuple(rows),
        note="Products of order 2 at scale 5e-4, float64.",
    )


def _position_figure(shallow: Learner, deep: Learner) -> Figure:
    panels = []
    for title, learner in (("one layer", shallow), ("three layers", deep)):
        with panel("examples seen", "distance to the learner", title=title) as (drawing, axes):
            for name in _REFERENCES:
                axes.plot(range(1, N), learner.spd[name][1:], "o-", label=name)
            axes.set_yscale("log")
            axes.set_xticks(range(1, N))
            axes.legend(fontsize=8, ncols=2)
        panels.append(drawing)
    return Figure.render(
        "From gradient descent to least squares",
        f"Squared difference of predictions over d at every position, d = {D}, no noise. ols: "
        "least squares of least norm; gd: one step of gradient descent, the best for the position.",
        *panels,
    )


def _alpha_figure(deep: Learner, noisy: Learner) -> Figure:
    with panel("penalty alpha", "distance to the learner") as (drawing, axes):
        for label, learner in (("sigma = 0", deep), (f"sigma = {NOISE_STD}", noisy)):
            distances = learner.ridge_distances()
            alphas = [alpha for alpha in learner.alphas if alpha > 0]
            axes.plot(alphas, [distances[alpha] for alpha in alphas], "o-", label=label)
        axes.axvline(bayes_alpha(NOISE_STD), linestyle="--", color=MUTED)
        axes.annotate(
            "posterior mean",
            (bayes_alpha(NOISE_STD), 0.97),
            xycoords=("data", "axes fraction"),
            xytext=(4, 0),
            textcoords="offset points",
            va="top",
            color=MUTED,
            fontsize=8,
        )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.legend(fontsize=8)
    return Figure.render(
        "The learner knows the noise it was trained with",
        "Three layers against ridge regression, mean over the positions that have seen an example. "
        "The dashed line is the penalty of the posterior mean at sigma = 0.5; without noise it is "
        "0.",
        drawing,
    )


def _probe_figure(deep: Learner) -> Figure:
    with panel("layer, 0 is the embedding", "R^2 on new tasks") as (drawing, axes):
        for (target, kind), values in deep.probes.items():
            axes.plot(
                range(len(values)),
                values,
                "o-" if kind == "mlp" else "s:",
                label=f"{target}, {kind}",
            )
        axes.set_xticks(range(len(deep.probes["weights", "mlp"])))
        axes.legend(fontsize=8)
    return Figure.render(
        "What can be read from each layer",
        "Probes of three layers trained without noise. An MLP on averaged raw tokens already reads "
        "much: what counts is the gain over layer 0.",
        drawing,
    )


def _built_figure(built: Built, scale: Scale) -> Figure:
    panels = []
    for model in ("SGD", "ridge"):
        with panel("scale of products", "largest error", title=f"constructed {model}") as (
            drawing,
            axes,
        ):
            for order in _ORDERS:
                axes.plot(
                    scale.product_scales, built.curves[model, order], "o-", label=f"order {order}"
                )
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.legend(fontsize=8)
        panels.append(drawing)
    return Figure.render(
        "How exact the constructed transformers are",
        f"d = {_BUILT_D}, n = {_BUILT_N}, against the recursion and the closed solution with alpha "
        "= 1. On the right of each curve the products are wrong, on the left float64 runs out of "
        "digits.",
        *panels,
    )


def _grid_figure(learners: dict[str, Learner], scale: Scale) -> Figure:
    panels = []
    for title, name in (("to one step of gradient descent", "gd"), ("to least squares", "ols")):
        with panel("layers", "distance", title=title) as (drawing, axes):
            for d_model in scale.grid_widths:
                values = [
                    learners[_grid_name(n_layers, d_model)].distance(name)
                    for n_layers in scale.grid_layers
                ]
                axes.plot(scale.grid_layers, values, "o-", label=f"width {d_model}")
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.legend(fontsize=8)
        panels.append(drawing)
    return Figure.render(
        "Depth and width",
        f"d = {scale.grid_d}, n = {scale.grid_n}, no noise, {scale.grid_steps} steps of "
        f"{scale.grid_batch} tasks.",
        *panels,
    )
