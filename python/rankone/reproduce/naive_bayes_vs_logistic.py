"""Generative against discriminative linear classifiers (arXiv 2302.02334).

Samples that naive Bayes and logistic regression need on the paper's simulated problem, their
learning curves on the features of a trained network, and the bound on excess error at random
points. ``settings.data`` may name an .npz with ``X`` and ``y``, features of any backbone, to be
used in place of those of a network trained here.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, xlogy
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from rankone._sweep import sweep
from rankone.linear_model.generative_classifiers import (
    LinearGaussianNB,
    compare_learning_curves,
    logistic_consistency_transform,
    sample_complexity,
)
from rankone.reproduce import MUTED, Claim, Figure, Reproduction, Settings, Table, panel

GENERATIVE = "naive Bayes"
DISCRIMINATIVE = "logistic regression"
_SIDES = (GENERATIVE, DISCRIMINATIVE)
_EXTRACTOR_IMAGES = 600  # train the network; the others are its features' data


@dataclass(frozen=True)
class Scale:
    """Sizes of one run.

    Attributes:
        features: numbers of features n of the simulated problem.
        classes: numbers of classes; the claims are about the first.
        seeds: runs of the simulation, a table row each.
        thorough: try every ``ceil(log n)``-th size up to 100 n rather than a few.
        repeats: training sets a size, of naive Bayes and of logistic regression.
        n_test: test samples.
        feature_seeds: splits of the digits.
        train_sizes, curve_repeats: of the learning curves.
        points: random points at which the bound is tried.
    """

    features: tuple[int, ...] = (50, 100, 200, 400)
    classes: tuple[int, ...] = (2,)
    seeds: tuple[int, ...] = (0, 1)
    thorough: bool = False
    repeats: tuple[int, int] = (20, 3)
    n_test: int = 4000
    feature_seeds: tuple[int, ...] = (0, 1, 2)
    train_sizes: tuple[int, ...] = (20, 30, 50, 100, 200, 400, 790)
    curve_repeats: int = 5
    points: int = 20_000


QUICK = Scale()
FULL = Scale(
    features=(100, 200, 400, 1000),
    classes=(2, 3, 5, 7),
    thorough=True,
    repeats=(5, 5),
    n_test=10_000,
)


def run(settings: Settings) -> Reproduction:
    """Measure sample complexities, learning curves and the bound."""
    scale = settings.scale(quick=QUICK, full=FULL)
    # Small fits are ten times slower when BLAS hands them to several threads.
    with threadpool_limits(limits=1):
        needed = _sample_complexities(settings, scale)
        curves = _learning_curves(settings, scale)
        violations = _violations(settings, scale)
    return Reproduction(
        slug="naive-bayes-vs-logistic",
        claims=(
            *_complexity_claims(scale, needed),
            *_curve_claims(scale, curves),
            Claim.exact(
                f"points out of {scale.points} at which T(gap) exceeds the excess logistic loss",
                violations,
                0,
            ),
        ),
        tables=(_complexity_table(scale, needed), _curve_table(scale, curves)),
        figures=(_figure(scale, needed, curves),),
        settings={
            "simulation": f"target: Bayes error + 0.01, {scale.n_test} test samples, "
            f"{scale.repeats[0]} and {scale.repeats[1]} training sets a size",
            "features": str(settings.data or "")
            or "64 units of the second hidden layer of an MLP on scikit-learn's digits",
        },
    )


Needed = dict[tuple[str, int, int, int], int | None]


def _estimator(side: str) -> Any:
    return LinearGaussianNB() if side == GENERATIVE else LogisticRegression(max_iter=1000)


def _sizes(scale: Scale, side: str, n_features: int, n_classes: int) -> Sequence[int] | None:
    """Training sizes to try; None for the paper's grid."""
    if scale.thorough:
        return None
    if side == GENERATIVE:
        return range(max(4, n_classes), 41)
    grid = np.geomspace(max(4, n_classes), 20 * n_features, 30)
    return np.unique(grid.round().astype(int)).tolist()


def _sample_complexities(settings: Settings, scale: Scale) -> Needed:
    """(side, classes, features, seed) -> samples needed, or None."""
    cells = [
        (side, n_classes, n_features, seed)
        for n_classes in scale.classes
        for n_features in scale.features
        for seed in scale.seeds
        for side in _SIDES
    ]

    def needed(cell: tuple[str, int, int, int], _: np.random.Generator) -> int | None:
        side, n_classes, n_features, seed = cell
        return sample_complexity(
            _estimator(side),
            n_features,
            n_classes,
            train_sizes=_sizes(scale, side, n_features, n_classes),
            n_repeats=scale.repeats[_SIDES.index(side)],
            n_test=scale.n_test,
            random_state=settings.random_state + seed,
        ).n_samples

    found = sweep(
        needed,
        cells,
        random_state=settings.random_state,
        n_jobs=settings.n_jobs,
        description="samples needed",
        progress=settings.progress,
    )
    return dict(zip(cells, found, strict=True))


def _by_features(
    scale: Scale, needed: Needed, side: str, seed: int, n_classes: int | None = None
) -> NDArray:
    """Samples needed at each number of features; NaN where the target was not reached."""
    n_classes = n_classes or scale.classes[0]
    found = [needed[side, n_classes, n, seed] for n in scale.features]
    return np.array([np.nan if value is None else value for value in found], dtype=float)


def _slope(scale: Scale, samples: NDArray) -> float:
    """Log-log slope of the samples against the features; NaN if one is missing."""
    if np.isnan(samples).any():
        return float("nan")
    return float(np.polyfit(np.log(scale.features), np.log(samples), 1)[0])


def _complexity_claims(scale: Scale, needed: Needed) -> list[Claim]:
    claims = []
    last = scale.features[-1]
    for seed in scale.seeds:
        naive, logistic = (_by_features(scale, needed, side, seed) for side in _SIDES)
        claims += [
            Claim.close(
                f"samples of logistic regression grow linearly in n: log-log slope, seed {seed}",
                _slope(scale, logistic),
                1.0,
                absolute=0.3,
            ),
            Claim.at_most(
                f"samples of naive Bayes hardly grow with n: log-log slope, seed {seed}",
                _slope(scale, naive),
                0.3,
                note="the classes move apart as n grows here; the logarithm is an upper bound",
            ),
            Claim.at_least(
                f"samples of logistic regression over naive Bayes at n = {last}, seed {seed}",
                float(logistic[-1] / naive[-1]),
                30,
            ),
        ]
    return claims


def _features(data: Path | None, seed: int) -> tuple[NDArray, NDArray]:
    """Features of a network trained on other images, and the labels of theirs."""
    if data is not None:
        with np.load(data) as arrays:
            return arrays["X"], arrays["y"]
    from sklearn.datasets import load_digits
    from sklearn.neural_network import MLPClassifier

    images, labels = load_digits(return_X_y=True)
    images = images / 16
    order = np.random.default_rng(seed).permutation(len(images))
    train, rest = order[:_EXTRACTOR_IMAGES], order[_EXTRACTOR_IMAGES:]
    network = MLPClassifier((128, 64), max_iter=60, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # sixty epochs are meant
        network.fit(images[train], labels[train])
    hidden = images[rest]
    for weights, bias in zip(network.coefs_[:2], network.intercepts_[:2], strict=True):
        hidden = np.maximum(hidden @ weights + bias, 0)
    return hidden, labels[rest]


def _learning_curves(settings: Settings, scale: Scale) -> list[Any]:
    curves = []
    for seed in settings.track(scale.feature_seeds, "learning curves"):
        X, y = _features(settings.data, settings.random_state + seed)
        curves.append(
            compare_learning_curves(
                _estimator(GENERATIVE),
                _estimator(DISCRIMINATIVE),
                X,
                y,
                scale.train_sizes,
                n_repeats=scale.curve_repeats,
                random_state=settings.random_state + seed,
            )
        )
    return curves


def _curve_claims(scale: Scale, curves: list[Any]) -> list[Claim]:
    first, last = scale.train_sizes[0], scale.train_sizes[-1]
    claims = []
    for seed, curve in zip(scale.feature_seeds, curves, strict=True):
        lead = curve.discriminative_error - curve.generative_error
        crossover = float("nan") if curve.crossover is None else curve.crossover
        claims += [
            Claim.at_least(
                f"naive Bayes errs less by, at {first} samples, split {seed}", lead[0], 0.02
            ),
            Claim.at_least(
                f"logistic regression errs less by, at {last} samples, split {seed}",
                -lead[-1],
                0.005,
            ),
            Claim.close(
                f"the curves cross between 40 and 400 samples, split {seed}",
                crossover,
                220,
                absolute=180,
            ),
        ]
    return claims


def _violations(settings: Settings, scale: Scale) -> int:
    """Random class probabilities and scores at which the transform exceeds the excess loss."""
    generator = np.random.default_rng(settings.random_state)
    p = generator.dirichlet(np.full(5, 0.5), scale.points)
    scores = generator.standard_normal(p.shape)
    excess = (xlogy(p, p) - p * log_softmax(scores, axis=1)).sum(axis=1)
    gap = p.max(axis=1) - p[np.arange(len(p)), scores.argmax(axis=1)]
    return int((logistic_consistency_transform(gap) > excess).sum())


def _complexity_table(scale: Scale, needed: Needed) -> Table:
    return Table(
        title="Samples until the test error is within 0.01 of the Bayes error",
        columns=("classes", "seed", "classifier", *(f"n = {n}" for n in scale.features)),
        rows=tuple(
            (
                n_classes,
                seed,
                side,
                *(needed[side, n_classes, n, seed] for n in scale.features),
            )
            for n_classes in scale.classes
            for seed in scale.seeds
            for side in _SIDES
        ),
        note="n is the number of features. An empty cell: not reached on the grid of sizes.",
    )


def _curve_table(scale: Scale, curves: list[Any]) -> Table:
    rows = []
    for seed, curve in zip(scale.feature_seeds, curves, strict=True):
        rows.append((seed, GENERATIVE, *map(float, curve.generative_error), curve.crossover))
        rows.append((seed, DISCRIMINATIVE, *map(float, curve.discriminative_error), None))
    return Table(
        title="Test error on a network's features, by training size",
        columns=("split", "classifier", *map(str, scale.train_sizes), "crossover"),
        rows=tuple(rows),
        note=f"Means of {scale.curve_repeats} subsets; min-max scaling fitted on each subset.",
    )


def _figure(scale: Scale, needed: Needed, curves: list[Any]) -> Figure:
    seed, n_classes = scale.seeds[0], scale.classes[0]
    with panel("features n", "samples needed", title="Simulated classes") as (samples, axes):
        for side in _SIDES:
            axes.plot(scale.features, _by_features(scale, needed, side, seed), "o-", label=side)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(scale.features, map(str, scale.features))
        axes.minorticks_off()
        axes.legend()
    curve = curves[0]
    with panel("training samples", "test error", title="Features of a network") as (errors, axes):
        for name, side in (("generative", GENERATIVE), ("discriminative", DISCRIMINATIVE)):
            mean, deviation = curve[f"{name}_error"], curve[f"{name}_std"]
            (line,) = axes.plot(curve.train_sizes, mean, "o-", label=side)
            axes.fill_between(
                curve.train_sizes,
                mean - deviation,
                mean + deviation,
                color=line.get_color(),
                alpha=0.15,
                linewidth=0,
            )
        if curve.crossover is not None:
            axes.axvline(curve.crossover, color=MUTED, linestyle="--", linewidth=1)
            axes.annotate(
                f"{curve.crossover:.0f}",
                (curve.crossover, 1),
                xycoords=("data", "axes fraction"),
                xytext=(4, -12),
                textcoords="offset points",
            )
        axes.set_xscale("log")
        axes.set_xticks(scale.train_sizes, map(str, scale.train_sizes))
        axes.minorticks_off()
        axes.legend()
    return Figure.render(
        "Two regimes of linear classifiers",
        f"Left: samples until the error is within 0.01 of the Bayes error, {n_classes} classes. "
        "Right: test error on features of a network trained on other digits; the band is one "
        "standard deviation over subsets, the dashed line the crossover.",
        samples,
        errors,
    )
