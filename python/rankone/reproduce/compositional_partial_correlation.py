"""Partial correlations between the parts of a composition (arXiv 1904.09480).

The paper's table of Roman glass cups is in no installable package; ``settings.data`` takes it as a
CSV file with part names as its header. Without it the Romano-British pottery of the R package
heplots stands in, with values computed from the tables themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rankone._sweep import sweep
from rankone.datasets import r_table
from rankone.reproduce import Claim, Figure, Reproduction, Settings, Table, panel
from rankone.stats.compositional import (
    CompositionalPartialCorrelation,
    alr,
    clr,
    heat_map,
    residual_correlation,
)

_THREE_DIGITS = 0.002  # two units of the last printed digit of three
_EXACT = 1e-8

# Partial correlations that the tables give, by pair of parts.
POTTERY = {
    ("Al", "Ba"): 0.841,
    ("Al", "Mn"): -0.564,
    ("Mg", "K"): 0.561,
    ("Mg", "Mn"): 0.517,
    ("Mg", "Ca"): -0.475,
    ("Fe", "Ca"): 0.433,
    ("Al", "Fe"): 0.268,
}
POTTERY_VARIANCES = (0.0199, 0.0488, 0.0823, 0.4052, 0.2500, 0.0567, 0.2525, 0.2009, 0.0251)
SKYE = {("A", "F"): 0.982, ("A", "M"): -0.915, ("F", "M"): 0.9748}
SMALL_POTTERY = {
    ("Al", "Fe"): 0.7315,
    ("Al", "Mg"): -0.6071,
    ("Fe", "Mg"): 0.8115,
    ("Mg", "Ca"): 0.5691,
}
CUPS = {
    ("Al", "Fe"): 0.727,
    ("Si", "Al"): 0.722,
    ("Si", "Fe"): -0.663,
    ("Ca", "Na"): 0.597,
    ("Mg", "Fe"): 0.428,
    ("K", "P"): 0.413,
}


@dataclass(frozen=True)
class Scale:
    """Sizes of one run.

    Attributes:
        calibration_draws: simulated tables of independent open parts.
        calibration_rows: numbers of rows of those tables; the claim is about the first.
        shrinkage_draws: simulated tables with more parts than rows.
    """

    calibration_draws: int = 2000
    calibration_rows: tuple[int, ...] = (40,)
    shrinkage_draws: int = 20


QUICK = Scale()
FULL = Scale(calibration_draws=20_000, calibration_rows=(40, 20, 100, 400), shrinkage_draws=200)
_CALIBRATION_PARTS = 8
_FEW_ROWS, _MANY_PARTS = 15, 30


def run(settings: Settings) -> Reproduction:
    """Measure the tables' values, the agreement of routes, calibration and shrinkage."""
    scale = settings.scale(quick=QUICK, full=FULL)
    frame = r_table("heplots", "Pottery2").frame.drop(columns=["Region", "Site", "Kiln"])
    pottery = CompositionalPartialCorrelation().fit(frame)
    coverage = _coverage(settings, scale)
    errors = _shrinkage_errors(settings, scale)
    return Reproduction(
        slug="compositional-partial-correlation",
        claims=(
            *_pottery_claims(frame, pottery),
            *_value_claims("Skye lavas", r_table("MASS", "Skye").frame, SKYE),
            *_value_claims(
                "pottery of five oxides",
                r_table("carData", "Pottery").frame.drop(columns="Site"),
                SMALL_POTTERY,
            ),
            *_cups_claims(settings),
            *_route_claims(frame, pottery),
            _reversal_claim(frame, pottery),
            Claim.close(
                f"95 % intervals cover 1/(D - 1) of {_CALIBRATION_PARTS} independent open parts, "
                f"n = {scale.calibration_rows[0]}",
                coverage[scale.calibration_rows[0]],
                0.95,
                absolute=0.015,
                note="the value under independence is 1/7, not 0",
            ),
            *_shrinkage_claims(errors),
        ),
        tables=(_inference_table(pottery), _coverage_table(coverage), _shrinkage_table(errors)),
        figures=(_figure(frame, pottery),),
        settings={
            "calibration": f"{scale.calibration_draws} tables, log-normal open parts of variance 1",
            "shrinkage": f"{scale.shrinkage_draws} tables of {_FEW_ROWS} rows and {_MANY_PARTS} "
            "parts, open logs N(0, A A'), A = I with A[k+1, k] = 0.6 at every third k",
        },
    )


def _value_claims(
    name: str, frame: pd.DataFrame, expected: Mapping[tuple[str, str], float]
) -> list[Claim]:
    model = CompositionalPartialCorrelation().fit(frame)
    R = pd.DataFrame(model.partial_corr_, frame.columns, frame.columns)
    return [
        Claim.close(f"{name}: R({a}, {b})", float(R.loc[a, b]), value, absolute=_THREE_DIGITS)
        for (a, b), value in expected.items()
    ]


def _pottery_claims(frame: pd.DataFrame, model: CompositionalPartialCorrelation) -> list[Claim]:
    distance = np.abs(model.partial_var_ - POTTERY_VARIANCES).max()
    return [
        *_value_claims("Roman pottery", frame, POTTERY),
        Claim.at_most(
            "Roman pottery: largest difference of nine partial variances from the expected ones",
            float(distance),
            _THREE_DIGITS,
            expected="0",
        ),
    ]


def _cups_claims(settings: Settings) -> list[Claim]:
    """Claims on the paper's own table, where the user has it."""
    if settings.data is None:
        return []
    frame = pd.read_csv(settings.data)
    return _value_claims("Roman glass cups", frame, CUPS)


def _route_claims(frame: pd.DataFrame, model: CompositionalPartialCorrelation) -> list[Claim]:
    X = frame.to_numpy(dtype=float)
    parts = X.shape[1]
    R = model.partial_corr_
    by_regression = max(
        abs(residual_correlation(X, i, j) - R[i, j]) for i in range(parts) for j in range(i)
    )
    by_reference = 0.0
    for ref in range(parts):
        precision = np.linalg.inv(np.cov(alr(X, ref), rowvar=False))
        root = np.sqrt(np.diag(precision))
        block = np.delete(np.delete(R, ref, axis=0), ref, axis=1)
        off = ~np.eye(parts - 1, dtype=bool)
        difference = -precision / np.outer(root, root) - block
        by_reference = max(by_reference, np.abs(difference[off]).max())
    return [
        Claim.at_most(
            "regression against precision, all pairs: largest difference of R",
            float(by_regression),
            _EXACT,
            expected="0",
            strict=True,
        ),
        Claim.at_most(
            f"all {parts} references against the reference-free R: largest difference",
            float(by_reference),
            _EXACT,
            expected="0",
            strict=True,
        ),
    ]


def _log_correlation(frame: pd.DataFrame) -> NDArray:
    return np.corrcoef(np.log(frame.to_numpy(dtype=float)), rowvar=False)


def _reversal_claim(frame: pd.DataFrame, model: CompositionalPartialCorrelation) -> Claim:
    plain, partial = _log_correlation(frame), model.partial_corr_
    reversed_sign = (np.minimum(np.abs(plain), np.abs(partial)) > 0.2) & (plain * partial < 0)
    i, j = np.nonzero(np.triu(reversed_sign, 1))
    pairs = ", ".join(f"{frame.columns[a]}-{frame.columns[b]}" for a, b in zip(i, j, strict=True))
    return Claim.at_least(
        "pairs whose sign differs between correlation of logs and R, both above 0.2 in size",
        len(i),
        1,
        expected="Al-Fe",
        note=pairs,
    )


def _coverage(settings: Settings, scale: Scale) -> dict[int, float]:
    """Share of pairs whose 95 % interval covers 1/(D - 1), by number of rows."""
    true = 1 / (_CALIBRATION_PARTS - 1)
    per_block = 100  # tables a cell, so that a cell is worth its overhead
    blocks = max(1, scale.calibration_draws // per_block)

    def covered(rows: int, generator: np.random.Generator) -> float:
        hits = []
        for _ in range(min(per_block, scale.calibration_draws)):
            X = np.exp(generator.standard_normal((rows, _CALIBRATION_PARTS)))
            table = CompositionalPartialCorrelation().fit(X).inference()
            hits.append(np.mean((table.ci_low <= true) & (true <= table.ci_high)))
        return float(np.mean(hits))

    cells = [rows for rows in scale.calibration_rows for _ in range(blocks)]
    shares = sweep(
        covered,
        cells,
        random_state=settings.random_state,
        n_jobs=settings.n_jobs,
        description="calibration",
        progress=settings.progress,
    )
    table = pd.DataFrame({"rows": cells, "share": shares})
    return table.groupby("rows")["share"].mean().to_dict()


_INTENSITIES: tuple[str | float, ...] = ("auto", 0.01, 0.1, 0.5, 1.0)


def _shrinkage_errors(settings: Settings, scale: Scale) -> dict[str | float, tuple[float, float]]:
    """Intensity -> mean squared error of R off the diagonal, and the mean intensity used."""
    A = np.eye(_MANY_PARTS)
    first = np.arange(0, _MANY_PARTS - 1, 3)
    A[first + 1, first] = 0.6
    H = np.eye(_MANY_PARTS) - 1 / _MANY_PARTS
    precision = np.linalg.pinv(H @ A @ A.T @ H)
    root = np.sqrt(np.diag(precision))
    true = -precision / np.outer(root, root)
    off = ~np.eye(_MANY_PARTS, dtype=bool)

    def errors(_: int, generator: np.random.Generator) -> list[tuple[float, float]]:
        X = np.exp(generator.standard_normal((_FEW_ROWS, _MANY_PARTS)) @ A.T)
        found = []
        for intensity in _INTENSITIES:
            model = CompositionalPartialCorrelation(
                covariance="basis_shrinkage", shrinkage=intensity
            ).fit(X)
            error = np.square(model.partial_corr_ - true)[off].mean()
            found.append((float(error), model.shrinkage_))
        return found

    draws = sweep(
        errors,
        range(scale.shrinkage_draws),
        random_state=settings.random_state + 1,
        n_jobs=settings.n_jobs,
        description="shrinkage",
        progress=settings.progress,
    )
    means = np.mean(draws, axis=0)
    return {
        intensity: (float(mean[0]), float(mean[1]))
        for intensity, mean in zip(_INTENSITIES, means, strict=True)
    }


def _shrinkage_claims(errors: Mapping[Any, tuple[float, float]]) -> list[Claim]:
    return [
        Claim.at_most(
            f"{_FEW_ROWS} rows, {_MANY_PARTS} parts: squared error of R at the automatic intensity "
            f"over that at {fixed}",
            errors["auto"][0] / errors[fixed][0],
            0.5,
        )
        for fixed in (0.1, 0.01)
    ]


def _inference_table(model: CompositionalPartialCorrelation) -> Table:
    table = model.inference()
    table = table.reindex(table.r.abs().sort_values(ascending=False).index).head(12)
    return Table(
        title="Roman pottery: the twelve largest partial correlations",
        columns=("parts", "R", "t", "p adjusted", "95 % from", "to"),
        rows=tuple(
            (
                f"{row.part_i}-{row.part_j}",
                float(row.r),
                float(row.t),
                float(row.p_adjusted),
                float(row.ci_low),
                float(row.ci_high),
            )
            for row in table.itertuples()
        ),
        note="48 pots, 9 oxides; Benjamini-Hochberg over the 36 pairs.",
    )


def _coverage_table(coverage: Mapping[int, float]) -> Table:
    return Table(
        title="Coverage of 95 % intervals under independence of the open parts",
        columns=("rows", "share covered"),
        rows=tuple((rows, share) for rows, share in coverage.items()),
    )


def _shrinkage_table(errors: Mapping[Any, tuple[float, float]]) -> Table:
    return Table(
        title=f"Squared error of R, {_FEW_ROWS} rows and {_MANY_PARTS} parts",
        columns=("intensity", "mean intensity used", "mean squared error"),
        rows=tuple((str(key), used, error) for key, (error, used) in errors.items()),
    )


def _figure(frame: pd.DataFrame, model: CompositionalPartialCorrelation) -> Figure:
    labels = list(frame.columns)
    with panel("", "", title="Partial correlation") as (partial, axes):
        heat_map(axes, model.partial_corr_, labels)
    with panel("", "", title="Correlation of logs") as (plain, axes):
        heat_map(axes, _log_correlation(frame), labels)
    with panel(
        "variance of the centred log-ratio", "partial variance", title="Explained by the others"
    ) as (variances, axes):
        variance = clr(frame.to_numpy(dtype=float)).var(axis=0, ddof=1)
        axes.loglog(variance, model.partial_var_, "o")
        for name, x, y in zip(labels, variance, model.partial_var_, strict=True):
            axes.annotate(name, (x, y), xytext=(5, 2), textcoords="offset points")
    with panel("", "", title="Adjusted p below 0.05") as (graph, axes):
        _draw_graph(axes, model, labels)
    return Figure.render(
        "Parts of Roman pottery",
        "Partial correlations given all other parts beside plain correlations of logs, which "
        "closure distorts; partial variances against those of centred log-ratios; pairs whose "
        "adjusted p-value is below 0.05, solid where R is positive and dashed where negative.",
        partial,
        plain,
        variances,
        graph,
    )


def _draw_graph(axes: Any, model: CompositionalPartialCorrelation, labels: list[str]) -> None:
    """Parts on a circle, joined where they are associated."""
    angle = np.linspace(0, 2 * np.pi, len(labels), endpoint=False)
    x, y = np.cos(angle), np.sin(angle)
    for i, j in zip(*np.nonzero(np.triu(model.graph(alpha=0.05), 1)), strict=True):
        r = model.partial_corr_[i, j]
        axes.plot(
            x[[i, j]], y[[i, j]], "-" if r > 0 else "--", color="C0", linewidth=4 * abs(r), zorder=1
        )
    axes.scatter(x, y, s=420, color="C1", zorder=2)
    for name, a, b in zip(labels, x, y, strict=True):
        axes.text(a, b, name, ha="center", va="center", color="white", zorder=3)
    axes.set_aspect("equal")
    axes.margins(0.15)
    axes.axis("off")
