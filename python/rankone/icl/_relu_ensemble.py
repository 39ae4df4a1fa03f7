"""Ensembles of two-layer ReLU networks in NTK parameterisation, trained as batched tensors.

f(x) = (sigma_w / sqrt m) V relu((sigma_w / sqrt k) W x), no biases, full-batch gradient descent on
half the squared error over the k standard basis vectors. The design is the identity, so the hidden
pre-activations are the columns of W / sqrt k and one step of N networks is three batched products.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from joblib import Parallel, delayed, effective_n_jobs
from numpy.typing import NDArray
from torch import Tensor

# Tensors of the size of W that live at once in training: W, V, relu, two gradients and a mask.
_LIVE_TENSORS = 6


@dataclass(frozen=True)
class TrainedEnsemble:
    """Weights of N networks.

    Attributes:
        W: (N, m, k) float32, first layers, on the CPU.
        V: (N, k, m) float32, readouts, on the CPU.
        steps: (N,) steps every network took.
        residuals: (N,) largest absolute training error of every network.
    """

    W: Tensor
    V: Tensor
    steps: NDArray
    residuals: NDArray


def train_ensemble(
    targets: NDArray,
    n_models: int,
    width: int,
    *,
    readout_only: bool,
    sigma_w: float,
    step_size: float,
    max_steps: int,
    tol: float,
    max_bytes: int,
    device: str,
    n_jobs: int | None,
    seed: int,
) -> TrainedEnsemble:
    """Train ``n_models`` networks from independent standard normal weights.

    A network stops at the first step with every training error below ``tol``. Each draws from a
    generator of its own, so that its weights do not depend on the chunks or on ``n_jobs``.

    Args:
        targets: (k, k), outputs by inputs.
        n_models, width: N and m.
        readout_only: train V alone.
        sigma_w: scale of both layers.
        step_size: of gradient descent.
        max_steps, tol: when to stop.
        max_bytes: of all tensors of the networks that are trained at once.
        device: torch device.
        n_jobs: chunks trained at once, in threads.
        seed: of the weights.

    Returns:
        The trained weights.
    """
    k = len(targets)
    jobs = effective_n_jobs(n_jobs)
    size = max(1, max_bytes // (jobs * _LIVE_TENSORS * 4 * width * k))
    size = min(size, math.ceil(n_models / jobs))
    seeds = np.random.SeedSequence(seed).spawn(n_models)
    W = torch.empty(n_models, width, k)
    V = torch.empty(n_models, k, width)
    steps = np.zeros(n_models, dtype=np.int64)
    residuals = np.zeros(n_models)
    wanted = torch.as_tensor(targets, dtype=torch.float32, device=device)

    def train(start: int) -> None:
        stop = min(start + size, n_models)
        w, v = _initial(seeds[start:stop], width, k)
        w, v = w.to(device), v.to(device)
        steps[start:stop], residuals[start:stop] = _descend(
            w,
            v,
            wanted,
            readout_only=readout_only,
            sigma_w=sigma_w,
            step_size=step_size,
            max_steps=max_steps,
            tol=tol,
        )
        W[start:stop], V[start:stop] = w.cpu(), v.cpu()

    Parallel(n_jobs=jobs, prefer="threads", require="sharedmem")(
        delayed(train)(start) for start in range(0, n_models, size)
    )
    return TrainedEnsemble(W, V, steps, residuals)


def check_device(device: str) -> None:
    """Raise ValueError for a torch device that this machine or this torch does not have."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device must be an available torch device, got {device!r}") from error


def member_outputs(
    weights: tuple[Tensor, Tensor],
    inputs: NDArray,
    *,
    sigma_w: float,
    max_bytes: int,
    device: str,
) -> Iterator[NDArray]:
    """Outputs of the networks at unit inputs (q, k), in chunks (n, q, k) of float32."""
    W, V = weights
    n_models, width, k = W.shape
    x = torch.as_tensor(inputs, dtype=torch.float32, device=device)
    size = max(1, max_bytes // (4 * width * (2 * len(x) + 2 * k)))
    for start in range(0, n_models, size):
        w = W[start : start + size].to(device)
        v = V[start : start + size].to(device)
        hidden = torch.relu_(w @ x.T)
        outputs = (v @ hidden).mul_(sigma_w**2 / math.sqrt(width * k))
        yield outputs.transpose(1, 2).cpu().numpy()


def _initial(seeds: list[np.random.SeedSequence], width: int, k: int) -> tuple[Tensor, Tensor]:
    drawn = np.empty((len(seeds), 2 * width * k), dtype=np.float32)
    for row, seed in zip(drawn, seeds, strict=True):
        np.random.default_rng(seed).standard_normal(out=row, dtype=np.float32)
    both = torch.from_numpy(drawn)
    first = both[:, : width * k].reshape(-1, width, k)
    return first.clone(), both[:, width * k :].reshape(-1, k, width).clone()


def _descend(
    W: Tensor,
    V: Tensor,
    targets: Tensor,
    *,
    readout_only: bool,
    sigma_w: float,
    step_size: float,
    max_steps: int,
    tol: float,
) -> tuple[NDArray, NDArray]:
    """Gradient descent in place; steps taken and last residual of every network."""
    n_models, width, k = W.shape
    inner = sigma_w / math.sqrt(k)
    outer = sigma_w / math.sqrt(width)
    hidden = torch.relu(W).mul_(inner)
    steps = torch.zeros(n_models, dtype=torch.int64, device=W.device)
    for step in range(max_steps + 1):
        error = torch.baddbmm(targets.expand(n_models, k, k), V, hidden, beta=-1, alpha=outer)
        residual = error.abs().amax(dim=(1, 2))
        # Written so that a NaN goes on and is reported, not taken for convergence.
        running = ~(residual < tol)
        if step == max_steps or not bool(running.any()):
            break
        steps += running
        error *= running[:, None, None]
        if readout_only:
            V.baddbmm_(error, hidden.transpose(1, 2), alpha=-step_size * outer)
            continue
        back = torch.bmm(V.transpose(1, 2), error).mul_(W > 0)
        V.baddbmm_(error, hidden.transpose(1, 2), alpha=-step_size * outer)
        W.sub_(back, alpha=step_size * outer * inner)
        torch.clamp(W, min=0, out=hidden).mul_(inner)
    return steps.cpu().numpy(), residual.double().cpu().numpy()
