"""A network with its nonlinear units frozen where one input put them.

A first run records, unit by unit, the affine map that the reference input selects; later runs
replay these maps in the same order on other inputs. Both happen under a `TorchFunctionMode`, so
functional calls, tensor methods and modules are caught alike and the model is never touched. What
has no rule here runs unchanged: affine functions are then exact, others are found by the caller's
check, for which an audited run keeps a trace of every call.

Source: "A Tour of Convolutional Networks Guided by Linear Interpreters" (arXiv 1908.05168) for the
replay of ReLU networks; the rules of every other unit are this project's reading.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.overrides import TorchFunctionMode

from rankone.interpret._call_audit import Call, projections

__all__ = ["MODES", "POINTWISE", "FrozenUnits", "NonlinearModelError"]

MODES = ("secant", "tangent")

_RECTIFIERS = ("relu", "relu6", "leaky_relu", "prelu", "rrelu", "threshold", "_threshold", "selu")
_CLIPPED = ("hardtanh", "clamp", "clamp_min", "clamp_max", "clip", "hardswish", "hardsigmoid")
_SQUASHING = ("tanh", "sigmoid", "softsign", "erf", "atan", "log_sigmoid", "logsigmoid")
_SMOOTH = ("gelu", "silu", "mish", "elu", "celu", "softplus")
_SHRINKING = ("tanhshrink", "softshrink", "hardshrink")
_ELEMENTARY = ("sin", "cos", "sinh", "cosh", "exp", "expm1", "log1p", "sqrt", "square", "pow")
_SINGULAR = ("log", "rsqrt", "reciprocal")  # at 0, so for tangents alone
_ABSOLUTE = ("abs", "absolute")
_KINDS = (_RECTIFIERS, _CLIPPED, _SQUASHING, _SMOOTH, _SHRINKING, _ELEMENTARY, _SINGULAR, _ABSOLUTE)
POINTWISE = frozenset(name for kind in _KINDS for name in kind)
_COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge", "argmax", "argmin")
_SPATIAL_DROPOUTS = ("dropout1d", "dropout2d", "dropout3d")
_DROPOUTS = ("dropout", *_SPATIAL_DROPOUTS, "alpha_dropout", "feature_alpha_dropout")


class NonlinearModelError(RuntimeError):
    """The model does something that freezing its units does not make affine."""


@dataclass(eq=False)
class FrozenUnits(TorchFunctionMode):
    """Records the units of a reference input, or replays them.

    Args:
        model: the network, for names in messages.
        kind: "secant" or "tangent".
        batch: samples of this run.
        gates: what a recording run left, with ``reference`` its number of samples; None records.

    Raises:
        NonlinearModelError: from within the model, at a unit that cannot be frozen.
    """

    model: nn.Module
    kind: str
    batch: int
    gates: list[tuple[str, Any]] | None = None
    reference: int = 1
    recorded: list[tuple[str, Any]] = field(default_factory=list, init=False)
    calls: list[Call] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        super().__init__()
        self._position = 0
        self._names = {id(module): name for name, module in self.model.named_modules()}

    @property
    def recording(self) -> bool:
        """Whether this run records."""
        return self.gates is None

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if self.calls is None:
            return self._apply(func, args, kwargs)
        entered = projections((*args, *kwargs.values()))
        result = self._apply(func, args, kwargs)
        left = projections((result,) if isinstance(result, Tensor) else result)
        if left:
            self.calls.append(Call(_name(func), self.where(), entered, left))
        return result

    def _apply(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        rule = _RULES.get(_name(func))
        if rule is None:
            if func == _DATA_GETTER:  # as `detach`
                return _alias(self, func, *args)
            return func(*args, **kwargs)
        if not args:
            named = next((key for key in ("input", "self", "query") if key in kwargs), None)
            if named is None:
                return func(**kwargs)
            args = (kwargs.pop(named),)
        if not (isinstance(args[0], Tensor) and args[0].is_floating_point()):
            return func(*args, **kwargs)
        return rule(self, func, *args, **kwargs)

    def gate(self, name: str, select: Callable[[], Any]) -> Any:
        """The gate of the next unit: ``select()`` when recording, what was recorded otherwise."""
        if self.gates is None:
            gate = select()
            self.recorded.append((name, gate))
            return gate
        if self._position >= len(self.gates) or self.gates[self._position][0] != name:
            raise NonlinearModelError(
                f"{name}{self.where()} was not called at this point for the reference input: the "
                "model's Python code branches on its values, which no frozen unit can follow"
            )
        gate = self.gates[self._position][1]
        self._position += 1
        return gate

    def finish(self) -> None:
        """Check that a replay met every recorded unit."""
        if self.gates is not None and self._position != len(self.gates):
            raise NonlinearModelError(
                f"{self.gates[self._position][0]} was called for the reference input alone: the "
                "model's Python code branches on its values, which no frozen unit can follow"
            )

    def fit(self, gate: Tensor, shape: Sequence[int]) -> Tensor:
        """A gate of the reference's samples as one of this run's, where the shapes differ.

        A dimension that holds the batch, alone or times something with the batch outermost, is
        repeated; the batch may stand anywhere.
        """
        if gate.shape == torch.Size(shape):
            return gate
        repeats = self.batch // self.reference
        if gate.ndim == len(shape):
            counts = [
                1 if has == wanted else repeats
                for has, wanted in zip(gate.shape, shape, strict=True)
            ]
            if all(h * c == w for h, c, w in zip(gate.shape, counts, shape, strict=True)):
                if all(h == 1 for h, c in zip(gate.shape, counts, strict=True) if c != 1):
                    return gate.expand(*shape)
                return gate.repeat(*counts)
        raise NonlinearModelError(
            f"a unit{self.where()} saw shape {tuple(gate.shape)} for {self.reference} samples and "
            f"{tuple(shape)} for {self.batch}: the model's shapes must scale with the batch alone"
        )

    def where(self) -> str:
        """The innermost module of the model that is running, in words, or nothing."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            module = frame.f_locals.get("self")
            if isinstance(module, nn.Module) and id(module) in self._names:
                return _place(self._names[id(module)], module)
            frame = frame.f_back
        return ""

    @contextmanager
    def audited(self) -> Iterator[list[Call]]:
        """Within, this run keeps what every call does; hooks are global and go when it ends."""
        calls = self.calls = []

        def note(module: nn.Module, args: tuple, result: Any) -> None:
            if id(module) not in self._names:
                return
            with torch._C.DisableTorchFunction():
                left = projections((result,) if isinstance(result, Tensor) else result)
                if left:
                    where = _place(self._names[id(module)], module)
                    calls.append(Call("forward", where, projections(args), left, module=True))

        handle = register_module_forward_hook(note)
        try:
            yield calls
        finally:
            handle.remove()
            self.calls = None

    def refuse(self, name: str, reason: str) -> NonlinearModelError:
        """The error for a unit that cannot be frozen."""
        return NonlinearModelError(f"{name}{self.where()} {reason}")


def _place(name: str, module: nn.Module) -> str:
    return f" in {f'{name!r} ' if name else ''}({type(module).__name__})"


def _name(func: Callable) -> str:
    """The canonical name of a torch function, in-place variants without their underscore."""
    name = getattr(func, "__name__", str(func))
    if name.endswith("_") and not name.endswith("__"):
        return name[:-1]
    return name


# Rules: called with the run, the function and its arguments, the first a floating tensor.


def _alias(run: FrozenUnits, func: Callable, x: Tensor) -> Tensor:
    # Cutting the graph would lose part of the transposed map and changes no value.
    return x.view_as(x)


def _pointwise(
    run: FrozenUnits, func: Callable, x: Tensor, *args: Any, inplace: bool = False, **kwargs: Any
) -> Tensor:
    name = _name(func)
    if "out" in kwargs:
        raise run.refuse(name, "writes to out=, which is not supported: use its result")
    if name == "rrelu" and (kwargs.get("training") or (len(args) > 2 and args[2])):
        raise run.refuse(name, "draws random slopes (training=True): it is affine in eval mode")
    if getattr(func, "__name__", "").endswith("_"):
        inplace = True
        func = getattr(torch, name, None) or getattr(F, name)

    def h(a: Tensor) -> Tensor:
        return func(a, *args, **kwargs)

    def select() -> tuple[Tensor | None, Tensor | None]:
        chord = _secant if run.kind == "secant" else _tangent
        slope, offset = chord(h, x.detach())
        if not (slope.isfinite().all() and offset.isfinite().all()):
            return None, h(x).detach()
        return slope, offset if offset.any() else None

    slope, offset = run.gate(name, select)
    if run.recording:
        result = h(x)
    elif slope is None:
        result = h(x)
        # No line replaces the unit, and none is needed where its input is a constant.
        if not (result.shape == offset.shape and torch.equal(result, offset)):
            hint = " at 0: use mode='tangent'" if run.kind == "secant" else " at its input"
            raise run.refuse(name, f"has no finite value or slope{hint}")
    else:
        result = x * run.fit(slope, x.shape)
        if offset is not None:
            result = result + run.fit(offset, x.shape)
    return x.copy_(result) if inplace else result


def _derivative(h: Callable[[Tensor], Tensor], a: Tensor) -> Tensor:
    with torch.enable_grad():
        a = a.detach().clone().requires_grad_()
        (slope,) = torch.autograd.grad(h(a).sum(), a)
    return slope.detach()


def _secant(h: Callable[[Tensor], Tensor], a: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and offset of the line through (0, h(0)) and (a, h(a))."""
    with torch.no_grad():
        offset = h(torch.zeros_like(a))
        slope = (h(a) - offset) / a
        # With an offset the difference loses digits near 0; h'(a/2) is off by O(a^2) alone.
        cancels = (offset != 0) & (a.abs() < torch.finfo(a.dtype).eps ** (1 / 3))
        close = (a == 0) | cancels
    if close.any():
        slope = torch.where(close, _derivative(h, a / 2), slope)
    return slope.detach(), offset.detach()


def _tangent(h: Callable[[Tensor], Tensor], a: Tensor) -> tuple[Tensor, Tensor]:
    slope = _derivative(h, a)
    with torch.no_grad():
        return slope, (h(a) - slope * a).detach()


def _max_pool(
    run: FrozenUnits, func: Callable, x: Tensor, *args: Any, return_indices: bool = False,
    **kwargs: Any,
) -> Any:  # fmt: skip
    name = _name(func)
    with_indices = name.endswith("_with_indices")
    pool = getattr(F, name.removesuffix("_with_indices"))
    spatial = int(name.removesuffix("_with_indices")[-2])

    def select() -> Tensor:
        return pool(x.detach(), *args, return_indices=True, **kwargs)[1]

    winners = run.gate(name, select)
    winners = run.fit(winners, (*x.shape[:-spatial], *winners.shape[-spatial:]))
    pooled = x.flatten(-spatial).gather(-1, winners.flatten(-spatial)).view(winners.shape)
    return (pooled, winners.clone()) if with_indices or return_indices else pooled


def _extreme(run: FrozenUnits, func: Callable, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """`max` and `min` along a dimension, or of two tensors."""
    name = _name(func)
    other = args[0] if args else kwargs.get("other")
    if isinstance(other, Tensor):
        return _larger(run, getattr(torch, f"{name}imum"), x, other)
    dim = args[0] if args else kwargs.get("dim")
    if dim is None:
        return func(x, *args, **kwargs)
    keepdim = args[1] if len(args) > 1 else kwargs.get("keepdim", False)
    choose = torch.argmax if name == "max" else torch.argmin
    winners = run.gate(name, lambda: choose(x.detach(), dim, keepdim=True))
    shape = list(x.shape)
    shape[dim] = 1
    winners = run.fit(winners, shape)
    chosen = x.gather(dim, winners)
    if not keepdim:
        chosen, winners = chosen.squeeze(dim), winners.squeeze(dim)
    return getattr(torch.return_types, name)((chosen, winners.clone()))


def _extremes(
    run: FrozenUnits, func: Callable, x: Tensor, dim: Any = (), keepdim: bool = False
) -> Tensor:
    """`amax` and `amin` over several dimensions."""
    name = _name(func)
    dims = (dim,) if isinstance(dim, int) else tuple(dim)
    if not dims:
        return func(x)
    dims = tuple(sorted(d % x.ndim for d in dims))
    choose = torch.argmax if name == "amax" else torch.argmin
    flat = x.movedim(dims, tuple(range(-len(dims), 0))).flatten(-len(dims))
    winners = run.gate(name, lambda: choose(flat.detach(), -1, keepdim=True))
    chosen = flat.gather(-1, run.fit(winners, (*flat.shape[:-1], 1))).squeeze(-1)
    if keepdim:
        for d in dims:
            chosen = chosen.unsqueeze(d)
    return chosen


def _larger(run: FrozenUnits, func: Callable, x: Tensor, other: Tensor) -> Tensor:
    """`maximum` and `minimum`; a tie is shared, as autograd does."""
    sign = 1 if _name(func) == "maximum" else -1
    order = run.gate(_name(func), lambda: torch.sign(sign * (x - other).detach()))
    order = run.fit(order, torch.broadcast_shapes(x.shape, other.shape))
    return torch.where(order > 0, x, torch.where(order < 0, other, (x + other) / 2))


def _frozen(run: FrozenUnits, func: Callable, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Softmax and comparisons: the reference's output, whatever comes in."""
    here = func(x, *args, **kwargs).detach()
    return run.fit(run.gate(_name(func), lambda: here), here.shape).clone()


def _batch_norm(run: FrozenUnits, func: Callable, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    if kwargs.get("training", args[4] if len(args) > 4 else False):
        raise run.refuse(
            "batch_norm",
            "normalises by statistics of the batch (training mode, or track_running_stats=False)",
        )
    return func(x, *args, **kwargs)


def _dropout(run: FrozenUnits, func: Callable, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    if inspect.isfunction(func):
        bound = inspect.signature(func).bind(x, *args, **kwargs)
        bound.apply_defaults()
        training = bound.arguments["training"]
    else:
        training = kwargs.get("train", args[1] if len(args) > 1 else False)
    if training:
        raise run.refuse(
            _name(func), "is random: pass training=self.training, and call model.eval()"
        )
    return func(x, *args, **kwargs)


def _scaled(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _standardised(
    run: FrozenUnits, name: str, x: Tensor, dims: tuple[int, ...], eps: float
) -> Tensor:
    """x less its mean, over the reference's standard deviation."""
    centred = x - x.mean(dims, keepdim=True)
    inverse = run.gate(
        name, lambda: (centred.square().mean(dims, keepdim=True) + eps).rsqrt().detach()
    )
    shape = [1 if d - x.ndim in dims else size for d, size in enumerate(x.shape)]
    return centred * run.fit(inverse, shape)


def _layer_norm(
    run: FrozenUnits, func: Callable, x: Tensor, normalized_shape: Sequence[int],
    weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:  # fmt: skip
    dims = range(-len(normalized_shape), 0)
    return _scaled(_standardised(run, "layer_norm", x, tuple(dims), eps), weight, bias)


def _rms_norm(
    run: FrozenUnits, func: Callable, x: Tensor, normalized_shape: Sequence[int],
    weight: Tensor | None = None, eps: float | None = None,
) -> Tensor:  # fmt: skip
    dims = tuple(range(-len(normalized_shape), 0))
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    inverse = run.gate(
        "rms_norm", lambda: (x.square().mean(dims, keepdim=True) + eps).rsqrt().detach()
    )
    shape = (*x.shape[: -len(dims)], *(1 for _ in dims))
    return _scaled(x * run.fit(inverse, shape), weight, None)


def _group_norm(
    run: FrozenUnits, func: Callable, x: Tensor, num_groups: int, weight: Tensor | None = None,
    bias: Tensor | None = None, eps: float = 1e-5, cudnn_enabled: bool = True,
) -> Tensor:  # fmt: skip
    grouped = x.reshape(x.shape[0], num_groups, -1)
    result = _standardised(run, "group_norm", grouped, (-1,), eps).view(x.shape)
    return _scaled(result, *(_by_channel(p, x) for p in (weight, bias)))


def _by_channel(parameter: Tensor | None, x: Tensor) -> Tensor | None:
    return None if parameter is None else parameter.view(-1, *(1 for _ in x.shape[2:]))


def _instance_norm(
    run: FrozenUnits, func: Callable, x: Tensor, *args: Any, **kwargs: Any
) -> Tensor:
    names = (
        ("running_mean", "running_var", "weight", "bias", "use_input_stats", "momentum", "eps")
        if inspect.isfunction(func)
        else ("weight", "bias", "running_mean", "running_var", "use_input_stats", "momentum", "eps")
    )
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    if not given.get("use_input_stats", True):
        return func(x, *args, **kwargs)
    dims = tuple(range(2 - x.ndim, 0))
    result = _standardised(run, "instance_norm", x, dims, given.get("eps", 1e-5))
    return _scaled(result, *(_by_channel(given.get(name), x) for name in ("weight", "bias")))


def _normalize(
    run: FrozenUnits, func: Callable, x: Tensor, p: float = 2.0, dim: Any = 1, eps: float = 1e-12,
    out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    if out is not None:
        raise run.refuse("normalize", "writes to out=, which is not supported: use its result")
    dims = {d % x.ndim for d in ((dim,) if isinstance(dim, int) else dim)}
    norm = run.gate(
        "normalize",
        lambda: torch.linalg.vector_norm(x.detach(), p, dim, keepdim=True).clamp_min(eps),
    )
    return x / run.fit(norm, [1 if d in dims else size for d, size in enumerate(x.shape)])


def _attention(
    run: FrozenUnits, func: Callable, query: Tensor, key: Tensor, value: Tensor,
    attn_mask: Tensor | None = None, dropout_p: float = 0.0, is_causal: bool = False,
    scale: float | None = None, enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """`scaled_dot_product_attention` with the reference's probabilities."""
    if dropout_p:
        raise run.refuse("scaled_dot_product_attention", "is random: dropout_p must be 0 in eval")
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
        value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)

    def select() -> Tensor:
        factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
        scores = (query.detach() * factor) @ key.detach().mT
        if is_causal:
            mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
            scores = scores.masked_fill(~mask, -math.inf)
        if attn_mask is not None:
            if attn_mask.dtype == torch.bool:
                scores = scores.masked_fill(~attn_mask, -math.inf)
            else:
                scores = scores + attn_mask.detach()
        return scores.softmax(-1)

    probabilities = run.gate("scaled_dot_product_attention", select)
    leading = torch.broadcast_shapes(query.shape[:-2], key.shape[:-2])
    return run.fit(probabilities, (*leading, query.shape[-2], key.shape[-2])) @ value


def _multi_head_attention(
    run: FrozenUnits, func: Callable, query: Tensor, key: Tensor, value: Tensor,
    embed_dim_to_check: int, num_heads: int, in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None, bias_k: Tensor | None, bias_v: Tensor | None,
    add_zero_attn: bool, dropout_p: float, out_proj_weight: Tensor, out_proj_bias: Tensor | None,
    training: bool = True, key_padding_mask: Tensor | None = None, need_weights: bool = True,
    attn_mask: Tensor | None = None, use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None, k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None, static_k: Tensor | None = None,
    static_v: Tensor | None = None, average_attn_weights: bool = True, is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """The body of `nn.MultiheadAttention` from functions that have rules of their own."""
    extras = {"bias_k": bias_k, "bias_v": bias_v, "static_k": static_k, "static_v": static_v}
    given = [name for name, value in extras.items() if value is not None]
    given += ["add_zero_attn"] if add_zero_attn else []
    if given:
        raise run.refuse("multi_head_attention_forward", f"with {', '.join(given)} has no rule")
    if training and dropout_p:
        raise run.refuse("multi_head_attention_forward", "is random: call model.eval()")
    batched = query.ndim == 3
    if not batched:
        query, key, value = (part.unsqueeze(1) for part in (query, key, value))
        if key_padding_mask is not None:
            key_padding_mask = key_padding_mask.unsqueeze(0)
    if use_separate_proj_weight:
        weights: Iterable[Tensor | None] = (q_proj_weight, k_proj_weight, v_proj_weight)
    else:
        assert in_proj_weight is not None
        weights = in_proj_weight.chunk(3)
    biases = (None, None, None) if in_proj_bias is None else in_proj_bias.chunk(3)
    head = embed_dim_to_check // num_heads

    def heads(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        x = F.linear(x, weight, bias)  # type: ignore[arg-type]
        return x.view(x.shape[0], x.shape[1], num_heads, head).permute(1, 2, 0, 3)

    with run:
        q, k, v = (
            heads(x, weight, bias)
            for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )
        scores = (q / math.sqrt(head)) @ k.mT
        if attn_mask is not None:
            if attn_mask.ndim == 3:
                attn_mask = attn_mask.view(-1, num_heads, *attn_mask.shape[1:])
            scores = _masked(scores, attn_mask)
        if key_padding_mask is not None:
            scores = _masked(scores, key_padding_mask[:, None, None, :])
        probabilities = F.softmax(scores, -1)
        mixed = (probabilities @ v).permute(2, 0, 1, 3).flatten(2)
        output = F.linear(mixed, out_proj_weight, out_proj_bias)
        shown = probabilities.mean(1) if average_attn_weights else probabilities
    if not batched:
        output, shown = output.squeeze(1), shown.squeeze(0)
    return output, shown if need_weights else None


def _masked(scores: Tensor, mask: Tensor) -> Tensor:
    """Scores under a mask of `nn.MultiheadAttention`: True, or what is added, hides."""
    return scores.masked_fill(mask, -math.inf) if mask.dtype == torch.bool else scores + mask


_POOLS = [
    f"{kind}max_pool{n}d{suffix}"
    for kind in ("", "adaptive_")
    for n in (1, 2, 3)
    for suffix in ("", "_with_indices")
]
_DATA_GETTER = torch.Tensor.data.__get__  # type: ignore[attr-defined]
_RULES: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(POINTWISE, _pointwise),
    **dict.fromkeys(_POOLS, _max_pool),
    **dict.fromkeys(_COMPARISONS, _frozen),
    **dict.fromkeys(("softmax", "softmin", "log_softmax"), _frozen),
    **dict.fromkeys(_DROPOUTS, _dropout),
    **dict.fromkeys(("max", "min"), _extreme),
    **dict.fromkeys(("amax", "amin"), _extremes),
    **dict.fromkeys(("maximum", "minimum"), _larger),
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
    "normalize": _normalize,
    "scaled_dot_product_attention": _attention,
    "multi_head_attention_forward": _multi_head_attention,
    "detach": _alias,
}
