"""Permutations of hidden units: which axes of which tensors share one, and applying it.

As in "Git Re-Basin: Merging Models modulo Permutation Symmetries" (arXiv 2209.04836), with
rankone's own blocks of entries behind a Flatten.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rankone.interpret._network_loss import Parameters

# An axis: not permuted, permuted, or permuted in blocks of consecutive entries.
AxisEntry = str | tuple[str, int] | None
Permutation = dict[str, NDArray[np.int64]]

_Weight = nn.Linear | nn.Conv1d | nn.Conv2d
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)
_POOLINGS = (
    nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.LPPool1d, nn.LPPool2d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d,
)  # fmt: skip
_ELEMENTWISE = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.RReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Tanh, nn.Sigmoid, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish, nn.Hardshrink, nn.Softshrink,
    nn.Tanhshrink, nn.Softplus, nn.Softsign, nn.LogSigmoid, nn.Threshold, nn.Identity,
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout,
)  # fmt: skip
_BATCHNORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
# Before the first and after the last weight, where nothing is permuted.
_OUTSIDE = (nn.Softmax, nn.LogSoftmax, nn.Unflatten)


@dataclass(frozen=True)
class PermutationSpec:
    """Which axis of which tensor is indexed by which permutation.

    A permutation of hidden units acts on the rows of the layer that makes them, on its bias and
    normalisation, and on the columns of every layer that reads them; only a complete list leaves
    the network's function as it is.

    Attributes:
        axes: for every parameter one entry an axis: None, the name of a permutation, or a pair
            (name, block), where unit i stands for the ``block`` consecutive entries from
            ``i * block``, as behind a Flatten.
        buffers: the same for buffers, such as running statistics; used by
            :func:`apply_permutation` where the dictionary holds them, never by the matching.

    Raises:
        ValueError: for entries that are none of these.

    Example:
        A residual network of two blocks: the stream shares one permutation, the inner units of
        each block have their own.

        >>> import torch
        >>> from torch import nn
        >>> from rankone.interpret.mode_connectivity import PermutationSpec
        >>> class ResNet(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.stem = nn.Conv2d(3, 8, 3, padding=1)
        ...         for k in (1, 2):
        ...             setattr(self, f"inner{k}", nn.Conv2d(8, 4, 3, padding=1))
        ...             setattr(self, f"outer{k}", nn.Conv2d(4, 8, 3, padding=1))
        ...         self.head = nn.Linear(8, 10)
        ...     def forward(self, x):
        ...         x = self.stem(x)
        ...         x = x + self.outer1(self.inner1(x).tanh())
        ...         x = x + self.outer2(self.inner2(x).tanh())
        ...         return self.head(x.mean(dim=(2, 3)))
        >>> axes = {"stem.weight": ("stream", None, None, None), "stem.bias": ("stream",)}
        >>> for k in (1, 2):
        ...     axes |= {
        ...         f"inner{k}.weight": (f"block{k}", "stream", None, None),
        ...         f"inner{k}.bias": (f"block{k}",),
        ...         f"outer{k}.weight": ("stream", f"block{k}", None, None),
        ...         f"outer{k}.bias": ("stream",),
        ...     }
        >>> axes |= {"head.weight": (None, "stream"), "head.bias": (None,)}
        >>> list(PermutationSpec(axes).perms)
        ['stream', 'block1', 'block2']
    """

    axes: Mapping[str, tuple[AxisEntry, ...]]
    buffers: Mapping[str, tuple[AxisEntry, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, entries in (*self.axes.items(), *self.buffers.items()):
            if isinstance(entries, str) or not isinstance(entries, Sequence):
                raise ValueError(
                    f"axes of {name} must be a tuple, one entry an axis, got {entries!r}"
                )
            for entry in entries:
                pair = isinstance(entry, tuple) and len(entry) == 2
                block = entry[1] if pair else 1  # type: ignore[index]
                label = entry[0] if pair else entry  # type: ignore[index]
                if (entry is None and not pair) or (isinstance(label, str) and _positive(block)):
                    continue
                raise ValueError(
                    f"axes of {name} must be None, a permutation name or a pair (name, block of at "
                    f"least 1), got {entry!r}"
                )

    @property
    def perms(self) -> dict[str, list[tuple[str, int]]]:
        """For every permutation the (parameter, axis) pairs that it indexes."""
        places: dict[str, list[tuple[str, int]]] = {}
        for name, entries in self.axes.items():
            for axis, entry in enumerate(entries):
                if entry is not None:
                    places.setdefault(entry_label(entry)[0], []).append((name, axis))
        return places


def sequential_permutation_spec(model: nn.Module) -> PermutationSpec:
    """The permutations of hidden units of an ``nn.Sequential``.

    Supported are Linear, Conv1d and Conv2d of one group, BatchNorm1d and 2d, LayerNorm,
    activations of single units, dropout, pooling, Flatten from axis 1 on, and Sequentials of these.

    Args:
        model: the network; the output of its last Linear or convolution is not permuted.

    Returns:
        Axes of all parameters, with "P0", "P1", ... for the hidden layers in order, and those of
        the running statistics as buffers.

    Raises:
        TypeError: for a model that is not an nn.Sequential.
        ValueError: for a module that is not supported or does not fit what it reads, by name.

    Example:
        >>> from torch import nn
        >>> from rankone.interpret.mode_connectivity import sequential_permutation_spec
        >>> net = nn.Sequential(
        ...     nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5), nn.Tanh(),
        ...     nn.Linear(5, 2),
        ... )
        >>> sequential_permutation_spec(net).axes["3.weight"]
        ('P1', ('P0', 36))
    """
    return sequential_units(model)[0]


def apply_permutation(
    params: Parameters, spec: PermutationSpec, perm: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Index every axis by its permutation.

    Args:
        params: tensors by name: parameters, or a whole state dictionary.
        spec: which axes are permuted.
        perm: integers (size,) by permutation name; new index i is old index ``perm[i]``.
            Permutations that are left out stay as they are.

    Returns:
        A new dictionary; tensors without a permuted axis are shared with ``params``.

    Raises:
        ValueError: for unknown tensors in ``spec``, unknown names in ``perm``, and something that
            is not a permutation of the right size.

    Example:
        >>> import torch
        >>> from rankone.interpret.mode_connectivity import PermutationSpec, apply_permutation
        >>> spec = PermutationSpec({"bias": ("P0",)})
        >>> apply_permutation({"bias": torch.tensor([5.0, 7.0])}, spec, {"P0": [1, 0]})["bias"]
        tensor([7., 5.])
    """
    sizes = permutation_sizes(params, spec)
    order = checked_permutations(perm, sizes, "perm")
    result = dict(params)
    for name, entries in (*spec.axes.items(), *spec.buffers.items()):
        if name in params:
            result[name] = permuted(params[name], entries, order)
    return result


def sequential_units(model: nn.Module) -> tuple[PermutationSpec, dict[str, int]]:
    """The spec of a Sequential, and for every permutation the layer that reads its units."""
    layers = sequential_layers(model)
    weighted = [i for i, (_, part) in enumerate(layers) if is_weight(part)]
    seen: dict[int, str] = {}
    axes: dict[str, tuple[AxisEntry, ...]] = {}
    buffers: dict[str, tuple[AxisEntry, ...]] = {}
    taps: dict[str, int] = {}
    units = _Units()
    for i, (name, part) in enumerate(layers):
        if any(True for _ in part.parameters()) and seen.setdefault(id(part), name) != name:
            raise ValueError(
                f"{_title(name, part)} must hold parameters of its own, but is module "
                f"{seen[id(part)]} again"
            )
        if units.name is not None and (is_weight(part) or type(part) is nn.Flatten):
            taps.setdefault(units.name, i)
        if is_weight(part):
            entry = units.read_by(name, part)
            made = None if i == weighted[-1] else f"P{weighted.index(i)}"
            rest = part.weight.ndim - 2
            axes[_join(name, "weight")] = (made, entry, *(None,) * rest)
            if part.bias is not None:
                axes[_join(name, "bias")] = (made,)
            units = _Units(made, part.weight.shape[0], isinstance(part, _CONVOLUTIONS))
        elif type(part) in _BATCHNORMS or type(part) is nn.LayerNorm or type(part) is nn.PReLU:
            for key, value in part.named_parameters(recurse=False):
                axes[_join(name, key)] = units.affine(name, part, value)
            for key, value in part.named_buffers(recurse=False):
                if value.ndim == 1:
                    buffers[_join(name, key)] = units.affine(name, part, value)
        elif type(part) is nn.Flatten:
            units.flatten(name, part)
        elif type(part) in _POOLINGS:
            if units.name is not None and not units.convolutional:
                raise ValueError(
                    f"{_title(name, part)} must follow a convolution: it would mix the units of a "
                    "Linear"
                )
        elif type(part) not in _ELEMENTWISE and not (type(part) in _OUTSIDE and units.name is None):
            raise ValueError(
                f"{_title(name, part)} is not supported in a Sequential: write its axes by hand in "
                "a PermutationSpec"
            )
    return PermutationSpec(axes, buffers), taps


@dataclass
class _Units:
    """The hidden units that reach a layer: their permutation, count and place."""

    name: str | None = None
    count: int = 0
    convolutional: bool = False  # units on axis 1, otherwise on the last axis
    flat: bool = False

    def read_by(self, name: str, part: _Weight) -> AxisEntry:
        """The entry of the input axis of a weight."""
        if self.name is None:
            return None
        if isinstance(part, nn.Linear):
            block, rest = divmod(part.in_features, self.count)
            fits = rest == 0 and (self.flat if self.convolutional else block == 1)
            if not fits:
                behind = (
                    "a Flatten and a multiple of" if self.convolutional else "as many inputs as"
                )
                raise ValueError(
                    f"{_title(name, part)} must have {behind} the {self.count} units before it, "
                    f"got {part.in_features}"
                )
            return self.name if block == 1 else (self.name, block)
        if not self.convolutional or self.flat or part.weight.shape[1] != self.count:
            raise ValueError(
                f"{_title(name, part)} must read the {self.count} channels of a convolution, got "
                f"{part.weight.shape[1]} input channels"
            )
        return self.name

    def affine(self, name: str, part: nn.Module, value: Tensor) -> tuple[AxisEntry, ...]:
        """The entries of a tensor of normalisation or PReLU."""
        unpermuted: tuple[AxisEntry, ...] = (None,) * value.ndim
        if self.name is None or (type(part) is nn.PReLU and value.numel() == 1):
            return unpermuted
        if type(part) is nn.LayerNorm and self.convolutional and not self.flat:
            # Over channels and positions, or over positions alone.
            over_channels = value.shape[0] == self.count and value.ndim > 1
            return (self.name, *unpermuted[1:]) if over_channels else unpermuted
        size = value.shape[-1]
        block, rest = divmod(size, self.count)
        if rest or (block != 1 and not self.flat) or value.ndim != 1:
            raise ValueError(
                f"{_title(name, part)} must have one entry for each of the {self.count} units "
                f"before it, got shape {tuple(value.shape)}"
            )
        return (self.name if block == 1 else (self.name, block),)

    def flatten(self, name: str, part: nn.Flatten) -> None:
        if (part.start_dim, part.end_dim) != (1, -1) and self.name is not None:
            raise ValueError(
                f"{_title(name, part)} must flatten from axis 1 to the last, got "
                f"{part.start_dim} to {part.end_dim}"
            )
        self.flat = self.convolutional


def sequential_layers(model: nn.Module, prefix: str = "") -> list[tuple[str, nn.Module]]:
    """Names and modules of a Sequential in the order in which they run, inner ones opened."""
    if not isinstance(model, nn.Sequential) or type(model).forward is not nn.Sequential.forward:
        raise TypeError(
            f"model must be an nn.Sequential, got {type(model).__name__}: for other networks write "
            "the axes by hand in a PermutationSpec"
        )
    layers: list[tuple[str, nn.Module]] = []
    for key, part in model._modules.items():
        if part is None:
            continue
        inner = isinstance(part, nn.Sequential) and type(part).forward is nn.Sequential.forward
        name = _join(prefix, key)
        layers += sequential_layers(part, name) if inner else [(name, part)]
    return layers


def is_weight(part: nn.Module) -> TypeGuard[_Weight]:
    if type(part) in _CONVOLUTIONS:
        return part.groups == 1  # type: ignore[return-value]
    return type(part) is nn.Linear


def permuted(value: Tensor, entries: Sequence[AxisEntry], perm: Mapping[str, Any]) -> Tensor:
    for axis, entry in enumerate(entries):
        if entry is None or entry_label(entry)[0] not in perm:
            continue
        name, block = entry_label(entry)
        order = torch.as_tensor(perm[name], device=value.device)
        index = (order[:, None] * block + torch.arange(block, device=value.device)).reshape(-1)
        value = value.index_select(axis, index)
    return value


def permutation_sizes(params: Parameters, spec: PermutationSpec) -> dict[str, int]:
    """Size of every permutation; raises unless the spec fits the tensors."""
    if not isinstance(spec, PermutationSpec):
        raise TypeError(f"spec must be a PermutationSpec, got {type(spec).__name__}")
    unknown = sorted(set(spec.axes) - set(params))
    if unknown:
        raise ValueError(f"spec names unknown tensors: {unknown}")
    sizes: dict[str, int] = {}
    for name, entries in (*spec.axes.items(), *spec.buffers.items()):
        if name not in params:
            continue
        shape = tuple(params[name].shape)
        if len(entries) != len(shape):
            raise ValueError(
                f"spec must give {name} one entry for each of its {len(shape)} axes, got {entries}"
            )
        for axis, entry in enumerate(entries):
            if entry is None:
                continue
            label, block = entry_label(entry)
            size, rest = divmod(shape[axis], block)
            if rest or sizes.setdefault(label, size) != size:
                raise ValueError(
                    f"axis {axis} of {name} must have {sizes.get(label, 'a multiple of')} units "
                    f"of {block} for permutation {label}, got {shape[axis]} entries"
                )
    return sizes


def checked_permutations(perm: Any, sizes: Mapping[str, int], argument: str) -> Permutation:
    if not isinstance(perm, Mapping):
        raise TypeError(f"{argument} must be a dictionary by name, got {type(perm).__name__}")
    unknown = sorted(set(perm) - set(sizes))
    if unknown:
        raise ValueError(f"{argument} names unknown permutations: {unknown}")
    checked: Permutation = {}
    for name, order in perm.items():
        order = np.asarray(order)
        size = sizes[name]
        whole = order.shape == (size,) and order.dtype.kind in "iu"
        if not whole or not np.array_equal(np.sort(order), np.arange(size)):
            raise ValueError(
                f"{argument}[{name!r}] must be a permutation of 0..{size - 1}, got {order}"
            )
        checked[name] = order.astype(np.int64)
    return checked


def entry_label(entry: AxisEntry) -> tuple[str, int]:
    assert entry is not None
    return (entry, 1) if isinstance(entry, str) else entry


def _positive(block: Any) -> bool:
    return isinstance(block, int) and not isinstance(block, bool) and block >= 1


def _join(prefix: str, key: str) -> str:
    return f"{prefix}.{key}" if prefix else key


def _title(name: str, part: nn.Module) -> str:
    return f"module {name} ({type(part).__name__})"
