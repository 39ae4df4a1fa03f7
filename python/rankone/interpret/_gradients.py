"""Networks as chains of sections: checked, run in one dtype, and differentiated row by row.

A section maps (n, d) to (n, d') or (n, t, d) to (n, t', d') or (n, d'), every row of the batch on
its own. One backward pass per output coordinate, seeded for the whole batch, then gives that row of
every Jacobian, for all earlier layers at once and for any operation with an autograd formula.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

Section = Callable[[Tensor], Tensor]

# Rows that are run alone as well, to see that a batch treats its rows independently.
_PROBED_ROWS = 2


def as_data(
    name: str,
    values: Any,
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
    dims: tuple[int, ...] = (2, 3),
) -> Tensor:
    """``values`` as a finite detached tensor of the allowed numbers of dimensions."""
    if isinstance(values, Tensor):
        tensor = values
    else:
        array = np.array(values)
        if array.dtype.kind not in "bifuc":
            raise TypeError(f"{name} must be numeric, got dtype {array.dtype}")
        tensor = torch.as_tensor(array)
    if tensor.is_complex():
        raise TypeError(f"{name} must be real, got {tensor.dtype}")
    if tensor.ndim not in dims:
        allowed = " or ".join(f"{d}-D" for d in dims)
        raise ValueError(f"{name} must be {allowed}, got {tensor.ndim}-D")
    if 0 in tensor.shape:
        raise ValueError(f"{name} must not be empty, got shape {tuple(tensor.shape)}")
    # A copy of its own: tensors of inference mode cannot enter a graph.
    tensor = tensor.detach().to(device=device, dtype=dtype, copy=True).contiguous()
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return tensor


def rows(tensor: Tensor) -> Tensor:
    """All positions of all data points: (n, d), or (n t, d) of (n, t, d), in float64."""
    return tensor.reshape(-1, tensor.shape[-1]).double()


def integer(name: str, value: Any, minimum: int) -> int:
    """``value`` as an int of at least ``minimum``, or an error that names it."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < minimum:
        raise ValueError(f"{name} must be an integer of at least {minimum}, got {value!r}")
    return int(value)


def frozen_copy(module: nn.Module, name: str, dtype: torch.dtype) -> nn.Module:
    """A copy in ``dtype`` whose parameters take no gradient; the caller's module stays as it is.

    Raises:
        ValueError: for a dropout or batch normalisation in training mode, whose outputs are random
            or mix the rows of a batch.
    """
    for path, part in module.named_modules():
        noisy = isinstance(part, _DropoutNd) and part.p > 0
        if part.training and (noisy or isinstance(part, _BatchNorm)):
            where = f"{name}.{path}" if path else name
            raise ValueError(
                f"{where} is a {type(part).__name__} in training mode; call eval() on it, so that "
                "a data point has one output"
            )
    return copy.deepcopy(module).to(dtype).requires_grad_(False)


def checked_sections(sections: Any, dtype: torch.dtype) -> list[Section]:
    """The sections with their modules copied to ``dtype``."""
    try:
        listed = list(sections)
    except TypeError:
        raise TypeError(
            "sections must be a sequence of callables, such as a list or an nn.Sequential, got "
            f"{type(sections).__name__}"
        ) from None
    if not listed:
        raise ValueError("sections must hold at least one callable, got none")
    for i, section in enumerate(listed):
        if not callable(section):
            raise TypeError(f"sections[{i}] must be callable, got {type(section).__name__}")
    return [
        frozen_copy(section, f"sections[{i}]", dtype) if isinstance(section, nn.Module) else section
        for i, section in enumerate(listed)
    ]


def run_named(function: Section, name: str, h: Tensor) -> Tensor:
    """Output of a function of h, checked; errors carry its name."""
    try:
        # A copy, since a module in place would write into the node layer itself.
        output = function(h.clone())
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if "dtype" in str(error):
            raise TypeError(
                f"{name} does not run on {h.dtype} inputs ({error}); modules among sections are "
                "converted, other functions are not: give a module, or set dtype to its weights'"
            ) from error
        raise ValueError(f"{name} fails on inputs of shape {tuple(h.shape)}: {error}") from error
    if not isinstance(output, Tensor) or output.ndim not in (2, 3):
        got = f"{output.ndim}-D" if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"{name} must return a 2-D or 3-D tensor, got {got}")
    if len(output) != len(h):
        raise ValueError(
            f"{name} must return a row for every data point, got {len(output)} for {len(h)}"
        )
    return output


def run_section(sections: Sequence[Section], i: int, h: Tensor) -> Tensor:
    """Output of section i, checked."""
    return run_named(sections[i], f"sections[{i}]", h)


def run_chain(sections: Sequence[Section], h: Tensor, start: int = 0) -> list[Tensor]:
    """Node layers from ``start`` on, h first."""
    nodes = [h]
    for i in range(start, len(sections)):
        nodes.append(run_section(sections, i, nodes[-1]))
    return nodes


def node_layers(sections: Sequence[Section], X: Tensor, batch_size: int) -> list[Tensor]:
    """All node layers of all data points, each finite and each row independent of its batch.

    Raises:
        ValueError: for non-finite node layers, and for a section that gives a data point another
            value in another batch.
    """
    with torch.no_grad():
        parts = [run_chain(sections, batch) for batch in X.split(batch_size)]
        nodes = [torch.cat(layer) for layer in zip(*parts, strict=True)]
        for i, node in enumerate(nodes[1:]):
            if not bool(torch.isfinite(node).all()):
                raise ValueError(f"sections[{i}] must return finite values, got NaN or infinity")
        if len(X) > _PROBED_ROWS:
            alone = run_chain(sections, X[:_PROBED_ROWS])
            for i, (node, probe) in enumerate(zip(nodes[1:], alone[1:], strict=True)):
                allowed = torch.finfo(X.dtype).eps ** 0.5 * float(node.abs().max())
                if float((node[:_PROBED_ROWS] - probe).abs().max()) > allowed:
                    raise ValueError(
                        f"sections[{i}] must treat every data point on its own and without "
                        "randomness; the same rows came out different in a batch of another size"
                    )
    return nodes


def output_gradients(
    output: Tensor, nodes: Sequence[Tensor], probes: Tensor | None = None
) -> Iterator[tuple[Tensor, ...]]:
    """Gradients of each output coordinate with respect to each node, for all rows of a batch.

    Args:
        output: (b, m) or (b, t, m), computed from the nodes.
        nodes: tensors of leading size b that take gradients.
        probes: (sources, b, t) of random signs; each source then stands for a sum over positions.

    Yields:
        A tuple of gradients shaped as the nodes: coordinates vary fastest, positions or sources
        slowest.
    """
    if not output.requires_grad:
        raise ValueError(
            "the output carries no gradient back to the activations: it is constant, or a section "
            "detaches it"
        )
    if probes is not None:
        seeds = probes
    elif output.ndim == 3:
        positions = torch.eye(output.shape[1], dtype=output.dtype, device=output.device)
        seeds = positions[:, None].expand(-1, output.shape[0], -1)
    else:
        seeds = output.new_ones((1, output.shape[0]))
    for seed in seeds:
        for i in range(output.shape[-1]):
            weights = torch.zeros_like(output)
            weights[..., i] = seed
            yield torch.autograd.grad(
                output, list(nodes), weights, retain_graph=True, materialize_grads=True
            )


def random_signs(output: Tensor, n_sources: int, generator: torch.Generator) -> Tensor:
    """Signs (n_sources, b, t) for an output (b, t, m), or (n_sources, b) for (b, m)."""
    signs = torch.randint(0, 2, (n_sources, *output.shape[:-1]), generator=generator)
    return (2 * signs - 1).to(output)


def symmetric_spectrum(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, clipped at 0 and descending, and eigenvectors of the symmetric part."""
    values, vectors = torch.linalg.eigh((gram + gram.T) / 2)
    return values.clamp(min=0).flip(0), vectors.flip(1)


def numerical_rank(gram: Tensor, rtol: float) -> int:
    """Eigenvalues of a positive semidefinite matrix above ``rtol`` times the largest."""
    values, _ = symmetric_spectrum(gram)
    return int((values > rtol * values[0]).sum())
