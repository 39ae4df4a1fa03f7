"""The layer against its formula and the closed forms, and training towards the optimum."""

import copy
import math

import numpy as np
import pytest
import torch
from rankone.icl import linear_self_attention as module
from rankone.icl.linear_self_attention import (
    LinearSelfAttention,
    make_regression_tasks,
    one_step_gd,
    optimal_preconditioner,
    population_loss,
    train_lsa,
)
from sklearn.exceptions import ConvergenceWarning

# float64 sums of a few hundred terms of order 1.
EXACT = {"rtol": 1e-10, "atol": 1e-10}


def rotated(eigenvalues, seed=0):
    """A covariance with these eigenvalues in a random basis."""
    d = len(eigenvalues)
    Q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))
    return torch.as_tensor(Q * eigenvalues @ Q.T)


SIGMA = rotated([2.0, 1.0, 0.4])


def random_layer(form="reduced", d=4, seed=0):
    """Entries of order 1, so that the even part is far from 0."""
    return LinearSelfAttention(
        d, form=form, init="random", init_std=(1.0, 1.0), random_state=seed, dtype=torch.float64
    )


@pytest.fixture
def tasks():
    return make_regression_tasks(
        6, 9, 4, noise_std=0.3, random_state=1, dtype=torch.float64, x_cov=rotated([3, 1, 0.5, 2])
    )


def direct(layer, X, y, X_query):
    """v^T G M z_q by matrix products, task by task."""
    v, M = layer.reduced()
    predictions = []
    for inputs, labels, query in zip(X, y, X_query, strict=True):
        Z = torch.cat([inputs, labels[:, None]], dim=1)
        predictions.append(v @ (Z.T @ Z) @ M @ torch.cat([query, query.new_zeros(1)]))
    return torch.stack(predictions)


# The layer.


@pytest.mark.parametrize("form", ["reduced", "qkv"])
@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_forward_is_the_product_of_its_formula(tasks, form, backend):
    layer = random_layer(form)
    layer.backend = backend
    X_query, _ = tasks.query
    expected = direct(layer, *tasks.context, X_query)
    torch.testing.assert_close(layer(*tasks.context, X_query), expected, **EXACT)
    assert min(layer.even_part()) > 0.1


def test_qkv_form_is_the_reduced_form_of_its_products(tasks):
    qkv, reduced = random_layer("qkv"), random_layer()
    v = qkv.W_V.T @ qkv.readout
    M = qkv.W_K.T @ qkv.W_Q
    with torch.no_grad():
        reduced.v.copy_(v)
        reduced.M.copy_(M)
    X_query, _ = tasks.query
    torch.testing.assert_close(
        qkv(*tasks.context, X_query), reduced(*tasks.context, X_query), **EXACT
    )
    torch.testing.assert_close(qkv.reduced(), (v.detach(), M.detach()), **EXACT)
    assert qkv.even_part() == pytest.approx(reduced.even_part(), rel=1e-12)


def test_odd_part_is_one_step_of_gradient_descent_and_negation_splits_the_parts(tasks):
    layer = random_layer()
    X, y = tasks.context
    X_query, _ = tasks.query
    v, M = layer.reduced()
    A, b = M[:-1, :-1], M[-1, :-1]
    even = torch.einsum("i,bni,bnj,bj->b", v[:-1], X, X @ A, X_query)
    even = even + v[-1] * y.square().sum(1) * (X_query @ b)
    odd = one_step_gd(X, y, X_query, layer.effective_preconditioner())
    torch.testing.assert_close(layer(X, y, X_query), odd + even, **EXACT)
    torch.testing.assert_close(layer(X, -y, X_query), even - odd, **EXACT)


def test_scale_of_v_against_that_of_M_is_free(tasks):
    layer = random_layer()
    before = layer(*tasks.context, tasks.query[0])
    preconditioner = layer.effective_preconditioner()
    with torch.no_grad():
        layer.v *= 8
        layer.M /= 8
    torch.testing.assert_close(layer(*tasks.context, tasks.query[0]), before, **EXACT)
    torch.testing.assert_close(layer.effective_preconditioner(), preconditioner, **EXACT)


def test_order_of_the_context_does_not_matter(tasks):
    layer, order = random_layer(), torch.randperm(9)
    (X, y), (X_query, _) = tasks.context, tasks.query
    torch.testing.assert_close(
        layer(X[:, order], y[:, order], X_query), layer(X, y, X_query), **EXACT
    )


@pytest.mark.parametrize("form", ["reduced", "qkv"])
def test_queries_attend_neither_to_themselves_nor_to_each_other(tasks, form):
    layer = random_layer(form)
    X, y = tasks.context
    queries = torch.randn(6, 5, 4, dtype=torch.float64)
    together = layer(X, y, queries)
    assert together.shape == (6, 5)
    for column in range(5):
        torch.testing.assert_close(together[:, column], layer(X, y, queries[:, column]), **EXACT)
    assert torch.equal(layer(X[:, :0], y[:, :0], queries), torch.zeros_like(together))


def test_context_is_summed_not_averaged(tasks):
    layer = random_layer()
    (X, y), (X_query, _) = tasks.context, tasks.query
    twice = layer(X.repeat(1, 2, 1), y.repeat(1, 2), X_query)
    torch.testing.assert_close(twice, 2 * layer(X, y, X_query), **EXACT)


@pytest.mark.parametrize("form", ["reduced", "qkv"])
def test_prefixes_are_the_queries_after_each_prefix(tasks, form):
    layer = random_layer(form)
    X, y = tasks.X, tasks.y
    prefixes = layer.forward_prefixes(X, y)
    assert prefixes.shape == y.shape
    assert torch.equal(prefixes[:, 0], torch.zeros(6, dtype=torch.float64))
    for t in range(y.shape[1]):
        torch.testing.assert_close(prefixes[:, t], layer(X[:, :t], y[:, :t], X[:, t]), **EXACT)


def test_prefixes_are_one_causal_call_without_the_default_scale(tasks, monkeypatch):
    calls = []

    def spy(*args, **options):
        calls.append((args[0].shape, options["scale"], options["causal"]))
        return op(*args, **options)

    op = module.linear_attention
    monkeypatch.setattr(module, "linear_attention", spy)
    random_layer().forward_prefixes(tasks.X, tasks.y)
    assert calls == [((6, 10, 1, 5), 1.0, True)]


def test_gradients_are_those_of_the_formula_and_the_last_column_gets_none(tasks):
    layer = random_layer()
    (X, y), (X_query, y_query) = tasks.context, tasks.query
    (layer(X, y, X_query) - y_query).square().mean().backward()
    v, M = (tensor.requires_grad_() for tensor in layer.reduced())
    Z = torch.cat([X, y[..., None]], dim=-1)
    z_query = torch.nn.functional.pad(X_query, (0, 1))
    error = torch.einsum("i,bni,bnj,jk,bk->b", v, Z, Z, M, z_query) - y_query
    error.square().mean().backward()
    torch.testing.assert_close(layer.v.grad, v.grad, **EXACT)
    torch.testing.assert_close(layer.M.grad, M.grad, **EXACT)
    assert torch.equal(layer.M.grad[:, -1], torch.zeros(5, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["tensor", "array"])
def test_constructed_layer_is_gradient_descent(tasks, kind):
    P = torch.randn(4, 4, dtype=torch.float64)  # not symmetric: a transposed P would show
    layer = LinearSelfAttention.from_preconditioner(P if kind == "tensor" else P.numpy())
    X_query, _ = tasks.query
    torch.testing.assert_close(
        layer(*tasks.context, X_query), one_step_gd(*tasks.context, X_query, P), **EXACT
    )
    assert torch.equal(layer.effective_preconditioner(), P)
    assert layer.even_part() == (0.0, 0.0)


def test_float32_tasks_in_a_float64_layer_are_computed_in_float64(tasks):
    layer = random_layer()
    X, y, X_query = (tensor.float() for tensor in (*tasks.context, tasks.query[0]))
    predictions = layer(X, y, X_query)
    assert predictions.dtype == torch.float32
    exact = layer(X.double(), y.double(), X_query.double())
    assert torch.equal(predictions, exact.float())
    assert layer.forward_prefixes(X, y).dtype == torch.float32


def test_start_repeats_and_copies():
    first, again, other = (LinearSelfAttention(3, random_state=seed) for seed in (0, 0, 1))
    assert torch.equal(first.v, again.v)
    assert torch.equal(first.M, again.M)
    assert not torch.equal(first.M, other.M)
    twin = copy.deepcopy(first)
    assert torch.equal(twin.reduced()[1], first.reduced()[1])
    assert "form='reduced'" in repr(first)


@pytest.mark.parametrize("form", ["reduced", "qkv"])
def test_aligned_start_points_at_the_label_and_random_does_not(form):
    def start(init):
        layer = LinearSelfAttention(
            200, form=form, init=init, init_std=(0.3, 0.001), random_state=0
        )
        return layer.v if form == "reduced" else layer.readout

    aligned, random = start("aligned").detach(), start("random").detach()
    # 200 draws: their standard deviation is known to 5 %, three times.
    assert float(aligned[-1]) == pytest.approx(0.3, abs=0.005)
    assert float(aligned[:-1].std()) == pytest.approx(0.001, rel=0.15)
    assert float(random.std()) == pytest.approx(0.3, rel=0.15)


# Training.


@pytest.fixture(scope="module")
def trained():
    layer = LinearSelfAttention(3, random_state=0)
    history = train_lsa(layer, 10, steps=900, noise_std=0.3, x_cov=SIGMA, random_state=1)
    return layer, history


def test_training_finds_the_preconditioner_of_theory_without_an_even_part(trained):
    layer, history = trained
    optimum = optimal_preconditioner(10, SIGMA, noise_std=0.3)
    distance = (layer.effective_preconditioner() - optimum).norm() / optimum.norm()
    assert distance < 0.05
    assert history.distance[-1] == pytest.approx(float(distance), rel=1e-5)
    v, M = layer.reduced()
    assert v[:-1].norm() < 0.04 * v[-1].abs()
    assert M[-1, :-1].norm() < 0.04 * M[:-1, :-1].norm()
    assert history.even[-1] < 0.04
    loss = population_loss(layer.effective_preconditioner(), 10, x_cov=SIGMA, noise_std=0.3)
    assert loss < 1.005 * history.optimal_loss


def test_history_starts_far_and_averages_the_loss(trained):
    _, history = trained
    assert history.step[0] == 1
    assert history.step[-1] == 900
    assert len(history.step) == len(history.loss) == len(history.distance) == 50
    assert history.distance[0] > 0.5
    # A mean of the last 18 batches of 512 heavy-tailed squares.
    assert history.loss[-1] == pytest.approx(history.optimal_loss, rel=0.15)
    axes = history.plot()
    assert axes.get_yscale() == "log"
    assert [line.get_label() for line in axes.lines] == [
        "distance of P to P*",
        "even part over P",
    ]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_last_column_never_moves():
    layer = LinearSelfAttention(2, random_state=0)
    before = layer.M[:, -1].detach().clone()
    train_lsa(layer, 5, steps=20, batch_size=32, random_state=0)
    assert torch.equal(layer.M[:, -1], before)


def test_random_start_can_end_in_a_trap_and_says_so():
    layer = LinearSelfAttention(3, init="random", random_state=0)
    with pytest.warns(ConvergenceWarning, match=r"init='aligned'"):
        history = train_lsa(
            layer, 10, steps=500, batch_size=256, noise_std=0.3, x_cov=SIGMA, random_state=1
        )
    assert history.distance[-1] > 0.5
    # The term of rank one carries P, where the optimum has none of it.
    v, M = layer.reduced()
    assert torch.outer(v[:-1], M[-1, :-1]).norm() > 2 * (v[-1] * M[:-1, :-1]).norm()


def test_training_repeats_and_every_step_has_fresh_tasks():
    seen = []

    def target(X, generator):
        seen.append(float(X[0, 0, 0]))
        return X.sum(-1)

    def trained_v():
        layer = LinearSelfAttention(2, random_state=0)
        train_lsa(layer, 3, steps=10, batch_size=8, target=target, random_state=3)
        return layer.v.detach()

    assert torch.equal(trained_v(), trained_v())
    half = len(seen) // 2
    assert seen[:half] == seen[half:]
    assert len(set(seen)) == half


def test_prefix_training_is_towards_the_optimum_of_all_prefixes():
    layer = LinearSelfAttention(2, random_state=0)
    history = train_lsa(
        layer, 6, loss="all_prefixes", steps=500, batch_size=256, noise_std=0.5, random_state=0
    )
    eta = 1 / (13 / 3 + 3 + 0.25)
    assert torch.allclose(history.optimal_preconditioner, eta * torch.eye(2, dtype=torch.float64))
    P = layer.effective_preconditioner()
    assert torch.allclose(P, eta * torch.eye(2), atol=0.1 * eta)
    # The optimum of the last query alone is 1 / 9.25, 18 % below.
    assert P.diagonal().mean() > 0.9 * eta


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("loss", ["query", "all_prefixes"])
@pytest.mark.parametrize("target", ["link", "mlp"])
def test_optimum_of_nonlinear_targets_minimises_the_loss_of_fresh_tasks(loss, target):
    law = {"target": "single_index", "link": torch.tanh} if target == "link" else {"target": "mlp"}
    layer = LinearSelfAttention(3, random_state=0, dtype=torch.float64)
    history = train_lsa(layer, 8, loss=loss, steps=1, batch_size=2, random_state=0, **law)
    P, best = history.optimal_preconditioner, history.optimal_loss
    tasks = make_regression_tasks(40_000, 8, 3, random_state=5, dtype=torch.float64, **law)
    predict = LinearSelfAttention.from_preconditioner(P).forward_prefixes
    predictions, labels = predict(tasks.X, tasks.y).detach()[:, 1:], tasks.y[:, 1:]
    if loss == "query":
        predictions, labels = predictions[:, -1:], labels[:, -1:]
    # The loss is known to 2 % from 40,000 tasks; a step 30 % off costs more than its best share.
    assert float((predictions - labels).square().mean()) == pytest.approx(best, rel=0.03)
    share = float((predictions * labels).mean() / predictions.square().mean())
    assert share == pytest.approx(1, abs=0.05)


def test_even_link_has_the_optimum_zero():
    layer = LinearSelfAttention(2, random_state=0, dtype=torch.float64)
    history = train_lsa(
        layer, 4, steps=60, batch_size=64, target="single_index", link=torch.abs, random_state=0
    )
    assert torch.equal(history.optimal_preconditioner, torch.zeros(2, 2, dtype=torch.float64))
    assert history.optimal_loss == pytest.approx(1)
    assert history.distance[-1] == float(layer.effective_preconditioner().norm())


# Bad input.

X = torch.zeros(2, 3, 4)
Y = torch.zeros(2, 3)
LAYER = LinearSelfAttention(4, random_state=0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: LinearSelfAttention(0), ValueError, "n_features must be an integer of at least 1"),
        (lambda: LinearSelfAttention(256), ValueError, "n_features must be at most 255, got 256"),
        (lambda: LinearSelfAttention(2, form="full"), ValueError, "form must be one of reduced"),
        (lambda: LinearSelfAttention(2, init="zero"), ValueError, "init must be one of aligned"),
        (lambda: LinearSelfAttention(2, backend="x"), ValueError, "backend must be one of auto"),
        (lambda: LinearSelfAttention(2, init_std=0.3), ValueError, "init_std must be a pair"),
        (lambda: LinearSelfAttention(2, init_std=(1, -1)), ValueError, "init_std must be a finite"),
        (lambda: LinearSelfAttention(2, dtype=torch.float16), TypeError, "dtype must be torch"),
        (
            lambda: LinearSelfAttention.from_preconditioner(torch.zeros(2, 3)),
            ValueError,
            r"P must be a square matrix, got shape \(2, 3\)",
        ),
        (
            lambda: LinearSelfAttention.from_preconditioner(torch.ones(2, 2, dtype=torch.int64)),
            TypeError,
            "got torch.int64",
        ),
        (lambda: LAYER(X[0], Y, X[:, 0]), ValueError, r"X must have shape \(B, n, d\)"),
        (lambda: LAYER(X, Y[:, 1:], X[:, 0]), ValueError, r"y must have shape \(2, 3\)"),
        (lambda: LAYER(X, Y, X[:1, 0]), ValueError, r"X_query must have shape \(2, 4\) or"),
        (lambda: LAYER(X, Y, X[:, 0, :3]), ValueError, r"X_query must have shape \(2, 4\) or"),
        (lambda: LAYER(X[..., :3], Y, X[:, 0, :3]), ValueError, "X must have 4 features, got 3"),
        (lambda: LAYER(X, Y.double(), X[:, 0]), TypeError, "y must be torch.float32"),
        (
            lambda: LAYER(X.double(), Y.double(), X[:, 0].double()),
            TypeError,
            "X must be torch.float32 or in the layer's torch.float32, got torch.float64",
        ),
        (lambda: LAYER(X, Y, X[:, 0].tolist()), TypeError, "X_query must be a tensor, got list"),
        (lambda: LAYER.forward_prefixes(X, Y[:1]), ValueError, r"y must have shape \(2, 3\)"),
        (lambda: train_lsa(torch.nn.Linear(2, 1), 3), TypeError, "layer must be a LinearSelf"),
        (lambda: train_lsa(LAYER, 0), ValueError, "n_context must be an integer of at least 1"),
        (lambda: train_lsa(LAYER, 3, loss="last"), ValueError, "loss must be one of query, all_p"),
        (lambda: train_lsa(LAYER, 3, steps=0), ValueError, "steps must be an integer"),
        (lambda: train_lsa(LAYER, 3, batch_size=0.5), ValueError, "batch_size must be an integer"),
        (lambda: train_lsa(LAYER, 3, n_log=0), ValueError, "n_log must be an integer"),
        (lambda: train_lsa(LAYER, 3, lr=0), ValueError, "lr must be a finite number above 0"),
        (lambda: train_lsa(LAYER, 3, clip=math.nan), ValueError, "clip must be a finite number"),
        (lambda: train_lsa(LAYER, 3, target="cubic"), ValueError, "target must be one of linear"),
        (lambda: train_lsa(LAYER, 3, x_cov=SIGMA), ValueError, r"x_cov must have shape \(4, 4\)"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
