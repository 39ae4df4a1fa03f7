"""Statistics: survival, compositions, adaptive analysis, random matrices, diffusion, cricket."""

from rankone._optional import require_installed

require_installed("joblib", "pandas", "scipy", "sklearn", extra="stats")

from rankone.stats.batting import BatterImpactRegressor
from rankone.stats.compositional import CompositionalPartialCorrelation
from rankone.stats.diebold_mariano import diebold_mariano
from rankone.stats.mutual_info import MutualInfoScreener
from rankone.stats.q_gaussian import MultivariateQGaussian
from rankone.stats.survival import APGW, APGWRegressor

__all__ = [
    "APGW",
    "APGWRegressor",
    "BatterImpactRegressor",
    "CompositionalPartialCorrelation",
    "MultivariateQGaussian",
    "MutualInfoScreener",
    "diebold_mariano",
]
