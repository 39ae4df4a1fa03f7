"""Mixture-of-Memories (arXiv 2502.13685): several memories interfere less than one.

The dispatch is held against a loop in which every memory keeps a list of its tokens. Interference
is measured on untrained memories with random routing, recall after training on MQAR, and the
balance loss on a router alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rankone import nn
from rankone.datasets import mqar
from rankone.ops import delta_rule, delta_rule_reference, linear_attention, route_tokens
from rankone.reproduce import MUTED, Claim, Figure, Reproduction, Settings, Table, panel
from rankone.reproduce._recall import RecallResult, RecallTraining, recall_model, train_recall

SINGLE = "single memory"
ROUTED = "4 memories, top 2, shared"

# Sharpness of the random routing: logits are this times the product of key and direction.
_ROUTING_SHARPNESS = 8.0

_TRAINING = RecallTraining(steps=1200, score_every=100)


@dataclass(frozen=True)
class Scale:
    """Sizes of one run.

    Attributes:
        oracle_time, oracle_width: shape of the comparison with token lists.
        draws, dim, pairs: random memories a point, their key and value channels, and the numbers of
            stored pairs.
        hidden_size, head_dim, expand_v: of the trained models.
        vocab_size, seq_len, num_kv_pairs: of the task.
        initializer_range: standard deviation of the models' initial weights.
        training, test_examples: how they learn and are scored.
        variants: whether to train the other mixtures of memories as well.
        balance_steps: of the balance loss alone.
    """

    oracle_time: int = 24
    oracle_width: int = 16
    draws: int = 32
    dim: int = 32
    pairs: tuple[int, ...] = (64, 128)
    hidden_size: int = 32
    head_dim: int = 8
    expand_v: float = 4.0
    vocab_size: int = 256
    seq_len: int = 64
    num_kv_pairs: int = 16
    initializer_range: float = 0.15
    training: RecallTraining = _TRAINING
    test_examples: int = 512
    variants: bool = False
    balance_steps: int = 300


QUICK = Scale()
FULL = Scale(variants=True)


def run(settings: Settings) -> Reproduction:
    """Exact dispatch, interference, recall after training, and balanced routing."""
    scale = settings.scale(quick=QUICK, full=FULL)
    claims, interference = _interference(settings, scale)
    results = _trained(settings, scale)
    balance = _balanced(settings, scale)
    return Reproduction(
        slug="mixture-of-memories",
        claims=(
            _oracle_claim(settings, scale),
            *claims,
            _recall_claim(results),
            *_balance_claims(balance),
        ),
        tables=(interference, _recall_table(results)),
        figures=(_figure(scale, results, balance[0]),),
        settings={
            "task": f"MQAR, {scale.num_kv_pairs} pairs in {scale.seq_len} tokens of "
            f"{scale.vocab_size}",
            "models": f"one layer, width {scale.hidden_size}, one head, key width "
            f"{scale.head_dim}, linear-attention memories, no feed-forward block",
            "training": f"{scale.training.steps} steps of {scale.training.batch_size} sequences, "
            f"peak learning rate {scale.training.learning_rate:g}",
        },
    )


def _oracle_claim(settings: Settings, scale: Scale) -> Claim:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.random_state)
        width = scale.oracle_width
        layer = nn.MixtureOfMemories(width, 2, width // 2, dtype=torch.float64)
        torch.nn.init.normal_(layer.router.weight)
        x, upstream = torch.randn(2, 2, scale.oracle_time, width, dtype=torch.float64)
    layer, x = layer.to(settings.device), x.to(settings.device).requires_grad_()
    tensors = (x, *layer.parameters())
    found = []
    for call in (layer, lambda tokens: _token_lists(layer, tokens)):
        y = call(x)
        gradients = torch.autograd.grad(y, tensors, upstream.to(settings.device))
        found.append((y, *gradients))
    errors = [
        float(((ours - lists).norm() / lists.norm()).detach())
        for ours, lists in zip(*found, strict=True)
    ]
    return Claim.at_most(
        "dispatch = every memory run over the list of its own tokens, in float64: relative error "
        "of output and all gradients, the largest",
        max(errors),
        1e-8,
        expected="0",
        strict=True,
    )


def _token_lists(layer: nn.MixtureOfMemories, x: Tensor) -> Tensor:
    """The layer as it is defined: one list of tokens a memory and sequence, one call a list."""
    weights = dict(layer.named_parameters())
    outputs = []
    for sequence in x:
        p = (sequence @ layer.router.weight.T).softmax(-1)
        chosen = p.topk(layer.top_k, dim=-1)
        share = chosen.values / chosen.values.sum(-1, keepdim=True)
        o = _memory(layer, sequence, *(weights[f"shared_{name}_proj.weight"] for name in "kvba"))
        for memory in range(layer.num_memories):
            times, slot = (chosen.indices == memory).nonzero(as_tuple=True)
            own = (weights[f"{name}_proj.weight"][memory] for name in "kvba")
            read = _memory(layer, sequence[times], *own)
            o = o.index_add(0, times, share[times, slot][:, None, None] * read)
        outputs.append(o)
    gated = layer.o_norm(torch.stack(outputs)).flatten(-2)
    if layer.g_proj is not None:
        gated = gated * F.silu(layer.g_proj(x))
    return layer.o_proj(gated)


def _memory(
    layer: nn.MixtureOfMemories, x: Tensor, wk: Tensor, wv: Tensor, wb: Tensor, wa: Tensor
) -> Tensor:
    """Reads (tokens, heads, value dim) of one memory after each of its tokens."""
    heads = layer.num_heads
    channels = []
    for weight, conv in (
        (layer.q_proj.weight, layer.q_conv), (wk, layer.k_conv), (wv, layer.v_conv)
    ):  # fmt: skip
        assert conv is not None
        taps = conv.kernel_size
        padded = F.pad(x @ weight.T, (0, 0, taps - 1, 0))
        windows = [padded[lag : lag + len(x)] * conv.weight[:, lag] for lag in range(taps)]
        channels.append(F.silu(torch.stack(windows).sum(0)).unflatten(-1, (heads, -1))[None])
    step = F.softplus(x @ wa.T + layer.dt_bias)
    q, k, v = channels
    return delta_rule_reference(
        q,
        k,
        v,
        torch.sigmoid(x @ wb.T)[None],
        log_decay=(-layer.A_log.exp() * step)[None],
        use_qk_l2norm=True,
    )[0][0]


# Rule, top_k and number of memories -> the range of the error over that of a single memory.
Ranges = Mapping[tuple[str, int, int], tuple[float, float]]

_LINEAR_RANGES: Ranges = {
    ("linear attention", 1, 4): (0.20, 0.32),
    ("linear attention", 1, 8): (0.10, 0.20),
    ("linear attention", 2, 4): (0.38, 0.55),
    ("linear attention", 2, 8): (0.18, 0.30),
}
_DELTA_RANGES: tuple[Ranges, ...] = (
    {("delta rule", 1, 4): (0.22, 0.36), ("delta rule", 1, 8): (0.10, 0.22)},
    {("delta rule", 1, 4): (0.33, 0.49), ("delta rule", 1, 8): (0.15, 0.29)},
)


def _interference(settings: Settings, scale: Scale) -> tuple[list[Claim], Table]:
    """Errors of reading all stored pairs, relative to a single memory."""
    claims, rows = [], []
    for pairs, delta_ranges in zip(scale.pairs, _DELTA_RANGES, strict=True):
        single = {
            rule: _reading_error(settings, scale, rule, pairs, 1, 1)
            for rule in ("linear attention", "delta rule")
        }
        for rule, error in single.items():
            theory = (pairs - 1) / scale.dim if rule == "linear attention" else None
            rows.append((rule, pairs, 1, 1, error, 1.0, theory))
        for (rule, top_k, memories), (low, high) in {**_LINEAR_RANGES, **delta_ranges}.items():
            error = _reading_error(settings, scale, rule, pairs, memories, top_k)
            ratio = error / single[rule]
            ideal = top_k / memories if rule == "linear attention" else None
            rows.append((rule, pairs, memories, top_k, error, ratio, ideal))
            claims.append(
                Claim.close(
                    f"{rule}, {pairs} pairs, each in {top_k} of {memories} memories: error over "
                    "that of a single memory",
                    ratio,
                    round((low + high) / 2, 3),
                    absolute=round((high - low) / 2, 3),
                )
            )
    table = Table(
        title="Reading pairs from untrained memories",
        columns=("rule", "pairs", "memories", "top k", "error", "over single", "ideal"),
        rows=tuple(rows),
        note="Relative squared error; the ideal of a single linear memory is (N - 1) / K, that of "
        "several the share of the pairs that each holds.",
    )
    return claims, table


def _reading_error(
    settings: Settings, scale: Scale, rule: str, pairs: int, memories: int, top_k: int
) -> float:
    """Random unit keys routed by random directions, written once, read back by the same keys."""
    generator = torch.Generator().manual_seed(settings.random_state)
    shape = (2, scale.draws, pairs, scale.dim)
    k, v = torch.randn(shape, generator=generator, dtype=torch.float64)
    k = F.normalize(k, dim=-1)
    directions = torch.randn(
        scale.draws, scale.dim, memories, generator=generator, dtype=torch.float64
    )
    k, v, directions = (tensor.to(settings.device) for tensor in (k, v, directions))
    router = nn.route(_ROUTING_SHARPNESS * k @ directions, top_k)
    perm, _, cu_seqlens = route_tokens(router.indices, memories)
    token = perm.div(top_k, rounding_mode="floor")
    keys, values = (tensor.flatten(0, 1)[token][None, :, None] for tensor in (k, v))
    states: Any
    if rule == "delta rule":
        strength = keys.new_ones(1, len(token), 1)
        _, states = delta_rule(
            keys, keys, values, strength, cu_seqlens=cu_seqlens, output_final_state=True
        )
    else:
        _, states = linear_attention(
            keys, keys, values, cu_seqlens=cu_seqlens, output_final_state=True
        )
    # Segments are memories first, then draws.
    states = states[:, 0].unflatten(0, (memories, scale.draws))
    reads = torch.einsum("bnk,mbkv->bnmv", k, states)
    chosen = reads.gather(2, router.indices[..., None].expand(-1, -1, -1, scale.dim))
    read = (chosen * router.weights[..., None]).sum(2)
    return float((read - v).square().sum() / v.square().sum())


def _options(scale: Scale) -> dict[str, dict[str, Any]]:
    """Options of the trained layers by name."""
    common = {
        "head_dim": scale.head_dim,
        "expand_v": scale.expand_v,
        "memory_rule": "linear_attention",
        "conv_scope": "sequence",
    }
    alone = {"num_memories": 1, "top_k": 1, "shared_memory": False}
    options = {SINGLE: {**common, **alone}, ROUTED: {**common, "num_memories": 4, "top_k": 2}}
    if scale.variants:
        options |= {
            "4 memories, top 1": {**common, **alone, "num_memories": 4},
            "4 memories, top 2": {**common, **alone, "num_memories": 4, "top_k": 2},
            "8 memories, top 2, shared": {**common, "num_memories": 8, "top_k": 2},
        }
    return options


def _trained(settings: Settings, scale: Scale) -> dict[str, RecallResult]:
    def draw(count: int, seed: int):
        return mqar(count, scale.seq_len, scale.num_kv_pairs, scale.vocab_size, seed)

    results = {}
    for name, options in _options(scale).items():
        model = recall_model(
            "mixture_of_memories",
            vocab_size=scale.vocab_size,
            hidden_size=scale.hidden_size,
            initializer_range=scale.initializer_range,
            random_state=settings.random_state,
            device=settings.device,
            **options,
        )
        results[name] = train_recall(
            model,
            draw,
            scale.training,
            test_examples=scale.test_examples,
            random_state=settings.random_state,
            description=f"training {name}",
            progress=settings.progress,
        )
    return results


def _recall_claim(results: dict[str, RecallResult]) -> Claim:
    routed, single = results[ROUTED].accuracy, results[SINGLE].accuracy
    return Claim.at_least(
        "MQAR after training: accuracy with 4 memories, top 2 and a shared one, above a single "
        "memory of the same size",
        routed - single,
        0.08,
        expected="above 0",
        strict=True,
        note=f"accuracies {routed:.3f} and {single:.3f}",
    )


def _recall_table(results: dict[str, RecallResult]) -> Table:
    return Table(
        title="Recall after training on MQAR",
        columns=("memories", "accuracy", "parameters", "training, s"),
        rows=tuple(
            (name, result.accuracy, result.parameters, result.seconds)
            for name, result in results.items()
        ),
        note="Every memory has a state of the same size.",
    )


@dataclass(frozen=True)
class Balance:
    """Routing before and after minimising the balance loss alone."""

    before: tuple[float, ...]
    after: tuple[float, ...]
    loss: float


def _balanced(settings: Settings, scale: Scale) -> tuple[Balance, ...]:
    """Three routers over tokens with a common mean, which unbalances them from the start."""
    return tuple(_balance(settings, scale, settings.random_state + seed) for seed in range(3))


def _balance(settings: Settings, scale: Scale, seed: int) -> Balance:
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(scale.dim, generator=generator)
    weight = (0.3 * torch.randn(4, scale.dim, generator=generator)).requires_grad_()
    optimizer = torch.optim.Adam([weight], lr=1e-2)

    def routed(tokens: int) -> nn.RouterOutput:
        x = mean + torch.randn(1, tokens, scale.dim, generator=generator)
        return nn.route(x @ weight.T, 2)

    def load() -> tuple[float, ...]:
        with torch.no_grad():
            return tuple(routed(4096).load.tolist())

    before = load()
    for _ in range(scale.balance_steps):
        optimizer.zero_grad()
        routed(512).aux_loss.backward()
        optimizer.step()
    with torch.no_grad():
        loss = float(routed(4096).aux_loss)
    return Balance(before, load(), loss)


def _balance_claims(balance: tuple[Balance, ...]) -> list[Claim]:
    farthest = max((entry.loss for entry in balance), key=lambda loss: abs(loss - 2))
    return [
        Claim.at_least(
            "a router of 4 memories, top 2, before training: largest load, the least of 3 seeds",
            min(max(entry.before) for entry in balance),
            0.65,
            expected="unbalanced",
            strict=True,
        ),
        Claim.at_most(
            "the same after minimising the balance loss alone: largest load, the most of 3 seeds",
            max(max(entry.after) for entry in balance),
            0.58,
            expected="0.5",
            strict=True,
        ),
        Claim.close(
            "its balance loss then, the farthest of 3 seeds from top k",
            farthest,
            2.0,
            absolute=0.05,
        ),
    ]


def _figure(scale: Scale, results: dict[str, RecallResult], balance: Balance) -> Figure:
    with panel("training step", "test accuracy", title="recall") as (left, axes):
        for name, result in results.items():
            axes.plot(result.steps, result.accuracies, label=name)
        axes.set_ylim(0, 1.02)
        axes.legend(loc="lower right")
    with panel("memory", "share of tokens", title="load of the memories") as (right, axes):
        places = range(len(balance.before))
        axes.bar([place - 0.2 for place in places], balance.before, 0.4, label="at the start")
        axes.bar(
            [place + 0.2 for place in places], balance.after, 0.4, label="with the balance loss"
        )
        axes.axhline(2 / len(balance.before), color=MUTED, linestyle="--", linewidth=1.2)
        axes.set_xticks(list(places))
        axes.set_ylim(0, 1)
        axes.legend(loc="upper left")
    return Figure.render(
        "Several memories against one",
        f"Left: share of {scale.num_kv_pairs} pairs recalled on MQAR, one layer of width "
        f"{scale.hidden_size}. Right: share of tokens routed to each of 4 memories, two a token, "
        f"before and after {scale.balance_steps} steps on the balance loss alone; the line is even "
        "routing.",
        left,
        right,
    )
