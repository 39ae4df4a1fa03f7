"""Causal abstraction under alignment maps of growing power (arXiv 2507.08802).

A network implements an algorithm, the claim goes, if under some bijection of its hidden states the
swapping of coordinates between inputs changes its output as swapping variables changes the
algorithm's. Interchange intervention accuracy (IIA) is how often it does. The module measures it
for the identity, orthogonal, linear and reversible non-linear maps, and an exact lookup: as the
paper proves and its experiments show, powerful maps reach a high IIA on random networks too, so
that a high IIA says little without the map's class and a control.
"""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn
from torch.nn import functional

from rankone._arguments import check_instance
from rankone._namespace import public_names
from rankone._sweep import sweep
from rankone.interpret._alignments import (
    IdentityAlignment,
    LinearAlignment,
    LookupAlignment,
    RevNetAlignment,
    WhitenedAlignment,
    check_partitions,
)
from rankone.interpret._causal_models import (
    CausalModel,
    Interventions,
    check_count,
    check_real,
    sample_interventions,
    seed_of,
    seeded,
)
from rankone.interpret._equality_tasks import (
    EqualityMLP,
    Task,
    distributive_law,
    hierarchical_equality,
)
from rankone.interpret._interchange import (
    States,
    check_labelled,
    interchange,
    interchange_intervention_accuracy,
)
from rankone.interpret._sites import HookSite, Site, SplitSite, check_site, frozen

__all__ = [
    "CausalModel",
    "DistributedAlignmentSearch",
    "EqualityMLP",
    "HookSite",
    "IdentityAlignment",
    "Interventions",
    "LinearAlignment",
    "LookupAlignment",
    "RevNetAlignment",
    "SplitSite",
    "Task",
    "WhitenedAlignment",
    "alignment_ladder",
    "distributive_law",
    "hierarchical_equality",
    "interchange",
    "interchange_intervention_accuracy",
    "sample_interventions",
    "untrained_copy",
]

ALIGNMENTS = ("identity", "orthogonal", "linear", "revnet")

# Largest |phi^-1(phi(h)) - h| over the largest |h| that passes without a warning.
ROUND_TRIP_TOLERANCE = 1e-3

# Share of the training interventions held out where no validation set is given.
_VALIDATION_SHARE = 0.1


class DistributedAlignmentSearch(BaseEstimator):
    """Distributed alignment search: train an alignment map for interchange intervention accuracy.

    Minimises the cross-entropy of the intervened network against the algorithm's counterfactual
    labels over the map, with the network frozen and in eval mode. Adam; the rate falls where the
    training loss stalls; the map of the best validation loss is kept.

    From "The Non-Linear Representation Dilemma: Is Causal Abstraction Enough for Mechanistic
    Interpretability?" (arXiv 2507.08802); whitening is an addition of this project.

    Args:
        site: :class:`SplitSite` or :class:`HookSite`.
        partitions: one list of coordinates a variable, disjoint.
        alignment: ``"orthogonal"``, ``"linear"``, ``"revnet"``, ``"identity"``, or a module with
            ``forward`` and ``inverse``, which is copied.
        n_blocks, hidden, depth: of the reversible network.
        whiten: put a fixed whitening of the training bases' states before the map; of those of the
            first batch where all states would take more than 1 GiB.
        lr: Adam's rate.
        max_epochs: epochs at most.
        batch_size: interventions a step.
        early_stopping: epochs without an improvement of the validation loss by ``tol`` before the
            search stops.
        tol: what counts as an improvement.
        lr_patience, lr_factor: epochs without a better training loss before the rate is multiplied
            by the factor.
        random_state: seed of the map and the batches.
        warmup_steps: steps over which the rate rises linearly from 0.

    Attributes:
        alignment_: the fitted map.
        history_: a dictionary an epoch: epoch, train_loss, validation_loss, validation_iia, lr.
        n_epochs_: epochs run.
        n_parameters_: trainable numbers of the map.

    Example:
        >>> from rankone.interpret.causal_abstraction import *
        >>> task = hierarchical_equality()
        >>> model = task.causal_models["both_equality"]
        >>> train = sample_interventions(task.sampler, model, 500)
        >>> test = sample_interventions(task.sampler, model, 500, random_state=1)
        >>> search = DistributedAlignmentSearch(
        ...     EqualityMLP().site(1), [range(8), range(8, 16)], max_epochs=2)
        >>> 0 <= search.fit(train).score(test) <= 1
        True
    """

    def __init__(
        self,
        site: Site,
        partitions: Sequence[Sequence[int]],
        alignment: str | nn.Module = "orthogonal",
        n_blocks: int = 10,
        hidden: int | None = None,
        depth: int = 1,
        whiten: bool = False,
        lr: float = 1e-3,
        max_epochs: int = 50,
        batch_size: int = 6400,
        early_stopping: int = 5,
        tol: float = 1e-3,
        lr_patience: int = 10,
        lr_factor: float = 0.5,
        random_state: int | None = 0,
        warmup_steps: int = 0,
    ) -> None:
        self.site = site
        self.partitions = partitions
        self.alignment = alignment
        self.n_blocks = n_blocks
        self.hidden = hidden
        self.depth = depth
        self.whiten = whiten
        self.lr = lr
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.early_stopping = early_stopping
        self.tol = tol
        self.lr_patience = lr_patience
        self.lr_factor = lr_factor
        self.random_state = random_state
        self.warmup_steps = warmup_steps

    def fit(
        self, train: Interventions, validation: Interventions | None = None
    ) -> DistributedAlignmentSearch:
        """Train the map.

        Args:
            train: interventions to train on.
            validation: interventions that choose the epoch; None holds out a tenth of ``train``.

        Returns:
            self.

        Raises:
            ValueError: for an unknown alignment, partitions or parameters out of range, shapes that
                do not fit, or labels that the network has no class for.
        """
        self._check()
        check_labelled(train)
        seed = seed_of(self.random_state)
        generator = torch.Generator().manual_seed(seed)
        if validation is None:
            train, validation = _split(train, generator)
        check_labelled(validation)
        with frozen(self.site):
            fitting = States(self.site, train, self.batch_size)
            checking = States(self.site, validation, self.batch_size)
            d, dtype = fitting.sample.shape[1], fitting.sample.dtype
            if dtype not in (torch.float32, torch.float64):
                raise TypeError(
                    f"site must give hidden states of float32 or float64, got {dtype}: convert the "
                    "network with .float()"
                )
            groups = check_partitions(self.partitions, d, train.mask.shape[1])
            self.alignment_ = self._build(fitting.sample, seed)
            self.n_parameters_ = sum(
                p.numel() for p in self.alignment_.parameters() if p.requires_grad
            )
            self.history_: list[dict[str, float]] = []
            if self.n_parameters_:
                self._train(fitting, checking, groups, generator)
            self.n_epochs_ = len(self.history_)
            self._check_round_trip(fitting.sample)
        return self

    def score(self, interventions: Interventions) -> float:
        """IIA of the fitted map on ``interventions``, which training should not have seen."""
        check_is_fitted(self, "alignment_")
        return interchange_intervention_accuracy(
            self.site, self.alignment_, self.partitions, interventions, self.batch_size
        )

    def _check(self) -> None:
        check_site(self.site)
        if isinstance(self.alignment, str):
            if self.alignment not in ALIGNMENTS:
                names = ", ".join(f'"{name}"' for name in ALIGNMENTS)
                raise ValueError(f"alignment must be {names} or a module, got {self.alignment!r}")
        elif not isinstance(self.alignment, nn.Module) or not hasattr(self.alignment, "inverse"):
            raise TypeError(
                "alignment must be a name or an nn.Module with an inverse method, got "
                f"{type(self.alignment).__name__}"
            )
        for name, least in (
            ("max_epochs", 1),
            ("batch_size", 1),
            ("early_stopping", 1),
            ("lr_patience", 0),
            ("warmup_steps", 0),
        ):
            check_count(name, getattr(self, name), least)
        if not check_real("lr", self.lr) > 0:
            raise ValueError(f"lr must be positive, got {self.lr}")
        if not 0 < check_real("lr_factor", self.lr_factor) < 1:
            raise ValueError(f"lr_factor must lie between 0 and 1, got {self.lr_factor}")
        if not check_real("tol", self.tol) >= 0:
            raise ValueError(f"tol must be at least 0, got {self.tol}")

    def _build(self, states: Tensor, seed: int) -> nn.Module:
        d = states.shape[1]
        with seeded(seed):
            if isinstance(self.alignment, nn.Module):
                inner: nn.Module = copy.deepcopy(self.alignment)
            elif self.alignment == "revnet":
                inner = RevNetAlignment(d, self.n_blocks, self.hidden, self.depth)
            elif self.alignment == "identity":
                inner = IdentityAlignment()
            else:
                inner = LinearAlignment(d, orthogonal=self.alignment == "orthogonal")
        inner = inner.to(device=states.device, dtype=states.dtype)
        return WhitenedAlignment(inner, states) if self.whiten else inner

    def _train(
        self,
        fitting: States,
        checking: States,
        groups: list[list[int]],
        generator: torch.Generator,
    ) -> None:
        alignment = self.alignment_
        parameters = [p for p in alignment.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(parameters, lr=self.lr)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, factor=self.lr_factor, patience=self.lr_patience
        )
        best_loss, _ = checking.evaluate(alignment, groups, self.batch_size)
        best = copy.deepcopy(alignment.state_dict())
        improved, waited, step = math.inf, 0, 0
        for epoch in range(1, self.max_epochs + 1):
            rate = optimizer.param_groups[0]["lr"]
            total = 0.0
            order = torch.randperm(len(fitting), generator=generator)
            alignment.train()
            for rows in order.split(self.batch_size):
                step += 1
                if step <= self.warmup_steps:
                    optimizer.param_groups[0]["lr"] = rate * step / self.warmup_steps
                logits, label = fitting.swapped(alignment, groups, rows)
                loss = functional.cross_entropy(logits, label)
                # Gradients of the map alone: none is left on a network that could not be frozen.
                for parameter, gradient in zip(
                    parameters, torch.autograd.grad(loss, parameters), strict=True
                ):
                    parameter.grad = gradient
                optimizer.step()
                total += loss.item() * len(rows)
            optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad()
            alignment.eval()
            train_loss = total / len(fitting)
            loss_now, iia = checking.evaluate(alignment, groups, self.batch_size)
            self.history_.append(
                {
                    "epoch": epoch,
                    "train_loss": train_loss,
                    "validation_loss": loss_now,
                    "validation_iia": iia,
                    "lr": rate,
                }
            )
            if not math.isfinite(loss_now):
                warnings.warn(
                    f"the loss became {loss_now} in epoch {epoch}; the best map before is kept: "
                    "lower lr, or use whiten=True",
                    ConvergenceWarning,
                    stacklevel=3,
                )
                break
            if not best_loss <= loss_now:
                best_loss, best = loss_now, copy.deepcopy(alignment.state_dict())
            waited = 0 if loss_now < improved - self.tol else waited + 1
            improved = loss_now if waited == 0 else improved
            if waited >= self.early_stopping:
                break
            schedule.step(train_loss)
        alignment.load_state_dict(best)
        alignment.eval()

    def _check_round_trip(self, states: Tensor) -> None:
        alignment: Any = self.alignment_
        with torch.no_grad():
            gaps = [
                (alignment.inverse(alignment(h)) - h).abs().max()
                for h in states.split(self.batch_size)
            ]
        gap, size = torch.stack(gaps).max().item(), states.abs().max().item()
        if not gap <= ROUND_TRIP_TOLERANCE * size:
            warnings.warn(
                f"the fitted map loses up to {gap:.3g} on its way back, of states up to {size:.3g}:"
                " the accuracy then measures reconstruction as well; use a float64 network, fewer "
                "blocks or a lower lr",
                UserWarning,
                stacklevel=3,
            )


def alignment_ladder(
    site: Site,
    partitions: Sequence[Sequence[int]],
    train: Interventions,
    validation: Interventions,
    test: Interventions,
    ladder: Sequence[str | nn.Module | tuple[str | nn.Module, dict[str, Any]]] = ALIGNMENTS,
    n_jobs: int | None = 1,
    *,
    control: Site | None = None,
    progress: bool = False,
    **options: Any,
) -> list[dict[str, Any]]:
    """IIA under maps of growing power, and what the same maps reach on a control network.

    Args:
        site: the network's site.
        partitions: one list of coordinates a variable.
        train, validation, test: interventions to fit, to choose the epoch, and to report on.
        ladder: what :class:`DistributedAlignmentSearch` takes as ``alignment``, a name or a module,
            or pairs of one and options of that search, such as ``("revnet", {"hidden": 64})``.
        n_jobs: fits at a time, as in joblib; results do not depend on it.
        control: the same site of an untrained network, as from :func:`untrained_copy`: what a map
            reaches there is owed to the map.
        progress: show a bar on a terminal.
        **options: of every search, such as ``lr`` or ``random_state``.

    Returns:
        A dictionary a map: name, n_parameters, iia, seconds, and control_iia where there is a
        control.

    Raises:
        ValueError, TypeError: for unknown names or options, or as in the search's ``fit``.

    Example:
        >>> from rankone.interpret.causal_abstraction import *
        >>> task = hierarchical_equality()
        >>> model = task.causal_models["both_equality"]
        >>> sets = [sample_interventions(task.sampler, model, 200, random_state=seed)
        ...         for seed in range(3)]
        >>> network = EqualityMLP()
        >>> rows = alignment_ladder(
        ...     network.site(1), [range(8), range(8, 16)], *sets, ladder=("identity", "orthogonal"),
        ...     control=untrained_copy(network).site(1), max_epochs=1)
        >>> [row["n_parameters"] for row in rows]
        [0, 256]
    """
    rungs = [rung if isinstance(rung, tuple) else (rung, {}) for rung in ladder]
    if not rungs:
        raise ValueError("ladder must hold at least one map, got none")
    known = set(DistributedAlignmentSearch._get_param_names()) - {"site", "partitions", "alignment"}
    for alignment, extra in rungs:
        if not isinstance(alignment, nn.Module) and alignment not in ALIGNMENTS:
            raise ValueError(
                f"ladder must hold modules or names of {', '.join(ALIGNMENTS)}, got {alignment!r}"
            )
        unknown = sorted((set(options) | set(extra)) - known)
        if unknown:
            raise TypeError(f"options must be of the search, got {', '.join(unknown)}")
    sites = [site] if control is None else [site, control]
    cells = [
        DistributedAlignmentSearch(place, partitions, alignment, **{**options, **extra})
        for alignment, extra in rungs
        for place in sites
    ]

    def climb(search: DistributedAlignmentSearch, _: np.random.Generator) -> dict[str, Any]:
        search = copy.deepcopy(search)  # jobs in threads must not share hooks and modes
        start = time.perf_counter()
        search.fit(train, validation)
        seconds = time.perf_counter() - start
        return {
            "n_parameters": search.n_parameters_,
            "iia": search.score(test),
            "seconds": seconds,
        }

    results = sweep(
        climb, cells, random_state=0, n_jobs=n_jobs, description="aligning", progress=progress
    )
    rows = []
    for i, (alignment, extra) in enumerate(rungs):
        name = alignment if isinstance(alignment, str) else type(alignment).__name__
        details = ", ".join(f"{key}={value}" for key, value in extra.items())
        row = {"name": f"{name} ({details})" if details else name, **results[i * len(sites)]}
        if control is not None:
            row["control_iia"] = results[2 * i + 1]["iia"]
        rows.append(row)
    return rows


def untrained_copy(network: nn.Module, random_state: int | None = 0) -> nn.Module:
    """A copy of ``network`` with every parameter drawn anew, by ``reset_parameters``.

    Args:
        network: any module.
        random_state: seed.

    Returns:
        The copy.

    Raises:
        TypeError: for a module with parameters of its own and no ``reset_parameters``, by name.

    Example:
        >>> from rankone.interpret.causal_abstraction import EqualityMLP, untrained_copy
        >>> untrained_copy(EqualityMLP()).classifier.weight.shape
        torch.Size([2, 16])
    """
    check_instance("network", network, nn.Module)
    fresh = copy.deepcopy(network)
    with seeded(seed_of(random_state), {p.device for p in fresh.parameters()}):
        for name, module in fresh.named_modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
            elif next(module.parameters(recurse=False), None) is not None:
                raise TypeError(
                    "network must be of modules with reset_parameters; "
                    f"{name or 'network'} ({type(module).__name__}) has parameters and none"
                )
    return fresh


def _split(
    interventions: Interventions, generator: torch.Generator
) -> tuple[Interventions, Interventions]:
    n = len(interventions)
    if n < 2:
        raise ValueError(f"train must hold at least 2 interventions without validation, got {n}")
    held = max(1, round(_VALIDATION_SHARE * n))
    order = torch.randperm(n, generator=generator)
    return interventions.select(order[held:]), interventions.select(order[:held])


def __dir__() -> list[str]:
    return public_names(globals())
