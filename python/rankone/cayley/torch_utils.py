"""Sorted sets in torch: of numbers, and of packed states compared by all their words."""

from __future__ import annotations

import torch
from torch import Tensor


def isin_via_searchsorted(elements: Tensor, test_elements_sorted: Tensor) -> Tensor:
    """``torch.isin`` for sorted test elements.

    Example:
        >>> import torch
        >>> isin_via_searchsorted(torch.tensor([1, 9, 3]), torch.tensor([1, 3, 5])).tolist()
        [True, False, True]
    """
    if test_elements_sorted.numel() == 0:
        return torch.zeros_like(elements, dtype=torch.bool)
    position = torch.searchsorted(test_elements_sorted, elements)
    position.clamp_(max=test_elements_sorted.numel() - 1)
    return test_elements_sorted[position] == elements


class TorchHashSet:
    """A growing set of int64 numbers, held as a few sorted tensors of falling size.

    Example:
        >>> import torch
        >>> seen = TorchHashSet()
        >>> seen.add_sorted_hashes(torch.tensor([1, 3, 5]))
        >>> seen.get_mask_to_remove_seen_hashes(torch.tensor([1, 2])).tolist()
        [False, True]
    """

    def __init__(self) -> None:
        self.data: list[Tensor] = []

    def add_sorted_hashes(self, sorted_numbers: Tensor) -> None:
        """Add numbers, sorted and none of them in the set yet."""
        while self.data and self.data[-1].numel() <= 2 * sorted_numbers.numel():
            sorted_numbers = torch.cat([self.data.pop(), sorted_numbers]).sort().values
        self.data.append(sorted_numbers)

    def get_mask_to_remove_seen_hashes(self, x: Tensor) -> Tensor:
        """True for each number that is not in the set."""
        unseen = torch.ones_like(x, dtype=torch.bool)
        for numbers in self.data:
            unseen &= ~isin_via_searchsorted(x, numbers)
        return unseen


class CachedTensor:
    """A tensor and its copies on other devices, each made once."""

    def __init__(self, tensor: Tensor) -> None:
        self._copies = {tensor.device: tensor}
        self._tensor = tensor

    def to(self, device: torch.device | str) -> Tensor:
        """The tensor on ``device``."""
        device = torch.device(device)
        if device not in self._copies:
            self._copies[device] = self._tensor.to(device)
        return self._copies[device]


def lexicographic_order(rows: Tensor) -> Tensor:
    """The permutation that sorts rows of integers lexicographically; equal rows keep their order.

    Args:
        rows: (N, n) int64.

    Returns:
        (N,) int64.
    """
    count, columns = rows.shape
    order = torch.arange(count, device=rows.device)
    if count < 2:
        return order
    low, high = (int(bound) for bound in torch.aminmax(rows))
    width = max(1, (high - low).bit_length())
    if width > 62:
        keys = list(rows.unbind(1))
    else:
        per_key = 63 // width
        keys = []
        for first in range(0, columns, per_key):
            key = torch.zeros_like(rows[:, 0])
            for column in rows[:, first : first + per_key].unbind(1):
                key = (key << width) | (column - low)
            keys.append(key)
    for key in reversed(keys):
        order = order[torch.argsort(key[order], stable=True)]
    return order


def sort_unique(states: Tensor, hashes: Tensor) -> tuple[Tensor, Tensor]:
    """States sorted by (hash, words), repeats dropped.

    Args:
        states: (N, words) int64.
        hashes: (N,) int64; equal states have equal hashes, the converse is not assumed.

    Returns:
        The states that are left and their hashes.
    """
    if states.shape[0] < 2:
        return states, hashes
    if states.shape[1] == 1 and states.data_ptr() == hashes.data_ptr():
        # One word that is its own hash: sorted without a permutation, by far the fastest way.
        hashes = torch.unique_consecutive(hashes.sort().values)
        return hashes[:, None], hashes
    hashes, order = hashes.sort(stable=True)
    states = states[order]
    same_hash = hashes[1:] == hashes[:-1]
    repeated = same_hash & (states[1:] == states[:-1]).all(1)
    if bool((same_hash & ~repeated).any()):
        # Different states with one hash: order them by their words too.
        order = torch.arange(states.shape[0], device=states.device)
        for key in (*reversed(states.unbind(1)), hashes):
            order = order[torch.argsort(key[order], stable=True)]
        states, hashes = states[order], hashes[order]
        repeated = (states[1:] == states[:-1]).all(1)
    keep = torch.ones_like(hashes, dtype=torch.bool)
    keep[1:] = ~repeated
    return states[keep], hashes[keep]


def contained(
    states: Tensor, hashes: Tensor, sorted_states: Tensor, sorted_hashes: Tensor
) -> Tensor:
    """For each state whether it is one of ``sorted_states``, as :func:`sort_unique` leaves them."""
    total = sorted_hashes.numel()
    if total == 0 or hashes.numel() == 0:
        return torch.zeros_like(hashes, dtype=torch.bool)
    position = torch.searchsorted(sorted_hashes, hashes)
    if sorted_states.shape[1] == 1 and sorted_states.data_ptr() == sorted_hashes.data_ptr():
        return sorted_hashes[position.clamp(max=total - 1)] == hashes
    found = torch.zeros_like(hashes, dtype=torch.bool)
    # One round, and one more for each further state that shares a hash.
    open_ = torch.ones_like(found)
    while True:
        inside = position.clamp(max=total - 1)
        open_ &= (position < total) & (sorted_hashes[inside] == hashes)
        if not bool(open_.any()):
            return found
        rows = open_.nonzero()[:, 0]
        equal = (sorted_states[inside[rows]] == states[rows]).all(1)
        found[rows[equal]] = True
        open_[rows[equal]] = False
        position = position + 1


class SeenStates:
    """A growing set of packed states, held as a few sorted tensors of falling size."""

    def __init__(self) -> None:
        self.parts: list[tuple[Tensor, Tensor]] = []

    def add(self, states: Tensor, hashes: Tensor) -> None:
        """Add states as :func:`sort_unique` leaves them, none of them in the set yet."""
        while self.parts and self.parts[-1][1].numel() <= 2 * hashes.numel():
            more_states, more_hashes = self.parts.pop()
            together = torch.cat([more_states, states])
            own_hash = states.data_ptr() == hashes.data_ptr()
            both = together[:, 0] if own_hash else torch.cat([more_hashes, hashes])
            states, hashes = sort_unique(together, both)
        self.parts.append((states, hashes))

    def contains(self, states: Tensor, hashes: Tensor) -> Tensor:
        """For each state whether it is in the set."""
        found = torch.zeros_like(hashes, dtype=torch.bool)
        for part_states, part_hashes in self.parts:
            found |= contained(states, hashes, part_states, part_hashes)
        return found

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(states.nbytes + hashes.nbytes for states, hashes in self.parts)


__all__ = [
    "CachedTensor",
    "SeenStates",
    "TorchHashSet",
    "contained",
    "isin_via_searchsorted",
    "lexicographic_order",
    "sort_unique",
]
