"""The delta rule over a sequence that is cut along time over ranks.

A shard maps the state S that enters it to A S + B. A, (K, K) a value head, is the product of the
shard's transitions d_t (I - beta_t k_t k_t^T); B is what the shard writes from zeros. The kernel
gives both: run from zeros it returns B and the outputs, and run from the identity with values of
zero it returns A and, as outputs, the rows r_t = scale A_t^T q_t which read the entering state. So

    o_t = (output from zeros) + S^T r_t        dL/dS = sum_t r_t (dL/do_t)^T + A^T dL/d(A S + B)

and both need S only after a scan over ranks. The backward kernel then runs once, with the entering
state and the gradient of the leaving one. Forward and backward each send at most ceil(log2 ranks)
messages of one transition and one state a batch row (for packed sequences one in all).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from rankone.distributed._carry import (
    agreed_shard,
    carried,
    own_final_states,
    sequence_states,
    tensor_facts,
    whole_offsets,
    with_untouched,
    without_autocast,
)
from rankone.distributed._linear_attention import added_to_last, final_gradients
from rankone.distributed._scan import StateMap, entering_state
from rankone.distributed._shard import Group, SequenceShard, all_reduced
from rankone.ops import _delta_rule as local
from rankone.ops import _library, _sequence
from rankone.ops._delta_rule_chunked import RECURRENT
from rankone.ops._sequence import state_dtype


def _through_identity(q, k, v, beta, log_decay, shard, options) -> tuple[Tensor, Tensor]:
    """Rows that read the state entering the first sequence's tokens, and their transition."""
    span = slice(shard.offsets[0], shard.offsets[1])
    q, k, beta = q[:, span], k[:, span], beta[:, span]
    log_decay = None if log_decay is None else log_decay[:, span]
    batch, time, heads = v[:, span].shape[:3]
    key_dim = k.shape[-1]
    identity = torch.eye(key_dim, dtype=state_dtype(v.dtype), device=v.device)
    return _library.call_op(
        local.forward_op, q, k, v.new_zeros(batch, time, heads, key_dim), beta, log_decay,
        identity.expand(batch, heads, -1, -1).contiguous(), None, *options,
    )  # fmt: skip


def _constant(k: Tensor, v: Tensor, factor: float) -> StateMap:
    """S -> factor * S for the states of a shard like ``k`` and ``v``."""
    dtype = state_dtype(v.dtype)
    batch, heads, key_dim = v.shape[0], v.shape[2], k.shape[3]
    identity = factor * torch.eye(key_dim, dtype=dtype, device=v.device)
    offset = v.new_zeros((batch, heads, key_dim, v.shape[3]), dtype=dtype)
    return StateMap(identity.expand(batch, heads, -1, -1), offset, matrix=True)


class _Sharded(torch.autograd.Function):
    """The forward op on a shard with the state that enters it; gradients as the file says."""

    @staticmethod
    def forward(ctx, q, k, v, beta, log_decay, states, shard, want_final, options):
        if shard.continues and states is None and shard.packed:
            shape = (len(shard.sequences), v.shape[2], k.shape[3], v.shape[3])
            states = v.new_zeros(shape, dtype=state_dtype(v.dtype))
        output, finals = _library.call_op(
            local.forward_op, q, k, v, beta, log_decay, states, shard.cu_seqlens, *options
        )
        readers = transition = None
        if shard.continues:
            readers, transition = _through_identity(q, k, v, beta, log_decay, shard, options)
        entering = entering_state(_forward_map(k, v, finals, transition, shard), shard.group)
        if shard.continues:
            entering = cast(Tensor, entering)
            output, finals = _corrected(output, finals, readers, transition, entering, shard)
            states = carried(states, entering, shard)
        ctx.save_for_backward(q, k, v, beta, log_decay, states, readers, transition)
        ctx.shard, ctx.want_final, ctx.options = shard, want_final, options
        ctx.set_materialize_grads(False)
        final_state = None
        if want_final:
            final_state = all_reduced(own_final_states(finals, shard, v.shape[0]), shard.group)
        return output, final_state

    @staticmethod
    def backward(ctx, output_grad, final_grad):
        *tensors, readers, transition = ctx.saved_tensors
        _, k, v, *_ = tensors
        shard = ctx.shard
        if output_grad is None:
            output_grad = v.new_zeros(v.shape)
        finals_grad = None
        if ctx.want_final:
            finals_grad = final_gradients(final_grad, k, v.shape[3], shard, heads=v.shape[2])
        own = _backward_map(k, v, output_grad, finals_grad, readers, transition, shard)
        leaving = entering_state(own, shard.group, reverse=True)
        if shard.open:
            finals_grad = added_to_last(finals_grad, cast(Tensor, leaving), shard)
        needs = (ctx.needs_input_grad[4], ctx.needs_input_grad[5])
        gradients = local.gradients_of(
            (*tensors, shard.cu_seqlens), ctx.options, needs, output_grad, finals_grad
        )
        return (*gradients, None, None, None)


def _forward_map(
    k: Tensor, v: Tensor, finals: Tensor, transition: Tensor | None, shard: SequenceShard
) -> StateMap:
    """From the state that enters this shard to the one that leaves it."""
    if not shard.length:
        return _constant(k, v, 1.0)
    if not shard.open:
        return _constant(k, v, 0.0)
    written = finals[-1:] if shard.packed else finals
    if shard.through:
        return StateMap(cast(Tensor, transition), written, matrix=True)
    return StateMap(_constant(k, v, 0.0).transition, written, matrix=True)


def _corrected(
    output: Tensor,
    finals: Tensor,
    readers: Tensor,
    transition: Tensor,
    entering: Tensor,
    shard: SequenceShard,
) -> tuple[Tensor, Tensor]:
    """Outputs and final states from zeros, with what the entering state adds to both."""
    time = readers.shape[1]
    read = torch.einsum("bthk,bhkv->bthv", readers.to(entering.dtype), entering)
    first = (output[:, :time].to(entering.dtype) + read).to(output.dtype)
    moved = transition @ entering
    if not shard.packed:
        return first, finals + moved
    return torch.cat([first, output[:, time:]], dim=1), torch.cat([finals[:1] + moved, finals[1:]])


def _backward_map(
    k: Tensor,
    v: Tensor,
    output_grad: Tensor,
    finals_grad: Tensor | None,
    readers: Tensor | None,
    transition: Tensor | None,
    shard: SequenceShard,
) -> StateMap:
    """From the gradient of the state that leaves this shard to that of the one that enters."""
    if not shard.length:
        return _constant(k, v, 1.0)
    if readers is None or transition is None:
        return _constant(k, v, 0.0)
    wanted = output_grad[:, : readers.shape[1]].to(transition.dtype)
    asked = torch.einsum("bthk,bthv->bhkv", readers.to(transition.dtype), wanted)
    if shard.through:
        return StateMap(transition.mT, asked, matrix=True)
    if finals_grad is not None:
        ended = finals_grad[:1] if shard.packed else finals_grad
        asked = asked + transition.mT @ ended.to(asked.dtype)
    return StateMap(torch.zeros_like(transition), asked, matrix=True)


def delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    *,
    group: Group | SequenceShard = None,
    log_decay: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    use_qk_l2norm: bool = False,
    l2norm_eps: float = 1e-6,
    mode: str = "chunk",
    chunk_size: int | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor | None]:
    """:func:`rankone.ops.delta_rule` of a sequence cut along time over ranks.

    Every rank of the group calls it with its own contiguous shard of the time axis, in order of
    rank; shards may differ in length and be empty. Outputs and gradients are those of one process
    with the whole sequence, to rounding. Where one rank runs backward through the result, every
    rank must.

    What is sent does not depend on the sequences' length: forward and backward each at most
    ceil(log2 P) messages a rank, P the number of ranks, of one state and one transition (B HV K
    (V + K) numbers with B = 1 for packed sequences, float32). ``output_final_state`` adds a sum
    over ranks of the final states. Every rank but the first runs the forward kernel twice, with V
    and with K value columns, and the backward kernel once.

    Args:
        q: (B, T, H, K) queries of this rank's T tokens; otherwise as for the op in one process.
        k: (B, T, H, K) keys.
        v: (B, T, HV, V) values.
        beta: (B, T, HV) write strengths.
        group: process group, one-dimensional ``DeviceMesh`` (``mesh["context"]``), None for the
            default group, or a :class:`SequenceShard`, with which the ranks do not compare their
            arguments once more.
        log_decay: None, (B, T, HV) or (B, T, HV, K), at most 0.
        scale: factor of the output; None means K ** -0.5.
        initial_state: states before the whole sequences, the same on every rank. Its gradient on a
            rank is what that rank's sequences ask of it; the sum over ranks is the whole.
        output_final_state: also return the states after the whole sequences, on every rank.
        cu_seqlens: (N + 1,) offsets of packed sequences in the whole, the same on every rank; None
            with a :class:`SequenceShard`, which has them.
        use_qk_l2norm: divide every q and k by sqrt(sum of squares + l2norm_eps) first.
        l2norm_eps: positive.
        mode: ``"chunk"`` or ``"recurrent"``, of the local kernel.
        chunk_size: tokens a chunk of the local kernel.
        backend: of the local kernel.

    Returns:
        o: (B, T, HV, V) of this rank's tokens.
        final_state: None, or of the whole sequences, as ``initial_state``.

    Raises:
        ValueError, TypeError: as the op in one process, on the rank whose arguments are wrong.
        DistributedError: on every other rank then; on all where arguments differ between ranks, or
            where a rank is gone or stays away until the group's timeout.

    Source: arXiv 2406.06484, whose chunks compose by transitions as shards do here; the scan of
    transitions over ranks, the rows that read the entering state and the gradient were derived for
    this project.

    Example:
        >>> import torch
        >>> import torch.distributed as dist
        >>> from rankone import distributed
        >>> store = dist.HashStore()
        >>> dist.init_process_group("gloo", store=store, rank=0, world_size=1)
        >>> q, k, v = (torch.randn(1, 100, 2, 16) for _ in range(3))
        >>> o, _ = distributed.delta_rule(q, k, v, torch.rand(1, 100, 2), use_qk_l2norm=True)
        >>> o.shape
        torch.Size([1, 100, 2, 16])
        >>> dist.destroy_process_group()
    """
    whole = whole_offsets(group, cu_seqlens)

    def check() -> None:
        local.check_arguments(
            q, k, v, beta, log_decay, initial_state, whole, output_final_state, use_qk_l2norm,
            l2norm_eps, mode, chunk_size, backend,
        )  # fmt: skip
        local.check_values(beta, log_decay, None, q.shape[1])
        _sequence.choose("delta_rule", q, backend)
        _sequence.finite_scale(scale, q.shape[-1])

    def facts() -> dict[str, object]:
        tokens = {"q": q, "k": k, "v": v, "beta": beta, "log_decay": log_decay}
        return {
            "op": "delta_rule",
            **tensor_facts(tokens, {"initial_state": initial_state}),
            "scale": scale,
            "use_qk_l2norm": use_qk_l2norm,
            "l2norm_eps": l2norm_eps,
            "output_final_state": output_final_state,
        }

    shard = agreed_shard(q, group, cu_seqlens, check, facts)
    options = (
        _sequence.finite_scale(scale, q.shape[-1]), use_qk_l2norm, float(l2norm_eps),
        RECURRENT if mode == "recurrent" else chunk_size or 0, backend,
    )  # fmt: skip
    dtype = _sequence.output_dtype(q)
    with without_autocast(q):
        shape = (v.shape[2], k.shape[3], v.shape[3])
        output, final_state = _Sharded.apply(
            q.to(dtype), k.to(dtype), v.to(dtype), beta, log_decay,
            sequence_states(initial_state, shard, shape, v), shard, output_final_state, options,
        )  # fmt: skip
        if not output_final_state:
            return output, None
        return output, with_untouched(final_state, initial_state, shard)
