"""Learns an estimate of the distance to the central state from random walks.

Three targets. "walk" (the diffusion distance of CayleyPy Growth, arXiv 2509.19162): regress the
number of steps of the walk. "bellman": one more than the least estimate over the children, made
anew in every round. "q": an output a generator, of which those that lead back along the walk are
labelled. The training loop is this project's own. Walks start from the central state and go along
inverse generators, so that their steps, taken backwards, are paths to it in the graph itself.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rankone.cayley.algo._linear_hash import LinearHash
from rankone.cayley.algo.random_walks import RandomWalksGenerator
from rankone.cayley.errors import CayleyError, check, check_range
from rankone.cayley.models.checkpoint import graph_hash
from rankone.cayley.models.models import ModelConfig
from rankone.cayley.predictor import Predictor
from rankone.cayley.torch_utils import isin_via_searchsorted
from rankone.cayley.train.losses import Loss, make_loss

if TYPE_CHECKING:
    from rankone.cayley.cayley_graph import CayleyGraph

TARGETS = ("walk", "bellman", "q")


def train_predictor(
    graph: CayleyGraph,
    *,
    model: ModelConfig | nn.Module | str = "mlp",
    hidden: Sequence[int] = (256, 128),
    target: str = "walk",
    walk_mode: str = "bfs",
    width: int = 500,
    length: int | None = None,
    n_repeats: int = 4,
    epochs: int = 5,
    batch_size: int = 512,
    lr: float = 3e-3,
    loss: str | Loss = "mse",
    tau: float = 0.5,
    bellman_rounds: int = 0,
    random_state: int | None = None,
    device: str | torch.device | None = None,
) -> Predictor:
    """Train a distance estimate.

    Args:
        graph: the graph.
        model: "mlp", "resmlp", a configuration, or a module with an output of shape (N,), or
            (N, n_generators) for target "q".
        hidden: hidden sizes of "mlp" and "resmlp".
        target: "walk", "bellman" or "q".
        walk_mode: kind of random walks; see :class:`RandomWalksGenerator`.
        width: walks, or states a layer.
        length: steps a walk; default twice the depth at which a tree with as many branches as the
            graph holds every arrangement of the central state.
        n_repeats: sets of walks.
        epochs: passes over them, in every round.
        batch_size: states a step.
        lr: learning rate of Adam.
        loss: "mse", "pinball" or a :class:`Loss`.
        tau: quantile of "pinball".
        bellman_rounds: rounds of target "bellman" after the first, which regresses the walks; that
            target makes one at least.
        random_state: seed of walks, weights and order; None draws from torch's global generator.
        device: where to train; default the graph's.

    Returns:
        A :class:`Predictor` with ``history_``, a dict an epoch of "round", "epoch", "loss" and
        "seconds". Its ``model.config`` is what :func:`save_checkpoint` needs, unless ``model`` was
        a module.

    Raises:
        CayleyError: for a wrong argument, or a model with the wrong number of outputs.

    Example:
        >>> from rankone.cayley import CayleyGraph, PermutationGroups, train_predictor
        >>> graph = CayleyGraph(PermutationGroups.lrx(5), device="cpu")
        >>> predictor = train_predictor(graph, hidden=(16,), width=20, length=8, random_state=0)
        >>> predictor(graph.central_state).shape
        torch.Size([1])
    """
    if target not in TARGETS:
        raise CayleyError(f"target must be one of {', '.join(TARGETS)}, got {target!r}")
    for name, value in (
        ("width", width),
        ("n_repeats", n_repeats),
        ("epochs", epochs),
        ("batch_size", batch_size),
    ):
        check_range(name, value, 1)
    if length is not None:
        check_range("length", length, 2)
    check_range("bellman_rounds", bellman_rounds, 0)
    check(
        isinstance(lr, float | int) and math.isfinite(lr) and lr > 0,
        f"lr must be positive and finite, got {lr!r}",
    )
    check(
        isinstance(hidden, Sequence) and not isinstance(hidden, str),
        f"hidden must be a sequence of sizes, got {hidden!r}",
    )
    check(
        target != "q" or bellman_rounds == 0,
        f"bellman_rounds must be 0 for target 'q', got {bellman_rounds}",
    )
    criterion = loss if isinstance(loss, Loss) else make_loss(loss, tau)
    rng = torch.Generator()
    if random_state is None:
        rng.manual_seed(int(torch.randint(2**62, ())))
    else:
        check_range("random_state", random_state, 0)
        rng.manual_seed(random_state)
    outputs = graph.definition.n_generators if target == "q" else 1
    network = _network(graph, model, hidden, outputs, rng)
    device = torch.device(graph.device if device is None else device)
    walks = _Walks(graph, walk_mode, width, length or _default_length(graph), n_repeats, rng)
    rounds = 1 + (max(1, bellman_rounds) if target == "bellman" else bellman_rounds)
    trainer = _Trainer(network.to(device), criterion, batch_size, lr, rng, device)
    for index in range(rounds):
        mask = None
        if index:
            labels = walks.bellman(Predictor(graph, network))
        elif target == "q":
            labels, mask = walks.steps_back()
        else:
            labels = walks.steps
        if index == 0:
            labelled = labels if mask is None else labels[mask]
            _set_output_bias(network, float(labelled.mean()))
        trainer.fit(walks.states, labels, mask, epochs, index)
    predictor = Predictor(graph, network)
    predictor.history_ = trainer.history
    return predictor


def _network(
    graph: CayleyGraph,
    model: ModelConfig | nn.Module | str,
    hidden: Sequence[int],
    outputs: int,
    rng: torch.Generator,
) -> nn.Module:
    definition = graph.definition
    if isinstance(model, nn.Module):
        found = int(getattr(model, "n_outputs", 1))
    else:
        if isinstance(model, str):
            if model not in ("mlp", "resmlp"):
                raise CayleyError(
                    f"model must be 'mlp', 'resmlp', a ModelConfig or a module, got {model!r}"
                )
            model = ModelConfig(
                model_type=model.upper(),
                input_size=definition.state_size,
                num_classes_for_one_hot=_classes(graph),
                layers_sizes=[int(size) for size in hidden],
                n_outputs=outputs,
                graph_hash=graph_hash(definition),
            )
        elif not isinstance(model, ModelConfig):
            raise CayleyError(
                "model must be 'mlp', 'resmlp', a ModelConfig or a module, "
                f"got {type(model).__name__}"
            )
        check(
            model.input_size == definition.state_size,
            f"input_size of model must be {definition.state_size}, got {model.input_size}",
        )
        found = model.n_outputs
    check(found == outputs, f"n_outputs of model must be {outputs}, got {found}")
    if isinstance(model, nn.Module):
        return model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=rng)))
        return model.build_model()


def _classes(graph: CayleyGraph) -> int:
    definition = graph.definition
    if definition.is_permutation_group():
        return max(definition.central_state) + 1
    modulo = definition.generators_matrices[0].modulo
    check(modulo > 0, "model must be a module of your own for matrices with modulo 0")
    return modulo


def _default_length(graph: CayleyGraph) -> int:
    definition = graph.definition
    if definition.is_permutation_group():
        state = definition.central_state
        arrangements = math.lgamma(len(state) + 1) - sum(
            math.lgamma(state.count(value) + 1) for value in set(state)
        )
    else:
        arrangements = definition.state_size * math.log(_classes(graph))
    return 2 + math.ceil(2 * arrangements / math.log(max(2, definition.n_generators - 1)))


def _set_output_bias(network: nn.Module, value: float) -> None:
    """Start from the mean, so that the first epochs are not spent on it."""
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if linear and linear[-1].bias is not None:
        nn.init.constant_(linear[-1].bias, value)


class _Walks:
    """Sets of random walks towards nowhere, and the labels that they give."""

    def __init__(
        self,
        graph: CayleyGraph,
        mode: str,
        width: int,
        length: int,
        n_repeats: int,
        rng: torch.Generator,
    ) -> None:
        self.graph = graph
        generator = RandomWalksGenerator(graph.with_inverted_generators)
        # Walks of mode "nbt" remember one step, so that they do not turn back at once.
        walks = [
            generator.generate(
                width=width, length=length, mode=mode, nbt_history_depth=1, random_state=rng
            )
            for _ in range(n_repeats)
        ]
        self.states = torch.cat([x for x, _ in walks])
        self.steps = torch.cat([y for _, y in walks]).float()
        self._parts = [len(y) for _, y in walks]

    def bellman(self, predictor: Predictor) -> Tensor:
        """1 + the least estimate over the children, between 1 and the steps of the walk."""
        graph = self.graph
        central = graph.central_state
        labels = torch.empty_like(self.steps)
        for rows in torch.arange(len(labels)).split(graph.batch_size):
            states = self.states[rows]
            scores = predictor.score_children(states).float()
            children = graph.get_neighbors_decoded(states)
            at_goal = (children.reshape(len(children), -1) == central).all(1)
            scores[at_goal.reshape(-1, len(rows)).T] = 0
            labels[rows] = 1 + scores.min(1).values.to(labels.device)
        labels = torch.minimum(labels.clamp_min(1), self.steps)
        labels[(self.states.reshape(len(labels), -1) == central).all(1)] = 0
        return labels

    def steps_back(self) -> tuple[Tensor, Tensor]:
        """Steps less one, and which generators lead to a state of the same walks one step before.

        Returns:
            (N, n_generators) labels and their mask.
        """
        linear = LinearHash(self.graph)
        masks = []
        for states, steps in zip(
            self.states.split(self._parts), self.steps.split(self._parts), strict=True
        ):
            narrow = linear.narrow(states)
            # A state at a step; the odd factor keeps the hashes of different steps apart.
            tick = (steps.long() * linear.weights[0])[None]
            known = (linear.of_states(narrow) + tick[0]).sort().values
            children = linear.of_children(narrow) + tick - linear.weights[0]
            masks.append(isin_via_searchsorted(children, known).T)
        mask = torch.cat(masks)
        return (self.steps - 1)[:, None].expand(mask.shape).contiguous(), mask


class _Trainer:
    """Adam over shuffled batches."""

    def __init__(
        self,
        network: nn.Module,
        criterion: Loss,
        batch_size: int,
        lr: float,
        rng: torch.Generator,
        device: torch.device,
    ) -> None:
        self.network, self.criterion = network, criterion
        self.batch_size, self.rng, self.device = batch_size, rng, device
        self.optimizer = torch.optim.Adam(network.parameters(), lr=lr)
        self.history: list[dict[str, Any]] = []

    def fit(
        self, states: Tensor, labels: Tensor, mask: Tensor | None, epochs: int, round_index: int
    ) -> None:
        states, labels = states.to(self.device), labels.to(self.device)
        mask = None if mask is None else mask.to(self.device)
        self.network.to(self.device).train()
        for epoch in range(epochs):
            start = time.perf_counter()
            total = 0.0
            order = torch.randperm(len(states), generator=self.rng).to(self.device)
            for rows in order.split(self.batch_size):
                pred = self.network(states[rows])
                check(
                    pred.shape == labels[rows].shape,
                    f"model must return shape {tuple(labels[rows].shape)}, got {tuple(pred.shape)}",
                )
                value = self.criterion(pred, labels[rows], None if mask is None else mask[rows])
                self.optimizer.zero_grad()
                value.backward()
                self.optimizer.step()
                total += float(value.detach()) * len(rows)
            self.history.append(
                {
                    "round": round_index,
                    "epoch": epoch,
                    "loss": total / len(states),
                    "seconds": time.perf_counter() - start,
                }
            )
        self.network.eval()
