"""Simulation sweeps: independent cells, run in any number of jobs with the same result.

Cell i draws from a generator seeded by (random_state, i) alone, so neither the number of jobs nor
the order in which cells finish can change a number.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np

from rankone._progress import Progress

Cell = TypeVar("Cell")
Result = TypeVar("Result")


def sweep(
    function: Callable[[Cell, np.random.Generator], Result],
    cells: Iterable[Cell],
    *,
    random_state: int,
    n_jobs: int | None = None,
    description: str = "simulating",
    progress: bool = False,
) -> list[Result]:
    """Call ``function(cell, generator)`` for every cell.

    Args:
        function: what to compute; with ``n_jobs`` other than 1 it must be picklable by joblib.
        cells: one argument a call.
        random_state: seed of the sweep, at least 0.
        n_jobs: as in joblib; None means 1, -1 all processors. A surrounding
            ``joblib.parallel_config`` chooses the backend, dask and ray included.
        description: of the progress bar.
        progress: show a bar on a terminal.

    Returns:
        The results in the order of ``cells``.

    Raises:
        ValueError: for a ``random_state`` that is not an integer of at least 0.

    Example:
        >>> from rankone._sweep import sweep
        >>> draws = sweep(lambda cell, rng: cell + rng.random(), [1.0, 2.0], random_state=0)
        >>> draws == sweep(lambda cell, rng: cell + rng.random(), [1.0, 2.0], random_state=0)
        True
    """
    from joblib import Parallel, delayed

    if (
        isinstance(random_state, bool)
        or not isinstance(random_state, int | np.integer)
        or random_state < 0
    ):
        raise ValueError(f"random_state must be an integer of at least 0, got {random_state!r}")
    items = list(cells)
    seeds = np.random.SeedSequence(int(random_state)).spawn(len(items))
    tasks = (delayed(_run)(function, cell, seed) for cell, seed in zip(items, seeds, strict=True))
    results: list[Result] = []
    with Progress(description, len(items), enabled=progress) as bar:
        for result in Parallel(n_jobs=n_jobs, return_as="generator")(tasks):
            results.append(result)
            bar.advance()
    return results


def _run(
    function: Callable[[Cell, np.random.Generator], Result],
    cell: Cell,
    seed: np.random.SeedSequence,
) -> Result:
    with one_torch_thread():
        return function(cell, np.random.default_rng(seed))


@contextlib.contextmanager
def one_torch_thread() -> Iterator[None]:
    """One torch thread inside: jobs share the processors, and sums keep one order."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
