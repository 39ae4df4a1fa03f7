"""The trained learner: causality, training, comparison with known algorithms, and probes."""

import pytest
import torch
from rankone.icl import _in_context_transformer as module
from rankone.icl import _learner_profile as profiles
from rankone.icl.linear_models import (
    InContextTransformer,
    algorithm_profile,
    implicit_weights,
    make_linear_tasks,
    prefix_predictions,
    probe_hidden_states,
    spd,
    train_in_context,
)
from sklearn.exceptions import ConvergenceWarning
from torch.testing import assert_close


@pytest.fixture
def tasks():
    return make_linear_tasks(8, 5, 2, random_state=0)


@pytest.fixture
def model():
    return InContextTransformer(2, 6, d_model=16, n_layers=2, random_state=0)


class Reference(InContextTransformer):
    """A learner that predicts as an algorithm, and whose states are given."""

    def __init__(self, predictor, **options):
        super().__init__(2, 6, d_model=4, n_layers=1, random_state=0)
        self.predictor, self.options = predictor, options

    def forward(self, X, y):
        return prefix_predictions(X, y, self.predictor, **self.options)


class Written(InContextTransformer):
    """A learner whose states after its block are a function of the prompt."""

    def __init__(self, states):
        super().__init__(2, 6, d_model=4, n_layers=1, random_state=0)
        self.states = states

    def hidden_states(self, X, y):
        embedding, _ = super().hidden_states(X, y)
        return [embedding, self.states(X, y).expand(-1, 2 * X.shape[1] - 1, -1)]


# The learner.


def test_no_prediction_sees_its_label_or_what_comes_later(model, tasks):
    before = model(tasks.X, tasks.y)
    for j in range(5):
        X, y = tasks.X.clone(), tasks.y.clone()
        X[:, j + 1 :] += 1
        y[:, j:] -= 1
        after = model(X, y)
        assert torch.equal(before[:, : j + 1], after[:, : j + 1])
        if j < 4:
            assert not torch.isclose(before[:, j + 1 :], after[:, j + 1 :]).any()


def test_every_earlier_label_and_input_is_seen(model, tasks):
    X, y = tasks.X.requires_grad_(), tasks.y.requires_grad_()
    gX, gy = torch.autograd.grad(model(X, y)[:, -1].sum(), (X, y))
    assert (gX != 0).all()
    assert (gy[:, :-1] != 0).all()
    assert not gy[:, -1].any()


def test_predict_asks_each_query_in_a_prompt_of_its_own(model, tasks):
    X, y = tasks.X[:, :3], tasks.y[:, :3]
    queries = torch.randn(8, 4, 2, generator=torch.Generator().manual_seed(0))
    together = model.predict(X, y, queries)
    for m in range(4):
        prompt = torch.cat([X, queries[:, m, None]], 1)
        alone = model(prompt, torch.cat([y, y[:, :1]], 1))[:, -1]
        assert_close(together[:, m], alone.detach())


def test_predict_takes_no_query(model, tasks):
    assert model.predict(tasks.X, tasks.y, tasks.X[:, :0]).shape == (8, 0)


def test_predict_works_in_batches_and_without_examples(model, tasks, monkeypatch):
    queries = tasks.X[:, :3]
    whole = model.predict(tasks.X, tasks.y, queries)
    monkeypatch.setattr(module, "_PROMPT_BATCH", 7)
    assert_close(model.predict(tasks.X, tasks.y, queries), whole)
    assert_close(
        model.predict(tasks.X[:, :0], tasks.y[:, :0], tasks.X[:, :1])[:, 0],
        model(tasks.X, tasks.y)[:, 0].detach(),
    )


def test_implicit_weights_are_those_of_the_learner(tasks):
    learner = Reference("gd", step_size=0.2)
    W, r2 = implicit_weights(learner, tasks.X, tasks.y, random_state=0)
    assert_close(W, 0.2 * (tasks.y[:, None] @ tasks.X)[:, 0])
    assert (r2 > 0.999).all()


def test_hidden_states_lead_to_the_prediction(model, tasks):
    states = model.hidden_states(tasks.X, tasks.y)
    assert [tuple(h.shape) for h in states] == [(8, 9, 16)] * 3
    read = model.read_out(model.norm(states[-1][:, 0::2]))[..., 0]
    assert torch.equal(read, model(tasks.X, tasks.y))


def test_the_start_repeats_and_leaves_the_global_stream_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    a, b = (InContextTransformer(2, 4, d_model=8, random_state=1) for _ in range(2))
    assert torch.equal(torch.rand(2), expected)
    for name, parameter in a.state_dict().items():
        assert torch.equal(parameter, b.state_dict()[name])
    c = InContextTransformer(2, 4, d_model=8, random_state=2)
    assert not torch.equal(a.embed.weight, c.embed.weight)


def test_the_start_is_that_of_torch():
    model = InContextTransformer(3, 4, d_model=64, n_layers=1, random_state=0)
    torch.manual_seed(0)
    for ours in (model.embed, model.blocks[0].qkv, model.blocks[0].narrow):
        theirs = torch.nn.Linear(ours.in_features, ours.out_features)
        assert_close(ours.weight.std(), theirs.weight.std(), rtol=0.1, atol=0)
        assert_close(ours.weight.abs().max(), theirs.weight.abs().max(), rtol=0.05, atol=0)
        assert_close(ours.bias.abs().max(), theirs.bias.abs().max(), rtol=0.15, atol=0)


def test_float64_models_take_float64(tasks):
    model = InContextTransformer(2, 6, d_model=8, random_state=0).double()
    assert model(tasks.X.double(), tasks.y.double()).dtype == torch.float64


# Training.


def test_training_learns_and_says_that_it_is_not_done():
    model = InContextTransformer(1, 3, d_model=16, n_layers=2, random_state=0)
    with pytest.warns(ConvergenceWarning, match="Bayes error"):
        history = train_in_context(
            model, n_examples=3, steps=200, batch_size=32, lr=1e-2, random_state=0
        )
    assert history.loss[-1] < 0.9 * history.loss[0]
    assert history.step[-1] == 200
    assert len(history.step) == len(history.loss)
    # One label of variance 1 that nothing is known of; the others are certain.
    assert history.bayes_loss == pytest.approx(1 / 3, rel=0.1)
    assert history.ratio == pytest.approx(history.loss[-1] / history.bayes_loss)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_training_repeats_with_its_random_state():
    def trained(seed):
        model = InContextTransformer(1, 3, d_model=8, n_layers=1, random_state=0)
        train_in_context(model, n_examples=3, steps=3, batch_size=4, random_state=seed)
        return model.embed.weight.detach()

    assert torch.equal(trained(0), trained(0))
    assert not torch.equal(trained(0), trained(1))


def test_a_learner_at_the_bayes_error_gives_no_warning(recwarn):
    module._history(torch.ones(10).double().numpy(), 0.9)
    assert not recwarn.list
    with pytest.warns(ConvergenceWarning):
        module._history(torch.ones(10).double().numpy(), 0.7)
    with pytest.warns(ConvergenceWarning):
        module._history(torch.full((10,), torch.nan).double().numpy(), 0.7)


@pytest.mark.parametrize("steps", [1, 7, 100])
def test_the_rate_rises_to_one_and_falls(steps):
    rates = [module.one_cycle(step, steps, 0.1) for step in range(steps)]
    peak = max(range(steps), key=rates.__getitem__)
    assert rates[peak] <= 1
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    if steps == 100:
        assert (peak, rates[0], rates[peak]) == (10, pytest.approx(0.04), 1.0)
        assert rates[-1] < 1e-3


def test_the_history_draws():
    import matplotlib as mpl

    mpl.use("Agg")
    history = module._history(torch.ones(10).double().numpy(), 0.9)
    assert len(history.plot().lines) == 2


# Comparison.


@pytest.mark.parametrize(
    ("predictor", "options", "name"),
    [
        ("ols", {}, "ols"),
        ("gd", {}, "gd"),
        ("knn", {}, "knn"),
        ("zero", {}, "zero"),
        ("sgd", {"step_size": 1 / 4}, "sgd"),
        ("ridge", {"alpha": 0.25}, "ridge(0.25)"),
    ],
)
def test_the_profile_of_an_algorithm_is_at_distance_zero_from_it(predictor, options, name):
    profile = algorithm_profile(
        Reference(predictor, **options), n_examples=6, n_tasks=200, random_state=0
    )
    assert profile.spd[name].max() < 1e-12
    others = {"gd", "knn", "zero", "ridge(1)"} - {name}
    assert all(profile.spd[other][1:].max() > 1e-3 for other in others)


@pytest.mark.parametrize("alpha", [0.25, 1.0])
def test_the_best_alpha_is_that_of_the_learner(alpha):
    profile = algorithm_profile(
        Reference("ridge", alpha=alpha), n_examples=6, noise_std=0.5, n_tasks=200, random_state=0
    )
    assert profile.alphas == (0.0, 0.015625, 0.0625, 0.25, 1.0, 4.0)
    assert profile.best_alpha == alpha


@pytest.mark.parametrize("noise_std", [0.0, 0.5])
def test_least_squares_is_found_with_and_without_noise(noise_std):
    profile = algorithm_profile(
        Reference("ols"), n_examples=6, noise_std=noise_std, n_tasks=200, random_state=0
    )
    assert profile.best_alpha == 0


def test_wild_positions_of_least_squares_do_not_decide():
    far, near = torch.tensor([0.0, 9, 9, 9, 0.1, 0.1]), torch.tensor([0.0, 1, 1, 1, 1, 1])
    distances = {"ols": far, "ridge(0)": far, "ridge(1)": near}
    assert profiles._best_alpha(distances, (0.0, 1.0), 2, True) == 0
    assert profiles._best_alpha(distances, (0.0, 1.0), 2, False) == 1
    assert profiles._best_alpha(distances, (0.0, 1.0), 4, True) == 1


def test_close_penalties_keep_their_names():
    alphas = (0.0351562, 0.03515625)
    profile = algorithm_profile(
        Reference("ridge", alpha=alphas[1]), n_examples=4, alphas=alphas, n_tasks=9, random_state=0
    )
    assert profile.best_alpha == alphas[1]
    assert {"ridge(0.0351562)", "ridge(0.03515625)"} <= set(profile.spd)


def test_the_bayes_error_is_below_every_other():
    learner = Reference("ridge", alpha=0.25)
    profile = algorithm_profile(learner, n_examples=6, noise_std=0.5, n_tasks=4000, random_state=0)
    assert_close(profile.mse, profile.bayes_mse, rtol=1e-5, atol=0)
    assert profile.spd["bayes"].max() < 1e-12
    assert profile.bayes_mse[0] == pytest.approx(2 + 0.25, rel=0.08)
    other = algorithm_profile(
        Reference("gd"), n_examples=6, noise_std=0.5, n_tasks=4000, random_state=0
    )
    assert (other.mse[1:] > other.bayes_mse[1:]).all()


def test_the_profile_measures_by_spd(model):
    profile = algorithm_profile(model, n_examples=4, n_tasks=50, random_state=3, alphas=(0.5,))
    tasks = make_linear_tasks(50, 4, 2, random_state=3)
    ridge = prefix_predictions(tasks.X, tasks.y, "ridge", alpha=0.5)
    assert_close(profile.spd["ridge(0.5)"], spd(model(tasks.X, tasks.y).detach(), ridge, 2))
    assert_close(
        profile.mse, (model(tasks.X, tasks.y) - tasks.y).detach().double().square().mean(0)
    )


# Probes.


def moment_states(X, y):
    """States that hold X^T y of all but the last example."""
    moment = (y[:, None, :-1] @ X[:, :-1])[:, 0]
    return torch.cat([moment, moment.square()], 1)[:, None]


def test_a_state_that_holds_the_moment_is_read_linearly():
    r2 = probe_hidden_states(
        Written(moment_states),
        target="moment",
        kind="linear",
        n_examples=4,
        n_tasks=800,
        random_state=0,
    )
    assert r2.shape == (2,)
    assert r2[1] > 0.99
    assert abs(r2[0]) < 0.2


def test_what_is_not_linear_in_the_state_needs_the_mlp():
    def states(X, y):
        moment = moment_states(X, y)[..., :2]
        return torch.cat([moment.sign() * moment.abs().sqrt(), 0 * moment], -1)

    options = {"target": "moment", "n_examples": 4, "n_tasks": 800, "random_state": 0}
    linear = probe_hidden_states(Written(states), kind="linear", **options)
    mlp = probe_hidden_states(Written(states), kind="mlp", **options)
    assert mlp[1] > linear[1] + 0.05


def test_the_weights_of_other_tasks_cannot_be_read(model):
    r2 = probe_hidden_states(
        Written(moment_states),
        target="control",
        kind="linear",
        n_examples=4,
        noise_std=0.5,
        n_tasks=2000,
        random_state=0,
    )
    assert (r2 < 0.05).all()


def test_the_target_is_the_posterior_mean():
    tasks = make_linear_tasks(20, 5, 2, noise_std=0.5, random_state=0, dtype=torch.float64)
    weights = profiles._probe_targets(tasks.X, tasks.y, "weights", 0.5, torch.Generator())
    X, y = tasks.X[:, :4], tasks.y[:, :4]
    gram = X.mT @ X + 0.25 * torch.eye(2, dtype=torch.float64)
    assert_close(weights, torch.linalg.solve(gram, X.mT @ y[..., None])[..., 0])
    exact = profiles._probe_targets(
        tasks.X, (tasks.X @ tasks.w[..., None])[..., 0], "weights", 0.0, torch.Generator()
    )
    assert_close(exact, tasks.w)


def test_probes_repeat_with_their_random_state(model):
    options = {"kind": "linear", "n_examples": 3, "n_tasks": 40, "random_state": 0}
    assert torch.equal(probe_hidden_states(model, **options), probe_hidden_states(model, **options))


# Bad input.

MODEL = InContextTransformer(2, 4, d_model=8, n_layers=1, random_state=0)
X, Y = torch.zeros(3, 4, 2), torch.zeros(3, 4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: InContextTransformer(0, 4), ValueError, "n_features must be"),
        (lambda: InContextTransformer(2, 0), ValueError, "max_examples must be"),
        (lambda: InContextTransformer(2, 4, n_layers=0), ValueError, "n_layers must be"),
        (lambda: InContextTransformer(2, 4, mlp_ratio=0), ValueError, "mlp_ratio must be"),
        (
            lambda: InContextTransformer(2, 4, d_model=10),
            ValueError,
            "d_model must be a multiple of n_heads=4",
        ),
        (lambda: InContextTransformer(2, 4, random_state="a"), ValueError, "random_state must be"),
        (lambda: MODEL(torch.zeros(3, 5, 2), torch.zeros(3, 5)), ValueError, "max_examples=4"),
        (lambda: MODEL(X[:, :0], Y[:, :0]), ValueError, "prompts of 1 to"),
        (lambda: MODEL(X[..., :1], Y), ValueError, "X must have 2 features, got 1"),
        (lambda: MODEL(X, Y[:, 1:]), ValueError, "y must have shape"),
        (lambda: MODEL(X.double(), Y), TypeError, "X must be torch.float32"),
        (lambda: MODEL(X, Y.double()), TypeError, "y must be torch.float32"),
        (lambda: MODEL.predict(X, Y, X), ValueError, "max_examples=4"),
        (lambda: MODEL.predict(X[:, :2], Y[:, :2], X[:, 0]), ValueError, "X_query must have"),
        (lambda: MODEL.predict(X[:, :2], Y[:, :2], X.double()), TypeError, "X_query must be"),
        (lambda: train_in_context(None, n_examples=4), TypeError, "model must be an InContext"),
        (lambda: train_in_context(MODEL, n_examples=5), ValueError, "n_examples must be at most"),
        (lambda: train_in_context(MODEL, n_examples=4, steps=0), ValueError, "steps must be"),
        (lambda: train_in_context(MODEL, n_examples=4, lr=0.0), ValueError, "lr must be"),
        (lambda: train_in_context(MODEL, n_examples=4, warmup=1.0), ValueError, "warmup must be"),
        (lambda: train_in_context(MODEL, n_examples=4, clip=0.0), ValueError, "clip must be"),
        (
            lambda: train_in_context(MODEL, n_examples=4, noise_std=-1.0),
            ValueError,
            "noise_std must be",
        ),
        (
            lambda: train_in_context(MODEL, n_examples=4, batch_size=0),
            ValueError,
            "batch_size must be",
        ),
        (lambda: algorithm_profile(MODEL, n_examples=5), ValueError, "n_examples must be at most"),
        (lambda: algorithm_profile(MODEL, n_examples=1), ValueError, "n_examples must be"),
        (lambda: algorithm_profile(MODEL, n_examples=4, alphas=()), ValueError, "alphas must hold"),
        (lambda: algorithm_profile(MODEL, n_examples=4, alphas=(-1,)), ValueError, "alphas must"),
        (lambda: algorithm_profile(MODEL, n_examples=4, alphas=1.0), TypeError, "alphas must be a"),
        (lambda: algorithm_profile(MODEL, n_examples=4, n_tasks=0), ValueError, "n_tasks must be"),
        (
            lambda: probe_hidden_states(MODEL, n_examples=4, target="gram"),
            ValueError,
            "target must be one of",
        ),
        (
            lambda: probe_hidden_states(MODEL, n_examples=4, kind="cubic"),
            ValueError,
            "kind must be one of",
        ),
        (lambda: probe_hidden_states(MODEL, n_examples=1), ValueError, "n_examples must be"),
        (lambda: probe_hidden_states(MODEL, n_examples=4, n_tasks=2), ValueError, "n_tasks must"),
    ],
)
def test_bad_input_names_the_argument(call, error, message):
    with pytest.raises(error, match=message):
        call()
