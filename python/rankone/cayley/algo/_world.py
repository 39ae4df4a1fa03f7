"""The processes of a search as its level loop sees them: one, or those of a process group.

Whatever goes wrong in one process is told to the others in the next exchange, so that all of them
leave the loop in the same place.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from rankone._process_group import DistributedError, agree, exchange_device, guarded, record_sent
from rankone.cayley.algo._collect import INTERRUPTED, MEMORY_LIMIT
from rankone.cayley.algo._shares import ShareMemoryError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

# Most bytes of states that a process sends in one exchange, to all others together. Larger ones
# were no faster; smaller ones pay for more waits.
MESSAGE_BYTES = 2**23
# Stands in the place of a number of states where a process has none to send, because it stopped.
_STOPPED = -1


class OneProcess:
    """The world of a search in one process: nothing is sent.

    Attributes:
        rank: of this process.
        size: number of processes.
        interrupted: whether an interrupt waits to be told to the others.
        message_bytes: most bytes of states that are sent at a time.
        exchanges: how often states were exchanged.
        seconds: spent in exchanges, waits for the others included.
    """

    rank = 0
    size = 1
    interrupted = False
    message_bytes = MESSAGE_BYTES
    exchanges = 0
    seconds = 0.0

    def agree(
        self, what: str, facts: Mapping[str, object], error: BaseException | None = None
    ) -> list[dict[str, Any]]:
        """The facts of every process; raises in all of them where one has an error."""
        if error is not None:
            raise error
        return [dict(facts)]

    def exchange(
        self, what: str, states: Tensor | None, counts: list[int], *, stop: bool
    ) -> Tensor | None:
        """What the other processes sent; None where one of them stopped."""
        return None if stop else states

    def gather(self, what: str, states: Callable[[], Tensor]) -> Tensor:
        """The states of all processes on rank 0, none elsewhere."""
        return states()

    def was_told(self, error: BaseException) -> bool:
        """Whether the other processes know of an error."""
        return False

    @contextmanager
    def deferring_interrupts(self) -> Iterator[None]:
        """In the block an interrupt waits for the next batch: a level is taken whole or not.

        A second interrupt does not wait. A handler of the caller's own stays in place.
        """
        if (
            threading.current_thread() is not threading.main_thread()
            or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        ):
            yield
            return

        def on_interrupt(number: int, frame: FrameType | None) -> None:
            if self.interrupted:
                signal.default_int_handler(number, frame)
            self.interrupted = True

        signal.signal(signal.SIGINT, on_interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)


class World(OneProcess):
    """The processes of a group."""

    def __init__(self, group: ProcessGroup) -> None:
        self.group = group
        self.rank = dist.get_rank(group)
        self.size = dist.get_world_size(group)
        self.device = exchange_device(group)
        self._told: BaseException | None = None

    def agree(
        self, what: str, facts: Mapping[str, object], error: BaseException | None = None
    ) -> list[dict[str, Any]]:
        self._told = error
        began = time.perf_counter()
        try:
            return agree(what, facts, self.group, error=error)
        finally:
            self.seconds += time.perf_counter() - began

    def was_told(self, error: BaseException) -> bool:
        return isinstance(error, DistributedError) or error is self._told

    def exchange(
        self, what: str, states: Tensor | None, counts: list[int], *, stop: bool
    ) -> Tensor | None:
        """Send rows to their owners, ``counts[r]`` of them to rank r; what arrives.

        The numbers go first. At most ``message_bytes`` should be given at a time.
        """
        began = time.perf_counter()
        try:
            return self._exchange(what, states, [_STOPPED] * self.size if stop else counts)
        finally:
            self.seconds += time.perf_counter() - began

    def _exchange(self, what: str, states: Tensor | None, counts: list[int]) -> Tensor | None:
        sent = torch.tensor(counts, device=self.device)
        expected = torch.empty_like(sent)
        with guarded(what, self.group):
            dist.all_to_all_single(expected, sent, group=self.group)
            arriving = expected.tolist()
        record_sent(8 * (self.size - 1))
        if states is None or _STOPPED in counts or _STOPPED in arriving:
            return None
        outgoing = states.to(self.device).contiguous()
        incoming = outgoing.new_empty(sum(arriving), states.shape[1])
        with guarded(what, self.group):
            dist.all_to_all_single(incoming, outgoing, arriving, list(counts), group=self.group)
            arrived = incoming.to(states.device)
        record_sent(8 * states.shape[1] * (sum(counts) - counts[self.rank]))
        self.exchanges += 1
        return arrived

    def gather(self, what: str, states: Callable[[], Tensor]) -> Tensor:
        error: BaseException | None = None
        part = torch.empty(0, 1, dtype=torch.int64)
        try:
            part = states()
        except BaseException as raised:
            error = raised
        everyone = self.agree(what, {"_rows": part.shape[0]}, error)
        most = max(facts["_rows"] for facts in everyone)
        rows = rows_of(self.message_bytes, part.shape[1])
        arrived = [part[:0]]
        for first in range(0, most, rows):
            piece = part[first : first + rows]
            counts = [piece.shape[0], *[0] * (self.size - 1)]
            found = self.exchange(what, piece, counts, stop=False)
            assert found is not None
            arrived.append(found)
        return torch.cat(arrived)


def rows_of(size: int, words: int) -> int:
    """How many states of so many words fit ``size`` bytes, at least one."""
    return max(1, size // (8 * words))


class Trouble:
    """What went wrong in this process and is yet to be told to the others.

    Attributes:
        reason: ends the search with what was found: "memory_limit", "interrupted", "time_limit".
        error: ends it with this error.
    """

    def __init__(self, world: OneProcess) -> None:
        self.reason: str | None = None
        self.error: BaseException | None = None
        self._world = world

    def poll(self) -> None:
        """Take up an interrupt that waits."""
        if self._world.interrupted and self.reason is None:
            self.reason = INTERRUPTED

    def __bool__(self) -> bool:
        self.poll()
        return self.reason is not None or self.error is not None

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Keep what a block of local work raises. What the others know already passes."""
        try:
            yield
        except ShareMemoryError:
            self.reason = MEMORY_LIMIT
        except KeyboardInterrupt as error:
            if self._world.was_told(error):
                raise
            if self._world.interrupted:
                self.error = error
            self.reason = INTERRUPTED
        except BaseException as error:
            if self._world.was_told(error):
                raise
            self.error = error


__all__ = ["MESSAGE_BYTES", "OneProcess", "Trouble", "World", "rows_of"]
