"""Accuracy on the curve: minority against majority accuracy over many models (arXiv 2305.02995).

The same models are trained on Gaussian features, and on digits, with a spurious attribute that
agrees with the label more or less often, and on data where the attribute is merely rare. The paper
trains image models; data and numbers here are this library's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rankone.interpret.subpopulation import (
    MoonShapeAnalysis,
    default_model_zoo,
    gaussian_frontier,
    mixture_accuracy,
    spurious_digits,
    spurious_mixture,
    subpopulation_accuracies,
)
from rankone.reproduce import SERIES, Claim, Figure, Reproduction, Settings, Table, panel
from rankone.reproduce._claims import Measured
from rankone.reproduce._figures import INK, MUTED

SPURIOUS = "spurious attribute"
RARE = "rare subpopulation"
DIGITS = "digits"
STRONG_DIGITS = "digits, attribute readable without error"
IMAGES = "the user's images"

FAMILIES = {
    "LogisticRegression": ("logistic regression", SERIES[0]),
    "MLPClassifier": ("network", SERIES[1]),
    "DecisionTreeClassifier": ("tree", SERIES[2]),
    "RandomForestClassifier": ("forest", SERIES[3]),
    "KNeighborsClassifier": ("neighbours", SERIES[4]),
    "SVC": ("kernel SVM", SERIES[5]),
    "HistGradientBoostingClassifier": ("boosting", INK),
}

# The generator's defaults, which the frontier needs.
N_CORE, N_SPURIOUS, CORE_SHIFT, SPURIOUS_SHIFT = 20, 5, 0.45, 0.9

_TEST_SEED = 1000  # from here on: never the seed of a training set
_STRENGTH, _NOISE = 1.0, 0.1  # of the digits whose attribute is read without error

_SIGNAL_NOTE = (
    "the attribute is readable with some error; where it is readable without, the points fall and "
    "then rise vertically, and no parabola describes them"
)
_SEED_NOTE = (
    "varies with the seed, which also sets the models' initial weights: a few networks of one "
    "epoch lie far off the diagonal by chance; seeds 0 to 3 at quick scale measured {}"
)
_MODELS_NOTE = "least squares over models, taken as independent"


@dataclass(frozen=True)
class Scale:
    """Sizes of one run.

    Attributes:
        zoo: size of the model zoo.
        every: keep each so manieth model of it.
        n_train, n_test: rows of the Gaussian data.
        seeds: training sets of each setting.
        fractions: majority fractions of the spurious setting; 0.5, 0.7 and 0.9 carry the claims.
        rare_fraction: of the rare subpopulation.
        digit_fractions: first and last carry the claims.
        strong_digits: also digits whose attribute is readable without error.
        n_bootstrap: resamples of the intervals in the table.
    """

    zoo: str = "quick"
    every: int = 1
    n_train: int = 2000
    n_test: int = 4000
    seeds: int = 1
    fractions: tuple[float, ...] = (0.5, 0.7, 0.9, 0.95)
    rare_fraction: float = 0.9
    digit_fractions: tuple[float, ...] = (0.5, 0.9)
    strong_digits: bool = False
    n_bootstrap: int = 500


QUICK = Scale()
FULL = Scale(
    zoo="full",
    n_train=10_000,
    n_test=20_000,
    seeds=10,
    fractions=(0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975),
    strong_digits=True,
    n_bootstrap=2000,
)


@dataclass(frozen=True)
class Cell:
    """One training and test set: the kind of data, its majority fraction and its seed."""

    kind: str
    fraction: float
    seed: int


@dataclass(frozen=True)
class Curve:
    """The models' accuracies on one cell, and their analysis."""

    names: list[str]
    majority: np.ndarray
    minority: np.ndarray
    shape: MoonShapeAnalysis


Curves = dict[tuple[str, float], list[Curve]]


def run(settings: Settings) -> Reproduction:
    """Train the models on every setting and fit the curves."""
    scale = settings.scale(quick=QUICK, full=FULL)
    cells = _cells(settings, scale)
    zoo = default_model_zoo(scale.zoo, settings.random_state)[:: scale.every]
    curves: Curves = {}
    for cell in settings.track(cells, "settings"):
        curve = _curve(cell, zoo, settings, scale)
        curves.setdefault((cell.kind, cell.fraction), []).append(curve)
    return Reproduction(
        slug="accuracy-on-the-curve",
        claims=_claims(curves, scale),
        tables=(_table(curves, scale),),
        figures=_figures(curves, scale),
        settings={
            "models": len(zoo),
            "data": f"{scale.n_train} training and {scale.n_test} test rows, {N_CORE} core and "
            f"{N_SPURIOUS} spurious features, {scale.seeds} seeds",
            "test sets": "majority fraction 0.5",
        },
    )


def _cells(settings: Settings, scale: Scale) -> list[Cell]:
    kinds = [(SPURIOUS, fraction) for fraction in scale.fractions]
    kinds.append((RARE, scale.rare_fraction))
    kinds += [(DIGITS, fraction) for fraction in scale.digit_fractions]
    if scale.strong_digits:
        kinds.append((STRONG_DIGITS, scale.digit_fractions[-1]))
    seeds = range(settings.random_state, settings.random_state + scale.seeds)
    cells = [Cell(kind, fraction, seed) for kind, fraction in kinds for seed in seeds]
    if settings.data is not None:
        cells.append(Cell(IMAGES, float("nan"), settings.random_state))
    return cells


def _data(cell: Cell, scale: Scale, folder: Path | None) -> tuple[Any, Any]:
    """Training and test set; the test set has as many minority as majority samples."""
    if cell.kind == IMAGES:
        from rankone.datasets.group_images import group_images

        assert folder is not None
        return group_images(folder)
    if cell.kind == DIGITS:
        return spurious_digits(cell.fraction, random_state=cell.seed)
    if cell.kind == STRONG_DIGITS:
        return spurious_digits(cell.fraction, _STRENGTH, _NOISE, random_state=cell.seed)

    def draw(rows: int, fraction: float, seed: int) -> Any:
        return spurious_mixture(
            rows, fraction, N_CORE, N_SPURIOUS, CORE_SHIFT, SPURIOUS_SHIFT,
            spurious=cell.kind == SPURIOUS, random_state=seed,
        )  # fmt: skip

    train = draw(scale.n_train, cell.fraction, cell.seed)
    return train, draw(scale.n_test, 0.5, _TEST_SEED + cell.seed)


def _curve(cell: Cell, zoo: Sequence[tuple[str, Any]], settings: Settings, scale: Scale) -> Curve:
    train, test = _data(cell, scale, settings.data)
    found = subpopulation_accuracies(
        zoo, train.X, train.y, test.X, test.y, test.majority, n_jobs=settings.n_jobs
    )
    shape = MoonShapeAnalysis(n_bootstrap=scale.n_bootstrap, random_state=cell.seed)
    shape.fit(found.majority, found.minority)
    return Curve(found.name, found.majority, found.minority, shape)


def _over_seeds(
    curves: Curves,
    kind: str,
    fraction: float,
    value: Callable[[Curve], float],
    combine: Callable[[Sequence[float]], float] = np.mean,
) -> float:
    """A statistic of a setting; NaN if the setting was not run."""
    found = [value(curve) for curve in curves.get((kind, fraction), [])]
    return float(combine(found)) if found else float("nan")


def _curvature(curve: Curve) -> float:
    return curve.shape.curvature_


def _nonlinearity(curve: Curve) -> float:
    return curve.shape.nonlinearity_


def _worse_share(curve: Curve) -> float:
    return float((curve.minority < curve.majority).mean())


def _claims(curves: Curves, scale: Scale) -> tuple[Claim, ...]:
    def spurious(fraction: float, value: Callable[[Curve], float], combine: Any = np.mean) -> float:
        return _over_seeds(curves, SPURIOUS, fraction, value, combine)

    def rare(value: Callable[[Curve], float], combine: Any = np.mean) -> float:
        return _over_seeds(curves, RARE, scale.rare_fraction, value, combine)

    first, last = scale.digit_fractions[0], scale.digit_fractions[-1]

    def rise(value: Callable[[Curve], float]) -> float:
        return _over_seeds(curves, DIGITS, last, value) - _over_seeds(curves, DIGITS, first, value)

    def probit(curve: Curve) -> float:
        return curve.shape.r2_probit_

    return (
        Claim.increasing(
            "curvature at majority fractions 0.5, 0.7, 0.9",
            [spurious(p, _curvature) for p in (0.5, 0.7, 0.9)],
            expected="increasing: 0.95, 1.79, 10.3",
        ),
        Claim.at_least(
            "curvature at 0.9", spurious(0.9, _curvature), 5, expected="10.3", note=_SIGNAL_NOTE
        ),
        Claim.at_most(
            "nonlinearity at 0.5",
            spurious(0.5, _nonlinearity),
            0.06,
            expected="0.014 to 0.028",
            note=_SEED_NOTE.format("0.022, 0.039, 0.078 and 0.003"),
        ),
        Claim.at_least(
            "nonlinearity at 0.9", spurious(0.9, _nonlinearity), 0.10, expected="0.164 to 0.210"
        ),
        Claim.at_most(
            "p-value of the curvature at 0.9, largest of the seeds",
            spurious(0.9, lambda curve: curve.shape.curvature_pvalue_, max),
            1e-3,
            expected="3e-6",
            note=_MODELS_NOTE,
        ),
        Claim.at_least(
            f"rare subpopulation, {scale.rare_fraction:g}: R2 of the line, smallest of the seeds",
            rare(lambda curve: curve.shape.r2_linear_, min),
            0.95,
            expected="0.988 to 0.993",
            note=_SEED_NOTE.format("0.988, 0.952, 0.959 and 0.911"),
        ),
        Claim.at_most(
            f"rare subpopulation, {scale.rare_fraction:g}: size of the curvature",
            abs(rare(_curvature)),
            1.5,
            expected="0.13 to 0.22",
        ),
        Claim.at_most(
            f"rare subpopulation, {scale.rare_fraction:g}: nonlinearity, largest of the seeds",
            rare(_nonlinearity, max),
            0.02,
            expected="0.000 to 0.001",
        ),
        Claim.at_least(
            "R2 between probits at 0.5 less that at 0.9: the scale of the axes is not the cause",
            spurious(0.5, probit) - spurious(0.9, probit),
            0.2,
            expected="0.453",
        ),
        Claim.at_least(
            "share of models worse on the minority at 0.9, smallest of the seeds",
            spurious(0.9, _worse_share, min),
            0.95,
            expected="1",
        ),
        Claim.at_least(
            f"digits: curvature at {last:g} less that at {first:g}",
            rise(_curvature),
            1,
            expected="1.99",
            note=_SIGNAL_NOTE,
        ),
        Claim.at_least(
            f"digits: nonlinearity at {last:g} less that at {first:g}",
            rise(_nonlinearity),
            0.05,
            expected="0.178",
        ),
    )


def _table(curves: Curves, scale: Scale) -> Table:
    def row(kind: str, fraction: float) -> tuple[Measured | None, ...]:
        def mean(value: Callable[[Curve], float]) -> float:
            return _over_seeds(curves, kind, fraction, value)

        def interval(name: str) -> tuple[float, float] | None:
            bounds = [getattr(curve.shape, name) for curve in found]
            if any(entry is None for entry in bounds):
                return None
            low, high = np.mean(bounds, axis=0).tolist()
            return low, high

        found = curves[kind, fraction]
        return (
            kind,
            None if np.isnan(fraction) else fraction,
            mean(_curvature),
            interval("curvature_interval_"),
            _over_seeds(curves, kind, fraction, lambda curve: curve.shape.curvature_pvalue_, max),
            mean(lambda curve: curve.shape.r2_linear_),
            mean(lambda curve: curve.shape.r2_quadratic_),
            mean(_nonlinearity),
            interval("nonlinearity_interval_"),
            mean(lambda curve: curve.shape.r2_probit_),
            mean(_worse_share),
        )

    return Table(
        title="Shape of the cloud of models",
        columns=(
            "data",
            "majority fraction",
            "curvature",
            "95 % interval",
            "p-value",
            "R2 line",
            "R2 parabola",
            "nonlinearity",
            "95 % interval of it",
            "R2 probit",
            "worse on the minority",
        ),
        rows=tuple(row(*key) for key in curves),
        note=f"Means of {scale.seeds} seeds, the largest p-value; intervals from "
        f"{scale.n_bootstrap} resamples of the models. The R2 of a parabola is never below that "
        "of the line: read the difference.",
    )


def _figures(curves: Curves, scale: Scale) -> tuple[Figure, ...]:
    chosen = [key for key in curves if key[0] == SPURIOUS]
    if len(chosen) > 4:  # of a longer grid: its ends and two between
        chosen = [chosen[i] for i in np.linspace(0, len(chosen) - 1, 4).round().astype(int)]
    others = [key for key in curves if key[0] != SPURIOUS]
    spurious = [_scatter(key, curves[key][0], legend=key == chosen[0]) for key in chosen]
    return (
        Figure.render(
            "A spurious attribute bends the line",
            "Each point is a model of the first seed. Solid: the parabola. Dashed: the best linear "
            "classifiers on these Gaussian features, in closed form. Dotted: answering at random "
            "with one of the models at its ends. Thin: equal accuracies.",
            *spurious,
        ),
        Figure.render(
            "Rare subpopulations stay on the line; digits with an attribute bend",
            "As above, with the line in place of the frontier.",
            *(_scatter(key, curves[key][0], legend=False) for key in others),
        ),
    )


def _scatter(key: tuple[str, float], curve: Curve, *, legend: bool) -> Any:
    kind, fraction = key
    shape = curve.shape
    share = "" if np.isnan(fraction) else f", {fraction:g}"
    with panel(
        "majority accuracy",
        "minority accuracy",
        title=f"{kind}{share}: c = {shape.curvature_:.2f}",
    ) as (drawing, axes):
        axes.axline((0.5, 0.5), slope=1, color=MUTED, linewidth=0.8)
        family = np.array([name.partition(" ")[0] for name in curve.names])
        for name, (label, color) in FAMILIES.items():
            rows = family == name
            axes.plot(
                curve.majority[rows], curve.minority[rows], "o", color=color, markersize=3.5,
                alpha=0.8, markeredgewidth=0, label=label,
            )  # fmt: skip
        low, high = float(curve.majority.min()), float(curve.majority.max())
        grid = np.linspace(low, high, 200)
        axes.plot(grid, shape.predict(grid), color=INK, linewidth=1.5)
        if kind == SPURIOUS:
            frontier = gaussian_frontier(N_CORE, N_SPURIOUS, CORE_SHIFT, SPURIOUS_SHIFT, 400)
            buys = np.arange(len(frontier.angle)) <= frontier.majority.argmax()
            axes.plot(
                frontier.majority[buys], frontier.minority[buys], "--", color=MUTED, linewidth=1.5
            )
            ends = [
                (curve.majority[i], curve.minority[i])
                for i in (curve.majority.argmin(), curve.majority.argmax())
            ]
            axes.plot(
                *mixture_accuracy(ends[0], ends[1], np.array([0.0, 1.0])), ":", color=SERIES[0],
                linewidth=1.5,
            )  # fmt: skip
        else:
            axes.plot(
                grid, shape.linear_coef_[0] + shape.linear_coef_[1] * grid, "--", color=MUTED,
                linewidth=1.5,
            )  # fmt: skip
        seen = np.concatenate([curve.minority, shape.predict(grid)])
        axes.set_xlim(low - 0.02, min(1.0, high + 0.03))
        axes.set_ylim(max(0.0, float(curve.minority.min()) - 0.03),
                      min(1.02, float(seen.max()) + 0.05))  # fmt: skip
        if legend:
            axes.legend(fontsize=7, markerscale=1.3)
    return drawing
