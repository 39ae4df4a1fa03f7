"""Published settings and errors of "Are Transformers Effective for Time Series Forecasting?".

Settings and table were read from the paper (arXiv 2205.13504) and its public repository
cure-lab/LTSF-Linear.
"""

from __future__ import annotations

from dataclasses import dataclass

VARIANTS = ("linear", "nlinear", "dlinear")

_LONG, _ILI = (96, 192, 336, 720), (24, 36, 48, 60)

# Mean squared errors by variant and benchmark, at the four horizons.
PUBLISHED: dict[str, dict[str, tuple[float, ...]]] = {
    "linear": {
        "ETTh1": (0.375, 0.418, 0.479, 0.624),
        "ETTh2": (0.288, 0.377, 0.452, 0.698),
        "ETTm1": (0.308, 0.340, 0.376, 0.440),
        "ETTm2": (0.168, 0.232, 0.320, 0.413),
        "Electricity": (0.140, 0.153, 0.169, 0.203),
        "Exchange": (0.082, 0.167, 0.328, 0.964),
        "Traffic": (0.410, 0.423, 0.436, 0.466),
        "Weather": (0.176, 0.218, 0.262, 0.326),
        "ILI": (1.947, 2.182, 2.256, 2.390),
    },
    "nlinear": {
        "ETTh1": (0.374, 0.408, 0.429, 0.440),
        "ETTh2": (0.277, 0.344, 0.357, 0.394),
        "ETTm1": (0.306, 0.349, 0.375, 0.433),
        "ETTm2": (0.167, 0.221, 0.274, 0.368),
        "Electricity": (0.140, 0.153, 0.169, 0.203),
        "Exchange": (0.081, 0.157, 0.305, 0.643),
        "Traffic": (0.410, 0.423, 0.436, 0.466),
        "Weather": (0.176, 0.220, 0.265, 0.323),
        "ILI": (2.215, 1.963, 2.130, 2.368),
    },
    "dlinear": {
        "ETTh1": (0.375, 0.405, 0.439, 0.472),
        "ETTh2": (0.289, 0.383, 0.448, 0.605),
        "ETTm1": (0.299, 0.335, 0.369, 0.425),
        "ETTm2": (0.167, 0.224, 0.281, 0.397),
        "Electricity": (0.141, 0.154, 0.171, 0.210),
        "Exchange": (0.089, 0.180, 0.331, 1.033),
        "Traffic": (0.410, 0.423, 0.435, 0.464),
        "Weather": (0.182, 0.225, 0.271, 0.338),
        "ILI": (1.683, 1.703, 1.719, 1.819),
    },
}

PUBLISHED_REPEAT: dict[str, tuple[float, ...]] = {
    "Electricity": (1.588, 1.595, 1.617, 1.647),
    "Exchange": (0.081, 0.167, 0.305, 0.823),
    "Traffic": (2.723, 2.756, 2.791, 2.811),
    "Weather": (0.259, 0.309, 0.377, 0.465),
    "ILI": (6.587, 7.130, 6.575, 5.893),
}

# At the shortest horizon.
PUBLISHED_TRANSFORMERS: dict[str, dict[str, float]] = {
    model: dict(
        zip(("ETTh1", "Exchange", "Electricity", "Traffic", "Weather", "ILI"), errors, strict=True)
    )
    for model, errors in {
        "FEDformer": (0.376, 0.148, 0.193, 0.587, 0.217, 3.228),
        "Autoformer": (0.449, 0.197, 0.201, 0.613, 0.266, 3.483),
        "Informer": (0.865, 0.847, 0.274, 0.719, 0.300, 5.764),
    }.items()
}

HORIZONS: dict[str, tuple[int, ...]] = {
    name: _ILI if name == "ILI" else _LONG for name in PUBLISHED["linear"]
}


@dataclass(frozen=True)
class Run:
    """Settings of one published run: rows read, learning rate, windows a step."""

    lookback: int
    lr: float
    batch_size: int


def published_run(name: str, horizon: int) -> Run:
    """The settings that were published for a benchmark and a horizon."""
    long = horizon >= 336
    lr, batch_size = {
        "ETTh1": (5e-3, 32),
        "ETTh2": (5e-2, 32),
        "ETTm1": (1e-4, 8),
        "ETTm2": (1e-2 if long else 1e-3, 32),
        "Electricity": (1e-3, 16),
        "Exchange": (5e-4, 32 if long else 8),
        "Traffic": (5e-2, 16),
        "Weather": (1e-4, 16),
        "ILI": (1e-2, 32),
    }[name]
    return Run(lookback=104 if name == "ILI" else 336, lr=lr, batch_size=batch_size)


def tolerance(name: str, horizon: int, published: float) -> float:
    """How near a trained model must come: 0.01 or 3 %; 10 % where few windows decide."""
    if name == "ILI" or (name == "Exchange" and horizon == 720):
        return 0.1 * published
    return max(0.01, 0.03 * published)
