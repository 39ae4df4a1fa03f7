"""Multilayer perceptrons on one-hot states, plain and residual, and the configuration of a model.

The names of parameters are those of the models of CayleyPy (arXiv 2509.19162), so that weights
saved by it load here.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from rankone._arguments import check_instance
from rankone.cayley.errors import CayleyError, check, check_range


@dataclass(frozen=True)
class ModelConfig:
    """What a model is; a plain description that a checkpoint carries.

    Attributes:
        model_type: "MLP" or "RESMLP".
        input_size: entries of a state.
        num_classes_for_one_hot: entries are in 0..num_classes_for_one_hot - 1.
        layers_sizes: hidden sizes.
        weights_kaggle_id: where the weights were published; never downloaded.
        weights_path: file of the weights, a plain state dict.
        n_outputs: 1 for the distance of a state, or the number of generators for the distances of
            all its children.
        tokenizer_groups: [size, count] pairs of :class:`GroupTokenizer`.
        graph_hash: :func:`graph_hash` of the graph that the model was trained for.

    Example:
        >>> import torch
        >>> from rankone.cayley import ModelConfig
        >>> model = ModelConfig("MLP", 5, 5, [16]).build_model()
        >>> model(torch.arange(5)[None]).shape
        torch.Size([1])
    """

    model_type: str
    input_size: int
    num_classes_for_one_hot: int
    layers_sizes: list[int]
    weights_kaggle_id: str | None = None
    weights_path: str | None = None
    n_outputs: int = 1
    tokenizer_groups: list[list[int]] | None = None
    graph_hash: str | None = None

    @staticmethod
    def from_dict(cfg: dict[str, Any]) -> ModelConfig:
        """A configuration from plain values; fields that are missing take their defaults.

        Raises:
            CayleyError: for a missing field without a default or an unknown field.
        """
        known = ModelConfig.__dataclass_fields__
        unknown = sorted(set(cfg) - set(known))
        check(not unknown, f"cfg has unknown fields {', '.join(unknown)}")
        missing = [name for name in list(known)[:4] if name not in cfg]
        check(not missing, f"cfg must have the fields {', '.join(missing)}")
        return ModelConfig(**cfg)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values."""
        return asdict(self)

    def build_model(self) -> nn.Module:
        """The model with random weights.

        Raises:
            CayleyError: for an unknown model type or sizes that are not positive.
        """
        models = {"MLP": MlpModel, "RESMLP": ResMlpModel}
        if self.model_type not in models:
            raise CayleyError(
                f"model_type must be one of {', '.join(models)}, got {self.model_type!r}"
            )
        return models[self.model_type](self)

    def load(self, device: str | torch.device = "cpu") -> nn.Module:
        """The model with the weights of ``weights_path``, or random ones where there is none.

        Raises:
            CayleyError: where the weights are only known by an identifier.
        """
        check(
            self.weights_path is not None or self.weights_kaggle_id is None,
            f"weights_path must name a local file: weights are never downloaded, and "
            f"weights_kaggle_id {self.weights_kaggle_id!r} is none",
        )
        model = self.build_model()
        if self.weights_path is not None:
            path = os.path.expanduser(self.weights_path)
            model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        return model.to(device)


class _StateModel(nn.Module):
    """What both models share: checked sizes, one-hot inputs, the shape of the output."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        check_instance("config", config, ModelConfig)
        check_range("input_size", config.input_size, 1)
        check_range("num_classes_for_one_hot", config.num_classes_for_one_hot, 1)
        check_range("n_outputs", config.n_outputs, 1)
        for index, size in enumerate(config.layers_sizes):
            check_range(f"layers_sizes[{index}]", size, 1)
        self.config = config
        self.n_outputs = config.n_outputs
        self.num_classes_for_one_hot = config.num_classes_for_one_hot
        self.input_layer_size = config.input_size * config.num_classes_for_one_hot

    def one_hot(self, states: Tensor) -> Tensor:
        """(N, input_size * classes) from (N, input_size) or (N, n, m) integers."""
        check_instance("x", states, Tensor)
        flat = states.long().reshape(-1, self.config.input_size)
        if flat.numel():
            low, high = (int(bound) for bound in torch.aminmax(flat))
            check(
                low >= 0 and high < self.num_classes_for_one_hot,
                f"states must have entries from 0 to {self.num_classes_for_one_hot - 1}, "
                f"got {low if low < 0 else high}",
            )
        return nn.functional.one_hot(flat, self.num_classes_for_one_hot).float().flatten(1)

    def shaped(self, outputs: Tensor) -> Tensor:
        """(N,) for one output, (N, n_outputs) else."""
        return outputs.squeeze(-1) if self.n_outputs == 1 else outputs


class MlpModel(_StateModel):
    """Linear, LayerNorm and ReLU for each hidden size, and a linear output.

    Args:
        config: sizes.

    Example:
        >>> import torch
        >>> from rankone.cayley.models import ModelConfig, MlpModel
        >>> model = MlpModel(ModelConfig("MLP", 4, 4, [8]))
        >>> model(torch.tensor([[1, 0, 2, 3]])).shape
        torch.Size([1])
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        layers: list[nn.Module] = []
        size = self.input_layer_size
        for hidden in config.layers_sizes:
            layers += [nn.Linear(size, hidden), nn.LayerNorm(hidden), nn.ReLU()]
            size = hidden
        self.layers = nn.Sequential(*layers, nn.Linear(size, self.n_outputs))

    def forward(self, x: Tensor) -> Tensor:
        """States (N, *state shape) to (N,) or (N, n_outputs)."""
        return self.shaped(self.layers(self.one_hot(x)))


class _ResBlock(nn.Module):
    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features)
        self.norm = nn.LayerNorm(out_features)
        self.has_skip = in_features == out_features

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.linear(x)))
        return x + y if self.has_skip else y


class ResMlpModel(_StateModel):
    """The blocks of :class:`MlpModel` with a skip connection where sizes agree.

    Args:
        config: sizes; at least one block.

    Example:
        >>> import torch
        >>> from rankone.cayley.models import ModelConfig, ResMlpModel
        >>> model = ResMlpModel(ModelConfig("RESMLP", 4, 4, [8]))
        >>> model(torch.tensor([[1, 0, 2, 3]])).shape
        torch.Size([1])
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        check(config.layers_sizes, "layers_sizes must not be empty for RESMLP")
        sizes = [self.input_layer_size, *config.layers_sizes]
        blocks = [_ResBlock(a, b) for a, b in pairwise(sizes)]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(sizes[-1], self.n_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """States (N, *state shape) to (N,) or (N, n_outputs)."""
        return self.shaped(self.head(self.blocks(self.one_hot(x))))
