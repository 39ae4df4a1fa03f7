"""Diffusion sampling by the second-order scheme with optional churn, and its denoisers.

Noise levels, preconditioning, loss weights and the sampler are those of "Elucidating the Design
Space of Diffusion-Based Generative Models" (arXiv 2206.00364), which arXiv 2501.07741 samples with.
Everything is differentiable in the initial noise.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from rankone._arguments import check_integer, check_number, check_size
from rankone.ops.checks import check_rank, check_tensor

Denoiser = Callable[[Tensor, Tensor], Tensor]

_LOG_SIGMA_MEAN, _LOG_SIGMA_STD = -1.2, 1.2  # of the noise levels that training draws
_FOURIER_FEATURES = 16
_SAMPLE_CHUNK = 8192  # rows a network pass


def edm_schedule(
    n_steps: int = 18,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Noise levels from ``sigma_max`` down to ``sigma_min``, then 0.

    Args:
        n_steps: N, at least 2.
        sigma_min, sigma_max: 0 < sigma_min < sigma_max.
        rho: larger values put more levels at small noise.
        dtype: of the result.

    Returns:
        (n_steps + 1,), strictly decreasing to 0.

    Raises:
        ValueError: for arguments outside those.

    Example:
        >>> from rankone.stats.concentration import edm_schedule
        >>> edm_schedule(3).round(decimals=3).tolist()
        [80.0, 2.515, 0.002, 0.0]
    """
    if isinstance(n_steps, bool) or not isinstance(n_steps, int):
        raise TypeError(f"n_steps must be an integer, got {n_steps!r}")
    if n_steps < 2:
        raise ValueError(f"n_steps must be at least 2, got {n_steps}")
    if not 0 < sigma_min < sigma_max:
        raise ValueError(
            f"sigma_min and sigma_max must be 0 < sigma_min < sigma_max, got {sigma_min} and "
            f"{sigma_max}"
        )
    if not rho > 0:
        raise ValueError(f"rho must be above 0, got {rho}")
    share = torch.arange(n_steps, dtype=torch.float64) / (n_steps - 1)
    top, bottom = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    levels = (top + share * (bottom - top)) ** rho
    levels[0], levels[-1] = sigma_max, sigma_min  # exact at both ends
    return torch.cat((levels, levels.new_zeros(1))).to(dtype)


def edm_sample(
    denoiser: Denoiser,
    noise: Tensor,
    n_steps: int = 18,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    s_churn: float = 0.0,
    s_min: float = 0.05,
    s_max: float = 50.0,
    s_noise: float = 1.003,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Turn Gaussian noise into samples with ``2 n_steps - 1`` calls of a denoiser.

    Args:
        denoiser: ``D(x, sigma)``, the posterior mean of the data given ``x = data + sigma noise``,
            of x's shape; sigma is a scalar tensor.
        noise: (n, d) standard normal.
        n_steps, sigma_min, sigma_max, rho: as :func:`edm_schedule`.
        s_churn: noise added on the way; 0 is the deterministic sampler.
        s_min, s_max: levels between which it is added.
        s_noise: its inflation.
        generator: of the added noise.

    Returns:
        (n, d), of noise's dtype, differentiable in ``noise``.

    Raises:
        ValueError: for noise of another shape or arguments outside those.

    Source: arXiv 2206.00364.

    Example:
        >>> import torch
        >>> from rankone.stats.concentration import edm_sample, gaussian_denoiser
        >>> denoiser = gaussian_denoiser(torch.zeros(1), torch.eye(1))
        >>> edm_sample(denoiser, torch.ones(1, 1), n_steps=64).round(decimals=2).item()
        1.0
    """
    check_tensor("noise", noise)
    if noise.ndim != 2 or not noise.is_floating_point():
        raise ValueError(f"noise must be a float tensor (n, d), got {noise.dtype} {noise.shape}")
    if not s_churn >= 0:
        raise ValueError(f"s_churn must be at least 0, got {s_churn}")
    levels = edm_schedule(n_steps, sigma_min, sigma_max, rho).to(noise.device)
    most = math.sqrt(2) - 1
    x = noise * levels[0].to(noise.dtype)
    for level, following in itertools.pairwise(levels):
        churned = s_min <= float(level) <= s_max
        gamma = min(s_churn / n_steps, most) if churned else 0.0
        raised = level
        if gamma > 0:
            raised = level * (1 + gamma)
            added = torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
            x = x + (raised**2 - level**2).sqrt().to(x.dtype) * s_noise * added
        sigma, step = raised.to(x.dtype), (following - raised).to(x.dtype)
        slope = (x - denoiser(x, sigma)) / sigma
        moved = x + step * slope
        if following > 0:
            target = following.to(x.dtype)
            corrected = (moved - denoiser(moved, target)) / target
            moved = x + step * (slope + corrected) / 2
        x = moved
    return x


def gaussian_denoiser(mean: ArrayLike, cov: ArrayLike) -> Denoiser:
    """The exact denoiser of a Gaussian: ``mean + cov (cov + sigma^2 I)^-1 (x - mean)``.

    Args:
        mean: (d,).
        cov: (d, d), symmetric, eigenvalues of at least 0.

    Returns:
        ``D(x, sigma)``.

    Raises:
        ValueError: for shapes that do not fit.

    Example:
        >>> import torch
        >>> from rankone.stats.concentration import gaussian_denoiser
        >>> gaussian_denoiser([0.0], [[1.0]])(torch.ones(1, 1), torch.tensor(1.0)).item()
        0.5
    """
    return mixture_denoiser([1.0], [np.asarray(mean)], [np.asarray(cov)])


def mixture_denoiser(
    weights: ArrayLike, means: Sequence[ArrayLike], covs: Sequence[ArrayLike]
) -> Denoiser:
    """The exact denoiser of a mixture of Gaussians.

    Args:
        weights: (k,) above 0, summing to 1.
        means: k of (d,).
        covs: k of (d, d), symmetric, eigenvalues of at least 0.

    Returns:
        ``D(x, sigma)``.

    Raises:
        ValueError: for shapes that do not fit or weights that are no probabilities.

    Example:
        >>> import torch
        >>> from rankone.stats.concentration import mixture_denoiser
        >>> D = mixture_denoiser([0.5, 0.5], [[-1.0], [1.0]], [[[0.1]], [[0.1]]])
        >>> D(torch.zeros(1, 1), torch.tensor(1.0)).item()
        0.0
    """
    chance = torch.as_tensor(np.asarray(weights), dtype=torch.float64)
    centers = torch.as_tensor(np.stack([np.asarray(m) for m in means]), dtype=torch.float64)
    matrices = torch.as_tensor(np.stack([np.asarray(c) for c in covs]), dtype=torch.float64)
    k, d = centers.shape if centers.ndim == 2 else (0, 0)
    if k == 0 or chance.shape != (k,) or matrices.shape != (k, d, d):
        raise ValueError(
            f"weights, means and covs must have shapes (k,), (k, d) and (k, d, d), got "
            f"{tuple(chance.shape)}, {tuple(centers.shape)} and {tuple(matrices.shape)}"
        )
    if not ((chance > 0).all() and abs(float(chance.sum()) - 1) < 1e-8):
        raise ValueError(f"weights must be above 0 and sum to 1, got {chance.tolist()}")
    spectra, bases = torch.linalg.eigh(matrices)
    spectra = spectra.clamp_min(0)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        mean, values, basis = (t.to(x.device, x.dtype) for t in (centers, spectra, bases))
        noisy = values + sigma**2  # (k, d)
        rotated = torch.einsum("knd,kde->kne", x - mean[:, None], basis)
        shrunk = rotated * (values / noisy)[:, None]
        posterior = mean[:, None] + torch.einsum("kne,kde->knd", shrunk, basis)
        if len(mean) == 1:
            return posterior[0]
        distance = (rotated.square() / noisy[:, None]).sum(-1) + noisy.log().sum(-1)[:, None]
        log_chance = chance.to(x.device, x.dtype).log()[:, None] - distance / 2
        return (log_chance.softmax(0)[..., None] * posterior).sum(0)

    return denoise


class DenoiserMLP(nn.Module):
    """A preconditioned denoiser: ``D(x, s) = c_skip x + c_out f(c_in x, ln(s) / 4)``.

    Args:
        n_features: d.
        hidden: width of the layers.
        n_layers: hidden layers, at least 1.
        n_classes: classes that condition it, 0 for none.
        sigma_data: standard deviation of the data's entries, above 0.

    Source: preconditioning of arXiv 2206.00364.

    Example:
        >>> import torch
        >>> from rankone.stats.concentration import DenoiserMLP
        >>> DenoiserMLP(3)(torch.zeros(5, 3), torch.tensor(1.0)).shape
        torch.Size([5, 3])
    """

    frequencies: Tensor

    def __init__(
        self,
        n_features: int,
        hidden: int = 128,
        n_layers: int = 3,
        n_classes: int = 0,
        sigma_data: float = 1.0,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("n_features", n_features, 1),
            ("hidden", hidden, 1),
            ("n_layers", n_layers, 1),
            ("n_classes", n_classes, 0),
        ):
            check_integer(name, value)
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if not sigma_data > 0:
            raise ValueError(f"sigma_data must be above 0, got {sigma_data}")
        self.n_classes, self.sigma_data = n_classes, float(sigma_data)
        self.register_buffer("frequencies", torch.randn(_FOURIER_FEATURES // 2))
        width = n_features + _FOURIER_FEATURES + n_classes
        layers: list[nn.Module] = []
        for _ in range(n_layers):
            layers += [nn.Linear(width, hidden), nn.SiLU()]
            width = hidden
        self.network = nn.Sequential(*layers, nn.Linear(width, n_features))

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        """Denoise.

        Args:
            x: (n, d).
            sigma: scalar or (n,) noise levels.
            label: (n,) class indices, needed where the network has classes.

        Returns:
            (n, d).
        """
        check_rank("x", x, ("samples", "features"))
        sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(len(x))[:, None]
        variance, own = sigma**2 + self.sigma_data**2, self.sigma_data
        angle = 2 * math.pi * (sigma.log() / 4) * self.frequencies
        inputs = [x / variance.sqrt(), angle.sin(), angle.cos()]
        if self.n_classes:
            if label is None:
                raise ValueError("label must be given for a denoiser with classes")
            inputs.append(nn.functional.one_hot(label, self.n_classes).to(x.dtype))
        update = self.network(torch.cat(inputs, dim=-1))
        return own**2 / variance * x + sigma * own / variance.sqrt() * update


class DiffusionGenerator(BaseEstimator):
    """A small diffusion model of tabular data, with an estimator's interface.

    Args:
        hidden: width of the denoiser.
        n_steps_train: optimiser steps.
        batch_size: rows a step.
        lr: peak learning rate of Adam, decayed by a cosine.
        n_steps: sampling steps.
        s_churn: as in :func:`edm_sample`.
        ema: decay of the moving average of the weights that samples.
        device: torch device.
        random_state: seed.

    Attributes:
        denoiser_: the averaged :class:`DenoiserMLP`.
        loss_curve_: (n_steps_train,) training losses.
        classes_: labels, or None without ``y``.
        sigma_data_: standard deviation of the training data's entries.
        n_features_in_: d.

    Source: arXiv 2501.07741 for the analysis, arXiv 2206.00364 for the model.

    Example:
        >>> import numpy as np
        >>> from rankone.stats.concentration import DiffusionGenerator
        >>> X = np.random.default_rng(0).standard_normal((200, 2))
        >>> DiffusionGenerator(hidden=8, n_steps_train=5, random_state=0).fit(X).sample(3).shape
        (3, 2)
    """

    def __init__(
        self,
        hidden: int = 128,
        n_steps_train: int = 2000,
        batch_size: int = 256,
        lr: float = 2e-3,
        n_steps: int = 18,
        s_churn: float = 0.0,
        ema: float = 0.995,
        device: str = "cpu",
        random_state: int | None = None,
    ) -> None:
        self.hidden = hidden
        self.n_steps_train = n_steps_train
        self.batch_size = batch_size
        self.lr = lr
        self.n_steps = n_steps
        self.s_churn = s_churn
        self.ema = ema
        self.device = device
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike | None = None) -> DiffusionGenerator:
        """Train the denoiser.

        Args:
            X: (n, d); float32 and float64 keep their precision.
            y: (n,) labels to condition on, at least two samples each; None for none.

        Returns:
            self.

        Raises:
            ValueError: for X that is not 2-D and finite or has no variance, or classes of one.
        """
        for name, value in (("n_steps_train", self.n_steps_train), ("batch_size", self.batch_size)):
            check_size(name, value)
        for name in ("lr", "ema"):
            check_number(name, getattr(self, name))
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must lie in [0, 1), got {self.ema}")
        X = validate_data(self, X, dtype=[np.float32, np.float64], ensure_min_samples=2)
        labels = None
        self.classes_: NDArray | None = None
        if y is not None:
            self.classes_, indices = np.unique(np.asarray(y), return_inverse=True)
            check_classes(indices, self.classes_, len(X))
            labels = torch.as_tensor(indices, device=self.device)
        self.sigma_data_ = float(X.std())
        if not self.sigma_data_ > 0:
            raise ValueError("X must vary, got a standard deviation of 0")
        data = torch.as_tensor(X, device=self.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0 if self.random_state is None else self.random_state)
            model = DenoiserMLP(
                X.shape[1],
                self.hidden,
                n_classes=0 if self.classes_ is None else len(self.classes_),
                sigma_data=self.sigma_data_,
            ).to(self.device, data.dtype)
        seed = self.random_state
        generator = torch.Generator(self.device)
        if seed is None:
            generator.seed()
        else:
            generator.manual_seed(seed)
        self.denoiser_, self.loss_curve_ = self._train(model, data, labels, generator)
        return self

    def _train(
        self, model: DenoiserMLP, data: Tensor, labels: Tensor | None, generator: torch.Generator
    ) -> tuple[DenoiserMLP, NDArray]:
        averaged = copy.deepcopy(model).requires_grad_(False)
        optimizer = torch.optim.Adam(model.parameters(), lr=self.lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.n_steps_train)
        own = self.sigma_data_
        losses = np.empty(self.n_steps_train)
        for step in range(self.n_steps_train):
            rows = torch.randint(
                len(data), (self.batch_size,), generator=generator, device=data.device
            )
            clean, label = data[rows], None if labels is None else labels[rows]
            draw: dict[str, Any] = {
                "dtype": data.dtype,
                "device": data.device,
                "generator": generator,
            }
            log_sigma = _LOG_SIGMA_MEAN + _LOG_SIGMA_STD * torch.randn(len(rows), **draw)
            sigma = log_sigma.exp()
            noisy = clean + sigma[:, None] * torch.randn(clean.shape, **draw)
            weight = (sigma**2 + own**2) / (sigma * own) ** 2
            error = (model(noisy, sigma, label) - clean).square().mean(dim=-1)
            loss = (weight * error).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses[step] = loss.detach()
            # A short memory at first, so that the start is forgotten.
            decay = min(self.ema, (1 + step) / (10 + step))
            with torch.no_grad():
                for mean, value in zip(averaged.parameters(), model.parameters(), strict=True):
                    mean.lerp_(value, 1 - decay)
        return averaged.eval(), losses

    def map(self, noise: Tensor, y: ArrayLike | None = None) -> Tensor:
        """The sampler as a function of its initial noise, differentiable.

        Args:
            noise: (n, d) standard normal.
            y: labels, one or (n,), where the model was fitted with labels.

        Returns:
            (n, d).

        Raises:
            ValueError: for labels that are missing, not wanted or unknown.
        """
        return self._map(noise, y, None)

    def _map(self, noise: Tensor, y: ArrayLike | None, generator: torch.Generator | None) -> Tensor:
        check_is_fitted(self)
        if noise.ndim != 2 or noise.shape[1] != self.n_features_in_:
            raise ValueError(
                f"noise must have shape (n, {self.n_features_in_}), got {tuple(noise.shape)}"
            )
        label = self._labels(y, len(noise))
        dtype = next(self.denoiser_.parameters()).dtype
        denoiser = self.denoiser_
        if noise.dtype != dtype:
            denoiser = copy.deepcopy(denoiser).to(noise.dtype)
        return edm_sample(
            lambda x, sigma: denoiser(x, sigma, label),
            noise,
            n_steps=self.n_steps,
            s_churn=self.s_churn,
            generator=generator,
        )

    def _labels(self, y: ArrayLike | None, count: int) -> Tensor | None:
        if self.classes_ is None:
            if y is not None:
                raise ValueError("y must be None: the model was fitted without labels")
            return None
        if y is None:
            raise ValueError("y must be given: the model was fitted with labels")
        wanted = np.broadcast_to(np.asarray(y), (count,))
        indices = np.searchsorted(self.classes_, wanted).clip(max=len(self.classes_) - 1)
        if not (self.classes_[indices] == wanted).all():
            raise ValueError(f"y must hold labels of {self.classes_.tolist()}")
        return torch.as_tensor(indices, device=self.device)

    def sample(
        self, n: int, y: ArrayLike | None = None, random_state: int | None = None
    ) -> NDArray:
        """Draw samples.

        Args:
            n: how many, at least 1.
            y: as in :meth:`map`.
            random_state: seed of the noise.

        Returns:
            (n, d), of the training data's dtype.

        Raises:
            ValueError: for ``n`` below 1, or as :meth:`map`.
        """
        check_is_fitted(self)
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        generator = torch.Generator(self.device)
        if random_state is None:
            generator.seed()
        else:
            generator.manual_seed(random_state)
        dtype = next(self.denoiser_.parameters()).dtype
        labels = None if y is None else np.broadcast_to(np.asarray(y), (n,))
        parts = []
        with torch.no_grad():
            for first in range(0, n, _SAMPLE_CHUNK):
                count = min(_SAMPLE_CHUNK, n - first)
                noise = torch.randn(
                    count,
                    self.n_features_in_,
                    dtype=dtype,
                    device=self.device,
                    generator=generator,
                )
                own = None if labels is None else labels[first : first + count]
                parts.append(self._map(noise, own, generator).cpu().numpy())
        return np.concatenate(parts)


def check_classes(indices: NDArray, classes: NDArray, rows: int) -> None:
    """Labels fit the rows, and every class has two samples."""
    if indices.shape != (rows,):
        raise ValueError(f"y must have shape ({rows},), got {indices.shape}")
    few = classes[np.bincount(indices, minlength=len(classes)) < 2]
    if few.size:
        raise ValueError(f"y must hold at least two samples of each class, got one of {few}")
