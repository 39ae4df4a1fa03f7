"""Sections of a network between named submodules, by forward hooks: the network is not rewritten.

A section runs the whole network with the output of one submodule replaced and reads that of the
next, so that everything later must depend on the input through the replaced output alone. That is
checked on the user's data: a skip around a submodule is an error and not an approximation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rankone.interpret._gradients import frozen_copy

# Data points that are run with each other's activations, to see that nothing flows around them.
_PROBED_ROWS = 8


class _Reached(BaseException):
    """Ends a forward pass at the submodule that is read."""


class HookedSection(nn.Module):
    """From the output of one submodule to that of a later one, or to the network's output.

    Args:
        model: the network.
        start: name of the submodule whose output the section is given.
        stop: name of the submodule whose output it returns; None for the network's output.
        example: one input (1, ...) of the network, which is what its earlier part runs on.
    """

    example: Tensor

    def __init__(self, model: nn.Module, start: str, stop: str | None, example: Tensor) -> None:
        super().__init__()
        self.model = model
        self.start = start
        self.stop = stop
        self.register_buffer("example", example)

    def forward(self, h: Tensor) -> Tensor:
        """Activations at ``stop`` (n, ...) for the activations h (n, ...) at ``start``."""
        inputs = self.example.expand(len(h), *self.example.shape[1:])
        return run_between(self.model, inputs, self.start, h, self.stop)


def module_sections(model: nn.Module, names: Sequence[str], X: Any) -> tuple[list[Any], Tensor]:
    """Cut a network at the outputs of some of its submodules.

    Any module can be cut at that runs once a forward pass and returns one floating tensor. Node
    layer l is then the output of ``names[l]``, and the last one that of the network; they must
    follow each other such that the network reads what comes before a cut through it alone (in a
    residual network, cut where the branches have been added).

    Args:
        model: the network, a function of one tensor; dropout and batch normalisation in eval mode.
        names: dotted names of submodules, in the order in which they run.
        X: (n, ...) inputs of the network, such as tokens or images, at least two.

    Returns:
        The sections, and the activations of ``names[0]`` for X, to give to
        :meth:`InteractionBasis.fit`. The network is copied into the sections.

    Raises:
        TypeError: for a model that is not a module, and by name for a submodule that does not
            return one floating tensor.
        ValueError: by name for a submodule that the network does not have, that does not run or
            runs more than once, or that the network can read around; for no or repeated names, and
            fewer than two inputs.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from rankone.interpret.interaction_basis import InteractionBasis, module_sections
        >>> model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 5), nn.Tanh())
        >>> tokens = torch.arange(27).reshape(9, 3) % 9
        >>> sections, embedded = module_sections(model, ["1", "2"], tokens)
        >>> basis = InteractionBasis().fit(sections, embedded)
        >>> [len(layer.mean_) for layer in basis.layers_]
        [12, 5, 5]
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    names = [names] if isinstance(names, str) else list(names)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"names must be one or more different submodules, got {names}")
    known = dict(model.named_modules())
    for name in names:
        if not name or name not in known:
            raise ValueError(f"names must be submodules of the model, got {name!r}")
    inputs = torch.as_tensor(X)
    if inputs.ndim < 1 or len(inputs) < 2:
        raise ValueError("X must hold at least two inputs, to check the cuts with")
    floating = [p.dtype for p in model.parameters() if p.is_floating_point()]
    dtype = floating[0] if floating else torch.get_default_dtype()
    copied = frozen_copy(model, "model", dtype)
    if inputs.is_floating_point():
        inputs = inputs.to(dtype)
    with torch.no_grad():
        first = run_between(copied, inputs, None, None, names[0])
        stops = [*names[1:], None]
        sections = [
            HookedSection(copied, start, stop, inputs[:1].clone())
            for start, stop in zip(names, stops, strict=True)
        ]
        _check_cuts(copied, sections, inputs)
    return sections, first


def run_between(
    model: nn.Module, inputs: Tensor, start: str | None, h: Tensor | None, stop: str | None
) -> Tensor:
    """Output at ``stop`` of the inputs, with the output at ``start`` replaced by h."""
    calls: dict[str, int] = {}
    found: list[Tensor] = []

    def checked(name: str, output: Any) -> Tensor:
        calls[name] = calls.get(name, 0) + 1
        kind = type(model.get_submodule(name)).__name__
        if calls[name] > 1:
            raise ValueError(
                f"{name} ({kind}) must run once in a forward pass, but runs more often"
            )
        if not isinstance(output, Tensor) or not output.is_floating_point():
            got = output.dtype if isinstance(output, Tensor) else type(output).__name__
            raise TypeError(f"{name} ({kind}) must return one floating tensor, got {got}")
        return output

    def replace(module: nn.Module, args: Any, output: Any) -> Tensor:
        assert start is not None
        assert h is not None
        old = checked(start, output)
        if old.shape != h.shape:
            raise ValueError(
                f"activations at {start} must have shape {tuple(old.shape)}, got {tuple(h.shape)}"
            )
        return h.clone()  # a following in-place module must not write into the caller's

    def read(module: nn.Module, args: Any, output: Any) -> None:
        assert stop is not None
        found.append(checked(stop, output).clone())
        raise _Reached

    with _hooks(model, {start: replace, stop: read}):
        try:
            output = model(inputs)
        except _Reached:
            output = found[0]
    for name in (start, stop):
        if name is not None and name not in calls:
            where = f" before {stop}" if name == start and stop in calls else ""
            raise ValueError(
                f"{name} must run in the forward pass of the model{where}, but did not"
            )
    if not isinstance(output, Tensor):
        raise TypeError(f"model must return one tensor, got {type(output).__name__}")
    return output


@contextmanager
def _hooks(model: nn.Module, hooks: dict[str | None, Any]) -> Iterator[None]:
    handles = [
        model.get_submodule(name).register_forward_hook(hook)
        for name, hook in hooks.items()
        if name is not None
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _check_cuts(model: nn.Module, sections: Sequence[HookedSection], inputs: Tensor) -> None:
    """What a section returns must be decided by its activations, whatever the network's input."""
    inputs = inputs[:_PROBED_ROWS]
    others = inputs.flip(0)
    for section in sections:
        h = run_between(model, inputs, None, None, section.start)
        own, exchanged = (
            run_between(model, x, section.start, h, section.stop) for x in (inputs, others)
        )
        allowed = torch.finfo(own.dtype).eps ** 0.5 * float(own.abs().max())
        if float((own - exchanged).abs().max()) > allowed:
            end = "the output of the model" if section.stop is None else section.stop
            raise ValueError(
                f"{section.start} must be all that {end} depends on, but the input reaches it "
                "another way, such as a skip around it: cut behind the place where both meet"
            )
