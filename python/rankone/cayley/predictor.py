"""Estimates of the distance to the central state, by a model or a rule, for beams to follow."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rankone._namespace import public_names
from rankone.cayley.cayley_graph_def import AnyStateType
from rankone.cayley.errors import CayleyError, check

__all__ = ["Predictor"]

if TYPE_CHECKING:
    from rankone.cayley.cayley_graph import CayleyGraph

HEURISTICS = ("zero", "hamming")


class Predictor:
    """Estimated distances of states; models see decoded states.

    Args:
        graph: the graph.
        models_or_heuristics: "zero", "hamming" (positions that differ from the central state), a
            ``torch.nn.Module``, an object with a method ``predict``, or a callable; it takes
            decoded states (N, *state shape) int64 on the graph's device and returns (N,) scores, or
            (N, n_outputs) where it has an attribute ``n_outputs``.

    Attributes:
        model: what was given.
        n_outputs: 1, or the number of generators for a model that scores all children at once.
        history_: of a predictor from :func:`train_predictor`, a dict an epoch.

    Raises:
        CayleyError: for something that cannot be called.

    Example:
        >>> from rankone.cayley import CayleyGraph, PermutationGroups, Predictor
        >>> graph = CayleyGraph(PermutationGroups.lrx(4), device="cpu")
        >>> Predictor(graph, "hamming")([[1, 0, 2, 3]]).tolist()
        [2]
    """

    history_: list[dict[str, Any]]

    def __init__(self, graph: CayleyGraph, models_or_heuristics: Any) -> None:
        self.graph = graph
        self.model = models_or_heuristics
        self.n_outputs = int(getattr(models_or_heuristics, "n_outputs", 1))
        self.predict = self._callable(models_or_heuristics)

    def _callable(self, model: Any) -> Callable[[Tensor], Any]:
        if isinstance(model, str):
            if model == "zero":
                return lambda states: torch.zeros(states.shape[0], device=states.device)
            if model == "hamming":
                return self._hamming
            raise CayleyError(
                f"models_or_heuristics must be one of {', '.join(HEURISTICS)} or a model, "
                f"got {model!r}"
            )
        if isinstance(model, torch.nn.Module):
            return model.eval().to(self.graph.device)
        if hasattr(model, "predict"):
            return model.predict
        if callable(model):
            return model
        raise CayleyError(
            "models_or_heuristics must be a name, a module, an object with a method predict or a "
            f"callable, got {type(model).__name__}"
        )

    def _hamming(self, states: Tensor) -> Tensor:
        rows = states.reshape(-1, self.graph.definition.state_size)
        return (rows != self.graph.central_state).sum(1)

    @staticmethod
    def pretrained(graph: CayleyGraph) -> Predictor:
        """The predictor of the graph's checkpoint in the local model directory.

        See :func:`rankone.cayley.models.pretrained_path`; the network is never asked.

        Raises:
            KeyError: where there is none.
        """
        from rankone.cayley.models import load_checkpoint, pretrained_path

        path = pretrained_path(graph.definition)
        if not path.is_file():
            raise KeyError(f"no model of this graph at {path}")
        model, _ = load_checkpoint(path, str(graph.device), graph.definition)
        return Predictor(graph, model)

    def predict_batched(self, states: AnyStateType) -> Tensor:
        """What the model returns, ``graph.batch_size`` states at a time and without gradients.

        Args:
            states: decoded states.

        Returns:
            (N,) or (N, n_outputs).
        """
        graph = self.graph
        rows = graph.states_tensor(states).reshape(-1, *graph.definition.decoded_state_shape)
        with torch.no_grad():
            parts = [
                torch.as_tensor(self.predict(part), device=graph.device)
                for part in rows.split(graph.batch_size)
            ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def __call__(self, states: AnyStateType) -> Tensor:
        """One score a state.

        Raises:
            CayleyError: where the model returns another shape.
        """
        scores = self.predict_batched(states)
        count = len(self.graph.states_tensor(states))
        check(
            tuple(scores.shape) == (count,),
            f"the model must return one score for each of {count} states, got shape "
            f"{tuple(scores.shape)}; scores of all children are given by score_children",
        )
        return scores

    def score_children(self, states: AnyStateType) -> Tensor:
        """Scores of all neighbours of each state.

        One evaluation a state for a model with an output a generator, else one a child.

        Args:
            states: decoded states.

        Returns:
            (N, n_generators); column g is generator g.

        Raises:
            CayleyError: where the model's outputs are neither one nor as many as generators.
        """
        graph = self.graph
        rows, outputs = graph.states_tensor(states), graph.definition.n_generators
        if self.n_outputs == outputs != 1:
            scores = self.predict_batched(rows)
            check(
                tuple(scores.shape) == (len(rows), outputs),
                f"the model must return scores of shape {(len(rows), outputs)}, got "
                f"{tuple(scores.shape)}",
            )
            return scores
        check(
            self.n_outputs == 1,
            f"the model must have 1 output or {outputs}, one a generator, got {self.n_outputs}",
        )
        children = graph.get_neighbors_decoded(rows)
        return self(children).reshape(outputs, len(rows)).T.contiguous()


def __dir__() -> list[str]:
    return public_names(globals())
