"""Progress of long work: a bar on a terminal, nothing elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sized
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TypeVar

Item = TypeVar("Item")


class Progress(AbstractContextManager["Progress"]):
    """A bar on standard error where that is a terminal.

    Args:
        description: what is being done.
        total: number of steps.
        enabled: False shows nothing.

    Example:
        >>> from rankone._progress import Progress
        >>> with Progress("counting", 3, enabled=False) as progress:
        ...     for _ in range(3):
        ...         progress.advance()
        >>> progress.done
        3
    """

    def __init__(self, description: str, total: int, *, enabled: bool = True) -> None:
        self.done = 0
        self._bar = None
        if enabled and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task(description, total=total, note="")

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count ``steps`` more as done; ``note`` stands beside the bar."""
        self.done += steps
        if self._bar is not None:
            self._bar.update(self._task, advance=steps, note=note)


def track(
    items: Iterable[Item],
    description: str,
    *,
    total: int | None = None,
    enabled: bool = True,
) -> Iterator[Item]:
    """Yield ``items`` under a :class:`Progress`.

    Raises:
        ValueError: for items without a length and no ``total``.
    """
    if total is None:
        if not isinstance(items, Sized):
            raise ValueError("total must be given for items that have no length")
        total = len(items)
    with Progress(description, total, enabled=enabled) as progress:
        for item in items:
            yield item
            progress.advance()
