"""Graphs from a configuration: a name and numbers, or generators."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
from torch import Tensor

from rankone.cayley.cayley_graph import CayleyGraph
from rankone.cayley.cayley_graph_def import AnyStateType, CayleyGraphDef, MatrixGenerator
from rankone.cayley.errors import CayleyError, check
from rankone.cayley.graphs_lib import prepare_graph


def create_graph(
    *,
    generators_permutations: list[list[int]] | Tensor | np.ndarray | None = None,
    generators_matrices: list[MatrixGenerator | list | np.ndarray] | None = None,
    generator_names: list[str] | None = None,
    name: str = "",
    central_state: AnyStateType | str | None = None,
    make_inverse_closed: bool = False,
    **kwargs: Any,
) -> CayleyGraph:
    """A graph from permutations, from matrices, or by name.

    Args:
        generators_permutations: one-line permutations.
        generators_matrices: matrices; plain ones are not reduced modulo anything.
        generator_names: names of the generators.
        name: where no generators are given, what :func:`prepare_graph` is asked for.
        central_state: default the one of the named graph, or the identity.
        make_inverse_closed: add missing inverses.
        **kwargs: arguments of :class:`CayleyGraph`; the rest goes to :func:`prepare_graph`.

    Returns:
        The graph.

    Raises:
        CayleyError: where there are neither generators nor a name, or both kinds of generators.

    Example:
        >>> from rankone.cayley import create_graph
        >>> create_graph(name="lrx", n=5, device="cpu").definition.name
        'lrx-5'
    """
    accepted = inspect.signature(CayleyGraph.__init__).parameters
    options = {key: value for key, value in kwargs.items() if key in accepted}
    rest = {key: value for key, value in kwargs.items() if key not in accepted}
    check(
        generators_permutations is None or generators_matrices is None,
        "give either generators_permutations or generators_matrices, not both",
    )
    if generators_permutations is not None:
        definition = CayleyGraphDef.create(
            generators_permutations, generator_names, central_state, name
        )
    elif generators_matrices is not None:
        matrices = [
            matrix if isinstance(matrix, MatrixGenerator) else MatrixGenerator.create(matrix)
            for matrix in generators_matrices
        ]
        definition = CayleyGraphDef.for_matrix_group(
            generators=matrices,
            generator_names=generator_names,
            central_state=central_state,
            name=name,
        )
    elif name:
        definition = prepare_graph(name, **rest)
        rest = {}
        if central_state is not None:
            definition = definition.with_central_state(central_state)
    else:
        raise CayleyError("generators_permutations, generators_matrices or name must be given")
    if make_inverse_closed:
        definition = definition.make_inverse_closed()
    return CayleyGraph(definition, **options, **rest)
