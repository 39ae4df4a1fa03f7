"""Small calls of every CUDA kernel, for compute-sanitizer: ``python bench/sanitize_cuda.py``.

Shapes are the least that reach every path: dims that fill no tile, grouped heads, packed sequences
with an empty one, the normalised forms, and one head for a long time, which is split. Inputs are
made on the host and copied, and torch's caching is best turned off
(``PYTORCH_NO_CUDA_MEMORY_CACHING=1``), so that each tensor is an allocation of its own. Scans of
grids run in every discretization, with more rows and more columns than warps, and with long axes,
which are split. Searches take states of one word and of several, closed and directed, and matrices.
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
    selective_scan,
    selective_scan_2d,
    selective_scan_2d_step,
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


# (discretization, structure)
SCANS = (
    ("zoh", "diagonal"),
    ("mamba", "diagonal"),
    ("exp", "diagonal"),
    ("none", "diagonal"),
    ("zoh", "companion"),
)
# (batch, rows, columns, channels, states, groups); the third has several channels a thread.
GRIDS = ((1, 9, 20, 6, 5, 2), (1, 20, 9, 33, 16, 3), (70, 1, 2, 66, 4, 1))
LONG_GRIDS = ((1, 2, 400, 4, 4, 1), (1, 400, 2, 4, 4, 1))
LONG_LINE = 1200


def scan_inputs(grid, mode: tuple[str, str], dtype: torch.dtype, coupled: tuple[bool, bool]):
    """The tensors of a scan by name, B and C of every form, and its states by column and row."""
    batch, rows, columns, channels, states, groups = grid
    discretization, structure = mode
    cells = (batch, rows, columns)
    given: dict[str, Tensor | None] = {"dt1": None, "dt2": None}
    given["x"] = on_device(torch.rand(*cells, channels), dtype)
    given["z"] = on_device(torch.rand(*cells, channels), dtype)
    given["D"] = on_device(torch.rand(channels))
    if discretization != "none":
        for name, heads in (("dt1", channels), ("dt2", 1)):
            given[name] = on_device(torch.rand(*cells, heads), dtype)
            given[f"{name}_bias"] = on_device(torch.rand(heads))
    sign = 0.4 if discretization == "none" else -1.0
    for name, size in (("A1", sign), ("A2", 0.2), ("A3", 0.2), ("A4", sign)):
        given[name] = on_device(size * (torch.rand(channels, states) + 0.5))
    if structure == "companion":
        for name in ("A1", "A2"):
            given[name] = on_device(torch.rand(channels, states) / states)
        given["gamma"] = on_device(torch.rand(channels) - 0.5)
    for name, keep in zip(("A2", "A3"), coupled, strict=True):
        given[name] = given[name] if keep else None
    given["B1"] = on_device(torch.rand(*cells, states), dtype)
    given["B2"] = on_device(torch.rand(channels, states))
    for name in ("C1", "C2"):
        given[name] = on_device(torch.rand(*cells, groups, states), dtype)
    borders = tuple(
        tuple(on_device(torch.rand(batch, length, channels, states)) for _ in range(2))
        for length in (rows, columns)
    )
    return given, borders


def scan_whole(grid, mode, dtype, *, coupled=(True, True), reverse=False) -> None:
    """Forward with states and backward for every input."""
    given, (col, row) = scan_inputs(grid, mode, dtype, coupled)
    y, (col_after, row_after) = selective_scan_2d(
        **given, dt_softplus=mode[0] != "none", discretization=mode[0], structure=mode[1],
        reverse_rows=reverse, reverse_cols=reverse, initial_col_state=col, initial_row_state=row,
        return_final_state=True, backend="native",
    )  # fmt: skip
    results = (y, *col_after, *row_after)
    weights = [torch.rand(result.shape).to(result.dtype).cuda() for result in results]
    leaves = [x for x in (*given.values(), *col, *row) if x is not None]
    torch.autograd.grad(results, leaves, weights)


def scan_step(grid, mode, dtype) -> None:
    given, (col, _) = scan_inputs(grid, mode, dtype, (True, True))
    column = {
        name: tensor[:, :, 0] if tensor is not None and tensor.ndim > 2 else tensor
        for name, tensor in given.items()
    }
    column["x_col"] = column.pop("x")
    with torch.no_grad():
        selective_scan_2d_step(
            **column, dt_softplus=mode[0] != "none", discretization=mode[0], structure=mode[1],
            col_state=col, backend="native",
        )  # fmt: skip


def scan_line(time: int, dtype: torch.dtype) -> None:
    """Forward and backward of the scan over one axis."""
    batch, channels, states = 2, 6, 5
    u, delta = (on_device(torch.rand(batch, channels, time), dtype) for _ in range(2))
    A, D = on_device(-torch.rand(channels, states) - 0.1), on_device(torch.rand(channels))
    B = on_device(torch.rand(batch, states, time), dtype)
    C = on_device(torch.rand(batch, 3, states, time), dtype)
    results = selective_scan(u, delta, A, B, C, D, return_last_state=True, backend="native")
    weights = [torch.rand(result.shape).to(result.dtype).cuda() for result in results]
    torch.autograd.grad(results, (u, delta, A, B, C, D), weights)


def scan_calls() -> int:
    calls = 0
    for mode, dtype in itertools.product(SCANS, DTYPES):
        for index, grid in enumerate(GRIDS):
            scan_whole(grid, mode, dtype, reverse=index == 0)
            scan_step(grid, mode, dtype)
            calls += 2
        torch.cuda.synchronize()
    for dtype in DTYPES:
        for grid, coupled in itertools.product(LONG_GRIDS, ((False, True), (True, False))):
            scan_whole(grid, ("none", "diagonal"), dtype, coupled=coupled)
            calls += 1
        for time in (1, 70, LONG_LINE):
            scan_line(time, dtype)
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
    if native_for("selective_scan_2d", torch.device("cuda"), torch.float32) is not None:
        calls += scan_calls()
    if cuda_kernels(torch.device("cuda")) is not None:
        calls += search_calls()
    print(f"sanitize_cuda: {calls} calls")
    return 0


if __name__ == "__main__":
    sys.exit(main())
