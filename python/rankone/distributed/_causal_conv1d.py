"""The short causal convolution over a sequence that is cut along time over ranks.

A shard needs the W - 1 tokens before it: they are fetched from the ranks that hold them (more than
one where shards are shorter than that), and stand in the place of the initial state.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rankone.distributed._carry import (
    agreed_shard,
    own_final_states,
    sequence_states,
    tensor_facts,
    whole_offsets,
    with_untouched,
)
from rankone.distributed._shard import Group, SequenceShard, fetch_tokens, total
from rankone.ops import _sequence, checks
from rankone.ops import causal_conv1d as local_causal_conv1d


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    group: Group | SequenceShard = None,
    activation: str | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """:func:`rankone.ops.causal_conv1d` of a sequence cut along time over ranks.

    Every rank of the group calls it with its own contiguous shard of the time axis, in order of
    rank; shards may differ in length and be empty. A rank is sent the W - 1 tokens before its
    shard, B D (W - 1) numbers in the dtype of x, and nothing else but the final states.

    Args:
        x: (B, T, D) of this rank's T tokens; otherwise as for the op in one process.
        weight: (D, W).
        bias: (D,) or None.
        group: process group, one-dimensional ``DeviceMesh`` (``mesh["context"]``), None for the
            default group, or a :class:`SequenceShard`, with which the ranks do not compare their
            arguments once more.
        activation: None or ``"silu"``.
        initial_state: (N, D, W - 1) before the whole sequences, the same on every rank. Its
            gradient on a rank is what that rank's tokens ask of it; the sum over ranks is the
            whole.
        output_final_state: also return the states after the whole sequences, on every rank.
        cu_seqlens: (N + 1,) offsets of packed sequences in the whole, the same on every rank; None
            with a :class:`SequenceShard`, which has them.

    Returns:
        y: (B, T, D) of this rank's tokens.
        final_state: None, or (N, D, W - 1) of the whole sequences.

    Raises:
        ValueError, TypeError: as the op in one process, on the rank whose arguments are wrong.
        DistributedError: on every other rank then; on all where arguments differ between ranks, or
            where a rank is gone or stays away until the group's timeout.

    Source: as :func:`rankone.ops.causal_conv1d`; the exchange was derived for this project.

    Example:
        >>> import torch
        >>> import torch.distributed as dist
        >>> from rankone import distributed
        >>> store = dist.HashStore()
        >>> dist.init_process_group("gloo", store=store, rank=0, world_size=1)
        >>> y, _ = distributed.causal_conv1d(torch.ones(1, 5, 2), torch.ones(2, 4))
        >>> y[0, :, 0].tolist()
        [1.0, 2.0, 3.0, 4.0, 4.0]
        >>> dist.destroy_process_group()
    """
    whole = whole_offsets(group, cu_seqlens)

    def check() -> None:
        checks.check_rank("x", x, ("batch", "time", "channels"))
        # Everything but the values of x: a whole sequence of no token has the same rules.
        offsets = None if whole is None else torch.zeros_like(whole)
        local_causal_conv1d(
            x.detach()[:, :0], weight.detach(), None if bias is None else bias.detach(),
            activation=activation, cu_seqlens=offsets,
            initial_state=None if initial_state is None else initial_state.detach(),
        )  # fmt: skip

    def facts() -> dict[str, object]:
        others = {"weight": weight, "bias": bias, "initial_state": initial_state}
        return {
            "op": "causal_conv1d",
            **tensor_facts({"x": x}, others),
            "activation": activation,
            "output_final_state": output_final_state,
        }

    shard = agreed_shard(x, group, cu_seqlens, check, facts)
    x = x.to(_sequence.output_dtype(x))
    reach = weight.shape[1] - 1
    shape = (x.shape[2], reach)
    states = sequence_states(initial_state, shard, shape, x)
    window = _window_before(x, initial_state, shard, reach)
    if states is None:
        states = x.new_zeros(len(shard.sequences) if shard.packed else x.shape[0], *shape)
    # Where a sequence begins here the window is not used, but its exchange still has a gradient to
    # take part in.
    continues = x.new_full((), shard.continues, dtype=torch.bool)
    rows = window.shape[0] if states.shape[0] else 0
    entered = torch.where(continues, window[:rows], states[:rows].to(x.dtype))
    states = torch.cat([entered, states[rows:].to(x.dtype)])
    y, finals = local_causal_conv1d(
        x, weight, bias, activation=activation, initial_state=states,
        output_final_state=output_final_state, cu_seqlens=shard.cu_seqlens,
    )  # fmt: skip
    if finals is None:
        return y, None
    final_state = total(own_final_states(finals, shard, x.shape[0]), shard.group)
    y, final_state = _Together.apply(y, final_state)
    return y, with_untouched(final_state, initial_state, shard)


class _Together(torch.autograd.Function):
    """Two results whose exchanges both have to run backward, whichever of them is used."""

    @staticmethod
    def forward(ctx, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        return first.view_as(first), second.view_as(second)

    @staticmethod
    def backward(ctx, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        return first, second


def _window_before(
    x: Tensor, initial_state: Tensor | None, shard: SequenceShard, reach: int
) -> Tensor:
    """The entries of [initial_state ; x] before this shard's first token: (rows, D, W - 1).

    Every rank takes part; what a rank gets whose shard begins a sequence means nothing.
    """
    before = fetch_tokens(
        x, shard, [_reached_back(shard, rank, reach) for rank in range(shard.size)]
    )
    before = before.transpose(1, 2)
    if initial_state is None:
        start = x.new_zeros(x.shape[0], x.shape[2], reach)
    else:
        row = list(shard.sequences[:1]) if shard.packed else slice(None)
        start = initial_state[row].to(x.dtype)
        if not start.shape[0]:
            start = x.new_zeros(x.shape[0], x.shape[2], reach)
    window = torch.cat([start, before], dim=-1)
    return window[..., window.shape[-1] - reach :]


def _reached_back(shard: SequenceShard, rank: int, reach: int) -> tuple[int, int]:
    """The tokens of the whole that a rank's first output reads before its shard."""
    first = sum(shard.lengths[:rank])
    if not shard.lengths[rank]:
        return first, first
    return max(shard.start_of(first), first - reach), first
