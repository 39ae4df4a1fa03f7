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
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)

# Short work is repeated up to it. Longer than a scheduler's time slice, so that where other work
# shares the cores short samples suffer from it as much as long ones.
_MIN_SAMPLE_SECONDS = 2e-2


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
    callables: Mapping[Key, Callable[[], object]],
    *,
    repeats: int = 5,
    synchronize: Callable[[], object] | None = None,
    on_sample: Callable[[], object] | None = None,
) -> dict[Key, Timing]:
    """Time several callables in alternating rounds.

    Each is called once untimed first. Short calls are timed several at a time, the same
    number in every round.

    Args:
        callables: what to time, each under a key of the caller's choice.
        repeats: rounds, at least 1.
        synchronize: called before each reading of the clock, such as ``torch.cuda.synchronize``.
        on_sample: called after each of the ``(repeats + 1) * len(callables)`` samples, the untimed
            ones included, for a progress bar.

    Returns:
        A :class:`Timing` a key, in the order of ``callables``.

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

    calls: dict[Key, int] = {}
    for key, function in callables.items():
        once = sample(function, 1)
        if once < _MIN_SAMPLE_SECONDS:  # the first call also pays for caches and code paths
            once = sample(function, 1)
        calls[key] = max(1, math.ceil(_MIN_SAMPLE_SECONDS / max(once, 1e-9)))
        count()
    seconds: dict[Key, list[float]] = {key: [] for key in callables}
    for round_index in range(repeats):
        keys = list(callables)
        for key in keys if round_index % 2 == 0 else reversed(keys):
            seconds[key].append(sample(callables[key], calls[key]))
            count()
    return {key: Timing(str(key), tuple(values)) for key, values in seconds.items()}


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
