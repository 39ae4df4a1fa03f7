"""The exclusive scan of affine maps over ranks: what carries states across shards.

A shard turns the state S that enters it into A S + B. Rank r needs the state after the shards
before it, the composition of their maps; the gradient needs the same from the other end. With P
ranks it takes ceil(log2 P) rounds: in round d = 1, 2, 4, ... rank r sends the composition of the
last d maps up to its own to rank r + d, so a rank sends at most ceil(log2 P) messages of |A| + |B|
numbers, whatever the sequences' length (Hillis and Steele, 1986, made exclusive by keeping the
composition of the maps before one's own beside it).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from rankone._process_group import guarded, record_sent


@dataclass(frozen=True)
class StateMap:
    """S -> A S + B for states (rows, heads, K, V).

    Attributes:
        transition: A, as factors (rows, heads, 1 or K, 1) or matrices (rows, heads, K, K).
        offset: B, (rows, heads, K, V).
        matrix: whether A is matrices.
    """

    transition: Tensor
    offset: Tensor
    matrix: bool

    def apply(self, state: Tensor) -> Tensor:
        """A state + B."""
        return self._moved(state) + self.offset

    def after(self, earlier: StateMap) -> StateMap:
        """The map of ``earlier`` followed by this one."""
        return StateMap(self._moved(earlier.transition), self.apply(earlier.offset), self.matrix)

    def _moved(self, right: Tensor) -> Tensor:
        return self.transition @ right if self.matrix else self.transition * right

    def message(self) -> Tensor:
        """Both parts in one flat tensor."""
        return torch.cat([self.transition.flatten(), self.offset.flatten()])

    def read(self, message: Tensor) -> StateMap:
        """The map in a message of another rank, whose shapes are those of this one."""
        transition, offset = message.split([self.transition.numel(), self.offset.numel()])
        return StateMap(
            transition.view(self.transition.shape), offset.view(self.offset.shape), self.matrix
        )


def entering_state(
    own: StateMap, group: dist.ProcessGroup, *, reverse: bool = False
) -> Tensor | None:
    """The state that enters this rank's shard: the maps of the ranks before it, applied to zeros.

    Args:
        own: the map of this rank's shard; every rank's has the same shapes.
        group: the ranks, in order of time.
        reverse: start from the last rank, as gradients do.

    Returns:
        (rows, heads, K, V), or None on the first rank (with ``reverse`` the last).

    Raises:
        DistributedError: where another rank is gone or does not take part.
    """
    size = dist.get_world_size(group)
    place = dist.get_rank(group)
    if reverse:
        place = size - 1 - place
    before: StateMap | None = None
    window = own
    distance = 1
    while distance < size:
        received = _pass_on(window, place, distance, size, group, reverse)
        if received is not None:
            before = received if before is None else before.after(received)
            if place + 2 * distance < size:
                window = window.after(received)
        distance *= 2
    return None if before is None else before.offset


def _pass_on(
    window: StateMap,
    place: int,
    distance: int,
    size: int,
    group: dist.ProcessGroup,
    reverse: bool,
) -> StateMap | None:
    """Send ``window`` ``distance`` places on; what comes from as far behind, or None."""

    def rank(other: int) -> int:
        return dist.get_global_rank(group, size - 1 - other if reverse else other)

    moves = []
    arriving = None
    message = window.message()
    if place + distance < size:
        moves.append(dist.P2POp(dist.isend, message, rank(place + distance), group))
        record_sent(message.nbytes)
    if place >= distance:
        arriving = torch.empty_like(message)
        moves.append(dist.P2POp(dist.irecv, arriving, rank(place - distance), group))
    if moves:
        with guarded("the scan of states over shards", group):
            for work in dist.batch_isend_irecv(moves):
                work.wait()
    return None if arriving is None else window.read(arriving)


def scan_rounds(size: int) -> int:
    """ceil(log2 size): messages that a rank sends at most."""
    return (size - 1).bit_length()
