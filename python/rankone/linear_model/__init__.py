"""Regression and classification with scikit-learn's interface."""

from types import ModuleType

from rankone._namespace import public_names, submodule
from rankone._optional import require_installed

require_installed("joblib", "pandas", "scipy", "sklearn", extra="stats")

from rankone.linear_model.dpp_least_squares import (
    DPPLeastSquares,
    WeightedLeastSquares,
    sample_design,
)
from rankone.linear_model.generative_classifiers import LinearGaussianNB
from rankone.linear_model.nonconvex import (
    NonconvexLogisticRegression,
    NonconvexRegression,
    NonconvexRegressionCV,
)
from rankone.linear_model.random_pivot_lasso import (
    RandomPivotLasso,
    RandomPivotLassoCV,
    RandomPivotPreconditioner,
)
from rankone.linear_model.tsallis_mixed import TsallisMixedEffects

_SUBMODULES = (
    "dpp_least_squares",
    "generative_classifiers",
    "nonconvex",
    "proximal_ncg",
    "random_pivot_lasso",
)

__all__ = [
    "DPPLeastSquares",
    "LinearGaussianNB",
    "NonconvexLogisticRegression",
    "NonconvexRegression",
    "NonconvexRegressionCV",
    "RandomPivotLasso",
    "RandomPivotLassoCV",
    "RandomPivotPreconditioner",
    "TsallisMixedEffects",
    "WeightedLeastSquares",
    "sample_design",
]


def __getattr__(name: str) -> ModuleType:
    return submodule(__name__, name, _SUBMODULES)


def __dir__() -> list[str]:
    return public_names(globals())
