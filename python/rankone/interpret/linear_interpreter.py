"""The affine map that a network is at one input: f(x) = F(x) x + r(x).

With every nonlinear unit frozen where x put it, the network is affine: A(u) = F u + r, and
A(x) = f(x). Rows of F are what a class looks at, columns what a pixel becomes, singular vectors the
basis that an image-to-image network works in, and r what it says without looking. F is an operator
here, applied by forward passes and transposed by backward passes, and a matrix when asked for.

Source: "A Tour of Convolutional Networks Guided by Linear Interpreters" (arXiv 1908.05168). Smooth
activations, normalisation, attention, selection by maxima and comparisons, the verification and the
measures of localisation are this project's reading.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.sparse.linalg import LinearOperator, svds
from torch import Tensor, nn

from rankone._namespace import public_names
from rankone.interpret._call_audit import Call, first_nonlinear
from rankone.interpret._frozen_units import MODES, FrozenUnits, NonlinearModelError
from rankone.interpret._passes import check_evaluating, eager, plain, record, replay, run

__all__ = [
    "LinearInterpreter",
    "LinearScope",
    "NonlinearModelError",
    "localisation",
    "residual_share",
]

SVD_METHODS = ("auto", "dense", "lanczos")

# Entries of F up to which "auto" takes a dense decomposition.
DENSE_ENTRIES = 4_000_000
# Singular triplets by Lanczos where no number is asked for.
LANCZOS_DEFAULT = 32

_TOLERANCE = 1e-4
# In half precision the tolerance is this many roundings instead.
_ROUNDINGS = 16
# Probes grow until the linear part shows beside the absolute tolerance, but no further than this.
_LARGEST_PROBE = 1e6
_PROBE_SEED = 1908

_ADVICE = (
    "what has no rule must be affine; products of two activations (gating, bilinear pooling, "
    "squeeze-and-excitation), recurrent layers, custom autograd functions and scripted modules are "
    "not supported"
)


class LinearScope:
    """Interprets a network, input by input, as the affine map it is there.

    The model is used as it is, on its device, in evaluation mode, and left untouched. Supported
    are, as modules, functions or tensor methods:

    - affine functions, unchanged: convolutions and their transposes, linear layers, batch norm,
      average pooling, padding, interpolation, pixel shuffles, reshapes, sums, concatenation,
      products with constants, dropout, all in evaluation mode;
    - pointwise functions, as a line: `secant` goes through (0, h(0)) and (a, h(a)), `tangent`
      touches at a. At a = 0 the secant's slope is autograd's derivative. They agree for units that
      are linear on each side of 0 (ReLU, leaky ReLU, PReLU), where F is the Jacobian; otherwise
      only `tangent` is the Jacobian and only `secant` leaves no residual at a unit with h(0) = 0;
    - max pooling and maxima over dimensions, as a choice; comparisons, argmax, `where`, `maximum`;
    - layer, RMS, group and instance norm and `normalize`, by a frozen scale;
    - softmax, frozen; so attention, by hand, `scaled_dot_product_attention` or
      `nn.MultiheadAttention`, is a fixed mixing matrix, and a final softmax is all residual.

    Anything else runs unchanged and, if that is not affine, fails the verification.

    Args:
        model: maps (batch, *input_shape) to (batch, *output_shape), sample by sample.
        mode: "secant" or "tangent".
        chunk_size: inputs of one pass.
        verify: check, at every `interpret` and on the first sample of `decompose`, that the map
            equals the model at x, is additive on random probes and has a consistent transpose.

    Raises:
        TypeError: for a model that is no `nn.Module`.
        ValueError: for an unknown mode, a chunk_size below 1 or a model in training mode.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from rankone.interpret.linear_interpreter import LinearScope
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)).eval()
        >>> x = torch.tensor([0.3, -1.2])
        >>> interpreter = LinearScope(net).interpret(x)
        >>> votes, bias = interpreter.vote(0)
        >>> bool((votes.sum() + bias - net(x[None])[0, 0]).abs() < 1e-6)
        True
    """

    def __init__(
        self,
        model: nn.Module,
        mode: str = "secant",
        chunk_size: int = 256,
        verify: bool = True,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
        if isinstance(chunk_size, bool) or not isinstance(chunk_size, int) or chunk_size < 1:
            raise ValueError(f"chunk_size must be an integer of at least 1, got {chunk_size!r}")
        check_evaluating(model)
        self.model = model
        self.mode = mode
        self.chunk_size = chunk_size
        self.verify = verify

    def interpret(self, x: Tensor) -> LinearInterpreter:
        """The affine map at one input.

        Args:
            x: one input without batch dimension, floating, on the model's device.

        Returns:
            The interpreter. It holds the frozen units and a reference to the model, whose
            parameters must stay as they are while it is used.

        Raises:
            TypeError: for x that is no real floating tensor, or a model that returns no tensor.
            ValueError: for a model in training mode or one that drops the batch dimension.
            NonlinearModelError: for a model with a part that has no rule and is not affine; the
                message names the functions and the modules that call them.
        """
        _check_input("x", x)
        check_evaluating(self.model)
        x = x.detach().clone()
        gates, output = record(self.model, self.mode, x[None])
        interpreter = LinearInterpreter(
            self.model, self.mode, self.chunk_size, gates, x, output.squeeze(0)
        )
        if self.verify:
            _verify(interpreter)
        return interpreter

    def decompose(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """F(x) x and r(x) of every sample, in two forward passes.

        Args:
            X: (batch, *input_shape), floating, on the model's device.

        Returns:
            (linear part, residual), each like ``model(X)``, which is their sum.

        Raises:
            TypeError, ValueError, NonlinearModelError: as for `interpret`.

        Example:
            >>> import torch
            >>> from torch import nn
            >>> from rankone.interpret.linear_interpreter import LinearScope
            >>> net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).eval()
            >>> linear, residual = LinearScope(net).decompose(torch.randn(5, 4))
            >>> linear.shape, residual.shape
            (torch.Size([5, 3]), torch.Size([5, 3]))
        """
        _check_input("X", X)
        if X.ndim < 2 or len(X) == 0:
            raise ValueError(
                f"X must have shape (batch, *input_shape) with batch >= 1, got {tuple(X.shape)}"
            )
        X = X.detach()
        if self.verify:
            self.interpret(X[0])
        else:
            check_evaluating(self.model)
        linear, residual = [], []
        for part in X.split(self.chunk_size):
            gates, output = record(self.model, self.mode, part)
            offset = replay(self.model, self.mode, gates, torch.zeros_like(part), len(part))
            linear.append(output - offset)
            residual.append(offset)
        return torch.cat(linear), torch.cat(residual)


class LinearInterpreter:
    """A network's affine map at one input: made by :meth:`LinearScope.interpret`.

    Attributes:
        x: the input, (*input_shape).
        output: f(x), (*output_shape).
        residual: r = A(0), (*output_shape).
        input_shape, output_shape: without batch dimension.
        mode: "secant" or "tangent".

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from rankone.interpret.linear_interpreter import LinearScope
        >>> net = nn.Upsample(scale_factor=2, mode="bilinear").eval()
        >>> interpreter = LinearScope(net).interpret(torch.rand(1, 8, 8, dtype=torch.float64))
        >>> interpreter.matrix().shape
        torch.Size([256, 64])
        >>> round(float(interpreter.svd(k=1)[1]), 6)
        2.0
    """

    def __init__(
        self,
        model: nn.Module,
        mode: str,
        chunk_size: int,
        gates: list[tuple[str, Any]],
        x: Tensor,
        output: Tensor,
    ) -> None:
        self._model = model
        self._chunk_size = chunk_size
        self._gates = gates
        self.mode = mode
        self.x = x
        self.output = output
        self.input_shape = tuple(x.shape)
        self.output_shape = tuple(output.shape)
        self.residual = self._run(torch.zeros_like(x)[None])[0]

    def __repr__(self) -> str:
        return (
            f"LinearInterpreter({type(self._model).__name__}, {self.input_shape} -> "
            f"{self.output_shape}, mode={self.mode!r})"
        )

    def apply(self, u: Tensor) -> Tensor:
        """F u + r.

        Args:
            u: (m, *input_shape), of x's dtype and device.

        Returns:
            (m, *output_shape).
        """
        self._check("u", u, self.input_shape)
        return torch.cat([self._run(part) for part in u.detach().split(self._chunk_size)])

    def matvec(self, u: Tensor) -> Tensor:
        """F u, for u of (m, *input_shape); (m, *output_shape)."""
        return self.apply(u) - self.residual

    def rmatvec(self, v: Tensor) -> Tensor:
        """F^T v, for v of (m, *output_shape); (m, *input_shape). Gates are constants here."""
        self._check("v", v, self.output_shape)
        return torch.cat([self._transposed(part) for part in v.detach().split(self._chunk_size)])

    def matrix(self) -> Tensor:
        """F as (prod(output_shape), prod(input_shape)), by whichever side is smaller."""
        n_out, n_in = math.prod(self.output_shape), math.prod(self.input_shape)
        if n_out < n_in:
            rows = [self.rmatvec(unit) for unit in self._units(self.output_shape)]
            return torch.cat(rows).reshape(n_out, n_in)
        columns = [self.matvec(unit) for unit in self._units(self.input_shape)]
        return torch.cat(columns).reshape(n_in, n_out).T.contiguous()

    def row(self, index: int | Sequence[int]) -> Tensor:
        """F^T e: what output ``index`` sees, (*input_shape)."""
        return self.rmatvec(self._unit("index", index, self.output_shape))[0]

    def column(self, index: int | Sequence[int]) -> Tensor:
        """F e: what input ``index`` becomes, (*output_shape)."""
        return self.matvec(self._unit("index", index, self.input_shape))[0]

    def vote(self, index: int | Sequence[int]) -> tuple[Tensor, float]:
        """What every input entry, and the residual, adds to one output.

        Args:
            index: into output_shape.

        Returns:
            (votes of input_shape, bias vote); their sum is ``output[index]``.
        """
        place = _place("index", index, self.output_shape)
        return self.row(place) * self.x, float(self.residual[place])

    def svd(self, k: int | None = None, method: str = "auto") -> tuple[Tensor, Tensor, Tensor]:
        """Singular triplets of F, largest first.

        Args:
            k: how many; None for all of a dense decomposition and for at most 32 by Lanczos.
            method: "dense", "lanczos" (no matrix is formed), or "auto" for dense up to 4e6 entries.

        Returns:
            (U (k, *output_shape), S (k,), V (k, *input_shape)): eigen-outputs, singular values and
            eigen-inputs. The largest entry of every eigen-input is positive. Values below about
            sqrt(eps) of the largest are lost by Lanczos: use float64.

        Raises:
            TypeError: for x in half precision.
            ValueError: for an unknown method, k not in 1..min(in, out), or k = min(in, out) with
                Lanczos.
        """
        n_out, n_in = math.prod(self.output_shape), math.prod(self.input_shape)
        smaller = min(n_out, n_in)
        if method not in SVD_METHODS:
            raise ValueError(f"method must be one of {', '.join(SVD_METHODS)}, got {method!r}")
        self._check_precision("svd")
        if k is not None and (isinstance(k, bool) or not isinstance(k, int) or k < 1):
            raise ValueError(f"k must be None or an integer of at least 1, got {k!r}")
        if k is not None and k > smaller:
            raise ValueError(f"k must be at most min(in, out) = {smaller}, got {k}")
        if method == "auto":
            method = "dense" if n_out * n_in <= DENSE_ENTRIES or k == smaller else "lanczos"
        if method == "dense":
            U, S, Vt = torch.linalg.svd(self.matrix(), full_matrices=False)
            U, S, V = U.T[:k], S[:k], Vt[:k]
        else:
            k = min(LANCZOS_DEFAULT, smaller - 1) if k is None else k
            if k >= smaller or k < 1:
                raise ValueError(
                    f"k must be below min(in, out) = {smaller} with method='lanczos', got {k}: "
                    "use method='dense'"
                )
            U, S, V = self._lanczos(k)
        largest = V.gather(1, V.abs().argmax(1, keepdim=True))
        sign = torch.where(largest < 0, -1.0, 1.0).to(V.dtype)
        return (
            (U * sign).reshape(-1, *self.output_shape),
            S.clone(),
            (V * sign).reshape(-1, *self.input_shape),
        )

    def linear_operator(self) -> LinearOperator:
        """F for scipy: (prod(output_shape), prod(input_shape)), in x's dtype.

        Raises:
            TypeError: for x in half precision.
        """
        self._check_precision("linear_operator")
        dtype = self.x.cpu().numpy().dtype

        def forward(columns: np.ndarray) -> np.ndarray:
            return self._numpy(self.matvec, columns, self.input_shape)

        def backward(columns: np.ndarray) -> np.ndarray:
            return self._numpy(self.rmatvec, columns, self.output_shape)

        return LinearOperator(
            shape=(math.prod(self.output_shape), math.prod(self.input_shape)),
            matvec=forward,
            rmatvec=backward,
            matmat=forward,
            rmatmat=backward,
            dtype=dtype,
        )

    def _numpy(self, product: Any, columns: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        rows = np.ascontiguousarray(np.reshape(columns, (len(columns), -1)).T)
        inputs = torch.as_tensor(rows, dtype=self.x.dtype, device=self.x.device)
        result = product(inputs.reshape(-1, *shape)).flatten(1).cpu().numpy().T
        return result if columns.ndim == 2 else result[:, 0]

    def _lanczos(self, k: int) -> tuple[Tensor, Tensor, Tensor]:
        F = self.linear_operator()
        start = np.random.default_rng(_PROBE_SEED).standard_normal(min(F.shape))
        start = start.astype(F.dtype)
        n_out, n_in = F.shape
        if not np.any(F @ start if n_in <= n_out else F.T @ start):
            # A random vector vanishes only under F = 0, from which ARPACK cannot start.
            return tuple(  # type: ignore[return-value]
                torch.as_tensor(part).to(self.x)
                for part in (np.eye(k, n_out), np.zeros(k), np.eye(k, n_in))
            )
        U, S, Vt = svds(F, k=k, v0=start)
        order = np.argsort(S)[::-1]
        parts = (U.T[order], S[order], Vt[order])
        U, S, V = (
            torch.as_tensor(part.copy(), dtype=self.x.dtype, device=self.x.device) for part in parts
        )
        return U, S, V

    def _run(self, u: Tensor) -> Tensor:
        check_evaluating(self._model)
        return replay(self._model, self.mode, self._gates, u, 1)

    def _transposed(self, v: Tensor) -> Tensor:
        check_evaluating(self._model)
        with torch.inference_mode(False), torch.enable_grad(), eager():
            u = torch.zeros(
                len(v), *self.input_shape, dtype=v.dtype, device=v.device, requires_grad=True
            )
            output = run(self._model, FrozenUnits(self._model, self.mode, len(v), self._gates), u)
            if not output.requires_grad:  # nothing of u arrives
                return torch.zeros_like(u)
            (result,) = torch.autograd.grad(output, u, v.clone(), allow_unused=True)
        return torch.zeros_like(u).detach() if result is None else result

    def _units(self, shape: tuple[int, ...]) -> Iterator[Tensor]:
        """The identity, a chunk of rows at a time."""
        size = math.prod(shape)
        for start in range(0, size, self._chunk_size):
            rows = min(self._chunk_size, size - start)
            chunk = torch.zeros(rows, size, dtype=self.x.dtype, device=self.x.device)
            chunk.diagonal(start).fill_(1)
            yield chunk.reshape(rows, *shape)

    def _unit(self, name: str, index: int | Sequence[int], shape: tuple[int, ...]) -> Tensor:
        unit = torch.zeros(1, *shape, dtype=self.x.dtype, device=self.x.device)
        unit[(0, *_place(name, index, shape))] = 1
        return unit

    def _check_precision(self, method: str) -> None:
        if self.x.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"{method} needs x in float32 or float64, got {self.x.dtype}")

    def _check(self, name: str, value: Tensor, shape: tuple[int, ...]) -> None:
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
        if value.shape[1:] != shape or value.ndim != len(shape) + 1 or len(value) == 0:
            raise ValueError(
                f"{name} must have shape (m, {', '.join(map(str, shape))}) with m >= 1, "
                f"got {tuple(value.shape)}"
            )
        if value.dtype != self.x.dtype:
            raise TypeError(f"{name} must have dtype {self.x.dtype} as x, got {value.dtype}")
        if value.device != self.x.device:
            raise ValueError(f"{name} must be on {self.x.device} as x, got {value.device}")


def residual_share(linear: Tensor, residual: Tensor) -> Tensor:
    """Share of the residual in class scores: ||r|| / (||r|| + ||F x||), both class-centred.

    A constant added to all scores changes no decision, so means over classes are taken off first.

    Args:
        linear, residual: (batch, classes), as from :meth:`LinearScope.decompose`.

    Returns:
        (batch,), in [0, 1]; NaN where both are constant over classes.

    Raises:
        ValueError: for other shapes.

    Example:
        >>> import torch
        >>> from rankone.interpret.linear_interpreter import residual_share
        >>> residual_share(torch.tensor([[3.0, -3.0]]), torch.tensor([[2.0, 0.0]]))
        tensor([0.2500])
    """
    linear, residual = torch.as_tensor(linear), torch.as_tensor(residual)
    if linear.ndim != 2 or linear.shape != residual.shape:
        raise ValueError(
            "linear and residual must both have shape (batch, classes), got "
            f"{tuple(linear.shape)} and {tuple(residual.shape)}"
        )
    bias, seen = ((part - part.mean(1, keepdim=True)).norm(dim=1) for part in (residual, linear))
    return bias / (bias + seen)


def localisation(images: ArrayLike | Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Participation ratios of images in space and in frequency.

    For nonnegative p of sum 1 and length n the ratio is 1 / (n sum p^2): 1 where all entries take
    part, 1/n where one does. In space p is v^2, in frequency the squared modulus of the discrete
    Fourier transform over the last two axes (one for rows of vectors), both normalised. White noise
    has 1/3 and 1/2.

    Args:
        images: (k, n), (k, height, width) or (k, channels, height, width), real.

    Returns:
        (spatial, spectral), each (k,), float64.

    Raises:
        TypeError: for complex images.
        ValueError: for another number of dimensions, no image, or an image that is zero or not
            finite.

    Example:
        >>> import numpy as np
        >>> from rankone.interpret.linear_interpreter import localisation
        >>> spatial, spectral = localisation(np.ones((1, 4, 4)))
        >>> float(spatial[0]), float(spectral[0])
        (1.0, 0.0625)
    """
    if isinstance(images, Tensor):
        images = images.detach().cpu().double().numpy() if not images.is_complex() else images
    values = np.asarray(images)
    if np.iscomplexobj(values):
        raise TypeError(f"images must be real, got {values.dtype}")
    values = values.astype(float)
    if not 2 <= values.ndim <= 4 or values.size == 0:
        raise ValueError(
            "images must have shape (k, n), (k, height, width) or (k, channels, height, width), "
            f"none empty, got {values.shape}"
        )
    flat = values.reshape(len(values), -1)
    if not np.isfinite(flat).all() or not flat.any(axis=1).all():
        raise ValueError("images must be finite and each have a nonzero entry")
    values = values / np.abs(flat).max(axis=1).reshape(-1, *(1,) * (values.ndim - 1))
    axes = (-1,) if values.ndim == 2 else (-2, -1)
    spectrum = np.abs(np.fft.fftn(values, axes=axes)) ** 2
    return _participation(values**2), _participation(spectrum)


def _participation(weights: np.ndarray) -> np.ndarray:
    p = weights.reshape(len(weights), -1)
    p = p / p.sum(axis=1, keepdims=True)
    return 1 / (p.shape[1] * (p**2).sum(axis=1))


def _check_input(name: str, x: Tensor) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(f"{name} must have a real floating dtype, got {x.dtype}")
    if x.ndim == 0 or x.numel() == 0:
        raise ValueError(f"{name} must have at least one entry and dimension, got {tuple(x.shape)}")
    if not x.isfinite().all():
        raise ValueError(
            f"{name} must be finite, got {int((~x.isfinite()).sum())} entries that are not"
        )


def _place(name: str, index: int | Sequence[int], shape: tuple[int, ...]) -> tuple[int, ...]:
    try:
        place = tuple(
            operator.index(i) for i in (index if isinstance(index, Iterable) else [index])
        )
    except TypeError:
        raise TypeError(f"{name} must be a tuple of integers, got {index!r}") from None
    if len(place) != len(shape) or not all(
        -size <= i < size for i, size in zip(place, shape, strict=False)
    ):
        raise ValueError(f"{name} must be an index into shape {shape}, got {index!r}")
    return place


def _verify(interpreter: LinearInterpreter) -> None:
    """Equality at x, additivity and adjointness, or an error that names what breaks them.

    Equality at x is checked on the model's own output, without any interception.
    """
    model, x = interpreter._model, interpreter.x
    with plain():
        truth = model(x.clone()[None])[0]
    p, q = _probes(interpreter)
    with plain():
        U = torch.stack((x, p, q, p + q))
        at_x, at_p, at_q, at_both = interpreter.apply(U)
        r = interpreter.residual
        failures = []
        if _differ(at_x, truth, truth):
            failures.append("its map at x is not the model's output")
        if _differ(at_p + at_q, at_both + r, at_both, at_p, at_q):
            failures.append("its map is not additive")
        if not failures:
            v = _noise(interpreter.output_shape, x, 1)[0]
            forward = ((at_p - r) * v).sum()
            backward = (interpreter.rmatvec(v[None])[0] * p).sum()
            scale = (at_p - r).norm() * v.norm() + r.norm() * v.norm()
            if not (forward - backward).abs() <= _tolerance(x) * (1 + scale):
                failures.append(
                    "its transpose is not that of the map (gradients are switched off, detached or "
                    "redefined inside the model)"
                )
    if failures:
        found = first_nonlinear(*_audit(interpreter, p, q))
        culprits = "; ".join(found) if found else "no single call (are samples of a batch mixed?)"
        raise NonlinearModelError(
            f"{type(model).__name__} cannot be interpreted: {' and '.join(failures)}. "
            f"Found: {culprits}. Note: {_ADVICE}"
        )


def _probes(interpreter: LinearInterpreter) -> tuple[Tensor, Tensor]:
    """Two random inputs, of x's size or larger until the linear part reaches order one."""
    x = interpreter.x
    scale = x.square().mean().sqrt()
    p, q = _noise(interpreter.input_shape, x, 2) * (scale if scale > 0 else 1)
    reach = float(interpreter.matvec(torch.stack((p, q))).abs().max())
    growth = min(max(1.0, 1 / reach), _LARGEST_PROBE) if reach > 0 else 1.0
    return p * growth, q * growth


def _noise(shape: tuple[int, ...], like: Tensor, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(_PROBE_SEED)
    noise = torch.randn(count, *shape, generator=generator, dtype=torch.float64)
    return noise.to(like)


def _tolerance(x: Tensor) -> float:
    return max(_TOLERANCE, _ROUNDINGS * torch.finfo(x.dtype).eps)


def _differ(a: Tensor, b: Tensor, *scale: Tensor) -> bool:
    """Whether a and b differ; a NaN differs from everything."""
    size = 1 + max(float(part.abs().max()) for part in scale)
    return not float((a - b).abs().max()) <= _tolerance(a) * size


def _audit(
    interpreter: LinearInterpreter, p: Tensor, q: Tensor
) -> tuple[list[Call], list[list[Call]]]:
    """Calls of a recording at x, and of replays at x, 0, p, q and p + q."""
    model, mode, x = interpreter._model, interpreter.mode, interpreter.x
    kept = []
    for gates, u in [
        (None, x),
        *((interpreter._gates, u) for u in (x, torch.zeros_like(x), p, q, p + q)),
    ]:
        units = FrozenUnits(model, mode, 1, gates)
        with plain(), units.audited() as calls:
            run(model, units, u[None])
        kept.append(calls)
    return kept[0], kept[1:]


def __dir__() -> list[str]:
    return public_names(globals())
