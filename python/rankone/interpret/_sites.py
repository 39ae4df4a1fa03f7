"""Places inside a network where a hidden state is read and replaced.

A site has ``read(x)``, the hidden states (n, d); ``run(x, h)``, the logits (n, c) with ``h`` put in
their place; and ``networks``, the modules whose parameters and mode must not change meanwhile.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

# Modules that hold others and are never called themselves.
_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


class Site(Protocol):
    """What :class:`SplitSite` and :class:`HookSite` share."""

    @property
    def networks(self) -> tuple[nn.Module, ...]: ...

    def read(self, x: Tensor) -> Tensor: ...

    def run(self, x: Tensor, h: Tensor) -> Tensor: ...


class SplitSite:
    """A network given as two functions.

    Args:
        head: inputs (n, ...) -> hidden states (n, d).
        tail: hidden states (n, d) -> logits (n, c).
        network: the module whose parameters are held fixed during a search. By default those found
            in ``head`` and ``tail``: modules, their bound methods, and modules that a function
            refers to.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from rankone.interpret.causal_abstraction import SplitSite
        >>> site = SplitSite(nn.Linear(3, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 2)))
        >>> x = torch.randn(5, 3)
        >>> site.run(x, site.read(x)).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        head: Callable[[Tensor], Tensor],
        tail: Callable[[Tensor], Tensor],
        network: nn.Module | None = None,
    ) -> None:
        for name, function in (("head", head), ("tail", tail)):
            if not callable(function):
                raise TypeError(f"{name} must be callable, got {type(function).__name__}")
        self.head = head
        self.tail = tail
        self.network = network

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """The modules that the two halves are made of."""
        if self.network is not None:
            return (self.network,)
        return tuple({id(m): m for f in (self.head, self.tail) for m in _modules_of(f)}.values())

    def read(self, x: Tensor) -> Tensor:
        """Hidden states (n, d) of inputs ``x``."""
        h = self.head(x)
        if h.ndim != 2:
            raise ValueError(f"head must give hidden states of shape (n, d), got {tuple(h.shape)}")
        return h

    def run(self, x: Tensor, h: Tensor) -> Tensor:
        """Logits (n, c) from hidden states ``h`` (n, d); ``x`` is not looked at."""
        return _checked_logits(self.tail(h), "tail")


class HookSite:
    """The output of one submodule of any network, by forward hooks: the network is not rewritten.

    Supported is every submodule that runs exactly once a forward pass and returns a floating
    tensor, or a tuple that begins with one (a transformer block), whose first entry is replaced.
    Refused, by name: containers that are never called, recurrent layers (their second output holds
    the state again, which would stay unreplaced), other kinds of output, and modules that run more
    than once or not at all. What flows around the submodule, such as a residual branch or other
    positions, keeps the base's values.

    Args:
        model: the network; ``model(x)`` gives logits (n, c), or an object that has them as
            ``.logits``.
        module: the submodule, or its dotted name.
        position: index into the second dimension of an output (n, t, d); None for one (n, d).
        logits: from what the model returns to logits (n, c), where it is neither of the above.

    Raises:
        TypeError: for a model that is no module, or a submodule that is not supported.
        ValueError: for a submodule that the model does not have.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from rankone.interpret.causal_abstraction import HookSite
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> site, x = HookSite(model, "1"), torch.randn(5, 3)
        >>> torch.equal(site.run(x, site.read(x)), model(x))
        True
    """

    def __init__(
        self,
        model: nn.Module,
        module: nn.Module | str,
        position: int | None = None,
        logits: Callable[[Any], Tensor] | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
        names = {id(m): name for name, m in model.named_modules()}
        if isinstance(module, str):
            if module not in names.values():
                raise ValueError(f"module must name a submodule of model, got {module!r}")
            module = model.get_submodule(module)
        elif id(module) not in names:
            raise ValueError(
                f"module must be a submodule of model, got a {type(module).__name__} that is not"
            )
        self.model = model
        self.module = module
        self.position = position
        self.logits = logits
        self._name = f"{names[id(module)] or 'model'} ({type(module).__name__})"
        if isinstance(module, _CONTAINERS):
            raise TypeError(f"module must be called by the model; {self._name} only holds others")
        if isinstance(module, nn.RNNBase):
            raise TypeError(
                f"module must have one output; {self._name} returns its final state as well, "
                "which would stay unreplaced: hook the module that follows it"
            )

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """The model."""
        return (self.model,)

    def read(self, x: Tensor) -> Tensor:
        """Hidden states (n, d) of inputs ``x``; the model runs only as far as the submodule."""
        found: list[Tensor] = []

        def keep(module: nn.Module, args: Any, output: Any) -> None:
            found.append(self._states(output).clone())
            raise _Reached

        handle = self.module.register_forward_hook(keep)
        try:
            self.model(x)
        except _Reached:
            pass
        finally:
            handle.remove()
        if not found:
            raise self._never_ran()
        if len(found[0]) != len(x):
            raise ValueError(
                f"module must return one row an input, {len(x)} in all; {self._name} returned "
                f"{len(found[0])}"
            )
        return found[0]

    def run(self, x: Tensor, h: Tensor) -> Tensor:
        """Logits (n, c) of inputs ``x`` with the hidden states replaced by ``h`` (n, d)."""
        calls = 0

        def replace(module: nn.Module, args: Any, output: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > 1:
                raise ValueError(
                    f"module must run once in a forward pass; {self._name} runs more often"
                )
            return self._replaced(output, h)

        handle = self.module.register_forward_hook(replace)
        try:
            output = self.model(x)
        finally:
            handle.remove()
        if not calls:
            raise self._never_ran()
        if self.logits is not None:
            output = self.logits(output)
        elif not isinstance(output, Tensor):
            output = getattr(output, "logits", output)
        return _checked_logits(output, "model")

    def _never_ran(self) -> ValueError:
        return ValueError(f"module must run in model(x); {self._name} did not")

    def _tensor(self, output: Any) -> Tensor:
        tensor = output[0] if isinstance(output, tuple) and output else output
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            kind = tensor.dtype if isinstance(tensor, Tensor) else type(output).__name__
            raise TypeError(
                "module must return a floating tensor or a tuple that begins with one; "
                f"{self._name} returned {kind}"
            )
        dims = 2 if self.position is None else 3
        if tensor.ndim != dims:
            shape = "(n, d)" if self.position is None else "(n, t, d)"
            hint = "; give position" if self.position is None and tensor.ndim == 3 else ""
            raise ValueError(
                f"module must return shape {shape} with position={self.position}; {self._name} "
                f"returned {tuple(tensor.shape)}{hint}"
            )
        if self.position is not None and not -tensor.shape[1] <= self.position < tensor.shape[1]:
            raise ValueError(
                f"position must be within the {tensor.shape[1]} positions of {self._name}, "
                f"got {self.position}"
            )
        return tensor

    def _states(self, output: Any) -> Tensor:
        tensor = self._tensor(output)
        return tensor if self.position is None else tensor[:, self.position]

    def _replaced(self, output: Any, h: Tensor) -> Any:
        tensor = self._tensor(output)
        old = self._states(output)
        if h.shape != old.shape:
            raise ValueError(f"h must have shape {tuple(old.shape)}, got {tuple(h.shape)}")
        if self.position is None:
            new = h.clone()  # a following in-place module must not write into the caller's
        else:
            new = tensor.clone()
            new[:, self.position] = h
        if not isinstance(output, tuple):
            return new
        rest = (new, *output[1:])
        return type(output)(*rest) if hasattr(output, "_fields") else rest


class _Reached(BaseException):
    """Ends a forward pass at the submodule; no model's own ``except Exception`` takes it."""


def check_site(site: Any) -> None:
    """Raise unless ``site`` can be read and run."""
    if not all(callable(getattr(site, name, None)) for name in ("read", "run")):
        raise TypeError(
            f"site must be a SplitSite or HookSite, with read and run, got {type(site).__name__}"
        )


@contextmanager
def frozen(site: Site) -> Iterator[None]:
    """The site's networks in eval mode and without trainable parameters, restored on leaving."""
    networks = getattr(site, "networks", ())
    modes = {m: m.training for network in networks for m in network.modules()}
    trainable = {p: p.requires_grad for network in networks for p in network.parameters()}
    try:
        for network in networks:
            network.eval()
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for parameter, flag in trainable.items():
            parameter.requires_grad_(flag)


def read_in_batches(site: Site, x: Tensor, batch_size: int) -> Tensor:
    """Hidden states (n, d) of inputs ``x`` without gradients."""
    with torch.no_grad():
        return torch.cat([site.read(rows) for rows in x.split(batch_size)])


def _modules_of(function: Any) -> Iterator[nn.Module]:
    """Modules that a callable is, is bound to, or refers to by name."""
    if isinstance(function, nn.Module):
        yield function
    elif isinstance(function, functools.partial):
        for part in (function.func, *function.args, *function.keywords.values()):
            yield from _modules_of(part)
    elif inspect.ismethod(function):
        yield from _modules_of(function.__self__)
    elif inspect.isfunction(function):
        names = inspect.getclosurevars(function)
        for value in (*names.nonlocals.values(), *names.globals.values()):
            if isinstance(value, nn.Module):
                yield value


def _checked_logits(logits: Any, name: str) -> Tensor:
    if not isinstance(logits, Tensor):
        raise TypeError(f"{name} must give a tensor of logits, got {type(logits).__name__}")
    if logits.ndim != 2:
        raise ValueError(f"{name} must give logits of shape (n, c), got {tuple(logits.shape)}")
    return logits
