"""What is in each table, how it is computed, and how it is read."""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rankone._files import write_whole
from rankone.cayley.cayley_graph import CayleyGraph
from rankone.cayley.cayley_graph_def import CayleyGraphDef
from rankone.cayley.errors import CayleyError, check, check_range
from rankone.cayley.matrix_groups import MatrixGroups
from rankone.cayley.permutation_groups import PermutationGroups
from rankone.cayley.puzzles import GapPuzzles, Puzzles

FOLDER = Path(__file__).parent / "growth"

# 12! is the largest group of the tables.
MAX_STATES = 5e8
# Of the shipped tables: about a minute a graph on one core.
SHIPPED_MAX_EDGES = 1.2e10

_G = PermutationGroups


@dataclass(frozen=True)
class _Table:
    """Keys in order, the graph of each, and sizes where a search should not find them out."""

    keys: Sequence[str]
    graph: Callable[[str], CayleyGraphDef]
    states: Mapping[str, int] = field(default_factory=dict)


def _numbers(make: Callable[..., CayleyGraphDef]) -> Callable[[str], CayleyGraphDef]:
    return lambda key: make(*map(int, key.split(",")))


def _family(make: Callable[..., CayleyGraphDef], ns: Iterable[int]) -> _Table:
    return _Table([str(n) for n in ns], _numbers(make))


def _pairs(make: Callable[..., CayleyGraphDef], pairs: Iterable[tuple[int, int]]) -> _Table:
    return _Table([f"{n},{k}" for n, k in pairs], _numbers(make))


def _cosets(make: Callable[[int], CayleyGraphDef], ns: Iterable[int]) -> _Table:
    """Balanced words 0..01..1, of odd length with either one more, and alternating ones 0101.."""
    keys = []
    for n in ns:
        half = n // 2
        keys += ["0" * (n - half) + "1" * half, "0" * half + "1" * (n - half), ("01" * n)[:n]]
    return _Table(list(dict.fromkeys(keys)), lambda key: make(len(key)).with_central_state(key))


def _rings() -> list[str]:
    """Two rings of at most 10 points together, every way to cross up to exchange."""
    keys = []
    for left in range(2, 11):
        for right in range(left, 13 - left):
            if left + right - 1 <= 10:
                keys.append(f"{left},0,{right},0")
            for i in range(1, left // 2 + 1):
                for j in range(1, right // 2 + 1):
                    if left < right or i <= j:
                        keys.append(f"{left},{i},{right},{j}")
    return keys


# Number of states, so that a search beyond the bounds is not begun, and the graph.
_PUZZLES: dict[str, tuple[int, Callable[[], CayleyGraphDef]]] = {
    "cube_222_fixed_qtm": (3_674_160, lambda: Puzzles.rubik_cube(2, "fixed_QTM")),
    "cube_222_fixed_htm": (3_674_160, lambda: Puzzles.rubik_cube(2, "fixed_HTM")),
    "cube_222_qtm": (88_179_840, lambda: Puzzles.rubik_cube(2, "QTM")),
    "cube_222_htm": (88_179_840, lambda: Puzzles.rubik_cube(2, "HTM")),
    "cube_222_qstm": (88_179_840, lambda: Puzzles.rubik_cube(2, "QSTM")),
    "cube_222_atm": (88_179_840, lambda: Puzzles.rubik_cube(2, "ATM")),
    "mini_pyramorphix": (288, Puzzles.mini_pyramorphix),
    "dino": (239_500_800, lambda: GapPuzzles.puzzle("dino")),
    "master_pyramorphix": (1_327_104, lambda: GapPuzzles.puzzle("master_pyramorphix")),
    "mastermorphix": (5_308_416, lambda: GapPuzzles.puzzle("mastermorphix")),
    "pyraminx": (302_330_880, lambda: GapPuzzles.puzzle("pyraminx")),
    "pyramorphix": (96, lambda: GapPuzzles.puzzle("pyramorphix")),
    "skewb_diamond": (1_658_880, lambda: GapPuzzles.puzzle("skewb_diamond")),
    "tetraminx": (11_197_440, lambda: GapPuzzles.puzzle("tetraminx")),
}


@functools.cache
def _tables() -> dict[str, _Table]:
    small = [(n, k) for n in range(3, 10) for k in range(2, min(n, 5) + 1)]
    cayley = {
        "lrx": _family(_G.lrx, range(3, 13)),
        "lx": _family(_G.lx, range(3, 13)),
        "top_spin": _family(_G.top_spin, range(4, 13)),
        "all_transpositions": _family(_G.all_transpositions, range(2, 12)),
        "coxeter": _family(_G.coxeter, range(2, 13)),
        "transposons": _family(_G.transposons, range(2, 11)),
        "pancake": _family(_G.pancake, range(2, 13)),
        "full_reversals": _family(_G.full_reversals, range(2, 12)),
        "cyclic_coxeter": _family(_G.cyclic_coxeter, range(2, 13)),
        "rapaport_m1": _family(_G.rapaport_m1, range(2, 13)),
        "rapaport_m2": _family(_G.rapaport_m2, range(2, 13)),
        "down_cycles": _family(_G.down_cycles, range(2, 12)),
        "prefix_cycles": _family(_G.prefix_cycles, range(2, 13)),
        "burnt_pancake": _family(_G.burnt_pancake, range(1, 10)),
        "signed_reversals": _family(_G.signed_reversals, range(1, 10)),
        "all_cycles": _family(_G.all_cycles, range(2, 8)),
        "block_interchange": _family(_G.block_interchange, range(3, 10)),
        "wrapped_k_cycles": _pairs(
            _G.wrapped_k_cycles, [(n, k) for n in range(2, 11) for k in range(2, n + 1)]
        ),
        "stars": _family(_G.stars, range(3, 13)),
        "larx": _family(_G.larx, range(2, 12)),
        "increasing_k_cycles": _pairs(_G.increasing_k_cycles, small),
        "consecutive_k_cycles": _pairs(_G.consecutive_k_cycles, small),
        "lsl_cycles": _family(_G.lsl_cycles, range(3, 12)),
        "derangements": _family(_G.derangements, range(3, 8)),
        "involutive_derangements": _family(_G.involutive_derangements, range(2, 11, 2)),
    }
    heisenberg = [
        (n, m) for n in range(3, 11) for m in range(2, 51) if m ** (2 * n - 3) <= 2_000_000
    ]
    return {
        **{f"{name}_cayley_growth": table for name, table in cayley.items()},
        "lrx_coset_growth": _cosets(_G.lrx, range(3, 27)),
        "top_spin_coset_growth": _cosets(_G.top_spin, range(4, 27)),
        "hungarian_rings_growth": _Table(_rings(), _numbers(Puzzles.hungarian_rings)),
        "globes_growth": _pairs(Puzzles.globe_puzzle, [(1, 1), (1, 2), (2, 1), (2, 2), (3, 1)]),
        "heisenberg_growth": _pairs(
            lambda n, m: MatrixGroups.heisenberg(n=n, modulo=m), heisenberg
        ),
        "sl_2_fund_roots_growth": _family(
            lambda m: MatrixGroups.special_linear_fundamental_roots(2, m), range(2, 14)
        ),
        "sl_3_fund_roots_growth": _family(
            lambda m: MatrixGroups.special_linear_fundamental_roots(3, m), range(2, 8)
        ),
        "sl_2_root_weyl_growth": _family(
            lambda m: MatrixGroups.special_linear_root_weyl(2, m), range(2, 14)
        ),
        "sl_3_root_weyl_growth": _family(
            lambda m: MatrixGroups.special_linear_root_weyl(3, m), range(2, 8)
        ),
        "puzzles_growth": _Table(
            list(_PUZZLES),
            lambda key: _PUZZLES[key][1](),
            {name: states for name, (states, _) in _PUZZLES.items()},
        ),
    }


def dataset_names() -> list[str]:
    """Names of the tables.

    Returns:
        The names, as :func:`load_dataset` takes them.

    Example:
        >>> from rankone.cayley.datasets import dataset_names
        >>> "lrx_cayley_growth" in dataset_names()
        True
    """
    return list(_tables())


@functools.cache
def _read(name: str) -> dict[str, list[int]]:
    text = (FOLDER / f"{name}.json").read_text(encoding="utf-8")
    return json.loads(text)["growth"]


def load_dataset(name: str) -> dict[str, list[int]]:
    """A shipped table of complete growth functions.

    Args:
        name: one of :func:`dataset_names`.

    Returns:
        key -> layer sizes. The key is "n", "n,k", the central state as digits for the tables of
        cosets, or a puzzle's name. Each call returns a new dict.

    Raises:
        KeyError: for an unknown name.

    Example:
        >>> from rankone.cayley import load_dataset
        >>> load_dataset("lrx_cayley_growth")["4"]
        [1, 3, 5, 6, 5, 3, 1]
    """
    if name not in _tables():
        raise KeyError(f"no dataset is called {name!r}; dataset_names() lists them")
    return {key: list(sizes) for key, sizes in _read(name).items()}


def generate_datasets(
    names: Iterable[str] | None = None,
    max_states: float = MAX_STATES,
    *,
    max_edges: float | None = None,
    out: str | os.PathLike[str] | None = None,
    threads: int | None = None,
) -> dict[str, dict[str, list[int]]]:
    """Compute tables by this library's own engines.

    Args:
        names: tables; None means all.
        max_states: graphs with more states are left out.
        max_edges: graphs with more states times generators are left out; None means no bound.
        out: folder to write ``<name>.json`` to, made where it is missing.
        threads: CPU threads.

    Returns:
        name -> table, as :func:`load_dataset` returns it. Only complete growth functions are in it.

    Raises:
        CayleyError: for an unknown name or bounds that are not positive.

    Example:
        >>> from rankone.cayley.datasets import generate_datasets
        >>> generate_datasets(["stars_cayley_growth"], 24)
        {'stars_cayley_growth': {'3': [1, 2, 2, 1], '4': [1, 3, 6, 9, 5]}}
    """
    if isinstance(names, str):
        names = [names]
    chosen = dataset_names() if names is None else list(names)
    for name in chosen:
        if name not in _tables():
            raise CayleyError(f"names must be of dataset_names(), got {name!r}")
    check(max_states > 0, f"max_states must be positive, got {max_states}")
    check(max_edges is None or max_edges > 0, f"max_edges must be positive, got {max_edges}")
    if threads is not None:
        check_range("threads", threads, 1)
    limit = math.inf if max_edges is None else max_edges
    found = {}
    for name in chosen:
        table = _tables()[name]
        growth = {}
        for key in table.keys:
            sizes = _growth(
                table.graph(key), max_states, limit, threads, states=table.states.get(key)
            )
            if sizes is not None:
                growth[key] = sizes
        found[name] = growth
        if out is not None:
            _write(Path(out), name, growth, max_states, max_edges)
    return found


def _growth(
    definition: CayleyGraphDef,
    max_states: float,
    max_edges: float,
    threads: int | None,
    *,
    states: int | None,
) -> list[int] | None:
    """Layer sizes, or None where the graph is beyond the bounds."""
    most = min(max_states, max_edges / definition.n_generators)
    graph = CayleyGraph(definition, device="cpu")
    distinct = len(set(definition.central_state)) == definition.state_size
    if states is None and definition.is_permutation_group() and distinct:
        states = definition.group_order()
    if states is not None and states > most:
        return None
    result = graph.bfs(max_layer_size_to_store=0, max_states=math.floor(most) + 1, threads=threads)
    complete = result.bfs_completed and result.num_vertices <= most
    return result.layer_sizes if complete else None


def _write(
    folder: Path,
    name: str,
    growth: dict[str, list[int]],
    max_states: float,
    max_edges: float | None,
) -> None:
    command = f"python -m rankone.cayley.datasets {name} --out FOLDER --max-states {max_states:g}"
    if max_edges is not None:
        command += f" --max-edges {max_edges:g}"
    lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(sizes)}" for key, sizes in growth.items())
    body = f"{{\n{lines}\n }}" if growth else "{}"
    head = json.dumps({"name": name, "made by": command})[:-1]
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / f"{name}.json", f'{head},\n "growth": {body}}}\n')
