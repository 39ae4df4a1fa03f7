"""Does sparsity help in learning misspecified linear bandits? (arXiv 2303.16998)

Elimination of sparse candidates against dense optimal design on the instance that misleads the
latter and on random ones; how many queries the near-orthogonal instance takes; and recovery from
few random signs. Everything is generated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rankone._sweep import sweep
from rankone.reproduce import SERIES, Claim, Figure, Reproduction, Settings, Table, panel
from rankone.rl.misspecified_bandit import (
    DenseDesign,
    MisspecifiedBandit,
    SparseElimination,
    SparseRecovery,
    near_orthogonal_instance,
    random_instance,
    spread_instance,
)

# Of the E8 code: lines, the largest inner product, and its misspecification level.
_E8_ARMS = 120
_E8_EPSILON = 0.25
_E8_DIM = 8


@dataclass(frozen=True)
class Scale:
    """Sizes of one run.

    Attributes:
        spread_dims, spread_sparsity: d and s of the spread instances.
        spread_epsilon: their misspecification.
        random_arms, random_dim, random_sparsity: of the random sphere instances.
        random_epsilons: their misspecifications.
        random_seeds: instances a misspecification.
        code_runs: random best arms of the E8 instance.
        recovery_arms, recovery_dim, recovery_sparsity: of the instances of random signs.
        recovery_epsilon: their misspecification.
        recovery_seeds: instances a sparsity.
    """

    spread_dims: tuple[int, ...] = (16, 36, 64)
    spread_sparsity: tuple[int, ...] = (1, 2)
    spread_epsilon: float = 0.1
    random_arms: int = 400
    random_dim: int = 20
    random_sparsity: int = 2
    random_epsilons: tuple[float, ...] = (0.2, 0.1, 0.05)
    random_seeds: int = 10
    code_runs: int = 12
    recovery_arms: int = 600
    recovery_dim: int = 120
    recovery_sparsity: tuple[int, ...] = (2,)
    recovery_epsilon: float = 0.05
    recovery_seeds: int = 8


QUICK = Scale()
FULL = Scale(
    spread_dims=(16, 36, 64, 100),
    code_runs=100,
    recovery_sparsity=(2, 4, 8),
)


def run(settings: Settings) -> Reproduction:
    """The four experiments, each against what the derivation says."""
    scale = settings.scale(quick=QUICK, full=FULL)
    spread = _sweep(
        settings,
        _spread,
        [(d, scale.spread_epsilon, s) for s in scale.spread_sparsity for d in scale.spread_dims],
        "spread instances",
    )
    random = _sweep(
        settings,
        _random,
        [(scale, e) for e in scale.random_epsilons for _ in range(scale.random_seeds)],
        "random instances",
    )
    code = _sweep(settings, _code, [None] * scale.code_runs, "E8 instances")
    recovery = _sweep(
        settings,
        _recovery,
        [(scale, s) for s in scale.recovery_sparsity for _ in range(scale.recovery_seeds)],
        "recovery from random signs",
    )
    return Reproduction(
        slug="misspecified-sparse-bandit",
        claims=(
            *_spread_claims(spread),
            *_random_claims(random),
            *_code_claims(code),
            *_recovery_claims(recovery, scale),
        ),
        tables=(_spread_table(spread), _random_table(random), _recovery_table(recovery)),
        figures=(_figure(spread, code),),
        settings={
            "noise": "none: one pull a query",
            "random instances": f"{scale.random_arms} arms on the sphere, d={scale.random_dim}, "
            f"s={scale.random_sparsity}",
            "constants": "those of the derivation, at which the guarantees hold",
        },
    )


def _sweep(settings: Settings, function, cells: list, description: str) -> list:
    return sweep(
        function,
        cells,
        random_state=settings.random_state,
        n_jobs=settings.n_jobs,
        description=description,
        progress=settings.progress,
    )


def _spread(cell: tuple[int, float, int], rng: np.random.Generator) -> dict:
    d, epsilon, s = cell
    bandit = spread_instance(d, epsilon, s)
    dense = DenseDesign().fit(bandit)
    bandit.reset()
    sparse = SparseElimination(s, epsilon).fit(bandit)
    return {
        "d": d,
        "s": s,
        "dense": bandit.suboptimality(dense.best_arm_) / epsilon,
        "sparse": bandit.suboptimality(sparse.best_arm_) / epsilon,
        "queries": sparse.n_queries_,
        "net": sparse.n_candidates_,
    }


def _random(cell: tuple[Scale, float], rng: np.random.Generator) -> dict:
    scale, epsilon = cell
    bandit = random_instance(
        scale.random_arms,
        scale.random_dim,
        scale.random_sparsity,
        epsilon,
        seed=int(rng.integers(2**32)),
    )
    dense = DenseDesign().fit(bandit)
    bandit.reset()
    model = SparseElimination(scale.random_sparsity, epsilon).fit(bandit)
    return {
        "epsilon": epsilon,
        "dense": bandit.suboptimality(dense.best_arm_) / epsilon,
        "loss": bandit.suboptimality(model.best_arm_) / epsilon,
        "queries": model.n_queries_,
        "net": model.n_candidates_,
    }


def _code(cell: None, rng: np.random.Generator) -> dict:
    best = int(rng.integers(_E8_ARMS))
    bandit = near_orthogonal_instance("e8", _E8_EPSILON, best)
    model = SparseElimination(
        _E8_DIM, _E8_EPSILON, method="polytope", random_state=int(rng.integers(2**31))
    ).fit(bandit)
    return {"queries": model.n_queries_, "found": model.best_arm_ == best}


def _recovery(cell: tuple[Scale, int], rng: np.random.Generator) -> dict:
    """Errors of epsilon with the sign of a second sparse vector, which mimic a parameter."""
    scale, s = cell
    epsilon = scale.recovery_epsilon
    base = random_instance(
        scale.recovery_arms,
        scale.recovery_dim,
        s,
        epsilon,
        features="rademacher",
        seed=int(rng.integers(2**32)),
    )
    mimic = np.zeros(scale.recovery_dim)
    mimic[rng.choice(scale.recovery_dim, s, replace=False)] = 1
    error = epsilon * np.sign(base.features @ mimic)
    bandit = MisspecifiedBandit(base.features, base.theta, error)
    model = SparseRecovery(s, epsilon, random_state=int(rng.integers(2**31))).fit(bandit)
    queried = bandit.queried
    theta = np.linalg.lstsq(bandit.features[queried], bandit.rewards[queried], rcond=None)[0]
    least = int(np.argmax(bandit.features @ theta))
    return {
        "s": s,
        "queries": model.n_queries_,
        "loss": bandit.suboptimality(model.best_arm_) / epsilon,
        "least_squares": bandit.suboptimality(least) / epsilon,
    }


def _spread_claims(spread: list[dict]) -> list[Claim]:
    claims = [
        Claim.close(
            f"dense design, spread instance, s = 1, d = {cell['d']}: loss / epsilon",
            cell["dense"],
            0.8 * math.sqrt(cell["d"]) + 1.208,
            relative=1e-9,
            note="0.8 sqrt(d) + 1.208, exactly.",
        )
        for cell in spread
        if cell["s"] == 1
    ]
    for s in sorted({cell["s"] for cell in spread} - {1}):
        cells = [cell for cell in spread if cell["s"] == s]
        claims.append(
            Claim.increasing(
                f"dense design, spread instance, s = {s}: loss / epsilon grows with sqrt(d)",
                [cell["dense"] for cell in cells],
            )
        )
    claims.append(
        Claim.at_most(
            "elimination, spread instances: largest loss / epsilon",
            max(cell["sparse"] for cell in spread),
            4,
        )
    )
    return claims


def _random_claims(random: list[dict]) -> list[Claim]:
    return [
        Claim.at_most(
            "elimination, random instances: largest loss / epsilon",
            max(cell["loss"] for cell in random),
            4,
        ),
        Claim.at_most(
            "elimination, random instances: most queries over the size of the net",
            max(cell["queries"] / cell["net"] for cell in random),
            0.01,
            expected="far below 1",
        ),
    ]


def _code_claims(code: list[dict]) -> list[Claim]:
    counts = np.array([cell["queries"] for cell in code])
    # A uniform place among 120 arms has this standard deviation.
    spread = math.sqrt((_E8_ARMS**2 - 1) / 12 / len(code))
    return [
        Claim.close(
            "E8 instance: mean queries with a random best arm",
            float(counts.mean()),
            (_E8_ARMS + 1) / 2,
            absolute=3 * spread,
            note="No algorithm needs fewer than (K + 1) / 2 in the mean; the tolerance is three "
            "standard deviations of the mean.",
        ),
        Claim.exact(
            "E8 instance: share of runs that find the best arm",
            float(np.mean([cell["found"] for cell in code])),
            1.0,
        ),
    ]


def _recovery_claims(recovery: list[dict], scale: Scale) -> list[Claim]:
    claims = []
    for s in scale.recovery_sparsity:
        cells = [cell for cell in recovery if cell["s"] == s]
        what = f"s = {s}, {cells[0]['queries']} random arms of random signs"
        losses = [cell["loss"] for cell in cells]
        claims += [
            Claim.at_most(f"l1 recovery, {what}: largest loss / epsilon", max(losses), 4),
            Claim.at_least(
                f"least squares of smallest norm over l1 recovery, {what}: mean losses / epsilon, "
                "difference",
                float(np.mean([cell["least_squares"] for cell in cells]) - np.mean(losses)),
                0,
                strict=True,
            ),
        ]
    return claims


def _spread_table(spread: list[dict]) -> Table:
    return Table(
        title="Loss over epsilon on the spread instances",
        columns=("s", "d", "dense design", "elimination", "queries", "size of the net"),
        rows=tuple(
            (c["s"], c["d"], c["dense"], c["sparse"], c["queries"], c["net"]) for c in spread
        ),
    )


def _random_table(random: list[dict]) -> Table:
    rows = []
    for epsilon in dict.fromkeys(cell["epsilon"] for cell in random):
        cells = [cell for cell in random if cell["epsilon"] == epsilon]
        rows.append(
            (
                epsilon,
                float(np.mean([cell["dense"] for cell in cells])),
                float(np.mean([cell["loss"] for cell in cells])),
                max(cell["loss"] for cell in cells),
                max(cell["queries"] for cell in cells),
                cells[0]["net"],
            )
        )
    return Table(
        title="Random instances: loss over epsilon",
        columns=(
            "epsilon",
            "dense design, mean",
            "elimination, mean",
            "elimination, largest",
            "most queries",
            "size of the net",
        ),
        rows=tuple(rows),
        note="On random features dense design is no worse: only the hard instances tell them "
        "apart.",
    )


def _recovery_table(recovery: list[dict]) -> Table:
    rows = []
    for s in dict.fromkeys(cell["s"] for cell in recovery):
        cells = [cell for cell in recovery if cell["s"] == s]
        losses = [cell["loss"] for cell in cells]
        least = [cell["least_squares"] for cell in cells]
        rows.append((s, cells[0]["queries"], float(np.mean(losses)), max(losses),
                     float(np.mean(least)), max(least)))  # fmt: skip
    return Table(
        title="Recovery from random signs: loss over epsilon",
        columns=(
            "s",
            "queries",
            "l1, mean",
            "l1, largest",
            "least squares, mean",
            "least squares, largest",
        ),
        rows=tuple(rows),
    )


def _figure(spread: list[dict], code: list[dict]) -> Figure:
    roots = np.array(sorted({math.sqrt(cell["d"]) for cell in spread}))
    with panel("sqrt(d)", "loss / epsilon") as (losses, axes):
        for color, s in zip(SERIES, sorted({cell["s"] for cell in spread}), strict=False):
            cells = [cell for cell in spread if cell["s"] == s]
            x = [math.sqrt(cell["d"]) for cell in cells]
            axes.plot(x, [c["dense"] for c in cells], "o-", color=color, label=f"dense, s = {s}")
            axes.plot(
                x, [c["sparse"] for c in cells], "s--", color=color, label=f"elimination, s = {s}"
            )
        axes.plot(roots, 0.8 * roots + 1.208, ":", color=SERIES[3], label="0.8 sqrt(d) + 1.208")
        axes.axhline(4, color=SERIES[4], linewidth=1, label="guarantee: 4")
        axes.legend()
    with panel("queries, E8 instance", "runs") as (counts, axes):
        queries = [cell["queries"] for cell in code]
        axes.hist(queries, bins=list(range(0, _E8_ARMS + 1, 10)), color=SERIES[0])
        axes.axvline((_E8_ARMS + 1) / 2, color=SERIES[1], label="(K + 1) / 2")
        axes.legend()
    return Figure.render(
        "Sparsity removes the factor sqrt(d), and cannot beat a hidden arm",
        "Left: loss over epsilon on the spread instances. Right: queries of the polytope form "
        f"until the best of 120 near-orthogonal arms is found, {len(code)} runs.",
        losses,
        counts,
    )
