"""A quick look at this machine's speed: the native op beside eager chunked torch and SDPA.

Behind `rankone bench`. The thorough comparisons stand in bench/ of the source tree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from rankone import _environment, _timing, ops
from rankone._progress import Progress
from rankone.ops._library import native_for
from rankone.reproduce import Table

NATIVE, EAGER, SDPA = "native", "chunked torch", "SDPA"


def bench(
    lengths: Sequence[int] = (256, 1024, 4096),
    *,
    heads: int = 4,
    head_dim: int = 64,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    threads: int = 1,
    repeats: int = 7,
    random_state: int = 0,
    progress: bool = True,
) -> list[Table]:
    """Time linear attention with a decay a head, forward and forward plus backward.

    Args:
        lengths: sequence lengths, batch 1.
        heads, head_dim: of q, k and v.
        device, dtype: of the inputs.
        threads: torch threads for all sides, on a CPU.
        repeats: alternating rounds, whose median counts.
        random_state: seed of the inputs.
        progress: show a bar on a terminal.

    Returns:
        Two tables. Without native kernels for the device their native columns are empty.

    Raises:
        ValueError: for a device that torch does not have here.
    """
    _environment.check_device(device)
    sides = [NATIVE, EAGER, SDPA]
    if native_for("linear_attention", torch.device(device), dtype) is None:
        sides.remove(NATIVE)
    inputs = {
        length: _inputs(length, heads, head_dim, device, dtype, random_state) for length in lengths
    }
    synchronize = torch.cuda.synchronize if torch.device(device).type == "cuda" else None
    tables = []
    with _timing.torch_threads(threads):
        for title, backward in (("forward", False), ("forward and backward", True)):
            calls = {
                (side, length): _call(side, *inputs[length], backward=backward)
                for length in lengths
                for side in sides
            }
            total = (repeats + 1) * len(calls)
            with Progress(f"timing {title}", total, enabled=progress) as bar:
                timings = _timing.interleaved(
                    calls, repeats=repeats, synchronize=synchronize, on_sample=bar.advance
                )
            tables.append(_table(title, lengths, sides, timings, repeats))
    return tables


Inputs = tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...], torch.Tensor]


def _inputs(
    length: int, heads: int, head_dim: int, device: str, dtype: torch.dtype, random_state: int
) -> Inputs:
    """q, k, v in the op's layout, the same in SDPA's, and the decay."""
    generator = torch.Generator().manual_seed(random_state)
    drawn = torch.randn(3, 1, length, heads, head_dim, generator=generator)
    tensors = tuple(drawn.to(device=device, dtype=dtype))
    heads_first = tuple(tensor.transpose(1, 2).contiguous() for tensor in tensors)
    return tensors, heads_first, ops.decay_slopes(heads).to(device)


def _call(
    side: str,
    tensors: tuple[torch.Tensor, ...],
    heads_first: tuple[torch.Tensor, ...],
    slopes: torch.Tensor,
    *,
    backward: bool,
) -> Callable[[], object]:
    if side == SDPA:
        chosen = heads_first

        def function(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    else:
        chosen = tensors
        backend = "native" if side == NATIVE else "torch"

        def function(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return ops.linear_attention(q, k, v, slopes, backend=backend)[0]

    if not backward:
        return lambda: function(*chosen)
    leaves = [tensor.detach().requires_grad_() for tensor in chosen]
    upstream = torch.ones_like(leaves[2])
    return lambda: torch.autograd.grad(function(*leaves), leaves, upstream)


def _table(
    title: str,
    lengths: Sequence[int],
    sides: Sequence[str],
    timings: dict[tuple[str, int], _timing.Timing],
    repeats: int,
) -> Table:
    def milliseconds(side: str, length: int) -> float | None:
        return timings[side, length].median * 1e3 if side in sides else None

    def gain(side: str, length: int) -> str | None:
        if NATIVE not in sides:
            return None
        return str(_timing.ratio(timings[side, length], timings[NATIVE, length]))

    return Table(
        title=f"Causal linear attention with a decay a head, {title}",
        columns=(
            "T",
            "native, ms",
            "chunked torch, ms",
            "SDPA, ms",
            "torch / native [quartiles]",
            "SDPA / native [quartiles]",
        ),
        rows=tuple(
            (
                length,
                *(milliseconds(side, length) for side in (NATIVE, EAGER, SDPA)),
                gain(EAGER, length),
                gain(SDPA, length),
            )
            for length in lengths
        ),
        note=f"Medians of {repeats} alternating rounds; above 1 the native kernel is faster.",
    )
