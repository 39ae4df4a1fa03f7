"""Algorithms with named integer variables, and the interchange interventions that test them.

An algorithm computes variables v_1..v_V from an input and a label from the variables. Intervening
on a base input takes some of the variables from other inputs, a source of its own for each.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from numbers import Real

import torch
from sklearn.utils import check_random_state
from torch import Tensor

from rankone._arguments import check_instance
from rankone._repr import short_repr

Sampler = Callable[[int, torch.Generator], Tensor]

# Rounds of drawing before an algorithm counts as unable to give balanced interventions.
_BALANCING_ROUNDS = 200


@dataclass
class CausalModel:
    """An algorithm: input -> integer variables -> label.

    Args:
        variables: for each variable, in the order of the partitions, a function from inputs
            (n, ...) to integers or booleans (n,).
        output: from the values of all variables, (n,) each by name, to labels (n,).
        context: further variables, which ``output`` may read and which no intervention touches:
            they always come from the base.

    Raises:
        ValueError: for no variable, or a name that is both a variable and context.

    Example:
        >>> import torch
        >>> from rankone.interpret.causal_abstraction import CausalModel
        >>> both = CausalModel(
        ...     {"a": lambda x: x[:, 0] > 0, "b": lambda x: x[:, 1] > 0},
        ...     lambda v: v["a"] & v["b"],
        ... )
        >>> both.run(torch.tensor([[1.0, 1.0], [1.0, -1.0]])).tolist()
        [1, 0]
    """

    variables: dict[str, Callable[[Tensor], Tensor]]
    output: Callable[[dict[str, Tensor]], Tensor]
    context: dict[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.variables:
            raise ValueError("variables must hold at least one variable, got none")
        both = sorted(set(self.variables) & set(self.context))
        if both:
            raise ValueError(f"context must not repeat a variable, got {', '.join(both)} in both")

    def values(self, x: Tensor) -> dict[str, Tensor]:
        """Values of every variable, context included, on inputs ``x`` (n, ...): (n,) int64 each."""
        functions = {**self.variables, **self.context}
        return {name: _integers(name, function(x), len(x)) for name, function in functions.items()}

    def run(self, x: Tensor) -> Tensor:
        """Labels (n,), int64, of inputs ``x`` (n, ...)."""
        return self.label(self.values(x), len(x))

    def label(self, values: dict[str, Tensor], n: int) -> Tensor:
        """Labels (n,), int64, from the values of the variables, (n,) each."""
        return _integers("output", self.output(values), n)

    def intervene(self, base: Tensor, sources: Tensor, mask: Tensor) -> Tensor:
        """Labels after variable i of the base took its value on source i, where ``mask`` says so.

        Args:
            base: inputs (n, ...).
            sources: inputs (n, V, ...), one a variable.
            mask: (n, V) bool.

        Returns:
            Labels (n,), int64.

        Raises:
            ValueError: for shapes that do not fit.
            TypeError: for a mask that is not boolean.
        """
        check_interventions(base, sources, mask, len(self.variables))
        values = self.values(base)
        for i, (name, function) in enumerate(self.variables.items()):
            taken = _integers(name, function(sources[:, i]), len(base))
            values[name] = torch.where(mask[:, i], taken, values[name])
        return self.label(values, len(base))


@dataclass
class Interventions:
    """Interchange interventions and what the algorithm answers.

    Attributes:
        base: inputs (n, ...).
        sources: inputs (n, V, ...), one a variable.
        mask: (n, V) bool, which variables are taken from their sources.
        label: the algorithm's counterfactual labels (n,), int64.
    """

    __repr__ = short_repr

    base: Tensor
    sources: Tensor
    mask: Tensor
    label: Tensor

    def __len__(self) -> int:
        return len(self.base)

    def select(self, rows: Tensor | slice) -> Interventions:
        """The interventions of these rows, by index, slice or (n,) bool."""
        return Interventions(self.base[rows], self.sources[rows], self.mask[rows], self.label[rows])

    def to(self, device: torch.device | str) -> Interventions:
        """The same interventions on ``device``."""
        fields = (self.base, self.sources, self.mask, self.label)
        return Interventions(*(entry.to(device) for entry in fields))

    def sources_differ(self) -> Tensor:
        """Where every source that is used differs from the base: (n,) bool.

        A source equal to the base tests nothing: swapping its variable changes no state.
        """
        n, V = self.mask.shape
        same = (self.sources == self.base[:, None]).reshape(n, V, -1).all(dim=2)
        return ~(same & self.mask).any(dim=1)


def sample_interventions(
    sampler: Sampler,
    causal_model: CausalModel,
    n: int,
    mode: str | int = "any",
    random_state: int | None = 0,
    *,
    balanced: bool = False,
) -> Interventions:
    """Draw interventions: a base and one source a variable, all independent, and a mask.

    Args:
        sampler: ``sampler(n, generator)`` gives n inputs (n, ...).
        causal_model: the algorithm, which answers.
        n: number of interventions.
        mode: ``"any"``, a mask uniform over the 2^V - 1 that are not all False; ``"all"``, every
            variable; or the index of the one variable to take from its source.
        random_state: seed.
        balanced: keep draws until half of them change the algorithm's label of the base, so that a
            map that changes nothing is right half of the time.

    Returns:
        Interventions.

    Raises:
        ValueError: for an unknown mode, n below 1, or an algorithm whose label so rarely changes,
            or so rarely stays, that it cannot be balanced.

    Example:
        >>> from rankone.interpret.causal_abstraction import (
        ...     hierarchical_equality, sample_interventions)
        >>> task = hierarchical_equality()
        >>> drawn = sample_interventions(task.sampler, task.causal_models["both_equality"], 8)
        >>> drawn.base.shape, drawn.sources.shape, drawn.mask.any(dim=1).all().item()
        (torch.Size([8, 16]), torch.Size([8, 2, 16]), True)
    """
    n = check_count("n", n)
    check_instance("causal_model", causal_model, CausalModel)
    V = len(causal_model.variables)
    if isinstance(mode, bool) or not (
        mode in ("any", "all") or (isinstance(mode, int) and 0 <= mode < V)
    ):
        raise ValueError(f'mode must be "any", "all" or an integer from 0 to {V - 1}, got {mode!r}')
    generator = torch.Generator().manual_seed(seed_of(random_state))
    if not balanced:
        return _draw(sampler, causal_model, n, mode, generator)

    wanted = {False: n - n // 2, True: n // 2}
    kept: list[Interventions] = []
    for _ in range(_BALANCING_ROUNDS):
        drawn = _draw(sampler, causal_model, max(n, 64), mode, generator)
        changed = drawn.label != causal_model.run(drawn.base)
        for kind in (False, True):
            rows = (changed == kind).nonzero()[: wanted[kind], 0]
            wanted[kind] -= len(rows)
            kept.append(drawn.select(rows))
        if not any(wanted.values()):
            order = torch.randperm(n, generator=generator)
            return _joined(kept).select(order)
    raise ValueError(
        f"balanced must be False for this algorithm: after {_BALANCING_ROUNDS} rounds "
        f"{wanted[True]} interventions that change the label and {wanted[False]} that keep it "
        "were still missing"
    )


def _draw(
    sampler: Sampler, model: CausalModel, n: int, mode: str | int, generator: torch.Generator
) -> Interventions:
    V = len(model.variables)
    base = sampler(n, generator)
    sources = torch.stack([sampler(n, generator) for _ in range(V)], dim=1)
    if mode == "any":
        patterns = torch.randint(1, 2**V, (n, 1), generator=generator)
        mask = (patterns >> torch.arange(V)) % 2 == 1
    elif mode == "all":
        mask = torch.ones(n, V, dtype=torch.bool)
    else:
        mask = torch.zeros(n, V, dtype=torch.bool)
        mask[:, int(mode)] = True
    mask = mask.to(base.device)
    return Interventions(base, sources, mask, model.intervene(base, sources, mask))


def _joined(parts: Iterable[Interventions]) -> Interventions:
    columns = zip(*((p.base, p.sources, p.mask, p.label) for p in parts), strict=True)
    return Interventions(*(torch.cat(column) for column in columns))


def check_interventions(base: Tensor, sources: Tensor, mask: Tensor, n_variables: int) -> None:
    """Raise unless the tensors are those of interventions on ``n_variables`` variables."""
    n = len(base)
    if mask.dtype != torch.bool:
        raise TypeError(f"mask must be a tensor of torch.bool, got {mask.dtype}")
    if mask.ndim != 2:
        raise ValueError(f"mask must have shape (n, V), got {tuple(mask.shape)}")
    if mask.shape != (n, n_variables):
        raise ValueError(f"mask must have shape {(n, n_variables)}, got {tuple(mask.shape)}")
    expected = (n, n_variables, *base.shape[1:])
    if sources.shape != expected:
        raise ValueError(f"sources must have shape {expected}, got {tuple(sources.shape)}")


def check_count(name: str, value: int, least: int = 1) -> int:
    """``value`` as an integer of at least ``least``."""
    try:
        count = value.__index__()
    except AttributeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if isinstance(value, bool) or count < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
    return count


def check_real(name: str, value: float) -> float:
    """``value`` if it is a finite real number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a real number, got {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")
    return float(value)


def seed_of(random_state: int | None) -> int:
    """A seed for torch, from what scikit-learn takes as ``random_state``."""
    if isinstance(random_state, int) and not isinstance(random_state, bool) and random_state >= 0:
        return random_state
    return int(check_random_state(random_state).randint(2**31))


# torch's default generator belongs to all threads; weights are drawn from it one network at a time.
_SEEDING = threading.Lock()


@contextmanager
def seeded(seed: int, devices: Iterable[torch.device] = ()) -> Iterator[None]:
    """torch's default generators, of the CPU and of CUDA ``devices``, seeded and then restored."""
    indices = sorted({device.index or 0 for device in devices if device.type == "cuda"})
    with _SEEDING, torch.random.fork_rng(devices=indices):
        torch.default_generator.manual_seed(seed)
        for index in indices:
            torch.cuda.default_generators[index].manual_seed(seed)
        yield


def _integers(name: str, values: Tensor, n: int) -> Tensor:
    if not isinstance(values, Tensor):
        raise TypeError(f"{name} must give a tensor, got {type(values).__name__}")
    if values.is_floating_point() or values.is_complex():
        raise TypeError(f"{name} must give integers or booleans, got {values.dtype}")
    if values.shape != (n,):
        raise ValueError(f"{name} must give shape {(n,)}, got {tuple(values.shape)}")
    return values.long()
