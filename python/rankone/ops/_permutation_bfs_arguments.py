"""What a breadth-first search is given: generators and start states, checked."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rankone.ops import checks


def check_permutations(generators: Tensor) -> None:
    size = generators.shape[-1]
    identity = torch.arange(size, device=generators.device)
    wrong = (generators.sort(dim=1).values != identity).any(1).nonzero()
    if len(wrong):
        index = int(wrong[0])
        raise ValueError(
            f"generators[{index}] must be a permutation of 0..{size - 1}, "
            f"got {generators[index].tolist()[:20]}"
        )


def check_int64(**tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        if tensor.dtype != torch.int64:
            raise checks.DTypeError(f"{name} must be int64, got {tensor.dtype}")


def check_generators(generators: Tensor, modulus: int) -> Tensor:
    """Permutations (count, n), or matrices (count, r, r) reduced by ``modulus``; int64."""
    checks.check_tensor("generators", generators)
    check_int64(generators=generators)
    if generators.ndim not in (2, 3) or generators.numel() == 0:
        raise ValueError(
            "generators must be permutations (count, n) or matrices (count, r, r), at least one, "
            f"got shape {checks.shape_of(generators)}"
        )
    generators = generators.detach().contiguous()
    size = generators.shape[-1]
    if generators.ndim == 3:
        if generators.shape[1] != size:
            raise ValueError(
                f"generators must be square matrices, got shape {checks.shape_of(generators)}"
            )
        if modulus != 0 and not 2 <= modulus <= 2**31:
            raise ValueError(f"modulus must be 0 or from 2 to 2**31, got {modulus}")
        if modulus:
            generators = generators % modulus
    else:
        if modulus:
            raise ValueError(f"modulus goes with matrices, got {modulus} for permutations")
        check_permutations(generators)
    return generators


def check_graph(
    generators: Tensor, start_state: Tensor | None, modulus: int
) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """Checked generators on their device, start states (k, size) on the CPU, and the shape of one
    state."""
    generators = check_generators(generators, modulus)
    count, size = generators.shape[0], generators.shape[-1]
    matrices = generators.ndim == 3
    if start_state is None:
        start_state = torch.eye(size, dtype=torch.int64) if matrices else torch.arange(size)
    checks.check_tensor("start_state", start_state)
    check_int64(start_state=start_state)
    axes = 2 if matrices else 1
    shape = tuple(start_state.shape[-axes:])
    if start_state.ndim not in (axes, axes + 1) or shape[0] != size or start_state.numel() == 0:
        expected = f"({size}, c) or (k, {size}, c)" if matrices else f"({size},) or (k, {size})"
        raise ValueError(
            f"start_state must have shape {expected} for {count} generators of size {size}, "
            f"got {checks.shape_of(start_state)}"
        )
    starts = start_state.detach().cpu().reshape(-1, int(np.prod(shape)))
    if matrices and modulus:
        starts = starts % modulus
    elif not matrices and int(starts.min()) < 0:
        raise ValueError(f"start_state must not be negative, got {int(starts.min())}")
    return generators, starts, shape


def check_flat_starts(start_states: Tensor, generators: Tensor, modulus: int) -> Tensor:
    """Start states (k, size), matrices row by row and reduced by ``modulus``."""
    checks.check_rank("start_states", start_states, ("k", "size"))
    check_int64(start_states=start_states)
    count, n = generators.shape[0], generators.shape[-1]
    matrices = generators.ndim == 3
    size = start_states.shape[1]
    if start_states.numel() == 0 or (size % n if matrices else size != n):
        expected = f"(k, {n} * c)" if matrices else f"(k, {n})"
        raise ValueError(
            f"start_states must have shape {expected} for {count} generators of size {n}, "
            f"got {checks.shape_of(start_states)}"
        )
    checks.check_same_device({"generators": generators, "start_states": start_states})
    if matrices and modulus:
        return start_states % modulus
    if not matrices and int(start_states.min()) < 0:
        raise ValueError(f"start_states must not be negative, got {int(start_states.min())}")
    return start_states
