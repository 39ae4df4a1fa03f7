"""Mamba's selective scan over one axis: the 2D scan of a grid of one row, with Mamba's names.

With one row and no coupling h1 of the 2D scan is Mamba's state, so both run on the same kernels.
"""

from __future__ import annotations

from torch import Tensor

from rankone.ops import _selective_scan_2d as family
from rankone.ops import _selective_scan_2d_arguments as arguments
from rankone.ops import _sequence, checks


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    *,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Mamba's selective scan, with the argument names and layouts of ``mamba_ssm``.

    Per batch entry and channel, with s_t = delta_t + delta_bias, or its softplus::

        h_t = exp(s_t A) h_{t-1} + s_t B_t u_t        y_t = (C_t · h_t + D u_t) silu(z_t)

    Args:
        u: (B, D, L); float32, float64, float16 or bfloat16.
        delta: (B, D, L) step sizes.
        A: (D, N), real; N is at most 64.
        B: (D, N), (B, N, L) or (B, G, N, L) with G dividing D.
        C: as B.
        D: (D,) weights of the skip.
        z: (B, D, L) gates.
        delta_bias: (D,) added to the steps.
        delta_softplus: take the softplus of the steps.
        return_last_state: also return the state after the last step.
        backend: ``"native"``, ``"torch"`` or ``"auto"``, as for
            :func:`rankone.ops.selective_scan_2d`.

    Returns:
        y, (B, D, L) in the dtype of u; with ``return_last_state``, (y, last_state), the state
        (B, D, N) in float32 (float64 for float64 inputs).

    Raises:
        ValueError: for wrong shapes or devices; the message names the argument.
        TypeError: for wrong dtypes (also a ``ValueError``); complex A, B and C are not supported.
        RuntimeError: for ``backend="native"`` without kernels, and in a double backward.

    Source: arXiv 2312.00752 (Mamba).

    Example:
        >>> import torch
        >>> from rankone.ops import selective_scan
        >>> u, delta = torch.randn(2, 8, 20), torch.rand(2, 8, 20)
        >>> B, C = torch.randn(2, 2, 4, 20)
        >>> y, state = selective_scan(u, delta, -torch.ones(8, 4), B, C, return_last_state=True)
        >>> y.shape, state.shape
        (torch.Size([2, 8, 20]), torch.Size([2, 8, 4]))
    """
    checks.check_rank("u", u, ("batch", "channels", "time"))
    checks.check_flags({"delta_softplus": delta_softplus, "return_last_state": return_last_state})
    for name, tensor in (("u", u), ("A", A), ("B", B), ("C", C)):
        checks.check_tensor(name, tensor)
        if tensor.is_complex():
            raise checks.DTypeError(
                f"{name} must be real, got {tensor.dtype}; complex state spaces are not supported"
            )
        checks.check_floating(name, tensor)
    batch, channels, time = u.shape
    if channels < 1 or time < 1:
        raise ValueError(f"u must have at least one channel and step, got {checks.shape_of(u)}")
    checks.check_rank("A", A, ("channels", "state"))
    n = A.shape[1]
    if not 1 <= n <= arguments.MAX_STATE:
        raise ValueError(
            f"the state size, the last axis of A, must be between 1 and {arguments.MAX_STATE}, got "
            f"{n} in shape {checks.shape_of(A)}"
        )
    checks.check_shape("A", A, (channels, n), "channels as in u, state")
    checks.check_shape("delta", delta, (batch, channels, time), "that of u")
    checks.check_floating("delta", delta)
    if z is not None:
        checks.check_shape("z", z, (batch, channels, time), "that of u")
        checks.check_floating("z", z)
    for name, weights in (("D", D), ("delta_bias", delta_bias)):
        if weights is not None:
            checks.check_shape(name, weights, (channels,), "channels as in u")
            checks.check_floating(name, weights)
    input_vector, output_vector = _vectors("B", B, u, n), _vectors("C", C, u, n)
    checks.check_same_device(
        {"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "z": z, "delta_bias": delta_bias}
    )

    def row(tensor: Tensor) -> Tensor:
        """(B, D, L) as a grid of one row, (B, 1, L, D)."""
        return tensor.transpose(1, 2)[:, None]

    inputs = arguments.prepare(
        row(u), row(delta), None, (A, None, None, None), (input_vector, None, output_vector, None),
        D, z=None if z is None else row(z), dt1_bias=delta_bias, dt_softplus=delta_softplus,
        discretization="mamba", single_axis=True,
    )  # fmt: skip
    y, last, *_ = family.scan(inputs, return_final_state=return_last_state, backend=backend)
    y = y[:, 0].transpose(1, 2).to(_sequence.output_dtype(u))
    return (y, last[:, 0]) if return_last_state else y


def _vectors(name: str, vector: Tensor, u: Tensor, n: int) -> Tensor:
    """B or C as the 2D scan takes them: (D, N), or (B, 1, L, G, N)."""
    batch, channels, time = u.shape
    shape = tuple(vector.shape)
    if shape == (channels, n) and vector.ndim == 2:
        return vector
    if vector.ndim == 3 and shape == (batch, n, time):
        return vector.transpose(1, 2)[:, None, :, None]
    if vector.ndim == 4 and (batch, n, time) == (shape[0], *shape[2:]):
        groups = shape[1]
        if groups < 1 or channels % groups:
            raise ValueError(
                f"the groups of {name} must divide the {channels} channels of u, got {groups}"
            )
        return vector.permute(0, 3, 1, 2)[:, None]
    raise ValueError(
        f"{name} must have shape {(channels, n)}, {(batch, n, time)} or ({batch}, groups, {n}, "
        f"{time}), got {shape}"
    )
