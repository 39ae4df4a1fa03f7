"""GroupedLinear: one bias-free linear map a group, each over its own block of rows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rankone.ops.checks import check_tensor


class GroupedLinear(nn.Module):
    """Linear maps that share a name and a shape, one a group of rows.

    Args:
        groups: number of maps.
        in_features: width of a row.
        out_features: width of its image.
        device, dtype: of the parameters; torch's defaults where None.

    Shapes:
        ``weight`` is (groups, out_features, in_features).

    Example:
        >>> import torch
        >>> from rankone.nn import GroupedLinear
        >>> GroupedLinear(2, 8, 5)(torch.randn(10, 8), [3, 7]).shape
        torch.Size([10, 5])
    """

    def __init__(
        self,
        groups: int,
        in_features: int,
        out_features: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        for name, size in (
            ("groups", groups),
            ("in_features", in_features),
            ("out_features", out_features),
        ):
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {size!r}")
        super().__init__()
        self.groups = groups
        self.in_features = in_features
        self.out_features = out_features
        self.weight = nn.Parameter(
            torch.empty(groups, out_features, in_features, device=device, dtype=dtype)
        )
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """As ``torch.nn.Linear``: uniform within 1 / sqrt(in_features)."""
        bound = self.in_features**-0.5
        self.weight.uniform_(-bound, bound)

    @torch.no_grad()
    def xavier_uniform_(self, gain: float) -> None:
        """Uniform with the variance gain^2 * 2 / (in_features + out_features)."""
        bound = gain * math.sqrt(6 / (self.in_features + self.out_features))
        self.weight.uniform_(-bound, bound)

    def forward(self, rows: Tensor, sizes: Sequence[int]) -> Tensor:
        """Map (rows, in_features), whose first ``sizes[0]`` rows are of group 0, and so on.

        With one group every row is of it and ``sizes`` may count as it likes.
        """
        check_tensor("rows", rows)
        if rows.shape[-1:] != (self.in_features,):
            raise ValueError(
                f"rows must have shape (rows, {self.in_features}), got {tuple(rows.shape)}"
            )
        if self.groups == 1:
            return F.linear(rows, self.weight[0])
        blocks = zip(rows.split(list(sizes)), self.weight.unbind(0), strict=True)
        return torch.cat([F.linear(block, weight) for block, weight in blocks])

    def every(self, rows: Tensor) -> Tensor:
        """Every group's image of every row: (rows, groups, out_features)."""
        return F.linear(rows, self.weight.flatten(0, 1)).unflatten(-1, (self.groups, -1))

    def extra_repr(self) -> str:
        return f"{self.groups}, {self.in_features}, {self.out_features}"
