"""States of puzzles as one token a piece: which piece is there, and how it is turned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rankone.cayley.cayley_graph_def import CayleyGraphDef
from rankone.cayley.errors import CayleyError, check, check_range

if TYPE_CHECKING:
    from rankone.cayley.models.models import ModelConfig


class GroupTokenizer:
    """Takes the first entry of each group of consecutive entries, counted within its section.

    A section of ``count`` groups of ``size`` entries is written [size, count]; sections follow one
    another. Where the entries of a group are the stickers of one piece in cyclic order, its first
    entry says which piece it is and how it is turned; :meth:`verify` proves that for a graph.

    Args:
        groups: [size, count] a section.

    Attributes:
        groups: as given.
        state_size: entries of a state.
        n_tokens: tokens of a state.
        vocab_size: tokens are in 0..vocab_size - 1.
        token_type_ids: (n_tokens,) int64, the section of each token.

    Raises:
        CayleyError: for no section, or numbers that are not positive.

    Example:
        >>> from rankone.cayley import GroupTokenizer
        >>> megaminx = GroupTokenizer([[3, 20], [2, 30]])
        >>> megaminx.state_size, megaminx.n_tokens, megaminx.vocab_size
        (120, 50, 60)
    """

    def __init__(self, groups: Sequence[Sequence[int]]) -> None:
        check(len(groups) > 0, "groups must not be empty")
        self.groups: list[list[int]] = []
        for index, section in enumerate(groups):
            if len(section) != 2:
                raise CayleyError(f"groups[{index}] must be [size, count], got {list(section)}")
            for part, number in zip(("size", "count"), section, strict=True):
                check_range(f"{part} of groups[{index}]", number, 1)
            self.groups.append([int(section[0]), int(section[1])])
        self.vocab_size = max(size * count for size, count in self.groups)
        self.n_token_types = len(self.groups)
        # (first entry, section's first entry, section's end, size, section) of each group.
        self._layout: list[tuple[int, int, int, int, int]] = []
        start = 0
        for kind, (size, count) in enumerate(self.groups):
            end = start + size * count
            for first in range(start, end, size):
                self._layout.append((first, start, end, size, kind))
            start = end
        self.state_size = start
        self.n_tokens = len(self._layout)
        columns = torch.tensor(self._layout).T.contiguous()
        self._first, self._offset, self.token_type_ids = columns[0], columns[1], columns[4]

    @staticmethod
    def from_config(config: ModelConfig) -> GroupTokenizer:
        """The tokenizer that a configuration names.

        Raises:
            CayleyError: where it names none, or one for states of another size.
        """
        if config.tokenizer_groups is None:
            raise CayleyError("config must have tokenizer_groups, got None")
        tokenizer = GroupTokenizer(config.tokenizer_groups)
        check(
            tokenizer.state_size == config.input_size,
            f"tokenizer_groups must describe states of input_size = {config.input_size} entries, "
            f"got {tokenizer.state_size}",
        )
        return tokenizer

    def __call__(self, states: Tensor) -> Tensor:
        """Tokens of states.

        Args:
            states: (..., state_size) integers.

        Returns:
            (..., n_tokens) int64.

        Raises:
            CayleyError: for states of another size.
        """
        check(
            states.ndim > 0 and states.shape[-1] == self.state_size,
            f"states must have {self.state_size} entries in the last axis, "
            f"got shape {tuple(states.shape)}",
        )
        first, offset = self._first.to(states.device), self._offset.to(states.device)
        return states[..., first].long() - offset

    def verify(self, graph_def: CayleyGraphDef) -> None:
        """Require that the tokens of a state determine it, for all states of a graph.

        Raises:
            CayleyError: where a generator or the central state breaks a group up.
        """
        check(graph_def.is_permutation_group(), "graph_def must have permutation generators")
        check(
            graph_def.state_size == self.state_size,
            f"graph_def must have states of {self.state_size} entries, got {graph_def.state_size}",
        )
        self._verify("the central state", graph_def.central_state)
        for name, p in zip(
            graph_def.generator_names, graph_def.generators_permutations, strict=True
        ):
            self._verify(f"generator {name!r}", p)

    def _verify(self, what: str, values: Sequence[int]) -> None:
        """Each group must hold the entries of one piece of its section, turned."""
        for first, start, end, size, _ in self._layout:
            group = list(values[first : first + size])
            check(
                start <= group[0] < end,
                f"{what} must keep sections apart, got {group[0]} at position {first} of the "
                f"section {start}..{end - 1}",
            )
            piece, turn = divmod(group[0] - start, size)
            base = start + piece * size
            expected = [base + (turn + i) % size for i in range(size)]
            check(
                group == expected,
                f"{what} must hold {expected} at positions {first}..{first + size - 1}, "
                f"got {group}",
            )
