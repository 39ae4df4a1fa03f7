"""Small calls of every CUDA kernel, for compute-sanitizer: ``python bench/sanitize_cuda.py``.

Shapes are the least that reach every path: dims that fill no tile, grouped heads, packed sequences
with an empty one, the normalised forms, and one head for a long time, which is split. Inputs are
made on the host and copied, and torch's caching is best turned off
(``PYTORCH_NO_CUDA_MEMORY_CACHING=1``), so that each tensor is an allocation of its own. Searches
take states of one word and of several, closed and directed, and matrices.
"""

from __future__ import annotations

import itertools
import sys

import torch
from rankone.ops import (
    delta_rule,
    delta_rule_step,
    linear_attention,
    linear_attention_step,
    perm_apply,
    perm_hash_neighbors,
    permutation_bfs,
)
from rankone.ops._library import native_for, native_module
from rankone.ops._permutation_bfs_cuda import cuda_kernels
from torch import Tensor

FORMS = ("none", "head", "token", "channel")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# (batch, time, heads, kv_heads, key_dim, value_dim, offsets)
SHAPES = (
    (1, 70, 4, 2, 24, 40, None),
    (1, 40, 2, 2, 64, 64, (0, 0, 17, 40)),
    (1, 33, 1, 1, 128, 72, None),
)
LONG = (1, 1500, 1, 1, 16, 16, None)


def on_device(tensor: Tensor, dtype: torch.dtype = torch.float32, train: bool = True) -> Tensor:
    return tensor.to(dtype).cuda().requires_grad_(train)


def decay_shape(form: str, token: tuple[int, ...], kv_heads: int, key_dim: int):
    return {
        "none": None,
        "head": (kv_heads,),
        "token": (*token, kv_heads),
        "channel": (*token, kv_heads, key_dim),
    }[form]


def whole(shape, form: str, dtype: torch.dtype, normalize: bool) -> None:
    """Forward with states and backward for every input."""
    batch, time, heads, kv_heads, key_dim, value_dim, offsets = shape
    sequences = batch if offsets is None else len(offsets) - 1
    q, k, v = (
        on_device(torch.rand(batch, time, count, dim), dtype)
        for count, dim in ((heads, key_dim), (kv_heads, key_dim), (kv_heads, value_dim))
    )
    gates = decay_shape(form, (batch, time), kv_heads, key_dim)
    log_decay = None if gates is None else on_device(torch.rand(gates).mul(0.2).neg())
    state: Tensor | tuple[Tensor, Tensor] = on_device(
        torch.rand(sequences, kv_heads, key_dim, value_dim)
    )
    if normalize:
        state = (state, on_device(torch.rand(sequences, kv_heads, key_dim)))
    cu_seqlens = None if offsets is None else torch.tensor(offsets).cuda()
    output, after = linear_attention(
        q, k, v, log_decay, initial_state=state, output_final_state=True, normalize=normalize,
        cu_seqlens=cu_seqlens, backend="native",
    )  # fmt: skip
    states = after if isinstance(after, tuple) else (after,)
    results = (output, *states)
    weights = [torch.rand(result.shape).to(result.dtype).cuda() for result in results]
    given = state if isinstance(state, tuple) else (state,)
    leaves = [x for x in (q, k, v, log_decay, *given) if x is not None]
    torch.autograd.grad(results, leaves, weights)


def one_step(shape, form: str, dtype: torch.dtype, normalize: bool) -> None:
    batch, _, heads, kv_heads, key_dim, value_dim, _ = shape
    q, k, v = (
        on_device(torch.rand(batch, count, dim), dtype, train=False)
        for count, dim in ((heads, key_dim), (kv_heads, key_dim), (kv_heads, value_dim))
    )
    gates = decay_shape(form, (batch,), kv_heads, key_dim)
    log_decay = None if gates is None else on_device(torch.rand(gates).neg(), train=False)
    state: Tensor | tuple[Tensor, Tensor] = on_device(
        torch.rand(batch, kv_heads, key_dim, value_dim), train=False
    )
    if normalize:
        state = (state, on_device(torch.rand(batch, kv_heads, key_dim), train=False))
    linear_attention_step(q, k, v, state, log_decay, normalize=normalize)


def delta_inputs(shape, form: str, dtype: torch.dtype, *, step: bool):
    """Tokens and options of the delta rule; what the shape calls query heads are value heads."""
    batch, time, value_heads, heads, key_dim, value_dim, offsets = shape
    token = (batch,) if step else (batch, time)
    q, k, v = (
        on_device(torch.rand(*token, count, dim), dtype, train=not step)
        for count, dim in ((heads, key_dim), (heads, key_dim), (value_heads, value_dim))
    )
    beta = on_device(torch.rand(*token, value_heads), train=not step)
    gates = decay_shape(form, token, value_heads, key_dim)
    log_decay = None
    if gates is not None:
        log_decay = on_device(torch.rand(gates).mul(0.2).neg(), train=not step)
    sequences = batch if step or offsets is None else len(offsets) - 1
    state = on_device(torch.rand(sequences, value_heads, key_dim, value_dim), train=not step)
    return (q, k, v, beta), log_decay, state


def delta_whole(shape, form: str, dtype: torch.dtype, l2norm: bool) -> None:
    """Forward with states and backward for every input."""
    tokens, log_decay, state = delta_inputs(shape, form, dtype, step=False)
    offsets = shape[-1]
    results = delta_rule(
        *tokens, log_decay=log_decay, initial_state=state, output_final_state=True,
        cu_seqlens=None if offsets is None else torch.tensor(offsets).cuda(),
        use_qk_l2norm=l2norm, backend="native",
    )  # fmt: skip
    weights = [torch.rand(result.shape).to(result.dtype).cuda() for result in results]
    leaves = [x for x in (*tokens, log_decay, state) if x is not None]
    torch.autograd.grad(results, leaves, weights)


def delta_step(shape, form: str, dtype: torch.dtype, l2norm: bool) -> None:
    tokens, log_decay, state = delta_inputs(shape, form, dtype, step=True)
    for inplace in (False, True):
        delta_rule_step(*tokens, state, log_decay=log_decay, use_qk_l2norm=l2norm, inplace=inplace)


def delta_calls() -> int:
    calls = 0
    forms = [form for form in FORMS if form != "head"]
    for form, dtype in itertools.product(forms, DTYPES):
        for index, shape in enumerate(SHAPES):
            l2norm = index == 0
            delta_whole(shape, form, dtype, l2norm)
            delta_step(shape, form, dtype, l2norm)
            calls += 3
        torch.cuda.synchronize()
    for form in forms:
        delta_whole(LONG, form, torch.bfloat16, True)
        calls += 1
    torch.cuda.synchronize()
    return calls


def search_calls() -> int:
    """Every engine on graphs of every kind, and the two ops on many states."""
    n = 7
    identity = torch.arange(n)
    moves = torch.stack([identity.roll(-1), identity.roll(1), torch.tensor([1, 0, *range(2, n)])])
    wide = torch.arange(24).repeat(3, 1)
    wide[0, :4], wide[1, :4] = torch.tensor([1, 2, 3, 0]), torch.tensor([3, 0, 1, 2])
    wide[2, [3, 9]] = torch.tensor([9, 3])
    shears = torch.tensor([[[1, 1], [0, 1]], [[1, 0], [1, 1]]])
    searches = [
        ("hash", moves, None, 0),
        ("hash", moves[[0, 2]], None, 0),
        ("bitarray", moves, None, 0),
        ("bitarray", moves[[0, 2]], None, 0),
        ("hash", wide, torch.arange(24) % 9, 0),
        ("hash", wide[[0, 2]], torch.arange(24) % 9, 0),
        ("hash", shears, None, 5),
        ("hash", shears, None, 0),
    ]
    for engine, generators, start, modulus in searches:
        permutation_bfs(
            generators.cuda(), start, modulus=modulus, engine=engine, max_level=12,
            max_layer_size_to_store=None,
        )  # fmt: skip
    for width in (24, 700):
        states = torch.randint(0, 9, (70, width)).to(torch.uint8).cuda()
        generators = torch.stack([torch.randperm(width) for _ in range(3)]).cuda()
        perm_hash_neighbors(states, generators, torch.arange(width).cuda())
        words = torch.randint(0, 2**62, (70, -(-width // 16))).cuda()
        perm_apply(words, generators, width, 4)
    torch.cuda.synchronize()
    return len(searches) + 4


def main() -> int:
    native = native_module()
    if not torch.cuda.is_available() or native is None or not native.has_cuda:
        print("sanitize_cuda: needs a CUDA device and a build with CUDA kernels", file=sys.stderr)
        return 2
    torch.manual_seed(0)
    calls = 0
    for form, dtype in itertools.product(FORMS, DTYPES):
        for index, shape in enumerate(SHAPES):
            normalize = index == 0
            whole(shape, form, dtype, normalize)
            one_step(shape, form, dtype, normalize)
            calls += 2
        torch.cuda.synchronize()
    for form in FORMS:
        whole(LONG, form, torch.bfloat16, False)
        calls += 1
    torch.cuda.synchronize()
    if native_for("delta_rule", torch.device("cuda"), torch.float32) is not None:
        calls += delta_calls()
    if cuda_kernels(torch.device("cuda")) is not None:
        calls += search_calls()
    print(f"sanitize_cuda: {calls} calls")
    return 0


if __name__ == "__main__":
    sys.exit(main())
