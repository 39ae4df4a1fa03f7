"""Files that hold a model: its configuration, its weights, and which graph they are for.

The layout is that of CayleyPy's checkpoints, so that either library reads the other's.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rankone._arguments import check_instance
from rankone._files import write_whole
from rankone.cayley.cayley_graph_def import CayleyGraphDef
from rankone.cayley.errors import check
from rankone.cayley.models.models import ModelConfig

FORMAT_VERSION = 1
MODEL_DIRECTORY_VARIABLE = "RANKONE_MODEL_DIR"


def graph_hash(graph_def: CayleyGraphDef) -> str:
    """A hash of what a graph is, names aside: generators and central state.

    Args:
        graph_def: the definition.

    Returns:
        SHA-256 in hexadecimal of the JSON of the generators' type, the generators (a matrix with
        its modulus) and the central state, keys sorted.

    Example:
        >>> from rankone.cayley import PermutationGroups
        >>> from rankone.cayley.models import graph_hash
        >>> definition = PermutationGroups.lrx(4)
        >>> graph_hash(definition) == graph_hash(definition.with_name("other"))
        True
    """
    check_instance("graph_def", graph_def, CayleyGraphDef)
    generators: list[Any] = (
        [[int(entry) for entry in p] for p in graph_def.generators_permutations]
        if graph_def.is_permutation_group()
        else [[g.matrix.tolist(), int(g.modulo)] for g in graph_def.generators_matrices]
    )
    what = {
        "generators_type": graph_def.generators_type.name,
        "generators": generators,
        "central_state": [int(entry) for entry in graph_def.central_state],
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def pretrained_path(graph_def: CayleyGraphDef) -> Path:
    """Where :meth:`rankone.cayley.Predictor.pretrained` looks for the model of a graph.

    The folder is that of the environment variable RANKONE_MODEL_DIR, else
    ``~/.local/share/rankone/models``; save a model there with :func:`save_checkpoint`.

    Args:
        graph_def: the graph's definition.

    Returns:
        The path, whether or not there is a file.

    Example:
        >>> from rankone.cayley import PermutationGroups
        >>> from rankone.cayley.models import graph_hash, pretrained_path
        >>> definition = PermutationGroups.lrx(4)
        >>> pretrained_path(definition).name == graph_hash(definition) + ".pt"
        True
    """
    folder = os.environ.get(MODEL_DIRECTORY_VARIABLE) or "~/.local/share/rankone/models"
    return Path(folder).expanduser() / f"{graph_hash(graph_def)}.pt"


def save_checkpoint(
    path: str | os.PathLike[str],
    model: nn.Module,
    config: ModelConfig,
    graph_def: CayleyGraphDef | None = None,
) -> ModelConfig:
    """Write a model, whole or not at all.

    Args:
        path: the file; its folder is made where it is missing.
        model: whose weights.
        config: what ``model`` is.
        graph_def: the graph it was trained for.

    Returns:
        The configuration as written, with the hash of ``graph_def``.

    Example:
        >>> import tempfile
        >>> from rankone.cayley import ModelConfig, load_checkpoint, save_checkpoint
        >>> config = ModelConfig("MLP", 4, 4, [8])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = save_checkpoint(f"{folder}/model.pt", config.build_model(), config)
        ...     load_checkpoint(f"{folder}/model.pt")[1] == config
        True
    """
    check_instance("model", model, nn.Module)
    check_instance("config", config, ModelConfig)
    if graph_def is not None:
        config = replace(config, graph_hash=graph_hash(graph_def))
    contents = {
        "format_version": FORMAT_VERSION,
        "config": config.to_dict(),
        "state_dict": {name: value.cpu() for name, value in model.state_dict().items()},
    }
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: torch.save(contents, file))
    return config


def load_checkpoint(
    path: str | os.PathLike[str],
    device: str | torch.device = "cpu",
    graph_def: CayleyGraphDef | None = None,
) -> tuple[nn.Module, ModelConfig]:
    """Read what :func:`save_checkpoint` wrote; no code in the file is run.

    Args:
        path: the file.
        device: where the model goes.
        graph_def: the graph it is wanted for.

    Returns:
        (model in evaluation mode, its configuration).

    Raises:
        CayleyError: for another kind of file, a newer format, or a model of another graph.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from rankone.cayley import ModelConfig, load_checkpoint, save_checkpoint
        >>> config = ModelConfig("MLP", 4, 4, [8])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = save_checkpoint(Path(folder) / "model.pt", config.build_model(), config)
        ...     model, config = load_checkpoint(Path(folder) / "model.pt")
        >>> config.layers_sizes
        [8]
    """
    contents = torch.load(path, map_location="cpu", weights_only=True)
    name = os.fspath(path)
    check(
        isinstance(contents, dict) and {"config", "state_dict"} <= set(contents),
        f"path must be a file that save_checkpoint wrote, got {name!r}; plain weights are loaded "
        "by ModelConfig.load",
    )
    version = int(contents.get("format_version", 0))
    check(
        version <= FORMAT_VERSION,
        f"path must have format version {FORMAT_VERSION} at most, got {version} in {name!r}",
    )
    config = ModelConfig.from_dict(contents["config"])
    if graph_def is not None and config.graph_hash is not None:
        wanted = graph_hash(graph_def)
        check(
            config.graph_hash == wanted,
            f"path must be a model of the graph with hash {wanted}, got one for the graph "
            f"{config.graph_hash} in {name!r}",
        )
    model = config.build_model()
    model.load_state_dict(contents["state_dict"])
    return model.eval().to(device), config
