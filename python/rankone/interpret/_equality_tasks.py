"""The tasks of equalities between vectors, and the network that the paper takes apart.

Hierarchical equality: four vectors, are both pairs equal or both different? Distributive law: three
pairs with bits a, b, c of equality, is (a and b) or (b and c) true?
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from rankone._repr import short_repr
from rankone.interpret._causal_models import CausalModel, Sampler, check_count
from rankone.interpret._sites import SplitSite
from rankone.ops.checks import check_floating, check_tensor

_HALF_RANGE = 0.5  # vectors are uniform on (-0.5, 0.5)


@dataclass
class Task:
    """A task with the algorithms that solve it.

    Attributes:
        sampler: ``sampler(n, generator)`` gives inputs (n, input_dim).
        causal_models: algorithms by name.
        input_dim: width of an input.
        n_classes: number of labels.
        inputs: all inputs (N, input_dim), where there are finitely many.
    """

    __repr__ = short_repr

    sampler: Sampler
    causal_models: dict[str, CausalModel]
    input_dim: int
    n_classes: int
    inputs: Tensor | None = None


def hierarchical_equality(embed_dim: int = 4, vocab: Tensor | None = None) -> Task:
    """Four vectors: label 1 where both pairs are equal or both are different.

    Each pair is equal with probability 1/2. Algorithms: ``both_equality`` with variables ``left``
    and ``right``; ``left_equality`` with ``left``, while ``right`` is context; with ``vocab`` also
    ``first_argument``, whose variable ``first`` is the index of the first vector, while the index
    of the second and ``right`` are context.

    Args:
        embed_dim: length of a vector, uniform on (-0.5, 0.5); with ``vocab`` its width counts.
        vocab: (V, e), the only vectors that occur; repeated rows count once. The discrete
            vocabulary is an addition to the paper's continuous vectors.

    Returns:
        Task; ``inputs`` holds all V^4 inputs of a vocabulary.

    Raises:
        ValueError: for a vocabulary that is not 2-D, or has fewer than 2 different rows.

    Example:
        >>> import torch
        >>> from rankone.interpret.causal_abstraction import hierarchical_equality
        >>> task = hierarchical_equality(vocab=torch.eye(4))
        >>> task.inputs.shape, sorted(task.causal_models)
        (torch.Size([256, 16]), ['both_equality', 'first_argument', 'left_equality'])
    """
    left, right = partial(_equal, 0, 4), partial(_equal, 1, 4)
    models = {
        "both_equality": CausalModel({"left": left, "right": right}, _same_sides),
        "left_equality": CausalModel({"left": left}, _same_sides, {"right": right}),
    }
    if vocab is None:
        e = check_count("embed_dim", embed_dim)
        return Task(partial(_sample_equalities, e), models, 4 * e, 2)
    words = _different_rows(vocab)
    models["first_argument"] = CausalModel(
        {"first": partial(_word, words, 0)},
        _first_argument,
        {"second": partial(_word, words, 1), "right": right},
    )
    indices = torch.cartesian_prod(*[torch.arange(len(words))] * 4)
    inputs = words[indices].flatten(start_dim=1)
    return Task(partial(_sample_words, words), models, inputs.shape[1], 2, inputs)


def distributive_law(embed_dim: int = 4) -> Task:
    """Three pairs with bits a, b, c of equality: label 1 where (a and b) or (b and c).

    Both labels are equally frequent, and the bits uniform given the label. Algorithms:
    ``and_or_and`` with variables ``a and b`` and ``b and c``; ``and_or`` with ``b`` and ``a or c``.

    Args:
        embed_dim: length of a vector, uniform on (-0.5, 0.5).

    Returns:
        Task.

    Example:
        >>> import torch
        >>> from rankone.interpret.causal_abstraction import distributive_law
        >>> task = distributive_law()
        >>> x = task.sampler(1000, torch.Generator().manual_seed(0))
        >>> x.shape, all(torch.equal(m.run(x), task.causal_models["and_or"].run(x))
        ...              for m in task.causal_models.values())
        (torch.Size([1000, 24]), True)
    """
    e = check_count("embed_dim", embed_dim)
    a, b, c = (partial(_equal, pair, 6) for pair in range(3))
    models = {
        "and_or_and": CausalModel(
            {"a and b": partial(_both, a, b), "b and c": partial(_both, b, c)},
            partial(_or, "a and b", "b and c"),
        ),
        "and_or": CausalModel(
            {"b": b, "a or c": partial(_either, a, c)}, partial(_and, "b", "a or c")
        ),
    }
    return Task(partial(_sample_distributive, e), models, 6 * e, 2)


class EqualityMLP(nn.Module):
    """ReLU layers of one width and a linear classifier; layer i's state follows its ReLU.

    Args:
        d: width of the input and of every layer.
        n_classes: number of labels.
        n_layers: number of ReLU layers.

    Example:
        >>> import torch
        >>> from rankone.interpret.causal_abstraction import EqualityMLP
        >>> network, x = EqualityMLP(16), torch.randn(5, 16)
        >>> torch.equal(network.tail(network.head(x, 2), 2), network(x))
        True
    """

    def __init__(self, d: int = 16, n_classes: int = 2, n_layers: int = 3) -> None:
        super().__init__()
        d = check_count("d", d)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(d, d), nn.ReLU())
            for _ in range(check_count("n_layers", n_layers))
        )
        self.classifier = nn.Linear(d, check_count("n_classes", n_classes))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, n_classes) of inputs (n, d)."""
        return self.tail(x, 0)

    def head(self, x: Tensor, layer: int) -> Tensor:
        """Hidden states (n, d) after layer ``layer``, counted from 1."""
        _check_states("x", x)
        for block in self.layers[: self._checked(layer, 1)]:
            x = block(x)
        return x

    def tail(self, h: Tensor, layer: int) -> Tensor:
        """Logits (n, n_classes) from hidden states after layer ``layer``."""
        _check_states("h" if layer else "x", h)
        for block in self.layers[self._checked(layer, 0) :]:
            h = block(h)
        return self.classifier(h)

    def site(self, layer: int) -> SplitSite:
        """The network split after layer ``layer``, from 1 to n_layers."""
        self._checked(layer, 1)
        return SplitSite(partial(self.head, layer=layer), partial(self.tail, layer=layer))

    def _checked(self, layer: int, least: int) -> int:
        if not least <= layer <= len(self.layers):
            raise ValueError(f"layer must lie within 1 to {len(self.layers)}, got {layer}")
        return layer


def _check_states(name: str, states: Tensor) -> None:
    check_tensor(name, states)
    check_floating(name, states)


def _different_rows(vocab: Tensor) -> Tensor:
    vocab = torch.as_tensor(vocab)
    if vocab.ndim != 2:
        raise ValueError(f"vocab must have shape (V, e), got {tuple(vocab.shape)}")
    first = [i for i in range(len(vocab)) if not (vocab[:i] == vocab[i]).all(dim=1).any()]
    if len(first) < 2:
        raise ValueError(f"vocab must have at least 2 different rows, got {len(first)}")
    return vocab[first]


# Variables and outputs are functions of the module, so that tasks can be pickled.


def _equal(pair: int, n_vectors: int, x: Tensor) -> Tensor:
    vectors = x.unflatten(1, (n_vectors, -1))
    return (vectors[:, 2 * pair] == vectors[:, 2 * pair + 1]).all(dim=1)


def _word(words: Tensor, position: int, x: Tensor) -> Tensor:
    vector = x.unflatten(1, (4, -1))[:, position]
    return torch.cdist(vector, words, compute_mode="donot_use_mm_for_euclid_dist").argmin(dim=1)


def _same_sides(v: dict[str, Tensor]) -> Tensor:
    return v["left"] == v["right"]


def _first_argument(v: dict[str, Tensor]) -> Tensor:
    return (v["first"] == v["second"]) == v["right"].bool()


def _both(p: Callable[[Tensor], Tensor], q: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return p(x) & q(x)


def _either(p: Callable[[Tensor], Tensor], q: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return p(x) | q(x)


def _and(p: str, q: str, v: dict[str, Tensor]) -> Tensor:
    return v[p] & v[q]


def _or(p: str, q: str, v: dict[str, Tensor]) -> Tensor:
    return v[p] | v[q]


def _pairs(e: int, equal: Tensor, generator: torch.Generator) -> Tensor:
    """Inputs (n, 2 P e) of P pairs, equal as ``equal`` (n, P) says."""
    n, P = equal.shape
    vectors = torch.rand(n, P, 2, e, generator=generator) - _HALF_RANGE
    vectors[:, :, 1] = torch.where(equal[:, :, None], vectors[:, :, 0], vectors[:, :, 1])
    return vectors.flatten(start_dim=1)


def _sample_equalities(e: int, n: int, generator: torch.Generator) -> Tensor:
    return _pairs(e, torch.rand(n, 2, generator=generator) < 0.5, generator)


def _sample_words(words: Tensor, n: int, generator: torch.Generator) -> Tensor:
    V = len(words)
    first = torch.randint(V, (n, 2), generator=generator)
    other = (first + torch.randint(1, V, (n, 2), generator=generator)) % V
    equal = torch.rand(n, 2, generator=generator) < 0.5
    second = torch.where(equal, first, other)
    index = torch.stack((first, second), dim=2).flatten(start_dim=1)
    return words[index.to(words.device)].flatten(start_dim=1)


def _sample_distributive(e: int, n: int, generator: torch.Generator) -> Tensor:
    bits = torch.cartesian_prod(*[torch.tensor([False, True])] * 3)
    true = bits[:, 1] & (bits[:, 0] | bits[:, 2])
    label = torch.rand(n, generator=generator) < 0.5
    weight = torch.where(label[:, None], true, ~true).double()
    pattern = torch.multinomial(weight, 1, generator=generator)[:, 0]
    return _pairs(e, bits[pattern], generator)
