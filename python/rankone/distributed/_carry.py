"""What the sharded sequence ops share: arguments as every rank sees them, states in and out.

Each op works on its own shard with the state that enters it. Of the sequences in a shard only the
first may have begun earlier and only the last may go on later, so one state a batch row crosses
each cut, packed or not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

from rankone.distributed._shard import Group, SequenceShard, check_shard, shard_sequence

Result = TypeVar("Result")


def agreed_shard(
    x: object,
    group: Group | SequenceShard,
    cu_seqlens: Tensor | None,
    check: Callable[[], None],
    facts: Callable[[], Mapping[str, object]],
) -> SequenceShard:
    """How ``x`` is cut, after every rank has found its arguments right and equal to the others'.

    Args:
        x: (B, T, ...), the tensor that says how many tokens this rank has.
        group: a group, or a shard that was agreed before.
        cu_seqlens: of the whole; None where ``group`` is a shard, which holds them.
        check: raises for arguments that are wrong on this rank.
        facts: what must be equal on all ranks; called where ``check`` passed.
    """
    if isinstance(group, SequenceShard):
        check()
        if cu_seqlens is not None:
            raise ValueError("cu_seqlens must be None when group is a SequenceShard, which has its")
        assert isinstance(x, Tensor)
        check_shard(_name(x), x, group)
        return group
    error: BaseException | None = None
    known: Mapping[str, object] = {}
    try:
        check()
        known = facts()
    except Exception as wrong:  # whatever it is, no other rank may be left waiting
        error = wrong
    tensor = x if isinstance(x, Tensor) and x.ndim > 1 else torch.empty(1, 0)
    return shard_sequence(
        tensor.shape[1],
        group=group,
        cu_seqlens=cu_seqlens,
        device=tensor.device,
        facts=known,
        error=error,
    )


def _name(x: Tensor) -> str:
    return {2: "tokens", 3: "x"}.get(x.ndim, "q")


def whole_offsets(group: Group | SequenceShard, cu_seqlens: Tensor | None) -> Tensor | None:
    """The offsets of the whole's packed sequences, wherever they were given."""
    return group.whole_cu_seqlens if isinstance(group, SequenceShard) else cu_seqlens


def tensor_facts(
    timed: Mapping[str, Tensor | None], whole: Mapping[str, Tensor | None]
) -> dict[str, Any]:
    """Shapes, but for the time axis of ``timed``, dtypes and whether gradients are asked for."""
    facts: dict[str, Any] = {}
    for name, tensor in {**timed, **whole}.items():
        if tensor is None:
            facts[name] = None
            continue
        sizes = [str(size) for size in tensor.shape]
        if tensor.ndim > 2 and name in timed:
            sizes[1] = "time"
        shape = f"({', '.join(sizes)})"
        dtype = str(tensor.dtype).removeprefix("torch.")
        grad = tensor.requires_grad and torch.is_grad_enabled()
        facts[name] = f"{shape} {dtype}" + (" requiring a gradient" if grad else "")
    return facts


def sequence_states(
    initial_state: Tensor | None, shard: SequenceShard, shape: tuple[int, ...], like: Tensor
) -> Tensor | None:
    """Initial states of the sequences of this shard: zeros for one that began earlier.

    ``shape`` is that of one state. None where all are zero.
    """
    if not shard.packed:
        return None if shard.continues else initial_state
    if initial_state is None:
        return None
    rows = list(shard.sequences)
    states = initial_state[rows]
    if shard.continues:
        states = torch.cat([states.new_zeros(1, *shape), states[1:]])
    return states


def ended_places(shard: SequenceShard, device: torch.device) -> tuple[Tensor, Tensor]:
    """The sequences that end here: their places in this shard, and their numbers in the whole."""
    places = [
        place for place, number in enumerate(shard.sequences) if shard.ends[number] == shard.rank
    ]
    numbers = [shard.sequences[place] for place in places]
    return torch.tensor(places, dtype=torch.int64, device=device), torch.tensor(
        numbers, dtype=torch.int64, device=device
    )


def own_final_states(finals: Tensor, shard: SequenceShard, batch: int) -> Tensor:
    """Final states of the sequences that end here, at their places in the whole, 0 elsewhere."""
    if not shard.packed:
        ends_here = bool(shard.sequences) and shard.ends[0] == shard.rank
        # The result is a function of the states also where none end here: its gradient is a call
        # that every rank makes.
        return torch.where(finals.new_full((), ends_here, dtype=torch.bool), finals, 0)
    whole = finals.new_zeros(shard.sequence_count, *finals.shape[1:])
    places, numbers = ended_places(shard, finals.device)
    return whole.index_add(0, numbers, finals[places])


def own_final_gradients(grad: Tensor, shard: SequenceShard) -> Tensor:
    """The transpose of :func:`own_final_states`."""
    if not shard.packed:
        ends_here = bool(shard.sequences) and shard.ends[0] == shard.rank
        return grad if ends_here else torch.zeros_like(grad)
    places, numbers = ended_places(shard, grad.device)
    return grad.new_zeros(len(shard.sequences), *grad.shape[1:]).index_copy(
        0, places, grad[numbers]
    )


def with_untouched(
    final_state: Tensor, initial_state: Tensor | None, shard: SequenceShard
) -> Tensor:
    """Final states, with the initial ones of the sequences that have no token."""
    if initial_state is None or not shard.empty:
        return final_state
    if not shard.packed:
        return initial_state.to(final_state.dtype)
    rows = torch.tensor(shard.empty, device=final_state.device)
    return final_state.index_copy(0, rows, initial_state[rows].to(final_state.dtype))


def carried(states: Tensor | None, entering: Tensor, shard: SequenceShard) -> Tensor:
    """The states of this shard's sequences with the one that entered in its place."""
    if not shard.packed:
        return entering
    if states is None:
        states = entering.new_zeros(len(shard.sequences), *entering.shape[1:])
    return torch.cat([entering, states.to(entering.dtype)[1:]])


@contextmanager
def without_autocast(x: Tensor):
    """Autocast has been applied to the arguments; the products of states stay as they are."""
    with torch.autocast(x.device.type, enabled=False):
        yield
