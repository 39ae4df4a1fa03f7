"""Causal inference: predicted outcomes, continuous treatments, invariance, representations."""

from types import ModuleType

from rankone._namespace import public_names, submodule
from rankone._optional import require_installed

require_installed("joblib", "pandas", "scipy", "sklearn", extra="stats")

from rankone.causal.approximate_invariance import ApproximateInvariantRegressor
from rankone.causal.continuous_treatment import SemiparametricDoseResponse
from rankone.causal.debiasing import (
    ATEResult,
    LinearCalibrationDebiaser,
    TweedieDebiaser,
    attenuation_diagnostics,
    compare_debiasers,
    debiased_ate,
    prediction_powered_ate,
)
from rankone.causal.intervention_extrapolation import (
    ControlFunctionRegressor,
    LinearInvarianceAutoencoder,
    Rep4Ex,
    affine_r2,
    maximum_moment_restriction,
    moment_permutation_test,
)

_SUBMODULES = (
    "approximate_invariance",
    "continuous_treatment",
    "debiasing",
    "intervention_extrapolation",
)

__all__ = [
    "ATEResult",
    "ApproximateInvariantRegressor",
    "ControlFunctionRegressor",
    "LinearCalibrationDebiaser",
    "LinearInvarianceAutoencoder",
    "Rep4Ex",
    "SemiparametricDoseResponse",
    "TweedieDebiaser",
    "affine_r2",
    "attenuation_diagnostics",
    "compare_debiasers",
    "debiased_ate",
    "maximum_moment_restriction",
    "moment_permutation_test",
    "prediction_powered_ate",
]


def __getattr__(name: str) -> ModuleType:
    return submodule(__name__, name, _SUBMODULES)


def __dir__() -> list[str]:
    return public_names(globals())
