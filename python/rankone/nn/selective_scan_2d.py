"""SelectiveScan2d: the 2D selective scan as a layer, and the pieces that Chimera is made of.

A layer projects its input to u and a gate, convolves u along time, scans it by one or more heads,
sums them, gates the sum and projects it back. A head holds one set of scan parameters for each
corner that it starts from; no two share any. A1 and A4 are -exp of parameters, and |A2| and |A3|
stay below 0.99 sqrt(A1 A4), so that the scan is stable for every input and every step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rankone._arguments import check_integer, check_number, check_size
from rankone.nn.series_decomposition import SeriesDecomposition
from rankone.nn.short_convolution import ShortConvolution
from rankone.ops import selective_scan_2d
from rankone.ops.checks import check_floating, check_rank

# As stored: "scalar" is the diagonal structure with one value a head of channels.
STRUCTURES = ("diagonal", "scalar", "companion")
DISCRETIZATIONS = ("zoh", "mamba", "exp")

# |A2 A3| < A1 A4 is what stability needs; each coupling is held to this share of its bound.
_COUPLING_LIMIT = 0.99
# Of the companion structure, whose own move along time keeps the 1-norm and takes none away.
_COMPANION_COUPLING = 0.5
_INITIAL_COUPLING = 0.5  # standard deviation of atanh(coupling / bound)

Corner = tuple[bool, bool]  # reverse_rows, reverse_cols
ScanState = tuple[Tensor, Tensor]
# The convolution's state, then one pair a head and corner.
LayerState = tuple[Tensor | None, tuple[ScanState, ...]]

FORWARD: tuple[Corner, ...] = ((False, False),)
BOTH_WAYS: tuple[Corner, ...] = ((False, False), (True, False))


def check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {allowed}, got {value!r}")


def _check_range(name: str, bounds: tuple[float, float]) -> None:
    if len(bounds) != 2 or not 0 < bounds[0] <= bounds[1] < math.inf:
        raise ValueError(f"{name} must be (low, high) with 0 < low <= high, got {bounds}")


class ScanTransitions(nn.Module):
    """A1 to A4, and gamma, from unconstrained parameters.

    Args:
        channels: D.
        d_state: N.
        structure: ``"diagonal"``, ``"scalar"`` or ``"companion"``.
        head_dim: channels that share the one value of the scalar structure.
        variates: False fixes A2 = A3 = 0.
    """

    def __init__(
        self, channels: int, d_state: int, structure: str, head_dim: int, variates: bool
    ) -> None:
        super().__init__()
        check_choice("structure", structure, STRUCTURES)
        self.structure, self.head_dim, self.variates = structure, head_dim, variates
        rows = channels // head_dim if structure == "scalar" else channels
        columns = 1 if structure == "scalar" else d_state
        # As S4D and Mamba: decay rates 1 to N.
        rates = torch.arange(1, columns + 1).float().log().expand(rows, columns)
        if structure == "companion":
            self.a1 = nn.Parameter(torch.randn(rows, columns) / columns)
            self.a2 = nn.Parameter(torch.randn(rows, columns) / columns)
            self.gamma = nn.Parameter(_INITIAL_COUPLING * torch.randn(rows))
        else:
            self.a1 = nn.Parameter(rates.clone())
            self.a2 = nn.Parameter(_INITIAL_COUPLING * torch.randn(rows, columns))
        self.a3 = nn.Parameter(_INITIAL_COUPLING * torch.randn(rows, columns))
        self.a4 = nn.Parameter(rates.clone())
        for parameter in self.parameters():
            parameter._no_weight_decay = True  # type: ignore[attr-defined]

    def forward(self) -> dict[str, Tensor]:
        """A1, A2, A3, A4, and gamma for the companion structure, as the op takes them."""
        a4 = -torch.exp(self.a4)
        result = {"A4": a4}
        if self.structure == "companion":
            for name, a in (("A1", self.a1), ("A2", self.a2)):
                result[name] = a / a.abs().sum(-1, keepdim=True).clamp(min=1)
            result["gamma"] = _COMPANION_COUPLING * torch.tanh(self.gamma)
            result["A3"] = _COUPLING_LIMIT * a4 * torch.tanh(self.a3)
        else:
            result["A1"] = a1 = -torch.exp(self.a1)
            limit = _COUPLING_LIMIT * torch.sqrt(a1 * a4)
            result["A2"] = limit * torch.tanh(self.a2)
            result["A3"] = limit * torch.tanh(self.a3)
        if not self.variates:
            result["A3"] = torch.zeros_like(result["A3"])
            if self.structure == "companion":
                result["gamma"] = torch.zeros_like(result["gamma"])
            else:
                result["A2"] = torch.zeros_like(result["A2"])
        if self.structure == "scalar":
            result = {name: a.repeat_interleave(self.head_dim, 0) for name, a in result.items()}
        return result


class ScanParameters(nn.Module):
    """Every parameter of a scan from one corner, and the scan.

    Args:
        channels: D.
        d_state: N.
        dt_rank: rank of the map from x to the steps.
        dt1_range, dt2_range: where the steps start, log-uniformly.
        structure, discretization: of the scan.
        selective: False makes steps, B and C constants.
        head_dim: channels that share a step and transitions, with ``structure="scalar"``.
        variates: False leaves out everything along the variates.
    """

    def __init__(
        self,
        channels: int,
        d_state: int,
        *,
        dt_rank: int,
        dt1_range: tuple[float, float],
        dt2_range: tuple[float, float],
        structure: str = "diagonal",
        discretization: str = "zoh",
        selective: bool = True,
        head_dim: int = 1,
        variates: bool = True,
    ) -> None:
        super().__init__()
        check_choice("discretization", discretization, DISCRETIZATIONS)
        self.channels, self.d_state, self.dt_rank = channels, d_state, dt_rank
        self.discretization, self.selective, self.variates = discretization, selective, variates
        self.transitions = ScanTransitions(channels, d_state, structure, head_dim, variates)
        heads = channels // head_dim if structure == "scalar" else channels
        if selective:
            self.x_proj = nn.Linear(channels, 2 * dt_rank + 4 * d_state, bias=False)
            self.dt1_proj = nn.Linear(dt_rank, heads, bias=False)
            self.dt2_proj = nn.Linear(dt_rank, heads, bias=False)
            for projection in (self.dt1_proj, self.dt2_proj):
                nn.init.uniform_(projection.weight, -(dt_rank**-0.5), dt_rank**-0.5)
        else:
            self.vectors = nn.Parameter(torch.randn(4, channels, d_state) * d_state**-0.5)
        for name, bounds in (("dt1", dt1_range), ("dt2", dt2_range)):
            _check_range(f"{name}_range", bounds)
            bias = nn.Parameter(_inverse_softplus(_log_uniform(heads, bounds)))
            bias._no_weight_decay = True  # type: ignore[attr-defined]
            self.register_parameter(f"{name}_bias", bias)
        self.D = nn.Parameter(torch.ones(channels))

    def scan_arguments(self, x: Tensor) -> dict[str, Any]:
        """Everything that :func:`rankone.ops.selective_scan_2d` needs beside x."""
        arguments: dict[str, Any] = dict(self.transitions())
        if self.selective:
            rank, n = self.dt_rank, self.d_state
            dt1, dt2, *vectors = self.x_proj(x).split([rank, rank, n, n, n, n], -1)
            dt1, dt2 = self.dt1_proj(dt1), self.dt2_proj(dt2)
        else:
            zero = x.new_zeros(1).expand(*x.shape[:-1], self.get_parameter("dt1_bias").shape[0])
            dt1 = dt2 = zero
            vectors = list(self.vectors.unbind(0))
        if not self.variates:
            nothing = self.D.new_zeros(self.channels, self.d_state)
            vectors = [vectors[0], nothing, vectors[2], nothing]
        arguments |= zip(("B1", "B2", "C1", "C2"), vectors, strict=True)
        companion = self.transitions.structure == "companion"
        return arguments | {
            "dt1": dt1,
            "dt2": dt2,
            "dt1_bias": self.get_parameter("dt1_bias"),
            "dt2_bias": self.get_parameter("dt2_bias"),
            "dt_softplus": True,
            "discretization": self.discretization,
            "structure": "companion" if companion else "diagonal",
        }

    def forward(
        self, x: Tensor, corner: Corner, state: ScanState | None, return_state: bool
    ) -> tuple[Tensor, ScanState | None]:
        """(B, V, T, D) to y and, if asked for, the state of the last column."""
        result = selective_scan_2d(
            x,
            D=self.D,
            reverse_rows=corner[0],
            reverse_cols=corner[1],
            initial_col_state=state,
            return_final_state=return_state,
            **self.scan_arguments(x),
        )
        if not return_state:
            assert isinstance(result, Tensor)
            return result, None
        y, (col_state, _) = result
        return y, col_state


def _log_uniform(count: int, bounds: tuple[float, float]) -> Tensor:
    low, high = math.log(bounds[0]), math.log(bounds[1])
    return torch.exp(torch.empty(count).uniform_(low, high))


def _inverse_softplus(value: Tensor) -> Tensor:
    return value + torch.log(-torch.expm1(-value))


class GatedScan2d(nn.Module):
    """in_proj, convolution along time, SiLU, scans summed over heads and corners, gate, out_proj.

    Args:
        d_model: width of input and output.
        heads: the range of the first step of each head, by name.
        corners: (reverse_rows, reverse_cols) of each scan of a head; every one has parameters of
            its own.
        d_state: N, states per channel and kind.
        d_conv: tokens of the causal convolution along time; 0 for none.
        expand: d_inner = expand * d_model.
        dt_rank: rank of the steps' projections; ``"auto"`` is d_model / 16, rounded up.
        dt2_range: where the second step starts.
        structure: ``"diagonal"``, ``"scalar"`` or ``"companion"``.
        discretization: ``"zoh"``, ``"mamba"`` or ``"exp"``.
        selective: whether steps, B and C depend on the input.
        gate: multiply by SiLU(z).
        decompose: give the moving average to the head ``"trend"`` and the rest to ``"seasonal"``.
        head_dim: channels that share a step and transitions, with ``structure="scalar"``; None is
            the largest divisor of d_inner up to 64.
        variates: False leaves out the second state: every row is a scan of its own.
    """

    def __init__(
        self,
        d_model: int,
        heads: Mapping[str, tuple[float, float]],
        corners: tuple[Corner, ...],
        *,
        d_state: int = 16,
        d_conv: int = 4,
        expand: float = 2,
        dt_rank: int | str = "auto",
        dt2_range: tuple[float, float] = (1e-2, 1.0),
        structure: str = "diagonal",
        discretization: str = "zoh",
        selective: bool = True,
        gate: bool = True,
        decompose: bool = False,
        head_dim: int | None = None,
        variates: bool = True,
    ) -> None:
        super().__init__()
        check_integer("d_model", d_model)
        check_integer("d_conv", d_conv)
        check_number("expand", expand)
        d_inner = int(expand * d_model)
        for name, value in (("d_model", d_model), ("d_state", d_state), ("d_inner", d_inner)):
            check_size(name, value)
        if d_conv < 0:
            raise ValueError(f"d_conv must be at least 0, got {d_conv}")
        if structure == "companion" and discretization != "zoh":
            raise ValueError(
                f"discretization must be 'zoh' with structure='companion', got {discretization!r}"
            )
        if head_dim is None:
            head_dim = max(k for k in range(1, min(64, d_inner) + 1) if d_inner % k == 0)
        if head_dim < 1 or d_inner % head_dim:
            raise ValueError(f"head_dim must divide d_inner={d_inner}, got {head_dim}")
        rank = math.ceil(d_model / 16) if dt_rank == "auto" else dt_rank
        if not isinstance(rank, int) or rank < 1:
            raise ValueError(f"dt_rank must be 'auto' or at least 1, got {dt_rank!r}")
        self.d_model, self.d_inner, self.corners = d_model, d_inner, corners
        self.in_proj = nn.Linear(d_model, 2 * d_inner if gate else d_inner, bias=False)
        self.conv = (
            ShortConvolution(d_inner, d_conv, bias=True, activation="silu") if d_conv else None
        )
        self.decomposition = SeriesDecomposition() if decompose else None
        if decompose and set(heads) != {"trend", "seasonal"}:
            raise ValueError(
                f"heads must be 'trend' and 'seasonal' with decompose=True, got {tuple(heads)}"
            )
        self.heads = nn.ModuleDict(
            {
                name: nn.ModuleList(
                    ScanParameters(
                        d_inner,
                        d_state,
                        dt_rank=rank,
                        dt1_range=dt1_range,
                        dt2_range=dt2_range,
                        structure=structure,
                        discretization=discretization,
                        selective=selective,
                        head_dim=head_dim,
                        variates=variates,
                    )
                    for _ in corners
                )
                for name, dt1_range in heads.items()
            }
        )
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)

    def mix(
        self, x: Tensor, state: LayerState | None, return_state: bool
    ) -> tuple[Tensor, LayerState | None]:
        """(B, V, T, d_model) to the same shape."""
        check_rank("x", x, ("batch", "rows", "columns", "features"))
        check_floating("x", x)
        if x.shape[-1] != self.d_model:
            raise ValueError(f"x must have {self.d_model} features, got shape {tuple(x.shape)}")
        if (state is not None or return_state) and self.decomposition is not None:
            raise ValueError(
                "state and return_state must be left out with decompose=True: the moving average "
                "looks ahead"
            )
        u, *z = self.in_proj(x).split(self.d_inner, -1)
        conv_state, scan_states = (None, ()) if state is None else state
        u, conv_state = self._convolved(u, conv_state, return_state)
        parts = dict.fromkeys(self.heads, u)
        if self.decomposition is not None:
            remainder, trend = self.decomposition(u.flatten(0, 1))
            parts = {"trend": trend.view_as(u), "seasonal": remainder.view_as(u)}
        given = iter(scan_states)
        total: Tensor | None = None
        after: list[ScanState] = []
        for name, head in self.heads.items():
            assert isinstance(head, nn.ModuleList)
            for scan, corner in zip(head, self.corners, strict=True):
                y, kept = scan(parts[name], corner, next(given, None), return_state)
                total = y if total is None else total + y
                if kept is not None:
                    after.append(kept)
        assert total is not None
        if z:
            total = total * functional.silu(z[0])
        return self.out_proj(total), (conv_state, tuple(after)) if return_state else None

    def _convolved(
        self, u: Tensor, state: Tensor | None, return_state: bool
    ) -> tuple[Tensor, Tensor | None]:
        if self.conv is None:
            return functional.silu(u), None
        rows = u.flatten(0, 1)
        flat = None if state is None else state.flatten(0, 1)
        rows, flat = self.conv(rows, state=flat, return_state=return_state)
        return rows.view_as(u), None if flat is None else flat.unflatten(0, u.shape[:2])


class SelectiveScan2d(GatedScan2d):
    """The 2D selective scan as a layer over (variates, time), the 2D form of a Mamba layer.

    Time is causal; along the variates, which have no order, a forward and a backward scan with
    parameters of their own are summed.

    Args:
        d_model: width of input and output.
        d_state: states per channel and kind, at most 64.
        d_conv: tokens of the depthwise causal convolution along time; 0 for none.
        expand: width of the scan over d_model.
        dt_rank: rank of the steps' projections; ``"auto"`` is d_model / 16, rounded up.
        dt1_range, dt2_range: where the steps along time and along variates start, log-uniformly. A
            small first step is a long memory, a large second step reaches few variates.
        structure: ``"diagonal"`` (2D-Mamba), ``"scalar"`` (2D-Mamba-2) or ``"companion"``.
        discretization: ``"zoh"``, ``"mamba"`` or ``"exp"``; the last is not stable.
        bidirectional: scan the variates both ways.
        selective: whether steps, B and C depend on the input.
        head_dim: channels that share a step and transitions, with ``structure="scalar"``.
        variates: False leaves out the second state: every variate is a scan of its own.

    Shapes:
        (B, V, T, d_model) to the same.

    Raises:
        ValueError: for sizes below 1, empty ranges and unknown choices.

    Source: arXiv 2406.04320 (Chimera); the bounds that keep it stable were derived for this
    project.

    Example:
        >>> import torch
        >>> from rankone.nn import SelectiveScan2d
        >>> SelectiveScan2d(8, d_state=4)(torch.randn(2, 3, 10, 8)).shape
        torch.Size([2, 3, 10, 8])
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: float = 2,
        dt_rank: int | str = "auto",
        dt1_range: tuple[float, float] = (1e-3, 1e-1),
        dt2_range: tuple[float, float] = (1e-2, 1.0),
        structure: str = "diagonal",
        discretization: str = "zoh",
        bidirectional: bool = True,
        selective: bool = True,
        *,
        head_dim: int | None = None,
        variates: bool = True,
    ) -> None:
        super().__init__(
            d_model,
            {"scan": dt1_range},
            BOTH_WAYS if bidirectional else FORWARD,
            d_state=d_state,
            d_conv=d_conv,
            expand=expand,
            dt_rank=dt_rank,
            dt2_range=dt2_range,
            structure=structure,
            discretization=discretization,
            selective=selective,
            head_dim=head_dim,
            variates=variates,
        )

    @classmethod
    def mamba_2d(cls, d_model: int, **options: Any) -> SelectiveScan2d:
        """The 2D-Mamba special case: real diagonal transitions, one for every channel and state.

        Example:
            >>> from rankone.nn import SelectiveScan2d
            >>> SelectiveScan2d.mamba_2d(8, d_state=4).heads["scan"][0].transitions.a1.shape
            torch.Size([16, 4])
        """
        return cls(d_model, structure="diagonal", **options)

    @classmethod
    def mamba2_2d(cls, d_model: int, **options: Any) -> SelectiveScan2d:
        """The 2D-Mamba-2 special case: a multiple of the identity for every head of channels.

        Example:
            >>> from rankone.nn import SelectiveScan2d
            >>> layer = SelectiveScan2d.mamba2_2d(8, d_state=4, head_dim=8)
            >>> layer.heads["scan"][0].transitions.a1.shape
            torch.Size([2, 1])
        """
        return cls(d_model, structure="scalar", **options)

    def forward(
        self, x: Tensor, *, state: LayerState | None = None, return_state: bool = False
    ) -> Tensor | tuple[Tensor, LayerState]:
        """Scan (B, V, T, d_model); with ``return_state`` also what the next columns start from.

        Args:
            x: (B, V, T, d_model).
            state: of the columns before; None for none.
            return_state: also return the state after the last column.
        """
        y, after = self.mix(x, state, return_state)
        return y if after is None else (y, after)

    def step(self, x_col: Tensor, state: LayerState | None) -> tuple[Tensor, LayerState]:
        """One column (B, V, d_model) after ``state``; its output and the next state."""
        y, after = self.mix(x_col[:, :, None], state, True)
        assert after is not None
        return y[:, :, 0], after


class VisionChimera2d(GatedScan2d):
    """The 2D selective scan over the rows and columns of an image, from its corners.

    Args:
        dim: channels of input and output.
        d_state: states per channel and kind.
        directions: 1 (from the upper left), 2 (and from the lower right) or 4 (all corners); each
            has parameters of its own, and they are summed.
        expand: width of the scan over dim.
        structure, discretization, selective: as for :class:`SelectiveScan2d`.

    Shapes:
        (B, H, W, dim) to the same.

    Raises:
        ValueError: for other numbers of directions, and as :class:`SelectiveScan2d`.

    Source: arXiv 2406.04320.

    Example:
        >>> import torch
        >>> from rankone.nn import VisionChimera2d
        >>> VisionChimera2d(8, d_state=4)(torch.randn(2, 5, 6, 8)).shape
        torch.Size([2, 5, 6, 8])
    """

    CORNERS: tuple[Corner, ...] = ((False, False), (True, True), (True, False), (False, True))

    def __init__(
        self,
        dim: int,
        d_state: int = 16,
        directions: int = 4,
        *,
        expand: float = 2,
        structure: str = "diagonal",
        discretization: str = "zoh",
        selective: bool = True,
    ) -> None:
        if directions not in (1, 2, 4):
            raise ValueError(f"directions must be 1, 2 or 4, got {directions}")
        # Rows and columns are of one kind: both steps start in one range.
        super().__init__(
            dim,
            {"scan": (1e-2, 1.0)},
            self.CORNERS[:directions],
            d_state=d_state,
            d_conv=0,
            expand=expand,
            structure=structure,
            discretization=discretization,
            selective=selective,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Mix (B, H, W, dim)."""
        return self.mix(x, None, False)[0]
