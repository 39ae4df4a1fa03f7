"""Finding the permutation of hidden units that aligns one network with another.

Weight and activation matching of "Git Re-Basin: Merging Models modulo Permutation Symmetries"
(arXiv 2209.04836). Beside the paper's start at the identity, the coordinate descent here also
starts from a layer-by-layer pass over incoming weights and keeps the better end, so that a planted
permutation is found exactly. That start is rankone's own.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from torch import Tensor, nn

from rankone.interpret._network_loss import (
    Parameters,
    as_inputs,
    check_same,
    recalibrate_batchnorm,
    skeleton_of,
)
from rankone.interpret._permutations import (
    Permutation,
    PermutationSpec,
    checked_permutations,
    entry_label,
    is_weight,
    permutation_sizes,
    permuted,
    sequential_layers,
    sequential_units,
)

# A step of the coordinate descent must gain more than this.
_LEAST_GAIN = 1e-9


def weight_matching(
    a: Parameters,
    b: Parameters,
    spec: PermutationSpec,
    max_iter: int = 100,
    random_state: Any = 0,
    init: Mapping[str, Any] | None = None,
) -> Permutation:
    """Permutations of ``b`` that bring its weights closest to those of ``a``.

    Maximises ``<a, P b>`` over all tensors of the spec, one permutation at a time by a linear
    assignment, in random order, until no step gains. For one hidden layer that is the optimum; for
    several it is a local one.

    Args:
        a, b: parameter dictionaries with the same names and shapes.
        spec: which axes are permuted.
        max_iter: sweeps over all permutations.
        random_state: seed of the order.
        init: permutations to start from. By default the descent starts from the identity and from
            a layer-by-layer match of incoming weights, and the better end is kept.

    Returns:
        Integers (size,) by permutation name, for :func:`apply_permutation` on ``b``.

    Raises:
        ValueError: for dictionaries that differ in names or shapes, a spec that does not fit them,
            max_iter below 1, and an init that is not made of permutations.

    Warns:
        ConvergenceWarning: if the last sweep still gained.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from rankone.interpret.mode_connectivity import (
        ...     apply_permutation, parameters_of, sequential_permutation_spec, weight_matching,
        ... )
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
        >>> a, spec = parameters_of(net), sequential_permutation_spec(net)
        >>> b = apply_permutation(a, spec, {"P0": [2, 0, 1]})
        >>> weight_matching(a, b, spec)["P0"].tolist()
        [1, 2, 0]
    """
    sizes = permutation_sizes(a, spec)
    if set(a) != set(b):
        check_same(a, b)
    # Counters and other tensors of a state dictionary take no part.
    a, b = ({name: params[name] for name in spec.axes} for params in (a, b))
    check_same(a, b)
    if isinstance(max_iter, bool) or not isinstance(max_iter, int) or max_iter < 1:
        raise ValueError(f"max_iter must be an integer of at least 1, got {max_iter!r}")
    match = _WeightMatch(a, b, spec, sizes)
    identity = {name: np.arange(size) for name, size in sizes.items()}
    if init is None:
        starts = [identity, match.incoming()]
    else:
        starts = [identity | checked_permutations(init, sizes, "init")]
    seed = check_random_state(random_state).randint(2**31)
    ends = [match.descend(start, max_iter, np.random.default_rng(seed)) for start in starts]
    best = max(ends, key=lambda end: end[1])
    if not best[2]:
        warnings.warn(
            f"weight matching still gained in sweep {max_iter}; raise max_iter",
            ConvergenceWarning,
            stacklevel=2,
        )
    return best[0]


def activation_matching(model: nn.Module, a: Parameters, b: Parameters, X: Any) -> Permutation:
    """Permutations of ``b`` whose hidden units correlate best with those of ``a`` on data.

    One linear assignment a layer, on the correlations of what the next layer reads, over inputs
    and positions; a unit that does not vary correlates with none. Running statistics of batch
    normalisation are computed anew for both networks.

    Args:
        model: an ``nn.Sequential`` that :func:`sequential_permutation_spec` supports.
        a, b: its parameter dictionaries.
        X: (n, ...) inputs.

    Returns:
        Integers (size,) by permutation name, for :func:`apply_permutation` on ``b``.

    Raises:
        TypeError, ValueError: as :func:`sequential_permutation_spec`, and for dictionaries that are
            not parameters of the model.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from rankone.interpret.mode_connectivity import (
        ...     activation_matching, apply_permutation, parameters_of, sequential_permutation_spec,
        ... )
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
        >>> a, spec = parameters_of(net), sequential_permutation_spec(net)
        >>> b = apply_permutation(a, spec, {"P0": [2, 0, 1]})
        >>> activation_matching(net, a, b, torch.randn(50, 2))["P0"].tolist()
        [1, 2, 0]
    """
    _, taps = sequential_units(model)
    check_same(a, b)
    activations_a, activations_b = (_hidden(model, params, X, taps) for params in (a, b))
    return {
        name: _assignment(_standardised(h).T @ _standardised(activations_b[name]))
        for name, h in activations_a.items()
    }


class _WeightMatch:
    """The objective <a, P b> over the tensors of a spec, in float64."""

    def __init__(
        self, a: Parameters, b: Parameters, spec: PermutationSpec, sizes: Mapping[str, int]
    ) -> None:
        self.axes = {name: spec.axes[name] for name in spec.axes}
        self.places = spec.perms
        self.sizes = sizes
        self.a = {name: a[name].detach().double() for name in spec.axes}
        self.b = {name: b[name].detach().double() for name in spec.axes}

    def value(self, names: Sequence[str], perm: Permutation) -> float:
        return sum(
            float((self.a[name] * permuted(self.b[name], self.axes[name], perm)).sum())
            for name in names
        )

    def step(self, target: str, perm: Permutation, places: Sequence[tuple[str, int]]) -> NDArray:
        """The best ``target`` given the other permutations, from these tensors alone."""
        size = self.sizes[target]
        some = self.a[places[0][0]]
        gains = torch.zeros((size, size), dtype=torch.float64, device=some.device)
        for name, axis in places:
            others = tuple(None if k == axis else e for k, e in enumerate(self.axes[name]))
            moved = permuted(self.b[name], others, perm)
            gains += (
                self.a[name].movedim(axis, 0).reshape(size, -1)
                @ moved.movedim(axis, 0).reshape(size, -1).T
            )
        return _assignment(gains)

    def descend(
        self, start: Permutation, max_iter: int, rng: np.random.Generator
    ) -> tuple[Permutation, float, bool]:
        perm, names = dict(start), list(self.places)
        converged = False
        for _ in range(max_iter):
            converged = True
            for i in rng.permutation(len(names)):
                target = names[i]
                places = self.places[target]
                tensors = list(dict.fromkeys(name for name, _ in places))
                proposal = {**perm, target: self.step(target, perm, places)}
                # Where one tensor has the permutation on two axes the step is not exact.
                if self.value(tensors, proposal) > self.value(tensors, perm) + _LEAST_GAIN:
                    perm, converged = proposal, False
            if converged:
                break
        return perm, self.value(list(self.axes), perm), converged

    def incoming(self) -> Permutation:
        """Each permutation from the tensors whose other axes are settled, in network order."""
        perm: Permutation = {}
        pending = list(self.places)
        while pending:
            usable = {name: self._settled(name, perm) for name in pending}
            weights = [n for n in pending if any(len(self.axes[t]) > 1 for t, _ in usable[n])]
            target = weights[0] if weights else pending[0]
            places = usable[target] or self.places[target]
            perm[target] = self.step(target, perm, places)
            pending.remove(target)
        return perm

    def _settled(self, target: str, perm: Permutation) -> list[tuple[str, int]]:
        return [
            (name, axis)
            for name, axis in self.places[target]
            if all(
                k == axis or entry is None or entry_label(entry)[0] in perm
                for k, entry in enumerate(self.axes[name])
            )
        ]


def _hidden(
    model: nn.Module, params: Parameters, X: Any, taps: Mapping[str, int]
) -> dict[str, Tensor]:
    """Hidden activations (samples, units) by permutation name."""
    network = skeleton_of(model, params)
    network.load_state_dict({**params, **recalibrate_batchnorm(model, params, X)}, strict=False)
    layers = sequential_layers(network)
    wanted = {i: name for name, i in taps.items()}
    h, hidden = as_inputs("X", X, params), {}
    convolutional = False
    with torch.no_grad():
        for i, (_, part) in enumerate(layers):
            if i in wanted:
                units = h.movedim(1, -1) if convolutional else h
                hidden[wanted[i]] = units.reshape(-1, units.shape[-1]).double()
            if is_weight(part):
                convolutional = not isinstance(part, nn.Linear)
            h = part(h)
    return hidden


def _standardised(h: Tensor) -> Tensor:
    """Columns of mean 0 and length 1; a column that does not vary becomes 0."""
    centred = h - h.mean(dim=0)
    length = centred.norm(dim=0)
    # What rounding alone leaves of a constant column.
    varies = length > len(h) ** 0.5 * torch.finfo(torch.float32).eps * h.abs().amax(dim=0)
    return torch.where(varies, centred / torch.where(varies, length, 1), 0)


def _assignment(gains: Tensor) -> NDArray[np.int64]:
    return linear_sum_assignment(gains.cpu().numpy(), maximize=True)[1].astype(np.int64)
