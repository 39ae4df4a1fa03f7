"""Bijective maps of hidden states, from the identity to an exact lookup.

Every map is an ``nn.Module`` with ``forward(h)`` and ``inverse(z)``, both (n, d) -> (n, d). Without
an exact inverse an intervention would also measure reconstruction, so that none is approximate.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from rankone.interpret._causal_models import CausalModel, check_count, seed_of
from rankone.interpret._sites import Site, frozen, read_in_batches
from rankone.ops.checks import check_floating, check_tensor

# Beyond this the inverse of a float64 matrix keeps fewer than eight digits.
MAX_CONDITION = 1e8
# Largest offset by which a lookup tells apart states with one label.
MAX_OFFSET = 1e-6
# An anchor must keep its label under rounding: the margin relative to the largest logit.
_LEAST_MARGIN = 1e-4
_DRAWS_PER_ROUND = 2000
_SCALE_GROWTH = 1.3
# Combinations of variable values that are listed when the lookup is built.
_LISTED_COMBINATIONS = 1_000_000
_BATCH = 4096


class IdentityAlignment(nn.Module):
    """The hidden states as they are: variables are sought in single neurons.

    Example:
        >>> import torch
        >>> from rankone.interpret.causal_abstraction import IdentityAlignment
        >>> h = torch.randn(2, 3)
        >>> IdentityAlignment().inverse(h) is h
        True
    """

    def __init__(self) -> None:
        super().__init__()

    def forward(self, h: Tensor) -> Tensor:
        """``h``."""
        return h

    def inverse(self, z: Tensor) -> Tensor:
        """``z``."""
        return z


class LinearAlignment(nn.Module):
    """z = W h with an orthogonal or a general invertible W, orthogonal at the start.

    Orthogonality is a parametrisation, never a penalty; the inverse is then the transpose. The
    inverse of a general W solves the linear system.

    Args:
        d: width of the hidden states.
        orthogonal: keep W orthogonal.

    Raises:
        ValueError: by ``inverse``, for a W whose condition number exceeds 1e8.

    Example:
        >>> import torch
        >>> from rankone.interpret.causal_abstraction import LinearAlignment
        >>> rotation, h = LinearAlignment(4), torch.randn(3, 4)
        >>> torch.allclose(rotation(h).norm(dim=1), h.norm(dim=1))
        True
    """

    def __init__(self, d: int, orthogonal: bool = True) -> None:
        super().__init__()
        self.d = check_count("d", d)
        self.orthogonal = orthogonal
        self.linear = nn.Linear(self.d, self.d, bias=False)
        nn.init.orthogonal_(self.linear.weight)
        if orthogonal:
            parametrizations.orthogonal(self.linear)

    def _apply(self, fn: Any, recurse: bool = True) -> LinearAlignment:
        """As a module; W converted to a finer type is made orthogonal to that type's precision."""
        before = self.linear.weight.dtype
        super()._apply(fn, recurse)
        after = self.linear.weight.dtype
        if self.orthogonal and after != before and after in (torch.float32, torch.float64):
            constraint: Any = self.linear.parametrizations
            base = constraint.weight[0].base
            U, _, V = torch.linalg.svd(base)
            base.copy_(U @ V)
        return self

    def forward(self, h: Tensor) -> Tensor:
        """z = W h, row by row."""
        return self.linear(_checked("h", h, self.d))

    def inverse(self, z: Tensor) -> Tensor:
        """h = W^-1 z, row by row."""
        _checked("z", z, self.d)
        weight = self.linear.weight
        if self.orthogonal:
            return z @ weight
        _check_condition(weight.detach())
        return torch.linalg.solve(weight, z.T).T


class RevNetAlignment(nn.Module):
    """A reversible residual network, exactly invertible and volume preserving.

    Each block maps the halves (a, b), of sizes floor(d/2) and d - floor(d/2), by a <- a + F(b) and
    then b <- b + G(a), with ReLU networks F and G; the inverse subtracts in reverse order, and the
    Jacobian's determinant is 1.

    Args:
        d: width of the hidden states, at least 2.
        n_blocks: number of blocks.
        hidden: width of F's and G's hidden layers; None for d.
        depth: their number of hidden layers.

    Example:
        >>> import torch
        >>> from rankone.interpret.causal_abstraction import RevNetAlignment
        >>> map, h = RevNetAlignment(5, n_blocks=3).double(), torch.randn(4, 5).double()
        >>> torch.allclose(map.inverse(map(h)), h, atol=1e-12)
        True
    """

    def __init__(
        self, d: int, n_blocks: int = 10, hidden: int | None = None, depth: int = 1
    ) -> None:
        super().__init__()
        self.d = check_count("d", d, least=2)
        width = self.d if hidden is None else check_count("hidden", hidden)
        layers = check_count("depth", depth)
        sizes = (self.d // 2, self.d - self.d // 2)
        self.sizes = sizes
        blocks = range(check_count("n_blocks", n_blocks))
        self.F = nn.ModuleList(_mlp(sizes[1], width, layers, sizes[0]) for _ in blocks)
        self.G = nn.ModuleList(_mlp(sizes[0], width, layers, sizes[1]) for _ in blocks)

    def forward(self, h: Tensor) -> Tensor:
        """z (n, d)."""
        a, b = _checked("h", h, self.d).split(self.sizes, dim=1)
        for F, G in zip(self.F, self.G, strict=True):
            a = a + F(b)
            b = b + G(a)
        return torch.cat((a, b), dim=1)

    def inverse(self, z: Tensor) -> Tensor:
        """h (n, d), exact up to rounding."""
        a, b = _checked("z", z, self.d).split(self.sizes, dim=1)
        for F, G in zip(reversed(self.F), reversed(self.G), strict=True):
            b = b - G(a)
            a = a - F(b)
        return torch.cat((a, b), dim=1)


class WhitenedAlignment(nn.Module):
    """A map of whitened hidden states (own addition, not the paper's).

    A fixed affine map to principal components of unit variance stands before ``inner`` and is
    undone after its inverse. Hidden states of an untrained network differ by little, and a network
    that starts from them unwhitened learns several times more slowly.

    Args:
        inner: a map of (n, d).
        H: hidden states (n, d) that the principal components are those of.
        floor: eigenvalues below this share of the largest are raised to it, at most 1.

    Raises:
        ValueError: for hidden states that are not finite, not 2-D or all equal, or a floor outside
            (0, 1].

    Example:
        >>> import torch
        >>> from rankone.interpret.causal_abstraction import IdentityAlignment, WhitenedAlignment
        >>> H = torch.randn(500, 3) @ torch.tensor([[9.0, 0, 0], [1, 1, 0], [0, 0, 2]])
        >>> torch.allclose(WhitenedAlignment(IdentityAlignment(), H)(H).T.cov(), torch.eye(3),
        ...                atol=1e-4)
        True
    """

    mean: Tensor
    whiten: Tensor
    colour: Tensor

    def __init__(self, inner: nn.Module, H: Tensor, floor: float = 1e-4) -> None:
        super().__init__()
        if not 0 < floor <= 1:
            raise ValueError(f"floor must be above 0 and at most 1, got {floor}")
        check_tensor("H", H)
        if H.ndim != 2 or len(H) < 2:
            raise ValueError(f"H must have shape (n, d) with n at least 2, got {tuple(H.shape)}")
        if not torch.isfinite(H).all():
            raise ValueError("H must be finite, got entries that are not")
        self.inner = inner
        states = H.detach().double()
        mean = states.mean(dim=0)
        centred = states - mean
        eigenvalues, axes = torch.linalg.eigh(centred.T @ centred / (len(H) - 1))
        if not eigenvalues[-1] > 0:
            raise ValueError("H must hold different hidden states, got equal ones only")
        scale = eigenvalues.clamp(min=floor * eigenvalues[-1].item()).sqrt()
        self.register_buffer("mean", mean.to(H.dtype))
        self.register_buffer("whiten", (axes / scale).to(H.dtype))
        self.register_buffer("colour", (axes * scale).T.contiguous().to(H.dtype))

    def forward(self, h: Tensor) -> Tensor:
        """inner(whitened h)."""
        _checked("h", h, len(self.mean))
        return self.inner((h - self.mean) @ self.whiten)

    def inverse(self, z: Tensor) -> Tensor:
        """The state whose whitened form is inner's inverse of ``z``."""
        _checked("z", z, len(self.mean))
        inner: Any = self.inner
        return inner.inverse(z) @ self.colour + self.mean


class LookupAlignment(nn.Module):
    """A perfect alignment by table, whatever the network computes (own construction).

    The constructive form of the paper's theorem: a network that is injective on a finite set of
    inputs, and reaches every label from some hidden state, admits a map under which any algorithm
    on those inputs has interchange intervention accuracy 1. The i-th state maps to i in every
    coordinate. The inverse reads an index j_v from the first coordinate of each partition, and i
    from the first leftover one. Where all agree it returns the stored state; else a state with the
    label that the algorithm gives for (v_1[j_1], v_2[j_2], ...), moved by at most 1e-6 in a way
    that encodes the indices. In float64 the map is thus one to one on all states that interventions
    reach; in float32 the offsets of a fine code round together.

    The accuracy is 1 on every intervention whose used sources differ from the base. Without a
    leftover coordinate the base's own index is lost where every variable is swapped: if then all
    sources are one input, any bijection returns the network's own answer on it. An algorithm with
    context therefore needs a leftover coordinate. Leave one over in any case: partitions that cover
    all coordinates align trivially, for a swap of all of them from one source replaces the whole
    state.

    Args:
        site: the network's site; its logits must depend on the hidden state alone.
        causal_model: the algorithm.
        inputs: all inputs (N, ...), different from each other.
        partitions: V disjoint lists of coordinates, one a variable.
        random_state: seed of the search for states with each label.
        max_draws: states drawn in that search at most, 2000 a round; their spread, that of the
            hidden states at first, grows by 1.3 a round, until every label has been met.

    Attributes:
        states: stored hidden states (N, d).
        anchors: a state with each label (c, d); rows of labels that were not met are NaN.

    Raises:
        ValueError: for repeated inputs, hidden states that are not one to one, a label that was not
            met, partitions that do not fit, or logits that depend on more than the hidden state.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from rankone.interpret.causal_abstraction import (
        ...     CausalModel, LookupAlignment, SplitSite)
        >>> x = torch.cartesian_prod(torch.arange(2.0), torch.arange(2.0))
        >>> xor = CausalModel({"a": lambda x: x[:, 0] > 0, "b": lambda x: x[:, 1] > 0},
        ...                   lambda v: v["a"] ^ v["b"])
        >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
        <torch._C.Generator ...>
        >>> site = SplitSite(nn.Linear(2, 3), nn.Linear(3, 2))
        >>> map = LookupAlignment(site, xor, x, [[0], [1]])
        >>> torch.equal(map.inverse(map(map.states)), map.states)
        True
    """

    states: Tensor
    anchors: Tensor
    values: Tensor
    met: Tensor
    owner: Tensor

    def __init__(
        self,
        site: Site,
        causal_model: CausalModel,
        inputs: Tensor,
        partitions: Sequence[Sequence[int]],
        random_state: int | None = 0,
        max_draws: int = 120_000,
    ) -> None:
        super().__init__()
        max_draws = check_count("max_draws", max_draws)
        if len(inputs) < 2 or len(torch.unique(inputs, dim=0)) < len(inputs):
            raise ValueError(
                f"inputs must be at least 2 and different from each other, got {len(inputs)} of "
                f"which {len(torch.unique(inputs, dim=0))} are different"
            )
        with frozen(site):
            states = read_in_batches(site, inputs, _BATCH)
            self._check_states(states)
            d = states.shape[1]
            groups = check_partitions(partitions, d, len(causal_model.variables))
            rest = sorted(set(range(d)) - {entry for group in groups for entry in group})
            if causal_model.context and not rest:
                raise ValueError(
                    "partitions must leave a coordinate over for an algorithm with context, "
                    f"got all {d} in use"
                )
            self.causal_model = causal_model
            self.firsts = [group[0] for group in groups] + rest[:1]
            owner = torch.full((d,), len(groups))
            for v, group in enumerate(groups):
                owner[group] = v
            self.register_buffer("owner", owner.to(states.device))
            by_name = causal_model.values(inputs)
            self.names = [*causal_model.variables, *causal_model.context]
            self.register_buffer("states", states)
            self.register_buffer("values", torch.stack([by_name[name] for name in self.names]))
            anchors, met = self._find_anchors(site, inputs, seed_of(random_state), max_draws)
        self.register_buffer("anchors", anchors)
        self.register_buffer("met", met)

    def forward(self, h: Tensor) -> Tensor:
        """The index of the nearest stored state in every coordinate; an anchor's own code back."""
        N, d = self.states.shape
        _checked("h", h, d)
        distances = torch.cdist(h, self.states, compute_mode="donot_use_mm_for_euclid_dist")
        z = distances.argmin(dim=1).to(h.dtype)[:, None].repeat(1, d)
        for anchor in self.anchors[self.met]:
            offset = h - anchor
            rows = (offset.abs() <= 2 * MAX_OFFSET).all(dim=1).nonzero()[:, 0]
            if len(rows):
                codes = (offset[rows][:, self.firsts] * ((N + 1) / MAX_OFFSET)).round() - 1
                z[rows] = codes.clamp(0, N - 1)[:, self.owner]
        return z

    def inverse(self, z: Tensor) -> Tensor:
        """The stored state, or a state with the algorithm's label of the indices in ``z``."""
        N, d = self.states.shape
        _checked("z", z, d)
        codes = z[:, self.firsts].round().long().clamp(0, N - 1)
        h = self.states[codes[:, 0]].clone()
        rows = (codes != codes[:, :1]).any(dim=1).nonzero()[:, 0]
        if len(rows):
            labels = self._labels(codes[rows])
            _check_met(labels, self.met)
            moved = self.anchors[labels]
            moved[:, self.firsts] += (codes[rows] + 1).to(h.dtype) * (MAX_OFFSET / (N + 1))
            h[rows] = moved
        return h

    def _labels(self, codes: Tensor) -> Tensor:
        """Labels of the algorithm with variable v of input codes[:, v], context of the last."""
        V = len(self.causal_model.variables)
        values = {
            name: self.values[i][codes[:, i if i < V else -1]] for i, name in enumerate(self.names)
        }
        return self.causal_model.label(values, len(codes))

    def _check_states(self, states: Tensor) -> None:
        N = len(states)
        different = len(torch.unique(states, dim=0))
        if different < N:
            raise ValueError(
                "hidden states of inputs must be one to one; the network maps "
                f"{N} inputs to {different} states"
            )
        if 2 / torch.finfo(states.dtype).eps < N:
            raise ValueError(f"inputs must be few enough to count in {states.dtype}, got {N}")

    def _find_anchors(
        self, site: Site, inputs: Tensor, seed: int, max_draws: int
    ) -> tuple[Tensor, Tensor]:
        """Per label the drawn state of the largest margin, once every label has been met."""
        N, d = self.states.shape
        mean, spread = self.states.mean(dim=0), self.states.std(dim=0)
        required = self._reachable_labels()
        generator = torch.Generator().manual_seed(seed)
        x = inputs[torch.arange(_DRAWS_PER_ROUND) % N]
        far = torch.zeros_like(mean)
        far[self.firsts] = MAX_OFFSET
        scale, drawn = 1.0, 0
        margins = anchors = torch.empty(0)
        while True:
            n = min(_DRAWS_PER_ROUND, max_draws - drawn)
            noise = torch.randn(n, d, generator=generator, dtype=mean.dtype).to(mean.device)
            h = mean + scale * spread * noise
            with torch.no_grad():
                logits = site.run(x[:n], h)
                if not drawn:
                    _check_labels(required, logits.shape[1])
                    self._check_input_free(site, inputs, h, logits)
                    margins = logits.new_zeros(logits.shape[1])
                    anchors = h.new_full((logits.shape[1], d), float("nan"))
                steady = logits.argmax(dim=1) == site.run(x[:n], h + far).argmax(dim=1)
            top = logits.topk(2, dim=1)
            margin = top.values[:, 0] - top.values[:, 1]
            steady &= margin > _LEAST_MARGIN * logits.abs().amax(dim=1)
            for label in range(logits.shape[1]):
                of_label = torch.where(steady & (top.indices[:, 0] == label), margin, 0)
                best = of_label.argmax()
                if of_label[best] > margins[label]:
                    margins[label] = of_label[best]
                    anchors[label] = h[best]
            drawn += n
            scale *= _SCALE_GROWTH
            met = margins > 0
            if met[required].all() or drawn >= max_draws:
                _check_met(required, met)
                return anchors, met

    def _reachable_labels(self) -> Tensor:
        """Labels that the algorithm gives for any combination of the variables' values."""
        V = len(self.causal_model.variables)
        own = [torch.unique(self.values[i]) for i in range(V)]
        context = torch.unique(self.values[V:], dim=1).T if len(self.names) > V else None
        sizes = [len(entry) for entry in own] + ([] if context is None else [len(context)])
        if torch.tensor(sizes, dtype=torch.float64).prod() > _LISTED_COMBINATIONS:
            index = torch.arange(self.states.shape[0], device=self.values.device)
            return torch.unique(self._labels(index[:, None].repeat(1, len(self.firsts))))
        grid = torch.tensor(list(itertools.product(*(range(size) for size in sizes))))
        grid = grid.to(self.values.device)
        values = {self.names[i]: own[i][grid[:, i]] for i in range(V)}
        for k, name in enumerate(self.names[V:]):
            values[name] = context[grid[:, -1], k]  # type: ignore[index]
        return torch.unique(self.causal_model.label(values, len(grid)))

    def _check_input_free(self, site: Site, inputs: Tensor, h: Tensor, logits: Tensor) -> None:
        shifted = inputs[(torch.arange(len(h)) + 1) % len(inputs)]
        if not torch.allclose(site.run(shifted, h), logits, rtol=1e-4, atol=1e-6):
            raise ValueError(
                "site must be one that all of the computation passes through: its logits depend "
                "on the input beyond the hidden state"
            )


def check_partitions(
    partitions: Sequence[Sequence[int]], d: int, n_variables: int
) -> list[list[int]]:
    """``partitions`` as lists: one a variable, disjoint, not empty, within 0 to d - 1.

    Raises:
        TypeError: for what is not lists of integers.
        ValueError: otherwise.
    """
    try:
        groups = [list(group) for group in partitions]
    except TypeError:
        raise TypeError(
            f"partitions must be one list of coordinates a variable, got {partitions!r}"
        ) from None
    if len(groups) != n_variables:
        raise ValueError(
            f"partitions must be one a variable, {n_variables} in all, got {len(groups)}"
        )
    seen: set[int] = set()
    for i, group in enumerate(groups):
        if not group:
            raise ValueError(f"partitions[{i}] must hold at least one coordinate, got none")
        try:
            groups[i] = [entry.__index__() for entry in group]
        except AttributeError:
            raise TypeError(f"partitions[{i}] must hold integers, got {group}") from None
        outside = [entry for entry in groups[i] if not 0 <= entry < d]
        if outside:
            raise ValueError(f"partitions[{i}] must lie within 0 to {d - 1}, got {outside}")
        repeated = sorted(seen & set(groups[i]))
        if repeated or len(set(groups[i])) < len(groups[i]):
            raise ValueError(
                f"partitions must be disjoint; partitions[{i}] repeats {repeated or groups[i]}"
            )
        seen |= set(groups[i])
    return groups


def _mlp(inputs: int, width: int, depth: int, outputs: int) -> nn.Sequential:
    sizes = [inputs, *[width] * depth]
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def _checked(name: str, states: Tensor, d: int) -> Tensor:
    check_tensor(name, states)
    check_floating(name, states)
    if states.ndim != 2 or states.shape[1] != d:
        raise ValueError(f"{name} must have shape (n, {d}), got {tuple(states.shape)}")
    return states


def _check_condition(weight: Tensor) -> None:
    # The 2-norm condition number is at most d times that in the 1-norm, which needs no
    # singular values.
    rough = torch.linalg.cond(weight, p=1).item()
    if rough * len(weight) <= MAX_CONDITION:
        return
    condition = torch.linalg.cond(weight).item()
    if not condition <= MAX_CONDITION:
        raise ValueError(
            f"the linear map must have a condition number of at most {MAX_CONDITION:.0e} to be "
            f"inverted, got {condition:.3g}: lower lr, or use the orthogonal map"
        )


def _check_labels(labels: Tensor, n_classes: int) -> None:
    if labels.min() < 0 or labels.max() >= n_classes:
        raise ValueError(
            f"labels of causal_model must lie within 0 to {n_classes - 1}, the network's classes, "
            f"got {labels.min().item()} to {labels.max().item()}"
        )


def _check_met(labels: Tensor, met: Tensor) -> None:
    missing = sorted(set(labels[~met[labels]].tolist()))
    if missing:
        raise ValueError(
            "every label must be reachable from some hidden state; no drawn state had label "
            f"{', '.join(map(str, missing))}"
        )
