"""What everything that runs over ``torch.distributed`` shares: which group, errors, agreement.

A collective that one process does not join would hang the others, or in gloo end them. So the
processes of a job first exchange what they are about to do (:func:`agree`), every collective runs
in :func:`guarded`, and both end in a :class:`DistributedError` on every process that is left.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh

# Facts are names, shapes and flags; anything longer is to be given as a digest.
MOST_FACT_BYTES = 2**16
# Every rank sends so many bytes first: short texts need no second exchange.
_HEADER = 512
# A value in an error message is cut to so many characters.
_SHOWN = 200
# How the backends begin or word what went wrong in them, where their error is a bare RuntimeError
# that did not come through torch.distributed's own functions (a wait for an asynchronous call).
_BACKEND_WORDS = (
    "gloo",
    "nccl",
    "connection",
    "timed out",
    "timeout",
    "process group",
    "processgroup",
    "socket",
)


class DistributedError(RuntimeError):
    """What every process of a job raises when its processes disagree or one of them is gone."""

    # Tracebacks name it by where users find it.
    __module__ = "rankone.distributed"


def process_group(group: ProcessGroup | DeviceMesh | None) -> ProcessGroup:
    """The process group that an argument ``group`` means.

    Args:
        group: a process group, a one-dimensional device mesh (``mesh["name"]`` of a larger one), or
            None for the default group.

    Returns:
        The group.

    Raises:
        RuntimeError: where torch.distributed is not there or not initialised.
        ValueError: for a mesh of several dimensions, or a group without this process.
        TypeError: for anything else.

    Example:
        >>> from rankone._process_group import process_group
        >>> process_group("gloo")
        Traceback (most recent call last):
        TypeError: group must be a ProcessGroup, a DeviceMesh or None, got str
    """
    if not dist.is_available():
        raise RuntimeError("this torch was built without torch.distributed")
    from torch.distributed.device_mesh import DeviceMesh

    if isinstance(group, DeviceMesh):
        if group.ndim != 1:
            names = group.mesh_dim_names
            raise ValueError(
                "group must be a process group or a one-dimensional mesh, got a mesh of "
                f"{group.ndim} dimensions {tuple(names) if names else ''}; give one of its "
                'dimensions, mesh["name"]'
            )
        return group.get_group()
    if group is dist.GroupMember.NON_GROUP_MEMBER:
        raise ValueError("group must hold this process, got a group that it is no member of")
    if group is not None and not isinstance(group, dist.ProcessGroup):
        raise TypeError(
            f"group must be a ProcessGroup, a DeviceMesh or None, got {type(group).__name__}"
        )
    if not dist.is_initialized():
        raise RuntimeError(
            "torch.distributed is not initialised: start the script with "
            "`torchrun --nproc-per-node N script.py` and call "
            "torch.distributed.init_process_group() first"
        )
    if group is not None:
        return group
    world = dist.group.WORLD
    assert world is not None
    return world


def exchange_device(group: ProcessGroup) -> torch.device:
    """Where small tensors of a group's collectives lie: the CPU where a backend serves it."""
    kinds = [part.split(":")[0] for part in str(dist.get_backend_config(group)).split(",")]
    if "cpu" in kinds:
        return torch.device("cpu")
    kind = kinds[0]
    if kind == "cuda":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device(kind)


def _of_backend(error: RuntimeError) -> bool:
    """Whether a collective raised it, not code that computes."""
    if isinstance(error, dist.DistError):
        return True
    if type(error) is not RuntimeError:  # out of memory, too deep, or not offered by a backend
        return False
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is not None:
        module = str(trace.tb_frame.f_globals.get("__name__", ""))
        if module.startswith("torch.distributed."):
            return True
    message = str(error).lower()
    return any(words in message for words in _BACKEND_WORDS)


@contextmanager
def guarded(what: str, group: ProcessGroup) -> Iterator[None]:
    """Turn the errors of the collectives in a block into a :class:`DistributedError`.

    Errors of other code, interrupts and a :class:`DistributedError` pass unchanged.

    Args:
        what: what the processes do, such as "the exchange of level 7".
        group: the process group of the collectives.

    Raises:
        DistributedError: names this rank and ``what``; the original error is its cause.
    """
    try:
        yield
    except DistributedError:
        raise
    except RuntimeError as error:
        if not _of_backend(error):
            raise
        raise DistributedError(
            f"rank {dist.get_rank(group)} of {dist.get_world_size(group)} lost contact in {what}: "
            "another rank died, stopped or did not make this call"
        ) from error


def _gather_texts(text: bytes, what: str, group: ProcessGroup) -> list[bytes]:
    """Every rank's text: its length and its beginning, then what is left of the longest."""
    device = exchange_device(group)
    size = dist.get_world_size(group)

    def gather(piece: bytes, length: int) -> list[bytes]:
        # All to all, not a ring: every rank then waits for every other itself, and sees at once
        # that one is gone.
        mine = piece.ljust(length, b"\0") * size
        leaving = torch.frombuffer(bytearray(mine), dtype=torch.uint8).to(device)
        arriving = torch.empty_like(leaving)
        with guarded(what, group):
            dist.all_to_all_single(arriving, leaving, group=group)
            # An asynchronous backend may fail only here.
            found = bytes(arriving.cpu().numpy())
        record_sent(length * (size - 1))
        return [found[rank * length : (rank + 1) * length] for rank in range(size)]

    first = gather(len(text).to_bytes(8, "little") + text[: _HEADER - 8], _HEADER)
    lengths = [int.from_bytes(found[:8], "little") for found in first]
    texts = [found[8:] for found in first]
    left = max(lengths) - (_HEADER - 8)
    if left > 0:
        rest = gather(text[_HEADER - 8 :], left)
        texts = [begun + more for begun, more in zip(texts, rest, strict=True)]
    return [found[:length] for found, length in zip(texts, lengths, strict=True)]


def _shown(value: object) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def _message(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def agree(
    what: str,
    facts: Mapping[str, object],
    group: ProcessGroup,
    *,
    error: BaseException | None = None,
) -> list[dict[str, Any]]:
    """Make sure that every process is about to do the same; one small exchange.

    Every process of the group calls it, also one whose arguments are wrong: it hands its error in
    here instead of leaving the others waiting.

    Args:
        what: what is agreed on, such as "the start of the search", for messages.
        facts: names and JSON values. They must be equal on every rank, but for names that start
            with "_", which are only passed on. At most 64 KiB: give digests of anything long.
        group: the process group.
        error: what is wrong on this rank.

    Returns:
        The facts of every rank, by rank, as JSON gives them back.

    Raises:
        DistributedError: where a fact differs (says on which rank, and both values), where another
            rank handed in an error (quotes it), or where a rank is gone.
        BaseException: this rank's own ``error``.

    Example:
        >>> from rankone._process_group import agree
        >>> # agree("the start", {"size": 3, "_length": 17}, group)
        >>> # [{'size': 3, '_length': 17}, {'size': 3, '_length': 12}]
    """
    rank = dist.get_rank(group)
    size = dist.get_world_size(group)
    text = b"null"
    if error is None:
        try:
            text = json.dumps(dict(facts)).encode()
            if len(text) > MOST_FACT_BYTES:
                raise ValueError(
                    f"facts of {what} must take at most {MOST_FACT_BYTES} bytes, got {len(text)}"
                )
        except (TypeError, ValueError) as wrong:
            error = wrong
    if error is not None:
        # Cut, so that it fits; the rank itself raises the whole error.
        text = json.dumps({"error": _message(error)[: MOST_FACT_BYTES // 8]}).encode()
    # One byte says whether what follows is an error.
    texts = _gather_texts((b"!" if error is not None else b" ") + text, what, group)
    if error is not None:
        raise error
    everyone = []
    for other, found in enumerate(texts):
        values = json.loads(found[1:])
        if found[:1] == b"!":
            raise DistributedError(
                f"rank {rank} of {size} stopped in {what}, because rank {other} failed: "
                f"{values['error']}"
            )
        everyone.append(values)
    _compare(what, everyone)
    return everyone


def _compare(what: str, everyone: list[dict[str, Any]]) -> None:
    absent = object()
    first = everyone[0]
    differences = []
    for rank, facts in enumerate(everyone[1:], start=1):
        for name in dict.fromkeys([*first, *facts]):
            if name.startswith("_"):
                continue
            pair = [values.get(name, absent) for values in (facts, first)]
            shown = ["nothing" if value is absent else _shown(value) for value in pair]
            texts = [
                None if value is absent else json.dumps(value, sort_keys=True) for value in pair
            ]
            if texts[0] != texts[1]:
                differences.append(f"rank {rank} has {name} = {shown[0]}, rank 0 has {shown[1]}")
    if differences:
        raise DistributedError(f"the ranks disagree in {what}: " + "; ".join(differences))


@dataclass
class Traffic:
    """What this process sent to others.

    Attributes:
        bytes_sent: payload that left this process, in bytes.
        messages: number of exchanges that sent it.
    """

    bytes_sent: int = 0
    messages: int = 0


# Process-wide, not a context variable: backward passes send from threads of autograd.
_counting: list[Traffic] = []
_lock = threading.Lock()


@contextmanager
def count_traffic() -> Iterator[Traffic]:
    """Count what rankone's exchanges of this process send in a block; blocks may be nested.

    Yields:
        :class:`Traffic`, which grows while the block runs.

    Example:
        >>> from rankone._process_group import count_traffic, record_sent
        >>> with count_traffic() as traffic:
        ...     record_sent(80, messages=2)
        >>> traffic
        Traffic(bytes_sent=80, messages=2)
    """
    traffic = Traffic()
    with _lock:
        _counting.append(traffic)
    try:
        yield traffic
    finally:
        with _lock:
            # By identity: equal counters compare equal.
            _counting[:] = [other for other in _counting if other is not traffic]


def record_sent(nbytes: int, messages: int = 1) -> None:
    """Count a message of this process in every open :func:`count_traffic`."""
    if not _counting:
        return
    with _lock:
        for traffic in _counting:
            traffic.bytes_sent += nbytes
            traffic.messages += messages


__all__ = [
    "DistributedError",
    "Traffic",
    "agree",
    "count_traffic",
    "exchange_device",
    "guarded",
    "process_group",
    "record_sent",
]
