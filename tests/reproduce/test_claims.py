"""Claims hold or do not hold by their numbers alone."""

import math

import numpy as np
import pytest
import torch
from rankone.reproduce import Claim, shown

NAN = float("nan")
INFINITY = float("inf")


@pytest.mark.parametrize(
    ("measured", "strict", "passed"),
    [(0.7, False, True), (0.7, True, False), (0.71, True, True), (0.69, False, False)],
)
def test_at_least(measured, strict, passed):
    assert Claim.at_least("ratio", measured, 0.7, strict=strict).passed is passed


@pytest.mark.parametrize(
    ("measured", "strict", "passed"),
    [(0.5, False, True), (0.5, True, False), (0.49, True, True), (0.51, False, False)],
)
def test_at_most(measured, strict, passed):
    assert Claim.at_most("ratio", measured, 0.5, strict=strict).passed is passed


@pytest.mark.parametrize(
    ("measured", "tolerances", "passed"),
    [
        (101.0, {"absolute": 1.0}, True),
        (101.5, {"absolute": 1.0}, False),
        (99.0, {"relative": 0.01}, True),
        (98.9, {"relative": 0.01}, False),
        (102.0, {"absolute": 1.0, "relative": 0.01}, True),
        (100.0, {}, True),
        (100.0 + 1e-9, {}, False),
        (INFINITY, {"relative": 0.5}, False),
    ],
)
def test_close(measured, tolerances, passed):
    assert Claim.close("value", measured, 100.0, **tolerances).passed is passed


@pytest.mark.parametrize(
    ("measured", "expected", "passed"),
    [
        (5, 5, True),
        (5, 6, False),
        ("abc", "abc", True),
        ([1, 2], (1, 2), True),
        ([1, 2], (1, 3), False),
        ([1, 1], (1,), False),
    ],
)
def test_exact(measured, expected, passed):
    assert Claim.exact("value", measured, expected).passed is passed


@pytest.mark.parametrize(
    ("measured", "passed"),
    [((1, 2, 3), True), ((1, 1, 2), False), ((3, 2), False), ((-INFINITY, 0, 1), True)],
)
def test_increasing(measured, passed):
    assert Claim.increasing("values", measured).passed is passed


@pytest.mark.parametrize(
    "claim",
    [
        Claim.at_least("x", NAN, -INFINITY),
        Claim.at_least("x", NAN, 0.0, strict=True),
        Claim.at_most("x", NAN, INFINITY),
        Claim.at_most("x", 1.0, NAN),
        Claim.close("x", NAN, 1.0, absolute=1e9),
        Claim.close("x", 1.0, NAN, absolute=1e9),
        Claim.close("x", INFINITY, INFINITY, absolute=1.0),
        Claim.exact("x", NAN, NAN),
        Claim.exact("x", (1.0, math.nan), (1.0, math.nan)),
        Claim.increasing("x", (1.0, NAN, 3.0)),
    ],
    ids=lambda claim: f"{claim.tolerance}, {shown(claim.measured)}",
)
def test_nan_never_passes(claim):
    assert claim.passed is False


@pytest.mark.parametrize("tolerance", [-1.0, NAN, INFINITY])
def test_tolerances_are_finite_and_not_negative(tolerance):
    with pytest.raises(ValueError, match="must be finite and at least 0"):
        Claim.close("x", 1.0, 1.0, relative=tolerance)


def test_increasing_needs_two_values():
    with pytest.raises(ValueError, match="at least two entries, got 1"):
        Claim.increasing("x", [1.0])


@pytest.mark.parametrize(
    "value", [np.float32(0.5), torch.tensor(0.5), np.float64(0.5)], ids=["f32", "torch", "f64"]
)
def test_scalars_of_arrays_become_plain_numbers(value):
    claim = Claim.at_most("x", value, 1.0)
    assert type(claim.measured) is float
    assert type(claim.passed) is bool
    exact = Claim.exact("x", [value, value], [0.5, 0.5])
    assert exact.passed
    # JSON knows no other kind of truth value.
    assert type(Claim.close("x", value, np.float64(0.5)).passed) is bool
    assert type(Claim.exact("x", value, np.float64(0.5)).passed) is bool
    assert [type(entry) for entry in exact.measured] == [float, float]


def test_the_tolerance_says_what_was_compared():
    assert Claim.at_least("x", 1.0, 0.7).tolerance == "≥ 0.7"
    assert Claim.at_most("x", 1.0, 0.5, strict=True).tolerance == "< 0.5"
    assert Claim.close("x", 1.0, 1.0, absolute=0.1, relative=0.02).tolerance == "± 0.1 ± 2 %"


def test_a_bound_is_shown_as_expected_unless_something_else_was():
    assert Claim.at_least("x", 1.0, 0.7).expected == "≥ 0.7"
    assert Claim.at_least("x", 1.0, 0.7, expected="about 1").expected == "about 1"
