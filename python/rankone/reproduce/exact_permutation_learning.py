"""Exact learning of permutations by ensembles of wide networks (arXiv 2502.16763).

Checks the closed form of the trained network's law against a direct solve and against networks of
finite width, counts the models an exact ensemble needs, draws such ensembles, and compares the
published numbers of models with those that either kernel predicts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy.stats import norm

from rankone._sweep import sweep
from rankone.icl.permutation_learning import (
    ExactPermutationLearner,
    binary_inputs,
    ensemble_complexity,
    make_permutation_task,
    ntk_coefficients,
    posterior,
    two_layer_kernels,
)
from rankone.reproduce import SERIES, Claim, Figure, Reproduction, Settings, Table, panel
from rankone.reproduce._figures import INK

KERNELS = ("ntk", "readout")

# Models for one input of two ones, and for all inputs at once, to fail with probability 0.1.
SINGLE = {5: 208, 8: 289, 10: 338, 15: 461, 20: 587, 30: 851}
EVERY = {5: 455, 10: 801, 20: 1469, 30: 2183}
EVERY_MIDPOINT = {10: 16, 20: 37, 30: 60}
# Models after which one run of the paper reached an accuracy of 0.9 on inputs of two ones.
PUBLISHED = {5: 43, 10: 69, 15: 103, 20: 117, 25: 157, 30: 175}
PREDICTED = {
    "readout": {5: 28, 10: 58, 15: 89, 20: 121, 25: 155, 30: 190},
    "ntk": {5: 205, 10: 333, 15: 454, 20: 579, 25: 708, 30: 840},
}
ACCURACY = 0.9
SLOPE_SIZES = (20, 50, 100, 200, 400)
CURVE_SIZES = (3, 4, 5, 6, 8, 10, 14, 20, 30, 40, 60, 100)

# Networks of one run over the number that is predicted for it.
_RUN_FACTOR = 2
# Orders in which they are added: the accuracy of one order fluctuates.
_ORDERS = 20
_DRAWN_SIZE = 10  # bits of the histogram of drawn averages


@dataclass(frozen=True)
class Scale:
    """Sizes of one run.

    Attributes:
        direct_sizes: k of the comparison with a direct solve.
        size, width, models, ones: k, m, N and numbers of ones of the finite-width comparison.
        run_sizes, run_width, run_models: k, m and most networks of the runs that look for the
            first ensemble of accuracy 0.9.
        run_kernels: how they are trained.
        draw_sizes, draw_inputs, draw_seeds: k, test inputs and seeds of the drawn ensembles.
        histogram_seeds: ensembles drawn for the histogram.
    """

    direct_sizes: tuple[int, ...] = tuple(range(2, 41))
    size: int = 6
    width: int = 512
    models: int = 400
    ones: tuple[int, ...] = (2, 4, 6)
    run_sizes: tuple[int, ...] = (5, 10, 15)
    run_width: int = 512
    run_models: int = 1000
    run_kernels: tuple[str, ...] = KERNELS
    draw_sizes: tuple[int, ...] = (10, 20)
    draw_inputs: int = 500
    draw_seeds: int = 5
    histogram_seeds: int = 40


QUICK = Scale()
FULL = Scale(run_sizes=tuple(range(2, 31)), run_width=50_000, histogram_seeds=400)


def run(settings: Settings) -> Reproduction:
    """The law, the sizes it asks for, drawn ensembles and trained ones."""
    scale = settings.scale(quick=QUICK, full=FULL)
    finite = _finite_width(settings, scale)
    draws = _draws(settings, scale)
    runs = _runs(settings, scale)
    return Reproduction(
        slug="exact-permutation-learning",
        claims=(
            _direct_claim(scale),
            *_finite_claims(finite, scale),
            *_size_claims(),
            *_draw_claims(draws, scale),
            *_published_claims(),
            *_midpoint_claims(),
        ),
        tables=(
            _finite_table(finite, scale),
            _size_table(),
            _draw_table(draws, scale),
            _published_table(),
            _run_table(runs, scale),
        ),
        figures=(_figure(settings, scale, finite, runs),),
        settings={
            "networks": f"two layers, ReLU, no biases, NTK parameterisation, widths {scale.width} "
            f"and {scale.run_width}, full-batch gradient descent to an error of 1e-6",
            "drawn ensembles": "joint draws from the law of infinite width",
        },
    )


# The law.


def _direct_claim(scale: Scale) -> Claim:
    errors = [_direct_error(k, kernel) for k in scale.direct_sizes for kernel in KERNELS]
    first, last = scale.direct_sizes[0], scale.direct_sizes[-1]
    return Claim.at_most(
        f"closed forms less the direct solve, k = {first} to {last}, every number of ones, both "
        "kernels: largest error of means and covariances",
        max(errors),
        1e-10,
        expected="0",
    )


def _direct_error(k: int, kernel: str) -> float:
    train = np.eye(k)
    X = np.tril(np.ones((k, k)))  # one input of every number of ones
    permutation = np.random.default_rng(k).permutation(k)
    theta, K = two_layer_kernels(train)
    theta_test, K_test = two_layer_kernels(train, X)
    matrix, towards = (theta, theta_test) if kernel == "ntk" else (K, K_test)
    w = np.linalg.solve(matrix, towards)
    cross = w.T @ K_test
    covariance = two_layer_kernels(X)[1] + w.T @ K @ w - cross - cross.T
    mean, variance, found = posterior(X, permutation, kernel=kernel, return_cov=True)
    return max(
        float(np.abs(difference).max())
        for difference in (
            mean - w.T @ train[:, permutation],
            found - covariance,
            variance - np.diag(covariance),
        )
    )


def _finite_width(settings: Settings, scale: Scale) -> dict[int, dict]:
    """Member outputs at every input of so many ones, and what the law says of them."""
    task = make_permutation_task(scale.size, random_state=settings.random_state)
    model = ExactPermutationLearner(
        scale.models,
        mode="network",
        width=scale.width,
        device=settings.device,
        n_jobs=settings.n_jobs,
        random_state=settings.random_state,
    ).fit(task.X, task.Y)
    found = {}
    for c in scale.ones:
        X = binary_inputs(scale.size, n_ones=c)
        outputs = model.member_outputs(X)
        bits = X[:, task.permutation] == 1
        law = ntk_coefficients(c, scale.size)
        found[c] = {
            "ones": outputs[:, bits],
            "zeros": outputs[:, ~bits],
            "variance": float(outputs.var(axis=0, ddof=1).mean()),
            "alpha1": float(law.alpha1),
            "alpha0": float(law.alpha0),
            "expected_variance": float(law.variance),
        }
    return found


def _mean_and_error(outputs: np.ndarray) -> tuple[float, float]:
    """Mean of (N, bits) outputs and its standard error; a network's bits are dependent."""
    averages = outputs.mean(axis=1)
    return float(averages.mean()), float(averages.std(ddof=1) / math.sqrt(len(averages)))


def _finite_claims(finite: dict[int, dict], scale: Scale) -> list[Claim]:
    claims = []
    where = f"k = {scale.size}, m = {scale.width}, N = {scale.models}"
    for c, values in finite.items():
        for bits, name, expected in (
            ("ones", "1-bits", values["alpha1"]),
            ("zeros", "0-bits", values["alpha0"]),
        ):
            if values[bits].size:
                mean, error = _mean_and_error(values[bits])
                claims.append(
                    Claim.close(
                        f"networks, {where}, {c} ones: mean of {name}",
                        mean,
                        expected,
                        absolute=4 * error + 0.006,
                        note="4 standard errors and 0.006 for the finite width",
                    )
                )
        claims.append(
            Claim.close(
                f"networks, {where}, {c} ones: variance",
                values["variance"],
                values["expected_variance"],
                relative=0.1,
            )
        )
    return claims


def _finite_table(finite: dict[int, dict], scale: Scale) -> Table:
    rows = []
    for c, values in finite.items():
        ones, ones_error = _mean_and_error(values["ones"])
        zeros, zeros_error = (
            _mean_and_error(values["zeros"]) if values["zeros"].size else (None, None)
        )
        rows += [
            (c, "mean of 1-bits", values["alpha1"], ones, ones_error),
            *([(c, "mean of 0-bits", values["alpha0"], zeros, zeros_error)] if zeros_error else []),
            (c, "variance", values["expected_variance"], values["variance"], None),
        ]
    return Table(
        title=f"{scale.models} networks of width {scale.width}, k = {scale.size}",
        columns=("ones", "", "infinite width", "networks", "standard error"),
        rows=tuple(rows),
    )


# The size of the ensemble.


def _size_claims() -> list[Claim]:
    sizes = np.array(SLOPE_SIZES)
    single = np.array([ensemble_complexity(k) for k in SLOPE_SIZES])
    every = np.array([ensemble_complexity(k, n_ones="all") for k in SLOPE_SIZES])
    falling = ", ".join(map(str, sizes[::-1]))
    return [
        Claim.exact(
            f"models for one input of two ones, k = {_listed(SINGLE)}",
            [ensemble_complexity(k) for k in SINGLE],
            list(SINGLE.values()),
        ),
        Claim.close(
            "models for one input over k ln k, k = 30",
            ensemble_complexity(30) / (30 * math.log(30)),
            8.34,
            absolute=0.005,
        ),
        Claim.increasing(
            f"models for one input over k ln k, k = {falling}",
            (single / (sizes * np.log(sizes)))[::-1].tolist(),
            expected="falls with k",
        ),
        Claim.close(
            f"models for one input: slope of ln N on ln k, k = {_listed(SLOPE_SIZES)}",
            _slope(sizes, single),
            1.06,
            absolute=0.02,
        ),
        Claim.exact(
            f"models for all inputs, k = {_listed(EVERY)}",
            [ensemble_complexity(k, n_ones="all") for k in EVERY],
            list(EVERY.values()),
        ),
        Claim.increasing(
            f"models for all inputs over k^2, k = {falling}",
            (every / sizes**2)[::-1].tolist(),
            expected="falls with k",
        ),
        Claim.close(
            f"models for all inputs: slope of ln N on ln k, k = {_listed(SLOPE_SIZES)}",
            _slope(sizes, every),
            1.10,
            absolute=0.03,
            note="Inside the quadratic bound.",
        ),
    ]


def _midpoint_claims() -> list[Claim]:
    midpoint = partial(ensemble_complexity, rounding="midpoint")
    return [
        Claim.exact(
            "midpoint rounding, one input of two ones: most models, k = 2 to 100",
            max(midpoint(k) for k in range(2, 101)),
            1,
        ),
        Claim.exact(
            f"midpoint rounding, models for all inputs, k = {_listed(EVERY_MIDPOINT)}",
            [midpoint(k, n_ones="all") for k in EVERY_MIDPOINT],
            list(EVERY_MIDPOINT.values()),
        ),
    ]


def _slope(sizes: np.ndarray, models: np.ndarray) -> float:
    return float(np.polyfit(np.log(sizes), np.log(models), 1)[0])


def _listed(sizes: Iterable[int]) -> str:
    return ", ".join(map(str, sizes))


def _size_table() -> Table:
    rows = []
    for k in (5, 10, 20, 30, 50, 100, 200, 400):
        single, every = ensemble_complexity(k), ensemble_complexity(k, n_ones="all")
        rows.append(
            (
                k,
                single,
                single / (k * math.log(k)),
                every,
                every / k**2,
                ensemble_complexity(k, n_ones="all", rounding="midpoint"),
                ensemble_complexity(k, n_ones="all", method="bound"),
            )
        )
    return Table(
        title="Models for a probability of failure of 0.1",
        columns=(
            "k",
            "one input",
            "over k ln k",
            "all inputs",
            "over k²",
            "all, midpoint",
            "all, tail bound",
        ),
        rows=tuple(rows),
        note="One input of two ones. Rounded at 0 unless it says midpoint.",
    )


# Drawn ensembles.


def _draws(settings: Settings, scale: Scale) -> dict[tuple[int, int], list[float]]:
    grid = [
        (k, divisor, seed)
        for k in scale.draw_sizes
        for divisor in (1, 10)
        for seed in range(scale.draw_seeds)
    ]
    accuracies = sweep(
        partial(_drawn_accuracy, n_inputs=scale.draw_inputs),
        [(k, max(1, ensemble_complexity(k) // divisor)) for k, divisor, _ in grid],
        random_state=settings.random_state,
        n_jobs=settings.n_jobs,
        description="drawn ensembles",
        progress=settings.progress,
    )
    found: dict[tuple[int, int], list[float]] = {}
    for (k, divisor, _), accuracy in zip(grid, accuracies, strict=True):
        found.setdefault((k, divisor), []).append(accuracy)
    return found


def _drawn_accuracy(cell: tuple[int, int], rng: np.random.Generator, *, n_inputs: int) -> float:
    k, n_models = cell
    pairs = binary_inputs(k, n_ones=2)
    # More inputs are asked for than there are: with repetition.
    X = pairs[rng.integers(len(pairs), size=n_inputs)]
    task = make_permutation_task(k, permutation=rng.permutation(k))
    model = ExactPermutationLearner(n_models, random_state=int(rng.integers(2**31)))
    return model.fit(task.X, task.Y).score(X, X[:, task.permutation])


def _draw_claims(draws: dict, scale: Scale) -> list[Claim]:
    claims = []
    for k in scale.draw_sizes:
        n_models = ensemble_complexity(k)
        claims += [
            Claim.at_least(
                f"drawn ensembles of {n_models}, k = {k}: share of inputs of two ones that are "
                "exact",
                float(np.mean(draws[k, 1])),
                0.85,
            ),
            Claim.at_most(
                f"drawn ensembles of a tenth of {n_models}, k = {k}: share of inputs of two ones "
                "that are exact",
                float(np.mean(draws[k, 10])),
                0.35,
            ),
        ]
    return claims


def _draw_table(draws: dict, scale: Scale) -> Table:
    return Table(
        title=f"Drawn ensembles, {scale.draw_inputs} inputs of two ones",
        columns=("k", "models", "exact, mean", "lowest seed", "highest seed"),
        rows=tuple(
            (
                k,
                max(1, ensemble_complexity(k) // divisor),
                float(np.mean(values)),
                min(values),
                max(values),
            )
            for (k, divisor), values in draws.items()
        ),
        note=f"{scale.draw_seeds} seeds. Errors of one ensemble are correlated across inputs.",
    )


# Published and own runs.


def expected_accuracy(n_models: int, k: int, kernel: str) -> float:
    """Probability that an input of two ones is exact, rounded at 0."""
    alpha0, alpha1, variance, _ = ntk_coefficients(2, k, kernel=kernel)
    scale = np.sqrt(n_models / variance)
    logs = 2 * norm.logcdf(alpha1 * scale)
    if k > 2:
        logs += (k - 2) * norm.logcdf(-alpha0 * scale)
    return float(np.exp(logs))


def models_for_accuracy(k: int, kernel: str) -> int:
    """Smallest ensemble whose expected accuracy on inputs of two ones is ``ACCURACY``."""
    enough = 1
    while expected_accuracy(enough, k, kernel) < ACCURACY:
        enough *= 2
    too_few = enough // 2
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        if expected_accuracy(middle, k, kernel) < ACCURACY:
            too_few = middle
        else:
            enough = middle
    return enough


def _published_claims() -> list[Claim]:
    predicted = {kernel: [models_for_accuracy(k, kernel) for k in PUBLISHED] for kernel in KERNELS}
    ratios = np.array(list(PUBLISHED.values())) / predicted["readout"]
    return [
        *(
            Claim.exact(
                f"models for an expected accuracy of 0.9, {kernel} kernel, k = {_listed(expected)}",
                predicted[kernel],
                list(expected.values()),
            )
            for kernel, expected in PREDICTED.items()
        ),
        Claim.at_least(
            "published models over those of the readout kernel, smallest", ratios.min(), 0.8
        ),
        Claim.at_most(
            "published models over those of the readout kernel, largest", ratios.max(), 1.6
        ),
    ]


def _published_table() -> Table:
    rows = []
    for k, models in PUBLISHED.items():
        readout, tangent = (models_for_accuracy(k, kernel) for kernel in ("readout", "ntk"))
        rows.append((k, models, readout, models / readout, tangent, models / tangent))
    return Table(
        title="Models until an accuracy of 0.9 on inputs of two ones",
        columns=(
            "k",
            "published",
            "readout kernel",
            "published over it",
            "tangent kernel",
            "published over it ",
        ),
        rows=tuple(rows),
        note="The column published is quoted, one run each; the others are computed here. Standard "
        "parameterisation with one learning rate trains by the readout kernel.",
        published=True,
    )


def _runs(settings: Settings, scale: Scale) -> dict[tuple[str, int], int | None]:
    """Networks until a mean accuracy of 0.9 on all inputs of two ones."""
    grid = [(kernel, k) for kernel in scale.run_kernels for k in scale.run_sizes]
    found: dict[tuple[str, int], int | None] = {}
    for number, (kernel, k) in enumerate(settings.track(grid, "trained ensembles")):
        seed = settings.random_state + number
        task = make_permutation_task(k, random_state=seed)
        model = ExactPermutationLearner(
            min(scale.run_models, _RUN_FACTOR * models_for_accuracy(k, kernel)),
            kernel=kernel,
            mode="network",
            width=scale.run_width,
            device=settings.device,
            n_jobs=settings.n_jobs,
            random_state=seed,
        ).fit(task.X, task.Y)
        X = binary_inputs(k, n_ones=2)
        outputs, truth = model.member_outputs(X), X[:, task.permutation] == 1
        accuracy = np.zeros(len(outputs))
        for order in range(_ORDERS):
            members = np.random.default_rng([seed, order]).permutation(len(outputs))
            right = (outputs[members].cumsum(axis=0) > 0) == truth
            accuracy += right.all(axis=2).mean(axis=1) / _ORDERS
        reached = np.flatnonzero(accuracy >= ACCURACY)
        found[kernel, k] = int(reached[0]) + 1 if reached.size else None
    return found


def _run_table(runs: dict, scale: Scale) -> Table:
    rows = []
    for (kernel, k), models in runs.items():
        predicted = models_for_accuracy(k, kernel)
        ratio = None if models is None else models / predicted
        rows.append((kernel, k, models, predicted, ratio))
    return Table(
        title=f"Networks of width {scale.run_width} until an accuracy of 0.9",
        columns=("trained by", "k", "networks", "predicted", "ratio"),
        rows=tuple(rows),
        note="All inputs of two ones, members added one by one, accuracy averaged over "
        f"{_ORDERS} orders of one set of networks: {_RUN_FACTOR} times the prediction, at most "
        f"{scale.run_models}. A dash: not reached.",
    )


# The figure.


def _figure(settings: Settings, scale: Scale, finite: dict, runs: dict) -> Figure:
    with panel("bits k", "models") as (sizes, axes):
        k = np.array(CURVE_SIZES)
        curves: tuple[tuple[int | str, str, str], ...] = (
            (2, "sign", "one input"),
            ("all", "sign", "all inputs"),
            (2, "midpoint", "one, midpoint"),
            ("all", "midpoint", "all, midpoint"),
        )
        for (scope, rounding, label), color in zip(curves, SERIES, strict=False):
            models = [
                ensemble_complexity(size, n_ones=scope, rounding=rounding) for size in CURVE_SIZES
            ]
            axes.plot(k, models, color=color, label=label)
        start = ensemble_complexity(CURVE_SIZES[0], n_ones="all")
        axes.plot(k, start * (k / k[0]) ** 2, ":", color=SERIES[5], linewidth=1.2, label="k²")
        growth = k * np.log(k)
        start = ensemble_complexity(CURVE_SIZES[-1])
        axes.plot(
            k, start * growth / growth[-1], "--", color=SERIES[5], linewidth=1.2, label="k ln k"
        )
        axes.plot(list(PUBLISHED), list(PUBLISHED.values()), "x", color=INK, label="published, 0.9")
        for kernel, marker in (("ntk", "^"), ("readout", "o")):
            reached = {size: n for (name, size), n in runs.items() if name == kernel and n}
            axes.plot(
                list(reached),
                list(reached.values()),
                marker,
                color=SERIES[4],
                fillstyle="none",
                label=f"networks, {kernel}, 0.9",
            )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks((3, 5, 10, 20, 50, 100), ("3", "5", "10", "20", "50", "100"))
        axes.minorticks_off()
        axes.set_ylim(0.6, 5_000_000)
        axes.legend(ncols=2, fontsize=7, loc="upper left")
    drawn_models = ensemble_complexity(_DRAWN_SIZE)
    with panel("drawn average", "density") as (averages, axes):
        _histograms(axes, settings, scale, drawn_models)
    with panel("output of one network", "density") as (members, axes):
        values = finite[scale.ones[0]]
        spread = math.sqrt(values["expected_variance"])
        for name, label, mean, color in (
            ("zeros", "0-bits", values["alpha0"], SERIES[0]),
            ("ones", "1-bits", values["alpha1"], SERIES[1]),
        ):
            if values[name].size:
                _histogram(axes, values[name].ravel(), mean, spread, color, label)
        axes.legend(fontsize=8)
    return Figure.render(
        "How many networks make a permutation exact",
        "Left: models for a probability of failure of 0.1 by the exact law, guides of k ln k and "
        "k², and models until an accuracy of 0.9 in the published runs (crosses) and in networks "
        f"trained here (open marks, width {scale.run_width}). Middle: averages of drawn ensembles "
        f"of one model (pale) and of {drawn_models} models, k = {_DRAWN_SIZE}, inputs of two ones; "
        "lines are the Gaussian law. Right: outputs of "
        f"{scale.models} trained networks of width {scale.width}, k = {scale.size}, "
        f"{scale.ones[0]} ones, and the law of infinite width.",
        sizes,
        averages,
        members,
    )


def _histograms(axes: Any, settings: Settings, scale: Scale, drawn_models: int) -> None:
    pairs = binary_inputs(_DRAWN_SIZE, n_ones=2)
    task = make_permutation_task(_DRAWN_SIZE, random_state=settings.random_state)
    bits = pairs[:, task.permutation] == 1
    law = ntk_coefficients(2, _DRAWN_SIZE)
    tallest = 0.0
    for n_models, alpha in ((1, 0.3), (drawn_models, 0.8)):
        drawn = np.array(
            [
                ExactPermutationLearner(n_models, random_state=settings.random_state + seed)
                .fit(task.X, task.Y)
                .decision_function(pairs)
                for seed in range(scale.histogram_seeds)
            ]
        )
        spread = math.sqrt(float(law.variance) / n_models)
        for chosen, mean, color, name in (
            (~bits, float(law.alpha0), SERIES[0], "0-bits"),
            (bits, float(law.alpha1), SERIES[1], "1-bits"),
        ):
            label = f"{name}, N = {n_models}"
            _histogram(axes, drawn[:, chosen].ravel(), mean, spread, color, label, alpha)
        tallest = max(tallest, 1 / (spread * math.sqrt(2 * math.pi)))
    axes.set_yscale("log")
    axes.set_ylim(0.05, 2 * tallest)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.legend(fontsize=7)


def _histogram(
    axes: Any,
    values: np.ndarray,
    mean: float,
    spread: float,
    color: str,
    label: str,
    alpha: float = 0.4,
) -> None:
    axes.hist(values, bins=40, density=True, color=color, alpha=alpha, label=label)
    x = np.linspace(mean - 4 * spread, mean + 4 * spread, 200)
    axes.plot(x, norm.pdf(x, mean, spread), color=color, linewidth=1.2)
