"""Robust and efficient high-dimensional analysis (arXiv 2410.10082, 2009.10629, and the thesis).

Four parts: ranking of variables by mutual information where the dependence is nonlinear; steps of
accelerated gradient on SCAD and MCP; gradients of proximal conjugate gradients on ill-conditioned
designs; fixed effects from clusters of which some are outliers. The published imaging data are not
needed: the generators are synthetic.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.signal import lfilter
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import roc_auc_score

from rankone._sweep import sweep
from rankone.linear_model._nonconvex_solvers import Loss, Problem, Products, check_penalty
from rankone.linear_model.proximal_ncg import soft_threshold
from rankone.linear_model.tsallis_mixed import TsallisMixedEffects
from rankone.reproduce import Claim, Figure, Reproduction, Settings, Table, panel
from rankone.stats.mutual_info import MutualInfoScreener

ESTIMATORS = ("kde", "knn", "pearson", "binning")
DEPENDENCES = ("quadratic", "linear")
DESCENTS = ("ag", "prox", "ag-gl")
SOLVERS = ("prox", "fista", "pncg")
RHOS = (0.5, 0.9, 0.98)

# Part (b): a gap of e^3 counts as reached, at this penalty.
_GAP = math.exp(3)
_PATH_ALPHA = 0.2

# Part (d): the gap that counts as solved, and the penalty.
_SOLVED = 1e-8
_NCG_ALPHA = 0.1
_POLISH_STEPS, _POLISHED = 2000, 1e-10

# Part (c): cluster sizes and what contamination multiplies.
_CLUSTERS, _CLUSTER_SIZE, _FIXED = 60, 5, 6
_CONTAMINATED, _FACTOR = 0.1, 10.0
_SPARSE_COLUMNS, _SPARSE_EFFECTS, _SPARSE_SIZE = 200, 5, 2.0
_SPARSE_ALPHAS = (0.05, 0.1, 0.2, 0.4)
_GAUSSIAN_NU = 1e6


@dataclass(frozen=True)
class Scale:
    """Sizes of one run.

    Attributes:
        rows, columns, true, screening_seeds: of part (a).
        descent_cells: (penalty, tau, N) of part (b); descent_gap, descent_seeds, descent_steps:
            zeros between groups of effects, draws, and steps a solver at most; descent_early:
            end prox and ag-gl at the gap above the lowest objective of ag.
        ncg_rows, ncg_columns, ncg_seeds, ncg_steps: of part (d); steps for prox, FISTA, pncg.
        mixed_seeds, sparse_seeds, curve_seeds: draws of part (c) and of its figure.
        shares: contaminated shares of the figure.
        n_jobs: processes; no number depends on it.
    """

    rows: int = 800
    columns: int = 400
    true: int = 40
    screening_seeds: int = 4
    descent_cells: tuple[tuple[str, float, int], ...] = (
        ("scad", 0.5, 200),
        ("scad", 0.5, 500),
        ("scad", 0.9, 200),
        ("mcp", 0.5, 200),
        ("mcp", 0.9, 200),
    )
    descent_gap: int = 500
    descent_seeds: int = 3
    descent_steps: int = 400
    descent_early: bool = True
    ncg_rows: int = 300
    ncg_columns: int = 600
    ncg_seeds: int = 1
    ncg_steps: tuple[int, int, int] = (1500, 800, 600)
    mixed_seeds: int = 10
    sparse_seeds: int = 4
    curve_seeds: int = 10
    shares: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3)
    n_jobs: int | None = None


QUICK = Scale()
FULL = Scale(
    screening_seeds=100,
    descent_cells=tuple(
        (penalty, tau, n)
        for penalty in ("scad", "mcp")
        for tau in (0.1, 0.5, 0.9)
        for n in (200, 500, 1000, 3000)
    ),
    descent_seeds=100,
    descent_steps=2500,
    descent_early=False,
    ncg_seeds=100,
    ncg_steps=(2500, 1500, 1500),
    mixed_seeds=100,
    sparse_seeds=100,
    curve_seeds=100,
    n_jobs=-1,
)


def run(settings: Settings) -> Reproduction:
    """Screening, accelerated gradient, proximal conjugate gradients, mixed effects."""
    scale = settings.scale(quick=QUICK, full=FULL)
    screening = _screening(settings, scale)
    descent = _descent(settings, scale)
    gradients, gaps = _gradients(settings, scale)
    mixed = _mixed(settings, scale)
    sparse = _sparse(settings, scale)
    curve = _curve(settings, scale)
    return Reproduction(
        slug="robust-high-dimensional",
        claims=(
            *_screening_claims(screening),
            *_descent_claims(descent),
            *_gradient_claims(gradients),
            *_mixed_claims(mixed, sparse),
        ),
        tables=(
            _screening_table(screening, scale),
            _published_screening(),
            _descent_table(descent, scale),
            _published_descent(),
            _gradient_table(gradients, scale),
            _mixed_table(mixed, sparse),
        ),
        figures=(_figure(screening, gaps, curve, scale),),
        settings={
            "screening": f"n = {scale.rows}, p = {scale.columns}, {scale.true} true, SNR 3",
            "descent": f"alpha {_PATH_ALPHA}, SNR 5, start at the marginal coefficients",
            "conjugate gradients": f"n = {scale.ncg_rows}, p = {scale.ncg_columns}, "
            f"alpha {_NCG_ALPHA}",
            "mixed effects": f"{_CLUSTERS} clusters of {_CLUSTER_SIZE}, {_FIXED} fixed effects",
        },
    )


def _sweep(
    settings: Settings, scale: Scale, function: Callable, cells: list, description: str
) -> list:
    return sweep(
        function,
        cells,
        random_state=settings.random_state,
        n_jobs=scale.n_jobs,
        description=description,
        progress=settings.progress,
    )


def _autoregressive(n: int, p: int, rho: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian rows with correlation rho^|i - j|."""
    noise = rng.standard_normal((n, p))
    noise[:, 1:] *= math.sqrt(1 - rho**2)
    return lfilter([1.0], [1.0, -rho], noise, axis=1)


# Part (a): screening.


def _screening_cell(cell: tuple[str, Scale], rng: np.random.Generator) -> dict[str, float]:
    dependence, scale = cell
    X = _autoregressive(scale.rows, scale.columns, 0.3, rng)
    true = rng.choice(scale.columns, scale.true, replace=False)
    Z = X[:, true] ** 2 if dependence == "quadratic" else X[:, true]
    Z = (Z - Z.mean(axis=0)) / Z.std(axis=0)
    lags = np.abs(np.subtract.outer(np.arange(scale.true), np.arange(scale.true)))
    beta = 6 + np.linalg.cholesky(0.6**lags) @ rng.standard_normal(scale.true)
    signal = Z @ beta
    y = signal + rng.standard_normal(scale.rows) * signal.std() / math.sqrt(3)
    labels = np.isin(np.arange(scale.columns), true)
    return {
        name: float(
            roc_auc_score(labels, MutualInfoScreener(name, random_state=0).fit(X, y).scores_)
        )
        for name in ESTIMATORS
    }


def _screening(settings: Settings, scale: Scale) -> dict[str, dict[str, list[float]]]:
    cells = [(kind, scale) for kind in DEPENDENCES for _ in range(scale.screening_seeds)]
    results = _sweep(settings, scale, _screening_cell, cells, "screening")
    return {
        kind: {
            name: [
                result[name] for cell, result in zip(cells, results, strict=True) if cell[0] == kind
            ]
            for name in ESTIMATORS
        }
        for kind in DEPENDENCES
    }


def _screening_claims(scores: dict[str, dict[str, list[float]]]) -> list[Claim]:
    medians = {
        kind: {name: float(np.median(values)) for name, values in row.items()}
        for kind, row in scores.items()
    }
    quadratic, linear = medians["quadratic"], medians["linear"]
    others = [quadratic[name] for name in ESTIMATORS if name != "kde"]
    return [
        Claim.at_least("AUROC of KDE mutual information, quadratic", quadratic["kde"], 0.8),
        Claim.at_least(
            "AUROC of KDE mutual information above the best of the others, quadratic",
            quadratic["kde"] - max(others),
            0.15,
        ),
        Claim.at_least("AUROC of KDE mutual information, linear", linear["kde"], 0.8),
        Claim.at_least(
            "AUROC of Pearson correlation above the best of the others, linear",
            linear["pearson"] - max(linear[name] for name in ESTIMATORS if name != "pearson"),
            0.0,
            strict=True,
        ),
    ]


def _screening_table(scores: dict[str, dict[str, list[float]]], scale: Scale) -> Table:
    return Table(
        title="Area under the ROC curve of the scores",
        columns=("dependence", *ESTIMATORS),
        rows=tuple(
            (kind, *[float(np.median(row[name])) for name in ESTIMATORS])
            for kind, row in scores.items()
        ),
        note=f"Medians of {scale.screening_seeds} draws.",
    )


def _published_screening() -> Table:
    return Table(
        title="Published areas under the ROC curve, imaging data",
        columns=("dependence", *ESTIMATORS),
        rows=(
            ("quadratic", 0.712, 0.582, 0.523, 0.590),
            ("linear", 0.697, 0.593, 0.698, 0.607),
        ),
        note="ABIDE data, 80 true variables, medians of 100 draws; arXiv 2410.10082.",
        published=True,
    )


# Part (b): accelerated gradient on nonconvex penalties.


def _descent_data(
    tau: float, n: int, gap: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Five groups of ten effects, growing, with ``gap`` zeros between them."""
    groups = [
        rng.normal(mean, sd, 10) for mean, sd in ((0.5, 1), (5, 2), (10, 3), (20, 4), (50, 5))
    ]
    beta = groups[0]
    for group in groups[1:]:
        beta = np.concatenate([beta, np.zeros(gap), group])
    X = _autoregressive(n, len(beta), tau, rng)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    signal = X @ beta
    return X, signal + rng.standard_normal(n) * signal.std() / math.sqrt(5)


def _descent_cell(
    cell: tuple[str, float, int, Scale], rng: np.random.Generator
) -> dict[str, float]:
    penalty, tau, n, scale = cell
    X, y = _descent_data(tau, n, scale.descent_gap, rng)
    loss = Loss(Products(X), y, "linear", True)
    problem = Problem.make(loss, _PATH_ALPHA, penalty, check_penalty(penalty, None))
    start = X.T @ (y - y.mean()) / n
    paths = {
        "ag": problem.solve(start, solver="ag", max_iter=scale.descent_steps, tol=1e-12).objectives
    }
    enough = float(paths["ag"].min()) + _GAP if scale.descent_early else -math.inf
    for name in DESCENTS[1:]:
        paths[name] = _descend(problem, start, name, scale.descent_steps, enough)
    least = min(float(path.min()) for path in paths.values())
    return {name: _first(path - least <= _GAP, scale.descent_steps) for name, path in paths.items()}


class _Enough(Exception):
    """The objective is low enough."""


def _descend(
    problem: Problem, start: np.ndarray, solver: str, steps: int, enough: float
) -> np.ndarray:
    """Objectives after each step, up to the first that is low enough."""
    objectives: list[float] = []

    def record(theta: np.ndarray) -> None:
        objectives.append(problem.objective(theta))
        if objectives[-1] <= enough:
            raise _Enough

    with contextlib.suppress(_Enough):
        problem.solve(start, solver=solver, max_iter=steps, tol=1e-12, callback=record, trace=False)
    return np.array(objectives)


def _first(reached: np.ndarray, most: int) -> float:
    """The first step that reached it; one more than all where none did."""
    return float(np.argmax(reached)) + 1 if reached.any() else float(most) + 1


def _descent(settings: Settings, scale: Scale) -> dict[tuple[str, float, int], dict[str, float]]:
    cells = [(*cell, scale) for cell in scale.descent_cells for _ in range(scale.descent_seeds)]
    results = _sweep(settings, scale, _descent_cell, cells, "accelerated gradient")
    return {
        key: {
            name: float(
                np.median(
                    [r[name] for cell, r in zip(cells, results, strict=True) if cell[:3] == key]
                )
            )
            for name in DESCENTS
        }
        for key in scale.descent_cells
    }


def _cell_name(key: tuple[str, float, int]) -> str:
    penalty, tau, n = key
    return f"{penalty.upper()}, tau {tau:g}, N {n}"


def _descent_claims(steps: dict[tuple[str, float, int], dict[str, float]]) -> list[Claim]:
    claims = []
    for key, row in steps.items():
        claims += [
            Claim.at_most(
                f"steps of ag over the fewest of prox and ag-gl, {_cell_name(key)}",
                row["ag"] / min(row["prox"], row["ag-gl"]),
                1.0,
                strict=True,
            ),
            Claim.at_least(
                f"steps of ag-gl over ag, {_cell_name(key)}", row["ag-gl"] / row["ag"], 1.4
            ),
        ]
    return claims


def _descent_table(steps: dict[tuple[str, float, int], dict[str, float]], scale: Scale) -> Table:
    return Table(
        title="Gradient steps to a gap of e^3",
        columns=("penalty, design", *DESCENTS),
        rows=tuple(
            (_cell_name(key), *[row[name] for name in DESCENTS]) for key, row in steps.items()
        ),
        note=f"Medians of {scale.descent_seeds} draws, {scale.descent_steps} steps at most; one "
        "more means not reached. The gap is to the lowest objective that any of them found.",
    )


def _published_descent() -> Table:
    return Table(
        title="Published gradient steps to a gap of e^3",
        columns=("penalty, design", *DESCENTS),
        rows=(
            ("SCAD, tau 0.5, N 500", 18, 38, 30),
            ("SCAD, tau 0.9, N 200", 37, 104, 60),
            ("SCAD, tau 0.9, N 3000", 432, None, 657),
        ),
        note="Medians of 100 draws; prox did not reach it in the last row. arXiv 2009.10629.",
        published=True,
    )


# Part (d): proximal conjugate gradients.


def _fista(problem: Problem, start: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """FISTA with restart where the objective rises: objectives by gradient, and the last point."""
    weights, L = problem.weights(), problem.lipschitz

    def step(point: np.ndarray) -> np.ndarray:
        return soft_threshold(point - problem.gradient(point) / L, weights / L)

    x = z = start
    t, before = 1.0, problem.objective(start)
    objectives: list[float] = []
    while len(objectives) < steps:
        following = step(z)
        value = problem.objective(following)
        if value > before:
            # The gradient that is thrown away counts.
            objectives.append(before)
            t, following = 1.0, step(x)
            value = problem.objective(following)
        t_next = (1 + math.sqrt(1 + 4 * t * t)) / 2
        z = following + (t - 1) / t_next * (following - x)
        x, t, before = following, t_next, value
        objectives.append(value)
    return np.array(objectives[:steps]), x


def _gradient_cell(
    cell: tuple[str, float, Scale], rng: np.random.Generator
) -> dict[str, tuple[float, np.ndarray]]:
    penalty, rho, scale = cell
    n, p = scale.ncg_rows, scale.ncg_columns
    X = _autoregressive(n, p, rho, rng)
    beta = np.zeros(p)
    beta[:: p // 10][:10] = rng.normal(3, 1, 10)
    y = X @ beta + rng.standard_normal(n)
    loss = Loss(Products(X), y, "linear", True)
    problem = Problem.make(loss, _NCG_ALPHA, penalty, check_penalty(penalty, None))
    start = np.zeros(p)
    result = {}
    for name, steps in zip(SOLVERS, scale.ncg_steps, strict=True):
        if name == "fista":
            path, last = _fista(problem, start, steps)
        else:
            solution = problem.solve(start, solver=name, max_iter=steps, tol=_POLISHED)
            path, last = solution.objectives, solution.theta
        # The bottom of the valley that this solver is in: SCAD and MCP have several.
        polished = problem.solve(last, solver="pncg", max_iter=_POLISH_STEPS, tol=_POLISHED)
        least = min(problem.objective(polished.theta), float(np.min(path)))
        gaps = np.maximum(path - least, 0.0)
        result[name] = (_first(gaps <= _SOLVED, steps), gaps)
    return result


def _gradients(
    settings: Settings, scale: Scale
) -> tuple[dict[tuple[str, float], dict[str, float]], dict[str, np.ndarray]]:
    keys = [(penalty, rho) for penalty in ("l1", "mcp", "scad") for rho in RHOS]
    cells = [(*key, scale) for key in keys for _ in range(scale.ncg_seeds)]
    results = _sweep(settings, scale, _gradient_cell, cells, "conjugate gradients")
    medians = {
        key: {
            name: float(
                np.median(
                    [r[name][0] for cell, r in zip(cells, results, strict=True) if cell[:2] == key]
                )
            )
            for name in SOLVERS
        }
        for key in keys
    }
    shown = results[[cell[:2] for cell in cells].index(("mcp", 0.9))]
    return medians, {name: shown[name][1] for name in SOLVERS}


def _gradient_claims(gradients: dict[tuple[str, float], dict[str, float]]) -> list[Claim]:
    return [
        Claim.at_most(
            f"gradients of pncg over FISTA, {penalty.upper()}, rho {rho:g}",
            row["pncg"] / row["fista"],
            0.75,
        )
        for (penalty, rho), row in gradients.items()
    ]


def _gradient_table(gradients: dict[tuple[str, float], dict[str, float]], scale: Scale) -> Table:
    return Table(
        title="Gradients to a gap of 1e-8",
        columns=("penalty", "rho", "prox", "FISTA with restart", "pncg"),
        rows=tuple(
            (penalty.upper(), rho, *row.values()) for (penalty, rho), row in gradients.items()
        ),
        note=f"Medians of {scale.ncg_seeds} draw(s), at most {scale.ncg_steps} gradients; one more "
        "means not reached. The gap is to the minimum of the valley that the solver is in.",
    )


# Part (c): mixed effects with outlying clusters.


def _clustered(
    kind: str, p: int, beta: np.ndarray, share: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    groups = np.repeat(np.arange(_CLUSTERS), _CLUSTER_SIZE)
    X = rng.standard_normal((len(groups), p))
    effect, noise = rng.standard_normal(_CLUSTERS), rng.standard_normal(len(groups))
    factor = np.ones(_CLUSTERS)
    if kind == "contaminated":
        hit = rng.choice(_CLUSTERS, round(share * _CLUSTERS), replace=False)
        factor[hit] = _FACTOR
    elif kind == "t":
        factor = 1 / np.sqrt(rng.chisquare(3, _CLUSTERS) / 3)
    return X, X @ beta + (effect[groups] + noise) * factor[groups], groups


def _mixed_cell(cell: tuple[str, float], rng: np.random.Generator) -> tuple[float, float, float]:
    """Squared errors of the slopes, Gaussian and Tsallis, and the estimated nu."""
    kind, share = cell
    beta = rng.standard_normal(_FIXED)
    data = _clustered(kind, _FIXED, beta, share, rng)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        gaussian = TsallisMixedEffects(nu=_GAUSSIAN_NU).fit(*data)
        tsallis = TsallisMixedEffects().fit(*data)
    errors = [float(np.mean((model.coef_ - beta) ** 2)) for model in (gaussian, tsallis)]
    return errors[0], errors[1], tsallis.nu_


def _mixed(settings: Settings, scale: Scale) -> dict[str, tuple[float, float]]:
    """Ratio of the mean squared errors and median nu."""
    kinds = ("contaminated", "t", "gaussian")
    cells = [(kind, _CONTAMINATED) for kind in kinds for _ in range(scale.mixed_seeds)]
    results = np.array(_sweep(settings, scale, _mixed_cell, cells, "mixed effects"))
    results = results.reshape(len(kinds), scale.mixed_seeds, 3)
    means = results.mean(axis=1)
    return {
        kind: (float(mean[0] / mean[1]), float(np.median(draws[:, 2])))
        for kind, mean, draws in zip(kinds, means, results, strict=True)
    }


def _sparse_cell(cell: str, rng: np.random.Generator) -> tuple[float, float]:
    """Squared errors of the coefficients at the best alpha, Gaussian and Tsallis."""
    beta = np.zeros(_SPARSE_COLUMNS)
    chosen = rng.choice(_SPARSE_COLUMNS, _SPARSE_EFFECTS, replace=False)
    beta[chosen] = _SPARSE_SIZE * rng.choice([-1.0, 1.0], _SPARSE_EFFECTS)
    data = _clustered(cell, _SPARSE_COLUMNS, beta, _CONTAMINATED, rng)
    errors = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        # The smallest penalties interpolate; the best one never does.
        warnings.simplefilter("ignore", RuntimeWarning)
        for nu in (_GAUSSIAN_NU, "auto"):
            fits = [
                TsallisMixedEffects(nu=nu, penalty="mcp", alpha=alpha, max_iter=60, tol=1e-6)
                for alpha in _SPARSE_ALPHAS
            ]
            errors.append(min(float(np.sum((fit.fit(*data).coef_ - beta) ** 2)) for fit in fits))
    return errors[0], errors[1]


def _sparse(settings: Settings, scale: Scale) -> dict[str, tuple[float, float]]:
    kinds = ("contaminated", "gaussian")
    cells = [kind for kind in kinds for _ in range(scale.sparse_seeds)]
    results = np.array(_sweep(settings, scale, _sparse_cell, cells, "sparse mixed effects"))
    means = results.reshape(len(kinds), scale.sparse_seeds, 2).mean(axis=1)
    return {kind: (float(a), float(b)) for kind, (a, b) in zip(kinds, means, strict=True)}


def _curve(settings: Settings, scale: Scale) -> np.ndarray:
    """Root mean squared errors, (shares, 2)."""
    cells = [("contaminated", share) for share in scale.shares for _ in range(scale.curve_seeds)]
    results = np.array(_sweep(settings, scale, _mixed_cell, cells, "contamination"))
    means = results[:, :2].reshape(len(scale.shares), scale.curve_seeds, 2).mean(axis=1)
    return np.sqrt(means)


def _mixed_claims(
    mixed: dict[str, tuple[float, float]], sparse: dict[str, tuple[float, float]]
) -> list[Claim]:
    what = "MSE of slopes, Gaussian over Tsallis"
    gaussian, tsallis = sparse["contaminated"]
    return [
        Claim.at_least(f"{what}, 10 % of clusters contaminated", mixed["contaminated"][0], 4.0),
        Claim.at_least(f"{what}, t with nu = 3", mixed["t"][0], 1.5),
        Claim.close(f"{what}, Gaussian data", mixed["gaussian"][0], 1.0, absolute=0.1),
        Claim.at_least(
            "squared error of sparse effects, Gaussian over Tsallis, contaminated",
            gaussian / tsallis,
            2.5,
        ),
    ]


def _mixed_table(
    mixed: dict[str, tuple[float, float]], sparse: dict[str, tuple[float, float]]
) -> Table:
    rows: list[tuple[str | float | None, ...]] = [
        (f"{_FIXED} effects, {kind}", None, None, ratio, nu) for kind, (ratio, nu) in mixed.items()
    ]
    rows += [
        (
            f"5 of {_SPARSE_COLUMNS} effects, MCP, {kind}",
            gaussian,
            tsallis,
            gaussian / tsallis,
            None,
        )
        for kind, (gaussian, tsallis) in sparse.items()
    ]
    return Table(
        title="Errors of fixed effects, Gaussian against Tsallis",
        columns=("data", "Gaussian", "Tsallis", "Gaussian over Tsallis", "median nu"),
        rows=tuple(rows),
        note="Mean squared errors; sparse ones are summed over coefficients at the best of alpha "
        f"{', '.join(map(str, _SPARSE_ALPHAS))}. Contaminated: a tenth of the clusters, random "
        "effect and noise times 10.",
    )


def _figure(
    screening: dict[str, dict[str, list[float]]],
    gaps: dict[str, np.ndarray],
    curve: np.ndarray,
    scale: Scale,
) -> Figure:
    with panel("", "area under the ROC curve", title="screening, quadratic") as (first, axes):
        axes.boxplot([screening["quadratic"][name] for name in ESTIMATORS])
        axes.set_xticks(range(1, 5), ESTIMATORS)
    with panel("gradients", "gap", title="MCP, rho = 0.9") as (second, axes):
        for name in SOLVERS:
            gap = gaps[name][gaps[name] > 1e-12]
            axes.plot(np.arange(1, len(gap) + 1), gap, label=name)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.legend()
    with panel("contaminated clusters, %", "root mean squared error", title="slopes") as (
        third,
        axes,
    ):
        for name, values in zip(("Gaussian", "Tsallis"), curve.T, strict=True):
            axes.plot([100 * share for share in scale.shares], values, "o-", label=name)
        axes.legend()
    return Figure.render(
        "Robust and efficient in high dimension",
        "Left: areas under the ROC curve where the dependence is quadratic. Middle: gap to the "
        "minimum against gradients. Right: error of six slopes against the share of clusters "
        "whose random effect and noise are ten times too large.",
        first,
        second,
        third,
    )
