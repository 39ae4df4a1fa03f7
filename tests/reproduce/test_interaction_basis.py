"""The reproduction of the interaction basis at a tiny scale."""

import numpy as np
import pytest
import torch
from joblib import parallel_config
from rankone.interpret.interaction_basis import activation_gram
from rankone.reproduce import Settings
from rankone.reproduce import interaction_basis as module

TINY = {
    "networks": 2,
    "draws": 16,
    "widths": (64, 12, 11, 10),
    "epochs": 3,
    "seeds": 2,
    "ablated": (2, 8),
}


@pytest.fixture(scope="module")
def reproduction():
    return module.run(Settings(overrides=TINY, progress=False))


@pytest.mark.parametrize(
    ("words", "tolerance"),
    [
        ("interaction basis of mixed networks: modularity", "≥ 0.45"),
        ("interaction basis of mixed networks: communities", "exact"),
        ("largest change of modularity by mixing", "≤ 1e-06"),
        ("PCA of mixed networks", "≤ 0.2"),
        ("PCA of unmixed networks", "≥ 0.45"),
        ("neurons of mixed networks", "≤ 0.1"),
        ("that hold 99 % of the interaction", "≤ 60"),
        ("PCA over interaction basis: least ratio", "≥ 2.5"),
        ("neurons over interaction basis: least ratio", "≥ 8"),
        ("squared error of the logits with 8 of", "≤ 0.4"),
        ("over the largest importance of the layer", "≤ 1e-08"),
        ("each importance of the second hidden layer", "≤ 1e-08"),
        ("directions kept of the 11 of the second hidden layer", "≤ 10"),
    ],
)
def test_every_claim_is_there_with_its_tolerance(reproduction, words, tolerance):
    (claim,) = [claim for claim in reproduction.claims if words in claim.statement]
    assert claim.tolerance == tolerance


def test_there_are_no_other_claims(reproduction):
    assert len(reproduction.claims) == 13


def test_exact_claims_hold_at_any_scale(reproduction):
    exact = ("by mixing", "over the largest importance", "directions kept of")
    for words in exact:
        (claim,) = [claim for claim in reproduction.claims if words in claim.statement]
        assert claim.passed, claim


def test_results_do_not_depend_on_jobs(reproduction):
    with parallel_config(backend="threading"):
        again = module.run(Settings(overrides=TINY, progress=False, n_jobs=2))
    assert [c.measured for c in again.claims] == [c.measured for c in reproduction.claims]


def test_tables_and_figures(reproduction):
    modules, digits = reproduction.tables
    assert len(modules.rows) == 6
    assert [row[0] for row in digits.rows] == list(module.NAMES.values())
    graphs, curves = reproduction.figures
    assert (len(graphs.panels), len(curves.panels)) == (3, 2)


def test_full_mode_adds_images_and_addition(tmp_path):
    rng = np.random.default_rng(0)
    images = {"x_train": (40, 4, 4), "x_test": (20, 4, 4)}
    labels = {"y_train": 40, "y_test": 20}
    np.savez(
        tmp_path / "images.npz",
        **{name: rng.integers(0, 255, shape) for name, shape in images.items()},
        **{name: rng.integers(0, 10, size) for name, size in labels.items()},
    )
    overrides = {
        **TINY,
        "networks": 1,
        "seeds": 1,
        "image_widths": (16, 6, 5, 10),
        "image_epochs": 2,
        "addition": module.Addition(modulus=5, width=6, heads=2, hidden=8, steps=5),
    }
    settings = Settings(
        full=True, overrides=overrides, progress=False, data=tmp_path / "images.npz"
    )
    _, _, pictures, addition = module.run(settings).tables
    assert "images.npz" in pictures.title
    assert "modulo 5" in addition.title
    assert all(row[3][0] >= 0 for row in addition.rows)


def test_data_without_labels_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", x_train=np.zeros((2, 4)))
    with pytest.raises(ValueError, match="without x_test, y_train, y_test"):
        module._image_data(Settings(data=tmp_path / "x.npz"))


def test_digits_stand_in_for_images_of_that_size():
    x, _, y, _, source = module._image_data(Settings())
    assert x.shape == (len(y), 784)
    assert "28 x 28" in source


def test_factorial_inputs_have_a_block_diagonal_covariance():
    X = module.factorial_inputs(0, 8)
    G = activation_gram(X, center=True)
    assert G[:4, 4:].abs().max() < 1e-15 * X.numel()
    generator = torch.Generator().manual_seed(0)
    drawn = activation_gram(torch.randn(64, 8, generator=generator), center=True)
    assert drawn[:4, 4:].abs().max() > 0.1


def test_mixing_leaves_the_network_as_it_is():
    X = module.factorial_inputs(3, 4)
    outputs = []
    for mixed in (True, False):
        h = X
        for section in module.modular_sections(3, mixed):
            h = section(h)
        outputs.append(h)
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=1e-9)


def test_edges_with_a_share_of_the_mass_are_the_fewest():
    edges = torch.tensor([[5.0, 1.0], [3.0, 1.0]])
    assert module.interaction_mass_edges(edges, 0.8) == 2
    assert module.interaction_mass_edges(edges, 0.81) == 3


@pytest.mark.parametrize("needed", [0, 1, 6, 10])
def test_bisection_finds_the_smallest_number(needed):
    assert module.required_edges(lambda count: float(count >= needed), 10, 1.0) == needed


def test_modes_have_the_published_scale():
    assert module.QUICK.widths == (64, 32, 32, 10)
    assert (module.QUICK.epochs, module.QUICK.seeds, module.QUICK.draws) == (120, 3, 32)
    assert (module.FULL.seeds, module.FULL.addition.modulus) == (5, 113)
    assert module.FULL.image_widths[0] == 784
