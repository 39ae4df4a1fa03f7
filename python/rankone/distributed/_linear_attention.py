"""Causal linear attention over a sequence that is cut along time over ranks.

A shard maps the state S that enters it to d S + B: d is the product of its decays, B what its own
tokens write, each decayed to the shard's end. Both are one product over the shard, taken before the
kernel runs; a scan over ranks then gives every shard the state that enters it, and the local kernel
runs once, as it would within one process. Backward the same from the other end: what the shard's
outputs ask of the entering state is one product, the scan gives the gradient of the state that
leaves, and the local backward kernel runs once.

Forward and backward each send at most ceil(log2 ranks) messages of one state a batch row (for
packed sequences one in all) and its decays.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor

from rankone.distributed._carry import (
    agreed_shard,
    carried,
    own_final_gradients,
    own_final_states,
    sequence_states,
    tensor_facts,
    whole_offsets,
    with_untouched,
    without_autocast,
)
from rankone.distributed._scan import StateMap, entering_state
from rankone.distributed._shard import Group, SequenceShard, all_reduced, total
from rankone.ops import _library, _sequence, checks
from rankone.ops import _linear_attention as local
from rankone.ops._sequence import state_dtype

# Tokens of a product over a shard that are weighted at a time: on a CPU few enough to stay in its
# cache, on a GPU enough to fill it.
_CPU_BLOCK = 256
_GPU_BLOCK = 4096


def _blocks(span: slice, like: Tensor) -> Iterator[slice]:
    block = _CPU_BLOCK if like.is_cpu else _GPU_BLOCK
    for start in range(span.start, span.stop, block):
        yield slice(start, min(start + block, span.stop))


def _logs(log_decay: Tensor | None, k: Tensor, block: slice, dtype: torch.dtype) -> Tensor:
    """Log-decays (rows, tokens, heads, 1 or K) of some tokens; rows is 1 where they are shared."""
    heads = k.shape[2]
    if log_decay is None:
        return k.new_zeros(1, 1, 1, 1, dtype=dtype).expand(1, block.stop - block.start, heads, 1)
    if log_decay.ndim == 1:
        logs = log_decay.to(dtype)[None, None, :, None]
        return logs.expand(1, block.stop - block.start, heads, 1)
    logs = log_decay[:, block].to(dtype)
    return logs if logs.ndim == 4 else logs[..., None]


def _product(logs: Tensor, k: Tensor) -> Tensor:
    """Factors (rows, heads, 1 or K, 1) of summed log-decays, for the batch rows of ``k``."""
    return logs.exp()[..., None].expand(k.shape[0], -1, -1, -1)


def _written(
    k: Tensor, v: Tensor, log_decay: Tensor | None, span: slice, ones_column: bool
) -> tuple[Tensor, Tensor]:
    """Product of the decays of ``span`` (rows, heads, 1 or K, 1), and what its tokens leave.

    Sums of log-decays are taken from the end, so that they hold no differences: after a reset
    (-inf) what came before is exactly 0.
    """
    dtype = state_dtype(k.dtype)
    columns = v.shape[-1] + ones_column
    state = k.new_zeros((k.shape[0], k.shape[2], k.shape[3], columns), dtype=dtype)
    after = torch.zeros_like(_logs(log_decay, k, slice(0, 1), dtype)[:, 0])
    for block in reversed(list(_blocks(span, k))):
        logs = _logs(log_decay, k, block, dtype)
        # Of every token, the decays of the tokens behind it in the block.
        behind = torch.cat([logs[:, 1:], torch.zeros_like(logs[:, :1])], dim=1)
        behind = behind.flip(1).cumsum(1).flip(1)
        key = k[:, block].to(dtype) * (behind + after[:, None]).exp()
        value = v[:, block].to(dtype)
        if ones_column:
            value = torch.cat([value, torch.ones_like(value[..., :1])], dim=-1)
        state += torch.einsum("bnhk,bnhv->bhkv", key, value)
        after = after + logs.sum(1)
    return _product(after, k), state


def _asked(
    q: Tensor,
    k: Tensor,
    output_grad: Tensor,
    log_decay: Tensor | None,
    span: slice,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Product of the decays of ``span``, and what its outputs ask of the state that enters it."""
    dtype = state_dtype(q.dtype)
    heads = k.shape[2]
    grad = q.new_zeros((q.shape[0], heads, q.shape[3], output_grad.shape[-1]), dtype=dtype)
    before = torch.zeros_like(_logs(log_decay, k, slice(0, 1), dtype)[:, 0])
    for block in _blocks(span, q):
        logs = _logs(log_decay, k, block, dtype)
        reached = (logs.cumsum(1) + before[:, None]).exp()
        query = q[:, block].to(dtype).unflatten(2, (heads, -1)) * reached[:, :, :, None]
        wanted = output_grad[:, block].to(dtype).unflatten(2, (heads, -1))
        grad += torch.einsum("bnhgk,bnhgv->bhkv", query, wanted)
        before = before + logs.sum(1)
    return _product(before, k), scale * grad


class _Sharded(torch.autograd.Function):
    """The forward op on a shard with the state that enters it; gradients as the file says."""

    @staticmethod
    def forward(ctx, q, k, v, log_decay, states, shard, want_final, options):
        scale, ones_column, chunk_size, backend = options
        own = _forward_map(k, v, log_decay, states, shard, ones_column)
        entering = entering_state(own, shard.group)
        if shard.continues:
            states = carried(states, cast(Tensor, entering), shard)
        output, finals = _library.call_op(
            local.forward_op, q, k, v, log_decay, states, shard.cu_seqlens, scale, ones_column,
            chunk_size, backend,
        )  # fmt: skip
        ctx.save_for_backward(q, k, v, log_decay, states)
        ctx.shard = shard
        ctx.options, ctx.want_final = options, want_final
        ctx.set_materialize_grads(False)
        final_state = None
        if want_final:
            final_state = all_reduced(own_final_states(finals, shard, q.shape[0]), shard.group)
        return output, final_state

    @staticmethod
    def backward(ctx, output_grad, final_grad):
        q, k, v, log_decay, states = ctx.saved_tensors
        shard, (scale, ones_column, *_) = ctx.shard, ctx.options
        dtype = state_dtype(q.dtype)
        if output_grad is None:
            columns = v.shape[-1] + ones_column
            output_grad = q.new_zeros(
                (*q.shape[:3], columns), dtype=dtype if ones_column else q.dtype
            )
        finals_grad = None
        if ctx.want_final:
            finals_grad = final_gradients(final_grad, k, v.shape[-1] + ones_column, shard)
        own = _backward_map(q, k, v, log_decay, output_grad, finals_grad, shard, scale, ones_column)
        leaving = entering_state(own, shard.group, reverse=True)
        if shard.open:
            finals_grad = added_to_last(finals_grad, cast(Tensor, leaving), shard)
        needs = (ctx.needs_input_grad[3], ctx.needs_input_grad[4])
        gradients = local.gradients_of(
            needs, (q, k, v, log_decay, states, shard.cu_seqlens), ctx.options, output_grad,
            finals_grad,
        )  # fmt: skip
        return (*gradients, None, None, None)


def final_gradients(
    grad: Tensor | None, k: Tensor, columns: int, shard: SequenceShard, heads: int | None = None
) -> Tensor:
    """Gradients of this shard's final states, from what every rank's loss asks of the whole's."""
    if grad is None:
        count = shard.sequence_count if shard.packed else k.shape[0]
        shape = (count, heads or k.shape[2], k.shape[3], columns)
        grad = k.new_zeros(shape, dtype=state_dtype(k.dtype))
    return own_final_gradients(all_reduced(grad, shard.group), shard)


def added_to_last(grad: Tensor | None, leaving: Tensor, shard: SequenceShard) -> Tensor:
    """Gradients of the shard's final states with that of the state which leaves it."""
    if not shard.packed:
        return leaving if grad is None else grad + leaving
    if grad is None:
        grad = leaving.new_zeros(len(shard.sequences), *leaving.shape[1:])
    return torch.cat([grad[:-1], grad[-1:] + leaving])


def _identity(k: Tensor, log_decay: Tensor | None, columns: int, factor: float) -> StateMap:
    """S -> factor * S for the states of a shard like ``k``."""
    dtype = state_dtype(k.dtype)
    width = k.shape[3] if log_decay is not None and log_decay.ndim == 4 else 1
    shape = (k.shape[0], k.shape[2], width, 1)
    offset = k.new_zeros((k.shape[0], k.shape[2], k.shape[3], columns), dtype=dtype)
    return StateMap(k.new_full(shape, factor, dtype=dtype), offset, matrix=False)


def _forward_map(
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    states: Tensor | None,
    shard: SequenceShard,
    ones_column: bool,
) -> StateMap:
    """From the state that enters this shard to the one that leaves it."""
    columns = v.shape[-1] + ones_column
    if not shard.length:
        return _identity(k, log_decay, columns, 1.0)
    if not shard.open:
        return _identity(k, log_decay, columns, 0.0)
    last = slice(shard.offsets[-2], shard.offsets[-1])
    decay, written = _written(k, v, log_decay, last, ones_column)
    if shard.through:
        return StateMap(decay, written, matrix=False)
    if states is not None:
        begun = states if not shard.packed else states[-1:]
        written = written + decay * begun.to(written.dtype)
    return StateMap(torch.zeros_like(decay), written, matrix=False)


def _backward_map(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    output_grad: Tensor,
    finals_grad: Tensor | None,
    shard: SequenceShard,
    scale: float,
    ones_column: bool,
) -> StateMap:
    """From the gradient of the state that leaves this shard to that of the one that enters."""
    columns = v.shape[-1] + ones_column
    if not shard.length:
        return _identity(k, log_decay, columns, 1.0)
    if not shard.continues:
        return _identity(k, log_decay, columns, 0.0)
    first = slice(shard.offsets[0], shard.offsets[1])
    decay, asked = _asked(q, k, output_grad, log_decay, first, scale)
    if shard.through:
        return StateMap(decay, asked, matrix=False)
    if finals_grad is not None:
        ended = finals_grad if not shard.packed else finals_grad[:1]
        asked = asked + decay * ended.to(asked.dtype)
    return StateMap(torch.zeros_like(decay), asked, matrix=False)


def linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None = None,
    *,
    group: Group | SequenceShard = None,
    scale: float | None = None,
    initial_state: local.State = None,
    output_final_state: bool = False,
    normalize: bool = False,
    eps: float = 1e-10,
    causal: bool = True,
    cu_seqlens: Tensor | None = None,
    chunk_size: int | None = None,
    backend: str = "auto",
) -> tuple[Tensor, local.State]:
    """:func:`rankone.ops.linear_attention` of a sequence cut along time over ranks.

    Every rank of the group calls it with its own contiguous shard of the time axis, in order of
    rank; shards may differ in length and be empty. Outputs and gradients are those of one process
    with the whole sequence, to rounding. Where one rank runs backward through the result, every
    rank must.

    What is sent does not depend on the sequences' length: forward and backward each at most
    ceil(log2 P) messages a rank, P the number of ranks, of one state and its decays (B Hk K V
    numbers and B Hk or B Hk K, with B = 1 for packed sequences, float32; V + 1 columns under
    ``normalize``). ``output_final_state`` adds a sum over ranks of the final states.

    Args:
        q: (B, T, H, K) queries of this rank's T tokens; otherwise as for the op in one process.
        k: (B, T, Hk, K) keys.
        v: (B, T, Hk, V) values.
        log_decay: None, (Hk,), (B, T, Hk) or (B, T, Hk, K), at most 0.
        group: process group, one-dimensional ``DeviceMesh`` (``mesh["context"]``), None for the
            default group, or a :class:`SequenceShard`, with which the ranks do not compare their
            arguments once more.
        scale: factor of the output; None means K ** -0.5.
        initial_state: states before the whole sequences, the same on every rank. Its gradient on a
            rank is what that rank's sequences ask of it; the sum over ranks is the whole.
        output_final_state: also return the states after the whole sequences, on every rank.
        normalize: divide by q_t . z_t + eps.
        eps: added to the normaliser.
        causal: False attends to the whole sequence; one state is summed over ranks.
        cu_seqlens: (N + 1,) offsets of packed sequences in the whole, the same on every rank; None
            with a :class:`SequenceShard`, which has them.
        chunk_size: tokens a tile of the local kernel.
        backend: of the local kernel.

    Returns:
        o: (B, T, H, V) of this rank's tokens.
        final_state: None, or of the whole sequences, as ``initial_state``.

    Raises:
        ValueError, TypeError: as the op in one process, on the rank whose arguments are wrong.
        DistributedError: on every other rank then; on all where arguments differ between ranks, or
            where a rank is gone or stays away until the group's timeout.

    Source: the tiling of arXiv 2401.04658 taken beyond one device, as LASP (arXiv 2404.02882) and
    LASP-2 (arXiv 2502.07563) do; the scan over ranks with decays and packed sequences, and its
    gradient, were derived for this project.

    Example:
        >>> import torch
        >>> import torch.distributed as dist
        >>> from rankone import distributed
        >>> store = dist.HashStore()
        >>> dist.init_process_group("gloo", store=store, rank=0, world_size=1)
        >>> q, k, v = (torch.randn(1, 100, 2, 16) for _ in range(3))
        >>> o, _ = distributed.linear_attention(q, k, v)
        >>> o.shape
        torch.Size([1, 100, 2, 16])
        >>> dist.destroy_process_group()
    """
    whole = whole_offsets(group, cu_seqlens)

    def check() -> None:
        local.check_arguments(
            q, k, v, log_decay, initial_state, output_final_state, normalize, causal, whole,
            chunk_size, backend,
        )  # fmt: skip
        if log_decay is not None:
            checks.check_log_decay_values(log_decay)
        _sequence.choose("linear_attention", q, backend)
        local.output_scale(scale, q.shape[-1], normalize)

    def facts() -> dict[str, object]:
        pair = initial_state if isinstance(initial_state, tuple) else (initial_state, None)
        tokens: dict[str, Tensor | None] = {"q": q, "k": k, "v": v, "log_decay": log_decay}
        states = {"initial_state": pair[0], "initial_state[1]": pair[1]}
        return {
            "op": "linear_attention",
            **tensor_facts(tokens, states),
            "scale": scale,
            "normalize": normalize,
            "eps": eps,
            "causal": causal,
            "output_final_state": output_final_state,
        }

    shard = agreed_shard(q, group, cu_seqlens, check, facts)
    factor = local.output_scale(scale, q.shape[-1], normalize)
    if not causal:

        def complete(part: Tensor) -> Tensor:
            return total(part, shard.group)

        return local.whole_sequence(q, k, v, factor, normalize, eps, complete), None
    dtype = _sequence.output_dtype(q)
    with without_autocast(q):
        joined = local.join_state(initial_state)
        shape = (k.shape[2], k.shape[3], v.shape[-1] + normalize)
        output, final_state = _Sharded.apply(
            q.to(dtype), k.to(dtype), v.to(dtype), log_decay,
            sequence_states(joined, shard, shape, q), shard, output_final_state,
            (factor, normalize, chunk_size or 0, backend),
        )  # fmt: skip
        if normalize:
            output = (output[..., :-1] / (output[..., -1:] + eps)).to(dtype)
        if not output_final_state:
            return output, None
        final_state = with_untouched(final_state, joined, shard)
    return output, local.split_state(final_state, normalize)
