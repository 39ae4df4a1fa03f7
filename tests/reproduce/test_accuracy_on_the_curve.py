"""The reproduction of accuracy curves at a tiny scale."""

import numpy as np
import pytest
from joblib import parallel_config
from rankone.reproduce import Settings
from rankone.reproduce import accuracy_on_the_curve as module

TINY = {
    "every": 6,
    "n_train": 200,
    "n_test": 400,
    "fractions": (0.5, 0.7, 0.9),
    "n_bootstrap": 20,
}


@pytest.fixture(scope="module")
def reproduction():
    return module.run(Settings(overrides=TINY, progress=False))


@pytest.mark.parametrize(
    ("words", "tolerance"),
    [
        ("curvature at majority fractions 0.5, 0.7, 0.9", "each above the last"),
        ("curvature at 0.9", "≥ 5"),
        ("nonlinearity at 0.5", "≤ 0.06"),
        ("nonlinearity at 0.9", "≥ 0.1"),
        ("p-value of the curvature at 0.9", "≤ 0.001"),
        ("rare subpopulation, 0.9: R2 of the line", "≥ 0.95"),
        ("rare subpopulation, 0.9: size of the curvature", "≤ 1.5"),
        ("rare subpopulation, 0.9: nonlinearity", "≤ 0.02"),
        ("R2 between probits at 0.5 less that at 0.9", "≥ 0.2"),
        ("share of models worse on the minority", "≥ 0.95"),
        ("digits: curvature at 0.9 less that at 0.5", "≥ 1"),
        ("digits: nonlinearity at 0.9 less that at 0.5", "≥ 0.05"),
    ],
)
def test_every_claim_is_there_with_its_tolerance(reproduction, words, tolerance):
    (claim,) = [claim for claim in reproduction.claims if claim.statement.startswith(words)]
    assert claim.tolerance == tolerance


def test_there_are_no_other_claims(reproduction):
    assert len(reproduction.claims) == 12


def test_the_table_has_a_row_each_setting(reproduction):
    (table,) = reproduction.tables
    assert [row[:2] for row in table.rows] == [
        (module.SPURIOUS, 0.5),
        (module.SPURIOUS, 0.7),
        (module.SPURIOUS, 0.9),
        (module.RARE, 0.9),
        (module.DIGITS, 0.5),
        (module.DIGITS, 0.9),
    ]


def test_figures_have_a_panel_each_setting(reproduction):
    spurious, others = reproduction.figures
    assert (len(spurious.panels), len(others.panels)) == (3, 3)


def test_results_do_not_depend_on_jobs(reproduction):
    with parallel_config(backend="threading"):
        again = module.run(Settings(overrides=TINY, progress=False, n_jobs=2))
    assert [c.measured for c in again.claims] == [c.measured for c in reproduction.claims]


def test_settings_that_were_not_run_fail_their_claims():
    assert not any(claim.passed for claim in module._claims({}, module.QUICK))


def test_test_sets_have_half_of_either_group():
    for kind in (module.SPURIOUS, module.RARE, module.DIGITS, module.STRONG_DIGITS):
        train, test = module._data(module.Cell(kind, 0.9, 0), module.QUICK, None)
        assert train.majority.mean() > 0.85
        assert test.majority.mean() == pytest.approx(0.5, abs=0.08)  # 797 digits: 4.5 deviations


def test_the_users_images_are_a_setting_of_their_own(tmp_path):
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    lines = ["file,label,attribute,split"]
    for row in range(80):
        label, attribute = row % 2, (row // 2) % 2
        pixels = rng.integers(0, 128, (20, 20)) + 100 * label * rng.integers(0, 2)
        image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{row}.png")
        lines.append(f"{row}.png,{label},{attribute},{'test' if row >= 40 else 'train'}")
    (tmp_path / "metadata.csv").write_text("\n".join(lines))
    settings = Settings(data=tmp_path, progress=False)
    cell = module._cells(settings, module.QUICK)[-1]
    assert cell.kind == module.IMAGES
    # Leaves and one neighbour; forty images are too few for the zoo's hundred neighbours.
    zoo = [entry for entry in module.default_model_zoo() if entry[0].startswith("Decision")]
    curve = module._curve(cell, zoo, settings, module.Scale(n_bootstrap=0))
    table = module._table({(cell.kind, cell.fraction): [curve]}, module.QUICK)
    assert table.rows[0][:2] == (module.IMAGES, None)
    assert table.rows[0][3] is None


def test_modes_have_the_published_scale():
    quick, full = module.QUICK, module.FULL
    assert (quick.zoo, quick.n_train, quick.n_test, quick.seeds) == ("quick", 2000, 4000, 1)
    assert quick.fractions == (0.5, 0.7, 0.9, 0.95)
    assert quick.digit_fractions == (0.5, 0.9)
    assert (full.zoo, full.n_train, full.n_test, full.seeds) == ("full", 10_000, 20_000, 10)
    assert len(full.fractions) == 10
    assert {0.5, 0.7, 0.9} <= set(full.fractions)
    assert full.n_bootstrap > 0
    assert full.strong_digits
