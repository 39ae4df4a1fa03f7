"""Pattention: a layer of key and value parameter tokens that can be enlarged while it is trained.

Growth appends rows to both matrices. New keys of zero leave every row norm and every old score as
they were and score 0 themselves (GeLU(0) = 0), so the function stays the same for any new values;
the new values must not be zero too, or neither would ever have a gradient. The scale stays what it
was at construction and is saved with the weights. Source: TokenFormer, arXiv 2410.23168.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rankone._arguments import check_size
from rankone.nn.functional import check_norm, check_score_numbers, pattention
from rankone.ops.checks import check_floating, check_tensor, shape_of

INITS = ("zeros", "normal")

# Standard deviation of initial keys, and of initial values of a layer on its own.
INIT_STD = 0.02


class Pattention(nn.Module):
    """Attention of tokens over learned parameter tokens, in place of a linear map.

    y = S V with S a score of A = x K^T; see :func:`rankone.nn.functional.pattention`.

    Args:
        in_features: width of the input and the key tokens.
        out_features: width of the output and the value tokens.
        num_tokens: number of parameter tokens.
        norm: ``"l2_gelu"``, ``"gelu_l2"`` or ``"softmax"``.
        scale: the paper's tau; default sqrt(num_tokens). It stays that when the layer grows and is
            part of the state dict, as a float64 scalar that no cast of the layer rounds.
        eps: added inside the root of the row norm.
        key_init_std: standard deviation of initial keys.
        value_init_std: of initial values; default 0.02.
        dropout: share of the scores that is zeroed in training mode.
        device, dtype: of the parameters; torch's defaults where None.

    Attributes:
        key_param_tokens: (num_tokens, in_features).
        value_param_tokens: (num_tokens, out_features).
        scale: tau, a float.

    Shapes:
        (..., in_features) to (..., out_features).

    Raises:
        ValueError: for sizes below 1, an unknown norm, or numbers out of range.

    Source: "TokenFormer: Rethinking Transformer Scaling with Tokenized Model Parameters",
    arXiv 2410.23168. Scale and new keys as here keep the function when the layer grows; where the
    paper's code differs, an option of :meth:`grow` does what it does.

    Example:
        >>> import torch
        >>> from rankone.nn import Pattention
        >>> layer = Pattention(8, 4, 16)
        >>> x = torch.randn(2, 5, 8)
        >>> before = layer(x)
        >>> _ = layer.grow(16)
        >>> layer.num_tokens, torch.allclose(layer(x), before, atol=1e-6)
        (32, True)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        num_tokens: int,
        *,
        norm: str = "l2_gelu",
        scale: float | None = None,
        eps: float = 1e-6,
        key_init_std: float = INIT_STD,
        value_init_std: float | None = None,
        dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        for name, size in (
            ("in_features", in_features),
            ("out_features", out_features),
            ("num_tokens", num_tokens),
        ):
            check_size(name, size)
        check_norm(norm)
        self.in_features = in_features
        self.out_features = out_features
        self.norm = norm
        self.scale = math.sqrt(num_tokens) if scale is None else float(scale)
        self.eps = eps
        self.dropout = dropout
        self.key_init_std = key_init_std
        self.value_init_std = INIT_STD if value_init_std is None else value_init_std
        check_score_numbers(self.scale, eps, dropout)
        for name in ("key_init_std", "value_init_std"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least 0 and finite, got {getattr(self, name)}")
        self.key_param_tokens = nn.Parameter(
            torch.empty(num_tokens, in_features, device=device, dtype=dtype)
        )
        self.value_param_tokens = nn.Parameter(
            torch.empty(num_tokens, out_features, device=device, dtype=dtype)
        )
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw keys and values anew from N(0, key_init_std^2) and N(0, value_init_std^2)."""
        nn.init.normal_(self.key_param_tokens, std=self.key_init_std)
        nn.init.normal_(self.value_param_tokens, std=self.value_init_std)

    @property
    def num_tokens(self) -> int:
        """Number of parameter tokens; :meth:`grow` adds to it."""
        return self.key_param_tokens.shape[0]

    def forward(self, x: Tensor) -> Tensor:
        check_tensor("x", x)
        check_floating("x", x)
        if x.ndim < 1 or x.shape[-1] != self.in_features:
            raise ValueError(
                f"x must have in_features = {self.in_features} channels on its last axis, "
                f"got {x.shape[-1] if x.ndim else 'a scalar'} (shape {shape_of(x)})"
            )
        return pattention(
            x,
            self.key_param_tokens,
            self.value_param_tokens,
            scale=self.scale,
            norm=self.norm,
            eps=self.eps,
            dropout=self.dropout if self.training else 0.0,
        )

    def grow(
        self,
        num_new: int,
        *,
        key_init: str = "zeros",
        value_init: str = "normal",
        rescale: bool = False,
        allow_function_change: bool = False,
        optimizer: torch.optim.Optimizer | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[nn.Parameter, nn.Parameter]:
        """Append parameter tokens; by default the function stays what it is.

        Both parameters are replaced by longer ones: an optimizer that is not given here goes on
        with the old ones, which the layer no longer has.

        Args:
            num_new: tokens to append.
            key_init: ``"zeros"``, or ``"normal"`` for new keys as at construction, which changes
                the function (the paper's checkpoint loader).
            value_init: ``"normal"`` for new values as at construction, or ``"zeros"``, which with
                zero keys never learns: the gradients of both are 0.
            rescale: set the scale to sqrt(num_tokens) of the grown layer, which changes the
                function (the paper's code).
            allow_function_change: let a layer with ``norm="softmax"`` grow; tokens with zero keys
                take a share of a softmax.
            optimizer: the optimizer of the old parameters. It gets the new ones in their place;
                what it keeps an entry of a parameter for (moments, momentum) keeps its old rows bit
                for bit and has zeros for the new; what it keeps a scalar for (steps) stays.
            generator: source of randomness of the new tokens.

        Returns:
            Old parameter to new, keys then values.

        Raises:
            ValueError: for fewer than 1 token, an unknown initialisation, a softmax layer without
                ``allow_function_change``, or an optimizer that does not hold the parameters. The
                layer is then as it was.
            TypeError: for an optimizer that is no ``torch.optim.Optimizer``.
        """
        growth = Growth(
            key_init=key_init,
            value_init=value_init,
            rescale=rescale,
            allow_function_change=allow_function_change,
            optimizer=optimizer,
            generator=generator,
        )
        growth.check(self, num_new)
        return growth.apply(self, num_new)

    def get_extra_state(self) -> Tensor:
        """The scale, as a float64 scalar."""
        return torch.tensor(self.scale, dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        self.scale = float(state)

    def extra_repr(self) -> str:
        return (
            f"{self.in_features}, {self.out_features}, num_tokens={self.num_tokens}, "
            f"norm={self.norm!r}, scale={self.scale:.6g}"
        )


@dataclass(frozen=True, kw_only=True)
class Growth:
    """How layers grow: the options of :meth:`Pattention.grow`, checked before anything changes."""

    key_init: str = "zeros"
    value_init: str = "normal"
    rescale: bool = False
    allow_function_change: bool = False
    optimizer: torch.optim.Optimizer | None = None
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        for name in ("key_init", "value_init"):
            if getattr(self, name) not in INITS:
                raise ValueError(
                    f"{name} must be one of {list(INITS)}, got {getattr(self, name)!r}"
                )
        if self.optimizer is not None and not isinstance(self.optimizer, torch.optim.Optimizer):
            raise TypeError(
                f"optimizer must be a torch.optim.Optimizer, got {type(self.optimizer).__name__}"
            )

    def check(self, layer: Pattention, num_new: int) -> None:
        """Refuse what :meth:`apply` could not do."""
        check_size("num_new", num_new)
        if layer.norm == "softmax" and not self.allow_function_change:
            raise ValueError(
                "norm='softmax' is changed by every new token; give allow_function_change=True to "
                "grow it all the same"
            )
        if self.optimizer is not None:
            held = {id(parameter) for parameter in _held(self.optimizer)}
            for name, parameter in layer.named_parameters():
                if parameter.requires_grad and id(parameter) not in held:
                    raise ValueError(
                        f"optimizer must hold the parameters of the layer, got one without {name}"
                    )

    def apply(self, layer: Pattention, num_new: int) -> dict[nn.Parameter, nn.Parameter]:
        replaced = {}
        for name, init, std in (
            ("key_param_tokens", self.key_init, layer.key_init_std),
            ("value_param_tokens", self.value_init, layer.value_init_std),
        ):
            old = getattr(layer, name)
            new = _longer_parameter(old, self._new_rows(old, num_new, init, std))
            setattr(layer, name, new)
            replaced[old] = new
        if self.rescale:
            layer.scale = math.sqrt(layer.num_tokens)
        if self.optimizer is not None:
            _replace_in_optimizer(self.optimizer, replaced)
        return replaced

    def _new_rows(self, like: Tensor, num_new: int, init: str, std: float) -> Tensor:
        rows = like.detach().new_zeros(num_new, like.shape[1])
        if init == "zeros":
            return rows
        if self.generator is None:
            return rows.normal_(std=std)
        drawn = torch.empty_like(rows, device=self.generator.device)
        return drawn.normal_(std=std, generator=self.generator).to(rows.device)


def _longer_parameter(old: nn.Parameter, rows: Tensor) -> nn.Parameter:
    new = nn.Parameter(torch.cat([old.detach(), rows]), requires_grad=old.requires_grad)
    # Marks such as the one that spares a parameter weight decay.
    new.__dict__.update(old.__dict__)
    if old.grad is not None:
        new.grad = _with_zero_rows(old.grad.detach(), len(rows))
    return new


def _with_zero_rows(tensor: Tensor, number: int) -> Tensor:
    return torch.cat([tensor, tensor.new_zeros(number, *tensor.shape[1:])])


def _held(optimizer: torch.optim.Optimizer) -> Iterable[nn.Parameter]:
    return (parameter for group in optimizer.param_groups for parameter in group["params"])


def _replace_in_optimizer(
    optimizer: torch.optim.Optimizer, replaced: dict[nn.Parameter, nn.Parameter]
) -> None:
    by_id = {id(old): new for old, new in replaced.items()}
    for group in optimizer.param_groups:
        group["params"] = [by_id.get(id(entry), entry) for entry in group["params"]]
    for old, new in replaced.items():
        if old in optimizer.state:
            optimizer.state[new] = {
                name: _grown_state(entry, old, new)
                for name, entry in optimizer.state.pop(old).items()
            }


def _grown_state(entry: object, old: nn.Parameter, new: nn.Parameter) -> object:
    """Zero rows for what has one row a token, in full or reduced over its channels."""
    if not isinstance(entry, Tensor) or entry.ndim != old.ndim:
        return entry
    if entry.shape[0] != old.shape[0] or entry.shape[1] not in (1, old.shape[1]):
        return entry
    return _with_zero_rows(entry, new.shape[0] - old.shape[0])
