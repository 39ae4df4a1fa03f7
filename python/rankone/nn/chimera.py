"""Chimera: multivariate time series with two-dimensional state spaces, along time and variates.

A block is a pre-norm residual block around gated scans: a trend head, whose steps along time start
small (a long memory), and a seasonal head, whose steps start large. The model embeds each cell of a
(variates, time) grid, applies blocks, and reads the last column, or runs on by itself: a last state
space is fed its own prediction beyond the end of the series.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rankone._arguments import check_size
from rankone.nn.selective_scan_2d import (
    BOTH_WAYS,
    FORWARD,
    GatedScan2d,
    LayerState,
    ScanParameters,
    ScanState,
    check_choice,
)
from rankone.ops import selective_scan_2d, selective_scan_2d_step
from rankone.ops.checks import check_floating, check_rank

# Where the steps along time start, by head.
HEAD_STEPS = {"trend": (1e-3, 1e-1), "seasonal": (1e-1, 1.0)}
DECODERS = ("direct", "closed_loop")
TASKS = ("forecast", "classification", "anomaly")

# Added to the standard deviation of a window; so that a constant variate is 0 and not NaN.
_EPSILON = 1e-5


class ChimeraBlock(GatedScan2d):
    """LayerNorm, gated scans by a trend and a seasonal head, residual.

    Args:
        d_model: width.
        d_state: states per channel and kind.
        heads: ``"trend"``, ``"seasonal"`` or both.
        decompose: give the moving average over 25 steps to the trend head and the remainder to the
            seasonal head; it is centred, so that a cell then sees 12 steps ahead.
        gate: multiply by SiLU(z).
        bidirectional: scan the variates both ways.
        **scan_kwargs: ``d_conv``, ``expand``, ``dt_rank``, ``dt2_range``, ``structure``,
            ``discretization``, ``selective``, ``head_dim`` and ``variates`` of
            :class:`SelectiveScan2d`.

    Shapes:
        (B, V, T, d_model) to the same.

    Raises:
        ValueError: for unknown heads, and as :class:`SelectiveScan2d`.

    Source: arXiv 2406.04320.

    Example:
        >>> import torch
        >>> from rankone.nn import ChimeraBlock
        >>> ChimeraBlock(8, d_state=4)(torch.randn(2, 3, 10, 8)).shape
        torch.Size([2, 3, 10, 8])
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        heads: tuple[str, ...] = ("trend", "seasonal"),
        decompose: bool = False,
        gate: bool = True,
        *,
        bidirectional: bool = True,
        **scan_kwargs: Any,
    ) -> None:
        if not heads or len(set(heads)) < len(heads) or not set(heads) <= set(HEAD_STEPS):
            raise ValueError(f"heads must be distinct names of {tuple(HEAD_STEPS)}, got {heads}")
        super().__init__(
            d_model,
            {name: HEAD_STEPS[name] for name in heads},
            BOTH_WAYS if bidirectional else FORWARD,
            d_state=d_state,
            decompose=decompose,
            gate=gate,
            **scan_kwargs,
        )
        self.norm = nn.LayerNorm(d_model)

    def forward(
        self, x: Tensor, *, state: LayerState | None = None, return_state: bool = False
    ) -> Tensor | tuple[Tensor, LayerState]:
        """Apply the block to (B, V, T, d_model); states as for :class:`SelectiveScan2d`."""
        y, after = self.mix(self.norm(x), state, return_state)
        return x + y if after is None else (x + y, after)

    def step(self, x_col: Tensor, state: LayerState | None) -> tuple[Tensor, LayerState]:
        """One column (B, V, d_model) after ``state``; its output and the next state."""
        y, after = self.mix(self.norm(x_col)[:, :, None], state, True)
        assert after is not None
        return x_col + y[:, :, 0], after


class ClosedLoopDecoder(nn.Module):
    """A state space over (variates, time) that runs on by its own prediction.

    Steps, B and C are constants. Over the series it reads its input; beyond, its input is
    u = K1·h1 + K2·h2 of the column before, so that H further columns cost O(H V).

    Args:
        d_model: channels.
        d_state: states per channel and kind.
        structure: ``"diagonal"``, ``"scalar"`` or ``"companion"``.

    Shapes:
        (B, V, T, d_model) and H to (B, V, H, d_model).

    Source: arXiv 2406.04320.

    Example:
        >>> import torch
        >>> from rankone.nn import ClosedLoopDecoder
        >>> decoder = ClosedLoopDecoder(8, d_state=4)
        >>> y, error = decoder(torch.randn(2, 3, 10, 8), horizon=5)
        >>> y.shape, error.shape
        (torch.Size([2, 3, 5, 8]), torch.Size([]))
    """

    def __init__(self, d_model: int, d_state: int = 16, structure: str = "diagonal") -> None:
        super().__init__()
        self.d_model, self.d_state = d_model, d_state
        self.scan = ScanParameters(
            d_model,
            d_state,
            dt_rank=1,
            dt1_range=(1e-2, 1.0),
            dt2_range=(1e-2, 1.0),
            structure=structure,
            selective=False,
        )
        del self.scan.D
        self.scan.register_parameter("D", None)
        self.feedback = nn.Parameter(torch.randn(2, d_model, d_state) / d_state)

    def _arguments(self, x: Tensor) -> dict[str, Any]:
        return self.scan.scan_arguments(x)

    def predicted_input(self, state: ScanState) -> Tensor:
        """K1·h1 + K2·h2: the next column's input, (B, V, d_model), from a column's states."""
        h1, h2 = state
        return (self.feedback[0] * h1).sum(-1) + (self.feedback[1] * h2).sum(-1)

    def read(self, x: Tensor) -> tuple[Tensor, ScanState]:
        """Run over a series: at each cell the prediction of the next input, and the last state.

        Args:
            x: (B, V, T, d_model).
        """
        arguments = self._arguments(x)
        arguments["C1"], arguments["C2"] = self.feedback.unbind(0)
        predicted, (state, _) = selective_scan_2d(x, **arguments, return_final_state=True)
        return predicted, state

    def step(self, x_col: Tensor | None, state: ScanState) -> tuple[Tensor, ScanState]:
        """One column: its output (B, V, d_model) and the next state.

        Args:
            x_col: (B, V, d_model), or None for its own prediction.
            state: (h1, h2) of the column before, each (B, V, d_model, d_state).
        """
        if x_col is None:
            x_col = self.predicted_input(state).to(self.feedback.dtype)
        return selective_scan_2d_step(x_col, **self._arguments(x_col), col_state=state)

    def forward(self, x: Tensor, horizon: int) -> tuple[Tensor, Tensor]:
        """The next ``horizon`` columns, and the mean squared error of the predicted inputs.

        The error is that of the predictions over the series, each from the true inputs before it:
        what teacher forcing minimises.

        Args:
            x: (B, V, T, d_model).
            horizon: columns beyond the last, at least 1.
        """
        check_rank("x", x, ("batch", "variates", "time", "channels"))
        check_size("horizon", horizon)
        predicted, state = self.read(x)
        error = x.new_zeros(())
        if x.shape[2] > 1:
            error = functional.mse_loss(predicted[:, :, :-1], x[:, :, 1:].detach())
        outputs = []
        for _ in range(horizon):
            y, state = self.step(None, state)
            outputs.append(y)
        return torch.stack(outputs, 2).to(x.dtype), error


class Chimera(nn.Module):
    """A multivariate time-series model on the 2D selective scan.

    Args:
        n_variates: of the series it is made for; any number works, as no parameter depends on it.
        lookback: time steps that it reads.
        horizon: time steps that it forecasts.
        d_model: width.
        n_layers: blocks.
        d_state: states per channel and kind.
        decoder: ``"direct"``: for each variate, a linear map of the last column's features plus a
            linear map of the lookback, so that a linear forecaster is contained; this library's
            reading. ``"closed_loop"``: a :class:`ClosedLoopDecoder`.
        revin: subtract every window's own mean and divide by its standard deviation, by variate,
            and undo that on the output.
        task: ``"forecast"``, ``"classification"`` of whole windows, or ``"anomaly"``: the window is
            reconstructed.
        n_classes: of a classification.
        structure, bidirectional, selective: of the blocks.
        heads, decompose, expand, d_conv, discretization: of the blocks.

    Shapes:
        (B, lookback, V) to (B, horizon, V), (B, n_classes) or (B, lookback, V), by task.

    Raises:
        ValueError: for sizes below 1 and unknown choices.

    Source: arXiv 2406.04320; the paper does not describe its heads in full.

    Example:
        >>> import torch
        >>> from rankone.nn import Chimera
        >>> model = Chimera(3, lookback=24, horizon=6, d_model=8, n_layers=1, d_state=4)
        >>> model(torch.randn(2, 24, 3)).shape
        torch.Size([2, 6, 3])
    """

    def __init__(
        self,
        n_variates: int,
        lookback: int,
        horizon: int,
        d_model: int = 64,
        n_layers: int = 2,
        d_state: int = 16,
        decoder: str = "direct",
        revin: bool = True,
        task: str = "forecast",
        n_classes: int | None = None,
        structure: str = "diagonal",
        bidirectional: bool = True,
        selective: bool = True,
        *,
        heads: tuple[str, ...] = ("trend", "seasonal"),
        decompose: bool = False,
        expand: float = 2,
        d_conv: int = 4,
        discretization: str = "zoh",
    ) -> None:
        super().__init__()
        check_choice("decoder", decoder, DECODERS)
        check_choice("task", task, TASKS)
        sizes = {"n_variates": n_variates, "lookback": lookback, "horizon": horizon}
        sizes |= {"d_model": d_model, "n_layers": n_layers}
        for name, value in sizes.items():
            check_size(name, value)
        if (task == "classification") != (n_classes is not None):
            raise ValueError(
                "n_classes must be given for task='classification' and only there, got "
                f"n_classes={n_classes} with task={task!r}"
            )
        if n_classes is not None and n_classes < 2:
            raise ValueError(f"n_classes must be at least 2, got {n_classes}")
        self.n_variates, self.lookback, self.horizon = n_variates, lookback, horizon
        self.task, self.revin = task, revin
        self.embedding = nn.Linear(1, d_model)
        self.blocks = nn.ModuleList(
            ChimeraBlock(
                d_model,
                d_state,
                heads,
                decompose,
                bidirectional=bidirectional,
                structure=structure,
                selective=selective,
                expand=expand,
                d_conv=d_conv,
                discretization=discretization,
            )
            for _ in range(n_layers)
        )
        self.decoder: ClosedLoopDecoder | None = None
        if task == "classification":
            assert n_classes is not None
            self.head = nn.Linear(d_model, n_classes)
        elif task == "anomaly":
            self.head = nn.Linear(d_model, 1)
        elif decoder == "closed_loop":
            self.decoder = ClosedLoopDecoder(d_model, d_state, structure)
            self.head = nn.Linear(d_model, 1)
        else:
            self.head = nn.Linear(d_model, horizon)
            self.skip = nn.Linear(lookback, horizon)

    def forward(self, x: Tensor) -> Tensor:
        """The forecast, the logits or the reconstruction of (B, lookback, V) windows."""
        return self.forward_with_feedback_error(x)[0]

    def forward_with_feedback_error(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The output, and the closed-loop decoder's teacher-forcing error (0 without one)."""
        check_rank("x", x, ("batch", "lookback", "variates"))
        check_floating("x", x)
        if x.shape[1] != self.lookback:
            raise ValueError(
                f"x must have shape (batch, {self.lookback}, variates), got {tuple(x.shape)}"
            )
        mean = std = None
        if self.revin:
            mean = x.mean(1, keepdim=True)
            std = x.std(1, correction=0, keepdim=True) + _EPSILON
            x = (x - mean) / std
        features = self.embedding(x.transpose(1, 2)[..., None])
        for block in self.blocks:
            features = block(features)
        error = x.new_zeros(())
        if self.task == "classification":
            return self.head(features.mean((1, 2))), error
        if self.task == "anomaly":
            output = self.head(features)[..., 0]
        elif self.decoder is not None:
            decoded, error = self.decoder(features, self.horizon)
            output = self.head(decoded)[..., 0]
        else:
            output = self.head(features[:, :, -1]) + self.skip(x.transpose(1, 2))
        output = output.transpose(1, 2)
        if mean is not None and std is not None:
            output = output * std + mean
        return output, error

    def anomaly_score(self, x: Tensor) -> Tensor:
        """Squared error of the reconstruction of every cell, (B, lookback, V).

        Raises:
            RuntimeError: for a model of another task.
        """
        if self.task != "anomaly":
            raise RuntimeError(f"anomaly_score needs task='anomaly', this model has {self.task!r}")
        return (self(x) - x).square()
