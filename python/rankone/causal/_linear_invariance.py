"""The autoencoder whose code the moment restriction makes affine in the state."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from rankone.causal._checks import at_least, positive
from rankone.causal._control_function import initialised_linear


class LinearInvarianceAutoencoder(nn.Module):
    """Autoencoder of two mirrored multilayer perceptrons with leaky ReLU.

    Args:
        in_features: p, width of x.
        latent_dim: d, width of the code.
        hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
        negative_slope: of the leaky ReLU.
        generator: of the initial weights; None draws from torch's global generator.

    Raises:
        ValueError: for widths below 1, or a slope that makes the activation not injective.

    Source: this project's own architecture for arXiv 2310.04295.

    Example:
        >>> import torch
        >>> from rankone.causal.intervention_extrapolation import LinearInvarianceAutoencoder
        >>> reconstruction, z = LinearInvarianceAutoencoder(10, 2)(torch.randn(5, 10))
        >>> tuple(reconstruction.shape), tuple(z.shape)
        ((5, 10), (5, 2))
    """

    def __init__(
        self,
        in_features: int,
        latent_dim: int,
        hidden: tuple[int, ...] = (64, 64, 64),
        negative_slope: float = 0.2,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        at_least(1, in_features=in_features, latent_dim=latent_dim)
        check_hidden(hidden)
        positive(negative_slope=negative_slope)
        widths = (in_features, *hidden, latent_dim)
        self.encoder = _perceptron(widths, negative_slope, generator)
        self.decoder = _perceptron(widths[::-1], negative_slope, generator)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Codes (..., latent_dim) of x (..., in_features)."""
        _check_floating("x", x)
        return self.encoder(x)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Reconstructions (..., in_features) of codes (..., latent_dim)."""
        _check_floating("z", z)
        return self.decoder(z)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Reconstruction and code of x (..., in_features)."""
        z = self.encode(x)
        return self.decode(z), z


def _check_floating(name: str, value: Any) -> None:
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if not value.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {value.dtype}")


def _perceptron(
    widths: tuple[int, ...], negative_slope: float, generator: torch.Generator | None
) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [
            initialised_linear(inputs, outputs, generator),
            nn.LeakyReLU(negative_slope),
        ]
    return nn.Sequential(*layers[:-1])


def check_hidden(hidden: Any) -> None:
    """Raise unless ``hidden`` is a sequence of widths."""
    if not isinstance(hidden, Sequence) or isinstance(hidden, str):
        raise ValueError(f"hidden must be a tuple of widths, got {hidden!r}")
    for width in hidden:
        at_least(1, hidden=width)
