"""The reproduction of the linear interpreter at a tiny scale."""

import pytest
import torch
from rankone.reproduce import Settings
from rankone.reproduce import linear_interpreter as module
from torch import nn

TINY = {
    "digit_seeds": 2,
    "epochs": 1,
    "checked": 2,
    "sr_seeds": 1,
    "steps": 2,
    "wide": 12,
    "wide_vectors": 3,
}


@pytest.fixture(scope="module")
def reproduction(tmp_path_factory):
    torch.manual_seed(0)
    classifier = nn.Sequential(
        nn.Conv2d(3, 4, 7, stride=8), nn.GELU(), nn.AdaptiveMaxPool2d(3), nn.Flatten(),
        nn.Linear(36, 6),
    )  # fmt: skip
    path = tmp_path_factory.mktemp("data") / "classifier.pt"
    torch.save(classifier, path)
    return module.run(Settings(overrides=TINY, progress=False, data=path))


@pytest.mark.parametrize(
    ("words", "tolerance"),
    [
        ("digits: largest |A(x) - f(x)|", "≤ 0.0001"),
        ("digits: largest |F - Jacobian|", "≤ 0.0001"),
        ("digits: test accuracy", "≥ 0.97"),
        ("digits: accuracy less that of argmax(F x)", "≥ 0.02"),
        ("digits: accuracy of argmax(r)", "≥ 0.2"),
        ("digits: mean residual share", "≥ 0.25"),
        ("no bias and no batch norm", "exact"),
        ("super-resolution: largest |A(x) - f(x)|", "≤ 0.0001"),
        ("super-resolution: least energy", "≥ 0.9"),
        ("super-resolution: spectral participation", "≤ 0.4"),
        ("super-resolution: spatial participation", "≤ 0.3"),
        ("Sequential: largest |A(x) - f(x)|", "≤ 0.0001"),
    ],
)
def test_every_claim_is_there_with_its_tolerance(reproduction, words, tolerance):
    (claim,) = [claim for claim in reproduction.claims if words in claim.statement]
    assert claim.tolerance == tolerance


def test_there_are_no_other_claims(reproduction):
    assert len(reproduction.claims) == 12


@pytest.mark.parametrize("words", ["|A(x) - f(x)|", "|F - Jacobian|", "no bias"])
def test_exactness_holds_at_any_scale(reproduction, words):
    claims = [claim for claim in reproduction.claims if words in claim.statement]
    assert claims
    assert all(claim.passed for claim in claims)


def test_tables_and_figures(reproduction):
    digits, patches, psnr, wide, own = reproduction.tables
    assert len(digits.rows) == 2
    assert [row[1] for row in patches.rows] == ["flower.jpg", "china.jpg"]
    assert psnr.rows[-1][0] == "bicubic"
    assert abs(psnr.rows[-1][1] - 23.1) < 0.1  # known of the two photographs
    assert wide.rows[0][-1] < 1e-6
    assert len(own.rows) == 2
    assert [len(figure.panels) for figure in reproduction.figures] == [4, 4, 4]


def test_a_file_without_a_module_is_refused(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save({"weight": torch.ones(2)}, path)
    with pytest.raises(TypeError, match=r"data must hold a whole torch\.nn\.Module.*got dict"):
        module.run(Settings(overrides=TINY, progress=False, data=path))


def test_modes_have_the_published_scale():
    assert (module.QUICK.digit_seeds, module.QUICK.epochs) == (2, 15)
    assert (module.QUICK.sr_seeds, module.QUICK.steps) == (1, 500)
    assert (module.FULL.digit_seeds, module.FULL.sr_seeds, module.FULL.steps) == (4, 3, 500)
    assert (module.FULL.wide, module.FULL.wide_vectors) == (128, 32)
    assert module.PATCHES == {"flower.jpg": (100, 150), "china.jpg": (120, 150)}
