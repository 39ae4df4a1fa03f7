"""What every process of ``test_context_parallel.py`` runs: sharded ops beside ops on the whole.

Each case draws the same whole sequence on every rank, takes the op and its gradients in this
process alone, then the sharded op and its gradients, and returns by how much they differ, relative
to the largest entry. Losses differ between ranks and are summed over them, as gradients are.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.distributed as dist
from rankone import distributed, ops

HEADS, KV_HEADS, KEY_DIM, VALUE_DIM = 4, 2, 6, 5


def lengths_of(kind: str, size: int) -> list[int]:
    """Tokens of every rank."""
    if kind == "even":
        return [24] * size
    if kind == "uneven":
        return [3, 37, 1, 18][:size]
    if kind == "idle":  # the first and a middle rank, or the last of two, have nothing
        return [20, 0] if size == 2 else [0, 21, 0, 20]
    return [0] * size


def offsets_of(kind: str, total: int) -> list[int] | None:
    """Packed sequences: some cross the cuts, one is empty, one has a single token."""
    if kind == "no":
        return None
    if kind == "many":
        marks = [0, 5, 5, 6, total // 2, total - 4, total]
        return [min(mark, total) for mark in sorted(marks)]
    return [0, total, total]  # one long one, and an empty one behind it


def cases() -> list[dict[str, Any]]:
    """Every form of decay with every way of cutting; the rest once each."""
    found = []
    for op, decay, lengths in itertools.product(
        ("linear_attention", "delta_rule"),
        ("none", "head", "token", "channel", "reset"),
        ("even", "uneven", "idle"),
    ):
        if op == "delta_rule" and decay == "head":
            continue
        for packed in ("no", "many", "one"):
            found.append(
                {"op": op, "decay": decay, "lengths": lengths, "packed": packed, "initial": True}
            )
    for op, packed in itertools.product(("linear_attention", "delta_rule"), ("no", "many")):
        plain = {"op": op, "decay": "token", "lengths": "uneven", "packed": packed}
        found += [{**plain, "initial": False}, {**plain, "initial": False, "final": False}]
    for packed in ("no", "many"):
        found.append(
            {"op": "linear_attention", "decay": "channel", "lengths": "idle", "packed": packed,
             "initial": True, "normalize": True}
        )  # fmt: skip
        found += [
            {"op": "causal_conv1d", "lengths": lengths, "packed": packed, "initial": initial}
            for lengths in ("even", "uneven", "idle")
            for initial in (True, False)
        ]
    found.append({"op": "linear_attention", "lengths": "uneven", "causal": False})
    found.append(
        {"op": "linear_attention", "lengths": "uneven", "causal": False, "normalize": True}
    )
    return found


def _drawn(case: dict[str, Any], total: int, sequences: int, batch: int, dtype: torch.dtype):
    """Arguments of the whole, by name; those cut along time, and those every rank has."""
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    cut: dict[str, torch.Tensor] = {}
    shared: dict[str, torch.Tensor] = {}
    op = case["op"]
    if op == "causal_conv1d":
        cut["x"] = normal(batch, total, 3)
        shared["weight"], shared["bias"] = normal(3, 4), normal(3)
        if case.get("initial"):
            shared["initial_state"] = normal(sequences, 3, 3)
        return cut, shared
    delta = op == "delta_rule"
    states = HEADS if delta else KV_HEADS
    cut["q"] = normal(batch, total, KV_HEADS if delta else HEADS, KEY_DIM)
    cut["k"] = normal(batch, total, KV_HEADS, KEY_DIM)
    cut["v"] = normal(batch, total, HEADS if delta else KV_HEADS, VALUE_DIM)
    if delta:
        cut["beta"] = torch.sigmoid(normal(batch, total, HEADS))
    if case.get("normalize"):
        cut["q"], cut["k"] = cut["q"].exp(), cut["k"].exp()
    decay = case.get("decay", "none")
    if decay == "head":
        shared["log_decay"] = -normal(states).exp() / 10
    elif decay == "channel":
        cut["log_decay"] = -normal(batch, total, states, KEY_DIM).exp() / 10
    elif decay != "none":
        cut["log_decay"] = -normal(batch, total, states).exp() / 10
        if decay == "reset":
            cut["log_decay"][:, ::11] = -torch.inf
    if case.get("initial"):
        shared["initial_state"] = normal(sequences, states, KEY_DIM, VALUE_DIM)
        if case.get("normalize"):
            shared["normalizer"] = normal(sequences, states, KEY_DIM).exp()
    return cut, shared


def _call(namespace: Any, case: dict[str, Any], tensors: dict[str, torch.Tensor], **options: Any):
    """The op's output and its final states as a tuple."""
    tensors = dict(tensors)
    op = case["op"]
    if "normalizer" in tensors:
        tensors["initial_state"] = (tensors["initial_state"], tensors.pop("normalizer"))
    for name in ("normalize", "causal"):
        if name in case:
            options[name] = case[name]
    if op == "delta_rule":
        options["use_qk_l2norm"] = True
    options["output_final_state"] = case.get("final", True) and case.get("causal", True)
    output, final = getattr(namespace, op)(**tensors, **options)
    if final is None:
        return output, ()
    return output, final if isinstance(final, tuple) else (final,)


def _loss(output: torch.Tensor, finals: tuple, first: int, rank: int, size: int) -> torch.Tensor:
    """Weights by place in the whole, and for final states by rank: those sum to 1."""
    like = {"dtype": output.dtype, "device": output.device}
    place = torch.arange(output.shape[1], **like) + first
    weight = torch.sin(place).view(1, -1, *[1] * (output.ndim - 2))
    column = torch.cos(torch.arange(output.shape[-1], **like))
    loss = (output * weight * column).sum()
    share = 2.0 * (rank + 1) / (size * (size + 1))
    for final in finals:
        entries = torch.arange(final.numel(), dtype=final.dtype, device=final.device)
        turned = torch.cos(entries).view(final.shape)
        loss = loss + share * (final * turned).sum()
    return loss


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference, relative to the largest entry that is expected."""
    if not expected.numel():
        return 0.0 if found.shape == expected.shape else torch.inf
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-6))


def run(
    case: dict[str, Any],
    group: Any,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """How far the sharded op is from the whole one, by output and gradient."""
    ranks = distributed.shard_sequence(0, group=group).group
    rank, size = dist.get_rank(ranks), dist.get_world_size(ranks)
    lengths = lengths_of(case["lengths"], size)
    first = sum(lengths[:rank])
    here = slice(first, first + lengths[rank])
    offsets = offsets_of(case.get("packed", "no"), sum(lengths))
    batch = 2 if offsets is None else 1
    sequences = batch if offsets is None else len(offsets) - 1
    packing = {} if offsets is None else {"cu_seqlens": torch.tensor(offsets, device=device)}
    cut, shared = (
        {name: tensor.to(device) for name, tensor in drawn.items()}
        for drawn in _drawn(case, sum(lengths), sequences, batch, dtype)
    )

    whole = {name: tensor.clone().requires_grad_() for name, tensor in {**cut, **shared}.items()}
    expected, expected_finals = _call(ops, case, whole, **packing)
    for other in range(size):
        begin = sum(lengths[:other])
        part = expected[:, begin : begin + lengths[other]]
        _loss(part, expected_finals, begin, other, size).backward(retain_graph=True)

    mine = {name: tensor[:, here].clone().requires_grad_() for name, tensor in cut.items()}
    mine |= {name: tensor.clone().requires_grad_() for name, tensor in shared.items()}
    output, finals = _call(distributed, case, mine, group=group, **packing)
    _loss(output, finals, first, rank, size).backward()

    result = {"output": difference(output, expected[:, here])}
    for index, (final, wanted) in enumerate(zip(finals, expected_finals, strict=True)):
        result[f"final state {index}"] = difference(final, wanted)
    for name in cut:
        result[name] = difference(mine[name].grad, whole[name].grad[:, here])
    for name in shared:
        summed = torch.zeros_like(whole[name]) if mine[name].grad is None else mine[name].grad
        dist.all_reduce(summed, group=ranks)
        result[name] = difference(summed, whole[name].grad)
    return result
