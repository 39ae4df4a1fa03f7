"""Interchange interventions on a network: swap aligned coordinates, map back, run the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rankone._arguments import check_instance
from rankone.interpret._alignments import check_partitions
from rankone.interpret._causal_models import Interventions, check_count, check_interventions
from rankone.interpret._sites import Site, check_site, frozen, read_in_batches

# Hidden states of a set of interventions are kept in memory up to this.
MAX_KEPT_BYTES = 2**30


def interchange(
    site: Site,
    alignment: nn.Module,
    partitions: Sequence[Sequence[int]],
    interventions: Interventions,
) -> Tensor:
    """The network's logits after the coordinates of each masked variable came from its source.

    Differentiable in the alignment's parameters. The network runs in the mode it is in.

    Args:
        site: where the hidden states (n, d) are.
        alignment: module with ``forward`` and ``inverse``, (n, d) -> (n, d).
        partitions: one list of coordinates a variable, disjoint.
        interventions: base, sources and mask; the label is not used.

    Returns:
        Logits (n, c).

    Raises:
        ValueError: for shapes that do not fit, or partitions that overlap, are empty, lie outside
            0 to d - 1 or are not one a variable.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from rankone.interpret.causal_abstraction import (
        ...     IdentityAlignment, Interventions, SplitSite, interchange)
        >>> site = SplitSite(nn.Identity(), nn.Identity())
        >>> swaps = Interventions(torch.zeros(1, 3), torch.ones(1, 1, 3), torch.tensor([[True]]),
        ...                       torch.tensor([0]))
        >>> interchange(site, IdentityAlignment(), [[1]], swaps)
        tensor([[0., 1., 0.]])
    """
    check_site(site)
    check_instance("interventions", interventions, Interventions)
    base, sources, mask = interventions.base, interventions.sources, interventions.mask
    check_interventions(base, sources, mask, mask.shape[-1])
    n = len(base)
    states = site.read(torch.cat((base, sources[mask])))
    groups = check_partitions(partitions, states.shape[1], mask.shape[1])
    return _swapped(site, alignment, groups, base, states[:n], states[n:], mask)


def interchange_intervention_accuracy(
    site: Site,
    alignment: nn.Module,
    partitions: Sequence[Sequence[int]],
    interventions: Interventions,
    batch_size: int = 4096,
) -> float:
    """IIA: how often the network under interchange gives the algorithm's counterfactual label.

    The network is in eval mode meanwhile. With an IIA p of n interventions its standard error is
    sqrt(p (1 - p) / n).

    Args:
        site, alignment, partitions, interventions: as in :func:`interchange`.
        batch_size: interventions at a time.

    Returns:
        The fraction, 0 to 1.

    Raises:
        ValueError: as in :func:`interchange`, or for no interventions.

    Example:
        >>> from rankone.interpret.causal_abstraction import *
        >>> task = hierarchical_equality()
        >>> drawn = sample_interventions(task.sampler, task.causal_models["both_equality"], 100)
        >>> iia = interchange_intervention_accuracy(
        ...     EqualityMLP().site(3), IdentityAlignment(), [range(8), range(8, 16)], drawn)
        >>> 0 <= iia <= 1
        True
    """
    check_site(site)
    check_count("batch_size", batch_size)
    check_labelled(interventions)
    right = 0
    with torch.no_grad(), frozen(site):
        for start in range(0, len(interventions), batch_size):
            batch = interventions.select(slice(start, start + batch_size))
            logits = interchange(site, alignment, partitions, batch)
            right += int((logits.argmax(dim=1) == batch.label).sum())
    return right / len(interventions)


class States:
    """Interventions with the hidden states, which do not change while the network is frozen.

    They are read once and kept where they fit, and read anew for every batch otherwise.

    Attributes:
        sample: hidden states of the bases (m, d), of all where they are kept.
        kept: whether they are.
    """

    def __init__(self, site: Site, interventions: Interventions, batch_size: int) -> None:
        base, sources, mask = interventions.base, interventions.sources, interventions.mask
        self.site = site
        self.x = base
        self.sources = sources
        self.mask = mask
        self.label = interventions.label
        self.sample = _finite(read_in_batches(site, base[:batch_size], batch_size))
        per_row = (1 + mask.shape[1]) * self.sample[0].numel() * self.sample.element_size()
        self.kept = len(base) * per_row <= MAX_KEPT_BYTES
        if self.kept:
            if len(base) > batch_size:
                rest = read_in_batches(site, base[batch_size:], batch_size)
                self.sample = torch.cat((self.sample, _finite(rest)))
            self.source = self.sample.new_zeros((*mask.shape, self.sample.shape[1]))
            if mask.any():
                self.source[mask] = _finite(read_in_batches(site, sources[mask], batch_size))

    def __len__(self) -> int:
        return len(self.x)

    def swapped(
        self, alignment: nn.Module, groups: list[list[int]], rows: Tensor | slice
    ) -> tuple[Tensor, Tensor]:
        """Logits and labels of some rows."""
        if isinstance(rows, Tensor):
            rows = rows.to(self.mask.device)
        mask, label = self.mask[rows], self.label[rows]
        x = self.x[rows]
        if self.kept:
            base, used = self.sample[rows], self.source[rows][mask]
        else:
            with torch.no_grad():
                states = _finite(self.site.read(torch.cat((x, self.sources[rows][mask]))))
            base, used = states[: len(x)], states[len(x) :]
        logits = _swapped(self.site, alignment, groups, x, base, used, mask)
        if len(label) and label.max() >= logits.shape[1]:
            raise ValueError(
                f"label must lie within the network's {logits.shape[1]} classes, "
                f"got {label.max().item()}"
            )
        return logits, label

    def evaluate(
        self, alignment: nn.Module, groups: list[list[int]], batch_size: int
    ) -> tuple[float, float]:
        """Mean cross-entropy, and IIA."""
        loss, right = 0.0, 0
        with torch.no_grad():
            for start in range(0, len(self), batch_size):
                logits, label = self.swapped(alignment, groups, slice(start, start + batch_size))
                loss += functional.cross_entropy(logits, label, reduction="sum").item()
                right += int((logits.argmax(dim=1) == label).sum())
        return loss / len(self), right / len(self)


def _swapped(
    site: Site,
    alignment: Any,
    groups: list[list[int]],
    x: Tensor,
    base: Tensor,
    used: Tensor,
    mask: Tensor,
) -> Tensor:
    """Logits with base states (n, d) and the states of the used sources, in the order of mask."""
    n = len(base)
    aligned = alignment(torch.cat((base, used)))
    z = aligned[:n].clone()
    row, variable = mask.nonzero(as_tuple=True)
    for v, group in enumerate(groups):
        of_variable = (variable == v).nonzero()[:, 0]
        columns = torch.tensor(group, device=z.device)
        z[row[of_variable][:, None], columns] = aligned[n + of_variable][:, columns]
    return site.run(x, alignment.inverse(z))


def _finite(states: Tensor) -> Tensor:
    if not torch.isfinite(states).all():
        raise ValueError("hidden states at site must be finite, got entries that are not")
    return states


def check_labelled(interventions: Interventions) -> None:
    """Raise unless there are interventions, of fitting shapes, with integer labels from 0 on."""
    if not isinstance(interventions, Interventions):
        raise TypeError(f"interventions must be Interventions, got {type(interventions).__name__}")
    n, label, mask = len(interventions), interventions.label, interventions.mask
    if not n:
        raise ValueError("interventions must hold at least one, got none")
    check_interventions(interventions.base, interventions.sources, mask, mask.shape[-1])
    if label.is_floating_point() or label.dtype == torch.bool:
        raise TypeError(f"label must be integers, got {label.dtype}")
    if label.shape != (n,):
        raise ValueError(f"label must have shape {(n,)}, got {tuple(label.shape)}")
    if label.min() < 0:
        raise ValueError(f"label must be at least 0, got {label.min().item()}")
