"""Adaptive data analysis (arXiv 1411.2664): what reuse does to a sample, and what protects it.

Freedman's paradox with and without Thresholdout (the experiment of "The reusable holdout"), a vote
that attacks the mean, multiplicative weights under thousands of queries, and the guarantees.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from rankone._sweep import sweep
from rankone.reproduce import MUTED, Claim, Figure, Reproduction, Settings, Table, panel
from rankone.stats.adaptive import (
    EmpiricalMechanism,
    GaussianMechanism,
    PrivateMultiplicativeWeights,
    Query,
    SampleSplitting,
    Thresholdout,
    gaussian_accuracy,
    split_accuracy,
)

PLAIN, PROTECTED = "plain holdout", "Thresholdout"
_MECHANISMS = (PLAIN, PROTECTED)
_SIGNAL_COLUMNS = 20
_BETA = 0.05
# Published guarantees are quoted at these rows and queries.
_GUARANTEES = {
    (10**5, 100): 0.1014,
    (10**5, 1000): 0.1849,
    (10**5, 10**4): 0.3381,
    (10**6, 100): 0.0333,
    (10**6, 500): 0.0504,
    (10**6, 700): 0.0550,
    (10**6, 1000): 0.0603,
    (10**6, 10**4): 0.1090,
    (10**6, 10**5): 0.1975,
}


@dataclass(frozen=True)
class Scale:
    """Sizes of one run.

    Attributes:
        holdout_rows: rows of each set of Freedman's paradox, and columns.
        holdout_repeats: repetitions of it.
        columns: numbers of columns k that the classifier may use.
        gaussian_noise: also run Thresholdout with normal noise.
        vote_rows, vote_queries, vote_repeats: of the vote attack.
        universe_bits: bits of the universe of multiplicative weights.
        universe_rows, universe_repeats: its rows and repetitions.
        random_queries: half-set queries of it.
    """

    holdout_rows: int = 2500
    holdout_repeats: int = 8
    columns: tuple[int, ...] = (0, 10, 20, 30, 45, 70, 100, 150, 200, 250, 300, 400, 500)
    gaussian_noise: bool = False
    vote_rows: int = 2000
    vote_queries: tuple[int, ...] = (50, 200, 800, 1600)
    vote_repeats: int = 8
    universe_bits: int = 10
    universe_rows: int = 1000
    universe_repeats: int = 5
    random_queries: int = 2000


QUICK = Scale()
FULL = Scale(
    holdout_rows=10_000,
    holdout_repeats=100,
    gaussian_noise=True,
    vote_rows=20_000,
    vote_queries=(50, 200, 800, 1600, 5000, 19_000),
    universe_bits=14,
)


def run(settings: Settings) -> Reproduction:
    """Run the four experiments."""
    scale = settings.scale(quick=QUICK, full=FULL)
    paradox = _paradox(settings, scale)
    votes = _votes(settings, scale)
    weights = _weights(settings, scale)
    guarantees = {key: gaussian_accuracy(*key, _BETA) for key in _GUARANTEES}
    return Reproduction(
        slug="adaptive-data-analysis",
        claims=(
            *_paradox_claims(scale, paradox),
            *_vote_claims(scale, votes),
            *_weights_claims(weights),
            *_guarantee_claims(guarantees),
        ),
        tables=(
            _paradox_table(scale, paradox),
            _vote_table(scale, votes),
            _guarantee_table(guarantees),
        ),
        figures=(
            _paradox_figure(scale, paradox),
            _other_figure(scale, votes, weights, guarantees),
        ),
        settings={
            "Freedman's paradox": f"n = d = {scale.holdout_rows}, {scale.holdout_repeats} "
            f"repetitions, threshold {_threshold(scale):.3g}, tolerance {_tolerance(scale):.3g}",
            "vote attack": f"n = {scale.vote_rows}, {scale.vote_repeats} repetitions",
            "multiplicative weights": f"universe 2^{scale.universe_bits}, "
            f"n = {scale.universe_rows}, {scale.universe_repeats} repetitions",
        },
    )


def _threshold(scale: Scale) -> float:
    return 4 / math.sqrt(scale.holdout_rows)


def _tolerance(scale: Scale) -> float:
    return 1 / math.sqrt(scale.holdout_rows)


# (mechanism, with signal) -> (k, (train, reported, fresh)) mean accuracies, and columns kept.
Paradox = dict[tuple[str, bool], tuple[NDArray, float]]


def _paradox(settings: Settings, scale: Scale) -> Paradox:
    mechanisms = (
        (*_MECHANISMS, "Thresholdout, normal noise") if scale.gaussian_noise else _MECHANISMS
    )

    def repetition(signal: bool, generator: np.random.Generator) -> list[tuple[NDArray, int]]:
        sets = _paradox_data(scale.holdout_rows, signal, generator)
        return [_select(name, scale, sets, generator) for name in mechanisms]

    cells = [signal for signal in (False, True) for _ in range(scale.holdout_repeats)]
    results = sweep(
        repetition,
        cells,
        random_state=settings.random_state,
        n_jobs=settings.n_jobs,
        description="Freedman's paradox",
        progress=settings.progress,
    )
    found: Paradox = {}
    for i, name in enumerate(mechanisms):
        for signal in (False, True):
            runs = [
                result[i] for cell, result in zip(cells, results, strict=True) if cell == signal
            ]
            accuracies = np.mean([accuracy for accuracy, _ in runs], axis=0)
            found[name, signal] = accuracies, float(np.mean([kept for _, kept in runs]))
    return found


def _paradox_data(
    n: int, signal: bool, generator: np.random.Generator
) -> list[tuple[NDArray, NDArray]]:
    """Training, holdout and fresh sets: normal columns, labels of -1 and 1."""
    sets = []
    for _ in range(3):
        y = generator.choice((-1.0, 1.0), n).astype(np.float32)
        X = generator.standard_normal((n, n), dtype=np.float32)
        if signal:
            X[:, :_SIGNAL_COLUMNS] += 6 / math.sqrt(n) * y[:, None]
        sets.append((X, y))
    return sets


def _select(
    name: str, scale: Scale, sets: list[tuple[NDArray, NDArray]], generator: np.random.Generator
) -> tuple[NDArray, int]:
    """Choose columns through the mechanism: (k, 3) accuracies, and how many columns it kept.

    Correlations and accuracies go through a mechanism each. A noisy threshold is kept until it is
    crossed, so that one which has answered thousands of small gaps is likely a high one.
    """
    train, holdout, fresh = sets
    n = scale.holdout_rows
    train_correlation, holdout_correlation = (y @ X / n for X, y in (train, holdout))
    ask_correlation, ask_accuracy = (_guarded(name, scale, sets, generator) for _ in range(2))

    answers = np.array(
        [ask_correlation(a, b) for a, b in zip(train_correlation, holdout_correlation, strict=True)]
    )
    least = 1 / math.sqrt(n)
    kept = np.flatnonzero(
        (np.abs(train_correlation) > least)
        & (np.abs(answers) > least)
        & (np.sign(train_correlation) == np.sign(answers))
    )
    order = kept[np.argsort(-np.abs(train_correlation[kept]))]
    rows = []
    for k in scale.columns:
        chosen = order[:k]
        signs = np.sign(train_correlation[chosen])
        on_train, on_holdout, on_fresh = (
            _accuracy(X[:, chosen] @ signs, y) for X, y in (train, holdout, fresh)
        )
        rows.append((on_train, ask_accuracy(on_train, on_holdout), on_fresh))
    return np.array(rows), len(kept)


def _guarded(
    name: str, scale: Scale, sets: list[tuple[NDArray, NDArray]], generator: np.random.Generator
) -> Callable[[float, float], float]:
    """Answers from training and holdout values through the mechanism of that name."""
    if name == PLAIN:
        return lambda _, holdout_value: holdout_value
    train, holdout, _ = sets
    return Thresholdout(
        train,
        holdout,
        _threshold(scale),
        _tolerance(scale),
        noise="laplace" if name == PROTECTED else "gaussian",
        random_state=generator,
    ).answer_values


def _accuracy(score: NDArray, y: NDArray) -> float:
    """Share of labels that the sign of the score hits; a score of 0 is a coin toss."""
    return float(0.5 + 0.5 * np.mean(np.sign(score) * y))


def _at(scale: Scale, paradox: Paradox, key: tuple[str, bool], k: int) -> NDArray:
    return paradox[key][0][scale.columns.index(k)]


def _paradox_claims(scale: Scale, paradox: Paradox) -> list[Claim]:
    most = scale.columns[-1]
    _, plain_reported, plain_fresh = _at(scale, paradox, (PLAIN, False), most)
    gap = {
        name: np.abs(paradox[name, False][0][:, 1] - paradox[name, False][0][:, 2])
        for name in _MECHANISMS
    }
    allowed = _threshold(scale) + _tolerance(scale)
    claims = [
        Claim.at_least(
            f"no signal, plain holdout reused for {most} columns: reported accuracy",
            plain_reported,
            0.60,
            expected="0.5 is true",
        ),
        Claim.close(
            f"no signal, plain holdout, {most} columns: fresh accuracy",
            plain_fresh,
            0.5,
            absolute=0.02,
        ),
        Claim.at_least(
            "no signal, plain holdout: largest gap of reported and fresh accuracy",
            gap[PLAIN].max(),
            0.11,
        ),
        Claim.at_most(
            "no signal, Thresholdout: largest gap of reported and fresh accuracy",
            gap[PROTECTED].max(),
            allowed,
            expected="threshold + tolerance",
        ),
        Claim.at_most(
            "no signal: mean gap of Thresholdout over that of the plain holdout",
            gap[PROTECTED].mean() / gap[PLAIN].mean(),
            0.6,
            strict=True,
        ),
    ]
    for name in _MECHANISMS:
        fresh = paradox[name, True][0][:, 2]
        kept = paradox[name, True][1]
        claims += [
            Claim.exact(
                f"signal, {name}: the number of columns of the best fresh accuracy",
                scale.columns[int(np.argmax(fresh))],
                _SIGNAL_COLUMNS,
            ),
            Claim.close(
                f"signal, {name}: fresh accuracy with {_SIGNAL_COLUMNS} columns",
                _at(scale, paradox, (name, True), _SIGNAL_COLUMNS)[2],
                0.70,
                absolute=0.02,
                note=f"{kept:.0f} columns pass the mechanism on average",
            ),
        ]
    return claims


# mechanism -> error of the last answer, by number of queries
Votes = dict[str, NDArray]
_VOTERS = ("empirical", "Gaussian", "splitting")


def _votes(settings: Settings, scale: Scale) -> Votes:
    def attack(k: int, generator: np.random.Generator) -> list[float]:
        n = scale.vote_rows
        x = generator.choice((-1, 1), (n, k)).astype(np.int8)
        y = generator.choice((-1, 1), n).astype(np.int8)
        deviation = 0.15 * k**0.25 / math.sqrt(n)
        data = (x, y)
        mechanisms = (
            EmpiricalMechanism(data),
            GaussianMechanism(data, k + 1, deviation, random_state=generator),
            SampleSplitting(data, k + 1, random_state=generator),
        )
        return [_vote(mechanism.answer, k) for mechanism in mechanisms]

    cells = [k for k in scale.vote_queries for _ in range(scale.vote_repeats)]
    errors = sweep(
        attack,
        cells,
        random_state=settings.random_state + 1,
        n_jobs=settings.n_jobs,
        description="vote attack",
        progress=settings.progress,
    )
    by_size = np.reshape(errors, (len(scale.vote_queries), scale.vote_repeats, len(_VOTERS)))
    return dict(zip(_VOTERS, by_size.mean(axis=1).T, strict=True))


def _vote(answer: Callable[[Query], float], k: int) -> float:
    """Error of the vote's agreement with y, asked after each of the k columns' agreement."""
    lean = np.array([answer(partial(_agreement, column=j)) for j in range(k)])
    signs = np.sign(lean - 0.5)
    return abs(answer(lambda data: (1 + np.sign(data[0] @ signs) * data[1]) / 2) - 0.5)


def _agreement(data: tuple[NDArray, NDArray], column: int) -> NDArray:
    """1 where the column has the sign of y, else 0."""
    x, y = data
    return (1.0 + x[:, column] * y) / 2


def _slope(scale: Scale, errors: NDArray) -> float:
    return float(np.polyfit(np.log(scale.vote_queries), np.log(errors), 1)[0])


def _vote_claims(scale: Scale, votes: Votes) -> list[Claim]:
    slopes = {name: _slope(scale, votes[name]) for name in ("empirical", "Gaussian")}
    many = np.array(scale.vote_queries) >= 800
    ratio = votes["empirical"][many] / votes["Gaussian"][many]
    others = np.maximum(votes["empirical"], votes["Gaussian"])
    return [
        Claim.close(
            "vote attack: log-log slope of the empirical error in the queries",
            slopes["empirical"],
            0.465,
            absolute=0.085,
        ),
        Claim.close(
            "vote attack: log-log slope of the error with Gaussian noise",
            slopes["Gaussian"],
            0.35,
            absolute=0.1,
        ),
        Claim.at_most(
            "vote attack: slope with noise less the empirical slope",
            slopes["Gaussian"] - slopes["empirical"],
            0,
            strict=True,
        ),
        Claim.at_least(
            "vote attack: empirical error over that with noise, least from 800 queries on",
            ratio.min() if many.any() else math.nan,
            1.4,
            strict=True,
        ),
        Claim.at_least(
            "vote attack: error of splitting less the worst other, least over all sizes",
            float((votes["splitting"] - others).min()),
            0,
            strict=True,
            expected="splitting is worst",
        ),
    ]


@dataclass(frozen=True)
class Weights:
    """Multiplicative weights under adaptive queries; means over repetitions.

    Attributes:
        last, last_empirical: error of the last, voted query through it and of the plain mean.
        largest: largest error of any answer.
        update_share: updates over queries.
        threshold: T of the mechanism.
        trace: errors of the first repetition, one a query.
        updates: which of them were updates.
    """

    last: float
    last_empirical: float
    largest: float
    update_share: float
    threshold: float
    trace: NDArray
    updates: NDArray


_WEIGHTS_THRESHOLD = 0.06


def _weights(settings: Settings, scale: Scale) -> Weights:
    results = sweep(
        lambda _, generator: _weights_repetition(scale, generator),
        range(scale.universe_repeats),
        random_state=settings.random_state + 2,
        n_jobs=settings.n_jobs,
        description="multiplicative weights",
        progress=settings.progress,
    )
    errors, updates, empirical = zip(*results, strict=True)
    return Weights(
        last=float(np.mean([trace[-1] for trace in errors])),
        last_empirical=float(np.mean(empirical)),
        largest=float(np.max(errors)),
        update_share=float(np.mean(updates)),
        threshold=_WEIGHTS_THRESHOLD,
        trace=errors[0],
        updates=updates[0],
    )


def _weights_repetition(
    scale: Scale, generator: np.random.Generator
) -> tuple[NDArray, NDArray, float]:
    """Errors and updates, one a query, and the error of the plain mean on its own voted query."""
    bits = scale.universe_bits
    size = 1 << bits
    table = (np.arange(size)[:, None] >> np.arange(bits)) & 1
    chance = generator.uniform(0.25, 0.75, bits)
    population = np.prod(np.where(table, chance, 1 - chance), axis=1)
    indices = generator.choice(size, scale.universe_rows, p=population / population.sum())
    mechanism = PrivateMultiplicativeWeights(
        indices, size, _WEIGHTS_THRESHOLD, 0.006, max_updates=400, random_state=generator
    )
    sample = np.bincount(indices, minlength=size) / scale.universe_rows

    fixed = [table[:, i] * table[:, j] for i in range(bits) for j in range(i + 1)] * 6
    random = (generator.random((scale.random_queries, size)) < 0.5).astype(np.float32)
    errors = [mechanism.answer(q) - population @ q for q in [*fixed, *random]]
    voted = _voted(random, np.array(errors[len(fixed) :]))
    errors.append(mechanism.answer(voted) - population @ voted)
    plain = _voted(random, random @ (sample - population))
    updates = np.array([entry.kind == "update" for entry in mechanism.history_])
    return np.abs(errors), updates, float(abs((sample - population) @ plain))


def _voted(queries: NDArray, errors: NDArray) -> NDArray:
    """The set of elements on which queries answered too high outvote those answered too low."""
    return (np.sign(errors) @ (queries - 0.5) > 0).astype(float)


def _weights_claims(weights: Weights) -> list[Claim]:
    return [
        Claim.at_most(
            "multiplicative weights: error of the last, adaptive query",
            weights.last,
            0.10,
            strict=True,
        ),
        Claim.at_most(
            "multiplicative weights: that error over the plain mean's",
            weights.last / weights.last_empirical,
            0.5,
            strict=True,
        ),
        Claim.at_most(
            "multiplicative weights: share of queries that cost an update",
            weights.update_share,
            0.2,
            strict=True,
        ),
        Claim.at_most(
            "multiplicative weights: largest error of any answer",
            weights.largest,
            weights.threshold + 0.08,
            strict=True,
            expected="threshold + 0.08",
        ),
    ]


def _guarantee_claims(guarantees: Mapping[tuple[int, int], float]) -> list[Claim]:
    claims = [
        Claim.close(
            f"guaranteed accuracy with Gaussian noise, n = {n}, {m} queries",
            value,
            _GUARANTEES[n, m],
            relative=0.01,
        )
        for (n, m), value in guarantees.items()
    ]
    n = 10**6
    sides = [guarantees[n, m] - split_accuracy(n, m, _BETA) for m in (500, 700)]
    claims.append(
        Claim.exact(
            f"at n = {n} splitting is better at 500 queries and noise at 700",
            "yes" if sides[0] > 0 > sides[1] else "no",
            "yes",
        )
    )
    return claims


def _paradox_table(scale: Scale, paradox: Paradox) -> Table:
    rows = []
    for (name, signal), (accuracy, kept) in paradox.items():
        for k in sorted({_SIGNAL_COLUMNS, 100, scale.columns[-1]} & set(scale.columns)):
            train, reported, fresh = map(float, accuracy[scale.columns.index(k)])
            rows.append(("yes" if signal else "no", name, k, train, reported, fresh, kept))
    return Table(
        title="Freedman's paradox: mean accuracies",
        columns=("signal", "holdout", "columns", "training", "reported", "fresh", "columns kept"),
        rows=tuple(rows),
        note="Thresholdout lets more columns pass, so that with many columns its fresh accuracy "
        "under a signal is the lower one.",
    )


def _vote_table(scale: Scale, votes: Votes) -> Table:
    return Table(
        title=f"Vote attack on {scale.vote_rows} rows: error of the last answer",
        columns=("mechanism", *(f"{k} queries" for k in scale.vote_queries)),
        rows=tuple((name, *map(float, errors)) for name, errors in votes.items()),
        note="Every true answer is 1/2.",
    )


def _guarantee_table(guarantees: Mapping[tuple[int, int], float]) -> Table:
    return Table(
        title="Guaranteed accuracy except with probability 0.05",
        columns=("rows", "queries", "Gaussian noise", "splitting"),
        rows=tuple(
            (n, m, value, min(1.0, split_accuracy(n, m, _BETA)))
            for (n, m), value in guarantees.items()
        ),
    )


def _paradox_figure(scale: Scale, paradox: Paradox) -> Figure:
    panels = []
    for signal in (False, True):
        title = "With signal" if signal else "Without signal"
        with panel("columns used", "accuracy", title=title) as (drawing, axes):
            for i, name in enumerate(_MECHANISMS):
                accuracy = paradox[name, signal][0]
                axes.plot(scale.columns, accuracy[:, 1], color=f"C{i}", label=f"{name}: reported")
                axes.plot(
                    scale.columns, accuracy[:, 2], "--", color=f"C{i}", label=f"{name}: fresh"
                )
            axes.legend(fontsize=8)
        panels.append(drawing)
    return Figure.render(
        "Reusing a holdout",
        "Accuracy that the holdout reports (solid) and that fresh data show (dashed), against the "
        "number of columns chosen with its help.",
        *panels,
    )


def _other_figure(
    scale: Scale, votes: Votes, weights: Weights, guarantees: Mapping[tuple[int, int], float]
) -> Figure:
    with panel("queries", "error of the last answer", title="Vote attack") as (vote, axes):
        for name, errors in votes.items():
            axes.loglog(scale.vote_queries, errors, "o-", label=name)
        axes.legend()
    with panel("query", "error", title="Multiplicative weights") as (trace, axes):
        axes.plot(weights.trace, linewidth=0.6, color=MUTED)
        where = np.flatnonzero(weights.updates)
        axes.plot(where, weights.trace[where], ".", markersize=3, color="C1", label="updates")
        axes.axhline(weights.threshold, linestyle="--", linewidth=1, color="C0", label="threshold")
        axes.legend()
    with panel("queries", "guaranteed accuracy", title="Guarantees, a million rows") as (
        bound,
        axes,
    ):
        sizes = [m for n, m in guarantees if n == 10**6]
        axes.loglog(sizes, [guarantees[10**6, m] for m in sizes], "o-", label="Gaussian noise")
        axes.loglog(
            sizes, [min(1, split_accuracy(10**6, m, _BETA)) for m in sizes], "o-", label="splitting"
        )
        axes.loglog(
            sizes,
            [split_accuracy(10**6, m, _BETA) / math.sqrt(m) for m in sizes],
            "o-",
            label="fixed queries",
        )
        axes.legend()
    return Figure.render(
        "Attacks and guarantees",
        "Left: a weighted vote of queries that are all pure noise. Middle: errors of one run, "
        "updates marked. Right: what is guaranteed except with probability 0.05; fixed queries "
        "are not adaptive.",
        vote,
        trace,
        bound,
    )
