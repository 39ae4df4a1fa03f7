"""Breadth-first search in the demo: a whole graph of permutations, and the way home from anywhere.

Three moves on a row of n items: shift left, shift right, exchange the first two. Every arrangement
is visited, layer by layer; then a table of two bits a state gives the exact distance of each, and a
shortest path.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

import numpy as np

from rankone import _environment
from rankone.cayley import BfsResult, CayleyGraph, PermutationGroups
from rankone.cayley.analysis import fit_quasi_polynomial, growth_statistics
from rankone.demo import Options, Say
from rankone.reproduce import MUTED, Claim, Figure, Passage, Section, Table, panel
from rankone.reproduce._page import duration

PLAN = (
    "search every arrangement of a row under three moves, up to 40 million states, and read "
    "shortest paths from a table of two bits a state"
)

# The searches and the table on two cores.
_SECONDS = 5.0


@dataclass(frozen=True)
class Scale:
    """Sizes of the demo's graphs.

    Attributes:
        largest: the rows have 4 to this many items.
        table: items of the graph whose table of distances is made.
        states: random states that are brought home.
    """

    largest: int = 11
    table: int = 10
    states: int = 100


def expected_seconds(options: Options) -> float:
    """About how long this section takes."""
    return _SECONDS


def run(options: Options, say: Say) -> Section:
    """Search, fit, and walk home; the section of the report."""
    scale = replace(Scale(), **options.scale("growth"))
    start = time.perf_counter()
    say("Growth: L and R shift a row of items, X exchanges the first two.")
    results = {}
    for n in range(4, scale.largest + 1):
        results[n] = CayleyGraph(PermutationGroups.lrx(n), device="cpu").bfs()
    last = results[scale.largest]
    say(
        f"  {last.num_vertices:,} arrangements of {scale.largest} items in "
        f"{duration(last.engine_info['seconds'])}; every one is within "
        f"{last.diameter()} moves of the start"
    )
    home = _Home(scale, options.random_state)
    return Section(
        anchor="growth",
        title="A graph of all arrangements",
        lead="Two bits say how far an arrangement is from the start, modulo three. That is enough "
        "to know which move leads back, so the table answers for every arrangement.",
        claims=_claims(scale, results, home),
        tables=(_table(results),),
        figures=(_figure(scale, results),),
        passages=(home.passage(),),
        settings={
            "graph": f"LRX, n = 4 to {scale.largest}",
            "table of distances": f"n = {scale.table}",
            "random state": options.random_state,
            **_environment.describe(),
        },
        seconds=time.perf_counter() - start,
    )


class _Home:
    """Random states, their exact distances, and paths back."""

    def __init__(self, scale: Scale, random_state: int) -> None:
        self.graph = CayleyGraph(PermutationGroups.lrx(scale.table), device="cpu")
        self.table = self.graph.distance_table()
        rng = np.random.default_rng(random_state)
        self.states = np.stack([rng.permutation(scale.table) for _ in range(scale.states)])
        self.distances = self.table.distance(self.states).tolist()
        self.paths = [self.table.path(state) for state in self.states]

    def arrived(self) -> int:
        """Paths that lead home in exactly as many moves as the table says."""
        count = 0
        for state, distance, path in zip(self.states, self.distances, self.paths, strict=True):
            end = self.graph.apply_path(state, path)[0]
            count += len(path) == distance and bool((end == self.graph.central_state).all())
        return count

    def passage(self) -> Passage:
        """One state on its way home."""
        state, path = self.states[0], self.paths[0]
        names = self.graph.definition.generator_names
        lines = [f"{'':>6}  {' '.join(map(str, state.tolist()))}"]
        for move, index in enumerate(path, start=1):
            state = self.graph.apply_path(state, [index])[0].numpy()
            lines.append(f"{move:>3} {names[index]:>2}  {' '.join(map(str, state.tolist()))}")
        return Passage(
            f"A shortest way home, {len(path)} moves",
            "\n".join(lines),
            "No path is shorter: the table holds the exact distance of every arrangement.",
        )


def _claims(scale: Scale, results: dict[int, BfsResult], home: _Home) -> tuple[Claim, ...]:
    ns = list(results)
    diameters = [results[n].diameter() for n in ns]
    fit = fit_quasi_polynomial(ns, diameters)
    return (
        Claim.exact(
            "every arrangement was found once: states of the largest graph",
            results[scale.largest].num_vertices,
            math.factorial(scale.largest),
        ),
        Claim.exact(
            f"diameters for n = {ns[0]} to {ns[-1]} are n (n - 1) / 2",
            tuple(diameters),
            tuple(n * (n - 1) // 2 for n in ns),
            note="" if fit is None else f"exact fit: {fit.as_string()}",
        ),
        Claim.exact(
            f"random arrangements of {scale.states} that a path leads home in exactly the moves "
            "that the table says",
            home.arrived(),
            scale.states,
        ),
    )


def _table(results: dict[int, BfsResult]) -> Table:
    rows = []
    for n, result in results.items():
        info = result.engine_info
        rows.append(
            (
                n,
                result.num_vertices,
                result.diameter(),
                growth_statistics(result.layer_sizes)["mean"],
                info["seconds"],
                info["bytes_peak"] / 2**20,
            )
        )
    return Table(
        title="Searches",
        columns=("n", "states", "diameter", "mean distance", "seconds", "peak, MiB"),
        rows=tuple(rows),
        note="Complete searches; the peak is that of the search's own arrays.",
    )


def _figure(scale: Scale, results: dict[int, BfsResult]) -> Figure:
    last = results[scale.largest]
    with panel("distance", "arrangements", title=f"growth, n = {scale.largest}") as (left, axes):
        axes.bar(range(len(last.layer_sizes)), last.layer_sizes, width=0.9)
    with panel("n", "diameter", title="farthest arrangement") as (right, axes):
        ns = np.array(list(results))
        axes.plot(ns, ns * (ns - 1) / 2, color=MUTED, linestyle="--", label="n (n - 1) / 2")
        axes.plot(ns, [result.diameter() for result in results.values()], "o", label="found")
        axes.legend()
    return Figure.render(
        "Arrangements by their distance",
        "Left: how many arrangements are at each distance from the start. Right: the largest "
        "distance.",
        left,
        right,
    )
