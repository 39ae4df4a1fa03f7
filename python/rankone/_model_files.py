"""Models as one safetensors file each: weights, and what makes the model, as text in its header.

Files are written whole or not at all, and nothing in one is executed when it is read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from rankone._files import write_whole


def write_model(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], header: Mapping[str, str]
) -> None:
    """Write weights and a header of texts to ``path``."""
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_whole(path, safetensors_bytes(contiguous, dict(header)))


def read_model(
    path: str | os.PathLike[str],
    key: str,
    kind: str,
    *,
    device: torch.device | str = "cpu",
) -> tuple[str, dict[str, Tensor]]:
    """The header's text under ``key``, and the weights.

    Args:
        path: a file of :func:`write_model`.
        key: of the text that makes the model.
        kind: what the file should hold, for the message.
        device: where the weights go.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the header has no such key.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no model file at {os.fspath(path)}")
    with safe_open(path, framework="pt", device=str(device)) as file:
        text = (file.metadata() or {}).get(key)
        if text is None:
            raise ValueError(f"{os.fspath(path)} does not hold a rankone {kind}")
        # The file is no mapping: its names are only given by keys().
        return text, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
