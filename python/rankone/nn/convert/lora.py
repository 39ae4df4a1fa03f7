"""LoRA: a frozen linear map plus a trained product of two thin matrices, W + (alpha / rank) B A."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rankone._arguments import check_instance
from rankone.ops.checks import check_floating, check_tensor


class LoRALinear(nn.Module):
    """A linear map with a low-rank update: base(x) + (alpha / rank) B A dropout(x).

    A is drawn as torch draws linear weights (Kaiming-uniform with a = sqrt 5) and B is zero, so a
    fresh layer computes what its base does. The base is frozen.

    Args:
        linear: the map to adapt, used and not copied; its parameters stop asking for gradients.
        rank: rows of A and columns of B, at least 1.
        alpha: the update is scaled by alpha / rank.
        dropout: probability of dropping an entry of the update's input in training, in [0, 1).

    Attributes:
        base: ``linear``.
        A: (rank, in_features).
        B: (out_features, rank).

    Raises:
        TypeError: if ``linear`` is no ``torch.nn.Linear``.
        ValueError: for a rank below 1, an alpha that is not positive, or dropout outside [0, 1).

    Source: "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685.

    Example:
        >>> import torch
        >>> from rankone.nn import LoRALinear
        >>> linear = torch.nn.Linear(8, 4)
        >>> layer, x = LoRALinear(linear, rank=2), torch.randn(3, 8)
        >>> torch.equal(layer(x), linear(x))
        True
    """

    def __init__(
        self, linear: nn.Linear, rank: int = 8, alpha: float = 8.0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if not isinstance(linear, nn.Linear):
            raise TypeError(f"linear must be a torch.nn.Linear, got {type(linear).__name__}")
        _check_options(rank, alpha, dropout)
        self.rank = rank
        self.alpha = alpha
        self.dropout = dropout
        self.base = linear.requires_grad_(False)
        weight = linear.weight
        self.A = nn.Parameter(weight.new_empty(rank, linear.in_features))
        self.B = nn.Parameter(weight.new_zeros(linear.out_features, rank))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))

    @property
    def scaling(self) -> float:
        """alpha / rank."""
        return self.alpha / self.rank

    @property
    def in_features(self) -> int:
        """Width of the input."""
        return self.base.in_features

    @property
    def out_features(self) -> int:
        """Width of the output."""
        return self.base.out_features

    @property
    def weight(self) -> Tensor:
        """The adapted weight, (out_features, in_features)."""
        return self.base.weight + self.scaling * self.B @ self.A

    @property
    def bias(self) -> Tensor | None:
        """The bias of the base, (out_features,), or None."""
        return self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        check_tensor("x", x)
        check_floating("x", x)
        update = F.linear(F.dropout(x, self.dropout, self.training), self.A)
        return self.base(x) + self.scaling * F.linear(update, self.B)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The base with the update added to its weight, in place; summed in float32 or wider."""
        weight = self.base.weight
        wide = torch.promote_types(weight.dtype, torch.float32)
        update = self.scaling * self.B.to(wide) @ self.A.to(wide)
        weight.copy_(weight.to(wide) + update)
        return self.base

    def extra_repr(self) -> str:
        return f"rank={self.rank}, alpha={self.alpha}, dropout={self.dropout}"


@dataclass(frozen=True)
class LoRAConfig:
    """What :func:`add_lora` adapts and how.

    Attributes:
        rank: of the update, at least 1.
        alpha: the update is scaled by alpha / rank.
        targets: names of the linear maps to adapt, as the last part of their path.
        dropout: of the update's input in training, in [0, 1).

    Raises:
        ValueError: for values out of range or no target.

    Source: "Liger", arXiv 2503.01496, for the defaults: queries, keys and values, rank 8, alpha 8.

    Example:
        >>> from rankone.nn.convert import LoRAConfig
        >>> LoRAConfig(rank=4).targets
        ('q_proj', 'k_proj', 'v_proj')
    """

    rank: int = 8
    alpha: float = 8.0
    targets: Sequence[str] = ("q_proj", "k_proj", "v_proj")
    dropout: float = 0.0

    def __post_init__(self) -> None:
        _check_options(self.rank, self.alpha, self.dropout)
        if isinstance(self.targets, str) or not self.targets:
            raise ValueError(f"targets must be a sequence of names, got {self.targets!r}")
        object.__setattr__(self, "targets", tuple(self.targets))


def add_lora(model: nn.Module, config: LoRAConfig | None = None) -> nn.Module:
    """Adapt the named linear maps of a model by :class:`LoRALinear` and freeze everything else.

    Args:
        model: any module; changed in place.
        config: what to adapt; default :class:`LoRAConfig`.

    Returns:
        ``model``, of which only the new A and B ask for gradients.

    Raises:
        ValueError: if a target is not found, is no ``torch.nn.Linear``, or is adapted already; the
            model is then as it was.

    Example:
        >>> from rankone.nn import SoftmaxAttention
        >>> from rankone.nn.convert import LoRAConfig, add_lora, lora_parameters
        >>> layer = add_lora(SoftmaxAttention(32, 4), LoRAConfig(rank=2))
        >>> sum(parameter.numel() for parameter in lora_parameters(layer))
        384
    """
    config = LoRAConfig() if config is None else config
    targets = check_targets(model, config)
    model.requires_grad_(False)
    for parent, name, linear in targets:
        adapted = LoRALinear(linear, config.rank, config.alpha, config.dropout)
        setattr(parent, name, adapted.train(linear.training))
    return model


def merge_lora(model: nn.Module) -> nn.Module:
    """Fold every :class:`LoRALinear` of a model into its base, which takes its place again.

    The names of the parameters are then those from before :func:`add_lora`; which of them ask for
    gradients is left as it is.

    Args:
        model: a model that :func:`add_lora` changed; one without adapters is left as it is.

    Returns:
        ``model``, changed in place.

    Raises:
        ValueError: if ``model`` is a LoRALinear itself.

    Example:
        >>> from rankone.nn import SoftmaxAttention
        >>> from rankone.nn.convert import add_lora, merge_lora
        >>> layer = SoftmaxAttention(32, 4)
        >>> names = list(layer.state_dict())
        >>> list(merge_lora(add_lora(layer)).state_dict()) == names
        True
    """
    check_instance("model", model, nn.Module)
    if isinstance(model, LoRALinear):
        raise ValueError("model is a LoRALinear itself: call its merged()")
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LoRALinear):
                setattr(parent, name, child.merged())
    return model


def lora_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The A and B of every :class:`LoRALinear`, in the order of the model's modules.

    Args:
        model: any module.

    Returns:
        The parameters: what an optimiser is given when only the adapters are trained.

    Example:
        >>> from rankone.nn import SoftmaxAttention
        >>> from rankone.nn.convert import add_lora, lora_parameters
        >>> len(lora_parameters(add_lora(SoftmaxAttention(32, 4)))) > 0
        True
    """
    check_instance("model", model, nn.Module)
    return [
        parameter
        for module in model.modules()
        if isinstance(module, LoRALinear)
        for parameter in (module.A, module.B)
    ]


def check_targets(model: nn.Module, config: LoRAConfig) -> list[tuple[nn.Module, str, nn.Linear]]:
    """The maps that ``config`` names: what holds each, its name there and itself.

    Raises:
        ValueError: as :func:`add_lora`.
    """
    check_instance("model", model, nn.Module)
    check_instance("config", config, LoRAConfig)
    found = list(_named(model, config.targets))
    missing = sorted(set(config.targets) - {name for _, name, _ in found})
    if missing:
        raise ValueError(f"targets not found in {type(model).__name__}: {', '.join(missing)}")
    targets = []
    for parent, name, module in found:
        if isinstance(module, LoRALinear):
            raise ValueError(f"target {name} is adapted already: call merge_lora first")
        if not isinstance(module, nn.Linear):
            raise ValueError(
                f"target {name} must be a torch.nn.Linear, got {type(module).__name__}"
            )
        targets.append((parent, name, module))
    return targets


def _named(model: nn.Module, names: Sequence[str]) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    for parent in model.modules():
        for name, child in parent.named_children():
            if name in names:
                yield parent, name, child


def _check_options(rank: int, alpha: float, dropout: float) -> None:
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ValueError(f"rank must be an integer of at least 1, got {rank!r}")
    if not (alpha > 0 and math.isfinite(alpha)):
        raise ValueError(f"alpha must be positive and finite, got {alpha}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be in [0, 1), got {dropout}")
