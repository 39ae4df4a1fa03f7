"""What every process of ``test_context_parallel.py`` runs beside the single cases."""

from __future__ import annotations

import torch
import torch.distributed as dist
from rankone import distributed, nn, ops
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from tests.distributed.layers import make_model
from tests.distributed.sequence_ops import difference


def _tokens(total: int, batch: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(11)
    return torch.randint(31, (batch, total), generator=generator)


def traffic() -> dict:
    """Bytes of a forward and a backward pass at two lengths, on an agreed shard."""
    found = {}
    for op, transition, heads in (
        ("linear_attention", "head", 3),
        ("linear_attention", "channel", 3),
        ("delta_rule", "matrix", 6),
    ):
        entry: dict = {"heads": heads}
        for name, time in (("short", 20), ("long", 700)):
            shard = distributed.shard_sequence(time)
            tensors = {
                "q": torch.randn(2, time, 3 if op == "delta_rule" else 6, 16, requires_grad=True),
                "k": torch.randn(2, time, 3, 16, requires_grad=True),
                "v": torch.randn(2, time, heads, 8, requires_grad=True),
            }
            if op == "delta_rule":
                tensors["beta"] = torch.rand(2, time, heads)
            if transition == "channel":
                tensors["log_decay"] = -torch.rand(2, time, heads, 16)
            with distributed.count_traffic() as forward:
                o, _ = getattr(distributed, op)(**tensors, group=shard)
            with distributed.count_traffic() as backward:
                o.sum().backward()
            entry[name] = {"forward": forward.bytes_sent, "backward": backward.bytes_sent}
        found[op, transition] = entry
    return found


def _parts(size: int, total: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    shapes = {"q": (1, total, 2, 8), "k": (1, total, 2, 8), "v": (1, total, 2, 8)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def options() -> dict[str, float]:
    """backend, chunk_size, mode and scale, against the op in one process."""
    rank, size = dist.get_rank(), dist.get_world_size()
    tensors = _parts(size, 30 * size, torch.Generator().manual_seed(0))
    here = slice(30 * rank, 30 * rank + 30)
    mine = {name: tensor[:, here] for name, tensor in tensors.items()}
    beta = torch.rand(1, 30 * size, 2, generator=torch.Generator().manual_seed(1))
    found = {}
    for choice in ({"backend": "torch"}, {"chunk_size": 16, "scale": 0.3}):
        o, _ = distributed.linear_attention(**mine, **choice)
        expected, _ = ops.linear_attention(**tensors, **choice)
        found[f"linear attention {choice}"] = difference(o, expected[:, here])
    for choice in ({"backend": "torch"}, {"mode": "recurrent"}, {"chunk_size": 32, "scale": 2.0}):
        o, _ = distributed.delta_rule(**mine, beta=beta[:, here], use_qk_l2norm=True, **choice)
        expected, _ = ops.delta_rule(**tensors, beta=beta, use_qk_l2norm=True, **choice)
        found[f"delta rule {choice}"] = difference(o, expected[:, here])
    return found


def autocast() -> dict:
    """bfloat16 on the CPU, with float32 tensors."""
    rank, size = dist.get_rank(), dist.get_world_size()
    tensors = _parts(size, 20 * size, torch.Generator().manual_seed(0))
    here = slice(20 * rank, 20 * rank + 20)
    mine = {name: tensor[:, here] for name, tensor in tensors.items()}
    beta = torch.rand(1, 20 * size, 2, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16):
        found = (
            distributed.linear_attention(**mine)[0],
            distributed.delta_rule(**mine, beta=beta[:, here], use_qk_l2norm=True)[0],
        )
        expected = (
            ops.linear_attention(**tensors)[0],
            ops.delta_rule(**tensors, beta=beta, use_qk_l2norm=True)[0],
        )
    return {
        "dtypes": [str(output.dtype) for output in found],
        "differences": {
            str(index): difference(output.float(), whole[:, here].float())
            for index, (output, whole) in enumerate(zip(found, expected, strict=True))
        },
    }


def rereading() -> dict[str, float]:
    """Half a text over the ranks, the other half after its state, then a token on this rank."""
    rank, size = dist.get_rank(), dist.get_world_size()
    model = make_model("gated_delta_net", mixer_kwargs={"head_dim": 4}).eval()
    tokens = _tokens(24 * size + 1)
    halves = tokens[:, :-1].chunk(2, dim=1)
    with torch.no_grad():
        whole = model(tokens)
        state, logits = None, []
        for half in halves:
            output = model(
                distributed.split_sequence(half), state=state, return_state=True,
                context_parallel=dist.group.WORLD,
            )  # fmt: skip
            state = output.state
            logits.append(output.logits)
        last, _ = model.step(tokens[:, -1], state)
    first = 12 * rank
    return {
        "first half": difference(logits[0], whole.logits[:, first : first + 12]),
        "second half": difference(
            logits[1], whole.logits[:, 12 * size + first : 12 * size + first + 12]
        ),
        "decoded": difference(last, whole.logits[:, -1]),
    }


def _cut(tokens: torch.Tensor, rank: int, size: int) -> torch.Tensor:
    """Shards of different lengths."""
    bounds = [0] + [tokens.shape[1] * (3 * r + 4) // (3 * size + 1) for r in range(size)]
    return tokens[:, bounds[rank] : bounds[rank + 1]]


def _whole_gradients(model: nn.LanguageModel, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    model(tokens, labels=tokens).loss.backward()
    gradients = {name: value.grad.clone() for name, value in model.named_parameters()}
    model.zero_grad()
    return gradients


def distributed_data_parallel() -> dict[str, float]:
    """DDP averages the gradients of the ranks' losses."""
    rank, size = dist.get_rank(), dist.get_world_size()
    model = make_model("delta_net")
    tokens = _tokens(40)
    expected = _whole_gradients(model, tokens)
    parallel = DistributedDataParallel(model)
    part = _cut(tokens, rank, size)
    parallel(part, labels=part, context_parallel=dist.group.WORLD).loss.backward()
    return {
        name: difference(value.grad, expected[name]) for name, value in model.named_parameters()
    }


def fully_sharded() -> dict[str, float]:
    """FSDP2 shards the weights and averages the gradients, here with recomputed activations."""
    rank, size = dist.get_rank(), dist.get_world_size()
    model = make_model("lightning_attention", activation_checkpointing=True)
    tokens = _tokens(40)
    expected = _whole_gradients(model, tokens)
    mesh = dist.device_mesh.init_device_mesh("cpu", (size,), mesh_dim_names=("context",))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    part = _cut(tokens, rank, size)
    model(part, labels=part, context_parallel=mesh["context"]).loss.backward()
    return {
        name: difference(value.grad.full_tensor(), expected[name])
        for name, value in model.named_parameters()
    }


def mesh_dimension() -> dict[str, float]:
    """Two texts, each over two ranks: the mean over all four is that of the batch."""
    mesh = dist.device_mesh.init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "context"))
    model = make_model("lightning_attention")
    tokens = _tokens(30, batch=2)
    expected = _whole_gradients(model, tokens)
    text = tokens[mesh.get_local_rank("data")][None]
    part = distributed.split_sequence(text, mesh["context"])
    parallel = DistributedDataParallel(model)
    parallel(part, labels=part, context_parallel=mesh["context"]).loss.backward()
    return {
        name: difference(value.grad, expected[name]) for name, value in model.named_parameters()
    }


def fetching() -> dict[str, bool]:
    """Every rank takes the six tokens before its shard, from shards of two tokens."""
    rank, size = dist.get_rank(), dist.get_world_size()
    shard = distributed.shard_sequence(2)
    x = (2.0 * rank + torch.arange(2.0))[None].requires_grad_()
    spans = [(max(0, 2 * other - 6), 2 * other) for other in range(size)]
    before = distributed.fetch_tokens(x, shard, spans)
    before.sum().backward()
    readers = float(sum(begin <= 2 * rank < end for begin, end in spans))
    assert x.grad is not None
    return {
        "tokens": before[0].tolist() == [float(token) for token in range(*spans[rank])],
        "gradients": x.grad[0].tolist() == [readers, readers],
    }
