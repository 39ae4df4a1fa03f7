"""The mean loss of a network as a function of its parameter dictionary.

A user's module is never changed: everything runs on a copy in evaluation mode, through
``torch.func.functional_call``. Buffers come from the module, or from a fresh pass over the data for
the running statistics of batch normalisation, which belong to one set of weights and to no other.
"""

from __future__ import annotations

import contextlib
import copy
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode

Parameters = Mapping[str, Tensor]
LossFunction = Callable[[Tensor, Tensor], Tensor]

# Operations whose first derivative jumps. Piecewise functions built from torch.where or from
# indexing are not recognised.
_KINKED_OPERATIONS = frozenset(
    {
        "relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "threshold", "threshold_",
        "hardtanh", "hardtanh_", "hardswish", "hardswish_", "hardsigmoid", "hardsigmoid_",
        "hardshrink", "softshrink", "_prelu_kernel", "prelu", "rrelu", "rrelu_with_noise",
        "clamp", "clamp_", "clamp_min", "clamp_min_", "clamp_max", "clamp_max_",
        "abs", "abs_", "maximum", "minimum", "max", "min", "amax", "amin",
        "max_pool2d", "max_pool2d_with_indices", "max_pool3d_with_indices", "mkldnn_max_pool2d",
        "adaptive_max_pool2d", "adaptive_max_pool3d", "fractional_max_pool2d", "sign", "round",
    }
)  # fmt: skip

_TRACED_ROWS = 2

# Torch counts levels of forward mode, and switches attention, for the whole process: two threads at
# once would mix their tangents.
_second_derivatives = threading.Lock()


class KinkWarning(UserWarning):
    """A loss with kinks was given to a formula that needs two derivatives."""


def parameters_of(model: nn.Module) -> dict[str, Tensor]:
    """Detached copies of the parameters of a module, without its buffers.

    Args:
        model: any module. A tensor shared by several modules comes once, under its first name.

    Returns:
        Tensors by dotted name, in the order of ``model.named_parameters()``.

    Raises:
        TypeError: for something that is not a module.

    Example:
        >>> from torch import nn
        >>> from rankone.interpret.mode_connectivity import parameters_of
        >>> {name: tuple(p.shape) for name, p in parameters_of(nn.Linear(3, 2)).items()}
        {'weight': (2, 3), 'bias': (2,)}
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def interpolate(
    a: Parameters, b: Parameters, alpha: float, only: Iterable[str] | None = None
) -> dict[str, Tensor]:
    """``(1 - alpha) a + alpha b``, tensor by tensor.

    Args:
        a, b: parameter dictionaries with the same names and shapes.
        alpha: in [0, 1].
        only: names of the tensors that move; the others are those of ``a``.

    Returns:
        A new dictionary; tensors that do not move are shared with ``a``.

    Raises:
        ValueError: for different names or shapes, an alpha outside [0, 1], and unknown names in
            ``only``.
        TypeError: for tensors that are not floating.

    Example:
        >>> import torch
        >>> from rankone.interpret.mode_connectivity import interpolate
        >>> interpolate({"w": torch.zeros(2)}, {"w": torch.ones(2)}, 0.25)["w"]
        tensor([0.2500, 0.2500])
    """
    check_same(a, b)
    alpha = checked_alpha(alpha)
    moved = set(a) if only is None else checked_names(only, a)
    return {
        name: (1 - alpha) * value + alpha * b[name] if name in moved else value
        for name, value in a.items()
    }


def parameter_groups(model: nn.Module) -> dict[str, list[str]]:
    """Names of the tensors that each module itself holds.

    Args:
        model: any module.

    Returns:
        Tensor names by module name, in the order of the parameters; the module's own tensors are
        under the empty name.

    Example:
        >>> from torch import nn
        >>> from rankone.interpret.mode_connectivity import parameter_groups
        >>> parameter_groups(nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1)))
        {'0': ['0.weight', '0.bias'], '2': ['2.weight', '2.bias']}
    """
    groups: dict[str, list[str]] = {}
    for name in parameters_of(model):
        groups.setdefault(name.rpartition(".")[0], []).append(name)
    return groups


def recalibrate_batchnorm(
    model: nn.Module, params: Parameters, X: Any, *, batch_size: int | None = None
) -> dict[str, Tensor]:
    """Running statistics of batch normalisation, computed anew for these parameters.

    One pass over the data without momentum: the statistics of an average of two networks are not
    the average of their statistics.

    Args:
        model: any module; it is not changed.
        params: parameter dictionary of the model.
        X: (n, ...) inputs.
        batch_size: inputs run at once, all by default. Batches then count equally, whatever their
            size.

    Returns:
        Buffers by dotted name: running means and unbiased running variances of every batch
        normalisation that tracks them, and their counters. Empty without such a module.

    Raises:
        ValueError: for parameters that are not those of the model.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from rankone.interpret.mode_connectivity import parameters_of, recalibrate_batchnorm
        >>> model = nn.Sequential(nn.BatchNorm1d(1))
        >>> X = torch.tensor([[1.0], [3.0]])
        >>> recalibrate_batchnorm(model, parameters_of(model), X)["0.running_mean"]
        tensor([2.])
    """
    skeleton = skeleton_of(model, params)
    inputs = as_inputs("X", X, params)
    check_inputs_taken("X", inputs, partial(functional_call, skeleton, dict(params)))
    return _recalibrated(skeleton, params, list(inputs.split(batch_length(batch_size, inputs))))


class NetworkLoss:
    """L(theta): the mean loss on given data, with its derivatives along a direction.

    Args:
        model: any module; it is copied and put in evaluation mode.
        like: a parameter dictionary that fixes names, shapes, dtype and device.
        X, y: (n, ...) inputs and targets.
        loss_fn: mean loss of (outputs, targets).
        batch_size: rows run at once, all by default; losses are then means weighted by rows.

    Raises:
        ValueError: for parameters that are not those of the model, and data that do not fit.
    """

    def __init__(
        self,
        model: nn.Module,
        like: Parameters,
        X: Any,
        y: Any,
        loss_fn: LossFunction,
        batch_size: int | None = None,
    ) -> None:
        self.skeleton = skeleton_of(model, like)
        inputs, targets = as_inputs("X", X, like), as_inputs("y", y, like)
        if len(inputs) != len(targets):
            raise ValueError(
                f"X and y must have as many rows, got {len(inputs)} and {len(targets)}"
            )
        if not callable(loss_fn):
            raise TypeError(f"loss_fn must be callable, got {type(loss_fn).__name__}")
        self.loss_fn = loss_fn
        check_inputs_taken("X", inputs, partial(functional_call, self.skeleton, dict(like)))
        length = batch_length(batch_size, inputs)
        self._batches = list(zip(inputs.split(length), targets.split(length), strict=True))
        self._rows = len(inputs)
        self.has_batchnorm = any(_tracks(part) for part in self.skeleton.modules())

    def __call__(self, params: Parameters) -> float:
        """L(params), with the buffers of the model."""
        return self.loss_and_accuracy(params)[0]

    def loss_and_accuracy(
        self, params: Parameters, *, recalibrate: bool = False
    ) -> tuple[float, float]:
        """Mean loss and accuracy; the accuracy is NaN where targets are not classes.

        Args:
            params: parameter dictionary.
            recalibrate: with running statistics computed for these parameters.
        """
        buffers: dict[str, Tensor] = {}
        if recalibrate and self.has_batchnorm:
            buffers = _recalibrated(self.skeleton, params, [inputs for inputs, _ in self._batches])
        loss = accuracy = 0.0
        with torch.no_grad():
            for inputs, targets in self._batches:
                outputs = functional_call(self.skeleton, {**params, **buffers}, (inputs,))
                weight = len(inputs) / self._rows
                loss += weight * float(self._scalar(outputs, targets))
                accuracy += weight * _accuracy(outputs, targets)
        if np.isnan(loss):
            raise ValueError(
                "the loss of the network must be a number, got NaN: see that X, y and the "
                "parameters are finite"
            )
        return loss, accuracy

    def derivatives(
        self, params: Parameters, direction: Parameters, step: float = 0.0
    ) -> tuple[float, float, float]:
        """Value, slope and curvature of ``L(params + t direction)`` at ``t = step``.

        Tensors without a direction stay. Forward over forward mode, about four evaluations; where
        an operation lacks it in torch, as SiLU does, two reverse passes give the same numbers.
        """
        totals = np.zeros(3)
        for inputs, targets in self._batches:

            def along(t: Tensor, inputs: Tensor = inputs, targets: Tensor = targets) -> Tensor:
                moved = {
                    name: value + t * direction[name] if name in direction else value
                    for name, value in params.items()
                }
                return self._scalar(functional_call(self.skeleton, moved, (inputs,)), targets)

            some = next(iter(params.values()))
            at = torch.full((), step, dtype=some.dtype, device=some.device)
            with _second_derivatives, _plain_attention():
                try:
                    found = _forward_derivatives(along, at)
                except RuntimeError as error:
                    if "forward AD" not in str(error):
                        raise
                    found = _reverse_derivatives(along, at)
            totals += len(inputs) / self._rows * np.array([float(value) for value in found])
        return float(totals[0]), float(totals[1]), float(totals[2])

    def warn_of_kinks(self, params: Parameters, formula: str) -> None:
        """Warn, naming modules and operations, where the loss is not twice differentiable."""
        tracer = _KinkTracer()
        handles = tracer.follow(self.skeleton)
        inputs, targets = (part[:_TRACED_ROWS] for part in self._batches[0])
        try:
            with torch.no_grad(), tracer:
                outputs = functional_call(self.skeleton, dict(params), (inputs,))
                tracer.where.append("loss_fn")
                self.loss_fn(outputs, targets)
        finally:
            for handle in handles:
                handle.remove()
        if tracer.found:
            warnings.warn(
                f"{formula} needs a loss that is twice differentiable along the path; "
                f"{', '.join(tracer.found)} has kinks, whose jumps of the slope are in no Hessian. "
                "Barriers from losses (linear_path, layerwise_barriers) are not affected",
                KinkWarning,
                stacklevel=3,
            )

    def _scalar(self, outputs: Tensor, targets: Tensor) -> Tensor:
        loss = self.loss_fn(outputs, targets)
        if not isinstance(loss, Tensor) or loss.ndim != 0:
            got = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise ValueError(f"loss_fn must return a scalar tensor, the mean loss, got {got}")
        return loss


class _KinkTracer(TorchDispatchMode):
    """Records which operations with kinks run, and in which module."""

    def __init__(self) -> None:
        super().__init__()
        self.where: list[str] = []
        self.found: list[str] = []

    def follow(self, model: nn.Module) -> list[Any]:
        handles = []
        for name, module in model.named_modules():
            label = f"{name or 'the model'} ({type(module).__name__})"
            handles.append(
                module.register_forward_pre_hook(
                    lambda module, inputs, label=label: self.where.append(label)
                )
            )
            handles.append(
                module.register_forward_hook(lambda module, inputs, output: self._leave())
            )
        return handles

    def _leave(self) -> None:
        self.where.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        # elu(x, alpha, scale, input_scale): the slopes at 0 meet where alpha * input_scale is 1.
        alpha = args[1] if len(args) > 1 else 1
        input_scale = args[3] if len(args) > 3 else 1
        steep = name in ("elu", "elu_") and alpha * input_scale != 1
        if name in _KINKED_OPERATIONS or steep:
            label = f"{name} in {self.where[-1] if self.where else 'the model'}"
            if label not in self.found:
                self.found.append(label)
        return func(*args, **(kwargs or {}))


def skeleton_of(model: nn.Module, params: Parameters) -> nn.Module:
    """A copy of the module in evaluation mode, in the dtype and on the device of ``params``."""
    check_same(parameters_of(model), params, ("the parameters of model", "params"))
    if not params:
        raise ValueError("model must have parameters, got a module without any")
    some = next(iter(params.values()))
    skeleton = copy.deepcopy(model).eval().requires_grad_(False)
    return skeleton.to(device=some.device, dtype=some.dtype)


def check_same(
    a: Parameters, b: Parameters, names: tuple[str, str] = ("the first", "the second")
) -> None:
    """Raise unless both are dictionaries of floating tensors with the same names and shapes."""
    for which, params in zip(names, (a, b), strict=True):
        if not isinstance(params, Mapping):
            raise TypeError(
                f"{which} must be a dictionary of tensors by name, as parameters_of returns, got "
                f"{type(params).__name__}"
            )
    if set(a) != set(b):
        missing, extra = sorted(set(a) - set(b)), sorted(set(b) - set(a))
        raise ValueError(
            f"parameter dictionaries must have the same names: {names[1]} lacks {missing} and has "
            f"{extra} in addition (buffers are not parameters)"
        )
    for name, value in a.items():
        other = b[name]
        for tensor in (value, other):
            if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
                got = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
                raise TypeError(f"{name} must be a floating tensor, got {got}")
        if value.shape != other.shape:
            raise ValueError(
                f"{name} must have one shape in both dictionaries, got {tuple(value.shape)} and "
                f"{tuple(other.shape)}"
            )


def checked_alpha(alpha: Any) -> float:
    """``alpha`` as a float in [0, 1]."""
    if not isinstance(alpha, int | float | np.number) or not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be a number in [0, 1], got {alpha!r}")
    return float(alpha)


def checked_names(only: Iterable[str], params: Parameters) -> set[str]:
    """``only`` as a set of names of ``params``."""
    if isinstance(only, str):
        raise TypeError(f"only must be a collection of tensor names, got the string {only!r}")
    names = set(only)
    unknown = sorted(names - set(params))
    if unknown:
        raise ValueError(f"only must name tensors of the dictionaries, got {unknown}")
    return names


def as_inputs(name: str, values: Any, params: Parameters) -> Tensor:
    """Data as a tensor: integers as int64, others in the dtype of the parameters."""
    some = next(iter(params.values()))
    tensor = values if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values))
    if tensor.ndim == 0 or len(tensor) == 0:
        raise ValueError(f"{name} must hold at least one row, got shape {tuple(tensor.shape)}")
    dtype = some.dtype if tensor.is_floating_point() else torch.int64
    if tensor.is_complex():
        raise TypeError(f"{name} must be real, got {tensor.dtype}")
    return tensor.detach().to(device=some.device, dtype=dtype)


def check_inputs_taken(name: str, inputs: Tensor, run: Callable[[Tensor], Any]) -> None:
    """Raise for integers that the network does not take, as one without an embedding.

    Networks say nothing of what they take, so the first row is run; what else is wrong with it
    comes to light where the rest is run.
    """
    if inputs.is_floating_point():
        return
    try:
        with torch.no_grad():
            run(inputs[:1])
    except RuntimeError as error:
        if "type" in str(error) or "not implemented for" in str(error):
            raise TypeError(
                f"{name} must be floating point for this network, got {inputs.dtype}"
            ) from error


def batch_length(batch_size: int | None, inputs: Tensor) -> int:
    """Rows of a batch."""
    if batch_size is None:
        return len(inputs)
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be an integer of at least 1 or None, got {batch_size!r}")
    return batch_size


def _forward_derivatives(along: Callable[[Tensor], Tensor], at: Tensor) -> tuple[Tensor, ...]:
    one = torch.ones_like(at)
    with torch.no_grad():
        (value, slope), (_, curvature) = jvp(  # type: ignore[misc]
            lambda t: jvp(along, (t,), (one,)), (at,), (one,)
        )
    return value, slope, curvature


def _reverse_derivatives(along: Callable[[Tensor], Tensor], at: Tensor) -> tuple[Tensor, ...]:
    with torch.enable_grad():
        t = at.clone().requires_grad_()
        value = along(t)
        (slope,) = torch.autograd.grad(value, t, create_graph=True)
        curvature = torch.zeros_like(slope)
        if slope.requires_grad:
            (curvature,) = torch.autograd.grad(slope, t, materialize_grads=True)
    return value.detach(), slope.detach(), curvature


@contextlib.contextmanager
def _plain_attention() -> Iterator[None]:
    """Attention in its plain form: the fused ones have no second derivative."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _tracks(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and module.running_mean is not None


def _recalibrated(
    skeleton: nn.Module, params: Parameters, batches: Iterable[Tensor]
) -> dict[str, Tensor]:
    layers = {name: part for name, part in skeleton.named_modules() if _tracks(part)}
    if not layers:
        return {}
    working = copy.deepcopy(skeleton)
    for name, part in _batchnorms(working):
        if name in layers:
            part.reset_running_stats()
            part.momentum = None  # a plain average over batches
            part.train()
    with torch.no_grad():
        for inputs in batches:
            functional_call(working, dict(params), (inputs,))
    return {
        f"{name}.{key}" if name else key: buffer.clone()
        for name, part in _batchnorms(working)
        if name in layers
        for key, buffer in part.named_buffers(recurse=False)
    }


def _batchnorms(model: nn.Module) -> Iterator[tuple[str, _BatchNorm]]:
    return ((name, part) for name, part in model.named_modules() if isinstance(part, _BatchNorm))


def _accuracy(outputs: Tensor, targets: Tensor) -> float:
    classes = not targets.is_floating_point() and outputs.ndim >= 2
    if not classes or targets.shape != outputs.shape[:1] + outputs.shape[2:]:
        return float("nan")
    return float((outputs.argmax(dim=1) == targets).double().mean())
