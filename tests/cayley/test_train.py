"""Losses, and what training learns on graphs whose distances are known."""

import math

import pytest
import torch
from rankone.cayley import (
    CayleyError,
    CayleyGraph,
    Loss,
    MatrixGroups,
    ModelConfig,
    MseLoss,
    PermutationGroups,
    PinballLoss,
    Predictor,
    load_checkpoint,
    make_loss,
    save_checkpoint,
    train_predictor,
)
from rankone.cayley.train.train_predictor import _default_length, _Walks

LRX = CayleyGraph(PermutationGroups.lrx(6), device="cpu", threads=1)
LX = CayleyGraph(PermutationGroups.lx(5), device="cpu", threads=1)
SMALL = {"hidden": (32, 16), "width": 60, "length": 16, "n_repeats": 2, "random_state": 0}
LEARN = {**SMALL, "hidden": (64, 32), "width": 200, "n_repeats": 4, "batch_size": 64}

TWO_OUTPUTS = torch.nn.Sequential(torch.nn.Embedding(6, 2), torch.nn.Flatten())


class TestLosses:
    def test_mse_is_the_mean_of_squares(self):
        pred, target = torch.tensor([1.0, 5.0, 2.0]), torch.tensor([2, 2, 2])
        assert float(MseLoss()(pred, target)) == pytest.approx(10 / 3)

    def test_pinball_is_its_formula(self):
        pred, target = torch.tensor([1.0, 5.0]), torch.tensor([2.0, 2.0])
        expected = (0.9 * 1 + 0.1 * 3) / 2
        assert float(PinballLoss(0.9)(pred, target)) == pytest.approx(expected)
        assert float(PinballLoss()(pred, target)) == pytest.approx((1 + 3) / 4)

    @pytest.mark.parametrize("tau", [0.1, 0.5, 0.8])
    def test_pinball_is_least_at_the_quantile(self, tau):
        target = torch.arange(101.0)
        losses = [
            float(PinballLoss(tau)(torch.full_like(target, guess), target)) for guess in target
        ]
        assert losses.index(min(losses)) == pytest.approx(100 * tau, abs=1)

    @pytest.mark.parametrize("loss", [MseLoss(), PinballLoss(0.7)])
    def test_weights_and_masks_make_a_weighted_mean_of_labelled_entries(self, loss):
        pred, target = torch.rand(3, 4), torch.rand(3, 4)
        mask, weights = torch.rand(3, 4) > 0.4, torch.rand(3, 4)
        each = loss.elementwise(pred, target)
        expected = (each * mask * weights).sum() / (mask * weights).sum()
        torch.testing.assert_close(loss(pred, target, mask, weights), expected)
        # Only whether an entry is labelled counts.
        torch.testing.assert_close(loss(pred, target, 7 * mask, 3 * weights), expected)

    @pytest.mark.parametrize("loss", [MseLoss(), PinballLoss(0.7)])
    def test_targets_without_a_label_do_not_matter(self, loss):
        pred = torch.rand(4, requires_grad=True)
        mask = torch.tensor([True, False, True, False])
        target = torch.tensor([1.0, math.nan, 2.0, math.inf])
        value = loss(pred, target, mask)
        value.backward()
        assert math.isfinite(value.item())
        assert pred.grad[1] == pred.grad[3] == 0
        assert bool((pred.grad[[0, 2]] != 0).all())

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
    def test_nothing_labelled_is_zero(self, dtype):
        pred = torch.ones(3, dtype=dtype, requires_grad=True)
        value = MseLoss()(pred, torch.zeros(3), torch.zeros(3))
        value.backward()
        assert value.item() == 0
        assert bool((pred.grad == 0).all())

    def test_losses_by_name(self):
        assert isinstance(make_loss("mse"), MseLoss)
        assert make_loss("pinball", 0.8).tau == 0.8
        with pytest.raises(CayleyError, match="name must be 'mse' or 'pinball', got 'l1'"):
            make_loss("l1")
        with pytest.raises(TypeError):
            Loss()

    @pytest.mark.parametrize("tau", [0.0, 1.0, -1.0, math.nan])
    def test_tau_must_be_inside(self, tau):
        with pytest.raises(CayleyError, match="tau must be between 0 and 1"):
            PinballLoss(tau)

    @pytest.mark.parametrize("name", ["target", "mask", "weights"])
    def test_other_shapes_are_named(self, name):
        arguments = {"target": torch.zeros(3), name: torch.zeros(3, 1)}
        with pytest.raises(CayleyError, match=rf"{name} must have the shape \(3,\) of pred"):
            MseLoss()(torch.zeros(3), **arguments)


def correlation(predictor, graph):
    """Between estimates and exact distances, over all states."""
    states = graph.bfs(max_layer_size_to_store=None).all_states
    exact = graph.distance_table().distance(states).float()
    return float(torch.corrcoef(torch.stack([predictor(states), exact]))[0, 1])


@pytest.mark.parametrize("walk_mode", ["bfs", "classic", "nbt"])
def test_walks_teach_distances(walk_mode):
    predictor = train_predictor(LRX, walk_mode=walk_mode, **LEARN)
    # Classic and banned walks label states with steps that wander.
    assert correlation(predictor, LRX) > (0.85 if walk_mode == "bfs" else 0.4)
    losses = [epoch["loss"] for epoch in predictor.history_]
    assert len(losses) == 5
    assert losses[-1] < losses[0]


def test_walks_of_directed_graphs_teach_the_distance_to_the_centre():
    """A state one generator away from the centre is at distance 1, its inverse neighbour is not."""
    predictor = train_predictor(LX, **LEARN)
    assert correlation(predictor, LX) > 0.85
    walks = _Walks(LX, "bfs", 10**4, 100, 1, torch.Generator().manual_seed(0))
    assert torch.equal(LX.distance_table().distance(walks.states), walks.steps.long())


@pytest.mark.parametrize("model", ["mlp", "resmlp"])
def test_models_by_name(model):
    predictor = train_predictor(LRX, model=model, **{**SMALL, "hidden": (24, 24)}, epochs=1)
    config = predictor.model.config
    assert config.model_type == model.upper()
    assert (config.input_size, config.num_classes_for_one_hot) == (6, 6)
    assert config.layers_sizes == [24, 24]


def test_a_module_of_ones_own():
    class Linear(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.output = torch.nn.Linear(6, 1)

        def forward(self, states):
            return self.output(states.float())[:, 0]

    module = Linear()
    assert train_predictor(LRX, model=module, **SMALL).model is module
    assert not module.training


def test_matrices_are_learnt_from_their_entries():
    graph = CayleyGraph(MatrixGroups.heisenberg(modulo=5), device="cpu")
    predictor = train_predictor(graph, **LEARN)
    states = graph.bfs(max_layer_size_to_store=None)
    near, far = (predictor(states.layers[i]).mean() for i in (1, 5))
    assert near + 1 < far


def test_the_output_starts_at_the_mean():
    """With steps of no size nothing is learnt, so the estimate is the start of training."""
    predictor = train_predictor(LRX, lr=1e-12, epochs=1, **SMALL)
    _, steps = LRX.random_walks(width=60, length=16, mode="bfs", random_state=1)
    estimates = predictor(LRX.random_walks(width=500, length=1)[0])
    assert float(estimates.mean()) == pytest.approx(float(steps.float().mean()), abs=1.5)


def test_bellman_targets_are_one_more_than_the_best_child():
    walks = _Walks(LRX, "bfs", 40, 12, 1, torch.Generator().manual_seed(0))
    predictor = Predictor(LRX, lambda states: states[:, 0].float())
    targets = walks.bellman(predictor)
    for state, steps, target in zip(walks.states, walks.steps, targets, strict=True):
        scores = []
        for generator in range(3):
            child = LRX.apply_path(state, [generator])[0]
            scores.append(0.0 if torch.equal(child, LRX.central_state) else float(child[0]))
        expected = min(max(1 + min(scores), 1), float(steps))
        assert float(target) == (0 if steps == 0 else expected)


def test_exact_distances_are_a_fixed_point_of_bellman():
    table = LRX.distance_table()
    walks = _Walks(LRX, "bfs", 10**4, 100, 1, torch.Generator().manual_seed(0))
    targets = walks.bellman(Predictor(LRX, table.distance))
    assert torch.equal(targets.long(), table.distance(walks.states))


def test_bellman_rounds_refresh_the_targets():
    predictor = train_predictor(LRX, target="bellman", bellman_rounds=2, epochs=2, **LEARN)
    assert [epoch["round"] for epoch in predictor.history_] == [0, 0, 1, 1, 2, 2]
    assert correlation(predictor, LRX) > 0.8
    one = train_predictor(LRX, target="bellman", epochs=1, **SMALL)
    assert [epoch["round"] for epoch in one.history_] == [0, 1]


@pytest.mark.parametrize("graph", [LRX, LX], ids=["lrx", "lx"])
@pytest.mark.parametrize("mode", ["classic", "bfs", "nbt"])
def test_labelled_generators_lead_one_step_back(graph, mode):
    walks = _Walks(graph, mode, 12, 9, 2, torch.Generator().manual_seed(0))
    targets, mask = walks.steps_back()
    for part in range(2):
        size = walks._parts[part]
        first = sum(walks._parts[:part])
        rows = range(first, first + size)
        known = {(tuple(walks.states[r].tolist()), int(walks.steps[r])) for r in rows}
        for r in rows:
            for generator in range(graph.definition.n_generators):
                child = tuple(graph.apply_path(walks.states[r], [generator])[0].tolist())
                assert bool(mask[r, generator]) == ((child, int(walks.steps[r]) - 1) in known)
    moved = walks.steps > 0
    assert bool(mask[moved].any(1).all())
    assert not bool(mask[~moved].any())
    assert torch.equal(targets, (walks.steps - 1)[:, None].expand_as(targets))


def test_q_models_score_all_children_at_once():
    predictor = train_predictor(LRX, target="q", **LEARN)
    assert predictor.n_outputs == 3
    states = LRX.bfs(max_layer_size_to_store=None).all_states[1:]
    scores = predictor.score_children(states)
    assert scores.shape == (719, 3)
    table = LRX.distance_table()
    exact = table.distance(LRX.get_neighbors_decoded(states)).reshape(3, -1).T
    chosen = exact.gather(1, scores.argmin(1, keepdim=True))[:, 0]
    # The child of the best score is on a shortest path far more often than one child in three.
    assert float((chosen < table.distance(states)).float().mean()) > 0.6


def test_a_seed_repeats_everything():
    def losses(seed):
        options = {**SMALL, "random_state": seed}
        return [e["loss"] for e in train_predictor(LRX, epochs=2, **options).history_]

    assert losses(3) == losses(3)
    assert losses(3) != losses(4)


def test_training_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    train_predictor(LRX, epochs=1, **SMALL)
    assert torch.equal(before, torch.get_rng_state())


def test_a_trained_model_is_saved_and_leads_a_beam(tmp_path):
    predictor = train_predictor(LRX, **SMALL)
    config = save_checkpoint(
        tmp_path / "lrx.pt", predictor.model, predictor.model.config, LRX.definition
    )
    assert config == predictor.model.config
    model, _ = load_checkpoint(tmp_path / "lrx.pt", graph_def=LRX.definition)
    start = [1, 0, 5, 4, 3, 2]
    found = LRX.beam_search(start_state=start, predictor=model, beam_width=100, return_path=True)
    LRX.validate_path(start, found.path)


def test_the_default_length_grows_with_the_graph():
    assert _default_length(LRX) == 2 + math.ceil(2 * math.log(720) / math.log(2))
    cosets = CayleyGraph(PermutationGroups.lrx(6).with_central_state("000111"), device="cpu")
    assert _default_length(cosets) == 2 + math.ceil(2 * math.log(20) / math.log(2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": "td"}, "target must be one of walk, bellman, q, got 'td'"),
        ({"walk_mode": "levy"}, "mode must be one of"),
        ({"model": "cnn"}, "model must be 'mlp', 'resmlp', a ModelConfig or a module, got 'cnn'"),
        ({"model": 3}, "a ModelConfig or a module, got int"),
        ({"model": ModelConfig("MLP", 5, 5, [8])}, "input_size of model must be 6, got 5"),
        ({"model": ModelConfig("MLP", 6, 6, [8]), "target": "q"}, "n_outputs of model must be 3"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"length": 1}, "length must be at least 2, got 1"),
        ({"lr": 0.0}, "lr must be positive and finite, got 0.0"),
        ({"lr": "fast"}, "lr must be positive and finite, got 'fast'"),
        ({"hidden": 5}, "hidden must be a sequence of sizes, got 5"),
        ({"loss": "l1"}, "name must be 'mse' or 'pinball', got 'l1'"),
        ({"loss": "pinball", "tau": 2.0}, "tau must be between 0 and 1, got 2.0"),
        ({"target": "q", "bellman_rounds": 1}, "bellman_rounds must be 0 for target 'q', got 1"),
        ({"model": TWO_OUTPUTS}, "model must return shape"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(CayleyError, match=message):
        train_predictor(LRX, **{**SMALL, **arguments})


def test_matrices_without_a_modulus_need_a_module():
    graph = CayleyGraph(MatrixGroups.heisenberg(), device="cpu")
    with pytest.raises(CayleyError, match="must be a module of your own"):
        train_predictor(graph, **SMALL)
