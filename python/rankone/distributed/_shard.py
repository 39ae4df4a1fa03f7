"""A sequence cut along time over the ranks of a process group, and tokens fetched across the cuts.

Rank r holds tokens [offset_r, offset_r + length_r) of the whole; shards may differ in length and be
empty. Everything that a rank must know of the others, the lengths and where packed sequences begin,
is agreed once in :func:`shard_sequence`; after that every rank works out alone what it has to send
and to receive.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from rankone._process_group import agree, guarded, process_group, record_sent
from rankone.ops import checks

Group: TypeAlias = "dist.ProcessGroup | DeviceMesh | None"


@dataclass(frozen=True, eq=False)
class SequenceShard:
    """One rank's part of a sequence, or of packed sequences, that was cut along time.

    Made by :func:`shard_sequence`. Ops and layers take it in the place of a process group and then
    skip the exchange in which the ranks compare their arguments.

    Attributes:
        group: the process group.
        rank, size: of this process in the group, and of the group.
        lengths: tokens of every rank.
        sequences: numbers of the packed sequences with tokens here, in order; (0,) for a batch of
            sequences that are not packed.
        offsets: where each of them begins in this shard, and the shard's length.
        cu_seqlens: the same as a tensor for the ops, or None where nothing is packed.
        whole_cu_seqlens: the offsets of the whole, or None where nothing is packed.
        continues: whether that sequence began on an earlier rank.
        open: whether the last sequence of this shard goes on on a later rank.
        ends: rank that holds the last token of every sequence; 0 for those without tokens.
        begins: where in the whole every sequence begins.
        empty: numbers of the sequences of the whole that have no token.
    """

    group: dist.ProcessGroup
    rank: int
    size: int
    lengths: tuple[int, ...]
    sequences: tuple[int, ...]
    offsets: tuple[int, ...]
    cu_seqlens: Tensor | None
    whole_cu_seqlens: Tensor | None
    continues: bool
    open: bool
    ends: tuple[int, ...]
    begins: tuple[int, ...]
    empty: tuple[int, ...]

    @property
    def length(self) -> int:
        """Tokens of this rank."""
        return self.lengths[self.rank]

    @property
    def offset(self) -> int:
        """Tokens of the ranks before this one."""
        return sum(self.lengths[: self.rank])

    @property
    def total(self) -> int:
        """Tokens of the whole."""
        return sum(self.lengths)

    def start_of(self, token: int) -> int:
        """Where in the whole the sequence of a token begins."""
        begins = max(bisect.bisect_right(self.begins, token) - 1, 0)
        return self.begins[begins]

    @property
    def through(self) -> bool:
        """Whether one sequence fills this shard and goes on on both sides."""
        return self.continues and self.open and len(self.sequences) == 1

    @property
    def packed(self) -> bool:
        """Whether the whole is packed sequences in a batch of 1."""
        return self.whole_cu_seqlens is not None

    @property
    def sequence_count(self) -> int:
        """Packed sequences of the whole; 0 where nothing is packed."""
        return 0 if self.whole_cu_seqlens is None else self.whole_cu_seqlens.numel() - 1

    def __repr__(self) -> str:
        kind = f"{self.sequence_count} packed sequences, " if self.packed else ""
        return (
            f"SequenceShard({kind}rank {self.rank} of {self.size}, "
            f"tokens {self.offset} to {self.offset + self.length} of {self.total})"
        )


def shard_sequence(
    time: int,
    *,
    group: Group = None,
    cu_seqlens: Tensor | None = None,
    device: torch.device | str = "cpu",
    facts: Mapping[str, object] | None = None,
    error: BaseException | None = None,
) -> SequenceShard:
    """Agree with the other ranks on how a sequence is cut along time.

    Every rank of the group calls this at the same point of its program. One small message a rank is
    exchanged; where a CUDA group has a CPU backend beside NCCL (torch's default), it takes that and
    the GPU does not wait.

    Args:
        time: tokens of this rank, at least 0.
        group: process group, or a one-dimensional ``DeviceMesh`` such as ``mesh["context"]``; None
            is the default group.
        cu_seqlens: (N + 1,) int32 or int64 offsets of packed sequences in the whole, from 0 to the
            total number of tokens, never decreasing, the same on every rank; its values are read.
        device: where the shard's own ``cu_seqlens`` is put.
        facts: further things that must be equal on every rank, by the names that an error is to
            use; values that JSON can hold.
        error: what is already wrong on this rank; it is raised here, and every other rank raises an
            error that quotes it.

    Returns:
        :class:`SequenceShard`.

    Raises:
        ValueError: for a negative length, or offsets that do not end at the total.
        TypeError: for another kind of group.
        DistributedError: on every rank, where ranks disagree or one does not answer within the
            group's timeout.

    Example:
        >>> import torch.distributed as dist
        >>> from rankone.distributed import shard_sequence
        >>> store = dist.HashStore()
        >>> dist.init_process_group("gloo", store=store, rank=0, world_size=1)
        >>> shard_sequence(16)
        SequenceShard(rank 0 of 1, tokens 0 to 16 of 16)
        >>> dist.destroy_process_group()
    """
    ranks = process_group(group)
    compared: dict[str, object] = dict(facts or {})
    offsets: list[int] = []
    try:
        if error is None:
            if time < 0:
                raise ValueError(f"time must be at least 0, got {time}")
            if cu_seqlens is not None:
                checks.check_cu_seqlens(cu_seqlens, 1)
                offsets = cu_seqlens.tolist()
                checks.check_cu_seqlens_values(cu_seqlens.cpu(), offsets[-1])
    except (TypeError, ValueError) as wrong:
        error = wrong
    compared["cu_seqlens"] = _digest(offsets) if cu_seqlens is not None else None
    answers = agree("sharding a sequence", {**compared, "_time": time}, ranks, error=error)
    lengths = tuple(cast(int, answer["_time"]) for answer in answers)
    if offsets and offsets[-1] != sum(lengths):
        # The same on every rank, since all of them see the same numbers.
        raise ValueError(
            f"cu_seqlens must end at the number of tokens of all ranks, {sum(lengths)} "
            f"({' + '.join(map(str, lengths))}), got {offsets[-1]}"
        )
    rank = dist.get_rank(ranks)
    return _cut(ranks, rank, lengths, cu_seqlens, device)


def _digest(offsets: list[int]) -> object:
    """The offsets, or for many of them what tells them apart in a short message."""
    if len(offsets) <= 16:
        return offsets
    text = ",".join(map(str, offsets))
    return f"{len(offsets)} offsets, sha256 {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _cut(
    group: dist.ProcessGroup,
    rank: int,
    lengths: tuple[int, ...],
    whole: Tensor | None,
    device: torch.device | str,
) -> SequenceShard:
    first, total = sum(lengths[:rank]), sum(lengths)
    stop = first + lengths[rank]
    bounds = [0, total] if whole is None else whole.tolist()
    spans = list(itertools.pairwise(bounds))
    here = [
        number
        for number, (begin, end) in enumerate(spans)
        if begin < stop and end > first and begin < end and first < stop
    ]
    offsets = [max(spans[number][0] - first, 0) for number in here] + [stop - first]
    cu_seqlens = None
    if whole is not None:
        cu_seqlens = torch.tensor(offsets if here else [0], dtype=torch.int64, device=device)
    ends = tuple(_rank_of(end - 1, lengths) if begin < end else 0 for begin, end in spans)
    return SequenceShard(
        group=group,
        rank=rank,
        size=len(lengths),
        lengths=lengths,
        sequences=tuple(here),
        offsets=tuple(offsets),
        cu_seqlens=cu_seqlens,
        whole_cu_seqlens=whole,
        continues=bool(here) and spans[here[0]][0] < first,
        open=bool(here) and spans[here[-1]][1] > stop,
        ends=ends,
        begins=tuple(begin for begin, _ in spans),
        empty=tuple(number for number, (begin, end) in enumerate(spans) if begin == end),
    )


def _rank_of(token: int, lengths: Sequence[int]) -> int:
    """The rank that holds a token of the whole."""
    reached = itertools.accumulate(lengths)
    return next(rank for rank, end in enumerate(reached) if token < end)


# Tokens across the cuts.


class _Fetch(torch.autograd.Function):
    """Rows [start, stop) of the whole for every rank; gradients go back to where they came from."""

    @staticmethod
    def forward(ctx, x: Tensor, shard: SequenceShard, spans: Sequence[tuple[int, int]]) -> Tensor:
        ctx.shard, ctx.shape = shard, x.shape
        ctx.sent = [_overlap(shard, shard.rank, span) for span in spans]
        ctx.taken = [_overlap(shard, owner, spans[shard.rank]) for owner in range(shard.size)]
        rows = x.movedim(1, 0)
        outgoing = torch.cat([rows[span] for span in ctx.sent])
        return _all_to_all(outgoing, ctx.sent, ctx.taken, shard).movedim(0, 1)

    @staticmethod
    def backward(ctx, grad: Tensor):
        rows = _all_to_all(grad.movedim(1, 0), ctx.taken, ctx.sent, ctx.shard)
        result = grad.new_zeros(ctx.shape)
        parts = rows.split([span.stop - span.start for span in ctx.sent])
        for span, part in zip(ctx.sent, parts, strict=True):
            result[:, span] += part.movedim(0, 1)
        return result, None, None


def _overlap(shard: SequenceShard, owner: int, span: tuple[int, int]) -> slice:
    """The part of ``span`` that ``owner`` holds, counted from the start of its shard."""
    first = sum(shard.lengths[:owner])
    begin = min(max(span[0] - first, 0), shard.lengths[owner])
    return slice(begin, max(begin, min(span[1] - first, shard.lengths[owner])))


def _all_to_all(
    rows: Tensor, sent: Sequence[slice], taken: Sequence[slice], shard: SequenceShard
) -> Tensor:
    counts = [span.stop - span.start for span in sent]
    expected = [span.stop - span.start for span in taken]
    rows = rows.contiguous()
    arrived = rows.new_empty(sum(expected), *rows.shape[1:])
    with guarded("the exchange of tokens across shards", shard.group):
        dist.all_to_all_single(arrived, rows, expected, counts, group=shard.group)
    others = sum(counts) - counts[shard.rank]
    if others:
        record_sent(others * rows[0].nbytes, sum(map(bool, counts)) - bool(counts[shard.rank]))
    return arrived


def fetch_tokens(x: Tensor, shard: SequenceShard, spans: Sequence[tuple[int, int]]) -> Tensor:
    """Tokens of the whole sequence, from the ranks that hold them.

    Every rank of the shard's group calls this. The gradient of what is fetched is added on the
    rank that it came from.

    Args:
        x: (B, T, ...), this rank's shard.
        shard: how the whole is cut.
        spans: for every rank the tokens (begin, end) of the whole that it wants; the same list on
            every rank.

    Returns:
        (B, end - begin, ...), the tokens of this rank's entry of ``spans``, in order.

    Raises:
        ValueError: for a shard of another length, or not one span a rank within the whole.
        DistributedError: where another rank is gone or does not make the call.

    Example:
        >>> import torch
        >>> import torch.distributed as dist
        >>> from rankone.distributed import fetch_tokens, shard_sequence
        >>> store = dist.HashStore()
        >>> dist.init_process_group("gloo", store=store, rank=0, world_size=1)
        >>> x = torch.arange(4.0)[None]
        >>> fetch_tokens(x, shard_sequence(4), [(1, 3)])
        tensor([[1., 2.]])
        >>> dist.destroy_process_group()
    """
    check_shard("x", x, shard)
    if len(spans) != shard.size or not all(
        0 <= begin <= end <= shard.total for begin, end in spans
    ):
        raise ValueError(
            f"spans must hold {shard.size} pairs (begin, end) within 0 and {shard.total}, "
            f"got {list(spans)}"
        )
    return cast(Tensor, _Fetch.apply(x, shard, tuple(spans)))


def check_shard(name: str, x: Tensor, shard: SequenceShard) -> None:
    """Require as many tokens along axis 1 as the shard has."""
    if x.ndim < 2 or x.shape[1] != shard.length:
        raise ValueError(
            f"{name} must have the shard's {shard.length} tokens along axis 1, "
            f"got shape {checks.shape_of(x)}"
        )


class _Total(torch.autograd.Function):
    """The sum over ranks, on every rank; the gradient is the sum of the ranks' gradients."""

    @staticmethod
    def forward(ctx, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return all_reduced(x, group)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return all_reduced(grad, ctx.group), None


def all_reduced(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The sum over ranks as a new tensor."""
    result = x.clone(memory_format=torch.contiguous_format)
    size = dist.get_world_size(group)
    with guarded("the sum over ranks", group):
        dist.all_reduce(result, group=group)
    # What every rank of a ring sends.
    record_sent(2 * (size - 1) * result.nbytes // size, 2 * (size - 1))
    return result


def total(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The sum over ranks, with its gradient."""
    return cast(Tensor, _Total.apply(x, group))


def split_sequence(x: Tensor, group: Group = None, *, dim: int = 1) -> Tensor:
    """This rank's part of a tensor that every rank has: contiguous, as even as can be.

    Args:
        x: a tensor with time along ``dim``.
        group: as in :func:`shard_sequence`.
        dim: the axis of time.

    Returns:
        A view with ceil or floor of time / ranks tokens along ``dim``.

    Example:
        >>> import torch
        >>> import torch.distributed as dist
        >>> from rankone.distributed import split_sequence
        >>> store = dist.HashStore()
        >>> dist.init_process_group("gloo", store=store, rank=0, world_size=1)
        >>> split_sequence(torch.zeros(2, 10)).shape
        torch.Size([2, 10])
        >>> dist.destroy_process_group()
    """
    ranks = process_group(group)
    return x.tensor_split(dist.get_world_size(ranks), dim=dim)[dist.get_rank(ranks)]


def gather_sequence(x: Tensor, shard: SequenceShard) -> Tensor:
    """The whole from its shards, on every rank; for results and tests, it moves every token.

    Args:
        x: (B, T, ...), this rank's shard.
        shard: how the whole is cut.

    Returns:
        (B, total, ...).

    Raises:
        ValueError: for a shard of another length.
        DistributedError: where another rank is gone or does not make the call.

    Example:
        >>> import torch
        >>> import torch.distributed as dist
        >>> from rankone.distributed import gather_sequence, shard_sequence
        >>> store = dist.HashStore()
        >>> dist.init_process_group("gloo", store=store, rank=0, world_size=1)
        >>> gather_sequence(torch.zeros(2, 10), shard_sequence(10)).shape
        torch.Size([2, 10])
        >>> dist.destroy_process_group()
    """
    return fetch_tokens(x, shard, [(0, shard.total)] * shard.size)
