"""Directions of every layer that vary, that the output reads, and that interact with few others.

"The Local Interaction Basis: Identifying Computationally-Relevant and Sparsely Interacting Features
in Neural Networks" (arXiv 2405.10928) and "Using Degeneracy in the Loss Landscape for Mechanistic
Interpretability" (arXiv 2405.10927). Per node layer, the Gram matrix G of the activations and the
Gram matrix K of the Jacobians are made diagonal by one congruence, so that the importances are the
nonzero eigenvalues of G K: the squared Hankel singular values of balanced truncation with G as
controllability and K as observability Gramian, whatever invertible change of basis the network is
written in. That statement of the invariance, and the counts of free parameters of single layers,
are rankone's own derivations. Directions here are at most as many as neurons; sparse autoencoders,
which seek more directions than neurons, solve another problem.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from rankone._namespace import public_names
from rankone._repr import short_repr
from rankone.interpret._degeneracy import (
    LayerDegeneracy,
    effective_parameter_count,
    parameter_degeneracy,
    synchronized_groups,
)
from rankone.interpret._gradients import (
    Section,
    as_data,
    checked_sections,
    integer,
    node_layers,
    output_gradients,
    random_signs,
    rows,
    run_chain,
    run_section,
    symmetric_spectrum,
)
from rankone.interpret._gram_matrices import (
    Probes,
    activation_gram,
    gram_sums,
    jacobian_gram,
    mean_jacobian_gram,
)
from rankone.interpret._hooked_sections import module_sections
from rankone.interpret._interaction_graph import (
    ModularityResult,
    checked_edges,
    interaction_modularity,
    plot_interaction_graph,
)

__all__ = [
    "InteractionBasis",
    "LayerBasis",
    "LayerDegeneracy",
    "ModularityResult",
    "activation_gram",
    "effective_parameter_count",
    "interaction_modularity",
    "jacobian_gram",
    "module_sections",
    "parameter_degeneracy",
    "plot_interaction_graph",
    "synchronized_groups",
]

BASES = ("interaction", "local_interaction", "pca", "neuron")
# Exponent p of C = R V Lambda^p: the Jacobian Gram becomes the identity at 1/2, the activation Gram
# at 0, and both are sqrt(Lambda) at 1/4.
SCALINGS = {"importance": 0.5, "whitened": 0.0, "balanced": 0.25}
INTEGRATIONS = ("gradient", "gauss-legendre")

# An amplitude below this many rounding errors of the values is no variation.
_ROUNDING_ERRORS = 8

Metric = str | Callable[[Tensor, Tensor], float]


@dataclass(frozen=True)
class LayerBasis:
    """The basis of one node layer with d activations and k directions, in float64.

    Attributes:
        mean_: mu (d,), zeros without centring.
        components_: C (d, k); coordinates are ``(f - mean_) @ components_``.
        components_pinv_: C^+ (k, d); ``f ~ z @ components_pinv_ + mean_``.
        importance_: (k,) descending: nonzero eigenvalues of G K; variances for "pca" and the output
            layer; second moments, in the order of the neurons, for "neuron".
        activation_gram_: G (d, d), centred as the basis is.
        jacobian_gram_: K (d, d); None for "pca" and "neuron", which do not use it.
        activation_rank_: rank of G.
        jacobian_rank_: rank of K among the directions that vary, which is k; None like K.
    """

    __repr__ = short_repr

    mean_: Tensor
    components_: Tensor
    components_pinv_: Tensor
    importance_: Tensor
    activation_gram_: Tensor
    jacobian_gram_: Tensor | None
    activation_rank_: int
    jacobian_rank_: int | None

    @property
    def n_directions(self) -> int:
        """k, the number of directions kept."""
        return self.components_.shape[1]


class InteractionBasis(BaseEstimator):
    """A basis for every node layer of a network, and the interactions between them.

    Node layer l is the input of section l; the last is the output. "interaction" reads the Jacobian
    of the network's output, "local_interaction" that of the next layer in its own basis, computed
    from the last layer to the first and always in the "importance" scaling of the next layer. The
    output layer takes the PCA of the outputs in both. "pca" and "neuron" are the baselines.

    Sections are arbitrary callables, so that a module of any type is supported whose outputs are
    differentiable, deterministic, and computed for each data point on its own: a section that
    mixes the rows of a batch, draws random numbers, or stops the gradient is an error that names
    it. Modules are copied, so that yours keep their dtype, gradients and mode. A network that is
    not a chain of callables is cut at named submodules by :func:`module_sections`.

    Args:
        basis: "interaction", "local_interaction", "pca" or "neuron" (the identity, not centred).
        center: take off the mean of the activations. Centring stands in the place of a constant
            direction for the bias; there is no such direction.
        scaling: "importance": the Jacobian Gram becomes the identity and coordinates have the
            importances as second moments; "whitened": the other way round; "balanced": both are
            the square root of the importances. For the first two bases.
        rtol: activation directions of a relative variance up to this are dropped.
        rtol_jacobian: so are directions of a relative importance up to this.
        batch_size: data points differentiated at once.
        dtype: in which the sections run, torch.float32 or torch.float64; Gram matrices and
            decompositions are float64 in any case, since ranks are read from them.
        n_stochastic_sources: for sequences, estimate K with so many random signs per output
            position rather than a backward pass for each position; unbiased.
        random_state: of these signs.

    Attributes:
        layers_: a :class:`LayerBasis` for every node layer, L + 1 of them.
        sections_: the sections as they are run.

    References:
        "The Local Interaction Basis" (arXiv 2405.10928).

    Example:
        >>> import torch
        >>> from rankone.interpret.interaction_basis import InteractionBasis
        >>> generator = torch.Generator().manual_seed(0)
        >>> X = torch.randn(200, 6, generator=generator)
        >>> sections = [torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2)]
        >>> basis = InteractionBasis().fit(sections, X)
        >>> [layer.n_directions for layer in basis.layers_]
        [5, 5, 2, 2]
    """

    def __init__(
        self,
        basis: str = "interaction",
        center: bool = True,
        scaling: str = "importance",
        rtol: float = 1e-10,
        rtol_jacobian: float = 1e-10,
        batch_size: int = 256,
        dtype: torch.dtype = torch.float64,
        n_stochastic_sources: int | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.basis = basis
        self.center = center
        self.scaling = scaling
        self.rtol = rtol
        self.rtol_jacobian = rtol_jacobian
        self.batch_size = batch_size
        self.dtype = dtype
        self.n_stochastic_sources = n_stochastic_sources
        self.random_state = random_state

    def fit(self, sections: Iterable[Callable[[Tensor], Tensor]], X: Any) -> InteractionBasis:
        """Compute the basis of every node layer.

        Args:
            sections: callables or modules from (n, d_l) to (n, d_{l+1}), or on sequences
                (n, t, d_l); an ``nn.Sequential`` is its own list. Modules are copied to ``dtype``.
            X: (n, d_0) or (n, t, d_0), the inputs.

        Returns:
            The estimator.

        Raises:
            ValueError: for an unknown option or one out of range, data that are not 2-D or 3-D or
                not finite, sections that are not as described, stochastic sources without
                sequences, and a layer that is constant or that the output does not depend on.
            TypeError: for sections that are not callable, or a dtype that is not float32 or
                float64.
        """
        self._check_options()
        data = self._data(X)
        if self.n_stochastic_sources is not None and data.ndim != 3:
            raise ValueError(
                "n_stochastic_sources needs sequences, 3-D X of (n, t, d): with 2-D X there is one "
                f"output position and K is exact, got {data.ndim}-D X"
            )
        chain = checked_sections(sections, self.dtype)
        nodes = node_layers(chain, data, self.batch_size)
        probes = self._probes()
        last = len(chain)
        layers: list[LayerBasis] = []
        if self.basis in ("pca", "neuron"):
            make = self._principal if self.basis == "pca" else self._neurons
            layers = [make(node, l) for l, node in enumerate(nodes)]
        else:
            layers = [self._principal(nodes[last], last, output=True)]
            grams = self._output_grams(chain, data, probes) if self.basis == "interaction" else None
            next_C = layers[0].components_
            for l in reversed(range(last)):
                if grams is None:
                    K = mean_jacobian_gram(
                        lambda h, l=l: run_section(chain, l, h),  # type: ignore[misc]
                        nodes[l],
                        next_C.to(self.dtype),
                        self.batch_size,
                        probes,
                    )
                else:
                    K = grams[l]
                layer, next_C = self._interacting(nodes[l], K, l)
                layers.insert(0, layer)
        self.sections_ = chain
        self.layers_ = layers
        return self

    def activations(self, X: Any, layer: int) -> Tensor:
        """Activations (n, d_layer) of a node layer for the inputs X.

        Raises:
            ValueError: for a layer out of range, and inputs that the sections do not take.
        """
        layer = self._layer(layer)
        return node_layers(self.sections_[:layer], self._data(X), self.batch_size)[-1]

    def transform(self, h: Any, layer: int) -> Tensor:
        """Coordinates of activations.

        Args:
            h: (n, d) or (n, t, d), activations of the node layer.
            layer: 0 is the input, L the output.

        Returns:
            (n, k) or (n, t, k), float64.

        Raises:
            ValueError: for activations of another width or not finite, and a layer out of range.
        """
        layer = self._layer(layer)
        basis = self.layers_[layer]
        return self._coordinates(self._values("h", h, basis.components_.shape[0], layer), layer)

    def inverse_transform(self, z: Any, layer: int) -> Tensor:
        """Activations (n, d) of coordinates (n, k): ``z @ C^+ + mu``, float64.

        Raises:
            ValueError: for coordinates of another number or not finite, and a layer out of range.
        """
        layer = self._layer(layer)
        basis = self.layers_[layer]
        return self._restored(self._values("z", z, basis.n_directions, layer), layer)

    def project(self, h: Any, layer: int, k: int) -> Tensor:
        """Activations with all but the k most important directions set to their mean.

        Args:
            h: (n, d) or (n, t, d), activations of the node layer.
            layer: 0 is the input, L the output.
            k: 0 to d; directions beyond those that the basis has are absent already.

        Returns:
            Of the shape of h, float64.

        Raises:
            ValueError: for activations of another width, and a layer or k out of range.
        """
        z = self.transform(h, layer)
        basis = self.layers_[layer]
        width = basis.components_.shape[0]
        if integer("k", k, 0) > width:
            raise ValueError(f"k must be at most {width}, the width of layer {layer}, got {k}")
        keep = torch.zeros_like(basis.importance_)
        keep[basis.importance_.argsort(descending=True, stable=True)[:k]] = 1
        return self._restored(z * keep, layer)

    def edges(self, X: Any, integration: str = "gradient", n_points: int = 1) -> list[Tensor]:
        """Strength of the interactions between the directions of adjacent layers.

        ``E_ij`` is the mean over data points of the square of what direction j of a layer
        contributes to direction i of the next one, by integrated gradients from the mean (z = 0) to
        the data point. For sequences the contributions of all positions to one position are summed,
        and the mean is over data points and output positions (rankone's own reading).

        Args:
            X: (n, d_0) or (n, t, d_0), the inputs.
            integration: "gradient": the derivative at the data point alone; "gauss-legendre":
                quadrature of the integral.
            n_points: of the quadrature.

        Returns:
            L matrices (k_{l+1}, k_l), float64: rows are the next layer.

        Raises:
            ValueError: for an unknown integration, n_points below 1, and unusable inputs.
        """
        check_is_fitted(self, "layers_")
        if integration not in INTEGRATIONS:
            raise ValueError(f"integration must be one of {INTEGRATIONS}, got {integration!r}")
        n_points = integer("n_points", n_points, 1)
        if integration == "gradient":
            alphas, weights = np.ones(1), np.ones(1)
        else:
            points, weights = np.polynomial.legendre.leggauss(n_points)
            alphas, weights = (points + 1) / 2, weights / 2
        nodes = node_layers(self.sections_, self._data(X), self.batch_size)
        return [self._edges(nodes[l], l, alphas, weights) for l in range(len(self.sections_))]

    def ablation_curve(
        self, X: Any, y: Any, layer: int, ks: Sequence[int], metric: Metric = "accuracy"
    ) -> NDArray[np.float64]:
        """Score of the network with only the k most important directions of a layer.

        Args:
            X: (n, d_0) or (n, t, d_0), the inputs.
            y: what the metric compares the outputs with: labels (n,) for "accuracy", targets of
                the outputs' shape for "squared_error" (the network's own outputs give fidelity).
            layer: where directions are removed.
            ks: numbers of directions kept, as for :meth:`project`.
            metric: "accuracy", "squared_error" (summed over coordinates, mean over data points) or
                a function of (outputs, y).

        Returns:
            One score for each k.

        Raises:
            ValueError: for an unknown metric, a layer or k out of range, or y of another shape.
        """
        _check_sequence("ks", ks)
        h = self.activations(X, layer)
        score = _scorer(metric, y)
        return np.array([score(self._tail(self.project(h, layer, k), layer)) for k in ks])

    def edge_ablation_curve(
        self,
        X: Any,
        y: Any,
        edges: Any,
        layer: int,
        n_edges: Sequence[int],
        metric: Metric = "accuracy",
    ) -> NDArray[np.float64]:
        """Score of the network with only the strongest interactions between two layers.

        Each direction of the next layer is computed from those directions of the layer that have a
        kept edge to it, the others at their mean, and the network runs on from there.

        Args:
            X: (n, d_0) or (n, t, d_0), the inputs.
            y: as in :meth:`ablation_curve`.
            edges: (k_{layer+1}, k_layer), strengths that rank the edges.
            layer: where the edges start, 0 to L - 1.
            n_edges: numbers of edges kept.
            metric: as in :meth:`ablation_curve`.

        Returns:
            One score for each number of edges.

        Raises:
            ValueError: for an unknown metric, a layer or number out of range, edges or y of another
                shape.
        """
        layer = self._layer(layer, last=len(getattr(self, "sections_", [])) - 1)
        _check_sequence("n_edges", n_edges)
        (strengths,) = checked_edges([edges])
        expected = (self.layers_[layer + 1].n_directions, self.layers_[layer].n_directions)
        if tuple(strengths.shape) != expected:
            raise ValueError(
                f"edges must have shape {expected} at layer {layer}, got {tuple(strengths.shape)}"
            )
        z = self._coordinates(self.activations(X, layer), layer)
        score = _scorer(metric, y)
        order = strengths.flatten().argsort(descending=True, stable=True)
        scores = []
        for count in n_edges:
            if integer("n_edges", count, 0) > len(order):
                raise ValueError(f"n_edges must be at most {len(order)}, got {count}")
            kept = torch.zeros(len(order), dtype=torch.float64)
            kept[order[:count]] = 1
            h = self._restored(self._through_edges(z, kept.reshape(expected), layer), layer + 1)
            scores.append(score(self._tail(h, layer + 1)))
        return np.array(scores)

    def _check_options(self) -> None:
        for name, options in (("basis", BASES), ("scaling", tuple(SCALINGS))):
            if getattr(self, name) not in options:
                raise ValueError(f"{name} must be one of {options}, got {getattr(self, name)!r}")
        for name in ("rtol", "rtol_jacobian"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)!r}")
        integer("batch_size", self.batch_size, 1)
        if self.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"dtype must be torch.float32 or torch.float64, got {self.dtype}")
        if self.n_stochastic_sources is not None:
            integer("n_stochastic_sources", self.n_stochastic_sources, 1)

    def _data(self, X: Any) -> Tensor:
        return as_data("X", X, dtype=self.dtype)

    def _probes(self) -> Probes | None:
        if self.n_stochastic_sources is None:
            return None
        n_sources = self.n_stochastic_sources
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        generator = torch.Generator().manual_seed(seed)
        return lambda output: random_signs(output, n_sources, generator)

    def _output_grams(
        self, sections: Sequence[Section], X: Tensor, probes: Probes | None
    ) -> list[Tensor]:
        """K of every layer but the last, from one backward pass per output coordinate."""
        totals: list[Tensor] = []
        sizes: list[int] = []
        for batch in X.split(self.batch_size):
            with torch.enable_grad():
                nodes = run_chain(sections, batch.detach().requires_grad_())
            sums = gram_sums(nodes[-1], nodes[:-1], probes)
            totals = [a + b for a, b in zip(totals, sums, strict=True)] if totals else sums
            sizes = [len(X) * math.prod(node.shape[1:-1]) for node in nodes[:-1]]
        return [total / size for total, size in zip(totals, sizes, strict=True)]

    def _moments(self, node: Tensor, l: int, centered: bool) -> tuple[Tensor, Tensor]:
        """Mean, or zeros, and Gram of a node layer; an error where it does not vary."""
        f = rows(node)
        mean = f.mean(dim=0) if centered else torch.zeros_like(f[0])
        deviations = f - mean
        if float(deviations.abs().max()) <= _rounding(f, self.dtype):
            state = "constant on" if centered else "zero on"
            raise ValueError(
                f"layer {l} is {state} all of X, so that it has no directions; all its importances "
                "vanish"
            )
        return mean, deviations.T @ deviations / len(f)

    def _principal(self, node: Tensor, l: int, output: bool = False) -> LayerBasis:
        mean, G = self._moments(node, l, self.center)
        variances, U = symmetric_spectrum(G)
        rank = int((variances > self.rtol * variances[0]).sum())
        C, pinv = _signed(U[:, :rank], U[:, :rank].T)
        return LayerBasis(
            mean_=mean,
            components_=C,
            components_pinv_=pinv,
            importance_=variances[:rank],
            activation_gram_=G,
            jacobian_gram_=torch.eye(len(G), dtype=G.dtype, device=G.device) if output else None,
            activation_rank_=rank,
            jacobian_rank_=rank if output else None,
        )

    def _neurons(self, node: Tensor, l: int) -> LayerBasis:
        f = rows(node)
        G = f.T @ f / len(f)
        variances, _ = symmetric_spectrum(G)
        identity = torch.eye(len(G), dtype=G.dtype, device=G.device)
        return LayerBasis(
            mean_=torch.zeros_like(f[0]),
            components_=identity,
            components_pinv_=identity.clone(),
            importance_=G.diagonal().clone(),
            activation_gram_=G,
            jacobian_gram_=None,
            activation_rank_=int((variances > self.rtol * variances[0]).sum()),
            jacobian_rank_=None,
        )

    def _interacting(self, node: Tensor, K: Tensor, l: int) -> tuple[LayerBasis, Tensor]:
        """Basis of a layer that diagonalises G and K, and C in the "importance" scaling."""
        mean, G = self._moments(node, l, self.center)
        variances, U = symmetric_spectrum(G)
        rank = int((variances > self.rtol * variances[0]).sum())
        D, U = variances[:rank], U[:, :rank]
        R, R_pinv = U * D.rsqrt(), D.sqrt()[:, None] * U.T
        importance, V = symmetric_spectrum(R_pinv @ K @ R_pinv.T)
        kept = int((importance > self.rtol_jacobian * importance[0]).sum())
        if kept == 0:
            raise ValueError(
                f"layer {l}: all importances vanish, since the output does not depend on what "
                "varies there (a constant output, or a later section that detaches)"
            )
        importance, V = importance[:kept], V[:, :kept]

        def scaled(p: float) -> tuple[Tensor, Tensor]:
            return _signed(R @ V * importance**p, importance[:, None] ** -p * (V.T @ R_pinv))

        C, pinv = scaled(SCALINGS[self.scaling])
        basis = LayerBasis(
            mean_=mean,
            components_=C,
            components_pinv_=pinv,
            importance_=importance,
            activation_gram_=G,
            jacobian_gram_=(K + K.T) / 2,
            activation_rank_=rank,
            jacobian_rank_=kept,
        )
        return basis, scaled(SCALINGS["importance"])[0]

    def _layer(self, layer: int, last: int | None = None) -> int:
        check_is_fitted(self, "layers_")
        last = len(self.layers_) - 1 if last is None else last
        if (
            isinstance(layer, bool)
            or not isinstance(layer, int | np.integer)
            or not 0 <= layer <= last
        ):
            raise ValueError(f"layer must be an integer from 0 to {last}, got {layer!r}")
        return int(layer)

    def _values(self, name: str, values: Any, width: int, layer: int) -> Tensor:
        device = self.layers_[layer].components_.device
        tensor = as_data(name, values, device=device)
        if tensor.shape[-1] != width:
            raise ValueError(
                f"{name} must have {width} columns at layer {layer}, got shape "
                f"{tuple(tensor.shape)}"
            )
        return tensor

    def _coordinates(self, h: Tensor, l: int) -> Tensor:
        return (h.double() - self.layers_[l].mean_) @ self.layers_[l].components_

    def _restored(self, z: Tensor, l: int) -> Tensor:
        return z.double() @ self.layers_[l].components_pinv_ + self.layers_[l].mean_

    def _tail(self, h: Tensor, layer: int) -> Tensor:
        """Outputs of the network from the activations of a layer on."""
        with torch.no_grad():
            batches = h.to(self.dtype).split(self.batch_size)
            return torch.cat([run_chain(self.sections_, b, layer)[-1] for b in batches])

    def _next(self, z: Tensor, l: int) -> Tensor:
        """Coordinates of layer l + 1 as a function of those of layer l."""
        h = run_section(self.sections_, l, self._restored(z, l).to(self.dtype))
        return self._coordinates(h, l + 1)

    def _edges(
        self, node: Tensor, l: int, alphas: NDArray[np.float64], weights: NDArray[np.float64]
    ) -> Tensor:
        n_next = self.layers_[l + 1].n_directions
        total = self.layers_[l].importance_.new_zeros((n_next, self.layers_[l].n_directions))
        n_rows = 0
        for batch in node.split(max(1, self.batch_size // len(alphas))):
            z = self._coordinates(batch, l)
            path = torch.cat([float(alpha) * z for alpha in alphas]).requires_grad_()
            with torch.enable_grad():
                z_next = self._next(path, l)
            n_rows += len(batch) * math.prod(z_next.shape[1:-1])
            for number, (gradient,) in enumerate(output_gradients(z_next, [path])):
                parts = gradient.split(len(batch))
                mean = sum(float(w) * part for w, part in zip(weights, parts, strict=True))
                contribution = mean * z
                if contribution.ndim == 3:
                    contribution = contribution.sum(dim=1)
                total[number % n_next] += contribution.square().sum(dim=0)
        return total / n_rows

    def _through_edges(self, z: Tensor, kept: Tensor, l: int) -> Tensor:
        """Coordinates of layer l + 1, each from its own kept directions of layer l alone."""
        masks, which = torch.unique(kept, dim=0, return_inverse=True)
        columns: list[Tensor | None] = [None] * len(kept)
        with torch.no_grad():
            for number, mask in enumerate(masks.to(z.device)):
                parts = [self._next(batch * mask, l) for batch in z.split(self.batch_size)]
                z_next = torch.cat(parts)
                for i in (which == number).nonzero().flatten().tolist():
                    columns[i] = z_next[..., i]
        return torch.stack([c for c in columns if c is not None], dim=-1)


def _check_sequence(name: str, values: Any) -> None:
    if not np.iterable(values):
        raise TypeError(f"{name} must be a sequence of integers, got {type(values).__name__}")


def _rounding(f: Tensor, dtype: torch.dtype) -> float:
    """Amplitude of the rounding errors in activations computed in ``dtype``."""
    return _ROUNDING_ERRORS * torch.finfo(dtype).eps * float(f.abs().max())


def _signed(C: Tensor, pinv: Tensor) -> tuple[Tensor, Tensor]:
    """Signs such that the entry of largest magnitude in each column of C is positive."""
    largest = C.gather(0, C.abs().argmax(dim=0, keepdim=True))[0]
    signs = torch.where(largest < 0, -1.0, 1.0).to(C)
    return C * signs, pinv * signs[:, None]


def _scorer(metric: Metric, y: ArrayLike | Tensor) -> Callable[[Tensor], float]:
    """The metric as a function of the outputs alone."""
    target = y if isinstance(y, Tensor) else torch.as_tensor(np.asarray(y))

    def same(name: str, shape: torch.Size) -> None:
        if target.shape != shape:
            raise ValueError(
                f"y must have shape {tuple(shape)} for {name}, got {tuple(target.shape)}"
            )

    def accuracy(outputs: Tensor) -> float:
        same("accuracy", outputs.shape[:-1])
        return float((outputs.argmax(dim=-1) == target.to(outputs.device)).double().mean())

    def squared_error(outputs: Tensor) -> float:
        same("squared_error", outputs.shape)
        return float((outputs - target.to(outputs)).double().square().sum(dim=-1).mean())

    known = {"accuracy": accuracy, "squared_error": squared_error}
    if callable(metric):
        return lambda outputs: float(metric(outputs, target))
    if metric not in known:
        raise ValueError(
            f"metric must be one of {tuple(known)} or a function of (outputs, y), got {metric!r}"
        )
    return known[metric]


def __dir__() -> list[str]:
    return public_names(globals())
