"""Timing of several callables side by side: alternating rounds, medians, ratios with a spread.

On a shared machine the speed drifts by tens of percent within seconds. Each round therefore times
every callable once, every second round in the opposite order, and a ratio is taken round by round,
so that a drift falls on both sides.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

# Far above the clock's resolution and the cost of a call; short work is repeated up to it.
_MIN_SAMPLE_SECONDS = 2e-3


@dataclass(frozen=True)
class Timing:
    """Seconds a call of one callable, one number a round."""

    name: str
    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def low(self) -> float:
        """Lower quartile."""
        return _quartile(self.seconds, 0.25)

    @property
    def high(self) -> float:
        """Upper quartile."""
        return _quartile(self.seconds, 0.75)


@dataclass(frozen=True)
class Ratio:
    """How many times as long one callable takes as another: median and quartiles over rounds."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.low:.2f}, {self.high:.2f}]"


def _quartile(values: tuple[float, ...], share: float) -> float:
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def ratio(slower: Timing, faster: Timing) -> Ratio:
    """``slower`` over ``faster``, round by round; both must come from one :func:`interleaved`.

    Raises:
        ValueError: where the numbers of rounds differ.

    Example:
        >>> from rankone._timing import Timing, ratio
        >>> str(ratio(Timing("a", (2.0, 6.0, 4.0)), Timing("b", (1.0, 2.0, 1.0))))
        '3.00 [2.50, 3.50]'
    """
    if len(slower.seconds) != len(faster.seconds):
        raise ValueError(
            f"{slower.name} has {len(slower.seconds)} rounds and {faster.name} "
            f"{len(faster.seconds)}: only timings of one run can be compared"
        )
    ratios = tuple(a / b for a, b in zip(slower.seconds, faster.seconds, strict=True))
    return Ratio(statistics.median(ratios), _quartile(ratios, 0.25), _quartile(ratios, 0.75))


def interleaved(
    callables: Mapping[str, Callable[[], object]],
    *,
    repeats: int = 5,
    synchronize: Callable[[], object] | None = None,
    on_sample: Callable[[], object] | None = None,
) -> dict[str, Timing]:
    """Time several callables in alternating rounds.

    Each is called once untimed first. Calls shorter than two milliseconds are timed several at a
    time, the same number in every round.

    Args:
        callables: what to time, by name.
        repeats: rounds, at least 1.
        synchronize: called before each reading of the clock, such as ``torch.cuda.synchronize``.
        on_sample: called after each of the ``(repeats + 1) * len(callables)`` samples, the untimed
            ones included, for a progress bar.

    Returns:
        A :class:`Timing` a name, in the order of ``callables``.

    Raises:
        ValueError: for fewer than one round.

    Example:
        >>> from rankone._timing import interleaved
        >>> timings = interleaved({"sum": lambda: sum(range(100))}, repeats=3)
        >>> len(timings["sum"].seconds)
        3
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    wait = synchronize or (lambda: None)
    count = on_sample or (lambda: None)

    def sample(function: Callable[[], object], calls: int) -> float:
        wait()
        start = time.perf_counter()
        for _ in range(calls):
            function()
        wait()
        return (time.perf_counter() - start) / calls

    calls = {}
    for name, function in callables.items():
        once = sample(function, 1)
        if once < _MIN_SAMPLE_SECONDS:  # the first call also pays for caches and code paths
            once = sample(function, 1)
        calls[name] = max(1, math.ceil(_MIN_SAMPLE_SECONDS / max(once, 1e-9)))
        count()
    seconds: dict[str, list[float]] = {name: [] for name in callables}
    for round_index in range(repeats):
        names = list(callables)
        for name in names if round_index % 2 == 0 else reversed(names):
            seconds[name].append(sample(callables[name], calls[name]))
            count()
    return {name: Timing(name, tuple(values)) for name, values in seconds.items()}


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Run a block with this many torch threads, which the ops of this library follow.

    Raises:
        ValueError: for fewer than one thread.
    """
    import torch

    if count < 1:
        raise ValueError(f"the number of threads must be at least 1, got {count}")
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
