"""Regression and classification with scikit-learn's interface."""

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
