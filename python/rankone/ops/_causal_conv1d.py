"""Short causal convolution along time, one filter a channel, with its state for decoding.

Composite torch code on the convolution of torch. A packed batch is one convolution too: every
sequence is laid behind the width - 1 entries of its own state, so no filter reaches across a
boundary and nothing of size time * width * channels is formed.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from rankone.ops import _sequence, checks

ACTIVATIONS = (None, "silu")


def _check_common(
    weight: Tensor, bias: Tensor | None, channels: int, activation: str | None
) -> None:
    checks.check_rank("weight", weight, ("channels", "width"))
    if weight.shape[1] < 1:
        raise ValueError(f"weight must have a width of at least 1, got {checks.shape_of(weight)}")
    checks.check_shape("weight", weight, (channels, weight.shape[1]), "channels as in x, width")
    if bias is not None:
        checks.check_shape("bias", bias, (channels,), "channels as in x")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {ACTIVATIONS}, got {activation!r}")


def _check_state(name: str, state: Tensor, sizes: tuple[int, ...]) -> None:
    checks.check_shape(name, state, sizes, "sequences, channels, width - 1")
    checks.check_floating(name, state)


def _check_placement(tensors: dict[str, Tensor | None]) -> None:
    """One dtype for x, weight and bias; one device for all."""
    filtered = {name: tensors[name] for name in ("x", "weight", "bias")}
    checks.check_same_dtype({name: t for name, t in filtered.items() if t is not None})
    checks.check_same_device(tensors)


def _activate(rows: Tensor, activation: str | None) -> Tensor:
    return functional.silu(rows) if activation == "silu" else rows


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Causal convolution along time with one short filter a channel.

    y_t = activation(bias + sum_w weight[:, w] x_{t - W + 1 + w}): ``weight[:, -1]`` meets the token
    itself, and what lies before a sequence is its initial state, or zeros.

    Args:
        x: (B, T, D); float32, float64, float16 or bfloat16.
        weight: (D, W), W >= 1.
        bias: (D,) or None.
        activation: None or ``"silu"``.
        initial_state: (N, D, W - 1), the tokens before the first, oldest first; None means zeros.
            N is B, or the number of packed sequences.
        output_final_state: also return the last W - 1 entries of [initial_state ; x].
        cu_seqlens: (N + 1,) int32 or int64 offsets of sequences packed along time, B = 1.

    Returns:
        y: (B, T, D) in the dtype of x.
        final_state: None, or (N, D, W - 1) in the dtype of x.

    Raises:
        ValueError: for wrong shapes, devices or values; the message names the argument. The values
            of ``cu_seqlens`` are read on CPU tensors, elsewhere only with
            ``RANKONE_CHECK_VALUES=1``, and never in a graph of ``torch.compile``.
        TypeError: for wrong dtypes (also a ``ValueError``).

    Source: the short convolution of the layers of arXiv 2406.06484.

    Example:
        >>> import torch
        >>> from rankone.ops import causal_conv1d
        >>> x = torch.tensor([[[1.0], [2.0], [3.0]]])
        >>> y, state = causal_conv1d(x, torch.tensor([[10.0, 1.0]]), output_final_state=True)
        >>> y.flatten().tolist(), state.flatten().tolist()
        ([1.0, 12.0, 23.0], [3.0])
    """
    checks.check_rank("x", x, ("batch", "time", "channels"))
    batch, time, channels = x.shape
    _check_common(weight, bias, channels, activation)
    checks.check_flags({"output_final_state": output_final_state})
    if cu_seqlens is not None:
        checks.check_cu_seqlens(cu_seqlens, batch)
    sequences = _sequence.sequence_count(x, cu_seqlens)
    reach = weight.shape[1] - 1
    if initial_state is not None:
        _check_state("initial_state", initial_state, (sequences, channels, reach))
    _check_placement(
        {"x": x, "weight": weight, "bias": bias, "initial_state": initial_state,
         "cu_seqlens": cu_seqlens}
    )  # fmt: skip
    x = x.to(_sequence.output_dtype(x))
    if initial_state is None:
        before = x.new_zeros(sequences, reach, channels)
    else:
        before = initial_state.to(x.dtype).transpose(1, 2)
    if cu_seqlens is None:
        extended = torch.cat([before, x], dim=1)
        y = _convolve(extended, weight, bias).contiguous()
        final = extended[:, time:]
    else:
        if not torch.compiler.is_compiling():
            checks.check_cu_seqlens_values(cu_seqlens, time)
        offsets = cu_seqlens.long()
        token = torch.arange(time, device=x.device)
        # Token t of sequence n lies behind n + 1 states in the extended buffer.
        place = token + reach * torch.searchsorted(offsets, token, right=True)
        window = torch.arange(reach, device=x.device)
        shift = offsets + reach * torch.arange(sequences + 1, device=x.device)
        first = (shift[:-1, None] + window).flatten()
        last = (offsets[1:] + reach * torch.arange(sequences, device=x.device))[:, None] + window
        extended = x.new_zeros(time + sequences * reach, channels)
        extended = extended.index_copy(0, place, x[0])
        extended = extended.index_copy(0, first, before.flatten(0, 1))
        # Outputs at the places of states mix sequences and are not read.
        y = _convolve(extended[None], weight, bias)
        y = y.index_select(1, place - reach)
        final = extended[last.flatten()].unflatten(0, (sequences, reach))
    y = _activate(y, activation)
    return y, final.transpose(1, 2).contiguous() if output_final_state else None


def _convolve(extended: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(B, L, D) -> (B, L - W + 1, D)."""
    rows = extended.transpose(1, 2)
    if rows.numel() == 0 or rows.shape[2] < weight.shape[1]:
        # No output, but still a function of the arguments.
        length = max(extended.shape[1] - weight.shape[1] + 1, 0)
        empty = extended[:, :length] * weight[:, 0]
        return empty if bias is None else empty + bias
    weight = weight.to(rows.dtype)[:, None]
    bias = None if bias is None else bias.to(rows.dtype)
    return functional.conv1d(rows, weight, bias, groups=rows.shape[1]).transpose(1, 2)


def causal_conv1d_step(
    x: Tensor,
    weight: Tensor,
    state: Tensor | None,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
) -> tuple[Tensor, Tensor]:
    """One token of :func:`causal_conv1d` for every sequence of a batch.

    Args:
        x: (B, D).
        weight: (D, W).
        state: (B, D, W - 1), the tokens before, oldest first; None means zeros. Not modified.
        bias: (D,) or None.
        activation: None or ``"silu"``.

    Returns:
        y: (B, D) in the dtype of x.
        state: (B, D, W - 1) in the dtype of x.

    Raises:
        ValueError, TypeError: as :func:`causal_conv1d`.

    Source: as :func:`causal_conv1d`.

    Example:
        >>> import torch
        >>> from rankone.ops import causal_conv1d_step
        >>> weight, state = torch.tensor([[10.0, 1.0]]), torch.tensor([[[3.0]]])
        >>> y, state = causal_conv1d_step(torch.tensor([[4.0]]), weight, state)
        >>> y.item(), state.item()
        (34.0, 4.0)
    """
    checks.check_rank("x", x, ("batch", "channels"))
    _check_common(weight, bias, x.shape[1], activation)
    sizes = (*x.shape, weight.shape[1] - 1)
    if state is not None:
        _check_state("state", state, sizes)
    _check_placement({"x": x, "weight": weight, "bias": bias, "state": state})
    x = x.to(_sequence.output_dtype(x))
    state = x.new_zeros(sizes) if state is None else state.to(x.dtype)
    window = torch.cat([state, x[..., None]], dim=-1)
    compute = _sequence.state_dtype(x.dtype)
    y = (window.to(compute) * weight.to(compute)).sum(-1)
    if bias is not None:
        y = y + bias.to(compute)
    return _activate(y, activation).to(x.dtype), window[..., 1:]
