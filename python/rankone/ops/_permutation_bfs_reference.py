"""Breadth-first search in a few lines of torch: the definition that every engine is tested against.

All layers are remembered and every neighbour is compared with all of them, so no property of the
generators is assumed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from rankone.ops._permutation_bfs_arguments import check_flat_starts, check_generators


def permutation_bfs_reference(
    generators: Tensor,
    start_states: Tensor,
    *,
    modulus: int = 0,
    limits: Mapping[str, Any] | None = None,
    max_layer_size_to_store: int | None = 0,
    on_level: Callable[[int, int, float], bool | None] | None = None,
) -> dict[str, Any]:
    """Search from ``start_states``; arguments as in :func:`rankone.ops.permutation_bfs`.

    Args:
        generators: (G, n) permutations or (G, r, r) matrices, int64.
        start_states: (k, size) int64.
        modulus: of matrices.
        limits: some of max_level, max_states, max_layer_size, max_seconds, max_bytes.
        max_layer_size_to_store: see there.
        on_level: see there.

    Returns:
        dict with status, layer_sizes, layers {level: (N, size) int64, sorted}, seconds and
        peak_bytes.

    Raises:
        ValueError: for generators that are no permutations or square matrices, or start states of
            another size.
        TypeError: for dtypes other than int64 (also a ``ValueError``).

    Example:
        >>> import torch
        >>> from rankone.ops._permutation_bfs_reference import permutation_bfs_reference
        >>> swap = torch.tensor([[1, 0]])
        >>> permutation_bfs_reference(swap, torch.tensor([[0, 1]]))["layer_sizes"]
        [1, 1]
    """
    generators = check_generators(generators, modulus)
    start_states = check_flat_starts(start_states, generators, modulus)
    limits = limits or {}
    began = time.perf_counter()
    layer = torch.unique(start_states, dim=0)
    seen = layer
    sizes: list[int] = []
    layers: dict[int, Tensor] = {}
    peak = 0
    status = "complete"
    while len(layer):
        level = len(sizes)
        sizes.append(len(layer))
        if level == 0 or max_layer_size_to_store is None or len(layer) <= max_layer_size_to_store:
            layers[level] = layer
        last = layer
        stopped = on_level is not None and on_level(level, len(layer), time.perf_counter() - began)
        status = _reason_to_stop(limits, sizes, stopped, time.perf_counter() - began, peak)
        if status != "complete":
            break
        candidates = torch.unique(_neighbors(layer, generators, modulus), dim=0)
        # A candidate is new where it stands once among all states seen and the candidates.
        together, where = torch.unique(torch.cat([seen, candidates]), dim=0, return_inverse=True)
        new = torch.ones(len(together), dtype=torch.bool, device=layer.device)
        new[where[: len(seen)]] = False
        layer, seen = together[new], together
        peak = max(peak, 3 * together.nbytes + candidates.nbytes)
    layers.setdefault(len(sizes) - 1, last)
    return {
        "status": status,
        "layer_sizes": sizes,
        "layers": layers,
        "seconds": time.perf_counter() - began,
        "peak_bytes": peak,
    }


def _neighbors(states: Tensor, generators: Tensor, modulus: int) -> Tensor:
    if generators.ndim == 2:
        return states[:, generators].reshape(-1, states.shape[1])
    rows = generators.shape[1]
    matrices = states.reshape(len(states), rows, -1)
    found = []
    for generator in generators:
        # Products are reduced before they are added: residues below 2^31 never overflow.
        products = generator[None, :, :, None] * matrices[:, None]
        total = (products % modulus).sum(2) % modulus if modulus else products.sum(2)
        found.append(total.reshape(len(states), -1))
    return torch.cat(found)


def _reason_to_stop(
    limits: Mapping[str, Any],
    sizes: list[int],
    stopped: object,
    seconds: float,
    peak: int,
) -> str:
    if stopped:
        return "stopped"
    unlimited = float("inf")
    if sizes[-1] > limits.get("max_layer_size", unlimited):
        return "max_layer_size"
    if sum(sizes) >= limits.get("max_states", unlimited):
        return "max_states"
    if len(sizes) - 1 >= limits.get("max_level", unlimited):
        return "max_level"
    if seconds >= limits.get("max_seconds", unlimited):
        return "time_limit"
    if peak > limits.get("max_bytes", unlimited):
        return "memory_limit"
    return "complete"
