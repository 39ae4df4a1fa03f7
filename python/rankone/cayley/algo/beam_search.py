"""Beam search: follow the best-scored states, a level at a time.

A step hashes all children of the beam by a linear form and drops repeats before any child is made
(see ``_linear_hash``); only candidates that have to be scored, and the survivors of the cut, are
ever states. The way back is kept as one parent and one generator a kept state, 5 bytes. Every path
is replayed before it is returned.

Source: CayleyPy Growth, arXiv 2509.19162; mode "iterated" and the bookkeeping are this project's
own.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rankone.cayley.algo._graph_argument import check_graph
from rankone.cayley.algo._linear_hash import LinearHash
from rankone.cayley.algo.bfs_result import BfsResult
from rankone.cayley.cayley_graph_def import AnyStateType, CayleyGraphDef
from rankone.cayley.errors import CayleyError, check, check_range
from rankone.cayley.predictor import Predictor
from rankone.cayley.torch_utils import isin_via_searchsorted

if TYPE_CHECKING:
    from rankone.cayley.cayley_graph import CayleyGraph

MODES = ("simple", "advanced", "iterated")
_MAX_WIDTH = 2**31 - 1  # parents are int32


@dataclass(frozen=True)
class BeamSearchResult:
    """What a beam search found.

    Attributes:
        path_found: whether the destination was reached.
        path_length: length of the path, 0 where none was found.
        path: generator numbers from the start to the destination, where asked for.
        debug_scores: step -> the best score of a step that cut its candidates.
        graph: the definition of the graph.

    Raises:
        CayleyError: for a path of another length than ``path_length``.
    """

    path_found: bool
    path_length: int
    path: list[int] | None
    debug_scores: dict[int, float] = field(repr=False)
    graph: CayleyGraphDef = field(repr=False)

    def __post_init__(self) -> None:
        if self.path is not None:
            check(
                len(self.path) == self.path_length,
                f"path must have path_length = {self.path_length} entries, got {len(self.path)}",
            )

    def get_path_as_string(self, delimiter: str = ".") -> str:
        """Names of the generators of the path.

        Raises:
            CayleyError: where the path was not asked for or not found.
        """
        if self.path is None:
            raise CayleyError("there is no path; search with return_path=True")
        return self.graph.path_to_string(self.path, delimiter)


class BeamSearchAlgorithm:
    """Beam search on a graph.

    Args:
        graph: the graph.

    Example:
        >>> from rankone.cayley import CayleyGraph, PermutationGroups
        >>> from rankone.cayley.algo import BeamSearchAlgorithm
        >>> graph = CayleyGraph(PermutationGroups.lrx(5), device="cpu")
        >>> search = BeamSearchAlgorithm(graph)
        >>> search.search(start_state=[4, 0, 1, 2, 3], return_path=True).get_path_as_string()
        'L'
    """

    def __init__(self, graph: CayleyGraph) -> None:
        check_graph(graph)
        self.graph = graph

    def search(
        self,
        *,
        start_state: AnyStateType,
        destination_state: AnyStateType | None = None,
        beam_mode: str = "simple",
        predictor: Predictor | Any = None,
        beam_width: int = 1000,
        max_steps: int = 1000,
        history_depth: int = 0,
        return_path: bool = False,
        bfs_result_for_mitm: BfsResult | None = None,
        use_child_scores: bool = False,
        verbose: int = 0,
    ) -> BeamSearchResult:
        """Look for a path from a state to the destination.

        Args:
            start_state: one decoded state.
            destination_state: one decoded state; default the central state.
            beam_mode: "simple" keeps the ``beam_width`` best children; "advanced" also bans what
                was a candidate in the last ``history_depth`` steps; "iterated" in addition keeps
                the best ``beam_width // n_generators`` children of each generator, and gives what
                is left of that to the best of the others.
            predictor: scores, low ones are kept; a :class:`Predictor` or what it takes; default
                the number of positions that differ from the destination.
            beam_width: states kept a step.
            max_steps: steps at most.
            history_depth: steps whose candidates are banned; not used by mode "simple".
            return_path: also return the path.
            bfs_result_for_mitm: a search from the destination with all hashes, of this graph, or
                of the graph ``with_inverted_generators`` where the generators are not
                inverse-closed; the beam stops where it meets one of its layers.
            use_child_scores: score children through :meth:`Predictor.score_children` of the beam.
            verbose: 1 prints a line a step.

        Returns:
            :class:`BeamSearchResult`.

        Raises:
            CayleyError: for a wrong argument.
        """
        if beam_mode not in MODES:
            raise CayleyError(f"beam_mode must be one of {', '.join(MODES)}, got {beam_mode!r}")
        check_range("beam_width", beam_width, 1, _MAX_WIDTH)
        check_range("max_steps", max_steps, 0)
        check_range("history_depth", history_depth, 0)
        beam = _Beam(
            self.graph,
            start_state,
            destination_state,
            predictor,
            width=beam_width,
            history_depth=0 if beam_mode == "simple" else history_depth,
            quota=beam_width // self.graph.definition.n_generators
            if beam_mode == "iterated"
            else 0,
            return_path=return_path,
            bfs_result=bfs_result_for_mitm,
            use_child_scores=use_child_scores,
            verbose=verbose or self.graph.verbose,
        )
        return beam.run(max_steps)

    def search_simple(self, **kwargs: Any) -> BeamSearchResult:
        """:meth:`search` in mode "simple", with its keywords."""
        return self.search(beam_mode="simple", **kwargs)

    def search_advanced(
        self,
        start_state: AnyStateType,
        destination_state: AnyStateType | None = None,
        **kwargs: Any,
    ) -> BeamSearchResult:
        """:meth:`search` in mode "advanced", with its keywords."""
        return self.search(
            start_state=start_state,
            destination_state=destination_state,
            beam_mode="advanced",
            **kwargs,
        )

    def search_iterated(self, **kwargs: Any) -> BeamSearchResult:
        """:meth:`search` in mode "iterated", with its keywords."""
        return self.search(beam_mode="iterated", **kwargs)


class _Beam:
    """One run: the beam, what is banned, and the way back."""

    def __init__(
        self,
        graph: CayleyGraph,
        start_state: AnyStateType,
        destination_state: AnyStateType | None,
        predictor: Any,
        *,
        width: int,
        history_depth: int,
        quota: int,
        return_path: bool,
        bfs_result: BfsResult | None,
        use_child_scores: bool,
        verbose: int,
    ) -> None:
        self.graph = graph
        self.start = self._one_state(start_state, "start_state")
        self.destination = graph.central_state[None]
        if destination_state is not None:
            self.destination = self._one_state(destination_state, "destination_state")
        if predictor is None:
            predictor = self._differences
        if not isinstance(predictor, Predictor):
            predictor = Predictor(graph, predictor)
        self.predictor = predictor
        self.width, self.quota = width, quota
        self.return_path, self.use_child_scores = return_path, use_child_scores
        self.verbose = verbose
        self.linear = LinearHash(graph)
        self.meeting = None if bfs_result is None else _Meeting(graph, bfs_result, self.destination)
        self.states = self.linear.narrow(self.start)
        self.destination_hash = self.linear.of_states(self.linear.narrow(self.destination))
        self.banned = deque([self.linear.of_states(self.states)], maxlen=history_depth)
        # (parent in the beam before, generator) of each kept state, a pair a step.
        self.trail: list[tuple[Tensor, Tensor]] = []
        self.debug_scores: dict[int, float] = {}
        many = graph.definition.n_generators > torch.iinfo(torch.uint8).max + 1
        self._generator_dtype = torch.int16 if many else torch.uint8

    def _one_state(self, state: AnyStateType, name: str) -> Tensor:
        rows = self.graph.states_tensor(state, name)
        check(len(rows) == 1, f"{name} must be one state, got {len(rows)}")
        return rows

    def _differences(self, states: Tensor) -> Tensor:
        return (states.reshape(-1, self.destination.shape[1]) != self.destination).sum(1)

    def run(self, max_steps: int) -> BeamSearchResult:
        if torch.equal(self.start, self.destination):
            return self._found(0, [])
        if self.meeting is not None:
            met = self.meeting.first(self.start)
            if met is not None:
                return self._found(len(met[1]), met[1] if self.return_path else None)
        for step in range(max_steps):
            result = self._step(step)
            if result is not None:
                return result
            if not len(self.states):
                break
        return BeamSearchResult(False, 0, None, self.debug_scores, self.graph.definition)

    def _found(self, length: int, path: list[int] | None) -> BeamSearchResult:
        if path is not None:
            end = self.graph.apply_path(self.start, path).reshape(1, -1)
            check(torch.equal(end, self.destination), "the path found does not lead there")
        return BeamSearchResult(True, length, path, self.debug_scores, self.graph.definition)

    def _step(self, step: int) -> BeamSearchResult | None:
        """Replace the beam by its children, or return the result where they hold the goal."""
        linear, count = self.linear, len(self.states)
        hashes = linear.of_children(self.states).reshape(-1)
        at_goal = (hashes == self.destination_hash).nonzero()[:, 0]
        if len(at_goal):
            arrived = linear.child_states(self.states, at_goal).long()
            rows = (arrived == self.destination).all(1).nonzero()[:, 0]
            if len(rows):
                return self._found(step + 1, self._path_to(int(at_goal[rows[0]])))
        indices = self._candidates(hashes)
        candidates = None
        if self.meeting is not None:
            candidates = linear.child_states(self.states, indices)
            met = self.meeting.first(candidates.long())
            if met is not None:
                row, tail = met
                path = self._path_to(int(indices[row]))
                return self._found(step + 1 + len(tail), None if path is None else path + tail)
        if len(indices) >= self.width:
            scores = self._scores(indices, candidates)
            chosen = self._best(scores, indices // count)
            self.debug_scores[step] = float(scores[chosen].min())
            chosen = chosen.sort().values
            indices = indices[chosen]
            candidates = None if candidates is None else candidates[chosen]
        if candidates is None:
            candidates = linear.child_states(self.states, indices)
        if self.return_path:
            parents = (indices % count).to(torch.int32)
            self.trail.append((parents, (indices // count).to(self._generator_dtype)))
        self.states = candidates
        if self.verbose:
            best = self.debug_scores.get(step)
            shown = "" if best is None else f", best score {best:.4g}"
            print(f"step {step}: {len(indices)} states{shown}")
        return None

    def _candidates(self, hashes: Tensor) -> Tensor:
        """Indices of distinct children that are not banned, ascending: the first of equal ones."""
        ordered, order = hashes.sort(stable=True)
        first = torch.ones_like(ordered, dtype=torch.bool)
        first[1:] = ordered[1:] != ordered[:-1]
        ordered, order = ordered[first], order[first]
        allowed = torch.ones_like(ordered, dtype=torch.bool)
        for known in self.banned:
            allowed &= ~isin_via_searchsorted(ordered, known)
        self.banned.append(ordered)
        return order[allowed].sort().values

    def _scores(self, indices: Tensor, candidates: Tensor | None) -> Tensor:
        if self.use_child_scores:
            scores = self.predictor.score_children(self.states.long())
            return scores.T.reshape(-1)[indices]
        parts = []
        for rows in torch.arange(len(indices), device=indices.device).split(self.graph.batch_size):
            part = (
                self.linear.child_states(self.states, indices[rows])
                if candidates is None
                else candidates[rows]
            )
            parts.append(self.predictor(part.long()))
        return torch.cat(parts)

    def _best(self, scores: Tensor, generators: Tensor) -> Tensor:
        """Positions of the candidates to keep; equal scores in the order of the candidates."""
        order = scores.argsort(stable=True)
        if self.quota == 0:
            return order[: self.width]
        # The place of each candidate among those of its generator, best first.
        by_generator, back = generators[order].sort(stable=True)
        starts = torch.searchsorted(by_generator, by_generator)
        place = torch.empty_like(back)
        place[back] = torch.arange(len(back), device=back.device) - starts
        reserved = place < self.quota
        rest = order[~reserved][: self.width - int(reserved.sum())]
        return torch.cat([order[reserved], rest])

    def _path_to(self, index: int) -> list[int] | None:
        """Generators from the start to a child of the beam."""
        if not self.return_path:
            return None
        generator, row = divmod(index, len(self.states))
        path = [generator]
        for parents, generators in reversed(self.trail):
            path.append(int(generators[row]))
            row = int(parents[row])
        return path[::-1]


class _Meeting:
    """Layers around the destination, and the paths from there on."""

    def __init__(self, graph: CayleyGraph, result: BfsResult, destination: Tensor) -> None:
        self.graph, self.result = graph, result
        result.check_has_layer_hashes()
        inverted = graph.with_inverted_generators
        self.towards = result.graph != graph.definition
        if self.towards:
            check(
                result.graph == inverted.definition,
                "bfs_result_for_mitm must be of this graph or of graph.with_inverted_generators",
            )
        else:
            check(
                graph.definition.generators_inverse_closed,
                "bfs_result_for_mitm must be of graph.with_inverted_generators where the "
                "generators are not inverse-closed",
            )
        origin = graph.states_tensor(result.layers[0].to(graph.device))
        check(
            torch.equal(origin, destination),
            f"bfs_result_for_mitm must start from the destination {destination[0].tolist()}, "
            f"got {origin.tolist()}",
        )
        self.layers = [hashes.to(graph.device).sort().values for hashes in result.layers_hashes]
        self.searched = inverted if self.towards else graph

    def first(self, states: Tensor) -> tuple[int, list[int]] | None:
        """Of states (N, n), one in the nearest layer, and its path to the destination."""
        hashes = self.graph.hasher.make_hashes(self.graph.encode_states(states))
        for layer in self.layers:
            for row in isin_via_searchsorted(hashes, layer).nonzero()[:, 0].tolist():
                path = self.searched.find_path_to(states[row], self.result)
                if path is not None:
                    back = path[::-1] if self.towards else self.graph.definition.revert_path(path)
                    return row, back
        return None
