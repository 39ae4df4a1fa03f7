"""Free parameters of a network: directions of parameter space that leave its outputs as they are.

"Using Degeneracy in the Loss Landscape for Mechanistic Interpretability" (arXiv 2405.10927). The
behavioural loss ``L_B(theta) = mean |f_theta(x) - f_theta*(x)|^2`` has the quadratic form
``H = mean J_theta^T J_theta``. The bound of a linear layer's block of H by the product of two ranks
and the count ``s^2 - s`` of synchronised ReLUs are rankone's own derivations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rankone.interpret._gradients import (
    as_data,
    frozen_copy,
    numerical_rank,
    output_gradients,
    rows,
    symmetric_spectrum,
)

# Data points differentiated at once.
_BATCH_SIZE = 256


@dataclass(frozen=True)
class LayerDegeneracy:
    """Free parameters of one linear layer.

    Attributes:
        name: of the layer in the model.
        n_params: weights and biases.
        activation_rank: of the inputs' second moment, with a 1 appended for a bias.
        jacobian_rank: of the Gram of the Jacobian of the outputs by the layer's pre-activations.
        rank_bound: product of both, at least the rank of the layer's block of H.
        n_free: ``n_params - rank_bound``, at most the dimension of the block's null space.
        exact_rank: rank of the block, or None where it was not asked for.
        sync_groups: neurons that fire on exactly the same data points, for a layer before a ReLU.
        n_sync_free: sum of ``s^2 - s`` over groups of size s, besides the s rescalings.
    """

    name: str
    n_params: int
    activation_rank: int
    jacobian_rank: int
    rank_bound: int
    n_free: int
    exact_rank: int | None
    sync_groups: list[list[int]]
    n_sync_free: int


def synchronized_groups(preactivations: Any) -> list[list[int]]:
    """Neurons whose pre-activations are positive on exactly the same data points.

    A group of s ReLUs is linear in common, so that a local GL(s) change of basis leaves the network
    as it is. Neurons that never fire are in no group: their parameters are free already.

    Args:
        preactivations: (n, width) or (n, t, width).

    Returns:
        Groups of size 2 and more, each ascending, ordered by their first neuron.

    Raises:
        ValueError: for pre-activations that are not 2-D or 3-D, empty or not finite.

    Example:
        >>> from rankone.interpret.interaction_basis import synchronized_groups
        >>> synchronized_groups([[1.0, -1.0, 2.0], [-1.0, 1.0, -3.0]])
        [[0, 2]]
    """
    fires = rows(as_data("preactivations", preactivations)) > 0
    groups: dict[bytes, list[int]] = {}
    for neuron, pattern in enumerate(fires.T.cpu().numpy()):
        if pattern.any():
            groups.setdefault(pattern.tobytes(), []).append(neuron)
    return [group for group in groups.values() if len(group) > 1]


def parameter_degeneracy(
    model: nn.Sequential, X: Any, rtol: float = 1e-10, exact: bool = False
) -> list[LayerDegeneracy]:
    """Count the free parameters of every linear layer, in float64.

    The block of H of a linear layer has a rank of at most ``rank(G) rank(K)``, G the second moment
    of its inputs and K the Jacobian Gram at its pre-activations; equality holds where all later
    maps are linear.

    Args:
        model: Sequential, nested ones included. Its ``nn.Linear`` layers are counted; modules
            without trainable parameters may stand between them.
        X: (n, d), inputs.
        rtol: eigenvalues up to this, relative to the largest, count as zero.
        exact: compute the rank of each block of H as well, from a matrix of ``n_params`` squared.

    Returns:
        A :class:`LayerDegeneracy` for every linear layer, in order.

    Raises:
        TypeError: for a model that is not Sequential, and, by name, for a module with trainable
            parameters that is not ``nn.Linear``.
        ValueError: for a linear layer that is used twice, a model without any, a dropout or batch
            normalisation in training mode, an rtol outside [0, 1), and data that are not 2-D or not
            finite.

    Example:
        >>> import torch
        >>> from rankone.interpret.interaction_basis import parameter_degeneracy
        >>> X = torch.randn(50, 3) * torch.tensor([1.0, 1.0, 0.0])
        >>> (layer,) = parameter_degeneracy(torch.nn.Sequential(torch.nn.Linear(3, 2)), X)
        >>> layer.n_params, layer.rank_bound, layer.n_free
        (8, 6, 2)
    """
    if not isinstance(model, nn.Sequential):
        raise TypeError(f"model must be an nn.Sequential, got {type(model).__name__}")
    if not 0 <= rtol < 1:
        raise ValueError(f"rtol must be in [0, 1), got {rtol!r}")
    data = as_data("X", X, dims=(2,))
    _check_layers(model)
    copied = frozen_copy(model, "model", torch.float64)
    chain = list(_flattened(copied))
    linear = [i for i, (_, module) in enumerate(chain) if isinstance(module, nn.Linear)]
    moments: dict[int, Tensor] = {}
    grams: dict[int, Tensor] = {}
    blocks: dict[int, Tensor] = {}
    preactivations: dict[int, list[Tensor]] = {i: [] for i in linear}
    for batch in data.split(_BATCH_SIZE):
        inputs, outputs, last = _recorded(chain, batch)
        for i in linear:
            _accumulate(moments, i, inputs[i])
            preactivations[i].append(outputs[i].detach())
        for gradients in output_gradients(last, [outputs[i] for i in linear]):
            for i, gradient in zip(linear, gradients, strict=True):
                _accumulate(grams, i, gradient)
                if exact:
                    jacobian = gradient[:, :, None] * inputs[i][:, None, :]
                    _accumulate(blocks, i, jacobian.flatten(1))
    found = []
    for i in linear:
        name, module = chain[i]
        groups = []
        if _followed_by_relu(chain, i):
            groups = synchronized_groups(torch.cat(preactivations[i]))
        n_params = sum(parameter.numel() for parameter in module.parameters())
        ranks = numerical_rank(moments[i], rtol), numerical_rank(grams[i], rtol)
        found.append(
            LayerDegeneracy(
                name=name,
                n_params=n_params,
                activation_rank=ranks[0],
                jacobian_rank=ranks[1],
                rank_bound=math.prod(ranks),
                n_free=n_params - math.prod(ranks),
                exact_rank=numerical_rank(blocks[i], rtol) if exact else None,
                sync_groups=groups,
                n_sync_free=sum(len(group) ** 2 - len(group) for group in groups),
            )
        )
    return found


def effective_parameter_count(model: nn.Module, X: Any, epsilon: float, radius: float = 1.0) -> int:
    """Directions of parameter space that change the outputs by more than a resolution.

    The number of eigenvalues of H with ``lambda radius^2 > epsilon`` (rankone's own reading of the
    paper's count at a finite resolution). Eigenvalues below the rounding error of H count as zero,
    so that epsilon = 0 gives the rank of H.

    Args:
        model: any module with parameters, a data point to an output of any shape; all of its
            parameters count, frozen ones as well. Every operation must support ``torch.func``.
        X: (n, ...) inputs, 2-D or 3-D.
        epsilon: squared change of the outputs that is still invisible, at least 0.
        radius: length of a change of the parameters.

    Returns:
        The count.

    Raises:
        TypeError: for a model that is not a module.
        ValueError: for a model without parameters or with dropout or batch normalisation in
            training mode, a negative epsilon, a radius that is not positive, and unusable data.

    Example:
        >>> import torch
        >>> from rankone.interpret.interaction_basis import effective_parameter_count
        >>> X = torch.randn(50, 3) * torch.tensor([1.0, 1.0, 0.0])
        >>> effective_parameter_count(torch.nn.Linear(3, 2), X, epsilon=1e-9)
        6
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise ValueError(f"epsilon must be finite and at least 0, got {epsilon!r}")
    if not (math.isfinite(radius) and radius > 0):
        raise ValueError(f"radius must be positive and finite, got {radius!r}")
    data = as_data("X", X)
    copied = frozen_copy(model, "model", torch.float64)
    parameters = {name: value.detach() for name, value in copied.named_parameters()}
    if not parameters:
        raise ValueError("model must have parameters, got none")
    n_params = sum(value.numel() for value in parameters.values())

    def outputs(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(copied, parameters, (x[None],)).flatten()

    differentiate = torch.func.vmap(torch.func.jacrev(outputs), in_dims=(None, 0))

    def jacobian(batch: Tensor) -> Tensor:
        parts = differentiate(parameters, batch)
        return torch.cat([part.flatten(2) for part in parts.values()], dim=2).flatten(0, 1)

    with torch.no_grad():
        n_outputs = len(data) * outputs(parameters, data[0]).numel()
    # J^T J and J J^T have the same nonzero eigenvalues; the smaller is decomposed.
    if n_params <= n_outputs:
        gram = data.new_zeros((n_params, n_params))
        for batch in data.split(_BATCH_SIZE):
            J = jacobian(batch)
            gram.addmm_(J.T, J)
    else:
        J = torch.cat([jacobian(batch) for batch in data.split(_BATCH_SIZE)])
        gram = J @ J.T
    eigenvalues, _ = symmetric_spectrum(gram / len(data))
    floor = len(gram) * torch.finfo(gram.dtype).eps * eigenvalues[0]
    return int(((eigenvalues * radius**2 > epsilon) & (eigenvalues > floor)).sum())


def _flattened(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Modules in the order they run in, by dotted name, nested Sequentials opened."""
    for name, module in model.named_children():
        if isinstance(module, nn.Sequential):
            yield from _flattened(module, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", module


def _check_layers(model: nn.Sequential) -> None:
    """Every trainable parameter belongs to one linear layer that is used once."""
    seen: dict[int, str] = {}
    # named_children passes over a module that it has shown before; children by index do not.
    for name, module in _every_child(model):
        if type(module) is nn.Linear:
            for parameter in module.parameters():
                if id(parameter) in seen:
                    raise ValueError(
                        f"{name} shares its parameters with {seen[id(parameter)]}; a layer that is "
                        "used twice has no block of its own"
                    )
            seen |= {id(parameter): name for parameter in module.parameters()}
        elif any(parameter.requires_grad for parameter in module.parameters()):
            raise TypeError(
                f"{name} is a {type(module).__name__} with trainable parameters, and only those of "
                "nn.Linear are counted; freeze it with requires_grad_(False) to leave it out"
            )
    if not seen:
        raise ValueError("model must hold at least one nn.Linear, got none")


def _every_child(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    for name, module in model._modules.items():
        if isinstance(module, nn.Sequential):
            yield from _every_child(module, f"{prefix}{name}.")
        elif module is not None:
            yield f"{prefix}{name}", module


def _recorded(
    chain: list[tuple[str, nn.Module]], batch: Tensor
) -> tuple[dict[int, Tensor], dict[int, Tensor], Tensor]:
    """Inputs, with a 1 for a bias, and outputs of the linear layers, and the last output."""
    inputs: dict[int, Tensor] = {}
    outputs: dict[int, Tensor] = {}
    with torch.enable_grad():
        h = batch
        for i, (name, module) in enumerate(chain):
            if isinstance(module, nn.Linear):
                if h.ndim != 2:
                    raise ValueError(f"{name} must be given 2-D inputs, got {h.ndim}-D")
                f = h.detach()
                ones = f.new_ones((len(f), 1))
                inputs[i] = f if module.bias is None else torch.cat([f, ones], dim=1)
            h = module(h.clone())  # a module in place would write into the recorded tensor
            if isinstance(module, nn.Linear):
                # The first linear layer has no parameter and no input that takes a gradient.
                h = outputs[i] = h if h.requires_grad else h.requires_grad_()
        if h.ndim != 2:
            raise ValueError(f"model must return 2-D outputs, got {h.ndim}-D")
    return inputs, outputs, h


def _accumulate(sums: dict[int, Tensor], i: int, factors: Tensor) -> None:
    sums[i] = factors.T @ factors + sums.get(i, 0)


def _followed_by_relu(chain: list[tuple[str, nn.Module]], i: int) -> bool:
    following = [module for _, module in chain[i + 1 :] if not isinstance(module, nn.Identity)]
    return bool(following) and isinstance(following[0], nn.ReLU)
