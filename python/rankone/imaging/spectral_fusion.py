"""Hyperspectral super-resolution from images that are not registered, without training data.

Both images enter one encoder in the space of the multispectral bands, the hyperspectral one by its
projection y R, and leave by one decoder in the space of all bands. The encoder sees single pixels,
so that nothing depends on where they lie: rotation, shift and cropping change nothing but which
spectra are seen, and no image is ever resampled to the grid of the other.

"Unsupervised and Unregistered Hyperspectral Image Super-Resolution with Mutual Dirichlet-Net",
arXiv 1904.12175 (u2-MDN).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from rankone._progress import Progress
from rankone.imaging._validation import check_pair, check_scaled_image
from rankone.imaging.mutual_information import MutualInformationCritic
from rankone.nn.dirichlet_encoder import DirichletEncoder

BLOCK_PIXELS = 65536  # of one block of predictions: 47 MB of 180 float32 bands
DECODER_DEVIATION = 0.1  # of the decoder's initial weights
# Steps between two looks at whether the reconstruction still improves, and, with random subsets
# of pixels, between two evaluations on all of them.
PATIENCE = 100
ROOT_EPSILON = 1e-12
ENTROPY_EPSILON = 1e-8
TERMS = ("total", "reconstruction", "mutual_information", "sparsity", "volume")


class DirichletSpectralFusion(BaseEstimator):
    """Fusion of an unregistered hyperspectral and multispectral pair of images.

    A pixel's few multispectral values are encoded as weights of ``n_bases`` spectra, non-negative
    with sum at most one (:class:`rankone.nn.DirichletEncoder`), and decoded to all bands. Encoder
    and decoder are shared by both images and trained on them alone, to minimise

    - the sum over pixels of the Euclidean norm of the residual (l2,1), of the hyperspectral image
      in all bands, and of the multispectral one in its own, weighted by the ratio of pixel numbers;
    - less ``mi_weight`` times the mutual information of codes and pixels;
    - plus ``sparsity_weight`` times the mean entropy of the codes;
    - plus ``volume_weight`` times the mean l1 norm of the bases.

    Spectra are centred by the mean of the hyperspectral image, and the multispectral pixels by its
    projection. [own reading: the published code subtracts the multispectral image's own mean, which
    shifts spectra where the images show different ground; ``msi_mean="own"``.]

    Args:
        n_bases: spectra k; 35 for more than a hundred bands, 15 for about thirty.
        encoder_width: width of the encoder's first layer; 8 for more than a hundred bands, 3 for
            about thirty.
        norm: ``"l21"``, or ``"l2"`` for squared norms.
        mi_weight, sparsity_weight, volume_weight: weights of the terms.
        max_iter: steps of Adam.
        lr: learning rate.
        lr_final: learning rate at the last step, reached exponentially with constant weights of the
            terms; None multiplies it and those weights by ``decay`` every step.
        decay: see ``lr_final``.
        msi_mean: ``"projected"`` or ``"own"``.
        batch_pixels: multispectral pixels of a step, drawn anew every time; None takes all.
        n_init: starts; the one with the lowest reconstruction loss is kept.
        tol: stop when 100 steps lower the lowest reconstruction loss by less than this share of it;
            0 never stops early.
        device: torch device; None is the CPU.
        random_state: of the initial weights, subsets and permutations.
        verbose: show a progress bar on a terminal.

    Attributes:
        bases_: (k, L) spectra, the decoder's rows plus the mean spectrum.
        mean_spectrum_: (L,) of the hyperspectral image.
        msi_mean_: (l,) subtracted from multispectral pixels.
        srf_: (L, l) responses with columns of sum one.
        abundances_: (M, N, k) codes of the multispectral image.
        loss_curve_: arrays of length ``n_iter_``, before every step, of ``total`` and the
            unweighted ``reconstruction``, ``mutual_information`` (NaN if its weight is 0),
            ``sparsity`` and ``volume``.
        reconstruction_error_: lowest reconstruction loss, that of the state kept.
        n_iter_: steps of the start kept.
        encoder_: the trained :class:`rankone.nn.DirichletEncoder`.
        critic_: the trained :class:`MutualInformationCritic`.

    References:
        "Unsupervised and Unregistered Hyperspectral Image Super-Resolution with Mutual
        Dirichlet-Net", arXiv 1904.12175, IEEE TGRS 2021.

    Example:
        >>> from rankone.imaging import DirichletSpectralFusion, simulate_scene
        >>> scene = simulate_scene(library="synthetic", size=16, ratio=4, random_state=0)
        >>> model = DirichletSpectralFusion(6, 3, max_iter=20, lr=1e-2, random_state=0)
        >>> model.fit_predict(scene.hsi, scene.msi, scene.srf).shape
        (16, 16, 180)
    """

    def __init__(
        self,
        n_bases: int = 35,
        encoder_width: int = 8,
        norm: str = "l21",
        mi_weight: float = 0.1,
        sparsity_weight: float = 0.01,
        volume_weight: float = 1e-3,
        max_iter: int = 5000,
        lr: float = 1e-3,
        lr_final: float | None = None,
        decay: float = 0.9994,
        msi_mean: str = "projected",
        batch_pixels: int | None = None,
        n_init: int = 1,
        tol: float = 0.0,
        device: str | torch.device | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
    ) -> None:
        self.n_bases = n_bases
        self.encoder_width = encoder_width
        self.norm = norm
        self.mi_weight = mi_weight
        self.sparsity_weight = sparsity_weight
        self.volume_weight = volume_weight
        self.max_iter = max_iter
        self.lr = lr
        self.lr_final = lr_final
        self.decay = decay
        self.msi_mean = msi_mean
        self.batch_pixels = batch_pixels
        self.n_init = n_init
        self.tol = tol
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, hsi: ArrayLike, msi: ArrayLike, srf: ArrayLike) -> Self:
        """Learn bases and encoder from the two images.

        Args:
            hsi: (m, n, L) low-resolution hyperspectral image in [0, 1].
            msi: (M, N, l) high-resolution multispectral image in [0, 1]; it need not be registered
                with ``hsi``, only show ground of the same materials.
            srf: (L, l) spectral responses, columns scaled to sum one.

        Raises:
            TypeError: for images that do not hold real numbers.
            ValueError: for images or responses that do not match, are not finite or out of range,
                fewer than 4 hyperspectral pixels, and parameters out of range.
        """
        self._check_parameters()
        hsi, msi, srf = check_pair(hsi, msi, srf)
        self.srf_ = srf
        self.mean_spectrum_ = hsi.mean(axis=(0, 1))
        projected_mean = self.mean_spectrum_ @ srf
        self.msi_mean_ = projected_mean if self.msi_mean == "projected" else msi.mean(axis=(0, 1))

        device = torch.device(self.device or "cpu")
        pair = _Pair.of(hsi, msi, srf, self.mean_spectrum_, self.msi_mean_, device)
        seeds = check_random_state(self.random_state).randint(2**31 - 1, size=self.n_init)
        best: _Start | None = None
        with Progress("fusing", self.n_init * self.max_iter, enabled=self.verbose) as progress:
            for seed in seeds:
                start = self._train(pair, int(seed), progress)
                if best is None or start.error < best.error:
                    best = start
        assert best is not None
        best.model.eval()
        self.encoder_ = best.model.encoder
        self.critic_ = best.model.critic
        self._decoder = best.model.bases().detach().cpu().numpy()
        self.bases_ = self._decoder + self.mean_spectrum_
        self.loss_curve_ = best.curve
        self.reconstruction_error_ = best.error
        self.n_iter_ = len(best.curve["total"])
        self.abundances_ = self.transform(msi)
        return self

    def transform(self, image: ArrayLike, modality: str = "msi") -> NDArray[np.float32]:
        """Weights of the bases at every pixel.

        Args:
            image: (H, W, l) multispectral or (H, W, L) hyperspectral image.
            modality: ``"msi"`` or ``"hsi"``.

        Returns:
            (H, W, k), non-negative with sums at most one.

        Raises:
            ValueError: for an image of other bands or out of range, and another modality.
        """
        check_is_fitted(self)
        if modality not in ("msi", "hsi"):
            raise ValueError(f"modality must be 'msi' or 'hsi', got {modality!r}")
        if modality == "msi":
            image = check_scaled_image(image, "image", bands=self.srf_.shape[1])
            centred = image - self.msi_mean_
        else:
            image = check_scaled_image(image, "image", bands=self.srf_.shape[0])
            centred = (image - self.mean_spectrum_) @ self.srf_
        pixels = centred.reshape(-1, centred.shape[2])
        weights = np.empty((len(pixels), self.n_bases), dtype=np.float32)
        device = next(self.encoder_.parameters()).device
        with torch.no_grad():
            for first in range(0, len(pixels), BLOCK_PIXELS):
                block = slice(first, first + BLOCK_PIXELS)
                inputs = torch.as_tensor(pixels[block], dtype=torch.float32, device=device)
                weights[block] = self.encoder_(inputs).cpu().numpy()
        return weights.reshape(*image.shape[:2], self.n_bases)

    def predict(self, msi: ArrayLike | None = None) -> NDArray[np.float32]:
        """High-resolution spectra of every multispectral pixel, clipped to [0, 1].

        Args:
            msi: (M, N, l) image of any size; by default the one given to :meth:`fit`.

        Returns:
            (M, N, L).

        Raises:
            ValueError: for an image of other bands or out of range.
        """
        check_is_fitted(self)
        weights = self.abundances_ if msi is None else self.transform(msi)
        flat = weights.reshape(-1, self.n_bases)
        spectra = np.empty((len(flat), len(self.mean_spectrum_)), dtype=np.float32)
        mean = self.mean_spectrum_.astype(np.float32)
        for first in range(0, len(flat), BLOCK_PIXELS):
            block = slice(first, first + BLOCK_PIXELS)
            np.clip(flat[block] @ self._decoder + mean, 0, 1, out=spectra[block])
        return spectra.reshape(*weights.shape[:2], -1)

    def fit_predict(self, hsi: ArrayLike, msi: ArrayLike, srf: ArrayLike) -> NDArray[np.float32]:
        """:meth:`fit`, then :meth:`predict` of the same image."""
        return self.fit(hsi, msi, srf).predict()

    def _train(self, pair: _Pair, seed: int, progress: Progress) -> _Start:
        device = pair.msi.device
        generator = torch.Generator(device=device).manual_seed(seed)
        with torch.random.fork_rng(devices=[]):  # layers draw a start that is replaced at once
            model = _FusionNetwork(pair, self.n_bases, self.encoder_width, seed).to(device)
        fused = device.type in ("cpu", "cuda")  # a dozen small tensors: mostly call overhead
        optimizer = torch.optim.Adam(model.parameters(), lr=self.lr, fused=fused)
        best_state, best_error = copy.deepcopy(model.state_dict()), float("inf")
        rows, looked_at = [], float("inf")

        def keep(error: float) -> None:
            nonlocal best_error
            if error < best_error:
                best_error = error
                for name, value in model.state_dict().items():
                    best_state[name].copy_(value)

        for step in range(self.max_iter):
            factor, weight_factor = self._schedule(step)
            for group in optimizer.param_groups:
                group["lr"] = self.lr * factor
            subset = None
            if self.batch_pixels is not None and self.batch_pixels < len(pair.msi):
                subset = torch.randperm(len(pair.msi), device=device, generator=generator)
                subset = subset[: self.batch_pixels]
            terms = model.terms(pair, subset, self.norm, self.mi_weight > 0, generator)
            total = terms["reconstruction"] + weight_factor * (
                self.sparsity_weight * terms["sparsity"] + self.volume_weight * terms["volume"]
            )
            if self.mi_weight > 0:
                total = total - weight_factor * self.mi_weight * terms["mutual_information"]
            # One transfer a step, and before the step changes what the loss belongs to.
            row = torch.stack([total, *(terms[name] for name in TERMS[1:])]).tolist()
            if not np.isfinite(row[0]):
                raise ValueError(f"lr must be small enough for a finite loss, got {self.lr}")
            rows.append(row)
            looking = (step + 1) % PATIENCE == 0
            if subset is None:
                keep(row[1])
            elif looking:
                keep(self._full_error(model, pair))
            optimizer.zero_grad(set_to_none=True)
            total.backward()
            optimizer.step()
            progress.advance(note=f"loss {row[1]:.4g}")
            if looking:
                if looked_at - best_error < self.tol * best_error:
                    break
                looked_at = best_error
        keep(self._full_error(model, pair))
        model.load_state_dict(best_state)
        columns = np.array(rows).T
        return _Start(model, best_error, dict(zip(TERMS, columns, strict=True)))

    def _schedule(self, step: int) -> tuple[float, float]:
        """What learning rate and weights are multiplied by."""
        if self.lr_final is None:
            return self.decay**step, self.decay**step
        return (self.lr_final / self.lr) ** (step / max(self.max_iter - 1, 1)), 1.0

    def _full_error(self, model: _FusionNetwork, pair: _Pair) -> float:
        """Reconstruction loss of all pixels, in blocks."""
        with torch.no_grad():
            bases = model.bases()
            error = _norms(pair.hsi - model.encoder(pair.projected) @ bases, self.norm)
            for block in pair.msi.split(BLOCK_PIXELS):
                residual = block - model.encoder(block) @ (bases @ pair.srf)
                error = error + _norms(residual, self.norm) / pair.pixel_ratio
        return float(error)

    def _check_parameters(self) -> None:
        def whole(name: str, optional: bool = False) -> None:
            value = getattr(self, name)
            if optional and value is None:
                return
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")

        def number(name: str, low: float, *, open_: bool = False, high: float = np.inf) -> None:
            value = getattr(self, name)
            if not (np.isfinite(value) and (value > low if open_ else value >= low)):
                sign = "above" if open_ else "at least"
                raise ValueError(f"{name} must be finite and {sign} {low:g}, got {value!r}")
            if value > high:
                raise ValueError(f"{name} must be at most {high:g}, got {value!r}")

        for name in ("n_bases", "encoder_width", "max_iter", "n_init"):
            whole(name)
        whole("batch_pixels", optional=True)
        for name in ("mi_weight", "sparsity_weight", "volume_weight", "tol"):
            number(name, 0)
        number("lr", 0, open_=True)
        number("decay", 0, open_=True, high=1)
        if self.lr_final is not None:
            number("lr_final", 0, open_=True)
        for name, choices in (("norm", ("l21", "l2")), ("msi_mean", ("projected", "own"))):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} must be {choices[0]!r} or {choices[1]!r}, got {getattr(self, name)!r}"
                )


@dataclass(frozen=True)
class _Pair:
    """Both images as centred float32 pixels.

    ``projected`` are the hyperspectral pixels in multispectral bands, ``pixel_ratio`` the number of
    multispectral pixels over that of hyperspectral ones: r² where both cover the same ground, and
    the balance of the two sums where they do not.
    """

    hsi: Tensor
    projected: Tensor
    msi: Tensor
    srf: Tensor
    mean: Tensor
    pixel_ratio: float

    @classmethod
    def of(
        cls,
        hsi: NDArray,
        msi: NDArray,
        srf: NDArray,
        mean: NDArray,
        msi_mean: NDArray,
        device: torch.device,
    ) -> _Pair:
        centred = (hsi - mean).reshape(-1, hsi.shape[2])

        def tensor(array: NDArray) -> Tensor:
            return torch.as_tensor(array, dtype=torch.float32, device=device)

        return cls(
            hsi=tensor(centred),
            projected=tensor(centred @ srf),
            msi=tensor((msi - msi_mean).reshape(-1, msi.shape[2])),
            srf=tensor(srf),
            mean=tensor(mean),
            pixel_ratio=msi.shape[0] * msi.shape[1] / len(centred),
        )


@dataclass(frozen=True)
class _Start:
    """A trained network, its reconstruction loss and the terms at every step."""

    model: _FusionNetwork
    error: float
    curve: dict[str, NDArray[np.float64]]


class _FusionNetwork(nn.Module):
    """Shared encoder, shared two-layer decoder, and the critic."""

    def __init__(self, pair: _Pair, n_bases: int, width: int, seed: int) -> None:
        super().__init__()
        n_hsi, n_msi = pair.srf.shape
        generator = torch.Generator().manual_seed(seed)
        self.encoder = DirichletEncoder(n_msi, n_bases, width)
        self.encoder.reset_parameters(generator)
        self.critic = MutualInformationCritic(n_msi, n_bases)
        self.critic.reset_parameters(generator)

        def normal(*shape: int) -> nn.Parameter:
            return nn.Parameter(DECODER_DEVIATION * torch.randn(*shape, generator=generator))

        self.mix = normal(n_bases, n_bases)
        self.spectra = normal(n_bases, n_hsi)

    def bases(self) -> Tensor:
        """(k, L) centred."""
        return self.mix @ self.spectra

    def terms(
        self,
        pair: _Pair,
        subset: Tensor | None,
        norm: str,
        with_information: bool,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """The terms of the loss, unweighted, of all pixels or a subset of the multispectral."""
        msi = pair.msi if subset is None else pair.msi[subset]
        n_hsi = len(pair.hsi)
        codes = self.encoder(torch.cat([pair.projected, msi]))
        of_hsi, of_msi = codes[:n_hsi], codes[n_hsi:]
        bases = self.bases()
        # Only the few bands of the projected bases are needed: never the image in all bands.
        residual = msi - of_msi @ (bases @ pair.srf)
        scale = len(pair.msi) / len(msi) / pair.pixel_ratio
        reconstruction = _norms(pair.hsi - of_hsi @ bases, norm) + scale * _norms(residual, norm)
        information: Any = codes.new_tensor(float("nan"))
        if with_information:
            information = self.critic(pair.projected, of_hsi, generator)
            information = information + self.critic(msi, of_msi, generator)
        entropies = _entropies(codes)
        return {
            "reconstruction": reconstruction,
            "mutual_information": information,
            "sparsity": entropies[:n_hsi].mean() + entropies[n_hsi:].mean(),
            "volume": (bases + pair.mean).abs().sum(dim=1).mean(),
        }


def _norms(residual: Tensor, norm: str) -> Tensor:
    """Sum over pixels of the Euclidean norm, or of its square."""
    squared = residual.square().sum(dim=-1)
    return squared.sum() if norm == "l2" else (squared + ROOT_EPSILON).sqrt().sum()


def _entropies(codes: Tensor) -> Tensor:
    """Entropy of every pixel's weights, scaled to sum one."""
    p = codes / (codes.sum(dim=-1, keepdim=True) + ENTROPY_EPSILON)
    return -(p * (p + ENTROPY_EPSILON).log()).sum(dim=-1)
