"""CayleyPy Growth (arXiv 2509.19162): diameters, extremal elements, fits, engines, learned beams.

Everything is computed from generators by complete searches; nothing is downloaded. A fit of a table
is a statement about the table: the conjecture that the diameter of every polynomial-time family is
quasi-polynomial is false as printed (all transpositions for n not a square and products of at most
three of them for squares is a counterexample), so fits are named with their range.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from rankone._timing import torch_threads
from rankone.cayley import CayleyGraph, CayleyGraphDef, MatrixGroups, PermutationGroups
from rankone.cayley.algo.bfs_result import BfsResult
from rankone.cayley.analysis import (
    QuasiPolynomial,
    fit_quasi_polynomial,
    growth_statistics,
    max_diameter_search,
    plot_diameters,
)
from rankone.cayley.train import train_predictor
from rankone.reproduce import MUTED, Claim, Figure, Reproduction, Settings, Table, panel

Family = Callable[[int], CayleyGraphDef]

_G = PermutationGroups


@dataclass(frozen=True)
class Scale:
    """Sizes of one run.

    Attributes:
        lrx: n of the claims about LRX.
        unique_farthest: n of the claim about its farthest element.
        lx: n of the claims about LX and of its fit.
        bound_n, bound_edges: the bound on all families is checked for graphs with n up to the
            first and states times generators up to the second.
        whiskers: n of the extremal search.
        unitriangular_3, unitriangular_4: moduli.
        gaussian: n of the claims about the shape of growth of Coxeter graphs, from a closed form.
        lrx_shape: n of the same for LRX.
        speed_n: n of LRX for the engines' times.
        speed_repeats: rounds.
        bitarray_ratio, hash_ratio: how many times as fast as the torch engine they must be.
        beam_n, beam_states, beam_width, beam_steps: LRX of the learned beam, and its search.
        walk_length, hidden: of its training.
        fewest_found: of ``beam_states``.
    """

    lrx: tuple[int, ...] = tuple(range(4, 12))
    unique_farthest: tuple[int, ...] = tuple(range(5, 11))
    lx: tuple[int, ...] = tuple(range(3, 13))
    bound_n: int = 9
    bound_edges: int = 4_000_000
    whiskers: tuple[int, ...] = (5, 6, 7)
    unitriangular_3: tuple[int, ...] = (11, 13, 17, 19, 23, 29, 31, 37)
    unitriangular_4: tuple[int, ...] = (11,)
    gaussian: tuple[int, ...] = (8, 10, 12)
    lrx_shape: tuple[int, ...] = (8, 9, 10, 11, 12)
    speed_n: int = 10
    speed_repeats: int = 3
    bitarray_ratio: float = 10.0
    hash_ratio: float = 2.5
    beam_n: int = 10
    beam_states: int = 20
    beam_width: int = 300
    beam_steps: int = 200
    walk_length: int = 48
    hidden: tuple[int, ...] = (128, 64)
    fewest_found: int = 19


QUICK = Scale()
FULL_CPU = Scale(
    lrx=tuple(range(4, 14)),
    lx=tuple(range(3, 14)),
    bound_edges=400_000_000,
    unitriangular_4=(11, 13),
    speed_n=11,
    bitarray_ratio=25.0,
    hash_ratio=3.5,
)
# 14! states take 22 GB, and a CPU hours.
FULL_CUDA = replace(FULL_CPU, lx=tuple(range(3, 15)))

# Largest diameters over exhaustive searches: of all pairs with inverses and involution triples,
# and of pairs alone.
_EXTREMAL = {5: (10, 10), 6: (16, 15), 7: (30, 28)}
# Kolmogorov-Smirnov distance of Coxeter growth from the normal distribution.
_COXETER_KS = {8: 0.0061, 10: 0.0050, 12: 0.0042}


def run(settings: Settings) -> Reproduction:
    """Searches, fits, shapes, engines and learned beams."""
    full = FULL_CUDA if torch.device(settings.device).type == "cuda" else FULL_CPU
    scale = settings.scale(quick=QUICK, full=full)
    results = _Searches(settings)
    claims = [
        *_lrx_claims(scale, results),
        *_lx_claims(scale, results),
        *_fit_claims(scale, results),
        _bound_claim(scale, settings, results),
        *_extremal_claims(scale, settings),
        *_unitriangular_claims(scale, results),
        *_shape_claims(scale, results),
        _engines_claim(settings),
    ]
    speed_claims, speed_table, rates = _speed(scale, settings)
    beam_claims, beam_table = _learned_beam(scale, settings)
    claims += [*speed_claims, *beam_claims]
    tables = [_diameter_table(results), speed_table, beam_table]
    figures = [_growth_figure(scale, results)]
    if settings.full:
        figures.append(_speed_figure(rates))
    return Reproduction(
        slug="cayley-growth",
        claims=tuple(claims),
        tables=tuple(tables),
        figures=tuple(figures),
        settings={
            "LRX": f"n = {scale.lrx[0]} to {scale.lrx[-1]}",
            "LX": f"n = {scale.lx[0]} to {scale.lx[-1]}",
            "learned beam": f"LRX-{scale.beam_n}, width {scale.beam_width}, hidden sizes "
            + " and ".join(map(str, scale.hidden)),
        },
    )


class _Searches:
    """Complete searches by name, each made once."""

    def __init__(self, settings: Settings) -> None:
        self._found: dict[str, BfsResult] = {}
        self._device = settings.device

    def __call__(self, definition: CayleyGraphDef) -> BfsResult:
        if definition.name not in self._found:
            graph = CayleyGraph(definition, device=self._device)
            result = graph.bfs(max_layer_size_to_store=0)
            if not result.bfs_completed:
                raise RuntimeError(
                    f"the search of {definition.name} stopped: {result.engine_info['status']}"
                )
            self._found[definition.name] = result
        return self._found[definition.name]

    def diameter(self, definition: CayleyGraphDef) -> int:
        return self(definition).diameter()

    def diameters(self, family: Family, ns: Sequence[int]) -> tuple[int, ...]:
        return tuple(self.diameter(family(n)) for n in ns)

    @property
    def all(self) -> dict[str, BfsResult]:
        return self._found


def _range(ns: Sequence[int]) -> str:
    if len(ns) > 2 and list(ns) == list(range(ns[0], ns[-1] + 1)):
        return f"n = {ns[0]} to {ns[-1]}"
    return "n = " + ", ".join(map(str, ns))


def _lrx_claims(scale: Scale, results: _Searches) -> list[Claim]:
    claims = [
        Claim.exact(
            f"diameter of LRX, {_range(scale.lrx)}: n (n - 1) / 2",
            results.diameters(_G.lrx, scale.lrx),
            tuple(n * (n - 1) // 2 for n in scale.lrx),
        )
    ]
    farthest = []
    for n in scale.unique_farthest:
        layer = results(_G.lrx(n)).last_layer().tolist()
        farthest.append(int(layer == [[1, 0, *range(n - 1, 1, -1)]]))
    claims.append(
        Claim.exact(
            "the farthest element of LRX is [1, 0, n-1, n-2, ..., 2] alone, "
            f"{_range(scale.unique_farthest)}: 1 where it is",
            tuple(farthest),
            (1,) * len(farthest),
        )
    )
    return claims


def _lx_formula(n: int) -> int:
    return (3 * n * n - 8 * n + (9 if n % 2 else 12)) // 4


def _lx_claims(scale: Scale, results: _Searches) -> list[Claim]:
    ns = [n for n in scale.lx if n >= 5]
    return [
        Claim.exact(
            f"diameter of LX, {_range(ns)}: (3n^2 - 8n + 9) / 4 for odd n, "
            "(3n^2 - 8n + 12) / 4 for even n",
            results.diameters(_G.lx, ns),
            tuple(map(_lx_formula, ns)),
        )
    ]


def _fit(family: Family, ns: Sequence[int], results: _Searches) -> QuasiPolynomial | None:
    return fit_quasi_polynomial(ns, results.diameters(family, ns))


def _fit_claims(scale: Scale, results: _Searches) -> list[Claim]:
    claims = []
    lrx = (3, *scale.lrx) if scale.lrx[0] == 4 else scale.lrx
    for name, family, ns, expected in (
        ("LX", _G.lx, scale.lx, (2, 2, 5)),
        ("LRX", _G.lrx, lrx, (1, 2, 4)),
    ):
        fit = _fit(family, ns, results)
        claims.append(
            Claim.exact(
                f"exact fit of the diameters of {name}, {_range(ns)}: period, degree, first n",
                (-1, -1, -1) if fit is None else (fit.period, fit.degree, fit.n_min),
                expected,
                note="no fit" if fit is None else fit.as_string(),
            )
        )
    return claims


# Families that are inverse-closed for every n, or made so; with two numbers, all that make sense.
_CLOSED: tuple[Callable[[int], list[CayleyGraphDef]], ...] = (
    *(
        (lambda n, family=family: [family(n)])
        for family in (
            _G.all_transpositions,
            _G.transposons,
            _G.block_interchange,
            _G.full_reversals,
            _G.coxeter,
            _G.cyclic_coxeter,
            _G.pancake,
            _G.three_cycles,
            _G.derangements,
            _G.stars,
            _G.rapaport_m1,
            _G.rapaport_m2,
            _G.all_cycles,
            _G.lsl_cycles,
            _G.square_with_whiskers,
        )
    ),
    lambda n: [_G.lrx(n, k) for k in range(1, n // 2 + 1)],
    lambda n: [_G.top_spin(n, k) for k in range(2, n + 1)],
    lambda n: [_G.cubic_pancake(n, subset) for subset in range(1, 8)],
    lambda n: [_G.generalized_stars(n, k) for k in range(1, n)],
    lambda n: [_G.three_cycles_01i(n)],
    lambda n: [_G.three_cycles_0ij(n)],
    lambda n: [_G.involutive_derangements(n)] if n % 2 == 0 else [],
    lambda n: [_G.wrapped_k_cycles(n, k).make_inverse_closed() for k in range(2, n)],
    lambda n: [_G.increasing_k_cycles(n, k).make_inverse_closed() for k in range(2, n)],
    lambda n: [_G.consecutive_k_cycles(n, k).make_inverse_closed() for k in range(2, n)],
    lambda n: [
        definition.make_inverse_closed()
        for family in (_G.lx, _G.larx, _G.down_cycles, _G.prefix_cycles)
        for definition in (family(n),)
    ],
)


def _closed_families(n: int) -> list[CayleyGraphDef]:
    """Every predefined inverse-closed permutation family on n points that takes this n."""
    found = {}
    for family in _CLOSED:
        try:
            definitions = family(n)
        except ValueError:
            continue  # the family begins later
        for definition in definitions:
            if definition.generators_inverse_closed:
                found[definition.name] = definition
    return list(found.values())


def _bound_claim(scale: Scale, settings: Settings, results: _Searches) -> Claim:
    checked, violations, largest = 0, 0, 0.0
    for n in settings.track(range(4, scale.bound_n + 1), "bounding families"):
        for definition in _closed_families(n):
            if _size(n) * definition.n_generators > scale.bound_edges:
                continue
            share = results.diameter(definition) / (n * n / 2 + 4 * n)
            checked += 1
            violations += share > 1
            largest = max(largest, share)
    return Claim.exact(
        f"predefined inverse-closed families, 4 <= n <= {scale.bound_n}, with a diameter above "
        "n^2/2 + 4n",
        violations,
        0,
        note=f"{checked} graphs, those of at most {scale.bound_edges:,} states times generators; "
        f"the largest share of the bound is {largest:.2f}",
    )


def _size(n: int) -> int:
    size = 1
    for factor in range(2, n + 1):
        size *= factor
    return size


def _extremal_claims(scale: Scale, settings: Settings) -> list[Claim]:
    claims = []
    for n in settings.track(scale.whiskers, "searching all generating sets"):
        largest, of_pairs = _EXTREMAL[n]
        pairs = max_diameter_search(n, "pairs")
        triples = max_diameter_search(n, "involution_triples")
        whiskers = CayleyGraph(_G.square_with_whiskers(n), device="cpu").diameter()
        claims.append(
            Claim.exact(
                f"square with whiskers, n = {n}: its diameter, the largest over all pairs with "
                "inverses and involution triples, the largest over pairs",
                (whiskers, max(pairs.diameter, triples.diameter), pairs.diameter),
                (largest, largest, of_pairs),
                note=f"{pairs.n_sets} pairs and {triples.n_sets} triples up to conjugation",
            )
        )
    return claims


def _unitriangular_claims(scale: Scale, results: _Searches) -> list[Claim]:
    claims = []
    for n, moduli in ((3, scale.unitriangular_3), (4, scale.unitriangular_4)):
        claims.append(
            Claim.exact(
                f"diameter of UT_{n}(Z/p), p = {', '.join(map(str, moduli))}: {n - 1} floor(p/2)",
                tuple(results.diameter(MatrixGroups.unitriangular(n, p)) for p in moduli),
                tuple((n - 1) * (p // 2) for p in moduli),
            )
        )
    return claims


def _inversions(n: int) -> list[int]:
    """Growth of the Coxeter graph: coefficients of the product of 1 + q + ... + q^(i-1), i <= n."""
    sizes = np.array([1], dtype=object)
    for i in range(2, n + 1):
        sizes = np.convolve(sizes, np.ones(i, dtype=object))
    return [int(size) for size in sizes]


def _shape_claims(scale: Scale, results: _Searches) -> list[Claim]:
    claims = []
    for n in scale.gaussian:
        claims.append(
            Claim.close(
                f"Coxeter growth, n = {n}: Kolmogorov-Smirnov distance from the normal "
                "distribution",
                growth_statistics(_inversions(n))["ks_normal"],
                _COXETER_KS[n],
                absolute=0.0005,
            )
        )
    for n in scale.lrx_shape:
        facts = growth_statistics(results(_G.lrx(n)).layer_sizes)
        claims.append(
            Claim.at_most(
                f"LRX growth, n = {n}: Kolmogorov-Smirnov distance from the normal distribution",
                facts["ks_normal"],
                0.05,
            )
        )
        claims.append(
            Claim.close(f"LRX growth, n = {n}: skewness", facts["skewness"], -0.60, absolute=0.03)
        )
    return claims


def _agreement_graphs() -> list[CayleyGraphDef]:
    """Twelve graphs of all kinds, small enough for every engine."""
    return [
        _G.lrx(7),
        _G.lx(7),
        _G.top_spin(7),
        _G.coxeter(6),
        _G.pancake(7),
        _G.all_transpositions(6),
        _G.larx(6),
        _G.rapaport_m2(7),
        _G.stars(7),
        _G.lrx(12).with_central_state("000000111111").with_name("lrx-12 coset"),
        _G.burnt_pancake(4),
        MatrixGroups.unitriangular(3, 11),
    ]


def _engines_claim(settings: Settings) -> Claim:
    """Layer sizes and every stored state of four engines; the first of them is plain torch."""
    agreeing = 0
    for definition in settings.track(_agreement_graphs(), "comparing engines"):
        graph = CayleyGraph(definition, device="cpu")
        reference = graph.bfs(engine="torch", max_layer_size_to_store=None)
        same = True
        for engine in _engines_of(graph):
            result = graph.bfs(engine=engine, max_layer_size_to_store=None)
            same &= result.layer_sizes == reference.layer_sizes
            same &= all(
                torch.equal(result.layers[i], reference.layers[i]) for i in reference.layers
            )
        agreeing += same
    return Claim.exact(
        "graphs of 12 on which the engines hash, bitarray, external and torch find the same layers",
        agreeing,
        12,
        note="The bitarray engine takes part where it ranks the graph's states.",
    )


def _engines_of(graph: CayleyGraph) -> list[str]:
    engines = ["hash", "bitarray", "external"]
    return [engine for engine in engines if graph.estimate_memory(engine)["fits"]]


def _user_seconds(call: Callable[[], Any]) -> tuple[float, float]:
    """User CPU time and wall time of one call: other work on the machine lengthens the second."""
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_utime, time.perf_counter()
    call()
    seconds = time.perf_counter() - start
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime - before, seconds


def _speed(scale: Scale, settings: Settings) -> tuple[list[Claim], Table, dict[str, float]]:
    graph = CayleyGraph(_G.lrx(scale.speed_n), device="cpu", threads=1)
    engines = ("bitarray", "hash", "external", "torch")
    seconds: dict[str, list[float]] = {engine: [] for engine in engines}
    walls: dict[str, list[float]] = {engine: [] for engine in engines}
    peaks: dict[str, int] = {}
    with torch_threads(1):
        for _ in settings.track(range(scale.speed_repeats), "timing engines"):
            for engine in engines:

                def search(engine: str = engine) -> None:
                    result = graph.bfs(engine=engine, max_layer_size_to_store=0)
                    peaks[engine] = result.engine_info["bytes_peak"]

                user, wall = _user_seconds(search)
                seconds[engine].append(user)
                walls[engine].append(wall)
    states = _size(scale.speed_n)
    # Systems that count in clock ticks report 0 for less than one.
    median = {engine: max(float(np.median(s)), 1e-6) for engine, s in seconds.items()}
    rates = {engine: states / median[engine] / 1e6 for engine in engines}
    name = f"LRX-{scale.speed_n}, one thread, user CPU time"
    claims = [
        Claim.at_least(
            f"{name}: the engine {engine} is so many times as fast as the torch engine",
            median["torch"] / median[engine],
            bound,
        )
        for engine, bound in (
            ("bitarray", scale.bitarray_ratio),
            ("hash", scale.hash_ratio),
        )
    ]
    table = Table(
        title=f"Engines on LRX-{scale.speed_n}, {states:,} states, one thread",
        columns=("engine", "user CPU, s", "wall, s", "million states/s (user)", "peak, MiB"),
        rows=tuple(
            (
                engine,
                median[engine],
                float(np.median(walls[engine])),
                rates[engine],
                peaks[engine] / 2**20,
            )
            for engine in engines
        ),
        note=f"Medians of {scale.speed_repeats} alternating rounds; the peak is that of the "
        "engine's own arrays. The external engine writes its layers to disk.",
    )
    return claims, table, rates


def _learned_beam(scale: Scale, settings: Settings) -> tuple[list[Claim], Table]:
    graph = CayleyGraph(_G.lrx(scale.beam_n), device=settings.device)
    table = graph.distance_table()
    start = time.perf_counter()
    # Layers this small lose more to threads that wait for each other than they gain.
    with torch_threads(1):
        predictor = train_predictor(
            graph,
            hidden=scale.hidden,
            width=500,
            length=scale.walk_length,
            random_state=settings.random_state,
        )
    trained = time.perf_counter() - start
    rng = np.random.default_rng(settings.random_state)
    lengths, exact, by_hamming = [], [], 0
    for _ in settings.track(range(scale.beam_states), "searching with beams"):
        state = rng.permutation(scale.beam_n)
        options = {
            "start_state": state,
            "beam_width": scale.beam_width,
            "max_steps": scale.beam_steps,
        }
        found = graph.beam_search(predictor=predictor, return_path=True, **options)
        if found.path_found:
            lengths.append(found.path_length)
            exact.append(int(table.distance(state)))
        by_hamming += graph.beam_search(**options).path_found
    ratio = sum(lengths) / max(sum(exact), 1) if lengths else float("nan")
    worst = max((a / max(b, 1) for a, b in zip(lengths, exact, strict=True)), default=float("nan"))
    what = f"LRX-{scale.beam_n}, {scale.beam_states} random states, beam {scale.beam_width}"
    claims = [
        Claim.at_least(f"{what}: found by the learned distance", len(lengths), scale.fewest_found),
        Claim.at_most(
            f"{what}: mean length over mean exact distance",
            ratio,
            1.05,
            expected="1.003",
            note=f"the worst is {worst:.3f} times the exact distance",
        ),
        Claim.at_most(f"{what}: found by the Hamming distance", by_hamming, 3, expected="0"),
    ]
    losses = ", ".join(f"{epoch['loss']:.1f}" for epoch in predictor.history_)
    return claims, Table(
        title=f"Beams of width {scale.beam_width} on LRX-{scale.beam_n}",
        columns=("estimate", "found", "mean length", "mean exact distance", "training, s"),
        rows=(
            (
                "trained on random walks",
                len(lengths),
                sum(lengths) / max(len(lengths), 1),
                sum(exact) / max(len(exact), 1),
                trained,
            ),
            ("Hamming distance", by_hamming, None, None, None),
        ),
        note=f"Mean squared error over the epochs: {losses}. Exact distances come from the "
        "two-bit table of all states.",
    )


def _diameter_table(results: _Searches) -> Table:
    """The searches of this run, the largest first."""
    rows = sorted(results.all.items(), key=lambda item: -item[1].num_vertices)[:12]
    return Table(
        title="The largest searches of this run",
        columns=("graph", "states", "diameter", "last layer", "engine", "seconds"),
        rows=tuple(
            (
                name,
                result.num_vertices,
                result.diameter(),
                result.layer_sizes[-1],
                result.engine_info["engine"],
                result.engine_info["seconds"],
            )
            for name, result in rows
        ),
        note="Wall time on this machine, all threads.",
    )


_FIGURE_FAMILIES: dict[str, Family] = {
    "LRX": _G.lrx,
    "LX": _G.lx,
    "Coxeter": _G.coxeter,
    "cyclic Coxeter": _G.cyclic_coxeter,
    "stars": _G.stars,
    "Rapaport M2": _G.rapaport_m2,
    "square with whiskers": _G.square_with_whiskers,
}
# Diameters in the figure are searched up to here for families that no claim needs.
_FIGURE_N = 10
# A fit is drawn where it leaves out at most so many of the first diameters; one that meets only the
# end of a short table is chance.
_LEFT_OUT = 2


def _figure_range(name: str, scale: Scale, top: int) -> Sequence[int]:
    if name == "square with whiskers":
        return range(5, min(top, 9) + 1)  # where the best member is known
    return {"LRX": scale.lrx, "LX": scale.lx}.get(name, tuple(range(3, top + 1)))


def _growth_figure(scale: Scale, results: _Searches) -> Figure:
    top = min(_FIGURE_N, max(scale.lx))
    table: dict[str, dict[int, int]] = {}
    fits: dict[str, QuasiPolynomial | None] = {}
    for name, family in _FIGURE_FAMILIES.items():
        ns = _figure_range(name, scale, top)
        table[name] = dict(zip(ns, results.diameters(family, ns), strict=True))
        fit = fit_quasi_polynomial(table[name], table[name].values())
        fits[name] = fit if fit is not None and fit.n_min <= ns[0] + _LEFT_OUT else None
    with panel("n", "diameter", title="diameters and exact fits") as (left, axes):
        plot_diameters(table, fits, axes)
        last = max(max(diameters) for diameters in table.values())
        x = np.arange(4, last + 1)
        axes.plot(x, x**2 / 2 + 4 * x, color=MUTED, linestyle="--", label="n²/2 + 4n")
        axes.legend(fontsize=7)
    n = min(_FIGURE_N, max(scale.lrx))
    with panel("(distance - mean) / deviation", "density", title=f"growth, n = {n}") as (
        right,
        axes,
    ):
        for name, family in (
            ("LRX", _G.lrx),
            ("LX", _G.lx),
            ("Coxeter", _G.coxeter),
            ("pancake", _G.pancake),
        ):
            sizes = results(family(n)).layer_sizes
            facts = growth_statistics(sizes)
            distance = (np.arange(len(sizes)) - facts["mean"]) / facts["std"]
            axes.plot(distance, np.array(sizes) / facts["n_states"] * facts["std"], label=name)
        z = np.linspace(-4, 4, 161)
        normal = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
        axes.plot(z, normal, color=MUTED, linestyle="--", label="normal density")
        axes.legend(fontsize=8)
    return Figure.render(
        "Diameters and growth",
        "Left: diameters of complete searches; a curve is a quasi-polynomial that meets its points "
        "exactly, at most the first two left out, with at least one point to check it in every "
        "residue class. "
        "Right: layer sizes, centred and scaled.",
        left,
        right,
    )


def _speed_figure(rates: dict[str, float]) -> Figure:
    with panel("engine", "million states / s of user CPU time") as (drawing, axes):
        axes.bar(list(rates), list(rates.values()), width=0.6)
        axes.set_yscale("log")
    return Figure.render("Engines", "One thread, complete search of LRX.", drawing)
