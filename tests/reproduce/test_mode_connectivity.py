"""The reproduction of linear mode connectivity at a tiny scale."""

import numpy as np
import pytest
import torch
from joblib import parallel_config
from rankone.reproduce import Settings
from rankone.reproduce import mode_connectivity as module

TINY = {
    "widths": (6, 8),
    "align_epochs": 1,
    "smooth": ((6, 2),),
    "smooth_epochs": 1,
    "smooth_pairs": 2,
    "nodes": 4,
    "spawn_widths": (6,),
    "spawn_epochs": 3,
    "spawns": (0, 1, 2),
    "spawn_seeds": 2,
    "n_points": 3,
    "image_channels": (2, 3),
    "image_widths": (6,),
    "image_epochs": 1,
}
PERCEPTRONS = TINY | {"image_pairs": 1}


@pytest.fixture(scope="module")
def reproduction():
    return module.run(Settings(overrides=PERCEPTRONS, progress=False))


@pytest.mark.parametrize(
    ("words", "tolerance"),
    [
        ("width 8: barrier without alignment", "≥ 0.08"),
        ("width 8: barrier after weight matching", "≤ 0.02"),
        ("width 8: barrier after activation matching", "≤ 0.02"),
        ("width 6: barrier after weight matching over", "≤ 0.3"),
        ("same function", "≤ 1e-05"),
        ("width 6: gain of midpoint test accuracy", "≥ 0.02"),
        ("2 tanh layers of 6: integral of curvature, 4 nodes", "± 1 %"),
        ("2 tanh layers of 6: curvature at the midpoint", "< 0"),
        ("2 tanh layers of 6: smaller curvature of the two ends", "≥ 0"),
        ("2 tanh layers of 6: rank correlation", "≥ 0.9"),
        ("2 tanh layers of 6: its mean over 2 pairs", "≥ 0.9"),
        ("children from epoch 2: mean barrier", "≤ 0.001"),
        ("largest rise on the way", "≤ 0.001"),
        ("independent networks: lowest barrier", "≥ 0.3"),
        ("independent networks: highest midpoint accuracy", "≤ 0.9"),
    ],
)
def test_every_claim_is_there_with_its_tolerance(reproduction, words, tolerance):
    (claim,) = [claim for claim in reproduction.claims if words in claim.statement]
    assert claim.tolerance == tolerance


def test_early_children_are_compared_with_late_ones(reproduction):
    claims = [c for c in reproduction.claims if "5 times that from epoch 1" in c.expected]
    assert [c.statement for c in claims] == ["children from epoch 0: mean barrier"]
    assert len(reproduction.claims) == 16


def test_exact_facts_hold_at_any_scale(reproduction):
    for words in ("same function", "integral of curvature"):
        (claim,) = [c for c in reproduction.claims if words in c.statement]
        assert claim.passed


def test_results_do_not_depend_on_jobs(reproduction):
    with parallel_config(backend="threading"):
        again = module.run(Settings(overrides=TINY, progress=False, n_jobs=2))
    measured = [claim.measured for claim in reproduction.claims]
    # The change of a permuted network's loss is over the image networks as well.
    assert [c.measured for c in again.claims][5:] == measured[5:]
    assert [c.measured for c in again.claims][:4] == measured[:4]


def test_tables_and_figure(reproduction):
    aligned, images, smooth, spawned = reproduction.tables
    assert len(aligned.rows) == 2 * 3
    assert "digits enlarged to 28 x 28" in images.title
    assert len(images.rows) == 3
    assert len(smooth.rows) == 2
    assert [row[0] for row in spawned.rows] == ["epoch 0", "epoch 1", "epoch 2", "independent"]
    (figure,) = reproduction.figures
    assert len(figure.panels) == 4


def test_colour_images_of_the_user_go_through_convolutions(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (30, 8, 8, 3), dtype=np.uint8)
    labels = rng.integers(0, 10, (30, 1))
    path = tmp_path / "colours.npz"
    np.savez(path, x_train=images, x_test=images[:9], y_train=labels, y_test=labels[:9])
    data, source = module.image_data(Settings(data=path))
    assert source == "colours.npz"
    assert data[0].shape == (30, 3, 8, 8)
    scale = module.Scale(**(module.QUICK.__dict__ | TINY))
    result = module._image_pair(data, 0, scale, 0)
    # Float32 losses of order 1, summed in another order.
    assert result["change"] < 1e-5
    assert result["paths"]["none"].model_buffer_loss is not None


def test_incomplete_data_are_named(tmp_path):
    np.savez(tmp_path / "half.npz", x_train=np.zeros(3))
    with pytest.raises(ValueError, match="one without x_test, y_train, y_test"):
        module.image_data(Settings(data=tmp_path / "half.npz"))


def test_children_continue_the_optimiser_of_their_parent():
    X, _, y, _ = module.digit_data()
    whole, halves = (module.perceptron((64, 4, 10), 0) for _ in "ab")
    rates = [0.1, 0.05]
    module.train(whole, X, y, rates, 3, 0, 1)
    state = module.train(halves, X, y, rates, 3, 0, 1)
    assert any("momentum_buffer" in entry for entry in state["state"].values())
    cold = module.perceptron((64, 4, 10), 0)
    cold.load_state_dict(halves.state_dict())
    module.train(halves, X, y, rates, 4, 1, None, state)
    module.train(cold, X, y, rates, 4, 1, None)
    assert not torch.allclose(halves[0].weight, cold[0].weight, atol=1e-4)


def test_modes_have_the_published_scale():
    assert (module.QUICK.widths, module.QUICK.align_epochs) == ((64, 256), 60)
    assert module.QUICK.smooth == ((64, 4), (128, 3))
    assert module.QUICK.spawns == (0, 2, 8, 16)
    assert (module.QUICK.spawn_epochs, module.QUICK.spawn_seeds) == (24, 2)
    assert module.FULL.smooth == ((64, 4), (128, 3), (32, 5))
    assert (module.FULL.spawn_seeds, module.FULL.image_pairs) == (3, 5)
    assert module.FULL.image_widths == (512, 512, 512)
