"""The full mode of Chimera's reproduction: benchmark files of the user, throughput, memory.

Nothing here is a claim: the paper's numbers depend on settings that it does not give.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from rankone import _timing
from rankone.datasets import LONG_HORIZON_FILES, long_horizon_series
from rankone.nn import Chimera
from rankone.ops import selective_scan, selective_scan_2d
from rankone.reproduce import Settings, Table

if TYPE_CHECKING:
    from rankone.reproduce.chimera import Scale

# All of the nine but ILI, whose training rows are fewer than the longest lookback.
BENCHMARKS = tuple(name for name in LONG_HORIZON_FILES if name != "ILI")
CLASSIFICATION_FILE = "ptbxl.npz"


def full_tables(settings: Settings, scale: Scale) -> list[Table]:
    """Everything that the full mode adds."""
    tables = [throughput_table(settings, scale), training_table(settings, scale)]
    if scale.data_dir is not None:
        folder = Path(scale.data_dir)
        tables.append(long_horizon_table(settings, scale, folder))
        if (folder / CLASSIFICATION_FILE).is_file():
            tables.append(classification_table(settings, scale, folder / CLASSIFICATION_FILE))
    return tables


def long_horizon_table(settings: Settings, scale: Scale, folder: Path) -> Table:
    """Test errors on the benchmark files that are in a folder."""
    from rankone.forecast import ChimeraForecaster, evaluate_long_horizon

    files = {name: LONG_HORIZON_FILES[name][0] for name in BENCHMARKS}
    found = [name for name, file in files.items() if (folder / file).is_file()]
    rows = []
    for name in found:
        series = long_horizon_series(folder, name)
        for lookback in scale.lookbacks:
            for horizon in scale.horizons:
                forecaster = ChimeraForecaster(
                    lookback,
                    horizon,
                    d_model=scale.traffic_width,
                    d_state=scale.traffic_state,
                    max_epochs=scale.traffic_epochs,
                    batches_per_epoch=scale.traffic_batches,
                    device=settings.device,
                    random_state=settings.random_state,
                    progress=settings.progress,
                )
                errors = evaluate_long_horizon(
                    forecaster, series, lookback, horizon, LONG_HORIZON_FILES[name][1]
                )
                repeated = errors["baselines"]["repeat"]["mse"]
                seconds = forecaster.history_.seconds
                rows.append((files[name], lookback, horizon, errors["mse"], repeated, seconds))
    missing = [file for name, file in files.items() if name not in found]
    return Table(
        title="Long-horizon benchmarks",
        columns=("file", "lookback", "horizon", "test error", "repeat", "seconds"),
        rows=tuple(rows),
        note="Mean squared error on standardised data over every window of the test block. "
        + (f"Not in the folder: {', '.join(missing)}." if missing else ""),
    )


def classification_table(settings: Settings, scale: Scale, path: Path) -> Table:
    """Accuracy on electrocardiograms given as arrays x_train, y_train, x_test and y_test."""
    with np.load(path) as data:
        x_train, x_test = (
            torch.from_numpy(data[name].astype(np.float32)) for name in ("x_train", "x_test")
        )
        y_train, y_test = (
            torch.from_numpy(data[name].astype(np.int64)) for name in ("y_train", "y_test")
        )
    classes = int(max(y_train.max(), y_test.max())) + 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.random_state)
        model = Chimera(
            x_train.shape[2],
            x_train.shape[1],
            1,
            d_model=scale.traffic_width,
            d_state=scale.traffic_state,
            task="classification",
            n_classes=classes,
        ).to(settings.device)
    generator = torch.Generator().manual_seed(settings.random_state)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    start = time.perf_counter()
    for epoch in range(scale.traffic_epochs):
        order = torch.randperm(len(x_train), generator=generator)
        for index in settings.track(order.split(32), f"electrocardiograms, epoch {epoch + 1}"):
            logits = model(x_train[index].to(settings.device))
            loss = nn.functional.cross_entropy(logits, y_train[index].to(settings.device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    seconds = time.perf_counter() - start
    model.eval()
    with torch.no_grad():
        right = sum(
            int((model(x.to(settings.device)).argmax(-1).cpu() == y).sum())
            for x, y in zip(x_test.split(256), y_test.split(256), strict=True)
        )
    return Table(
        title="Electrocardiograms",
        columns=("classes", "test records", "accuracy", "seconds"),
        rows=((classes, len(y_test), right / len(y_test), seconds),),
        note=f"{scale.traffic_epochs} epochs, the last state.",
    )


def _inputs(settings: Settings, scale: Scale, length: int) -> tuple[Tensor, ...]:
    """x, both steps, A, the four vectors of cells, float32."""
    batch, variates, channels, n = scale.timed_shape
    generator = torch.Generator().manual_seed(settings.random_state)
    cells = (batch, variates, length)
    shapes = (*((*cells, channels),) * 3, (channels, n), *((*cells, n),) * 4)
    x, dt1, dt2, a, *vectors = (
        torch.randn(shape, generator=generator).to(settings.device) for shape in shapes
    )
    return x, dt1, dt2, -torch.exp(0.5 * a), *vectors


def _contenders(settings: Settings, scale: Scale, length: int) -> dict[str, Callable[[], Tensor]]:
    x, dt1, dt2, a, b1, b2, c1, c2 = _inputs(settings, scale, length)
    vectors = (b1, b2, c1, c2)

    def coupled() -> Tensor:
        y = selective_scan_2d(x, dt1, dt2, a, 0.5 * a, 0.5 * a, a, *vectors, dt_softplus=True)
        assert isinstance(y, Tensor)
        return y

    def line(tensor: Tensor, order: Callable[[Tensor], Tensor]) -> Tensor:
        return order(tensor).flatten(1, 2).transpose(1, 2)

    orders: tuple[Callable[[Tensor], Tensor], ...] = (
        lambda grid: grid,
        lambda grid: grid.transpose(1, 2),
        lambda grid: grid.flip(1, 2),
        lambda grid: grid.transpose(1, 2).flip(1, 2),
    )

    def flattened() -> Tensor:
        total = torch.zeros((), device=x.device)
        for order in orders:
            u, delta, b, c = (line(tensor, order) for tensor in (x, dt1, b1, c1))
            y = selective_scan(u, delta, a, b, c, delta_softplus=True)
            assert isinstance(y, Tensor)
            total = total + y.mean()
        return total

    return {"2D scan": coupled, "four flattened 1D scans": flattened}


def throughput_table(settings: Settings, scale: Scale) -> Table:
    """Time and, on CUDA, peak memory of the scan and of four scans along flattened grids."""
    cuda = torch.device(settings.device).type == "cuda"
    rows = []
    for length in settings.track(scale.timed_lengths, "timing against 1D scans"):
        calls = _contenders(settings, scale, length)
        with torch.no_grad():
            timings = _timing.interleaved(
                calls,
                repeats=scale.repeats,
                synchronize=torch.cuda.synchronize if cuda else None,
            )
            for name, call in calls.items():
                memory = _peak_bytes(call) / 2**20 if cuda else None
                rows.append((length, name, 1e3 * timings[name].median, memory))
    return Table(
        title="The scan beside four scans of the flattened grid",
        columns=("T", "operator", "forward, ms", "peak memory, MiB"),
        rows=tuple(rows),
        note="Two different functions of the same inputs: in a flattened grid the neighbours along "
        "one axis lie a row apart. The four scans pay for their copies in four orders.",
    )


def _peak_bytes(call: Callable[[], object]) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def training_table(settings: Settings, scale: Scale) -> Table:
    """Seconds of a training step of the model by the length that it reads."""
    _, variates, _, _ = scale.timed_shape
    cuda = torch.device(settings.device).type == "cuda"
    rows = []
    for length in settings.track(scale.timed_lengths, "timing training"):
        model = Chimera(
            variates, length, 96, d_model=scale.traffic_width, d_state=scale.traffic_state
        ).to(settings.device)
        x = torch.randn(32, length, variates, device=settings.device)

        def step(model: Chimera = model, x: Tensor = x) -> None:
            model.zero_grad(set_to_none=True)
            model(x).square().mean().backward()

        timing = _timing.interleaved(
            {"step": step},
            repeats=scale.repeats,
            synchronize=torch.cuda.synchronize if cuda else None,
        )["step"]
        rows.append((length, 1e3 * timing.median, 1e6 * timing.median / length))
    return Table(
        title="A training step of 32 windows by length",
        columns=("T", "time, ms", "time a step of the series, µs"),
        rows=tuple(rows),
        note="Linear in the length where the last column stays level.",
    )
