"""Least squares from repelling points (arXiv 2312.14057): stable at 2 to 4 points a function.

Independent, volume-rescaled and repeated determinantal designs are compared by the smallest
eigenvalue of their Gram matrix and by the error of the fit over that of the best fit, for three
functions in the Legendre basis and for a pool of rows of real data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sklearn.datasets import load_diabetes

from rankone._sweep import sweep
from rankone.linear_model._dpp_designs import METHODS, grams, sample_designs
from rankone.linear_model.dpp_least_squares import (
    DiscreteBasis,
    LegendreBasis,
    OrthonormalBasis,
    TrigonometricBasis,
    WeightedLeastSquares,
    christoffel_weights,
    sample_design,
)
from rankone.reproduce import SERIES, Claim, Figure, Reproduction, Settings, Table, panel

NAMES = {"iid": "i.i.d.", "volume": "volume", "repeated_dpp": "repeated DPP"}

TARGETS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "1/(1+25x^2)": lambda x: 1 / (1 + 25 * x**2),
    "exp(x)": np.exp,
    "|x|": np.abs,
}

# Nodes of the Gauss-Legendre rule for the true coefficients.
_NODES = 400

# A design is stable above this smallest eigenvalue.
_STABLE = 0.5


@dataclass(frozen=True)
class Scale:
    """Sizes of one run.

    Attributes:
        n_functions: m of the Legendre basis of the claims.
        ratios: n / m of the cells.
        designs: a cell.
        search: n / m tried, in order, for the smallest n that is stable half of the time.
        pool_designs: designs of the pool of real rows.
        more_functions: further m in one dimension.
        degree_2d: total degree of a two-dimensional basis, or None.
        order: of a trigonometric basis, or None.
        more_ratios: n / m of those.
        conditioned: designs of the conditioned, boosted and pruned variants.
        n_jobs: processes; no number depends on it.
    """

    n_functions: int = 10
    ratios: tuple[int, ...] = (1, 2, 4)
    designs: int = 300
    search: tuple[int, ...] = tuple(range(1, 15))
    pool_designs: int = 200
    more_functions: tuple[int, ...] = ()
    degree_2d: int | None = None
    order: int | None = None
    more_ratios: tuple[int, ...] = ()
    conditioned: int = 0
    n_jobs: int | None = None


QUICK = Scale()
FULL = Scale(
    designs=2000,
    more_functions=(5, 20, 40),
    degree_2d=8,
    order=10,
    more_ratios=tuple(range(1, 11)),
    conditioned=200,
    n_jobs=-1,
)


def run(settings: Settings) -> Reproduction:
    """Stability, error ratios, the numbers of points needed, and a pool of real rows."""
    scale = settings.scale(quick=QUICK, full=FULL)
    m = scale.n_functions
    basis = LegendreBasis(m - 1)
    cells = [
        (basis, method, ratio * m, scale.designs) for ratio in scale.ratios for method in METHODS
    ]
    results = _sweep(settings, scale, _cell, cells, "drawing designs")
    table = {(method, n): result for (_, method, n, _), result in zip(cells, results, strict=True)}
    needed = _points_needed(settings, scale, basis)
    pool = _pool(settings, scale)
    tables = [_stability_table(table, scale), _pool_table(pool)]
    if scale.more_ratios:
        tables.append(_more_table(settings, scale))
    if scale.conditioned:
        tables.append(_conditioned_table(settings, scale, basis))
    return Reproduction(
        slug="dpp-least-squares",
        claims=(
            *_stability_claims(table, m),
            *_error_claims(table, m),
            *_needed_claims(needed, m),
            _pool_claim(pool),
        ),
        tables=tuple(tables),
        figures=(_figure(table, scale),),
        settings={
            "basis": f"Legendre, m = {m}, uniform measure on [-1, 1]",
            "designs": f"{scale.designs} a cell, no conditioning, mix 0",
            "pool": "scikit-learn's diabetes data, 442 rows, 10 features and intercept, n = 22",
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


def _draw(
    basis: OrthonormalBasis, method: str, n: int, designs: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points (designs, n, D), basis values (designs, n, m) and weights (designs, n)."""
    points = sample_designs(basis, n, method, designs, mix=0.0, rng=rng)
    flat = points.reshape(designs * n, -1)
    Phi = basis.evaluate(flat).reshape(designs, n, -1)
    return points, Phi, christoffel_weights(basis, flat).reshape(designs, n)


def _solve(Phi: np.ndarray, weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Least squares of every design at once, by its pseudo-inverse: (designs, m)."""
    root = np.sqrt(weights)[..., None]
    return (np.linalg.pinv(Phi * root) @ (root * values[..., None]))[..., 0]


def _cell(
    cell: tuple[OrthonormalBasis, str, int, int], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    basis, method, n, designs = cell
    points, Phi, weights = _draw(basis, method, n, designs, rng)
    gram, lambdas = grams(Phi, weights)
    result = {"lambda": lambdas}
    with np.errstate(divide="ignore"):
        result["trace"] = np.sum(1 / np.linalg.eigvalsh(gram), axis=1) / basis.n_functions
    if basis.n_dims == 1 and isinstance(basis, LegendreBasis):
        nodes, quadrature = np.polynomial.legendre.leggauss(_NODES)
        on_nodes = basis.evaluate(nodes[:, None])
        for name, target in TARGETS.items():
            truth = on_nodes.T @ (quadrature / 2 * target(nodes))
            best = np.sum(quadrature / 2 * (target(nodes) - on_nodes @ truth) ** 2)
            found = _solve(Phi, weights, target(points[..., 0]))
            result[name] = 1 + np.sum((found - truth) ** 2, axis=1) / best
    return result


def _lambdas(cell: tuple[OrthonormalBasis, str, int, int], rng: np.random.Generator) -> np.ndarray:
    basis, method, n, designs = cell
    _, Phi, weights = _draw(basis, method, n, designs, rng)
    return grams(Phi, weights)[1]


def _points_needed(
    settings: Settings, scale: Scale, basis: OrthonormalBasis
) -> dict[str, tuple[int, list[float]]]:
    """The smallest n tried that is stable half of the time, and the shares."""
    m = basis.n_functions
    needed = {}
    for method in ("iid", "repeated_dpp"):
        cells = [(basis, method, ratio * m, scale.designs) for ratio in scale.search]
        shares = [
            float(np.mean(lambdas > _STABLE))
            for lambdas in _sweep(settings, scale, _lambdas, cells, f"points needed, {method}")
        ]
        enough = [
            ratio * m for ratio, share in zip(scale.search, shares, strict=True) if share >= 0.5
        ]
        # None enough: more than the last one tried.
        needed[method] = (enough[0] if enough else scale.search[-1] * m + m, shares)
    return needed


def _pool_cell(cell: tuple[str, int], rng: np.random.Generator) -> np.ndarray:
    method, designs = cell
    data = load_diabetes()
    basis = DiscreteBasis(np.column_stack([np.ones(len(data.data)), data.data]))
    everything = basis.evaluate(np.arange(len(basis))[:, None])
    truth = everything.T @ data.target / len(basis)
    best = np.mean((data.target - everything @ truth) ** 2)
    points, Phi, weights = _draw(basis, method, 2 * basis.n_functions, designs, rng)
    found = _solve(Phi, weights, data.target[points[..., 0]])
    return np.sum((found - truth) ** 2, axis=1) / best


def _pool(settings: Settings, scale: Scale) -> dict[str, np.ndarray]:
    cells = [(method, scale.pool_designs) for method in METHODS]
    results = _sweep(settings, scale, _pool_cell, cells, "labelling rows of the pool")
    return dict(zip(METHODS, results, strict=True))


def _stability_claims(table: dict, m: int) -> list[Claim]:
    claims = []
    for n in (2 * m, 4 * m):
        lambdas = {method: table[method, n]["lambda"] for method in METHODS}
        medians = {method: float(np.median(values)) for method, values in lambdas.items()}
        claims += [
            Claim.increasing(
                f"5 % quantile of lambda, n = {n}: i.i.d., volume, repeated DPP",
                [float(np.quantile(lambdas[method], 0.05)) for method in METHODS],
            ),
            Claim.increasing(
                f"median of lambda, n = {n}: i.i.d., volume, repeated DPP",
                [medians[method] for method in METHODS],
            ),
            Claim.at_least(
                f"median of lambda, n = {n}: repeated DPP over volume",
                medians["repeated_dpp"] / medians["volume"],
                1.3,
            ),
            Claim.at_least(
                f"median of lambda, n = {n}: volume over i.i.d.",
                medians["volume"] / medians["iid"],
                1.1,
            ),
        ]
    n = 4 * m
    stable = {method: float(np.mean(table[method, n]["lambda"] > _STABLE)) for method in METHODS}
    what = f"P(lambda > 0.5), n = {n}"
    claims += [
        Claim.at_least(f"{what}: repeated DPP", stable["repeated_dpp"], 0.6),
        Claim.at_most(f"{what}: volume", stable["volume"], 0.3),
        Claim.at_most(f"{what}: i.i.d.", stable["iid"], 0.3),
        Claim.close(
            f"volume, n = {n}: mean of tr(G^-1) / m",
            float(np.mean(table["volume", n]["trace"])),
            n / (n - m + 1),
            relative=0.05,
            note="n / (n - m + 1), exactly, in expectation.",
        ),
    ]
    return claims


def _error_claims(table: dict, m: int) -> list[Claim]:
    medians = {
        method: [float(np.median(table[method, 2 * m][name])) for name in TARGETS]
        for method in METHODS
    }
    what = f"median of error^2 over the best, n = {2 * m}"
    return [
        Claim.at_most(
            f"{what}: repeated DPP, worst of three functions", max(medians["repeated_dpp"]), 1.65
        ),
        Claim.at_least(f"{what}: i.i.d., best of three functions", min(medians["iid"]), 2.5),
    ]


def _needed_claims(needed: dict[str, tuple[int, list[float]]], m: int) -> list[Claim]:
    what = "smallest n with P(lambda > 0.5) of at least one half"
    return [
        Claim.at_most(f"{what}: repeated DPP", needed["repeated_dpp"][0], 4 * m),
        Claim.at_least(f"{what}: i.i.d.", needed["iid"][0], 7 * m),
    ]


def _pool_claim(pool: dict[str, np.ndarray]) -> Claim:
    return Claim.increasing(
        "median excess risk over the best risk, diabetes pool, 22 labels: repeated DPP, volume, "
        "leverage scores",
        [float(np.median(pool[method])) for method in reversed(METHODS)],
    )


def _stability_table(table: dict, scale: Scale) -> Table:
    rows = []
    for ratio in scale.ratios:
        n = ratio * scale.n_functions
        for method in METHODS:
            cell = table[method, n]
            medians = [float(np.median(cell[name])) for name in TARGETS]
            tails = [float(np.quantile(cell[name], 0.95)) for name in TARGETS]
            rows.append(
                (
                    n,
                    NAMES[method],
                    float(np.quantile(cell["lambda"], 0.05)),
                    float(np.median(cell["lambda"])),
                    float(np.mean(cell["lambda"] > _STABLE)),
                    (min(medians), max(medians)),
                    (min(tails), max(tails)),
                )
            )
    return Table(
        title="Stability and error of random designs",
        columns=(
            "n",
            "design",
            "lambda, 5 %",
            "lambda, median",
            "P(lambda > 0.5)",
            "error^2 over the best, median",
            "error^2 over the best, 95 %",
        ),
        rows=tuple(rows),
        note=f"{scale.designs} designs a row; ranges over {', '.join(TARGETS)}. With n = m the "
        "volume design and the DPP have one law.",
    )


def _pool_table(pool: dict[str, np.ndarray]) -> Table:
    return Table(
        title="Excess risk over the best risk on the pool, 22 of 442 labels",
        columns=("design", "mean", "median"),
        rows=tuple(
            (NAMES[method], float(np.mean(pool[method])), float(np.median(pool[method])))
            for method in reversed(METHODS)
        ),
        note="Linear regression on the diabetes data; the i.i.d. design draws by leverage scores.",
    )


def _more_table(settings: Settings, scale: Scale) -> Table:
    bases: dict[str, OrthonormalBasis] = {
        f"Legendre, m = {m}": LegendreBasis(m - 1) for m in scale.more_functions
    }
    if scale.degree_2d is not None:
        bases[f"Legendre in 2-D, total degree {scale.degree_2d}"] = LegendreBasis(
            scale.degree_2d, 2
        )
    if scale.order is not None:
        bases[f"trigonometric, order {scale.order}"] = TrigonometricBasis(scale.order)
    cells = [
        (basis, method, ratio * basis.n_functions, scale.designs)
        for basis in bases.values()
        for ratio in scale.more_ratios
        for method in METHODS
    ]
    labels = [
        (name, ratio, NAMES[method])
        for name in bases
        for ratio in scale.more_ratios
        for method in METHODS
    ]
    results = _sweep(settings, scale, _lambdas, cells, "further bases")
    return Table(
        title="Stability in other spaces",
        columns=("basis", "n / m", "design", "lambda, 5 %", "lambda, median", "P(lambda > 0.5)"),
        rows=tuple(
            (
                *label,
                float(np.quantile(lambdas, 0.05)),
                float(np.median(lambdas)),
                float(np.mean(lambdas > _STABLE)),
            )
            for label, lambdas in zip(labels, results, strict=True)
        ),
    )


def _conditioned_cell(
    cell: tuple[OrthonormalBasis, str, dict, int], rng: np.random.Generator
) -> tuple[float, float, float]:
    """Mean attempts, mean points and median error ratio of one variant."""
    basis, method, options, designs = cell
    nodes, quadrature = np.polynomial.legendre.leggauss(_NODES)
    on_nodes = basis.evaluate(nodes[:, None])
    target = TARGETS["1/(1+25x^2)"]
    truth = on_nodes.T @ (quadrature / 2 * target(nodes))
    best = np.sum(quadrature / 2 * (target(nodes) - on_nodes @ truth) ** 2)
    attempts, points, ratios = [], [], []
    for _ in range(designs):
        design = sample_design(
            basis, 4 * basis.n_functions, method, delta=1 - _STABLE, random_state=rng, **options
        )
        values = target(design.points[:, 0])
        model = WeightedLeastSquares(basis).fit(design.points, values, design.weights)
        attempts.append(design.n_attempts)
        points.append(len(values))
        ratios.append(1 + np.sum((model.coef_ - truth) ** 2) / best)
    return float(np.mean(attempts)), float(np.mean(points)), float(np.median(ratios))


def _conditioned_table(settings: Settings, scale: Scale, basis: OrthonormalBasis) -> Table:
    variants = {
        "conditioned": {},
        "best of 10": {"n_candidates": 10},
        "conditioned, pruned": {"prune": True},
        "best of 10, pruned": {"n_candidates": 10, "prune": True},
    }
    labels = [(NAMES[method], name) for method in METHODS for name in variants]
    cells = [
        (basis, method, options, scale.conditioned)
        for method in METHODS
        for options in variants.values()
    ]
    results = _sweep(settings, scale, _conditioned_cell, cells, "conditioned designs")
    return Table(
        title=f"Conditioned on lambda >= 0.5, from n = {4 * basis.n_functions}",
        columns=("design", "variant", "attempts", "points", "error^2 over the best, median"),
        rows=tuple((*label, *result) for label, result in zip(labels, results, strict=True)),
        note=f"Means over {scale.conditioned} designs; the function is 1/(1+25x^2).",
    )


def _figure(table: dict, scale: Scale) -> Figure:
    m = scale.n_functions
    with panel("n / m", "smallest eigenvalue", title="stability of the Gram matrix") as (
        left,
        axes,
    ):
        for method, color in zip(METHODS, SERIES, strict=False):
            cells = [table[method, ratio * m]["lambda"] for ratio in scale.ratios]
            axes.plot(scale.ratios, [np.median(cell) for cell in cells], "o-", label=NAMES[method])
            axes.fill_between(
                scale.ratios,
                [np.quantile(cell, 0.05) for cell in cells],
                [np.quantile(cell, 0.95) for cell in cells],
                color=color,
                alpha=0.15,
                linewidth=0,
            )
        axes.set_xticks(scale.ratios)
        axes.set_ylim(0, 1)
        axes.legend()
    with panel("", "error² over the best", title=f"error at n = {2 * m}, 1/(1+25x²)") as (
        right,
        axes,
    ):
        boxes = [table[method, 2 * m]["1/(1+25x^2)"] for method in METHODS]
        axes.boxplot(boxes, whis=(5, 95), showfliers=False)
        axes.set_xticks((1, 2, 3), [NAMES[method] for method in METHODS])
        axes.set_yscale("log")
    return Figure.render(
        "Points that repel each other",
        f"Left: median and 5 to 95 % of the smallest eigenvalue of the Gram matrix, "
        f"{scale.designs} designs. Right: squared error over that of the best fit; boxes are "
        "quartiles, whiskers 5 and 95 %.",
        left,
        right,
    )
