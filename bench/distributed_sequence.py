"""A sequence over the ranks of torchrun beside the same sequence on one rank: time and traffic.

    torchrun --nproc-per-node 2 bench/distributed_sequence.py --out bench/results

Each round times a training step (forward and backward) of the whole sequence on rank 0 alone, the
others waiting, and then of its shards on all ranks, every second round in the opposite order;
ratios are taken round by round. Bytes are counted twice: by rankone, the payload of what each rank
sends, and on Linux with gloo by the loopback interface, which sees every process of the machine and
the headers as well. gloo on CPUs, NCCL where every rank has a GPU; one thread a rank unless
--threads says otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rankone import _environment, distributed, ops

HEADS, KEY_DIM, VALUE_DIM = 8, 64, 64
LOOPBACK = Path("/proc/net/dev")


@dataclass(frozen=True)
class Row:
    """One op at one length; seconds and bytes of a training step."""

    op: str
    tokens: int
    single_seconds: float
    sharded_seconds: float
    speedup: float
    speedup_low: float
    speedup_high: float
    single_cpu_seconds: float
    sharded_cpu_seconds: float
    exchange_seconds: float
    sent_forward: int
    sent_backward: int
    stated: int
    loopback: int | None


def tensors_of(op: str, tokens: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Arguments of a whole sequence, the same on every rank."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(device)

    tensors = {name: normal(1, tokens, HEADS, KEY_DIM) for name in ("q", "k")}
    tensors["v"] = normal(1, tokens, HEADS, VALUE_DIM)
    tensors["log_decay"] = torch.nn.functional.logsigmoid(normal(1, tokens, HEADS) + 3)
    if op == "delta_rule":
        tensors["beta"] = torch.sigmoid(normal(1, tokens, HEADS))
    return tensors


def step_of(
    namespace: Any, op: str, tensors: dict[str, torch.Tensor], **options: Any
) -> Callable[[], tuple[int, int]]:
    """A training step, which returns the bytes that forward and backward sent."""
    if op == "delta_rule":
        options["use_qk_l2norm"] = True
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in tensors.items()}
    grad = torch.randn_like(tensors["v"])

    def step() -> tuple[int, int]:
        with distributed.count_traffic() as forward:
            o, _ = getattr(namespace, op)(**leaves, **options)
        with distributed.count_traffic() as backward:
            o.backward(grad)
        if o.is_cuda:
            torch.cuda.synchronize()
        return forward.bytes_sent, backward.bytes_sent

    return step


def loopback_bytes() -> int | None:
    """What this machine has sent to itself."""
    if not LOOPBACK.exists():
        return None
    for line in LOOPBACK.read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == "lo":
            return int(numbers.split()[8])
    return None


def largest(value: float, device: torch.device) -> float:
    """The largest over ranks."""
    tensor = torch.tensor(value, dtype=torch.float64, device=device)
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return float(tensor)


def timed(step: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Seconds until the last rank is done, and processor seconds of the rank that took most."""
    dist.barrier()
    start, processor = time.perf_counter(), time.process_time()
    step()
    spent = time.process_time() - processor
    return largest(time.perf_counter() - start, device), largest(spent, device)


def measure(op: str, tokens: int, rounds: int, device: torch.device) -> Row:
    """One row of the table, the same on every rank."""
    rank, size = dist.get_rank(), dist.get_world_size()
    whole = tensors_of(op, tokens, device)
    here = {name: distributed.split_sequence(tensor) for name, tensor in whole.items()}
    # The exchanges alone: shards of one token.
    short = {name: tensor[:, :1] for name, tensor in here.items()}
    alone = step_of(ops, op, whole) if rank == 0 else lambda: None
    sharded = step_of(distributed, op, here, group=None)
    exchange = step_of(distributed, op, short, group=None)
    timed(alone, device), timed(sharded, device), timed(exchange, device)
    singles, shards, exchanges = [], [], []
    for index in range(rounds):
        pair = [(singles, alone), (shards, sharded)]
        for seconds, step in pair if index % 2 == 0 else reversed(pair):
            seconds.append(timed(step, device))
        exchanges.append(timed(exchange, device))
    shard = distributed.shard_sequence(here["q"].shape[1])
    counted = step_of(distributed, op, here, group=shard)
    dist.barrier()
    before = loopback_bytes()
    dist.barrier()
    forward, backward = counted()
    dist.barrier()
    after = loopback_bytes()
    ratios = sorted(single / shard for (single, _), (shard, _) in zip(singles, shards, strict=True))
    medians = [
        tuple(statistics.median(column) for column in zip(*seconds, strict=True))
        for seconds in (singles, shards, exchanges)
    ]
    transition = "matrix" if op == "delta_rule" else "head"
    return Row(
        op=op,
        tokens=tokens,
        single_seconds=medians[0][0],
        sharded_seconds=medians[1][0],
        speedup=statistics.median(ratios),
        speedup_low=ratios[len(ratios) // 4],
        speedup_high=ratios[-1 - len(ratios) // 4],
        single_cpu_seconds=medians[0][1],
        sharded_cpu_seconds=medians[1][1],
        exchange_seconds=medians[2][0],
        sent_forward=int(largest(forward, device)),
        sent_backward=int(largest(backward, device)),
        stated=distributed.scan_bytes(size, HEADS, KEY_DIM, VALUE_DIM, transition=transition),
        loopback=None if before is None or after is None else after - before,
    )


def markdown(rows: list[Row], environment: dict[str, Any], size: int) -> str:
    lines = [
        f"# A sequence over {size} ranks",
        "",
        *(f"- {name}: {value}" for name, value in environment.items()),
        "",
        f"Training step of one layer's op, {HEADS} heads of {KEY_DIM} x {VALUE_DIM}, a decay a "
        "token and head, float32. Medians of alternating rounds, quartiles in brackets. `sent` is "
        "the largest of the ranks' payloads, `stated` what `scan_bytes` gives for each pass, "
        "`loopback` what the machine's loopback interface carried for all ranks and both passes, "
        "barriers and headers included. `exchange` is the step with one token a rank. `CPU` is "
        "processor time of the rank that took most, which other work on the machine disturbs less.",
        "",
        "| op | tokens | one rank, ms | sharded, ms | speedup | one rank, CPU ms | "
        "sharded, CPU ms | exchange, ms | sent forward | sent backward | stated | "
        "loopback |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row.op} | {row.tokens} | {1e3 * row.single_seconds:.1f} | "
            f"{1e3 * row.sharded_seconds:.1f} | "
            f"{row.speedup:.2f} [{row.speedup_low:.2f}, {row.speedup_high:.2f}] | "
            f"{1e3 * row.single_cpu_seconds:.1f} | {1e3 * row.sharded_cpu_seconds:.1f} | "
            f"{1e3 * row.exchange_seconds:.2f} | {row.sent_forward} | {row.sent_backward} | "
            f"{row.stated} | {row.loopback if row.loopback is not None else ''} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[2048, 8192, 32768])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    cuda = torch.cuda.is_available() and torch.cuda.device_count() >= int(
        os.environ.get("LOCAL_WORLD_SIZE", "1")
    )
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    torch.set_num_threads(options.threads)
    dist.init_process_group()
    environment = {**_environment.describe(), "ranks": dist.get_world_size()}
    environment["load average at the start"] = f"{os.getloadavg()[0]:.1f}"
    rows = [
        measure(op, tokens, options.rounds, device)
        for op in ("linear_attention", "delta_rule")
        for tokens in options.tokens
    ]
    if dist.get_rank() == 0:
        table = markdown(rows, environment, dist.get_world_size())
        print(table)
        if options.out is not None:
            name = f"distributed_sequence_{device.type}_ranks{dist.get_world_size()}"
            (options.out / f"{name}.md").write_text(table)
            data = {"environment": environment, "rows": [asdict(row) for row in rows]}
            (options.out / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
