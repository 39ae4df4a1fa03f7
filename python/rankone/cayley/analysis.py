"""What growth functions and tables of diameters say: exact fits, moments, plots, extremal searches.

Also path-finding challenges: scrambled states, and the scoring of paths that claim to solve them.
The questions are those of CayleyPy Growth (arXiv 2509.19162); the fit, the extremal search and the
challenge format are this project's own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from numbers import Rational
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rankone._namespace import public_names
from rankone.cayley._extras import need
from rankone.cayley.algo.bfs_result import BfsResult
from rankone.cayley.cayley_graph import CayleyGraph
from rankone.cayley.cayley_graph_def import CayleyGraphDef
from rankone.cayley.errors import CayleyError, check, check_range
from rankone.cayley.max_diameter import MaxDiameter, max_diameter_search

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# ---- quasi-polynomials ----


@dataclass(frozen=True)
class QuasiPolynomial:
    """value(n) = P_{n mod period}(n) for n >= n_min.

    Attributes:
        period: number of polynomials.
        degree: the degree that was fitted.
        n_min: where the fit begins.
        coefficients: residue -> coefficients, the constant first.
        n_checked: points that the fit met and that did not determine it.
    """

    period: int
    degree: int
    n_min: int
    coefficients: Mapping[int, tuple[Fraction, ...]]
    n_checked: int

    def __call__(self, n: int) -> Fraction:
        """The value at ``n``, exact."""
        value = Fraction(0)
        for coefficient in reversed(self.coefficients[n % self.period]):
            value = value * n + coefficient
        return value

    def as_string(self) -> str:
        """The formula.

        Example:
            >>> from rankone.cayley.analysis import fit_quasi_polynomial
            >>> fit_quasi_polynomial(range(4, 9), [6, 10, 15, 21, 28]).as_string()
            '(n^2 - n)/2 for n >= 4'
        """
        if self.period == 1:
            return f"{_polynomial(self.coefficients[0])} for n >= {self.n_min}"
        parts = [
            f"{_polynomial(self.coefficients[r])} for n = {r} mod {self.period}"
            for r in range(self.period)
        ]
        return ", ".join(parts) + f", n >= {self.n_min}"


def _polynomial(coefficients: Sequence[Fraction]) -> str:
    scale = math.lcm(*(coefficient.denominator for coefficient in coefficients))
    text = ""
    for power in range(len(coefficients) - 1, -1, -1):
        number = int(coefficients[power] * scale)
        if not number:
            continue
        variable = "" if power == 0 else "n" if power == 1 else f"n^{power}"
        size = "" if abs(number) == 1 and power else str(abs(number))
        sign = ("-" if number < 0 else "") if not text else (" - " if number < 0 else " + ")
        text += sign + size + variable
    if not text:
        return "0"
    return text if scale == 1 else f"({text})/{scale}"


def fit_quasi_polynomial(
    ns: Iterable[int],
    values: Iterable[int | Fraction],
    *,
    max_period: int = 6,
    max_degree: int = 2,
    min_check: int = 1,
) -> QuasiPolynomial | None:
    """The quasi-polynomial that meets a table exactly from the smallest n on.

    For every period s and degree d there is a smallest n_min from which each residue class holds at
    least d + 1 + ``min_check`` points, all on one polynomial of degree d. The fit with the smallest
    n_min is returned, and of several the one with the fewest terms s (d + 1), then the smaller
    period. (To take the fewest terms first would fit the end of a table: two equal last values are
    a constant.) Arithmetic is rational and equality exact: a fit holds for the points of the table
    and says nothing about others.

    Args:
        ns: distinct integers.
        values: integers or fractions.
        max_period: largest period tried.
        max_degree: largest degree tried.
        min_check: checking points a residue class, at least 1.

    Returns:
        The fit, or None.

    Raises:
        CayleyError: for a wrong argument; floating-point values are refused.

    Example:
        >>> from rankone.cayley.analysis import fit_quasi_polynomial
        >>> fit = fit_quasi_polynomial(range(2, 10), [1, 2, 4, 6, 9, 12, 16, 20])
        >>> fit.period, fit.degree, fit(100)
        (2, 2, Fraction(2500, 1))
    """
    check_range("max_period", max_period, 1)
    check_range("max_degree", max_degree, 0)
    check_range("min_check", min_check, 1)
    points = _points(ns, values)
    fits = [
        _fit(points, period, degree, min_check)
        for period in range(1, max_period + 1)
        for degree in range(max_degree + 1)
    ]
    found = [fit for fit in fits if fit is not None]
    return min(found, key=lambda f: (f.n_min, f.period * (f.degree + 1), f.period), default=None)


def _points(ns: Iterable[int], values: Iterable[Any]) -> list[tuple[int, Fraction]]:
    numbers, table = list(ns), list(values)
    check(
        len(numbers) == len(table),
        f"values must have one entry for each of {len(numbers)} ns, got {len(table)}",
    )
    points = []
    for n, value in zip(numbers, table, strict=True):
        check(hasattr(n, "__index__"), f"ns must be integers, got {n!r}")
        if hasattr(value, "__index__"):
            value = int(value)
        check(isinstance(value, Rational), f"values must be integers or fractions, got {value!r}")
        points.append((int(n), Fraction(value)))
    check(len({n for n, _ in points}) == len(points), "ns must be distinct")
    return sorted(points)


def _fit(
    points: list[tuple[int, Fraction]], period: int, degree: int, min_check: int
) -> QuasiPolynomial | None:
    """Each class from its largest n downwards as far as it fits, then all from the worst class."""
    classes = [[(n, v) for n, v in points if n % period == r] for r in range(period)]
    needed = degree + 1 + min_check
    if any(len(members) < needed for members in classes):
        return None
    coefficients = {}
    broken = points[0][0] - 1  # the largest n that does not fit
    for residue, members in enumerate(classes):
        polynomial = _interpolate(members[-(degree + 1) :])
        coefficients[residue] = polynomial
        for n, value in reversed(members):
            if _evaluate(polynomial, n) != value:
                broken = max(broken, n)
                break
    kept = [[n for n, _ in members if n > broken] for members in classes]
    if any(len(members) < needed for members in kept):
        return None
    n_checked = sum(len(members) - (degree + 1) for members in kept)
    n_min = min(members[0] for members in kept)
    top = max((power for c in coefficients.values() for power, a in enumerate(c) if a), default=0)
    assert top <= degree
    return QuasiPolynomial(period, degree, n_min, coefficients, n_checked)


def _evaluate(coefficients: Sequence[Fraction], n: int) -> Fraction:
    value = Fraction(0)
    for coefficient in reversed(coefficients):
        value = value * n + coefficient
    return value


def _interpolate(points: Sequence[tuple[int, Fraction]]) -> tuple[Fraction, ...]:
    """Lagrange's polynomial through the points, as coefficients, the constant first."""
    total = [Fraction(0)] * len(points)
    for i, (ni, value) in enumerate(points):
        basis = [Fraction(1)]
        scale = Fraction(value)
        for j, (nj, _) in enumerate(points):
            if j == i:
                continue
            scale /= ni - nj
            shifted = [Fraction(0), *basis]
            basis = [a - nj * b for a, b in zip(shifted, [*basis, Fraction(0)], strict=True)]
        total = [a + scale * b for a, b in zip(total, basis, strict=True)]
    return tuple(total)


# ---- growth ----


def growth_statistics(layer_sizes: Sequence[int]) -> dict[str, Any]:
    """Moments of the distance of a vertex drawn at random, and how near to normal it is.

    Args:
        layer_sizes: vertices at distance 0, 1, ...

    Returns:
        dict with "n_states", "diameter", "mean", "std", "skewness", "excess_kurtosis", "mode" and
        "ks_normal" = max_i |C_i - Phi((i + 1/2 - mean) / std)|, C the cumulative normalised growth;
        NaN for a single layer.

    Raises:
        CayleyError: for no layer, or sizes that are not positive integers.

    Example:
        >>> from rankone.cayley.analysis import growth_statistics
        >>> growth_statistics([1, 4, 6, 4, 1])["mean"]
        2.0
    """
    sizes = _layer_sizes("layer_sizes", layer_sizes)
    total = sum(sizes)
    weights = np.array([size / total for size in sizes])
    distance = np.arange(len(sizes))
    mean = float(weights @ distance)
    central = distance - mean
    second, third, fourth = (float(weights @ central**power) for power in (2, 3, 4))
    std = math.sqrt(second)
    ks = math.nan
    if std:
        normal = [0.5 * (1 + math.erf((i + 0.5 - mean) / std / math.sqrt(2))) for i in distance]
        ks = float(np.abs(weights.cumsum() - normal).max())
    return {
        "n_states": total,
        "diameter": len(sizes) - 1,
        "mean": mean,
        "std": std,
        "skewness": third / std**3 if std else 0.0,
        "excess_kurtosis": fourth / second**2 - 3 if std else 0.0,
        "mode": int(weights.argmax()),
        "ks_normal": ks,
    }


def _layer_sizes(name: str, growth: BfsResult | Sequence[int]) -> list[int]:
    sizes = growth.layer_sizes if isinstance(growth, BfsResult) else list(growth)
    check(sizes, f"{name} must not be empty")
    for index, size in enumerate(sizes):
        check_range(f"{name}[{index}]", size, 1)
    return [int(size) for size in sizes]


def plot_growth(
    results: Mapping[str, BfsResult | Sequence[int]] | Sequence[BfsResult],
    normalize: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Layer sizes of several graphs.

    Args:
        results: name -> result of a search or layer sizes; or results, named by their graphs.
        normalize: centre and scale distances by mean and standard deviation, divide sizes so that
            each curve is a density, and draw the normal density beside them.
        ax: axes to draw on; default new ones.

    Returns:
        The axes.

    Raises:
        CayleyError: for no result, or one with a single layer where ``normalize`` is set.

    Example:
        >>> from rankone.cayley.analysis import plot_growth
        >>> axes = plot_growth({"lrx, n = 4": [1, 3, 5, 6, 5, 3, 1]})
        >>> len(axes.lines)  # the curve and the normal density
        2
    """
    if not isinstance(results, Mapping):
        results = {result.graph.name or f"graph {i}": result for i, result in enumerate(results)}
    check(results, "results must not be empty")
    curves = {name: _layer_sizes(f"results[{name!r}]", growth) for name, growth in results.items()}
    ax = _axes(ax)
    for name, sizes in curves.items():
        distance = np.arange(len(sizes), dtype=float)
        heights = np.array(sizes, dtype=float)
        if normalize:
            facts = growth_statistics(sizes)
            check(facts["std"] > 0, f"results[{name!r}] must have two layers to be normalised")
            distance = (distance - facts["mean"]) / facts["std"]
            heights = heights / facts["n_states"] * facts["std"]
        ax.plot(distance, heights, marker=".", label=name)
    if normalize:
        x = np.linspace(-4, 4, 201)
        density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
        ax.plot(x, density, color="0.4", linestyle="--", label="normal")
        ax.set_xlabel("(distance - mean) / standard deviation")
        ax.set_ylabel("density")
    else:
        ax.set_xlabel("distance")
        ax.set_ylabel("vertices")
    ax.legend()
    return ax


def plot_diameters(
    table: Mapping[str, Mapping[int, int]],
    fits: Mapping[str, QuasiPolynomial | None] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Diameters of families against n, with their fits as curves.

    Args:
        table: family -> n -> diameter.
        fits: family -> fit; families without one are drawn as points.
        ax: axes to draw on; default new ones.

    Returns:
        The axes.

    Raises:
        CayleyError: for an empty table or a fit of no family of it.

    Example:
        >>> from rankone.cayley.analysis import plot_diameters
        >>> plot_diameters({"lrx": {4: 6, 5: 10, 6: 15}}).get_xlabel()
        'n'
    """
    check(table, "table must not be empty")
    fits = fits or {}
    unknown = sorted(set(fits) - set(table))
    check(not unknown, f"fits must be of families of table, got {', '.join(unknown)}")
    ax = _axes(ax)
    for (name, diameters), marker in zip(table.items(), itertools.cycle("os^Dv<>P")):
        ns = sorted(diameters)
        (points,) = ax.plot(ns, [diameters[n] for n in ns], marker=marker, ls="", label=name)
        fit = fits.get(name)
        if fit is not None:
            shown = range(fit.n_min, ns[-1] + 1)
            ax.plot(shown, [float(fit(n)) for n in shown], color=points.get_color(), lw=1.2)
    ax.set_xlabel("n")
    ax.set_ylabel("diameter")
    ax.legend()
    return ax


def _axes(ax: Axes | None) -> Axes:
    if ax is None:
        import matplotlib.pyplot as plt

        _, ax = plt.subplots(figsize=(7, 4), layout="constrained")
    return ax


# ---- challenges ----


def make_pathfinding_benchmark(
    definition: CayleyGraphDef,
    n_instances: int,
    *,
    scramble: str | int = "uniform",
    random_state: int | None = None,
) -> list[dict[str, Any]]:
    """States to be brought to the central state.

    Args:
        definition: the graph.
        n_instances: how many.
        scramble: "uniform" applies a uniformly random element of the group of the permutations, an
            integer so many random generators, each backwards, so that there is a path of at most
            that length.
        random_state: seed.

    Returns:
        dicts of "id" (0, 1, ...) and "initial_state" (a list, of lists for matrices).

    Raises:
        CayleyError: for a wrong argument, or "uniform" for matrices.

    Example:
        >>> from rankone.cayley import PermutationGroups
        >>> from rankone.cayley.analysis import make_pathfinding_benchmark
        >>> lrx = PermutationGroups.lrx(5)
        >>> make_pathfinding_benchmark(lrx, 1, scramble=2, random_state=0)[0]["id"]
        0
    """
    check_range("n_instances", n_instances, 1)
    rng = np.random.default_rng(random_state)
    if isinstance(scramble, str):
        check(scramble == "uniform", f"scramble must be 'uniform' or an integer, got {scramble!r}")
        check(
            definition.is_permutation_group(),
            "scramble must be an integer for matrix generators, got 'uniform'",
        )
        draw = _uniform_sampler(definition, rng)
        central = np.array(definition.central_state)
        states = [central[draw()] for _ in range(n_instances)]
    else:
        check_range("scramble", scramble, 0)
        graph = CayleyGraph(definition, device="cpu").with_inverted_generators
        states = []
        for _ in range(n_instances):
            path = rng.integers(definition.n_generators, size=scramble)
            states.append(graph.apply_path(graph.central_state, path.tolist())[0].numpy())
    return [{"id": i, "initial_state": state.tolist()} for i, state in enumerate(states)]


def _uniform_sampler(definition: CayleyGraphDef, rng: np.random.Generator) -> Any:
    """Draws elements of the group: one of each transversal of a stabiliser chain, multiplied."""
    n = definition.state_size
    order = definition.group_order()
    if order == math.factorial(n):
        return lambda: rng.permutation(n)
    sympy = need("sympy.combinatorics", "uniformly random elements of a group")
    distinct = sorted({tuple(generator) for generator in definition.generators_permutations})
    group = sympy.PermutationGroup([sympy.Permutation(list(entry)) for entry in distinct])
    chain = [
        [np.array(element.array_form) for element in transversal.values()]
        for transversal in group.basic_transversals
    ]
    check(math.prod(map(len, chain)) == order, "the stabiliser chain does not have the group order")

    def draw() -> np.ndarray:
        element = np.arange(n)
        for transversal in chain:
            # The chain's elements act on points: the deepest stabiliser moves first.
            element = element[transversal[int(rng.integers(len(transversal)))]]
        return element

    return draw


def score_submission(
    definition: CayleyGraphDef,
    instances: Sequence[Mapping[str, Any]],
    paths: Mapping[Any, Any] | Sequence[Any],
    *,
    delimiter: str = ".",
) -> dict[str, Any]:
    """Replay paths that claim to lead to the central state.

    Args:
        definition: the graph.
        instances: as :func:`make_pathfinding_benchmark` returns them.
        paths: id -> path, or paths in the order of ``instances``; a path is a list of generator
            numbers or a string of generator names.
        delimiter: between names.

    Returns:
        dict with "solved" (a number), "total_length" of the solving paths, and "errors" (id -> what
        is wrong) of all others.

    Raises:
        CayleyError: for a sequence of another length, or ids that no instance has.

    Example:
        >>> from rankone.cayley import PermutationGroups
        >>> from rankone.cayley.analysis import score_submission
        >>> instances = [{"id": 0, "initial_state": [2, 0, 1]}]
        >>> score_submission(PermutationGroups.lrx(3), instances, ["L"])
        {'solved': 1, 'total_length': 1, 'errors': {}}
    """
    ids = [instance["id"] for instance in instances]
    if isinstance(paths, Mapping):
        unknown = sorted(map(str, set(paths) - set(ids)))
        check(not unknown, f"paths must be of known instances, got {', '.join(unknown)}")
    else:
        check(
            len(paths) == len(ids),
            f"paths must have one entry for each of {len(ids)} instances, got {len(paths)}",
        )
        paths = dict(zip(ids, paths, strict=True))
    graph = CayleyGraph(definition, device="cpu")
    solved, total_length = 0, 0
    errors: dict[Any, str] = {}
    for instance in instances:
        name = instance["id"]
        if paths.get(name) is None:
            errors[name] = "no path"
            continue
        try:
            path = _path(definition, paths[name], delimiter)
            graph.validate_path(torch.tensor(instance["initial_state"]), path)
        except (CayleyError, TypeError) as error:
            errors[name] = str(error)
            continue
        solved += 1
        total_length += len(path)
    return {"solved": solved, "total_length": total_length, "errors": errors}


def _path(definition: CayleyGraphDef, path: Any, delimiter: str) -> list[int]:
    if not isinstance(path, str):
        return [int(index) for index in path]
    numbers = {name: index for index, name in reversed(list(enumerate(definition.generator_names)))}
    words = path.split(delimiter) if path else []
    unknown = [word for word in words if word not in numbers]
    check(not unknown, f"no generator is called {unknown[0]!r}" if unknown else "")
    return [numbers[word] for word in words]


__all__ = [
    "MaxDiameter",
    "QuasiPolynomial",
    "fit_quasi_polynomial",
    "growth_statistics",
    "make_pathfinding_benchmark",
    "max_diameter_search",
    "plot_diameters",
    "plot_growth",
    "score_submission",
]


def __dir__() -> list[str]:
    return public_names(globals())
