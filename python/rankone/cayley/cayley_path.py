"""A path in a graph: where it starts and the generators along it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from rankone.cayley.cayley_graph_def import CayleyGraphDef


@dataclass(frozen=True)
class CayleyPath:
    """A path in a graph: a first state and the generators that are applied in turn.

    Attributes:
        start_state: (n,) int64, the first state.
        edges: generator numbers.
        graph: the definition of the graph.

    Example:
        >>> import torch
        >>> from rankone.cayley import CayleyPath, PermutationGroups
        >>> CayleyPath(torch.arange(3), [0, 2], PermutationGroups.lrx(3)).end_state.tolist()
        [2, 1, 0]
    """

    start_state: Tensor
    edges: list[int]
    graph: CayleyGraphDef

    def __str__(self) -> str:
        return self.graph.path_to_string(self.edges)

    def __len__(self) -> int:
        return len(self.edges)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CayleyPath):
            return NotImplemented
        return (
            torch.equal(self.start_state, other.start_state)
            and self.edges == other.edges
            and self.graph == other.graph
        )

    __hash__ = None  # type: ignore[assignment]  # it holds a tensor and a list

    @cached_property
    def all_states(self) -> list[Tensor]:
        """The states along the path, both ends included."""
        states = [self.start_state]
        for edge in self.edges:
            state = states[-1]
            if self.graph.is_permutation_group():
                states.append(state[torch.tensor(self.graph.generators_permutations[edge])])
            else:
                generator = self.graph.generators_matrices[edge]
                matrix = np.asarray(state.cpu()).reshape(self.graph.decoded_state_shape)
                moved = torch.from_numpy(generator.apply(matrix)).reshape(state.shape)
                states.append(moved.to(state.device))
        return states

    @property
    def end_state(self) -> Tensor:
        """The last state."""
        return self.all_states[-1]
