"""What every process of ``test_context_parallel.py`` runs: layers and models beside the whole."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from rankone import nn

from tests.distributed.sequence_ops import difference, lengths_of, offsets_of

LAYERS: dict[str, dict[str, Any]] = {
    "lightning_attention": {"decay": "channel", "num_kv_heads": 2},
    "norm_attention": {},
    "hedgehog_attention": {"rotary": True, "num_kv_heads": 2},
    "delta_net": {},
    "gated_delta_net": {},
}
# Mixers, way of cutting, way of packing, options of the model.
MODELS: list[tuple[Any, str, str, dict[str, Any]]] = [
    ("lightning_attention", "uneven", "no", {}),
    ("gated_delta_net", "idle", "many", {"mixer_kwargs": {"head_dim": 4}}),
    ("delta_net", "uneven", "many", {"activation_checkpointing": True}),
    (["hedgehog_attention", "norm_attention"], "even", "one", {}),
]
# Lengths of the shards and packing, as in ``sequence_ops.py``.
CUTS = [("even", "no"), ("uneven", "many"), ("idle", "many"), ("idle", "no")]
WIDTH, NUM_HEADS = 16, 4


def make_layer(name: str) -> torch.nn.Module:
    torch.manual_seed(5)
    options = dict(LAYERS[name])
    if name == "gated_delta_net":
        options["head_dim"] = 4
    return nn.build_mixer(name, WIDTH, NUM_HEADS, **options).double()


def _leaves(state: Any) -> list[torch.Tensor]:
    if state is None:
        return []
    return (
        [state]
        if isinstance(state, torch.Tensor)
        else [leaf for part in state for leaf in _leaves(part)]
    )


def _objective(y: torch.Tensor, state: Any, first: int, share: float) -> torch.Tensor:
    """By place in the whole; final states count by ``share``, which sums to 1 over ranks."""
    place = torch.arange(y.shape[1], dtype=y.dtype) + first
    loss = (y * torch.sin(place)[None, :, None] * torch.cos(torch.arange(y.shape[2]))).sum()
    for leaf in _leaves(state):
        if leaf.is_floating_point():
            loss = (
                loss + share * (leaf * torch.cos(torch.arange(leaf.numel())).view(leaf.shape)).sum()
            )
    return loss


def run_layer(name: str, lengths: str, packed: str, group: Any = None) -> dict[str, float]:
    """How far outputs, states and gradients of a layer are from those of the whole."""
    layer = make_layer(name)
    rank, size = dist.get_rank(), dist.get_world_size()
    cuts = lengths_of(lengths, size)
    first, total = sum(cuts[:rank]), sum(cuts)
    here = slice(first, first + cuts[rank])
    offsets = offsets_of(packed, total)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(
        2 if offsets is None else 1, total, WIDTH, dtype=torch.float64, generator=generator
    )
    packing = {} if offsets is None else {"cu_seqlens": torch.tensor(offsets)}

    # What was read before: the state after a few other tokens.
    sequences = x.shape[0] if offsets is None else len(offsets) - 1
    before = torch.randn(sequences, 3, WIDTH, dtype=torch.float64, generator=generator)
    state = layer(before, return_state=True)[1]
    whole_x = x.clone().requires_grad_()
    y, after = layer(whole_x, state=state, return_state=True, **packing)
    _objective(y, after, 0, 1.0).backward()
    gradients = {key: value.grad.clone() for key, value in layer.named_parameters()}

    layer.zero_grad()
    state = layer(before, return_state=True)[1]
    mine = x[:, here].clone().requires_grad_()
    part, reached = layer(mine, state=state, return_state=True, context_parallel=group, **packing)
    _objective(part, reached, first, 1 / size).backward()

    result = {
        "output": difference(part, y[:, here]),
        "x": difference(mine.grad, whole_x.grad[:, here]),
    }
    for index, (found, expected) in enumerate(zip(_leaves(reached), _leaves(after), strict=True)):
        result[f"state {index}"] = difference(found, expected)
    for key, value in layer.named_parameters():
        summed = torch.zeros_like(value) if value.grad is None else value.grad.clone()
        dist.all_reduce(summed)
        result[key] = difference(summed, gradients[key])
    return result


def make_model(
    mixer: str | list[str],
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    **options: Any,
) -> nn.LanguageModel:
    torch.manual_seed(7)
    config = nn.LanguageModelConfig(
        vocab_size=31, hidden_size=WIDTH, num_layers=2, num_heads=NUM_HEADS, mixer=mixer, **options
    )
    return nn.LanguageModel(config).to(device, dtype)


def run_model(
    mixer: Any,
    lengths: str,
    packed: str,
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    **options: Any,
) -> dict[str, float]:
    """How far loss, logits and gradients of a model are from those of the whole."""
    model = make_model(mixer, dtype=dtype, device=device, **options)
    rank, size = dist.get_rank(), dist.get_world_size()
    cuts = lengths_of(lengths, size)
    first, total = sum(cuts[:rank]), sum(cuts)
    here = slice(first, first + cuts[rank])
    offsets = offsets_of(packed, total)
    packing = {} if offsets is None else {"cu_seqlens": torch.tensor(offsets, device=device)}
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(31, (2 if offsets is None else 1, total), generator=generator)
    labels = tokens.masked_fill(torch.rand(tokens.shape, generator=generator) < 0.1, -100)
    tokens, labels = tokens.to(device), labels.to(device)
    whole = model(tokens, labels=labels, return_state=True, **packing)
    whole.loss.backward()
    gradients = {key: value.grad.clone() for key, value in model.named_parameters()}
    model.zero_grad()
    part = model(
        tokens[:, here], labels=labels[:, here], return_state=True,
        context_parallel=dist.group.WORLD, **packing,
    )  # fmt: skip
    part.loss.backward()
    mean = part.loss.detach() / size
    dist.all_reduce(mean)
    result = {
        "loss": difference(mean, whole.loss),
        "logits": difference(part.logits, whole.logits[:, here]),
    }
    for found, expected in zip(_leaves(part.state), _leaves(whole.state), strict=True):
        result["state"] = max(result.get("state", 0.0), difference(found, expected))
    for key, value in model.named_parameters():
        summed = torch.zeros_like(value) if value.grad is None else value.grad / size
        dist.all_reduce(summed)
        result[key] = difference(summed, gradients[key])
    return result
