"""The reproduction of cumulants of Coulomb gases."""

import math

import numpy as np
import pytest
from rankone.reproduce import Settings
from rankone.reproduce import coulomb_gas as module

TINY = {
    "particles": (10, 40),
    "coarse": 10,
    "fine": 40,
    "chains": (module.Chains(3, 2.0, 4, 60, 24, 8), module.Chains(2, 1.0, 4, 60, 24, 8)),
    "ginibre_particles": 5,
    "ginibre_samples": 50,
    "rate_particles": 8,
    "rate_samples": 2000,
}


@pytest.fixture(scope="module")
def reproduction():
    return module.run(Settings(progress=False, overrides=TINY))


@pytest.mark.parametrize(
    ("words", "count", "tolerance"),
    [
        ("q = 2..5, N = 40", 4, "≤ 0.06"),
        ("error at N = 10 over that at 40", 4, "≥ 3"),
        ("d = 1..5, q = 2..6", 1, "≤ 1e-08"),
        ("kappa_2 against leading order", 1, "± 15 %"),
        ("h flat to fifth order", 1, "≤ 1e-08"),
        ("the same: difference", 1, "≥ 0.001"),
        ("slope 0 at the edge", 1, "≤ 1e-08"),
        ("where the expansion fails", 4, "± 1 %"),
        ("the validity check flags", 1, "exact"),
        ("against the rate", 1, "≤ 0.01"),
    ],
)
def test_every_claim_is_there_with_its_tolerance(reproduction, words, count, tolerance):
    claims = [claim for claim in reproduction.claims if words in claim.statement]
    assert [claim.tolerance for claim in claims] == [tolerance] * count


def test_chains_are_held_to_four_standard_errors():
    found = module.Simulated(
        np.array([1.0, 1.1, 0.3]), np.full(3, 0.01), np.ones(3), np.array([1.0, 1.15, 0.3]), 0.4
    )
    space = module.Simulated(np.ones(3), np.full(3, 0.01), np.array([1, 0.8, 1.18]), None, 0.4)
    claims = module._chain_claims(module.Scale(), [space, found])
    assert [claim.tolerance for claim in claims] == ["± 0.04", "± 0.04", "± 15 %", "± 0.04 ± 15 %"]
    assert [claim.passed for claim in claims] == [False, True, False, True]


def test_there_are_no_other_claims(reproduction):
    assert len(reproduction.claims) == 22


def test_claims_without_samples_hold_at_any_scale(reproduction):
    for words in ("d = 1..5", "h flat", "slope 0", "fails", "flags"):
        assert all(claim.passed for claim in reproduction.claims if words in claim.statement)


def test_edgeworth_density_has_the_cumulants():
    x = np.linspace(-9, 9, 20_001)
    density = module._edgeworth(x, np.array([0.0, 4.0, 0.8, 0.8]))
    step = x[1] - x[0]
    moments = [float((density * x**k).sum() * step) for k in range(4)]
    np.testing.assert_allclose(moments, [1, 0, 1, 0.8 / 8], atol=1e-9)


def test_tables_and_figure(reproduction):
    ratios, chains = reproduction.tables
    assert len(ratios.rows) == 4 * 2
    assert [row[7] for row in chains.rows][:2] == [None, None]
    (figure,) = reproduction.figures
    assert len(figure.panels) == 3


def test_modes_have_the_published_scale():
    quick, full = module.QUICK, module.FULL
    assert (quick.coarse, quick.fine) == (100, 800)
    assert quick.chains[0] == module.Chains(3, 2.0, 16, 1000, 260, 60)
    assert max(full.particles) == 5000
    asked = {(c.dim, c.beta, c.n_particles) for c in full.chains}
    assert len(asked) == len(full.chains) == 3 * 4 * 4
    assert math.isclose(max(c.beta for c in full.chains), 4)
