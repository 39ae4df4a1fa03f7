"""Sparse regression on random supports (arXiv 2511.06211): errors that no conditioning can raise.

Low-rank designs with private column parts of 1 to 10^-8 carry a signal in those parts alone. Every
baseline picks the best point of its whole path with the truth at hand; random pivots use the
universal penalty. A second part counts how often random pivots fail a random support, on four
designs, against the bound that holds for all designs.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import lars_path, orthogonal_mp

from rankone._sweep import sweep
from rankone.linear_model.random_pivot_lasso import (
    RandomPivotLasso,
    make_ill_conditioned_sparse,
    pivot_failure_bound,
    pivot_ratio,
)
from rankone.reproduce import MUTED, Claim, Figure, Reproduction, Settings, Table, panel

OURS = "random pivots"
UNKNOWN = "random pivots, sigma unknown"
REFIT = "random pivots, refit"
LASSO = "Lasso"
OMP = "orthogonal matching pursuit"
RIDGE = "ridge"
PCR = "principal components"
PUFFER = "puffer, then Lasso"
SUPPORT = "least squares on the true support"
NAMES = (OURS, UNKNOWN, REFIT, LASSO, OMP, RIDGE, PCR, PUFFER, SUPPORT)

_ERROR_BOUND = 0.25
_SPREAD_BOUND = 2.5
_LARS_STEPS = 600


@dataclass(frozen=True)
class Design:
    """One design: sizes, decades of the private scales, and whether all columns share one."""

    log10_range: float
    homogeneous: bool = False
    n_samples: int = 400
    n_features: int = 800
    n_nonzero: int = 4

    @property
    def name(self) -> str:
        return f"{'homogeneous' if self.homogeneous else 'range'} {self.log10_range:g}"

    @property
    def n_pivots(self) -> int:
        return self.n_nonzero * (self.n_nonzero - 1)


@dataclass(frozen=True)
class Scale:
    """Sizes of one run.

    Attributes:
        n_samples, n_features: N and d of the six designs that the claims are about.
        seeds: draws of each design; medians are over them.
        grid: further designs, for the table and the curve of errors against N.
        ratio_draws: draws of support and pivots a design and number of pivots.
        ratio_samples, ratio_features: size of the designs whose pivots are counted.
        n_jobs: processes; no number depends on it.
    """

    n_samples: int = 400
    n_features: int = 800
    seeds: int = 4
    grid: tuple[Design, ...] = ()
    ratio_draws: int = 400
    ratio_samples: int = 100
    ratio_features: int = 300
    n_jobs: int | None = None


QUICK = Scale()
FULL = Scale(
    seeds=50,
    grid=tuple(
        Design(decades, False, n, d, k)
        for d in (800, 3200)
        for n in (200, 400, 800, 1600)
        for k in (2, 4, 8)
        for decades in (1, 2, 4, 6, 8, 10)
    ),
    n_jobs=-1,
)
PIVOT_COUNTS = (9, 18, 36)


def run(settings: Settings) -> Reproduction:
    """Errors against every baseline's oracle, and the failure rate of random pivots."""
    scale = settings.scale(quick=QUICK, full=FULL)
    designs = [
        Design(decades, homogeneous, scale.n_samples, scale.n_features)
        for homogeneous in (False, True)
        for decades in (1, 4, 8)
    ]
    everything = [*designs, *scale.grid]
    cells = [
        (design, seed + settings.random_state)
        for design in everything
        for seed in range(scale.seeds)
    ]
    results = sweep(
        _errors,
        cells,
        random_state=settings.random_state,
        n_jobs=scale.n_jobs,
        description="fitting designs",
        progress=settings.progress,
    )
    table = np.array([[result[name] for name in ("cond", *NAMES)] for result in results])
    medians = np.median(table.reshape(len(everything), scale.seeds, -1), axis=1)
    errors = [dict(zip(("cond", *NAMES), row, strict=True)) for row in medians.tolist()]
    claimed = {design.name: error for design, error in zip(designs, errors[:6], strict=True)}
    rates = _failure_rates(settings, scale)
    tables = [_error_table(claimed, scale), _rate_table(rates)]
    figures = [_figure(claimed, rates)]
    if scale.grid:
        more = errors[6:]
        tables.append(_grid_table(scale.grid, more))
        figures.append(_size_figure(scale.grid, more))
    return Reproduction(
        slug="sparse-random-support",
        claims=(*_error_claims(claimed), *_rate_claims(rates)),
        tables=tuple(tables),
        figures=tuple(figures),
        settings={
            "design": f"N = {scale.n_samples}, d = {scale.n_features}, k = 4, rank 2, noise 1",
            "pivots": "12, no intercept, universal penalty with sigma = 1",
            "draws": scale.seeds,
        },
    )


def _errors(cell: tuple[Design, int], _: np.random.Generator) -> dict[str, float]:
    """In-sample prediction errors of all methods on one draw; baselines at their best."""
    design, seed = cell
    k = design.n_nonzero
    X, y, _coef, support, signal = make_ill_conditioned_sparse(
        design.n_samples,
        design.n_features,
        k,
        rank=min(2, k - 1),
        log10_range=design.log10_range,
        homogeneous=design.homogeneous,
        random_state=seed,
    )

    def best(fits: np.ndarray) -> float:
        return float(np.min(np.mean((fits - signal[:, None]) ** 2, axis=0)))

    def ours(**options: Any) -> float:
        pivots = min(design.n_pivots, len(y) // 4)
        model = RandomPivotLasso(
            k, n_pivots=pivots, fit_intercept=False, random_state=seed, **options
        )
        return best(model.fit(X, y).fitted_values_[:, None])

    unit = X / np.linalg.norm(X, axis=0)
    U, s, Vt = np.linalg.svd(unit, full_matrices=False)
    z = U.T @ y
    penalties = np.logspace(-20, 8, 120)
    with warnings.catch_warnings():
        # Both paths end early, and say so, where rounding leaves nothing to select.
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        lasso = lars_path(unit, y, method="lasso", max_iter=_LARS_STEPS)[2]
        pursuit = orthogonal_mp(unit, y, n_nonzero_coefs=len(y) // 2, return_path=True)
        keep = s > s[0] * np.finfo(np.float64).eps * max(X.shape)
        puffed = U[:, keep] @ Vt[keep]
        columns = np.linalg.norm(puffed, axis=0)
        spread = U[:, keep] @ (z[keep] / s[keep])
        puffer = lars_path(puffed / columns, spread, method="lasso", max_iter=_LARS_STEPS)[2]
    on_support = np.linalg.lstsq(unit[:, support], y, rcond=None)[0]
    return {
        "cond": float(np.linalg.cond(X)),
        OURS: ours(sigma=1.0),
        UNKNOWN: ours(),
        REFIT: ours(sigma=1.0, refit=True),
        LASSO: best(unit @ lasso),
        OMP: best(unit @ pursuit.reshape(unit.shape[1], -1)),
        RIDGE: best(U @ ((s[:, None] ** 2 / (s[:, None] ** 2 + penalties)) * z[:, None])),
        PCR: best(np.cumsum(U * z, axis=1)),
        PUFFER: best(unit @ (puffer / columns[:, None])),
        SUPPORT: best((unit[:, support] @ on_support)[:, None]),
    }


def _error_claims(errors: dict[str, dict[str, float]]) -> list[Claim]:
    ours = {name: row[OURS] for name, row in errors.items()}
    claims = [
        Claim.at_most(f"error of random pivots, {name}", value, _ERROR_BOUND)
        for name, value in ours.items()
    ]
    claims.append(
        Claim.at_most(
            "error of random pivots, largest over smallest of the six designs",
            max(ours.values()) / min(ours.values()),
            _SPREAD_BOUND,
            note="The condition number grows by more than 10^7.",
        )
    )
    for name in ("range 4", "range 8"):
        for peer, bound in ((LASSO, 0.5), (OMP, 0.3)):
            claims.append(
                Claim.at_most(
                    f"error of random pivots over that of {peer} at its best, {name}",
                    ours[name] / errors[name][peer],
                    bound,
                )
            )
    claims.append(
        Claim.close(
            "homogeneous 8 over homogeneous 4: growth of the error of random pivots",
            ours["homogeneous 8"] / ours["homogeneous 4"],
            1.0,
            absolute=0.02,
        )
    )
    return claims


def _ratio_designs(scale: Scale, rng: np.random.Generator) -> dict[str, np.ndarray]:
    n, d = scale.ratio_samples, scale.ratio_features
    base = rng.standard_normal((n, 1))
    nodes = np.linspace(-1, 1, n)
    low_rank = rng.standard_normal((n, 2)) @ rng.standard_normal((2, d))
    mixed = make_ill_conditioned_sparse(
        n, d, 4, log10_range=6, random_state=int(rng.integers(2**31))
    )[0]
    vandermonde = np.vander(nodes, n, increasing=True)
    return {
        "near duplicates": base + 1e-4 * rng.standard_normal((n, d)),
        "rank 2 + 1e-3": low_rank + 1e-3 * rng.standard_normal((n, d)),
        "mixed scales": mixed,
        "shuffled Vandermonde": vandermonde[:, rng.permutation(n)],
    }


def _failure_rate(cell: tuple[np.ndarray, int, int], rng: np.random.Generator) -> float:
    X, pivots, draws = cell
    d = X.shape[1]
    failed = 0
    for _ in range(draws):
        support = rng.choice(d, 4, replace=False)
        failed += bool(pivot_ratio(X, support, rng.choice(d, pivots, replace=False)).max() > 1)
    return failed / draws


def _failure_rates(settings: Settings, scale: Scale) -> dict[str, list[float]]:
    designs = _ratio_designs(scale, np.random.default_rng(settings.random_state))
    cells = [(X, m, scale.ratio_draws) for X in designs.values() for m in PIVOT_COUNTS]
    rates = sweep(
        _failure_rate,
        cells,
        random_state=settings.random_state,
        n_jobs=scale.n_jobs,
        description="counting failures of pivots",
        progress=settings.progress,
    )
    per_design = np.array(rates).reshape(len(designs), len(PIVOT_COUNTS)).tolist()
    return dict(zip(designs, per_design, strict=True))


def _rate_claims(rates: dict[str, list[float]]) -> list[Claim]:
    return [
        Claim.at_most(
            f"share of draws where {m} pivots fail a support of 4, {name}",
            rate,
            pivot_failure_bound(4, m),
        )
        for name, row in rates.items()
        for m, rate in zip(PIVOT_COUNTS, row, strict=True)
    ]


def _error_table(errors: dict[str, dict[str, float]], scale: Scale) -> Table:
    return Table(
        title="In-sample prediction error, medians",
        columns=("design", "condition number", *NAMES),
        rows=tuple(
            (name, row["cond"], *[row[key] for key in NAMES]) for name, row in errors.items()
        ),
        note=f"Medians of {scale.seeds} draws. Baselines at the best point of their whole path, "
        "chosen with the truth; random pivots at the universal penalty. Predicting zero and "
        "interpolating both have error 1. At low condition number (range 1) the Lasso at its "
        "best is as good as random pivots: nothing is lost there that a preconditioner could save.",
    )


def _rate_table(rates: dict[str, list[float]]) -> Table:
    rows: list[tuple[str | float, ...]] = [(name, *row) for name, row in rates.items()]
    rows.append(("bound", *(pivot_failure_bound(4, m) for m in PIVOT_COUNTS)))
    return Table(
        title="Failures of random pivots, k = 4",
        columns=("design", *(f"m = {m}" for m in PIVOT_COUNTS)),
        rows=tuple(rows),
        note="Share of draws of (support, pivots) in which some column of the support is farther "
        "from the pivots than from the rest of the support.",
    )


def _grid_table(grid: tuple[Design, ...], errors: list[dict[str, float]]) -> Table:
    return Table(
        title="In-sample prediction error over sizes, medians",
        columns=("d", "N", "k", "range", "condition number", *NAMES),
        rows=tuple(
            (
                design.n_features,
                design.n_samples,
                design.n_nonzero,
                design.log10_range,
                error["cond"],
                *(error[name] for name in NAMES),
            )
            for design, error in zip(grid, errors, strict=True)
        ),
        note="The low-rank part has rank 2, and 1 for k = 2.",
    )


def _figure(errors: dict[str, dict[str, float]], rates: dict[str, list[float]]) -> Figure:
    rows = [errors[f"range {decades}"] for decades in (1, 4, 8)]
    with panel("condition number", "prediction error", title="error of every method") as (
        left,
        axes,
    ):
        for name in (OURS, LASSO, OMP, RIDGE, PCR, PUFFER):
            axes.plot([row["cond"] for row in rows], [row[name] for row in rows], "o-", label=name)
        axes.set_xscale("log")
        axes.set_ylim(0, 1.1)
        axes.legend(fontsize=8)
    with panel("pivots m", "share of failures", title="pivots that fail a support of 4") as (
        right,
        axes,
    ):
        for name, row in rates.items():
            axes.plot(PIVOT_COUNTS, row, "o-", label=name)
        bounds = [pivot_failure_bound(4, m) for m in PIVOT_COUNTS]
        axes.plot(PIVOT_COUNTS, bounds, color=MUTED, linestyle="--", label="bound, any design")
        axes.set_xticks(PIVOT_COUNTS)
        axes.legend(fontsize=8)
    return Figure.render(
        "Random supports leave sparse regression easy",
        "Left: in-sample prediction error against the condition number of the design (private "
        "scales over 1, 4 and 8 decades); baselines at their best with the truth at hand. Right: "
        "observed failures of random pivots, and the bound that holds for every design.",
        left,
        right,
    )


def _size_figure(grid: tuple[Design, ...], errors: list[dict[str, float]]) -> Figure:
    drawings = []
    for d in sorted({design.n_features for design in grid}):
        with panel("N", "prediction error", title=f"d = {d}, k = 4, range 8") as (drawing, axes):
            chosen = [
                (design.n_samples, error)
                for design, error in zip(grid, errors, strict=True)
                if (design.n_features, design.n_nonzero, design.log10_range) == (d, 4, 8)
            ]
            for name in (OURS, REFIT, LASSO, OMP, RIDGE):
                axes.plot(
                    [n for n, _ in chosen], [error[name] for _, error in chosen], "o-", label=name
                )
            axes.set_xscale("log", base=2)
            axes.legend(fontsize=8)
        drawings.append(drawing)
    return Figure.render(
        "Error against the number of rows",
        "Medians; baselines at the best point of their path.",
        *drawings,
    )
