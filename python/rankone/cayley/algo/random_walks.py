"""Random walks from a state: training data for distance heuristics.

Source: CayleyPy Growth, arXiv 2509.19162. Three kinds: independent walks, breadth-first layers
thinned at random, and walks that share a memory of where any of them could have gone.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rankone.cayley.algo._graph_argument import check_graph
from rankone.cayley.cayley_graph_def import AnyStateType
from rankone.cayley.errors import CayleyError, check, check_range
from rankone.cayley.torch_utils import SeenStates, contained

if TYPE_CHECKING:
    from rankone.cayley.cayley_graph import CayleyGraph

MODES = ("classic", "bfs", "nbt")

RandomState = int | torch.Generator | None


class RandomWalksGenerator:
    """Random walks on a graph.

    Args:
        graph: the graph.

    Example:
        >>> from rankone.cayley import CayleyGraph, PermutationGroups
        >>> from rankone.cayley.algo import RandomWalksGenerator
        >>> graph = CayleyGraph(PermutationGroups.lrx(5), device="cpu")
        >>> x, y = RandomWalksGenerator(graph).generate(width=2, length=3, random_state=0)
        >>> x.shape, y.tolist()
        (torch.Size([6, 5]), [0, 0, 1, 1, 2, 2])
    """

    def __init__(self, graph: CayleyGraph) -> None:
        check_graph(graph)
        self.graph = graph

    def generate(
        self,
        *,
        width: int = 5,
        length: int = 10,
        mode: str = "classic",
        start_state: AnyStateType | None = None,
        nbt_history_depth: int = 0,
        random_state: RandomState = None,
    ) -> tuple[Tensor, Tensor]:
        """Walks of one of three kinds.

        Args:
            width: walks, or states a layer at most.
            length: states a walk, the first included.
            mode: "classic", "bfs" or "nbt"; see the methods of these names.
            start_state: one decoded state; default the central state.
            nbt_history_depth: layers of candidates that walks of mode "nbt" remember.
            random_state: seed or generator; None draws from torch's global generator.

        Returns:
            (states (N, *state shape) int64, steps (N,) int32).

        Raises:
            CayleyError: for a wrong argument.
        """
        if mode not in MODES:
            raise CayleyError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
        check_range("nbt_history_depth", nbt_history_depth, 0)
        if mode == "classic":
            return self.random_walks_classic(width, length, start_state, random_state=random_state)
        if mode == "bfs":
            return self.random_walks_bfs(width, length, start_state, random_state=random_state)
        return self.random_walks_nbt(
            width, length, start_state, nbt_history_depth, random_state=random_state
        )

    def random_walks_classic(
        self,
        width: int,
        length: int,
        start_state: AnyStateType | None = None,
        *,
        random_state: RandomState = None,
    ) -> tuple[Tensor, Tensor]:
        """Independent walks: each step applies a generator drawn uniformly.

        Returns:
            width * length states; row i + j * width is walk i after j steps.
        """
        rng = _checked(width, length, random_state)
        graph, definition = self.graph, self.graph.definition
        start = self._start(start_state)
        states = start.new_empty(length, width, definition.state_size)
        states[0] = start
        choices = torch.randint(definition.n_generators, (length - 1, width), generator=rng)
        choices = choices.to(graph.device)
        if definition.is_permutation_group():
            permutations = torch.tensor(definition.generators_permutations, device=graph.device)
            for step, choice in enumerate(choices, start=1):
                torch.gather(states[step - 1], 1, permutations[choice], out=states[step])
        else:
            for step, choice in enumerate(choices, start=1):
                before = states[step - 1].reshape(-1, *definition.decoded_state_shape)
                for index, matrix in enumerate(definition.generators_matrices):
                    rows = (choice == index).nonzero()[:, 0]
                    moved = matrix.apply_batch_torch(before[rows])
                    states[step, rows] = moved.reshape(-1, definition.state_size)
        steps = torch.arange(length, dtype=torch.int32, device=graph.device)
        return (
            states.reshape(-1, *definition.decoded_state_shape),
            steps.repeat_interleave(width),
        )

    def random_walks_bfs(
        self,
        width: int,
        length: int,
        start_state: AnyStateType | None = None,
        *,
        random_state: RandomState = None,
    ) -> tuple[Tensor, Tensor]:
        """Layers of a breadth-first search, each thinned at random to ``width`` states.

        Returns:
            Distinct states and their layers; fewer than ``length`` layers where none is left. A
            state of layer j has a neighbour in layer j - 1, so j bounds its distance from above.
        """
        rng = _checked(width, length, random_state)
        graph = self.graph
        layer, hashes = graph.get_unique_states(graph.encode_states(self._start(start_state)))
        seen = SeenStates()
        seen.add(layer, hashes)
        layers = [layer]
        for _ in range(1, length):
            layer, hashes = graph.get_unique_states(graph.get_neighbors(layers[-1]))
            new = ~seen.contains(layer, hashes)
            layer, hashes = layer[new], hashes[new]
            if not len(layer):
                break
            if len(layer) > width:
                drawn = torch.randperm(len(layer), generator=rng)[:width].sort().values
                drawn = drawn.to(layer.device)
                layer, hashes = layer[drawn], hashes[drawn]
            seen.add(layer, hashes)
            layers.append(layer)
        sizes = torch.tensor([len(layer) for layer in layers])
        steps = torch.arange(len(layers), dtype=torch.int32).repeat_interleave(sizes)
        return graph.decode_states(torch.cat(layers)), steps.to(graph.device)

    def random_walks_nbt(
        self,
        width: int,
        length: int,
        start_state: AnyStateType | None = None,
        history_depth: int = 0,
        *,
        random_state: RandomState = None,
    ) -> tuple[Tensor, Tensor]:
        """Walks that do not go where any of them could have gone lately.

        Each step makes all neighbours of all walks, bans those among the candidates of the last
        ``history_depth`` steps, and draws ``width`` of the rest; where fewer are left they are
        repeated, and where none is left all walks stay.

        Returns:
            width * length states, a step after the other, and for each the number of steps so far
            that moved.
        """
        rng = _checked(width, length, random_state)
        check_range("history_depth", history_depth, 0)
        graph = self.graph
        start = graph.encode_states(self._start(start_state))
        current = start.expand(width, -1)
        memory = deque([graph.get_unique_states(start)], maxlen=history_depth)
        layers, steps = [current], [0]
        for _ in range(1, length):
            candidates = graph.get_unique_states(graph.get_neighbors(current))
            allowed = torch.ones_like(candidates[1], dtype=torch.bool)
            for known in memory:
                allowed &= ~contained(*candidates, *known)
            memory.append(candidates)
            survivors = candidates[0][allowed]
            count = len(survivors)
            if count:
                drawn = torch.randperm(max(count, width), generator=rng)[:width] % count
                current = survivors[drawn.to(survivors.device)]
            layers.append(current)
            steps.append(steps[-1] + (count > 0))
        y = torch.tensor(steps, dtype=torch.int32, device=graph.device).repeat_interleave(width)
        return graph.decode_states(torch.cat(layers)), y

    def _start(self, start_state: AnyStateType | None) -> Tensor:
        """One state as (1, state_size); a row as ``encode_states`` returns it is decoded."""
        graph = self.graph
        if start_state is None:
            return graph.central_state[None]
        words = (1, graph.encoded_state_size)
        shape = tuple(getattr(start_state, "shape", ()))
        if shape == words != (1, graph.definition.state_size):
            start_state = graph.decode_states(torch.as_tensor(start_state, device=graph.device))
        state = graph.states_tensor(start_state, "start_state")
        check(len(state) == 1, f"start_state must be one state, got {len(state)}")
        return state


def _checked(width: int, length: int, random_state: RandomState) -> torch.Generator | None:
    check_range("width", width, 1)
    check_range("length", length, 1)
    if random_state is None or isinstance(random_state, torch.Generator):
        return random_state
    check_range("random_state", random_state, 0)
    return torch.Generator().manual_seed(int(random_state))
